"""Anything that speaks OpenAI Chat Completions: what it says goes through as it is.

A stream is complete when the provider said `[DONE]`, or closed after each choice had its finish reason
(some compatible servers leave the marker out). Anything else is an answer cut short. Of an answer only the
frame is checked that the rest of the service builds on: a provider must not be able to trip it up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from dub5.providers.http import DIRECTLY, Access, HttpClient
from dub5.providers.protocol import Call, Json, Payload
from dub5.settings import OpenAISettings


class _ToolCall(msgspec.Struct):
    index: int = 0


class _Delta(msgspec.Struct):
    tool_calls: list[_ToolCall] | None = None


class _ChunkChoice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: Any = None


class _Choice(msgspec.Struct):
    message: _Delta
    index: int = 0


_Checked = TypeVar("_Checked")


class OpenAIProvider:
    """See `Provider`."""

    def __init__(self, name: str, settings: OpenAISettings, *, key: str, access: Access = DIRECTLY) -> None:
        self._http = HttpClient(name, settings, "/chat/completions", key=key, access=access)
        self._stream_usage = settings.stream_usage

    @property
    def name(self) -> str:
        return self._http.name

    async def aclose(self) -> None:
        await self._http.aclose()

    async def complete(self, call: Call) -> Payload:
        answer = await self._http.post(self._body(call), call)
        self._choices(answer.data, list[_Choice])
        return answer

    async def stream(self, call: Call) -> AsyncGenerator[Payload, None]:
        unfinished: set[int] | None = None
        events = self._http.events(self._body(call), call, is_last=_is_done)
        async with aclosing(events):
            async for together in events:
                for event, data in together:
                    if _is_done(event, data):
                        unfinished = set() if unfinished is not None else None
                        continue
                    chunk = Payload.parse(data, self.name)
                    unfinished = _still_unfinished(self._choices(chunk.data, list[_ChunkChoice]), unfinished)
                    yield chunk
        if unfinished is None or unfinished:
            raise self._http.error("ended its stream before the answer was complete")

    def _body(self, call: Call) -> Json:
        body: Json = {**call.body, "model": call.model}
        if call.stream:
            body["stream"] = True
            if self._stream_usage:
                body["stream_options"] = {"include_usage": True}
        return body

    def _choices(self, data: Json, kind: type[_Checked]) -> _Checked:
        error = data.get("error")
        if (
            error is not None
        ):  # compatible servers put it where a completion or chunk belongs, with status 200
            raise self._http.reported(error)
        try:
            return msgspec.convert(data.get("choices"), kind)
        except msgspec.ValidationError:
            raise self._http.error("answered without proper `choices`") from None


def _is_done(_event: bytes, data: bytes) -> bool:
    return data == b"[DONE]"


def _still_unfinished(choices: list[_ChunkChoice], unfinished: set[int] | None) -> set[int] | None:
    """Indices of choices that began and have no finish reason yet; None before the first."""
    for choice in choices:
        unfinished = set() if unfinished is None else unfinished
        (unfinished.add if choice.finish_reason is None else unfinished.discard)(choice.index)
    return unfinished
