"""The cache of one class, as the backend keeps it, in the time of a simulation.

An answer is judged when it is read, by the TTL in force. A refetch within four TTLs is compared with the answer before
it; one re-ask is earned by every hundred calls. Noise: an answer is worded in a way of its own with such a chance that
two fresh ones differ with the chance `noise`.
"""

from __future__ import annotations

import bisect
import random
from collections import Counter
from typing import Protocol

import msgspec

from benchmarks.adaptive_ttl.world import HOUR, MINUTE, START, Drawn
from dub5.contract import Access, Verdict

DOLLARS = 0.0005
"""Of a provider's call: some 600 tokens in, 300 out, of a small model."""
SIZE = 2000
MEMORY_PRICE = 0.02
"""Dollars per GiB and hour."""
RE_ASK_SHARE = 0.01
HEAVY = 64
TAIL_THRESHOLD = 0.25


class Seen(msgspec.Struct):
    """What one minute brought."""

    at: float
    looked_up: int
    accesses: list[Access]
    verdicts: list[Verdict]


class Control(Protocol):
    """Sets the TTL. `samples`: whether it wants any."""

    ttl: float
    samples: bool

    def each_minute(self, seen: Seen) -> None: ...


class Fixed:
    samples = False

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl

    def each_minute(self, seen: Seen) -> None:
        pass


class Outcome(msgspec.Struct):
    """Sums over the day, and by minute what a row needs more closely."""

    calls: int = 0
    re_asks: int = 0
    byte_seconds: float = 0.0
    sample_bytes: int = 0
    ttls: list[float] = []
    hits_by_minute: list[int] = []
    stale_by_minute: list[int] = []
    looked_up_by_minute: list[int] = []

    @property
    def stale_share(self) -> float:
        return self.stale_share_from(0)

    @property
    def hits(self) -> int:
        return sum(self.hits_by_minute)

    @property
    def hit_ratio(self) -> float:
        return self.hits / max(sum(self.looked_up_by_minute), 1)

    @property
    def saved(self) -> float:
        """Dollars: calls avoided, less re-asks and memory."""
        memory = self.byte_seconds / 2**30 / HOUR * MEMORY_PRICE
        return (self.hits - self.re_asks) * DOLLARS - memory

    def stale_share_from(self, minute: int) -> float:
        return sum(self.stale_by_minute[minute:]) / max(sum(self.hits_by_minute[minute:]), 1)


