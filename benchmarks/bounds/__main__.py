"""The figures of docs/reports/bounds.md: what is bounded, driven until nothing grows any more.

    python -m benchmarks.bounds
    python -m benchmarks.bounds --long    # ten times as many bodies

Prints a Markdown table as the rows come. Exits with 1 where a bar is missed.
"""

from __future__ import annotations

import sys

from benchmarks.runner import run

ROWS = {"bodies": "bodies"}

if __name__ == "__main__":
    sys.exit(run("benchmarks.bounds", ROWS, __doc__, longest=3600, lengthened=["bodies"]))
