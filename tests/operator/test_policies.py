"""Reconciles a policy, against a real Redis: modes, faults, and what the status says."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from dub5.contract import (
    CLASSES_KEY,
    POLICY_KEY,
    PURGE_RECENT,
    READER_FOR,
    SAMPLES,
    SAMPLES_READER,
    Access,
    AnnouncedClass,
    Announcement,
    Canary,
    ClassPolicy,
    PolicyDocument,
    SampleBatch,
    Verdict,
)
from dub5.redis.client import connect
from dub5.settings.model import RedisSettings
from dub5_operator.handlers.policy import Event, Metrics, PolicyReconciler, Report, apply
from dub5_operator.learnings import Part
from dub5_operator.main import TICK
from dub5_operator.planner.decision import PolicyLimits
from dub5_operator.redis import PAGE, READ_EVERY, REDIS_ERRORS, Publisher, Samples
from testkit.processes import free_port

NOW = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Bench:
    """An operator without Kubernetes: one policy for the class `banter`."""

    def __init__(self, redis: Any) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.samples = Samples(redis, self.clock, self.metrics.undecodable)
        self.publisher = Publisher(redis, self.clock, self.metrics.undecodable, gather=0.0)
        self.policies = PolicyReconciler(self.samples, self.publisher, self.metrics, self.clock)
        self.redis = redis
        self.body: dict[str, Any] = {"metadata": {"generation": 3}}

    async def attempt(self, spec: dict[str, Any] | None = None, **changes: Any) -> Report | None:
        """None where another operator has begun since."""
        return await self.policies.reconcile(
            **{
                "name": "banter",
                "uid": "1",
                "spec": {"cacheClass": "banter", **(spec or {})},
                "status": self.body.get("status", {}),
                "claims": [("2026-01-01", "banter", "1")],
                "classes": {"banter"},
                **changes,
            }
        )

    async def reconcile(self, spec: dict[str, Any] | None = None, **changes: Any) -> Report:
        report = await self.attempt(spec, **changes)
        assert report is not None
        apply(self.body, report, now=datetime.fromtimestamp(self.clock.now, UTC))
        self.clock.now += 60
        return report

    async def announced(self) -> None:
        """As most tests have it."""
        usual = AnnouncedClass(ttl=300, max_ttl=86400, stale_while_revalidate=60)
        await self.announce(banter=usual, facts=usual)

    async def announce(self, **classes: AnnouncedClass) -> None:
        await self.redis.set(CLASSES_KEY, msgspec.json.encode(Announcement(NOW, classes)))

    async def sample(
        self, *, changed: float = 0.0, age: float = 300.0, minutes: int = 60, came: bool = False
    ) -> None:
        """Each minute twenty answers, each asked for twice and fetched again after `age`: then so many have `changed`.

        Two are re-asked at once, and are the same: there is no noise. `came`: Redis had them when they were taken."""
        for minute in range(minutes):
            at = self.clock.now + (minute - minutes) * 60
            accesses = [
                Access(key, "banter", at + second, bool(minute % 5 or second), 1000, 0.001, 1.0)
                for key in range(20)
                for second in (0, 30)
            ]
            verdicts = [
                Verdict(
                    key,
                    "banter",
                    at - age - key,
                    at,
                    (minute * 7 + key * 13) % 20 < 20 * changed,
                    9,
                    "refetch",
                )
                for key in range(20)
            ]
            verdicts += [Verdict(key, "banter", at - 1, at, False, 1, "re-ask") for key in range(2)]
            await self.send(SampleBatch("a", at, accesses, verdicts, looked_up={"banter": 40}), came=came)

    async def send(self, batch: SampleBatch, *, came: bool = False) -> None:
        """`came`: when it says; else now, by the machine's clock."""
        when = f"{int(batch.at * 1000)}-*" if came else "*"
        await self.redis.xadd(SAMPLES, {b"b": msgspec.msgpack.encode(batch)}, id=when)

    async def published(self) -> dict[str, ClassPolicy]:
        stored = await self.redis.get(POLICY_KEY)
        return msgspec.json.decode(stored, type=PolicyDocument).classes if stored else {}

    async def metric(self, name: str, **labels: str) -> float | None:
        """In a thread: figures of the process are read from files."""
        return await asyncio.to_thread(
            self.metrics.registry.get_sample_value, name, {"policy": "banter", **labels}
        )

    async def statuses(self, condition: str) -> dict[str, float | None]:
        """What is exposed of it."""
        name = "dub5_operator_condition"
        return {
            status: await self.metric(name, condition=condition, status=status)
            for status in ("true", "false", "unknown")
        }

    def condition(self, kind: str) -> tuple[str, str]:
        [found] = [each for each in self.body["status"]["conditions"] if each["type"] == kind]
        return found["status"], found["reason"]


