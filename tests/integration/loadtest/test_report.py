"""`dub5 loadtest report`: from a summary, and from Prometheus or what was kept of it, to a folder."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dub5.loadtest.series import LINES, Lines
from testkit.http_server import Call, FakeServer, Script, Wire, refuse, whole
from tests.unit.loadtest.scenes import BEGAN, LENGTH, line, planted


class FakePrometheus(FakeServer):
    """Answers range queries of the report with `lines`; it scrapes every 2.5 seconds."""

    def __init__(self, lines: Lines, pods: str, window: str) -> None:
        super().__init__()
        self.lines = lines
        self.scrapes = f"dub5_demand_requests{{{pods}}}[2m]"
        self.names = {
            each.query.replace("$pods", pods).replace("$window", window): name for name, each in LINES.items()
        }

    async def default(self, call: Call, wire: Wire) -> None:
        parts = urlsplit(call.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if (parts.path, asked["query"]) == ("/prom/api/v1/query", self.scrapes):
            end = float(asked["time"])
            values = [[end - 2.5 * back, "1"] for back in range(40, -1, -1)]
            await answer([{"metric": {"pod": name}, "values": values} for name in "ab"])(call, wire)
            return
        name = self.names.get(asked["query"])
        if parts.path != "/prom/api/v1/query_range" or name is None:
            await refuse(400, "bad query")(call, wire)
            return
        first, last = float(asked["start"]), float(asked["end"])
        values = [[at, str(value)] for at, value in self.lines[name] if first <= at <= last]
        await answer([{"metric": {}, "values": values}])(call, wire)


def answer(result: list[dict[str, Any]]) -> Script:
    return whole({"status": "success", "data": {"result": result}})


async def report(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dub5", "loadtest", "report", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


async def test_from_a_log_and_prometheus_to_a_folder_and_on_to_a_comparison(tmp_path: Path) -> None:
    log, first, second = tmp_path / "run.log", tmp_path / "first", tmp_path / "second"
    await asyncio.to_thread(log.write_text, f"noise\n{line()}\n")
    lines = planted(gate=(210, 1.0), arrivals=(205, 412.0))
    selector = 'namespace="chat"'
    async with FakePrometheus(lines, selector, "10s") as prometheus:
        asked = ["--prometheus", f"{prometheus.url}/prom", "--selector", selector]
        code, said, errors = await report(str(log), *asked, "--out", str(first))
    assert (code, errors) == (0, "")
    assert said.startswith("Load test steady: passed. The gate was full from 210 s at 412 requests/s (100 %)")
    assert said.endswith(f"See {first / 'report.html'}\n")
    assert "The gate was full from 210 s" in await asyncio.to_thread(read, first / "report.html")
    # Four scrapes. Rates of the first window are those of what was before; the others stand in the middle of theirs.
    kept = json.loads(await asyncio.to_thread(read, first / "series.json"))
    assert kept["window"] == 10.0
    assert kept["lines"] == {
        name: [[at - 5, value] for at, value in points if at >= BEGAN + 10]
        if LINES[name].rate
        else [[at, value] for at, value in points]
        for name, points in lines.items()
    }
    # The folder has all that the report is made from.
    assert (await report(str(first), "--out", str(second), "--compare", str(first)))[0] == 0
    text = await asyncio.to_thread(read, second / "report.md")
    assert text.startswith(await asyncio.to_thread(read_head, first / "report.md"))
    assert "## Compared with the run of" in text


def read_head(path: Path) -> str:
    return read(path).partition("## Gates")[0]


async def test_memory_is_judged_by_its_limit(tmp_path: Path) -> None:
    log, series = tmp_path / "run.log", tmp_path / "series.json"
    await asyncio.to_thread(log.write_text, line())
    lines = planted(memory=(100, 500 * 2.0**20))
    given = [str(log), "--series", str(series), "--out", str(tmp_path / "out")]
    await asyncio.to_thread(series.write_text, json.dumps({"window": 10, "lines": lines}))
    assert "Memory was nearly full from 100 s" in (await report(*given))[1]
    lines["memory_limit"] = []
    await asyncio.to_thread(series.write_text, json.dumps({"window": 10, "lines": lines}))
    assert "No resource was full" in (await report(*given))[1]


async def test_without_figures_of_the_service_it_says_so(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    await asyncio.to_thread(log.write_text, line())
    code, said, _ = await report(str(log), "--out", str(tmp_path / "out"))
    assert code == 0
    assert "No figures of the service" in said


async def test_what_cannot_be_done_is_said_in_a_sentence(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    code, _, said = await report(str(log))
    assert (code, said) == (1, f"dub5: {log} cannot be read: No such file or directory\n")
    await asyncio.to_thread(log.write_text, line())
    async with FakeServer() as other:
        other.reply = refuse(404, "nothing here")
        url = other.url
        code, _, said = await report(str(log), "--prometheus", url, "--out", str(tmp_path / "out"))
    assert code == 1
    assert said.startswith(f"dub5: {url} does not answer as Prometheus does: ")
    code, _, said = await report(str(log), "--out", str(log))
    assert (code, said) == (1, f"dub5: {log} cannot be written: File exists\n")


def test_the_scene_is_as_long_as_the_run() -> None:
    moments = [at for at, _ in planted()["cpu"]]
    assert (moments[0], moments[-1]) == (BEGAN, BEGAN + LENGTH)
