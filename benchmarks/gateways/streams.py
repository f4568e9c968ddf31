"""Streams of 100 chunks, relayed and stored; more of them at once than the server can keep up with.

Each contestant has as many streams as fill its core; 5 ms pass between two chunks of one stream, so that chunks come
one at a time, as from a real provider, until the server falls behind.
"""

from __future__ import annotations

import itertools
from contextlib import AsyncExitStack

from benchmarks.figures import Figure
from benchmarks.gateways.contestants import dub5
from benchmarks.gateways.load import surroundings
from benchmarks.gateways.passthrough import compared
from benchmarks.gateways.peers import available
from benchmarks.gateways.rounds import Bench, streamed

PACE = "/paced/5/100"
_AT_ONCE = {"dub5": 256, "Portkey": 256, "LiteLLM": 24}
_BARS = {"Portkey": 3.0, "LiteLLM": 20.0}


async def measure(bench: Bench) -> list[Figure]:
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        contestants = [
            dub5("dub5", provider, redis=redis.port, pace=PACE),
            *await available(provider, PACE),
        ]
        first = itertools.count(1, 10**7)
        entries = [
            streamed(
                await stack.enter_async_context(each.running(folder)),
                _AT_ONCE[each.name],
                lambda: next(first),
            )
            for each in contestants
        ]
        found = await bench.alternate("streams", entries)
    ours = found.pop("dub5")
    what = "streams of 100 chunks, relayed and stored"
    return [compared(what, ours, peer, theirs, _BARS[peer], "chunks ") for peer, theirs in found.items()]
