"""The dashboards as the chart hands them to Grafana's sidecar."""

from __future__ import annotations

import json

from testkit.chart import CHART, merged
from tests.unit.chart.support import Json, nested, refusal, render

ENABLED = nested("monitoring.dashboards.enabled", True)
FILES = {path.name: path.read_text(encoding="utf-8") for path in (CHART / "dashboards").glob("*.json")}


def made(values: Json | None = None) -> Json:
    return render(merged(ENABLED, values or {})).one("ConfigMap", "dub5-dashboards")


def test_they_are_off_by_default() -> None:
    assert "dub5-dashboards" not in render().of("ConfigMap")


def test_they_are_the_files() -> None:
    assert len(FILES) == 6
    found = {name: json.loads(text) for name, text in made()["data"].items()}
    assert found == {f"dub5-{name}": json.loads(text) for name, text in FILES.items()}


def test_kubectl_can_apply_them() -> None:
    assert (
        len(json.dumps(made())) < 262_144
    )  # what an annotation may hold, in which kubectl keeps the whole object


def test_the_sidecar_finds_them() -> None:
    assert made()["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert "annotations" not in made()["metadata"]
    reported = made(
        nested("monitoring.dashboards", {"labels": {"a": "b"}, "annotations": {"grafana_folder": "DUB5"}})
    )
    assert reported["metadata"]["labels"]["a"] == "b"
    assert reported["metadata"]["annotations"] == {"grafana_folder": "DUB5"}


def documents(dashboard: str) -> str:
    """Where its links lead."""
    [found] = [
        each["query"] for each in json.loads(dashboard)["templating"]["list"] if each["name"] == "documents"
    ]
    return str(found)


def test_links_lead_to_where_the_documents_are() -> None:
    placed = made(nested("monitoring.dashboards.documents", "https://git.example/dub5/docs/"))
    for name, text in placed["data"].items():
        assert documents(text) == "https://git.example/dub5/docs"
        assert documents(FILES[name.removeprefix("dub5-")]) not in text


def test_an_address_that_is_none_is_refused() -> None:
    assert "documents" in refusal(merged(ENABLED, nested("monitoring.dashboards.documents", "docs")))
