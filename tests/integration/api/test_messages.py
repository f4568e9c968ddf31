"""Anthropic's own client against us, before a fake of its API and one of OpenAI's: missed, hit and joined."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message, ToolUseBlock

from dub5.api.models import CREATED
from testkit import anthropic_server as claude
from testkit import openai_server as gpt
from testkit.anthropic_server import FakeAnthropic
from testkit.http_server import DIE, Call, Script, Wire, refuse, stream, whole
from testkit.openai_server import FakeOpenAI
from tests.harness import Running, running

ASK: Any = [{"role": "user", "content": "Say hello"}]
TOOLS: Any = [{"name": "weather", "description": "Of a city", "input_schema": {"type": "object"}}]
SEARCH: Any = [{"type": "web_search_20250305", "name": "web_search"}]
KEY = "sk-planted-7Qx"
BOTH = ["claude", "gpt"]
"""The two models: one behind Anthropic's API, one behind OpenAI's."""


@pytest.fixture
async def theirs() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


def configured(theirs: FakeAnthropic, fake: FakeOpenAI) -> dict[str, Any]:
    return {
        "providers": {
            "a": {"kind": "anthropic", "base_url": theirs.base_url},
            "o": {"kind": "openai", "base_url": fake.base_url},
        },
        "models": {
            "claude": {"routes": ["a/claude-sonnet-4-5"]},
            "gpt": {"routes": ["o/gpt-small"]},
            "either": {"routes": ["o/gpt-small", "a/claude-sonnet-4-5"]},
        },
        "personalities": {"pirate": {"system": "Talk like a pirate.", "model": "claude", "temperature": 0.7}},
    }


@pytest.fixture
async def server(theirs: FakeAnthropic, fake: FakeOpenAI) -> AsyncIterator[Running]:
    async with running(configured(theirs, fake)) as replica:
        yield replica


@contextlib.asynccontextmanager
async def client_of(server: Running, **options: Any) -> AsyncIterator[AsyncAnthropic]:
    """The official client, made in a thread: it reads the CA bundle, which would block the loop."""
    given: dict[str, Any] = {"api_key": "none", **options}
    client = await asyncio.to_thread(AsyncAnthropic, base_url=server.url, max_retries=0, **given)
    async with client:
        yield client


@pytest.fixture
async def client(server: Running) -> AsyncIterator[AsyncAnthropic]:
    async with client_of(server) as client:
        yield client


def say(*texts: str) -> tuple[Script, Script]:
    return claude.say(*texts), gpt.say(*texts)


def replying(theirs: FakeAnthropic, fake: FakeOpenAI, scripts: tuple[Script, Script]) -> None:
    theirs.reply, fake.reply = scripts


async def streamed(client: AsyncAnthropic, **fields: Any) -> Message:
    async with client.messages.stream(**fields) as stream:
        return await stream.get_final_message()


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@pytest.mark.parametrize("model", BOTH)
async def test_missed_and_hit_whole_and_streamed(
    server: Running, client: AsyncAnthropic, theirs: FakeAnthropic, fake: FakeOpenAI, model: str
) -> None:
    replying(theirs, fake, say("Hel", "lo"))
    fields: Any = {"model": model, "max_tokens": 9, "messages": ASK}
    first = await streamed(client, **fields)
    raw = await client.messages.with_raw_response.create(**fields)
    again = await streamed(client, **fields)
    for message in (first, await raw.parse(), again):
        assert (text_of(message), message.stop_reason, message.usage.output_tokens) == (
            "Hello",
            "end_turn",
            3,
        )
    assert raw.headers["cache-status"].startswith("dub5; hit")
    assert raw.headers["request-id"] == raw.headers["x-request-id"]
    assert len(theirs.calls) + len(fake.calls) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", BOTH)
async def test_one_question_in_two_protocols_is_one_call_from_the_cache(
    server: Running, client: AsyncAnthropic, theirs: FakeAnthropic, fake: FakeOpenAI, model: str, stream: bool
) -> None:
    replying(theirs, fake, say("Hel", "lo"))
    system = {"role": "developer", "content": "Be brief."}
    asked = {"model": model, "messages": [system, *ASK], "max_completion_tokens": 9, "stream": stream}
    by_chat = await server.client.post("/v1/chat/completions", json=asked)
    assert by_chat.status_code == 200
    raw = await client.messages.with_raw_response.create(
        model=model, max_tokens=9, messages=ASK, system="Be brief.", metadata={"user_id": "u"}
    )
    assert raw.headers["cache-status"].startswith("dub5; hit")
    assert text_of(await raw.parse()) == "Hello"
    assert len(theirs.calls) + len(fake.calls) == 1


@pytest.mark.parametrize("long", ["", "word " * 50_000])
async def test_what_a_provider_gets_in_one_protocol_alone_makes_two_questions(
    server: Running, client: AsyncAnthropic, fake: FakeOpenAI, long: str
) -> None:
    """Compatible servers may know `thinking`; asked in Messages it is a hint that they do not get."""
    messages: Any = [{"role": "user", "content": f"hi {long}"}]
    fields: Any = {"model": "gpt", "max_tokens": 9, "messages": messages, "thinking": {"type": "disabled"}}
    for status in ("fwd", "hit"):
        by_chat = await server.client.post("/v1/chat/completions", json=fields)
        raw = await client.messages.with_raw_response.create(**fields)
        for answer in (by_chat, raw):
            assert answer.headers["cache-status"].startswith(f"dub5; {status}")
    assert ["thinking" in call.body for call in fake.calls] == [True, False]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", BOTH)
async def test_one_question_in_two_protocols_is_one_call_while_it_is_made(
    server: Running, client: AsyncAnthropic, theirs: FakeAnthropic, fake: FakeOpenAI, model: str, stream: bool
) -> None:
    go = asyncio.Event()

    def held(script: Script) -> Script:
        async def reply(call: Call, wire: Wire) -> None:
            await go.wait()
            await script(call, wire)

        return reply

    for_claude, for_gpt = say("Hel", "lo")
    replying(theirs, fake, (held(for_claude), held(for_gpt)))
    asked = {"model": model, "messages": ASK, "max_tokens": 9, "stream": stream}
    fields: Any = {"model": model, "max_tokens": 9, "messages": ASK}
    leading = asyncio.create_task(server.client.post("/v1/chat/completions", json=asked))
    await server.followed(1)
    whole = asyncio.create_task(client.messages.create(**fields))
    events = asyncio.create_task(streamed(client, **fields))
    await server.followed(3)
    go.set()
    assert text_of(await whole) == text_of(await events) == "Hello"
    assert "Hel" in (await leading).text
    assert len(theirs.calls) + len(fake.calls) == 1


@pytest.mark.parametrize("model", BOTH)
async def test_a_tool_is_called_and_its_result_understood(
    client: AsyncAnthropic, theirs: FakeAnthropic, fake: FakeOpenAI, model: str
) -> None:
    replying(
        theirs,
        fake,
        (claude.use_tool("weather", {"city": "Oslo"}), gpt.call_tool("weather", '{"city": "Oslo"}')),
    )
    fields: Any = {"model": model, "max_tokens": 9, "tools": TOOLS}
    for message in (
        await streamed(client, messages=ASK, **fields),
        await client.messages.create(messages=ASK, **fields),
    ):
        (use,) = cast("list[ToolUseBlock]", message.content)
        assert use.type == "tool_use"
        assert (message.stop_reason, use.name, use.input) == ("tool_use", "weather", {"city": "Oslo"})
    replying(theirs, fake, say("3 °C"))
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "3 °C"}
    history: Any = [*ASK, message.to_param(), {"role": "user", "content": [result]}]
    assert text_of(await client.messages.create(messages=history, **fields)) == "3 °C"


async def test_anthropic_is_asked_to_the_letter_and_answers_so(
    client: AsyncAnthropic, theirs: FakeAnthropic, fake: FakeOpenAI
) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
    found: Any = {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": [
            {
                "type": "web_search_result",
                "encrypted_content": "c",
                "page_age": None,
                "title": "t",
                "url": "u",
            }
        ],
    }
    cited = {
        "type": "web_search_result_location",
        "cited_text": "x",
        "encrypted_index": "e",
        "title": None,
        "url": "u",
    }
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}}
    content = [thought, search, found, {"type": "text", "text": "Yes", "citations": [cited]}]
    theirs.reply = whole(claude.message(content))
    fields: Any = {
        "model": "claude",
        "max_tokens": 2000,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": ASK,
        "tools": [*SEARCH, {**TOOLS[0], "cache_control": {"type": "ephemeral"}}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    answer = await client.messages.create(**fields, extra_headers={"anthropic-beta": "x-1, y-2"})
    sent = theirs.calls[0]
    assert sent.body == {**fields, "model": "claude-sonnet-4-5"}
    assert sent.headers["anthropic-beta"] == "x-1,y-2"
    assert answer.to_dict()["content"] == content
    again = await streamed(client, **fields, extra_headers={"anthropic-beta": "x-1, y-2"})
    assert again.to_dict()["content"] == content
    assert len(theirs.calls) == 1
    # What only Anthropic can do goes past a route that cannot, and is refused where there is no other.
    other = await client.messages.create(**{**fields, "model": "either"})
    assert other.to_dict()["content"] == content
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\]\.type"):
        await client.messages.create(**{**fields, "model": "gpt"})
    assert not fake.calls


async def test_a_personality_speaks_before_the_caller(client: AsyncAnthropic, theirs: FakeAnthropic) -> None:
    await client.messages.create(model="pirate", max_tokens=9, messages=ASK, system="Be brief.")
    sent = theirs.calls[0].body
    assert [block["text"] for block in sent["system"]] == ["Talk like a pirate.", "Be brief."]
    assert sent["temperature"] == 0.7


async def test_tokens_are_counted_by_the_provider_or_estimated(
    client: AsyncAnthropic, theirs: FakeAnthropic
) -> None:
    counted = await client.messages.count_tokens(model="claude", messages=ASK, tools=TOOLS, system="s")
    assert counted.to_dict() == {"input_tokens": len("Say hello")}
    assert [call.path for call in theirs.calls] == ["/v1/messages/count_tokens"]
    estimated = (await client.messages.count_tokens(model="gpt", messages=ASK, tools=TOOLS)).to_dict()
    assert estimated["estimated"] is True
    assert 5 < cast("int", estimated["input_tokens"]) < 100


FAILURES = [
    (400, anthropic.BadRequestError, "invalid_request_error"),
    (404, anthropic.NotFoundError, "not_found_error"),
    (429, anthropic.RateLimitError, "rate_limit_error"),
    (500, anthropic.InternalServerError, "api_error"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize(("status", "raised", "kind"), FAILURES)
async def test_a_failure_has_the_class_that_callers_look_for(
    client: AsyncAnthropic,
    theirs: FakeAnthropic,
    fake: FakeOpenAI,
    model: str,
    status: int,
    raised: type[anthropic.APIStatusError],
    kind: str,
    stream: bool,
) -> None:
    replying(theirs, fake, (refuse(status, "No such thing"), refuse(status, "No such thing")))
    ask = streamed(client, model=model, max_tokens=9, messages=ASK)
    with pytest.raises(raised) as caught:
        await (ask if stream else client.messages.create(model=model, max_tokens=9, messages=ASK))
    ask.close()
    assert caught.value.type == kind
    assert caught.value.request_id
    assert caught.value.body["request_id"] == caught.value.request_id  # type: ignore[index,call-overload]


@pytest.mark.parametrize("model", BOTH)
async def test_who_wants_a_conversation_kept_is_told_to_send_it_whole(
    client: AsyncAnthropic, theirs: FakeAnthropic, fake: FakeOpenAI, model: str
) -> None:
    """By what Anthropic's `toolRunner` for JavaScript goes by; else its next request is the last turn alone."""
    thread: Any = {"thread": {"type": "create"}}
    with pytest.raises(anthropic.BadRequestError, match="thread") as caught:
        await client.messages.create(model=model, max_tokens=9, messages=ASK, extra_body=thread)
    assert cast("Any", caught.value.body)["error"]["details"]["error_code"] == "thread_unsupported_request"
    assert not theirs.calls
    assert not fake.calls


