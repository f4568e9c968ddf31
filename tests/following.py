"""Questions for `cache.flights`, and those who follow a flight, without the rest of a replica."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from dub5.cache.flights import Flight, Following
from dub5.cache.freshness import NO_DIRECTIVES, Directives, Lifetimes
from dub5.cache.store import CacheLookup
from dub5.frames import Frame
from dub5.telemetry.record import RequestRecord, TraceContext


class Follower:
    """One of a flight's followers. `next` gives what has arrived since the last time, nothing at the end."""

    def __init__(self, flight: Flight) -> None:
        flight.followers += 1
        self._following = Following(flight)

    async def next(self) -> list[Frame]:
        return await self._following.next()

    async def rest(self) -> list[Frame]:
        return await remaining(self._following)

    def leave(self) -> None:
        self._following.close()


async def remaining(following: Following) -> list[Frame]:
    """What comes until the end."""
    rest: list[Frame] = []
    while frames := await following.next():
        rest += frames
    return rest


class Question(msgspec.Struct):
    lookup: CacheLookup | None
    record: RequestRecord
    bypass: str | None = None


def question(
    key: str = "key",
    *,
    lifetimes: Lifetimes,
    stream: bool = True,
    directives: Directives = NO_DIRECTIVES,
    words: Any = None,
) -> Question:
    """Of a request by itself; with the same `words` it is the same to the letter."""
    trace = TraceContext.begin()
    record = RequestRecord(request_id=trace.trace_id, trace=trace, started=time.perf_counter(), stream=stream)
    return Question(CacheLookup(key, (), lifetimes, directives, words=words), record)
