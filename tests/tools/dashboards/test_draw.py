"""The pictures in the documents are drawn from the dashboards as they are, and show what was answered."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tools.dashboards.build import FOLDER
from tools.dashboards.draw import Span, draw, shown

ROOT = Path(__file__).parents[3]
DASHBOARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / FOLDER).glob("*.json"))
}
SPAN = Span(1000.0, 1100.0)
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ET.fromstring(svg).iter(f"{SVG}text")]


def drawn(panel: dict[str, Any], *series: tuple[dict[str, str], list[tuple[float, float]]]) -> str:
    at = {"x": 0, "y": 0, "w": 8, "h": 8}
    target = {"expr": "q", "legendFormat": "{{pod}}"}
    whole = {"title": "T", "description": "D", "panels": [{"gridPos": at, "targets": [target], **panel}]}
    return draw(whole, {"q": series}, SPAN)


def of(kind: str, **style: Any) -> dict[str, Any]:
    return {"type": kind, "title": "A & b", "fieldConfig": {"defaults": style}}


def limited(value: float, below: str = "green", above: str = "red") -> dict[str, Any]:
    return {"steps": [{"value": None, "color": below}, {"value": value, "color": above}]}


def test_lines_are_where_their_values_are() -> None:
    svg = drawn(
        of("timeseries", unit="s", thresholds=limited(0.5)),
        ({"pod": "a"}, [(1000.0, 0.0), (1001.0, 1.0), (1050.0, math.nan), (1100.0, 1.0)]),
        ({"pod": "b"}, [(1000.0, 0.5)]),
    )
    paths = [each.get("d") or "" for each in ET.fromstring(svg).iter(f"{SVG}path") if each.get("stroke")]
    first, second, _ = paths
    assert {"A & b", "a", "b", "0:00", "500 ms", "1 s"} <= set(texts(svg))
    assert first.count("M") == 2
    assert second.count("M") == 1
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(int, point)) for point in re.findall(r"(\d+),(\d+)", first))
    assert x0 < x1 < x2
    assert y0 > y1 == y2
    assert "stroke-dasharray" in svg


def test_a_number_has_the_colour_that_its_limit_says() -> None:
    style = {"unit": "percentunit", "thresholds": limited(0.995, "red", "green")}
    good = drawn(of("stat", **style), ({}, [(1000.0, 0.5), (1100.0, 0.999)]))
    bad = drawn(of("stat", **style), ({}, [(1000.0, 0.999), (1100.0, 0.5)]))
    assert "99.9 %" in texts(good)
    assert "50 %" in texts(bad)
    colours = [re.findall("fill:(#[0-9a-f]+)", svg) for svg in (good, bad)]
    assert colours[0] != colours[1]


def test_states_have_their_words() -> None:
    words = {"0": {"text": "closed", "color": "green"}, "2": {"text": "open", "color": "red"}}
    points = [(1000.0 + second, 0.0 if second < 50 else 2.0) for second in range(101)]
    svg = drawn(
        of("state-timeline", unit="short", mappings=[{"options": words}]), ({"pod": "openai"}, points)
    )
    assert {"openai", "closed", "open"} <= set(texts(svg))


def test_nothing_is_drawn_where_nothing_was_answered() -> None:
    assert "A & b" in texts(drawn(of("timeseries", unit="reqps")))
    assert "No data" in texts(drawn(of("stat", unit="percentunit")))
    assert "No data" in texts(drawn(of("stat", unit="percentunit"), ({}, [(1000.0, math.nan)])))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0"),
        (0.0005, "s", "500 µs"),
        (0.25, "s", "250 ms"),
        (90, "s", "1.5 min"),
        (7200, "s", "2 h"),
        (0.123, "percentunit", "12.3 %"),
        (96 * 2**20, "bytes", "96 MiB"),
        (12_000, "Bps", "12 kB/s"),
        (1.5, "currencyUSD", "$1.5"),
        (2000, "short", "2 K"),
        (12, "reqps", "12 req/s"),
        (0.5, "suffix:cores", "0.5 cores"),
    ],
)
def test_figures_have_their_unit(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_picture_is_of_this_dashboard(name: str) -> None:
    """Where a panel was added or renamed: `python -m tools.dashboards.pictures`."""
    path = ROOT / f"docs/images/dashboard-{name}.svg"
    said = set(texts(path.read_text(encoding="utf-8")))
    assert {panel["title"] for panel in DASHBOARDS[name]["panels"]} <= said
    assert path.stat().st_size < 150_000
