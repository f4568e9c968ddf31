"""The connection for look-ups, against a Redis that does as it is told: whose answer is whose, whatever is on the wire,
however it is cut into pieces, whoever asks when. Time passes when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

from dub5.process.countdown import STEPS
from dub5.redis.client import AnswerTooLarge
from dub5.redis.pipelined import MOST_COMMAND, MOST_UNDER_WAY, PipelinedConnection

TIMEOUT, LARGEST = 10.0, 1000


class Transport:
    """What is written, and whose protocol it is."""

    def __init__(self) -> None:
        self.protocol: Any = asyncio.Protocol()
        self.written: list[bytes] = []
        self.aborted = False

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True


class Timer:
    def __init__(self, when: float, call: Callable[[], object]) -> None:
        self.when, self.call, self.cancelled = when, call, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """An event loop whose turns and whose time are the test's."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []
        self._soon: list[Callable[[], object]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[[], object]) -> None:
        self._soon.append(call)

    def call_at(self, when: float, call: Callable[[], object]) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def turn(self) -> None:
        soon, self._soon = self._soon, []
        for call in soon:
            call()

    def pass_time(self, seconds: float, *, late: float = 0.0) -> None:
        """Timers go off in their order, each `late`."""
        until = self.now + seconds
        while due := [timer for timer in self.timers if timer.when + late <= until]:
            first = min(due, key=lambda timer: timer.when)
            self.timers.remove(first)
            if not first.cancelled:
                self.now = max(self.now, first.when + late)
                first.call()
        self.now = until


class Reader:
    _buffer = b""

    def at_eof(self) -> bool:
        return False


class Wire:
    """A connection, what was lost, and what each of those who asked was given."""

    def __init__(self) -> None:
        self.loop, self.transport = Loop(), Transport()
        self.lost: list[Exception | None] = []
        self.given: dict[int, list[Any] | Exception] = {}
        breaker: Any = SimpleNamespace(failures=0)
        made: Any = type("Made", (), {"_writer": self, "_reader": Reader()})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dub5.redis.pipelined.asyncio.get_running_loop", lambda: self.loop)
            self.connection = PipelinedConnection(
                made,
                self.lost.append,
                breaker,
                timeout=TIMEOUT,
                largest=LARGEST,
            )

    def ask(self, number: int, answers: int = 1, size: int = 10) -> bool:
        def done(answers: list[Any] | Exception) -> None:
            assert number not in self.given, "given twice"
            self.given[number] = answers

        return self.connection.ask(b"x" * size, answers, done)

    def answers(self, number: int) -> list[Any]:
        given = self.given[number]
        assert isinstance(given, list)
        return given

    def says(self, data: bytes) -> None:
        self.connection.data_received(data)


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


ANSWERS = st.one_of(
    st.binary(max_size=40).map(lambda text: (bulk(text), text)),
    st.integers(-(2**40), 2**40).map(lambda number: (b":%d\r\n" % number, number)),
    st.lists(st.binary(max_size=5), max_size=4).map(
        lambda texts: (b"*%d\r\n" % len(texts) + b"".join(map(bulk, texts)), texts)
    ),
    st.just((b"_\r\n", None)),
)


@given(
    st.lists(st.lists(ANSWERS, min_size=1, max_size=3), max_size=12),
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
    st.randoms(use_true_random=False),
)
def test_each_is_told_its_own_answers_however_they_are_cut(
    wanted: list[list[tuple[bytes, Any]]], cuts: list[int], rng: Any
) -> None:
    """Questions are asked between any two pieces of answers, in any number of turns."""
    wire, unasked, pending = Wire(), list(enumerate(wanted)), b""
    while unasked or pending:
        if unasked and (not pending or rng.random() < 0.5):
            number, answers = unasked.pop(0)
            assert wire.ask(number, len(answers))
            wire.loop.turn() if rng.random() < 0.5 else None
            pending += b">2\r\n+pushed\r\n:1\r\n" if rng.random() < 0.2 else b""
            pending += b"".join(wired for wired, _ in answers)
        else:
            cut = rng.choice(cuts)
            wire.says(pending[:cut])
            pending = pending[cut:]
    assert wire.given == {number: [value for _, value in answers] for number, answers in enumerate(wanted)}
    assert wire.lost == []


def test_what_is_asked_in_one_turn_is_written_at_once() -> None:
    wire = Wire()
    for number in range(3):
        assert wire.ask(number)
    assert wire.transport.written == []
    wire.loop.turn()
    assert wire.transport.written == [b"x" * 30]
    wire.ask(3)
    wire.loop.turn()
    assert wire.transport.written == [b"x" * 30, b"x" * 10]


