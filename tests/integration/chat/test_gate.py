"""The gate in a whole replica: hits pass, misses queue, the rest is shed, and demand says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from testkit.http_server import stream
from testkit.openai_server import FakeOpenAI, say
from tests.harness import Running, openai_provider, running


@pytest.fixture
async def server(fake: FakeOpenAI) -> AsyncIterator[Running]:
    config: dict[str, Any] = {
        **openai_provider(fake.base_url),
        "admission": {"max_inflight": 1, "max_queued": 1, "queue_timeout": "30s"},
    }
    async with running(config) as replica:
        yield replica


async def test_hits_pass_while_misses_queue_and_the_rest_is_shed(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = say("Hello")
    await server.chat("known")
    gate = asyncio.Event()
    fake.replies = [stream([gate, b"data: [DONE]\n\n"])]
    inside = asyncio.create_task(server.chat("one", stream=True))
    await server.becomes("dub5_inflight_requests", 1)
    waiting = asyncio.create_task(server.chat("two"))
    await server.becomes("dub5_queued_requests", 1)
    assert await server.metric("dub5_demand_requests") == 2
    assert (await server.chat("known")).headers["cache-status"].startswith("dub5; hit")
    shed = await server.chat("three")
    assert (shed.status_code, shed.json()["error"]["code"]) == (503, "overloaded")
    assert int(shed.headers["retry-after"]) >= 1
    assert shed.headers["connection"] == "close"
    assert await server.metric("dub5_shed_total", reason="queue_full") == 1
    assert await server.metric("dub5_http_requests_total", outcome="shed") == 1
    assert await server.metric("dub5_demand_requests") > 2
    gate.set()
    assert "connection" not in (await inside).headers
    second = await waiting
    assert second.status_code == 200
    assert second.headers["connection"] == "close", "a new connection may lead to a replica that has room"
    assert "queue;dur=" in second.headers["server-timing"]
    await server.becomes("dub5_inflight_requests", 0)


async def test_a_client_that_leaves_the_queue_is_forgotten(server: Running, fake: FakeOpenAI) -> None:
    gate = asyncio.Event()
    fake.replies = [stream([gate, b"data: [DONE]\n\n"])]
    inside = asyncio.create_task(server.chat("one", stream=True))
    await server.becomes("dub5_inflight_requests", 1)
    waiting = asyncio.create_task(server.chat("two"))
    await server.becomes("dub5_queued_requests", 1)
    waiting.cancel()
    await server.becomes("dub5_queued_requests", 0)
    gate.set()
    await inside
    await server.becomes("dub5_inflight_requests", 0)
    assert len(fake.calls) == 1


async def test_followers_hold_no_place(server: Running, fake: FakeOpenAI) -> None:
    gate = asyncio.Event()
    fake.replies = [stream([gate, b"data: [DONE]\n\n"])]
    asking = [asyncio.create_task(server.chat("same", stream=True)) for _ in range(10)]
    await server.becomes("dub5_flight_followers", 10)
    await server.becomes("dub5_inflight_requests", 1)
    assert await server.metric("dub5_demand_requests") == 1
    gate.set()
    await asyncio.gather(*asking)
