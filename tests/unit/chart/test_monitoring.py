"""Who scrapes what, and the alerts as the chart installs them: those of alerts/dub5.yaml, for this release only."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from testkit.chart import CHART, merged
from testkit.programs import which
from tests.unit.chart.support import ApiSchemas, Json, nested, refusal, render

PROMTOOL = which("promtool")
WRITTEN: Json = yaml.safe_load((CHART / "alerts/dub5.yaml").read_text(encoding="utf-8"))
RULES = nested("monitoring.alerts.prometheusRule", True)
FILE = nested("monitoring.alerts.configMap", True)
BASE = "https://git.example/dub5/docs/runbooks"
OPERATOR = nested("operator.enabled", True)


def rules_of(spec: Json) -> list[Json]:
    return [rule for group in spec["groups"] for rule in group["rules"]]


def installed(values: Json | None = None) -> Json:
    [made] = render(merged(RULES, values or {})).of("PrometheusRule").values()
    spec: Json = made["spec"]
    return spec


def most_replicas(spec: Json) -> str:
    [rule] = [rule for rule in rules_of(spec) if rule.get("record") == "dub5:replicas:max"]
    found: str = rule["expr"].rpartition(" ")[2]
    return found


def test_they_are_off_by_default() -> None:
    assert render().of("PrometheusRule") == {}
    assert "dub5-alerts" not in render().of("ConfigMap")


def test_all_that_are_written_are_installed() -> None:
    named = [(group["name"], len(group["rules"])) for group in WRITTEN["groups"]]
    assert [(group["name"], len(group["rules"])) for group in installed()["groups"]] == named
    alerts = {rule["alert"]: rule for rule in rules_of(installed()) if "alert" in rule}
    assert len(alerts) == len([rule for rule in rules_of(WRITTEN) if "alert" in rule]) > 20
    for rule in rules_of(WRITTEN):
        if "alert" in rule:
            made = alerts[rule["alert"]]
            # Prometheus fills in the braces, not Helm.
            assert {**made, "expr": ""} == {**rule, "expr": ""}
            assert made["expr"] == rule["expr"].replace('namespace=~".*"', 'namespace="chat"')


@pytest.mark.parametrize(
    ("values", "most"),
    [
        ({}, "vector(10)"),
        (nested("autoscaling.maxReplicas", 37), "vector(37)"),
        ({"autoscaling": {"mode": "none", "maxReplicas": 37}, "replicas": 3}, "vector(3)"),
    ],
)
def test_the_most_replicas_are_the_releases_own(values: Json, most: str) -> None:
    assert most_replicas(WRITTEN) == "vector(10)"
    assert most_replicas(installed(values)) == most


def selectors(rule: Json) -> list[str]:
    """What it selects, each with its labels."""
    found: list[str] = re.findall(
        r"(?<![\w:])(?:dub5[_:]|process_|kube_|up\b)[\w:]*(?:\{[^}]*\})?", rule["expr"]
    )
    return found


@pytest.mark.parametrize(
    ("values", "name"), [({}, "dub5"), (nested("fullnameOverride", "tutor"), "tutor")], ids=str
)
def test_what_kubernetes_tells_is_of_the_releases_own_deployment(values: Json, name: str) -> None:
    reported = [each for rule in rules_of(installed(values)) for each in selectors(rule) if "kube_" in each]
    assert reported
    for selector in reported:
        pods = re.search(r'pod=~"([^"]*)"', selector)
        if pods:
            assert re.fullmatch(pods[1], f"{name}-7c9f8b6d5-x2x4z")
            for other in ("redis-0", "operator-7c9f8b6d5-x2x4z", "loadtest-x2x4z"):
                assert not re.fullmatch(pods[1], f"{name}-{other}")
            assert not re.fullmatch(pods[1], "shop-7c9f8b6d5-x2x4z")
        elif "horizontalpodautoscaler" in selector:
            assert f'horizontalpodautoscaler=~"(keda-hpa-)?{name}"' in selector
        else:
            assert f'deployment="{name}"' in selector


def test_every_selector_is_for_the_release_only() -> None:
    for rule in rules_of(installed()):
        names = selectors(rule)
        assert names
        for selector in names:
            assert re.fullmatch(r'[\w:]+\{namespace="chat"[^}]*\}', selector), selector
        assert '=~".*"' not in rule["expr"]


@pytest.mark.parametrize("address", [BASE, f"{BASE}/"])
def test_runbooks_are_where_the_values_say(address: str) -> None:
    for rule in rules_of(installed(nested("monitoring.alerts.runbooks", address))):
        if "alert" in rule:
            assert rule["annotations"]["runbook_url"] == f"{BASE}/{rule['alert']}.md"


def test_runbooks_are_paths_in_the_sources_where_the_values_say_nothing() -> None:
    for rule in rules_of(installed()):
        if "alert" in rule:
            path = CHART.parents[2] / rule["annotations"]["runbook_url"]
            assert path.is_file()


def test_an_address_that_is_none_is_refused() -> None:
    assert "runbooks" in refusal(merged(RULES, nested("monitoring.alerts.runbooks", "docs/runbooks")))


def test_the_file_has_the_same_rules(tmp_path: Path) -> None:
    values = nested("monitoring.alerts.runbooks", BASE)
    made = render(merged(RULES, FILE, values)).one("ConfigMap", "dub5-alerts")
    assert made["data"].keys() == {"dub5.yaml"}
    assert yaml.safe_load(made["data"]["dub5.yaml"]) == installed(merged(FILE, values))
    if PROMTOOL is not None:
        path = tmp_path / "dub5.yaml"
        path.write_text(made["data"]["dub5.yaml"])
        said = subprocess.run([PROMTOOL, "check", "rules", path], capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stdout + said.stderr
        assert f"{len(rules_of(WRITTEN))} rules found" in said.stdout


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor"])
def test_the_operator_is_scraped_like_the_backend(kind: str) -> None:
    values = nested(f"monitoring.{kind[0].lower()}{kind[1:]}", {"enabled": True, "labels": {"release": "a"}})
    assert render(values).of(kind).keys() == {"dub5"}
    made = render(merged(values, OPERATOR))
    assert made.of(kind).keys() == {"dub5", "dub5-operator"}
    monitor = made.one(kind, "dub5-operator")
    assert monitor["metadata"]["labels"]["release"] == "a"
    assert ApiSchemas("newest").complaints(monitor) == []
    pod = made.one("Deployment", "dub5-operator")["spec"]["template"]
    wanted: Any = monitor["spec"]["selector"]["matchLabels"]
    if kind == "PodMonitor":
        assert wanted.items() <= pod["metadata"]["labels"].items()
        [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    else:
        service = made.one("Service", "dub5-operator")
        assert wanted.items() <= service["metadata"]["labels"].items()
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        [endpoint] = monitor["spec"]["endpoints"]
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    assert ports[endpoint["port"]] == 9001


def test_nobody_else_needs_the_operators_service() -> None:
    assert "dub5-operator" not in render(OPERATOR).of("Service")


def test_the_labels_that_prometheus_selects_by_are_there() -> None:
    made = render(merged(RULES, FILE, nested("monitoring.alerts.labels", {"release": "prometheus"})))
    for kind, name in (("PrometheusRule", "dub5"), ("ConfigMap", "dub5-alerts")):
        labels = made.one(kind, name)["metadata"]["labels"]
        assert labels["release"] == "prometheus"
        assert labels["app.kubernetes.io/instance"] == "dub5"
