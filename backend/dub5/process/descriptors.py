"""The file descriptors that this process may have, and how they are divided.

Each connection takes one, to a client as to a provider, and what takes the last ones stops all the rest. So
both have a part of their own, and what is left is for the operations listener, Redis, files and name look-ups. A
part is a bound on connections, not on calls: a provider's idle connections are in it, and the one that has been idle
for longest is closed where a new one is needed.

What the system refuses all the same, for want of descriptors or memory, is nobody's failure but ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

_FILES = 32
"""Descriptors for standard streams, the event loop, the listeners, files, name look-ups, traces."""

OPERATIONS = 100
"""Connections to the operations listener, where there are descriptors for them."""

_MORE_THAN_CALLS = 1.25
"""Provider connections for each call at once: those that are being made, hedges, background refreshes."""

_PROVIDERS_SHARE = 0.4
"""Of what clients and providers have together. A call takes one of each; clients wait in the queue, too."""

_LEAST_SHARE, _LEAST = 0.5, 64
"""Of all descriptors, which clients and providers have together however few there are, and at most how many: with more
than that, what all else needs stays free."""

_CLOSING = 8
"""Of `_FILES`, for connections that are being closed while others take their place."""

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, socket.EAI_MEMORY})
"""What the operating system says where this machine has no descriptor or memory left."""


def is_shortage(error: BaseException | None) -> bool:
    """Whether the system said so, to this error or to one that it was made from."""
    for _ in range(10):  # nothing wraps so often; but a circle would hold the event loop for ever
        if error is None:
            break
        if isinstance(error, OSError) and error.errno in SHORTAGES:
            return True
        error = error.__cause__ or error.__context__
    return False


def raise_limit() -> None:
    """Take as many as this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses what it calls unlimited
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def limit() -> int | None:
    """How many this process may have now; None for any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def refused_at_once(max_connections: int) -> int:
    """Connections, above those that are served, of clients that are being refused for want of room."""
    return max(2, min(64, max_connections // 4))


class Room(msgspec.Struct, frozen=True):
    """What there are descriptors for: connections of clients, calls at once, connections to all providers together.

    `provider_connections` is None where as many as providers may have fit in any case.
    """

    clients: int
    operations: int
    calls: int
    provider_connections: int | None


def divide(
    files: int | None, *, max_connections: int, max_inflight: int, pools: Sequence[int], redis: int
) -> Room:
    """At most what is wanted: `pools` are the connections that each provider may have, `redis` those to it."""
    if files is None:
        return Room(max_connections, OPERATIONS, max_inflight, None)
    operations = min(OPERATIONS, max(8, files // 16))
    reserve = _FILES + redis + operations + refused_at_once(operations)
    left = max(files - reserve, min(int(files * _LEAST_SHARE), _LEAST))
    calls = int(max_inflight * _MORE_THAN_CALLS)
    wanted = sum(min(pool, calls) for pool in pools)
    clients = max_connections + refused_at_once(max_connections)
    share = min(wanted, max(int(left * _PROVIDERS_SHARE), left - clients))
    left -= share
    if clients > left:
        max_connections = min(max_connections, max(1, left * 4 // 5 - 1))
    if pools and share < min(calls, wanted):
        max_inflight = max(1, int(share / _MORE_THAN_CALLS))
    return Room(max_connections, operations, max_inflight, share if share < wanted else None)


class Sockets:
    """At most `most` open sockets, over all pools that are given the same one; those that are idle make room.

    A few more while some are being closed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[socket.socket] = set()
        self._idle: OrderedDict[asyncio.Transport, None] = OrderedDict()

    def make(self, address: Sequence[Any]) -> socket.socket:
        """One for an address as `getaddrinfo` gives it; OSError where all are in use."""
        if len(self._open) >= self._most:
            self._open = {each for each in self._open if each.fileno() >= 0}
            if len(self._open) >= self._most and not self._close_idle():
                raise OSError(errno.EMFILE, "all connections that there are descriptors for are in use")
        family, kind, protocol = address[:3]
        made = socket.socket(family, kind, protocol)
        self._open.add(made)
        return made

    def used(self, transport: asyncio.Transport) -> None:
        """A call goes over it."""
        self._idle.pop(transport, None)

    def unused(self, transport: asyncio.Transport) -> None:
        """The call is over."""
        self._idle[transport] = None
        if len(self._idle) > self._most:
            self._idle = OrderedDict.fromkeys(each for each in self._idle if not each.is_closing())

    def _close_idle(self) -> bool:
        """The pool whose connection it was sees that it is closed, and takes another."""
        while self._idle:
            transport, _ = self._idle.popitem(last=False)
            if not transport.is_closing():
                transport.abort()
                return True
            # It may have been closed in this very turn of the loop.
            if len(self._open) < self._most + _CLOSING:
                return True
        return False
