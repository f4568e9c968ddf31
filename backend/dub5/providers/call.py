"""How one question gets its answer from a provider: a model's routes, one after the other until one begins to answer.

    in order, or by weight -> a route that is healthy and has a slot -> call it -> the first of the answer
         |                       (none has one: wait in its queue)        |-> it cannot, or failed: the next route
         |                                                                |-> slow: a second call beside it (hedge)
         '-> every route failed: once more, where the error is a transient one and the retry budget has one left

`Model` is what callers name; `RoutedCall` is one question's way through its routes, and tells the whole story;
`Attempt` is one call to one provider, which holds a slot there, is timed, and is reported exactly once, however it
ends. Whether a route is healthy and has a slot is for `health`.

A stream is committed by the first chunk that has something of the answer: what comes before it (a role, an empty
content, filter results) is held back, since a provider that is overloaded often says so just after it. After that the
client has begun to read and there is no way back. What the caller has to mend (CallerError) is not sent twice; where
one route cannot do what was asked (Unsupported), another may. Why so: docs/adr/0016-retries.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any, Generic, Literal, TypeVar

import msgspec

from dub5.errors import (
    CallerError,
    FailureScope,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    Unsupported,
    all_failed,
    without_trace,
)
from dub5.frames import Frame
from dub5.providers.chunks import Assembler
from dub5.providers.health import NOTHING, LastFailure, ModelHealth, Outcome, ProviderHealth
from dub5.providers.protocol import (
    FINISH_REASONS,
    BatchLimit,
    Call,
    Chunk,
    Embedded,
    Json,
    Onward,
    Payload,
    Provider,
    ResponseHead,
    Text,
)
from dub5.settings.model import (
    AnthropicSettings,
    AnyProvider,
    HttpProviderSettings,
    ModelSettings,
    OpenAISettings,
    Price,
)

_T = TypeVar("_T")

OnFrames = Callable[[list[Frame]], None]
"""Called with the frames of a streamed answer that came together, as soon as they are here. It does not wait."""

RETRY_SHARE = 0.1
"""Retries and hedges that each call earns."""
RETRIES_SAVED = 10.0
"""Retries that can be saved up."""

_CALLS = frozenset({"tool_calls", "function_call"})
_LABELS = frozenset({"type", "format", "status", "obfuscation"})
_NAMES = _LABELS | {"role", "id", "name"}

Reason = Literal["fallback", "retry", "hedge"]
"""Why a second call was made for the same question; a fallback goes to another route, after a failure."""


class CallResult(msgspec.Struct, frozen=True):
    """A call to a provider that is over.

    `model` is our name of it, `upstream` the provider's. `duration` and `first_token` are seconds since the call began,
    the latter None where no chunk came or the answer was asked for whole. `number` counts a question's calls from 1;
    `reason` is None for the first. `error` says what went wrong, in words of ours.
    """

    provider: str
    model: str
    outcome: Outcome
    duration: float
    first_token: float | None
    reason: Reason | None
    number: int
    upstream: str
    response: ResponseHead
    error: str | None


Report = Callable[[CallResult], None]
"""Called for each call to a provider, once, when it is over."""


class Route(msgspec.Struct, frozen=True):
    """A provider, what it calls the model, and its health there. `weight` is None for a mere fallback."""

    provider: Provider
    upstream: str
    health: ModelHealth
    weight: float | None = None


class RetryBudget:
    """One model's retries and hedges: at most a tenth of all calls, so that they do not keep a provider down.

    A few can be saved up, so the share holds over any stretch of time but for those. Calling *another* provider after a
    failure is no retry: it adds nothing to what failed.
    """

    def __init__(self) -> None:
        self.calls = 0
        """Those that were made since one was last asked for: whoever makes one counts it here."""
        self._balance = 0.0

    def spend(self) -> bool:
        """Whether there is one more; then it is spent."""
        self._balance = min(self._balance + RETRY_SHARE * self.calls, RETRIES_SAVED)
        self.calls = 0
        if self._balance < 1.0 - 1e-9:  # ten times a tenth is a little less than one
            return False
        self._balance -= 1.0
        return True


class Model:
    """A model that callers may name.

    `weights` are shares of the first calls by route; without any the routes are called in their order. `queue_timeout`
    is the longest wait for a slot at a provider, in seconds. `clock` gives seconds that never go back, `rng` is uniform
    in [0, 1).
    """

    def __init__(
        self,
        name: str,
        routes: tuple[Route, ...],
        *,
        price: Price,
        cache_class: str,
        revision: str,
        hedge: bool = False,
        queue_timeout: float = 10.0,
        budget: RetryBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.routes = routes
        self.price = price
        self.cache_class = cache_class
        self.revision = revision
        self.hedge = hedge
        self.queue_timeout = queue_timeout
        self.clock = clock
        self.budget = budget or RetryBudget()
        self._rng = rng
        self.weighted = any(route.weight for route in routes)

    @classmethod
    def build(
        cls,
        name: str,
        settings: ModelSettings,
        providers: Mapping[str, Provider],
        provider_settings: Mapping[str, AnyProvider],
        health: Mapping[str, ProviderHealth],
        queue_timeout: float,
    ) -> Model:
        """Of validated settings: each route names one of `providers`."""
        written = [route.partition("/")[::2] for route in settings.routes]
        return cls(
            name,
            tuple(
                Route(
                    providers[provider],
                    upstream,
                    health[provider].of(upstream),
                    settings.weights.get(f"{provider}/{upstream}"),
                )
                for provider, upstream in written
            ),
            price=settings.price,
            cache_class=settings.cache_class,
            revision=revision((provider_settings[provider], upstream) for provider, upstream in written),
            hedge=settings.hedge,
            queue_timeout=queue_timeout,
        )

    def complete(self, call: Call, report: Report) -> Coroutine[Any, Any, Payload]:
        """The whole answer of the first route that gives one. `call.model` is filled in by the route."""
        return RoutedCall(self, call, report, Attempt.complete).answer()

    @property
    def batch_limit(self) -> BatchLimit:
        """What any of the routes takes in one call for vectors."""
        limits = [route.provider.batch_limit for route in self.routes]
        return BatchLimit(min(each.items for each in limits), min(each.bytes for each in limits))

    def embed(self, call: Call, report: Report) -> Coroutine[Any, Any, Embedded]:
        """The vectors of the first route that makes them, as `complete`."""
        return RoutedCall(self, call, report, Attempt.embed).answer()

    def stream(self, call: Call, report: Report, on_frames: OnFrames) -> Coroutine[Any, Any, Assembler]:
        """Call `on_frames` with what comes from the first route that begins to answer, until it is done, and give what
        that comes to."""
        return RoutedCall(self, call, report, Attempt.stream, on_frames).answer()

    def shuffled(self) -> list[Route]:
        """The routes that have weights, at random in proportion to them, before the others as they are written.

        The key is that of P. Efraimidis and P. Spirakis, "Weighted random sampling with a reservoir", 2006.
        """
        weighted = [route for route in self.routes if route.weight]
        keys = {id(route): -math.log(1.0 - self._rng()) / (route.weight or 1.0) for route in weighted}
        weighted.sort(key=lambda route: keys[id(route)])
        return [*weighted, *(route for route in self.routes if not route.weight)]

    def unavailable(self, routes: list[Route]) -> ProviderError:
        """Why none of `routes` is called now: each one's circuit breaker is open."""
        now = self.clock()
        failures = [route.health.last_failure(now) for route in routes]
        limited = all(each.status is not None for each in failures)
        error = ProviderError(
            f"Every provider of the model {self.name} refused calls (429), and is not called for a while."
            if limited
            else f"Every provider of the model {self.name} is failing; its circuit breaker is open.",
            provider=routes[-1].provider.name,
            retry_after=min(route.health.retry_after(now) for route in routes),
        )
        if all(each.should_retry is False for each in failures):
            error.as_said(should_retry=False)
        if limited:
            last = failures[-1]
            error.as_said(status=last.status, type=last.type, code=last.code)
            if error.should_retry is False:  # of a quota nobody knows when there is more
                error.retry_after = None
        return error


