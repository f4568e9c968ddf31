"""The advisor's part of the chart: off by default, one Job or by a schedule, and a right to one object only."""

from __future__ import annotations

import pytest
import yaml

from dub5.advisor.values import Values, of_values, read_values
from dub5.cli.kubernetes import OF
from testkit.chart import CHART, merged
from tests.unit.chart.support import Json, nested, refusal, render
from tests.unit.chart.test_objects import MATRIX

ON = nested("advisor", {"enabled": True, "prometheus": "http://prometheus.monitoring:9090"})
KEDA = nested("autoscaling", {"mode": "keda", "keda": {"serverAddress": "http://prom.of-keda:8080"}})


def advised(*more: Json) -> Json:
    return merged(ON, *more)


OTHERS = [
    advised(nested(name, value))
    for name, value in (("advisor.last", "48h"), ("autoscaling.minReplicas", 3), ("image.tag", "2"))
]


def job(values: Json) -> tuple[str, Json]:
    ((name, made),) = render(values).of("Job").items()
    return name, made["spec"]


def arguments(values: Json) -> dict[str, str]:
    _, spec = job(values)
    (container,) = spec["template"]["spec"]["containers"]
    command, recommend, *options = container["args"]
    assert (command, recommend) == ("autoscale", "recommend")
    return {name: value for name, _, value in (each.partition("=") for each in options)}


def handed(values: Json) -> Values:
    """The values as the Job reads them."""
    maps = render(values).of("ConfigMap").items()
    (made,) = [made for name, made in maps if name.endswith("-advisor")]
    return of_values(yaml.safe_load(made["data"]["values.yaml"]))


def test_it_knows_what_the_autoscaler_is_called() -> None:
    values = {**ON, "fullnameOverride": "talk"}
    assert list(render(values).of("HorizontalPodAutoscaler")) == [arguments(values)["--hpa"]] == ["talk"]


def test_it_is_off_by_default() -> None:
    assert not [name for _, name in render().objects if "advi" in name]


def test_it_may_patch_one_object_that_is_there_and_nothing_else() -> None:
    made = render(ON)
    assert made.one("Role", "dub5-advisor")["rules"] == [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["dub5-advice"], "verbs": ["patch"]}
    ]
    assert made.of("ClusterRole") == made.of("ClusterRoleBinding") == {}
    [subject] = made.one("RoleBinding", "dub5-advisor")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "dub5-advisor", "namespace": "chat"}
    with_token = {name for name, each in made.pods().items() if "serviceAccountToken" in str(each)}
    assert with_token == {job(ON)[0]}


def test_an_upgrade_leaves_the_advice_since_the_chart_writes_none() -> None:
    made = render(ON).one("ConfigMap", "dub5-advice")
    assert made.keys() == {"apiVersion", "kind", "metadata"}
    assert "dub5.io/advice" not in made["metadata"]["labels"]


def test_it_reaches_names_prometheus_and_the_api_and_is_reached_by_nobody() -> None:
    spec = render(ON).one("NetworkPolicy", "dub5-advisor")["spec"]
    assert "ingress" not in spec
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    _, prometheus, api = spec["egress"]
    assert [port["port"] for port in api["ports"]] == [443, 6443]
    assert prometheus == {
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "ports": [{"protocol": "TCP", "port": 9090}],
    }
    labels = job(ON)[1]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= labels.items()
    deny = render(ON).one("NetworkPolicy", "dub5-deny")["spec"]["podSelector"]["matchLabels"]
    assert deny.items() <= labels.items()


@pytest.mark.parametrize(
    ("url", "namespace", "port"),
    [
        ("http://prometheus:9090", "chat", 9090),
        ("http://prometheus.monitoring", "monitoring", 80),
        ("http://prometheus.monitoring.svc:9090/prometheus", "monitoring", 9090),
        ("http://prometheus.monitoring.svc.cluster.local:9090", "monitoring", 9090),
        ("https://prometheus.example.com", None, 443),
        ("http://10.1.2.3:9090", None, 9090),
        ("http://[fd00::1]:9090", None, 9090),
    ],
)
def test_prometheus_is_where_its_address_says(url: str, namespace: str | None, port: int) -> None:
    rule = render(advised(nested("advisor.prometheus", url))).one("NetworkPolicy", "dub5-advisor")["spec"][
        "egress"
    ][1]
    assert [each["port"] for each in rule["ports"]] == [port]
    if namespace is None:
        assert [each["ipBlock"]["except"] for each in rule["to"]] == [["169.254.0.0/16"], ["fe80::/10"]]
    else:
        (peer,) = rule["to"]
        assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}


def test_rules_of_ones_own_lead_to_prometheus_instead() -> None:
    rule = {"to": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}], "ports": [{"port": 9091}]}
    made = render(advised(nested("networkPolicy.prometheus", [rule])))
    assert made.one("NetworkPolicy", "dub5-advisor")["spec"]["egress"][1] == rule
    assert "It reaches" not in made.notes


def test_what_the_job_is_told() -> None:
    given = arguments(ON)
    assert given.pop("--of")
    assert given == {
        "--prometheus": "http://prometheus.monitoring:9090",
        "--selector": 'namespace="chat",pod=~"dub5-[a-z0-9]+-[a-z0-9]+"',
        "--last": "24h",
        "--hpa": "dub5",
        "--values": "/etc/dub5/values/values.yaml",
        "--refused": "0.001000000",
        "--wait": "1s",
        "--seeds": "5",
        "--jobs": "1",
        "--configmap": "dub5-advice",
        "--namespace": "chat",
        "--exit-zero": "",
    }


