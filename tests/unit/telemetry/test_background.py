"""What fails in the background is started again, counted, logged once, and always ends when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import EventDict

from dub5.telemetry import background as module
from dub5.telemetry.background import (
    FIRST_DELAY,
    MAX_DELAY,
    QUIET,
    Background,
    BackgroundTask,
    Cancelled,
    Ended,
    delay,
)
from dub5.telemetry.metrics import Metrics
from tests.harness import later


class Work:
    """A task's work, which does as it is told: it goes on until it is given an exception, or None to return."""

    def __init__(self) -> None:
        self.starts = 0
        self.orders: asyncio.Queue[BaseException | None] = asyncio.Queue()
        self.started = asyncio.Event()

    async def __call__(self) -> None:
        self.starts += 1
        self.started.set()
        order = await self.orders.get()
        if order is not None:
            raise order

    async def until(self, starts: int) -> None:
        async with asyncio.timeout(60):
            while self.starts < starts:
                self.started.clear()
                await self.started.wait()


class Scene:
    """A supervisor, and what it told."""

    def __init__(self, logs: list[EventDict]) -> None:
        self.metrics = Metrics()
        self.background = Background(self.metrics, rng=lambda: 0.0)
        self.work = Work()
        self.logs = logs

    def start(self, **options: Any) -> BackgroundTask:
        return self.background.start("reader", self.work, **options)

    def figure(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"dub5_background_{name}", {"task": "reader"})

    def said(self) -> list[str]:
        return [line["event"] for line in self.logs]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    with structlog.testing.capture_logs() as logs:
        made = Scene(logs)
        yield made
        async with asyncio.timeout(60):
            await made.background.stop()
        assert made.background.tasks == set()
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # a state has no event
            await asyncio.sleep(0.001)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_wait_grows_to_a_bound_and_is_never_nothing(failures: int, chance: float) -> None:
    wait = delay(failures, chance)
    assert FIRST_DELAY / 2 <= wait <= MAX_DELAY
    assert delay(failures + 1, chance) >= wait


def test_a_task_that_fails_at_each_start_never_looks_well() -> None:
    assert max(delay(failures, 0.999) for failures in range(1, 40)) < QUIET


def failed() -> RuntimeError:
    return RuntimeError("broken")


@pytest.mark.parametrize(
    ("kill", "kind"),
    [
        (lambda work, _: work.orders.put_nowait(failed()), RuntimeError),
        (lambda work, _: work.orders.put_nowait(None), Ended),
        (lambda _, task: task.task.cancel(), Cancelled),
        (lambda work, _: work.orders.put_nowait(asyncio.CancelledError()), Cancelled),
    ],
    ids=["raises", "returns", "is cancelled", "raises a cancellation"],
)
async def test_it_runs_again_however_it_ended(
    scene: Scene, kill: Callable[[Work, BackgroundTask], None], kind: type[Exception]
) -> None:
    task = scene.start()
    await scene.work.until(1)
    assert (scene.figure("failures_total"), scene.figure("failing")) == (0, 0)
    kill(scene.work, task)
    await scene.work.until(2)
    assert (task.state, scene.figure("failures_total"), scene.figure("failing")) == ("running", 1, 1)
    [line] = scene.logs
    assert (line["event"], line["log_level"], line["task"]) == ("background task failed", "error", "reader")
    assert isinstance(line["exc_info"], kind)


async def test_each_kind_of_error_is_logged_once_and_then_that_it_recovered(scene: Scene) -> None:
    scene.start()
    for start, error in enumerate((failed(), failed(), LookupError(), failed()), 1):
        await scene.work.until(start)
        scene.work.orders.put_nowait(error)
    await scene.work.until(5)
    assert [type(line["exc_info"]) for line in scene.logs] == [RuntimeError, LookupError]
    assert (scene.figure("failures_total"), scene.figure("failing")) == (4, 1)
    await later(QUIET)
    await until(lambda: scene.figure("failing") == 0)
    assert scene.said()[2:] == ["background task recovered"]
    scene.work.orders.put_nowait(failed())  # it begins anew
    await scene.work.until(6)
    assert scene.said()[3:] == ["background task failed"]
    assert scene.figure("failing") == 1


async def test_after_each_failure_in_a_row_it_waits_longer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def at_once(failures: int, _: float) -> float:
        asked.append(failures)
        return 0.0

    monkeypatch.setattr(module, "delay", at_once)
    scene.start()
    for start in range(1, 4):
        await scene.work.until(start)
        scene.work.orders.put_nowait(failed())
    await scene.work.until(4)
    await later(QUIET)
    await until(lambda: scene.figure("failing") == 0)
    scene.work.orders.put_nowait(failed())
    await scene.work.until(5)
    assert asked == [1, 2, 3, 1]


async def test_a_task_that_may_end_is_over_when_it_does(scene: Scene) -> None:
    task = scene.start(forever=False)
    await scene.work.until(1)
    scene.work.orders.put_nowait(failed())
    await scene.work.until(2)
    scene.work.orders.put_nowait(None)
    await until(lambda: task.state == "ended")
    assert scene.background.tasks == set()
    assert (scene.figure("failures_total"), scene.figure("failing")) == (1, 0)
    await task.stop()


