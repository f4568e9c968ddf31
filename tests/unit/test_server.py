"""How many connections there is room for."""

from __future__ import annotations

import resource

import pytest
import structlog

from dub5.server import _room, raise_file_limit


@pytest.mark.parametrize(
    ("files", "room"), [(1024, 768), (13_333, 9_999), (13_334, 10_000), (resource.RLIM_INFINITY, 10_000)]
)
def test_a_quarter_of_the_file_descriptors_is_not_for_clients(
    monkeypatch: pytest.MonkeyPatch, files: int, room: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    with structlog.testing.capture_logs() as logs:
        assert _room(10_000) == room
    assert [line["event"] for line in logs] == (["few file descriptors"] if room < 10_000 else [])


def test_the_soft_limit_becomes_the_hard_one_where_the_system_lets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def refuse(which: int, limits: tuple[int, int]) -> None:
        asked.append((which, limits))
        raise ValueError("too much")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_file_limit()
    assert asked == [(resource.RLIMIT_NOFILE, (4096, 4096))]
