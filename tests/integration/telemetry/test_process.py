"""The lag of a real event loop that is really held up."""

from __future__ import annotations

import asyncio
import time

from dub5.telemetry.metrics import Metrics
from dub5.telemetry.process import LoopLagProbe

from .conftest import until


def value(metrics: Metrics, suffix: str) -> float:
    found = metrics.registry.get_sample_value(f"dub5_event_loop_lag_seconds_{suffix}")
    assert found is not None
    return found


async def until_observed(metrics: Metrics, count: float) -> None:
    await until(lambda: value(metrics, "count") >= count)


async def test_a_loop_that_was_held_up_is_seen() -> None:
    metrics = Metrics()
    probe = LoopLagProbe(metrics, interval=0.001)
    await probe.start()
    await until_observed(metrics, 1)
    before = value(metrics, "sum")
    hold_up = time.perf_counter() + 0.2
    while time.perf_counter() < hold_up:  # what a blocking call does, without being one
        pass
    await until_observed(metrics, value(metrics, "count") + 1)
    await probe.stop()
    assert value(metrics, "sum") - before >= 0.19


async def test_nothing_is_left_running() -> None:
    metrics = Metrics()
    probe = LoopLagProbe(metrics, interval=0.001)
    await probe.start()
    await until_observed(metrics, 1)
    await probe.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_stopping_what_never_started() -> None:
    await LoopLagProbe(Metrics()).stop()
