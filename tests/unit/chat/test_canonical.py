"""One question in several spellings has one key; what may be another question has another."""

from __future__ import annotations

from typing import Any

import pytest

from dub5.chat.question import answer_key, answer_key_in_steps
from dub5.json_steps import at_once

PARTS: dict[str, Any] = {"scope": ("tenant", "a"), "personality_revision": "", "model_revision": "m"}


def both(fields: dict[str, Any]) -> str:
    key = answer_key(fields, **PARTS)
    assert at_once(answer_key_in_steps(fields, **PARTS)) == key
    return key


def said(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": list(messages), **fields}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def calling(arguments: str) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


TEXT = {"type": "text", "text": "hi"}
PICTURE = {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
MARK = {"cache_control": {"type": "ephemeral"}}

SAME = [
    (said(user("hi")), said(user([TEXT]))),
    (said(user("hi")), said(user([TEXT | MARK]), cache_control=MARK["cache_control"])),
    (
        said({"role": "system", "content": "s"}, user("hi")),
        said({"role": "developer", "content": "s"}, user("hi")),
    ),
    (said(user("hi"), max_tokens=9), said(user("hi"), max_completion_tokens=9)),
    (said(user("hi"), max_tokens=9), said(user("hi"), max_tokens=9, max_completion_tokens=9)),
    (said(user("hi"), stop="x"), said(user("hi"), stop=["x"])),
    (
        said(user("hi")),
        said(user("hi"), n=1, stop=[], tools=[], parallel_tool_calls=True, response_format={"type": "text"}),
    ),
    (said(user("hi"), tools=[TOOL]), said(user("hi"), tools=[TOOL | MARK], tool_choice="auto")),
    (
        said(user("hi"), tools=[TOOL]),
        said(
            user("hi"),
            tools=[{**TOOL, "function": {**TOOL["function"], "strict": False, "description": None}}],
        ),
    ),
    (
        said(user([TEXT, PICTURE])),
        said(user([TEXT, {**PICTURE, "image_url": {"url": "https://a.example/b.png", "detail": "auto"}}])),
    ),
    (said(calling('{"a": 1.0,\n "b":[2]}')), said(calling('{"b":[2],"a":1}') | {"refusal": None})),
]

DIFFERENT = [
    (said(user("hi")), said(user([TEXT, TEXT]))),
    (said(user("hi")), said({"role": "assistant", "content": "hi"})),
    (
        said(user("hi"), {"role": "developer", "content": "s"}),
        said(user("hi"), {"role": "system", "content": "s"}),
    ),
    (said(user("hi"), max_tokens=9), said(user("hi"))),
    (said(user("hi"), max_tokens=9), said(user("hi"), max_tokens=9, max_completion_tokens=8)),
    (said(user("hi"), temperature=1), said(user("hi"))),
    (said(user("hi"), tools=[TOOL]), said(user("hi"), tools=[TOOL], tool_choice="none")),
    (said(user("hi"), logprobs=True), said(user("hi"))),
    (said(user([TEXT, PICTURE])), said(user([TEXT]))),
    (said(calling('{"a": 1}')), said(calling('{"a": 2}'))),
    (said(calling('{"a": 1')), said(calling('{"a": 1}'))),
    (said(calling("")), said(calling("{}"))),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_question_have_one_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert both(one) == both(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_may_be_another_question_has_another_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert both(one) != both(other)


@pytest.mark.parametrize("odd", [7, "hi", {}, [7, None, [], {"role": []}], [{"content": [None, 3]}]])
def test_a_key_takes_whatever_stands_in_the_place_of_messages(odd: object) -> None:
    assert both({"messages": odd}) != both({"messages": "something else"})


def test_nothing_of_the_request_itself_is_changed() -> None:
    fields = said(
        {"role": "developer", "content": [TEXT | MARK]}, calling('{"a": 1.0}'), tools=[TOOL | MARK], n=1
    )
    before = repr(fields)
    both(fields)
    assert repr(fields) == before
