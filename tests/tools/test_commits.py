"""What tools/commits.sh asks of commit messages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

COMMITS = Path(__file__).parents[2] / "tools/commits.sh"


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("Count each call once\n\nIt was counted twice.\n", ""),
        (f"{'é' * 72}\n\nBecause.\n# a comment\n", ""),
        ("Merge branch 'other'\n", ""),
        (f"{'a' * 73}\n\nBecause.\n", "more than 72 characters"),
        ("Count each call once.\n\nBecause.\n", "full stop"),
        ("Count each call\nonce\n", "not empty"),
        ("Count each call once\n", "no reason"),
        ("Count each call once\n\n# a comment\n", "no reason"),
    ],
)
def test_the_form_of_commit_messages(tmp_path: Path, message: str, fault: str) -> None:
    (tmp_path / "message").write_text(message, encoding="utf-8")
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [COMMITS, tmp_path / "message"],
        cwd=COMMITS.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (fault == "")
    assert fault in done.stderr
