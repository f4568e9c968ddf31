"""Rates per tenant: exact over replicas, tokens reserved and settled, and each its share while Redis is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any
from unittest.mock import AsyncMock

import httpx
import openai
import pytest

from dub5.admission import limits
from dub5.admission.limits import RateLimiter, Remaining, rate_headers
from dub5.contract import limit_key
from dub5.errors import RateLimited
from dub5.redis.link import RedisLink, RedisUnavailable
from dub5.settings.model import Limit, RedisSettings
from dub5.telemetry.metrics import Metrics
from testkit.http_server import hang, refuse
from testkit.openai_server import FakeOpenAI, say
from testkit.redis_server import RedisServer
from tests.harness import PATIENT, openai_provider, running
from tests.integration.cache.support import until

NOWHERE = "redis://127.0.0.1:1/0"


@contextlib.asynccontextmanager
async def limiters(count: int, url: str, limit: Limit) -> AsyncIterator[list[RateLimiter]]:
    """So many replicas' limiters, each with its own link."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for number in range(count):
            metrics = Metrics()
            settings = RedisSettings(url=url, timeout=PATIENT)  # a busy machine is not a lost Redis
            link = RedisLink(settings, password=None, metrics=metrics)
            await link.start()
            stack.push_async_callback(link.stop)
            limiter = RateLimiter({"default": limit}, link, metrics, replica=str(number))
            await limiter.start()
            stack.push_async_callback(limiter.stop)
            made.append(limiter)
        yield made


async def accepted(limiters: list[RateLimiter], tries: int, *, reserve: int = 0) -> int:
    return (await tried(limiters, tries, reserve=reserve)).count(None)


async def tried(limiters: list[RateLimiter], tries: int, *, reserve: int = 0) -> list[RateLimited | None]:
    """Why each was refused, None where it was not."""

    async def one(limiter: RateLimiter) -> RateLimited | None:
        try:
            await limiter.acquire("acme", reserve=reserve)
        except RateLimited as refused:
            return refused
        return None

    return await asyncio.gather(*(one(limiter) for limiter in limiters for _ in range(tries)))


async def test_eight_replicas_accept_exactly_what_the_limit_allows(redis: str) -> None:
    async with limiters(8, redis, Limit(requests_per_minute=20)) as made:
        link = made[0]._link
        assert link is not None

        async def bucket() -> tuple[float, float]:
            """When it was last asked, in seconds of Redis' clock, and what it held then."""
            read: Any = await link.run("test", "HMGET", limit_key("acme"), "at", "requests")
            return float(read[0]) / 1e6, float(read[1])

        assert await accepted(made[:1], tries=1) == 1
        began, _ = await bucket()
        came = await tried(made, tries=15)
        granted = 1 + came.count(None)
        ended, held = await bucket()
        assert 0 <= held < 1
        assert granted == pytest.approx(20 + (ended - began) * 20 / 60 - held, abs=0.01)
        # One that was refused then: another one would be granted where a busy machine takes three seconds for it.
        refused = next(filter(None, came))
        assert refused.retry_after is not None
        assert 0 < refused.retry_after <= 3
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        other = await made[0].acquire("other", reserve=0)
        assert other is not None
        assert other.headers["x-ratelimit-remaining-requests"] == "19"


@pytest.mark.parametrize("less", [Limit(requests_per_minute=10), Limit(tokens_per_minute=1000)])
async def test_a_replica_that_limits_less_takes_nothing_of_what_another_one_limits(
    redis: str, less: Limit
) -> None:
    both = Limit(requests_per_minute=10, tokens_per_minute=1000)
    async with limiters(1, redis, less) as (before,), limiters(1, redis, both) as (after,):
        grant = await before.acquire("acme", reserve=100)
        assert grant is not None
        before.settle(grant, used=10)
        await asyncio.gather(*before._settlements.running)
        assert await accepted([after], tries=1, reserve=100) == 1


async def test_where_plenty_is_left_requests_are_granted_at_once_and_counted_soon(redis: str) -> None:
    limit = Limit(requests_per_minute=3000)
    async with limiters(2, redis, limit) as (one, other):
        one._replicas = 1
        assert one.at_once("acme", limit) is None  # nobody has asked yet
        assert await accepted([one], tries=1) == 1
        granted = []
        while (grant := one.at_once("acme", limit)) is not None:
            granted.append(grant.left.requests)
        assert granted == [2999.0 - number for number in range(1, 1001)]
        began = asyncio.get_running_loop().time()
        while one._told["acme"].uncounted:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)
        assert await accepted([one], tries=1) == 1  # its answer comes after that
        left = await other.acquire("acme", reserve=0)
        took = asyncio.get_running_loop().time() - began
        assert left is not None
        assert 1997 <= left.left.requests <= 1997 + (1 + took) * 3000 / 60


async def test_what_is_left_is_told_without_what_was_granted_at_once(redis: str) -> None:
    limit = Limit(requests_per_minute=3000)
    async with limiters(1, redis, limit) as (one,):
        assert await accepted([one], tries=1) == 1
        for _ in range(500):  # of which Redis has not heard yet
            assert one.at_once("acme", limit) is not None
        grant = await one.acquire("acme", reserve=0)
        assert grant is not None
        assert grant.left.requests < 2900  # 2498, and a little refill


