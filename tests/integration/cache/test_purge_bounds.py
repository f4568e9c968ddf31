"""What purges leave in Redis is bounded, and what it forgets for that is too much, never too little."""

from __future__ import annotations

import functools
import random
from array import array
from typing import Any

import pytest
from redis.asyncio import Redis

from dub5.cache.purge_log import PurgeLog, Segment
from dub5.cache.purges import Purges
from dub5.contract import (
    LOG_SEGMENTS,
    PURGE_JOURNAL,
    PURGE_KEYS,
    PURGE_LOG,
    PURGE_NONCE,
    PURGE_RECENT,
    PURGE_SCRIPT,
    PURGE_STAMPS,
    PURGE_STATE,
    PURGE_UNIT,
    PURGED_AT_ONCE,
    RECENT_NAMES,
    RECENT_SURPLUS,
    SEGMENT_RECORDS,
    purge_hash,
)
from testkit.redis_server import RedisServer
from tests.integration.cache.support import plain, purging, synchronised, until

PURGE_BYTES = 10 * 2**20
"""What all keys of the purges may take, whatever is purged: docs/caching.md."""


def stamp(purges: Purges, *names: str) -> int:
    return int(purges.version(names).partition(".")[2], 16)


async def close_segment(client: Redis) -> None:
    """As if as many names had been purged as fill the segment that is being written."""
    if await client.hexists(PURGE_STATE, "count"):
        await client.hset(PURGE_STATE, "count", str(SEGMENT_RECORDS))


def many(number: int, start: int = 0) -> list[str]:
    return [f"tag:doc-{index}" for index in range(start, start + number)]


async def test_names_that_moved_to_the_log_keep_their_stamps_and_others_have_none(redis: str) -> None:
    """Neither what was purged before nor what never was changes its identity by ten thousand other purges."""
    sets = [(f"tag:unpurged-{number}", "class:unpurged", "all@x") for number in range(10_000)]
    async with purging(redis) as here, purging(redis) as there:
        for name in ("class:banter", "tag:prices"):
            await here.purge([name])
        before = stamp(here, "class:banter"), stamp(here, "tag:prices")
        assert await here.purge(many(10_000))
        await there.synchronise()
        async with purging(redis) as newcomer:
            for each in (here, there, newcomer):
                assert len(each._recent) <= 5 * RECENT_NAMES
                assert (stamp(each, "class:banter"), stamp(each, "tag:prices")) == before
                assert sum(stamp(each, *names) > 0 for names in sets) <= 1
                assert all(stamp(each, name) > before[1] for name in many(10_000))
        async with plain(redis) as client:
            assert await client.zcard(PURGE_RECENT) < RECENT_NAMES + RECENT_SURPLUS
            assert await client.zscore(PURGE_RECENT, f"{here._hash('tag:prices'):08x}") is None
            assert await client.zscore(PURGE_RECENT, f"{here._hash(many(10_000)[-1]):08x}") is not None
            assert await client.strlen(PURGE_LOG) < 8 * 2**20


