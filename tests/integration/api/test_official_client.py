"""The official `openai` package against us in front of a fake OpenAI: no option but `base_url`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from testkit.http_server import refuse, stream, whole
from testkit.openai_server import FakeOpenAI, call_tool, chunk, completion, frame, say
from tests.harness import Running, openai_provider, running

ASK: Any = [{"role": "user", "content": "Say hello"}]
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


@pytest.fixture
async def server(fake: FakeOpenAI) -> AsyncIterator[Running]:
    config = openai_provider(fake.base_url) | {
        "personalities": {
            "pirate": {
                "system": "Talk like a pirate.",
                "model": "small",
                "temperature": 0.7,
                "locked": ["temperature"],
            }
        }
    }
    async with running(config) as replica:
        yield replica


@pytest.fixture
async def client(server: Running) -> AsyncIterator[AsyncOpenAI]:
    async with await server.openai() as client:
        yield client


async def test_a_whole_answer(client: AsyncOpenAI, fake: FakeOpenAI) -> None:
    fake.reply = say("Hello", ", world")
    answer = await client.chat.completions.create(model="small", messages=ASK, temperature=0.5, seed=7)
    assert answer.choices[0].message.content == "Hello, world"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 12
    asked = fake.calls[0].body
    assert (asked["model"], asked["seed"], asked["messages"]) == ("gpt-small", 7, ASK)


async def test_a_streamed_answer(client: AsyncOpenAI, fake: FakeOpenAI) -> None:
    fake.reply = say("Hel", "lo")
    chunks = [
        part async for part in await client.chat.completions.create(model="small", messages=ASK, stream=True)
    ]
    assert "".join(part.choices[0].delta.content or "" for part in chunks) == "Hello"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(part.usage is None for part in chunks)


async def test_usage_comes_last_where_it_was_asked_for(client: AsyncOpenAI, fake: FakeOpenAI) -> None:
    fake.reply = say("Hel", "lo")
    for _ in ("fetched", "from the cache"):
        chunks = [
            part
            async for part in await client.chat.completions.create(
                model="small", messages=ASK, stream=True, stream_options={"include_usage": True}
            )
        ]
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 12
    assert len(fake.calls) == 1


async def test_the_clients_own_stream_helper_accumulates_the_answer(
    client: AsyncOpenAI, fake: FakeOpenAI
) -> None:
    fake.reply = say("One ", "two ", "three")
    async with client.chat.completions.stream(model="small", messages=ASK) as events:
        async for _ in events:
            pass
        final = await events.get_final_completion()
    assert final.choices[0].message.content == "One two three"


@pytest.mark.parametrize("streamed", [False, True])
async def test_tool_calls(client: AsyncOpenAI, fake: FakeOpenAI, streamed: bool) -> None:
    fake.reply = call_tool("weather", '{"city": "Oslo"}')
    for _ in ("fetched", "from the cache"):
        if streamed:
            async with client.chat.completions.stream(model="small", messages=ASK, tools=TOOLS) as events:
                answer: Any = await events.get_final_completion()
        else:
            answer = await client.chat.completions.create(model="small", messages=ASK, tools=TOOLS)
        [call] = answer.choices[0].message.tool_calls
        assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Oslo"}')
    assert len(fake.calls) == 1
    assert fake.calls[0].body["tools"] == TOOLS


async def test_content_parts_and_unknown_fields_go_through_both_ways(
    client: AsyncOpenAI, fake: FakeOpenAI
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
    fake.reply = whole(
        {
            **completion({"content": "A cat", "annotations": [{"x": 1}]}),
            "service_tier": "flex",
            "x_new": {"a": 1},
        }
    )
    answer = await client.chat.completions.create(
        model="small",
        messages=parts,
        response_format={"type": "json_object"},
        extra_body={"x_effort": {"level": 1.5}, "reasoning_effort": "low"},
    )
    asked = fake.calls[0].body
    assert asked["messages"] == parts
    assert asked["response_format"] == {"type": "json_object"}
    assert (asked["x_effort"], asked["reasoning_effort"]) == ({"level": 1.5}, "low")
    assert answer.model_extra == {"x_new": {"a": 1}}
    assert answer.service_tier == "flex"


async def test_reasoning_survives_the_stream_and_the_cache(client: AsyncOpenAI, fake: FakeOpenAI) -> None:
    parts = [
        frame(chunk({"role": "assistant", "reasoning_content": "Hmm"})),
        frame(chunk({"reasoning_content": ", so"})),
        frame(chunk({"content": "42"})),
        frame(chunk({}, "stop")),
        b"data: [DONE]\n\n",
    ]
    fake.reply = stream(parts)
    for _ in ("fetched", "from the cache"):
        chunks = [
            part
            async for part in await client.chat.completions.create(model="small", messages=ASK, stream=True)
        ]
        deltas: list[Any] = [part.choices[0].delta for part in chunks]
        assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Hmm, so"
        assert "".join(delta.content or "" for delta in deltas) == "42"
    answer: Any = await client.chat.completions.create(model="small", messages=ASK)
    assert answer.choices[0].message.reasoning_content == "Hmm, so"
    assert len(fake.calls) == 1


async def test_the_first_answer_is_served_in_the_other_shape(
    server: Running, client: AsyncOpenAI, fake: FakeOpenAI
) -> None:
    fake.reply = say("Hello")
    first = await server.chat("Say hello")
    assert first.headers["cache-status"] == "dub5; fwd=uri-miss; stored"
    assert "age" not in first.headers
    second = await client.chat.completions.with_raw_response.create(model="small", messages=ASK, stream=True)
    assert second.headers["cache-status"].startswith("dub5; hit; ttl=299")
    assert second.headers["age"] == "0"
    assert "".join([part.choices[0].delta.content or "" async for part in second.parse()]) == "Hello"
    assert len(fake.calls) == 1


async def test_a_personality_is_a_model(client: AsyncOpenAI, fake: FakeOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert names == ["pirate", "small"]
    assert (await client.models.retrieve("pirate")).owned_by == "dub5"
    own: Any = [{"role": "system", "content": "Be brief."}, *ASK]
    await client.chat.completions.create(model="pirate", messages=own)
    asked = fake.calls[0].body
    assert [message["content"] for message in asked["messages"]] == [
        "Talk like a pirate.",
        "Be brief.",
        "Say hello",
    ]
    assert (asked["model"], asked["temperature"]) == ("gpt-small", 0.7)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="pirate", messages=ASK, temperature=0.1)
    assert caught.value.param == "temperature"


async def test_the_synchronous_client(server: Running, fake: FakeOpenAI) -> None:
    def ask() -> tuple[str | None, str]:
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            said = client.chat.completions.create(model="small", messages=ASK).choices[0].message.content
            streamed = client.chat.completions.create(model="small", messages=ASK, stream=True)
            return said, "".join(part.choices[0].delta.content or "" for part in streamed)

    fake.reply = say("Hello")
    assert await asyncio.to_thread(ask) == ("Hello", "Hello")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "raised", "code"),
    [
        (400, openai.BadRequestError, "invalid_request_error"),
        (413, openai.APIStatusError, "request_too_large"),
        (401, openai.InternalServerError, "provider_error"),
        (404, openai.NotFoundError, "provider_error"),
        (429, openai.RateLimitError, "rate_limit_exceeded"),
        (500, openai.InternalServerError, "provider_error"),
    ],
)
async def test_what_a_provider_refuses_is_raised_as_the_clients_own_class(
    client: AsyncOpenAI,
    fake: FakeOpenAI,
    status: int,
    raised: type[openai.APIStatusError],
    code: str,
    streamed: bool,
) -> None:
    fake.reply = refuse(status, "Try something else", headers={"retry-after": "7"})
    with pytest.raises(raised) as caught:
        await client.chat.completions.create(model="small", messages=ASK, stream=streamed)
    assert caught.value.code == code
    if status in {400, 413, 404, 429, 500}:
        assert "Try something else" in caught.value.message
    assert caught.value.response.headers.get("retry-after") == ("7" if status in {429, 500} else None)


async def test_our_own_errors_are_raised_as_the_clients_own_classes(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="gpt-9", messages=ASK)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-9")
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="small", messages=[])
    assert bad.value.param == "messages"


@pytest.mark.parametrize("fault", ["dies", "says an error", "sends garbage"])
async def test_trouble_in_mid_stream_is_raised_and_never_cached(
    client: AsyncOpenAI, fake: FakeOpenAI, fault: str
) -> None:
    begun = frame(chunk({"role": "assistant", "content": "Hel"}))
    broken = {
        "dies": stream([begun]),
        "says an error": stream([begun, b'data: {"error": {"message": "overheated"}}\n\n']),
        "sends garbage": stream([begun, b"data: {nonsense\n\n"]),
    }
    fake.replies = [broken[fault], say("Hello")]
    said: list[str | None] = []

    async def listen() -> None:
        async for part in await client.chat.completions.create(model="small", messages=ASK, stream=True):
            said.append(part.choices[0].delta.content)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(openai.APIError):
        await listen()
    assert said == ["Hel"]
    answer = await client.chat.completions.create(model="small", messages=ASK)
    assert answer.choices[0].message.content == "Hello"
    assert len(fake.calls) == 2
