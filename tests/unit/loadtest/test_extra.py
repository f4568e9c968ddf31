"""What draws is an extra: without it nothing else is missed, and the command says in one line what to install."""

from __future__ import annotations

import subprocess
import sys

WITHOUT = "import sys; sys.modules['matplotlib'] = None; from dub5.cli.main import main; sys.exit(main({}))"


def without_the_extra(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT.format(list(words))]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_report_without_the_extra_says_what_to_install() -> None:
    done = without_the_extra("loadtest", "report", "nowhere.log")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "pip install 'dub5[loadtest]'" in line


def test_other_commands_do_not_need_it() -> None:
    assert without_the_extra("config", "schema").returncode == 0
