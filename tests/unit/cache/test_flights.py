"""One question, one call, inside one replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from dub5.cache.entry import Identity
from dub5.cache.flights import Flight, Flights, Follower, Frame, OneReplica
from dub5.cache.freshness import Lifetimes
from dub5.cache.purges import Purges
from dub5.cache.store import AnswerStore, LocalCache
from dub5.errors import Dub5Error, ProviderError
from dub5.telemetry.metrics import Metrics

IDENTITY = Identity("key", "v")
LIFETIMES = Lifetimes(ttl=300.0)


class Provider:
    """A leader whose frames the test lets through one by one, and that counts its calls."""

    def __init__(self, *texts: str, error: Exception | None = None) -> None:
        self.calls = 0
        self.running = 0
        self.closed = asyncio.Event()
        self.gate = asyncio.Semaphore(0)
        self._texts = texts
        self._error = error

    def pass_on(self, count: int = 10) -> None:
        for _ in range(count):
            self.gate.release()

    async def run(self, flight: Flight) -> None:
        self.calls += 1
        self.running += 1
        try:
            for text in self._texts:
                await self.gate.acquire()
                flight.add(Frame("chunk", text.encode()))
            await self.gate.acquire()
            if self._error is not None:
                raise self._error
        finally:
            self.running -= 1
            self.closed.set()


def flights_of(clock: Callable[[], float] = time.monotonic) -> Flights:
    """Those of the only replica, with nothing stored."""
    store = AnswerStore(LocalCache(2**20), None, Purges(None))
    return Flights(store, OneReplica(), Metrics(config_hash="test"), clock)


@pytest_asyncio.fixture
async def flights() -> AsyncIterator[Flights]:
    made = flights_of()
    yield made
    async with asyncio.timeout(60):
        await made.settle()


def join(flights: Flights, provider: Provider, **options: Any) -> tuple[Follower, bool]:
    return flights.follow(IDENTITY, provider, LIFETIMES, seen=0, **options)


async def read(follower: Follower) -> list[bytes]:
    try:
        frames = []
        while arrived := await follower.next():
            frames += [frame.raw for frame in arrived]
        return frames
    finally:
        follower.leave()


async def read_whole(follower: Follower) -> list[bytes]:
    try:
        return [frame.raw for frame in await follower.all()]
    finally:
        follower.leave()


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_concurrent_followers_share_one_call(flights: Flights) -> None:
    provider = Provider("a", "b")
    joined = [join(flights, provider) for _ in range(100)]
    readers = [(read if number % 2 else read_whole)(follower) for number, (follower, _) in enumerate(joined)]
    answers = asyncio.gather(*readers)
    provider.pass_on()
    assert await answers == [[b"a", b"b"]] * 100
    assert provider.calls == 1
    assert [already for _, already in joined] == [False, *[True] * 99]


async def test_another_version_never_joins(flights: Flights) -> None:
    provider = Provider("a")
    before, _ = join(flights, provider)
    after, joined = flights.follow(Identity("key", "v2"), provider, LIFETIMES, seen=0)
    provider.pass_on()
    await asyncio.gather(read(before), read(after))
    assert not joined
    assert provider.calls == 2


async def test_the_next_question_after_a_flight_asks_anew(flights: Flights) -> None:
    provider = Provider("a")
    provider.pass_on(4)
    for _ in range(2):
        assert await read(join(flights, provider)[0]) == [b"a"]
        await turns()
    assert provider.calls == 2


async def test_a_slow_follower_delays_nobody(flights: Flights) -> None:
    provider = Provider(*[str(number) for number in range(1000)])
    provider.pass_on(1001)
    slow, _ = join(flights, provider)
    quick, _ = join(flights, provider)
    assert len(await read(quick)) == 1000
    assert len(await read(slow)) == 1000


async def test_the_flight_outlives_its_first_client_while_anyone_follows(flights: Flights) -> None:
    provider = Provider("a", "b")
    first, _ = join(flights, provider)
    second, _ = join(flights, provider)
    provider.pass_on(1)
    await first.next()
    first.leave()
    provider.pass_on()
    assert await read(second) == [b"a", b"b"]
    assert provider.calls == 1


async def test_the_call_is_closed_when_nobody_follows(flights: Flights) -> None:
    provider = Provider("a", "b")
    followers = [join(flights, provider)[0] for _ in range(3)]
    provider.pass_on(1)
    await followers[0].next()
    for follower in followers:
        assert provider.running == 1
        follower.leave()
    async with asyncio.timeout(60):
        await provider.closed.wait()
    assert provider.running == 0


async def test_who_asks_while_an_abandoned_flight_is_being_torn_down_gets_an_answer(
    flights: Flights,
) -> None:
    provider = Provider("a")
    first, _ = join(flights, provider)
    await turns()
    first.leave()
    second, joined = join(flights, provider)
    provider.pass_on()
    assert await read(second) == [b"a"]
    assert not joined


async def test_an_error_before_the_first_frame_reaches_all(flights: Flights) -> None:
    provider = Provider(error=ProviderError("broken", provider="p"))
    readers = asyncio.gather(
        *(read(join(flights, provider)[0]) for _ in range(5)),
        *(read_whole(join(flights, provider)[0]) for _ in range(5)),
        return_exceptions=True,
    )
    provider.pass_on()
    assert [type(answer) for answer in await readers] == [ProviderError] * 10
    assert provider.calls == 1


async def test_a_defect_ends_the_wait_without_its_details(flights: Flights) -> None:
    provider = Provider(error=ZeroDivisionError("secret"))
    provider.pass_on()
    with pytest.raises(Dub5Error) as caught:
        await read(join(flights, provider)[0])
    assert caught.value.code == "internal_error"
    assert "secret" not in str(caught.value)


async def test_a_flight_that_began_too_long_ago_is_not_joined() -> None:
    now = 1000.0
    flights = flights_of(lambda: now)
    provider = Provider("a")
    first, _ = join(flights, provider)
    now = 1005.0
    recent, joined_recent = join(flights, provider, max_age=5)
    picky, joined_picky = join(flights, provider, max_age=4.9)
    provider.pass_on()
    await asyncio.gather(read(first), read(recent), read(picky))
    assert (joined_recent, joined_picky) == (True, False)
    assert provider.calls == 2


async def test_nobody_joins_a_flight_alone(flights: Flights) -> None:
    provider = Provider("a")
    alone = flights.alone(provider)
    other, joined = join(flights, provider)
    provider.pass_on()
    assert [await read(alone), await read(other)] == [[b"a"], [b"a"]]
    assert not joined
    assert provider.calls == 2


def refresh(flights: Flights, provider: Provider, cooldown: float = 60) -> None:
    flights.refresh(IDENTITY, provider, LIFETIMES, seen=1, cooldown=cooldown)


async def test_a_refresh_runs_once_and_needs_no_follower(flights: Flights) -> None:
    provider = Provider("a")
    for _ in range(5):
        refresh(flights, provider)
        await turns()
    provider.pass_on()
    await flights.settle()
    assert provider.calls == 1


async def test_a_request_joins_a_refresh_and_may_leave_it(flights: Flights) -> None:
    provider = Provider("a")
    refresh(flights, provider)
    leaves, joined = join(flights, provider)
    stays, _ = join(flights, provider)
    await turns()
    leaves.leave()
    provider.pass_on()
    assert await read(stays) == [b"a"]
    await flights.settle()
    assert joined
    assert provider.calls == 1


async def test_a_failed_refresh_is_not_tried_again_for_a_while(flights: Flights) -> None:
    failing, well = Provider(error=ProviderError("broken", provider="p")), Provider("a")
    failing.pass_on()
    refresh(flights, failing)
    await flights.settle()
    refresh(flights, well)
    await flights.settle()
    assert (failing.calls, well.calls) == (1, 0)
    well.pass_on()
    assert await read(join(flights, well)[0]) == [b"a"]  # a request that needs an answer asks all the same


async def test_settle_waits_for_every_flight(flights: Flights) -> None:
    provider = Provider("a")
    refresh(flights, provider)
    settled = asyncio.create_task(flights.settle())
    await turns()
    assert not settled.done()
    provider.pass_on()
    await settled
    assert provider.running == 0


async def test_once_all_is_abandoned_settle_waits_for_no_flight_that_begins_after(flights: Flights) -> None:
    never = Provider("a")
    refresh(flights, never)
    settled = asyncio.create_task(flights.settle())
    await turns()
    flights.abandon()
    flights.background(never)  # by a request that is still being answered
    async with asyncio.timeout(60):
        await settled
    assert never.running == 0
