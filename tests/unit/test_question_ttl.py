"""The TTL of one question, against integrals and minima that are found without its formulas."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from msgspec.structs import astuple

from dub5.contract import QuestionNoise, QuestionPolicy, QuestionRecord
from dub5.question_ttl import (
    best_ttl,
    compared,
    cost_left,
    longest_ttl,
    remembered,
    request_rate,
    ttl_of,
    updated,
    upper_rate,
)

POLICY = QuestionPolicy(
    cost=0.02,
    change=(0.5, 1800.0),
    noise=(0.05, 1.0),
    requests=(0.5, 300.0),
    shortest=5.0,
    longest=86400.0,
    stale=0.03,
)
HOUR = 3600.0


def policy(**fields: Any) -> QuestionPolicy:
    return QuestionPolicy(**{**{name: getattr(POLICY, name) for name in POLICY.__struct_fields__}, **fields})


def learned(
    outcomes: list[bool], *, age: float | list[float], policy: QuestionPolicy = POLICY
) -> QuestionRecord:
    ages = age if isinstance(age, list) else [age] * len(outcomes)
    record, noise, now = None, None, 1e9
    for changed, after in zip(outcomes, ages, strict=True):
        record, noise = updated(
            record,
            noise,
            fetched=now,
            again=now + after,
            changed=changed,
            hits=3,
            re_asked=False,
            policy=policy,
        )
        now += after
    assert record is not None
    return record


@pytest.mark.parametrize("requests", [1e-4, 0.01, 1.0])
@pytest.mark.parametrize("changes", [1 / 86400, 1 / 600])
def test_no_other_ttl_costs_less(requests: float, changes: float) -> None:
    cost = 0.02

    def costs(ttl: float) -> float:
        hits = requests * ttl
        return requests / (1 + hits) * (cost + hits * changes * ttl / 2)

    ttl, _ = best_ttl(requests, changes, math.inf, cost)
    assert costs(ttl) <= min(costs(ttl * 0.98), costs(ttl * 1.02))


@pytest.mark.parametrize(
    ("age", "noise", "event"), [(60.0, 0.0, 0.0), (7200.0, 0.3, 0.0), (7200.0, 0.0, 0.4)]
)
def test_what_a_change_tells_is_what_the_integral_says(age: float, noise: float, event: float) -> None:
    shape, seconds = 0.7, 2000.0
    rates = np.geomspace(1e-12, 0.1, 200_000)
    density = rates**shape * np.exp(-seconds * rates)  # on a logarithmic grid
    density /= density.sum()
    density *= 1 - (1 - noise) * (1 - event) * np.exp(-rates * age)
    chance = float(density.sum())
    density /= chance
    mean = float(density @ rates)
    variance = float(density @ rates**2) - mean**2
    more, longer, _, likely = compared(shape, seconds, noise, age, event, True)
    assert likely == pytest.approx(chance, rel=1e-3)
    assert (shape + more) / (seconds + longer) == pytest.approx(mean, rel=1e-3)
    assert (shape + more) / (seconds + longer) ** 2 == pytest.approx(variance, rel=1e-2)


def test_the_upper_end_is_the_quantile() -> None:
    chance = np.random.default_rng(1)
    for shape, near in ((0.2, 0.1), (1.0, 0.01), (8.0, 0.01)):
        drawn = chance.gamma(shape, 1 / HOUR, 400_000)
        assert upper_rate(shape, HOUR) == pytest.approx(float(np.quantile(drawn, 0.982)), rel=near)


@pytest.mark.parametrize("changed", [True, False])
def test_with_numbers_that_no_question_comes_to_it_begins_anew(changed: bool) -> None:
    damaged = QuestionRecord(1000.0, 0.0, 1e-300, 1e-300, 1e-12, 0.001, 1e9)
    noise = QuestionNoise(1e-6, 1e12, 1e12, 5e-324, 1e-9, -81.7)
    prior = QuestionPolicy(100.0, (4.0, 86400.0), (0.01, 20.0), (1.0, 10.0), 5.0, 86400.0, 0.03, hazard=0.1)

    def learnt(record: QuestionRecord | None, of_noise: QuestionNoise | None) -> Any:
        times = {"fetched": 1e9 + 100, "again": 1e9 + 101}
        return updated(record, of_noise, **times, changed=changed, hits=1, re_asked=False, policy=prior)

    assert learnt(damaged, noise) == learnt(None, None)


def test_rates_are_learnt() -> None:
    chance = np.random.default_rng(2)
    age = 120.0
    outcomes = [bool(each) for each in chance.random(6000) < -math.expm1(-age / 600)]
    record = learned(outcomes, age=age, policy=policy(noise=(1e-6, 1.0)))
    assert (0.5 + record.changes) / (1800 + record.exposure) == pytest.approx(1 / 600, rel=0.1)
    assert record.requests / record.watched == pytest.approx(4 / age)


def test_what_never_changes_is_kept_for_longer_and_longer() -> None:
    ttls = [
        ttl_of(learned([False] * n, age=600.0), POLICY, hits=0, age=0, now=1e9).seconds for n in (1, 5, 25)
    ]
    assert all(shorter < longer for shorter, longer in pairwise(ttls))


def test_what_is_always_worded_anew_says_nothing_of_time() -> None:
    record = learned([True] * 30, age=30.0)
    assert record.reworded > 25
    rate = (0.5 + record.changes) / (1800 + record.exposure)
    assert rate < 3 * 0.5 / 1800
    fast = learned([True] * 30, age=30.0, policy=policy(noise=(1e-6, 1e3)))
    assert (0.5 + fast.changes) / (1800 + fast.exposure) > 1 / 120


def exact_rate(told: QuestionPolicy, ages: list[float], changed: list[bool]) -> float:
    """The mean of a question's rate after these comparisons, by an integral over all rates and all chances `e`."""
    logits, logs = np.linspace(-80, 80, 401)[:, None], np.linspace(math.log(1e-9), 0, 400)
    reworded, worded_alike, rates = -np.logaddexp(0, -logits), -np.logaddexp(0, logits), np.exp(logs)
    likely = told.noise[0] * reworded + told.noise[1] * worded_alike
    likely = likely + told.change[0] * logs - told.change[1] * rates
    for age, differed in zip(ages, changed, strict=True):
        same = np.minimum(worded_alike - rates * age, -1e-300)
        likely += np.log(-np.expm1(same)) if differed else same
    chances = np.exp(likely - likely.max())
    return float(chances.sum(axis=0) @ rates / chances.sum())


