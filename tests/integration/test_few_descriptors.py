"""256 file descriptors with 400 callers and 600 strangers; standard streams that are full, closed, unread or gone.

The 400 callers connect at once and stream answers that take HOLD seconds each. First each calls once; then all call at
once again, and whoever is told to come back does. Then 600 strangers connect and send nothing, and beside them one
request and one probe of /livez are sent on new connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from testkit.limited import ENVIRONMENT, connect, exchange, limited
from testkit.processes import free_port
from testkit.service import Service, configuration
from tests.harness import size

DESCRIPTORS, CALLERS, STRANGERS, HOLD, REQUESTS = 256, 400, 600, 0.5, 50
_ANSWER = (
    b'data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", '
    b'"choices": [{"index": 0, "delta": {"content": "Here."}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(_ANSWER)
_END = b"HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
KINDS = ("full", "closed", "unread", "gone")
STREAMS = [
    *((kind, kind, kind == "closed") for kind in (*KINDS, "usual")),
    *((kind, "usual", False) for kind in KINDS),
    *(("usual", kind, False) for kind in KINDS),
    ("usual", "usual", True),
]
"""What standard output and error are, and whether standard input is closed."""


@asynccontextmanager
async def provider() -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = re.search(rb"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                await asyncio.sleep(HOLD)
                writer.write(_STREAM + _ANSWER)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1000) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def test_with_few_descriptors_each_is_answered_or_told_to_come_back() -> None:
    numbers = itertools.count()
    async with (
        provider() as url,
        limited(configuration(url, None), f"ulimit -n {DESCRIPTORS}") as service,
    ):
        once = Counter(await asyncio.gather(*(_ask(service.url, next(numbers)) for _ in range(CALLERS))))
        assert once.keys() <= {"answered", "503, Retry-After"}
        assert once["answered"] > 0
        asked = (_ask_until_answered(service.url, next(numbers)) for _ in range(CALLERS))
        assert set(await asyncio.gather(*asked)) == {"answered"}
        strangers = await asyncio.gather(*(connect(service.url) for _ in range(STRANGERS)))
        among = await asyncio.gather(_ask(service.url, next(numbers)), _get(service.operations_url, "/livez"))
        assert among == ["answered", "answered"]
        for _, writer in strangers:
            writer.close()
        assert await _breakers(service) == (0, 0)


@pytest.mark.parametrize(("out", "error", "no_input"), STREAMS[: size(5)])
async def test_nothing_about_the_standard_streams_ends_or_stalls_the_service(
    out: str, error: str, no_input: bool
) -> None:
    """It is started with these, serves REQUESTS and is told to stop."""
    port, operations = free_port(), free_port()
    ports = {"DUB5_SERVER__PORT": str(port), "DUB5_SERVER__OPERATIONS_PORT": str(operations)}
    closing = " >&-" * (out == "closed") + " 2>&-" * (error == "closed") + " <&-" * no_input
    with contextlib.ExitStack() as stack:
        given = [stack.enter_context(_stream(kind)) for kind in (out, error)]
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", f'exec "$@"{closing}', "sh", sys.executable, "-m", "dub5", "serve"),
            stdout=given[0],
            stderr=given[1],
            stdin=asyncio.subprocess.DEVNULL,
            env=ENVIRONMENT | ports,
        )
        try:
            async with asyncio.timeout(60):
                while await _get(f"http://127.0.0.1:{operations}", "/readyz") != "answered":
                    assert process.returncode is None
                    await asyncio.sleep(0.1)
            asked = [_get(f"http://127.0.0.1:{port}", "/v1/models") for _ in range(REQUESTS)]
            assert set(await asyncio.gather(*asked)) == {"answered"}
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _ask(url: str, number: int) -> str:
    """How a streamed question on a connection of its own ends."""
    messages = [{"role": "user", "content": f"question {number}"}]
    body = json.dumps({"model": "small", "messages": messages, "stream": True}).encode()
    head = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    said = await exchange(url, b"POST /v1/chat/completions " + _END + head + body)
    if said.startswith(b"HTTP/1.1 200 ") and b"data: [DONE]" in said:
        return "answered"
    status = said[9:12].decode(errors="replace")
    return f"{status}, Retry-After" if b"\r\nretry-after: " in said.lower() else status or "cut off"


async def _ask_until_answered(url: str, number: int) -> str:
    for _ in range(60):
        ending = await _ask(url, number)
        if ending != "503, Retry-After":
            return ending
        await asyncio.sleep(1)
    return "turned away for a minute"


async def _get(url: str, path: str) -> str:
    said = await exchange(url, b"GET %b %b\r\n" % (path.encode(), _END))
    return "answered" if said.startswith(b"HTTP/1.1 200 ") else said[:12].decode() or "cut off"


async def _breakers(service: Service) -> tuple[int, int]:
    """How many breakers are not closed now, and how many calls were counted against the provider."""
    said = (await exchange(service.operations_url, b"GET /metrics " + _END + b"\r\n")).decode()
    states = re.findall(r"^dub5_provider_breaker_state\{.*\} (\S+)$", said, re.MULTILINE)
    calls = re.findall(r'^dub5_provider_requests_total\{.*outcome="(\w+)".*\} (\S+)$', said, re.MULTILINE)
    if not states or not calls:
        raise RuntimeError("no breaker or no call is in the metrics")
    failed = sum(int(float(count)) for outcome, count in calls if outcome in {"error", "timeout", "limited"})
    return sum(float(state) > 0 for state in states), failed


@contextlib.contextmanager
def _stream(kind: str) -> Iterator[int]:
    """full: a disk without room. unread: a pipe that is full, and that nobody reads. gone: one whose reader has gone.
    Others are usual; the shell closes what is to be closed."""
    if kind not in {"unread", "gone"}:
        with Path("/dev/full" if kind == "full" else os.devnull).open("r+b", buffering=0) as file:
            yield file.fileno()
        return
    reading, writing = os.pipe()
    if kind == "unread":
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 2**16)
        os.set_blocking(writing, True)
    else:
        os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)
        if kind == "unread":
            os.close(reading)
