"""`traceparent`, taken and given as the W3C says."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.errors import ConfigError
from dub5.settings.model import TelemetrySettings
from dub5.telemetry.metrics import Metrics
from dub5.telemetry.record import (
    Disabled,
    Recorder,
    Span,
    TelemetryMiddleware,
    TraceContext,
    build_tracer,
    chat_span,
    record_of,
)

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def counting(size: int) -> bytes:
    """As many different bytes as asked for."""
    return bytes(range(1, size + 1))


def test_the_callers_trace_goes_on_with_a_span_of_ours() -> None:
    context = TraceContext.parse(f"00-{TRACE}-{PARENT}-01".encode(), counting)
    assert context == TraceContext(TRACE, "0102030405060708", PARENT, True)
    assert context.traceparent() == f"00-{TRACE}-0102030405060708-01"


@pytest.mark.parametrize(
    ("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)]
)
def test_only_the_sampled_flag_is_read_and_given(flags: str, sampled: bool) -> None:
    context = TraceContext.parse(f"00-{TRACE}-{PARENT}-{flags}".encode())
    assert context is not None
    assert context.sampled is sampled
    assert context.traceparent().endswith("-01" if sampled else "-00")


@pytest.mark.parametrize("later", ["cc-{}-{}-01", "cc-{}-{}-01-what-comes-then", "01-{}-{}-01-"])
def test_a_later_version_is_read_as_far_as_we_know_it(later: str) -> None:
    context = TraceContext.parse(later.format(TRACE, PARENT).encode())
    assert context is not None
    assert (context.trace_id, context.parent_id) == (TRACE, PARENT)
    assert context.traceparent().startswith("00-")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "junk",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01 ",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"cc-{TRACE}-{PARENT}-01more",
        f"0x-{TRACE}-{PARENT}-01",
    ],
)
def test_anything_else_is_ignored(header: str) -> None:
    assert TraceContext.parse(header.encode()) is None


@given(st.binary(max_size=80))
def test_no_bytes_are_an_error(header: bytes) -> None:
    context = TraceContext.parse(header)
    assert context is None or header.startswith(b"%b" % header[:2] + b"-" + context.trace_id.encode())


@given(st.binary(min_size=24, max_size=24).filter(lambda raw: any(raw[:16]) and any(raw[16:])))
def test_what_we_give_can_be_taken(raw: bytes) -> None:
    begun = TraceContext.begin(lambda size: raw[:size])
    taken = TraceContext.parse(begun.traceparent().encode())
    assert taken is not None
    assert (taken.trace_id, taken.parent_id, taken.sampled) == (begun.trace_id, begun.span_id, True)


def test_a_child_stays_in_the_trace_below_its_parent() -> None:
    begun = TraceContext.begin(counting)
    child = begun.child(lambda size: b"\xab" * size)
    assert child == TraceContext(begun.trace_id, "ab" * 8, begun.span_id, True)


def test_ids_differ() -> None:
    assert len({TraceContext.begin().trace_id for _ in range(100)}) == 100


class Kept(Disabled):
    """A tracer that keeps what it is given."""

    enabled = True

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, span: Span) -> None:
        self.spans.append(span)


async def test_the_span_of_a_request_follows_the_conventions() -> None:
    async def app(scope: Any, _: Any, send: Any) -> None:
        record_of(scope).route = "/v1/chat/completions"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": False})

    async def nothing(*_: Any) -> Any:
        return None

    tracer = Kept()
    scope: Any = {"type": "http", "method": "POST", "headers": [(b"x-request-id", b"r-1")]}
    await TelemetryMiddleware(app, Recorder(Metrics(), tracer))(scope, nothing, nothing)
    (served,) = tracer.spans
    assert (served.name, served.kind) == ("POST /v1/chat/completions", "server")
    assert served.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "dub5.request.id": "r-1",
    }
    assert served.error is None


def test_the_span_of_a_call_follows_the_conventions() -> None:
    context = TraceContext.begin()
    asked = chat_span(
        context.child(),
        provider="openai",
        model="gpt-4o-mini",
        input_tokens=3,
        output_tokens=None,
        error="provider_timeout",
        started=1,
        ended=2,
    )
    assert (asked.name, asked.kind, asked.error) == ("chat gpt-4o-mini", "client", "provider_timeout")
    assert asked.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 3,
    }


async def test_without_the_setting_nothing_is_exported() -> None:
    tracer = build_tracer(TelemetrySettings())
    assert isinstance(tracer, Disabled)
    assert not tracer.enabled
    assert tracer.samples(TRACE)
    await tracer.stop()


def test_the_setting_without_the_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dub5.telemetry.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)  # as where it is not installed
    with pytest.raises(ConfigError, match=r"telemetry\.tracing.*dub5\[otel\]"):
        build_tracer(TelemetrySettings(tracing=True))


def test_a_bad_variable_that_the_sdk_reads_when_it_is_imported_is_one_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("dub5.telemetry.otel", "opentelemetry.sdk.trace"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-5")
    with pytest.raises(ConfigError, match="OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"):
        build_tracer(TelemetrySettings(tracing=True))


def test_a_bad_variable_of_the_sdk_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with pytest.raises(ConfigError, match="OTEL_"):
        build_tracer(TelemetrySettings(tracing=True))
