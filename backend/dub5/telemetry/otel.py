"""Spans by OpenTelemetry: OTLP over HTTP, sent in batches by a thread of the SDK's.

Endpoint, headers, sampler and batch sizes are the SDK's own OTEL_* variables. The event loop only puts a
finished span into the SDK's bounded queue; a collector that is slow or away costs spans, never time.

Our ids are made before the span is, since they go out with the provider's call: the SDK is given an id
generator that repeats them. Nothing is registered globally, and no context is propagated by the SDK.
"""

from __future__ import annotations

import contextlib
import logging

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_NAME,
    SERVICE_VERSION,
    TELEMETRY_SDK_LANGUAGE,
    TELEMETRY_SDK_NAME,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision

from dub5 import __version__
from dub5.process.threads import DaemonThreads
from dub5.telemetry.record import Span

_LAST_BATCH = 5.0
"""Seconds that a collector has for it."""

_KINDS = {"server": api.SpanKind.SERVER, "client": api.SpanKind.CLIENT}


def _without_value(record: logging.LogRecord) -> bool:
    record.msg = "a part of OTEL_EXPORTER_OTLP_HEADERS or OTEL_EXPORTER_OTLP_TRACES_HEADERS is no NAME=VALUE"
    record.args = ()
    return True


# It quotes the header, which may be a key: `Authorization: Bearer KEY`, where a `=` should be.
logging.getLogger("opentelemetry.util.re").addFilter(_without_value)


class _GivenIds(IdGenerator):
    """Gives the ids that it was handed last; the SDK asks for them at once, in the same thread."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class OpenTelemetry:
    """See `tracing.Tracer`. To be used from one thread. ValueError from the constructor for a bad OTEL_* value."""

    enabled = True

    def __init__(self) -> None:
        self._ids = _GivenIds()
        self._provider = TracerProvider(id_generator=self._ids, resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("dub5", __version__)

    def samples(self, trace_id: str) -> bool:
        verdict = self._provider.sampler.should_sample(None, int(trace_id, 16), "request")
        return verdict.decision is Decision.RECORD_AND_SAMPLE

    def export(self, span: Span) -> None:
        if not span.trace.sampled:
            return
        self._ids.trace_id = int(span.trace.trace_id, 16)
        self._ids.span_id = int(span.trace.span_id, 16)
        exported = self._tracer.start_span(
            span.name,
            context=_parent(span),
            kind=_KINDS[span.kind],
            attributes=span.attributes,
            start_time=span.started,
        )
        if span.error is not None:
            exported.set_attribute("error.type", span.error)
            exported.set_status(api.StatusCode.ERROR)
        exported.end(span.ended)

    async def stop(self) -> None:
        """Waits for the last batch, but not long; in a thread since the SDK's own wait blocks."""
        with contextlib.suppress(TimeoutError):
            await DaemonThreads().read(self._provider.shutdown, _LAST_BATCH)


def _parent(span: Span) -> Context:
    """The context of the span's parent; an empty one where the trace begins with it."""
    if span.trace.parent_id is None:
        return Context()
    parent = api.SpanContext(
        trace_id=int(span.trace.trace_id, 16),
        span_id=int(span.trace.parent_id, 16),
        is_remote=span.kind == "server",
        trace_flags=api.TraceFlags(api.TraceFlags.SAMPLED),
    )
    return api.set_span_in_context(api.NonRecordingSpan(parent), Context())


def _resource() -> Resource:
    """Called `dub5` unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES says otherwise.

    `Resource.create` would wait for threads of its own, and we are built inside the event loop.
    """
    ours = Resource(
        {
            SERVICE_NAME: "dub5",
            SERVICE_VERSION: __version__,
            TELEMETRY_SDK_NAME: "opentelemetry",
            TELEMETRY_SDK_LANGUAGE: "python",
        }
    )
    return ours.merge(OTELResourceDetector().detect())
