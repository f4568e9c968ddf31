"""One model's trouble stays its own, and a stream begins with its answer: over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from dub5.providers.health import FEWEST_CALLS
from testkit.http_server import DIE, HANG, Call, Script, Wire, hang, refuse, stream, whole
from testkit.openai_server import FakeOpenAI, chunk, frame, frames, say
from tests.harness import Running, running

SOON = formatdate(4_000_000_000, usegmt=True)

BROKEN: dict[str, Script] = {
    "hang in mid-answer": stream([*frames("Hel", "lo")[:2], HANG]),
    "cut before the head": stream([DIE]),
    "garbage in mid-answer": stream([*frames("Hel", "lo")[:2], b"data: {nonsense\n\n"]),
    "an error with status 200": whole({"error": {"message": "No."}}),
}
FAULTS: dict[str, Script] = {
    "429": refuse(429, "Slow down"),
    "429, no quota": whole({"error": {"message": "No.", "code": "insufficient_quota"}}, status=429),
    "400": refuse(400, "Bad image"),
    "422": refuse(422, "Bad image"),
    "503 for seconds": refuse(503, "Slow down", headers={"retry-after": "20"}),
    "429 for seconds": refuse(429, "Slow down", headers={"retry-after": "20"}),
    "429 until a date": refuse(429, "Slow down", headers={"retry-after": SOON}),
    "429 for milliseconds": refuse(429, "Slow down", headers={"retry-after-ms": "20000"}),
    "402": refuse(402, "Pay first"),
    "403": refuse(403, "Flagged"),
    "404": refuse(404, "No endpoints found that support image input"),
    "409": refuse(409, "Conflict"),
    "424": refuse(424, "Failed dependency"),
    "500": refuse(500, "Oops"),
    "529": refuse(529, "Overloaded"),
    "hang": hang(),
    "cut": stream([*frames("Hel", "lo")[:2], DIE]),
    "garbage": whole(None, raw=b"<html>"),
    "empty": stream([], end=True),
    **BROKEN,
}


@pytest.fixture
async def server(fake: FakeOpenAI) -> AsyncIterator[Running]:
    provider = {"kind": "openai", "base_url": fake.base_url}
    config: dict[str, Any] = {
        "providers": {"fake": {**provider, "timeouts": {"first_token": "2s", "total": "2s"}}},
        "models": {"bad": {"routes": ["fake/bad"]}, "small": {"routes": ["fake/fine"]}},
        "cache": {"enabled": False},
    }
    async with running(config) as replica:
        yield replica


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_the_neighbour_on_the_same_provider_is_always_answered(
    server: Running, fake: FakeOpenAI, fault: str, streamed: bool
) -> None:
    async def by_model(call: Call, wire: Wire) -> None:
        await (FAULTS[fault] if call.body["model"] == "bad" else say("Hello"))(call, wire)

    fake.reply = by_model
    for _ in range(2):
        bad = [
            asyncio.create_task(server.chat(str(number), model="bad", stream=streamed))
            for number in range(FEWEST_CALLS)
        ]
        for number in range(FEWEST_CALLS):
            fine = await server.chat(str(number), stream=streamed)
            assert (fine.status_code, "Hello" in fine.text) == (200, True)
        assert all("error" in answer.text for answer in await asyncio.gather(*bad))
    assert await server.metric("dub5_provider_breaker_state", model="small") == 0


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("max_inflight", "max_connections"), [(50, 1000), (1000, 50)])
async def test_a_model_that_hangs_under_hundreds_of_callers_leaves_places_to_its_neighbour(
    fake: FakeOpenAI, max_inflight: int, max_connections: int, streamed: bool
) -> None:
    async def by_model(call: Call, wire: Wire) -> None:
        await (hang() if call.body["model"] == "bad" else say("Hello"))(call, wire)

    fake.reply = by_model
    provider = {"kind": "openai", "base_url": fake.base_url, "max_connections": max_connections}
    config: dict[str, Any] = {
        "providers": {"fake": provider},
        "models": {"bad": {"routes": ["fake/bad"]}, "small": {"routes": ["fake/fine"]}},
        "admission": {"max_inflight": max_inflight, "max_queued": 1000, "queue_timeout": "600s"},
        "cache": {"enabled": False},
    }
    anyone = httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None))
    async with running(config) as server, anyone as client:
        body = {"model": "bad", "messages": [{"role": "user", "content": "Hi"}], "stream": streamed}
        bad = [
            asyncio.create_task(client.post(f"{server.url}/v1/chat/completions", json=body))
            for _ in range(200)
        ]
        await server.becomes("dub5_inflight_requests", 40)
        for number in range(30):
            fine = await server.chat(str(number), stream=streamed)
            assert (fine.status_code, "Hello" in fine.text) == (200, True)
        assert len([call for call in fake.calls if call.body["model"] == "bad"]) == 40
        for task in bad:
            task.cancel()
        await asyncio.gather(*bad, return_exceptions=True)


async def test_a_model_that_nobody_has_is_no_reason_to_leave_it_alone(
    server: Running, fake: FakeOpenAI
) -> None:
    fake.reply = refuse(404, "No endpoints found that support image input")
    for number in range(3 * FEWEST_CALLS):
        await server.chat(str(number))
    assert len(fake.calls) == 3 * FEWEST_CALLS


async def test_a_provider_that_cannot_be_reached_is_not_called_for_any_of_its_models(
    fake: FakeOpenAI,
) -> None:
    config: dict[str, Any] = {
        "providers": {"fake": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1"}},
        "models": {name: {"routes": [f"fake/{name}"]} for name in ("small", "other")},
        "cache": {"enabled": False},
    }
    async with running(config) as server:
        for number in range(FEWEST_CALLS):
            await server.chat(str(number))
        assert await server.metric("dub5_provider_breaker_state", model="other") == 2
        assert "circuit breaker is open" in (await server.chat(model="other")).text


# --- The commit point ---


async def test_a_stream_that_is_silent_behind_its_role_falls_back(fake: FakeOpenAI) -> None:
    """What fails there otherwise: tests/integration/providers/test_answers.py."""
    fake.reply = say("Hello")
    async with FakeOpenAI() as first:
        first.reply = stream([frame(chunk({"role": "assistant", "content": ""}))], end=False)
        config: dict[str, Any] = {
            "providers": {
                "first": {"kind": "openai", "base_url": first.base_url, "timeouts": {"first_token": "100ms"}},
                "second": {"kind": "openai", "base_url": fake.base_url},
            },
            "models": {"small": {"routes": ["first/x", "second/x"]}},
        }
        async with running(config) as server:
            answers = [await server.chat(str(number), stream=True) for number in range(3)]
            assert all("Hello" in each.text and "error" not in each.text for each in answers)
            assert await server.metric("dub5_provider_requests_total", provider="first") == 3


async def test_what_a_provider_sends_while_it_thinks_is_a_sign_of_life(fake: FakeOpenAI) -> None:
    """It thinks for longer than the limit, and no pause is as long."""
    limit, now = 0.5, asyncio.get_running_loop().time

    async def thinking(call: Call, wire: Wire) -> None:
        await wire.head(200, {"content-type": "text/event-stream"})
        began = now()
        while now() - began < 2 * limit:
            await wire.send(b": keep-alive\n\n")
            await asyncio.sleep(limit / 20)
        for part in frames("Hello"):
            assert isinstance(part, bytes)
            await wire.send(part)
        await wire.end()

    fake.reply = thinking
    provider = {"kind": "openai", "base_url": fake.base_url, "timeouts": {"first_token": f"{limit}s"}}
    config = {"providers": {"fake": provider}, "models": {"small": {"routes": ["fake/x"]}}}
    async with running(config) as server:
        assert "Hello" in (await server.chat(stream=True)).text
