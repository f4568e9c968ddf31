"""The cache of one class, as the backend keeps it, in the time of a simulation.

An answer is judged when it is read, by the TTL in force. A refetch within four TTLs is compared with the answer before
it; one re-ask is earned by every hundred calls. Noise: an answer is worded in a way of its own with such a chance that
two fresh ones differ with the chance `noise`.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.adaptive_ttl.kernel import (
    BY_KEY,
    NO_POLICY,
    ONE,
    QUESTION,
    Answers,
    Published,
    new_state,
    run_minute,
    usual_ttl,
)
from benchmarks.adaptive_ttl.world import HOUR, MINUTE, START, Drawn, Floats
from dub5.contract import Access, QuestionPolicy, Verdict

DOLLARS = 0.0005
"""Of a provider's call: some 600 tokens in, 300 out, of a small model."""
SIZE = 2000
MEMORY_PRICE = 0.02
"""Dollars per GiB and hour."""
HEAVY = 64
TAIL_THRESHOLD = 0.25


class Seen(msgspec.Struct):
    """What one minute brought."""

    at: float
    looked_up: int
    accesses: list[Access]
    verdicts: list[Verdict]


class Control(Protocol):
    """Sets the TTL: one for all, or by question in `ttls`, or as replicas compute it with `question`.

    `samples`: whether it wants any."""

    ttl: float
    ttls: Floats | None
    question: QuestionPolicy | None
    samples: bool

    def each_minute(self, seen: Seen) -> None: ...


class Uniform:
    """One TTL for all."""

    ttls: Floats | None = None
    question: QuestionPolicy | None = None


class Fixed(Uniform):
    """`ttl` for all, or `ttls` by question, the last one for those that are asked once."""

    samples = False

    def __init__(self, ttl: float, ttls: Floats | None = None) -> None:
        self.ttl, self.ttls = ttl, ttls

    def each_minute(self, seen: Seen) -> None:
        pass


class Outcome(msgspec.Struct):
    """Sums over the run, and by minute what a row needs more closely. `usual_ttls`: where each question has its own,
    the geometric mean over look-ups."""

    byte_seconds: float = 0.0
    sample_bytes: int = 0
    re_asks_by_minute: list[int] = []
    ttls: list[float] = []
    usual_ttls: list[float] = []
    hits_by_minute: list[int] = []
    stale_by_minute: list[int] = []
    looked_up_by_minute: list[int] = []
    calls_by_minute: list[int] = []

    @property
    def stale_share(self) -> float:
        return self.stale_share_from(0)

    @property
    def re_asks(self) -> int:
        return sum(self.re_asks_by_minute)

    @property
    def calls(self) -> int:
        """Of the provider, re-asks included."""
        return sum(self.calls_by_minute)

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
    """Runs some days under one control."""

    def __init__(self, drawn: Drawn, control: Control) -> None:
        self._drawn = drawn
        self._control = control
        self._chance = np.random.default_rng([drawn.seed, 10])
        known = drawn.world.keys
        count = int(drawn.keys.max(initial=known - 1)) + 1
        self.state = new_state(count)
        self._answers = Answers(drawn.changes, drawn.first, drawn.rates, 1 - (1 - drawn.noises) ** 0.5)
        self._shares = drawn.shares
        self.outcome = Outcome()
        self._short = np.random.default_rng([drawn.seed, 11]).integers(2**48, size=count)
        self._weights: Counter[int] = Counter()
        self._heavy = np.zeros(count, dtype=bool)

    def run(self) -> Outcome:
        times, keys = self._drawn.times, self._drawn.keys
        minutes = int(self._drawn.world.hours * 60)
        bounds = times.searchsorted([minute * MINUTE for minute in range(minutes + 1)])
        for minute in range(minutes):
            part = slice(bounds[minute], bounds[minute + 1])
            self._minute(times[part], keys[part], (minute + 1) * MINUTE)
        return self.outcome

    def _minute(self, times: Floats, keys: NDArray[np.int64], end: float) -> None:
        control, outcome = self._control, self.outcome
        found, verdicts = np.zeros(len(times), dtype=bool), np.empty((len(times), 6))
        ttl = control.ttl
        mode, ttls, policy = ONE, np.array([ttl]), NO_POLICY
        if control.ttls is not None:
            mode, ttls = BY_KEY, control.ttls
        elif control.question is not None and ttl:
            mode, policy = QUESTION, Published.of(control.question)
        stale, calls, re_asks, compared, kept_seconds = run_minute(
            times,
            keys,
            self._chance.random(len(times)),
            mode,
            ttls,
            policy,
            control.samples,
            START,
            self._answers,
            self.state,
            found,
            verdicts,
        )
        outcome.byte_seconds += SIZE * kept_seconds
        outcome.ttls.append(ttl)
        if mode == QUESTION:
            ttl = usual_ttl(policy, self.state, self._shares, START + end)
        outcome.usual_ttls.append(ttl)
        outcome.hits_by_minute.append(int(found.sum()))
        outcome.stale_by_minute.append(stale)
        outcome.looked_up_by_minute.append(len(times))
        outcome.calls_by_minute.append(calls + re_asks)
        outcome.re_asks_by_minute.append(re_asks)
        seen = Seen(START + end, len(times), [], [])
        if control.samples:
            seen.accesses = self._sampled(times, keys, found)
            seen.verdicts = self._compared(verdicts[:compared])
            outcome.sample_bytes += 48 * (len(seen.accesses) + len(seen.verdicts))
        control.each_minute(seen)

    def _compared(self, verdicts: Floats) -> list[Verdict]:
        return [
            Verdict(
                int(self._short[int(key)]),
                "simulated",
                fetched,
                again,
                changed > 0,
                int(hits),
                "re-ask" if re_asked else "refetch",
            )
            for key, fetched, again, changed, hits, re_asked in verdicts.tolist()
        ]

    def _sampled(self, times: Floats, keys: NDArray[np.int64], found: NDArray[np.bool_]) -> list[Access]:
        """As cache/samples.py takes them: the heaviest keys, and of the others those with a small hash."""
        heavy, short = self._heavy[keys], self._short[keys]
        taken = heavy | (short < TAIL_THRESHOLD * 2**48)
        columns = short[taken], times[taken] + START, found[taken], heavy[taken]
        ttl = None if self._control.question is None else 0.0
        accesses = [
            Access(key, "", at, hit, SIZE * hit, DOLLARS * hit, 1.0 if exact else TAIL_THRESHOLD, ttl)
            for key, at, hit, exact in zip(*(column.tolist() for column in columns), strict=True)
        ]
        self._weights.update(keys.tolist())
        heaviest = self._weights.most_common(4 * HEAVY)
        self._heavy[:] = False
        self._heavy[[key for key, count in heaviest[:HEAVY] if count > 1]] = True
        self._weights = Counter({key: count // 2 for key, count in self._weights.items() if count > 1})
        return accesses
