"""What Prometheus is asked: figures that the service has, in queries that Prometheus understands."""

from __future__ import annotations

import json
import re
import string
import subprocess
from pathlib import Path

import httpx
import pytest

from dub5.loadtest.runs import Unreadable
from dub5.loadtest.series import LINES, ask_prometheus, interval, points, read_series
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
    values = [[1, "0.5"], [2, "NaN"], [3, "+Inf"], [4.5, "1e3"]]
    answer = {
        "status": "success",
        "data": {"resultType": "matrix", "result": [{"metric": {}, "values": values}]},
    }
    assert points(json.dumps(answer).encode()) == [(1.0, 0.5), (4.5, 1000.0)]
    assert points(b'{"data": {"result": []}}') == []


def test_the_time_between_scrapes() -> None:
    values = [[100, "1"], [105.1, "1"], [110, "1"], [125, "1"], [130, "1"]]  # two of them were lost
    answer = {"status": "success", "data": {"result": [{"metric": {}, "values": values}]}}
    assert interval(json.dumps(answer).encode()) == pytest.approx(5.0, abs=0.06)
    assert interval(b'{"data": {"result": []}}') == 15.0


def test_what_is_no_answer_is_refused(tmp_path: Path) -> None:
    not_a_number = b'{"data": {"result": [{"values": [[1, "many"]]}]}}'
    for answer in (b"<html>", b"\xff", not_a_number, not_a_number.replace(b"many", b"\xff"), DEEP.encode()):
        with pytest.raises(Unreadable, match="no answer of Prometheus"):
            points(answer)
    for written in ('{"cpu": 5}', DEEP):
        (tmp_path / "series.json").write_text(written)
        with pytest.raises(Unreadable, match=r"series\.json"):
            read_series(tmp_path)


async def test_no_error_repeats_a_password() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, json={"error": "bad selector"})

    with pytest.raises(Unreadable) as raised:
        await ask_prometheus(
            "http://me:sesame@prometheus:9090/?key=sesame",
            began=0.0,
            ended=600.0,
            pods="pod=",
            transport=httpx.MockTransport(refuse),
        )
    said = str(raised.value)
    assert "http://prometheus:9090" in said
    assert "HTTP 400" in said
    assert "bad selector" in said
    assert "sesame" not in said


async def test_what_is_no_address() -> None:
    with pytest.raises(Unreadable, match="--prometheus"):
        await ask_prometheus("http://prometheus:port", began=0.0, ended=600.0, pods="")
