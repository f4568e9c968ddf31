"""The advisor's Job on a real cluster: a verdict in its ConfigMap, a right to that one object, and nothing left."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.cluster.kube import CommandFailed, eventually
from testkit.cluster.release import NAME, Release
from testkit.cluster.stage import Stage

pytestmark = pytest.mark.usefixtures("monitoring")

PROMETHEUS = "http://prometheus.monitoring:9090"
LABEL = "dub5.io/advice"
EASY = {"refused": 1, "wait": "60s"}


def told(**changes: Any) -> dict[str, Any]:
    small = {"requests": {"cpu": "20m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
    advisor = {"enabled": True, "prometheus": PROMETHEUS, "last": "60s", "seeds": 1, "resources": small}
    return {"advisor": advisor | changes}


def left(release: Release) -> dict[str, Any]:
    found: dict[str, Any] = release.kube.get(
        f"/api/v1/namespaces/{release.namespace}/configmaps/{NAME}-advice"
    )
    return found


def advised(release: Release) -> dict[str, Any]:
    """The ConfigMap, when the Job has ended, with all its tries."""

    def has_ended() -> bool:
        path = f"/apis/batch/v1/namespaces/{release.namespace}/jobs"
        query = {"labelSelector": "app.kubernetes.io/component=advisor"}
        jobs = release.kube.api.get(path, params=query).raise_for_status().json()["items"]
        ends = {
            one["type"]
            for job in jobs
            for one in job["status"].get("conditions", [])
            if one["status"] == "True"
        }
        return len(jobs) == 1 and not ends.isdisjoint({"Complete", "Failed"})

    eventually(has_ended, "the Job has ended", timeout=300)
    return left(release)


def may(release: Release, *what: str) -> bool:
    account = f"system:serviceaccount:{release.namespace}:{NAME}-advisor"
    try:
        return release.kubectl("auth", "can-i", *what, "--as", account).strip() == "yes"
    except CommandFailed as answer:  # "no" is exit code 1
        if "no" in str(answer).split():
            return False
        raise


def test_a_verdict_a_right_to_one_object_and_nothing_left(release: Release, stage: Stage) -> None:
    release.install(told(prometheus="http://prometheus.monitoring:1"))
    eventually(
        lambda: left(release).get("data", {}).get("verdict"), "the reason why there is no advice", timeout=120
    )
    first = left(release)
    assert first["metadata"]["labels"][LABEL] == "none"
    assert first["data"]["verdict"].startswith("none, because ")

    stage.pace(first_token=0.2, between=0.1, tokens=20)
    with stage.load(release.url, release.key()) as load:
        load.set(4)
        begun = "sum(increase(SELECTED[1m] offset 90s)) > 10"  # a record ends a little before now
        eventually(lambda: calls(release, begun), "there is a load to go by", timeout=300)
        load.finish()
    release.install(told(objective=EASY))
    second = advised(release)
    assert second["metadata"]["labels"][LABEL] == "meets", second
    assert "meet the objective" in second["data"]["verdict"]

    release.install(told(objective=EASY, schedule="0 0 1 1 *"))
    assert left(release)["data"] == second["data"], "an upgrade leaves it"

    assert may(release, "patch", f"configmap/{NAME}-advice")
    for verb, what in (
        ("get", f"configmap/{NAME}-advice"),
        ("delete", f"configmap/{NAME}-advice"),
        ("patch", f"configmap/{NAME}-advisor"),
        ("create", "configmaps"),
        ("get", "secrets"),
        ("list", "pods"),
        ("patch", f"deployment/{NAME}"),
        ("patch", f"horizontalpodautoscaler/{NAME}"),
    ):
        assert not may(release, verb, what), (verb, what)

    release.uninstall()
    kinds = "jobs,cronjobs,configmaps,serviceaccounts,roles,rolebindings,networkpolicies"
    selector = f"app.kubernetes.io/instance={NAME}"
    eventually(
        lambda: not release.kubectl("get", kinds, "--selector", selector, "--output", "name"),
        "everything is gone",
    )


def calls(release: Release, query: str) -> Any:
    """What Prometheus says to that, with SELECTED for the calls of providers that have ended."""
    selected = f'dub5_provider_duration_seconds_count{{namespace="{release.namespace}"}}'
    path = "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/query"
    answer = release.kube.api.get(path, params={"query": query.replace("SELECTED", selected)})
    return answer.raise_for_status().json()["data"]["result"]
