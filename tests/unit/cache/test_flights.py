"""One question, one call, inside one replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from dub5.cache.flights import CacheAnswer, Claim, Flight, Flights, Made, OneReplica, Tailed
from dub5.cache.freshness import Directives, Lifetimes
from dub5.cache.purges import Purges
from dub5.cache.store import AnswerStore, Entry, Identity, LocalCache
from dub5.errors import Dub5Error, Overloaded, ProviderError
from dub5.frames import Frame
from dub5.telemetry.metrics import Metrics
from tests.following import question, remaining

LIFETIMES = Lifetimes(ttl=300.0)
STALE = Lifetimes(ttl=0.0, stale_while_revalidate=1e10)


class Provider:
    """A leader whose frames the test lets through one by one, and that counts its calls."""

    made: Made | None = None

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

    def again(self) -> Provider:
        return self

    async def call(self, _: Identity | None, on_frames: Callable[[list[Frame]], None]) -> None:
        self.calls += 1
        self.running += 1
        try:
            for text in self._texts:
                await self.gate.acquire()
                on_frames([Frame("chunk", text.encode())])
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


class Asking:
    """A client that asks; `begun` is done with the first frames."""

    def __init__(self, flights: Flights, provider: Provider, *, uncached: bool = False, **asked: Any) -> None:
        self.asked = question(**{"lifetimes": LIFETIMES, "words": "the same", **asked})
        if uncached:
            self.asked.lookup = None
        self.begun: asyncio.Task[CacheAnswer] = asyncio.create_task(flights.answer(self.asked, provider))

    async def read(self) -> list[bytes]:
        answer = await self.begun
        frames = answer.frames
        if answer.coming is not None:
            frames = [*frames, *await remaining(answer.coming)]
        return [frame.raw for frame in frames]

    async def joined(self) -> bool:
        return (await self.begun).status.collapsed

    async def leave(self) -> None:
        self.begun.cancel()
        await asyncio.wait([self.begun])
        if not self.begun.cancelled() and (rest := self.begun.result().coming) is not None:
            rest.close()


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_concurrent_followers_share_one_call(flights: Flights) -> None:
    provider = Provider("a", "b")
    clients = [Asking(flights, provider, stream=number % 2 == 0) for number in range(100)]
    await turns()
    provider.pass_on()
    assert await asyncio.gather(*(client.read() for client in clients)) == [[b"a", b"b"]] * 100
    assert provider.calls == 1
    assert [await client.joined() for client in clients] == [False, *[True] * 99]


async def test_who_asks_after_a_purge_never_joins() -> None:
    purges = Purges(None)
    store = AnswerStore(LocalCache(2**20), None, purges)
    flights = Flights(store, OneReplica(), Metrics(config_hash="test"))
    provider = Provider("a")
    before = Asking(flights, provider)
    await turns()
    await purges.purge(["all"])
    for lookup in [before.asked.lookup]:
        assert lookup is not None
        before.asked.lookup = msgspec.structs.replace(lookup, names=("all",))
    after = Asking(flights, provider)
    after.asked.lookup = before.asked.lookup
    await turns()
    provider.pass_on()
    await asyncio.gather(before.read(), after.read())
    assert not await after.joined()
    assert provider.calls == 2


class OtherReplica:
    """It leads, and that is known here once `told` is set."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    async def claim(self, identity: Identity, flight: Flight, **_: object) -> Claim:
        await self.told.wait()
        return Claim(identity, "follow", "token", "lease", "stream", "other", None)

    async def tail(self, flight: Flight, claim: Claim) -> Tailed:
        flight.add([Frame("chunk", b"a")])
        flight.end()
        return Tailed.ENDED

    async def release(self, claim: Claim, put: object = ()) -> None:
        raise NotImplementedError  # nobody leads here

    async def cool_down(self, identity: Identity, seconds: float) -> None:
        raise NotImplementedError


async def test_who_looked_and_joined_one_that_had_not_follows_whoever_leads() -> None:
    store, other = AnswerStore(LocalCache(2**20), None, Purges(None)), OtherReplica()
    while store.looks_first("default"):
        store.looked("default", found=False)
    flights, provider = Flights(store, other, Metrics(config_hash="test")), Provider("alone")
    clients = [Asking(flights, provider) for _ in range(100)]
    provider.pass_on(200)
    await turns()
    other.told.set()
    assert await asyncio.gather(*(client.read() for client in clients)) == [[b"a"]] * 100
    assert provider.calls == 0


