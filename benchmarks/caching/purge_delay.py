"""How long after the answer to a purge do other replicas still serve what it named, from memory or Redis?"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from benchmarks.figures import Figure, milliseconds, percentile, progress
from testkit.client import client
from testkit.redis_server import RedisServer
from testkit.service import configuration, replicas
from testkit.stage import Stage
from testkit.stand_in import provider

EVENTS, REPLICAS = 40, 4
BLOCKS = {
    "pub/sub working": "",
    "pub/sub connections killed every 5 ms": "kill",
    "pub/sub forbidden by an ACL": "acl",
}


async def measure() -> list[Figure]:
    return [await _delay(name, block) for name, block in BLOCKS.items()]


async def _delay(name: str, block: str) -> Figure:
    """From a purge's 200 on one replica until no other one serves an answer from before it from memory or Redis."""
    async with provider() as asked, RedisServer() as redis, client() as asking:
        await asked.set(first_token=0.0, tokens=1)
        link: dict[str, Any] = {"url": redis.url}
        if block == "acl":
            await redis.command("ACL", "SETUSER", "hidden", "on", ">hidden", "~*", "+@all", "resetchannels")
            password = redis.directory / "password"
            password.write_text("hidden", encoding="utf-8")
            link |= {"username": "hidden", "password": {"file": str(password)}}
        killer = asyncio.create_task(_kill_on(redis)) if block == "kill" else None
        events = []
        async with replicas(REPLICAS, configuration(asked.base_url, None, redis=link)) as fleet:
            for number in range(EVENTS):
                progress(f"{name}: purge {number} of {EVENTS}")
                events.append(await _event(Stage(asked, redis, asking, fleet), number))
        if killer is not None:
            killer.cancel()
    delays, refused = [delay for delay, _ in events], sum(status != 200 for _, status in events)
    measured = (
        f"p50 {milliseconds(percentile(delays, 50))}, worst {milliseconds(max(delays))} after the answer to the "
        f"purge; {EVENTS} purges, {refused} of them not answered with 200"
    )
    what = f"purge effective on all of {REPLICAS} replicas, {name}"
    return Figure(what, "<= 1 s", measured, max(delays) <= 1.0 and not refused)


async def _kill_on(redis: RedisServer) -> None:
    while True:
        with suppress(RedisError):
            await redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.sleep(0.005)


async def _event(on: Stage, number: int) -> tuple[float, int]:
    """Seconds until the last replica has forgotten, and the purge's status."""
    question, headers = f"tagged {number}", {"x-dub5-cache-tags": "prices"}
    await on.asked.set(generation=2 * number + 1)
    for url in on.urls:  # in memory everywhere
        await on.asking.ask(url, question, headers=headers)
        if not (await on.asking.ask(url, question, headers=headers)).hit:
            raise RuntimeError("not in the cache")
    await on.asked.set(generation=2 * number + 2)
    status = await on.asking.purge(on.urls[number % REPLICAS], tags=["prices"])
    purged = time.monotonic()

    async def forgotten(url: str) -> float:
        only = {**headers, "cache-control": "only-if-cached"}
        while (outcome := await on.asking.ask(url, question, headers=only)).status == 200:
            if outcome.generation == 2 * number + 2:
                break
            await asyncio.sleep(0.005)
        return outcome.began - purged

    return max(0.0, *await asyncio.gather(*map(forgotten, on.urls))), status
