"""The two tiers together, against a real Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dub5.cache.freshness import NO_DIRECTIVES, Lifetimes
from dub5.cache.purges import IN_FORCE, Purges
from dub5.cache.store import AnswerStore, CacheHit, CacheLookup, Entry, LocalCache
from dub5.redis.link import RedisLink
from tests.integration.cache.support import Clock, linked, plain

LIFETIMES = Lifetimes(ttl=300.0)
WANTED = CacheLookup(key="key", names=("all", "tag:prices"), lifetimes=LIFETIMES, directives=NO_DIRECTIVES)
BORN = 1_700_000_000_000_000


def cache_of(link: RedisLink, clock: Clock) -> tuple[AnswerStore, Purges]:
    """Both tiers of one replica; nothing reads the purges in the background."""
    purges = Purges(link, clock)
    return AnswerStore(LocalCache(2**20), link, purges, clock=lambda: BORN / 1e6), purges


async def stored(cache: AnswerStore) -> None:
    assert await cache.store(cache.identity(WANTED), Entry(b"{}", BORN, 1.0, 1, 1), LIFETIMES)


async def reads(redis: str) -> int:
    """How often the journal of purges, which is part of each look-up, has been read."""
    async with plain(redis) as client:
        return int((await client.info("commandstats")).get("cmdstat_xrange", {}).get("calls", 0))


async def test_a_crowd_with_one_question_reads_redis_once(redis: str) -> None:
    async with linked(redis) as link:
        cache, purges = cache_of(link, Clock())
        await purges.synchronise()
        await stored(cache)
        before = await reads(redis)
        found = await asyncio.gather(*(cache.find(WANTED) for _ in range(200)))
        assert await reads(redis) == before + 1
        assert all(isinstance(each, CacheHit) and each.tier == "shared" for each in found)


async def test_a_reader_that_leaves_takes_nothing_from_the_others(redis: str) -> None:
    async with linked(redis) as link:
        cache, purges = cache_of(link, Clock())
        await purges.synchronise()
        await stored(cache)
        leaving, staying = (asyncio.create_task(cache.find(WANTED)) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying is not None


async def test_a_reading_that_was_replaced_may_end_after_its_successor(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dub5.cache.store.IN_FORCE", -1.0)  # each reading is too old for the next request
    gates, failures = [asyncio.Event(), asyncio.Event()], list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with linked(redis) as link:
        cache, _ = cache_of(link, Clock())
        waiting = iter(gates)

        async def slow(*_: object, **__: object) -> Entry | None:
            await next(waiting).wait()
            return None

        monkeypatch.setattr(link, "ask", lambda *_: False)
        monkeypatch.setattr(cache, "_read_in_task", slow)
        finding = []
        for _ in gates:
            finding.append(asyncio.create_task(cache.find(WANTED)))
            for _ in range(3):
                await asyncio.sleep(0)
        for gate, found in zip(reversed(gates), reversed(finding), strict=True):
            gate.set()
            assert await found is None
        await asyncio.sleep(0)
        assert (failures, cache._readings) == ([], {})


async def test_a_replica_that_was_stopped_asks_before_it_answers_from_memory(redis: str) -> None:
    """Nobody told it of a purge meanwhile, and its own reading of the journal is still to come."""
    clock = Clock()
    async with linked(redis) as link, linked(redis) as other:
        cache, purges = cache_of(link, clock)
        await purges.synchronise()
        await stored(cache)
        assert cache.recall(WANTED) is not None
        elsewhere = Purges(other, Clock())
        await elsewhere.synchronise()
        assert await elsewhere.purge(["tag:prices"])
        clock.now += IN_FORCE + 0.1
        assert cache.recall(WANTED) is None
        assert await cache.find(WANTED) is None
