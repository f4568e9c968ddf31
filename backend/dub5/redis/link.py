"""The one way to Redis: short waits, no retries, and a breaker, so that Redis can never hold up an answer.

`RedisLink` is what everybody else uses: commands in, answers out, and messages of a channel. It hands commands to
`Batches`, of which there is one for each server; these hand them to OneServer, or to a node of `cluster`. redis-py
makes the connections.

Commands to one server go as one pipeline for all callers in the same turn of the event loop: the first caller opens a
batch, and the others' commands join it until it is sent. It takes one connection and one wait, whatever it holds, and
each caller gets the answers to its own commands. Up to CONNECTIONS batches are under way at a time, each on a
connection of its own; while all are, commands gather in the next batch. A caller that is cancelled leaves its batch,
which goes on: others wait for it, and a connection is only used again when every answer was read. A batch that fails or
passes the timeout fails for all its callers and counts once. See docs/adr/0013-one-batch-a-turn.md.

The breaker: one timeout opens it, or a few other failures in a row; commands then fail at once, without a wait, and a
background task probes the server each quarter of a second. So a lost Redis costs a request at most one timeout. A Redis
that answers but refuses (read-only, out of memory) is not lost: only that command fails.

What requests wait for goes over one connection more, without tasks (`pipelined`), and by batches only while there is
none, to a Cluster, and where it is large. It counts for the breaker as a batch does.

Connections are made before anybody waits for them, at the start and when a lost Redis is probed: that takes several
round trips, and so longer than a command may. Of a Cluster each node has batches and a breaker of its own, so one that
is lost holds up nothing that the others keep; its loss has the layout read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec
from hiredis import pack_command
from redis._parsers import _AsyncHiredisParser
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import InvalidResponse, ReadOnlyError, ResponseError

from dub5.contract import Undecodable, clock_offset
from dub5.process.countdown import Countdown
from dub5.process.descriptors import is_shortage
from dub5.redis.client import (
    CONNECT_TIMEOUT,
    CONNECTIONS,
    LARGEST_ANSWER,
    LOST,
    REDIS_ERRORS,
    AnswerTooLarge,
    Client,
    Command,
    at_once,
    connect,
)
from dub5.redis.cluster import Cluster
from dub5.redis.pipelined import Demoted, PipelinedConnection, Pipelining
from dub5.settings.model import RedisSettings
from dub5.telemetry.background import Background, BackgroundTask
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Distribution, Metrics

MAX_BATCH = 256
"""Commands of a batch beyond which nobody joins it: their answers are read in one go."""
FAILURES_TO_OPEN = 3
PROBE_INTERVAL = 0.25

_PING: Command = (("PING",), {})
_SILENCES = 3
_LISTEN_INTERVAL = 1.0
_LISTEN_AGAIN = 0.25

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
MOST_REASON = 200
"""Characters of what Redis, or the system, says of a failure that are logged."""
_LOG_INTERVAL = 60.0
"""Seconds between two lines about undecodable values of one kind, at least."""

_LOOK_AGAIN = 10.0
"""Seconds after which a Redis that refuses writes, since it is a replica, is looked for under its name once more."""

CLOCK_TOLERANCE = 2.0
"""Seconds by which clocks may differ: much more than a round trip, and what two readings lie apart."""

Handler = Callable[[bytes], Awaitable[None]]
Words = tuple[Any, ...]
"""One command: its name, then texts, bytes and numbers."""
OnAnswers = Callable[["list[Any] | RedisUnavailable"], None]
"""Called with the answers to commands, or with why Redis did not do them all. It must not raise."""
_OPTIONS: dict[str, dict[str, Any]] = {"ZRANGE": {"withscores": True, "score_cast_func": float}}
"""What redis-py has to know to read an answer, where that depends on the question: all of ours ask WITHSCORES."""
_NO_OPTIONS: dict[str, Any] = {}


_TYPES: dict[str, Any] = {
    "GETRANGE": bytes,
    "XRANGE": list,
    "HMGET": list,
    "DEL": int,
    "HSET": int,
    "PEXPIRE": int,
    "PUBLISH": int,
    "EVAL": object,
}
"""What may be asked by `ask`, and what its answer is: anything else is none."""
_ASKED = frozenset(_TYPES)
_USUAL: dict[str, tuple[type, ...]] = {"GETRANGE": (bytes,), "EVAL": (int, list), "HMGET": (list,)}
"""What they nearly always are, and needs no further look."""
_AWAITED = frozenset(
    {"claim", "set", "release", "append", "renew", "publish", "fingerprint", "limit", "settle"}
)
"""Operations that go by `ask`, too: requests wait for most of them, and their answers are small."""

_GET_RANGE = b"*4\r\n$8\r\nGETRANGE\r\n$%d\r\n%b\r\n%b"
"""As it is sent: of a name's length, the name, and from where to where."""

