"""One timer for calls that all have as long."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from dub5.providers.http import TimeLimit


async def held(limit: TimeLimit, work: asyncio.Event) -> None:
    with limit.of_task():
        await work.wait()


async def test_each_call_has_its_own_time() -> None:
    limit, never, done = TimeLimit(0.05), asyncio.Event(), asyncio.Event()
    calls = [asyncio.create_task(held(limit, each)) for each in (never, done, never)]
    await asyncio.sleep(0)
    done.set()
    await calls[1]
    later = asyncio.create_task(held(limit, never))
    for call in (calls[0], calls[2], later):
        with pytest.raises(TimeoutError):
            await call
        assert not call.cancelled()
    with pytest.raises(TimeoutError):  # and again, after the timer had nothing to look at
        await held(limit, never)
    limit.close()


async def test_who_is_cancelled_is_not_out_of_time() -> None:
    limit, never = TimeLimit(60.0), asyncio.Event()
    call = asyncio.create_task(held(limit, never))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    limit.close()


async def test_who_is_cancelled_when_its_time_is_over_is_cancelled() -> None:
    limit, never = TimeLimit(0.0), asyncio.Event()
    call: asyncio.Task[None]

    async def cancelled_twice() -> None:
        with limit.of_task():
            try:
                await never.wait()
            finally:
                call.cancel()

    call = asyncio.create_task(cancelled_twice())
    with pytest.raises(asyncio.CancelledError):
        await call
    limit.close()


async def test_a_timeout_around_it_is_the_one_that_is_raised() -> None:
    limit, never = TimeLimit(60.0), asyncio.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await held(limit, never)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with contextlib.suppress(ValueError), limit.of_task():
        raise ValueError  # goes through as it is
    limit.close()
