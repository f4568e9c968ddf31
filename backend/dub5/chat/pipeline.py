"""The one way a request takes: resolve, look in the cache, ask a provider once for everybody, render.

    parse -> prepare -> recall (memory, no await)  -> hit
                     -> answer -> find (Redis)     -> hit
                               -> join a flight    -> whole answer, or a stream whose first frame is here

The first frame of a stream is awaited before `answer` returns, so a failure still has its true status; after
it, trouble is told in the stream. Cancelling `answer`, or closing the stream it returned, leaves the flight;
a flight that nobody follows any more cancels the provider's call.
"""

from __future__ import annotations

import functools
import hashlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from moka_py import Moka

from dub5.admission.keys import Caller
from dub5.cache.answers import AnswerCache, Found, Wanted
from dub5.cache.entry import Entry
from dub5.cache.flight import Follower, Frame
from dub5.cache.flights import Flights
from dub5.cache.freshness import Directives, State
from dub5.cache.key import answer_key, answer_key_in_steps, scope_of
from dub5.cache.policies import Policies
from dub5.cache.purges import names_of
from dub5.cache.samples import Sampler
from dub5.cache.status import CacheStatus, Forward
from dub5.chat import accounts, shapes
from dub5.chat.asking import Asking, Keeping, Means
from dub5.chat.cacheable import why_not_cached
from dub5.chat.catalog import Catalog, Target
from dub5.chat.question import Question
from dub5.chat.refreshing import Refreshing
from dub5.chat.relay import Relay, whole_of
from dub5.chat.request import ChatRequest
from dub5.errors import CallerError, InvalidRequest, NotCached, Overloaded, ProviderError
from dub5.json_steps import in_steps
from dub5.telemetry.record import RequestRecord

_TRIES = 3
"""Flights that a request joins where the first were turned away."""

_REFUSAL_TTL = 2.0
"""Seconds for which a provider's refusal of a request answers the same request again, to the letter."""


class Answer(msgspec.Struct, frozen=True):
    """`content` is the whole body, or the server-sent events still to come. `age` is in seconds."""

    content: bytes | Relay
    status: CacheStatus
    age: float | None = None


def _ignore(_status: CacheStatus) -> None:
    """Nobody wants to know."""


