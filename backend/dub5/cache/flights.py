"""One question, one call: the flights of this replica, who follows them, and who leads.

A *flight* is the answer to one question on its way: the frames that have arrived so far. It belongs to the replica and
not to the request that began it. Its task runs until the answer is complete, and is cancelled when nobody follows any
more. *Followers* read at their own pace, each from its own position, so a slow one delays nobody. Frames are the
provider's own bytes; this module does not know what is in them.

One of the flights that have the same question *leads*: it makes the call, which it was handed as an object, and whose
answer it has stored before it ends, so that whoever asks next finds it. Across replicas a lease in Redis decides which
one (`leases`); the others read the leader's frames. Where the leader is lost, a flight *restarts*: followers that were
given nothing yet carry on unseen, with whoever leads next; those in the middle of an answer end with FlightLost, since
a second answer would not continue the first. Without Redis, or when it goes away, each replica leads its own.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Protocol

import msgspec
from moka_py import Moka

from dub5.cache.entry import Identity
from dub5.cache.freshness import Lifetimes
from dub5.cache.store import AnswerStore, CacheWrite
from dub5.errors import Dub5Error, FlightLost, InternalError, Overloaded
from dub5.redis.link import RedisUnavailable
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Metrics

_MAX_TAKEOVERS = 3
"""After so many lost leaders a replica asks the provider itself, lease or not."""

_ASK_AGAIN = 1.0
"""Seconds for which another replica's cooldown is believed before Redis is asked again."""

_log = get_logger()


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A part of an answer: a `chunk`, the chunk that holds only token `usage`, or the `whole`."""

    kind: Literal["chunk", "usage", "whole"]
    raw: bytes


class Asker(msgspec.Struct, frozen=True, gc=False):
    """The request for which a provider is asked: its id, and that of its trace."""

    request_id: str
    trace_id: str


class Leader(Protocol):
    """The call that a flight makes where it leads."""

    async def run(self, flight: Flight) -> CacheWrite | None:
        """Ask the provider and add each frame to `flight` as it comes; gives what is to be stored, None where nothing
        is. Raises a Dub5Error where no provider has an answer. Called at most once per lease."""
        ...


class Flight:
    """The frames so far. `began` is in monotonic seconds. `led_here` is None until it is decided which replica asks the
    provider; `stored` says that the answer of a call made here was fit to be kept.

    `followers` counts the requests of this replica, the other replicas that follow, and a background refresh
    itself; when the last one leaves, the flight is `abandoned`: its task is cancelled, and nobody may join it.
    `origin` is the request that it was begun for, in that request's words, and `asker` that request; `leader` is the
    one whose call answers it, perhaps another replica's.
    """

    def __init__(
        self, origin: bytes | None = None, asker: Asker | None = None, *, began: float = 0.0
    ) -> None:
        self.frames: list[Frame] = []
        self.generation = 0
        self.ended = False
        self.error: Dub5Error | None = None
        self.led_here: bool | None = None
        self.stored = False
        self.followers = 0
        self.abandoned = False
        self.began = began
        self.origin = origin
        self.asker = self.leader = asker
        self.task: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def join(self) -> None:
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
    """One request that waits for the answer of a flight. Leave it, always."""

    def __init__(self, flight: Flight) -> None:
        flight.join()
        self.flight = flight
        self._position = 0
        self._generation = flight.generation

    async def next(self) -> list[Frame]:
        """What has arrived since the last time, as soon as there is something; nothing at the end. Raises the flight's
        error, or FlightLost in the middle of an answer."""
        flight = self.flight
        while True:
            if self._generation != flight.generation:
                if self._position:
                    raise FlightLost
                self._generation = flight.generation
            if self._position < len(flight.frames):
                frames = flight.frames[self._position :]
                self._position += len(frames)
                return frames
            if flight.ended:
                if flight.error is not None:
                    # Shared by all followers: without this each would add its own traceback to it.
                    raise flight.error.with_traceback(None)
                return []
            await flight.changed()

    async def all(self) -> list[Frame]:
        """Every frame, once the answer is complete; a restart on the way goes unseen."""
        flight = self.flight
        while not flight.ended:
            await flight.changed()
        if flight.error is not None:
            raise flight.error.with_traceback(None)
        return flight.frames

    def leave(self) -> None:
        self.flight.leave()


class Claim(msgspec.Struct, frozen=True):
    """Who leads, as the replicas' common memory has it.

    `token` stands in the key `lease`, and says which replica leads, the `leader`, and for which request, the `asker`,
    as far as that is known. The leader's frames are in the `stream`.
    """

    identity: Identity
    outcome: Literal["lead", "follow", "stored", "cooling"]
    token: str
    lease: str
    stream: str
    leader: str
    asker: Asker | None


class Tailed(enum.Enum):
    """How following a leader came out."""

    ENDED = enum.auto()
    LOST = enum.auto()
    REFUSED = enum.auto()
    """The provider refused the leader's request; ours may differ from it in what is not part of the key."""


