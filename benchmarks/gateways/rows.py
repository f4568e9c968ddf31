"""The rows of docs/reports/performance.md about whole answers, each with what it loads and what it is held to.

Hits of 1 KB stand beside a server that does nothing else than answer 1 KB; questions that nobody asked before beside
the peers, which run without caches of their own (storing would only slow them down), and beside nginx.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import msgspec

from benchmarks.figures import Figure, milliseconds
from benchmarks.gateways import contestants
from benchmarks.gateways.contestants import Contestant, Missing, Running, dub5, uvicorn
from benchmarks.gateways.load import shown, surroundings
from benchmarks.gateways.questions import KEY, KINDS, Ask, numbered
from benchmarks.gateways.questions import hits as popular
from benchmarks.gateways.rounds import Bench, Entry, Round, ratio, spread, voids, whole

CONNECTIONS = 64
BOUND = 0.02
"""Seconds."""
NEVER: dict[str, Any] = {"classes": {"default": {"cacheable": "never"}}}
NO_MEMORY = {"local_bytes": 0, "classes": {"default": {"ttl": "4h"}}}
_MOST = 10**12
_LIMITED = {
    "personalities": {"tutor": {"system": "You teach.", "model": "small", "presence_penalty": 0.1}},
    "limits": {"default": {"requests_per_minute": _MOST, "tokens_per_minute": _MOST}},
    "keys": {KEY: {"tenant": "acme"}},
}
_left_out: set[str] = set()

Makers = Callable[[str, int], Awaitable[list[Contestant]]]
"""Of the provider's URL and the port of a Redis."""


class Hit(msgspec.Struct, frozen=True):
    """One kind of hit: `asked` of a server with `settings`, at least `bar` of what the floor does."""

    what: str
    bar: float
    asked: Callable[..., Ask] = popular
    settings: dict[str, Any] = {}
    cache: str = "detail=local"


HITS = {
    "memory": Hit("hit from memory", 1.0),
    "new": Hit(
        "hit from memory, bytes that this replica sees for the first time", 0.4, partial(popular, seen=False)
    ),
    "personality": Hit(
        "hit from memory, a personality and a key with limits", 0.7, partial(popular, model="tutor"), _LIMITED
    ),
    "messages": Hit("hit from memory, Messages", 0.7, partial(popular, "messages")),
    "responses": Hit("hit from memory, Responses", 0.7, partial(popular, "responses")),
    # In any order: of a popular one several would ask at once and share a look-up.
    "Redis": Hit(
        "hit from Redis", 0.7, partial(popular, order="random"), {"cache": NO_MEMORY}, "detail=shared"
    ),
}


async def race(
    bench: Bench, workload: str, made: Makers, entry: Callable[[Running], Entry]
) -> dict[str, list[Round]]:
    """Rounds of contestants in turn, by their names; all are up meanwhile."""
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        servers = [
            await stack.enter_async_context(each.running(folder)) for each in await made(provider, redis.port)
        ]
        return await bench.alternate(workload, [entry(server) for server in servers])


