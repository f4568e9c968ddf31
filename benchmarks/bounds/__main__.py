"""The figures of docs/reports/bounds.md: what is bounded, driven until nothing grows any more.

    python -m benchmarks.bounds          # every row
    python -m benchmarks.bounds arrival  # some rows
    python -m benchmarks.bounds bodies --long

Prints a Markdown table as the rows come. Exits with 1 where a bar is missed. Needs `redis-server`.
"""

from __future__ import annotations

import sys

from benchmarks.runner import run

ROWS = {name: name for name in ("bodies", "arrival")}

if __name__ == "__main__":
    sys.exit(run("benchmarks.bounds", ROWS, __doc__, longest=3600, lengthened=["bodies"]))
