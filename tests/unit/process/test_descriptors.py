"""How file descriptors are divided, and what bounds the sockets of providers."""

from __future__ import annotations

import errno
import resource
import socket
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dub5.process.descriptors import (
    OPERATIONS,
    Room,
    Sockets,
    divide,
    is_shortage,
    limit,
    raise_limit,
    refused_at_once,
)

ADDRESS = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))
SERVED = {"max_connections": 10_000, "max_inflight": 200, "redis": 11}


@pytest.mark.parametrize("files", [None, 1_048_576, 20_000])
def test_where_there_are_many_nothing_is_less_than_wanted(files: int | None) -> None:
    assert divide(files, pools=[1000] * 5, **SERVED) == Room(10_000, OPERATIONS, 200, None)


def test_where_there_are_few_clients_and_providers_have_a_part_each() -> None:
    room = divide(256, pools=[1000], **SERVED)
    assert room.provider_connections is not None
    assert room.calls < room.provider_connections < room.clients < 200
    assert room.clients >= 80


def test_few_clients_leave_more_to_providers() -> None:
    few = divide(1024, pools=[1000] * 5, **{**SERVED, "max_connections": 100})
    assert few.clients == 100
    assert few.calls == 200
    assert few.provider_connections is not None
    assert few.provider_connections > 600


def test_the_simulated_provider_needs_no_descriptors() -> None:
    room = divide(256, pools=[], **SERVED)
    assert (room.calls, room.provider_connections) == (200, None)
    assert room.clients > 128


@given(
    files=st.integers(8, 70_000),
    max_connections=st.integers(1, 20_000),
    max_inflight=st.integers(1, 5_000),
    pools=st.lists(st.integers(1, 5_000), max_size=6),
    redis=st.integers(0, 60),
)
@example(files=171, max_connections=1, max_inflight=66, pools=[82], redis=43)
def test_all_parts_together_are_not_more_than_there_are(
    files: int, max_connections: int, max_inflight: int, pools: list[int], redis: int
) -> None:
    room = divide(files, max_connections=max_connections, max_inflight=max_inflight, pools=pools, redis=redis)
    assert 1 <= room.clients <= max_connections
    assert 1 <= room.calls <= max_inflight
    providers = room.provider_connections
    if providers is None:
        providers = sum(min(pool, int(max_inflight * 1.25)) for pool in pools)
    if files >= 128 + redis:
        assert providers >= 1 or not pools
        operations = room.operations + refused_at_once(room.operations)
        assert room.clients + refused_at_once(room.clients) + providers + operations + redis + 32 <= files


def test_the_soft_limit_becomes_the_hard_one_where_the_system_lets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def refuse(which: int, limits: tuple[int, int]) -> None:
        asked.append((which, limits))
        raise ValueError("too much")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_limit()
    assert asked == [(resource.RLIMIT_NOFILE, (4096, 4096))]
    assert limit() == 256
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert limit() is None


def wrapped(error: Exception) -> Exception:
    """As redis-py does it."""
    try:
        try:
            raise error
        except OSError:
            raise ConnectionError("cannot connect")  # noqa: B904
    except ConnectionError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (OSError(errno.EMFILE, "x"), True),
        (wrapped(OSError(errno.ENFILE, "x")), True),
        (wrapped(ConnectionRefusedError(errno.ECONNREFUSED, "x")), False),
        (TimeoutError(), False),
        (None, False),
    ],
)
def test_a_shortage_is_known_by_what_the_system_said(error: Exception | None, short: bool) -> None:
    assert is_shortage(error) is short


def test_a_circle_of_errors_comes_to_an_end() -> None:
    one, other = ValueError(), ValueError()
    one.__context__, other.__context__ = other, one
    assert not is_shortage(one)


class Transport:
    """What `Sockets` needs of one."""

    def __init__(self, over: socket.socket) -> None:
        self._over = over

    def is_closing(self) -> bool:
        return self._over.fileno() < 0

    def abort(self) -> None:
        self._over.close()


def test_there_are_never_more_than_may_be_and_idle_ones_make_room() -> None:
    sockets = Sockets(2)
    one, two = (sockets.make(ADDRESS) for _ in range(2))
    with pytest.raises(OSError, match="in use") as caught:
        sockets.make(ADDRESS)
    assert is_shortage(caught.value)
    first, second = (Transport(each) for each in (one, two))
    unused: list[Any] = [first, second]
    for each in unused:
        sockets.unused(each)
    sockets.used(unused[0])
    three = sockets.make(ADDRESS)
    assert (one.fileno() >= 0, two.fileno()) == (True, -1)
    with pytest.raises(OSError, match="in use"):
        sockets.make(ADDRESS)
    one.close()
    four = sockets.make(ADDRESS)
    assert four.fileno() >= 0
    for each in (three, four):
        each.close()


def test_what_was_closed_is_not_kept_in_mind() -> None:
    sockets = Sockets(3)
    for _ in range(100):
        made = sockets.make(ADDRESS)
        transport: Any = Transport(made)
        sockets.unused(transport)
        made.close()
    assert len(sockets._open) <= 3
    assert len(sockets._idle) <= 4


def test_a_place_is_free_from_the_moment_in_which_a_connection_is_being_closed() -> None:
    """The event loop closes its socket in the next turn; whoever waits for the place comes in this one."""
    sockets = Sockets(1)
    one = sockets.make(ADDRESS)

    class Closing(Transport):
        def is_closing(self) -> bool:
            return True

    closing: Any = Closing(one)
    sockets.unused(closing)
    two = sockets.make(ADDRESS)
    with pytest.raises(OSError, match="in use"):
        sockets.make(ADDRESS)
    for sock in (one, two):
        sock.close()
