"""Frames, the followers who wait for them, and what a lost leader means to each."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.cache.flights import Flight, Following
from dub5.errors import FlightLost, ProviderError
from dub5.frames import Frame
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
    flight.add([chunk("a")])
    assert await quick.next() == [chunk("a")]
    flight.add([chunk("b"), chunk("c")])
    assert await quick.next() == [chunk("b"), chunk("c")]
    flight.end()
    assert await quick.next() == []
    assert await slow.rest() == [chunk("a"), chunk("b"), chunk("c")]


async def test_a_late_follower_begins_at_the_first_frame() -> None:
    flight = Flight()
    flight.add([chunk("a")])
    flight.end()
    assert await Follower(flight).rest() == [chunk("a")]


async def test_who_waits_is_woken_by_a_frame_and_by_the_end() -> None:
    flight = Flight()
    followers = [asyncio.create_task(Follower(flight).rest()) for _ in range(3)]
    await until_waiting(followers[0])
    flight.add([chunk("a")])
    await until_waiting(followers[0])
    flight.end()
    assert await asyncio.gather(*followers) == [[chunk("a")]] * 3


async def test_a_follower_that_gives_up_waiting_does_not_disturb_the_others() -> None:
    flight = Flight()
    gone, stays = asyncio.create_task(Follower(flight).next()), asyncio.create_task(Follower(flight).next())
    await until_waiting(gone)
    gone.cancel()
    flight.add([chunk("a")])
    assert await stays == [chunk("a")]


async def test_an_error_reaches_all_after_the_frames_before_it() -> None:
    flight = Flight()
    one, other = Follower(flight), Follower(flight)
    error = ProviderError("broken", provider="p")
    flight.add([chunk("a")])
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
    flight.add([chunk("lost")])
    flight.restart()
    flight.add([chunk("new")])
    flight.end()
    assert await unread.rest() == [chunk("new")]
    assert await waiting == [chunk("new")]


async def test_a_restart_ends_whoever_was_given_part_of_the_answer() -> None:
    flight = Flight()
    follower = Follower(flight)
    flight.add([chunk("a")])
    await follower.next()
    waiting = asyncio.create_task(follower.next())
    await until_waiting(waiting)
    flight.restart()
    with pytest.raises(FlightLost):
        await waiting
    flight.add([chunk("new")])
    flight.end()
    assert await follower.next() == []  # and it is over: the new answer does not continue the old one


async def test_a_restart_before_the_first_frame_loses_nobody() -> None:
    flight = Flight()
    follower = Follower(flight)
    flight.restart()
    flight.add([chunk("a")])
    assert await follower.next() == [chunk("a")]
    assert flight.generation == 0


async def test_a_follower_from_after_a_restart_reads_the_new_answer() -> None:
    flight = Flight()
    flight.add([chunk("lost")])
    flight.restart()
    late = Follower(flight)
    flight.add([chunk("new")])
    flight.end()
    assert await late.rest() == [chunk("new")]


async def test_the_task_is_cancelled_when_the_last_one_leaves() -> None:
    flight = Flight()
    flight.task = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]  # any endless work
    flight.add([chunk("a")])
    one, other = Follower(flight), Follower(flight)
    assert await one.next() == await other.next() == [chunk("a")]
    one.leave()
    await until_waiting(flight.task)
    other.leave()
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


class Taker:
    """A follower that takes what comes as it comes, as long as it is `able`; `given` is all that it got."""

    def __init__(self, flight: Flight) -> None:
        flight.followers += 1
        self.able = True
        self.given: list[Frame] = []
        self.taken = 0
        self._following = Following(flight)
        self.task = asyncio.create_task(self._read())

    def take(self, frames: list[Frame]) -> bool:
        if self.able:
            self.given += frames
            self.taken += len(frames)
        return self.able

    async def _read(self) -> None:
        while frames := await self._following.next(self.take):
            self.given += frames


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=20),
    restarts=st.booleans(),
)
def test_whether_taken_or_read_each_frame_comes_once_and_in_order(
    steps: list[tuple[int, int, int]], restarts: bool
) -> None:
    """A step: frames come, of four followers one is able or not from then on, and turns of the loop pass."""

    async def work() -> None:
        flight, sent = Flight(), list[Frame]()
        takers = [Taker(flight) for _ in range(4)]
        for number, (count, which, turns) in enumerate(steps):
            frames = [chunk(f"{number}.{each}") for each in range(count)]
            sent += frames
            flight.add(frames)
            takers[which].able = not takers[which].able
            for _ in range(turns):
                await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        if restarts and sent:
            flight.restart()
        flight.end()
        ended = await asyncio.gather(*(taker.task for taker in takers), return_exceptions=True)
        assert [taker.given for taker in takers] == [sent] * 4
        assert [type(error) for error in ended] == [FlightLost if restarts and sent else type(None)] * 4
        assert flight.followers == 0

    asyncio.run(work())


async def test_who_takes_is_not_woken_for_what_comes() -> None:
    flight = Flight()
    taker = Taker(flight)
    await until_waiting(taker.task)
    for text in ("a", "b", "c"):
        flight.add([chunk(text)])
    assert taker.taken == len(taker.given) == 3
    flight.end()
    await taker.task


async def test_a_follower_that_cannot_take_what_comes_for_a_defect_learns_of_it_alone() -> None:
    flight = Flight()
    broken, well = Taker(flight), Taker(flight)
    broken.take = lambda _: 1 / 0  # type: ignore[assignment,method-assign,return-value]
    await until_waiting(broken.task)
    flight.add([chunk("a")])
    with pytest.raises(ZeroDivisionError):
        await broken.task
    assert well.given == [chunk("a")]
    flight.end()
    await well.task


async def test_who_left_takes_nothing_more() -> None:
    flight = Flight()
    gone, stays = Taker(flight), Taker(flight)
    await until_waiting(gone.task)
    gone.task.cancel()
    flight.add([chunk("a")])
    assert (gone.given, stays.given) == ([], [chunk("a")])
    flight.end()
    await stays.task
