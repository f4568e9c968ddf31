"""Less where a provider pushes back, a little more where it does not."""

from __future__ import annotations

import asyncio

import pytest

from dub5.admission.drain import Drain
from dub5.admission.gate import Gate, Slot
from dub5.providers.health import DECREASE, ConcurrencyLimit, Pool, ProviderHealth
from dub5.settings.model import AdmissionSettings, Duration
from dub5.telemetry.metrics import Metrics


def entered(limit: ConcurrencyLimit, count: int) -> None:
    for _ in range(count):
        assert limit.try_enter()


def test_it_begins_with_the_whole_pool() -> None:
    limit = ConcurrencyLimit(Pool(3))
    entered(limit, 3)
    assert (limit.limit, limit.running, limit.try_enter()) == (3, 3, False)


def test_a_push_back_lowers_it_to_a_share_of_what_was_running() -> None:
    limit = ConcurrencyLimit(Pool(1000))
    entered(limit, 20)
    limit.left("pushed back", began=0, now=5)
    assert (limit.limit, limit.running) == (int(20 * DECREASE), 19)
    assert not limit.try_enter()


def test_calls_of_the_same_round_lower_it_once() -> None:
    limit = ConcurrencyLimit(Pool(1000))
    entered(limit, 20)
    for _ in range(10):
        limit.left("pushed back", began=0, now=5)
    assert limit.limit == 14
    entered(limit, 4)
    limit.left("pushed back", began=5, now=6)
    assert limit.limit == int(14 * DECREASE)


def test_it_never_falls_below_one() -> None:
    limit = ConcurrencyLimit(Pool(10))
    for round_ in range(20):
        entered(limit, 1)
        limit.left("pushed back", began=round_, now=round_)
    assert limit.limit == 1


def test_a_limit_that_is_in_use_grows_by_one_for_each_round() -> None:
    limit = ConcurrencyLimit(Pool(1000))
    entered(limit, 10)
    limit.left("pushed back", began=0, now=1)
    for _ in range(3):
        limit.left("otherwise", began=0, now=1)
    assert limit.limit == 7
    entered(limit, 1)
    for _ in range(8):  # the first seven are a round; the limit grows on the way, so that one more is needed
        limit.left("well", began=1, now=2)
        entered(limit, 1)
    assert limit.limit == 8


def test_one_that_is_not_in_use_does_not_grow() -> None:
    limit = ConcurrencyLimit(Pool(1000))
    entered(limit, 10)
    limit.left("pushed back", began=0, now=1)
    while limit.running > 1:
        limit.left("otherwise", began=0, now=1)
    for _ in range(100):
        limit.left("well", began=1, now=2)
        entered(limit, 1)
    assert limit.limit == 7


def test_it_never_grows_beyond_the_pool() -> None:
    limit = ConcurrencyLimit(Pool(2))
    for _ in range(50):
        entered(limit, 2)
        limit.left("well", began=0, now=0)
        limit.left("well", began=0, now=0)
    assert limit.limit == 2


