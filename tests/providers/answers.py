"""Odd answers that real providers give, as bytes, each with what a tolerant reader reads in it: `answers.yaml`.

Where they come from: public reports about gateways and chat backends, and what those leave open. An answer whose `says`
is empty cannot be used; of one that breaks off, `says` is empty, too. `stored` is None where an answer may be kept or
not, as long as what comes out of the cache says the same.

A text of the file stands for its bytes: `<<name>>` for what `parts` has under that name, `<<x*9>>` for nine times x.
A stream is a text or a list of texts and frames: {delta, finish, …} is a chunk of OpenAI's, {bare} one without choices,
{data} any JSON, {event, …} an event of Anthropic's. Its parts are written at once unless it is `apart` or `bytewise`.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from testkit.http_server import CLOSE, DIE, HANG, Part, Step

Json = dict[str, Any]
ENDS: dict[str, Step] = {"hang": HANG, "reset": DIE, "close": CLOSE}

DATA: Json = yaml.load((Path(__file__).parent / "answers.yaml").read_bytes(), yaml.CSafeLoader)
HEAD: Json = json.loads(f"{{{DATA['parts']['head']}}}")
USAGE: Json = json.loads(DATA["parts"]["usage"])


class Tool(msgspec.Struct, frozen=True, array_like=True):
    """A call of a tool: `arguments` as text; `input` of a custom tool is in its place."""

    id: str
    name: str
    arguments: str


class Said(msgspec.Struct, frozen=True):
    """One choice, as a tolerant reader reads it. `finish` is None where it does not matter."""

    content: str = ""
    refusal: str = ""
    reasoning: str = ""
    calls: tuple[Tool, ...] = ()
    finish: str | None = "stop"


def read(answer: dict[int, Json]) -> tuple[Said, ...]:
    """What `tests.tolerant_reader` has read, choice by choice."""
    return tuple(
        Said(
            each["content"],
            each["refusal"],
            each["reasoning_content"] or each["reasoning"],
            tuple(Tool(call["id"], call["name"], call["said"]) for call in each["calls"]),
            each["end"],
        )
        for _, each in sorted(answer.items())
    )


def means(found: object, expected: tuple[Said, ...], *, reasoning: bool) -> bool:
    """Whether `found` is that message; `reasoning` counts only for readers that keep fields of others."""
    if not isinstance(found, tuple) or len(found) != len(expected):
        return False
    return all(
        msgspec.structs.replace(
            mine,
            reasoning=mine.reasoning if reasoning else right.reasoning,
            finish=mine.finish if right.finish else None,
        )
        == right
        for mine, right in zip(found, expected, strict=True)
    )


class Odd(msgspec.Struct, frozen=True):
    """`stream` is the body of a streamed answer, `whole` of a whole one; None where this oddity has no such shape.

    `asks` are fields of the request. `kind` says whose API it is. With `optional` an error is right as well: clients
    differ about whether there is an answer in it. `unread` are readers to whom no stream can say this message.
    """

    name: str
    stream: tuple[Part, ...] | None = None
    whole: bytes | None = None
    says: tuple[Said, ...] = ()
    stored: bool | None = True
    kind: Literal["openai", "anthropic"] = "openai"
    asks: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}
    optional: bool = False
    unread: tuple[str, ...] = ()
    stream_type: str = "text/event-stream"
    whole_type: str = "application/json"


def written(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")


def expanded(text: str) -> str:
    """With what its `<<name>>` and `<<x*9>>` stand for."""
    text = re.sub(r"<<(.)\*(\d+)>>", lambda found: found[1] * int(found[2]), text)
    return re.sub(r"<<([^>]+)>>", lambda found: expanded(DATA["parts"][found[1]]), text)


def frame(of: str | bytes | Json) -> bytes:
    """One member of a stream."""
    if isinstance(of, bytes):
        return of
    if isinstance(of, str):
        return expanded(of).encode()
    if "event" in of:
        fields = {"type": of["event"], **{name: value for name, value in of.items() if name != "event"}}
        return f"event: {of['event']}\n".encode() + frame({"data": fields})
    if "delta" in of:
        choice = {"index": 0, "delta": of["delta"], "finish_reason": of.get("finish")}
        more = {name: value for name, value in of.items() if name not in {"delta", "finish"}}
        return frame({"bare": {"choices": [choice], **more}})
    data = {**HEAD, **of["bare"]} if "bare" in of else of["data"]
    return b"data: " + written(data) + b"\n\n"


def completion(message: Any, finish: Any = "stop") -> Json:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}


def stream(of: str | bytes | list[Any]) -> tuple[bytes, ...]:
    return tuple(frame(each) for each in (of if isinstance(of, list) else [of]))


def said(of: Any) -> tuple[Said, ...]:
    """A text is the content of the one choice."""
    listed = of if isinstance(of, list) else [of]
    choices = msgspec.convert(
        [{"content": each} if isinstance(each, str) else each for each in listed], list[Said]
    )
    return tuple(msgspec.structs.replace(each, content=expanded(each.content)) for each in choices)


def parts_of(
    of: Any, *, apart: bool = False, bytewise: bool = False, then: str | None = None
) -> tuple[Part, ...]:
    """What is written, one after the other, and what the provider does then."""
    parts = stream(of)
    if not apart:
        parts = (b"".join(parts),)
    if bytewise:
        parts = tuple(bytes([byte]) for byte in parts[0])
    return (*parts, ENDS[then]) if then else parts


def _whole(of: Any) -> bytes:
    if isinstance(of, dict) and "message" in of:
        return written(completion(**of))
    return written(json.loads(expanded("<<a whole>>")) | of) if isinstance(of, dict) else frame(of)


def _odd(
    kind: Literal["openai", "anthropic"],
    name: str,
    says: Any = (),
    *,
    apart: bool = False,
    bytewise: bool = False,
    then: str | None = None,
    zipped: bool = False,
    **fields: Any,
) -> Odd:
    if "stream" in fields:
        fields["stream"] = parts_of(fields["stream"], apart=apart, bytewise=bytewise, then=then)
    if "whole" in fields:
        fields["whole"] = _whole(fields["whole"])
    if zipped:
        fields["headers"] = {"content-encoding": "gzip"}
        fields["stream"] = tuple(map(gzip.compress, fields["stream"]))
        fields["whole"] = gzip.compress(fields["whole"])
    if says == ():
        fields.setdefault("stored", False)
    return Odd(name, kind=kind, says=said(says) if says != () else (), **fields)


ODD = {
    odd.name: odd
    for odd in (
        *(_odd("openai", **each) for each in DATA["openai"]),
        *(_odd("anthropic", **{**each, "name": f"Claude: {each['name']}"}) for each in DATA["anthropic"]),
    )
}
"""By name."""
