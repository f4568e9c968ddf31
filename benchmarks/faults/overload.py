"""Ten times the load that one replica can carry, for a minute: does it go on doing what it can?

The gate has PLACES places and the provider takes 0.3 to 0.7 seconds, so capacity is some 100 answers a second.
CALLERS callers make the overload, each with a question of its own: ten for each place. After a refusal one waits
PAUSE, give or take half of it, rather than the second or more of `Retry-After`: of the 500 callers 50 are in the
gate and QUEUED wait for it, so 350 are refused every PAUSE, and with those that are admitted some 1,000 requests a
second arrive, ten times the capacity also by that count.

Capacity is what PLACES callers alone get, before and after the overload, the larger of the two. Memory for answers is
so small that it is full before anything is measured; it is not what grows.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.faults.callers import Asked, Load, calling, memory_of
from benchmarks.figures import Figure, milliseconds, percentile, progress
from testkit.client import Outcome
from testkit.service import Service
from testkit.stage import Stage, stage

PLACES, QUEUED, CALLERS, PAUSE = 50, 100, 500, 0.39
CALIBRATION, WARM_UP, OVERLOAD, AFTERWARDS = 20.0, 40.0, 60.0, 10.0
"""Seconds. Refusals are remembered for half a minute, for the demand metric: the warm-up is longer than that."""
GOODPUT, SHED_P99, GROWTH, RECOVERY = 0.95, 0.050, 0.02, 5.0
"""The bars: a share of capacity, seconds, a share of the memory at the start, seconds."""
SINGLES = 40


async def measure(length: float = 1.0) -> list[Figure]:
    pace = {"first_token": 0.4, "spread": 0.5, "between": 0.025, "tokens": 5}
    admission = {"max_inflight": PLACES, "max_queued": QUEUED}
    async with stage(1, pace=pace, admission=admission, cache={"local_bytes": "1MiB"}) as on:
        progress("capacity, and what single requests take")
        [service] = on.fleet
        before = await _capacity(service, "before", CALIBRATION * length)
        unloaded = [await _single(on, number) for number in range(SINGLES)]
        progress("overload")
        seconds = OVERLOAD * length
        begins = time.monotonic() + 1 + WARM_UP * length
        whole = begins + seconds - time.monotonic()
        memory, report = await asyncio.gather(
            memory_of(service, begins, seconds + 1),
            calling(Load(service.url, "overload", whole, CALLERS, pause=PAUSE)),
        )
        over = time.monotonic()
        afterwards = await _afterwards(on, AFTERWARDS)
        progress("capacity again")
        after = await _capacity(service, "after", CALIBRATION * length)
    inside = [each for each in report.asked if begins <= each.ended < begins + seconds]
    return [
        _goodput(inside, seconds, before, after),
        _shed(inside, report.late),
        _flat(memory),
        _recovery(unloaded, afterwards, over),
    ]


async def _capacity(service: Service, name: str, seconds: float) -> float:
    """Answers per second that as many callers get as there are places; the first fifth is not counted."""
    report = await calling(Load(service.url, name, seconds, PLACES))
    begun = min(each.began for each in report.asked) + seconds / 5
    whole = [each.ended for each in report.asked if each.complete and each.ended >= begun]
    return (len(whole) - 1) / (max(whole) - min(whole))


async def _single(on: Stage, number: int) -> Outcome:
    return await on.asking.ask(on.urls[0], f"single {number} {time.monotonic()}")


async def _afterwards(on: Stage, seconds: float) -> list[Outcome]:
    """Single requests ten times a second, each on its own."""
    end = time.monotonic() + seconds
    tasks: list[asyncio.Task[Outcome]] = []
    while time.monotonic() < end:
        tasks.append(asyncio.create_task(_single(on, len(tasks))))
        await asyncio.sleep(0.1)
    return await asyncio.gather(*tasks)


def _goodput(inside: list[Asked], seconds: float, before: float, after: float) -> Figure:
    capacity = max(before, after)
    good = sum(each.complete for each in inside) / seconds
    broken = sum(
        each.status not in {200, 503} or (each.status == 200 and not each.complete) for each in inside
    )
    measured = (
        f"{good / capacity:.1%}: {good:.1f} answers a second of {capacity:.1f} ({before:.1f} before, {after:.1f} "
        f"after); {len(inside) / seconds:,.0f} requests a second arrived, {len(inside) / seconds / capacity:.1f} times "
        f"the capacity; {broken} ended otherwise than with an answer or 503"
    )
    name = f"{CALLERS} callers on {PLACES} places for {seconds:.0f} s: goodput"
    return Figure(name, ">= 95 % of capacity", measured, good >= GOODPUT * capacity and broken == 0)


def _shed(inside: list[Asked], late: list[float]) -> Figure:
    took = [each.took for each in inside if each.status == 503]
    answered = [each.took for each in inside if each.complete]
    measured = (
        f"p50 {milliseconds(percentile(took, 50))}, p99 {milliseconds(percentile(took, 99))}, worst "
        f"{milliseconds(max(took))} of {len(took):,} at the client, whose own timers were late by p50 "
        f"{milliseconds(percentile(late, 50))}, p99 {milliseconds(percentile(late, 99))}; whole answers took p50 "
        f"{milliseconds(percentile(answered, 50))}, p99 {milliseconds(percentile(answered, 99))}"
    )
    return Figure("the same: time of a refusal", "p99 < 50 ms", measured, percentile(took, 99) < SHED_P99)


def _flat(memory: list[int]) -> Figure:
    """Means of five seconds, since single samples jump with garbage collections."""
    few = min(5, len(memory))
    start, end = sum(memory[:few]) / few, sum(memory[-few:]) / few
    measured = (
        f"{start / 2**20:.1f} MiB at the start, {end / 2**20:.1f} MiB at the end ({end / start - 1:+.1%})"
    )
    return Figure("the same: memory of the replica", "growth < 2 %", measured, end < start * (1 + GROWTH))


def _recovery(unloaded: list[Outcome], afterwards: list[Outcome], over: float) -> Figure:
    """Back to normal is the moment after the last request that failed or took a tenth longer than any without load.

    A tenth, since the provider's times are drawn anew each time: forty of them do not show the longest.
    """
    normal = 1.1 * max(outcome.took for outcome in unloaded)
    slow = [outcome for outcome in afterwards if outcome.error or outcome.took > normal]
    back = max((outcome.ended - over for outcome in slow), default=0.0)
    late = [outcome.took for outcome in afterwards if outcome.began - over >= RECOVERY]
    measured = (
        f"last slow or failed request (over {milliseconds(normal)}) {back:.1f} s after the load; {len(slow)} such of "
        f"{len(afterwards)}; p50 {milliseconds(percentile(late, 50))} from {RECOVERY:.0f} s on, without load "
        f"{milliseconds(percentile([outcome.took for outcome in unloaded], 50))}"
    )
    return Figure("the same: back to normal", "within 5 s", measured, back <= RECOVERY)
