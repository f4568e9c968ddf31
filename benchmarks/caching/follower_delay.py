"""How long after the leader's client does a follower's client, on another replica, see its first token?"""

from __future__ import annotations

import asyncio

from benchmarks.figures import Figure, milliseconds, percentile, progress
from testkit.client import Client, client
from testkit.redis_server import RedisServer
from testkit.service import configuration, replicas
from testkit.stand_in import provider

FLIGHTS, LEAD = 300, 0.05
"""The follower asks LEAD seconds after the leader's client, well before the first token."""
BAR = 0.050


async def measure() -> list[Figure]:
    delays, shared = [], 0
    async with provider() as asked, RedisServer() as redis, client() as asking:
        await asked.set(first_token=0.15, between=0.02, tokens=5)
        settings = configuration(asked.base_url, f"redis://127.0.0.1:{redis.port}")
        async with replicas(2, settings) as fleet:
            for number in range(FLIGHTS + 5):
                progress(f"flight {number} of {FLIGHTS}")
                delay = await _delay(asking, [service.url for service in fleet], f"flight {number}")
                if number >= 5:  # the first ones open connections
                    delays.append(delay)
            shared = await asked.calls()
    p50, p99 = percentile(delays, 50), percentile(delays, 99)
    measured = (
        f"p50 {milliseconds(p50)}, p99 {milliseconds(p99)}, worst {milliseconds(max(delays))}; "
        f"{FLIGHTS} flights, {shared} provider calls for {FLIGHTS + 5} questions"
    )
    good = p99 <= BAR and shared == FLIGHTS + 5
    return [
        Figure("follower's first token after the leader's, other replica", "p99 <= 50 ms", measured, good)
    ]


async def _delay(asking: Client, urls: list[str], question: str) -> float:
    """Seconds; both clients stream, and the one that leads changes with each question."""
    first, second = urls if question[-1] in "02468" else urls[::-1]
    leading = asyncio.create_task(asking.ask(first, question, stream=True))
    await asyncio.sleep(LEAD)
    following = await asking.ask(second, question, stream=True)
    led = await leading
    if led.error or following.error or "collapsed" not in following.cache:
        raise RuntimeError(f"not a shared flight: {led.error} {following.error} {following.cache}")
    return following.first - led.first
