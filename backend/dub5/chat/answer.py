"""What a client gets, from what a flight brings: the whole answer or its frames as they come, its tokens, its status;
and what is noted of the calls to providers that it took.

All that is a `chat.completion` or its chunks, whatever protocol the client speaks: a `Writer` writes it in that one.

An answer is stored only where it is whole. Never stored are answers that were cut short, in error, filtered, refused,
empty, malformed, or ended by a limit that neither the caller nor the protocol set.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

import msgspec

from dub5.cache.flights import CacheStatus, Following
from dub5.errors import (
    CallerError,
    Dub5Error,
    FlightLost,
    InternalError,
    Overloaded,
    ProviderError,
)
from dub5.frames import Frame
from dub5.providers.call import CallResult, Model
from dub5.providers.chunks import Assembler
from dub5.providers.protocol import Json, Payload, decode
from dub5.settings.model import Price
from dub5.telemetry.logging import get_logger, note
from dub5.telemetry.metrics import Metrics
from dub5.telemetry.record import Operation, RequestOutcome, RequestRecord, Tracer, chat_span

_MOST_TOKENS = 2**40
"""More than any answer has: a greater number is nonsense, and would not fit where numbers are kept."""
_STEP = 1000
"""Chunks that are read without a pause."""
_LIMITS = ("max_tokens", "max_completion_tokens")
_CALLING = frozenset({"tool_calls", "function_call"})
_GOOD_ENDS = _CALLING | {"stop"}
_FAILED = {"error", "timeout", "limited", "overloaded"}

_log = get_logger()


class Answer(msgspec.Struct, frozen=True):
    """`content` is a whole completion, or gives the frames of one as they come: then it is to be closed. What has
    arrived together goes on together: for a client that falls behind, one write per chunk would be most of the work.
    `age` is in seconds."""

    content: bytes | Following
    status: CacheStatus
    age: float | None = None


class Writer(Protocol):
    """Writes one answer in the protocol in which its question was asked. One for each request."""

    def whole(self, completion: bytes) -> bytes:
        """The body for a whole completion."""
        ...

    def replay(self, completion: bytes) -> bytes:
        """Every event of a stream for a whole completion, to the very end."""
        ...

    def events(self, frames: list[Frame]) -> bytes:
        """Events for frames that have arrived; may be empty."""
        ...

    def end(self) -> bytes:
        """The last events of a complete answer."""
        ...

    def failed(self, error: Dub5Error) -> bytes:
        """The last event where the answer breaks off."""
        ...


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one answer; `cached` are those of the prompt that the provider's own cache had."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def dollars(self, price: Price) -> tuple[float, float]:
        """What a provider charges for prompt and answer; prices are per million tokens."""
        cached_input = price.input if price.cached_input is None else price.cached_input
        prompt = (self.prompt - self.cached) * price.input + self.cached * cached_input
        return prompt / 1e6, self.completion * price.output / 1e6


def usage_of(data: Json) -> Usage:
    """What a completion or chunk says of its tokens; 0 where it says nothing, or what cannot be."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return Usage()
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    prompt = _count(usage.get("prompt_tokens"))
    return Usage(prompt, completion_tokens(usage), min(prompt, _count(cached)))


def completion_tokens(usage: Json) -> int:
    """With those of what was thought: xAI and Google count them in the total alone, and charge for them."""
    said, prompt = _count(usage.get("completion_tokens")), _count(usage.get("prompt_tokens"))
    return max(said, _count(usage.get("total_tokens")) - prompt) if prompt else said


def _count(count: object) -> int:
    return count if type(count) is int and 0 <= count <= _MOST_TOKENS else 0


