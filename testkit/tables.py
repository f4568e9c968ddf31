"""Tables in Markdown, of documents and of what is printed."""

from __future__ import annotations

from collections.abc import Iterable


def table(columns: str, rows: Iterable[Iterable[str]]) -> str:
    """`columns` as they stand between the outer bars; bars in cells are escaped."""
    lines = [f"| {columns} |", "|---" * (columns.count("|") + 1) + "|"]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    lines += [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join(lines) + "\n"
