"""Standard output and error in the hands of commands and services."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dub5.cli import standard_streams

DUB5 = [sys.executable, "-m", "dub5"]


def shell(redirected: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirected}; exit ${{PIPESTATUS[0]}}', "bash", *DUB5, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )


@pytest.mark.parametrize("arguments", [["config", "schema"], ["--help"]])
@pytest.mark.parametrize(
    ("redirected", "code", "reason"),
    [
        ("> /dev/full", 1, "No space left on device"),
        (">&-", 1, "Bad file descriptor"),
        ("| true", 141, None),
    ],
)
def test_a_command_that_cannot_write_its_result_fails_as_others_do(
    arguments: list[str], redirected: str, code: int, reason: str | None
) -> None:
    ended = shell(redirected, *arguments)
    if redirected == "| true" and ended.returncode == 0:
        assert len(ended.stdout) == 0  # it was written before `true` had ended
    else:
        assert ended.returncode == code
    said = "" if reason is None else f"dub5: cannot write the output: {reason}\n"
    assert ended.stderr == said


@pytest.mark.parametrize("redirected", ["2> /dev/full", "2>&-"])
@pytest.mark.parametrize(("arguments", "code"), [(["config", "check", "absent"], 1), (["nonsense"], 2)])
def test_a_complaint_that_cannot_be_written_changes_no_exit_code(
    redirected: str, arguments: list[str], code: int
) -> None:
    ended = shell(redirected, *arguments)
    assert (ended.returncode, ended.stderr) == (code, "")


def test_what_a_service_prints_to_standard_error_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe is full."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 2**16)
    os.set_blocking(writing, True)

    class Stuck:
        def fileno(self) -> int:
            return writing

    monkeypatch.setattr(sys, "stderr", Stuck())

    def run() -> int:
        for _ in range(1000):
            sys.stderr.write("word" * 1000)
            sys.stderr.flush()
        raise RuntimeError("a defect")

    monkeypatch.setattr(standard_streams, "_FLUSH_TIMEOUT", 0.01)
    assert standard_streams.with_unblocked_stderr(run) == 1
    assert isinstance(sys.stderr, Stuck)
    os.close(reading)
    os.close(writing)


def test_what_a_service_prints_is_written_where_that_can_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "said").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)

        def run() -> int:
            standard_streams.complain("one")
            sys.excepthook(Warning, Warning("two"), None)
            raise RuntimeError("a defect")

        assert standard_streams.with_unblocked_stderr(run) == 1
    said = (tmp_path / "said").read_text()
    assert said.startswith("one\nWarning: two\nTraceback ")
    assert said.endswith("RuntimeError: a defect\n")


def test_an_error_knows_its_exit_code() -> None:
    assert standard_streams.OutputFailed(BrokenPipeError(errno.EPIPE, "x")).code == 141
    assert standard_streams.OutputFailed(OSError(errno.EIO, "x")).code == 1
