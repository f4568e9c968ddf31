"""What each TTL would have saved: recorded look-ups, replayed against all candidate TTLs at once.

A miniature simulation (Waldspurger, Saemundsson, Ahmad and Park, "Cache modeling and optimization using miniature
simulations", USENIX ATC 2017) of sampled keys (spatial hash sampling, "Efficient MRC construction with SHARDS", FAST
2015). No law of popularity is assumed.

1. Candidates lie on a logarithmic grid, a factor `STEP` apart.
2. For each sampled key and each candidate one number is kept: when the answer that this TTL would hold was fetched. A
   look-up finds its age; past the TTL a provider is called, past TTL and stale-while-revalidate it is a miss as well.
3. A look-up counts `1 / threshold`, the inverse of its probability to be recorded; those of the heavy stratum count 1.
4. The others are weighted once more, by how many they should stand for, all counted less the heavy ones, over how many
   they do: a ratio estimate (Cochran, "Sampling Techniques", 1977, ch. 6). SHARDS takes what is lacking for hits of
   popular keys; those are counted exactly here, and with a short TTL what is lacking is mostly misses.
5. A miss that the TTL in force does not explain was a purge, an eviction or a request for a new answer: it is a miss
   under every TTL. One that follows a miss within a call's time has joined its flight: a hit.
6. A key that is first recorded with a hit was there before: it begins its replay and is not counted.
7. Sums fade, each with the half-life `max(HALF_LIFE, 4 TTL)`, so that they follow the day, and a long TTL is judged by
   a long time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dub5.contract import Access

Floats = NDArray[np.float64]

STEP = 1.6
HALF_LIFE = 1800.0
"""Seconds; the shortest."""
FLIGHT = 10.0
"""Seconds within which a second miss has joined the first one's call."""
MOST_KEYS = 16_384
"""Keys replayed; above, those that were not asked for the longest are forgotten."""

_CALLS, _HITS, _AGE, _SPENT, _BYTES = range(5)
_PLAIN, _BEGINS, _JOINED, _UNEXPLAINED = range(4)


@dataclass(frozen=True, slots=True)
class Curve:
    """By candidate TTL, rates per second: `dollars` spent on calls, of `dollars_uncached`; `bytes` held on average.

    `mean_age` is of a hit, in seconds. `measured` is the hit ratio that the cache really had. `seen` is how many
    look-ups the sums stand for, `window` for how long, in seconds.
    """

    ttls: Floats
    hit_ratio: Floats
    mean_age: Floats
    calls: Floats
    dollars: Floats
    dollars_uncached: Floats
    bytes: Floats
    measured: Floats
    seen: float
    window: float

    def at(self, column: Floats, ttls: Floats) -> Floats:
        """Between candidates: linear in the logarithm of the TTL."""
        return np.interp(np.log(ttls), np.log(self.ttls), column)


def candidates(shortest: float, longest: float) -> Floats:
    """Step 1: at least two, the ends among them."""
    steps = max(1, math.ceil(math.log(max(longest / shortest, STEP)) / math.log(STEP)))
    return np.geomspace(shortest, max(longest, shortest * STEP), steps + 1)


