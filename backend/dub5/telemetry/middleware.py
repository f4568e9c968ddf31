"""What happened to each request, seen from the outermost place: bytes, times, and how it really ended.

A status code does not tell how a streamed answer ended: the head is sent long before. A response counts as
ok only when its last byte went out to a client that was still there; whatever breaks off before is never ok.
From one record come the metrics, one log line and, where asked for, one span.

Plain ASGI, and frugal: this runs for every request, also for the answer from memory that takes less than a
millisecond in all.
"""

from __future__ import annotations

import random
import re
import time
from typing import Any, cast

import msgspec
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from dub5.errors import InternalError, NotCached, render
from dub5.telemetry.logging import get_logger, milliseconds
from dub5.telemetry.metrics import Metrics
from dub5.telemetry.record import HEARTBEAT, OTHER, RequestOutcome, RequestRecord, keep
from dub5.telemetry.tracing import Disabled, RandomBytes, TraceContext, Tracer, request_span

PHASES = ("auth", "queue", "cache", "provider")
"""Timings in the order in which a request goes through them."""

_OPTIONAL = (
    "error_code",
    "tenant",
    "personality",
    "cache",
    "provider",
    "prompt_tokens",
    "completion_tokens",
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_DEFECT = render(InternalError())


class TelemetryMiddleware:
    """Wraps the whole application. `random_bytes` makes ids."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        tracer: Tracer | None = None,
        *,
        random_bytes: RandomBytes = random.randbytes,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tracer = Disabled() if tracer is None else tracer
        self._random_bytes = random_bytes
        self._log = get_logger().bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if cast("str", scope["type"]) != "http":
            await self._app(scope, receive, send)
            return
        record = self._record(cast("HTTPScope", scope))
        keep(scope, record)
        exchange = _Exchange(record, receive, send)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:  # noqa: BLE001  # the outermost place: nobody else will
            self._log.exception(
                "request failed", request_id=record.request_id, trace_id=record.trace.trace_id
            )
            await _answer_for_defect(exchange)
        finally:
            self._finish(scope, exchange)

    def _record(self, scope: HTTPScope) -> RequestRecord:
        started = time.perf_counter()
        request_id, trace = self._identify(scope["headers"])
        method = scope["method"]
        return RequestRecord(
            request_id=request_id,
            trace=trace,
            started=started,
            method=method if method in _METHODS else OTHER,
        )

    def _identify(self, headers: Any) -> tuple[str, TraceContext]:
        """The caller's request id and trace where they are usable, else new ones.

        Two `traceparent` headers are none: whose trace would it be?
        """
        request_id = traceparent = None
        for name, value in headers:
            if name == b"x-request-id":
                request_id = value
            elif name == b"traceparent":
                traceparent = value if traceparent is None else b""
        trace = TraceContext.parse(traceparent, self._random_bytes) if traceparent else None
        if trace is None:
            trace = TraceContext.begin(self._random_bytes)
            if not self._tracer.samples(trace.trace_id):
                trace = msgspec.structs.replace(trace, sampled=False)
        if request_id is not None and _REQUEST_ID.fullmatch(request_id):
            return request_id.decode(), trace
        return self._random_bytes(16).hex(), trace

    def _finish(self, scope: Scope, exchange: _Exchange) -> None:
        record = exchange.record
        duration = time.perf_counter() - record.started
        if record.route == OTHER:  # Litestar leaves here the template of the route that it found
            record.route = cast("dict[str, Any]", scope).get("path_template") or OTHER
        record.outcome = outcome_of(
            record, exchange.status, complete=exchange.complete, client_left=exchange.client_left
        )
        self._metrics.observe_request(
            record.route,
            record.method,
            record.outcome,
            duration=duration,
            first_byte=exchange.first_byte,
            received=exchange.received,
            sent=exchange.sent,
            stream=record.stream,
            trace_id=record.trace.exemplar(),
        )
        self._log.info("request", **_fields(exchange, duration))
        if self._tracer.enabled and record.trace.sampled:
            self._trace(exchange, duration)

    def _trace(self, exchange: _Exchange, duration: float) -> None:
        record = exchange.record
        ended = time.time_ns()
        failed = record.outcome in {"provider_error", "server_error", "shed"}
        span = request_span(
            record.trace,
            method=record.method,
            route=record.route,
            status=exchange.status,
            request_id=record.request_id,
            error=record.outcome if failed else None,
            started=ended - int(duration * 1e9),
            ended=ended,
        )
        self._tracer.export(span)


class _Exchange:
    """One request and its response on their way through; counts and looks, and changes only the head."""

    __slots__ = (
        "_receive",
        "_send",
        "client_left",
        "complete",
        "first_byte",
        "received",
        "record",
        "sent",
        "status",
    )

    def __init__(self, record: RequestRecord, receive: Receive, send: Send) -> None:
        self.record = record
        self.status: int | None = None
        self.first_byte: float | None = None
        self.received = self.sent = 0
        self.complete = self.client_left = False
        self._receive = receive
        self._send = send

    async def receive(self) -> Any:
        message: Any = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
        elif message["type"] == "http.disconnect" and not self.complete:  # servers tell it after the end, too
            self.client_left = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *_head(self.record)]
            await self._send(message)
            return
        await self._send(message)
        if message["type"] == "http.response.body":
            self._count(message.get("body", b""))
            self.complete = not message.get("more_body", False)

    def _count(self, body: bytes) -> None:
        if self.first_byte is None and body and body != HEARTBEAT:
            self.first_byte = time.perf_counter() - self.record.started
        self.sent += len(body)


def outcome_of(
    record: RequestRecord, status: int | None, *, complete: bool, client_left: bool
) -> RequestOutcome:
    """How the request ended.

    `status` is None where no head was sent, `complete` says that the last byte was, and `client_left` that
    the client closed the connection before that.
    """
    if record.outcome is not None and record.outcome != "ok":
        return record.outcome
    if client_left:
        return "client_disconnect"
    if not complete or status is None:
        return "server_error"
    status = record.late_status or status
    # The rate that is used up is ours there, not the tenant's here.
    if status == 429 and record.refused_by_provider:
        return "provider_error"
    return _outcome_of_status(status, record.error_code)


def _outcome_of_status(status: int, error_code: str | None) -> RequestOutcome:
    if status < 400:
        return "ok"
    if status == 429:
        return "limited"
    if status == 503:
        return "shed"
    if status < 500 or error_code == NotCached.code:  # `only-if-cached` is the caller's own wish
        return "client_error"
    return "provider_error" if status in {502, 504} else "server_error"


async def _answer_for_defect(exchange: _Exchange) -> None:
    """Tell the client, where that is still possible.

    After the head it is not: returning with the response unfinished makes the server break off the
    connection, so that the client cannot take the part for the whole.
    """
    if exchange.status is not None:
        return
    exchange.record.error_code = InternalError.code
    headers = [*_DEFECT.headers, (b"content-length", str(len(_DEFECT.body)).encode())]
    await exchange.send({"type": "http.response.start", "status": _DEFECT.status, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": _DEFECT.body, "more_body": False})


def _head(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    """Our own response headers."""
    headers = [(b"x-request-id", record.request_id.encode())]
    if record.timings:
        headers.append((b"server-timing", server_timing(record.timings).encode()))
    headers += record.answer_headers
    return headers


def server_timing(timings: dict[str, float]) -> str:
    """`auth;dur=0.100, cache;dur=1.250`: seconds in, milliseconds out. https://www.w3.org/TR/server-timing/"""
    return ", ".join([f"{phase};dur={timings[phase] * 1000:.3f}" for phase in PHASES if phase in timings])


def _fields(exchange: _Exchange, duration: float) -> dict[str, Any]:
    """The log line of a request; what the record does not know is left out."""
    record = exchange.record
    durations = {"total": milliseconds(duration)}
    if exchange.first_byte is not None:
        durations["first_byte"] = milliseconds(exchange.first_byte)
    for phase, seconds in record.timings.items():
        durations[phase] = milliseconds(seconds)
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "trace_id": record.trace.trace_id,
        "span_id": record.trace.span_id,
        "route": record.route,
        "method": record.method,
        "status": exchange.status,
        "outcome": record.outcome,
        "model": record.model,
        "stream": record.stream,
        "duration_ms": durations,
    }
    for name in _OPTIONAL:
        value = getattr(record, name)
        if value is not None:
            fields[name] = value
    if record.leader_request_id is not None:
        fields["leader_request_id"] = record.leader_request_id
        fields["leader_trace_id"] = record.leader_trace_id
    return fields
