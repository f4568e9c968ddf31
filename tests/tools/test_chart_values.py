"""No value is without effect: changing any one of them changes what is rendered."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from testkit.chart import merged
from tests.unit.chart.support import Json, Rendered, nested, render, rendered_anew
from tools import chart

KEDA = nested(
    "autoscaling", {"mode": "keda", "keda": {"serverAddress": "http://p", "authenticationRef": "p"}}
)
OWN_REDIS = nested(
    "redis", {"mode": "external", "external": {"url": "redis://a", "existingSecret": "s", "caSecret": "c"}}
)

ADVISOR = nested("advisor", {"enabled": True, "prometheus": "http://p"})

CONTEXTS: dict[str, Json] = {
    "advisor": ADVISOR,
    "advisor.existingSecretKey": nested("advisor.existingSecret", "s"),
    "replicas": nested("autoscaling.mode", "none"),
    "autoscaling.keda": KEDA,
    "autoscaling.cpu.averageValue": nested("autoscaling.cpu.enabled", True),
    "auth.existingSecretKey": nested("auth.existingSecret", "s"),
    "redis.external": OWN_REDIS,
    "redis.bundled.existingSecretKey": nested("redis.bundled.existingSecret", "s"),
    "httpRoute": nested("httpRoute", {"enabled": True, "parentRefs": [{"name": "a"}]}),
    "ingress": nested("ingress.enabled", True),
    "monitoring.dashboards": nested("monitoring.dashboards.enabled", True),
    "monitoring.podMonitor": nested("monitoring.podMonitor.enabled", True),
    "monitoring.serviceMonitor": nested("monitoring.serviceMonitor.enabled", True),
    "monitoring.alerts": nested("monitoring.alerts", {"prometheusRule": True, "configMap": True}),
    "networkPolicy.redis": OWN_REDIS,
    "networkPolicy.prometheus": ADVISOR,
    "tests.keySecretKey": nested("tests.keySecret", "s"),
    "service.loadBalancerClass": nested("service.type", "LoadBalancer"),
    "service.loadBalancerSourceRanges": nested("service.type", "LoadBalancer"),
    "serviceAccount.create": nested("serviceAccount.create", False),
    "operator": nested("operator.enabled", True),
    "loadtest": nested("loadtest.enabled", True),
    "loadtest.schedule": nested("loadtest.kind", "cronjob"),
    "loadtest.suspend": nested("loadtest.kind", "cronjob"),
    "loadtest.parallelism": nested("loadtest.kind", "testrun"),
    "loadtest.keySecretKey": nested("loadtest.keySecret", "s"),
}
"""What must be there for a value to matter, by the beginning of its path."""

RULES = [{"to": [{"podSelector": {}}], "ports": [{"port": 1}]}]
CHANGED: dict[str, Any] = {
    "advisor.enabled": False,
    "advisor.schedule": "1 2 * * *",
    "advisor.prometheus": "http://q",
    "advisor.last": "48h",
    "advisor.objective.refused": 0.01,
    "advisor.objective.wait": "2s",
    "advisor.ttlSecondsAfterFinished": 60,
    "advisor.resources": {"limits": {"memory": "2Gi"}},
    "kubeVersion": "1.29.0",
    "image.digest": f"sha256:{'a' * 64}",
    "redis.bundled.image.digest": f"sha256:{'a' * 64}",
    "image.pullPolicy": "Always",
    "redis.bundled.image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "a"}],
    "config": {"limits": {"default": {"requests_per_minute": 1}}},
    "listenAddress": "::",
    "secretEnv": {"A": {"name": "a", "key": "b"}},
    "redis.mode": "none",
    "redis.timeout": "50ms",
    "redis.external.url": "redis://b",
    "redis.bundled.maxmemory": "128mb",
    "redis.bundled.resources": {"limits": {"memory": "1Gi"}},
    "autoscaling.mode": "none",
    "autoscaling.behavior": {"scaleDown": {"selectPolicy": "Min"}},
    "autoscaling.cpu.averageValue": "500m",
    "autoscaling.keda.authenticationKind": "ClusterTriggerAuthentication",
    "autoscaling.keda.triggers": [{"type": "cron", "metadata": {"timezone": "UTC"}}],
    "maxSurge": "50%",
    "resources": {"limits": {"memory": "1Gi"}},
    "service.type": "NodePort",
    "service.loadBalancerClass": "example.com/inside",
    "service.loadBalancerSourceRanges": ["10.0.0.0/8"],
    "httpRoute.enabled": False,
    "httpRoute.parentRefs": [{"name": "b"}],
    "httpRoute.requestTimeout": "11m",
    "ingress.enabled": False,
    "ingress.tls": [{"secretName": "a"}],
    "monitoring.dashboards.enabled": False,
    "monitoring.dashboards.documents": "https://a",
    "monitoring.podMonitor.enabled": False,
    "monitoring.serviceMonitor.enabled": False,
    "monitoring.alerts.prometheusRule": False,
    "monitoring.alerts.configMap": False,
    "monitoring.alerts.runbooks": "https://a",
    "networkPolicy.providers": RULES,
    "networkPolicy.redis": RULES,
    "networkPolicy.otlp": RULES,
    "networkPolicy.apiServer": RULES,
    "networkPolicy.prometheus": RULES,
    "serviceAccount.create": True,
    "operator.enabled": False,
    "operator.resources": {"limits": {"memory": "1Gi"}},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "topologySpreadConstraints": [{"topologyKey": "rack"}],
    "extraVolumes": [{"name": "a"}],
    "extraVolumeMounts": [{"name": "a"}],
    "tests.timeout": "1s",
    "loadtest.enabled": False,
    "loadtest.kind": "cronjob",
    "loadtest.scenario": "soak",
    "loadtest.settings": {"RATE": 1},
    "loadtest.url": "http://a",
    "loadtest.ttlSecondsAfterFinished": 60,
    "loadtest.image.digest": f"sha256:{'a' * 64}",
    "loadtest.image.pullPolicy": "Always",
    "loadtest.schedule": "1 2 * * *",
    "loadtest.remoteWrite": "http://a",
    "loadtest.egress": RULES,
    "loadtest.resources": {"limits": {"memory": "2Gi"}},
    **{
        f"monitoring.{kind}.{name}": written
        for kind in ("podMonitor", "serviceMonitor")
        for name, written in (("interval", "30s"), ("scrapeTimeout", "7s"))
    },
    **{
        f"networkPolicy.{name}": [{"podSelector": {"matchLabels": {"a": "b"}}}]
        for name in ("clients", "monitoring", "nodes", "dns")
    },
}

LEAVES = [value for value in chart.values() if value.leaf]


@pytest.mark.parametrize("value", LEAVES, ids=[".".join(value.path) for value in LEAVES])
def test_it_has_an_effect(value: chart.Value) -> None:
    path = ".".join(value.path)
    context = merged(*(each for beginning, each in CONTEXTS.items() if path.startswith(beginning)))
    changed = merged(context, nested(path, CHANGED.get(path, _another(value.default))))
    assert _comparable(render(context)) != _comparable(render(changed))


def _another(default: Any) -> Any:
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, str):
        return "changed"
    return {"changed": "yes"} if isinstance(default, dict) else ["changed"]


def _comparable(rendered: Rendered) -> str:
    """Without what is made up at each rendering, and with what is inside the file of keys."""
    text = str(rendered)
    for secret in rendered.of("Secret").values():
        for name, encoded in secret["data"].items():
            shown = base64.b64decode(encoded).decode()
            text = text.replace(encoded, _without_digests(shown) if name == "keys.yaml" else "")
    return text


def _without_digests(keys: str) -> str:
    return "".join(line.partition(":")[2] for line in keys.splitlines())


def test_two_renderings_of_the_same_compare_as_the_same() -> None:
    one, other = rendered_anew({}), rendered_anew({})
    assert one.objects != other.objects
    assert _comparable(one) == _comparable(other)


def test_every_value_says_what_it_is_for() -> None:
    assert [value.path for value in chart.values() if value.leaf and len(value.description) < 4] == []
