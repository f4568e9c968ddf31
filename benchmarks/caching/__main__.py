"""The figures of docs/reports/caching.md: real replicas, a real Redis, a provider of its own, all on loopback.

    python -m benchmarks.caching                       # every row, some minutes
    python -m benchmarks.caching hit_ratio entry_size  # some rows

Prints a Markdown table as the rows come. Exits with 1 where a bar is missed. Needs `redis-server` and, for the
row `redis_faults`, `redis-cli`.
"""

from __future__ import annotations

import sys

from benchmarks.runner import run

ROWS = {
    "follower_delay": "flights",
    "purge_delay": "purge_delay",
    "redis_faults": "redis_faults",
    "hit_ratio": "memory:hit_ratio",
    "entry_size": "memory:entry_size",
}

if __name__ == "__main__":
    sys.exit(run("benchmarks.caching", ROWS, __doc__, longest=600))
