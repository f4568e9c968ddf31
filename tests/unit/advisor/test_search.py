"""The search for values: what it finds on made-up costs, and on a small load; what it says of both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest

from dub5.advisor import advice as words
from dub5.advisor.record import Arrivals, Callers, Cluster, Header, Mix, Record, make, part
from dub5.advisor.search import (
    CUTS,
    DOUBLED,
    HELD,
    NO_CACHE,
    TUNED,
    WINDOWS,
    Advice,
    Bench,
    Bounds,
    Choice,
    Judged,
    Nothing,
    Objective,
    Run,
    Trial,
    Verdict,
    chosen,
    present,
    recommend,
    space_of,
)
from dub5.advisor.values import Policy, Values, of_values
from dub5.settings.loader import parse_yaml

OBJECTIVE = Objective(refused=0.01, wait=1.0)
NOW = {"autoscaling": {"minReplicas": 2, "targetPercentage": 70, "maxReplicas": 8}}
CALLS = Mix(service=[(0.0, 2.0), (1.0, 6.0)])


def steady(seconds: float = 3600.0, requests: float = 10.0) -> Record:
    """Ten calls a second, of four seconds in the mean."""
    return make(
        Header(source="steady", seconds=seconds),
        [Arrivals(at=0.0, requests=[requests] * int(seconds)), CALLS],
    )


def advised(
    run: Run, *, seeds: Sequence[int] = (1, 2), values: Values | None = None, **bounds: Any
) -> Advice:
    """On a load of which nothing is simulated."""
    space = space_of(steady(), values or of_values(NOW), 0.33, Bounds(**bounds))
    return recommend(space, OBJECTIVE, run, seeds)


def made_up(trials: Sequence[Trial]) -> Iterable[Judged]:
    """Few are refused up to a target of 62 %, a little more with more replicas; a high target and few cost less."""
    for trial in trials:
        choice = trial.choice
        refused = 0.0 if choice.targetPercentage <= 52 + 3 * choice.minReplicas else 0.5
        cost = 100 / choice.targetPercentage + choice.minReplicas / 10 + choice.window / 1000
        yield Judged(cost + trial.seed / 1000, refused, refused, 0.5, 5)


def test_the_cheapest_that_meets_the_objective_is_found() -> None:
    advice = advised(made_up, seeds=[1, 2, 3])
    assert advice.best is not None
    # 60 % with 3, and 70 % with 6, would do as well, and cost more than the higher target spares.
    best = advice.best[HELD].choice
    assert (best.minReplicas, best.targetPercentage, best.window) == (1, 55, min(WINDOWS))
    assert (best.queue_timeout, best.up, best.maxReplicas) == (10.0, (), 8), "changed for nothing"
    assert len(advice.best[HELD].judged) == 3
    assert not advice.present_meets
    assert [each.meets(OBJECTIVE) for each in advice.front()][-1]
    costs = [each.cost for each in advice.front()]
    assert costs == sorted(costs)


def test_what_meets_it_with_one_seed_alone_is_not_recommended() -> None:
    def lucky(trials: Sequence[Trial]) -> Iterable[Judged]:
        for trial, judged in zip(trials, made_up(trials), strict=True):
            unlucky = trial.choice.window == min(WINDOWS) and trial.seed == 2
            yield Judged(judged.cost, 0.5 if unlucky else judged.refused, 0.0, 0.5, 5)

    advice = advised(lucky)
    assert advice.best is not None
    assert advice.best[TUNED].choice.window > min(WINDOWS)


def test_what_misses_it_in_one_block_is_recommended_only_where_nothing_else_is() -> None:
    def uneven(trials: Sequence[Trial]) -> Iterable[Judged]:
        for trial in trials:
            safe = trial.choice.targetPercentage <= 50
            blocks = ((0.0, 0.5), (0.0 if safe else 0.02, 0.5))
            yield Judged(100 / trial.choice.targetPercentage, 0.005, 0.0, 0.5, 5, blocks=blocks)

    advice = advised(uneven)
    assert advice.best is not None
    assert advice.best[TUNED].choice.targetPercentage == 50
    assert any("10 loads like" in note for note in advice.notes), "of two blocks each"

    def never_safe(trials: Sequence[Trial]) -> Iterable[Judged]:
        return (
            Judged(each.cost, each.refused, 0.0, 0.5, 5, blocks=((0.02, 0.5),)) for each in uneven(trials)
        )

    advice = advised(never_safe)
    assert advice.best is not None
    assert any("no margin" in note for note in advice.notes)


def test_where_nothing_does_nothing_is_recommended() -> None:
    def bad(trials: Sequence[Trial]) -> Iterable[Judged]:
        return [Judged(1.0, 0.5, 0.5, 9.0, 8) for _ in trials]

    values = of_values(NOW)
    advice = advised(bad, seeds=[1])
    assert (advice.best, advice.present_meets) == (None, False)
    said = words.text(advice, values)
    assert "maxReplicas up to 16:" in said, "twice the present"
    assert "autoscaling:" not in said
    assert words.plain(advice, values)["recommended"] is None


@pytest.mark.parametrize(("bound", "raised"), [(None, 12), (10, 10), (8, None)])
def test_more_replicas_at_most_are_tried_where_those_do_not_do(bound: int | None, raised: int | None) -> None:
    tried = set()

    def short(trials: Sequence[Trial]) -> Iterable[Judged]:
        for trial in trials:
            tried.add(trial.choice)
            most = trial.choice.maxReplicas
            yield Judged(most, 0.0 if most >= 10 else 0.5, 0.0, 0.5, most)

    advice = advised(short, max_replicas=bound)
    assert (advice.best and advice.best[HELD].choice.maxReplicas) == raised
    in_vain = {choice for choice in tried if choice.maxReplicas < (raised or 0)}
    assert {choice.minReplicas for choice in in_vain} <= {2, 8}, "fewer than all cannot do what all cannot"


@pytest.mark.parametrize(
    ("limit", "tried"),
    [
        (100, (8, 12, 16, 24, 32, 48, 64, 96, 100)),
        (64, (8, 12, 16, 24, 32, 48, 64)),
        (None, (8, 12, 16)),
        (8, (8,)),
        (2, (8,)),
    ],
)
def test_maxima_are_tried_up_to_the_one_that_is_given(limit: int | None, tried: tuple[int, ...]) -> None:
    assert space_of(steady(), of_values(NOW), 0.33, Bounds(max_replicas=limit)).most == tried


def test_the_maximum_that_is_given_is_recommended_where_only_that_does() -> None:
    def short(trials: Sequence[Trial]) -> Iterable[Judged]:
        for trial in trials:
            most = trial.choice.maxReplicas
            yield Judged(most, 0.0 if most >= 100 else 0.5, 0.0, 0.5, most)

    advice = advised(short, max_replicas=100)
    assert advice.best is not None
    assert advice.best[HELD].choice.maxReplicas == 100


def test_slots_are_searched_within_the_bounds_that_are_given_alone() -> None:
    def cheaper_with_slots(trials: Sequence[Trial]) -> Iterable[Judged]:
        for trial in trials:
            yield Judged(1000 / trial.choice.max_inflight, 0.0, 0.0, 0.5, 5)

    unbounded, bounded = advised(cheaper_with_slots), advised(cheaper_with_slots, max_inflight=(50, 300))
    assert unbounded.best is not None
    assert bounded.best is not None
    assert unbounded.best[HELD].choice.max_inflight == 200
    assert bounded.best[HELD].choice.max_inflight == 300
    assert {each.choice.max_inflight for each in bounded.tried} <= {50, 78, 122, 192, 200, 300}
    above = advised(cheaper_with_slots, max_inflight=(50, 100))
    assert above.best is not None
    assert above.best[HELD].choice.max_inflight == 100, "never what is in force, and beyond the bounds"
    for advice in (unbounded, bounded):
        assert any("max_inflight" in note and "CPU" in note for note in advice.notes)


def test_floors_by_hour_are_recommended_where_they_pay() -> None:
    """With them fewer replicas do at other times."""

    def mornings(trials: Sequence[Trial]) -> Iterable[Judged]:
        for trial in trials:
            floor, least = max(trial.choice.floors, default=0), trial.choice.minReplicas
            refused = 0.0 if max(floor, least) >= 5 else 0.5
            yield Judged(48.0 * (least + floor / 4), refused, 0.0, 0.5, 5)

    hours = [1.0] * 8 + [4.0] * 4 + [1.0] * 12
    record = make(
        Header(source="mornings", began=1e9, seconds=3 * 86400.0),
        [Arrivals(at=0.0, step=3600.0, requests=[3600 * rate for rate in hours * 3]), CALLS],
    )
    values = of_values(NOW, {"config": {"admission": {"max_inflight": 4}}})
    advice = recommend(space_of(record, values, 0.33, Bounds()), OBJECTIVE, mornings, [1])
    assert advice.best is not None
    best = advice.best[HELD].choice
    assert best.minReplicas == 1
    assert 5 <= max(best.floors) <= 8
    assert "kind: CronJob" in words.text(advice, values)
    assert words.plain(advice, values)["schedule"] == words.schedule(advice, values)


OTHER = Choice(
    minReplicas=3,
    maxReplicas=9,
    targetPercentage=40,
    window=60,
    max_inflight=50,
    queue_timeout=2.5,
    up=(300, 10, 15),
    down=(100, 60),
)


def test_a_choice_is_laid_over_the_values() -> None:
    values = of_values(NOW)
    assert chosen(values, present(values)) == values
    after = chosen(values, OTHER)
    assert present(after) == msgspec.structs.replace(OTHER, up=(), down=())
    assert after.autoscaling.behavior.scaleUp is not None
    assert after.autoscaling.behavior.scaleDown is not None
    assert after.autoscaling.behavior.scaleUp.policies == [Policy("Percent", 300, 15), Policy("Pods", 10, 15)]
    assert after.autoscaling.behavior.scaleDown.policies == [Policy("Percent", 100, 60)]


def test_the_lines_to_change_lead_to_what_was_recommended() -> None:
    """Read as values, they are the choice that was judged."""
    values = of_values(NOW)
    best = msgspec.structs.replace(OTHER, minReplicas=1, maxReplicas=16, targetPercentage=85)

    def only(trials: Sequence[Trial]) -> Iterable[Judged]:
        return (Judged(1.0, 0.0, 0.0, 0.5, 5) for _ in trials)

    advice = advised(only)
    assert words.snippet(advice, values) == [], "nothing is cheaper"
    after = {part: Verdict(best, verdict.judged) for part, verdict in advice.present.items()}
    lines = words.snippet(msgspec.structs.replace(advice, best=after), values)
    assert of_values(NOW, parse_yaml("\n".join(lines))) == chosen(values, best)
    assert all("# was " in line for line in lines if ": " in line and "{" not in line)


@pytest.fixture
def load() -> tuple[Record, Values]:
    """Calm, and a jump in the middle of each half."""
    jumps = [5.0 if 200 <= second % 480 < 260 else 0.5 for second in range(960)]
    mix = Mix(hits=0.2, service=[(0.0, 2.0), (1.0, 6.0)])
    record = make(Header(source="jumps", seconds=960.0), [Arrivals(at=0.0, requests=jumps), mix])
    small = {"config": {"admission": {"max_inflight": 5, "max_queued": 20, "queue_timeout": "4s"}}}
    return record, of_values(small, {"autoscaling": {"minReplicas": 1, "maxReplicas": 6}})


def test_a_small_load(load: tuple[Record, Values]) -> None:
    record, values = load
    bench = Bench(record, values, 0.5)
    objective = Objective(refused=0.01, wait=3.4)
    space = space_of(record, values, 0.5, Bounds())
    advice = recommend(space, objective, lambda trials: [bench.judge(each) for each in trials], [1, 2])
    assert not advice.present_meets
    assert advice.best is not None
    assert advice.best[TUNED].meets(objective)
    choice = advice.best[TUNED].choice
    others = [bench.judge(Trial(TUNED, choice, draw, anew=True)) for draw in range(100, 110)]
    assert Verdict(choice, others).keeps(objective), "also with loads that nothing has seen"
    said = words.text(advice, values)
    assert said.startswith("The present values miss the objective.")
    changed = said[said.index("autoscaling:") :]
    assert "minReplicas:" in changed or "targetPercentage:" in changed
    assert advice.what_if[DOUBLED].refused > advice.best[HELD].refused
    assert words.plain(advice, values)["present_meets"] is False


def test_what_is_held_out_is_not_tuned_on(load: tuple[Record, Values]) -> None:
    record, values = load
    bench = Bench(record, values, 0.25)
    ((tuned, since, blocks, _),), ((held, warm, _, _),) = bench._records[TUNED], bench._records[HELD]
    assert (tuned.header.seconds, since) == (300.0 + 720.0, 300.0)  # in which calls get under way, made up
    assert blocks == 3, "as long as what is held out"
    assert (held.header.seconds, warm) == (900.0 + 240.0, 900.0)
    assert tuned.arrivals[-1].requests == record.arrivals[0].requests[:720]


def test_the_first_15_minutes_of_an_hour_do_not_count() -> None:
    bench = Bench(steady(4800.0), of_values(NOW), 0.25)
    assert bench._records[TUNED] == [(part(steady(4800.0), 0.0, 3600.0), 900.0, 3, 1.0)]
    assert bench._records[HELD] == [(part(steady(4800.0), 2700.0, 4800.0), 900.0, 1, 1.0)]
    assert space_of(steady(4800.0), of_values(NOW), 0.25, Bounds()).hours == 0.75


SMALL = {"config": {"admission": {"max_inflight": 10, "max_queued": 200, "queue_timeout": "60s"}}}


def test_a_jump_in_the_first_quarter_of_a_short_record_counts() -> None:
    jumps = [10.0 if 90 <= second < 150 else 1.0 for second in range(800)]
    record = make(Header(source="early", seconds=800.0), [Arrivals(at=0.0, requests=jumps), CALLS])
    values = of_values(
        SMALL,
        {"config": {"admission": {"queue_timeout": "4s"}}},
        {"autoscaling": {"minReplicas": 1, "maxReplicas": 8}},
    )
    judged = Bench(record, values, 0.25).judge(Trial(TUNED, present(values), 1))
    assert judged.refused > 0.1
    assert judged.blocks[0][0] > 0.1
    assert judged.blocks[2][0] == 0
    space = space_of(record, values, 0.25, Bounds())
    assert space.hours == 600 / 3600
    assert any("all of it counts" in note for note in space.notes)


@pytest.mark.parametrize("window", [60, 900])
@pytest.mark.parametrize("replicas", [None, 1, 16])
@pytest.mark.parametrize(
    "lines",
    [
        [Arrivals(at=0.0, requests=[10.0] * 600)],
        [Arrivals(at=0.0, step=30.0, requests=[300.0] * 20)],
        [Callers(at=0.0, count=40)],
    ],
)
def test_a_short_record_begins_with_the_replicas_that_values_come_to(
    lines: list[Arrivals | Callers], replicas: int | None, window: int
) -> None:
    """Forty calls at once, seven in a replica: six, or by chance some more, whatever the record began with."""
    cluster = Cluster(replicas=replicas)
    record = make(Header(source="steady", seconds=600.0, cluster=cluster), [*lines, CALLS])
    values = of_values(SMALL, {"autoscaling": {"minReplicas": 1, "maxReplicas": 20}})
    choice = msgspec.structs.replace(present(values), window=window)
    for of in (TUNED, HELD):
        judged = Bench(record, values, 0.5).judge(Trial(of, choice, 1))
        assert judged.refused == 0
        assert judged.wait < 1
        assert 6 <= judged.most <= 8


def test_a_short_record_begins_with_no_more_replicas_than_there_is_room_for() -> None:
    cluster = Cluster(room=3)
    record = make(Header(source="full", seconds=600.0, cluster=cluster), [*steady(600.0).arrivals, CALLS])
    values = of_values(SMALL, {"autoscaling": {"minReplicas": 1, "maxReplicas": 20}})
    assert Bench(record, values, 0.5).judge(Trial(TUNED, present(values), 1)).most == 3


def test_a_long_record_is_searched_on_its_most_demanding_hours() -> None:
    """A day of calm nights and busy noons with one jump; the cuts stand for all hours, and miss none that is worse."""
    hours = [2.0] * 8 + [6.0] * 4 + [20.0] * 4 + [6.0] * 8
    requests = [rate for rate in hours for _ in range(60)]
    requests[13 * 60 + 30] = 60.0
    record = make(
        Header(source="a day", seconds=86400.0),
        [Arrivals(at=0.0, step=60.0, requests=[60 * r for r in requests]), CALLS],
    )
    values = of_values(NOW, {"config": {"admission": {"max_inflight": 40}}})
    space = space_of(record, values, 0.25, Bounds())
    assert space.searched_on == CUTS
    assert any("three hours" in note for note in space.notes)
    bench = Bench(record, values, 0.25)
    cuts = bench._records[CUTS]
    assert [since for _, since, _, _ in cuts] == [0.0, 900.0, 900.0]
    assert [round(weight, 1) for *_, weight in cuts] == [6.0, 4.7, 4.5], "as much load as all hours"
    assert 13 * 3600.0 - 900.0 in {cut.header.began for cut, *_ in cuts}, "the hour of the jump"


def test_the_cuts_cost_about_what_the_whole_does() -> None:
    requests = [0.1 * (2 + hour % 4) for hour in range(16) for _ in range(3600)]
    record = make(Header(source="waves", seconds=57600.0), [Arrivals(at=0.0, requests=requests), CALLS])
    values = of_values({"config": {"admission": {"max_inflight": 1}}})
    bench = Bench(record, values, 0.25)
    whole, cuts = (bench.judge(Trial(of, present(values), 1)) for of in (TUNED, CUTS))
    assert cuts.cost == pytest.approx(whole.cost, rel=0.1)


def test_what_cuts_were_too_demanding_for_is_raised_on_the_whole() -> None:
    space = msgspec.structs.replace(space_of(steady(), of_values(NOW), 0.33, Bounds()), searched_on=CUTS)

    def demanding(trials: Sequence[Trial]) -> Iterable[Judged]:
        for trial in trials:
            highest = 60 if trial.of == CUTS else 65
            refused = 0.0 if trial.choice.targetPercentage <= highest else 0.5
            yield Judged(100 / trial.choice.targetPercentage, refused, 0.0, 0.5, 5)

    advice = recommend(space, OBJECTIVE, demanding, [1, 2])
    assert advice.best is not None
    assert advice.best[TUNED].choice.targetPercentage == 65
    assert CUTS in words.text(advice, of_values(NOW))


@pytest.mark.parametrize("held", [0.33, 0.9])
def test_a_record_without_load_is_refused_and_a_part_without_load_said(held: float) -> None:
    values = of_values(NOW)
    nothing = steady(requests=0.0)
    with pytest.raises(Nothing, match="has no requests"):
        space_of(nothing, values, held, Bounds())
    nobody = make(Header(source="nobody", seconds=3600.0), [Callers(at=0.0, count=0), CALLS])
    with pytest.raises(Nothing, match="has no requests"):
        space_of(nobody, values, held, Bounds())
    early = make(Header(source="early", seconds=3600.0), [Arrivals(at=0.0, requests=[5.0] * 300), CALLS])
    assert any("nothing was judged" in note for note in space_of(early, values, 0.33, Bounds()).notes)


def test_of_a_short_record_it_is_said_what_it_begins_with() -> None:
    for seconds, said in ((400.0, True), (4800.0, False)):
        record = make(
            Header(source="short", seconds=seconds), [Arrivals(at=0.0, requests=[5.0] * int(seconds)), CALLS]
        )
        notes = space_of(record, of_values(NOW), 0.25, Bounds()).notes
        assert any("first minute" in note for note in notes) is said


@pytest.mark.parametrize("mode", ["hpa", "keda"])
@pytest.mark.parametrize("objective", [Objective(), Objective(refused=0.0, wait=0.0)])
def test_a_record_of_a_minute(mode: str, objective: Objective) -> None:
    record, values = (
        steady(60.0),
        of_values({"autoscaling": {"mode": mode, "minReplicas": 1, "maxReplicas": 1}}),
    )
    bench = Bench(record, values, 0.33)
    space = space_of(record, values, 0.33, Bounds())
    advice = recommend(space, objective, lambda trials: [bench.judge(each) for each in trials], [1])
    assert set(advice.what_if) == {DOUBLED, NO_CACHE}
    assert words.text(advice, values)
