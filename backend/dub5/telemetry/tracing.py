"""W3C trace context, taken and passed on by every request, and spans where they are asked for.

Passing `traceparent` on needs no library and is always done, so that a provider's logs can be matched with
ours. Spans are optional: they are made after the fact, from what was measured anyway, and handed to a
`Tracer`. `Disabled` throws them away; `telemetry.otel` exports them and needs the extra `otel`.
Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from dub5.errors import ConfigError
from dub5.settings.model import TelemetrySettings

RandomBytes = Callable[[int], bytes]
"""Gives as many random bytes as it is asked for; random.randbytes but in tests."""

_TRACEPARENT = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    rb"(?P<more>-.*)?"
)
_SAMPLED = 0x01


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
        if match is None or match["version"] == b"ff":
            return None
        if match["version"] == b"00" and match["more"] is not None:
            return None
        if not match["trace"].strip(b"0") or not match["parent"].strip(b"0"):
            return None
        sampled = bool(int(match["flags"], 16) & _SAMPLED)
        return cls(match["trace"].decode(), random_bytes(8).hex(), match["parent"].decode(), sampled)

    def child(self, random_bytes: RandomBytes = random.randbytes) -> TraceContext:
        """A span below this one."""
        return TraceContext(self.trace_id, random_bytes(8).hex(), self.span_id, self.sampled)

    def exemplar(self) -> str | None:
        """The trace that a figure is to be an example of; None where the caller said not to
        sample it. Without an exporter it is that of the log lines."""
        return self.trace_id if self.sampled else None

    def traceparent(self) -> str:
        """The header for whom we call: our span is its parent."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


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


def build(settings: TelemetrySettings) -> Tracer:
    """ConfigError where tracing is asked for and the extra is not installed, or an OTEL_* variable is wrong."""
    if not settings.tracing:
        return Disabled()
    try:
        from dub5.telemetry.otel import OpenTelemetry  # noqa: PLC0415  # an optional extra
    except ImportError:
        raise ConfigError("telemetry.tracing: needs the extra `otel`: pip install 'dub5[otel]'") from None
    try:
        return OpenTelemetry()
    except ValueError as error:
        raise ConfigError(f"telemetry.tracing: an OTEL_* variable cannot be used: {error}") from None


def request_span(
    trace: TraceContext,
    *,
    method: str,
    route: str,
    status: int | None,
    request_id: str,
    error: str | None,
    started: int,
    ended: int,
) -> Span:
    """The span of a request to us, named as OpenTelemetry's HTTP conventions say."""
    attributes: dict[str, str | int] = {
        "http.request.method": method,
        "http.route": route,
        "dub5.request.id": request_id,
    }
    if status is not None:
        attributes["http.response.status_code"] = status
    return Span(
        name=f"{method} {route}",
        kind="server",
        trace=trace,
        started=started,
        ended=ended,
        attributes=attributes,
        error=error,
    )


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
) -> Span:
    """The span of one call to a provider, by OpenTelemetry's GenAI conventions for clients.

    `trace` is a `child` of the request's; its `traceparent` goes with the call.
    """
    attributes: dict[str, str | int] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
    }
    if input_tokens is not None:
        attributes["gen_ai.usage.input_tokens"] = input_tokens
    if output_tokens is not None:
        attributes["gen_ai.usage.output_tokens"] = output_tokens
    return Span(
        name=f"chat {model}",
        kind="client",
        trace=trace,
        started=started,
        ended=ended,
        attributes=attributes,
        error=error,
    )
