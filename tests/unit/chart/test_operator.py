"""The operator's part of the chart: off by default, and with no more rights than its tests give it."""

from __future__ import annotations

import pytest

from testkit.chart import merged
from tests.operator.conftest import RULES
from tests.unit.chart.support import Json, nested, refusal, render

ON = nested("operator.enabled", True)


def test_it_is_off_by_default() -> None:
    made = render()
    assert "dub5-operator" not in made.pods()
    assert made.of("CustomResourceDefinition") == {}


def test_its_rights_are_those_that_its_tests_give_it() -> None:
    made = render(ON)
    assert made.one("Role", "dub5-operator")["rules"] == RULES
    assert made.of("ClusterRole") == {}
    [subject] = made.one("RoleBinding", "dub5-operator")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "dub5-operator", "namespace": "chat"}


def test_one_pod_restricted_and_the_only_one_with_a_token() -> None:
    made = render(ON)
    assert made.one("Deployment", "dub5-operator")["spec"]["replicas"] == 1
    assert made.one("Deployment", "dub5-operator")["spec"]["strategy"] == {"type": "Recreate"}
    pod = made.pods()["dub5-operator"]
    [container] = pod["containers"]
    assert container["args"] == [
        "operator",
        "--config",
        "/etc/dub5/config/dub5.yaml",
        "--namespace",
        "chat",
        "--host",
        "0.0.0.0",
    ]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"]
    with_token = [name for name, each in made.pods().items() if "serviceAccountToken" in str(each)]
    assert with_token == ["dub5-operator"]


def test_it_listens_where_the_backend_does() -> None:
    """The kubelet asks a pod with IPv6 addresses only at one of those."""
    [container] = render(merged(ON, {"listenAddress": "::"})).pods()["dub5-operator"]["containers"]
    assert container["args"][-2:] == ["--host", "::"]


def test_the_definitions_stay_when_the_release_goes() -> None:
    definitions = render(ON).of("CustomResourceDefinition")
    assert set(definitions) == {"cachepolicies.dub5.io", "cacheinvalidations.dub5.io"}
    for each in definitions.values():
        assert each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert render(merged(ON, nested("operator.crds", False))).of("CustomResourceDefinition") == {}


def test_it_may_reach_redis_and_the_api_server_and_nothing_else() -> None:
    made = render(ON)
    [_, redis, api] = made.one("NetworkPolicy", "dub5-operator")["spec"]["egress"]
    assert redis["ports"] == [{"protocol": "TCP", "port": 6379}]
    assert [port["port"] for port in api["ports"]] == [443, 6443]
    sources = made.one("NetworkPolicy", "dub5-redis")["spec"]["ingress"][0]["from"]
    components = [_component(source) for source in sources]
    assert "operator" in components
    assert "operator" not in [
        _component(source)
        for source in render().one("NetworkPolicy", "dub5-redis")["spec"]["ingress"][0]["from"]
    ]


def _component(source: Json) -> str | None:
    labels: Json = source.get("podSelector", {}).get("matchLabels", {})
    found: str | None = labels.get("app.kubernetes.io/component")
    return found


@pytest.mark.parametrize("mode", ["none"])
def test_without_redis_it_is_refused(mode: str) -> None:
    assert "operator.enabled" in refusal(merged(ON, nested("redis.mode", mode)))
