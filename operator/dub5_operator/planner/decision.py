"""Which TTL, and why.

`Learning` is one class: what was learnt of it so far, and what follows. All of it is a fold: the same samples in the
same order, with the same times, give the same decision. That is what lets the operator begin anew from the stream in
Redis, and the simulator drive the code that runs in production. `decide` goes in these steps:

1. Candidates lie a fiftieth apart, inside `[min, longest]`.
2. Of a candidate: stale share of hits `1 - exp(-rate_upper * mean age of a hit)`, an upper bound twice over, as the
   rate is one and, the function being concave, the mean age is another; saving, dollars of calls avoided less those of
   memory; bytes.
3. The stale share must be under `AIM` of the budget: an aim at the budget itself misses it half the time by chance.
   Bytes must be within the share of memory, and the TTL at most a quarter of the time that was watched.
4. Of what is left the largest saving, and of those within `CLOSE` of it the shortest TTL.
5. What kept it from being longer is what it is bound by.
6. Steps: at most a factor `max_factor` at a time; up only where the gain is above `GAIN`, or the best is longer by
   `LONGER`; down only where the stale share has come above `PAIN` of the budget, or bytes above the share of memory.
7. Where not even the minimum is within the budget, by the best estimate, `on_infeasible` says what to do. Where only
   the upper bound is above it the minimum is in force, and what is measured there makes the bound narrower.
8. Where the data do not suffice the TTL stays.
9. No question's TTL is longer than a quarter of the time that was watched either: where answers change together,
   thousands of comparisons that found no change are one piece of news.

The shape of it, an analytic answer approached in bounded steps, is there because feedback on a TTL comes a TTL late:
raw stochastic approximation (d-TTL: Basu, Sundarrajan, Ghaderi, Shakkottai and Sitaraman, "Adaptive TTL-based caching
for content delivery", SIGMETRICS 2017) overshoots where its step is large and creeps where it is small.

What each TTL would have saved is found by `reuse`, which replays recorded look-ups.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dub5.contract import Access, QuestionPolicy, Verdict
from dub5_operator.planner.durations import written
from dub5_operator.planner.hazard import Hazard
from dub5_operator.planner.questions import (
    BOUND_BY,
    ENOUGH_COMPARISONS,
    BoundBy,
    Bounds,
    Cause,
    DriftEstimate,
    Population,
    Questions,
)
from dub5_operator.planner.reuse import LONGEST_AGO, STEP, Curve, Reuse
from dub5_operator.planner.samples import Lookups
from dub5_operator.planner.state import State

Floats = NDArray[np.float64]

AIM = 0.85
"""Of the budget, that is aimed at."""
PER_QUESTION = 3.0
"""Times the budget, for the stale share of one question's hits where the policy does not say."""
PAIN = 0.92
"""Of the budget: a stale share above it is worth a shorter TTL."""
CLOSE, GAIN = 0.001, 0.01
"""Of the saving: what is as good as the best, and what is worth a longer TTL."""
LONGER = 1.25
"""A TTL that is so many times another one is worth a move whatever it gains, and is not bound by the other's limit."""
ENOUGH_LOOKUPS = 200
WATCHED = 4.0
"""A TTL needs to be watched for this many of it."""
SKEW = 60.0
"""Seconds by which a replica's clock may be ahead of ours."""
LONGEST_AGE = 400 * 86400.0
"""Seconds: of an answer that is compared."""

OnInfeasible = Literal["Min", "Bypass"]

