"""A Chat Completions request from bytes: what we must know of it is checked, the rest is kept as it came.

Checked are the fields that we act on or that a provider would refuse later and less clearly; an error names
the field by its path, `messages[2].role`. Everything reaches the provider, known or not.

A request in another protocol is translated first, and read as the Chat Completions request that asks the same.

No body may hold the event loop, or take memory out of proportion: what costs more than `dub5.json_steps` allows is
refused before it is decoded, and what is large is read in steps (docs/adr/0023).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from dub5 import json_steps
from dub5.chat.faults import MAX_PATH, Fault, fault_of, first_fault
from dub5.errors import InvalidRequest
from dub5.json_steps import LARGE, MAX_DEPTH, SMALL, NotReadable, Steps, Survey, TooCostly, at_once, in_steps
from dub5.providers.openai_completions import PROTOCOL as TEXT
from dub5.providers.protocol import Json
from dub5.settings.model import MOST_TOKENS

_Role = Literal["developer", "system", "user", "assistant", "tool", "function"]


class _Part(msgspec.Struct):
    type: str


class Message(msgspec.Struct):
    role: _Role
    content: str | list[_Part] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Thinking(msgspec.Struct):
    # Text is left to the route: it is a number for some clients.
    budget_tokens: Annotated[int, Meta(ge=-1, le=MOST_TOKENS)] | str | None = None


class _Known(msgspec.Struct):
    """The fields whose type and range we vouch for."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=MOST_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=MOST_TOKENS)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=MOST_TOKENS)] | None = None
    thinking: _Thinking | bool | float | str | list[Any] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    user: str | None = None


class _KnownOfText(_Known):
    """Of a text completion: with no tokens wanted and `echo`, it is asked how likely the text itself is."""

    max_tokens: Annotated[int, Meta(ge=0, le=MOST_TOKENS)] | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """`body` is the request as it came, decoded; the rest is what we read out of it.

    `size` is its bytes, and `cost` about how many bytes of memory it takes. Work on a `large` one takes steps; it
    has the `digest` of its bytes. `spelled` is another protocol's name and the body as it came in that one: then `body`
    is its translation.
    """

    body: Json
    model: str
    stream: bool
    include_usage: bool
    user: str | None
    size: int = 0
    cost: int = 0
    digest: bytes | None = None
    large: bool = False
    spelled: tuple[str, Json] | None = None

    @property
    def messages(self) -> list[Json]:
        messages: list[Json] = self.body["messages"]
        return messages


_CHARACTERS_PER_TOKEN = 4
_USUAL_ANSWER = 1000
"""Tokens to expect of an answer to which nobody set a limit."""

_USUAL_PART = 1000
"""Tokens to expect of a picture, a recording or a file, whatever its bytes."""

_MOST_SHOWN = 300
"""Characters of an error's text: it may quote what was sent."""

_BATCH = 500
"""Messages that are checked in one step."""

_LONGEST_ROLE = 20


class Translation(NamedTuple):
    """From another protocol: `to_chat` makes the Chat Completions body that asks the same of a decoded body, in time
    linear in its size; InvalidRequest where it cannot, with the path of the field in that `protocol`."""

    protocol: str
    to_chat: Callable[[Json], Json]


def parse(raw: bytes, translation: Translation | None = None) -> ChatRequest:
    """In one step, without a pause. InvalidRequest names what is wrong and where."""
    if len(raw) >= LARGE:
        decoded = at_once(_decoded_in_steps(raw))
        translated = _translated(decoded.body, translation)
        return at_once(_judged_in_steps(decoded, translated, translation))
    cost = 0
    try:
        if not json_steps.is_plain(raw):
            cost = at_once(json_steps.survey(raw)).cost
        body = json_steps.decode(raw)
    except TooCostly as error:
        raise InvalidRequest(str(error), param="body") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise at_once(diagnosis(raw, error)) from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", param="body")
    spelled = None
    if translation is not None:
        spelled = (translation.protocol, body)
        body = translation.to_chat(body)
    if len(raw) > SMALL:
        at_once(_check_messages(body))
    return _request(body, body, size=len(raw), cost=cost, spelled=spelled)


