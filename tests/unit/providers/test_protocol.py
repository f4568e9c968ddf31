"""What providers write as JSON, and which chunks begin an answer: until one does, another provider may be asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.errors import ProviderError
from dub5.providers.call import has_answer
from dub5.providers.lenient_json import mended
from dub5.providers.protocol import Payload, decode, parsed
from tests.turns import counted_turns


def chunk(delta: Any, **choice: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, **choice}]}


CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}

NOTHING = {
    "role": chunk({"role": "assistant"}),
    "role and empty content": chunk({"role": "assistant", "content": "", "refusal": None}),
    "null content": chunk({"role": "assistant", "content": None}),
    "empty texts": chunk({"content": "", "reasoning_content": "", "reasoning": None, "refusal": ""}),
    "no delta": {"choices": [{"index": 0}]},
    "null delta": chunk(None),
    "text for a delta": chunk("hello"),
    "no choices": {"id": "c", "usage": {"prompt_tokens": 1}},
    "null choices": {"choices": None},
    "choices of another type": {"choices": "none"},
    "a choice of another type": {"choices": [None, 1, "x"]},
    "usage": {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}},
    "Azure's verdict on the prompt": {
        "choices": [],
        "prompt_filter_results": [
            {"prompt_index": 0, "content_filter_results": {"hate": {"severity": "safe"}}}
        ],
    },
    "Azure's verdict on the choice": chunk(
        {"role": "assistant", "content": ""}, content_filter_results={"hate": {"severity": "safe"}}
    ),
    "padding": {
        **chunk({"role": "assistant"}),
        "obfuscation": "xyz",
        "system_fingerprint": "fp",
        "model": "m",
    },
    "empty lists": chunk({"tool_calls": [], "thinking_blocks": [], "annotations": [], "content": []}),
    "a call of nothing": chunk(
        {"tool_calls": [{"index": 0, "type": "function", "function": {"arguments": ""}}]}
    ),
    "no function call": chunk({"function_call": None}),
    "an id of the audio": chunk({"audio": {"id": "audio_1", "transcript": ""}}),
    "an empty part": chunk({"content": [{"type": "text", "text": ""}]}),
    "an empty block": chunk({"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": ""}]}),
    "a name": chunk({"role": "assistant", "name": "assistant", "id": "msg_1", "type": "message"}),
    "empty finish reason": chunk({}, finish_reason=""),
    "null in words": chunk({}, finish_reason="null"),
    "an unknown finish reason": chunk({}, finish_reason="error"),
    "a list of finish reasons": chunk({}, finish_reason=["stop"]),
}

SOMETHING = {
    "content": chunk({"content": "h"}),
    "a blank is a token": chunk({"content": "\n"}),
    "with the role": chunk({"role": "assistant", "content": "h"}),
    "reasoning_content": chunk({"reasoning_content": "h"}),
    "reasoning": chunk({"reasoning": "h", "content": ""}),
    "refusal": chunk({"refusal": "No."}),
    "a text that nobody knows": chunk({"thoughts": "h"}),
    "parts": chunk({"content": [{"type": "text", "text": "h"}]}),
    "reasoning details": chunk({"reasoning_details": [{"type": "reasoning.text", "text": "h"}]}),
    "tool call": chunk({"tool_calls": [CALL]}),
    "the id of a call": chunk({"tool_calls": [{"index": 0, "id": "call_1"}]}),
    "custom call": chunk(
        {"tool_calls": [{"id": "call_1", "type": "custom", "custom": {"name": "f", "input": ""}}]}
    ),
    "function call": chunk({"function_call": {"name": "f", "arguments": ""}}),
    "audio": chunk({"audio": {"id": "audio_1", "data": "AAAA"}}),
    "transcript": chunk({"audio": {"transcript": "h"}}),
    "thinking": chunk({"thinking_blocks": [{"type": "thinking", "thinking": "h", "signature": "s"}]}),
    "redacted thinking": chunk({"thinking_blocks": [{"type": "redacted_thinking", "data": "x"}]}),
    "a whole message": {"choices": [{"index": 0, "message": {"role": "assistant", "content": "h"}}]},
    "the second choice": {"choices": [{"index": 0, "delta": {}}, {"index": 1, "delta": {"content": "h"}}]},
    **{
        f"end by {reason}": chunk({}, finish_reason=reason)
        for reason in ("stop", "length", "tool_calls", "function_call", "content_filter")
    },
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_preamble_has_nothing_of_the_answer(name: str) -> None:
    assert not has_answer(NOTHING[name])


@pytest.mark.parametrize("name", SOMETHING)
def test_an_answer_begins_with_its_first_text_call_or_end(name: str) -> None:
    assert has_answer(SOMETHING[name])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "message", "tool_calls", "finish_reason", "content", "x"]),
            inner,
            max_size=4,
        )
    ),
)


@given(st.dictionaries(st.sampled_from(["choices", "usage", "error"]), json_values))
def test_no_chunk_is_too_odd_to_be_judged(odd: dict[str, Any]) -> None:
    assert has_answer(odd) in {True, False}


def test_neither_is_a_deep_one() -> None:
    deep: Any = "h"
    for _ in range(100_000):
        deep = [deep]
    assert has_answer(chunk({"content": deep}))


# --- JSON ---


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b'{"a":1}', {"a": 1}),
        (b' {"a":1} ', {"a": 1}),
        (rb'{"a":"x\ud83d"}', {"a": "x\ud83d"}),
        (rb'{"a":"\ude00"}', {"a": "\ude00"}),
        (rb'{"\ud83d":[1]}', {"\ud83d": [1]}),
    ],
)
def test_a_chunk_of_legal_json_goes_on_as_it_came(raw: bytes, data: Any) -> None:
    payload = Payload.parse(raw, "acme")
    assert (payload.raw, payload.data) == (raw, data)
    assert decode(payload.raw) == data


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":\n1}\r\n', {"a": 1}),
        (b'{"a":[-Infinity,Infinity,NaN]}', {"a": [-9999.0, None, None]}),
        (b'{"a":[1e999,-1e999,1.5]}', {"a": [None, None, 1.5]}),
        (b'{"a":' + b"9" * 5000 + b"}", {"a": None}),
        (b'{"a":"tab\there"}', {"a": "tab\there"}),
        (b'{"a":"bad \xff"}', {"a": "bad \ufffd"}),
        (rb'{"a":"\ud83d","b":NaN}', {"a": "\ud83d", "b": None}),
        (b'{"a":\n"' + rb"\ud83d" + b'"}', {"a": "\ud83d"}),
    ],
)
def test_what_is_no_legal_json_is_written_anew_on_one_line(raw: bytes, data: Any) -> None:
    payload = Payload.parse(raw, "acme")
    assert payload.data == data
    assert json.loads(payload.raw, parse_constant=pytest.fail) == data
    assert decode(payload.raw) == data
    assert not {b"\n", b"\r"} & {payload.raw[at : at + 1] for at in range(len(payload.raw))}


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[1]", b"7", b"null", b'"x"', b"\xff", b"[" * 10**5, b'{"a":1}{"b":2}']
)
def test_what_is_no_object_is_the_providers_failure_of_this_one_request(raw: bytes) -> None:
    for parse in (Payload.parse, Payload.parse_whole):
        with pytest.raises(ProviderError, match="acme answered with malformed JSON") as caught:
            parse(raw, "acme")
        assert caught.value.scope == "request"


def test_halves_of_a_character_have_no_place_in_a_whole_answer() -> None:
    whole = Payload.parse_whole(rb'{"a":"x\ud83d","b":"\ud83d\ude00"}', "acme")
    assert whole.data == {"a": "x\ufffd", "b": "😀"}
    assert json.loads(whole.raw.decode()) == whole.data
    assert Payload.of_whole({"a": "\ud83d" + "\ude00"}).data == {"a": "😀"}


@given(json_values)
def test_mending_leaves_what_is_whole(value: Any) -> None:
    written = json.dumps(value)
    assert json.dumps(mended(json.loads(written))) == written


def completion(content: str, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}], **fields}


@pytest.mark.parametrize("indent", [None, 1])
async def test_a_large_answer_is_read_while_others_run(indent: int | None) -> None:
    data = completion("said \n 😀" * 400_000, logprobs=[-0.5] * 100_000)
    raw = json.dumps(data, indent=indent).encode()
    async with counted_turns() as turns:
        payload = await parsed(raw, "openai")
    assert turns.count > 10
    assert payload.data == data == json.loads(payload.raw)
    assert b"\n" not in payload.raw


@pytest.mark.parametrize("text", [b'"\\ud800"', b"NaN", b'"\xff"'])
async def test_a_large_answer_is_read_as_leniently_as_any(text: bytes) -> None:
    raw = json.dumps(completion("x" * 200_000))[:-1].encode() + b',"odd":' + text + b"}"
    assert await parsed(raw, "openai") == Payload.parse_whole(raw, "openai")


@pytest.mark.parametrize(
    "raw", [b"[" + b"[]," * 2_000_000 + b"1]", b"[" + b"1," * 100_000 + b"1]", b"x" * 200_000]
)
async def test_what_would_take_all_memory_or_is_no_object_is_no_answer(raw: bytes) -> None:
    with pytest.raises(ProviderError):
        await parsed(raw, "openai")
