"""Load: `wrk` for whole answers, `streamer` for streams. Both run on the core beside the server's.

wrk keeps a number of connections busy, each with one request after the other, and cannot look at answers; so answers
are checked by a client that can before each round, and wrk's mean size of an answer is compared with theirs.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.gateways.cores import OTHERS, pinned
from benchmarks.gateways.questions import HOST, Ask
from benchmarks.gateways.streamer import Seen
from testkit.redis_server import RedisServer

_DIVIDER = b"\x1e"
"""Between the heads or bodies in a file: they have no such byte."""
_SCRIPT = Path(__file__).with_name("ask.lua").read_text(encoding="utf-8")


class Load(msgspec.Struct, frozen=True):
    """What one round of load saw. `p50` and `p99` are seconds from request to answer; `bytes` with heads."""

    requests: int
    seconds: float
    bytes: int
    failed: int
    p50: float
    p99: float
    next: int = 0
    """The number that the next question would have."""

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


async def wrk(url: str, ask: Ask, *, connections: int, seconds: float) -> Load:
    """FRESH ids and white space are others each time."""
    with tempfile.TemporaryDirectory() as folder:
        host = url.split("/")[2].encode()
        heads = (head.replace(HOST, host) for head in ask.heads)
        for name, texts in {"heads": heads, "bodies": ask.bodies}.items():
            (Path(folder) / name).write_bytes(_DIVIDER.join(texts))
        given = {
            **{name: getattr(ask, name) for name in ("order", "count", "spellings", "seen")},
            "folder": folder,
            "number": ask.first,
            "seed": random.getrandbits(31),
        }
        script = Path(folder) / "ask.lua"
        lines = [f"{name} = {json.dumps(value)}" for name, value in given.items()]
        script.write_text("\n".join([*lines, _SCRIPT]), encoding="utf-8")
        printed = await run(
            *("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"),
            *("-s", str(script), url),
        )
    return msgspec.json.decode(printed.splitlines()[-1], type=Load)


async def streams(
    url: str,
    count: int,
    *,
    first: int,
    seconds: float,
    rest: float = 0.05,
    headers: Mapping[str, str] | None = None,
) -> Seen:
    """`count` streams at once, for `seconds` after a warm-up; unwatched ones are read every `rest` seconds."""
    printed = await run(
        *(sys.executable, "-m", "benchmarks.gateways.streamer", url),
        *(str(each) for each in (count, seconds, first, rest)),
        json.dumps(dict(headers or {})),
    )
    return msgspec.json.decode(printed, type=Seen)


async def run(*command: str) -> bytes:
    """A program's output, run beside the server's core. RuntimeError where it fails."""
    with pinned(OTHERS):
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    try:
        printed, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed: {complained.decode()[-500:]}")
    return printed


@asynccontextmanager
async def stand_in() -> AsyncIterator[str]:
    """The provider, beside the server's core; its URL without `/v1`."""
    with pinned(OTHERS):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.gateways.provider", stdout=asyncio.subprocess.PIPE
        )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


async def surroundings(
    stack: AsyncExitStack, redis: RedisServer | None = None
) -> tuple[Path, str, RedisServer]:
    """A folder, the provider's URL and a Redis, on the core of the load, for as long as `stack` lasts."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    provider = await stack.enter_async_context(stand_in())
    with pinned(OTHERS):
        return folder, provider, await stack.enter_async_context(redis or RedisServer())


def shown(value: Any) -> str:
    """Digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
