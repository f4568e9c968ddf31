"""Which TTL, and why.

1. Candidates lie a fiftieth apart, inside `[min, longest]`.
2. Of a candidate: stale share of hits `1 - exp(-rate_upper * mean age of a hit)`, an upper bound twice over, as the
   rate is one and, the function being concave, the mean age is another; saving, dollars of calls avoided less those of
   memory; bytes.
3. The stale share must be under `AIM` of the budget: whoever aims at the budget passes it half the time by chance.
   Where all that changed may be noise, the best estimate is enough up to `initial`: the bound alone would make the TTL
   shorter, a shorter TTL shows less of drift, and the bound would widen.
   Bytes must be within the share of memory, and the TTL at most a quarter of the time that was watched.
4. Of what is left the largest saving, and of those within `CLOSE` of it the shortest TTL.
5. What kept it from being longer is what it is bound by.
6. Steps: at most a factor `max_factor` at a time; up only where the gain is above the hysteresis; down only where the
   stale share has come above `PAIN` of the budget.
7. Where not even the minimum is within the budget, `on_infeasible` says what to do.
8. Where the data do not suffice the TTL stays.

The shape of it, an analytic answer approached in bounded steps, is there because feedback on a TTL comes a TTL late:
raw stochastic approximation (d-TTL: Basu, Sundarrajan, Ghaderi, Shakkottai and Sitaraman, "Adaptive TTL-based caching
for content delivery", SIGMETRICS 2017) overshoots where its step is large and creeps where it is small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dub5_operator.planner.drift import DriftEstimate
from dub5_operator.planner.reuse import Curve, Floats

AIM = 0.85
PAIN = 0.92
CLOSE = 0.001
ENOUGH_LOOKUPS = 200
ENOUGH_COMPARISONS = 100
WATCHED = 4.0
"""A TTL needs to be watched for this many of it."""

BoundBy = Literal["Staleness", "Memory", "Cost", "Bounds", "Data"]
OnInfeasible = Literal["Min", "Bypass"]

_BETWEEN = 24
_GIB = 2.0**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the policy and the class allow. Seconds, bytes, dollars per GiB and hour; `budget` a share of hits.

    `initial` is the TTL for as long as nothing is known."""

    shortest: float
    longest: float
    budget: float
    initial: float
    memory: float | None = None
    memory_price: float = 0.0
    max_factor: float = 2.0
    hysteresis: float = 0.01
    on_infeasible: OnInfeasible = "Min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`ttl` is to be in force now, `recommended` where it is going. Shares are of hits, as predicted for `ttl`.

    `stale` is the best estimate, `stale_upper` the bound. `saving` is in dollars per hour, of `recommended`.
    """

    ttl: float
    recommended: float
    bound_by: BoundBy
    sufficient: bool
    within_budget: bool
    reason: str
    hit_ratio: float = math.nan
    measured_hit_ratio: float = math.nan
    stale: float = math.nan
    stale_upper: float = math.nan
    saving: float = math.nan
    bytes: float = math.nan


def decide(curve: Curve | None, drift: DriftEstimate, limits: Limits, current: float) -> Decision:
    """Pure; `current` is the TTL in force, in seconds; 0 where answers are not cached."""
    inside = min(max(current, limits.shortest), max(limits.longest, limits.shortest))
    lacking = _lacking(curve, drift)
    if curve is None or lacking is not None:
        kept = _told(curve, drift, current or inside, inside) if current else {}
        return Decision(
            ttl=inside if current else 0.0,
            recommended=inside,
            bound_by="Data",
            sufficient=False,
            within_budget=True,
            reason=lacking or "no look-ups yet",
            **kept,
        )
    sight = _Sight(curve, drift, limits)
    if sight.stale(limits.shortest) > limits.budget and drift.significant:
        return _infeasible(sight, inside)
    best, bound_by = _best(sight, inside)
    moved, why = _step(sight, inside, best)
    if not drift.significant and sight.stale(best) > limits.budget:
        why = "what changed may be noise; not enough to tell"
        return _decision(sight, moved, best, "Data", why, sufficient=False)
    return _decision(sight, moved, best, bound_by, why, sufficient=True)


def kept(decision: Decision, curve: Curve | None, drift: DriftEstimate, ttl: float) -> Decision:
    """The decision where nobody follows it: all shares are of `ttl`, which stays in force; the saving is still that of
    what is recommended."""
    told = _told(curve, drift, ttl, decision.recommended)
    told.pop("saving", None)
    return replace(decision, ttl=ttl, **told)


def _lacking(curve: Curve | None, drift: DriftEstimate) -> str | None:
    if curve is None or curve.seen < ENOUGH_LOOKUPS:
        seen = 0 if curve is None else int(curve.seen)
        return f"{seen} look-ups seen, {ENOUGH_LOOKUPS} are needed"
    if drift.observations < ENOUGH_COMPARISONS:
        return f"{drift.observations:.0f} answers compared, {ENOUGH_COMPARISONS} are needed"
    if drift.only_noise:
        return (
            f"{drift.noise:.0%} of new answers differ whatever their age: a change cannot be told from chance"
        )
    return None


class _Sight:
    """What is known of a TTL."""

    def __init__(self, curve: Curve, drift: DriftEstimate, limits: Limits) -> None:
        self.curve, self.drift, self.limits = curve, drift, limits
        self._relative_age = curve.mean_age / curve.ttls

    def ages(self, ttls: Floats) -> Floats:
        """Mean age of a hit."""
        return self.curve.at(self._relative_age, ttls) * ttls

    def stales(self, ttls: Floats, rate: float | None = None) -> Floats:
        return -np.expm1(-(self.drift.upper if rate is None else rate) * self.ages(ttls))

    def savings(self, ttls: Floats) -> Floats:
        """Dollars per hour."""
        curve = self.curve
        avoided = (curve.at(curve.dollars_uncached, ttls) - curve.at(curve.dollars, ttls)) * 3600
        return avoided - self.limits.memory_price * self.bytes(ttls) / _GIB

    def bytes(self, ttls: Floats) -> Floats:
        return self.curve.at(self.curve.bytes, ttls)

    def stale(self, ttl: float, rate: float | None = None) -> float:
        return float(self.stales(np.array([ttl]), rate)[0])

    def saving(self, ttl: float) -> float:
        return float(self.savings(np.array([ttl]))[0])

    def one(self, column: Floats, ttl: float) -> float:
        return float(self.curve.at(column, np.array([ttl]))[0])


def _best(sight: _Sight, current: float) -> tuple[float, BoundBy]:
    """Steps 1 to 5."""
    limits, curve = sight.limits, sight.curve
    # What is in force already is not taken back for want of watching: the operator may have begun anew.
    watched = max(curve.window / WATCHED, current, limits.shortest)
    tried = _tried(limits.shortest, max(limits.longest, limits.shortest))
    fresh = sight.stales(tried) <= AIM * limits.budget
    if not sight.drift.significant:
        likely_fresh = sight.stales(tried, sight.drift.rate) <= AIM * limits.budget
        fresh |= likely_fresh & (tried <= limits.initial)
    allowed: dict[BoundBy, NDArray[np.bool_]] = {
        "Staleness": fresh,
        "Memory": sight.bytes(tried) <= (math.inf if limits.memory is None else limits.memory),
        "Data": tried <= watched * (1 + 1e-9),
    }
    ends = {name: _last(fine) for name, fine in allowed.items()}
    end = min(ends.values())
    if end < 0:
        return float(tried[0]), "Bounds"  # not even the shortest: nothing shorter may be chosen
    saving = sight.savings(tried[: end + 1])
    enough = saving.max() - CLOSE * abs(saving.max())
    best = int(np.argmax(saving >= enough))
    if tried[best] < tried[end] / 1.25:
        return float(tried[best]), "Cost"
    if end == len(tried) - 1:
        return float(tried[end]), "Bounds"
    return float(tried[end]), min(ends, key=lambda name: ends[name])


def _tried(shortest: float, longest: float) -> Floats:
    if longest <= shortest:
        return np.array([shortest])
    steps = max(1, math.ceil(math.log(longest / shortest) / math.log(1.6) * _BETWEEN))
    return np.geomspace(shortest, longest, steps + 1)


def _last(fine: NDArray[np.bool_]) -> int:
    """The last of the leading candidates that are fine; -1: not even the first."""
    return int(len(fine) if fine.all() else np.argmin(fine)) - 1


def _step(sight: _Sight, current: float, best: float) -> tuple[float, str]:
    """Step 6."""
    limits = sight.limits
    if best < current and sight.stale(current) <= PAIN * limits.budget and _within_memory(sight, current):
        return current, "what a shorter TTL would gain is not worth a move"
    gain = sight.saving(best) - sight.saving(current)
    if best > current and gain <= limits.hysteresis * abs(sight.saving(current)) and best < current * 1.25:
        return current, "what a longer TTL would gain is not worth a move"
    moved = min(max(best, current / limits.max_factor), current * limits.max_factor)
    return moved, "on its way" if moved != best else "there"


def _within_memory(sight: _Sight, ttl: float) -> bool:
    memory = sight.limits.memory
    return memory is None or sight.one(sight.curve.bytes, ttl) <= memory


def _infeasible(sight: _Sight, current: float) -> Decision:
    """Step 7."""
    limits = sight.limits
    bypass = limits.on_infeasible == "Bypass"
    target = 0.0 if bypass else limits.shortest
    moved = max(limits.shortest, current / limits.max_factor)
    ttl = 0.0 if bypass and moved <= limits.shortest else moved
    share = sight.stale(limits.shortest, sight.drift.rate)
    reason = f"at ttl.min {share:.1%} of hits would be stale"
    return _decision(sight, ttl, target, "Bounds", reason, sufficient=True, within_budget=False)


def _decision(
    sight: _Sight,
    ttl: float,
    recommended: float,
    bound_by: BoundBy,
    reason: str,
    *,
    sufficient: bool,
    within_budget: bool = True,
) -> Decision:
    return Decision(
        ttl=ttl,
        recommended=recommended,
        bound_by=bound_by,
        sufficient=sufficient,
        within_budget=within_budget,
        reason=reason,
        **_told(sight.curve, sight.drift, ttl, recommended, sight),
    )


def _told(
    curve: Curve | None, drift: DriftEstimate, ttl: float, recommended: float, sight: _Sight | None = None
) -> dict[str, Any]:
    """What a TTL is predicted to do. Nothing is hit, and nothing stale, where nothing is cached."""
    if curve is None:
        return {}
    sight = sight or _Sight(curve, drift, Limits(shortest=1.0, longest=1.0, budget=1.0, initial=1.0))
    if not ttl:
        return {"hit_ratio": 0.0, "stale": 0.0, "stale_upper": 0.0, "saving": 0.0, "bytes": 0.0}
    return {
        "hit_ratio": sight.one(curve.hit_ratio, ttl),
        "measured_hit_ratio": sight.one(curve.measured, ttl),
        "stale": sight.stale(ttl, drift.rate),
        "stale_upper": sight.stale(ttl),
        "saving": sight.saving(recommended) if recommended else 0.0,
        "bytes": sight.one(curve.bytes, ttl),
    }
