"""What one request tells about itself: filled in on its way down, read once at its end.

The outermost middleware makes the record and puts it into the ASGI scope; each layer writes what it alone
knows. Metrics, the log line and the span are all made from it, so they cannot disagree. Nothing in it is a
prompt, a key or a query string.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec
from litestar.types import Scope

from dub5.telemetry.tracing import TraceContext

OTHER = "other"
"""Label of a route, method or model that is none of ours: what callers send must not grow the metrics."""

HEARTBEAT = b": waiting\n\n"
"""A server-sent comment, for a client that waits in silence: nothing of an answer, so not its first byte either."""

RequestOutcome = Literal[
    "ok", "client_error", "shed", "limited", "provider_error", "server_error", "client_disconnect"
]

_KEY = "dub5.record"


class RequestRecord(msgspec.Struct, kw_only=True):
    """One request.

    `started` is of time.perf_counter. `route` and `model` are labels: `other` until a known one is found.
    `outcome` is set by whoever knows better than the status tells. `late_status` is the one that an error would have
    had which came after the head: then only an event can tell it. `cache` is the Cache-Status header.
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


def keep(scope: Scope, record: RequestRecord) -> None:
    """Make it the record that `record_of` finds."""
    cast("dict[str, Any]", scope)[_KEY] = record


def record_of(scope: Scope) -> RequestRecord:
    """The request's record. Where no middleware made one (the operations listener) it is made here."""
    record = cast("dict[str, Any]", scope).get(_KEY)
    if not isinstance(record, RequestRecord):
        trace = TraceContext.begin()
        record = RequestRecord(request_id=trace.trace_id, trace=trace, started=time.perf_counter())
        keep(scope, record)
    return record