_BETWEEN = 24
"""Candidates in a factor of STEP."""
_GIB = 2.0**30


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLimits:
    """What the policy and the class allow. Seconds, bytes, dollars per GiB and hour; `budget` a share of hits.

    `initial` is the TTL for as long as nothing is known. `question`: the share of one question's hits that may be
    stale, PER_QUESTION times the budget where it is not said. `canary`: calls to measure with, as a share of all."""

    shortest: float
    longest: float
    budget: float
    initial: float
    memory: float | None = None
    memory_price: float = 0.0
    max_factor: float = 2.0
    on_infeasible: OnInfeasible = "Min"
    question: float | None = None
    canary: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`ttl` is to be in force now, `recommended` where it is going. With `question` each question has a TTL of its own,
    and `ttl` is for replicas of a release that knows of none. Shares are of hits, as predicted for what is in force;
    `hit_ratio` is the measured one with `question`.

    `stale` is the best estimate, `stale_upper` the bound. `saving` is in dollars per hour, of `recommended`.
    """

    ttl: float
    recommended: float
    bound_by: BoundBy
    sufficient: bool
    within_budget: bool
    reason: str
    hit_ratio: float = math.nan
    measured_hit_ratio: float = math.nan
    stale: float = math.nan
    stale_upper: float = math.nan
    saving: float = math.nan
    bytes: float = math.nan
    question: QuestionPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What TTLs are predicted to do; the fields of a Decision."""

    hit_ratio: float
    stale: float
    stale_upper: float
    saving: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Shape:
    """What the replay depends on: bounds of the TTL in seconds, and stale-while-revalidate as a part of it."""

    shortest: float
    longest: float
    swr_share: float


