"""The record of a release that runs: what is asked of Prometheus, and what no record can be made of."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from dub5.advisor.prometheus import measure
from dub5.advisor.record import BadRecord, Header, Record, write
from dub5.telemetry.metrics import Metrics
from testkit.programs import which

PROMTOOL = which("promtool")
BEGAN = 1_795_000_000
LENGTH = 900
PODS = ("dub5-6f9c-aaaaa", "dub5-6f9c-bbbbb")


def every(step: int, value: float, begin: int = 0, end: int = LENGTH) -> list[tuple[float, str]]:
    return [(BEGAN + second, str(value)) for second in range(begin, end + 1, step)]


def series(values: list[tuple[float, str]], **labels: str) -> dict[str, Any]:
    return {"metric": labels, "values": values}


class Told:
    """A Prometheus that knows two calm replicas; `instead` has other answers, by what their queries begin with."""

    def __init__(self, **instead: Any) -> None:
        self.instead = instead
        self.queries: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        query = request.url.params["query"]
        self.queries.append(query)
        found = next((each for begin, each in self.instead.items() if query.startswith(begin)), None)
        if isinstance(found, httpx.Response):
            return found
        return httpx.Response(200, json={"status": "success", "data": {"result": found or self.usual(query)}})

    def usual(self, query: str) -> list[dict[str, Any]]:
        if query.startswith("dub5_demand_requests"):
            return [series(every(15, 20.0), pod=pod) for pod in PODS]
        if query.startswith(("min_over_time", "changes")):
            return []
        if query.startswith("histogram_quantile"):
            quantile = float(query.removeprefix("histogram_quantile(").partition(",")[0])
            return [series([(BEGAN + LENGTH, str(1 + 9 * quantile))])]
        if "collapsed" in query:
            return [series(every(300, 0.1, begin=300))]
        if "local|shared|stale" in query:
            return [series(every(300, 0.2, begin=300, end=300) + every(300, 0.4, begin=600))]
        if "http_requests_total" in query:
            return [series(every(15, 7.0))]
        return [series([(BEGAN + LENGTH, "8.0")])]  # the mean of calls


async def measured(told: Told, length: int = LENGTH) -> Record:
    def header(began: float, seconds: float) -> Header:
        return Header(source="a test", began=began, seconds=seconds)

    transport = httpx.MockTransport(told.answer)
    return await measure(
        "http://prometheus", 'namespace="chat"', BEGAN, BEGAN + length, header, transport=transport
    )


def test_what_was_is_in_the_record(tmp_path: Path) -> None:
    record = asyncio.run(measured(Told()))
    assert record.requests == pytest.approx(7.0 * LENGTH)
    assert [(mix.at, mix.hits, mix.followers) for mix in record.mixes] == [
        (0, 0.2, 0.1),
        (300, 0.4, 0.1),
        (600, 0.4, 0.1),
    ]
    service = record.mixes[0].service
    mean = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(service))
    assert mean == pytest.approx(8.0)
    assert {(seen.ready, seen.demand) for seen in record.seen} == {(2, 40.0)}
    write(record, tmp_path / "a.record")


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ({"dub5_demand_requests": httpx.Response(503, text="starting")}, "does not answer as Prometheus"),
        ({"dub5_demand_requests": httpx.Response(200, text="<html>")}, "does not answer as Prometheus"),
        (
            {"dub5_demand_requests": [series(every(15, 1.0), pod=pod) for pod in (*PODS, "other-5d-ccccc")]},
            "several releases, dub5, other",
        ),
        (
            {
                "dub5_demand_requests": [
                    series(every(15, 1.0, end=300) + every(15, 1.0, begin=600), pod=PODS[0])
                ]
            },
            "nothing was scraped",
        ),
        ({"dub5_demand_requests": [series(every(15, 1.0, begin=600), pod=PODS[0])]}, "nothing was scraped"),
        ({"min_over_time": [series([(BEGAN, "5")], pod=PODS[0])]}, "max_inflight"),
        ({"changes": [series([(BEGAN, "1")], pod=PODS[0])]}, PODS[0]),
        ({"histogram_quantile": [series([(BEGAN, "NaN")])]}, "no provider was called"),
    ],
)
async def test_what_no_record_can_be_made_of(instead: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRecord) as raised:
        await measured(Told(**instead))
    assert said in str(raised.value)


async def test_nothing_there() -> None:
    nothing = httpx.Response(200, json={"data": {"result": []}})
    with pytest.raises(BadRecord, match="has no dub5_demand_requests"):
        await measured(Told(dub5_demand_requests=nothing))
    with pytest.raises(BadRecord, match="minute"):
        await measured(Told(), length=5)


async def test_pods_that_come_and_go_are_counted_while_they_are_there() -> None:
    pods = [
        series(every(15, 5.0), pod=PODS[0]),
        series(every(15, 5.0, begin=300, end=600), pod="dub5-77-ccccc"),
    ]
    record = await measured(Told(dub5_demand_requests=pods))
    ready = {seen.at: seen.ready for seen in record.seen}
    assert (ready[285], ready[300], ready[600], ready[615]) == (1, 2, 2, 1)


def test_it_asks_for_metrics_of_ours_in_promql(tmp_path: Path) -> None:
    told = Told()
    asyncio.run(measured(told))
    families = {family.name for family in Metrics().registry.collect()}
    names = {name for query in told.queries for name in re.findall(r"\bdub5_\w+", query)}
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names} <= families
    if PROMTOOL is None:
        pytest.skip("needs promtool")
    rules = [{"record": f"a{number}", "expr": query} for number, query in enumerate(told.queries)]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    done = subprocess.run(
        [PROMTOOL, "check", "rules", tmp_path / "rules.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
