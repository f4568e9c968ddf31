"""An explanation as text for people: what is in force, what is known, the candidates, and what would change it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from dub5_operator.explain.reading import Explained
from dub5_operator.handlers.policy import percent
from dub5_operator.planner.decision import WATCHED, Outcome
from dub5_operator.planner.durations import written
from dub5_operator.planner.explanation import Example
from dub5_operator.planner.questions import BoundBy, Cause

_FOR_LONGER: dict[BoundBy, str] = {
    "Staleness": "more hits may be stale (staleness.budget), or you purge what you know has changed: {aim} of them is "
    "what is aimed at",
    "Memory": "more memory may be taken (memory.max)",
    "Cost": "nothing would be saved by it: what comes back comes back sooner",
    "Bounds": "the bounds allow it: ttl.max, the class's max_ttl; where ttl.min is too long for the budget, that or "
    "staleness.budget",
    "Data": "more is known: a TTL is judged by {watched:g} times as long, which is up to {longest} by now, and what "
    "changes may be at most comes down with each comparison",
}
_FOR_LONGER_EACH: dict[Cause, str] = {
    "question": "more hits of one question may be stale (staleness.perQuestion)",
    "changes": "more changes were seen: by so few there may be {margin:.3g} times as many as is estimated",
    "calls": "fewer look-ups have to be calls: one in a hundred is left to be one, to see answers begin to change",
}
"""Where each question has its own, and that says it better."""
_OUTCOME = ("hit ratio", "stale", "at most", "saves $/h", "memory")


def text(found: Explained) -> str:
    """Several paragraphs and tables."""
    return "\n".join(_lines(found))


def _lines(found: Explained) -> Iterator[str]:
    yield from _heading(found)
    yield ""
    yield from _table([*_known(found)])
    explanation = found.explanation
    if explanation.by_question:
        yield "\nA TTL for each question, by c (> chosen):"
        rows = [
            (
                ">" if each.chosen else "",
                f"{each.cost:.3g}",
                *map(written, each.ttls),
                *_outcome(each.outcome),
                ", ".join(each.over),
            )
            for each in explanation.by_question
        ]
        yield from _table([("", "c", "1/10 of hits", "1/2", "9/10", *_OUTCOME, "over"), *rows])
        yield "\nA question's TTL once it is well known, by how often it is asked and how often its answer changes:"
        yield from _table([*matrix(explanation.examples)])
    decision, best = explanation.decision, None
    if explanation.by_question:
        yield "\nOne TTL for all questions, as releases have that know of no other (= in force):"
    else:
        best = decision.recommended
        yield "\nOne TTL for all questions (> recommended, = in force):"
    rows = [
        (
            ">" if each.ttl == best else "=" if each.ttl == explanation.current else "",
            written(each.ttl),
            *_outcome(each.outcome),
            ", ".join(each.over),
        )
        for each in explanation.candidates
    ]
    yield from _table([("", "TTL", *_OUTCOME, "over"), *rows])
    sentence = _FOR_LONGER[decision.bound_by]
    if explanation.cause is not None:
        sentence = _FOR_LONGER_EACH.get(explanation.cause, sentence)
    figures = {"margin": explanation.margin, "aim": percent(explanation.aim), "watched": WATCHED}
    sentence = sentence.format(longest=written(explanation.watched), **figures)
    yield f"\nTTLs become longer when {sentence}."
    if explanation.alternatives:
        rows = [
            (
                each.limit,
                _value(each.limit, each.value),
                written(each.ttl),
                *_outcome(each.outcome),
                each.bound_by,
            )
            for each in explanation.alternatives
        ]
        yield from _table([("with", "", "TTL", *_OUTCOME, "bound by"), *rows])


def _heading(found: Explained) -> Iterator[str]:
    status, decision = found.status, found.explanation.decision
    if found.policy is None:
        whose = f"Class {found.cache_class}"
        yield f"{whose}: a TTL of {status['recommended']} is recommended, bound by {status['boundBy']}."
    else:
        yield (
            f"CachePolicy {found.policy}, class {found.cache_class}, mode {found.mode}: a TTL of {status['ttl']} is in "
            f"force, bound by {status['boundBy']}."
        )
        if status["recommended"] != status["ttl"]:
            yield f"Recommended: {status['recommended']}."
    yield f"Why: {status['reason']}."
    if "lastReconcileTime" in status:
        yield f"That was decided at {status['lastReconcileTime']}. What follows is as known now."
    if decision.bound_by != status["boundBy"]:
        yield f"By now it would be bound by {decision.bound_by}: {decision.reason}."
    if not decision.within_budget:
        yield f"The budget of {percent(found.budget)} cannot be kept."


def _known(found: Explained) -> Iterator[tuple[str, str]]:
    now, explanation = found.now, found.explanation
    decision, question = explanation.decision, explanation.decision.question
    yield "look-ups", f"{now['lookUps']} in {written(explanation.window)}"
    yield (
        "compared",
        f"{now['comparisons']} answers, in which some {explanation.drift.events:.0f} changes were seen",
    )
    yield "changes an hour", now["driftPerHour"] or "not known yet"
    if explanation.hazard is not None:
        yield "now", f"{explanation.hazard:.3g} times as fast as on average"
    yield (
        "noise",
        f"{now['noise']} of new answers differ although nothing changed" if now["noise"] else "not known yet",
    )
    predicted = f"{_known_or(decision.hit_ratio)} predicted, " if question is None else ""
    yield "hit ratio", f"{predicted}{_known_or(decision.measured_hit_ratio)} measured"
    stale = f"{_known_or(decision.stale)} predicted, at most {_known_or(decision.stale_upper)}"
    yield "stale hits", f"{stale}, of a budget of {percent(found.budget)}"
    yield "by canaries", now["staleMeasured"] or "not measured, or too few"
    if question is not None:
        yield "c", f"{question.cost:.3g} stale hits are accepted for each call that is saved"
        shape, seconds = question.change
        yield (
            "prior",
            f"an answer changes {3600 * shape / seconds:.3g} times an hour (gamma, shape {shape:.3g})",
        )
        yield "one question", f"at most {percent(question.stale)} of its hits are expected to be stale"


def matrix(examples: Sequence[Example]) -> Iterator[tuple[str, ...]]:
    """A row for how often questions are asked, a column for how often they change, and what these are."""
    changes = list(dict.fromkeys(each.changes for each in examples))
    yield "", *("not compared yet" if each is None else f"changes {_often(each)}" for each in changes)
    for often in dict.fromkeys(each.requests for each in examples):
        yield f"asked {_often(often)}", *(written(each.ttl) for each in examples if each.requests == often)


def _often(rate: float) -> str:
    """Of a rate per second."""
    for seconds, unit in ((1, "a second"), (60, "a minute"), (3600, "an hour")):
        if rate * seconds >= 1:
            return f"{rate * seconds:.3g} {unit}"
    return f"{rate * 86400:.3g} a day"


def _outcome(outcome: Outcome) -> tuple[str, ...]:
    return (
        _known_or(outcome.hit_ratio),
        _known_or(outcome.stale),
        _known_or(outcome.stale_upper),
        "-" if math.isnan(outcome.saving) else f"{outcome.saving:.3g}",
        "-" if math.isnan(outcome.bytes) else f"{outcome.bytes / 2**20:.3g}Mi",
    )


def _known_or(ratio: float) -> str:
    return percent(ratio) or "-"


def _value(limit: str, value: float) -> str:
    if limit == "ttl.max":
        return written(value)
    return f"{value / 2**20:.3g}Mi" if limit == "memory.max" else percent(value) or "-"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Words to the left, as the first and the last column are, and figures to the right."""
    last = len(rows[0]) - 1
    widths = [max(len(row[place]) for row in rows) for place in range(last + 1)]
    for row in rows:
        cells = [
            cell.ljust(width) if place in (0, last) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()
