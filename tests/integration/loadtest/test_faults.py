"""The scenario `faults`, by a real k6, while a real Redis or a provider is taken away in the middle of it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from testkit.openai_server import FakeOpenAI
from testkit.redis_server import RedisServer
from tests.harness import Running, running
from tests.integration.loadtest.test_scenarios import FAST, K6, MISSED, PASSED, k6, missed, outcomes

pytestmark = pytest.mark.skipif(K6 is None, reason="needs k6")

LOAD = {"RATE": "20", "DURATION": "5s", "COMPLEXITIES": "short", "MAX_VUS": "300"}


async def seen(server: Running, more: int = 10) -> None:
    """Wait for so many more requests to end."""

    async def ended() -> float:
        return await server.metric("dub5_http_requests_total", route="/v1/chat/completions")

    wanted = await ended() + more
    async with asyncio.timeout(60):
        while await ended() < wanted:  # noqa: ASYNC110  # a metric has no event
            await asyncio.sleep(0.01)


async def test_nobody_notices_that_redis_is_away() -> None:
    async with RedisServer() as redis, running({**FAST, "redis": {"url": redis.url}}) as server:
        load = asyncio.create_task(k6(server.url, "faults", **LOAD))
        await seen(server)
        await redis.stop()
        await server.becomes("dub5_redis_up", 0)
        await seen(server)
        await redis.start()
        await server.becomes("dub5_redis_up", 1)
        await seen(server, 5)
        assert not load.done()
        code, found, _ = await load
    assert (code, missed(found)) == (PASSED, set())
    assert outcomes(found) == {"whole": found["metrics"]["chat_requests"]["count"]}


@pytest.mark.parametrize(
    ("routes", "code", "gates"),
    [(["one/m", "two/m"], PASSED, set()), (["one/m"], MISSED, {"chat_whole"})],
    ids=["another stands in", "nobody stands in"],
)
async def test_a_provider_that_is_away(routes: list[str], code: int, gates: set[str]) -> None:
    async with FakeOpenAI() as two, contextlib.AsyncExitStack() as there:
        one = await there.enter_async_context(FakeOpenAI())
        providers = {
            name: {"kind": "openai", "base_url": each.base_url} for name, each in (("one", one), ("two", two))
        }
        config = {"providers": providers, "models": {"small": {"routes": routes}}}
        async with running(config) as server:
            load = asyncio.create_task(k6(server.url, "faults", PERSONALITIES="small", **LOAD))
            await seen(server)
            await there.aclose()
            await seen(server)
            assert not load.done()
            ended, found, _ = await load
    assert (ended, missed(found)) == (code, gates)
    assert one.calls
    assert bool(two.calls) == (len(routes) == 2)
    assert found["metrics"]["chat_honest"]["rate"] == 1
