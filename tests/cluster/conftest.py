"""The cluster: the one that KUBECONFIG names, else one from source that is taken down at the end.

On a cluster of yours the images must be where its nodes find them; DUB5_IMAGE, REDIS_IMAGE, PROMETHEUS_IMAGE,
ADAPTER_IMAGE and K6_IMAGE name them. Without a registry: `kind load image-archive $(tools/cluster/cluster image dub5)`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest
import yaml

from tests.cluster.kube import Kube, eventually, manifest
from tests.cluster.release import CHART, Release
from tests.cluster.stage import Images, Stage
from tools.cluster import holder, programs
from tools.cluster.places import ROOT, State

OURS = State("test")
HPA_SYNC = "2s"


@pytest.fixture(scope="session")
def images() -> Images:
    return Images(
        dub5=os.environ.get("DUB5_IMAGE", "localhost/dub5:test"),
        redis=os.environ.get("REDIS_IMAGE", "localhost/redis:test"),
        prometheus=os.environ.get("PROMETHEUS_IMAGE", "localhost/prometheus:test"),
        adapter=os.environ.get("ADAPTER_IMAGE", "localhost/prometheus-adapter:test"),
        k6=os.environ.get("K6_IMAGE", "localhost/k6:test"),
    )


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    folder = tmp_path_factory.mktemp("kube")
    if os.environ.get("KUBECONFIG"):
        with theirs(os.environ["KUBECONFIG"]).connected(folder) as connected:
            yield connected
        return
    already_up = holder.running(OURS) is not None
    if not already_up:
        cluster(
            "build",
            "kubernetes",
            "etcd",
            "containerd",
            "coredns",
            "helm",
            "prometheus",
            "prometheus-adapter",
            "k6",
        )
        cluster("up", "--nodes", "2", "--hpa-sync", HPA_SYNC, "--while", str(os.getpid()))
    try:
        helm, kubectl = str(programs.program("helm")), str(programs.program("kubectl"))
        with Kube(str(OURS.kubeconfig), kubectl, helm, holder.entrance(OURS)).connected(folder) as connected:
            yield connected
    finally:
        if not already_up:
            cluster("down")


def theirs(kubeconfig: str) -> Kube:
    found = {name: shutil.which(name) for name in ("kubectl", "helm")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        pytest.exit(f"KUBECONFIG is set, so {' and '.join(missing)} must be on PATH", returncode=1)
    return Kube(kubeconfig, str(found["kubectl"]), str(found["helm"]))


def cluster(*arguments: str) -> None:
    subprocess.run([ROOT / "tools/cluster/cluster", "--name", OURS.name, *arguments], check=True)


@pytest.fixture(scope="session")
def load_images(kube: Kube) -> Callable[..., None]:
    """Loads images made here into the nodes, if the cluster is ours."""
    loaded: set[str] = set()

    def load(*names: str) -> None:
        missing = [name for name in names if name not in loaded]
        if missing and not os.environ.get("KUBECONFIG"):
            cluster("load-image", *missing)
        loaded.update(missing)

    return load


@pytest.fixture(scope="session")
def nodes(kube: Kube) -> list[str]:
    """Names of the nodes. Everything that a test needs besides the product stays on the first."""
    names = [item["metadata"]["name"] for item in kube.list("", "nodes")]
    return sorted(names)


@pytest.fixture(scope="session")
def placement(nodes: list[str]) -> str:
    return f"nodeSelector: {{kubernetes.io/hostname: {nodes[0]}}}"


@pytest.fixture(scope="session")
def monitoring(
    kube: Kube, images: Images, load_images: Callable[..., None], placement: str
) -> Iterator[None]:
    """Prometheus and prometheus-adapter, with the rules that the chart ships."""
    load_images("prometheus", "prometheus-adapter")
    words = {"prometheus": images.prometheus, "adapter": images.adapter, "placement": placement}
    text = manifest("monitoring.yaml", **words)
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
    kube.kubectl("delete", "-f", "-", "--ignore-not-found", stdin=text)


@pytest.fixture(scope="session")
def stage(kube: Kube, images: Images, load_images: Callable[..., None], placement: str) -> Iterator[Stage]:
    """The provider's stand-in and the pod that load comes from, shared by all tests."""
    load_images("dub5", "redis")
    with Stage.built(kube, images, placement) as built:
        yield built


@pytest.fixture(scope="module")
def release(kube: Kube, images: Images, stage: Stage, request: pytest.FixtureRequest) -> Iterator[Release]:
    """A namespace that enforces restricted pod security; the module's tests install into it."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    with Release.namespace_for(kube, images, f"dub5-{name}") as made:
        yield made
