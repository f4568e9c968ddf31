"""Each body and event is what OpenAI's own types say, to the letter, and the events say what the whole body says."""

from __future__ import annotations

import itertools
import json
import re
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import NOT_GIVEN
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from dub5.api import responses_stream
from dub5.api.responses import RenewedResponses, ResponsesWriter
from dub5.api.responses_answer import Asked, place_of
from dub5.api.responses_request import chat_request
from dub5.errors import FlightLost, InvalidRequest, Overloaded, ProviderTimeout, RateLimited
from dub5.frames import Frame
from dub5.providers.chunks import assemble, split
from dub5.providers.protocol import Payload
from tests.harness import size
from tests.published import check, check_event

Json = dict[str, Any]

law = settings(max_examples=size(100))
"""`SIZE` is how many answers are generated for each."""

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
IDENT = "0123456789abcdef" * 2
NOW = 1_790_000_000

words = st.text(st.sampled_from('aé 😀\n"\\{}z\u2028'), max_size=12)
some_words = st.builds("x{}".format, words)
counts = st.integers(0, 1000)
logprob = st.builds(
    lambda token, value, raw: {"token": token, "logprob": value, "bytes": raw},
    words,
    st.floats(-9999, 0),
    st.none() | st.lists(st.integers(0, 255), max_size=3),
)
citations = st.builds(
    lambda start, url: {
        "type": "url_citation",
        "url_citation": {"start_index": start, "end_index": start + 1, "url": url, "title": "t"},
    },
    counts,
    words,
)
blocks = st.builds(lambda said: {"type": "thinking", "thinking": said, "signature": "s"}, words) | st.just(
    {"type": "redacted_thinking", "data": "d"}
)
tools: list[Json] = [
    {
        "type": "function",
        "name": "f",
        "parameters": {"default": {"created_at": 1_000_000_001, "completed_at": 7}},
    },
    {"type": "function", "name": "g", "description": "d", "parameters": {}, "strict": True},
]


