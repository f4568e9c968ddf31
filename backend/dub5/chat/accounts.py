"""Tokens and money: what answers cost, and what the caches saved."""

from __future__ import annotations

from dub5.chat.question import Question
from dub5.chat.shapes import Usage
from dub5.telemetry.metrics import Metrics


def dollars(question: Question, usage: Usage) -> float:
    """What a provider charges for an answer."""
    return sum(_dollars(question, usage))


def count_asked(question: Question, metrics: Metrics, usage: Usage) -> None:
    """A provider made this answer. Its own prompt cache's savings are counted as savings, too."""
    model, price = question.target.model.name, question.target.model.price
    _note(question, usage)
    metrics.count_tokens(model, usage.prompt, usage.cached, usage.completion)
    metrics.count_cost(model, *_dollars(question, usage))
    if usage.cached and price.cached_input is not None:
        metrics.saved_dollars.labels(model, "cached_input").inc(
            usage.cached * (price.input - price.cached_input) / 1e6
        )


def count_saved(question: Question, metrics: Metrics, usage: Usage) -> None:
    """A request was answered without a call of its own."""
    _note(question, usage)
    metrics.count_saved(question.target.model.name, *_dollars(question, usage))


def _note(question: Question, usage: Usage) -> None:
    question.record.prompt_tokens, question.record.completion_tokens = usage.prompt, usage.completion


def _dollars(question: Question, usage: Usage) -> tuple[float, float]:
    """For prompt and answer; prices are per million tokens."""
    price = question.target.model.price
    cached_input = price.input if price.cached_input is None else price.cached_input
    prompt = (usage.prompt - usage.cached) * price.input + usage.cached * cached_input
    return prompt / 1e6, usage.completion * price.output / 1e6
