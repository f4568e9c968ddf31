"""The rows of docs/reports/performance.md, each with what it loads and what it is held to.

Hits of 1 KB stand beside a server that does nothing else than answer 1 KB; questions that nobody asked before beside
the peers, which run without caches of their own (storing would only slow them down), and beside nginx. Streams have
100 chunks, 5 ms apart, as many streams at once as fill a contestant's core, so that chunks come one at a time, as from
a real provider, until the server falls behind. Growth says what a hit costs in microseconds of the server's CPU where
there is more of something: answers held and tenants should not change it; bytes should, evenly: from 16 to 256 KB each
KB may cost as much as from 1 to 16.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, milliseconds, progress
from benchmarks.gateways import cores
from benchmarks.gateways.contestants import (
    Contestant,
    Missing,
    Running,
    dub5,
    litellm,
    nginx,
    portkey,
    uvicorn,
)
from benchmarks.gateways.load import Ask, shown, streams, surroundings, wrk
from benchmarks.gateways.rounds import Bench, Entry, Round, ratio, spread, streamed, voids, whole
from testkit.redis_server import RedisServer

CONNECTIONS, LIVE, IDLE = 64, 2000, 2000
_MIB = 2**20
_NEVER: dict[str, Any] = {"classes": {"default": {"cacheable": "never"}}}
_NO_MEMORY = {"local_bytes": 0, "classes": {"default": {"ttl": "4h"}}}
_BIG = {"local_bytes": 4 * 2**30, "classes": {"default": {"ttl": "4h"}}}
_left_out: set[str] = set()


Makers = Callable[[str, int], Awaitable[list[Contestant]]]
"""Of the provider's URL and the port of a Redis."""


async def _race(
    bench: Bench, workload: str, made: Makers, entry: Callable[[Running], Entry]
) -> dict[str, list[Round]]:
    """Rounds of contestants in turn, by their names; all are up meanwhile."""
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        contestants = await made(provider, redis.port)
        servers = [await stack.enter_async_context(each.running(folder)) for each in contestants]
        return await bench.alternate(workload, [entry(server) for server in servers])


async def hits(bench: Bench) -> list[Figure]:
    ours = {
        "memory": ("detail=local", 0.65),
        "memory, no Redis": ("detail=local", 0.65),
        "Redis": ("detail=shared", 0.35),
    }

    async def contestants(provider: str, redis: int) -> list[Contestant]:
        return [
            uvicorn(),
            dub5("memory", provider, redis=redis),
            dub5("memory, no Redis", provider, redis=None),
            dub5("Redis", provider, redis=redis, cache=_NO_MEMORY),
        ]

    def entry(server: Running) -> Entry:
        cache, _ = ours.get(server.name, (None, 0))
        turns = Ask(order="turn", count=1000)
        return whole(server, lambda: turns, connections=CONNECTIONS, cache=cache, prime=cache is not None)

    found = await _race(bench, "hit", contestants, entry)
    floor = found.pop("bare uvicorn")
    bars = {name: bar for name, (_, bar) in ours.items()}
    return [
        compared(
            f"hit from {name}, 1 KB", rounds, floor, bars[name], f">= {bars[name]} of bare uvicorn", "of"
        )
        for name, rounds in found.items()
    ]


async def passthrough(bench: Bench) -> list[Figure]:
    bars = {
        "not cached": {"Portkey": 3.0, "LiteLLM": 50.0},
        "with caching": {"Portkey": 2.0, "LiteLLM": 35.0},
    }
    proves = {"not cached": "fwd=bypass; detail=class", "with caching": "fwd=uri-miss; stored"}
    first = itertools.count(1, 10**8)

    async def contestants(provider: str, redis: int) -> list[Contestant]:
        uncached = dub5("not cached", provider, redis=redis, cache=_NEVER)
        return [uncached, dub5("with caching", provider, redis=redis), *await available(provider, floor=True)]

    def entry(server: Running) -> Entry:
        # More to nginx, and the load would fill its own core.
        connections = 4 if server.name == "nginx" else CONNECTIONS
        return whole(
            server, lambda: Ask(first=next(first)), connections=connections, cache=proves.get(server.name)
        )

    found = await _race(bench, "pass-through", contestants, entry)
    figures = [
        compared(f"pass-through, {name}", found[name], found[peer], bar, f">= {bar:g}x {peer}")
        for name, peers in bars.items()
        for peer, bar in peers.items()
        if peer in found
    ]
    if "nginx" in found:
        floor = [each.rate for each in found["nginx"]]
        ratios = ratio([each.rate for each in found["not cached"]], floor)
        measured = f"{spread(ratios, '{:.3f}'.format)}: nginx {spread(floor, shown)} per second"
        figures.append(
            Figure("pass-through, not cached, against nginx as a reverse proxy", "floor", measured)
        )
    return figures


