"""What is noted of the calls that one request makes to providers: metrics, log lines, a span, tokens and price."""

from __future__ import annotations

import time

from dub5.chat.answer import Usage
from dub5.providers.call import CallResult, Model
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Metrics
from dub5.telemetry.record import Operation, RequestRecord, Tracer, chat_span

_FAILED = {"error", "timeout", "limited", "overloaded"}

_log = get_logger()


class CallNotes:
    """Of one call and its retries and fallbacks; `trace` is its span. `background`: nobody waits.

    `usage` is what the answer took, and `age` for how many seconds a cache between us and the provider had held it.
    """

    def __init__(
        self,
        record: RequestRecord,
        model: Model,
        metrics: Metrics,
        tracer: Tracer,
        *,
        background: bool = False,
        operation: Operation = "chat",
    ) -> None:
        self.trace = record.trace.child()
        self.usage = Usage()
        self.age = 0.0
        self._record = record
        self._model = model
        self._metrics = metrics
        self._tracer = tracer
        self._background = background
        self._operation = operation

    def count(self, usage: Usage) -> None:
        """A provider made an answer. What its own prompt cache saved is counted as saved, too."""
        self.usage = usage
        model, metrics = self._model, self._metrics
        metrics.count_answer(
            model.name, usage.prompt, usage.cached, usage.completion, *usage.dollars(model.price)
        )
        if usage.cached and model.price.cached_input is not None:
            saved = usage.cached * (model.price.input - model.price.cached_input) / 1e6
            metrics.saved_dollars.labels(model.name, "cached_input").inc(saved)

    def observe(self, ended: CallResult) -> None:
        """One attempt is over: its metrics, and one line in the log with both sides' ids of it."""
        record, response = self._record, ended.response
        if ended.outcome == "ok":
            self.age = max(self.age, response.age)
        # The slower of two calls is cancelled, and says nothing about the answer.
        if ended.outcome != "cancelled" or record.provider is None:
            record.provider = ended.provider
        self._metrics.observe_provider(
            ended.provider,
            ended.model,
            ended.outcome,
            ended.duration,
            ended.first_token,
            ended.reason,
            self.trace.trace_id if self.trace.sampled else None,
        )
        measured = {"total": ended.duration, "first_token": ended.first_token}
        fields = {
            "request_id": record.request_id,
            "trace_id": self.trace.trace_id,
            "span_id": self.trace.span_id,
            "provider": ended.provider,
            "model": ended.model,
            "upstream_model": ended.upstream,
            "attempt": ended.number,
            "outcome": ended.outcome,
            "duration_ms": {
                name: int(seconds * 1e6) / 1000 for name, seconds in measured.items() if seconds is not None
            },
        }
        known = {
            "attempt_reason": ended.reason,
            "status": response.status,
            "provider_request_id": response.request_id,
            "trouble": ended.error,
            "background": self._background or None,
        }
        fields.update((name, value) for name, value in known.items() if value is not None)
        log = _log.warning if ended.outcome in _FAILED else _log.info
        log("provider call", **fields)

    def export(self, began: float, error: str | None) -> None:
        """The span of this call, which began then, in seconds since the epoch; `error` is its code."""
        if not self._tracer.enabled:
            return
        span = chat_span(
            self.trace,
            operation=self._operation,
            provider=self._record.provider or "unknown",
            model=self._model.name,
            input_tokens=self.usage.prompt,
            output_tokens=self.usage.completion,
            error=error,
            started=int(began * 1e9),
            ended=time.time_ns(),
        )
        self._tracer.export(span)
