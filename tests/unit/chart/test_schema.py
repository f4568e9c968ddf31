"""values.schema.json: closed, and its refusals name the key."""

from __future__ import annotations

import json

import jsonschema
import pytest

from dub5.settings.schema import schema as program_schema
from testkit.chart import CHART
from tests.unit.chart.support import Json, nested, refusal, render

SCHEMA: Json = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
REDIS = "redis.external.url"

BAD = [
    ("replcas", 3, "'replcas' not allowed"),
    ("image.tga", "1", "'tga' not allowed"),
    ("autoscaling.keda.serverAdress", "http://p", "'serverAdress' not allowed"),
    ("autoscaling.mode", "both", "'/autoscaling/mode': value must be one of"),
    ("autoscaling.targetPercentage", 95, "'/autoscaling/targetPercentage'"),
    ("autoscaling.minReplicas", 0, "'/autoscaling/minReplicas'"),
    ("autoscaling.behavior.scaleDown.polices", [], "'polices' not allowed"),
    ("autoscaling.behavior.scaleUp.policies", [{"type": "Pods"}], "missing properties"),
    ("enabled", False, "'/enabled': value must be true"),
    ("nameOverride", "My_App", "'/nameOverride'"),
    ("fullnameOverride", "Chat", "'/fullnameOverride'"),
    ("fullnameOverride", "1e3", "'/fullnameOverride'"),
    ("fullnameOverride", "chat.v1", "'/fullnameOverride'"),
    ("ingress", None, "missing property 'ingress'"),
    ("monitoring.podMonitor", None, "'/monitoring': missing property 'podMonitor'"),
    ("replicas", "three", "'/replicas': got string, want integer"),
    ("image.digest", "sha256:short", "'/image/digest'"),
    ("maxSurge", "0", "'/maxSurge'"),
    ("podDisruptionBudget.maxUnavailable", 0, "'/podDisruptionBudget/maxUnavailable'"),
    ("podLabels.team", 5, "'/podLabels/team': got number, want string"),
    ("secretEnv.OPENAI_API_KEY", "sk-inline", "'/secretEnv/OPENAI_API_KEY': got string, want object"),
    ("redis.timeout", 100, "'/redis/timeout'"),
    ("redis.timeout", "250ms", "'/redis/timeout'"),
    ("redis.timeout", "1s", "'/redis/timeout'"),
    ("redis.bundled.maxmemory", "256", "'/redis/bundled/maxmemory'"),
    (REDIS, "http://redis", "'/redis/external/url'"),
    (REDIS, "redis://user:secret@redis", "'/redis/external/url'"),
    ("resources.request", {}, "'request' not allowed"),
    ("service.port", 0, "'/service/port'"),
    ("httpRoute.requestTimeout", "forever", "'/httpRoute/requestTimeout'"),
    ("listenAddress", "127.0.0.1", "'/listenAddress'"),
    ("runAsUser", 0, "'/runAsUser'"),
    ("loadtest.scenario", "chaos", "'/loadtest/scenario': value must be one of"),
    ("loadtest.settings.rate", 5, "'/loadtest/settings': additional properties 'rate' not allowed"),
    ("loadtest.url", "http://user:secret@host", "'/loadtest/url'"),
    ("loadtest.backofLimit", 1, "'backofLimit' not allowed"),
    # The program's own schema, on the chart's values.
    ("config.servr", {}, "'/config': additional properties 'servr' not allowed"),
    ("config.server.max_strem", "5m", "'/config/server': additional properties 'max_strem' not allowed"),
    ("config.server.max_stream", "5 minutes", "'/config/server/max_stream'"),
    ("config.providers.a", {"kind": "opnai"}, "'/config/providers/a/kind': value must be one of"),
    ("config.providers.a", {"base_url": "https://a"}, "'/config/providers/a': missing property 'kind'"),
    ("config.providers.a", {"kind": "openai", "api_kye": {}}, "'/config/providers/a': additional properties"),
    ("config.providers.a", {"kind": "openai", "api_key": "sk-inline"}, "'/config/providers/a/api_key'"),
    ("config.models.m", {"routes": []}, "'/config/models/m/routes'"),
    ("config.cache.classes.faq", {"share": "all"}, "'/config/cache/classes/faq/share'"),
    # What the chart itself writes has one place only.
    ("config.server.port", 80, "'/config/server': additional properties 'port' not allowed"),
    ("config.redis", {"url": "redis://a"}, "'/config': additional properties 'redis' not allowed"),
    ("config.auth", {"anonymous": True}, "'/config': additional properties 'auth' not allowed"),
]

