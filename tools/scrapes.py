"""The lines of a load-test report from one replica's own /metrics: for runs on a machine that has no Prometheus.

Two scrapes make one point of each line, over the time between them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from dub5.loadtest.series import LINES, Lines, Series

INTERVAL = 1.0
CHAT = {"route": "/v1/chat/completions"}


class Scrape(NamedTuple):
    """Samples by name: (labels, value)."""

    at: float
    samples: dict[str, list[tuple[dict[str, str], float]]]

    def total(self, name: str, **labels: str) -> float:
        """The sum over the labels that are left out; NaN where there is no such figure."""
        found = [value for own, value in self.samples.get(name, []) if labels.items() <= own.items()]
        return math.fsum(found) if found else math.nan

    def buckets(self, name: str, **labels: str) -> dict[float, float]:
        made: dict[float, float] = {}
        for own, value in self.samples.get(f"{name}_bucket", []):
            if labels.items() <= own.items():
                bound = float(own["le"])
                made[bound] = made.get(bound, 0.0) + value
        return made


def parsed(text: str, at: float) -> Scrape:
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return Scrape(at, samples)


class Between:
    """What happened between two scrapes."""

    def __init__(self, before: Scrape, now: Scrape) -> None:
        self.before, self.now = before, now
        self._seconds = now.at - before.at

    def rate(self, name: str, **labels: str) -> float:
        """Per second; a series that is new began at 0."""
        was = self.before.total(name, **labels)
        return (self.now.total(name, **labels) - (0.0 if math.isnan(was) else was)) / self._seconds

    def some(self, name: str, labels: str, wanted: Callable[[str], bool], **more: str) -> float:
        """The rate of those whose label is wanted."""
        values = {own[labels] for own, _ in self.now.samples.get(name, []) if wanted(own[labels])}
        return math.fsum(self.rate(name, **{labels: value}, **more) for value in values)

    def mean(self, name: str, **labels: str) -> float:
        """Of what a histogram was given."""
        return self.ratio(self.rate(f"{name}_sum", **labels), self.rate(f"{name}_count", **labels))

    @staticmethod
    def at_least_0(value: float) -> float:
        """NaN stays."""
        return 0.0 if value < 0 else value

    @staticmethod
    def ratio(part: float, whole: float) -> float:
        return part / whole if whole else math.nan

    def quantile(self, quantile: float, name: str, **labels: str) -> float:
        """As Prometheus' histogram_quantile: linear inside a bucket."""
        was = self.before.buckets(name, **labels)
        counts = {
            bound: value - was.get(bound, 0.0) for bound, value in self.now.buckets(name, **labels).items()
        }
        bounds = sorted(counts)
        if not bounds or counts[bounds[-1]] <= 0:
            return math.nan
        wanted = quantile * counts[bounds[-1]]
        lower, below = 0.0, 0.0
        for bound in bounds:
            if counts[bound] >= wanted:
                inside = counts[bound] - below
                return lower if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / inside
            lower, below = bound, counts[bound]
        return math.nan


_BAD = {"shed", "provider_error", "server_error"}
_HITS = {"local", "shared", "stale"}

FIGURES: dict[str, Callable[[Between], float]] = {
    "requests": lambda two: two.rate("dub5_http_requests_total", **CHAT),
    "errors": lambda two: two.some("dub5_http_requests_total", "outcome", _BAD.__contains__, **CHAT),
    "arrivals": lambda two: two.at_least_0(
        two.rate("dub5_http_requests_total", **CHAT)
        + two.rate("dub5_inflight_requests")
        + two.rate("dub5_queued_requests")
    ),
    "first_byte": lambda two: two.mean("dub5_http_time_to_first_byte_seconds", outcome="ok", **CHAT),
    "demand": lambda two: two.now.total("dub5_demand_requests"),
    "replicas": lambda _: 1.0,
    "gate": lambda two: two.now.total("dub5_inflight_requests") / two.now.total("dub5_capacity_requests"),
    "inflight": lambda two: two.now.total("dub5_inflight_requests"),
    "queued": lambda two: two.now.total("dub5_queued_requests"),
    "shed": lambda two: two.some("dub5_shed_total", "reason", bool),
    "cpu": lambda two: two.rate("process_cpu_seconds_total"),
    "cpu_wait": lambda two: two.rate("dub5_cpu_wait_seconds_total"),
    "loop": lambda two: two.quantile(0.99, "dub5_event_loop_lag_seconds"),
    "memory": lambda two: two.now.total("process_resident_memory_bytes"),
    "memory_limit": lambda two: two.now.total("dub5_memory_limit_bytes"),
    "redis": lambda two: two.quantile(0.95, "dub5_redis_duration_seconds"),
    "redis_errors": lambda two: two.some("dub5_cache_errors_total", "operation", bool),
    "provider": lambda two: two.mean("dub5_provider_time_to_first_token_seconds"),
    "provider_errors": lambda two: two.some("dub5_provider_requests_total", "outcome", lambda it: it != "ok"),
    "provider_waiting": lambda two: (
        two.now.total("dub5_provider_waiting_requests")
        + two.some("dub5_provider_rejected_total", "provider", bool)
    ),
    "hits": lambda two: two.ratio(
        two.some("dub5_cache_lookups_total", "result", _HITS.__contains__),
        two.rate("dub5_cache_lookups_total"),
    ),
    "sent": lambda two: two.rate("dub5_network_bytes_total", direction="out"),
}


class Recorder:
    """Scrapes `operations` every `INTERVAL` until it is stopped; `series` is what has come of it."""

    def __init__(self, operations: str) -> None:
        self._url = f"{operations.rstrip('/')}/metrics"
        self._scrapes: list[Scrape] = []

    async def run(self) -> None:
        async with httpx.AsyncClient(timeout=10) as client:
            while True:
                answer = await client.get(self._url)
                self._scrapes.append(parsed(answer.raise_for_status().text, time.time()))
                await asyncio.sleep(INTERVAL)

    def series(self) -> Series:
        made: Lines = {name: [] for name in LINES}
        for before, now in zip(self._scrapes, self._scrapes[1:], strict=False):
            two = Between(before, now)
            for name, figure in FIGURES.items():
                value = figure(two)
                if math.isfinite(value):
                    made[name].append(((before.at + now.at) / 2 if LINES[name].rate else now.at, value))
        return Series(INTERVAL, made)
