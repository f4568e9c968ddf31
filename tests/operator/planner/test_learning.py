"""One class, from samples to a TTL: what is not true changes nothing, and the same samples give the same."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dub5.contract import Access, Verdict
from dub5_operator.planner.decision import Learning, PolicyLimits, Shape, is_sane_verdict, sane_lookups
from dub5_operator.planner.samples import Lookups

NOW = 1_000_000.0
LIMITS = PolicyLimits(shortest=5, longest=86400, budget=0.01, initial=60)
ACCESS = Access(1, "c", NOW, True, 100, 0.001, 1.0)
VERDICT = Verdict(1, "c", NOW - 60, NOW, False, 3, "refetch")


@pytest.mark.parametrize(
    "changes",
    [
        {"at": math.nan},
        {"at": NOW + 3600},
        {"at": -1.0},
        {"size": -1},
        {"dollars": math.inf},
        {"dollars": -0.1},
        {"threshold": 0.0},
        {"threshold": math.nan},
        {"threshold": 1.5},
        {"key": -1},
    ],
)
def test_a_poisoned_look_up_changes_nothing(changes: dict[str, Any]) -> None:
    lookups = Lookups([ACCESS, msgspec.structs.replace(ACCESS, **changes)])
    assert sane_lookups(lookups.columns(), NOW).tolist() == [True, False]


@pytest.mark.parametrize(
    "changes",
    [
        {"fetched": math.nan},
        {"again": math.nan},
        {"again": math.inf},
        {"fetched": NOW + 1},
        {"again": NOW + 3600, "fetched": NOW + 3500},
        {"fetched": 1.0, "again": NOW + 1e9},
        {"hits": -1},
        {"fetched": NOW},
    ],
)
def test_a_poisoned_comparison_changes_nothing(changes: dict[str, Any]) -> None:
    assert is_sane_verdict(VERDICT, NOW)
    assert not is_sane_verdict(msgspec.structs.replace(VERDICT, **changes), NOW)


anything = st.floats(allow_nan=True, allow_infinity=True)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            Access, st.integers(), st.just("c"), anything, st.booleans(), st.integers(), anything, anything
        )
    ),
    st.lists(
        st.builds(
            Verdict,
            st.integers(),
            st.just("c"),
            anything,
            anything,
            st.booleans(),
            st.integers(),
            st.just("refetch"),
        )
    ),
    st.one_of(st.none(), anything),
)
def test_nothing_that_is_sent_breaks_the_planner(
    accesses: list[Access], verdicts: list[Verdict], looked_up: float | None
) -> None:
    learning = Learning(Shape(5, 3600, 0.0))
    learning.fold(accesses, verdicts, looked_up=looked_up, ttl_in_force=60, now=NOW)
    learning.fold([ACCESS], [VERDICT], looked_up=1, ttl_in_force=60, now=NOW + 60)
    decision = learning.decide(LIMITS, 60, NOW + 60)
    assert decision.ttl == 60
    assert learning.refused <= len(accesses) + len(verdicts)


def test_other_bounds_keep_what_is_known_of_drift() -> None:
    learning = Learning(Shape(5, 3600, 0.0))
    for minute in range(5):
        verdicts = [msgspec.structs.replace(VERDICT, key=key) for key in range(20)]
        learning.fold([ACCESS], verdicts, looked_up=1, ttl_in_force=60, now=NOW + 60 * minute)
    seen = learning.compared
    assert seen > 99
    learning.reshape(Shape(5, 7200, 0.0))
    assert learning.compared == seen
    assert learning.curve(NOW + 300) is None


def test_of_what_was_not_compared_nobody_says_how_stale_it_is() -> None:
    learning = Learning(Shape(5, 86400, 0.0))
    learning.fold([ACCESS] * 3, [], looked_up=3, ttl_in_force=60, now=NOW)
    decision = learning.decide(LIMITS, 60, NOW + 60)
    assert (math.isnan(decision.stale), decision.stale_upper) == (True, 1.0)


def test_the_comparisons_that_show_a_storm_teach_no_rates() -> None:
    learning, now = Learning(Shape(5, 86400, 0.0)), NOW

    def fold(changed: int, of: int, age: float) -> None:
        each = [(now - 0.1 * key - age, now - 0.1 * key, key < changed) for key in range(of)]
        verdicts = [Verdict(key, "c", *known, 3, "refetch") for key, known in enumerate(each)]
        learning.fold([ACCESS], verdicts, looked_up=1, ttl_in_force=60.0, now=now)

    def changes_an_hour() -> float:
        population = learning.population(now)
        assert population is not None
        shape, seconds = population.change_prior
        return 3600 * shape / seconds

    for _ in range(6 * 60):
        now += 60
        fold(0, 40, 1800.0)
    before = changes_an_hour()
    for _ in range(10):
        now += 60
        fold(110, 200, 1200.0)
    policy = learning.decide(LIMITS, 60.0, now).question
    assert policy is not None
    assert policy.storm
    assert changes_an_hour() < 2 * before
