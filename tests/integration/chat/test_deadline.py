"""The caller's own deadline: nobody works on for one who has stopped waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from testkit.http_server import HANG, hang, stream
from testkit.openai_server import DONE, FakeOpenAI, frames, say
from tests.harness import Running, later, openai_provider, running


@pytest.fixture
async def server(fake: FakeOpenAI) -> AsyncIterator[Running]:
    config: dict[str, Any] = {**openai_provider(fake.base_url), "admission": {"max_inflight": 1}}
    async with running(config) as replica:
        yield replica


@contextlib.asynccontextmanager
async def asking(server: Running, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
    """A streamed answer whose head is here."""
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with server.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        yield answer


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("header", ["x-dub5-timeout", "x-stainless-read-timeout", "x-stainless-timeout"])
async def test_a_provider_that_does_not_begin_in_time(
    server: Running, fake: FakeOpenAI, header: str, streamed: bool
) -> None:
    fake.reply = hang()
    asking = asyncio.create_task(server.chat(stream=streamed, headers={header: "15"}))
    await fake.wait_called()
    await later(15)
    answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    await fake.wait_cancelled()
    await server.becomes("dub5_inflight_requests", 0)
    assert await server.metric("dub5_http_requests_total", outcome="client_disconnect") == 1


async def test_a_stream_that_does_not_end_in_time(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = stream([*frames("Hel", "lo")[:2], HANG])
    async with asking(server, {"x-dub5-timeout": "15s"}) as answer:
        await later(15)
        text = (await answer.aread()).decode()
    assert (answer.status_code, "deadline_exceeded" in text) == (200, True)
    assert "[DONE]" not in text
    await fake.wait_cancelled()


async def test_a_clients_own_time_out_ends_no_stream_that_flows(server: Running, fake: FakeOpenAI) -> None:
    gate = asyncio.Event()
    fake.reply = stream([*frames("Hel", "lo")[:2], gate, *frames("Hel", "lo")[2:], DONE])
    async with asking(server, {"x-stainless-read-timeout": "15"}) as answer:
        await later(15)
        gate.set()
        assert "[DONE]" in (await answer.aread()).decode()


async def test_the_official_client_tells_its_time_out(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = hang()
    client = (await server.openai()).with_options(timeout=15)
    asked = asyncio.create_task(
        client.chat.completions.create(model="small", messages=[{"role": "user", "content": "hi"}])
    )
    await fake.wait_called()
    await later(15)
    with pytest.raises((openai.APITimeoutError, openai.InternalServerError)):
        await asked
    await fake.wait_cancelled()
    await client.close()


async def test_one_followers_deadline_does_not_end_the_others_answer(
    server: Running, fake: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    fake.reply = stream([gate, *frames("Hello")])
    hasty = asyncio.create_task(server.chat(stream=True, headers={"x-dub5-timeout": "15s"}))
    await fake.wait_called()
    patient = asyncio.create_task(server.chat(stream=True))
    await server.followed(2)
    await later(15)
    assert (await hasty).status_code == 504
    gate.set()
    assert "Hello" in (await patient).text
    assert len(fake.calls) == 1


async def test_who_would_wait_past_the_deadline_is_turned_away_at_once(
    server: Running, fake: FakeOpenAI
) -> None:
    gate = asyncio.Event()

    async def slowly(call: Any, wire: Any) -> None:
        await asyncio.sleep(1.5)
        await say("Hello")(call, wire)

    fake.replies = [slowly, stream([gate, *frames("Hello")])]
    await server.chat(
        "first"
    )  # now the pace is known: the mean of this one and of the next, which has just begun
    inside = asyncio.create_task(server.chat("second", stream=True))
    await server.becomes("dub5_inflight_requests", 1)
    shed = await server.chat("third", headers={"x-dub5-timeout": "600ms"})
    assert (shed.status_code, shed.json()["error"]["code"]) == (503, "overloaded")
    assert await server.metric("dub5_shed_total", reason="would_wait_too_long") == 1
    gate.set()
    assert (await inside).status_code == 200


async def test_a_refusal_of_the_hasty_is_none_of_those_who_joined(server: Running, fake: FakeOpenAI) -> None:
    gate = asyncio.Event()
    fake.replies = [stream([gate, *frames("Busy")])]
    inside = asyncio.create_task(server.chat("busy", stream=True))
    await server.becomes("dub5_inflight_requests", 1)
    fake.reply = say("Hello")
    hasty = asyncio.create_task(server.chat("shared", headers={"x-dub5-timeout": "500ms"}))
    await server.becomes("dub5_queued_requests", 1)
    joined = asyncio.create_task(server.chat("shared"))
    assert (await hasty).status_code in {503, 504}
    gate.set()
    assert (await joined).status_code == 200
    await inside


@pytest.mark.parametrize("written", ["", "0", "soon", "-1", "nan", "1e3", "5 s"])
async def test_a_malformed_time_out_is_named(server: Running, written: str) -> None:
    answer = await server.chat(headers={"x-dub5-timeout": written})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Dub5-Timeout")


@pytest.mark.parametrize("written", ["", "not-given", "0"])
async def test_a_clients_time_out_that_says_nothing_is_passed_over(server: Running, written: str) -> None:
    assert (await server.chat(headers={"x-stainless-read-timeout": written})).status_code == 200
