"""How many replicas one metric of an autoscaler proposes.

Usage / target times the pods that are ready, or the present number where that ratio is within the tolerance; for a
target per pod of a metric that is not the pods' own (External, Object), usage / target. What is not known of a pod is
assumed so that less happens:

| pod | where the others are above the target | where they are below |
|---|---|---|
| on its way out, or failed | left out | left out |
| pending, or for cpu not ready yet | idle | left out |
| without a reading | idle | on target; for a utilization, at 100 % or the target, whichever is more |

Where an assumption turns the direction round, the present number is proposed.

Source: replica_calculator.go and metrics/ in pkg/controller/podautoscaler of Kubernetes 1.36.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from dub5.advisor.hpa_spec import (
    ContainerResourceMetric,
    Controller,
    Metric,
    ResourceMetric,
    Tolerance,
)

GREATEST = 2**31 - 1
"""The greatest number of replicas."""
POD_LEVEL = ("cpu", "memory", "hugepages-")
"""Resources that a pod may request as a whole."""


class Pod(Struct, frozen=True, kw_only=True):
    """A pod that the scale's selector finds. Moments in seconds."""

    name: str
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"] = "Running"
    deleted: bool = False
    """On its way out: it has a deletion timestamp."""
    ready: Literal["True", "False", "Unknown"] | None = "True"
    """Its condition Ready; None: it has none yet."""
    ready_since: float = 0.0
    """When that condition last changed."""
    started: float | None = 0.0
    requests: Mapping[str, Mapping[str, int]] = {}
    """By container, sidecars included, and resource, in thousandths."""
    pod_requests: Mapping[str, int] = {}
    """Of the pod as a whole, where its own `spec.resources` says so."""


class Sample(Struct, frozen=True):
    """What a metrics API says of one pod: thousandths, the moment, and the seconds before it that it is about."""

    milli: int
    time: float = 0.0
    window: float = 60.0


Reading = Mapping[str, Sample] | Sequence[int] | None
"""What a metrics API answers for one metric: samples by pod; for Object and External metrics thousandths, which
count together; None, or nothing in it, where it failed or had nothing."""


class Proposal(Struct, frozen=True, kw_only=True):
    """What one metric proposes, and from what."""

    metric: str
    replicas: int | None = None
    """None: the metric cannot be used; `problem` says why."""
    problem: str | None = None
    milli: int | None = None
    """Usage in thousandths: the mean of the pods or replicas; for a target of type Value, the value itself."""
    utilization: int | None = None
    """Percent of what the pods request."""
    ratio: float | None = None
    """Usage by target, of the pods that are known."""
    assumed_ratio: float | None = None
    """The same with what was assumed of the others, where something was."""
    ready: int = 0
    """Pods whose readings count."""
    unready: int = 0
    missing: int = 0
    ignored: int = 0
    """Pods that are not ready yet; that have no reading; that failed or are on their way out."""


class _Unusable(Exception):
    pass


class Situation(Struct, frozen=True):
    """What all metrics of one turn have in common."""

    now: float
    replicas: int
    """The scale's `spec.replicas`."""
    status_replicas: int
    pods: Sequence[Pod]
    tolerance: Tolerance
    controller: Controller


def propose(metric: Metric, reading: Reading, situation: Situation) -> Proposal:
    """What one metric proposes. Raises `TypeError` where a reading is not of its metric's kind."""
    name = label(metric)
    try:
        if not reading:
            raise _Unusable("the metrics API had no answer")
        if isinstance(reading, Mapping) != (metric.type not in ("Object", "External")):
            raise TypeError(f"{name}: a metric of type {metric.type} is not read as {type(reading).__name__}")
        if isinstance(reading, Mapping):
            return _of_pods(name, metric, reading, situation)
        return _of_values(name, metric, sum(reading), situation)
    except _Unusable as problem:
        return Proposal(metric=name, problem=str(problem))


def label(metric: Metric) -> str:
    """A metric's name for people: `pods metric dub5_demand_requests`."""
    source = metric.source
    if isinstance(source, ContainerResourceMetric):
        return f"{source.name} of container {source.container}"
    if isinstance(source, ResourceMetric):
        return source.name
    return f"{metric.type.lower()} metric {source.metric.name}"


def _of_values(name: str, metric: Metric, usage: int, situation: Situation) -> Proposal:
    """An Object or External metric: all of it is held at `value`, or its share of each replica at `averageValue`."""
    aim, goal = metric.aim
    there = situation.status_replicas
    if aim == "value":
        ratio = usage / goal
        return Proposal(metric=name, replicas=_by_ratio(ratio, situation), milli=usage, ratio=ratio)
    ratio = _ratio(usage, goal * there)
    replicas = there if situation.tolerance.holds(ratio) else _round_up(usage / goal)
    share = math.ceil(usage / there) if there else None
    return Proposal(metric=name, replicas=replicas, milli=share, ratio=ratio)


def _by_ratio(ratio: float, situation: Situation) -> int:
    """Of the pods that are ready, those on their way out among them; from none, one for each time of the target."""
    if situation.replicas == 0:
        return _round_up(ratio)
    if situation.tolerance.holds(ratio):
        return situation.replicas
    if not situation.pods:
        raise _Unusable("there are no pods")
    ready = sum(pod.phase == "Running" and pod.ready == "True" for pod in situation.pods)
    return _round_up(ratio * ready)


