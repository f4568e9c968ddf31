"""What the Horizontal Pod Autoscaler decides, and why: the algorithm of autoscaling/v2 without a cluster.

An `Autoscaler` is one HorizontalPodAutoscaler in the hands of kube-controller-manager. `decide` is one of its turns, of
which there is one every 15 s by default: it is told the moment and what the controller would have read from the API
server and from the metrics APIs, and says how many replicas the controller would ask for. It keeps what the controller
keeps in memory from turn to turn, and nothing else: the proposals and the changes of the last minutes, and the
conditions.

One turn, of which a `Decision` has every step:

1. Each metric proposes a number: usage / target times the pods that are ready, or the present number where the ratio is
   within the tolerance. Pods without a reading count as idle where the rest says more, and as on target (as using all
   that they request, for a utilization) where it says less; pods that are not ready yet count as idle where it says
   more. Where that turns the direction round, nothing changes.
2. The greatest proposal counts. A metric that cannot be read forbids to go down.
3. Stabilization: up no further than the least, down no further than the greatest of what was proposed within a window.
4. Policies: by so many pods, or so many percent, from what there was at the beginning of a period.
5. `minReplicas` and `maxReplicas`.

Left out is what is no decision: a scale that cannot be read or written, selectors that overlap. Where a metric or a
policy's percentage is so great that the number does not fit an `int32`, the controller's answer depends on the
processor; here a proposal is at most 2147483647, and a percentage allows what it says.

Source: pkg/controller/podautoscaler of Kubernetes 1.36. `benchmarks.advisor_hpa` holds this to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from dub5.advisor.hpa_metrics import Pod, Proposal, Reading, Situation, propose
from dub5.advisor.hpa_spec import Controller, Rules, Spec

ConditionType = Literal["AbleToScale", "ScalingActive", "ScalingLimited", "ScaledToZero"]
Reason = Literal[
    "SucceededGetScale",
    "ReadyForNewScale",
    "ScaleUpStabilized",
    "ScaleDownStabilized",
    "SucceededRescale",
    "ValidMetricFound",
    "ScalingDisabled",
    "FailedGetPodsMetric",
    "FailedGetObjectMetric",
    "FailedGetExternalMetric",
    "FailedGetResourceMetric",
    "FailedGetContainerResourceMetric",
    "DesiredWithinRange",
    "ScaleUpLimit",
    "ScaleDownLimit",
    "TooManyReplicas",
    "TooFewReplicas",
    "ScaledToZero",
    "NotScaledToZero",
]
"""Of a condition, in the controller's words."""
FAILED: dict[str, Reason] = {
    "Pods": "FailedGetPodsMetric",
    "Object": "FailedGetObjectMetric",
    "External": "FailedGetExternalMetric",
    "Resource": "FailedGetResourceMetric",
    "ContainerResource": "FailedGetContainerResourceMetric",
}
Cause = Literal["metric above target", "all metrics below target", "above maxReplicas", "below minReplicas"]


class Condition(Struct, frozen=True):
    """A condition of the autoscaler's status."""

    status: bool
    reason: Reason


class Decision(Struct, frozen=True, kw_only=True):
    """One turn of the controller, step by step. A step that was not reached is None."""

    time: float
    current: int
    """Replicas that the scale asked for before."""
    replicas: int
    """And asks for from now on."""
    desired: int
    """The status's `desiredReplicas`: where no metric can be used, that of the turn before."""
    cause: Cause | None = None
    """Why the scale is to change, before stabilization, policies and limits."""
    metrics: tuple[Proposal, ...] = ()
    proposed: int | None = None
    """The greatest proposal."""
    stabilized: int | None = None
    """What is left of it after stabilization."""
    allowed: int | None = None
    """How far the policies let it go in its direction now, whatever `minReplicas` and `maxReplicas` say."""
    conditions: Mapping[ConditionType, Condition] = {}

    @property
    def rescaled(self) -> bool:
        """Whether the controller writes the scale."""
        return self.replicas != self.current


class _Change(Struct):
    """A change of the scale that policies count."""

    by: int
    time: float
    outdated: bool = False


class _Limit(Struct, frozen=True):
    replicas: int
    reason: Reason
    allowed: int | None = None


