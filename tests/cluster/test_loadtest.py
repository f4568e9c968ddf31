"""The load test as a Job of the chart: it passes, a missed gate fails it for good, and results outlive the pod."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from dub5.loadtest.command import write_report
from dub5.loadtest.runs import read_run
from testkit.chart import CHART, merged
from testkit.cluster import loadjob
from testkit.cluster.ground import Images, load_images, on
from testkit.cluster.kube import Kube, eventually, manifest
from testkit.cluster.release import NAME, Release
from testkit.cluster.stage import Stage
from testkit.places import ROOT

pytestmark = pytest.mark.usefixtures("monitoring")

CLAIM = "results"
SHELF = "dub5-shelf"
SHORT = {
    "RATE": 4,
    "DURATION": "30s",
    "PERSONALITIES": "standin",
    "COMPLEXITIES": "short,tool",
    "TTFT_P95": 20000,
}
SHORTER = {
    "DURATION": "4s",
    "PEAK": 8,
    "STEPS": 2,
    "STEP": "2s",
    "CLIENTS": 4,
    "ROUNDS": 2,
    "PAUSE": "2s",
    "REQUESTS": 20,
    "SPEED": 10,
    "QUESTIONS": 4,
    "HITS": 0.1,
    "MAX_VUS": 50,
    "DRIFT": 1000,
}
LONG_ENOUGH = {"soak": {"DURATION": "12s", "ANSWER": "2s"}}
"""Each caller has asked in the first third."""
SCENARIOS = ROOT / "deploy/k6/scenarios"


class LoadTests:
    """Jobs of the chart, one after the other."""

    def __init__(self, release: Release) -> None:
        self.release = release

    def start(self, scenario: str, settings: dict[str, Any], **more: Any) -> str:
        """Upgrades the release with a load test, and returns the name of its Job."""
        self.upgrade({"enabled": True, "scenario": scenario, "settings": settings, **more})
        manifest = self.release.helm("get", "manifest", NAME)
        name: str = next(
            made["metadata"]["name"]
            for made in yaml.safe_load_all(manifest)
            if made and made["kind"] == "Job"
        )
        return name

    def upgrade(self, given: dict[str, Any]) -> None:
        repository, tag = self.release.images.k6.rsplit(":", 1)
        usual = {
            "image": {"repository": repository, "tag": tag},
            "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
        }
        values = merged(
            self.release.values(), {"autoscaling": {"mode": "none"}, "loadtest": {**usual, **given}}
        )
        self.release.helm("upgrade", NAME, str(CHART), "--values", "-", stdin=json.dumps(values))

    def end(self, name: str) -> dict[str, Any]:
        """The Job's last condition, as soon as it has one that is final."""

        def final() -> dict[str, Any] | None:
            path = f"/apis/batch/v1/namespaces/{self.release.namespace}/jobs/{name}"
            conditions = self.release.kube.get(path)["status"].get("conditions", [])
            return next((each for each in conditions if each["type"] in ("Complete", "Failed")), None)

        found = eventually(final, f"{name} ends", timeout=240)
        assert found is not None
        return found

    def log(self, name: str) -> str:
        return self.release.kubectl("logs", f"job/{name}")

    def summary(self, name: str) -> dict[str, Any]:
        """In the log k6's own complaint may come after it."""
        line = next(line for line in reversed(self.log(name).splitlines()) if '"dub5_loadtest"' in line)
        found: dict[str, Any] = json.loads(line)
        return found

    def objects(self, kinds: str) -> str:
        return self.release.kubectl(
            "get", kinds, "--selector", "app.kubernetes.io/component=loadtest", "--output", "name"
        )

    def pods(self, name: str) -> list[dict[str, Any]]:
        return self.release.kube.list(self.release.namespace, "pods", f"job-name={name}")


@pytest.fixture(scope="module")
def tests(release: Release, stage: Stage) -> LoadTests:
    load_images("k6")
    stage.pace(first_token=0.1, between=0.02, tokens=10)
    release.install({"autoscaling": {"mode": "none"}, "replicas": 2})
    return LoadTests(release)


class Shelf:
    """A volume that is a folder of a node, and a pod that can read it: this cluster has nothing that makes volumes."""

    def __init__(self, kube: Kube, node: str, folder: str) -> None:
        self.kube, self.node, self._folder = kube, node, folder

    def read(self, file: str) -> str:
        return self._python(f"print(open('{self._folder}/{file}').read())")

    def clear(self) -> None:
        self._python(f"import shutil; shutil.rmtree('{self._folder}')")

    def _python(self, code: str) -> str:
        return self.kube.kubectl("exec", "--namespace", SHELF, "shelf", "--", "python3", "-c", code)