async def hits(bench: Bench, kinds: Sequence[str] = tuple(HITS)) -> list[Figure]:
    asked = {kind: HITS[kind] for kind in kinds}

    async def servers(provider: str, redis: int) -> list[Contestant]:
        return [
            uvicorn(),
            *(dub5(kind, provider, redis=redis, **hit.settings) for kind, hit in asked.items()),
        ]

    def entry(server: Running) -> Entry:
        hit = asked.get(server.name)
        ask = partial(hit.asked if hit else popular, kinds=KINDS // 10 if bench.quick else KINDS)
        return whole(
            server, ask, connections=CONNECTIONS, cache=hit.cache if hit else "", prime=hit is not None
        )

    found = await race(bench, "hit", servers, entry)
    floor = found.pop("bare uvicorn")
    return [
        compared(f"{hit.what}, 1 KB", found[kind], floor, hit.bar, f">= {hit.bar} of bare uvicorn", "of")
        for kind, hit in asked.items()
    ]


async def long(bench: Bench) -> list[Figure]:
    """What a hit costs whose question is a long context, beside an older commit."""
    if bench.before is None:
        leave_out("hits of 260 KB", "there is no commit to compare with: --against COMMIT")
        return []
    before = bench.before

    async def servers(provider: str, redis: int) -> list[Contestant]:
        return [dub5("before", provider, redis=redis, python=before), dub5("now", provider, redis=redis)]

    asked = numbered(order="turn", count=16, filler=260 * 1024)
    found = await race(
        bench,
        "hit of 260 KB",
        servers,
        lambda server: whole(server, lambda: asked, connections=16, cache="detail=local", prime=True),
    )
    costs = {name: [1e6 / each.rate for each in rounds] for name, rounds in found.items()}
    share = ratio(costs["now"], costs["before"])
    measured = (
        f"{spread(share, '{:.2f}'.format)}: {spread(costs['now'], shown)} of {spread(costs['before'], shown)} µs"
        f"{voids([*found['now'], *found['before']])}"
    )
    good = sorted(share)[len(share) // 2] <= 0.5
    return [Figure("hit from memory of a context of 260 KB, CPU", "<= 0.5 of before", measured, good)]


async def passthrough(bench: Bench) -> list[Figure]:
    bars: dict[str, dict[str, float | None]] = {
        "not cached": {"Portkey": 7.0, "LiteLLM": 50.0},
        "with caching": {"Portkey": 4.0, "LiteLLM": 35.0},
        "Messages": {"LiteLLM, Rust": None},
    }
    proves = {
        "not cached": ("fwd=bypass; detail=class", ""),
        "with caching": ("fwd=uri-miss; stored", ""),
        "Messages": ("fwd=bypass; detail=class", ""),
        "LiteLLM, Rust": ("", "x-litellm-rust"),
    }
    first = itertools.count(1, 10**8)

    async def servers(provider: str, redis: int) -> list[Contestant]:
        anthropic = {"stand-in": {"kind": "anthropic", "base_url": f"{provider}/v1", "max_connections": 4000}}
        return [
            dub5("not cached", provider, redis=redis, cache=NEVER),
            dub5("with caching", provider, redis=redis),
            dub5("Messages", provider, redis=redis, cache=NEVER, providers=anthropic),
            *await available(provider, also=("LiteLLM, Rust", "nginx")),
        ]

    def entry(server: Running) -> Entry:
        # More to nginx, and the load would fill its own core; with more LiteLLM would not get through all in a round.
        connections = {"nginx": 4, "LiteLLM": 16, "LiteLLM, Rust": 16}.get(server.name, CONNECTIONS)
        path = "/v1/messages" if server.name in ("Messages", "LiteLLM, Rust") else "/v1/chat/completions"
        cache, proof = proves.get(server.name, ("", ""))
        return whole(
            server,
            lambda: numbered(path=path, headers=server.headers, first=next(first)),
            connections=connections,
            cache=cache,
            proof=proof,
        )

    found = await race(bench, "pass-through", servers, entry)
    figures = [
        compared(
            f"pass-through, {name}", found[name], found[peer], bar, f">= {bar:g}x {peer}" if bar else peer
        )
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


async def sustained(bench: Bench) -> list[Figure]:
    """The most requests per second with 99 in 100 answered within BOUND: ever more connections, until two numbers of
    them in a row miss it (one may have been disturbed)."""
    first = itertools.count(1, 10**8)
    best: dict[str, str] = {}

    async def climb(server: Running) -> str:
        good: list[Round] = []
        missed, connections = 0, 1
        while missed < 2 and connections <= 256:
            entry = whole(
                server, lambda: numbered(headers=server.headers, first=next(first)), connections=connections
            )
            done = await bench.once(f"sustained, {connections} connections", entry)
            missed = missed + 1 if done.failed or done.p99 > BOUND else 0
            good += [] if missed else [done]
            connections *= 2
        if not good:
            return "none"
        most = max(good, key=lambda done: done.throughput)
        return f"{shown(most.throughput)} per second (p99 {milliseconds(most.p99)}){voids([most])}"

    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        uncached = dub5("not cached", provider, redis=redis.port, cache=NEVER)
        cached = dub5("with caching", provider, redis=redis.port)
        for each in (uncached, cached, *await available(provider)):
            async with each.running(folder) as server:
                best[each.name] = await climb(server)
    what = "most that is passed through with p99 within 20 ms, one core"
    return [Figure(what, "-", ", ".join(f"{name} {rate}" for name, rate in best.items()))]


def compared(
    what: str,
    ours: list[Round],
    theirs: list[Round],
    least: float | None,
    bar: str,
    word: str = "against",
    unit: str = "",
) -> Figure:
    """Ours against another one, round by round; `least` is the bar of the median's."""
    mine, other = [each.rate for each in ours], [each.rate for each in theirs]
    ratios = ratio(mine, other)
    show: Callable[[float], str] = "{:.2f}".format if word == "of" else shown
    measured = (
        f"{spread(ratios, show)}: {spread(mine, shown)} {word} {spread(other, shown)} {unit}per second"
        f"{voids([*ours, *theirs])}"
    )
    good = None if least is None else sorted(ratios)[len(ratios) // 2] >= least
    return Figure(what, bar, measured, good)


async def available(provider: str, pace: str = "", *, also: Sequence[str] = ()) -> list[Contestant]:
    """Portkey and LiteLLM, as far as they can run here, and who is named; who is left out is said once."""
    makers: Mapping[str, Callable[..., Awaitable[Contestant]]] = {
        "Portkey": contestants.portkey,
        "LiteLLM": contestants.litellm,
        "LiteLLM, Rust": partial(contestants.litellm, rust=True),
        "nginx": contestants.nginx,
    }
    found = []
    for name in ("Portkey", "LiteLLM", *also):
        try:
            found.append(await makers[name](provider, pace))
        except Missing as reason:
            leave_out(name, str(reason))
    return found


def leave_out(name: str, why: str) -> None:
    if name not in _left_out:
        print(f"Left out: {name}. {why}", file=sys.stderr, flush=True)
    _left_out.add(name)
