"""The one way a request takes: resolve, look in the cache, ask a provider once for everybody.

    parse -> prepare -> recall (memory, no await)    -> hit
                     -> answer -> find (Redis)       -> hit
                               -> follow a flight    -> whole answer, or a stream whose first frame is here

A flight that leads runs the ProviderCall that it was given: gate, provider, frames to all who follow, and what is to be
stored. Where another request leads, here or on another replica, the ProviderCall is never run.

The first frame of a stream is awaited before `answer` returns, so a failure still has its true status; after
it, an error is an event of the stream. Cancelling `answer`, or closing the stream it returned, leaves the flight;
a flight that nobody follows any more cancels the provider's call.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import msgspec
from moka_py import Moka

from dub5.admission.gate import Gate
from dub5.admission.keys import Caller
from dub5.cache.entry import Entry, Identity
from dub5.cache.flights import Flight, Flights, Follower, Frame
from dub5.cache.freshness import Directives, FreshnessState, refresh_early
from dub5.cache.policies import Policies
from dub5.cache.purges import names_of
from dub5.cache.store import AnswerStore, CacheHit, CacheLookup, CacheWrite
from dub5.chat.answer import (
    Answer,
    CacheStatus,
    Relay,
    Usage,
    is_usage_only,
    is_whole_answer,
    usage_in,
    usage_of,
    whole_of,
)
from dub5.chat.catalog import Catalog, Target
from dub5.chat.question import Question, answer_key, answer_key_in_steps, scope_of, why_not_cached
from dub5.chat.request import ChatRequest
from dub5.errors import CallerError, Dub5Error, InvalidRequest, NotCached, Overloaded, ProviderError
from dub5.json_steps import in_steps
from dub5.providers.call import CallResult
from dub5.providers.chunks import Assembler
from dub5.providers.protocol import Payload
from dub5.telemetry.logging import get_logger, milliseconds
from dub5.telemetry.metrics import Metrics
from dub5.telemetry.record import RequestRecord, Tracer, chat_span

COOLDOWN = 10.0
"""Seconds without another try after a refresh failed."""

_TRIES = 3
"""Flights that a request follows where the first were turned away."""

_REFUSAL_TTL = 2.0
"""Seconds for which a provider's refusal of a request answers the same request again, to the letter."""

_DETAILS = {
    FreshnessState.REVALIDATE: "stale-while-revalidate",
    FreshnessState.ACCEPTED: "max-stale",
    FreshnessState.IF_ERROR: "stale-if-error",
}
_FAILED = {"error", "timeout", "limited", "overloaded"}

_log = get_logger()


class Services(msgspec.Struct, frozen=True):
    """What a call to a provider takes from the rest of the replica."""

    gate: Gate
    store: AnswerStore
    metrics: Metrics
    tracer: Tracer


def _ignore(_status: CacheStatus) -> None:
    """For callers that render nothing before the answer is there."""


