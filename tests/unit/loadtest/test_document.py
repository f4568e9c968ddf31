"""docs/load-testing.md names every scenario and every setting, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.documents.reference import OF_THE_CHART, settings_of_load_tests

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/load-testing.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[str]:
    """First cells of the first table below a heading."""
    table = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]


def test_every_scenario_is_there() -> None:
    named = {name for cell in rows("Run one") for name in re.findall(r"`([a-z-]+)`", cell)}
    assert named == {path.stem for path in ROOT.glob("deploy/k6/scenarios/*.js")}


def test_every_setting_is_there() -> None:
    named = {name for cell in rows("Settings") for name in re.findall(r"`([A-Z0-9_]+)`", cell)}
    assert named == settings_of_load_tests() | OF_THE_CHART