@pytest.fixture
async def bench(client: Redis) -> Bench:
    found = Bench(client)
    await found.announced()
    return found


async def test_replicas_know_that_samples_are_read_also_between_two_reconciliations(
    bench: Bench,
) -> None:
    await bench.reconcile({"step": {"every": "1h"}})
    assert 0 < await bench.redis.ttl(SAMPLES_READER) <= READER_FOR
    await bench.redis.delete(SAMPLES_READER)
    bench.clock.now += READ_EVERY
    assert not bench.policies.is_due("1", {"cacheClass": "banter", "step": {"every": "1h"}})
    await bench.sample(minutes=1)
    await bench.policies.keep({"banter"})
    assert 0 < await bench.redis.ttl(SAMPLES_READER) <= READER_FOR
    await bench.redis.delete(SAMPLES)
    await bench.samples.refresh({"banter"}, every=0)
    curve = bench.samples.learnings["banter"].learning.curve(bench.clock.now)
    assert curve is not None
    assert curve.seen == 40  # Redis may forget them now
    await bench.redis.delete(SAMPLES_READER)
    await bench.policies.keep({"banter"})  # too soon
    assert await bench.redis.exists(SAMPLES_READER) == 0


async def test_without_samples_the_initial_ttl_holds_and_the_status_says_so(bench: Bench) -> None:
    await bench.reconcile({"ttl": {"initial": "2m"}})
    assert await bench.published() == {"banter": ClassPolicy(120, 24)}  # the second window goes with it
    assert bench.condition("DataSufficient") == ("False", "TooLittle")
    assert bench.condition("Ready") == ("True", "Reconciled")
    assert bench.body["status"]["ttl"] == "2m"


async def test_samples_move_it_step_by_step_and_the_status_says_why(bench: Bench) -> None:
    await bench.sample()
    report = await bench.reconcile()
    assert bench.body["status"]["ttl"] == "2m"
    assert report.events == []  # the first TTL is no change
    assert bench.condition("DataSufficient") == ("True", "Measured")
    assert bench.condition("WithinBudget") == ("True", "Feasible")
    assert bench.body["status"]["hitRatio"].endswith("%")
    assert bench.body["status"]["comparisons"] > 1000
    assert await bench.metric("dub5_operator_ttl_seconds") == 120
    assert await bench.metric("dub5_operator_stale_budget_ratio", **{"class": "banter"}) == 0.01
    bound = [
        await bench.metric("dub5_operator_bound_by", reason=reason)
        for reason in ("Staleness", "Memory", "Cost", "Bounds", "Data")
    ]
    assert sum(each or 0 for each in bound) == 1


