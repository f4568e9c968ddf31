"""What a client gets while its stream is silent, from a provider that waits for the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import openai
import pytest

from dub5.cache.flights import CacheStatus
from dub5.chat.pipeline import Pipeline
from dub5.telemetry.record import HEARTBEAT
from testkit.http_server import TIMEOUT, Call, Script, Wire, hang, refuse, stream
from testkit.openai_server import FakeOpenAI, frames, say
from tests.harness import Running, openai_provider, running

COMMENT = HEARTBEAT.decode().strip()


class Listening:
    """A streamed answer as it comes: `await listening.next()` is the next comment or data, None at the end."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.headers = response.headers
        self._lines = response.aiter_lines()

    async def next(self) -> str | None:
        async with asyncio.timeout(TIMEOUT):
            async for line in self._lines:
                if line:
                    return line.removeprefix("data: ")
        return None

    async def event(self) -> str:
        """The next one, comments or not before it."""
        while (part := await self.next()) == COMMENT:
            pass
        assert part is not None
        return part

    async def comments(self, count: int = 1) -> None:
        """The next ones are nothing else."""
        for _ in range(count):
            assert await self.next() == COMMENT

    async def rest(self) -> list[str]:
        """What comes but comments."""
        found = []
        while (part := await self.next()) is not None:
            if part != COMMENT:
                found.append(part)
        return found

    async def text(self) -> str:
        """Of a whole answer."""
        *events, done = await self.rest()
        assert done == "[DONE]"
        chunks = [json.loads(event) for event in events]
        return "".join(
            choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
        )

    async def error(self) -> dict[str, Any]:
        """Of an answer that is nothing else."""
        [event] = await self.rest()
        error: dict[str, Any] = json.loads(event)["error"]
        return error


@contextlib.asynccontextmanager
async def listening(
    server: Running, text: str = "hi", headers: Mapping[str, str] | None = None, **fields: Any
) -> AsyncIterator[Listening]:
    body = {"model": "small", "messages": [{"role": "user", "content": text}], "stream": True, **fields}
    post = server.client.stream("POST", "/v1/chat/completions", json=body, headers=headers)
    async with post as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield Listening(response)


def after(gate: asyncio.Event, script: Script) -> Script:
    """`script`, once the test opens the gate."""

    async def thinking(call: Call, wire: Wire) -> None:
        await gate.wait()
        await script(call, wire)

    return thinking


def config(fake: FakeOpenAI, heartbeat: str = "50ms", **server: Any) -> dict[str, Any]:
    return {**openai_provider(fake.base_url), "server": {"heartbeat": heartbeat, **server}}


@pytest.fixture
async def server(fake: FakeOpenAI) -> AsyncIterator[Running]:
    async with running(config(fake)) as replica:
        yield replica


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


async def test_head_and_comments_come_while_a_provider_thinks(
    server: Running, fake: FakeOpenAI, gate: asyncio.Event
) -> None:
    fake.reply = after(gate, say("Hello"))
    async with listening(server, headers={"x-request-id": "mine"}) as answer:
        assert answer.headers["cache-status"] == "dub5; fwd=uri-miss"
        assert answer.headers["x-request-id"] == "mine"
        assert "auth;dur=" in answer.headers["server-timing"]
        await answer.comments(3)
        gate.set()
        assert await answer.text() == "Hello"
    assert await server.metric("dub5_http_requests_total", outcome="ok") == 1
    async with listening(server) as again:
        assert again.headers["cache-status"].startswith("dub5; hit")


async def test_a_request_that_is_not_cached_says_so_early(
    server: Running, fake: FakeOpenAI, gate: asyncio.Event
) -> None:
    fake.reply = after(gate, say("Hello"))
    async with listening(server, temperature=1.9) as answer:
        assert answer.headers["cache-status"] == "dub5; fwd=bypass; detail=temperature"
        await answer.comments()
        gate.set()
        assert await answer.text() == "Hello"


