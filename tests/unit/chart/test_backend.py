"""The backend's pods: the configuration they read, how long they may take to end, what makes them roll."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dub5.advisor.schedule import Span, triggers
from dub5.settings.loader import convert, parse_yaml
from dub5.settings.model import Duration
from testkit.chart import merged
from tests.unit.chart.support import Json, nested, render
from tests.unit.chart.test_objects import EXTERNAL, KEDA, everywhere


def configuration(values: Json) -> Json:
    made = next(
        each for each in render(values).of("ConfigMap").values() if "dub5.yaml" in each.get("data", {})
    )
    written: Json = parse_yaml(made["data"]["dub5.yaml"])
    return written


def grace_period(values: Json) -> int:
    seconds: int = render(values).pods()["dub5"]["terminationGracePeriodSeconds"]
    return seconds


SHORT = nested("config.server.max_stream", "1m")


def calls_of(provider: str, total: Any) -> Json:
    """A provider whose calls may take so long."""
    return nested(f"config.providers.{provider}", {"kind": "openai", "timeouts": {"total": total}})


@everywhere
def test_the_program_accepts_its_configuration(values: Json) -> None:
    settings = convert(configuration(values))
    assert settings.server.host == "0.0.0.0"
    assert (settings.server.port, settings.server.operations_port) == (8000, 9000)
    assert settings.auth.anonymous != (settings.auth.keys is not None)


def test_without_keys_pods_know_the_names_that_they_are_called_by() -> None:
    names = {
        f"{service}{end}"
        for service in ("dub5", "dub5-operations")
        for end in ("", ".chat", ".chat.svc", ".chat.svc.cluster.local")
    }
    assert set(configuration({"auth": {"anonymous": True}})["server"]["allowed_hosts"]) == names
    values: Json = {
        "auth": {"anonymous": True},
        "config": {"server": {"allowed_hosts": ["10.0.0.80", "dub5"]}},
        "ingress": {"enabled": True, "hosts": ["chat.example.com"]},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["*.example.org"]},
    }
    hosts = convert(configuration(values)).server.allowed_hosts
    assert len(hosts) == len(set(hosts))
    assert set(hosts) == names | {"10.0.0.80", "chat.example.com", "*.example.org"}


def test_with_keys_the_names_do_not_matter() -> None:
    assert "allowed_hosts" not in configuration({})["server"]


def test_numbers_arrive_as_they_were_written() -> None:
    limits = {"requests_per_minute": 1_000_000, "tokens_per_minute": 123_456_789}
    values = {
        "config": {
            "limits": {"default": limits},
            "personalities": {"a": {"seed": 2**53, "temperature": 0.1}},
            "models": {"m": {"routes": ["demo/x"], "price": {"input": 0.0000001, "output": 12345678.5}}},
        }
    }
    written = configuration(values)
    assert written["models"]["m"]["price"] == {"input": 1e-7, "output": 12345678.5}
    assert written["limits"]["default"] == limits
    assert written["personalities"]["a"] == {"seed": 2**53, "temperature": 0.1}


def test_redis_is_where_the_values_say() -> None:
    assert configuration({})["redis"] == {
        "url": "redis://dub5-redis:6379/0",
        "timeout": "100ms",
        "password": {"env": "DUB5_REDIS_PASSWORD"},
    }
    assert configuration(EXTERNAL)["redis"] == {
        "url": "rediss+sentinel://a:26380,b/mymaster/0",
        "timeout": "100ms",
        "username": "dub5",
        "password": {"env": "DUB5_REDIS_PASSWORD"},
        "ca_file": "/etc/dub5/redis-ca/ca.crt",
    }
    assert "redis" not in configuration(nested("redis.mode", "none"))
    password = next(
        each for each in render(EXTERNAL).backend()["env"] if each["name"] == "DUB5_REDIS_PASSWORD"
    )
    assert password["valueFrom"] == {"secretKeyRef": {"name": "redis", "key": "password"}}


def test_a_changed_configuration_rolls_the_pods_and_nothing_else_does() -> None:
    def checksum(values: Json) -> Any:
        return render(values).one("Deployment")["spec"]["template"]["metadata"]["annotations"][
            "checksum/config"
        ]

    assert checksum({}) == checksum({"autoscaling": {"maxReplicas": 50}})
    assert checksum({}) != checksum(nested("config.server.max_stream", "5m"))
    assert checksum({}) != checksum(nested("redis.timeout", "50ms"))


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ({}, 5 + 10 + 30 + 600 + 5),
        (nested("config.server.max_stream", "5m"), 5 + 10 + 30 + 300 + 5),
        (nested("config.server.max_stream", 90), 5 + 10 + 30 + 90 + 5),
        (nested("config.server.max_stream", "2h"), 5 + 10 + 30 + 7200 + 5),
        (nested("config.drain.linger", "1500ms"), 5 + 2 + 30 + 600 + 5),
        (nested("config.admission.queue_timeout", "0.8m"), 5 + 10 + 48 + 600 + 5),
        (nested("config.server.heartbeat", "0s"), 5 + 10 + 10 + 600 + 5),
        ({"preStopSeconds": 0}, 0 + 10 + 30 + 600 + 5),
        (calls_of("a", "90s"), 5 + 10 + 30 + 600 + 5),
        (calls_of("a", "20m"), 5 + 10 + 30 + 1200 + 5),
        (merged(calls_of("a", 1200), calls_of("b", "30m")), 5 + 10 + 30 + 1800 + 5),
        (merged(calls_of("a", "2m"), SHORT), 5 + 10 + 30 + 120 + 5),
        (merged(nested("config.providers.a", {"kind": "anthropic"}), SHORT), 5 + 10 + 30 + 600 + 5),
        (merged(nested("config.providers.a", {"kind": "simulated"}), SHORT), 5 + 10 + 30 + 60 + 5),
    ],
)
def test_a_pod_has_the_time_that_its_longest_answer_may_take(values: Json, seconds: int) -> None:
    assert grace_period(values) == seconds


@settings(max_examples=40, deadline=None)
@given(st.decimals(min_value=0, max_value=3000, places=2), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations_are_read_as_the_program_reads_them(number: Any, unit: str) -> None:
    written = f"{number}{unit}"
    seconds = grace_period(nested("config.server.max_stream", written)) - 50
    exact = Duration.parse(written)
    assert seconds in {math.ceil(exact), math.ceil(exact - 1e-6), math.ceil(exact + 1e-6)}


def test_the_kubelet_sleeps_where_it_can() -> None:
    assert render().backend()["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    older = render({"kubeVersion": "v1.29.10", "preStopSeconds": 7}).backend()["lifecycle"]["preStop"]
    assert older == {"exec": {"command": ["python3", "-c", "import time; time.sleep(7)"]}}
    assert "lifecycle" not in render({"preStopSeconds": 0}).backend()


def test_nobody_is_taken_away_before_a_successor_is_ready() -> None:
    spec = render().one("Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": "25%"}
    assert render().one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize(
    ("values", "target"),
    [
        ({}, "140"),
        (nested("autoscaling.targetPercentage", 50), "100"),
        (nested("config.admission.max_inflight", 50), "35"),
        (nested("config.admission.max_inflight", 2), "1"),
        (nested("config.admission.max_inflight", 1_500_000), "1050000"),
    ],
)
def test_the_target_is_a_share_of_the_capacity(values: Json, target: str) -> None:
    metric = render(values).one("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]
    assert metric == {
        "metric": {"name": "dub5_demand_requests"},
        "target": {"type": "AverageValue", "averageValue": target},
    }
    trigger = render(merged(values, KEDA)).one("ScaledObject")["spec"]["triggers"][0]
    assert trigger["metadata"]["threshold"] == target
    assert f"+ {target} * (" in trigger["metadata"]["query"]


def test_keda_never_takes_no_figure_for_zero() -> None:
    spec = render(KEDA).one("ScaledObject")["spec"]
    assert spec["triggers"][0]["metadata"]["ignoreNullValues"] == "false"
    assert spec["triggers"][0]["metricType"] == "AverageValue"
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 2, "behavior": "currentReplicasIfHigher"}


def test_further_triggers_of_keda_stand_beside_the_own_one() -> None:
    cron = triggers([Span((1, 2), 8, 12, 6)])
    spec = render(merged(KEDA, nested("autoscaling.keda.triggers", cron))).one("ScaledObject")["spec"]
    assert [each["type"] for each in spec["triggers"]] == ["prometheus", "cron"]
    assert spec["triggers"][1:] == cron


def test_pods_are_spread_by_what_was_rolled_out_together() -> None:
    spread = render().pods()["dub5"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]
    assert all(each["matchLabelKeys"] == ["pod-template-hash"] for each in spread)
    assert all(each["whenUnsatisfiable"] == "ScheduleAnyway" for each in spread)


def test_operations_are_never_routed() -> None:
    values = {
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]},
        "ingress": {"enabled": True},
    }
    rendered = render(values)
    assert [port["port"] for port in rendered.one("Service")["spec"]["ports"]] == [80]
    [rule] = rendered.one("HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "dub5", "port": 80}]
    assert rule["timeouts"] == {"request": "0s"}
    [rule] = rendered.one("Ingress")["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"] == {"service": {"name": "dub5", "port": {"name": "http"}}}
