"""A bad body is refused with the name of what is wrong; a good one is kept as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dub5.chat.request import Translation, most_tokens, parse, read
from dub5.errors import InvalidRequest
from dub5.json_steps import LARGE, MAX_DEPTH
from dub5.providers.protocol import Json

GOOD: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def param_of(body: bytes) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert caught.value.message
    return caught.value.param


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 10**400}, "n"),
        ({"best_of": True}, "best_of"),
        ({"best_of": 129}, "best_of"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_tokens": int("9" * 19)}, "max_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"max_tokens": 1e300}, "max_tokens"),
        ({"max_completion_tokens": 10**25}, "max_completion_tokens"),
        ({"min_tokens": 10**400}, "min_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10**400}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": True}}, "thinking.budget_tokens"),
        ({"stop": [1]}, "stop[0]"),
        ({"tools": {}}, "tools"),
        ({"response_format": "json"}, "response_format"),
        ({"user": 1}, "user"),
        ({"x": nested(MAX_DEPTH + 1)}, "body"),
    ],
)
def test_the_field_in_error_is_named(change: dict[str, Any], param: str) -> None:
    assert param_of(json.dumps({**GOOD, **change}).encode()) == param


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str) -> None:
    assert param_of(json.dumps({k: v for k, v in GOOD.items() if k != missing}).encode()) == missing


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", "body"),
        (b"hello", "body"),
        (b"[]", "body"),
        (b'{"model": "m"', "body"),
        (b'{"model":"m","messages":[{"role":"user","content":"a"}],"temperature":NaN}', "temperature"),
        (b'{"model":"m","messages":[{"role":"user","content":"a"}],"x":[1,-Infinity]}', "x[1]"),
        (b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}', "messages[0].content"),
        (b'{"model":"m","messages":[{"role":"user","content":"a"}],"\\udfff":1}', "body"),
        (b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', "body"),
        (b'{"model":"m","messages":[{"role":"user","content":"a"}],"seed":1e999}', "seed"),
        (b"[" * 500_000, "body"),
        (b'{"a":' * 100_000, "body"),
    ],
)
def test_what_is_not_json_is_refused_and_the_field_named_where_there_is_one(body: bytes, param: str) -> None:
    assert param_of(body) == param


def test_unknown_fields_and_parts_are_kept() -> None:
    body = {
        **GOOD,
        "reasoning_effort": "low",
        "messages": [{"role": "user", "content": [{"type": "x_audio", "y": 1.0}]}],
    }
    assert parse(json.dumps(body).encode()).body == body


def test_what_we_act_on_is_read_out() -> None:
    request = parse(
        json.dumps({**GOOD, "stream": True, "stream_options": {"include_usage": True}, "user": "u"}).encode()
    )
    assert (request.model, request.stream, request.include_usage, request.user) == ("m", True, True, "u")
    plain = parse(json.dumps({**GOOD, "stream": None, "temperature": None}).encode())
    assert (plain.stream, plain.include_usage, plain.user) == (False, False, None)


def test_the_highest_numbers_of_tokens_are_taken_and_other_forms_of_thinking_kept() -> None:
    for fields in (
        {"max_tokens": 2**31 - 1, "n": 128},
        {"thinking": {"type": "enabled", "budget_tokens": 2**31 - 1}},
        {"thinking": {"type": "adaptive", "display": "omitted"}},
        {"thinking": True},
        {"thinking": "high"},
    ):
        request = parse(json.dumps({**GOOD, **fields}).encode())
        assert request.body == {**GOOD, **fields}
        assert 0 < most_tokens(request, request.body) < 2**53


def test_where_nothing_limits_the_answer_the_budget_of_thinking_counts() -> None:
    plain, thinks = (
        parse(json.dumps({**GOOD, **fields}).encode())
        for fields in ({}, {"thinking": {"type": "enabled", "budget_tokens": 5000}})
    )
    assert most_tokens(thinks, thinks.body) - most_tokens(plain, plain.body) == 5000


@pytest.mark.parametrize("several", ["n", "best_of"])
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_each_of_several_answers_may_be_as_long_as_the_limit(limit: str, several: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], limit: 50}
    one, many = (parse(json.dumps({**body, **n}).encode()) for n in ({}, {several: 100}))
    assert most_tokens(many, many.body) - most_tokens(one, one.body) == 99 * 50


def to_chat(body: Json) -> Json:
    """Of a protocol that calls all that is said `text`."""
    if not isinstance(body.get("text"), str):
        raise InvalidRequest("It needs a text.", param="text")
    return {"model": body["model"], "messages": [{"role": "user", "content": body["text"]}]}


@pytest.mark.parametrize("size", [10, 2 * LARGE])
async def test_another_protocols_request_is_read_as_its_translation(size: int) -> None:
    asked = {"model": "m", "text": "x" * size}
    raw = json.dumps(asked).encode()
    for request in (
        parse(raw, Translation("texts", to_chat)),
        await read(raw, Translation("texts", to_chat)),
    ):
        assert request.body == to_chat(asked)
        assert request.spelled == ("texts", asked)
        assert (request.model, request.size, request.large) == ("m", len(raw), size > LARGE)


@pytest.mark.parametrize("size", [10, 2 * LARGE])
async def test_what_is_wrong_is_named_in_the_callers_protocol(size: int) -> None:
    raw = json.dumps({"model": "m", "texts": "x" * size}).encode()
    with pytest.raises(InvalidRequest) as caught:
        await read(raw, Translation("texts", to_chat))
    assert caught.value.param == "text"
