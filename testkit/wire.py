"""One keep-alive connection of HTTP/1.1, at the cost of little more than the socket.

For the rows where thousands of clients share the machine with what is measured, and for those where it matters what
a connection does: nothing here is tried again behind a row's back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes `close` send a reset."""


class Reply(msgspec.Struct):
    """What came. Moments are monotonic seconds; `first` is when the first byte of the body was there."""

    status: int
    headers: dict[str, str]
    began: float
    first: float = 0.0
    ended: float = 0.0
    body: bytes = b""

    @property
    def took(self) -> float:
        return self.ended - self.began

    @property
    def complete(self) -> bool:
        """A whole answer, or a stream up to its [DONE]."""
        if self.status != 200:
            return False
        streamed = self.headers.get("content-type", "").startswith("text/event-stream")
        return self.body.endswith(b"data: [DONE]\n\n") if streamed else self.body.endswith(b"}")

    @property
    def closing(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"

    @property
    def queue_wait(self) -> float | None:
        """Seconds of `Server-Timing: queue`, which a request has that asked a provider itself."""
        for part in self.headers.get("server-timing", "").split(", "):
            if part.startswith("queue;dur="):
                return float(part[10:]) / 1000
        return None


class Wire:
    """One connection; after an answer that says `closing`, or an error, it is of no use any more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, url: str) -> Wire:
        """ConnectionError where nobody listens."""
        address = urlsplit(url)
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    async def ask(self, request: bytes) -> Reply:
        """ConnectionError or IncompleteReadError where the server closes before the answer is complete."""
        began = time.monotonic()
        self.writer.write(request)
        reply = await self.head(began)
        async for part in self.parts(reply):
            reply.body += part
        reply.ended = time.monotonic()
        return reply

    async def head(self, began: float) -> Reply:
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(": ") for line in lines if line)
        return Reply(int(status.split(" ")[1]), {name.lower(): value for name, _, value in fields}, began)

    async def parts(self, reply: Reply) -> AsyncIterator[bytes]:
        """The body as it comes; notes when it begins."""
        if "transfer-encoding" not in reply.headers:
            body = await self.reader.readexactly(int(reply.headers["content-length"]))
            reply.first = time.monotonic()
            yield body
            return
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            part = await self.reader.readexactly(size + 2)
            reply.first = reply.first or time.monotonic()
            yield part[:-2]
        await self.reader.readexactly(2)

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Leave without a word."""
        bare = cast("socket.socket", self.writer.get_extra_info("socket"))
        with contextlib.suppress(OSError):
            bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()


def request(
    question: str, *, stream: bool = False, headers: Mapping[str, str] | None = None, **fields: Any
) -> bytes:
    """A chat completion to be asked of the model `small`."""
    messages = [{"role": "user", "content": question}]
    body = {"model": "small", "messages": messages, "stream": stream, **fields}
    return post("/v1/chat/completions", body, headers)


def post(path: str, fields: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> bytes:
    """A request with a body of JSON."""
    body = msgspec.json.encode(fields)
    lines = [
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