async def test_what_was_granted_at_once_is_counted_where_a_replica_stops(redis: str) -> None:
    limit = Limit(requests_per_minute=3000)
    async with limiters(1, redis, limit) as (other,):
        async with limiters(1, redis, limit) as (one,):
            one._replicas = 1
            assert await accepted([one], tries=1) == 1
            for _ in range(500):
                assert one.at_once("acme", limit) is not None
        left = await other.acquire("acme", reserve=0)
        assert left is not None
        assert left.left.requests < 2900


async def test_nothing_is_granted_at_once_by_what_was_said_long_ago_or_in_debt(redis: str) -> None:
    limit, now = Limit(requests_per_minute=3000, tokens_per_minute=1000), [0.0]
    async with limiters(1, redis, limit) as (one,):
        one._clock = lambda: now[0]
        assert await accepted([one], tries=1) == 1
        assert one.at_once("acme", limit) is not None
        now[0] += 0.06
        assert one.at_once("acme", limit) is None
        assert await accepted([one], tries=1) == 1
        assert one.at_once("acme", limit) is not None
        assert await accepted([one], tries=1, reserve=2000) == 1
        assert one.at_once("acme", limit) is None


async def test_what_was_granted_at_once_counts_here_where_redis_is_lost() -> None:
    limit = Limit(requests_per_minute=3000)
    async with RedisServer() as server, limiters(1, server.url, limit) as (one,):
        one._clock = lambda: 0.0
        assert await accepted([one], tries=1) == 1
        await server.stop()
        for _ in range(10):
            assert one.at_once("acme", limit) is not None
        while "acme" not in one._buckets:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)
        assert one._buckets["acme"]._left.requests == 2989


async def test_tokens_are_reserved_settled_once_and_never_spent_twice(redis: str) -> None:
    async with limiters(2, redis, Limit(tokens_per_minute=1000)) as (one, other):
        first = await one.acquire("acme", reserve=600)
        assert first is not None
        with pytest.raises(RateLimited):
            await other.acquire("acme", reserve=600)
        for _ in range(3):  # said again, it changes nothing
            one.settle(first, used=100)
        await asyncio.gather(*one._settlements.running)
        second = await other.acquire("acme", reserve=800)
        assert second is not None
        left = int(second.headers["x-ratelimit-remaining-tokens"])
        assert 100 <= left <= 150  # 1000 - 100 - 800, and a little refill
        with pytest.raises(RateLimited):
            await one.acquire("acme", reserve=300)


