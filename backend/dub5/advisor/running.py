"""The record of a release that runs, from the Prometheus that scrapes it.

Samples are taken as they were scraped, and what counters grew by is laid over a grid as fine as the scrapes. What came
to the gate in a bin is what entered it, what it turned away, and what its queue grew by: that is exact, whatever became
of it. Hits and followers are the cache's lookups. How long calls took is told by their histogram for each while in
which there were enough of them. Where kube-state-metrics is scraped too, it tells how many replicas were wanted and how
long pods took to be ready.

What a record cannot stand for is refused with the reason: nothing there, a time without scrapes, replicas of two
releases, one that was scraped twice. What was only not as it should be (a process that began anew, a rollout, a replica
that was not scraped for a while) is in the record's notes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import httpx
import msgspec

from dub5.advisor.counters import Grid, Growth, Level, Pod, mixed
from dub5.advisor.record import (
    LONGEST,
    AnyLine,
    Arrivals,
    BadRecord,
    Header,
    Mix,
    Record,
    Seen,
    checked,
    make,
)
from dub5.loadtest.prometheus import (
    LATEST,
    Prometheus,
    Series,
    Together,
    Unanswered,
    number,
    scrape_interval,
    together,
)

_LOST = 4
"""So many scrapes may be missing in a row."""

_PART = 720
"""Scrapes that are asked for at once."""

_MOST_BINS = 200_000
_MOST_MIXES = 5000
_ENOUGH = 30
"""Requests that shares of them are told by, calls that their durations are."""

_SERVICE = 300.0
_MOST_NAMES = 5

_GATE = 'reason=~"queue_full|would_wait_too_long|queue_timeout"'
_CHAT = 'outcome="shed"'


async def measure(
    url: str,
    selector: str,
    last: float,
    until: float | None,
    header: Callable[[float, float], Header],
    *,
    headers: Sequence[tuple[str, str]] = (),
    transport: httpx.AsyncBaseTransport | None = None,
) -> Record:
    """What was in the `last` seconds up to a Unix time, or up to a minute ago by Prometheus' clock.

    `selector` is PromQL's, such as `namespace="chat"`, and has to name one release.

    BadRecord where that cannot be told.
    """
    if not 60 <= last <= LONGEST:
        raise BadRecord(f"a record of {last:.0f} s: from a minute to {LONGEST // 86400} days can be had")
    try:
        async with Prometheus(url, headers, transport) as prometheus:
            # Up to a minute ago all has been scraped.
            ended = math.floor(await _now(prometheus) - 60 if until is None else until)
            return await _Measuring(prometheus, selector, ended - last, float(ended)).record(header)
    except Unanswered as error:
        raise BadRecord(str(error)) from None


async def _now(prometheus: Prometheus) -> float:
    answer = await prometheus.at("vector(time())")
    if not answer or not answer[0].points:
        raise BadRecord("Prometheus does not say what time it is")
    now = answer[0].points[0][1]
    if not 2 * LONGEST <= now <= LATEST:
        raise BadRecord(f"Prometheus says that it is second {now:.15g}: that is no Unix time")
    return now


class _Measuring:
    """One record in the making."""

    def __init__(self, prometheus: Prometheus, selector: str, began: float, ended: float) -> None:
        self._prometheus = prometheus
        self._selector = selector
        self._began = began
        self._ended = ended
        self._scrape = 15.0
        self._pods: dict[str, Pod] = {}
        self._labels: dict[str, dict[str, str]] = {}
        """Of the demand of each replica."""
        self._moments: set[float] = set()
        """At which anything was scraped, to the second."""
        self._notes: list[str] = []

    async def record(self, header: Callable[[float, float], Header]) -> Record:
        self._scrape = await self._measured_scrape()
        length = self._ended - self._began
        step = max(self._scrape, length / _MOST_BINS)
        grid = Grid(self._began, step, math.ceil(length / step))
        demand = Level(grid, _LOST * self._scrape)
        await self._find_pods(demand)
        await self._find_when_they_began()
        growths, queued = await self._take(grid)
        async with Together() as group:
            service = group.create_task(self._service())
            wanted_then = group.create_task(self._wanted())
            taken = group.create_task(self._starts())
            capacity_then = group.create_task(self._capacity())
        wanted, starts, capacity = wanted_then.result(), taken.result(), capacity_then.result()
        self._note_what_was_odd()
        made = header(self._began, length)
        cluster = msgspec.structs.replace(
            made.cluster,
            replicas=made.cluster.replicas or (wanted[0][1] if wanted else self._there(self._began)) or None,
            **({"starts": starts} if starts else {}),
        )
        made = msgspec.structs.replace(
            made,
            pace=msgspec.structs.replace(made.pace, scrape=min(600.0, self._scrape)),
            cluster=cluster,
            values=made.values or ({"config": {"admission": {"max_inflight": capacity}}} if capacity else {}),
            notes=[*made.notes, *self._notes],
        )
        return checked(make(made, self._lines(grid, demand, growths, queued, service.result(), wanted)))

    # --- What there is ---

    async def _measured_scrape(self) -> float:
        found = await self._raw("dub5_demand_requests", "", self._began, min(self._ended, self._began + 3600))
        if not found:
            found = await self._raw("dub5_demand_requests", "", self._ended - 3600, self._ended)
        return max(0.5, round(scrape_interval(found) or 15.0, 1))

    async def _raw(self, name: str, more: str, began: float, ended: float) -> list[Series]:
        """Samples after `began`, up to `ended`."""
        matchers = ",".join(part for part in (self._selector, more) if part)
        return await self._prometheus.at(f"{name}{{{matchers}}}[{round(1000 * (ended - began))}ms]", ended)

    def _parts(self) -> Iterator[tuple[float, float]]:
        """Of the time, and some scrapes before and after it: growth is told by the scrapes around it."""
        begin, last = self._began - _LOST * self._scrape, self._ended + 2 * self._scrape
        while begin < last:
            end = min(last, begin + _PART * self._scrape)
            yield begin, end
            begin = end

    async def _find_pods(self, demand: Level) -> None:
        longest = _LOST * self._scrape
        for begin, end in self._parts():
            for series in await self._raw("dub5_demand_requests", "", begin, end):
                name = _name(series)
                points = series.points
                if not points:
                    continue
                self._check_twice(name, series, points[0][0])
                pod = self._pods.setdefault(name, Pod(points[0][0]))
                for moment, value in points:
                    if value < 0:
                        raise BadRecord(f"dub5_demand_requests of {name} is {value:g} at {_date(moment)}")
                    pod.seen(moment, longest)
                    self._moments.add(round(moment))
                demand.add(series, name)
        demand.end()
        self._check_releases()
        self._check_gaps(longest)

    def _check_twice(self, name: str, series: Series, moment: float) -> None:
        known = self._labels.setdefault(name, series.metric)
        if known == series.metric or moment > self._pods[name].last:
            self._labels[name] = series.metric
            return
        label = next(
            each for each in {**known, **series.metric} if known.get(each) != series.metric.get(each)
        )
        raise BadRecord(
            f"{name} was scraped twice, with {label}={known.get(label, '')!r} and {series.metric.get(label, '')!r}: "
            f'add {label}="{known.get(label, "")}" to --selector'
        )

    def _check_releases(self) -> None:
        if not self._pods:
            raise BadRecord(
                f"Prometheus has no dub5_demand_requests{{{self._selector}}} from {_date(self._began)} to "
                f"{_date(self._ended)}"
            )
        releases = {(each.get("namespace", ""), _release(each)) for each in self._labels.values()}
        if len(releases) > 1:
            names = sorted(f"{release} in {space}" if space else release for space, release in releases)
            space, release = min(releases)
            one = ([f'namespace="{space}"'] if space else []) + [_pods_of(release)]
            raise BadRecord(
                f"these are of several releases, {_some(names)}: name one, such as --selector '{','.join(one)}'"
            )

    def _check_gaps(self, longest: float) -> None:
        moments = sorted(each for each in self._moments if self._began <= each <= self._ended)
        for earlier, later in itertools.pairwise([self._began, *moments, self._ended]):
            if later - earlier > longest + 1:
                first = earlier == self._began and moments
                hint = f"; it is there from {_date(later)} on" if first else ""
                raise BadRecord(
                    f"nothing was scraped from {_date(earlier)} to {_date(later)}{hint}: "
                    "record a time without gaps, with --last and --until"
                )

    async def _find_when_they_began(self) -> None:
        over = f"[{round(1000 * (self._ended - self._began + _LOST * self._scrape))}ms]"
        query = f"min_over_time(process_start_time_seconds{{{self._of_release('')}}}{over})"
        for series in await self._prometheus.at(query, self._ended):
            pod = self._pods.get(_name(series))
            if pod is not None and series.points:
                pod.began = series.points[0][1]

    def _of_release(self, more: str) -> str:
        """Matchers of what other exporters have, too."""
        release = _release(next(iter(self._labels.values())))
        pods = _pods_of(release) if release else ""
        return ",".join(part for part in (self._selector, pods, more) if part)

    # --- What was counted ---

    async def _take(self, grid: Grid) -> tuple[dict[str, Growth], Level]:
        """Growths by what they are of, and the queue."""
        asked = {
            "entered": ("dub5_queue_wait_seconds_count", ""),
            "at once": ("dub5_queue_wait_seconds_bucket", 'le="0.001"'),
            "turned away": ("dub5_shed_total", _GATE),
            "timed out": ("dub5_shed_total", 'reason="queue_timeout"'),
            "refused": ("dub5_http_requests_total", _CHAT),
            "hits": ("dub5_cache_lookups_total", 'result=~"local|shared|stale"'),
            "followers": ("dub5_cache_lookups_total", 'result="collapsed"'),
        }
        growths = {name: Growth(grid, self._pods, self._scrape) for name in asked}
        queued = Level(grid, _LOST * self._scrape)
        for begin, end in self._parts():
            *answers, waiting = await together(
                *(self._raw(metric, more, begin, end) for metric, more in asked.values()),
                self._raw("dub5_queued_requests", "", begin, end),
            )
            for growth, found in zip(growths.values(), answers, strict=True):
                for series in found:
                    growth.add(series, _name(series))
            for series in waiting:
                queued.add(series, _name(series))
        queued.end()
        return growths, queued

    async def _service(self) -> list[tuple[float, list[tuple[float, float]]]]:
        """From when on calls took how long."""
        length = self._ended - self._began
        every = min(length, max(_SERVICE, 4 * self._scrape, math.ceil(length / _MOST_MIXES)))

        def increase(part: str) -> str:
            name = f"dub5_provider_duration_seconds_{part}{{{self._selector}}}"
            return f"(increase({name}[{math.ceil(every)}s]))"

        first = self._began + every
        buckets, sums, counts = await together(
            self._prometheus.over(f"sum by (le) {increase('bucket')}", first, self._ended, every),
            self._prometheus.over(f"sum {increase('sum')}", first, self._ended, every),
            self._prometheus.over(f"sum {increase('count')}", first, self._ended, every),
        )
        at: dict[float, dict[float, float]] = {}
        for series in buckets:
            bound = number(series.metric.get("le", "nan"))
            for moment, value in series.points:
                at.setdefault(moment, {})[bound] = value
        totals, taken = (dict(found[0].points) if found else {} for found in (sums, counts))
        return list(_whiles(at, totals, taken, self._began, every))

    async def _capacity(self) -> int | None:
        over = f"[{round(1000 * (self._ended - self._began))}ms]"
        told = {
            series.points[0][1]
            for operation in ("min_over_time", "max_over_time")
            for series in await self._prometheus.at(
                f"{operation}(dub5_capacity_requests{{{self._selector}}}{over})", self._ended
            )
            if series.points
        }
        if len(told) > 1:
            self._notes.append(
                f"admission.max_inflight was changed meanwhile, between {min(told):g} and {max(told):g}: "
                "what was seen of replicas is of both."
            )
        return round(max(told)) if told and min(told) >= 1 else None

    # --- What kube-state-metrics tells ---

    def _of_kubernetes(self, kind: str) -> str | None:
        """Matchers of a Deployment or its pods; None where replicas do not say what they are."""
        labels = next(iter(self._labels.values()))
        release = _release(labels)
        if not release or not labels.get("namespace"):
            return None
        which = f'deployment="{release}"' if kind == "deployment" else _pods_of(release)
        return f'namespace="{labels["namespace"]}",{which}'

    async def _wanted(self) -> list[tuple[float, int]]:
        """From when on so many replicas were."""
        matchers = self._of_kubernetes("deployment")
        if matchers is None:
            return []
        step = max(self._scrape, (self._ended - self._began) / 10_000)
        found = await self._prometheus.over(
            f"max(kube_deployment_spec_replicas{{{matchers}}})", self._began, self._ended, step
        )
        return [(moment, round(value)) for series in found[:1] for moment, value in series.points]

    async def _starts(self) -> tuple[float, ...]:
        """Seconds from when pods were made until they were ready, of those that were made meanwhile."""
        matchers = self._of_kubernetes("pod")
        if matchers is None:
            return ()
        over = f"[{round(1000 * (self._ended - self._began))}ms]"
        made, ready = await together(
            self._prometheus.at(f"min_over_time(kube_pod_created{{{matchers}}}{over})", self._ended),
            self._prometheus.at(
                f"min_over_time(kube_pod_status_ready_time{{{matchers}}}{over})", self._ended
            ),
        )
        since = {_name(series): series.points[0][1] for series in made if series.points}
        until = {_name(series): series.points[0][1] for series in ready if series.points}
        taken = (
            until[name] - since[name]
            for name in since
            if name in until and name in self._pods and since[name] >= self._began
        )
        found = tuple(sorted(min(3600.0, max(0.5, each)) for each in taken))
        came = sum(pod.began is not None and pod.began >= self._began for pod in self._pods.values())
        if came and not found:
            self._notes.append(
                f"How long {came} new pods took to be ready is not known, since kube-state-metrics is not scraped: "
                "--starts can say it."
            )
        return found[:10_000]

    # --- What becomes of it ---

    def _there(self, moment: float) -> int:
        """Replicas that were scraped then."""
        slack = self._scrape + 1
        return sum(pod.first <= moment + slack and pod.last >= moment for pod in self._pods.values())

    def _note_what_was_odd(self) -> None:
        restarted = sorted(name for name, pod in self._pods.items() if pod.restarts)
        if restarted:
            when = min(moment for pod in self._pods.values() for moment in pod.restarts)
            self._notes.append(
                f"{_some(restarted)} began anew in place (first seen at {_date(when)}): "
                "what was lost with the process may have been asked again, and is counted again then."
            )
        rollouts = sorted(
            {
                (self._pods[name].first, labels["pod"].split("-")[-2])
                for name, labels in self._labels.items()
                if _release(labels) and labels["pod"].count("-") > 1
            }
        )
        templates = list(dict.fromkeys(template for _, template in rollouts))
        if len(templates) > 1:
            firsts = [min(at for at, each in rollouts if each == template) for template in templates[1:]]
            moments = ", ".join(_date(at) for at in firsts[:_MOST_NAMES])
            self._notes.append(
                f"The release was rolled out meanwhile ({moments}): replicas of two templates are counted together."
            )
        gaps = sorted((*gap, name) for name, pod in self._pods.items() for gap in pod.gaps)
        for since, until, name in gaps[:_MOST_NAMES]:
            self._notes.append(
                f"{name} was not scraped from {_date(since)} to {_date(until)}: what it did then is spread evenly."
            )
        if len(gaps) > _MOST_NAMES:
            self._notes.append(
                f"There were {len(gaps) - _MOST_NAMES} more times in which a replica was not scraped."
            )
        self._notes += [
            f"Prometheus warned: {each}" for each in sorted(self._prometheus.warnings)[:_MOST_NAMES]
        ]

    def _lines(
        self,
        grid: Grid,
        demand: Level,
        growths: dict[str, Growth],
        queued: Level,
        service: list[tuple[float, list[tuple[float, float]]]],
        wanted: list[tuple[float, int]],
    ) -> Iterator[AnyLine]:
        entered, away = growths["entered"].bins, growths["turned away"].bins
        hits, followers = growths["hits"].bins, growths["followers"].bins
        calls = [max(0.0, sum(each)) for each in zip(entered, away, queued.growth, strict=True)]
        requests = [sum(each) for each in zip(calls, hits, followers, strict=True)]
        yield Arrivals(at=0.0, step=grid.step, requests=[round(each, 4) for each in requests])
        yield from _mixes(grid, requests, hits, followers, service)
        yield from self._seen(grid, requests, demand, growths, queued, wanted)

    def _seen(
        self,
        grid: Grid,
        requests: list[float],
        demand: Level,
        growths: dict[str, Growth],
        queued: Level,
        wanted: list[tuple[float, int]],
    ) -> Iterator[Seen]:
        """At the end of each bin, where it is not what it was before."""
        refused = list(itertools.accumulate(growths["refused"].bins))
        waited = list(
            itertools.accumulate(
                max(0.0, entered - at_once + late)
                for entered, at_once, late in zip(
                    growths["entered"].bins, growths["at once"].bins, growths["timed out"].bins, strict=True
                )
            )
        )
        came = list(itertools.accumulate(requests))
        before, turn = None, 0
        for index in range(grid.bins):
            at = min((index + 1) * grid.step, self._ended - self._began)
            while turn + 1 < len(wanted) and wanted[turn + 1][0] <= self._began + at:
                turn += 1
            now = Seen(
                at=at,
                wanted=wanted[turn][1] if wanted else None,
                ready=self._at_end(at),
                demand=round(demand.bins[index], 3),
                queued=round(queued.bins[index], 3),
                requests=round(came[index], 3),
                shed=round(refused[index], 3),
                waited=round(waited[index], 3),
            )
            if (
                before is None
                or index == grid.bins - 1
                or msgspec.structs.replace(now, at=before.at) != before
            ):
                yield now
                before = now

    def _at_end(self, at: float) -> int:
        moment = self._began + at
        return sum(pod.first <= moment <= pod.last + self._scrape for pod in self._pods.values())


def _whiles(
    at: dict[float, dict[float, float]],
    totals: dict[float, float],
    taken: dict[float, float],
    began: float,
    every: float,
) -> Iterator[tuple[float, list[tuple[float, float]]]]:
    """Those with enough calls; what has too few is counted with what follows, the last with what was before."""
    whiles: list[tuple[float, dict[float, float], float, float]] = []
    for moment in sorted(at):
        begin, buckets = max(0.0, moment - every - began), at[moment]
        total, count = totals.get(moment, 0.0), taken.get(moment, 0.0)
        if whiles and whiles[-1][3] < _ENOUGH:
            begin, more, total, count = (
                whiles[-1][0],
                {bound: value + whiles[-1][1].get(bound, 0.0) for bound, value in buckets.items()},
                total + whiles[-1][2],
                count + whiles[-1][3],
            )
            buckets = more
            whiles.pop()
        whiles.append((begin, buckets, total, count))
    if len(whiles) > 1 and whiles[-1][3] < _ENOUGH:
        whiles.pop()
    longest = 2 * max((bound for each in at.values() for bound in each if math.isfinite(bound)), default=0.0)
    for index, (begin, buckets, total, count) in enumerate(whiles):
        mean = total / count if count > 0 else 0.0
        points = mixed(buckets.items(), mean, longest)
        if points is None:
            raise BadRecord("no call to a provider ended in that time: how long calls take is not known")
        # A call is counted when it ends.
        yield (max(0.0, begin - mean) if index else 0.0), [(round(a, 6), round(b, 4)) for a, b in points]
    if not whiles:
        raise BadRecord("no call to a provider ended in that time: how long calls take is not known")


def _mixes(
    grid: Grid,
    requests: list[float],
    hits: list[float],
    followers: list[float],
    service: list[tuple[float, list[tuple[float, float]]]],
) -> Iterator[Mix]:
    """As short as there are enough requests in each."""
    begin, turn, came = 0, 0, 0.0
    least = math.ceil(grid.bins / _MOST_MIXES)
    before = None
    for index in range(grid.bins):
        came += requests[index]
        last = index == grid.bins - 1
        if not last and (came < _ENOUGH or index + 1 - begin < least):
            continue
        at = begin * grid.step
        while turn + 1 < len(service) and service[turn + 1][0] <= at:
            turn += 1
        hit = sum(hits[begin : index + 1]) / came if came > 0 else 0.0
        follow = sum(followers[begin : index + 1]) / came if came > 0 else 0.0
        now = Mix(at=at, hits=round(min(1.0, hit), 5), followers=0.0, service=service[turn][1])
        now = msgspec.structs.replace(now, followers=round(max(0.0, min(follow, 1 - now.hits)), 5))
        if before is None or msgspec.structs.replace(now, at=before.at) != before:
            yield now
            before = now
        begin, came = index + 1, 0.0


def _name(series: Series) -> str:
    """Of a replica: its pod, or where it was scraped."""
    return series.metric.get("pod") or series.metric.get("instance") or "?"


def _release(labels: dict[str, str]) -> str:
    """A pod is called RELEASE-TEMPLATE-POD; empty where it is not known which pod it was."""
    return labels.get("pod", "").rsplit("-", 2)[0]


def _pods_of(release: str) -> str:
    """A matcher."""
    return f'pod=~"{release}-[a-z0-9]+-[a-z0-9]+"'


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
