"""What is known of one request: filled in on its way down, read once at its end, and what is made of it.

The outermost middleware makes the record and puts it into the ASGI scope; each layer writes what it alone
knows. Metrics, the log line and the span are all made from it, so they cannot disagree. Nothing in it is a
prompt, a key or a query string.

A status code does not say how a streamed answer ended: the head is sent long before. A response counts as
ok only when its last byte went out to a client that was still there; whatever breaks off before is never ok.

Plain ASGI, and frugal: this runs for every request, also for the answer from memory that takes less than a
millisecond in all.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from dub5.errors import InternalError, NotCached, render
from dub5.telemetry.logging import get_logger, milliseconds
from dub5.telemetry.metrics import Metrics
from dub5.telemetry.tracing import Disabled, RandomBytes, TraceContext, Tracer, request_span

OTHER = "other"
"""Label of a route, method or model that is none of ours: what callers send must not grow the metrics."""

HEARTBEAT = b": waiting\n\n"
"""A server-sent comment, for a client that waits in silence: nothing of an answer, so not its first byte either."""

RequestOutcome = Literal[
    "ok", "client_error", "shed", "limited", "provider_error", "server_error", "client_disconnect"
]

PHASES = ("auth", "queue", "cache", "provider")
"""Timings in the order in which a request goes through them."""

_KEY = "dub5.record"
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


class RequestRecord(msgspec.Struct, kw_only=True):
    """One request.

    `started` is of time.perf_counter. `route` and `model` are labels: `other` until a known one is found.
    `outcome` is set by code that knows better than the status says. `late_status` is the one that an error would have
    had which came after the head: then only an event can carry it. `cache` is the Cache-Status header.
    `timings` are seconds by phase: auth, queue, cache, provider; those there when the response head is sent
    become Server-Timing. `leader_request_id` and `leader_trace_id` are of the request whose provider call this
    one waited for, where that was another. `answer_headers` go with whatever is answered.
    """

    request_id: str
    trace: TraceContext
    started: float
    method: str = OTHER
    route: str = OTHER
    tenant: str | None = None
    key_id: str | None = None
    model: str = OTHER
    personality: str | None = None
    stream: bool = False
    outcome: RequestOutcome | None = None
    error_code: str | None = None
    refused_by_provider: bool = False
    late_status: int | None = None
    cache: str | None = None
    cache_result: str | None = None
    provider: str | None = None
    leader_request_id: str | None = None
    leader_trace_id: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    timings: dict[str, float] = {}
    answer_headers: Sequence[tuple[bytes, bytes]] = ()


def record_of(scope: Scope) -> RequestRecord:
    """The request's record. Where no middleware made one (the operations listener) it is made here."""
    record = cast("dict[str, Any]", scope).get(_KEY)
    if not isinstance(record, RequestRecord):
        trace = TraceContext.begin()
        record = RequestRecord(request_id=trace.trace_id, trace=trace, started=time.perf_counter())
        cast("dict[str, Any]", scope)[_KEY] = record
    return record


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
        exchange = _Exchange(self._begin(cast("HTTPScope", scope)), receive, send)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:  # noqa: BLE001  # the outermost place: nobody else will
            record = exchange.record
            self._log.exception(
                "request failed", request_id=record.request_id, trace_id=record.trace.trace_id
            )
            await _answer_for_defect(exchange)
        finally:
            self._finish(scope, exchange)

    def _begin(self, scope: HTTPScope) -> RequestRecord:
        """A record with the caller's request id and trace where they are usable, else with new ones."""
        started = time.perf_counter()
        request_id = client_request_id = traceparent = None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value
            elif name == b"x-client-request-id":  # as OpenAI calls what its clients may send
                client_request_id = value
            elif name == b"traceparent":
                # Two of them are none: whose trace would it be?
                traceparent = value if traceparent is None else b""
        trace = TraceContext.parse(traceparent, self._random_bytes) if traceparent else None
        if trace is None:
            trace = TraceContext.begin(self._random_bytes)
            if self._tracer.enabled and not self._tracer.samples(trace.trace_id):
                trace = msgspec.structs.replace(trace, sampled=False)
        if request_id is None:
            request_id = client_request_id
        usable = request_id is not None and _REQUEST_ID.fullmatch(request_id)
        method = scope["method"]
        record = RequestRecord(
            request_id=request_id.decode() if request_id and usable else self._random_bytes(16).hex(),
            trace=trace,
            started=started,
            method=method if method in _METHODS else OTHER,
        )
        cast("dict[str, Any]", scope)[_KEY] = record
        return record

    def _finish(self, scope: Scope, exchange: _Exchange) -> None:
        """Metrics, one log line and, where asked for, one span; what the record does not know is left out."""
        record, status = exchange.record, exchange.status
        trace, first_byte = record.trace, exchange.first_byte
        duration = time.perf_counter() - record.started
        if record.route == OTHER:  # Litestar leaves here the template of the route that it found
            record.route = cast("dict[str, Any]", scope).get("path_template") or OTHER
        outcome = record.outcome = outcome_of(
            record, status, complete=exchange.complete, client_left=exchange.client_left
        )
        self._metrics.observe_request(
            record.route,
            record.method,
            outcome,
            duration=duration,
            first_byte=first_byte,
            received=exchange.received,
            sent=exchange.sent,
            stream=record.stream,
            trace_id=trace.exemplar(),
        )
        durations = {"total": milliseconds(duration)}
        if first_byte is not None:
            durations["first_byte"] = milliseconds(first_byte)
        for phase, seconds in record.timings.items():
            durations[phase] = milliseconds(seconds)
        fields: dict[str, Any] = {
            "request_id": record.request_id,
            "trace_id": trace.trace_id,
            "span_id": trace.span_id,
            "route": record.route,
            "method": record.method,
            "status": status,
            "outcome": outcome,
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
        self._log.info("request", **fields)
        if self._tracer.enabled and trace.sampled:
            ended = time.time_ns()
            failed = outcome in {"provider_error", "server_error", "shed"}
            span = request_span(
                trace,
                method=record.method,
                route=record.route,
                status=status,
                request_id=record.request_id,
                error=outcome if failed else None,
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
        elif message["type"] == "http.disconnect" and not self.complete:  # servers send it after the end, too
            self.client_left = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            record, self.status = self.record, message["status"]
            took = int((time.perf_counter() - record.started) * 1000)
            headers = [
                *message.get("headers", ()),
                (b"x-request-id", record.request_id.encode()),
                (b"openai-processing-ms", b"%d" % took),
            ]
            if record.timings:
                headers.append((b"server-timing", server_timing(record.timings).encode()))
            headers += record.answer_headers
            message["headers"] = headers
            await self._send(message)
            return
        await self._send(message)
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            if self.first_byte is None and body and body != HEARTBEAT:
                self.first_byte = time.perf_counter() - self.record.started
            self.sent += len(body)
            self.complete = not message.get("more_body", False)


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
    if status < 400:
        return "ok"
    if status == 429:
        # The rate that is used up may be ours at the provider, not the tenant's here.
        return "provider_error" if record.refused_by_provider else "limited"
    if status == 503:
        return "shed"
    if status < 500 or record.error_code == NotCached.code:  # `only-if-cached` is the caller's own wish
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


def server_timing(timings: dict[str, float]) -> str:
    """`auth;dur=0.100, cache;dur=1.250`: seconds in, milliseconds out. https://www.w3.org/TR/server-timing/"""
    return ", ".join([f"{phase};dur={timings[phase] * 1000:.3f}" for phase in PHASES if phase in timings])
