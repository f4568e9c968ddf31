"""The same number of requests to several servers in turn, and the CPU time that each server's processes took for them.

Other programs on the machine slow a server down by a tenth or a fifth for seconds at a time, in CPU time too (shared
caches, shared cores). So the servers take turns after each wave of a few requests, milliseconds: what disturbs one
disturbs the others as much. CPU time is read from the kernel's clock of each process, in nanoseconds, before and after
a round of many waves; what a server does behind its answers (it stores in Redis) is in it, too.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec

from benchmarks.gateways.cores import tree
from benchmarks.gateways.rows import NO_MEMORY
from testkit.client import until
from testkit.processes import cpu_seconds
from testkit.service import Service
from testkit.wire import Wire, post, request

_AFTERWARDS = 0.05
"""Seconds in which the last wave is stored."""
CHUNKS = 100
"""Of a stream, the last one with the finish reason included."""
BETWEEN = 0.02
"""Seconds between two chunks of a stream: so seldom one shares a read with the next."""
PACE = f"/paced/{BETWEEN * 1000:.0f}/{CHUNKS}"
"""Of the provider's streams."""

_number = itertools.count(1)
"""Of the next question that nobody asked before."""


class Row(msgspec.Struct, frozen=True):
    """A way to use the service. A wave is `wave` requests at once, to one server after the other, or to all together
    where an answer is a stream of `units`, since waiting is most of it. `cache` is what Cache-Status must say, and
    `known` how many questions are stored before."""

    name: str
    what: str
    ask: Callable[[], bytes]
    cache: str
    settings: dict[str, Any] = {}
    known: int = 1
    wave: int = 16
    units: int = 1


def _new(**fields: Any) -> bytes:
    return request(f"question {next(_number):012d}", **fields)


def _in_another_protocol(path: str, **fields: object) -> bytes:
    return post(path, {"model": "small", "stream": False, **fields})


_MESSAGES = partial(
    _in_another_protocol,
    "/v1/messages",
    messages=[{"role": "user", "content": "question"}],
    max_tokens=300,
)
_RESPONSES = partial(_in_another_protocol, "/v1/responses", input="question")

_PASSED = partial(_new, headers={"cache-control": "no-store"})
_STREAMED = partial(_new, stream=True, model="live")
_LOCAL = "; detail=local"

ROWS = {
    row.name: row
    for row in (
        Row("hit", "a hit from memory, 1 KB", lambda: request("question"), _LOCAL),
        Row("messages", "the same by Messages", _MESSAGES, _LOCAL),
        Row("responses", "the same by Responses, store: false", partial(_RESPONSES, store=False), _LOCAL),
        Row("kept", "the same by Responses, kept", _RESPONSES, _LOCAL),
        Row(
            *("redis", "a hit from Redis, 1 KB"),
            # Always the same ones for each of four servers, so that each is asked once for each at a time.
            lambda: request(f"question {next(_number) % 64}"),
            "; detail=shared",
            {"cache": NO_MEMORY},
            known=16,
        ),
        Row("miss", "a miss, whole, 1 KB, stored", _new, "; fwd=uri-miss"),
        Row("pass", "a whole answer passed through, 1 KB, never stored", _PASSED, "; fwd=bypass"),
        Row("chunk", "a chunk relayed, checked, stored", _STREAMED, "; fwd=uri-miss", wave=24, units=CHUNKS),
    )
}


class Load:
    """The connections of one row to all servers. RuntimeError for any answer that is not as it should be."""

    def __init__(self, row: Row, servers: list[Service], wires: list[list[Wire]]) -> None:
        self._row, self._servers, self._wires = row, servers, wires

    async def round(self, waves: int) -> list[float]:
        """Seconds of CPU for each unit, by server."""
        began = [cpu(server) for server in self._servers]
        for _ in range(waves):
            if self._row.units > 1:
                await self._spread()
            else:
                for wires in self._wires:  # never one twice in a row: it would find its caches warm
                    await self._wave(wires)
        await asyncio.sleep(_AFTERWARDS)
        units = waves * self._row.wave * self._row.units
        return [(cpu(server) - before) / units for server, before in zip(self._servers, began, strict=True)]

    async def _spread(self) -> None:
        """Begun evenly over the time between two chunks: how many come in one turn of a server's loop is a good part of
        what each costs, and would else be by chance."""
        began, step = time.monotonic(), BETWEEN / (self._row.wave * len(self._wires))
        everyone = [wire for one_of_each in zip(*self._wires, strict=True) for wire in one_of_each]
        async with asyncio.TaskGroup() as group:
            for number, wire in enumerate(everyone):
                await until(began + number * step)
                group.create_task(self._ask(wire))

    async def _wave(self, wires: list[Wire]) -> None:
        await asyncio.gather(*map(self._ask, wires))

    async def _ask(self, wire: Wire) -> None:
        reply = await wire.ask(self._row.ask())
        right = reply.complete and self._row.cache in reply.headers.get("cache-status", "")
        if right and self._row.units > 1:
            right = reply.body.count(b"data: {") == self._row.units
        if not right:
            said = reply.headers.get("cache-status"), reply.body[-200:]
            raise RuntimeError(f"{self._row.name}: status {reply.status}, {said}")


@asynccontextmanager
async def load(row: Row, servers: list[Service]) -> AsyncIterator[Load]:
    """Connected, and each server asked: from then on there is something to hit."""
    wires = [[await Wire.to(server.url) for _ in range(row.wave)] for server in servers]
    try:
        for wire in [mine[0] for mine in wires for _ in range(row.known)]:
            await wire.ask(row.ask())
        await asyncio.sleep(_AFTERWARDS)
        yield Load(row, servers, wires)
    finally:
        for wire in (wire for mine in wires for wire in mine):
            wire.close()


def cpu(service: Service) -> float:
    """Seconds of CPU that the server's processes have used so far, user and system."""
    return sum(map(cpu_seconds, tree(service.pid)))
