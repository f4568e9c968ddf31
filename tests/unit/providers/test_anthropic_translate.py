"""OpenAI's words in Anthropic's, and back: each rule once, and laws over whatever a stream may bring."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.errors import InvalidRequest, Unsupported
from dub5.providers.anthropic_answer import StreamTranslator, completion, event_of
from dub5.providers.anthropic_request import request
from dub5.providers.chunks import assemble
from dub5.providers.protocol import Json
from testkit import anthropic_server as fake
from testkit.anthropic_rules import refusal
from testkit.http_server import Part

PIXEL = "iVBORw0KGgo="
QUESTION: Json = {"role": "user", "content": "Hi"}
ASKED: Json = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
WEATHER: Json = {"type": "object", "properties": {"city": {"type": "string"}}}
CLOSED: Json = {**WEATHER, "additionalProperties": False, "required": []}
WEATHER_TOOL: Json = {
    "type": "function",
    "function": {"name": "weather", "description": "Of a city", "parameters": WEATHER},
}


def translated(**body: Any) -> Json:
    return request({"messages": [QUESTION], **body}, model="claude", max_tokens=100, stream=False)


def turns(*messages: Json) -> list[Json]:
    translation: list[Json] = translated(messages=list(messages))["messages"]
    return translation


def text(words: str) -> Json:
    return {"type": "text", "text": words}


def tool_call(arguments: str, name: str = "weather", id: str = "call_1") -> Json:  # noqa: A002  # OpenAI's name
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


# --- The question ---


def test_the_plainest_question() -> None:
    assert translated() == {"model": "claude", "max_tokens": 100, "messages": [ASKED]}


def test_a_stream_is_asked_for() -> None:
    assert request({"messages": [QUESTION]}, model="m", max_tokens=1, stream=True)["stream"] is True


def test_system_and_developer_messages_become_the_system_prompt_wherever_they_stand() -> None:
    body = translated(
        messages=[
            {"role": "system", "content": "You are a pirate."},
            QUESTION,
            {"role": "developer", "content": [{**text("Be brief."), "cache_control": {"type": "ephemeral"}}]},
            {"role": "system", "content": ""},
        ]
    )
    assert body["system"] == [
        text("You are a pirate."),
        {**text("Be brief."), "cache_control": {"type": "ephemeral"}},
    ]
    assert body["messages"] == [ASKED]


def test_neighbours_of_the_same_role_are_merged() -> None:
    assert turns(
        QUESTION,
        {"role": "user", "content": "Hello?", "name": "ann"},
        {"role": "assistant", "content": "One."},
        {"role": "assistant", "content": None},
        {
            "role": "assistant",
            "content": [text("Two."), {"type": "refusal", "refusal": "No."}],
            "refusal": "Nor.",
        },
        QUESTION,
    ) == [
        {"role": "user", "content": [text("Hi"), text("Hello?")]},
        {"role": "assistant", "content": [text("One."), text("Two."), text("No."), text("Nor.")]},
        ASKED,
    ]


def test_an_assistant_who_said_nothing_is_left_out() -> None:
    assert turns(QUESTION, {"role": "assistant", "content": ""}, QUESTION) == [
        {"role": "user", "content": [text("Hi"), text("Hi")]}
    ]


def test_tool_calls_and_their_results() -> None:
    assert turns(
        QUESTION,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [tool_call('{"city": "Oslo"}'), tool_call("", id="c2")],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": [text("sun")]},
        {"role": "user", "content": "So?"},
    ) == [
        ASKED,
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
                {"type": "tool_use", "id": "c2", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [text("rain")]},
                {"type": "tool_result", "tool_use_id": "c2", "content": [text("sun")]},
                text("So?"),
            ],
        },
    ]


def test_a_tool_may_have_had_nothing_to_say() -> None:
    assert turns(
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [tool_call("{}")]},
        {"role": "tool", "tool_call_id": "call_1", "content": ""},
    )[2] == {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1"}]}


def test_thinking_goes_back_before_the_tool_calls() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "thinking_blocks": [thought],
        "tool_calls": [tool_call("{}")],
    }
    blocks = turns(QUESTION, message)[1]["content"]
    assert blocks == [thought, {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}}]


@pytest.mark.parametrize(
    ("url", "source"),
    [
        (f"data:image/png;base64,{PIXEL}", {"type": "base64", "media_type": "image/png", "data": PIXEL}),
        (
            f"data:Image/PNG;name=a.png;base64,{PIXEL}",
            {"type": "base64", "media_type": "image/png", "data": PIXEL},
        ),
        ("https://example.com/a.png", {"type": "url", "url": "https://example.com/a.png"}),
    ],
)
def test_images(url: str, source: Json) -> None:
    part = {
        "type": "image_url",
        "image_url": {"url": url, "detail": "low"},
        "cache_control": {"type": "ephemeral"},
    }
    assert turns({"role": "user", "content": [part]})[0]["content"] == [
        {"type": "image", "source": source, "cache_control": {"type": "ephemeral"}}
    ]


def test_blocks_of_their_own_go_through() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "…"}
    document = {"type": "document", "source": source, "citations": {"enabled": True}}
    assert turns({"role": "user", "content": [document, text("")]})[0]["content"] == [document]


def test_tools() -> None:
    bare = {"type": "function", "function": {"name": "now"}}
    own = {"type": "web_search_20250305", "name": "web_search"}
    function = {"name": "exact", "description": "Of a city", "parameters": WEATHER, "strict": True}
    strict = {"type": "function", "function": function, "cache_control": {"type": "ephemeral"}}
    assert translated(tools=[WEATHER_TOOL, bare, own, strict])["tools"] == [
        {"name": "weather", "description": "Of a city", "input_schema": WEATHER},
        {"name": "now", "input_schema": {"type": "object", "properties": {}}},
        own,
        {
            "name": "exact",
            "description": "Of a city",
            "strict": True,
            "input_schema": CLOSED,
            "cache_control": {"type": "ephemeral"},
        },
    ]


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
            {"type": "tool", "name": "weather"},
        ),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"parallel_tool_calls": False, "tool_choice": "required"},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
        ({"parallel_tool_calls": True}, None),
    ],
)
def test_choice_of_tools(fields: Json, choice: Json | None) -> None:
    assert translated(tools=[WEATHER_TOOL], **fields).get("tool_choice") == choice


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_a_choice_without_tools_means_nothing(choice: str | None) -> None:
    assert translated(tool_choice=choice, parallel_tool_calls=False, tools=[]) == translated()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 7, "max_completion_tokens": 8}, {"max_tokens": 8}),
        ({"max_tokens": 7, "max_completion_tokens": None}, {"max_tokens": 7}),
        ({"temperature": 1.7}, {"temperature": 1}),
        ({"temperature": 0.2}, {"temperature": 0.2}),
        ({"temperature": None}, {}),
        ({"top_p": 0.9, "top_k": 3}, {"top_p": 0.9, "top_k": 3}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"user": "u1"}, {"metadata": {"user_id": "u1"}}),
        ({"user": "u1", "safety_identifier": "s1"}, {"metadata": {"user_id": "s1"}}),
        ({"never_heard_of": [1]}, {}),
        ({"n": 1, "logprobs": False, "modalities": ["text"]}, {}),
        ({"presence_penalty": 1, "frequency_penalty": 1, "seed": 1, "logit_bias": {"1": 1}}, {}),
        ({"metadata": {"a": "b"}, "store": True, "service_tier": "flex", "prediction": {}}, {}),
        ({"reasoning_effort": "high", "verbosity": "low", "prompt_cache_key": "k"}, {}),
        ({"response_format": {"type": "text"}}, {}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": WEATHER}}},
            {"output_config": {"format": {"type": "json_schema", "schema": CLOSED}}},
        ),
        (
            {
                "output_config": {"effort": "low"},
                "response_format": {"type": "json_schema", "json_schema": {"schema": WEATHER}},
            },
            {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": CLOSED}}},
        ),
    ],
)
def test_fields(given: Json, expected: Json) -> None:
    assert translated(**given) == {**translated(), **expected}


def test_json_without_a_schema_is_asked_for_in_words_after_the_personality() -> None:
    messages = [{"role": "system", "content": "You are a pirate."}, QUESTION]
    system = translated(messages=messages, response_format={"type": "json_object"})["system"]
    assert system[0] == text("You are a pirate.")
    assert "JSON object" in system[1]["text"]


def assistant(**fields: Any) -> Json:
    return {"messages": [QUESTION, {"role": "assistant", **fields}]}


def user(*parts: Any) -> Json:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        (user({"type": "text", "text": 7}), "messages[0].content[0].text"),
        (user({"type": "image_url", "image_url": "x"}), "messages[0].content[0].image_url.url"),
        ({"messages": [{"role": "system", "content": 7}]}, "messages[0].content"),
        (user("x"), "messages[0].content[0]"),
        (user(text("a"), {"type": "input_audio"}), "messages[0].content[1].type"),
        (user({"type": "file", "file": {}}), "messages[0].content[0].file"),
        (user({"type": "image_url", "image_url": {}}), "messages[0].content[0].image_url.url"),
        (
            user({"type": "image_url", "image_url": {"url": "ftp://x"}}),
            "messages[0].content[0].image_url.url",
        ),
        (
            user({"type": "image_url", "image_url": {"url": "data:image/png,x"}}),
            "messages[0].content[0].image_url.url",
        ),
        (assistant(tool_calls={}), "messages[1].tool_calls"),
        (assistant(tool_calls=["x"]), "messages[1].tool_calls[0]"),
        (assistant(tool_calls=[{"id": "a"}]), "messages[1].tool_calls[0].function"),
        (assistant(tool_calls=[{"id": "a", "function": {}}]), "messages[1].tool_calls[0].function.name"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
        ({"tools": "x"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes", "tools": [WEATHER_TOOL]}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_what_cannot_be_said_names_its_field(body: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translated(**body)
    assert caught.value.param == param
    assert f"`{param}`" in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        {"n": 2},
        {"logprobs": True},
        {"modalities": ["text", "audio"]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        {"tools": [{"type": "custom", "custom": {"name": "sql"}}]},
        {"tools": [WEATHER_TOOL], "tool_choice": {"type": "custom", "custom": {"name": "sql"}}},
    ],
)
def test_what_another_route_may_be_able_to_do_is_only_unsupported(body: Json) -> None:
    with pytest.raises(Unsupported):
        translated(**body)


_names = st.sampled_from(
    [
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "tool_calls",
        "function",
        "name",
        "id",
        "arguments",
    ]
)
_junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=12,
)
_fields = st.sampled_from(
    [
        "messages",
        "tools",
        "tool_choice",
        "response_format",
        "stop",
        "user",
        "n",
        "temperature",
        "output_config",
    ]
)
_junk_messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"])}, optional={"content": _junk}
    )
    | _junk,
    max_size=3,
)


@given(fields=st.dictionaries(_fields, _junk, max_size=4), messages=_junk_messages)
def test_no_body_makes_the_translation_stumble(fields: Json, messages: list[Any]) -> None:
    try:
        body = request({"messages": messages, **fields}, model="m", max_tokens=1, stream=False)
    except InvalidRequest as error:
        assert error.param  # noqa: PT017  # both ways out are right, each with its own demand
    else:
        assert refusal(body) is None


# --- The answer ---

HEAD = {"id": "msg_fake", "created": 7, "model": "claude-fake"}
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 1},
}


def answered(*content: Json, stop_reason: str | None = "end_turn") -> Json:
    return completion(fake.message(list(content), stop_reason), created=7)


def streamed(parts: list[Part]) -> list[Json]:
    """The chunks for these server-sent events."""
    translator = StreamTranslator(created=7)
    events = [event_of(part.split(b"data: ")[1], "claude") for part in parts if isinstance(part, bytes)]
    return [chunk for event in events for chunk in translator.chunks(event)]


def deltas(parts: list[Part]) -> list[Json]:
    """What the chunks between the first and the last two say."""
    return [chunk["choices"][0]["delta"] for chunk in streamed(parts)[1:-2]]


def test_a_whole_answer() -> None:
    message = {"role": "assistant", "content": "Hello", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    assert answered(text("Hello")) == {
        **HEAD,
        "object": "chat.completion",
        "choices": [choice],
        "usage": USAGE,
    }


def test_an_answer_that_calls_a_tool() -> None:
    block = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Zürich"}}
    choice = answered(block, stop_reason="tool_use")["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [tool_call('{"city":"Zürich"}', id="t1")],
    }


def test_an_answer_that_was_thought_over() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
    secret = {"type": "redacted_thinking", "data": "xyz"}
    assert answered(thought, secret, text("Yes"))["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Yes",
        "refusal": None,
        "reasoning_content": "Hm.",
        "thinking_blocks": [thought, secret],
    }


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "length"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("never_heard_of", "never_heard_of"),
        (None, None),  # perhaps not to its end
    ],
)
def test_why_it_ended(stop_reason: str | None, finish_reason: str | None) -> None:
    assert answered(text("x"), stop_reason=stop_reason)["choices"][0]["finish_reason"] == finish_reason


@pytest.mark.parametrize(
    "data", [{}, {"content": "x"}, {"content": [7]}, {"content": [{}]}, {"content": None}]
)
def test_what_is_not_an_answer_is_refused(data: Json) -> None:
    with pytest.raises(msgspec.ValidationError):
        completion(data, created=7)


def test_a_stream_begins_with_the_role_and_ends_with_reason_and_usage() -> None:
    head = {**HEAD, "object": "chat.completion.chunk"}

    def chunk(delta: Json, finish_reason: str | None = None) -> Json:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}

    assert streamed(fake.frames("Hel", "lo")) == [
        chunk({"role": "assistant", "content": None}),
        chunk({"content": ""}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk({}, "stop"),
        {**head, "choices": [], "usage": USAGE},
    ]


def test_arguments_are_streamed_by_tool_call() -> None:
    def use(index: int, id: str, *parts: str, **start: Any) -> list[Part]:  # noqa: A002  # their name
        block = {"type": "tool_use", "id": id, "name": "weather", "input": {}, **start}
        grown = [{"type": "input_json_delta", "partial_json": part} for part in parts]
        return fake.block_frames(index, block, *grown)

    words = fake.block_frames(0, text("Look:"))
    first = use(1, "a", "", '{"ci', 'ty":1}')
    assert deltas(fake.answer(*words, *first, *use(2, "b", ""), *use(3, "c", input={"d": 1}))) == [
        {"content": "Look:"},
        {"tool_calls": [{"index": 0, **tool_call("", id="a")}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"ci'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": 'ty":1}'}}]},
        {"tool_calls": [{"index": 1, **tool_call("", id="b")}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {"tool_calls": [{"index": 2, **tool_call("", id="c")}]},
        {"tool_calls": [{"index": 2, "function": {"arguments": '{"d":1}'}}]},
    ]


def test_thinking_is_streamed_and_signed_at_its_end() -> None:
    thinking = fake.block_frames(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "H"},
        {"type": "thinking_delta", "thinking": "m."},
        {"type": "signature_delta", "signature": "sig"},
    )
    secret = fake.block_frames(1, {"type": "redacted_thinking", "data": "xyz"})
    unsigned = fake.block_frames(2, {"type": "thinking", "thinking": "So."})
    assert deltas(fake.answer(*thinking, *secret, *unsigned)) == [
        {"reasoning_content": "H"},
        {"reasoning_content": "m."},
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "sig"}]},
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "xyz"}]},
        {"reasoning_content": "So."},
        {
            "message_blocks": [
                {"index": 0, "type": "thinking"},
                {"index": 1, "type": "redacted_thinking"},
                {"index": 2, "type": "thinking", "length": 3},
            ]
        },
    ]


def test_events_and_deltas_that_are_yet_to_be_invented_are_passed_over() -> None:
    novelty = fake.block_frames(0, text("Hm"), {"type": "hologram_delta", "text": "?"})
    assert deltas(fake.answer(*novelty, fake.event("fanfare", volume=11))) == [{"content": "Hm"}]


def test_what_chat_has_no_field_for_is_told_beside_it() -> None:
    search = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}
    asked = fake.block_frames(0, search, {"type": "input_json_delta", "partial_json": '{"q":1}'})
    found = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [{"title": None}]}
    cited = fake.block_frames(
        2,
        text(""),
        {"type": "citations_delta", "citation": {"url": "a"}},
        {"type": "text_delta", "text": "Yes"},
    )
    assert deltas(fake.answer(*asked, *fake.block_frames(1, found), *cited)) == [
        {"message_blocks": [{**search, "index": 0}]},
        {"message_blocks": [{"partial_json": '{"q":1}', "index": 0}]},
        {"message_blocks": [{**found, "index": 1}]},
        {"content": ""},
        {"message_blocks": [{"type": "text", "index": 2, "citations": [{"url": "a"}]}]},
        {"content": "Yes"},
        {"message_blocks": [{"index": 2, "type": "text", "length": 3}]},
    ]


def test_the_newest_counts_are_the_right_ones() -> None:
    *_, usage = streamed(
        [
            fake.event("message_start", message=fake.message([], None)),
            fake.event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 5}),
            fake.event(
                "message_delta",
                delta={"stop_reason": "max_tokens"},
                usage={"output_tokens": 8, "input_tokens": 50},
            ),
            fake.event("message_stop"),
        ]
    )
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (54, 8)


@pytest.mark.parametrize(
    "part",
    [
        fake.event("content_block_start", index=0, content_block=text("x")),
        fake.event("content_block_delta", index=3, delta={"type": "text_delta", "text": "x"}),
        fake.event("message_stop"),
    ],
)
def test_events_that_make_no_sense_here_are_refused(part: bytes) -> None:
    with pytest.raises(ValueError, match=r"block|before"):
        streamed([part])


_words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
_texts = st.builds(lambda parts: ("text", parts), st.lists(_words, min_size=1, max_size=3))
_thoughts = st.builds(lambda parts: ("thinking", parts), st.lists(_words, min_size=1, max_size=3))
_inputs = st.dictionaries(_words, st.integers() | _words | st.none(), max_size=2)
_uses = st.builds(lambda arguments: ("tool_use", arguments), _inputs)


def _cut(written: str) -> list[str]:
    half = len(written) // 2
    return [written[:half], written[half:]]


@given(blocks=st.lists(_texts | _thoughts | _uses, max_size=6))
def test_the_stream_of_an_answer_adds_up_to_the_whole(blocks: list[tuple[str, Any]]) -> None:
    whole: list[Json] = []
    parts: list[Part] = []
    for index, (kind, value) in enumerate(blocks):
        if kind == "tool_use":
            block = {"type": kind, "id": f"t{index}", "name": "f"}
            written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            grown = [{"type": "input_json_delta", "partial_json": piece} for piece in _cut(written)]
            whole.append({**block, "input": value})
            parts += fake.block_frames(index, {**block, "input": {}}, *grown)
        else:
            signature = {"signature": f"s{index}"} if kind == "thinking" else {}
            grown = [{"type": f"{kind}_delta", kind: piece} for piece in value]
            grown += [{"type": "signature_delta", **signature}] if signature else []
            whole.append({"type": kind, kind: "".join(value), **signature})
            parts += fake.block_frames(index, {"type": kind, kind: ""}, *grown)
    joined = assemble(streamed(fake.answer(*parts)))
    listed = joined["choices"][0]["message"].get("message_blocks", [])
    listed.sort(key=lambda one: one["index"])
    assert joined == completion(fake.message(whole), created=7)
