"""Questions as they come, and answers as they change: all of it drawn from one seed before the day begins."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
START = 1_000_000.0
"""Of the first day, in seconds since the epoch."""

Drifts = Literal[
    "none",
    "1/day",
    "1/h",
    "1/10min",
    "mixed",
    "popular-fast",
    "popular-slow",
    "lognormal 1",
    "lognormal 2",
    "lognormal 3",
]
Pace = Literal["even", "office", "hourly", "storm", "storms", "turns", "trend"]
BATCH_AT = 3 * HOUR
"""Of each day, UTC."""


class World(msgspec.Struct, frozen=True):
    """What is drawn. `noise` is e0: the chance that two fresh answers differ although nothing changed.

    `jump`: the drift is this many times as fast from `jump_at` on. `zipf` None: one of 0.8 to 1.1, by the seed.
    `restless`: 15 % of look-ups are questions that nobody asks again, besides one to three bursts of 20 minutes with
    twice as many of them as there are look-ups; and each six hours a tenth of the ranks change places.
    `reworded`: the share of questions whose answer is worded anew, each time or with the chance `anew`. `batch`: the
    share of answers that change within the five minutes from 03:00 on. `documents`: how many make all the answers of
    one change at once; 0: none.
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
    restless: bool = False
    reworded: float = 0.0
    anew: float = 1.0
    pace: Pace = "even"
    batch: float = 0.0
    documents: int = 0

    def exponent(self, seed: int) -> float:
        return self.zipf if self.zipf is not None else (0.8, 0.9, 1.0, 1.1)[seed % 4]


class Drawn(msgspec.Struct, frozen=True):
    """Days of questions. `times` are seconds since START, `keys` the questions asked then: those from `world.keys` on
    are asked once each.

    `changes[first[k]:first[k + 1]]` are the times when the answer of question `k` changes, sorted, and infinity.
    By question: `rates`, changes per second on average; `noises`, e0. `popularity[n]`, the shares of look-ups in the
    `n`-th of equal parts of the time; `shares`, their mean.
    """

    world: World
    times: Floats
    keys: NDArray[np.int64]
    changes: Floats
    first: NDArray[np.int64]
    popularity: Floats
    rates: Floats
    noises: Floats
    seed: int

    @property
    def shares(self) -> Floats:
        return np.asarray(self.popularity.mean(axis=0))

    def changes_of(self, key: int) -> list[float]:
        changes: list[float] = self.changes[self.first[key] : self.first[key + 1]].tolist()
        return changes


