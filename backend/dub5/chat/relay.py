"""From a flight's frames to what one client gets: server-sent events, or the whole.

An iterator object rather than a generator: a generator that was never begun runs no `finally` when it is
closed, and the flight would keep a follower that is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

import msgspec

from dub5.cache.flight import Follower, Frame
from dub5.chat import shapes
from dub5.chat.question import Question
from dub5.chat.shapes import Usage
from dub5.errors import CallerError, Dub5Error, FlightLost, InternalError, Overloaded, ProviderError
from dub5.providers.protocol import Payload, decode
from dub5.telemetry.logging import get_logger
from dub5.telemetry.record import Outcome

_STEP = 1000
"""Chunks that are read without a pause."""

_log = get_logger()


class Relay:
    """The events of one streamed answer; raises nothing: trouble is told in the stream, without a `[DONE]`.

    What has arrived together goes on together: for a replica or a client that falls behind, one write per chunk would
    be most of the work.

    `first` is a frame that is here already. `on_whole`, where given, is told the tokens of a complete answer.
    """

    def __init__(
        self,
        question: Question,
        follower: Follower,
        first: Frame | None,
        on_whole: Callable[[Usage], None] | None,
    ) -> None:
        self._question = question
        self._follower = follower
        self._waiting = [] if first is None else [first]
        self._on_whole = on_whole
        self._usage = Usage()
        self._over = False
        self._left = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._over:
            try:
                frame = self._waiting.pop() if self._waiting else await self._follower.next()
                event = self._events(frame)
            except Dub5Error as error:
                return self._told(error)
            except Exception:  # noqa: BLE001  # the head is sent: only the stream can still tell
                record = self._question.record
                _log.exception("stream failed", request_id=record.request_id, trace_id=record.trace.trace_id)
                return self._told(InternalError())
            if event:
                return event
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Leave the flight. May be called again."""
        if not self._left:
            self._left = True
            self._follower.leave()

    def _events(self, frame: Frame | None) -> bytes:
        """Of this frame and those that are here already; empty where this client gets none of them."""
        if frame is None:
            self._over = True
            if self._on_whole is not None:
                self._on_whole(self._usage)
            return shapes.DONE
        further = self._follower.here()
        event = self._event(frame)
        return b"".join([event, *map(self._event, further)]) if further else event

    def _event(self, frame: Frame) -> bytes:
        """Empty for a frame that this client does not get."""
        include_usage = self._question.request.include_usage
        if frame.kind != "chunk":
            self._usage = shapes.usage_of(decode(frame.raw))
        if frame.kind == "whole":
            return shapes.events_of(frame.raw, include_usage=include_usage)
        return b"" if frame.kind == "usage" and not include_usage else shapes.event(frame.raw)

    def _told(self, error: Dub5Error) -> bytes:
        """After the head a status cannot be changed: the error is the last event."""
        self._over = True
        record = self._question.record
        record.outcome = outcome_of(error)
        record.error_code = error.code
        return error_event(error)


def error_event(error: Dub5Error) -> bytes:
    """The error as the last event of a stream."""
    return shapes.event(msgspec.json.encode(error.event()))


def outcome_of(error: Dub5Error) -> Outcome:
    """Of a request that ended with `error`, where the status cannot say: it is sent, or a provider has chosen it."""
    match error:
        case CallerError():
            return "client_error"
        case Overloaded():
            return "shed"
        case InternalError() | FlightLost():
            return "server_error"
        case ProviderError(is_outage=False):
            return "client_error"
    return "provider_error"


async def whole_of(frames: list[Frame]) -> bytes:
    """The completion that complete frames stand for: as it came, or assembled from its chunks, with pauses."""
    if frames and frames[0].kind == "whole":
        return frames[0].raw
    assembler = shapes.Assembler()
    for number, frame in enumerate(frames, 1):
        assembler.add(decode(frame.raw))
        if number % _STEP == 0:
            await asyncio.sleep(0)
    return Payload.of_whole(assembler.completion()).raw
