"""A load test as a Job in a cluster, beside a release that stays as it is: what `make loadtest` does with KUBECONFIG.

Of the chart, rendered with the release's own values, only what belongs to the load test is made, and all of it is taken
away at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import yaml

from dub5.loadtest.command import write_report
from dub5.loadtest.runs import Run, Unreadable, read_run
from dub5.loadtest.series import Series, ask_prometheus
from dub5.report.document import Document
from testkit.chart import CHART, merged
from testkit.cluster.kube import Kube, eventually


@dataclass(frozen=True)
class Service:
    """A release of the chart, by name and namespace; `prometheus` is NAMESPACE/SERVICE:PORT, where there is one.

    `selector` chooses its replicas there; by their pods' names where there is none.
    """

    kube: Kube
    name: str
    namespace: str
    prometheus: str | None = None
    selector: str | None = None

    def manifests(self, scenario: str, settings: dict[str, str]) -> list[dict[str, Any]]:
        """The whole chart as it is installed, and the load test."""
        given = json.loads(
            self.kube.helm("get", "values", self.name, "--namespace", self.namespace, "--output", "json")
        )
        asked = {
            "enabled": True,
            "kind": "job",
            "scenario": scenario,
            "settings": settings,
            "run": f"{time.time():.0f}",
            "progress": True,
        }
        values = json.dumps(merged(given or {}, {"loadtest": asked}))
        command = ("template", self.name, str(CHART), "--namespace", self.namespace, "--values", "-")
        return [each for each in yaml.safe_load_all(self.kube.helm(*command, stdin=values)) if each]

    @contextlib.contextmanager
    def job(self, manifests: list[dict[str, Any]]) -> Iterator[str]:
        """The Job's name, while it is there; what the release has of a load test already is used, and left."""
        parts = [
            each
            for each in manifests
            if each["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "loadtest"
        ]
        missing = [each for each in parts if not self._kubectl("get", *name_of(each), "--ignore-not-found")]
        try:
            for each in missing:
                self._kubectl("create", "--filename", "-", stdin=json.dumps(each))
            yield next(each["metadata"]["name"] for each in parts if each["kind"] == "Job")
        finally:
            for each in missing:
                self._kubectl("delete", *name_of(each), "--ignore-not-found", "--wait=false")

    def follow(self, job: str) -> None:
        """Prints k6's progress until it ends."""
        eventually(lambda: self._phase(job) not in ("", "Pending"), f"a pod of {job} runs", 300)
        command = ("logs", "--namespace", self.namespace, "--follow", f"job/{job}")
        with subprocess.Popen(self.kube.command(*command), stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                if not line.startswith("{"):
                    print(line, end="", flush=True)
        eventually(lambda: self._phase(job) != "Running", f"the pod of {job} ends", 7200)

    def log(self, job: str) -> str:
        return self._kubectl("logs", f"job/{job}")

    def ended(self, job: str) -> tuple[int, str]:
        """k6's exit code, and why it is so in Kubernetes' words: `OOMKilled`, where it had too many callers."""
        status = self._pod(job)["status"]
        states = [each["state"] for each in status.get("containerStatuses", []) if each["name"] == "k6"]
        ended = next((state["terminated"] for state in states if "terminated" in state), None)
        if ended is None:  # the pod was taken away as a whole
            return 1, status.get("reason", status["phase"])
        return ended["exitCode"], ended["reason"]

    def series(self, run: Run) -> Series:
        """The report's figures, from the Prometheus that the API server leads to."""
        if self.prometheus is None:
            return Series(0.0, {})
        namespace, _, service = self.prometheus.partition("/")
        return asyncio.run(
            ask_prometheus(
                f"http://localhost/api/v1/namespaces/{namespace}/services/{service}/proxy",
                began=run.began,
                ended=run.ended,
                pods=self.selector or replicas(self._installed(), self.namespace),
                transport=httpx.AsyncHTTPTransport(uds=str(self.kube.socket)),
            )
        )

    def _installed(self) -> list[dict[str, Any]]:
        manifest = self.kube.helm("get", "manifest", self.name, "--namespace", self.namespace)
        return [each for each in yaml.safe_load_all(manifest) if each]

    def _phase(self, job: str) -> str:
        """Empty where there is no pod yet."""
        phase: str = self._pod(job).get("status", {}).get("phase", "")
        return phase

    def _pod(self, job: str) -> dict[str, Any]:
        """The latest; {} where there is none yet."""
        return max(
            self.kube.list(self.namespace, "pods", f"job-name={job}"),
            key=lambda pod: str(pod["metadata"]["creationTimestamp"]),
            default={},
        )

    def _kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.kube.kubectl("--namespace", self.namespace, *arguments, stdin=stdin)


def run(
    service: Service,
    scenario: str,
    settings: dict[str, str],
    out: Path,
    *,
    earlier: Path | None = None,
) -> tuple[int, Document | None]:
    """k6's exit code and the report, which is in `out`; there is none where the run did not reach its end."""
    manifests = service.manifests(scenario, settings)
    with service.job(manifests) as job:
        service.follow(job)
        log, (code, reason) = service.log(job), service.ended(job)
    kept, series = out / "run.log", out / "series.json"
    kept.write_text(log, encoding="utf-8")
    try:
        ran = read_run(kept)
    except Unreadable as error:
        print(f"k6 ended with {code} ({reason}): {error}", file=sys.stderr)
        return code, None
    series.write_bytes(msgspec.json.encode(service.series(ran)))
    return code, write_report(kept, out, series=series, earlier=earlier)


def replicas(manifests: list[dict[str, Any]], namespace: str) -> str:
    """What selects the replicas of a release in Prometheus: others in its namespace have other pods' names.

    The labels are those of the chart's PodMonitor and ServiceMonitor, and of docs/alerts.md.
    """
    name = next(
        each["metadata"]["name"]
        for each in manifests
        if each["kind"] == "Deployment"
        and each["metadata"]["labels"]["app.kubernetes.io/component"] == "backend"
    )
    return f'namespace="{namespace}",pod=~"{name}-[a-z0-9]+-[a-z0-9]{{5}}"'


def name_of(manifest: dict[str, Any]) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]
