"""What an OpenAI-like provider answers at /embeddings, read vector by vector.

An answer to a few hundred texts has megabytes of numbers. Its outline is read in one step, in which vectors are passed
over; then each vector is read by itself, with pauses. So the event loop runs in between, and only one is in memory as
Python's floats.
"""

from __future__ import annotations

import asyncio

import msgspec

from dub5.json_steps import LARGE
from dub5.providers.odd_answers import Unusable, raise_reported_error, unlisted
from dub5.providers.protocol import Embedded
from dub5.vectors import MOST_NUMBERS, NoVector, Vector

_NOT_PROPER = "answered without proper vectors"
_STEP = 16
"""Vectors that are read without a pause."""

_MOST_OBJECTS = 4
"""Objects that an answer may hold for each vector, and as many besides a few for the whole."""

_MOST_TOKENS = 2**40
_MOST_WRITTEN = 32 * MOST_NUMBERS
"""Bytes of one vector as JSON."""


class _Item(msgspec.Struct):
    embedding: msgspec.Raw
    index: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Outline(msgspec.Struct):
    data: list[_Item]
    usage: msgspec.Raw = msgspec.Raw(b"null")


_outline = msgspec.json.Decoder(_Outline)
_usage = msgspec.json.Decoder(_Usage)
_embedding = msgspec.json.Decoder(str | list[float])


async def embedded(raw: bytes, texts: int) -> Embedded:
    """OpenAI's answer to a call for so many `texts`. Unusable where it is none, Reported where it is an error."""
    raw = unlisted(raw)
    if raw.count(b"{") > _MOST_OBJECTS * (texts + 4):
        raise Unusable(_NOT_PROPER)
    try:
        outline = _outline.decode(raw)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        _raise_reported(raw)
        raise Unusable(_NOT_PROPER) from None
    if len(outline.data) != texts:
        _raise_reported(raw)
        raise Unusable(f"answered {texts} texts with {len(outline.data)} vectors")
    found: list[Vector | None] = [None] * texts
    for position, item in enumerate(outline.data):
        index = position if item.index is None else item.index
        if not 0 <= index < texts or found[index] is not None:
            raise Unusable(_NOT_PROPER)
        found[index] = _vector(item.embedding)
        if position % _STEP == _STEP - 1:
            await asyncio.sleep(0)
    return Embedded([vector for vector in found if vector is not None], _tokens(outline.usage))


def _vector(raw: msgspec.Raw) -> Vector:
    try:
        if len(memoryview(raw)) > _MOST_WRITTEN:
            raise NoVector("too long")
        given = _embedding.decode(raw)
        return Vector.of_base64(given) if isinstance(given, str) else Vector.of_floats(given)
    except (ValueError, RecursionError):
        raise Unusable(_NOT_PROPER) from None


def _tokens(raw: msgspec.Raw) -> int:
    try:
        usage = _usage.decode(raw)
    except (ValueError, RecursionError):
        return 0
    tokens = usage.total_tokens if usage.prompt_tokens is None else usage.prompt_tokens
    return tokens if tokens is not None and 0 <= tokens <= _MOST_TOKENS else 0


def _raise_reported(raw: bytes) -> None:
    """Compatible servers report errors with status 200, too. None is so long that it has to be read in steps."""
    if len(raw) >= LARGE:
        return
    try:
        data = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return
    if isinstance(data, dict):
        raise_reported_error(data)
