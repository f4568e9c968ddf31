"""Standard input, output and error, whatever the parent process has made of them.

They may be closed, on a full disk, a pipe whose reader has gone, or one that is not read. A service goes on: it writes
to them from threads of their own only (`telemetry.logging.LogWriter`), and loses what cannot be written. A command
that cannot write its result fails, as Unix programs do: silently where the reader has gone (`| head -1`), else
with one on standard error.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TextIO

from dub5.telemetry.logging import LogWriter

READER_GONE = 141
"""The exit code of a Unix program that SIGPIPE has ended, as a shell shows it."""

_FLUSH_TIMEOUT = 0.5
"""Seconds in which what is left for standard error is written at the end."""


class OutputFailed(Exception):
    """A command's result could not be written. `code` is the exit code that this means."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write the output: {error.strerror or type(error).__name__}")
        self.code = READER_GONE if isinstance(error, BrokenPipeError) else 1


def open_closed() -> None:
    """Put something in the place of those that are closed, lest a socket gets their number, and log lines with it.

    To be called before anything else is opened. Reading or writing them fails as before.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, mode)  # gets the lowest number that is free: this one
    # Python has None where a descriptor was closed.
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def write(text: str) -> None:
    """Write a command's result, and a line feed, to standard output. OutputFailed where that cannot be."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except OSError as error:
        _give_up(sys.stdout)
        raise OutputFailed(error) from None


def complain(text: str, end: str = "\n") -> None:
    """Write to standard error, if that can be."""
    try:
        sys.stderr.write(f"{text}{end}")
        sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)


def flush() -> None:
    """What others have printed, such as argparse. OutputFailed where that cannot be."""
    complain("", end="")
    try:
        sys.stdout.flush()
    except OSError as error:
        _give_up(sys.stdout)
        raise OutputFailed(error) from None


def _give_up(stream: TextIO) -> None:
    """The interpreter writes at its end what is left, and exits with 120 where that fails: let it go nowhere."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class _StderrWriter(LogWriter):
    """What it loses is no log line."""

    def _count_dropped(self, lines: int) -> None:
        self.dropped += lines


class _UnblockedStream(io.TextIOBase):
    """Standard error for a service: never waits, never fails."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, writer: LogWriter, descriptor: int) -> None:
        self._writer = writer
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        self._writer.put(text.encode(errors="backslashreplace"))
        return len(text)


def with_unblocked_stderr(run: Callable[[], int]) -> int:
    """The exit code of `run`, a service. Meanwhile a thread writes standard error: announcements, warnings and
    tracebacks, whatever prints them."""
    with _unblocked_stderr():
        try:
            return run()
        except Exception:  # noqa: BLE001  # as the interpreter would, which may wait for ever
            traceback.print_exc()
            return 1


@contextlib.contextmanager
def _unblocked_stderr() -> Iterator[None]:
    usual = sys.stderr
    writer = _StderrWriter(usual.fileno())
    writer.start()
    sys.stderr = _UnblockedStream(writer, usual.fileno())
    try:
        yield
    finally:
        sys.stderr = usual
        writer.stop(_FLUSH_TIMEOUT)
