"""Bottlenecks planted into a real replica, under real load: the report names them.

A full CPU is planted into figures instead, in tests/unit/loadtest: a machine that tests share has none to fill.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from dub5.loadtest.command import write_report
from dub5.telemetry.container import memory_limit
from testkit.http_server import Call, Wire
from testkit.openai_server import FakeOpenAI, say
from testkit.redis_server import RedisServer, far_away
from testkit.service import Service, serving
from tests.harness import Running, openai_provider, running
from tests.integration.loadtest.test_scenarios import K6
from tools.load import run

pytestmark = pytest.mark.skipif(K6 is None, reason="needs k6")

LOAD = {"RATE": "8", "DURATION": "14s", "COMPLEXITIES": "short", "TTFT_P95": "600", "MAX_VUS": "300"}
PATIENT = {"connect": "2m"}
ROOMY = {"max_inflight": 100, "max_queued": 500}


def simulated(first_token: str, max_inflight: int) -> dict[str, Any]:
    return {
        "providers": {"demo": {"kind": "simulated", "first_token": first_token, "tokens_per_second": 2000}},
        "models": {"demo": {"routes": ["demo/simulated"]}},
        "admission": {**ROOMY, "max_inflight": max_inflight},
    }


async def half_a_second(call: Call, wire: Wire) -> None:
    await asyncio.sleep(0.5)
    await say("Here", "it", "is")(call, wire)


async def planted(config: dict[str, Any], folder: Path) -> str:
    """The verdict on a replica in a process of its own, which is as fast as it can be."""
    await asyncio.to_thread(folder.mkdir)
    async with serving(config) as server:
        return await verdict(server, folder)


async def verdict(server: Running | Service, folder: Path) -> str:
    await run("steady", server.url, server.operations_url, folder)
    await asyncio.to_thread(forget_the_machine, folder / "series.json")
    document = await asyncio.to_thread(write_report, folder, folder)
    return document.verdict


def resident_bytes() -> int:
    """Of this process, as its metric says."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forget_the_machine(series: Path) -> None:
    """It may be busy with something else, which the report would rightly name."""
    kept = json.loads(series.read_text(encoding="utf-8"))
    lines = kept["lines"]
    assert lines.pop("cpu")
    assert lines.pop("cpu_wait")
    assert lines.pop("loop")
    series.write_text(json.dumps(kept), encoding="utf-8")


async def test_each_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LOAD.items():
        monkeypatch.setenv(name, value)
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(RedisServer())
        far = await stack.enter_async_context(far_away(redis, round_trip=0.06))
        narrow = await stack.enter_async_context(FakeOpenAI())
        narrow.reply = half_a_second
        configs = [
            simulated("200ms", max_inflight=1),
            simulated("900ms", max_inflight=4),
            # Who waits for a connection for longer than `connect` fails, and then the breaker keeps the others away.
            {**openai_provider(narrow.base_url, max_connections=2, timeouts=PATIENT), "admission": ROOMY},
            {**simulated("50ms", max_inflight=100), "redis": {"url": far}},
        ]
        folders = [tmp_path / str(index) for index in range(len(configs))]
        gate, provider, limit, slow = await asyncio.gather(*map(planted, configs, folders))
    assert "The gate was full" in gate
    assert "The provider was slow" in provider
    assert "The provider's limit was reached" in limit
    assert "Redis was slow" in slow
    assert gate.startswith("FAILED")  # a queue that grows misses the gate on the first token


async def test_a_limit_of_memory_that_is_near_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LOAD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TTFT_P95", "60000")  # it need not be fast
    # Now, not at most: tests that ran before in this process may have taken more.
    used = await asyncio.to_thread(resident_bytes)
    limit = tmp_path / "memory.max"
    await asyncio.to_thread(limit.write_text, f"{used * 21 // 20}")
    read = functools.partial(memory_limit, tmp_path / "no groups", tmp_path)
    monkeypatch.setattr("dub5.telemetry.metrics.memory_limit", read)
    async with running(simulated("50ms", max_inflight=100)) as server:
        said = await verdict(server, tmp_path)
    assert said.startswith("passed. Memory was nearly full from the start")
