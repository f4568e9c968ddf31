"""Does the number of replicas follow the load, and is anybody cut off? `python -m benchmarks.scaling`.

Installs the chart on a cluster (KUBECONFIG's, else one from source), drives a load up and down from a pod inside it,
and writes down each second what there was: clients, live streams, demand, replicas wanted and ready, streams that were
whole, cut, refused. Prints a table of what each step took, and draws all of it into FILE.svg.

    python -m benchmarks.scaling --output docs/reports/cluster-quick.svg
    python -m benchmarks.scaling --defaults --output docs/reports/cluster-defaults.svg    # about 25 minutes

Without --defaults everything looks every two seconds, and a replica goes after 15 s in which it was not needed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from testkit.cluster import ground
from testkit.cluster.release import TARGET, Release, staged
from testkit.cluster.stage import Load
from testkit.tables import table

QUICK = ground.Pace()
DEFAULTS = ground.Pace(scrape="15s", relist="30s", autoscaler="15s")
STEPS = (4, 8, 16, 28, 40, 40, 20, 8, 0)
"""Clients, each with one stream at a time: never more than there is room for."""
HOLD = 20.0  # seconds that a step lasts at least, once its replicas are there
TIMEOUT = 1200.0


@dataclass(frozen=True)
class Sample:
    """What there was at `second` of the run. `demand` is the replicas' own word, not the autoscaler's."""

    second: float
    clients: int
    live: int
    demand: float
    wanted: int
    ready: int
    whole: int
    cut: int
    refused: int


@dataclass(frozen=True)
class Step:
    """Seconds from the change of the load until so many replicas were wanted, and until they were ready."""

    clients: int
    replicas: int
    wanted_after: float
    ready_after: float


class Run:
    """One load on one release; samples are taken while steps wait."""

    def __init__(self, release: Release, load: Load, minimum: int) -> None:
        self.release = release
        self.load = load
        self.minimum = minimum
        self.began = time.monotonic()
        self.clients = 0
        self.samples: list[Sample] = []

    def sample(self) -> Sample:
        outcomes = self.load.outcomes
        sample = Sample(
            second=round(time.monotonic() - self.began, 1),
            clients=self.clients,
            live=self.load.live,
            demand=sum(demand_of(self.release, name) for name in self.release.names()),
            wanted=self.release.replicas(),
            ready=self.release.ready(),
            whole=outcomes["whole"],
            cut=outcomes["cut"],
            refused=outcomes["refused"],
        )
        self.samples.append(sample)
        return sample

    def until(self, reached: Callable[[Sample], bool], what: str) -> float:
        """Samples each second until it is so; how many seconds that took."""
        began = time.monotonic()
        while not reached(self.sample()):
            if time.monotonic() - began > TIMEOUT:
                raise SystemExit(f"gave up waiting: {what}; last: {self.samples[-1]}")
            time.sleep(1)
        return time.monotonic() - began

    def step(self, clients: int) -> Step:
        replicas = max(self.minimum, -(-clients // TARGET))
        self.clients = clients
        self.load.set(clients)
        wanted = self.until(lambda sample: sample.wanted == replicas, f"{replicas} replicas wanted")
        ready = self.until(lambda sample: sample.ready == replicas, f"{replicas} replicas ready")
        hold = time.monotonic() + HOLD
        self.until(lambda _: time.monotonic() > hold, "the step's time")
        return Step(clients, replicas, round(wanted), round(wanted + ready))


def demand_of(release: Release, pod: str) -> float:
    """0 where a pod does not answer yet."""
    with contextlib.suppress(Exception):
        return release.demand(pod)
    return 0.0


def draw(samples: list[Sample], output: Path) -> None:
    """Two charts over the same seconds."""
    seconds = [sample.second for sample in samples]
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, title, lines in (
        (
            above,
            "Requests",
            {
                "clients": [sample.clients for sample in samples],
                "live streams": [sample.live for sample in samples],
                "demand": [sample.demand for sample in samples],
                f"target of the ready replicas ({TARGET} each)": [
                    sample.ready * TARGET for sample in samples
                ],
            },
        ),
        (
            below,
            "Replicas",
            {
                "wanted": [sample.wanted for sample in samples],
                "ready": [sample.ready for sample in samples],
                "streams cut or refused": [sample.cut + sample.refused for sample in samples],
            },
        ),
    ):
        for name, values in lines.items():
            steps = "default" if name in {"live streams", "demand"} else "steps-post"
            wide = 4 if name == "live streams" else 1.5  # demand is drawn over it, and mostly the same
            axes.plot(seconds, values, label=name, drawstyle=steps, linewidth=wide)
        axes.set_title(title, loc="left")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, color="#dddddd")
        axes.legend(fontsize=8, ncols=4)
    below.set_xlabel("seconds")
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(output)


def report(steps: list[Step], samples: list[Sample]) -> str:
    rows = (
        (str(step.clients), str(step.replicas), f"{step.wanted_after:.0f} s", f"{step.ready_after:.0f} s")
        for step in steps
    )
    made, last = table("clients | replicas | wanted after | ready after", rows), samples[-1]
    return f"{made}\n{last.whole} streams whole, {last.cut} cut, {last.refused} refused."


def main() -> None:
    parser = argparse.ArgumentParser(description="Replicas under a load that goes up and down.")
    parser.add_argument(
        "--defaults", action="store_true", help="the chart's own pace, and that of most clusters"
    )
    parser.add_argument("--output", type=Path, default=Path("scaling.svg"), metavar="FILE.svg")
    asked = parser.parse_args()
    with staged(DEFAULTS if asked.defaults else QUICK, "dub5-scaling") as (stage, release):
        release.install(pace={} if asked.defaults else None)
        minimum = release.autoscaler["spec"]["minReplicas"]
        stage.pace(first_token=0.5, between=0.25, tokens=20)
        with stage.load(release.url, release.key()) as load:
            run = Run(release, load, minimum)
            steps = [run.step(clients) for clients in STEPS]
            load.finish()
            run.sample()
    draw(run.samples, asked.output)
    with asked.output.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Sample))
        writer.writerows(astuple(sample) for sample in run.samples)
    print(report(steps, run.samples))
    print("\n".join(load.failures[:5]))


if __name__ == "__main__":
    main()