async def test_conditions_times_and_figures_are_metrics(bench: Bench) -> None:
    await bench.sample(changed=0.1)
    began = bench.clock.now
    await bench.reconcile({"step": {"every": "5m"}, "ttl": {"min": "1m"}})
    assert await bench.statuses("Ready") == {"true": 1, "false": 0, "unknown": 0}
    assert await bench.statuses("WithinBudget") == {"true": 0, "false": 1, "unknown": 0}
    times = [bench.body["status"][f"{name}ReconcileTime"] for name in ("last", "next")]
    assert [datetime.fromisoformat(each).timestamp() for each in times] == [began, began + 300]
    assert await bench.metric("dub5_operator_last_reconcile_timestamp_seconds") == began
    assert await bench.metric("dub5_operator_next_reconcile_timestamp_seconds") == began + 300
    drift = await bench.metric("dub5_operator_drift_per_hour")
    upper = await bench.metric("dub5_operator_drift_upper_per_hour")
    assert drift is not None
    assert upper is not None
    assert 0 < drift < upper
    assert (await bench.metric("dub5_operator_noise_ratio") or 0) < 0.01
    assert ((await bench.metric("dub5_operator_saving_dollars_per_hour")) or 0) > 0
    stale = await bench.metric("dub5_operator_predicted_stale_ratio")
    assert (await bench.metric("dub5_operator_predicted_stale_upper_ratio") or 0) > (stale or 0) > 0


async def test_what_canaries_found_is_reported_and_what_they_cost_is_no_saving(bench: Bench) -> None:
    await bench.sample()
    at = bench.clock.now
    canaries = [Canary(7, "banter", at - 60, at, 10.0, number % 50 == 0, False) for number in range(200)]
    await bench.send(SampleBatch("a", at, canaries=canaries))
    await bench.reconcile({"canary": "0.5%"})
    share, *ends = [float(each) for each in re.findall(r"[\d.]+", bench.body["status"]["staleMeasured"])]
    assert share == pytest.approx(2)
    assert ends[0] < share < ends[1]
    names = [f"dub5_operator_measured_stale_{name}ratio" for name in ("", "lower_", "upper_")]
    assert [await bench.metric(name) for name in names] == pytest.approx(
        [each / 100 for each in (share, *ends)], rel=0.01
    )
    assert (await bench.published())["banter"].canary == 0.005
    learning = bench.samples.learnings["banter"].learning
    free = PolicyLimits(shortest=5, longest=86400, budget=0.01, initial=60)
    plain, measured = (
        learning.decide(limits, 60, bench.clock.now).saving for limits in (free, replace(free, canary=0.01))
    )
    assert measured < plain


