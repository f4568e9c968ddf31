"""One look at a CachePolicy: what was learnt since the last, what follows, and the status that says why.

A look is level-triggered: it begins with the object as it is and with what is in force, and may be repeated. It
happens each `step.every`, and at once where the spec has changed. Whatever fails, the TTL in force stays in force:
replicas keep the last good document, and the next look begins anew.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from redis.exceptions import RedisError

from dub5.contract import LONGEST_TTL, AnnouncedClass, Announcement, ClassPolicy
from dub5_operator.conditions import Condition, merged
from dub5_operator.crd import CachePolicySpec, seconds, share, size, written
from dub5_operator.metrics import Metrics
from dub5_operator.planner.decision import Decision, Limits
from dub5_operator.planner.drift import DriftEstimate
from dub5_operator.planner.learning import Learning, Shape
from dub5_operator.publish import Publisher
from dub5_operator.samples import READ_EVERY, Samples

Json = dict[str, Any]
Claim = tuple[str, str, str]
"""Creation time, name and uid of a policy: the least is the oldest."""

TROUBLE = (RedisError, OSError, TimeoutError)

_SHORTEST_MAX = 0.001
"""Seconds: what is planned with is never 0, whatever is announced. Replicas keep to their own maximum."""

_NAMED, _NAME = 20, 100
"""Classes that are listed, and characters of each."""

_TOLD_CHANGE = 1.25
"""A TTL that has moved by this much since it was last told is an event."""


class Event(msgspec.Struct, frozen=True):
    """Something that people should be told, on the object."""

    kind: str
    reason: str
    message: str


class Look(msgspec.Struct, frozen=True):
    """What came of one look: fields of the status, conditions, and what to tell."""

    status: Json
    conditions: list[Condition]
    events: list[Event] = []


class _Memory(msgspec.Struct):
    """Of one policy, between looks. `ttl` is what we had put in force."""

    learning: Learning
    ttl: float | None = None
    next_look: float = 0.0
    spec: CachePolicySpec | None = None
    told_ttl: float | None = None
    told_jump: float = 0.0
    within_budget: bool = True


class _Gone(Exception):
    """The policy was deleted while it was looked at."""


class Policies:
    """Looks at policies. `clock` gives seconds since the epoch; where it is that of `samples`, `measure` it."""

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
        self._memories: dict[str, _Memory] = {}
        self._looking: set[str] = set()  # policies that are being looked at, and have not gone meanwhile

    def is_due(self, uid: str, spec: Mapping[str, Any]) -> bool:
        """Whether it is time to look, or the spec is another one."""
        memory = self._memories.get(uid)
        return memory is None or self._clock() >= memory.next_look or memory.spec != _read(spec)

    async def keep_reading(self, classes: set[str]) -> None:
        """Between looks: an hour may lie between two, and Redis keeps less. Trouble is the next look's to tell."""
        with contextlib.suppress(*TROUBLE):
            await self._samples.refresh(classes, every=READ_EVERY)

    async def look(
        self,
        *,
        name: str,
        uid: str,
        spec: Mapping[str, Any],
        status: Mapping[str, Any],
        claims: Iterable[Claim],
        classes: set[str],
    ) -> Look:
        """`claims` are those of all policies for this one's class, `classes` all that some policy is for."""
        with self._metrics.reconcile.time():
            wanted = _read(spec)
            oldest = min(claims, default=None)
            if oldest is not None and oldest[2] != uid:
                return self._superseded(wanted, uid, oldest[1])
            self._looking.add(uid)
            try:
                if self._measure:
                    await self._samples.measure()
                await self._samples.refresh(classes)
                return await self._looked(name, uid, wanted, status)
            except _Gone:
                return _unknown("Gone", "It was deleted while it was looked at.", "False")
            except TROUBLE as error:
                self._metrics.errors.labels(name).inc()
                return _away(error)
            except Exception:  # a defect: kopf logs it and tries again, and the alert goes by the count
                self._metrics.errors.labels(name).inc()
                raise
            finally:
                self._looking.discard(uid)

    async def gone(self, *, name: str, uid: str, class_name: str, claims: Iterable[Claim]) -> None:
        """The policy is deleted: its class has the TTL of its configuration again, or the next policy's."""
        self._looking.discard(uid)
        self._memories.pop(uid, None)
        self._metrics.forget(name)
        if not any(claim[2] != uid for claim in claims):
            await self._publisher.publish(class_name, None)

    def _superseded(self, wanted: CachePolicySpec, uid: str, by: str) -> Look:
        self._memories.pop(uid, None)
        message = f"CachePolicy {by}, which is older, sets the TTL of class {wanted.cache_class}."
        return Look(
            status=_nothing(),
            conditions=[
                Condition("Ready", "False", "Superseded", message),
                Condition("Published", "False", "Superseded", message),
            ],
            events=[Event("Warning", "Superseded", message)],
        )

    async def _looked(self, name: str, uid: str, wanted: CachePolicySpec, status: Mapping[str, Any]) -> Look:
        self._check_there(uid)
        announced = self._samples.announcement
        if announced is None:
            return _unknown("NoReplicas", "No replica has said yet which cache classes there are.", "Unknown")
        configured = announced.classes.get(wanted.cache_class)
        if configured is None:
            return _unknown("UnknownClass", _no_such_class(wanted.cache_class, announced), "False")
        memory = self._memory(uid, wanted, configured)
        now = self._clock()
        current = await self._current(memory, wanted, configured, status)
        self._learn(memory, wanted.cache_class, current, now)
        decision = memory.learning.decide(_limits(wanted, configured), current, now)
        self._check_there(uid)  # what is published from here on is published before what `gone` publishes
        ttl = await self._put_in_force(memory, wanted, configured, decision)
        self._check_there(uid)
        told = decision if wanted.mode == "Auto" else memory.learning.kept(decision, ttl, now)
        self._metrics.tell(
            name,
            told,
            memory.learning.drift,
            class_name=wanted.cache_class,
            budget=share(wanted.staleness.budget),
        )
        memory.next_look, memory.spec = now + seconds(wanted.step.every), wanted
        return Look(
            status=_status(told, memory.learning),
            conditions=_conditions(wanted, told, ttl),
            events=_events(memory, wanted, told),
        )

    def _check_there(self, uid: str) -> None:
        """After each wait: `gone` may have been called meanwhile, and must not be undone."""
        if uid not in self._looking:
            self._memories.pop(uid, None)
            raise _Gone

    def _memory(self, uid: str, wanted: CachePolicySpec, configured: AnnouncedClass) -> _Memory:
        limits = _limits(wanted, configured)
        swr_share = configured.stale_while_revalidate / max(configured.ttl, 1.0)
        shape = Shape(limits.shortest, limits.longest, min(swr_share, 10.0))
        memory = self._memories.get(uid)
        if memory is None:
            memory = self._memories[uid] = _Memory(Learning(shape))
        memory.learning.reshape(shape)
        return memory

    async def _current(
        self,
        memory: _Memory,
        wanted: CachePolicySpec,
        configured: AnnouncedClass,
        status: Mapping[str, Any],
    ) -> float:
        """The TTL in force, from the surest source to the last resort."""
        if wanted.mode != "Auto":
            return configured.ttl
        published = await self._publisher.in_force(wanted.cache_class)
        if memory.ttl is not None:
            return memory.ttl
        if published is not None:
            return published.ttl
        remembered = status.get("ttlSeconds")
        if isinstance(remembered, (int, float)) and math.isfinite(remembered) and remembered >= 0:
            return float(remembered)
        limits = _limits(wanted, configured)
        return min(max(seconds(wanted.ttl.initial), limits.shortest), limits.longest)

    def _learn(self, memory: _Memory, class_name: str, current: float, now: float) -> None:
        """As it came, part by part: after a start the stream holds minutes, and taken for one moment they would show
        other rates and other jumps than those who saw them pass."""
        for part in self._samples.take(class_name):
            memory.learning.fold(
                part.accesses,
                part.verdicts,
                looked_up=part.looked_up,
                ttl_in_force=current,
                now=min(part.at, now),
            )
        memory.learning.fold([], [], looked_up=0.0, ttl_in_force=current, now=now)

    async def _put_in_force(
        self, memory: _Memory, wanted: CachePolicySpec, configured: AnnouncedClass, decision: Decision
    ) -> float:
        if wanted.mode != "Auto":
            memory.ttl = None
            await self._publisher.publish(wanted.cache_class, None)
            return configured.ttl
        memory.ttl = decision.ttl
        stale = configured.stale_while_revalidate * decision.ttl / max(configured.ttl, 1.0)
        stale = min(stale, LONGEST_TTL)
        await self._publisher.publish(wanted.cache_class, ClassPolicy(decision.ttl, stale))
        return decision.ttl


