"""The pictures of the dashboards: drawn from their JSON and what Prometheus answers, and those that are committed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from matplotlib import rc_context

from testkit.dashboards import Series
from tools.dashboards.build import FOLDER
from tools.dashboards.pictures import draw

ROOT = Path(__file__).parents[3]
DASHBOARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / FOLDER).glob("*.json"))
}
BEGAN = 1_700_000_000.0


def texts(svg: str) -> set[str]:
    return {each.text or "" for each in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_drawn_whole(name: str) -> None:
    """Each panel with its title, and with the line that it is given."""
    dashboard = DASHBOARDS[name]
    labels = dict.fromkeys(
        ("pod", "route", "provider", "model", "class", "policy", "outcome", "reason"), "one"
    )
    answer = [Series(labels, [(BEGAN + second, float(second % 2)) for second in range(30)])]
    queries = {target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])}
    said = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        draw(dashboard, dict.fromkeys(queries, answer), BEGAN).savefig(said, format="svg")
    found = texts(said.getvalue())
    assert {panel["title"] for panel in dashboard["panels"]} <= found
    assert "No data" not in found
    assert not any("{{" in text for text in found)


def test_without_data_it_says_so() -> None:
    said = io.StringIO()
    empty: dict[str, list[Series]] = {
        target["expr"]: []
        for panel in DASHBOARDS["overview"]["panels"]
        for target in panel.get("targets", [])
    }
    with rc_context({"svg.fonttype": "none"}):
        draw(DASHBOARDS["overview"], empty, BEGAN).savefig(said, format="svg")
    assert "No data" in texts(said.getvalue())


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_picture_is_of_this_dashboard(name: str) -> None:
    """Where a panel was added or renamed: `python -m tools.dashboards.pictures`."""
    path = ROOT / f"docs/images/dashboard-{name}.svg"
    said = texts(path.read_text(encoding="utf-8"))
    assert {panel["title"] for panel in DASHBOARDS[name]["panels"]} <= said
