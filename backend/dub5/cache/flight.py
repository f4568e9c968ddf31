"""One flight: the frames of an answer that have arrived, and everyone who waits for more.

Followers read at their own pace, each from its own position, so a slow one delays nobody. Frames are the
provider's own bytes; this module does not know what is in them.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec

from dub5.errors import Dub5Error, FlightLost


class Identity(msgspec.Struct, frozen=True, gc=False):
    """What is asked, as of which purges. A request after a purge has another version, so it never joins."""

    key: str
    version: str


class Asker(msgspec.Struct, frozen=True, gc=False):
    """The request for which a provider is asked: its id, and that of its trace."""

    request_id: str
    trace_id: str


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A part of an answer: a `chunk`, the chunk that holds only token `usage`, or the `whole`."""

    kind: Literal["chunk", "usage", "whole"]
    raw: bytes


class Flight:
    """The frames so far. `began` is in monotonic seconds. `led_here` is None until it is decided which replica asks the
    provider.

    `followers` counts the requests of this replica, the other replicas that follow, and a background refresh
    itself; when the last one leaves, the flight is `abandoned`: its task is cancelled, and nobody may join it.
    `asker` is the request that began it, here; `leader` the one whose call answers it, perhaps another replica's.
    """

    def __init__(
        self, origin: bytes | None = None, asker: Asker | None = None, *, began: float = 0.0
    ) -> None:
        self.frames: list[Frame] = []
        self.generation = 0
        self.ended = False
        self.error: Dub5Error | None = None
        self.led_here: bool | None = None
        self.followers = 0
        self.abandoned = False
        self.began = began
        self.origin = origin
        self.asker = self.leader = asker
        self.task: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def board(self) -> None:
        self.followers += 1

    def leave(self) -> None:
        self.followers -= 1
        if self.followers == 0 and not self.ended and self.task is not None:
            self.abandoned = True
            self.task.cancel()

    def add(self, *frames: Frame) -> None:
        self.frames.extend(frames)
        self._wake()

    def end(self, error: Dub5Error | None = None) -> None:
        """The answer is complete, or will never be."""
        if not self.ended:
            self.ended, self.error = True, error
            self._wake()

    def restart(self) -> None:
        """Forget what a lost leader sent; whoever was given part of it cannot go on."""
        if self.frames:
            self.frames = []
            self.generation += 1
            self._wake()

    def changed(self) -> asyncio.Future[None]:
        """To be awaited: done with the next frame, the end or a restart."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class Follower:
    """One request's place in a flight. Leave it, always."""

    def __init__(self, flight: Flight) -> None:
        flight.board()
        self._flight = flight
        self._position = 0
        self._generation = flight.generation

    @property
    def origin(self) -> bytes | None:
        """Which request the flight was begun for, in its first follower's words."""
        return self._flight.origin

    @property
    def leader(self) -> Asker | None:
        """The request whose call is waited for; None where that is not known."""
        return self._flight.leader

    @property
    def led_here(self) -> bool:
        return bool(self._flight.led_here)

    async def next(self) -> Frame | None:
        """The next frame, None at the end; raises the flight's error, or FlightLost in the middle of an answer."""
        flight = self._flight
        while True:
            if self._generation != flight.generation:
                if self._position:
                    raise FlightLost
                self._generation = flight.generation
            if self._position < len(flight.frames):
                self._position += 1
                return flight.frames[self._position - 1]
            if flight.ended:
                self._raise_error()
                return None
            await flight.changed()

    def here(self) -> list[Frame]:
        """What can be had without waiting, and belongs to what was given before."""
        if self._generation != self._flight.generation:
            return []
        frames = self._flight.frames[self._position :]
        self._position += len(frames)
        return frames

    async def all(self) -> list[Frame]:
        """Every frame, once the answer is complete; a restart on the way goes unseen."""
        while not self._flight.ended:
            await self._flight.changed()
        self._raise_error()
        return self._flight.frames

    def leave(self) -> None:
        self._flight.leave()

    def _raise_error(self) -> None:
        if self._flight.error is not None:
            # Shared by all followers: without this each would add its own traceback to it.
            raise self._flight.error.with_traceback(None)
