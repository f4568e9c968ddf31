"""Tokens reserved and settled: whatever the order, nobody gets more than the limit, or waits longer than is documented.

Both kinds of bucket, the one in Redis and the one of a replica that has no Redis, keep the same rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dub5.admission.limits import Grant, RateLimiter
from dub5.contract import limit_key
from dub5.errors import RateLimited
from dub5.redis.link import RedisLink
from dub5.settings.model import Duration, Limit, RedisSettings
from dub5.telemetry.metrics import Metrics

A_MINUTE = 1000
LIMIT = Limit(tokens_per_minute=A_MINUTE, requests_per_minute=10**6)
HUGE = 128 * (2**31 - 1)
MINUTES_RESERVED, MINUTES_COUNTED, DAY = 10, 60, 86400.0


class Stage:
    """One tenant's bucket, and its time, which tests turn on."""

    def __init__(self, limiter: RateLimiter) -> None:
        self.limiter = limiter
        self.tenant = uuid.uuid4().hex

    async def acquire(self, reserve: int) -> Grant | float:
        """A grant, or the seconds to wait."""
        try:
            grant = await self.limiter.acquire(self.tenant, reserve=reserve)
        except RateLimited as error:
            check_headers(error.headers)
            return error.retry_after or 0.0
        assert grant is not None
        check_headers(grant.headers)
        return grant

    async def settle(self, grant: Grant, used: int) -> None:
        self.limiter.settle(grant, used=used)
        await asyncio.gather(*self.limiter._settlements.running)

    async def held(self) -> float:
        """Tokens in the bucket when something last changed."""
        raise NotImplementedError

    async def state(self) -> object:
        """All that is kept."""
        raise NotImplementedError

    async def now(self) -> float:
        raise NotImplementedError

    async def turn_on(self, seconds: float) -> None:
        raise NotImplementedError


class InMemory(Stage):
    def __init__(self) -> None:
        self._now = 1e6
        super().__init__(
            RateLimiter({"default": LIMIT}, None, Metrics(), replica="", clock=lambda: self._now)
        )

    async def held(self) -> float:
        return self.limiter._bucket(self.tenant, LIMIT)._left.tokens

    async def state(self) -> object:
        bucket = self.limiter._bucket(self.tenant, LIMIT)
        return bucket._left, bucket._at

    async def now(self) -> float:
        return self._now

    async def turn_on(self, seconds: float) -> None:
        self._now += seconds


class InRedis(Stage):
    """Its clock cannot be turned, so the bucket is made older instead."""

    def __init__(self, link: RedisLink) -> None:
        super().__init__(RateLimiter({"default": LIMIT}, link, Metrics(), replica=""))
        self._link = link
        self._turned = 0.0

    async def run(self, command: str, *arguments: object) -> Any:
        return await self._link.run("test", command, *arguments)

    async def held(self) -> float:
        return float(await self.run("HGET", limit_key(self.tenant), "tokens"))

    async def state(self) -> object:
        key = limit_key(self.tenant)
        return await self.run("HGETALL", key), await self.run("PEXPIRETIME", key), await self.run("DBSIZE")

    async def now(self) -> float:
        seconds, microseconds = await self.run("TIME")
        return seconds + microseconds / 1e6 + self._turned

    async def turn_on(self, seconds: float) -> None:
        key = limit_key(self.tenant)
        if await self.run("EXISTS", key):
            at = int(await self.run("HGET", key, "at"))
            await self.run("HSET", key, "at", at - math.ceil(seconds * 1e6))
        self._turned += seconds


@contextlib.asynccontextmanager
async def staged(url: str | None) -> AsyncIterator[Stage]:
    if url is None:
        yield InMemory()
        return
    link = RedisLink(RedisSettings(url=url, timeout=Duration(10)), password=None, metrics=Metrics())
    async with contextlib.AsyncExitStack() as stack:
        await link.start()
        stack.push_async_callback(link.stop)
        yield InRedis(link)


@pytest.fixture(params=["memory", "redis"])
def where(request: pytest.FixtureRequest) -> str | None:
    """The Redis that keeps the buckets, None where the replica does."""
    url: str | None = request.getfixturevalue("redis") if request.param == "redis" else None
    return url


def check_headers(headers: dict[str, str]) -> None:
    assert 0 <= int(headers["x-ratelimit-remaining-tokens"]) <= A_MINUTE
    assert 0 <= float(headers["x-ratelimit-reset-tokens"].removesuffix("s")) <= DAY + 60


_ACQUIRE = st.tuples(st.just("acquire"), st.sampled_from([0, 1, 300, 1000, 1001, 5000, 10**9, HUGE]))
_SETTLE = st.tuples(st.just("settle"), st.integers(0, 19), st.sampled_from([0, 10, 1000, 3000, 2**41]))
_TIME = st.tuples(st.just("time"), st.sampled_from([0.5, 20.0, 60.0, 700.0]))
_PATIENT = st.tuples(st.just("patient"), st.sampled_from([0, 1, 1000, HUGE]))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_ACQUIRE | _SETTLE | _TIME | _PATIENT, max_size=20))
def test_no_order_of_requests_gets_more_than_the_limit(where: str | None, steps: list[Any]) -> None:
    asyncio.run(_no_more_than_the_limit(where, steps))


