"""The figures of docs/reports/caching.md: real replicas, a real Redis, a provider of its own, all on loopback.

    python -m benchmarks.caching                 # every row, about ten minutes
    python -m benchmarks.caching one_call leaks  # some rows

Prints a Markdown table as the rows come. Exits with 1 where a bar is missed. Needs `redis-server` and, for the
row `cluster`, `redis-cli`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys

from benchmarks.caching.figures import Figure, progress

ROWS = [
    "one_call",
    "follower_delay",
    "leader_killed",
    "purge_cost",
    "redis_faults",
    "cluster",
    "purge_race",
    "hit_ratio",
    "entry_size",
    "leaks",
]
"""Each is a module of this package with one coroutine function, `measure`."""
LONGEST = 600.0
"""Seconds that one row may take."""


async def measured(row: str) -> list[Figure]:
    module = importlib.import_module(f"benchmarks.caching.{row}")
    async with asyncio.timeout(LONGEST):
        figures: list[Figure] = await module.measure()
    progress("")
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], metavar="ROW", help=", ".join(ROWS))
    missed = False
    print("| what | bar | measured |\n|---|---|---|", flush=True)
    for row in parser.parse_args().rows or ROWS:
        for figure in asyncio.run(measured(row)):
            print(figure.line(), flush=True)
            missed |= figure.good is False
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
