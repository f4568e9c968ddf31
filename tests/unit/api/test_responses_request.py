"""What a Responses request means in the words of Chat Completions, and which of its fields is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from dub5.api.responses_request import chat_request, sealed
from dub5.errors import InvalidRequest, UnknownResponse
from dub5.providers.anthropic_only import for_others
from dub5.providers.protocol import Call

Json = dict[str, Any]

USER: Json = {"role": "user", "content": "hi"}
SYSTEM: Json = {"role": "system", "content": "Be brief."}
PNG = "data:image/png;base64,AAAA"
WEATHER: Json = {
    "type": "function",
    "name": "weather",
    "description": "How it is out there",
    "parameters": {"type": "object"},
    "strict": True,
}
CALL: Json = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "weather",
    "arguments": "{}",
}
CALLED: Json = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
RESULT: Json = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
FOUND: Json = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
SIGNED: Json = {"type": "thinking", "thinking": "hm", "signature": "s"}


def said(text: str) -> Json:
    """A message of the model's as its answer has it."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}


def thought(text: str, **more: Any) -> Json:
    return {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": text}], **more}


def messages(items: Any, **more: Any) -> list[Json]:
    made: list[Json] = chat_request({"model": "m", "input": items, **more})["messages"]
    return made


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ("hi", [USER]),
        ([USER], [USER]),
        ([{"type": "message", **USER}], [USER]),
        ([{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}], [USER]),
        ([{"role": "developer", "content": "Be brief."}, USER], [SYSTEM, USER]),
        ([USER, said("Hello"), USER], [USER, {"role": "assistant", "content": "Hello"}, USER]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": text} for text in "ab"]}],
            [{"role": "user", "content": [{"type": "text", "text": text} for text in "ab"]}],
        ),
        (
            [USER, CALL, RESULT],
            [USER, {"role": "assistant", "content": None, "tool_calls": [CALLED]}, FOUND],
        ),
        (
            [USER, said("Let me see"), CALL, {**CALL, "call_id": "call_2"}, RESULT],
            [
                USER,
                {
                    "role": "assistant",
                    "content": "Let me see",
                    "tool_calls": [CALLED, {**CALLED, "id": "call_2"}],
                },
                FOUND,
            ],
        ),
        (  # the results of calls have to follow them
            [USER, CALL, said("one"), said("two"), RESULT],
            [
                USER,
                {
                    "role": "assistant",
                    "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
                    "tool_calls": [CALLED],
                },
                FOUND,
            ],
        ),
        (
            [USER, said("one"), said("two")],
            [USER, {"role": "assistant", "content": "one"}, {"role": "assistant", "content": "two"}],
        ),
        (  # words of what was thought matter between a call and its result only
            [USER, thought("hm"), said("Hello"), USER, thought("so"), CALL, RESULT],
            [
                USER,
                {"role": "assistant", "content": "Hello"},
                USER,
                {"role": "assistant", "content": None, "tool_calls": [CALLED], "reasoning_content": "so"},
                FOUND,
            ],
        ),
        (
            [USER, thought("", summary=[], encrypted_content=sealed([SIGNED])), CALL, RESULT],
            [
                USER,
                {"role": "assistant", "content": None, "thinking_blocks": [SIGNED], "tool_calls": [CALLED]},
                FOUND,
            ],
        ),
        ([thought("", summary=[], encrypted_content="gAAAA of another service"), USER], [USER]),
        (
            [USER, thought("hm", content=[{"type": "reasoning_text", "text": "all of it"}]), CALL, RESULT],
            [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [CALLED],
                    "reasoning_content": "all of it",
                },
                FOUND,
            ],
        ),
        (
            [{**RESULT, "output": [{"type": "input_text", "text": "rain"}]}],
            [FOUND],
        ),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
        ),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_image", "image_url": PNG, "detail": "auto"},
                        {"type": "input_image", "image_url": PNG, "detail": "low"},
                        {"type": "input_file", "file_data": "data:,", "filename": "a.pdf"},
                        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                    ],
                }
            ],
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": PNG}},
                        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
                        {"type": "file", "file": {"file_data": "data:,", "filename": "a.pdf"}},
                        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                    ],
                }
            ],
        ),
    ],
)
def test_input_becomes_messages(items: Any, expected: list[Json]) -> None:
    assert messages(items) == expected
    assert messages(items, instructions="Be brief.") == [SYSTEM, *expected]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {}),
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, {"stream": True}),
        ({"temperature": 0.5, "top_p": 1, "user": "u"}, {"temperature": 0.5, "top_p": 1, "user": "u"}),
        ({"max_output_tokens": 9}, {"max_tokens": 9}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"text": {"verbosity": "low", "format": {"type": "text"}}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {}, "strict": True},
                }
            },
        ),
        (
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "schema": {},
                        "description": "d",
                        "strict": False,
                    }
                }
            },
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {}, "description": "d"},
                }
            },
        ),
        ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
        ({"include": ["reasoning.encrypted_content", "web_search_call.results"]}, {}),
        ({"metadata": {"a": "b"}, "store": True, "truncation": "auto", "background": False}, {}),
        ({"service_tier": "auto"}, {}),
        ({"service_tier": "flex"}, {"service_tier": "flex"}),
        (
            {"prompt_cache_key": "k", "safety_identifier": "s", "top_k": 4, "x_new": {"a": 1}},
            {"prompt_cache_key": "k", "safety_identifier": "s", "top_k": 4, "x_new": {"a": 1}},
        ),
        ({"conversation": None, "prompt": None, "tools": None, "n": 1}, {}),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": False, "max_tool_calls": 3}, {}),
    ],
)
def test_fields_have_their_names_in_a_chat(asked: Json, expected: Json) -> None:
    made = chat_request({"model": "m", "input": "hi", **asked})
    assert made == {"model": "m", "messages": [USER], **expected}


