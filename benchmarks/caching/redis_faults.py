"""Redis goes wrong in the middle of a load: who fails, what comes back, how much time is lost?

One round per fault: FAULT_AT seconds of load, the fault, HEAL_AT - FAULT_AT seconds of load with it, and then
load until END with Redis well again. The load is open (a slow answer does not hold up the next question):

* probes: new questions to a replica with Redis, and as many to a replica of the same kind that was never
  given a Redis; the difference between the two is the time that Redis adds;
* pairs: one question to two replicas at once, whole and streamed in turns, so that flights cross replicas;
* two sets of questions whose answers were cached everywhere and then purged, one before the fault and one
  during it, asked again at all times: the provider's generation in an answer tells when it was made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from benchmarks.figures import Figure, milliseconds, percentile, progress
from testkit.client import Client, Outcome, client, until
from testkit.redis_server import RedisServer
from testkit.service import configuration, replicas
from testkit.stand_in import Provider, provider

FAULT_AT, PURGE_AT, HEAL_AT, END = 4.0, 6.0, 10.0, 15.0
PROBES, PAIRS = 50, 15
"""A second."""
PURGED = 50
"""Questions in each purged set."""
TIMEOUT, LEARNING, IN_FORCE = 0.1, 0.5, 1.0
"""`redis.timeout`; seconds in which the breaker learns; seconds within which a purge is in force everywhere."""
LATENESS, THEN = 0.010, 0.002
"""Seconds: by how much a timer of one timeout may come late; what Redis may cost once the breaker is open."""
WARM_UP, AT_ONCE = 600, 10
"""Requests to each replica before anything is timed: connections, caches and the first full garbage collection."""

Action = Callable[[RedisServer], Awaitable[Any]]


class Fault(msgspec.Struct, frozen=True):
    """What is done to Redis, and what makes it well again."""

    name: str
    strike: Action
    heal: Action
    from_dump: bool = False


async def _nothing(_: RedisServer) -> None:
    pass


async def _pause(redis: RedisServer) -> None:
    redis.pause()


async def _resume(redis: RedisServer) -> None:
    redis.resume()


async def _read_only(redis: RedisServer) -> None:
    await redis.client.replicaof("127.0.0.1", "9")


async def _writable(redis: RedisServer) -> None:
    await redis.client.replicaof("NO", "ONE")


FAULTS = [
    Fault("killed, back empty", RedisServer.stop, RedisServer.start),
    Fault(
        "killed, back with a dump from before the purge", RedisServer.stop, RedisServer.start, from_dump=True
    ),
    Fault("stopped (SIGSTOP)", _pause, _resume),
    Fault("flushed", lambda redis: redis.client.flushall(), _nothing),
    Fault(
        "out of memory",
        lambda redis: redis.client.config_set("maxmemory", "1mb"),
        lambda redis: redis.client.config_set("maxmemory", "0"),
    ),
    Fault("read-only", _read_only, _writable),
]


class Seen(msgspec.Struct):
    """All that one round saw."""

    probes: list[Outcome] = []
    controls: list[Outcome] = []
    pairs: list[Outcome] = []
    purged: list[Outcome] = []
    came_back: int = 0
    purge_status: int = 0

    def everything(self) -> list[Outcome]:
        return self.probes + self.controls + self.pairs + self.purged


class Round:
    """The load of one round; `began` is its zero of time."""

    def __init__(self, asking: Client, asked: Provider, urls: list[str], control: str) -> None:
        self.seen = Seen()
        self.began = time.monotonic()
        self._asking = asking
        self._asked = asked
        self._urls = urls
        self._control = control
        self._tasks: list[asyncio.Task[None]] = []

    async def prepare(self, redis: RedisServer, *, dump: bool) -> None:
        """Both sets in all caches at generation 1; then the first one is purged, and that is in force."""
        await self._asked.set(first_token=0.0, between=0.0, tokens=1, generation=1)
        for number in range(0, WARM_UP, AT_ONCE):
            await asyncio.gather(
                *(
                    self._asking.ask(url, f"warm-up {number + offset}")
                    for offset in range(AT_ONCE)
                    for url in (*self._urls, self._control)
                )
            )
        for name in ("before", "during"):
            for index in range(PURGED):
                for url in self._urls:
                    await self._ask_purged(url, name, index)
        if dump:
            await redis.client.save()
        await self._asked.set(first_token=0.1, between=0.01, tokens=6, generation=2)
        if await self._asking.purge(self._urls[0], tags=["before"]) != 200:
            raise RuntimeError("the purge was refused")
        await asyncio.sleep(IN_FORCE)

    async def run(self, redis: RedisServer, fault: Fault) -> None:
        self.began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._each(1 / PROBES, self._probe))
            group.create_task(self._each(1 / PROBES, self._control_probe, after=0.5 / PROBES))
            group.create_task(self._each(1 / PAIRS, self._pair))
            group.create_task(self._each(END / PURGED, self._purged_questions))
            await until(self.began + FAULT_AT)
            await fault.strike(redis)
            await until(self.began + PURGE_AT)
            await self._asked.set(generation=3)
            self.seen.purge_status = await self._asking.purge(self._urls[0], tags=["during"])
            await until(self.began + HEAL_AT)
            await fault.heal(redis)
        await asyncio.gather(*self._tasks)

    async def _each(
        self, interval: float, ask: Callable[[int], Coroutine[Any, Any, None]], after: float = 0.0
    ) -> None:
        for number in range(int((END - after) / interval)):
            await until(self.began + after + number * interval)
            self._tasks.append(asyncio.create_task(ask(number)))

    async def _probe(self, number: int) -> None:
        self.seen.probes.append(await self._asking.ask(self._urls[0], f"probe {number}"))

    async def _control_probe(self, number: int) -> None:
        self.seen.controls.append(await self._asking.ask(self._control, f"probe {number}"))

    async def _pair(self, number: int) -> None:
        question, stream = f"pair {number}", number % 2 == 0
        self.seen.pairs += await asyncio.gather(
            *(self._asking.ask(url, question, stream=stream) for url in self._urls)
        )

    async def _purged_questions(self, number: int) -> None:
        for name in ("before", "during"):
            for url in self._urls:
                outcome = await self._ask_purged(url, name, number)
                self.seen.purged.append(outcome)
                needed = self._generation_needed(name, url, outcome.began - self.began)
                self.seen.came_back += outcome.error is None and outcome.generation < needed

    def _generation_needed(self, name: str, url: str, at: float) -> int:
        """A purge is in force at once where it was asked for; elsewhere as soon as Redis can tell of it."""
        if name == "before":
            return 2
        told = PURGE_AT if url == self._urls[0] or self.seen.purge_status == 200 else HEAL_AT + 0.5
        margin = 0.1 if url == self._urls[0] else IN_FORCE
        return 3 if self.seen.purge_status and at > told + margin else 1

    async def _ask_purged(self, url: str, name: str, index: int) -> Outcome:
        return await self._asking.ask(url, f"purged {name} {index}", headers={"x-dub5-cache-tags": name})


async def measure() -> list[Figure]:
    return [await _round(fault) for fault in FAULTS]


async def _round(fault: Fault) -> Figure:
    progress(f"Redis {fault.name}")
    async with (
        provider() as asked,
        RedisServer() as redis,
        client() as asking,
        replicas(2, configuration(asked.base_url, f"redis://127.0.0.1:{redis.port}")) as fleet,
        replicas(1, configuration(asked.base_url, None)) as [control],
    ):
        load = Round(asking, asked, [service.url for service in fleet], control.url)
        await load.prepare(redis, dump=fault.from_dump)
        await load.run(redis, fault)
        return figure(f"Redis {fault.name}", load.seen, load.began)


def figure(name: str, seen: Seen, began: float, learning_for: float = LEARNING) -> Figure:
    """What a round says; moments are counted from `began`."""
    everything = seen.everything()
    failed = sum(outcome.failed_unsent for outcome in everything)
    midway = sum(outcome.failed_midway for outcome in everything)
    learning = _added(seen, began + FAULT_AT - 0.2, began + FAULT_AT + learning_for)
    then = _added(seen, began + FAULT_AT + learning_for, began + HEAL_AT)
    measured = (
        f"{failed} failed of {len(everything):,}, {midway} ended mid-answer; {seen.came_back} purged answers came "
        f"back (of {len(seen.purged)} asked; purge during the fault: {seen.purge_status}); p99 of added time "
        f"{milliseconds(_added(seen, began, began + FAULT_AT - 0.2))} before, {milliseconds(learning)} in the "
        f"{learning_for + 0.2:.1f} s around the fault, {milliseconds(then)} until Redis is well (p50 "
        f"{milliseconds(_added(seen, began + FAULT_AT + learning_for, began + HEAL_AT, percent=50))})"
    )
    good = not failed and not seen.came_back and learning <= TIMEOUT + LATENESS and then <= THEN
    bar = "0 failed, 0 came back, p99 added <= 100 ms, then <= 2 ms"
    return Figure(f"{name}, mid-load", bar, measured, good)


def _added(seen: Seen, since: float, before: float, percent: float = 99) -> float:
    """A percentile of the probes that began in a span of time, less that of the replica without Redis."""
    with_redis, without = (
        percentile([outcome.took for outcome in outcomes if since <= outcome.began < before], percent)
        for outcomes in (seen.probes, seen.controls)
    )
    return with_redis - without
