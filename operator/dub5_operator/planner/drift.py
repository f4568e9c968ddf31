"""How fast answers change, from comparisons that say only whether, not when.

A comparison of an answer with the one fetched `x` seconds before says that it changed somewhere in between, or not.
With a hazard `r` per second and noise, the chance `e0` that two fresh answers differ although nothing changed,

    P(changed | x) = 1 - (1 - e0) exp(-r x) = 1 - exp(-(q + r x)),      q = -ln(1 - e0).

This is the likelihood of current status data (Sun, "The Statistical Analysis of Interval-censored Failure Time Data",
2006, ch. 3) with a background of misclassified outcomes; Cho and Garcia-Molina ("Estimating frequency of change", ACM
TOIT 2003) have it without noise. It is concave in `(q, r)`, since `ln(1 - e^-S)` is concave and `S` is linear.

Popular answers are fetched again young, rare ones old, and both may change at different rates. A single `r` would take
that difference for noise or miss it. So answers are divided by how often they were served per hour, the *strata*:
each has its own hazard, all share the noise, and what counts is `rate = sum(weight_s * r_s)` with `weight_s` the share
of hits that answers of stratum `s` served: the hazard of a hit, not of a key.

The steps of `fit`:
1. Comparisons are counted by stratum, by age on a logarithmic grid, and by outcome; counts fade with `HALF_LIFE`.
2. For each `q` of a grid that is refined twice, each stratum's best `r_s` is found by Newton's method on the score,
   which falls and is convex in `r`. A weak prior, half a change in all at each stratum's mean age (as Jeffreys' for a
   Poisson rate), keeps a stratum without a change from a rate of exactly 0.
3. The best `q` gives the estimate. It may not be greater than re-asks allow: they are of young answers, which noise
   makes differ as often as old ones. That is what they are for; a mixture of answers that change fast and slowly shows
   refetches the same curve as noise does.
4. The upper bound is the largest `rate` that the profile likelihood allows at one-sided 95 %, `deviance <= 2.706`:
   steps 2 and 3 with `lambda * rate` added, where `lambda` is such that the likelihood falls by just that much.
5. One event may change many answers at once, and a freak answer differs from the one before it and the one after:
   comparisons are not independent. The deviance allowed is multiplied by the measured dispersion, Pearson's chi-square
   per degree of freedom over blocks of 15 minutes (McCullagh and Nelder, "Generalized Linear Models", 1989, 4.5).

Drift moves. The hazard is piecewise constant in calendar time: after each fold a generalised likelihood ratio
(Basseville and Nikiforov, "Detection of Abrupt Changes", 1993, section 2.4) asks whether it was `psi` times the
fitted one during the last 3, 7 or 15 minutes, each comparison by the part of its interval that lies in the window.
A rise is looked for always; a fall, which only costs money, where it is large and noise cannot have made it.
Where it was, time is made to run `psi` times as fast from then on: ages measured before are worth fewer seconds of
now, and weigh no more than what the new factor is known by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dub5.contract import Verdict
from dub5_operator.planner.state import State, check

Floats = NDArray[np.float64]

HALF_LIFE = 24 * 3600.0
"""Seconds after which a comparison counts half."""
WINDOWS = (180.0, 420.0, 900.0)
"""Seconds; where a jump is looked for."""
THRESHOLD = 12.0
"""Deviance that makes a jump. With a chi-square law of one degree: 3 in 10,000 tests of a window, and tests overlap."""
LEAST_RISE, LEAST_FALL = 2.0, 0.25
"""What lies between is left to the estimate, which follows it."""
PRIOR = 0.5
"""Events that are assumed seen beforehand, over all strata."""
LEANING = 3.0
"""Changes that each stratum is lent by the average of all, with the comparisons that it takes to see them."""
NOISE_MATTERS = 0.05
"""Where fewer comparisons than this found a change, it is taken for drift without proof that it is not noise."""
LEAST_NOISE = 0.03
"""Of `q`. Less is taken for drift: a mixture of fast and slow answers looks just like a little noise."""
NOISE_SHOWN = 3.0
"""By how much noise must raise the log-likelihood to be believed: what is taken for noise is not kept to the budget."""
NOISIEST = 16.0
"""Of `q`: not one in ten million answers the same."""
FASTEST = 1 / 30
"""Changes per second; what changes faster looks like noise, and is nothing to cache."""

_ESTIMATED = ("rate", "upper", "lower", "noise", "observations", "events", "significant")
_QUANTILE = 2.7055
"""Of the chi-square law with one degree of freedom at 90 %: 95 % one-sided."""
_PER_DECADE = 8
_AGE_BINS = 8 * 7
"""From a tenth of a second to eleven days; the last takes all above."""
_RATE_EDGES = np.array([1e-9, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0])
_STRATA = len(_RATE_EDGES) + 1
_NEWTON_STEPS = 14
_ENOUGH_TO_COMPARE = 100
_REFIT = 0.02
_GROWN = 1.5
"""So many times the comparisons it was made of, and a fit is too old to find a jump by."""
_PSI = np.geomspace(1 / 32, 64, 23)


@dataclass(frozen=True, slots=True)
class DriftEstimate:
    """Rates are per second and of hits. `noise` is e0. `events` are the changes seen, faded.

    `significant`: noise alone cannot explain the data (one-sided 95 %), or there is too little of it to matter.
    """

    rate: float
    upper: float
    lower: float
    noise: float
    observations: float
    events: float
    significant: bool

    @property
    def only_noise(self) -> bool:
        """Two fresh answers differ so often that a change could not be seen."""
        return self.noise > 0.8 and not self.significant


NOTHING = DriftEstimate(0.0, math.inf, 0.0, 0.0, 0.0, 0.0, significant=False)


@dataclass(frozen=True, slots=True)
class _Recent:
    """Comparisons of the longest window, one array a column."""

    fetched: Floats
    again: Floats
    changed: Floats
    stratum: NDArray[np.int64]


class Drift:
    """What the comparisons of one class add up to. Times are seconds since the epoch."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, _STRATA, _AGE_BINS))  # same, changed
        self._ages = np.zeros((_STRATA, _AGE_BINS))
        self._hits = np.zeros(_STRATA)
        self._re_asked = np.zeros(2)  # all, changed
        self._faded = 0.0
        self._started: float | None = None
        self._jumped = -math.inf
        self._speeds: list[tuple[float, float]] = [(-math.inf, 1.0)]
        self._recent: list[_Recent] = []
        self._surprise = np.zeros(2)  # squared residuals of blocks, their variances
        self._block = np.zeros(2)  # residual and variance since `_block_began`
        self._block_began = 0.0
        self._fitted_at = 0.0
        self._estimate = NOTHING
        self._q = 0.0
        self._rates = np.zeros(_STRATA)
        self._tilts = [1e3, -1e3]
        self.jumps: list[tuple[float, float]] = []

    @property
    def estimate(self) -> DriftEstimate:
        """As of the last fold."""
        total = float(self._counts.sum())
        if total > self._fitted_at * (1 + _REFIT) or total < self._fitted_at * (1 - _REFIT):
            self._fit()
        return self._estimate

    def fold(self, verdicts: Sequence[Verdict], now: float, *, unserved: int = 0) -> None:
        """Take comparisons in. `unserved` hits count with those of each."""
        self._fade(now)
        if verdicts:
            hits = np.array([max(verdict.hits + unserved, 0) for verdict in verdicts], dtype=float)
            recent = _columns(verdicts, hits)
            self._started = self._started if self._started is not None else float(recent.fetched.min())
            refetched = np.array([verdict.source == "refetch" for verdict in verdicts])
            np.add.at(self._hits, recent.stratum, np.where(refetched, hits, 0.0))
            self._re_asked += (np.sum(~refetched), np.sum(recent.changed[~refetched]))
            self._disperse(recent, now)
            self._count(recent)
            self._recent.append(recent)
        self._recent = [each for each in self._recent if each.again.max() > now - WINDOWS[-1]]
        # A fit takes milliseconds, and nobody asks for one between two of many folds of a backlog.
        if float(self._counts.sum()) > self._fitted_at * _GROWN:
            self._fit()
        self._detect_jump(now)

    def state(self, most: int) -> State:
        """What there is, with at most so many of the latest comparisons."""
        recent = _joined(self._recent) if self._recent else _columns([], np.zeros(0))
        estimate = self._estimate
        started = math.nan if self._started is None else self._started
        return {
            "counts": self._counts,
            "ages": self._ages,
            "hits": self._hits,
            "re_asked": self._re_asked,
            "surprise": np.concatenate([self._surprise, self._block]),
            "rates": self._rates,
            "speeds": np.array(self._speeds),
            "recent": np.stack([recent.fetched, recent.again, recent.changed, recent.stratum], axis=1)[
                -most:
            ],
            "jumps": np.array(self.jumps).reshape(-1, 2),
            "scalars": np.array(
                [
                    self._faded,
                    started,
                    self._jumped,
                    self._block_began,
                    self._fitted_at,
                    self._q,
                    *self._tilts,
                ]
            ),
            "estimate": np.array([getattr(estimate, name) for name in _ESTIMATED], dtype=float),
        }

    def restore(self, state: State) -> None:
        """Go on from there. ValueError or KeyError where it cannot be true."""
        for name, shape in {
            "counts": self._counts.shape,
            "ages": self._ages.shape,
            "hits": self._hits.shape,
            "re_asked": (2,),
            "surprise": (4,),
            "recent": (len(state["recent"]), 4),
            "jumps": (min(len(state["jumps"]), 10), 2),
        }.items():
            check(state, name, np.float64, shape, finite=name != "surprise")
        for name, shape in {
            "rates": (_STRATA,),
            "speeds": (min(max(len(state["speeds"]), 1), 10), 2),
            "scalars": (8,),
            "estimate": (len(_ESTIMATED),),
        }.items():
            check(state, name, np.float64, shape, finite=False)
        if np.isnan(state["estimate"]).any() or not (state["recent"][:, 3] < _STRATA).all():
            raise ValueError("an estimate that cannot be")
        self._counts, self._ages, self._hits, self._re_asked, self._rates = (
            state[name].copy() for name in ("counts", "ages", "hits", "re_asked", "rates")
        )
        self._surprise, self._block = state["surprise"][:2].copy(), state["surprise"][2:].copy()
        self._speeds = [(float(since), float(speed)) for since, speed in state["speeds"]]
        self.jumps = [(float(at), float(factor)) for at, factor in state["jumps"]]
        fetched, again, changed, stratum = state["recent"].T
        self._recent = [_Recent(fetched, again, changed, stratum.astype(np.int64))] if len(fetched) else []
        self._faded, started, self._jumped, self._block_began, self._fitted_at, self._q, *self._tilts = state[
            "scalars"
        ].tolist()
        self._started = None if math.isnan(started) else started
        rate, upper, lower, noise, observations, events, significant = state["estimate"].tolist()
        self._estimate = DriftEstimate(rate, upper, lower, noise, observations, events, bool(significant))

    def _fade(self, now: float) -> None:
        if self._faded and now > self._faded:
            kept = 0.5 ** ((now - self._faded) / HALF_LIFE)
            self._counts *= kept
            self._ages *= kept
            self._hits *= kept
            self._re_asked *= kept
            self._surprise *= kept
            self._fitted_at *= kept
        self._faded = max(self._faded, now)

    def _count(self, recent: _Recent) -> None:
        ages = self._elapsed(recent.fetched, recent.again)
        bins = _bins_of(ages)
        np.add.at(self._counts, (recent.changed.astype(int), recent.stratum, bins), 1.0)
        np.add.at(self._ages, (recent.stratum, bins), ages)

    def _elapsed(self, start: Floats, end: Floats) -> Floats:
        """Seconds of now between two times: what passed before a jump was worth less or more."""
        total = np.zeros(len(start))
        until = [since for since, _ in self._speeds[1:]] + [math.inf]
        for (since, speed), upto in zip(self._speeds, until, strict=True):
            total += speed * np.maximum(0.0, np.minimum(end, upto) - np.maximum(start, since))
        return total

    def _disperse(self, recent: _Recent, now: float) -> None:
        """Step 5: how far the outcomes of one block, as a sum, are from what the fit expected of them."""
        if self._counts.sum() < _ENOUGH_TO_COMPARE:
            return
        expected = -np.expm1(-self._exposure(recent))
        self._block += (float((recent.changed - expected).sum()), float((expected * (1 - expected)).sum()))
        if now - self._block_began > WINDOWS[-1]:
            self._surprise += (self._block[0] ** 2, self._block[1])
            self._block[:] = 0
            self._block_began = now

    def _exposure(self, recent: _Recent) -> Floats:
        ages = self._elapsed(recent.fetched, recent.again)
        exposure: Floats = np.maximum(self._q + self._rates[recent.stratum] * ages, 1e-12)
        return exposure

    @property
    def dispersion(self) -> float:
        squares, variances = self._surprise
        # Ten variances of prior belief in independence, so that a few blocks do not decide.
        return float(np.clip((squares + 10.0) / (variances + 10.0), 1.0, 10.0))

    def _noisiest(self) -> float:
        """Greatest `q` that re-asks allow: how often they found a change, noise or not, and an error more."""
        asked, changed = self._re_asked
        most = changed + math.sqrt(changed + 1) + 1
        return NOISIEST if most >= asked else min(-math.log1p(-most / asked), NOISIEST)

    def _fit(self) -> None:
        counts = _Counts.of(self._counts, self._ages, self._hits, self._noisiest())
        if counts is None:
            return
        if counts.same.sum() < LEANING:
            self._nothing_is_the_same()
            return
        counts = counts.leaning_on(_maximise(counts.pooled(), 0.0))
        best = _maximise(counts, 0.0)
        allowed = _QUANTILE / 2 * self.dispersion
        upper, self._tilts[0] = _bound(counts, best, allowed, self._tilts[0])
        lower, self._tilts[1] = _bound(counts, best, allowed, self._tilts[1])
        # Noise may make it look as if answers changed less than never. The bound is then that for never: it does not
        # come below what the data could show (Cowan, Cranmer, Gross, Vitells, "Power-constrained limits", 2011).
        upper += max(-best.rate, 0.0)
        self._q, self._rates = best.q, best.spread(counts, _STRATA)
        self._fitted_at = float(self._counts.sum())
        events = float(self._counts[1].sum())
        significant = lower > 0 or events < NOISE_MATTERS * self._fitted_at
        self._estimate = DriftEstimate(
            rate=max(best.rate, 0.0),
            upper=max(upper, 0.0),
            lower=max(lower, 0.0),
            # Where time has no part in it, all that differs is noise.
            noise=-math.expm1(-best.q) if significant else events / self._fitted_at,
            observations=self._fitted_at,
            events=events,
            significant=significant,
        )

    def _nothing_is_the_same(self) -> None:
        """Any noise and any drift explain that, if there is enough of one of them."""
        self._fitted_at = float(self._counts.sum())
        events = float(self._counts[1].sum())
        self._q, self._rates = NOISIEST, np.zeros(_STRATA)
        self._estimate = DriftEstimate(
            rate=0.0,
            upper=FASTEST,
            lower=0.0,
            noise=events / self._fitted_at,
            observations=self._fitted_at,
            events=events,
            significant=False,
        )

    def _detect_jump(self, now: float) -> None:
        settled = max(self._jumped, self._started if self._started is not None else now) + WINDOWS[-1]
        if now < settled or not self._recent or self._counts.sum() < _ENOUGH_TO_COMPARE:
            return
        recent = _joined(self._recent)
        before = self._exposure(recent)
        for window in WINDOWS:
            psi = self._jump_within(recent, before, now - window)
            if psi is not None:
                self._jump(recent, psi, now - window, now)
                return

    def _jump_within(self, recent: _Recent, exposure: Floats, since: float) -> float | None:
        """By which factor the hazard was another one since then, if it was."""
        inside = recent.again > since
        changed, exposure = recent.changed[inside], exposure[inside]
        expected = -np.expm1(-exposure)
        surplus = float((changed - expected).sum())
        if surplus**2 < 9.0 * float((expected * (1 - expected)).sum()):
            return None  # a cheap test first
        start = np.maximum(recent.fetched[inside], since)
        part = self._rates[recent.stratum[inside]] * self._elapsed(start, recent.again[inside])
        raised = np.maximum(exposure + (_PSI[:, None] - 1) * part, 1e-12)
        gain = changed * (np.log(-np.expm1(-raised)) - np.log(expected)) - (1 - changed) * (raised - exposure)
        deviance = 2 * gain.sum(axis=1) / self.dispersion
        best = int(deviance.argmax())
        psi = float(_PSI[best])
        noise = -math.expm1(-self._q) * len(changed)
        fell = psi <= LEAST_FALL and noise < 0.1 * float(expected.sum())
        return psi if deviance[best] >= THRESHOLD and (psi >= LEAST_RISE or fell) else None

    def _jump(self, recent: _Recent, psi: float, since: float, now: float) -> None:
        """From `since` on, time runs `psi` times as fast as it did."""
        inside = recent.again > since
        events = max(1.0, float(recent.changed[inside].sum()))
        # What the past tells of the present it tells through psi, and psi is known by the window's events.
        weight = 0.5 * events / (float(self._counts[1].sum()) + events)
        shift = -round(math.log10(psi) * _PER_DECADE)
        self._counts = weight * _shifted(self._counts, shift)
        self._ages = weight / psi * _shifted(self._ages, shift)
        self._speeds = [(start, speed / psi) for start, speed in self._speeds if start < since][-8:]
        self._speeds[0] = (-math.inf, self._speeds[0][1])
        self._speeds.append((since, 1.0))
        self._surprise[:] = self._block[:] = 0
        self._jumped = now
        self.jumps.append((now, psi))
        del self.jumps[:-10]
        kept = _Recent(
            recent.fetched[inside], recent.again[inside], recent.changed[inside], recent.stratum[inside]
        )
        self._count(kept)
        self._recent = [kept]
        self._fit()


