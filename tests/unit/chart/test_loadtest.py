"""The load test: a missed gate fails it and is not tried again, and every script is where it is looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testkit.chart import CHART, merged
from tests.documents.reference import OF_THE_CHART, settings_of_load_tests
from tests.unit.chart.support import Json, Rendered, nested, refusal, render
from tests.unit.chart.test_network import PEER, component, policy, ports

SCRIPTS = Path(__file__).parents[3] / "deploy/k6"
ON: Json = {"loadtest": {"enabled": True}}


def on(**values: object) -> Rendered:
    return render({"loadtest": {"enabled": True, **values}})


def job(rendered: Rendered) -> Json:
    [(_, made)] = rendered.of("Job").items()
    return made


def container(rendered: Rendered) -> Json:
    made: Json = job(rendered)["spec"]["template"]["spec"]["containers"][0]
    return made


def environment(of: Json) -> dict[str, str | None]:
    return {variable["name"]: variable.get("value") for variable in of["env"]}


def test_there_is_none_by_default() -> None:
    assert not [name for _, name in render().objects if "loadtest" in name or "k6" in name]


def test_a_missed_gate_fails_the_job_and_a_drained_node_does_not() -> None:
    spec = job(on(backoffLimit=5))["spec"]
    drained, failed = spec["podFailurePolicy"]["rules"]
    assert (drained["action"], drained["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert failed["action"] == "FailJob"
    # 99 is a missed gate, 107 a script that cannot run: neither is better the second time.
    assert failed["onExitCodes"] == {"containerName": "k6", "operator": "NotIn", "values": [0]}
    assert container(on())["name"] == "k6"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["backoffLimit"] == 5


def test_a_job_is_run_again_when_it_changes_and_only_then() -> None:
    names = [
        job(render(values))["metadata"]["name"]
        for values in (
            ON,
            merged(ON, {"maxSurge": 1}),
            merged(ON, nested("loadtest.run", "again")),
            merged(ON, nested("loadtest.settings", {"RATE": 5})),
        )
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_a_job_is_not_deleted_and_so_not_made_again() -> None:
    assert "ttlSecondsAfterFinished" not in job(on())["spec"]
    assert job(on(ttlSecondsAfterFinished=0))["spec"]["ttlSecondsAfterFinished"] == 0
    assert job(on(ttlSecondsAfterFinished=60))["spec"]["ttlSecondsAfterFinished"] == 60


def test_every_script_is_mounted_where_k6_looks_for_it() -> None:
    rendered = on(scenario="ramp-to-break")
    assert container(rendered)["args"][-1] == "/scripts/scenarios/ramp-to-break.js"
    assert "--log-format=json" in container(rendered)["args"]
    texts = rendered.one("ConfigMap", "dub5-loadtest")["data"]
    volumes = {volume["name"]: volume for volume in job(rendered)["spec"]["template"]["spec"]["volumes"]}
    items = {item["path"]: item["key"] for item in volumes["scripts"]["configMap"]["items"]}
    files = {str(path.relative_to(SCRIPTS)): path for path in SCRIPTS.rglob("*") if path.is_file()}
    assert items.keys() == files.keys()
    for path, file in files.items():
        assert texts[items[path]] == file.read_text(encoding="utf-8"), path
    assert sum(map(len, texts.values())) < 2**20  # what a ConfigMap may hold


def test_the_copy_has_no_file_that_is_gone() -> None:
    copies = CHART / "files/k6"
    copied = {path.relative_to(copies) for path in copies.rglob("*") if path.is_file()}
    assert copied == {path.relative_to(SCRIPTS) for path in SCRIPTS.rglob("*") if path.is_file()}


def test_every_scenario_can_be_named() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    names = schema["properties"]["loadtest"]["properties"]["scenario"]["enum"]
    assert sorted(names) == sorted(path.stem for path in SCRIPTS.glob("scenarios/*.js"))


def test_it_asks_its_own_release_with_the_key_that_was_made() -> None:
    asked = container(on(settings={"RATE": 5, "EXACT_LENGTHS": True}))
    reported = environment(asked)
    assert reported["DUB5_URL"] == "http://dub5:80"
    assert (reported["RATE"], reported["EXACT_LENGTHS"]) == ("5", "true")
    assert reported["STARTUP_TIMEOUT"] == "3m"  # on a first install the replicas have yet to come up
    key = next(each for each in asked["env"] if each["name"] == "DUB5_KEY")
    assert key["valueFrom"]["secretKeyRef"] == {"name": "dub5-keys", "key": "chat"}
    assert environment(container(on(settings={"STARTUP_TIMEOUT": "5s"})))["STARTUP_TIMEOUT"] == "5s"


def test_settings_are_those_that_the_scripts_know() -> None:
    known = settings_of_load_tests() | OF_THE_CHART
    assert environment(container(on())).keys() - known == {"HOME", "NO_COLOR"}
    assert {"RATE", "STARTUP_TIMEOUT", "DRIFT", "PAUSE"} <= known  # read in several ways, and places
    container(on(settings=dict.fromkeys(known - OF_THE_CHART, 1)))


@pytest.mark.parametrize("name", ["PEEK", "rate", *sorted(OF_THE_CHART)])
def test_a_setting_that_no_script_knows_is_refused_by_its_name(name: str) -> None:
    refused = refusal(nested("loadtest.settings", {name: "true"}))
    assert "loadtest" in refused
    assert f"'{name}'" in refused


def test_another_service_may_be_asked() -> None:
    values = {"auth": {"anonymous": True}, "loadtest": {"enabled": True, "url": "https://chat.example"}}
    reported = environment(container(render(values)))
    assert reported["DUB5_URL"] == "https://chat.example"
    assert "DUB5_KEY" not in reported


def test_results_are_kept_where_a_claim_is_named() -> None:
    rendered = on(resultsClaim="results")
    assert environment(container(rendered))["SUMMARY_FILE"] == "/results/$(POD_NAME).json"
    volumes = job(rendered)["spec"]["template"]["spec"]["volumes"]
    assert {"name": "results", "persistentVolumeClaim": {"claimName": "results"}} in volumes
    assert "SUMMARY_FILE" not in environment(container(on()))


def test_k6s_own_figures_are_sent_where_it_is_said() -> None:
    sending = container(on(remoteWrite="http://prometheus:9090/api/v1/write"))
    assert "--out=experimental-prometheus-rw" in sending["args"]
    assert environment(sending)["K6_PROMETHEUS_RW_SERVER_URL"] == "http://prometheus:9090/api/v1/write"
    assert not any("--out" in argument for argument in container(on())["args"])


def test_a_cronjob_runs_the_same() -> None:
    values = {"schedule": "5 4 * * 1", "suspend": True, "scenario": "soak"}
    made = on(kind="cronjob", **values).one("CronJob", "dub5-loadtest")["spec"]
    assert (made["schedule"], made["suspend"], made["concurrencyPolicy"]) == ("5 4 * * 1", True, "Forbid")
    assert made["jobTemplate"]["spec"] == job(on(scenario="soak"))["spec"]
    assert on(kind="cronjob").of("Job") == {}


def test_a_test_run_is_shared_among_pods() -> None:
    made = on(kind="testrun", parallelism=3, scenario="steady").one("TestRun", "dub5-loadtest")["spec"]
    assert made["parallelism"] == 3
    assert made["script"] == {"localFile": "/scripts/scenarios/steady.js"}
    alone = container(on(scenario="steady"))
    assert "--out" not in made["arguments"]
    for part in (made["runner"], made["initializer"]):
        assert {key: part[key] for key in ("image", "env", "volumeMounts", "resources")} == {
            key: alone[key] for key in ("image", "env", "volumeMounts", "resources")
        }
        assert part["containerSecurityContext"] == alone["securityContext"]
        assert part["automountServiceAccountToken"] == "false"
    assert on(kind="testrun").of("Job") == {}


def test_the_pod_that_starts_the_others_is_restricted_too() -> None:
    """It has an image of the k6-operator, and what that sets by itself no restricted namespace admits."""
    values = merged(
        nested("loadtest", {"enabled": True, "kind": "testrun", "nodeSelector": {"pool": "load"}}),
        {"imagePullSecrets": [{"name": "registry"}]},
    )
    made = render(values).one("TestRun", "dub5-loadtest")["spec"]
    shared = ("securityContext", "containerSecurityContext", "automountServiceAccountToken", "nodeSelector")
    for key in (*shared, "serviceAccountName", "imagePullSecrets"):
        assert made["starter"][key] == made["runner"][key]
    # Labels of this release would put it under its NetworkPolicies, and it has to reach the others.
    assert made["starter"].keys().isdisjoint({"image", "metadata", "env", "resources"})


def test_the_operator_can_tell_k6s_output_from_what_its_archive_takes() -> None:
    """It leaves `--out` and the word behind it out of the arguments of `k6 archive`, and nothing else of the kind."""
    made = on(kind="testrun", remoteWrite="http://p/write").one("TestRun", "dub5-loadtest")["spec"]
    words = made["arguments"].split()
    assert words[words.index("--out") + 1] == "experimental-prometheus-rw"


def test_its_pods_reach_the_service_and_what_is_added() -> None:
    dns, backend = policy(ON, "dub5-loadtest")["egress"]
    assert ports(dns) == {53, 5353}
    assert (backend["to"], ports(backend)) == ([component("backend")], {"http"})
    added = {"to": [PEER], "ports": [{"port": 9090}]}
    assert policy(merged(ON, nested("loadtest.egress", [added])), "dub5-loadtest")["egress"][-1] == added
    assert "ingress" not in policy(ON, "dub5-loadtest")
    [control] = policy(merged(ON, nested("loadtest.kind", "testrun")), "dub5-loadtest")["ingress"]
    assert ports(control) == {6565}


@pytest.mark.parametrize("kind", ["job", "cronjob"])
def test_it_has_an_account_without_rights(kind: str) -> None:
    rendered = on(kind=kind)
    assert rendered.one("ServiceAccount", "dub5-loadtest")["automountServiceAccountToken"] is False
    bound = [
        subject["name"] for binding in rendered.of("RoleBinding").values() for subject in binding["subjects"]
    ]
    assert "dub5-loadtest" not in bound


def test_helm_test_may_run_it_too() -> None:
    rendered = render({"loadtest": {"helmTest": True, "scenario": "soak", "remoteWrite": "http://p/write"}})
    pod = rendered.one("Pod", "dub5-test-k6")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    asked = pod["spec"]["containers"][0]
    assert asked["args"][-1] == "/scripts/scenarios/smoke.js"
    assert not any("--out" in argument for argument in asked["args"])
    assert rendered.of("Job") == {}
    assert "dub5-loadtest" in rendered.of("ConfigMap")


def test_the_notes_say_where_the_result_is() -> None:
    for kind in ("job", "cronjob", "testrun"):
        assert "dub5 loadtest report" in on(kind=kind).notes
    made = on()
    assert f"logs --follow job/{job(made)['metadata']['name']} > run.log" in made.notes
    assert "dub5 loadtest report" not in render().notes