async def test_comments_come_in_mid_answer(server: Running, fake: FakeOpenAI, gate: asyncio.Event) -> None:
    parts = frames("Hel", "lo")
    fake.reply = stream([*parts[:2], gate, *parts[2:]])
    async with listening(server) as answer:
        begun = [await answer.event(), await answer.event()]
        assert "Hel" in begun[1]
        await answer.comments(3)
        gate.set()
        assert await answer.text() == "lo"


async def test_a_failure_before_the_first_comment_has_its_status(fake: FakeOpenAI) -> None:
    fake.reply = refuse(500, "Oops", headers={"retry-after": "7"})
    async with running(config(fake, "10s")) as server:
        answer = await server.chat(stream=True)
    assert (answer.status_code, answer.headers["retry-after"]) == (502, "7")
    assert "retry_after" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [(500, "provider_error", "provider_error"), (400, "invalid_request_error", "client_error")],
)
async def test_a_failure_after_a_comment_is_told_by_an_event(
    server: Running, fake: FakeOpenAI, gate: asyncio.Event, status: int, code: str, outcome: str
) -> None:
    fake.reply = after(gate, refuse(status, "Oops", headers={"retry-after": "6.2"}))
    async with listening(server) as answer:
        await answer.comments()
        gate.set()
        error = await answer.error()
    assert (error["code"], "Oops" in error["message"]) == (code, True)
    assert error.get("retry_after") == (7 if status == 500 else None)
    await server.becomes("dub5_http_requests_total", 1, outcome=outcome)
    assert await server.metric("dub5_http_requests_total") == 1
    [line] = [line for line in server.logs if line["event"] == "request"]
    assert (line["status"], line["outcome"], line["error_code"]) == (200, outcome, code)


async def test_a_fallback_is_still_possible(server: Running, fake: FakeOpenAI, gate: asyncio.Event) -> None:
    async with FakeOpenAI() as second:
        second.reply = say("Second")
        fake.reply = after(gate, refuse(500, "Oops"))
        both = config(fake)
        both["providers"]["second"] = {"kind": "openai", "base_url": second.base_url}
        both["models"]["small"]["routes"].append("second/m")
        async with running(both) as server, listening(server) as answer:
            await answer.comments()
            gate.set()
            assert await answer.text() == "Second"
            assert await server.metric("dub5_http_requests_total", outcome="provider_error") == 0


async def test_an_expired_answer_stands_in_for_a_failure(fake: FakeOpenAI, gate: asyncio.Event) -> None:
    stale = {"classes": {"default": {"ttl": 0, "stale_if_error": "1h"}}}
    fake.replies = [say("Hello")]
    fake.reply = after(gate, refuse(500, "Oops"))
    async with running({**config(fake), "cache": stale}) as server:
        await server.chat()
        async with listening(server) as answer:
            assert answer.headers["cache-status"] == "dub5; fwd=stale"
            await answer.comments()
            gate.set()
            assert await answer.text() == "Hello"


async def test_followers_on_both_replicas_have_them(
    redis: str, fake: FakeOpenAI, gate: asyncio.Event
) -> None:
    fake.reply = after(gate, say("Hello"))
    shared = {**config(fake), "redis": {"url": redis}}
    async with running(shared) as one, running(shared) as two, contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(listening(one))
        await first.comments()
        joined = [await stack.enter_async_context(listening(replica)) for replica in (one, two)]
        for answer in (first, *joined):
            await answer.comments(2)
        gate.set()
        assert [await answer.text() for answer in (first, *joined)] == ["Hello"] * 3
    assert len(fake.calls) == 1


async def test_a_failure_elsewhere_is_told_the_same(
    redis: str, fake: FakeOpenAI, gate: asyncio.Event
) -> None:
    fake.reply = after(gate, refuse(500, "Oops", headers={"retry-after": "6.2"}))
    shared = {**config(fake), "redis": {"url": redis}}
    async with running(shared) as one, running(shared) as two:
        async with listening(one) as leading:
            await leading.comments()
            async with listening(two) as following:
                await following.comments()
                gate.set()
                errors = [await leading.error(), await following.error()]
        assert errors[0] == errors[1]
        assert errors[0]["retry_after"] == 7
    assert len(fake.calls) == 1