async def test_the_next_question_after_a_flight_asks_anew(flights: Flights) -> None:
    provider = Provider("a")
    provider.pass_on(4)
    for _ in range(2):
        assert await Asking(flights, provider).read() == [b"a"]
        await turns()
    assert provider.calls == 2


async def test_a_slow_follower_delays_nobody(flights: Flights) -> None:
    provider = Provider(*[str(number) for number in range(1000)])
    provider.pass_on(1001)
    slow, quick = Asking(flights, provider), Asking(flights, provider)
    assert len(await quick.read()) == 1000
    assert len(await slow.read()) == 1000


async def test_the_flight_outlives_its_first_client_while_anyone_follows(flights: Flights) -> None:
    provider = Provider("a", "b")
    first, second = Asking(flights, provider), Asking(flights, provider)
    provider.pass_on(1)
    await first.begun
    await first.leave()
    provider.pass_on()
    assert await second.read() == [b"a", b"b"]
    assert provider.calls == 1


async def test_the_call_is_closed_when_nobody_follows(flights: Flights) -> None:
    provider = Provider("a", "b")
    followers = [Asking(flights, provider) for _ in range(3)]
    provider.pass_on(1)
    await asyncio.gather(*(follower.begun for follower in followers))
    for follower in followers:
        assert provider.running == 1
        await follower.leave()
    async with asyncio.timeout(60):
        await provider.closed.wait()
    assert provider.running == 0


async def test_who_asks_while_an_abandoned_flight_is_being_torn_down_gets_an_answer(
    flights: Flights,
) -> None:
    provider = Provider("a")
    first = Asking(flights, provider)
    await turns()
    first.begun.cancel()
    second = Asking(flights, provider)
    await turns()
    provider.pass_on()
    assert await second.read() == [b"a"]
    assert not await second.joined()


async def test_an_error_before_the_first_frame_reaches_all(flights: Flights) -> None:
    provider = Provider(error=ProviderError("broken", provider="p"))
    clients = [Asking(flights, provider, stream=number % 2 == 0) for number in range(10)]
    await turns()
    provider.pass_on()
    answers = await asyncio.gather(*(client.read() for client in clients), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ProviderError] * 10
    assert provider.calls == 1


async def test_a_defect_ends_the_wait_without_its_details(flights: Flights) -> None:
    provider = Provider(error=ZeroDivisionError("secret"))
    provider.pass_on()
    with pytest.raises(Dub5Error) as caught:
        await Asking(flights, provider).read()
    assert caught.value.code == "internal_error"
    assert "secret" not in str(caught.value)


async def test_a_flight_that_began_too_long_ago_is_not_joined() -> None:
    now = 1000.0
    flights = flights_of(lambda: now)
    provider = Provider("a")
    first = Asking(flights, provider)
    await turns()
    now = 1005.0
    recent = Asking(flights, provider, directives=Directives(max_age=5))
    picky = Asking(flights, provider, directives=Directives(max_age=4.9))
    await turns()
    provider.pass_on()
    await asyncio.gather(first.read(), recent.read(), picky.read())
    assert (await recent.joined(), await picky.joined()) == (True, False)
    assert provider.calls == 2


async def test_nobody_joins_a_flight_alone(flights: Flights) -> None:
    provider = Provider("a")
    alone = Asking(flights, provider, directives=Directives(no_cache=True))
    await turns()
    other = Asking(flights, provider)
    await turns()
    provider.pass_on()
    assert [await alone.read(), await other.read()] == [[b"a"], [b"a"]]
    assert not await other.joined()
    assert provider.calls == 2


async def put(flights: Flights) -> None:
    """Have an answer in memory that `refresh` finds stale."""
    lookup = question(lifetimes=STALE).lookup
    assert lookup is not None
    store = flights._store
    assert await store.store(store.identity(lookup), Entry(b"{}", 1_000_000, 0.0, 0, 0), STALE)