async def read(
    raw: bytes, translation: Translation | None = None, *, room: Callable[[int], None] = lambda _: None
) -> ChatRequest:
    """As `parse`, with pauses where the body is large; then `room` is called with what it will cost, and may raise."""
    if len(raw) < LARGE:
        return parse(raw, translation)
    steps = _decoded_in_steps(raw, room)
    del raw  # what is left of it is the steps' to free
    decoded = await in_steps(steps)
    translated = decoded.body
    if translation is not None:
        # All of it is new objects, made in one step: long, but a thread's, so that others run meanwhile.
        translated = await asyncio.to_thread(_translated, decoded.body, translation)
    return await in_steps(_judged_in_steps(decoded, translated, translation))


async def decode_body(raw: bytes, *, room: Callable[[int], None] = lambda _: None) -> Decoded:
    """Of any route, with pauses; `room` as for `read`. InvalidRequest names what is wrong and where."""
    steps = _decoded_in_steps(raw, room if len(raw) >= LARGE else lambda _: None)
    del raw
    return await in_steps(steps)


class Decoded(NamedTuple):
    """A body; the rest as `ChatRequest` has it."""

    body: Json
    size: int
    cost: int
    digest: bytes


def _decoded_in_steps(raw: bytes, room: Callable[[int], None] = lambda _: None) -> Steps[Decoded]:
    size = len(raw)
    try:
        found = yield from json_steps.survey(raw, cut=True)
        room(found.cost)
        digest = hashlib.blake2b(digest_size=16)
        yield from json_steps.fed(iter((raw,)), digest.update)
        decoding = _decoded(raw, found)
        del raw
        body = yield from decoding
    except TooCostly as error:
        raise InvalidRequest(str(error), param="body") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", param="body")
    return Decoded(body, size, found.cost, digest.digest())


def _translated(body: Json, translation: Translation | None) -> Json:
    return body if translation is None else translation.to_chat(body)


def _judged_in_steps(decoded: Decoded, body: Json, translation: Translation | None) -> Steps[ChatRequest]:
    yield from _check_messages(body)
    messages = body.get("messages")
    rest = {**body, "messages": messages[:1]} if isinstance(messages, list) else body
    spelled = None if translation is None else (translation.protocol, decoded.body)
    return _request(body, rest, size=decoded.size, cost=decoded.cost, digest=decoded.digest, spelled=spelled)


def _decoded(raw: bytes, found: Survey) -> Steps[Any]:
    try:
        body = yield from json_steps.decode_in_steps(raw, found)
    except NotReadable as error:
        raise (yield from _faults_name(raw, found, error)) from None
    yield
    return body


def _faults_name(raw: bytes, found: Survey, error: NotReadable) -> Steps[InvalidRequest]:
    """Name the field of a value that JSON or UTF-8 cannot say, in a large body."""
    stamp = json_steps.new_stamp()
    skeleton = json_steps.skeleton_of(raw, found.texts, stamp, error.end)
    yield
    kind = (fault_of(error.text) or "escape") if error.text else "encoding"
    fault = yield from first_fault(skeleton, stamp=stamp, bad=error.number, kind=kind)
    if fault is not None:
        return _error_about(fault)
    return _malformed(error.cause, exact=False)


def _request(
    body: Json,
    judged: Json,
    *,
    size: int,
    cost: int,
    digest: bytes | None = None,
    spelled: tuple[str, Json] | None = None,
) -> ChatRequest:
    """Of `body`, whose fields are `judged`, but for messages that were already."""
    of_text = spelled is not None and spelled[0] == TEXT
    try:
        known = msgspec.convert(judged, _KnownOfText if of_text else _Known)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None
    options = known.stream_options
    return ChatRequest(
        body=body,
        model=known.model,
        stream=bool(known.stream),
        include_usage=options is not None and bool(options.include_usage),
        user=known.user,
        size=size,
        cost=max(cost, size),
        digest=digest,
        large=digest is not None,
        spelled=spelled,
    )


