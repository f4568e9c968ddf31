"""Anything that speaks OpenAI Chat Completions: what it says goes through as it is.

A stream is complete when the provider said `[DONE]`, or closed after each choice had its finish reason
(some compatible servers leave the marker out). Anything else is an answer cut short. What is odd in an answer is
put right by `openai_frames`: a provider must not be able to trip up the rest of the service.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from dub5.errors import ProviderError
from dub5.providers.http import DIRECTLY, Access, HttpClient
from dub5.providers.odd_answers import Reported, Unusable, is_done, is_keep_alive, unlisted
from dub5.providers.openai_frames import Frames, answer
from dub5.providers.protocol import Call, Json, Payload
from dub5.providers.quirks import Quirks, applied
from dub5.settings.model import OpenAISettings

_BRACE = ord("{")


class OpenAIProvider:
    """See `Provider`."""

    def __init__(self, name: str, settings: OpenAISettings, *, key: str, access: Access = DIRECTLY) -> None:
        self.name = name
        self._http = HttpClient(name, settings, "/chat/completions", key=key, access=access)
        self._stream_usage = settings.stream_usage
        self._quirks = Quirks(settings.quirks)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def complete(self, call: Call) -> Payload:
        body = await self._http.post(self._body(call), call)
        try:
            return await answer(body, self.name)
        except (Unusable, Reported) as odd:
            raise self._http.failure(odd) from None

    async def stream(self, call: Call) -> AsyncGenerator[Payload, None]:
        frames = Frames(call.body.get("n") or 1)
        try:
            async with aclosing(self._http.events(self._body(call), call)) as received:
                async for events in received:
                    for event, data in events:
                        if data[0] != _BRACE:
                            if data == b"[DONE]" or is_done(event, data):
                                frames.done()
                                call.response.ended = True
                                break
                            if is_keep_alive(event, data):
                                continue
                            data = unlisted(data)  # noqa: PLW2901
                        chunk = Payload.parse(data, self.name)
                        if frames.passes(event, chunk.data):
                            yield chunk
                        else:
                            for each in frames.chunks(event, chunk):
                                yield each
            frames.close()
        except (Unusable, Reported) as odd:
            raise self._http.failure(odd) from None
        except ProviderError:
            if not frames.all_here:  # else only the end of the connection was not as it should be
                raise

    def _body(self, call: Call) -> Json:
        quirk = self._quirks.of(call.model)
        given = call.body if quirk is None else applied(quirk, call.body, call.defaults)
        body: Json = {**given, "model": call.model}
        if call.stream:
            body["stream"] = True
            options = {name: value for name, value in call.stream_options.items() if name != "include_usage"}
            if self._stream_usage:
                options["include_usage"] = True
            if options:
                body["stream_options"] = options
        return body
