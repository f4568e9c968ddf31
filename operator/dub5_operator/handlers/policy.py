"""Reconciles a CachePolicy: takes in what was sampled, decides its class's TTL, puts it in force, and says why.

It is level-triggered: it begins with the object as it is and with what is in force, and may be repeated. It happens
each `step.every`, at once where the spec has changed, and each RETRY where the policy is not in force. Events are told
on edges only: what the object's status says already is no event. Whatever fails, the TTL in force stays in force:
replicas keep the last good document, and the next reconciliation begins anew.

What came of it is reported on the object, as fields of the status, conditions and events, and to Prometheus. Conditions
are a list in which each type is once, and whose times say when a status last changed. Metrics have the names of the
contract, one series a policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from dub5.contract import LONGEST_TTL, AnnouncedClass, Announcement, ClassPolicy, purge_names
from dub5_operator.crd import CachePolicySpec, Json, ScheduleSpec, seconds
from dub5_operator.planner.canary import Measured
from dub5_operator.planner.decision import Decision, Learning, PolicyLimits
from dub5_operator.planner.durations import written
from dub5_operator.planner.questions import BoundBy, DriftEstimate
from dub5_operator.redis import (
    READ_EVERY,
    READ_FOR,
    REDIS_ERRORS,
    SILENT,
    Overtaken,
    Publisher,
    Samples,
    TooMany,
    trouble,
)
from dub5_operator.schedule import Cut, Schedule

Claim = tuple[str, str, str]
"""Creation time, name and uid of a policy: the least is the oldest."""

_SHORTEST_MAX = 0.001
"""Seconds: what is planned with is never 0, whatever is announced. Replicas keep to their own maximum."""

LOG_INTERVAL = 60.0
"""Seconds between two lines about undecodable values of one kind, at least."""

_NAMED, _NAME = 20, 100
"""Classes that are listed, and characters of each."""

RETRY = 30.0
"""Seconds until a policy that is not in force is reconciled again."""

_REPORTED_CHANGE = 1.25
"""A TTL that has moved by this much since it was last reported is an event."""

_SIZES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZES |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

ConditionStatus = Literal["True", "False", "Unknown"]
_EXPOSED = ("Ready", "WithinBudget")
"""Conditions that are metrics."""

_log: FilteringBoundLogger = structlog.get_logger()


_FIGURES = (
    *("ttl", "ttlSeconds", "recommended", "boundBy", "reason", "noise", "saving", "memory"),
    *("hitRatio", "measuredHitRatio", "stale", "staleBound", "staleMeasured", "driftPerHour"),
    *("lookUps", "comparisons"),
)
"""Of a status: what is true of a policy only where its class's TTL is its own."""


class Condition(msgspec.Struct, frozen=True):
    """What is true of an object, why, and what to do about it."""

    type: str
    status: ConditionStatus
    reason: str
    message: str


class Event(msgspec.Struct, frozen=True):
    """What happened to an object, for people who describe it."""

    kind: str
    reason: str
    message: str


class Report(msgspec.Struct, frozen=True):
    """What came of one reconciliation: fields of the status (None takes one away), conditions, events."""

    status: Json
    conditions: list[Condition]
    events: list[Event] = []


class LastReport(msgspec.Struct):
    """What was last reported of a policy: its TTL in seconds, until when changes of drift were, its budget."""

    ttl: float | None = None
    reported_until: float = 0.0
    within_budget: bool = True

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> LastReport:
        """By the object itself, which another operator may have reported on."""
        ttl, at = status.get("ttlSeconds"), str(status.get("lastReconcileTime") or "")
        within = _condition(status, "WithinBudget").get("status") != "False"
        try:
            until = datetime.fromisoformat(at).timestamp()
        except ValueError:
            until = 0.0
        return cls(float(ttl) if isinstance(ttl, (int, float)) else None, until, within)


