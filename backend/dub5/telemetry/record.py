"""What is known of one request: filled in on its way down, read once at its end, and what is made of it.

The outermost middleware makes the record and puts it into the ASGI scope; each layer writes what it alone
knows. Metrics, the log line and the span are all made from it, so they cannot disagree. Nothing in it is a
prompt, a key or a query string.

A status code does not say how a streamed answer ended: the head is sent long before. A response counts as
ok only when its last byte went out to a client that was still there; whatever breaks off before is never ok.

W3C trace context is taken and passed on by every request, which needs no library, so that a provider's logs can be
matched with ours. Spans are optional: they are made after the fact, from what was measured anyway, and handed to a
`Tracer`. `Disabled` throws them away; `telemetry.otel` exports them and needs the extra `otel`.
Source: https://www.w3.org/TR/trace-context/#traceparent-header

Plain ASGI, and frugal: this runs for every request, also for the answer from memory that takes less than a
millisecond in all.
"""

from __future__ import annotations

import asyncio
import functools
import operator
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, cast

import msgspec
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from dub5.errors import ConfigError, Dub5Error, InternalError, NotCached, render, shutting_down
from dub5.settings.model import TelemetrySettings
from dub5.telemetry.logging import get_logger, json_lines
from dub5.telemetry.metrics import Hits, Metrics, RequestSeries

OTHER = "other"
"""Label of a route, method or model that is none of ours: what callers send must not grow the metrics."""

HEARTBEAT = b": waiting\n\n"
"""A server-sent comment, for a client that waits in silence: nothing of an answer, so not its first byte either."""

RequestOutcome = Literal[
    "ok", "client_error", "shed", "limited", "provider_error", "server_error", "client_disconnect"
]

PHASES = ("auth", "queue", "cache", "provider")
"""Timings in the order in which a request goes through them."""

RECORD = "dub5.record"
"""Where the record is in the scope."""

PUSH = "dub5.push"
"""Where the server may have put into the scope what sends without a wait."""


class Outlet:
    """The way to a client that takes what it is sent, while it is `open`: a part of a body, not an empty one, goes in
    this very turn, so that nobody has to be woken for it."""

    __slots__ = ("_transport", "open")

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self.open = True

    def send(self, part: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(part), part))


Push = Callable[[], Outlet | None]
"""Gives the way to the client, after the head; None where it does not take more for now.

Who sends by it notes the size in the request's record.
"""

WHOLE = "dub5.whole"
"""Where the server may have put into the scope what sends a whole answer at once."""

Whole = Callable[[int, list[tuple[bytes, bytes]], bytes], bool]
"""Sends status, headers and body with one write, so that a client wakes up once for them. False, and nothing was sent,
where that would take a wait, or the answer is not quite a usual one."""

LEAVING = "dub5.leaving"
"""Where the server may have put into the scope what tells when the client leaves."""

OnLeaving = Callable[["Callable[[], None] | None"], None]
"""Has what it is given called when the client leaves before it is answered, instead of what was given before. Who asks
`receive` for that needs a task for it."""

_OF_IDS = frozenset({b"x-request-id", b"x-client-request-id", b"traceparent"})
_LABELS = ("route", "method", "status", "outcome", "model", "stream")
_CALLER = ("error_code", "tenant", "personality")
_LEADER = ("leader_request_id", "leader_trace_id")
_ANSWER = ("cache", "provider", "prompt_tokens", "completion_tokens", *_LEADER)
"""Fields of the log line, after the ids: those that are always there, `duration_ms`, those that are where they are
known. Of the first two there are few combinations, so they are encoded once each."""

_MOST_KNOWN = 4096
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

_encode = msgspec.json.Encoder().encode

RandomBytes = Callable[[int], bytes]
"""Gives as many random bytes as it is asked for; random.randbytes but in tests."""

