"""The official `openai` package asks by Responses, of a replica in front of fakes of OpenAI and Anthropic.

No option but `base_url`. Each answer is right when a provider gives it, when it comes from the cache, and when it is
shared with a request that is under way; and one question is one provider call, however it was asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from testkit import anthropic_server
from testkit.anthropic_server import FakeAnthropic
from testkit.http_server import Call, FakeServer, Wire, refuse, stream, whole
from testkit.openai_server import FakeOpenAI, call_tool, chunk, completion, frame, say
from tests.harness import Running, running

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOLS: Any = [
    {
        "type": "function",
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": False,
    }
]
MODELS = pytest.mark.parametrize("model", ["small", "claude"])
STREAMED = pytest.mark.parametrize("streamed", [False, True])


@pytest.fixture
async def anthropic() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


@pytest.fixture
async def server(fake: FakeOpenAI, anthropic: FakeAnthropic) -> AsyncIterator[Running]:
    config: dict[str, Any] = {
        "providers": {
            "fake": {"kind": "openai", "base_url": fake.base_url},
            "claude": {"kind": "anthropic", "base_url": anthropic.base_url},
        },
        "models": {
            "small": {"routes": ["fake/gpt-small"]},
            "claude": {"routes": ["claude/claude-sonnet-4-5"]},
        },
        "personalities": {
            "pirate": {
                "system": "Talk like a pirate.",
                "model": "small",
                "max_tokens": 50,
                "locked": ["max_tokens"],
                "cache_class": "agents",
            },
            "agent": {"model": "small", "cache_class": "agents"},
        },
        "cache": {"classes": {"agents": {"tool_results": True}}},
    }
    async with running(config) as replica:
        yield replica


@pytest.fixture
async def client(server: Running) -> AsyncIterator[AsyncOpenAI]:
    async with await server.openai() as client:
        yield client


async def ask(client: AsyncOpenAI, *, streamed: bool, **request: Any) -> Response:
    """The answer, from its events where they are asked for: each is as OpenAI's own types have it."""
    if not streamed:
        raw = await client.responses.with_raw_response.create(**request)
        return Response.model_validate_json(raw.content, strict=True)
    async with client.responses.stream(**request) as events:
        async for _ in events:
            pass
        return await events.get_final_response()


@MODELS
@STREAMED
async def test_an_answer_missed_and_hit(
    client: AsyncOpenAI, fake: FakeOpenAI, anthropic: FakeAnthropic, model: str, streamed: bool
) -> None:
    answers = [
        await ask(client, streamed=streamed, model=model, input="Say hello", instructions="Be kind.")
        for _ in "12"
    ]
    for answer in answers:
        assert (answer.output_text, answer.status, answer.object) == (
            "You said: Say hello",
            "completed",
            "response",
        )
        assert answer.usage is not None
        assert answer.usage.total_tokens > 0
        assert answer.instructions == "Be kind."
    assert answers[0].id != answers[1].id
    assert len(fake.calls) + len(anthropic.calls) == 1