class CallNotes:
    """What is noted of the calls that one request makes to providers: metrics, log lines, a span, tokens and price.

    Of one call and its retries and fallbacks; `trace` is its span. `background`: nobody waits.

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
        fields: dict[str, Any] = {
            "request_id": record.request_id,
            "trace_id": self.trace.trace_id,
            "span_id": self.trace.span_id,
            "provider": ended.provider,
            "model": ended.model,
            "upstream_model": ended.upstream,
            "attempt": ended.number,
            "outcome": ended.outcome,
            "duration_ms": {"total": int(ended.duration * 1e6) / 1000},
        }
        if ended.first_token is not None:
            fields["duration_ms"]["first_token"] = int(ended.first_token * 1e6) / 1000
        if ended.reason is not None:
            fields["attempt_reason"] = ended.reason
        if response.status is not None:
            fields["status"] = response.status
        if response.request_id is not None:
            fields["provider_request_id"] = response.request_id
        if ended.error is not None:
            fields["trouble"] = ended.error
        if self._background:
            fields["background"] = True
        if ended.outcome in _FAILED:
            _log.warning("provider call", **fields)
        else:
            note("provider call", fields)

    def export(self, began: float, error: str | None) -> None:
        """The span of this call, which began then, in seconds since the epoch; `error` is its code. Only where the
        tracer is enabled."""
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


class _Outside(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")


_outside = msgspec.json.Decoder(_Outside).decode


def usage_in(body: bytes) -> Usage:
    """`usage_of` a whole completion, nothing else of which is decoded."""
    return usage_of({"usage": msgspec.json.decode(_outside(body).usage)})


def outcome_of(error: Dub5Error) -> RequestOutcome:
    """Of a request that ended with `error`, where the status cannot say: it is sent, or a provider has chosen it."""
    match error:
        case CallerError():
            return "client_error"
        case Overloaded():
            return "shed"
        case InternalError() | FlightLost():
            return "server_error"
        case ProviderError(is_outage=False):
            return "client_error"
    return "provider_error"


async def whole_of(frames: list[Frame]) -> bytes:
    """The completion that complete frames stand for: as it came, or assembled from its chunks, with pauses."""
    if frames and frames[0].kind == "whole":
        return frames[0].raw
    assembler = Assembler()
    for number, frame in enumerate(frames, 1):
        assembler.add(decode(frame.raw))
        if number % _STEP == 0:
            await asyncio.sleep(0)
    return Payload.of_whole(assembler.completion()).raw


def is_whole_answer(completion: Json, fields: Json, usual_limit: int | None = None) -> bool:
    """Whether every choice says something, is well formed, and came to an end that asking again would not better.

    `length` is such an end only where the request itself set the limit, and the answer came up to it; where it sets
    none, `usual_limit` tokens are the protocol's. Takes whatever a provider may have sent.
    """
    choices = completion.get("choices")
    if not isinstance(choices, list) or not choices:
        return False
    for choice in choices:
        if not isinstance(choice, dict):
            return False
        reason, message = choice.get("finish_reason"), choice.get("message")
        if not isinstance(reason, str) or not isinstance(message, dict):
            return False
        cut = reason == "length"
        ended = reason in _GOOD_ENDS or (cut and _came_up_to_its_limit(completion, fields, usual_limit))
        if not ended or message.get("refusal"):
            return False
        calls, call = message.get("tool_calls"), message.get("function_call")
        if calls is not None and not _are_proper_calls(calls, cut):
            return False
        if call is not None and not _is_proper_function(call, cut):
            return False
        if reason in _CALLING and not (calls or call):
            return False
        content = message.get("content")
        if isinstance(content, list):
            if not all(isinstance(part, dict) for part in content):
                return False
        elif not (content is None or isinstance(content, str)):
            return False
        says = bool(content.strip()) if isinstance(content, str) else _says(content)
        if not (calls or call or says or _other_media(message)):
            return False
    return True


def _came_up_to_its_limit(completion: Json, fields: Json, usual_limit: int | None) -> bool:
    """Whether there is a limit, and nothing says that the answer is shorter than that."""
    limits = [limit for limit in map(fields.get, _LIMITS) if isinstance(limit, int)]
    if not limits and usual_limit is not None:
        limits.append(usual_limit)
    usage = completion.get("usage")
    used = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return bool(limits) and not (type(used) is int and used < min(limits))


def _says(content: object) -> bool:
    if isinstance(content, list):
        return any(_says(part.get("text", "x")) for part in content)
    return isinstance(content, str) and bool(content.strip())


def _other_media(message: Json) -> bool:
    """What may stand in the place of a text."""
    return any(isinstance(message.get(name), (dict, list)) and message[name] for name in ("audio", "images"))


def _are_proper_calls(calls: object, cut: bool) -> bool:
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        return False
    ids = {call["id"] for call in calls if isinstance(call.get("id"), str) and call["id"]}
    return len(ids) == len(calls) and all(_is_proper_call(call, cut) for call in calls)


def _is_proper_call(call: Json, cut: bool) -> bool:
    custom = call.get("custom")
    if isinstance(custom, dict):
        return _is_name(custom.get("name")) and isinstance(custom.get("input"), str)
    return call.get("function") is not None and _is_proper_function(call["function"], cut)


def _is_proper_function(function: object, cut: bool) -> bool:
    """Whether it has a name and arguments in JSON; where the answer was cut, they may be as well."""
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        return False
    arguments = function.get("arguments")
    return isinstance(arguments, str) and (cut or _is_json(arguments))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip())


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
