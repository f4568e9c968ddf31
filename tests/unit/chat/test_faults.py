"""The first fault of a body that was refused, by a short name, wherever it is and however much there is besides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dub5.chat.faults import MAX_PATH, first_fault
from dub5.chat.request import parse
from dub5.errors import InvalidRequest
from dub5.json_steps import LARGE, at_once

START = '{"model":"m","messages":[{"role":"user","content":"x"}]'
LONG = "y" * (2 * LARGE)


def refusal_of(body: str | bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(body.encode() if isinstance(body, str) else body)
    assert len(caught.value.message) < 400
    assert len(caught.value.param or "") <= MAX_PATH + 1
    return caught.value


@pytest.mark.parametrize("padding", ["", LONG], ids=["small", "large"])
@pytest.mark.parametrize(
    ("rest", "param"),
    [
        (',"a":{"b":[1,{"c":NaN}]}}', "a.b[1].c"),
        (',"a":[[],[1,-Infinity]]}', "a[1][1]"),
        (',"a":"\\ud800"}', "a"),
        (',"a":["\\\\ud800","x","\\ud83d\\u0041"]}', "a[2]"),
        (',"a":{"\\udc00":1}}', "a"),
        (',"a":1e400}', "a"),
        (',"a":"\\q","b":NaN}', "body"),
        (',"a" 1,"b":NaN}', "body"),
        (',"a":[1}', "body"),
    ],
)
def test_the_fault_is_named(rest: str, param: str, padding: str) -> None:
    assert refusal_of(f'{START},"pad":"{padding}"{rest}').param == param


@pytest.mark.parametrize("end", ["\\ud800", "\\udc00", "\\ud800\\u0041"])
def test_a_fault_in_a_long_text_is_named(end: str) -> None:
    body = '{"model":"m","messages":[{"role":"user","content":["a",{"type":"text","text":"%s%s"}]}]}'
    assert refusal_of(body % (LONG, end)).param == "messages[0].content[1].text"


@pytest.mark.parametrize("after", ["", ".", "…", r"\n", r"\"", r"\n....", "....."])
def test_half_of_a_character_is_named_whatever_follows(after: str) -> None:
    body = '{"model":"m","messages":[{"role":"user","content":"a\\ud83d%s"}]}'
    assert refusal_of(body % after).param == "messages[0].content"


@pytest.mark.parametrize("bad", [b"\xff", b"\xe4\xb8", b"\xed\xa0\x80"])
@pytest.mark.parametrize("long", [b"", LONG.encode()])
def test_bytes_that_are_no_text(bad: bytes, long: bytes) -> None:
    param = "x" if bad == b"\xed\xa0\x80" else "body"
    assert refusal_of(START.encode() + b',"x":"' + long + bad + b'"}').param == param


def test_a_long_name_over_many_values_is_cut_and_costs_nothing() -> None:
    body = START + ',"foo":{{"{}":[{},NaN]}}}}'.format("k" * 4000, ",".join(["12345"] * 4000))
    error = refusal_of(body)
    assert error.param == f"foo.{'k' * 60}…[4000]"


def test_a_deep_path_is_cut() -> None:
    fault = at_once(first_fault(b'{"aaaaaaaaaaaaaaaaaaaa":' * 40 + b"NaN" + b"}" * 40))
    assert fault is not None
    assert len(fault.path) == MAX_PATH + 1


@pytest.mark.parametrize(
    "sent", ["\\" * 100_000, '"\\"' * 100_000, " " * 300_000, "[" * 300_000, "x" * 300_000]
)
def test_nonsense_has_no_name(sent: str) -> None:
    assert refusal_of(sent).param == "body"


def test_a_role_is_not_quoted_back() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "x" * 1000}] * 1200
    body = {"model": "m", "messages": [*messages, {"role": "😀" * 100_000, "content": ""}]}
    assert refusal_of(json.dumps(body)).param == "messages[1200].role"


def test_a_message_far_back_is_named() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "x" * 1000}] * 1200
    body = {"model": "m", "messages": [*messages, {"role": "user", "content": [{"text": "x"}]}]}
    assert refusal_of(json.dumps(body)).param == "messages[1200].content[0].type"


@pytest.mark.parametrize("large", [False, True])
def test_a_large_body_is_judged_like_a_small_one(large: bool) -> None:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 3}
    if large:
        body["pad"] = LONG
    assert refusal_of(json.dumps(body)).param == "temperature"
    assert refusal_of(json.dumps({**body, "temperature": 1, "messages": []})).param == "messages"
    assert refusal_of(json.dumps({**body, "temperature": 1, "messages": "x"})).param == "messages"
    request = parse(json.dumps({**body, "temperature": 1, "stream": True, "user": "u"}).encode())
    assert (request.model, request.stream, request.user, request.large) == ("m", True, "u", large)
