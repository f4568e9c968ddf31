"""What is learnt of single questions, against worlds whose rates and noise are known."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dub5.contract import Verdict
from dub5.question_ttl import best_ttl, request_rate, upper_rate
from dub5_operator.planner import questions
from dub5_operator.planner.questions import Bounds, Population, Questions

HOUR = 3600.0
NOW = 1_000_000.0
BOUNDS = Bounds(shortest=5.0, longest=86400.0, budget=0.01, aim=0.0085, stale=0.1)
Floats = NDArray[np.float64]


def fold(found: Questions, verdicts: list[Verdict], now: float, **said: Any) -> None:
    compared = found.compare(verdicts, now)
    assert compared is not None
    found.learn(compared, now, **said)


def learned(
    rates: Floats,
    *,
    noises: float | Floats = 0.0,
    each: int = 40,
    age: float | Floats = 300.0,
    spread: float = 10.0,
) -> Questions:
    """Of questions with these rates per second: comparisons at ages up to `spread` times above and below `age`."""
    chance = np.random.default_rng(3)
    found = Questions()
    at = np.full(len(rates), NOW)
    for _ in range(each):
        ages = age * spread ** chance.uniform(-1, 1, len(rates))
        changed = chance.random(len(rates)) > np.exp(-rates * ages) * (1 - noises)
        columns = zip(at.tolist(), ages.tolist(), changed.tolist(), strict=True)
        verdicts = [
            Verdict(key, "c", then, then + apart, differs, 3, "refetch")
            for key, (then, apart, differs) in enumerate(columns)
        ]
        at += ages
        fold(found, verdicts, float(at.max()))
    return found


def population(found: Questions) -> Population:
    among = found.population(NOW)
    assert among is not None
    return among


def test_the_distribution_of_rates_is_found() -> None:
    rates = np.random.default_rng(5).gamma(2.0, 1 / (2.0 * HOUR), 1000)
    found = learned(rates)
    among = population(found)
    shape, seconds = found.change
    assert shape == pytest.approx(2.0, rel=0.25)
    assert shape / seconds == pytest.approx(1 / HOUR, rel=0.1)
    assert np.corrcoef(among.mean, rates)[0, 1] > 0.8
    assert 0.93 < np.mean(rates <= among.upper) < 0.99


def test_hits_are_as_stale_as_foretold_though_no_gamma_distribution_is_like_it() -> None:
    rates = np.random.default_rng(6).choice([0.0, 1 / 86400, 1 / HOUR, 1 / 600], 1500, p=[0.4, 0.3, 0.2, 0.1])
    among = population(learned(rates))
    cost, cause = among.best_cost(BOUNDS)
    ttls = among.ttls(cost, BOUNDS)
    hits, stale = among.forecast(ttls)
    exponent = np.maximum(rates * ttls, 1e-12)
    truth = float(among.hits(ttls) @ (1 + np.expm1(-exponent) / exponent)) / hits
    assert truth == pytest.approx(stale, rel=0.15)
    assert (cause, stale) == ("budget", pytest.approx(BOUNDS.aim, rel=0.01))


def test_ttls_are_those_that_replicas_compute() -> None:
    """Here for all at once, there one by one."""
    chance = np.random.default_rng(7)
    shape, requests = 10 ** chance.uniform(-1, 2, 200), 10 ** chance.uniform(-4, 1, 200)
    seconds = shape * 10 ** chance.uniform(1, 6, 200)
    uppers = [upper_rate(*each) for each in zip(shape.tolist(), seconds.tolist(), strict=True)]
    among = dataclasses.replace(
        Population.known(requests, shape / seconds), upper=questions._upper_rates(shape, seconds)
    )
    np.testing.assert_allclose(among.upper, uppers)
    for cost in (1e-3, 0.1, 10.0):
        mosts = 2 * BOUNDS.stale / among.upper
        ttls = [
            best_ttl(asked, rate, most, cost)[0]
            for asked, rate, most in zip(requests, shape / seconds, mosts, strict=True)
        ]
        np.testing.assert_allclose(among.ttls(cost, BOUNDS), np.clip(ttls, BOUNDS.shortest, BOUNDS.longest))


def test_request_rates_are_those_that_replicas_compute() -> None:
    found = learned(np.full(50, 1 / HOUR))
    state = found.state(50)
    among = population(found)
    rates = [
        request_rate(*among.requests_prior, requests, watched, 0.0, 0.0)
        for requests, watched in state["known"][:, 2:].tolist()
    ]
    np.testing.assert_allclose(np.sort(among.requests), np.sort(rates), rtol=1e-6)


def test_no_more_than_all_hits_are_foretold_to_be_stale() -> None:
    each_second = Population.known(np.ones(1), np.ones(1))
    assert each_second.forecast(np.array([60.0]))[1] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("one_in", [10, 2])
def test_questions_that_are_always_reworded_change_no_more_than_the_others(one_in: int) -> None:
    always = np.arange(1000) % one_in == 0
    found = learned(np.full(1000, 1 / HOUR), noises=np.where(always, 1.0, 0.0))
    among = population(found)
    assert among.noise[always].min() > 0.9
    assert among.noise[~always].max() < 0.1
    assert among.mean[~always].mean() == pytest.approx(1 / HOUR, rel=0.15)
    assert among.mean[always].mean() == pytest.approx(1 / HOUR, rel=0.15)


def test_answers_that_change_each_few_seconds_are_not_taken_for_reworded() -> None:
    """They are compared at about the same age each time, as TTLs have it."""
    rates = 1 / np.geomspace(12.0, 300.0, 60)
    among = population(learned(rates, age=2.5, spread=1.2, each=20))
    assert among.mean.mean() == pytest.approx(rates.mean(), rel=0.25)
    assert among.noise.mean() < 0.02


def test_noise_that_is_alike_for_all_is_told_from_change() -> None:
    found = learned(np.full(1000, 1 / HOUR), noises=0.35)
    among = population(found)
    assert among.noise.mean() == pytest.approx(0.35, abs=0.05)
    assert among.mean.mean() == pytest.approx(1 / HOUR, rel=0.2)


def test_hits_are_foretold_of_questions_of_which_few_are_popular() -> None:
    """With Zipf's exponent 1.4 the first of 500 questions is asked for as often as all but the next five together."""
    often = 10 * (shares := np.arange(1, 501) ** -1.4) / shares.sum()
    found, at = Questions(), np.full(len(often), NOW)
    for _ in range(20):
        ages = 20.0 + 1 / often  # a life and the time until the next request
        verdicts = [
            Verdict(key, "c", then, then + age, then % 2 < 1, round(20 * rate), "refetch")
            for key, (then, age, rate) in enumerate(
                zip(at.tolist(), ages.tolist(), often.tolist(), strict=True)
            )
        ]
        at += ages
        fold(found, verdicts, NOW)
    requests = population(found).requests
    assert requests[0] == pytest.approx(often[0], rel=0.1)
    assert requests.sum() == pytest.approx(10.0, rel=0.2)


