"""How many calls one model is given at once: less where it pushes back, a little more where it does not.

Additive increase, multiplicative decrease (Chiu and Jain, 1989), as TCP does it:

- Calls that end well while the limit is in use raise it: by one for each `limit` of them, up to the pool's size.
- A 429 or a time-out lowers it to DECREASE of what was running. One for each round: calls that began before the
  last decrease tell nothing about it.

All models of a provider share its pool of connections, of which each leaves something to the others (`shares`). Each
replica learns for itself, so together they come to what the provider gives all of them. A call that finds no place
waits in line. Time is an argument, in monotonic seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Literal

from dub5.shares import may_take_one

DECREASE = 0.7

Ending = Literal["well", "pushed back", "otherwise"]


class Pool:
    """Calls at once to one provider, whatever the model: at most `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.models = 0
        self.running = 0
        self.waiting: dict[ConcurrencyLimit, None] = {}

    @property
    def full(self) -> bool:
        return self.running >= self.most

    def has_place(self, held: int) -> bool:
        """For a model that holds `held`."""
        return not self.full and (self.models == 1 or may_take_one(held, self.most - self.running))

    def admit(self) -> None:
        """Give free places to waiting calls: one to each model in turn, so that none takes all."""
        admitted = True
        while admitted:
            admitted = False
            for limit in list(self.waiting):
                if self.full:
                    return
                if limit.admit():
                    admitted = True
                    self.waiting[limit] = self.waiting.pop(limit)  # to the end of the round
                if not limit.waiting:
                    del self.waiting[limit]


class ConcurrencyLimit:
    """One model's. `enter` or `try_enter` before each call, and `left` after it, once."""

    def __init__(self, pool: Pool) -> None:
        pool.models += 1
        self._pool = pool
        self._limit = float(pool.most)
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
        return not self._line and self._has_place

    @property
    def _has_place(self) -> bool:
        return self._running < self.limit and self._pool.has_place(self._running)

    def try_enter(self) -> bool:
        """Take a place where one is free."""
        free = self.free
        if free:
            self.enter_anyway()
        return free

    def enter_anyway(self) -> None:
        """Take a place even where none is free: for the one call that tries whether the model is back."""
        self._running += 1
        self._pool.running += 1

    async def enter(self, patience: float) -> None:
        """Wait for a place, first in first out. TimeoutError after `patience` seconds."""
        if self.try_enter():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        self._pool.waiting[self] = None
        try:
            async with asyncio.timeout(patience):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # the place came in the same moment
                self.give_back()
            else:
                with contextlib.suppress(ValueError):
                    self._line.remove(turn)
                if not self._line:
                    self._pool.waiting.pop(self, None)
            raise

    def left(self, ending: Ending, *, began: float, now: float) -> None:
        """A call that began at `began` gives its place back."""
        if ending == "well" and self._running >= self.limit:
            self._limit = min(self._limit + 1 / self._limit, float(self._pool.most))
        elif ending == "pushed back" and began >= self._decreased:
            self._limit = max(1.0, min(self._limit, self._running) * DECREASE)
            self._decreased = now
        self.give_back()

    def give_back(self) -> None:
        """A place that no call was made with, or none that tells anything."""
        self._running -= 1
        self._pool.running -= 1
        if self._pool.waiting:
            self._pool.admit()

    def admit(self) -> bool:
        """Let the first in line in, where this model has a place; whether one was let in."""
        while self._line and self._has_place:
            turn = self._line.popleft()
            if not turn.done():  # else it was cancelled
                self.enter_anyway()
                turn.set_result(None)
                return True
        return False
