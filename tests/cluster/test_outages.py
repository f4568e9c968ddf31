"""A metric that is missing never shrinks a deployment; when it is back, the control, the count falls as it should."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit.cluster.kube import Kube, eventually, stays
from testkit.cluster.release import CAPACITY, NAME, TARGET, Release
from testkit.cluster.stage import Load, Stage

pytestmark = pytest.mark.usefixtures("monitoring")

CLIENTS = 26  # four replicas
SYNCS = 10 * 2.0  # seconds: ten looks of the autoscaler
SOON = {"autoscaling": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 6}}}}
"""Well within SYNCS; at once would follow each moment in which several streams end together."""


@pytest.fixture(scope="module")
def scaled(release: Release) -> Release:
    release.install(SOON)
    return release


@pytest.fixture
def load(scaled: Release, stage: Stage) -> Iterator[Load]:
    """Four replicas under load."""
    stage.pace(first_token=0.2, between=0.2, tokens=20)
    with stage.load(scaled.url, scaled.key()) as load:
        load.set(CLIENTS)
        scaled.await_replicas(4)
        yield load
        load.set(0)
        scaled.await_replicas(1)
        load.finish()
        load.assert_whole()


@pytest.fixture
def stopped(request: pytest.FixtureRequest, kube: Kube) -> Iterator[str]:
    """A deployment of monitoring to stop; it is running again at the end, whatever happens."""
    name: str = request.param
    yield name
    scale(kube, name, 1)


def scale(kube: Kube, name: str, replicas: int) -> None:
    kube.kubectl("scale", "--namespace=monitoring", f"deployment/{name}", f"--replicas={replicas}")
    kube.kubectl("rollout", "status", "--namespace=monitoring", f"deployment/{name}", "--timeout=120s")


@pytest.mark.parametrize("stopped", ["prometheus-adapter", "prometheus"], indirect=True)
def test_replicas_stay_while_the_metric_is_away(
    scaled: Release, load: Load, kube: Kube, stopped: str
) -> None:
    scale(kube, stopped, 0)
    eventually(lambda: scaled.condition("ScalingActive").get("status") == "False", "the autoscaler is blind")
    load.set(0)
    eventually(lambda: sum(map(scaled.demand, scaled.names())) == 0, "the load is gone")
    assert stays(scaled.replicas, SYNCS, "a metric that is away shrank the deployment") >= 4
    scale(kube, stopped, 1)
    scaled.await_replicas(1)


def test_replicas_stay_while_one_pod_is_unscraped(scaled: Release, load: Load) -> None:
    """What is not known of it counts as its share of the target, where the others are below theirs.

    So it has to be a pod with its share and not much more. Were the others at exactly their target, Kubernetes would
    take it for idle.
    """
    eventually(lambda: measured(scaled) == set(scaled.names()), "every replica is measured")
    unseen, *_ = eventually(
        lambda: with_their_share(scaled), "a pod has its share of the demand, and none waits"
    )
    scaled.kubectl("label", "pod", unseen, "dub5_test_unscraped=true")
    eventually(lambda: unseen not in measured(scaled), "the metric of one pod has aged out")
    eventually(lambda: scaled.replicas() >= 4, "there are as many as the load needs")
    # Not just as many: where the machine is busy, answers take longer and there may be a fifth for a while.
    assert stays(lambda: scaled.replicas() >= 4, SYNCS, "a pod out of sight shrank the deployment")
    load.set(0)
    eventually(lambda: scaled.replicas() < 4, "the control: without load the count falls")
    scaled.kubectl("delete", "pod", unseen, "--ignore-not-found")


def with_their_share(release: Release) -> list[str]:
    return [name for name in release.names() if TARGET <= release.demand(name) <= CAPACITY]


def measured(release: Release) -> set[str]:
    """The pods whose demand the metrics API serves."""
    path = f"/apis/custom.metrics.k8s.io/v1beta1/namespaces/{release.namespace}/pods/*/dub5_demand_requests"
    found = release.kube.get(path)
    assert found is not None, f"no metric is served for {NAME}"
    return {item["describedObject"]["name"] for item in found["items"]}
