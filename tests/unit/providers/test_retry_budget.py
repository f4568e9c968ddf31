"""At most a tenth of the calls are made again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dub5.providers.call import RETRIES_SAVED, RETRY_SHARE, RetryBudget


def test_ten_calls_earn_one() -> None:
    budget = RetryBudget()
    for _ in range(9):
        budget.calls += 1
        assert not budget.spend()
    budget.calls += 1
    assert budget.spend()
    assert not budget.spend()


def test_few_are_saved_up() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.calls += 1
    assert [budget.spend() for _ in range(int(RETRIES_SAVED) + 1)] == [True] * int(RETRIES_SAVED) + [False]


@given(st.lists(st.booleans(), max_size=500))
def test_the_share_holds_whatever_comes_when(events: list[bool]) -> None:
    budget, calls, retries = RetryBudget(), 0, 0
    for wanted in events:
        if wanted:
            retries += budget.spend()
        else:
            calls += 1
            budget.calls += 1
        assert retries <= RETRY_SHARE * calls + 1e-6
