"""NetworkPolicies: what is not listed is denied. That a plugin enforces them is not tested: docs/known-limits.md."""

from __future__ import annotations

import pytest

from testkit.chart import merged
from tests.unit.chart.support import Json, nested, render

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
    assert ports(dns) == {53, 5353}
    assert {each["protocol"] for each in dns["ports"]} == {"UDP", "TCP"}
    namespaces = [each["namespaceSelector"] for each in dns["to"] if "namespaceSelector" in each]
    assert [each["matchLabels"]["kubernetes.io/metadata.name"] for each in namespaces] == [
        "kube-system",
        "openshift-dns",
    ]
    assert redis == {"to": [component("redis")], "ports": [{"protocol": "TCP", "port": 6379}]}
    assert ports(providers) == {443}
    assert "169.254.0.0/16" in providers["to"][0]["ipBlock"]["except"]
    traces = nested("networkPolicy.otlp", [{"to": [PEER], "ports": [{"port": 4318}]}])
    assert policy(traces)["egress"][-1] == {"to": [PEER], "ports": [{"port": 4318}]}


def providers(**urls: str) -> Json:
    """Of kind openai, by name, and a model of the first."""
    made = {name: {"kind": "openai", "base_url": url} for name, url in urls.items()}
    return {"config": {"providers": made, "models": {"m": {"routes": [f"{next(iter(urls))}/x"]}}}}


@pytest.mark.parametrize(
    ("values", "addresses", "pods"),
    [
        (providers(a="https://api.openai.com/v1"), {443}, None),
        (providers(a="https://api.example.com:8443"), {8443}, None),
        (providers(a="http://10.1.2.3/v1"), {80}, None),
        (providers(a="http://[fd00::1]:8000"), {8000}, None),
        (providers(a="https://gw.example.com?x=a:1/b"), {443}, None),
        (providers(a="http://vllm:8000"), {8000}, {8000}),
        (providers(a="http://vllm.models:8000/v1"), {8000}, {8000}),
        (providers(a="http://vllm.models.svc.cluster.local:8000/v1"), {8000}, {8000}),
        (providers(a="https://api.openai.com", b="http://vllm.models:8000"), {443, 8000}, {8000}),
        (nested("config.providers.a", {"kind": "anthropic"}), {443}, None),
        (nested("config.providers.a", {"kind": "simulated"}), {443}, None),
        (nested("config.providers.a", {"kind": "openai", "proxy": "http://10.0.0.1:3128"}), {3128}, None),
        (nested("config.providers.a", {"kind": "openai", "proxy": "proxy.net.corp.example"}), {80}, None),
        (nested("config.providers.a", {"kind": "openai", "proxy": "None"}), {443}, None),
        (nested("config.providers.a", {"kind": "openai", "proxy": "None.squid:3128"}), {3128}, {3128}),
        (nested("config.providers.a", {"kind": "openai", "proxy": ""}), {443}, None),
        (
            merged(
                nested("config.providers.a", {"kind": "openai"}),
                {"env": {"https_proxy": "http://u:p@squid:3128/", "NO_PROXY": "svc:9999"}},
            ),
            {443, 3128},
            {3128},
        ),
    ],
)
def test_providers_and_proxies_are_reached_at_their_ports(
    values: Json, addresses: set[int], pods: set[int] | None
) -> None:
    _, _, out, *inside = policy(values)["egress"]
    assert ports(out) == addresses
    assert [each["ipBlock"]["except"] for each in out["to"]] == [["169.254.0.0/16"], ["fe80::/10"]]
    assert [(each["to"], ports(each)) for each in inside] == (
        [([{"namespaceSelector": {}}], pods)] if pods else []
    )


def test_rules_of_ones_own_replace_them_and_helm_says_what_they_shut_off() -> None:
    values = providers(a="https://api.openai.com", vllm="http://vllm.models:8000")
    narrow = merged(values, {"networkPolicy": {"providers": [{"to": [PEER], "ports": [{"port": 443}]}]}})
    assert policy(narrow)["egress"][2:] == [{"to": [PEER], "ports": [{"port": 443}]}]
    assert "has no rule for it: config.providers.vllm (port 8000)." in render(narrow).notes
    for rule in (
        {"ports": [{"port": 443}, {"port": 8000}]},
        {"ports": [{"port": 443, "endPort": 9000}]},
        {"to": [PEER]},
    ):
        assert "Shut off" not in render(merged(values, {"networkPolicy": {"providers": [rule]}})).notes
    assert "Shut off" not in render(merged(narrow, nested("networkPolicy.enabled", False))).notes


def test_helm_says_where_traces_are_shut_in() -> None:
    traced: Json = nested("config.telemetry.tracing", True)
    rule = {"to": [{"namespaceSelector": {}}], "ports": [{"port": 4318}]}
    assert "networkPolicy.otlp" in render(traced).notes
    for values in ({}, merged(traced, nested("networkPolicy.otlp", [rule]))):
        assert "networkPolicy.otlp" not in render(values).notes
    assert "networkPolicy.otlp" not in render(merged(traced, nested("networkPolicy.enabled", False))).notes


def test_helm_says_which_ports_are_open_and_what_it_cannot_know() -> None:
    values = providers(a="https://api.openai.com", vllm="http://vllm.models:8000")
    notes = render(merged(values, {"secretEnv": {"HTTPS_PROXY": {"name": "proxy", "key": "url"}}})).notes
    assert "to providers at port 443, 8000 only" in notes
    assert "HTTPS_PROXY comes from a Secret" in notes
    assert "If config.providers.vllm cannot be reached" in notes
    assert "egress" not in render(nested("networkPolicy.enabled", False)).notes


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
    assert ports(dns) == {53, 5353}
    assert backend["to"] == [component("backend")]
    assert ports(backend) == {"http", "operations"}
    assert ports(api) == {443, 6443}
    assert len(policy(nested("autoscaling.mode", "none"), "dub5-test")["egress"]) == 2


def test_they_can_be_left_out() -> None:
    assert render(nested("networkPolicy.enabled", False)).of("NetworkPolicy") == {}
