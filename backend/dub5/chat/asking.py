"""Asking a provider on behalf of everyone who wants the answer: the work of a flight's leader.

Frames are passed on as they arrive. Only a complete answer is kept, and it is kept before the flight ends, so
that whoever asks next finds it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from dub5.cache.answers import AnswerCache
from dub5.cache.entry import Entry
from dub5.cache.flight import Frame, Identity
from dub5.chat import shapes
from dub5.chat.cacheable import is_whole_answer
from dub5.chat.question import Question
from dub5.providers.protocol import Payload
from dub5.telemetry.metrics import Metrics


class Asking:
    """One call for one question. `identity` is where the answer is kept, None where it is not."""

    def __init__(
        self, question: Question, identity: Identity | None, cache: AnswerCache | None, metrics: Metrics
    ) -> None:
        self.stored = False
        self._question = question
        self._identity = identity
        self._cache = cache
        self._metrics = metrics
        self._born = 0.0
        self._started = 0.0

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """The answer's frames; a Dub5Error where no provider gives one."""
        self._born, self._started = time.time(), time.perf_counter()
        if self._question.request.stream:
            async with aclosing(self._streamed()) as frames:
                async for frame in frames:
                    yield frame
        else:
            answer = await self._question.target.model.complete(
                self._question.call(), self._metrics.observe_provider
            )
            await self._keep(answer)
            yield Frame("whole", answer.raw)

    async def _streamed(self) -> AsyncGenerator[Frame, None]:
        assembler = shapes.Assembler()
        model, call = self._question.target.model, self._question.call()
        async with aclosing(await model.open(call, self._metrics.observe_provider)) as stream:
            async for chunk in stream:
                assembler.add(chunk.data)
                yield Frame("usage" if shapes.is_usage_only(chunk.data) else "chunk", chunk.raw)
        await self._keep(Payload.of(assembler.completion()))

    async def _keep(self, answer: Payload) -> None:
        """Count what the answer cost, and store it where that is allowed."""
        question = self._question
        prompt, completion = shapes.usage_of(answer.data)
        question.record.prompt_tokens, question.record.completion_tokens = prompt, completion
        self._metrics.count_tokens(question.target.model.name, prompt, completion)
        self._metrics.count_money(
            question.target.model.name, *_price(question, prompt, completion), saved=False
        )
        if self._identity is None or self._cache is None or question.wanted is None:
            return
        if is_whole_answer(shapes.finish_reasons(answer.data), question.fields):
            recompute = time.perf_counter() - self._started
            entry = Entry(answer.raw, int(self._born * 1e6), recompute, prompt, completion)
            self.stored = await self._cache.store(self._identity, entry, question.wanted.lifetimes)


def _price(question: Question, prompt: int, completion: int) -> tuple[float, float]:
    """Dollars for prompt and answer."""
    price = question.target.model.price
    return prompt * price.input / 1e6, completion * price.output / 1e6


def count_saved(question: Question, metrics: Metrics, usage: tuple[int, int]) -> None:
    """A request was answered without a call of its own: note its tokens, and what they would have cost."""
    prompt, completion = usage
    question.record.prompt_tokens, question.record.completion_tokens = prompt, completion
    metrics.count_money(question.target.model.name, *_price(question, prompt, completion), saved=True)