def _columns(verdicts: Sequence[Verdict], hits: Floats) -> _Recent:
    fetched = np.array([verdict.fetched for verdict in verdicts])
    again = np.array([verdict.again for verdict in verdicts])
    per_hour = hits / np.maximum(again - fetched, 1.0) * 3600
    return _Recent(
        fetched=fetched,
        again=again,
        changed=np.array([verdict.changed for verdict in verdicts], dtype=float),
        stratum=np.searchsorted(_RATE_EDGES, per_hour, side="right"),
    )


def _joined(parts: list[_Recent]) -> _Recent:
    return _Recent(
        np.concatenate([part.fetched for part in parts]),
        np.concatenate([part.again for part in parts]),
        np.concatenate([part.changed for part in parts]),
        np.concatenate([part.stratum for part in parts]),
    )


def _bins_of(ages: Floats) -> NDArray[np.int64]:
    bins = np.floor((np.log10(np.maximum(ages, 0.1)) + 1) * _PER_DECADE).astype(np.int64)
    capped: NDArray[np.int64] = np.minimum(bins, _AGE_BINS - 1)
    return capped


def _shifted(counts: Floats, shift: int) -> Floats:
    """Moved along the last axis; what would fall off stays at the end."""
    moved = np.roll(counts, shift, axis=-1)
    if shift > 0:
        moved[..., -1] += moved[..., :shift].sum(axis=-1)
        moved[..., :shift] = 0
    elif shift < 0:
        moved[..., 0] += moved[..., shift:].sum(axis=-1)
        moved[..., shift:] = 0
    return moved


