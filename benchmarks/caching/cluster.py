"""A Redis Cluster of three masters and three replicas loses a master under load.

The load and the promises are those of `redis_faults`. Besides, all the time, a new answer is fetched through
one replica of the service and asked for on another with `only-if-cached`: that is a hit only where Redis has
it, so the last such miss tells when the cache is whole again. Once the lost master is the one that keeps the
purges, which every look-up reads; once another.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.caching.redis_faults import END, FAULT_AT, Fault, Round, figure
from benchmarks.figures import Figure, progress
from dub5.contract import PURGE_JOURNAL
from testkit.client import Client, client, until
from testkit.redis_server import RedisServer, redis_cluster, slots
from testkit.service import configuration, replicas
from testkit.stand_in import provider

EACH = 0.1
FAILOVER = 3.0
"""Seconds that the Cluster may take to have a new master; until then the others answer, so no breaker opens."""


async def measure() -> list[Figure]:
    return [await _round(keeps_purges=True), await _round(keeps_purges=False)]


async def _round(*, keeps_purges: bool) -> Figure:
    name = f"Cluster loses {'the master that keeps the purges' if keeps_purges else 'another master'}"
    progress(name)
    async with provider() as asked, redis_cluster() as nodes, client() as asking:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        async with (
            replicas(2, configuration(asked.base_url, f"redis+cluster://{hosts}")) as fleet,
            replicas(1, configuration(asked.base_url, None)) as [control],
        ):
            victim = await _master(nodes, keeps_purges=keeps_purges)
            fault = Fault(name, lambda _: victim.stop(), _nothing)
            load = Round(asking, asked, [service.url for service in fleet], control.url)
            await load.prepare(victim, dump=False)
            _, missed = await asyncio.gather(
                load.run(victim, fault), _watch(asking, fleet[0].url, fleet[1].url, time.monotonic())
            )
    before = [moment for moment in missed if moment < FAULT_AT]
    after = [moment - FAULT_AT for moment in missed if moment >= FAULT_AT]
    whole = f"hits from Redis again everywhere {max(after, default=0.0):.1f} s after the loss"
    made = figure(name, load.seen, load.began, learning_for=FAILOVER)
    good = made.good and not before and max(after, default=0.0) < END - FAULT_AT - 1
    return Figure(made.what, f"{made.bar}; hits return", f"{made.measured}; {whole}", good)


async def _nothing(_: RedisServer) -> None:
    pass


async def _master(nodes: list[RedisServer], *, keeps_purges: bool) -> RedisServer:
    slot = await nodes[0].command("CLUSTER", "KEYSLOT", PURGE_JOURNAL)
    ports = {
        master[1]
        for first, last, master, *_ in await slots(nodes[0])
        if (first <= slot <= last) == keeps_purges
    }
    return next(node for node in nodes if node.port in ports)


async def _watch(asking: Client, writer: str, reader: str, began: float) -> list[float]:
    """When (in seconds after `began`) Redis did not have what it should."""
    missed: list[float] = []

    async def ask(number: int) -> None:
        moment = time.monotonic() - began
        await asking.ask(writer, f"watched {number}")
        found = await asking.ask(reader, f"watched {number}", headers={"cache-control": "only-if-cached"})
        if found.status != 200:
            missed.append(moment)

    async with asyncio.TaskGroup() as group:
        for number in range(int(END / EACH)):
            await until(began + number * EACH)
            group.create_task(ask(number))
    return missed
