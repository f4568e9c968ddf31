"""Every panel's query has data: asked of a real Prometheus, over a real run that has each fault that a panel shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster

from testkit.dashboards import Recorded, played
from testkit.programs import which
from tools.dashboards.build import FOLDER

ROOT = Path(__file__).parents[3]
DASHBOARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / FOLDER).glob("*.json"))
}
MISSING = [name for name in ("prometheus", "k6") if which(name) is None]
ALL_IS_WELL = {
    "Restarts, by replica",
    "Log lines lost",
    "Background failures, by task",
    "Memory for arriving requests, by replica",
    "How fast late streams burn the budget",
    "Waiting for a place, and places",
    "Input that the provider had cached",
    "Where the time goes: p95",
}
"""Panels that may show nothing but zeros after such a run."""

WHERE_THERE_IS_ONE = {"limit"}
"""Legends of what may have no data after such a run: a limit of memory is a container's."""


async def lacking(recorded: Recorded, name: str, panels: Iterable[dict[str, Any]]) -> list[str]:
    """What has no data, or a legend that it cannot fill in."""
    found = []
    for panel in panels:
        for target in panel.get("targets", []):
            query = recorded.query(target["expr"])
            assert "$" not in query
            said = f"{name} / {panel['title']}: {query}"
            series = await recorded.ask(target["expr"])
            values = {value for each in series for _, value in each.points}
            legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            if not values and target["legendFormat"] in WHERE_THERE_IS_ONE:
                continue
            if not values:
                found.append(f"no data: {said}")
            elif values == {0.0} and panel["title"] not in ALL_IS_WELL:
                found.append(f"only zeros: {said}")
            elif any(not each.labels.get(label) for each in series for label in legend):
                found.append(f"no label for {target['legendFormat']}: {said}")
    return found


@pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}")
@pytest.mark.timeout(600)
async def test_every_panel_has_data(no_blocking_calls: BlockBuster) -> None:
    no_blocking_calls.deactivate()  # only callers run in this loop: the replicas are processes of their own
    async with played(0) as recorded:
        for name, dashboard in DASHBOARDS.items():
            assert await lacking(recorded, name, dashboard["panels"]) == []
        for expression, legend, said in (
            ("dub5_demand_request", "a", "no data"),
            ("0 * dub5_demand_requests", "a", "only zeros"),
            ("dub5_demand_requests", "{{provider}}", "no label"),
        ):
            wrong = {"title": "wrong", "targets": [{"expr": expression, "legendFormat": legend}]}
            [complaint] = await lacking(recorded, "none", [wrong])
            assert complaint.startswith(said)