class RoutedCall(msgspec.Struct, Generic[_T]):
    """One question's calls. `make` makes one. A stream's frames go to `on_frames`, once one has begun to answer.

    `begun` is that one's number: it leads here, and in a cycle all that came of the answer would be kept.
    """

    model: Model
    call: Call
    report: Report
    make: Callable[[Attempt, Call], Coroutine[Any, Any, _T]]
    on_frames: OnFrames | None = None
    begun: int | None = None
    on_begun: asyncio.Future[asyncio.Task[Any]] | None = None
    """Of one that may be hedged: gets the task of the call that has begun."""
    untried: list[Route] = []
    failures: list[tuple[Route, ProviderError]] = []
    numbers: Iterator[int] = msgspec.field(default_factory=partial(count, 1))

    async def answer(self) -> _T:
        model, failures = self.model, self.failures
        untried = self.untried = model.shuffled() if model.weighted else list(model.routes)
        unsupported: dict[int, Unsupported] = {}  # by id of the route
        while untried:  # each route once
            # The first that is healthy and has a free slot, which is taken: the attempt gives it back. Where all that
            # are healthy are full, one is waited for at the first of them where not too many wait already.
            now = model.clock()
            for route in untried:
                if route.health.try_enter(now):
                    break
            else:
                healthy = [route for route in untried if route.health.state(now) == "closed"]
                if not healthy:
                    break
                route = next((route for route in healthy if route.health.concurrency.may_wait), healthy[0])
                if not await self._queue_at(route):
                    continue
            untried.remove(route)
            model.budget.calls += 1
            attempt = Attempt(
                self, route, next(self.numbers), model.clock(), "fallback" if failures else None
            )
            slow = None
            if model.hedge:
                slow = (route.health.first_tokens if self.call.stream else route.health.wholes).p95()
            try:
                if slow is None:
                    return await self.make(attempt, self.call)
                self.on_begun = asyncio.get_running_loop().create_future()
                return await first_of(
                    self._in_task(attempt), slow, partial(self._hedge, route), self.on_begun
                )
            except Unsupported as error:
                if self.begun is not None:
                    raise
                unsupported[id(route)] = without_trace(error)
            except ProviderError as error:
                if self.begun is not None:
                    raise
                failures.append((route, without_trace(error)))
        # None is left. One of those that may work in a moment is called again, if the budget allows it. Where the
        # provider said for how long to wait, that is longer than a client waits here; 0 asks for no wait.
        transient = [route for route, error in failures if error.transient and not error.retry_after]
        again = self._spare(transient)
        if again is not None:
            attempt = Attempt(self, again, next(self.numbers), model.clock(), "retry")
            try:
                return await self.make(attempt, self.call)
            except ProviderError as error:
                if self.begun is not None:
                    raise
                failures.append((again, without_trace(error)))
        # An outage is reported as an outage; that nobody can do what was asked, only where that holds for all routes.
        if failures:
            raise all_failed(model.name, [error for _, error in failures])
        able = [route for route in model.routes if id(route) not in unsupported]
        raise model.unavailable(able) if able else next(iter(unsupported.values()))

    async def _queue_at(self, route: Route) -> bool:
        """Wait for a slot there; False where that was in vain.

        Overloaded where as many wait as are let in: one slow model must not take all slots of this replica.
        """
        health, name = route.health, route.provider.name
        if not health.concurrency.may_wait:
            health.rejected()
            raise Overloaded(
                f"The provider {name} takes only {health.concurrency.limit} calls at once for now. "
                "Try again later.",
                retry_after=1,
            )
        try:
            await health.concurrency.enter(self.model.queue_timeout)
        except TimeoutError:
            self.untried.remove(route)
            error = ProviderTimeout(f"The provider {name} took too long to take the call.", provider=name)
            self.failures.append((route, error))
            return False
        if health.allows(self.model.clock()):
            return True
        health.concurrency.left()  # it broke meanwhile
        return False

    def _spare(self, routes: list[Route]) -> Route | None:
        """For a retry or hedge: the first that is healthy and has a slot, which is taken, if the budget has one."""
        now = self.model.clock()
        for route in routes:
            if route.health.state(now) == "closed" and route.health.try_enter(now):
                if self.model.budget.spend():
                    return route
                route.health.concurrency.left()
                return None
        return None

    def _in_task(self, attempt: Attempt) -> asyncio.Task[_T]:
        task = asyncio.create_task(self.make(attempt, self.call))  # noqa: TID251  # `first_of` ends it
        attempt.task = task
        # One that is cancelled before it began has run nothing of its own.
        task.add_done_callback(lambda ended: attempt.end("cancelled") if ended.cancelled() else None)
        return task

    def _hedge(self, beside: Route) -> asyncio.Task[_T] | None:
        """A second call beside one at `beside`, to another route if possible; None where there is no slot for it."""
        route = self._spare([*self.untried, beside])
        if route is None:
            return None
        if route in self.untried:
            self.untried.remove(route)
        return self._in_task(Attempt(self, route, next(self.numbers), self.model.clock(), "hedge"))


