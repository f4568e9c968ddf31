"""The record of a release that runs, from the Prometheus that scrapes it.

Rates and quantiles are Prometheus' own, so restarts of counters and pods that come and go are its business. What a
record cannot stand for is refused with the reason: no series, a time without scrapes, pods of two releases, replicas of
two sizes, a process that died and took its calls with it.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import httpx
import msgspec

from dub5.advisor.record import LONGEST, Arrivals, BadRecord, Header, Mix, Record, Seen, make

_TIMEOUT = 60.0
_MOST_POINTS = 10_000
"""Of one series in one answer; Prometheus itself gives 11,000."""

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_MIX = 300.0
"""Seconds that hits and followers are averaged over."""

_ROUTES = 'route=~"/v1/(chat/completions|completions|responses|messages)",outcome!="limited"'
Points = list[tuple[float, float]]


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: list[tuple[float, str]]


class _Data(msgspec.Struct):
    result: list[_Series]


class _Answer(msgspec.Struct):
    data: _Data


AskWhole = Callable[[str], Awaitable[list[_Series]]]
"""The series of a query about the whole time, as its end knows it."""


async def measure(
    url: str,
    selector: str,
    began: float,
    ended: float,
    header: Callable[[float, float], Header],
    *,
    scrape: float = 15.0,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Record:
    """What was between two Unix times. `selector` is PromQL's, such as `namespace="chat"`, and has to name one release.

    BadRecord where that cannot be told.
    """
    length = ended - began
    if not 60 <= length <= LONGEST:
        raise BadRecord(f"a record of {length:.0f} s: from a minute to {LONGEST // 86400} days can be had")
    step = max(scrape, math.ceil(length / _MOST_POINTS))
    window = math.ceil(max(60.0, 4 * step))
    every = math.floor(min(_MIX, length))
    async with httpx.AsyncClient(base_url=url.rstrip("/"), timeout=_TIMEOUT, transport=transport) as client:

        async def ask(query: str) -> list[_Series]:
            return await _ask(client, url, query, began, ended, step)

        async def ask_mix(results: str) -> list[_Series]:
            return await _ask(client, url, _share_of(selector, results, every), began + every, ended, every)

        async def ask_whole(query: str) -> list[_Series]:
            return await _ask(client, url, query, ended, ended, 1.0)

        pods = await ask(f"dub5_demand_requests{{{selector}}}")
        _check_pods(pods, selector, began, ended, step)
        over = f"{math.ceil(length)}s"
        await _check_processes(ask_whole, selector, over)
        rates, hits, followers, service = await asyncio.gather(
            ask(f"sum(rate(dub5_http_requests_total{{{selector},{_ROUTES}}}[{window}s]))"),
            ask_mix("local|shared|stale"),
            ask_mix("collapsed"),
            _service(ask_whole, selector, over),
        )
    return make(
        header(began, length),
        [
            Arrivals(at=0.0, step=step, requests=_requests(_points(rates), length, began, step, window)),
            *_mixes(_points(hits), _points(followers), service, began + every),
            *_seen(pods, began),
        ],
    )


async def _ask(
    client: httpx.AsyncClient, url: str, query: str, began: float, ended: float, every: float
) -> list[_Series]:
    asked = {"query": query, "start": f"{began}", "end": f"{ended}", "step": f"{every}"}
    try:
        answer = await client.get("/api/v1/query_range", params=asked)
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=_Answer).data.result
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
    except msgspec.MsgspecError as error:
        reason = str(error)
    raise BadRecord(f"{url} does not answer as Prometheus does: {reason}")


def _check_pods(pods: list[_Series], selector: str, began: float, ended: float, step: float) -> None:
    if not pods:
        raise BadRecord(f"Prometheus has no dub5_demand_requests{{{selector}}} in that time")
    # A pod is called RELEASE-TEMPLATE-POD.
    releases = {each.metric.get("pod", "?").rsplit("-", 2)[0] for each in pods}
    if len(releases) > 1:
        raise BadRecord(
            f"these are of several releases, {', '.join(sorted(releases))}: let --selector name one"
        )
    moments = sorted({moment for each in pods for moment, _ in each.values})
    for earlier, later in itertools.pairwise([began, *moments, ended]):
        if later - earlier > 3 * step:
            raise BadRecord(
                f"nothing was scraped from {_date(earlier)} to {_date(later)}: record a time without gaps"
            )


async def _check_processes(ask_whole: AskWhole, selector: str, over: str) -> None:
    capacity = f"dub5_capacity_requests{{{selector}}}[{over}]"
    if await ask_whole(f"min_over_time({capacity}) != scalar(max(max_over_time({capacity})))"):
        raise BadRecord(
            "replicas differ in admission.max_inflight: record a time before or after that was changed"
        )
    restarted = await ask_whole(f"changes(process_start_time_seconds{{{selector}}}[{over}]) > 0")
    names = sorted({each.metric.get("pod", "?") for each in restarted})
    if names:
        raise BadRecord(f"{', '.join(names)} restarted, and its calls were lost: record a time without that")


async def _service(ask_whole: AskWhole, selector: str, over: str) -> list[tuple[float, float]]:
    """Of the whole time: quantiles as the buckets know them, stretched to the true mean."""

    def increase(part: str) -> str:
        return f"(increase(dub5_provider_duration_seconds_{part}{{{selector}}}[{over}]))"

    buckets = f"sum by (le) {increase('bucket')}"
    answers = await asyncio.gather(
        ask_whole(f"sum {increase('sum')} / sum {increase('count')}"),
        *(ask_whole(f"histogram_quantile({each}, {buckets})") for each in _QUANTILES),
    )
    mean, *values = [points[-1][1] if (points := _points(each)) else math.nan for each in answers]
    if not all(math.isfinite(each) for each in (mean, *values)):
        raise BadRecord("no provider was called in that time: how long calls take is not known")
    shares, values = [0.0, *_QUANTILES], [values[0], *values]
    rough = sum(
        (later - earlier) * (low + high) / 2
        for (earlier, later), (low, high) in zip(
            itertools.pairwise(shares), itertools.pairwise(values), strict=True
        )
    )
    factor = mean / rough if rough > 0 else 1.0
    return [(share, value * factor) for share, value in zip(shares, values, strict=True)]


def _share_of(selector: str, results: str, window: int) -> str:
    """Of look-ups in the cache."""

    def lookups(more: str) -> str:
        return f"sum(rate(dub5_cache_lookups_total{{{selector}{more}}}[{window}s]))"

    some = f',result=~"{results}"'
    return f"{lookups(some)} / {lookups('')}"


def _requests(rates: Points, length: float, began: float, step: float, window: int) -> list[float]:
    """In each step. A rate stands for the middle of its window; where nothing came there may be none."""
    at = {round((moment - began) / step): rate for moment, rate in rates}
    steps = math.ceil(length / step)
    late = round(window / 2 / step)
    return [max(0.0, at.get(min(index + 1 + late, steps), 0.0)) * step for index in range(steps)]


def _mixes(
    hits: Points, followers: Points, service: list[tuple[float, float]], first_end: float
) -> list[Mix]:
    """Each point is about the time before it: that of the first, up to `first_end`, begins the record."""
    others = dict(followers)
    found = [
        Mix(
            at=max(0.0, moment - first_end),
            hits=min(1.0, max(0.0, share)),
            followers=min(1.0 - min(1.0, max(0.0, share)), max(0.0, others.get(moment, 0.0))),
            service=service,
        )
        for moment, share in hits
    ]
    first = msgspec.structs.replace(found[0], at=0.0) if found else Mix(service=service)
    return [first, *(each for each in found if each.at > 0)]


def _seen(pods: list[_Series], began: float) -> list[Seen]:
    """How many replicas were scraped, and what they said together."""
    at: dict[float, list[float]] = {}
    for each in pods:
        for moment, value in each.values:
            at.setdefault(moment, []).append(float(value))
    return [
        Seen(at=max(0.0, moment - began), ready=len(values), demand=sum(values))
        for moment, values in sorted(at.items())
    ]


def _points(series: list[_Series]) -> Points:
    values = [(moment, float(value)) for each in series[:1] for moment, value in each.values]
    return [(moment, value) for moment, value in values if math.isfinite(value)]


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
