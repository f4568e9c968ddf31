"""What `benchmarks.cost` makes of its rounds."""

from __future__ import annotations

import random

import pytest

from benchmarks.cost.verdict import ratio

EVEN = [1.0] * 10


def test_equal_costs_are_a_ratio_of_one() -> None:
    found = ratio([2.0, 3.0, 2.5, 4.0, 2.2, 2.9], [2.0, 3.0, 2.5, 4.0, 2.2, 2.9])
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_one_disturbed_round_moves_little() -> None:
    found = ratio([1.02] * 9 + [3.0], EVEN)
    assert found.value == pytest.approx(1.02)
    assert found.low == pytest.approx(1.02)


@pytest.mark.parametrize(("rounds", "outside"), [(6, 0), (8, 3), (10, 8), (12, 13), (15, 25), (20, 52)])
def test_the_interval_is_wilcoxons(rounds: int, outside: int) -> None:
    """The critical values of the signed-rank test, two-sided 5 %, as tables have them."""
    logs = [2.0**number for number in range(rounds)]  # no two means alike
    means = sorted((one + other) / 2 for index, one in enumerate(logs) for other in logs[index:])
    found = ratio([1.0001**each for each in logs], [1.0] * rounds)
    assert found.low == pytest.approx(1.0001 ** means[outside])
    assert found.high == pytest.approx(1.0001 ** means[-1 - outside])


def test_it_holds_the_truth_in_95_of_100_runs() -> None:
    chance = random.Random(1)
    found = [ratio([chance.lognormvariate(0.02, 0.03) for _ in EVEN], EVEN) for _ in range(400)]
    held = sum(each.low <= 2.718281828**0.02 <= each.high for each in found)
    assert held >= 368  # 380 of them on average, within three standard deviations


def test_too_few_rounds_say_nothing() -> None:
    with pytest.raises(ValueError, match="at least 6 rounds"):
        ratio([1.0] * 5, [1.0] * 5)
