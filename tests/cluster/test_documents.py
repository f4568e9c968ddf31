"""The documents' commands for a cluster, run as they are written: in a namespace `chat`, with kubectl and Helm on PATH.

tests/documents/table.py has them in stages, which follow one another. Values that only this cluster needs, such as
where its images are, come from here.yaml.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testkit.chart import CHART
from testkit.cluster.ground import Images, load_images
from testkit.cluster.kube import Kube
from testkit.cluster.release import QUICKLY, remove_definitions
from tests.documents.reading import first_block
from tests.documents.table import CLUSTER, INSTEAD_THERE, SHOWN

# A namespace `chat` and the port 9090 may be somebody's on a cluster that is not ours.
pytestmark = [
    pytest.mark.skipif("KUBECONFIG" in os.environ, reason="the cluster is not ours"),
    pytest.mark.usefixtures("monitoring"),
]

NAMESPACE = "chat"
LOAD = {"DURATION": "10s", "TTFT_P95": 20000, "COMPLEXITIES": "short"}


def image(name: str) -> dict[str, str]:
    repository, tag = name.rsplit(":", 1)
    return {"repository": repository, "tag": tag}


def here(images: Images) -> dict[str, Any]:
    """Small, quick, with the simulated provider that the chart has by default."""
    return {
        "image": image(images.dub5),
        "redis": {
            "bundled": {
                "image": image(images.redis),
                "command": ["redis-server"],
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
            }
        },
        "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}},
        "operator": {"enabled": True, "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}},
        "autoscaling": {**QUICKLY, "minReplicas": 2},
        "monitoring": {"alerts": {"configMap": True}},
        "config": {
            "cache": {"classes": {"banter": {}}},
            # What makes a short grace period: Kubernetes looks at a namespace that goes again after half of it.
            "drain": {"linger": "1s"},
            "server": {"max_stream": "10s"},
            "admission": {"queue_timeout": "5s"},
        },
        "loadtest": {
            "image": image(images.k6),
            "settings": LOAD,
            "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
        },
    }


class Shell:
    """bash in a folder of its own, in the cluster's network; its namespace is `chat`."""

    def __init__(self, kube: Kube, folder: Path) -> None:
        self._kube = kube
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        for name, path in (("kubectl", kube.kubectl_program), ("helm", kube.helm_program)):
            (programs / name).symlink_to(path)
        (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
        shutil.copy(kube.kubeconfig, folder / "kubeconfig")
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(folder / "kubeconfig"),
            "PATH": f"{programs}:{os.environ['PATH']}",
        }
        self.run(f"kubectl config set-context --current --namespace {NAMESPACE}")

    def run(self, script: str) -> str:
        return self._kube.shell(script, self.folder, self._environment)


@pytest.fixture(scope="module")
def shell(kube: Kube, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    load_images("dub5", "redis", "k6")
    folder = tmp_path_factory.mktemp("documents")
    shutil.copytree(CHART, folder / "deploy/helm/dub5")
    (folder / "here.yaml").write_text(json.dumps(here(images)))
    for (document, language), name in SHOWN.items():
        (folder / name).write_text(first_block(document, language).text)
    remove(kube)  # what an earlier run left
    yield Shell(kube, folder)
    remove(kube)


def remove(kube: Kube) -> None:
    """The operator may be gone before its policies, and then nobody else lets them go."""
    operator = ["deployment", "dub5-operator", "--ignore-not-found", "--cascade=foreground"]
    kube.kubectl("delete", *operator, "--namespace", NAMESPACE, "--timeout=60s")
    remove_definitions(kube)
    kube.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")


def written(command: str) -> str:
    if command.startswith(":"):
        return command.removeprefix(":").strip()
    for as_written, instead in INSTEAD_THERE.items():
        command = command.replace(as_written, instead)
    return command


@pytest.mark.parametrize("stage", CLUSTER)
def test_commands_run(shell: Shell, stage: str) -> None:
    shell.run("\n".join(map(written, CLUSTER[stage])))
