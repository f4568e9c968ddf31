"""The gate of the simulation decides as the product's does: both go through the same histories."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import selectors
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.admission.drain import Drain
from dub5.admission.gate import Gate
from dub5.advisor.gate import SimulatedGate
from dub5.errors import Overloaded
from dub5.settings.model import AdmissionSettings, Duration
from dub5.telemetry.metrics import Metrics


class Call(NamedTuple):
    """One that comes at `at` and holds its slot for `service` seconds."""

    at: float
    model: int
    service: float


class Fate(NamedTuple):
    """What became of it, and when: `entered`, or why it was refused."""

    what: str
    at: float


class History(NamedTuple):
    """`demands` are those at `looks`, moments in which nothing else happens."""

    fates: dict[int, Fate]
    demands: list[float]


class _Selector(selectors.SelectSelector):
    """Waits by moving the loop's clock on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += timeout or 0.0
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = _Selector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def of_product(calls: list[Call], looks: list[float], settings: AdmissionSettings, models: int) -> History:
    fates: dict[int, Fate] = {}
    demands: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        metrics = Metrics()
        gate = Gate(settings, Drain(), metrics, loop.time, one_model=models == 1)

        def shed() -> float:
            reasons = ("queue_full", "would_wait_too_long", "queue_timeout")
            return sum(
                metrics.registry.get_sample_value("dub5_shed_total", {"reason": reason}) or 0
                for reason in reasons
            )

        async def one(number: int, call: Call) -> None:
            await asyncio.sleep(call.at)
            try:
                slot = await gate.enter("tenant", str(call.model), number)
            except Overloaded:
                fates[number] = Fate("refused", loop.time())
                return
            fates[number] = Fate("entered", loop.time())
            await asyncio.sleep(call.service)
            gate.leave(slot)

        async def look() -> None:
            for moment in looks:
                await asyncio.sleep(moment - loop.time())
                demands.append(gate.demand())

        await asyncio.gather(look(), *(one(number, call) for number, call in enumerate(calls)))
        assert shed() == sum(fate.what == "refused" for fate in fates.values())

    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        runner.run(run())
    return History(fates, demands)


def of_simulation(calls: list[Call], looks: list[float], settings: AdmissionSettings, models: int) -> History:
    gate = SimulatedGate(settings, models, one_model=models == 1)
    fates: dict[int, Fate] = {}
    demands: list[float] = []
    events: list[tuple[float, int, Callable[[float], None]]] = []
    numbers = itertools.count()

    def at(moment: float, do: Callable[[float], None]) -> None:
        heapq.heappush(events, (moment, next(numbers), do))

    def enters(number: int, now: float) -> None:
        fates[number] = Fate("entered", now)
        at(now + calls[number].service, lambda then: leaves(number, now, then))

    def leaves(number: int, entered: float, now: float) -> None:
        for other, _ in gate.leave(calls[number].model, entered, now):
            enters(other, now)

    def comes(number: int, now: float) -> None:
        verdict, evicted = gate.enter(number, calls[number].model, now)
        if evicted is not None:
            fates[evicted] = Fate("refused", now)
        if verdict == "entered":
            enters(number, now)
        elif verdict == "queued":
            at(now + settings.queue_timeout, lambda then: expires(number, then))
        else:
            fates[number] = Fate("refused", now)

    def expires(number: int, now: float) -> None:
        if gate.expire(number, calls[number].model):
            fates[number] = Fate("refused", now)

    for number, call in enumerate(calls):
        at(call.at, lambda now, number=number: comes(number, now))  # type: ignore[misc]
    for moment in looks:
        at(moment, lambda now: demands.append(gate.demand(now)))
    while events:
        now, _, do = heapq.heappop(events)
        do(now)
    return History(fates, demands)


def generated(rng: random.Random, models: int, count: int, rate: float) -> tuple[list[Call], list[float]]:
    """Calls in waves around `rate` per second, some of which last long, and looks between them."""
    calls, now = [], 0.0
    for number in range(count):
        now += rng.expovariate(rate * (4 if number % 60 < 30 else 0.5))
        calls.append(Call(now, rng.randrange(models), rng.lognormvariate(0, 1)))
    return calls, sorted(rng.uniform(0, now + 10) for _ in range(40))


def assert_same(calls: list[Call], looks: list[float], settings: AdmissionSettings, models: int) -> History:
    product = of_product(calls, looks, settings, models)
    simulated = of_simulation(calls, looks, settings, models)
    assert {number: fate.what for number, fate in simulated.fates.items()} == {
        number: fate.what for number, fate in product.fates.items()
    }
    for number, fate in product.fates.items():
        assert simulated.fates[number].at == pytest.approx(fate.at, abs=1e-6)
    assert simulated.demands == pytest.approx(product.demands, rel=1e-6, abs=1e-6)
    return simulated


@given(
    seed=st.integers(0, 2**32),
    models=st.integers(1, 4),
    inflight=st.integers(1, 20),
    queued=st.integers(0, 30),
    timeout=st.floats(0.2, 8.0),
    rate=st.floats(0.5, 20.0),
)
def test_both_gates_decide_alike(
    seed: int, models: int, inflight: int, queued: int, timeout: float, rate: float
) -> None:
    settings = AdmissionSettings(max_inflight=inflight, max_queued=queued, queue_timeout=Duration(timeout))
    calls, looks = generated(random.Random(seed), models, 120, rate)
    assert_same(calls, looks, settings, models)


@pytest.mark.parametrize("models", [1, 3])
def test_the_histories_hold_what_a_gate_can_do(models: int) -> None:
    """Else the comparison would show little: calls wait, are refused at once, and time out."""
    settings = AdmissionSettings(max_inflight=5, max_queued=8, queue_timeout=Duration(1.5))
    calls, looks = generated(random.Random(1), models, 400, 4.0)
    fates = assert_same(calls, looks, settings, models).fates
    waited = {number: fate.at - calls[number].at for number, fate in fates.items()}
    assert any(fate.what == "entered" and waited[number] > 0.1 for number, fate in fates.items())
    assert any(fate.what == "refused" and waited[number] == 0 for number, fate in fates.items())
    assert any(fate.what == "refused" and waited[number] > 1.4 for number, fate in fates.items())


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("_expected_wait", lambda *_: 0.0),
        ("_has_slot", lambda gate, _: gate._all.taken + 1 < gate._capacity),
        ("expire", lambda *_: False),
        ("demand", lambda gate, _: float(gate._all.entered + gate._all.waiting)),
    ],
)
def test_a_gate_that_decided_otherwise_would_be_noticed(
    what: str, other: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AdmissionSettings(max_inflight=5, max_queued=8, queue_timeout=Duration(1.5))
    calls, looks = generated(random.Random(1), 1, 400, 4.0)
    monkeypatch.setattr(SimulatedGate, what, other)
    with pytest.raises((AssertionError, KeyError)):
        assert_same(calls, looks, settings, 1)


def test_a_replica_that_drains_wants_nothing() -> None:
    gate = SimulatedGate(AdmissionSettings(max_inflight=2), one_model=True)
    gate.enter(0, 0, 1.0)
    assert gate.demand(2.0) == 1.0
    gate.draining = True
    assert gate.demand(2.0) == 0.0
