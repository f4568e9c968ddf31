"""NetworkPolicies: what is not listed is denied. That a plugin enforces them is not tested: docs/known-limits.md."""

from __future__ import annotations

import pytest

from tests.unit.chart.support import Json, merged, nested, render

EVERYWHERE = None
PEER = {"namespaceSelector": {"matchLabels": {"team": "web"}}}


def component(name: str) -> Json:
    labels = {"app.kubernetes.io/name": "dub5", "app.kubernetes.io/instance": "dub5"}
    return {"podSelector": {"matchLabels": labels | {"app.kubernetes.io/component": name}}}


def policy(values: Json, name: str = "dub5") -> Json:
    spec: Json = render(values).one("NetworkPolicy", name)["spec"]
    return spec


def ports(rule: Json) -> set[object]:
    return {each["port"] for each in rule["ports"]}


def test_every_pod_is_denied_everything_first() -> None:
    for values in ({}, nested("redis.mode", "none")):
        rendered = render(values)
        deny = rendered.one("NetworkPolicy", "dub5-deny")["spec"]
        assert deny["policyTypes"] == ["Ingress", "Egress"]
        assert not deny.keys() & {"ingress", "egress"}
        selector = deny["podSelector"]["matchLabels"].items()
        made = [*rendered.of("Deployment").values(), *rendered.of("StatefulSet").values()]
        assert all(selector <= each["spec"]["template"]["metadata"]["labels"].items() for each in made)
        assert all(selector <= pod["metadata"]["labels"].items() for pod in rendered.of("Pod").values())


def test_anybody_may_chat_unless_somebody_is_named() -> None:
    [chat, _] = policy({})["ingress"]
    assert ports(chat) == {"http"}
    assert chat.get("from") is EVERYWHERE
    [chat, _] = policy(nested("networkPolicy.clients", [PEER]))["ingress"]
    assert chat["from"] == [PEER, component("test"), component("loadtest")]


def test_only_monitoring_and_tests_reach_operations() -> None:
    [_, operations] = policy({})["ingress"]
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert ports(operations) == {"operations"}
    assert operations["from"] == [monitoring, component("test")]
    nobody: Json = {"networkPolicy": {"monitoring": []}}
    assert policy(nobody)["ingress"][1]["from"] == [component("test")]
    nodes = {"networkPolicy": {"nodes": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}}
    assert policy(nodes)["ingress"][1]["from"][1] == {"ipBlock": {"cidr": "10.0.0.0/8"}}


def test_the_backend_reaches_names_redis_and_providers() -> None:
    dns, redis, providers = policy({})["egress"]
    assert ports(dns) == {53}
    assert {each["protocol"] for each in dns["ports"]} == {"UDP", "TCP"}
    assert redis == {"to": [component("redis")], "ports": [{"protocol": "TCP", "port": 6379}]}
    assert ports(providers) == {443}
    assert "169.254.0.0/16" in providers["to"][0]["ipBlock"]["except"]
    traces = nested("networkPolicy.otlp", [{"to": [PEER], "ports": [{"port": 4318}]}])
    assert policy(traces)["egress"][-1] == {"to": [PEER], "ports": [{"port": 4318}]}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://a", {6379}),
        ("rediss://user@a:6380/1", {6380}),
        ("redis+cluster://a:7000,b:7001,c", {6379, 7000, 7001}),
        ("redis+sentinel://a,b:26380/mymaster/0", {6379, 26379, 26380}),
        ("redis://[fd00::1]:6380", {6380}),
    ],
)
def test_an_external_redis_is_reached_at_its_ports(url: str, expected: set[int]) -> None:
    values = {"redis": {"mode": "external", "external": {"url": url}}}
    _, redis, _ = policy(values)["egress"]
    assert ports(redis) == expected
    assert redis.get("to") is EVERYWHERE
    own = [{"to": [PEER], "ports": [{"port": 1}]}]
    assert policy(merged(values, nested("networkPolicy.redis", own)))["egress"][1] == own[0]


def test_without_redis_there_is_no_way_to_one() -> None:
    assert len(policy(nested("redis.mode", "none"))["egress"]) == 2
    assert "dub5-redis" not in render(nested("redis.mode", "none")).of("NetworkPolicy")


def test_redis_is_reached_by_the_backend_only_and_reaches_nobody() -> None:
    spec = policy({}, "dub5-redis")
    assert spec["ingress"] == [
        {"ports": [{"protocol": "TCP", "port": "redis"}], "from": [component("backend")]}
    ]
    assert "Egress" in spec["policyTypes"]
    assert "egress" not in spec


def test_test_pods_reach_the_backend_and_for_autoscaling_the_api() -> None:
    dns, backend, api = policy({}, "dub5-test")["egress"]
    assert ports(dns) == {53}
    assert backend["to"] == [component("backend")]
    assert ports(backend) == {"http", "operations"}
    assert ports(api) == {443, 6443}
    assert len(policy(nested("autoscaling.mode", "none"), "dub5-test")["egress"]) == 2


def test_they_can_be_left_out() -> None:
    assert render(nested("networkPolicy.enabled", False)).of("NetworkPolicy") == {}
