"""What the tests of a cluster stand on: the cluster itself, and the monitoring that the autoscaler reads.

A cluster of our own is made, and asked for the way in, by the command tools/cluster/cluster, as by a person.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from testkit.chart import CHART
from testkit.cluster.kube import Kube, eventually, manifest
from testkit.places import ROOT

CLUSTER = ROOT / "tools/cluster/cluster"
OURS = os.environ.get("DUB5_TEST_CLUSTER", "test")


@dataclass(frozen=True)
class Images:
    """Names as the nodes know them. Those of our own cluster are made by tools/cluster."""

    dub5: str = os.environ.get("DUB5_IMAGE", "localhost/dub5:test")
    redis: str = os.environ.get("REDIS_IMAGE", "localhost/redis:test")
    rsyslog: str = os.environ.get("RSYSLOG_IMAGE", "localhost/rsyslog:test")
    prometheus: str = os.environ.get("PROMETHEUS_IMAGE", "localhost/prometheus:test")
    adapter: str = os.environ.get("ADAPTER_IMAGE", "localhost/prometheus-adapter:test")
    k6: str = os.environ.get("K6_IMAGE", "localhost/k6:test")


@dataclass(frozen=True)
class Pace:
    """How often things look, as in Prometheus' configuration."""

    scrape: str = "2s"
    relist: str = "2s"
    autoscaler: str = "2s"


class NoTools(Exception):
    """KUBECONFIG names a cluster, but kubectl or Helm is not there to use it."""


@contextlib.contextmanager
def a_cluster(folder: Path, pace: Pace) -> Iterator[Kube]:
    """KUBECONFIG's, else our own: one that runs already is used and left, another is started and taken down."""
    if os.environ.get("KUBECONFIG"):
        with theirs(os.environ["KUBECONFIG"]).connected(folder) as connected:
            yield connected
        return
    tool("build", "helm")
    already_up = ours()
    if not already_up:
        tool("up", "--nodes", "2", "--hpa-sync", pace.autoscaler, "--while", str(os.getpid()))
    try:
        cluster = already_up or ours()
        assert cluster is not None
        with cluster.connected(folder) as connected:
            yield connected
    finally:
        if not already_up:
            tool("down")


def ours() -> Kube | None:
    """The cluster of our own; None where it does not run."""
    done = subprocess.run([CLUSTER, "--name", OURS, "access"], stdout=subprocess.PIPE, text=True, check=False)
    return Kube(**json.loads(done.stdout)) if done.returncode == 0 else None


def theirs(kubeconfig: str) -> Kube:
    kubectl, helm = shutil.which("kubectl"), shutil.which("helm")
    if kubectl is None or helm is None:
        raise NoTools("KUBECONFIG is set, so kubectl and helm must be on PATH")
    return Kube(kubeconfig, kubectl, helm)


def tool(*arguments: str) -> None:
    subprocess.run([CLUSTER, "--name", OURS, *arguments], check=True)


def load_images(*names: str) -> None:
    """Into the nodes of our own cluster; another one is to have them."""
    if not os.environ.get("KUBECONFIG"):
        tool("load-image", *names)


def names_of_nodes(kube: Kube) -> list[str]:
    return sorted(item["metadata"]["name"] for item in kube.list("", "nodes"))


def on(node: str) -> str:
    """A line of a pod's manifest: where everything stays that a test needs besides the product."""
    return f"nodeSelector: {{kubernetes.io/hostname: {node}}}"


@contextlib.contextmanager
def monitored(kube: Kube, images: Images, placement: str, pace: Pace) -> Iterator[None]:
    """Prometheus and prometheus-adapter, with the rules that the chart ships."""
    load_images("prometheus", "prometheus-adapter")
    words = {"prometheus": images.prometheus, "adapter": images.adapter, "placement": placement}
    text = manifest("monitoring.yaml", scrape=pace.scrape, relist=pace.relist, **words)
    kube.apply(text)
    shipped = yaml.safe_load((CHART / "files/prometheus-adapter.yaml").read_text(encoding="utf-8"))
    rules = yaml.safe_dump({"rules": shipped["rules"]["custom"]})
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "prometheus-adapter", "namespace": "monitoring"},
            "data": {"rules.yaml": rules},
        }
    )
    for name in ("prometheus", "prometheus-adapter"):
        kube.kubectl("rollout", "status", "--namespace=monitoring", f"deployment/{name}", "--timeout=120s")
    eventually(lambda: kube.get("/apis/custom.metrics.k8s.io/v1beta1"), "the custom metrics API is served")
    yield
    kube.kubectl("delete", "-f", "-", "--ignore-not-found", "--wait=false", stdin=text)
