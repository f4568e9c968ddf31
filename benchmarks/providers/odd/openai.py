"""The parts of OpenAI's answers: chunks and completions, whole and odd ones."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.providers.odd.answer import Json, Said, Tool

HEAD: Json = {
    "id": "chatcmpl-odd",
    "object": "chat.completion.chunk",
    "created": 1_700_000_000,
    "model": "odd",
}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
DONE = b"data: [DONE]\n\n"
HELLO = (Said("hello"),)


def written(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else written(data)) + b"\n\n"


def chunk(delta: Any, finish: Any = None, **more: Any) -> Json:
    return {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def say(text: str, finish: Any = None, **more: Any) -> bytes:
    return event(chunk({"content": text}, finish, **more))


def bare(**fields: Any) -> bytes:
    """A chunk without `choices`, unless they are among the fields."""
    return event({**HEAD, **fields})


ROLE = event(chunk({"role": "assistant", "content": ""}))
STOP = event(chunk({}, "stop"))
CALLED = event(chunk({}, "tool_calls"))
PLAIN = ROLE + say("hel") + say("lo") + STOP + DONE


def completion(message: Any, finish: Any = "stop", **more: Any) -> Json:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE, **more}


def hello(**more: Any) -> Json:
    return completion({"role": "assistant", "content": "hello"}, **more)


WHOLE = written(hello())


def call(index: Any = ..., id: Any = ..., name: Any = ..., arguments: Any = ..., **more: Any) -> Json:  # noqa: A002
    """One member of `tool_calls`; what is left out is left out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not ...}
    known = {key: value for key, value in (("index", index), ("id", id)) if value is not ...}
    kind = {"type": "function"} if id is not ... and "type" not in more else {}
    return {**known, **kind, **({"function": function} if function else {}), **more}


def calls(*members: Json, **more: Any) -> bytes:
    return event(chunk({"tool_calls": list(members), **more}))


def tools(
    *each: tuple[str, str, str], finish: str | None = "tool_calls", content: str = ""
) -> tuple[Said, ...]:
    return (Said(content, calls=tuple(Tool(*one) for one in each), finish=finish),)


ONE = tools(("call_1", "f", '{"a": 1}'))
TWO = tools(("call_1", "f", '{"a": 1}'), ("call_2", "g", '{"b": 2}'))
LATER = (call(0, arguments='{"a"'), call(0, arguments=": 1}"))


def byte_by_byte(data: bytes) -> tuple[bytes, ...]:
    return tuple(data[at : at + 1] for at in range(len(data)))