class _Gauge(Collector):
    """A gauge by policy, and by more labels. prometheus_client's takes most of a kilobyte a series, and a policy has
    27. It is read in other threads."""

    def __init__(self, name: str, meaning: str, registry: CollectorRegistry, *more: str) -> None:
        self.label_names = ("policy", *more)
        self._name, self._meaning = f"dub5_operator_{name}", meaning
        self._series: dict[tuple[str, ...], float] = {}
        self._others: set[tuple[str, ...]] = set()  # what the other labels have been
        registry.register(self)

    def set(self, value: float, policy: str, *others: str) -> None:
        """Without a series where the value is not finite: it is not known any more."""
        if math.isfinite(value):
            self._others.add(others)
            self._series[(policy, *others)] = value
        else:
            self._series.pop((policy, *others), None)

    def forget(self, policy: str) -> None:
        for others in self._others:
            self._series.pop((policy, *others), None)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        yield GaugeMetricFamily(self._name, self._meaning, labels=self.label_names)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        [family] = self.describe()
        for labels, value in self._series.copy().items():
            family.add_metric(labels, value)
        yield family


class Metrics:
    """A registry of its own; each series has the policy's name for a label."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._gauges = {
            name: _Gauge(name, text, self.registry)
            for name, text in {
                "ttl_seconds": "TTL in force.",
                "recommended_ttl_seconds": "TTL that the measurements recommend.",
                "drift_per_hour": "Changes per hour of the answer to a hit.",
                "drift_upper_per_hour": "Upper end of what they may be, one-sided 98 %.",
                "noise_ratio": "Share of new answers that differ although nothing changed.",
                "predicted_hit_ratio": "Hit ratio that is predicted; where each question has its TTL, as measured.",
                "measured_hit_ratio": "Hit ratio of all look-ups; what is half an hour or four TTLs old counts half.",
                "predicted_stale_ratio": "Share of hits that are out of date, best estimate.",
                "predicted_stale_upper_ratio": "Its upper bound, which is held under the budget.",
                "measured_stale_ratio": "Share of hits that canaries found to be out of date.",
                "measured_stale_lower_ratio": "Lower end of its interval of 95 %.",
                "measured_stale_upper_ratio": "Upper end of its interval of 95 %.",
                "saving_dollars_per_hour": "What the TTL saves: calls avoided less canaries and memory.",
            }.items()
        }
        self._times = {
            name: _Gauge(f"{name}_reconcile_timestamp_seconds", text, self.registry)
            for name, text in {
                "last": "When the policy was last reconciled without an error, since the epoch.",
                "next": "When it is to be reconciled next, since the epoch.",
            }.items()
        }
        self._conditions = _Gauge(
            "condition",
            "1 for the status that a condition of the policy has.",
            self.registry,
            "condition",
            "status",
        )
        self._budget = _Gauge(
            "stale_budget_ratio", "Share of hits that may be out of date.", self.registry, "class"
        )
        self._bound_by = _Gauge(
            "bound_by", "1 for what keeps the TTL from being longer.", self.registry, "reason"
        )
        self.in_charge = Gauge(
            "dub5_operator_in_charge",
            "1 where this operator publishes, 0 where another one began later.",
            registry=self.registry,
        )
        self.reconcile = Histogram(
            "dub5_operator_reconcile_seconds", "Time to reconcile one policy.", registry=self.registry
        )
        self.errors = Counter(
            "dub5_operator_errors",
            "Reconciliations of a policy that failed.",
            ["policy"],
            registry=self.registry,
        )
        self._undecodable = Counter(
            "dub5_operator_redis_undecodable",
            "Values in Redis that are not what is written there, or cannot be true, by what they should be.",
            ["kind"],
            registry=self.registry,
        )
        self._logged: dict[str, float] = {}

    def undecodable(self, kind: str, reason: object) -> None:
        """Count a value that cannot be read; it is logged once a minute for each kind."""
        self._undecodable.labels(kind).inc()
        now = time.monotonic()
        if now >= self._logged.get(kind, -LOG_INTERVAL) + LOG_INTERVAL:
            self._logged[kind] = now
            _log.warning("redis value undecodable", kind=kind, reason=str(reason))

    def set(
        self,
        policy: str,
        decision: Decision,
        drift: DriftEstimate,
        *,
        class_name: str,
        budget: float,
        measured: Measured | None = None,
    ) -> None:
        """After a reconciliation. `class_name` is the policy's, `budget` the share of hits that may be out of date,
        `measured` what canaries found to be."""
        found = (math.nan, math.nan, math.nan) if measured is None else measured[:3]
        figures = {
            "ttl_seconds": decision.ttl,
            "recommended_ttl_seconds": decision.recommended,
            "drift_per_hour": drift.rate * 3600,
            "drift_upper_per_hour": drift.upper * 3600,
            "noise_ratio": drift.noise if drift.observations else math.nan,
            "predicted_hit_ratio": decision.hit_ratio,
            "measured_hit_ratio": decision.measured_hit_ratio,
            "predicted_stale_ratio": decision.stale,
            "predicted_stale_upper_ratio": decision.stale_upper,
            "measured_stale_ratio": found[0],
            "measured_stale_lower_ratio": found[1],
            "measured_stale_upper_ratio": found[2],
            "saving_dollars_per_hour": decision.saving,
        }
        for name, value in figures.items():
            self._gauges[name].set(value, policy)
        self._budget.set(budget, policy, class_name)
        for reason in get_args(BoundBy):
            self._bound_by.set(float(decision.bound_by == reason), policy, reason)

    def report(self, policy: str, report: Report, *, now: float, due_at: float) -> None:
        """What came of a reconciliation, and when the next one is due; seconds since the epoch."""
        ready = report.conditions[0].status
        if ready == "False":  # nothing of it is in force
            self.forget(policy)
        for each in report.conditions:
            if each.type in _EXPOSED:
                for status in get_args(ConditionStatus):
                    self._conditions.set(float(each.status == status), policy, each.type, status.lower())
        if ready != "Unknown":
            self._times["last"].set(now, policy)
        self._times["next"].set(due_at, policy)

    def forget(self, policy: str) -> None:
        """The policy is gone, and so are its series."""
        for gauge in (
            *self._gauges.values(),
            *self._times.values(),
            self._budget,
            self._bound_by,
            self._conditions,
        ):
            gauge.forget(policy)


_NO_SCHEDULE = Schedule([])


class _State(msgspec.Struct):
    """Of one policy, between reconciliations. `uncut` is what we had put in force, but for cuts; `asked_at` when the
    schedule was last asked for purges, 0 for never; `entries` of that schedule, None: of an operator before this one.
    """

    last_report: LastReport
    uncut: ClassPolicy | None = None
    schedule: Schedule = _NO_SCHEDULE
    asked_at: float = 0.0
    entries: list[ScheduleSpec] | None = None


class _Due(msgspec.Struct, frozen=True):
    """When a policy is to be reconciled next, unless its spec has become another one. `since` is when that was said: a
    clock may be set back."""

    since: float
    at: float
    spec: Json


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
        self._due: dict[str, _Due] = {}
        self._reconciling: set[str] = set()  # uids, of those that have not gone meanwhile

    def is_due(self, uid: str, spec: Mapping[str, Any]) -> bool:
        """Whether it is time, or the spec is another one."""
        due = self._due.get(uid)
        return due is None or not due.since <= self._clock() < due.at or due.spec != dict(spec)

    def repeat(self, uid: str) -> None:
        """Reconcile it anew with the next tick: what came of it could not be reported."""
        self._due.pop(uid, None)

    async def keep(self, classes: Collection[str]) -> None:
        """Between two reconciliations, which may be an hour apart: read on, since Redis keeps less, and renew what is
        published. Errors are the next one's."""
        if self._publisher.in_charge:
            with contextlib.suppress(Overtaken, *REDIS_ERRORS):
                await self._samples.refresh(classes, every=READ_EVERY, learn=(), most=READ_FOR)
                await self._publisher.renew(classes)

    async def reconcile(
        self,
        *,
        name: str,
        uid: str,
        spec: Mapping[str, Any],
        status: Mapping[str, Any],
        claims: Iterable[Claim],
        classes: Collection[str],
    ) -> Report | None:
        """`claims` are those of all policies for this one's class, `classes` all that some policy is for.

        None where another operator began later: it is for that one to say what comes of the policy, where it knows of
        it. One of another release does not: then the policy is not ready, and says so."""
        claims = list(claims)
        self._reconciling.add(uid)
        try:
            report = _on_edges(await self._reconcile(name, uid, spec, status, claims, classes), status)
            self._metrics.in_charge.set(1)
            if uid not in self._reconciling:
                return report
            ready, now = report.conditions[0].status, self._clock()
            due_at = now + RETRY
            if ready == "True":
                every = seconds(_read(spec).step.every)
                due_at = min(now + every, self._states[uid].schedule.next(now))
            self._due[uid] = _Due(now, due_at, dict(spec))
            self._metrics.report(name, report, now=now, due_at=due_at)
            times = {"nextReconcileTime": _stamp(due_at)}
            if ready != "Unknown":
                times["lastReconcileTime"] = _stamp(now)
            return msgspec.structs.replace(report, status={**report.status, **times})
        except Overtaken:
            self._states.clear()  # what is learnt from here on, the other one learns
            self._metrics.forget(name)
            self._metrics.in_charge.set(0)
            if uid not in self._reconciling:  # deleted meanwhile
                return None
            now = self._clock()
            self._due[uid] = _Due(now, now + RETRY, dict(spec))
            if now < _attended_until(status, uid, claims):
                return None
            report = _on_edges(overtaken(), status)
            self._metrics.report(name, report, now=math.nan, due_at=now + RETRY)
            return report
        finally:
            self._reconciling.discard(uid)

    async def _reconcile(
        self,
        name: str,
        uid: str,
        spec: Mapping[str, Any],
        status: Mapping[str, Any],
        claims: Iterable[Claim],
        classes: Collection[str],
    ) -> Report:
        with self._metrics.reconcile.time():
            try:
                if self._measure:
                    await self._samples.measure()
                if not await self._publisher.take_charge():
                    raise Overtaken
                try:
                    policy = _read(spec)
                except msgspec.ValidationError as error:
                    return _not_ready("InvalidSpec", f"{error}.", "False")
                oldest = min(claims, default=None)
                if oldest is not None and oldest[2] != uid:
                    self._states.pop(uid, None)
                    return superseded(policy, by=oldest[1])
                self._publisher.retain(classes)
                await self._samples.refresh(classes, learn={policy.cache_class}, most=READ_FOR)
                if self._samples.behind:
                    await self._publisher.renew(classes)
                return await self._decide(name, uid, policy, status)
            except _Gone:
                return gone()
            except REDIS_ERRORS as error:
                self._metrics.errors.labels(name).inc()
                return redis_unavailable(error)
            except TooMany as error:
                self._states.pop(uid, None)
                return too_many(error.classes)
            except Overtaken:
                raise
            except Exception:  # a defect: kopf logs it and tries again, and the alert goes by the count
                self._metrics.errors.labels(name).inc()
                raise

    async def gone(self, *, name: str, uid: str, class_name: str, claims: Iterable[Claim]) -> None:
        """The policy is deleted: its class has the TTL of its configuration again, or the next policy's."""
        self._reconciling.discard(uid)
        self._states.pop(uid, None)
        self._due.pop(uid, None)
        self._metrics.forget(name)
        self._metrics.errors.remove(name)  # only here: a counter never goes back
        others = [claim[2] for claim in claims if claim[2] != uid]
        for other in others:
            self._due.pop(other, None)  # one of them is in force now
        if not others:
            with contextlib.suppress(Overtaken):
                await self._publisher.publish(class_name, None)

    async def _decide(
        self, name: str, uid: str, policy: CachePolicySpec, status: Mapping[str, Any]
    ) -> Report:
        self._check_there(uid)
        announced = self._samples.announcement
        if announced is None:
            return no_replicas()
        configured = announced.classes.get(policy.cache_class)
        if configured is None:
            return unknown_class(policy.cache_class, announced)
        if self._samples.behind and policy.mode != "Off":
            return reading(self._samples.behind)
        try:
            # In mode Observe or Off it is only checked.
            schedule = await asyncio.to_thread(Schedule, policy.schedule) if policy.schedule else _NO_SCHEDULE
        except ValueError as error:
            return _not_ready("InvalidSchedule", f"{error}.", "False")
        limits = limits_of(policy, configured)
        state, now = self._state(uid, status), self._clock()
        learnt = self._samples.learnings[policy.cache_class]
        learning = learnt.learning
        state.schedule = schedule if policy.mode == "Auto" else _NO_SCHEDULE
        current = await self._current(state, policy, configured, limits, status)
        decision = learning.decide(limits, current, now)
        self._check_there(uid)  # what is published from here on is published before what `gone` publishes
        purged = await self._purge(state, policy, now)
        cut = state.schedule.cut(now)
        published = await self._put_in_force(state, policy, configured, decision, cut)
        self._check_there(uid)
        ttl, question = configured.ttl, None
        if published is not None:
            ttl, question = published.ttl, published.question
        if (ttl, question) != (decision.ttl, decision.question):
            decision = learning.kept(decision, ttl, now)
            if cut is not None:
                reason = f"{decision.reason}; cut by the schedule until {_stamp(cut.until)}"
                decision = replace(decision, reason=reason)
        learnt.ttl, measured = ttl, learnt.stale.measured()
        await self._samples.save(policy.cache_class)
        self._metrics.set(
            name,
            decision,
            learning.drift,
            class_name=policy.cache_class,
            budget=share(policy.staleness.budget),
            measured=measured,
        )
        report = in_force(
            policy,
            decision,
            learning,
            state.last_report,
            ttl,
            published=published,
            measured=measured,
        )
        return msgspec.structs.replace(report, events=[*purged, *report.events])

    async def _purge(self, state: _State, policy: CachePolicySpec, now: float) -> list[Event]:
        """Where the schedule says so, since it was last asked; also what came while no operator was there."""
        entries = policy.schedule if policy.mode == "Auto" else []
        # What a new entry would have done earlier is not late.
        new = [each for each in entries if state.entries is not None and each not in state.entries]
        due = state.schedule.purges(state.asked_at or now, now, but=new)
        state.entries = entries
        if not due:
            state.asked_at = now
            return []
        await self._publisher.purge(purge_names(class_name=policy.cache_class))
        state.asked_at = now
        message = f"Answers of class {policy.cache_class} are forgotten on every replica, as scheduled."
        return [Event("Normal", "Purged", message)]

    def _check_there(self, uid: str) -> None:
        """After each wait: `gone` may have been called meanwhile, and must not be undone."""
        if uid not in self._reconciling:
            self._states.pop(uid, None)
            raise _Gone

    def _state(self, uid: str, status: Mapping[str, Any]) -> _State:
        state = self._states.get(uid)
        if state is None:
            last = LastReport.of(status)
            # Purges that came due while nobody reconciled are asked for now.
            state = self._states[uid] = _State(last, asked_at=last.reported_until)
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
        if policy.mode == "Off":
            return configured.ttl
        if state.uncut is not None:
            return state.uncut.ttl
        published = await self._publisher.in_force(policy.cache_class)
        if policy.mode == "Observe":
            return configured.ttl if published is None else published.ttl
        cut = state.schedule.cut(state.asked_at)
        if published is not None and cut is not None and published.ttl <= cut.ttl:
            # Cut by an operator before this one, which would have gone back.
            with contextlib.suppress(ValueError):
                return seconds(str(status.get("recommended")))
        if published is not None:
            return published.ttl
        remembered = status.get("ttlSeconds")
        if isinstance(remembered, (int, float)) and math.isfinite(remembered) and remembered >= 0:
            return float(remembered)
        return min(max(limits.initial, limits.shortest), limits.longest)

    async def _put_in_force(
        self,
        state: _State,
        policy: CachePolicySpec,
        configured: AnnouncedClass,
        decision: Decision,
        cut: Cut | None,
    ) -> ClassPolicy | None:
        """Gives what is published then; None: the class has its own TTL."""
        if policy.mode == "Auto":
            stale = min(
                configured.stale_while_revalidate * decision.ttl / max(configured.ttl, 1.0), LONGEST_TTL
            )
            auto = ClassPolicy(decision.ttl, stale, decision.question, share(policy.canary))
            wanted: ClassPolicy | None = auto if cut is None else _cut(auto, cut.ttl)
            uncut: ClassPolicy | None = auto
        elif policy.mode == "Observe":
            # What was put in force before goes on: to look on only is no reason for another TTL.
            wanted, uncut = state.uncut or await self._publisher.in_force(policy.cache_class), None
        else:
            wanted = uncut = None
        await self._publisher.publish(policy.cache_class, wanted)
        state.uncut = uncut
        return wanted


