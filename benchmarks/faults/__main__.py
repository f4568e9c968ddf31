"""The figures of docs/reports/faults.md: real replicas, a real Redis, a provider of its own, all on loopback.

    python -m benchmarks.faults                        # every row, about 20 minutes
    python -m benchmarks.faults overload fairness      # some rows
    python -m benchmarks.faults --length 0.1 endurance # tried in a tenth of its time

Prints a Markdown table as the rows come. Exits with 1 where a bar is missed. Needs `redis-server`.
"""

from __future__ import annotations

import sys

from benchmarks.runner import run

ROWS = {name: name for name in ("overload", "fairness", "endurance")}

if __name__ == "__main__":
    sys.exit(run("benchmarks.faults", ROWS, __doc__, longest=900, shortened=True))
