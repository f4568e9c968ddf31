"""Which changes are a new rate, which an event, and which chance; histories are drawn, and their truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dub5_operator.planner.hazard import Hazard, Profile

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
START = 20_000 * DAY
QUESTIONS = 300
RATE = 1 / (6 * HOUR)
Floats = NDArray[np.float64]


class History:
    """Questions, most often QUESTIONS, whose answers change at their own times, each fetched again after 5 minutes and
    some chance."""

    def __init__(
        self, changes: list[Floats], *, noises: Floats | None = None, rate: float | Floats = RATE
    ) -> None:
        self.hazard = Hazard()
        self.multipliers: list[float] = []
        self.storms: list[int] = []
        self._chance = np.random.default_rng(2)
        self._changes, self._rates = changes, np.broadcast_to(rate, len(changes))
        self._noises = np.zeros(len(changes)) if noises is None else noises
        self._fetched = self._chance.uniform(-300, 0, len(changes))
        self._minute = 0

    def until(self, end: float) -> History:
        while self._minute * MINUTE < end:
            self._minute += 1
            rows = []
            ends = self._fetched + 300 + self._chance.exponential(120, len(self._fetched))
            for key in np.flatnonzero(ends < self._minute * MINUTE).tolist():
                began, ended = self._fetched[key], ends[key]
                first, last = np.searchsorted(self._changes[key], [began, ended])
                changed = last > first or self._chance.random() < self._noises[key]
                expected = self._rates[key] * (ended - began)
                rows.append((START + began, START + ended, changed, expected, self._noises[key]))
                self._fetched[key] = ended
            fetched, again, changed, expected, noise = np.array(rows, dtype=float).reshape(-1, 5).T
            self.hazard.fold(fetched, again, changed, expected, noise, START + self._minute * MINUTE)
            self.multipliers.append(self.hazard.multiplier(START + self._minute * MINUTE))
            if self.hazard.in_storm(START + self._minute * MINUTE):
                self.storms.append(self._minute)
        return self


def steady(hours: float, seed: int = 1) -> list[Floats]:
    chance = np.random.default_rng(seed)
    return [
        np.sort(chance.uniform(0, hours * HOUR, chance.poisson(RATE * hours * HOUR)))
        for _ in range(QUESTIONS)
    ]


def besides(changes: list[Floats], more: list[Floats]) -> list[Floats]:
    return [np.sort(np.concatenate(both)) for both in zip(changes, more, strict=True)]


@pytest.mark.parametrize("seed", [1, 2])
def test_chance_is_no_alarm(seed: int) -> None:
    history = History(steady(8, seed)).until(8 * HOUR)
    assert history.hazard.alarms == []
    assert 0.7 < history.multipliers[-1] < 1.4
    assert np.median(history.multipliers) == pytest.approx(1, abs=0.25)


def test_a_batch_is_an_event_and_over_when_it_is_over() -> None:
    chance = np.random.default_rng(3)
    batch = [
        3 * HOUR + chance.uniform(0, 300, 1) if chance.random() < 0.5 else np.zeros(0)
        for _ in range(QUESTIONS)
    ]
    history = History(besides(steady(4), batch)).until(4 * HOUR)
    ((at, share),) = history.hazard.events
    assert abs(at - START - 3 * HOUR) <= 300
    assert 0.35 < share < 0.65
    assert history.hazard.alarms == []
    assert max(history.multipliers[180:200]) > 3
    assert history.multipliers[205] < 1.5
    assert 180 < min(history.storms) < max(history.storms) < 200
    moment, changed = history.hazard.moment(START + 4 * HOUR)
    assert abs(moment - START - 3 * HOUR) <= 600
    assert 0.3 < changed < 0.7


def test_of_events_that_change_all_answers_again_and_again_rates_are_learnt() -> None:
    """One of them says nothing of how often answers change; two within hours do."""
    events = [np.array([3 * HOUR, 4.1 * HOUR])] * QUESTIONS
    history = History(besides(steady(5), events)).until(3.9 * HOUR)
    assert abs(history.hazard.unusual_until(START + 3.9 * HOUR) - START - 3 * HOUR) <= 600
    history.until(4.3 * HOUR)
    assert history.hazard.moment(START + 4.3 * HOUR)[0] > START + 4 * HOUR
    assert history.hazard.unusual_until(START + 4.3 * HOUR) == 0


def test_a_storm_is_a_new_rate_and_its_end_is_seen() -> None:
    chance = np.random.default_rng(4)
    storm = [np.sort(chance.uniform(3 * HOUR, 4 * HOUR, 60)) for _ in range(QUESTIONS)]
    history = History(besides(steady(5), storm)).until(5 * HOUR)
    (rose, factor), *rest = history.hazard.alarms
    assert (
        3 * HOUR < rose - START < 3 * HOUR + 20 * MINUTE
    )  # answers are compared each 7 minutes, whatever happens
    assert factor > 4
    assert rest
    assert max(history.multipliers[185:240]) > 16
    assert history.multipliers[254] < 1.5
    assert 180 < min(history.storms) < max(history.storms) < 256
    calmed, share = history.hazard.moment(START + 5 * HOUR)
    assert 4 * HOUR <= calmed - START <= 4 * HOUR + 20 * MINUTE
    assert history.hazard.unusual_until(START + 5 * HOUR) == calmed
    assert share > 0.9  # of what was fetched before
    # What changed in its last minutes, and is asked for again now, is no news.
    now, count = START + 5 * HOUR, 20
    fetched = np.linspace(calmed - 6 * MINUTE, calmed - MINUTE, count)
    expected = RATE * (now - fetched)
    history.hazard.fold(fetched, np.full(count, now), np.ones(count), expected, np.zeros(count), now)
    assert history.hazard.multiplier(now) < 1.5


@pytest.mark.parametrize("late", [8, 9, 10])
def test_a_storm_that_ends_within_half_a_minute_is_over_within_minutes(late: int) -> None:
    """Some of what changed in its last seconds was fetched after the moment from which on all else stays the same."""
    chance, hazard, storms = np.random.default_rng(1), Hazard(), []
    began, ended, rare = 2 * HOUR, 2.5 * HOUR, 1 / (400 * DAY)
    for now in np.arange(MINUTE, ended + 20 * MINUTE, MINUTE):
        count = 20 if now <= began else 1200
        again = now - chance.uniform(0, MINUTE, count)
        fetched = again - np.exp(chance.uniform(np.log(5), np.log(100), count))
        stormy = np.maximum(np.minimum(again, ended) - np.maximum(fetched, began), 0)
        changed = chance.random(count) < -np.expm1(-stormy / 90)
        if now == ended + MINUTE:
            last = np.flatnonzero((ended < fetched) & (fetched < ended + 10))
            changed[last[:late]] = True
        expected, noise = rare * (again - fetched), np.zeros(count)
        hazard.fold(START + fetched, START + again, changed.astype(float), expected, noise, START + now)
        if hazard.in_storm(START + now) or hazard.multiplier(START + now) > 1.5:
            storms.append(now)
    assert began < min(storms) < began + 10 * MINUTE
    assert ended - MINUTE < max(storms) < ended + 6 * MINUTE


def test_a_storm_after_days_in_which_nothing_changed_is_no_row_of_events() -> None:
    chance, hazard, storms = np.random.default_rng(1), Hazard(), []
    began, learned = 24 * HOUR, 12 * HOUR
    for now in np.arange(MINUTE, began + HOUR, MINUTE):
        stormy = now > began
        count = 600 if stormy else 60
        again = now - chance.uniform(0, MINUTE, count)
        fetched = again - np.exp(chance.uniform(np.log(5), np.log(300), count)) * (1 if stormy else 20)
        changed = chance.random(count) < -np.expm1(-np.maximum(again - np.maximum(fetched, began), 0) / 90)
        # Until it was learnt that single questions do not change, more was expected of all of them.
        rate = 1 / DAY if now < learned else 1 / (400 * DAY)
        expected, noise = rate * (again - fetched), np.zeros(count)
        hazard.fold(START + fetched, START + again, changed.astype(float), expected, noise, START + now)
        if stormy:
            storms.append(hazard.in_storm(START + now))
    assert all(storms[5:])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_new_rate_after_a_storm_is_seen(seed: int) -> None:
    chance = np.random.default_rng(seed)
    storm = [np.sort(chance.uniform(3 * HOUR, 4 * HOUR, 30)) for _ in range(QUESTIONS)]
    faster = [np.sort(chance.uniform(5 * HOUR, 7 * HOUR, chance.poisson(2))) for _ in range(QUESTIONS)]
    history = History(besides(besides(steady(7, seed), storm), faster)).until(6.5 * HOUR)
    assert np.median(history.multipliers[-30:]) > 4  # of seven


def test_one_change_after_hours_without_comparisons_does_not_bring_a_storm_back() -> None:
    chance = np.random.default_rng(4)
    storm = [np.sort(chance.uniform(3 * HOUR, 4 * HOUR, 60)) for _ in range(QUESTIONS)]
    hazard = History(besides(steady(5), storm)).until(4 * HOUR + 20 * MINUTE).hazard
    ended, none = START + 4 * HOUR, np.zeros(0)
    for minute in range(21, 140):
        hazard.fold(none, none, none, none, none, ended + minute * MINUTE)
    one, now = np.ones(1), ended + 140 * MINUTE
    fetched = one * (ended - 8 * MINUTE)
    hazard.fold(fetched, one * now, one, RATE * (now - fetched), 0 * one, now)
    assert hazard.multiplier(now) < 1.5


def test_what_may_be_an_event_or_a_new_rate_is_reckoned_with_as_both() -> None:
    """All that is compared was fetched long before, which does not tell."""
    hazard, count = History(steady(6)).until(6 * HOUR).hazard, 40
    for minute in range(1, 9):
        now = START + 6 * HOUR + minute * MINUTE
        changed = (np.arange(count) < 4 * (minute > 2)).astype(float)
        expected = np.full(count, RATE * 120)
        hazard.fold(np.full(count, now - 1200), np.full(count, now), changed, expected, np.zeros(count), now)
    assert hazard.multiplier(now) > 5
    assert hazard.alarms == []


def of_documents(chance: np.random.Generator, each: int, hours: float) -> list[Floats]:
    """Five, each of which changes all of its answers so many times."""
    documents = [np.sort(chance.uniform(0, hours * HOUR, each)) for _ in range(5)]
    return [documents[key % 5] for key in range(QUESTIONS)]


@pytest.mark.parametrize("seed", [5, 6])
def test_documents_that_change_all_their_answers_are_no_alarm(seed: int) -> None:
    """Nor is it one where three of them change within two minutes."""
    three = [np.array([5 * HOUR + 50 * (key % 5)] * (key % 5 < 3)) for key in range(QUESTIONS)]
    changes = besides(of_documents(np.random.default_rng(seed), 6, 6), three)
    history = History(changes, rate=1 / HOUR).until(6 * HOUR)
    assert not [at for at, _ in history.hazard.alarms if at > START + 3 * HOUR], "once they are usual"
    assert len(history.hazard.events) > 10
    assert not [minute for minute in history.storms if minute > 240]
    assert np.mean(np.array(history.multipliers[180:]) > 1.5) < 0.2


def test_a_storm_among_documents_is_one() -> None:
    chance = np.random.default_rng(8)
    storm = [np.sort(chance.uniform(4 * HOUR, 5 * HOUR, 60)) for _ in range(QUESTIONS)]
    history = History(besides(of_documents(chance, 6, 6), storm), rate=1 / HOUR).until(6 * HOUR)
    assert any(4 * HOUR < at - START < 4 * HOUR + 25 * MINUTE for at, _ in history.hazard.alarms)
    assert np.median(history.multipliers[270:300]) > 8
    assert np.median(history.multipliers[330:]) < 1.5


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_change_of_a_few_questions_is_not_one_of_most_answers(seed: int) -> None:
    chance, rates = np.random.default_rng(seed), np.array([6, 1, 1 / 24]) / HOUR
    changes = [np.sort(chance.uniform(0, DAY, chance.poisson(rate * DAY))) for rate in rates]
    history = History(changes, rate=rates).until(DAY)
    assert np.mean(np.array(history.multipliers[120:]) > 1.5) < 0.1
    assert len(history.storms) < 60


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_document_that_changes_often_is_no_alarm_a_day(seed: int) -> None:
    """A sixth of the answers are one document's, and most of all changes."""
    chance = np.random.default_rng(seed)
    rates = np.array([9.0, *chance.lognormal(-2.0, 2.0, 25).clip(max=3)]) / HOUR
    documents = [np.sort(chance.uniform(0, DAY, chance.poisson(rate * DAY))) for rate in rates]
    of = np.concatenate([np.zeros(50, dtype=int), 1 + np.arange(QUESTIONS - 50) % 25])
    hazard = History([documents[each] for each in of], rate=rates[of]).until(DAY).hazard
    assert len(hazard.alarms) <= 1


