"""Runs on a cluster that the advisor's simulation is held to: `python -m benchmarks.scaling.recorded FOLDER [RUN...]`.

Each run is a release of its own under a load that nothing holds back, all of them at once: requests come by chance,
whether those before them were answered or not. Of each a record is written as `dub5 autoscale record --prometheus`
makes it, with what only the API server and the callers know: replicas wanted and ready each second, how long pods took
to start. Those of one call have one pace. Then each record in the folder is simulated, and beside what was real stands
what `SEEDS` simulations make of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import httpx
import msgspec

from dub5.advisor import record
from dub5.advisor.running import measure
from dub5.advisor.simulation import simulate
from dub5.advisor.summary import agreement
from dub5.advisor.values import of_values
from testkit.chart import merged
from testkit.cluster import ground, keda
from testkit.cluster.kube import eventually
from testkit.cluster.release import QUICKLY, Release, staged
from testkit.cluster.stage import NAMESPACE, Stage
from testkit.tables import table

QUICK = ground.Pace()
DEFAULTS = ground.Pace(scrape="15s", relist="30s", autoscaler="15s")
PROMETHEUS = "http://localhost/api/v1/namespaces/monitoring/services/prometheus:9090/proxy"
CALLS = {"first_token": 2.0, "spread": 1.0, "between": 0.75, "tokens": 5}
"""Three to seven seconds each."""

SEEDS = 20

WAITS = {"config": {"admission": {"queue_timeout": "10s"}}}
SPIKE = ((60, 2.0, 0.0), (75, 10.0, 0.0), (150, 2.0, 0.0))
CACHE_LOST = ((75, 10.0, 0.85), (0, "purge", 0.0), (210, 10.0, 0.85))
LONG_SPIKE = ((75, 2.5, 0.0), (120, 9.0, 0.0), (405, 2.0, 0.0))
LONG_CACHE_LOST = ((90, 10.0, 0.85), (0, "purge", 0.0), (450, 10.0, 0.85))


@dataclass(frozen=True)
class Plan:
    """`phases`: seconds, requests a second, and the share of known questions; `purge`: all answers are forgotten."""

    phases: tuple[tuple[float, float | str, float], ...]
    pace: ground.Pace = QUICK
    keda: bool = False
    seed: int = 1
    changes: dict[str, Any] = field(default_factory=dict)


RUNS = {
    "quick-spike-1": Plan(SPIKE),
    "quick-spike-2": Plan(SPIKE, seed=2),
    "quick-spike-3": Plan(SPIKE, seed=3),
    # What `dub5 autoscale recommend` made of quick-spike-1 and quick-cache-lost, tried on the same loads.
    "recommended-1": Plan(SPIKE, changes=WAITS | {"autoscaling": {"minReplicas": 5, "targetPercentage": 40}}),
    "recommended-2": Plan(CACHE_LOST, seed=4, changes=WAITS | {"autoscaling": {"targetPercentage": 20}}),
    "quick-cache-lost": Plan(CACHE_LOST, seed=4),
    "quick-keda-spike": Plan(SPIKE, keda=True, seed=5),
    "default-spike": Plan(LONG_SPIKE, DEFAULTS, seed=6),
    "default-cache-lost": Plan(LONG_CACHE_LOST, DEFAULTS, seed=7),
    "default-keda-spike": Plan(LONG_SPIKE, DEFAULTS, keda=True, seed=8),
}
HELD_OUT = ("quick-cache-lost", "default-cache-lost", "default-keda-spike")
"""Chosen before any was made, and not looked at while the model was."""


class Arriving:
    """pods/arriving.py at work."""

    def __init__(self, stage: Stage, release: Release, seed: int) -> None:
        where = ["exec", "--stdin", "--namespace", NAMESPACE, "load", "--", "env", f"KEY={release.key()}"]
        command = stage.kube.command(*where, "python", "/code/arriving.py", release.url, str(seed))
        pipe = subprocess.PIPE
        self.seen: dict[str, Any] = {}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self.seen = json.loads(line)

    def say(self, **what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=120)
        self._reader.join()


def values(plan: Plan) -> dict[str, Any]:
    """Besides the release's own. Callers wait for five seconds at most, so that some of a spike are refused."""
    scaling: dict[str, Any] = dict(QUICKLY) if plan.pace is QUICK else {"maxReplicas": 6}
    if plan.keda:
        every = int(plan.pace.autoscaler.rstrip("s"))
        address = "http://prometheus.monitoring:9090"
        scaling |= {"mode": "keda", "keda": {"serverAddress": address, "pollingInterval": every}}
    ours = {"autoscaling": scaling, "config": {"admission": {"queue_timeout": "5s"}}}
    return merged(ours, plan.changes)