def _cut(policy: ClassPolicy, most: float) -> ClassPolicy:
    """With TTLs of so many seconds at most, that of each question too."""
    if policy.question is not None:
        shortest, longest = min(policy.question.shortest, most), min(policy.question.longest, most)
        question = msgspec.structs.replace(policy.question, shortest=shortest, longest=longest)
        policy = msgspec.structs.replace(policy, question=question)
    if policy.ttl <= most:
        return policy
    stale = (policy.stale_while_revalidate or 0.0) * most / policy.ttl
    return msgspec.structs.replace(policy, ttl=most, stale_while_revalidate=stale)


def _on_edges(report: Report, status: Mapping[str, Any]) -> Report:
    """Without events of a policy that is not in force, where its status says why already."""
    ready = report.conditions[0]
    before = _condition(status, "Ready")
    if ready.status == "True" or (before.get("status"), before.get("reason")) != (ready.status, ready.reason):
        return report
    return msgspec.structs.replace(report, events=[])


def _attended_until(status: Mapping[str, Any], uid: str, claims: Iterable[Claim]) -> float:
    """Until when whoever reconciles a policy has to do so again, in seconds since the epoch, with room. What is said of
    one that was overtaken does not move it."""
    created = (claim[0] for claim in claims if claim[2] == uid)
    try:
        due = datetime.fromisoformat(str(status.get("nextReconcileTime") or next(created, ""))).timestamp()
    except ValueError:
        return 0.0
    return due + SILENT


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """As the object has it; empty where it has none."""
    found = (each for each in status.get("conditions") or () if each.get("type") == kind)
    return next(found, {})


