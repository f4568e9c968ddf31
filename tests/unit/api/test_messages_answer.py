"""Answers in Anthropic's Messages: every body and event is one of its client's strict types, however it was made.

The client's own accumulator is the judge: what it makes of our events is the Message of the whole answer.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from dub5.api import messages_answer
from dub5.api.messages_answer import MessagesWriter, message, usage
from dub5.errors import (
    DeadlinePassed,
    Dub5Error,
    Forbidden,
    InternalError,
    InvalidKey,
    InvalidRequest,
    Overloaded,
    ProviderError,
    RateLimited,
    RequestTooLarge,
    UnknownModel,
    render_messages,
)
from dub5.frames import Frame
from dub5.providers import message_blocks
from dub5.providers.anthropic_answer import StreamTranslator, completion, event_of
from dub5.providers.chunks import assemble, split
from dub5.providers.protocol import Json, Payload
from testkit import anthropic_server as fake
from tests.harness import size
from tests.unit.chat import test_joining

law = settings(max_examples=size(40))
"""`SIZE` is how many answers are generated for each."""

_event: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def writer(*stops: str) -> MessagesWriter:
    return MessagesWriter("req-1", frozenset(stops))


def encoded(data: Json) -> bytes:
    return Payload.of(data).raw


def frames(chunks: list[Json]) -> list[Frame]:
    """As a flight has them."""
    return [Frame("chunk" if chunk.get("choices") else "usage", encoded(chunk)) for chunk in chunks]


def accumulated(events: bytes) -> Json:
    """What Anthropic's client makes of these events, each of which must be one of its types."""
    snapshot: Any = None
    partial: dict[int, bytes] = {}
    names = []
    for written in events.decode().strip().split("\n\n"):
        name, data = written.split("\n", 1)
        names.append(name.removeprefix("event: "))
        event = json.loads(data.removeprefix("data: "))
        assert event["type"] == names[-1]
        assert event.get("index", -1) in {-1, names.count("content_block_start") - 1}
        if event["type"] != "ping":
            read = _event.validate_python(event, strict=True)
            snapshot = accumulate_event(event=read, current_snapshot=snapshot, json_bufs=partial)
    assert (names[0], names[-2:]) == ("message_start", ["message_delta", "message_stop"])
    _check_order(names)
    return tidy(snapshot.to_dict())


def _check_order(names: list[str]) -> None:
    """Each block begins, grows and stops before the next begins."""
    inside = False
    for name in names:
        if name.startswith("content_block"):
            assert inside is (name != "content_block_start")
            inside = name != "content_block_stop"
    assert not inside


def valid(whole: Json) -> Json:
    Message.model_validate(whole, strict=True)
    return tidy(whole)


def tidy(whole: Json) -> Json:
    """Without what says nothing."""
    if "content" in whole:
        whole = {**whole, "content": [tidy(block) for block in whole["content"]]}
    return {name: value for name, value in whole.items() if value is not None and value != []}


# --- From a provider that speaks Chat Completions ---

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
names = st.text("abcdefgh_", min_size=1, max_size=8)
inputs = st.dictionaries(
    words, st.integers(-1000, 1000) | words | st.booleans() | st.lists(words, max_size=2), max_size=2
)
tool_calls = st.lists(st.tuples(names, inputs), max_size=3)
counts = st.integers(0, 10_000)