class Reuse:
    """One class. `swr_share` is its stale-while-revalidate as a part of its TTL. Times are seconds since the epoch."""

    def __init__(self, shortest: float, longest: float, swr_share: float) -> None:
        self.ttls = candidates(shortest, longest)
        self._lives = self.ttls * (1 + swr_share)
        count = len(self.ttls)
        self._half_lives = np.maximum(HALF_LIFE, 4 * self.ttls)
        self._sums = np.zeros((5, count))
        self._weight = np.zeros(count)
        self._dollars = np.zeros(count)
        self._really_hit = np.zeros(count)
        self._others = np.zeros(2)  # look-ups outside the heavy stratum, faded: counted, and as recorded
        self._elapsed = np.zeros(count)
        self._slots: dict[int, int] = {}
        self._asked_at: list[float] = []
        self._missed_at: list[float] = []
        self._fetched = np.full((256, count), -np.inf)
        self._known = np.zeros((256, 2))  # bytes and dollars of each key's answer, as of its last hit
        self._typical = np.zeros(3)  # known answers, faded: count, bytes, dollars
        self._seen = 0.0
        self._began: float | None = None
        self._faded = 0.0

    def fold(
        self, accesses: Sequence[Access], looked_up: float | None, ttl_in_force: float, now: float
    ) -> None:
        """Replay look-ups; `looked_up` of them were counted in all, recorded or not (None: not counted)."""
        self._fade(now)
        if not accesses:
            return
        accesses = sorted(accesses, key=_time_of)
        columns = np.array(
            [
                (access.at, access.hit, access.size, access.dollars, 1 / access.threshold)
                for access in accesses
            ]
        )
        columns[:, 4] = self._weighted(columns[:, 4], looked_up)
        rows, turns, kinds = self._sort_out(accesses, ttl_in_force)
        self._value(rows, columns)
        self._replay(rows, columns, kinds, _split(turns))
        self._seen += len(accesses)
        if self._began is None:
            self._began = float(columns[0, 0])

    def _weighted(self, weights: Floats, looked_up: float | None) -> Floats:
        """Steps 3 and 4."""
        others = weights > 1
        if looked_up is not None and others.any():
            heavy = len(weights) - int(others.sum())
            self._others += (max(looked_up - heavy, 0.0), weights[others].sum())
        counted, recorded = self._others
        share = float(np.clip(counted / recorded, 0.5, 2.0)) if recorded > 0 else 1.0
        return np.where(others, share * weights, weights)

    def _fade(self, now: float) -> None:
        if self._faded and now > self._faded:
            passed = now - self._faded
            kept = 0.5 ** (passed / self._half_lives)
            for sums in (
                self._sums,
                self._weight,
                self._dollars,
                self._really_hit,
                self._elapsed,
            ):
                np.multiply(sums, kept, out=sums)
            self._typical *= 0.5 ** (passed / HALF_LIFE)
            self._others *= 0.5 ** (passed / HALF_LIFE)
            self._elapsed += passed
        self._faded = max(self._faded, now)

    def _sort_out(
        self, accesses: Sequence[Access], ttl_in_force: float
    ) -> tuple[NDArray[np.int64], list[int], NDArray[np.int64]]:
        """Where each look-up's key is kept, which of its key's look-ups in this batch it is, and of which kind."""
        slots, asked_at, missed_at = self._slots, self._asked_at, self._missed_at
        rows, turns, kinds = [], [], []
        counted: dict[int, int] = {}
        for access in accesses:
            row = slots.get(access.key)
            kind = _PLAIN
            if row is None:
                row = slots[access.key] = len(slots)
                asked_at.append(access.at)
                missed_at.append(-math.inf)
                if access.hit:
                    kind = _BEGINS
            since_miss = access.at - missed_at[row]
            if not access.hit:
                if since_miss <= FLIGHT:
                    kind = _JOINED
                else:
                    if since_miss < 0.9 * ttl_in_force:
                        kind = _UNEXPLAINED
                    missed_at[row] = access.at
            asked_at[row] = access.at
            rows.append(row)
            kinds.append(kind)
            turn = counted.get(row, 0)
            counted[row] = turn + 1
            turns.append(turn)
        self._make_room(len(slots))
        return np.array(rows), turns, np.array(kinds)

    def _make_room(self, needed: int) -> None:
        have = len(self._fetched)
        if needed > have:
            size = max(needed, 2 * have)
            fetched = np.full((size, len(self.ttls)), -np.inf)
            fetched[:have] = self._fetched
            known = np.zeros((size, 2))
            known[:have] = self._known
            self._fetched, self._known = fetched, known

    def forget(self) -> None:
        """Drop what was not asked for the longest, where there is too much."""
        if len(self._slots) <= MOST_KEYS:
            return
        kept = sorted(self._slots.items(), key=lambda item: -self._asked_at[item[1]])[: MOST_KEYS // 2]
        rows = [row for _, row in kept]
        self._fetched, self._known = self._fetched[rows], self._known[rows]
        self._asked_at = [self._asked_at[row] for row in rows]
        self._missed_at = [self._missed_at[row] for row in rows]
        self._slots = {key: index for index, (key, _) in enumerate(kept)}

    def _value(self, rows: NDArray[np.int64], columns: Floats) -> None:
        """Learn what an answer weighs and costs from hits; a miss does not know yet."""
        known = columns[:, 2] > 0
        self._known[rows[known]] = columns[known, 2:4]
        self._typical += (known.sum(), columns[known, 2].sum(), columns[known, 3].sum())

    def _replay(
        self,
        rows: NDArray[np.int64],
        columns: Floats,
        kinds: NDArray[np.int64],
        turns: list[NDArray[np.int64]],
    ) -> None:
        """Steps 2, 3, 5 and 6. In a turn no key comes twice."""
        ttls, at = self.ttls, columns[:, 0]
        ages = np.empty((len(rows), len(ttls)))
        unexplained = kinds == _UNEXPLAINED
        for turn in turns:
            held, now = self._fetched[rows[turn]], at[turn, None]
            held[unexplained[turn]] = -np.inf
            age = now - held
            ages[turn] = age
            self._fetched[rows[turn]] = np.where(age >= ttls, now, held)
        weight = np.where(kinds == _BEGINS, 0.0, columns[:, 4])
        size, dollars = self._worth(rows)
        calls = (ages >= ttls).astype(float)
        served = ages < self._lives
        self._sums[[_CALLS, _SPENT, _BYTES]] += np.stack([weight, weight * dollars, weight * size]) @ calls
        self._sums[_HITS] += weight @ served
        self._sums[_AGE] += weight @ np.where(served, ages, 0.0)
        self._weight += weight.sum()
        self._dollars += float(weight @ dollars)
        self._really_hit += float(weight @ ((columns[:, 1] > 0) | (kinds == _JOINED)))

    def _worth(self, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Bytes and dollars of each look-up's answer; the usual where they are not known."""
        known = self._known[rows]
        count, size, dollars = self._typical
        usual = (size / count, dollars / count) if count > 0 else (0.0, 0.0)
        is_known = known[:, 0] > 0
        return np.where(is_known, known[:, 0], usual[0]), np.where(is_known, known[:, 1], usual[1])

    def curve(self, now: float) -> Curve | None:
        """None before there is anything to say."""
        if self._began is None or not self._weight.any():
            return None
        elapsed = np.maximum(self._elapsed, 1.0)
        return Curve(
            ttls=self.ttls,
            hit_ratio=np.maximum.accumulate(self._sums[_HITS] / self._weight),
            mean_age=self._sums[_AGE] / np.maximum(self._sums[_HITS], 1e-9),
            calls=self._sums[_CALLS] / elapsed,
            dollars=self._sums[_SPENT] / elapsed,
            dollars_uncached=self._dollars / elapsed,
            bytes=self._sums[_BYTES] * self._lives / elapsed,
            measured=self._really_hit / self._weight,
            seen=self._seen,
            window=max(0.0, now - self._began),
        )


def _time_of(access: Access) -> float:
    return access.at


def _split(turns: list[int]) -> list[NDArray[np.int64]]:
    """Positions by turn."""
    numbers = np.array(turns)
    return np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
