"""How fast a class's answers change now, as a multiple of how fast they change on average.

Each question has a rate of its own (`questions`). What they have in common is when: a storm makes all of them change
faster, a batch or a document many of them at one moment, an office none of them at night. This module tells these
apart, and from chance. Its data are comparisons that say only whether an answer changed between two moments. With `q`
the question's noise, `-ln(1 - e0)`, and `e` what its own rate expects of the interval, the chance of a change is

    1 - exp(-(q + m e + L w)),

`m` the mean multiple during the interval, `L = -ln(1 - share)` of an *event* that changed this share of all answers at
a moment of which the interval has the part `w`, usually all or nothing. All exposures add, so each comparison is used
whatever interval it has.

1. Change points (Adams and MacKay, "Bayesian online changepoint detection", 2007). For each moment of a grid that is
   the coarser the longer ago it is, and each hypothesis about what happened then, the log-likelihood ratio to "nothing
   did" is summed up as comparisons come. The hypotheses are a *new rate* that goes on, one of several factors, the way
   home to the average among them; and an *event*, several shares, in half a minute or in five, after which all is as
   it was. Answers fetched after the moment tell the two apart, and there are many of them soon, since the TTL follows
   the posterior mean of the multiple: what is linear in the rate, as the stale share nearly is, wants its mean.
2. A hypothesis that has become certain is made history, and the search begins anew from there. A new rate is an alarm
   where it, or the one before, is above the average. That a storm fell is certain before it is known how far, which is
   waited for; a second event of most answers within the hour, where events are not usual, is a new rate.
3. Comparisons are not independent. Ratios are divided by the measured dispersion, Pearson's chi-square by degree of
   freedom over blocks of five minutes (McCullagh and Nelder, "Generalized Linear Models", 1989, 4.5), those for a
   slower rate by `CAUTION` at least. A few documents that change often are less even than their class: a gap between
   their changes looks like a slower rate. Each new rate that is what it was before within the hour, a storm only within
   minutes or where events are usual, doubles the divisor for about a day. Where changes come as events, their absence
   between two events is no news: of the average, the share that came by events is not expected of any minute.
4. The multiple of the regime since the last change point is what came over what was expected, expectation and
   maximisation step by step (Dempster, Laird and Rubin, JRSS B 1977), and leans on what it was thought to be.
5. The hour: what came over what was expected by hour of the day and of the week, UTC. Each is drawn to the mean, an
   hour of the week to its hour of the day, by the part of the variance between hours that their variance from visit to
   visit leaves (James and Stein, 1961; Efron and Morris, "Data analysis using Stein's estimator", JASA 1975). An hour
   with little data does not count as visited.

Times are seconds since the epoch. State is a few arrays of bounded size. What there is of each moment and hypothesis
is kept with seven digits, in memory as where it is stored: an operator has a thousand classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dub5_operator.planner.state import MOST_STORED, State

Floats = NDArray[np.float64]

GRID = 30.0
"""Seconds between the moments at which something may have happened."""
REMEMBERED = 12 * 3600.0
"""Seconds after which a moment is no longer asked about; nor is an event counted."""
MOST_AT_ONCE = 1800.0
"""Seconds since the last comparisons whose moments are asked about."""
ENOUGH, WARM_UP = 100, 900.0
"""Comparisons, and seconds, before anything is looked for."""
CERTAIN, CERTAIN_FALL = 0.95, 0.99
"""A posterior above which a hypothesis becomes history."""
MOST_ANSWERS = 0.5
"""The share of answers from which on an event changed most of them."""
AGAIN = 2
"""Events of most answers within REMEMBERED, from which on they are how answers change: questions' rates are learnt from
them."""
USUAL = 6.0
"""Events a day, none of most answers, from which on they are how answers change, and no exceptions."""
EVENTS_A_DAY, RISES_A_DAY, FALLS_A_DAY, BACK_A_DAY = 1.0, 2.0, 0.5, 12.0
"""Assumed beforehand, of events as if a day had been watched. Back: to a rate that was, once it is another one."""
SETTLES, UNSETTLED = 120.0, 600.0
"""Seconds after which comparisons are counted, where nothing seems to have happened and where something may have."""
TOLD_APART = 4.0
"""Of the log-likelihood, by which an event must explain more than the best new rate, so that it is one."""
STORM, STORM_LASTS = 8.0, 6 * 3600.0
"""Factor from which on a new rate is a storm, of which nothing is learnt of questions' own rates, and seconds until it
is none any more."""
CAUTION, CAUTION_BELOW = 4.0, 16.0
"""Dispersion at least, for a slower rate, and for one below the average: of that no TTL becomes longer."""
BRIEF, A_MOMENT = 3600.0, 900.0
"""Seconds within which a new rate that is over was none, unless it was a storm; and within which that was none either,
but events one after the other."""
MOST_DOUBT = 16.0
"""Times the dispersion that a new rate has to overcome, after several that were none."""
SUSPECTED = 0.1
"""A posterior from which on something is reckoned with; before, it is what is assumed of any minute."""
BLOCK = 300.0
"""Seconds of comparisons whose dispersion is looked at together."""
HALF_LIFE = 24 * 3600.0
"""Of what is known of dispersion and events, and of doubt."""
LEVEL_HALF_LIFE = 2 * 3600.0
"""Of what shows the level."""
LEAST_NOISE = 0.0005
"""Of `q`: a single change of what never changes is not much of a surprise."""
ALARM = 2.0
"""Factor from which on a new rate is an alarm."""
FOREIGN = 1.6
"""Factor from home at which there is a way back."""
LEAST, MOST = 1 / 64, 1e6
"""Of the multiple."""

_RISES = 2.0 ** np.array([1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18])
_FALLS = np.array([1 / 4, 1 / 16, 1 / 64])
_SHARES = np.array([0.12, 0.25, 0.5, 0.8, 0.98])
_LASTING = np.array([GRID, 300.0])
_SHARE = np.repeat(_SHARES, len(_LASTING))
_EXTENTS = -np.log1p(-_SHARE)
_LASTS = np.tile(_LASTING, len(_SHARES))
_OF_MOST = _SHARE >= MOST_ANSWERS
_PROBED = np.where(_OF_MOST, 120.0, 0.0)
"""Seconds after an event that changed most answers in which answers are fetched again, to see whether it goes on."""
# A column of scores for each hypothesis: rises, falls, the way home to the average, the way back to the rate before;
# events by their share, and of each the short one before the long one.
_BACK = len(_RISES) + len(_FALLS)
_RATES = _BACK + 2
_EVENT = slice(_RATES, None)
_HYPOTHESES = _RATES + len(_EXTENTS)
_AT_ONCE = 4096
"""Comparisons that are weighed at once; a bound of memory."""
_MOST_EVENTS, _MOST_SEGMENTS = 64, 64
_DAY = 86400.0
_EVER = 1e9
_NONE = np.zeros((0, _HYPOTHESES), dtype=np.float32)
_NEGLIGIBLE = 1e-6
"""Of a posterior, where it is stored."""


_STATE = [
    *(
        "hour",
        "onsets",
        "scores",
        "posterior",
        "segments",
        "events",
        "level",
        "before",
        "since",
        "moment",
        "counts",
        "sources",
    ),
    *("surprise", "block", "before_block", "typical", "compared", "started", "folded"),
    *("happened", "undecided", "doubt"),
]
_GROWING = {"onsets", "scores", "posterior", "segments", "events"}
_COARSE = {"scores", "posterior"}
_WIDTHS = {
    "scores": (_HYPOTHESES,),
    "posterior": (_HYPOTHESES,),
    "waiting": (3,),
    "waited": (3,),
    "segments": (2,),
    "events": (4,),
    "alarms": (2,),
    "open": (3,),
    "visits": (168,),
}


_UNVISITED, _EVEN = np.zeros((3, 168)), np.ones(168)
"""Of all classes for which no hour has counted yet; not written to."""


class Profile:
    """Step 5: by hour of the week, how fast answers change."""

    LATENESS = 6
    """Hours that comparisons may reach back; what reaches farther does not tell the hour."""
    EXPECTED = 3.0
    """Changes that must have been expected of an hour for it to count as visited."""
    HIGHEST, LOWEST = 8.0, 0.1

    def __init__(self) -> None:
        self._open = np.zeros((self.LATENESS + 2, 3))  # hour since the epoch, changes, expected
        self._visits, self._shape = _UNVISITED, _EVEN  # count, sum, sum of squares

    def fold(self, hours: NDArray[np.int64], changes: Floats, expected: Floats, now: float) -> None:
        """`changes` that came in each of the `hours` since the epoch, and those `expected`."""
        current = int(now // 3600)
        size = len(self._open)
        for hour in range(current - size + 1, current + 1):
            slot = self._open[hour % size]
            if slot[0] != hour:
                self._close(*slot)
                slot[:] = hour, 0.0, 0.0
        fits = (hours > current - size) & (hours <= current)
        np.add.at(self._open[:, 1], hours[fits] % size, changes[fits])
        np.add.at(self._open[:, 2], hours[fits] % size, expected[fits])

    def _close(self, hour: float, changes: float, expected: float) -> None:
        if expected < self.EXPECTED:
            return
        ratio = min(changes / expected, self.HIGHEST)
        # Weeks and days fade: half after eight visits.
        cell = int(hour + 72) % 168  # the epoch began on a Thursday
        self._visits = self._visits.copy()
        self._visits[:, cell] *= 0.92
        self._visits[:, cell] += 1.0, ratio, ratio**2
        self._draw()

    def _draw(self) -> None:
        of_day = self._visits.reshape(3, 7, 24).sum(axis=1)
        by_day = 1 + _drawn(of_day, np.ones(24))
        of_week = np.tile(by_day, 7)
        self._shape = np.clip(of_week + _drawn(self._visits, of_week), self.LOWEST, self.HIGHEST)

    def state(self) -> tuple[Floats, Floats]:
        return self._open, self._visits

    def restore(self, open_hours: Floats, visits: Floats) -> None:
        if open_hours.shape != self._open.shape or visits.shape != self._visits.shape or (visits < 0).any():
            raise ValueError("hours of a hazard are of another shape, or below 0")
        self._open = open_hours
        if visits.any():
            self._visits = visits
            self._draw()

    def at(self, hour: float) -> float:
        """In the hour since the epoch."""
        return float(self._shape[int(hour + 72) % 168])


def _drawn(visits: Floats, towards: Floats) -> Floats:
    """How far each cell is believed to be from `towards`."""
    count, total, squares = visits
    seen = count > 1.5  # one visit is no pattern
    if seen.sum() < 4:
        return np.zeros(len(count))
    mean = total / np.maximum(count, 1e-9)
    # Variance from visit to visit: a prior of one, worth eight visits, beside what is measured.
    within = (8.0 + float((squares - count * mean**2)[seen].sum())) / (
        8.0 + float(np.maximum(count[seen] - 1, 0).sum())
    )
    error = within / np.maximum(count, 1.0)
    away = np.where(seen, mean - towards, 0.0)
    between = max(float((away[seen] ** 2 - error[seen]).mean()), 0.0)
    return np.asarray(away * between / (between + error))


class Hazard:
    """One class."""

    def __init__(self) -> None:
        self.alarms: list[tuple[float, float]] = []
        """New rates: when they were noticed, and the factor; below the average, as if it were that. The latest ten."""
        self._profile = Profile()
        self._hour = 0.0
        self._onsets = np.zeros(0)
        self._scores = _NONE
        self._posterior = _NONE
        self._segments = np.array([[0.0, 1.0]])  # since when one second counts as how many of the average
        self._events = np.zeros((0, 4))  # at, lasts, answers changed, answers not changed
        self._level = self._before = 1.0
        self._since = 0.0  # when the level began
        self._moment = np.zeros(2)  # what `moment` gives
        self._waiting: list[tuple[float, _Comparisons]] = []
        self._counts = np.zeros(2)  # of the level: changes, expected at a level of one; faded
        self._sources = np.zeros(2)  # changes: by events, all; faded
        self._happened = 0.0  # events not of most answers, and new rates that were over within minutes; faded
        self._doubt = 1.0  # how many times the dispersion a new rate has to overcome; faded
        self._undecided = 0.0  # since when most answers seem to have changed
        self._surprise = np.zeros(2)  # squared residuals of blocks, their variances; faded
        self._block = np.zeros(3)  # residual and variance since, the third, it began
        self._before_block = 0.0  # residual of the block before, in standard deviations
        self._typical = np.zeros(2)  # what was expected, and seconds; faded
        self._compared = 0.0
        self._started = 0.0
        self._folded = 0.0

    @property
    def events(self) -> list[tuple[float, float]]:
        """Those of the last hours: when, and the share of answers that they changed."""
        shares = _share(self._events)
        return [(float(at), float(share)) for at, share in zip(self._events[:, 0], shares, strict=True)]

    def multiplier(self, now: float) -> float:
        """How many times as fast as on average answers change now: the posterior mean, and never less than once.

        To miss a fall costs calls; to see one that is none costs the budget, as noise and recurring events have it.
        """
        by_events = self._share_by_events * self._profile.at(now // 3600)
        pace = self._level * (self._profile.at(now // 3600) - by_events)
        mean = pace + by_events
        posterior: NDArray[np.floating[Any]] = self._posterior
        if self._may_go_on(now):
            posterior = (posterior + self._weights(now, events=False)) / 2
        # Without what no comparison speaks for: it is assumed of any minute, and would add up while nothing happens.
        spoken_for = posterior * -np.expm1(-np.maximum(self._tempered(), 0.0))
        rates, factors = spoken_for[:, :_RATES].sum(axis=0), self._factors()
        then = np.where(factors > 1, factors * mean, factors * pace + by_events)
        for suspected in (rates * (factors > 1), rates * (factors < 1)):
            if suspected.sum() > SUSPECTED:
                mean += float(suspected @ (then - pace - by_events))
        # An event that is not over may change what is fetched now; with long TTLs nobody would see that it is not one.
        going_on = (self._onsets[:, None] + _LASTS + _PROBED > now) | (_OF_MOST & self._is_undecided(now))
        going_on = going_on * spoken_for[:, _EVENT]
        expected, seconds = self._typical
        if going_on.sum() > SUSPECTED:
            mean += float((going_on * _EXTENTS / _LASTS).sum()) * seconds / max(expected, 1e-9)
        return float(min(max(mean, 1.0), MOST))

    def in_storm(self, now: float) -> bool:
        """Or most answers have just changed, and it is not known yet whether that goes on."""
        lasts = self._level > STORM and now - self._since < STORM_LASTS
        return lasts or (self._is_undecided(now) and not self._are_usual(now))

    def moment(self, now: float) -> tuple[float, float]:
        """When the last storm was seen to be over, or an event that changed most answers was, and the chance that an
        answer fetched before is stale; zeros where it is long ago, or usual."""
        at, share = self._moment.tolist()
        return (at, share) if now - at < REMEMBERED and not self._are_usual(now) else (0.0, 0.0)

    def unusual_until(self, now: float) -> float:
        """Until when a storm was, or an event that changed most answers: what was fetched before teaches no question's
        rate. Zero where such events have come again and again: then they are how answers change."""
        at, _ = self.moment(now)
        most = self._events_of_most
        again = len(most) >= AGAIN and at <= most[-1, 0] + most[-1, 1]
        return 0.0 if again else at

    def watched(self, now: float) -> float:
        """Seconds since comparisons were taken in first: a class's first hundred are not."""
        return max(now - self._started, 0.0) if self._started else 0.0

    def _may_go_on(self, now: float) -> bool:
        """Whether an event is likely that a new rate explains as well, but for the dispersion. With long TTLs nothing
        that was fetched after it would be compared, which is what tells the two apart."""
        if self._are_usual(now) or self._posterior[:, _EVENT].sum() < 0.5:
            return False
        told_apart = self._scores[:, _EVENT].max() - self._scores[:, :_RATES].max()
        return bool(told_apart < TOLD_APART)

    def _is_undecided(self, now: float) -> bool:
        """Whether most answers seem to have changed, and may go on to. What goes on shows within minutes; of what does
        not, a class that is seldom asked may never know more."""
        return self._undecided > 0 and now - self._undecided < UNSETTLED

    def _are_usual(self, now: float) -> bool:
        """Whether events are how answers change."""
        return self._events_a_day(now) >= USUAL

    def _events_a_day(self, now: float) -> float:
        """As if a day had been watched before, with what is assumed."""
        watched = -math.expm1(-math.log(2) * self.watched(now) / HALF_LIFE) / math.log(2)
        return (EVENTS_A_DAY + self._happened) / (1 + watched)

    def fold(
        self, fetched: Floats, again: Floats, changed: Floats, expected: Floats, noise: Floats, now: float
    ) -> None:
        """Take comparisons in, one a row of each array: when the two answers were fetched, whether they differed (0 or
        1), `-ln` of the chance that the question's own rate leaves them the same, and its e0."""
        now = max(now, self._folded)
        self._fade(now)
        self._enter_hour(now // 3600)
        warm = self._compared >= ENOUGH and now - self._started >= WARM_UP
        if warm:
            self._ask_about(now)
        if len(fetched):
            self._started = self._started or float(again.min())
            self._compared += len(fetched)
            noisy = np.maximum(-np.log1p(-np.minimum(noise, 0.999)), LEAST_NOISE)
            new = _Comparisons(fetched, again, changed, expected, noisy)
            self._weigh(new)
            self._waiting.append((now, new))
        if warm:
            self._judge(now)
        most_changed = self._posterior[:, _EVENT] @ _OF_MOST
        self._undecided = (self._undecided or now) if most_changed.sum() > 0.5 else 0.0
        calm = self._posterior.sum() < SUSPECTED
        while self._waiting and now - self._waiting[0][0] >= (SETTLES if calm else UNSETTLED):
            self._count(self._waiting.pop(0)[1], now, calm=calm)
        self._folded = now

    def state(self, most: int) -> dict[str, NDArray[Any]]:
        """What was learnt, for `restore`: a few arrays, with at most so many moments, and comparisons of the last
        minutes that are not counted yet."""
        found = {name: np.array(getattr(self, f"_{name}"), dtype=float) for name in _STATE}
        found["alarms"] = np.array(self.alarms, dtype=float).reshape(-1, 2)
        found["open"], found["visits"] = (array.copy() for array in self._profile.state())
        start = max(len(self._onsets) - most, 0)
        found["onsets"] = found["onsets"][start:]
        posterior = found["posterior"][start:]
        waiting = [np.zeros((0, 6))]
        for at, of in self._waiting:
            columns = (of.fetched, of.again, of.changed, of.expected, of.noise)
            waiting.append(np.stack([np.full(len(of.again), at), *columns], axis=1))
        rows = np.concatenate(waiting)
        rows = rows[max(len(rows) - most, 0) :]
        return {
            **found,
            "scores": found["scores"][start:].astype(np.float32),
            "posterior": np.where(posterior < _NEGLIGIBLE, 0.0, posterior).astype(np.float32),
            "waiting": rows[:, :3],
            "waited": rows[:, 3:].astype(np.float32),
        }

    def restore(self, state: State) -> None:
        """Go on from a `state`. ValueError or KeyError, and nothing changed, where it cannot be one."""
        new = Hazard()
        # Releases before this one had not all of these.
        state = {"happened": np.zeros(()), "undecided": np.zeros(()), "doubt": np.ones(()), **state}
        for name in [*_STATE, "alarms", "open", "visits", "waiting", "waited"]:
            array = _restored(state, name)
            # What is out of the question has a score as far below 0 as comparisons take it.
            most = np.finfo(np.float32).max if name == "scores" else MOST_STORED
            if array.shape[1:] != _WIDTHS.get(name, ()) or not (np.abs(array) <= most).all():
                raise ValueError(f"{name} of a hazard is of another shape, or has numbers that cannot be")
        for name in _STATE:
            array = _restored(state, name)
            old = getattr(new, f"_{name}")
            if array.ndim != np.ndim(old):
                raise ValueError(f"{name} of a hazard is of another shape")
            if isinstance(old, float):
                setattr(new, f"_{name}", float(array))
            elif name in _GROWING or array.shape == old.shape:
                setattr(new, f"_{name}", array)
            else:
                raise ValueError(f"{name} of a hazard is of another shape")
        if not 0 <= new._moment[1] <= 1 or not 1 <= new._doubt <= MOST_DOUBT:
            raise ValueError("a hazard's share is none, or its doubt")
        moments, waiting = len(new._onsets), np.array(state["waiting"], dtype=float)
        if not moments == len(new._scores) == len(new._posterior) or not len(new._segments):
            raise ValueError("a hazard's moments and their scores do not match")
        if len(waiting) != len(state["waited"]):
            raise ValueError("a hazard's comparisons do not match")
        if new._segments[0, 0] or not (new._segments[:, 1] >= 0).all():
            raise ValueError("a hazard's average is none")
        if not min(new._level, new._before) > 0 or new._happened < 0:
            raise ValueError("a hazard's rates are not positive")
        new._profile.restore(np.array(state["open"], dtype=float), np.array(state["visits"], dtype=float))
        new.alarms = [(float(at), float(factor)) for at, factor in np.array(state["alarms"])]
        rows = np.hstack([waiting, np.array(state["waited"], dtype=float)])
        _, fetched, again, changed, expected, noise = rows.T
        if not ((fetched <= again) & np.isin(changed, (0, 1)) & (expected >= 0) & (noise > 0)).all():
            raise ValueError("a hazard's comparisons cannot be")
        came = np.flatnonzero(np.diff(rows[:, 0])) + 1
        parts = np.split(rows, came) if len(rows) else []
        new._waiting = [(float(part[0, 0]), _Comparisons(*part.T[1:].copy())) for part in parts]
        if not math.isfinite(new.multiplier(new._folded)):
            raise ValueError("a hazard's rates are none")
        self.__dict__.update(new.__dict__)

    @property
    def _events_of_most(self) -> Floats:
        return self._events[_share(self._events) >= MOST_ANSWERS]

    @property
    def _share_by_events(self) -> float:
        """The share of changes that come by events, and are not to be expected of any one minute."""
        by_events, total = self._sources
        return min(float(by_events / (total + 20.0)), 0.9)

    @property
    def _dispersion(self) -> float:
        squares, variances = self._surprise
        return float(np.clip((squares + 20.0) / (variances + 20.0), 1.0, 50.0))

    @property
    def _away(self) -> bool:
        """Whether the rate is another one than on average."""
        return max(self._level, 1 / self._level) > FOREIGN

    def _factors(self) -> Floats:
        """What each new rate multiplies by: the last two go back, to the average and to what was before.

        Where next to nothing changed rises are greater, so that the greatest is as many times the average as ever: a
        storm that none of them reached would be taken for events, one after another, for as long as it lasts."""
        pace = self._level + self._share_by_events
        rises = _RISES ** (1 - math.log(pace) / math.log(_RISES[-1])) if pace < 1 / FOREIGN else _RISES
        return np.concatenate([rises, _FALLS, [1 / self._level, self._before / self._level]])

    def _fade(self, now: float) -> None:
        if self._folded:
            kept = 0.5 ** ((now - self._folded) / HALF_LIFE)
            self._sources *= kept
            self._surprise *= kept
            self._typical *= kept
            self._happened *= kept
            self._doubt **= kept
            self._counts *= 0.5 ** ((now - self._folded) / LEVEL_HALF_LIFE)
        self._events = self._events[self._events[:, 0] > now - REMEMBERED]

    def _enter_hour(self, hour: float) -> None:
        if hour <= self._hour:
            return
        before, after = self._profile.at(self._hour or hour), self._profile.at(hour)
        self._hour = hour
        if not 1 / 1.5 < after / before < 1.5:
            self._level = self._before = 1.0  # the hour was foreseen, and what came before it is over
            self._begin_level(hour * 3600.0)
        else:
            self._level = min(max(self._level * before / after, LEAST), MOST)
        self._change_pace(hour * 3600.0)

    def _change_pace(self, since: float) -> None:
        """From then on the average takes another pace."""
        pace = self._level * self._profile.at(since // 3600) * (1 - self._share_by_events)
        earlier = self._segments[self._segments[:, 0] < since][-_MOST_SEGMENTS + 1 :]
        earlier[0, 0] = 0.0
        self._segments = np.concatenate([earlier, [[since, pace]]])

    def _begin_level(self, since: float) -> None:
        self._since = since
        self._counts[:] = 0

    def _time(self, at: Floats) -> Floats:
        """Seconds of the average that have passed at a time, from some beginning on: piecewise linear."""
        starts, paces = self._segments.T
        starts = np.append(starts, starts[-1] + _EVER)
        passed = np.concatenate([[0.0], np.cumsum(np.diff(starts) * paces)])
        return np.asarray(np.interp(at, starts, passed))

    def _passed(self, start: Floats, end: Floats) -> Floats:
        """Seconds of the average between two times."""
        return np.asarray(self._time(end) - self._time(start))

    def _exposure_to_events(self, start: Floats, end: Floats) -> tuple[Floats, Floats]:
        """For each event and interval: the part of the event in it, and the exposure."""
        covered = _covered(start, end, self._events[:, 0][:, None], self._events[:, 1][:, None])
        return covered, -np.log1p(-_share(self._events))[:, None] * covered

    def _exposure(self, of: _Comparisons) -> Floats:
        by_time = of.rate * self._passed(of.fetched, of.again)
        return np.asarray(of.noise + by_time + self._exposure_to_events(of.fetched, of.again)[1].sum(axis=0))

    def _ask_about(self, now: float) -> None:
        """Add the moments since the last fold to those that are asked about, and let go of old ones."""
        first = max(self._folded, now - MOST_AT_ONCE) // GRID + 1
        moments = GRID * np.arange(first, now // GRID + 1)
        onsets = np.concatenate([self._onsets, moments])
        new = np.zeros((len(moments), _HYPOTHESES), dtype=np.float32)
        scores = np.concatenate([self._scores, new])
        best = scores.max(axis=1, initial=0.0).tolist()
        kept: list[int] = []
        at = onsets.tolist()
        for index, onset in enumerate(at):
            # Older ones lie an eighth of their age apart: of two, the likelier stays.
            if kept and onset - at[kept[-1]] < (now - onset) / 8 - 1:
                kept[-1] = index if best[index] > best[kept[-1]] else kept[-1]
            elif onset > now - REMEMBERED:
                kept.append(index)
        self._onsets, self._scores = onsets[kept], scores[kept]

    def _weigh(self, new: _Comparisons) -> None:
        """Step 1."""
        if not len(self._onsets):
            return
        factors = self._factors()
        # A faster rate is one of all changes, whatever they came by.
        more = np.where(factors > 1, factors / (1 - self._share_by_events), factors) - 1
        for same in new.parts(new.changed == 0, _AT_ONCE):
            part, covered = self._since_onsets(same)
            self._scores[:, :_RATES] -= part.sum(axis=1)[:, None] * more
            self._scores[:, _EVENT] -= np.tile(covered.sum(axis=2), len(_SHARES)) * _EXTENTS
        for found in new.parts(new.changed > 0, _AT_ONCE // 16):
            part, covered = self._since_onsets(found)
            extents = np.tile(covered, (1, len(_SHARES), 1)) * _EXTENTS[:, None]
            added = np.concatenate([more[:, None] * part[:, None], extents], axis=1)
            before = self._exposure(found)
            after = np.maximum(before + added, 1e-9)
            self._scores += np.log(np.expm1(-after) / np.expm1(-before)).sum(axis=2)

    def _since_onsets(self, of: _Comparisons) -> tuple[Floats, Floats]:
        """By moment: the exposure to time from then on, and, by how long an event lasts, the part of it."""
        start = np.maximum(self._time(of.fetched), self._time(self._onsets)[:, None])
        part = of.rate * np.maximum(self._time(of.again) - start, 0.0)
        covered = _covered(of.fetched, of.again, self._onsets[:, None, None], _LASTING[:, None])
        return part, covered

    def _judge(self, now: float) -> None:
        """Step 2."""
        self._posterior = self._weights(now, events=self._level < STORM)  # a storm has none
        rises = self._factors() > 1
        rates = self._posterior[:, :_RATES].sum(axis=0)
        if self._posterior[:, _EVENT].sum() > CERTAIN:
            self._judge_event(now)
        elif rates[rises].sum() > CERTAIN or rates[~rises].sum() > CERTAIN_FALL:
            self._judge_rate(now)

    def _weights(self, now: float, *, events: bool) -> NDArray[np.float32]:
        """The posterior by moment and hypothesis; what is left is that nothing happened."""
        prior = np.zeros(_HYPOTHESES)
        likely = _RISES**-0.5  # the greater, the less
        prior[: len(_RISES)] = RISES_A_DAY * likely / likely.sum()
        prior[len(_RISES) : _BACK] = FALLS_A_DAY / len(_FALLS)
        prior[_BACK:_RATES] = BACK_A_DAY * (np.abs(np.log(self._factors()[_BACK:])) > math.log(FOREIGN))
        if events:
            prior[_EVENT] = self._events_a_day(now) / len(_EXTENTS)
        spacing = np.maximum(np.diff(np.append(self._onsets, now)), GRID / 2)
        with np.errstate(divide="ignore"):
            logs = np.log(prior / _DAY * spacing[:, None]) + self._tempered()
        most = float(logs.max(initial=0.0))
        weights = np.exp(logs - most)
        return np.asarray(weights / (math.exp(-most) + weights.sum()), dtype=np.float32)

    def _tempered(self) -> Floats:
        """Step 3, by moment and hypothesis. An event is an explanation of the dispersion."""
        by, factors = np.ones(_HYPOTHESES), self._factors()
        below = self._level * factors < 1 / FOREIGN
        caution = np.where(factors < 1, np.where(below, CAUTION_BELOW, CAUTION), 1.0)
        by[:_RATES] = np.maximum(self._dispersion * self._doubt, caution)
        return self._scores / by

    def _judge_event(self, now: float) -> None:
        """An event is certain: it is over, or a new rate in its place, or whether it goes on is waited for."""
        posterior = self._posterior[:, _EVENT]
        index = int(posterior.sum(axis=1).argmax())
        hypothesis = int(posterior[index].argmax())
        at, lasts = float(self._onsets[index]), float(_LASTS[hypothesis])
        told_apart = self._scores[index, _RATES + hypothesis] - self._scores[:, :_RATES].max()
        over = at + lasts + _PROBED[hypothesis] + GRID
        # Where half of all answers seem to have changed it may be either.
        one_of_many = _SHARE[hypothesis] <= MOST_ANSWERS and self._one_of_many(now)
        again = _OF_MOST[hypothesis] and self._changed_most(now)
        likelier = told_apart < -max(TOLD_APART * self._dispersion, 100.0)
        if now > over and (likelier or again) and not one_of_many:
            self._posterior = self._weights(now, events=False)  # but for the dispersion it would be a rate
            self._judge_rate(now)
            return
        if now < over or (told_apart < TOLD_APART and now < over + UNSETTLED and not one_of_many):
            return  # it may yet go on
        share = float(posterior[index] @ -np.expm1(-_EXTENTS) / posterior[index].sum())
        event = [[at, lasts, 4 * share, 4 * (1 - share)]]  # as if four comparisons had shown it
        self._events = np.concatenate([self._events, event])[-_MOST_EVENTS:]
        self._happened += share < MOST_ANSWERS
        if _OF_MOST[hypothesis]:
            self._moment[:] = at + lasts, share
        self._search_anew()
        if one_of_many:
            # The next one may have come within the same minutes.
            self._onsets = GRID * np.arange((now - UNSETTLED) // GRID + 1, now // GRID + 1)
            self._scores = np.zeros((len(self._onsets), _HYPOTHESES), dtype=np.float32)
            for _, waiting in self._waiting:
                self._weigh(waiting)
            self._posterior = self._weights(now, events=True)

    def _changed_most(self, now: float) -> bool:
        """Whether an event that changed most answers took place within the hour, where events are not usual: what looks
        like another one is a rate."""
        return bool((self._events_of_most[:, 0] > now - BRIEF).any()) and not self._are_usual(now)

    def _one_of_many(self, now: float) -> bool:
        """Whether events are usual, and not more came of late than may come by chance: then what looks like a new rate
        is some of them one after the other. Such as change nearly all answers are not."""
        late = np.count_nonzero(self._events[:, 0] > now - 2 * UNSETTLED)
        expected = self._events_a_day(now) * 2 * UNSETTLED / _DAY
        return bool(self._are_usual(now) and late <= expected + 3 * math.sqrt(expected) + 3)

    def _judge_rate(self, now: float) -> None:
        """A new rate is certain: it begins, or its height is waited for."""
        posterior, factors = self._posterior[:, :_RATES], self._factors()
        index = int(posterior.sum(axis=1).argmax())
        at, row = float(self._onsets[index]), posterior[index] / posterior[index].sum()
        best = int(row.argmax())
        if self._level > STORM and now < at + UNSETTLED and 1 - CERTAIN < row[_BACK:].sum() < CERTAIN:
            return  # home and any other rate lie so far apart that what lies between them is neither
        factor = factors[best] if best >= _BACK else math.exp(float(row @ np.log(factors)))
        self._begin_rate(at, min(max(self._level * float(factor), LEAST), MOST), now)

    def _begin_rate(self, at: float, level: float, now: float) -> None:
        """From `at` on answers change so many times as fast as on average."""
        before, self._level = self._level, level
        if before > STORM and self._typical[0]:
            self._end_storm(at, before, now)
            # What changed in its last minutes is asked for again hours later, and must be no surprise then.
            at = now if level < STORM else at
        self._doubt_or_alarm(before, at - self._since, now)
        self._before = before
        self._begin_level(at)
        self._change_pace(at)
        self._search_anew()

    def _end_storm(self, at: float, before: float, now: float) -> None:
        """Remember what it changed; it may be another one from now on."""
        expected, seconds = self._typical
        lasted = at - max(self._since, at - REMEMBERED)
        spared = math.exp(-before * lasted * expected / seconds)
        calmed, share = self._moment
        self._moment[:] = now, 1 - spared * (1 - share * (calmed >= self._since))

    def _doubt_or_alarm(self, before: float, lasted: float, now: float) -> None:
        """After the level was `before`, for so many seconds: what is over at once was no new rate, others are told."""
        by_events = self._share_by_events
        by_time = 1 - by_events
        # Below the average no TTL gets longer: an hour in which few documents change is nobody's business.
        told = (max(self._level, 1.0) * by_time + by_events) / (max(before, 1.0) * by_time + by_events)
        brief = lasted < BRIEF and (before <= STORM or self._are_usual(now) or lasted < A_MOMENT)
        # Whether it is what it was before or, after a rise, as little to anybody.
        least = float(before > 1)
        if brief and 1 / FOREIGN < max(self._level, least) / max(self._before, least) < FOREIGN:
            self._doubt = min(2 * self._doubt, MOST_DOUBT)  # it was none, and neither is this
            self._happened += before > 1 and lasted < A_MOMENT
        elif not 1 / ALARM < told < ALARM:
            self.alarms.append((now, float(told)))
            del self.alarms[:-10]

    def _search_anew(self) -> None:
        self._onsets, self._scores, self._posterior = np.zeros(0), _NONE, _NONE

    def _count(self, settled: _Comparisons, now: float, *, calm: bool) -> None:
        """Steps 3 to 5, once it is known what happened."""
        exposure = self._exposure(settled)
        if calm and self._level < STORM:  # what a storm does to them says nothing of the days around it
            after = settled.fetched >= self.moment(now)[0]
            self._disperse((settled.changed + np.expm1(-exposure))[after], exposure[after], now)
        # How many changes came, given whether any did, by unit of exposure.
        came = np.where(settled.changed > 0, -1 / np.expm1(-exposure), 0.0)
        start = np.maximum(settled.fetched, self._since)
        part = settled.rate * self._passed(start, np.maximum(settled.again, start))
        self._counts += float(came @ part), float(part.sum()) / self._level
        self._typical += float(settled.expected.sum()), float((settled.again - settled.fetched).sum())
        covered, by_event = self._exposure_to_events(settled.fetched, settled.again)
        self._sources += float(came @ by_event.sum(axis=0)), float(came @ (exposure - settled.noise))
        changed = (-np.expm1(-by_event) * came).sum(axis=1)
        self._events[:, 2] += changed
        self._events[:, 3] += np.maximum(covered.sum(axis=1) - changed, 0.0)
        self._count_hours(settled, came, now)
        self._follow(now)

    def _disperse(self, residual: Floats, exposure: Floats, now: float) -> None:
        chance = -np.expm1(-exposure)
        self._block[:2] += residual.sum(), (chance * (1 - chance)).sum()
        if now - self._block[2] >= BLOCK:
            # From block to block, so that an expectation that is wrong for all of them is not taken for it.
            deviation = float(self._block[0]) / math.sqrt(max(self._block[1], 1e-9))
            step = min((deviation - self._before_block) ** 2 / 2, 30.0)
            self._surprise += self._block[1] * step, self._block[1]
            self._before_block = deviation
            self._block[:] = 0.0, 0.0, now

    def _count_hours(self, settled: _Comparisons, came: Floats, now: float) -> None:
        last = (settled.again // 3600).astype(np.int64)
        late = settled.again - settled.fetched > Profile.LATENESS * 3600.0
        hours = last - np.arange(Profile.LATENESS + 1)[:, None]
        starts = np.maximum(settled.fetched, hours * 3600.0)
        ends = np.minimum(settled.again, (hours + 1) * 3600.0)
        _, rows = inside = np.nonzero((ends > starts) & ~late)
        start, end, rate = starts[inside], ends[inside], settled.rate[rows]
        if len(rows):
            exposure = rate * self._passed(start, end) + self._exposure_to_events(start, end)[1].sum(axis=0)
            self._profile.fold(hours[inside], came[rows] * exposure, rate * (end - start), now)

    def _follow(self, now: float) -> None:
        """Step 4."""
        changes, expected = self._counts / self._dispersion
        young = now - self._started < 3600.0
        lent = 5.0 if self._away or young else 40.0
        towards = self._level if self._away else 1.0
        level = min(max((lent + changes) / (lent / towards + expected), LEAST), MOST)
        if abs(math.log(level / self._level)) > 0.02:
            self._segments[self._segments[:, 0] >= self._since, 1] *= level / self._level
            self._level = level


@dataclass(frozen=True, slots=True)
class _Comparisons:
    """Columns: when two answers were fetched, whether they differed, and the exposures to time, as on average, and to
    noise."""

    fetched: Floats
    again: Floats
    changed: Floats
    expected: Floats
    noise: Floats

    @property
    def rate(self) -> Floats:
        return np.asarray(self.expected / np.maximum(self.again - self.fetched, 1e-3))

    def parts(self, chosen: NDArray[np.bool_], size: int) -> Iterator[_Comparisons]:
        rows = np.flatnonzero(chosen)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield _Comparisons(
                self.fetched[part],
                self.again[part],
                self.changed[part],
                self.expected[part],
                self.noise[part],
            )


def _restored(state: State, name: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # it is infinite then
        return np.array(state[name], dtype=np.float32 if name in _COARSE else np.float64)


def _covered(start: Floats, end: Floats, at: Floats, lasts: Floats) -> Floats:
    """The part of the time from `at` on for so long that lies between two times."""
    return np.asarray(np.maximum(0.0, np.minimum(end, at + lasts) - np.maximum(start, at)) / lasts)


def _share(events: Floats) -> Floats:
    """Of all answers, the share that each event changed."""
    return np.asarray(np.minimum(events[:, 2] / events[:, 2:].sum(axis=1), 0.999))
