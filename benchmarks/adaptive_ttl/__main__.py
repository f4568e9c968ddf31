"""The table of docs/reports/adaptive-ttl.md: simulated days, driven by the operator's own planner.

    python -m benchmarks.adaptive_ttl                       # all rows: some 20 minutes on two cores
    python -m benchmarks.adaptive_ttl '1/h' mixed --seeds 4 # some rows, fewer seeds

Everything follows from the seeds: the same command prints the same table. `--jobs` processes share the work.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from statistics import mean
from typing import Any

from benchmarks.adaptive_ttl.rows import BUDGET, ROWS, Infeasible, Jumped, Run, one


def _share(of: list[bool]) -> str:
    return f"{sum(of)} of {len(of)}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), "|---" * len(cells) + "|"]


def _run_lines(results: dict[str, list[Run]]) -> list[str]:
    lines = _head(
        "drift",
        "stale share: mean, worst",
        "within budget, within 1.25x",
        "saving of oracle's: mean, least",
        "TTL at the end: ours, oracle's",
        "error of hit ratio: mean, worst",
        "re-asks, worst",
        "samples, B/s",
        "alarms a day",
    )
    for name, runs in results.items():
        stale, saved = [run.stale for run in runs], [run.of_oracle for run in runs]
        within = [share <= BUDGET for share in stale], [share <= 1.25 * BUDGET for share in stale]
        lines.append(
            _row(
                name,
                f"{mean(stale):.2%}, {max(stale):.2%}",
                f"{_share(within[0])}, {_share(within[1])}",
                f"{mean(saved):.1%}, {min(saved):.1%}",
                f"{mean(r.last_ttl for r in runs):.0f} s, {mean(r.oracle_ttl for r in runs):.0f} s",
                f"{mean(r.error for r in runs):.3f}, {max(r.error for r in runs):.3f}",
                f"{max(r.re_ask_share for r in runs):.2%}",
                f"{max(r.sample_bytes for r in runs):.0f}",
                f"{mean(len(r.jumps) for r in runs):.2f}",
            )
        )
    return lines


def _other_lines(results: dict[str, list[Run]]) -> list[str]:
    names = ["ours", *next(iter(results.values()))[0].others]
    lines = _head("stale share, hit ratio, $ saved a day", *names)
    for name, runs in results.items():
        days = [[(run.stale, run.hit_ratio, run.saved), *run.others.values()] for run in runs]
        cells = [
            ", ".join(
                form.format(mean(day[column][figure] for day in days))
                for figure, form in enumerate(("{:.2%}", "{:.3f}", "{:.0f}"))
            )
            for column in range(len(names))
        ]
        lines.append(_row(name, *cells))
    return lines


def _jump_lines(results: dict[str, list[Jumped]]) -> list[str]:
    lines = _head(
        "drift jumps",
        "TTL within 1.25x of the oracle's in 15 min",
        "minutes: median, worst",
        "stale share meanwhile",
        "false alarms in 8 h before",
    )
    for name, runs in results.items():
        minutes = sorted(run.minutes for run in runs)
        lines.append(
            _row(
                name,
                _share([each <= 15 for each in minutes]),
                f"{minutes[len(minutes) // 2]}, {minutes[-1]}",
                f"{mean(run.stale_meanwhile for run in runs):.2%}",
                f"{sum(run.false_alarms for run in runs)} in {len(runs)} runs",
            )
        )
    return lines


def _infeasible_lines(results: dict[str, list[Infeasible]]) -> list[str]:
    lines = _head("budget infeasible", "said so", "TTL at the end", "stale share", "hit ratio")
    for name, runs in results.items():
        lines.append(
            _row(
                name,
                _share([run.said for run in runs]),
                ", ".join(sorted({f"{run.last_ttl:g} s" for run in runs})),
                f"{mean(run.stale for run in runs):.2%}",
                f"{mean(run.hit_ratio for run in runs):.3f}",
            )
        )
    return lines


PRINTERS: dict[type, Any] = {Jumped: _jump_lines, Infeasible: _infeasible_lines}


def report(results: dict[str, list[Any]]) -> str:
    """All tables, in Markdown."""
    parts = []
    runs = {name: found for name, found in results.items() if isinstance(found[0], Run)}
    if runs:
        parts += [_run_lines(runs), _other_lines(runs)]
    for kind, printer in PRINTERS.items():
        chosen = {name: found for name, found in results.items() if isinstance(found[0], kind)}
        if chosen:
            parts.append(printer(chosen))
    return "\n\n".join("\n".join(part) for part in parts)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--seeds", type=int, help="of each row, at most")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    for name in chosen.rows:
        if name not in ROWS:
            parser.error(f"no row {name!r}; there are: {', '.join(ROWS)}")
    jobs = [
        (name, seed)
        for name in chosen.rows or ROWS
        for seed in range(min(chosen.seeds or ROWS[name].seeds, ROWS[name].seeds))
    ]
    found: dict[str, dict[int, Any]] = defaultdict(dict)
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(chosen.jobs) as pool:
        for done, (name, result) in enumerate(pool.imap_unordered(one, jobs), 1):
            found[name][result.seed] = result
            print(f"\r{done} of {len(jobs)} days, {time.monotonic() - began:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    ordered = {name: [found[name][seed] for seed in sorted(found[name])] for name in ROWS if name in found}
    print(report(ordered))
    return 0


if __name__ == "__main__":
    sys.exit(main())
