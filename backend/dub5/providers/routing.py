"""From a model's name to an answer: its routes, one after the other until one begins to answer.

    in order, or by weight -> a route that is well and has room -> ask -> the first of the answer
         |                       (none has room: wait in line)      |-> it cannot, or it failed: the next route
         |                                                          |-> slow: a second call beside it (hedge)
         '-> every route failed: once more, where the fault was a passing one and the retry budget has one left

A stream is committed by the first chunk that has something of the answer: what comes before it (a role, an empty
content, filter results) is held back, since a provider that is overloaded often says so just after it. After that the
caller has begun to read and there is no way back. What the caller has to mend (CallerError) is not asked twice; where
one route cannot do what was asked (Unsupported), another may. Why so: docs/adr/0016-retries.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from dub5.errors import Dub5Error, Overloaded, ProviderError, ProviderTimeout, Unsupported, all_failed
from dub5.providers.attempt import Attempt, Observe, Reason, Route
from dub5.providers.health import ProviderHealth
from dub5.providers.hedging import hedged
from dub5.providers.protocol import Call, Payload, Provider, has_answer
from dub5.providers.retry_budget import RetryBudget
from dub5.settings.model import (
    AnthropicSettings,
    AnyProvider,
    HttpProviderSettings,
    ModelSettings,
    OpenAISettings,
    Price,
)

_T = TypeVar("_T")


class Model:
    """A model that callers may name.

    `weights` are shares of the first tries by route; without any the routes are tried in their order. `patience` is
    the longest wait for a place at a provider, in seconds. `clock` gives seconds that never go back, `chance` is
    uniform in [0, 1).
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
        patience: float = 10.0,
        budget: RetryBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.routes = routes
        self.price = price
        self.cache_class = cache_class
        self.revision = revision
        self.hedge = hedge
        self.patience = patience
        self.clock = clock
        self._chance = chance
        self.budget = budget or RetryBudget()

    @classmethod
    def build(
        cls,
        name: str,
        settings: ModelSettings,
        providers: Mapping[str, Provider],
        provider_settings: Mapping[str, AnyProvider],
        health: Mapping[str, ProviderHealth],
        patience: float,
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
            patience=patience,
        )

    async def complete(self, call: Call, observe: Observe) -> Payload:
        """The whole answer of the first route that gives one. `call.model` is filled in by the route."""
        return await _Tries(self, call, observe, _whole, _nothing_to_close).answer()

    async def open(self, call: Call, observe: Observe) -> OpenStream:
        """The stream of the first route that begins to answer. Close it: it holds the provider's call."""
        return await _Tries(self, call, observe, _opened, OpenStream.aclose).answer()

    def in_order(self) -> list[Route]:
        """As they are written; those with weights before the others, at random in proportion to them.

        The key is that of P. Efraimidis and P. Spirakis, "Weighted random sampling with a reservoir", 2006.
        """
        weighted = [route for route in self.routes if route.weight]
        if not weighted:
            return list(self.routes)
        keys = {id(route): -math.log(1.0 - self._chance()) / (route.weight or 1.0) for route in weighted}
        weighted.sort(key=lambda route: keys[id(route)])
        return [*weighted, *(route for route in self.routes if not route.weight)]

    def left_alone(self, routes: list[Route]) -> ProviderError:
        """Why none of `routes` is asked now."""
        now = self.clock()
        error = ProviderError(
            f"Every provider of the model {self.name} has failed of late and is left alone for a moment.",
            provider=routes[-1].provider.name,
            retry_after=min(route.health.retry_after(now) for route in routes),
        )
        told = [route.health.told(now) for route in routes]
        if all(each.should_retry is False for each in told):
            error.as_said(should_retry=False)
        if all(each.status is not None for each in told):
            error.as_said(status=told[-1].status, type=told[-1].type, code=told[-1].code)
            if error.should_retry is False:  # of a quota nobody knows when there is more
                error.retry_after = None
        return error


