"""A provider without a network: deterministic answers at a set pace.

Whole systems (caches, dashboards, load tests, a laptop on a train) can be tried with it without a key. The
answer is a function of the request alone, down to its bytes: `created` is a constant and not the clock,
because a test that asks twice, or asks two replicas, must be able to tell a cached answer from a new one by
nothing but its headers. Its parts are made like this:

- A digest of the messages seeds the words, so a lower `max_tokens` gives a prefix of the same answer.
- `min_tokens`, vLLM's extension, makes it longer: with both, a test gets an answer of the length it wants.
- A digest of the whole request is in the `id`.
- A tool is called where `tool_choice` says so, or where the user's last message names it.
- `response_format` is obeyed: `simulated_values` makes an example of the schema.
- A text is continued with words that its digest seeds, up to OpenAI's usual limit where the caller sets none.
- A text has the same unit vector each time: numbers from a digest of the text and the model's name. With fewer
  `dimensions` it is the beginning of the longer vector, made a unit one again, as with OpenAI's models.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import sys
from array import array
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any

import msgspec

from dub5.errors import InvalidRequest
from dub5.json_steps import pieces
from dub5.providers.openai_completions import USUAL_LIMIT, is_text, prompts
from dub5.providers.protocol import ANY_BATCH, BatchLimit, Call, Embedded, Json, OnChunks, Payload
from dub5.providers.simulated_values import example
from dub5.settings.model import SimulatedSettings
from dub5.vectors import Vector

CREATED = 1_735_689_600
"""2025-01-01 in seconds since the epoch: a date, but never the time."""

FEWEST_WORDS, MOST_WORDS = 15, 55
"""Words of an answer to which the caller set no limit: 20 to 80 tokens, with the start of the question."""

LONGEST = 20_000
"""Words, whatever the caller asks for."""

DIMENSIONS, MOST_DIMENSIONS = 1536, 4096
"""Of a vector, where the caller says nothing, and at most."""

_TEXTS = 32
"""Texts whose vectors are made without a pause."""

_CHARACTERS_PER_TOKEN = 4
_TOKEN = re.compile(r"\s*\S{1,6}|\s+\Z")

_WORDS = """
    a calm river carries small boats past green hills while patient people watch the evening light and talk
    about simple things that matter to them such as bread rain music old maps and the way home
