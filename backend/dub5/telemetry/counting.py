"""Counters and histograms for the way of every request: prometheus_client's names and exposition, without its locks.

prometheus_client takes a lock and walks through all buckets for each observation, a dozen times for an answer from
memory. Here all counting is done on the event loop, by one thread, so an addition is an addition; whoever exposes the
figures, in whatever thread, only reads them.

A bucket may have an exemplar: the trace of the last observation in it. OpenMetrics shows it, the plain text cannot.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class Distribution:
    """One series of a histogram: how many observations in each bucket alone, and their sum.

    `traced` is trace id, value and seconds since the epoch of the last observation with a trace, by bucket.
    """

    __slots__ = ("_bounds", "counts", "sum", "traced")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.traced: dict[int, tuple[str, float, float]] = {}

    def observe(self, value: float, trace_id: str | None = None) -> None:
        bucket = bisect_left(self._bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        if trace_id is not None:
            self.traced[bucket] = (trace_id, value, time.time())

    def exemplar(self, bucket: int) -> Exemplar | None:
        traced = self.traced.get(bucket)
        return None if traced is None else Exemplar({"trace_id": traced[0]}, traced[1], traced[2])


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
            family.add_metric(values, series.value)
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
            family.add_metric(values, list(self._buckets(series)), series.sum)
        yield family

    def _buckets(self, series: Distribution) -> Iterator[tuple[str, float] | tuple[str, float, Exemplar]]:
        for bucket, count in enumerate(accumulate(series.counts)):
            exemplar = series.exemplar(bucket)
            shown = (self._shown[bucket], float(count))
            yield shown if exemplar is None else (*shown, exemplar)
