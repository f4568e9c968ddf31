"""The rows of the report: worlds, who is compared in them, and what must come of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import msgspec
import numpy as np

from benchmarks.adaptive_ttl import controls
from benchmarks.adaptive_ttl.cache import Cache, Control, Fixed, Outcome
from benchmarks.adaptive_ttl.controls import BUDGET, LONGEST, SHORTEST, Planned
from benchmarks.adaptive_ttl.world import DAY, HOUR, MINUTE, START, World, draw, oracle_ttl, turns
from dub5_operator.planner.decision import AIM, PER_QUESTION

NOTICED = 30 * MINUTE
"""Seconds after a turn within which an alarm is a true one."""
ASKED = 20
"""Hits from which on a question is held to the promise for each."""

PLANNERS: dict[str, Any] = {}
"""Those of other releases, by what they are called."""
MOST_HOURS = [math.inf]
"""For which a world is watched."""


class Figures(msgspec.Struct):
    """Of one who sets the TTL. `stale` and `hit_ratio` are of the whole run; `saved`, look-ups that took no call, and
    `calls`, re-asks included, of the whole and of its second half. Alarms are by day."""

    stale: float
    hit_ratio: float
    saved: tuple[int, int]
    calls: tuple[int, int]
    alarms: float

    @classmethod
    def of(cls, outcome: Outcome, alarms: float = 0.0) -> Figures:
        half = len(outcome.calls_by_minute) // 2
        asked, called = outcome.looked_up_by_minute, outcome.calls_by_minute
        saved, late = (sum(asked[start:]) - sum(called[start:]) for start in (0, half))
        calls = sum(called), sum(called[half:])
        return cls(outcome.stale_share, outcome.hit_ratio, (saved, late), calls, alarms)


class Run(msgspec.Struct):
    """Ours beside those it is compared with. `kept` is the share of questions asked often enough whose expected stale
    share is within what is promised for each; `worst_hour`, the greatest stale share of an hour."""

    ours: Figures
    others: dict[str, Figures]
    kept: float
    worst_hour: float
    oracle_ttl: float
    last_ttl: float
    re_ask_share: float
    sample_bytes: float
    error: float


def compared(world: World, seed: int) -> Run:
    """All of them in the same world."""
    world = msgspec.structs.replace(world, hours=min(world.hours, *MOST_HOURS))
    drawn = draw(world, seed)
    ours = Planned()
    cache = Cache(drawn, ours)
    outcome = cache.run()
    ttl = oracle_ttl(drawn, AIM * BUDGET, SHORTEST, LONGEST)
    setters: dict[str, Control] = {
        "oracle": Fixed(ttl),
        "optimum": controls.optimum(drawn),
        "MLE": controls.LikelyRate(),
        "AIMD": controls.Additive(),
        "static 5 min": Fixed(300.0),
        "static 1 h": Fixed(3600.0),
        "d-TTL 0.7": controls.DynamicTTL(target=0.7, step=0.5),
    }
    others = {name: Figures.of(Cache(drawn, setter).run()) for name, setter in setters.items()}
    others["best fixed"] = Figures.of(controls.best_fixed(drawn))
    for name, planner in PLANNERS.items():
        other = Planned(planner=planner)
        others[name] = Figures.of(Cache(drawn, other).run(), false_alarms(world, other))
    hits, stale = cache.state.all_hits[: world.keys], cache.state.expected_stale[: world.keys]
    often = hits >= ASKED
    by_hour = [
        np.array(each).reshape(-1, 60).sum(axis=1)
        for each in (outcome.stale_by_minute, outcome.hits_by_minute)
    ]
    return Run(
        ours=Figures.of(outcome, false_alarms(world, ours)),
        others=others,
        kept=float((stale <= PER_QUESTION * BUDGET * hits)[often].mean()),
        worst_hour=float((by_hour[0] / np.maximum(by_hour[1], 1)).max()),
        oracle_ttl=ttl,
        last_ttl=outcome.usual_ttls[-1],
        re_ask_share=outcome.re_asks / max(outcome.calls, 1),
        sample_bytes=outcome.sample_bytes / (world.hours * HOUR),
        error=prediction_error(ours, outcome),
    )


def false_alarms(world: World, of: Planned) -> float:
    """A day."""
    true = turns(world)
    since = [(at - START - true) for at, _ in of.alarms]
    return sum(not ((each >= 0) & (each <= NOTICED)).any() for each in since) * DAY / (world.hours * HOUR)


def prediction_error(ours: Planned, outcome: Outcome) -> float:
    """Mean over hours, from the third on, of |predicted - real| hit ratio; each minute's prediction is for the next."""
    errors = []
    for hour in range(2, len(outcome.ttls) // 60):
        minutes = range(hour * 60, hour * 60 + 60)
        asked = sum(outcome.looked_up_by_minute[minute] for minute in minutes)
        real = sum(outcome.hits_by_minute[minute] for minute in minutes) / max(asked, 1)
        predicted = [ours.decisions[minute - 1].hit_ratio for minute in minutes]
        if not any(math.isnan(each) for each in predicted):
            errors.append(abs(mean(predicted) - real))
    return mean(errors) if errors else math.nan


class Jumped(msgspec.Struct):
    """After a jump: minutes until the TTL was at most 1.25 of the new oracle's, and the stale share meanwhile."""

    minutes: int
    false_alarms: int
    stale_meanwhile: float


def jumped(world: World, seed: int) -> Jumped:
    drawn = draw(world, seed)
    ours = Planned()
    outcome = Cache(drawn, ours).run()
    at = int(world.jump_at / 60)
    ttl = oracle_ttl(drawn, AIM * BUDGET, SHORTEST, LONGEST, drawn.rates * world.jump)
    after = outcome.ttls[at:]
    minutes = next((minute for minute, each in enumerate(after) if each <= 1.25 * ttl), len(after))
    end = at + max(minutes, 1)
    stale = sum(outcome.stale_by_minute[at:end]) / max(sum(outcome.hits_by_minute[at:end]), 1)
    early = [when for when, _ in ours.alarms if (when - START) / 60 < at]
    return Jumped(minutes, len(early), stale)


class Calmed(msgspec.Struct):
    """After a storm: the usual TTL of the hour before it, in seconds, and minutes from the last change on until it was
    for good two thirds of what it is in the same world without one; stale shares of the whole run and its worst hour.
    """

    before: float
    minutes: int
    stale: float
    worst_hour: float


def calmed(world: World, seed: int) -> Calmed:
    drawn = draw(world, seed)
    outcome = Cache(drawn, Planned()).run()
    began, ended = (int(at / MINUTE) for at in turns(world)[:2])
    before = median(outcome.usual_ttls[began - 60 : began])
    calm = Cache(draw(msgspec.structs.replace(world, drift="none", pace="even"), seed), Planned()).run()
    pairs = zip(outcome.usual_ttls[ended:], calm.usual_ttls[ended:], strict=True)
    short = [minute for minute, (ttl, beside) in enumerate(pairs, 1) if ttl < beside / 1.5]
    hours = range(0, len(outcome.ttls), 60)
    worst = max(
        sum(outcome.stale_by_minute[at : at + 60]) / sum(outcome.hits_by_minute[at : at + 60]) for at in hours
    )
    return Calmed(before, max(short, default=0), outcome.stale_share, worst)


class Infeasible(msgspec.Struct):
    said: bool
    stale: float
    hit_ratio: float
    last_ttl: float


def infeasible(world: World, seed: int, *, bypass: bool) -> Infeasible:
    """Answers change every ten minutes and `ttl.min` is one minute."""
    drawn = draw(world, seed)
    ours = Planned(shortest=60.0, bypass=bypass)
    outcome = Cache(drawn, ours).run()
    last = ours.decisions[-1]
    return Infeasible(not last.within_budget, outcome.stale_share, outcome.hit_ratio, outcome.ttls[-1])


class Row(msgspec.Struct, frozen=True):
    """`of` does one seed, and gives a `kind`."""

    kind: type
    of: Callable[[int], Any]
    seeds: int = 20


def _beside(worlds: dict[str, World], seeds: int = 20) -> dict[str, Row]:
    return {name: Row(Run, partial(compared, world), seeds) for name, world in worlds.items()}


DRIFTS = {
    "none": World("none"),
    "1/day": World("1/day"),
    "1/h": World("1/h"),
    "1/10min": World("1/10min"),
    "mixed": World("mixed"),
    "popular-fast": World("popular-fast"),
    "popular-slow": World("popular-slow"),
    "1/day, e0 0.2": World("1/day", noise=0.2),
    "1/h, e0 0.2": World("1/h", noise=0.2),
    "1/h, e0 0.5": World("1/h", noise=0.5),
    "1/10min, e0 0.5": World("1/10min", noise=0.5),
}
FOUR_DAYS = {
    f"{drift}, 4 days{', restless' * restless}": World(drift, zipf=1.0, hours=96, restless=restless)
    for restless in (False, True)
    for drift in ("mixed", "lognormal 2", "1/day", "1/h")
}
MOMENTS = {
    "03:00": World("none", zipf=1.0, hours=96, batch=0.5),
    "documents": World("1/h", zipf=1.0, hours=48, documents=5),
    "10 % reworded": World("1/h", zipf=1.0, hours=48, reworded=0.1),
    "50 % reworded": World("1/h", zipf=1.0, hours=48, reworded=0.5),
    **{
        pace: World("1/day" if pace == "storms" else "1/h", zipf=1.0, hours=72, pace=pace)
        for pace in ("office", "hourly", "storms", "turns", "trend")
    },
}
OTHERS = {
    "Zipf 1.4": World("mixed", zipf=1.4, hours=48),
    "Zipf 0.6": World("mixed", zipf=0.6, hours=48),
    "50 questions": World("mixed", zipf=1.0, hours=48, keys=50),
    "20,000 questions": World("mixed", zipf=1.0, hours=48, keys=20_000),
    "0.3 requests a second": World("mixed", zipf=1.0, hours=48, per_second=0.3),
    "lognormal 3": World("lognormal 3", zipf=1.0, hours=48),
    "50 documents, lognormal 2": World("lognormal 2", zipf=1.0, hours=48, documents=50),
    "20 documents, lognormal 2": World("lognormal 2", zipf=1.0, hours=48, documents=20),
    "20 documents, mixed": World("mixed", zipf=1.0, hours=48, documents=20),
    "10 documents, mixed": World("mixed", zipf=1.0, hours=48, documents=10),
    "mixed, restless, 30 % reworded": World("mixed", zipf=1.0, hours=48, restless=True, reworded=0.3),
    "mixed, 30 % reworded in half": World("mixed", zipf=1.0, hours=48, reworded=0.3, anew=0.5),
    "mixed, 80 % reworded": World("mixed", zipf=1.0, hours=48, reworded=0.8),
    "mixed, e0 0.2": World("mixed", zipf=1.0, hours=48, noise=0.2),
}
JUMPS = {
    "1/day -> 10/day": World("1/day", jump=10, jump_at=8 * HOUR, hours=10),
    "1/h -> 10/h": World("1/h", jump=10, jump_at=8 * HOUR, hours=10),
}
NOISES = {"none, e0 0.5": World("none", noise=0.5), "none, e0 1": World("none", noise=1.0)}
STORM = World("1/day", zipf=1.0, hours=48, pace="storm")
INFEASIBLE = World("1/10min", hours=6)

ROWS: dict[str, Row] = {
    **_beside(FOUR_DAYS),
    **_beside(MOMENTS),
    **_beside(OTHERS),
    **_beside(DRIFTS),
    **_beside(NOISES, 10),
    "storm": Row(Calmed, partial(calmed, STORM)),
    **{name: Row(Jumped, partial(jumped, world)) for name, world in JUMPS.items()},
    "infeasible, Min": Row(Infeasible, partial(infeasible, INFEASIBLE, bypass=False), 5),
    "infeasible, Bypass": Row(Infeasible, partial(infeasible, INFEASIBLE, bypass=True), 5),
}


def begin(before: Path | None, hours: float) -> None:
    """In each process of the pool: `before` is the folder of another release's operator, to compare with, `hours` for
    how long, at most."""
    MOST_HOURS[:] = [hours]
    if before is not None:
        PLANNERS["before"] = controls.planner_in(before)


def one(job: tuple[str, int]) -> tuple[str, int, Any]:
    """One seed of a row: what a process of the pool does."""
    name, seed = job
    return name, seed, ROWS[name].of(seed)
