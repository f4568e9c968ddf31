"""A stream's silences, on a clock that jumps: each message is noted with the second in which it went."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import closing
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.api.chat import ChatWriter
from dub5.api.http import EventStream
from dub5.cache.flights import Flight, Following
from dub5.frames import Frame
from dub5.telemetry.record import HEARTBEAT, Outlet

INTERVAL = 30.0
HEAD, END = "head", "end"
COMMENT = HEARTBEAT.decode()

Step = tuple[float, str]


class Clockwork(asyncio.SelectorEventLoop):
    """Time stands still while there is anything to do, and then jumps to the next timer."""

    _now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if not self._ready:  # type: ignore[attr-defined]
            due = min((timer.when() for timer in timers if not timer.cancelled()), default=self._now)
            self._now = max(self._now, due)
        super()._run_once()  # type: ignore[misc]


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Clockwork) as runner:
        runner.run(work)


class Client:
    """What it was sent, and when. While `reading` is not set it takes nothing. `pushed` counts what was not awaited."""

    def __init__(self) -> None:
        self.pushed = 0
        self.reading = asyncio.Event()
        self.reading.set()
        self.got: list[Step] = []
        self._sending = 0

    async def send(self, message: Any) -> None:
        assert self._sending == 0, "two at once"
        self._sending += 1
        try:
            await self.reading.wait()
            assert not self.got or self.got[-1][1] != END, "after the end"
            self.got.append((asyncio.get_running_loop().time(), _name(message)))
        finally:
            self._sending -= 1

    def push(self) -> Outlet | None:
        return Way(self) if self.reading.is_set() else None


class Way(Outlet):
    """To such a client."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def open(self) -> bool:  # type: ignore[override]
        return self._client.reading.is_set()

    def send(self, part: bytes) -> None:
        client = self._client
        assert client._sending == 0, "two at once"
        assert client.got[-1][1] != END, "after the end"
        client.got.append((asyncio.get_running_loop().time(), part.decode()))
        client.pushed += 1


def _name(message: Any) -> str:
    if message["type"] == "http.response.start":
        assert (message["status"], message["headers"]) == (200, [(b"a", b"b")])
        return HEAD
    assert message["more_body"] is (message["body"] != b"")
    body: bytes = message["body"]
    return body.decode() or END


def head() -> list[tuple[bytes, bytes]]:
    return [(b"a", b"b")]


class Plain(ChatWriter):
    """A frame's bytes are its event."""

    def events(self, frames: list[Frame]) -> bytes:
        return b"".join(frame.raw for frame in frames)

    def end(self) -> bytes:
        return b""


def answer(*pauses: float) -> Following:
    """One frame after each pause, named by its number."""
    flight = Flight(followers=1)

    async def fly() -> None:
        for number, pause in enumerate(pauses):
            await asyncio.sleep(pause)
            flight.add([Frame("chunk", str(number).encode())])
        flight.end()

    flight.task = asyncio.create_task(fly())
    return Following(flight)


async def answered(
    *pauses: float, thinking: float, interval: float = INTERVAL, pushing: bool = True
) -> list[Step]:
    client = Client()
    with closing(EventStream(client.send, interval, push=client.push if pushing else None)) as stream:
        stream.expect(head)
        await asyncio.sleep(thinking)
        await stream.relay(answer(*pauses), Plain(False), head)
    await asyncio.sleep(1000)  # nothing comes after the end
    assert client.pushed == (len(pauses) if pushing else 0)
    return client.got


def test_an_answer_that_comes_in_time_has_no_comment() -> None:
    async def work() -> None:
        assert await answered(29, 29, 29, thinking=29) == [
            (29, HEAD),
            (58, "0"),
            (87, "1"),
            (116, "2"),
            (116, END),
        ]

    run(work())


def test_before_the_answer_the_head_goes_with_the_first_comment() -> None:
    async def work() -> None:
        assert await answered(0, thinking=70) == [
            (30, HEAD),
            (30, COMMENT),
            (60, COMMENT),
            (70, "0"),
            (70, END),
        ]

    run(work())


@pytest.mark.parametrize("pushing", [True, False])
def test_silence_counts_from_the_last_byte(pushing: bool) -> None:
    async def work() -> None:
        assert await answered(25, 31, 64, thinking=10, pushing=pushing) == [
            (10, HEAD),
            (35, "0"),
            (65, COMMENT),
            (66, "1"),
            (96, COMMENT),
            (126, COMMENT),
            (130, "2"),
            (130, END),
        ]

    run(work())


def test_without_an_interval_there_is_silence() -> None:
    async def work() -> None:
        assert await answered(500, thinking=500, interval=0) == [(500, HEAD), (1000, "0"), (1000, END)]

    run(work())


