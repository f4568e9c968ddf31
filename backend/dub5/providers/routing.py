"""From a model's name to an answer: its routes, one after the other until one gives its first byte.

    in order, or by weight -> a provider that is well and has room -> ask -> the first byte
         |                          (none has room: wait in line)      |-> it failed: the next route
         |                                                             |-> slow: a second call beside it (hedge)
         '-> every route failed: once more, where the fault was a passing one and the retry budget has one left

After the first byte the caller has begun to read and there is no way back. What the caller has to mend
(CallerError) is not asked twice. Why so: docs/adr/0016-retries.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from dub5.errors import ProviderError, ProviderTimeout
from dub5.providers.attempt import Attempt, Observe, Reason, Route
from dub5.providers.health import Health
from dub5.providers.hedging import hedged
from dub5.providers.protocol import Call, Payload, Provider
from dub5.providers.retry_budget import RetryBudget
from dub5.settings import (
    AnthropicSettings,
    AnyProvider,
    ModelSettings,
    OpenAISettings,
    Price,
)

_T = TypeVar("_T")

_Ask = Callable[[Attempt], Coroutine[Any, Any, _T]]


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
        self._hedge = hedge
        self._patience = patience
        self._clock = clock
        self._chance = chance
        self._budget = budget or RetryBudget()

    @classmethod
    def build(
        cls,
        name: str,
        settings: ModelSettings,
        providers: Mapping[str, Provider],
        provider_settings: Mapping[str, AnyProvider],
        health: Mapping[str, Health],
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
                    health[provider],
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

        async def ask(attempt: Attempt) -> Payload:
            with attempt.guarding():
                answer = await attempt.route.provider.complete(_addressed(call, attempt.route))
            attempt.over("ok")
            return answer

        async def discard(_: Payload) -> None:
            """Nothing is held."""

        return await self._first_success(ask, discard, call, observe)

    async def open(self, call: Call, observe: Observe) -> OpenStream:
        """The stream of the first route that gives a first chunk. Close it: it holds the provider's call."""

        async def ask(attempt: Attempt) -> OpenStream:
            name = attempt.route.provider.name
            chunks = attempt.route.provider.stream(_addressed(call, attempt.route))
            with attempt.guarding():
                first = await anext(chunks, None)
                if first is None:
                    raise ProviderError(f"The provider {name} sent an empty stream.", provider=name)
            attempt.first_token()
            return OpenStream(first, chunks, attempt)

        return await self._first_success(ask, OpenStream.aclose, call, observe)

    async def _first_success(
        self, ask: _Ask[_T], discard: Callable[[_T], Awaitable[None]], call: Call, observe: Observe
    ) -> _T:
        failures: list[tuple[Route, ProviderError]] = []

        def begin(route: Route, reason: Reason | None) -> Attempt:
            return Attempt(route, self.name, observe, self._clock, stream=call.stream, reason=reason)

        untried = self._in_order()
        while (route := await self._next(untried)) is not None:
            self._budget.called()
            attempt = begin(route, "fallback" if failures else None)
            try:
                return await self._asked(attempt, untried, ask, discard, begin)
            except ProviderError as error:
                failures.append((route, error))
        again = self._again(
            [route for route, error in failures if error.transient and error.retry_after is None]
        )
        if again is not None:
            try:
                return await ask(begin(again, "retry"))
            except ProviderError as error:
                failures.append((again, error))
        raise self._failed([error for _, error in failures]) if failures else self._left_alone()

    async def _asked(
        self,
        attempt: Attempt,
        untried: list[Route],
        ask: _Ask[_T],
        discard: Callable[[_T], Awaitable[None]],
        begin: Callable[[Route, Reason | None], Attempt],
    ) -> _T:
        """With a second call beside it where the first is slow and the model says so."""
        slow = attempt.pace.slow() if self._hedge else None
        if slow is None:
            return await ask(attempt)

        def spawned(attempt: Attempt) -> asyncio.Task[_T]:
            task = asyncio.create_task(ask(attempt))
            task.add_done_callback(lambda ended: attempt.over("cancelled") if ended.cancelled() else None)
            return task

        def second() -> asyncio.Task[_T] | None:
            route = self._again([*untried, attempt.route])
            if route is None:
                return None
            if route in untried:
                untried.remove(route)
            return spawned(begin(route, "hedge"))

        return await hedged(spawned(attempt), slow, second, discard)

    def _in_order(self) -> list[Route]:
        """As they are written; those with weights before the others, at random in proportion to them.

        The key is that of P. Efraimidis and P. Spirakis, "Weighted random sampling with a reservoir", 2006.
        """
        weighted = [route for route in self.routes if route.weight]
        if not weighted:
            return list(self.routes)
        keys = {id(route): -math.log(1.0 - self._chance()) / (route.weight or 1.0) for route in weighted}
        weighted.sort(key=lambda route: keys[id(route)])
        return [*weighted, *(route for route in self.routes if not route.weight)]

    async def _next(self, untried: list[Route]) -> Route | None:
        """The next one that is well and has room, with a place taken at its provider.

        Where all that are well are full, a place at the first of them is waited for. None where none is well.
        """
        while untried:
            now = self._clock()
            route = next((each for each in untried if each.health.try_enter(now)), None)
            if route is None:
                route = next((each for each in untried if each.health.breaker.state(now) == "closed"), None)
                if route is None:
                    return None
                if not await self._waited_for(route):
                    continue
            untried.remove(route)
            return route
        return None

    async def _waited_for(self, route: Route) -> bool:
        """Wait for a place at its provider; False where its breaker opened meanwhile."""
        name, health = route.provider.name, route.health
        try:
            await health.concurrency.enter(self._patience)
        except TimeoutError:
            raise ProviderTimeout(
                f"The provider {name} takes only {health.concurrency.limit} calls at once for now; "
                "the wait for one of them took too long.",
                provider=name,
            ) from None
        now = self._clock()
        if health.breaker.allows(now):
            return True
        health.concurrency.left("otherwise", began=now, now=now)
        return False

    def _again(self, routes: list[Route]) -> Route | None:
        """For a retry or hedge: the first that is well and has room, with a place taken, if the budget has one."""
        now = self._clock()
        well = [route for route in routes if route.health.breaker.state(now) == "closed"]
        route = next((route for route in well if route.health.concurrency.free), None)
        return route if route is not None and self._budget.spend() and route.health.try_enter(now) else None

    def _left_alone(self) -> ProviderError:
        now = self._clock()
        return ProviderError(
            f"Every provider of the model {self.name} has failed of late and is left alone for a moment.",
            provider=self.routes[-1].provider.name,
            retry_after=min(route.health.breaker.retry_after(now) for route in self.routes),
        )

    def _failed(self, failures: list[ProviderError]) -> ProviderError:
        """The last failure, or where there were several one that says so. It has the last one's status."""
        last = failures[-1]
        if len(failures) == 1:
            return last
        kind = ProviderTimeout if isinstance(last, ProviderTimeout) else ProviderError
        return kind(
            f"Every provider of the model {self.name} failed; the last: {last.message}",
            provider=last.provider,
            retry_after=last.retry_after,
        )