async def streaming(bench: Bench) -> list[Figure]:
    at_once, pace = {"dub5": 256, "Portkey": 256, "LiteLLM": 24}, "/paced/5/100"
    bars = {"Portkey": 3.0, "LiteLLM": 20.0}
    first = itertools.count(1, 10**7)

    async def contestants(provider: str, redis: int) -> list[Contestant]:
        return [dub5("dub5", provider, redis=redis, pace=pace), *await available(provider, pace)]

    found = await _race(
        bench,
        "streams",
        contestants,
        lambda server: streamed(server, at_once[server.name], lambda: next(first)),
    )
    ours = found.pop("dub5")
    what = "streams of 100 chunks, relayed and stored"
    return [
        compared(what, ours, theirs, bars[peer], f">= {bars[peer]:g}x {peer}", unit="chunks ")
        for peer, theirs in found.items()
    ]


async def live(bench: Bench) -> list[Figure]:
    """How much longer than at the provider a pause is at the client."""
    room = {"max_inflight": LIVE + 100}
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        ours = dub5("dub5", provider, redis=redis.port, pace="/paced/50/400", admission=room)
        server = await stack.enter_async_context(ours.running(folder))
        before = cores.read(server.pid)
        seen = await streams(server.url, LIVE, first=1, seconds=4 * bench.seconds)
        use = cores.between(before, cores.read(server.pid))
        bench.others.append({"workload": "live", "seen": seen, "use": use})
    gaps, late = seen.gaps, seen.late
    measured = (
        f"p50 {milliseconds(gaps[0])}, p99 {milliseconds(gaps[1])}, worst {milliseconds(gaps[2])}; a chunk comes "
        f"{milliseconds(late[0])} late (p99 {milliseconds(late[1])}); {seen.chunks / seen.seconds:,.0f} chunks per "
        f"second, {seen.failed} streams failed; the server took {use.own:.0%} of its core, others {use.foreign:.0%}, "
        f"the core of the load was {use.load:.0%} busy"
    )
    what = "2,000 live streams, 20 chunks/s each: time added between chunks"
    return [Figure(what, "p99 < 50 ms", measured, gaps[1] < 0.05 and not seen.failed)]


async def footprint(bench: Bench) -> list[Figure]:
    """Memory at rest and per idle stream, and the time from start to ready."""
    rest: dict[str, list[float]] = {}
    started: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        room = {"max_inflight": IDLE + 100}
        # A minute between two chunks: nothing moves while the memory is read.
        ours = dub5("dub5", provider, redis=redis.port, pace="/paced/60000/100", admission=room)
        idle = await _per_stream(ours, folder)
        contestants = [dub5("dub5", provider, redis=redis.port), *await available(provider)]
        for number in range(bench.count):
            for each in contestants[: None if number < 3 else 1]:  # the peers take long to start
                progress(f"start and memory: {each.name}, round {number + 1} of {bench.count}")
                async with each.running(folder) as server:
                    started.setdefault(each.name, []).append(server.started)
                    await wrk(server.url, Ask(headers=server.headers), connections=8, seconds=1)
                    await asyncio.sleep(1)
                    rest.setdefault(each.name, []).append(cores.resident(server.pid) / _MIB)
    bench.others.append({"workload": "footprint", "rest": rest, "started": started, "idle": idle})
    good = None
    if "LiteLLM" in rest:
        good = statistics.median(rest["dub5"]) <= statistics.median(rest["LiteLLM"]) / 4
    fast = statistics.median(started["dub5"]) <= 1.5
    each_idle = f"{idle / 1024:.1f} KiB, of {IDLE:,}"
    return [
        Figure("memory at rest, MiB", "<= 1/4 of LiteLLM's", _by_name(rest, "{:.0f}"), good),
        Figure("memory per idle stream", "<= 60 KiB", each_idle, idle <= 60 * 1024),
        Figure("start to ready, seconds", "<= 1.5", _by_name(started, "{:.2f}"), fast),
    ]


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


