"""The summary of a run: the line of JSON that deploy/k6 leaves on stdout, alone in a file or somewhere in a log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

_MARK = '"dub5_loadtest":1'

_Moment = Annotated[float, Meta(ge=0, le=6e10)]
"""Unix time in seconds, of a year that dates can be of."""


class Unreadable(Exception):
    """A file that is not what it has to be, in a sentence for people."""


class Gate(msgspec.Struct, frozen=True):
    """A threshold of k6: `gate` is its expression, `metric` what it is about, tags included."""

    metric: str
    gate: str
    ok: bool


class Run(msgspec.Struct, frozen=True):
    """`began` and `ended` are Unix times in seconds; `metrics` is metric -> statistic -> value, times in ms.

    `settings` are those that it was told, by the names of docs/load-testing.md.
    """

    scenario: str
    passed: bool
    began: _Moment
    ended: _Moment
    thresholds: list[Gate]
    metrics: dict[str, dict[str, float]]
    url: str = ""
    findings: dict[str, Any] = {}
    settings: dict[str, str] = {}

    def value(self, metric: str, statistic: str) -> float | None:
        return self.metrics.get(metric, {}).get(statistic)

    def by(self, metric: str, tag: str) -> dict[str, dict[str, float]]:
        """The figures of `metric` by the values of `tag`."""
        pattern = re.compile(rf"{re.escape(metric)}\{{{re.escape(tag)}:(.*)\}}")
        found = ((pattern.fullmatch(name), values) for name, values in self.metrics.items())
        return {match[1]: values for match, values in found if match is not None}


def read_run(path: Path) -> Run:
    """The last summary in a file; a folder's is in summary.json. Unreadable where there is none."""
    file = path / "summary.json" if path.is_dir() else path
    lines = [line for line in read_text(file).splitlines() if _MARK in line.replace(" ", "")]
    if not lines:
        raise Unreadable(f"{file} holds no summary of deploy/k6: the run did not reach its end")
    written = lines[-1][max(0, lines[-1].find("{")) :]
    try:
        return msgspec.json.decode(written, type=Run)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Unreadable(f"{file}: the summary is damaged: {error}") from None


def read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Unreadable(f"{file} cannot be read: {reason}") from None
