"""The figures of docs/reports/caching.md: real replicas, a real Redis, a provider of its own, all on loopback.

    python -m benchmarks.caching                 # every row, about ten minutes
    python -m benchmarks.caching one_call leaks  # some rows

Prints a Markdown table as the rows come. Exits with 1 where a bar is missed. Needs `redis-server` and, for the
row `cluster`, `redis-cli`.
"""

from __future__ import annotations

import sys

from benchmarks.runner import run

ROWS = {
    name: name
    for name in (
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
    )
}

if __name__ == "__main__":
    sys.exit(run("benchmarks.caching", ROWS, __doc__, longest=600))
