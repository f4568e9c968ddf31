"""Runs the rows of a package and prints their table: what `python -m benchmarks.caching` and its sisters do.

A row is a module with one coroutine function, `measure`, that returns the lines of the table.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
from collections.abc import Sequence
from typing import Any

from benchmarks.figures import Figure, progress


def run(
    package: str,
    rows: Sequence[str],
    description: str,
    *,
    longest: float,
    shortened: bool = False,
    lengthened: Sequence[str] = (),
) -> int:
    """The exit code: 1 where a bar was missed.

    `longest` is how many seconds one row may take. With `shortened` there is an option `--length`, whose number is
    passed to `measure`. With `lengthened`, rows whose `measure` takes whether it has more time, there is `--long`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", choices=[[], *rows], metavar="ROW", help=", ".join(rows))
    if shortened:
        parser.add_argument(
            "--length",
            type=float,
            default=1.0,
            metavar="SHARE",
            help="0.1 runs each row for a tenth of its time, to try it; such figures do not count",
        )
    if lengthened:
        parser.add_argument("--long", action="store_true", help=f"ten times as long: {', '.join(lengthened)}")
    given = parser.parse_args()
    arguments = (given.length,) if shortened else ()
    missed = False
    print("| what | bar | measured |\n|---|---|---|", flush=True)
    for row in given.rows or rows:
        more, most = ((given.long,), longest * (1 + 9 * given.long)) if row in lengthened else ((), longest)
        for figure in asyncio.run(_measured(f"{package}.{row}", most, arguments + more)):
            print(figure.line(), flush=True)
            missed |= figure.good is False
    return 1 if missed else 0


async def _measured(module: str, longest: float, arguments: tuple[Any, ...]) -> list[Figure]:
    async with asyncio.timeout(longest):
        figures: list[Figure] = await importlib.import_module(module).measure(*arguments)
    progress("")
    return figures
