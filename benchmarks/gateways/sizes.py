"""The rows of docs/reports/performance.md about memory and starting, and about what grows.

Growth says what a hit costs in microseconds of the server's CPU where there is more of something: answers held and
tenants should not change it; bytes should, evenly: from 16 to 256 KB each KB may cost as much as from 1 to 16.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import Figure, progress
from benchmarks.gateways import cores
from benchmarks.gateways.contestants import Contestant, Running, dub5
from benchmarks.gateways.load import streams, surroundings, wrk
from benchmarks.gateways.questions import Ask, numbered
from benchmarks.gateways.rounds import Bench, fill, spread, whole
from benchmarks.gateways.rows import CONNECTIONS, NO_MEMORY, available
from testkit.redis_server import RedisServer

IDLE = 2000
_MIB = 2**20
_BIG = {"local_bytes": 4 * 2**30, "classes": {"default": {"ttl": "4h"}}}


async def footprint(bench: Bench) -> list[Figure]:
    """Memory at rest and per idle stream, and the time from start to ready; ours also as it was before."""
    rest: dict[str, list[float]] = {}
    started: dict[str, list[float]] = {}
    idle: dict[str, list[float]] = {}
    ours = {"dub5": sys.executable} | ({"before": bench.before} if bench.before else {})
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        room = {"max_inflight": IDLE + 100}
        for name, python in ours.items():
            # A minute between two chunks: nothing moves while the memory is read.
            pace = "/paced/60000/100"
            held = dub5(name, provider, redis=redis.port, pace=pace, python=python, admission=room)
            idle[name] = [await _per_stream(held, folder) / 1024]
        mine = [dub5(name, provider, redis=redis.port, python=python) for name, python in ours.items()]
        peers = await available(provider)
        for number in range(bench.count):
            for each in [*mine, *(peers if number < 3 else [])]:  # these take long to start
                progress(f"start and memory: {each.name}, round {number + 1} of {bench.count}")
                async with each.running(folder) as server:
                    started.setdefault(each.name, []).append(server.started)
                    some = numbered(headers=server.headers, order="turn", count=100)
                    await wrk(server.url, some, connections=8, seconds=1)
                    await asyncio.sleep(1)
                    rest.setdefault(each.name, []).append(cores.resident(server.pid) / _MIB)
    bench.others.append({"workload": "footprint", "rest": rest, "started": started, "idle": idle})
    quarter = median(rest["LiteLLM"]) / 4 if "LiteLLM" in rest else None
    return [
        _held("memory at rest, MiB", "<= 1/4 of LiteLLM's", rest, "{:.0f}", quarter),
        _held(f"memory per idle stream, KiB, of {IDLE:,}", "<= 60", idle, "{:.1f}", 60),
        _held("start to ready, seconds", "<= 1.5", started, "{:.2f}", 1.5),
    ]


def _held(what: str, bar: str, values: Mapping[str, Sequence[float]], how: str, most: float | None) -> Figure:
    """Ours is at most `most`, and not above what it was before but for what one round differs from the next."""
    now, before = values["dub5"], values.get("before")
    good = None if most is None else median(now) <= most
    if before is not None:
        bar += ", not above before"
        good = good is not False and min(now) <= max(before) * 1.02
    return Figure(
        what, bar, ", ".join(f"{name} {spread(each, how.format)}" for name, each in values.items()), good
    )


async def _per_stream(ours: Contestant, folder: Path) -> float:
    """Bytes. Other streams were opened and closed before: what stays of them is not the idle ones'."""
    async with ours.running(folder) as server:
        await streams(server.url, IDLE // 2, first=1, seconds=1)
        await asyncio.sleep(2)
        before = cores.resident(server.pid)
        opened = asyncio.create_task(streams(server.url, IDLE, first=10**6, seconds=8))
        await asyncio.sleep(7)
        held = cores.resident(server.pid)
        if (await opened).failed:
            raise RuntimeError("idle streams broke")
    return (held - before) / IDLE


async def growth(bench: Bench) -> list[Figure]:
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack, RedisServer("--enable-debug-command", "local"))
        costs: dict[str, dict[int, float]] = {what: {} for what in ("answers", "keys", "tenants", "KB")}

        async def cost(what: str, number: int, server: Running, **ask: Any) -> None:
            costs[what][number] = await _cost(bench, f"{what} {number}", server, numbered(**ask))

        async with dub5("entries", provider, redis=None, cache=_BIG).running(folder) as server:
            for count in (10**power for power in range(3, 6 if bench.quick else 7)):
                await fill(server, numbered(first=count // 10, count=count))  # any may be asked for next
                await cost("answers", count, server, order="random", count=count)
        async with dub5("Redis", provider, redis=redis.port, cache=NO_MEMORY).running(folder) as server:
            for count in (10**power for power in range(3, 7)):  # a thousand questions, ever more other keys
                await redis.command("DEBUG", "POPULATE", str(count), "other", "700")
                await cost("keys", count, server, order="turn", count=1000)
        for count in (1, 100, 10_000):  # each with a key and a question of its own
            keys = {f"key-{number:012d}": {"tenant": f"tenant-{number}"} for number in range(count)}
            async with dub5(f"tenants {count}", provider, redis=None, keys=keys).running(folder) as server:
                headers = {"authorization": f"Bearer key-{0:012d}"}
                await cost("tenants", count, server, order="random", count=count, headers=headers)
        async with dub5("bytes", provider, redis=None).running(folder) as server:
            for size in (1, 4, 16, 64, 256):
                await cost("KB", size, server, order="turn", count=16, filler=size * 1024)
    sizes = costs["KB"]
    early, late = (sizes[16] - sizes[1]) / 15, (sizes[256] - sizes[16]) / 240
    each_kb = f"{_listed(sizes)}; each KB {early:.2f} µs from 1 to 16, {late:.2f} µs from 16 to 256"
    return [
        _flat("answers in memory", costs["answers"]),
        _flat("keys in Redis, hits from there", costs["keys"]),
        _flat("tenants", costs["tenants"]),
        Figure("cost of a hit over KB of messages", "linear", each_kb, late <= early * 1.3),
    ]


async def _cost(bench: Bench, name: str, server: Running, asked: Ask) -> float:
    """Microseconds of CPU per hit. The first second, unmeasured, makes what is not there yet."""
    entry = whole(server, lambda: asked, connections=CONNECTIONS)
    await wrk(server.url, asked, connections=CONNECTIONS, seconds=1 if asked.count < 5000 else 4)
    rounds = []
    for number in range(min(3, bench.count)):
        progress(f"growth: {name}, round {number + 1}")
        rounds.append(await bench.once(f"growth, {name}", entry))
    return median(1e6 / each.rate for each in rounds)


def _flat(what: str, costs: Mapping[int, float]) -> Figure:
    first, *_, last = costs.values()
    return Figure(f"cost of a hit over {what}", "flat", _listed(costs), last <= first * 1.3)


def _listed(costs: Mapping[int, float]) -> str:
    return ", ".join(f"{count:,}: {cost:.0f}" for count, cost in costs.items()) + " µs per hit"