@dataclass(frozen=True, slots=True)
class _Counts:
    """What the likelihood needs; strata and ages without comparisons are left out."""

    same: Floats
    changed: Floats
    ages: Floats
    weights: Floats
    strata: NDArray[np.int64]
    prior: Floats
    typical: Floats
    noisiest: float

    @classmethod
    def of(cls, counts: Floats, ages: Floats, hits: Floats, noisiest: float) -> _Counts | None:
        total = counts.sum(axis=0)
        strata = np.flatnonzero(total.sum(axis=1) > 1e-6)
        if not len(strata):
            return None
        bins = np.flatnonzero(total[strata].sum(axis=0) > 1e-9)
        chosen = np.ix_(strata, bins)
        seen = total[chosen]
        weights = hits[strata]
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(strata), 1 / len(strata))
        mean = np.divide(ages[chosen], seen, out=np.ones_like(seen), where=seen > 1e-9)
        return cls(
            same=counts[0][chosen],
            changed=counts[1][chosen],
            ages=mean,
            typical=(seen * mean).sum(axis=1) / seen.sum(axis=1),
            weights=weights,
            strata=strata,
            prior=PRIOR * np.maximum(weights, 1e-3),
            noisiest=noisiest,
        )

    @property
    def seen(self) -> float:
        return float(self.same.sum() + self.changed.sum())

    def pooled(self) -> _Counts:
        """As if all answers were alike: each comparison by the hits of its stratum, and all of them as many as they are
        worth, `(sum w)^2 / sum w^2` (Kish, "Survey Sampling", 1965, section 8.2)."""
        total = self.same + self.changed
        weight = self.weights / np.maximum(total.sum(axis=1), 1e-9)
        weight = (weight * (weight @ total.sum(axis=1)) / (weight**2 @ total.sum(axis=1)))[:, None]
        same, changed = (weight * self.same).sum(axis=0), (weight * self.changed).sum(axis=0)
        seen = np.maximum(same + changed, 1e-9)
        ages = (weight * total * self.ages).sum(axis=0) / seen
        ages = np.where(ages > 0, ages, 1.0)
        return _Counts(
            same=same[None],
            changed=changed[None],
            ages=ages[None],
            weights=np.ones(1),
            strata=np.zeros(1, dtype=np.int64),
            prior=np.full(1, PRIOR),
            noisiest=self.noisiest,
            typical=np.array([(seen * ages).sum() / seen.sum()]),
        )

    def leaning_on(self, pooled: _Point) -> _Counts:
        """Each stratum with some comparisons that turned out as they do on average: one with few is not believed."""
        drift = -np.expm1(-np.maximum(pooled.rate, 0.0) * self.typical)
        lent = np.clip(LEANING / np.maximum(drift, 1e-9), LEANING, self.seen / len(self.typical))
        expected = -np.expm1(-np.maximum(pooled.q + pooled.rate * self.typical, 0.0))
        changed, same = lent * expected, lent * (1 - expected)
        return replace(
            self,
            same=np.hstack([self.same, same[:, None]]),
            changed=np.hstack([self.changed, changed[:, None]]),
            ages=np.hstack([self.ages, self.typical[:, None]]),
        )


