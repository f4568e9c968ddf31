"""The chart, installed by Helm into a namespace that enforces the restricted pod security profile."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testkit.chart import CHART, merged
from testkit.cluster import ground
from testkit.cluster.kube import Kube, eventually
from testkit.cluster.stage import NAMESPACE as STAGE
from testkit.cluster.stage import Stage

NAME = "dub5"
BACKEND = f"app.kubernetes.io/component=backend,app.kubernetes.io/instance={NAME}"
QUICKLY = {
    "minReplicas": 1,
    "maxReplicas": 6,
    "behavior": {
        "scaleDown": {
            "stabilizationWindowSeconds": 15,
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
        }
    },
}
CAPACITY = 10
TARGET = 7  # demand that the autoscaler aims for in each replica: 70 % of the capacity


class Release:
    """One release called dub5 in `namespace`."""

    def __init__(self, kube: Kube, images: ground.Images, namespace: str) -> None:
        self.kube = kube
        self.images = images
        self.namespace = namespace

    @classmethod
    @contextlib.contextmanager
    def namespace_for(cls, kube: Kube, images: ground.Images, namespace: str) -> Iterator[Release]:
        kube.kubectl("delete", "namespace", namespace, "--ignore-not-found")  # an earlier run's
        kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {
                    "name": namespace,
                    "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
                },
            }
        )
        yield cls(kube, images, namespace)
        kube.kubectl("delete", "namespace", namespace, "--wait=false")

    @property
    def url(self) -> str:
        return f"http://{NAME}.{self.namespace}"

    def values(self) -> dict[str, Any]:
        """Small replicas that ask the stand-in."""
        repository, tag = self.images.dub5.rsplit(":", 1)
        redis_repository, redis_tag = self.images.redis.rsplit(":", 1)
        return {
            "image": {"repository": repository, "tag": tag},
            "redis": {
                "bundled": {
                    "image": {"repository": redis_repository, "tag": redis_tag},
                    "command": ["redis-server"],
                    "maxmemory": "32mb",
                    "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                }
            },
            "config": {
                "providers": {"standin": {"kind": "openai", "base_url": f"http://provider.{STAGE}:8080/v1"}},
                "models": {"standin": {"routes": ["standin/any"]}},
                # Patient: on a busy machine an answer takes longer, and who then waits is not refused for it.
                "admission": {"max_inflight": CAPACITY, "max_queued": 200, "queue_timeout": "30s"},
                "server": {"max_stream": "60s"},
            },
            "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}},
            "networkPolicy": {"providers": [{"to": [{"namespaceSelector": {}}], "ports": [{"port": 8080}]}]},
        }

    def install(self, changes: dict[str, Any] | None = None, pace: dict[str, Any] | None = None) -> None:
        """Or upgrade; returns when it is ready. `pace` is how fast it scales; {} for as fast as the chart says."""
        scaling = QUICKLY if pace is None else pace
        values = merged(merged(self.values(), {"autoscaling": scaling}), changes or {})
        command = ["upgrade", "--install", NAME, str(CHART), "--values", "-", "--wait", "--timeout", "180s"]
        self.helm(*command, stdin=json.dumps(values))

    def uninstall(self) -> None:
        self.helm("uninstall", NAME, "--wait", "--ignore-not-found")

    def helm(self, *arguments: str, stdin: str = "") -> str:
        return self.kube.helm(*arguments, "--namespace", self.namespace, stdin=stdin)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.kube.kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    @property
    def deployment(self) -> dict[str, Any]:
        found: dict[str, Any] = self.kube.get(f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{NAME}")
        return found

    @property
    def autoscaler(self) -> dict[str, Any]:
        path = f"/apis/autoscaling/v2/namespaces/{self.namespace}/horizontalpodautoscalers/{NAME}"
        found: dict[str, Any] = self.kube.get(path)
        return found

    def condition(self, kind: str) -> dict[str, str]:
        """Of the autoscaler; {} while it has none."""
        conditions = self.autoscaler.get("status", {}).get("conditions", [])
        return next((one for one in conditions if one["type"] == kind), {})

    def replicas(self) -> int:
        """How many the deployment is to have."""
        count: int = self.deployment["spec"]["replicas"]
        return count

    def ready(self) -> int:
        count: int = self.deployment["status"].get("readyReplicas", 0)
        return count

    def pods(self, component: str = "backend") -> list[dict[str, Any]]:
        selector = f"app.kubernetes.io/component={component},app.kubernetes.io/instance={NAME}"
        query = {"labelSelector": selector}
        answer = self.kube.api.get(f"/api/v1/namespaces/{self.namespace}/pods", params=query)
        answer.raise_for_status()
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def names(self, component: str = "backend") -> list[str]:
        """Of the pods that are not on their way out."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods(component)
            if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] != "Failed"
        ]

    def demand(self, pod: str) -> float:
        return self._metric(pod, "dub5_demand_requests")

    def has_redis(self, pod: str) -> bool:
        """Whether Redis answers it, as far as it knows."""
        return self._metric(pod, "dub5_redis_up") == 1

    def _metric(self, pod: str, name: str) -> float:
        """Of a metric without labels."""
        text = self.kube.pod_text(self.namespace, pod, 9000, "/metrics")
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        assert found, text
        return float(found[1])

    def key(self, name: str = "chat") -> str:
        return base64.b64decode(self.secret()[name]).decode()

    def secret(self) -> dict[str, str]:
        data: dict[str, str] = self.kube.get(f"/api/v1/namespaces/{self.namespace}/secrets/{NAME}-keys")[
            "data"
        ]
        return data

    def await_replicas(self, count: int) -> None:
        """Asked for, and there, and none more."""
        eventually(
            lambda: (self.replicas(), self.ready(), len(self.names())) == (count, count, count),
            f"{count} replicas; demand {self.autoscaler.get('status', {}).get('currentMetrics')}",
        )


DEFINITIONS = ("cachepolicies.dub5.io", "cacheinvalidations.dub5.io")


def remove_definitions(kube: Kube) -> None:
    """What an uninstall keeps, and their objects.

    They belong to the release that made them: no other one with an operator could be installed.
    """
    for definition in DEFINITIONS:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition}"
        if kube.get(path) is not None:
            kube.kubectl("delete", "customresourcedefinition", definition)


@contextlib.contextmanager
def staged(pace: ground.Pace, namespace: str, *further: str) -> Iterator[tuple[Stage, Release]]:
    """A cluster with monitoring and a provider, and a release to be installed; `further` images are loaded too."""
    images = ground.Images()
    with tempfile.TemporaryDirectory() as folder, ground.a_cluster(Path(folder), pace) as kube:
        placement = ground.on(ground.names_of_nodes(kube)[0])
        ground.load_images("dub5", "redis", *further)
        with (
            ground.monitored(kube, images, placement, pace),
            Stage.built(kube, images, placement) as stage,
            Release.namespace_for(kube, images, namespace) as release,
        ):
            yield stage, release
