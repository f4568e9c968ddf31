"""The rows of docs/reports/performance.md about streams, and about one client alone.

Streams have 100 chunks, 5 ms apart, as many streams at once as fill a contestant's core, so that chunks come one at a
time, as from a real provider, until the server falls behind.
"""

from __future__ import annotations

import itertools
from contextlib import AsyncExitStack
from statistics import median
from urllib.parse import urlsplit

from benchmarks.figures import Figure, milliseconds, progress
from benchmarks.gateways import cores
from benchmarks.gateways.contestants import Contestant, dub5
from benchmarks.gateways.load import streams, surroundings, wrk
from benchmarks.gateways.questions import PATH, numbered
from benchmarks.gateways.rounds import MOST_LOAD, Bench, streamed
from benchmarks.gateways.rows import NEVER, available, compared, race

LIVE = 2000
_AT_ONCE = {"dub5": 512, "Portkey": 512, "LiteLLM": 24}
_CALM = "/paced/20/50"
"""Of a stream that is alone: 50 chunks, 20 ms between two."""


async def streaming(bench: Bench) -> list[Figure]:
    bars, pace = {"Portkey": 3.0, "LiteLLM": 20.0}, "/paced/5/100"
    first = itertools.count(1, 10**7)

    # Who has to wait for a place is told `Connection: close`, which the client of this bench does not follow.
    room = {"max_inflight": _AT_ONCE["dub5"] + 100}

    async def servers(provider: str, redis: int) -> list[Contestant]:
        ours = dub5("dub5", provider, redis=redis, pace=pace, admission=room)
        return [ours, *await available(provider, pace)]

    found = await race(
        bench,
        "streams",
        servers,
        lambda server: streamed(server, _AT_ONCE[server.name], lambda: next(first)),
    )
    ours = found.pop("dub5")
    what = "streams of 100 chunks, relayed, checked and stored"
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
        seen = await streams(server.url, LIVE, first=1, seconds=7 * bench.seconds, rest=0.5)
        use = cores.between(before, cores.read(server.pid))
        bench.others.append({"workload": "live", "seen": seen, "use": use})
    gaps, late = seen.gaps, seen.late
    measured = (
        f"p50 {milliseconds(gaps[0])}, p99 {milliseconds(gaps[1])}, worst {milliseconds(gaps[2])}; "
        f"{seen.chunks / seen.seconds:,.0f} chunks per second, {seen.failed} streams failed; the server took "
        f"{use.own:.0%} of its core, others {use.foreign:.0%}, the core of the load was {use.load:.0%} busy"
        f"{' (void)' if use.load > MOST_LOAD else ''}"
    )
    lateness = f"p50 {milliseconds(late[0])}, p99 {milliseconds(late[1])}, worst {milliseconds(late[2])}"
    what = "2,000 live streams, 20 chunks/s each"
    return [
        Figure(
            f"{what}: time added between chunks", "p99 < 15 ms", measured, gaps[1] < 0.015 and not seen.failed
        ),
        Figure(
            f"{what}: how late a chunk comes", "p99 < 40 ms", lateness, late[1] < 0.04 and not seen.failed
        ),
    ]


async def alone(bench: Bench) -> list[Figure]:
    """What one client at a time waits longer than where it calls the provider itself, medians of rounds."""
    first, paces = itertools.count(1, 10**7), {"nginx": _CALM}  # it is told by its path
    found: dict[str, dict[str, list[float]]] = {}
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        everyone = [
            dub5("with caching", provider, redis=redis.port, pace=_CALM),
            dub5("not cached", provider, redis=redis.port, pace=_CALM, cache=NEVER),
            *await available(provider, _CALM, also=("nginx",)),
        ]
        servers = [await stack.enter_async_context(each.running(folder)) for each in everyone]
        ways = {
            "direct": (f"{provider}{_CALM}", {}),
            **{each.name: (each.url + paces.get(each.name, ""), each.headers) for each in servers},
        }
        for number in range(bench.count):
            for name, (url, headers) in ways.items():
                progress(f"alone: {name}, round {number + 1} of {bench.count}")
                path = urlsplit(url).path + PATH
                asked = numbered(path=path, headers=headers, first=next(first))
                whole = await wrk(url, asked, connections=1, seconds=bench.seconds / 2)
                seen = await streams(url, 1, first=next(first), seconds=bench.seconds, headers=headers)
                if whole.failed or seen.failed:
                    raise RuntimeError(f"{name} failed {whole.failed} whole answers, {seen.failed} streams")
                now = {"p50": whole.p50, "p99": whole.p99, "first": seen.begun[0], "chunk": seen.late[0]}
                for what, value in now.items():
                    found.setdefault(name, {}).setdefault(what, []).append(value)
    bench.others.append({"workload": "alone", "seconds": found})
    direct = found.pop("direct")

    def figure(of: str, bar: float, *whats: str) -> Figure:
        added = {
            name: [median(values[what]) - median(direct[what]) for what in whats]
            for name, values in found.items()
        }
        each = (
            f"{name} {' / '.join(f'{late * 1000:.2f}' for late in lates)} ms" for name, lates in added.items()
        )
        good = max(added["with caching"][0], added["not cached"][0]) < bar if bar else None
        return Figure(
            f"one client alone, {of}", f"< {bar * 1000:g} ms" if bar else "-", "; ".join(each), good
        )

    return [
        figure("added to a whole answer, p50 / p99", 0, "p50", "p99"),
        figure("added to the first token, median", 0.001, "first"),
        figure("added to each chunk, median", 0.0001, "chunk"),
    ]
