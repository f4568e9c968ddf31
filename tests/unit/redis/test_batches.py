"""The breaker of one Redis server, and what becomes of it when something raises that nobody foresaw."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.typing import EventDict

from dub5.redis.link import Batches, RedisFailed
from dub5.telemetry.background import Background
from dub5.telemetry.metrics import Metrics


class Server:
    """A Redis that does as it is told: `errors` are raised one after the other, by a command or a probe."""

    name = "redis"

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.changes: asyncio.Queue[bool] = asyncio.Queue()
        self.metrics = Metrics()
        self.background = Background(self.metrics, rng=lambda: 0.0)
        self.batches = Batches(self, self.changed, self.background, timeout=60.0)

    async def send(self, commands: list[Any]) -> list[Any]:
        if self.errors:
            raise self.errors.pop(0)
        return [b"PONG"] * len(commands)

    async def reconnect(self) -> bool:
        return True

    def changed(self) -> None:
        self.changes.put_nowait(self.batches.available)

    async def ask(self) -> Any:
        return await self.batches.ask([(("PING",), {})])

    def failures(self, task: str) -> float | None:
        return self.metrics.registry.get_sample_value("dub5_background_failures_total", {"task": task})


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


async def test_a_probe_that_raises_something_unforeseen_is_made_again() -> None:
    server = Server()
    server.errors = [*[ConnectionError()] * 3, KeyError("nobody foresaw this")]
    for _ in range(3):
        with pytest.raises(RedisFailed):
            await server.ask()
    async with asyncio.timeout(60):
        assert [await server.changes.get() for _ in range(2)] == [False, True]
    assert await server.ask() == [b"PONG"]
    assert server.failures("redis-probe") == 1
    await server.batches.stop()
    assert server.background.tasks == set()


async def test_nobody_waits_for_a_batch_that_raised_something_unforeseen() -> None:
    server = Server()
    server.errors = [KeyError("nobody foresaw this")]
    with pytest.raises(RedisFailed):
        await server.ask()
    assert await server.ask() == [b"PONG"]
    assert server.failures("redis-batch") == 1
    await server.batches.stop()


async def test_nobody_joins_a_batch_that_was_cancelled_before_it_began() -> None:
    server = Server()
    lost = server.batches.ask([(("PING",), {})])
    [task] = server.batches._running.running
    task.cancel()
    with pytest.raises(RedisFailed):
        await lost
    async with asyncio.timeout(60):
        assert await server.ask() == [b"PONG"]
    await server.batches.stop()
