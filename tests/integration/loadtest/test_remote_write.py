"""`loadtest.remoteWrite`: k6, told what the chart tells it, sends its figures to a real Prometheus.

docs/load-testing.md has a table of these series. Skipped without k6 and Prometheus, which `make test` sets up.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from testkit.monitoring import PROMETHEUS, Prometheus
from testkit.programs import which
from tests.harness import running
from tests.unit.chart.support import Json, render

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs/load-testing.md"


K6 = which("k6")
pytestmark = pytest.mark.skipif(None in (K6, PROMETHEUS), reason="needs k6 and Prometheus")


def simulated(first_token: str) -> Json:
    return {
        "providers": {"demo": {"kind": "simulated", "first_token": first_token, "tokens_per_second": 2000}},
        "models": {"demo": {"routes": ["demo/simulated"]}},
    }


FAST = simulated("20ms")


@pytest.fixture
async def prometheus(tmp_path: Path) -> AsyncIterator[Prometheus]:
    """It scrapes nothing."""
    async with Prometheus(tmp_path, {}) as started:
        yield started


def reported(kind: str = "job", **values: object) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of k6 in the chart's Job or TestRun, with the scripts' place here.

    To be called before a replica runs: Helm's library holds the interpreter for a second.
    """
    rendered = render({"loadtest": {"enabled": True, "kind": kind, **values}})
    if kind == "job":
        [made] = rendered.of("Job").values()
        container = made["spec"]["template"]["spec"]["containers"][0]
        arguments = container["args"]
    else:
        [made] = rendered.of("TestRun").values()
        container = made["spec"]["runner"]
        # The k6-operator puts `run` before the arguments, and the script behind.
        arguments = [
            "run",
            *made["spec"]["arguments"].split(),
            "--address=",
            made["spec"]["script"]["localFile"],
        ]
    environment = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    return [each.replace("/scripts/", f"{ROOT}/deploy/k6/") for each in arguments], environment


async def k6(url: str, command: tuple[list[str], dict[str, str]]) -> dict[str, Any]:
    """Runs it against `url`; returns its summary."""
    arguments, environment = command
    process = await asyncio.create_subprocess_exec(
        *(str(K6), *arguments),
        env={"PATH": os.environ["PATH"], **environment, "DUB5_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b""), out
    summary: dict[str, Any] = json.loads(out)
    return summary


async def query(prometheus: Prometheus, promql: str) -> dict[str, float]:
    """The value of each series, by its labels as JSON."""
    return {json.dumps(each["metric"]): float(each["value"][1]) for each in await prometheus.query(promql)}


async def sent(prometheus: Prometheus) -> dict[str, set[str]]:
    """Every series of the load test's own -> the names of its labels."""
    made: dict[str, set[str]] = {}
    for labels in await prometheus.get("series", **{"match[]": '{__name__=~"k6_.+"}'}):
        made.setdefault(labels["__name__"], set()).update(labels.keys() - {"__name__"})
    return made


def documented() -> dict[str, set[str]]:
    """The same as the document's table has it: `_pNN` stands for three series."""
    made = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        names, labels, *_ = [*line.strip("| ").split(" | "), "", ""]
        for name in re.findall(r"`(k6_\w+)`", names) if line.startswith("| `k6_") else []:
            for number in ("50", "95", "99") if name.endswith("_pNN") else ("",):
                made[name.replace("NN", number)] = set(re.findall(r"`(\w+)`", labels))
    return made


async def test_the_series_are_the_documented_ones_and_say_what_the_summary_says(
    prometheus: Prometheus,
) -> None:
    settings = {"RATE": 10, "DURATION": "2s", "QUESTIONS": 4, "MAX_TOKENS": 5, "HITS": 0.1}
    command = reported(scenario="cache", settings=settings, remoteWrite=f"{prometheus.url}/api/v1/write")
    async with running(FAST) as server:
        summary = await k6(server.url, command)
    table = await asyncio.to_thread(documented)
    series = {
        name: labels for name, labels in (await sent(prometheus)).items() if name in table or "chat" in name
    }
    assert series == table
    metrics = summary["metrics"]
    [requests] = (await query(prometheus, "sum(k6_chat_requests_total)")).values()
    assert requests == metrics["chat_requests"]["count"]
    [tokens] = (await query(prometheus, "sum(k6_chat_tokens_total)")).values()
    assert tokens == metrics["chat_tokens"]["count"] > 0
    # In seconds: the provider's first token takes 20 ms.
    [slowest] = (await query(prometheus, "max(k6_chat_ttft_p99)")).values()
    assert 0.02 <= slowest < 20


async def test_outcomes_personalities_and_complexities_are_told_apart(prometheus: Prometheus) -> None:
    settings = {"RATE": 20, "DURATION": "2s", "COMPLEXITIES": "short,tool", "MAX_TOKENS": 5, "WHOLE": 0}
    command = reported(scenario="faults", settings=settings, remoteWrite=f"{prometheus.url}/api/v1/write")
    async with running({**simulated("400ms"), "admission": {"max_inflight": 1, "max_queued": 0}}) as server:
        summary = await k6(server.url, command)
    for label, values in {
        "outcome": {"whole", "refused"},
        "personality": {"assistant", "coder", "tutor"},
        "complexity": {"short", "tool"},
        "scenario": {"faults"},
    }.items():
        counts = await query(prometheus, f"sum by ({label}) (k6_chat_requests_total)")
        assert counts.keys() == {json.dumps({label: each}) for each in values}
        assert sum(counts.values()) == summary["metrics"]["chat_requests"]["count"]


async def test_a_testrun_sends_the_same(prometheus: Prometheus) -> None:
    settings = {"COMPLEXITIES": "short", "MAX_TOKENS": 5}
    command = reported("testrun", settings=settings, remoteWrite=f"{prometheus.url}/api/v1/write")
    async with running(FAST) as server:
        await k6(server.url, command)
    [requests] = (await query(prometheus, "sum(k6_chat_requests_total)")).values()
    assert requests == 3


def test_nothing_is_sent_where_nobody_asked_for_it() -> None:
    arguments, environment = reported()
    assert not [each for each in (*arguments, *environment) if "prometheus" in each.lower()]
