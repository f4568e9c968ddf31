"""When a policy's schedule purges its class, and when it cuts its TTL. Pure: times are seconds since the epoch.

Cron times are those of a time zone, with Debian's rules where clocks change (cronsim): what was to be in the hour that
is left out comes right after it, and what is in the hour that comes twice comes once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from dub5_operator.crd import ScheduleSpec, seconds


class Cut(NamedTuple):
    """The TTL is at most `ttl` seconds until then."""

    ttl: float
    until: float


class Schedule:
    """To be made in a thread: zones are read from files. ValueError where an entry makes no sense."""

    def __init__(self, entries: Sequence[ScheduleSpec]) -> None:
        self._entries: list[tuple[ScheduleSpec, ZoneInfo]] = []
        for number, entry in enumerate(entries):
            try:
                self._entries.append((entry, ZoneInfo(entry.time_zone)))
                _times(*self._entries[-1], 0.0)
            except (CronSimError, ValueError) as error:
                raise ValueError(f"schedule[{number}]: {error}") from None
            except (KeyError, OSError):  # a zone's name may be that of a directory
                raise ValueError(f"schedule[{number}]: there is no time zone {entry.time_zone}") from None

    def next(self, now: float) -> float:
        """When something begins or ends after `now`; infinity where nothing ever does."""
        begin = [_first(_times(entry, zone, now)) for entry, zone in self._entries]
        ends = [cut.until for cut in self._cuts(now)]
        return min([each for each in begin if each is not None] + ends, default=math.inf)

    def purges(self, since: float, now: float, but: Collection[ScheduleSpec] = ()) -> bool:
        """Whether a purge was to be after `since`, until `now`, by other entries than those: late is better than never,
        and once is enough."""
        return any(
            entry.action == "Purge" and entry not in but and _last(entry, zone, now) > since
            for entry, zone in self._entries
        )

    def cut(self, now: float) -> Cut | None:
        """The shortest of those in force."""
        return min(self._cuts(now), default=None)

    def _cuts(self, now: float) -> list[Cut]:
        found = []
        for entry, zone in self._entries:
            if entry.ttl is not None and entry.for_ is not None:
                until = _last(entry, zone, now) + seconds(entry.for_)
                if now < until:
                    found.append(Cut(seconds(entry.ttl), until))
        return found


def _times(entry: ScheduleSpec, zone: ZoneInfo, at: float, *, reverse: bool = False) -> CronSim:
    """All times after `at`; the other way: all before."""
    return CronSim(entry.cron, datetime.fromtimestamp(at, zone), reverse)


def _first(times: CronSim) -> float | None:
    found = next(times, None)
    return found.timestamp() if found is not None else None


def _last(entry: ScheduleSpec, zone: ZoneInfo, now: float) -> float:
    """The last time that is not after `now`; minus infinity where there is none."""
    found = _first(_times(entry, zone, math.floor(now) + 1, reverse=True))
    return -math.inf if found is None else found
