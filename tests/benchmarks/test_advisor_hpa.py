"""The advisor's autoscaler decides as Kubernetes' own controller did: histories that are kept with its answers."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.advisor_hpa.__main__ import EXERCISED, Kept, kubernetes, read, unequal_steps
from benchmarks.advisor_hpa.histories import count, make, replay
from testkit.places import ROOT


@pytest.fixture(scope="module")
def kept() -> Kept:
    return read(ROOT / "tests/benchmarks/advisor-hpa.json.xz")


def test_each_decision_is_the_controllers(kept: Kept) -> None:
    for number, (history, outcomes) in enumerate(zip(kept.histories, kept.outcomes, strict=True)):
        assert not unequal_steps(history, outcomes), f"history {number}"


def test_all_of_the_algorithm_is_in_them(kept: Kept) -> None:
    exercised = sum((count(history) for history in kept.histories), Counter[str]())
    assert not [what for what in EXERCISED if not exercised[what]]


def test_they_are_of_the_release_that_the_cluster_runs(kept: Kept) -> None:
    assert kept.kubernetes == kubernetes(), (
        "python -m benchmarks.advisor_hpa --help says how to make them anew"
    )


def test_a_difference_is_found_and_named(kept: Kept) -> None:
    outcomes = kept.outcomes[0]
    outcomes[3].replicas += 1
    [difference] = unequal_steps(kept.histories[0], outcomes)
    assert difference.startswith(f"step 3: replicas {outcomes[3].replicas - 1} not {outcomes[3].replicas}")


def test_a_seed_has_one_history() -> None:
    assert make(7) == make(7) != make(8)
    assert len(list(replay(make(7)))) == len(make(7).steps)
