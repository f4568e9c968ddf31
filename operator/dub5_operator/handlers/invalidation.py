"""A CacheInvalidation is done once, and then says so."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from dub5.contract import purge_names
from dub5_operator.crd import CacheInvalidationSpec, Json
from dub5_operator.handlers.policy import Condition, write_conditions


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


def is_over(spec: Mapping[str, Any], status: Mapping[str, Any], now: float) -> bool:
    """Whether the object has been kept for as long as was wanted after it was done; `now` since the epoch."""
    try:
        since = datetime.fromisoformat(str(status.get("done")))
    except ValueError:
        return False
    # Of the rest a release before this one may have taken what is refused now.
    kept = {name: value for name, value in spec.items() if name == "ttlSecondsAfterFinished"}
    wanted = msgspec.convert(kept, CacheInvalidationSpec, strict=False)
    return now >= since.timestamp() + wanted.ttl_seconds_after_finished


def done(body: Json, purged: list[str], *, now: datetime | None = None) -> None:
    """Write it into the object's status."""
    message = f"Forgotten on every replica within a second: {', '.join(purged)}."
    stamp = write_conditions(body, [Condition("Done", "True", "Purged", message)], now=now)
    body["status"].update(done=stamp, purged=purged)


def waiting(body: Json, reason: str, *, now: datetime | None = None) -> None:
    """It could not be done yet."""
    message = f"Redis does not answer ({reason}); it will be tried again."
    write_conditions(body, [Condition("Done", "False", "RedisUnavailable", message)], now=now)


def refused(body: Json, reason: str, *, now: datetime | None = None) -> None:
    """It never can be done."""
    write_conditions(body, [Condition("Done", "False", "InvalidSpec", f"{reason}.")], now=now)
