"""Redis goes wrong in the middle of a load: does a request fail, and how much time does it add?

One round per fault: FAULT_AT seconds of load, the fault, HEAL_AT - FAULT_AT seconds of load with it, and then load
until END with Redis well again. The load is open (a slow answer does not hold up the next question): RATE new
questions a second, whole and streamed in turns, to a replica with Redis, and as many to one that was never given a
Redis. The difference between the two is the time that Redis adds. Of a Redis Cluster of three masters and three
replicas once the master that keeps the purges is lost, which every lookup reads; once another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.figures import Figure, milliseconds, percentile, progress
from dub5.contract import PURGE_JOURNAL
from testkit.client import Outcome, client, until
from testkit.redis_server import RedisServer, redis_cluster, slots
from testkit.service import configuration, replicas
from testkit.stand_in import provider

FAULT_AT, HEAL_AT, END, RATE = 4.0, 10.0, 15.0, 50
TIMEOUT, LEARNING, FAILOVER = 0.1, 0.5, 3.0
"""`redis.timeout`; seconds in which the breaker learns; those in which a Cluster may have a new master: until then the
others answer, so no breaker opens."""
LATENESS, THEN = 0.010, 0.002
"""Seconds: by how much a timer of one timeout may come late; what Redis may cost once the breaker is open."""
WARM_UP, AT_ONCE = 600, 10
"""Requests to each replica before anything is timed: connections, caches and the first full garbage collection."""

Action = Callable[[RedisServer], Any]
FAULTS: dict[str, tuple[Action, Action]] = {
    "killed, back empty": (RedisServer.stop, RedisServer.start),
    "stopped (SIGSTOP)": (RedisServer.pause, RedisServer.resume),
    "flushed": (lambda redis: redis.client.flushall(), lambda _: None),
    "out of memory": (
        lambda redis: redis.client.config_set("maxmemory", "1mb"),
        lambda redis: redis.client.config_set("maxmemory", "0"),
    ),
    "read-only": (
        lambda redis: redis.client.replicaof("127.0.0.1", "9"),
        lambda redis: redis.client.replicaof("NO", "ONE"),
    ),
}
"""What is done to Redis, and what makes it well again."""


async def measure() -> list[Figure]:
    figures = []
    for name, fault in FAULTS.items():
        async with RedisServer() as redis:
            figures.append(await _round(f"Redis {name}", redis.url, redis, fault, LEARNING))
    for keeps_purges, which in ((True, "the master that keeps the purges"), (False, "another master")):
        async with redis_cluster() as nodes:
            url = f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in nodes)}"
            victim, lost = await _master(nodes, keeps_purges), (RedisServer.stop, lambda _: None)
            figures.append(await _round(f"Cluster loses {which}", url, victim, lost, FAILOVER))
    return figures


async def _master(nodes: list[RedisServer], keeps_purges: bool) -> RedisServer:
    slot = await nodes[0].command("CLUSTER", "KEYSLOT", PURGE_JOURNAL)
    masters = [(first <= slot <= last, master[1]) for first, last, master, *_ in await slots(nodes[0])]
    return next(node for node in nodes if (keeps_purges, node.port) in masters)


async def _round(
    name: str, url: str, redis: RedisServer, fault: tuple[Action, Action], learning: float
) -> Figure:
    progress(name)
    outcomes: tuple[list[Outcome], list[Outcome]] = ([], [])
    async with AsyncExitStack() as stack:
        asked = await stack.enter_async_context(provider())
        asking = await stack.enter_async_context(client())
        urls = [
            (await stack.enter_async_context(replicas(1, configuration(asked.base_url, given))))[0].url
            for given in (url, None)
        ]
        await asked.set(first_token=0.0, between=0.0, tokens=1)
        for number in range(0, WARM_UP, AT_ONCE):
            questions = [(each, f"warm-up {number + offset}") for offset in range(AT_ONCE) for each in urls]
            await asyncio.gather(*(asking.ask(*each) for each in questions))
        await asked.set(first_token=0.1, between=0.01, tokens=6)
        began = time.monotonic()

        async def ask(which: int, number: int) -> None:
            await until(began + (number + which / 2) / RATE)
            outcomes[which].append(await asking.ask(urls[which], f"probe {number}", stream=number % 2 == 0))

        async with asyncio.TaskGroup() as group:
            for number in range(int(END * RATE)):
                for which in (0, 1):
                    group.create_task(ask(which, number))
            for moment, act in zip((FAULT_AT, HEAL_AT), fault, strict=True):
                await until(began + moment)
                done = act(redis)
                if isinstance(done, Awaitable):
                    await done

    def added(since: float, before: float, percent: float = 99) -> float:
        """A percentile of what began in a span of time, less that of the replica without Redis."""
        took = [[each.took for each in some if since <= each.began - began < before] for some in outcomes]
        return percentile(took[0], percent) - percentile(took[1], percent)

    failed = sum(each.error is not None for each in outcomes[0])
    around, then = added(FAULT_AT - 0.2, FAULT_AT + learning), added(FAULT_AT + learning, HEAL_AT)
    measured = (
        f"{failed} failed of {len(outcomes[0])}; p99 of added time {milliseconds(added(0, FAULT_AT - 0.2))} before, "
        f"{milliseconds(around)} in the {learning + 0.2:.1f} s around the fault, {milliseconds(then)} until Redis is "
        f"well (p50 {milliseconds(added(FAULT_AT + learning, HEAL_AT, 50))})"
    )
    good = not failed and around <= TIMEOUT + LATENESS and then <= THEN
    return Figure(f"{name}, mid-load", "0 failed, p99 added <= 100 ms, then <= 2 ms", measured, good)
