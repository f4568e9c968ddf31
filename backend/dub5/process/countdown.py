"""Time-outs that tell a partner that does not answer from an event loop that is late to look.

A time-out of `asyncio` counts on while this process has too much to do: an answer may be there for long before its
turn comes. To give it up then would count as the partner's failure, and open its circuit breaker. So a short time is
counted in steps, by a timer for each, of which late ones do not count as much (Countdown); and where a long one is over
late, sockets are looked at once more (Deadline).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

STEPS, _STEPS_IN_TIME = 10, 8
LATE = 0.002
"""Seconds by which a timer may be late on a machine that is not busy."""

LOOK = 0.01
"""Seconds in which an event loop that was late looks at its sockets: it calls timers first."""


def out_of_time(steps: int, in_time: int) -> bool:
    """Whether who answers within a command's time has had it, of which each step is a tenth: most of them ended in
    time, or there were twice as many."""
    return (steps >= STEPS and in_time >= _STEPS_IN_TIME) or steps >= 2 * STEPS


class _Limit:
    """An `asyncio.timeout` that a timer ends which begins with the block: `_timer` is set in `_begin`."""

    __slots__ = ("_due", "_limit", "_loop", "_timer")

    _due: float
    _timer: asyncio.TimerHandle

    def __init__(self) -> None:
        self._limit = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()

    def _begin(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(kind, error, traceback)


class Deadline(_Limit):
    """An `asyncio.timeout_at` that never ends what has come already, unread, while the loop was late or the process
    stopped."""

    __slots__ = ()

    def __init__(self, due: float) -> None:
        super().__init__()
        self._due = due

    def _begin(self) -> None:
        self._timer = self._loop.call_at(self._due, self._on_timer)

    def _on_timer(self) -> None:
        now = self._loop.time()
        if now < self._due + LATE:
            self._limit.reschedule(now)
        else:
            self._timer = self._loop.call_later(LOOK, self._limit.reschedule, now)


class Countdown(_Limit):
    """An `asyncio.timeout` of so many `seconds` in so many `steps`.

    It expires at the end of a step where `over` says so, by how many there were, and how many of these ended in time.
    """

    __slots__ = ("_in_time", "_over", "_step", "_steps")

    def __init__(
        self, seconds: float, *, steps: int = STEPS, over: Callable[[int, int], bool] = out_of_time
    ) -> None:
        super().__init__()
        self._over = over
        self._step = seconds / steps
        self._steps = self._in_time = 0

    def expired(self) -> bool:
        """Whether it was what ended the block."""
        return self._limit.expired()

    def _begin(self) -> None:
        self._due = self._loop.time() + self._step
        self._timer = self._loop.call_at(self._due, self._on_step)

    def _on_step(self) -> None:
        now = self._loop.time()
        self._steps += 1
        self._in_time += now < self._due + LATE
        if self._over(self._steps, self._in_time):
            self._limit.reschedule(now)
        else:
            self._begin()
