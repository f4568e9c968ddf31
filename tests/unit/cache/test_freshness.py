"""Request directives, the decision that they lead to, and the odds of an early refresh."""

from __future__ import annotations

import contextlib
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.cache.freshness import (
    GREATEST_DRAW,
    Directives,
    FreshnessState,
    Lifetimes,
    judge,
    refresh_early,
)
from dub5.contract import LONGEST_TTL, QuestionPolicy, QuestionRecord
from dub5.errors import InvalidRequest

LIVES = Lifetimes(ttl=60, stale_while_revalidate=10, stale_if_error=100)
"""Fresh for a minute, stale but served for ten seconds more, kept against errors for a hundred."""

PLAIN = Lifetimes(ttl=60)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", Directives()),
        ("no-store", Directives(no_store=True)),
        ("No-Cache, max-age=0", Directives(no_cache=True, max_age=0)),
        ("only-if-cached,max-age = 30", Directives(only_if_cached=True, max_age=30)),
        ('min-fresh="5"', Directives(min_fresh=5)),
        ("max-stale", Directives(max_stale=math.inf)),
        ("max-stale=7, stale-if-error=0", Directives(max_stale=7, stale_if_error=0)),
        ("max-age=99999999999", Directives(max_age=2**31)),
        (f"max-stale={'9' * 900}", Directives(max_stale=2**31)),
        ('private="a, b", foo=bar, immutable', Directives()),
    ],
)
def test_directives_are_read(header: str, expected: Directives) -> None:
    assert Directives.parse(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        "max-age=soon",
        "max-age",
        "min-fresh=-1",
        "max-age=1e9",
        "max-age=٣",
        "max-stale=x",
        "stale-if-error",
        "=",
        "a b c",
        'max-age="',
    ],
)
def test_malformed_directives_name_the_header(header: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Directives.parse(header)
    assert caught.value.param == "Cache-Control"


@given(st.text(max_size=40))
def test_any_header_is_read_or_refused(header: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(Directives.parse(header), Directives)


@pytest.mark.parametrize(
    ("age", "header", "expected"),
    [
        (0.0, "", FreshnessState.FRESH),
        (59.9, "", FreshnessState.FRESH),
        (60.0, "", FreshnessState.REVALIDATE),
        (70.0, "", FreshnessState.REVALIDATE),
        (70.1, "", FreshnessState.IF_ERROR),
        (160.0, "", FreshnessState.IF_ERROR),
        (160.1, "", FreshnessState.GONE),
        # max-age is about age, whatever the TTL
        (30.0, "max-age=30", FreshnessState.FRESH),
        (30.1, "max-age=30", FreshnessState.REFUSED),
        (65.0, "max-age=30", FreshnessState.REFUSED),
        (65.0, "max-age=65", FreshnessState.REVALIDATE),
        # min-fresh asks for what is left; a stale answer never has it
        (9.0, "min-fresh=50", FreshnessState.FRESH),
        (10.0, "min-fresh=50", FreshnessState.REFUSED),
        (65.0, "min-fresh=50", FreshnessState.IF_ERROR),
        # no-cache refuses everything that is stored
        (0.0, "no-cache", FreshnessState.REFUSED),
        (500.0, "no-cache", FreshnessState.REFUSED),
        # max-stale accepts so much staleness, or any
        (75.0, "max-stale=15", FreshnessState.ACCEPTED),
        (75.1, "max-stale=15", FreshnessState.IF_ERROR),
        (500.0, "max-stale", FreshnessState.ACCEPTED),
        (65.0, "max-stale=3", FreshnessState.REVALIDATE),
        (500.0, "max-stale, max-age=400", FreshnessState.REFUSED),
        # the request's stale-if-error replaces the class's
        (80.0, "stale-if-error=20", FreshnessState.IF_ERROR),
        (80.1, "stale-if-error=20", FreshnessState.GONE),
        (71.0, "stale-if-error=0", FreshnessState.GONE),
        (200.0, "stale-if-error=140", FreshnessState.IF_ERROR),
    ],
)
def test_what_an_answer_of_this_age_is_good_for(age: float, header: str, expected: FreshnessState) -> None:
    assert judge(age=age, lifetimes=LIVES, asked=Directives.parse(header)).state is expected


def test_without_staleness_an_expired_answer_is_gone() -> None:
    assert judge(age=60.1, lifetimes=PLAIN, asked=Directives()).state is FreshnessState.GONE


@pytest.mark.parametrize(
    ("state", "usable"),
    [
        (FreshnessState.FRESH, True),
        (FreshnessState.REVALIDATE, True),
        (FreshnessState.ACCEPTED, True),
        (FreshnessState.REFUSED, False),
        (FreshnessState.IF_ERROR, False),
        (FreshnessState.GONE, False),
    ],
)
def test_which_states_are_served(state: FreshnessState, usable: bool) -> None:
    ages = {
        FreshnessState.FRESH: (1, ""),
        FreshnessState.REVALIDATE: (61, ""),
        FreshnessState.ACCEPTED: (75, "max-stale"),
    }
    ages |= {
        FreshnessState.REFUSED: (1, "no-cache"),
        FreshnessState.IF_ERROR: (75, ""),
        FreshnessState.GONE: (500, ""),
    }
    age, header = ages[state]
    fresh = judge(age=age, lifetimes=LIVES, asked=Directives.parse(header))
    assert (fresh.state, fresh.usable) == (state, usable)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_age_and_ttl_always_add_up_to_the_lifetime(age: float, ttl: float) -> None:
    fresh = judge(age=age, lifetimes=Lifetimes(ttl=ttl), asked=Directives())
    assert fresh.age == age
    assert fresh.ttl == ttl - age
    assert fresh.usable is (fresh.ttl > 0 or age == ttl)  # at its very end, zero staleness is allowed


def test_an_entry_is_kept_as_long_as_it_may_be_of_use() -> None:
    assert LIVES.kept_for() == 160
    assert Lifetimes(ttl=60, stale_while_revalidate=90, stale_if_error=5).kept_for() == 150


def test_early_refresh_follows_its_law() -> None:
    """P(-r ln u >= ttl) = exp(-ttl / r) for u uniform in (0, 1]."""
    chances = random.Random(5)
    for ttl, recompute in [(1.0, 1.0), (2.0, 1.0), (1.0, 2.5)]:
        drawn = 20_000
        refreshed = sum(
            refresh_early(ttl=ttl, recompute=recompute, lifetimes=PLAIN, draw=1.0 - chances.random())
            for _ in range(drawn)
        )
        expected = math.exp(-ttl / recompute)
        assert abs(refreshed / drawn - expected) < 4 * math.sqrt(expected * (1 - expected) / drawn)


@given(st.floats(0, 1.5))
def test_no_draw_of_a_generator_refreshes_an_answer_that_is_fresh_for_long_enough(recompute: float) -> None:
    least = 1.0 - math.nextafter(1.0, 0.0)  # of what a generator of [0, 1) may give
    ttl = math.nextafter(GREATEST_DRAW * recompute, math.inf)
    assert not refresh_early(ttl=ttl, recompute=recompute, lifetimes=PLAIN, draw=least)


@given(st.floats(0.001, 6), st.floats(1e-300, 1))
def test_early_refresh_is_off_where_stale_while_revalidate_does_it_better(ttl: float, chance: float) -> None:
    assert not refresh_early(ttl=ttl, recompute=5.9, lifetimes=LIVES, draw=chance)


@pytest.mark.parametrize(("recompute", "refreshes"), [(5.99, True), (6.0, False), (60.0, False)])
def test_early_refresh_is_off_where_asking_takes_a_tenth_of_the_ttl(
    recompute: float, refreshes: bool
) -> None:
    assert refresh_early(ttl=0.001, recompute=recompute, lifetimes=PLAIN, draw=1e-9) is refreshes


@given(st.floats(0.001, 60), st.floats(0.001, 60), st.floats(0, 5.9), st.floats(1e-300, 1))
def test_more_time_left_never_makes_an_early_refresh_likelier(
    one: float, other: float, recompute: float, chance: float
) -> None:
    less, more = sorted([one, other])
    if refresh_early(ttl=more, recompute=recompute, lifetimes=PLAIN, draw=chance):
        assert refresh_early(ttl=less, recompute=recompute, lifetimes=PLAIN, draw=chance)


def numbers(least: float, most: float) -> st.SearchStrategy[float]:
    return st.floats(least, most) | st.sampled_from([least, most])


COUNT = numbers(0, 1e12)
POSITIVE = numbers(1e-9, 1e12)
PRIOR = st.tuples(POSITIVE, POSITIVE)
SHARE = numbers(0, 1)
POLICIES = st.builds(
    QuestionPolicy,
    cost=numbers(0, 1e6),
    change=PRIOR,
    noise=PRIOR,
    requests=PRIOR,
    shortest=numbers(0, LONGEST_TTL),
    longest=numbers(0, LONGEST_TTL),
    stale=SHARE,
    hazard=numbers(1e-9, 1e6),
    changed_at=COUNT,
    changed_share=SHARE,
)
RECORDS = st.none() | st.builds(QuestionRecord, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT)


@given(policy=POLICIES, record=RECORDS, hits=COUNT, age=COUNT)
def test_whatever_is_published_and_known_an_answer_has_a_ttl_within_bounds(
    policy: QuestionPolicy, record: QuestionRecord | None, hits: float, age: float
) -> None:
    lives = Lifetimes(ttl=60, stale_while_revalidate=30, stale_if_error=5, question=policy)
    own, by = lives.of_answer(record, hits=hits, age=age, now=1.7e9)
    assert by is not None
    life, least = own.ttl + own.stale_while_revalidate, min(policy.shortest, policy.longest)
    assert least <= own.ttl <= life <= max(policy.shortest, policy.longest) * (1 + 1e-9)
    assert own.ttl == pytest.approx(max(life * 60 / 90, min(policy.shortest, life)))
    assert own.stale_if_error == 5
    assert 0 <= lives.kept_for(record) <= max(policy.shortest, policy.longest) * (1 + 1e-9) + 5


OWN = QuestionPolicy(0.02, (1, 3600), (1, 50), (1, 600), 5, 86400, 0.03)


@given(hits=numbers(0, 1e6), age=numbers(0, 86400))
def test_an_answer_is_kept_for_as_long_as_it_may_be_fresh(hits: float, age: float) -> None:
    lives = Lifetimes(ttl=60, stale_while_revalidate=30, question=OWN)
    own, _ = lives.of_answer(None, hits=hits, age=age, now=1.7e9)
    assert own.kept_for() <= lives.kept_for(None) <= 2 * 72


def test_a_class_that_is_not_cached_caches_nothing() -> None:
    lives = Lifetimes(ttl=0, stale_if_error=5, question=OWN)
    assert lives.of_answer(None, hits=0, age=0, now=1.7e9) == (lives, None)
    assert lives.kept_for() == 5


def test_without_a_policy_for_questions_all_answers_live_alike() -> None:
    assert LIVES.of_answer(None, hits=9, age=9, now=1.7e9) == (LIVES, None)
