"""Reads that may hang, in threads that nobody waits for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dub5.process.threads import DaemonThreads


async def test_it_gives_what_was_read_and_raises_what_was_raised() -> None:
    reader = DaemonThreads()
    assert await reader.read(lambda: 5, 60) == 5
    with pytest.raises(ZeroDivisionError):
        await reader.read(lambda: 1 // 0, 60)
    assert reader.running == 0


async def test_what_hangs_is_left_behind_and_counted_until_it_returns() -> None:
    reader, over = DaemonThreads(most=2), threading.Event()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await reader.read(over.wait, 0.01)
    assert reader.running == 2
    with pytest.raises(TimeoutError):
        await reader.read(lambda: 5, 60)
    over.set()
    async with asyncio.timeout(60):
        while reader.running:  # noqa: ASYNC110  # a count has no event
            await asyncio.sleep(0.005)
    assert await reader.read(lambda: 5, 60) == 5


def test_what_returns_after_the_loop_has_ended_harms_nobody() -> None:
    over = threading.Event()

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await DaemonThreads().read(over.wait, 0.01)

    asyncio.run(leave())
    left = [each for each in threading.enumerate() if each.name == "reader"]
    over.set()
    for thread in left:
        thread.join(60)  # an error in it would be one of the test
    assert [each.daemon for each in left] == [True]
