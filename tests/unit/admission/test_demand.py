"""The autoscaling metric, by hand and by law."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.admission.demand import SHED_WINDOW, ShedRate, demand
from dub5.admission.gate import SERVICE_WINDOW, Slots


def test_a_worked_example() -> None:
    assert demand(inflight=5, queued=2, shed_per_second=0.5, service_time=4.0, capacity=200) == 9.0


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0, 1e6), st.floats(0, 600), st.integers(1, 500))
def test_what_was_shed_counts_at_most_one_capacity(
    inflight: int, queued: int, rate: float, service: float, capacity: int
) -> None:
    wanted = demand(
        inflight=inflight, queued=queued, shed_per_second=rate, service_time=service, capacity=capacity
    )
    assert inflight + queued <= wanted <= inflight + queued + capacity


def test_the_same_request_is_shed_once_however_often_it_is_tried() -> None:
    shed = ShedRate()
    for second in range(10):
        shed.count("one", float(second))
    shed.count("other", 5.0)
    assert shed.per_second(10.0) == 2 / SHED_WINDOW
    assert shed.per_second(31.0) == 1 / SHED_WINDOW
    assert shed.per_second(36.0) == 0.0
    shed.count("one", 40.0)
    assert shed.per_second(40.0) == 1 / SHED_WINDOW


def test_service_time_is_0_before_the_first_and_then_the_mean_of_late() -> None:
    slots = Slots()
    assert slots.mean_service(0.0) == 0.0
    for entered in (8.0, 6.0):
        slots.enter(entered)
        slots.leave(entered, 10.0)
    assert slots.mean_service(10.0) == pytest.approx(3.0)
    slots.taken = 1
    slots.enter(1.0)
    assert slots.mean_service(10.0) == pytest.approx(5.0)
    slots.leave(1.0, 10.0)
    slots.taken = 0
    later = 10.0 + 5 * SERVICE_WINDOW
    for _ in range(10):
        slots.enter(later - 1.0)
        slots.leave(later - 1.0, later)
    assert slots.mean_service(later) == pytest.approx(1.0, abs=0.01)
