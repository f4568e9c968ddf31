"""Why the autoscaler did what it did, in words: each step of one of its decisions that mattered."""

from __future__ import annotations

from collections.abc import Iterator

from dub5.advisor.hpa import Decision
from dub5.advisor.hpa_metrics import Proposal
from dub5.advisor.record import Record
from dub5.advisor.simulation import Outcome
from dub5.advisor.summary import notes
from dub5.advisor.values import Values


def explain(record: Record, values: Values, outcome: Outcome, at: float | None, turns: int) -> str:
    """The last `turns` decisions up to second `at`; without it, all that changed the number."""
    if values.autoscaling.mode == "none":
        return f"Nothing decides: autoscaling.mode is none, and replicas are {values.replicas}."
    decisions = chosen(outcome, at, turns)
    if not decisions:
        return _nothing(outcome, at)
    found = [line for decision in decisions for line in _paragraph(record, values, outcome, decision)]
    return "\n".join([*found, *(f"note: {note}" for note in notes(record, values))])


def chosen(outcome: Outcome, at: float | None, turns: int) -> list[Decision]:
    """Those that `explain` explains."""
    if at is None:
        return [decision for decision in outcome.decisions if decision.rescaled]
    return [decision for decision in outcome.decisions if decision.time <= at][-turns:]


def _nothing(outcome: Outcome, at: float | None) -> str:
    if at is None:
        return "The autoscaler decided nothing that changed the number."
    first = f" It first looked at {clock(outcome.decisions[0].time)}." if outcome.decisions else ""
    return f"The autoscaler decided nothing up to then.{first}"


def _paragraph(record: Record, values: Values, outcome: Outcome, decision: Decision) -> Iterator[str]:
    there = outcome.at(decision.time - 1e-9)
    verdict = f"to {decision.replicas}" if decision.rescaled else "no change"
    yield f"{clock(decision.time)}  {decision.current} replicas wanted, {there.ready} ready: {verdict}"
    for sentence in words(decision, values):
        yield f"    {sentence}"
    then = beside(record, decision.time)
    if then:
        yield f"    (In the record {then}.)"


def words(decision: Decision, values: Values) -> Iterator[str]:
    """A sentence for each step."""
    scaling = values.autoscaling
    if decision.cause == "below minReplicas" and not decision.metrics:
        yield f"There are never fewer than minReplicas, {scaling.minReplicas}; no metric was looked at."
    elif decision.cause == "above maxReplicas":
        yield f"There are never more than maxReplicas, {scaling.maxReplicas}; no metric was looked at."
    for proposal in decision.metrics:
        yield from _metric(proposal, decision.current, values)
    if decision.proposed is not None and decision.stabilized is not None:
        yield from _bounds(decision, decision.proposed, decision.stabilized, values)


def _metric(proposal: Proposal, current: int, values: Values) -> Iterator[str]:
    if proposal.replicas is None:
        yield f"The metric could not be used: {proposal.problem}. Lost sight is no reason to take replicas away."
        return
    usage, ratio = (proposal.milli or 0) / 1000, proposal.ratio or 0.0
    of = "in the mean of the pods that were read" if proposal.ready else "for each replica"
    yield f"Demand was {usage:g} {of}; the target is {values.target}: a ratio of {ratio:.2f}."
    for count, what, counted in (
        (proposal.missing, "without a figure", "as idle" if ratio > 1 else "as at the target"),
        (proposal.unready, "not ready yet", "as idle" if ratio > 1 else "not at all"),
    ):
        if count:
            yield f"{count} {'pod' if count == 1 else 'pods'} {what} counted {counted}."
    if proposal.assumed_ratio is not None:
        yield f"With those the ratio was {proposal.assumed_ratio:.2f}."
    if proposal.replicas == current:
        yield f"That is too near to 1, or would turn the direction round: {current} stay."
    else:
        yield f"That asks for {proposal.replicas}."


def _bounds(decision: Decision, proposed: int, stabilized: int, values: Values) -> Iterator[str]:
    if stabilized != proposed:
        behavior = values.autoscaling.behavior
        down = stabilized > proposed
        rules = behavior.scaleDown if down else behavior.scaleUp
        window = rules.stabilizationWindowSeconds if rules is not None else None
        within = f"{300 if down else 0} s" if window is None else f"{window} s"
        what = "more" if down else "fewer"
        yield f"Within the last {within} {what} were asked for, so {stabilized} count (stabilization)."
    limited = decision.conditions.get("ScalingLimited")
    if limited is not None and limited.status:
        yield {
            "ScaleUpLimit": f"The policies of scaleUp let it go to {decision.allowed} for now.",
            "ScaleDownLimit": f"The policies of scaleDown let it go to {decision.allowed} for now.",
            "TooManyReplicas": f"maxReplicas is {values.autoscaling.maxReplicas}.",
            "TooFewReplicas": f"minReplicas is {values.autoscaling.minReplicas}.",
        }[limited.reason]


def beside(record: Record, moment: float) -> str:
    """What was seen last up to then, as far as it is known; empty where nothing is."""
    seen = next((each for each in reversed(record.seen) if each.at <= moment), None)
    if seen is None:
        return ""
    told = (
        (seen.wanted, "{} wanted"),
        (seen.ready, "{} ready"),
        (seen.demand, "a demand of {:g} in all"),
        (seen.queued, "{:g} in the queue"),
    )
    there = ", ".join(form.format(value) for value, form in told if value is not None)
    return f"at {clock(seen.at)}: {there}" if there else ""


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
