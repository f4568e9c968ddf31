"""Load tests at the size of a report, on a cluster: `python -m benchmarks.load [ROW …] --out .bench/load`.

Installs the chart on a cluster (KUBECONFIG's, else one from source) with a stand-in for the provider, runs each
scenario beside it as `make loadtest` does, and leaves a folder for each. What is asked of each is in RUNS; rates that
are shares of the capacity need `ramp-to-break` to have run before, or --capacity.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from testkit.chart import merged
from testkit.cluster import ground, loadjob
from testkit.cluster.release import NAME, Release, staged
from testkit.cluster.stage import Stage
from testkit.commands import parser

PACE = ground.Pace(scrape="5s", relist="15s", autoscaler="15s")
ANSWER = {"first_token": 0.3, "between": 0.05, "tokens": 40}
"""2.3 s: 40 tokens at 20 a second."""
SETTLING = 30.0  # seconds: more than the window of rates, in which the run before still shows
GATES = {"TTFT_P95": 1000}


def replicas_leave(release: Release) -> None:
    """From 3 to 1, to 3 again, and all of them replaced."""
    time.sleep(45)  # the load is there; no condition tells more
    for count in (1, 3):
        release.kubectl("scale", f"deployment/{NAME}", f"--replicas={count}")
        release.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=120s")
        time.sleep(30)
    release.kubectl("rollout", "restart", f"deployment/{NAME}")


RUNS: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
)["runs"]
MEANWHILE = {"drain": replicas_leave}
"""What runs beside a load."""


class Campaign:
    """One release in one namespace, changed between runs."""

    def __init__(self, release: Release, stage: Stage, out: Path, capacity: float | None) -> None:
        self.release, self.stage, self.out, self.capacity = release, stage, out, capacity

    def run(self, name: str, scenario: str, settings: dict[str, Any], values: Any, share: float = 0.0) -> str:
        """The verdict."""
        settings = {**GATES, **settings}
        if share:
            if self.capacity is None:
                raise SystemExit(f"{name} needs the capacity: run ramp-to-break before it, or say --capacity")
            settings["RATE"] = round(share * self.capacity)
        self.release.uninstall()
        time.sleep(SETTLING)
        repository, tag = self.release.images.k6.rsplit(":", 1)
        image = {
            "loadtest": {
                "image": {"repository": repository, "tag": tag},
                # Some thousand callers.
                "resources": {"requests": {"cpu": "20m"}, "limits": {"memory": "3Gi"}},
            }
        }
        roomy = {"config": {"admission": {"max_inflight": 200, "max_queued": 400}}}
        self.release.install(merged(merged(roomy, image), values), pace={})
        self.stage.pace(**ANSWER)
        beside = threading.Thread(
            target=MEANWHILE.get(name, lambda _: None), args=(self.release,), daemon=True
        )
        beside.start()
        service = loadjob.Service(
            self.release.kube, NAME, self.release.namespace, "monitoring/prometheus:9090"
        )
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        given = {key: str(value) for key, value in settings.items()}
        _, document = loadjob.run(service, scenario, given, folder)
        beside.join(120)
        if document is None:
            raise SystemExit(f"{name} did not reach its end: {folder / 'run.log'}")
        if name == "ramp-to-break":
            found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["findings"]
            self.capacity = self.capacity or found["holds"]
        return document.verdict


def main() -> int:
    options = parser(__doc__, RUNS)
    options.add_argument("--capacity", type=float, help="requests per second that two replicas hold")
    options.add_argument("--out", type=Path, default=Path(".bench/load"), help="folder of the reports")
    asked = options.parse_args()
    with staged(PACE, "dub5-load", "k6") as (stage, release):
        campaign = Campaign(release, stage, asked.out, asked.capacity)
        for name in asked.rows or RUNS:
            print(f"{name}: {campaign.run(name, **RUNS[name])}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
