"""The one way to Redis: short waits, no retries, and a breaker, so that Redis can never hold up an answer.

What is asked in one turn of the event loop goes to Redis as one pipeline (`batches`). A command that fails or
passes the timeout raises RedisUnavailable. After one timeout, or a few other failures in a row, the breaker opens:
commands then fail at once, without a wait, and a background task asks Redis each quarter of a second whether it is
back. So a lost Redis costs a request at most one timeout. A Redis that answers but refuses (read-only, out of
memory) is not lost: only that command fails.

Connections are made before anybody waits for them, at the start and when a lost Redis is asked whether it is back: that
takes several round trips, and so longer than a command may.

Connections are redis-py's, which also finds the master behind Sentinels. Of a Cluster each node has batches and a
breaker of its own, so one that is lost holds up nothing that the others keep; its loss has the layout read again.

Standalone (`redis://`), Sentinel (`redis+sentinel://host:port,host:port/service/db`) and Cluster
(`redis+cluster://host:port,host:port`); with `rediss` in place of `redis` over TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from hiredis import pack_command
from redis._parsers import _AsyncHiredisParser
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import Pipeline, PubSub
from redis.asyncio.cluster import ClusterNode, PipelineCommand
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import AskError, MovedError, ResponseError, SlotNotCoveredError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from dub5.contract import Undecodable
from dub5.errors import ConfigError
from dub5.redis.batches import (
    LANES,
    TROUBLE,
    AnswerTooLarge,
    Batches,
    Command,
    RedisFailed,
    RedisUnavailable,
    RedisUndecodable,
    patience,
    refusal,
)
from dub5.settings.model import RedisSettings, read_file
from dub5.telemetry.background import Background, BackgroundTask
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Metrics

__all__ = ["LARGEST_ANSWER", "RedisLink", "RedisUnavailable", "RedisUndecodable", "connect"]

_SILENCES = 3
_LISTEN_INTERVAL = 1.0
_LISTEN_AGAIN = 0.25
_CONNECT_TIMEOUT = 1.0
_INITIALIZE_TIMEOUT = 2.0
_KEYLESS = {"PING", "PUBLISH"}
LARGEST_ANSWER = 16 * 2**20
"""Bytes of an answer to one command, unless stored answers may be larger: what a stream or a hash holds of ours is much
smaller, and of a string only as much is read as may be ours."""
_READING = frozenset({"get", "purges", "policy", "tail", "fingerprint", "samples"})
"""Operations that may be done twice."""
_KINDS = {
    "get": "entry",
    "set": "entry",
    "purge": "purges",
    "claim": "lease",
    "release": "lease",
    "renew": "lease",
    "tail": "flight",
    "append": "flight",
    "settle": "limit",
}
"""What an operation reads, where that has another name."""
_LOG_INTERVAL = 60.0
"""Seconds between two lines about undecodable values of one kind, at least."""

Client = Any
"""`Redis` or `RedisCluster`."""

Handler = Callable[[bytes], Awaitable[None]]
_log = get_logger()


class RedisLink:
    """Runs commands against one Redis. `available` tells whether any of it is there, as far as is known."""

    def __init__(
        self,
        settings: RedisSettings,
        *,
        password: str | None,
        metrics: Metrics,
        background: Background | None = None,
        largest: int = LARGEST_ANSWER,
    ) -> None:
        self._timeout = float(settings.timeout)
        self._metrics = metrics
        self._handlers: dict[bytes, Handler] = {}
        self._background = background or Background(metrics)
        self._subscriber: BackgroundTask | None = None
        self._client: Client = connect(settings, password, largest=largest)
        # What listens must not take a connection from those who ask. Of a Cluster it needs the layout that they keep.
        clustered = isinstance(self._client, RedisCluster)
        self._ear: Client = self._client if clustered else connect(settings, password, largest=largest)
        self._servers: Servers = (
            Nodes(self._client, self._changed, self._timeout, self._background)
            if clustered
            else OneServer(self._client, self._changed, self._timeout, self._background)
        )
        self._recorder = recorder()
        self._up = False  # as the metric has it
        self._undecodable_logged: dict[str, float] = {}

    @property
    def available(self) -> bool:
        return self._servers.available

    def undecodable(self, kind: str, reason: object) -> None:
        """Count a value or message that is not what we write there; it is logged once a minute for each kind."""
        self._metrics.redis_undecodable.labels(kind).inc()
        now = time.monotonic()
        if now >= self._undecodable_logged.get(kind, -_LOG_INTERVAL) + _LOG_INTERVAL:
            self._undecodable_logged[kind] = now
            _log.warning("redis value undecodable", kind=kind, reason=str(reason))

    def subscribe(self, channel: str, handler: Handler) -> None:
        """Have `handler` called with each message on `channel`. Before `start`; messages may get lost."""
        self._handlers[channel.encode()] = handler

    async def start(self) -> None:
        """Ask once, so that the first request knows; a Redis that is away is no reason not to start."""
        with contextlib.suppress(*TROUBLE):
            async with asyncio.timeout(_INITIALIZE_TIMEOUT):
                await self._client.initialize()  # the layout of a Cluster takes longer than a command may
        with contextlib.suppress(*TROUBLE):
            await self._servers.connect()
        with contextlib.suppress(RedisUnavailable):
            await self.run("ping", lambda pipeline: pipeline.ping())
        if self._handlers:
            self._subscriber = self._background.start("redis-subscriber", self._listen)

    async def stop(self) -> None:
        if self._subscriber is not None:
            await self._subscriber.stop()
        await self._servers.stop()
        async with contextlib.AsyncExitStack() as stack:  # one that cannot be closed leaves no other open
            for client in {self._client, self._ear}:
                pool = getattr(client, "connection_pool", None)
                if isinstance(pool, SentinelConnectionPool):  # redis-py closes the master's connections only
                    stack.push_async_callback(pool.sentinel_manager.aclose)
                stack.push_async_callback(client.aclose)

    async def run(self, operation: str, command: Callable[[Pipeline], object]) -> Any:
        """The answer to the one command that `command` queues, or RedisUnavailable within one timeout."""
        [answer] = await self.pipeline(operation, command)
        return answer

    async def pipeline(self, operation: str, fill: Callable[[Pipeline], object]) -> list[Any]:
        """The answers to all commands that `fill` queues, sent in one go and in order; no transaction.

        RedisUnavailable where Redis did not do them all, RedisUndecodable where what it has cannot be ours.
        """
        if not self.available:
            raise RedisUnavailable
        commands = self._recorded(fill)
        started = time.perf_counter()
        try:
            try:
                answers = await self._servers.ask(commands)
            except RedisUndecodable:
                answers = await self._ask_alone(operation, commands)
        except (RedisFailed, RedisUndecodable):
            self._metrics.cache_errors.labels(operation).inc()
            raise
        finally:
            self._metrics.redis_duration.labels(operation).observe(time.perf_counter() - started)
        refused = refusal(answers)
        if refused is not None:
            self._metrics.cache_errors.labels(operation).inc()
            _log.debug("redis refused", operation=operation, error=str(refused)[:200])
            if is_wrong_type(refused):
                self.undecodable(_KINDS.get(operation, operation), "of another type")
                raise RedisUndecodable
            raise RedisUnavailable
        if not self._up:
            self._changed()
        return answers

    async def _ask_alone(self, operation: str, commands: list[Command]) -> list[Any]:
        """After an answer in their batch was too large: it was perhaps somebody else's. What writes is not repeated."""
        if operation in _READING:
            with contextlib.suppress(RedisUndecodable):
                return await self._servers.ask(commands, alone=True)
        self.undecodable(_KINDS.get(operation, operation), "too large")
        raise RedisUndecodable

    def _recorded(self, fill: Callable[[Pipeline], object]) -> list[Command]:
        try:
            fill(self._recorder)
        finally:
            commands, self._recorder.command_stack = self._recorder.command_stack, []
        return commands

    def _changed(self) -> None:
        self._up = self.available
        self._metrics.redis_up.set(self._up)

    async def _listen(self) -> None:
        """One connection for all channels, made anew whenever it is lost."""
        while True:
            with contextlib.suppress(*TROUBLE):
                async with self._ear.pubsub() as pubsub:
                    async with asyncio.timeout(_CONNECT_TIMEOUT):
                        await pubsub.subscribe(*self._handlers)
                    await self._hear(pubsub)
            await asyncio.sleep(_LISTEN_AGAIN)

    async def _hear(self, pubsub: PubSub) -> None:
        """Until the connection is lost, or has been silent for so long that it must be: then no pings come back."""
        silent = 0
        while silent < _SILENCES:
            message = await pubsub.get_message(timeout=_LISTEN_INTERVAL)
            if message is None:
                silent += 1
                await pubsub.ping()
                continue
            silent = 0
            if message["type"] == "message":
                await self._handle(message["channel"], message["data"])

    async def _handle(self, channel: bytes, data: bytes) -> None:
        """One message, of whatever release: what cannot be handled must not end the listening."""
        try:
            await self._handlers[channel](data)
        except Undecodable as error:
            self.undecodable("message", error)
        except Exception:  # noqa: BLE001
            self._metrics.cache_errors.labels("message").inc()
            _log.exception("message not understood", channel=channel.decode(errors="replace"))


