"""No purged answer comes back, whatever happens to messages, replicas and Redis."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest
from redis.asyncio import Redis

from dub5.cache.purges import IN_FORCE, MAX_UNCONFIRMED, Purges, names_of
from dub5.contract import (
    PURGE_JOURNAL,
    PURGE_KEYS,
    PURGE_LOG,
    PURGE_NONCE,
    PURGE_RECENT,
    PURGE_STAMPS,
    PURGE_STATE,
    purge_hash,
    scoped_name,
)
from dub5.redis.link import RedisUnavailable
from testkit.redis_server import RedisServer
from tests.harness import PATIENT
from tests.integration.cache.support import Clock, linked, plain, purging, synchronised, until

NAMES = names_of(
    tenant="acme", class_name="banter", model="small", personality="pirate", tags=("prices", "doc-17")
)


async def raw(url: str, *command: Any) -> Any:
    async with plain(url) as client:
        return await client.execute_command(*command)


# What a purge reaches


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("all", True),
        (scoped_name("tenant", "acme", None), True),
        (scoped_name("tenant", "other", None), False),
        (scoped_name("tag", "prices", None), True),
        (scoped_name("tag", "doc-17", None), True),
        (scoped_name("tag", "prices", "acme"), True),
        (scoped_name("tag", "prices", "other"), False),
        (scoped_name("tag", "weather", None), False),
        (scoped_name("personality", "pirate", None), True),
        (scoped_name("personality", "pirate", "acme"), True),
        (scoped_name("personality", "butler", None), False),
        (scoped_name("model", "small", None), True),
        (scoped_name("model", "small", "other"), False),
        (scoped_name("class", "banter", None), True),
        (scoped_name("class", "facts", None), False),
    ],
)
async def test_a_purge_changes_the_identity_of_what_it_names(redis: str, name: str, reached: bool) -> None:
    async with purging(redis) as here, purging(redis) as there:
        before = here.version(NAMES)
        assert there.version(NAMES) == before
        assert await here.purge([name])
        assert (here.version(NAMES) != before) is reached
        await there.synchronise()
        assert there.version(NAMES) == here.version(NAMES)


async def test_several_names_are_purged_in_one_stamp(redis: str) -> None:
    async with purging(redis) as purges:
        assert await purges.purge(["tag:a", "tag:b"])
        assert purges.version(["tag:a"]) == purges.version(["tag:b"]) != purges.version(["tag:c"])


async def test_each_purge_gives_another_identity_though_the_clock_stands_still(redis: str) -> None:
    async with purging(redis) as purges:
        seen = {purges.version(NAMES)}
        for _ in range(50):
            await purges.purge(["tag:prices"])
            seen.add(purges.version(NAMES))
        assert len(seen) == 51


async def test_what_a_purge_costs_does_not_depend_on_what_is_stored(redis: str) -> None:
    fill = (
        "for n = 1, tonumber(ARGV[1]) do redis.call('SET', 'dub5:{' .. ARGV[2] .. '}:entry:' .. n, 'x') end"
    )
    async with purging(redis) as purges:
        await purges.purge(["tag:prices"])
        await raw(redis, "EVAL", fill, 0, 1000, "x")
        before = await commands(redis)
        await purges.purge(["tag:prices"])
        few = await commands(redis) - before
        await raw(redis, "EVAL", fill, 0, 50_000, "y")
        before = await commands(redis)
        await purges.purge(["tag:prices"])
        assert await commands(redis) - before == few < 20
        assert await raw(redis, "EXISTS", "dub5:{x}:entry:1000", "dub5:{y}:entry:50000") == 2
        assert await raw(redis, "DBSIZE") == 51_005  # nothing was deleted either


async def commands(url: str) -> int:
    async with plain(url) as client:
        stats = await client.info("commandstats")
    ours = {"get", "set", "eval", "publish", "xrange", "xrevrange", "xadd", "time", "zadd", "zrange"}
    ours |= {"zremrangebyscore", "del", "scan", "keys", "unlink"}
    return sum(stats[f"cmdstat_{name}"]["calls"] for name in ours if f"cmdstat_{name}" in stats)


# How others learn


async def test_many_purges_by_many_replicas_end_in_one_identity(redis: str) -> None:
    tags = [f"tag:{number}" for number in range(5)]
    chance = random.Random(3)
    async with purging(redis) as a, purging(redis) as b, purging(redis) as c:
        for _ in range(10):
            done = [replica.purge([chance.choice(tags)]) for replica in (a, b, c)]
            done += [replica.synchronise() for replica in (a, b, c)]  # type: ignore[misc]
            assert False not in await asyncio.gather(*done)
        for replica in (a, b, c):
            await replica.synchronise()
        for tag in tags:
            assert a.version([tag]) == b.version([tag]) == c.version([tag])


async def test_a_replica_that_slept_through_more_purges_than_the_journal_keeps_learns_them(
    redis: str,
) -> None:
    async with purging(redis) as here, purging(redis) as asleep:
        await here.purge(["tag:first"])
        await asleep.synchronise()
        await here.purge(["tag:second"])
        await here.purge(["tag:third"])
        await raw(redis, "XTRIM", PURGE_JOURNAL, "MAXLEN", "1")
        await asleep.synchronise()
        await here.synchronise()
        for tag in ("tag:first", "tag:second", "tag:third"):
            assert asleep.version([tag]) == here.version([tag])


async def test_more_purges_than_one_page_are_read(redis: str) -> None:
    async with purging(redis) as asleep:
        await asleep.purge(["tag:first"])
        async with plain(redis) as client, client.pipeline() as pipeline:
            for number in range(2500):
                stamp = 2**51 + number
                pipeline.xadd(PURGE_JOURNAL, {f"tag:{number}": ""}, id=f"{stamp}-0")
                pipeline.zadd(PURGE_STAMPS, {f"tag:{number}": stamp})
            await pipeline.execute()
        await asleep.synchronise()
        async with purging(redis) as newcomer:
            for number in range(2500):
                assert asleep.version([f"tag:{number}"]) == newcomer.version([f"tag:{number}"])


async def test_a_new_replica_computes_the_same_identities(redis: str) -> None:
    async with purging(redis) as here:
        for tag in ("tag:prices", "tag:other"):
            await here.purge([tag])
        async with purging(redis) as newcomer:
            assert newcomer.version(NAMES) == here.version(NAMES)


# What may happen to Redis


async def test_a_flushed_redis_invalidates_everything(redis: str) -> None:
    async with purging(redis) as here, purging(redis) as there:
        await here.purge(["tag:prices"])
        await there.synchronise()
        before = here.version(NAMES), here.version(["tag:weather"])
        await raw(redis, "FLUSHALL")
        await here.synchronise()
        await there.synchronise()
        assert here.version(NAMES) == there.version(NAMES)
        assert here.version(["tag:weather"]) == there.version(["tag:weather"])
        assert not {here.version(NAMES), here.version(["tag:weather"])} & set(before)


async def test_a_lost_nonce_alone_invalidates_everything(redis: str) -> None:
    async with purging(redis) as purges:
        before = purges.version(NAMES)
        await raw(redis, "DEL", PURGE_NONCE)
        await purges.synchronise()
        assert purges.version(NAMES) != before


async def test_what_a_lagging_successor_forgot_is_purged_anew() -> None:
    """Failover before the last purges were replicated: one that we read, and one that we made."""
    async with RedisServer() as server, purging(server.url) as here, purging(server.url) as there:
        await here.purge(["tag:kept"])
        await here.synchronise()
        await there.synchronise()
        last = await last_stamp(server.client)
        await here.purge(["tag:forgotten"])
        await here.synchronise()
        before = there.version(["tag:forgotten"])
        await forget(server.client, last, "tag:forgotten")
        await there.synchronise()
        assert there.version(["tag:forgotten"]) == before  # nobody has told it yet
        await here.synchronise()
        await there.synchronise()
        assert there.version(["tag:forgotten"]) == here.version(["tag:forgotten"]) != before
        assert there.version(["tag:kept"]) == here.version(["tag:kept"])


async def test_a_purge_forgotten_before_anybody_read_it_is_purged_anew() -> None:
    async with RedisServer() as server, purging(server.url) as here, purging(server.url) as there:
        await here.purge(["tag:kept"])
        await here.synchronise()
        await there.synchronise()
        last = await last_stamp(server.client)
        before = there.version(["tag:forgotten"])
        await here.purge(["tag:forgotten"])
        await forget(server.client, last, "tag:forgotten")
        await here.synchronise()
        await there.synchronise()
        assert there.version(["tag:forgotten"]) == here.version(["tag:forgotten"]) != before


async def test_a_successor_with_a_slow_clock_still_gives_greater_stamps() -> None:
    async with RedisServer() as server, purging(server.url) as here:
        ahead = 2**52
        await server.client.xadd(PURGE_JOURNAL, {"tag:prices": ""}, id=f"{ahead}-0")
        await server.client.zadd(PURGE_STAMPS, {"tag:prices": ahead})
        await here.synchronise()
        before = here.version(NAMES)
        await server.client.delete(
            PURGE_JOURNAL, PURGE_STAMPS, PURGE_RECENT
        )  # the clock behind, and nothing known
        await here.synchronise()
        async with purging(server.url) as newcomer:
            assert newcomer.version(NAMES) == here.version(NAMES)
            assert int(here.version(NAMES).partition(".")[2], 16) > int(before.partition(".")[2], 16)


async def last_stamp(client: Redis) -> bytes:
    """The id of the journal's last event."""
    events: Any = await client.xrevrange(PURGE_JOURNAL, count=1)
    identifier: bytes = events[0][0]
    return identifier


