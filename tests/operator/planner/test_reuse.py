"""The replay of look-ups against candidate TTLs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dub5.contract import Access
from dub5_operator.planner.reuse import MOST_KEYS, STEP, Reuse, candidates
from dub5_operator.planner.samples import Lookups

START = 1_000_000.0


def access(at: float, key: int = 1, *, hit: bool = True, threshold: float = 1.0) -> Access:
    return Access(key, "c", START + at, hit, 1000 * hit, 0.001 * hit, threshold)


def replay(
    reuse: Reuse, accesses: list[Access], now: float, *, looked_up: float | None = None, ttl: float = 300.0
) -> None:
    reuse.fold(Lookups(accesses).columns(), looked_up, ttl, now)


def column(reuse: Reuse, ttl: float) -> int:
    return int(np.abs(reuse.ttls - ttl).argmin())


def test_candidates_span_the_bounds_in_equal_factors() -> None:
    ttls = candidates(5, 86400)
    assert (ttls[0], ttls[-1]) == pytest.approx((5, 86400))
    assert (ttls[1:] / ttls[:-1]).max() <= STEP + 1e-9


def test_each_ttl_has_the_hits_it_would_have_had() -> None:
    reuse = Reuse(10, 100, 0.0)
    looked_up = [access(0, hit=False), *(access(each) for each in (5, 15, 30, 80, 170))]
    replay(reuse, looked_up, START + 170)
    curve = reuse.curve(START + 170)
    assert curve is not None
    # 10 s: fetched at 0, 15, 30, 80, 170; hit at 5. 100 s: fetched at 0 and 170; hit at 5, 15, 30, 80.
    assert curve.hit_ratio[[0, -1]] == pytest.approx([1 / 6, 4 / 6])
    assert curve.mean_age[[0, -1]] == pytest.approx([5, (5 + 15 + 30 + 80) / 4])
    assert curve.dollars[[0, -1]] * 170 == pytest.approx([5 * 0.001, 2 * 0.001])


@pytest.mark.parametrize("step", [0.0, 600.0, 86400.0])
def test_after_weeks_without_look_ups_there_is_nothing_to_say(step: float) -> None:
    """A short TTL's sums have faded to nothing then, those of a long one have not; also where nobody asked (0)."""
    reuse, end = Reuse(10, 86400, 0.0), START + 40 * 86400
    replay(reuse, [access(0, hit=False), access(5)], START + 5)
    for now in np.arange(START + step, end, step) if step else ():
        replay(reuse, [], now)
    assert step or reuse.curve(START + 86400) is not None
    assert reuse.curve(end) is None


def test_stale_while_revalidate_hits_and_calls() -> None:
    reuse = Reuse(10, 20, 0.5)
    replay(reuse, [access(0, hit=False), access(12), access(30)], START + 30)
    curve = reuse.curve(START + 30)
    assert curve is not None
    assert curve.hit_ratio[0] == pytest.approx(1 / 3)  # at 12 s, in the second window, and refreshed behind
    assert curve.mean_age[0] == pytest.approx(12)


def test_an_unexplained_miss_is_a_miss_for_all_and_a_second_one_soon_after_joined_it() -> None:
    reuse = Reuse(10, 1000, 0.0)
    lookups = [access(0, hit=False), access(50), access(100, hit=False), access(103, hit=False), access(200)]
    replay(reuse, lookups, START + 200)
    curve = reuse.curve(START + 200)
    assert curve is not None
    assert curve.hit_ratio[-1] == pytest.approx(3 / 5)  # purged before 100; 103 had its answer
    assert curve.measured[-1] == pytest.approx(3 / 5)


def test_a_key_first_seen_with_a_hit_only_begins() -> None:
    reuse = Reuse(10, 100, 0.0)
    replay(reuse, [access(0), access(5)], START + 5)
    curve = reuse.curve(START + 5)
    assert curve is not None
    assert curve.hit_ratio == pytest.approx(1.0)


def test_what_two_replicas_tell_one_after_the_other_can_be_stored() -> None:
    """The later one tells of look-ups that came before what the first one fetched: no age is below 0."""
    reuse = Reuse(10, 100, 0.0)
    replay(reuse, [access(0, hit=False), access(50)], START + 50)
    replay(reuse, [access(40)], START + 60)
    curve = reuse.curve(START + 60)
    assert curve is not None
    assert (curve.mean_age >= 0).all()
    assert Reuse(10, 100, 0.0).restore(reuse.state(MOST_KEYS))


def test_after_a_clock_was_set_back_ages_are_what_they_are() -> None:
    """What was fetched by the wrong clock is as if it had not been."""
    reuse = Reuse(10, 100, 0.0)
    replay(reuse, [access(3600, hit=False)], START + 3600)
    replay(reuse, [access(0, hit=False), access(50)], START + 50)
    curve = reuse.curve(START + 50)
    assert curve is not None
    assert (curve.hit_ratio[0], curve.hit_ratio[-1]) == pytest.approx((0, 1 / 3))
    assert curve.mean_age[-1] == pytest.approx(50)


