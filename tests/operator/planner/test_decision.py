"""Which TTL, and why: tables, and what holds whatever was measured."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dub5.question_ttl import longest_ttl, ttl_of
from dub5_operator.planner.decision import (
    AIM,
    Decision,
    PolicyLimits,
    by_question,
    decide,
    kept,
)
from dub5_operator.planner.questions import NOTHING, DriftEstimate, Population
from dub5_operator.planner.reuse import Curve, candidates

HOUR = 3600.0
LIMITS = PolicyLimits(shortest=5, longest=86400, budget=0.01, initial=60)


def curve(
    *, per_second: float = 0.01, keys: int = 1000, window: float = 7 * 86400.0, size: float = 2000.0
) -> Curve:
    """Of `keys` answers, each asked for `per_second` at random times."""
    ttls = candidates(5, 86400)
    hits = per_second * ttls / (1 + per_second * ttls)
    calls = keys * per_second * (1 - hits)
    return Curve(
        ttls=ttls,
        hit_ratio=hits,
        mean_age=ttls / 2,
        dollars=calls * 0.001,
        dollars_uncached=np.full(len(ttls), keys * per_second * 0.001),
        bytes=calls * ttls * size,
        measured=hits,
        seen=1e6,
        window=window,
        looked_up=keys * per_second,
        size=size,
    )


def drift(rate: float, *, upper: float | None = None, noise: float = 0.0) -> DriftEstimate:
    return DriftEstimate(
        rate=rate,
        upper=rate if upper is None else upper,
        lower=rate / 2,
        noise=noise,
        observations=10_000,
        events=100,
    )


def settled(
    current: float, estimate: DriftEstimate, limits: PolicyLimits = LIMITS, seen: Curve | None = None
) -> Decision:
    """Where the steps lead."""
    for _ in range(40):
        decision = decide(seen or curve(), estimate, limits, current)
        current = decision.ttl
    return decision


@pytest.mark.parametrize(
    ("estimate", "limits", "seen", "ttl", "bound_by"),
    [
        # Half of rate * ttl of the hits are stale: 2 * 0.0085 h with one change per hour.
        (drift(1 / HOUR), {}, {}, 61.6, "Staleness"),
        (drift(1 / (24 * HOUR)), {}, {}, 1480, "Staleness"),
        (drift(0.5 / HOUR, upper=1 / HOUR), {}, {}, 61.6, "Staleness"),
        (drift(0.0), {"longest": HOUR}, {}, HOUR, "Bounds"),
        (drift(1e-9), {}, {"window": 4 * HOUR}, HOUR, "Data"),
        (drift(1e-9), {"memory": 1e6}, {"size": 2000}, 99.5, "Memory"),
        (drift(1e-9), {"memory_price": 1e6}, {}, None, "Cost"),
        (drift(1e-9), {}, {"per_second": 10.0}, None, "Cost"),
    ],
)
def test_the_longest_ttl_that_everything_allows(
    estimate: DriftEstimate, limits: dict[str, Any], seen: dict[str, Any], ttl: float | None, bound_by: str
) -> None:
    decision = settled(60.0, estimate, dataclasses.replace(LIMITS, **limits), curve(**seen))
    assert decision.bound_by == bound_by
    assert decision.sufficient
    assert decision.within_budget
    if ttl is not None:
        assert decision.ttl == pytest.approx(ttl, rel=0.05)
    assert decision.stale_upper <= AIM * 0.01 * 1.1


def test_where_no_rate_is_known_all_hits_may_be_stale() -> None:
    fresh = dataclasses.replace(curve(), mean_age=np.zeros(len(curve().ttls)))  # warnings are errors
    assert decide(fresh, NOTHING, LIMITS, 60).stale_upper == 1.0


def test_what_is_saved_goes_by_all_look_ups_and_not_by_the_questions_that_were_compared() -> None:
    seen = curve()  # ten look-ups a second, of which each saves $0.001 where it is a hit
    seen = dataclasses.replace(seen, measured=np.full(len(seen.ttls), 0.9))
    compared = Population.known(np.full(100, 0.01), np.full(100, 1e-6))  # a tenth of them
    decision = by_question(decide(seen, drift(1e-6), LIMITS, HOUR), seen, compared, LIMITS)
    assert decision.hit_ratio == 0.9
    assert decision.saving == pytest.approx(3600 * (1 + 9 * 0.9) * 0.001, rel=0.03)
    assert decision.question is not None
    # Of the others, nine times a tenth are fetched per second, and kept for as long as such an answer is good.
    others = 0.9 * longest_ttl(None, decision.question) * seen.size
    assert decision.bytes == pytest.approx(others + 100 * seen.size, rel=0.03)


def test_no_question_has_a_ttl_that_was_not_watched_four_times_as_long() -> None:
    never = Population.known(np.full(1000, 0.01), np.full(1000, 1e-12))
    for watched, longest in ((HOUR, HOUR / 4), (1.0, 5.0), (1e9, 86400.0)):
        seen = dataclasses.replace(never, watched=watched)
        decision = by_question(decide(curve(), drift(1e-12), LIMITS, HOUR), curve(), seen, LIMITS)
        assert decision.question is not None
        assert (decision.question.longest, decision.bound_by) == (longest, "Data")


@pytest.mark.parametrize("on_infeasible", ["Min", "Bypass"])
def test_where_the_budget_cannot_be_kept_questions_have_the_shortest_ttl_at_once(
    on_infeasible: Literal["Min", "Bypass"],
) -> None:
    limits = dataclasses.replace(LIMITS, on_infeasible=on_infeasible)
    found = by_question(
        decide(curve(), drift(1.0), limits, HOUR),
        curve(),
        Population.known(np.full(9, 1.0), np.full(9, 1.0)),
        limits,
    )
    assert not found.within_budget
    if on_infeasible == "Bypass":
        assert found.question is None
    else:
        assert found.question is not None
        assert ttl_of(None, found.question, hits=9, age=9, now=9).seconds == limits.shortest


def test_a_ttl_moves_in_bounded_steps() -> None:
    down = decide(curve(), drift(1 / HOUR), LIMITS, 3600.0)
    assert (down.ttl, down.reason) == (1800.0, "on its way")
    up = decide(curve(), drift(1 / HOUR), LIMITS, 10.0)
    assert up.ttl == 20.0
    assert up.recommended == down.recommended == pytest.approx(61.6, rel=0.05)


def test_where_nobody_follows_it_shares_are_those_of_the_ttl_in_force() -> None:
    estimate = drift(0.1 / HOUR)
    followed = decide(curve(), estimate, LIMITS, HOUR)
    assert followed.ttl < HOUR
    observed = kept(followed, curve(), estimate, HOUR)
    assert (observed.ttl, observed.recommended) == (HOUR, followed.recommended)
    assert observed.stale == pytest.approx(0.1 / 2, rel=0.03)  # mean age of a hit: half the TTL
    assert observed.stale > followed.stale
    assert observed.hit_ratio > followed.hit_ratio
    assert observed.saving == followed.saving
    assert math.isnan(kept(decide(None, estimate, LIMITS, HOUR), None, estimate, HOUR).stale)


def test_what_gains_little_is_left_alone() -> None:
    assert decide(curve(), drift(1 / HOUR), LIMITS, 63.0).ttl == 63.0
    assert decide(curve(), drift(1 / HOUR), LIMITS, 61.0).ttl == 61.0


@pytest.mark.parametrize(
    ("seen", "estimate", "said"),
    [
        (None, NOTHING, "look-ups"),
        (curve(), NOTHING, "compared"),
        (curve(), drift(1 / HOUR, noise=0.99), "cannot be told from chance"),
    ],
)
def test_without_enough_to_tell_the_ttl_stays(seen: Curve | None, estimate: DriftEstimate, said: str) -> None:
    decision = decide(seen, estimate, LIMITS, 300.0)
    assert (decision.ttl, decision.bound_by, decision.sufficient) == (300.0, "Data", False)
    assert said in decision.reason


def test_having_begun_anew_takes_nothing_back() -> None:
    assert decide(curve(window=600), drift(1e-9), LIMITS, 7200.0).ttl == 7200.0


@pytest.mark.parametrize(("then", "ttl"), [("Min", 300.0), ("Bypass", 0.0)])
def test_a_budget_that_the_minimum_breaks(then: Any, ttl: float) -> None:
    limits = dataclasses.replace(LIMITS, shortest=300.0, on_infeasible=then)
    decision = settled(1200.0, drift(1 / HOUR), limits)
    assert (decision.ttl, decision.within_budget, decision.bound_by) == (ttl, False, "Bounds")
    assert "4.1% of hits would be stale" in decision.reason
    again = settled(decision.ttl, drift(0.01 / HOUR), limits)
    assert again.within_budget
    assert again.ttl > 300


@pytest.mark.parametrize("then", ["Min", "Bypass"])
def test_a_wide_interval_alone_makes_no_budget_infeasible(then: Any) -> None:
    """The best estimate is well within it, the upper end is not: cached, with the minimum, while more is learnt."""
    limits = dataclasses.replace(LIMITS, shortest=10.0, on_infeasible=then)
    decision = settled(60.0, drift(3.34 / HOUR, upper=42 / HOUR), limits)
    assert (decision.ttl, decision.within_budget) == (10.0, True)
    assert decision.stale < limits.budget < decision.stale_upper


@given(rate=st.floats(1e-7, 1.0), width=st.floats(1.0, 100.0), budget=st.floats(0.001, 0.5))
def test_what_is_said_of_the_budget_is_what_is_decided(rate: float, width: float, budget: float) -> None:
    limits = dataclasses.replace(LIMITS, budget=budget)
    decision = settled(5.0, drift(rate, upper=rate * width), limits)
    assert decision.within_budget or decision.stale > budget


def test_memory_that_not_even_the_minimum_fits() -> None:
    decision = settled(60.0, drift(1e-9), dataclasses.replace(LIMITS, memory=1.0))
    assert (decision.ttl, decision.bound_by) == (5.0, "Bounds")


rates = st.floats(0, 1)
ttls = st.floats(1, 1e5)


@settings(deadline=None)
@given(
    rate=rates,
    more=rates,
    current=st.one_of(st.just(0.0), ttls),
    ends=st.tuples(ttls, ttls),
    budget=st.floats(1e-4, 0.5),
    initial=ttls,
    per_second=st.floats(1e-4, 10),
    window=st.floats(0, 1e6),
    then=st.sampled_from(["Min", "Bypass"]),
    memory=st.one_of(st.none(), st.floats(1, 1e9)),
    price=st.floats(0, 100),
)
def test_a_ttl_is_inside_its_bounds_and_a_step_away(
    rate: float,
    more: float,
    current: float,
    ends: tuple[float, float],
    budget: float,
    initial: float,
    per_second: float,
    window: float,
    then: Any,
    memory: float | None,
    price: float,
) -> None:
    limits = PolicyLimits(
        shortest=min(ends),
        longest=max(ends),
        budget=budget,
        initial=initial,
        on_infeasible=then,
        memory=memory,
        memory_price=price,
    )
    seen = curve(per_second=per_second, window=window)
    decision = decide(seen, drift(rate, upper=rate + more), limits, current)
    assert decision.ttl == 0 or limits.shortest <= decision.ttl <= limits.longest
    inside = min(max(current, limits.shortest), limits.longest)
    assert decision.ttl == 0 or inside / 2 - 1e-9 <= decision.ttl <= inside * 2 + 1e-9
    assert decision.ttl != 0 or then == "Bypass" or current == 0
    rates = np.full(10, max(rate, 1e-9))
    known = dataclasses.replace(Population.known(np.full(10, per_second), rates), margin=1 + more)
    each = by_question(decision, seen, known, limits)
    for share in (decision.hit_ratio, decision.stale, decision.stale_upper, each.stale, each.stale_upper):
        assert math.isnan(share) or -1e-9 <= share <= 1
