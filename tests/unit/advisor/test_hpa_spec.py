"""Specs of autoscalers are read as the API server reads them."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from dub5.advisor.hpa_spec import DOWN, UP, Controller, Quantity, read_spec

PODS = {
    "type": "Pods",
    "pods": {
        "metric": {"name": "dub5_demand_requests", "selector": {"matchLabels": {"release": "a"}}},
        "target": {"type": "AverageValue", "averageValue": "28"},
    },
}


def spec(**fields: Any) -> dict[str, Any]:
    return {"maxReplicas": 10, "scaleTargetRef": {"kind": "Deployment", "name": "dub5"}, **fields}


def resource(**target: Any) -> dict[str, Any]:
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


@pytest.mark.parametrize(
    ("text", "milli", "approximate"),
    [
        (28, 28_000, 28.0),
        (0.05, 50, 0.05),
        ("28", 28_000, 28.0),
        ("+1", 1000, 1.0),
        ("500m", 500, 0.5),
        ("0.10", 100, 0.1),
        ("1.5k", 1_500_000, 1500.0),
        ("64Mi", 64 * 2**20 * 1000, 64.0 * 2**20),
        ("0.5Ki", 512_000, 512.0),
        ("2e3", 2_000_000, 2000.0),
        ("1500u", 2, 0.0015),
        ("1n", 1, 1e-9),
        (".5", 500, 0.5),
        ("0.00000000001", 1, 1e-9),
        ("0", 0, 0.0),
    ],
)
def test_quantities(text: str | float, milli: int, approximate: float) -> None:
    quantity = Quantity(text)
    assert (quantity.milli, quantity.approximate) == (milli, pytest.approx(approximate, rel=1e-12))
    assert quantity == Quantity(str(text))


@pytest.mark.parametrize("text", ["", ".", "m", "1 k", "1e999", "-1", "nan", "1K", "9" * 41, "True", "1.2.3"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a quantity|must not be negative"):
        Quantity(text)


def test_what_is_absent_has_the_api_servers_defaults() -> None:
    read = read_spec(spec())
    assert (read.min_replicas, read.behavior) == (1, None)
    assert [(metric.type, metric.aim) for metric in read.metrics] == [
        ("Resource", ("averageUtilization", 80))
    ]
    assert Controller().rules_of(read) is None


def test_rules_are_filled_in_one_by_one() -> None:
    policies = [{"type": "Percent", "value": 25, "periodSeconds": 60}]
    read = read_spec(spec(behavior={"scaleDown": {"policies": policies, "tolerance": "0.2"}}))
    rules = Controller(downscale_stabilization=90.0).rules_of(read)
    assert rules is not None
    up, down = rules
    assert up == UP
    assert (down.stabilization_window_seconds, down.select_policy) == (90, DOWN.select_policy)
    assert [(policy.type, policy.value, policy.period_seconds) for policy in down.policies or ()] == [
        ("Percent", 25, 60)
    ]


@pytest.mark.parametrize(("gate", "down"), [(True, 0.2), (False, 0.1)])
def test_a_tolerance_of_its_own_counts_where_the_cluster_knows_it(gate: bool, down: float) -> None:
    read = read_spec(spec(behavior={"scaleDown": {"tolerance": "0.2"}}))
    tolerance = Controller(configurable_tolerance=gate).tolerance_of(read)
    assert (tolerance.down, tolerance.up) == (pytest.approx(down), 0.1)


def test_an_object_metric_goes_by_the_type_of_its_target() -> None:
    source = {"describedObject": {"kind": "Service", "name": "dub5"}, "metric": {"name": "requests"}}
    both = {"value": "100", "averageValue": "7"}
    for kind, aim in (("Value", ("value", 100_000)), ("AverageValue", ("averageValue", 7_000))):
        metric = {"type": "Object", "object": {**source, "target": {"type": kind, **both}}}
        assert read_spec(spec(metrics=[metric])).metrics[0].aim == aim


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "missing required field `maxReplicas`"),
        (spec(minReplicas=11), "maxReplicas must not be less than minReplicas"),
        (spec(minReplicas=0), "minReplicas of 0 needs a metric of type Object or External"),
        (
            spec(metrics=[PODS, {"type": "Pods"}]),
            "has the field pods and no other source - at `$.metrics[1]`",
        ),
        (spec(metrics=[{**PODS, "type": "Disk"}]), "Invalid enum value 'Disk' - at `$.metrics[0].type`"),
        (
            spec(metrics=[resource(type="AverageValue")]),
            "resource.target needs averageUtilization or averageValue",
        ),
        (
            spec(metrics=[resource(type="AverageValue", averageValue="x")]),
            "expected a quantity such as 40, 1500m or 64Mi, got 'x' - at `$.metrics[0].resource.target.averageValue`",
        ),
        (
            spec(metrics=[resource(type="AverageValue", averageValue=[1])]),
            "expected a quantity such as 40, 1500m or 64Mi, got '[1]'",
        ),
        (
            spec(metrics=[resource(type="AverageValue", averageValue=0)]),
            "averageValue must be greater than zero - at `$.metrics[0].resource.target`",
        ),
        (
            spec(behavior={"scaleUp": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 15}]}}),
            "Expected `int` >= 1 - at `$.behavior.scaleUp.policies[0].value`",
        ),
        (
            spec(behavior={"scaleUp": {"policies": []}}),
            "Expected `array` of length >= 1 - at `$.behavior.scaleUp.policies`",
        ),
        (
            spec(behavior={"scaleDown": {"stabilizationWindowSeconds": 3601}}),
            "Expected `int` <= 3600 - at `$.behavior.scaleDown.stabilizationWindowSeconds`",
        ),
    ],
)
def test_what_the_api_server_refuses_is_refused_by_its_field(document: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape(message)):
        read_spec(document)
