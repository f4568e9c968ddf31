"""What benchmarks.adaptive_ttl.world draws is what its worlds are named for."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.adaptive_ttl.world import DAY, HOUR, START, Drawn, World, draw


def hours_of(drawn: Drawn) -> np.ndarray:
    """Of the day, UTC, of all changes."""
    at = drawn.changes[np.isfinite(drawn.changes)]
    return (START + at) % DAY / HOUR


def test_each_question_has_its_own_changes() -> None:
    drawn = draw(World("lognormal 2", hours=6), 1)
    assert len(drawn.first) == 2001
    for key in (0, 7, 1999):
        changes = drawn.changes_of(key)
        assert changes == sorted(changes)
        assert changes[-1] == np.inf
        assert np.isfinite(changes[:-1]).all()
    seen = np.diff(drawn.first) - 1
    assert np.corrcoef(seen, drawn.rates)[0, 1] > 0.9


def test_a_restless_world_has_one_offs_and_moving_ranks() -> None:
    drawn = draw(World("1/h", zipf=1.0, hours=24, restless=True), 1)
    once = drawn.keys[drawn.keys >= 2000]
    assert len(set(once.tolist())) == len(once)
    assert 0.15 < len(once) / len(drawn.keys) < 0.30
    assert (np.diff(drawn.times) >= 0).all()
    assert drawn.popularity.shape == (4, 2000)
    moved = drawn.popularity[0] != drawn.popularity[1]
    assert 150 < moved.sum() <= 200
    for part in (0, 3):
        asked = drawn.keys[drawn.times // (6 * HOUR) == part]
        most = np.bincount(asked[asked < 2000], minlength=2000).argmax()
        assert most == drawn.popularity[part].argmax()


@pytest.mark.parametrize(
    ("world", "begins", "ends"),
    [
        (World("1/h", pace="office"), 9, 17.02),
        (World("none", batch=0.5), 3, 3.1),
        (World("1/day", pace="storm", hours=40), 1.7, 4.8),  # 36 h after 13:47
    ],
)
def test_answers_change_at_their_hours(world: World, begins: float, ends: float) -> None:
    hours = hours_of(draw(world, 1))
    assert len(hours) > 900
    assert begins <= hours.min()
    assert hours.max() <= ends


def test_a_document_changes_all_its_answers_at_once() -> None:
    drawn = draw(World("1/h", documents=5), 1)
    assert drawn.changes_of(3) == drawn.changes_of(1998)
    assert drawn.changes_of(3) != drawn.changes_of(4)


def test_a_share_of_the_questions_is_always_reworded() -> None:
    noises = draw(World("1/h", hours=1, reworded=0.1), 1).noises
    assert set(noises.tolist()) == {0.0, 1.0}
    assert 0.07 < noises.mean() < 0.13