class Learning:
    """Samples are checked here: what cannot be true is counted in `refused` and changes nothing."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.refused = 0
        self._reuse = Reuse(shape.shortest, shape.longest, shape.swr_share)
        self._questions = Questions()
        self._hazard = Hazard()

    def reshape(self, shape: Shape) -> None:
        """Other bounds: the replay begins anew, what is known of drift stays."""
        if shape != self.shape:
            self.shape = shape
            self._reuse = Reuse(shape.shortest, shape.longest, shape.swr_share)

    def fold(
        self,
        accesses: Lookups | Iterable[Access],
        verdicts: Sequence[Verdict],
        *,
        looked_up: float | None,
        ttl_in_force: float,
        now: float,
    ) -> None:
        """Take in samples; `looked_up` is how many look-ups they stand for, None where a replica did not count."""
        lookups = accesses if isinstance(accesses, Lookups) else Lookups(accesses)
        columns = lookups.columns()
        sane = sane_lookups(columns, now)
        good_verdicts = [verdict for verdict in verdicts if is_sane_verdict(verdict, now)]
        self.refused += int((~sane).sum()) + len(verdicts) - len(good_verdicts)
        if looked_up is not None and not (math.isfinite(looked_up) and looked_up >= 0):
            looked_up = None
        self._reuse.fold(columns if sane.all() else columns[:, sane], looked_up, ttl_in_force, now)
        self._reuse.forget()
        self._compare(good_verdicts, now)

    def _compare(self, verdicts: Sequence[Verdict], now: float) -> None:
        compared = self._questions.compare(verdicts, now)
        if compared is None:
            return
        if self._questions.fitted:  # before, what is expected is a guess
            changed = compared.changed.astype(float)
            self._hazard.fold(
                compared.fetched, compared.again, changed, compared.expected, compared.noise, now
            )
        # Asked now, since those that show a storm are of it too.
        storm, after = self._hazard.in_storm(now), self._hazard.unusual_until(now)
        self._questions.learn(compared, now, storm=storm, after=after)

    def away(self, since: float, until: float) -> None:
        """Nobody read in between, so that nothing was recorded: no rate is counted over that time."""
        self._reuse.away(since, until)

    def state(self, most: int) -> State:
        """All that was learnt, but of keys only those that were asked for last, so many."""
        parts = {
            "reuse": self._reuse.state(most),
            "questions": self._questions.state(most),
            "hazard": self._hazard.state(most),
        }
        return {f"{part}.{name}": found for part, state in parts.items() for name, found in state.items()}

    def restore(self, state: State) -> None:
        """Go on from what another had learnt; the replay begins anew where its shape was another.

        KeyError or ValueError where it is not what `state` gives; this is then not to be used any more."""
        parts: dict[str, dict[str, NDArray[Any]]] = {"reuse": {}, "questions": {}, "hazard": {}}
        for name, found in state.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = found
        self._reuse.restore(parts["reuse"])
        self._questions.restore(parts["questions"])
        self._hazard.restore(parts["hazard"])

    @property
    def drift(self) -> DriftEstimate:
        """As of the last decision."""
        return self._questions.estimate

    @property
    def compared(self) -> float:
        """How many comparisons are known, faded."""
        return self._questions.compared

    @property
    def jumps(self) -> Sequence[tuple[float, float]]:
        """The latest changes of drift: when they were noticed, and the factor."""
        return self._hazard.alarms

    def curve(self, now: float) -> Curve | None:
        return self._reuse.curve(now)

    def population(self, now: float) -> Population | None:
        """Its questions, with how fast answers change now; None while too little was compared."""
        hazard = self._hazard
        return self._questions.population(
            now,
            hazard=hazard.multiplier(now),
            storm=hazard.in_storm(now),
            calmed=hazard.moment(now),
            watched=hazard.watched(now),
        )

    def decide(self, limits: PolicyLimits, current: float, now: float) -> Decision:
        curve, population = self.curve(now), self.population(now)
        drift = self._questions.drift(population, current or limits.initial)
        decision = decide(curve, drift, limits, current)
        if curve is None or population is None:
            return decision
        return by_question(decision, curve, population, limits)

    def kept(self, decision: Decision, ttl: float, now: float) -> Decision:
        """The decision where `ttl` stays in force."""
        return kept(decision, self.curve(now), self.drift, ttl)


def sane_lookups(columns: Floats, now: float) -> NDArray[np.bool_]:
    """Which can be true. Comparisons with NaN are false."""
    key, at, _, size, dollars, threshold, *_ = columns
    sane: NDArray[np.bool_] = (now - LONGEST_AGO < at) & (at < now + SKEW)
    sane &= (size >= 0) & (size < 2**40) & (dollars >= 0) & (dollars < 1e6)
    sane &= (threshold > 1e-9) & (threshold <= 1) & (key >= 0) & (key < 2**48)
    return sane


def is_sane_verdict(verdict: Verdict, now: float) -> bool:
    """Whether it can be true: an answer is not fetched again before it was fetched, and not in the future."""
    return 0 < verdict.fetched < verdict.again and (
        0 <= verdict.key < 2**48
        and now - LONGEST_AGO < verdict.again < now + SKEW
        and verdict.again - verdict.fetched < LONGEST_AGE
        and 0 <= verdict.hits < 1e12
    )


def decide(curve: Curve | None, drift: DriftEstimate, limits: PolicyLimits, current: float) -> Decision:
    """Pure; `current` is the TTL in force, in seconds; 0 where answers are not cached."""
    inside = min(max(current, limits.shortest), max(limits.longest, limits.shortest))
    lacking = _lacking(curve, drift)
    forecast = None if curve is None else Forecast(curve, drift, limits)
    if forecast is None or lacking is not None:
        predicted = {} if forecast is None or not current else _predicted(forecast, current, inside)
        return Decision(
            ttl=inside if current else 0.0,
            recommended=inside,
            bound_by="Data",
            sufficient=False,
            within_budget=True,
            reason=lacking or "no look-ups yet",
            **predicted,
        )
    if forecast.stale(limits.shortest, drift.rate) > limits.budget:
        return _infeasible(forecast, inside)
    best, bound_by = _best(forecast, inside)
    moved, why = _step(forecast, inside, best)
    if forecast.stale(limits.shortest) > limits.budget:
        likely, most = forecast.stale(limits.shortest, drift.rate), forecast.stale(limits.shortest)
        why = f"at ttl.min {likely:.1%} of hits would be stale, at most {most:.1%}"
    return _decision(forecast, moved, best, bound_by, why)


def by_question(decision: Decision, curve: Curve, population: Population, limits: PolicyLimits) -> Decision:
    """The decision with a TTL for each question, where the data suffice and answers are to be cached; pure."""
    if not decision.sufficient or (not decision.within_budget and limits.on_infeasible == "Bypass"):
        return decision
    forecast = QuestionForecast(curve, population, limits)
    cost, cause = forecast.best_cost()
    if not decision.within_budget:  # the class's TTL comes down in steps, while in a storm each minute counts
        return replace(decision, question=population.policy(cost, forecast.bounds))
    return replace(
        decision,
        recommended=decision.ttl,
        bound_by=BOUND_BY[cause],
        reason=f"each question has its own, {_said(forecast.typical_ttls(cost))}"
        + ", none longer than its own share of stale hits may be" * (cause == "question"),
        question=population.policy(cost, forecast.bounds),
        **asdict(forecast.outcome(cost)),
    )


def kept(decision: Decision, curve: Curve | None, drift: DriftEstimate, ttl: float) -> Decision:
    """The decision where it is not put in force: all shares are of `ttl`, which stays in force; the saving is still
    that of what is recommended."""
    if curve is None:
        return replace(decision, ttl=ttl, question=None)
    # Nothing but the saving goes by limits.
    limits = PolicyLimits(shortest=1.0, longest=1.0, budget=1.0, initial=1.0)
    predicted = _predicted(Forecast(curve, drift, limits), ttl, decision.recommended)
    return replace(decision, ttl=ttl, question=None, **{**predicted, "saving": decision.saving})


def _lacking(curve: Curve | None, drift: DriftEstimate) -> str | None:
    if curve is None or curve.seen < ENOUGH_LOOKUPS:
        seen = 0 if curve is None else int(curve.seen)
        return f"{seen} look-ups seen, {ENOUGH_LOOKUPS} are needed"
    if drift.observations < ENOUGH_COMPARISONS:
        return f"{drift.observations:.0f} answers compared, {ENOUGH_COMPARISONS} are needed"
    if drift.only_noise:
        return (
            f"{drift.noise:.0%} of new answers differ whatever their age: a change cannot be told from chance"
        )
    return None


def _said(ttls: tuple[float, float, float]) -> str:
    low, middle, high = map(written, ttls)
    return f"of a tenth of hits up to {low}, of half {middle}, of nine tenths {high}"


class QuestionForecast:
    """What TTLs of each question's own are predicted to do, by the class's `c`."""

    def __init__(self, curve: Curve, population: Population, limits: PolicyLimits) -> None:
        self.population, self.limits = population, limits
        self.bounds = Bounds(
            shortest=limits.shortest,
            longest=max(min(limits.longest, population.watched / WATCHED), limits.shortest),
            budget=limits.budget,
            aim=AIM * limits.budget,
            stale=AIM
            * min(PER_QUESTION * limits.budget if limits.question is None else limits.question, 1.0),
        )
        self.looked_up = curve.looked_up
        """Per second."""
        self._dollars = float(curve.dollars_uncached[0]) / self.looked_up
        self._size = curve.size
        self._hit_ratio = float(curve.measured[0])
        # Look-ups and misses per second of questions that were not compared of late, such as are asked once.
        self._others = max(self.looked_up - float(population.requests.sum()), 0.0)
        self._unknown = self._others * (1 - self._hit_ratio)

    def best_cost(self) -> tuple[float, Cause]:
        """`c`, and what keeps it from being larger."""
        cost, cause = self.population.best_cost(self.bounds)
        if cause == "longest" and self.bounds.longest < self.limits.longest:
            cause = "watched"
        if self.limits.memory is not None and self._size > 0:
            most = self.limits.memory / self._size
            within = self.population.cost_within(most, self.bounds, self._unknown)
            if within < cost:
                return within, "memory"
        return cost, cause

    def hits(self, cost: float) -> float:
        """Per second, of the questions that were compared of late."""
        return float(self.population.hits(self.population.ttls(cost, self.bounds)).sum())

    def outcome(self, cost: float) -> Outcome:
        population, limits = self.population, self.limits
        ttls = population.ttls(cost, self.bounds)
        hits, stale = population.forecast(ttls)
        held = population.kept(cost, self.bounds, self._unknown) * self._size
        # Each question's TTL moves slowly: what was measured goes on, for those that were not compared of late too.
        hits += self._hit_ratio * self._others
        avoided = hits - limits.canary * (self.looked_up - hits)
        return Outcome(
            hit_ratio=self._hit_ratio,
            stale=stale,
            stale_upper=min(stale * population.margin, 1.0),
            saving=3600 * avoided * self._dollars - limits.memory_price * held / _GIB,
            bytes=held,
        )

    def typical_ttls(self, cost: float) -> tuple[float, float, float]:
        """Up to which TTL a tenth, a half and nine tenths of hits have theirs."""
        ttls = self.population.ttls(cost, self.bounds)
        hits = self.population.hits(ttls)
        order = np.argsort(ttls)
        low, middle, high = np.interp(
            (0.1, 0.5, 0.9), np.cumsum(hits[order]) / hits.sum(), ttls[order]
        ).tolist()
        return low, middle, high


class Forecast:
    """What a TTL is predicted to do, by what was measured."""

    def __init__(self, curve: Curve, drift: DriftEstimate, limits: PolicyLimits) -> None:
        self.curve, self.drift, self.limits = curve, drift, limits
        self._relative_age = curve.mean_age / curve.ttls

    def ages(self, ttls: Floats) -> Floats:
        """Mean age of a hit."""
        return self.curve.at(self._relative_age, ttls) * ttls

    def stales(self, ttls: Floats, rate: float | None = None) -> Floats:
        """Of hits, by that rate or at most. Where no rate is known all of them may be, whatever their age."""
        rate = self.drift.upper if rate is None else rate
        return -np.expm1(-rate * self.ages(ttls)) if math.isfinite(rate) else np.ones(len(ttls))

    def savings(self, ttls: Floats) -> Floats:
        """Dollars per hour."""
        curve = self.curve
        spent = curve.at(curve.dollars, ttls) * (1 + self.limits.canary)
        avoided = (curve.at(curve.dollars_uncached, ttls) - spent) * 3600
        return avoided - self.limits.memory_price * self.bytes(ttls) / _GIB

    def bytes(self, ttls: Floats) -> Floats:
        return self.curve.at(self.curve.bytes, ttls)

    def stale(self, ttl: float, rate: float | None = None) -> float:
        return float(self.stales(np.array([ttl]), rate)[0])

    def saving(self, ttl: float) -> float:
        return float(self.savings(np.array([ttl]))[0])

    def one(self, column: Floats, ttl: float) -> float:
        return float(self.curve.at(column, np.array([ttl]))[0])

    def allowed(self, ttls: Floats, current: float) -> dict[BoundBy, NDArray[np.bool_]]:
        """Step 3: which of them are within each limit. `current` is the TTL in force."""
        limits = self.limits
        # What is in force already is not taken back for want of watching: the operator may have begun anew.
        watched = max(self.curve.window / WATCHED, current, limits.shortest)
        return {
            "Staleness": self.stales(ttls) <= AIM * limits.budget,
            "Memory": self.bytes(ttls) <= (math.inf if limits.memory is None else limits.memory),
            "Data": ttls <= watched * (1 + 1e-9),
        }


def _best(forecast: Forecast, current: float) -> tuple[float, BoundBy]:
    """Steps 1 to 5."""
    limits = forecast.limits
    tried = _tried(limits.shortest, max(limits.longest, limits.shortest))
    ends = {name: _last(fine) for name, fine in forecast.allowed(tried, current).items()}
    end = min(ends.values())
    if end < 0:
        return float(tried[0]), "Bounds"  # not even the shortest: nothing shorter may be chosen
    saving = forecast.savings(tried[: end + 1])
    enough = saving.max() - CLOSE * abs(saving.max())
    best = int(np.argmax(saving >= enough))
    if tried[best] < tried[end] / LONGER:
        return float(tried[best]), "Cost"
    if end == len(tried) - 1:
        return float(tried[end]), "Bounds"
    return float(tried[end]), min(ends, key=lambda name: ends[name])


def _tried(shortest: float, longest: float) -> Floats:
    if longest <= shortest:
        return np.array([shortest])
    steps = max(1, math.ceil(math.log(longest / shortest) / math.log(STEP) * _BETWEEN))
    return np.geomspace(shortest, longest, steps + 1)


def _last(fine: NDArray[np.bool_]) -> int:
    """The last of the leading candidates that are fine; -1: not even the first."""
    return int(len(fine) if fine.all() else np.argmin(fine)) - 1


def _step(forecast: Forecast, current: float, best: float) -> tuple[float, str]:
    """Step 6."""
    limits = forecast.limits
    if (
        best < current
        and forecast.stale(current) <= PAIN * limits.budget
        and _within_memory(forecast, current)
    ):
        return current, "what a shorter TTL would gain is not worth a move"
    gain = forecast.saving(best) - forecast.saving(current)
    if best > current and gain <= GAIN * abs(forecast.saving(current)) and best < current * LONGER:
        return current, "what a longer TTL would gain is not worth a move"
    moved = min(max(best, current / limits.max_factor), current * limits.max_factor)
    return moved, "on its way" if moved != best else "there"


def _within_memory(forecast: Forecast, ttl: float) -> bool:
    memory = forecast.limits.memory
    return memory is None or forecast.one(forecast.curve.bytes, ttl) <= memory


def _infeasible(forecast: Forecast, current: float) -> Decision:
    """Step 7."""
    limits = forecast.limits
    bypass = limits.on_infeasible == "Bypass"
    target = 0.0 if bypass else limits.shortest
    moved = max(limits.shortest, current / limits.max_factor)
    ttl = 0.0 if bypass and moved <= limits.shortest else moved
    share = forecast.stale(limits.shortest, forecast.drift.rate)
    reason = f"at ttl.min {share:.1%} of hits would be stale"
    return _decision(forecast, ttl, target, "Bounds", reason, within_budget=False)


def _decision(
    forecast: Forecast,
    ttl: float,
    recommended: float,
    bound_by: BoundBy,
    reason: str,
    *,
    within_budget: bool = True,
) -> Decision:
    return Decision(
        ttl=ttl,
        recommended=recommended,
        bound_by=bound_by,
        sufficient=True,
        within_budget=within_budget,
        reason=reason,
        **_predicted(forecast, ttl, recommended),
    )


def _predicted(forecast: Forecast, ttl: float, recommended: float) -> dict[str, Any]:
    """What a TTL is predicted to do. Nothing is hit, and nothing stale, where nothing is cached."""
    curve, drift = forecast.curve, forecast.drift
    if not ttl:
        return {"hit_ratio": 0.0, "stale": 0.0, "stale_upper": 0.0, "saving": 0.0, "bytes": 0.0}
    return {
        "hit_ratio": forecast.one(curve.hit_ratio, ttl),
        "measured_hit_ratio": forecast.one(curve.measured, ttl),
        "stale": forecast.stale(ttl, drift.rate) if drift.observations else math.nan,
        "stale_upper": forecast.stale(ttl),
        "saving": forecast.saving(recommended) if recommended else 0.0,
        "bytes": forecast.one(curve.bytes, ttl),
    }
