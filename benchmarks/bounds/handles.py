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
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.figures import Figure, progress
from testkit.processes import free_port
from testkit.service import Service, announced, configuration

DESCRIPTORS, CALLERS, STRANGERS, HOLD = 256, 400, 600, 0.5
_NEEDED = 4 * (CALLERS + STRANGERS)
_ANSWER = b"".join(
    b"data: %b\n\n" % (word if isinstance(word, bytes) else json.dumps(word).encode())
    for word in (
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": "Here."}, "finish_reason": "stop"}],
        },
        b"[DONE]",
    )
)
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(_ANSWER)
) + _ANSWER


async def measure() -> list[Figure]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _NEEDED:
        raise RuntimeError(f"needs {_NEEDED} file descriptors, and may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    async with provider() as url, serving(url, DESCRIPTORS) as service:
        figures = await crowded(service)
    return [*figures, *await _streams()]


@asynccontextmanager
async def provider() -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = re.search(rb"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                await asyncio.sleep(HOLD)
                writer.write(_STREAM)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1000) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@asynccontextmanager
async def serving(url: str, descriptors: int) -> AsyncIterator[Service]:
    """Which may have so many `descriptors`."""

    folder = await asyncio.to_thread(tempfile.TemporaryDirectory)
    try:
        config = Path(folder.name) / "dub5.yaml"
        await asyncio.to_thread(config.write_text, json.dumps(configuration(url, None)), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh"),
            *(sys.executable, "-m", "dub5", "serve", "--config", str(config)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=_ENVIRONMENT,
        )
        try:
            yield await announced(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    finally:
        await asyncio.to_thread(folder.cleanup)


_ENVIRONMENT = {
    "DUB5_SERVER__PORT": "0",
    "DUB5_SERVER__OPERATIONS_PORT": "0",
    "DUB5_DRAIN__LINGER": "0s",
    "PYTHONPATH": os.pathsep.join(sys.path),
}


async def crowded(service: Service) -> list[Figure]:
    questions = itertools.count()
    once = Counter(await asyncio.gather(*(_ask(service.url, next(questions)) for _ in range(CALLERS))))
    progress(str(once))
    patient = Counter(
        await asyncio.gather(*(_ask_until_answered(service.url, next(questions)) for _ in range(CALLERS)))
    )
    progress(str(patient))
    strangers = await asyncio.gather(*(_connect(service.url) for _ in range(STRANGERS)))
    among, probed = await asyncio.gather(
        _ask(service.url, next(questions)), _get(service.operations_url, "/livez")
    )
    for _, writer in strangers:
        writer.close()
    opened, failed = await _breakers(service)
    return [
        Figure(
            f"{DESCRIPTORS} descriptors, {CALLERS} callers at once: a stream, or 503 with Retry-After",
            f"{CALLERS} of {CALLERS}",
            _told(once),
            once["answered"] + once["503, Retry-After"] == CALLERS and once["answered"] > 0,
        ),
        Figure(
            "the same, where whoever is told to come back does",
            f"{CALLERS} of {CALLERS} answered",
            _told(patient),
            patient["answered"] == CALLERS,
        ),
        Figure(
            f"then {STRANGERS} connections that send nothing: a new request, /livez",
            "answered",
            f"{among}, {probed}",
            among == "answered" and probed == "answered",
        ),
        Figure(
            "breakers that are open then; calls counted against the provider",
            "0; 0",
            f"{opened}; {failed}",
            (opened, failed) == (0, 0),
        ),
    ]


def _told(endings: Counter[str]) -> str:
    return ", ".join(f"{count} {ending}" for ending, count in endings.most_common())


async def _ask(url: str, number: int) -> str:
    """How a streamed question on a connection of its own ends."""
    content = f"question {number}"
    body = json.dumps(
        {"model": "small", "messages": [{"role": "user", "content": content}], "stream": True}
    ).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    said = await _exchange(url, head + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
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
    said = await _exchange(
        url, b"GET %b HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n" % path.encode()
    )
    return "answered" if said.startswith(b"HTTP/1.1 200 ") else said[:12].decode() or "cut off"


async def _exchange(url: str, request: bytes) -> bytes:
    """All that comes until the connection is closed."""
    said = b""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(60):
            reader, writer = await _connect(url)
            try:
                writer.write(request)
                while part := await reader.read(2**16):
                    said += part
            finally:
                writer.close()
    return said


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = url.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


async def _breakers(service: Service) -> tuple[int, int]:
    """How many breakers are not closed now, and how many calls were counted against the provider."""
    request = b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    told = (await _exchange(service.operations_url, request)).decode()
    states = re.findall(r"^dub5_provider_breaker_state\{.*\} (\S+)$", told, re.MULTILINE)
    calls = re.findall(r'^dub5_provider_requests_total\{.*outcome="(\w+)".*\} (\S+)$', told, re.MULTILINE)
    if not states or not calls:
        raise RuntimeError("no breaker or no call is in the metrics")
    failed = sum(int(float(count)) for outcome, count in calls if outcome in {"error", "timeout", "limited"})
    return sum(float(state) > 0 for state in states), failed


@contextlib.contextmanager
def _full() -> Iterator[int]:
    """A disk without room."""
    with Path("/dev/full").open("wb") as full:
        yield full.fileno()


@contextlib.contextmanager
def _unread() -> Iterator[int]:
    """A pipe that is full, and that nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 2**16)
    os.set_blocking(writing, True)
    try:
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


@contextlib.contextmanager
def _gone() -> Iterator[int]:
    """A pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


@contextlib.contextmanager
def _usual() -> Iterator[int]:
    with Path(os.devnull).open("r+b") as nowhere:
        yield nowhere.fileno()


_KINDS: dict[str, Callable[[], contextlib.AbstractContextManager[int]]] = {
    "full": _full,
    "closed": _usual,  # the shell closes it
    "unread": _unread,
    "gone": _gone,
    "usual": _usual,
}
STREAMS = [
    *((kind, kind, kind == "closed") for kind in _KINDS),
    *((kind, "usual", False) for kind in ("full", "closed", "unread", "gone")),
    *(("usual", kind, False) for kind in ("full", "closed", "unread", "gone")),
    ("usual", "usual", True),
]
"""What standard output and error are, and whether standard input is closed."""

REQUESTS = 50


async def _streams() -> list[Figure]:
    endings = [await with_streams(*each) for each in STREAMS]
    well = sum(ending == "whole" for ending in endings)
    others = "".join(
        f"; {' '.join(map(str, streams))}: {ending}"
        for streams, ending in zip(STREAMS, endings, strict=True)
        if ending != "whole"
    )
    return [
        Figure(
            f"standard output and error full, closed, unread or without a reader: {REQUESTS} requests, exit code 0",
            f"{len(STREAMS)} of {len(STREAMS)}",
            f"{well} of {len(STREAMS)}{others}",
            well == len(STREAMS),
        )
    ]


async def with_streams(out: str, error: str, no_input: bool) -> str:
    """What becomes of a service that is started with these, serves REQUESTS and is told to stop."""
    port, operations = free_port(), free_port()
    closing = "".join(
        (" >&-" if out == "closed" else "", " 2>&-" if error == "closed" else "", " <&-" if no_input else "")
    )
    with contextlib.ExitStack() as stack:
        given = [stack.enter_context(_KINDS[kind]()) for kind in (out, error)]
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", f'exec "$@"{closing}', "sh", sys.executable, "-m", "dub5", "serve"),
            stdout=given[0],
            stderr=given[1],
            stdin=asyncio.subprocess.DEVNULL,
            env={
                **_ENVIRONMENT,
                "DUB5_SERVER__PORT": str(port),
                "DUB5_SERVER__OPERATIONS_PORT": str(operations),
            },
        )
        try:
            ready = await _comes_up(process, f"http://127.0.0.1:{operations}")
            if not ready:
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
