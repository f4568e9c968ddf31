"""A stand-in for an OpenAI-compatible provider, as a process of its own: `python -m benchmarks.provider`.

It prints its base URL and then answers

* `POST /v1/chat/completions`, whole or streamed, at the pace that is set;
* `POST /settings` with any of the fields of Pace, from then on in force;
* `GET /calls`: how many calls came in all, and for each question.

Each answer begins with `g<generation>|<asker>|`: the generation that was set when the call arrived, and
`metadata.asker` of the request. So a client can tell an answer from before a purge, and one made for somebody
else, whatever is cached on the way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec

_HEAD = {"id": "chatcmpl-benchmark", "created": 1_700_000_000, "model": "benchmark"}
_END_OF_HEAD = b"\r\n\r\n"


class Pace(msgspec.Struct, frozen=True):
    """Seconds until the first token and between two, how many there are, and the generation they carry."""

    first_token: float = 0.05
    between: float = 0.01
    tokens: int = 5
    generation: int = 1


class Provider:
    """The state of the process."""

    def __init__(self) -> None:
        self.pace = Pace()
        self.calls: Counter[str] = Counter()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other until the client leaves."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(_END_OF_HEAD)).decode("latin-1")
                length = next(
                    (
                        int(line[15:])
                        for line in head.split("\r\n")
                        if line.lower().startswith("content-length:")
                    ),
                    0,
                )
                body = await reader.readexactly(length)
                await self._answer(head.split(" ", 2)[1], body, writer)
        writer.close()

    async def _answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path == "/calls":
            await _whole(writer, {"total": self.calls.total(), "questions": self.calls})
        elif path == "/settings":
            fields = {**msgspec.to_builtins(self.pace), **msgspec.json.decode(body)}
            self.pace = msgspec.convert(fields, Pace)
            await _whole(writer, fields)
        else:
            await self._complete(msgspec.json.decode(body), writer)

    async def _complete(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        pace = self.pace
        question = asked["messages"][-1]["content"]
        self.calls[question] += 1
        asker = (asked.get("metadata") or {}).get("asker", "")
        texts = [f"g{pace.generation}|{asker}|", *(f" word{index}" for index in range(pace.tokens - 1))]
        usage = {"prompt_tokens": 9, "completion_tokens": pace.tokens, "total_tokens": 9 + pace.tokens}
        await asyncio.sleep(pace.first_token)
        if not asked.get("stream"):
            await asyncio.sleep(pace.between * (pace.tokens - 1))
            message = {"role": "assistant", "content": "".join(texts)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            await _whole(writer, {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        async for event in _events(texts, pace.between, usage):
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _events(texts: list[str], between: float, usage: dict[str, int]) -> AsyncIterator[bytes]:
    for index, text in enumerate(texts):
        if index:
            await asyncio.sleep(between)
        yield _chunk([{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}])
    yield _chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    yield _chunk([], usage=usage) + b"data: [DONE]\n\n"


def _chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    data = {**_HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


async def _whole(writer: asyncio.StreamWriter, data: Any) -> None:
    body = msgspec.json.encode(data)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    await writer.drain()


async def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for an OpenAI-compatible provider.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    asked = parser.parse_args()
    server = await asyncio.start_server(
        Provider().connected, asked.host, asked.port, backlog=2048, limit=2**20
    )
    print(f"http://{asked.host}:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
