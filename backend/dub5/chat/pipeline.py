"""The one way a request takes: resolve, look in the cache, ask a provider once for everybody.

    parse -> prepare -> answer -> hit from memory (without a wait) or from Redis
                               -> whole answer, or a stream whose first frame is here

All in between is done by `cache.flights`. A flight that leads makes the ProviderCall that it was given: gate, provider,
frames for all who follow, and what is to be stored. Where another request leads, here or on another replica, it is
never made.

The first frame of a stream is awaited before `answer` returns, so a failure still has its true status; after
it, an error is an event of the stream. Cancelling `answer`, or closing the stream it returned, leaves the flight;
a flight that nobody follows any more cancels the provider's call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Protocol

import msgspec

from dub5.admission.gate import Gate
from dub5.admission.keys import Caller
from dub5.cache.flights import CacheQuestion, CacheStatus, Flights, Following, Leader, Made
from dub5.cache.freshness import Directives
from dub5.cache.policies import Policies
from dub5.cache.purges import names_of
from dub5.cache.store import AnswerStore, CacheHit, CacheLookup, Entry, Identity
from dub5.chat.answer import (
    Answer,
    CallNotes,
    Usage,
    is_whole_answer,
    usage_in,
    usage_of,
    whole_of,
)
from dub5.chat.catalog import Catalog, Target
from dub5.chat.question import Question, answer_key, answer_key_in_steps, key_parts, why_not_cached
from dub5.chat.request import ChatRequest
from dub5.errors import Dub5Error, InvalidRequest, NotCached
from dub5.frames import Frame
from dub5.json_steps import in_steps
from dub5.providers.chunks import decode
from dub5.providers.openai_completions import PROTOCOL as TEXT
from dub5.providers.openai_completions import USUAL_LIMIT
from dub5.telemetry.metrics import Count, Metrics
from dub5.telemetry.record import RequestRecord, Tracer

_LAST = 3
"""Frames at the end of a stream one of which says its tokens: by itself, or with the end of a choice."""


class Services(msgspec.Struct, frozen=True):
    """What a call to a provider takes from the rest of the replica."""

    gate: Gate
    store: AnswerStore
    metrics: Metrics
    tracer: Tracer


class Resolved(CacheQuestion, Protocol):
    """What of a question is enough to answer it from memory."""

    @property
    def target(self) -> Target: ...


class Pipeline:
    """Answers questions. `undecodable` is called with what came through Redis and cannot be used: its kind, and why."""

    def __init__(
        self,
        catalog: Catalog,
        flights: Flights,
        services: Services,
        *,
        policies: Policies,
        undecodable: Callable[[str, object], None],
    ) -> None:
        self._catalog = catalog
        self._flights = flights
        self._services = services
        self._store = services.store
        self._metrics = services.metrics
        self._lookups = cache(services.metrics.cache_lookups.labels)
        self._hits = cache(self._hits_of)
        self._policies = policies
        self._undecodable = undecodable

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
        if caller.models is not None:
            caller.require_model(request.model)
        target = self._catalog.targets.get(request.model) or self._catalog[request.model]
        model, personality = target.model.name, target.personality
        record.model, record.stream = model, request.stream
        name = record.personality = personality.name if personality is not None else None
        fields = personality.fields(request) if personality is not None else request.body
        bypass = why_not_cached(fields, target.cache_class, directives) if self._store.enabled else "disabled"
        lookup = None
        if bypass is None:
            if key is None:
                key = answer_key(fields, **key_parts(request, target, caller, tags))
            tenant, class_name, price = caller.tenant, target.class_name, target.model.price
            lookup = CacheLookup(
                key,
                names_of(tenant=tenant, class_name=class_name, model=model, personality=name, tags=tags),
                self._policies.in_force[class_name],
                directives,
                class_name,
                target.cache_class.compare,
                (tenant, request.digest or {**request.body, "stream": None, "stream_options": None}),
                (price.input / 1e6, price.output / 1e6),
                target.cache_class.share != "user",
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
        caller.require_model(request.model)
        target = self._catalog[request.model]
        personality = target.personality
        fields = personality.fields(request) if personality is not None else request.body
        return await in_steps(answer_key_in_steps(fields, **key_parts(request, target, caller, tags)))

    def remembers(self, question: Question) -> bool:
        """Whether memory has the answer now; counts nothing."""
        hit = None if question.lookup is None else self._store.recall(question.lookup)
        return hit is not None and hit.usable

    async def answer(
        self, question: Question, on_forward: Callable[[CacheStatus], None] | None = None
    ) -> Answer:
        """From the cache or a provider. Raises a Dub5Error with its true status.

        `on_forward` is called with what is known as soon as the answer has to be waited for: nothing usable is stored.
        """
        if question.lookup is None:
            self._count_lookup(question, "bypass")
            if question.directives.only_if_cached:
                raise NotCached(f"Answers to this request are not cached: {question.bypass}.")
        call, alone, body = ProviderCall(question, self._services), False, b""
        while True:
            try:
                found = await self._flights.answer(question, call, on_forward, alone=alone)
            except NotCached:
                self._count_lookup(question, "miss")
                raise
            if found.hit is not None or found.coming is not None:
                break
            try:
                body = await whole_of(found.frames)
                if found.led_here or msgspec.json.decode(body)["choices"]:
                    break
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                if found.led_here:
                    raise
            # Another replica's frames came through Redis, and are not what a leader sends: as if it were lost.
            self._undecodable("flight", "no answer")
            alone, on_forward = True, None
        status = found.status
        if found.hit is not None:
            return self._stored(question, found.hit, status)
        if question.lookup is not None:
            self._count_lookup(question, "collapsed" if status.collapsed else "miss")
        if found.coming is not None:
            return Answer(found.coming, status)
        if status.collapsed:
            self._count_saved(question, usage_in(body))
        return Answer(body, status)

    def saved(self, question: Question, answered: Following) -> None:
        """All of a stream has been read that took no call of its own."""
        last = (usage_of(decode(frame.raw)) for frame in reversed(answered.flight.frames[-_LAST:]))
        self._count_saved(question, next((usage for usage in last if usage != Usage()), Usage()))

    def again(self, question: Question) -> Leader:
        """The call to a provider for a question that nobody waits for."""
        return ProviderCall(question, self._services).again()

    def _stored(self, question: Resolved, hit: CacheHit, status: CacheStatus) -> Answer:
        entry, record = hit.entry, question.record
        record.cache_result = result = hit.result
        self.count_hit(question.target, entry, result)
        record.prompt_tokens, record.completion_tokens = entry.prompt_tokens, entry.completion_tokens
        return Answer(entry.body, status, hit.age)

    def count_hit(self, target: Target, entry: Entry, result: str) -> None:
        """An answer that was found and given."""
        model, price = target.model, target.model.price
        lookups, prompt, completion = self._hits(target.class_name, result, model.name)
        lookups.value += 1
        prompt.value += entry.prompt_tokens * price.input / 1e6
        completion.value += entry.completion_tokens * price.output / 1e6

    def _hits_of(self, class_name: str, result: str, model: str) -> tuple[Count, Count, Count]:
        """Where these are counted: look-ups, dollars that were saved of the prompt, and of the answer."""
        return self._lookups(class_name, result), *self._metrics.saved(model)

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

    def _count_lookup(self, question: Resolved, result: str) -> None:
        question.record.cache_result = result
        self._lookups(question.target.class_name, result).value += 1

    def _count_saved(self, question: Resolved, usage: Usage) -> None:
        """A request was answered without a call of its own."""
        record, model = question.record, question.target.model
        record.prompt_tokens, record.completion_tokens = usage.prompt, usage.completion
        self._metrics.count_saved(model.name, *usage.dollars(model.price))


class ProviderCall(msgspec.Struct):
    """The call to a provider for one question, made by the flight that leads: what `cache.flights` calls a Leader.

    `made` is its answer, where it is whole and small enough to be stored. `background`: nobody waits.
    """

    _question: Question
    _services: Services
    _background: bool = False
    made: Made | None = None

    def again(self) -> ProviderCall:
        """The same in the background: nobody waits, so it takes no place in the gate that a request wants."""
        return ProviderCall(self._question.detached(), self._services, True)

    async def call(self, identity: Identity | None, on_frames: Callable[[list[Frame]], None]) -> None:
        """Call `on_frames` with the answer's frames as they come; raises a Dub5Error where no provider gives one."""
        question, services = self._question, self._services
        record, target, streamed = question.record, question.target, question.request.stream
        model, largest = target.model, services.store.max_entry
        spelled = question.request.spelled
        text = spelled is not None and spelled[0] == TEXT  # to be continued, rather than a chat
        notes = CallNotes(
            record,
            model,
            services.metrics,
            services.tracer,
            background=self._background,
            operation="text_completion" if text else "chat",
        )
        slot = await services.gate.enter(
            record.tenant or "",
            target.slots_of,
            identity or record.request_id,
            deadline=question.deadline,
            background=self._background,
        )
        record.timings["queue"], record.called = slot.waited, True
        began, started = time.time(), time.perf_counter()
        answer = error = None
        try:
            if not streamed:
                answer = await model.complete(question.call(notes.trace), notes.observe)
                usage = usage_of(answer.data)
                on_frames([Frame("whole", answer.raw)])
                if len(answer.raw) > largest:
                    answer = None
            else:
                # Providers give frames to the flight itself: nothing of ours is called for each.
                taken = await model.stream(question.call(notes.trace), notes.observe, on_frames)
                usage = usage_of({"usage": taken.usage})
                if identity is not None:
                    answer = taken.whole(largest)
            record.prompt_tokens, record.completion_tokens = usage.prompt, usage.completion
            notes.count(usage)
        except Dub5Error as failure:
            error = failure.code
            raise
        finally:
            services.gate.leave(slot)
            if services.tracer.enabled:
                notes.export(began, error)
        if answer is None or identity is None:
            return
        if is_whole_answer(answer.data, question.fields, USUAL_LIMIT if text else None):
            took = time.perf_counter() - started
            # What a cache had held for a while is as old as that (RFC 9111, 4.2.3).
            self.made = Made(answer.raw, answer.data, took + notes.age, took, usage.prompt, usage.completion)


def answer_too_large() -> InvalidRequest:
    return InvalidRequest("The answer is larger than cache.max_entry.", param="answer")
