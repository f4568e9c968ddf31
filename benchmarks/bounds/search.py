"""One process that looks for the worst body: `python -m benchmarks.bounds.search BASE_URL SECONDS`.

Each body is asked of the whole application by ASGI, in parts of 64 KiB, with a provider that is a process of its own.
The stall is the longest CPU time of the loop's thread between two turns of a task that does nothing else than take its
turn: how busy the machine is does not matter. Memory is the peak of what Python has allocated, above what was there
before, as tracemalloc counts it, in a run of its own. Address space is limited, so that a body that takes everything
ends this process only. Prints a line of JSON for each body.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import random
import resource
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.bounds import ordinary
from benchmarks.bounds.worst import Genes, body, mutated, thought_of
from dub5.app import Application
from dub5.settings_loader import convert

MIB = 2**20
SIZES = (12 * 2**10, 60 * 2**10, 250 * 2**10, MIB, 4 * MIB, 20 * MIB)
SEED = 7
ADDRESSES = 4 * 2**30
STALL = 0.050
_PART = 64 * 2**10
_POOL = 4
_tags = itertools.count(1)


class Measured:
    """Of one body."""

    def __init__(self, size: int, status: int, stall: float, memory: int) -> None:
        self.size, self.status, self.stall, self.memory = size, status, stall, memory

    @property
    def badness(self) -> float:
        """Above 1 where a bar is missed."""
        return max(self.stall / STALL, self.memory / (8 * self.size + MIB), float(self.status >= 500))


@contextlib.asynccontextmanager
async def application(base_url: str) -> AsyncIterator[Application]:
    settings = convert(
        {
            "server": {"port": 0, "operations_port": 0, "max_arriving": "8GiB"},
            "providers": {"sink": {"kind": "openai", "base_url": base_url}},
            "models": {"m": {"routes": ["sink/m"]}},
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
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
        "root_path": "",
        "state": {},
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    await built.public(scope, receive, send)
    return status


async def measured(built: Application, raw: bytes) -> Measured:
    stall = 0.0

    async def beat() -> None:
        nonlocal stall
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            stall, last = max(stall, now - last), now

    heart = asyncio.create_task(beat())
    await asyncio.sleep(0)
    status = await ask(built, raw)
    heart.cancel()
    gc.collect()
    tracemalloc.start(1)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    await ask(built, raw)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Measured(len(raw), status, stall, peak - before)


async def search(base_url: str, seconds: float) -> None:
    chance = random.Random(SEED)  # a search that can be repeated
    async with application(base_url) as built:
        await measured(built, body(thought_of()[0], SIZES[0]))
        for name, raw in ordinary.bodies():
            _tell(await measured(built, raw), len(raw), name, ordinary=True)
        ends = time.monotonic() + seconds
        for index, size in enumerate(SIZES):
            until = time.monotonic() + max(0.0, ends - time.monotonic()) / (len(SIZES) - index)
            pool = [(await _tried(built, genes, size), genes) for genes in thought_of()]
            while time.monotonic() < until:
                pool = sorted(pool, key=lambda each: -each[0])[:_POOL]
                genes = mutated(chance.choice(pool)[1], chance)
                pool.append((await _tried(built, genes, size), genes))


async def _tried(built: Application, genes: Genes, size: int) -> float:
    raw = body(genes, size)
    found = await measured(built, raw)
    if found.badness > 1:  # once more: a busy machine has cold caches
        again = await measured(built, raw)
        found = min(found, again, key=lambda each: each.badness)
    _tell(found, size, str(genes))
    return found.badness


def _tell(found: Measured, size: int, genes: str, *, ordinary: bool = False) -> None:
    told = {
        "size": size,
        "bytes": found.size,
        "status": found.status,
        "stall": found.stall,
        "memory": found.memory,
        "genes": genes,
        "ordinary": ordinary,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    asyncio.run(search(sys.argv[1], float(sys.argv[2])))
