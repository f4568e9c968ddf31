"""Drift from comparisons: the estimate, its bound, noise, and jumps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dub5.contract import Verdict
from dub5_operator.planner.drift import FASTEST, Drift

HOUR = 3600.0
START = 1_000_000.0


def watch(
    minutes: int,
    *,
    rate: float = 0.0,
    noise: float = 0.0,
    ttl: float = 300.0,
    a_minute: int = 60,
    seed: int = 1,
    jump: float = 1.0,
    jump_at: float = math.inf,
) -> Drift:
    """Comparisons as a cache makes them: refetches past the TTL, and one re-ask in twenty. `rate` is per second."""
    chance, drift, now = np.random.default_rng(seed), Drift(), START
    for _ in range(minutes):
        verdicts = []
        for _ in range(a_minute):
            re_ask = chance.random() < 0.05
            age = chance.random() * ttl if re_ask else ttl + chance.exponential(ttl)
            again = now + chance.random() * 60
            after = max(0.0, min(age, again - (START + jump_at)))
            exposure = rate * (age - after) + rate * jump * after
            verdicts.append(
                Verdict(
                    key=1,
                    class_name="c",
                    fetched=again - age,
                    again=again,
                    changed=bool(chance.random() > (1 - noise) * math.exp(-exposure)),
                    hits=int(chance.integers(1, 20)),
                    source="re-ask" if re_ask else "refetch",
                )
            )
        now += 60
        drift.fold(verdicts, now)
    return drift


@pytest.mark.parametrize("rate", [1 / (24 * HOUR), 1 / HOUR, 1 / 600])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_rate_is_inside_its_interval(rate: float, noise: float) -> None:
    estimate = watch(240, rate=rate, noise=noise).estimate
    assert 0.95 * estimate.lower <= rate <= 1.05 * estimate.upper  # nine in ten would be inside without that
    assert estimate.noise == pytest.approx(noise, abs=0.03)


def test_the_bound_holds_in_about_95_of_100_runs() -> None:
    above = sum(watch(20, rate=1 / HOUR, seed=seed).estimate.upper >= 1 / HOUR for seed in range(40))
    assert above >= 36


def test_more_comparisons_bring_the_bound_closer() -> None:
    few, many = watch(20, rate=1 / HOUR).estimate, watch(400, rate=1 / HOUR).estimate
    assert many.upper / many.rate < few.upper / few.rate
    assert many.upper < 1.2 / HOUR


def test_nothing_changed_is_bounded_by_the_time_watched() -> None:
    estimate = watch(120).estimate
    exposure = 120 * 60 * 560.0  # comparisons of some 560 s each
    assert estimate.rate < 1 / exposure
    assert 1 / exposure < estimate.upper < 8 / exposure


@pytest.mark.parametrize("noise", [0.2, 0.5])
def test_noise_alone_is_not_drift(noise: float) -> None:
    estimate = watch(240, noise=noise).estimate
    assert not estimate.significant
    assert estimate.noise == pytest.approx(noise, abs=0.03)


def test_where_nothing_is_ever_the_same_only_noise_is_seen() -> None:
    estimate = watch(60, noise=1.0).estimate
    assert estimate.only_noise
    assert estimate.noise > 0.99
    assert watch(60, noise=0.9985).estimate.only_noise


def test_popular_answers_that_change_more_often_count_by_their_hits() -> None:
    chance, drift, now = np.random.default_rng(1), Drift(), START
    for _ in range(240):
        verdicts = []
        for popular in [True] * 30 + [False] * 30:
            age, rate = (60.0, 4 / HOUR) if popular else (200.0, 0.4 / HOUR)
            changed = bool(chance.random() > math.exp(-rate * age))
            verdicts.append(Verdict(1, "c", now - age, now, changed, 9 if popular else 1, "refetch"))
        now += 60
        drift.fold(verdicts, now)
    # Nine of ten hits are of answers that change four times an hour.
    assert drift.estimate.upper > 3.64 / HOUR
    assert drift.estimate.rate > 2.5 / HOUR


@pytest.mark.parametrize(("rate", "ttl"), [(1 / HOUR, 60.0), (1 / (6 * HOUR), 600.0)])
def test_a_jump_is_seen_and_its_size_known(rate: float, ttl: float) -> None:
    at = 3 * HOUR
    before = watch(180, rate=rate, ttl=ttl)
    assert before.jumps == []
    after = watch(195, rate=rate, ttl=ttl, jump=10, jump_at=at)
    [(when, factor)] = after.jumps
    assert when - START - at <= 15 * 60
    assert 2 < factor < 40  # part of the window was before it
    assert 4 * rate < after.estimate.rate < 40 * rate
    assert after.estimate.upper > 10 * rate * 0.7


def test_a_steady_drift_does_not_jump() -> None:
    assert [watch(360, rate=1 / HOUR, ttl=60, seed=seed).jumps for seed in range(3)] == [[], [], []]


def test_changes_that_come_together_are_not_as_many() -> None:
    chance = np.random.default_rng(1)

    def run(*, together: bool) -> float:
        drift, now = Drift(), START
        for _ in range(300):
            now += 60
            news = chance.random() < 0.05
            verdicts = [
                Verdict(
                    1, "c", now - 60, now, bool(news if together else chance.random() < 0.05), 5, "refetch"
                )
                for _ in range(20)
            ]
            drift.fold(verdicts, now)
        return drift.dispersion

    assert run(together=True) > 3
    assert run(together=False) < 1.6


verdicts = st.builds(
    Verdict,
    key=st.integers(0, 2**48 - 1),
    class_name=st.just("c"),
    fetched=st.floats(START - 1e6, START),
    again=st.floats(START, START + 1e5),
    changed=st.booleans(),
    hits=st.integers(0, 10**9),
    source=st.sampled_from(["refetch", "re-ask"]),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(verdicts, max_size=12), max_size=6), st.floats(1, 1e5))
def test_whatever_is_compared_the_estimate_is_a_rate_with_its_bounds(
    batches: list[list[Verdict]], step: float
) -> None:
    drift, now = Drift(), START + 1e5
    for batch in batches:
        drift.fold([each for each in batch if each.again > each.fetched], now)
        now += step
    estimate = drift.estimate
    assert 0 <= estimate.rate <= FASTEST * 1.001
    assert 0 <= estimate.lower <= estimate.upper * 1.001
    assert 0 <= estimate.noise <= 1