class Leadership(Protocol):
    """What decides among replicas who leads a flight: `leases`, or OneReplica where there are no others."""

    async def claim(self, identity: Identity, flight: Flight, *, seen: int, background: bool) -> Claim | None:
        """Ask to lead. None where there is nobody to ask: then this replica leads, and has nothing to give back.
        RedisUnavailable where that cannot be known."""
        ...

    async def tail(self, flight: Flight, claim: Claim) -> Tailed:
        """Give `flight` the leader's frames until its end, or until the leader is lost."""
        ...

    async def release(self, claim: Claim) -> None:
        """The flight that led has ended."""
        ...

    async def cool_down(self, identity: Identity, seconds: float) -> None:
        """Have no replica refresh that answer for a while."""
        ...


class OneReplica:
    """There are no others, so nobody contests a flight."""

    async def claim(self, *_: object, **__: object) -> None:
        return None

    async def tail(self, flight: Flight, claim: Claim) -> Tailed:
        raise NotImplementedError  # there is no claim

    async def release(self, claim: Claim) -> None:
        """Nothing was taken."""

    async def cool_down(self, identity: Identity, seconds: float) -> None:
        """There is no other replica."""


class Flights:
    """All flights of this replica. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        store: AnswerStore,
        leadership: Leadership,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._clock = clock
        self._metrics = metrics
        self._by_identity: dict[Identity, Flight] = {}
        self._in_flight: dict[asyncio.Task[None], Flight] = {}
        self._abandoned = False
        self._cooling: Moka[Identity, bool] = Moka(10_000)
        metrics.flight_followers.set_function(self.followers)

    def follow(
        self,
        identity: Identity,
        leader: Leader,
        lifetimes: Lifetimes,
        *,
        seen: int,
        max_age: float | None = None,
        origin: bytes | None = None,
        asker: Asker | None = None,
    ) -> tuple[Follower, bool]:
        """Follow the flight of `identity`, and whether it was there already; where there is none, begin it.

        `seen` is the birth of the stored answer that would not do, 0 without one. A flight that began more
        than `max_age` seconds ago would answer too old: such a request asks for itself.
        """
        flight = self._by_identity.get(identity)
        if flight is None or flight.ended or flight.abandoned:
            flight = Flight(origin, asker, began=self._clock())
            self._begin(flight, self._fly(flight, leader, identity, lifetimes, seen), identity)
            return Follower(flight), False
        if max_age is not None and self._clock() - flight.began > max_age:
            return self.alone(leader), False
        return Follower(flight), True

    def alone(self, leader: Leader) -> Follower:
        """A flight that nobody can join, for requests that must not share."""
        flight = Flight()
        self._begin(flight, self._lead(flight, leader, None))
        return Follower(flight)

    def background(self, leader: Leader) -> None:
        """Ask a provider although nobody waits."""
        flight = Flight()
        flight.join()
        self._begin(flight, self._lead(flight, leader, None))

    def refresh(
        self,
        identity: Identity,
        leader: Leader,
        lifetimes: Lifetimes,
        *,
        seen: int,
        cooldown: float,
        asker: Asker | None = None,
    ) -> None:
        """Ask again in the background, once across all replicas; a failure stops further tries for `cooldown` s."""
        flying = self._by_identity.get(identity)
        if (flying is None or flying.ended) and not self._cooling.get(identity):
            flight = Flight(asker=asker, began=self._clock())
            flight.join()
            self._begin(flight, self._fly(flight, leader, identity, lifetimes, seen, cooldown), identity)

    def followers(self) -> int:
        """Who waits for the answers of all flights: requests here, replicas elsewhere, refreshes."""
        return sum(flight.followers for flight in list(self._in_flight.values()))

    def abandon(self) -> None:
        """Cancel every flight, whoever follows: the process has to end now. `settle` waits for no new one then."""
        self._abandoned = True
        for task in self._in_flight:
            task.cancel()

    async def settle(self) -> None:
        """Wait until every flight has ended: the last step of a drain."""
        while self._in_flight:
            if self._abandoned:
                self.abandon()
            await asyncio.wait(list(self._in_flight))

    def _begin(
        self, flight: Flight, work: Coroutine[Any, Any, None], identity: Identity | None = None
    ) -> None:
        """Start the flight's task, its only one."""
        # What it raises is its followers'; `settle` and `abandon` end it.
        task = flight.task = asyncio.create_task(self._run(flight, work))  # noqa: TID251
        self._in_flight[task] = flight
        if identity is not None:
            self._by_identity[identity] = flight

        def ended(task: asyncio.Task[None]) -> None:
            """A callback, since a task that was cancelled before it began runs no `finally`."""
            work.close()
            del self._in_flight[task]
            if not flight.ended:  # it was cancelled, and nobody follows it
                flight.end(InternalError())
            if identity is not None and self._by_identity.get(identity) is flight:
                del self._by_identity[identity]

        task.add_done_callback(ended)

    async def _run(self, flight: Flight, work: Coroutine[Any, Any, None]) -> None:
        """Whatever happens to `work`, the flight ends, and so do its followers' waits."""
        outcome = "ok"
        try:
            await work
            flight.end()
        except Dub5Error as error:
            outcome = "error"
            flight.end(error)
        except asyncio.CancelledError:
            outcome = "unfollowed"
            raise
        except Exception:  # noqa: BLE001  # a defect must not leave followers waiting for ever
            outcome = "defect"
            asker = msgspec.structs.asdict(flight.asker) if flight.asker is not None else {}
            _log.exception("flight failed", **asker)
            flight.end(InternalError())
        finally:
            self._metrics.flights.labels("leader" if flight.led_here else "follower", outcome).inc()

    async def _fly(
        self,
        flight: Flight,
        leader: Leader,
        identity: Identity,
        lifetimes: Lifetimes,
        seen: int,
        cooldown: float | None = None,
    ) -> None:
        """Until the flight has its answer: lead, or follow whoever leads, again and again where a leader is lost.

        With a `cooldown` it is a refresh, which nobody needs: where another replica leads, or one has failed of late,
        it is over, unless a request has joined it meanwhile. That must not be left without an answer.
        """
        claim = None
        for _ in range(_MAX_TAKEOVERS):
            try:
                claim = await self._leadership.claim(
                    identity, flight, seen=seen, background=cooldown is not None
                )
            except RedisUnavailable:
                claim = None
            if claim is None or claim.outcome == "lead":
                break
            if claim.outcome == "cooling":
                self._cooling.set(identity, True, ttl=_ASK_AGAIN)
            elif claim.outcome == "stored":
                whole = await self._store.take_over(identity, lifetimes)
                if whole is not None:
                    flight.led_here, flight.leader = False, None
                    flight.add(Frame("whole", whole))
                    return
            elif cooldown is None:
                flight.led_here, flight.leader = False, claim.asker
                tailed = await self._leadership.tail(flight, claim)
                if tailed is Tailed.ENDED:
                    return
                if tailed is Tailed.LOST:
                    self._metrics.flights.labels("follower", "lost").inc()
            claim = None  # so none that leads, whatever comes
            flight.restart()
            if cooldown is not None:
                if flight.followers < 2:
                    return
                cooldown = None
        try:
            await self._lead(flight, leader, claim)
        except Overloaded:
            raise  # this replica has no room; that says nothing about the provider
        except Dub5Error:
            if cooldown is not None:
                self._cooling.set(identity, True, ttl=cooldown)
                await self._leadership.cool_down(identity, cooldown)
            raise

    async def _lead(self, flight: Flight, leader: Leader, claim: Claim | None) -> None:
        """Make the call, have its answer stored, and only then let followers know that it is complete."""
        flight.led_here, flight.leader = True, flight.asker
        try:
            write = await leader.run(flight)
            if write is not None:
                flight.stored = await self._store.keep(write)
            flight.end()
        except Dub5Error as error:
            flight.end(error)
            raise
        finally:
            if claim is not None:
                await self._leadership.release(claim)
