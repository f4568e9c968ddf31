"""One question, one call: all flights of this replica, and who leads them.

A flight belongs to the replica, not to the request that began it: its task runs until the answer is complete
and is cancelled when nobody follows any more.

Across replicas a lease in Redis decides who asks the provider (`leases`); on the others the flight tails the
leader's frames. Where the leader is lost, a flight *restarts*: followers that were given nothing yet carry on
unseen, with whoever leads next; those in the middle of an answer end with FlightLost, since a second answer
would not continue the first. Without Redis, or when it goes away, each replica flies on its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
from moka_py import Moka

from dub5.cache.flight import Asker, Flight, Follower, Frame, Identity
from dub5.cache.leases import Claim, Leases, Tailed
from dub5.errors import Dub5Error, InternalError, Overloaded
from dub5.redis.link import RedisUnavailable
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Metrics

_MAX_TAKEOVERS = 3
"""After so many lost leaders a replica asks the provider itself, lease or not."""

_ASK_AGAIN = 1.0
"""Seconds for which another replica's cooldown is believed before Redis is asked again."""

_log = get_logger()

Tell = Callable[[Frame], None]

Lead = Callable[[Tell], Awaitable[None]]
"""Asks the provider, gives each frame to its argument, stores the answer, and only then returns; called at most once
per lease. A callback and no generator: a chunk passes through many functions, and only one of them has to wait."""

Stored = Callable[[], Awaitable[bytes | None]]
"""Reads the whole stored answer, for a flight whose question was answered elsewhere while it took off."""


