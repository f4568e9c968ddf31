"""What a hit costs where there is more of something: answers held, tenants, bytes of messages.

Costs are microseconds of the server's CPU per hit, the median of a few rounds. Answers and tenants should not change
it. Bytes should, evenly: from 16 to 256 KB each KB may cost as much as from 1 to 16.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.figures import Figure, progress
from benchmarks.gateways.contestants import Running, dub5
from benchmarks.gateways.cores import OTHERS, pinned
from benchmarks.gateways.load import Ask, stand_in, wrk
from benchmarks.gateways.rounds import Bench, whole
from testkit.redis_server import RedisServer

CONNECTIONS = 64
_FLAT, _EVEN = 1.3, 1.3
_KB = [1, 4, 16, 64, 256]
_BIG = {"local_bytes": 4 * 2**30, "classes": {"default": {"ttl": "4h"}}}
_NO_MEMORY = {"local_bytes": 0, "classes": {"default": {"ttl": "4h"}}}
_COST = "µs per hit"


async def measure(bench: Bench) -> list[Figure]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        provider = await stack.enter_async_context(stand_in())
        return [
            await _entries(bench, folder, provider),
            await _entries_in_redis(bench, folder, provider),
            await _tenants(bench, folder, provider),
            await _bytes(bench, folder, provider),
        ]


async def _entries(bench: Bench, folder: Path, provider: str) -> Figure:
    """Held in memory: each is made by a miss, and any of them may be asked for next."""
    costs: dict[int, float] = {}
    async with dub5("entries", provider, redis=None, cache=_BIG).running(folder) as server:
        held = 0
        for count in (10**power for power in range(3, 6 if bench.quick else 7)):
            while held < count:
                progress(f"growth: {held:,} of {count:,} answers stored")
                held = (await wrk(server.url, Ask(first=held), connections=CONNECTIONS, seconds=3)).next
            costs[count] = await _cost(bench, f"entries {count}", server, Ask(order="random", count=count))
    return _flat("answers in memory", costs)


async def _entries_in_redis(bench: Bench, folder: Path, provider: str) -> Figure:
    """A thousand questions, and ever more other keys in Redis."""
    costs: dict[int, float] = {}
    with pinned(OTHERS):
        redis = RedisServer("--enable-debug-command", "local")
    async with (
        redis as held,
        dub5("Redis", provider, redis=held.port, cache=_NO_MEMORY).running(folder) as server,
    ):
        for count in (10**power for power in range(3, 7)):
            await held.client.execute_command("DEBUG", "POPULATE", str(count), "other", "700")  # type: ignore[no-untyped-call]
            asked = Ask(order="turn", count=1000)
            costs[count] = await _cost(bench, f"keys in Redis {count}", server, asked)
    return _flat("keys in Redis, hits from there", costs)


async def _tenants(bench: Bench, folder: Path, provider: str) -> Figure:
    """Each with a key and a question of its own."""
    costs: dict[int, float] = {}
    for count in (1, 100, 10_000):
        keys = folder / f"keys-{count}.json"
        keys.write_text(json.dumps(dict(_key(number) for number in range(count))), encoding="utf-8")
        ours = dub5(f"tenants {count}", provider, redis=None, keys=keys)
        async with ours.running(folder) as server:
            asked = Ask(order="random", count=count, headers={"authorization": f"Bearer key-{0:012d}"})
            costs[count] = await _cost(bench, f"tenants {count}", server, asked)
    return _flat("tenants", costs)


def _key(number: int) -> tuple[str, dict[str, str]]:
    return hashlib.sha256(f"key-{number:012d}".encode()).hexdigest(), {"tenant": f"tenant-{number}"}


async def _bytes(bench: Bench, folder: Path, provider: str) -> Figure:
    costs: dict[int, float] = {}
    async with dub5("bytes", provider, redis=None).running(folder) as server:
        for size in _KB:
            asked = Ask(order="turn", count=16, filler=size * 1024)
            costs[size] = await _cost(bench, f"KB {size}", server, asked)
    early = (costs[16] - costs[1]) / 15
    late = (costs[256] - costs[16]) / 240
    return Figure(
        "cost of a hit over KB of messages",
        "linear",
        f"{_listed(costs)} {_COST}; each KB {early:.2f} µs from 1 to 16, {late:.2f} µs from 16 to 256",
        late <= early * _EVEN,
    )


async def _cost(bench: Bench, name: str, server: Running, asked: Ask) -> float:
    """Microseconds of CPU per hit. The first second, unmeasured, makes what is not there yet."""
    entry = whole(server, lambda: asked, connections=CONNECTIONS)
    await wrk(server.url, asked, connections=CONNECTIONS, seconds=1 if asked.count < 5000 else 4)
    rounds = []
    for number in range(min(3, bench.count)):
        progress(f"growth: {name}, round {number + 1}")
        rounds.append(await bench.once(f"growth, {name}", entry))
    return statistics.median(1e6 / each.rate for each in rounds)


def _flat(what: str, costs: Mapping[int, float]) -> Figure:
    values = list(costs.values())
    return Figure(
        f"cost of a hit over {what}", "flat", f"{_listed(costs)} {_COST}", values[-1] <= values[0] * _FLAT
    )


def _listed(costs: Mapping[int, float]) -> str:
    return ", ".join(f"{count:,}: {cost:.0f}" for count, cost in costs.items())