async def test_stopping_one_that_waits_for_its_next_start(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "delay", lambda *_: 3600.0)
    task = scene.start()
    scene.work.orders.put_nowait(failed())
    await until(lambda: task.state == "waiting")
    await task.stop()
    assert (task.state, scene.background.tasks, scene.figure("failing")) == ("ended", set(), 0)
    await later(7200)
    await asyncio.sleep(0)
    assert scene.work.starts == 1


async def test_one_that_raises_while_it_is_stopped_is_noted_and_stays_stopped(scene: Scene) -> None:
    async def stumble() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise failed()

    task = scene.background.start("reader", stumble)
    await asyncio.sleep(0)
    await task.stop()
    assert (task.state, scene.said()) == ("ended", ["background task failed"])


async def test_one_that_swallows_a_cancellation_is_cancelled_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_TIMEOUT", 0.01)

    async def deaf() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    task = scene.background.start("reader", deaf)
    await asyncio.sleep(0)
    await task.stop()
    assert (task.state, scene.logs) == ("ended", [])


async def test_one_that_never_ends_holds_nobody_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_TIMEOUT", 0.01)
    over = asyncio.Event()

    async def deaf() -> None:
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue

    task = scene.background.start("reader", deaf)
    await asyncio.sleep(0)
    await task.stop()
    assert [(line["event"], line["names"]) for line in scene.logs] == [
        ("background tasks did not stop", ["reader"])
    ]
    over.set()
    await until(lambda: task.state == "ended")


async def test_what_a_job_raises_is_counted_and_logged_once(scene: Scene) -> None:
    async def fail() -> None:
        raise failed()

    jobs = scene.background.jobs("reader")
    assert scene.figure("failures_total") == 0
    for _ in range(3):
        jobs.start(fail())
    await until(lambda: scene.figure("failures_total") == 3)
    assert scene.said() == ["background task failed"]
    assert scene.background.jobs("reader") is jobs


async def test_jobs_may_end_by_themselves_when_they_are_stopped_or_are_cancelled(scene: Scene) -> None:
    go, done = asyncio.Event(), []

    async def finish(number: int) -> int:
        await go.wait()
        done.append(number)
        return number

    jobs = scene.background.jobs("reader")
    first = jobs.start(finish(1))
    asyncio.get_running_loop().call_soon(go.set)
    await jobs.stop(wait=60.0)
    assert await first == 1
    go.clear()
    second = jobs.start(finish(2))
    await jobs.stop()
    assert (second.cancelled(), done, scene.logs) == (True, [1], [])


async def test_a_job_may_be_awaited_and_raises_there_too(scene: Scene) -> None:
    async def fail() -> None:
        raise failed()

    with pytest.raises(RuntimeError):
        await scene.background.jobs("reader").start(fail())
    assert scene.figure("failures_total") == 1


async def test_a_job_that_was_killed_gives_nothing_to_who_waits_for_it(scene: Scene) -> None:
    jobs = scene.background.jobs("reader")

    async def fail() -> str:
        raise failed()

    assert await jobs.result(jobs.start(fail())) is None
    cancelled = jobs.start(asyncio.sleep(3600, "never"))
    asyncio.get_running_loop().call_soon(cancelled.cancel)
    assert await jobs.result(cancelled) is None
    assert await jobs.result(jobs.start(asyncio.sleep(0, "done"))) == "done"


async def test_one_who_waits_for_a_job_may_leave_and_the_others_get_its_result(scene: Scene) -> None:
    jobs, go = scene.background.jobs("reader"), asyncio.Event()

    async def finish() -> str:
        await go.wait()
        return "done"

    job = jobs.start(finish())
    leaving, staying = (asyncio.create_task(jobs.result(job)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    go.set()
    assert await staying == "done"
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_what_a_callback_raises_is_noted_and_what_is_no_error_goes_where_it_went(scene: Scene) -> None:
    def fail() -> None:
        raise failed()

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(scene.background.unhandled)
    loop.call_soon(fail)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loop.call_exception_handler({"message": "something odd"})
    assert [(line["event"], line["task"]) for line in scene.logs] == [("background task failed", "other")]
    count = scene.metrics.registry.get_sample_value("dub5_background_failures_total", {"task": "other"})
    assert count == 1


async def test_a_failure_before_the_start_is_noted(scene: Scene) -> None:
    with scene.background.noting("reader"):
        raise failed()
    assert (scene.figure("failures_total"), scene.said()) == (1, ["background task failed"])


async def test_without_metrics_nothing_is_counted_but_all_is_done() -> None:
    background, work = Background(rng=lambda: 0.0), Work()
    with structlog.testing.capture_logs() as logs:
        background.start("reader", work)
        work.orders.put_nowait(failed())
        await work.until(2)
        await background.stop()
    assert [line["event"] for line in logs] == ["background task failed"]