async def test_a_provider_is_asked_the_plainest_chat(client: AsyncOpenAI, fake: FakeOpenAI) -> None:
    await client.responses.create(
        model="small",
        input=[{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        instructions="Be brief.",
        max_output_tokens=100,
        store=True,
        metadata={"a": "b"},
        extra_body={"top_k": 3, "client_metadata": {"session_id": "s"}},
    )
    assert fake.calls[0].body == {
        "model": "gpt-small",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "max_tokens": 100,
        "top_k": 3,
    }


async def test_every_event_is_numbered_and_none_says_done(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = say("Hel", "lo")
    body = {"model": "small", "input": "hi", "stream": True}
    for status in ("dub5; fwd=uri-miss", "dub5; hit"):
        answer = await server.client.post("/v1/responses", json=body)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-status"].startswith(status)
        events = [event.split("\n") for event in answer.text.split("\n\n")[:-1]]
        data = [json.loads(line.removeprefix("data: ")) for _, line in events]
        assert [name for name, _ in events] == [f"event: {each['type']}" for each in data]
        assert [each["sequence_number"] for each in data] == list(range(len(data)))
        for each in data:
            EVENT.validate_json(json.dumps(each), strict=True)
        assert data[-1]["type"] == "response.completed"
        assert (
            "".join(each["delta"] for each in data if each["type"] == "response.output_text.delta") == "Hello"
        )


@MODELS
@STREAMED
async def test_a_round_trip_of_a_tool(
    client: AsyncOpenAI, fake: FakeOpenAI, anthropic: FakeAnthropic, model: str, streamed: bool
) -> None:
    fake.replies = [call_tool("weather", '{"city":"Oslo"}'), say("It rains in Oslo.")]
    anthropic.replies = [
        anthropic_server.use_tool("weather", {"city": "Oslo"}),
        anthropic_server.say("It rains in Oslo."),
    ]
    question = [{"role": "user", "content": "How is Oslo?"}]
    first = await ask(client, streamed=streamed, model=model, input=question, tools=TOOLS)
    [call] = first.output
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("weather", '{"city":"Oslo"}')
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    history = [*question, *(item.to_dict() for item in first.output), result]
    second = await ask(client, streamed=streamed, model=model, input=history, tools=TOOLS)
    assert second.output_text == "It rains in Oslo."
    if model == "small":
        assert fake.calls[1].body["messages"][1:] == [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": call.call_id,
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": call.call_id, "content": "rain"},
        ]


@MODELS
@STREAMED
async def test_functions_in_a_namespace_are_called_by_it(
    client: AsyncOpenAI, fake: FakeOpenAI, anthropic: FakeAnthropic, model: str, streamed: bool
) -> None:
    """Codex offers them by default. Two namespaces may have a function of one name."""
    tools: Any = [
        {"type": "namespace", "name": name, "description": f"About {name}.", "tools": TOOLS}
        for name in ("land", "sea")
    ]
    called, said = ("sea__weather", '{"city":"Oslo"}'), "It is calm."
    fake.replies = [call_tool(*called), say(said)]
    anthropic.replies = [
        anthropic_server.use_tool(called[0], json.loads(called[1])),
        anthropic_server.say(said),
    ]
    question = [{"role": "user", "content": "How is Oslo?"}]
    first = await ask(client, streamed=streamed, model=model, input=question, tools=tools)
    [call] = first.output
    assert call.type == "function_call"
    assert (call.namespace, call.name, call.arguments) == ("sea", "weather", called[1])
    assert first.tools[1].to_dict() == {**tools[1], "tools": [{**TOOLS[0], "strict": False}]}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "calm"}
    history = [*question, *(item.to_dict() for item in first.output), result]
    assert (await ask(client, streamed=streamed, model=model, input=history, tools=tools)).output_text == said
    if model == "small":
        offered = [each["function"] for each in fake.calls[0].body["tools"]]
        assert [(each["name"], each["description"]) for each in offered] == [
            ("land__weather", "About land."),
            ("sea__weather", "About sea."),
        ]
        [again] = fake.calls[1].body["messages"][1]["tool_calls"]
        assert again["function"]["name"] == "sea__weather"


async def test_an_agent_s_second_run_is_answered_from_the_cache(
    client: AsyncOpenAI, fake: FakeOpenAI
) -> None:
    fake.replies = [call_tool("weather", '{"city":"Oslo"}'), say("It rains.")]
    for _ in "12":
        history: list[Any] = [{"role": "user", "content": "How is Oslo?"}]
        first = await client.responses.create(model="agent", input=history, tools=TOOLS)
        history += first.output
        [call] = first.output
        assert call.type == "function_call"
        history.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
        second = await client.responses.create(model="agent", input=history, tools=TOOLS)
        assert second.output_text == "It rains."
    assert len(fake.calls) == 2


async def test_thinking_goes_to_and_fro(client: AsyncOpenAI, anthropic: FakeAnthropic) -> None:
    thinking = {"type": "thinking", "thinking": "Let me look", "signature": "signed"}
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
    anthropic.replies = [
        whole(anthropic_server.message([thinking, use], "tool_use")),
        anthropic_server.say("It rains."),
    ]
    request: dict[str, Any] = {
        "model": "claude",
        "tools": TOOLS,
        "reasoning": {"summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "extra_body": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    }
    question: Any = [{"role": "user", "content": "How is Oslo?"}]
    first = await client.responses.create(input=question, **request)
    thought, call = first.output
    assert thought.type == "reasoning"
    assert [part.text for part in thought.summary] == ["Let me look"]
    assert call.type == "function_call"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    history: Any = [*question, *first.output, result]
    second = await client.responses.create(input=history, **request)
    assert second.output_text == "It rains."
    assert anthropic.calls[1].body["messages"][1]["content"] == [thinking, use]


class Weather(BaseModel):
    city: str
    rain: bool


@STREAMED
async def test_an_answer_is_parsed(client: AsyncOpenAI, fake: FakeOpenAI, streamed: bool) -> None:
    fake.reply = say('{"city": "Oslo", ', '"rain": true}')
    for _ in "12":
        if streamed:
            async with client.responses.stream(model="small", input="Oslo?", text_format=Weather) as events:
                answer: Any = await events.get_final_response()
        else:
            answer = await client.responses.parse(model="small", input="Oslo?", text_format=Weather)
        assert answer.output_parsed == Weather(city="Oslo", rain=True)
    [call] = fake.calls
    assert call.body["response_format"]["json_schema"]["name"] == "Weather"
    assert call.body["response_format"]["json_schema"]["strict"] is True


async def test_what_is_cut_by_a_limit_is_incomplete(client: AsyncOpenAI, fake: FakeOpenAI) -> None:
    fake.reply = whole(completion({"content": "Once upon"}, "length"))
    answer = await client.responses.create(model="small", input="Tell", max_output_tokens=3)
    assert (answer.status, answer.output_text) == ("incomplete", "Once upon")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


async def by_chat(client: AsyncOpenAI, model: str, *, streamed: bool) -> str:
    messages: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say hello"}]
    request: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": 99}
    if not streamed:
        answer = await client.chat.completions.create(**request)
        return answer.choices[0].message.content or ""
    chunks = [part async for part in await client.chat.completions.create(stream=True, **request)]
    return "".join(part.choices[0].delta.content or "" for part in chunks)


async def by_responses(client: AsyncOpenAI, model: str, *, streamed: bool) -> str:
    answer = await ask(
        client,
        streamed=streamed,
        model=model,
        input="Say hello",
        instructions="Be kind.",
        max_output_tokens=99,
        metadata={"whose": "mine"},
    )
    return answer.output_text


@MODELS
@pytest.mark.parametrize("first", [by_chat, by_responses])
@STREAMED
async def test_one_question_in_two_protocols_is_one_call(
    client: AsyncOpenAI, fake: FakeOpenAI, anthropic: FakeAnthropic, model: str, first: Any, streamed: bool
) -> None:
    expected = "You said: Say hello"
    assert await first(client, model, streamed=streamed) == expected
    for ask_again in (by_chat, by_responses):
        for shape in (False, True):
            assert await ask_again(client, model, streamed=shape) == expected
    assert len(fake.calls) + len(anthropic.calls) == 1


@MODELS
@STREAMED
async def test_and_one_call_while_it_is_being_made(
    server: Running,
    client: AsyncOpenAI,
    fake: FakeOpenAI,
    anthropic: FakeAnthropic,
    model: str,
    streamed: bool,
) -> None:
    release = asyncio.Event()
    called: FakeServer = fake if model == "small" else anthropic
    saying = say if model == "small" else anthropic_server.say

    async def slowly(call: Call, wire: Wire) -> None:
        await release.wait()
        await saying("Hel", "lo")(call, wire)

    called.reply = slowly
    leader = asyncio.create_task(by_responses(client, model, streamed=streamed))
    await called.wait_called()
    others = [
        asyncio.create_task(ask_too(client, model, streamed=shape))
        for ask_too in (by_chat, by_responses)
        for shape in (False, True)
    ]
    await server.followed(5)
    release.set()
    assert await asyncio.gather(leader, *others) == ["Hello"] * 5
    assert len(called.calls) == 1


@STREAMED
@pytest.mark.parametrize(
    ("status", "raised", "code"),
    [
        (400, openai.BadRequestError, "invalid_request_error"),
        (401, openai.InternalServerError, "provider_error"),
        (404, openai.NotFoundError, "provider_error"),
        (429, openai.RateLimitError, "rate_limit_exceeded"),
        (500, openai.InternalServerError, "provider_error"),
    ],
)
async def test_refusals_are_raised_as_the_clients_own_classes(
    client: AsyncOpenAI,
    fake: FakeOpenAI,
    streamed: bool,
    status: int,
    raised: type[openai.APIStatusError],
    code: str,
) -> None:
    fake.reply = refuse(status, "Try something else", headers={"retry-after": "7"})
    with pytest.raises(raised) as caught:
        await ask(client, streamed=streamed, model="small", input="hi")
    assert caught.value.code == code
    assert caught.value.response.headers.get("retry-after") == ("7" if status in {429, 500} else None)


@pytest.mark.parametrize(
    ("request_", "raised", "param"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "model"),
        ({"input": []}, openai.BadRequestError, "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            openai.BadRequestError,
            "input[0].content[0].file_id",
        ),
        ({"tools": [{"type": "web_search"}]}, openai.BadRequestError, "tools[0].type"),
        ({"model": "pirate", "max_output_tokens": 9}, openai.BadRequestError, "max_output_tokens"),
        ({"model": "claude", "top_logprobs": 2}, openai.BadRequestError, "top_logprobs"),
        (
            {
                "model": "claude",
                "input": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
            },
            openai.BadRequestError,
            "input",
        ),
    ],
)
async def test_what_is_wrong_has_its_name_in_this_protocol(
    client: AsyncOpenAI, request_: dict[str, Any], raised: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(raised) as caught:
        await client.responses.create(**{"model": "small", "input": "hi", **request_})
    assert caught.value.param == param


@pytest.mark.parametrize("fault", ["dies", "says an error"])
async def test_trouble_in_mid_stream_is_a_failed_response_and_never_cached(
    client: AsyncOpenAI, fake: FakeOpenAI, fault: str
) -> None:
    begun = frame(chunk({"role": "assistant", "content": "Hel"}))
    broken = {
        "dies": stream([begun]),
        "says an error": stream([begun, b'data: {"error": {"message": "overheated"}}\n\n']),
    }
    fake.replies = [broken[fault], say("Hello")]
    events = [event async for event in await client.responses.create(model="small", input="hi", stream=True)]
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["Hel"]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert last.response.error.to_dict()["reason"] == "provider_error"
    answer = await client.responses.create(model="small", input="hi")
    assert answer.output_text == "Hello"
    assert len(fake.calls) == 2


@pytest.mark.parametrize(
    ("field", "value", "here"), [("messages", [], "input"), ("max_tokens", 5, "max_output_tokens")]
)
async def test_a_field_of_chats_is_told_by_the_name_that_it_was_sent_by(
    client: AsyncOpenAI, field: str, value: object, here: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="small", input="hi", extra_body={field: value})
    assert caught.value.param == field
    assert f"`{field}` is a field of Chat Completions; here it is `{here}`" in caught.value.message


async def test_a_large_request_is_answered_as_a_small_one_is(client: AsyncOpenAI, fake: FakeOpenAI) -> None:
    parts: Any = [{"type": "input_text", "text": "word " * 50_000}, {"type": "input_text", "text": "And?"}]
    answers = [
        await ask(client, streamed=streamed, model="small", input=[{"role": "user", "content": parts}])
        for streamed in (False, True)
    ]
    assert all(answer.output_text.endswith("word And?") for answer in answers)
    assert len(fake.calls) == 1
    wrong: Any = [{"role": "user", "content": [*parts, {"type": "input_text"}]}]
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="small", input=wrong)
    assert caught.value.param == "input[0].content[2].text"
