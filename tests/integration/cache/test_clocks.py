"""Replicas whose clocks are wrong, and a Redis whose clock is: no answer is fresh for longer than its TTL."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from dub5.admission.limits import RateLimiter
from dub5.cache.flights import Flight
from dub5.cache.freshness import NO_DIRECTIVES, Directives, FreshnessState, Lifetimes
from dub5.cache.purges import Purges
from dub5.cache.store import TOLERANCE, AnswerStore, CacheLookup, Entry, Identity, LocalCache, pack
from dub5.contract import ENTRY_KEY, LEASE_KEY, REPLICAS
from dub5.redis.link import RedisClock
from dub5.settings.model import Limit
from dub5.telemetry.metrics import Metrics
from tests.harness import PATIENT
from tests.integration.cache.support import leasing, linked, plain

HOUR, YEAR = 3600.0, 365 * 86400.0
OFFSETS = [2 * HOUR, -2 * HOUR, 10 * YEAR, -30 * YEAR]
LIFETIMES = Lifetimes(ttl=600.0, stale_while_revalidate=600.0, stale_if_error=10 * HOUR)
WANTED = CacheLookup(key="key", names=("all",), lifetimes=LIFETIMES, directives=NO_DIRECTIVES)
NEAR = 120.0
"""Seconds that a busy machine may lose between two lines; no test goes by less."""


class Replica:
    """Both tiers of one whose clock is `wrong` by so many seconds, and has been compared with Redis's."""

    def __init__(self, cache: AnswerStore, clock: RedisClock, purges: Purges) -> None:
        self.cache, self.clock, self.purges = cache, clock, purges
        self.wrong = 0.0

    def wall(self) -> float:
        return time.time() + self.wrong

    async def store(self, age: float, body: bytes = b"{}") -> bool:
        entry = Entry(body, int((self.cache.now() - age) * 1e6), 0.1, 1, 1)
        return await self.cache.store(self.cache.identity(WANTED), entry, LIFETIMES)


@contextlib.asynccontextmanager
async def replica(url: str, wrong: float = 0.0) -> AsyncIterator[Replica]:
    async with linked(url, timeout=PATIENT) as link:
        clock = RedisClock(Metrics())
        purges = Purges(link, redis_clock=clock)
        made = Replica(AnswerStore(LocalCache(2**20), link, purges, clock=clock), clock, purges)
        made.wrong, clock.wall = wrong, made.wall
        await purges.synchronise()
        yield made


@pytest.mark.parametrize("wrong", OFFSETS)
async def test_ages_are_the_same_on_all_replicas_whatever_their_clocks_say(redis: str, wrong: float) -> None:
    async with replica(redis) as sane, replica(redis, wrong) as other:
        for one, two in ((sane, other), (other, sane)):
            await one.purges.purge(["all"])
            for each in (sane, other):
                await each.purges.synchronise()
            for age in (2 * HOUR, 900.0, 0.0):
                assert await one.store(age)
                found = await two.cache.find(WANTED)
                assert found is not None
                assert age <= found.age + TOLERANCE
                assert found.age < age + NEAR
                assert found.state is not FreshnessState.FRESH or age == 0.0


def ahead(seconds: float) -> Entry:
    return Entry(b'{"ahead":1}', int((time.time() + seconds) * 1e6), 0.1, 1, 1)


