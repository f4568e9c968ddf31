"""What a provider is to the rest of the service.

OpenAI's JSON is the common tongue: a provider is given a Chat Completions body and gives back completions
and chunks in the same format, whatever it speaks itself. An answer keeps the bytes it came in beside their
decoded form: a relay passes the bytes on, so that fields we do not know go through untouched.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import msgspec

from dub5.errors import ProviderError
from dub5.json_steps import (
    LARGE,
    NotReadable,
    TooCostly,
    decode_in_steps,
    in_steps,
    joined,
    pieces,
    survey,
)
from dub5.providers import lenient_json

Json = dict[str, Any]

FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})
"""The words with which a choice ends, of OpenAI's reference. Others end one, too, but nobody knows how well."""

_decoder = msgspec.json.Decoder(Json)
_encoder = msgspec.json.Encoder()


class ResponseHead(msgspec.Struct):
    """What is known of a provider's response so far.

    Its status and its own id of the call, from its head; `begun`, once a chunk had something of the answer: until
    then another route may still be asked; `ended`, once a stream said that it was done: more is not waited for. `age`
    is for how many seconds a cache had held the answer.
    """

    status: int | None = None
    request_id: str | None = None
    begun: bool = False
    ended: bool = False
    age: float = 0.0


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request to one provider.

    The first `stable` messages are the same in every call of a personality: worth a place in the provider's own
    prompt cache. `body` is a Chat Completions body without `model`, `stream` and `stream_options`. `headers` those
    that follow the request through: `traceparent`, `x-request-id`. `response` is filled in by the provider.
    `defaults` are the fields that the caller did not set. `stream_options` are the caller's; whether there is usage is
    for us to say. What is `large` is worked on in steps. `spelled` is the name of another protocol in which the caller
    asked, and its own body in that one, where nothing of ours was put over it: `body` is its translation.
    """

    model: str
    body: Json
    stream: bool
    stream_options: Json = {}
    stable: int = 0
    large: bool = False
    headers: dict[str, str] = {}
    defaults: frozenset[str] = frozenset()
    spelled: tuple[str, Json] | None = None
    response: ResponseHead = msgspec.field(default_factory=ResponseHead)


class Payload(msgspec.Struct, frozen=True):
    """One completion or one chunk: `raw` is JSON on one line, `data` the same decoded.

    A chunk's texts may have half of a character (a lone surrogate), where the provider cut it in two.
    """

    raw: bytes
    data: Json

    @classmethod
    def of(cls, data: Json) -> Payload:
        try:
            return cls(_encoder.encode(data), data)
        except UnicodeEncodeError:  # half of a character can only be written as an escape
            return cls(json.dumps(data, separators=(",", ":")).encode(), data)

    @classmethod
    def of_whole(cls, data: Json) -> Payload:
        """What is left of halves of characters has no other half to come, and is replaced."""
        try:
            return cls(_encoder.encode(data), data)
        except UnicodeEncodeError:
            return cls.of(lenient_json.mended(data))

    @classmethod
    def parse(cls, raw: bytes, provider: str) -> Payload:
        """Of a chunk. ProviderError where `raw` is not a JSON object, however leniently read."""
        try:
            data = _decoder.decode(raw)
        except (ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
            data, legal = _read_leniently(raw, provider)
            if not legal:
                return cls.of(data)
        # Line ends are legal between JSON tokens, but would end an SSE line.
        return cls.of(data) if b"\n" in raw or b"\r" in raw else cls(raw, data)

    @classmethod
    def parse_whole(cls, raw: bytes, provider: str) -> Payload:
        """Of a completion; as `parse`."""
        try:
            data = _decoder.decode(raw)
        except (ValueError, RecursionError):
            return cls.of_whole(_read_leniently(raw, provider)[0])
        return cls.of(data) if b"\n" in raw or b"\r" in raw else cls(raw, data)


async def parsed(raw: bytes, provider: str) -> Payload:
    """`Payload.parse_whole` of an answer that may be large: in steps then, and not if it would take all memory.

    What is no JSON, however large, is read leniently in one.
    """
    if len(raw) < LARGE:
        return Payload.parse_whole(raw, provider)
    try:
        found = await in_steps(survey(raw, cut=True, answer=True))
        data = await in_steps(decode_in_steps(raw, found))
    except TooCostly:
        raise ProviderError(
            f"The provider {provider} sent an answer that is too large.", provider=provider, scope="request"
        ) from None
    except NotReadable:
        data = None
    if not isinstance(data, dict):
        return Payload.parse_whole(raw, provider)
    return Payload(await joined(pieces(data)) if b"\n" in raw or b"\r" in raw else raw, data)


def decode(raw: bytes) -> Json:
    """The inverse of `Payload.raw`."""
    try:
        return _decoder.decode(raw)
    except ValueError:
        data: Json = lenient_json.loads(raw.decode())
        return data


def _read_leniently(raw: bytes, provider: str) -> tuple[Json, bool]:
    """As `lenient_json.read`; ProviderError where that is no object."""
    data, legal = lenient_json.read(raw)
    if not isinstance(data, dict):
        raise ProviderError(
            f"The provider {provider} answered with malformed JSON.", provider=provider, scope="request"
        )
    return data, legal


class Provider(Protocol):
    """A named upstream. Every method raises ProviderError, ProviderTimeout or CallerError."""

    @property
    def name(self) -> str: ...

    async def complete(self, call: Call) -> Payload:
        """The whole `chat.completion`."""
        ...

    def stream(self, call: Call) -> AsyncGenerator[Payload, None]:
        """`chat.completion.chunk`s; returning means that the provider said it was done.

        Closing the generator cancels the provider's call.
        """
        ...

    async def aclose(self) -> None: ...
