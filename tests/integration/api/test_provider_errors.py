"""What callers are told when a provider refuses: by the official client, in streams, over routes and replicas."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from testkit.http_server import Call, Script, Wire, hang, stream, whole
from testkit.openai_server import FakeOpenAI, chunk, frame, say
from tests.harness import Running, openai_provider, running

ASK: Any = [{"role": "user", "content": "Hi"}]
TWO = ["one/x", "two/x"]


@pytest_asyncio.fixture
async def one() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as fake:
        yield fake


@pytest_asyncio.fixture
async def two() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as fake:
        yield fake


@pytest_asyncio.fixture
async def server(one: FakeOpenAI, two: FakeOpenAI) -> AsyncIterator[Running]:
    config = {
        "providers": {
            "one": {"kind": "openai", "base_url": one.base_url},
            "two": {"kind": "openai", "base_url": two.base_url},
        },
        "models": {"small": {"routes": ["one/x"]}, "both": {"routes": TWO}},
    }
    async with running(config) as replica:
        yield replica


def refusal(
    status: int, message: str = "It says no.", headers: dict[str, str] | None = None, **more: Any
) -> Script:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}
    return whole({"error": error}, status=status, headers=headers)


@contextlib.asynccontextmanager
async def client_of(server: Running, retries: int) -> AsyncIterator[AsyncOpenAI]:
    """The official client, which waits as long as it is told to, but no longer than a moment."""
    made = await server.openai()
    async with made.with_options(max_retries=retries) as client:
        client._sleep_for_retry = _no_sleep  # type: ignore[method-assign]
        yield client


async def _read(answer: AsyncIterator[object]) -> None:
    async for _ in answer:
        pass


async def _no_sleep(**_: object) -> None:
    pass


CANNOT_SEE = "No endpoints found that support image input"
QUOTA: Any = {"type": "insufficient_quota", "code": "insufficient_quota"}
ROWS: dict[str, tuple[Script, type[openai.APIStatusError], tuple[int, str | None], int]] = {
    "too long": (
        refusal(400, param="messages", code="context_length_exceeded"),
        openai.BadRequestError,
        (400, "context_length_exceeded"),
        1,
    ),
    "not allowed": (refusal(403, "Your input was flagged"), openai.PermissionDeniedError, (403, "provider_error"), 1),
    "cannot see": (refusal(404, CANNOT_SEE), openai.NotFoundError, (404, "provider_error"), 1),
    "unknown model": (refusal(404, code="model_not_found"), openai.InternalServerError, (502, "provider_error"), 1),
    "wrong key": (refusal(401), openai.InternalServerError, (502, "provider_error"), 1),
    "no credit": (refusal(402), openai.InternalServerError, (502, "provider_error"), 1),
    "conflict": (refusal(409), openai.ConflictError, (409, "provider_error"), 1),
    "unprocessable": (refusal(422, param="n"), openai.UnprocessableEntityError, (422, "invalid_request_error"), 1),
    "too large": (refusal(413), openai.APIStatusError, (413, "request_too_large"), 1),
    "dependency": (refusal(424, code="mcp_error"), openai.APIStatusError, (424, "mcp_error"), 1),
    "quota": (refusal(429, **QUOTA), openai.RateLimitError, (429, "insufficient_quota"), 1),
    "rate": (refusal(429, code="rate_limit_exceeded"), openai.RateLimitError, (429, "rate_limit_exceeded"), 3),
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("script", "raised", "expected", "asked"), ROWS.values(), ids=ROWS)
async def test_the_official_client_raises_its_own_class_and_asks_again_only_where_that_can_help(
    server: Running,
    one: FakeOpenAI,
    script: Script,
    raised: type[openai.APIStatusError],
    expected: tuple[int, str | None],
    asked: int,
    streamed: bool,
) -> None:
    one.reply = script
    received = 0

    async def count(_: object) -> None:
        nonlocal received
        received += 1

    async with client_of(server, retries=2) as client:
        client._client.event_hooks = {"request": [count]}  # no public way to see what it sends
        with pytest.raises(raised) as caught:
            await client.chat.completions.create(model="small", messages=ASK, stream=streamed)
    assert (caught.value.status_code, caught.value.code) == expected
    assert received == asked


LARGE = refusal(
    413, "tokens per minute (TPM): Limit 6000, Requested 12328", type="tokens", code="rate_limit_exceeded"
)


async def test_what_is_too_large_for_one_account_is_for_the_next(
    server: Running, one: FakeOpenAI, two: FakeOpenAI
) -> None:
    one.reply, two.reply = LARGE, say("Hello")
    answer = await server.chat(model="both")
    assert (answer.status_code, "Hello" in answer.text) == (200, True)
    two.reply = LARGE
    answer = await server.chat("Again", model="both")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "rate_limit_exceeded")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("script", "expected", "hint"),
    [
        (refusal(429, **QUOTA), (429, "insufficient_quota"), "false"),
        (refusal(429, code="1113", type="1113"), (429, "insufficient_quota"), "false"),
        (refusal(429, code="too_fast", headers={"retry-after": "29"}), (429, "too_fast"), None),
        (refusal(402, "Insufficient Balance"), (502, "provider_error"), "false"),
        (refusal(401), (502, "provider_error"), "false"),
        (refusal(500), (502, "provider_error"), None),
    ],
)
async def test_while_a_breaker_is_open_callers_read_why(
    server: Running, one: FakeOpenAI, script: Script, expected: tuple[int, str], hint: str | None
) -> None:
    one.reply = script
    answer, asked = await server.chat("0"), 0
    for number in range(1, 20):
        if len(one.calls) == asked:
            break
        asked = len(one.calls)
        answer = await server.chat(str(number))
    assert len(one.calls) == asked  # so this answer is ours
    assert (answer.status_code, answer.json()["error"]["code"]) == expected
    assert answer.headers.get("x-should-retry") == hint
    assert ("retry-after" in answer.headers) == (expected[1] != "insufficient_quota")


async def test_what_passes_is_asked_again_by_the_official_client(server: Running, one: FakeOpenAI) -> None:
    one.replies = [refusal(500), refusal(500)]  # the second one is our own retry
    one.reply = say("Hello")
    async with client_of(server, retries=2) as client:
        answer = await client.chat.completions.create(model="small", messages=ASK)
    assert answer.choices[0].message.content == "Hello"


@pytest.mark.parametrize(
    ("headers", "given"),
    [
        ({"retry-after": "2.2"}, "3"),
        ({"retry-after": "0"}, "1"),
        ({"retry-after-ms": "1"}, "1"),
        ({"retry-after-ms": "6001"}, "7"),
        ({"retry-after": "Thu, 26 Nov 2026 00:00:09 GMT", "date": "Thu, 26 Nov 2026 00:00:00 GMT"}, "9"),
        ({"retry-after": "Thu, 26 Nov 2099 00:00:00 GMT"}, "86400"),
        ({"retry-after": "soon"}, "1"),
        ({}, "1"),
    ],
)
async def test_retry_after_is_given_on_rounded_up(
    server: Running, one: FakeOpenAI, headers: dict[str, str], given: str
) -> None:
    one.reply = refusal(429, headers=headers)
    response = await server.chat()
    assert (response.status_code, response.headers.get("retry-after")) == (429, given)
    assert "x-should-retry" not in response.headers


async def test_a_quota_is_not_worth_waiting_for(server: Running, one: FakeOpenAI) -> None:
    one.reply = refusal(429, headers={"retry-after": "2"}, **QUOTA)
    response = await server.chat()
    assert (response.status_code, response.headers.get("retry-after")) == (429, None)
    assert response.headers["x-should-retry"] == "false"


async def test_a_providers_429_is_not_counted_as_the_tenants(server: Running, one: FakeOpenAI) -> None:
    one.reply = refusal(429)
    await server.chat()
    one.reply = refusal(409)
    await server.chat("other")
    await server.becomes("dub5_http_requests_total", 1, outcome="provider_error")
    await server.becomes("dub5_http_requests_total", 1, outcome="client_error")
    assert await server.metric("dub5_http_requests_total", outcome="limited") == 0


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_the_next_route_is_asked_first_and_the_last_ones_words_are_told(
    server: Running, one: FakeOpenAI, two: FakeOpenAI, streamed: bool
) -> None:
    one.reply = refusal(404, CANNOT_SEE)
    two.reply = say("Hello")
    assert "Hello" in (await server.chat("a", model="both", stream=streamed)).text
    two.reply = refusal(
        429, "Slow down.", headers={"retry-after": "2.5"}, code="rate_limit_exceeded", type="tokens"
    )
    reported = await server.chat("b", model="both", stream=streamed)
    assert (reported.status_code, reported.headers["retry-after"]) == (429, "3")
    error = reported.json()["error"]
    assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    assert "Slow down." in error["message"]


GOOGLE = {"code": 429, "message": "Slow", "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "6.2s"}]}
BROKEN = stream([frame(chunk({"role": "assistant", "content": "Hel"})), frame({"error": GOOGLE})])


async def test_an_error_in_mid_stream_has_the_same_code_and_says_when_to_come_again(
    server: Running, one: FakeOpenAI
) -> None:
    google = {
        "code": 429,
        "message": "Slow",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"retryDelay": "6.2s"}],
    }
    one.reply = stream([frame(chunk({"role": "assistant", "content": "Hel"})), frame({"error": google})])
    response = await server.chat(stream=True)
    *_, last = (line for line in response.text.splitlines() if line)
    assert json.loads(last.removeprefix("data: ")) == {
        "error": {
            "message": "Slow",
            "type": "RESOURCE_EXHAUSTED",
            "param": None,
            "code": "rate_limit_exceeded",
            "retry_after": 7,
        }
    }


async def test_an_error_in_mid_stream_is_raised_by_the_official_client_with_its_code(
    server: Running, one: FakeOpenAI
) -> None:
    one.reply = BROKEN
    async with client_of(server, retries=0) as client:
        answer = await client.chat.completions.create(model="small", messages=ASK, stream=True)
        with pytest.raises(openai.APIError) as caught:
            await _read(answer)
    assert caught.value.code == "rate_limit_exceeded"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_who_joined_on_another_replica_is_told_the_same(
    one: FakeOpenAI, redis: str, streamed: bool
) -> None:
    release = asyncio.Event()

    async def script(call: Call, wire: Wire) -> None:
        await release.wait()
        headers = {"retry-after": "6.5"}
        await refusal(429, "Slow", headers, code="rate_limit_exceeded", type="tokens")(call, wire)

    one.reply = script
    config = {**openai_provider(one.base_url), "redis": {"url": redis}}
    async with running(config) as first, running(config) as second:
        leading = asyncio.create_task(first.chat(stream=streamed))
        await one.wait_called()
        following = asyncio.create_task(second.chat(stream=streamed))
        await second.becomes("dub5_flight_followers", 1)
        await first.becomes("dub5_flight_followers", 2)
        release.set()
        led, followed = await leading, await following
    assert len(one.calls) == 1
    assert (led.status_code, led.headers["retry-after"], led.json()["error"]["code"]) == (
        429,
        "7",
        "rate_limit_exceeded",
    )
    assert (followed.status_code, followed.headers["retry-after"]) == (429, "7")
    assert followed.json() == led.json()


@pytest.mark.parametrize(
    ("reply", "status"), [(refusal(429), 200), (refusal(401), 200), (refusal(500), 200), (refusal(409), 409)]
)
async def test_an_old_answer_stands_in_for_an_outage_and_not_for_a_refusal(
    one: FakeOpenAI, reply: Script, status: int
) -> None:
    config = openai_provider(one.base_url)
    config["cache"] = {"classes": {"default": {"ttl": "1s", "stale_if_error": "1h"}}}
    one.reply = say("Hello")
    async with running(config) as server:
        await server.chat()
        async with asyncio.timeout(20):
            while (await server.chat(headers={"cache-control": "only-if-cached"})).status_code == 200:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.05)
        one.reply = reply
        assert (await server.chat()).status_code == status


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("context_length_exceeded", "client_error"),
        ("rate_limit_exceeded", "provider_error"),
        ("x", "provider_error"),
    ],
)
async def test_how_a_stream_ended_is_counted_by_its_error(
    server: Running, one: FakeOpenAI, code: str, outcome: str
) -> None:
    error = {"error": {"message": "m", "code": code}}
    one.reply = stream([frame(chunk({"role": "assistant", "content": "Hel"})), frame(error)])
    assert code in (await server.chat(stream=True)).text
    await server.becomes("dub5_http_requests_total", 1, outcome=outcome)


async def test_a_full_pool_of_ours_is_told_as_ours(one: FakeOpenAI) -> None:
    """Two models of one provider, whose pool they share; what waits in vain says nothing about the provider."""
    config = openai_provider(one.base_url, max_connections=1, timeouts={"connect": "200ms"})
    config["models"]["other"] = {"routes": ["fake/gpt-other"]}
    async with running(config) as server:
        one.reply = hang()
        held = asyncio.create_task(server.chat())
        await one.wait_called()
        one.reply = say("Hello")
        full = await server.chat(model="other")
        assert full.status_code in {503, 504}
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
        await one.wait_cancelled()
        assert (await server.chat("again", model="other")).status_code == 200