_log = get_logger()


class RedisUnavailable(Exception):
    """Redis did not do it; whether it is down, slow or refusing is in the log and the metrics."""


class RedisFailed(RedisUnavailable):
    """Redis was asked in vain; it may have done it all the same."""


class RedisUndecodable(RedisUnavailable):
    """Redis is there, but has something else than ours under that name: of another type, or larger than it can be."""


def _settle(waiter: asyncio.Future[list[Any]], answers: list[Any] | RedisUnavailable) -> None:
    if waiter.done():  # whoever waited has left
        return
    if isinstance(answers, RedisUnavailable):
        waiter.set_exception(answers)
    else:
        waiter.set_result(answers)


class RedisClock:
    """Redis's time, in seconds since the epoch, as far as it is known here. `wall` is our own clock.

    An answer of Redis's clock lies somewhere between our question and its arrival, so the offset is known to within a
    round trip, and is left alone as long as it lies within that: replicas whose clocks agree go by their own. Without
    Redis, and before it has answered, so do all.
    """

    def __init__(self, metrics: Metrics, wall: Callable[[], float] = time.time) -> None:
        self.wall = wall
        self.offset = 0.0
        self._metrics = metrics
        self._differs = False

    def __call__(self) -> float:
        return self.wall() + self.offset

    def learn(self, read: Sequence[bytes], *, asked: float) -> None:
        """REDIS_TIME gave `read` after `asked`, of our own clock."""
        offset = clock_offset(self.offset, read, asked=asked, now=self.wall())
        if offset != self.offset:
            self.offset = offset
            self._metrics.redis_clock_offset.set(offset)
        if (abs(offset) > CLOCK_TOLERANCE) != self._differs:
            self._differs = not self._differs
            if self._differs:
                _log.warning("redis clock differs", seconds=round(offset, 3))


