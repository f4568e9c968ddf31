"""The rows of the report: worlds, who is compared in them, and what must come of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from statistics import mean
from typing import Any

import msgspec

from benchmarks.adaptive_ttl.cache import Cache, Control, Fixed, Outcome
from benchmarks.adaptive_ttl.controls import BUDGET, LONGEST, SHORTEST, DynamicTTL, Planned
from benchmarks.adaptive_ttl.world import HOUR, START, Drawn, World, draw, oracle_ttl
from dub5_operator.planner.decision import AIM


class Run(msgspec.Struct):
    """One day of ours beside those it is compared with. Shares are of hits; `others` has (stale, hit ratio, saved)."""

    stale: float
    hit_ratio: float
    saved: float
    of_oracle: float
    oracle_ttl: float
    last_ttl: float
    re_ask_share: float
    sample_bytes: float
    error: float
    jumps: list[tuple[float, float]]
    others: dict[str, tuple[float, float, float]] = {}


def compared(world: World, seed: int) -> Run:
    """Ours, the oracle, and what people do without: on the same day."""
    drawn = draw(world, seed)
    ours = Planned()
    outcome = Cache(drawn, ours).run()
    ttl = oracle_ttl(drawn, AIM * BUDGET, SHORTEST, LONGEST)
    oracle = Cache(drawn, Fixed(ttl)).run()
    run = Run(
        stale=outcome.stale_share,
        hit_ratio=outcome.hit_ratio,
        saved=outcome.saved,
        of_oracle=outcome.saved / oracle.saved,
        oracle_ttl=ttl,
        last_ttl=outcome.ttls[-1],
        re_ask_share=outcome.re_asks / max(outcome.calls, 1),
        sample_bytes=outcome.sample_bytes / (world.hours * HOUR),
        error=prediction_error(ours, outcome),
        jumps=[((at - START) / 60, factor) for at, factor in ours.learning.jumps],
    )
    controls: dict[str, Control] = {
        "static 5 min": Fixed(300.0),
        "static 1 h": Fixed(3600.0),
        "d-TTL 0.7": DynamicTTL(target=0.7, step=0.5),
    }
    for name, control in controls.items():
        other = Cache(drawn, control).run()
        run.others[name] = (other.stale_share, other.hit_ratio, other.saved)
    return run


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
    drawn: Drawn = draw(world, seed)
    ours = Planned()
    outcome = Cache(drawn, ours).run()
    at = int(world.jump_at / 60)
    ttl = oracle_ttl(drawn, AIM * BUDGET, SHORTEST, LONGEST, drawn.rates * world.jump)
    after = outcome.ttls[at:]
    minutes = next((minute for minute, each in enumerate(after) if each <= 1.25 * ttl), len(after))
    end = at + max(minutes, 1)
    stale = sum(outcome.stale_by_minute[at:end]) / max(sum(outcome.hits_by_minute[at:end]), 1)
    early = [when for when, _ in ours.learning.jumps if (when - START) / 60 < at]
    return Jumped(minutes, len(early), stale)


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
    """`of` does one seed."""

    of: Callable[[int], Any]
    seeds: int = 20


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
JUMPS = {
    "1/day -> 10/day": World("1/day", jump=10, jump_at=8 * HOUR, hours=10),
    "1/h -> 10/h": World("1/h", jump=10, jump_at=8 * HOUR, hours=10),
}
NOISES = {"none, e0 0.5": World("none", noise=0.5), "none, e0 1": World("none", noise=1.0)}
INFEASIBLE = World("1/10min", hours=6)

ROWS: dict[str, Row] = {
    **{name: Row(partial(compared, world)) for name, world in DRIFTS.items()},
    **{name: Row(partial(compared, world), 10) for name, world in NOISES.items()},
    **{name: Row(partial(jumped, world)) for name, world in JUMPS.items()},
    "infeasible, Min": Row(partial(infeasible, INFEASIBLE, bypass=False), 5),
    "infeasible, Bypass": Row(partial(infeasible, INFEASIBLE, bypass=True), 5),
}


def one(job: tuple[str, int]) -> tuple[str, Any]:
    """One seed of a row: what a process of the pool does."""
    name, seed = job
    return name, ROWS[name].of(seed)