class _Tries(Generic[_T]):
    """The calls for one question. `ask` makes one, `discard` gives up an answer that came too late."""

    def __init__(
        self,
        model: Model,
        call: Call,
        observe: Observe,
        ask: Callable[[Attempt, Call], Coroutine[Any, Any, _T]],
        discard: Callable[[_T], Awaitable[None]],
    ) -> None:
        self._model = model
        self._call = call
        self._observe = observe
        self._ask_route = ask
        self._discard = discard
        self._untried = model.in_order()
        self._begun = 0
        self._failures: list[tuple[Route, ProviderError]] = []
        self._unsupported: dict[int, Unsupported] = {}  # by id of the route

    async def answer(self) -> _T:
        while (route := await self._next()) is not None:
            self._model.budget.called()
            try:
                return await self._asked(self._begin(route, "fallback" if self._failures else None))
            except Unsupported as error:
                self._unsupported[id(route)] = error
            except ProviderError as error:
                self._failures.append((route, error))
        again = self._again([route for route, error in self._failures if _is_passing(error)])
        if again is not None:
            try:
                return await self._ask(self._begin(again, "retry"))
            except ProviderError as error:
                self._failures.append((again, error))
        raise self._why_not()

    def _why_not(self) -> Dub5Error:
        """An outage is told as an outage; that nobody can do what was asked, only where that holds for all routes."""
        if self._failures:
            return all_failed(self._model.name, [error for _, error in self._failures])
        able = [route for route in self._model.routes if id(route) not in self._unsupported]
        return self._model.left_alone(able) if able else next(iter(self._unsupported.values()))

    def _begin(self, route: Route, reason: Reason | None) -> Attempt:
        model = self._model
        self._begun += 1
        return Attempt(
            route,
            model.name,
            self._observe,
            model.clock,
            stream=self._call.stream,
            reason=reason,
            number=self._begun,
        )

    def _ask(self, attempt: Attempt) -> Coroutine[Any, Any, _T]:
        call = msgspec.structs.replace(self._call, model=attempt.route.upstream, heard=attempt.heard)
        return self._ask_route(attempt, call)

    async def _asked(self, attempt: Attempt) -> _T:
        """With a second call beside it where the first is slow and the model says so."""
        slow = attempt.pace.slow() if self._model.hedge else None
        if slow is None:
            return await self._ask(attempt)
        return await hedged(self._spawned(attempt), slow, lambda: self._hedge(attempt.route), self._discard)

    def _hedge(self, beside: Route) -> asyncio.Task[_T] | None:
        route = self._again([*self._untried, beside])
        if route is None:
            return None
        if route in self._untried:
            self._untried.remove(route)
        return self._spawned(self._begin(route, "hedge"))

    def _spawned(self, attempt: Attempt) -> asyncio.Task[_T]:
        task = asyncio.create_task(self._ask(attempt))  # noqa: TID251  # `hedged` ends it
        task.add_done_callback(lambda ended: attempt.over("cancelled") if ended.cancelled() else None)
        return task

    async def _next(self) -> Route | None:
        """The next route that is well and has room, with a place taken there.

        Where all that are well are full, a place at the first of them is waited for. None where none is well, or
        none came free in time.
        """
        while self._untried:
            now = self._model.clock()
            route = next((each for each in self._untried if each.health.try_enter(now)), None)
            if route is None:
                well = [each for each in self._untried if each.health.state(now) == "closed"]
                if not well:
                    return None
                if not await self._waited_for(well[0]):
                    continue
                route = well[0]
            self._untried.remove(route)
            return route
        return None

    async def _waited_for(self, route: Route) -> bool:
        """Wait for a place there; False where that was in vain.

        Overloaded where as many wait as are let in: one slow model must not take all places of this replica.
        """
        health = route.health
        if health.concurrency.waiting >= health.concurrency.limit:
            health.rejected()
            raise Overloaded(
                f"The provider {route.provider.name} takes only {health.concurrency.limit} calls at once for now. "
                "Try again later.",
                retry_after=1,
            )
        try:
            await health.concurrency.enter(self._model.patience)
        except TimeoutError:
            self._untried.remove(route)
            error = ProviderTimeout(
                f"The provider {route.provider.name} took too long to take the call.",
                provider=route.provider.name,
            )
            self._failures.append((route, error))
            return False
        if health.allows(self._model.clock()):
            return True
        health.concurrency.give_back()
        return False

    def _again(self, routes: list[Route]) -> Route | None:
        """For a retry or hedge: the first that is well and has room, with a place taken, if the budget has one."""
        now = self._model.clock()
        well = [route for route in routes if route.health.state(now) == "closed"]
        route = next((route for route in well if route.health.concurrency.free), None)
        if route is None or not self._model.budget.spend():
            return None
        return route if route.health.try_enter(now) else None


async def _whole(attempt: Attempt, call: Call) -> Payload:
    with attempt.guarding():
        answer = await attempt.route.provider.complete(call)
    attempt.over("ok")
    return answer


async def _nothing_to_close(_: Payload) -> None:
    pass


async def _opened(attempt: Attempt, call: Call) -> OpenStream:
    name = attempt.route.provider.name
    chunks = attempt.route.provider.stream(call)
    held: list[Payload] = []
    with attempt.guarding():
        async for chunk in chunks:
            held.append(chunk)
            if has_answer(chunk.data):
                break
        if not held:
            raise ProviderError(f"The provider {name} sent an empty stream.", provider=name, scope="request")
    attempt.first_token()
    return OpenStream(held, chunks, attempt)


def _is_passing(error: ProviderError) -> bool:
    """Whether the same call may succeed in a moment."""
    return error.transient and error.retry_after is None


class OpenStream:
    """A stream that has begun to answer. Iterating gives what was held back, then the rest; `aclose` ends the call.

    Where the provider dies on the way, the iteration raises ProviderError. Not to be used by two tasks at once.
    """

    def __init__(self, held: list[Payload], chunks: AsyncGenerator[Payload, None], attempt: Attempt) -> None:
        self.provider = attempt.route.provider.name
        self.upstream = attempt.route.upstream
        self._held = held[::-1]
        self._chunks = chunks
        self._attempt = attempt

    def __aiter__(self) -> OpenStream:
        return self

    async def __anext__(self) -> Payload:
        if self._held:
            return self._held.pop()
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            self._attempt.over("ok")
            raise
        except BaseException as error:
            self._attempt.broke(error)
            raise

    async def aclose(self) -> None:
        """Cancel the provider's call where it still runs. May be called again."""
        try:
            await self._chunks.aclose()
        finally:
            self._attempt.over("cancelled")


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