""".split()  # noqa: SIM905  # reads as what it is


class Answer(msgspec.Struct, frozen=True):
    """What is going to be said: `tokens` of the content, or of the arguments of the tool `tool`."""

    id: str
    model: str
    tokens: list[str]
    tool: str | None
    finish_reason: str
    prompt_tokens: int

    @property
    def usage(self) -> Json:
        answer = len(self.tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": answer,
            "total_tokens": self.prompt_tokens + answer,
        }

    def head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": CREATED, "model": self.model}

    def call(self, arguments: str) -> Json:
        return {
            "id": self.id.replace("chatcmpl", "call", 1),
            "type": "function",
            "function": {"name": self.tool, "arguments": arguments},
        }

    def completion(self) -> Json:
        text = "".join(self.tokens)
        message: Json = {"role": "assistant", "content": text, "refusal": None}
        if self.tool is not None:
            message = {**message, "content": None, "tool_calls": [self.call(text)]}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return {**self.head("chat.completion"), "choices": [choice], "usage": self.usage}

    def begin(self) -> Json:
        if self.tool is None:
            return self.chunk({"role": "assistant", "content": ""})
        call = {"index": 0, **self.call("")}
        return self.chunk({"role": "assistant", "content": None, "tool_calls": [call]})

    def token(self, token: str) -> Json:
        if self.tool is None:
            return self.chunk({"content": token})
        return self.chunk({"tool_calls": [{"index": 0, "function": {"arguments": token}}]})

    def end(self) -> Iterator[Json]:
        yield self.chunk({}, self.finish_reason)
        yield {**self.head("chat.completion.chunk"), "choices": [], "usage": self.usage}

    def chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**self.head("chat.completion.chunk"), "choices": [choice]}


class Continued(msgspec.Struct, frozen=True):
    """How each of several texts is going to be continued: the tokens of each, after its `echo`, and why it ends."""

    id: str
    model: str
    echoes: list[str]
    tokens: list[list[str]]
    finish_reasons: list[str]
    prompt_tokens: int

    @property
    def longest(self) -> int:
        return max(map(len, self.tokens))

    @property
    def usage(self) -> Json:
        answered = sum(map(len, self.tokens))
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": answered,
            "total_tokens": self.prompt_tokens + answered,
        }

    def head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": CREATED, "model": self.model}

    def completion(self) -> Json:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": self.echoes[index] + "".join(tokens)},
                "logprobs": None,
                "finish_reason": self.finish_reasons[index],
            }
            for index, tokens in enumerate(self.tokens)
        ]
        return {**self.head("chat.completion"), "choices": choices, "usage": self.usage}

    def begin(self) -> Iterator[Json]:
        for index, echo in enumerate(self.echoes):
            if echo:
                yield self.chunk(index, echo)

    def step(self, number: int) -> Iterator[Json]:
        """The token of this number of each text that has one."""
        for index, tokens in enumerate(self.tokens):
            if number < len(tokens):
                yield self.chunk(index, tokens[number])

    def end(self) -> Iterator[Json]:
        for index, reason in enumerate(self.finish_reasons):
            yield self.chunk(index, "", reason)
        yield {**self.head("chat.completion.chunk"), "choices": [], "usage": self.usage}

    def chunk(self, index: int, text: str, finish_reason: str | None = None) -> Json:
        choice = {"index": index, "delta": {"content": text}, "finish_reason": finish_reason}
        return {**self.head("chat.completion.chunk"), "choices": [choice]}


class SimulatedProvider:
    """See `Provider`. `sleep` takes seconds; tests give one that does not wait."""

    def __init__(
        self,
        name: str,
        settings: SimulatedSettings,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self._first_token = float(settings.first_token)
        self._pause = 1 / settings.tokens_per_second
        self._sleep = sleep

    async def listed(self) -> bytes:
        """It answers to any name, and lists one: see `ListsModels`."""
        return b'{"data": [{"id": "simulated", "kind": "chat"}]}'

    async def aclose(self) -> None:
        """Nothing is held."""

    @property
    def batch_limit(self) -> BatchLimit:
        return ANY_BATCH

    async def embed(self, call: Call) -> Embedded:
        """Takes as long as the first token of an answer, however many texts there are."""
        await self._sleep(self._first_token)
        dimensions, texts = call.body.get("dimensions") or DIMENSIONS, call.body["input"]
        if dimensions > MOST_DIMENSIONS:
            raise InvalidRequest(
                f"`dimensions`: the simulated provider gives at most {MOST_DIMENSIONS}.", param="dimensions"
            )
        vectors = []
        for number, text in enumerate(texts):
            if number % _TEXTS == _TEXTS - 1:
                await asyncio.sleep(0)
            vectors.append(vector_of(text, call.model, dimensions))
        return Embedded(vectors, sum(map(_tokens_of, texts)))

    async def complete(self, call: Call) -> Payload:
        """Takes as long as the stream of the same answer would."""
        if is_text(call):
            texts = continued(call)
            await self._sleep(self._first_token + self._pause * max(texts.longest - 1, 0))
            return Payload.of(texts.completion())
        answer = await _answer_to(call)
        await self._sleep(self._first_token + self._pause * max(len(answer.tokens) - 1, 0))
        return Payload.of(answer.completion())

    async def stream(self, call: Call, on_chunks: OnChunks) -> None:
        if is_text(call):
            texts = continued(call)
            await self._sleep(self._first_token)
            on_chunks([*map(Payload.of, texts.begin())])
            for number in range(texts.longest):
                if number:
                    await self._sleep(self._pause)
                on_chunks([*map(Payload.of, texts.step(number))])
            on_chunks([*map(Payload.of, texts.end())])
            return
        answer = await _answer_to(call)
        await self._sleep(self._first_token)
        on_chunks([Payload.of(answer.begin())])
        for index, token in enumerate(answer.tokens):
            if index:
                await self._sleep(self._pause)
            on_chunks([Payload.of(answer.token(token))])
        on_chunks([Payload.of(chunk) for chunk in answer.end()])


def vector_of(text: str | list[int], model: str, dimensions: int = DIMENSIONS) -> Vector:
    """A unit vector of 32-bit floats. `text` may be its tokens."""
    seed = msgspec.json.encode([model, text])
    numbers = array("h", hashlib.shake_128(seed).digest(2 * dimensions))
    if sys.byteorder == "big":
        numbers.byteswap()
    length = math.hypot(*numbers) or 1.0
    return Vector.of_floats(array("f", [number / length for number in numbers]).tolist())


def _tokens_of(text: str | list[int]) -> int:
    return len(text) if isinstance(text, list) else max(1, round(len(text) / _CHARACTERS_PER_TOKEN))


async def _answer_to(call: Call) -> Answer:
    return await asyncio.to_thread(answer_to, call) if call.large else answer_to(call)


def answer_to(call: Call) -> Answer:
    """InvalidRequest where more than one choice is asked for, Unsupported where a schema asks for too much."""
    body = {name: value for name, value in call.body.items() if value is not None}
    if body.get("n", 1) != 1:
        raise InvalidRequest("`n`: the simulated provider gives one choice; leave it out.", param="n")
    seed = _digest(body.get("messages"))
    tool = _wanted_tool(body)
    tokens = _TOKEN.findall(_arguments(tool, seed) if tool is not None else _content(body, seed))
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    cut = isinstance(limit, int) and limit < len(tokens)
    return Answer(
        id=f"chatcmpl-sim-{_digest([call.model, body]):016x}",
        model=call.model,
        tokens=tokens[:limit] if cut else tokens,
        tool=tool["name"] if tool is not None else None,
        finish_reason="length" if cut else "tool_calls" if tool is not None else "stop",
        prompt_tokens=_prompt_tokens(body.get("messages")),
    )


def continued(call: Call) -> Continued:
    """For a call that `is_text`. InvalidRequest where more than one choice for each text is asked for."""
    assert call.spelled is not None  # noqa: S101  # see `is_text`
    asked = {name: value for name, value in call.spelled[1].items() if value is not None}
    if asked.get("n", 1) != 1:
        raise InvalidRequest("`n`: the simulated provider gives one choice; leave it out.", param="n")
    given, limit = prompts(asked), asked.get("max_tokens", USUAL_LIMIT)
    whole = [_TOKEN.findall(" " + _drawn(asked, _digest(prompt))) for prompt in given]
    written = [prompt if isinstance(prompt, str) else " ".join(map(str, prompt)) for prompt in given]
    return Continued(
        id=f"cmpl-sim-{_digest([call.model, asked]):016x}",
        model=call.model,
        echoes=written if asked.get("echo") else [""] * len(given),
        tokens=[tokens[:limit] for tokens in whole],
        finish_reasons=["length" if limit < len(tokens) else "stop" for tokens in whole],
        prompt_tokens=sum(map(_tokens_of, given)),
    )


def _digest(value: Any) -> int:
    """64 bits that are the same in every process; the order of keys does not matter."""
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces(value, names=sorted):
        digest.update(piece)
    return int.from_bytes(digest.digest(), "big")


def _content(body: Json, seed: int) -> str:
    asked = body.get("response_format")
    kind = asked.get("type") if isinstance(asked, dict) else None
    if kind == "json_schema":
        wrapper = asked.get("json_schema") if isinstance(asked, dict) else None
        schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
        return _json(example(schema, seed, "response_format.json_schema.schema"))
    if kind == "json_object":
        return _json({"answer": _prose(body, seed)})
    return _prose(body, seed)


def _prose(body: Json, seed: int) -> str:
    """Sentences, after the start of the question."""
    question = " ".join(_last_question(body).split(None, 8)[:8])[:40]
    return f"You asked: “{question}” {_drawn(body, seed)}"


def _drawn(body: Json, seed: int) -> str:
    """Sentences: as long as `min_tokens` wants, and else as the seed says."""
    least = body.get("min_tokens")
    least = min(least, LONGEST) if isinstance(least, int) else 0
    count = max(least, FEWEST_WORDS + seed % (MOST_WORDS - FEWEST_WORDS + 1))
    return _sentences(list(islice(_words(seed), count)))


def _words(seed: int) -> Iterator[str]:
    """An endless, deterministic choice of words: Knuth's linear congruential generator, modulo 2^64."""
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield _WORDS[(state >> 33) % len(_WORDS)]


