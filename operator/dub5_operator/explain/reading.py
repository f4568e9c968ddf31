"""What is known of a class, as Redis has it, and what the planner makes of that."""

from __future__ import annotations

import asyncio

import msgspec

from dub5.contract import AnnouncedClass, Announcement
from dub5_operator.crd import CachePolicySpec, Json
from dub5_operator.explain.refused import Refused
from dub5_operator.handlers.policy import limits_of, share, status_of, unknown_class
from dub5_operator.planner.explanation import Explanation, explain
from dub5_operator.redis import REDIS_ERRORS, Samples, trouble

TIMEOUT = 60.0
"""Seconds for one reading, with what is learnt from it."""


class Explained(msgspec.Struct, frozen=True):
    """Of one class. `now` has figures in the form of a CachePolicy's status, `status` those that the policy has, as the
    operator reported them; without a policy they are the same. `policy`: its namespace and name."""

    cache_class: str
    budget: float
    status: Json
    now: Json
    explanation: Explanation
    policy: str | None = None
    mode: str = "Auto"


async def read(samples: Samples) -> None:
    """Also what has come within the last second. Refused where that cannot be."""
    try:
        async with asyncio.timeout(TIMEOUT):
            await samples.measure()
            await samples.refresh((), every=0.0)
    except REDIS_ERRORS as error:
        raise Refused(f"Redis does not answer: {trouble(error)}.") from None


def announcement_of(samples: Samples) -> Announcement:
    """Refused where there is none."""
    if samples.announcement is None:
        raise Refused("No replica has said which cache classes there are: is this the Redis of a service?")
    return samples.announcement


def announced(announcement: Announcement, name: str) -> AnnouncedClass:
    """Refused where no replica knows the class."""
    configured = announcement.classes.get(name)
    if configured is None:
        raise Refused(unknown_class(name, announcement).conditions[0].message)
    return configured


def shown(
    samples: Samples, spec: CachePolicySpec, configured: AnnouncedClass, current: float
) -> Explained | None:
    """None where there were no look-ups."""
    held = samples.learnings[spec.cache_class]
    explanation = explain(held.learning, limits_of(spec, configured), current, samples.now())
    if explanation is None:
        return None
    now = status_of(explanation.decision, held.learning, held.stale.measured())
    return Explained(spec.cache_class, share(spec.staleness.budget), now, now, explanation)
