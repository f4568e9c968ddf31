"""What an operator comes to that begins with hours of backlog, beside one that was there all the time.

    python -m benchmarks.adaptive_ttl.restart

Simulated hours through a real Redis, a batch a minute, under TTLs that the planner sets. One operator reads each batch
when it comes, the other all of them at the end: it knows nothing but the stream. Compared are the TTL for all, that of
a question of which nothing is known, and the bound of the stale share.
"""

from __future__ import annotations

import asyncio

import msgspec
from redis.asyncio import Redis

from benchmarks.adaptive_ttl.cache import Cache, Seen
from benchmarks.adaptive_ttl.controls import LONGEST, Planned
from benchmarks.adaptive_ttl.world import START, World, draw
from dub5 import question_ttl
from dub5.contract import CLASSES_KEY, SAMPLES, AnnouncedClass, Announcement, SampleBatch
from dub5_operator.planner.decision import Decision
from dub5_operator.redis import Samples
from testkit.redis_server import RedisServer

WORLDS = {
    "1/h": World("1/h", hours=3),
    "mixed": World("mixed", hours=3),
    "mixed, 0.2/s": World("mixed", hours=3, per_second=0.2, keys=100),
    "1/day, e0 0.2": World("1/day", noise=0.2, hours=3),
}
SEEDS = 3
NAME = "simulated"


class Recorded(Planned):
    """With what a replica would have written."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[SampleBatch] = []

    def each_minute(self, seen: Seen) -> None:
        accesses = [msgspec.structs.replace(each, class_name=NAME) for each in seen.accesses]
        counted, ttls = {NAME: seen.looked_up}, {NAME: self.ttl}
        self.batches.append(SampleBatch("a", seen.at, accesses, seen.verdicts, looked_up=counted, ttls=ttls))
        super().each_minute(seen)


def figures(decision: Decision, now: float) -> tuple[float, float, float]:
    new = decision.ttl
    if decision.question is not None:
        new = question_ttl.ttl_of(None, decision.question, hits=0, age=0, now=now).seconds
    return decision.ttl, new, decision.stale_upper


async def decisions(redis: Redis, there: Recorded) -> tuple[Decision, Decision]:
    """The last ones of an operator that was there all the time, and of one that begins now."""
    await redis.flushall()
    classes = {NAME: AnnouncedClass(300, LONGEST)}
    await redis.set(CLASSES_KEY, msgspec.json.encode(Announcement(START, classes)))
    now = START
    stays, begins = Samples(redis, lambda: now), Samples(redis, lambda: now)

    def decision(of: Samples, batch: SampleBatch) -> Decision:
        return of.learnings[NAME].learning.decide(there.limits, batch.ttls[NAME], now)

    for batch in there.batches:
        now = batch.at
        await redis.xadd(SAMPLES, {b"b": msgspec.msgpack.encode(batch)}, id=f"{int(now * 1000)}-*")
        await stays.refresh({NAME})
        stayed = decision(stays, batch)
    await begins.refresh({NAME})
    return stayed, decision(begins, there.batches[-1])


async def measure() -> None:
    print("| backlog | TTL for all, of the other's | of a new question | stale, at most |\n|---|---|---|---|")
    async with RedisServer() as server:
        redis = Redis(port=server.port)
        for title, world in WORLDS.items():
            for seed in range(SEEDS):
                there = Recorded()
                Cache(draw(world, seed), there).run()
                now = START + world.hours * 3600
                stayed, begun = (figures(each, now) for each in await decisions(redis, there))
                said = " | ".join(f"{of / to:.3f}" for of, to in zip(begun, stayed, strict=True))
                print(f"| {title}, seed {seed} | {said} |", flush=True)
        await redis.aclose()


if __name__ == "__main__":
    asyncio.run(measure())
