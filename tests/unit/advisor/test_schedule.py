"""Floors by hour of the week: what a record says of them, how they are written, and what a simulation makes of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from dub5.advisor import schedule
from dub5.advisor.record import Arrivals, Callers, Header, Mix, Record, make
from dub5.advisor.schedule import HOURS, Span, cron_jobs, floors, hour_of_week, peaks, spans, triggers
from dub5.advisor.simulation import simulate
from dub5.advisor.values import of_values

FRIDAY = datetime(2026, 11, 27, tzinfo=UTC).timestamp()
CALLS = Mix(hits=0.5, service=[(0.0, 2.0), (1.0, 6.0)])
MORNING = [0] * 8 + [6] * 4 + [2] * 12
WORKDAYS = tuple(MORNING * 5 + [2] * 48)


def days(of: list[float], began: float = FRIDAY) -> Record:
    """Requests a second by the hour."""
    header = Header(source="days", began=began, seconds=3600.0 * len(of))
    return make(header, [Arrivals(at=0.0, step=3600.0, requests=[3600 * each for each in of]), CALLS])


@pytest.mark.parametrize(
    ("moment", "hour"),
    [
        (datetime(2026, 11, 23, tzinfo=UTC), 0),
        (datetime(2026, 11, 29, 23, 59, 59, tzinfo=UTC), 167),
        (datetime(2026, 11, 27, 9, 30, tzinfo=UTC), 4 * 24 + 9),
        (datetime(1970, 1, 5, tzinfo=UTC), 0),
    ],
)
def test_hours_of_the_week(moment: datetime, hour: int) -> None:
    assert hour_of_week(moment.timestamp()) == hour
    assert moment.weekday() * 24 + moment.hour == hour


def test_peaks_are_calls_at_once_by_hour_of_the_day_and_of_the_week() -> None:
    one_day = peaks(days([1.0] * 9 + [5.0] + [1.0] * 14))
    # Half of the requests are calls, of four seconds in the mean. What starts at nine is there shortly before.
    assert [round(peak) for peak in one_day[7:11]] == [2, 10, 10, 2]
    assert one_day[:24] * 7 == one_day
    eight_days = peaks(days([1.0] * 9 + [5.0] + [1.0] * 182))
    friday = 4 * 24 + 9
    assert eight_days[friday] == pytest.approx(10, rel=0.1)
    assert max(eight_days[: friday - 1] + eight_days[friday + 1 :]) == pytest.approx(2, rel=0.1)


def test_why_there_may_be_no_floors() -> None:
    assert schedule.why_not(days([1.0] * 24)) is None
    assert "which day" in str(schedule.why_not(days([1.0] * 24, began=0.0)))
    assert "shorter than a day" in str(schedule.why_not(days([1.0] * 23)))


def test_floors_have_few_levels_and_never_more_than_the_maximum() -> None:
    found = floors([float(hour) for hour in range(HOURS)], slots=5.0, most=30)
    assert all(5 * floor >= min(hour, 150) for hour, floor in enumerate(found))
    assert max(found) == 30
    assert len(set(found)) <= 6
    assert floors([0.0] * HOURS, slots=5.0, most=30) == (0,) * HOURS


def test_spans_group_days() -> None:
    assert spans(WORKDAYS, 2) == [Span((1, 2, 3, 4, 5), 8, 12, 6)]
    assert spans(WORKDAYS, 6) == []
    every_day = spans(MORNING * 7, 1)
    assert every_day == [Span(tuple(range(7)), 8, 12, 6), Span(tuple(range(7)), 12, 24, 2)]


def test_triggers_are_those_of_keda() -> None:
    morning, rest = triggers([*spans(WORKDAYS, 2), Span((5, 6), 22, 24, 3)])
    assert morning == {
        "type": "cron",
        "metadata": {
            "timezone": "Etc/UTC",
            "start": "0 8 * * 1,2,3,4,5",
            "end": "0 12 * * 1,2,3,4,5",
            "desiredReplicas": "6",
        },
    }
    assert rest["metadata"]["end"] == "0 0 * * 0,6", "midnight is the next day's"


def test_jobs_change_the_autoscaler_when_a_floor_does_and_may_do_nothing_else() -> None:
    objects = cron_jobs(schedule.changes(WORKDAYS, 2), "dub5", "kubectl:1")
    assert [each["kind"] for each in objects] == [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "CronJob",
        "CronJob",
    ]
    (rule,) = objects[1]["rules"]
    assert (rule["verbs"], rule["resourceNames"]) == (["get", "patch"], ["dub5"])
    jobs = [each["spec"] for each in objects[3:]]
    assert [job["schedule"] for job in jobs] == ["0 8 * * 1,2,3,4,5", "0 12 * * 1,2,3,4,5"]
    patches = [job["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"][-1] for job in jobs]
    assert [re.sub(r"\D", "", patch) for patch in patches] == ["6", "2"]


@pytest.mark.parametrize("mode", ["hpa", "keda"])
def test_replicas_are_there_before_the_load_of_an_hour_and_go_after_it(mode: str) -> None:
    record = make(
        Header(source="calm", began=FRIDAY + 7 * 3600, seconds=5 * 3600.0), [Callers(at=0.0, count=1), CALLS]
    )
    values = of_values({"autoscaling": {"mode": mode, "minReplicas": 1, "maxReplicas": 5}})
    hourly = (1,) * 8 + (6,) * 2 + (1,) * 14
    outcome = simulate(record, values, floors=hourly * 7)
    assert outcome.at(3590.0).wanted == 1
    assert outcome.at(3700.0).ready == 5, "as many as may be"
    assert outcome.at(3 * 3600 - 10.0).ready == 5
    assert outcome.at(3 * 3600 + 1800.0).wanted == 1
    assert simulate(record, values).most == 1
