"""What arrives has one budget on real sockets: half requests go, whole small ones are answered, large ones are read."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from testkit.openai_server import FakeOpenAI, say
from tests.harness import Running, running
from tests.integration.api.test_bad_clients import HEAD, connected, post

KIB, MIB = 2**10, 2**20
DEMO: dict[str, Any] = {
    "providers": {"demo": {"kind": "simulated", "first_token": "0s", "tokens_per_second": 100000}},
    "models": {"small": {"routes": ["demo/sim"]}},
}
HALF_HEAD = HEAD + b"".join(b"x-%d: %b\r\n" % (number, b"y" * 600) for number in range(90))


def question(size: int) -> bytes:
    return json.dumps({"model": "small", "messages": [{"role": "user", "content": "x" * size}]}).encode()


def dense(size: int) -> bytes:
    """A question that takes seven times its size."""
    return question(10)[:-1] + b',"numbers":[' + b"12345," * (size // 6) + b"1]}"


@contextlib.asynccontextmanager
async def small_budget(budget: str) -> AsyncIterator[Running]:
    async with running({**DEMO, "server": {"max_arriving": budget}}) as server:
        yield server


async def test_half_heads_give_way_to_those_that_come_after_them_and_whole_requests_are_answered() -> None:
    async with small_budget("1MiB") as server, contextlib.AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(connected(server)) for _ in range(20)]
        for stranger in strangers:
            stranger.send(HALF_HEAD)
        reported = await strangers[0].answer()
        assert reported is not None
        assert (reported.status, reported.code, reported.headers["connection"]) == (
            503,
            "overloaded",
            "close",
        )
        assert await server.metric("dub5_connections_refused_total", reason="memory") >= 1
        assert await server.metric("dub5_arriving_bytes") <= MIB
        for size in (KIB, 60 * KIB):
            async with connected(server) as client:
                client.send(post(question(size)))
                answer = await client.answer()
                assert answer is not None
                assert answer.status == 200
    assert server.replica.application.arrivals.used == 0


async def test_half_bodies_count_too_and_all_of_it_comes_back() -> None:
    async with small_budget("3MiB") as server:
        async with contextlib.AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(connected(server)) for _ in range(4)]
            for caller in callers:
                caller.send(HEAD + b"content-length: 1000000\r\n\r\n" + b"x" * 600_000)
            answers = [each.answer() for each in callers[:3]]
            ended = asyncio.create_task(_first(answers))
            reported = await ended
            assert (reported.status, reported.code) == (503, "overloaded")
        await server.becomes("dub5_arriving_bytes", 0)


async def _first(answers: list[Any]) -> Any:
    done, pending = await asyncio.wait(
        map(asyncio.ensure_future, answers), return_when=asyncio.FIRST_COMPLETED
    )
    for each in pending:
        each.cancel()
    return done.pop().result()


async def test_a_large_request_waits_for_no_room_a_small_one_is_answered() -> None:
    async with small_budget("3MiB") as server:
        large = await server.client.post("/v1/chat/completions", content=dense(MIB), headers=_JSON)
        assert (large.status_code, large.json()["error"]["code"]) == (503, "overloaded")
        assert large.headers["retry-after"]
        small = await server.client.post("/v1/chat/completions", content=question(60 * KIB), headers=_JSON)
        assert small.status_code == 200
        await server.becomes("dub5_arriving_bytes", 0)


async def test_a_written_answer_is_charged_what_its_request_takes_too() -> None:
    async with small_budget("3MiB") as server:
        written = b'{"answer":"x","request":' + dense(MIB) + b"}"
        refused = await server.client.post("/v1/cache/answers", content=written, headers=_JSON)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        stored = await server.client.post(
            "/v1/cache/answers", content=b'{"answer":"x","request":' + question(KIB) + b"}", headers=_JSON
        )
        assert stored.json() == {"stored": True}
        await server.becomes("dub5_arriving_bytes", 0)


async def test_whoever_leaves_in_the_middle_of_a_written_answer_has_met_no_error_of_ours(
    server: Running,
) -> None:
    async with connected(server) as client:
        head = HEAD.replace(b"/v1/chat/completions", b"/v1/cache/answers")
        half = head + b"content-length: 1000\r\n\r\n" + b"x" * 500
        client.send(half)
        await server.becomes("dub5_arriving_bytes", 2 * len(half))
    await server.becomes("dub5_http_requests_total", 1, outcome="client_disconnect")


_JSON = {"content-type": "application/json"}


async def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(server: Running) -> None:
    async with connected(server) as client:
        client.send(HEAD + b"expect: 100-continue\r\ncontent-length: 20971521\r\n\r\n")
        answer = await client.answer()
        assert answer is not None
        assert (answer.status, answer.code) == (413, "request_too_large")
        assert b"server.max_body" in answer.body
        assert await client.closed() == b""


async def test_a_body_that_is_announced_and_not_too_large_is_asked_for(server: Running) -> None:
    body = question(10)
    async with connected(server) as client:
        client.send(HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body))
        first = await client.answer()
        assert first is not None
        assert first.status == 100
        client.send(body)
        second = await client.answer()
        assert second is not None
        assert second.status == 200


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/cache/answers", b"/v1/models", b"/nothing"])
async def test_who_need_not_send_a_body_that_was_announced_sends_nothing_else_there(
    server: Running, path: bytes
) -> None:
    head = HEAD.replace(b"/v1/chat/completions", path).replace(b"application/json", b"text/plain")
    async with connected(server) as client:
        client.send(head + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(post(question(10))))
        answer = await client.answer()
        assert answer is not None
        assert answer.status >= 400
        assert answer.headers["connection"] == "close"
        client.send(post(question(10)))
        assert await client.closed() == b""


async def test_a_client_of_the_old_protocol_is_not_asked_for_its_body(server: Running) -> None:
    body = question(10)
    head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0")
    async with connected(server) as client:
        client.send(head + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        answer = await client.answer()
        assert answer is not None
        assert answer.status == 200


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_large_picture_reaches_the_provider_to_the_letter_and_is_cached(
    streamed: bool, server: Running, fake: FakeOpenAI
) -> None:
    picture = "data:image/png;base64," + "A/+9" * (MIB)
    content = [
        {"type": "text", "text": "what is this? 😀"},
        {"type": "image_url", "image_url": {"url": picture}},
    ]
    body = {
        "model": "small",
        "messages": [{"role": "user", "content": content}],
        "top_k": 1.0,
        "unknown": [1.5, None],
    }
    fake.reply = say("A square")
    first = await server.client.post("/v1/chat/completions", json={**body, "stream": streamed})
    assert first.status_code == 200
    sent = fake.calls[0].body
    for name in ("model", "stream", "stream_options"):
        sent.pop(name, None)
    assert sent == {name: value for name, value in body.items() if name != "model"}
    second = await server.client.post("/v1/chat/completions", json=body)
    assert second.headers["cache-status"].startswith("dub5; hit")
    await server.becomes("dub5_arriving_bytes", 0)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("size", [200 * KIB, 300 * KIB])
async def test_an_answer_too_large_to_be_stored_is_given_and_counted(
    streamed: bool, size: int, server: Running, fake: FakeOpenAI
) -> None:
    fake.reply = say(*["word " * 100] * (size // 500)) if streamed else say("y" * size)
    body = {"model": "small", "messages": [{"role": "user", "content": "much"}], "stream": streamed}
    first = await server.client.post("/v1/chat/completions", json=body)
    assert first.status_code == 200
    assert (b"word " if streamed else b"y" * size) in first.content
    second = await server.client.post("/v1/chat/completions", json=body)
    assert second.headers["cache-status"].startswith("dub5; hit") == (size < 256 * KIB)
    assert await server.metric("dub5_tokens_total") > 0


async def test_a_large_question_may_be_answered_by_people(server: Running) -> None:
    asked = {"model": "small", "messages": [{"role": "user", "content": "y" * MIB}]}
    stored = await server.client.post("/v1/cache/answers", json={"request": asked, "answer": "As it is."})
    assert stored.json() == {"stored": True}
    answer = await server.client.post("/v1/chat/completions", json=asked)
    assert answer.json()["choices"][0]["message"]["content"] == "As it is."


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/cache/answers", b'{"request":{},"answer":{"a":[' + b"[]," * 100_000 + b"1]}}"),
        ("/v1/cache/answers", b'{"request":{},"answer":"x","tags":["' + b"," * 100_000 + b'"]}'),
        ("/v1/cache/answers", b'{"request":{"model":"small"},"answer":"' + b"x" * MIB * 4 + b'"}'),
        ("/v1/cache/invalidations", b'{"tags":["a"' + b',"a"' * 100_000 + b"]}"),
        ("/v1/chat/completions", b'{"model":"small","foo":[' + b"{}," * 100_000 + b"1]}"),
    ],
)
async def test_what_would_cost_too_much_is_told_shortly(server: Running, path: str, body: bytes) -> None:
    answer = await server.client.post(path, content=body, headers=_JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(answer.content) < 1000
