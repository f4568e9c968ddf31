"""The queues of connections: who is due, who goes first, and that nothing stops the sweep."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from dub5.errors import Dub5Error
from dub5.server import protocol as http_protocol
from dub5.server.protocol import ConnectionLimits, Connections
from dub5.telemetry.background import Background


class Stub:
    """What the queues ask of a connection, written down."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.charge = 0
        self.sent = False

    def has_sent(self) -> bool:
        return self.sent

    def close(self) -> None:
        self.calls.append("close")

    def cut(self) -> None:
        self.calls.append("cut")

    def evict(self) -> None:
        self.calls.append("make room")

    def check_unread(self, now: float) -> None:
        self.calls.append(f"look {now:g}")

    def refuse(self, error: Dub5Error, reason: str) -> None:
        self.calls.append(f"{error.status} {reason}")


def made(max_connections: int = 10) -> Connections:
    limits = ConnectionLimits(read_timeout=30, write_timeout=20, idle=75, max_connections=max_connections)
    return Connections(limits, lambda _: None)


def stubs(count: int) -> list[Any]:
    return [Stub() for _ in range(count)]


@pytest.mark.parametrize(
    ("queue", "limit", "refused"),
    [
        ("idle", 75, "close"),
        ("sending", 30, "408 slow_request"),
        ("unread", 20, "look 120"),
        ("leaving", 1, "cut"),
    ],
)
def test_those_that_have_waited_for_the_limit_are_ended_and_no_others(
    queue: str, limit: float, refused: str
) -> None:
    connections, now = made(), 120.0
    longer, just, not_yet = stubs(3)
    waiting = getattr(connections, queue)
    waiting.update({longer: now - limit - 5, just: now - limit, not_yet: now - limit + 0.1})
    connections.sweep(now)
    assert [each.calls for each in (longer, just, not_yet)] == [[refused], [refused], []]
    assert list(waiting) == [not_yet]


@pytest.mark.parametrize(
    ("idle", "sending", "first"),
    [([1, 2], [3], {1: ["close"]}), ([], [3, 1], {3: ["make room"]}), ([], [], {4: ["make room"]})],
    ids=["idle", "sending", "nobody but the newcomer"],
)
def test_who_has_least_to_lose_makes_room(
    idle: list[int], sending: list[int], first: dict[int, list[str]]
) -> None:
    connections, all_of_them = made(max_connections=4), stubs(5)
    connections.connections = set(all_of_them)
    for queue, numbers in ((connections.idle, idle), (connections.sending, sending)):
        queue.update({all_of_them[number]: 0.0 for number in numbers})
    connections.admit(all_of_them[4], 5.0)
    assert {number: each.calls for number, each in enumerate(all_of_them) if each.calls} == first


def test_who_came_a_moment_ago_is_told_why_he_has_to_go() -> None:
    connections, [fresh, newcomer] = made(max_connections=1), stubs(2)
    connections.connections = {fresh, newcomer}
    connections.idle[fresh] = 4.5
    connections.admit(newcomer, 5.0)
    assert [each.calls for each in (fresh, newcomer)] == [["make room"], []]


def test_whoever_has_sent_something_that_we_have_not_read_is_not_idle() -> None:
    connections, [honest, reader, idle, stranger, newcomer] = made(max_connections=4), stubs(5)
    connections.connections = {honest, reader, idle, stranger, newcomer}
    honest.sent = newcomer.sent = True
    connections.idle.update({honest: 0.0, reader: 0.0, idle: 0.0})
    connections.unread[reader] = 0.0
    connections.sending[stranger] = 0.0
    connections.admit(newcomer, 5.0)
    assert [each.calls for each in (honest, reader, idle, stranger, newcomer)] == [[], [], ["close"], [], []]
    del connections.idle[idle]
    connections.admit(newcomer, 5.0)
    assert [each.calls for each in (honest, reader, stranger, newcomer)] == [[], [], ["make room"], []]


def test_those_that_are_seen_off_take_no_room_of_others() -> None:
    connections, [idle, leaving, newcomer] = made(max_connections=2), stubs(3)
    connections.connections = {idle, leaving, newcomer}
    connections.idle[idle] = connections.leaving[leaving] = 0.0
    connections.admit(newcomer, 5.0)
    assert [each.calls for each in (idle, leaving, newcomer)] == [[], [], []]


def test_nothing_more_is_accepted_until_somebody_has_gone() -> None:
    connections, [idle, fresh, refused, busy] = made(max_connections=2), stubs(4)
    connections.connections = {idle, fresh, refused, busy}
    connections.idle.update({idle: 0.0, fresh: 9.0})
    connections.leaving[refused] = 0.0
    assert connections.limits.most == 4
    assert not connections.has_room(0, 10.0)
    assert [each.calls for each in (idle, fresh, refused, busy)] == [["close"], [], [], []]
    del connections.idle[idle]
    assert not connections.has_room(0, 10.0)
    assert [each.calls for each in (fresh, refused, busy)] == [[], ["cut"], []]
    connections.connections.remove(refused)
    assert connections.has_room(0, 10.0)
    assert not connections.has_room(1, 10.0)


def test_nobody_makes_room_where_there_is_some() -> None:
    connections, all_of_them = made(max_connections=2), stubs(2)
    connections.connections = set(all_of_them)
    for each in all_of_them:
        connections.admit(each, 1.0)
    assert [each.calls for each in all_of_them] == [[], []]


def test_many_closed_for_room_are_one_warning_a_sweep() -> None:
    connections, all_of_them = made(max_connections=1), stubs(3)
    connections.connections = set(all_of_them)
    with structlog.testing.capture_logs() as logs:
        for each in all_of_them:
            connections.admit(each, 1.0)
        connections.sweep(1.0)
        connections.sweep(1.0)
    assert [line["closed"] for line in logs] == [3]


async def test_a_connection_that_cannot_be_closed_does_not_stop_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "_SWEEP", 0.001)
    connections, closed, background = made(), asyncio.Event(), Background()
    broken, last = stubs(2)
    broken.close, last.close = "not to be called", closed.set
    connections.idle.update({broken: -1e9, last: -1e9})
    with structlog.testing.capture_logs() as logs:
        background.start("connection-limits", connections.watch)
        await asyncio.wait_for(closed.wait(), 60)
        await background.stop()
    assert [line["event"] for line in logs] == ["background task failed"]