async def test_what_is_not_served_of_their_api_is_told_in_their_words(client: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="Batches are not served here") as caught:
        await client.messages.batches.retrieve("msgbatch_1")
    said = cast("Any", caught.value.body)
    assert (said["type"], said["error"]["type"]) == ("error", "not_found_error")
    assert said["request_id"] == caught.value.request_id


async def test_so_is_that_there_is_no_such_model(client: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        await client.models.retrieve("nobody")
    said = cast("Any", caught.value.body)
    assert (said["type"], said["error"]["type"]) == ("error", "not_found_error")
    assert said["request_id"] == caught.value.request_id


async def test_their_list_of_models_is_complete_and_each_has_what_they_need(client: AsyncAnthropic) -> None:
    page = await client.models.list(limit=1)
    assert [model.id for model in page.data] == ["pirate", "claude", "gpt", "either"]
    assert (page.has_more, page.first_id, page.last_id) == (False, "pirate", "either")
    assert [model async for model in page] == page.data
    retrieved = await client.models.retrieve("gpt")
    assert retrieved == page.data[2]
    assert (retrieved.type, retrieved.display_name) == ("model", "gpt")
    assert retrieved.model_dump()["lifecycle"] == "active"
    assert retrieved.created_at.timestamp() == CREATED


async def test_an_unknown_model_and_a_wrong_field(client: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.create(model="nobody", max_tokens=9, messages=ASK)
    wrong: Any = [{"role": "user", "content": [{"type": "text", "text": 7}]}]
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\]\.content\[0\]\.text"):
        await client.messages.create(model="gpt", max_tokens=9, messages=wrong)
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        await client.messages.create(model="gpt", max_tokens=9, messages=ASK, extra_body={"temperature": 7})


@pytest.mark.parametrize("model", BOTH)
async def test_what_fails_in_mid_stream_is_an_error_event(
    client: AsyncAnthropic, theirs: FakeAnthropic, fake: FakeOpenAI, model: str
) -> None:
    replying(
        theirs,
        fake,
        (
            stream([*claude.frames("Hel", "lo")[:5], DIE]),
            stream([*gpt.frames("Hel", "lo")[:2], DIE]),
        ),
    )
    seen = []

    async def read() -> None:
        async with client.messages.stream(model=model, max_tokens=9, messages=ASK) as stream:
            async for words in stream.text_stream:
                seen.append(words)  # noqa: PERF401  # they are to stay where the stream breaks off

    with pytest.raises(anthropic.APIStatusError) as caught:
        await read()
    assert "".join(seen).startswith("Hel")
    assert caught.value.type == "api_error"


async def test_the_key_is_taken_from_either_header(
    theirs: FakeAnthropic, fake: FakeOpenAI, tmp_path: Any
) -> None:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys = tmp_path / "keys.yaml"
    await asyncio.to_thread(keys.write_text, json.dumps({digest: {"tenant": "acme", "roles": ["chat"]}}))
    config = configured(theirs, fake) | {"auth": {"keys": {"file": str(keys)}}}
    async with running(config) as server:
        for options in ({"api_key": KEY}, {"auth_token": KEY, "api_key": None}):
            async with client_of(server, **options) as client:
                assert text_of(await client.messages.create(model="gpt", max_tokens=9, messages=ASK))
                assert [each.id async for each in client.models.list()]
        async with client_of(server, api_key="wrong") as client:
            with pytest.raises(anthropic.AuthenticationError) as caught:
                await client.messages.create(model="gpt", max_tokens=9, messages=ASK)
            assert caught.value.type == "authentication_error"


async def test_a_large_request_is_read_in_steps_and_has_the_same_key(
    server: Running, client: AsyncAnthropic, theirs: FakeAnthropic
) -> None:
    long = "word " * 50_000
    first = await client.messages.create(
        model="claude", max_tokens=9, messages=[{"role": "user", "content": long}]
    )
    chat = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": long}]}
    second = await server.client.post("/v1/chat/completions", json=chat)
    assert second.headers["cache-status"].startswith("dub5; hit")
    assert text_of(first) == second.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("model", BOTH)
async def test_one_question_in_three_protocols_is_one_call(
    server: Running, client: AsyncAnthropic, theirs: FakeAnthropic, fake: FakeOpenAI, model: str
) -> None:
    go = asyncio.Event()
    for_claude, for_gpt = say("Hel", "lo")

    def held(script: Script) -> Script:
        async def reply(call: Call, wire: Wire) -> None:
            await go.wait()
            await script(call, wire)

        return reply

    replying(theirs, fake, (held(for_claude), held(for_gpt)))
    chat = {"model": model, "messages": [{"role": "system", "content": "s"}, *ASK], "max_tokens": 9}
    response = {"model": model, "instructions": "s", "input": "Say hello", "max_output_tokens": 9}

    async def ask() -> tuple[str, ...]:
        message, first, second = await asyncio.gather(
            client.messages.create(model=model, max_tokens=9, messages=ASK, system="s"),
            server.client.post("/v1/chat/completions", json=chat),
            server.client.post("/v1/responses", json=response),
        )
        chosen = first.json()["choices"][0]["message"]["content"]
        put = second.json()["output"][-1]["content"][0]["text"]
        return text_of(message), chosen, put

    asking = asyncio.create_task(ask())
    await server.followed(3)
    go.set()
    assert await asking == ("Hello",) * 3
    assert await ask() == ("Hello",) * 3
    assert len(theirs.calls) + len(fake.calls) == 1
