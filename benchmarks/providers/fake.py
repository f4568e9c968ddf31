"""A provider in the row's own process that sends exactly the bytes that it is told, and answers by its path.

`{url}/NAME/…` is answered with what `answer(NAME, body)` gives: so one server plays as many providers as a row has,
each with a health of its own, and knows neither OpenAI's nor Anthropic's API.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from testkit.http_server import Call, FakeServer, Wire

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
        self.server = FakeServer()
        self.server.reply = self._play
        self._answer = answer

    @property
    def url(self) -> str:
        return self.server.url

    async def _play(self, call: Call, wire: Wire) -> None:
        name = call.path.split("/")[1]
        self.paths.append(call.path)
        self.calls[name] += 1
        reply = await self._answer(name, call.body if call.raw else {})
        fields = {"content-type": reply.kind, "transfer-encoding": "chunked", **reply.headers}
        lines = [
            f"HTTP/1.1 {reply.status} Whatever",
            *(f"{field}: {value}" for field, value in fields.items()),
        ]
        wire.chunked = True  # whatever the headers say: some of these answers contradict themselves
        await wire.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))
        for part in reply.parts:
            if part is Step.HANG:
                await wire.left.wait()
                return
            if part is Step.RESET:
                await asyncio.sleep(0.02)  # what was written before is not to be lost with the connection
                wire.die()
                return
            if part is Step.CLOSE:
                return
            assert isinstance(part, bytes)
            if part:
                await wire.send(part)
        await wire.end()


@asynccontextmanager
async def fake(answer: Answer) -> AsyncIterator[Fake]:
    """On a free port of the loopback."""
    playing = Fake(answer)
    async with playing.server:
        yield playing
