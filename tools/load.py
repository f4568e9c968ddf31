"""`make loadtest`: one scenario of deploy/k6 against a server, with progress, and a report of it.

    python -m tools.load steady                                    # a local server with a simulated provider
    RATE=50 DURATION=1m python -m tools.load steady --url http://127.0.0.1:8000 --operations http://127.0.0.1:9000
    python -m tools.load steady --release chat/dub5 --prometheus monitoring/prometheus:9090    # in KUBECONFIG's cluster

The settings of a scenario, in docs/load-testing.md, come from the environment. Exit code: k6's, 99 where a gate
was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from dub5.loadtest.command import write_report
from dub5.loadtest.runs import Unreadable, read_run
from dub5.loadtest.series import ask_prometheus
from dub5.report.document import Document
from dub5.settings.model import Duration
from testkit import commands
from testkit.cluster import ground, loadjob
from testkit.monitoring import PROMETHEUS, Prometheus
from testkit.places import ROOT
from testkit.programs import which
from testkit.service import serving
from tools import loadtest

SCENARIOS = ROOT / "deploy/k6/scenarios"
NAMES = sorted(path.stem for path in SCENARIOS.glob("*.js"))
K6 = which("k6")
JOB = "dub5"
WINDOW = Duration(2)
"""Of rates: two scrapes of a Prometheus beside the server, which loses none."""
SETTINGS = {
    "providers": {"demo": {"kind": "simulated"}},
    "models": {"demo": {"routes": ["demo/simulated"]}},
}


@contextlib.asynccontextmanager
async def target(url: str | None, operations: str | None) -> AsyncIterator[tuple[str, str | None]]:
    """Where to ask, and where the figures are: what was given, else a server of our own."""
    if url is not None:
        yield url, operations
        return
    async with serving(SETTINGS) as service:
        yield service.url, service.operations_url


async def run(scenario: str, url: str, operations: str | None, out: Path) -> int:
    """k6's exit code; the summary, and what Prometheus saw of the service meanwhile, are in `out`."""
    if K6 is None:
        sys.exit("There is no k6: tools/setup.sh k6 builds it with Go, or install it.")
    summary = out / "summary.json"
    settings = {"DUB5_URL": url, "SUMMARY_FILE": str(summary), "SUMMARY_TEXT": "true"}
    async with contextlib.AsyncExitStack() as stack:
        prometheus = None
        if operations is not None and PROMETHEUS is None:
            print(
                "There is no Prometheus (tools/setup.sh promtool), so no figures of the service.",
                file=sys.stderr,
            )
        elif operations is not None:
            folder = await asyncio.to_thread(tempfile.TemporaryDirectory)
            stack.push_async_callback(asyncio.to_thread, folder.cleanup)
            watching = Prometheus(Path(folder.name), {JOB: {operations.rstrip("/"): {}}})
            prometheus = await stack.enter_async_context(watching)
            await prometheus.until("up == 1")  # some seconds after it has started
        process = await asyncio.create_subprocess_exec(
            *(K6, "run", "--no-usage-report", "--address", "", str(SCENARIOS / f"{scenario}.js")),
            env={**os.environ, **settings},
        )
        code = await process.wait()
        if prometheus is not None:
            with contextlib.suppress(Unreadable):  # the run did not reach its end
                ran = await asyncio.to_thread(read_run, summary)
                seen = await ask_prometheus(
                    prometheus.url, began=ran.began, ended=ran.ended, pods=f'job="{JOB}"', window=WINDOW
                )
                await asyncio.to_thread((out / "series.json").write_bytes, msgspec.json.encode(seen))
    return code


def main() -> int:
    parser = commands.parser(__doc__)
    parser.add_argument("scenario", choices=NAMES)
    parser.add_argument("--url", help="public listener; without it a server is started")
    parser.add_argument(
        "--operations", help="operations listener of one replica, for the figures of the service"
    )
    parser.add_argument(
        "--release",
        metavar="NAMESPACE/NAME",
        help="run it as a Job beside this release, in KUBECONFIG's cluster",
    )
    parser.add_argument(
        "--prometheus",
        metavar="NAMESPACE/SERVICE:PORT",
        help="that cluster's, for the figures of the service",
    )
    parser.add_argument(
        "--selector", help="of the release's replicas there, without braces (default: by its pods' names)"
    )
    parser.add_argument("--out", type=Path, help="folder of the report (default: .bench/loadtest/SCENARIO)")
    parser.add_argument("--compare", type=Path, help="folder of an earlier report")
    asked = parser.parse_args()
    out = asked.out or ROOT / ".bench/loadtest" / asked.scenario
    out.mkdir(parents=True, exist_ok=True)
    for left in ("summary.json", "series.json"):
        (out / left).unlink(missing_ok=True)
    if asked.release is not None:
        code, document = in_cluster(asked, out)
        _report(out, document)
        return code
    return asyncio.run(on_this_machine(asked, out))


def in_cluster(asked: argparse.Namespace, out: Path) -> tuple[int, Document | None]:
    names = loadtest.names_of_settings() - loadtest.OF_THE_CHART
    settings = {name: os.environ[name] for name in names if os.environ.get(name)}
    namespace, _, name = asked.release.partition("/")
    with (
        tempfile.TemporaryDirectory() as folder,
        ground.theirs(os.environ["KUBECONFIG"]).connected(Path(folder)) as kube,
    ):
        service = loadjob.Service(kube, name, namespace, asked.prometheus, asked.selector)
        return loadjob.run(service, asked.scenario, settings, out, earlier=asked.compare)


async def on_this_machine(asked: argparse.Namespace, out: Path) -> int:
    async with target(asked.url, asked.operations) as (url, operations):
        code = await run(asked.scenario, url, operations, out)
    if (out / "summary.json").exists():
        _report(out, await asyncio.to_thread(write_report, out, out, earlier=asked.compare))
    return code


def _report(out: Path, document: Document | None) -> None:
    if document is not None:
        print(f"{document.verdict}\nSee {out / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
