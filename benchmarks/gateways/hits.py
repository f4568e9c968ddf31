"""Hits, 1 KB: from memory and from Redis, against a server that does nothing else than answer 1 KB."""

from __future__ import annotations

from contextlib import AsyncExitStack

from benchmarks.figures import Figure
from benchmarks.gateways.contestants import Contestant, dub5, uvicorn
from benchmarks.gateways.load import Ask, shown, surroundings
from benchmarks.gateways.rounds import Bench, Round, ratio, spread, voids, whole

QUESTIONS, CONNECTIONS = 1000, 64
_BARS = {"memory": 0.65, "memory, no Redis": 0.65, "Redis": 0.35}


async def measure(bench: Bench) -> list[Figure]:
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        contestants: list[tuple[Contestant, str | None]] = [
            (uvicorn(), None),
            (dub5("memory", provider, redis=redis.port), "detail=local"),
            (dub5("memory, no Redis", provider, redis=None), "detail=local"),
            (dub5("Redis", provider, redis=redis.port, cache=_NO_MEMORY), "detail=shared"),
        ]
        entries = [
            whole(
                await stack.enter_async_context(contestant.running(folder)),
                lambda: Ask(order="turn", count=QUESTIONS),
                connections=CONNECTIONS,
                cache=cache,
                prime=cache is not None,
            )
            for contestant, cache in contestants
        ]
        found = await bench.alternate("hit", entries)
    floor = found.pop("bare uvicorn")
    return [_figure(name, rounds, floor) for name, rounds in found.items()]


_NO_MEMORY = {"local_bytes": 0, "classes": {"default": {"ttl": "1h"}}}


def _figure(name: str, ours: list[Round], floor: list[Round]) -> Figure:
    ratios = ratio([each.rate for each in ours], [each.rate for each in floor])
    bar = _BARS[name]
    measured = (
        f"{spread(ratios, lambda value: f'{value:.2f}')}: "
        f"{spread([each.rate for each in ours], shown)} of {spread([each.rate for each in floor], shown)} per second"
        f"{voids([*ours, *floor])}"
    )
    return Figure(
        f"hit from {name}, 1 KB",
        f">= {bar} of bare uvicorn",
        measured,
        sorted(ratios)[len(ratios) // 2] >= bar,
    )