class Flights:
    """`leases` is None without Redis. `clock` is monotonic, in seconds."""

    def __init__(
        self, leases: Leases | None, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._leases = leases
        self._clock = clock
        self._metrics = metrics
        self._flying: dict[Identity, Flight] = {}
        self._aloft: dict[asyncio.Task[None], Flight] = {}
        self._abandoned = False
        self._cooling: Moka[Identity, bool] = Moka(10_000)
        metrics.flight_followers.set_function(self.followers)

    def follow(
        self,
        identity: Identity,
        lead: Lead,
        stored: Stored,
        *,
        seen: int,
        max_age: float | None = None,
        origin: bytes | None = None,
        asker: Asker | None = None,
    ) -> tuple[Follower, bool]:
        """A place in the flight of `identity`, and whether it was flying here already.

        `seen` is the birth of the stored answer that would not do, 0 without one. A flight that began more
        than `max_age` seconds ago would answer too old: such a request asks for itself.
        """
        flight = self._flying.get(identity)
        if flight is None or flight.ended or flight.abandoned:
            flight = Flight(origin, asker, began=self._clock())
            self._begin(flight, lambda: self._fly(identity, flight, lead, stored, seen), identity)
            return Follower(flight), False
        if max_age is not None and self._clock() - flight.began > max_age:
            return self.alone(lead), False
        return Follower(flight), True

    def alone(self, lead: Lead) -> Follower:
        """A flight that nobody can join, for requests that must not share."""
        flight = Flight()
        self._begin(flight, lambda: self._lead(flight, lead))
        return Follower(flight)

    def background(self, lead: Lead) -> None:
        """Ask a provider although nobody waits."""
        flight = Flight()
        flight.board()
        self._begin(flight, lambda: self._lead(flight, lead))

    def refresh(
        self,
        identity: Identity,
        lead: Lead,
        stored: Stored,
        *,
        seen: int,
        cooldown: float,
        asker: Asker | None = None,
    ) -> None:
        """Ask again in the background, once across all replicas; a failure stops further tries for `cooldown` s."""
        flying = self._flying.get(identity)
        if (flying is None or flying.ended) and not self._cooling.get(identity):
            flight = Flight(asker=asker, began=self._clock())
            flight.board()
            self._begin(
                flight, lambda: self._refresh(identity, flight, lead, stored, seen, cooldown), identity
            )

    def followers(self) -> int:
        """Who waits for the answers of all flights: requests here, replicas elsewhere, refreshes."""
        return sum(flight.followers for flight in list(self._aloft.values()))

    def abandon(self) -> None:
        """Cancel every flight, whoever follows: the process has to end now. `settle` waits for no new one then."""
        self._abandoned = True
        for task in self._aloft:
            task.cancel()

    async def settle(self) -> None:
        """Wait until every flight has ended: the last step of a drain."""
        while self._aloft:
            if self._abandoned:
                self.abandon()
            await asyncio.wait(list(self._aloft))

    def _begin(
        self, flight: Flight, work: Callable[[], Awaitable[None]], identity: Identity | None = None
    ) -> None:
        """Start the flight's task. Cleaning up is a callback: a task cancelled before it began runs nothing."""
        # What it raises is its followers'; `settle` and `abandon` end it.
        task = flight.task = asyncio.create_task(self._run(flight, work))  # noqa: TID251
        self._aloft[task] = flight
        if identity is not None:
            self._flying[identity] = flight
        task.add_done_callback(lambda task: self._landed(task, identity))

    def _landed(self, task: asyncio.Task[None], identity: Identity | None) -> None:
        flight = self._aloft.pop(task)
        flight.end(InternalError())  # where it was cancelled; nobody follows it then
        if identity is not None and self._flying.get(identity) is flight:
            del self._flying[identity]

    async def _run(self, flight: Flight, work: Callable[[], Awaitable[None]]) -> None:
        """Whatever happens to `work`, the flight ends, and so do its followers' waits."""
        outcome = "ok"
        try:
            await work()
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

    async def _fly(self, identity: Identity, flight: Flight, lead: Lead, stored: Stored, seen: int) -> None:
        for _ in range(_MAX_TAKEOVERS):
            claim = await self._claim(identity, flight, seen)
            if claim is None or claim.leads:
                await self._lead(flight, lead, claim)
                return
            if claim.stored:
                whole = await stored()
                if whole is not None:
                    flight.led_here, flight.leader = False, None
                    flight.add(Frame("whole", whole))
                    return
            elif await self._tail(flight, claim) is Tailed.ENDED:
                return
            flight.restart()
        await self._lead(flight, lead)

    async def _refresh(
        self, identity: Identity, flight: Flight, lead: Lead, stored: Stored, seen: int, cooldown: float
    ) -> None:
        claim = await self._claim(identity, flight, seen, background=True)
        if claim is not None and not claim.leads:
            if claim.outcome == "cooling":
                self._cooling.set(identity, True, ttl=_ASK_AGAIN)
            if claim.stored:
                await stored()  # take over what another replica has fetched
            if flight.followers > 1:  # a request joined meanwhile, and must not be left without an answer
                await self._fly(identity, flight, lead, stored, seen)
            return
        try:
            await self._lead(flight, lead, claim)
        except Overloaded:
            raise  # this replica has no room; that says nothing about the provider
        except Dub5Error:
            self._cooling.set(identity, True, ttl=cooldown)
            if self._leases is not None:
                await self._leases.cool_down(identity, cooldown)
            raise

    async def _claim(
        self, identity: Identity, flight: Flight, seen: int, *, background: bool = False
    ) -> Claim | None:
        """What Redis says of who leads; None where nobody can say."""
        if self._leases is None:
            return None
        try:
            return await self._leases.claim(identity, flight, seen=seen, background=background)
        except RedisUnavailable:
            return None

    async def _lead(self, flight: Flight, lead: Lead, claim: Claim | None = None) -> None:
        flight.led_here, flight.leader = True, flight.asker
        try:
            await lead(flight.add)
            flight.end()
        except Dub5Error as error:
            flight.end(error)
            raise
        finally:
            if claim is not None and self._leases is not None:
                await self._leases.release(claim)

    async def _tail(self, flight: Flight, claim: Claim) -> Tailed:
        assert self._leases is not None  # noqa: S101  # the claim came from there
        flight.led_here, flight.leader = False, claim.asker
        tailed = await self._leases.tail(flight, claim)
        if tailed is Tailed.LOST:
            self._metrics.flights.labels("follower", "lost").inc()
        return tailed