def draw(world: World, seed: int) -> Drawn:
    chance = np.random.default_rng([seed, 8])
    ranks = np.arange(1, world.keys + 1)
    shares = ranks ** -world.exponent(seed)
    shares = shares / shares.sum()
    sources = world.documents or world.keys
    rates = _rates(world.drift, ranks[:sources], shares, chance)
    length = world.hours * HOUR
    most = world.per_second * (1 + world.rhythm)
    times = np.sort(chance.uniform(0, length, chance.poisson(most * length)))
    now = world.per_second * (
        1 + world.rhythm * np.sin(2 * np.pi * times / DAY + 2 * np.pi * chance.random())
    )
    times = times[chance.random(len(times)) * most < now]
    keys = np.searchsorted(np.cumsum(shares), chance.random(len(times))).clip(max=world.keys - 1)
    passed = _passed(world)
    changes = [_changes(rate, world, passed, chance) for rate in rates]
    # What today's rows do without has a chance of its own, so that they stay what they were.
    more = np.random.default_rng([seed, 9])
    order = ranks[None] - 1
    if world.restless:
        order = _orders(world, more)
        keys = order[(times // (6 * HOUR)).astype(np.int64), keys]
        times, keys = _with_one_offs(world, times, keys, more)
    popularity = np.empty(order.shape)
    np.put_along_axis(popularity, order, np.broadcast_to(shares, order.shape), axis=1)
    of = np.arange(world.keys) % sources
    by_question = [changes[source] for source in of]
    if world.batch:
        by_question = [_with_batches(world, each, more) for each in by_question]
    noises = np.full(world.keys, world.noise)
    noises[more.random(world.keys) < world.reworded] = world.anew
    return Drawn(
        world=world,
        times=times,
        keys=keys,
        changes=np.concatenate([part for each in by_question for part in (each, [np.inf])]),
        first=np.cumsum([0, *(len(each) + 1 for each in by_question)]),
        popularity=popularity,
        rates=rates[of] * (passed[-1] / length) + world.batch / DAY,
        noises=noises,
        seed=seed,
    )


def _rates(drift: Drifts, ranks: NDArray[np.int64], shares: Floats, chance: np.random.Generator) -> Floats:
    """Changes per second of each answer."""
    alike = {"none": 0.0, "1/day": 1 / DAY, "1/h": 1 / HOUR, "1/10min": 1 / 600}
    if drift in alike:
        return np.full(len(ranks), alike[drift])
    if drift == "mixed":
        return chance.choice([0.0, 1 / DAY, 1 / HOUR, 1 / 600], size=len(ranks), p=[0.4, 0.3, 0.2, 0.1])
    if drift.startswith("lognormal"):  # once per hour on average
        sigma = float(drift.removeprefix("lognormal "))
        return chance.lognormal(-(sigma**2) / 2, sigma, len(ranks)) / HOUR
    rates = ranks**-0.5 if drift == "popular-fast" else ranks**0.5
    return np.asarray(rates / (rates @ shares) / HOUR)  # once per hour, as hits see it


def turns(world: World) -> Floats:
    """When all answers begin to change faster or slower by a half or more, in seconds since START."""
    paces = np.maximum(np.diff(_passed(world)), 1e-9)
    turning = np.abs(np.log(paces[1:] / paces[:-1])) > math.log(1.5)
    jumps = [world.jump_at] if world.jump != 1.0 else []
    return np.concatenate([jumps, MINUTE * (np.flatnonzero(turning) + 1)])


def _passed(world: World) -> Floats:
    """Seconds of an even drift that have passed at each minute, from 0 on."""
    minutes = np.arange(round(world.hours * 60))
    hours = minutes / 60
    of_day = (START + minutes * MINUTE) % DAY / HOUR
    even = np.ones(len(minutes))
    paces: dict[Pace, Floats] = {
        "even": even,
        "office": np.where((of_day >= 9) & (of_day < 17), 3 * even, 0),
        "hourly": np.where(of_day % 1 < 1 / 12, 12 * even, 0),
        "storm": np.where((hours >= 36) & (hours < 39), 1440 * even, 0),  # of 1/day: each minute
        "storms": np.where(hours % 6 >= 5 + 2 / 3, 144 * even, even),
        "turns": np.where(hours % 6 >= 3, 10 * even, even),
        "trend": 2.0 ** (hours / 24),
    }
    return np.concatenate([[0.0], np.cumsum(paces[world.pace]) * MINUTE])


def _changes(rate: float, world: World, passed: Floats, chance: np.random.Generator) -> Floats:
    length = world.hours * HOUR
    if world.pace != "even":
        moments = chance.uniform(0, passed[-1], chance.poisson(rate * passed[-1]))
        return np.sort(np.interp(moments, passed, np.arange(len(passed)) * MINUTE))
    if world.jump == 1.0:
        return np.sort(chance.uniform(0, length, chance.poisson(rate * length)))
    before = chance.uniform(0, world.jump_at, chance.poisson(rate * world.jump_at))
    rest = length - world.jump_at
    after = world.jump_at + chance.uniform(0, rest, chance.poisson(rate * world.jump * rest))
    return np.sort(np.concatenate([before, after]))


def _with_batches(world: World, changes: Floats, chance: np.random.Generator) -> Floats:
    nights = np.arange((BATCH_AT - START) % DAY, world.hours * HOUR - 5 * MINUTE, DAY)
    nights = nights[chance.random(len(nights)) < world.batch]
    return np.sort(np.concatenate([changes, nights + chance.uniform(0, 5 * MINUTE, len(nights))]))


def _orders(world: World, chance: np.random.Generator) -> NDArray[np.int64]:
    """The question at each rank, by six hours."""
    orders = [np.arange(world.keys)]
    while len(orders) * 6 < world.hours:
        moved = chance.choice(world.keys, world.keys // 10, replace=False)
        order = orders[-1].copy()
        order[moved] = order[chance.permutation(moved)]
        orders.append(order)
    return np.array(orders)


def _with_one_offs(
    world: World, times: Floats, keys: NDArray[np.int64], chance: np.random.Generator
) -> tuple[Floats, NDArray[np.int64]]:
    keys = np.where(chance.random(len(keys)) < 0.15, -1, keys)
    length, burst = world.hours * HOUR, 20 * MINUTE
    for _ in range(chance.integers(1, 4)):
        began, count = chance.uniform(0, length - burst), chance.poisson(2 * world.per_second * burst)
        times = np.concatenate([times, began + chance.uniform(0, burst, count)])
        keys = np.concatenate([keys, np.full(count, -1)])
    once = keys < 0
    keys[once] = world.keys + np.arange(once.sum())
    sorting = np.argsort(times)
    return times[sorting], keys[sorting]


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