async def test_who_waits_for_a_place_has_them_and_is_told_when_none_comes(
    fake: FakeOpenAI, gate: asyncio.Event
) -> None:
    fake.reply = after(gate, say("Hello"))
    full = {**config(fake), "admission": {"max_inflight": 1, "queue_timeout": "1500ms"}}
    async with running(full) as server, listening(server, "first") as inside:
        await inside.comments()
        async with listening(server, "second") as waiting:
            await waiting.comments()
            error = await waiting.error()
        assert (error["code"], error["retry_after"] >= 1) == ("overloaded", True)
        await server.becomes("dub5_http_requests_total", 1, outcome="shed")
        gate.set()
        assert await inside.text() == "Hello"


async def test_zero_is_off_and_whole_answers_have_none(
    server: Running, fake: FakeOpenAI, gate: asyncio.Event
) -> None:
    """While somebody else gets comments."""
    fake.reply = after(gate, say("Hello"))
    async with running(config(fake, "0s")) as silent, listening(server, "heard") as heard:
        whole = asyncio.create_task(server.chat("whole"))
        off = asyncio.create_task(silent.chat("off", stream=True))
        for _ in range(3):
            await fake.wait_called()
        await heard.comments(5)
        gate.set()
        assert await heard.text() == "Hello"
        assert (await whole).json()["choices"][0]["message"]["content"] == "Hello"
        assert "content-length" in (await whole).headers
        assert (await off).text.startswith("data: ")
        assert COMMENT not in (await off).text


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_hit_has_none(redis: str, fake: FakeOpenAI, elsewhere: bool) -> None:
    shared = {**config(fake, "1ms"), "redis": {"url": redis}}
    async with running(shared) as one, running(shared) as two:
        await one.chat()
        for _ in range(20):
            hit = await (two if elsewhere else one).chat(stream=True, headers={"cache-control": "max-age=60"})
            assert hit.headers["cache-status"].startswith("dub5; hit")
            assert "content-length" in hit.headers
            assert COMMENT not in hit.text


