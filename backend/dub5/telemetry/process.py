"""How late the event loop runs: the one figure that shows a blocking call, whoever makes it.

A task sleeps for a tenth of a second and looks how much later than that it woke up. CPU, memory and file
descriptors are read from /proc when somebody asks for /metrics, see `metrics`.
"""

from __future__ import annotations

import asyncio

from dub5.telemetry.background import Background, BackgroundTask
from dub5.telemetry.metrics import Metrics

INTERVAL = 0.1
"""Seconds between two looks: a stall is seen in full, whenever it began, less at most this much."""


class LoopLagProbe:
    """Observes `event_loop_lag` from `start` to `stop`."""

    def __init__(
        self, metrics: Metrics, background: Background | None = None, *, interval: float = INTERVAL
    ) -> None:
        self._lag = metrics.event_loop_lag
        self._interval = interval
        self._background = background or Background(metrics)
        self._task: BackgroundTask | None = None

    async def start(self) -> None:
        self._task = self._background.start("event-loop-lag", self._measure)

    async def stop(self) -> None:
        """May be called without `start`."""
        if self._task is not None:
            await self._task.stop()

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._interval
            await asyncio.sleep(self._interval)
            self._lag.observe(max(0.0, loop.time() - due))