async def forget(client: Redis, last: bytes, *names: str) -> None:
    """What a node that had replicated the journal up to `last` only would know."""
    events: Any = await client.xrange(PURGE_JOURNAL, max=last)
    await client.delete(PURGE_JOURNAL)
    for identifier, fields in events:
        await client.xadd(PURGE_JOURNAL, fields, id=identifier)
    nonce: Any = await client.get(PURGE_NONCE)
    assert await client.zrem(PURGE_RECENT, *(f"{purge_hash(nonce, name.encode()):08x}" for name in names))


async def test_without_redis_a_purge_takes_effect_here_and_is_told_when_redis_is_back() -> None:
    async with RedisServer() as server, purging(server.url) as here, purging(server.url) as there:
        nonce = await server.client.get(PURGE_NONCE)
        assert nonce is not None
        before = here.version(NAMES)
        await server.stop()
        assert not await here.purge(["tag:prices"])
        purged = here.version(NAMES)
        assert purged != before
        assert not await here.purge(["tag:prices"])
        assert here.version(NAMES) != purged
        await server.start()
        await server.client.set(PURGE_NONCE, nonce)  # as a Redis that keeps its contents would come back
        await until(lambda: synchronised(here))
        await until(lambda: synchronised(there))
        assert there.version(NAMES) == here.version(NAMES) != before


