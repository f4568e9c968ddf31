"""Questions that nobody asked before: passed to the provider, not cached, and with caching in Redis.

The peers run without caches of their own in both comparisons: storing would only slow them down.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.figures import Figure
from benchmarks.gateways.contestants import Contestant, Missing, dub5, nginx
from benchmarks.gateways.load import Ask, shown, surroundings
from benchmarks.gateways.peers import available, left_out
from benchmarks.gateways.rounds import Bench, Entry, Round, ratio, spread, voids, whole

CONNECTIONS = 64
_BARS = {
    "not cached": {"Portkey": 3.0, "LiteLLM": 50.0},
    "with caching": {"Portkey": 2.0, "LiteLLM": 35.0},
}
_NEVER: dict[str, Any] = {"classes": {"default": {"cacheable": "never"}}}
_PROVES = {"not cached": "fwd=bypass; detail=class", "with caching": "fwd=uri-miss; stored"}


async def measure(bench: Bench) -> list[Figure]:
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        contestants = [
            dub5("not cached", provider, redis=redis.port, cache=_NEVER),
            dub5("with caching", provider, redis=redis.port),
            *await available(provider),
            *_floor(provider),
        ]
        new = new_questions()
        entries = []
        for each in contestants:
            server = await stack.enter_async_context(each.running(folder))
            entries.append(_entry(server.name, whole, server, new))
        found = await bench.alternate("pass-through", entries)
    return [*_figures(found), *_floors(found)]


def new_questions() -> Callable[[], Ask]:
    """Numbers that no round had before."""
    first = itertools.count(1, 10**8)
    return lambda: Ask(first=next(first))


def _entry(name: str, make: Callable[..., Entry], server: Any, new: Callable[[], Ask]) -> Entry:
    connections = 4 if name == "nginx" else CONNECTIONS  # more, and the load would fill its own core first
    return make(server, new, connections=connections, cache=_PROVES.get(name))


def _floor(provider: str) -> list[Contestant]:
    try:
        return [nginx(provider)]
    except Missing as reason:
        left_out("nginx", str(reason))
        return []


def _figures(found: dict[str, list[Round]]) -> list[Figure]:
    return [
        compared(f"pass-through, {name}", found[name], peer, found[peer], bar)
        for name, bars in _BARS.items()
        for peer, bar in bars.items()
        if peer in found
    ]


def compared(
    what: str, ours: list[Round], peer: str, theirs: list[Round], bar: float, unit: str = ""
) -> Figure:
    """Ours against a peer, round by round."""
    ratios = ratio([each.rate for each in ours], [each.rate for each in theirs])
    measured = (
        f"{spread(ratios, shown)}: {spread([each.rate for each in ours], shown)} against "
        f"{spread([each.rate for each in theirs], shown)} {unit}per second{voids([*ours, *theirs])}"
    )
    return Figure(what, f">= {bar:g}x {peer}", measured, sorted(ratios)[len(ratios) // 2] >= bar)


def _floors(found: dict[str, list[Round]]) -> list[Figure]:
    if "nginx" not in found:
        return []
    floor = [each.rate for each in found["nginx"]]
    ratios = ratio([each.rate for each in found["not cached"]], floor)
    measured = f"{spread(ratios, lambda value: f'{value:.3f}')}: nginx {spread(floor, shown)} per second"
    return [Figure("pass-through, not cached, against nginx as a reverse proxy", "floor", measured)]