async def refresh(flights: Flights, provider: Provider) -> None:
    """Ask for a stale answer, which is given at once and fetched anew behind it."""
    answer = await flights.answer(question(lifetimes=STALE), provider)
    assert answer.hit is not None


async def test_a_refresh_runs_once_and_needs_no_follower(flights: Flights) -> None:
    provider = Provider("a")
    await put(flights)
    for _ in range(5):
        await refresh(flights, provider)
        await turns()
    provider.pass_on()
    await flights.settle()
    assert provider.calls == 1


async def test_a_request_joins_a_refresh_and_may_leave_it(flights: Flights) -> None:
    provider = Provider("a")
    await put(flights)
    await refresh(flights, provider)
    leaves, stays = Asking(flights, provider), Asking(flights, provider)
    await turns()
    await leaves.leave()
    provider.pass_on()
    assert await stays.read() == [b"a"]
    await flights.settle()
    assert await stays.joined()
    assert provider.calls == 1


async def test_a_failed_refresh_is_not_tried_again_for_a_while(flights: Flights) -> None:
    failing, well = Provider(error=ProviderError("broken", provider="p")), Provider("a")
    failing.pass_on()
    await put(flights)
    await refresh(flights, failing)
    await flights.settle()
    await refresh(flights, well)
    await flights.settle()
    assert (failing.calls, well.calls) == (1, 0)
    well.pass_on()
    # A request that needs an answer asks all the same.
    assert await Asking(flights, well, directives=Directives(max_age=1)).read() == [b"a"]


async def test_settle_waits_for_every_flight(flights: Flights) -> None:
    provider = Provider("a")
    await put(flights)
    await refresh(flights, provider)
    settled = asyncio.create_task(flights.settle())
    await turns()
    assert not settled.done()
    provider.pass_on()
    await settled
    assert provider.running == 0


async def test_a_whole_answer_that_is_not_shared_is_made_for_its_client_alone(flights: Flights) -> None:
    provider = Provider("a")
    clients = [Asking(flights, provider, uncached=True, stream=False) for _ in range(3)]
    await turns()
    assert (provider.calls, flights.followers()) == (3, 3)
    await clients[0].leave()
    assert (provider.running, flights.followers()) == (2, 2)
    settled = asyncio.create_task(flights.settle())
    provider.pass_on()
    assert await asyncio.gather(*(client.read() for client in clients[1:])) == [[b"a"], [b"a"]]
    await settled


async def test_a_failure_of_an_answer_that_is_not_shared_is_its_clients(flights: Flights) -> None:
    provider = Provider(error=ProviderError("down", provider="p"))
    provider.pass_on()
    with pytest.raises(ProviderError):
        await Asking(flights, provider, uncached=True, stream=False).begun
    assert flights.followers() == 0


async def test_an_answer_that_is_not_shared_is_given_up_where_all_is_abandoned(flights: Flights) -> None:
    provider = Provider("a")
    asking = Asking(flights, provider, uncached=True, stream=False)
    await turns()
    flights.abandon()
    with pytest.raises(Overloaded):
        await asking.begun
    assert provider.closed.is_set()
    leaving = Asking(flights, provider, uncached=True, stream=False)
    await turns()
    leaving.begun.cancel()
    flights.abandon()
    with pytest.raises(asyncio.CancelledError):
        await leaving.begun


async def test_who_joined_a_flight_that_is_abandoned_begins_no_other(flights: Flights) -> None:
    provider = Provider("a")
    asking = [Asking(flights, provider, stream=False) for _ in range(2)]
    await turns()
    flights.abandon()
    for each in asking:
        with pytest.raises(Overloaded):
            await each.begun
    assert provider.calls == 1


async def test_once_all_is_abandoned_settle_waits_for_no_flight_that_begins_after(flights: Flights) -> None:
    never = Provider("a")
    await put(flights)
    await refresh(flights, never)
    settled = asyncio.create_task(flights.settle())
    await turns()
    flights.abandon()
    late = Asking(flights, never, key="another")  # a request that is still being answered
    async with asyncio.timeout(60):
        await settled
    await asyncio.gather(late.begun, return_exceptions=True)
    assert never.running == 0