async def test_who_finds_no_place_waits_in_line() -> None:
    limit, order = ConcurrencyLimit(Pool(1)), []

    async def call(name: str) -> None:
        await limit.enter(60)
        order.append(name)

    entered(limit, 1)
    calls = [asyncio.create_task(call(name)) for name in "abc"]
    await asyncio.sleep(0)
    assert (limit.waiting, order) == (3, [])
    for expected in ("a", "ab", "abc"):
        assert not limit.try_enter()  # nobody is overtaken
        limit.left("well", began=0, now=0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert "".join(order) == expected
    await asyncio.gather(*calls)
    assert (limit.waiting, limit.running) == (0, 1)


async def test_the_wait_for_a_slot_ends() -> None:
    limit = ConcurrencyLimit(Pool(1))
    entered(limit, 1)
    with pytest.raises(TimeoutError):
        await limit.enter(0.001)
    assert (limit.waiting, limit.running) == (0, 1)
    limit.left("well", began=0, now=0)
    assert limit.try_enter()


@pytest.mark.parametrize("given", [False, True])
async def test_who_is_cancelled_keeps_no_place(given: bool) -> None:
    limit = ConcurrencyLimit(Pool(1))
    entered(limit, 1)
    waiting = asyncio.create_task(limit.enter(60))
    await asyncio.sleep(0)
    if given:  # in the same moment
        limit.left("well", began=0, now=0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not given:
        limit.left("well", began=0, now=0)
    assert (limit.waiting, limit.running, limit.try_enter()) == (0, 0, True)


async def test_one_who_leaves_the_line_lets_the_others_stand() -> None:
    limit = ConcurrencyLimit(Pool(1))
    entered(limit, 1)
    first, second = (asyncio.create_task(limit.enter(60)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert limit.waiting == 1
    limit.left("well", began=0, now=0)
    await second
    assert (limit.waiting, limit.running) == (0, 1)


async def test_a_place_that_comes_back_as_the_first_in_line_is_cancelled_goes_to_the_next() -> None:
    limit = ConcurrencyLimit(Pool(1))
    entered(limit, 1)
    first, second = (asyncio.create_task(limit.enter(60)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()  # and before it has run again:
    limit.left("well", began=0, now=0)
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (limit.waiting, limit.running) == (0, 1)


async def test_whose_place_comes_waits_no_longer_and_who_is_cancelled_until_it_notices() -> None:
    # The gate takes whoever does not wait here for a call under way.
    provider = ProviderHealth(1)
    limit = provider.of("m").concurrency
    settings = AdmissionSettings(max_inflight=10, max_queued=10, queue_timeout=Duration(10.0))
    gate = Gate(settings, Drain(), Metrics(), waiting_elsewhere=provider.waiting)

    async def call(name: str) -> Slot:
        slot = await gate.enter("t", "m", name)
        try:
            await limit.enter(60)
        except asyncio.CancelledError:
            gate.leave(slot)
            raise
        return slot

    def leave(slot: Slot) -> None:
        limit.left()
        gate.leave(slot)

    first = await call("first")
    cancelled, second, third = (asyncio.create_task(call(name)) for name in ("cancelled", "second", "third"))
    await asyncio.sleep(0)
    assert (provider.waiting(), gate.demand()) == (3, 1)
    cancelled.cancel()
    leave(first)
    assert (provider.waiting(), gate.demand(), cancelled.done(), second.done()) == (2, 1, False, False)
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    leave(await second)
    assert (provider.waiting(), gate.demand(), third.done()) == (0, 1, False)
    leave(await third)
    assert (provider.waiting(), gate.demand(), provider.pool.waiting) == (0, 0, {})


async def test_a_full_pool_gives_its_places_to_each_model_in_turn() -> None:
    pool = Pool(2)
    hot, cold = ConcurrencyLimit(pool), ConcurrencyLimit(pool)
    entered(hot, 2)
    order: list[str] = []

    async def wait(limit: ConcurrencyLimit, name: str) -> None:
        await limit.enter(60)
        order.append(name)

    calls = [asyncio.create_task(wait(limit, name)) for limit, name in [(hot, "h"), (hot, "h"), (cold, "c")]]
    await asyncio.sleep(0)
    for _ in range(3):
        hot.left("otherwise", began=0, now=0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert order == ["h", "c", "h"]
    assert (hot.waiting, cold.waiting, pool.waiting, pool.running) == (0, 0, {}, 2)
    await asyncio.gather(*calls)


async def test_a_model_that_is_full_itself_keeps_no_other_from_the_pools_places() -> None:
    pool = Pool(10)
    slow, fine = ConcurrencyLimit(pool), ConcurrencyLimit(pool)
    entered(slow, 2)
    slow.left("pushed back", began=0, now=1)
    waiting = asyncio.create_task(slow.enter(60))
    await asyncio.sleep(0)
    assert (slow.waiting, fine.try_enter()) == (1, True)
    fine.left("well", began=0, now=0)
    assert slow.waiting == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pool.waiting == {}


async def test_no_model_takes_the_whole_pool_from_the_others() -> None:
    pool = Pool(100)
    hung, fine = ConcurrencyLimit(pool), ConcurrencyLimit(pool)
    while hung.try_enter():
        pass
    assert hung.running == 80
    waiting = asyncio.create_task(hung.enter(60))
    await asyncio.sleep(0)
    for _ in range(200):
        entered(fine, 1)
        fine.left("well", began=0, now=0)
    assert (hung.waiting, hung.running) == (1, 80)
    hung.left("otherwise", began=0, now=0)
    await waiting
    assert hung.running == 80