def _sentences(words: list[str]) -> str:
    return " ".join(
        " ".join(words[start : start + 9]).capitalize() + "." for start in range(0, len(words), 9)
    )


def _last_question(body: Json) -> str:
    """The text of the user's last message, empty where there is none."""
    spoken = [message for message in _objects(body.get("messages")) if message.get("role") == "user"]
    return "".join(_texts(spoken[-1])) if spoken else ""


def _texts(message: Json) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, str):
        yield content
    for part in _objects(content):
        if isinstance(part.get("text"), str):
            yield part["text"]


def _prompt_tokens(messages: Any) -> int:
    characters = sum(len(text) for message in _objects(messages) for text in _texts(message))
    return max(1, round(characters / _CHARACTERS_PER_TOKEN))


def _wanted_tool(body: Json) -> Json | None:
    """The function to call, if any."""
    functions = [tool["function"] for tool in _objects(body.get("tools")) if _is_function(tool)]
    choice = body.get("tool_choice", "auto")
    if choice == "none" or not functions:
        return None
    if isinstance(choice, dict):
        named = choice.get("function")
        name = named.get("name") if isinstance(named, dict) else None
        return next((function for function in functions if function["name"] == name), None)
    question = _last_question(body) if _user_spoke_last(body) else ""
    named_in_question = next((function for function in functions if function["name"] in question), None)
    return named_in_question or (functions[0] if choice == "required" else None)


def _is_function(tool: Json) -> bool:
    function = tool.get("function")
    return isinstance(function, dict) and isinstance(function.get("name"), str) and bool(function["name"])


def _user_spoke_last(body: Json) -> bool:
    """After a tool's result it is time to answer, though the question still names the tool."""
    messages = _objects(body.get("messages"))
    return bool(messages) and messages[-1].get("role") == "user"


def _arguments(function: Json, seed: int) -> str:
    return _json(example(function.get("parameters") or {"type": "object"}, seed, "tools"))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _objects(value: Any) -> list[Json]:
    """The objects in a list, whatever else there is."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
