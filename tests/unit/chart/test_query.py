"""What KEDA asks of Prometheus, evaluated by Prometheus's own promtool on series made up here.

Scrapes are 15 s apart. A failed scrape writes a stale marker for each series of the target, and 0 to its `up`; a target
that is gone has a stale marker in `up` too. Skipped without promtool, which `make test` unpacks on Debian and Ubuntu.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from testkit.programs import which
from tests.unit.chart.support import Json, render
from tests.unit.chart.test_objects import KEDA

PROMTOOL = which("promtool")
pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool")

A, B = "dub5-7d9c5b8f6d-aaaaa", "dub5-7d9c5b8f6d-bbbbb"


def series(pod: str, demand: str, up: str, *, namespace: str = "chat") -> list[Json]:
    labels = f'{{namespace="{namespace}",pod="{pod}"}}'
    return [
        {"series": f"dub5_demand_requests{labels}", "values": demand},
        {"series": f"up{labels}", "values": up},
    ]


STEADY = series(A, "100x40", "1x40")

CASES: dict[str, tuple[list[Json], str, float | None]] = {
    "the sum of all": (STEADY + series(B, "50x40", "1x40"), "5m", 150),
    "two missed scrapes": (STEADY + series(B, "50x18 stale stale", "1x18 0 0"), "5m", 150),
    "a pod that is gone": (STEADY + series(B, "50x18 stale", "1x18 stale"), "5m", 100),
    "a pod lost from sight counts as one at its target": (
        STEADY + series(B, "5x10 stale _x30", "1x10 0x30"),
        "5m",
        100 + 140,
    ),
    "a pod that has not begun": (STEADY + series(B, "_x40", "_x19 0"), "5m", 100),
    "all lost from sight: no figure": (series(A, "100x4 stale _x30", "1x4 0x30"), "5m", None),
    "nobody there: no figure": (series("else-7d9c5b8f6d-aaaaa", "9x40", "1x40"), "5m", None),
    "other releases and namespaces": (
        STEADY
        + series("dub5-two-7d9c5b8f6d-aaaaa", "9x40", "1x40")
        + series(A, "9x40", "1x40", namespace="else"),
        "5m",
        100,
    ),
}


@pytest.mark.parametrize(("input_series", "at", "expected"), CASES.values(), ids=CASES)
def test_the_demand_is(tmp_path: Path, input_series: list[Json], at: str, expected: float | None) -> None:
    query = render(KEDA).one("ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    samples = [] if expected is None else [{"labels": "{}", "value": expected}]
    asked = {"expr": query, "eval_time": at, "exp_samples": samples}
    tests = {"tests": [{"interval": "15s", "input_series": input_series, "promql_expr_test": [asked]}]}
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(tests))
    run = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