_TRACEPARENT = re.compile(
    # Version, trace, parent, flags, and more.
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_SAMPLED = 0x01
_USUAL = 55
"""Bytes of a traceparent of version 00."""
_ODD = b"13579bdf"
"""Last digits of flags that say that a trace is sampled."""


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """Where a piece of work stands in its trace. Ids are lower-case hex, 32 and 16 digits long.

    `parent_id` is None where the trace begins here.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    sampled: bool

    @classmethod
    def begin(cls, random_bytes: RandomBytes = random.randbytes) -> TraceContext:
        """A new trace. It is marked sampled: whether to record is left to those further down."""
        digits = random_bytes(24).hex()
        return cls(digits[:32], digits[32:], None, True)

    @classmethod
    def parse(cls, traceparent: bytes, random_bytes: RandomBytes = random.randbytes) -> TraceContext | None:
        """The caller's trace with a span of ours in it; None where the header has to be ignored.

        Version 00 is exactly four fields. Of a later version the first four are read and more may follow;
        version ff and ids of zeros are invalid.
        """
        match = _TRACEPARENT.fullmatch(traceparent)
        if match is None:
            return None
        version, trace, parent, flags, more = match.groups()
        if more is not None and version == b"00":
            return None
        sampled = bool(int(flags, 16) & _SAMPLED)
        return cls(trace.decode(), random_bytes(8).hex(), parent.decode(), sampled)

    def child(self, random_bytes: RandomBytes = random.randbytes) -> TraceContext:
        """A span below this one."""
        return TraceContext(self.trace_id, random_bytes(8).hex(), self.span_id, self.sampled)

    def traceparent(self) -> str:
        """The header for whom we call: our span is its parent."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


class RequestRecord(msgspec.Struct, kw_only=True):
    """One request.

    `started` is of time.perf_counter. `route` and `model` are labels: `other` until a known one is found.
    `status` is that of the head, once all is over. `outcome` is set by code that knows better than the status says.
    `late_status` is the one that an error would have had which came after the head: then only an event can carry it.
    `cache` is the Cache-Status header. `called`: a provider was called for it, or may yet be for others who wait for
    what it began.
    `timings` are seconds by phase: auth, queue, cache, provider; those there when the response head is sent
    become Server-Timing. `leader_request_id` and `leader_trace_id` are of the request whose provider call this
    one waited for, where that was another. `answer_headers` go with whatever is answered. `received` counts bytes of
    the body that were read before there was a scope. `pushed` counts bytes of the body that went out by a Push;
    `first_byte` is when the first of an answer did, in seconds since the request began.
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
    status: int | None = None
    outcome: RequestOutcome | None = None
    error_code: str | None = None
    refused_by_provider: bool = False
    late_status: int | None = None
    cache: str | None = None
    cache_result: str | None = None
    called: bool = False
    provider: str | None = None
    leader_request_id: str | None = None
    leader_trace_id: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    timings: dict[str, float] = {}
    answer_headers: Sequence[tuple[bytes, bytes]] = ()
    received: int = 0
    pushed: int = 0
    first_byte: float | None = None


def record_of(scope: Scope) -> RequestRecord:
    """The request's record. Where no middleware made one (the operations listener) it is made here."""
    record = cast("dict[str, Any]", scope).get(RECORD)
    if not isinstance(record, RequestRecord):
        trace = TraceContext.begin()
        record = RequestRecord(request_id=trace.trace_id, trace=trace, started=time.perf_counter())
        cast("dict[str, Any]", scope)[RECORD] = record
    return record


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A finished piece of work. `started` and `ended` are nanoseconds since the epoch, `error` its error.type."""

    name: str
    kind: Literal["server", "client"]
    trace: TraceContext
    started: int
    ended: int
    attributes: dict[str, str | int]
    error: str | None = None


class Tracer(Protocol):
    """Where spans go."""

    @property
    def enabled(self) -> bool:
        """Whether making a Span is worth the work."""
        ...

    def samples(self, trace_id: str) -> bool:
        """Whether a trace that begins here is to be recorded."""
        ...

    def export(self, span: Span) -> None:
        """Never waits and never fails; what cannot be kept is dropped. A span that is not sampled is ignored."""
        ...

    async def stop(self) -> None:
        """Send what is left."""
        ...


class Disabled:
    """No spans."""

    enabled = False

    def samples(self, trace_id: str) -> bool:  # noqa: ARG002  # see TraceContext.begin
        return True

    def export(self, span: Span) -> None:
        """Nothing."""

    async def stop(self) -> None:
        """Nothing."""


def build_tracer(settings: TelemetrySettings) -> Tracer:
    """ConfigError where tracing is asked for and the extra is not installed, or an OTEL_* variable is wrong."""
    if not settings.tracing:
        return Disabled()
    try:
        from dub5.telemetry.otel import OpenTelemetry  # noqa: PLC0415  # an optional extra

        return OpenTelemetry()
    except ImportError:
        raise ConfigError("telemetry.tracing: needs the extra `otel`: pip install 'dub5[otel]'") from None
    except ValueError as error:  # some variables are read when the SDK is imported
        raise ConfigError(f"telemetry.tracing: an OTEL_* variable cannot be used: {error}") from None


Operation = Literal["chat", "embeddings", "text_completion"]
"""What a provider is asked for, in the words of OpenTelemetry's GenAI conventions."""


def chat_span(
    trace: TraceContext,
    *,
    provider: str,
    model: str,
    input_tokens: int | None,
    output_tokens: int | None,
    error: str | None,
    started: int,
    ended: int,
    operation: Operation = "chat",
) -> Span:
    """The span of one call to a provider, by OpenTelemetry's GenAI conventions for clients.

    `trace` is a `child` of the request's; its `traceparent` goes with the call.
    """
    attributes: dict[str, str | int] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
    }
    if input_tokens is not None:
        attributes["gen_ai.usage.input_tokens"] = input_tokens
    if output_tokens is not None:
        attributes["gen_ai.usage.output_tokens"] = output_tokens
    return Span(
        name=f"{operation} {model}",
        kind="client",
        trace=trace,
        started=started,
        ended=ended,
        attributes=attributes,
        error=error,
    )


