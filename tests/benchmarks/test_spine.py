"""What `benchmarks.spine` counts as a call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.spine import recorder
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
