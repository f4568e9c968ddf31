"""A policy as options of the command line say it: with the defaults and by the rules of a CachePolicy."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dub5_operator.crd import CachePolicySpec, Json, seconds
from dub5_operator.explain.refused import Refused

LONGEST_RECORD = 7 * 86400.0
"""Seconds."""

_FIELDS = {
    "staleness": ("staleness", "budget", "a share of hits such as 1% or 0.5%"),
    "per-question": ("staleness", "perQuestion", "a number from 1 to 100, how many times the budget"),
    "min-ttl": ("ttl", "min", "a duration such as 5s or 1h30m"),
    "max-ttl": ("ttl", "max", "a duration such as 5s or 1h30m"),
    "memory": ("memory", "max", "a size such as 256Mi"),
    "memory-price": ("prices", "memoryGiBHour", "dollars such as 0.02"),
}
"""Of each option where it is in a policy, and what it is."""


def policy(options: Mapping[str, str | None]) -> CachePolicySpec:
    """`options` by their names, without dashes; None: not given. Refused names the one that cannot be."""
    # To a pattern the end of a line is an end.
    given = {name: written.strip() for name, written in options.items() if written is not None}
    spec: Json = {"cacheClass": "any"}
    for name, written in given.items():
        section, field, what = _FIELDS[name]
        spec.setdefault(section, {})[field] = written
        try:
            msgspec.convert(spec, CachePolicySpec, strict=False)
        except msgspec.ValidationError:
            raise Refused(f"--{name} {written}: not {what}.") from None
    found = msgspec.convert(spec, CachePolicySpec, strict=False)
    shortest, longest = seconds(found.ttl.min), seconds(found.ttl.max)
    if not 1 <= shortest <= longest <= 9600 * 3600:
        raise Refused(
            f"--min-ttl {found.ttl.min} and --max-ttl {found.ttl.max}: the first must be at least 1s and not above the "
            "second, the second at most 9600h."
        )
    return found


def duration(written: str) -> float:
    """How long to record, in seconds."""
    try:
        found = seconds(written)
    except ValueError as error:
        raise Refused(f"--record: {error}.") from None
    if not 1 <= found <= LONGEST_RECORD:
        raise Refused(f"--record {written}: between 1s and 168h, please.")
    return found
