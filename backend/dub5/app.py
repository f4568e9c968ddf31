"""The composition root: the only module that knows every part.

It builds the parts from Settings, starts them in order and stops them in reverse: all of them, whatever one raises.
Nothing is global, so a test runs as many whole applications as it likes in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from litestar import Litestar, Router
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import Provide
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, Guard

from dub5 import providers
from dub5.admission.arrivals import Arrivals, budget_of
from dub5.admission.drain import Drain
from dub5.admission.gate import Gate
from dub5.admission.keys import KeyRing
from dub5.admission.limits import RateLimiter
from dub5.api import cache, models, operations
from dub5.api.chat import Chat, QuestionRoute, Spelling
from dub5.api.completions import Completions, CompletionsRoute
from dub5.api.embeddings import EmbeddingsRoute
from dub5.api.errors import HANDLERS
from dub5.api.http import Entrance, headers_of, key_of
from dub5.api.messages import Messages, MessagesRoute, TokenCountRoute, TokenCounts
from dub5.api.origins import Origins
from dub5.api.page import Page
from dub5.api.recall import Recall
from dub5.api.responses import Responses
from dub5.api.responses_items import ResponsesController
from dub5.api.responses_store import ResponseStore
from dub5.cache.flights import Flights, OneReplica
from dub5.cache.leases import Leases
from dub5.cache.policies import Policies
from dub5.cache.purges import Purges
from dub5.cache.samples import Sampler
from dub5.cache.store import AnswerStore, LocalCache, most_stored
from dub5.chat.catalog import Catalog
from dub5.chat.embeddings import Embedder
from dub5.chat.personalities import compile_all
from dub5.chat.pipeline import Pipeline, Services
from dub5.contract import POLICY_CHANNEL, PURGE_CHANNEL
from dub5.process.descriptors import Room, Sockets, divide, limit
from dub5.providers.call import Model
from dub5.providers.health import UNLIMITED, ModelHealth, ProviderHealth
from dub5.providers.listing import ListsModels, ModelLists
from dub5.providers.patterns import ModelPattern
from dub5.redis.client import LARGEST_ANSWER, most_connections
from dub5.redis.link import RedisClock, RedisLink
from dub5.settings.model import HttpProviderSettings, ModelSettings, Settings, read_secret
from dub5.telemetry.background import Background
from dub5.telemetry.container import memory
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import BREAKER_STATES, Metrics
from dub5.telemetry.process import LoopLagProbe
from dub5.telemetry.record import Recorder, TelemetryMiddleware, build_tracer, record_of

PART_STOP_TIMEOUT = 20.0
"""Seconds for one part to stop: longer than any part takes by itself. Limits and samples take up to 15: five each to
end their task, to wait for what is under way, and to cancel what is left."""

_log = get_logger()


class Application:
    """One replica: `public` and `operations` are its two ASGI applications.

    Use as an async context manager; ConfigError from the constructor where a secret or file is missing.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self.settings = settings
        self.drain = Drain()
        self.metrics = Metrics(config_hash=_config_hash(settings))
        self.background = Background(self.metrics)
        arriving = settings.server.max_arriving
        self.arrivals = Arrivals(arriving if arriving is not None else budget_of(memory()))
        self.metrics.arriving_bytes.set_function(lambda: self.arrivals.used)
        self.metrics.arriving_limit.set(self.arrivals.budget)
        self._tracer = build_tracer(settings.telemetry)
        self._keys = KeyRing(settings.auth, dict(environment), self.metrics, self.background)
        self.room = self._divided()
        self._providers = providers.build(settings, environment, sockets=self._provider_sockets())
        self._health = self._build_health()
        self._redis = _redis_link(settings, environment, self.metrics, self.background)
        self._clock = RedisClock(self.metrics)
        self._purges = Purges(self._redis, redis_clock=self._clock)
        self._lists = ModelLists(self._listing_providers(), self.background)
        self._catalog = self._build_catalog()
        self._policies = Policies(
            self._catalog.classes, self._redis, self.metrics, self.background, self._clock
        )
        self._leases = Leases(self._redis, self.background, self._clock) if self._redis is not None else None
        self._store = self._build_store()
        self._sampler = self._build_sampler()
        self._flights = Flights(
            self._store, self._leases or OneReplica(), self.metrics, sampler=self._sampler
        )
        services = Services(self._build_gate(), self._store, self.metrics, self._tracer)
        undecodable = self._redis.undecodable if self._redis is not None else _uncounted
        self._pipeline = Pipeline(
            self._catalog, self._flights, services, policies=self._policies, undecodable=undecodable
        )
        embedder = Embedder(
            self._catalog,
            self._flights,
            services,
            policies=self._policies,
            undecodable=undecodable,
            background=self.background,
        )
        self._limiter = RateLimiter(
            settings.limits,
            self._redis,
            self.metrics,
            replica=self._leases.replica if self._leases is not None else "",
            background=self.background,
        )
        self._lag = LoopLagProbe(self.metrics, self.background)
        recorder = Recorder(self.metrics, self._tracer)
        self.recall = Recall(
            self._pipeline,
            self._flights,
            self._store,
            self._catalog,
            self._policies,
            recorder,
            keys=self._keys,
            limiter=self._limiter,
            drain=self.drain,
            arrivals=self.arrivals,
            memory=settings.cache.local_bytes // 2,
        )
        asking = (self._pipeline, self._keys, self._limiter, settings.server, self.arrivals)
        self._responses = ResponseStore(settings.responses, self._redis)
        spellings: list[Spelling] = [Chat(), Responses(self._responses)]
        questions = [
            *(QuestionRoute(each, *asking, self.recall) for each in spellings),
            CompletionsRoute(Completions(), *asking, self.recall),
            MessagesRoute(Messages(), *asking, self.recall),
            TokenCountRoute(TokenCounts(), *asking),
        ]
        embeddings = EmbeddingsRoute(embedder, *asking[1:])
        self.origins = Origins(settings.server.allowed_origins)
        entrance = Entrance(
            self._public(questions, embeddings),
            self.origins,
            keys=self._keys,
            drain=self.drain,
            routes=questions,
        )
        self.public: ASGIApp = TelemetryMiddleware(entrance, recorder)
        self.operations: ASGIApp = Entrance(self._operations(), Origins())

    async def __aenter__(self) -> Application:
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._running = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the parts; `stack` ends them in reverse, also where one of them cannot be started.

        What ends a part is pushed before it is started: it may have begun something when it fails.
        """

        def ends(part: str, stop: Callable[[], Awaitable[object]]) -> None:
            stack.push_async_callback(_stopped, part, stop)

        ends("traces", self._tracer.stop)
        ends("background", self.background.stop)  # the last, for whatever the others have left
        if self._redis is not None and self._leases is not None:
            ends("redis", self._redis.stop)
            ends("leases", self._leases.stop)
            self._redis.subscribe(POLICY_CHANNEL, self._policies.on_published)
            await self._leases.start()
            await self._redis.start()
        ends("answers", self._store.stop)
        await self._store.start()
        ends("policies", self._policies.stop)
        await self._policies.start()
        if self._sampler is not None:
            ends("samples", self._sampler.stop)
            await self._sampler.start()
        for provider in self._providers.values():
            ends(f"provider {provider.name}", provider.aclose)
        ends("model lists", self._lists.stop)
        await self._lists.start()
        ends("limits", self._limiter.stop)
        await self._limiter.start()
        ends("keys", self._keys.stop)
        await self._keys.start()
        ends("event loop lag", self._lag.stop)
        await self._lag.start()
        stack.push_async_callback(self._flights.settle)  # in no hurry: streams run to their end

    def _divided(self) -> Room:
        """What there are file descriptors for; a line where that is less than the settings want."""
        settings, files = self.settings, limit()
        server, calls = settings.server.max_connections, settings.admission.max_inflight
        room = divide(
            files,
            max_connections=server,
            max_inflight=calls,
            pools=[
                each.max_connections
                for each in settings.providers.values()
                if isinstance(each, HttpProviderSettings)
            ],
            redis=0 if settings.redis is None else most_connections(settings.redis),
        )
        if room.clients < server or room.calls < calls or room.provider_connections is not None:
            _log.warning(
                "few file descriptors",
                limit=files,
                max_connections=room.clients,
                max_inflight=room.calls,
                provider_connections=room.provider_connections,
                wanted=server,
            )
        return room

    def _provider_sockets(self) -> Sockets | None:
        most = self.room.provider_connections
        return None if most is None else Sockets(most)

    def _build_health(self) -> dict[str, ProviderHealth]:
        """One for each provider; each keeps apart what it knows of the models there."""
        built = {}
        for name, settings in self.settings.providers.items():
            most = settings.max_connections if isinstance(settings, HttpProviderSettings) else UNLIMITED
            if self.room.provider_connections is not None:
                most = min(most, self.room.provider_connections)
            health = built[name] = ProviderHealth(most, self.metrics.provider_rejected.labels(name).inc)
            self.metrics.provider_waiting_requests.labels(name).set_function(health.waiting)
        return built

    def _expose(self, model: Model) -> None:
        """What is known of its routes, by provider: as the callers of this model meet it."""
        routes: dict[str, list[ModelHealth]] = {}
        for route in model.routes:
            routes.setdefault(route.provider.name, []).append(route.health)
        for provider, healths in routes.items():
            labels = (provider, model.name)
            self.metrics.provider_breaker_state.labels(*labels).set_function(
                functools.partial(_worst_state, healths)
            )
            self.metrics.provider_concurrency_limit.labels(*labels).set_function(
                functools.partial(_calls_at_once, healths)
            )

    def _expose_pattern(self, pattern: ModelPattern) -> None:
        """The worst of what is known of its models, by provider: which they are is for the log to say."""

        def worst(provider: str) -> float:
            return _worst_state(
                [route.health for route in pattern.routes() if route.provider.name == provider]
            )

        for provider in {route.partition("/")[0] for route in pattern.settings.routes}:
            labels = (provider, pattern.name)
            self.metrics.provider_breaker_state.labels(*labels).set_function(
                functools.partial(worst, provider)
            )

    def _build_gate(self) -> Gate:
        def waiting_elsewhere() -> int:
            return sum(health.waiting() for health in self._health.values())

        return Gate(
            msgspec.structs.replace(self.settings.admission, max_inflight=self.room.calls),
            self.drain,
            self.metrics,
            waiting_elsewhere=waiting_elsewhere,
            one_model=[*self.settings.models] == [self.settings.default_model],
        )

    def abandon(self) -> None:
        """Give up what is under way: `__aexit__` will wait for nothing."""
        self._flights.abandon()

    def _build_store(self) -> AnswerStore:
        settings = self.settings.cache
        local = LocalCache(settings.local_bytes)
        if settings.enabled:
            self.metrics.cache_entries.labels("local").set_function(local.count)
            self.metrics.cache_bytes.labels("local").set_function(local.bytes)
        store = AnswerStore(
            local,
            self._redis,
            self._purges,
            max_entry=settings.max_entry,
            background=self.background,
            clock=self._clock,
            enabled=settings.enabled,
        )
        if self._redis is not None and settings.enabled:
            self._redis.subscribe(PURGE_CHANNEL, store.on_purged)
        return store

    def _build_sampler(self) -> Sampler | None:
        settings = self.settings.cache
        if self._redis is None or self._leases is None or not settings.enabled:
            return None
        return Sampler(
            self._redis,
            self.metrics,
            replica=self._leases.replica,
            budget=settings.sample_bytes,
            re_ask_share=settings.re_ask_share,
            background=self.background,
            now=self._clock,
            learn=self._store.learn,
            in_force=self._policies.in_force,
        )

    def _build_catalog(self) -> Catalog:
        settings = self.settings
        models, patterns = {}, []
        for name, each in settings.models.items():
            build = self._model_of(name)
            if "*" in name:
                patterns.append(ModelPattern(name, each, self._lists, settings.providers, build))
            else:
                models[name] = build(each)
        for model in models.values():
            self._expose(model)
        for pattern in patterns:
            self._expose_pattern(pattern)
        personalities = compile_all(settings.personalities, settings.default_model)
        return Catalog(models, personalities, settings.cache.classes, settings.models, patterns)

    def _model_of(self, name: str) -> Callable[[ModelSettings], Model]:
        return functools.partial(
            Model.build,
            name,
            providers=self._providers,
            provider_settings=self.settings.providers,
            health=self._health,
            queue_timeout=self.settings.admission.queue_timeout,
        )

    def _listing_providers(self) -> dict[str, ListsModels]:
        """Those that are asked for their models."""
        routes = (route for each in self.settings.models.values() for route in each.routes if "*" in route)
        named = {route.partition("/")[0]: None for route in routes}
        found = {name: self._providers[name] for name in named}
        return {name: each for name, each in found.items() if isinstance(each, ListsModels)}

    def _public(self, questions: list[QuestionRoute], embeddings: EmbeddingsRoute) -> Litestar:
        return Litestar(
            route_handlers=[
                *(each.route() for each in questions),
                embeddings.route(),
                Page().route() if self.settings.server.page else models.index,
                operations.health,
                Router(
                    "/",
                    route_handlers=[models.ModelsController, cache.CacheController, ResponsesController],
                    guards=[_authorized_by(self._keys)],
                ),
            ],
            dependencies=_provide(
                catalog=self._catalog,
                drain=self.drain,
                store=self._store,
                policies=self._policies,
                pipeline=self._pipeline,
                metrics=self.metrics,
                arrivals=self.arrivals,
                responses=self._responses,
            ),
            request_max_body_size=self.settings.server.max_body,
            state=State({"max_body": self.settings.server.max_body}),
            exception_handlers=HANDLERS,
            openapi_config=None,
            logging_config=None,
        )

    def _operations(self) -> Litestar:
        return Litestar(
            route_handlers=[operations.livez, operations.readyz, operations.exposition],
            dependencies=_provide(drain=self.drain, metrics=self.metrics),
            exception_handlers=HANDLERS,
            openapi_config=None,
            logging_config=None,
        )


def _authorized_by(keys: KeyRing) -> Guard:
    """Asks for the role that a route's `opt` names. The chat route sees to it itself, the page needs none.

    A function, since Litestar copies what it is given; and async, or each request would be taken to a thread.
    """

    async def authorized(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        role = handler.opt.get("role")
        if role is None:
            return
        record = record_of(connection.scope)
        connection.state.caller = keys.admit(key_of(headers_of(connection.scope)), role, record)

    return authorized


async def _stopped(part: str, stop: Callable[[], Awaitable[object]]) -> None:
    """Stop a part. Whatever it raises, and however long it takes, the others have to be stopped as well."""
    try:
        async with asyncio.timeout(PART_STOP_TIMEOUT):
            await stop()
    except Exception:  # noqa: BLE001
        _log.exception("part did not stop", part=part)


def _worst_state(healths: list[ModelHealth]) -> float:
    now = time.monotonic()
    return max((BREAKER_STATES[health.state(now)] for health in healths), default=BREAKER_STATES["closed"])


def _calls_at_once(healths: list[ModelHealth]) -> float:
    return sum(health.concurrency.limit for health in healths)


def _uncounted(*_: object) -> None:
    """Without Redis nothing comes through it."""


def _provide(**parts: object) -> dict[str, Provide]:
    return {name: _constant(part) for name, part in parts.items()}


def _constant(part: object) -> Provide:
    def provide() -> Any:
        return part

    return Provide(provide, sync_to_thread=False)


def _redis_link(
    settings: Settings, environment: Mapping[str, str], metrics: Metrics, background: Background
) -> RedisLink | None:
    redis = settings.redis
    if redis is None:
        return None
    password = None
    if redis.password is not None:
        password = read_secret("redis.password", redis.password, environment)
    largest = max(LARGEST_ANSWER, 2 * most_stored(settings.cache.max_entry))
    return RedisLink(redis, password=password, metrics=metrics, background=background, largest=largest)


def _config_hash(settings: Settings) -> str:
    """Tells whether two replicas run the same configuration; secrets are not part of Settings."""
    encoded = msgspec.json.encode(settings, order="deterministic", enc_hook=float)
    return hashlib.blake2b(encoded, digest_size=6).hexdigest()