@st.composite
def requests(draw: st.DrawFn) -> Json:
    body: Json = {"model": "m", "input": draw(words)}
    choices: Json = {
        "instructions": words,
        "metadata": st.dictionaries(words, words, max_size=2),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "top_logprobs": st.integers(0, 3),
        "max_output_tokens": st.integers(1, 99),
        "parallel_tool_calls": st.booleans(),
        "reasoning": st.fixed_dictionaries(
            {},
            optional={"effort": st.sampled_from(["low", "none"]), "summary": st.sampled_from(["auto", None])},
        ),
        "include": st.lists(
            st.sampled_from(["reasoning.encrypted_content", "message.output_text.logprobs"]), max_size=2
        ),
        "text": st.sampled_from(
            [
                {"verbosity": "low"},
                {"format": {"type": "text"}},
                {"format": {"type": "json_object"}},
                {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
            ]
        ),
        "tools": st.just(tools),
        "truncation": st.sampled_from(["auto", "disabled"]),
        "user": words,
        "store": st.booleans(),
    }
    for name, values in choices.items():
        if draw(st.booleans()):
            body[name] = draw(values)
    if "tools" in body and draw(st.booleans()):
        body["tool_choice"] = draw(
            st.sampled_from(
                [
                    "required",
                    "none",
                    {"type": "function", "name": "g"},
                    {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
                ]
            )
        )
    return body


@st.composite
def completions(draw: st.DrawFn) -> Json:
    message: Json = {"role": "assistant", "content": draw(st.none() | words)}
    for name, values in (
        ("refusal", words),
        ("reasoning_content", words),
        ("thinking_blocks", st.lists(blocks, max_size=2)),
        ("annotations", st.lists(citations, max_size=2)),
    ):
        if draw(st.booleans()):
            message[name] = draw(values)
    calls = [
        {
            "id": f"call_{number}" if draw(st.booleans()) else None,
            "type": "function",
            "function": {
                "name": name,
                "arguments": json.dumps(draw(st.dictionaries(words, words, max_size=2))),
            },
        }
        for number, name in enumerate(draw(st.lists(st.sampled_from(["f", "get_time"]), max_size=3)))
    ]
    if calls:
        message["tool_calls"] = calls
    choice: Json = {
        "index": 0,
        "message": message,
        "finish_reason": draw(st.sampled_from(["stop", "stop", "length", "content_filter", "odd", None])),
    }
    if draw(st.booleans()):
        choice["logprobs"] = {"content": [{**draw(logprob), "top_logprobs": [draw(logprob)]}]}
    made: Json = {"id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "upstream"}
    made["choices"] = [choice]
    if draw(st.booleans()):
        made["usage"] = {
            "prompt_tokens": draw(counts),
            "completion_tokens": draw(counts),
            "prompt_tokens_details": draw(st.none() | st.just({"cached_tokens": 2})),
            "completion_tokens_details": draw(st.none() | st.just({"reasoning_tokens": 1})),
        }
    if draw(st.booleans()):
        made["service_tier"] = draw(st.sampled_from(["default", "unheard of", None]))
    return made


@st.composite
def chunks_of(draw: st.DrawFn, completion: Json) -> list[Json]:
    """A provider's chunks of it: texts are cut anywhere, also inside a character, and parts of calls are mixed."""
    made: list[Json] = []
    choice = dict(completion["choices"][0])
    logprobs = choice.pop("logprobs", None)
    for chunk in split({**completion, "choices": [choice]}, include_usage=True):
        delta = chunk["choices"][0]["delta"] if chunk["choices"] else {}
        texts = [
            name for name in delta if name in {"content", "reasoning_content", "refusal"} and delta[name]
        ]
        if texts:
            made += [with_delta(chunk, {texts[0]: piece}) for piece in draw(cut(delta[texts[0]]))]
        elif "tool_calls" in delta:
            continue
        else:
            made.append(chunk)
        if logprobs is not None and (texts == ["content"] or (is_last(chunk) and chunk["choices"])):
            made[-1]["choices"][0]["logprobs"], logprobs = logprobs, None
    parts = draw(mixed(completion["choices"][0]["message"].get("tool_calls") or []))
    last = next(at for at, chunk in enumerate(made) if is_last(chunk))
    made[last:last] = [with_delta(made[0], {"tool_calls": [part]}) for part in parts]
    return made


@st.composite
def mixed(draw: Any, calls: list[Json]) -> list[Json]:
    """The parts of calls; those of the next one may come before the last ones of the one before."""
    parts: list[Json] = []
    for index, call in enumerate(calls):
        first, *others = draw(cut(call["function"]["arguments"]))
        function = {**call["function"], "arguments": first}
        mixing: bool = draw(st.booleans())
        late = parts.pop() if parts and mixing and "id" not in parts[-1] else None
        parts.append({**call, "index": index, "function": function})
        if late is not None:
            parts.append(late)
        parts += [{"index": index, "function": {"arguments": each}} for each in others]
    return parts


def is_last(chunk: Json) -> bool:
    return not chunk["choices"] or chunk["choices"][0]["delta"] == {}


def with_delta(chunk: Json, delta: Json) -> Json:
    return {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    raw = text.encode("utf-16-le")
    units = [raw[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(raw), 2)]
    pieces = [""]
    for unit in units:
        if draw(st.booleans()):
            pieces.append("")
        joined = (pieces[-1] + unit).encode("utf-16-le", "surrogatepass")
        pieces[-1] = joined.decode("utf-16-le", "surrogatepass")
    return pieces


def writer(body: Json) -> ResponsesWriter:
    return ResponsesWriter(Asked(body, ident=IDENT), clock=lambda: NOW)


def whole(body: Json, completion: Json) -> Json:
    raw = writer(body).whole(Payload.of(completion).raw)
    Response.model_validate_json(raw, strict=True)
    made: Json = json.loads(raw)
    check("Response", made)
    return made


def read(raw: bytes) -> list[Json]:
    """The events, each as OpenAI has it, numbered in their order."""
    made: list[Json] = []
    for event in raw.split(b"\n\n")[:-1]:
        name, data = event.split(b"\n")
        EVENT.validate_json(data.removeprefix(b"data: "), strict=True)
        made.append(json.loads(data.removeprefix(b"data: ")))
        check_event(made[-1])
        assert name == f"event: {made[-1]['type']}".encode()
    assert [event["sequence_number"] for event in made] == list(range(len(made)))
    return made


def grown(events: list[Json]) -> list[Json]:
    """The output that the events make, item by item; each begins, grows and ends in its order."""
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    items: dict[int, Json] = {}
    texts: dict[tuple[int, int], str] = {}
    ended: set[int] = set()
    for event in events[2:-1]:
        kind, at = event["type"].removeprefix("response."), int(event["output_index"])
        if kind == "output_item.added":
            assert at == len(items)
            items[at] = event["item"]
            assert event["item"]["status"] == "in_progress"
            continue
        assert at not in ended
        part = (at, int(event.get("content_index") or event.get("summary_index") or 0))
        if kind == "output_item.done":
            ended.add(at)
            assert event["item"]["id"] == items[at]["id"]
            items[at] = event["item"]
            continue
        assert event["item_id"] == items[at]["id"]
        what, _, step = kind.rpartition(".")
        if step == "added" and what != "output_text.annotation":
            assert part not in texts
            texts[part] = ""
        elif step == "delta":
            texts[part] = texts.get(part, "") + event["delta"]
        elif step == "done":
            said = event.get("part", event)
            assert texts.get(part, "") == next(
                said[name] for name in ("text", "refusal", "arguments") if name in said
            )
    assert ended == items.keys()
    return [items[at] for at in range(len(items))]


@law
@given(body=requests(), completion=completions(), stream=st.booleans())
def test_what_is_renewed_is_what_would_have_been_written(body: Json, completion: Json, stream: bool) -> None:
    raw = Payload.of(completion).raw
    renewed = RenewedResponses(Asked(body, ident=IDENT), stream, None)
    written, given = renewed.write(raw), set()
    for _ in range(2):
        sent, _ = renewed.renew(written)
        [ident] = set(re.findall(rb"resp_([0-9a-f]{32})", sent))
        now = int(re.findall(rb'"created_at":(\d+)', sent)[0])
        again = ResponsesWriter(Asked(body, ident=ident.decode()), clock=partial(float, now))
        assert sent == (again.replay(raw) if stream else again.whole(raw))
        given.add(ident)
    assert len(given) == 2


@law
@given(requests(), completions())
def test_the_events_of_a_whole_answer_say_what_its_body_says(body: Json, completion: Json) -> None:
    expected = whole(body, completion)
    events = read(writer(body).replay(Payload.of(completion).raw))
    assert events[-1]["response"] == expected
    assert events[-1]["type"] == f"response.{expected['status']}"
    assert grown(events) == expected["output"]


@law
@given(requests(), completions(), st.data())
def test_the_events_of_a_provider_s_chunks_say_the_same(
    body: Json, completion: Json, data: st.DataObject
) -> None:
    chunks = data.draw(chunks_of(completion))
    writing = writer(body)
    raw = b""
    for chunk in chunks:
        raw += writing.events([Frame("chunk", Payload.of(chunk).raw)])
    events = read(raw + writing.end())
    assert events[-1]["response"] == whole(body, completion)
    assert grown(events) == events[-1]["response"]["output"]


@law
@given(requests(), completions())
def test_openai_s_own_client_gathers_the_same(body: Json, completion: Json) -> None:
    expected = whole(body, completion)
    state: Any = ResponseStreamState(input_tools=NOT_GIVEN, text_format=NOT_GIVEN)  # type: ignore[arg-type]
    for event in read(writer(body).replay(Payload.of(completion).raw)):
        state.handle_event(EVENT.validate_python(event))
    if expected["status"] == "completed":
        gathered = state._completed_response
        assert gathered.output_text == Response.model_validate(expected).output_text
        assert [item.type for item in gathered.output] == [item["type"] for item in expected["output"]]


@law
@given(requests(), completions(), st.data())
def test_what_breaks_off_ends_with_a_failure(body: Json, completion: Json, data: st.DataObject) -> None:
    chunks = data.draw(chunks_of(completion))
    writing = writer(body)
    here = [Frame("chunk", Payload.of(chunk).raw) for chunk in chunks]
    raw = writing.events(here[: data.draw(st.integers(0, len(here)))])
    events = read(raw + writing.failed(FlightLost()))
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "response.failed"
    response = events[-1]["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert response["error"]["reason"] == "answer_lost"


@pytest.mark.parametrize(
    ("error", "code", "reason", "wait"),
    [
        (RateLimited(retry_after=2.4, headers={}), "rate_limit_exceeded", "rate_limit_exceeded", 3),
        (Overloaded("Full.", retry_after=1), "server_error", "overloaded", 1),
        (InvalidRequest("No.", param="input"), "invalid_prompt", "invalid_request_error", None),
        (ProviderTimeout("Slow.", provider="p"), "server_error", "provider_timeout", None),
    ],
)
def test_a_failure_says_why_and_when_to_come_again(
    error: Any, code: str, reason: str, wait: int | None
) -> None:
    [*_, event] = read(writer({"model": "m", "input": "hi"}).failed(error))
    said = event["response"]["error"]
    assert (said["code"], said["reason"], said.get("retry_after")) == (code, reason, wait)
    assert (said["message"], said["param"]) == (error.message, error.param)


def answer(message: Json, finish_reason: str = "stop", **more: Any) -> Json:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "up", "choices": [choice], **more}


ASK: Json = {"model": "m", "input": "hi"}


def test_what_was_thought_is_where_the_client_looks_for_it() -> None:
    thinking = answer({"content": "42", "reasoning_content": "hm"})
    [plain, _] = whole(ASK, thinking)["output"]
    assert (plain["content"], plain["summary"]) == ([{"type": "reasoning_text", "text": "hm"}], [])
    [summed, _] = whole({**ASK, "reasoning": {"summary": "auto"}}, thinking)["output"]
    assert summed["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert "content" not in summed


@pytest.mark.parametrize("count", [0, 1])
def test_what_was_signed_comes_back_to_the_provider(count: int) -> None:
    signed = [{"type": "thinking", "thinking": "hm", "signature": "s"}][:count]
    signed.append({"type": "redacted_thinking", "data": "d"})
    calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    thinking = answer({"content": None, "thinking_blocks": signed, "tool_calls": calls}, "tool_calls")
    assert [item["type"] for item in whole(ASK, thinking)["output"]] == ["function_call"]
    output = whole({**ASK, "include": ["reasoning.encrypted_content"]}, thinking)["output"]
    assert [item["type"] for item in output] == ["reasoning", "function_call"]
    done = {"type": "function_call_output", "call_id": "call_1", "output": "1"}
    asked = chat_request({"model": "m", "input": [{"role": "user", "content": "hi"}, *output, done]})
    assert asked["messages"][1] == {
        "role": "assistant",
        "content": None,
        "thinking_blocks": signed,
        "tool_calls": calls,
    }


def test_half_of_a_character_in_what_was_signed_ends_no_stream() -> None:
    asking = {**ASK, "include": ["reasoning.encrypted_content"]}
    signed = [{"type": "thinking", "thinking": "hm\ud83d", "signature": "s"}]
    chunks: list[Json] = [
        {"choices": [{"index": 0, "delta": {"thinking_blocks": signed}}]},
        {"choices": [{"index": 0, "delta": {"content": "42"}, "finish_reason": "stop"}]},
    ]
    writing = writer(asking)
    raw = b"".join(writing.events([Frame("chunk", Payload.of(chunk).raw)]) for chunk in chunks)
    events = read(raw + writing.end())
    assert events[-1]["response"] == whole(asking, Payload.of_whole(assemble(chunks)).data)


def test_an_answer_that_was_cut_says_why() -> None:
    cut_off = whole(ASK, answer({"content": "Once upon"}, "length"))
    assert (cut_off["status"], cut_off["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
    assert cut_off["output"][-1]["status"] == "incomplete"
    assert cut_off["completed_at"] is None
    filtered = whole(ASK, answer({"content": None}, "content_filter"))
    assert filtered["incomplete_details"] == {"reason": "content_filter"}


def test_tokens_are_told_in_the_words_of_responses() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert whole(ASK, answer({"content": "x"}, usage=usage))["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 1},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 13,
    }
    beside = whole(ASK, answer({"content": "x"}, usage={**usage, "total_tokens": 16}))["usage"]
    assert (beside["output_tokens"], beside["total_tokens"]) == (7, 16)  # what was thought counts as well
    assert whole(ASK, answer({"content": "x"}, usage={"prompt_tokens": "many"}))["usage"]["total_tokens"] == 0
    assert whole(ASK, answer({"content": "x"}))["usage"] is None


def test_a_call_has_the_same_id_each_time_the_answer_is_given() -> None:
    nameless = answer({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}] * 2}, "tool_calls")
    first, second = (
        [
            item["call_id"]
            for item in json.loads(ResponsesWriter(Asked(ASK)).whole(Payload.of(nameless).raw))["output"]
        ]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 2


def test_an_item_s_id_leads_to_its_answer() -> None:
    made = whole(ASK, answer({"content": "42", "reasoning_content": "hm"}))
    for position, item in enumerate(made["output"]):
        assert place_of(item["id"]) == (made["id"], position)
    for odd in (
        "",
        "msg_",
        "msg_123",
        "resp_" + "0" * 40,
        "msg_" + "-" * 40,
        "msg_" + "z" * 40,
        "msg_" + "é" * 40,
    ):
        assert place_of(odd) is None
    ids = {Asked(ASK).id for _ in range(100)}
    assert len(ids) == 100


def test_what_comes_late_begins_a_further_item() -> None:
    """Interleaved thinking, and words after a call."""
    deltas: list[Json] = [
        {"reasoning_content": "one"},
        {"content": "two"},
        {"reasoning_content": "three"},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]},
        {"content": "four"},
    ]
    chunks = [{"id": "c", "model": "up", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    writing = writer(ASK)
    raw = writing.events([Frame("chunk", Payload.of(chunk).raw) for chunk in chunks])
    output = grown(read(raw + writing.end()))
    kinds = ["reasoning", "message", "reasoning", "function_call", "message"]
    assert [item["type"] for item in output] == kinds


def test_a_name_that_comes_after_its_arguments_is_waited_for() -> None:
    parts: list[Json] = [
        {"index": 0, "id": "a", "function": {"arguments": '{"x"'}},
        {"index": 0, "function": {"name": "f"}},
        {"index": 0, "function": {"arguments": ":1}"}},
        {"index": 1, "id": "b"},
    ]
    writing = writer(ASK)
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [part]}}]} for part in parts]
    raw = writing.events([Frame("chunk", Payload.of(chunk).raw) for chunk in chunks])
    [call] = grown(read(raw + writing.end()))
    assert (call["name"], call["arguments"], call["call_id"]) == ("f", '{"x":1}', "a")


def live_and_kept(choices: list[Json]) -> Json:
    """The Response of chunks with one choice each, as they come; it is the one of what is kept of them."""
    chunks = [
        {"id": "c", "object": "chat.completion.chunk", "model": "up", "choices": [each]} for each in choices
    ]
    writing = writer(ASK)
    raw = b"".join(writing.events([Frame("chunk", Payload.of(chunk).raw)]) for chunk in chunks)
    events = read(raw + writing.end())
    response: Json = events[-1]["response"]
    assert grown(events) == response["output"]
    kept = Payload.of_whole(assemble(chunks)).data
    assert response == whole(ASK, kept)
    replayed = read(writer(ASK).replay(Payload.of(kept).raw))
    assert replayed[-1]["response"] == response
    return response


@pytest.mark.parametrize("first", [0, 1])
def test_the_choice_that_comes_first_is_the_answer_however_it_is_counted(first: int) -> None:
    response = live_and_kept(
        [
            {"index": first, "delta": {"content": "a"}},
            {"index": 7, "delta": {"content": "b"}, "finish_reason": "stop"},
            {"index": first, "delta": {"content": "c"}, "finish_reason": "length"},
        ]
    )
    assert response["output"][0]["content"][0]["text"] == "ac"
    assert response["status"] == "incomplete"


def test_the_former_call_of_a_function_is_a_call() -> None:
    parts: list[Json] = [{"name": "f", "arguments": '{"a"'}, {"arguments": ":1}"}]
    choices: list[Json] = [{"index": 0, "delta": {"function_call": part}} for part in parts]
    response = live_and_kept([*choices, {"index": 0, "delta": {}, "finish_reason": "function_call"}])
    [call] = response["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "f", '{"a":1}')


def test_a_call_that_is_told_in_both_ways_is_one() -> None:
    function = {"name": "f", "arguments": "{}"}
    delta = {"tool_calls": [{"index": 0, "id": "a", "function": function}], "function_call": function}
    [call] = live_and_kept([{"index": 0, "delta": delta, "finish_reason": "tool_calls"}])["output"]
    assert (call["call_id"], call["arguments"]) == ("a", "{}")


def test_of_many_calls_none_is_asked_again_that_has_not_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def is_whole(call: Any) -> bool:
        asked.append(call)
        return False

    monkeypatch.setattr(responses_stream._Call, "is_whole", is_whole)
    deltas = [
        {"tool_calls": [{"index": index, "id": f"{index}", "function": {"name": "f", "arguments": "{"}}]}
        for index in range(50)
    ]
    writing = writer(ASK)
    for delta in deltas:
        writing.events([Frame("chunk", Payload.of({"choices": [{"index": 0, "delta": delta}]}).raw)])
    assert len(read_end(writing)[-1]["response"]["output"]) == 50
    assert len(asked) == 49


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"choices": None},
        {"choices": [1]},
        {"choices": [{"index": 0, "delta": None}], "usage": 3, "model": 4, "service_tier": []},
        {"choices": [{"delta": {"content": 5, "tool_calls": [None, {"function": 3}], "refusal": []}}]},
        {
            "choices": [
                {"delta": {"content": [1, {"type": "text"}], "thinking_blocks": 1, "annotations": "x"}}
            ]
        },
        {"choices": [{"delta": {}, "finish_reason": 3, "logprobs": {"content": "x"}}]},
        {"choices": [{"delta": {}, "logprobs": {"content": "\ud83d"}}]},
        {"choices": [{"delta": {"annotations": [{"type": "url_citation", "url_citation": {"\ud83d": 1}}]}}]},
    ],
)
def test_odd_chunks_and_answers_are_read_as_far_as_they_go(odd: Json) -> None:
    body = {**ASK, "include": ["message.output_text.logprobs", "reasoning.encrypted_content"]}
    writing = writer(body)
    [item] = grown(read(writing.events([Frame("chunk", Payload.of(odd).raw)]) + writing.end()))
    assert item["type"] == "message"
    choices = odd.get("choices")
    if isinstance(choices, list):
        choices = [
            {**choice, "message": choice.get("delta")} if isinstance(choice, dict) else choice
            for choice in choices
        ]
    assert [item["type"] for item in whole(body, {**odd, "choices": choices})["output"]] == ["message"]


def test_content_in_parts_is_read_as_text_and_thought() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "4"},
        {"type": "text", "text": "2"},
    ]
    [thought, said] = whole(ASK, answer({"content": parts}))["output"]
    assert (thought["content"][0]["text"], said["content"][0]["text"]) == ("hm", "42")
    writing = writer(ASK)
    for part in parts:
        chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": [part]}}]}
        writing.events([Frame("chunk", Payload.of(chunk).raw)])
    events = read_end(writing)
    assert events[-1]["response"]["output"] == [thought, said]


def read_end(writing: ResponsesWriter) -> list[Json]:
    events = [json.loads(event.split(b"data: ")[1]) for event in writing.end().split(b"\n\n")[:-1]]
    assert all(
        later["sequence_number"] == at["sequence_number"] + 1 for at, later in itertools.pairwise(events)
    )
    return events
