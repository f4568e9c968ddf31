"""Spans as a collector receives them: real OTLP over HTTP, to a server that decodes it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ReceivedSpan

from dub5.settings.model import TelemetrySettings
from dub5.telemetry.metrics import Metrics
from dub5.telemetry.record import (
    Recorder,
    TelemetryMiddleware,
    TraceContext,
    Tracer,
    build_tracer,
    chat_span,
    record_of,
)

from .conftest import LogTo, Serve

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """An OTLP endpoint that keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: dict[str, ReceivedSpan] = {}
        self.resource: dict[str, str] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert (scope["method"], scope["path"]) == ("POST", "/v1/traces")
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        for batch in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = {each.key: each.value.string_value for each in batch.resource.attributes}
            self.spans |= {span.name: span for scoped in batch.scope_spans for span in scoped.spans}
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def collector(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    made = Collector()
    async with serve(made) as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        yield made


def attributes(span: ReceivedSpan) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def built() -> Tracer:
    return build_tracer(TelemetrySettings(tracing=True))


async def call(app: Any, traceparent: str | None = None) -> None:
    """One request, as a server makes it."""
    headers = [] if traceparent is None else [(b"traceparent", traceparent.encode())]

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        return

    await app({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive, send)


async def test_a_request_and_its_provider_call_are_one_trace(collector: Collector) -> None:
    tracer = built()
    sent: list[str] = []

    async def app(scope: Any, _: Any, send: Any) -> None:
        record = record_of(scope)
        record.route = "/v1/chat/completions"
        ours = record.trace.child()
        sent.append(ours.traceparent())
        span = chat_span(
            ours,
            provider="openai",
            model="gpt-4o-mini",
            input_tokens=3,
            output_tokens=5,
            error="timeout",
            started=1_000,
            ended=2_000,
        )
        tracer.export(span)
        await send({"type": "http.response.start", "status": 504, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    await call(TelemetryMiddleware(app, Recorder(Metrics(), tracer)), f"00-{TRACE}-{PARENT}-01")
    await tracer.stop()

    served = collector.spans["POST /v1/chat/completions"]
    asked = collector.spans["chat gpt-4o-mini"]
    assert served.trace_id.hex() == asked.trace_id.hex() == TRACE
    assert served.parent_span_id.hex() == PARENT
    assert asked.parent_span_id == served.span_id
    assert sent == [f"00-{TRACE}-{asked.span_id.hex()}-01"]
    assert (served.kind, asked.kind) == (ReceivedSpan.SPAN_KIND_SERVER, ReceivedSpan.SPAN_KIND_CLIENT)
    assert attributes(served)["http.response.status_code"] == 504
    assert attributes(served)["error.type"] == "provider_error"
    assert served.start_time_unix_nano <= served.end_time_unix_nano
    assert attributes(asked) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 5,
        "error.type": "timeout",
    }
    assert (asked.start_time_unix_nano, asked.end_time_unix_nano) == (1_000, 2_000)
    assert collector.resource["service.name"] == "dub5"


async def ok(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_a_trace_that_begins_here_has_no_parent(collector: Collector) -> None:
    tracer = built()
    await call(TelemetryMiddleware(ok, Recorder(Metrics(), tracer)))
    await tracer.stop()
    (span,) = collector.spans.values()
    assert span.parent_span_id == b""
    assert any(span.trace_id)
    assert "error.type" not in attributes(span)


async def test_a_trace_that_the_caller_does_not_record_is_not_exported(collector: Collector) -> None:
    tracer = built()
    await call(TelemetryMiddleware(ok, Recorder(Metrics(), tracer)), f"00-{TRACE}-{PARENT}-00")
    tracer.export(
        chat_span(
            TraceContext(TRACE, "1" * 16, PARENT, False),
            provider="openai",
            model="m",
            input_tokens=None,
            output_tokens=None,
            error=None,
            started=1,
            ended=2,
        )
    )
    await tracer.stop()
    assert collector.spans == {}


async def test_the_samplers_verdict_goes_into_the_header(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    tracer = built()
    headers: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        headers.append(record_of(scope).trace.traceparent())

    await call(TelemetryMiddleware(app, Recorder(Metrics(), tracer)))
    await tracer.stop()
    assert headers[0].endswith("-00")
    assert collector.spans == {}


async def test_the_service_may_be_given_another_name(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "chat-eu")
    tracer = built()
    await call(TelemetryMiddleware(ok, Recorder(Metrics(), tracer)))
    await tracer.stop()
    assert collector.resource["service.name"] == "chat-eu"


async def test_a_collector_that_is_away_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, never listening: connections are refused
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        tracer = built()
        metrics = Metrics()
        await call(TelemetryMiddleware(ok, Recorder(metrics, tracer)))
        async with asyncio.timeout(60):
            await tracer.stop()
    labels = {"route": "other", "method": "POST", "outcome": "ok"}
    assert metrics.registry.get_sample_value("dub5_http_requests_total", labels) == 1


async def test_a_header_that_is_none_is_told_without_its_value(
    monkeypatch: pytest.MonkeyPatch, log_to: LogTo, collector: Collector
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Bearer sk-secret,x=1")
    log = log_to()
    await built().stop()
    text = await asyncio.to_thread(log.text)
    assert "OTEL_EXPORTER_OTLP_HEADERS" in text
    assert "sk-secret" not in text
