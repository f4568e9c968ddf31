"""Load: `wrk` for whole answers, `streamer` for streams. Both run on the core beside the server's.

wrk keeps a number of connections busy, each with one request after the other, and cannot look at answers; so answers
are checked by a client that can before each round, and wrk's mean size of an answer is compared with theirs.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from benchmarks.gateways.cores import OTHERS, pinned
from benchmarks.gateways.streamer import PATH, Seen
from testkit.redis_server import RedisServer

_SCRIPT = """
local before, middle, after = %(parts)s
number = %(first)d
local order, count = "%(order)s", %(count)d
local pad = "%%012d"
math.randomseed(%(first)d + 1)
function request()
  local id
  if order == "new" then id = number
  elseif order == "random" then id = math.random(0, count - 1)
  else id = number %% count end
  number = number + 1
  local digits = pad:format(id)
  if middle then return before .. digits .. middle .. digits .. after end
  return before .. digits .. after
end
local threads = {}
function setup(thread) threads[#threads + 1] = thread end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests": %%d, "seconds": %%f, "bytes": %%d, "failed": %%d, "p50": %%f, "p99": %%f, "next": %%d}\\n',
    summary.requests, summary.duration / 1e6, summary.bytes,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, threads[1]:get("number")))
end
"""
ID = "000000000000"
"""What the number of a question replaces."""


class Ask(msgspec.Struct, frozen=True):
    """Questions numbered from `first`: each new, or out of `count` in turn or at random.

    `filler` is added to each question, in bytes; `header` may hold twelve zeros, which the number replaces.
    """

    order: Literal["new", "turn", "random"] = "new"
    first: int = 0
    count: int = 1
    filler: int = 0
    headers: Mapping[str, str] = {}


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


def question(number: int, filler: int = 0) -> str:
    """The text of a question, as wrk asks it."""
    return "x" * filler + f"question {number:012d}"


async def wrk(url: str, ask: Ask, *, connections: int, seconds: float) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "ask.lua"
        script.write_text(_script(url, ask), encoding="utf-8")
        printed = await run(
            *("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"),
            *("-s", str(script), url + PATH),
        )
    return msgspec.json.decode(printed.splitlines()[-1], type=Load)


def _script(url: str, ask: Ask) -> str:
    body = json.dumps(
        {"model": "small", "messages": [{"role": "user", "content": question(0, ask.filler)}]},
        separators=(",", ":"),
    )
    lines = {
        "Host": url.partition("//")[2],
        "Content-Type": "application/json",
        **ask.headers,
        "Content-Length": str(len(body)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    parts = f"POST {PATH} HTTP/1.1\r\n{head}\r\n{body}".split(ID)
    if len(parts) == 2:
        parts.insert(1, "")
    before, middle, after = (json.dumps(part) if part else "nil" for part in parts)
    named = {"parts": f"{before}, {middle}, {after}", "first": ask.first, "order": ask.order}
    return _SCRIPT % {**named, "count": ask.count}


async def streams(
    url: str, count: int, *, first: int, seconds: float, headers: Mapping[str, str] | None = None
) -> Seen:
    """`count` streams at once, for `seconds` after a warm-up."""
    printed = await run(
        *(sys.executable, "-m", "benchmarks.gateways.streamer", url, str(count), str(seconds), str(first)),
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