class Autoscaler:
    """One HorizontalPodAutoscaler, and what the controller remembers of it. It has no clock: `decide` is told."""

    def __init__(self, spec: Spec, controller: Controller | None = None) -> None:
        self.controller = controller or Controller()
        self.spec = spec
        self._conditions: dict[ConditionType, Condition] = {}
        self._desired = 0
        self._proposed: list[tuple[float, int]] = []
        self._ups: list[_Change] = []
        self._downs: list[_Change] = []

    @property
    def spec(self) -> Spec:
        """May be replaced between two turns: what is remembered stays."""
        return self._spec

    @spec.setter
    def spec(self, spec: Spec) -> None:
        self._spec = spec
        self._rules = self.controller.rules_of(spec)
        self._tolerance = self.controller.tolerance_of(spec)

    def copy(self) -> Autoscaler:
        """Another one with the same memory, which goes its own way from here."""
        other = Autoscaler(self.spec, self.controller)
        other._conditions = dict(self._conditions)
        other._desired = self._desired
        other._proposed = list(self._proposed)
        other._ups = [replace(change) for change in self._ups]
        other._downs = [replace(change) for change in self._downs]
        return other

    def decide(
        self,
        now: float,
        replicas: int,
        pods: Sequence[Pod],
        readings: Sequence[Reading],
        *,
        status_replicas: int | None = None,
    ) -> Decision:
        """One turn.

        Args:
            now: the moment in seconds, on the clock of the pods and the samples; never before the last turn's.
            replicas: what the scale asks for.
            pods: those that its selector finds.
            readings: one for each of the spec's metrics, in their order.
            status_replicas: how many the scale says there are; as many as it asks for, where this is left out.

        Raises `ValueError` where there is not one reading for each metric, `TypeError` where it is not of its kind.
        """
        if len(readings) != len(self.spec.metrics):
            raise ValueError(f"{len(readings)} readings for {len(self.spec.metrics)} metrics")
        there = replicas if status_replicas is None else status_replicas
        situation = Situation(now, replicas, there, pods, self._tolerance, self.controller)
        decision = self._consider(situation, readings)
        self._carry_out(decision)
        return replace(decision, conditions=dict(self._conditions))

    def _consider(self, situation: Situation, readings: Sequence[Reading]) -> Decision:
        now, current, spec = situation.now, situation.replicas, self.spec
        self._conditions["AbleToScale"] = Condition(True, "SucceededGetScale")
        if not self._proposed:
            self._proposed.append((now, current))
        if current == 0 and not self._may_leave_zero():
            self._conditions["ScalingActive"] = Condition(False, "ScalingDisabled")
            return Decision(time=now, current=0, replicas=0, desired=0)
        if current > (most := spec.max_replicas):
            return Decision(time=now, current=current, replicas=most, desired=most, cause="above maxReplicas")
        if 0 < current < (least := spec.min_replicas):
            return Decision(
                time=now, current=current, replicas=least, desired=least, cause="below minReplicas"
            )

        metrics = tuple(
            propose(metric, reading, situation)
            for metric, reading in zip(spec.metrics, readings, strict=True)
        )
        proposed = self._choose(metrics, current)
        if proposed is None:
            return Decision(
                time=now, current=current, replicas=current, desired=self._desired, metrics=metrics
            )
        return self._normalize(now, current, proposed, metrics)

    def _may_leave_zero(self) -> bool:
        """Only where the controller itself went there: any other zero is somebody's wish to be left alone."""
        condition = self._conditions.get("ScaledToZero")
        return self.controller.scale_to_zero and condition is not None and condition.status

    def _choose(self, metrics: Sequence[Proposal], current: int) -> int | None:
        """The greatest proposal. None: there is none, or it would go down while a metric cannot be used."""
        usable = [proposal.replicas for proposal in metrics if proposal.replicas is not None]
        if len(usable) < len(metrics) and (not usable or max(usable) < current):
            failed = next(index for index, proposal in enumerate(metrics) if proposal.replicas is None)
            self._conditions["ScalingActive"] = Condition(False, FAILED[self.spec.metrics[failed].type])
            return None
        self._conditions["ScalingActive"] = Condition(True, "ValidMetricFound")
        return max(0, *usable)

    def _normalize(self, now: float, current: int, proposed: int, metrics: tuple[Proposal, ...]) -> Decision:
        """Stabilization, policies, limits."""
        spec = self.spec
        cause: Cause | None = None
        if proposed != current:
            cause = "metric above target" if proposed > current else "all metrics below target"
        if self._rules is None:
            stabilized = self._stabilize_down(now, proposed)
            limit = _limit_without_rules(current, stabilized, spec)
        else:
            stabilized = self._stabilize(now, current, proposed, *self._rules)
            limit = self._limit(now, current, stabilized, *self._rules)
        self._conditions["ScalingLimited"] = Condition(limit.replicas != stabilized, limit.reason)
        replicas = limit.replicas
        if current == 0 and replicas < spec.min_replicas:
            replicas, cause = spec.min_replicas, cause or "below minReplicas"
        return Decision(
            time=now,
            current=current,
            replicas=replicas,
            desired=replicas,
            cause=cause,
            metrics=metrics,
            proposed=proposed,
            stabilized=stabilized,
            allowed=limit.allowed,
        )

    def _stabilize_down(self, now: float, proposed: int) -> int:
        """Without a `behavior`: the greatest proposal within the controller's own window."""
        since = now - self.controller.downscale_stabilization
        stabilized = max([proposed, *(replicas for time, replicas in self._proposed if time >= since)])
        self._able(stabilized == proposed, "ScaleDownStabilized")
        self._remember(now, proposed, [time < since for time, _ in self._proposed])
        return stabilized

    def _stabilize(self, now: float, current: int, proposed: int, up: Rules, down: Rules) -> int:
        """The present number, brought between the least of one window and the greatest of the other."""
        since_up = now - (up.stabilization_window_seconds or 0)
        since_down = now - (down.stabilization_window_seconds or 0)
        least = min([proposed, *(replicas for time, replicas in self._proposed if time > since_up)])
        greatest = max([proposed, *(replicas for time, replicas in self._proposed if time > since_down)])
        stabilized = min(max(current, least), greatest)
        self._able(
            stabilized == proposed, "ScaleUpStabilized" if proposed >= current else "ScaleDownStabilized"
        )
        self._remember(now, proposed, [time < since_up and time < since_down for time, _ in self._proposed])
        return stabilized

    def _able(self, ready: bool, reason: Reason) -> None:
        self._conditions["AbleToScale"] = Condition(True, "ReadyForNewScale" if ready else reason)

    def _remember(self, now: float, proposed: int, old: list[bool]) -> None:
        """In the place of the last that no window reaches; the others stay, for a later spec may have a longer one."""
        if True in old:
            self._proposed[len(old) - 1 - old[::-1].index(True)] = (now, proposed)
        else:
            self._proposed.append((now, proposed))

    def _limit(self, now: float, current: int, wanted: int, up: Rules, down: Rules) -> _Limit:
        """What the policies of its direction and the limits of the spec let through."""
        least, most = self.spec.min_replicas, self.spec.max_replicas
        if wanted > current:
            allowed = max(current, self._reach(now, current, up, upwards=True))
            if wanted > min(allowed, most):
                if allowed < most:
                    return _Limit(allowed, "ScaleUpLimit", allowed)
                return _Limit(most, "TooManyReplicas", allowed)
            return _Limit(wanted, "DesiredWithinRange", allowed)
        if wanted < current:
            allowed = min(current, self._reach(now, current, down, upwards=False))
            if wanted < max(allowed, least):
                if allowed > least:
                    return _Limit(allowed, "ScaleDownLimit", allowed)
                return _Limit(least, "TooFewReplicas", allowed)
            return _Limit(wanted, "DesiredWithinRange", allowed)
        return _Limit(wanted, "DesiredWithinRange")

    def _reach(self, now: float, current: int, rules: Rules, *, upwards: bool) -> int:
        """How far the policies let the number go from what there was at the beginning of their periods."""
        if rules.select_policy == "Disabled":
            return current
        reaches, sign = [], 1 if upwards else -1
        for policy in rules.policies or ():
            since = now - policy.period_seconds
            begin = current - _changes(self._ups, since) + _changes(self._downs, since)
            if policy.type == "Pods":
                reaches.append(_wrap(begin + sign * policy.value))
            else:
                reach = begin * (1 + sign * policy.value / 100)
                reaches.append(math.ceil(reach) if upwards else int(reach))
        highest = upwards == (rules.select_policy == "Max")
        return max(reaches) if highest else min(reaches)

    def _carry_out(self, decision: Decision) -> None:
        """What the controller notes when it has written the scale."""
        self._desired = decision.desired
        if not decision.rescaled:
            return
        self._conditions["AbleToScale"] = Condition(True, "SucceededRescale")
        if self._rules is not None:
            up, down = self._rules
            if decision.replicas > decision.current:
                _note(self._ups, decision.time, decision.replicas - decision.current, up)
            else:
                _note(self._downs, decision.time, decision.current - decision.replicas, down)
        if self.controller.scale_to_zero:
            to_zero = decision.replicas == 0
            self._conditions["ScaledToZero"] = Condition(
                to_zero, "ScaledToZero" if to_zero else "NotScaledToZero"
            )