def _fields(record: RequestRecord, duration: float, first_byte: float | None) -> dict[str, Any]:
    """Of the log line."""
    measured = {"total": duration}
    if first_byte is not None:
        measured["first_byte"] = first_byte
    measured |= record.timings
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "trace_id": record.trace.trace_id,
        "span_id": record.trace.span_id,
        **{name: getattr(record, name) for name in _LABELS},
        "duration_ms": {phase: round(seconds * 1000, 3) for phase, seconds in measured.items()},
    }
    for name in (*_CALLER, *_ANSWER):
        value = getattr(record, name)
        if value is not None:
            fields[name] = value
    return fields


def milliseconds(seconds: float) -> str:
    """To the microsecond."""
    return f"{seconds * 1000:.3f}"


def _encoded(record: RequestRecord, names: Iterable[str]) -> str:
    """As they stand in the line, each after a comma: of `_LABELS` all, of others those that are known."""
    text = ""
    for name in names:
        value = getattr(record, name)
        if value is not None or names is _LABELS:
            text += f',"{name}":{_encode(value).decode()}'
    return text


@functools.lru_cache(4096)
def _quoted(text: str) -> str:
    """As JSON. Many answers of one second have the same Cache-Status, and few providers give them."""
    return _encode(text).decode()


def encoded_answer(record: RequestRecord) -> str:
    """`_encoded` of `_ANSWER`, which differs from request to request."""
    text = ""
    if record.cache is not None:
        text = f',"cache":{_quoted(record.cache)}'
    if record.provider is not None:
        text += f',"provider":{_quoted(record.provider)}'
    if record.prompt_tokens is not None:
        text += f',"prompt_tokens":{record.prompt_tokens}'
    if record.completion_tokens is not None:
        text += f',"completion_tokens":{record.completion_tokens}'
    if record.leader_request_id is not None or record.leader_trace_id is not None:
        text += _encoded(record, _LEADER)
    return text


_key_of = operator.attrgetter(*_LABELS, *_CALLER)
"""Of a HitSeries."""


class HitSeries(msgspec.Struct, frozen=True, gc=False):
    """What requests with the same labels and of the same caller have in common: their series, and of the log line
    `_LABELS` and `_CALLER`."""

    series: RequestSeries
    labels: str
    caller: str
    stream: bool


class Used(Protocol):
    """What was used for an answer."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...


Ids = tuple[str, str, str, str | None, bool]
"""Of a request; of its trace, its span, and that span's parent, and whether it is sampled, as in a TraceContext."""


