"""What the bundled Redis holds that it may not evict, at the worst that ten busy replicas and a million purges do.

A real Redis as the chart starts it, full of answers. The samplers of ten replicas take 500 look-ups a second each, 30 %
of them refetches, on a clock of their own, until the stream has not grown for ten minutes; somebody has said
that he reads, and does not. Then a million tags are purged over HTTP, a hundred with each request, at one of
two replicas, while the other one listens. A thousand answers that nobody purged are asked for again afterwards at
three replicas: the two, and one that has just started and knows only what Redis has.

A replica waits a tenth of a second for Redis, at most, and on a busy machine that may be too short for a Redis that is
well. A purge that gets 503 is sent again after a second, as callers should: what counts is that each is answered with
200 in the end, and nothing else than 503 before. How many were sent again is in the table. For the same reason an
answer that is not found is looked for again: one that was forgotten is not found then either.

So that purges are counted and not evictions, the thousand are kept hot in Redis, as answers are that are asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from contextlib import AsyncExitStack

from redis.asyncio import Redis

from benchmarks.figures import Figure, progress
from dub5.cache.samples import INTERVAL, Sampler
from dub5.contract import PURGE_KEYS, SAMPLES, SAMPLES_READER, Verdict
from dub5.redis.link import RedisLink
from dub5.settings.model import Duration, RedisSettings
from dub5.telemetry.metrics import Metrics
from testkit.client import Client
from testkit.redis_server import RedisServer
from testkit.service import configuration, replicas
from testkit.stage import stage

REPLICAS, LOOK_UPS, REFETCHED = 10, 500, 0.3
STABLE = 600.0
"""Seconds, of the samplers' clock, without growth."""
PURGED, AT_ONCE, CALLERS = 1_000_000, 100, 2
UNPURGED = 1_000
_LOOKS = 3
ALLOWED = 16 * 2**20
MIB = 2**20


async def measure() -> list[Figure]:
    options = ("--maxmemory", "256mb", "--maxmemory-policy", "volatile-lfu")
    async with stage(2, *options, pace={"first_token": 0.0, "tokens": 1}) as on:
        redis, asking, [one, other] = on.redis, on.asking, on.urls
        await redis.client.set(SAMPLES_READER, b"1", ex=3600)
        hot = await _answers(asking, one, redis.client)
        await _keep_hot(redis.client, hot)
        await _fill(redis.client)
        answers = await _count(redis.client)
        simulated, samples = await _sample(redis)
        refused, seconds = await _purge(asking, one, redis.client, hot)
        pinned = await _not_evictable(redis.client)
        left = await _count(redis.client)
        async with replicas(1, configuration(on.asked.base_url, redis.url)) as [newcomer]:
            hits = [await _hits(asking, each) for each in (one, other, newcomer.url)]
        evicted = (await redis.client.info("stats"))["evicted_keys"]
    purges = sum(pinned.get(key, 0) for key in PURGE_KEYS)
    # The replicas have gone on writing: what the stream had at its largest counts.
    rest = sum(pinned.values()) - purges - pinned.get(SAMPLES, 0)
    total = purges + samples + rest
    held = (
        f"{total / MIB:.2f} MiB: samples {samples / MIB:.2f} (unchanged for ten minutes after {simulated / 60:.0f} "
        f"simulated ones), purges {purges / MIB:.2f}, all else {rest / 2**10:.1f} KiB"
    )
    where = f"default chart's Redis, {REPLICAS} replicas of {LOOK_UPS} look-ups/s, {PURGED:,} tags purged"
    kept = f"{left:,} of {answers:,}; {evicted:,} evicted in all, the filling included"
    sent = f"{PURGED // AT_ONCE:,}; sent again {refused} times, after 503; in {seconds:.0f} s"
    bar = "all; where Redis took more than 100 ms, when sent again"
    found = ", ".join(
        f"{share:.1%}" + f" ({late} of them at a second look)" * (late > 0) for share, late in hits
    )
    whose = f"hits of {UNPURGED:,} answers that nobody purged: the replica that purged, another, a new one"
    return [
        Figure(f"{where}: not evictable", "<= 16 MiB", held, total <= ALLOWED),
        Figure("answers still cached in it", "most", kept, left > 0.9 * answers),
        Figure(f"purges answered 200, of {AT_ONCE} tags each", bar, sent, True),
        Figure(whose, ">= 99 %", found, min(share for share, _ in hits) >= 0.99),
    ]


async def _answers(asking: Client, url: str, redis: Redis) -> list[bytes]:
    """Ask for each, eight at a time, until Redis has all of them; gives the names of their keys."""

    async def some(first: int, headers: dict[str, str]) -> None:
        for number in range(first, UNPURGED, 8):
            progress(f"answer {number} of {UNPURGED}")
            outcome = await asking.ask(url, f"unpurged {number}", headers=_tags(number) | headers)
            if outcome.error is not None:
                raise RuntimeError(outcome.error)

    headers: dict[str, str] = {}
    while True:
        await asyncio.gather(*(some(first, headers) for first in range(8)))
        stored: list[bytes] = [key async for key in redis.scan_iter(match="dub5:*:entry:*", count=5000)]
        if len(stored) == UNPURGED:
            return stored
        headers = {"cache-control": "no-cache"}  # Redis was too late for some


