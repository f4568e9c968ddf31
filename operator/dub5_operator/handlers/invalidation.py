"""A CacheInvalidation is done once, and then says so."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from dub5.contract import purge_names
from dub5_operator.conditions import Condition, merged
from dub5_operator.crd import CacheInvalidationSpec

Json = dict[str, Any]


def names(spec: Mapping[str, Any]) -> list[str]:
    """What is to be purged, by the names that answers are known by."""
    wanted = msgspec.convert(dict(spec), CacheInvalidationSpec, strict=False)
    return purge_names(
        tags=wanted.tags or (),
        personality=wanted.personality,
        model=wanted.model,
        class_name=wanted.class_,
        tenant=wanted.tenant,
    )


def is_done(status: Mapping[str, Any]) -> bool:
    """Whether it was done before: an operator that begins anew must not purge again."""
    return bool(status.get("done"))


def done(body: Json, purged: list[str], *, now: datetime | None = None) -> None:
    """Write it into the object's status."""
    stamp = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = body.setdefault("status", {})
    status["done"], status["purged"] = stamp, purged
    told = f"Forgotten on every replica within a second: {', '.join(purged)}."
    status["conditions"] = merged(
        status.get("conditions", []),
        [Condition("Done", "True", "Purged", told)],
        now=stamp,
        generation=int(body.get("metadata", {}).get("generation", 0)),
    )


def waiting(body: Json, why: str, *, now: datetime | None = None) -> None:
    """It could not be done yet."""
    stamp = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = body.setdefault("status", {})
    status["conditions"] = merged(
        status.get("conditions", []),
        [
            Condition(
                "Done", "False", "RedisUnavailable", f"Redis does not answer ({why}); it will be tried again."
            )
        ],
        now=stamp,
        generation=int(body.get("metadata", {}).get("generation", 0)),
    )