def recorder() -> Pipeline:
    """redis-py's commands as methods, for any kind of Redis: what is called on it is only written down."""
    driver = DriverInfo(lib_version=redis.__version__)
    return Redis(driver_info=driver).pipeline(transaction=False)


class OneServer:
    """Standalone, or the master that Sentinels name."""

    def __init__(
        self, client: Redis, changed: Callable[[], None], timeout: float, background: Background
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._batches = Batches("redis", self._send, self._probe, changed, background, timeout=timeout)

    @property
    def available(self) -> bool:
        return self._batches.available

    def ask(self, commands: list[Command], *, alone: bool = False) -> Awaitable[list[Any]]:
        return self._batches.ask(commands, alone=alone)

    async def connect(self) -> None:
        """Have a connection for each batch that may be under way."""
        pool = self._client.connection_pool

        async def one() -> None:
            made.append(await pool.get_connection())  # type: ignore[no-untyped-call]

        made: list[AbstractConnection] = []
        try:
            await _together(one, LANES)
        finally:
            for connection in made:
                await pool.release(connection)

    async def stop(self) -> None:
        await self._batches.stop()

    async def _send(self, commands: list[Command]) -> list[Any]:
        # Not by `Pipeline.execute`: its retries and metrics, none of which are used, cost more than the commands do.
        pool = self._client.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command(_packed(commands))
            answers: list[Any] = []
            for words, options in commands:
                try:
                    answers.append(await self._client.parse_response(connection, words[0], **options))
                except ResponseError as refused:
                    answers.append(refused)
            return answers
        finally:
            await pool.release(connection)

    async def _probe(self) -> None:
        # Whatever befell the server befell the connections to it, and some such ends are never told.
        await self._client.connection_pool.disconnect(inuse_connections=False)
        await self.connect()
        async with patience(self._timeout):
            await self._client.ping()


class Nodes:
    """The masters of a Cluster, each with batches of its own. They go by name, since they change."""

    def __init__(
        self, client: RedisCluster, changed: Callable[[], None], timeout: float, background: Background
    ) -> None:
        self._client = client
        self._changed = changed
        self._timeout = timeout
        self._nodes: dict[str, Batches] = {}
        self._background = background
        self._layouts = background.jobs("cluster-layout")
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        return any(node.available for node in self._nodes.values()) or not self._nodes

    async def ask(self, commands: list[Command], *, alone: bool = False) -> list[Any]:
        """Those of one node stay together and in order."""
        parts: dict[Batches, list[int]] = {}
        for position, command in enumerate(commands):
            parts.setdefault(self._node(self._name_of(command)), []).append(position)
        if not all(node.available for node in parts):
            raise RedisUnavailable
        asked = [
            node.ask([commands[position] for position in positions], alone=alone)
            for node, positions in parts.items()
        ]
        answers: list[Any] = [None] * len(commands)
        for positions, part in zip(parts.values(), await asyncio.gather(*asked), strict=True):
            for position, answer in zip(positions, part, strict=True):
                answers[position] = answer
        return answers

    async def connect(self) -> None:
        """To each master, for each batch that may be under way there."""
        await asyncio.gather(*map(self._connect, self._client.get_primaries()))

    @staticmethod
    async def _connect(node: ClusterNode) -> None:
        async def one() -> None:
            connection = node.acquire_connection()
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
            finally:
                node.release(connection)

        # One more for what listens; and all that there are, since the one that was free for longest is used next.
        await _together(one, max(LANES + 1, len(node._free)))  # noqa: SLF001

    async def stop(self) -> None:
        nodes = [node.stop() for node in self._nodes.values()]
        await asyncio.gather(*nodes, self._layouts.stop())

    def _name_of(self, command: Command) -> str:
        """Of the node that has the command's key; empty while nobody knows."""
        words, node = command[0], None
        with contextlib.suppress(SlotNotCoveredError):
            if words[0] in _KEYLESS:
                node = self._client.get_default_node()
            else:
                node = self._client.get_node_from_key(words[3] if words[0] == "EVAL" else words[1])
        return node.name if node is not None else ""

    def _node(self, name: str) -> Batches:
        if name not in self._nodes:
            send, probe = functools.partial(self._send, name), functools.partial(self._probe, name)
            self._nodes[name] = Batches(
                name, send, probe, self._changed, self._background, timeout=self._timeout
            )
        return self._nodes[name]

    async def _send(self, name: str, commands: list[Command]) -> list[Any]:
        try:
            return await self._sent(name, commands)
        except BaseException:
            if self._refreshing is None or self._refreshing.done():
                self._refreshing = self._layouts.start(self._refresh(name))
            raise

    async def _sent(self, name: str, commands: list[Command]) -> list[Any]:
        node = self._client.get_node(node_name=name) if name else None
        if node is None:
            raise RedisConnectionError("no such node")
        queued = [
            PipelineCommand(position, *words, **options) for position, (words, options) in enumerate(commands)
        ]
        await node.execute_pipeline(queued)
        answers = [command.result for command in queued]
        for position, answer in enumerate(answers):
            if isinstance(answer, MovedError | AskError | TryAgainError):
                answers[position] = await self._redirected(commands[position])
            elif isinstance(answer, Exception) and not isinstance(answer, ResponseError):
                raise answer
        return answers

    async def _redirected(self, command: Command) -> Any:
        """redis-py follows the redirection, and notes who has the slot now."""
        words, options = command
        try:
            return await self._client.execute_command(*words, **options)
        except ResponseError as error:
            return error

    async def _probe(self, name: str) -> None:
        """A node that is no master any more is as good as well: nothing will be asked of it."""
        await self._refresh(name)
        if self._client.get_default_node() is None:
            raise RedisConnectionError("no node answers")
        node = self._client.get_node(node_name=name) if name else None
        if node is not None and node in self._client.get_primaries():
            await node.disconnect_free_connections()
            await self._connect(node)
            async with patience(self._timeout):
                await node.execute_command("PING")

    async def _refresh(self, failed: str) -> None:
        """Read who has which slots, from a node that did not just fail if possible."""
        with contextlib.suppress(*TROUBLE):
            async with asyncio.timeout(_INITIALIZE_TIMEOUT):
                if self._client.get_default_node() is None:
                    await self._client.initialize(last_failed_node_name=failed)
                else:
                    await self._client.nodes_manager.initialize(last_failed_node_name=failed)


Servers = OneServer | Nodes


async def _together(connect: Callable[[], Awaitable[None]], times: int) -> None:
    """So many connections at once; raises one of TROUBLE where one of them is not made in time."""
    async with asyncio.timeout(_CONNECT_TIMEOUT):
        done = await asyncio.gather(*(connect() for _ in range(times)), return_exceptions=True)
    for failed in filter(None, done):
        raise failed


def is_wrong_type(error: BaseException) -> bool:
    """Whether Redis refused a command for the type of what it has, itself or in a script."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def most_connections(settings: RedisSettings) -> int:
    """How many connections to Redis there may be at once; of a Cluster with up to six masters."""
    each = 2 * LANES + 2  # while it is asked whether it is back, those that are in use are there still
    kind = urlsplit(settings.url).scheme.partition("+")[2]
    return 6 * each if kind == "cluster" else each + len(_hosts(urlsplit(settings.url)))


def connect(settings: RedisSettings, password: str | None, *, largest: int = LARGEST_ANSWER) -> Client:
    """A client for the kind of Redis that the URL names; no connection is made yet. Reads `ca_file`.

    ConfigError where that cannot be. An answer of more than `largest` bytes to one command raises AnswerTooLarge,
    and is not read to its end.
    """
    url = urlsplit(settings.url)
    transport, _, kind = url.scheme.partition("+")
    options: dict[str, Any] = {
        "username": settings.username or (unquote(url.username) if url.username else None),
        "password": password or (unquote(url.password) if url.password else None),
        # Each batch's wait is `patience`'s affair. With a timeout of its own redis-py sends through wait_for, which
        # on Python 3.11 can lose a cancellation: a task that is told to stop would go on for ever.
        "socket_timeout": None,
        "socket_connect_timeout": 2 * float(settings.timeout),  # for what nobody else waits for
        "retry": Retry(NoBackoff(), 0),
        "max_connections": 10_000,
        # Where absent, redis-py reads its version from disk for connections that it makes later.
        "driver_info": DriverInfo(lib_version=redis.__version__),
    }
    if transport == "rediss":
        options |= {"ssl": True, "ssl_ca_data": _authorities(settings)}
    hosts = _hosts(url)
    if kind == "cluster":
        # With `reinitialize_steps` a redirected command would close all connections, whoever is using them.
        nodes = [ClusterNode(*host) for host in hosts]
        cluster = RedisCluster(startup_nodes=nodes, reinitialize_steps=0, **options)
        return _bounded_nodes(cluster, largest)
    *service, database = [part for part in url.path.split("/") if part] or ["0"]
    if kind == "sentinel":
        service, database = ([database], "0") if not service else (service, database)
        watching = {
            name: value for name, value in options.items() if name not in {"retry", "max_connections"}
        }
        sentinel = Sentinel(hosts, sentinel_kwargs=watching, **options)  # type: ignore[no-untyped-call]
        return _bounded(sentinel.master_for(service[0], db=int(database)), largest)
    host, port = hosts[0]
    options["socket_connect_timeout"] = _CONNECT_TIMEOUT  # there is no other address to try
    return _bounded(Redis(host=host, port=port, db=int(database), **options), largest)


def _authorities(settings: RedisSettings) -> str | None:
    """Read once: redis-py would read the file for each connection, in the event loop, and it may hang."""
    if settings.ca_file is None:
        return None
    try:
        return read_file("redis.ca_file", settings.ca_file).decode("ascii")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"redis.ca_file: cannot read {settings.ca_file!r}: {type(error).__name__}"
        ) from None


def _packed(commands: list[Command]) -> bytes:
    """As hiredis writes them: redis-py reads with it, but writes in Python, a tenth of all time of a stored answer."""
    return b"".join(
        # "XINFO STREAM" is one name for redis-py and two words for Redis.
        pack_command((*words[0].split(), *words[1:]) if " " in words[0] else words)
        for words, _ in commands
    )


def _bounded(client: Redis, largest: int) -> Redis:
    client.connection_pool.connection_kwargs["parser_class"] = _bounded_parser(largest)
    return client


def _bounded_nodes(cluster: RedisCluster, largest: int) -> RedisCluster:
    """Also of the nodes that are still to be found."""
    for options in (
        cluster.get_connection_kwargs(),
        *(node.connection_kwargs for node in cluster.nodes_manager.startup_nodes.values()),
    ):
        options["parser_class"] = _bounded_parser(largest)
    return cluster


def _bounded_parser(largest: int) -> type[_AsyncHiredisParser]:
    """Reads answers of up to `largest` bytes: redis-py knows no limit, and a name that is ours may hold 512 MiB."""
    read = _AsyncHiredisParser.read_response

    class Bounded(_AsyncHiredisParser):
        __slots__ = ("_taken",)

        # No coroutine of its own: it is called for each answer.
        def read_response(  # type: ignore[override]
            self, disable_decoding: bool = False, push_request: bool = False
        ) -> Awaitable[Any]:
            self._taken = 0
            return read(self, disable_decoding, push_request)

        async def read_from_socket(self) -> bool:
            reader: Any = self._reader
            before = reader.len()
            more: bool = await super().read_from_socket()  # type: ignore[no-untyped-call]
            self._taken += reader.len() - before
            if self._taken > largest:
                raise AnswerTooLarge(f"an answer of more than {largest} bytes")
            return more

    return Bounded


def _hosts(url: SplitResult) -> list[tuple[str, int]]:
    """`a:1,b:2` of the authority part; ports default to 6379, and to 26379 for Sentinel."""
    usual = 26379 if url.scheme.endswith("sentinel") else 6379
    hosts = []
    for written in url.netloc.rpartition("@")[2].split(","):
        host, _, port = written.rpartition(":") if written.rpartition(":")[2].isdigit() else (written, "", "")
        hosts.append((host.strip("[]") or "localhost", int(port) if port else usual))
    return hosts
