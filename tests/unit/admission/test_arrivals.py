"""One budget for all that arrives: who has to go, who never has to, and that all of it comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.admission.arrivals import SMALL_REQUEST, Arrivals, budget_of
from dub5.errors import Overloaded

KIB, MIB = 2**10, 2**20


class Stub:
    """A connection that writes down that it had to go."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals, self.charge, self.gone = arrivals, 0, False

    def give_way(self) -> None:
        self.gone = True

    def sends(self, size: int, *, incomplete: bool = True) -> Stub:
        self.arrivals.charge(self, size, incomplete=incomplete)
        return self


def test_the_largest_incomplete_request_goes_the_oldest_of_its_size_first() -> None:
    arrivals = Arrivals(100 * KIB)
    small, old, new = (Stub(arrivals) for _ in range(3))
    small.sends(10 * KIB)
    old.sends(40 * KIB)
    new.sends(45 * KIB)
    small.sends(20 * KIB)
    assert [each.gone for each in (small, old, new)] == [False, True, False]
    assert arrivals.used == 65 * KIB


def test_what_is_complete_stays() -> None:
    arrivals = Arrivals(100 * KIB)
    whole = Stub(arrivals).sends(90 * KIB, incomplete=False)
    half = Stub(arrivals).sends(20 * KIB)
    assert (whole.gone, half.gone) == (False, True)


def test_large_requests_leave_a_quarter_to_the_small() -> None:
    arrivals = Arrivals(4 * MIB)
    large = [Stub(arrivals).sends(MIB) for _ in range(4)]
    assert [each.gone for each in large] == [True, False, False, False]
    small = [Stub(arrivals).sends(100 * KIB) for _ in range(10)]
    assert not any(each.gone for each in small)


def test_reading_a_large_request_takes_room_and_gives_it_back() -> None:
    arrivals = Arrivals(4 * MIB)
    with arrivals.reading(MIB, 2 * MIB):
        with pytest.raises(Overloaded), arrivals.reading(MIB, 3 * MIB):
            pass
        with arrivals.reading(SMALL_REQUEST, 3 * MIB):
            assert arrivals.used == 5 * MIB
    assert arrivals.used == 0
    with pytest.raises(Overloaded):
        arrivals.room(5 * MIB)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400 * KIB), st.booleans()), max_size=60))
def test_all_that_was_taken_comes_back(events: list[tuple[int, int, bool]]) -> None:
    arrivals = Arrivals(MIB)
    connections = [Stub(arrivals) for _ in range(10)]
    for which, size, incomplete in events:
        connections[which].sends(size, incomplete=incomplete)
        assert arrivals.used == sum(each.charge for each in connections)
    for each in connections:
        each.sends(0)
    assert arrivals.used == 0


@pytest.mark.parametrize(("memory", "budget"), [(512 * MIB, 153), (2**40, 2048)])
def test_the_budget_is_a_part_of_what_there_is(memory: int, budget: int) -> None:
    assert budget_of(memory) // MIB == budget