async def test_where_the_log_is_full_too_much_is_forgotten_never_too_little(redis: str) -> None:
    chance = random.Random(7)
    exact: dict[str, int] = {}
    async with purging(redis) as here, purging(redis) as there, plain(redis) as client:
        unpurged = "tag:never-purged"
        for step in range(330):
            names = [f"tag:{chance.randrange(60_000)}" for _ in range(100)]
            assert await here.purge(names)
            exact.update(dict.fromkeys(names, stamp(here, names[0])))
            if step % 3 == 0:
                await there.synchronise()
            if step % 5 == 0:
                await close_segment(client)
            if step % 110 == 109:
                async with purging(redis) as newcomer:
                    await there.synchronise()
                    for each in (here, there, newcomer):
                        assert all(stamp(each, name) >= exact[name] for name in chance.sample([*exact], 2000))
        [first, following, floor] = await client.hmget(PURGE_STATE, "first", "next", "floor")
        assert (int(first or 0), int(following or 0) > LOG_SEGMENTS) == (LOG_SEGMENTS // 2, True)
        async with purging(redis) as newcomer:
            assert stamp(newcomer, unpurged) == int(floor or 0) < stamp(here, *names)
            for each in (here, there):
                await each._tidy()
            assert stamp(here, unpurged) == stamp(there, unpurged) == int(floor or 0)


async def test_the_bytes_that_purges_take_are_bounded_whatever_their_names(redis: str) -> None:
    longest = [f"tag:{index}-{'é' * 90}@{'t' * 60}" for index in range(PURGED_AT_ONCE)]
    async with plain(redis) as client:
        for number in range(60):  # until the log has begun, and taken its place
            await script(client, [f"tag:{number}-{index}" for index in range(PURGED_AT_ONCE)])
        for names in (longest, [f"tag:{'x' * 190}"]):  # events as large as they get, in either form
            pipeline = client.pipeline(transaction=False)
            for _ in range(2200):
                pipeline.eval(PURGE_SCRIPT, len(PURGE_KEYS), *PURGE_KEYS, 0, "nonce", *names)
            await pipeline.execute()
            assert await client.xlen(PURGE_JOURNAL) < 2200
            assert await client.zcard(PURGE_RECENT) < RECENT_NAMES + RECENT_SURPLUS + PURGED_AT_ONCE
            sizes = [await client.memory_usage(key, samples=0) or 0 for key in PURGE_KEYS]
            assert 8 * 2**20 < sum(sizes) <= PURGE_BYTES


async def script(client: Redis, names: list[str]) -> None:
    await client.eval(PURGE_SCRIPT, len(PURGE_KEYS), *PURGE_KEYS, 0, "nonce", *names)


async def test_stamps_that_a_release_before_wrote_are_taken_over(redis: str) -> None:
    async with plain(redis) as client:
        await client.set(PURGE_NONCE, "known")
        await client.zadd(PURGE_STAMPS, {f"tag:{number}": 10**15 + number for number in range(6000)})
        await client.zadd(PURGE_STAMPS, {"all": 10**15 + 17})
        async with purging(redis) as here:
            assert [stamp(here, f"tag:{number}") - 10**15 for number in (5998, 5999)] == [5998, 5999]
            assert 17 <= stamp(here, "all") - 10**15 <= 17 + 2 * PURGE_UNIT  # in the log: rounded up
            await here.purge(["tag:new"])
            reported: Any = await client.zrange(PURGE_STAMPS, 0, -1, withscores=True)
            [(name, score)] = reported
            assert (name, score) == (b"all", stamp(here, "tag:new"))  # what a replica of that release goes by
            # Such a replica purges, in its own way, and another one of ours begins.
            await client.xadd(PURGE_JOURNAL, {"tag:theirs": ""}, id=f"{int(score) + 1}-0")
            await client.zadd(PURGE_STAMPS, {"tag:theirs": int(score) + 1})
            await here.synchronise()
            async with purging(redis) as newcomer:
                assert stamp(newcomer, "tag:theirs") == stamp(here, "tag:theirs") == int(score) + 1
                assert stamp(newcomer, "tag:never") == 0


async def test_nobody_can_choose_a_name_that_has_the_hash_of_anothers(redis: str) -> None:
    """32 bits are found by trying; without the nonce nobody knows what to try for."""
    async with RedisServer() as other, purging(redis) as here, purging(other.url) as there:
        assert here._hash("all") == purge_hash(here._nonce, b"all")
        assert here._hash("all") != there._hash("all")


async def test_what_a_lagging_successor_lost_of_the_log_is_purged_anew() -> None:
    async with RedisServer() as server:
        # No two of these names have the same hash with this nonce; names that do are purged together.
        await server.client.set(PURGE_NONCE, "known")
        async with purging(server.url) as here:
            assert await here.purge(many(6000))
            await here.synchronise()
            [state, log] = [await server.client.dump(key) for key in (PURGE_STATE, PURGE_LOG)]
            recent = await server.client.dump(PURGE_RECENT)
            journal = await server.client.dump(PURGE_JOURNAL)
            assert await here.purge(many(6000, 6000))
            await here.synchronise()
            await here._tidy()
            before = {name: stamp(here, name) for name in many(12_000)}
            for key, dumped in (
                (PURGE_STATE, state),
                (PURGE_LOG, log),
                (PURGE_RECENT, recent),
                (PURGE_JOURNAL, journal),
            ):
                await server.client.restore(key, 0, dumped or b"", replace=True)
            await here.synchronise()
            async with purging(server.url) as newcomer:
                for name in many(6000):
                    assert stamp(newcomer, name) == stamp(here, name) == before[name]
                for name in many(6000, 6000):
                    assert stamp(newcomer, name) == stamp(here, name) > before[name]


async def test_more_purges_than_can_be_remembered_without_redis_become_one_of_all() -> None:
    purges = Purges(None)
    before = purges.version(("all", "tag:never"))
    await purges.purge(many(70_000))
    assert purges.version(("all", "tag:never")) != before
    assert len(purges._recent) < 70_000
    async with RedisServer() as server, purging(server.url) as here, purging(server.url) as there:
        before = there.version(("all", "tag:never"))
        nonce = await server.client.get(PURGE_NONCE)
        await server.stop()
        assert not await here.purge(many(30_000))
        assert set(here._unpublished) == {"all"}
        await server.start()
        await server.client.set(PURGE_NONCE, nonce or b"")
        for each in (here, there):
            await until(functools.partial(synchronised, each))
        assert there.version(("all", "tag:never")) == here.version(("all", "tag:never")) != before


@pytest.mark.parametrize("records", [1, 7, 4096])
def test_a_segment_gives_the_greatest_stamp_of_a_name(records: int) -> None:
    chance = random.Random(records)
    reported = sorted({chance.randrange(50) << 32 | delta for delta in range(1, records + 1)})
    segment = Segment(1000, array("Q", reported), reported[-1])
    for name in range(51):
        deltas = [record & 0xFFFFFFFF for record in reported if record >> 32 == name]
        assert segment.stamp(name) == ((1000 + max(deltas)) * PURGE_UNIT if deltas else 0)
    assert PurgeLog().stamp(3) == 0


async def test_a_full_redis_says_that_it_did_not_purge_and_does_so_later() -> None:
    async with (
        RedisServer("--maxmemory-policy", "noeviction") as server,
        purging(server.url) as here,
        purging(server.url) as there,
    ):
        before = there.version(("tag:prices",))
        await server.client.config_set("maxmemory", "1mb")
        assert not await here.purge(["tag:prices"])
        await there.synchronise()  # what can be read is read
        assert there.version(("tag:prices",)) == before != here.version(("tag:prices",))
        await server.client.config_set("maxmemory", "256mb")
        await here.synchronise()
        await there.synchronise()
        assert there.version(("tag:prices",)) == here.version(("tag:prices",)) != before


async def test_a_redis_full_of_answers_purges_and_lets_some_go() -> None:
    async with RedisServer("--maxmemory", "24mb", "--maxmemory-policy", "volatile-lfu") as server:
        for number in range(12_000):
            await server.client.set(f"answer:{number}", b"x" * 2000, ex=3600)
        full = await server.client.dbsize()
        assert full < 12_000
        async with purging(server.url) as here:
            assert await here.purge(many(6000))
            async with purging(server.url) as there:
                assert all(stamp(there, name) == stamp(here, name) > 0 for name in many(6000))
        assert 1000 < await server.client.dbsize() < full