@st.composite
def completions(draw: st.DrawFn) -> Json:
    said: Json = {"role": "assistant", "content": draw(st.none() | words)}
    if draw(st.booleans()):
        said["reasoning_content"] = draw(words)
    calls = draw(tool_calls)
    if calls:
        said["tool_calls"] = [
            {
                "id": f"call_{at}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(value)},
            }
            for at, (name, value) in enumerate(calls)
        ]
    reason = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter", "function_call", "odd"]))
    prompt, cached = draw(counts), draw(counts)
    return {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [{"index": 0, "message": said, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": prompt + cached,
            "completion_tokens": draw(counts),
            "total_tokens": 0,
            "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        },
    }


@law
@given(completions())
def test_a_stored_answer_is_the_same_message_whole_and_replayed(answer: Json) -> None:
    whole = valid(json.loads(writer().whole(encoded(answer))))
    assert accumulated(writer().replay(encoded(answer))) == whole


@law
@given(completions(), st.integers(1, 5))
def test_chunks_as_they_come_are_the_same_message(answer: Json, together: int) -> None:
    chunks = frames(list(split(answer, include_usage=True)))
    live = writer()
    groups = [chunks[at : at + together] for at in range(0, len(chunks), together)]
    events = b"".join(map(live.events, groups)) + live.end()
    assert accumulated(events) == valid(json.loads(writer().whole(encoded(answer))))


@law
@given(test_joining.streams())
def test_chunks_however_they_were_cut_are_the_message_that_is_kept(
    stream: tuple[list[Json], list[Json]],
) -> None:
    said, given_chunks = stream
    assume(len(said) == 1 and not any("custom" in call for call in said[0]["message"].get("tool_calls", ())))
    assume(not said[0]["message"].keys() >= {"reasoning_content", "reasoning"})
    assert_the_same([chunk.data for chunk in test_joining.live(given_chunks)])


def assert_the_same(chunks: list[Json]) -> None:
    """As they come one by one, and as what is kept of them."""
    live = writer()
    events = b"".join(live.events([frame]) for frame in frames(chunks)) + live.end()
    kept = Payload.of_whole(assemble(chunks)).raw
    assert accumulated(events) == valid(json.loads(writer().whole(kept)))


def chunk(delta: Json, finish_reason: str | None = None, **more: Any) -> Json:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def counted(index: int | None, delta: Json, finish_reason: str | None = None) -> Json:
    """A chunk of the choice that the server counts so."""
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return chunk({}, choices=[choice])


def call_part(index: int, *, id: str | None = None, name: str = "", arguments: str = "") -> Json:  # noqa: A002  # OpenAI's name
    function = {"name": name, "arguments": arguments}
    return chunk({"tool_calls": [{"index": index, "id": id, "function": function}]})


@pytest.mark.parametrize(
    "chunks",
    [
        [
            {"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
            chunk({"role": "assistant", "content": "hi"}),
            chunk({}, "stop"),
        ],
        [chunk({"content": "hi"}), chunk({}, "length"), chunk({}, ""), chunk({}, choices=[], usage={})],
        [chunk({"content": "hi"}, usage={"prompt_tokens": 3}), chunk({}, "length", usage={})],
        [chunk({"reasoning": "hm"}), chunk({"reasoning_content": "hm"}), chunk({"content": "hi"}, "stop")],
        [chunk({"content": "a\ud83d"}), chunk({"content": "\ude00b\ud83d"}), chunk({}, "stop")],
        [
            call_part(0, id="a"),
            call_part(0, name="f", arguments='{"a": '),
            call_part(1, id="b", name="g"),
            call_part(1, arguments='{"b": '),
            call_part(0, arguments="1}"),
            call_part(2, name="h"),
            call_part(1, arguments="{}}"),
            chunk({}, "tool_calls"),
        ],
        [
            call_part(0, id="a", name="f", arguments='{"a": "\ud83d'),
            call_part(1, id="b", name="g", arguments="{}"),
            call_part(0, arguments='\ude00"}'),
            chunk({}, "tool_calls"),
        ],
        [call_part(0, name="f"), call_part(1, name="g", arguments='{"b": 1}'), chunk({}, "tool_calls")],
        [
            chunk({"function_call": {"arguments": '{"a"'}}),
            chunk({"function_call": {"name": "f", "arguments": ": 1}"}}, "function_call"),
        ],
        [counted(1, {"content": "hi"}), counted(1, {}, "length")],
        [
            counted(None, {"content": "a"}),
            counted(1, {"content": "b"}),
            counted(0, {"content": "c"}, "length"),
        ],
        [
            call_part(0, name="f", arguments=" "),
            call_part(0, arguments="\n"),
            call_part(1, name="g", arguments=" "),
            call_part(1, arguments='{"b": 1}'),
            chunk({}, "tool_calls"),
        ],
    ],
    ids=[
        "azure",
        "an empty end",
        "empty counts",
        "two names",
        "halves",
        "calls mixed",
        "a call cut",
        "no arguments",
        "a former call",
        "counted from one",
        "a further choice",
        "blank arguments",
    ],
)
def test_what_only_some_servers_do_is_the_same_live_and_kept(chunks: list[Json]) -> None:
    assert_the_same(chunks)


def live_events(chunks: list[Json]) -> list[bytes]:
    """Those of each chunk, as they come one by one, and of the end."""
    writing = writer()
    return [*(writing.events([frame]) for frame in frames(chunks)), writing.end()]


def test_what_is_said_within_a_call_waits_until_its_arguments_are_whole() -> None:
    chunks = [
        call_part(0, id="a", name="f", arguments='{"a": '),
        chunk({"content": "mid"}),
        chunk({"reasoning_content": "hm"}),
        call_part(1, id="b", name="g"),
        call_part(0, arguments="1}"),
        call_part(0, arguments=" "),
        call_part(1, arguments="{"),
        chunk({"content": "late"}),
        chunk({}, "tool_calls"),
    ]
    events = live_events(chunks)
    assert events[1:3] == [b"", b""]
    assert b"mid" in events[4]
    assert accumulated(b"".join(events))["content"] == [
        {"type": "tool_use", "id": "a", "name": "f", "input": {"a": 1}},
        {"type": "text", "text": "mid"},
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}},
        {"type": "text", "text": "late"},
    ]


@law
@given(completions(), st.randoms(use_true_random=False))
def test_neither_words_nor_calls_are_broken_by_each_other(answer: Json, random: Random) -> None:
    """Wherever a server says something among the parts of calls, each call and all that is said stay whole."""
    said = answer["choices"][0]["message"]
    sources = [
        [chunk({name: letter}) for letter in said.get(name) or ""]
        for name in ("content", "reasoning_content")
    ]
    sources.append(
        [
            call_part(at, id=call["id"], name=call["function"]["name"], arguments=letter)
            for at, call in enumerate(said.get("tool_calls", ()))
            for letter in call["function"]["arguments"]
        ]
    )
    chunks = []
    while any(sources):
        chunks.append(random.choice([source for source in sources if source]).pop(0))
    live = accumulated(b"".join(live_events(chunks))).get("content", [])
    whole = message(assemble(chunks))["content"]
    for kind, member in (("text", "text"), ("thinking", "thinking")):
        assert member_of(live, kind, member) == member_of(whole, kind, member)
    assert [block for block in live if block["type"] == "tool_use"] == [
        block for block in whole if block["type"] == "tool_use"
    ]


def member_of(content: list[Json], kind: str, member: str) -> str:
    return "".join(block[member] for block in content if block["type"] == kind)


def test_a_call_that_is_told_in_both_ways_is_one() -> None:
    function = {"name": "f", "arguments": "{}"}
    delta = {"tool_calls": [{"index": 0, "id": "a", "function": function}], "function_call": function}
    chunks = [chunk(delta, "tool_calls")]
    assert_the_same(chunks)
    assert b"".join(live_events(chunks)).count(b"input_json_delta") == 1


def test_a_part_that_waits_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a call that has no name yet, and of one that waits for another."""
    read: list[Json] = []

    def called(part: Json) -> tuple[str, str]:
        read.append(part)
        return message_blocks.called(part)

    monkeypatch.setattr(messages_answer, "called", called)
    nameless = [call_part(0, id="a", arguments="[") for _ in range(50)]
    mixed = [call_part(at % 2, id=f"{at % 2}", name="f", arguments="[") for at in range(50)]
    live = writer()
    live.events(frames([*nameless, call_part(0, name="f"), *mixed]))
    live.end()
    assert len(read) == 101


@law
@given(completions())
def test_a_whole_answer_in_the_place_of_chunks_is_the_same_message(answer: Json) -> None:
    live = writer()
    events = live.events([Frame("whole", encoded(answer))]) + live.end()
    assert accumulated(events) == valid(json.loads(writer().whole(encoded(answer))))


odd_values = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.none(), max_size=2)
odd_deltas = st.dictionaries(
    st.sampled_from(
        ["role", "content", "refusal", "reasoning", "thinking_blocks", "tool_calls", "message_blocks"]
    ),
    odd_values,
)


@pytest.mark.parametrize("odd", [True, 5, "x", {"a": 1}])
def test_citations_that_are_none_end_no_stream(odd: Any) -> None:
    laid_out = [{"index": 0, "type": "text", "citations": odd}]
    live = writer()
    events = live.events(frames([chunk({"message_blocks": laid_out}), chunk({"content": "hi"}, "stop")]))
    assert accumulated(events + live.end())["content"] == [{"type": "text", "text": "hi"}]


def test_how_an_answer_ended_says_nothing_else_of_it() -> None:
    stop = {"content": None, "type": "x", "usage": 1, "stop_reason": "pause_turn"}
    ended = {"index": 0, "delta": {}, "finish_reason": "stop", "message_stop": stop}
    chunks = [chunk({"content": "hi"}), chunk({}, choices=[ended])]
    assert message(assemble(chunks))["stop_reason"] == "pause_turn"
    assert_the_same(chunks)
    replayed = accumulated(writer().replay(encoded(assemble(chunks))))
    assert replayed["content"] == [{"type": "text", "text": "hi"}]


@law
@given(st.lists(odd_deltas, max_size=4), st.dictionaries(st.text(max_size=8), odd_values))
def test_whatever_a_provider_sent_there_is_a_message_of_it(deltas: list[Json], counted: Json) -> None:
    chunks: list[Json] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [], "usage": counted})
    live = writer()
    events = live.events(frames(chunks)) + live.end()
    assert accumulated(events)["type"] == "message"
    valid(message(assemble(chunks)))


# --- From Anthropic itself ---

citation = {
    "type": "web_search_result_location",
    "cited_text": "x",
    "encrypted_index": "e",
    "title": None,
    "url": "https://a.example",
}
search: Json = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search"}
found = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [
        {
            "type": "web_search_result",
            "encrypted_content": "c",
            "page_age": None,
            "title": "t",
            "url": "https://a.example",
        }
    ],
}
blocks = st.one_of(
    st.builds(lambda said: {"type": "text", "text": said}, words),
    st.builds(lambda said: {"type": "text", "text": said, "citations": [citation, citation]}, words),
    st.builds(lambda said: {"type": "thinking", "thinking": said, "signature": "sig"}, words | st.just("")),
    st.just({"type": "redacted_thinking", "data": "secret"}),
    st.builds(lambda given: {"type": "tool_use", "id": "toolu_1", "name": "f", "input": given}, inputs),
    st.builds(
        lambda given: {
            "type": "tool_use",
            "id": "toolu_1",
            "name": "f",
            "input": given,
            "caller": {"type": "direct"},
        },
        inputs,
    ),
    st.builds(lambda given: {**search, "input": given}, inputs),
    st.just(found),
)
endings = st.sampled_from(
    [
        "end_turn",
        "max_tokens",
        "tool_use",
        "stop_sequence",
        "pause_turn",
        "refusal",
        "model_context_window_exceeded",
    ]
)
usages = st.fixed_dictionaries(
    {
        "input_tokens": counts,
        "cache_creation_input_tokens": counts,
        "cache_read_input_tokens": counts,
        "output_tokens": counts,
    },
    optional={
        "service_tier": st.just("standard"),
        "server_tool_use": st.just({"web_search_requests": 2, "web_fetch_requests": 0}),
        "cache_creation": st.just({"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}),
        "output_tokens_details": st.just({"thinking_tokens": 5}),
    },
)


@st.composite
def messages(draw: st.DrawFn) -> Json:
    content, reason = draw(st.lists(blocks, min_size=1, max_size=5)), draw(endings)
    calls = any(block["type"] == "tool_use" for block in content)
    if calls is not (reason == "tool_use") and reason in ("end_turn", "tool_use"):
        reason = "tool_use" if calls else "end_turn"
    whole = {**fake.message(content, reason), "usage": draw(usages)}
    if reason == "stop_sequence":
        whole["stop_sequence"] = "END"
    if reason == "refusal":
        whole["stop_details"] = {"type": "refusal", "category": "bio", "explanation": None}
    return whole


def streamed(whole: Json) -> list[bytes]:
    """As Anthropic sends it."""
    head = {**whole, "content": [], "stop_reason": None, "stop_sequence": None}
    parts = [fake.event("message_start", message=head)]
    for index, block in enumerate(whole["content"]):
        parts += fake.block_frames(index, *_grown(block))  # type: ignore[arg-type]
    ending = {name: whole.get(name) for name in ("stop_reason", "stop_sequence", "stop_details")}
    parts.append(fake.event("message_delta", delta=ending, usage=whole["usage"]))
    return [*parts, fake.event("message_stop")]


def _grown(block: Json) -> tuple[Json, ...]:
    match block["type"]:
        case "text":
            deltas = [
                {"type": "text_delta", "text": part}
                for part in (block["text"][:2], block["text"][2:])
                if part
            ]
            cited = [{"type": "citations_delta", "citation": each} for each in block.get("citations", ())]
            return {"type": "text", "text": ""}, *cited, *deltas
        case "thinking":
            said = [{"type": "thinking_delta", "thinking": block["thinking"]}] if block["thinking"] else []
            return (
                {"type": "thinking", "thinking": "", "signature": ""},
                *said,
                {"type": "signature_delta", "signature": block["signature"]},
            )
        case "tool_use" | "server_tool_use":
            written = json.dumps(block["input"])
            parts = ["", written[:3], written[3:]]
            return {**block, "input": {}}, *(
                {"type": "input_json_delta", "partial_json": part} for part in parts
            )
    return (block,)


def translated(events: list[bytes]) -> list[Json]:
    translator = StreamTranslator(created=7)
    return [
        chunk for part in events for chunk in translator.chunks(event_of(part.split(b"data: ")[1], "claude"))
    ]


@law
@given(messages())
def test_a_message_of_anthropic_s_is_the_same_again(whole: Json) -> None:
    stored = completion(whole, created=7)
    assert valid(message(stored)) == tidy(whole)
    assert accumulated(writer().replay(encoded(stored))) == tidy(whole)


@law
@given(messages())
def test_a_stream_of_anthropic_s_is_the_same_again_once_it_is_stored(whole: Json) -> None:
    stored = assemble(translated(streamed(whole)))
    assert valid(message(stored)) == tidy(whole)


@law
@given(messages(), st.integers(1, 4))
def test_a_stream_of_anthropic_s_is_the_same_as_it_comes(whole: Json, together: int) -> None:
    chunks = frames(translated(streamed(whole)))
    live = writer()
    events = b"".join(live.events(chunks[at : at + together]) for at in range(0, len(chunks), together))
    charged = ("service_tier", "cache_creation")  # these a stream says at its start, and we learn at its end
    expected = {name: value for name, value in whole["usage"].items() if name not in charged}
    assert accumulated(events + live.end()) == {**tidy(whole), "usage": expected}


# --- Single rules ---


def test_a_stop_sequence_is_known_where_the_server_names_it() -> None:
    choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop", "stop_reason": "END"}
    assert message({"choices": [choice]}, frozenset({"END"}))["stop_sequence"] == "END"
    assert message({"choices": [choice]}, frozenset())["stop_reason"] == "end_turn"


def test_a_refusal_of_openai_s_is_a_text_and_a_reason() -> None:
    answer = {"choices": [{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]}
    whole = message(answer)
    assert whole["content"] == [{"type": "text", "text": "No."}]
    assert whole["stop_reason"] == "refusal"


def test_tokens_of_a_cache_are_counted_apart() -> None:
    counted = {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
        "service_tier": "on_demand",  # not one of Anthropic's
    }
    assert usage(counted) == {
        "input_tokens": 5,
        "cache_creation_input_tokens": 1,
        "cache_read_input_tokens": 4,
        "output_tokens": 2,
    }


def test_what_was_thought_counts_where_only_the_total_has_it() -> None:
    assert usage({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135})["output_tokens"] == 103


@pytest.mark.parametrize(
    "layout", [[{"index": 0}], [{"index": "x", "type": "text"}], [7], [{"index": 0, "type": "tool_use"}]]
)
def test_a_member_of_that_name_which_is_somebody_else_s_does_no_harm(layout: list[Any]) -> None:
    said = {"content": "hi", "message_blocks": layout}
    assert message({"choices": [{"message": said}]})["content"] == [{"type": "text", "text": "hi"}]


ERRORS = [
    (InvalidRequest("`a.b`: bad.", param="a.b"), 400, "invalid_request_error"),
    (InvalidKey("No key."), 401, "authentication_error"),
    (Forbidden("No."), 403, "permission_error"),
    (UnknownModel("m"), 404, "not_found_error"),
    (RequestTooLarge("Too large."), 413, "request_too_large"),
    (RateLimited(retry_after=1.0, headers={}), 429, "rate_limit_error"),
    (InternalError(), 500, "api_error"),
    (ProviderError("Failed.", provider="p"), 502, "api_error"),
    (Overloaded("Full."), 503, "overloaded_error"),
    (DeadlinePassed(), 504, "timeout_error"),
]


@pytest.mark.parametrize(("error", "status", "kind"), ERRORS)
def test_an_error_is_anthropic_s(error: Dub5Error, status: int, kind: str) -> None:
    rendered = render_messages(error, "req-1")
    body = json.loads(rendered.body)
    if kind != "request_too_large":  # it is in Anthropic's reference, and not among its client's types
        ErrorResponse.model_validate(body, strict=True)
    assert (rendered.status, body["error"]["type"], body["request_id"]) == (status, kind, "req-1")
    event = writer().failed(error)
    assert event.startswith(b"event: error\ndata: ")
    assert json.loads(event.split(b"data: ")[1]) == body
