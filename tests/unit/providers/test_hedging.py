"""The first answer wins, the other call ends, and nothing that it held is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from dub5.errors import InvalidRequest, ProviderError
from dub5.providers.call import first_of
from dub5.providers.health import FEWEST_LATENCIES, MOST_LATENCIES, Latencies


def test_pace_is_unknown_at_first() -> None:
    latencies = Latencies()
    for _ in range(FEWEST_LATENCIES - 1):
        latencies.waits.append(1.0)
    assert latencies.p95() is None


def test_slow_is_what_nineteen_of_twenty_stay_under() -> None:
    latencies = Latencies()
    for wait in range(1, 101):
        latencies.waits.append(float(wait))
    assert latencies.p95() == 95.0


def test_only_the_latest_count() -> None:
    latencies = Latencies()
    for wait in [100.0] * MOST_LATENCIES + [1.0] * MOST_LATENCIES:
        latencies.waits.append(wait)
    assert latencies.p95() == 1.0


class Calls:
    """Two calls that end as the test says."""

    def __init__(self) -> None:
        self.first: asyncio.Future[str] = asyncio.Future()
        self.second: asyncio.Future[str] = asyncio.Future()
        self.second_began = asyncio.Event()
        self.begun: asyncio.Future[asyncio.Task[str]] = asyncio.Future()
        self.tasks = [asyncio.ensure_future(self._await(self.first))]
        self.result = asyncio.create_task(first_of(self.tasks[0], 0.001, self._begin_second, self.begun))

    async def _await(self, answer: Awaitable[str]) -> str:
        return await answer

    def _begin_second(self) -> asyncio.Task[str]:
        self.second_began.set()
        self.tasks.append(asyncio.create_task(self._await(self.second)))
        return self.tasks[1]


def failure(message: str) -> ProviderError:
    return ProviderError(message, provider="p")


async def test_a_first_call_in_time_is_alone() -> None:
    calls = Calls()
    calls.first.set_result("one")
    assert await calls.result == "one"
    assert not calls.second_began.is_set()


async def test_a_first_failure_in_time_is_the_failure() -> None:
    calls = Calls()
    calls.first.set_exception(failure("one"))
    with pytest.raises(ProviderError, match="one"):
        await calls.result
    assert not calls.second_began.is_set()


@pytest.mark.parametrize("winner", [0, 1])
async def test_the_first_answer_wins_and_the_other_call_is_cancelled(winner: int) -> None:
    calls = Calls()
    await calls.second_began.wait()
    (calls.first, calls.second)[winner].set_result("won")
    assert await calls.result == "won"
    assert calls.tasks[1 - winner].cancelled()


@pytest.mark.parametrize("loser", [0, 1])
async def test_one_failure_leaves_it_to_the_other(loser: int) -> None:
    calls = Calls()
    await calls.second_began.wait()
    answers = (calls.first, calls.second)
    answers[loser].set_exception(failure("lost"))
    await asyncio.wait([calls.tasks[loser]])
    answers[1 - loser].set_result("won")
    assert await calls.result == "won"


async def test_where_both_fail_it_is_the_firsts_error() -> None:
    calls = Calls()
    await calls.second_began.wait()
    calls.second.set_exception(failure("two"))
    await asyncio.wait([calls.tasks[1]])
    calls.first.set_exception(failure("one"))
    with pytest.raises(ProviderError, match="one"):
        await calls.result


async def test_the_callers_error_decides_at_once() -> None:
    calls = Calls()
    await calls.second_began.wait()
    calls.second.set_exception(InvalidRequest("Bad.", param="n"))
    with pytest.raises(InvalidRequest):
        await calls.result
    assert calls.tasks[0].cancelled()


@pytest.mark.parametrize("winner", [0, 1])
async def test_who_has_begun_to_answer_is_awaited_alone(winner: int) -> None:
    calls = Calls()
    await calls.second_began.wait()
    calls.begun.set_result(calls.tasks[winner])
    await asyncio.wait([calls.tasks[1 - winner]])
    assert calls.tasks[1 - winner].cancelled()
    assert not calls.result.done()
    (calls.first, calls.second)[winner].set_result("won")
    assert await calls.result == "won"


async def test_who_begins_in_time_is_alone() -> None:
    calls = Calls()
    calls.begun.set_result(calls.tasks[0])
    await asyncio.sleep(0.01)
    assert not calls.second_began.is_set()
    calls.first.set_exception(failure("broke off"))
    with pytest.raises(ProviderError, match="broke off"):
        await calls.result


async def test_cancelling_cancels_both() -> None:
    calls = Calls()
    await calls.second_began.wait()
    calls.result.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls.result
    assert [task.cancelled() for task in calls.tasks] == [True, True]
