"""The exposition against the contract: names, labels, both formats."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import pytest
from prometheus_client import Gauge, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from dub5.telemetry.logging import LogWriter
from dub5.telemetry.metrics import Counters, Histograms, HitLabels, MemoryLimit, Metrics, RequestSeries

REQUEST = {"route", "method", "outcome"}
CALL = {"provider", "model", "outcome"}
CONTRACT: dict[str, tuple[str, set[str]]] = {
    "dub5_http_requests_total": ("counter", REQUEST),
    "dub5_http_request_duration_seconds": ("histogram", REQUEST),
    "dub5_http_time_to_first_byte_seconds": ("histogram", REQUEST),
    "dub5_time_to_first_token_seconds": ("histogram", {"outcome"}),
    "dub5_cpu_wait_seconds_total": ("counter", set()),  # from Linux
    "dub5_memory_limit_bytes": ("gauge", set()),  # from Linux
    "dub5_open_connections": ("gauge", set()),
    "dub5_connections_refused_total": ("counter", {"reason"}),
    "dub5_arriving_bytes": ("gauge", set()),
    "dub5_arriving_limit_bytes": ("gauge", set()),
    "dub5_network_bytes_total": ("counter", {"direction"}),
    "dub5_event_loop_lag_seconds": ("histogram", set()),
    "dub5_inflight_requests": ("gauge", set()),
    "dub5_queued_requests": ("gauge", set()),
    "dub5_capacity_requests": ("gauge", set()),
    "dub5_demand_requests": ("gauge", set()),
    "dub5_shed_total": ("counter", {"reason"}),
    "dub5_limits_unshared_total": ("counter", set()),
    "dub5_queue_wait_seconds": ("histogram", set()),
    "dub5_provider_requests_total": ("counter", CALL),
    "dub5_provider_duration_seconds": ("histogram", CALL),
    "dub5_provider_time_to_first_token_seconds": ("histogram", CALL),
    "dub5_provider_breaker_state": ("gauge", {"provider", "model"}),
    "dub5_provider_waiting_requests": ("gauge", {"provider"}),
    "dub5_provider_rejected_total": ("counter", {"provider"}),
    "dub5_provider_concurrency_limit": ("gauge", {"provider", "model"}),
    "dub5_provider_retries_total": ("counter", {"provider", "reason"}),
    "dub5_tokens_total": ("counter", {"model", "direction"}),
    "dub5_cost_dollars_total": ("counter", {"model", "direction"}),
    "dub5_saved_dollars_total": ("counter", {"model", "direction"}),
    "dub5_cache_lookups_total": ("counter", {"class", "result"}),
    "dub5_cache_hit_age_seconds": ("histogram", {"class"}),
    "dub5_cache_canaries_total": ("counter", {"class", "verdict"}),
    "dub5_cache_own_ttl_seconds": ("histogram", {"class", "by"}),
    "dub5_cache_ttl_seconds": ("gauge", {"class"}),
    "dub5_cache_ttl_published": ("gauge", {"class"}),
    "dub5_cache_policy_expires_timestamp_seconds": ("gauge", set()),
    "dub5_cache_entries": ("gauge", {"tier"}),
    "dub5_cache_bytes": ("gauge", {"tier"}),
    "dub5_cache_errors_total": ("counter", {"operation"}),
    "dub5_cache_revalidations_total": ("counter", {"class", "source", "verdict"}),
    "dub5_flights_total": ("counter", {"role", "outcome"}),
    "dub5_flight_followers": ("gauge", set()),
    "dub5_redis_duration_seconds": ("histogram", {"operation"}),
    "dub5_redis_clock_offset_seconds": ("gauge", set()),
    "dub5_redis_undecodable_total": ("counter", {"kind"}),
    "dub5_redis_up": ("gauge", set()),
    "dub5_keys_last_reload_successful": ("gauge", set()),
    "dub5_background_failures_total": ("counter", {"task"}),
    "dub5_background_failing": ("gauge", {"task"}),
    "dub5_build_info": ("info", {"version", "python"}),
    "dub5_config_info": ("info", {"hash"}),
    "dub5_log_lines_dropped_total": ("counter", set()),
}
"""Each metric's type and labels: whoever adds one adds it here and to the table of metrics."""


@pytest.fixture
def metrics() -> Metrics:
    """Every metric with one series."""
    made = Metrics(config_hash="c0ffee")
    for metric in vars(made).values():
        if isinstance(metric, Counters | Histograms):
            metric.labels(*["x"] * len(metric.label_names))
        elif isinstance(metric, Gauge) and metric._labelnames:
            metric.labels(*["x"] * len(metric._labelnames))
    return made


def families(exposition: Iterable[Metric]) -> dict[str, tuple[str, set[str]]]:
    """Name as people write it -> type and labels."""
    found = {}
    for family in exposition:
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        name = family.name + ("" if family.name.endswith(suffix) else suffix)
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    return found


