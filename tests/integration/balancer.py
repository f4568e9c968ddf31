"""A balancer of connections, like a Kubernetes Service: it knows nothing of requests.

A new connection goes to the next replica in turn of those that are listed, and stays with it. A replica is listed once
its /readyz says 200, and no longer `delay` seconds after that has turned 503: readiness is looked at every `period`
seconds, and word of it takes time to get around. What cannot be connected is closed: nothing is tried elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

_CHUNK = 2**16


class Service(Protocol):
    """Where a replica listens."""

    @property
    def url(self) -> str: ...

    @property
    def operations_url(self) -> str: ...


class Balancer:
    """`refused` are the connections that a listed replica did not take."""

    def __init__(self, *, period: float, delay: float) -> None:
        self.url = ""
        self.refused = 0
        self._period = period
        self._delay = delay
        self._listed: list[Service] = []
        self._turn = 0
        self._watching: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Task[None]] = set()

    async def add(self, service: Service) -> None:
        """Returns when it is listed. It leaves by itself."""
        ready = asyncio.Event()
        watching = asyncio.create_task(self._watch(service, ready))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        await ready.wait()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Balancer]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=2048)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            tasks = self._watching | self._connections
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, service: Service, ready: asyncio.Event) -> None:
        async with aiohttp.ClientSession() as session:
            while not await _is_ready(session, service):  # noqa: ASYNC110  # another process: no event
                await asyncio.sleep(self._period)
            self._listed.append(service)
            ready.set()
            while await _is_ready(session, service):  # noqa: ASYNC110  # the same
                await asyncio.sleep(self._period)
            await asyncio.sleep(self._delay)
            self._listed.remove(service)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            self._turn += 1
            address = urlsplit(self._listed[self._turn % len(self._listed)].url)
            upstream = await asyncio.open_connection(address.hostname, address.port)
        except (OSError, ZeroDivisionError):
            self.refused += 1
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_pipe(reader, upstream[1]), _pipe(upstream[0], writer))
        finally:
            upstream[1].close()
            writer.close()


async def _is_ready(session: aiohttp.ClientSession, service: Service) -> bool:
    try:
        async with session.get(f"{service.operations_url}/readyz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends; then the other one's half is closed, too."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
