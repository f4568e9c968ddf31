"""One class: what was learnt of it so far, and what follows.

All of it is a fold: the same samples in the same order, with the same times, give the same decision. That is what
lets the operator begin anew from the stream in Redis, and the simulator drive the code that runs in production.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dub5.contract import Access, Verdict
from dub5_operator.planner.decision import Decision, Limits, decide, kept
from dub5_operator.planner.drift import Drift, DriftEstimate
from dub5_operator.planner.reuse import Curve, Reuse

SKEW = 60.0
"""Seconds by which a replica's clock may be ahead of ours."""
LONGEST_AGO = 2 * 86400.0
"""Seconds since a sample was taken, at most: none is kept for so long, not by a release before this one either."""
LONGEST_AGE = 400 * 86400.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What the replay depends on: bounds of the TTL in seconds, and stale-while-revalidate as a part of it."""

    shortest: float
    longest: float
    swr_share: float


class Learning:
    """Samples are checked here: what cannot be true is counted in `poisoned` and changes nothing."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.poisoned = 0
        self._reuse = Reuse(shape.shortest, shape.longest, shape.swr_share)
        self._drift = Drift()

    def reshape(self, shape: Shape) -> None:
        """Other bounds: the replay begins anew, what is known of drift stays."""
        if shape != self.shape:
            self.shape = shape
            self._reuse = Reuse(shape.shortest, shape.longest, shape.swr_share)

    def fold(
        self,
        accesses: Sequence[Access],
        verdicts: Sequence[Verdict],
        *,
        looked_up: float | None,
        ttl_in_force: float,
        now: float,
    ) -> None:
        """Take in samples; `looked_up` is how many look-ups they stand for, None where nobody counted."""
        good_accesses = [access for access in accesses if is_sane_access(access, now)]
        good_verdicts = [verdict for verdict in verdicts if is_sane_verdict(verdict, now)]
        self.poisoned += len(accesses) + len(verdicts) - len(good_accesses) - len(good_verdicts)
        if looked_up is not None and not (math.isfinite(looked_up) and looked_up >= 0):
            looked_up = None
        self._reuse.fold(good_accesses, looked_up, ttl_in_force, now)
        self._reuse.forget()
        # Where nothing is cached, each comparison stands for one hit that might have been.
        self._drift.fold(good_verdicts, now, unserved=0 if ttl_in_force else 1)

    @property
    def drift(self) -> DriftEstimate:
        return self._drift.estimate

    @property
    def jumps(self) -> Sequence[tuple[float, float]]:
        """The latest changes of drift: when they were noticed, and the factor."""
        return self._drift.jumps

    def curve(self, now: float) -> Curve | None:
        return self._reuse.curve(now)

    def decide(self, limits: Limits, current: float, now: float) -> Decision:
        return decide(self.curve(now), self.drift, limits, current)

    def kept(self, decision: Decision, ttl: float, now: float) -> Decision:
        """The decision where `ttl` stays in force."""
        return kept(decision, self.curve(now), self.drift, ttl)


def is_sane_access(access: Access, now: float) -> bool:
    """Whether it can be true. Comparisons with NaN are false."""
    return (
        now - LONGEST_AGO < access.at < now + SKEW
        and 0 <= access.size < 2**40
        and 0 <= access.dollars < 1e6
        and 1e-9 < access.threshold <= 1
        and 0 <= access.key < 2**48
    )


def is_sane_verdict(verdict: Verdict, now: float) -> bool:
    """Whether it can be true: an answer is not fetched again before it was fetched, and not in the future."""
    return 0 < verdict.fetched < verdict.again and (
        now - LONGEST_AGO < verdict.again < now + SKEW
        and verdict.again - verdict.fetched < LONGEST_AGE
        and 0 <= verdict.hits < 1e12
    )
