"""Runs the rows of a package and prints their table: what `python -m benchmarks.caching` and its sisters do.

A row is a coroutine function that returns the lines of the table. They are named by the module of the package that
they are in, and where that has several, by the function: `redis:cluster`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, progress

_HEAD = "| what | bar | measured |\n|---|---|---|"


def run(
    package: str,
    rows: Mapping[str, str],
    description: str | None,
    *,
    longest: float,
    shortened: bool = False,
    lengthened: Sequence[str] = (),
    report: Path | None = None,
) -> int:
    """The exit code: 1 where a bar was missed.

    `longest` is how many seconds one row may take. With `shortened` there is an option `--length`, whose number is
    passed to each row. With `lengthened`, rows that take whether they have more time, there is `--long`. With a
    `report`, which has a place for the table of each row, there is `--write`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", choices=[[], *rows], metavar="ROW", help=", ".join(rows))
    if shortened:
        how = "0.1 runs each row for a tenth of its time, to try it; such figures do not count"
        parser.add_argument("--length", type=float, default=1.0, metavar="SHARE", help=how)
    if lengthened:
        parser.add_argument("--long", action="store_true", help=f"ten times as long: {', '.join(lengthened)}")
    if report is not None:
        parser.add_argument("--write", action="store_true", help=f"put the tables into {report.name}")
    given = parser.parse_args()
    arguments = (given.length,) if shortened else ()
    missed = False
    if report is None:
        print(_HEAD, flush=True)
    for row in given.rows or rows:
        more, most = ((given.long,), longest * (1 + 9 * given.long)) if row in lengthened else ((), longest)
        figures = asyncio.run(_measured(f"{package}.{rows[row]}", most, arguments + more))
        table = "\n".join(figure.line() for figure in figures)
        print(table if report is None else f"{row}:\n\n{_HEAD}\n{table}\n", flush=True)
        if report is not None and given.write:
            _put(report, f"{package} {row}", row, f"{_HEAD}\n{table}")
        missed |= any(figure.good is False for figure in figures)
    return 1 if missed else 0


async def _measured(name: str, longest: float, arguments: tuple[Any, ...]) -> list[Figure]:
    module, _, function = name.partition(":")
    async with asyncio.timeout(longest):
        measure = getattr(importlib.import_module(module), function or "measure")
        figures: list[Figure] = await measure(*arguments)
    progress("")
    return figures


def _put(report: Path, command: str, row: str, table: str) -> None:
    """In place of what the report has between the row's marks."""
    begin, end = f"<!-- {row}: written by `python -m {command} --write` -->", f"<!-- end of {row} -->"
    text = report.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{report} has no place for {row}")
    report.write_text(pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text), encoding="utf-8")