def _tags(number: int) -> dict[str, str]:
    return {"x-dub5-cache-tags": f"unpurged-{number}, shelf-{number % 40}"}


async def _fill(redis: Redis) -> None:
    """With answers of 2 KB, which expire, until some must go."""
    number = 0
    while not (await redis.info("stats"))["evicted_keys"]:
        async with redis.pipeline(transaction=False) as pipeline:
            for _ in range(2000):
                number += 1
                pipeline.set(f"dub5:{{{number:048x}}}:entry:filled", bytes(2000), ex=3600)
            await pipeline.execute()
        progress(f"{number} answers in Redis")


async def _count(redis: Redis) -> int:
    return sum([1 async for _ in redis.scan_iter(match="dub5:*:entry:*", count=5000)])


async def _keep_hot(redis: Redis, keys: list[bytes]) -> None:
    """As answers are that are asked for: read now and then. A few at a time, so that nobody waits."""
    for _ in range(20):
        for start in range(0, len(keys), 50):
            await redis.touch(*keys[start : start + 50])


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def _sample(redis: RedisServer) -> tuple[float, int]:
    """Seconds of the samplers' clock until the stream did not grow any more, and its bytes."""
    clock, chance = _Clock(), random.Random(1)
    settings = RedisSettings(url=f"redis://127.0.0.1:{redis.port}", timeout=Duration(1))
    async with AsyncExitStack() as stack:
        samplers = []
        for number in range(REPLICAS):
            link = RedisLink(settings, password=None, metrics=Metrics(config_hash="benchmark"))
            await link.start()
            stack.push_async_callback(link.stop)
            samplers.append(
                Sampler(
                    link,
                    Metrics(config_hash="benchmark"),
                    replica=f"replica-{number}",
                    budget=2048,
                    re_ask_share=0.0,
                    clock=clock,
                )
            )
        for sampler in samplers * 2:  # the second time each has seen all others
            await sampler.register()
        now = time.time()
        verdict = Verdict(2**47, "default", now - 60, now, changed=False, hits=3, source="refetch")
        keys = [f"{chance.getrandbits(48):012x}".ljust(48, "0") for _ in range(20_000)]
        largest, grown_at = 0, 0.0
        while clock.now < grown_at + STABLE:
            for sampler in samplers:
                shift = chance.randrange(len(keys))
                for key in itertools.islice(itertools.cycle(keys), shift, shift + int(LOOK_UPS * INTERVAL)):
                    sampler.accessed(key, "default", None, dollars=0.001, hit=True)
                for _ in range(int(LOOK_UPS * INTERVAL * REFETCHED)):
                    sampler._keep(verdict)  # noqa: SLF001  # as a comparison would, without its fingerprint in Redis
            clock.now += INTERVAL
            await asyncio.gather(*(sampler.turn() for sampler in samplers))
            size = await redis.client.memory_usage(SAMPLES, samples=0) or 0
            if size > largest:
                largest, grown_at = size, clock.now
            progress(f"{clock.now / 60:.0f} minutes of samples, {size / MIB:.2f} MiB")
    return grown_at, largest


async def _purge(asking: Client, url: str, redis: Redis, hot: list[bytes]) -> tuple[int, float]:
    """How many were refused with 503 and sent again, and seconds for all."""
    began, refused = time.monotonic(), 0
    starts = iter(range(0, PURGED, AT_ONCE))

    async def purge() -> None:
        nonlocal refused
        for start in starts:
            tags = [f"document-{number}" for number in range(start, start + AT_ONCE)]
            while (status := await asking.purge(url, tags=tags)) != 200:
                if status != 503:
                    raise RuntimeError(f"a purge was answered with {status}")
                refused += 1
                await asyncio.sleep(1)
            if start % 100_000 == 0:
                progress(f"{start:,} tags purged")
                await _keep_hot(redis, hot)

    await asyncio.gather(*(purge() for _ in range(CALLERS)))
    return refused, time.monotonic() - began


async def _not_evictable(redis: Redis) -> dict[str, int]:
    """Bytes by key, of all but answers and what they are compared by: with an expiry or not."""
    held = {}
    async for key in redis.scan_iter(count=5000):
        name = key.decode(errors="replace")
        if ":entry:" not in name and not name.endswith((":last", ":epoch")):
            held[name] = await redis.memory_usage(key, samples=0) or 0
    return held


async def _hits(asking: Client, url: str) -> tuple[float, int]:
    """The share that is found, and how many only when they were looked for once more."""
    missing, again = list(range(UNPURGED)), 0
    for _ in range(_LOOKS):
        looked_for, missing = missing, []
        for number in looked_for:
            headers = {**_tags(number), "cache-control": "only-if-cached"}
            if not (await asking.ask(url, f"unpurged {number}", headers=headers)).hit:
                missing.append(number)
        again = again or len(missing)
        if not missing:
            break
        await asyncio.sleep(2)
    return 1 - len(missing) / UNPURGED, again - len(missing)
