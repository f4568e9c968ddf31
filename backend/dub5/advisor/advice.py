"""Advice in words: the verdict first, then what was compared, the lines to change and why, and what was given up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import yaml

from dub5.advisor.schedule import changes as floor_changes
from dub5.advisor.schedule import cron_jobs, spans, triggers
from dub5.advisor.search import HELD, TUNED, Advice, Choice, Verdict
from dub5.advisor.values import Values

KUBECTL = "registry.k8s.io/kubectl:v1.36.3"
"""The image that changes a HorizontalPodAutoscaler by the clock."""


class Change(NamedTuple):
    """A value of the chart by its dotted name, as it is and as it should be (as YAML), and why."""

    name: str
    before: str
    after: str
    reason: str


def text(advice: Advice, values: Values) -> str:
    return "\n".join(_lines(advice, values))


def plain(advice: Advice, values: Values) -> dict[str, Any]:
    """For `--json`: durations in seconds, shares of requests, cost in replica-hours."""
    return {
        "objective": msgspec.to_builtins(advice.objective),
        "present_meets": advice.present_meets,
        "present": {part: _plain(advice, each) for part, each in advice.present.items()},
        "recommended": None
        if advice.best is None
        else {part: _plain(advice, each) for part, each in advice.best.items()},
        "changes": [each._asdict() for each in changes(advice, values)],
        "schedule": schedule(advice, values),
        "front": [_plain(advice, each) for each in advice.front()],
        "what_if": {name: _plain(advice, each) for name, each in advice.what_if.items()},
        "notes": advice.notes,
    }


def _plain(advice: Advice, verdict: Verdict) -> dict[str, Any]:
    return {
        **msgspec.to_builtins(verdict.choice),
        "meets": verdict.meets(advice.objective),
        **{of: verdict.spread(of)._asdict() for of in ("cost", "refused", "wait")},
        "seeds": msgspec.to_builtins(verdict.judged),
    }


def _lines(advice: Advice, values: Values) -> Iterator[str]:
    objective = advice.objective
    yield from verdict(advice)
    yield (
        f"(objective: at most {objective.refused:.2%} refused, 99 % of calls wait at most {objective.wait:g} s, and no"
        " stream is cut)"
    )
    for part in (TUNED, HELD):
        yield f"\nOn the part that was {part}, in the mean of the seeds (least to most):"
        yield _HEAD
        yield _row("present", advice.present[part], advice)
        if advice.best is not None:
            yield _row("recommended", advice.best[part], advice)
    searched = advice.part_searched
    yield (
        f"\nOn the part that was {searched}, its requests drawn anew: for less none refuses as few and waits as"
        " short as"
    )
    yield _HEAD
    for each in advice.front():
        yield _row("", each, advice)
    yield f"\nOn the part that was {HELD}, the {'present' if advice.best is None else 'recommended'} values with"
    yield _HEAD
    for name, each in advice.what_if.items():
        yield _row(name, each, advice)
    yield ""
    yield from advice.notes
    lines = snippet(advice, values)
    if lines:
        yield "\nLines of values.yaml:\n"
        yield from lines
    by_hour = schedule(advice, values)
    if by_hour:
        yield "\nTo be applied beside the chart, for the floors by hour:\n"
        yield by_hour


def verdict(advice: Advice) -> Iterator[str]:
    """In sentences."""
    yield f"The present values {'meet' if advice.present_meets else 'miss'} the objective."
    if advice.best is None:
        most = max(each.choice.maxReplicas for each in advice.tried)
        yield (
            f"Nothing on the grid meets it, with maxReplicas up to {most}: see which limit is reached (--max-replicas"
            " tries more of them, --max-inflight more slots), or ask for less."
        )
        return
    before, after = (sum(each.cost for each in parts.values()) for parts in (advice.present, advice.best))
    if advice.best[HELD].choice == advice.present[HELD].choice:
        yield "Nothing on the grid that meets it is cheaper."
    elif before:
        yield f"Those recommended cost {abs(1 - after / before):.0%} {'less' if after <= before else 'more'}."
    if not advice.best[HELD].meets(advice.objective):
        yield f"They miss it on the part that was {HELD}, which differs from the other one: record a longer time."
    cut = max(each.cut for parts in (advice.present, advice.best) for each in parts.values())
    if cut:
        yield (
            f"{cut} streams reach server.max_stream and are cut there, whatever the autoscaler does; none is cut by a"
            " replica that leaves."
        )


_HEAD = (
    f"{'':17}  {'min':>3} {'max':>4} {'target':>6} {'down':>5} {'slots':>5} {'queue':>5}  {'replica-hours':>24}"
    f"  {'refused':>24}  {'wait p99, s':>20}  {'cut':>3}  meets"
)


def _row(name: str, verdict: Verdict, advice: Advice) -> str:
    choice = verdict.choice

    def spread(of: str, form: str, factor: float = 1.0) -> str:
        least, mean, most = (value * factor for value in verdict.spread(of))
        if len(verdict.judged) == 1:
            return f"{mean:{form}}"
        return f"{mean:{form}} ({least:{form}} to {most:{form}})"

    further = [
        *(["up " + _pace(choice.up)] if choice.up else []),
        *(["down " + _pace(choice.down)] if choice.down else []),
        *(["floors by hour"] if choice.floors else []),
    ]
    return (
        f"{name:17}  {choice.minReplicas:>3} {choice.maxReplicas:>4} {choice.targetPercentage:>5}%"
        f" {choice.window:>4}s {choice.max_inflight:>5} {choice.queue_timeout:>4g}s"
        f"  {spread('cost', '.2f'):>24}  {spread('refused', '.2f', 100) + ' %':>24}  {spread('wait', '.2f'):>20}"
        f"  {verdict.cut:>3}  {'yes' if verdict.meets(advice.objective) else 'no'}"
        f"{'  ' if further else ''}{', '.join(further)}"
    )


def _pace(of: tuple[int, ...]) -> str:
    percent, *pods, seconds = of
    return f"{percent} %{f' or {pods[0]}' if pods else ''} in {seconds} s"


def changes(advice: Advice, values: Values) -> list[Change]:
    """What is recommended to be changed; nothing where nothing is recommended."""
    if advice.best is None:
        return []
    before, after = advice.present[HELD].choice, advice.best[HELD].choice
    return list(_changes(before, after, values))


def _changes(before: Choice, after: Choice, values: Values) -> Iterator[Change]:
    def more(name: str) -> bool:
        return bool(getattr(after, name) > getattr(before, name))

    reasons = {
        "autoscaling.minReplicas": ("room for a jump", "fewer do at quiet times"),
        "autoscaling.maxReplicas": ("so many are reached, and do not do", "so many are never needed"),
        "autoscaling.targetPercentage": (
            "less is left free than was needed",
            "more is left free until help arrives",
        ),
        "autoscaling.behavior.scaleDown.stabilizationWindowSeconds": (
            "load that comes back finds it",
            "what is not needed goes sooner",
        ),
        "config.admission.max_inflight": (
            "a replica holds more calls, so fewer do: only if its CPU bears them",
            "free slots are spread over more replicas",
        ),
        "config.admission.queue_timeout": (
            "calls wait for a replica that starts, rather than be refused",
            "who would wait too long is refused, and asks elsewhere",
        ),
    }
    for name, (up, down) in reasons.items():
        field = {"stabilizationWindowSeconds": "window"}.get(last := name.rpartition(".")[2], last)
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            unit = "s" if field == "queue_timeout" else ""
            yield Change(name, f"{old:g}{unit}", f"{new:g}{unit}", up if more(field) else down)
    behavior = values.autoscaling.behavior
    if after.up:
        percent, pods, seconds = after.up
        policies = [("Percent", percent, seconds), ("Pods", pods, seconds)]
        now = _policies(msgspec.to_builtins(behavior.scaleUp and behavior.scaleUp.policies))
        yield Change(
            "autoscaling.behavior.scaleUp.policies", now, _flow(policies), "help arrives as fast as load"
        )
    if after.down:
        percent, seconds = after.down
        now = _policies(msgspec.to_builtins(behavior.scaleDown and behavior.scaleDown.policies))
        reason = "how fast what is not needed goes"
        yield Change(
            "autoscaling.behavior.scaleDown.policies", now, _flow([("Percent", percent, seconds)]), reason
        )
    if after.floors and values.autoscaling.mode == "keda":
        cron = triggers(spans(after.floors, after.minReplicas))
        reason = "load that comes back at these hours is awaited, and fewer do at others"
        yield Change("autoscaling.keda.triggers", "[]", _one_line(cron), reason)


def _flow(policies: list[tuple[str, int, int]]) -> str:
    return _one_line(
        [{"type": kind, "value": of, "periodSeconds": seconds} for kind, of, seconds in policies]
    )


def _policies(now: Any) -> str:
    return _one_line(now or [])


def _one_line(value: Any) -> str:
    written: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return written.strip()


def snippet(advice: Advice, values: Values) -> list[str]:
    """Lines of values.yaml to change, each with what was and why; none where nothing is to be changed."""
    lines: list[str] = []
    open_names: list[str] = []
    for name, before, after, reason in sorted(changes(advice, values)):
        *parents, last = name.split(".")
        common = next(
            (i for i, (a, b) in enumerate(zip(parents, open_names, strict=False)) if a != b),
            min(len(parents), len(open_names)),
        )
        lines += [f"{'  ' * (common + i)}{parent}:" for i, parent in enumerate(parents[common:])]
        open_names = parents
        indent = "  " * len(parents)
        if after.startswith("["):
            lines.append(f"{indent}{last}:  # was {before}: {reason}")
            lines += [f"{indent}  - {_one_line(each)}" for each in yaml.safe_load(after)]
        else:
            lines.append(f"{indent}{last}: {after}  # was {before}: {reason}")
    if lines and schedule(advice, values):
        lines.insert(
            0, "# Only together with the CronJobs that are recommended: they raise minReplicas by hour."
        )
    return lines


def schedule(advice: Advice, values: Values) -> str:
    """The floors by hour as objects of Kubernetes, for mode `hpa`; "" where there are none, or KEDA's triggers do."""
    choice = advice.best[HELD].choice if advice.best is not None else None
    if choice is None or not choice.floors or values.autoscaling.mode != "hpa":
        return ""
    objects = cron_jobs(floor_changes(choice.floors, choice.minReplicas), advice.hpa, KUBECTL)
    head = (
        f"# Apply in the namespace of the release, whose HorizontalPodAutoscaler is {advice.hpa}.\n"
        "# `helm upgrade` sets minReplicas back until the next of these changes it.\n"
    )
    return head + str(yaml.safe_dump_all(objects, sort_keys=False, width=120))