class Pipeline:
    """Answers questions. `undecodable` is told of what came through Redis and cannot be used: its kind, and why.

    `chance` is uniform in [0, 1).
    """

    def __init__(
        self,
        catalog: Catalog,
        cache: AnswerCache | None,
        flights: Flights,
        means: Means,
        *,
        policies: Policies,
        undecodable: Callable[[str, object], None],
        sampler: Sampler | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._catalog = catalog
        self._cache = cache
        self._flights = flights
        self._means = means
        self._metrics = means.metrics
        self._policies = policies
        self._sampler = sampler
        self._undecodable = undecodable
        self._refreshing = Refreshing(cache, flights, means, sampler, chance) if cache is not None else None
        self._refused: Moka[bytes, CallerError] = Moka(10_000, ttl=_REFUSAL_TTL)

    def prepare(
        self,
        request: ChatRequest,
        *,
        caller: Caller,
        asked: Directives,
        tags: tuple[str, ...],
        record: RequestRecord,
        deadline: float | None = None,
        key: str | None = None,
    ) -> Question:
        """Resolve the model or personality, and the key, where it is not known already.

        CallerError where the request cannot be answered.
        """
        target = self._catalog[request.model]
        personality = target.personality
        record.model, record.stream = target.model.name, request.stream
        record.personality = personality.name if personality is not None else None
        fields = personality.fields(request) if personality is not None else request.body
        bypass = "disabled" if self._cache is None else why_not_cached(fields, target.cache_class, asked)
        wanted = None
        if bypass is None:
            if key is None:
                key = answer_key(fields, **_keyed(target, caller, request, tags))
            wanted = self._wanted(key, target, caller.tenant, asked, tags)
        return Question(
            request=request,
            fields=fields,
            target=target,
            asked=asked,
            wanted=wanted,
            bypass=bypass,
            record=record,
            deadline=deadline,
        )

    async def key_of(self, request: ChatRequest, *, caller: Caller, tags: tuple[str, ...]) -> str:
        """What `prepare` would find the key to be, in steps: for a request that is large."""
        target = self._catalog[request.model]
        personality = target.personality
        fields = personality.fields(request) if personality is not None else request.body
        return await in_steps(answer_key_in_steps(fields, **_keyed(target, caller, request, tags)))

    def _wanted(
        self, key: str, target: Target, tenant: str, asked: Directives, tags: tuple[str, ...]
    ) -> Wanted:
        personality = target.personality
        return Wanted(
            key=key,
            names=names_of(
                tenant=tenant,
                class_name=target.class_name,
                model=target.model.name,
                personality=personality.name if personality is not None else None,
                tags=tags,
            ),
            lifetimes=self._policies.lifetimes(target.class_name),
            asked=asked,
        )

    def remembers(self, question: Question) -> bool:
        """Whether `recall` would answer now; counts nothing."""
        return self._in_memory(question) is not None

    def recall(self, question: Question) -> Answer | None:
        """A hit from memory, or None. Never waits."""
        found = self._in_memory(question)
        return self._hit(question, found) if found is not None else None

    def _in_memory(self, question: Question) -> Found | None:
        """What memory has that may be served now."""
        if question.wanted is None or self._cache is None:
            return None
        found = self._cache.recall(question.wanted)
        return found if found is not None and found.freshness.usable else None

    async def answer(self, question: Question, on_forward: Callable[[CacheStatus], None] = _ignore) -> Answer:
        """From Redis or a provider. Raises a Dub5Error with its true status.

        `on_forward` is told what is known as soon as the answer has to be waited for: nothing usable is stored.
        """
        wanted, cache = question.wanted, self._cache
        if wanted is None or cache is None:
            self._count_lookup(question, "bypass")
            if question.asked.only_if_cached:
                raise NotCached(f"Answers to this request are not cached: {question.bypass}.")
            asking = Asking(question, None, self._means)
            status = CacheStatus(fwd="bypass", detail=question.bypass)
            on_forward(status)
            return await self._follow(question, self._flights.alone(asking.lead), asking, status)
        found = None if wanted.asked.no_cache else await self._find(question, wanted, cache)
        if found is not None and found.freshness.usable:
            return self._hit(question, found)
        if wanted.asked.only_if_cached:
            self._count_lookup(question, "miss")
            raise NotCached("Nothing usable is stored for this request.")
        status = CacheStatus(fwd=_why_forwarded(wanted, found))
        on_forward(status)
        try:
            return await self._fly(question, wanted, cache, found, status)
        except ProviderError as error:
            if not error.is_outage:
                raise
            found = await self._find(question, wanted, cache)  # what was purged meanwhile must not come back
            if found is None or not (found.freshness.usable or found.freshness.state is State.IF_ERROR):
                raise
            return self._hit(question, found)

    async def _find(self, question: Question, wanted: Wanted, cache: AnswerCache) -> Found | None:
        started = time.perf_counter()
        found = await cache.find(wanted)
        question.record.timings["cache"] = time.perf_counter() - started
        return found

    async def _fly(
        self,
        question: Question,
        wanted: Wanted,
        cache: AnswerCache,
        found: Found | None,
        status: CacheStatus,
        *,
        tries: int = _TRIES,
    ) -> Answer:
        """Join the flight for this question, or be its first follower."""
        identity = cache.identity(wanted)
        body = _body_of(question)
        refused = self._refused.get(body)
        if refused is not None:
            raise refused.with_traceback(None)
        asking = Asking(question, Keeping(cache, identity, self._sampler), self._means)
        if wanted.asked.no_cache:  # it must not be answered by a flight that began before it
            return await self._follow(question, self._flights.alone(asking.lead), asking, status)
        follower, joined = self._flights.follow(
            identity,
            asking.lead,
            lambda: cache.stored(identity, wanted.lifetimes),
            seen=found.entry.born if found is not None else 0,
            max_age=wanted.asked.max_age,
            origin=body,
            asker=question.asker,
        )
        try:
            return await self._follow(question, follower, asking, status, joined=joined)
        except CallerError as error:
            if follower.origin != body:  # it may be about what is not part of the key: ask for ourselves
                return await self._follow(question, self._flights.alone(asking.lead), asking, status)
            self._refused.set(body, error)
            raise
        except Overloaded:
            # Its leader was turned away: a refresh, which never waits, one with little time, or one on a replica
            # that is full. That is no answer for those who joined it.
            if tries == 1 or (follower.led_here and not joined):
                raise
            return await self._fly(question, wanted, cache, found, status, tries=tries - 1)

    async def _follow(
        self,
        question: Question,
        follower: Follower,
        asking: Asking,
        status: CacheStatus,
        *,
        joined: bool = False,
    ) -> Answer:
        """Wait for the first frame of a stream, or for a whole answer."""
        streamed = question.request.stream
        started = time.perf_counter()
        try:
            frames = [await follower.next()] if streamed else await follower.all()
        except BaseException:
            _name_leader(question, follower)
            follower.leave()
            raise
        body: bytes | None = None
        if not (streamed or follower.led_here):
            body = await _answer_in(frames)
            if body is None:
                # Another replica's frames came through Redis, and are not what a leader sends: as if it were lost.
                self._undecodable("flight", "no answer")
                follower.leave()
                return await self._follow(question, self._flights.alone(asking.lead), asking, status)
        timings = question.record.timings
        timings["provider"] = time.perf_counter() - started - timings.get("queue", 0.0)  # parts add up
        collapsed = joined or not follower.led_here
        _name_leader(question, follower)
        stored = asking.stored and not collapsed and not streamed  # of a stream it is not known yet
        status = msgspec.structs.replace(status, collapsed=collapsed, stored=stored)
        if question.wanted is not None:
            self._count_lookup(question, "collapsed" if collapsed else "miss")
            self._sample(question, None, hit=False)
        saved = functools.partial(accounts.count_saved, question, self._metrics) if collapsed else None
        if streamed:
            return Answer(Relay(question, follower, frames[0], saved), status)
        follower.leave()
        if body is None:
            body = await whole_of([frame for frame in frames if frame is not None])
        if saved is not None:
            saved(shapes.usage_in(body))
        return Answer(body, status)

    def _hit(self, question: Question, found: Found) -> Answer:
        """Serve what is stored, and have it fetched anew where that is due."""
        entry, fresh = found.entry, found.freshness
        self._count_lookup(question, "stale" if fresh.ttl <= 0 else found.tier)
        self._metrics.cache_hit_age.labels(question.target.class_name).observe(fresh.age)
        usage = shapes.Usage(entry.prompt_tokens, entry.completion_tokens)
        accounts.count_saved(question, self._metrics, usage)
        self._sample(question, found, hit=True)
        if self._refreshing is not None:
            self._refreshing.after_hit(question, found)
        content = entry.body
        if question.request.stream:
            content = shapes.events_of(entry.body, include_usage=question.request.include_usage) + shapes.DONE
        status = CacheStatus(hit=True, ttl=fresh.ttl, detail=_DETAILS.get(fresh.state, found.tier))
        return Answer(content, status, fresh.age)

    @property
    def max_entry(self) -> int:
        """Bytes of the largest answer that is stored."""
        return self._cache.max_entry if self._cache is not None else 0

    async def put(self, question: Question, completion: bytes) -> None:
        """Store an answer that people have written. InvalidRequest where such a request is never cached."""
        wanted, cache = question.wanted, self._cache
        if wanted is None or cache is None:
            raise InvalidRequest(
                f"Answers to this request are not cached: {question.bypass}.", param="request"
            )
        entry = Entry(completion, int(cache.now() * 1e6), 0.0, 0, 0)
        if not await cache.store(cache.identity(wanted), entry, wanted.lifetimes):
            raise answer_too_large()

    def _sample(self, question: Question, found: Found | None, *, hit: bool) -> None:
        if self._sampler is not None and question.wanted is not None:
            entry = found.entry if found is not None else None
            usage = shapes.Usage(entry.prompt_tokens, entry.completion_tokens) if entry else shapes.Usage()
            price = accounts.dollars(question, usage)
            self._sampler.accessed(
                question.wanted.key, question.target.class_name, entry, dollars=price, hit=hit
            )

    def _count_lookup(self, question: Question, result: str) -> None:
        question.record.cache_result = result
        self._metrics.cache_lookups.labels(question.target.class_name, result).inc()


async def _answer_in(frames: Sequence[Frame | None]) -> bytes | None:
    """The completion that complete frames stand for; None where there is no answer in them."""
    try:
        body = await whole_of([frame for frame in frames if frame is not None])
        return body if msgspec.json.decode(body)["choices"] else None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def answer_too_large() -> InvalidRequest:
    return InvalidRequest("The answer is larger than cache.max_entry.", param="answer")


def _keyed(target: Target, caller: Caller, request: ChatRequest, tags: tuple[str, ...]) -> dict[str, Any]:
    """What a key is made of besides the request's fields."""
    share, personality = target.cache_class.share, target.personality
    return {
        "scope": scope_of(share, tenant=caller.tenant, key_id=caller.identity, user=request.user),
        "personality_revision": personality.revision if personality is not None else "",
        "model_revision": target.model.revision,
        "tags": tags,
    }


def _name_leader(question: Question, follower: Follower) -> None:
    """In the log, whose call this request waited for, where that was not its own: also where the call failed."""
    leader, record = follower.leader, question.record
    if leader == question.asker:
        leader = None
    record.leader_request_id = leader.request_id if leader is not None else None
    record.leader_trace_id = leader.trace_id if leader is not None else None


def _body_of(question: Question) -> bytes:
    """Tells whether two requests are the same to the letter, but for the shape of the answer, and of one tenant."""
    if question.request.digest is not None:  # of all its bytes; to encode them again would take long
        parts: list[Any] = [question.record.tenant, question.request.digest]
    else:
        parts = [question.record.tenant, {**question.request.body, "stream": None, "stream_options": None}]
    return hashlib.blake2b(msgspec.json.encode(parts, order="deterministic"), digest_size=16).digest()


_DETAILS = {
    State.REVALIDATE: "stale-while-revalidate",
    State.ACCEPTED: "max-stale",
    State.IF_ERROR: "stale-if-error",
}


def _why_forwarded(wanted: Wanted, found: Found | None) -> Forward:
    if wanted.asked.no_cache or (found is not None and found.freshness.state is State.REFUSED):
        return "request"
    return "uri-miss" if found is None else "stale"
