"""Who sets the TTL: the operator's planner, and d-TTL for comparison."""

from __future__ import annotations

from benchmarks.adaptive_ttl.cache import MEMORY_PRICE, Seen
from benchmarks.adaptive_ttl.world import DAY
from dub5_operator.planner.decision import Decision, Learning, PolicyLimits, Shape

BUDGET = 0.01
SHORTEST, LONGEST, INITIAL = 5.0, DAY, 60.0


class Planned:
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
        self.ttl = decision.ttl


class DynamicTTL:
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
