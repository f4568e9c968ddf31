"""Servers of two commits before one provider, compared by what a request costs them."""

from __future__ import annotations

import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec

from benchmarks.cost import commits
from benchmarks.cost.load import PACE, ROWS, Row, load
from benchmarks.cost.verdict import Ratio, ratio
from benchmarks.figures import progress
from benchmarks.gateways.load import stand_in
from testkit.redis_server import RedisServer
from testkit.service import Service, configuration, serving

BAR = 1.03
ROUNDS = 12
SECONDS = 1.5
"""Of CPU of each server in a round, about: 3 for each commit."""


class Verdict(msgspec.Struct, frozen=True):
    """Costs are medians, in seconds."""

    row: Row
    before: float
    after: float
    ratio: Ratio
    control: Ratio

    @property
    def good(self) -> bool:
        return self.ratio.high <= BAR

    def line(self) -> str:
        costs = f"{self.before * 1e6:,.1f} µs | {self.after * 1e6:,.1f} µs"
        missed = "" if self.good else " **missed**"
        unit = "chunk" if self.row.units > 1 else "request"
        return f"| {self.row.what}, by {unit} | {costs} | {self.ratio}{missed} | {self.control} | {BAR} |"


async def compared(against: str, rows: list[str], rounds: int) -> AsyncIterator[Verdict]:
    """One row after the other. RuntimeError where a server answers wrongly: then nothing is compared."""
    progress(f"setting up {against[:10]}")
    other = str(await commits.python(against))
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(stand_in())
        for row in map(ROWS.__getitem__, rows):
            async with AsyncExitStack() as up:
                servers = [
                    await up.enter_async_context(_server(python, provider, row.settings))
                    for python in (other, sys.executable, other, sys.executable)
                ]
                found = await _rounds(row, servers, rounds)
            before, after = _mean(found[0], found[2]), _mean(found[1], found[3])
            costs = statistics.median(before), statistics.median(after)
            yield Verdict(row, *costs, ratio(after, before), ratio(found[2], found[0]))


def _mean(one: list[float], other: list[float]) -> list[float]:
    """Of two servers of one commit: one process may be a percent cheaper than the next, by where its memory lies."""
    return [statistics.mean(both) for both in zip(one, other, strict=True)]


async def _rounds(row: Row, servers: list[Service], rounds: int) -> list[list[float]]:
    """The cost by server and round."""
    found: list[list[float]] = [[] for _ in servers]
    async with load(row, servers) as loading:
        cost = min(await loading.round(20 if row.units == 1 else 2))  # to warm up
        waves = max(2, round(SECONDS / (cost * row.wave * row.units)))
        for number in range(rounds):
            costs = await loading.round(waves)
            for mine, seconds in zip(found, costs, strict=True):
                mine.append(seconds)
            now = " / ".join(f"{seconds * 1e6:,.1f}" for seconds in costs)
            progress(f"{row.name}: round {number + 1} of {rounds}: {now} µs (before / now / before / now)")
    return found


@asynccontextmanager
async def _server(python: str, provider: str, more: dict[str, Any]) -> AsyncIterator[Service]:
    """With a Redis of its own: what one stored would be a hit of the next."""
    live = {"kind": "openai", "base_url": f"{provider}{PACE}/v1"}
    async with RedisServer() as redis:
        settings = configuration(f"{provider}/v1", redis.url, **more)
        settings["providers"]["live"] = live
        settings["models"]["live"] = {"routes": ["live/benchmark"]}
        async with serving(settings, python=python) as service:
            yield service
