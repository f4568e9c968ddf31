"""OpenAI's older /completions, which continues a text: for models that know no chat, and for measuring likelihoods.

It is asked to the letter what the caller asked. Between us and the rest of the service its answer is one of chat's: a
choice's `text` is the content of a message, or of a delta, and all else stays as it is. Pure functions, no I/O.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dub5.providers import lenient_json
from dub5.providers.odd_answers import unlisted
from dub5.providers.protocol import Call, Json, Payload

PROTOCOL = "completions"
"""As `Call.spelled` has it."""

USUAL_LIMIT = 16
"""Tokens of an answer to which the caller sets no limit, by OpenAI's reference."""

MOST_PROMPTS = 2048
_decode = msgspec.json.Decoder(Json).decode
_NOT_THE_CALLERS = frozenset({"model", "stream", "stream_options"})


def is_text(call: Call) -> bool:
    """Whether `call` asks for a text to be continued, rather than for a message."""
    return call.spelled is not None and call.spelled[0] == PROTOCOL


def native(call: Call) -> Json:
    """What the caller wrote of a call that `is_text`; how it is streamed is for the provider to add."""
    assert call.spelled is not None  # noqa: S101  # see `is_text`
    return {name: value for name, value in call.spelled[1].items() if name not in _NOT_THE_CALLERS}


def prompts(asked: Json) -> list[str | list[int]]:
    """Each text that is to be continued, or its tokens, of a request whose `prompt` is proper."""
    prompt = asked["prompt"]
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


def choices(call: Call) -> int:
    """How many texts a call that `is_text` asks for: `n` for each prompt."""
    assert call.spelled is not None  # noqa: S101  # see `is_text`
    return len(prompts(call.spelled[1])) * (call.spelled[1].get("n") or 1)


def as_completion(data: Json) -> Json:
    """A whole `text_completion` as a `chat.completion`; itself where it is something else, such as an error."""
    return _as_chat(data, "chat.completion", "message", {"role": "assistant"})


def as_chunk(raw: bytes) -> bytes:
    """The data of one event, as `as_completion`: a chunk of a `text_completion` as a `chat.completion.chunk`."""
    if b'"choices"' not in raw:
        return raw
    try:
        data: Any = _decode(raw)
    except (ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
        data = lenient_json.read(unlisted(raw))[0]
    if not isinstance(data, dict):
        return raw
    return Payload.of(_as_chat(data, "chat.completion.chunk", "delta", {})).raw


def _as_chat(data: Json, kind: str, inside: str, first: Json) -> Json:
    given = data.get("choices")
    if not isinstance(given, list):
        return data
    return {**data, "object": kind, "choices": [_choice(each, inside, first) for each in given]}


def _choice(choice: Any, inside: str, first: Json) -> Any:
    if not isinstance(choice, dict) or "text" not in choice:
        return choice
    kept = {name: value for name, value in choice.items() if name != "text"}
    return {**kept, inside: {**first, "content": choice["text"]}}