def _by_name(values: Mapping[str, Sequence[float]], how: str) -> str:
    return ", ".join(f"{name} {spread(each, how.format)}" for name, each in values.items())


async def growth(bench: Bench) -> list[Figure]:
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack, RedisServer("--enable-debug-command", "local"))
        costs: dict[str, dict[int, float]] = {what: {} for what in ("answers", "keys", "tenants", "KB")}

        async def cost(what: str, number: int, server: Running, **ask: Any) -> None:
            costs[what][number] = await _cost(bench, f"{what} {number}", server, Ask(**ask))

        async with dub5("entries", provider, redis=None, cache=_BIG).running(folder) as server:
            held = 0
            for count in (10**power for power in range(3, 6 if bench.quick else 7)):
                while held < count:  # each is made by a miss, and any of them may be asked for next
                    progress(f"growth: {held:,} of {count:,} answers stored")
                    held = (await wrk(server.url, Ask(first=held), connections=CONNECTIONS, seconds=3)).next
                await cost("answers", count, server, order="random", count=count)
        async with dub5("Redis", provider, redis=redis.port, cache=_NO_MEMORY).running(folder) as server:
            for count in (10**power for power in range(3, 7)):  # a thousand questions, ever more other keys
                await redis.command("DEBUG", "POPULATE", str(count), "other", "700")
                await cost("keys", count, server, order="turn", count=1000)
        for count in (1, 100, 10_000):  # each with a key and a question of its own
            file = folder / f"keys-{count}.json"
            file.write_text(json.dumps(dict(map(_key, range(count)))), encoding="utf-8")
            async with dub5(f"tenants {count}", provider, redis=None, keys=file).running(folder) as server:
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


def _key(number: int) -> tuple[str, dict[str, str]]:
    return hashlib.sha256(f"key-{number:012d}".encode()).hexdigest(), {"tenant": f"tenant-{number}"}


async def _cost(bench: Bench, name: str, server: Running, asked: Ask) -> float:
    """Microseconds of CPU per hit. The first second, unmeasured, makes what is not there yet."""
    entry = whole(server, lambda: asked, connections=CONNECTIONS)
    await wrk(server.url, asked, connections=CONNECTIONS, seconds=1 if asked.count < 5000 else 4)
    rounds = []
    for number in range(min(3, bench.count)):
        progress(f"growth: {name}, round {number + 1}")
        rounds.append(await bench.once(f"growth, {name}", entry))
    return statistics.median(1e6 / each.rate for each in rounds)


def _flat(what: str, costs: Mapping[int, float]) -> Figure:
    first, *_, last = costs.values()
    return Figure(f"cost of a hit over {what}", "flat", _listed(costs), last <= first * 1.3)


def _listed(costs: Mapping[int, float]) -> str:
    return ", ".join(f"{count:,}: {cost:.0f}" for count, cost in costs.items()) + " µs per hit"


def compared(
    what: str,
    ours: list[Round],
    theirs: list[Round],
    least: float,
    bar: str,
    word: str = "against",
    unit: str = "",
) -> Figure:
    """Ours against another one, round by round."""
    mine, other = [each.rate for each in ours], [each.rate for each in theirs]
    ratios = ratio(mine, other)
    show: Callable[[float], str] = "{:.2f}".format if word == "of" else shown
    measured = (
        f"{spread(ratios, show)}: {spread(mine, shown)} {word} {spread(other, shown)} {unit}per second"
        f"{voids([*ours, *theirs])}"
    )
    return Figure(what, bar, measured, sorted(ratios)[len(ratios) // 2] >= least)


async def available(provider: str, pace: str = "", *, floor: bool = False) -> list[Contestant]:
    """Portkey, LiteLLM and as a floor nginx, as far as they can run here; who is left out is said once."""
    found = []
    makers: Iterable[tuple[str, Callable[..., Any]]] = (
        ("Portkey", portkey),
        ("LiteLLM", litellm),
        ("nginx", nginx),
    )
    for name, make in list(makers)[: 3 if floor else 2]:
        try:
            found.append(await make(provider, pace))
        except Missing as reason:
            if name not in _left_out:
                print(f"Left out: {name}. {reason}", file=sys.stderr, flush=True)
            _left_out.add(name)
    return found
