"""Commands to one Redis server, as one pipeline for all who ask in the same turn of the event loop.

Whoever asks first opens a batch; what others ask before it is sent joins it. It takes one connection and one
wait, whatever it holds, and each caller gets the answers to its own commands. Up to `LANES` batches are under
way at a time, each on a connection of its own; while all lanes are taken, what is asked gathers in the next batch.

A caller that is cancelled leaves its batch, which goes on: others wait for it, and a connection is only used again
when every answer was read. A batch that fails or passes the timeout fails for all its callers and counts once.

The breaker: one timeout opens it, or a few other failures in a row; what is asked then fails at once, until Redis
answers a probe. So whoever waited once in vain does not wait again. A timeout is therefore counted carefully: in
steps, most of which must have ended in time: so a busy event loop, which leaves answers unread for a while, or a
busy machine, is not taken for a Redis that does not answer. See docs/adr/0013-one-batch-a-turn.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from redis.exceptions import InvalidResponse, RedisClusterException, RedisError, ResponseError

from dub5.process.descriptors import is_shortage
from dub5.telemetry.background import Background, BackgroundTask
from dub5.telemetry.logging import get_logger

TROUBLE = (RedisError, RedisClusterException, OSError, TimeoutError)  # the second is not one of the first

Command = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Words, and redis-py's options for reading the answer: as in `Pipeline.command_stack`."""
Send = Callable[[list[Command]], Awaitable[list[Any]]]
"""Gives one answer or ResponseError for each command; raises one of TROUBLE where the server did not do it."""

LANES = 4
"""Batches that may be under way at a time, each on a connection of its own."""
_MOST = 256
"""Commands of a batch beyond which nobody joins it: their answers are read in one go."""
_STEPS, _STEPS_IN_TIME = 10, 8
_LATE = 0.002
"""Seconds by which a timer may be late on a machine that is not busy."""
_FAILURES_TO_OPEN = 3
_PROBE_INTERVAL = 0.25

_log = get_logger()


class RedisUnavailable(Exception):
    """Redis did not do it; whether it is down, slow or refusing is in the log and the metrics."""


class RedisFailed(RedisUnavailable):
    """Redis was asked in vain; it may have done it all the same."""


class RedisUndecodable(RedisUnavailable):
    """Redis is there, but has something else than ours under that name: of another type, or larger than it can be."""


class AnswerTooLarge(InvalidResponse):
    """An answer to one command has more bytes than any of ours: it was not read to its end, so the connection cannot
    be used any more."""


@contextlib.asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[asyncio.Timeout]:
    """A timeout of `seconds`; up to twice that where our own timers come late, on a busy machine or event loop."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def take(step: int, in_time: int) -> None:
        nonlocal timer
        if (step >= _STEPS and in_time >= _STEPS_IN_TIME) or step >= 2 * _STEPS:
            limit.reschedule(loop.time())
        else:
            due = loop.time() + seconds / _STEPS
            timer = loop.call_at(due, lambda: take(step + 1, in_time + (loop.time() < due + _LATE)))

    async with asyncio.timeout(None) as limit:
        take(0, 0)
        try:
            yield limit
        finally:
            timer.cancel()


class _Batch:
    """Commands, and who waits for which of them."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self._waiting: list[tuple[asyncio.Future[list[Any]], int, int]] = []

    def join(self, commands: list[Command]) -> asyncio.Future[list[Any]]:
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        start = len(self.commands)
        self.commands += commands
        self._waiting.append((future, start, len(self.commands)))
        return future

    @property
    def wanted(self) -> bool:
        return any(not future.done() for future, _, _ in self._waiting)

    def answer(self, answers: list[Any]) -> None:
        for future, start, end in self._waiting:
            if not future.done():
                future.set_result(answers[start:end])

    def fail(self, error: type[RedisUnavailable]) -> None:
        for future, _, _ in self._waiting:
            if not future.done():
                future.set_exception(error())


class Batches:
    """The batches and the breaker of one server.

    `probe` returns if the server answers, else raises one of TROUBLE, in bounded time; `changed` is told when the
    breaker opens or closes. `timeout` is in seconds.
    """

    def __init__(
        self,
        name: str,
        send: Send,
        probe: Callable[[], Awaitable[object]],
        changed: Callable[[], None],
        background: Background,
        *,
        timeout: float,
    ) -> None:
        self._name = name
        self._send = send
        self._ask_probe = probe
        self._changed = changed
        self._timeout = timeout
        self._lanes = asyncio.Semaphore(LANES)
        self._next: _Batch | None = None
        self._failures = 0
        self._background = background
        self._probe: BackgroundTask | None = None
        self._running = background.jobs("redis-batch")

    @property
    def available(self) -> bool:
        """Whether the breaker is closed."""
        return self._probe is None

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
        if alone:
            return self._begun().join(commands)
        if self._next is None or len(self._next.commands) >= _MOST:
            self._next = self._begun()
        return self._next.join(commands)

    def _begun(self) -> _Batch:
        batch = _Batch()
        self._running.start(self._run(batch)).add_done_callback(lambda _: self._over(batch))
        return batch

    def _over(self, batch: _Batch) -> None:
        """However it ended, also before it began: nobody must wait for it for ever, or join it now."""
        if self._next is batch:
            self._next = None
        batch.fail(RedisFailed)

    async def _run(self, batch: _Batch) -> None:
        try:
            async with patience(self._timeout) as limit, self._lanes:
                if self._next is batch:
                    self._next = None
                if not batch.wanted:
                    return
                answers = await self._send(batch.commands)
        except AnswerTooLarge:  # the server is well
            batch.fail(RedisUndecodable)
        except TROUBLE as error:
            if not is_shortage(error):  # of ours: it says nothing of Redis
                self._failed(error, hung=limit.expired())
            batch.fail(RedisFailed)
        else:
            self._failures = 0
            batch.answer(answers)

    def _failed(self, error: Exception, *, hung: bool) -> None:
        self._failures = max(self._failures + 1, _FAILURES_TO_OPEN if hung else 0)
        if self._failures >= _FAILURES_TO_OPEN and self.available:
            _log.warning("redis unavailable", server=self._name, error=type(error).__name__)
            self._probe = self._background.start("redis-probe", self._ask_until_it_answers, forever=False)
            if self._next is not None:  # it waits for a lane, in vain
                self._next.fail(RedisUnavailable)
                self._next = None
            self._changed()

    async def _ask_until_it_answers(self) -> None:
        while True:
            with contextlib.suppress(*TROUBLE):
                await self._ask_probe()
                break
            await asyncio.sleep(_PROBE_INTERVAL)
        self._failures = 0
        self._probe = None
        _log.info("redis available again", server=self._name)
        self._changed()


def refusal(answers: list[Any]) -> ResponseError | None:
    """The first command that the server refused, if any."""
    return next((answer for answer in answers if isinstance(answer, ResponseError)), None)