async def test_a_policy_that_is_not_in_force_exposes_that_and_no_figures(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.reconcile()
    begun = bench.body["status"]["lastReconcileTime"]

    async def away(*_: Any, **__: Any) -> None:
        raise RedisConnectionError

    monkeypatch.setattr(bench.redis, "getrange", away)
    await bench.reconcile()
    assert await bench.statuses("Ready") == {"true": 0, "false": 0, "unknown": 1}
    assert await bench.metric("dub5_operator_ttl_seconds") == 60  # it stays in force
    assert bench.body["status"]["lastReconcileTime"] == begun
    monkeypatch.undo()
    await bench.announce(facts=AnnouncedClass(300, 300))
    await bench.reconcile()
    assert await bench.statuses("Ready") == {"true": 0, "false": 1, "unknown": 0}
    assert await bench.statuses("WithinBudget") == dict.fromkeys(("true", "false", "unknown"))
    assert await bench.metric("dub5_operator_ttl_seconds") is None
    assert bench.body["status"]["lastReconcileTime"] > begun
    await bench.policies.gone(name="banter", uid="1", class_name="banter", claims=[])
    assert await bench.statuses("Ready") == dict.fromkeys(("true", "false", "unknown"))


async def test_much_drift_shortens_it_and_an_infeasible_budget_is_reported(bench: Bench) -> None:
    await bench.sample(changed=0.6)
    spec = {"ttl": {"min": "1m", "initial": "5m"}, "onInfeasible": "Bypass"}
    first = await bench.reconcile(spec)
    assert bench.body["status"]["ttlSeconds"] == 150
    assert "BudgetChanged" in [event.reason for event in first.events]
    second = await bench.reconcile(spec)
    third = await bench.reconcile(spec)
    assert "TTLChanged" in [event.reason for event in [*second.events, *third.events]]
    assert bench.body["status"]["ttl"] == "0s"
    assert bench.condition("WithinBudget") == ("False", "Infeasible")
    assert (await bench.published())["banter"] == ClassPolicy(0.0, 0.0)


async def test_whether_the_budget_can_be_kept_is_not_said_before_it_is_known(bench: Bench) -> None:
    await bench.reconcile()
    assert bench.condition("WithinBudget") == ("Unknown", "TooLittle")
    assert await bench.statuses("WithinBudget") == {"true": 0, "false": 0, "unknown": 1}
    await bench.sample()
    await bench.reconcile()
    assert bench.condition("WithinBudget") == ("True", "Feasible")


async def test_observe_only_recommends_and_off_gives_the_class_back(bench: Bench) -> None:
    """From Auto to Observe the TTL stays where it is, also for an operator that begins anew."""
    await bench.sample()
    for _ in range(2):
        await bench.reconcile({"mode": "Observe"})
        assert await bench.published() == {}
        assert (bench.body["status"]["ttl"], bench.condition("Published")) == ("5m", ("False", "Observe"))
    await bench.reconcile()
    [found] = (await bench.published()).values()
    other = Bench(bench.redis)
    other.clock.now, other.body = bench.clock.now, bench.body
    for _ in range(3):
        await other.reconcile({"mode": "Observe"})
        assert await other.published() == {"banter": found}
        assert other.body["status"]["ttlSeconds"] == found.ttl != 300
        assert other.condition("Published") == ("True", "Observe")
    await other.reconcile({"mode": "Off"})
    assert await other.published() == {}
    assert (other.body["status"]["ttl"], other.condition("Published")) == ("5m", ("False", "Off"))


async def test_never_above_the_maximum_of_the_class(bench: Bench) -> None:
    await bench.announce(banter=AnnouncedClass(ttl=60, max_ttl=90))
    await bench.sample()
    for _ in range(4):
        await bench.reconcile()
    assert (await bench.published())["banter"].ttl <= 90


async def test_a_flushed_redis_is_given_the_last_good_ttl_again(bench: Bench) -> None:
    await bench.sample()
    await bench.reconcile()
    before = bench.body["status"]["ttlSeconds"]
    await bench.redis.flushall()
    await bench.reconcile()
    assert bench.condition("Ready") == ("Unknown", "NoReplicas")
    assert bench.body["status"]["ttlSeconds"] == before
    await bench.announce(banter=AnnouncedClass(ttl=300, max_ttl=86400))
    await bench.reconcile()
    assert (await bench.published())["banter"].ttl >= before


async def test_nothing_is_decided_until_a_backlog_is_read(bench: Bench, monkeypatch: Any) -> None:
    monkeypatch.setattr("dub5_operator.handlers.policy.READ_FOR", 0.0)
    await bench.sample(minutes=2 * PAGE, came=True)
    report = await bench.reconcile()
    assert bench.condition("Ready") == ("Unknown", "Reading")
    assert re.search(r"[0-9]+m.* of it are left", report.conditions[0].message)
    assert await bench.published() == {}
    while bench.samples.behind:
        report = await bench.reconcile()
    assert bench.condition("Ready") == ("True", "Reconciled")
    assert report.status["comparisons"] > 100


async def test_more_names_than_go_at_once_are_purged(bench: Bench) -> None:
    stamp = await bench.publisher.purge([f"tag:{number}" for number in range(250)])
    stamps: Any = await bench.redis.zrange(PURGE_RECENT, 0, -1, withscores=True)
    assert (len(stamps), max(score for _, score in stamps)) == (250, stamp)


async def test_a_redis_that_is_away_changes_nothing_and_is_reported(bench: Bench, monkeypatch: Any) -> None:
    await bench.reconcile()

    async def away(*_: Any, **__: Any) -> None:
        raise RedisConnectionError

    monkeypatch.setattr(bench.redis, "getrange", away)
    await bench.reconcile()
    bench.clock.now += READ_EVERY
    await bench.policies.keep({"banter"})
    assert bench.condition("Published") == ("Unknown", "RedisUnavailable")
    assert await bench.metric("dub5_operator_errors_total") == 1
    monkeypatch.undo()
    await bench.reconcile()
    assert bench.condition("Published") == ("True", "Auto")


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_each_kind_of_redis_that_is_away_is_reported(scheme: str) -> None:
    port = free_port()
    async with contextlib.aclosing(connect(RedisSettings(url=f"{scheme}://127.0.0.1:{port}"), None)) as away:
        bench = Bench(away)
        report = await bench.reconcile()
        assert bench.condition("Published") == ("Unknown", "RedisUnavailable")
        assert all(str(port) in condition.message for condition in report.conditions)
        with pytest.raises(REDIS_ERRORS):  # what its caller waits for, and tries again
            await bench.policies.gone(name="banter", uid="1", class_name="banter", claims=[])


async def test_poisoned_samples_change_nothing(bench: Bench) -> None:
    at = bench.clock.now
    accesses = [
        Access(1, "banter", math.nan, True, 1, 0.0, 1.0),
        Access(1, "banter", at + 1e6, True, 1, 0.0, 1.0),
    ]
    verdicts = [Verdict(1, "banter", at, at - 60, True, 1, "refetch")] * 100
    await bench.send(SampleBatch("a", at, accesses, verdicts, looked_up={"banter": -5}))
    await bench.redis.xadd(SAMPLES, {b"b": b"nonsense"})
    await bench.redis.xadd(SAMPLES, {b"other": b""})
    await bench.reconcile()
    assert bench.body["status"]["ttl"] == "1m"
    counted = await asyncio.to_thread(
        bench.metrics.registry.get_sample_value,
        "dub5_operator_redis_undecodable_total",
        {"kind": "samples"},
    )
    assert counted == 3  # two that are no batches, and a batch of what cannot be true


async def test_an_operator_that_was_away_reads_what_it_missed(bench: Bench) -> None:
    await bench.sample(minutes=PAGE + 50)
    await bench.reconcile()
    assert bench.body["status"]["comparisons"] == pytest.approx((PAGE + 50) * 22, rel=0.01)


async def test_an_operator_that_begins_learns_what_one_that_was_there_has_learnt(bench: Bench) -> None:
    """Also where answers began to change faster meanwhile, which is a jump only for who sees it come."""
    other, events = Bench(bench.redis), list[Event]()
    for minute in range(60):
        await bench.sample(changed=0.05 if minute < 45 else 0.6, minutes=1, came=True)
        events += (await bench.reconcile()).events
    other.clock.now = bench.clock.now - 60
    again = await other.reconcile()
    assert "DriftChanged" in [event.reason for event in again.events]  # nobody has told of it on that object
    other = Bench(bench.redis)
    other.clock.now, other.body = bench.clock.now - 60, bench.body
    assert (await other.reconcile()).events == []
    seen, learnt = bench.body["status"], other.body["status"]
    assert any(event.reason == "DriftChanged" for event in events), seen
    assert (learnt["driftPerHour"], learnt["noise"]) == (seen["driftPerHour"], seen["noise"])


async def test_samples_of_a_release_that_did_not_count(bench: Bench, monkeypatch: Any) -> None:
    at = bench.clock.now
    await bench.send(SampleBatch("old", at, [Access(1, "banter", at, True, 1, 0.0, 1.0)]))
    await bench.send(SampleBatch("new", at, looked_up={"banter": 7}))
    parts = list[Part]()
    monkeypatch.setattr(bench.samples.learnings, "fold", lambda name, part, now: parts.append(part))
    await bench.samples.refresh({"banter"})
    assert [(len(part.accesses), part.looked_up) for part in parts] == [(1, None)]


async def test_the_younger_of_two_policies_gives_way(bench: Bench) -> None:
    claims = [("2026-01-02", "banter", "1"), ("2026-01-01", "elder", "2")]
    report = await bench.reconcile(claims=claims)
    assert bench.condition("Ready") == ("False", "Superseded")
    assert "elder" in report.events[0].message
    assert await bench.published() == {}
    await bench.policies.gone(name="banter", uid="2", class_name="banter", claims=claims)
    await bench.reconcile(claims=claims[:1])
    assert (await bench.published())["banter"].ttl == 60
    await bench.policies.gone(name="banter", uid="1", class_name="banter", claims=claims[:1])
    assert await bench.published() == {}
    assert await bench.metric("dub5_operator_stale_budget_ratio", **{"class": "banter"}) is None


async def test_an_unknown_class_is_said(bench: Bench) -> None:
    await bench.announce(facts=AnnouncedClass(300, 300))
    report = await bench.reconcile()
    assert bench.condition("Ready") == ("False", "UnknownClass")
    assert report.events[0].message == "The service has no cache class banter; it has facts."


async def test_what_a_policy_had_in_force_is_not_shown_any_more(bench: Bench) -> None:
    await bench.sample()
    elder: dict[str, Any] = {"claims": [("2026-01-01", "elder", "2")]}
    for other in (elder, {}):
        await bench.reconcile()
        assert bench.body["status"].keys() >= {"ttl", "hitRatio", "comparisons"}
        if not other:
            await bench.announce(facts=AnnouncedClass(300, 300))
        await bench.reconcile(**other)
        assert bench.body["status"].keys() == {"conditions", "lastReconcileTime", "nextReconcileTime"}


@pytest.mark.parametrize("reason", ["UnknownClass", "Superseded"])
async def test_why_a_policy_is_not_in_force_is_told_once(bench: Bench, reason: str) -> None:
    """Also by an operator that begins anew; and again when the reason becomes another one."""
    claims = [("2026-01-02", "banter", "1")]
    if reason == "Superseded":
        claims.append(("2026-01-01", "elder", "2"))
    await bench.announce(facts=AnnouncedClass(300, 300))
    told, spec = list[Event](), {"cacheClass": "banter"}
    for _ in range(2):
        for _ in range(int(600 / TICK)):
            if bench.policies.is_due("1", spec):
                told += (await bench.reconcile(claims=claims)).events
                bench.clock.now -= 60
                assert not bench.policies.is_due("1", spec)
            bench.clock.now += TICK
        bench.policies = PolicyReconciler(bench.samples, bench.publisher, bench.metrics, bench.clock)
    assert [event.reason for event in told] == [reason]
    await bench.announce(banter=AnnouncedClass(300, 300))
    await bench.reconcile(claims=claims[:1])
    await bench.announce(facts=AnnouncedClass(300, 300))
    told += (await bench.reconcile()).events
    assert [event.reason for event in told] == [reason, "UnknownClass"]


async def test_a_superseded_policy_is_due_at_once_when_the_older_one_goes(bench: Bench) -> None:
    claims = [("2026-01-02", "banter", "1"), ("2026-01-01", "elder", "2")]
    await bench.reconcile(claims=claims)
    bench.clock.now -= 60
    assert not bench.policies.is_due("1", {"cacheClass": "banter"})
    await bench.policies.gone(name="elder", uid="2", class_name="banter", claims=claims)
    assert bench.policies.is_due("1", {"cacheClass": "banter"})


async def test_a_schedule_purges_once_also_what_was_missed(bench: Bench) -> None:
    """NOW is 22:13:20 in UTC."""
    spec = {"schedule": [{"cron": "15 22 * * *", "action": "Purge"}], "step": {"every": "10m"}}
    told = (await bench.reconcile(spec)).events
    bench.clock.now = NOW + 99
    assert not bench.policies.is_due("1", {"cacheClass": "banter", **spec})
    bench.clock.now = NOW + 101
    assert bench.policies.is_due("1", {"cacheClass": "banter", **spec})
    told += (await bench.reconcile(spec)).events
    told += (await bench.reconcile(spec)).events
    assert [event.reason for event in told] == ["Purged"]
    assert await bench.redis.zcard(PURGE_RECENT) == 1
    later = Bench(bench.redis)
    later.body, later.clock.now = bench.body, NOW + 86400
    assert [event.reason for event in (await later.reconcile(spec)).events] == []
    later = Bench(bench.redis)
    later.body, later.clock.now = bench.body, NOW + 3 * 86400
    assert [event.reason for event in (await later.reconcile(spec)).events] == ["Purged"]
    for mode in ("Observe", "Off"):
        later.clock.now += 86400
        assert (await later.reconcile(spec | {"mode": mode})).events == []


async def test_an_entry_that_is_added_after_its_time_is_not_late(bench: Bench) -> None:
    """NOW is 22:13:20 in UTC."""
    await bench.reconcile({"step": {"every": "1h"}})
    bench.clock.now = NOW + 600
    spec: dict[str, Any] = {
        "schedule": [{"cron": "15 22 * * *", "action": "Purge"}],
        "step": {"every": "1h"},
    }
    assert (await bench.reconcile(spec)).events == []
    bench.clock.now += 86400
    spec["schedule"] = [{"cron": "0 9 * * *", "action": "Cut", "ttl": "10s", "for": "1h"}, *spec["schedule"]]
    assert [event.reason for event in (await bench.reconcile(spec)).events] == ["Purged"], (
        "it was there before"
    )


async def test_a_schedule_cuts_the_ttl_for_a_while(bench: Bench) -> None:
    cut = {"cron": "15 22 * * *", "action": "Cut", "ttl": "10s", "for": "30m"}
    spec = {"schedule": [cut], "ttl": {"initial": "2m"}, "step": {"every": "1h"}}
    await bench.reconcile(spec)
    for after, ttl in ((100, 10.0), (1899, 10.0), (1900, 120.0)):
        bench.clock.now = NOW + after
        await bench.reconcile(spec)
        assert (await bench.published())["banter"].ttl == bench.body["status"]["ttlSeconds"] == ttl
    bench.clock.now = NOW + 200
    await bench.reconcile(spec)
    bench.clock.now = NOW + 1900
    assert bench.policies.is_due("1", {"cacheClass": "banter", **spec})


async def test_a_cut_ends_whatever_comes_meanwhile(bench: Bench) -> None:
    """Another operator, or another mode. Too little was seen for a TTL to move by itself."""
    spec: dict[str, Any] = {
        "schedule": [{"cron": "15 22 * * *", "action": "Cut", "ttl": "10s", "for": "30m"}]
    }
    spec |= {"ttl": {"initial": "2m"}}
    await bench.reconcile(spec)
    bench.clock.now = NOW + 100
    await bench.reconcile(spec)
    assert (await bench.published())["banter"].ttl == 10
    later = Bench(bench.redis)
    later.body = bench.body
    for after, ttl in ((200, 10), (1900, 120)):
        later.clock.now = NOW + after
        await later.reconcile(spec)
        assert (await later.published())["banter"].ttl == ttl
    later.clock.now = NOW + 86400 + 100
    await later.reconcile(spec)
    assert (await later.published())["banter"].ttl == 10
    for _ in range(2):
        await later.reconcile(spec | {"mode": "Observe"})
        assert (await later.published())["banter"] == ClassPolicy(120, 24)


async def test_a_cut_holds_for_each_question_and_no_shorter_than_it_says(bench: Bench) -> None:
    await bench.sample(changed=0.05, came=True)
    for _ in range(2):
        await bench.reconcile()
    whole = (await bench.published())["banter"]
    assert whole.question is not None
    assert whole.ttl < 60 < whole.question.longest
    await bench.reconcile({"schedule": [{"cron": "* * * * *", "action": "Cut", "ttl": "1m", "for": "2m"}]})
    cut = (await bench.published())["banter"]
    assert cut.question is not None
    assert (cut.question.shortest, cut.question.longest) == (5, 60)
    assert cut.stale_while_revalidate == pytest.approx(cut.ttl / 5)
    assert cut.ttl < 60


@pytest.mark.parametrize("entry", [{"cron": "61 * * * *"}, {"cron": "0 0 31 2 *"}, {"timeZone": "Atlantis"}])
async def test_a_schedule_that_makes_no_sense_is_told(bench: Bench, entry: dict[str, str]) -> None:
    usual = {"cron": "0 3 * * *", "action": "Purge"}
    await bench.reconcile({"schedule": [usual, usual | entry]})
    assert bench.condition("Ready") == ("False", "InvalidSchedule")


@pytest.mark.parametrize(
    "spec", [{"mode": "Guess"}, {"cacheClass": "a\u00a0b"}, {"ttl": {"min": "soon"}}, {"schedule": 5}]
)
async def test_a_spec_that_the_definition_let_through_is_refused(bench: Bench, spec: dict[str, Any]) -> None:
    """A definition of another release; and its regular expressions know fewer spaces than Python's."""
    await bench.reconcile()
    report = await bench.reconcile(spec)
    assert bench.condition("Ready") == ("False", "InvalidSpec")
    assert [event.reason for event in report.events] == ["InvalidSpec"]
    bench.clock.now -= 60
    assert not bench.policies.is_due("1", {"cacheClass": "banter", **spec})
    assert bench.policies.is_due("1", {"cacheClass": "banter"})
    assert (await bench.published())["banter"].ttl == 60


async def test_a_policy_is_due_each_step_and_when_its_spec_changes(bench: Bench) -> None:
    spec = {"cacheClass": "banter", "step": {"every": "2m"}}
    assert bench.policies.is_due("1", spec)
    await bench.reconcile(spec)
    assert not bench.policies.is_due("1", spec)
    assert bench.policies.is_due("1", {**spec, "mode": "Off"})
    bench.clock.now += 61
    assert bench.policies.is_due("1", spec)


async def test_a_clock_that_is_set_back_keeps_no_policy_waiting(bench: Bench) -> None:
    """Ours, or that of another node of Redis that has become the primary."""
    for every in ("10s", "1h"):
        spec = {"cacheClass": "banter", "step": {"every": every}}
        await bench.reconcile({"step": {"every": every}})
        bench.clock.now -= 61
        assert bench.policies.is_due("1", spec)


async def test_conditions_keep_the_time_of_their_last_change(bench: Bench) -> None:
    await bench.reconcile()
    first = {each["type"]: each["lastTransitionTime"] for each in bench.body["status"]["conditions"]}
    await bench.reconcile()
    assert {each["type"]: each["lastTransitionTime"] for each in bench.body["status"]["conditions"]} == first
    await bench.reconcile({"mode": "Off"})
    [changed] = [each for each in bench.body["status"]["conditions"] if each["type"] == "Published"]
    assert changed["lastTransitionTime"] > first["Published"]
    assert changed["observedGeneration"] == 3


async def test_a_document_of_somebody_else_is_put_right(bench: Bench) -> None:
    await bench.reconcile()
    await bench.redis.set(POLICY_KEY, b"nonsense")
    await bench.reconcile()
    assert (await bench.published())["banter"].ttl == 60


@pytest.mark.parametrize("call", ["refresh", "in_force", "publish"])
async def test_a_policy_that_goes_while_it_is_reconciled_stays_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    part = bench.samples if call == "refresh" else bench.publisher
    usual, waiting, go = getattr(part, call), asyncio.Event(), asyncio.Event()

    async def slowly(*args: Any, **kwargs: Any) -> Any:
        waiting.set()
        await go.wait()
        return await usual(*args, **kwargs)

    monkeypatch.setattr(part, call, slowly)
    reconciling = asyncio.create_task(bench.reconcile({"mode": "Auto"}))
    await waiting.wait()
    monkeypatch.setattr(part, call, usual)
    if call == "publish":  # in the order in which they came to it
        go.set()
        await asyncio.sleep(0)
    await bench.policies.gone(name="banter", uid="1", class_name="banter", claims=[])
    go.set()
    await reconciling
    assert bench.condition("Ready") == ("False", "Gone")
    assert await bench.published() == {}
    assert await bench.metric("dub5_operator_ttl_seconds") is None
    assert bench.policies._states == {}
    assert bench.policies.is_due("1", {"cacheClass": "banter"})


async def test_a_reconciliation_that_fails_for_a_defect_is_counted_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(bench.samples, "refresh", fail)
    with pytest.raises(KeyError):
        await bench.reconcile()
    assert await bench.metric("dub5_operator_errors_total") == 1
    await bench.policies.gone(name="banter", uid="1", class_name="banter", claims=[])
    assert await bench.metric("dub5_operator_errors_total") is None