def _limit_without_rules(current: int, wanted: int, spec: Spec) -> _Limit:
    """Without a `behavior`: at most to the double, or to 4."""
    if wanted < spec.min_replicas:
        return _Limit(spec.min_replicas, "TooFewReplicas")
    allowed = max(2 * current, 4)
    if wanted > min(allowed, spec.max_replicas):
        if allowed < spec.max_replicas:
            return _Limit(allowed, "ScaleUpLimit", allowed)
        return _Limit(spec.max_replicas, "TooManyReplicas", allowed)
    return _Limit(wanted, "DesiredWithinRange", allowed if wanted > current else None)


def _changes(changes: Sequence[_Change], since: float) -> int:
    return sum(change.by for change in changes if change.time > since)


def _note(changes: list[_Change], now: float, by: int, rules: Rules) -> None:
    """In the place of the last that no period reaches, as in `Autoscaler._remember`."""
    since = now - max(policy.period_seconds for policy in rules.policies or ())
    for change in changes:
        change.outdated = change.outdated or change.time < since
    old = [index for index, change in enumerate(changes) if change.outdated]
    if old:
        changes[old[-1]] = _Change(by, now)
    else:
        changes.append(_Change(by, now))


def _wrap(number: int) -> int:
    """As Go's int32 does, so that a policy of 2147483647 pods allows none."""
    return (number + 2**31) % 2**32 - 2**31
