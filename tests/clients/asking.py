"""What the script of every client does: it asks, says whether each answer was right, and prints that as JSON.

It runs where the client is installed, so it uses the standard library alone. A script is run from the root of the
repository, as `python -m tests.clients.NAME URL`, and consists of functions that each make one call of the client:

    @call("chat.completions.create")
    def chat(model: str, text: str) -> object:
        return client.chat.completions.create(model=model, messages=[...]).choices[0].message.content

Each is made of every model of its family, and of each four times: one question alone and then again, which is a miss
and a hit; and another twice at once, which the provider keeps waiting until one has joined the other. So its two
questions are two calls of the provider, times `steps`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from threading import Thread
from typing import TypeVar

T = TypeVar("T")

Ask = Callable[[str, str], object]

GPT = {"OpenAI": "gpt-4o-mini", "Anthropic": "gpt-4.1"}
CLAUDE = {"OpenAI": "claude-haiku-4-5", "Anthropic": "claude-sonnet-4-5"}
"""By the provider behind each: names that a client knows, whoever answers to them."""

ADA = {"name": "Ada", "age": 36}
"""What a provider fills in where it is given a schema."""

TOGETHER = "together"
TOGETHER_TOKEN = 3871
"""In a question that is asked twice at once: the word, and its token where it is sent as cl100k's."""

TIMEOUT = 120.0
"""Seconds for an answer."""


def said(text: str) -> object:
    return f"You said: {text}"


def continued(text: str) -> object:
    """By completions: see testkit.openai_server."""
    return f" after {text}"


@dataclass
class Row:
    """What came of one call."""

    call: str
    streamed: bool
    provider: str
    asked: dict[str, int]
    """How many calls of the provider are right, by question; empty where its answers are not kept."""
    wrong: str = ""


@dataclass
class _Call:
    name: str
    ask: Ask
    models: dict[str, str]
    streamed: bool
    expect: Callable[[str], object]
    sent: Callable[[str], str]
    steps: int
    """Calls of the provider by question; 0: it is asked once, of an answer that is not kept."""

    def trial(self, provider: str) -> Row:
        how = "streamed" if self.streamed else "whole"
        question = f"By {self.name}, {how}, of {provider}, "
        row = Row(self.name, self.streamed, provider, {})
        try:
            if self.steps:
                for words, ask in (("alone", self._twice), (TOGETHER, self._at_once)):
                    row.asked[self.sent(question + words)] = self.steps
                    ask(self.models[provider], question + words)
            else:
                self._check(self.models[provider], question + "alone")
        except Exception:  # noqa: BLE001  # whatever a client raises is what is to be known
            row.wrong = traceback.format_exc()
        return row

    def _twice(self, model: str, question: str) -> None:
        for _ in ("missed", "hit"):
            self._check(model, question)

    def _at_once(self, model: str, question: str) -> None:
        with ThreadPoolExecutor(2) as threads:
            both = [threads.submit(self._check, model, question) for _ in ("missed", "joined")]
            for each in both:
                each.result()

    def _check(self, model: str, question: str) -> None:
        found, right = self.ask(model, question), self.expect(question)
        if found != right:
            raise AssertionError(f"{found!r}, not {right!r}")


_calls: list[_Call] = []


def call(
    name: str,
    models: dict[str, str] = GPT,
    *,
    streamed: bool = False,
    expect: Callable[[str], object] = said,
    sent: Callable[[str], str] = str,
    steps: int = 1,
) -> Callable[[Ask], Ask]:
    """A function that makes this call of the client, and returns what it says, which is to be `expect(question)`.

    `sent`: what a provider gets to see of a question, where that is not its text.
    `steps`: how often it has the provider called for one question; 0 where its answers are not kept.
    """

    def add(ask: Ask) -> Ask:
        _calls.append(_Call(name, ask, models, streamed, expect, sent, steps))
        return ask

    return add


filled = functools.partial(call, expect=lambda _: ADA)
"""A call whose answer is to be `ADA`."""


_loop = asyncio.new_event_loop()


def wait(asking: Coroutine[object, object, T]) -> T:
    """Of clients that are asynchronous: all calls in one event loop, as in a program that uses them."""
    return asyncio.run_coroutine_threadsafe(asking, _loop).result(TIMEOUT)


def url() -> str:
    """Of the replica, without a path."""
    return sys.argv[1]


def main(package: str) -> None:
    """Make each call, and print what came of it."""
    Thread(target=_loop.run_forever, daemon=True).start()
    print_rows(package, [each.trial(provider) for each in _calls for provider in each.models])


def print_rows(package: str, rows: list[Row]) -> None:
    """Print what came of it."""
    seen = {"client": package, "version": version(package), "rows": [asdict(row) for row in rows]}
    json.dump(seen, sys.stdout)
