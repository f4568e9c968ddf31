"""The service beside its peers and its floors, in one run on the same cores: docs/reports/performance.md.

    make bench                       # every row
    make bench ROWS="hits streams"   # some rows
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
from pathlib import Path

from benchmarks.figures import Figure, progress
from benchmarks.gateways import cores, rows
from benchmarks.gateways.record import keep, versions
from benchmarks.gateways.rounds import Bench

ROWS = {
    "hits": rows.hits,
    "passthrough": rows.passthrough,
    "streams": rows.streaming,
    "live": rows.live,
    "footprint": rows.footprint,
    "growth": rows.growth,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, help="rounds of each contestant (5)")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 2 s; growth to 100,000 answers")
    parser.add_argument(
        "--out", type=Path, default=Path(".bench/result"), help="path of the JSON and the plot"
    )
    parser.add_argument("--profile", action="store_true", help="flame graphs of ours beside them, by py-spy")
    asked = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is not installed: sudo apt-get install wrk")
    os.sched_setaffinity(0, {cores.OTHERS})
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        rounds=asked.rounds or (3 if asked.quick else 5),
        seconds=2 if asked.quick else 5,
        quick=asked.quick,
        profiles=asked.out.parent if asked.profile else None,
    )
    about = versions()
    print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n", flush=True)
    print("| what | bar | measured |\n|---|---|---|", flush=True)
    figures: list[Figure] = []
    for row in asked.rows or ROWS:
        for figure in asyncio.run(asyncio.wait_for(ROWS[row](bench), 1800)):
            progress("")
            print(figure.line(), flush=True)
            figures.append(figure)
    keep(asked.out, about, figures, bench)
    print(
        f"\nAll that was measured: {asked.out.with_suffix('.json')}; a plot: {asked.out.with_suffix('.svg')}"
    )
    return 1 if any(figure.good is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