def test_what_else_it_may_be_told() -> None:
    told = {
        "selector": r'pod=~"a\\.b: #c"',
        "objective": {"refused": 0.00001},
        "args": ["--keep=0s"],
        "failOnMiss": True,
        "resultsClaim": "results",
        "existingSecret": "prometheus",
    }
    found = arguments(advised(nested("advisor", told)))
    assert found["--selector"] == r'pod=~"a\\.b: #c"'
    assert (found["--refused"], found["--keep"]) == ("0.000010000", "0s")
    assert found["--write-record"] == "/results/$(POD_NAME).record"
    assert found["--markdown"] == "/results/$(POD_NAME).md"
    assert found["--token-file"] == "/etc/dub5/prometheus/token"
    assert "--exit-zero" not in found
    assert (
        arguments(merged(KEDA, nested("advisor.enabled", True)))["--prometheus"] == "http://prom.of-keda:8080"
    )


def test_a_wrong_argument_and_a_missed_objective_are_not_tried_again() -> None:
    _, spec = job(ON)
    disrupted, final = spec["podFailurePolicy"]["rules"]
    assert disrupted["action"] == "Ignore"
    assert (final["action"], final["onExitCodes"]["values"]) == ("FailJob", [2, 3])
    assert spec["backoffLimit"] == 6
    assert spec["activeDeadlineSeconds"] == 7200
    assert "ttlSecondsAfterFinished" not in spec
    _, kept_short = job(advised(nested("advisor.ttlSecondsAfterFinished", 0)))
    assert kept_short["ttlSecondsAfterFinished"] == 0


def test_by_a_schedule() -> None:
    made = render(advised(nested("advisor.schedule", "17 3 * * 1")))
    assert made.of("Job") == {}
    spec = made.one("CronJob", "dub5-advisor")["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("17 3 * * 1", "Forbid")
    assert spec["jobTemplate"]["spec"] == job(ON)[1]
    assert "by `17 3 * * 1`" in made.notes


def test_a_job_writes_only_what_is_still_asked_for() -> None:
    given = set()
    for values in (ON, *OTHERS):
        annotations = render(values).one("ConfigMap", "dub5-advice")["metadata"]["annotations"]
        assert annotations == {OF: arguments(values)["--of"]}
        given |= {*annotations.values()}
    assert len(given) == 4


def test_another_job_for_other_values_and_the_same_for_the_same() -> None:
    name = job(ON)[0]
    assert name == job(merged(ON, {"service": {"port": 8080}}))[0]
    assert len({name, *(job(values)[0] for values in OTHERS)}) == 4


AUTOSCALED = {
    name: values for name, values in MATRIX.items() if values.get("autoscaling", {}).get("mode") != "none"
}


@pytest.mark.parametrize("values", AUTOSCALED.values(), ids=AUTOSCALED)
def test_the_job_reads_the_values_that_are_in_force(values: Json) -> None:
    wanted = merged(values, nested("autoscaling.keda.triggers", []))
    asked = read_values([CHART / "values.yaml"], wanted)
    assert handed(merged(ON, wanted)).for_record() == asked.for_record()


@pytest.mark.parametrize(("models", "one"), [(["mine"], True), (["mine", "yours"], False), (["*"], False)])
def test_of_models_it_is_told_only_whether_there_are_several(models: list[str], one: bool) -> None:
    routes: Json = {"routes": ["demo/*" if "*" in models else "demo/simulated"]}
    values = advised(nested("config.models", dict.fromkeys(models, routes)))
    assert handed(values).one_model is one
    assert "mine" not in str(render(values).one("ConfigMap", "dub5-advisor"))


def test_the_notes_say_where_the_verdict_is() -> None:
    notes = render(ON).notes
    assert "get configmap dub5-advice --output jsonpath='{.data.verdict}'" in notes
    assert "It reaches port 9090 of pods in monitoring." in notes
    assert "advice" not in render().notes


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (nested("advisor.enabled", True), "advisor.prometheus: say where Prometheus is"),
        (advised(nested("autoscaling.mode", "none")), "advisor.enabled: with autoscaling.mode none"),
        (
            advised(KEDA, nested("autoscaling.keda.triggers", [{"type": "cron", "metadata": {}}])),
            "advisor.enabled: autoscaling.keda.triggers cannot",
        ),
        (advised(nested("advisor.prometheus", "prometheus:9090")), "/advisor/prometheus"),
        (advised(nested("advisor.prometheus", "http://me:secret@prometheus")), "/advisor/prometheus"),
        (advised(nested("advisor.last", "a day")), "/advisor/last"),
        (advised(nested("advisor.seeds", "five")), "/advisor/seeds"),
        (advised(nested("advisor.jobs", 0)), "/advisor/jobs"),
        (advised(nested("advisor.objective.refused", 5)), "/advisor/objective/refused"),
        (advised(nested("advisor.objective.wait", 1)), "/advisor/objective/wait"),
        (advised(nested("advisor.args", "--keep=0s")), "/advisor/args"),
        (advised(nested("advisor.resultClaim", "x")), "resultClaim"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(values: Json, said: str) -> None:
    assert said in refusal(values)


def test_names_of_long_releases_fit() -> None:
    long = advised({"fullnameOverride": "a" * 63})
    name, _ = job(long)
    assert len(name) <= 57  # and a pod's is six longer
    ((scheduled, _),) = render(merged(long, nested("advisor.schedule", "@daily"))).of("CronJob").items()
    assert len(scheduled) <= 52  # and a Job's is eleven longer
