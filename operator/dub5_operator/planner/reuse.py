"""What each TTL would have saved, by replaying recorded look-ups.

All candidate TTLs are replayed at once, in `Reuse`: a miniature simulation (Waldspurger, Saemundsson, Ahmad and Park,
"Cache modeling and optimization using miniature simulations", USENIX ATC 2017) of sampled keys (spatial hash sampling,
"Efficient MRC construction with SHARDS", FAST 2015). No law of popularity is assumed.

a. Candidates lie on a logarithmic grid, a factor `STEP` apart.
b. For each sampled key and each candidate one number is kept: when the answer that this TTL would hold was fetched. A
   look-up finds its age; past the TTL a provider is called, past TTL and stale-while-revalidate it is a miss as well.
c. A look-up counts `1 / threshold`, the inverse of its probability to be recorded; those of the heavy stratum count 1.
d. The others are weighted once more, by how many they should stand for, all counted less the heavy ones, over how many
   they do: a ratio estimate (Cochran, "Sampling Techniques", 1977, ch. 6). SHARDS takes what is lacking for hits of
   popular keys; those are counted exactly here, and with a short TTL what is lacking is mostly misses.
e. A miss that the TTL of its time does not explain was a purge, an eviction or a request for a new answer: it is a miss
   under every TTL. One that has joined another's call is a hit. Replicas say by which TTL they judged, and what joined;
   of one that does not, a miss has joined that follows another within a call's time, or a TTL where that is shorter.
f. A key that is first recorded with a hit was there before: it begins its replay and is not counted.
g. Sums fade, each with the half-life `max(HALF_LIFE, 4 TTL)`, so that they follow the day, and a long TTL is judged by
   a long time.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dub5_operator.planner.keys import Keys
from dub5_operator.planner.samples import Lookups
from dub5_operator.planner.state import ROUNDED, State, check

Floats = NDArray[np.float64]

LATEST = 300.0
"""Seconds by which one replica tells of look-ups later than another, at most; a fetch that is farther ahead is of a
clock that was set back."""
LONGEST_AGO = 2 * 86400.0
"""Seconds since a sample was taken, at most: none is kept for so long, not by a release before this one either."""
STEP = 1.6
"""Factor between two candidates."""
HALF_LIFE = 1800.0
"""Seconds; the shortest."""
FLIGHT = 10.0
"""Seconds within which a second miss may have joined the first one's call."""
TICK = 1 / 64
"""Seconds: what the replay's times are whole numbers of."""
LONGEST_REPLAY = 2.0**31 * TICK
"""Seconds, a year: a replay that is older begins anew, before its times have more than 32 bits."""
MOST_KEYS = 16_384
"""Keys replayed; above, those that were not asked for the longest are forgotten."""

_NOTHING = 1e-100
"""Look-ups, faded: fewer are none."""
_CALLS, _HITS, _AGE, _SPENT, _BYTES, _WEIGHT, _DOLLARS, _REALLY_HIT, _ELAPSED = range(9)
_PLAIN, _BEGINS, _JOINED, _UNEXPLAINED = range(4)


@dataclass(frozen=True, slots=True)
class Curve:
    """By candidate TTL, rates per second: `dollars` spent on calls, of `dollars_uncached`; `bytes` held on average.

    `mean_age` is of a hit, in seconds. `measured` is the hit ratio that the cache really had. `seen` is how many
    look-ups the sums stand for, `window` for how long, in seconds; `looked_up` is their rate. `size` is that of an
    answer, in bytes, each counted as often as it would be fetched under the shortest TTL; 0 where none is known.
    """

    ttls: Floats
    hit_ratio: Floats
    mean_age: Floats
    dollars: Floats
    dollars_uncached: Floats
    bytes: Floats
    measured: Floats
    seen: float
    window: float
    looked_up: float
    size: float

    def at(self, column: Floats, ttls: Floats) -> Floats:
        """Between candidates: linear in the logarithm of the TTL."""
        return np.interp(np.log(ttls), np.log(self.ttls), column)


def candidates(shortest: float, longest: float) -> Floats:
    """Step a: at least two, the ends among them."""
    steps = max(1, math.ceil(math.log(max(longest / shortest, STEP)) / math.log(STEP)))
    return np.geomspace(shortest, max(longest, shortest * STEP), steps + 1)


