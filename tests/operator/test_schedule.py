"""When a schedule purges and cuts: time zones, and days on which clocks change."""

from __future__ import annotations

import math
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from dub5_operator.crd import ScheduleSpec
from dub5_operator.schedule import Cut, Schedule

BERLIN = "Europe/Berlin"


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def purge(cron: str, zone: str = "UTC") -> Schedule:
    return Schedule([ScheduleSpec(cron=cron, action="Purge", time_zone=zone)])


def all_between(schedule: Schedule, begin: float, end: float) -> list[float]:
    found = []
    while (begin := schedule.next(begin)) < end:
        found.append(begin)
    return found


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("0 3 * * *", "UTC", "2026-11-26T02:59:59", "2026-11-26T03:00"),
        ("0 3 * * *", "UTC", "2026-11-26T03:00", "2026-11-27T03:00"),
        ("0 3 * * *", BERLIN, "2026-11-26T03:00", "2026-11-27T02:00"),
        ("0 3 * * *", BERLIN, "2026-07-26T03:00", "2026-07-27T01:00"),
        ("0 3 * * *", "Asia/Kolkata", "2026-11-26T00:00", "2026-11-26T21:30"),
        ("*/15 9-17 * * MON-FRI", "UTC", "2026-11-27T17:45", "2026-11-30T09:00"),
        ("0 0 29 2 *", "UTC", "2026-11-26T00:00", "2028-02-29T00:00"),
        ("0 0 L * *", "UTC", "2027-02-01T00:00", "2027-02-28T00:00"),
    ],
)
def test_the_next_time(cron: str, zone: str, after: str, expected: str) -> None:
    assert purge(cron, zone).next(at(after)) == at(expected)


def test_what_is_in_the_hour_that_is_left_out_comes_once_right_after_it() -> None:
    found = all_between(purge("30 2 * * *", BERLIN), at("2026-03-28T12:00"), at("2026-03-30T12:00"))
    assert found == [at("2026-03-29T01:00"), at("2026-03-30T00:30")]  # 03:00 and 02:30 of summer time


def test_what_is_in_the_hour_that_comes_twice_comes_once() -> None:
    found = all_between(purge("30 2 * * *", BERLIN), at("2026-10-24T12:00"), at("2026-10-26T12:00"))
    assert len(found) == 2
    hourly = all_between(purge("30 * * * *", BERLIN), at("2026-10-25T00:00"), at("2026-10-25T03:00"))
    assert hourly == [at("2026-10-25T00:30"), at("2026-10-25T01:30"), at("2026-10-25T02:30")]


def test_a_purge_is_due_from_its_time_on_and_not_again() -> None:
    schedule, three = purge("0 3 * * *"), at("2026-11-26T03:00")
    assert not schedule.purges(three - 60, three - 0.5)
    assert schedule.purges(three - 60, three)
    assert schedule.purges(three - 86400, three + 0.5)
    assert not schedule.purges(three, three + 3600)


def test_the_shortest_cut_is_in_force_until_it_ends() -> None:
    schedule = Schedule(
        [
            ScheduleSpec(cron="0 3 * * *", action="Cut", ttl="1m", for_="2h"),
            ScheduleSpec(cron="30 3 * * *", action="Cut", ttl="5s", for_="30m"),
        ]
    )
    begin = at("2026-11-26T03:00")
    assert schedule.cut(begin - 1) is None
    assert schedule.cut(begin) == Cut(60.0, begin + 7200)
    assert schedule.cut(begin + 1800) == Cut(5.0, begin + 3600)
    assert schedule.cut(begin + 3600) == Cut(60.0, begin + 7200)
    assert schedule.cut(begin + 7200) is None
    assert [schedule.next(begin + after) - begin for after in (0, 1800, 3600)] == [1800, 3600, 7200]


@pytest.mark.parametrize("zone", ["Atlantis", "Europe", "America/Argentina", "zone"])
def test_a_zone_that_there_is_not_is_named_and_no_file(zone: str) -> None:
    with pytest.raises(ValueError, match=rf"^schedule\[0\]: there is no time zone {zone}$"):
        purge("0 3 * * *", zone)


def test_without_entries_nothing_ever_happens() -> None:
    schedule = Schedule([])
    assert (schedule.next(0.0), schedule.cut(0.0), schedule.purges(0.0, 1e9)) == (math.inf, None, False)
