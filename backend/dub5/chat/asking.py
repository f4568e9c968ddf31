"""Asking a provider on behalf of everyone who wants the answer: the work of a flight's leader.

Frames are told as they arrive. Only a complete answer is kept, and it is kept before the flight ends, so
that whoever asks next finds it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import msgspec

from dub5.admission.gate import Gate
from dub5.cache.answers import AnswerCache
from dub5.cache.comparison import Comparison, fingerprint, same
from dub5.cache.entry import Entry
from dub5.cache.flight import Frame, Identity
from dub5.cache.flights import Tell
from dub5.cache.samples import Sampler
from dub5.chat import accounts, shapes
from dub5.chat.cacheable import is_whole_answer
from dub5.chat.question import Question
from dub5.errors import Dub5Error
from dub5.providers.call import CallResult
from dub5.providers.protocol import Json, Payload
from dub5.telemetry.logging import get_logger, milliseconds
from dub5.telemetry.metrics import Metrics
from dub5.telemetry.tracing import Tracer, chat_span

_LONG = 64 * 2**10
"""Bytes of an answer from which on comparing it takes more than some milliseconds."""

_FAILED = {"error", "timeout", "limited", "overloaded"}

_log = get_logger()


class Keeping(msgspec.Struct, frozen=True):
    """Where an answer is kept, and who compares it with the one before it (None without Redis).

    `compared_with` is the answer that a re-ask measures: then a new one is kept only where it differs.
    """

    cache: AnswerCache
    identity: Identity
    sampler: Sampler | None
    compared_with: Entry | None = None


class Means(msgspec.Struct, frozen=True):
    """What every call takes: a place in the gate, and somebody to tell."""

    gate: Gate
    metrics: Metrics
    tracer: Tracer


class Asking:
    """One call for one question. `keeping` is None where the answer must not be kept."""

    def __init__(
        self,
        question: Question,
        keeping: Keeping | None,
        means: Means,
        *,
        background: bool = False,
    ) -> None:
        self.stored = False
        self._question = question
        self._keeping = keeping
        self._gate, self._metrics, self._tracer = means.gate, means.metrics, means.tracer
        self._background = background
        self._trace = question.record.trace.child()
        self._began = 0.0
        self._born = 0.0
        self._age = 0.0
        self._started = 0.0
        self._usage = shapes.Usage()

    async def lead(self, tell: Tell) -> None:
        """Tell the answer's frames; raises a Dub5Error where no provider gives one."""
        record = self._question.record
        tenant = record.tenant or ""
        request = self._keeping.identity if self._keeping is not None else record.request_id
        deadline = self._question.deadline
        async with self._gate.admitted(
            tenant,
            self._question.target.model.name,
            request,
            deadline=deadline,
            background=self._background,
        ) as waited:
            record.timings["queue"] = waited
            await self._ask(tell)

    async def _ask(self, tell: Tell) -> None:
        keeping = self._keeping
        self._began, self._started = time.time(), time.perf_counter()
        self._born = self._began if keeping is None else keeping.cache.now()
        if keeping is not None and keeping.sampler is not None and keeping.compared_with is None:
            keeping.sampler.earn_re_ask()
        error = None
        try:
            await (self._stream(tell) if self._question.request.stream else self._complete(tell))
        except Dub5Error as failure:
            error = failure.code
            if keeping is not None and keeping.sampler is not None and keeping.compared_with is not None:
                keeping.sampler.failed(self._question.target.class_name)
            raise
        finally:
            self._export(error)

    async def _complete(self, tell: Tell) -> None:
        model, call = self._question.target.model, self._question.call(self._trace)
        answer = await model.complete(call, self._observe)
        self._count(answer.data)
        if self._fits(len(answer.raw)):
            await self._keep(answer)
        tell(Frame("whole", answer.raw))

    async def _stream(self, tell: Tell) -> None:
        assembler = shapes.Assembler()
        model, call = self._question.target.model, self._question.call(self._trace)
        async with aclosing(await model.open(call, self._observe)) as stream:
            async for chunk in stream:
                assembler.add(chunk.data)
                tell(Frame("usage" if shapes.is_usage_only(chunk.data) else "chunk", chunk.raw))
        self._count({"usage": assembler.usage})
        if self._fits(assembler.characters()):
            await self._keep(Payload.of_whole(assembler.completion()))

    def _count(self, answer: Json) -> None:
        self._usage = shapes.usage_of(answer)
        accounts.count_asked(self._question, self._metrics, self._usage)

    def _fits(self, size: int) -> bool:
        """Whether an answer of at least so many bytes may be kept: others are not looked at."""
        keeping = self._keeping
        return keeping is not None and size <= keeping.cache.max_entry

    def _observe(self, ended: CallResult) -> None:
        record = self._question.record
        if ended.outcome == "ok":
            self._age = max(self._age, ended.response.age)
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
            self._trace.exemplar(),
        )
        self._tell(ended)

    def _tell(self, ended: CallResult) -> None:
        """One line for each call, with both sides' ids of it."""
        duration = {"total": milliseconds(ended.duration)}
        if ended.first_token is not None:
            duration["first_token"] = milliseconds(ended.first_token)
        fields = {
            "request_id": self._question.record.request_id,
            "trace_id": self._trace.trace_id,
            "span_id": self._trace.span_id,
            "provider": ended.provider,
            "model": ended.model,
            "upstream_model": ended.upstream,
            "attempt": ended.number,
            "outcome": ended.outcome,
            "duration_ms": duration,
        }
        known = {
            "attempt_reason": ended.reason,
            "status": ended.response.status,
            "provider_request_id": ended.response.request_id,
            "trouble": ended.error,
            "background": self._background or None,
        }
        fields.update((name, value) for name, value in known.items() if value is not None)
        tell = _log.warning if ended.outcome in _FAILED else _log.info
        tell("provider call", **fields)

    def _export(self, error: str | None) -> None:
        if self._tracer.enabled:
            span = chat_span(
                self._trace,
                provider=self._question.record.provider or "unknown",
                model=self._question.target.model.name,
                input_tokens=self._usage.prompt,
                output_tokens=self._usage.completion,
                error=error,
                started=int(self._began * 1e9),
                ended=time.time_ns(),
            )
            self._tracer.export(span)

    async def _keep(self, answer: Payload) -> None:
        """Store the answer where that is allowed."""
        question, keeping, usage = self._question, self._keeping, self._usage
        if keeping is None or question.wanted is None:
            return
        if not is_whole_answer(answer.data, question.fields):
            return
        recompute = time.perf_counter() - self._started
        born = self._born - self._age  # what a cache had held for a while is as old as that (RFC 9111, 4.2.3)
        entry = Entry(answer.raw, int(born * 1e6), recompute, usage.prompt, usage.completion)
        lifetimes = question.wanted.lifetimes
        how = question.target.cache_class.compare
        digest = await _fingerprint(answer.raw, answer.data, how) if keeping.sampler is not None else ""
        last = keeping.compared_with
        if last is None or not same(
            digest, await _fingerprint(last.body, msgspec.json.decode(last.body), how)
        ):
            self.stored = await keeping.cache.store(keeping.identity, entry, lifetimes)
        if keeping.sampler is not None:
            keeping.sampler.fetched(
                keeping.identity,
                question.target.class_name,
                entry,
                digest,
                ttl=lifetimes.ttl,
                asked_again=keeping.compared_with is not None,
            )


async def _fingerprint(raw: bytes, data: Json, how: Comparison) -> str:
    """Of an answer. In a thread where it is long: Python there lets the event loop run every few milliseconds."""
    if len(raw) <= _LONG:
        return fingerprint(data, how)
    return await asyncio.to_thread(fingerprint, data, how)