def _read(spec: Mapping[str, Any]) -> CachePolicySpec:
    return msgspec.convert(dict(spec), CachePolicySpec, strict=False)


def limits_of(policy: CachePolicySpec, configured: AnnouncedClass) -> PolicyLimits:
    """What the planner is to keep to."""
    longest = max(min(seconds(policy.ttl.max), configured.max_ttl, LONGEST_TTL), _SHORTEST_MAX)
    return PolicyLimits(
        shortest=min(seconds(policy.ttl.min), longest),
        longest=longest,
        budget=share(policy.staleness.budget),
        question=min(1.0, policy.staleness.per_question * share(policy.staleness.budget)),
        initial=seconds(policy.ttl.initial),
        memory=size(policy.memory.max) if policy.memory.max is not None else None,
        memory_price=policy.prices.memory_gib_hour,
        canary=share(policy.canary),
        max_factor=policy.step.max_factor,
        on_infeasible=policy.on_infeasible,
    )


def size(text: str) -> int:
    """`256Mi`, `1.5G` or `1000` in bytes."""
    unit = text.lstrip("0123456789.")
    return int(float(text.removesuffix(unit)) * _SIZES[unit])


def share(percentage: str) -> float:
    """`1%` as 0.01."""
    return float(percentage.rstrip("%")) / 100


