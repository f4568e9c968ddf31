"""What a provider is to the rest of the service.

OpenAI's JSON is the common tongue: a provider is given a Chat Completions body and gives back completions
and chunks in the same format, whatever it speaks itself. An answer keeps the bytes it came in beside their
decoded form: a relay passes the bytes on, so that fields we do not know go through untouched.
"""

from __future__ import annotations

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

_decoder = msgspec.json.Decoder(Json)
_encoder = msgspec.json.Encoder()


class Heard(msgspec.Struct):
    """What is known of a provider's response so far.

    Its status and its own id of the call, from its head; `begun`, once a chunk had something of the answer: until
    then another route may still be asked.
    """

    status: int | None = None
    request_id: str | None = None
    begun: bool = False


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request to one provider.

    The first `stable` messages are the same in every call of a personality: worth a place in the provider's own
    prompt cache. `body` is a Chat Completions body without `model`, `stream` and `stream_options`. `headers` those
    that follow the request through: `traceparent`, `x-request-id`. `heard` is filled in by the provider.
    """

    model: str
    body: Json
    stream: bool
    stable: int = 0
    headers: dict[str, str] = {}
    heard: Heard = msgspec.field(default_factory=Heard)


class Payload(msgspec.Struct, frozen=True):
    """One completion or one chunk: `raw` is JSON on one line, `data` the same decoded."""

    raw: bytes
    data: Json

    @classmethod
    def of(cls, data: Json) -> Payload:
        return cls(_encoder.encode(data), data)

    @classmethod
    def parse(cls, raw: bytes, provider: str) -> Payload:
        """ProviderError where `raw` is not a JSON object."""
        try:
            data = _decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise ProviderError(
                f"The provider {provider} answered with malformed JSON.", provider=provider, scope="request"
            ) from None
        if b"\n" in raw or b"\r" in raw:  # legal between JSON tokens, but it would end an SSE line
            return cls.of(data)
        return cls(raw, data)


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
