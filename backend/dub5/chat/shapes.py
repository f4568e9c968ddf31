"""What the pipeline reads from answers and writes to clients: events and tokens."""

from __future__ import annotations

from typing import Any

import msgspec

from dub5.providers.chunks import Assembler, assemble, split
from dub5.providers.protocol import Payload

__all__ = [
    "DONE",
    "Assembler",
    "Usage",
    "assemble",
    "event",
    "events_of",
    "is_usage_only",
    "split",
    "usage_of",
]

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"

_MOST_TOKENS = 2**40
"""More than any answer has: a greater number is nonsense, and would not fit where numbers are kept."""


def event(data: bytes) -> bytes:
    """One server-sent event; `data` is JSON on one line."""
    return b"data: " + data + b"\n\n"


def events_of(body: bytes, *, include_usage: bool) -> bytes:
    """A whole completion as the bytes of its event stream, all but the `[DONE]` at its end."""
    chunks = split(msgspec.json.decode(body), include_usage=include_usage)
    return b"".join(event(Payload.of(chunk).raw) for chunk in chunks)


def is_usage_only(chunk: Json) -> bool:
    """The last chunk that OpenAI sends with `include_usage`: no choices, only token counts."""
    return not chunk.get("choices") and chunk.get("usage") is not None


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one answer; `cached` are those of the prompt that the provider's own cache had."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


def usage_in(body: bytes) -> Usage:
    """`usage_of` a whole completion, nothing else of which is decoded."""
    return usage_of({"usage": msgspec.json.decode(_outside(body).usage)})


class _Outside(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")


_outside = msgspec.json.Decoder(_Outside).decode


def usage_of(data: Json) -> Usage:
    """What a completion or chunk tells of its tokens; 0 where it does not, or tells what cannot be."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return Usage()
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    prompt = _tokens(usage.get("prompt_tokens"))
    return Usage(prompt, _tokens(usage.get("completion_tokens")), min(prompt, _tokens(cached)))


def _tokens(count: object) -> int:
    return count if type(count) is int and 0 <= count <= _MOST_TOKENS else 0
