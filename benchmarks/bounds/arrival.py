"""Strangers and callers that send half of something, all at once, to a server that may use 512 MiB.

STRANGERS open a connection each and send a head of 57 KiB that never ends; CALLERS send nine tenths of a body of 1 MiB.
They hold their connections until the server closes them, and then come again. Beside them complete requests of 1 and
of 60 KiB are sent, each on a connection of its own, one after the other.

The server runs in a control group of its own where this user may make one, and is killed past the limit; elsewhere its
resident memory is watched. Needs two descriptors for each connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.bounds.sink import sink
from benchmarks.figures import Figure, progress
from testkit.processes import resident
from testkit.service import Service, announced, configuration

STRANGERS, CALLERS, LENGTH = 10_000, 1_000, 45.0
PAUSE = 10.0
"""Seconds after which those that were refused come again."""

LIMIT, SHARE = 512 * 2**20, 0.85
_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
_HALF_HEAD = _HEAD + b"".join(b"x-%d: %b\r\n" % (number, b"y" * 600) for number in range(95))
_BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 2**20}]}).encode()
_HALF_BODY = _HEAD + b"content-length: %d\r\n\r\n" % len(_BODY) + _BODY[: len(_BODY) * 9 // 10]
_GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))


async def measure() -> list[Figure]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < STRANGERS + CALLERS + 500:
        raise RuntimeError(f"needs {STRANGERS + CALLERS + 500} file descriptors, and may have {hard}")
    async with sink() as url:
        with _group() as group:
            async with _serving(configuration(url, None), group) as service:
                return await _flooded(service, group)


@asynccontextmanager
async def _serving(settings: dict[str, Any], group: Path | None) -> AsyncIterator[Service]:
    """In `group` from its first instruction on, for it reads its limit when it starts."""

    def join() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "dub5.yaml"
        config.write_text(json.dumps(settings), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dub5", "serve", "--config", str(config)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"DUB5_SERVER__PORT": "0", "DUB5_SERVER__OPERATIONS_PORT": "0", "DUB5_DRAIN__LINGER": "0s"},
            preexec_fn=join,  # there are no threads here
        )
        try:
            yield await announced(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _flooded(service: Service, group: Path | None) -> list[Figure]:
    host, port = service.url.removeprefix("http://").split(":")
    ends = time.monotonic() + LENGTH
    floods = [
        asyncio.create_task(_hold(host, int(port), half, ends))
        for half in itertools.chain([_HALF_HEAD] * STRANGERS, [_HALF_BODY] * CALLERS)
    ]
    peak = resident(service.pid)
    answered, asked, slowest, troubles = 0, 0, 0.0, Counter[str]()
    for number in itertools.count():
        if time.monotonic() > ends:
            break
        began = time.monotonic()
        asked += 1
        said = await asyncio.to_thread(_ask, host, int(port), number, 60 * 2**10 if number % 2 else 2**10)
        if said == "HTTP/1.1 200 OK":
            answered += 1
        else:
            troubles[f"{said} ({number})"] += 1
        slowest = max(slowest, time.monotonic() - began)
        peak = max(peak, resident(service.pid))
        progress(f"{answered} of {asked} answered, {peak / 2**20:.0f} MiB")
        await asyncio.sleep(0.05)
    alive = service.process.returncode is None
    for each in floods:
        each.cancel()
    held = await asyncio.gather(*floods, return_exceptions=True)
    closed = sum(each for each in held if isinstance(each, int))
    where = "in a control group of 512 MiB" if group is not None else "watched"
    return [
        Figure(
            f"{STRANGERS:,} half heads of 57 KiB and {CALLERS:,} half bodies of 1 MiB, {where}: the process",
            "lives",
            f"{'lives' if alive else 'died'}; connections came again {closed:,} times",
            alive,
        ),
        Figure(
            "its resident memory, at most",
            f"<= {SHARE:.0%} of 512 MiB",
            f"{peak / 2**20:.0f} MiB, {peak / LIMIT:.0%}",
            peak <= SHARE * LIMIT,
        ),
        Figure(
            "complete requests of 1 and 60 KiB beside them",
            "100 % answered",
            f"{answered:,} of {asked:,}; the slowest took {slowest:.1f} s"
            + "".join(f"; {count} x {said}" for said, count in troubles.items()),
            answered == asked and asked > 0,
        ),
    ]


async def _hold(host: str, port: int, half: bytes, ends: float) -> int:
    """Send half of a request, wait until that is refused, and come again. How often it was."""
    closed = 0
    try:
        while time.monotonic() < ends:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(half)
                    await writer.drain()
                    while await reader.read(2**16):
                        pass
                    closed += 1
                finally:
                    writer.close()
            await asyncio.sleep(PAUSE)
    except asyncio.CancelledError:
        pass
    return closed


def _ask(host: str, port: int, number: int, size: int) -> str:
    """The status line, or what went wrong. In a thread: the loop is busy with the flood, and would be late to send."""
    content = f"{number} " + "x" * size
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": content}]}).encode()
    head = _HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    try:
        with socket.create_connection((host, port), timeout=30) as connection:
            connection.sendall(head + body)
            return connection.recv(2**16).partition(b"\r\n")[0].decode() or "closed without a word"
    except OSError as error:
        return repr(error)


@contextlib.contextmanager
def _group() -> Iterator[Path | None]:
    """A control group with a limit, of version 1 or 2; None where this user may not make one."""
    made = None
    for root in _GROUPS:
        path = root / f"dub5-arrival-{os.getpid()}"
        with contextlib.suppress(OSError):
            path.mkdir()
            made = path
            name = "memory.limit_in_bytes" if root.name == "memory" else "memory.max"
            (path / name).write_text(str(LIMIT))
            break
        if made is not None:
            made.rmdir()
            made = None
    try:
        yield made
    finally:
        if made is not None:
            made.rmdir()
