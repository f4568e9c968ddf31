"""Frames, the followers who wait for them, and what a lost leader means to each."""

from __future__ import annotations

import asyncio

import pytest

from dub5.cache.flights import Flight, Frame
from dub5.errors import FlightLost, ProviderError
from tests.following import Follower


def chunk(text: str) -> Frame:
    return Frame("chunk", text.encode())


async def until_waiting(task: asyncio.Task[object]) -> None:
    """Turns of the loop in which `task` gets as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()


async def test_each_follower_reads_everything_at_its_own_pace() -> None:
    flight = Flight()
    quick, slow = Follower(flight), Follower(flight)
    flight.add(chunk("a"))
    assert await quick.next() == [chunk("a")]
    flight.add(chunk("b"), chunk("c"))
    assert await quick.next() == [chunk("b"), chunk("c")]
    flight.end()
    assert await quick.next() == []
    assert await slow.rest() == [chunk("a"), chunk("b"), chunk("c")]


async def test_a_late_follower_begins_at_the_first_frame() -> None:
    flight = Flight()
    flight.add(chunk("a"))
    flight.end()
    assert await Follower(flight).rest() == [chunk("a")]


async def test_who_waits_is_woken_by_a_frame_and_by_the_end() -> None:
    flight = Flight()
    followers = [asyncio.create_task(Follower(flight).rest()) for _ in range(3)]
    await until_waiting(followers[0])
    flight.add(chunk("a"))
    await until_waiting(followers[0])
    flight.end()
    assert await asyncio.gather(*followers) == [[chunk("a")]] * 3


async def test_a_follower_that_gives_up_waiting_does_not_disturb_the_others() -> None:
    flight = Flight()
    gone, stays = asyncio.create_task(Follower(flight).next()), asyncio.create_task(Follower(flight).next())
    await until_waiting(gone)
    gone.cancel()
    flight.add(chunk("a"))
    assert await stays == [chunk("a")]


async def test_an_error_reaches_all_after_the_frames_before_it() -> None:
    flight = Flight()
    one, other = Follower(flight), Follower(flight)
    error = ProviderError("broken", provider="p")
    flight.add(chunk("a"))
    flight.end(error)
    for follower in (one, other):
        assert await follower.next() == [chunk("a")]
        with pytest.raises(ProviderError) as caught:
            await follower.next()
        assert caught.value is error


async def test_a_shared_error_does_not_gather_the_tracebacks_of_all_followers() -> None:
    flight, depths = Flight(), set()
    error = ProviderError("broken", provider="p")
    flight.end(error)
    for _ in range(5):
        with pytest.raises(ProviderError):
            await Follower(flight).next()
        depth, frame = 0, error.__traceback__
        while frame is not None:
            depth, frame = depth + 1, frame.tb_next
        depths.add(depth)
    assert len(depths) == 1


async def test_only_the_first_end_counts() -> None:
    flight = Flight()
    flight.end(ProviderError("broken", provider="p"))
    flight.end()
    with pytest.raises(ProviderError):
        await Follower(flight).next()


async def test_a_restart_goes_unseen_by_who_was_given_nothing() -> None:
    flight = Flight()
    unread, waiting = Follower(flight), asyncio.create_task(Follower(flight).rest())
    await until_waiting(waiting)
    flight.add(chunk("lost"))
    flight.restart()
    flight.add(chunk("new"))
    flight.end()
    assert await unread.rest() == [chunk("new")]
    assert await waiting == [chunk("new")]


async def test_a_restart_ends_whoever_was_given_part_of_the_answer() -> None:
    flight = Flight()
    follower = Follower(flight)
    flight.add(chunk("a"))
    await follower.next()
    waiting = asyncio.create_task(follower.next())
    await until_waiting(waiting)
    flight.restart()
    with pytest.raises(FlightLost):
        await waiting
    flight.add(chunk("new"))
    flight.end()
    assert await follower.next() == []  # and it is over: the new answer does not continue the old one


async def test_a_restart_before_the_first_frame_loses_nobody() -> None:
    flight = Flight()
    follower = Follower(flight)
    flight.restart()
    flight.add(chunk("a"))
    assert await follower.next() == [chunk("a")]
    assert flight.generation == 0


async def test_a_follower_from_after_a_restart_reads_the_new_answer() -> None:
    flight = Flight()
    flight.add(chunk("lost"))
    flight.restart()
    late = Follower(flight)
    flight.add(chunk("new"))
    flight.end()
    assert await late.rest() == [chunk("new")]


async def test_the_task_is_cancelled_when_the_last_one_leaves() -> None:
    flight = Flight()
    flight.task = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]  # any endless work
    flight.add(chunk("a"))
    one, other = Follower(flight), Follower(flight)
    assert await one.next() == await other.next() == [chunk("a")]
    await one.leave()
    await until_waiting(flight.task)
    await other.leave()
    with pytest.raises(asyncio.CancelledError):
        await flight.task


async def test_a_flight_that_has_ended_is_not_cancelled() -> None:
    flight, done = Flight(), asyncio.Event()
    flight.task = asyncio.create_task(done.wait())  # type: ignore[arg-type]  # stands for what follows the end
    follower = Follower(flight)
    flight.end()
    assert await follower.next() == []
    assert flight.followers == 0
    await until_waiting(flight.task)
    done.set()
    await flight.task
