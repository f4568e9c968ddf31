"""What the advisor found, as reports: what leads, what is said of it, and that a record's words do no harm."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from dub5.advisor.page import Origin, explained, recommended, simulated
from dub5.advisor.record import Arrivals, Header, Mix, Record, Seen, make
from dub5.advisor.search import HELD, TUNED, Advice, Judged, Objective, Verdict, chosen, present
from dub5.advisor.simulation import Outcome, simulate
from dub5.advisor.values import Values, of_values
from dub5.report.document import Code, Document, Plot, Table
from dub5.report.page import html
from dub5.report.text import LIMIT, markdown

ORIGIN = Origin("dub5 autoscale recommend load.record", "load.record", "ab" * 32, "1.2.3")
SLY = "<script>alert(1)</script> | ![x](http://h) \x1b[31m $\\frac"


def record(source: str = "a test", minutes: int = 10, *, seen: bool = True) -> Record:
    arrivals = [2.0] * 60 + [8.0] * (60 * (minutes - 1))
    there = [Seen(at=0.0, wanted=2, ready=2), Seen(at=90.0, wanted=5, ready=4)] if seen else []
    header = Header(source=source, seconds=60.0 * minutes, began=1_795_000_000.0)
    return make(header, [Arrivals(at=0.0, requests=arrivals), Mix(service=[(0.5, 2.0), (1.0, 6.0)]), *there])


def values(**scaling: int) -> Values:
    return of_values(
        {"config": {"admission": {"max_inflight": 10, "queue_timeout": "2s"}}, "autoscaling": scaling}
    )


@dataclass
class Found:
    record: Record
    values: Values
    outcome: Outcome


@pytest.fixture(scope="module")
def found() -> Found:
    of, under = record(), values()
    return Found(of, under, simulate(of, under))


def advice(of: Values, *, best: bool = True, worst: float = 0.02) -> Advice:
    """The present values miss it, those with half the target meet it."""
    now = present(of)
    better = msgspec.structs.replace(now, targetPercentage=now.targetPercentage // 2)
    missed = Verdict(now, [Judged(2.0, 0.01, 0.2, 3.0, 4), Judged(2.2, worst, 0.2, 3.5, 4)])
    met = Verdict(better, [Judged(3.0, 0.0, 0.0, 0.1, 6), Judged(3.2, 0.0005, 0.0, 0.2, 6)])
    return Advice(
        objective=Objective(),
        present={TUNED: missed, HELD: missed},
        best={TUNED: met, HELD: met} if best else None,
        tried=[missed, met],
        what_if={"twice the load": met},
        searched_on=TUNED,
        notes=["max_inflight was not searched."],
    )


def titles(document: Document) -> list[str]:
    return [section.title for section in document.sections]


def parts(document: Document, title: str) -> list[object]:
    return list(next(each.parts for each in document.sections if each.title.startswith(title)))


def curves(plots: list[Plot], title: str) -> dict[str, list[tuple[float, float]]]:
    plot = next(each for each in plots if each.title == title)
    return {curve.name: list(curve.points) for curve in plot.curves}


def test_a_recommendation_leads_with_what_to_do(found: Found) -> None:
    under = chosen(found.values, msgspec.structs.replace(present(found.values), targetPercentage=35))
    best = simulate(found.record, under)
    made = recommended(found.record, found.values, advice(found.values), found.outcome, best, ORIGIN)
    assert made.tone == "bad"
    assert made.verdict.startswith(
        "The present values miss the objective. Recommended: targetPercentage 70 → 35."
    )
    assert [(fact.value, fact.tone) for fact in made.facts] == [
        ("2.00% → 0.05%", "good"),
        ("3.50 s → 0.20 s", "good"),
        ("4.20 → 6.20", "plain"),
    ]
    assert "asked: at most 0.10%" in made.facts[0].more
    assert [plot.title for plot in made.plots[:3]] == [
        "refused",
        "replicas ready",
        "refusals and waits by cost",
    ]
    assert list(curves(made.plots, "replicas ready")) == ["present", "recommended", "recorded"]
    assert curves(made.plots, "replicas wanted")["recorded"] == [(0.0, 2.0), (90.0, 5.0), (600.0, 5.0)]
    cost = curves(made.plots, "refusals and waits by cost")
    assert cost["present"] == [(2.1, pytest.approx(20.0))]
    assert cost["recommended"] == [(3.1, pytest.approx(0.5))]
    assert titles(made) == [
        "What to change",
        "Present and recommended",
        "What less money buys",
        "What if",
        "What was left out and assumed",
        "Over time",
        "The record",
        "To make this page again",
    ]
    change, _, lines = parts(made, "What to change")
    assert isinstance(change, Table)
    assert change.rows[0][:3] == ["autoscaling.targetPercentage", "70", "35"]
    assert isinstance(lines, Code)
    assert lines.text.startswith("autoscaling:\n  targetPercentage: 35  # was 70: ")
    front = parts(made, "What less")[1]
    assert isinstance(front, Table)
    assert [row[1] for row in front.rows] == ["misses", "meets"]
    again = parts(made, "To make")
    assert again[0] == Code(ORIGIN.command, "sh")
    assert "ab" * 32 in str(again[1])


def test_where_nothing_meets_the_objective(found: Found) -> None:
    made = recommended(
        found.record, found.values, advice(found.values, best=False), found.outcome, None, ORIGIN
    )
    assert "Nothing on the grid meets it" in made.verdict
    assert [fact.tone for fact in made.facts] == ["bad", "bad", "plain"]
    assert parts(made, "What to change") == ["Nothing on the grid meets it."]
    assert list(curves(made.plots, "replicas ready")) == ["present", "recorded"]
    assert curves(made.plots, "refusals and waits by cost")["recommended"] == []
    assert html(made).count("<svg ") == 6


@pytest.mark.parametrize(
    ("weekly", "columns"), [(False, ["from", "every day"]), (True, ["from", "Mon", "Tue"])]
)
def test_floors_stand_by_hour(found: Found, weekly: bool, columns: list[str]) -> None:
    floors = tuple(hour % 24 // 12 + (5 if weekly and hour < 24 else 2) for hour in range(168))
    told = advice(found.values)
    assert told.best is not None
    replace = msgspec.structs.replace
    best = {of: replace(each, choice=replace(each.choice, floors=floors)) for of, each in told.best.items()}
    told = replace(told, best=best)
    made = recommended(found.record, found.values, told, found.outcome, found.outcome, ORIGIN)
    _, table, _, lines = parts(made, "Fewest replicas by hour")
    assert isinstance(table, Table)
    assert table.head[: len(columns)] == columns
    assert (table.rows[0][:2], table.rows[23][:2]) == (["0:00", f"{floors[0]}"], ["23:00", f"{floors[23]}"])
    assert isinstance(lines, Code)
    assert "kind: CronJob" in lines.text


def test_an_objective_of_nothing_refused_can_be_drawn(found: Found) -> None:
    strict = msgspec.structs.replace(advice(found.values), objective=Objective(refused=0.0, wait=0.0))
    made = recommended(found.record, found.values, strict, found.outcome, found.outcome, ORIGIN)
    assert "<svg" in html(made)


def test_a_simulation_is_judged_where_an_objective_is_given(found: Found) -> None:
    said = simulated(found.record, found.values, found.outcome, ORIGIN)
    assert (said.tone, said.outcome) == ("plain", "What the cluster would have done:")
    assert [fact.more for fact in said.facts[:2]] == ["", ""]
    strict, easy = Objective(0.0, 0.0), Objective(1.0, 1000.0)
    assert simulated(found.record, found.values, found.outcome, ORIGIN, strict).tone == "bad"
    assert simulated(found.record, found.values, found.outcome, ORIGIN, easy).tone == "good"
    minutes = parts(said, "Over time")[0]
    assert isinstance(minutes, Table)
    assert len(minutes.rows) == 10
    assert titles(said)[0] == "Beside what was recorded"
    alone = record(seen=False)
    assert titles(simulated(alone, found.values, found.outcome, ORIGIN))[0] == "Over time"


def test_decisions_are_explained_in_a_table(found: Found) -> None:
    made = explained(found.record, found.values, found.outcome, None, 3, ORIGIN)
    decided = parts(made, "Decisions")[0]
    assert isinstance(decided, Table)
    assert decided.rows
    assert all("Demand was" in row[4] for row in decided.rows)
    assert decided.rows[0][-1].endswith(": 2 wanted, 2 ready")
    last = parts(explained(found.record, found.values, found.outcome, 300.0, 2, ORIGIN), "Decisions")[0]
    assert isinstance(last, Table)
    assert [row[-1].partition(": ")[2] for row in last.rows] == ["5 wanted, 4 ready"] * 2
    none = explained(found.record, found.values, found.outcome, 0.0, 2, ORIGIN)
    assert [type(part) for part in parts(none, "Decisions")] == [str]


def test_a_records_words_stay_words(found: Found) -> None:
    sly = record(SLY)
    page = html(simulated(sly, found.values, found.outcome, ORIGIN._replace(record=SLY)))
    assert "<script" not in page
    assert "\x1b" not in page
    text = markdown(explained(sly, found.values, found.outcome, None, 3, ORIGIN._replace(record=SLY)))
    assert "\\<script>" in text
    assert "![x]\\(" in text
    huge = record("x" * 10**7)
    assert len(html(simulated(huge, found.values, found.outcome, ORIGIN))) < 300_000


def test_a_week_is_as_short_as_an_hour(found: Found) -> None:
    """Minutes, decisions and changes of a week, none of which makes the page longer than it may be."""
    minutes = 7 * 24 * 60
    changes = [
        msgspec.structs.replace(found.outcome.changes[0], at=15.0 * turn, wanted=turn % 9, ready=turn % 9)
        for turn in range(minutes * 4)
    ]
    long = msgspec.structs.replace(
        found.outcome,
        seconds=60.0 * minutes,
        minutes=found.outcome.minutes[:10] * (minutes // 10),
        changes=changes,
        decisions=found.outcome.decisions * 1000,
    )
    of = msgspec.structs.replace(
        found.record, header=msgspec.structs.replace(found.record.header, seconds=60.0 * minutes)
    )
    made = simulated(of, found.values, long, ORIGIN)
    assert len(html(made)) < 400_000
    assert len(markdown(made).encode()) < 20_000
    why = explained(of, found.values, long, None, 3, ORIGIN)
    assert len(html(why)) < 700_000
    assert len(markdown(why).encode()) < LIMIT
