"""Anthropic's Messages API, spoken for callers of Chat Completions, and with callers of Messages to the letter.

`anthropic_request` translates the question, `anthropic_answer` the answer. A question that was asked in Messages goes
as it came (`anthropic_native`), but to a model with quirks, which are told in chat's words.

A stream is complete only after `message_stop`; without it the answer was cut short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from functools import partial

import msgspec

from dub5.errors import ProviderError, Unsupported
from dub5.providers.anthropic_answer import StreamTranslator, completion, event_of
from dub5.providers.anthropic_native import betas, counted, native, speaks
from dub5.providers.anthropic_request import request
from dub5.providers.chunks import Assembler, split
from dub5.providers.http import DIRECTLY, Access, Events, HttpClient, begins_events, events_in
from dub5.providers.listing import LIST_TIMEOUT, MOST_BYTES
from dub5.providers.odd_answers import AGAIN, CUT, Reported, Unusable, is_done, is_keep_alive, unlisted
from dub5.providers.openai_completions import is_text
from dub5.providers.protocol import (
    ANY_BATCH,
    BatchLimit,
    Call,
    Chunk,
    Embedded,
    Json,
    OnChunks,
    Payload,
    parsed,
)
from dub5.providers.quirks import Quirks
from dub5.settings.model import AnthropicSettings

VERSION = "2023-06-01"
"""Of the API: https://platform.claude.com/docs/en/api/versioning"""


_BETA_HEADER = "anthropic-beta"
_BEGIN = ("message", "message_start")
"""Types of events that are an answer, or begin one."""


class _Counted(msgspec.Struct):
    input_tokens: int


class _Typed(msgspec.Struct):
    type: str = ""


class AnthropicProvider:
    """See `Provider`."""

    def __init__(
        self, name: str, settings: AnthropicSettings, *, key: str, access: Access = DIRECTLY
    ) -> None:
        self.name = name
        version = {"anthropic-version": VERSION}
        self._http = HttpClient(name, settings, "/messages", key=key, access=access, headers=version)
        self._counting = HttpClient(
            *(name, settings, "/messages/count_tokens"),
            key=key,
            access=access,
            headers=version,
            beside=self._http,
        )
        self._max_tokens = settings.max_tokens
        written = (value for name, value in settings.headers.items() if name.lower() == _BETA_HEADER)
        self._betas = next(written, "")
        self._quirks = Quirks(settings.quirks, built_in={})

    async def aclose(self) -> None:
        await self._http.aclose()
        await self._counting.aclose()

    async def count_tokens(self, call: Call) -> int:
        """Of the prompt of a call that was asked in Messages, as the provider counts them."""
        body = await self._counting.post(counted(call), self._with_betas(call))
        try:
            return msgspec.json.decode(body, type=_Counted).input_tokens
        except (ValueError, RecursionError):
            raise self._counting.failure(Unusable("answered with what is not a count of tokens")) from None

    @property
    def batch_limit(self) -> BatchLimit:
        return ANY_BATCH

    async def embed(self, call: Call) -> Embedded:  # noqa: ARG002  # the protocol's
        raise Unsupported(f"The provider {self.name} makes no embeddings.", param="model")

    async def listed(self) -> bytes:
        """See `ListsModels`."""
        return await self._http.get("/models?limit=1000", most=MOST_BYTES, timeout=LIST_TIMEOUT)

    async def complete(self, call: Call) -> Payload:
        call = self._with_betas(call)
        body = await self._http.post(await self._body(call), call)
        try:
            if begins_events(body):
                return Payload.of_whole(await self._joined(body))
            return Payload.of_whole(self._completion(await self._parsed(body)))
        except (Unusable, Reported) as odd:
            raise self._http.failure(odd) from None

    async def stream(self, call: Call, on_chunks: OnChunks) -> None:
        call = self._with_betas(call)
        translator = StreamTranslator(created=int(time.time()))

        def on_events(events: Events) -> None:
            found: list[Chunk] = []
            try:
                for event, data in events:
                    found += map(Payload.of, self._chunks(translator, event, data))
                    if _is_stop(event, data):
                        call.response.ended = True
                        break
            finally:  # what came before an error is here, too
                on_chunks(found)

        try:
            await self._http.events(await self._body(call), call, on_events)
        except (Unusable, Reported) as odd:
            raise self._http.failure(odd) from None
        if not translator.complete:
            raise self._http.failure(Unusable(CUT, "model" if translator.begun else "request"))

    def _with_betas(self, call: Call) -> Call:
        written = betas(call, self._betas)
        if written == self._betas:
            return call
        return msgspec.structs.replace(call, headers={**call.headers, _BETA_HEADER: written})

    async def _body(self, call: Call) -> Json:
        if is_text(call):
            raise Unsupported(
                f"The provider {self.name} has no text completions of the model {call.model}, but chats.",
                param="model",
            )
        if speaks(call) and self._quirks.of(call.model) is None:
            return native(call, stream=call.stream)
        translate = partial(
            request,
            self._quirks.applied(call),
            model=call.model,
            max_tokens=self._max_tokens,
            stream=call.stream,
            stable=call.stable,
            beta=bool(betas(call, self._betas)),
        )
        # Python in a thread lets the event loop run every few milliseconds.
        return await asyncio.to_thread(translate) if call.large else translate()

    async def _parsed(self, body: bytes) -> Json:
        try:
            return (await parsed(unlisted(body), self.name)).data
        except (ValueError, RecursionError):  # also msgspec's
            raise Unusable("answered with what is not a message") from None

    def _completion(self, data: Json) -> Json:
        try:
            return completion(data, created=int(time.time()))
        except Reported:
            raise
        except (ValueError, RecursionError):  # also msgspec's
            raise Unusable("answered with what is not a message") from None

    async def _joined(self, body: bytes) -> Json:
        """A whole answer that came as the events of a stream."""
        translator, assembler = StreamTranslator(created=int(time.time())), Assembler()
        async for event, data in events_in(body):
            for chunk in self._chunks(translator, event, data):
                assembler.add(chunk)
        if not translator.complete:
            raise Unusable(CUT, "model")
        return assembler.completion()

    def _chunks(self, translator: StreamTranslator, name: bytes, data: bytes) -> Iterable[Json]:
        try:
            event = event_of(data, self.name)
            if event.type != "message" and not translator.complete:
                return list(translator.chunks(event))
        except (Reported, Unusable):
            raise
        except (ValueError, RecursionError, ProviderError):
            if translator.complete or is_keep_alive(name, data) or is_done(name, data):
                return ()  # nothing that matters: some end a stream as OpenAI does
            raise Unusable("sent a malformed event") from None
        if event.type not in _BEGIN:
            return ()  # behind the end
        if translator.begun or translator.complete:
            raise Unusable(AGAIN)
        translator.complete = True
        return split(self._completion(Payload.parse_whole(data, self.name).data), include_usage=True)


def _is_stop(event: bytes, data: bytes) -> bool:
    """Some compatible servers leave out the names of events: then only the data says what they are."""
    if event:
        return event == b"message_stop"
    return b"message_stop" in data and _type_of(data) == "message_stop"


def _type_of(data: bytes) -> str:
    try:
        return msgspec.json.decode(data, type=_Typed).type
    except (ValueError, RecursionError):
        return ""