class Pipeline:
    """Answers questions. `undecodable` is called with the kind of what came through Redis and cannot be used, and why.

    `rng` gives uniform numbers in [0, 1).
    """

    def __init__(
        self,
        catalog: Catalog,
        flights: Flights,
        services: Services,
        *,
        policies: Policies,
        undecodable: Callable[[str, object], None],
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._catalog = catalog
        self._flights = flights
        self._services = services
        self._store = services.store
        self._metrics = services.metrics
        self._policies = policies
        self._undecodable = undecodable
        self._rng = rng
        self._refused: Moka[bytes, CallerError] = Moka(10_000, ttl=_REFUSAL_TTL)

    @property
    def max_entry(self) -> int:
        """Bytes of the largest answer that is stored."""
        return self._store.max_entry if self._store.enabled else 0

    def prepare(
        self,
        request: ChatRequest,
        *,
        caller: Caller,
        directives: Directives,
        tags: tuple[str, ...],
        record: RequestRecord,
        deadline: float | None = None,
        key: str | None = None,
    ) -> Question:
        """Resolve the model or personality, and the key, where it is not known already.

        CallerError where the request cannot be answered.
        """
        target = self._catalog[request.model]
        model, personality = target.model.name, target.personality
        record.model, record.stream = model, request.stream
        name = record.personality = personality.name if personality is not None else None
        fields = personality.fields(request) if personality is not None else request.body
        bypass = why_not_cached(fields, target.cache_class, directives) if self._store.enabled else "disabled"
        lookup = None
        if bypass is None:
            if key is None:
                key = answer_key(fields, **_key_parts(target, caller, request, tags))
            tenant, class_name = caller.tenant, target.class_name
            lookup = CacheLookup(
                key,
                names_of(tenant=tenant, class_name=class_name, model=model, personality=name, tags=tags),
                self._policies.in_force[class_name],
                directives,
            )
        return Question(
            request=request,
            fields=fields,
            target=target,
            directives=directives,
            lookup=lookup,
            bypass=bypass,
            record=record,
            deadline=deadline,
        )

    async def key_of(self, request: ChatRequest, *, caller: Caller, tags: tuple[str, ...]) -> str:
        """What `prepare` would find the key to be, in steps: for a request that is large."""
        target = self._catalog[request.model]
        personality = target.personality
        fields = personality.fields(request) if personality is not None else request.body
        return await in_steps(answer_key_in_steps(fields, **_key_parts(target, caller, request, tags)))

    def remembers(self, question: Question) -> bool:
        """Whether `recall` would answer now; counts nothing."""
        hit = self._store.recall(question.lookup) if question.lookup is not None else None
        return hit is not None and hit.freshness.usable

    def recall(self, question: Question) -> Answer | None:
        """A hit from memory, or None. Never waits."""
        lookup = question.lookup
        hit = self._store.recall(lookup) if lookup is not None else None
        if lookup is None or hit is None or not hit.freshness.usable:
            return None
        return self._hit(question, lookup, hit)

    async def answer(self, question: Question, on_forward: Callable[[CacheStatus], None] = _ignore) -> Answer:
        """From Redis or a provider. Raises a Dub5Error with its true status.

        `on_forward` is called with what is known as soon as the answer has to be waited for: nothing usable is stored.
        """
        answer = self.recall(question)
        if answer is not None:
            return answer
        lookup = question.lookup
        if lookup is None:
            self._count_lookup(question, "bypass")
            if question.directives.only_if_cached:
                raise NotCached(f"Answers to this request are not cached: {question.bypass}.")
            status = CacheStatus(fwd="bypass", detail=question.bypass)
            on_forward(status)
            call = ProviderCall(question, self._services)
            return await self._follow(question, self._flights.alone(call), call, status)
        hit = None
        if not lookup.directives.no_cache:
            started = time.perf_counter()
            hit = await self._store.find(lookup)
            question.record.timings["cache"] = time.perf_counter() - started
        if hit is not None and hit.freshness.usable:
            return self._hit(question, lookup, hit)
        if lookup.directives.only_if_cached:
            self._count_lookup(question, "miss")
            raise NotCached("Nothing usable is stored for this request.")
        if lookup.directives.no_cache or (hit is not None and hit.freshness.state is FreshnessState.REFUSED):
            status = CacheStatus(fwd="request")
        else:
            status = CacheStatus(fwd="uri-miss" if hit is None else "stale")
        on_forward(status)
        try:
            return await self._fly(question, lookup, status, seen=hit.entry.born if hit is not None else 0)
        except ProviderError as error:
            if not error.is_outage:
                raise
            started = time.perf_counter()
            hit = await self._store.find(lookup)  # what was purged meanwhile must not come back
            question.record.timings["cache"] = time.perf_counter() - started
            if hit is None or not (hit.freshness.usable or hit.freshness.state is FreshnessState.IF_ERROR):
                raise
            return self._hit(question, lookup, hit)

    async def _fly(
        self, question: Question, lookup: CacheLookup, status: CacheStatus, *, seen: int
    ) -> Answer:
        """Follow the flight for this question, or begin it. `seen` is the birth of what is stored and would not do."""
        digest, asker = question.digest(), question.asker
        for tries_left in reversed(range(_TRIES)):
            refused = self._refused.get(digest)
            if refused is not None:
                raise refused.with_traceback(None)
            identity = self._store.identity(lookup)
            call = ProviderCall(question, self._services, identity)
            if lookup.directives.no_cache:  # it must not be answered by a flight that began before it
                return await self._follow(question, self._flights.alone(call), call, status)
            follower, joined = self._flights.follow(
                identity,
                call,
                lookup.lifetimes,
                seen=seen,
                max_age=lookup.directives.max_age,
                origin=digest,
                asker=asker,
            )
            try:
                return await self._follow(question, follower, call, status, joined=joined)
            except CallerError as error:
                if follower.flight.origin == digest:
                    self._refused.set(digest, error)
                    raise
                # It may be about what is not part of the key: ask for ourselves.
                return await self._follow(question, self._flights.alone(call), call, status)
            except Overloaded:
                # Its leader was turned away: a refresh, which never waits, one with little time, or one on a replica
                # that is full. That is no answer for those who joined it.
                if not tries_left or (follower.flight.led_here and not joined):
                    raise
        raise AssertionError  # the last try returns or raises

    async def _follow(
        self,
        question: Question,
        follower: Follower,
        call: ProviderCall,
        status: CacheStatus,
        *,
        joined: bool = False,
    ) -> Answer:
        """Wait for the first frames of a stream, or for a whole answer."""
        record, streamed, flight = question.record, question.request.stream, follower.flight
        started = time.perf_counter()
        try:
            frames = await (follower.next() if streamed else follower.all())
        except BaseException:
            _name_leader(question, flight)
            follower.leave()
            raise
        body = None
        if not streamed:
            follower.leave()
            try:
                body = await whole_of(frames)
                if not flight.led_here and not msgspec.json.decode(body)["choices"]:
                    body = None
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                if flight.led_here:
                    raise
            if body is None:
                # Another replica's frames came through Redis, and are not what a leader sends: as if it were lost.
                self._undecodable("flight", "no answer")
                return await self._follow(question, self._flights.alone(call), call, status)
        # The parts of Server-Timing add up: what was waited at the gate is one of its own.
        record.timings["provider"] = time.perf_counter() - started - record.timings.get("queue", 0.0)
        collapsed = joined or not flight.led_here
        _name_leader(question, flight)
        stored = flight.stored and not (collapsed or streamed)  # of a stream it is not known yet
        status = msgspec.structs.replace(status, collapsed=collapsed, stored=stored)
        if question.lookup is not None:
            self._count_lookup(question, "collapsed" if collapsed else "miss")
            self._store.sampler.accessed(
                question.lookup.key, question.target.class_name, None, dollars=0.0, hit=False
            )
        saved = functools.partial(self._count_saved, question) if collapsed else None
        if body is not None:
            if saved is not None:
                saved(usage_in(body))
            return Answer(body, status)
        return Answer(Relay(follower, frames, record, on_whole=saved), status)

    def _hit(self, question: Question, lookup: CacheLookup, hit: CacheHit) -> Answer:
        """Serve what is stored, and have it fetched anew where that is due."""
        entry, fresh, class_name = hit.entry, hit.freshness, question.target.class_name
        self._count_lookup(question, "stale" if fresh.ttl <= 0 else hit.tier)
        self._metrics.cache_hit_age.labels(class_name).observe(fresh.age)
        dollars = self._count_saved(question, Usage(entry.prompt_tokens, entry.completion_tokens))
        self._store.sampler.accessed(lookup.key, class_name, entry, dollars=dollars, hit=True)
        self._refresh_if_due(question, lookup, hit)
        status = CacheStatus(hit=True, ttl=fresh.ttl, detail=_DETAILS.get(fresh.state, hit.tier))
        return Answer(entry.body, status, fresh.age)

    def _refresh_if_due(self, question: Question, lookup: CacheLookup, hit: CacheHit) -> None:
        """Ask again behind a hit: because the answer is stale, soon will be, or to measure whether it still holds.

        Nobody waits for it, so it takes no place in the gate that a request wants.
        """
        fresh, entry, services = hit.freshness, hit.entry, self._services
        if fresh.state is FreshnessState.FRESH:
            due = refresh_early(
                ttl=fresh.ttl,
                recompute=entry.recompute,
                lifetimes=lookup.lifetimes,
                draw=1.0 - self._rng(),  # in (0, 1], as its logarithm is taken
            )
            if not due:
                # Only to compare; never an answer that belongs to one user.
                if self._store.sampler.spend_re_ask() and question.target.cache_class.share != "user":
                    identity = self._store.identity(lookup)
                    measured = ProviderCall(question.detached(), services, identity, compared_with=entry)
                    self._flights.background(measured)
                return
        elif fresh.state is not FreshnessState.REVALIDATE:
            return
        identity = self._store.identity(lookup)
        self._flights.refresh(
            identity,
            ProviderCall(question.detached(), services, identity, background=True),
            lookup.lifetimes,
            seen=entry.born,
            cooldown=COOLDOWN,
            asker=question.asker,
        )

    async def put(self, question: Question, completion: bytes) -> None:
        """Store an answer that people have written. InvalidRequest where such a request is never cached."""
        lookup, store = question.lookup, self._store
        if lookup is None:
            raise InvalidRequest(
                f"Answers to this request are not cached: {question.bypass}.", param="request"
            )
        entry = Entry(completion, int(store.now() * 1e6), 0.0, 0, 0)
        if not await store.store(store.identity(lookup), entry, lookup.lifetimes):
            raise answer_too_large()

    def _count_lookup(self, question: Question, result: str) -> None:
        question.record.cache_result = result
        self._metrics.cache_lookups.labels(question.target.class_name, result).inc()

    def _count_saved(self, question: Question, usage: Usage) -> float:
        """A request was answered without a call of its own; gives the dollars that one would have cost."""
        record, model = question.record, question.target.model
        record.prompt_tokens, record.completion_tokens = usage.prompt, usage.completion
        prompt, completion = usage.dollars(model.price)
        self._metrics.count_saved(model.name, prompt, completion)
        return prompt + completion


class ProviderCall:
    """The call to a provider for one question, run by the flight that leads: what `cache.flights` calls a Leader.

    Its answer is stored under `identity`, if there is one. With `compared_with` it is a re-ask, whose answer is
    compared with that entry. `background`: nobody waits.
    """

    def __init__(
        self,
        question: Question,
        services: Services,
        identity: Identity | None = None,
        *,
        compared_with: Entry | None = None,
        background: bool = False,
    ) -> None:
        self._question = question
        self._services = services
        self._identity = identity
        self._compared_with = compared_with
        self._background = background or compared_with is not None
        self._usage = Usage()
        self._age = 0.0

    async def run(self, flight: Flight) -> CacheWrite | None:
        """Add the answer's frames to `flight`; raises a Dub5Error where no provider gives one."""
        question, services, identity = self._question, self._services, self._identity
        record, target, store = question.record, question.target, services.store
        self._trace = record.trace.child()
        async with services.gate.admitted(
            record.tenant or "",
            target.model.name,
            identity or record.request_id,
            deadline=question.deadline,
            background=self._background,
        ) as waited:
            record.timings["queue"] = waited
            began, started = time.time(), time.perf_counter()
            born = store.now() if identity is not None else began
            error = None
            try:
                answer = await (self._stream(flight) if question.request.stream else self._complete(flight))
            except Dub5Error as failure:
                error = failure.code
                if self._compared_with is not None:
                    store.sampler.failed(target.class_name)
                raise
            finally:
                if services.tracer.enabled:
                    self._export(began, error)
        lookup = question.lookup
        if answer is None or identity is None or lookup is None:
            return None
        if not is_whole_answer(answer.data, question.fields):
            return None
        recompute = time.perf_counter() - started
        born -= self._age  # what a cache had held for a while is as old as that (RFC 9111, 4.2.3)
        usage = self._usage
        return CacheWrite(
            identity,
            Entry(answer.raw, int(born * 1e6), recompute, usage.prompt, usage.completion),
            answer.data,
            target.class_name,
            target.cache_class.compare,
            lookup.lifetimes,
            self._compared_with,
        )

    async def _complete(self, flight: Flight) -> Payload | None:
        """The whole answer; None where it is too large to be stored."""
        question = self._question
        answer = await question.target.model.complete(question.call(self._trace), self._observe)
        self._count(usage_of(answer.data))
        flight.add(Frame("whole", answer.raw))
        return answer if len(answer.raw) <= self._services.store.max_entry else None

    async def _stream(self, flight: Flight) -> Payload | None:
        """The same of a streamed answer, assembled from its chunks."""
        question, assembler = self._question, Assembler()
        opened = await question.target.model.open(question.call(self._trace), self._observe)
        async with aclosing(opened) as stream:
            async for chunk in stream:
                data = chunk.data
                assembler.add(data)
                only_usage = "usage" in data and is_usage_only(data)
                flight.add(Frame("usage" if only_usage else "chunk", chunk.raw))
        self._count(usage_of({"usage": assembler.usage}))
        if self._identity is None or assembler.characters() > self._services.store.max_entry:
            return None
        return Payload.of_whole(assembler.completion())

    def _count(self, usage: Usage) -> None:
        """A provider made an answer. What its own prompt cache saved is counted as saved, too."""
        self._usage = usage
        record, model, metrics = self._question.record, self._question.target.model, self._services.metrics
        record.prompt_tokens, record.completion_tokens = usage.prompt, usage.completion
        metrics.count_answer(
            model.name, usage.prompt, usage.cached, usage.completion, *usage.dollars(model.price)
        )
        if usage.cached and model.price.cached_input is not None:
            saved = usage.cached * (model.price.input - model.price.cached_input) / 1e6
            metrics.saved_dollars.labels(model.name, "cached_input").inc(saved)

    def _observe(self, ended: CallResult) -> None:
        """One attempt is over: its metrics, and one line in the log with both sides' ids of it."""
        record, response = self._question.record, ended.response
        if ended.outcome == "ok":
            self._age = max(self._age, response.age)
        # The slower of two calls is cancelled, and says nothing about the answer.
        if ended.outcome != "cancelled" or record.provider is None:
            record.provider = ended.provider
        self._services.metrics.observe_provider(
            ended.provider,
            ended.model,
            ended.outcome,
            ended.duration,
            ended.first_token,
            ended.reason,
            self._trace.trace_id if self._trace.sampled else None,
        )
        duration = {"total": milliseconds(ended.duration)}
        if ended.first_token is not None:
            duration["first_token"] = milliseconds(ended.first_token)
        fields = {
            "request_id": record.request_id,
            "trace_id": self._trace.trace_id,
            "span_id": self._trace.span_id,
            "provider": ended.provider,
            "model": ended.model,
            "upstream_model": ended.upstream,
            "attempt": ended.number,
            "outcome": ended.outcome,
            "duration_ms": duration,
        }
        known = {
            "attempt_reason": ended.reason,
            "status": response.status,
            "provider_request_id": response.request_id,
            "trouble": ended.error,
            "background": self._background or None,
        }
        fields.update((name, value) for name, value in known.items() if value is not None)
        log = _log.warning if ended.outcome in _FAILED else _log.info
        log("provider call", **fields)

    def _export(self, began: float, error: str | None) -> None:
        """The span of this call; `error` is its code."""
        span = chat_span(
            self._trace,
            provider=self._question.record.provider or "unknown",
            model=self._question.target.model.name,
            input_tokens=self._usage.prompt,
            output_tokens=self._usage.completion,
            error=error,
            started=int(began * 1e9),
            ended=time.time_ns(),
        )
        self._services.tracer.export(span)


def answer_too_large() -> InvalidRequest:
    return InvalidRequest("The answer is larger than cache.max_entry.", param="answer")


def _key_parts(target: Target, caller: Caller, request: ChatRequest, tags: tuple[str, ...]) -> dict[str, Any]:
    """What a key is made of besides the request's fields."""
    share, personality = target.cache_class.share, target.personality
    return {
        "scope": scope_of(share, tenant=caller.tenant, key_id=caller.identity, user=request.user),
        "personality_revision": personality.revision if personality is not None else "",
        "model_revision": target.model.revision,
        "tags": tags,
    }


def _name_leader(question: Question, flight: Flight) -> None:
    """In the log, whose call this request waited for, where that was not its own: also where the call failed."""
    leader, record = flight.leader, question.record
    if leader == question.asker:
        leader = None
    record.leader_request_id = leader.request_id if leader is not None else None
    record.leader_trace_id = leader.trace_id if leader is not None else None