class _Durations(dict[str, Distribution]):
    """By operation."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __missing__(self, operation: str) -> Distribution:
        self[operation] = made = self._metrics.redis_duration.labels(operation)
        return made


class RedisLink:
    """Runs commands against one Redis. `available` tells whether any of it is there, as far as is known: of a Cluster,
    any node."""

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
        self._durations = _Durations(metrics)
        self._background = background or Background(metrics)
        self._handlers: dict[bytes, Handler] = {}
        self._subscriber: BackgroundTask | None = None
        self._client: Client = bounded(connect(settings, password), largest)
        self._batches: dict[str, Batches] = {}  # by name of the server
        self._server: OneServer | Cluster
        self._pipelining: Pipelining | None = None
        self._pipeliner: BackgroundTask | None = None
        self._ask: Callable[..., Awaitable[list[Any]]]
        if isinstance(self._client, RedisCluster):
            self._server = Cluster(self._client, self._background, self._on_master)
            self._ask = functools.partial(self._ask_nodes, self._server)
            # It listens by the layout that the commands keep up to date.
            self._subscriptions: Client = self._client
        else:
            self._server = OneServer(self._client)
            batches = self._batches_of(self._server)
            self._ask = batches.ask
            pool = self._client.connection_pool
            self._has_sentinels = isinstance(pool, SentinelConnectionPool)
            self._pipelining = Pipelining(pool, batches, timeout=self._timeout, largest=largest)
            self._server.failed = self._pipelining.close
            # The subscriber must not take a connection from commands.
            self._subscriptions = bounded(connect(settings, password), largest)
        self.available = True  # before anybody asked, it may be
        self._up = False  # as the metric has it
        self._logged: dict[tuple[str, ...], float] = {}
        self._demoted = -math.inf

    def undecodable(self, kind: str, reason: object) -> None:
        """Count a value or message that is not what we write there; it is logged once a minute for each kind."""
        self._metrics.redis_undecodable.labels(kind).inc()
        if self._is_due("undecodable", kind):
            _log.warning("redis value undecodable", kind=kind, reason=str(reason))

    def _is_due(self, *line: str) -> bool:
        """Whether it is a minute since such a line was logged."""
        now = time.monotonic()
        due = now >= self._logged.get(line, -math.inf) + _LOG_INTERVAL
        if due:
            self._logged[line] = now
        return due

    def subscribe(self, channel: str, handler: Handler) -> None:
        """Have `handler` called with each message on `channel`. Before `start`; messages may get lost."""
        self._handlers[channel.encode()] = handler

    async def start(self) -> None:
        """Ask once, so that the first request knows; a Redis that is away is no reason not to start."""
        if isinstance(self._server, Cluster):
            await self._server.refresh("")  # the layout takes longer than a command may
        with contextlib.suppress(*REDIS_ERRORS):
            await self._server.connect()
        with contextlib.suppress(RedisUnavailable):
            await self.run("ping", "PING")
        if self._pipelining is not None:
            self._pipeliner = self._background.start("redis-pipeline", self._pipelining.keep)
        if self._handlers:
            self._subscriber = self._background.start("redis-subscriber", self._listen)

    async def stop(self) -> None:
        self.available = False  # nothing more is asked
        for task in (self._subscriber, self._pipeliner):
            if task is not None:
                await task.stop()
        await asyncio.gather(*(batches.stop() for batches in self._batches.values()))
        if isinstance(self._server, Cluster):
            await self._server.stop()
        async with contextlib.AsyncExitStack() as stack:  # one that cannot be closed leaves no other open
            for client in {self._client, self._subscriptions}:
                pool = getattr(client, "connection_pool", None)
                if isinstance(pool, SentinelConnectionPool):  # redis-py closes the master's connections only
                    stack.push_async_callback(pool.sentinel_manager.aclose)
                stack.push_async_callback(client.aclose)

    def ask(self, operation: str, commands: Sequence[Words], on_answers: OnAnswers) -> bool:
        """`pipeline` for who cannot wait: `on_answers` is called once with what it would have given or raised, later,
        in the turn in which that is known.

        False, and no call, where there is no connection for that, as there is none to a Cluster, or too much under way
        on it: then `pipeline` may do.
        """
        connection = self._pipelined
        if connection is None:
            return False
        packed, kinds = b"".join(map(pack_command, commands)), [words[0] for words in commands]
        done = functools.partial(self._finish, operation, kinds, 1, on_answers, time.perf_counter())
        return connection.ask(packed, len(kinds), done)

    def ask_ranges(self, operation: str, names: Sequence[str], end: int, on_answers: OnAnswers) -> bool:
        """`ask` for the first bytes, up to number `end`, of what each name has."""
        last = b"$1\r\n0\r\n$%d\r\n%d\r\n" % (len(str(end)), end)
        packed = b"".join([_GET_RANGE % (len(name), name, last) for name in map(str.encode, names)])
        connection, kinds = self._pipelined, ["GETRANGE"] * len(names)
        done = functools.partial(self._finish, operation, kinds, len(names), on_answers, time.perf_counter())
        return connection is not None and connection.ask(packed, len(names), done)

    @property
    def pipelines(self) -> bool:
        """Whether there is a connection for who cannot wait."""
        return self._pipelined is not None

    @property
    def _pipelined(self) -> PipelinedConnection | None:
        return None if self._pipelining is None else self._pipelining.connection

    def send(self) -> None:
        """Send what was asked so far now: else it goes with the end of the turn."""
        if (connection := self._pipelined) is not None:
            connection.send()

    def _finish(
        self,
        operation: str,
        kinds: Sequence[str],
        count: int,
        on_answers: OnAnswers,
        started: float,
        answers: list[Any] | Exception,
    ) -> None:
        """Commands of these kinds are answered, of which there are `count` in the metrics."""
        self._durations[operation].observe(time.perf_counter() - started, times=count)
        if isinstance(answers, Exception):
            self._metrics.cache_errors.labels(operation).inc()
            if isinstance(answers, AnswerTooLarge):
                self.undecodable(_KINDS.get(operation, operation), "too large")
            on_answers(RedisUndecodable() if isinstance(answers, AnswerTooLarge) else RedisFailed())
            return
        for at, (kind, answer) in enumerate(zip(kinds, answers, strict=True)):
            if type(answer) in _USUAL.get(kind, ()):  # as most are
                continue
            if isinstance(answer, ResponseError):
                on_answers(self._refused(operation, answer))
                if isinstance(answer, ReadOnlyError) and self._has_sentinels:
                    raise Demoted
                return
            sound = isinstance(answer, _TYPES[kind])
            if sound and answer and kind == "XRANGE":
                try:  # as redis-py gives them
                    answers[at] = [
                        (id_, dict(zip(read[::2], read[1::2], strict=True))) for id_, read in answer
                    ]
                except (TypeError, ValueError):
                    sound = False
            if not sound:
                self._metrics.cache_errors.labels(operation).inc()
                on_answers(RedisFailed())
                raise InvalidResponse("no answer to such a command")
        if not self._up:
            self._show_whether_up()
        on_answers(answers)

    async def run(self, operation: str, *words: Any) -> Any:
        """The answer to one command, or RedisUnavailable within one timeout."""
        [answer] = await self.pipeline(operation, [words])
        return answer

    async def pipeline(self, operation: str, commands: Sequence[Words]) -> list[Any]:
        """The answers to these commands, sent in one go and in order; no transaction.

        RedisUnavailable where Redis did not do them all, RedisUndecodable where what it has cannot be ours.
        """
        if not self.available:
            raise RedisUnavailable
        if operation in _AWAITED and _ASKED.issuperset([words[0] for words in commands]):
            waiter: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
            if self.ask(operation, commands, functools.partial(_settle, waiter)):
                return await waiter
        asked: list[Command] = [(words, _OPTIONS.get(words[0], _NO_OPTIONS)) for words in commands]
        started = time.perf_counter()
        try:
            try:
                answers = await self._ask(asked)
            except RedisUndecodable:
                answers = await self._ask_alone(operation, asked)
        except (RedisFailed, RedisUndecodable):
            self._metrics.cache_errors.labels(operation).inc()
            raise
        finally:
            self._durations[operation].observe(time.perf_counter() - started)
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise self._refused(operation, answer)
        if not self._up:
            self._show_whether_up()
        return answers

    def _refused(self, operation: str, refusal: ResponseError) -> RedisUnavailable:
        self._metrics.cache_errors.labels(operation).inc()
        error = str(refusal)[:MOST_REASON]
        if self._is_due("refused", operation):
            _log.warning("redis refused", operation=operation, error=error)
        else:
            _log.debug("redis refused", operation=operation, error=error)
        now = time.monotonic()
        if (
            isinstance(refusal, ReadOnlyError)
            and self._pipelining is not None
            and now > self._demoted + _LOOK_AGAIN
        ):
            self._demoted = now
            asyncio.get_running_loop().call_soon(self._pipelining.close, Demoted())
        if "WRONGTYPE" in str(refusal):  # of the command, or of one in a script
            self.undecodable(_KINDS.get(operation, operation), "of another type")
            return RedisUndecodable()
        return RedisUnavailable()

    async def _ask_alone(self, operation: str, commands: list[Command]) -> list[Any]:
        """After an answer in their batch was too large: it was perhaps another caller's. Writes are not repeated."""
        if operation in _READING:
            with contextlib.suppress(RedisUndecodable):
                return await self._ask(commands, alone=True)
        self.undecodable(_KINDS.get(operation, operation), "too large")
        raise RedisUndecodable

    async def _ask_nodes(
        self, cluster: Cluster, commands: list[Command], *, alone: bool = False
    ) -> list[Any]:
        """Commands for one node stay together and in order."""
        parts: dict[Batches, list[int]] = {}
        for position, command in enumerate(commands):
            parts.setdefault(self._batches_of(cluster.node_of(command)), []).append(position)
        if not all(batches.available for batches in parts):
            raise RedisUnavailable
        asked = [
            batches.ask([commands[position] for position in positions], alone=alone)
            for batches, positions in parts.items()
        ]
        answers: list[Any] = [None] * len(commands)
        for positions, part in zip(parts.values(), await asyncio.gather(*asked), strict=True):
            for position, answer in zip(positions, part, strict=True):
                answers[position] = answer
        return answers

    def _batches_of(self, server: Server) -> Batches:
        batches = self._batches.get(server.name)
        if batches is None:
            self.available = True  # of that server nothing is known yet
            batches = Batches(server, self._show_whether_up, self._background, timeout=self._timeout)
            self._batches[server.name] = batches
        return batches

    def _on_master(self, server: Server) -> None:
        if self._batches_of(server).available:
            self.available = True

    def _show_whether_up(self) -> None:
        counted = set(self._batches)
        if isinstance(self._server, Cluster):
            # Nothing is asked of one that was a master, so that it would count as available for ever.
            counted = (counted & self._server.masters()) or counted
        self._up = self.available = any(self._batches[name].available for name in counted)
        if self._pipelining is not None and not self.available:
            self._pipelining.close()
        self._metrics.redis_up.set(self._up)

    async def _listen(self) -> None:
        """One connection for all channels, made anew whenever it is lost."""
        while True:
            # Of a Cluster of which no node has a channel's slot, redis-py raises the second.
            with contextlib.suppress(*REDIS_ERRORS, KeyError):
                async with self._subscriptions.pubsub() as pubsub:
                    async with asyncio.timeout(CONNECT_TIMEOUT):
                        await pubsub.subscribe(*self._handlers)
                    await self._receive(pubsub)
            await asyncio.sleep(_LISTEN_AGAIN)

    async def _receive(self, pubsub: PubSub) -> None:
        """Until the connection is lost, or has been silent for so long that it must be: then no pings come back. Or
        until another server may be meant."""
        silent, began = 0, time.monotonic()
        while silent < _SILENCES and began > self._demoted:
            message = await pubsub.get_message(timeout=_LISTEN_INTERVAL)
            if message is None:
                silent += 1
                await pubsub.ping()
                continue
            silent = 0
            if message["type"] != "message":
                continue
            channel = message["channel"]
            try:
                await self._handlers[channel](message["data"])
            except Undecodable as error:
                self.undecodable("message", error)
            except Exception:  # noqa: BLE001  # of whatever release it is, it must not end the subscription
                self._metrics.cache_errors.labels("message").inc()
                _log.exception("message not understood", channel=channel.decode(errors="replace"))


