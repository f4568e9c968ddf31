"""The figures of docs/reports/providers.md: what odd, failing and strict providers do to callers.

    python -m benchmarks.providers                         # every row, a quarter of an hour
    python -m benchmarks.providers odd neighbours          # some rows
    python -m benchmarks.providers cost --against COMMIT   # what a request costs now, and did then
    python -m benchmarks.providers --write                 # and puts their tables into the report

Prints a Markdown table for each row. Exits with 1 where a bar is missed. Needs redis-server, and for one of the readers
of odd answers Node.js, npm and `tools/setup.sh openai-node`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import re
import sys
from pathlib import Path

from benchmarks.figures import Figure, progress

ROWS = {
    "neighbours": "neighbours",
    "preambles": "preambles",
    "odd": "odd_answers",
    "claude": "strict",
    "findings": "findings",
    "cost": "cost",
}
"""By their names the modules of this package, each with one coroutine function, `measure`."""
REPORT = Path(__file__).parents[2] / "docs" / "reports" / "providers.md"
_LONGEST = 900.0


async def measured(row: str, against: str | None) -> list[Figure]:
    module = importlib.import_module(f"benchmarks.providers.{ROWS[row]}")
    async with asyncio.timeout(_LONGEST):
        figures: list[Figure] = await (module.measure(against) if row == "cost" else module.measure())
    progress("")
    return figures


def table(figures: list[Figure]) -> str:
    return "\n".join(["| what | bar | measured |", "|---|---|---|", *(figure.line() for figure in figures)])


def put(row: str, text: str) -> None:
    """In place of what the report has between the row's marks."""
    marks = (
        f"<!-- {row}: written by `python -m benchmarks.providers {row} --write` -->",
        f"<!-- end of {row} -->",
    )
    report = REPORT.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(marks[0]) + r".*?" + re.escape(marks[1]), re.DOTALL)
    if not pattern.search(report):
        raise SystemExit(f"{REPORT} has no place for {row}")
    REPORT.write_text(pattern.sub(lambda _: f"{marks[0]}\n{text}\n{marks[1]}", report), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/reports/providers.md")
    parser.add_argument(
        "--against", metavar="COMMIT", help="for `cost`: the commit before; where this branch left main"
    )
    given = parser.parse_args()
    missed = False
    for row in given.rows or ROWS:
        try:
            figures = asyncio.run(measured(row, given.against))
        except ModuleNotFoundError as missing:
            if not (missing.name or "").startswith("benchmarks.providers."):
                raise
            print(f"{row}: not there\n", flush=True)
            missed = True
            continue
        print(f"{row}:\n\n{table(figures)}\n", flush=True)
        if given.write:
            put(row, table(figures))
        missed |= any(figure.good is False for figure in figures)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