def _read(spec: Mapping[str, Any]) -> CachePolicySpec:
    return msgspec.convert(dict(spec), CachePolicySpec, strict=False)


def _limits(wanted: CachePolicySpec, configured: AnnouncedClass) -> Limits:
    longest = max(min(seconds(wanted.ttl.max), configured.max_ttl, LONGEST_TTL), _SHORTEST_MAX)
    return Limits(
        shortest=min(seconds(wanted.ttl.min), longest),
        longest=longest,
        budget=share(wanted.staleness.budget),
        initial=seconds(wanted.ttl.initial),
        memory=size(wanted.memory.max) if wanted.memory.max is not None else None,
        memory_price=wanted.prices.memory_gib_hour,
        max_factor=wanted.step.max_factor,
        on_infeasible=wanted.on_infeasible,
    )


def _status(decision: Decision, learning: Learning) -> Json:
    drift, curve = learning.drift, learning.curve(0.0)
    return {
        "ttl": written(decision.ttl) if decision.ttl else "0s",
        "ttlSeconds": float(f"{decision.ttl:.6g}"),
        "recommended": written(decision.recommended) if decision.recommended else "0s",
        "boundBy": decision.bound_by,
        "reason": decision.reason,
        "hitRatio": _percent(decision.hit_ratio),
        "measuredHitRatio": _percent(decision.measured_hit_ratio),
        "stale": _percent(decision.stale),
        "staleBound": _percent(decision.stale_upper),
        "driftPerHour": _drift(drift),
        "noise": _percent(drift.noise) if drift.observations else None,
        "saving": None if math.isnan(decision.saving) else f"${decision.saving:.3g}/h",
        "memory": None if math.isnan(decision.bytes) else f"{decision.bytes / 2**20:.3g}Mi",
        "lookUps": int(curve.seen) if curve is not None else 0,
        "comparisons": int(drift.observations),
    }


