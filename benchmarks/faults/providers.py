"""The first of two providers goes wrong under load; the second is healthy. What do users see?

One round per fault: RATE new questions a second, every other one streamed, however long answers take; nothing wrong
until FAULT_AT, the fault until HEAL_AT, and the first provider well again until END. `Extra` is how much longer the
first byte of a request took than the median took before the fault. "Before the breaker opened" are the requests that
began between the fault and the moment at which /metrics first says so (looked at every LOOK seconds), "after" those
from then on until the first provider is well; among these are the probes of a half-open breaker.

What failed before the first byte may not be seen by anybody. A stream that broke after it has to end with the
error event, in a body that is complete, and without [DONE].
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import Any

import msgspec

from benchmarks.figures import Figure, milliseconds, percentile, progress
from testkit.client import Client, Outcome, client, until
from testkit.redis_server import RedisServer
from testkit.service import Service, configuration, replicas, scraped
from testkit.stand_in import Provider, killed, provider

RATE, LOOK, WARM_UP = 40, 0.1, 100
"""Questions a second; seconds; requests."""
FAULT_AT, HEAL_AT, END = 6.0, 24.0, 29.0
TIMEOUTS = {"connect": "300ms", "first_token": "500ms", "between_tokens": "500ms", "total": "2s"}
"""Of the first provider. A whole answer has no first token: a provider that hangs takes all of `total`."""
BREAKER = 'dub5_provider_breaker_state{provider="first"}'


class Fault(msgspec.Struct, frozen=True):
    """`settings` of the stand-in; without any it is killed and stays away. `midway`: after the first byte."""

    name: str
    settings: dict[str, Any] | None
    midway: bool = False


FAULTS = [
    Fault("dead (port closed)", None),
    Fault("hanging", {"fault": "hang"}),
    Fault("429 without Retry-After", {"fault": "refuse", "status": 429}),
    Fault("429, Retry-After 5", {"fault": "refuse", "status": 429, "retry_after": 5}),
    Fault("500", {"fault": "refuse", "status": 500}),
    Fault("no HTTP", {"fault": "not-http"}),
    Fault("HTML with status 200", {"fault": "not-json"}),
    Fault("events that are not JSON", {"fault": "bad-events"}),
    Fault("resetting in mid-answer", {"fault": "break"}, midway=True),
    Fault("garbage in mid-answer", {"fault": "derail"}, midway=True),
]


class Round:
    """The load of one round; `began` is its zero of time."""

    def __init__(self, asking: Client, service: Service, length: float) -> None:
        self.outcomes: list[Outcome] = []
        self.opened = math.inf
        self.began = time.monotonic()
        self.fault_at, self.heal_at, self.end = (at * length for at in (FAULT_AT, HEAL_AT, END))
        self._asking = asking
        self._service = service

    async def run(self, first: Provider, fault: Fault) -> None:
        self.began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_on(group))
            looking = group.create_task(self._look_at_breaker())
            await until(self.began + self.fault_at)
            if fault.settings is None:
                killed(first)
            else:
                await first.set(**fault.settings)
            await until(self.began + self.heal_at)
            looking.cancel()
            if fault.settings is not None:
                await first.set(fault="")

    def between(self, since: float, before: float) -> list[Outcome]:
        """What began then, in seconds since `began`."""
        return [each for each in self.outcomes if since <= each.began - self.began < before]

    async def _ask_on(self, group: asyncio.TaskGroup) -> None:
        for number in range(int(self.end * RATE)):
            await until(self.began + number / RATE)
            group.create_task(self._ask(number))

    async def _ask(self, number: int) -> None:
        question = f"question {number}"
        self.outcomes.append(await self._asking.ask(self._service.url, question, stream=number % 2 == 0))

    async def _look_at_breaker(self) -> None:
        await until(self.began + self.fault_at)
        while (await scraped(self._service)).get(BREAKER, 0) == 0:  # noqa: ASYNC110  # no event
            await asyncio.sleep(LOOK)
        self.opened = time.monotonic() - self.began


async def measure(length: float = 1.0) -> list[Figure]:
    return [await _round(fault, length) for fault in FAULTS]


async def _round(fault: Fault, length: float) -> Figure:
    progress(f"first provider {fault.name}")
    async with provider() as first, provider() as second, RedisServer() as redis, client() as asking:
        for each in (first, second):
            await each.set(first_token=0.05, between=0.01, tokens=10)
        settings = configuration(
            first.base_url,
            f"redis://127.0.0.1:{redis.port}",
            providers={
                "first": {"kind": "openai", "base_url": first.base_url, "timeouts": TIMEOUTS},
                "second": {"kind": "openai", "base_url": second.base_url},
            },
            models={"small": {"routes": ["first/benchmark", "second/benchmark"]}},
        )
        async with replicas(1, settings) as [service]:
            await asyncio.gather(*(asking.ask(service.url, f"warm-up {n}") for n in range(WARM_UP)))
            load = Round(asking, service, length)
            await load.run(first, fault)
            asked = await first.calls() if fault.settings is not None else None
            return _figure(fault, load, asked)


def _figure(fault: Fault, load: Round, asked: int | None) -> Figure:
    everything = load.outcomes
    seen = Counter(_seen(outcome) for outcome in everything)
    broken = [outcome for outcome in everything if outcome.told and outcome.text]
    surprised = [outcome for outcome in broken if outcome.began - load.began > load.fault_at]
    failed = len(everything) - len(broken) - sum(outcome.error is None for outcome in everything)
    usual = Usual(load.between(0, load.fault_at))
    opened = min(load.opened, load.heal_at)
    before, after = load.between(load.fault_at, opened), load.between(opened, load.heal_at)
    when = "did not open" if math.isinf(load.opened) else f"opened after {load.opened - load.fault_at:.1f} s"
    calls = "" if asked is None else f"; {asked - WARM_UP} calls of the first provider"
    measured = (
        f"{len(everything)} requests: {_counted(seen)}; breaker {when}; extra time to first byte "
        f"{usual.added(before)} before, {usual.added(after)} after, "
        f"{usual.added(load.between(load.heal_at, load.end))} once well{calls}"
    )
    bar = "0 failed; broken ones end with the error event" if fault.midway else "0 failed"
    good = failed == 0 and (fault.midway or not surprised)
    return Figure(f"first provider {fault.name}, second healthy", bar, measured, good)


class Usual:
    """The median time to the first byte while nothing is wrong; whole answers have another than streamed ones."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        self._median = {
            streamed: percentile([_first(each) for each in outcomes if each.streamed is streamed], 50)
            for streamed in (False, True)
        }

    def added(self, outcomes: list[Outcome]) -> str:
        took = [_first(outcome) - self._median[outcome.streamed] for outcome in outcomes]
        if not took:
            return "(nobody)"
        p50, p99, worst = percentile(took, 50), percentile(took, 99), max(took)
        return (
            f"p50 {milliseconds(p50)} / p99 {milliseconds(p99)} / worst {milliseconds(worst)} ({len(took)})"
        )


def _seen(outcome: Outcome) -> str:
    if outcome.error is None:
        return "whole"
    if outcome.told:
        return "broken, told by the error event" if outcome.text else "error event and nothing before it"
    return f"failed ({outcome.error[:60]})"


def _counted(seen: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in seen.most_common())


def _first(outcome: Outcome) -> float:
    """Seconds to the first text: of a whole answer all of it comes then."""
    return (outcome.first or outcome.ended) - outcome.began