class Reuse:
    """One class. `swr_share` is its stale-while-revalidate as a part of its TTL. Times are seconds since the epoch; of
    keys they are kept as ticks since `_zero`, 0 standing for never."""

    def __init__(self, shortest: float, longest: float, swr_share: float) -> None:
        self.ttls = candidates(shortest, longest)
        self._lives = self.ttls * (1 + swr_share)
        self._half_lives = np.maximum(HALF_LIFE, 4 * self.ttls)
        self._away = (0.0, 0.0)
        self._begin()

    def _begin(self) -> None:
        count = len(self.ttls)
        self._sums = np.zeros((9, count))
        self._others = np.zeros(2)  # look-ups outside the heavy stratum, faded: counted, and as recorded
        self._keys = Keys()
        self._asked = array("I")
        self._missed = array("I")
        self._fetched = np.zeros((0, count), dtype=np.uint32)
        self._known = np.zeros((0, 2), dtype=np.float32)  # bytes and dollars of each key's last answer
        self._typical = np.zeros(3)  # known answers, faded: count, bytes, dollars
        self._seen = 0.0
        self._began: float | None = None
        self._zero = 0.0
        self._faded = 0.0

    def fold(self, lookups: Floats, looked_up: float | None, ttl_in_force: float, now: float) -> None:
        """Replay look-ups, as `Lookups.columns` has them; `looked_up` of them were counted in all, recorded or not
        (None: not counted)."""
        if self._began is not None and now > self._zero + LONGEST_REPLAY:
            self._begin()
        if lookups.size and not self._faded:
            self._faded = min(float(lookups[Lookups.AT].min()), now)
        self._fade(now)
        if not lookups.size:
            return
        at = lookups[Lookups.AT]
        if (at[1:] < at[:-1]).any():
            lookups = lookups[:, np.argsort(at, kind="stable")]
            at = lookups[Lookups.AT]
        if self._began is None:
            self._began = float(at[0])
            self._zero = self._began - LONGEST_AGO
        ticks = np.maximum(np.rint((at - self._zero) / TICK), 1.0).astype(np.uint32)
        weights = self._weighted(1 / lookups[Lookups.THRESHOLD], looked_up)
        rows, turns, kinds = self._sort_out(lookups, ticks.tolist(), ttl_in_force)
        self._value(rows, lookups)
        self._replay(rows, lookups[Lookups.HIT], weights, ticks, kinds, _split(turns))
        self._seen += len(at)

    def away(self, since: float, until: float) -> None:
        """Nobody read in between, so that nothing was recorded: that time does not count."""
        self._away = (since, until)
        if self._began is not None:
            self._began += max(0.0, until - max(since, self._began))

    def _weighted(self, weights: Floats, looked_up: float | None) -> Floats:
        """Steps c and d."""
        others = weights > 1
        if looked_up is not None and others.any():
            heavy = len(weights) - int(others.sum())
            self._others += (max(looked_up - heavy, 0.0), weights[others].sum())
        counted, recorded = self._others
        share = float(np.clip(counted / recorded, 0.5, 2.0)) if recorded > 0 else 1.0
        return np.where(others, share * weights, weights)

    def _passed(self, now: float) -> float:
        """Seconds since this was called for, less those in which nobody read."""
        if not self._faded or now <= self._faded:
            return 0.0
        since, until = self._away
        return now - self._faded - max(0.0, min(now, until) - max(self._faded, since))

    def _fade(self, now: float) -> None:
        passed = self._passed(now)
        if passed:
            self._sums *= 0.5 ** (passed / self._half_lives)
            self._typical *= 0.5 ** (passed / HALF_LIFE)
            self._others *= 0.5 ** (passed / HALF_LIFE)
            self._sums[_ELAPSED] += passed
        self._faded = max(self._faded, now)

    def _sort_out(
        self, lookups: Floats, ticks: Sequence[int], ttl_in_force: float
    ) -> tuple[NDArray[np.int64], list[int], NDArray[np.int64]]:
        """Where each look-up's key is kept, which of its key's look-ups in this batch it is, and of which kind."""
        before = len(self._keys)
        rows = self._keys.rows(lookups[Lookups.KEY].astype(np.int64))
        self._make_room(len(self._keys))
        asked, missed = self._asked, self._missed
        hit, judged_by, joined = lookups[Lookups.HIT], lookups[Lookups.TTL], lookups[Lookups.JOINED]
        ttls = np.where(np.isnan(judged_by), ttl_in_force, judged_by)
        turns, kinds = [], []
        counted: dict[int, int] = {}
        for row, tick, was_hit, ttl, has_joined in zip(
            rows.tolist(), ticks, hit.tolist(), ttls.tolist(), joined.tolist(), strict=True
        ):
            kind = _PLAIN
            if was_hit:
                if row >= before and row not in counted:
                    kind = _BEGINS
            else:
                since = (tick - missed[row]) * TICK if missed[row] else math.inf
                if since <= min(FLIGHT, ttl) if math.isnan(has_joined) else has_joined:
                    kind = _JOINED
                else:
                    if since < 0.9 * ttl:
                        kind = _UNEXPLAINED
                    missed[row] = tick
            asked[row] = tick
            kinds.append(kind)
            turn = counted.get(row, 0)
            counted[row] = turn + 1
            turns.append(turn)
        return rows, turns, np.array(kinds)

    def _make_room(self, needed: int) -> None:
        have = len(self._fetched)
        if needed > have:
            more = max(needed, have + have // 8, 16) - have
            self._asked.extend([0] * more)
            self._missed.extend([0] * more)
            self._fetched = np.vstack([self._fetched, np.zeros((more, len(self.ttls)), dtype=np.uint32)])
            self._known = np.vstack([self._known, np.zeros((more, 2), dtype=np.float32)])

    def forget(self) -> None:
        """Drop what was not asked for the longest, where there is too much."""
        if len(self._keys) > MOST_KEYS:
            rows = self._latest(MOST_KEYS // 2)
            asked, missed, fetched, known = self._columns()
            keys = self._keys.by_row()[rows]
            self._take(keys, asked[rows], missed[rows], fetched[rows], known[rows])

    def _latest(self, most: int) -> NDArray[np.int64]:
        """Rows of the keys that were asked for last, in their order."""
        asked = np.array(self._asked)[: len(self._keys)]
        return np.sort(np.argsort(-asked.astype(np.int64), kind="stable")[:most])

    def _columns(
        self,
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]:
        asked, missed = (np.array(each, dtype=np.uint32) for each in (self._asked, self._missed))
        return asked, missed, self._fetched, self._known

    def _take(
        self,
        keys: NDArray[np.int64],
        asked: NDArray[np.uint32],
        missed: NDArray[np.uint32],
        fetched: NDArray[np.uint32],
        known: NDArray[np.float32],
    ) -> None:
        self._keys = Keys(keys)
        self._asked, self._missed = array("I", asked.tolist()), array("I", missed.tolist())
        self._fetched, self._known = fetched.copy(), known.copy()

    def state(self, most: int) -> State:
        """What there is, with at most so many keys: those that were asked for last."""
        rows = self._latest(most)
        asked, missed, fetched, known = (each[rows] for each in self._columns())
        began = math.nan if self._began is None else self._began
        return {
            "ttls": self.ttls,
            "lives": self._lives,
            "sums": self._sums.copy(),
            "others": self._others,
            "typical": self._typical,
            "scalars": np.array([self._seen, began, self._zero, self._faded]),
            "keys": self._keys.by_row()[rows],
            "asked": asked,
            "missed": missed,
            # Neighbours have mostly the same: differences are mostly 0.
            "fetched": np.diff(fetched, axis=1, prepend=np.zeros((len(rows), 1), dtype=np.uint32)),
            "known": known,
        }

    def restore(self, state: State) -> bool:
        """Go on from there; False where it is of another shape, and not taken. ValueError where it cannot be true."""
        if not (_same(state["ttls"], self.ttls) and _same(state["lives"], self._lives)):
            return False
        columns, keys = len(self.ttls), state["keys"].size
        check(state, "sums", np.float64, (9, columns))
        sums = state["sums"]
        wholes = (1 + ROUNDED) * sums[[_WEIGHT, _WEIGHT, _WEIGHT, _DOLLARS]]
        if (sums[[_CALLS, _HITS, _REALLY_HIT, _SPENT]] > wholes).any():
            raise ValueError("sums of shares that cannot be")
        for name, length in (("others", 2), ("typical", 3), ("scalars", 4)):
            check(state, name, np.float64, (length,), finite=name != "scalars")
        check(state, "keys", np.int64, (keys,))
        for name in ("asked", "missed"):
            check(state, name, np.uint32, (keys,))
        check(state, "fetched", np.uint32, (keys, columns))
        check(state, "known", np.float32, (keys, 2))
        seen, began, zero, faded = state["scalars"].tolist()
        if len(np.unique(state["keys"])) != keys or keys > MOST_KEYS:
            raise ValueError("keys that cannot be")
        if not all(0 <= each < 1e15 for each in (seen, zero, faded)) or not (
            math.isnan(began) or began >= zero
        ):
            raise ValueError("times that cannot be")
        self._sums = sums.copy()
        self._others, self._typical = state["others"].copy(), state["typical"].copy()
        self._seen, self._zero, self._faded = seen, zero, faded
        self._began = None if math.isnan(began) else began
        fetched = np.cumsum(state["fetched"], axis=1, dtype=np.uint32)
        self._take(state["keys"], state["asked"], state["missed"], fetched, state["known"])
        return True

    def _value(self, rows: NDArray[np.int64], lookups: Floats) -> None:
        """Learn what an answer weighs and costs from hits; a miss does not know yet."""
        known = lookups[Lookups.SIZE] > 0
        worth = lookups[Lookups.SIZE : Lookups.DOLLARS + 1, known].T
        self._known[rows[known]] = worth
        self._typical += (len(worth), *worth.sum(axis=0))

    def _replay(
        self,
        rows: NDArray[np.int64],
        hit: Floats,
        weights: Floats,
        ticks: NDArray[np.uint32],
        kinds: NDArray[np.int64],
        turns: list[NDArray[np.int64]],
    ) -> None:
        """Steps b, c, e and f. In a turn no key comes twice."""
        ttls = self.ttls
        ages = np.empty((len(rows), len(ttls)))
        calls = np.empty(ages.shape, dtype=bool)
        unexplained = kinds == _UNEXPLAINED
        for turn in turns:
            held, now = self._fetched[rows[turn]], ticks[turn, None]
            held[unexplained[turn]] = 0
            age = np.subtract(now, held, dtype=np.float64)
            age *= TICK
            age[(held == 0) | (age < -LATEST)] = math.inf
            # What another replica fetched after this look-up may have been told of before it.
            np.maximum(age, 0.0, out=age)
            called = age >= ttls
            np.copyto(held, now, where=called)
            ages[turn], calls[turn], self._fetched[rows[turn]] = age, called, held
        weight = np.where(kinds == _BEGINS, 0.0, weights)
        size, dollars = self._worth(rows)
        served = ages < self._lives
        sums = self._sums
        sums[[_CALLS, _SPENT, _BYTES]] += np.stack([weight, weight * dollars, weight * size]) @ calls
        sums[_HITS] += weight @ served
        ages[~served] = 0.0
        sums[_AGE] += weight @ ages
        really_hit = weight @ ((hit > 0) | (kinds == _JOINED))
        sums[[_WEIGHT, _DOLLARS, _REALLY_HIT]] += np.array([[weight.sum()], [weight @ dollars], [really_hit]])

    def _worth(self, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Bytes and dollars of each look-up's answer; the usual where they are not known."""
        known = self._known[rows]
        count, size, dollars = self._typical
        usual = (size / count, dollars / count) if count > 0 else (0.0, 0.0)
        is_known = known[:, 0] > 0
        return np.where(is_known, known[:, 0], usual[0]), np.where(is_known, known[:, 1], usual[1])

    def curve(self, now: float) -> Curve | None:
        """As of `now`; None before there is anything to say."""
        sums = self._sums
        # As if it had faded until now: a share is not changed by that, a rate is.
        passed = self._passed(now)
        kept = 0.5 ** (passed / self._half_lives)
        # A short TTL's sums have faded to nothing weeks before a long one's.
        if self._began is None or (kept * sums[_WEIGHT]).min() < _NOTHING:
            return None
        rate = kept / np.maximum(kept * sums[_ELAPSED] + passed, 1.0)
        return Curve(
            ttls=self.ttls,
            hit_ratio=np.maximum.accumulate(sums[_HITS] / sums[_WEIGHT]),
            mean_age=sums[_AGE] / np.maximum(sums[_HITS], 1e-9),
            dollars=sums[_SPENT] * rate,
            dollars_uncached=sums[_DOLLARS] * rate,
            bytes=sums[_BYTES] * self._lives * rate,
            measured=sums[_REALLY_HIT] / sums[_WEIGHT],
            seen=self._seen,
            window=max(0.0, now - self._began),
            looked_up=float((sums[_WEIGHT] * rate)[0]),
            size=float(sums[_BYTES, 0] / sums[_CALLS, 0]) if sums[_CALLS, 0] > 0 else 0.0,
        )


def _same(one: NDArray[Any], other: Floats) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


def _split(turns: list[int]) -> list[NDArray[np.int64]]:
    """Positions by turn."""
    numbers = np.array(turns)
    return np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
