"""File descriptors and standard streams: 256 of the former and 400 callers, 600 strangers; the latter full or closed.

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

from benchmarks.bounds.limited import ENVIRONMENT, connect, exchange, limited, may_open
from benchmarks.figures import Figure, progress
from testkit.processes import free_port
from testkit.service import Service, configuration

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


async def measure() -> list[Figure]:
    may_open(4 * (CALLERS + STRANGERS))
    async with provider() as url, serving(url, DESCRIPTORS) as service:
        figures = await crowded(service)
    endings = [await with_streams(*each) for each in STREAMS]
    well = endings.count("whole")
    pairs = zip(STREAMS, endings, strict=True)
    others = "".join(f"; {' '.join(map(str, each))}: {ending}" for each, ending in pairs if ending != "whole")
    what = f"standard output and error full, closed, unread or without a reader: {REQUESTS} requests, exit code 0"
    all_of_them = f"{len(STREAMS)} of {len(STREAMS)}"
    return [
        *figures,
        Figure(what, all_of_them, f"{well} of {len(STREAMS)}{others}", well == len(STREAMS)),
    ]


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


def serving(url: str, descriptors: int) -> contextlib.AbstractAsyncContextManager[Service]:
    """Which may have so many `descriptors`."""
    return limited(configuration(url, None), f"ulimit -n {descriptors}")


async def crowded(service: Service) -> list[Figure]:
    numbers = itertools.count()
    once = Counter(await asyncio.gather(*(_ask(service.url, next(numbers)) for _ in range(CALLERS))))
    progress(str(once))
    again = Counter(
        await asyncio.gather(*(_ask_until_answered(service.url, next(numbers)) for _ in range(CALLERS)))
    )
    progress(str(again))
    strangers = await asyncio.gather(*(connect(service.url) for _ in range(STRANGERS)))
    among, probed = await asyncio.gather(
        _ask(service.url, next(numbers)), _get(service.operations_url, "/livez")
    )
    for _, writer in strangers:
        writer.close()
    opened, failed = await _breakers(service)
    come = f"{DESCRIPTORS} descriptors, {CALLERS} callers at once: a stream, or 503 with Retry-After"
    answered = once["answered"] + once["503, Retry-After"] == CALLERS and once["answered"] > 0
    everyone = f"{CALLERS} of {CALLERS} answered"
    silent = f"then {STRANGERS} connections that send nothing: a new request, /livez"
    breakers = "breakers that are open then; calls counted against the provider"
    return [
        Figure(come, f"{CALLERS} of {CALLERS}", _counted(once), answered),
        Figure(
            "the same, where whoever is told to come back does",
            everyone,
            _counted(again),
            again["answered"] == CALLERS,
        ),
        Figure(silent, "answered", f"{among}, {probed}", among == probed == "answered"),
        Figure(breakers, "0; 0", f"{opened}; {failed}", (opened, failed) == (0, 0)),
    ]


def _counted(endings: Counter[str]) -> str:
    return ", ".join(f"{count} {ending}" for ending, count in endings.most_common())


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


async def with_streams(out: str, error: str, no_input: bool) -> str:
    """What becomes of a service that is started with these, serves REQUESTS and is told to stop."""
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
            if not await _comes_up(process, f"http://127.0.0.1:{operations}"):
                return f"did not start, exit code {process.returncode}"
            asked = [_get(f"http://127.0.0.1:{port}", "/v1/models") for _ in range(REQUESTS)]
            answered = (await asyncio.gather(*asked)).count("answered")
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return "whole" if (answered, code) == (REQUESTS, 0) else f"{answered} answered, exit code {code}"


async def _comes_up(process: asyncio.subprocess.Process, operations: str) -> bool:
    for _ in range(600):
        if process.returncode is not None:
            return False
        if await _get(operations, "/readyz") == "answered":
            return True
        await asyncio.sleep(0.1)
    return False
