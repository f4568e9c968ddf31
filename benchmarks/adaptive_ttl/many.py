"""A thousand policies at once: how long a round of looks takes, and what memory it takes.

    python -m benchmarks.adaptive_ttl.many

A real Redis with two hours of samples, spread over the classes; no Kubernetes, which waits for nothing here.
"""

from __future__ import annotations

import asyncio
import os
import random
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
from dub5_operator.handlers.policy import Metrics, PolicyReconciler
from dub5_operator.redis import Publisher, Samples
from testkit.processes import resident
from testkit.redis_server import RedisServer

POLICIES, REPLICAS, HOURS, ROUNDS = 1000, 3, 2.0, 3
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
        metrics = Metrics()
        policies = PolicyReconciler(
            Samples(redis, lambda: clock[0]), Publisher(redis, lambda: clock[0]), metrics, lambda: clock[0]
        )
        own, mib = os.getpid(), 2**20
        print("| 1,000 policies | seconds | resident, MiB |\n|---|---|---|")
        print(f"| at rest, everything imported | | {resident(own) / mib:.0f} |")
        for number in range(ROUNDS):
            if number:
                await fill(redis, names, clock[0], 1 / 60)
                clock[0] += 60
            started = time.perf_counter()
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
            title = "first round, two hours of samples" if not number else f"round {number + 1}, a minute's"
            print(
                f"| {title} | {time.perf_counter() - started:.1f} | {resident(own) / mib:.0f} |", flush=True
            )
        await redis.aclose()


if __name__ == "__main__":
    asyncio.run(measure())
