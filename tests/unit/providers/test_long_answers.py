"""What an answer takes grows with its size, not with the square of it: each of these would take minutes otherwise."""

from __future__ import annotations

import json

import pytest

from dub5.providers.chunks import assemble
from dub5.providers.openai import Frames
from dub5.providers.protocol import Json

MANY = 40_000


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