async def test_a_purge_made_while_redis_was_away_survives_its_coming_back_empty() -> None:
    async with RedisServer() as server, purging(server.url) as here:
        await server.stop()
        await here.purge(["tag:prices"])
        await server.start()
        async with purging(server.url) as early:
            before = early.version(NAMES)  # somebody stored an answer here before we told
            await until(lambda: synchronised(here))
            await early.synchronise()
            assert early.version(NAMES) == here.version(NAMES) != before


async def test_a_local_purge_during_a_failover_is_not_lost(redis: str) -> None:
    """The stamps are read anew while somebody purges: what was purged meanwhile stays purged."""
    async with purging(redis) as purges:
        for number in range(30):
            await raw(redis, "DEL", PURGE_JOURNAL)
            before = purges.version([f"tag:{number}"])
            mending = asyncio.gather(*(purges.synchronise() for _ in range(3)))
            purged = asyncio.create_task(purges.purge([f"tag:{number}"]))
            while not mending.done() or not purged.done():
                await asyncio.sleep(0)
                if before == purges.version([f"tag:{number}"]):
                    assert not purged.done()
            assert purged.result()
            assert purges.version([f"tag:{number}"]) != before


async def test_memory_is_trusted_for_half_a_minute_while_redis_cannot_be_asked() -> None:
    clock = Clock()
    async with RedisServer() as server, purging(server.url, clock=clock) as purges:
        since = clock.now
        clock.now += IN_FORCE - 0.1
        assert purges.confirmed(since)
        await server.stop()
        clock.now = since + MAX_UNCONFIRMED - 0.1
        with pytest.raises(RedisUnavailable):
            await purges.synchronise()
        assert purges.confirmed(since)
        clock.now += 0.2
        assert not purges.confirmed(since)
        assert purges.confirmed(clock.now)  # what we fetched just now, we know to be new
        await server.start()
        await until(lambda: synchronised(purges))
        assert purges.confirmed(since)


async def test_a_replica_that_was_stopped_asks_before_it_trusts_its_memory(redis: str) -> None:
    clock = Clock()
    async with purging(redis, clock=clock) as purges:
        since = clock.now
        clock.now += IN_FORCE + 0.1  # SIGSTOP, or a machine that slept
        assert not purges.confirmed(since)
        await purges.synchronise()
        assert purges.confirmed(since)


async def test_without_redis_memory_is_all_there_is() -> None:
    clock = Clock()
    purges = Purges(None, clock)
    before = purges.version(NAMES)
    clock.now += 10 * MAX_UNCONFIRMED
    assert purges.confirmed(0.0)
    assert await purges.purge(["tag:prices"])
    once = purges.version(NAMES)
    assert await purges.purge(["tag:prices"])
    assert len({before, once, purges.version(NAMES)}) == 3


_EMPTY_LOG = "redis.call('HSET', KEYS[1], 'next', 1, 'count', 1) redis.call('SETRANGE', KEYS[2], 99, '\\0')"