class Attempt(msgspec.Struct):
    """One call to one provider. `route.health` has given it a slot, which it gives back at its end.

    `number` counts the calls of one question, from 1; `began` is by the model's clock. `held` are the chunks of a
    stream that has nothing of the answer yet, `taken` those that were passed on, to `on_frames`: it is there once this
    call was the first that began to answer. It has a `task` of its own where another call may be made beside it.
    """

    routed: RoutedCall[Any]
    route: Route
    number: int
    began: float
    reason: Reason | None = None
    response: ResponseHead = msgspec.field(default_factory=ResponseHead)
    first_token: float | None = None
    reported: bool = False
    held: list[Chunk] = []
    taken: Assembler = msgspec.field(default_factory=Assembler)
    on_frames: OnFrames | None = None
    task: asyncio.Task[Any] | None = None

    def complete(self, call: Call) -> Coroutine[Any, Any, Payload]:
        """The whole answer."""
        return self._whole(self.route.provider.complete, call)

    def embed(self, call: Call) -> Coroutine[Any, Any, Embedded]:
        """The vectors of its texts."""
        return self._whole(self.route.provider.embed, call)

    async def _whole(self, ask: Callable[[Call], Awaitable[_T]], call: Call) -> _T:
        try:
            answer = await ask(
                msgspec.structs.replace(call, model=self.route.upstream, response=self.response)
            )
        except BaseException as error:
            self.fail(error)
            raise
        self.end("ok")
        return answer

    async def stream(self, call: Call) -> Assembler:
        """Pass the answer's chunks on, once there is something of the answer, and give what they come to."""
        provider = self.route.provider
        addressed = msgspec.structs.replace(call, model=self.route.upstream, response=self.response)
        try:
            await provider.stream(addressed, self.take)
            if not self.response.begun:
                if not self.held:
                    raise ProviderError(
                        f"The provider {provider.name} sent an empty stream.",
                        provider=provider.name,
                        scope="request",
                    )
                self._begin()
        except BaseException as error:
            self.fail(error)
            raise
        self.end("ok" if self.routed.begun == self.number else "cancelled")
        return self.taken

    def take(self, chunks: list[Chunk]) -> Onward | None:
        """What has come of a stream."""
        on_frames, taken = self.on_frames, self.taken
        if on_frames is not None:
            on_frames(taken.take(chunks))
            return Onward(taken.at, taken.texts, on_frames) if taken.texts is not None else None
        if not self.response.begun:
            if any(bool(each.text) if isinstance(each, Text) else has_answer(each.data) for each in chunks):
                self.held += chunks
                self._begin()
                return None
            for chunk in chunks:  # some say the same nothing over and over while a model thinks
                if not self.held or chunk.raw != self.held[-1].raw:
                    self.held.append(chunk)
        return None

    def _begin(self) -> None:
        """From here on no other route can be called. Where another call was first, this one will be cancelled."""
        routed, health = self.routed, self.route.health
        self.response.begun = True
        now = routed.model.clock()
        self.first_token = now - self.began
        health.first_tokens.waits.append(self.first_token)
        health.worked(began=self.began, now=now)
        if routed.begun is None and routed.on_frames is not None:
            routed.begun = self.number
            if routed.on_begun is not None and self.task is not None:
                routed.on_begun.set_result(self.task)
            held, self.held = self.held, []
            self.on_frames = routed.on_frames
            self.on_frames(self.taken.take(held))

    def fail(self, error: BaseException) -> None:
        """The call ended with `error`; only the first end counts."""
        if self.reported:
            return
        if isinstance(error, Unsupported):  # this route cannot do what was asked: there was no call to report
            self.reported = True
            self.route.health.unused(self.began)
        elif isinstance(error, ProviderError):
            # A wait of 0 asks for no pause: with one, a single call at a time would try whether the model is back.
            pause = (error.retry_after or None) if error.scope != "request" else None
            failure = LastFailure.of(error)
            self.end(_outcome(error), error.scope, pause=pause, failure=failure, error=error.plain)
        else:
            self.end(_outcome(error))

    def end(
        self,
        outcome: Outcome,
        scope: FailureScope | None = None,
        *,
        pause: float | None = None,
        failure: LastFailure = NOTHING,
        error: str | None = None,
    ) -> None:
        """The call ended so; only the first time counts."""
        if self.reported:
            return
        self.reported = True
        routed, route, first_token = self.routed, self.route, self.first_token
        health, streamed = route.health, routed.call.stream
        now = routed.model.clock()
        duration = now - self.began
        if (outcome == "ok" and not streamed) or (outcome == "cancelled" and first_token is None):
            # At least so long, where it was cancelled: left out, p95 would sink.
            (health.first_tokens if streamed else health.wholes).waits.append(duration)
        health.ended(
            outcome,
            scope,
            began=self.began,
            now=now,
            worked=first_token is not None,
            pause=pause,
            failure=failure,
        )
        routed.report(
            CallResult(
                route.provider.name,
                routed.model.name,
                outcome,
                duration,
                first_token,
                self.reason,
                self.number,
                route.upstream,
                self.response,
                error,
            )
        )


