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

from blockbuster import BlockBuster

from testkit.client import Outcome, until
from testkit.service import signalled
from testkit.stage import Stage, stage
from tests.harness import size

SEED, SECONDS, RATE, REPLICAS = 1, float(size(8)), 60.0, 3
TAGS, QUESTIONS = 5, 20
IN_FORCE = 1.0
LONGEST_PAUSE = 6.0
"""Longer than a lease lives, so that some leaders wake up to find another in their place."""


class Race:
    """One schedule. `counts` are its purges, those refused, and pauses of a replica."""

    def __init__(self, seed: int, on: Stage) -> None:
        self.outcomes: list[tuple[str, int, Outcome]] = []
        self.counts: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._on = on
        # By tag and replica: from this moment on no answer of an earlier generation.
        self._floors: defaultdict[tuple[str, int], list[tuple[float, int]]] = defaultdict(list)
        self._generation = 1
        self._end = time.monotonic() + SECONDS

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for work in (self._ask_on, self._purge_on, self._pause_on):
                group.create_task(work(group))

    def stale(self) -> int:
        """Complete or not: what was served although it was purged before the request began."""
        return sum(
            bool(outcome.text)
            and any(
                outcome.began > since and outcome.generation < generation
                for since, generation in self._floors[tag, index]
            )
            for tag, index, outcome in self.outcomes
        )

    def _place(self) -> tuple[str, int]:
        return f"tag{self._rng.randrange(TAGS)}", self._rng.randrange(REPLICAS)

    async def _ask_on(self, group: asyncio.TaskGroup) -> None:
        while time.monotonic() < self._end:
            group.create_task(self._ask(*self._place()))
            await asyncio.sleep(self._rng.expovariate(RATE))

    async def _ask(self, tag: str, index: int) -> None:
        question, stream = f"{tag} question {self._rng.randrange(QUESTIONS)}", self._rng.random() < 0.5
        headers = {"x-dub5-cache-tags": tag}
        outcome = await self._on.asking.ask(self._on.urls[index], question, stream=stream, headers=headers)
        self.outcomes.append((tag, index, outcome))

    async def _purge_on(self, group: asyncio.TaskGroup) -> None:
        while time.monotonic() < self._end:
            await asyncio.sleep(self._rng.uniform(0.05, 0.6))
            self._generation += 1
            await self._on.asked.set(generation=self._generation)
            group.create_task(self._purge(*self._place(), self._generation))

    async def _purge(self, tag: str, asked: int, generation: int) -> None:
        status = await self._on.asking.purge(self._on.urls[asked], tags=[tag])
        answered = time.monotonic()
        self.counts["purges"] += 1
        self.counts["refused"] += status != 200
        for index in range(REPLICAS):
            if index == asked or status == 200:
                self._floors[tag, index].append((answered + IN_FORCE * (index != asked), generation))

    async def _pause_on(self, _: asyncio.TaskGroup) -> None:
        """One replica at a time is stopped; whatever it leads is then led by nobody."""
        while time.monotonic() < self._end:
            await asyncio.sleep(self._rng.uniform(0.2, 1.0))
            service = self._on.fleet[self._rng.randrange(REPLICAS)]
            signalled(service, signal.SIGSTOP)
            await until(min(self._end, time.monotonic() + self._rng.uniform(0.05, LONGEST_PAUSE)))
            signalled(service, signal.SIGCONT)
            self.counts["pauses"] += 1


async def test_nobody_gets_an_answer_from_before_a_purge(no_blocking_calls: BlockBuster) -> None:
    no_blocking_calls.deactivate()  # only clients run in this loop: the replicas are processes of their own
    async with stage(REPLICAS, pace={"first_token": 0.1, "between": 0.03, "tokens": 6}) as on:
        race = Race(SEED, on)
        await race.run()
    assert race.stale() == 0
    assert race.counts["purges"] > race.counts["refused"]
    assert race.counts["pauses"] > 0
    assert sum(bool(outcome.text) for _, _, outcome in race.outcomes) > len(race.outcomes) / 2
