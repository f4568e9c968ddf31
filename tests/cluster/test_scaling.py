"""Replicas follow demand: a real HPA controller, prometheus-adapter and Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from testkit.cluster.kube import eventually
from testkit.cluster.release import TARGET, Release
from testkit.cluster.stage import Load, Stage

pytestmark = pytest.mark.usefixtures("monitoring")


@pytest.fixture(scope="module")
def scaled(release: Release) -> Release:
    release.install()
    return release


@pytest.fixture
def load(scaled: Release, stage: Stage) -> Iterator[Load]:
    stage.pace(first_token=0.2, between=0.2, tokens=20)
    with stage.load(scaled.url, scaled.key()) as load:
        yield load


def test_replicas_follow_demand_up_and_down_and_no_stream_is_cut(scaled: Release, load: Load) -> None:
    scaled.await_replicas(1)
    for clients in (9, 18, 28, 12, 0):  # never more than there is room for: a refusal would be right
        load.set(clients)
        expected = max(1, math.ceil(clients / TARGET))
        scaled.await_replicas(expected)
        reported = scaled.condition("ScalingActive")
        assert (reported["status"], reported["reason"]) == ("True", "ValidMetricFound")
    load.finish()
    load.assert_whole(at_least=28)


def test_demand_is_what_the_pods_tell(scaled: Release, load: Load) -> None:
    """The autoscaler's own figure is the mean of what the replicas report, followers and hits left out."""
    load.set(14)
    scaled.await_replicas(2)
    eventually(lambda: sum(map(scaled.demand, scaled.names())) == 14, "the pods report 14")
    eventually(lambda: seen_by_autoscaler(scaled) == "7", "the autoscaler sees 7 for each")
    load.set(0)
    scaled.await_replicas(1)
    load.finish()
    load.assert_whole()


def seen_by_autoscaler(release: Release) -> str | None:
    metrics = release.autoscaler["status"].get("currentMetrics") or [{}]
    value: str | None = metrics[0].get("pods", {}).get("current", {}).get("averageValue")
    return value
