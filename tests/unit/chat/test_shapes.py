"""The law of one entry and two shapes, on generated completions and on the awkward ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat._completions import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from dub5.api.chat import events_of
from dub5.chat.answer import Usage, usage_in
from dub5.providers.chunks import assemble, split

text = st.text(max_size=60)
unknown_name = st.text("abcdefgxyz_", min_size=3, max_size=12).map(lambda name: "x_" + name)
scalar = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), text)
plain = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)
)
extras = st.dictionaries(unknown_name, plain, max_size=3)
tool_call = st.fixed_dictionaries(
    {
        "id": st.text(min_size=1, max_size=12),
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.text(min_size=1, max_size=10), "arguments": text}),
    }
)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": draw(st.none() | text),
        "refusal": draw(st.none() | text),
    }
    if draw(st.booleans()):
        message["reasoning_content"] = draw(st.none() | text)
    if draw(st.booleans()):
        message["tool_calls"] = draw(st.lists(tool_call, max_size=3))
    return {**message, **draw(extras)}


@st.composite
def completions(draw: st.DrawFn) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": draw(messages()),
            "logprobs": None,
            "finish_reason": draw(st.sampled_from(["stop", "length", "tool_calls"])),
        }
        | draw(extras)
        for index in range(draw(st.integers(1, 3)))
    ]
    completion = {
        "id": draw(st.text(min_size=1, max_size=20)),
        "object": "chat.completion",
        "created": draw(st.integers(0, 2**40)),
        "model": draw(st.text(min_size=1, max_size=20)),
        "choices": choices,
        **draw(extras),
    }
    if draw(st.booleans()):
        completion["usage"] = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, **draw(extras)}
    return completion


@given(completions())
def test_assembling_a_split_completion_gives_it_back(completion: dict[str, Any]) -> None:
    assert assemble(json.loads(json.dumps(list(split(completion, include_usage=True))))) == completion


@given(completions())
def test_usage_is_left_out_where_it_was_not_asked_for(completion: dict[str, Any]) -> None:
    chunks = list(split(completion, include_usage=False))
    assert all("usage" not in chunk for chunk in chunks)
    assert assemble(chunks) == {name: value for name, value in completion.items() if name != "usage"}


def _as_the_official_client_sees_it(completion: dict[str, Any]) -> dict[str, Any]:
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in split(completion, include_usage=True):
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    return state.get_final_completion().model_dump(exclude_none=True)


def test_the_official_client_accumulates_the_chunks_to_the_same_message() -> None:
    completion = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": "Let me look, naïvely: 東京の天気 🌦 " * 5,
                    "tool_calls": [
                        {
                            "id": "a",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city":"東京"}'},
                        },
                        {"id": "b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
                    ],
                },
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    expected = ChatCompletion.model_validate(completion).model_dump(exclude_none=True)
    seen = _as_the_official_client_sees_it(completion)
    for call in seen["choices"][0]["message"]["tool_calls"]:
        call.pop("index", None)  # the client keeps the chunks' index
        call["function"].pop("parsed_arguments", None)
    assert seen == expected


def test_servers_that_repeat_role_and_id_in_each_chunk_are_understood() -> None:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {
            "id": "c",
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }

    call = {"index": 0, "id": "t", "type": "function"}
    whole = assemble(
        [
            chunk(
                {
                    "role": "assistant",
                    "tool_calls": [{**call, "function": {"name": "f", "arguments": '{"a"'}}],
                }
            ),
            chunk({"role": "assistant", "tool_calls": [{**call, "function": {"arguments": ":1}"}}]}),
            chunk({"role": "assistant", "content": None}, "tool_calls"),
        ]
    )
    assert whole["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
    }
    assert whole["choices"][0]["finish_reason"] == "tool_calls"


def test_logprobs_are_appended() -> None:
    def chunk(token: str) -> dict[str, Any]:
        return {
            "choices": [
                {"index": 0, "delta": {"content": token}, "logprobs": {"content": [{"token": token}]}}
            ]
        }

    choice = assemble([chunk("a"), chunk("b")])["choices"][0]
    assert choice["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}


def test_interleaved_tool_calls_are_joined_by_index_and_ordered() -> None:
    def part(index: int, arguments: str) -> dict[str, Any]:
        return {
            "choices": [
                {
                    "index": 0,
                    "delta": {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]},
                }
            ]
        }

    calls = assemble([part(1, "b1"), part(0, "a1"), part(1, "b2"), part(0, "a2")])["choices"][0]["message"][
        "tool_calls"
    ]
    assert [call["function"]["arguments"] for call in calls] == ["a1a2", "b1b2"]


def test_a_long_answer_is_sent_in_pieces_of_whole_words() -> None:
    words = "The quick brown fox jumps over the lazy dog, again and again and again."
    completion = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": "stop"}]
    }
    pieces = [chunk["choices"][0]["delta"].get("content") for chunk in split(completion, include_usage=False)]
    said = [piece for piece in pieces if piece]
    assert len(said) > 2
    assert "".join(said) == words
    assert all(piece.endswith((" ", ".")) for piece in said)


def test_events_hold_one_json_line_each() -> None:
    body = json.dumps(
        {
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "a\nb"}, "finish_reason": "stop"}
            ]
        }
    )
    events = events_of(body.encode(), include_usage=True).split(b"\n\n")
    assert events.pop() == b""
    assert all(json.loads(event.removeprefix(b"data: ")) for event in events)


def test_a_long_text_comes_in_no_more_than_some_thousand_events() -> None:
    completion = {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "word " * 200_000, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ]
    }
    chunks = list(split(completion, include_usage=False))
    assert 1000 < len(chunks) < 3000
    assert assemble(chunks)["choices"] == completion["choices"]


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 5}, Usage(3, 5)),
        ({"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}, Usage(3, 5)),
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}, Usage(32, 103)),  # it thought
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 3}, Usage(32, 9)),
        ({"total_tokens": 8}, Usage()),
        (None, Usage()),
        ("many", Usage()),
        ({"prompt_tokens": -1, "completion_tokens": 1e30}, Usage()),
    ],
)
def test_tokens_of_a_whole_answer_are_read_without_the_rest(usage: Any, read: Usage) -> None:
    assert usage_in(json.dumps({"choices": [{"index": 0}], "usage": usage}).encode()) == read
    assert usage_in(b'{"choices":[]}') == Usage()


def said_by(events: bytes, field: str) -> list[str]:
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events.split(b"\n\n") if event]
    deltas = [each["choices"][0]["delta"].get(field) for each in chunks if each["choices"]]
    return [delta for delta in deltas if delta]


@pytest.mark.parametrize("field", ["content", "reasoning_content", "refusal"])
@pytest.mark.parametrize(
    "text",
    [
        "The sky is blue, since air scatters what is of short wavelength more than the rest.",
        "finish_reason",  # a name that stands in each chunk
        '{"content":"finish_reason"}, "delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n',
        "\n \t",
        ' a\u2028b\x85c\\"d ',
        "空は青い。" * 20,
        "👩‍👩‍👧 " * 20,
        "x",
    ],
)
def test_a_stored_answer_is_replayed_in_parts_like_tokens(text: str, field: str) -> None:
    completion = {
        "id": "x",
        "model": text,
        "choices": [
            {"index": 0, "message": {"role": "assistant", field: text}, "finish_reason": "stop"},
        ],
    }
    parts = said_by(events_of(json.dumps(completion).encode(), include_usage=False), field)
    assert "".join(parts) == text
    assert len(parts) >= len(text.split()) or not text.strip()
    assert all(len(part.strip()) <= 6 for part in parts)


@pytest.mark.parametrize("count", [1, 100])
def test_a_long_answer_is_replayed_in_some_thousand_events_at_most(count: int) -> None:
    text = "word " * (200_000 // count)
    message = {"role": "assistant", "content": text}
    choices = [{"index": index, "message": message, "finish_reason": "stop"} for index in range(count)]
    parts = said_by(events_of(json.dumps({"choices": choices}).encode(), include_usage=False), "content")
    assert "".join(parts) == text * count
    assert 1000 <= len(parts) <= 2000