@pytest.mark.parametrize("begun", [False, True])
def test_a_comment_that_is_not_taken_is_the_only_one_and_goes_before_what_comes(begun: bool) -> None:
    async def work() -> None:
        client = Client()
        with closing(EventStream(client.send, INTERVAL, push=client.push)) as stream:
            stream.expect(head)
            if begun:
                await stream.begin(head())
            client.reading.clear()
            asyncio.get_running_loop().call_later(100, client.reading.set)
            await asyncio.sleep(95)
            await stream.relay(answer(0), Plain(False), head)
        first = [(0, HEAD), (100, COMMENT)] if begun else [(100, HEAD), (100, COMMENT)]
        assert client.got == [*first, (100, "0"), (100, END)]

    run(work())


def test_what_is_sent_and_not_taken_is_followed_by_no_comment() -> None:
    async def work() -> None:
        client = Client()
        with closing(EventStream(client.send, INTERVAL, push=client.push)) as stream:
            stream.expect(head)
            await stream.begin(head())
            client.reading.clear()
            asyncio.get_running_loop().call_later(100, client.reading.set)
            await stream.relay(answer(1, 119, 31), Plain(False), head)
        assert client.got == [(0, HEAD), (100, "0"), (120, "1"), (150, COMMENT), (151, "2"), (151, END)]

    run(work())


@pytest.mark.parametrize("after", [0, 30, 45])
def test_who_gives_up_sends_no_more(after: float) -> None:
    """Before a comment, in the moment in which it is due, and while it is not taken."""

    async def work() -> None:
        client = Client()
        client.reading.clear()
        with closing(EventStream(client.send, INTERVAL, push=client.push)) as stream:
            stream.expect(head)
            await asyncio.sleep(after)
        client.reading.set()
        await asyncio.sleep(1000)
        assert client.got == []
        assert not stream.begun

    run(work())


def test_an_end_that_is_given_up_leaves_room_for_the_last_word() -> None:
    """A limit passes while the comment is not taken: what awaits it is cancelled, and with it the comment."""

    async def work() -> None:
        client = Client()
        with closing(EventStream(client.send, INTERVAL, push=client.push)) as stream:
            stream.expect(head)
            await stream.begin(head())
            client.reading.clear()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(40):
                    await stream.relay(answer(35), Plain(False), head)
            client.reading.set()
            await stream.end()
        assert client.got == [(0, HEAD), (40, END)]

    run(work())


def test_a_stream_that_takes_too_long_has_its_task_cancelled() -> None:
    async def work() -> None:
        client = Client()
        with closing(EventStream(client.send, INTERVAL, 40, client.push)) as stream:
            await asyncio.sleep(100)  # which does not count: nothing is sent
            with pytest.raises(asyncio.CancelledError):
                await stream.relay(answer(20, 15, 10), Plain(False), head)
            assert stream.expired
            assert stream.task.uncancel() == 0
        assert client.got == [(100, HEAD), (120, "0"), (135, "1")]

    run(work())


def test_a_defect_in_the_head_is_no_silent_end() -> None:
    def broken() -> list[tuple[bytes, bytes]]:
        raise ZeroDivisionError

    async def work() -> None:
        client = Client()
        unhandled: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        with closing(EventStream(client.send, INTERVAL, push=client.push)) as stream:
            stream.expect(broken)
            await asyncio.sleep(50)
            await stream.relay(answer(0), Plain(False), head)
        assert client.got == [(50, HEAD), (50, "0"), (50, END)]
        assert len(unhandled) == 1

    run(work())


@given(
    pushing=st.booleans(),
    thinking=st.floats(0, 100),
    pauses=st.lists(st.floats(0, 100), max_size=6),
    stalls=st.lists(st.tuples(st.floats(0, 300), st.floats(1, 100)), max_size=3),
)
def test_whatever_the_pace(
    pushing: bool, thinking: float, pauses: list[float], stalls: list[tuple[float, float]]
) -> None:
    """One head, every event in order, one end; and a client that reads never waits for longer than the interval."""

    async def work() -> None:
        client = Client()
        loop = asyncio.get_running_loop()
        for start, length in stalls:
            loop.call_at(start, client.reading.clear)
            loop.call_at(start + length, client.reading.set)
        with closing(EventStream(client.send, INTERVAL, push=client.push if pushing else None)) as stream:
            stream.expect(head)
            await asyncio.sleep(thinking)
            await stream.relay(answer(*pauses), Plain(False), head)
        names = [name for _, name in client.got]
        assert names[0] == HEAD
        assert names.count(HEAD) == 1
        events = "".join(name for name in names if name not in {HEAD, COMMENT})
        assert events == "".join(map(str, range(len(pauses)))) + END  # some come together
        if not stalls:
            times = [0.0, *(time for time, _ in client.got)]
            assert all(later - earlier <= INTERVAL + 1e-6 for earlier, later in pairwise(times))
            comments = [time for time, name in client.got if name == COMMENT]
            assert all(later - earlier >= INTERVAL - 1e-6 for earlier, later in pairwise([0.0, *comments]))

    run(work())