class Server(Protocol):
    """One server, to which commands go. `name` is for the log."""

    @property
    def name(self) -> str: ...

    async def send(self, commands: list[Command]) -> list[Any]:
        """One answer or ResponseError for each command; raises one of REDIS_ERRORS where the server did not do it."""
        ...

    async def reconnect(self) -> bool:
        """Have new connections; raises one of REDIS_ERRORS where that cannot be in time.

        False where nothing will be asked of this server any more.
        """
        ...


class _Batch(msgspec.Struct, eq=False):
    """Commands, and the callers that wait for the answers from one to another of them."""

    commands: list[Command] = []
    waiters: list[tuple[asyncio.Future[list[Any]], int, int]] = []

    def fail(self, error: type[RedisUnavailable]) -> None:
        for waiter, _, _ in self.waiters:
            if not waiter.done():
                waiter.set_exception(error())


class Batches:
    """The batches and the breaker of one server; see above.

    `changed` is called when the breaker opens or closes; `available` is whether it is closed, and `failures` counts
    those in a row. `timeout` is in seconds.
    """

    def __init__(
        self, server: Server, changed: Callable[[], None], background: Background, *, timeout: float
    ) -> None:
        self.available = True
        self._server = server
        self._changed = changed
        self._timeout = timeout
        self._connections = asyncio.Semaphore(CONNECTIONS)
        self._next: _Batch | None = None  # may be joined
        self.failures = 0
        self._background = background
        self._probe: BackgroundTask | None = None
        self._running = background.jobs("redis-batch")

    async def stop(self) -> None:
        await self._running.stop()
        if self._probe is not None:  # perhaps begun by a batch that failed as it was stopped
            await self._probe.stop()

    def ask(self, commands: list[Command], *, alone: bool = False) -> asyncio.Future[list[Any]]:
        """The answers to these commands, in order, refusals among them; RedisUnavailable within one timeout.

        RedisUndecodable where an answer in the batch is too large: whose it is only those know who are `alone` in one.
        """
        if not self.available:
            raise RedisUnavailable
        batch = self._next
        if alone or batch is None or len(batch.commands) >= MAX_BATCH:
            batch = _Batch()
            self._running.start(self._run(batch)).add_done_callback(functools.partial(self._over, batch))
            if not alone:
                self._next = batch
        start = len(batch.commands)
        batch.commands += commands
        waiter: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        batch.waiters.append((waiter, start, len(batch.commands)))
        return waiter

    async def _run(self, batch: _Batch) -> None:
        try:
            # Waiting for a connection counts: all of them are with a server that answers late.
            async with Countdown(self._timeout) as limit, self._connections:
                if self._next is batch:
                    self._next = None
                if all(waiter.done() for waiter, _, _ in batch.waiters):  # cancelled
                    return
                answers = await self._server.send(batch.commands)
        except AnswerTooLarge:  # the server is well
            batch.fail(RedisUndecodable)
        except REDIS_ERRORS as error:
            if not is_shortage(error):  # of ours: it says nothing of Redis
                self.failed(error, hung=limit.expired())
            batch.fail(RedisFailed)
        else:
            self.failures = 0
            for waiter, start, end in batch.waiters:
                if not waiter.done():
                    waiter.set_result(answers[start:end])

    def _over(self, batch: _Batch, _: asyncio.Task[None]) -> None:
        """However it ended, also before it began: nobody must wait for it for ever, or join it now."""
        if self._next is batch:
            self._next = None
        if not all(waiter.done() for waiter, _, _ in batch.waiters):
            batch.fail(RedisFailed)

    def failed(self, error: Exception, *, hung: bool) -> None:
        """It did not; where it is `hung`, it did not in time."""
        self.failures = max(self.failures + 1, FAILURES_TO_OPEN if hung else 0)
        if self.failures >= FAILURES_TO_OPEN and self.available:
            reason = {"reason": said} if (said := str(error)[:MOST_REASON]) else {}  # a time-out says nothing
            _log.warning("redis unavailable", server=self._server.name, error=type(error).__name__, **reason)
            self.available = False
            self._probe = self._background.start("redis-probe", self._probe_until_it_answers, forever=False)
            if self._next is not None:  # it waits for a connection, in vain
                self._next.fail(RedisUnavailable)
                self._next = None
            self._changed()

    async def _probe_until_it_answers(self) -> None:
        while True:
            with contextlib.suppress(*REDIS_ERRORS):
                if await self._server.reconnect():
                    async with Countdown(self._timeout):
                        [answer] = await self._server.send([_PING])
                    if isinstance(answer, Exception):
                        raise answer
                break
            await asyncio.sleep(PROBE_INTERVAL)
        self.failures = 0
        self.available, self._probe = True, None
        _log.info("redis available again", server=self._server.name)
        self._changed()


