"""What births and ages of answers go by: Redis's clock, so that replicas need not agree about theirs.

How far ours is from it is measured with the readings of purges, which are made anyway. An answer of Redis's clock lies
somewhere between our question and its arrival, so the offset is known to within a round trip, and is left alone as
long as it lies within that: replicas whose clocks agree go by their own. Without Redis, and before it has answered, so
do all.

A birth that lies ahead by more than TOLERANCE is nobody's: of a replica whose clock was wrong, of a Redis that was
replaced by one with another clock, or damage. How old such an answer is cannot be known, so it is good for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dub5.contract import clock_offset
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Metrics

TOLERANCE = 2.0
"""Seconds by which a birth may lie ahead: much more than a round trip, and what two readings lie apart."""

_log = get_logger()


class RedisClock:
    """Seconds since the epoch. `wall` is ours."""

    def __init__(self, metrics: Metrics, wall: Callable[[], float] = time.time) -> None:
        self.wall = wall
        self.offset = 0.0
        self._metrics = metrics
        self._differs = False

    def __call__(self) -> float:
        return self.wall() + self.offset

    def learn(self, told: float, *, asked: float) -> None:
        """Redis's clock said `told` after `asked`, of our own."""
        offset = clock_offset(self.offset, told, asked=asked, now=self.wall())
        if offset != self.offset:
            self.offset = offset
            self._metrics.redis_clock_offset.set(offset)
        if (abs(offset) > TOLERANCE) != self._differs:
            self._differs = not self._differs
            if self._differs:
                _log.warning("redis clock differs", seconds=round(offset, 3))