def has_answer(chunk: Json) -> bool:
    """Whether a chunk has anything of the answer: text, reasoning, a tool call, audio, or the answer's end.

    A chunk with only a role, empty texts, token counts or a filter's verdict on the prompt has nothing. Never raises,
    whatever the provider made of the chunk.
    """
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason in FINISH_REASONS:
            return True
        parts = [part for part in (choice.get("delta"), choice.get("message")) if isinstance(part, dict)]
        # The id or name of a call is its first part; that of a message, an audio or a block says nothing yet.
        waiting = [
            (said, _LABELS if name in _CALLS else _NAMES)
            for part in parts
            for name, said in part.items()
            if name not in _NAMES
        ]
        while waiting:
            one, silent = waiting.pop()
            if isinstance(one, str) and one:
                return True
            if isinstance(one, dict):
                waiting.extend((inner, silent) for name, inner in one.items() if name not in silent)
            elif isinstance(one, list):
                waiting.extend((inner, silent) for inner in one)
    return False


async def first_of(
    first: asyncio.Task[_T],
    after: float,
    second: Callable[[], asyncio.Task[_T] | None],
    begun: asyncio.Future[asyncio.Task[_T]],
) -> _T:
    """The first success of `first` and, where it takes longer than `after` seconds, of `second()`: a hedged call.

    As good as a success is to have `begun`: that one is awaited. The other one is cancelled. Where both fail, the error
    is that of `first`; an error of the caller is raised at once. From J. Dean and L. A. Barroso, "The Tail at Scale",
    CACM 56(2), 2013: waiting for the 95th percentile before the second call costs some 5 % more calls and cuts most of
    the tail.
    """
    calls = [first]
    try:
        waited: list[asyncio.Future[Any]] = [first, begun]
        await asyncio.wait(waited, timeout=after, return_when=asyncio.FIRST_COMPLETED)
        if not (first.done() or begun.done()) and (other := second()) is not None:
            calls.append(other)
        winner = None
        while winner is None:
            running: list[asyncio.Future[Any]] = [call for call in calls if not call.done()]
            winner = begun.result() if begun.done() else next(filter(_decides, calls), None)
            if winner is None and not running:
                winner = first
            if winner is None:
                await asyncio.wait([begun, *running], return_when=asyncio.FIRST_COMPLETED)
        await _give_up([call for call in calls if call is not winner])
        return await winner
    except BaseException:  # cancelled, perhaps while the loser was
        await _give_up(calls)
        raise


