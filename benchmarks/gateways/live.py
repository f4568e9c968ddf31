"""2,000 live streams of 20 chunks a second each: how much longer than at the provider a pause is at the client."""

from __future__ import annotations

from contextlib import AsyncExitStack

from benchmarks.figures import Figure, milliseconds
from benchmarks.gateways import cores
from benchmarks.gateways.contestants import dub5
from benchmarks.gateways.load import streams, surroundings
from benchmarks.gateways.rounds import Bench

STREAMS, PACE = 2000, "/paced/50/400"
_ROOM = {"max_inflight": STREAMS + 100}


async def measure(bench: Bench) -> list[Figure]:
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        ours = dub5("dub5", provider, redis=redis.port, pace=PACE, admission=_ROOM)
        server = await stack.enter_async_context(ours.running(folder))
        before = cores.read(server.pid)
        seen = await streams(server.url, STREAMS, first=1, seconds=4 * bench.seconds)
        use = cores.between(before, cores.read(server.pid))
        bench.others.append({"workload": "live", "seen": seen, "use": use})
    gaps, late = seen.gaps, seen.late
    measured = (
        f"p50 {milliseconds(gaps[0])}, p99 {milliseconds(gaps[1])}, worst {milliseconds(gaps[2])}; a chunk comes "
        f"{milliseconds(late[0])} late (p99 {milliseconds(late[1])}); {seen.chunks / seen.seconds:,.0f} chunks per "
        f"second, {seen.failed} streams failed; the server took {use.own:.0%} of its core, others {use.foreign:.0%}, "
        f"the core of the load was {use.load:.0%} busy"
    )
    good = gaps[1] < 0.05 and not seen.failed
    return [
        Figure(
            "2,000 live streams, 20 chunks/s each: time added between chunks", "p99 < 50 ms", measured, good
        )
    ]
