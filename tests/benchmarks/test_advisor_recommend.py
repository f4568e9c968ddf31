"""What a recommendation is judged by, in short: an hour of its own, and a best that nobody could know before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.advisor_recommend.__main__ import OBJECTIVE, SEEDS, SHAPES, best_of_grid, record_of
from dub5.advisor.search import Judged, Trial


class Made:
    """A bench on which costs and refusals are a rule."""

    def __init__(self, refused: Callable[[Trial], float]) -> None:
        self._refused = refused

    def judge(self, trial: Trial) -> Judged:
        cost = 100 / trial.choice.targetPercentage + trial.choice.minReplicas
        return Judged(cost, self._refused(trial), 0.0, 0.5, 5)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_hour_is_of_the_shape_and_of_a_chance_of_its_own(shape: str) -> None:
    record = record_of(shape, 2, seed=1)
    first, second = (each.requests for each in record.arrivals)
    assert (record.header.seconds, len(first), len(second)) == (7200.0, 3600, 3600)
    assert first != second
    assert sum(first) == pytest.approx(sum(second), rel=0.2)
    assert record_of(shape, 2, seed=2) != record


def test_the_best_of_the_grid_meets_the_objective_with_each_seed() -> None:
    def unlucky(trial: Trial) -> float:
        highest = 60 if trial.seed == SEEDS[-1] else 80
        return 0.0 if trial.choice.targetPercentage <= highest else 0.5

    best = best_of_grid(Made(unlucky))
    assert best is not None
    assert best.meets(OBJECTIVE)
    assert (best.choice.minReplicas, best.choice.targetPercentage) == (1, 60)
    assert best_of_grid(Made(lambda _: 0.5)) is None
