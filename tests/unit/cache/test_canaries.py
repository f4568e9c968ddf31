"""Which hits are asked again to measure how many are stale."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.cache.canaries import Canaries


@given(
    share=st.sampled_from([0.001, 0.01]),
    came=st.lists(st.tuples(st.sampled_from(["call", "hit", "fade"]), st.integers(1, 3000)), max_size=30),
    seed=st.integers(0, 99),
    changed=st.booleans(),
)
def test_they_never_take_more_than_their_share_whatever_comes(
    share: float, came: list[tuple[str, int]], seed: int, changed: bool
) -> None:
    canaries, chance = Canaries(), random.Random(seed)
    calls = spent = 0
    for what, count in came:
        for _ in range(count):
            if what == "call":
                calls += 1
                canaries.called("a", share)
            elif what == "fade":
                canaries.fade(60)
            elif canaries.draw("a", share, chance.random()):
                spent += 1 + canaries.check("a", chance.random(), changed=changed)
            assert spent <= share * calls + 1e-6


def test_each_hit_counts_once_by_weight_however_the_hit_ratio_moves() -> None:
    canaries, chance = Canaries(), random.Random(1)
    hits = weighed = drawn = calls = spent = 0.0
    for number in range(400_000):
        if chance.random() < (0.2 if number // 40_000 % 2 else 0.6):
            canaries.called("a", 0.01)
            calls += 1
            continue
        hits += 1
        weight = canaries.draw("a", 0.01, chance.random())
        if weight:
            weighed, drawn = weighed + weight, drawn + 1
            spent += 1 + canaries.check("a", chance.random(), changed=False)
    assert spent > 0.75 * 0.01 * calls  # most of what may be spent, though most cost one call
    assert weighed == pytest.approx(hits, rel=0.15)  # three standard deviations


def test_classes_have_accounts_of_their_own_and_nothing_is_free() -> None:
    canaries = Canaries()
    for _ in range(1000):
        canaries.called("a", 0.01)
    assert canaries.draw("b", 0.01, 0.0) == 0
    assert canaries.draw("a", 0.0, 0.0) == 0
    assert canaries.draw("a", 0.01, 0.0) > 0
