"""What a cluster would have done, by laws that hold for any: Little's, the autoscaler's, and that nobody is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dub5.advisor.record import (
    AnyLine,
    Arrivals,
    Callers,
    Cluster,
    Connections,
    Header,
    Mix,
    Pace,
    Record,
    make,
)
from dub5.advisor.simulation import Outcome, simulate
from dub5.advisor.values import of_values
from tests.harness import size

SMALL = {
    "config": {"admission": {"max_inflight": 10, "max_queued": 200, "queue_timeout": "30s"}},
    "autoscaling": {"minReplicas": 1, "maxReplicas": 6},
}
ALWAYS_FOUR = Mix(service=[(0.0, 4.0), (1.0, 4.0)])


def load(*lines: AnyLine, seconds: float = 900.0, **changes: Any) -> Record:
    return make(Header(source="a test", seconds=seconds, **changes), lines)


def steady(rate: float, seconds: float = 900.0) -> Arrivals:
    return Arrivals(at=0.0, requests=[rate] * int(seconds))


def simulated(record: Record, *changes: dict[str, Any], seed: int = 1) -> Outcome:
    return simulate(record, of_values(SMALL, *changes), seed=seed)


def test_there_are_as_many_replicas_as_littles_law_asks_for() -> None:
    outcome = simulated(load(steady(6.0), ALWAYS_FOUR))
    assert outcome.changes[-1].wanted == 4  # 6 a second for 4 s are 24 calls at once, a replica takes 7
    assert outcome.changes[-1].ready == 4
    assert (outcome.refused, outcome.cut) == (0, 0)
    assert outcome.requests == outcome.calls == 5400


def test_hits_and_followers_hold_no_slot() -> None:
    mix = Mix(hits=0.5, followers=0.25, service=[(1.0, 4.0)])
    outcome = simulated(load(steady(2.0), mix))
    assert outcome.hits == pytest.approx(outcome.requests / 2, rel=0.1)
    assert outcome.calls == pytest.approx(outcome.requests / 4, rel=0.1)
    assert outcome.changes[-1].wanted == 1
    nothing = simulated(load(steady(6.0), Mix(hits=1.0, service=[(1.0, 4.0)])))
    assert (nothing.calls, nothing.hits) == (0, nothing.requests)


def test_refused_followers_count_with_their_leader() -> None:
    fixed = {"autoscaling": {"mode": "none"}, "replicas": 1}
    alone = simulated(load(steady(10.0), ALWAYS_FOUR), fixed)
    followed = simulated(load(steady(20.0), Mix(followers=0.5, service=ALWAYS_FOUR.service)), fixed)
    assert alone.refused_share == pytest.approx(0.75, abs=0.05)  # 2.5 of 10 a second
    assert followed.refused_share == pytest.approx(alone.refused_share, abs=0.05)


def test_the_same_seed_gives_the_same_and_another_seed_another() -> None:
    record = load(steady(5.5), Mix(hits=0.2, service=[(0.0, 1.0), (0.9, 6.0), (1.0, 30.0)]))
    assert simulated(record) == simulated(record)
    assert simulated(record).waits != simulated(record, seed=2).waits


def test_the_load_is_the_same_whatever_the_values_are() -> None:
    record = load(steady(5.5), Mix(hits=0.2, service=[(0.0, 1.0), (1.0, 9.0)]))
    few, many = (simulated(record, {"autoscaling": {"maxReplicas": most}}) for most in (1, 6))
    assert (few.requests, few.hits, few.calls) == (many.requests, many.hits, many.calls)
    assert few.refused > many.refused


@pytest.mark.parametrize("mode", ["hpa", "keda"])
def test_either_autoscaler_follows_up_and_down(mode: str) -> None:
    arrivals = Arrivals(at=0.0, requests=[1.0] * 120 + [7.0] * 300 + [1.0] * 600)
    outcome = simulated(load(arrivals, ALWAYS_FOUR, seconds=1020.0), {"autoscaling": {"mode": mode}})
    assert [outcome.at(moment).ready for moment in (110, 1019)] == [1, 1]
    assert outcome.at(400).ready >= 4
    assert outcome.at(710).ready >= 4  # 300 s of stabilization are not over


@pytest.mark.parametrize("mode", ["hpa", "keda"])
def test_an_autoscaler_that_is_blind_takes_nothing_away(mode: str) -> None:
    arrivals = Arrivals(at=0.0, requests=[8.0] * 300 + [0.0] * 900)
    blind = Cluster(blind=[(310.0, 900.0)])
    quickly = {"autoscaling": {"mode": mode, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}}
    outcome = simulated(load(arrivals, ALWAYS_FOUR, seconds=1200.0, cluster=blind), quickly)
    assert outcome.at(890).wanted == outcome.at(311).wanted >= 5
    assert outcome.at(1199).wanted == 1  # the control


def test_mode_none_has_always_as_many() -> None:
    outcome = simulated(load(steady(8.0), ALWAYS_FOUR), {"autoscaling": {"mode": "none"}, "replicas": 3})
    assert {(change.wanted, change.ready) for change in outcome.changes} == {(3, 3)}
    assert outcome.decisions == []
    assert outcome.replica_hours == pytest.approx(3 * 900 / 3600)


def test_without_replicas_all_are_refused() -> None:
    outcome = simulated(load(steady(1.0), ALWAYS_FOUR), {"autoscaling": {"mode": "none"}, "replicas": 0})
    assert outcome.refused_share == 1.0


def test_a_time_that_is_too_short_for_anything_has_no_replicas() -> None:
    record = load(steady(1.0, 60.0), ALWAYS_FOUR, seconds=60.0)
    assert simulate(record, of_values(SMALL), since=60.0).most == 0


def test_a_pod_that_leaves_is_there_until_its_last_stream_has_ended() -> None:
    arrivals = Arrivals(at=0.0, requests=[0.4] * 300 + [0.0] * 900)
    hundred = Mix(service=[(1.0, 100.0)])
    quickly = {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}
    outcome = simulated(load(arrivals, hundred, seconds=1200.0), {"autoscaling": quickly})
    leaving = [change for change in outcome.changes if change.there > change.wanted and change.at > 300]
    assert leaving
    assert outcome.cut == 0
    assert outcome.calls == outcome.refused + sum(outcome.waits.values())
    assert outcome.at(1199).there == 1


def test_a_stream_past_the_longest_one_is_cut() -> None:
    outcome = simulated(load(steady(0.1), Mix(service=[(1.0, 900.0)])))
    assert outcome.cut == outcome.calls > 0


def test_where_nodes_have_no_room_pods_wait_for_it() -> None:
    full = load(steady(8.0), ALWAYS_FOUR, cluster=Cluster(room=2))
    assert max(change.ready for change in simulated(full).changes) == 2
    grows = Cluster(room=2, more_room=2, more_room_after=200.0)
    outcome = simulated(load(steady(8.0), ALWAYS_FOUR, cluster=grows))
    first = next(change.at for change in outcome.changes if change.ready > 2)
    waited = next(change.at for change in outcome.changes if change.wanted > 2)
    assert waited + 200 <= first <= waited + 206
    assert outcome.changes[-1].ready > 4


def test_callers_that_had_to_wait_move_to_replicas_with_room() -> None:
    """docs/adr/0019-connections-leave-full-replicas.md: else they would wait for ever where they are."""
    outcome = simulated(load(Callers(at=0.0, count=24), ALWAYS_FOUR), {"autoscaling": {"minReplicas": 2}})
    late = [minute for minute in outcome.minutes if minute.requests][8:]
    assert outcome.changes[-1].ready == 4
    assert sum(minute.waited for minute in late) < 0.1 * sum(minute.requests for minute in late)


def test_connections_that_stay_where_replicas_are_full() -> None:
    """As before 0019: more replicas do not help those who are there."""
    stays = load(Callers(at=0.0, count=24), ALWAYS_FOUR, connections=Connections(leave_full=False))
    leaves = load(Callers(at=0.0, count=24), ALWAYS_FOUR)
    fixed = {"autoscaling": {"minReplicas": 2}}
    assert simulated(stays, fixed).waited > 2 * simulated(leaves, fixed).waited


def test_connections_that_are_kept_delay_the_help_of_new_replicas() -> None:
    arrivals = Arrivals(at=0.0, requests=[2.0] * 120 + [8.0] * 180)
    balanced, kept = (
        simulated(load(arrivals, ALWAYS_FOUR, seconds=300.0, connections=Connections(keep=keep)))
        for keep in (0.0, 60.0)
    )
    assert kept.waited > balanced.waited


def test_callers_come_and_go() -> None:
    lines = (
        Callers(at=0.0, count=5),
        Callers(at=100.0, count=0),
        Callers(at=101.0, count=2),
        Callers(at=200.0, count=0),
    )
    outcome = simulated(load(*lines, ALWAYS_FOUR, seconds=300.0))
    assert outcome.requests == pytest.approx(5 * 25 + 2 * 25, abs=4)
    assert outcome.minutes[-1].requests == 0


@pytest.mark.parametrize(
    "mix",
    [Mix(service=[(1.0, 0.0)]), Mix(hits=1.0, service=[(1.0, 4.0)]), Mix(hits=0.5, service=[(1.0, 0.0)])],
)
def test_a_caller_asks_no_more_than_a_hundred_times_a_second(mix: Mix) -> None:
    outcome = simulated(load(Callers(at=0.0, count=2), mix, seconds=10.0))
    assert outcome.requests == pytest.approx(2000, abs=4)


def test_a_refused_caller_asks_again() -> None:
    busy = {
        "config": {"admission": {"max_inflight": 1, "max_queued": 0}},
        "autoscaling": {"mode": "none"},
        "replicas": 1,
    }
    outcome = simulated(load(Callers(at=0.0, count=3), ALWAYS_FOUR, connections=Connections(again=2.0)), busy)
    assert outcome.refused == pytest.approx(2 * 900 / 2, rel=0.1)


def test_it_scales_before_anyone_is_scraped_no_further_than_it_was() -> None:
    """No figure at all is no reason to shrink."""
    record = load(steady(0.0), ALWAYS_FOUR, cluster=Cluster(replicas=5), pace=Pace(window=1.0))
    assert simulated(record).changes[-1].wanted == 5


@given(
    rates=st.lists(st.floats(0.0, 12.0), min_size=3, max_size=6),
    service=st.floats(0.5, 20.0),
    inflight=st.integers(1, 12),
    queued=st.integers(0, 20),
    timeout=st.integers(1, 30),
    mode=st.sampled_from(["hpa", "keda", "none"]),
    keep=st.sampled_from([0.0, 5.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=size(15), deadline=None)
def test_every_call_is_let_in_or_refused_or_waits_still(
    rates: list[float],
    service: float,
    inflight: int,
    queued: int,
    timeout: int,
    mode: str,
    keep: float,
    seed: int,
) -> None:
    arrivals = Arrivals(at=0.0, requests=[rate for rate in rates for _ in range(60)])
    mix = Mix(hits=0.1, service=[(0.0, service / 2), (1.0, service * 2)])
    record = load(arrivals, mix, seconds=60.0 * len(rates), connections=Connections(keep=keep))
    values = {
        "config": {
            "admission": {"max_inflight": inflight, "max_queued": queued, "queue_timeout": f"{timeout}s"}
        },
        "autoscaling": {"mode": mode, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}},
    }
    outcome = simulated(record, values, seed=seed)
    assert outcome.calls == sum(outcome.waits.values()) + outcome.refused + outcome.queued
    assert outcome.requests == outcome.calls + outcome.hits
    assert sum(minute.refused for minute in outcome.minutes) == outcome.refused
    assert sum(minute.requests for minute in outcome.minutes) == outcome.requests
    assert max(outcome.waits, default=0) <= 1000 * timeout
    again = simulated(record, values, seed=seed)
    assert again == outcome


@pytest.mark.parametrize("keep", [0.0, 5.0])
def test_more_replicas_refuse_fewer(keep: float) -> None:
    record = load(steady(9.0), Mix(service=[(0.0, 2.0), (1.0, 9.0)]), connections=Connections(keep=keep))
    few = {
        "config": {"admission": {"max_queued": 10, "queue_timeout": "3s"}},
        "autoscaling": {"mode": "none"},
    }
    refused = [simulated(record, few, {"replicas": replicas}).refused for replicas in range(1, 8)]
    assert refused == sorted(refused, reverse=True)
    assert refused[0] > refused[3] > 0
    assert refused[-1] < refused[0] / 100


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_where_everything_takes_longer_alike_calls_wait_longer_alike(factor: float) -> None:
    """With a fixed number of replicas, and nobody who is refused: the gate's averages are over times of their own."""

    def waited(by: float) -> Outcome:
        arrivals = Arrivals(at=0.0, step=by, requests=[4.6] * 900)
        mix = Mix(service=[(0.0, 2.0 * by), (1.0, 6.0 * by)])
        record = load(arrivals, mix, seconds=900.0 * by, connections=Connections(keep=0.0))
        patient = {"config": {"admission": {"max_queued": 5000, "queue_timeout": "1h"}}}
        return simulated(record, patient, {"autoscaling": {"mode": "none"}, "replicas": 2})

    once, scaled = waited(1.0), waited(factor)
    assert (once.calls, once.refused, scaled.refused) == (scaled.calls, 0, 0)
    assert once.waited > 100
    for quantile in (0.5, 0.9, 0.99):
        assert scaled.wait(quantile) == pytest.approx(
            factor * once.wait(quantile), abs=0.002 * max(1.0, factor)
        )


def test_progress_is_told() -> None:
    told: list[float] = []
    simulate(load(steady(1.0), ALWAYS_FOUR), of_values(SMALL), progress=told.append)
    assert told == sorted(told)
    assert 0.8 < told[-1] <= 1.0
