"""What Claude would refuse of what we let through: generated requests, translated, against its public rules.

    .venv/bin/python -m benchmarks.providers.claude [SEED [COUNT]]

prints a table by kind of oddity: how many requests have it, how many are translated into one that the rules take, how
many this route declines (with the fields that it names, so that another route is asked), and how many of our
translations would be refused, which must be none.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from benchmarks.figures import Figure
from benchmarks.providers.generate import Json, Request, requests
from dub5.chat.request import parse
from dub5.errors import InvalidRequest, Unsupported
from dub5.providers.anthropic_request import request
from testkit.anthropic_rules import refusal

SEED, COUNT = 1, 10_000
MOST_DECLINED = 0.05


@dataclass
class Row:
    """All requests of one kind; `why` counts the fields that declined ones name."""

    what: str
    generated: int = 0
    declined: int = 0
    refused: int = 0
    why: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        why = ", ".join(f"{name} ({count})" for name, count in self.why.most_common(3))
        taken = self.generated - self.declined - self.refused
        return f"| {self.what} | {self.generated} | {taken} | {self.declined} | {self.refused} | {why} |"


@dataclass
class Outcome:
    """`why` is the field of a request that was declined, or what the rules say to a body that is refused; `words` are
    what the caller of a declined one is told where no other route can.
    """

    request: Request
    result: str
    why: str = ""
    words: str = ""
    body: Json | None = None


def outcomes(seed: int = SEED, count: int = COUNT) -> Iterator[Outcome]:
    for each in requests(seed=seed, count=count):
        yield outcome(each)


def outcome(asked: Request) -> Outcome:
    """`taken`, `declined` or `refused`. A request that we would refuse ourselves is a fault of the generator."""
    raw = msgspec.json.encode(asked.body)
    given = {
        name: value
        for name, value in parse(raw).body.items()
        if name not in ("model", "stream", "stream_options")
    }
    try:
        body = request(
            given, model=asked.model, max_tokens=4096, stream=bool(asked.body.get("stream")), stable=1
        )
    except Unsupported as error:
        return Outcome(asked, "declined", error.param or "?", error.message)
    except InvalidRequest as error:  # the caller would be told that no provider can
        return Outcome(asked, "refused", f"InvalidRequest: {error.message}")
    complaint = refusal(body)
    return Outcome(asked, "taken" if complaint is None else "refused", complaint or "", body=body)


def tally(seed: int = SEED, count: int = COUNT) -> tuple[list[Row], Counter[str]]:
    """A row for all requests, then one for each kind; and what callers of declined ones are told, how often."""
    total = Row("**all**")
    kinds: dict[str, Row] = {}
    reasons: Counter[str] = Counter()
    for each in outcomes(seed, count):
        for row in (total, *(kinds.setdefault(name, Row(name)) for name in each.request.kinds)):
            row.generated += 1
            row.declined += each.result == "declined"
            row.refused += each.result == "refused"
            if each.why:
                row.why[_field(each.why)] += 1
        if each.words:
            reasons[_field(each.words)] += 1
    return [total, *(kinds[name] for name in sorted(kinds))], reasons


def rows(seed: int = SEED, count: int = COUNT) -> list[Row]:
    """The table by kind, all of them first."""
    return tally(seed, count)[0]


def figures(seed: int = SEED, count: int = COUNT) -> list[Figure]:
    """The two bars, for a report."""
    total = rows(seed, count)[0]
    share = total.declined / total.generated
    return [
        Figure(
            f"{total.generated} generated requests against Claude's rules: refused",
            "0",
            str(total.refused),
            total.refused == 0,
        ),
        Figure("declined by us", f"<= {MOST_DECLINED:.0%}", f"{share:.1%}", share <= MOST_DECLINED),
    ]


def _field(why: str) -> str:
    """A path without its indexes."""
    return re.sub(r"\[\d+\]", "", why)


def main(arguments: list[str]) -> int:
    seed, count = (*map(int, arguments), *(SEED, COUNT)[len(arguments) :])
    table, reasons = tally(seed, count)
    print("| kind | requests | taken | declined | refused | fields |")
    print("|---|---|---|---|---|---|")
    for row in table:
        print(row.line())
    print("\n| declined because | requests |\n|---|---|")
    for words, times in reasons.most_common():
        print(f"| {words} | {times} |")
    total = table[0]
    print(
        f"\ndeclined: {total.declined / total.generated:.1%} of {total.generated}, refused: {total.refused}"
    )
    return 1 if total.refused or total.declined > MOST_DECLINED * total.generated else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
