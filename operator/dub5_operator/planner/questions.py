"""What is known of each question of a class, and the one number by which all get their TTLs.

Replicas compute a question's TTL (`dub5.question_ttl`) from what they know of it and from what is published for its
class: the distribution of rates and noise over its questions, and `c`, how many stale hits a saved call is worth. Both
are learnt here from the same comparisons, all of which say only whether an answer changed within `x` seconds:

    P(changed | x) = 1 - (1 - e) exp(-r x),

with the question's own rate `r` and its own chance `e` that two fresh answers differ: current status data (Sun, "The
Statistical Analysis of Interval-censored Failure Time Data", 2006, ch. 3) with misclassified outcomes.

1. By question: seconds under which it stayed the same, comparisons that found it the same, and those that found a
   change, by age on a logarithmic grid, each divided between its two neighbours. That is enough for the likelihood of
   any `(r, e)`; it fades with `HALF_LIFE`.
2. The distributions of `r` and of `e` over questions, each for itself, of no assumed form, on a grid: nonparametric
   maximum likelihood by expectation maximisation (Laird, "Nonparametric maximum likelihood estimation of a mixing
   distribution", JASA 1978) from one in which all rates are as likely but for those faster than answers are compared,
   which are the rarer the faster; a few steps only, which is what keeps it smooth.
   Noise below a tenth is not on the grid: it cannot be told from a mixture of answers that change fast and slowly.
3. For replicas, the gamma distribution of `r` that makes the same data most likely, and the beta distribution of `e`
   with the mean and the variance of the grid's. Answers that changed at one moment are one observation: else
   a document that changed once would show, by hundreds of questions, that all of them change alike. So what is believed
   of the shape beforehand weighs as many times more as the dispersion of step 5 is, ten until blocks of time say
   otherwise.
4. The TTL that replicas will give each question follows from `c`; the stale share that comes of it from the grid's own
   mean of `r`. So `c` is right although a gamma distribution may be a poor likeness. `c` is the largest for which the
   share is below `AIM` of the budget, and its upper end below all of it.
5. What was foretold is held against what came: the hits of an answer that changed within `x` seconds, half of which
   came after the change on average, over what was expected of the same comparisons beforehand. The upper end takes the
   gamma distribution of so many changes, by the dispersion of blocks of time, since one event may change many answers
   (McCullagh and Nelder, "Generalized Linear Models", 1989, 4.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dub5 import question_ttl
from dub5.contract import QuestionPolicy, Verdict
from dub5.question_ttl import HALF_LIFE, REMEMBERED, upper_rate
from dub5_operator.planner.keys import Keys, distinct
from dub5_operator.planner.state import MOST_STORED, ROUNDED, State, check

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
BoundBy = Literal["Staleness", "Memory", "Cost", "Bounds", "Data"]
Cause = Literal["budget", "question", "changes", "calls", "watched", "longest", "memory"]
"""What keeps `c` from being larger: the budget, also of one question; what rates may be at most, by so few changes;
the calls that are to be left; how long was watched; the longest TTL; memory."""
BOUND_BY: dict[Cause, BoundBy] = {
    "budget": "Staleness",
    "question": "Staleness",
    "changes": "Data",
    "calls": "Data",
    "watched": "Data",
    "longest": "Bounds",
    "memory": "Memory",
}

MOST_QUESTIONS = 16_384
"""Those that were not compared for the longest are forgotten."""
FITTED = 1024
"""Questions from which the distribution is learnt, at most; there is no more to know of it."""
REFIT = 0.05
"""By how much the comparisons have to have grown, or fallen, for the distribution to be learnt anew."""
NOISIEST = 0.8
"""Mean noise of hits from which on a change cannot be told from chance."""
BLOCK = 900.0
"""Seconds within which comparisons may have an event in common."""
ENOUGH_COMPARISONS = 100
LEAST_CALLS = 0.01
"""Of look-ups: without any call nobody would see that answers begin to change."""

_DAY = 86400.0
_RATES = np.geomspace(1 / (365 * _DAY), 1 / 5, 35)
_NOISES = np.array([0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 1 - 1e-6])
_AGES = np.geomspace(1.0, 10 * _DAY, 18)
_STEP = math.log(_RATES[1] / _RATES[0])
_SLOWEST, _FASTEST = math.log(_RATES[0]), math.log(_RATES[-1])
_RATE = np.repeat(_RATES, len(_NOISES))
_NOISE = np.tile(_NOISES, len(_RATES))
_LOG_CHANGED = np.log(-np.expm1(np.log1p(-_NOISE) - _RATE * _AGES[:, None])).astype(np.float32)
_LOG_SAME = np.stack([-_RATE, np.log1p(-_NOISE)]).astype(np.float32)
"""Of a second, and of a comparison."""
_LEAST_LIKELY = -80.0
"""Its logarithm: nothing becomes a denormal number, with which processors are slow."""
_BEFOREHAND = np.where(_NOISE == 0, 0.9, 0.1 / (len(_NOISES) - 1)) / len(_RATES)
_MAXIMISATIONS = 40
_COMPASS = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
_CHUNK = 1024
_STORED_SHAPE, _STORED_SECONDS, _STORED_NOISE = (0.01, 100.0), (1.0, 1000 * 365 * _DAY), (1e-9, 1000.0)
"""Least and most of a stored distribution, far beyond what is found: the gamma's shape, seconds between two changes,
the beta's parameters."""
_LEAST_COST = 1e-7
MOST_COST = 10.0
"""The greatest `c`: where it is reached the budget does not bind, but what one question may have."""
_SUMS = ("_compared_when_fitted", "_faded", "_compared", "_events", "_block_began")

