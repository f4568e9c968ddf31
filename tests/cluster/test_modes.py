"""A change of `autoscaling.mode` takes no replica away from a running deployment."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.cluster.kube import CommandFailed, eventually
from testkit.cluster.release import Release

pytestmark = pytest.mark.usefixtures("monitoring")

AS_SHIPPED: dict[str, Any] = {}  # five minutes without need before anything is taken away


def fixed(replicas: int) -> dict[str, Any]:
    return {"autoscaling": {"mode": "none"}, "replicas": replicas}


def test_from_a_fixed_number_to_an_autoscaler_and_back(release: Release) -> None:
    release.install(fixed(3), AS_SHIPPED)
    before = release.names()
    assert len(before) == 3

    release.install({"autoscaling": {"minReplicas": 1}}, AS_SHIPPED)
    eventually(
        lambda: release.condition("ScalingActive").get("status") == "True", "the autoscaler sees the metric"
    )
    assert (release.replicas(), release.names()) == (3, before)

    with pytest.raises(CommandFailed, match="replicas"):
        release.install(fixed(2), AS_SHIPPED)
    release.install(fixed(3), AS_SHIPPED)
    assert (release.replicas(), release.names()) == (3, before)