@dataclass(frozen=True, slots=True)
class _Point:
    """One maximum. `penalised` has the prior in it, not the tilt."""

    q: float
    rates: Floats
    rate: float
    penalised: float
    width: float

    def spread(self, counts: _Counts, strata: int) -> Floats:
        rates = np.full(strata, self.rate)  # of a stratum without comparisons: as the others on average
        rates[counts.strata] = self.rates
        return rates


def _maximise(counts: _Counts, tilt: float, near: _Point | None = None) -> _Point:
    """Steps 2 and 3, with `tilt * rate` added to the log-likelihood; `near`: the best `q` is not far from its."""
    ends = np.array([0.0, LEAST_NOISE])
    penalised, rates = _profile(counts, ends, tilt)
    means = rates @ counts.weights
    values = penalised + tilt * means
    # It is concave: what falls up to there falls beyond.
    if values[0] >= values[1] or counts.noisiest <= LEAST_NOISE:
        return _Point(0.0, rates[0], float(means[0]), float(penalised[0]), LEAST_NOISE)
    noisy = _refine(counts, tilt, near if near is not None and near.q > 0 else None)
    if values[0] >= noisy.penalised + tilt * noisy.rate - NOISE_SHOWN:
        return _Point(0.0, rates[0], float(means[0]), float(penalised[0]), LEAST_NOISE)
    return noisy


