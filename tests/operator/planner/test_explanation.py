"""What a decision is one of: the candidates agree with it, and with one another."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from dub5_operator.explain.text import matrix
from dub5_operator.planner.decision import AIM, Decision, Outcome, PolicyLimits, by_question, decide, kept
from dub5_operator.planner.explanation import Explanation, explained
from dub5_operator.planner.questions import NOTHING, DriftEstimate, Population
from tests.operator.planner.test_decision import HOUR, LIMITS, curve, drift

RNG = np.random.default_rng(1)
MIXED = Population.known(RNG.pareto(1.2, 1000) / 400, 10 ** RNG.uniform(-6, -3, 1000))
FIGURES = [field.name for field in dataclasses.fields(Outcome)]


def explanation(
    estimate: DriftEstimate,
    population: Population | None = None,
    current: float = 60.0,
    limits: PolicyLimits = LIMITS,
) -> Explanation:
    seen = curve()
    decision = decide(seen, estimate, limits, current)
    if population is not None:
        decision = by_question(decision, seen, population, limits)
    return explained(decision, seen, estimate, population, limits, current)


def figures(of: Outcome | Decision) -> list[float]:
    return [getattr(of, name) for name in FIGURES]


@pytest.mark.parametrize("current", [5.0, 60.0, 61.7, 86400.0])
def test_what_is_decided_is_among_the_candidates_with_its_figures(current: float) -> None:
    found = explanation(drift(0.5 / HOUR, upper=1 / HOUR), current=current)
    decision, ttls = found.decision, [each.ttl for each in found.candidates]
    assert ttls == sorted(set(ttls))
    assert (min(ttls), max(ttls)) == (LIMITS.shortest, LIMITS.longest)
    [in_force] = [each.outcome for each in found.candidates if each.ttl == found.current == current]
    stays = kept(decision, curve(), found.drift, current)
    assert figures(in_force)[:3] == pytest.approx(figures(stays)[:3])
    assert in_force.bytes == pytest.approx(stays.bytes)
    [best] = [each for each in found.candidates if each.ttl == decision.recommended]
    assert best.over == ()
    assert best.outcome.saving == pytest.approx(decision.saving)


def test_limits_that_a_ttl_does_not_keep_are_named() -> None:
    limits = dataclasses.replace(LIMITS, memory=1e6)
    over = {each.ttl: each.over for each in explanation(drift(1 / HOUR), limits=limits).candidates}
    assert over[LIMITS.shortest] == ()
    assert over[LIMITS.longest] == ("Staleness", "Memory")
    watched = dataclasses.replace(curve(), window=HOUR)
    short = explained(decide(watched, drift(1e-9), LIMITS, 60), watched, drift(1e-9), None, LIMITS, 60)
    assert short.watched == HOUR / 4
    assert {each.ttl <= HOUR / 4 for each in short.candidates if each.over != ("Data",)} == {True}


def test_each_question_has_its_own_ttl_by_the_number_that_was_chosen() -> None:
    found = explanation(drift(1 / HOUR, upper=1 / HOUR), MIXED)
    [chosen] = [each for each in found.by_question if each.chosen]
    assert found.decision.question is not None
    assert chosen.cost == found.decision.question.cost
    assert figures(chosen.outcome) == figures(found.decision)
    assert chosen.over == ()
    assert found.decision.bound_by == "Staleness"
    assert chosen.outcome.stale == pytest.approx(AIM * LIMITS.budget, rel=0.01)
    costs, hits, stales = zip(
        *((each.cost, each.outcome.hit_ratio, each.outcome.stale) for each in found.by_question), strict=True
    )
    for column in (costs, hits, stales):
        assert list(column) == sorted(column)
    place = costs.index(chosen.cost)
    assert all("Staleness" in each.over for each in found.by_question[place + 1 :])
    assert {each.over for each in found.by_question[:place]} == {()}
    low, middle, high = chosen.ttls
    assert LIMITS.shortest <= low <= middle <= high <= LIMITS.longest


def test_popular_and_fast_questions_have_shorter_ttls() -> None:
    found = explanation(drift(1 / HOUR, upper=1 / HOUR), MIXED)
    ttls = {(each.requests, each.changes): each.ttl for each in found.examples}
    often = sorted({each.requests for each in found.examples})
    fast = sorted({each.changes for each in found.examples if each.changes is not None})
    assert len(ttls) == 3 * 4
    for requests in often:
        row = [ttls[requests, changes] for changes in fast]
        assert row == sorted(row, reverse=True)
        assert row[0] > row[-1]
    for changes in (*fast, None):
        column = [ttls[requests, changes] for requests in often]
        assert column == sorted(column, reverse=True)
    rare, slow = ttls[often[0], fast[0]], ttls[often[-1], fast[-1]]
    assert rare > 10 * slow


@pytest.mark.parametrize("population", [None, MIXED])
def test_a_larger_budget_would_give_a_longer_ttl(population: Population | None) -> None:
    found = explanation(drift(1 / HOUR), population)
    [budget] = [each for each in found.alternatives if each.limit == "staleness.budget"]
    assert budget.value == 2 * LIMITS.budget
    before = found.decision.recommended
    if population is not None:
        [before] = [each.ttls[1] for each in found.by_question if each.chosen]
    assert budget.ttl > 1.5 * before
    assert budget.outcome.saving > found.decision.saving
    assert budget.outcome.hit_ratio > found.decision.hit_ratio
    assert AIM * LIMITS.budget < budget.outcome.stale <= 2 * AIM * LIMITS.budget * 1.01


def test_what_changes_nothing_is_no_alternative() -> None:
    limits = dataclasses.replace(LIMITS, longest=HOUR, memory=1e12)
    names = [each.limit for each in explanation(drift(0.0), limits=limits).alternatives]
    assert names == ["ttl.max"]
    assert not explanation(drift(0.0)).alternatives  # the class allows no more


def test_where_no_rate_is_known_all_hits_may_be_stale() -> None:
    seen = dataclasses.replace(curve(), mean_age=np.zeros(len(curve().ttls)))  # warnings are errors
    decision = decide(seen, NOTHING, LIMITS, 60)
    assert (decision.sufficient, decision.stale_upper) == (False, 1.0)
    found = explained(decision, seen, NOTHING, None, LIMITS, 60)
    assert {each.outcome.stale_upper for each in found.candidates} == {1.0}
    assert not any(math.isnan(each.outcome.stale) for each in found.candidates)
    assert found.alternatives == []


def test_what_binds_is_told_apart() -> None:
    """Of "Data" there are several kinds, and the promise for one question is no budget for all."""
    still = dataclasses.replace(
        MIXED, rate=MIXED.rate * 1e-9, upper=MIXED.upper * 1e-9, mean=MIXED.mean * 1e-9
    )
    limits = dataclasses.replace(LIMITS, longest=1e9)
    left = explanation(drift(1e-9, upper=1e-9), still, limits=limits)
    assert (left.cause, left.decision.bound_by) == ("calls", "Data")
    [chosen] = [place for place, each in enumerate(left.by_question) if each.chosen]
    assert all("Data" in each.over for each in left.by_question[chosen + 1 :])
    unsure = dataclasses.replace(MIXED, upper=MIXED.upper * 1e3)
    held = explanation(drift(1 / HOUR, upper=1 / HOUR), unsure)
    assert (held.cause, held.decision.bound_by) == ("question", "Staleness")
    [chosen] = [place for place, each in enumerate(held.by_question) if each.chosen]
    assert all("Staleness" in each.over for each in held.by_question[chosen + 1 :])
    few = explanation(drift(1 / HOUR, upper=1 / HOUR), dataclasses.replace(MIXED, margin=4.0))
    assert (few.cause, few.decision.bound_by) == ("changes", "Data")
    young = dataclasses.replace(still, watched=HOUR)
    short = explanation(drift(1e-9, upper=1e-9), young)
    assert (short.cause, short.decision.bound_by, short.watched) == ("watched", "Data", HOUR / 4)
    [chosen] = [place for place, each in enumerate(short.by_question) if each.chosen]
    assert {each.over for each in short.by_question[chosen + 1 :]} == {("Data",)}


def test_a_class_of_one_question_has_one_row_of_examples() -> None:
    """All of its quantiles are the same."""
    one = Population.known(np.array([0.1]), np.array([1 / HOUR]))
    examples = explanation(drift(1 / HOUR, upper=1 / HOUR), one).examples
    assert [each.changes is None for each in examples] == [False, True]
    [_, known] = matrix(examples)
    assert len(known) == 3