@pytest.mark.parametrize("seed", [3, 4])
def test_changes_of_several_documents_in_a_row_are_no_storm(seed: int) -> None:
    chance, rates = np.random.default_rng(seed), np.array([6, 1, 1, 1 / 24, 0]) / HOUR
    documents = [np.sort(chance.uniform(0, DAY, chance.poisson(rate * DAY))) for rate in rates]
    of = np.arange(QUESTIONS) % len(rates)
    hazard = History([documents[each] for each in of], rate=rates[of]).until(DAY).hazard
    assert len(hazard.alarms) <= 1


@pytest.mark.parametrize("seed", [1, 2])
def test_hours_in_which_nothing_changes_are_no_alarm(seed: int) -> None:
    """Nor is it one that all is as before, after them."""
    changes = [at[(at < 8 * HOUR) | (at > 12 * HOUR)] for at in steady(16, seed)]
    history = History(changes).until(16 * HOUR)
    assert history.hazard.alarms == []
    assert min(level for _, level in history.hazard._segments) < 0.5  # it was noticed


def test_answers_that_are_known_to_be_worded_anew_are_no_alarm() -> None:
    noises = np.where(np.arange(QUESTIONS) % 4 == 0, 0.95, 0.0)
    history = History(steady(6), noises=noises).until(6 * HOUR)
    assert history.hazard.alarms == []
    assert 0.6 < history.multipliers[-1] < 1.5


