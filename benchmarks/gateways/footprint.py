"""Memory at rest and per idle stream, and the time from start to ready."""

from __future__ import annotations

import asyncio
import statistics
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.figures import Figure, progress
from benchmarks.gateways import cores
from benchmarks.gateways.contestants import Contestant, dub5
from benchmarks.gateways.load import Ask, streams, surroundings, wrk
from benchmarks.gateways.peers import available
from benchmarks.gateways.rounds import Bench, spread

IDLE, PACE = 2000, "/paced/60000/100"
"""A minute between two chunks: nothing moves while the memory is read."""

_MIB = 2**20


async def measure(bench: Bench) -> list[Figure]:
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        room = {"max_inflight": IDLE + 100}
        ours = dub5("dub5", provider, redis=redis.port, pace=PACE, admission=room)
        idle = await _per_stream(ours, folder)
        contestants = [dub5("dub5", provider, redis=redis.port), *await available(provider)]
        rest: dict[str, list[float]] = {}
        started: dict[str, list[float]] = {}
        for number in range(bench.count):
            for each in contestants[: None if number < 3 else 1]:  # the peers take long to start
                progress(f"start and memory: {each.name}, round {number + 1} of {bench.count}")
                async with each.running(folder) as server:
                    started.setdefault(each.name, []).append(server.started)
                    await wrk(server.url, Ask(headers=server.headers), connections=8, seconds=1)
                    await asyncio.sleep(1)
                    rest.setdefault(each.name, []).append(cores.resident(server.pid) / _MIB)
    bench.others.append({"workload": "footprint", "rest": rest, "started": started, "idle": idle})
    return [_rest(rest), _idle(idle), _started(started)]


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


def _rest(rest: dict[str, list[float]]) -> Figure:
    names = ", ".join(
        f"{name} {spread(values, lambda value: f'{value:.0f}')}" for name, values in rest.items()
    )
    good = None
    if "LiteLLM" in rest:
        good = statistics.median(rest["dub5"]) <= statistics.median(rest["LiteLLM"]) / 4
    return Figure("memory at rest, MiB", "<= 1/4 of LiteLLM's", names, good)


def _idle(idle: float) -> Figure:
    return Figure(
        "memory per idle stream", "<= 60 KiB", f"{idle / 1024:.1f} KiB, of {IDLE:,}", idle <= 60 * 1024
    )


def _started(started: dict[str, list[float]]) -> Figure:
    names = ", ".join(
        f"{name} {spread(values, lambda value: f'{value:.2f}')}" for name, values in started.items()
    )
    return Figure("start to ready, seconds", "<= 1.5", names, statistics.median(started["dub5"]) <= 1.5)
