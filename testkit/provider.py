"""A stand-in for an OpenAI-compatible provider, as a process of its own: `python -m testkit.provider`.

It prints its base URL and then answers

* `POST /v1/chat/completions`, whole or streamed, at the pace that is set, or with the fault that is set;
* `POST /settings` with any of the fields of Settings, from then on in force;
* `GET /calls`: how many calls came in all, and for each question; how many are under way, and how many
  connections are open. A call whose client has left is over.

Each answer begins with `g<generation>|<asker>|`: the generation that was set when the call arrived, and
`metadata.asker` of the request. So a client can tell an answer from before a purge, and one made for somebody
else, whatever is cached on the way. Where answers do not stay true, `changes_every`, it also says when this one ends
to be: `g<generation>|<asker>|<seconds since the epoch>|`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import random
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
import uvloop

_HEAD = {"id": "chatcmpl-benchmark", "created": 1_700_000_000, "model": "benchmark"}
_END_OF_HEAD = b"\r\n\r\n"
_EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

Fault = Literal["", "hang", "slow", "refuse", "break", "derail", "not-http", "not-json", "bad-events"]
"""hang: takes the call and never answers. slow: the first token comes after `slow_first_token`. refuse: `status`,
and `Retry-After` where `retry_after` is set. break: the connection is reset in the middle of the answer. derail:
garbage in the middle of a stream; a whole answer breaks. not-http: something else than HTTP. not-json: an HTML page
with status 200. bad-events: a stream of events that are not JSON; as a whole answer not-json."""


class Settings(msgspec.Struct, frozen=True):
    """Seconds until the first token and between two, how many there are, and the generation they carry.

    `spread` is by how much of itself the first may vary, evenly: 0.5 makes 0.2 to 0.6 of 0.4 seconds. `share` of
    the calls, drawn at random, meet the `fault`. Each answer is another one every `changes_every` seconds; 0: never.
    """

    first_token: float = 0.05
    between: float = 0.01
    tokens: int = 5
    generation: int = 1
    spread: float = 0.0
    fault: Fault = ""
    share: float = 1.0
    status: int = 429
    retry_after: float | None = None
    slow_first_token: float = 2.0
    changes_every: float = 0.0


class Broken(Exception):
    """The connection is reset."""


class Provider:
    """The state of the process."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.calls: Counter[str] = Counter()
        self.live = 0
        self.connections = 0
        self._chance = random.Random(1)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other until the client leaves; then this task is cancelled."""
        self.connections += 1
        try:
            while True:
                path, body = await _request(reader)
                await self._answer(path, body, writer)
        except Broken:
            writer.transport.abort()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.connections -= 1
            writer.close()

    async def _answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path == "/calls":
            counted = {"total": self.calls.total(), "questions": self.calls, "live": self.live}
            await _whole(writer, {**counted, "connections": self.connections - 1})  # the asker's own left out
        elif path == "/settings":
            fields = {**msgspec.to_builtins(self.settings), **msgspec.json.decode(body)}
            self.settings = msgspec.convert(fields, Settings)
            await _whole(writer, fields)
        else:
            self.live += 1
            try:
                await self._complete(msgspec.json.decode(body), writer)
            finally:
                self.live -= 1

    async def _complete(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        settings = self.settings
        question = asked["messages"][-1]["content"]
        self.calls[question] += 1
        fault = settings.fault if settings.fault and self._chance.random() < settings.share else ""
        if fault in {"hang", "refuse", "not-http", "not-json", "bad-events"}:
            await _fail(fault, settings, writer, streamed=bool(asked.get("stream")))
            return
        asker = (asked.get("metadata") or {}).get("asker", "")
        texts = [
            f"g{settings.generation}|{asker}|{_end(question, settings.changes_every)}",
            *(f" word{index}" for index in range(settings.tokens - 1)),
        ]
        usage = {
            "prompt_tokens": 9,
            "completion_tokens": settings.tokens,
            "total_tokens": 9 + settings.tokens,
        }
        first_token = settings.slow_first_token if fault == "slow" else settings.first_token
        await asyncio.sleep(first_token * self._chance.uniform(1 - settings.spread, 1 + settings.spread))
        if not asked.get("stream"):
            await asyncio.sleep(settings.between * (settings.tokens - 1))
            message = {"role": "assistant", "content": "".join(texts)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": usage}
            await _whole(writer, answer, half=fault in {"break", "derail"})
            return
        writer.write(_EVENTS)
        async for number, event in _events(texts, settings.between, usage):
            if fault in {"break", "derail"} and number >= len(texts) // 2:
                await _spoil(fault, writer)
                return
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _end(question: str, every: float) -> str:
    """Until when the answer is this one. Each question has moments of its own: what changes, changes evenly."""
    if not every:
        return ""
    phase = zlib.crc32(question.encode()) / 2**32
    return f"{every * (math.floor(time.time() / every + phase) + 1 - phase):.3f}|"


async def _request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Path and body."""
    head = (await reader.readuntil(_END_OF_HEAD)).decode("latin-1")
    lengths = [line[15:] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
    return head.split(" ", 2)[1], await reader.readexactly(int(lengths[0]) if lengths else 0)


async def _fail(fault: str, settings: Settings, writer: asyncio.StreamWriter, *, streamed: bool) -> None:
    """A fault that leaves nothing of an answer."""
    if fault == "hang":
        await asyncio.Event().wait()
    elif fault == "refuse":
        pause = {} if settings.retry_after is None else {"retry-after": str(settings.retry_after)}
        await _whole(writer, {"error": {"message": "Slow down."}}, status=settings.status, headers=pause)
    elif fault == "not-http":
        writer.write(b"SSH-2.0-nonsense\r\n\r\n")
        await writer.drain()
        raise ConnectionError
    elif fault == "bad-events" and streamed:
        garbage = b'data: {"choices": [{"del\n\n'
        writer.write(_EVENTS + b"%x\r\n%b\r\n0\r\n\r\n" % (len(garbage), garbage))
        await writer.drain()
    else:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>")
        await writer.drain()


async def _spoil(fault: str, writer: asyncio.StreamWriter) -> None:
    """The end of a stream that goes wrong half-way. What was written goes out first."""
    await writer.drain()
    await asyncio.sleep(0.01)
    if fault == "break":
        raise Broken
    garbage = b"data: \xff\xfe nonsense\n\n"
    writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(garbage), garbage))
    await writer.drain()


