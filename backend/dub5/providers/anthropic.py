"""Anthropic's Messages API, spoken for callers who speak Chat Completions.

`anthropic_request` translates the question, `anthropic_answer` the answer.

A stream is complete only after `message_stop`; without it the answer was cut short.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from dub5.providers.anthropic_answer import Event, StreamTranslator, completion
from dub5.providers.anthropic_request import request
from dub5.providers.http import DIRECTLY, Access, HttpClient
from dub5.providers.protocol import Call, Json, Payload
from dub5.settings import AnthropicSettings

VERSION = "2023-06-01"
"""Of the API: https://platform.claude.com/docs/en/api/versioning"""

_decoder = msgspec.json.Decoder(Event)


class AnthropicProvider:
    """See `Provider`."""

    def __init__(
        self, name: str, settings: AnthropicSettings, *, key: str, access: Access = DIRECTLY
    ) -> None:
        version = {"anthropic-version": VERSION}
        self._http = HttpClient(name, settings, "/messages", key=key, access=access, headers=version)
        self._max_tokens = settings.max_tokens

    @property
    def name(self) -> str:
        return self._http.name

    async def aclose(self) -> None:
        await self._http.aclose()

    async def complete(self, call: Call) -> Payload:
        answer = await self._http.post(self._body(call), call)
        try:
            return Payload.of(completion(answer.data, created=int(time.time())))
        except msgspec.ValidationError:
            raise self._http.error("answered with what is not a message") from None

    async def stream(self, call: Call) -> AsyncGenerator[Payload, None]:
        translator = StreamTranslator(created=int(time.time()))
        events = self._http.events(self._body(call), call, is_last=_is_stop)
        async with aclosing(events):
            async for together in events:
                for _, data in together:
                    for chunk in self._chunks(translator, data):
                        yield Payload.of(chunk)
        if not translator.complete:
            raise self._http.error("ended its stream before the answer was complete")

    def _body(self, call: Call) -> Json:
        return request(
            call.body, model=call.model, max_tokens=self._max_tokens, stream=call.stream, stable=call.stable
        )

    def _chunks(self, translator: StreamTranslator, data: bytes) -> list[Json]:
        try:
            event = _decoder.decode(data)
            chunks = list(translator.chunks(event))
        except (ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
            raise self._http.error("sent a malformed event") from None
        if event.error is not None:
            raise self._http.reported(msgspec.structs.asdict(event.error))
        return chunks


def _is_stop(event: bytes, _data: bytes) -> bool:
    return event == b"message_stop"
