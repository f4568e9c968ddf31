"""Conditions of a status: a list in which each type is once, and whose times tell when a status last changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Status = Literal["True", "False", "Unknown"]


class Condition(msgspec.Struct, frozen=True):
    """What is true of an object, why, and what to do about it."""

    type: str
    status: Status
    reason: str
    message: str


def merged(
    present: list[Mapping[str, Any]], wanted: list[Condition], *, now: str, generation: int
) -> list[dict[str, Any]]:
    """The conditions to write; `now` as RFC 3339. Types that are not wanted any more go."""
    before = {str(each.get("type")): each for each in present}
    return [
        {
            "type": each.type,
            "status": each.status,
            "reason": each.reason,
            "message": each.message,
            "lastTransitionTime": _since(before.get(each.type), each, now),
            "observedGeneration": generation,
        }
        for each in wanted
    ]


def _since(before: Mapping[str, Any] | None, wanted: Condition, now: str) -> str:
    if before is not None and before.get("status") == wanted.status:
        return str(before.get("lastTransitionTime") or now)
    return now