@pytest.fixture
def shelf(kube: Kube, tests: LoadTests, images: Images, nodes: list[str]) -> Iterator[Shelf]:
    namespace = tests.release.namespace
    words = {"namespace": namespace, "claim": CLAIM, "image": images.dub5, "placement": on(nodes[0])}
    text = manifest("shelf.yaml", **words)
    kube.apply(text)
    kube.kubectl("wait", "--namespace", SHELF, "--for=condition=Ready", "pod/shelf", "--timeout=120s")
    made = Shelf(kube, nodes[0], f"/node/{namespace}-{CLAIM}")
    yield made
    made.clear()
    kube.kubectl("delete", "-f", "-", "--ignore-not-found", "--wait=false", stdin=text)


def test_a_run_passes_and_its_log_is_all_that_a_report_needs(
    tests: LoadTests, kube: Kube, tmp_path: Path
) -> None:
    name = tests.start("steady", SHORT)
    assert tests.end(name)["type"] == "Complete"
    log = tmp_path / "run.log"
    log.write_text(tests.log(name))
    series = loadjob.Service(kube, NAME, tests.release.namespace, "monitoring/prometheus:9090").series(
        read_run(log)
    )
    (tmp_path / "series.json").write_bytes(msgspec.json.encode(series))
    document = write_report(log, tmp_path / "report", series=tmp_path / "series.json")
    assert document.verdict.startswith("passed. No resource was full") or "full from" in document.verdict
    lines = series.lines
    assert max(value for _, value in lines["replicas"]) == 2
    assert max(value for _, value in lines["requests"]) > 1
    assert lines["memory"]
    assert {value for _, value in lines["memory_limit"]} == {512 * 2**20}, "what the container itself says"


@pytest.mark.parametrize("scenario", sorted(path.stem for path in SCENARIOS.glob("*.js")))
def test_every_scenario_runs_as_a_job(tests: LoadTests, scenario: str) -> None:
    name = tests.start(scenario, {**SHORT, **SHORTER, **LONG_ENOUGH.get(scenario, {})})
    condition = tests.end(name)
    assert condition["type"] == "Complete", tests.log(name)
    summary = tests.summary(name)
    assert (summary["scenario"], summary["passed"]) == (scenario, True)
    assert summary["metrics"]["chat_whole"]["passes"] > 0


def test_one_beside_a_release_reports_and_leaves_nothing(tests: LoadTests, tmp_path: Path) -> None:
    """`make loadtest` with KUBECONFIG."""
    tests.upgrade({"enabled": False})
    before = tests.release.helm("history", NAME)
    service = loadjob.Service(tests.release.kube, NAME, tests.release.namespace, "monitoring/prometheus:9090")
    settings = {key: str(value) for key, value in {**SHORT, "DURATION": "12s"}.items()}
    code, document = loadjob.run(service, "steady", settings, tmp_path)
    assert code == 0
    assert document is not None
    assert document.verdict.startswith("passed")
    assert "replicas" in (tmp_path / "report.md").read_text()
    assert tests.release.helm("history", NAME) == before
    left = "jobs,configmaps,networkpolicies,serviceaccounts"
    eventually(lambda: not tests.objects(left), "what was made for it is gone")


def test_a_missed_gate_fails_the_job_and_is_not_tried_again(tests: LoadTests) -> None:
    name = tests.start("steady", {**SHORT, "DURATION": "5s", "TTFT_P95": 1}, backoffLimit=5)
    condition = tests.end(name)
    assert (condition["type"], condition["reason"]) == ("Failed", "PodFailurePolicy")
    (pod,) = tests.pods(name)
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 99
    summary = tests.summary(name)
    assert not summary["passed"]
    assert "chat_ttft" in {gate["metric"] for gate in summary["thresholds"] if not gate["ok"]}


def test_results_are_kept_on_a_volume(tests: LoadTests, shelf: Shelf) -> None:
    there = {"nodeSelector": {"kubernetes.io/hostname": shelf.node}}
    name = tests.start("smoke", {**SHORT, "COMPLEXITIES": "short"}, resultsClaim=CLAIM, **there)
    assert tests.end(name)["type"] == "Complete", tests.log(name)
    (pod,) = tests.pods(name)
    assert json.loads(shelf.read(f"{pod['metadata']['name']}.json")) == tests.summary(name)
