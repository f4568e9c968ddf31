"""A thousand policies at once: how much CPU a round of looks takes, and what memory.

    python -m benchmarks.adaptive_ttl.many

A real Redis with two hours of samples, spread over the classes; no Kubernetes, which waits for nothing here. All that
the operator imports is in memory, kopf with it, and of kopf nothing is running.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import time
from collections import Counter

import msgspec
from redis.asyncio import Redis

from dub5.contract import (
    CLASSES_KEY,
    SAMPLES,
    Access,
    AnnouncedClass,
    Announcement,
    SampleBatch,
    Verdict,
)
from dub5_operator import main
from dub5_operator.handlers.policy import Metrics, PolicyReconciler
from dub5_operator.redis import Publisher, Samples
from testkit.processes import resident
from testkit.redis_server import RedisServer

POLICIES, REPLICAS, HOURS = 1000, 3, 2.0
A_BATCH = 200
"""Look-ups of one replica in five seconds: what its byte budget allows."""


async def fill(redis: Redis, names: list[str], began: float, hours: float) -> None:
    chance = random.Random(1)
    for second in range(0, int(hours * 3600), 5):
        for replica in range(REPLICAS):
            at = began + second
            accesses, looked_up = [], Counter[str]()
            for _ in range(A_BATCH):
                name = names[int(len(names) * chance.random() ** 2)]
                key = chance.randrange(50) * 2**40 + replica
                accesses.append(Access(key, name, at, chance.random() < 0.6, 2000, 0.0005, 1.0))
                looked_up[name] += 1
            verdicts = [
                Verdict(each.key, each.class_name, at - 300, at, chance.random() < 0.02, 3, "refetch")
                for each in accesses[:40]
            ]
            batch = SampleBatch(str(replica), at, accesses, verdicts, looked_up=looked_up)
            await redis.xadd(SAMPLES, {b"b": msgspec.msgpack.encode(batch)}, id=f"{int(at * 1000)}-*")


async def measure() -> None:
    names = [f"class-{number}" for number in range(POLICIES)]
    now = time.time()
    async with RedisServer() as server:
        redis = Redis(port=server.port)
        classes = {name: AnnouncedClass(300, 86400) for name in names}
        await redis.set(CLASSES_KEY, msgspec.json.encode(Announcement(now, classes)))
        await fill(redis, names, now - HOURS * 3600, HOURS)
        clock = [now]

        def begin() -> tuple[PolicyReconciler, Samples]:
            samples, publisher = Samples(redis, lambda: clock[0]), Publisher(redis, lambda: clock[0])
            return PolicyReconciler(samples, publisher, Metrics(), lambda: clock[0]), samples

        print("| 1,000 policies | CPU, seconds | resident, MiB | at most |\n|---|---|---|---|")
        _say(f"at rest, with what {main.__name__} imports", None)
        policies, samples = begin()
        number, left = 0, 2
        while left:
            number, was_behind = number + 1, samples.behind or not number
            await _round(policies, names, f"round {number}, {'of two hours' if was_behind else 'a minute'}")
            left -= not was_behind
            await fill(redis, names, clock[0], 1 / 60)
            clock[0] += 60
        del policies, samples
        await _round(begin()[0], names, "begun anew: what was stored, and minutes")
        await redis.aclose()


async def _round(policies: PolicyReconciler, names: list[str], title: str) -> None:
    started = time.process_time()
    await asyncio.gather(  # what they publish goes together, as with kopf's timers
        *(
            policies.reconcile(
                name=name,
                uid=name,
                spec={"cacheClass": name},
                status={},
                claims=[("", name, name)],
                classes=names,
            )
            for name in names
        )
    )
    _say(title, time.process_time() - started)


def _say(title: str, seconds: float | None) -> None:
    now, most = resident(os.getpid()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    took = "" if seconds is None else f"{seconds:.1f}"
    print(f"| {title} | {took} | {now / 2**20:.0f} | {most / 2**20:.0f} |", flush=True)


if __name__ == "__main__":
    asyncio.run(measure())
