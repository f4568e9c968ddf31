"""A Chat Completions request from bytes: what we must know of it is checked, the rest is kept as it came.

Checked are the fields that we act on or that a provider would refuse later and less clearly; an error names
the field by its path, `messages[2].role`. Everything reaches the provider, known or not.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dub5.errors import InvalidRequest

Json = dict[str, Any]

MAX_DEPTH = 64
"""Levels of nesting; a generous JSON Schema of a tool has about 20."""

_Role = Literal["developer", "system", "user", "assistant", "tool", "function"]


class _Part(msgspec.Struct):
    type: str


class _Message(msgspec.Struct):
    role: _Role
    content: str | list[_Part] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Known(msgspec.Struct):
    """The fields whose type and range we vouch for."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[_Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    user: str | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """`body` is the request as it came, decoded; the rest is what we read out of it."""

    body: Json
    model: str
    stream: bool
    include_usage: bool
    user: str | None

    @property
    def messages(self) -> list[Json]:
        messages: list[Json] = self.body["messages"]
        return messages


_CHARACTERS_PER_TOKEN = 4
_USUAL_ANSWER = 1000
"""Tokens to expect of an answer to which nobody set a limit."""

_decoder = msgspec.json.Decoder()


def parse(raw: bytes) -> ChatRequest:
    """InvalidRequest names what is wrong and where."""
    body = _decoded(raw)
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", param="body")
    if _deeper_than(MAX_DEPTH, body):
        raise InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", param="body")
    try:
        known = msgspec.convert(body, _Known)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None
    options = known.stream_options
    return ChatRequest(
        body=body,
        model=known.model,
        stream=bool(known.stream),
        include_usage=options is not None and bool(options.include_usage),
        user=known.user,
    )


def most_tokens(fields: Json) -> int:
    """About how many tokens a request may take: its prompt, and the longest answer that it allows."""
    prompt = len(msgspec.json.encode(fields["messages"])) // _CHARACTERS_PER_TOKEN
    answer: int = fields.get("max_completion_tokens") or fields.get("max_tokens") or _USUAL_ANSWER
    return prompt + answer


def _decoded(raw: bytes) -> Any:
    try:
        return _decoder.decode(raw)
    except RecursionError:
        raise InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", param="body") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _diagnosis(raw, error) from None


def _diagnosis(raw: bytes, error: Exception) -> InvalidRequest:
    """Name the field of a value that JSON or UTF-8 cannot say. Slow, and only for bodies that are refused."""
    try:
        lenient = json.loads(raw)
    except (ValueError, RecursionError):
        if isinstance(error, UnicodeDecodeError):
            return InvalidRequest("The body is not valid UTF-8.", param="body")
        return InvalidRequest(f"The body is not valid JSON: {error}.", param="body")
    for path, value in _leaves(lenient):
        if isinstance(value, float) and not math.isfinite(value):
            return InvalidRequest("NaN and infinite numbers are not JSON.", param=path)
        if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
            return InvalidRequest("The text holds a lone surrogate, which UTF-8 cannot say.", param=path)
    return InvalidRequest(f"The body is not valid JSON: {error}.", param="body")


def _leaves(root: Any) -> list[tuple[str, Any]]:
    """Every scalar and key of `root` with its path, without recursion."""
    found: list[tuple[str, Any]] = []
    todo: list[tuple[str, Any]] = [("", root)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, dict):
            found.extend((path or "body", key) for key in value)
            todo.extend((f"{path}.{key}".lstrip("."), item) for key, item in value.items())
        elif isinstance(value, list):
            todo.extend((f"{path}[{index}]", item) for index, item in enumerate(value))
        else:
            found.append((path or "body", value))
    return [(path.encode("utf-8", "replace").decode(), value) for path, value in found]


def _deeper_than(limit: int, root: Any) -> bool:
    level = [root]
    for _ in range(limit):
        level = [
            item
            for holder in level
            for item in (holder.values() if type(holder) is dict else holder)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return False
    return True


def invalid(message: str) -> InvalidRequest:
    """msgspec's "… - at `$.a[0]`" as a sentence and a path."""
    text, _, where = message.partition(" - at `$")
    param = where.rstrip("`").lstrip(".")
    missing = re.search(r"missing required field `(\w+)`", text)
    if missing:
        param = f"{param}.{missing[1]}".lstrip(".")
    return InvalidRequest(f"{text}: `{param}`." if param else f"{text}.", param=param or "body")
