"""One question, one call: what the cache answers, the flights of this replica, who follows them, and who leads.

`Flights.answer` is the whole way of a question through the cache: what memory has, what Redis has, else a flight, which
is begun or joined; where every provider fails, an answer that is too old.

A *flight* is the answer to one question on its way: the frames that have arrived so far. It belongs to the replica and
not to the request that began it. Its task runs until the answer is complete, and is cancelled when nobody follows any
more; a whole answer that nobody may share is made in its request's own task. *Followers* read at their own pace, each
from its own position, so a slow one delays nobody; one that is up to date may take what comes in the turn in which it
comes, and need not be woken. Frames are the provider's own bytes; this module does not know what is in them.

One of the flights that have the same question *leads*: it makes the call, which it was handed as an object. When it
ends its answer is in memory, and on its way to Redis, so that whoever asks next finds it. Across replicas a lease in
Redis decides which one (`leases`); the others read the leader's frames. Where the leader is lost, a flight *restarts*:
followers that were given nothing yet carry on unseen, with whoever leads next; those in the middle of an answer end
with FlightLost, since a second answer would not continue the first. Without Redis, or when it goes away, each replica
leads its own.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import hashlib
import math
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Protocol

import msgspec
from moka_py import Moka

from dub5.cache.freshness import FRESH, GREATEST_DRAW, NO_DIRECTIVES, FreshnessState, refresh_early
from dub5.cache.samples import NoSampler, Samples, short_key
from dub5.cache.store import AnswerStore, CacheHit, CacheLookup, Entry, Identity, Kept
from dub5.contract import Canary
from dub5.errors import (
    CallerError,
    Dub5Error,
    FlightLost,
    InternalError,
    NotCached,
    Overloaded,
    ProviderError,
    shutting_down,
    without_trace,
)
from dub5.frames import Frame
from dub5.redis.link import RedisUnavailable, Words
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Metrics
from dub5.telemetry.record import RequestRecord

COOLDOWN = 10.0
"""Seconds without another try after a refresh failed."""

_TRIES = 3
"""Flights that a request follows anew: whose leader was turned away, or whose beginner had not looked first."""

_REFUSAL_TTL = 2.0
"""Seconds for which a provider's refusal of a request answers the same request again, to the letter."""

_MAX_TAKEOVERS = 3
"""After so many lost leaders a replica asks the provider itself, lease or not."""

_ASK_AGAIN = 1.0
"""Seconds for which another replica's cooldown is believed before Redis is asked again."""

_DETAILS = {
    FreshnessState.REVALIDATE: "stale-while-revalidate",
    FreshnessState.ACCEPTED: "max-stale",
    FreshnessState.IF_ERROR: "stale-if-error",
}
_REVALIDATE = FreshnessState.REVALIDATE
_SERVED = (FRESH, _REVALIDATE)
"""Hits of which a share may be stale at most; others were stale when they were served, and it was said."""
_canonical_json = msgspec.json.Encoder(order="deterministic")
_log = get_logger()

Forward = Literal["bypass", "uri-miss", "stale", "request", "partial"]
"""RFC 9211, section 2.2: not consulted, nothing there, too old, the request asked for a new one, or a part is there."""


