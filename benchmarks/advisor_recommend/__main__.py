"""What `dub5 autoscale recommend` is worth on an hour it has not seen: figures of docs/reports/autoscaling-advisor.md.

    python -m benchmarks.advisor_recommend                 # 4 shapes, 5 records each; 50 minutes of CPU
    python -m benchmarks.advisor_recommend --records 1 --hours 4 --json verdicts.json

A record has hours of one shape, each with arrivals of its own chance; the last one is held out. On that one the
recommended values are judged, and beside them a grid: fewest replicas, target, seconds of stabilization downwards. The
best is what meets the objective there with each seed at the fewest replica-hours, as nobody can know before; it is also
judged on a further such hour, which says how much of that was the luck of the one. Exits with 1 where a bar is missed.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import msgspec

from benchmarks.figures import progress
from dub5.advisor import sources
from dub5.advisor.record import Arrivals, Header, Mix, Record, make
from dub5.advisor.search import (
    HELD,
    LEAST,
    TARGETS,
    WINDOWS,
    Bench,
    Bounds,
    Judged,
    Objective,
    Trial,
    Verdict,
    present,
    recommend,
    space_of,
)
from dub5.advisor.values import of_values
from testkit.commands import parser


class Judge(Protocol):
    """A Bench, or what stands for one."""

    def judge(self, trial: Trial) -> Judged: ...


SHAPES = ("step", "daily", "spike", "cache-lost")
MIX = Mix(hits=0.3, service=[(0.0, 4.0), (0.5, 12.0), (0.9, 30.0), (0.99, 60.0), (1.0, 90.0)])
RATE = 10.0
"""Requests a second at the peak. A target is a whole number of a replica's 20 calls, so all of the grid differ."""

VALUES = of_values(
    {
        "autoscaling": {"minReplicas": 2, "maxReplicas": 16},
        "config": {"admission": {"max_inflight": 20, "max_queued": 40, "queue_timeout": "10s"}},
    }
)
OBJECTIVE = Objective(refused=0.005, wait=5.0)
SEEDS = (1, 2, 3)
MET, COST = 0.95, 1.05


def record_of(shape: str, hours: int, seed: int) -> Record:
    """So many hours of the shape."""
    lines: list[Arrivals | Mix] = []
    for hour in range(hours):

        def header(_: float, seconds: float) -> Header:
            return Header(source=shape, seconds=seconds)

        one = sources.of_shape(shape, header, MIX, rate=RATE, seconds=3600.0, seed=1000 * seed + hour)
        parts: list[Arrivals | Mix] = [*one.arrivals, *one.mixes]
        lines += [msgspec.structs.replace(each, at=each.at + hour * 3600.0) for each in parts]
    return make(Header(source=shape, seconds=hours * 3600.0), lines)


def best_of_grid(bench: Judge) -> Verdict | None:
    """For each fewest number and window the highest target that meets the objective on the part that was held out, by
    one after the other from the highest; of those the cheapest that meets it with all seeds."""
    found = []
    for least, window in itertools.product(LEAST[:6], WINDOWS):
        for target in reversed(TARGETS):
            choice = msgspec.structs.replace(
                present(VALUES), minReplicas=least, targetPercentage=target, window=window
            )
            judged = []
            for seed in SEEDS:
                judged.append(bench.judge(Trial(HELD, choice, seed)))
                if not judged[-1].meets(OBJECTIVE):
                    break
            else:
                found.append(Verdict(choice, judged))
                break
    return min(found, key=lambda verdict: verdict.cost, default=None)


def judged(task: tuple[str, int, int]) -> dict[str, Any]:
    """A recommendation for one record, and the best of the grid on its last hour."""
    shape, hours, seed = task
    record, held_out, began = record_of(shape, hours, seed), 1 / hours, time.process_time()
    bench = Bench(record, VALUES, held_out)
    space = space_of(record, VALUES, held_out, Bounds())
    advice = recommend(space, OBJECTIVE, lambda trials: [bench.judge(each) for each in trials], SEEDS)
    took = time.process_time() - began
    best = best_of_grid(bench)
    further = Bench(record_of(shape, hours, 1000 + seed), VALUES, held_out)
    lucky = [] if best is None else [further.judge(Trial(HELD, best.choice, each)) for each in SEEDS]
    found = None if advice.best is None else advice.best[HELD]
    return {
        "shape": shape,
        "seed": seed,
        "met": found is not None and found.meets(OBJECTIVE),
        "cost": None if found is None else found.cost,
        "best": None if best is None else best.cost,
        "best_meets_again": bool(lucky) and all(each.meets(OBJECTIVE) for each in lucky),
        "cpu": took,
        "tried": len(advice.tried),
        "recommended": None if found is None else msgspec.to_builtins(found),
        "grid": None if best is None else msgspec.to_builtins(best),
    }


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--records", type=int, default=5, help="of each shape (default 5)")
    options.add_argument(
        "--hours", type=int, default=3, help="of each record, with the one held out (default 3)"
    )
    options.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--json", type=Path, help="where all verdicts go")
    args = options.parse_args()
    tasks = [(shape, args.hours, seed) for seed in range(1, args.records + 1) for shape in args.shapes]
    results = []
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("fork")) as pool:
        for each in pool.map(judged, tasks):
            results.append(each)
            progress(f"{len(results)} of {len(tasks)}: {each['shape']} {'met' if each['met'] else 'missed'}")
            if args.json:
                args.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    both = [each for each in results if each["cost"] and each["best"]]
    for shape in args.shapes:
        of = [each for each in both if each["shape"] == shape]
        ratios = [each["cost"] / each["best"] for each in of]
        met, beside = sum(e["met"] for e in results if e["shape"] == shape), sum(ratios) / (len(of) or 1)
        print(f"{shape:12} met {met} of {args.records}, cost beside the best {beside:.3f}")
    met = sum(each["met"] for each in results) / len(results)
    cost = sum(each["cost"] for each in both) / (sum(each["best"] for each in both) or 1)
    again = sum(each["best_meets_again"] for each in results)
    print(f"the best of the grid met it on a further hour, too, for {again} of {len(results)}")
    print(f"all: met {met:.0%} (bar {MET:.0%}), cost beside the best {cost:.3f} (bar {COST})")
    return 0 if met >= MET and cost <= COST else 1


if __name__ == "__main__":
    sys.exit(main())
