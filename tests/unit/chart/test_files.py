"""The files beside the templates say the same as the templates."""

from __future__ import annotations

import re

import helm_python as helm
import yaml

from testkit.chart import CHART, merged
from tests.unit.chart.support import nested, render

KEDA = {
    "autoscaling": {"mode": "keda", "keda": {"serverAddress": "http://prometheus-operated.monitoring:9090"}}
}


def test_helm_finds_nothing_to_complain_about() -> None:
    said = helm.lint(CHART)
    reported = [message["error"] for message in said["messages"]]
    assert (said["errors"], reported) == ([], ["icon is recommended"])


def test_the_scaled_object_for_elsewhere_is_the_one_that_the_chart_makes() -> None:
    written = yaml.safe_load((CHART / "files/keda-scaledobject.yaml").read_text(encoding="utf-8"))
    made = render(KEDA).one("ScaledObject")
    assert written["spec"] == made["spec"]
    assert written["metadata"] == {key: made["metadata"][key] for key in ("name", "namespace")}


def test_the_adapters_rule_serves_the_metric_that_the_autoscaler_reads() -> None:
    values = yaml.safe_load((CHART / "files/prometheus-adapter.yaml").read_text(encoding="utf-8"))
    [rule] = values["rules"]["custom"]
    metric = render().one("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert re.fullmatch(rule["name"]["matches"], metric)
    assert rule["name"]["as"] == metric
    assert rule["seriesQuery"].startswith(f"{metric}{{")
    # The adapter must ask by pod, and only for those that the autoscaler names.
    assert "sum by (<<.GroupBy>>)" in rule["metricsQuery"]
    assert "<<.Series>>{<<.LabelMatchers>>}[1m]" in rule["metricsQuery"]
    role = render().one("Role", "dub5-test")
    assert role["rules"][0]["resources"] == [f"pods/{metric}"]


def test_the_appearance_of_a_pod_name_is_what_the_query_expects() -> None:
    made = render(merged(KEDA, nested("fullnameOverride", "chat"))).one("ScaledObject", "chat")
    query = made["spec"]["triggers"][0]["metadata"]["query"]
    pattern = re.findall(r'pod=~"([^"]+)"', query)[0]
    assert re.fullmatch(pattern, "chat-7d9c5b8f6d-x2x9z")
    assert not re.fullmatch(pattern, "chat-two-7d9c5b8f6d-x2x9z")
    assert 'namespace="chat"' in query
