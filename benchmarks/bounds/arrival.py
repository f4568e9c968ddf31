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
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bounds.sink import sink
from benchmarks.figures import Figure, progress
from testkit.limited import connect, limited, may_open
from testkit.processes import resident
from testkit.service import Service, configuration

STRANGERS, CALLERS, LENGTH = 10_000, 1_000, 45.0
PAUSE = 10.0
"""Seconds after which those that were refused come again."""

LIMIT, SHARE = 512 * 2**20, 0.85
_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
_HALF_HEAD = _HEAD + b"".join(b"x-%d: %b\r\n" % (number, b"y" * 600) for number in range(95))
_BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 2**20}]}).encode()
_HALF_BODY = _HEAD + b"content-length: %d\r\n\r\n" % len(_BODY) + _BODY[: len(_BODY) * 9 // 10]


async def measure() -> list[Figure]:
    may_open(STRANGERS + CALLERS + 500)
    async with sink() as url:
        with _group() as group:
            join = f"echo $$ >{group}/cgroup.procs" if group is not None else "true"
            async with limited(configuration(url, None), join) as service:
                return await _flooded(
                    service, "watched" if group is None else "in a control group of 512 MiB"
                )


async def _flooded(service: Service, where: str) -> list[Figure]:
    ends = time.monotonic() + LENGTH
    halves = itertools.chain([_HALF_HEAD] * STRANGERS, [_HALF_BODY] * CALLERS)
    floods = [asyncio.create_task(_hold(service.url, half, ends)) for half in halves]
    peak, answered, asked, slowest, failures = resident(service.pid), 0, 0, 0.0, Counter[str]()
    while time.monotonic() < ends:
        began = time.monotonic()
        asked += 1
        said = await asyncio.to_thread(_ask, service.url, asked, 60 * 2**10 if asked % 2 else 2**10)
        answered += said == "HTTP/1.1 200 OK"
        if said != "HTTP/1.1 200 OK":
            failures[f"{said} ({asked})"] += 1
        slowest = max(slowest, time.monotonic() - began)
        peak = max(peak, resident(service.pid))
        progress(f"{answered} of {asked} answered, {peak / 2**20:.0f} MiB")
        await asyncio.sleep(0.05)
    alive = service.process.returncode is None
    for each in floods:
        each.cancel()
    held = await asyncio.gather(*floods, return_exceptions=True)
    closed = sum(each for each in held if isinstance(each, int))
    flood = f"{STRANGERS:,} half heads of 57 KiB and {CALLERS:,} half bodies of 1 MiB, {where}: the process"
    lives = f"{'lives' if alive else 'died'}; connections came again {closed:,} times"
    used = f"{peak / 2**20:.0f} MiB, {peak / LIMIT:.0%}"
    failed = "".join(f"; {count} x {said}" for said, count in failures.items())
    got = f"{answered:,} of {asked:,}; the slowest took {slowest:.1f} s{failed}"
    beside = "complete requests of 1 and 60 KiB beside them"
    return [
        Figure(flood, "lives", lives, alive),
        Figure("its resident memory, at most", f"<= {SHARE:.0%} of 512 MiB", used, peak <= SHARE * LIMIT),
        Figure(beside, "100 % answered", got, answered == asked and asked > 0),
    ]


async def _hold(url: str, half: bytes, ends: float) -> int:
    """Send half of a request, wait until that is refused, and come again. How often it was."""
    closed = 0
    with contextlib.suppress(asyncio.CancelledError):
        while time.monotonic() < ends:
            with contextlib.suppress(OSError):
                reader, writer = await connect(url)
                try:
                    writer.write(half)
                    await writer.drain()
                    while await reader.read(2**16):
                        pass
                    closed += 1
                finally:
                    writer.close()
            await asyncio.sleep(PAUSE)
    return closed


def _ask(url: str, number: int, size: int) -> str:
    """The status line, or what went wrong. In a thread: the loop is busy with the flood, and would be late to send."""
    host, _, port = url.removeprefix("http://").partition(":")
    content = f"{number} " + "x" * size
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": content}]}).encode()
    head = _HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    try:
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(head + body)
            return connection.recv(2**16).partition(b"\r\n")[0].decode() or "closed without a word"
    except OSError as error:
        return repr(error)


@contextlib.contextmanager
def _group() -> Iterator[Path | None]:
    """A control group with a limit, of version 1 or 2; None where this user may not make one."""
    made = None
    for root, file in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        path = Path(root) / f"dub5-arrival-{os.getpid()}"
        with contextlib.suppress(OSError):
            path.mkdir()
            try:
                (path / file).write_text(str(LIMIT))
                made = path
                break
            except OSError:
                path.rmdir()
    try:
        yield made
    finally:
        if made is not None:
            made.rmdir()
