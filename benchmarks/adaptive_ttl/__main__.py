"""The tables of docs/reports/adaptive-ttl.md: simulated days, driven by the operator's own planner.

    python -m benchmarks.adaptive_ttl                        # all rows, all seeds: hours
    python -m benchmarks.adaptive_ttl '1/h' mixed --seeds 4  # some rows, fewer seeds
    python -m benchmarks.adaptive_ttl --before FOLDER        # beside the planner of another release: in FOLDER lies its
                                                             # package dub5_operator
    python -m benchmarks.adaptive_ttl --results FILE         # go on with what is in FILE, a line a seed, and add to it

Everything follows from the seeds: the same command prints the same tables. `--jobs` processes share the work.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, median_high
from typing import Any

import msgspec

from benchmarks.adaptive_ttl.controls import BUDGET
from benchmarks.adaptive_ttl.rows import ROWS, Calmed, Infeasible, Jumped, Run, begin, one
from benchmarks.figures import progress
from dub5.contract import MOST_CANARIES
from testkit.commands import parser
from testkit.tables import table

Columns = dict[str, Callable[[list[Any]], str]]
"""What stands above a column, and what the runs of a row say in it."""


def _share(of: Iterable[bool]) -> str:
    found = list(of)
    return f"{sum(found)} of {len(found)}"


def _within(runs: list[Run], times: float) -> str:
    return _share(run.ours.stale <= times * BUDGET for run in runs)


def _parts(of: Iterable[float], worst: Callable[[Iterable[float]], float]) -> str:
    """Mean and worst."""
    found = list(of)
    return f"{mean(found):.1%}, {worst(found):.1%}" if found else ""


def _saving(of: str, *, half: bool) -> Callable[[list[Run]], str]:
    """Ours as a part of another's: mean, least."""
    return lambda runs: _parts((run.ours.saved[half] / run.others[of].saved[half] for run in runs), min)


def _calls(runs: list[Run]) -> str:
    """Of the second half, as a part of those of another release's planner; the most that canaries may take besides."""
    beside = [run for run in runs if "before" in run.others]
    parts = [(1 + MOST_CANARIES) * run.ours.calls[1] / run.others["before"].calls[1] for run in beside]
    stale = (f"{run.others['before'].stale:.2%}" for run in beside)
    return f"{mean(parts):.3f}, {max(parts):.3f} ({max(stale)})" if beside else ""


def _days(name: str) -> Callable[[list[Run]], str]:
    """Means of one who sets the TTL."""

    def said(runs: list[Run]) -> str:
        of = [
            run.ours if name == "ours" else run.others[name] for run in runs if name in {"ours", *run.others}
        ]
        if not of:
            return ""
        stale, hit_ratio = mean(each.stale for each in of), mean(each.hit_ratio for each in of)
        return f"{stale:.2%}, {hit_ratio:.3f}, {mean(each.saved[0] for each in of):.0f}"

    return said


SETTERS = (
    "ours",
    "before",
    "best fixed",
    "optimum",
    "MLE",
    "AIMD",
    "static 5 min",
    "static 1 h",
    "d-TTL 0.7",
)

TABLES: list[tuple[type, str, Columns]] = [
    (
        Run,
        "world",
        {
            "stale share: mean, worst": lambda runs: (
                f"{mean(run.ours.stale for run in runs):.2%}, {max(run.ours.stale for run in runs):.2%}"
            ),
            "within budget, within 1.25x": lambda runs: f"{_within(runs, 1)}, {_within(runs, 1.25)}",
            "worst hour": lambda runs: f"{max(run.worst_hour for run in runs):.1%}",
            "promise kept for: mean, least": lambda runs: _parts((run.kept for run in runs), min),
            "false alarms a day: mean, worst": lambda runs: (
                f"{mean(run.ours.alarms for run in runs):.2f}, {max(run.ours.alarms for run in runs):.2f}"
            ),
            "calls of before's, second half: mean, worst (its stale share, worst)": _calls,
            "saving of the best fixed: mean, least": _saving("best fixed", half=False),
            "second half": _saving("best fixed", half=True),
            "of the optimum": _saving("optimum", half=False),
            "second half of the optimum": _saving("optimum", half=True),
        },
    ),
    (
        Run,
        "world",
        {
            "saving of oracle's: mean, least": _saving("oracle", half=False),
            "TTL at the end: ours, oracle's": lambda runs: (
                f"{mean(run.last_ttl for run in runs):.0f} s, {mean(run.oracle_ttl for run in runs):.0f} s"
            ),
            "error of hit ratio: mean, worst": lambda runs: (
                f"{mean(run.error for run in runs):.3f}, {max(run.error for run in runs):.3f}"
            ),
            "re-asks, worst": lambda runs: f"{max(run.re_ask_share for run in runs):.2%}",
            "samples, B/s": lambda runs: f"{max(run.sample_bytes for run in runs):.0f}",
        },
    ),
    (Run, "stale share, hit ratio, calls saved", {name: _days(name) for name in SETTERS}),
    (
        Calmed,
        "storm",
        {
            "TTL before": lambda runs: f"{mean(run.before for run in runs):.0f} s",
            "back within 1.5x in 15 min": lambda runs: _share(run.minutes <= 15 for run in runs),
            "minutes: median, worst": lambda runs: (
                f"{median_high(run.minutes for run in runs)}, {max(run.minutes for run in runs)}"
            ),
            "stale share: mean, worst": lambda runs: (
                f"{mean(run.stale for run in runs):.2%}, {max(run.stale for run in runs):.2%}"
            ),
            "worst hour": lambda runs: f"{max(run.worst_hour for run in runs):.1%}",
        },
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
        chosen = {name: runs for name, runs in results.items() if ROWS[name].kind is kind}
        rows = [
            [f"{name} ({len(runs)})", *(said(runs) for said in columns.values())]
            for name, runs in chosen.items()
        ]
        tables += [table(" | ".join([f"{title} (seeds)", *columns]), rows)] if chosen else []
    return "\n".join(tables)


def main() -> None:
    options = parser(__doc__, ROWS)
    options.add_argument("--seeds", type=int, default=20, help="of each row, at most")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options.add_argument("--before", type=Path, metavar="FOLDER")
    options.add_argument(
        "--hours", type=float, default=math.inf, help="of a world without jump and storm, at most"
    )
    options.add_argument("--results", type=Path, metavar="FILE", default=Path(os.devnull))
    chosen = options.parse_args()
    names = chosen.rows or list(ROWS)
    found: dict[str, dict[int, Any]] = defaultdict(dict)
    for line in chosen.results.read_bytes().splitlines() if chosen.results.exists() else []:
        name, seed, result = msgspec.json.decode(line)
        found[name][seed] = msgspec.convert(result, ROWS[name].kind)
    # Seed after seed, so that what is stopped early has some of each row.
    jobs = [(seed, name) for name in names for seed in range(min(chosen.seeds, ROWS[name].seeds))]
    jobs = sorted((seed, names.index(name)) for seed, name in jobs if seed not in found[name])
    todo = [(names[place], seed) for seed, place in jobs]
    pool = multiprocessing.get_context("spawn").Pool(chosen.jobs, begin, (chosen.before, chosen.hours))
    with pool, chosen.results.open("ab") as file:
        for done, (name, seed, result) in enumerate(pool.imap(one, todo), 1):
            found[name][seed] = result
            file.write(msgspec.json.encode((name, seed, result)) + b"\n")
            file.flush()
            progress(f"{done} of {len(todo)} runs")
    progress("")
    print(report({name: list(found[name].values()) for name in ROWS if name in names and found[name]}))


if __name__ == "__main__":
    main()
