"""How many calls one provider is given at once: less where it pushes back, a little more where it does not.

Additive increase, multiplicative decrease (Chiu and Jain, 1989), as TCP does it:

- Calls that end well while the limit is in use raise it: by one for each `limit` of them, up to the pool's size.
- A 429 or a time-out lowers it to DECREASE of what was running. One for each round: calls that began before the
  last decrease tell nothing about it.

Each replica learns for itself, so together they come to what the provider gives all of them. Who finds no place waits
in line. Time is an argument, in monotonic seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Literal

DECREASE = 0.7

Ending = Literal["well", "pushed back", "otherwise"]


class ConcurrencyLimit:
    """One provider's. `enter` or `try_enter` before each call, and `left` after it, once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._running = 0
        self._decreased = float("-inf")
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        return int(self._limit)

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def free(self) -> bool:
        """Whether there is a place and nobody waits for it."""
        return self._running < self.limit and not self.waiting

    def try_enter(self) -> bool:
        """Take a place where one is free."""
        free = self.free
        self._running += free
        return free

    def enter_anyway(self) -> None:
        """Take a place even where none is free: for the one call that tries whether the provider is back."""
        self._running += 1

    async def enter(self, patience: float) -> None:
        """Wait for a place, first in first out. TimeoutError after `patience` seconds."""
        if self.try_enter():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(patience):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # the place came in the same moment
                self.give_back()
            else:
                with contextlib.suppress(ValueError):
                    self._line.remove(turn)
            raise

    def left(self, ending: Ending, *, began: float, now: float) -> None:
        """A call that began at `began` gives its place back."""
        if ending == "well" and self._running >= self.limit:
            self._limit = min(self._limit + 1 / self._limit, float(self._most))
        elif ending == "pushed back" and began >= self._decreased:
            self._limit = max(1.0, min(self._limit, self._running) * DECREASE)
            self._decreased = now
        self.give_back()

    def give_back(self) -> None:
        """A place that no call was made with, or none that tells anything."""
        self._running -= 1
        while self._line and self._running < self.limit:
            turn = self._line.popleft()
            if not turn.done():  # else it was cancelled
                self._running += 1
                turn.set_result(None)
