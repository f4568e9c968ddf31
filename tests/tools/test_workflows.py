"""What actionlint does not say of the workflows: actions are pinned, and steps are what a developer runs as well."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

Json = dict[str, Any]


def read(workflow: Path) -> Json:
    found: Json = yaml.safe_load(workflow.read_text())
    return found


def commands(workflow: Path) -> Iterator[str]:
    for job in read(workflow)["jobs"].values():
        yield from (step["run"] for step in job.get("steps", []) if "run" in step)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_their_commit(workflow: Path) -> None:
    used = re.findall(r"uses: (.+)", workflow.read_text())
    loose = [each for each in used if not re.fullmatch(r"\./.+|\S+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)]
    assert used
    assert loose == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_steps_are_single_commands(workflow: Path) -> None:
    for command in commands(workflow):
        assert "\n" not in command
        assert not re.search(r"&&|\|\||;|\bif\b|\bfor\b", command)
        program, *arguments = command.split()
        if program == "make":
            assert arguments[0] in TARGETS
        elif program.startswith("tools/"):
            assert (ROOT / program).is_file()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_no_job_may_write_or_last_for_want_of_a_limit(workflow: Path) -> None:
    found = read(workflow)
    assert found["permissions"] == {"contents": "read"}
    assert "concurrency" in found
    assert [
        name for name, job in found["jobs"].items() if "steps" in job and "timeout-minutes" not in job
    ] == []
