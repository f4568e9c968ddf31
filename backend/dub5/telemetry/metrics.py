"""Every figure that the backend exposes, on a registry of its own.

The names and labels are a contract with dashboards, alerts and the autoscaler (docs/metrics.md). Labels are
bounded: classes, models and providers come from the configuration, everything else from fixed lists, so no
caller can make a series.

Counters and histograms are our own, with prometheus_client's names and exposition, but without its locks. It takes a
lock and walks through all buckets for each observation, a dozen times for an answer from memory. Here all counting is
done on the event loop, by one thread, so an addition is an addition; the exposition, in whatever thread, only reads.
A bucket may have an exemplar: the trace of the last observation in it. OpenMetrics shows it, the plain text cannot.
What an answer from the cache adds to ten series is counted in one place, `Hits`: these add it up when they are read.

Exposition reads /proc and formats hundreds of lines, so it runs in a thread. Figures about the process are
on a second registry for the same reason: reading the first one never touches a file.
"""

from __future__ import annotations

import contextlib
import math
import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, Info, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from dub5 import __version__
from dub5.process.threads import DaemonThreads
from dub5.telemetry.container import memory_limit
from dub5.telemetry.logging import LogWriter

_TIMEOUT = 10.0
"""Seconds for one exposition."""
_SCRAPES = 32
"""Expositions at once."""

_SCHEDSTAT = Path("/proc/self/schedstat")

ANSWERS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120)
"""Seconds: a hit in memory takes one millisecond, a long answer two minutes."""

REDIS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
AGES = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 86400, 7 * 86400)

BREAKER_STATES = {"closed": 0, "half-open": 1, "open": 2}
"""Values of `provider_breaker_state`."""

_REQUEST = ("route", "method", "outcome")
_CALL = ("provider", "model", "outcome")

