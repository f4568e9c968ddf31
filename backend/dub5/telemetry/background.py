"""What runs in the background, supervised in one place.

There are two kinds. A *background task* runs for as long as the service does: it reads policies, renews leases,
measures the event loop. If it raises, is cancelled by somebody else or returns, it is started again, after a tenth of a
second the first time and then ever later, up to `MAX_DELAY`. A *job* is short and is done once: a publish, a
comparison. What it raises is noted, and jobs that still run are cancelled when the service stops.

All failures are counted in `dub5_background_failures_total`. The log has the first of each kind of error, with its
traceback, and is silent about that kind until there was none for `QUIET` seconds: a task that fails all day is one
entry. `dub5_background_failing` counts those of one name that fail again and again, and there is an alert.

No task watches the others: asyncio calls us back when one ends, and a timer starts it again, so nothing could fail in
their place. Elsewhere `asyncio.create_task` is left to functions that begin and end a task themselves; a lint rule
sees to that. The rule does not see `loop.create_task`, which is used where a callback of a connection begins a task
that ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Coroutine, Iterator
from typing import Any, Literal, TypeVar

from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Metrics

FIRST_DELAY, MAX_DELAY = 0.1, 10.0
"""Seconds until a background task is started again: after its first failure, and after many in a row."""
QUIET = 30.0
"""Seconds without a failure after which all is well again. Longer than MAX_DELAY: else a task that fails at each
start would look well between two of them."""
STOP_TIMEOUT = 5.0
"""Seconds that one task may take to end, once it is cancelled."""

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, None]]

_log = get_logger()


class Ended(Exception):
    """A background task returned, though it should go on."""


class Cancelled(Exception):
    """A background task was cancelled, though nobody stopped it."""


def delay(failures: int, draw: float) -> float:
    """Seconds until the next start, after so many failures in a row; `draw` is uniform in [0, 1).

    Between half and all of what doubles each time: replicas that fail for one reason do not come back all at once.
    """
    longest: float = min(MAX_DELAY, FIRST_DELAY * 2 ** min(failures - 1, 16))
    return longest * (0.5 + draw / 2)


class _Failures:
    """Of everything with one name."""

    def __init__(self, name: str, metrics: Metrics | None) -> None:
        self._name = name
        self._count = metrics.background_failures.labels(name) if metrics is not None else None
        # kind of error -> when it last came (the loop's clock)
        self._last: dict[type[BaseException], float] = {}

    def note(self, error: BaseException) -> None:
        if self._count is not None:
            self._count.inc()
        now, kind = asyncio.get_running_loop().time(), type(error)
        last = self._last.get(kind)
        self._last[kind] = now
        if last is None or now - last >= QUIET:
            _log.error("background task failed", task=self._name, exc_info=error)


class BackgroundTask:
    """One that is started again when it fails. `state` is `waiting` between a failure and the next start.

    `task` is the asyncio task of the latest start.
    """

    def __init__(self, name: str, work: Work, background: Background, *, forever: bool) -> None:
        self.name = name
        self.state: Literal["running", "waiting", "ended"] = "running"
        self.failing = False
        self._work = work
        self._forever = forever
        self._background = background
        self._failed_in_a_row = 0
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None  # for the next start, or for being well again
        self.task: asyncio.Task[None]
        self._begin()

    def _begin(self) -> None:
        self.state = "running"
        self.task = asyncio.create_task(self._work(), name=self.name)  # noqa: TID251  # here is where
        self.task.add_done_callback(self._done)
        if self.failing:
            self._timer = asyncio.get_running_loop().call_later(QUIET, self._is_well)

    def _done(self, task: asyncio.Task[None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        error = Cancelled() if task.cancelled() else task.exception()
        if self._stopping and task.cancelled():
            error = None
        elif error is None and self._forever:
            error = Ended()
        if error is None or self._stopping:
            self._end()
        else:
            self.state = "waiting"
            self._set_failing(True)
            self._failed_in_a_row += 1
            wait = delay(self._failed_in_a_row, self._background.rng())
            self._timer = asyncio.get_running_loop().call_later(wait, self._begin)
        if error is not None:  # last: where it cannot be logged it is started again all the same
            self._background.failures(self.name).note(error)

    def _is_well(self) -> None:
        self._failed_in_a_row = 0
        self._set_failing(False)
        _log.info("background task recovered", task=self.name)

    def _set_failing(self, failing: bool) -> None:
        if failing != self.failing:
            self.failing = failing
            self._background.count_failing(self.name, 1 if failing else -1)

    def _end(self) -> None:
        self.state = "ended"
        self._set_failing(False)
        self._background.tasks.discard(self)

    async def stop(self) -> None:
        """End it, in whatever state it is. Takes STOP_TIMEOUT seconds at most and never raises."""
        self._stopping = True
        if self.state == "waiting" and self._timer is not None:
            self._timer.cancel()
            self._end()
        await _cancelled([self.task])


class Jobs:
    """Short tasks of one kind; `running` are those under way."""

    def __init__(self, name: str, background: Background) -> None:
        self._name = name
        self._background = background
        self.running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin one. The task may be awaited; what it raises is noted in any case."""
        task = asyncio.create_task(work)  # noqa: TID251  # here is where
        self.running.add(task)
        task.add_done_callback(self._done)
        return task

    async def result(self, task: asyncio.Task[T]) -> T | None:
        """What a job gives to all who wait for it, whoever of them leaves. None where it failed, or somebody else
        cancelled it."""
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            waiting = asyncio.current_task()
            if task.cancelled() and waiting is not None and not waiting.cancelling():
                return None
            raise
        except Exception:  # noqa: BLE001  # noted when the job ended
            return None

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._background.failures(self._name).note(error)

    async def stop(self, *, wait: float = 0.0) -> None:
        """Let those that run end by themselves for `wait` seconds, then cancel them. Never raises."""
        if wait and self.running:
            await asyncio.wait(self.running, timeout=wait)
        await _cancelled(self.running)