FUNCTION: Json = {
    "type": "function",
    "function": {name: value for name, value in WEATHER.items() if name != "type"},
}
OTHER: Json = {"type": "function", "name": "other", "parameters": None, "strict": None}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {}),
        ({"tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        (
            {"tool_choice": "none", "parallel_tool_calls": False},
            {"tool_choice": "none", "parallel_tool_calls": False},
        ),
        (
            {"tool_choice": {"type": "function", "name": "weather"}},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
    ],
)
def test_tools_are_functions(asked: Json, expected: Json) -> None:
    made = chat_request({"model": "m", "input": "hi", "tools": [WEATHER, OTHER], **asked})
    tools = [FUNCTION, {"type": "function", "function": {"name": "other"}}]
    assert made == {"model": "m", "messages": [USER], "tools": tools, **expected}


@pytest.mark.parametrize(("mode", "expected"), [("auto", {}), ("required", {"tool_choice": "required"})])
def test_only_tools_that_are_allowed_are_given(mode: str, expected: Json) -> None:
    choice = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "weather"}]}
    made = chat_request({"model": "m", "input": "hi", "tools": [OTHER, WEATHER], "tool_choice": choice})
    assert made == {"model": "m", "messages": [USER], "tools": [FUNCTION], **expected}


def items(*parts: Any) -> Json:
    return {"input": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": ["hi"]}, "input[0]"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [USER, {"type": 3}]}, "input[1].type"),
        ({"input": [USER, {"type": "local_shell_call"}]}, "input[1].type"),
        ({"input": [USER, {"type": "item_reference"}]}, "input[1].id"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        (items("hi"), "input[0].content[0]"),
        (items({"type": "input_text", "text": "a"}, {"type": "input_text"}), "input[0].content[1].text"),
        (items({"type": "input_image"}), "input[0].content[0].image_url"),
        (items({"type": "input_image", "file_id": "file_1"}), "input[0].content[0].file_id"),
        (items({"type": "input_image", "image_url": {"url": PNG}}), "input[0].content[0].image_url"),
        (items({"type": "input_file", "file_id": "file_1"}), "input[0].content[0].file_id"),
        (items({"type": "input_file", "file_url": "https://x"}), "input[0].content[0].file_url"),
        (items({"type": "input_file"}), "input[0].content[0].file_data"),
        (items({"type": "input_video"}), "input[0].content[0].type"),
        ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "x"}]}, "input[0].output"),
        ({"input": [thought("hm", encrypted_content="dub5-1.!")]}, "input[0].encrypted_content"),
        ({"input": [thought("hm", encrypted_content="dub5-1.W10x")]}, "input[0].encrypted_content"),
        ({"input": [thought("hm", encrypted_content="dub5-1.WzFd")]}, "input[0].encrypted_content"),
        ({"input": [thought("hm", encrypted_content=5)]}, "input[0].encrypted_content"),
        ({"input": [{"type": "reasoning", "summary": [{"text": 5}]}]}, "input[0].summary[0].text"),
        ({"input": [thought("hm")]}, "input"),
        ({"instructions": ["a"]}, "instructions"),
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 1.5}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": ["everything"]}, "include[0]"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"truncation": "middle"}, "truncation"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [WEATHER, {"type": "custom", "name": "x"}]}, "tools[1].type"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**WEATHER, "parameters": "x"}]}, "tools[0].parameters"),
        ({"tools": [WEATHER], "tool_choice": "weather"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": {}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "all"}}, "tool_choice.mode"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "tools": [{"name": "x"}]}},
            "tool_choice.tools[0].name",
        ),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"n": 2}, "n"),
        ({"messages": [USER]}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(asked: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat_request({"model": "m", "input": "hi", **asked})
    assert caught.value.param == param
    assert param.split("[...]", maxsplit=1)[0] in caught.value.message


def test_a_missing_field_is_named() -> None:
    for missing in ("model", "input"):
        with pytest.raises(InvalidRequest) as caught:
            chat_request({name: "x" for name in ("model", "input") if name != missing})
        assert caught.value.param == missing


def test_pictures_that_a_tool_gave_follow_the_last_result() -> None:
    """Chat knows them in messages of the user alone."""
    output = [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": PNG}]
    items = [CALL, CALL | {"call_id": "call_2"}, RESULT | {"output": output}, RESULT | {"call_id": "call_2"}]
    asked: Json = {"model": "m", "input": [*items, said("A picture.")]}
    spelled = ("responses", asked)
    call = Call(model="m", body=chat_request(asked), stream=False, spelled=spelled)
    assert for_others(call, reasons=False)["messages"] == [
        {"role": "assistant", "content": None, "tool_calls": [CALLED, CALLED | {"id": "call_2"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "see"}]},
        FOUND | {"tool_call_id": "call_2"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
        {"role": "assistant", "content": "A picture."},
    ]


def test_an_item_is_referred_to_by_its_id() -> None:
    body: Json = {"model": "m", "input": [USER, {"type": "item_reference", "id": "fc_1"}, RESULT]}
    called: Json = {"role": "assistant", "content": None, "tool_calls": [CALLED]}
    assert chat_request(body, known={"fc_1": CALL})["messages"] == [USER, called, FOUND]
    with pytest.raises(UnknownResponse) as caught:
        chat_request(body)
    assert caught.value.param == "input[1].id"


def test_what_was_said_before_comes_first() -> None:
    body = {"model": "m", "input": "And now?", "instructions": "Be brief."}
    made = chat_request(body, before=[USER, said("Hello")])
    said_before = [USER, {"role": "assistant", "content": "Hello"}]
    assert made["messages"] == [SYSTEM, *said_before, {"role": "user", "content": "And now?"}]
