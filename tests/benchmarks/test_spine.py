"""What `benchmarks.spine` counts as a call."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest

from benchmarks.spine import recorder
from benchmarks.spine.__main__ import Trace
from benchmarks.spine.recorder import Recorder


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This file is one of ours."""
    monkeypatch.setattr(recorder, "OURS", {f"{Path(__file__).parent}/": ""})
    recorder._named.cache_clear()
    yield
    recorder._named.cache_clear()


def calls(recorded: Recorder) -> list[tuple[str | None, str]]:
    return [(call.caller and call.caller[1], call.called[1]) for call in recorded.calls]


async def resumed() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def outer() -> None:
    await resumed()
    await asyncio.gather(resumed())


async def test_a_coroutine_is_called_once_and_a_task_by_nobody() -> None:
    recorded = Recorder()
    with recorded:
        await outer()
    assert calls(recorded)[1:] == [("outer", "resumed"), (None, "resumed")]


async def begins_another() -> None:
    await asyncio.gather(outer())


async def together(*tasks: Coroutine[Any, Any, None]) -> Recorder:
    """Each with a context of its own, as where a server begins them."""
    recorded = Recorder()
    with recorded:
        await asyncio.gather(*(asyncio.create_task(task, context=Context()) for task in tasks))
    return recorded


async def test_what_a_task_begins_has_its_origin() -> None:
    recorded = await together(begins_another(), resumed())
    by_origin: dict[str, list[str]] = {}
    for call in recorded.calls:
        by_origin.setdefault(call.origin[1], []).append(call.called[1])
    assert by_origin["begins_another"] == ["begins_another", "outer", "resumed", "resumed"]
    assert by_origin["resumed"] == ["resumed"]


async def test_what_begins_in_an_idle_replica_does_not_count() -> None:
    recorded, idle = await together(begins_another(), resumed()), await together(resumed())
    left = Trace("", recorded.calls).without(Trace("", idle.calls))
    assert {call.origin[1] for call in left.calls} == {"begins_another"}


def key(number: int) -> int:
    return -number


def through_a_library() -> list[int]:
    return (
        sorted([1, 2], key=key) + [key(each) for each in (1,)] + sorted([3], key=lambda each: key(each) + 1)
    )


def test_the_caller_is_the_nearest_of_ours() -> None:
    recorded = Recorder()
    with recorded:
        through_a_library()
    assert calls(recorded)[1:] == [("through_a_library", "key")] * 4
    assert recorded.calls[1].files == {Path(__file__).name}


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    recorded = Recorder()
    with recorded:
        through_a_library()
    recorded.write(tmp_path / "calls.json")
    assert Recorder.read(tmp_path / "calls.json") == recorded.calls
