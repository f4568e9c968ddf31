"""What a decision is one of: the other TTLs, and what each would do. Nothing is decided here.

`explain` decides as the operator does, by the same code from the same data, and shows what was chosen among: TTLs for
all questions, numbers `c` by which each question gets its own, and what the TTL would be with other limits. Where a
policy is in force these are the figures of its status, as far as nothing came since.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dub5 import question_ttl
from dub5.contract import QuestionPolicy, QuestionRecord
from dub5_operator.planner.decision import (
    AIM,
    WATCHED,
    Decision,
    Forecast,
    Learning,
    Outcome,
    PolicyLimits,
    QuestionForecast,
    by_question,
    decide,
)
from dub5_operator.planner.questions import (
    BOUND_BY,
    MOST_COST,
    BoundBy,
    Cause,
    DriftEstimate,
    Population,
)
from dub5_operator.planner.reuse import Curve, candidates

_COSTS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""Numbers `c` that are shown, as multiples of the one that was chosen."""
_SAME = 0.01
"""By which part of itself a TTL has to differ to be another one."""
_PARTS = (0.1, 0.5, 0.9)
_KNOWN = 100.0
"""Requests and changes of a question that is well known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One TTL for all questions, in seconds. `over`: the limits that it does not keep, none where it may be taken."""

    ttl: float
    outcome: Outcome
    over: tuple[BoundBy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionCandidate:
    """A TTL for each question by one number `c`. `ttls`: up to which a tenth, half and nine tenths of hits have theirs,
    in seconds."""

    cost: float
    ttls: tuple[float, float, float]
    outcome: Outcome
    over: tuple[BoundBy, ...]
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """The TTL of a question that is asked and changes so often, per second. `changes` None: it was not compared yet."""

    requests: float
    changes: float | None
    ttl: float
    by: question_ttl.By


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """What would be recommended with one limit of the policy twice as large, as far as the class allows. `ttl` is that
    of half of all hits where each question has its own."""

    limit: str
    value: float
    bound_by: BoundBy
    ttl: float
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Of one class, whose TTL in force is `current`. `look_ups` were seen in `window` seconds. `watched` is the longest
    TTL that is given after so much watching, in seconds; where each question has its own, the longest of these. `aim`
    is the share of stale hits that is aimed at, `margin` by how much changes may be more frequent than they seem;
    `hazard` how fast answers change now, as a multiple of their average. `cause` is what keeps `c` from being larger,
    where each question has a TTL of its own.
    """

    current: float
    decision: Decision
    drift: DriftEstimate
    look_ups: int
    window: float
    watched: float
    aim: float
    hazard: float | None
    margin: float | None
    cause: Cause | None
    candidates: list[Candidate]
    by_question: list[QuestionCandidate]
    examples: list[Example]
    alternatives: list[Alternative]


def explain(learning: Learning, limits: PolicyLimits, current: float, now: float) -> Explanation | None:
    """`current` is the TTL in force, in seconds, `now` in seconds since the epoch. None before there are look-ups."""
    decision, curve = learning.decide(limits, current, now), learning.curve(now)
    if curve is None:
        return None
    return explained(decision, curve, learning.drift, learning.population(now), limits, current)


def explained(
    decision: Decision,
    curve: Curve,
    drift: DriftEstimate,
    population: Population | None,
    limits: PolicyLimits,
    current: float,
) -> Explanation:
    """Pure; what the decision was made of."""
    questions: list[QuestionCandidate] = []
    examples: list[Example] = []
    cause: Cause | None = None
    watched = curve.window
    # Where the budget cannot be kept there is nothing to choose among: all have the shortest.
    if population is not None and decision.question is not None and decision.within_budget:
        forecast = QuestionForecast(curve, population, limits)
        _, cause = forecast.best_cost()
        questions = _by_question(forecast, decision.question.cost, cause)
        examples = _examples(population, decision.question)
        watched = population.watched
    return Explanation(
        current=current,
        decision=decision,
        drift=drift,
        look_ups=int(curve.seen),
        window=curve.window,
        watched=watched / WATCHED,
        aim=AIM * limits.budget,
        hazard=None if population is None else population.hazard,
        margin=None if population is None else population.margin,
        cause=cause,
        candidates=_candidates(Forecast(curve, drift, limits), decision, current),
        by_question=questions,
        examples=examples,
        alternatives=_alternatives(curve, drift, population, decision, limits, current),
    )


def _candidates(forecast: Forecast, decision: Decision, current: float) -> list[Candidate]:
    """On the planner's grid, and those in force and recommended."""
    limits = forecast.limits
    longest = max(limits.longest, limits.shortest)
    grid = np.minimum(candidates(limits.shortest, longest), longest)
    told = [ttl for ttl in (current, decision.recommended) if ttl > 0]
    others = [ttl for ttl in grid if all(abs(math.log(ttl / each)) > _SAME for each in told)]
    ttls = np.unique(np.array([*others, *told]))
    allowed = forecast.allowed(ttls, min(max(current, limits.shortest), longest))
    return [
        Candidate(
            ttl=float(ttl),
            outcome=outcome,
            over=tuple(name for name, fine in allowed.items() if not fine[place]),
        )
        for place, (ttl, outcome) in enumerate(zip(ttls, _outcomes(forecast, ttls), strict=True))
    ]


def _outcomes(forecast: Forecast, ttls: NDArray[np.float64]) -> list[Outcome]:
    columns = (
        forecast.curve.at(forecast.curve.hit_ratio, ttls),
        forecast.stales(ttls, forecast.drift.rate),
        forecast.stales(ttls),
        forecast.savings(ttls),
        forecast.bytes(ttls),
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        Outcome(hit_ratio=hit_ratio, stale=stale, stale_upper=upper, saving=saving, bytes=size)
        for hit_ratio, stale, upper, saving, size in rows
    ]


def _by_question(forecast: QuestionForecast, chosen: float, cause: Cause) -> list[QuestionCandidate]:
    """Above MOST_COST it is the `cause` that keeps all TTLs what they are."""
    memory, most = forecast.limits.memory, forecast.population.most_hits
    found = []
    for multiple in _COSTS:
        cost = multiple * chosen
        outcome = _outcome(forecast, cost, chosen)
        over: dict[BoundBy, bool] = {
            "Staleness": outcome.stale > forecast.bounds.aim * (1 + 1e-3),
            "Data": outcome.stale_upper > forecast.bounds.budget * (1 + 1e-3)
            or forecast.hits(cost) > most * (1 + 1e-3),
            "Memory": memory is not None and outcome.bytes > memory * (1 + 1e-3),
            "Bounds": False,
        }
        over[BOUND_BY[cause]] |= cost > MOST_COST
        found.append(
            QuestionCandidate(
                cost=cost,
                ttls=forecast.typical_ttls(cost),
                outcome=outcome,
                over=tuple(name for name, is_over in over.items() if is_over),
                chosen=multiple == 1,
            )
        )
    return found


def _outcome(forecast: QuestionForecast, cost: float, chosen: float) -> Outcome:
    """The hit ratio is the measured one for what is chosen; that of another `c` is as far from it as is predicted."""
    outcome = forecast.outcome(cost)
    more = (forecast.hits(cost) - forecast.hits(chosen)) / forecast.looked_up
    return replace(outcome, hit_ratio=min(max(outcome.hit_ratio + more, 0.0), 1.0))


def _examples(population: Population, policy: QuestionPolicy) -> list[Example]:
    """Questions that are seldom, usually and often asked, and whose answers change slowly, usually and fast: a tenth, a
    half and nine tenths of the class's are below; each once, where these are the same."""
    requests = dict.fromkeys(np.quantile(population.requests, _PARTS).tolist())
    changes = dict.fromkeys(np.quantile(population.rate / population.hazard, _PARTS).tolist())
    found = []
    for often in requests:
        for fast in (*changes, None):
            ttl = question_ttl.ttl_of(_record(often, fast, policy), policy, hits=0, age=0, now=0)
            found.append(Example(requests=often, changes=fast, ttl=ttl.seconds, by=ttl.by))
    return found


def _record(requests: float, changes: float | None, policy: QuestionPolicy) -> QuestionRecord:
    """What is known of a question of these rates, so that prior and record together have them for their means."""
    asked, watched = _asked(requests, *policy.requests)
    seen, exposure = (0.0, 0.0) if changes is None else _gamma(changes, *policy.change)
    return QuestionRecord(seen, exposure, 0.0, 0.0, asked, watched, 0.0)


def _asked(rate: float, shape: float, seconds: float) -> tuple[float, float]:
    """As `question_ttl.request_rate` has it."""
    count = max(_KNOWN, (rate * seconds * shape**2) ** (1 / 3))
    return count, (shape + count) / rate - seconds * (shape / (shape + count)) ** 2


def _gamma(rate: float, shape: float, seconds: float) -> tuple[float, float]:
    count = max(_KNOWN, rate * seconds)
    return count, (shape + count) / rate - seconds


def _alternatives(
    curve: Curve,
    drift: DriftEstimate,
    population: Population | None,
    decision: Decision,
    limits: PolicyLimits,
    current: float,
) -> list[Alternative]:
    """Those that come to another TTL."""
    if not decision.sufficient:
        return []
    question = None if limits.question is None else min(2 * limits.question, 1.0)
    budget = min(2 * limits.budget, 1.0)
    others = [("staleness.budget", budget, replace(limits, budget=budget, question=question))]
    longest = min(2 * limits.longest, float(curve.ttls[-1]))  # which is what the class allows
    if longest > limits.longest * (1 + _SAME):
        others.append(("ttl.max", longest, replace(limits, longest=longest)))
    if limits.memory is not None:
        others.append(("memory.max", 2 * limits.memory, replace(limits, memory=2 * limits.memory)))
    before, _ = _recommended(curve, population, decision, limits, decision)
    found = []
    for limit, value, changed in others:
        other = decide(curve, drift, changed, current)
        if population is not None:
            other = by_question(other, curve, population, changed)
        if not other.recommended:
            continue
        ttl, outcome = _recommended(curve, population, other, changed, decision)
        if outcome is None:
            [outcome] = _outcomes(Forecast(curve, drift, changed), np.array([other.recommended]))
        if not before or abs(math.log(ttl / before)) > _SAME:
            found.append(
                Alternative(limit=limit, value=value, bound_by=other.bound_by, ttl=ttl, outcome=outcome)
            )
    return found


def _recommended(
    curve: Curve, population: Population | None, decision: Decision, limits: PolicyLimits, chosen: Decision
) -> tuple[float, Outcome | None]:
    """The TTL, of half of hits where each question has its own, and then what it does beside what is chosen."""
    if decision.question is None or population is None:
        return decision.recommended, None
    forecast, cost = QuestionForecast(curve, population, limits), decision.question.cost
    beside = cost if chosen.question is None else chosen.question.cost
    return forecast.typical_ttls(cost)[1], _outcome(forecast, cost, beside)
