"""Slots, queues and refusals; the clock is the test's."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from dub5.admission.drain import Drain
from dub5.admission.gate import Gate
from dub5.errors import Overloaded
from dub5.settings.model import AdmissionSettings, Duration
from dub5.telemetry.metrics import Metrics


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def admitted(
    gate: Gate, tenant: str, model: str, request: str, *, background: bool = False
) -> AsyncIterator[None]:
    slot = await gate.enter(tenant, model, request, background=background)
    try:
        yield
    finally:
        gate.leave(slot)


class Scene:
    """A gate, and calls that hold their slots until they have to leave."""

    def __init__(
        self, *, inflight: int = 1, queued: int = 10, timeout: float = 10.0, one_model: bool = False
    ) -> None:
        self.clock, self.drain, self.metrics = Clock(), Drain(), Metrics()
        settings = AdmissionSettings(
            max_inflight=inflight, max_queued=queued, queue_timeout=Duration(timeout)
        )
        self.gate = Gate(settings, self.drain, self.metrics, self.clock, one_model=one_model)
        self.inside: list[str] = []
        self.order: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, tenant: str = "t", model: str = "m") -> None:
        """A call arrives; returns when it is inside, waits or was refused."""
        self._leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, tenant, model))
        await asyncio.sleep(0)

    async def _hold(self, name: str, tenant: str, model: str) -> None:
        async with admitted(self.gate, tenant, model, name):
            self.inside.append(name)
            self.order.append(name)
            try:
                await self._leave[name].wait()
            finally:
                self.inside.remove(name)

    async def go(self, name: str) -> None:
        self._leave[name].set()
        await asyncio.gather(self.tasks[name], return_exceptions=True)
        await asyncio.sleep(0)

    def figure(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"dub5_{name}") or 0.0


async def test_there_is_room_for_so_many_and_the_rest_waits() -> None:
    scene = Scene(inflight=2)
    for name in ("a", "b", "c"):
        await scene.come(name)
    assert scene.inside == ["a", "b"]
    assert (scene.figure("inflight_requests"), scene.figure("queued_requests")) == (2, 1)
    assert scene.gate.demand() == 3
    await scene.go("a")
    assert scene.inside == ["b", "c"]
    await scene.go("b")
    await scene.go("c")
    assert scene.gate.demand() == 0


async def test_a_slot_that_goes_to_the_next_call_is_never_seen_free() -> None:
    scene = Scene()
    slot = await scene.gate.enter("t", "m", "first")
    await scene.come("next")
    assert scene.gate.demand() == 2
    scene.gate.leave(slot)
    assert (scene.inside, scene.figure("inflight_requests"), scene.gate.demand()) == ([], 1, 1)
    await scene.go("next")
    assert scene.gate.demand() == 0


async def test_what_is_expected_does_not_wait_for_the_next_call_to_notice() -> None:
    scene = Scene(timeout=60.0)
    slot = await scene.gate.enter("t", "m", "first")
    await scene.come("next")
    scene.clock.now += 40.0
    with pytest.raises(Overloaded):  # shed: two times 40 s are longer than 60
        await scene.gate.enter("t", "m", "third")
    scene.gate.leave(slot)
    handed = scene.gate.demand(), scene.gate._expected_wait("t", "m")
    assert scene.inside == []
    await asyncio.sleep(0)
    assert scene.inside == ["next"]
    assert handed == (scene.gate.demand(), scene.gate._expected_wait("t", "m")) == (1 + 20 / 30, 20)
    await scene.go("next")


async def test_tenants_take_turns_and_inside_a_tenant_the_oldest_goes_first() -> None:
    scene = Scene()
    await scene.come("first", "noisy")
    for number in range(3):
        await scene.come(f"noisy-{number}", "noisy")
    await scene.come("quiet-0", "quiet")
    await scene.come("quiet-1", "quiet")
    for _ in range(6):
        await scene.go(scene.inside[0])
    assert scene.order == ["first", "noisy-0", "quiet-0", "noisy-1", "quiet-1", "noisy-2"]


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    scene = Scene(queued=1)
    await scene.come("a")
    scene.clock.now += 4.0
    await scene.come("b")
    with pytest.raises(Overloaded) as caught:
        async with admitted(scene.gate, "t", "m", "c"):
            pass
    assert caught.value.retry_after == pytest.approx(2 * 4.0)  # one waits before it, each takes 4 s
    assert scene.metrics.registry.get_sample_value("dub5_shed_total", {"reason": "queue_full"}) == 1
    assert scene.gate.demand() == pytest.approx(2 + 1 / 30 * 4.0)
    await scene.go("a")
    await scene.go("b")


async def test_a_flood_does_not_keep_others_out_of_the_queue() -> None:
    scene = Scene(queued=4)
    for name in ("first", "noisy-0", "noisy-1", "noisy-2", "noisy-3"):
        await scene.come(name, "noisy")
    await scene.come("quiet", "quiet")
    with pytest.raises(Overloaded):  # the newest of the longest line
        await scene.tasks["noisy-3"]
    assert scene.metrics.registry.get_sample_value("dub5_shed_total", {"reason": "queue_full"}) == 1
    assert scene.figure("queued_requests") == 4
    for _ in range(5):
        await scene.go(scene.inside[0])
    assert scene.order == ["first", "noisy-0", "quiet", "noisy-1", "noisy-2"]


async def test_a_full_queue_of_lines_as_long_as_ones_own_is_full() -> None:
    scene = Scene(queued=2)
    await scene.come("first", "a")
    await scene.come("a", "a")
    await scene.come("b", "b")
    for tenant in ("a", "b", "c"):
        with pytest.raises(Overloaded):
            async with admitted(scene.gate, tenant, "m", "more"):
                pass
    for _ in range(3):
        await scene.go(scene.inside[0])
    assert scene.order == ["first", "a", "b"]


async def test_a_tenant_waits_for_its_own_line_and_the_turns_of_others() -> None:
    scene = Scene(queued=100, timeout=10.0)
    await scene.come("first", "noisy")
    scene.clock.now += 2.0
    for number in range(4):  # the next would wait five times 2 s and a bit
        await scene.come(f"noisy-{number}", "noisy")
        scene.clock.now += 0.01
    with pytest.raises(Overloaded):
        async with admitted(scene.gate, "noisy", "m", "more"):
            pass
    await scene.come("quiet", "quiet")
    assert scene.figure("queued_requests") == 5
    for _ in range(6):
        await scene.go(scene.inside[0])


async def test_who_would_wait_too_long_is_not_queued() -> None:
    scene = Scene(queued=100, timeout=10.0)
    await scene.come("a")
    scene.clock.now += 6.0
    await scene.come("b")
    with pytest.raises(Overloaded):
        async with admitted(scene.gate, "t", "m", "c"):
            pass
    reason = {"reason": "would_wait_too_long"}
    assert scene.metrics.registry.get_sample_value("dub5_shed_total", reason) == 1
    await scene.go("a")
    await scene.go("b")


async def test_waiting_ends_with_the_time_limit_and_leaves_no_trace() -> None:
    scene = Scene(timeout=0.01)
    await scene.come("a")
    await scene.come("b")
    with pytest.raises(Overloaded):
        await scene.tasks["b"]
    assert scene.gate.demand() == 1
    await scene.go("a")
    assert scene.gate.demand() == 0


async def test_background_work_never_waits() -> None:
    scene = Scene()
    await scene.come("a")
    with pytest.raises(Overloaded):
        async with admitted(scene.gate, "t", "m", "refresh", background=True):
            pass
    await scene.go("a")
    async with admitted(scene.gate, "t", "m", "refresh", background=True):
        assert scene.gate.demand() == 1


async def test_a_replica_that_drains_wants_nothing() -> None:
    scene = Scene()
    await scene.come("a")
    scene.drain.linger()
    assert scene.gate.demand() == 0
    await scene.go("a")


async def test_a_place_that_comes_free_as_its_next_holder_leaves_goes_to_the_one_after() -> None:
    scene = Scene()
    for name in ("a", "b", "c"):
        await scene.come(name)
    scene._leave["a"].set()
    scene.tasks["b"].cancel()
    await asyncio.gather(scene.tasks["a"], scene.tasks["b"], return_exceptions=True)
    await asyncio.sleep(0)
    assert scene.inside == ["c"]
    await scene.go("c")
    assert scene.gate._all.taken == 0


@pytest.mark.parametrize("seed", range(50))
async def test_no_place_is_lost_whoever_leaves_when(seed: int) -> None:
    rng = random.Random(seed)
    scene = Scene(inflight=7, queued=50, timeout=100.0)
    for number in range(60):
        await scene.come(str(number), tenant=str(rng.randrange(4)), model=str(rng.randrange(3)))
        if rng.random() < 0.5:
            victim = rng.choice(list(scene.tasks))
            if rng.random() < 0.5:
                scene.tasks[victim].cancel()
            if rng.random() < 0.5:  # in the same moment
                scene._leave[rng.choice(list(scene.tasks))].set()
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
        assert len(scene.inside) <= 7
    for name in scene.tasks:
        scene._leave[name].set()
    for task in scene.tasks.values():
        with contextlib.suppress(asyncio.CancelledError, Overloaded):
            await task
    assert (scene.figure("inflight_requests"), scene.figure("queued_requests")) == (0, 0)
    assert scene.gate._all.entered == 0


# --- Several models ---


async def test_a_model_that_hangs_leaves_places_to_the_others() -> None:
    scene = Scene(inflight=20, queued=100, timeout=1000.0)
    for number in range(50):
        await scene.come(f"hung-{number}", model="hung")
    assert (len(scene.inside), scene.figure("queued_requests")) == (16, 34)
    scene.clock.now += 500.0
    for number in range(100):
        await scene.come(f"well-{number}", model="well")
        assert f"well-{number}" in scene.inside
        await scene.go(f"well-{number}")
    for number in range(50):
        await scene.go(f"hung-{number}")
    assert scene.gate._all.taken == 0


async def test_two_models_that_hang_leave_places_to_a_third() -> None:
    scene = Scene(inflight=200, queued=1000)
    for number in range(400):
        await scene.come(str(number), model=f"hung-{number % 2}")
    assert len(scene.inside) < 200
    await scene.come("well", model="well")
    assert "well" in scene.inside
    for name in scene.tasks:
        await scene.go(name)


async def test_where_there_is_one_model_it_has_all_places() -> None:
    scene = Scene(inflight=20, one_model=True)
    for number in range(20):
        await scene.come(str(number))
    assert len(scene.inside) == 20
    for name in scene.tasks:
        await scene.go(name)


async def test_whose_model_has_its_share_lets_others_of_the_same_tenant_pass() -> None:
    scene = Scene(inflight=10, queued=100, timeout=1000.0)
    for number in range(12):
        await scene.come(f"hung-{number}", model="hung")
    for number in range(4):
        await scene.come(f"well-{number}", model="well")
    inside = [name for name in scene.inside if name.startswith("well")]
    assert inside == ["well-0", "well-1"]
    await scene.go("well-0")
    assert "well-2" in scene.inside
    await scene.go("well-1")
    assert "well-3" in scene.inside
    for name in scene.tasks:
        await scene.go(name)


async def test_a_flood_for_one_model_keeps_no_other_out_of_the_queue() -> None:
    scene = Scene(inflight=5, queued=3)
    for number in range(4 + 3):
        await scene.come(f"hung-{number}", model="hung")
    await scene.come("well-0", model="well")
    await scene.come("well-1", model="well")
    with pytest.raises(Overloaded):
        await scene.tasks["hung-6"]
    await scene.go("well-0")
    assert "well-1" in scene.inside
    for name in scene.tasks:
        await scene.go(name)


async def test_a_wait_for_a_fast_model_is_not_expected_at_the_pace_of_a_slow_one() -> None:
    scene = Scene(inflight=25, queued=100, timeout=10.0)
    for number in range(20):
        await scene.come(f"hung-{number}", model="hung")
    for _ in range(20):  # the fast model's pace: a second
        for number in range(4):
            await scene.come(f"well-{number}", model="well")
        scene.clock.now += 1.0
        for number in range(4):
            await scene.go(f"well-{number}")
    for number in range(6):
        await scene.come(f"well-{number}", model="well")
    assert "well-5" not in scene.inside
    assert not scene.tasks["well-5"].done()
    with pytest.raises(Overloaded):
        async with admitted(scene.gate, "t", "hung", "more"):
            pass
    for name in scene.tasks:
        await scene.go(name)
