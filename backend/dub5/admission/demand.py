"""The autoscaling metric: how many requests want to hold a provider stream here at once.

    demand = in flight + queued + shed rate x mean service time

By Little's law the last term is what those we turned away would have held; without it a saturated replica looks
content, and the autoscaler stops when it is needed most. It is capped at one replica's capacity. All functions
take `now`, in monotonic seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable

SHED_WINDOW = 30.0
"""Seconds over which the shed rate is taken."""
SERVICE_WINDOW = 300.0
"""Time constant of the moving average of service times, in seconds."""


class ShedRate:
    """Requests turned away per second. The same request counts once in a window: clients try again."""

    def __init__(self) -> None:
        self._shed: deque[tuple[float, Hashable]] = deque()
        self._known: set[Hashable] = set()

    def count(self, request: Hashable, now: float) -> None:
        self._forget(now)
        if request not in self._known:
            self._known.add(request)
            self._shed.append((now, request))

    def per_second(self, now: float) -> float:
        self._forget(now)
        return len(self._shed) / SHED_WINDOW

    def _forget(self, now: float) -> None:
        while self._shed and self._shed[0][0] <= now - SHED_WINDOW:
            self._known.discard(self._shed.popleft()[1])


class ServiceTime:
    """Mean time that a provider stream is held, in seconds: exponentially weighted by when streams ended."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._weight = 0.0
        self._at = 0.0

    def ended(self, seconds: float, now: float) -> None:
        self._decay(now)
        self._sum += seconds
        self._weight += 1.0

    def mean(self, ages: float, live: int, now: float) -> float:
        """With the `live` streams that still run and the sum of their ages; left out, long ones would be missing.

        0 before the first.
        """
        self._decay(now)
        total, weight = self._sum + ages, self._weight + live
        return total / weight if weight else 0.0

    def _decay(self, now: float) -> None:
        factor = math.exp(-(now - self._at) / SERVICE_WINDOW)
        self._sum, self._weight, self._at = self._sum * factor, self._weight * factor, now


def demand(
    *, inflight: int, queued: int, shed_per_second: float, service_time: float, capacity: int
) -> float:
    """Requests. Five in flight, two queued and one shed every two seconds at 4 s each are nine (see the test)."""
    return inflight + queued + min(shed_per_second * service_time, float(capacity))
