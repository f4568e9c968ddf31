"""Parts of a body may be pushed while their client takes them, and at no other time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from litestar.types import Receive, Send
from uvicorn.config import Config

from dub5.server.protocol import ConnectionLimits, Connections, GuardedProtocol
from dub5.telemetry.record import PUSH, Outlet, Push
from tests.transports import Taking


class Transport(Taking):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data


class Answering:
    """A connection whose request is being answered: its head has gone, and the end comes once it `ends`."""

    def __init__(self, version: bytes = b"1.1") -> None:
        self.ends, self._begun = asyncio.Event(), asyncio.Event()
        config = Config(self._answer, interface="asgi3", access_log=False, log_config=None)  # type: ignore[arg-type]
        config.load()
        limits = ConnectionLimits(read_timeout=30, write_timeout=20, idle=75, max_connections=10)
        self.protocol, self.transport = GuardedProtocol(config, Connections(limits, _count), {}), Transport()
        self.protocol.connection_made(self.transport)
        self.protocol.data_received(b"GET / HTTP/%b\r\nHost: localhost\r\n\r\n" % version)

    async def _answer(self, scope: Any, _: Receive, send: Send) -> None:
        self.push: Push = scope[PUSH]
        assert self.push() is None
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self._begun.set()
        await self.ends.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def outlet(self) -> Outlet:
        await self._begun.wait()
        return cast("Outlet", self.push())

    async def over(self) -> None:
        self.ends.set()
        while tasks := list(self.protocol.tasks):
            await asyncio.wait(tasks)


def _count(_: str) -> None:
    """Nothing is refused."""


async def test_a_part_is_a_chunk_of_the_body() -> None:
    answering = Answering()
    outlet = await answering.outlet()
    assert outlet.open
    outlet.send(b"a part")
    await answering.over()
    assert answering.transport.written.endswith(b"\r\n\r\n6\r\na part\r\n0\r\n\r\n")


async def test_a_client_that_takes_no_more_is_pushed_no_more_until_it_does() -> None:
    answering = Answering()
    outlet = await answering.outlet()
    answering.protocol.pause_writing()
    assert not outlet.open
    assert answering.push() is None
    answering.protocol.resume_writing()
    again = answering.push()
    assert again is not None
    assert again.open
    await answering.over()


@pytest.mark.parametrize("leaves", [False, True])
async def test_nothing_is_pushed_behind_the_end(leaves: bool) -> None:
    answering = Answering()
    outlet = await answering.outlet()
    if leaves:
        answering.protocol.connection_lost(None)
    else:
        await answering.over()
    assert not outlet.open
    assert answering.push() is None
    await answering.over()
