"""The figures of docs/reports/providers.md: what odd, failing and strict providers do to callers.

    python -m benchmarks.providers                         # every row, a quarter of an hour
    python -m benchmarks.providers odd neighbours          # some rows
    python -m benchmarks.providers --write                 # and puts their tables into the report

Prints a Markdown table for each row. Exits with 1 where a bar is missed. Needs redis-server, and for one of the readers
of odd answers Node.js, npm and `tools/setup.sh openai-node`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.runner import run

ROWS = {name: name for name in ("neighbours", "preambles", "odd", "claude", "findings")}
REPORT = Path(__file__).parents[2] / "docs/reports/providers.md"

if __name__ == "__main__":
    sys.exit(run("benchmarks.providers", ROWS, __doc__, longest=900, report=REPORT))
