"""What the rounds of two servers say: a ratio, how sure it is, and whether it passes. Pure.

Other programs on the machine disturb some rounds and not others, so a mean would follow the worst of them. The ratio
is the pseudo-median of the rounds (Hodges and Lehmann: the median of the means of all pairs), its interval the one
that Wilcoxon's signed-rank test does not reject, exact for any number of rounds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

FEWEST = 6
"""Rounds below which no interval of 95 % exists."""


class Ratio(msgspec.Struct, frozen=True):
    """Between `low` and `high` with 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio(costs: Sequence[float], of: Sequence[float]) -> Ratio:
    """How many times as much as `of`, round by round. ValueError for fewer than FEWEST rounds."""
    if len(costs) < FEWEST:
        raise ValueError(f"an interval takes at least {FEWEST} rounds")
    logs = [math.log(cost / other) for cost, other in zip(costs, of, strict=True)]
    means = sorted((one + other) / 2 for index, one in enumerate(logs) for other in logs[index:])
    outside = _least_rank_sum(len(logs))
    return Ratio(
        *(math.exp(each) for each in (statistics.median(means), means[outside], means[-1 - outside]))
    )


def _least_rank_sum(count: int) -> int:
    """How many of the ordered means lie outside at each end: the signed-rank statistic's quantile for 2.5 %."""
    ways = [1]
    for rank in range(1, count + 1):
        with_it = [0] * rank + ways
        ways = [with_it[at] + (ways[at] if at < len(ways) else 0) for at in range(len(with_it))]
    seen, outside = 0, 0
    while (seen + ways[outside]) / 2**count <= 0.025:
        seen += ways[outside]
        outside += 1
    return outside - 1