class Cache:
    """Runs one day under one control."""

    def __init__(self, drawn: Drawn, control: Control) -> None:
        self._drawn = drawn
        self._control = control
        self._chance = random.Random(drawn.seed)
        count = int(drawn.keys.max(initial=drawn.world.keys - 1)) + 1
        self._changes = [drawn.changes_of(key) for key in range(drawn.world.keys)]
        self._changes += [[float("inf")]] * (count - drawn.world.keys)
        self._own_wording = (1 - (1 - drawn.noises) ** 0.5).tolist() + [0.0] * (count - drawn.world.keys)
        self._fetched = [-1e18] * count
        self._next_change = [float("inf")] * count
        self._hits = [0] * count
        self._owned = [False] * count  # worded in a way of its own
        self._version = [-1] * count
        self._kept_for = [0.0] * count
        self._re_ask = 0.0
        self._verdicts: list[Verdict] = []
        self.outcome = Outcome()
        hashes = random.Random(drawn.seed + 1)
        self._short = [hashes.randrange(2**48) for _ in range(count)]
        self._weights: Counter[int] = Counter()
        self._heavy: set[int] = set()

    def run(self) -> Outcome:
        times, keys = self._drawn.times, self._drawn.keys
        minutes = int(self._drawn.world.hours * 60)
        bounds = times.searchsorted([minute * MINUTE for minute in range(minutes + 1)]).tolist()
        for minute in range(minutes):
            part = slice(bounds[minute], bounds[minute + 1])
            self._minute(times[part].tolist(), keys[part].tolist(), (minute + 1) * MINUTE)
        return self.outcome

    def _minute(self, times: list[float], keys: list[int], end: float) -> None:
        control, outcome = self._control, self.outcome
        ttl = control.ttl
        fetched, hits, next_change = self._fetched, self._hits, self._next_change
        found, stale = [], 0
        re_asking = control.samples and self._drawn.world.keys > 0
        for at, key in zip(times, keys, strict=True):
            hit = at - fetched[key] < ttl
            found.append(hit)
            if hit:
                hits[key] += 1
                if at >= next_change[key]:
                    stale += 1
                if re_asking and self._re_ask >= 1.0:
                    self._ask_again(at, key, ttl)
            else:
                self._fetch(at, key, ttl)
        outcome.ttls.append(ttl)
        outcome.hits_by_minute.append(sum(found))
        outcome.stale_by_minute.append(stale)
        outcome.looked_up_by_minute.append(len(times))
        if control.samples:
            seen = Seen(START + end, len(times), self._sampled(times, keys, found), self._verdicts)
            outcome.sample_bytes += 48 * (len(seen.accesses) + len(seen.verdicts))
            self._verdicts = []
        else:
            seen = Seen(START + end, len(times), [], [])
        control.each_minute(seen)

    def _fetch(self, at: float, key: int, ttl: float) -> None:
        self.outcome.calls += 1
        self.outcome.byte_seconds += SIZE * ttl
        self._re_ask += RE_ASK_SHARE
        changes = self._changes[key]
        version = bisect.bisect_right(changes, at)
        owned = self._chance.random() < self._own_wording[key]
        if self._control.samples and at - self._fetched[key] < self._kept_for[key]:
            self._compare(at, key, version, owned, "refetch")
        self._keep(at, key, version, owned, ttl)

    def _ask_again(self, at: float, key: int, ttl: float) -> None:
        self._re_ask = 0.0
        self.outcome.re_asks += 1
        version = bisect.bisect_right(self._changes[key], at)
        owned = self._chance.random() < self._own_wording[key]
        if self._compare(at, key, version, owned, "re-ask"):
            self._keep(at, key, version, owned, ttl)

    def _compare(self, at: float, key: int, version: int, owned: bool, source: str) -> bool:
        changed = version != self._version[key] or owned or self._owned[key]
        self._verdicts.append(
            Verdict(
                self._short[key],
                "simulated",
                START + self._fetched[key],
                START + at,
                changed,
                self._hits[key],
                "re-ask" if source == "re-ask" else "refetch",
            )
        )
        return changed

    def _keep(self, at: float, key: int, version: int, owned: bool, ttl: float) -> None:
        self._fetched[key], self._version[key], self._owned[key] = at, version, owned
        self._hits[key] = 0
        self._kept_for[key] = max(4 * ttl, 60.0)
        self._next_change[key] = self._changes[key][version]

    def _sampled(self, times: list[float], keys: list[int], found: list[bool]) -> list[Access]:
        """As cache/samples.py takes them: the heaviest keys, and of the others those with a small hash."""
        threshold, short, heavy = TAIL_THRESHOLD * 2**48, self._short, self._heavy
        accesses = []
        for at, key, hit in zip(times, keys, found, strict=True):
            if key in heavy:
                accesses.append(Access(short[key], "", START + at, hit, SIZE * hit, DOLLARS * hit, 1.0))
            elif short[key] < threshold:
                accesses.append(
                    Access(short[key], "", START + at, hit, SIZE * hit, DOLLARS * hit, TAIL_THRESHOLD)
                )
        self._weights.update(keys)
        heaviest = self._weights.most_common(4 * HEAVY)
        self._heavy = {key for key, count in heaviest[:HEAVY] if count > 1}
        self._weights = Counter({key: count // 2 for key, count in self._weights.items() if count > 1})
        return accesses
