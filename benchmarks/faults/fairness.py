"""A noisy tenant asks fifty times as much as a quiet one on the same replica. How long does the quiet one wait?

"Alone" has to be a load under which the quiet one waits for itself, or every wait is infinitely longer. Two tenants
that take turns have half of the places each; so alone means: the same load, on a replica of its own with half the
places, PLACES / 2, of which it needs LOAD. Both replicas are asked at the same moments, side by side. A gate that is
fair to each call would give a ratio of about 1, and a queue that takes everybody in turn would make the quiet one wait
as long as the noisy one does.

Waits are those of `Server-Timing: queue`. Who is refused has waited in vain: not one of the quiet tenant's may be.
The quiet one's wait alone on a replica with all the places is told besides, without a bar.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile

from benchmarks.faults.callers import Asked, Load, calling
from benchmarks.figures import Figure, milliseconds, percentile, progress
from testkit.redis_server import RedisServer
from testkit.service import configuration, replicas
from testkit.stand_in import provider

PLACES, SERVICE, LOAD, NOISE, SECONDS = 8, 0.5, 0.8, 50, 120.0
QUIET = LOAD * (PLACES / 2) / SERVICE
"""Questions a second."""
BEGINNING = 10.0
"""Seconds that are not counted: queues fill."""
BAR = 2.0


async def measure(length: float = 1.0) -> list[Figure]:
    progress("a noisy and a quiet tenant")
    seconds = BEGINNING + SECONDS * length
    async with provider() as asked, RedisServer() as redis:
        await asked.set(first_token=SERVICE, spread=0.5, between=0.0, tokens=1)
        with tempfile.NamedTemporaryFile("w") as file:
            names = {
                hashlib.sha256(name.encode()).hexdigest(): {"tenant": name} for name in ("quiet", "noisy")
            }
            json.dump(names, file)
            file.flush()

            def places(count: int) -> dict[str, object]:
                auth = {"keys": {"file": file.name}}
                settings = configuration(asked.base_url, redis.url, auth=auth)
                return settings | {"admission": {"max_inflight": count}}

            async with (
                replicas(1, places(PLACES)) as [shared],
                replicas(1, places(PLACES // 2)) as [half],
                replicas(1, places(PLACES)) as [whole],
            ):
                noisy, beside, alone, undisturbed = await asyncio.gather(
                    _waits("noisy", NOISE * QUIET, seconds, shared.url, "noisy"),
                    _waits("quiet", QUIET, seconds, shared.url, "beside"),
                    _waits("quiet", QUIET, seconds, half.url, "alone"),
                    _waits("quiet", QUIET, seconds, whole.url, "undisturbed"),
                )
    ratio = beside.p95 / alone.p95
    measured = (
        f"{ratio:.2f}: p95 {milliseconds(beside.p95)} beside the noisy one, {milliseconds(alone.p95)} alone with half "
        f"the places; {beside.refused} of {beside.all} refused (alone {alone.refused}). The noisy one waits p95 "
        f"{milliseconds(noisy.p95)} and is refused {noisy.refused} of {noisy.all}; alone with all the places the "
        f"quiet one waits p95 {milliseconds(undisturbed.p95)}"
    )
    good = ratio <= BAR and beside.refused == 0
    name = f"noisy tenant at {NOISE}x beside a quiet one ({QUIET:.1f} questions a second, {PLACES} places)"
    return [Figure(name, "quiet one's p95 wait <= 2x its wait alone, none refused", measured, good)]


class Waits:
    """Of one tenant on one replica; those that began after the beginning."""

    def __init__(self, asked: list[Asked]) -> None:
        began = min(each.began for each in asked) + BEGINNING
        counted = [each for each in asked if each.began >= began]
        self.all = len(counted)
        self.refused = sum(not each.complete for each in counted)
        self.p95 = percentile([each.wait for each in counted if each.wait is not None], 95)


async def _waits(tenant: str, rate: float, seconds: float, url: str, name: str) -> Waits:
    load = Load(
        url,
        name,
        seconds,
        rate=rate,
        streamed=0.0,
        headers={"authorization": f"Bearer {tenant}"},
        seed=int(rate),
    )
    return Waits((await calling(load)).asked)
