"""What counters and gauges of several replicas said at each scrape, laid over one even grid of time.

A counter's growth between two scrapes of it is spread evenly over the time between them. Where its value is less than
before, its process began anew, and the value is what grew since, as Prometheus' own `rate` takes it. Scrapes of
replicas fall at different moments: a bin of the grid is as long as the time between two scrapes, so nothing moves
further than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dub5.loadtest.prometheus import Series

Key = frozenset[tuple[str, str]]
"""All labels of a series."""


class Grid(NamedTuple):
    """`bins` of `step` seconds each from `began` on."""

    began: float
    step: float
    bins: int

    def spread(self, over: list[float], since: float, until: float, amount: float) -> None:
        """Add it evenly to those of that time; what is outside of the grid is left out."""
        low, high = (since - self.began) / self.step, (until - self.began) / self.step
        first, last = max(0, int(low)), min(self.bins - 1, int(high))
        for index in range(first, last + 1):
            inside = min(high, index + 1) - max(low, index)
            if inside > 0:
                over[index] += amount * inside / (high - low)


class Pod:
    """When it was scraped: first, last, and between which scrapes there was none for long (`gaps`)."""

    __slots__ = ("began", "first", "gaps", "last", "restarts")

    def __init__(self, first: float) -> None:
        self.first = self.last = first
        self.began: float | None = None
        """When its first process began, where that is known."""
        self.gaps: list[tuple[float, float]] = []
        self.restarts: set[float] = set()
        """Scrapes that found a counter below what it had been."""

    def seen(self, moment: float, longest: float) -> None:
        if moment - self.last > longest:
            self.gaps.append((self.last, moment))
        self.last = max(self.last, moment)


class Growth:
    """What a counter of all replicas grew by, in bins; `pods` are the replicas by name."""

    def __init__(self, grid: Grid, pods: Mapping[str, Pod], scrape: float) -> None:
        self.bins = [0.0] * grid.bins
        self.total = 0.0
        self._grid = grid
        self._pods = pods
        self._scrape = scrape
        self._last: dict[Key, tuple[float, float]] = {}

    def add(self, series: Series, pod: str) -> None:
        """The next samples of one series."""
        key = frozenset(series.metric.items())
        for moment, value in series.points:
            before = self._last.get(key) or self._before(pod, moment)
            if before is not None and moment > before[0]:
                since, past = before
                if value < past:
                    self._pods[pod].restarts.add(moment)
                    past = 0.0
                self._grid.spread(self.bins, since, moment, value - past)
                self.total += value - past
            if before is None or moment > before[0]:
                self._last[key] = moment, value

    def _before(self, pod: str, moment: float) -> tuple[float, float] | None:
        """Of a series that was not there before, which is 0 then; None where it may have been there, unseen."""
        found = self._pods.get(pod)
        if found is None:
            return None
        if moment > found.first + self._scrape / 2:  # labels that are new on a replica that was there
            return max(found.first, moment - self._scrape), 0.0
        if found.began is None or found.began < self._grid.began - self._scrape:
            return None
        return max(min(found.began, moment - 0.001), moment - 2 * self._scrape), 0.0


class Level:
    """The sum of a gauge over all replicas at the end of each bin, as it was scraped last; `growth` is its change,
    spread as a counter's growth is."""

    def __init__(self, grid: Grid, longest: float) -> None:
        self.bins = [0.0] * grid.bins
        self.growth = [0.0] * grid.bins
        self._grid = grid
        self._longest = longest
        self._last: dict[str, tuple[float, float]] = {}

    def add(self, series: Series, pod: str) -> None:
        grid = self._grid
        for moment, value in series.points:
            since, past = self._last.get(pod, (None, 0.0))
            if since is None:
                if moment > grid.began:  # it is new
                    grid.spread(self.growth, moment - grid.step, moment, value)
            elif moment > since:
                grid.spread(self.growth, since, moment, value - past)
                self._hold(since, min(moment, since + self._longest), past)
            if since is None or moment > since:
                self._last[pod] = moment, value

    def end(self) -> None:
        """No more samples come: the last ones count for one bin more."""
        for moment, value in self._last.values():
            self._hold(moment, moment + self._grid.step, value)

    def _hold(self, since: float, until: float, value: float) -> None:
        """It was so at the ends of the bins between."""
        grid = self._grid
        first = -int(-(since - grid.began) // grid.step)
        for index in range(max(0, first - 1), grid.bins):
            end = grid.began + (index + 1) * grid.step
            if end >= until:
                break
            self.bins[index] += value


def mixed(
    buckets: Iterable[tuple[float, float]], mean: float, longest: float
) -> list[tuple[float, float]] | None:
    """Points (share, seconds at most) of a histogram's distribution whose mean is known, or None of one without values.

    Within each bucket, of which the last is taken to reach to `longest`, values begin at its lower end, or end at its
    upper one, and lie as near to it as makes the mean.
    """
    pairs = sorted(buckets)
    count = pairs[-1][1] if pairs else 0.0
    if count <= 0:
        return None
    parts = []
    low, before = 0.0, 0.0
    for bound, cumulated in pairs:
        high = max(low, min(bound, longest))
        if cumulated > before:
            parts.append(((cumulated - before) / count, low, high))
        low, before = high, max(before, cumulated)
    least = sum(share * low for share, low, _ in parts)
    width = sum(share * (high - low) for share, low, high in parts)
    part = min(2.0, max(0.0, 2 * (mean - least) / width)) if width > 0 else 1.0
    points: list[tuple[float, float]] = []
    passed = 0.0
    for share, low, high in parts:
        begin = low if part <= 1 else high - (2 - part) * (high - low)
        end = low + part * (high - low) if part <= 1 else high
        points.append((min(1.0, passed), begin))
        passed += share
        points.append((min(1.0, passed), end))
    return points
