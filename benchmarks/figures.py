"""What a row of the table says, and how to make figures of many durations."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One line of the table; `good` is None where there is no bar."""

    what: str
    bar: str
    measured: str
    good: bool | None = None

    def line(self) -> str:
        verdict = {True: "", False: " **missed**", None: ""}[self.good]
        return f"| {self.what} | {self.bar} | {self.measured}{verdict} |"


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all do not exceed; nan of nothing."""
    if not values:
        return math.nan
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def progress(text: str) -> None:
    """One line that overwrites itself, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
