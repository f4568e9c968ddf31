"""An answer that is there whole goes out in one write: the very bytes that uvicorn writes in two."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from litestar.types import Receive, Scope, Send
from uvicorn.config import Config

from dub5.server.protocol import ConnectionLimits, Connections, GuardedProtocol
from dub5.telemetry.metrics import Metrics
from dub5.telemetry.record import WHOLE, Recorder, TelemetryMiddleware
from tests.transports import Taking

_TOOK = re.compile(rb"openai-processing-ms: \d+\r\n")
_JSON = (b"content-type", b"application/json")
_LONG = b"x" * 100_000


class Transport(Taking):
    """Each write by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(_TOOK.sub(b"", bytes(data)))


async def answered(
    request: bytes, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, at_once: bool
) -> Transport:
    """What a connection is written on which this comes, and an application answers so."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    recorder = Recorder(Metrics(), random_bytes=bytes)
    measured = TelemetryMiddleware(app, recorder)

    async def entrance(scope: Any, receive: Receive, send: Send) -> None:
        if not at_once:
            del scope[WHOLE]
        await measured(scope, receive, send)

    limits = ConnectionLimits(read_timeout=30, write_timeout=20, idle=75, max_connections=10)
    connections = Connections(limits, lambda _: None)
    connections.default_headers = [(b"date", b"today")]
    config = Config(entrance, access_log=False, log_config=None)
    config.load()
    protocol, transport = GuardedProtocol(config, connections, {}), Transport()
    protocol.connection_made(transport)
    protocol.data_received(request)
    while connections.tasks:
        await asyncio.wait(list(connections.tasks))
    return transport


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", str(len(body)).encode()


@pytest.mark.parametrize(
    ("method", "version", "status", "more", "body", "writes"),
    [
        (b"POST", b"1.1", 200, [_length(b"{}"), _JSON], b"{}", 1),
        (b"GET", b"1.1", 404, [_JSON, _length(b"no")], b"no", 1),
        (b"GET", b"1.1", 200, [_length(b"")], b"", 1),
        (b"GET", b"1.1", 503, [_length(b"no"), (b"connection", b"close")], b"no", 1),
        (b"GET", b"1.0", 200, [_length(b"yes")], b"yes", 1),
        # What is unusual is left to uvicorn.
        (b"GET", b"1.1", 200, [_length(b"yes"), (b"connection", b"close, x")], b"yes", 2),
        (b"HEAD", b"1.1", 200, [_length(b"yes")], b"yes", 1),
        (b"GET", b"1.1", 200, [_JSON], b"{}", 2),
        (b"GET", b"1.1", 200, [_length(_LONG)], _LONG, 2),
    ],
)
async def test_what_is_written_is_what_uvicorn_writes(
    method: bytes, version: bytes, status: int, more: list[tuple[bytes, bytes]], body: bytes, writes: int
) -> None:
    request = b"%b / HTTP/%b\r\nHost: localhost\r\n\r\n" % (method, version)
    at_once = await answered(request, status, more, body, at_once=True)
    in_parts = await answered(request, status, more, body, at_once=False)
    assert b"".join(at_once.writes) == b"".join(in_parts.writes)
    assert at_once.closed == in_parts.closed
    assert len([each for each in at_once.writes if each]) == writes


@pytest.mark.parametrize(
    "wrong", [[(b"x", b"a\r\nb: c"), _length(b"{}")], [(b"x\r\n", b"a"), _length(b"{}")], [_length(b"{")]]
)
async def test_what_must_not_be_written_is_not(wrong: list[tuple[bytes, bytes]]) -> None:
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    at_once = await answered(request, 200, wrong, b"{}", at_once=True)
    in_parts = await answered(request, 200, wrong, b"{}", at_once=False)
    assert b"".join(at_once.writes) == b"".join(in_parts.writes)
    assert b"b: c" not in b"".join(at_once.writes)