async def _events(
    texts: list[str], between: float, usage: dict[str, int]
) -> AsyncIterator[tuple[int, bytes]]:
    """Each event with its number."""
    for index, text in enumerate(texts):
        if index:
            await asyncio.sleep(between)
        delta = {"role": "assistant", "content": text}
        yield index, _chunk([{"index": 0, "delta": delta, "finish_reason": None}])
    yield len(texts), _chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    yield len(texts) + 1, _chunk([], usage=usage) + b"data: [DONE]\n\n"


def _chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    data = {**_HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


async def _whole(
    writer: asyncio.StreamWriter,
    data: Any,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    half: bool = False,
) -> None:
    """With `half` the connection is reset in the middle of the body."""
    body = msgspec.json.encode(data)
    fields = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in fields.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode() + (body[: len(body) // 2] if half else body))
    await writer.drain()
    if half:
        await asyncio.sleep(0.01)
        raise Broken


class _Connection(asyncio.StreamReaderProtocol):
    """One client; what is being done for it ends when it leaves."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._serving: asyncio.Task[None] | None = None
        super().__init__(asyncio.StreamReader(limit=2**20), self._accepted)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving = asyncio.create_task(self._provider.connected(reader, writer))

    def eof_received(self) -> bool:
        self._left()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._left()
        super().connection_lost(exc)

    def _left(self) -> None:
        if self._serving is not None:
            self._serving.cancel()


async def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for an OpenAI-compatible provider.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    asked = parser.parse_args()
    provider = Provider()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(provider), asked.host, asked.port, backlog=2048)
    print(f"http://{asked.host}:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())
