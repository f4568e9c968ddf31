"""What an upgrade finds in the cluster: keys that must stay, and replicas that must not be dropped.

`lookup` asks a fake API here; tests/cluster has the same on a real one.
"""

from __future__ import annotations

from collections.abc import Iterator

import helm_python as helm
import pytest

from testkit.chart import merged
from tests.unit.chart.support import FakeCluster, Json, nested

DEPLOYMENT = "dub5/templates/backend/deployment.yaml"
KEYS = "dub5/templates/backend/secret-keys.yaml"
PASSWORD = "dub5/templates/redis/secret.yaml"

FIXED = {"autoscaling": {"mode": "none"}}
KEDA = {"autoscaling": {"mode": "keda", "keda": {"serverAddress": "http://prometheus:9090"}}}
MARK = {"dub5/replicas-in-manifest": "true"}


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    cluster = FakeCluster()
    try:
        yield cluster
    finally:
        cluster.close()


def running(replicas: int, annotations: Json | None = None) -> Json:
    metadata = {"name": "dub5", "namespace": "chat", "annotations": annotations or {}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {"replicas": replicas},
    }


def autoscaler(name: str) -> Json:
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name}}


def test_secrets_that_were_made_stay(cluster: FakeCluster) -> None:
    first = cluster.render()
    assert cluster.render()[KEYS]["data"] != first[KEYS]["data"]
    cluster.put(first[KEYS])
    cluster.put(first[PASSWORD])
    again = cluster.render()
    assert again[KEYS]["data"] == first[KEYS]["data"]
    assert again[PASSWORD]["data"] == first[PASSWORD]["data"]


@pytest.mark.parametrize(("path", "made"), [("auth", KEYS), ("redis.bundled", PASSWORD)])
def test_a_secret_that_goes_cannot_be_named(cluster: FakeCluster, path: str, made: str) -> None:
    """Helm deletes what is no longer in the chart: pods that run would not notice, and new ones never start."""
    secret = cluster.render()[made]
    values = nested(f"{path}.existingSecret", secret["metadata"]["name"])
    cluster.put(secret)
    assert made not in {file for file, each in cluster.render(values).items() if each}  # somebody else's
    cluster.put(merged(secret, nested("metadata.annotations", {"meta.helm.sh/release-name": "dub5"})))
    with pytest.raises(
        helm.HelmError, match=f"{path}.existingSecret: {secret['metadata']['name']} was made by"
    ):
        cluster.render(values)


def test_an_autoscaled_deployment_is_left_alone(cluster: FakeCluster) -> None:
    cluster.put(running(7, {"deployment.kubernetes.io/revision": "3"}))
    for values in ({}, KEDA):
        assert "replicas" not in cluster.render(values)[DEPLOYMENT]["spec"]


def test_a_fixed_number_is_what_the_values_say(cluster: FakeCluster) -> None:
    cluster.put(running(7, MARK))
    deployment = cluster.render(FIXED | {"replicas": 3})[DEPLOYMENT]
    assert deployment["spec"]["replicas"] == 3
    assert deployment["metadata"]["annotations"] == MARK


@pytest.mark.parametrize("values", [{}, KEDA], ids=["hpa", "keda"])
def test_from_a_fixed_number_to_an_autoscaler_the_present_number_stays(
    cluster: FakeCluster, values: Json
) -> None:
    cluster.put(running(7, MARK))
    deployment = cluster.render(values)[DEPLOYMENT]
    assert deployment["spec"]["replicas"] == 7
    assert deployment["metadata"]["annotations"] == MARK  # and so at the next upgrade too


@pytest.mark.parametrize("name", ["dub5", "keda-hpa-dub5"])
def test_from_an_autoscaler_to_fewer_than_are_running_is_refused(cluster: FakeCluster, name: str) -> None:
    cluster.put(running(7))
    cluster.put(autoscaler(name))
    with pytest.raises(helm.HelmError, match="replicas: 2 is less than the 7 that are running"):
        cluster.render(FIXED)
    assert cluster.render(FIXED | {"replicas": 7})[DEPLOYMENT]["spec"]["replicas"] == 7