def in_force(
    spec: CachePolicySpec,
    decision: Decision,
    learning: Learning,
    last: LastReport,
    ttl: float,
    *,
    published: ClassPolicy | None,
    measured: Measured | None = None,
) -> Report:
    """Of a policy that was reconciled: the class's TTL is `ttl`, the operator's where something is `published`, or its
    own."""
    return Report(
        status=status_of(decision, learning, measured),
        conditions=_conditions(spec, decision, ttl, published),
        events=_events(last, spec, decision, learning),
    )


def overtaken() -> Report:
    """Another operator publishes, and it does not know of the policy."""
    message = (
        "Another operator, which began later, publishes in this Redis, and does nothing for this policy; "
        "each release needs a Redis of its own."
    )
    conditions = [Condition(each, "False", "Overtaken", message) for each in ("Ready", "Published")]
    return Report(dict.fromkeys(_FIGURES), conditions, [Event("Warning", "Overtaken", message)])


def superseded(spec: CachePolicySpec, by: str) -> Report:
    """Another policy sets the TTL of its class."""
    message = f"CachePolicy {by}, which is older, sets the TTL of class {spec.cache_class}."
    return Report(
        status=dict.fromkeys(_FIGURES),
        conditions=[
            Condition("Ready", "False", "Superseded", message),
            Condition("Published", "False", "Superseded", message),
        ],
        events=[Event("Warning", "Superseded", message)],
    )


