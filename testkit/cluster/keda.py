"""KEDA on a cluster, from the manifests of its own module, with images made here."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

import yaml

from testkit.cluster.ground import load_images
from testkit.cluster.kube import Kube, eventually
from testkit.places import ROOT

IMAGES = {"keda-operator": "localhost/keda:test", "keda-metrics-apiserver": "localhost/keda-adapter:test"}


@contextlib.contextmanager
def installed(kube: Kube) -> Iterator[None]:
    load_images("keda", "keda-adapter")
    where = ["go", "list", "-m", "-f", "{{.Dir}}", "github.com/kedacore/keda/v2"]
    folder = subprocess.run(where, cwd=ROOT / "tools/go/keda", capture_output=True, text=True, check=True)
    objects = [
        placed(one)
        for one in yaml.safe_load_all(kube.kubectl("kustomize", f"{folder.stdout.strip()}/config/minimal"))
    ]
    text = yaml.safe_dump_all(objects)
    kube.apply(text)
    for name in IMAGES:
        kube.kubectl("rollout", "status", "--namespace=keda", f"deployment/{name}", "--timeout=180s")
    eventually(
        lambda: kube.get("/apis/external.metrics.k8s.io/v1beta1"), "the external metrics API is served"
    )
    yield
    kube.kubectl("delete", "-f", "-", "--ignore-not-found", "--wait=false", stdin=text)


def placed(manifest: dict[str, Any]) -> dict[str, Any]:
    """With our images, which no registry has."""
    if manifest["kind"] == "Deployment":
        pod = manifest["spec"]["template"]["spec"]
        pod["securityContext"]["runAsUser"] = 65532
        for container in pod["containers"]:
            container.update(image=IMAGES[container["name"]], imagePullPolicy="IfNotPresent")
    return manifest
