"""`dub5 policy plan`: what an operator would decide, without one. It publishes and stores nothing.

It says that samples are read, so that replicas take some, learns from them for a while as an operator that begins
would, from what one before it has stored where there was one, and decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from dub5_operator.crd import CachePolicySpec
from dub5_operator.explain.reading import Explained, announced, announcement_of, read, shown
from dub5_operator.explain.refused import Refused
from dub5_operator.redis import Samples

POLL = 5.0
"""Seconds between two readings of the stream: replicas write as often at most."""


class Recorded(msgspec.Struct, frozen=True):
    """How far recording has come: seconds, and look-ups that are known."""

    passed: float
    look_ups: int


async def plan(
    redis: Any,
    spec: CachePolicySpec,
    only: str | None,
    *,
    record: float,
    report_progress: Callable[[Recorded], None],
) -> list[Explained]:
    """What an operator that began now would decide after `record` seconds, of each class that is used or `only` of one.
    Refused where there was nothing to see. `spec` is of all of them, whatever class it names."""
    samples = Samples(redis, time.time, of=None if only is None else {only})
    clock = asyncio.get_running_loop().time
    began = clock()
    await read(samples)
    before = announcement_of(samples)
    if only is not None:
        announced(before, only)
    trouble: Refused | None = None
    while (passed := clock() - began) < record:
        report_progress(Recorded(passed, _look_ups(samples)))
        await asyncio.sleep(min(POLL, record - passed))
        # Redis keeps minutes of samples: that it is away for some of them costs nothing.
        try:
            await read(samples)
            trouble = None
        except Refused as error:
            trouble = error
    report_progress(Recorded(record, _look_ups(samples)))
    classes = {**before.classes, **(samples.announcement or before).classes}
    found = [
        shown(
            samples,
            msgspec.structs.replace(spec, cache_class=name),
            classes[name],
            samples.learnings[name].ttl,
        )
        for name in samples.learnings
        if name in classes  # else it came and went: a rollout that was taken back
    ]
    used = [each for each in found if each is not None]
    if not used:
        if trouble is not None:
            raise trouble
        what = "No look-ups" if only is None else f"No look-ups of the class {only}"
        raise Refused(
            f"{what} came in {record:g} s. Replicas see within 5 s that samples are read, and write what they saw each "
            "5 to 60 s: record for longer, while there are requests, and with cache.sample_bytes above 0."
        )
    return used


def _look_ups(samples: Samples) -> int:
    curves = (samples.learnings[name].learning.curve(samples.now()) for name in samples.learnings)
    return sum(int(curve.seen) for curve in curves if curve is not None)
