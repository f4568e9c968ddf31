"""Advice in words: the verdict first, then what was compared, the lines to change and why, and what was given up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from dub5.advisor.search import HELD, TUNED, Advice, Choice, Verdict, present
from dub5.advisor.values import Values


def text(advice: Advice, values: Values) -> str:
    return "\n".join(_lines(advice, values))


def plain(advice: Advice) -> dict[str, Any]:
    """For `--json`: durations in seconds, shares of requests, cost in replica-hours."""
    return {
        "objective": msgspec.to_builtins(advice.objective),
        "present_meets": advice.present_meets,
        "present": {part: _plain(advice, each) for part, each in advice.present.items()},
        "recommended": None
        if advice.best is None
        else {part: _plain(advice, each) for part, each in advice.best.items()},
        "front": [_plain(advice, each) for each in advice.front()],
        "what_if": {name: _plain(advice, each) for name, each in advice.what_if.items()},
    }


def _plain(advice: Advice, verdict: Verdict) -> dict[str, Any]:
    return {
        **msgspec.to_builtins(verdict.choice),
        "meets": verdict.meets(advice.objective),
        "seeds": msgspec.to_builtins(verdict.judged),
    }


def _lines(advice: Advice, values: Values) -> Iterator[str]:
    objective, now = advice.objective, present(values)
    yield from _verdict(advice)
    yield f"(objective: at most {objective.refused:.2%} refused, 99 % of calls wait at most {objective.wait:g} s)"
    for part in (TUNED, HELD):
        yield f"\nOn the part that was {part}, in the mean of the seeds (least to most):"
        yield _HEAD
        yield _row("present", advice.present[part], advice)
        if advice.best is not None:
            yield _row("recommended", advice.best[part], advice)
    yield f"\nOn the part that was {TUNED}, by one seed: for less none refuses as few and waits as short as"
    yield _HEAD
    for each in advice.front():
        yield _row("", each, advice)
    yield f"\nOn the part that was {HELD}, the {'present' if advice.best is None else 'recommended'} values with"
    yield _HEAD
    for name, each in advice.what_if.items():
        yield _row(name, each, advice)
    if advice.best is not None and advice.best[HELD].choice != now:
        yield ""
        yield from _changes(now, advice.best[HELD].choice)


def _verdict(advice: Advice) -> Iterator[str]:
    yield f"The present values {'meet' if advice.present_meets else 'miss'} the objective."
    if advice.best is None:
        yield "Nothing on the grid meets it: see which limit is reached (maxReplicas, max_inflight), or ask for less."
        return
    before, after = (sum(each.cost for each in parts.values()) for parts in (advice.present, advice.best))
    if advice.best[HELD].choice == advice.present[HELD].choice:
        yield "Nothing on the grid that meets it is cheaper."
    else:
        yield f"Those recommended cost {abs(1 - after / before):.0%} {'less' if after <= before else 'more'}."
    if not advice.best[HELD].meets(advice.objective):
        yield f"They miss it on the part that was {HELD}, which differs from the other one: record a longer time."


_HEAD = (
    f"{'':17}  {'min':>3} {'target':>6} {'down':>5}  {'replica-hours':>24}  {'refused':>24}"
    f"  {'wait p99, s':>20}  meets"
)


def _row(name: str, verdict: Verdict, advice: Advice) -> str:
    choice = verdict.choice

    def spread(of: str, form: str, factor: float = 1.0) -> str:
        values = [getattr(each, of) * factor for each in verdict.judged]
        mean = sum(values) / len(values)
        if len(values) == 1:
            return f"{mean:{form}}"
        return f"{mean:{form}} ({min(values):{form}} to {max(values):{form}})"

    return (
        f"{name:17}  {choice.minReplicas:>3} {choice.targetPercentage:>5}% {choice.window:>4}s"
        f"  {spread('cost', '.2f'):>24}  {spread('refused', '.2f', 100) + ' %':>24}  {spread('wait', '.2f'):>20}"
        f"  {'yes' if verdict.meets(advice.objective) else 'no'}"
    )


def _changes(before: Choice, after: Choice) -> Iterator[str]:
    """Lines of values.yaml, each with its reason."""
    yield "autoscaling:"
    if after.minReplicas != before.minReplicas:
        fewer = "fewer do at quiet times" if after.minReplicas < before.minReplicas else "room for a jump"
        yield f"  minReplicas: {after.minReplicas}  # was {before.minReplicas}: {fewer}"
    if after.targetPercentage != before.targetPercentage:
        higher = after.targetPercentage > before.targetPercentage
        reason = "less is left free than was needed" if higher else "more is left free until help arrives"
        yield f"  targetPercentage: {after.targetPercentage}  # was {before.targetPercentage}: {reason}"
    if after.window != before.window:
        reason = (
            "what is not needed goes sooner"
            if after.window < before.window
            else "load that comes back finds it"
        )
        yield "  behavior:"
        yield "    scaleDown:"
        yield f"      stabilizationWindowSeconds: {after.window}  # was {before.window}: {reason}"