def test_openmetrics_holds_what_the_contract_promises(metrics: Metrics) -> None:
    body, kind = metrics.render("application/openmetrics-text; version=1.0.0, text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    found = families(parse_openmetrics(body.decode()))  # type: ignore[no-untyped-call]
    assert {name: shape for name, shape in found.items() if name.startswith("dub5_")} == CONTRACT


def test_text_has_the_same_names_and_those_of_the_process(metrics: Metrics) -> None:
    body, kind = metrics.render("text/plain")
    assert kind.startswith("text/plain; version=0.0.4")
    found = families(parse_text(body.decode()))
    assert {name for name in found if name.startswith("dub5_")} == set(CONTRACT)
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= set(found)


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/plain;version=abc", "junk/;;=,,", "text/plain;version=9.9"]
)
def test_any_accept_header_gets_an_answer(metrics: Metrics, accept: str) -> None:
    body, kind = metrics.render(accept)
    assert kind.startswith("text/plain")
    assert b"dub5_http_requests_total{" in body


async def test_exposition_may_be_asked_for_in_the_event_loop(metrics: Metrics) -> None:
    body, _ = await metrics.exposition("text/plain")
    assert b"process_cpu_seconds_total" in body


async def test_our_own_registry_reads_no_file(metrics: Metrics) -> None:
    names = {family.name for family in metrics.registry.collect()}
    assert "dub5_http_requests" in names
    assert not any(name.startswith("process_") for name in names)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_one_request_is_counted_once_everywhere() -> None:
    metrics = Metrics()
    series = RequestSeries(metrics, "/r", "GET", "ok")
    series.observe(0.2, 0.1, 3, 5)
    series.observe(0.2, None, 0, 0)
    request = {"route": "/r", "method": "GET", "outcome": "ok"}
    assert value(metrics, "dub5_http_requests_total", **request) == 2
    assert value(metrics, "dub5_http_request_duration_seconds_sum", **request) == pytest.approx(0.4)
    assert value(metrics, "dub5_http_time_to_first_byte_seconds_count", **request) == 1
    assert value(metrics, "dub5_time_to_first_token_seconds_count", outcome="ok") is None
    assert value(metrics, "dub5_network_bytes_total", direction="in") == 3
    assert value(metrics, "dub5_network_bytes_total", direction="out") == 5


def test_what_is_answered_at_once_is_in_both_histograms() -> None:
    metrics = Metrics()
    series = RequestSeries(metrics, "/r", "GET", "ok")
    series.observe(0.2, 0.2, 0, 0, trace_id=TRACE)
    series.observe(0.3, 0.3, 0, 0)
    request = {"route": "/r", "method": "GET", "outcome": "ok"}
    for name in ("request_duration", "time_to_first_byte"):
        assert value(metrics, f"dub5_http_{name}_seconds_count", **request) == 2
        assert value(metrics, f"dub5_http_{name}_seconds_sum", **request) == 0.5
        assert exemplars(metrics)[f"dub5_http_{name}_seconds_bucket", "0.25"] == ({"trace_id": TRACE}, 0.2)


def test_only_a_stream_has_a_first_token() -> None:
    metrics = Metrics()
    for stream, first_byte in ((True, 0.1), (True, None), (False, 30.0)):
        RequestSeries(metrics, "/r", "GET", "ok").observe(30.0, first_byte, 0, 0, stream=stream)
    assert value(metrics, "dub5_time_to_first_token_seconds_count", outcome="ok") == 1
    assert value(metrics, "dub5_time_to_first_token_seconds_sum", outcome="ok") == 0.1


TRACE, LATER = "a" * 32, "b" * 32


def exemplars(metrics: Metrics) -> dict[tuple[str, str], tuple[dict[str, str], float]]:
    """Labels and value by name and bucket."""
    body, _ = metrics.render("application/openmetrics-text")
    return {
        (sample.name, sample.labels["le"]): (sample.exemplar.labels, sample.exemplar.value)
        for family in parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar
    }


def test_a_bucket_has_the_last_trace_in_it_as_its_exemplar() -> None:
    metrics = Metrics()
    before = time.time()
    for duration, trace in ((0.2, TRACE), (0.24, LATER), (0.21, None), (300.0, TRACE)):
        RequestSeries(metrics, "/r", "GET", "ok").observe(duration, None, 0, 0, trace_id=trace)
    metrics.observe_provider("demo", "small", "ok", 3.0, 0.3, trace_id=LATER)
    assert exemplars(metrics) == {
        ("dub5_http_request_duration_seconds_bucket", "0.25"): ({"trace_id": LATER}, 0.24),
        ("dub5_http_request_duration_seconds_bucket", "+Inf"): ({"trace_id": TRACE}, 300.0),
        ("dub5_provider_duration_seconds_bucket", "5.0"): ({"trace_id": LATER}, 3.0),
        ("dub5_provider_time_to_first_token_seconds_bucket", "0.5"): ({"trace_id": LATER}, 0.3),
    }
    [(_, _, at)] = metrics.provider_duration.labels("demo", "small", "ok").traced.values()
    assert before <= at <= time.time()


