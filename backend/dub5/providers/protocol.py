"""What a provider is to the rest of the service.

OpenAI's JSON is the common tongue: a provider is given a Chat Completions body and gives back completions
and chunks in the same format, whatever it speaks itself. An answer keeps the bytes it came in beside their
decoded form: a relay passes the bytes on, so that fields we do not know go through untouched.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import msgspec

from dub5.errors import ProviderError

Json = dict[str, Any]

FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})
"""The words with which a choice ends, of OpenAI's reference. Others end one, too, but nobody knows how well."""

_CALLS = frozenset({"tool_calls", "function_call"})
_LABELS = frozenset({"type", "format", "status", "obfuscation"})
_NAMES = _LABELS | {"role", "id", "name"}

_AROUND = "\ufeff \t\r\n"

_decoder = msgspec.json.Decoder(Json)
_encoder = msgspec.json.Encoder()


class Heard(msgspec.Struct):
    """What is known of a provider's response so far.

    Its status and its own id of the call, from its head; `begun`, once a chunk had something of the answer: until
    then another route may still be asked. `age` is for how many seconds a cache had held the answer.
    """

    status: int | None = None
    request_id: str | None = None
    begun: bool = False
    age: float = 0.0


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request to one provider.

    The first `stable` messages are the same in every call of a personality: worth a place in the provider's own
    prompt cache. `body` is a Chat Completions body without `model`, `stream` and `stream_options`. `headers` those
    that follow the request through: `traceparent`, `x-request-id`. `heard` is filled in by the provider. `defaults` are
    the fields that the caller did not set. `stream_options` are the caller's; whether there is usage is for us to say.
    What is `large` is worked on in steps.
    """

    model: str
    body: Json
    stream: bool
    stream_options: Json = {}
    stable: int = 0
    large: bool = False
    headers: dict[str, str] = {}
    defaults: frozenset[str] = frozenset()
    heard: Heard = msgspec.field(default_factory=Heard)


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
            return cls.of(mended(data))

    @classmethod
    def parse(cls, raw: bytes, provider: str) -> Payload:
        """Of a chunk. ProviderError where `raw` is not a JSON object, however leniently read."""
        try:
            data = _decoder.decode(raw)
        except (ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
            data, legal = _read_leniently(raw, provider)
            if not legal:
                return cls.of(data)
        return cls._on_one_line(raw, data)

    @classmethod
    def parse_whole(cls, raw: bytes, provider: str) -> Payload:
        """Of a completion; as `parse`."""
        try:
            data = _decoder.decode(raw)
        except (ValueError, RecursionError):
            return cls.of_whole(_read_leniently(raw, provider)[0])
        return cls._on_one_line(raw, data)

    @classmethod
    def _on_one_line(cls, raw: bytes, data: Json) -> Payload:
        """Line ends are legal between JSON tokens, but would end an SSE line."""
        return cls.of(data) if b"\n" in raw or b"\r" in raw else cls(raw, data)


def decode(raw: bytes) -> Json:
    """The inverse of `Payload.raw`."""
    try:
        return _decoder.decode(raw)
    except ValueError:
        data: Json = _lenient(raw.decode())
        return data


def mended(value: Any) -> Any:
    """A copy of JSON data in which two halves of one character are that character, and a lone one is replaced."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return json.loads(mended(json.dumps(value, ensure_ascii=False)))


def _read_leniently(raw: bytes, provider: str) -> tuple[Json, bool]:
    """What strict JSON does not have and providers send: marks of byte order, half characters, -Infinity, bad UTF-8.

    Also whether `raw` may go on as it is: where it had half characters and nothing else, since they are legal escapes.
    """
    try:
        data, legal = json.loads(raw.decode(), parse_constant=_refused, parse_float=_finite), True
    except (ValueError, RecursionError):
        try:
            data, legal = _lenient(raw.decode("utf-8", "replace").strip(_AROUND)), False
        except (ValueError, RecursionError):
            data = None
    if not isinstance(data, dict):
        raise ProviderError(
            f"The provider {provider} answered with malformed JSON.", provider=provider, scope="request"
        )
    return data, legal


def _lenient(text: str) -> Any:
    return json.loads(text, strict=False, parse_constant=_constant, parse_float=_float, parse_int=_integer)


def _refused(name: str) -> None:
    raise ValueError(name)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(digits)
    return number


def _constant(name: str) -> float | None:
    """OpenAI writes -9999 where the logarithm of a chance is -Infinity."""
    return -9999.0 if name == "-Infinity" else None


def _float(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _integer(digits: str) -> int | None:
    """Python reads no more than 4,300 digits; nothing that anybody counts has as many."""
    return int(digits) if len(digits) <= 300 else None


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


def has_answer(chunk: Json) -> bool:
    """Whether a chunk has anything of the answer: text, reasoning, a tool call, audio, or the answer's end.

    A chunk with only a role, empty texts, token counts or a filter's verdict on the prompt has nothing. Never raises,
    whatever the provider made of the chunk.
    """
    choices = chunk.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and _begins(choice) for choice in choices
    )


def _begins(choice: Json) -> bool:
    reason = choice.get("finish_reason")
    if isinstance(reason, str) and reason in FINISH_REASONS:
        return True
    for part in (choice.get("delta"), choice.get("message")):
        if isinstance(part, dict):
            for name, value in part.items():
                # The id or name of a call is its first part; that of a message, an audio or a block says nothing yet.
                if name not in _NAMES and _says(value, _LABELS if name in _CALLS else _NAMES):
                    return True
    return False


def _says(value: Any, names: frozenset[str]) -> bool:
    """Whether a text that is not empty is anywhere in `value`, apart from members called one of `names`."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str) and one:
            return True
        if isinstance(one, dict):
            waiting.extend(inner for name, inner in one.items() if name not in names)
        elif isinstance(one, list):
            waiting.extend(one)
    return False
