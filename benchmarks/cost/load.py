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

import msgspec

from benchmarks.gateways.cores import tree
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
    """A way to use the service. A wave is `wave` requests at once, to one server after the other, or to all
    `together` where waiting is most of it; `warm_up` waves come before what counts. `units` of what is counted are in
    one request; `cache` is what Cache-Status must say."""

    name: str
    what: str
    unit: str
    wave: int
    ask: Callable[[], bytes]
    cache: str
    units: int = 1
    together: bool = False
    warm_up: int = 20


def _question() -> str:
    return f"question {next(_number):012d}"


def _in_another_protocol(path: str, **fields: object) -> bytes:
    return post(path, {"model": "small", "stream": False, **fields})


_MESSAGES = partial(
    _in_another_protocol,
    "/v1/messages",
    messages=[{"role": "user", "content": "question"}],
    max_tokens=300,
)
_RESPONSES = partial(_in_another_protocol, "/v1/responses", input="question")

ROWS = {
    row.name: row
    for row in (
        Row("hit", "a hit from memory, 1 KB", "request", 16, lambda: request("question"), "; detail=local"),
        Row("messages", "the same by Messages", "request", 16, _MESSAGES, "; detail=local"),
        Row(
            *("responses", "the same by Responses, store: false", "request", 16),
            partial(_RESPONSES, store=False),
            "; detail=local",
        ),
        Row("kept", "the same by Responses, kept", "request", 16, _RESPONSES, "; detail=local"),
        Row(
            *("miss", "a miss, whole, 1 KB, stored", "request", 16),
            lambda: request(_question()),
            "; fwd=uri-miss",
        ),
        Row(
            *("pass", "a whole answer passed through, 1 KB, never stored", "request", 16),
            lambda: request(_question(), headers={"cache-control": "no-store"}),
            "; fwd=bypass",
        ),
        Row(
            *("chunk", "a chunk relayed, checked, stored", "chunk", 24),
            lambda: request(_question(), stream=True, model="live"),
            "; fwd=uri-miss",
            CHUNKS,
            together=True,
            warm_up=2,
        ),
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
            if self._row.together:
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
    """Connected, and each server asked once: from then on there is something to hit."""
    wires = [[await Wire.to(server.url) for _ in range(row.wave)] for server in servers]
    try:
        for mine in wires:
            await mine[0].ask(row.ask())
        yield Load(row, servers, wires)
    finally:
        for wire in (wire for mine in wires for wire in mine):
            wire.close()


def cpu(service: Service) -> float:
    """Seconds of CPU that the server's processes have used so far, user and system."""
    return sum(map(cpu_seconds, tree(service.pid)))