class Recorder:
    """Gives requests their ids, and makes of a finished record what others see of it. `random_bytes` makes ids."""

    def __init__(
        self,
        metrics: Metrics,
        tracer: Tracer | None = None,
        *,
        random_bytes: RandomBytes = random.randbytes,
    ) -> None:
        self._metrics = metrics
        self.hits = metrics.hits
        self._tracer = Disabled() if tracer is None else tracer
        self._random_bytes = random_bytes
        self._log = get_logger().bind()
        self._known: dict[tuple[object, ...], HitSeries] = {}
        self._second, self._written_second = 0, ""

    def trace_of(self, traceparent: bytes | None) -> TraceContext:
        """The caller's trace, where what it sends can be used, else a new one."""
        trace = TraceContext.parse(traceparent, self._random_bytes) if traceparent else None
        if trace is None:
            # It begins here. Without a tracer it is marked sampled: whether to record is left to those further down.
            ids, tracer = self._random_bytes(24).hex(), self._tracer
            trace = TraceContext(ids[:32], ids[32:], None, not tracer.enabled or tracer.samples(ids[:32]))
        return trace

    def ids_of(self, traceparent: bytes, request_id: bytes) -> Ids | None:
        """`trace_of` and `id_of` in one; None where these are not quite what a parser of heads would make of them."""
        digits = self._random_bytes(40).hex()
        trace, parent, sampled, ident = digits[:32], None, True, digits[48:]
        if traceparent:
            context = _TRACEPARENT.fullmatch(traceparent)
            if context is not None and (len(traceparent) == _USUAL or context[1] != b"00"):
                # Each part of it has its place, whatever comes after them.
                trace, parent = traceparent[3:35].decode(), traceparent[36:52].decode()
                sampled = traceparent[54] in _ODD
            elif traceparent.strip() != traceparent:
                return None
        if request_id:
            if _REQUEST_ID.fullmatch(request_id):
                ident = request_id.decode()
            elif request_id.strip() != request_id:
                return None
        if parent is None and self._tracer.enabled:
            sampled = self._tracer.samples(trace)
        return ident, trace, digits[32:48], parent, sampled

    def id_of(self, request_id: bytes | None) -> str:
        """The caller's id for its request, where it is usable, else a new one."""
        if request_id and _REQUEST_ID.fullmatch(request_id):
            return request_id.decode()
        return self._random_bytes(16).hex()

    def finish(
        self,
        record: RequestRecord,
        outcome: RequestOutcome,
        status: int | None,
        duration: float,
        *,
        first_byte: float | None,
        received: int,
        sent: int,
    ) -> None:
        """Metrics, one log line and, where asked for, one span; what the record does not know is left out.

        `duration` and `first_byte` are in seconds since it was opened, `received` and `sent` bytes of the bodies.
        """
        trace, now = record.trace, time.time()
        record.outcome, record.status = outcome, status
        known = self.known(record)
        known.series.observe(
            duration,
            first_byte,
            received,
            sent,
            stream=known.stream,
            trace_id=trace.trace_id if trace.sampled else None,  # as an example of these figures
            at=now,
        )
        put = json_lines()
        if put is None:
            self._log.info("request", **_fields(record, duration, first_byte))
        else:
            phases = "" if first_byte is None else f',"first_byte":{milliseconds(first_byte)}'
            for phase, seconds in record.timings.items():
                phases += f',"{phase}":{milliseconds(seconds)}'
            answer = encoded_answer(record)
            ids = record.request_id, trace.trace_id, trace.span_id, trace.parent_id, trace.sampled
            put(self._line(ids, known, f"{milliseconds(duration)}{phases}", answer, now))
        if self._tracer.enabled and trace.sampled:
            self._export(record, outcome, status, duration)

    def known(self, record: RequestRecord) -> HitSeries:
        """Of a request of which it is known how it ended."""
        key = _key_of(record)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            series = RequestSeries(self._metrics, record.route, record.method, cast("str", record.outcome))
            labels, caller = _encoded(record, _LABELS), _encoded(record, _CALLER)
            known = self._known[key] = HitSeries(series, labels, caller, record.stream)
        return known

    def hit_before(
        self, route: str, model: str, stream: bool, tenant: str, personality: str | None
    ) -> HitSeries | None:
        """What `known` gives for a hit that is answered at once, by the key that `_key_of` makes of its record.

        None where no hit like it has ended yet.
        """
        return self._known.get((route, "POST", 200, "ok", model, stream, None, tenant, personality))

    def direct(self) -> Callable[[bytes], None] | None:
        """What takes the lines of `finish_hit`; None where there are no such lines now, or a span is exported."""
        return None if self._tracer.enabled else json_lines()

    def finish_hit(
        self,
        put: Callable[[bytes], None],
        known: HitSeries,
        ids: Ids,
        duration: float,
        phases: str,
        cache: str,
        used: Used,
        received: int,
        sent: int,
        hits: Hits | None = None,
        age: float = 0.0,
    ) -> None:
        """`finish`, of what was answered from the cache with one write: `phases` are the timings of the log line but
        the first two, as they are written. With `hits` its look-up is counted with it, of an answer of such an `age`.
        """
        now, total = time.time(), milliseconds(duration)
        trace_id = ids[1] if ids[4] else None
        prompt, completion = used.prompt_tokens, used.completion_tokens
        if hits is None:
            known.series.observe(duration, duration, received, sent, known.stream, trace_id, now)
        else:
            hits.observe(duration, age, received, sent, prompt, completion, trace_id, now)
        timings = f'{total},"first_byte":{total}{phases}'
        answer = f',"cache":"{cache}","prompt_tokens":{prompt},"completion_tokens":{completion}'
        put(self._line(ids, known, timings, answer, now))

    def _line(self, ids: Ids, known: HitSeries, timings: str, answer: str, now: float) -> bytes:
        """`_fields` as JSON, with as little as can be encoded anew."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._written_second = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return (
            f'{{"timestamp":"{self._written_second}.{int((now - second) * 1e6):06}Z","level":"info",'
            f'"event":"request","request_id":"{ids[0]}","trace_id":"{ids[1]}",'
            f'"span_id":"{ids[2]}"{known.labels},"duration_ms":{{"total":{timings}}}'
            f"{known.caller}{answer}}}\n"
        ).encode()

    def _export(
        self, record: RequestRecord, outcome: RequestOutcome, status: int | None, duration: float
    ) -> None:
        ended = time.time_ns()
        failed = outcome in {"provider_error", "server_error", "shed"}
        # Named as OpenTelemetry's HTTP conventions say.
        attributes: dict[str, str | int] = {
            "http.request.method": record.method,
            "http.route": record.route,
            "dub5.request.id": record.request_id,
        }
        if status is not None:
            attributes["http.response.status_code"] = status
        span = Span(
            name=f"{record.method} {record.route}",
            kind="server",
            trace=record.trace,
            started=ended - int(duration * 1e9),
            ended=ended,
            attributes=attributes,
            error=outcome if failed else None,
        )
        self._tracer.export(span)


class TelemetryMiddleware:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp, recorder: Recorder) -> None:
        self._app = app
        self._recorder = recorder
        self._log = get_logger().bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin a record where there is none, with the caller's request id and trace where they are usable, else with
        new ones."""
        values = cast("dict[str, Any]", scope)
        if values["type"] != "http":
            await self._app(scope, receive, send)
            return
        record: RequestRecord = values.get(RECORD) or self._begun(values)
        exchange = _Exchange(
            record, receive, send, values.get(WHOLE), values.get(LEAVING), received=record.received
        )
        if exchange.leaving is not None:
            values[LEAVING] = exchange.on_leaving
        if exchange.whole is not None:
            values[WHOLE] = exchange.send_whole
        try:
            await self._app(scope, exchange.pass_in, exchange.pass_out)
        except Exception:  # noqa: BLE001  # the outermost place: nobody else will
            self._log.exception(
                "request failed", request_id=record.request_id, trace_id=record.trace.trace_id
            )
            await _answer_instead(exchange, InternalError())
        except asyncio.CancelledError:  # the process ends by force: that is no defect
            if not await _answer_instead(exchange, shutting_down()):
                raise
        finally:
            for name in (PUSH, WHOLE, LEAVING):  # else the connection would keep itself alive
                values.pop(name, None)
            duration = time.perf_counter() - record.started
            if record.route == OTHER:  # Litestar leaves here the template of the route that it found
                record.route = values.get("path_template") or OTHER
            outcome = outcome_of(
                record, exchange.status, complete=exchange.complete, client_left=exchange.client_left
            )
            self._recorder.finish(
                record,
                outcome,
                exchange.status,
                duration,
                first_byte=record.first_byte,
                received=exchange.received,
                sent=exchange.sent + record.pushed,
            )

    def _begun(self, values: dict[str, Any]) -> RequestRecord:
        started = time.perf_counter()
        request_id = client_request_id = traceparent = None
        for name, value in values["headers"]:
            if name not in _OF_IDS:  # as most are
                continue
            if name == b"x-request-id":
                request_id = value
            elif name == b"x-client-request-id":  # as OpenAI calls what its clients may send
                client_request_id = value
            else:
                # Two of them are none: whose trace would it be?
                traceparent = value if traceparent is None else b""
        method = values["method"]
        record = values[RECORD] = RequestRecord(
            trace=self._recorder.trace_of(traceparent),
            request_id=self._recorder.id_of(client_request_id if request_id is None else request_id),
            started=started,
            method=method if method in _METHODS else OTHER,
        )
        return record


