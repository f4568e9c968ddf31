"""The table of docs/reports/adaptive-ttl.md: simulated days, driven by the operator's own planner.

    python -m benchmarks.adaptive_ttl                       # all rows: some 20 minutes on two cores
    python -m benchmarks.adaptive_ttl '1/h' mixed --seeds 4 # some rows, fewer seeds

Everything follows from the seeds: the same command prints the same table. `--jobs` processes share the work.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import mean, median_high
from typing import Any

from benchmarks.adaptive_ttl.controls import BUDGET
from benchmarks.adaptive_ttl.rows import ROWS, Infeasible, Jumped, Run, one
from benchmarks.figures import progress
from testkit.commands import parser
from testkit.tables import table

Columns = dict[str, Callable[[list[Any]], str]]
"""What stands above a column, and what the runs of a row say in it."""


def _share(of: Iterable[bool]) -> str:
    found = list(of)
    return f"{sum(found)} of {len(found)}"


def _within(runs: list[Run], times: float) -> str:
    return _share(run.stale <= times * BUDGET for run in runs)


def _days(name: str) -> Callable[[list[Run]], str]:
    """Means of one who sets the TTL."""

    def said(runs: list[Run]) -> str:
        days = [run.others.get(name, (run.stale, run.hit_ratio, run.saved)) for run in runs]
        stale, hit_ratio, saved = (mean(figures) for figures in zip(*days, strict=True))
        return f"{stale:.2%}, {hit_ratio:.3f}, {saved:.0f}"

    return said


TABLES: list[tuple[type, str, Columns]] = [
    (
        Run,
        "drift",
        {
            "stale share: mean, worst": lambda runs: (
                f"{mean(run.stale for run in runs):.2%}, {max(run.stale for run in runs):.2%}"
            ),
            "within budget, within 1.25x": lambda runs: f"{_within(runs, 1)}, {_within(runs, 1.25)}",
            "saving of oracle's: mean, least": lambda runs: (
                f"{mean(run.of_oracle for run in runs):.1%}, {min(run.of_oracle for run in runs):.1%}"
            ),
            "TTL at the end: ours, oracle's": lambda runs: (
                f"{mean(run.last_ttl for run in runs):.0f} s, {mean(run.oracle_ttl for run in runs):.0f} s"
            ),
            "error of hit ratio: mean, worst": lambda runs: (
                f"{mean(run.error for run in runs):.3f}, {max(run.error for run in runs):.3f}"
            ),
            "re-asks, worst": lambda runs: f"{max(run.re_ask_share for run in runs):.2%}",
            "samples, B/s": lambda runs: f"{max(run.sample_bytes for run in runs):.0f}",
            "alarms a day": lambda runs: f"{mean(len(run.jumps) for run in runs):.2f}",
        },
    ),
    (
        Run,
        "stale share, hit ratio, $ saved a day",
        {name: _days(name) for name in ("ours", "static 5 min", "static 1 h", "d-TTL 0.7")},
    ),
    (
        Jumped,
        "drift jumps",
        {
            "TTL within 1.25x of the oracle's in 15 min": lambda runs: _share(
                run.minutes <= 15 for run in runs
            ),
            "minutes: median, worst": lambda runs: (
                f"{median_high(run.minutes for run in runs)}, {max(run.minutes for run in runs)}"
            ),
            "stale share meanwhile": lambda runs: f"{mean(run.stale_meanwhile for run in runs):.2%}",
            "false alarms in 8 h before": lambda runs: (
                f"{sum(run.false_alarms for run in runs)} in {len(runs)} runs"
            ),
        },
    ),
    (
        Infeasible,
        "budget infeasible",
        {
            "said so": lambda runs: _share(run.said for run in runs),
            "TTL at the end": lambda runs: ", ".join(sorted({f"{run.last_ttl:g} s" for run in runs})),
            "stale share": lambda runs: f"{mean(run.stale for run in runs):.2%}",
            "hit ratio": lambda runs: f"{mean(run.hit_ratio for run in runs):.3f}",
        },
    ),
]


def report(results: dict[str, list[Any]]) -> str:
    """All tables, in Markdown."""
    tables = []
    for kind, title, columns in TABLES:
        chosen = {name: runs for name, runs in results.items() if isinstance(runs[0], kind)}
        rows = [[name, *(said(runs) for said in columns.values())] for name, runs in chosen.items()]
        tables += [table(" | ".join([title, *columns]), rows)] if chosen else []
    return "\n".join(tables)


def main() -> None:
    options = parser(__doc__, ROWS)
    options.add_argument("--seeds", type=int, default=20, help="of each row, at most")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    chosen = options.parse_args()
    names = chosen.rows or list(ROWS)
    jobs = [(name, seed) for name in names for seed in range(min(chosen.seeds, ROWS[name].seeds))]
    found: dict[str, list[Any]] = defaultdict(list)
    with multiprocessing.get_context("spawn").Pool(chosen.jobs) as pool:
        for done, (name, result) in enumerate(pool.imap(one, jobs), 1):
            found[name].append(result)
            progress(f"{done} of {len(jobs)} days")
    progress("")
    print(report({name: found[name] for name in ROWS if name in found}))


if __name__ == "__main__":
    main()
