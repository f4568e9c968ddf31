"""Ten minutes at 70 % of what one replica can do: does its memory grow, does its event loop keep up?

Half of the questions are popular ones, drawn from a thousand by a Zipf law, so most of them are hits; the others are
new. Half of all are streamed, at 20 tokens in 0.4 s. What the replica can do is what CALLERS callers get who ask as
fast as they are answered, twice as many as there are places in the gate, while client, provider, Redis and replica
share the machine; the row says what it was that they ran out of. Then 70 % of that many questions a second arrive at
random moments.

Memory is the mean over the last minute against that over the first one after the warm-up. Memory for answers is so
small that it is full by then. The lag of the event loop is the replica's own histogram over the same time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from benchmarks.faults.callers import Load, calling, memory_of
from benchmarks.figures import Figure, milliseconds, percentile, progress
from testkit.client import until
from testkit.processes import cpu_seconds
from testkit.service import Service, scraped
from testkit.stage import stage

PLACES, CALLERS, SHARE, POPULAR = 200, 400, 0.7, 0.5
CALIBRATION, WARM_UP, SECONDS, MINUTE = 20.0, 120.0, 600.0, 60.0
GROWTH, LAG = 0.02, 0.05
LAG_BUCKETS = "dub5_event_loop_lag_seconds_bucket"


async def measure(length: float = 1.0) -> list[Figure]:
    limits = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    pace = {"first_token": 0.3, "spread": 0.5, "between": 0.02, "tokens": 20}
    sections = {"admission": {"max_inflight": PLACES}, "cache": {"local_bytes": "2MiB"}}
    async with stage(1, *limits, pace=pace, **sections) as on:
        [service] = on.fleet
        progress("capacity")
        capacity, limit = await _capacity(service)
        rate, warm_up, seconds = SHARE * capacity, WARM_UP * length, SECONDS * length
        progress(f"{rate:.0f} questions a second for {(warm_up + seconds) / 60:.1f} minutes")
        begins = time.monotonic() + warm_up
        load = Load(service.url, "endurance", warm_up + seconds, rate=rate, popular=POPULAR)
        report, memory, lag = await asyncio.gather(
            calling(load), memory_of(service, begins, seconds), _lag(service, begins, seconds)
        )
    inside = [each for each in report.asked if each.began >= begins]
    ends = Counter(str(each.status) for each in inside if not each.complete)
    failed = ends.total()
    few = max(1, int(MINUTE * length))
    start, end = sum(memory[:few]) / few, sum(memory[-few:]) / few
    under, p99 = lag
    what = f"{seconds / 60:.1f} min at 70 % load after warm-up"
    load_said = (
        f"{len(inside) / seconds:.0f} requests a second of {capacity:.0f} ({limit}), {failed} of {len(inside):,} "
        f"failed{_by_status(ends)}, timers of the client late by p99 {milliseconds(percentile(report.late, 99))}"
    )
    grown = f"{start / 2**20:.1f} MiB at the start, {end / 2**20:.1f} MiB at the end ({end / start - 1:+.2%})"
    flat = end < start * (1 + GROWTH) and not failed
    late = f"p99 at most {milliseconds(p99)}; {under:.2%} of the looks were late by 50 ms or less"
    return [
        Figure(f"{what}: memory", "growth < 2 %", f"{grown}; {load_said}", flat),
        Figure(f"{what}: event loop", "lag p99 < 50 ms", late, under >= 0.99),
    ]


def _by_status(ends: Counter[str]) -> str:
    return f" ({', '.join(f'{count} with {status}' for status, count in ends.items())})" if ends else ""


async def _capacity(service: Service) -> tuple[float, str]:
    """Answers per second, and what ran out; the first quarter of the time is not counted."""
    began = time.monotonic() + CALIBRATION / 4
    calling_all = asyncio.create_task(
        calling(Load(service.url, "capacity", CALIBRATION, CALLERS, pause=0.1, popular=POPULAR))
    )
    await until(began)
    used, taken = cpu_seconds(service.pid), []
    while not calling_all.done():
        taken.append((await scraped(service))["dub5_inflight_requests"])
        await asyncio.sleep(0.5)
    report = await calling_all
    seconds = time.monotonic() - began
    busy = (cpu_seconds(service.pid) - used) / seconds
    places = percentile(taken, 50)
    whole = [each.ended for each in report.asked if each.complete and each.ended >= began]
    ran_out = "places" if places >= 0.95 * PLACES else "processor"
    return (len(whole) - 1) / (max(whole) - min(whole)), (
        f"what ran out was the {ran_out}: {places:.0f} of {PLACES} places taken, {busy:.0%} of a core"
    )


async def _lag(service: Service, begins: float, seconds: float) -> tuple[float, float]:
    """The share of looks that were at most LAG late, and the edge of the bucket in which the p99 is."""
    await until(begins)
    before = await scraped(service)
    await until(begins + seconds - 1)
    after = await scraped(service)
    counts = {
        float(name.split('"')[1]): after[name] - before[name]
        for name in after
        if name.startswith(LAG_BUCKETS)
    }
    looks = counts[float("inf")]
    return counts[LAG] / looks, min(edge for edge, count in counts.items() if count >= 0.99 * looks)