class OpenStream:
    """A stream whose first chunk is here. Iterating gives `first`, then `rest`; `aclose` ends the call.

    Where the provider dies on the way, the iteration raises ProviderError. Not to be used by two tasks at once.
    """

    def __init__(self, first: Payload, chunks: AsyncGenerator[Payload, None], attempt: Attempt) -> None:
        self.first = first
        self.provider = attempt.route.provider.name
        self.upstream = attempt.route.upstream
        self.rest = self._relay(chunks)
        self._chunks = chunks
        self._attempt = attempt
        self._begun = False

    def __aiter__(self) -> OpenStream:
        return self

    async def __anext__(self) -> Payload:
        if not self._begun:
            self._begun = True
            return self.first
        return await anext(self.rest)

    async def aclose(self) -> None:
        """Cancel the provider's call where it still runs. May be called again."""
        await self.rest.aclose()
        await self._chunks.aclose()  # a generator that never began, as `rest` may, runs no `finally`
        self._attempt.over("cancelled")

    async def _relay(self, chunks: AsyncGenerator[Payload, None]) -> AsyncGenerator[Payload, None]:
        with self._attempt.guarding():
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        self._attempt.over("ok")


def _addressed(call: Call, route: Route) -> Call:
    return msgspec.structs.replace(call, model=route.upstream)


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
            return [kind, settings.base_url, settings.headers, settings.max_tokens]
        case OpenAISettings():
            return [kind, settings.base_url, settings.headers]
    return [kind]
