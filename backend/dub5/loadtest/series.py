"""Figures of the service over time: range queries to Prometheus, or what an earlier report kept of them.

Each is one line for all replicas: a sum, or that of the replica that is worst off. A rate stands in the middle of the
window that it was taken over, so that it shows neither before nor after what a gauge shows.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec

from dub5.loadtest.prometheus import Points, Prometheus, Unanswered, number, scrape_interval, together
from dub5.loadtest.prometheus import Series as Answer
from dub5.loadtest.runs import Unreadable, read_text
from dub5.settings.model import Duration

_POINTS = 240
_SCRAPES = 4
"""Of a window, so that one that is lost leaves enough for a rate."""
_NO_SCRAPES = 15.0
"""Seconds between two where none was found."""

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
        async with Prometheus(url, transport=transport) as prometheus:
            if window is None:
                scrapes = await prometheus.at(f"dub5_demand_requests{{{pods}}}[2m]", ended)
                window = Duration(math.ceil(_SCRAPES * (scrape_interval(scrapes) or _NO_SCRAPES)))
            first = min(window, (ended - began) / 4)
            step = max(1.0, (ended - began) / _POINTS)
            asked = []
            for line in LINES.values():
                query = string.Template(line.query).substitute(pods=pods, window=window.written())
                start = began + first if line.rate else began
                asked.append(prometheus.over(query, start, ended, step))
            found = dict(zip(LINES, map(points, await together(*asked)), strict=True))
    except Unanswered as error:
        raise Unreadable(str(error)) from None
    for name, line in LINES.items():
        if line.rate:
            found[name] = [(moment - min(window, moment - began) / 2, value) for moment, value in found[name]]
    return Series(float(window), found)


def points(answer: Sequence[Answer]) -> Points:
    """The one series of an answer to a range query, without the moments in which it had no value."""
    values = answer[0].values if answer else []
    found = [(moment, number(value)) for moment, value in values]
    return [(moment, value) for moment, value in found if math.isfinite(value)]


def read_series(path: Path) -> Series:
    """What a report has kept; a folder's are in series.json."""
    file = path / "series.json" if path.is_dir() else path
    try:
        return msgspec.json.decode(read_text(file), type=Series)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Unreadable(f"{file}: {error}") from None
