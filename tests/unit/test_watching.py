"""What watches over the tests themselves: it finds what it is for, and nothing else stumbles over it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from blockbuster import BlockingError
from coverage.collector import Collector

from tests.harness import later, no_slow_callbacks


async def test_a_lock_that_is_waited_for_in_the_loop_is_a_blocking_call() -> None:
    lock = threading.Lock()
    with lock, pytest.raises(BlockingError):
        lock.acquire(timeout=0.1)


async def test_coverage_may_wait_for_its_own() -> None:
    """It takes it for each call that it sees, also in the loop, and other threads take it too."""
    of_coverage: Any = SimpleNamespace(data_lock=threading.Lock())
    of_coverage.data_lock.acquire()
    threading.Timer(0.05, of_coverage.data_lock.release).start()
    Collector.lock_data(of_coverage)
    assert of_coverage.data_lock.locked()


async def test_a_callback_that_works_for_a_second_is_an_error() -> None:
    watching = contextlib.ExitStack()
    watching.enter_context(no_slow_callbacks())
    await asyncio.sleep(0)
    ends = time.thread_time() + 1
    while time.thread_time() < ends:
        pass
    await asyncio.sleep(0)
    with pytest.raises(AssertionError):
        watching.close()


async def test_what_another_thread_puts_into_the_loop_is_an_error() -> None:
    with no_slow_callbacks(), pytest.raises(RuntimeError, match="Non-thread-safe"):
        await asyncio.to_thread(asyncio.get_running_loop().call_soon, print)


async def test_later_what_was_to_time_out_does() -> None:
    async def hang() -> None:
        await later(3600)
        await asyncio.Event().wait()

    async with asyncio.timeout(3600):
        await later(3500)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hang(), 3600)
