"""One connection for what requests wait for: many commands at a time, with no task, timer or wait of its own for any.

redis-py makes the connection, with all that takes: name or Sentinels, TLS, user, password, database. Then its transport
is ours. What is asked in one turn of the event loop is written at once; an answer is read by hiredis, and given to who
asked for it by a callback, in the turn in which it came. Redis answers a connection in the order of asking, so who is
next is whose answer this is.

That order is all that tells one answer from another, so whatever could shift it ends the connection: what is no RESP,
an answer that nobody waits for or that is none to such a command, one longer than any of ours, and one that does not
come in time. Then everybody who still waits gets the error at once. Who does not care for an answer any more stays in
the row, and ignores it.

One timer goes while anything is under way, and looks at what waits longest only. It ticks ten times in the time that an
answer may take: most of these ticks must have come in time, so that a busy event loop, which leaves answers unread, is
not taken for a Redis that does not answer. See docs/adr/0031-answered-where-it-arrives.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import hiredis
import msgspec
from redis._parsers import _AsyncHiredisParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

from dub5.process.countdown import LATE, STEPS, out_of_time
from dub5.redis.client import CONNECT_TIMEOUT, REDIS_ERRORS, AnswerTooLarge
from dub5.telemetry.background import QUIET, delay
from dub5.telemetry.logging import get_logger

MOST_UNDER_WAY = 2**20
"""Bytes of commands that have no answer yet, at most."""
MOST_COMMAND = 2**16
"""Bytes of what is asked at once, at most: all that comes after it waits until it is sent."""

Done = Callable[[list[Any] | Exception], None]
"""Called with the answers, refusals among them, or why there are none. Raises nothing but InvalidResponse, where these
are no answers to such commands."""

_FED = 2**12
"""Bytes that hiredis gets at once: with each answer that it gives it moves all that it has after that."""

_log = get_logger()

_INCOMPLETE = object()
_PLAIN = frozenset({bytes, int, list})
"""Answers that are nothing else besides."""
_POLL_INTERVAL = 0.05
"""Seconds between two checks whether Redis is back."""


class Demoted(InvalidResponse):
    """The server is no master any more, or never was: by now its name may lead to another one."""


class _Waiter(msgspec.Struct, eq=False):
    """Who waits for `left` more answers to `size` bytes; `ticks` and `in_time` are those before it asked."""

    done: Done
    left: int
    size: int
    ticks: int
    in_time: int
    answers: list[Any] = []


class PipelinedConnection(asyncio.Protocol):
    """`timeout` is in seconds, `largest` in bytes of one answer.

    Answers are noted in the `breaker`. `lost` is called once, in the end, before all who wait: with why, None where
    the connection was closed from here or by a Redis that owed nothing.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        lost: Callable[[Exception | None], None],
        breaker: Breaker,
        *,
        timeout: float,
        largest: int,
    ) -> None:
        """Takes over what redis-py has connected and does not use. RedisConnectionError where it is of no use."""
        writer = connection._writer  # noqa: SLF001
        reader: Any = connection._reader  # noqa: SLF001
        if writer is None or reader is None or reader.at_eof() or reader._buffer:  # noqa: SLF001
            raise RedisConnectionError("not connected, or not at the beginning of an answer")
        self._loop = asyncio.get_running_loop()
        self._lost = lost
        self._breaker = breaker
        self._step = timeout / STEPS
        self._largest = largest
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=_AsyncHiredisParser.parse_error,
            notEnoughData=_INCOMPLETE,
        )
        self._waiting: deque[_Waiter] = deque()
        self._under_way = 0
        self._taken = 0  # bytes of the answer that is being read
        self._out: list[bytes] = []
        self._ticks = self._in_time = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.open = True
        self._transport: Any = writer.transport
        self._former: Any = self._transport.get_protocol()
        self._transport.set_protocol(self)

    def ask(self, packed: bytes, answers: int, done: Done) -> bool:
        """Have `done` called with that many answers to these commands, later and once. False where that would be too
        much at once."""
        size = len(packed)
        if not self.open or size > MOST_COMMAND or self._under_way + size > MOST_UNDER_WAY:
            return False
        self._under_way += size
        self._waiting.append(_Waiter(done, answers, size, self._ticks, self._in_time))
        if not self._out:
            self._loop.call_soon(self.send)
        self._out.append(packed)
        if self._timer is None:
            self._due = self._loop.time() + self._step
            self._timer = self._loop.call_at(self._due, self._on_tick)
        return True

    def close(self, error: Exception | None = None) -> None:
        """Nothing more is read; who still waits is given `error`."""
        if not self.open:
            return
        self.open = False
        if self._timer is not None:
            self._timer.cancel()
        self._out.clear()
        self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        self._lost(error)
        for waiter in waiting:
            waiter.done(error or RedisConnectionError("closed"))
            if isinstance(error, AnswerTooLarge):  # it was the first one's
                error = None

    def data_received(self, data: bytes) -> None:
        self._taken += len(data)
        reader, waiting, whole = self._reader, self._waiting, False
        try:
            for at in range(0, len(data), _FED):
                reader.feed(data, at, min(_FED, len(data) - at))
                while self.open and (answer := reader.gets()) is not _INCOMPLETE:
                    if type(answer) not in _PLAIN:
                        if isinstance(answer, hiredis.PushNotification):  # nobody asked, and nothing of ours
                            self._taken = reader.len()
                            continue
                        if isinstance(answer, RedisConnectionError):  # such as that it is still loading
                            raise answer
                    if not waiting:
                        raise InvalidResponse("an answer that nobody asked for")
                    whole, waiter = True, waiting[0]
                    waiter.answers.append(answer)
                    waiter.left -= 1
                    if not waiter.left:
                        waiting.popleft()
                        self._under_way -= waiter.size
                        waiter.done(waiter.answers)
        except (InvalidResponse, RedisConnectionError) as error:
            self.close(error)
            return
        if whole:
            self._taken = reader.len()
            self._breaker.failures = 0
        if self._taken > self._largest:
            self.close(AnswerTooLarge(f"an answer of more than {self._largest} bytes"))

    def connection_lost(self, error: Exception | None) -> None:
        self._former.connection_lost(error)  # redis-py waits for that
        self.close((error or RedisConnectionError("closed by Redis")) if self._waiting else None)

    def send(self) -> None:
        """What was asked so far, which else goes with the end of this turn."""
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def _on_tick(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        now, first = self._loop.time(), self._waiting[0]
        self._ticks += 1
        self._in_time += now < self._due + LATE
        if out_of_time(self._ticks - first.ticks, self._in_time - first.in_time):
            self.close(TimeoutError())
        else:
            self._due = now + self._step
            self._timer = self._loop.call_at(self._due, self._on_tick)


class Breaker(Protocol):
    """Of the server: see `link`. `failures` counts those in a row: an answer ends it."""

    failures: int

    @property
    def available(self) -> bool: ...

    def failed(self, error: Exception, *, hung: bool) -> None: ...


class Pipelining:
    """Such a connection, made anew whenever it is lost: `connection` is None while there is none.

    It comes from `pool`, redis-py's; how it fares is reported to the `breaker`.
    """

    def __init__(self, pool: Any, breaker: Breaker, *, timeout: float, largest: int) -> None:
        self.connection: PipelinedConnection | None = None
        self._pool = pool
        self._breaker = breaker
        self._timeout = timeout
        self._largest = largest

    async def keep(self) -> None:
        """A background task: connect again and again, ever later where it is lost soon each time."""
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            if not self._breaker.available:
                failures = 0
                await asyncio.sleep(_POLL_INTERVAL)
                continue
            began = loop.time()
            with contextlib.suppress(*REDIS_ERRORS):
                await self._use_one()
            failures = 0 if loop.time() - began > QUIET else failures + 1
            await asyncio.sleep(delay(failures, random.random()))  # noqa: S311

    def close(self, error: Exception | None = None) -> None:
        """Until there is another: Redis is away, or that one is of no more use."""
        if self.connection is not None:
            self.connection.close(error)

    async def _use_one(self) -> None:
        """Until it is lost."""
        over: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def lost(error: Exception | None) -> None:
            self.connection = None
            if not over.done():
                over.set_result(error)
            # One that is too large says nothing of the server.
            if error is not None and not isinstance(error, AnswerTooLarge):
                _log.warning("redis connection lost", error=type(error).__name__)
                self._breaker.failed(error, hung=isinstance(error, TimeoutError))

        async with asyncio.timeout(CONNECT_TIMEOUT):
            made = await self._pool.get_connection()
        try:
            connection = PipelinedConnection(
                made, lost, self._breaker, timeout=self._timeout, largest=self._largest
            )
            self.connection = connection
            try:
                ended = await over
            finally:
                connection.close()
        finally:
            await made.disconnect(nowait=True)
            await self._pool.release(made)
        if isinstance(ended, Demoted):  # the idle ones lead there as well
            await self._pool.disconnect(inuse_connections=False)
