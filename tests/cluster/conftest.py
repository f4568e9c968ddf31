"""The cluster: the one that KUBECONFIG names, else one from source that is taken down at the end.

On a cluster of yours the images must be where its nodes find them; DUB5_IMAGE, REDIS_IMAGE, RSYSLOG_IMAGE,
PROMETHEUS_IMAGE, ADAPTER_IMAGE and K6_IMAGE name them. Without a registry:
`kind load image-archive $(tools/cluster/cluster image dub5)`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit.cluster import ground
from testkit.cluster.ground import Images, Pace
from testkit.cluster.kube import Kube
from testkit.cluster.release import Release, remove_definitions
from testkit.cluster.stage import Stage

PACE = Pace()


@pytest.fixture(scope="session")
def images() -> Images:
    return Images()


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    with ground.a_cluster(tmp_path_factory.mktemp("kube"), PACE) as kube:
        yield kube


@pytest.fixture(scope="session")
def nodes(kube: Kube) -> list[str]:
    return ground.names_of_nodes(kube)


@pytest.fixture(scope="session")
def placement(nodes: list[str]) -> str:
    return ground.on(nodes[0])


@pytest.fixture(scope="session")
def monitoring(kube: Kube, images: Images, placement: str) -> Iterator[None]:
    """The metrics API that the autoscaler reads."""
    with ground.monitored(kube, images, placement, PACE):
        yield


@pytest.fixture(scope="session")
def stage(kube: Kube, images: Images, placement: str) -> Iterator[Stage]:
    """The provider's stand-in and the pod that load comes from, shared by all tests."""
    ground.load_images("dub5", "redis")
    with Stage.built(kube, images, placement) as built:
        yield built


@pytest.fixture(scope="module")
def release(kube: Kube, images: Images, stage: Stage, request: pytest.FixtureRequest) -> Iterator[Release]:
    """A namespace that enforces restricted pod security; the module's tests install into it."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    with Release.namespace_for(kube, images, f"dub5-{name}") as made:
        yield made


@pytest.fixture(scope="module")
def no_definitions(kube: Kube) -> Iterator[None]:
    """Takes away at the end what an uninstall keeps. It is to be asked for before the release."""
    yield
    remove_definitions(kube)
