"""Weights, second calls and the provider's own limit, over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dub5.providers.health import FEWEST_LATENCIES
from testkit.http_server import DIE, hang, refuse, stream
from testkit.openai_server import FakeOpenAI, frames, say
from tests.harness import Running, running


@pytest.fixture
async def one() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        server.reply = say("One")
        yield server


@pytest.fixture
async def two() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        server.reply = say("Two")
        yield server


@pytest.fixture
async def server(one: FakeOpenAI, two: FakeOpenAI) -> AsyncIterator[Running]:
    both = ["one/x", "two/x"]
    config: dict[str, Any] = {
        "providers": {
            "one": {"kind": "openai", "base_url": one.base_url},
            "two": {"kind": "openai", "base_url": two.base_url},
        },
        "models": {
            "small": {"routes": ["one/x"]},
            "balanced": {"routes": both, "weights": {"one/x": 1, "two/x": 1}},
            "hedged": {"routes": both, "hedge": True},
        },
        "cache": {"enabled": False},
    }
    async with running(config) as replica:
        yield replica


async def retries(server: Running, reason: str) -> float:
    return await server.metric("dub5_provider_retries_total", reason=reason)


async def test_weights_share_the_calls(server: Running, one: FakeOpenAI, two: FakeOpenAI) -> None:
    for number in range(60):
        assert (await server.chat(str(number), model="balanced")).status_code == 200
    assert len(one.calls) + len(two.calls) == 60
    assert one.calls  # by chance not so once in 2^60 runs
    assert two.calls


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_slow_call_is_hedged_and_ended(
    server: Running, one: FakeOpenAI, two: FakeOpenAI, streamed: bool
) -> None:
    for number in range(FEWEST_LATENCIES):
        await server.chat(str(number), model="hedged", stream=streamed)
    before = len(one.calls)
    assert await retries(server, "hedge") == len(
        two.calls
    )  # those that happened to be slow on a busy machine
    one.reply = hang()
    answer = await server.chat("slow", model="hedged", stream=streamed)
    assert (answer.status_code, "Two" in answer.text) == (200, True)
    assert (len(one.calls), one.calls[-1].cancelled.is_set()) == (before + 1, True)
    assert await retries(server, "hedge") == len(two.calls)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_broken_connection_is_tried_once_more_within_the_budget(
    server: Running, one: FakeOpenAI, streamed: bool
) -> None:
    for number in range(20):
        await server.chat(str(number))
    broken, whole = stream([DIE]), say("One")
    one.replies = [broken, whole, broken, whole, broken]
    answers = [(await server.chat(f"broken {number}", stream=streamed)).status_code for number in range(3)]
    assert answers == [200, 200, 502]  # twenty calls earn two retries
    assert await retries(server, "retry") == 2


async def test_a_stream_that_has_begun_is_never_asked_for_again(server: Running, one: FakeOpenAI) -> None:
    for number in range(20):
        await server.chat(str(number))
    before = len(one.calls)
    one.reply = stream([*frames("Hel", "lo")[:2], DIE])
    answer = await server.chat("broken", stream=True)
    assert (answer.status_code, "provider_error" in answer.text, "[DONE]" in answer.text) == (
        200,
        True,
        False,
    )
    assert len(one.calls) == before + 1


async def test_a_provider_that_asks_for_less_is_given_less_and_others_wait(
    server: Running, one: FakeOpenAI
) -> None:
    one.reply = hang()
    hanging = [asyncio.create_task(server.chat(str(number))) for number in range(3)]
    for _ in hanging:
        await one.wait_called()
    one.reply = refuse(429, "Slow down")
    assert (await server.chat("refused")).status_code == 429
    assert await server.metric("dub5_provider_concurrency_limit", provider="one", model="small") == 2
    assert await server.metric("dub5_provider_requests_total", provider="one", outcome="limited") == 1
    one.reply = say("One")
    waiting = asyncio.create_task(server.chat("later"))
    await server.becomes("dub5_provider_waiting_requests", 1, provider="one")
    assert await server.metric("dub5_inflight_requests") == 3
    assert await server.metric("dub5_demand_requests") == 3  # more replicas would not help who waits
    for call in hanging:
        call.cancel()
    assert (await waiting).status_code == 200
    await asyncio.gather(*hanging, return_exceptions=True)
    assert await server.metric("dub5_provider_waiting_requests", provider="one") == 0
