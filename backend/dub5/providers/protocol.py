"""What a provider is to the rest of the service.

OpenAI's JSON is the common tongue: a provider is given a Chat Completions body and gives back completions
and chunks in the same format, whatever it speaks itself. An answer keeps the bytes it came in beside their
decoded form: a relay passes the bytes on, so that fields we do not know go through untouched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from dub5.frames import Frame
from dub5.providers.chunks import Chunk, Json, Payload, Text, decode, parsed
from dub5.vectors import Vector

__all__ = [
    "ANY_BATCH",
    "FINISH_REASONS",
    "BatchLimit",
    "Call",
    "Chunk",
    "Embedded",
    "Json",
    "OnChunks",
    "Onward",
    "Payload",
    "Provider",
    "ResponseHead",
    "Text",
    "decode",
    "parsed",
]

FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})
"""The words with which a choice ends, of OpenAI's reference. Others end one, too, but nobody knows how well."""


class Onward(msgspec.Struct, frozen=True):
    """Where texts of the choice `index` go: each to the end of `texts`, and a frame of its chunk to `on_frames`."""

    index: int
    texts: list[str]
    on_frames: Callable[[list[Frame]], None]


OnChunks = Callable[[list[Chunk]], Onward | None]
"""Called with the chunks that came together, as soon as they are here. It does not wait.

Where texts go what it gives may be used for them in its place, until it is called again.
"""


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

    The first `stable` messages are the same in every call of a personality: worth a place in the provider's own prompt
    cache. `body` is a Chat Completions body without `model`, `stream` and `stream_options`. `headers` those that follow
    the request through, by names in lower case: `traceparent`, `x-request-id`. `response` is filled in by the provider.
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


class BatchLimit(msgspec.Struct, frozen=True):
    """What a provider takes in one call for vectors: so many texts, of so many bytes as JSON. One may be longer."""

    items: int
    bytes: int


ANY_BATCH = BatchLimit(2**31, 2**31)
"""Of a provider to which it does not matter."""


class Embedded(msgspec.Struct, frozen=True):
    """A vector for each text, in the order of asking, and the tokens of all; 0 where the provider does not say."""

    vectors: list[Vector]
    tokens: int


class Provider(Protocol):
    """A named upstream. Every method raises ProviderError, ProviderTimeout or CallerError."""

    @property
    def name(self) -> str: ...

    async def complete(self, call: Call) -> Payload:
        """The whole `chat.completion`."""
        ...

    async def stream(self, call: Call, on_chunks: OnChunks) -> None:
        """Call `on_chunks` with `chat.completion.chunk`s as they come; returning means that the provider is done.

        Cancelling it ends the provider's call.
        """
        ...

    @property
    def batch_limit(self) -> BatchLimit:
        """What it takes in one call for vectors."""
        ...

    async def embed(self, call: Call) -> Embedded:
        """Vectors of the texts in `call.body["input"]`, a list; Unsupported where it makes none."""
        ...

    async def aclose(self) -> None: ...
