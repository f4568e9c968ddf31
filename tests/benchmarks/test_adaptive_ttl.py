"""The planner in the worlds of benchmarks.adaptive_ttl, for hours instead of days."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.adaptive_ttl.cache import Cache
from benchmarks.adaptive_ttl.controls import Planned
from benchmarks.adaptive_ttl.world import World, draw


def day(world: World, seed: int = 1, **options: Any) -> tuple[Cache, Planned]:
    ours = Planned(**options)
    cache = Cache(draw(world, seed), ours)
    cache.run()
    return cache, ours


def test_the_same_samples_give_the_same_ttl() -> None:
    world = World("1/h", hours=0.5)
    assert day(world)[0].outcome.ttls == day(world)[0].outcome.ttls


def test_in_a_few_hours_the_ttl_finds_its_budget() -> None:
    """A short form of the report's table."""
    cache, ours = day(World("1/h", hours=5))
    last = ours.decisions[-1]
    assert 35 < cache.outcome.ttls[-1] < 80  # one that knows would take 62 s
    assert last.bound_by == "Staleness"
    assert cache.outcome.stale_share_from(120) < 0.0125
    assert abs(last.hit_ratio - last.measured_hit_ratio) < 0.05
    assert cache.outcome.re_asks <= 0.0101 * cache.outcome.calls


def test_noise_alone_keeps_the_ttl_and_says_so() -> None:
    _, ours = day(World("none", noise=1.0, hours=2))
    last = ours.decisions[-1]
    assert last.ttl == 60
    assert not last.sufficient
    assert "cannot be told from chance" in last.reason


@pytest.mark.parametrize(("bypass", "ttl"), [(False, 60.0), (True, 0.0)])
def test_an_infeasible_budget_is_said(bypass: bool, ttl: float) -> None:
    cache, ours = day(World("1/10min", hours=3), shortest=60.0, bypass=bypass)
    assert not ours.decisions[-1].within_budget
    assert cache.outcome.ttls[-1] == ttl