async def _give_up(calls: list[asyncio.Task[_T]]) -> None:
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


def _decides(call: asyncio.Task[Any]) -> bool:
    """Whether a call has an answer, or an error that any other call would have, too."""
    if not call.done() or call.cancelled():
        return False
    error = call.exception()
    return error is None or (isinstance(error, CallerError) and not isinstance(error, Unsupported))


def _outcome(error: BaseException) -> Outcome:
    match error:
        case ProviderTimeout():
            return "timeout"
        case ProviderError(busy=True):
            return "limited"
        case CallerError():
            return "refused"
        case Overloaded() | MemoryError():
            return "overloaded"
        case asyncio.CancelledError() | GeneratorExit():
            return "cancelled"
    return "error"


def revision(routes: Iterator[tuple[AnyProvider, str]]) -> str:
    """A short digest of what shapes the answers of these routes; two models that answer alike share it.

    Keys are not part of it, nor are names of providers, limits and paces.
    """
    shapes = [[*_shape(provider), upstream] for provider, upstream in routes]
    return hashlib.blake2b(msgspec.json.encode(shapes, order="sorted"), digest_size=8).hexdigest()


def _shape(settings: AnyProvider) -> list[object]:
    kind = type(settings).__struct_config__.tag
    match settings:
        case AnthropicSettings():
            return [kind, settings.base_url, settings.headers, settings.max_tokens, *_quirks(settings)]
        case OpenAISettings():
            return [kind, settings.base_url, settings.headers, *_quirks(settings)]
    return [kind]


def _quirks(settings: HttpProviderSettings) -> list[object]:
    """Nothing where there are none: what was stored before there were any is still found."""
    return [settings.quirks] if settings.quirks else []