def _refine(counts: _Counts, tilt: float, near: _Point | None) -> _Point:
    """The best `q` from LEAST_NOISE on, by grids that become finer."""
    grid = np.geomspace(LEAST_NOISE, counts.noisiest, 16)
    if near is not None:
        most = min(near.q + 5 * near.width, counts.noisiest)
        grid = np.linspace(max(near.q - 5 * near.width, LEAST_NOISE), most, 11)
    point = near
    for _ in range(8):
        penalised, rates = _profile(counts, grid, tilt)
        means = rates @ counts.weights
        values = penalised + tilt * means
        best = int(values.argmax())
        lower, upper = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
        width, reached = _width(grid, values, best)
        point = _Point(float(grid[best]), rates[best], float(means[best]), float(penalised[best]), width)
        if best == len(grid) - 1 and near is not None and upper < counts.noisiest:
            grid = np.linspace(lower, min(upper + 10 * (upper - lower), counts.noisiest), 12)
        elif best == 0 and lower > LEAST_NOISE and near is not None:
            grid = np.linspace(max(lower - 10 * (upper - lower), LEAST_NOISE), upper, 12)
        elif reached:
            break
        else:
            grid = np.linspace(lower, upper, 9)
    assert point is not None  # noqa: S101  # the loop runs
    return point