class OneServer:
    """Standalone, or the master that Sentinels name."""

    name = "redis"

    def __init__(self, client: Redis) -> None:
        self._client = client
        # Called where a command failed: the other connection may lead where this one led.
        self.failed: Callable[[], None] = lambda: None

    async def send(self, commands: list[Command]) -> list[Any]:
        # Not by `Pipeline.execute`: its retries and metrics, none of which are used, cost more than the commands do.
        pool, parse_response = self._client.connection_pool, self._client.parse_response
        # Written by hiredis: redis-py reads with it, but writes in Python, a tenth of all time of a stored answer.
        packed = b"".join(
            # "XINFO STREAM" is one name for redis-py and two words for Redis.
            pack_command((*words[0].split(), *words[1:]) if " " in words[0] else words)
            for words, _ in commands
        )
        answers: list[Any] = []
        try:
            # It makes one anew that it finds closed, and so may learn that the server is lost.
            connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        except LOST as error:
            if not is_shortage(error):
                await self._lost()
            raise
        try:
            await connection.send_packed_command(packed)
            for words, options in commands:
                try:
                    answers.append(await parse_response(connection, words[0], **options))
                except ResponseError as refused:
                    answers.append(refused)
        except BaseException as error:
            # Also where redis-py cannot make sense of an answer: those after it are still to come, and would be taken
            # for the answers to the next batch. A cluster's nodes read them all.
            await connection.disconnect(nowait=True)
            if isinstance(error, LOST):
                await self._lost()
            else:
                self.failed()
            raise
        finally:
            await pool.release(connection)
        return answers

    async def _lost(self) -> None:
        await self._forget_idle()
        self.failed()

    async def _forget_idle(self) -> None:
        """See LOST."""
        await self._client.connection_pool.disconnect(inuse_connections=False)

    async def reconnect(self) -> bool:
        await self._forget_idle()
        await self.connect()
        return True

    async def connect(self) -> None:
        """Have a connection for each batch that may be under way, and one more."""
        pool = self._client.connection_pool

        async def one() -> None:
            made.append(await pool.get_connection())  # type: ignore[no-untyped-call]

        made: list[AbstractConnection] = []
        try:
            await at_once(one, CONNECTIONS + 1)  # one is taken over
        finally:
            for connection in made:
                await pool.release(connection)


def bounded(client: Client, largest: int = LARGEST_ANSWER) -> Client:
    """With answers of up to `largest` bytes to one command: a longer one raises AnswerTooLarge, and is not read to its
    end. redis-py knows no limit, and a name that is ours may hold 512 MiB."""
    parser = _bounded_parser(largest)
    if isinstance(client, RedisCluster):  # also of the nodes that are still to be found
        client.get_connection_kwargs()["parser_class"] = parser
        for node in client.nodes_manager.startup_nodes.values():
            node.connection_kwargs["parser_class"] = parser
    else:
        client.connection_pool.connection_kwargs["parser_class"] = parser
    return client


def _bounded_parser(largest: int) -> type[_AsyncHiredisParser]:
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
