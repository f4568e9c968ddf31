"""Purges against flights, writes and replicas that are stopped in the middle of either, by seeded chance.

Each purge first raises the provider's generation, so an answer tells whether its provider call began before
that purge. A request must not get such an answer if it began after the purge was answered with 200: at once on
the replica that was asked, and on the others from IN_FORCE seconds later.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter, defaultdict

from benchmarks.figures import Figure, progress
from testkit.client import Client, Outcome, client, until
from testkit.redis_server import RedisServer
from testkit.service import Service, configuration, replicas, signalled
from testkit.stand_in import Provider, provider

SEEDS, SECONDS, RATE, REPLICAS = (1, 2, 3), 40.0, 60.0, 3
TAGS, QUESTIONS = 5, 20
IN_FORCE = 1.0
LONGEST_PAUSE = 6.0
"""Longer than a lease lives, so that some leaders wake up to find another in their place."""

Floor = tuple[float, int]
"""From this moment on no answer of an earlier generation."""


class Race:
    """One schedule. `floors` are by tag and replica."""

    def __init__(self, seed: int, asking: Client, asked: Provider, fleet: list[Service]) -> None:
        self.outcomes: list[tuple[str, int, Outcome]] = []
        self.purges = self.refused = self.pauses = 0
        self._chance = random.Random(seed)
        self._asking = asking
        self._asked = asked
        self._fleet = fleet
        self._floors: defaultdict[tuple[str, int], list[Floor]] = defaultdict(list)
        self._generation = 1
        self._end = time.monotonic() + SECONDS

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for work in (self._ask_on, self._purge_on, self._pause_on):
                group.create_task(work(group))

    def stale(self) -> list[Outcome]:
        """Complete or not: what was served although it was purged before the request began."""
        return [
            outcome
            for tag, index, outcome in self.outcomes
            if outcome.text
            and any(
                outcome.began > since and outcome.generation < generation
                for since, generation in self._floors[tag, index]
            )
        ]

    async def _ask_on(self, group: asyncio.TaskGroup) -> None:
        while time.monotonic() < self._end:
            group.create_task(self._ask())
            await asyncio.sleep(self._chance.expovariate(RATE))

    async def _ask(self) -> None:
        tag, index = f"tag{self._chance.randrange(TAGS)}", self._chance.randrange(REPLICAS)
        outcome = await self._asking.ask(
            self._fleet[index].url,
            f"{tag} question {self._chance.randrange(QUESTIONS)}",
            stream=self._chance.random() < 0.5,
            headers={"x-dub5-cache-tags": tag},
        )
        self.outcomes.append((tag, index, outcome))

    async def _purge_on(self, group: asyncio.TaskGroup) -> None:
        while time.monotonic() < self._end:
            await asyncio.sleep(self._chance.uniform(0.05, 0.6))
            self._generation += 1
            await self._asked.set(generation=self._generation)
            tag, index = f"tag{self._chance.randrange(TAGS)}", self._chance.randrange(REPLICAS)
            group.create_task(self._purge(tag, index, self._generation))

    async def _purge(self, tag: str, asked: int, generation: int) -> None:
        status = await self._asking.purge(self._fleet[asked].url, tags=[tag])
        answered = time.monotonic()
        self.purges += 1
        self.refused += status != 200
        for index in range(REPLICAS):
            if index == asked or status == 200:
                self._floors[tag, index].append((answered + IN_FORCE * (index != asked), generation))

    async def _pause_on(self, _: asyncio.TaskGroup) -> None:
        """One replica at a time is stopped; whatever it leads is then led by nobody."""
        while time.monotonic() < self._end:
            await asyncio.sleep(self._chance.uniform(0.2, 1.0))
            service = self._fleet[self._chance.randrange(REPLICAS)]
            signalled(service, signal.SIGSTOP)
            await until(min(self._end, time.monotonic() + self._chance.uniform(0.05, LONGEST_PAUSE)))
            signalled(service, signal.SIGCONT)
            self.pauses += 1


async def measure() -> list[Figure]:
    errors: Counter[str] = Counter()
    stale = calls = purges = refused = pauses = requests = unsent = midway = 0
    for seed in SEEDS:
        progress(f"purge race, seed {seed}")
        async with provider() as asked, RedisServer() as redis, client() as asking:
            await asked.set(first_token=0.1, between=0.03, tokens=6)
            async with replicas(
                REPLICAS, configuration(asked.base_url, f"redis://127.0.0.1:{redis.port}")
            ) as fleet:
                race = Race(seed, asking, asked, fleet)
                await race.run()
            stale += len(race.stale())
            calls += await asked.calls()
            purges, refused, pauses = purges + race.purges, refused + race.refused, pauses + race.pauses
            requests += len(race.outcomes)
            errors.update(each.error[:60] for _, _, each in race.outcomes if each.error)
            unsent += sum(outcome.failed_unsent for _, _, outcome in race.outcomes)
            midway += sum(outcome.failed_midway for _, _, outcome in race.outcomes)
    measured = (
        f"{stale} of {requests:,} answers; {calls:,} provider calls, {purges} purges ({refused} answered 503), "
        f"{pauses} pauses of a replica, {len(SEEDS)} schedules; {unsent} requests failed unsent, "
        f"{midway} mid-answer {dict(errors) or ''}"
    )
    return [
        Figure(
            "purge racing with flights and writes, random schedules, paused leaders",
            "0 answers from before the purge, over 1,000 flights",
            measured,
            stale == 0 and calls >= 1000,
        )
    ]
