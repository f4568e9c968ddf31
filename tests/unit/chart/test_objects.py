"""What the chart makes, over a matrix of values: valid for the Kubernetes API, restricted, and hanging together."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
import yaml

from dub5.advisor.schedule import Span, cron_jobs, triggers
from testkit.chart import CHART, merged
from tests.unit.chart.support import ApiSchemas, Json, Rendered, nested, render, rendered_anew

KEDA: Json = {"autoscaling": {"mode": "keda", "keda": {"serverAddress": "http://prometheus:9090"}}}
FIXED: Json = {"autoscaling": {"mode": "none"}}
PROVIDER = {
    "config": {
        "providers": {"openai": {"kind": "openai", "api_key": {"env": "OPENAI_API_KEY"}}},
        "models": {"small": {"routes": ["openai/gpt-4o-mini"]}},
        "personalities": {"pirate": {"system": "Arr.", "model": "small"}},
        "limits": {"default": {"tokens_per_minute": 2_000_000}},
        "telemetry": {"tracing": True},
    },
    "secretEnv": {"OPENAI_API_KEY": {"name": "providers", "key": "openai"}},
    "env": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "A_NUMBER": 5, "A_SWITCH": True},
}
EXTERNAL = {
    "redis": {
        "mode": "external",
        "external": {
            "url": "rediss+sentinel://a:26380,b/mymaster/0",
            "username": "dub5",
            "existingSecret": "redis",
            "caSecret": "redis-ca",
        },
    }
}
PLACED = {
    "nodeSelector": {"pool": "chat"},
    "tolerations": [{"key": "chat", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "high",
    "imagePullSecrets": [{"name": "registry"}],
    "podLabels": {"team": "chat"},
    "podAnnotations": {"note": "yes"},
    "commonLabels": {"cost-centre": "42"},
    "extraVolumes": [{"name": "more", "secret": {"secretName": "more"}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "topologySpreadConstraints": [
        {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
    ],
}
ROUTED: Json = {
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["chat.example"]},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "hosts": ["chat.example", "chat.example.org"],
        "tls": [{"secretName": "chat-tls", "hosts": ["chat.example"]}],
        "annotations": {"nginx.ingress.kubernetes.io/proxy-buffering": "off"},
    },
}
PEER = {"namespaceSelector": {"matchLabels": {"team": "web"}}}
POLICIES = {
    "networkPolicy": {
        "clients": [PEER],
        "nodes": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
        "otlp": [{"to": [PEER], "ports": [{"port": 4318}]}],
        "redis": [{"to": [PEER], "ports": [{"port": 6379}]}],
    }
}
ADVISOR = nested("advisor", {"enabled": True, "prometheus": "http://prometheus.monitoring:9090"})

MATRIX: dict[str, Json] = {
    "defaults": {},
    "keda": KEDA,
    "keda with CPU and authentication": merged(
        KEDA,
        nested("autoscaling.cpu.enabled", True),
        nested("autoscaling.keda.authenticationRef", "prometheus"),
    ),
    "keda with floors by hour": merged(
        KEDA, nested("autoscaling.keda.triggers", triggers([Span((1, 2), 8, 12, 6)]))
    ),
    "hpa with CPU": nested("autoscaling.cpu.enabled", True),
    "fixed": merged(FIXED, {"replicas": 3}),
    "fixed, none": merged(FIXED, {"replicas": 0}),
    "a provider": PROVIDER,
    "external Redis": EXTERNAL,
    "external Redis, own rules": merged(EXTERNAL, POLICIES),
    "no Redis": nested("redis.mode", "none"),
    "anonymous": {"auth": {"anonymous": True}},
    "secrets by reference": {
        "auth": {"existingSecret": "keys", "existingSecretKey": "file"},
        "redis": {"bundled": {"existingSecret": "cache", "existingSecretKey": "secret"}},
    },
    "tested with a key": {
        "auth": {"existingSecret": "keys"},
        "tests": {"keySecret": "test", "model": "tutor"},
    },
    "placed": PLACED,
    "routed": ROUTED,
    "dashboards": nested(
        "monitoring.dashboards", {"enabled": True, "annotations": {"grafana_folder": "DUB5"}}
    ),
    "PodMonitor": nested("monitoring.podMonitor", {"enabled": True, "labels": {"release": "prometheus"}}),
    "ServiceMonitor": nested(
        "monitoring.serviceMonitor", {"enabled": True, "labels": {"release": "prometheus"}}
    ),
    "alerts": nested(
        "monitoring.alerts",
        {"prometheusRule": True, "configMap": True, "runbooks": "https://git.example/docs/runbooks"},
    ),
    "policies": POLICIES,
    "no policies": nested("networkPolicy.enabled", False),
    "digests": nested("image.digest", f"sha256:{'a' * 64}"),
    "Kubernetes 1.29": {"kubeVersion": "1.29.4"},
    "no preStop": {"preStopSeconds": 0},
    "no account, no budget": {"serviceAccount": {"create": False}, "podDisruptionBudget": {"enabled": False}},
    "OpenShift": {"runAsUser": None},
    "other names": {
        "fullnameOverride": "a-name-that-is-much-too-long-for-all-that-follows-it",
        "nameOverride": "chat",
    },
    "load test": {"loadtest": {"enabled": True, "helmTest": True}},
    "load test, written down": {
        "loadtest": {
            "enabled": True,
            "scenario": "steady",
            "settings": {"RATE": 5, "DURATION": "2m", "EXACT_LENGTHS": True},
            "resultsClaim": "results",
            "remoteWrite": "http://prometheus:9090/api/v1/write",
            "egress": [{"to": [PEER], "ports": [{"port": 9090}]}],
            "nodeSelector": {"pool": "load"},
        }
    },
    "load test at night": {"loadtest": {"enabled": True, "kind": "cronjob", "suspend": True}},
    "load test of many pods": {"loadtest": {"enabled": True, "kind": "testrun", "parallelism": 3}},
    "load test of another": {
        "auth": {"anonymous": True},
        "loadtest": {"enabled": True, "url": "https://chat.example", "keySecret": "theirs"},
    },
    "advisor": ADVISOR,
    "advisor, by a schedule": merged(
        ADVISOR,
        nested("advisor", {"schedule": "17 3 * * *", "resultsClaim": "results", "existingSecret": "prom"}),
    ),
    "exposed": {
        "service": {
            "type": "LoadBalancer",
            "port": 8080,
            "annotations": {"cloud": "yes"},
            "loadBalancerClass": "a.b/c",
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
        }
    },
    "everything": merged(PROVIDER, EXTERNAL, PLACED, ROUTED, POLICIES, KEDA),
}
for _path in sorted(CHART.glob("examples/*.yaml")):
    MATRIX[f"example {_path.stem}"] = yaml.safe_load(_path.read_text(encoding="utf-8"))

everywhere = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)

TEST_POD = "dub5-test-autoscaling"


def test_examples_are_these() -> None:
    found = [path.stem for path in sorted(CHART.glob("examples/*"))]
    assert found == ["gitops", "production", "rehearsal", "small"]


@pytest.fixture(scope="module", params=["oldest", "newest"])
def schemas(request: pytest.FixtureRequest) -> ApiSchemas:
    return ApiSchemas(request.param)


@everywhere
def test_the_kubernetes_api_accepts_every_object(values: Json, schemas: ApiSchemas) -> None:
    for made in render(values).objects.values():
        assert schemas.complaints(made) == []


def test_the_kubernetes_api_accepts_the_jobs_of_floors_by_hour(schemas: ApiSchemas) -> None:
    """Those that `dub5 autoscale recommend` writes beside the chart."""
    for made in cron_jobs([Span((1, 2), 8, 8, 6)], "dub5", "kubectl:1"):
        assert schemas.complaints(made) == []


def test_the_schemas_can_complain(schemas: ApiSchemas) -> None:
    deployment = render().one("Deployment")
    for path, value in [
        ("spec.replica", 2),
        ("spec.template.spec.containers", [{"name": "a", "prots": []}]),
        ("spec.strategy.rollingUpdate.maxSurge", []),
        ("spec.template.spec.terminationGracePeriodSeconds", "long"),
    ]:
        assert len(schemas.complaints(merged(deployment, nested(path, value)))) == 1
    job = render(MATRIX["load test"]).of("Job").popitem()[1]
    assert len(schemas.complaints(merged(job, nested("spec.podFailurePolicy", {"rule": []})))) == 1
    shared = render(MATRIX["load test of many pods"]).one("TestRun", "dub5-loadtest")
    assert len(schemas.complaints(merged(shared, nested("spec.runner.imagee", "k6")))) == 1
    for kind, values in [
        ("ScaledObject", KEDA),
        ("HTTPRoute", ROUTED),
        ("PrometheusRule", MATRIX["alerts"]),
    ]:
        assert schemas.complaints(merged(render(values).one(kind), nested("spec.surprise", 1))) != []


@everywhere
def test_every_pod_meets_the_restricted_standard(values: Json) -> None:
    for pod in render(values).pods().values():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
        assert all(not volume.keys() & {"hostPath"} for volume in pod.get("volumes", []))
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@everywhere
def test_only_who_asks_kubernetes_has_a_token(values: Json) -> None:
    rendered = render(merged(values, nested("advisor.enabled", False)))
    with_token = {
        name
        for name, pod in rendered.pods().items()
        if pod["automountServiceAccountToken"] or "serviceAccountToken" in str(pod.get("volumes"))
    }
    assert {name.rpartition("-")[2] for name in with_token} <= {"autoscaling", "operator"}
    assert all(
        not account["automountServiceAccountToken"] for account in rendered.of("ServiceAccount").values()
    )
    rights = [rule for role in rendered.of("Role").values() for rule in role["rules"]]
    assert {verb for rule in rights for verb in rule["verbs"]} <= {"get", "list"}


@everywhere
def test_no_variable_is_there_twice(values: Json) -> None:
    for pod in render(values).pods().values():
        for container in pod["containers"]:
            names = [variable["name"] for variable in container.get("env", [])]
            assert len(names) == len(set(names))
            assert all(isinstance(variable.get("value", ""), str) for variable in container.get("env", []))


def test_a_large_number_in_a_variable_is_as_it_was_written() -> None:
    given: Json = {"MALLOC_TRIM_THRESHOLD_": 134_217_728, "RATIO": 0.1, "ON": True, "TEXT": "1e6"}
    written = {"MALLOC_TRIM_THRESHOLD_": "134217728", "RATIO": "0.1", "ON": "true", "TEXT": "1e6"}
    rendered = render(
        {
            "env": given,
            "operator": {"enabled": True},
            "loadtest": {"enabled": True, "settings": {"SEED": 20_260_101}},
        }
    )
    for name in ("dub5", "dub5-operator"):
        assert written.items() <= _variables(rendered.pods()[name]).items()
    [job] = rendered.of("Job")
    assert _variables(rendered.pods()[job])["SEED"] == "20260101"


def _variables(pod: Json) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in pod["containers"][0]["env"]}


@everywhere
def test_exactly_one_decides_how_many(values: Json) -> None:
    rendered = render(values)
    deployment = next(iter(rendered.of("Deployment").values()))
    deciders: list[Any] = [
        *rendered.of("HorizontalPodAutoscaler").values(),
        *rendered.of("ScaledObject").values(),
        *(["replicas"] if "replicas" in deployment["spec"] else []),
    ]
    assert len(deciders) == 1
    if deciders[0] != "replicas":
        assert deciders[0]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


@everywhere
def test_selectors_find_what_they_mean(values: Json) -> None:
    rendered = render(values)
    pods = _labels_of_pods(rendered)
    backend = next(iter(rendered.of("Deployment")))
    for name, service in rendered.of("Service").items():
        assert _selected(service["spec"]["selector"], pods) == {
            f"{backend}-redis" if "redis" in name else backend
        }
    for budget in rendered.of("PodDisruptionBudget").values():
        assert _selected(budget["spec"]["selector"]["matchLabels"], pods) == {backend}
    for monitor in rendered.of("PodMonitor").values():
        assert _selected(monitor["spec"]["selector"]["matchLabels"], pods) == {backend}
    services = {name: each["metadata"]["labels"] for name, each in rendered.of("Service").items()}
    for monitor in rendered.of("ServiceMonitor").values():
        assert _selected(monitor["spec"]["selector"]["matchLabels"], services) == {f"{backend}-operations"}


def _labels_of_pods(rendered: Rendered) -> dict[str, dict[str, str]]:
    templates = {**rendered.of("Deployment"), **rendered.of("StatefulSet")}
    pods = {name: pod["metadata"]["labels"] for name, pod in rendered.of("Pod").items()}
    return pods | {name: each["spec"]["template"]["metadata"]["labels"] for name, each in templates.items()}


def _selected(selector: dict[str, str], objects: dict[str, dict[str, str]]) -> set[str]:
    return {name for name, labels in objects.items() if selector.items() <= labels.items()}


@everywhere
def test_what_a_pod_refers_to_is_there_or_the_users_own(values: Json) -> None:
    rendered = render(values)
    text = str(values)
    for pod in rendered.pods().values():
        for secret, keys in _secrets_of(pod):
            made = rendered.objects.get(("Secret", secret))
            assert made is not None or secret in text
            assert made is None or keys <= made["data"].keys()
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in rendered.objects
        if "serviceAccountName" in pod:
            known = pod["serviceAccountName"] in {*rendered.of("ServiceAccount"), "default"}
            assert known or pod["serviceAccountName"] in text


def _secrets_of(pod: Json) -> list[tuple[str, set[str]]]:
    volumes = [volume["secret"] for volume in pod.get("volumes", []) if "secret" in volume]
    mounted = [(each["secretName"], {item["key"] for item in each.get("items", [])}) for each in volumes]
    variables = [variable for container in pod["containers"] for variable in container.get("env", [])]
    sources = [each.get("valueFrom", {}) for each in variables]
    references = [source["secretKeyRef"] for source in sources if "secretKeyRef" in source]
    return mounted + [(each["name"], {each["key"]}) for each in references]


@everywhere
def test_names_fit_and_labels_are_the_usual_ones(values: Json) -> None:
    for (_, name), made in render(values).objects.items():
        assert len(name) <= 63
        labels = made["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/instance"] == "dub5"
        assert made["metadata"]["namespace"] == "chat"
        assert all(isinstance(value, str) and len(value) <= 63 for value in labels.values())


@pytest.mark.parametrize(("release", "namespace"), [("no", "on"), ("1e5", "1234")])
def test_names_that_look_like_something_else_in_yaml_are_names(
    release: str, namespace: str, schemas: ApiSchemas
) -> None:
    values = merged(ADVISOR, MATRIX["load test"], nested("operator", {"enabled": True, "crds": False}))
    rendered = rendered_anew(values, release, namespace)
    for made in rendered.objects.values():
        assert schemas.complaints(made) == []
        assert made["metadata"]["namespace"] == namespace
        assert made["metadata"]["labels"]["app.kubernetes.io/instance"] == release
    args = rendered.pods()[f"{release}-dub5-operator"]["containers"][0]["args"]
    assert args[args.index("--namespace") + 1] == namespace


NAMED = {
    "the accounts and secrets of others": {
        "priorityClassName": "1",
        "serviceAccount": {"name": "2"},
        "secretEnv": {"OPENAI_API_KEY": {"name": "3", "key": "4"}},
        "auth": {"existingSecret": "5", "existingSecretKey": "6"},
        "tests": {"keySecret": "7", "keySecretKey": "8"},
        "redis": {"bundled": {"existingSecret": "9", "existingSecretKey": "10"}},
        "ingress": {"enabled": True, "className": "11"},
        "service": {"type": "LoadBalancer", "loadBalancerClass": "12"},
    },
    "an external Redis": {
        "redis": {
            "mode": "external",
            "external": {
                "url": "rediss://redis",
                "existingSecret": "1",
                "existingSecretKey": "2",
                "caSecret": "3",
                "caSecretKey": "4",
            },
        }
    },
    "KEDA": merged(KEDA, nested("autoscaling.keda.authenticationRef", "1")),
    "the advisor": merged(
        ADVISOR,
        nested("advisor", {"existingSecret": "1", "existingSecretKey": "2", "resultsClaim": "3"}),
    ),
    "a load test": nested(
        "loadtest", {"enabled": True, "keySecret": "1", "keySecretKey": "2", "resultsClaim": "3"}
    ),
}


@pytest.mark.parametrize("values", NAMED.values(), ids=NAMED)
def test_names_that_look_like_numbers_are_names(values: Json, schemas: ApiSchemas) -> None:
    for made in render(values).objects.values():
        assert schemas.complaints(made) == []


@pytest.mark.parametrize(
    "path",
    [
        *(
            "config",
            "env",
            "secretEnv",
            "commonLabels",
            "podLabels",
            "podAnnotations",
            "nodeSelector",
            "affinity",
        ),
        *("loadtest.settings", "loadtest.nodeSelector", "monitoring.podMonitor.labels"),
        *("monitoring.alerts.labels", "monitoring.dashboards.annotations", "service.annotations"),
    ],
)
def test_a_mapping_with_nothing_below_it_is_an_empty_one(path: str) -> None:
    """As a values file has it whose lines below the key are all comments."""
    on = {"enabled": True}
    monitoring = {"podMonitor": on, "dashboards": on, "alerts": {"configMap": True}}
    values = merged(ADVISOR, MATRIX["load test"], {"monitoring": monitoring}, {"auth": {"anonymous": True}})
    nothing = rendered_anew(merged(values, nested(path, None)))
    empty = rendered_anew(merged(values, nested(path, {})))
    for kind in ("Deployment", "ConfigMap", "PodMonitor", "Job"):
        assert nothing.of(kind) == empty.of(kind)


def test_a_new_chart_or_program_restarts_no_redis() -> None:
    for name, labels in _labels_of_pods(render()).items():
        if "test" not in name:
            assert labels.keys().isdisjoint({"helm.sh/chart", "app.kubernetes.io/version"})


def test_keys_are_made_where_none_are_named() -> None:
    secret = {
        name: base64.b64decode(text).decode()
        for name, text in render().one("Secret", "dub5-keys")["data"].items()
    }
    digests = yaml.safe_load(secret["keys.yaml"])
    assert digests == {
        hashlib.sha256(secret["chat"].encode()).hexdigest(): {"tenant": "default", "roles": ["chat"]},
        hashlib.sha256(secret["admin"].encode()).hexdigest(): {"tenant": "default", "roles": ["admin"]},
    }
    assert len(secret["chat"]) == len("dub5-") + 40
    mounted = next(each for each in render().pods()["dub5"]["volumes"] if each["name"] == "keys")
    assert mounted["secret"]["items"] == [{"key": "keys.yaml", "path": "keys.yaml"}]


@pytest.mark.parametrize("tenant", ["42", "no", "2026-01-01"])
def test_a_tenant_that_looks_like_something_else_in_yaml_is_a_name(tenant: str) -> None:
    secret = render(nested("auth.tenant", tenant)).one("Secret", "dub5-keys")["data"]
    digests = yaml.safe_load(base64.b64decode(secret["keys.yaml"]))
    assert {key["tenant"] for key in digests.values()} == {tenant}


@pytest.mark.parametrize("name", ["gitops", "production"])
def test_what_is_named_is_not_made_up(name: str) -> None:
    values = MATRIX[f"example {name}"]
    assert render(values).of("Secret") == {}
    assert rendered_anew(values).objects == rendered_anew(values).objects


@everywhere
def test_the_notes_have_a_first_question_that_is_an_address_and_a_body(values: Json) -> None:
    notes = render(values).notes
    body = notes[notes.index("--data '") + len("--data '") : notes.rindex("'")]
    assert yaml.safe_load(body)["stream"] is True
    assert "/v1/chat/completions" in notes
    assert ("Authorization" in notes) != bool(values.get("auth", {}).get("anonymous"))


def test_the_notes_say_what_is_missing_for_autoscaling() -> None:
    assert "files/prometheus-adapter.yaml" in render().notes
    assert "podMonitor.enabled=true" in render().notes
    assert "Missing for autoscaling: KEDA" in render(KEDA).notes
    assert "autoscaling" not in render(FIXED).notes
    assert "tests.keySecret" in render({"auth": {"existingSecret": "keys"}}).notes


def test_a_chat_is_tested_where_a_key_is_known() -> None:
    assert "dub5-test-chat" in render().of("Pod")
    assert "dub5-test-chat" in render({"auth": {"anonymous": True}}).of("Pod")
    assert "dub5-test-chat" not in render({"auth": {"existingSecret": "keys"}}).of("Pod")
    tested: Any = render(MATRIX["tested with a key"]).pods()["dub5-test-chat"]["containers"][0]
    assert tested["args"][-2:] == ["--model", "tutor"]
    assert tested["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "test", "key": "chat"}


def test_nothing_is_tested_of_an_autoscaler_that_is_not_there() -> None:
    assert TEST_POD in render().of("Pod")
    assert TEST_POD not in render(FIXED).of("Pod")
    assert render(FIXED).of("Role") == {}
