"""Questions as they come, and answers as they change: all of it drawn from one seed before the day begins."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
START = 1_000_000.0
"""Of the first day, in seconds since the epoch."""

Drifts = Literal["none", "1/day", "1/h", "1/10min", "mixed", "popular-fast", "popular-slow"]


class World(msgspec.Struct, frozen=True):
    """What is drawn. `noise` is e0: the chance that two fresh answers differ although nothing changed.

    `jump`: the drift is this many times as fast from `jump_at` on. `zipf` None: one of 0.8 to 1.1, by the seed.
    """

    drift: Drifts
    noise: float = 0.0
    zipf: float | None = None
    keys: int = 2000
    per_second: float = 10.0
    rhythm: float = 0.6
    hours: float = 24.0
    jump: float = 1.0
    jump_at: float = 12 * HOUR

    def exponent(self, seed: int) -> float:
        return self.zipf if self.zipf is not None else (0.8, 0.9, 1.0, 1.1)[seed % 4]


class Drawn(msgspec.Struct, frozen=True):
    """One day. `times` are seconds since START, `keys` the questions asked then; `changes` are sorted, by key."""

    world: World
    times: Floats
    keys: NDArray[np.int64]
    changes: list[list[float]]
    shares: Floats
    rates: Floats
    seed: int


def draw(world: World, seed: int) -> Drawn:
    chance = np.random.default_rng([seed, 8])
    ranks = np.arange(1, world.keys + 1)
    shares = ranks ** -world.exponent(seed)
    shares = shares / shares.sum()
    rates = _rates(world.drift, ranks, shares, chance)
    length = world.hours * HOUR
    most = world.per_second * (1 + world.rhythm)
    times = np.sort(chance.uniform(0, length, chance.poisson(most * length)))
    now = world.per_second * (
        1 + world.rhythm * np.sin(2 * np.pi * times / DAY + 2 * np.pi * chance.random())
    )
    times = times[chance.random(len(times)) * most < now]
    keys = np.searchsorted(np.cumsum(shares), chance.random(len(times))).clip(max=world.keys - 1)
    changes = [_changes(rate, world, chance) for rate in rates]
    return Drawn(world, times, keys, changes, shares, rates, seed)


def _rates(drift: Drifts, ranks: NDArray[np.int64], shares: Floats, chance: np.random.Generator) -> Floats:
    """Changes per second of each answer."""
    alike = {"none": 0.0, "1/day": 1 / DAY, "1/h": 1 / HOUR, "1/10min": 1 / 600}
    if drift in alike:
        return np.full(len(ranks), alike[drift])
    if drift == "mixed":
        return chance.choice([0.0, 1 / DAY, 1 / HOUR, 1 / 600], size=len(ranks), p=[0.4, 0.3, 0.2, 0.1])
    rates = ranks**-0.5 if drift == "popular-fast" else ranks**0.5
    return np.asarray(rates / (rates @ shares) / HOUR)  # once per hour, as hits see it


def _changes(rate: float, world: World, chance: np.random.Generator) -> list[float]:
    length = world.hours * HOUR
    if world.jump == 1.0:
        return [*np.sort(chance.uniform(0, length, chance.poisson(rate * length))).tolist(), np.inf]
    before = chance.uniform(0, world.jump_at, chance.poisson(rate * world.jump_at))
    rest = length - world.jump_at
    after = world.jump_at + chance.uniform(0, rest, chance.poisson(rate * world.jump * rest))
    return [*np.sort(np.concatenate([before, after])).tolist(), np.inf]


def expected(drawn: Drawn, ttl: float, rates: Floats | None = None) -> tuple[float, float]:
    """Hit ratio and stale share of hits of a TTL, for Poisson arrivals and changes whose rates are known."""
    arrivals = drawn.shares * drawn.world.per_second
    rates = drawn.rates if rates is None else rates
    hits = arrivals * ttl  # of one life
    lives = arrivals / (1 + hits)
    # Of a life's hits, each at an age uniform in (0, ttl), those after the first change.
    exponent = np.maximum(rates * ttl, 1e-12)
    stale = hits * (1 + np.expm1(-exponent) / exponent)
    return float((lives * hits).sum() / arrivals.sum()), float(
        (lives * stale).sum() / max((lives * hits).sum(), 1e-12)
    )


def oracle_ttl(
    drawn: Drawn, aim: float, shortest: float, longest: float, rates: Floats | None = None
) -> float:
    """The longest TTL whose stale share is at most `aim`, to one who knows drift and traffic."""
    low, high = shortest, longest
    if expected(drawn, longest, rates)[1] <= aim:
        return longest
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if expected(drawn, middle, rates)[1] <= aim else (low, middle)
    return low
