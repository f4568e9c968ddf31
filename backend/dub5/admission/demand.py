"""The autoscaling metric: how many requests want to hold a provider stream here at once.

    demand = in flight + queued + shed rate x mean service time

By Little's law the last term is what the refused requests would have held; without it a saturated replica looks
content, and the autoscaler stops when it is needed most. It is capped at one replica's capacity. All functions
take `now`, in monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

SHED_WINDOW = 30.0
"""Seconds over which the shed rate is taken."""


class ShedRate:
    """Requests refused per second. The same request counts once in a window: clients try again."""

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


def demand(
    *, inflight: int, queued: int, shed_per_second: float, service_time: float, capacity: int
) -> float:
    """Requests. Five in flight, two queued and one shed every two seconds at 4 s each are nine (see the test)."""
    return inflight + queued + min(shed_per_second * service_time, float(capacity))
