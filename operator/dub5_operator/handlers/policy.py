"""Reconciles a CachePolicy: takes in what was sampled, decides its class's TTL, puts it in force, and says why.

It is level-triggered: it begins with the object as it is and with what is in force, and may be repeated. It happens
each `step.every`, and at once where the spec has changed. Whatever fails, the TTL in force stays in force: replicas
keep the last good document, and the next reconciliation begins anew.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from dub5.contract import LONGEST_TTL, AnnouncedClass, ClassPolicy
from dub5_operator import report
from dub5_operator.crd import CachePolicySpec
from dub5_operator.planner.decision import Decision, Learning, PolicyLimits, Shape
from dub5_operator.redis import READ_EVERY, REDIS_ERRORS, Publisher, Samples
from dub5_operator.report import LastReport, Metrics, Report

Claim = tuple[str, str, str]
"""Creation time, name and uid of a policy: the least is the oldest."""

_SHORTEST_MAX = 0.001
"""Seconds: what is planned with is never 0, whatever is announced. Replicas keep to their own maximum."""


class _State(msgspec.Struct):
    """Of one policy, between reconciliations. `ttl` is what we had put in force."""

    learning: Learning
    last_report: LastReport
    ttl: float | None = None
    due_at: float = 0.0
    spec: CachePolicySpec | None = None


class _Gone(Exception):
    """The policy was deleted while it was reconciled."""


class PolicyReconciler:
    """`clock` gives seconds since the epoch; where it is that of `samples`, `measure` it."""

    def __init__(
        self,
        samples: Samples,
        publisher: Publisher,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        measure: bool = False,
    ) -> None:
        self._measure = measure
        self._samples = samples
        self._publisher = publisher
        self._metrics = metrics
        self._clock = clock
        self._states: dict[str, _State] = {}
        self._reconciling: set[str] = set()  # uids, of those that have not gone meanwhile

    def is_due(self, uid: str, spec: Mapping[str, Any]) -> bool:
        """Whether it is time, or the spec is another one."""
        state = self._states.get(uid)
        return state is None or self._clock() >= state.due_at or state.spec != _read(spec)

    async def keep_reading(self, classes: set[str]) -> None:
        """Between reconciliations: an hour may lie between two, and Redis keeps less. Errors are the next one's."""
        with contextlib.suppress(*REDIS_ERRORS):
            await self._samples.refresh(classes, every=READ_EVERY)

    async def reconcile(
        self,
        *,
        name: str,
        uid: str,
        spec: Mapping[str, Any],
        status: Mapping[str, Any],
        claims: Iterable[Claim],
        classes: set[str],
    ) -> Report:
        """`claims` are those of all policies for this one's class, `classes` all that some policy is for."""
        with self._metrics.reconcile.time():
            policy = _read(spec)
            oldest = min(claims, default=None)
            if oldest is not None and oldest[2] != uid:
                self._states.pop(uid, None)
                return report.superseded(policy, by=oldest[1])
            self._reconciling.add(uid)
            try:
                if self._measure:
                    await self._samples.measure()
                await self._samples.refresh(classes)
                return await self._decide(name, uid, policy, status)
            except _Gone:
                return report.gone()
            except REDIS_ERRORS as error:
                self._metrics.errors.labels(name).inc()
                return report.redis_unavailable(error)
            except Exception:  # a defect: kopf logs it and tries again, and the alert goes by the count
                self._metrics.errors.labels(name).inc()
                raise
            finally:
                self._reconciling.discard(uid)

    async def gone(self, *, name: str, uid: str, class_name: str, claims: Iterable[Claim]) -> None:
        """The policy is deleted: its class has the TTL of its configuration again, or the next policy's."""
        self._reconciling.discard(uid)
        self._states.pop(uid, None)
        self._metrics.forget(name)
        if not any(claim[2] != uid for claim in claims):
            await self._publisher.publish(class_name, None)

    async def _decide(
        self, name: str, uid: str, policy: CachePolicySpec, status: Mapping[str, Any]
    ) -> Report:
        self._check_there(uid)
        announced = self._samples.announcement
        if announced is None:
            return report.no_replicas()
        configured = announced.classes.get(policy.cache_class)
        if configured is None:
            return report.unknown_class(policy.cache_class, announced)
        limits = _limits(policy, configured)
        state = self._state(uid, limits, configured)
        now = self._clock()
        current = await self._current(state, policy, configured, limits, status)
        self._learn(state.learning, policy.cache_class, current, now)
        decision = state.learning.decide(limits, current, now)
        self._check_there(uid)  # what is published from here on is published before what `gone` publishes
        ttl = await self._put_in_force(state, policy, configured, decision)
        self._check_there(uid)
        if policy.mode != "Auto":
            decision = state.learning.kept(decision, ttl, now)
        self._metrics.set(
            name,
            decision,
            state.learning.drift,
            class_name=policy.cache_class,
            budget=share(policy.staleness.budget),
        )
        state.due_at, state.spec = now + seconds(policy.step.every), policy
        return report.in_force(policy, decision, state.learning, state.last_report, ttl)

    def _check_there(self, uid: str) -> None:
        """After each wait: `gone` may have been called meanwhile, and must not be undone."""
        if uid not in self._reconciling:
            self._states.pop(uid, None)
            raise _Gone

    def _state(self, uid: str, limits: PolicyLimits, configured: AnnouncedClass) -> _State:
        swr_share = configured.stale_while_revalidate / max(configured.ttl, 1.0)
        shape = Shape(limits.shortest, limits.longest, min(swr_share, 10.0))
        state = self._states.get(uid)
        if state is None:
            state = self._states[uid] = _State(Learning(shape), LastReport())
        state.learning.reshape(shape)
        return state

    async def _current(
        self,
        state: _State,
        policy: CachePolicySpec,
        configured: AnnouncedClass,
        limits: PolicyLimits,
        status: Mapping[str, Any],
    ) -> float:
        """The TTL in force, from the surest source to the last resort."""
        if policy.mode != "Auto":
            return configured.ttl
        published = await self._publisher.in_force(policy.cache_class)
        if state.ttl is not None:
            return state.ttl
        if published is not None:
            return published.ttl
        remembered = status.get("ttlSeconds")
        if isinstance(remembered, (int, float)) and math.isfinite(remembered) and remembered >= 0:
            return float(remembered)
        return min(max(limits.initial, limits.shortest), limits.longest)

    def _learn(self, learning: Learning, class_name: str, current: float, now: float) -> None:
        """As it came, part by part: after a start the stream holds minutes, and taken for one moment they would show
        other rates and other jumps than to an operator that saw them pass."""
        for part in self._samples.take(class_name):
            learning.fold(
                part.accesses,
                part.verdicts,
                looked_up=part.looked_up,
                ttl_in_force=current,
                now=min(part.at, now),
            )
        learning.fold([], [], looked_up=0.0, ttl_in_force=current, now=now)

    async def _put_in_force(
        self, state: _State, policy: CachePolicySpec, configured: AnnouncedClass, decision: Decision
    ) -> float:
        if policy.mode != "Auto":
            state.ttl = None
            await self._publisher.publish(policy.cache_class, None)
            return configured.ttl
        state.ttl = decision.ttl
        stale = configured.stale_while_revalidate * decision.ttl / max(configured.ttl, 1.0)
        stale = min(stale, LONGEST_TTL)
        await self._publisher.publish(policy.cache_class, ClassPolicy(decision.ttl, stale))
        return decision.ttl