def _of_pods(name: str, metric: Metric, samples: Mapping[str, Sample], situation: Situation) -> Proposal:
    """A metric that each pod has: its own, or its use of a resource."""
    if not situation.pods:
        raise _Unusable("there are no pods")
    source, resource, container = metric.source, "", None
    if isinstance(source, ResourceMetric | ContainerResourceMetric):
        resource = source.name
    if isinstance(source, ContainerResourceMetric):
        container = source.container
    groups = _group(situation, samples, resource)
    left_out = groups.unready | groups.ignored
    known = {pod: sample.milli for pod, sample in samples.items() if pod not in left_out}
    if not known:
        raise _Unusable("no pod that is ready has a reading")
    aim, goal = metric.aim
    if aim == "averageUtilization":
        requests = {pod.name: _request(pod, resource, container) for pod in situation.pods}
        return _from(name, _Utilization(goal, requests), known, groups, situation)
    return _from(name, _Mean(goal), known, groups, situation)


class _Groups(Struct, frozen=True):
    ready: int
    unready: set[str]
    missing: set[str]
    ignored: set[str]


def _group(situation: Situation, samples: Mapping[str, Sample], resource: str) -> _Groups:
    ready, groups = 0, _Groups(0, set(), set(), set())
    for pod in situation.pods:
        if pod.deleted or pod.phase == "Failed":
            groups.ignored.add(pod.name)
        elif pod.phase == "Pending":
            groups.unready.add(pod.name)
        elif (sample := samples.get(pod.name)) is None:
            groups.missing.add(pod.name)
        elif resource == "cpu" and _is_starting(pod, sample, situation.now, situation.controller):
            groups.unready.add(pod.name)
        else:
            ready += 1
    return replace(groups, ready=ready)


def _is_starting(pod: Pod, sample: Sample, now: float, controller: Controller) -> bool:
    """What a pod uses of a cpu while it starts says nothing of its load."""
    if pod.ready is None or pod.started is None:
        return True
    if pod.started + controller.cpu_initialization_period > now:
        return pod.ready == "False" or sample.time < pod.ready_since + sample.window
    return pod.ready == "False" and pod.started + controller.initial_readiness_delay > pod.ready_since


def _request(pod: Pod, resource: str, container: str | None) -> int:
    """What a pod requests of a resource, or one of its containers does. A pod must say."""
    if container is None and any(name.startswith(POD_LEVEL) for name in pod.pod_requests):
        if resource in pod.pod_requests:
            return pod.pod_requests[resource]
        stated = [requests[resource] for requests in pod.requests.values() if resource in requests]
        if stated:
            return sum(stated)
        raise _Unusable(f"pod {pod.name} has no request for {resource}")
    total = 0
    for name, requests in pod.requests.items():
        if container is None or name == container:
            if resource not in requests:
                raise _Unusable(f"container {name} of pod {pod.name} has no request for {resource}")
            total += requests[resource]
    if container is not None and container not in pod.requests:
        raise _Unusable(f"pod {pod.name} has no container {container}")
    return total


class _Mean(Struct, frozen=True):
    """The mean of the pods, held at so many thousandths."""

    target: int

    def of(self, values: Mapping[str, int]) -> tuple[float, int, None]:
        mean = _divide(sum(values.values()), len(values))
        return mean / self.target, mean, None

    def full(self, pods: Set[str]) -> dict[str, int]:
        """What pods without a reading are assumed to use where the others are below the target."""
        return dict.fromkeys(pods, self.target)


class _Utilization(Struct, frozen=True):
    """What the pods use in whole percent of what they request."""

    target: int
    requests: Mapping[str, int]

    def of(self, values: Mapping[str, int]) -> tuple[float, int, int]:
        known = [pod for pod in values if pod in self.requests]
        requested = sum(self.requests[pod] for pod in known)
        if not requested:
            raise _Unusable("the pods request nothing")
        used = sum(values[pod] for pod in known)
        percent = _divide(used * 100, requested)
        return percent / self.target, _divide(used, len(known)), percent

    def full(self, pods: Set[str]) -> dict[str, int]:
        return {pod: _divide(self.requests[pod] * max(100, self.target), 100) for pod in pods}


def _from(
    name: str, measure: _Mean | _Utilization, known: dict[str, int], groups: _Groups, situation: Situation
) -> Proposal:
    present, tolerance = situation.replicas, situation.tolerance
    ratio, milli, utilization = measure.of(known)
    proposal = Proposal(
        metric=name,
        milli=milli,
        utilization=utilization,
        ratio=ratio,
        ready=groups.ready,
        unready=len(groups.unready),
        missing=len(groups.missing),
        ignored=len(groups.ignored),
    )
    idle = groups.unready if ratio > 1 else set()
    if not idle and not groups.missing:
        replicas = present if tolerance.holds(ratio) else _round_up(ratio * groups.ready)
        return replace(proposal, replicas=replicas)

    assumed = dict.fromkeys(idle, 0)
    if ratio > 1:
        assumed.update(dict.fromkeys(groups.missing, 0))
    elif ratio < 1:
        assumed.update(measure.full(groups.missing))
    known = {**known, **assumed}
    new, _, _ = measure.of(known)
    replicas = _round_up(new * len(known))
    up, down = new > 1, new < 1
    if (
        tolerance.holds(new)
        or (ratio < 1 and up)
        or (ratio > 1 and down)
        or (down and replicas > present)
        or (up and replicas < present)
    ):
        replicas = present
    return replace(proposal, replicas=replicas, assumed_ratio=new)


def _ratio(usage: int, target: int) -> float:
    """Of floats as Go divides them: there may be no replicas yet."""
    if target:
        return usage / target
    return math.copysign(math.inf, usage) if usage else math.nan


def _round_up(replicas: float) -> int:
    return min(math.ceil(replicas), GREATEST)


def _divide(number: int, by: int) -> int:
    """As Go divides integers: towards zero."""
    return number // by if number >= 0 else -(-number // by)
