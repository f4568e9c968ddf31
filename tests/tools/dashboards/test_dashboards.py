"""The committed dashboards are what Grafana takes, and each panel says what it shows, in what unit, and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from grafana_foundation_sdk.models.prometheus import Dataquery

from dub5.telemetry.metrics import Metrics, RequestSeries
from tools import metrics
from tools.dashboards import build

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((Path(__file__).parent / "schema.json").read_text(encoding="utf-8"))

Json = dict[str, Any]
DASHBOARDS: dict[str, Json] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / build.FOLDER).glob("*.json"))
}
PANELS: dict[str, Json] = {
    f"{name}: {panel['title']}": panel
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    if panel["type"] != "row"
}
KNOWN = {
    each.name: {*each.labels, "le", "namespace", "job", "pod"}
    for each in (*metrics.backend(), *metrics.operator(), *metrics.process())
}

every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
every_panel = pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)


def test_there_are_six() -> None:
    assert set(DASHBOARDS) == {"autoscaling", "cache", "loadtest", "overview", "providers", "resources"}
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)
    assert len(PANELS) == sum(len(table.panels()) for table in build.DASHBOARDS)  # no title is there twice


def complaints(dashboard: Json) -> list[str]:
    found = jsonschema.Draft7Validator(SCHEMA).iter_errors(dashboard)
    return [f"{each.json_path}: {each.message[:200]}" for each in found]


@every_dashboard
def test_grafanas_schema_takes_it(dashboard: Json) -> None:
    assert complaints(dashboard) == []


@pytest.mark.parametrize(
    "change",
    [
        {"refresh": 30},
        {"timezones": "browser"},
        {"schemaVersion": None},
        {"panels": [{"type": "graph"}]},
        {"panels": [{**next(iter(PANELS.values())), "unit": "s"}]},
        {"panels": [{**next(iter(PANELS.values())), "options": {"legend": {"displayMode": "long"}}}]},
    ],
)
def test_the_schema_can_complain(change: Json) -> None:
    assert complaints(DASHBOARDS["overview"] | change) != []


@every_panel
def test_a_panel_says_what_it_shows_in_what_unit_and_what_to_do(panel: Json) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert re.fullmatch(r"[^ ].{10,}\.", panel["description"])
    [link] = panel["links"]
    base, _, path = link["url"].partition("}/")
    assert base == "${documents"
    assert (ROOT / "docs" / path).is_file()


@every_panel
def test_grafanas_own_library_knows_all_of_a_query(panel: Json) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        assert Dataquery.from_json(target).to_json() == target
        assert target["legendFormat"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@every_panel
def test_queries_name_metrics_and_labels_that_there_are(panel: Json) -> None:
    for target in panel["targets"]:
        for name, labels in selected(target["expr"]):
            assert labels <= KNOWN[name], target["expr"]
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
        shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        of_all = {label for name, _ in selected(target["expr"]) for label in KNOWN[name]}
        if of_all:
            assert grouped | shown <= of_all
        assert shown <= grouped or not grouped


def selected(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Metrics of ours in a query, and the labels that it chooses them by."""
    for name, matchers in re.findall(r"\b((?:dub5|process)_\w+){([^}]*)}", expression):
        yield re.sub("_(bucket|count|sum)$", "", name), set(re.findall(r"(\w+)=~?", matchers))


@every_panel
def test_every_metric_of_ours_is_chosen_by_namespace(panel: Json) -> None:
    for target in panel["targets"]:
        names = re.findall(r"\b(?:dub5|process)_\w+", target["expr"])
        found = list(selected(target["expr"]))
        assert len(found) == len(names)
        for name, labels in found:
            assert "namespace" in labels
            assert "job" in labels or "operator" in target["expr"], name


def test_latencies_show_the_traces_that_prometheus_keeps() -> None:
    seen = Metrics()
    RequestSeries(seen, "/", "GET", "ok").observe(1, 1, 0, 0, stream=True, trace_id="a")
    seen.observe_provider("a", "a", "ok", 1, 1, trace_id="a")
    traced = {
        family.name
        for family in seen.registry.collect()
        if any(sample.exemplar is not None for sample in family.samples)
    }
    asked, all_asked = set(), set()
    for panel in PANELS.values():
        for target in panel["targets"]:
            names = {name for name, _ in selected(target["expr"])}
            of_traces = "histogram_quantile" in target["expr"] and names <= traced and bool(names)
            assert target.get("exemplar", False) == of_traces, target["expr"]
            asked |= names if of_traces else set()
            all_asked |= names
    assert asked == traced & all_asked
    assert len(asked) > 3


@every_dashboard
def test_panels_do_not_overlap(dashboard: Json) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@every_dashboard
def test_it_asks_where_what_and_for_whom(dashboard: Json) -> None:
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "job", "documents"]
    used = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps([dashboard["panels"], dashboard["templating"]])))
    assert used == set(variables)
    assert variables["namespace"]["allValue"] == ".*"  # takes series without that label too
