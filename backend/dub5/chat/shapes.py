"""One answer, two shapes: a whole `chat.completion`, or the `chat.completion.chunk`s of a stream.

Law: `assemble(split(x)) == x`, unknown fields included, and OpenAI's own client accumulates the chunks to the
same message. `Assembler` joins by the rules that client uses: text is appended, members of a list with an
`index` are joined by it, the rest replaces; but names that some servers repeat in each chunk (`role`, `type`,
`id`) are not appended to themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"

_PIECE = re.compile(r"\S*\s*", re.DOTALL)
_PIECE_LENGTH = 24
_SAID_ONCE = frozenset({"role", "type", "id"})
_TEXTS = ("reasoning_content", "reasoning", "content", "refusal")
_encoder = msgspec.json.Encoder()


def event(data: bytes) -> bytes:
    """One server-sent event; `data` is JSON on one line."""
    return b"data: " + data + b"\n\n"


def is_usage_only(chunk: Json) -> bool:
    """The last chunk that OpenAI sends with `include_usage`: no choices, only token counts."""
    return not chunk.get("choices") and chunk.get("usage") is not None


def finish_reasons(completion: Json) -> list[Any]:
    """The finish reason of each choice, None where there is none."""
    return [
        choice.get("finish_reason") for choice in completion.get("choices", []) if isinstance(choice, dict)
    ]


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one answer; `cached` are those of the prompt that the provider's own cache had."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


def usage_of(data: Json) -> Usage:
    """What a completion or chunk tells of its tokens; 0 where it does not."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return Usage()
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached)
    return Usage(*(max(0, count) if isinstance(count, int) else 0 for count in counts))


class Assembler:
    """Joins chunks, in the order of their arrival, to the completion that they stand for."""

    def __init__(self) -> None:
        self._head: Json = {}
        self._choices: dict[int, Json] = {}
        self._usage: Any = None

    def add(self, chunk: Json) -> None:
        for name, value in chunk.items():
            if name == "choices":
                for choice in value:
                    self._add_choice(choice)
            elif name == "usage":
                self._usage = value if value is not None else self._usage
            elif self._head.get(name) is None:
                self._head[name] = value

    def _add_choice(self, chunk: Json) -> None:
        index = chunk.get("index", 0)
        choice = self._choices.setdefault(index, {"index": index, "message": {}, "finish_reason": None})
        for name, value in chunk.items():
            if name == "delta":
                _join(choice["message"], value or {})
            elif name == "logprobs" and isinstance(value, dict):
                held = choice.get(name)
                choice[name] = _join(held if isinstance(held, dict) else {}, value)
            elif name not in choice or value is not None:
                choice[name] = value

    def completion(self) -> Json:
        """The whole; `index` is taken out of tool calls, where only chunks have it."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        for choice in choices:
            calls = choice["message"].get("tool_calls")
            if calls:
                ordered = sorted(calls, key=lambda call: call.get("index", 0))
                choice["message"]["tool_calls"] = [_without(call, "index") for call in ordered]
        whole = {**self._head, "object": "chat.completion", "choices": choices}
        if self._usage is not None:
            whole["usage"] = self._usage
        return whole


def assemble(chunks: Iterable[Json]) -> Json:
    """All chunks of one stream to its completion."""
    assembler = Assembler()
    for chunk in chunks:
        assembler.add(chunk)
    return assembler.completion()


def split(completion: Json, *, include_usage: bool) -> Iterator[Json]:
    """A completion as the chunks of a stream: role, reasoning, content, tool calls, finish, usage.

    Usage comes last in a chunk without choices, and only where the caller asked for it.
    """
    head = {**_without(completion, "choices", "usage"), "object": "chat.completion.chunk"}
    small: Json = {name: head[name] for name in ("id", "object", "created", "model") if name in head}
    for choice in completion.get("choices", []):
        for part in _split_choice(choice):
            yield {**head, "choices": [part]}
            head = small  # what else the provider said about the answer is said once
    if include_usage and completion.get("usage") is not None:
        yield {**head, "choices": [], "usage": completion["usage"]}


def events_of(body: bytes, *, include_usage: bool) -> bytes:
    """A whole completion as the bytes of its event stream, all but the `[DONE]` at its end."""
    chunks = split(msgspec.json.decode(body), include_usage=include_usage)
    return b"".join(event(_encoder.encode(chunk)) for chunk in chunks)


def _split_choice(choice: Json) -> Iterator[Json]:
    index = choice.get("index", 0)
    message = choice.get("message") or {}
    texts = {name: message[name] for name in _TEXTS if isinstance(message.get(name), str)}
    calls = message.get("tool_calls")
    first = {
        name: value
        for name, value in message.items()
        if name not in texts and (name != "tool_calls" or not calls)
    }
    first |= dict.fromkeys(texts, "")
    yield {"index": index, "delta": first, "finish_reason": None}
    for name, text in texts.items():
        for piece in _pieces(text):
            yield {"index": index, "delta": {name: piece}, "finish_reason": None}
    for position, call in enumerate(calls or ()):
        yield {"index": index, "delta": {"tool_calls": [{**call, "index": position}]}, "finish_reason": None}
    yield {**_without(choice, "message"), "index": index, "delta": {}}


def _pieces(text: str) -> Iterator[str]:
    """Whole words, a few at a time, as a provider would send them."""
    piece = ""
    for word in _PIECE.findall(text):
        piece += word
        if len(piece) >= _PIECE_LENGTH:
            yield piece
            piece = ""
    if piece:
        yield piece


def _join(held: Json, new: Json) -> Json:
    """Add one delta to what is there; returns `held`."""
    for name, value in new.items():
        old = held.get(name)
        if value is None:
            held.setdefault(name, None)
        elif isinstance(old, str) and isinstance(value, str):
            held[name] = value if name in _SAID_ONCE else old + value
        elif isinstance(old, dict) and isinstance(value, dict):
            _join(old, value)
        elif isinstance(value, list) and (old is None or isinstance(old, list)):
            held[name] = _join_list(old or [], value)
        elif isinstance(value, dict):
            held[name] = _join({}, value)
        else:
            held[name] = value
    return held


def _join_list(held: list[Any], new: list[Any]) -> list[Any]:
    """Members with an `index` are parts of the member with that index; others are further members."""
    for item in new:
        if not (isinstance(item, dict) and isinstance(item.get("index"), int)):
            held.append(item)
            continue
        known = next(
            (one for one in held if isinstance(one, dict) and one.get("index") == item["index"]), None
        )
        if known is None:
            held.append(_join({}, item))
        else:
            _join(known, item)
    return held


def _without(data: Json, *names: str) -> Json:
    return {name: value for name, value in data.items() if name not in names}