_SAME_FOR, _SAME, _REQUESTS, _WATCHED = range(4)


@dataclass(frozen=True, slots=True)
class DriftEstimate:
    """Rates are per second and of hits. `noise` is e0. `events` are the changes seen, faded."""

    rate: float
    upper: float
    lower: float
    noise: float
    observations: float
    events: float

    @property
    def only_noise(self) -> bool:
        """Two fresh answers differ so often that a change could not be seen."""
        return self.noise >= NOISIEST


NOTHING = DriftEstimate(0.0, math.inf, 0.0, 0.0, 0.0, 0.0)
_MORE_TOLD = 1
"""Numbers of a stored estimate besides: whether there was more than noise, for releases before this one."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """One array a column. `ends`: whether the older answer's life is over, so that its hits and its age are complete.
    `expected`: changes that were expected of each, beforehand; `noise`: e of its question."""

    rows: NDArray[np.int64]
    fetched: Floats
    again: Floats
    changed: NDArray[np.bool_]
    hits: Floats
    ends: NDArray[np.bool_]
    expected: Floats
    noise: Floats


class Questions:
    """One class. Times are seconds since the epoch."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._at = np.zeros(0)  # when each was compared last
        self._known = np.zeros((0, 4), dtype=np.float32)
        self._believed = np.zeros(
            (0, 4), dtype=np.float32
        )  # gamma shape and seconds, means of rate and noise
        # Most have not changed: of those that have, in the order in which they did, the changes by age.
        self._changes_row = np.zeros(0, dtype=np.int32)  # where those of each row are; -1: none
        self._changes = np.zeros((0, len(_AGES)), dtype=np.float32)
        self._fresh: set[int] = set()  # rows that were compared since they were last believed
        self._mixture = _BEFOREHAND
        self.change = (
            0.3,
            0.3 * 3600.0,
        )  # of the gamma and the beta distribution: assumed until there is a fit
        self.noise = (0.01, 1.0)
        self._compared_when_fitted = 0.0
        self._faded = 0.0
        self._compared = 0.0
        self._events = 0.0
        self._foretold = np.zeros(3)  # stale hits as measured, as expected, and squares of the measured ones
        self._surprise = np.zeros(2)  # squared residuals of blocks, their variances
        self._blocks = np.zeros(
            (2, 6)
        )  # the one before and this one: residual, its variance, events, what was foretold
        self._block_began = 0.0
        self.estimate = NOTHING

    def compare(self, verdicts: Sequence[Verdict], now: float) -> Comparisons | None:
        """What was expected of these, before anything is learnt of them."""
        if verdicts:
            self.believe()  # as a decision before these would have
        self._fade(now)
        return self._columns(verdicts) if verdicts else None

    def learn(self, compared: Comparisons, now: float, *, storm: bool = False, after: float = 0.0) -> None:
        """Take them in. In a `storm`, and of answers fetched before `after`, when one was over or an event that changed
        most answers was, no rates are learnt."""
        calm = compared.fetched >= after if not storm else np.zeros(len(compared.rows), dtype=bool)
        if self._compared_when_fitted:
            self._hold_against(compared, calm, now, storm=storm)
        self._compared += len(compared.rows)
        self._count(compared, calm)
        self._fresh.update(compared.rows.tolist())
        if len(self._keys) > MOST_QUESTIONS:
            self._forget()

    def _fade(self, now: float) -> None:
        if self._faded and now > self._faded:
            kept = 0.5 ** ((now - self._faded) / HALF_LIFE)
            self._compared *= kept
            self._events *= kept
            self._surprise *= kept
            self._compared_when_fitted *= kept
            self._foretold *= 0.5 ** ((now - self._faded) / _DAY)
        self._faded = max(self._faded, now)

    def _columns(self, verdicts: Sequence[Verdict]) -> Comparisons:
        before = len(self._keys)
        rows = self._keys.rows(np.array([each.key for each in verdicts]))
        self._make_room(len(self._keys))
        self._believed[before : len(self._keys)] = self._new()
        changed = np.array([each.changed for each in verdicts])
        fetched = np.array([each.fetched for each in verdicts])
        again = np.array([each.again for each in verdicts])
        shape, seconds, _, noise = self._believed[rows].T.astype(np.float64)
        return Comparisons(
            rows=rows,
            fetched=fetched,
            again=again,
            changed=changed,
            hits=np.array([each.hits for each in verdicts], dtype=float),
            ends=changed | np.array([each.source == "refetch" for each in verdicts]),
            expected=shape * np.log1p((again - fetched) / seconds),
            noise=noise,
        )

    def _make_room(self, needed: int) -> None:
        have = len(self._at)
        if needed > have:
            more = max(needed, have + have // 8, 16) - have
            self._at = np.append(self._at, np.zeros(more))
            self._known, self._believed = (
                np.vstack([held, np.zeros((more, 4), dtype=np.float32)])
                for held in (self._known, self._believed)
            )
            self._changes_row = np.append(self._changes_row, np.full(more, -1, dtype=np.int32))

    def _changes_of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Where the changes of these rows are counted."""
        new, _ = distinct(rows[self._changes_row[rows] < 0])
        if len(new):
            have = len(self._changes)
            self._changes_row[new] = np.arange(have, have + len(new))
            self._changes = np.vstack([self._changes, np.zeros((len(new), len(_AGES)), dtype=np.float32)])
        return self._changes_row[rows]

    def _new(self) -> list[float]:
        """What is believed of a question that was not compared."""
        shape, seconds = self.change
        return [shape, seconds, shape / seconds, self.noise[0] / sum(self.noise)]

    def _hold_against(
        self, compared: Comparisons, calm: NDArray[np.bool_], now: float, *, storm: bool
    ) -> None:
        """Step 5."""
        by_time = -np.expm1(-compared.expected)
        differs = 1 - (1 - compared.noise) * (1 - by_time)
        found = np.where(compared.changed, by_time / np.maximum(differs, 1e-12), 0.0)
        weight = np.where(compared.ends, compared.hits, 0.0) / 2
        variance = differs * (1 - differs)
        columns = (
            *(compared.changed - differs, variance, found),
            *(weight * found, weight * by_time, weight**2 * found),
        )
        self._blocks[1] += np.stack(columns)[:, calm].sum(axis=1)
        if storm:
            self._blocks[:] = 0  # how it began was no surprise either
        if now - self._block_began > BLOCK:
            residual, variance, events, *foretold = self._blocks[0]
            later_residual, later_variance = self._blocks[1, :2]
            self._events += events
            self._foretold += foretold
            if min(variance, later_variance) > 0:
                # From block to block, so that an expectation that is wrong for all of them is not taken for it.
                step = later_residual / math.sqrt(later_variance) - residual / math.sqrt(variance)
                self._surprise += (variance * step**2 / 2, variance)
            self._blocks[0], self._blocks[1] = self._blocks[1], 0.0
            self._block_began = now

    def _count(self, compared: Comparisons, calm: NDArray[np.bool_]) -> None:
        """Step 1."""
        rows, at, ages = compared.rows, compared.again, compared.again - compared.fetched
        touched, places = distinct(rows)
        known, latest = self._known, self._at[touched]
        np.maximum.at(latest, places, at)
        kept = 0.5 ** ((latest - self._at[touched]) / HALF_LIFE)
        known[touched, :_REQUESTS] *= kept[:, None]
        self._fade_changes(touched, kept)
        self._at[touched] = latest
        same, changed = calm & ~compared.changed, calm & compared.changed
        np.add.at(known[:, _SAME], rows[same], 1.0)
        lived = same & compared.ends
        np.add.at(known[:, _SAME_FOR], rows[lived], ages[lived])
        place = np.log(np.maximum(ages[changed], 1.0)) / math.log(_AGES[1] / _AGES[0])
        place = np.minimum(place, len(_AGES) - 1 - 1e-9)
        below = place.astype(np.int64)
        counted = self._changes_of(rows[changed])
        np.add.at(self._changes, (counted, below), 1 - (place - below))
        np.add.at(self._changes, (counted, below + 1), place - below)
        asked = np.bincount(places, (compared.hits + 1) * compared.ends)
        left = REMEMBERED / (REMEMBERED + asked)
        known[touched, _REQUESTS] = left * known[touched, _REQUESTS] + asked
        known[touched, _WATCHED] = left * known[touched, _WATCHED] + np.bincount(places, ages * compared.ends)

    def _fade_changes(self, rows: NDArray[np.int64], kept: Floats) -> None:
        counted = self._changes_row[rows]
        there = counted >= 0
        self._changes[counted[there]] *= kept[there, None]

    def _forget(self) -> None:
        rows = self._latest(MOST_QUESTIONS // 2)
        self._take(self._keys.by_row()[rows], self._at[rows], self._known[rows], self._changed(rows))

    def _latest(self, most: int) -> NDArray[np.int64]:
        """Rows of the questions that were compared last, in their order."""
        return np.sort(np.argsort(-self._at[: len(self._keys)], kind="stable")[:most])

    def _changed(self, rows: NDArray[np.int64]) -> Singles:
        """Changes of each, by age."""
        changed = np.zeros((len(rows), len(_AGES)), dtype=np.float32)
        counted = self._changes_row[rows]
        changed[counted >= 0] = self._changes[counted[counted >= 0]]
        return changed

    def _take(self, keys: NDArray[np.int64], at: Floats, known: Singles, changed: Singles) -> None:
        """These, and no others."""
        self._keys, self._at, self._known = Keys(keys), at.copy(), known.copy()
        has = changed.any(axis=1)
        self._changes = changed[has]
        self._changes_row = np.where(has, np.cumsum(has) - 1, -1).astype(np.int32)
        self._believed = np.tile(np.array(self._new(), dtype=np.float32), (len(keys), 1))
        self._fresh = set(range(len(keys)))

    def believe(self) -> None:
        """Bring what is believed of each question up to what was compared: steps 2 and 3 where that has grown."""
        count = len(self._keys)
        grown = abs(self._compared - self._compared_when_fitted) > REFIT * self._compared_when_fitted
        if grown and self._compared >= ENOUGH_COMPARISONS:
            self._fit()
            self._fresh = set(range(count))
        if not self._fresh or not self._compared_when_fitted:
            return
        rows = np.sort(np.fromiter(self._fresh, dtype=np.int64))
        self._fresh = set()
        mixture = self._mixture.reshape(len(_RATES), len(_NOISES)).sum(axis=1)
        prior = _gamma_on_grid(*np.array(self.change)[:, None])[:, 0] / mixture
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            joint = self._likelihoods(part)
            joint *= self._mixture.astype(np.float32)
            joint /= joint.sum(axis=1, keepdims=True)
            by_rate = joint.reshape(len(part), len(_RATES), len(_NOISES)).sum(axis=2)
            smooth = by_rate * prior
            smooth /= smooth.sum(axis=1, keepdims=True)
            mean = smooth @ _RATES
            variance = np.maximum(smooth @ _RATES**2 - mean**2, 1e-4 * mean**2)
            believed = mean**2 / variance, mean / variance, by_rate @ _RATES, joint @ _NOISE
            self._believed[part] = np.stack(believed, axis=1)

    def _likelihoods(self, rows: NDArray[np.int64]) -> Singles:
        """Of each question's comparisons for each point of the grid; the best point's is 1."""
        logs: Singles = self._known[rows, : _SAME + 1] @ _LOG_SAME
        counted = self._changes_row[rows]
        logs[counted >= 0] += self._changes[counted[counted >= 0]] @ _LOG_CHANGED
        logs -= logs.max(axis=1, keepdims=True)
        np.maximum(logs, _LEAST_LIKELY, out=logs)
        return np.exp(logs, out=logs)

    def _fit(self) -> None:
        """Steps 2 and 3."""
        count = len(self._keys)
        rows = np.arange(count)
        if count > FITTED:
            rows = np.argsort(-self._at[:count])[:: count // FITTED + 1]
        likelihoods = self._likelihoods(rows)
        # What changes more often than it is compared is the rarer the faster: an answer of which each comparison finds
        # another wording could else as well be one that changes each few seconds.
        beforehand = _BEFOREHAND / np.maximum(self._usual_age(rows) * _RATE, 1.0) ** 3
        mixture = beforehand = beforehand / beforehand.sum()
        for _ in range(_MAXIMISATIONS):
            shares = (1 / (likelihoods @ mixture.astype(np.float32))) @ likelihoods
            joint = (mixture * shares + beforehand).reshape(len(_RATES), len(_NOISES)) / (len(rows) + 1)
            # One does not tell of the other: what is always reworded says nothing of its rate.
            mixture = np.outer(joint.sum(axis=1), joint.sum(axis=0)).ravel()
        self._mixture = mixture
        noises = mixture.reshape(len(_RATES), len(_NOISES)).sum(axis=0)
        of_rates = likelihoods.reshape(-1, len(_NOISES)) @ noises.astype(np.float32)
        of_rates = of_rates.reshape(len(rows), len(_RATES)).astype(np.float64)
        self.change = _fit_gamma(of_rates, float(mixture @ _RATE), self._dispersed(10.0))
        mean = float(noises @ _NOISES)
        variance = float(noises @ _NOISES**2) - mean**2
        together = min(max(mean * (1 - mean) / max(variance, 1e-9) - 1, 0.05), 50.0)
        self.noise = (max(mean, 1e-4) * together, (1 - mean) * together)
        self._compared_when_fitted = self._compared

    def _usual_age(self, rows: NDArray[np.int64]) -> float:
        """Seconds for which answers had been kept when they were compared: the geometric mean."""
        changed, (lived, same) = self._changed(rows).sum(axis=0), self._known[rows, : _SAME + 1].T
        ages = changed @ np.log(_AGES) + same @ np.log(np.maximum(lived / np.maximum(same, 1e-9), 1.0))
        return math.exp(ages / max(changed.sum() + same.sum(), 1e-9))

    @property
    def dispersion(self) -> float:
        return min(self._dispersed(1.0), 10.0)

    def _dispersed(self, beforehand: float) -> float:
        """The dispersion, of which ten variances of prior belief say so much, so that a few blocks do not decide."""
        squares, variances = self._surprise.tolist()
        return max((squares + 10.0 * beforehand) / (variances + 10.0), 1.0)

    @property
    def correction(self) -> float:
        """Stale hits that came, of those that were foretold; 1 while there are few."""
        measured, expected, squares = (self._foretold + self._blocks[:, 3:].sum(axis=0)).tolist()
        if measured <= 0:
            return 1.0
        typical = 20.0 * self.dispersion * squares / measured
        return float((typical + measured) / (typical + expected))

    @property
    def margin(self) -> float:
        """By how much the rate may be higher, with 98.2 %, by how many changes are known."""
        return upper_rate(self._known_changes, self._known_changes)

    @property
    def _known_changes(self) -> float:
        """How many independent ones those that were seen amount to."""
        return float(self._events + self._blocks[:, 2].sum() + 0.5) / self.dispersion

    @property
    def compared(self) -> float:
        """How many comparisons are known, faded."""
        return self._compared

    @property
    def fitted(self) -> bool:
        """Whether the class's distributions are known."""
        return self._compared_when_fitted > 0

    def population(
        self,
        now: float,
        *,
        hazard: float = 1.0,
        storm: bool = False,
        calmed: tuple[float, float] = (0.0, 0.0),
        watched: float = math.inf,
    ) -> Population | None:
        """Those that are asked of late."""
        self.believe()
        count = len(self._keys)
        if not count or not self._compared_when_fitted:
            return None
        known = self._known[:count].astype(np.float64)
        asked = known[:, _REQUESTS] > 0
        often = np.where(asked, known[:, _REQUESTS], 1.0) / np.maximum(known[:, _WATCHED], 1.0)
        asked &= now - self._at[:count] < np.maximum(8 / often, 3600.0)
        if not asked.any():
            return None
        shape, seconds, mean, noise = self._believed[:count][asked].T.astype(np.float64)
        prior = (0.5, 0.5 / float(np.median(often[asked])))
        requests = prior[0] + known[asked, _REQUESTS]  # as `question_ttl.request_rate` has it, for many
        return Population(
            requests=requests / (prior[1] * (prior[0] / requests) ** 2 + known[asked, _WATCHED]),
            rate=shape / seconds * hazard,
            upper=_upper_rates(shape, seconds) * hazard,
            mean=mean * self.correction * hazard,
            noise=noise,
            margin=self.margin,
            change_prior=self.change,
            noise_prior=self.noise,
            requests_prior=prior,
            hazard=hazard,
            storm=storm,
            calmed=calmed,
            watched=watched,
        )

    def drift(self, population: Population | None, ttl: float) -> DriftEstimate:
        """Of the hits that one TTL for all would bring."""
        if population is not None:
            hits = population.hits(np.array(ttl))
            hits = hits / hits.sum()
            rate, noise = float(hits @ population.mean), float(hits @ population.noise)
            self.estimate = DriftEstimate(
                rate=rate,
                upper=rate * self.margin,
                lower=rate * max(1 - question_ttl.QUANTILE / math.sqrt(self._known_changes), 0.0),
                noise=noise,
                observations=self._compared,
                events=self._events,
            )
        return self.estimate

    def state(self, most: int) -> dict[str, NDArray[Any]]:
        """What `restore` goes on from: of the `most` questions that were compared last."""
        rows, estimate = self._latest(most), self.estimate
        told = [] if estimate is NOTHING else [*astuple(estimate), not estimate.only_noise]
        return {
            "keys": self._keys.by_row()[rows],
            "known": self._known[rows],
            "at": self._at[rows],
            "changed": self._changed(rows),
            "mixture": self._mixture,
            "sums": np.array([*self.change, *self.noise, *(getattr(self, name) for name in _SUMS)]),
            "foretold": self._foretold,
            "surprise": self._surprise,
            "blocks": self._blocks,
            "estimate": np.array(told, dtype=float),
        }

    def restore(self, state: State) -> None:
        """ValueError or KeyError where it is not what `state` gives; nothing is then changed."""
        count = state["keys"].size
        check(state, "keys", np.int64, (count,))
        check(state, "known", np.float32, (count, 4), most=MOST_STORED)
        check(state, "at", np.float64, (count,), most=MOST_STORED)
        check(state, "changed", np.float32, (count, len(_AGES)), most=MOST_STORED)
        check(state, "mixture", np.float64, (len(_RATE),))
        check(state, "sums", np.float64, (4 + len(_SUMS),), most=MOST_STORED)
        check(state, "foretold", np.float64, (3,))
        check(state, "surprise", np.float64, (2,))
        check(state, "blocks", np.float64, (2, 6), finite=False)
        told = state["estimate"].size
        check(state, "estimate", np.float64, (told,))
        if not np.isfinite(state["blocks"]).all() or told not in (
            0,
            len(fields(DriftEstimate)) + _MORE_TOLD,
        ):
            raise ValueError("sums of questions that cannot be")
        shape, seconds, *noises = state["sums"][:4].tolist()
        mixture = state["mixture"]
        if not ((mixture > 0).all() and abs(mixture.sum() - 1) < ROUNDED) or not (
            _STORED_SHAPE[0] <= shape <= _STORED_SHAPE[1]
            and _STORED_SECONDS[0] <= seconds / shape <= _STORED_SECONDS[1]
            and all(_STORED_NOISE[0] <= each <= _STORED_NOISE[1] for each in noises)
        ):
            raise ValueError("questions have distributions that cannot be")
        if len(np.unique(state["keys"])) != count or count > MOST_QUESTIONS:
            raise ValueError("questions that cannot be")
        self._mixture = state["mixture"].copy()
        sums = state["sums"].tolist()
        self.change, self.noise = (sums[0], sums[1]), (sums[2], sums[3])
        for name, value in zip(_SUMS, sums[4:], strict=True):
            setattr(self, name, value)
        self._foretold, self._surprise = state["foretold"].copy(), state["surprise"].copy()
        self._blocks = state["blocks"].copy()
        self.estimate = NOTHING
        if told:
            self.estimate = DriftEstimate(*state["estimate"][:-_MORE_TOLD].tolist())
        # What is believed follows from the rest.
        self._take(state["keys"], state["at"], state["known"], state["changed"])


@dataclass(frozen=True, slots=True)
class Population:
    """By question, per second: how often it is asked, and how often it changes now: as replicas believe, the upper end
    of that, and as is to be expected. Beside them what is the class's. `calmed`: when a storm was over, and the share
    of answers that it changed. `watched`: seconds since the class's first hundred comparisons."""

    requests: Floats
    rate: Floats
    upper: Floats
    mean: Floats
    noise: Floats
    margin: float
    change_prior: tuple[float, float]
    noise_prior: tuple[float, float]
    requests_prior: tuple[float, float]
    hazard: float
    storm: bool = False
    calmed: tuple[float, float] = (0.0, 0.0)
    watched: float = math.inf

    @classmethod
    def known(cls, requests: Floats, rates: Floats) -> Population:
        """Where nothing has to be learnt."""
        ones = (1.0, 1.0)
        return cls(requests, rates, rates, rates, 0 * rates, 1.0, ones, ones, ones, 1.0)

    def ttls(self, cost: float, bounds: Bounds) -> Floats:
        """As `question_ttl.best_ttl` has them, for all at once."""
        ahead = self.requests * cost / self.rate
        ttls = 2 * cost / self.rate / (np.sqrt(1 + 2 * ahead) + 1)
        ttls = np.minimum(ttls, 2 * bounds.stale / self.upper)
        return np.asarray(np.clip(ttls, bounds.shortest, bounds.longest))

    def hits(self, ttls: Floats) -> Floats:
        """Per second."""
        return np.asarray(self.requests * self._there(ttls))

    def forecast(self, ttls: Floats) -> tuple[float, float]:
        """Hits per second, and the share of them that is stale."""
        hits, changes = self.hits(ttls), self.mean * ttls
        total = float(hits.sum())
        # The mean of 1 - exp(-y) up to y, by a fraction that is never more than 2 % off where y < 1; above 1 from 6 on.
        return total, float(hits @ np.minimum(changes / (2 + changes * 2 / 3), 1.0)) / total

    def held(self, ttls: Floats) -> float:
        """How many answers are kept, on average."""
        return float(self._there(ttls).sum())

    def _there(self, ttls: Floats) -> Floats:
        """The share of time in which each answer is kept."""
        return np.asarray(self.requests * ttls / (1 + self.requests * ttls))

    @property
    def most_hits(self) -> float:
        """Per second, with LEAST_CALLS left."""
        return (1 - LEAST_CALLS) * float(self.requests.sum())

    def best_cost(self, bounds: Bounds) -> tuple[float, Cause]:
        """Step 4: `c`, and what keeps it from being larger."""
        allowed = min(bounds.aim, bounds.budget / self.margin)
        most = self.most_hits

        def fine(cost: float) -> bool:
            hits, stale = self.forecast(self.ttls(cost, bounds))
            return stale <= allowed and hits <= most

        cost = _largest(fine)
        ttls = self.ttls(cost, bounds)
        hits = self.hits(ttls)
        if hits @ (ttls >= bounds.longest * (1 - 1e-9)) > hits.sum() / 2:
            return cost, "longest"
        if hits.sum() >= most * (1 - 1e-3):
            return cost, "calls"
        if cost > 0.99 * MOST_COST:
            return cost, "question"
        return cost, "budget" if allowed == bounds.aim else "changes"

    def kept(self, cost: float, bounds: Bounds, unknown: float) -> float:
        """How many answers are kept, on average, with those of questions of which nothing is known: so many of them
        are fetched per second, and each is kept for as long as its TTL may be."""
        longest = question_ttl.longest_life(self.policy(cost, bounds), 0.0, 0.0)
        return self.held(self.ttls(cost, bounds)) + unknown * longest

    def cost_within(self, most: float, bounds: Bounds, unknown: float = 0.0) -> float:
        """The largest `c` with which no more answers are `kept` than that."""
        return _largest(lambda cost: self.kept(cost, bounds, unknown) <= most)

    def policy(self, cost: float, bounds: Bounds) -> QuestionPolicy:
        """What is published."""
        return QuestionPolicy(
            cost=cost,
            change=self.change_prior,
            noise=self.noise_prior,
            requests=self.requests_prior,
            shortest=bounds.shortest,
            longest=bounds.longest,
            stale=bounds.stale,
            hazard=self.hazard,
            changed_at=self.calmed[0],
            changed_share=self.calmed[1],
            storm=self.storm,
        )


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a policy: seconds, and shares of hits. `stale` is of one question's."""

    shortest: float
    longest: float
    budget: float
    aim: float
    stale: float


def _largest(fine: Callable[[float], bool]) -> float:
    """The largest cost of which that is true."""
    low, high = math.log(_LEAST_COST), math.log(MOST_COST)
    for _ in range(15):
        middle = (low + high) / 2
        low, high = (middle, high) if fine(math.exp(middle)) else (low, middle)
    return math.exp(low)


def _upper_rates(shape: Floats, seconds: Floats) -> Floats:
    """`question_ttl.upper_rate` for many."""
    root = 1 - 1 / (9 * shape) + question_ttl.QUANTILE / (3 * np.sqrt(shape))
    upper: Floats = np.maximum(shape * root**3, shape) / seconds
    return upper


def _gamma_on_grid(shape: Floats, seconds: Floats) -> Floats:
    """Shares of gamma distributions at the rates of the grid, one a column; what lies below the least is at it."""
    scaled = _RATES[:, None] * seconds
    normal = np.array([math.lgamma(each) for each in shape.tolist()])
    shares = np.exp(shape * np.log(scaled) - scaled - normal) * _STEP
    shares[0] += scaled[0] ** shape * np.exp(-normal) / shape
    # A narrow one would be more than 1 at the end of the grid, which of a thousand questions is a lot.
    shares /= shares.sum(axis=0)
    return np.asarray(np.maximum(shares, 1e-300))


def _fit_gamma(likelihoods: Floats, mean: float, dispersion: float) -> tuple[float, float]:
    """Shape and seconds that make it most likely, by a compass search on logarithms of shape and mean. The greater the
    dispersion, the more counts what is believed of the shape beforehand."""

    def values(points: Floats) -> Floats:
        shape, mean = points.T
        fit = np.log(np.maximum(likelihoods @ _gamma_on_grid(np.exp(shape), np.exp(shape - mean)), 1e-300))
        # A weak belief in a shape of about a half, and half a change more than was seen.
        belief = -((shape - math.log(0.5)) ** 2) * dispersion / 4.5 + 0.5 * mean
        return np.asarray(fit.sum(axis=0) + belief)

    point = np.array([math.log(0.5), min(max(math.log(mean), _SLOWEST), _FASTEST)])
    [best], step = values(point[None]), 1.0
    while step > 0.02:
        tried = np.clip(point + step * _COMPASS, (-3.0, _SLOWEST), (3.0, _FASTEST))
        found = values(tried)
        if found.max() > best:
            best, point = found.max(), tried[found.argmax()]
        else:
            step /= 2
    shape, mean = np.exp(point).tolist()
    return shape, shape / mean