async def test_a_settlement_that_redis_did_not_take_is_tried_again(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEARTBEAT", 0.01)
    async with limiters(1, redis, Limit(tokens_per_minute=1000)) as (one,):
        grant = await one.acquire("acme", reserve=600)
        assert grant is not None
        with monkeypatch.context() as patch:
            patch.setattr(one._link, "run", AsyncMock(side_effect=RedisUnavailable))
            one.settle(grant, used=100)
            await asyncio.gather(*one._settlements.running)

        async def granted() -> bool:
            return await accepted([one], tries=1, reserve=800) == 1

        await until(granted)


async def test_what_was_reserved_by_a_question_whose_answer_was_lost_is_given_back(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with limiters(1, redis, Limit(tokens_per_minute=1000)) as (one,):
        assert one._link is not None
        run = one._link.run

        async def lost(operation: str, *words: Any) -> Any:
            await run(operation, *words)
            raise RedisUnavailable

        with monkeypatch.context() as patch:
            patch.setattr(one._link, "run", lost)
            grant = await one.acquire("acme", reserve=600)
        assert grant is not None
        assert grant.local is not None
        await one._settle_late()
        assert await accepted([one], tries=1, reserve=900) == 1


async def test_a_request_over_the_whole_limit_is_let_through_once_and_then_owed(redis: str) -> None:
    async with limiters(1, redis, Limit(tokens_per_minute=1000)) as [one]:
        assert await one.acquire("acme", reserve=5000) is not None
        with pytest.raises(RateLimited) as caught:
            await one.acquire("acme", reserve=1)
        assert caught.value.retry_after is not None
        assert caught.value.retry_after > 200


async def test_while_redis_is_away_all_replicas_together_keep_the_limit(redis: str) -> None:
    async with limiters(4, redis, Limit(requests_per_minute=40)) as made:
        for limiter in made:
            await limiter._beat()
        assert [limiter._replicas for limiter in made] == [4, 4, 4, 4]
        assert await accepted(made[:1], tries=20) == 20
        for limiter in made:
            await limiter.acquire("acme", reserve=0)  # so that each knows what is left
            limiter._link = RedisLink(RedisSettings(url=NOWHERE), password=None, metrics=Metrics())
        assert 13 <= await accepted(made, tries=20) <= 16


async def test_a_share_of_less_than_one_request_is_saved_up() -> None:
    now = 0.0
    limiter = RateLimiter(
        {"acme": Limit(requests_per_minute=2)}, None, Metrics(), replica="", clock=lambda: now
    )
    limiter._replicas = 4
    granted = 0
    for now in range(600):  # noqa: B007  # the clock reads it
        granted += await accepted([limiter], tries=1)
    assert granted == 5  # half a request a minute


async def test_without_redis_one_replica_has_the_whole_limit() -> None:
    limiter = RateLimiter({"acme": Limit(requests_per_minute=5)}, None, Metrics(), replica="")
    assert await accepted([limiter], tries=9) == 5
    assert await limiter.acquire("unlimited", reserve=10**9) is None


def test_headers_are_those_that_openai_clients_know() -> None:
    headers = rate_headers(Limit(requests_per_minute=60, tokens_per_minute=1000), Remaining(30.5, -10.0))
    assert headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "30",
        "x-ratelimit-reset-requests": "29.500s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "60.600s",
    }


def limited(fake: FakeOpenAI, **limit: int) -> dict[str, Any]:
    return {**openai_provider(fake.base_url), "limits": {"default": limit}}


async def test_the_official_client_raises_its_own_class_and_can_read_the_headers(fake: FakeOpenAI) -> None:
    async with running(limited(fake, requests_per_minute=2)) as server, await server.openai() as client:
        for _ in range(2):
            await client.chat.completions.create(model="small", messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="small", messages=[{"role": "user", "content": "hi"}])
        assert caught.value.code == "rate_limit_exceeded"
        headers = caught.value.response.headers
        assert (headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-limit-requests"]) == (
            "0",
            "2",
        )
        assert int(headers["retry-after"]) >= 1
        assert await server.metric("dub5_http_requests_total", outcome="limited") == 1


async def test_hits_and_followers_cost_a_request_and_no_tokens(fake: FakeOpenAI) -> None:
    fake.reply = say("Hello")
    async with running(limited(fake, requests_per_minute=100, tokens_per_minute=10_000)) as server:

        async def left(text: str) -> tuple[int, int]:
            headers = (await server.chat(text, max_tokens=100)).headers
            return tuple(int(headers[f"x-ratelimit-remaining-{kind}"]) for kind in ("requests", "tokens"))  # type: ignore[return-value]

        await left("one")
        _, after_miss = await left("one")
        assert 9_900 < after_miss <= 10_000  # the reservation was settled at the 12 tokens that were used
        requests, tokens = await left("one")
        assert requests <= 97 + 1
        assert tokens >= after_miss


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_a_number_that_cannot_be_reserved_is_refused_and_costs_the_tenant_nothing(
    fake: FakeOpenAI, redis: str, field: str
) -> None:
    fake.reply = say("Hello")
    settings = limited(fake, tokens_per_minute=10_000)
    async with running({**settings, "redis": {"url": redis}}) as server:
        for number in (10**400, 10**300, int("9" * 19)):
            fields: dict[str, Any] = {field: number}
            refused = await server.chat("one", **fields)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)
        fields = {field: 9000}
        answer = await server.chat("one", **fields)
        assert answer.status_code == 200
        assert 0 <= int(answer.headers["x-ratelimit-remaining-tokens"]) < 1000


@pytest.mark.parametrize("fault", ["refused", "left"])
async def test_a_reservation_is_given_back_where_nothing_was_made_and_kept_where_nobody_knows(
    fake: FakeOpenAI, fault: str
) -> None:
    async with running(limited(fake, tokens_per_minute=10_000)) as server:
        if fault == "refused":
            fake.reply = refuse(500, "Oops")
            assert (await server.chat("one", max_tokens=5_000)).status_code == 502
        else:
            fake.reply = hang()
            asking = asyncio.create_task(server.chat("one", max_tokens=5_000))
            await fake.wait_called()
            asking.cancel()
            await fake.wait_cancelled()
        fake.reply = say("Hello")
        again = await server.chat("two", max_tokens=6_000)
        assert again.status_code == (200 if fault == "refused" else 429)


@pytest.mark.parametrize("path", ["chat/completions", "embeddings"])
async def test_who_waits_for_anothers_call_or_for_a_place_and_leaves_has_used_nothing(
    fake: FakeOpenAI, path: str
) -> None:
    fake.reply = hang()
    settings = {**limited(fake, tokens_per_minute=10_000), "admission": {"max_inflight": 1}}
    async with running(settings) as server:
        long = "a" * 8000

        def ask(text: str, timeout: str) -> Coroutine[Any, Any, httpx.Response]:
            messages = [{"role": "user", "content": text}]
            body = {"model": "small", "messages": messages, "max_tokens": 20, "input": text}
            return server.client.post(f"/v1/{path}", json=body, headers={"x-dub5-timeout": timeout})

        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(ask(long, "60"))
            await fake.wait_called()
            for text in (long, "b" * 8000):
                refused = await ask(text, "0.2")
                assert refused.status_code in {503, 504}
            fake.reply = say("Hello")
            last = await ask("c", "0.2")  # it may as well be refused: its head says what is left
            assert 7_000 < int(last.headers["x-ratelimit-remaining-tokens"]) < 8_100
            first.cancel()
    assert len(fake.calls) == 1
