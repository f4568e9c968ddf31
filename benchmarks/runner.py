"""Runs the rows of a package and prints their table: what `python -m benchmarks.caching` and its sisters do.

A row is a coroutine function that returns the lines of the table. They are named by the module of the package that
they are in, and where that has several, by the function: `redis:cluster`.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from typing import Any

from benchmarks.figures import Figure, progress
from testkit.commands import parser

_HEAD = "| what | bar | measured |\n|---|---|---|"


def run(
    package: str,
    rows: Mapping[str, str],
    description: str | None,
    *,
    longest: float,
    shortened: bool = False,
) -> int:
    """The exit code: 1 where a bar was missed.

    `longest` is how many seconds one row may take. With `shortened` there is an option `--length`, whose number is
    passed to each row.
    """
    options = parser(description, rows)
    if shortened:
        how = "0.1 runs each row for a tenth of its time, to try it; such figures do not count"
        options.add_argument("--length", type=float, default=1.0, metavar="SHARE", help=how)
    given = options.parse_args()
    arguments = (given.length,) if shortened else ()
    missed = False
    print(_HEAD, flush=True)
    for row in given.rows or rows:
        figures = asyncio.run(_measured(f"{package}.{rows[row]}", longest, arguments))
        print("\n".join(figure.line() for figure in figures), flush=True)
        missed |= any(figure.good is False for figure in figures)
    return 1 if missed else 0


async def _measured(name: str, longest: float, arguments: tuple[Any, ...]) -> list[Figure]:
    module, _, function = name.partition(":")
    async with asyncio.timeout(longest):
        measure = getattr(importlib.import_module(module), function or "measure")
        figures: list[Figure] = await measure(*arguments)
    progress("")
    return figures
