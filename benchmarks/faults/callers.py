"""Many cheap callers in a process of their own: `python -m benchmarks.faults.callers`, its Load on standard input.

They ask questions that nobody asked before, or popular ones, on keep-alive connections. Closed loop: each of
`callers` asks, reads the answer, and asks again; one that was refused first waits `pause`, give or take half of it.
Open loop: `rate` questions a second at random moments, however long answers take. When the time is over they leave,
whatever they wait for.

The process also notes how late its own timers come: no latency that it reports is known more exactly.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Coroutine
from typing import Any

import msgspec
import uvloop

from testkit.client import until
from testkit.processes import resident, running
from testkit.service import Service
from testkit.wire import Reply, Wire, request

LAG_EVERY = 0.01
POOL = range(1, 1001)
_WEIGHTS = list(itertools.accumulate(1 / rank for rank in POOL))


class Load(msgspec.Struct, frozen=True):
    """What is to be done to the service at `url`, for so many seconds.

    `streamed` is a share of the questions, and so is `popular`: these are drawn from POOL by a Zipf law.

    Loads with the same `seed` ask at the same moments, in the same shapes.
    """

    url: str
    name: str
    seconds: float
    callers: int = 0
    rate: float = 0.0
    pause: float = 0.0
    streamed: float = 0.5
    popular: float = 0.0
    seed: int = 1
    headers: dict[str, str] = {}


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """One request. `status` is 0 where the connection broke; `wait` is Server-Timing's `queue`, where there is one."""

    began: float
    took: float
    status: int
    complete: bool
    wait: float | None

    @property
    def ended(self) -> float:
        return self.began + self.took


class Report(msgspec.Struct):
    """Moments are those of the monotonic clock, which all processes share. `late` is by how much timers were."""

    asked: list[Asked] = []
    late: list[float] = []


class Callers:
    """The state of the process."""

    def __init__(self, load: Load) -> None:
        self.report = Report()
        self._load = load
        self._chance = random.Random(load.seed)
        self._number = 0
        self._idle: list[Wire] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> Report:
        load = self._load
        self._start(self._watch_lag())
        for number in range(load.callers):
            self._start(self._ask_on(number / load.callers))
        if load.rate:
            self._start(self._arrive())
        await asyncio.sleep(load.seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return self.report

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask_on(self, after: float) -> None:
        await asyncio.sleep(after)
        while True:
            if await self._ask() != 200:
                await asyncio.sleep(self._load.pause * self._chance.uniform(0.5, 1.5))

    async def _arrive(self) -> None:
        due = time.monotonic()
        while True:
            due += self._chance.expovariate(self._load.rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._start(self._once())

    async def _once(self) -> None:
        await self._ask()

    async def _ask(self) -> int:
        """The status; 0 where the connection broke."""
        load = self._load
        self._number += 1
        question = request(
            self._question(),
            stream=self._chance.random() < load.streamed,
            headers=load.headers,
        )
        began, wire = time.monotonic(), None
        try:
            wire = self._kept() or await Wire.to(load.url)
            reply = await wire.ask(question)
        except (OSError, asyncio.IncompleteReadError):
            self._note(Asked(began, time.monotonic() - began, 0, complete=False, wait=None), wire)
            return 0
        except asyncio.CancelledError:
            if wire is not None:
                wire.close()
            raise
        self._note(_asked(reply), wire, keep=not reply.closing)
        return reply.status

    def _kept(self) -> Wire | None:
        """A connection that is still open: the service closes those that were idle for 75 s, as any server does."""
        while self._idle:
            wire = self._idle.pop()
            if not wire.reader.at_eof():
                return wire
            wire.close()
        return None

    def _question(self) -> str:
        if self._chance.random() >= self._load.popular:
            return f"{self._load.name} {self._number}"
        return f"popular {self._chance.choices(POOL, cum_weights=_WEIGHTS)[0]}"

    def _note(self, asked: Asked, wire: Wire | None, *, keep: bool = False) -> None:
        self.report.asked.append(asked)
        if wire is not None and keep:
            self._idle.append(wire)
        elif wire is not None:
            wire.close()

    async def _watch_lag(self) -> None:
        while True:
            due = time.monotonic() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            self.report.late.append(max(0.0, time.monotonic() - due))


def _asked(reply: Reply) -> Asked:
    return Asked(reply.began, reply.took, reply.status, reply.complete, reply.queue_wait)


async def calling(load: Load) -> Report:
    """Run a load in a process of its own, to its end."""
    # Its output is never paused: where it is, and the process ends meanwhile, the rest can get lost.
    pipes = {"stdin": asyncio.subprocess.PIPE, "limit": 2**28}
    async with running("benchmarks.faults.callers", **pipes) as process:
        said, _ = await process.communicate(msgspec.json.encode(load))
    return msgspec.json.decode(said, type=Report)


async def memory_of(service: Service, begins: float, seconds: float) -> list[int]:
    """Bytes that it holds, once a second from a moment on."""
    sizes = []
    for second in range(int(seconds)):
        await until(begins + second)
        sizes.append(resident(service.pid))
    return sizes


def main() -> None:
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    report = uvloop.run(Callers(load).run())
    sys.stdout.buffer.write(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