def gone() -> Report:
    """It was deleted meanwhile."""
    return _not_ready("Gone", "It was deleted while it was reconciled.", "False")


def no_replicas() -> Report:
    """It is not known which classes there are."""
    return _not_ready("NoReplicas", "No replica has said yet which cache classes there are.", "Unknown")


def reading(behind: float) -> Report:
    """What came before the operator began is not learnt yet, so many seconds of it."""
    message = (
        f"What was sampled before the operator began is being read, {written(behind)} of it are left; "
        "what is in force stays in force."
    )
    return _not_ready("Reading", message, "Unknown")


def unknown_class(name: str, announced: Announcement) -> Report:
    """The service has no such class."""
    known = [each[:_NAME] for each in sorted(announced.classes)[:_NAMED]]
    message = f"The service has no cache class {name}; it has {', '.join(known) or 'none'}."
    return _not_ready("UnknownClass", message, "False", dict.fromkeys(_FIGURES))


def too_many(classes: int) -> Report:
    """There is no room for its class in what is published."""
    message = f"{classes} classes have a policy already, and what is published has no room for more."
    return _not_ready("TooMany", message, "False", dict.fromkeys(_FIGURES))


def _not_ready(
    reason: str, message: str, ready: ConditionStatus, status: Mapping[str, None] | None = None
) -> Report:
    return Report(
        status=dict(status or {}),
        conditions=[Condition("Ready", ready, reason, message)],
        events=[Event("Warning", reason, message)] if ready == "False" else [],
    )