def _width(grid: Floats, values: Floats, best: int) -> tuple[float, bool]:
    """The standard error of `q` that the values around the best one show, and whether the grid is fine enough."""
    inner = min(max(best, 1), len(grid) - 2)
    step = float(grid[inner + 1] - grid[inner - 1]) / 2
    falls = float(max(values[best] - values[inner - 1], values[best] - values[inner + 1]))
    width = step / math.sqrt(max(2 * falls, 1e-6))
    return min(max(width, 1e-5), 1.0), falls < 0.3


def _profile(counts: _Counts, grid: Floats, tilt: float) -> tuple[Floats, Floats]:
    """For each `q`: log-likelihood with the prior, and the best rates, by Newton's method.

    A rate may be negative as long as every `q + r x` is positive. It is a stratum's share of the noise's error, and
    cutting it off at 0 would let the strata whose error is positive pass for drift.
    """
    q = grid[:, None]
    x, typical = counts.ages, counts.typical
    changed = counts.changed
    pull = (x * counts.same).sum(axis=1) - tilt * counts.weights
    bounded = pull > 0
    pull = np.where(bounded, pull, 1.0)
    least = -0.999 * q / x.max(axis=1)
    events = changed.sum(axis=1) + counts.prior
    mass = (x * changed).sum(axis=1) + typical * counts.prior
    rates = np.maximum(events / (pull + mass / 2) - q * events / mass, least + 1e-12)
    for _ in range(_NEWTON_STEPS):
        raised = np.expm1(np.clip(q[:, :, None] + rates[:, :, None] * x, 1e-12, 500.0))
        assumed = np.expm1(np.clip(q + rates * typical, 1e-12, 500.0))
        part, prior = x * changed / raised, typical * counts.prior / assumed
        value = part.sum(axis=2) + prior - pull
        fall = (part * x * (1 + 1 / raised)).sum(axis=2) + prior * typical * (1 + 1 / assumed)
        step = value / fall
        moved = np.clip(rates + step, least + (rates - least) / 16, FASTEST)
        done = float(np.abs(moved - rates).max() * typical.max()) < 1e-6
        rates = moved
        if done:
            break
    rates = np.where(bounded, rates, FASTEST)
    exposure = np.clip(q[:, :, None] + rates[:, :, None] * x, 1e-12, None)
    likelihood = (changed * np.log(-np.expm1(-exposure)) - counts.same * exposure).sum(axis=(1, 2))
    prior = counts.prior * np.log(-np.expm1(-np.clip(q + rates * typical, 1e-12, None)))
    return likelihood + prior.sum(axis=1), rates


def _bound(counts: _Counts, best: _Point, allowed: float, tilt: float) -> tuple[float, float]:
    """Step 4: the rate at which the log-likelihood has fallen by `allowed`, and the tilt that gives it.

    `tilt` is where to begin; its sign says which bound, positive for the upper one. The fall grows about with the
    square of the tilt, so the steps are those of a secant on the root, inside a bracket.
    """
    low, high, rate = 0.0, math.inf, best.rate
    for _ in range(20):
        point = _maximise(counts, tilt, best)
        fallen = max(best.penalised - point.penalised, 1e-9)
        if abs(fallen - allowed) < 0.1 * allowed:
            return point.rate, tilt
        if fallen > allowed:
            high = abs(tilt)
        else:
            low, rate = abs(tilt), point.rate
        if high - low < 1e-3 * high:  # the likelihood has an edge there
            break
        guess = abs(tilt) * min(max(math.sqrt(allowed / fallen), 0.1), 8.0)
        size = guess if low < guess < high else (low + high) / 2
        tilt = math.copysign(size, tilt)
    return (FASTEST if tilt > 0 and high == math.inf else rate), tilt