class CacheStatus(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How a lookup came out: one member of the list in a Cache-Status header (RFC 9211). `hit` and `fwd` exclude each
    other. `ttl_by` says why the TTL is what it is, where it is the answer's own. `text` is all of it, where that is
    known already."""

    hit: bool = False
    fwd: Forward | None = None
    ttl: float | None = None
    ttl_by: str | None = None
    stored: bool = False
    collapsed: bool = False
    detail: str | None = None
    text: str = ""

    def __str__(self) -> str:
        return self.text or (self._said() if self.ttl is not None else _said_before(self))

    def _said(self) -> str:
        said = "dub5; hit" if self.hit else "dub5"
        if self.fwd is not None:
            said += f"; fwd={self.fwd}"
        if self.ttl is not None:
            said += f"; ttl={int(self.ttl // 1)}"
        if self.ttl_by is not None:
            said += f"; ttl-by={self.ttl_by}"
        if self.stored:
            said += "; stored"
        if self.collapsed:
            said += "; collapsed"
        if self.detail is not None:
            said += f"; detail={self.detail}"
        return said


@functools.lru_cache(256)
def _said_before(status: CacheStatus) -> str:
    """Of what takes no time there are few."""
    return status._said()  # noqa: SLF001  # beside it


@functools.lru_cache(1024)
def _hit_status(ttl: int, ttl_by: str | None, detail: str) -> CacheStatus:
    """Many answers of one second have the same."""
    status = CacheStatus(hit=True, ttl=ttl, ttl_by=ttl_by, detail=detail)
    return msgspec.structs.replace(status, text=str(status))


class LookFirst(Dub5Error):
    """Somebody was here before, and who asked had not looked into Redis: at what is stored, and at what was purged, so
    that nobody joins what began before a purge. No request's error."""

    def __init__(self) -> None:
        super().__init__("There is an answer, or a leader.")


Take = Callable[[list[Frame]], bool]
"""Called with frames as they come; False, and nothing was done with them. What it raises is the follower's."""


class Asker(msgspec.Struct, frozen=True, gc=False):
    """The request for which a provider is asked: its id, and that of its trace."""

    request_id: str
    trace_id: str


class Made(msgspec.Struct, frozen=True):
    """A complete answer of a provider that may be stored. `completion` is its body, decoded.

    `age` is how long ago it was as it is: since its call began, and what another cache had held it for. `recompute` is
    how long the call took. Both are in seconds.
    """

    body: bytes
    completion: dict[str, Any]
    age: float
    recompute: float
    prompt_tokens: int
    completion_tokens: int


class CacheQuestion(Protocol):
    """What is asked. `lookup` is None where the cache is not to be used; `bypass` says why."""

    @property
    def lookup(self) -> CacheLookup | None: ...
    @property
    def bypass(self) -> str | None: ...
    @property
    def record(self) -> RequestRecord: ...


class Behind(Protocol):
    """The call that may be made behind an answer that is stored."""

    def again(self) -> Leader:
        """One in the background: nobody waits for it."""
        ...


class Leader(Behind, Protocol):
    """The call that a flight makes where it leads. `made` is what is to be stored of it, once it is over."""

    @property
    def made(self) -> Made | None: ...

    async def call(self, identity: Identity | None, on_frames: Callable[[list[Frame]], None]) -> None:
        """Ask the provider, and call `on_frames` with what comes. Raises a Dub5Error where no provider has an answer.
        Called at most once. `identity` is what the answer will be stored under."""
        ...


class CacheAnswer(msgspec.Struct, frozen=True):
    """A stored answer, or one that has just been made.

    Of a streamed one `coming` gives the frames as they come, the first of which are here: close it, always. Of a whole
    one `frames` are all. `led_here`: the call was made by this replica.
    """

    status: CacheStatus
    hit: CacheHit | None = None
    frames: list[Frame] = []
    coming: Following | None = None
    led_here: bool = True


def _origin_of(words: Any) -> bytes:
    return hashlib.blake2b(_canonical_json.encode(words), digest_size=16).digest()


class _Coming(msgspec.Struct, eq=False, kw_only=True):
    """Of a flight, what each frame needs: fields of a base are side by side, and so in one line of a cache."""

    frames: list[Frame] = []
    taking: list[tuple[Following, Take, asyncio.Future[None]]] = []
    """Followers that are up to date, and take what comes as it comes. One that takes it no more is woken; only then its
    position is known to it."""
    waiting: list[asyncio.Future[None]] = []


class Flight(_Coming, eq=False):
    """The frames so far. `began` is in monotonic seconds. `led_here` is None until it is decided which replica asks the
    provider; `stored` says that the answer of a call made here was fit to be kept.

    `followers` counts the requests of this replica, the other replicas that follow, and a background refresh
    itself; when the last one leaves, the flight is `abandoned`: its task is cancelled, and nobody may join it.
    Of an `unseen` one nobody has looked into Redis: it ends with LookFirst where it does not lead.
    `words` are those of the request that it was begun for, and `asker` that request; `leader` is the one whose call
    answers it, perhaps another replica's.
    """

    words: Any = None
    asker: Asker | None = None
    leader: Asker | None = None
    began: float = 0.0
    followers: int = 0
    generation: int = 0
    ended: bool = False
    error: Dub5Error | None = None
    led_here: bool | None = None
    stored: bool = False
    unseen: bool = False
    abandoned: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def origin(self) -> bytes | None:
        """Tells whether two requests are the same to the letter, but for the shape of the answer."""
        return None if self.words is None else _origin_of(self.words)

    def leave(self) -> None:
        self.followers -= 1
        if self.followers == 0 and not self.ended and self.task is not None:
            self.abandoned = True
            self.task.cancel()

    def add(self, frames: list[Frame]) -> None:
        """These have come."""
        self.frames.extend(frames)
        for each in tuple(self.taking):
            _, take, woken = each
            defect = None
            if not woken.done():  # else it was cancelled
                try:
                    if take(frames):
                        continue
                except Exception as error:  # noqa: BLE001  # of which only this one must learn
                    defect = error
            self._stop(each, len(self.frames) - len(frames), defect)
        if self.waiting:
            self._wake()

    def end(self, error: Dub5Error | None = None) -> None:
        """The answer is complete, or will never be."""
        if not self.ended:
            self.ended, self.error = True, error
            self._stop_all()

    def restart(self) -> None:
        """Forget what a lost leader sent; whoever was given part of it cannot go on."""
        if self.frames:
            self._stop_all()
            self.frames = []
            self.generation += 1

    def changed(self) -> asyncio.Future[None]:
        """To be awaited: done with the next frame, the end or a restart."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        return future

    def _stop_all(self) -> None:
        """There is nothing more to take: wake all."""
        for each in tuple(self.taking):
            self._stop(each, len(self.frames))
        self._wake()

    def _stop(
        self,
        taking: tuple[Following, Take, asyncio.Future[None]],
        position: int,
        defect: Exception | None = None,
    ) -> None:
        follower, _, woken = taking
        self.taking.remove(taking)
        follower.position = position
        if woken.done():
            return
        if defect is None:
            woken.set_result(None)
        else:
            woken.set_exception(defect)

    def _wake(self) -> None:
        """Those who wait."""
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class Following(msgspec.Struct, eq=False):
    """What one of a flight's `followers` has still to read. To be closed: then it has left."""

    flight: Flight
    position: int = 0
    generation: int = 0
    left: bool = False

    async def next(self, take: Take | None = None) -> list[Frame]:
        """What has arrived since the last time, as soon as there is something; nothing at the end. Raises the flight's
        error, or FlightLost in the middle of an answer; whoever is raised something has left.

        With `take` it waits until that cannot take what comes.
        """
        flight = self.flight
        if self.left:
            return []
        try:
            while True:
                if self.generation != flight.generation:
                    if self.position:
                        raise FlightLost
                    self.generation = flight.generation
                if self.position < len(flight.frames):
                    frames = flight.frames[self.position :]
                    self.position += len(frames)
                    return frames
                if flight.ended:
                    break
                if take is None:
                    await flight.changed()
                else:
                    woken = asyncio.get_running_loop().create_future()
                    flight.taking.append((self, take, woken))
                    await woken
            if flight.error is not None:
                # Shared by all followers: without this each would add its own traceback to it.
                raise flight.error.with_traceback(None)
        except BaseException:
            self.close()
            raise
        self.close()
        return []

    def close(self) -> None:
        """May be called again."""
        if not self.left:
            self.left = True
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


class ReAsk(msgspec.Struct):
    """A call to a provider to compare its answer with the one that was `served`: what it brought, and whether the two
    differ."""

    served: Entry
    source: Literal["re-ask", "canary"]
    answer: Entry | None = None
    differs: bool = False


class Leadership(Protocol):
    """What decides among replicas who leads a flight: `leases`, or OneReplica where there are no others."""

    async def claim(self, identity: Identity, flight: Flight, *, seen: int, background: bool) -> Claim | None:
        """Ask to lead. None where there is nobody to ask: then this replica leads, and has nothing to give back.
        RedisUnavailable where that cannot be known."""
        ...

    async def tail(self, flight: Flight, claim: Claim) -> Tailed:
        """Give `flight` the leader's frames until its end, or until the leader is lost."""
        ...

    async def release(self, claim: Claim, put: Words = ()) -> Any:
        """The flight that led has ended. First have its answer kept by the command `put`, where there is one, in the
        same turn: whoever leads next finds it. Gives what Redis said to it, None where it did not."""
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

    async def release(self, claim: Claim, put: Words = ()) -> None:
        """Nothing was taken."""

    async def cool_down(self, identity: Identity, seconds: float) -> None:
        """There is no other replica."""


class Flights:
    """The cache as a question meets it, and all flights of this replica.

    `clock` is monotonic, in seconds. `rng` gives uniform numbers in [0, 1). `sampler` notes what is looked up and
    fetched.
    """

    def __init__(
        self,
        store: AnswerStore,
        leadership: Leadership,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        sampler: Samples | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._clock = clock
        self._metrics = metrics
        self._sampler: Samples = sampler or NoSampler()
        self._rng = rng
        self._ages = functools.cache(metrics.cache_hit_age.labels)
        self._own_ttls = functools.cache(metrics.cache_own_ttl.labels)
        self._by_identity: dict[Identity, Flight] = {}
        self._in_flight: dict[asyncio.Task[None], Flight] = {}
        self._abandoned = False
        self._cooling: Moka[Identity, bool] = Moka(10_000)
        self._refused: Moka[bytes, CallerError] = Moka(10_000, ttl=_REFUSAL_TTL)
        self._refused_until = 0.0  # no refusal is good for longer
        metrics.flight_followers.set_function(self.followers)

    async def answer(
        self,
        question: CacheQuestion,
        leader: Leader,
        on_forward: Callable[[CacheStatus], None] | None = None,
        *,
        alone: bool = False,
        turned_back: int = 0,
    ) -> CacheAnswer:
        """What is stored, or what a flight brings: of a stream as soon as its first frames are here. What memory has
        comes without a wait. Where Redis seldom has what memory has not, a lease is asked for without a look there
        first: that takes a turn less, and says as well where something is stored.

        `turned_back`: how often this had to begin again, since a flight that had not looked was told that another
        replica leads; it looks first from then on.

        `on_forward` is called with what is known as soon as the answer has to be waited for: nothing usable is stored.
        `alone`: nothing stored will do, nor what others ask for. Raises a Dub5Error with its true status.
        """
        lookup, record, hit, unseen = question.lookup, question.record, None, False
        if lookup is None:
            status = CacheStatus(fwd="bypass", detail=question.bypass)
        else:
            asked = lookup.directives
            if not (alone or asked.no_cache):
                hit = self._store.recall(lookup)
                looks = turned_back or asked.only_if_cached or self._store.looks_first(lookup.class_name)
                unseen = hit is None and not looks
                if not unseen and (hit is None or not hit.usable):
                    hit = await self._find(lookup, record)
                if hit is not None and hit.usable:
                    return CacheAnswer(self.serve(question, lookup, leader, hit), hit)
            if asked.only_if_cached:
                raise NotCached("Nothing usable is stored for this request.")
            refused = hit is not None and hit.state is FreshnessState.REFUSED
            if asked.no_cache or refused:
                status = CacheStatus(fwd="request")
            else:
                status = CacheStatus(fwd="uri-miss" if hit is None else "stale")
        if on_forward is not None:
            on_forward(status)
        if lookup is None and not record.stream:
            return await self._ask_alone(record, leader, status)
        try:
            return await self._follow(question, lookup, leader, status, hit, alone=alone, unseen=unseen)
        except LookFirst:
            alone = turned_back >= _TRIES
            return await self.answer(question, leader, alone=alone, turned_back=turned_back + 1)
        except ProviderError as error:
            if lookup is None or alone or not error.is_outage:
                raise
            hit = await self._find(lookup, record)  # what was purged meanwhile must not come back
            if hit is None or not (hit.usable or hit.state is FreshnessState.IF_ERROR):
                raise
            return CacheAnswer(self.serve(question, lookup, leader, hit), hit)

    def recall(self, question: CacheQuestion, behind: Behind) -> CacheAnswer | None:
        """What memory has, where it may be used: for those who look for many answers before they wait for any."""
        lookup = question.lookup
        hit = None if lookup is None else self._store.recall(lookup)
        if lookup is None or hit is None or not hit.usable:
            return None
        return CacheAnswer(self.serve(question, lookup, behind, hit), hit)

    def judge_plain(
        self, lookup: CacheLookup, entry: Entry, tier: str, of: int | None
    ) -> tuple[float, str] | None:
        """The age in seconds and the Cache-Status of what was found in that tier: `serve` of what is fresh and has
        nothing behind it, as most, but nothing is counted. None where it may be otherwise, or is not the answer with
        the hash `of`, where there is one."""
        lifetimes = lookup.lifetimes
        if lookup.directives is not NO_DIRECTIVES or lifetimes.question is not None or lifetimes.canary:
            return None
        if of is not None and hash(entry.body) != of:
            return None
        if self._sampler.re_asks >= 1.0 and lookup.may_re_ask:
            return None
        age = self._store.now() - entry.born / 1e6
        ttl = lifetimes.ttl - age
        if age < 0 or ttl <= GREATEST_DRAW * entry.recompute:
            return None
        return age, _hit_status(int(ttl), None, tier).text

    def note_plain(self, lookup: CacheLookup, entry: Entry) -> None:
        """What it found is given: all that is noted of that but its age."""
        if self._sampler.wanted:
            self._note(lookup, entry, None)

    async def _find(self, lookup: CacheLookup, record: RequestRecord) -> CacheHit | None:
        started = time.perf_counter()
        hit = await self._store.find(lookup)
        record.timings["cache"] = time.perf_counter() - started
        return hit

    async def _ask_alone(self, record: RequestRecord, leader: Leader, status: CacheStatus) -> CacheAnswer:
        """A whole answer that nobody else may have: its flight is flown by the request's own task."""
        flight, task, started = Flight(followers=1), asyncio.current_task(), time.perf_counter()
        assert task is not None  # noqa: S101  # for mypy
        self._in_flight[task] = flight
        try:
            await self._fly(flight, leader, None, None)
        except asyncio.CancelledError:
            if not self._abandoned or task.uncancel():  # else nobody but `abandon` has cancelled it
                raise
            raise shutting_down() from None
        finally:
            del self._in_flight[task]
        if flight.error is not None:
            raise flight.error.with_traceback(None)
        record.timings["provider"] = time.perf_counter() - started - record.timings.get("queue", 0.0)
        return CacheAnswer(status, None, flight.frames)

    async def _follow(
        self,
        question: CacheQuestion,
        lookup: CacheLookup | None,
        leader: Leader,
        status: CacheStatus,
        hit: CacheHit | None,
        *,
        alone: bool,
        unseen: bool,
    ) -> CacheAnswer:
        """Follow the flight for this question, or begin it, and wait for its first frames, or for a whole answer.

        `hit` is what is stored and would not do. `unseen`: Redis was not asked, and LookFirst is raised where somebody
        was here before.
        """
        record, seen = question.record, hit.entry.born if hit is not None else 0
        asker = Asker(record.request_id, record.trace.trace_id)
        identity = None
        if lookup is not None:
            # A flight that began before it must not answer it.
            alone = alone or lookup.directives.no_cache
        for tries_left in reversed(range(_TRIES + 1)):
            joined = False
            if lookup is not None:
                if not alone and self._clock() < self._refused_until:
                    refused = self._refused.get(_origin_of(lookup.words))
                    if refused is not None:
                        raise refused.with_traceback(None)
                identity = self._store.identity(lookup)
            if lookup is None or identity is None or alone:
                flight = Flight()  # nobody can join it
                self._begin(flight, self._fly(flight, leader, identity, lookup))
            else:
                found, max_age = self._by_identity.get(identity), lookup.directives.max_age
                if found is None or found.ended or found.abandoned:
                    flight = Flight(lookup.words, asker, asker, self._clock(), unseen=unseen)
                    work = self._fly(flight, leader, identity, lookup, shared=True, seen=seen)
                    self._begin(flight, work, identity)
                elif max_age is not None and self._clock() - found.began > max_age:
                    alone = True  # what it brings would be too old
                    continue
                elif unseen:
                    raise LookFirst
                else:
                    flight, joined = found, True
            flight.followers += 1
            started, coming = time.perf_counter(), None
            frames: list[Frame] = []
            try:
                if record.stream:
                    coming = Following(flight)
                    await coming.next()
                    coming.position = 0  # they are here, and still to be given
                else:
                    try:
                        while not flight.ended:  # a restart on the way goes unseen
                            await flight.changed()
                        if flight.error is not None:
                            raise flight.error.with_traceback(None)
                        frames = flight.frames
                    finally:
                        flight.leave()
            except CallerError as error:
                if alone or lookup is None:
                    raise
                if flight.words is not None and flight.origin == (origin := _origin_of(lookup.words)):
                    self._refused.set(origin, error)
                    self._refused_until = self._clock() + _REFUSAL_TTL
                    raise
                alone = True  # it may be about what is not part of the key: ask for ourselves
                continue
            except Overloaded:
                # Its leader was turned away: a refresh, which never waits, one with little time, or one on a replica
                # that is full. That is no answer for those who joined it.
                own = flight.led_here and not joined
                if alone or tries_left <= 1 or lookup is None or own or self._abandoned:
                    raise
                continue
            finally:
                # In the log, whose call this request waited for, where that was not its own: also where it failed.
                other = flight.leader if flight.leader != asker else None
                record.leader_request_id = other.request_id if other is not None else None
                record.leader_trace_id = other.trace_id if other is not None else None
                if other is None and not (flight.ended or flight.abandoned):
                    # Or it will be: others follow what this request has begun, also where it has left.
                    record.called = True
            # The parts of Server-Timing add up: what was waited at the gate is one of its own.
            record.timings["provider"] = time.perf_counter() - started - record.timings.get("queue", 0.0)
            collapsed = joined or not flight.led_here
            stored = flight.stored and not (collapsed or record.stream)  # of a stream it is not known yet
            if lookup is not None:
                # Where nothing was found it is not known which TTL of its own that had: it may have been any.
                ttl = hit.own_ttl if hit is not None else None if lookup.lifetimes.question is None else 0.0
                self._sampler.accessed(
                    lookup.key, lookup.class_name, None, dollars=0.0, hit=False, ttl=ttl, joined=collapsed
                )
            status = msgspec.structs.replace(status, collapsed=collapsed, stored=stored)
            return CacheAnswer(status, None, frames, coming, bool(flight.led_here))
        raise AssertionError  # the last try returns or raises

    def _note(self, lookup: CacheLookup, entry: Entry, own_ttl: float | None) -> None:
        """An answer that is given, with a TTL of its own or none."""
        prices = lookup.prices
        dollars = entry.prompt_tokens * prices[0] + entry.completion_tokens * prices[1]
        self._sampler.accessed(lookup.key, lookup.class_name, entry, dollars=dollars, hit=True, ttl=own_ttl)

    def serve(
        self, question: CacheQuestion, lookup: CacheLookup, behind: Behind, hit: CacheHit
    ) -> CacheStatus:
        """Count what is stored as given, and ask again behind it: because it is stale, soon will be, or to measure
        whether it still holds. Nobody waits for that, and the record of the question is read only there."""
        entry, state, ttl, sampler = hit.entry, hit.state, hit.ttl, self._sampler
        if hit.ttl_by is not None:
            self._own_ttls(lookup.class_name, hit.ttl_by).observe(hit.lifetimes.ttl)
        self._ages(lookup.class_name).observe(hit.age)
        self._note(lookup, entry, hit.own_ttl)
        if hit.question is not None:
            hit.question.served(entry, sampler.replicas)
        # Else there is no draw by which it would be refreshed early.
        soon = ttl <= GREATEST_DRAW * entry.recompute
        re_ask = sampler.re_asks >= 1.0 and lookup.may_re_ask
        if state is FRESH and not soon and not re_ask and not lookup.lifetimes.canary:  # as most
            return _hit_status(math.floor(ttl), hit.ttl_by, hit.tier)
        # In (0, 1], as its logarithm is taken.
        due = state is _REVALIDATE or (
            state is FRESH
            and soon
            and refresh_early(
                ttl=ttl,
                recompute=entry.recompute,
                lifetimes=hit.lifetimes,
                draw=1.0 - self._rng(),
            )
        )
        if due:
            identity = self._store.identity(lookup)
            flying = self._by_identity.get(identity)
            if (flying is None or flying.ended) and not self._cooling.get(identity):
                record = question.record
                asker = Asker(record.request_id, record.trace.trace_id)
                flight = Flight(None, asker, asker, self._clock(), followers=1)
                work = self._fly(
                    flight,
                    behind.again(),
                    identity,
                    lookup,
                    shared=True,
                    seen=entry.born,
                    cooldown=COOLDOWN,
                )
                self._begin(flight, work, identity)
        elif state is FRESH and re_ask:
            sampler.spend_re_ask()
            flight, identity = Flight(followers=1), self._store.identity(lookup)
            work = self._fly(flight, behind.again(), identity, lookup, re_ask=ReAsk(entry, "re-ask"))
            self._begin(flight, work)
        if lookup.lifetimes.canary and state in _SERVED and lookup.may_re_ask:
            weight = sampler.draw_canary(lookup.class_name, lookup.lifetimes.canary, self._rng())
            if weight:
                flight = Flight(followers=1)
                self._begin(flight, self._measure(flight, behind, lookup, entry, weight))
        detail = hit.tier if state is FRESH else _DETAILS.get(state, hit.tier)
        return _hit_status(math.floor(ttl), hit.ttl_by, detail)

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
        """Start the flight's task, its only one; with an `identity`, others may join it."""
        # What it raises is its followers'; `settle` and `abandon` end it.
        task = flight.task = asyncio.create_task(work)  # noqa: TID251
        self._in_flight[task] = flight
        if identity is not None:
            self._by_identity[identity] = flight
        task.add_done_callback(functools.partial(self._ended, flight, identity))

    def _ended(self, flight: Flight, identity: Identity | None, task: asyncio.Task[None]) -> None:
        """A callback, since a task that was cancelled before it began runs no `finally`."""
        del self._in_flight[task]
        # One that was cancelled keeps the trace of that, and with it all that its call had.
        flight.task = None
        if not flight.ended:  # where it was cancelled nobody follows it, or the process ends
            flight.end(shutting_down() if task.cancelled() else InternalError())
        if identity is not None and self._by_identity.get(identity) is flight:
            del self._by_identity[identity]

    async def _fly(
        self,
        flight: Flight,
        leader: Leader,
        identity: Identity | None,
        lookup: CacheLookup | None,
        *,
        shared: bool = False,
        seen: int = 0,
        cooldown: float | None = None,
        re_ask: ReAsk | None = None,
    ) -> None:
        """Until the flight has its answer; whatever happens, it ends, and so do its followers' waits.

        A `shared` one leads, or follows whoever leads, again and again where a leader is lost. With a `cooldown` it is
        a refresh, which nobody needs: where another replica leads, or one has failed of late, it is over, unless a
        request has joined it meanwhile. That must not be left without an answer. Of a `re_ask` the
        answer is compared with what was served, and kept only where it differs.
        """
        claim, outcome = None, "ok"
        try:
            for _ in range(_MAX_TAKEOVERS if shared and identity is not None and lookup is not None else 0):
                assert identity is not None and lookup is not None  # noqa: S101, PT018  # for mypy
                if flight.unseen and lookup.lifetimes.question is not None:
                    self._store.ask_known(identity.key)  # in the same turn
                try:
                    claim = await self._leadership.claim(
                        identity, flight, seen=seen, background=cooldown is not None
                    )
                except RedisUnavailable:
                    claim = None
                if claim is not None and flight.unseen:
                    leads, flight.unseen = claim.outcome == "lead", False
                    self._store.looked(lookup.class_name, found=not leads)
                    if not leads:
                        flight.led_here, flight.leader = False, None
                        flight.end(LookFirst())
                        return
                if claim is None or claim.outcome == "lead":
                    break
                if claim.outcome == "cooling":
                    self._cooling.set(identity, True, ttl=_ASK_AGAIN)
                elif claim.outcome == "stored":
                    whole = await self._store.take_over(identity, lookup.lifetimes)
                    if whole is not None:
                        flight.led_here, flight.leader = False, None
                        flight.add([Frame("whole", whole)])
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
            flight.led_here, flight.leader = True, flight.asker
            kept: Kept | None = None
            try:
                await leader.call(identity, flight.add)
                if leader.made is not None and identity is not None and lookup is not None:
                    kept = await self._keep(identity, lookup, leader.made, re_ask)
                    flight.stored = kept is not None
                # Whoever asks next finds it: here in memory; elsewhere in Redis, for it is written before the lease is
                # given back, and until then who asks for that follows this flight.
                flight.end()
            except Dub5Error as error:
                flight.end(error)
                raise
            finally:
                if claim is not None:
                    written = await self._leadership.release(claim, kept.put if kept is not None else ())
                    if kept is not None and written is not None and not written:
                        self._store.written(kept, written)
                elif kept is not None:
                    await self._store.write(kept)
        except Dub5Error as error:
            outcome = "error"
            # That this replica has no room says nothing about the provider.
            full = isinstance(error, Overloaded)
            if re_ask is not None and lookup is not None and not full:
                self._sampler.failed(lookup.class_name, re_ask.source)
            if cooldown is not None and identity is not None and not full:
                self._cooling.set(identity, True, ttl=cooldown)
                await self._leadership.cool_down(identity, cooldown)
        except asyncio.CancelledError:
            outcome = "unfollowed"
            raise
        except Exception:  # noqa: BLE001  # a defect must not leave followers waiting for ever
            outcome = "defect"
            asker = msgspec.structs.asdict(flight.asker) if flight.asker is not None else {}
            _log.exception("flight failed", **asker)
            flight.end(InternalError())
        finally:
            if outcome == "ok":
                flight.end()
            elif flight.error is not None:
                without_trace(flight.error)
            self._metrics.flights.labels("leader" if flight.led_here else "follower", outcome).inc()

    async def _measure(
        self, flight: Flight, behind: Behind, lookup: CacheLookup, served: Entry, weight: float
    ) -> None:
        """See whether an answer that was served is stale: one hit in `weight`. Where it differs, and for some that do
        not, see also whether two answers do that are fetched one after the other."""
        sampler, identity = self._sampler, self._store.identity(lookup)
        first = ReAsk(served, "canary")
        await self._fly(flight, behind.again(), identity, lookup, re_ask=first)
        if first.answer is None:
            return
        reworded = None
        if sampler.check_canary(lookup.class_name, self._rng(), changed=first.differs):
            second = ReAsk(first.answer, "canary")
            again = Flight(followers=1)
            await self._fly(again, behind.again(), self._store.identity(lookup), lookup, re_ask=second)
            if second.answer is None:
                return  # to leave it out of those that are checked would make all of them look better
            reworded = second.differs
        sampler.measured(
            Canary(
                short_key(lookup.key),
                lookup.class_name,
                served.born / 1e6,
                first.answer.born / 1e6,
                weight,
                first.differs,
                reworded,
            )
        )

    async def _keep(
        self, identity: Identity, lookup: CacheLookup, made: Made, re_ask: ReAsk | None
    ) -> Kept | None:
        """Keep a complete answer here, and have it compared with the one before it. None where it was not fit to be
        kept."""
        entry = Entry(
            made.body,
            int((self._store.now() - made.age) * 1e6),
            made.recompute,
            made.prompt_tokens,
            made.completion_tokens,
        )
        # Its comparison is begun before the answer is written, so that both go to Redis together.
        differs = await self._sampler.fetched(
            identity,
            lookup.class_name,
            entry,
            made.completion,
            lookup.compare,
            lifetimes=lookup.lifetimes,
            compared_with=re_ask.served if re_ask is not None else None,
            source=re_ask.source if re_ask is not None else "refetch",
        )
        if re_ask is not None:
            re_ask.answer, re_ask.differs = entry, differs
        return self._store.keep(identity, entry, lookup.lifetimes) if differs else None
