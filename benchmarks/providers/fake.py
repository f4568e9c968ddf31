"""A provider in the row's own process that sends exactly the bytes that it is told, and answers by its path.

`{url}/NAME/…` is answered with what `answer(NAME, body)` gives: so one server plays as many providers as a row has,
each with a health of its own, and knows neither OpenAI's nor Anthropic's API.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

Json = dict[str, Any]


class Step(enum.Enum):
    """What a provider does besides sending bytes."""

    HANG = "nothing more until the client goes away"
    RESET = "reset the connection"
    CLOSE = "close it politely, though the body is not at its end"


class Reply(msgspec.Struct, frozen=True):
    """`parts` are written one by one, so that each is read on its own; the body ends properly after the last one."""

    parts: tuple[bytes | Step, ...]
    status: int = 200
    headers: Mapping[str, str] = {}
    kind: str = "application/json"


def whole(data: Any, status: int = 200, **headers: str) -> Reply:
    """`data` as JSON; header names with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply((msgspec.json.encode(data),), status, named)


def events(*parts: bytes | Step) -> Reply:
    return Reply(parts, kind="text/event-stream")


Answer = Callable[[str, Json], Awaitable[Reply]]


class Fake:
    """`calls` by name, and `paths` of all calls with their queries."""

    def __init__(self, answer: Answer) -> None:
        self.calls: Counter[str] = Counter()
        self.paths: list[str] = []
        self.url = ""
        self._answer = answer
        self._open: set[asyncio.Task[Any]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(task)
            writer.close()

    def leave(self) -> None:
        for task in self._open:
            task.cancel()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can be used again."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lengths = [line[15:] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        body = json.loads(await reader.readexactly(int(lengths[0]))) if lengths else {}
        path = head.split(" ", 2)[1]
        name = path.split("/")[1]
        self.paths.append(path)
        self.calls[name] += 1
        reply = await self._answer(name, body)
        lines = [
            f"HTTP/1.1 {reply.status} Whatever",
            f"content-type: {reply.kind}",
            "transfer-encoding: chunked",
        ]
        lines += [f"{field}: {value}" for field, value in reply.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        for part in reply.parts:
            if part is Step.HANG:
                await writer.drain()
                await reader.read(1)  # the client has nothing to say: only its leaving ends this
                return False
            if part is Step.RESET:
                await asyncio.sleep(0.02)  # what was written before is not to be lost with the connection
                writer.transport.abort()
                return False
            if part is Step.CLOSE:
                return False
            assert isinstance(part, bytes)
            if part:
                writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
            if len(reply.parts) > 1:
                await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


@asynccontextmanager
async def fake(answer: Answer) -> AsyncIterator[Fake]:
    """On a free port of the loopback."""
    playing = Fake(answer)
    server = await asyncio.start_server(playing.connected, "127.0.0.1", 0, backlog=1024, limit=2**24)
    playing.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield playing
    finally:
        server.close()
        playing.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await server.wait_closed()
