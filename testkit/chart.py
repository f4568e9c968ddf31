"""The chart: where it is, and values laid over values as Helm does it."""

from __future__ import annotations

from typing import Any

from testkit.places import ROOT

CHART = ROOT / "deploy/helm/dub5"


def merged(*values: dict[str, Any]) -> dict[str, Any]:
    """Later ones win: maps are joined, key by key, and everything else is replaced."""
    result: dict[str, Any] = {}
    for each in values:
        for key, value in each.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result
