"""What draws is an extra: without it nothing else is missed, and the command says in one line what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = "import sys; sys.modules['matplotlib'] = None; from dub5.cli.main import main; sys.exit(main({}))"


def without_the_extra(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT.format(list(words))]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    "words",
    [
        ("loadtest", "report", "nowhere.log"),
        ("autoscale", "recommend", "nowhere.record", "--html", "report.html"),
    ],
)
def test_a_report_without_the_extra_says_what_to_install(words: tuple[str, ...]) -> None:
    done = without_the_extra(*words)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "pip install 'dub5[loadtest]'" in line


def test_other_commands_do_not_need_it(tmp_path: Path) -> None:
    assert without_the_extra("config", "schema").returncode == 0
    load, text = str(tmp_path / "load.record"), tmp_path / "report.md"
    shape = ("--shape", "step", "--length", "1m", "--out", load)
    assert without_the_extra("autoscale", "record", *shape).returncode == 0
    assert without_the_extra("autoscale", "simulate", load, "--markdown", str(text)).returncode == 0
    assert text.read_text().startswith("# Autoscaler for shape step")