def profile(days: int, expected: float = 50.0) -> Profile:
    """Three times as many changes as expected from 9 to 17, none in other hours."""
    learnt = Profile()
    for hour in range(480_000 // 24 * 24, 480_000 // 24 * 24 + 24 * days + 9):
        open_for = 9 <= hour % 24 < 17
        learnt.fold(np.array([hour]), np.array([3 * expected * open_for]), np.array([expected]), hour * HOUR)
    return learnt


def test_office_hours_are_foreseen_after_two_days_and_not_after_one() -> None:
    noon, night = 480_000 // 24 * 24 + 12, 480_000 // 24 * 24 + 2
    assert profile(1).at(noon) == profile(1).at(night) == 1
    assert profile(4).at(noon) > 2
    assert profile(4).at(night) < 0.4
    assert profile(4, expected=0.5).at(noon) == 1, "a class with too little data"


def test_what_was_learnt_is_restored() -> None:
    chance = np.random.default_rng(4)
    storm = [np.sort(chance.uniform(2 * HOUR, 4 * HOUR, 120)) for _ in range(QUESTIONS)]
    history = History(besides(steady(4), storm)).until(3 * HOUR)
    state = history.hazard.state(10**6)
    assert sum(array.nbytes for array in state.values()) < 40_000
    restored = Hazard()
    restored.restore(state)
    now = START + 3 * HOUR
    assert restored.multiplier(now) == pytest.approx(history.hazard.multiplier(now), rel=0.02)
    assert restored.multiplier(now) > 16
    assert restored.in_storm(now)
    assert restored.alarms == history.hazard.alarms
    assert restored.alarms
    nothing = np.zeros(0)
    restored.fold(nothing, nothing, nothing, nothing, nothing, now + 60)
    older = {name: array for name, array in state.items() if name not in {"happened", "undecided", "doubt"}}
    Hazard().restore(older)


def test_what_is_out_of_the_question_is_restored_too() -> None:
    state = History(steady(1)).until(HOUR).hazard.state(10**6)
    restored = Hazard()
    restored.restore({**state, "scores": state["scores"] - np.float32(1e13)})
    assert restored.multiplier(START + HOUR) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scores", np.zeros((3, 2))),
        ("level", np.array(np.nan)),
        ("level", np.array(-1.0)),
        ("happened", np.array(-9.0)),
        ("doubt", np.array(0.5)),
        ("visits", np.zeros((2, 168))),
        ("visits", np.full((3, 168), 1e300)),
        ("moment", np.array([START, 2.0])),
        ("moment", np.array([1e13, 0.5])),
        ("onsets", np.zeros(3)),
        ("segments", np.zeros((0, 2))),
    ],
)
def test_what_cannot_be_a_state_is_refused(name: str, value: Floats) -> None:
    hazard = Hazard()
    with pytest.raises(ValueError, match="hazard"):
        hazard.restore({**Hazard().state(100), name: value})
    assert hazard.multiplier(START) == 1