@pytest.mark.parametrize("reworded", [0.1, 0.3])
@pytest.mark.parametrize(("rate", "noise"), [(1 / 600, 0.0), (1 / 7200, 0.0), (1 / 86400, 1.0)])
def test_what_changes_fast_is_told_from_what_is_always_worded_anew(
    reworded: float, rate: float, noise: float
) -> None:
    """Of a class where some questions are always reworded, the others never; the first comparison found a change."""
    told = policy(noise=(0.05 * reworded, 0.05 * (1 - reworded)), change=(0.3, 3600.0))
    chance = np.random.default_rng(0)
    ratios = []
    for _ in range(8):
        ages = chance.lognormal(math.log(300), 0.7, 40).tolist()
        changed = [True, *(chance.random() < 1 - (1 - noise) * math.exp(-rate * age) for age in ages[1:])]
        record = learned(changed, age=ages, policy=told)
        exact = exact_rate(told, ages, changed)
        ratios.append((0.3 + record.changes) / (3600 + record.exposure) / exact)
    assert 0.5 < statistics.geometric_mean(ratios) < 2


def test_an_event_says_nothing_of_a_rate() -> None:
    told = policy(changed_at=1e9 + 30, changed_share=0.9)
    (known, _), (unknown, _) = (
        updated(None, fetched=1e9, again=1e9 + 60, changed=True, hits=0, re_asked=False, policy=each)
        for each in (told, POLICY)
    )
    assert known.changes < 0.2 * unknown.changes
    assert ttl_of(None, told, hits=5, age=40, now=1e9 + 40).seconds == POLICY.shortest
    assert ttl_of(None, told, hits=5, age=0, now=1e9 + 60) == ttl_of(
        None, POLICY, hits=5, age=0, now=1e9 + 60
    )


def test_an_answer_that_most_likely_changed_is_not_kept_for_the_calls_it_saves() -> None:
    """`c` is at its most where the promise for one question binds, and an event was worth less than the calls."""
    told = policy(cost=10.0, changed_at=1e9, changed_share=0.9)
    record = learned([False] * 50, age=600.0)
    ttl = ttl_of(record, told, hits=0, age=3600.0, now=1e9 + 60)
    assert (ttl.seconds, ttl.by) == (POLICY.shortest, "bounds")
    few = policy(cost=10.0, changed_at=1e9, changed_share=0.02)
    assert ttl_of(record, few, hits=0, age=600.0, now=1e9 + 60).seconds > 600