class Background:
    """All background tasks and jobs of one replica. `rng` is uniform in [0, 1).

    `tasks` are those that are not stopped. Without `metrics` nothing is counted.
    """

    def __init__(self, metrics: Metrics | None = None, *, rng: Callable[[], float] = random.random) -> None:
        self.tasks: set[BackgroundTask] = set()
        self.rng = rng
        self._metrics = metrics
        self._jobs: dict[str, Jobs] = {}
        self._failures: dict[str, _Failures] = {}

    def start(self, name: str, work: Work, *, forever: bool = True) -> BackgroundTask:
        """Run `work()` until it is stopped; again where it raises or, if `forever`, where it returns.

        `name` is a label of metrics: one of few.
        """
        self.failures(name)  # so that its count is there, and 0, before the first
        self.count_failing(name, 0)
        task = BackgroundTask(name, work, self, forever=forever)
        self.tasks.add(task)
        return task

    def jobs(self, name: str) -> Jobs:
        """The jobs of that name; `name` is a label of metrics, too."""
        self.failures(name)
        return self._jobs.setdefault(name, Jobs(name, self))

    async def stop(self) -> None:
        """End all that is left, in bounded time. Never raises."""
        tasks = [each.stop() for each in self.tasks]
        jobs = [each.stop() for each in self._jobs.values()]
        await asyncio.gather(*tasks, *jobs)

    @contextlib.contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """For what a background task will do again anyway, done once before it starts: a failure is only noted."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self.failures(name).note(error)

    def unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """For `loop.set_exception_handler`: what a callback raised, or a task that nobody awaited."""
        if isinstance(error := context.get("exception"), Exception):
            self.failures("other").note(error)
        else:
            loop.default_exception_handler(context)

    def failures(self, name: str) -> _Failures:
        if name not in self._failures:
            self._failures[name] = _Failures(name, self._metrics)
        return self._failures[name]

    def count_failing(self, name: str, change: int) -> None:
        if self._metrics is not None:
            self._metrics.background_failing.labels(name).inc(change)


async def _cancelled(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel them and wait for their end; a second time where that was lost, as some libraries' timeouts may do."""
    for _ in range(2):
        tasks = [task for task in tasks if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_TIMEOUT / 2)
    left = sorted({task.get_name() for task in tasks if not task.done()})
    if left:
        _log.error("background tasks did not stop", names=left)
