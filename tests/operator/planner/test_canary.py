"""The stale share of hits, as canaries measure it."""

from __future__ import annotations

import numpy as np
import pytest

from dub5.contract import CANARIES_CHECKED, Canary
from dub5_operator.planner.canary import HALF_LIFE, LEAST, StaleShare

NOW = 1.7e9


def canary(*, changed: bool, reworded: bool | None = None, weight: float = 100.0) -> Canary:
    return Canary(1, "a", NOW - 60, NOW, weight, changed, reworded)


def drawn(count: int, *, stale: float, noisy: float, noise: float, seed: int) -> list[Canary]:
    """Of questions of which a share is `noisy`, and answered otherwise each time with the chance `noise`."""
    chance, found = np.random.default_rng(seed), []
    for _ in range(count):
        differs = noise if chance.random() < noisy else 0.0
        changed = bool(chance.random() < stale or chance.random() < differs)
        checked = changed or chance.random() < CANARIES_CHECKED
        reworded = bool(chance.random() < differs) if checked else None
        found.append(canary(changed=changed, reworded=reworded, weight=float(chance.choice([50, 150]))))
    return found


@pytest.mark.parametrize(("noisy", "noise"), [(0.0, 0.0), (1.0, 0.3), (0.5, 1.0), (0.1, 1.0)])
def test_noise_of_any_kind_is_told_from_staleness(noisy: float, noise: float) -> None:
    kept = 0
    for seed in range(20):
        share = StaleShare()
        share.fold(drawn(4000, stale=0.03, noisy=noisy, noise=noise, seed=seed), NOW)
        measured = share.measured()
        assert measured is not None
        kept += measured.lower <= 0.03 <= measured.upper
        assert measured.lower <= measured.share <= measured.upper
        assert measured.upper < 0.12
    assert kept >= 17  # of 95 % each


def test_few_canaries_say_little_and_fewer_nothing() -> None:
    share = StaleShare()
    share.fold([canary(changed=False)] * (int(LEAST) - 1), NOW)
    share.fold([canary(changed=False, reworded=False)], NOW - 1)
    measured = share.measured()
    assert measured is not None
    assert (measured.share, measured.lower, measured.asked) == (0.0, 0.0, LEAST)
    assert 0.1 < measured.upper < 0.3
    share.fold([], NOW + HALF_LIFE)
    assert share.measured() is None


def test_hits_count_by_the_weight_with_which_they_were_drawn() -> None:
    share = StaleShare()
    share.fold([canary(changed=False, reworded=False, weight=30.0)] * 100, NOW)
    share.fold([canary(changed=True, reworded=False, weight=10.0)] * 100, NOW)
    measured = share.measured()
    assert measured is not None
    assert measured.share == pytest.approx(0.25)
    assert measured.asked == pytest.approx(160)
    assert share.calls == 400


def test_where_all_is_noise_nothing_is_called_stale() -> None:
    share = StaleShare()
    share.fold([canary(changed=True, reworded=True)] * 100, NOW)
    measured = share.measured()
    assert measured is not None
    assert measured.share == 0.0


def test_it_goes_on_where_it_was() -> None:
    share, again = StaleShare(), StaleShare()
    share.fold(drawn(500, stale=0.1, noisy=0, noise=0, seed=1), NOW)
    again.restore(share.state())
    for each in (share, again):
        each.fold(drawn(500, stale=0.1, noisy=0, noise=0, seed=2), NOW + 60)
    assert again.measured() == share.measured()
    assert again.calls == share.calls


@pytest.mark.parametrize("damaged", [np.zeros(8), np.full(9, np.nan), np.full(9, -1.0), np.zeros((9, 2))])
def test_a_damaged_state_changes_nothing(damaged: np.ndarray) -> None:
    share = StaleShare()
    share.fold(drawn(500, stale=0.1, noisy=0, noise=0, seed=1), NOW)
    before = share.measured()
    for arrays in ({"canaries": damaged}, {}):
        with pytest.raises((KeyError, ValueError)):
            share.restore(arrays)
    assert share.measured() == before
