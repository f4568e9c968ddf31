"""What Claude would refuse of what we let through: generated requests, translated, against its public rules.

    .venv/bin/python -m benchmarks.providers.claude [SEED [COUNT]]

prints the figures by kind of oddity (how many requests have it, how many are translated into one that the rules take,
how many this route declines, with the fields that it names, so that another route is asked, and how many of our
translations would be refused, which must be none), and then what callers of declined ones are told, how often.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from benchmarks.figures import Figure, progress
from benchmarks.providers.generate import Json, Request, requests
from dub5.chat.request import parse
from dub5.errors import InvalidRequest, Unsupported
from dub5.providers.anthropic_request import request
from testkit.anthropic_rules import refusal

SEED, COUNT = 1, 10_000
MOST_DECLINED = 0.05


@dataclass
class Tally:
    """All requests of one kind; `why` counts the fields that declined ones name."""

    generated: int = 0
    results: Counter[str] = field(default_factory=Counter)
    why: Counter[str] = field(default_factory=Counter)

    def figure(self, kind: str) -> Figure:
        fields = ", ".join(f"{name} ({count})" for name, count in self.why.most_common(3))
        measured = (
            f"{self.generated} requests: {self.results['taken']} taken, {self.results['declined']} declined"
            f"{f' for {fields}' if fields else ''}, {self.results['refused']} refused"
        )
        return Figure(kind, "0 refused", measured, not self.results["refused"])


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
    return map(outcome, requests(seed=seed, count=count))


def outcome(asked: Request) -> Outcome:
    """`taken`, `declined` or `refused`. A request that we would refuse ourselves is a fault of the generator."""
    parsed = parse(msgspec.json.encode(asked.body)).body
    given = {name: parsed[name] for name in parsed if name not in ("model", "stream", "stream_options")}
    streamed = bool(asked.body.get("stream"))
    try:
        body = request(given, model=asked.model, max_tokens=4096, stream=streamed, stable=1)
    except Unsupported as error:
        return Outcome(asked, "declined", error.param or "?", error.message)
    except InvalidRequest as error:  # the caller would be told that no provider can
        return Outcome(asked, "refused", f"InvalidRequest: {error.message}")
    complaint = refusal(body)
    return Outcome(asked, "taken" if complaint is None else "refused", complaint or "", body=body)


def figures(seed: int = SEED, count: int = COUNT) -> tuple[list[Figure], Counter[str]]:
    """The bars, then each kind; and what callers of declined ones are told, how often."""
    total, kinds, reasons = Tally(), dict[str, Tally](), Counter[str]()
    for each in outcomes(seed, count):
        for tally in (total, *(kinds.setdefault(name, Tally()) for name in each.request.kinds)):
            tally.generated += 1
            tally.results[each.result] += 1
            if each.why:
                tally.why[_field(each.why)] += 1
        if each.words:
            reasons[_field(each.words)] += 1
    refused, share = total.results["refused"], total.results["declined"] / total.generated
    of = f"{total.generated} generated requests against Claude's rules: refused"
    bars = [
        Figure(of, "0", str(refused), refused == 0),
        Figure("declined by us", f"<= {MOST_DECLINED:.0%}", f"{share:.1%}", share <= MOST_DECLINED),
    ]
    return [*bars, *(kinds[name].figure(name) for name in sorted(kinds))], reasons


async def measure() -> list[Figure]:
    progress("claude: generated requests")
    return (await asyncio.to_thread(figures))[0]


def _field(why: str) -> str:
    """A path without its indexes."""
    return re.sub(r"\[\d+\]", "", why)


if __name__ == "__main__":
    found, reasons = figures(*map(int, sys.argv[1:]))
    print("| what | bar | measured |\n|---|---|---|", *(each.line() for each in found), sep="\n")
    print("\n| declined because | requests |\n|---|---|")
    for words, times in reasons.most_common():
        print(f"| {words} | {times} |")
    sys.exit(any(each.good is False for each in found))
