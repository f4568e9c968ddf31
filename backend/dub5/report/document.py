"""What a report consists of.

Its words may come from strangers: names of files and releases, labels of metrics. Both forms put every one of them
through `clean`, so that no control character, no text that runs backwards and no megabytes get into a report; what a
form needs escaped besides is its own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple

Tone = Literal["good", "bad", "plain"]

LONGEST = 600
"""Characters of a name or of a table's cell."""

LONGEST_SENTENCE = 4_000

MOST_ROWS = 500
MOST_LINES = 1_000
MOST_CHARACTERS = 100_000
"""Of a table, and of a part of code."""

GOOD = frozenset({"ok", "meets", "better"})
BAD = frozenset({"MISSED", "WORSE", "misses"})
"""Cells of tables that are judgements; the words say so, a colour only helps."""


class Table(NamedTuple):
    head: list[str]
    rows: list[list[str]]


class Code(NamedTuple):
    """Lines to copy, of `language` ("sh", "yaml" or none)."""

    text: str
    language: str = ""


Points = Sequence[tuple[float, float]]


class Curve(NamedTuple):
    """`points` are (x, y). As `steps` each y holds until the next x; a `level` is one y from end to end."""

    name: str
    points: Points
    look: Literal["line", "steps", "dots", "mark", "level"] = "line"


class Plot(NamedTuple):
    """Without `across` x is time, in seconds since `began`, a Unix time; 0: since some beginning.

    With `times`, y is a ratio of 0.01 to 100 on a logarithmic axis; what is beyond stands at the end.
    """

    title: str
    unit: str
    curves: list[Curve]
    began: float = 0.0
    across: str = ""
    times: bool = False


Part = str | Table | Code | Plot


class Section(NamedTuple):
    title: str
    parts: list[Part]


class Fact(NamedTuple):
    """A figure that goes with the verdict; `more` says what it is beside."""

    name: str
    value: str
    more: str = ""
    tone: Tone = "plain"


class Document(NamedTuple):
    """`outcome` is the verdict in a few words, `summary` what there is to say of it in a sentence or two."""

    title: str
    tone: Tone
    outcome: str
    summary: str
    facts: list[Fact]
    plots: list[Plot]
    sections: list[Section]

    @property
    def verdict(self) -> str:
        return f"{self.outcome} {self.summary}".strip()


def clean(text: str, longest: int = LONGEST) -> str:
    """One line of it, without characters that are not seen or that move others, and not longer than that."""
    shown = "".join(map(_shown, text[: longest + 1]))
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _shown(character: str) -> str:
    if character in "\n\t\r":
        return " "
    # Controls, formats (of direction, of no width), halves of characters, private ones, ends of lines and paragraphs.
    hidden = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return "\ufffd" if hidden else character


def clean_code(code: Code) -> str:
    """Its lines."""
    lines = code.text[:MOST_CHARACTERS].split("\n")
    cut = len(code.text) > MOST_CHARACTERS or len(lines) > MOST_LINES
    return "\n".join([*(clean(line) for line in lines[:MOST_LINES]), *(["… (cut)"] if cut else [])])


def clean_rows(table: Table) -> tuple[list[list[str]], int]:
    """As many rows as may be shown, and how many more there are."""
    rows, characters = [], 0
    for row in table.rows[:MOST_ROWS]:
        rows.append([clean(cell) for cell in row])
        characters += sum(map(len, rows[-1]))
        if characters > MOST_CHARACTERS:
            break
    return rows, len(table.rows) - len(rows)


def described(plot: Plot) -> str:
    """What a plot shows, for those who do not see it."""
    said = []
    for curve in plot.curves:
        values = [y for _, y in curve.points]
        if len(values) == 1:
            said.append(f"{curve.name}: {values[0]:.4g}")
        elif values:
            said.append(f"{curve.name}: {min(values):.4g} to {max(values):.4g}, {values[-1]:.4g} at the end")
    unit = f", {plot.unit}" if plot.unit else ""
    return clean(f"{plot.title}{unit}. {'; '.join(said)}.", LONGEST_SENTENCE)
