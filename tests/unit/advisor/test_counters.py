"""What counters said, laid over a grid: nothing is lost or made up, and a reset is what grew since."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.advisor.counters import Grid, Growth, Level, Pod, mixed
from dub5.loadtest.prometheus import Series, scrape_interval

GRID = Grid(began=0.0, step=15.0, bins=40)


def series(values: list[tuple[float, float]], **labels: str) -> Series:
    return Series(metric=labels, values=[(moment, str(value)) for moment, value in values])


@given(
    growths=st.lists(st.tuples(st.integers(0, 500), st.booleans()), min_size=2, max_size=30),
    offset=st.floats(0.0, 14.9),
    parts=st.integers(1, 5),
)
def test_growth_is_the_same_however_often_it_began_anew_and_in_however_many_parts(
    growths: list[tuple[int, bool]], offset: float, parts: int
) -> None:
    value, values, known = 0, [], 0
    for index, (growth, anew) in enumerate(growths):
        # What is not below what it was is taken for growth, by Prometheus too.
        reset = anew and growth < value
        value = growth if reset else value + growth
        known += growth if index else 0
        values.append((offset + index * 15.0, float(value)))
    pod = Pod(values[0][0])
    counter = Growth(GRID, {"a": pod}, 15.0)
    size = math.ceil(len(values) / parts)
    for begin in range(0, len(values), size):
        counter.add(series(values[begin : begin + size], pod="a"), "a")
        counter.add(series(values[begin : begin + size], pod="a"), "a")  # the end of one part begins the next
    assert counter.total == pytest.approx(known)
    assert sum(counter.bins) == pytest.approx(known)
    assert min(counter.bins) >= 0


@pytest.mark.parametrize(
    ("first", "began", "at", "counted"),
    [
        (0.0, -900.0, 0.0, 0),  # it was there before: what its first figure is of is not known
        (0.0, -900.0, 150.0, 7),  # labels that are new on a replica that was there
        (300.0, 290.0, 300.0, 7),  # a replica that is new
        (300.0, -900.0, 300.0, 0),  # one that was not seen before
        (300.0, None, 300.0, 0),
    ],
)
def test_what_the_first_figure_of_a_counter_counts(
    first: float, began: float | None, at: float, counted: int
) -> None:
    pod = Pod(first)
    pod.began = began
    counter = Growth(GRID, {"a": pod}, 15.0)
    counter.add(series([(at, 7.0), (at + 15, 7.0)], pod="a"), "a")
    assert counter.total == counted
    other = Growth(GRID, {}, 15.0)
    other.add(series([(at, 7.0), (at + 15, 9.0)], pod="a"), "a")
    assert other.total == 2


def test_a_level_is_what_was_scraped_last_for_as_long_as_that_counts() -> None:
    level = Level(GRID, longest=60.0)
    level.add(series([(5.0, 4.0), (20.0, 6.0), (200.0, 1.0)], pod="a"), "a")
    level.add(series([(-3.0, 1.0), (12.0, 1.0)], pod="b"), "b")
    level.end()
    assert level.bins[:7] == [5.0, 6.0, 6.0, 6.0, 6.0, 0.0, 0.0]
    assert sum(level.growth) == pytest.approx(
        4.0 / 3 + 2.0 - 5.0
    )  # the first is of a scrape's time, a third of it inside


@given(
    counts=st.lists(st.integers(0, 100), min_size=2, max_size=8).filter(any),
    part=st.floats(0.0, 1.0),
)
def test_a_histogram_and_its_mean_make_a_distribution_of_that_mean_within_its_buckets(
    counts: list[int], part: float
) -> None:
    bounds = [2.0**index for index in range(len(counts) - 1)]
    buckets = list(zip([*bounds, math.inf], itertools.accumulate(counts), strict=True))
    longest = 2 * bounds[-1]
    edges = list(itertools.pairwise([0.0, *bounds, longest]))
    least, most = (
        sum(count * edge[end] for count, edge in zip(counts, edges, strict=True)) for end in (0, 1)
    )
    mean = (least + part * (most - least)) / sum(counts)
    points = mixed(buckets, mean, longest)
    assert points is not None
    assert all(a[0] <= b[0] and a[1] <= b[1] + 1e-9 for a, b in itertools.pairwise(points))
    assert sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points)) == pytest.approx(
        mean, abs=1e-9
    )


def test_a_histogram_without_values_is_none() -> None:
    assert mixed([], 1.0, 10.0) is None
    assert mixed([(1.0, 0.0), (math.inf, 0.0)], 0.0, 10.0) is None


def test_the_time_between_scrapes_is_that_in_the_middle() -> None:
    assert scrape_interval([]) is None
    assert scrape_interval([series([(0, 1), (15, 1), (30, 1), (90, 1)]), series([(1, 1), (16, 1)])]) == 15
