"""Ten thousand clients that leave at a random point, on two replicas. What stays behind?

Points: before the body is sent whole; after it, waiting for a place or for the first token; in the middle of the
answer; after its end. Half leave by a reset, half politely. Six in ten ask something of their own, the others one of
the questions that SHARED neighbours ask, on either replica, so that they lead or follow flights together; half of all
ask for a stream. There are more clients at once than places, so some leave the queue.

Afterwards everything has to come back to nothing: what /metrics shows, descriptors (but for the connections to Redis,
which are a pool), and the provider's own counts of calls under way and of connections. Then each shared question is
asked again with only-if-cached, in both shapes, on both replicas: what is served must be whole.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

from benchmarks.figures import Figure, progress
from benchmarks.stage import Stage, stage
from testkit.client import Client, client
from testkit.processes import open_files
from testkit.service import Service, scraped
from testkit.wire import Wire, request

CLIENTS, AT_ONCE, PLACES, SHARED, REPLICAS = 10_000, 200, 40, 20, 2
FIRST_TOKEN, BETWEEN, TOKENS = 0.15, 0.02, 10
PATIENCE, KEPT = 30.0, 90.0
"""Seconds for what is under way to end, and for idle connections to the provider: they are kept for half a minute,
and looked at as often."""
GAUGES = ("dub5_inflight_requests", "dub5_queued_requests", "dub5_open_connections", "dub5_flight_followers")
WHOLE = "g1||" + "".join(f" word{index}" for index in range(TOKENS - 1))
POINTS = ("before the body was sent", "waiting", "mid-answer", "after the end")


class Crowd:
    """`left` counts by the point at which they left; some answers are over before their client could."""

    def __init__(self, urls: list[str], clients: int, at_once: int = AT_ONCE) -> None:
        self.left: Counter[str] = Counter()
        self._urls = urls
        self._at_once = at_once
        self._clients = clients
        self._next = 0
        self._chance = random.Random(1)

    async def run(self) -> None:
        await asyncio.gather(*(self._come_and_go() for _ in range(self._at_once)))

    async def _come_and_go(self) -> None:
        while self._next < self._clients:
            number, self._next = self._next, self._next + 1
            if number % 500 == 0:
                progress(f"{number} of {self._clients} clients have come")
            wire = await Wire.to(self._chance.choice(self._urls))
            try:
                point = await self._ask(wire, number)
            except (OSError, asyncio.IncompleteReadError) as error:
                point = f"failed: {type(error).__name__}"
            self.left[point] += 1
            (wire.reset if self._chance.random() < 0.5 else wire.close)()

    async def _ask(self, wire: Wire, number: int) -> str:
        """Where the client stops; it closes its connection then."""
        chance, point = self._chance, self._chance.choice(POINTS)
        question = shared(number) if chance.random() < 0.4 else f"own {number}"
        asked = request(question, stream=chance.random() < 0.5)
        if point == "before the body was sent":
            wire.writer.write(asked[: chance.randrange(len(asked) // 2, len(asked))])
            await asyncio.sleep(chance.uniform(0, 0.05))
            return point
        wire.writer.write(asked)
        if point == "waiting":
            await asyncio.sleep(chance.uniform(0, 2 * FIRST_TOKEN))
            return point
        reply = await wire.head(time.monotonic())
        parts = chance.randrange(1, TOKENS) if point == "mid-answer" else -1
        async for part in wire.parts(reply):
            parts -= 1
            if parts == 0:
                return point
            reply.body += part
        return "after the end" if reply.status == 200 else f"answered with {reply.status}"


def shared(number: int) -> str:
    return f"shared {number // SHARED}"


async def measure(length: float = 1.0) -> list[Figure]:
    clients = int(CLIENTS * length)
    pace = {"first_token": FIRST_TOKEN, "spread": 0.5, "between": BETWEEN, "tokens": TOKENS}
    async with stage(REPLICAS, pace=pace, admission={"max_inflight": PLACES}) as on:
        await asyncio.sleep(1)  # by then all have their connections to Redis
        before = await _open(on)
        crowd = Crowd(on.urls, clients)
        await crowd.run()
        progress("everybody has left")
        behind = await _settled(on)
        questions = [shared(number) for number in range(0, clients, SHARED)]
        async with client() as asking:
            served, half = await _cached(asking, on.fleet, questions)
        behind |= await _nothing(lambda: _connections(on.fleet), PATIENCE)  # those of this client, too

        async def descriptors() -> dict[str, float]:
            return {"descriptors": await _open(on) - before}

        behind |= await _nothing(descriptors, PATIENCE)
    gone = ", ".join(f"{count:,} {point}" for point, count in crowd.left.most_common())
    measured = (
        f"{gone}; afterwards {', '.join(f'{name} {value:.0f}' for name, value in behind.items())}; {half} half answers "
        f"of {served:,} that the caches served ({len(questions)} shared questions, two shapes, {REPLICAS} replicas)"
    )
    good = not any(behind.values()) and half == 0 and served > 0
    bar = "in-flight, descriptors, provider connections back to 0; 0 half answers cached"
    return [Figure(f"{clients:,} clients leaving at random points", bar, measured, good)]


async def _open(on: Stage) -> int:
    """Descriptors of all replicas, those of their connections to Redis left out."""
    to_redis = len(await on.redis.client.client_list()) - 1
    return sum(open_files(service.pid) for service in on.fleet) - to_redis


async def _settled(on: Stage) -> dict[str, float]:
    """What is still there when patience is over; as soon as it is nothing."""

    async def seen() -> dict[str, float]:
        metrics = [await scraped(service) for service in on.fleet]
        return {
            **{name.removeprefix("dub5_"): sum(each.get(name, 0) for each in metrics) for name in GAUGES},
            "provider calls": (await on.asked.counted())["live"],
        }

    async def connections() -> dict[str, float]:
        return {"provider connections": (await on.asked.counted())["connections"]}

    return {**await _nothing(seen, PATIENCE), **await _nothing(connections, KEPT)}


async def _connections(fleet: list[Service]) -> dict[str, float]:
    name = "dub5_open_connections"
    return {"open_connections": sum([(await scraped(service))[name] for service in fleet])}


async def _nothing(look: Any, patience: float) -> dict[str, float]:
    end = time.monotonic() + patience
    while any((found := await look()).values()) and time.monotonic() < end:  # noqa: ASYNC110  # no event
        await asyncio.sleep(0.2)
    return dict(found)


async def _cached(asking: Client, fleet: list[Service], questions: list[str]) -> tuple[int, int]:
    """How many answers were served from caches, and how many of them were not whole."""
    headers = {"cache-control": "only-if-cached"}
    served = half = 0
    for question in questions:
        outcomes = await asyncio.gather(
            *(
                asking.ask(service.url, question, stream=stream, headers=headers)
                for service in fleet
                for stream in (False, True)
            )
        )
        given = [outcome for outcome in outcomes if outcome.status == 200]
        served += len(given)
        half += sum(outcome.error is not None or outcome.text != WHOLE for outcome in given)
    return served, half