def _nothing() -> Json:
    """A status without figures; None takes a field away."""
    names = ("recommended", "boundBy", "reason", "hitRatio", "measuredHitRatio", "stale", "staleBound")
    return dict.fromkeys(("ttl", "ttlSeconds", *names, "driftPerHour", "noise", "saving", "memory"))


def _percent(ratio: float) -> str | None:
    return None if math.isnan(ratio) else f"{100 * ratio:.3g}%"


def _drift(drift: DriftEstimate) -> str | None:
    if not math.isfinite(drift.upper):
        return None
    rate, lower, upper = (f"{each * 3600:.3g}" for each in (drift.rate, drift.lower, drift.upper))
    return f"{rate} ({lower} to {upper})"


def _conditions(wanted: CachePolicySpec, decision: Decision, ttl: float) -> list[Condition]:
    published = wanted.mode == "Auto"
    told = f"Class {wanted.cache_class} has a TTL of {written(ttl) if ttl else '0s, it is not cached'}."
    if not published:
        told += f" Mode {wanted.mode}: it is the configuration's."
    budget = wanted.staleness.budget
    within = (
        Condition("WithinBudget", "True", "Feasible", f"At most {budget} of hits are stale.")
        if decision.within_budget
        else Condition(
            "WithinBudget",
            "False",
            "Infeasible",
            f"The budget of {budget} cannot be kept: {decision.reason}. onInfeasible: {wanted.on_infeasible}.",
        )
    )
    sufficient = (
        Condition("DataSufficient", "True", "Measured", "Enough was seen to decide.")
        if decision.sufficient
        else Condition("DataSufficient", "False", "TooLittle", f"The TTL stays: {decision.reason}.")
    )
    return [
        Condition("Ready", "True", "Looked", told),
        sufficient,
        within,
        Condition("Published", "True" if published else "False", wanted.mode, told),
    ]


