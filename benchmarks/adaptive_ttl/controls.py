"""Who sets the TTL: the operator's planner, and others for comparison."""

from __future__ import annotations

import numpy as np

from benchmarks.adaptive_ttl.cache import MEMORY_PRICE, Fixed, Seen, Uniform
from benchmarks.adaptive_ttl.world import DAY, HOUR, MINUTE, Drawn
from dub5_operator.planner.decision import AIM, PER_QUESTION, Decision, Learning, PolicyLimits, Shape
from dub5_operator.planner.questions import Bounds, Population

BUDGET = 0.01
SHORTEST, LONGEST, INITIAL = 5.0, DAY, 60.0


class Planned(Uniform):
    """One reconcile a minute, with the code that runs in the operator."""

    samples = True

    def __init__(self, *, shortest: float = SHORTEST, bypass: bool = False) -> None:
        self.ttl = INITIAL
        self.limits = PolicyLimits(
            shortest=shortest,
            longest=LONGEST,
            budget=BUDGET,
            initial=INITIAL,
            memory_price=MEMORY_PRICE,
            on_infeasible="Bypass" if bypass else "Min",
        )
        self.learning = Learning(Shape(shortest, LONGEST, 0.0))
        self.decisions: list[Decision] = []

    def each_minute(self, seen: Seen) -> None:
        self.learning.fold(
            seen.accesses, seen.verdicts, looked_up=seen.looked_up, ttl_in_force=self.ttl, now=seen.at
        )
        decision = self.learning.decide(self.limits, self.ttl, seen.at)
        self.decisions.append(decision)
        self.ttl, self.question = decision.ttl, decision.question


class DynamicTTL(Uniform):
    """d-TTL (Basu et al., SIGMETRICS 2017): the TTL moves by the difference of a target hit ratio and each look-up.

    Summed up by minute. It is meant for a hit ratio, and knows nothing of answers that change. As everywhere here,
    a hit does not lengthen an answer's life.
    """

    samples = True

    def __init__(self, *, target: float, step: float) -> None:
        self.ttl = INITIAL
        self._target, self._step = target, step

    def each_minute(self, seen: Seen) -> None:
        weight = sum(1 / access.threshold for access in seen.accesses)
        hits = sum(1 / access.threshold for access in seen.accesses if access.hit)
        if weight:
            moved = self.ttl + self._step * seen.looked_up * (self._target - hits / weight)
            self.ttl = min(max(moved, SHORTEST), LONGEST)


def optimum(drawn: Drawn) -> Fixed:
    """A TTL for each question, by one who knows how often it is asked and how often its answer changes."""
    requests = np.maximum(drawn.shares * drawn.world.per_second, 1e-12)
    rates = np.maximum(drawn.rates, 1e-12)
    known = Population.known(requests, rates)
    bounds = Bounds(SHORTEST, LONGEST, BUDGET, AIM * BUDGET, PER_QUESTION * BUDGET)
    cost, _ = known.best_cost(bounds)
    return Fixed(INITIAL, np.append(known.ttls(cost, bounds), INITIAL))


class LikelyRate(Uniform):
    """One rate for all, the most likely one by the comparisons of about a day, each by its hits; of Poisson changes and
    without noise. A hit is half a TTL old on average."""

    samples = True

    def __init__(self) -> None:
        self.ttl = INITIAL
        self._changes = self._exposure = 0.0

    def each_minute(self, seen: Seen) -> None:
        kept = 0.5 ** (MINUTE / DAY)
        self._changes, self._exposure = kept * self._changes, kept * self._exposure
        for verdict in seen.verdicts:
            age = verdict.again - verdict.fetched
            self._changes += verdict.hits * verdict.changed
            self._exposure += verdict.hits * (age / 2 if verdict.changed else age)
        if self._changes:
            ttl = 2 * AIM * BUDGET * self._exposure / self._changes
            self.ttl = min(max(ttl, SHORTEST), LONGEST)


class Additive(Uniform):
    """Additive increase, multiplicative decrease (Chiu and Jain, 1989), by the stale share that an hour's comparisons
    show: of an answer that was found changed, half of its hits."""

    samples = True

    def __init__(self) -> None:
        self.ttl = INITIAL
        self._stale = self._hits = 0.0

    def each_minute(self, seen: Seen) -> None:
        kept = 0.5 ** (MINUTE / HOUR)
        self._stale = kept * self._stale + sum(each.hits / 2 for each in seen.verdicts if each.changed)
        self._hits = kept * self._hits + sum(each.hits for each in seen.verdicts)
        if self._stale > AIM * BUDGET * self._hits:
            self.ttl = max(self.ttl / 2, SHORTEST)
            self._stale = 0.0
        else:
            self.ttl = min(self.ttl + 1.0, LONGEST)