def _check_messages(body: Json) -> Steps[None]:
    """Some at a time. A role that is no role is named without quoting it, however long it is."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return
    for start in range(0, len(messages), _BATCH):
        some = messages[start : start + _BATCH]
        for index, message in enumerate(some, start):
            role = message.get("role") if type(message) is dict else None
            if type(role) is str and len(role) > _LONGEST_ROLE:
                raise invalid(f"Invalid enum value - at `$.messages[{index}].role`")
        try:
            msgspec.convert(some, list[Message])
        except msgspec.ValidationError as error:
            text, _, where = str(error).rpartition(" - at `$[")
            number, _, rest = where.partition("]")
            raise invalid(f"{text} - at `$.messages[{start + int(number)}]{rest}") from None
        yield


def most_tokens(request: ChatRequest, fields: Json) -> int:
    """About how many tokens a request may take: its prompt, and the longest answers that it allows."""
    prompt = _prompt_tokens(request, fields)
    answer: int = fields.get("max_completion_tokens") or fields.get("max_tokens") or 0
    if not answer:
        thinking = fields.get("thinking")
        budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
        answer = _USUAL_ANSWER + (max(0, budget) if isinstance(budget, int) else 0)
    return prompt + answer * max(fields.get("n") or 1, fields.get("best_of") or 1)


def prompt_tokens(fields: Json) -> int:
    """About how many tokens its messages and tools are: four characters each, fewer where they are not ASCII."""
    tools = len(msgspec.json.encode(fields.get("tools") or [])) // _CHARACTERS_PER_TOKEN
    return sum(map(_tokens_of, fields["messages"])) + tools


def _prompt_tokens(request: ChatRequest, fields: Json) -> int:
    """For limits, where a cheap answer will do."""
    if request.size > SMALL:
        return sum(map(_tokens_of, fields["messages"]))
    return len(msgspec.json.encode(fields["messages"])) // _CHARACTERS_PER_TOKEN


def _tokens_of(message: Json) -> int:
    """Without encoding it. A picture counts as one, whatever its size."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    tokens = 5
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            tokens += len(text) // (_CHARACTERS_PER_TOKEN if text.isascii() else 2)
        elif text is not None or isinstance(part, dict):
            tokens += _USUAL_PART
    for call in message.get("tool_calls") or ():
        function = call.get("function")
        arguments = function.get("arguments") if isinstance(function, dict) else None
        tokens += len(arguments) // _CHARACTERS_PER_TOKEN if isinstance(arguments, str) else 0
    return tokens


def diagnosis(text: bytes, error: Exception) -> Steps[InvalidRequest]:
    """Name the field of a value that JSON or UTF-8 cannot say."""
    if not isinstance(error, RecursionError):
        at = _OFFSET.search(str(error)[-100:])
        fault = yield from first_fault(text, end=int(at[1]) if at else None)
        if fault is not None:
            return _error_about(fault)
    return _malformed(error)


def _malformed(error: Exception, *, exact: bool = True) -> InvalidRequest:
    """`exact`: the byte that the decoder names is one of the body."""
    if isinstance(error, RecursionError):
        return InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", param="body")
    if isinstance(error, UnicodeDecodeError):
        return _error_about(None)
    words = str(error)[:_MOST_SHOWN]
    return InvalidRequest(
        f"The body is not valid JSON: {words if exact else _OFFSET.sub('', words)}.", param="body"
    )


_OFFSET = re.compile(r" ?\(byte (\d+)\)")


def _error_about(fault: Fault | None) -> InvalidRequest:
    if fault is None or fault.kind == "encoding":
        return InvalidRequest("The body is not valid UTF-8.", param="body")
    if fault.kind == "number":
        return InvalidRequest("NaN and infinite numbers are not JSON.", param=fault.path)
    if fault.kind == "surrogate":
        return InvalidRequest("The text holds a lone surrogate, which UTF-8 cannot say.", param=fault.path)
    return InvalidRequest(
        "The body is not valid JSON: a text holds an invalid escape or character.", param="body"
    )


def invalid(message: str) -> InvalidRequest:
    """msgspec's "… - at `$.a[0]`" as a sentence and a path, both short."""
    text, _, where = message.rpartition(" - at `$")
    if not text:
        text, where = message, ""
    text = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
    param = where.rstrip("`").lstrip(".")[:MAX_PATH]
    missing = re.search(r"missing required field `(\w+)`", text)
    if missing:
        param = f"{param}.{missing[1]}".lstrip(".")
    return InvalidRequest(f"{text}: `{param}`." if param else f"{text}.", param=param or "body")
