"""A request, resolved: what answers it, under which name its answer is kept, and what is asked of a provider."""

from __future__ import annotations

import msgspec

from dub5.cache.answers import Wanted
from dub5.cache.flight import Asker
from dub5.cache.freshness import Directives
from dub5.chat.catalog import Target
from dub5.chat.request import ChatRequest, Json
from dub5.providers.protocol import Call
from dub5.telemetry.record import RequestRecord
from dub5.telemetry.tracing import TraceContext

_OURS = frozenset({"model", "stream", "stream_options"})


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """`wanted` is None where the cache is not to be used; `bypass` says why.

    At `deadline`, in seconds of time.monotonic, the caller stops waiting for the first byte.
    """

    request: ChatRequest
    fields: Json
    target: Target
    asked: Directives
    wanted: Wanted | None
    bypass: str | None
    record: RequestRecord
    deadline: float | None = None

    @property
    def asker(self) -> Asker:
        """For those who get the answer of a call made for this question."""
        return Asker(self.record.request_id, self.record.trace.trace_id)

    def call(self, trace: TraceContext) -> Call:
        """What a provider is asked, under the span `trace`; its `model` is filled in by the route."""
        body = {name: value for name, value in self.fields.items() if name not in _OURS}
        headers = {"x-request-id": self.record.request_id, "traceparent": trace.traceparent()}
        options = self.request.body.get("stream_options") or {}
        call = Call(
            model="",
            body=body,
            stream=self.request.stream,
            stream_options=options,
            large=self.request.large,
            headers=headers,
        )
        personality = self.target.personality
        if personality is None:
            return call
        body["messages"] = personality.messages(self.request)
        defaults = personality.defaults(self.request)
        return msgspec.structs.replace(call, stable=personality.stable, defaults=defaults)