def test_a_storm_teaches_no_rates() -> None:
    found = learned(np.full(300, 1 / HOUR))
    at, rate, margin = NOW + 40_000, population(found).mean.mean(), found.margin
    changed = [Verdict(key, "c", at, at + 10, True, 100, "refetch") for key in range(300)]
    fold(found, changed, at + 10, storm=True)  # noticed
    fold(found, changed, at + 20, after=at + 5)  # over
    assert population(found).mean.mean() == pytest.approx(rate, rel=0.15)
    assert found.margin == pytest.approx(margin, rel=0.05)
    fold(found, changed, at + 30)
    assert population(found).mean.mean() > 2 * rate


def test_few_changes_leave_a_margin() -> None:
    few, many = (population(learned(np.full(n, 1 / HOUR), each=4)).margin for n in (30, 4000))
    assert few > 1.3 > 1.15 > many > 1.0


def test_where_nothing_has_changed_yet_no_rate_is_certain() -> None:
    shape, seconds = learned(np.zeros(1000), each=3, age=60.0, spread=2.0).change
    watched = 1000 * 3 * 60.0
    assert shape < 1
    assert shape / seconds > 0.1 / watched


def test_questions_of_documents_that_changed_once_are_not_known_to_change_alike() -> None:
    """Three of ten documents changed within two hours, a hundred answers each."""
    found, at, changed_at = Questions(), NOW, {0: 20, 1: 27, 2: 95}
    for minute in range(120):
        at += 60.0
        rows = range(minute % 10, 1000, 10)
        late = {row for row in rows if 0 <= minute - changed_at.get(row // 100, math.inf) < 10}
        fold(found, [Verdict(row, "c", at - 600, at, row in late, 3, "refetch") for row in rows], at)
    found.believe()
    shape, seconds = found.change
    assert shape < 3
    assert shape / seconds == pytest.approx(300 / 1000 / (2 * HOUR), rel=0.3)


def test_what_was_expected_wrongly_of_all_is_no_dispersion() -> None:
    found = learned(np.full(300, 1 / HOUR), each=4)
    at, measured = NOW + 100_000.0, []
    for minute in range(240):
        at += 60.0
        rows = range(minute % 10, 300, 10)
        # Nothing changes any more, and in the end all at once, each half an hour.
        changed = minute >= 180 and minute % 30 > 20
        fold(found, [Verdict(key, "c", at - 600, at, changed, 3, "refetch") for key in rows], at)
        measured.append(found.dispersion)
    assert measured[179] < measured[60] < measured[239]


def test_memory_keeps_the_cost_lower() -> None:
    among = population(learned(np.full(500, 1 / HOUR)))
    cost = among.cost_within(50.0, BOUNDS)
    assert among.held(among.ttls(cost, BOUNDS)) == pytest.approx(50.0, rel=0.01)
    with_others = among.cost_within(50.0, BOUNDS, unknown=1.0)
    assert with_others < cost
    assert among.kept(with_others, BOUNDS, 1.0) == pytest.approx(50.0, rel=0.01)
    assert among.held(among.ttls(with_others, BOUNDS)) < 50.0


def test_one_goes_on_where_another_stopped() -> None:
    found, after = learned(np.full(300, 1 / HOUR)), Questions()
    after.restore(found.state(1000))
    assert after.change == found.change
    one, other = population(found), population(after)
    np.testing.assert_allclose(np.sort(other.mean), np.sort(one.mean), rtol=0.02)
    assert other.best_cost(BOUNDS)[0] == pytest.approx(one.best_cost(BOUNDS)[0], rel=0.02)
    assert len(found.state(10)["keys"]) == 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("known", np.zeros((3, 4), dtype=np.float32)),
        ("at", np.full(20, math.nan)),
        ("changed", np.full((20, 18), -1.0, dtype=np.float32)),
        ("mixture", np.zeros(350)),
        ("mixture", np.full(350, 1e-300)),
        ("mixture", np.ones(320)),
        ("sums", np.zeros(9)),
        ("sums", np.full(9, 1e13)),
        ("known", np.full((20, 4), 1e13, dtype=np.float32)),
        ("keys", np.zeros(20, dtype=np.int64)),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(name: str, value: NDArray[np.generic]) -> None:
    found = learned(np.full(20, 1 / HOUR))
    before = population(found)
    with pytest.raises(ValueError, match=f"questions|{name}"):
        found.restore({**found.state(20), name: value})
    np.testing.assert_array_equal(population(found).mean, before.mean)
    with pytest.raises(KeyError):
        found.restore({})


def test_there_is_a_bound_on_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MOST_QUESTIONS", 100)
    found = learned(np.full(120, 1 / HOUR), each=3)
    assert len(found.state(1000)["keys"]) <= 100
    assert population(found).mean.min() > 0
