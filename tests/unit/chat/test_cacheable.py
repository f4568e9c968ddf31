"""Which requests may use the cache, and which answers may be stored."""

from __future__ import annotations

from typing import Any

import pytest

from dub5.cache.freshness import Directives
from dub5.chat.answer import is_whole_answer
from dub5.chat.question import why_not_cached
from dub5.settings.model import CacheClass

USER = {"role": "user", "content": "x"}
TOOL = {"role": "tool", "tool_call_id": "t", "content": "42"}


@pytest.mark.parametrize(
    ("fields", "cache_class", "asked", "reason"),
    [
        ({}, CacheClass(), Directives(), None),
        ({"temperature": None, "n": None}, CacheClass(), Directives(), None),
        ({"temperature": 1.0, "n": 1}, CacheClass(), Directives(), None),
        ({"temperature": 1.1}, CacheClass(), Directives(), "temperature"),
        ({"temperature": 1.1}, CacheClass(max_temperature=2), Directives(), None),
        ({"n": 2}, CacheClass(), Directives(), "n"),
        ({}, CacheClass(cacheable="never"), Directives(), "class"),
        ({}, CacheClass(), Directives(no_store=True), "no-store"),
        ({}, CacheClass(), Directives(no_cache=True), None),
        ({"messages": [USER, TOOL]}, CacheClass(), Directives(), "tool-results"),
        ({"messages": [USER, TOOL]}, CacheClass(tool_results=True), Directives(), None),
    ],
)
def test_why_a_request_bypasses_the_cache(
    fields: dict[str, Any], cache_class: CacheClass, asked: Directives, reason: str | None
) -> None:
    assert why_not_cached({"messages": [USER], **fields}, cache_class, asked) == reason


def answer(reason: Any = "stop", usage: Any = None, **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    return {"choices": [choice], "usage": usage}


def calling(*calls: Any, reason: str = "tool_calls", **message: Any) -> dict[str, Any]:
    return answer(reason, tool_calls=list(calls), **message)


def function(arguments: Any = "{}", name: Any = "f", **fields: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}, **fields}


CUSTOM = {"id": "call_2", "type": "custom", "custom": {"name": "f", "input": "not JSON"}}
LIMIT = {"max_tokens": 5}
SAID = {"content": "Hello"}


@pytest.mark.parametrize(
    ("completion", "fields"),
    [
        (answer(**SAID), {}),
        (answer(**SAID, refusal=None), {}),
        (answer(**SAID, refusal=""), {}),
        (answer("length", **SAID), LIMIT),
        (answer("length", **SAID), {"max_completion_tokens": 5}),
        (answer("length", {"completion_tokens": 5}, **SAID), LIMIT),
        (answer("length", {"completion_tokens": 5}, **SAID), {**LIMIT, "max_completion_tokens": 7}),
        (answer("length", {"completion_tokens": "4"}, **SAID), LIMIT),
        (answer("length", "none", **SAID), LIMIT),
        (answer(content=[{"type": "text", "text": "Hello"}]), {}),
        (answer(content=None, audio={"id": "a", "data": "AAAA"}), {}),
        (answer(content="", images=[{"type": "image_url"}]), {}),
        (calling(function()), {}),
        (calling(function(), content=None), {}),
        (calling(function(), CUSTOM, content=""), {}),
        (calling(function(), reason="stop"), {}),
        (calling(function('{"a"'), reason="length"), LIMIT),
        (answer("function_call", function_call={"name": "f", "arguments": "{}"}), {}),
    ],
)
def test_whole_answers_may_be_stored(completion: dict[str, Any], fields: dict[str, Any]) -> None:
    assert is_whole_answer(completion, fields)


@pytest.mark.parametrize(
    ("completion", "fields"),
    [
        pytest.param({}, {}, id="no choices"),
        pytest.param({"choices": []}, {}, id="no choice"),
        pytest.param({"choices": [None]}, {}, id="a choice that is none"),
        pytest.param({"choices": [{"finish_reason": "stop"}]}, {}, id="no message"),
        pytest.param(answer(**SAID) | {"choices": [*answer(**SAID)["choices"], {}]}, {}, id="half of the choices"),
        pytest.param(answer("length", **SAID), {}, id="another's limit"),
        pytest.param(answer("length", **SAID), {"max_tokens": None}, id="no limit"),
        pytest.param(answer("length", {"completion_tokens": 4}, **SAID), LIMIT, id="cut before the limit"),
        pytest.param(answer("content_filter", **SAID), LIMIT, id="filtered"),
        pytest.param(answer("eos", **SAID), {}, id="an unknown end"),
        pytest.param(answer("", **SAID), {}, id="an empty end"),
        pytest.param(answer(None, **SAID), {}, id="no end"),
        pytest.param(answer(["stop"], **SAID), {}, id="a list of ends"),
        pytest.param(answer({"a": 1}, **SAID), {}, id="an object for an end"),
        pytest.param(answer(), {}, id="no content"),
        pytest.param(answer(content=None), {}, id="null"),
        pytest.param(answer(content=""), {}, id="empty"),
        pytest.param(answer(content=" \n"), {}, id="blank"),
        pytest.param(answer(content="", reasoning_content="Hm."), {}, id="only thought"),
        pytest.param(answer(content=5), {}, id="a number"),
        pytest.param(answer(content={"text": "Hello"}), {}, id="an object"),
        pytest.param(answer(content=[]), {}, id="no parts"),
        pytest.param(answer(content=[{"type": "text", "text": ""}]), {}, id="empty parts"),
        pytest.param(answer(content=["Hello", 5]), {}, id="parts that are none"),
        pytest.param(answer(content="", refusal="No."), {}, id="a refusal"),
        pytest.param(answer(**SAID, refusal="No."), {}, id="a refusal beside a text"),
        pytest.param(answer("tool_calls", **SAID), {}, id="calls that are missing"),
        pytest.param(calling(content=""), {}, id="no calls"),
        pytest.param(calling(None), {}, id="null for a call"),
        pytest.param(answer("tool_calls", tool_calls="f"), {}, id="a text for calls"),
        pytest.param(calling(function(id="")), {}, id="an empty id"),
        pytest.param(calling(function(id=None)), {}, id="no id"),
        pytest.param(calling(function(), function()), {}, id="one id for two"),
        pytest.param(calling(function(name="")), {}, id="an empty name"),
        pytest.param(calling(function(name=None)), {}, id="no name"),
        pytest.param(calling({"id": "call_1"}), {}, id="no function"),
        pytest.param(calling(function('{"a":1}{"b":2}')), {}, id="arguments of two"),
        pytest.param(calling(function('{"a"')), {}, id="half of the arguments"),
        pytest.param(calling(function("")), {}, id="empty arguments"),
        pytest.param(calling(function({})), {}, id="arguments that are no text"),
        pytest.param(calling(function('{"a"', name=""), reason="length"), LIMIT, id="cut, without a name"),
        pytest.param(calling({**CUSTOM, "custom": {"name": "", "input": ""}}), {}, id="custom, without a name"),
        pytest.param(answer("function_call", function_call={"arguments": "{}"}), {}, id="function without a name"),
        pytest.param(
            answer("function_call", function_call={"name": "f", "arguments": "x"}), {}, id="function, malformed"
        ),
    ],
)  # fmt: skip
def test_nothing_else_is_stored(completion: dict[str, Any], fields: dict[str, Any]) -> None:
    assert not is_whole_answer(completion, fields)
