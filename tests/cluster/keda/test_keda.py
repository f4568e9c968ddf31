"""The chart with `autoscaling.mode: keda`, on KEDA's own operator: `make test-keda`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest

from testkit.cluster.keda import installed
from testkit.cluster.kube import Kube, eventually, stays
from testkit.cluster.release import NAME, TARGET, Release
from testkit.cluster.stage import Load, Stage

pytestmark = pytest.mark.usefixtures("monitoring", "keda")

POLL = 2  # seconds between two looks of KEDA
VALUES = {
    "autoscaling": {
        "mode": "keda",
        "keda": {"serverAddress": "http://prometheus.monitoring:9090", "pollingInterval": POLL},
    }
}


@pytest.fixture(scope="module")
def keda(kube: Kube) -> Iterator[None]:
    with installed(kube):
        yield


@pytest.fixture(scope="module")
def scaled(release: Release) -> Iterator[Release]:
    release.install(VALUES)
    yield release
    release.uninstall()  # KEDA has to be there to let its objects go


@pytest.fixture
def load(scaled: Release, stage: Stage) -> Iterator[Load]:
    stage.pace(first_token=0.2, between=0.2, tokens=20)
    with stage.load(scaled.url, scaled.key()) as load:
        yield load


def test_helm_test_passes(scaled: Release) -> None:
    assert scaled.helm("test", NAME, "--timeout", "180s").count("Phase:          Succeeded") == 3


def test_replicas_follow_demand_up_and_down_and_no_stream_is_cut(scaled: Release, load: Load) -> None:
    for clients in (20, 34, 12, 0):
        load.set(clients)
        await_replicas(scaled, max(1, math.ceil(clients / TARGET)))
    load.finish()
    load.assert_whole(at_least=34)


def await_replicas(release: Release, count: int) -> None:
    def there() -> bool:
        return (release.replicas(), release.ready(), len(release.names())) == (count, count, count)

    eventually(there, f"{count} replicas")


def test_replicas_stay_while_prometheus_is_away(scaled: Release, load: Load, kube: Kube) -> None:
    load.set(26)
    await_replicas(scaled, 4)
    scale(kube, 0)
    try:
        eventually(lambda: condition(scaled, "Fallback") == "True", "KEDA falls back")
        load.set(0)
        eventually(lambda: sum(map(scaled.demand, scaled.names())) == 0, "the load is gone")
        # Longer than the window of scaling down, and than ten looks.
        assert stays(scaled.replicas, 30, "a metric that is away shrank the deployment") == 4
    finally:
        scale(kube, 1)
    await_replicas(scaled, 1)
    load.finish()
    load.assert_whole()


def scale(kube: Kube, replicas: int) -> None:
    kube.kubectl("scale", "--namespace=monitoring", "deployment/prometheus", f"--replicas={replicas}")
    kube.kubectl("rollout", "status", "--namespace=monitoring", "deployment/prometheus", "--timeout=120s")


def condition(release: Release, kind: str) -> str | None:
    found = json.loads(release.kubectl("get", "scaledobject", NAME, "--output=json"))
    conditions = found.get("status", {}).get("conditions", [])
    return next((one["status"] for one in conditions if one["type"] == kind), None)
