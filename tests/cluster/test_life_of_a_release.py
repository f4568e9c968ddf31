"""Install, test, upgrade, roll back, uninstall: in a namespace that enforces the restricted pod security profile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from testkit.cluster.kube import CommandFailed, eventually
from testkit.cluster.release import NAME, Release
from testkit.cluster.stage import Stage

pytestmark = pytest.mark.usefixtures("monitoring")

KINDS_OF_NOTHING = ("events", "events.events.k8s.io", "pods.metrics.k8s.io", "pods.custom.metrics.k8s.io")
BELONGS_TO_THE_NAMESPACE = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}


@pytest.fixture
def installed(release: Release) -> Release:
    """With the values of tests, whatever the test before left."""
    release.install()
    return release


def ask(release: Release, stage: Stage, question: str, key: str, model: str = "standin") -> dict[str, Any]:
    """One whole answer, asked from inside the cluster."""
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    code = (
        "import httpx, sys, json; a = httpx.post(sys.argv[1] + '/v1/chat/completions', timeout=60,"
        " headers={'Authorization': 'Bearer ' + sys.argv[2]}, json=json.loads(sys.argv[3]));"
        " print(json.dumps({'status': a.status_code, 'body': a.json()}))"
    )
    answer: dict[str, Any] = json.loads(stage.exec("python", "-c", code, release.url, key, json.dumps(body)))
    return answer


def test_a_pod_that_is_not_restricted_is_refused(release: Release) -> None:
    """The control: the namespace does enforce what the chart's pods keep to."""
    with pytest.raises(CommandFailed, match="violates PodSecurity"):
        release.kubectl("run", "loose", "--image=localhost/pause:1", "--restart=Never")


def test_helm_test_passes_once_it_is_installed(installed: Release) -> None:
    printed = installed.helm("test", NAME, "--timeout", "180s")
    assert printed.count("Phase:          Succeeded") == 3


def test_keys_are_made_and_wanted(installed: Release, stage: Stage) -> None:
    assert ask(installed, stage, "who is it?", installed.key())["status"] == 200
    assert ask(installed, stage, "who is it?", "wrong")["status"] == 401


def test_an_upgrade_changes_values_and_keeps_keys(installed: Release) -> None:
    keys, target = installed.secret(), target_of(installed)
    installed.install({"autoscaling": {"targetPercentage": 50}})
    assert installed.secret() == keys
    assert (target, target_of(installed)) == ("7", "5")


def target_of(release: Release) -> str:
    target: str = release.autoscaler["spec"]["metrics"][0]["pods"]["target"]["averageValue"]
    return target


def test_an_upgrade_that_changes_no_pod_restarts_none(installed: Release) -> None:
    before = installed.names()
    installed.install({"autoscaling": {"maxReplicas": 7}})
    assert installed.names() == before


def test_a_changed_configuration_rolls_the_pods(installed: Release, stage: Stage) -> None:
    key, before = installed.key(), installed.names()
    assert ask(installed, stage, "ahoy", key, "pirate")["status"] == 404
    installed.install(
        {"config": {"personalities": {"pirate": {"system": "You are a pirate.", "model": "standin"}}}}
    )
    assert not set(before) & set(installed.names())
    # Those that leave still answer as before, for as long as they are sent requests.
    eventually(lambda: ask(installed, stage, "ahoy", key, "pirate")["status"] == 200, "the pirate is there")


def test_a_rollback_brings_the_former_configuration_back(installed: Release, stage: Stage) -> None:
    keys = installed.secret()
    history = json.loads(installed.helm("history", NAME, "--output", "json"))
    installed.install({"config": {"personalities": {"sailor": {"system": "You sail.", "model": "standin"}}}})
    # Helm does not wait for those that leave, and they answer while they linger.
    eventually(
        lambda: ask(installed, stage, "ahoy", installed.key(), "sailor")["status"] == 200,
        "the personality is there",
    )
    installed.helm("rollback", NAME, str(history[-1]["revision"]), "--wait", "--timeout", "180s")
    eventually(
        lambda: ask(installed, stage, "ahoy", installed.key(), "sailor")["status"] == 404,
        "the personality is gone",
    )
    assert installed.secret() == keys


def test_an_uninstall_leaves_nothing(installed: Release) -> None:
    assert remains(installed) != set()
    installed.uninstall()
    eventually(lambda: remains(installed) == set(), f"nothing is left: {remains(installed)}")


def remains(release: Release) -> set[str]:
    """Every object of every kind in the namespace but those that each namespace has."""
    listed = release.kube.kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name").split()
    kinds = ",".join(kind for kind in listed if kind not in KINDS_OF_NOTHING)
    found = json.loads(
        release.kubectl("get", kinds, "--output=json", "--ignore-not-found") or '{"items": []}'
    )
    names = {f"{item['kind']}/{item['metadata']['name']}" for item in found["items"]}
    return names - BELONGS_TO_THE_NAMESPACE