def test_a_refusal_is_an_answer_to_one() -> None:
    wire = Wire()
    for number in range(2):
        wire.ask(number)
    wire.says(b"-WRONGTYPE no string\r\n" + bulk(b"mine"))
    assert [type(each) for each in wire.answers(0)] == [ResponseError]
    assert wire.given[1] == [b"mine"]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", InvalidResponse),
        (b"$-7\r\n", InvalidResponse),
        (b"-LOADING it is loading\r\n", RedisConnectionError),
        (bulk(b"x" * 2 * LARGEST)[: LARGEST + 10], AnswerTooLarge),
        (b"*1000\r\n" + b"".join(bulk(b"%d" % number) for number in range(500)), AnswerTooLarge),
    ],
)
def test_what_makes_no_sense_ends_the_connection_for_all(said: bytes, error: type[Exception]) -> None:
    wire = Wire()
    for number in range(3):
        wire.ask(number)
    wire.says(bulk(b"first"))
    wire.says(said)
    assert wire.given.pop(0) == [b"first"]
    assert [isinstance(each, Exception) for each in wire.given.values()] == [True, True]
    assert isinstance(wire.given[1], error)
    assert isinstance(wire.lost[0], error)
    assert len(wire.lost) == 1
    assert wire.transport.aborted
    wire.says(bulk(b"second") + bulk(b"third"))  # what was read already
    assert not wire.ask(4)
    assert len(wire.given) == 2


def test_only_the_first_is_told_that_its_answer_is_too_large() -> None:
    wire = Wire()
    for number in range(2):
        wire.ask(number)
    wire.says(b"$5000\r\n" + b"x" * (LARGEST + 1))
    assert [type(each) for each in wire.given.values()] == [AnswerTooLarge, RedisConnectionError]


def test_what_redis_says_unasked_is_no_part_of_an_answer() -> None:
    wire = Wire()
    wire.ask(0)
    for _ in range(10):
        wire.says(b">2\r\n" + bulk(b"invalidate") + bulk(b"x" * 280))
    wire.says(bulk(b"mine"))
    assert wire.given == {0: [b"mine"]}
    assert not wire.lost


def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    wire = Wire()
    wire.ask(0)
    wire.says(bulk(b"mine") + bulk(b"whose?"))
    assert wire.given == {0: [b"mine"]}
    assert isinstance(wire.lost[0], InvalidResponse)


def test_silence_ends_it_for_who_waits_and_later_answers_are_nobodys() -> None:
    wire = Wire()
    wire.ask(0)
    wire.loop.pass_time(TIMEOUT / 2)
    wire.ask(1)
    wire.loop.pass_time(TIMEOUT / 2 - TIMEOUT / STEPS)
    assert wire.given == {}
    wire.loop.pass_time(TIMEOUT / STEPS)
    assert [type(each) for each in wire.given.values()] == [TimeoutError] * 2
    assert [type(each) for each in wire.lost] == [TimeoutError]
    wire.says(bulk(b"late"))
    assert len(wire.given) == 2


def test_each_answer_has_its_own_time() -> None:
    """One that is answered again and again, with more under way all the time."""
    wire = Wire()
    for number in range(50):
        wire.ask(number)
        wire.loop.pass_time(TIMEOUT / 3)
        if number:
            wire.says(bulk(b"%d" % (number - 1)))
    assert wire.given == {number: [b"%d" % number] for number in range(49)}


def test_timers_that_come_late_give_it_twice_the_time() -> None:
    wire = Wire()
    wire.ask(0)
    wire.loop.pass_time(1.5 * TIMEOUT, late=0.1)
    assert wire.given == {}
    wire.loop.pass_time(TIMEOUT, late=0.1)
    assert isinstance(wire.given[0], TimeoutError)


def test_nothing_is_timed_while_nothing_is_asked() -> None:
    wire = Wire()
    wire.ask(0)
    wire.says(bulk(b"mine"))
    wire.loop.pass_time(10 * TIMEOUT)
    assert wire.loop.timers == []
    wire.ask(1)
    wire.loop.pass_time(TIMEOUT / 2)
    assert wire.connection.open


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
@pytest.mark.parametrize("owing", [True, False])
def test_a_connection_that_is_cut(error: Exception | None, owing: bool) -> None:
    """In the middle of an answer; where it owed nothing, that is no failure."""
    wire = Wire()
    if owing:
        wire.ask(0)
        wire.says(b"$5\r\nhal")
    wire.connection.connection_lost(error)
    assert [each is not None for each in wire.lost] == [owing]
    assert [isinstance(each, Exception) for each in wire.given.values()] == [True] * owing


def test_what_is_under_way_is_bounded_in_bytes() -> None:
    wire = Wire()
    assert not wire.ask(0, size=MOST_COMMAND + 1)
    taken = [wire.ask(number, size=MOST_COMMAND) for number in range(100)]
    assert sum(taken) == MOST_UNDER_WAY // MOST_COMMAND
    wire.says(bulk(b"0"))
    assert wire.ask(100, size=MOST_COMMAND)


def test_who_asks_again_when_it_is_told() -> None:
    """In the call itself: its answer is the next one that is asked for."""
    wire = Wire()
    others: list[Any] = []

    def again(answers: list[Any] | Exception) -> None:
        assert wire.ask(1)
        others.append(answers)

    wire.connection.ask(b"x", 1, again)
    wire.ask(0)
    wire.says(bulk(b"a") + bulk(b"b") + bulk(b"c"))
    assert (others, wire.given) == ([[b"a"]], {0: [b"b"], 1: [b"c"]})
