"""A failing provider beside a healthy one: nobody notices, and soon it is not even asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dub5.providers.health import FEWEST_CALLS
from testkit.http_server import Script, hang, raw, refuse, stream, whole
from testkit.openai_server import FakeOpenAI, say
from tests.harness import Running, running

ODD: dict[str, Script] = {
    "dead": stream([], end=True),
    "talking nonsense": whole(None, raw=b"<html>"),
    "no HTTP at all": raw(b"SSH-2.0-nonsense\r\n\r\n"),
}

FAULTS: dict[str, Script] = {
    "hanging": hang(),
    "overloaded": refuse(529, "Overloaded"),
    "in error": refuse(500, "Oops"),
    "refusing the key": refuse(401, "Wrong key"),
}


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a machine that is busy with something else: what counts is what happened, not how long ago."""
    monkeypatch.setattr("dub5.providers.health.WINDOW", 600.0)
    monkeypatch.setattr("dub5.providers.health.FIRST_PAUSE", 30.0)


@pytest.fixture
async def bad() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def good() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        server.reply = say("Hello")
        yield server


@pytest.fixture
async def server(bad: FakeOpenAI, good: FakeOpenAI) -> AsyncIterator[Running]:
    limits = {"timeouts": {"first_token": "200ms", "total": "400ms"}}
    config: dict[str, Any] = {
        "providers": {
            "bad": {"kind": "openai", "base_url": bad.base_url, **limits},
            "good": {"kind": "openai", "base_url": good.base_url},
        },
        "models": {"small": {"routes": ["bad/x", "good/x"]}, "lonely": {"routes": ["bad/x"]}},
        "cache": {"enabled": False},
    }
    async with running(config) as replica:
        yield replica


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_no_request_fails_and_the_bad_provider_is_soon_not_called(
    server: Running, bad: FakeOpenAI, fault: str, streamed: bool
) -> None:
    bad.reply = FAULTS[fault]
    for number in range(FEWEST_CALLS + 3):
        response = await server.chat(str(number), stream=streamed)
        assert (response.status_code, "Hello" in response.text) == (200, True)
    # Not what it has seen: on a slow machine the time of a call is up before it arrives.
    assert await server.metric("dub5_provider_requests_total", provider="bad") == FEWEST_CALLS
    assert await server.metric("dub5_provider_breaker_state", provider="bad", model="small") == 2
    assert await server.metric("dub5_provider_breaker_state", provider="good", model="small") == 0
    alone = await server.chat(model="lonely")
    assert (alone.status_code, alone.json()["error"]["code"]) == (502, "provider_error")
    assert alone.headers["retry-after"]
    # Not what it has seen: on a slow machine the time of a call is up before it arrives.
    assert await server.metric("dub5_provider_requests_total", provider="bad") == FEWEST_CALLS


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", ODD)
async def test_odd_answers_fail_no_request_and_close_nothing(
    server: Running, bad: FakeOpenAI, fault: str, streamed: bool
) -> None:
    bad.reply = ODD[fault]
    for number in range(2 * FEWEST_CALLS):
        response = await server.chat(str(number), stream=streamed)
        assert (response.status_code, "Hello" in response.text) == (200, True)
    assert len(bad.calls) == 2 * FEWEST_CALLS


async def test_a_provider_that_asks_for_a_pause_gets_it(server: Running, bad: FakeOpenAI) -> None:
    bad.reply = refuse(429, "Slow down", headers={"retry-after": "29"})
    for _ in range(3):
        assert (await server.chat()).status_code == 200
    assert len(bad.calls) == 1
    alone = await server.chat(model="lonely")
    assert 1 <= int(alone.headers["retry-after"]) <= 29


async def test_errors_of_the_caller_never_open_it_and_are_never_asked_twice(
    server: Running, bad: FakeOpenAI, good: FakeOpenAI
) -> None:
    bad.reply = refuse(400, "Bad image")
    for number in range(2 * FEWEST_CALLS):
        assert (await server.chat(str(number))).status_code == 400
    assert (len(bad.calls), len(good.calls)) == (2 * FEWEST_CALLS, 0)
    assert await server.metric("dub5_provider_breaker_state", provider="bad", model="small") == 0
