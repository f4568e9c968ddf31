"""`dub5 autoscale recommend` as the chart's Job runs it: from a real Prometheus into a ConfigMap.

That a real API server takes what is left there, and refuses all else, is in tests/operator/test_advice.py.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dub5.cli.autoscale import MISSED
from testkit.http_server import Call, FakeServer, Script, Wire, hang, whole
from testkit.monitoring import PROMETHEUS, Prometheus
from testkit.programs import which

PROMTOOL = which("promtool")
SCRAPE, LENGTH, SERVICE = 15, 900, 5.0
ADVICE = "/api/v1/namespaces/chat/configmaps/dub5-advice"
EASY = ("--refused=1", "--wait=60s")
HARD = ("--refused=0", "--wait=0s", "--set=config.admission.max_inflight=2")


class FakeKubernetes(FakeServer):
    """An API with one ConfigMap, which it lets be patched."""

    def __init__(self) -> None:
        super().__init__(shared_loop=False)
        self.data: dict[str, str] = {"verdict": "of an earlier run", "snippet": "of an earlier run"}
        self.labels: dict[str, str] = {}

    async def default(self, call: Call, wire: Wire) -> None:
        assert (call.method, call.path) == ("PATCH", ADVICE)
        assert call.headers["content-type"] == "application/merge-patch+json"
        for kept, given in ((self.data, call.body["data"]), (self.labels, call.body["metadata"]["labels"])):
            kept.update({key: value for key, value in given.items() if value is not None})
            for key in [key for key, value in given.items() if value is None]:
                kept.pop(key, None)
        await whole({"kind": "ConfigMap"})(call, wire)

    @property
    def reason(self) -> str:
        """Why there is no advice."""
        assert self.labels == {"dub5.io/advice": "none"}
        assert self.data.keys() - {"begun"} == {"verdict", "ended"}
        return self.data["verdict"]


@pytest.fixture
async def kubernetes() -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes() as fake:
        yield fake


class Job:
    """One run of it."""

    def __init__(self, folder: Path, kubernetes: FakeKubernetes) -> None:
        self._values = folder / "values.yaml"
        self._kubernetes = kubernetes
        self.record = folder / "load.record"

    async def begin(self, prometheus: str, *options: str) -> asyncio.subprocess.Process:
        small = "{autoscaling: {maxReplicas: 2}, config: {admission: {max_inflight: 20}}}"
        await asyncio.to_thread(self._values.write_text, small)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dub5", "autoscale", "recommend", f"--prometheus={prometheus}"),
            *(f"--values={self._values}", "--seeds=1", "--jobs=1", f"--write-record={self.record}"),
            *("--configmap=dub5-advice", "--namespace=chat", f"--api={self._kubernetes.url}", *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )

    async def end(self, prometheus: str, *options: str) -> tuple[int | None, str, str]:
        """Its exit code and what it has said."""
        process = await self.begin(prometheus, *options)
        said = await process.communicate()
        return process.returncode, said[0].decode(), said[1].decode()


@pytest.fixture
def job(tmp_path: Path, kubernetes: FakeKubernetes) -> Job:
    return Job(tmp_path, kubernetes)


async def test_of_an_api_that_refuses_nothing_is_worked_out(job: Job, kubernetes: FakeKubernetes) -> None:
    for status, said in ((403, "answered 403: no right"), (404, "there is no ConfigMap dub5-advice in chat")):
        kubernetes.replies = [whole({"kind": "Status", "message": "no right"}, status=status)]
        async with FakeServer(shared_loop=False) as prometheus:
            code, out, err = await job.end(prometheus.url)
            assert (code, out, prometheus.calls) == (1, "", [])
            assert said in err


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (whole({}, status=503), "503"),
        (whole({"data": {"result": []}}), "no dub5_demand_requests"),
        (whole(None, raw=b"<html>"), "as Prometheus"),
    ],
)
async def test_why_there_is_no_advice(
    job: Job, kubernetes: FakeKubernetes, answer: Script, said: str
) -> None:
    async with FakeServer(shared_loop=False) as prometheus:
        prometheus.reply = answer
        code, out, err = await job.end(prometheus.url, "--until=2026-11-27T09:30:00Z")
    assert (code, out) == (1, "")
    assert said in err
    assert kubernetes.reason.startswith("none, because ")
    assert said in kubernetes.reason


@pytest.mark.parametrize("wrong", ["--refuse-nothing", "--refused=many", "--held-out", "--until=yesterday"])
async def test_an_argument_that_is_wrong_leaves_no_advice_of_others(
    job: Job, kubernetes: FakeKubernetes, wrong: str
) -> None:
    code, out, err = await job.end("http://127.0.0.1:1", wrong)
    assert (code, out) == (2, "")
    assert wrong.partition("=")[0] in err
    assert "advisor.args" in kubernetes.reason


async def test_a_job_that_is_ended_says_so_before_it_is_gone(job: Job, kubernetes: FakeKubernetes) -> None:
    async with FakeServer(shared_loop=False) as prometheus:
        prometheus.reply = hang()
        process = await job.begin(prometheus.url)
        await prometheus.wait_called()
        process.terminate()
        await process.communicate()
    assert process.returncode == 143
    assert "ended before it was done" in kubernetes.reason


@pytest.mark.skipif(None in (PROMETHEUS, PROMTOOL), reason="needs Prometheus and its promtool")
async def test_advice_of_what_prometheus_has_seen(
    job: Job, kubernetes: FakeKubernetes, tmp_path: Path
) -> None:
    ended = int(time.time()) // 60 * 60 - 600
    await asyncio.to_thread(write_history, tmp_path, ended, "dub5-6f9c-aaaaa", "dub5-6f9c-bbbbb")
    span = ('--selector=namespace="chat"', f"--last={LENGTH}s", f"--until={moment(ended)}")
    async with Prometheus(tmp_path, {}) as prometheus:
        code, out, _ = await job.end(prometheus.url, *span, *EASY)
        assert (code, kubernetes.labels) == (0, {"dub5.io/advice": "meets"})
        assert kubernetes.data["verdict"] in out
        assert kubernetes.data["table"].strip() in out
        assert kubernetes.data["begun"] <= kubernetes.data["ended"]
        assert (await asyncio.to_thread(job.record.stat)).st_size > 0
        assert (await job.end(prometheus.url, *span, *HARD))[0] == MISSED
        assert kubernetes.labels == {"dub5.io/advice": "misses"}


def moment(unix: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))


def write_history(folder: Path, ended: int, *pods: str) -> None:
    """What these pods would have said up to then under a calm load, as blocks of a Prometheus whose data is there."""
    by_name: dict[str, list[str]] = {}
    for at in range(ended - LENGTH - 600, ended + 60, SCRAPE):
        for pod in pods:
            for name, labels, value in said(float(at - ended + LENGTH + 600)):
                line = f'{name}{{namespace="chat",pod="{pod}"{labels}}} {value} {at}'
                by_name.setdefault(name, []).append(line)
    lines = [line for name in sorted(by_name) for line in by_name[name]]
    history = folder / "history.om"
    history.write_text("\n".join([*lines, "# EOF", ""]))
    made = subprocess.run(
        [str(PROMTOOL), "tsdb", "create-blocks-from", "openmetrics", history, folder / "prometheus"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr


def said(seconds: float) -> Iterator[tuple[str, str, float]]:
    """By a process that makes two calls a second and answers one more from the cache: names, labels, values."""
    calls, ended = 2 * seconds, max(0.0, 2 * (seconds - SERVICE))
    yield "process_start_time_seconds", "", 1.0
    yield "dub5_capacity_requests", "", 20
    yield "dub5_demand_requests", "", 2 * SERVICE
    yield "dub5_queued_requests", "", 0
    yield "dub5_queue_wait_seconds_count", "", calls
    yield "dub5_queue_wait_seconds_bucket", ',le="0.001"', calls
    yield "dub5_http_requests_total", ',route="/v1/chat/completions",outcome="ok"', ended + seconds
    yield "dub5_cache_lookups_total", ',class="chat",result="miss"', calls
    yield "dub5_cache_lookups_total", ',class="chat",result="shared"', seconds
    yield "dub5_provider_duration_seconds_count", "", ended
    yield "dub5_provider_duration_seconds_sum", "", ended * SERVICE
    for bound in ("2.5", "10.0", "+Inf"):
        yield "dub5_provider_duration_seconds_bucket", f',le="{bound}"', 0 if bound == "2.5" else ended
