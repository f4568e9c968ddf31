"""Nobody is cut off or refused when replicas leave: scaled down, restarted by a rollout, or evicted from a node."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from testkit.cluster.ground import Images, load_images
from testkit.cluster.kube import Kube, eventually, manifest
from testkit.cluster.release import NAME, Release
from testkit.cluster.stage import NAMESPACE as STAGE
from testkit.cluster.stage import Load, Stage

pytestmark = pytest.mark.usefixtures("monitoring")

CLIENTS = 8
PACE = {"first_token": 0.5, "between": 0.25, "tokens": 20}  # streams of five seconds


@pytest.fixture(scope="module")
def steady(release: Release, kube: Kube, nodes: list[str]) -> Release:
    """Three replicas, whatever the demand; Redis on the node that is not drained."""
    kube.kubectl("cordon", nodes[-1])
    try:
        release.install({"autoscaling": {"minReplicas": 1}})
    finally:
        kube.kubectl("uncordon", nodes[-1])
    release.install({"autoscaling": {"minReplicas": 3}})
    release.await_replicas(3)
    return release


@pytest.fixture
def load(steady: Release, stage: Stage) -> Iterator[Load]:
    """Clients that keep their connections, all of them in the middle of a stream."""
    stage.pace(**PACE)
    with stage.load(steady.url, steady.key()) as load:
        load.set(CLIENTS)
        load.wait_for(CLIENTS)
        yield load


class K6:
    """The same from k6, in a pod of its own; stopped through its REST API."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube

    def status(self) -> Any:
        return self.kube.get(f"/api/v1/namespaces/{STAGE}/pods/k6:6565/proxy/v1/status")

    def verdict(self) -> dict[str, int]:
        """Stops it and returns how many streams were whole, cut and refused."""
        stop = {"data": {"type": "status", "id": "default", "attributes": {"stopped": True}}}
        self.kube.api.patch(f"/api/v1/namespaces/{STAGE}/pods/k6:6565/proxy/v1/status", json=stop)
        path = f"/api/v1/namespaces/{STAGE}/pods/k6"
        eventually(lambda: self.kube.get(path)["status"]["phase"] in ("Succeeded", "Failed"), "k6 has ended")
        last = self.kube.kubectl("logs", "--namespace", STAGE, "k6").strip().splitlines()[-1]
        found: dict[str, int]
        found, _ = json.JSONDecoder().raw_decode(last)  # k6's own complaint may follow in the same line
        return found


@pytest.fixture
def k6(kube: Kube, images: Images, placement: str, steady: Release) -> Iterator[K6]:
    load_images("k6")
    words = {"namespace": STAGE, "image": images.k6, "placement": placement}
    text = manifest("k6.yaml", url=steady.url, key=steady.key(), **words)
    kube.apply(text)
    started = K6(kube)
    eventually(started.status, "k6 runs")
    yield started
    kube.kubectl("delete", "-f", "-", "--ignore-not-found", stdin=text)


def gone(release: Release, names: list[str]) -> None:
    """Until those pods have ended, having left in their own time, each with exit code 0."""
    eventually(lambda: not set(names) & {pod["metadata"]["name"] for pod in release.pods()}, "they have left")


def settle(load: Load, k6: K6) -> None:
    """One more stream for each client, and then the verdict of both."""
    load.wait_for(2 * CLIENTS)
    load.finish()
    load.assert_whole(at_least=3 * CLIENTS)
    verdict = k6.verdict()
    assert (verdict["cut"], verdict["refused"]) == (0, 0)
    assert verdict["whole"] > 0


def test_a_scale_down_cuts_nobody(steady: Release, load: Load, k6: K6) -> None:
    before = steady.names()
    with minimum(steady, 1):
        steady.await_replicas(2)  # the demand of twelve streams
        (left,) = set(before) - set(steady.names())
        gone(steady, [left])
    settle(load, k6)


@contextlib.contextmanager
def minimum(release: Release, replicas: int) -> Iterator[None]:
    def patch(count: int) -> None:
        release.kubectl("patch", "hpa", NAME, "--patch", json.dumps({"spec": {"minReplicas": count}}))

    patch(replicas)
    yield
    patch(3)
    release.await_replicas(3)


def test_a_rollout_cuts_nobody(steady: Release, load: Load, k6: K6) -> None:
    before = steady.names()
    steady.kubectl("rollout", "restart", f"deployment/{NAME}")
    steady.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=180s")
    gone(steady, before)
    settle(load, k6)


def test_a_drained_node_cuts_nobody(
    steady: Release, load: Load, k6: K6, kube: Kube, nodes: list[str]
) -> None:
    if len(nodes) < 2:
        pytest.skip("one node: nowhere to drain to")
    drained = nodes[-1]
    there = [pod["metadata"]["name"] for pod in steady.pods() if pod["spec"]["nodeName"] == drained]
    assert there, "replicas are spread over the nodes, so the drained one has some"
    try:
        kube.kubectl("drain", drained, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s")
        gone(steady, there)
        steady.await_replicas(3)
        settle(load, k6)
    finally:
        kube.kubectl("uncordon", drained)


def test_the_control_a_pod_that_is_given_no_time_cuts_its_streams(steady: Release, load: Load) -> None:
    """Without the grace period the same clients do see it: the proofs above can fail."""
    for name in steady.names():
        steady.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    eventually(lambda: load.outcomes["cut"] > 0, "streams are cut")
    load.set(0)
    steady.await_replicas(3)
    load.finish()
