"""What a purge of a tag costs where 1,000 and where 1,000,000 answers carry it, and when it is in force.

Two installations at once, one replica each, so that a purge here and a purge there are timed in turns under
the same conditions. The answers are written into Redis under the names and in the form that a replica
would give them, all as of now: the first purge concerns every one of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from benchmarks.figures import Figure, milliseconds, percentile, progress
from dub5.contract import PURGE_NONCE, entry_key
from testkit.client import Client, client
from testkit.redis_server import RedisServer
from testkit.service import Service, configuration, replicas
from testkit.stand_in import provider

FEW, MANY, PURGES = 1_000, 1_000_000, 300
BATCH, VALUE = 5_000, b"D5E" + bytes(297)
EVENTS, REPLICAS = 40, 4


async def measure() -> list[Figure]:
    return [await _cost(), *[await _delay(name, block) for name, block in _BLOCKS.items()]]


async def _cost() -> Figure:
    async with (
        provider() as asked,
        RedisServer() as small,
        RedisServer() as large,
        client() as asking,
        replicas(1, configuration(asked.base_url, f"redis://127.0.0.1:{small.port}")) as [at_small],
        replicas(1, configuration(asked.base_url, f"redis://127.0.0.1:{large.port}")) as [at_large],
    ):
        await _fill(small, FEW)
        await _fill(large, MANY)
        first = [await _timed(asking, at_small), await _timed(asking, at_large)]
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(PURGES):
            progress(f"purge {number} of {PURGES}")
            times[0].append(await _timed(asking, at_small))
            times[1].append(await _timed(asking, at_large))
    few, many = (percentile(each, 50) for each in times)
    measured = (
        f"median {milliseconds(few)} and {milliseconds(many)}, ratio {many / few:.2f} (p99 "
        f"{milliseconds(percentile(times[0], 99))} and {milliseconds(percentile(times[1], 99))}; the very first "
        f"{milliseconds(first[0])} and {milliseconds(first[1])}); {PURGES} purges each"
    )
    return Figure(
        "purge of a tag on 1,000 and on 1,000,000 entries", "ratio < 1.5", measured, many / few < 1.5
    )


async def _timed(asking: Client, service: Service) -> float:
    began = time.monotonic()
    if await asking.purge(service.url, tags=["prices"]) != 200:
        raise RuntimeError("the purge was refused")
    return time.monotonic() - began


async def _fill(redis: RedisServer, entries: int) -> None:
    nonce = (await redis.command("GET", PURGE_NONCE)).decode()
    for begin in range(0, entries, BATCH):
        progress(f"{begin} of {entries} entries")
        async with redis.client.pipeline(transaction=False) as pipeline:
            for index in range(begin, min(begin + BATCH, entries)):
                pipeline.set(entry_key(f"{index:048x}", f"{nonce}.0"), VALUE, ex=3600)
            await pipeline.execute()


async def _forever(step: Callable[[], Awaitable[Any]]) -> None:
    while True:
        with suppress(RedisError):
            await step()
        await asyncio.sleep(0.005)


async def _delay(name: str, block: str) -> Figure:
    """From a purge's 200 on one replica until no other one serves an answer from before it from memory or Redis."""
    async with provider() as asked, RedisServer() as redis, client() as asking:
        await asked.set(first_token=0.0, tokens=1)
        link: dict[str, Any] = {"url": f"redis://127.0.0.1:{redis.port}"}
        if block == "acl":
            await redis.command("ACL", "SETUSER", "hidden", "on", ">hidden", "~*", "+@all", "resetchannels")
            password = redis.directory / "password"
            password.write_text("hidden", encoding="utf-8")
            link |= {"username": "hidden", "password": {"file": str(password)}}
        killer = None
        if block == "kill":
            killer = asyncio.create_task(_forever(lambda: redis.command("CLIENT", "KILL", "TYPE", "pubsub")))
        delays, refused = [], 0
        async with replicas(REPLICAS, configuration(asked.base_url, None, redis=link)) as fleet:
            for number in range(EVENTS):
                progress(f"{name}: purge {number} of {EVENTS}")
                delay, status = await _event(asking, [service.url for service in fleet], number, asked.set)
                delays.append(delay)
                refused += status != 200
        if killer is not None:
            killer.cancel()
    measured = (
        f"p50 {milliseconds(percentile(delays, 50))}, worst {milliseconds(max(delays))} after the answer to the "
        f"purge; {EVENTS} purges, {refused} of them not answered with 200"
    )
    return Figure(
        f"purge effective on all of {REPLICAS} replicas, {name}",
        "<= 1 s",
        measured,
        max(delays) <= 1.0 and not refused,
    )


_BLOCKS = {
    "pub/sub working": "",
    "pub/sub connections killed every 5 ms": "kill",
    "pub/sub forbidden by an ACL": "acl",
}


async def _event(
    asking: Client, urls: list[str], number: int, set_provider: Callable[..., Awaitable[None]]
) -> tuple[float, int]:
    """Seconds until the last replica has forgotten, and the purge's status."""
    question, headers = f"tagged {number}", {"x-dub5-cache-tags": "prices"}
    await set_provider(generation=2 * number + 1)
    for url in urls:  # in memory everywhere
        await asking.ask(url, question, headers=headers)
        if not (await asking.ask(url, question, headers=headers)).hit:
            raise RuntimeError("not in the cache")
    await set_provider(generation=2 * number + 2)
    status = await asking.purge(urls[number % len(urls)], tags=["prices"])
    purged = time.monotonic()

    async def forgotten(url: str) -> float:
        only = {**headers, "cache-control": "only-if-cached"}
        while (outcome := await asking.ask(url, question, headers=only)).status == 200:
            if outcome.generation == 2 * number + 2:
                break
            await asyncio.sleep(0.005)
        return outcome.began - purged

    return max(0.0, *await asyncio.gather(*(forgotten(url) for url in urls))), status
