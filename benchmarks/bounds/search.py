"""One process that looks for the worst body: `python -m benchmarks.bounds.search BASE_URL SEED TIMES SIZE`.

Each body is asked of the whole application by ASGI, in parts of 64 KiB, with a provider that is a process of its own.
The stall is the longest CPU time of the loop's thread between two turns of a task that does nothing else than take its
turn: how busy the machine is hardly matters. What comes near the bar is measured again, and the least counts, for the
work is the same each time and a cold cache is not.

Memory is the peak of what Python has allocated, above what was there before, as tracemalloc counts it, in a run of its
own. That takes many times as long, so of the larger bodies only those are counted that way which take most of the
resident set, or more of it than is allowed. Address space is limited, so that a body that takes everything ends this
process only. Prints a line of JSON for each body.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import itertools
import random
import resource
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.bounds import ordinary
from benchmarks.bounds.worst import Genes, body, mutated, schemas, thought_of
from dub5.app import Application
from dub5.settings.loader import convert

MIB = 2**20
SIZES = (12 * 2**10, 60 * 2**10, 250 * 2**10, MIB, 4 * MIB, 20 * MIB)
ADDRESSES = 4 * 2**30
STALL = 0.050
MUTATIONS = {12 * 2**10: 200, 60 * 2**10: 200, 250 * 2**10: 120, MIB: 80, 4 * MIB: 30, 20 * MIB: 12}
"""How many bodies are tried at a size besides those that were thought of."""

_COUNTED = MIB
"""Bytes up to which the memory of each body is counted."""
_MOST_COUNTED = 5
"""Larger ones of a size of which it is, at least."""
_NEAR = 0.6
_TRIES = 4
_PART = 64 * 2**10
_POOL = 4
_tags = itertools.count(1)


class Measured(msgspec.Struct):
    """Of one body of `bytes`, about `size`."""

    bytes: int
    status: int
    stall: float
    memory: int
    size: int = 0
    genes: str = ""
    ordinary: bool = False

    @property
    def share(self) -> float:
        """Of the bar of memory."""
        return self.memory / (8 * self.bytes + MIB)

    @property
    def badness(self) -> float:
        """Above 1 where a bar is missed."""
        return max(self.stall / STALL, self.share, float(self.status >= 500))


@contextlib.asynccontextmanager
async def application(base_url: str) -> AsyncIterator[Application]:
    settings = convert(
        {
            "server": {"port": 0, "operations_port": 0, "max_arriving": "8GiB"},
            "providers": {
                "sink": {"kind": "openai", "base_url": base_url},
                "claude": {"kind": "anthropic", "base_url": base_url},
            },
            "models": {"m": {"routes": ["sink/m"]}, "claude": {"routes": ["claude/claude-haiku-4-5"]}},
            "limits": {"default": {"tokens_per_minute": 10**9}},
        }
    )
    async with Application(settings, {}) as built:
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)  # as `dub5 serve` does
        yield built


async def ask(built: Application, raw: bytes) -> int:
    """The status of an answer that is not cached."""
    position, status = 0, 0
    gone = asyncio.Event()

    async def receive() -> Any:
        nonlocal position
        if position >= len(raw):
            await gone.wait()
            return {"type": "http.disconnect"}
        await asyncio.sleep(0)  # a socket takes its time
        part = raw[position : position + _PART]
        position += _PART
        return {"type": "http.request", "body": part, "more_body": position < len(raw)}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    tag = str(next(_tags)).encode()
    headers = [(b"content-type", b"application/json"), (b"x-dub5-cache-tags", tag)]
    scope: Any = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "root_path": "",
        "query_string": b"",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "headers": headers,
        **dict.fromkeys(("client", "server"), ("127.0.0.1", 1)),
        "state": {},
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    await built.public(scope, receive, send)
    return status


async def measured(built: Application, raw: bytes) -> Measured:
    """With the resident set for memory."""
    stall = 0.0

    async def beat() -> None:
        nonlocal stall
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            stall, last = max(stall, now - last), now

    gc.collect()
    _trim(0)
    before = _from_now_on()
    heart = asyncio.create_task(beat())
    await asyncio.sleep(0)
    status = await ask(built, raw)
    heart.cancel()
    return Measured(len(raw), status, stall, _resident("VmHWM") - before)


async def counted(built: Application, raw: bytes) -> int:
    """Bytes that Python allocates, at most."""
    gc.collect()
    tracemalloc.start(1)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    await ask(built, raw)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - before


_trim = ctypes.CDLL(None).malloc_trim


def _from_now_on() -> int:
    """Bytes in memory, of which the peak is forgotten."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _resident("VmRSS")


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 2**10


async def search(base_url: str, seed: int, times: float, size: int) -> None:
    """`times` as many mutations as usual, of one size; 0 for the ordinary bodies."""
    chance = random.Random(seed)  # a search that can be repeated
    async with application(base_url) as built:
        await measured(built, body(thought_of()[0], SIZES[0]))
        for name, raw in ordinary.bodies() if size == 0 else ():
            found = await _surely(built, raw)
            found.memory = await counted(built, raw)
            _report(found, len(raw), name, ordinary=True)
        if size == 0:
            return
        for name, raw in schemas(size):
            found = await _surely(built, raw)
            found.memory = await counted(built, raw)
            _report(found, size, name)
        tried = [(await _tried(built, genes, size), genes) for genes in thought_of()]
        pool = tried
        for _ in range(int(MUTATIONS[size] * times)):
            pool = sorted(pool, key=lambda each: -each[0].badness)[:_POOL]
            genes = mutated(chance.choice(pool)[1], chance)
            tried.append((await _tried(built, genes, size), genes))
            pool.append(tried[-1])
        if size > _COUNTED:
            largest = sorted(tried, key=lambda each: -each[0].memory)
            for number, (found, genes) in enumerate(largest):
                # What the allocator keeps for itself is in the resident set too: that alone misses no bar.
                if number < _MOST_COUNTED or found.share > 1:
                    found.memory = await counted(built, body(genes, size))
        for found, genes in tried:
            _report(found, size, str(genes))


async def _tried(built: Application, genes: Genes, size: int) -> Measured:
    raw = body(genes, size)
    found = await _surely(built, raw)
    if size <= _COUNTED:
        found.memory = await counted(built, raw)
    return found


async def _surely(built: Application, raw: bytes) -> Measured:
    found = await measured(built, raw)
    for _ in range(_TRIES - 1):
        if found.stall > _NEAR * STALL:
            found.stall = min(found.stall, (await measured(built, raw)).stall)
    return found


def _report(found: Measured, size: int, genes: str, *, ordinary: bool = False) -> None:
    found.size, found.genes, found.ordinary = size, genes, ordinary
    print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    asyncio.run(search(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
