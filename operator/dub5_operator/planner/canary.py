"""What share of hits is stale, as measured: from hits drawn at random that were asked again.

Each was answered anew twice, one after the other. With `P` the share of hits of which the first new answer differs and
the second does not differ from the first, `N` the share of which it is the other way round, and `E` the share of which
the two new ones differ, which is noise, the stale share is

    S = (P - N) / (1 - E).

Noise alone makes `P` and `N` alike, whatever the questions. Of one that is always worded anew nothing can be told.

1. All are means over hits, by the weights that canaries carry. The second answer is asked for wherever the first
   differs, and for a known share of the others, which count for the rest of them (two-phase sampling: Neyman,
   "Contribution to the theory of sampling human populations", 1938).
2. `P` and `N` have Wilson's interval with as many observations as their weights amount to (Kish, "Survey Sampling",
   1965), and their difference the interval that follows from the two (Newcombe, "Interval estimation for the difference
   between independent proportions", Statistics in Medicine 1998, method 10).
3. What was seen a day ago counts half.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dub5.contract import CANARIES_CHECKED, Canary
from dub5_operator.planner.state import ROUNDED, State, check

HALF_LIFE = 86400.0
"""Seconds."""
LEAST = 20.0
"""Canaries below which nothing is said."""
_Z = 1.96


class Measured(NamedTuple):
    """The stale share of hits, and its interval of 95 %; `asked` is by how many canaries it is known, by weight."""

    share: float
    lower: float
    upper: float
    asked: float


class StaleShare:
    """Of one class. `calls` counts what its canaries took of providers, ever."""

    def __init__(self) -> None:
        # Of all: weights, their squares, weight of P. Of those asked for twice: the same of N, and of E.
        self._sums: NDArray[np.float64] = np.zeros(7)
        self._at = 0.0
        self.calls = 0

    def fold(self, canaries: Iterable[Canary], now: float) -> None:
        """Add these; `now` is in seconds since the epoch."""
        self._sums *= 0.5 ** (max(0.0, now - self._at) / HALF_LIFE)
        self._at = max(self._at, now)
        for canary in canaries:
            weight, changed, reworded = canary.weight, canary.changed, canary.reworded
            self.calls += canary.calls
            self._sums[:3] += (weight, weight * weight, weight * (changed and not reworded))
            if reworded is not None:
                weight /= 1.0 if changed else CANARIES_CHECKED
                noise = weight * reworded
                self._sums[3:] += (weight, weight * weight, noise * (not changed), noise)

    def measured(self) -> Measured | None:
        """None while too little is known."""
        weight, squares, stale, checked, checked_squares, mistaken, reworded = self._sums.tolist()
        asked = weight * weight / squares if squares else 0.0
        if asked < LEAST or not checked:
            return None
        stale, mistaken, noise = stale / weight, mistaken / checked, reworded / checked
        low, high = wilson(stale, asked)
        least, most = wilson(mistaken, checked * checked / checked_squares)
        share = stale - mistaken
        lower = share - math.hypot(stale - low, most - mistaken)
        upper = share + math.hypot(high - stale, mistaken - least)
        told = max(1 - noise, 1e-9)
        share, lower, upper = (min(max(each / told, 0.0), 1.0) for each in (share, lower, upper))
        return Measured(share, lower, upper, asked)

    def state(self) -> dict[str, NDArray[Any]]:
        """What `restore` takes."""
        return {"canaries": np.append(self._sums, (self._at, self.calls))}

    def restore(self, state: State) -> None:
        """KeyError or ValueError where it is nothing of ours, and nothing is changed."""
        check(state, "canaries", np.float64, (9,))
        held = state["canaries"]
        weight, _, stale, checked, checked_squares, mistaken, reworded = held[:7].tolist()
        most, most_checked = weight * (1 + ROUNDED), checked * (1 + ROUNDED)
        if stale > most or max(mistaken, reworded) > most_checked or (checked > 0) != (checked_squares > 0):
            raise ValueError("canaries have shares that cannot be")
        self._sums, self._at, self.calls = held[:7].copy(), float(held[7]), int(held[8])


def wilson(share: float, count: float) -> tuple[float, float]:
    """The interval of a proportion of so many (Wilson 1927)."""
    square = _Z * _Z / count
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)