def _read(spec: Mapping[str, Any]) -> CachePolicySpec:
    return msgspec.convert(dict(spec), CachePolicySpec, strict=False)


def _limits(policy: CachePolicySpec, configured: AnnouncedClass) -> PolicyLimits:
    longest = max(min(seconds(policy.ttl.max), configured.max_ttl, LONGEST_TTL), _SHORTEST_MAX)
    return PolicyLimits(
        shortest=min(seconds(policy.ttl.min), longest),
        longest=longest,
        budget=share(policy.staleness.budget),
        initial=seconds(policy.ttl.initial),
        memory=size(policy.memory.max) if policy.memory.max is not None else None,
        memory_price=policy.prices.memory_gib_hour,
        max_factor=policy.step.max_factor,
        on_infeasible=policy.on_infeasible,
    )


def seconds(written: str) -> float:
    """`1h30m` in seconds. ValueError where it is no duration."""
    if not re.fullmatch(r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+", written):
        raise ValueError(f"{written!r} is not a duration such as 30s, 5m or 1h30m")
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", written))


def size(text: str) -> int:
    """`256Mi` in bytes."""
    return int(text[:-2]) * {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[text[-2:]]


def share(percentage: str) -> float:
    """`1%` as 0.01."""
    return float(percentage.rstrip("%")) / 100