async def _no_more_than_the_limit(where: str | None, steps: list[Any]) -> None:
    async with staged(where) as stage:
        began, used = await stage.now(), 0.0
        grants: list[Grant] = []
        for kind, *arguments in steps:
            if kind == "settle" and grants:
                index, tokens = arguments
                grant = grants[index % len(grants)]
                used += min(tokens, A_MINUTE * MINUTES_COUNTED) if grant.reserved else 0
                await stage.settle(grant, tokens)
            elif kind == "time":
                await stage.turn_on(arguments[0])
            elif kind in ("acquire", "patient"):
                before = await stage.state() if grants else None
                got = await stage.acquire(arguments[0])
                if not isinstance(got, Grant):
                    assert (
                        await stage.state() == before
                    )  # so nothing is to be given back, and no debt forgotten
                    assert 0 < got <= DAY + 60
                    if kind == "acquire":
                        continue
                    await stage.turn_on(got + 1e-3)
                    got = await stage.acquire(arguments[0])
                assert isinstance(got, Grant), "the time to wait was true"
                grants.append(got)
            if grants:
                held = await stage.held()
                outstanding = sum(grant.reserved for grant in grants)
                given = A_MINUTE + (await stage.now() - began) * A_MINUTE / 60
                assert held <= A_MINUTE + 1e-6
                assert held <= given - used - outstanding + 1e-3
                assert outstanding <= given + A_MINUTE * MINUTES_RESERVED


async def test_a_request_that_was_refused_meanwhile_does_not_fill_the_bucket(where: str | None) -> None:
    async with staged(where) as stage:
        for _ in range(3):
            huge = await stage.acquire(10**9)
            assert isinstance(huge, Grant)
            assert not isinstance(await stage.acquire(5), Grant)
            await stage.settle(huge, 3000)
            assert await stage.held() < -1900
            owed = await stage.acquire(5)
            assert not isinstance(owed, Grant)
            assert owed > 110
            await stage.turn_on(3 * 60.0)


async def test_a_reservation_that_nobody_settles_is_paid_off_in_ten_minutes(where: str | None) -> None:
    async with staged(where) as stage:
        assert isinstance(await stage.acquire(HUGE), Grant)
        wait = await stage.acquire(A_MINUTE)
        assert not isinstance(wait, Grant)
        assert MINUTES_RESERVED * 60 - 60 < wait <= MINUTES_RESERVED * 60
        await stage.turn_on(wait)
        assert isinstance(await stage.acquire(A_MINUTE), Grant)


async def test_an_answer_counts_for_an_hour_at_most_and_once(where: str | None) -> None:
    async with staged(where) as stage:
        grant = await stage.acquire(5)
        assert isinstance(grant, Grant)
        for _ in range(3):
            await stage.settle(grant, 2**41)
        wait = await stage.acquire(0)
        assert not isinstance(wait, Grant)
        assert MINUTES_COUNTED * 60 - 70 < wait <= MINUTES_COUNTED * 60
        if isinstance(stage, InRedis):  # nor is the debt forgotten while nobody calls
            assert await stage.run("TTL", limit_key(stage.tenant)) > wait


async def test_time_that_passed_before_an_answer_ended_does_not_pay_for_it(where: str | None) -> None:
    async with staged(where) as stage:
        grant = await stage.acquire(5)
        assert isinstance(grant, Grant)
        await stage.turn_on(600)
        await stage.settle(grant, 3000)
        assert await stage.held() < -1900


async def test_a_replica_that_has_a_share_lets_one_request_reserve_ten_minutes_of_that() -> None:
    stage = InMemory()
    stage.limiter._replicas = 4
    assert isinstance(await stage.acquire(HUGE), Grant)
    wait = await stage.acquire(1)
    assert not isinstance(wait, Grant)
    assert wait <= MINUTES_RESERVED * 60


@pytest.mark.parametrize(
    "kept",
    [
        {"tokens": "-inf"},
        {"tokens": "nan", "requests": "nan"},
        {"tokens": "-1e300"},
        {"tokens": "1e300", "requests": "inf"},
        {"requests": "-1e300"},
        {"tokens": "5", "at": "1e300"},
        {"tokens": "-3000", "at": "-inf"},
        {"tokens": "-3000", "at": "nan"},
        {"tokens": "-3000", "at": "soon"},
        {"tokens": "much", "requests": "many"},
    ],
    ids=str,
)
async def test_nothing_that_redis_holds_keeps_a_tenant_out_for_longer_than_a_day(
    redis: str, kept: dict[str, str]
) -> None:
    async with staged(redis) as stage:
        assert isinstance(stage, InRedis)
        first = await stage.acquire(0)
        assert isinstance(first, Grant)
        for name, value in kept.items():
            await stage.run("HSET", limit_key(stage.tenant), name, value)
        got = await stage.acquire(A_MINUTE)
        if not isinstance(got, Grant):
            assert 0 < got <= DAY + 60
            await stage.turn_on(got)
            assert isinstance(await stage.acquire(A_MINUTE), Grant)
