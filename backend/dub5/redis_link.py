"""The one way to Redis: short waits, no retries, and a breaker, so that Redis can never hold up an answer.

A command that fails or passes the timeout raises RedisUnavailable. After a few failures in a row the breaker
opens: commands then fail at once, without a wait, and a background task asks Redis each quarter of a second
whether it is back. So a lost Redis costs a request at most one timeout, and soon nothing. A Redis that answers
but refuses (read-only, out of memory) is not lost: only that command fails.

A pool that is busy is not a Redis that is down: there is no limit on connections that could be mistaken
for one, and connections are given back or closed by redis-py also where a command is cancelled.

Standalone (`redis://`), Sentinel (`redis+sentinel://host:port,host:port/service/db`) and Cluster
(`redis+cluster://host:port,host:port`); with `rediss` in place of `redis` over TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from dub5.settings import RedisSettings
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Metrics

_FAILURES_TO_OPEN = 3
_PROBE_INTERVAL = 0.25
_LATE = 0.02
"""Seconds by which a timer may be late on an event loop that is not busy."""
_LISTEN_INTERVAL = 1.0
_INITIALIZE_TIMEOUT = 2.0

_TROUBLE = (RedisError, RedisClusterException, OSError, TimeoutError)  # the second is not one of the first

T = TypeVar("T")
Client = Any
"""`Redis` or `RedisCluster`: the commands we use are the same, their types are not."""

Handler = Callable[[bytes], Awaitable[None]]
_log = get_logger()


class RedisUnavailable(Exception):
    """Redis did not do it; whether it is down, slow or refusing is in the log and the metrics."""


class RedisLink:
    """Runs commands against one Redis. `available` tells whether the breaker is closed."""

    def __init__(self, settings: RedisSettings, *, password: str | None, metrics: Metrics) -> None:
        self._timeout = float(settings.timeout)
        self._metrics = metrics
        self._failures = 0
        self._probe: asyncio.Task[None] | None = None
        self._handlers: dict[bytes, Handler] = {}
        self._listener: asyncio.Task[None] | None = None
        self._client: Client = connect(settings, password)

    @property
    def available(self) -> bool:
        return self._probe is None

    def subscribe(self, channel: str, handler: Handler) -> None:
        """Have `handler` called with each message on `channel`. Before `start`; messages may get lost."""
        self._handlers[channel.encode()] = handler

    async def start(self) -> None:
        """Ask once, so that the first request knows; a Redis that is away is no reason not to start."""
        with contextlib.suppress(RedisUnavailable):
            await self._initialize()
            await self.run("ping", lambda client: client.ping())
        if self._handlers:
            self._listener = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        for task in (self._probe, self._listener):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._client.aclose()
        pool = getattr(self._client, "connection_pool", None)
        if isinstance(pool, SentinelConnectionPool):  # redis-py closes the master's connections only
            await pool.sentinel_manager.aclose()

    async def run(self, operation: str, command: Callable[[Client], Awaitable[T]]) -> T:
        """The command's answer, or RedisUnavailable within one timeout."""
        if not self.available:
            raise RedisUnavailable
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await command(self._client)
        except ResponseError as error:
            self._refused(operation, error)
            raise RedisUnavailable from None
        except _TROUBLE as error:
            self._failed(operation, error, waited=time.perf_counter() - started)
            raise RedisUnavailable from None
        finally:
            self._metrics.redis_duration.labels(operation).observe(time.perf_counter() - started)
        self._failures = 0
        self._metrics.redis_up.set(1)
        return answer

    async def pipeline(self, operation: str, fill: Callable[[Pipeline], object]) -> list[Any]:
        """The answers to all commands that `fill` queued, sent in one go; no transaction."""

        async def execute(client: Client) -> list[Any]:
            async with client.pipeline(transaction=False) as pipeline:
                fill(pipeline)
                answers: list[Any] = await pipeline.execute()
                return answers

        return await self.run(operation, execute)

    async def _initialize(self) -> None:
        """Learn the layout of a Cluster, which takes longer than a command may; nothing for the other kinds."""
        with contextlib.suppress(*_TROUBLE):
            async with asyncio.timeout(_INITIALIZE_TIMEOUT):
                await self._client.initialize()

    def _refused(self, operation: str, error: ResponseError) -> None:
        self._metrics.cache_errors.labels(operation).inc()
        _log.debug("redis refused", operation=operation, error=str(error)[:200])

    def _failed(self, operation: str, error: Exception, *, waited: float) -> None:
        """Counts towards the breaker, but for a timer that came late: then our own loop was busy, not Redis."""
        self._metrics.cache_errors.labels(operation).inc()
        late = isinstance(error, (TimeoutError, RedisTimeoutError)) and waited > self._timeout + _LATE
        self._failures += 0 if late else 1
        if self._failures >= _FAILURES_TO_OPEN and self._probe is None:
            _log.warning("redis unavailable", operation=operation, error=type(error).__name__)
            self._metrics.redis_up.set(0)
            self._probe = asyncio.create_task(self._ask_until_it_answers())

    async def _ask_until_it_answers(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_INTERVAL)
            await self._initialize()
            with contextlib.suppress(*_TROUBLE):
                async with asyncio.timeout(self._timeout):
                    await self._client.ping()
                self._failures = 0
                self._probe = None
                self._metrics.redis_up.set(1)
                _log.info("redis available again")
                return

    async def _listen(self) -> None:
        """One connection for all channels, made anew whenever it is lost."""
        while True:
            with contextlib.suppress(*_TROUBLE):
                async with self._client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    async with asyncio.timeout(self._timeout):
                        await pubsub.subscribe(*self._handlers)
                    while True:
                        message = await pubsub.get_message(timeout=_LISTEN_INTERVAL)
                        if message is not None:
                            await self._handle(message["channel"], message["data"])
            await asyncio.sleep(_PROBE_INTERVAL)

    async def _handle(self, channel: bytes, data: bytes) -> None:
        """One message, of whatever release: what cannot be handled must not end the listening."""
        try:
            await self._handlers[channel](data)
        except Exception:  # noqa: BLE001
            self._metrics.cache_errors.labels("message").inc()
            _log.exception("message not understood", channel=channel.decode(errors="replace"))


