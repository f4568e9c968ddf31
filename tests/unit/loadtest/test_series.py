"""What Prometheus is asked: figures that the service has, in queries that Prometheus understands."""

from __future__ import annotations

import json
import re
import string
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from dub5.loadtest.prometheus import Series as Answer
from dub5.loadtest.prometheus import scrape_interval
from dub5.loadtest.runs import Unreadable
from dub5.loadtest.series import LINES, Series, ask_prometheus, points, read_series
from dub5.telemetry.metrics import Metrics
from testkit.programs import which

PROMTOOL = which("promtool")
DEEP = '{"other": ' + "[" * 100_000
ELSEWHERE = {
    "dub5_cpu_wait_seconds_total",
    "dub5_memory_limit_bytes",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
}


def filled_in(query: str, pods: str) -> str:
    return string.Template(query).substitute(pods=pods, window="1m")


async def asked(
    answer: Callable[[httpx.Request], httpx.Response], url: str = "http://prometheus:9090"
) -> Series:
    transport = httpx.MockTransport(answer)
    return await ask_prometheus(url, began=0.0, ended=600.0, pods="pod=", transport=transport)


def test_every_figure_is_one_of_ours() -> None:
    families = {family.name for family in Metrics().registry.collect()}
    for line in LINES.values():
        for name in re.findall(r"\b(?:dub5|process)_\w+", line.query):
            known = name in ELSEWHERE or re.sub(r"_(total|bucket|sum|count)$", "", name) in families
            assert known, f"{line.title} reads {name}"


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool")
@pytest.mark.parametrize("pods", ['namespace="chat"', 'job=~".+"'])
def test_prometheus_understands_the_queries(tmp_path: Path, pods: str) -> None:
    assert PROMTOOL is not None
    rules = [{"record": name, "expr": filled_in(line.query, pods)} for name, line in LINES.items()]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "lines", "rules": rules}]}))
    done = subprocess.run([PROMTOOL, "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(LINES)} rules found" in done.stdout


def test_an_answer_without_the_moments_that_have_no_value() -> None:
    values = [(1.0, "0.5"), (2.0, "NaN"), (3.0, "+Inf"), (4.5, "1e3")]
    assert points([Answer(values=values)]) == [(1.0, 0.5), (4.5, 1000.0)]
    assert points([]) == []


def test_the_time_between_scrapes() -> None:
    moments = (100.0, 105.1, 110.0, 125.0, 130.0)  # two of them were lost
    samples = Answer(values=[(moment, "1") for moment in moments])
    assert scrape_interval([samples]) == pytest.approx(5.0, abs=0.06)


@pytest.mark.parametrize(
    "answer", [b"<html>", b"\xff", b'{"data": {"result": [{"values": [[1, "many"]]}]}}', DEEP.encode()]
)
async def test_what_is_no_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(Unreadable):
        await asked(lambda _: httpx.Response(200, content=answer))


async def test_an_answer_without_an_end_is_not_kept() -> None:
    async def flood() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 2**20

    with pytest.raises(Unreadable, match="64 MiB"):
        await asked(lambda _: httpx.Response(200, content=flood()))


@pytest.mark.parametrize("written", ['{"cpu": 5}', DEEP])
def test_what_no_report_has_kept_is_refused(written: str, tmp_path: Path) -> None:
    (tmp_path / "series.json").write_text(written)
    with pytest.raises(Unreadable, match=r"series\.json"):
        read_series(tmp_path)


async def test_no_error_repeats_a_password() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, json={"error": "bad selector"})

    with pytest.raises(Unreadable) as raised:
        await asked(refuse, "http://me:sesame@prometheus:9090/?key=sesame")
    said = str(raised.value)
    assert "http://prometheus:9090" in said
    assert "HTTP 400" in said
    assert "bad selector" in said
    assert "sesame" not in said


@pytest.mark.parametrize("url", ["http://prometheus:port", "prometheus:9090", "ftp://prometheus", ""])
async def test_what_is_no_address(url: str) -> None:
    with pytest.raises(Unreadable, match="--prometheus"):
        await asked(lambda _: httpx.Response(500), url)
