"""From a model's name to an answer: its routes, tried in their order.

The next route is asked where a provider failed before its first byte; after that the caller has begun to read
and there is no way back. What the caller has to mend (CallerError) is not asked twice. A provider whose breaker
is open is passed over. Each call to a provider is reported exactly once, however it ends, to its breaker and to
the `observe` function that the caller brings.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from typing import Protocol, TypeVar

import msgspec

from dub5.errors import CallerError, ProviderError, ProviderTimeout
from dub5.providers.breaker import Breaker
from dub5.providers.protocol import Call, Payload, Provider
from dub5.settings import (
    AnthropicSettings,
    AnyProvider,
    ModelSettings,
    OpenAISettings,
    Price,
)

_T = TypeVar("_T")


class Observe(Protocol):
    """Is told of each call to a provider, once.

    `model` is our name of it. `outcome`: ok, error, timeout, refused (the caller's error), cancelled.
    `duration` and `first_token` are seconds since the call began, the latter None where no chunk came or the
    answer was asked for whole.
    """

    def __call__(
        self, provider: str, model: str, outcome: str, duration: float, first_token: float | None
    ) -> None: ...


class Route(msgspec.Struct, frozen=True):
    """A provider, and what it calls the model."""

    provider: Provider
    upstream: str
    breaker: Breaker


class Model:
    """A model that callers may name. `clock` gives seconds that never go back."""

    def __init__(
        self,
        name: str,
        routes: tuple[Route, ...],
        *,
        price: Price,
        cache_class: str,
        revision: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.routes = routes
        self.price = price
        self.cache_class = cache_class
        self.revision = revision
        self._clock = clock

    @classmethod
    def build(
        cls,
        name: str,
        settings: ModelSettings,
        providers: Mapping[str, Provider],
        provider_settings: Mapping[str, AnyProvider],
        breakers: Mapping[str, Breaker],
    ) -> Model:
        """Of validated settings: each route names one of `providers`."""
        written = [route.partition("/")[::2] for route in settings.routes]
        return cls(
            name,
            tuple(Route(providers[provider], upstream, breakers[provider]) for provider, upstream in written),
            price=settings.price,
            cache_class=settings.cache_class,
            revision=revision((provider_settings[provider], upstream) for provider, upstream in written),
        )

    async def complete(self, call: Call, observe: Observe) -> Payload:
        """The whole answer of the first route that gives one. `call.model` is filled in by the route."""

        async def ask(route: Route) -> Payload:
            watch = self._watch(route, observe)
            with watch.guarding():
                answer = await route.provider.complete(_addressed(call, route))
            watch.over("ok")
            return answer

        return await self._first_success(ask)

    async def open(self, call: Call, observe: Observe) -> OpenStream:
        """The stream of the first route that gives a first chunk. Close it: it holds the provider's call."""

        async def ask(route: Route) -> OpenStream:
            watch = self._watch(route, observe)
            chunks = route.provider.stream(_addressed(call, route))
            with watch.guarding():
                first = await anext(chunks, None)
                if first is None:
                    raise ProviderError(
                        f"The provider {route.provider.name} sent an empty stream.",
                        provider=route.provider.name,
                    )
            watch.first_token()
            return OpenStream(first, chunks, route, watch)

        return await self._first_success(ask)

    async def _first_success(self, ask: Callable[[Route], Awaitable[_T]]) -> _T:
        failures: list[ProviderError] = []
        for route in self.routes:
            if not route.breaker.allows(self._clock()):
                continue
            try:
                return await ask(route)
            except ProviderError as error:
                failures.append(error)
        raise self._failed(failures) if failures else self._left_alone()

    def _left_alone(self) -> ProviderError:
        now = self._clock()
        return ProviderError(
            f"Every provider of the model {self.name} has failed of late and is left alone for a moment.",
            provider=self.routes[-1].provider.name,
            retry_after=min(route.breaker.retry_after(now) for route in self.routes),
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

    def _watch(self, route: Route, observe: Observe) -> _Watch:
        return _Watch(route, self.name, observe, self._clock)


class OpenStream:
    """A stream whose first chunk is here. Iterating gives `first`, then `rest`; `aclose` ends the call.

    Where the provider dies on the way, the iteration raises ProviderError. Not to be used by two tasks at once.
    """

    def __init__(
        self, first: Payload, chunks: AsyncGenerator[Payload, None], route: Route, watch: _Watch
    ) -> None:
        self.first = first
        self.provider = route.provider.name
        self.upstream = route.upstream
        self.rest = self._relay(chunks)
        self._chunks = chunks
        self._watch = watch
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
        self._watch.over("cancelled")

    async def _relay(self, chunks: AsyncGenerator[Payload, None]) -> AsyncGenerator[Payload, None]:
        with self._watch.guarding():
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        self._watch.over("ok")


class _Watch:
    """Times one call to a provider and reports it once."""

    def __init__(self, route: Route, model: str, observe: Observe, clock: Callable[[], float]) -> None:
        self._provider = route.provider.name
        self._breaker = route.breaker
        self._model = model
        self._observe: Observe | None = observe
        self._clock = clock
        self._start = clock()
        self._first_token: float | None = None

    def first_token(self) -> None:
        """The provider works; should it break off later, that is a failure of its own."""
        now = self._clock()
        self._first_token = now - self._start
        self._breaker.succeeded(now)

    @contextlib.contextmanager
    def guarding(self) -> Iterator[None]:
        """Report what breaks out of the block."""
        try:
            yield
        except BaseException as error:
            self.over(_outcome(error), pause=error.retry_after if isinstance(error, ProviderError) else None)
            raise

    def over(self, outcome: str, *, pause: float | None = None) -> None:
        """The call ended so; what is said after the first time does not count."""
        observe, self._observe = self._observe, None
        if observe is not None:
            now = self._clock()
            self._tell_breaker(outcome, now, pause)
            observe(self._provider, self._model, outcome, now - self._start, self._first_token)

    def _tell_breaker(self, outcome: str, now: float, pause: float | None) -> None:
        if outcome in {"error", "timeout"}:
            self._breaker.failed(now, pause=pause)
        elif self._first_token is not None:
            return  # it was told with the first token
        elif outcome == "cancelled":
            self._breaker.abandoned()
        else:  # ok, or a refusal of the request, which only a working provider can give
            self._breaker.succeeded(now)


def _outcome(error: BaseException) -> str:
    match error:
        case ProviderTimeout():
            return "timeout"
        case CallerError():
            return "refused"
        case asyncio.CancelledError() | GeneratorExit():
            return "cancelled"
    return "error"


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
