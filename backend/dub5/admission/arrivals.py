"""What requests that are arriving, or wait for their answer, cost in memory: one budget over all connections.

A connection's part is twice the bytes it has sent, since a body is joined of its parts; what reading a large request
takes besides is added by who reads it. Past the budget the largest incomplete request goes, the oldest of about that
size; complete ones stay. A quarter is for requests of at most 64 KiB: large ones cannot push them out, and those that
are complete are never refused.

Incomplete requests stand in queues by the logarithm of their size, so finding the largest takes no search.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

from dub5.errors import Overloaded

SMALL_REQUEST = 64 * 2**10
"""Bytes of a request that is never refused for want of memory, once it is complete."""

JOINED = 2
"""Bytes of memory for each byte that has arrived."""

_SHARE_OF_LIMIT = 0.3
"""Of the memory that the container may use. The rest: the process itself (90 MiB), answers in memory
(`cache.local_bytes`), requests known by their bytes (half of that, but 16 MiB at least, and 16 MiB of hashes), ten
thousand connections (100 MiB), and what reading one large body takes on top."""

_MOST = 2 * 2**30
_LARGE_SHARE = 0.75
_QUEUES = 64


class Arriving(Protocol):
    """A connection. `charge` is `Arrivals`' own."""

    charge: int

    def give_way(self) -> None:
        """End the incomplete request."""


def budget_of(memory: int) -> int:
    """Bytes for requests, where the process may use `memory` bytes in all."""
    return min(int(memory * _SHARE_OF_LIMIT), _MOST)


class Arrivals:
    """`budget` is in bytes of memory, `used` how many of them are taken.

    `reader` is held while a large body is read, one at a time: what that takes on top is taken once.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self.reading_lock = asyncio.Lock()
        self._large = 0  # of `used`, what requests of more than SMALL_REQUEST take
        self._most_large = int(budget * _LARGE_SHARE)
        self._queues: list[OrderedDict[Arriving, None]] = [OrderedDict() for _ in range(_QUEUES)]

    def charge(self, connection: Arriving, size: int, *, incomplete: bool) -> None:
        """The connection's requests take `size` bytes now; an `incomplete` one may have to go, this or another."""
        before = connection.charge
        self._queues[before.bit_length()].pop(connection, None)
        self._take(size - before, _large(size) - _large(before))
        connection.charge = size
        if incomplete and size:
            self._queues[size.bit_length()][connection] = None
        if size > before:
            self._make_room()

    @contextlib.contextmanager
    def reading(self, size: int, cost: int) -> Iterator[None]:
        """A request of `size` bytes takes `cost` bytes more. Overloaded where there is no room for a large one."""
        large = size > SMALL_REQUEST
        if large and self._large + cost > self.budget:
            raise no_room()
        self._take(cost, cost if large else 0)
        try:
            yield
        finally:
            self._take(-cost, -cost if large else 0)

    def room(self, cost: int) -> None:
        """Overloaded where a large request cannot take `cost` bytes besides what has arrived of it."""
        if self._large + cost > self.budget:
            raise no_room()

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes more can be taken without another request having to go."""
        return self._large + size <= self._most_large and self.used + size <= self.budget

    def _take(self, size: int, large: int) -> None:
        self.used += size
        self._large += large

    def _make_room(self) -> None:
        while self._large > self._most_large and self._end_largest(above=SMALL_REQUEST * JOINED):
            pass
        while self.used > self.budget and self._end_largest(above=0):
            pass

    def _end_largest(self, *, above: int) -> bool:
        for queue in reversed(self._queues[above.bit_length() :]):
            for connection in queue:
                if connection.charge > above:
                    self.charge(connection, 0, incomplete=False)
                    connection.give_way()
                    return True
        return False


def _large(size: int) -> int:
    return size if size > SMALL_REQUEST * JOINED else 0


def no_room() -> Overloaded:
    return Overloaded(
        "Too many large requests are under way: there is no memory for this one.", retry_after=1
    )