async def test_a_client_that_leaves_is_noticed(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = hang()
    async with listening(server) as answer:
        await answer.comments(2)
    await fake.wait_cancelled()
    await server.becomes("dub5_http_requests_total", 1, outcome="client_disconnect")
    await server.becomes("dub5_flight_followers", 0)
    assert await server.metric("dub5_time_to_first_token_seconds_count") == 0


@pytest.mark.parametrize("header", ["x-dub5-timeout", "x-stainless-read-timeout"])
async def test_the_callers_deadline_holds(server: Running, fake: FakeOpenAI, header: str) -> None:
    fake.reply = hang()
    async with listening(server, headers={header: "1.5"}) as answer:
        await answer.comments()
        assert (await answer.error())["code"] == "deadline_exceeded"
    await fake.wait_cancelled()
    await server.becomes("dub5_http_requests_total", 1, outcome="client_disconnect")


async def test_max_stream_counts_from_the_head(fake: FakeOpenAI) -> None:
    fake.reply = hang()
    async with running(config(fake, max_stream="300ms")) as server:
        async with listening(server) as answer:
            await answer.comments()
            assert (await answer.error())["code"] == "provider_timeout"
        await fake.wait_cancelled()
        await server.becomes("dub5_http_requests_total", 1, outcome="provider_error")


async def test_a_replica_that_leaves_waits_for_the_answer(
    server: Running, fake: FakeOpenAI, gate: asyncio.Event
) -> None:
    fake.reply = after(gate, say("Hello"))
    async with listening(server) as answer:
        await answer.comments()
        server.replica.leave(linger=False)
        await server.becomes("dub5_open_connections", 1)
        await answer.comments(2)
        gate.set()
        assert await answer.text() == "Hello"


async def test_a_replica_that_must_end_now_tells_so(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = hang()
    async with listening(server) as answer:
        await answer.comments()
        server.replica.application.abandon()
        assert (await answer.error())["code"] == "overloaded"


async def test_figures_follow_the_first_byte_of_the_answer(
    server: Running, fake: FakeOpenAI, gate: asyncio.Event
) -> None:
    fake.reply = after(gate, say("Hello"))
    async with listening(server) as answer:
        await answer.comments()
        heard = time.perf_counter()
        await answer.comments(5)
        waited = time.perf_counter() - heard
        gate.set()
        await answer.text()
    assert await server.metric("dub5_time_to_first_token_seconds_sum", outcome="ok") >= waited
    assert await server.metric("dub5_http_time_to_first_byte_seconds_sum", outcome="ok") >= waited
    [line] = [line for line in server.logs if line["event"] == "request"]
    assert line["duration_ms"]["first_byte"] >= waited * 1000


async def test_a_reservation_is_given_back_where_only_comments_were_sent(
    fake: FakeOpenAI, gate: asyncio.Event
) -> None:
    fake.replies = [after(gate, refuse(500, "Oops"))]
    fake.reply = say("Hello")
    limited = {**config(fake), "limits": {"default": {"requests_per_minute": 60, "tokens_per_minute": 1000}}}
    async with running(limited) as server:
        async with listening(server, max_tokens=900) as answer:
            assert int(answer.headers["x-ratelimit-remaining-tokens"]) <= 200
            await answer.comments()
            gate.set()
            assert (await answer.error())["code"] == "provider_error"
        async with listening(server, max_tokens=900) as again:
            assert await again.text() == "Hello"


async def test_a_defect_is_told_without_its_traceback(
    server: Running, fake: FakeOpenAI, gate: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_self: Pipeline, _question: Any, on_forward: Any) -> Any:
        on_forward(CacheStatus(fwd="uri-miss"))
        await gate.wait()
        raise RuntimeError("my-secret-detail")

    monkeypatch.setattr(Pipeline, "answer", broken)
    async with listening(server) as answer:
        await answer.comments()
        gate.set()
        error = await answer.error()
    assert error["code"] == "internal_error"
    assert "my-secret-detail" not in str(error)
    await server.becomes("dub5_http_requests_total", 1, outcome="server_error")
    assert [line["event"] for line in server.logs].count("request failed") == 1


async def test_the_official_client_passes_them_over(
    server: Running, fake: FakeOpenAI, gate: asyncio.Event
) -> None:
    parts = frames("Hel", "lo")
    second = asyncio.Event()
    fake.reply = stream([gate, *parts[:2], second, *parts[2:]])
    ask: Any = [{"role": "user", "content": "hi"}]
    async with await server.openai() as client:
        # The head is what it waits for: with it there was a comment.
        answer = await client.chat.completions.create(model="small", messages=ask, stream=True)
        gate.set()
        said = []
        async for chunk in answer:
            said += [choice.delta.content for choice in chunk.choices if choice.delta.content]
            if said == ["Hel"]:
                async with listening(server) as beside:  # in the same silence
                    assert "Hel" in [await beside.event(), await beside.event()][1]
                    await beside.comments(2)
                    second.set()
        assert "".join(said) == "Hello"


async def test_the_official_client_raises_what_comes_after_them(
    server: Running, fake: FakeOpenAI, gate: asyncio.Event
) -> None:
    fake.reply = after(gate, refuse(500, "Oops", headers={"retry-after": "6.2"}))
    ask: Any = [{"role": "user", "content": "hi"}]
    async with await server.openai() as client:
        answer = await client.chat.completions.create(model="small", messages=ask, stream=True)
        gate.set()
        with pytest.raises(openai.APIError) as caught:
            await anext(answer)
    assert caught.value.code == "provider_error"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["retry_after"] == 7
