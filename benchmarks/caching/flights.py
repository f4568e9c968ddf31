"""How long after the leader's client does a follower's client, on another replica, see its first token?"""

from __future__ import annotations

import asyncio

from benchmarks.figures import Figure, milliseconds, percentile, progress
from testkit.stage import Stage, stage

FLIGHTS, LEAD = 300, 0.05
"""The follower asks LEAD seconds after the leader's client, well before the first token."""


async def measure() -> list[Figure]:
    delays = []
    async with stage(2, pace={"first_token": 0.15, "between": 0.02, "tokens": 5}) as on:
        for number in range(FLIGHTS + 5):
            progress(f"flight {number} of {FLIGHTS}")
            delay = await _delay(on, number)
            if number >= 5:  # the first ones open connections
                delays.append(delay)
        shared = await on.asked.calls()
    p50, p99 = percentile(delays, 50), percentile(delays, 99)
    measured = (
        f"p50 {milliseconds(p50)}, p99 {milliseconds(p99)}, worst {milliseconds(max(delays))}; "
        f"{FLIGHTS} flights, {shared} provider calls for {FLIGHTS + 5} questions"
    )
    what = "follower's first token after the leader's, other replica"
    return [Figure(what, "p99 <= 50 ms", measured, p99 <= 0.050 and shared == FLIGHTS + 5)]


async def _delay(on: Stage, number: int) -> float:
    """Seconds; both clients stream, and the one that leads changes with each question."""
    first, second = on.urls if number % 2 == 0 else on.urls[::-1]
    leading = asyncio.create_task(on.asking.ask(first, f"flight {number}", stream=True))
    await asyncio.sleep(LEAD)
    following = await on.asking.ask(second, f"flight {number}", stream=True)
    led = await leading
    if led.error or following.error or "collapsed" not in following.cache:
        raise RuntimeError(f"not a shared flight: {led.error} {following.error} {following.cache}")
    return following.first - led.first