@pytest.mark.parametrize("stream", [False, True])
def test_hits_are_exposed_the_same_whether_they_are_counted_in_one_place_or_not(stream: bool) -> None:
    exposed, prices = [], (0.25, 0.5)
    for in_one_place in (0, 1, 2):
        metrics = Metrics()
        series = RequestSeries(metrics, "/r", "POST", "ok")
        hits = [
            (0.25, 4.0, TRACE),
            (0.5, 64.0, LATER),
            (0.25, 4.0, LATER),
            (0.25, 1e6, None),
            (300.0, 0.0, TRACE),
        ]
        for number, (duration, age, trace) in enumerate(hits):
            at = 100.0 + number
            if number and number % 3 < in_one_place:
                labels = HitLabels(("/r", "POST", "ok"), stream, "faq", "local", "small", prices)
                metrics.hits(labels).observe(duration, age, 10, 20, 3, 4, trace, at)
                continue
            series.observe(duration, duration, 10, 20, stream, trace, at)
            metrics.cache_hit_age.labels("faq").observe(age)
            metrics.cache_lookups.labels("faq", "local").inc()
            metrics.count_saved("small", 3 * prices[0], 4 * prices[1])
        body, _ = metrics.render("application/openmetrics-text")
        exposed.append(
            [line for line in body.decode().splitlines() if "process_" not in line and "_wait" not in line]
        )
    assert exposed[0] == exposed[1] == exposed[2]


def test_the_plain_text_knows_no_exemplars() -> None:
    texts = []
    for trace in (None, TRACE):
        metrics = Metrics()
        RequestSeries(metrics, "/r", "GET", "ok").observe(1.0, 1.0, 0, 0, trace_id=trace)
        body, _ = metrics.render("text/plain")
        texts.append([line for line in body.decode().splitlines() if line.startswith("dub5_http")])
    assert texts[0] == texts[1]


def test_a_call_without_a_first_token_has_no_time_to_it() -> None:
    metrics = Metrics()
    metrics.observe_provider("demo", "small", "provider_error", 0.2)
    call = {"provider": "demo", "model": "small", "outcome": "provider_error"}
    assert value(metrics, "dub5_provider_requests_total", **call) == 1
    assert value(metrics, "dub5_provider_duration_seconds_count", **call) == 1
    assert value(metrics, "dub5_provider_time_to_first_token_seconds_count", **call) is None


def test_tokens_and_money_are_counted_by_direction() -> None:
    metrics = Metrics()
    metrics.count_answer("small", 3, 2, 5, prompt_dollars=0.25, completion_dollars=0.5)
    metrics.count_saved("small", prompt=1.0, completion=2.0)
    expected: dict[str, dict[str, float]] = {
        "tokens": {"input": 3, "cached_input": 2, "output": 5},
        "cost_dollars": {"input": 0.25, "output": 0.5},
        "saved_dollars": {"input": 1.0, "output": 2.0},
    }
    for name, directions in expected.items():
        for direction, count in directions.items():
            assert value(metrics, f"dub5_{name}_total", model="small", direction=direction) == count


def test_lookups_by_class() -> None:
    metrics = Metrics()
    assert metrics.lookups_by_class() == {}
    metrics.cache_lookups.labels("banter", "local").inc()
    metrics.cache_lookups.labels("banter", "miss").inc(3)
    metrics.cache_lookups.labels("default", "miss").inc()
    assert metrics.lookups_by_class() == {"banter": {"local": 1, "miss": 3}, "default": {"miss": 1}}


def test_where_there_is_no_redis_it_is_neither_up_nor_down() -> None:
    up = value(Metrics(), "dub5_redis_up")
    assert up is not None
    assert math.isnan(up)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("dub5_http_request_duration_seconds", 0.001, 120),
        ("dub5_http_time_to_first_byte_seconds", 0.001, 120),
    ],
)
def test_buckets_reach_from_a_hit_to_a_long_answer(
    metrics: Metrics, name: str, least: float, most: float
) -> None:
    bounds = [
        float(sample.labels["le"])
        for family in metrics.registry.restricted_registry([f"{name}_bucket"]).collect()
        for sample in family.samples
        if "le" in sample.labels
    ]
    assert (bounds[0], bounds[-2], bounds[-1]) == (least, most, math.inf)


def test_lost_log_lines_are_exposed() -> None:
    metrics = Metrics()
    lost: Callable[[], float | None] = lambda: value(metrics, "dub5_log_lines_dropped_total")  # noqa: E731
    before = lost()
    full = LogWriter(-1, capacity=0)
    full.put(b"line\n")
    assert before is not None
    assert lost() == before + 1


def test_two_applications_in_one_process_do_not_share_figures() -> None:
    first, second = Metrics(), Metrics()
    first.open_connections.set(7)
    assert value(second, "dub5_open_connections") == 0


@pytest.mark.parametrize("limit", [None, 512 * 2**20])
def test_the_limit_of_memory_is_what_the_container_may_use(
    limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dub5.telemetry.metrics.memory_limit", lambda: limit)
    [family] = MemoryLimit().collect()
    assert [sample.value for sample in family.samples] == ([] if limit is None else [limit])
