"""Figures of the service over time: range queries to Prometheus, or what an earlier report kept of them.

Each is one line for all replicas: a sum, or that of the replica that is worst off. A rate stands in the middle of the
window that it was taken over, so that it shows neither before nor after what a gauge shows.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import string
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec

from dub5.loadtest.runs import Unreadable, read_text
from dub5.report.document import clean
from dub5.settings.model import Duration

_POINTS = 240
_TIMEOUT = 30.0
_MOST_WORDS = 300
"""Characters of what a server says of itself."""
_SCRAPES = 4
"""Of a window, so that one that is lost leaves enough for a rate."""
_NO_SCRAPES = 15.0
"""Seconds between two where none was found."""

Points = list[tuple[float, float]]
"""(Unix time in seconds, value), in order."""

Lines = dict[str, Points]


class Series(msgspec.Struct, frozen=True):
    """Lines, and the window of their rates in seconds."""

    window: float
    lines: Lines


class Line(NamedTuple):
    """`query` is PromQL; `$pods` stands for what selects the replicas, `$window` for the window of rates."""

    title: str
    unit: str
    query: str

    @property
    def rate(self) -> bool:
        return "$window" in self.query


def _rate(metric: str, more: str = "") -> str:
    return f"sum(rate(dub5_{metric}{{$pods{more}}}[$window]))"


def _quantile(quantile: float, metric: str, more: str = "") -> str:
    return f"histogram_quantile({quantile}, sum by (le) (rate(dub5_{metric}_bucket{{$pods{more}}}[$window])))"


def _mean(metric: str, more: str = "") -> str:
    return f"{_rate(f'{metric}_sum', more)} / {_rate(f'{metric}_count', more)}"


_OF_REPLICAS = " and on (job, instance) dub5_demand_requests{$pods})"
"""Every exporter has these figures: only those of our processes count."""

_HITS = ',result=~"local|shared|stale"'
_CHAT = ',route="/v1/chat/completions"'

LINES: dict[str, Line] = {
    "requests": Line("answers", "per s", _rate("http_requests_total", _CHAT)),
    # What came in is what went out, and what there is more of inside.
    "arrivals": Line(
        "requests",
        "per s",
        f"clamp_min({_rate('http_requests_total', _CHAT)} + sum(deriv(dub5_inflight_requests{{$pods}}[$window]))"
        " + sum(deriv(dub5_queued_requests{$pods}[$window])), 0)",
    ),
    "errors": Line(
        "errors",
        "per s",
        _rate("http_requests_total", _CHAT + ',outcome!~"ok|client_disconnect|client_error|limited"')
        + " or vector(0)",
    ),
    # Means, since they are exact: a quantile is only as good as its bucket, and theirs are as wide as their bounds.
    "first_byte": Line(
        "time to first byte, mean",
        "s",
        _mean("http_time_to_first_byte_seconds", _CHAT + ',outcome="ok"'),
    ),
    "demand": Line("demand", "requests", "sum(dub5_demand_requests{$pods})"),
    "replicas": Line("replicas", "", "count(dub5_demand_requests{$pods})"),
    "gate": Line(
        "gate in use", "share", "max(dub5_inflight_requests{$pods} / dub5_capacity_requests{$pods})"
    ),
    "inflight": Line("provider calls under way", "requests", "sum(dub5_inflight_requests{$pods})"),
    "queued": Line("queue", "requests", "sum(dub5_queued_requests{$pods})"),
    "shed": Line("turned away", "per s", _rate("shed_total") + " or vector(0)"),
    "cpu": Line(
        "CPU, busiest replica", "cores", "max(rate(process_cpu_seconds_total{$pods}[$window])" + _OF_REPLICAS
    ),
    "cpu_wait": Line(
        "waiting for a CPU, worst replica", "share", "max(rate(dub5_cpu_wait_seconds_total{$pods}[$window]))"
    ),
    "loop": Line("event loop lag, p99", "s", _quantile(0.99, "event_loop_lag_seconds")),
    "memory": Line(
        "memory, largest replica", "bytes", "max(process_resident_memory_bytes{$pods}" + _OF_REPLICAS
    ),
    "memory_limit": Line("limit of memory", "bytes", "min(dub5_memory_limit_bytes{$pods})"),
    "redis": Line("Redis, p95", "s", _quantile(0.95, "redis_duration_seconds")),
    "redis_errors": Line("failed cache operations", "per s", _rate("cache_errors_total") + " or vector(0)"),
    "provider": Line("provider's first token, mean", "s", _mean("provider_time_to_first_token_seconds")),
    "provider_errors": Line(
        "failed provider calls",
        "per s",
        _rate("provider_requests_total", ',outcome!="ok"') + " or vector(0)",
    ),
    # Where as many wait as may, calls are turned away at once, and between two of them nobody may be waiting.
    "provider_waiting": Line(
        "waiting for the provider's limit, or turned away by it each second",
        "requests",
        f"sum(dub5_provider_waiting_requests{{$pods}}) + ({_rate('provider_rejected_total')} or vector(0))",
    ),
    "hits": Line(
        "hit ratio",
        "share",
        f"({_rate('cache_lookups_total', _HITS)} or vector(0)) / {_rate('cache_lookups_total')}",
    ),
    "sent": Line("bytes of answers", "per s", _rate("network_bytes_total", ',direction="out"')),
}


async def ask_prometheus(
    url: str,
    *,
    began: float,
    ended: float,
    pods: str,
    window: Duration | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Series:
    """All lines between two Unix times. `pods` is a selector such as `namespace="chat"`; Unreadable where it fails.

    `window` is that of rates; by default four scrapes. Rates of a run's beginning are those of what there is of it: the
    first stand where a quarter of the run is over, or a window.
    """
    try:
        address = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL:
        raise Unreadable("--prometheus: write an address such as http://prometheus.monitoring:9090") from None
    # Logs have what is said of a failure: no password is in it.
    shown = address.copy_with(username=None, password=None, query=None)
    async with httpx.AsyncClient(base_url=address, timeout=_TIMEOUT, transport=transport) as client:

        async def ask(path: str, **asked: str) -> bytes:
            try:
                answer = await client.get(f"/api/v1/{path}", params=asked)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise failed(str(error) or type(error).__name__) from None
            if answer.status_code != httpx.codes.OK:
                raise failed(f"HTTP {answer.status_code}: {clean(answer.text, _MOST_WORDS)}")
            return answer.content

        def failed(reason: str) -> Unreadable:
            return Unreadable(f"{shown} does not answer as Prometheus does: {reason}")

        if window is None:
            scrapes = await ask("query", query=f"dub5_demand_requests{{{pods}}}[2m]", time=f"{ended}")
            window = Duration(math.ceil(_SCRAPES * interval(scrapes)))
        first = min(window, (ended - began) / 4)
        step = max(1.0, (ended - began) / _POINTS)

        async def one(line: Line) -> Points:
            query = string.Template(line.query).substitute(pods=pods, window=window.written())
            start = began + first if line.rate else began
            answer = await ask("query_range", query=query, start=f"{start}", end=f"{ended}", step=f"{step}")
            if not line.rate:
                return points(answer)
            return [(moment - min(window, moment - began) / 2, value) for moment, value in points(answer)]

        found = await asyncio.gather(*(one(line) for line in LINES.values()))
    return Series(float(window), dict(zip(LINES, found, strict=True)))


def interval(answer: bytes) -> float:
    """Seconds between two scrapes, from all samples of a gauge in a while."""
    moments = [[moment for moment, _ in series.values] for series in _decoded(answer)]
    gaps = [later - earlier for each in moments for earlier, later in itertools.pairwise(each)]
    return statistics.median(gaps) if gaps else _NO_SCRAPES


class _Series(msgspec.Struct):
    values: list[tuple[float, str]]


class _Data(msgspec.Struct):
    result: list[_Series]


class _Answer(msgspec.Struct):
    data: _Data


def points(answer: bytes) -> Points:
    """The one series of an answer to a range query, without the moments in which it had no value."""
    series = _decoded(answer)
    try:
        values = [(moment, float(value)) for moment, value in series[0].values] if series else []
    except ValueError as error:
        raise _none(error) from None
    return [(moment, value) for moment, value in values if math.isfinite(value)]


def _decoded(answer: bytes) -> list[_Series]:
    try:
        return msgspec.json.decode(answer, type=_Answer).data.result
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _none(error) from None


def _none(error: Exception) -> Unreadable:
    return Unreadable(f"this is no answer of Prometheus to a range query: {error}")


def read_series(path: Path) -> Series:
    """What a report has kept; a folder's are in series.json."""
    file = path / "series.json" if path.is_dir() else path
    try:
        return msgspec.json.decode(read_text(file), type=Series)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Unreadable(f"{file}: {error}") from None