CROSSING = [
    (
        {"autoscaling": {"minReplicas": 11}},
        "autoscaling.minReplicas (11) is more than autoscaling.maxReplicas (10)",
    ),
    ({"autoscaling": {"mode": "keda"}}, "autoscaling.keda.serverAddress: say where Prometheus is"),
    ({"config": {"admission": {"max_inflight": 1}}}, "config.admission.max_inflight: 1 is too little"),
    ({"redis": {"mode": "external"}}, "redis.external.url: say where Redis is"),
    (
        {"redis": {"bundled": {"maxmemory": "1gb"}}},
        "redis.bundled.resources.limits.memory: 384Mi is no more than redis.bundled.maxmemory (1gb)",
    ),
    (
        {"redis": {"bundled": {"resources": {"limits": {"memory": 268_435_456}}}}},
        "redis.bundled.resources.limits.memory: 268435456 is no more than redis.bundled.maxmemory (256mb)",
    ),
    ({"auth": {"anonymous": True, "existingSecret": "keys"}}, "auth.anonymous: leave it out"),
    ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs: name the Gateway"),
    (
        {"monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
        "enable podMonitor or serviceMonitor, not both",
    ),
    (
        {"monitoring": {"podMonitor": {"enabled": True, "interval": "5s"}}},
        "monitoring.podMonitor.scrapeTimeout (10s) is longer than monitoring.podMonitor.interval (5s)",
    ),
    (
        {"monitoring": {"serviceMonitor": {"enabled": True, "interval": "1m", "scrapeTimeout": "90s"}}},
        "monitoring.serviceMonitor.scrapeTimeout (90s) is longer than monitoring.serviceMonitor.interval (1m)",
    ),
    (
        {"auth": {"existingSecret": "keys"}, "loadtest": {"enabled": True}},
        "loadtest.keySecret: name a Secret with a key that may chat",
    ),
    ({"env": {"DUB5_SERVER__PORT": "80"}}, "DUB5_SERVER__PORT: names that begin with DUB5_"),
    ({"secretEnv": {"DUB5_KEY": {"name": "a", "key": "b"}}}, "DUB5_KEY: names that begin with DUB5_"),
    (
        {"env": {"A": "1"}, "secretEnv": {"A": {"name": "a", "key": "b"}}},
        "secretEnv.A: env has the same name",
    ),
    ({"service": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}}, "are for type LoadBalancer only"),
    ({"service": {"loadBalancerClass": "inside"}}, "are for type LoadBalancer only"),
    ({"extraVolumes": [{"name": "config"}]}, "extraVolumes: there is a volume `config` already"),
    ({"extraVolumes": [{"name": "keys"}]}, "extraVolumes: there is a volume `keys` already"),
    ({"extraVolumes": [{"name": "ca"}, {"name": "ca"}]}, "extraVolumes: there is a volume `ca` already"),
]


@pytest.mark.parametrize(("path", "value", "reason"), BAD, ids=[f"{path}={value}" for path, value, _ in BAD])
def test_a_bad_value_is_refused_by_name(path: str, value: object, reason: str) -> None:
    assert reason in refusal(nested(path, value))


@pytest.mark.parametrize(("values", "reason"), CROSSING, ids=[reason for _, reason in CROSSING])
def test_values_that_do_not_go_together_are_refused(values: Json, reason: str) -> None:
    assert reason in refusal(values)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("global", {"anything": 1}),
        ("enabled", True),
        ("fullnameOverride", "chat-2"),
        ("maxSurge", 1),
        ("maxSurge", "50%"),
        ("podDisruptionBudget.maxUnavailable", "30%"),
        ("config.server.max_stream", 90),
        *(("redis.timeout", timeout) for timeout in ("100ms", "50ms", "2.5ms", "0.1s", "0.05s")),
        ("redis.bundled", {"maxmemory": "1gb", "resources": {"limits": {"memory": "1.5Gi"}}}),
        ("redis.bundled", {"maxmemory": "900mb", "resources": {"limits": {"memory": "1G"}}}),
        ("redis.bundled", {"maxmemory": "1gb", "resources": {"limits": {"memory": "1500000Ki"}}}),
        ("redis.bundled", {"maxmemory": "1gb", "resources": {"limits": {"memory": 1_610_612_736}}}),
        ("redis.bundled", {"maxmemory": "1gb", "resources": {"limits": {"memory": None}}}),
        ("redis", {"mode": "none", "bundled": {"maxmemory": "1gb"}}),
        ("monitoring.podMonitor", {"enabled": True, "interval": "1m", "scrapeTimeout": "60s"}),
        ("monitoring.serviceMonitor", {"interval": "5s"}),
        ("config.providers.a", {"kind": "simulated", "tokens_per_second": 5.5}),
        ("autoscaling.behavior.scaleUp.tolerance", "5%"),
        *(
            (REDIS, url)
            for url in (
                "redis://a",
                "rediss://user@a:6380/1",
                "redis+cluster://a,b",
                "rediss+sentinel://u@a:1,b/m/0",
            )
        ),
    ],
)
def test_a_good_value_is_taken(path: str, value: object) -> None:
    render(nested(path, value))


def test_it_is_draft_07_which_helm_3_knows() -> None:
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    newer = {"$defs", "prefixItems", "unevaluatedProperties", "dependentRequired", "discriminator"}
    assert _keys_of(SCHEMA).isdisjoint(newer)


def _keys_of(node: object) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(_keys_of, node)) if node else set()
    if isinstance(node, dict):
        return set(node).union(*map(_keys_of, node.values()))
    return set()


def test_every_mapping_with_known_keys_is_closed() -> None:
    open_ones = [
        found for found in _objects(SCHEMA) if "properties" in found and "additionalProperties" not in found
    ]
    assert [found["properties"].keys() for found in open_ones] in (
        [],
        [{"name"}],
        [{"kind"}],
        [{"kind"}, {"name"}],
    )


def _objects(node: object) -> list[Json]:
    if isinstance(node, list):
        return [found for each in node for found in _objects(each)]
    if isinstance(node, dict):
        own = [node] if node.get("type") == "object" else []
        return own + [found for each in node.values() for found in _objects(each)]
    return []


def test_the_programs_schema_is_all_there_but_for_what_the_chart_writes() -> None:
    program = program_schema()["$defs"]
    ours = SCHEMA["definitions"]
    for name, definition in program.items():
        mine = ours["config" if name == "Settings" else name]
        left_out = definition.get("properties", {}).keys() - mine.get("properties", {}).keys()
        expected = {
            "Settings": {"redis", "auth"},
            "ServerSettings": {"host", "port", "operations_host", "operations_port"},
        }
        assert left_out == expected.get(name, set())