def test_what_is_sampled_stands_for_all_that_was_counted() -> None:
    reuse = Reuse(10, 1000, 0.0)
    heavy = [access(0, hit=False), *(access(each) for each in range(1, 10))]
    rare = [access(each, 2, hit=False, threshold=0.5) for each in (0, 50)]
    replay(reuse, [*heavy, *rare], START + 50, looked_up=16, ttl=0.0)
    curve = reuse.curve(START + 50)
    assert curve is not None
    # Two recorded stand for the six that are not of the heavy key, and both would have been fetched.
    assert curve.hit_ratio[0] == pytest.approx(9 / 16)
    assert curve.dollars[0] / curve.dollars_uncached[0] == pytest.approx(7 / 16)


def test_sampling_finds_the_true_hit_ratio() -> None:
    """Zipf 1.0, the heaviest keys and a quarter of the others."""
    chance = np.random.default_rng(1)
    keys = 1000
    shares = 1 / np.arange(1, keys + 1)
    drawn = chance.choice(keys, size=40_000, p=shares / shares.sum())
    times = np.sort(chance.uniform(0, 4000, len(drawn)))
    names = chance.permutation(keys)
    exact, sampled = Reuse(5, 1000, 0.0), Reuse(5, 1000, 0.0)
    for start in range(0, len(drawn), 1000):
        part = slice(start, start + 1000)
        now = START + times[part][-1]
        all_of_them = [
            Access(int(names[key]), "c", START + at, False, 0, 0.0, 1.0)
            for key, at in zip(drawn[part], times[part], strict=True)
        ]
        replay(exact, all_of_them, now, ttl=0.0)
        few = [
            Access(each.key, "c", each.at, False, 0, 0.0, 1.0 if each.key in names[:64] else 0.25)
            for each in all_of_them
            if each.key in names[:64] or each.key < 0.25 * keys
        ]
        replay(sampled, few, now, looked_up=1000, ttl=0.0)
    now = START + 4000
    truth, found = exact.curve(now), sampled.curve(now)
    assert truth is not None
    assert found is not None
    assert np.abs(truth.hit_ratio - found.hit_ratio).max() < 0.02


def test_bytes_and_dollars_are_rates_of_what_is_known() -> None:
    reuse = Reuse(10, 100, 0.0)
    lookups = [access(0, hit=False), *(access(float(at)) for at in range(1, 1001))]
    for start in range(0, 1001, 50):
        replay(reuse, lookups[start : start + 50], START + start + 50)
    curve = reuse.curve(START + 1050)
    assert curve is not None
    index = column(reuse, 10)
    assert curve.dollars_uncached[index] == pytest.approx(0.001, rel=0.1)
    assert curve.dollars[index] == pytest.approx(0.0001, rel=0.2)
    assert curve.bytes[index] == pytest.approx(1000, rel=0.2)


def test_what_was_not_asked_for_the_longest_is_forgotten_first() -> None:
    reuse = Reuse(10, 100, 0.0)
    for start in range(0, MOST_KEYS + 1000, 1000):
        lookups = [access(float(start), key, hit=False) for key in range(start, start + 1000)]
        replay(reuse, lookups, START + start)
        reuse.forget()
    keys = reuse.state(10**6)["keys"]
    assert len(keys) <= MOST_KEYS
    assert MOST_KEYS + 999 in keys
    assert 0 not in keys
    replay(reuse, [access(2e4, MOST_KEYS + 999)], START + 2e4)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.builds(
            Access,
            key=st.integers(0, 5),
            class_name=st.just("c"),
            at=st.floats(START, START + 500),
            hit=st.booleans(),
            size=st.integers(0, 10_000),
            dollars=st.floats(0, 1),
            threshold=st.sampled_from([1.0, 0.5, 0.125]),
        ),
        min_size=1,
        max_size=40,
    ),
    st.one_of(st.none(), st.floats(0, 1000)),
    st.sampled_from([0.0, 0.25]),
)
def test_a_curve_is_made_of_shares(lookups: list[Access], looked_up: float | None, swr: float) -> None:
    reuse = Reuse(5, 500, swr)
    replay(reuse, lookups[: len(lookups) // 2], START + 500, looked_up=looked_up, ttl=60.0)
    replay(reuse, lookups[len(lookups) // 2 :], START + 560, looked_up=looked_up, ttl=60.0)
    curve = reuse.curve(START + 560)
    if curve is None:
        return
    for shares in (curve.hit_ratio, curve.measured):
        assert ((shares >= 0) & (shares <= 1)).all()
    assert (np.diff(curve.hit_ratio) >= -1e-12).all()
    assert (curve.mean_age <= curve.ttls * (1 + swr) + 1e-6).all()
    assert math.isfinite(float(curve.dollars.sum() + curve.bytes.sum()))


@pytest.mark.parametrize("swr", [0.0, 1.0])
def test_rates_and_sizes_are_those_of_look_ups_and_answers_however_long_these_are_served(swr: float) -> None:
    reuse = Reuse(0.1, 500, swr)
    times = [START + 0.15 * number for number in range(4000)]
    replay(reuse, [access(at - START) for at in times], times[-1], ttl=60.0)
    curve = reuse.curve(times[-1])
    assert curve is not None
    assert curve.looked_up == pytest.approx(1 / 0.15, rel=0.01)
    assert curve.size == pytest.approx(1000)