def test_a_storm_says_nothing_of_a_rate() -> None:
    calm = learned([True, False], age=60.0)
    record, _ = updated(
        calm,
        fetched=calm.at,
        again=calm.at + 60,
        changed=True,
        hits=3,
        re_asked=False,
        policy=policy(storm=True),
    )
    assert record.requests > calm.requests
    assert (record.changes, record.exposure) == pytest.approx((calm.changes, calm.exposure), rel=1e-3)


def test_after_an_event_no_other_ttl_costs_less() -> None:
    requests, changes, cost, share, since = 0.01, 1 / HOUR, 0.2, 0.03, 40.0

    def costs(ttl: float) -> float:
        stale = requests * (changes * ttl**2 / 2 + share * (ttl - since))
        return requests / (1 + requests * ttl) * (cost + stale)

    ttl, _ = best_ttl(requests, changes, math.inf, cost_left(cost, share, requests, since))
    assert ttl > since
    assert costs(ttl) <= min(costs(ttl * 0.98), costs(ttl * 1.02))


@pytest.mark.parametrize("change", [(0.5, 1800.0), (0.7, 333.0)])
def test_a_life_that_goes_on_is_not_counted_yet(change: tuple[float, float]) -> None:
    told = policy(change=change)
    record, _ = updated(None, fetched=1e9, again=1e9 + 60, changed=False, hits=9, re_asked=True, policy=told)
    assert (record.requests, record.watched, record.changes, record.exposure, record.young) == (0, 0, 0, 0, 1)
    assert ttl_of(record, told, hits=0, age=0, now=1e9).by == "prior"


def test_what_cannot_be_compared_was_asked_for_all_the_same() -> None:
    record, _ = updated(
        None, fetched=1e9, again=1e9 + 60, changed=None, hits=9, re_asked=False, policy=POLICY
    )
    assert (record.requests, record.watched, record.exposure, record.young) == (10, 60, 0, 0)


def test_a_question_that_becomes_popular_has_a_shorter_ttl_at_once() -> None:
    record = learned([False] * 10, age=600.0)
    calm, popular = (ttl_of(record, POLICY, hits=hits, age=30, now=1e9) for hits in (0, 300))
    assert popular.seconds < calm.seconds / 2
    assert popular.by == "requests"
    assert calm.seconds <= longest_ttl(record, POLICY) <= remembered(record, POLICY)


@pytest.mark.parametrize("usual", [1.0, 1e-2, 1e-5])
def test_a_popular_question_is_as_popular_as_its_requests_say(usual: float) -> None:
    """Its last hundred requests came within seconds; the class's usual question is asked for within hours."""
    rate = request_rate(0.5, 0.5 / usual, 100.0, 100 / 3.0, 20.0, 20 / 3.0)
    assert rate == pytest.approx(3.0, rel=0.05)


def test_of_what_was_never_asked_for_the_class_tells() -> None:
    rates = [request_rate(0.5, 500.0, 0.0, 0.0, 0.0, age) for age in (0.0, 500.0, 5000.0)]
    assert rates[0] == pytest.approx(1e-3)
    assert all(sooner > later for sooner, later in pairwise(rates))


def test_no_single_question_is_to_be_staler_than_promised() -> None:
    ttl = ttl_of(None, policy(cost=10.0), hits=0, age=0, now=1e9)
    assert ttl.seconds * upper_rate(0.5, 1800.0) / 2 <= POLICY.stale * (1 + 1e-9)
    assert ttl_of(learned([False], age=60.0), policy(cost=10.0), hits=0, age=0, now=1e9).by == "per-question"


@pytest.mark.parametrize("changed", [True, False, None])
@pytest.mark.parametrize("again", [0.0, 1e-9, 1e9, 1e12])
@pytest.mark.parametrize("hazard", [1e-6, 1.0, 1e6])
def test_extreme_times_give_numbers_that_can_be_stored(
    changed: bool | None, again: float, hazard: float
) -> None:
    record, noise, told = None, None, policy(hazard=hazard, change=(1e-3, 1e-3), noise=(1e-9, 1e-9))
    for _ in range(50):
        record, noise = updated(
            record, noise, fetched=0.0, again=again, changed=changed, hits=1e12, re_asked=False, policy=told
        )
    assert record is not None
    assert noise is not None
    assert all(math.isfinite(each) and each >= 0 for each in (*astuple(record), *astuple(noise)[:-1]))
    assert math.isfinite(noise.odds)
    ttl = ttl_of(record, told, hits=1e12, age=again, now=again)
    assert told.shortest <= ttl.seconds <= told.longest