@pytest.mark.parametrize("seconds", [NEAR, 240.0, 2 * HOUR, 10 * YEAR])
@pytest.mark.parametrize("asked", [NO_DIRECTIVES, Directives(max_stale=1e9), Directives(stale_if_error=1e9)])
async def test_an_answer_of_the_future_is_good_for_nothing_and_gives_way(
    redis: str, seconds: float, asked: Directives
) -> None:
    """As one that a replica of a release before this one stored whose clock was wrong."""
    wanted = CacheLookup(key="key", names=("all",), lifetimes=LIFETIMES, directives=asked)
    async with replica(redis) as sane, plain(redis) as client, leasing(redis) as leases:
        identity = sane.cache.identity(wanted)
        await client.set(ENTRY_KEY % (identity.key, identity.version), pack(ahead(seconds)), ex=3600)
        assert await sane.cache.find(wanted) is None
        assert await sane.cache.take_over(identity, LIFETIMES) is None
        assert sane.cache.recall(wanted) is None
        claim = await leases.claim(identity, Flight(), seen=0, background=False)
        assert claim.outcome == "lead"  # so that it is asked for
        assert await sane.store(0.0, b'{"new":1}')
        await leases.release(claim)
        async with replica(redis) as another:
            found = await another.cache.find(wanted)
            assert found is not None
            assert found.entry.body == b'{"new":1}'
        assert not await sane.cache.store(identity, ahead(seconds), LIFETIMES)


async def test_of_two_answers_the_later_one_stays_whichever_is_written_last(redis: str) -> None:
    async with replica(redis) as one, replica(redis, 2 * HOUR) as other:
        for first, second in ((one, other), (other, one)):
            await one.purges.purge(["all"])
            await other.purges.synchronise()
            assert await first.store(200.0, b'{"later":1}')
            assert await second.store(400.0, b'{"earlier":1}')
            for each in (one, other):
                found = await each.cache.find(WANTED)
                assert found is not None
                assert found.entry.body == b'{"later":1}'


@pytest.mark.parametrize("jump", OFFSETS)
async def test_a_clock_that_jumps_makes_nothing_fresh_again(redis: str, jump: float) -> None:
    """Redis's, at a failover, or ours before it is compared: what was stored before is too old, or of the future."""
    async with replica(redis) as one:
        assert await one.store(900.0)
        found = one.cache.recall(WANTED)
        assert found is not None
        assert found.state is FreshnessState.REVALIDATE
        one.wrong = jump
        found = one.cache.recall(WANTED)
        assert found is None or (jump > 0 and found.state in {FreshnessState.IF_ERROR, FreshnessState.GONE})
        await one.purges.synchronise()
        found = one.cache.recall(WANTED)
        assert found is not None
        assert found.state is FreshnessState.REVALIDATE


def read(time: float) -> tuple[bytes, bytes]:
    """A time as Redis gives it."""
    return b"%d" % int(time), b"%d" % round(time % 1 * 1e6)


def test_clocks_that_agree_but_for_a_round_trip_are_left_alone() -> None:
    now = 1000.0
    clock = RedisClock(Metrics(), lambda: now)
    clock.learn(read(999.95), asked=999.9)
    assert clock.offset == 0.0
    clock.learn(read(1007.0), asked=999.9)
    assert clock.offset == pytest.approx(7.0)
    clock.learn(read(1007.05), asked=999.9)  # 7.05 to 7.15
    assert clock.offset == pytest.approx(7.05)
    clock.learn(read(5.0), asked=1000.1)  # ours was set back meanwhile
    assert clock.offset == pytest.approx(7.05)
    assert clock() == pytest.approx(1007.05)


async def test_replicas_are_counted_by_the_clock_of_redis(redis: str) -> None:
    async with linked(redis, timeout=PATIENT) as link, plain(redis) as client:
        limits = {"default": Limit(requests_per_minute=1)}
        made = [RateLimiter(limits, link, Metrics(), replica=str(number)) for number in range(3)]
        await client.zadd(
            REPLICAS, {"of the future": time.time() + HOUR, "for ever": float("inf"), "gone": 5.0}
        )
        for each in (*made, *made):
            await each._beat()
        assert [each._replicas for each in made] == [3, 3, 3]


async def test_a_lease_that_does_not_end_is_nobodys(redis: str) -> None:
    identity = Identity("key", "n.0")
    async with leasing(redis) as leases, plain(redis) as client:
        for expiry in (None, 86400):
            await client.set(LEASE_KEY % ("key", "n.0"), "7:elsewhere:1", ex=expiry)
            claim = await leases.claim(identity, Flight(), seen=0, background=False)
            assert claim.outcome == "lead"
            await leases.release(claim)
