"""What an answer takes grows with its size, not with the square of it: each of these would take minutes otherwise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from dub5.providers.anthropic_answer import Event, StreamTranslator, _Delta, event_of
from dub5.providers.chunks import assemble
from dub5.providers.odd_answers import MOST_BEGUN, Unusable
from dub5.providers.openai import Frames
from dub5.providers.protocol import Json

MANY = MOST_BEGUN - 1
LONG = "x" * 2**24
PARTS = 100_000


def delta(**said: object) -> Json:
    return {"choices": [{"index": 0, "delta": said, "finish_reason": None}]}


def message(*deltas: Json) -> Json:
    said: Json = assemble(deltas)["choices"][0]["message"]
    return said


@pytest.mark.parametrize("counted", [False, True])
def test_very_many_calls_in_one_delta(counted: bool) -> None:
    """Without an index, or all of them with the same."""
    at = {"index": 0} if counted else {}
    calls = [
        {**at, "id": f"c{number}", "function": {"name": "f", "arguments": "{}"}} for number in range(MANY)
    ]
    begun = delta(tool_calls=calls)
    more = delta(tool_calls=[{**at, "id": call["id"], "function": {"arguments": " "}} for call in calls])
    frames = Frames()
    placed = [
        part["index"]
        for chunk in (begun, more)
        for payload in frames.read(b"", json.dumps(chunk).encode())
        for part in payload.data["choices"][0]["delta"]["tool_calls"]
    ]
    assert placed == [*range(MANY)] * 2
    joined = message(begun, more)["tool_calls"]
    assert [call["id"] for call in joined] == [call["id"] for call in calls]
    assert {call["function"]["arguments"] for call in joined} == {"{} "}


@pytest.mark.parametrize("mark", ["index", "id", "type"])
def test_very_many_members_of_a_list_in_parts(mark: str) -> None:
    """Told apart by their index, or of one index by their id or type."""
    members = [
        {"index": 0, "text": "a", mark: number if mark == "index" else str(number)} for number in range(MANY)
    ]
    joined = message(delta(details=members), delta(details=members))["details"]
    assert joined == [{**member, "text": "aa"} for member in members]


def test_very_many_deltas_with_a_member_each() -> None:
    deltas = [delta(details=[{"index": number, "text": "a"}]) for number in range(MANY)]
    assert len(message(*deltas, *deltas)["details"]) == MANY


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tool_calls", lambda text: [{"index": 0, "function": {"arguments": text}}]),
        ("function_call", lambda text: {"arguments": text}),
        ("details", lambda text: [{"index": 0, "text": text}]),
    ],
)
def test_a_long_text_that_goes_on_in_very_many_parts(name: str, said: Callable[[str], Any]) -> None:
    grown = message(delta(**{name: said(LONG)}), *[delta(**{name: said("y")})] * PARTS)[name]
    [text] = re.findall('"(x+y+)"', json.dumps(grown))
    assert text == LONG + "y" * PARTS


def test_a_long_block_that_goes_on_in_very_many_parts() -> None:
    translator = StreamTranslator(created=7)

    def told(kind: str, **fields: Any) -> list[Json]:
        raw = json.dumps({"type": kind, **fields}).encode()
        return list(translator.chunks(event_of(raw, "claude")))

    told("message_start", message={"content": []})
    told("content_block_start", index=0, content_block={"type": "thinking", "thinking": LONG})
    more = Event("content_block_delta", delta=_Delta("thinking_delta", thinking="y"))
    for _ in range(PARTS):
        assert list(translator.chunks(more))
    told("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "s"})
    [chunk] = told("content_block_stop", index=0)
    [block] = chunk["choices"][0]["delta"]["thinking_blocks"]
    assert block == {"type": "thinking", "thinking": LONG + "y" * PARTS, "signature": "s"}


def _begun_choice(number: int) -> Json:
    return {"choices": [{"index": number, "delta": {"content": "a"}, "finish_reason": None}]}


def _begun_call(number: int) -> Json:
    return delta(tool_calls=[{"index": number, "id": f"c{number}", "function": {"name": "f"}}])


@pytest.mark.parametrize("begun", [_begun_choice, _begun_call])
def test_a_stream_begins_only_so_many_parts(begun: Callable[[int], Json]) -> None:
    frames = Frames()

    def said(number: int) -> None:
        assert list(frames.read(b"", json.dumps(begun(number)).encode()))

    first = 0 if begun is _begun_choice else 1  # calls are of a choice, which counts too
    for number in range(first, MOST_BEGUN):
        said(number)
    said(MOST_BEGUN - 1)  # goes on
    with pytest.raises(Unusable):
        said(MOST_BEGUN)


def test_a_message_begins_only_so_many_blocks() -> None:
    translator = StreamTranslator(created=0)
    start = b'{"type":"message_start","message":{"id":"m","model":"c","content":[],"usage":{}}}'
    assert list(translator.chunks(event_of(start, "")))
    block = (
        b'{"type":"content_block_start","index":%d,"content_block":{"type":"tool_use","id":"t","name":"f"}}'
    )
    for number in range(MOST_BEGUN):
        assert list(translator.chunks(event_of(block % number, "")))
    with pytest.raises(Unusable):
        list(translator.chunks(event_of(block % 0, "")))