@pytest.mark.parametrize(
    "damage",
    [
        ("SET", PURGE_NONCE, b"\xff\xfe"),
        ("SET", PURGE_NONCE, b"n" * 100_000),
        ("XADD", PURGE_JOURNAL, f"{2**64 - 1}-0", "tag:x", ""),
        ("XADD", PURGE_JOURNAL, f"{2**52}-0", b"\xff\xfe", b"\x00"),
        ("ZADD", PURGE_RECENT, "inf", "zz"),
        ("HSET", PURGE_STATE, "next", "many"),
        ("HSET", PURGE_STATE, "next", "3", "floor", "1e999"),
        ("SET", PURGE_STATE, "junk"),
        ("SET", PURGE_RECENT, "junk"),
        ("SET", PURGE_STAMPS, "junk"),
        ("LPUSH", PURGE_LOG, "junk"),
        ("EVAL", _EMPTY_LOG, 2, PURGE_STATE, PURGE_LOG),
    ],
)
async def test_damage_to_what_purges_left_is_a_redis_that_is_away_and_heals(
    redis: str, damage: tuple[Any, ...]
) -> None:
    async with plain(redis) as client, purging(redis) as here:
        await here.purge(["tag:prices"])
        if damage[0] in {"SET", "LPUSH"}:
            await client.delete(damage[1])
        await client.execute_command(*damage)
        async with linked(redis, timeout=PATIENT) as link:
            for each in (here, Purges(link)):
                with contextlib.suppress(RedisUnavailable):
                    await each.synchronise()
                await each.purge(["tag:prices"])
                assert len(each.version(NAMES)) < 60
        await client.flushall()
        await here.synchronise()
        assert await here.purge(["tag:prices"])
        async with purging(redis) as newcomer:
            assert newcomer.version(("tag:prices",)) == here.version(("tag:prices",))


@pytest.mark.parametrize(
    "evicted",
    [
        *((key,) for key in PURGE_KEYS),
        (PURGE_STATE, PURGE_STAMPS),
        (PURGE_RECENT, PURGE_STATE, PURGE_STAMPS),
        (PURGE_RECENT, PURGE_LOG, PURGE_STATE, PURGE_STAMPS),  # the others are read each second
    ],
)
@pytest.mark.parametrize("purged_again", [False, True])
async def test_whatever_redis_evicts_no_newcomer_finds_what_was_purged(
    redis: str, evicted: tuple[str, ...], purged_again: bool
) -> None:
    names = [f"tag:{number}" for number in range(6000)]  # more than are kept apart from the log
    async with plain(redis) as client, purging(redis) as here:
        before = {name: here.version(("all", name)) for name in names}
        assert await here.purge(names)
        await client.delete(*evicted)
        if purged_again:
            assert await here.purge([f"tag:other-{number}" for number in range(1500)])
        async with purging(redis) as newcomer:
            assert [name for name in names if newcomer.version(("all", name)) == before[name]] == []


# In numbers


async def test_a_hundred_thousand_stamps_are_learnt_by_a_new_replica(redis: str) -> None:
    async with plain(redis) as client:
        await client.set(PURGE_NONCE, "known")
        pipeline = client.pipeline(transaction=False)
        for start in range(0, 100_000, 10_000):
            pipeline.zadd(
                PURGE_STAMPS, {f"tag:doc-{n}": 10**15 + n // 7 for n in range(start, start + 10_000)}
            )
        await pipeline.execute()
    async with purging(redis) as fresh:
        assert fresh.version(["tag:doc-99999"]) == f"known.{10**15 + 99999 // 7:x}"
        assert len(fresh._recent) + len(fresh._log) == 100_000
    async with plain(redis) as client:
        assert await client.zcard(PURGE_STAMPS) == 1  # `all`, for replicas of the release before


async def test_ten_thousand_purges_that_redis_missed_are_told_when_it_is_back(redis: str) -> None:
    async with purging(redis) as one, purging(redis) as other:
        names = [f"tag:doc-{number}" for number in range(10_000)]
        assert await one.purge(names) is True
        await other.synchronise()
        assert {other.version([name]) for name in names} == {one.version([name]) for name in names}
        assert other.version(["tag:doc-0"]) != other.version(["tag:something-else"])


async def test_a_purge_while_a_new_replica_loads_is_not_lost(redis: str) -> None:
    async with purging(redis) as one:
        await one.purge(["tag:before"])
        async with plain(redis) as client:
            await client.delete(PURGE_NONCE)  # as after a restore: both begin anew, and one purges meanwhile
        async with purging(redis) as other:
            await asyncio.gather(one.purge(["tag:meanwhile"]), other.synchronise())
            await one.synchronise()
            await other.synchronise()
            assert one.version(["tag:meanwhile"]) == other.version(["tag:meanwhile"])
