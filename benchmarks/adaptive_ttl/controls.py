"""Who sets the TTL: the operator's planner, and others for comparison."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adaptive_ttl.cache import MEMORY_PRICE, Cache, Fixed, Outcome, Seen, Uniform
from benchmarks.adaptive_ttl.world import DAY, HOUR, MINUTE, Drawn
from dub5_operator.planner import decision as planner
from dub5_operator.planner.decision import AIM, PER_QUESTION, Decision
from dub5_operator.planner.questions import Bounds, Population

BUDGET = 0.01
SHORTEST, LONGEST, INITIAL = 5.0, DAY, 60.0


def planner_in(folder: Path) -> Any:
    """`planner.decision` of the operator's package in a folder, of another release, say; what is imported stays."""

    def taken() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("dub5_operator")}

    mine = taken()
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("dub5_operator.planner.decision")
    finally:
        sys.path.remove(str(folder))
        taken()
        sys.modules.update(mine)


class Planned(Uniform):
    """One reconcile a minute, with the code that runs in the operator. `alarms`: as `Hazard.alarms`, but all."""

    samples = True

    def __init__(self, *, shortest: float = SHORTEST, bypass: bool = False, planner: Any = planner) -> None:
        self.ttl = INITIAL
        self.limits = planner.PolicyLimits(
            shortest=shortest,
            longest=LONGEST,
            budget=BUDGET,
            initial=INITIAL,
            memory_price=MEMORY_PRICE,
            on_infeasible="Bypass" if bypass else "Min",
        )
        self.learning = planner.Learning(planner.Shape(shortest, LONGEST, 0.0))
        self.decisions: list[Decision] = []
        self.alarms: list[tuple[float, float]] = []

    def each_minute(self, seen: Seen) -> None:
        self.learning.fold(
            seen.accesses, seen.verdicts, looked_up=seen.looked_up, ttl_in_force=self.ttl, now=seen.at
        )
        decision = self.learning.decide(self.limits, self.ttl, seen.at)
        self.decisions.append(decision)
        self.alarms += [alarm for alarm in self.learning.jumps if alarm not in self.alarms[-10:]]
        self.ttl, self.question = decision.ttl, getattr(decision, "question", None)


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


def best_fixed(drawn: Drawn) -> Outcome:
    """Of the longest TTL for all that keeps the budget, in hindsight; to a twentieth."""
    ttls = np.geomspace(SHORTEST, LONGEST, 200)
    low, high = 0, len(ttls)
    best = Cache(drawn, Fixed(SHORTEST)).run()
    while high - low > 1:
        middle = (low + high) // 2
        found = Cache(drawn, Fixed(float(ttls[middle]))).run()
        if found.stale_share <= BUDGET:
            low, best = middle, found
        else:
            high = middle
    return best


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