class Watched:
    """Each second, from the API server: replicas, and when which pod was made and ready."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self.began = time.time()
        self.seen: list[record.Seen] = []
        self.starts: dict[str, float] = {}

    def until(self, end: float) -> None:
        while (left := end - time.time()) > 0:
            with contextlib.suppress(httpx.HTTPError):
                self.look()
            time.sleep(min(1.0, left))

    def look(self) -> None:
        wanted, ready = self.release.replicas(), self.release.ready()
        self.seen.append(record.Seen(at=round(time.time() - self.began, 2), wanted=wanted, ready=ready))
        for pod in self.release.pods():
            made = pod["metadata"]["creationTimestamp"]
            for each in pod["status"].get("conditions", []):
                if (each["type"], each["status"]) == ("Ready", "True"):
                    took = _moment(each["lastTransitionTime"]) - _moment(made)
                    self.starts.setdefault(pod["metadata"]["name"], max(took, 0.5))

    @property
    def synced(self) -> float | None:
        """When the autoscaler changed the number first."""
        changed = [b.at for a, b in zip(self.seen, self.seen[1:], strict=False) if a.wanted != b.wanted]
        return max(changed[0] - 0.5, 0.0) if changed else None


def _moment(written: str) -> float:
    return datetime.fromisoformat(written).timestamp()


def run(name: str, stage: Stage, release: Release, ready: threading.Barrier) -> record.Record:
    """Prints what callers saw, too."""
    plan = RUNS[name]
    release.install(values(plan), pace={})
    arriving = Arriving(stage, release, plan.seed)
    eventually(lambda: arriving.seen, "the load reports")
    if any(known for _, _, known in plan.phases):
        arriving.say(warm=True)
        eventually(lambda: arriving.seen["warm"], "the cache is warm", 300)
    ready.wait()
    stage.pace(**CALLS)
    time.sleep(7 * plan.seed)  # not all of them at once start pods
    pressure, watched = cpu_wait(), Watched(release)
    there = release.replicas()
    before = set(release.names())
    for seconds, rate, known in plan.phases:
        if isinstance(rate, str):
            forget(stage, release)
        else:
            arriving.say(rate=rate, known=known)
            watched.until(time.time() + seconds)
    ended = float(int(time.time()))
    share = (cpu_wait() - pressure) / (ended - watched.began)
    arriving.end()
    time.sleep(2 * float(plan.pace.scrape.rstrip("s")))
    starts = tuple(took for pod, took in watched.starts.items() if pod not in before)
    made = asyncio.run(measured(release, plan, watched, ended, there, starts))
    print(
        name,
        arriving.seen,
        f"starts {sorted(starts)}, some task waited for a CPU {share:.0%} of the time",
        flush=True,
    )
    return made


async def measured(
    release: Release, plan: Plan, watched: Watched, ended: float, there: int, starts: tuple[float, ...]
) -> record.Record:
    scrape, sync = (float(each.rstrip("s")) for each in (plan.pace.scrape, plan.pace.autoscaler))
    in_force = of_values(merged(release.values(), values(plan))).for_record()

    def header(began: float, seconds: float) -> record.Header:
        return record.Header(
            source=release.namespace,
            began=began,
            seconds=seconds,
            pace=record.Pace(scrape=scrape, sync=sync + 0.03, synced=watched.synced),
            cluster=record.Cluster(replicas=there, starts=starts)
            if starts
            else record.Cluster(replicas=there),
            values=in_force,
        )

    transport = httpx.AsyncHTTPTransport(uds=str(release.kube.socket))
    selector = f'namespace="{release.namespace}"'
    length = ended - watched.began
    made = await measure(PROMETHEUS, selector, length, ended, header, transport=transport)
    # How many were scraped is less than what the API server knows.
    seen = [msgspec.structs.replace(each, ready=None) for each in made.seen]
    lines: list[record.AnyLine] = [*made.arrivals, *made.mixes, *seen, *watched.seen]
    return record.make(made.header, lines)


def forget(stage: Stage, release: Release) -> None:
    """All answers, on every replica."""
    command = ["env", f"DUB5_KEY={release.key('admin')}", "dub5", "cache", "invalidate", "--all"]
    stage.exec(*command, "--url", release.url)


def cpu_wait() -> float:
    """Seconds in which some task of this machine was ready to run, and had no CPU."""
    some = Path("/proc/pressure/cpu").read_text(encoding="ascii").splitlines()[0]
    return int(some.rpartition("=")[2]) / 1e6


@contextlib.contextmanager
def releases(stage: Stage, names: list[str]) -> Iterator[list[Release]]:
    with contextlib.ExitStack() as stack:
        images = ground.Images()
        yield [
            stack.enter_context(Release.namespace_for(stage.kube, images, f"dub5-{each}")) for each in names
        ]


def make(folder: Path, names: list[str]) -> None:
    plans = [RUNS[name] for name in names]
    with staged(plans[0].pace, "dub5-recorded") as (stage, _), contextlib.ExitStack() as stack:
        if any(plan.keda for plan in plans):
            stack.enter_context(keda.installed(stage.kube))
        ours = stack.enter_context(releases(stage, names))
        stage.pace(first_token=0.0, spread=0.0, between=0.0, tokens=5)
        ready = threading.Barrier(len(plans))
        with ThreadPoolExecutor(len(plans)) as pool:
            going = pool.map(lambda name, release: run(name, stage, release, ready), names, ours)
            for name, made in zip(names, going, strict=True):
                record.write(made, folder / f"{name}.record")
        for release in ours:
            release.uninstall()  # KEDA has to be there to let its objects go


def compared(path: Path) -> tuple[str, ...]:
    """A row."""
    there = record.read(path)
    values = of_values(there.header.values)
    outcomes = [simulate(there, values, seed=seed) for seed in range(SEEDS)]
    found = [each for outcome in outcomes if (each := agreement(there, outcome)) is not None]
    last = [each for each in there.seen if each.shed is not None][-1]

    def beside(real: float | None, simulated: list[float]) -> str:
        return f"{real or 0:.0f}, simulated {fmean(simulated):.0f} +- {pstdev(simulated):.0f}"

    def errors(name: str) -> str:
        of = [float(getattr(each, name)) for each in found]
        return f"{fmean(of):+.1%} ({min(of):+.1%} to {max(of):+.1%})"

    def within_one(name: str) -> str:
        return f"{min(float(getattr(each, name)) for each in found):.1%}"

    return (
        path.stem + (", held out" if path.stem in HELD_OUT else ""),
        errors("wanted_error"),
        within_one("wanted_within_one"),
        errors("ready_error"),
        within_one("ready_within_one"),
        beside(last.shed, [outcome.refused for outcome in outcomes]),
        beside(last.waited, [outcome.waited for outcome in outcomes]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs on a cluster, recorded, and simulated.")
    parser.add_argument("folder", type=Path, help="of records")
    parser.add_argument("runs", nargs="*", choices=[*RUNS, []], metavar="RUN", help=", ".join(RUNS))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.runs:
        make(asked.folder, asked.runs)
    rows = map(compared, sorted(asked.folder.glob("*.record")))
    print(table("run | wanted | within one | ready | within one | refused | waited", rows))


if __name__ == "__main__":
    main()