def connect(settings: RedisSettings, password: str | None) -> Client:
    """A client for the kind of Redis that the URL names; no connection is made yet."""
    url = urlsplit(settings.url)
    transport, _, kind = url.scheme.partition("+")
    options: dict[str, Any] = {
        "username": settings.username or (unquote(url.username) if url.username else None),
        "password": password or (unquote(url.password) if url.password else None),
        # Each command's wait is `run`'s affair. With a timeout of its own redis-py sends through wait_for, which
        # on Python 3.11 can lose a cancellation: a task that is told to stop would go on for ever.
        "socket_timeout": None,
        "socket_connect_timeout": float(settings.timeout),
        "retry": Retry(NoBackoff(), 0),
        "max_connections": 10_000,
        # Where absent, redis-py reads its version from disk for connections that it makes later.
        "driver_info": DriverInfo(lib_version=redis.__version__),
    }
    if transport == "rediss":
        options |= {"ssl": True, "ssl_ca_certs": settings.ca_file}
    hosts = _hosts(url)
    if kind == "cluster":
        return RedisCluster(startup_nodes=[ClusterNode(*host) for host in hosts], **options)
    *service, database = [part for part in url.path.split("/") if part] or ["0"]
    if kind == "sentinel":
        service, database = ([database], "0") if not service else (service, database)
        watching = {
            name: value for name, value in options.items() if name not in {"retry", "max_connections"}
        }
        sentinel = Sentinel(hosts, sentinel_kwargs=watching, **options)  # type: ignore[no-untyped-call]
        return sentinel.master_for(service[0], db=int(database))
    host, port = hosts[0]
    return Redis(host=host, port=port, db=int(database), **options)


def _hosts(url: SplitResult) -> list[tuple[str, int]]:
    """`a:1,b:2` of the authority part; ports default to 6379, and to 26379 for Sentinel."""
    usual = 26379 if url.scheme.endswith("sentinel") else 6379
    hosts = []
    for written in url.netloc.rpartition("@")[2].split(","):
        host, _, port = written.rpartition(":") if written.rpartition(":")[2].isdigit() else (written, "", "")
        hosts.append((host.strip("[]") or "localhost", int(port) if port else usual))
    return hosts