# Creation times of series: three lines more for each histogram, and nobody reads them.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Count:
    """One series of a counter: what was added to it, and what its `parts` come to when it is read."""

    __slots__ = ("parts", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.parts: list[Callable[[], float]] = []

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def total(self) -> float:
        return self.value + sum(part() for part in self.parts)


class Distribution:
    """One series of a histogram: how many observations in each bucket alone, and their sum.

    `traced` is trace id, value and seconds since the epoch of the last observation with a trace, by bucket. `parts`
    have the same bounds, and belong to it when it is read.
    """

    __slots__ = ("_bounds", "counts", "parts", "sum", "traced")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.traced: dict[int, tuple[str, float, float]] = {}
        self.parts: list[Distribution] = []

    def observe(
        self, value: float, trace_id: str | None = None, at: float | None = None, *, times: int = 1
    ) -> int:
        """In which bucket it is. `at` is in seconds since the epoch, now where it is not given. So many `times` the
        same."""
        bucket = bisect_left(self._bounds, value)
        self.counts[bucket] += times
        self.sum += value * times
        if trace_id is not None:
            self.traced[bucket] = (trace_id, value, time.time() if at is None else at)
        return bucket

    def total(self) -> float:
        """Their sum."""
        return self.sum + sum(part.sum for part in self.parts)

    def buckets(self) -> Iterator[tuple[int, Exemplar | None]]:
        """How many are in each alone, and its exemplar."""
        all_of_it = [self, *self.parts]
        for bucket, counts in enumerate(zip(*(each.counts for each in all_of_it), strict=True)):
            traced = [each.traced[bucket] for each in all_of_it if bucket in each.traced]
            last = max(traced, key=lambda trace: trace[2], default=None)
            yield sum(counts), None if last is None else Exemplar({"trace_id": last[0]}, last[1], last[2])


S = TypeVar("S", Count, Distribution)


class _Labelled(Collector, Generic[S]):
    """Series by labels, each made by `new` when it is first asked for."""

    def __init__(
        self,
        name: str,
        meaning: str,
        label_names: Sequence[str],
        registry: CollectorRegistry,
        new: Callable[[], S],
    ) -> None:
        self.label_names = label_names
        self._name = name
        self._meaning = meaning
        self._new: Callable[[], S] = new
        self._series: dict[tuple[str, ...], S] = {}
        registry.register(self)

    def labels(self, *values: str) -> S:
        """The series of these values, in the order of the names."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = self._new()
        return series


class Counters(_Labelled[Count]):
    """A counter by labels."""

    def __init__(
        self, name: str, meaning: str, label_names: Sequence[str], registry: CollectorRegistry
    ) -> None:
        super().__init__(name, meaning, label_names, registry, Count)

    def describe(self) -> Iterable[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._meaning, labels=self.label_names)

    def collect(self) -> Iterable[CounterMetricFamily]:
        [family] = self.describe()
        for values, series in self._series.copy().items():
            family.add_metric(values, series.total())
        yield family


class Histograms(_Labelled[Distribution]):
    """A histogram by labels; `bounds` are the upper bounds of its buckets, rising."""

    def __init__(
        self,
        name: str,
        meaning: str,
        label_names: Sequence[str],
        registry: CollectorRegistry,
        bounds: Sequence[float],
    ) -> None:
        self._shown = [floatToGoString(bound) for bound in (*bounds, math.inf)]  # type: ignore[no-untyped-call]
        super().__init__(name, meaning, label_names, registry, lambda: Distribution(bounds))

    def describe(self) -> Iterable[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._name, self._meaning, labels=self.label_names)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        [family] = self.describe()
        for values, series in self._series.copy().items():
            family.add_metric(values, list(self._buckets(series)), series.total())
        yield family

    def _buckets(self, series: Distribution) -> Iterator[tuple[str, float] | tuple[str, float, Exemplar]]:
        so_far = 0
        for bound, (count, exemplar) in zip(self._shown, series.buckets(), strict=True):
            so_far += count
            shown = (bound, float(so_far))
            yield shown if exemplar is None else (*shown, exemplar)


class _LinesDropped(Collector):
    """The writers of log lines count for themselves, from whatever thread."""

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            "dub5_log_lines_dropped",
            "Log lines that were lost because nobody took them from our output in time.",
            value=LogWriter.dropped_in_process,
        )


class CpuWait(Collector):
    """From Linux' /proc, of the main thread, which runs the event loop; nothing where there is no such file."""

    def collect(self) -> Iterable[Metric]:
        with contextlib.suppress(OSError, IndexError):
            waited = int(_SCHEDSTAT.read_text().split()[1])
            yield CounterMetricFamily(
                "dub5_cpu_wait_seconds",
                "Time in which the event loop had work and no CPU: taken by others, or throttled.",
                value=waited / 1e9,
            )


class MemoryLimit(Collector):
    """Past it the kernel kills the process. No sample where there is no limit."""

    def collect(self) -> Iterable[Metric]:
        limit = GaugeMetricFamily("dub5_memory_limit_bytes", "Memory that the container may use, if limited.")
        read = memory_limit()
        if read is not None:
            limit.add_metric([], read)
        yield limit


class RequestSeries:
    """The series of finished requests that have the same labels, looked up once."""

    __slots__ = (
        "_durations",
        "_first_bytes",
        "_first_tokens",
        "_metrics",
        "_received",
        "_requests",
        "_sent",
        "labels",
    )

    def __init__(self, metrics: Metrics, route: str, method: str, outcome: str) -> None:
        self._metrics = metrics
        self.labels = (route, method, outcome)
        self._requests = metrics.http_requests.labels(route, method, outcome)
        self._durations = metrics.http_request_duration.labels(route, method, outcome)
        self._received = metrics.network_bytes.labels("in")
        self._sent = metrics.network_bytes.labels("out")
        # A series that has never had an observation is not exposed.
        self._first_bytes: Distribution | None = None
        self._first_tokens: Distribution | None = None

    def observe(
        self,
        duration: float,
        first_byte: float | None,
        received: int,
        sent: int,
        stream: bool = False,  # named arguments take longer, and this is for each request
        trace_id: str | None = None,
        at: float | None = None,
    ) -> None:
        """One of them: seconds, and bytes of bodies. `first_byte` is None where there was no body.

        `stream` says that a streamed answer was asked for; `trace_id` becomes an exemplar, of the time `at`.
        """
        self._requests.value += 1
        self._received.value += received
        self._sent.value += sent
        durations, first_bytes = self._durations, self._first_bytes
        bucket = durations.observe(duration, trace_id, at)
        if first_byte is None:
            return
        if first_bytes is None:
            first_bytes = self._first_bytes = self._metrics.http_time_to_first_byte.labels(*self.labels)
        if first_byte == duration:  # as of all that is answered at once: these have the same bounds
            first_bytes.counts[bucket] += 1
            first_bytes.sum += duration
            if trace_id is not None:
                first_bytes.traced[bucket] = durations.traced[bucket]
        else:
            first_bytes.observe(first_byte, trace_id, at)
        if stream:
            if self._first_tokens is None:
                self._first_tokens = self._metrics.time_to_first_token.labels(self.labels[2])
            self._first_tokens.observe(first_byte, trace_id, at)


class HitLabels(NamedTuple):
    """What the series are labelled by that an answer from the cache adds to: `request` as those of `http_requests`,
    `result` as that of its look-up. `prices` are dollars for a token of the prompt and one of the answer."""

    request: tuple[str, str, str]
    stream: bool
    class_name: str
    result: str
    model: str
    prices: tuple[float, float]


class Hits:
    """Answers from the cache whose series have the same labels, each counted once for all of these. `result` is that of
    their look-ups."""

    __slots__ = ("_ages", "_answers", "_durations", "_prompts", "_received", "_sent", "result")

    def __init__(self, metrics: Metrics, labels: HitLabels) -> None:
        request, stream, class_name, self.result, model, prices = labels
        self._received = self._sent = self._prompts = self._answers = 0
        self._durations = durations = Distribution(ANSWERS)
        self._ages = Distribution(AGES)
        metrics.http_request_duration.labels(*request).parts.append(durations)
        metrics.http_time_to_first_byte.labels(*request).parts.append(durations)
        if stream:
            metrics.time_to_first_token.labels(request[2]).parts.append(durations)
        metrics.cache_hit_age.labels(class_name).parts.append(self._ages)
        saved = metrics.saved_dollars
        for series, part in (
            (metrics.http_requests.labels(*request), lambda: sum(durations.counts)),
            (metrics.cache_lookups.labels(class_name, self.result), lambda: sum(durations.counts)),
            (metrics.network_bytes.labels("in"), lambda: self._received),
            (metrics.network_bytes.labels("out"), lambda: self._sent),
            (saved.labels(model, "input"), lambda: self._prompts * prices[0]),
            (saved.labels(model, "output"), lambda: self._answers * prices[1]),
        ):
            series.parts.append(part)

    def observe(
        self,
        duration: float,
        age: float,
        received: int,
        sent: int,
        prompt: int,
        completion: int,
        trace_id: str | None,
        at: float,
    ) -> None:
        """One of them, answered with one write: seconds, bytes of bodies, tokens of the prompt and of the answer.
        `trace_id` becomes an exemplar, of the time `at`."""
        durations, ages = self._durations, self._ages
        bucket = bisect_left(ANSWERS, duration)
        durations.counts[bucket] += 1
        durations.sum += duration
        if trace_id is not None:
            durations.traced[bucket] = (trace_id, duration, at)
        ages.counts[bisect_left(AGES, age)] += 1
        ages.sum += age
        self._received += received
        self._sent += sent
        self._prompts += prompt
        self._answers += completion


class Metrics:
    """One attribute for each metric, named without prefix and unit. `config_hash` tells configurations apart."""

    def __init__(self, *, config_hash: str = "") -> None:
        self._reader = DaemonThreads(_SCRAPES)
        self.registry = CollectorRegistry()
        self._exposed = CollectorRegistry()
        self._exposed.register(self.registry)
        ProcessCollector(registry=self._exposed)
        self._exposed.register(CpuWait())
        self._exposed.register(MemoryLimit())

        self.http_requests = self._counters("http_requests", "Requests, by how they ended.", _REQUEST)
        self.http_request_duration = self._histograms(
            "http_request_duration_seconds", "From the request's head to the answer's last byte.", _REQUEST
        )
        self.http_time_to_first_byte = self._histograms(
            "http_time_to_first_byte_seconds",
            "From the request's head to the answer's first body byte.",
            _REQUEST,
        )
        self.time_to_first_token = self._histograms(
            "time_to_first_token_seconds",
            "From the request's head to the first chunk of an answer that is streamed, from wherever it comes.",
            ("outcome",),
        )
        self.open_connections = self._gauge("open_connections", "Connections open to the public listener.")
        self.connections_refused = self._counters(
            "connections_refused", "Connections closed for what their client did or did not do.", ("reason",)
        )
        self.arriving_bytes = self._gauge(
            "arriving_bytes", "Memory of requests that are arriving or wait for their answer."
        )
        self.arriving_limit = self._gauge("arriving_limit_bytes", "Memory that such requests may take.")
        self.network_bytes = self._counters(
            "network_bytes", "Bytes of request bodies (in) and response bodies (out).", ("direction",)
        )
        self.inflight_requests = self._gauge("inflight_requests", "Provider calls under way.")
        self.queued_requests = self._gauge("queued_requests", "Requests that wait for a provider call.")
        self.capacity_requests = self._gauge(
            "capacity_requests", "Provider calls that may be under way at once."
        )
        self.demand_requests = self._gauge(
            "demand_requests", "Requests that want a provider call at once: the autoscaling metric."
        )
        self.shed = self._counters("shed", "Requests turned away for want of room.", ("reason",))
        self.limits_unshared = self._counter(
            "limits_unshared",
            "Requests whose rate was checked against this replica's share, for want of Redis.",
        )
        self.queue_wait = self._histogram("queue_wait_seconds", "Wait for a provider call.", ANSWERS)
        self.provider_requests = self._counters("provider_requests", "Calls to providers.", _CALL)
        self.provider_duration = self._histograms(
            "provider_duration_seconds", "From the call to the end of the provider's answer.", _CALL
        )
        self.provider_time_to_first_token = self._histograms(
            "provider_time_to_first_token_seconds",
            "From the call to the first chunk of a streamed answer.",
            _CALL,
        )
        self.provider_breaker_state = self._gauges(
            "provider_breaker_state",
            "0 closed, 1 trying again, 2 open: the model's own breaker or its provider's.",
            ("provider", "model"),
        )
        self.provider_waiting_requests = self._gauges(
            "provider_waiting_requests", "Calls that wait for a place at the provider.", ("provider",)
        )
        self.provider_rejected = self._counters(
            "provider_rejected", "Calls that were not made, since as many waited as may.", ("provider",)
        )
        self.provider_concurrency_limit = self._gauges(
            "provider_concurrency_limit",
            "Calls at once that the model is given at the provider at most.",
            ("provider", "model"),
        )
        self.provider_retries = self._counters(
            "provider_retries",
            "Calls for a question that had one before: fallback to another route, retry, hedge.",
            ("provider", "reason"),
        )
        self.tokens = self._counters("tokens", "Tokens that providers counted.", ("model", "direction"))
        self.cost_dollars = self._counters(
            "cost_dollars", "Price of answers made by providers.", ("model", "direction")
        )
        self._saved: dict[str, tuple[Count, Count]] = {}  # by model, of the next one
        self.saved_dollars = self._counters(
            "saved_dollars", "Price that answers from the cache would have had.", ("model", "direction")
        )
        self.cache_lookups = self._counters(
            "cache_lookups", "Lookups, by where they ended.", ("class", "result")
        )
        self.cache_hit_age = self._histograms(
            "cache_hit_age_seconds", "Age of answers when they were served.", ("class",), AGES
        )
        self.cache_ttl = self._gauges("cache_ttl_seconds", "Time to live in force.", ("class",))
        self.cache_ttl_published = self._gauges(
            "cache_ttl_published",
            "1 where the operator has published the time to live, 0 where it is the configuration's.",
            ("class",),
        )
        self.cache_own_ttl = self._histograms(
            "cache_own_ttl_seconds",
            "Time to live of answers when they were served, where each question has its own, by what it follows from.",
            ("class", "by"),
            AGES,
        )
        self.cache_policy_expires = self._gauge(
            "cache_policy_expires_timestamp_seconds",
            "When what the operator has published is no longer in force, since the epoch; 0 where nothing is.",
        )
        self.cache_entries = self._gauges("cache_entries", "Answers held.", ("tier",))
        self.cache_bytes = self._gauges("cache_bytes", "Size of the answers held.", ("tier",))
        self.cache_errors = self._counters("cache_errors", "Cache operations that failed.", ("operation",))
        self.cache_revalidations = self._counters(
            "cache_revalidations",
            "Answers compared with the one before: the measured staleness.",
            ("class", "source", "verdict"),
        )
        self.cache_canaries = self._counters(
            "cache_canaries",
            "Hits drawn at random and asked again, to measure how many are stale: `reworded` are those that differ, as "
            "two answers fetched at once do.",
            ("class", "verdict"),
        )
        self.flights = self._counters(
            "flights", "Flights, by who asked the provider and how they ended.", ("role", "outcome")
        )
        self.flight_followers = self._gauge(
            "flight_followers", "Requests that wait for the answer of a flight."
        )
        self.redis_duration = self._histograms(
            "redis_duration_seconds", "Commands to Redis, failed ones too.", ("operation",), REDIS
        )
        self.redis_clock_offset = self._gauge(
            "redis_clock_offset_seconds",
            "How far Redis's clock is ahead of ours. Ages of answers go by Redis's.",
        )
        self.redis_undecodable = self._counters(
            "redis_undecodable",
            "Values and messages in Redis that are not what we write there, by what they should have been.",
            ("kind",),
        )
        self.redis_up = self._gauge(
            "redis_up", "1 while Redis answers, 0 while not, NaN where there is none."
        )
        self.redis_up.set(math.nan)  # `== 0` is an alert: it must not fire where no Redis is configured
        self.keys_last_reload_successful = self._gauge(
            "keys_last_reload_successful",
            "1; 0 where the file of API keys has changed and is refused or not readable: the old keys stay in force.",
        )
        self.keys_last_reload_successful.set(1)  # a replica whose first file is refused does not start
        self.background_failures = self._counters(
            "background_failures",
            "Failures in the background. A task that goes on for ever is started again each time.",
            ("task",),
        )
        self.background_failing = self._gauges(
            "background_failing",
            "How many background tasks of this name are failing: each from its failure until it has run for half a "
            "minute without another.",
            ("task",),
        )
        self.event_loop_lag = self._histogram(
            "event_loop_lag_seconds", "How late the event loop ran a timer.", LAG
        )
        self._info("build", "The running release.", version=__version__, python=platform.python_version())
        self._info("config", "Tells whether replicas run the same configuration.", hash=config_hash)
        self.registry.register(_LinesDropped())
        self._hits: dict[HitLabels, Hits] = {}
        # The series of each model's answers, and of each kind of call to a provider, looked up once.
        self._answers: dict[str, tuple[Count, ...]] = {}
        self._calls: dict[tuple[str, str, str], tuple[Count, Distribution]] = {}
        # Both are exposed from the beginning.
        self.network_bytes.labels("in")
        self.network_bytes.labels("out")

    def observe_provider(
        self,
        provider: str,
        model: str,
        outcome: str,
        duration: float,
        first_token: float | None = None,
        reason: str | None = None,
        trace_id: str | None = None,
    ) -> None:
        """One finished call to a provider, in seconds. `first_token` is None where no chunk of a stream came.

        `reason` is why the question was asked again; `trace_id` becomes an exemplar.
        """
        call = (provider, model, outcome)
        known = self._calls.get(call)
        if known is None:
            known = self.provider_requests.labels(*call), self.provider_duration.labels(*call)
            self._calls[call] = known
        known[0].value += 1
        known[1].observe(duration, trace_id)
        if reason is not None:
            self.provider_retries.labels(provider, reason).inc()
        if first_token is not None:
            self.provider_time_to_first_token.labels(*call).observe(first_token, trace_id)

    def count_answer(
        self,
        model: str,
        prompt: int,
        cached: int,
        completion: int,
        prompt_dollars: float,
        completion_dollars: float,
    ) -> None:
        """Tokens and price of an answer that a provider made; `cached` tokens are part of `prompt`."""
        series = self._answers.get(model)
        if series is None:
            tokens, dollars = self.tokens, self.cost_dollars
            series = self._answers[model] = (
                *(tokens.labels(model, direction) for direction in ("input", "cached_input", "output")),
                *(dollars.labels(model, direction) for direction in ("input", "output")),
            )
        counted = (prompt, cached, completion, prompt_dollars, completion_dollars)
        for each, amount in zip(series, counted, strict=True):
            each.value += amount

    def hits(self, labels: HitLabels) -> Hits:
        """Where such are counted."""
        hits = self._hits.get(labels)
        if hits is None:
            hits = self._hits[labels] = Hits(self, labels)
        return hits

    def saved(self, model: str) -> tuple[Count, Count]:
        """Where dollars are counted that its answers would have cost: of the prompt, of the answer."""
        saved = self._saved.get(model)
        if saved is None:
            series = self.saved_dollars
            saved = self._saved[model] = (series.labels(model, "input"), series.labels(model, "output"))
        return saved

    def count_saved(self, model: str, prompt: float, completion: float) -> None:
        """Dollars that an answer would have cost."""
        saved = self.saved(model)
        saved[0].value += prompt
        saved[1].value += completion

    def lookups_by_class(self) -> dict[str, dict[str, float]]:
        """Cache lookups since the start: class -> result -> count."""
        found: dict[str, dict[str, float]] = {}
        for family in self.registry.restricted_registry(["dub5_cache_lookups_total"]).collect():
            for sample in family.samples:
                found.setdefault(sample.labels["class"], {})[sample.labels["result"]] = sample.value
        return found

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics where `accept` names it, else text. Reads /proc."""
        if "application/openmetrics-text" in accept:
            body: bytes = openmetrics.generate_latest(self._exposed)  # type: ignore[no-untyped-call]
            return body, openmetrics.CONTENT_TYPE_LATEST
        return prometheus_client.generate_latest(self._exposed), prometheus_client.CONTENT_TYPE_PLAIN_0_0_4

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """`render`, in a thread. TimeoutError where the files that it reads do not answer."""
        return await self._reader.read(lambda: self.render(accept), _TIMEOUT)

    def _counters(self, name: str, meaning: str, labels: Sequence[str]) -> Counters:
        return Counters(f"dub5_{name}", meaning, labels, self.registry)

    def _counter(self, name: str, meaning: str) -> Count:
        return self._counters(name, meaning, ()).labels()

    def _gauges(self, name: str, meaning: str, labels: Sequence[str]) -> Gauge:
        return Gauge(f"dub5_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"dub5_{name}", meaning, registry=self.registry)

    def _histograms(
        self, name: str, meaning: str, labels: Sequence[str], bounds: Sequence[float] = ANSWERS
    ) -> Histograms:
        return Histograms(f"dub5_{name}", meaning, labels, self.registry, bounds)

    def _histogram(self, name: str, meaning: str, bounds: Sequence[float]) -> Distribution:
        return self._histograms(name, meaning, (), bounds).labels()

    def _info(self, name: str, meaning: str, **labels: str) -> None:
        Info(f"dub5_{name}", meaning, registry=self.registry).info(labels)