def redis_unavailable(error: Exception) -> Report:
    """Nothing could be read or published."""
    message = f"Redis does not answer ({trouble(error)}); what is in force stays in force."
    return Report(
        status={},
        conditions=[
            Condition("Ready", "Unknown", "RedisUnavailable", message),
            Condition("Published", "Unknown", "RedisUnavailable", message),
        ],
    )


def apply(body: Json, report: Report, *, now: datetime | None = None) -> None:
    """Write a report into an object's status; may be done again on a newer version of it."""
    status = body.setdefault("status", {})
    for name, value in report.status.items():
        if value is None:
            status.pop(name, None)
        else:
            status[name] = value
    write_conditions(body, report.conditions, now=now)


def write_conditions(body: Json, conditions: list[Condition], *, now: datetime | None = None) -> str:
    """In place of those that are there; gives the time, as RFC 3339. Times of those that stay as they are stay."""
    stamp = _stamp((now or datetime.now(UTC)).timestamp())
    status = body.setdefault("status", {})
    before = {str(each.get("type")): each for each in status.get("conditions", [])}
    status["conditions"] = [
        {
            "type": each.type,
            "status": each.status,
            "reason": each.reason,
            "message": each.message,
            "lastTransitionTime": _since(before.get(each.type), each, stamp),
            "observedGeneration": int(body.get("metadata", {}).get("generation", 0)),
        }
        for each in conditions
    ]
    return stamp


