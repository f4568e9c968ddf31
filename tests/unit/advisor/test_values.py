"""The chart's values as a simulation reads them: its defaults, files over files, and errors that name the value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dub5.advisor.values import DEFAULTS, KNOWN, merged, of_values, read_values
from dub5.errors import ConfigError
from testkit.chart import CHART


def chart_defaults() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return values


def test_the_defaults_are_the_charts() -> None:
    chart = chart_defaults()
    assert {name: chart[name] for name in DEFAULTS} == DEFAULTS


def test_it_knows_the_names_of_all_values() -> None:
    assert chart_defaults().keys() | {"enabled", "global"} == KNOWN


def test_the_charts_own_file_gives_what_the_chart_makes_of_it() -> None:
    values = read_values([CHART / "values.yaml"])
    assert (values.capacity, values.target, values.one_model) == (200, 140, True)


@pytest.mark.parametrize("example", sorted((CHART / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_charts_examples_are_read(example: Path) -> None:
    assert read_values([example]).capacity > 0


def test_later_files_win_and_null_takes_away(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(
        "autoscaling: {minReplicas: 3, maxReplicas: 7}\nconfig: {admission: {max_inflight: 50}}\n"
    )
    second.write_text("autoscaling: {maxReplicas: 9, behavior: {scaleDown: null}}\n")
    values = read_values([first, second], {"autoscaling": {"targetPercentage": 50}})
    scaling = values.autoscaling
    assert (scaling.minReplicas, scaling.maxReplicas, values.target) == (3, 9, 25)
    assert "scaleDown" not in values.autoscaler()["behavior"]
    assert values.autoscaler()["behavior"]["scaleUp"]["selectPolicy"] == "Max"


def test_the_target_is_at_least_one_and_rounded_down_as_by_the_chart() -> None:
    few = of_values({"config": {"admission": {"max_inflight": 1}}})
    odd = of_values({"config": {"admission": {"max_inflight": 11}}})
    assert (few.target, odd.target) == (1, 7)


def test_several_models_leave_slots_to_each_other() -> None:
    models = {name: {"routes": ["demo/simulated"]} for name in ("a", "b")}
    assert not of_values({"config": {"models": models}}).one_model


def test_kedas_autoscaler_goes_by_an_external_metric() -> None:
    (metric,) = of_values({"autoscaling": {"mode": "keda"}}).autoscaler()["metrics"]
    assert metric["type"] == "External"
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "140"}


def test_what_a_record_keeps_decides_the_same_and_names_nobody() -> None:
    models = {name: {"routes": ["acme/secret-model"]} for name in ("secret-model", "other")}
    providers = {"acme": {"kind": "openai", "base_url": "https://acme.internal/v1"}}
    values = of_values(
        {
            "replicas": 7,
            "preStopSeconds": 9,
            "autoscaling": {
                "mode": "keda",
                "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 3, "periodSeconds": 30}]}},
                "keda": {"serverAddress": "http://acme.internal:9090", "failureThreshold": 5},
            },
            "config": {
                "admission": {"max_inflight": 12, "queue_timeout": "1500ms"},
                "server": {"max_stream": "90s"},
                "providers": providers,
                "models": models,
            },
        }
    )
    kept = values.for_record()
    again = of_values(kept)
    assert again.for_record() == kept
    assert (again.autoscaler(), again.one_model) == (values.autoscaler(), False)
    assert (again.config.admission, again.config.server) == (values.config.admission, values.config.server)
    assert "acme" not in str(kept)
    assert "secret" not in str(kept)


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ({"autoscalling": {}}, "autoscalling"),
        ({"autoscaling": {"minReplica": 2}}, "autoscaling.minReplica"),
        ({"autoscaling": {"targetPercentage": 95}}, "autoscaling.targetPercentage"),
        ({"autoscaling": {"mode": "vpa"}}, "autoscaling.mode"),
        ({"autoscaling": {"minReplicas": 11}}, "autoscaling.maxReplicas"),
        ({"autoscaling": {"minReplicas": None}}, "minReplicas"),
        (
            {"autoscaling": {"mode": "keda", "keda": {"triggers": [{"type": "cron"}]}}},
            "autoscaling.keda.triggers",
        ),
        (
            {"autoscaling": {"behavior": {"scaleUp": {"selectPolicy": "Most"}}}},
            "autoscaling.behavior.scaleUp",
        ),
        ({"autoscaling": {"behavior": {"scaleup": {}}}}, "autoscaling.behavior.scaleup"),
        ({"autoscaling": {"behavior": {"scaleDown": {"policies": [{"type": "Pods"}]}}}}, "policies[0]"),
        ({"autoscaling": 3}, "autoscaling"),
        ({"autoscaling": [{"minReplicas": 3}]}, "autoscaling"),
        ({"autoscaling": {"behavior": ["scaleUp"]}}, "autoscaling.behavior"),
        ({"config": ["admission"]}, "config"),
        ({"USER-SUPPLIED VALUES": None, "USER-SUPPLIED VALUE": {}}, "USER-SUPPLIED VALUE"),
        ({"config": {"admission": {"max_inflight": 0}}}, "config.admission.max_inflight"),
        ({"config": {"admision": {}}}, "config.admision"),
        ({"config": 1}, "config"),
        ({"replicas": -1}, "replicas"),
        ({"replicas": 10_001}, "replicas: Expected `int` <= 10000"),
        ({"autoscaling": {"maxReplicas": 10**9}}, "autoscaling.maxReplicas: Expected `int` <= 10000"),
        ({"autoscaling": {"minReplicas": 10**9}}, "autoscaling.minReplicas: Expected `int` <= 10000"),
        ({"preStopSeconds": "soon"}, "preStopSeconds"),
    ],
)
def test_an_error_names_the_value(written: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as raised:
        of_values(written)
    assert named in raised.value.message


def test_values_that_are_nested_too_deep() -> None:
    deep: dict[str, Any] = {}
    for _ in range(10_000):
        deep = {"a": deep}
    with pytest.raises(ConfigError, match="nested too deep"):
        of_values({"global": deep})


def test_files_that_are_no_values(tmp_path: Path) -> None:
    for name, content in (("list.yaml", b"[1]"), ("bad.yaml", b"a: [\n"), ("bytes.yaml", b"\xff\xfe\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError) as raised:
            read_values([tmp_path / name])
        assert name in raised.value.message
    bomb = "\n".join(
        ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
    )
    (tmp_path / "bomb.yaml").write_text(bomb)
    with pytest.raises(ConfigError, match=r"bomb\.yaml: .* values"):
        read_values([tmp_path / "bomb.yaml"])
    with pytest.raises(ConfigError) as raised:
        read_values([tmp_path / "absent.yaml"])
    assert "absent.yaml" in raised.value.message
    (tmp_path / "empty.yaml").write_text("")
    assert read_values([tmp_path / "empty.yaml"]).target == 140


def test_values_are_joined_as_helm_does() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": None, "e": 3}, "d": [2]}) == {
        "a": {"c": 2, "e": 3},
        "d": [2],
    }