class _Exchange(msgspec.Struct):
    """One request and its response on their way through; counts and looks, and changes only the head.

    `received` and `sent` are bytes of the bodies, without what was pushed. `held` is a head that goes together with its
    body, where the server can send a `whole` answer.
    """

    record: RequestRecord
    receive: Receive
    send: Send
    whole: Whole | None = None
    leaving: OnLeaving | None = None
    held: Message | None = None
    status: int | None = None
    received: int = 0
    sent: int = 0
    complete: bool = False
    client_left: bool = False

    async def pass_in(self) -> Any:
        message: Any = await self.receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
        elif message["type"] == "http.disconnect" and not self.complete:  # servers send it after the end, too
            self.client_left = True
        return message

    def on_leaving(self, call: Callable[[], None] | None) -> None:
        """See OnLeaving: what is seen of it by `receive` is seen here, too."""

        def left() -> None:
            self.client_left = not self.complete
            if call is not None:
                call()

        if self.leaving is not None:
            self.leaving(None if call is None else left)

    async def pass_out(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message["headers"] = self._with_ours(message.get("headers", ()))
            # Never after an answer: by then the server may have begun the next request of the connection.
            may_be_held = self.whole is not None and not self.complete
            if may_be_held and b"content-length" in dict(headers):
                self.held = message
            else:
                await self.send(message)
            return
        held, self.held = self.held, None
        if held is None or not self._sent_whole(held, message):
            if held is not None:
                await self.send(held)
            await self.send(message)
        if message["type"] == "http.response.body":
            record, body = self.record, message.get("body", b"")
            if record.first_byte is None and body and body != HEARTBEAT:
                record.first_byte = time.perf_counter() - record.started
            self.sent += len(body)
            self.complete = not message.get("more_body", False)

    def send_whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """A Whole, of the whole answer at once: what `pass_out` does with the two messages of one."""
        if self.whole is None or self.status is not None:
            return False
        if not self.whole(status, self._with_ours(headers), body):
            return False
        record, self.status, self.complete = self.record, status, True
        if body:
            record.first_byte = time.perf_counter() - record.started
        self.sent = len(body)
        return True

    def _with_ours(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        record = self.record
        took = int((time.perf_counter() - record.started) * 1000)
        timings = record.timings
        headers = [
            *headers,
            (b"x-request-id", record.request_id.encode()),
            (b"openai-processing-ms", b"%d" % took),
        ]
        if timings:  # seconds here, milliseconds there. https://www.w3.org/TR/server-timing/
            phases = [f"{phase};dur={timings[phase] * 1000:.3f}" for phase in PHASES if phase in timings]
            headers.append((b"server-timing", ", ".join(phases).encode()))
        headers += record.answer_headers
        return headers

    def _sent_whole(self, head: Any, message: Any) -> bool:
        if self.whole is None or message["type"] != "http.response.body" or message.get("more_body", False):
            return False
        return self.whole(head["status"], head["headers"], message.get("body", b""))


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


async def _answer_instead(exchange: _Exchange, error: Dub5Error) -> bool:
    """Tell the client of an error; False where that is no longer possible.

    After the head it is not: returning with the response unfinished makes the server break off the
    connection, so that the client cannot take the part for the whole.
    """
    if exchange.status is not None and exchange.held is None:
        return False
    exchange.record.error_code, answer = error.code, render(error)
    headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
    await exchange.pass_out({"type": "http.response.start", "status": answer.status, "headers": headers})
    await exchange.pass_out({"type": "http.response.body", "body": answer.body, "more_body": False})
    return True