def _stamp(at: float) -> str:
    """Seconds since the epoch as RFC 3339."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _since(before: Mapping[str, Any] | None, condition: Condition, now: str) -> str:
    if before is not None and before.get("status") == condition.status:
        return str(before.get("lastTransitionTime") or now)
    return now


def status_of(decision: Decision, learning: Learning, measured: Measured | None) -> Json:
    """Fields of the status, but for times and conditions."""
    drift, curve = learning.drift, learning.curve(0.0)  # for `seen`, which is of no time
    return {
        "ttl": written(decision.ttl) if decision.ttl else "0s",
        "ttlSeconds": float(f"{decision.ttl:.6g}"),
        "recommended": written(decision.recommended) if decision.recommended else "0s",
        "boundBy": decision.bound_by,
        "reason": decision.reason,
        "hitRatio": percent(decision.hit_ratio),
        "measuredHitRatio": percent(decision.measured_hit_ratio),
        "stale": percent(decision.stale),
        "staleBound": percent(decision.stale_upper),
        "staleMeasured": None if measured is None else _measured(measured),
        "driftPerHour": _drift(drift),
        "noise": percent(drift.noise) if drift.observations else None,
        "saving": None if math.isnan(decision.saving) else f"${decision.saving:.3g}/h",
        "memory": None if math.isnan(decision.bytes) else f"{decision.bytes / 2**20:.3g}Mi",
        "lookUps": int(curve.seen) if curve is not None else 0,
        "comparisons": int(drift.observations),
    }


def percent(ratio: float) -> str | None:
    """`0.0123` as `1.23%`; None where it is not known."""
    return None if math.isnan(ratio) else f"{100 * ratio:.3g}%"


def _measured(measured: Measured) -> str:
    return "{} ({} to {})".format(*(percent(each) for each in measured[:3]))


def _drift(drift: DriftEstimate) -> str | None:
    if not math.isfinite(drift.upper):
        return None
    rate, lower, upper = (f"{each * 3600:.3g}" for each in (drift.rate, drift.lower, drift.upper))
    return f"{rate} ({lower} to {upper})"


def _conditions(
    spec: CachePolicySpec, decision: Decision, ttl: float, published: ClassPolicy | None
) -> list[Condition]:
    message = f"Class {spec.cache_class} has a TTL of {written(ttl) if ttl else '0s, it is not cached'}."
    if ttl and published is not None and published.question is not None:
        message = f"Each question of class {spec.cache_class} has a TTL of its own; all else has one of {written(ttl)}."
    if spec.mode != "Auto":
        whose = "it stays as it was published" if published else "it is the configuration's"
        message += f" Mode {spec.mode}: {whose}."
    budget, likely, most = spec.staleness.budget, percent(decision.stale), percent(decision.stale_upper)
    within = Condition(
        "WithinBudget", "Unknown", "TooLittle", f"Whether {budget} can be kept is not known yet."
    )
    if not decision.within_budget:
        said = (
            f"The budget of {budget} cannot be kept: {decision.reason}. onInfeasible: {spec.on_infeasible}."
        )
        within = Condition("WithinBudget", "False", "Infeasible", said)
    elif decision.sufficient:
        said = f"The budget of {budget} can be kept; with what is in force {likely} of hits are stale, at most {most}."
        within = Condition("WithinBudget", "True", "Feasible", said)
    sufficient = (
        Condition("DataSufficient", "True", "Measured", "Enough was seen to decide.")
        if decision.sufficient
        else Condition("DataSufficient", "False", "TooLittle", f"The TTL stays: {decision.reason}.")
    )
    return [
        Condition("Ready", "True", "Reconciled", message),
        sufficient,
        within,
        Condition("Published", "True" if published is not None else "False", spec.mode, message),
    ]


def _events(last: LastReport, spec: CachePolicySpec, decision: Decision, learning: Learning) -> list[Event]:
    """What has changed since it was last reported, which is noted."""
    events = []
    jumps = [jump for jump in learning.jumps if jump[0] > last.reported_until]
    if jumps:
        last.reported_until = jumps[-1][0]
        factor = jumps[-1][1]
        how = f"{factor:.2g} times as fast as" if factor >= 1 else f"{1 / factor:.2g} times more slowly than"
        message = f"Answers of class {spec.cache_class} change {how} before."
        events.append(Event("Warning" if factor > 1 else "Normal", "DriftChanged", message))
    if decision.within_budget != last.within_budget:
        last.within_budget = decision.within_budget
        message = f"The staleness budget of class {spec.cache_class} can be kept again."
        if not decision.within_budget:
            message = f"The staleness budget of class {spec.cache_class} cannot be kept: {decision.reason}."
        events.append(Event("Normal" if decision.within_budget else "Warning", "BudgetChanged", message))
    before = last.ttl
    if spec.mode == "Auto" and before is not None and _has_moved(before, decision.ttl):
        message = (
            f"TTL of class {spec.cache_class}: {written(before) if before else '0s'} -> "
            f"{written(decision.ttl) if decision.ttl else '0s'}, bound by {decision.bound_by}; {decision.reason}."
        )
        events.append(Event("Normal", "TTLChanged", message))
        last.ttl = decision.ttl
    elif before is None:
        last.ttl = decision.ttl
    return events


def _has_moved(last: float, ttl: float) -> bool:
    if not last or not ttl:
        return last != ttl
    return not 1 / _REPORTED_CHANGE < ttl / last < _REPORTED_CHANGE