def _events(memory: _Memory, wanted: CachePolicySpec, decision: Decision) -> list[Event]:
    events = []
    jumps = [jump for jump in memory.learning.jumps if jump[0] > memory.told_jump]
    if jumps:
        memory.told_jump = jumps[-1][0]
        factor = jumps[-1][1]
        how = f"{factor:.2g} times as fast as" if factor >= 1 else f"{1 / factor:.2g} times more slowly than"
        message = f"Answers of class {wanted.cache_class} change {how} before."
        events.append(Event("Warning" if factor > 1 else "Normal", "DriftChanged", message))
    if decision.within_budget != memory.within_budget:
        memory.within_budget = decision.within_budget
        message = f"The staleness budget of class {wanted.cache_class} can be kept again."
        if not decision.within_budget:
            message = f"The staleness budget of class {wanted.cache_class} cannot be kept: {decision.reason}."
        events.append(Event("Normal" if decision.within_budget else "Warning", "BudgetChanged", message))
    last = memory.told_ttl
    if wanted.mode == "Auto" and last is not None and _has_moved(last, decision.ttl):
        message = (
            f"TTL of class {wanted.cache_class}: {written(last) if last else '0s'} -> "
            f"{written(decision.ttl) if decision.ttl else '0s'}, bound by {decision.bound_by}; {decision.reason}."
        )
        events.append(Event("Normal", "TTLChanged", message))
        memory.told_ttl = decision.ttl
    elif last is None:
        memory.told_ttl = decision.ttl
    return events


def _has_moved(last: float, ttl: float) -> bool:
    if not last or not ttl:
        return last != ttl
    return not 1 / _TOLD_CHANGE < ttl / last < _TOLD_CHANGE


def _unknown(reason: str, message: str, ready: Any) -> Look:
    return Look(
        status={},
        conditions=[Condition("Ready", ready, reason, message)],
        events=[Event("Warning", reason, message)] if ready == "False" else [],
    )


def _no_such_class(name: str, announced: Announcement) -> str:
    known = [each[:_NAME] for each in sorted(announced.classes)[:_NAMED]]
    return f"The service has no cache class {name}; it has {', '.join(known) or 'none'}."


def _away(error: Exception) -> Look:
    message = f"Redis does not answer ({type(error).__name__}); what is in force stays in force."
    return Look(
        status={},
        conditions=[
            Condition("Ready", "Unknown", "RedisUnavailable", message),
            Condition("Published", "Unknown", "RedisUnavailable", message),
        ],
    )


def apply(body: Json, look: Look, *, now: datetime | None = None) -> None:
    """Write a look into an object's status; may be done again on a newer version of it."""
    status = body.setdefault("status", {})
    for name, value in look.status.items():
        if value is None:
            status.pop(name, None)
        else:
            status[name] = value
    stamp = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    generation = int(body.get("metadata", {}).get("generation", 0))
    status["conditions"] = merged(
        status.get("conditions", []), look.conditions, now=stamp, generation=generation
    )
