"""The service beside its peers and its floors, in one run on the same cores: docs/reports/performance.md.

    make bench                       # every row
    make bench ROWS="hits streams"   # some rows; of hits also some, as hits:memory
    make bench AGAINST=COMMIT        # and beside an older commit, where a row is about that
    make bench PYTHON=/usr/bin/python3  # by another interpreter, in an environment of its own
    make bench ROUNDS=9              # more rounds; QUICK=1: few and short ones, and less growth
    make bench PROFILE=1             # and where our own time goes, as flame graphs

Prints what takes part and a Markdown table as the rows come, and keeps everything that was measured as JSON and the
rates as a plot. Exits with 1 where a bar is missed. The server under test has one core for itself, everything else
another. Needs wrk and redis-server; nginx, Node.js and npm where they are to take part.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cost import commits
from benchmarks.figures import Figure, progress
from benchmarks.gateways import cores, flowing, rows, sizes
from benchmarks.gateways.contestants import Missing, own_environment
from benchmarks.gateways.record import fill_in, keep, versions
from benchmarks.gateways.rounds import Bench

Row = Callable[[Bench], Coroutine[Any, Any, list[Figure]]]
ROWS: dict[str, Row] = {
    "hits": rows.hits,
    "long": rows.long,
    "passthrough": rows.passthrough,
    "sustained": rows.sustained,
    "alone": flowing.alone,
    "streams": flowing.streaming,
    "live": flowing.live,
    "footprint": sizes.footprint,
    "growth": sizes.growth,
}
PARTS: dict[str, Row] = {f"hits:{kind}": partial(rows.hits, kinds=(kind,)) for kind in rows.HITS}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = {**ROWS, **PARTS}
    parser.add_argument("rows", nargs="*", choices=[[], *every], metavar="ROW", help=", ".join(every))
    parser.add_argument("--against", metavar="COMMIT", help="an older commit of this repository")
    parser.add_argument(
        "--python", metavar="PATH", help="the interpreter that ours, the floor and the load run by"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each contestant (5)")
    parser.add_argument(
        "--quick", action="store_true", help="3 rounds of 1 s, fewer questions and less growth"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(".bench/result"), help="path of the JSON and the plot"
    )
    parser.add_argument("--fill", type=Path, metavar="FILE", help="put the table into this document, too")
    parser.add_argument("--profile", action="store_true", help="flame graphs of ours beside them, by py-spy")
    asked = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is not installed: sudo apt-get install wrk")
    try:
        if asked.python:
            python = asyncio.run(own_environment(asked.python))
            at = sys.argv.index("--python")
            rest = [*sys.argv[1:at], *sys.argv[at + 2 :]]
            os.execv(python, [python, "-m", "benchmarks.gateways", *rest])  # noqa: S606  # this program again
        before = str(asyncio.run(_before(asked.against))) if asked.against else None
    except (Missing, RuntimeError) as error:
        parser.error(str(error))
    os.sched_setaffinity(0, {cores.OTHERS})
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        rounds=asked.rounds or (3 if asked.quick else 5),
        seconds=1 if asked.quick else 3,
        quick=asked.quick,
        profiles=asked.out.parent if asked.profile else None,
        before=before,
    )
    about = versions()
    print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n", flush=True)
    print("| what | bar | measured |\n|---|---|---|", flush=True)
    figures: list[Figure] = []
    for row in asked.rows or ROWS:
        for figure in asyncio.run(asyncio.wait_for(every[row](bench), 1800)):
            progress("")
            print(figure.line(), flush=True)
            figures.append(figure)
    keep(asked.out, about, figures, bench)
    if asked.fill:
        fill_in(asked.fill, about, figures, whole=not asked.rows)
    print(
        f"\nAll that was measured: {asked.out.with_suffix('.json')}; a plot: {asked.out.with_suffix('.svg')}"
    )
    return 1 if any(figure.good is False for figure in figures) else 0


async def _before(name: str) -> Path:
    return await commits.python(await commits.commit(name))


if __name__ == "__main__":
    sys.exit(main())
