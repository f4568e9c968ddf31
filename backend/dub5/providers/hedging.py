"""A second call where the first is slower than nearly all others; the answer is the first that comes.

From J. Dean and L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013: waiting for the 95th percentile before the
second call costs some 5 % more calls and cuts most of the tail.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from dub5.errors import CallerError, Unsupported

T = TypeVar("T")

QUANTILE = 0.95
FEWEST = 20
"""Waits that must be known before any counts as slow."""
REMEMBERED = 200


class Pace:
    """The latest waits for answers of one model at one provider, in seconds."""

    def __init__(self) -> None:
        self._waits: deque[float] = deque(maxlen=REMEMBERED)

    def note(self, wait: float) -> None:
        self._waits.append(wait)

    def slow(self) -> float | None:
        """The wait that 95 % stay under; None while too few are known."""
        if len(self._waits) < FEWEST:
            return None
        return sorted(self._waits)[math.ceil(QUANTILE * len(self._waits)) - 1]


async def hedged(
    first: asyncio.Task[T],
    after: float,
    second: Callable[[], asyncio.Task[T] | None],
    discard: Callable[[T], Awaitable[None]],
) -> T:
    """The first success of `first` and, where it takes longer than `after` seconds, of `second()`.

    The other one is cancelled; what it had already is given to `discard`. Where both fail, the error is that of
    `first`; an error of the caller is raised at once.
    """
    calls = [first]
    try:
        _, running = await asyncio.wait(calls, timeout=after)
        if running and (other := second()) is not None:
            calls.append(other)
            running.add(other)
        winner = next((call for call in calls if _decides(call)), None)
        while running and winner is None:
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            winner = next((call for call in calls if _decides(call)), None)
        winner = winner or first
        await _give_up([call for call in calls if call is not winner], discard)
    except BaseException:  # cancelled, perhaps while the loser was
        await _give_up(calls, discard)
        raise
    return winner.result()


async def _give_up(calls: list[asyncio.Task[T]], discard: Callable[[T], Awaitable[None]]) -> None:
    for call in calls:
        call.cancel()
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        if not isinstance(answer, BaseException):
            await discard(answer)


def _decides(call: asyncio.Task[Any]) -> bool:
    if not call.done() or call.cancelled():
        return False
    error = call.exception()
    return error is None or (isinstance(error, CallerError) and not isinstance(error, Unsupported))
