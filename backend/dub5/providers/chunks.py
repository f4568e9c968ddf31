"""One answer, two shapes: a whole `chat.completion`, or the `chat.completion.chunk`s of a stream.

Law: `assemble(split(x)) == x`, unknown fields included, and OpenAI's own client accumulates the chunks to the
same message.

`Assembler` joins deltas by what their fields mean, as tolerant clients do, since providers differ in how they cut an
answer: identifiers, names, types, formats and signatures are set once, by the first that is not empty, and texts grow,
also those that we do not know. Which tool call a part belongs to is decided by `Calls`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from dub5.providers.lenient_json import mended
from dub5.providers.protocol import Json

_PIECE = re.compile(r"\S*\s*", re.DOTALL)
_PIECE_LENGTH = 24
_MOST_PIECES = 2000
"""About so many of one text: each is an event to write."""
_LABELS = frozenset({"id", "role", "type", "name", "format", "signature", "status", "object", "model"})
_LABEL_ENDS = ("_id", "_type", "_name", "_format", "_signature")
_TEXTS = ("reasoning_content", "reasoning", "content", "refusal")
_NO_WORDS = frozenset({"", "null", "none"})


def is_label(name: str) -> bool:
    """Whether texts of this name are said once, rather than in parts; some servers repeat them in each chunk."""
    return name in _LABELS or name.endswith(_LABEL_ENDS)


def index_of(part: Json) -> int | None:
    """The `index` of a choice, a tool call or a block: a number, or as a text; None where there is none.

    ValueError where it can be neither.
    """
    index = part.get("index")
    if type(index) is int:
        return index
    if index is None or index == "":
        return None
    try:
        return int(index) if isinstance(index, (str, float)) else int("")
    except OverflowError:
        raise ValueError from None


def end_of(choice: Json) -> str | None:
    """The word with which a choice ends, None where it goes on: some servers write an empty text, or "null".

    A number is a word that nobody knows.
    """
    reason = choice.get("finish_reason")
    if _is_number(reason):
        return str(reason)
    return reason if isinstance(reason, str) and reason.strip().lower() not in _NO_WORDS else None


class _Known(msgspec.Struct):
    position: int
    index: int
    id: str = ""
    name: str = ""


class Place(msgspec.Struct, frozen=True):
    """Of a part of a tool call: which call, and whether its id and its name had been said before.

    `position` counts calls as they came, `index` as the provider counts them, as far as it does.
    """

    position: int
    index: int
    id_known: bool
    name_known: bool


class Calls:
    """Which tool call of one message a part belongs to.

    An index or an id that is known goes on with its call; another id under a used index, or without any, begins one;
    a part with neither goes on with the last.
    """

    def __init__(self) -> None:
        self._by_index: dict[int, _Known] = {}  # as the provider counts: the last that it meant by it
        self._calls: list[_Known] = []
        self._last: _Known | None = None

    def places(self, parts: list[Json]) -> list[Place]:
        """Of the parts of one delta, in their order. ValueError where an index makes no sense."""
        touched: set[int] = set()
        return [self._place(part, touched) for part in parts]

    def _place(self, part: Json, touched: set[int]) -> Place:
        index, id_, name = index_of(part), _text(part.get("id")), _name_of(part)
        call = self._last if index is None else self._by_index.get(index)
        if call is None:
            call = self._begin(index)
        elif _is_another(call, id_, name, counted=index is not None, touched=call.position in touched):
            same = (known for known in self._calls if id_ and known.id == id_)
            call = next(same, None) or self._begin(index)
        place = Place(call.position, call.index, bool(call.id), bool(call.name))
        call.id, call.name = call.id or id_, call.name or name
        if index is not None:
            self._by_index[index] = call
        self._last = call
        touched.add(call.position)
        return place

    def _begin(self, index: int | None) -> _Known:
        used = {call.index for call in self._calls}
        if index is None or index in used:
            index = max(used, default=-1) + 1
        call = _Known(len(self._calls), index)
        self._calls.append(call)
        return call


def _is_another(call: _Known, id_: str, name: str, *, counted: bool, touched: bool) -> bool:
    """`counted`: the part has an index. `touched`: the same delta had a part of `call` before."""
    if id_ and call.id:
        return id_ != call.id
    if not (name and call.name):
        return False
    if touched:
        return True
    # Without index and id there is only the name to tell them apart.
    return not counted and (bool(id_) or name != call.name)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _name_of(call: Json) -> str:
    for kind in ("function", "custom"):
        inner = call.get(kind)
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            return str(inner["name"])
    return ""


class Assembler:
    """Joins chunks, in the order of their arrival, to the completion that they stand for.

    It takes whatever `openai` lets through; what makes no sense at its place is left out.
    """

    def __init__(self) -> None:
        self._head: Json = {}
        self._settled: set[str] = set()
        self._choices: dict[int, _Choice] = {}
        self.usage: Json | None = None  # as the provider said it last

    def add(self, chunk: Json) -> None:
        for name, value in chunk.items():
            if name in self._settled:
                continue
            if name == "choices":
                if isinstance(value, list):
                    self._add_choices(value)
            elif name == "usage":
                if value and isinstance(value, dict):
                    self.usage = value
            elif value:
                self._head[name] = value
                self._settled.add(name)
            elif self._head.get(name) is None:
                self._head[name] = value

    def _add_choices(self, choices: list[Any]) -> None:
        for position, part in enumerate(choices):
            if type(part) is dict:
                index = part.get("index")
                if type(index) is not int:
                    index = _index_or(part, position)
                choice = self._choices.get(index)
                if choice is None:
                    choice = self._choices[index] = _Choice()
                choice.add(part)

    def characters(self) -> int:
        """Of the texts, tool calls left out."""
        return sum(
            len(part)
            for choice in self._choices.values()
            for parts in choice.texts.values()
            for part in parts
        )

    def completion(self) -> Json:
        """The whole; `index` is taken out of tool calls, where only chunks have it."""
        choices = [{"index": index, **self._choices[index].whole()} for index in sorted(self._choices)]
        whole = {**self._head, "object": "chat.completion", "choices": choices}
        if self.usage is not None:
            whole["usage"] = self.usage
        return whole


class _Choice:
    """One choice so far. Texts of its message are held in parts, and joined at the end."""

    def __init__(self) -> None:
        self._fields: Json = {"finish_reason": None}
        self._message: Json = {}
        self.texts: dict[str, list[str]] = {}
        self._placing: Calls | None = None  # few choices have tool calls
        self._calls: dict[int, Json] = {}

    def add(self, part: Json) -> None:
        for name, value in part.items():
            if name == "delta":
                if type(value) is dict:
                    self._grow(value)
            elif name == "index" or name == "message":
                continue
            elif value is None:
                self._fields.setdefault(name, None)
            elif name == "finish_reason":
                self._fields[name] = end_of(part) or self._fields[name]
            elif name == "logprobs" and isinstance(value, dict):
                held = self._fields.get(name)
                self._fields[name] = _join(held if isinstance(held, dict) else {}, value)
            else:
                self._fields[name] = value

    def whole(self) -> Json:
        message = {**self._message}
        for name, parts in self.texts.items():
            text = "".join(parts)
            message[name] = text if text.isascii() else mended(text)
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        return {"message": message, **self._fields}

    def _grow(self, delta: Json) -> None:
        for name, value in delta.items():
            if type(value) is str:
                parts = self.texts.get(name)
                if parts is not None:
                    parts.append(value)
                else:
                    self._add_text(name, value)
            elif value is not None:
                self._add_value(name, value)
            elif name not in self._message:
                self._message[name] = None

    def _add_text(self, name: str, value: str) -> None:
        """One that has no parts yet."""
        held = self._message.get(name)
        if is_label(name):
            self._message[name] = held or value
        elif isinstance(held, list) and name in _TEXTS:  # content in parts, and now a text
            if value:
                held.append({"type": "text", "text": value})
        else:
            self.texts[name] = [_written(held), value] if name in _TEXTS and _is_number(held) else [value]
            self._message[name] = ""

    def _add_value(self, name: str, value: Any) -> None:
        """A value that is neither a text nor null."""
        held = self._message.get(name)
        if name == "tool_calls":
            self._add_calls(value)
        elif isinstance(value, list):
            parts = self.texts.pop(name, None)
            if parts is not None:  # content as a text, and now in parts
                said = "".join(parts)
                held = [{"type": "text", "text": said}] if said else []
            self._message[name] = _join_list(held if isinstance(held, list) else [], value)
        elif name in _TEXTS and _is_number(value) and (name in self.texts or _is_number(held)):
            self._add_number(name, value)
        else:
            self.texts.pop(name, None)
            known = held if isinstance(held, dict) else {}
            self._message[name] = _join(known, value) if isinstance(value, dict) else value

    def _add_number(self, name: str, value: float) -> None:
        if name not in self.texts:
            self._add_text(name, "")
        self.texts[name].append(_written(value))

    def _add_calls(self, value: Any) -> None:
        parts = value if isinstance(value, list) else [value]
        parts = [_sane(part) for part in parts if isinstance(part, dict)]
        self._message.setdefault("tool_calls", [])
        self._placing = self._placing or Calls()
        for part, place in zip(parts, self._placing.places(parts), strict=True):
            _join(self._calls.setdefault(place.index, {}), _without(part, "index"))


def _index_or(part: Json, position: int) -> int:
    try:
        index = index_of(part)
    except ValueError:
        index = None
    return position if index is None else index


def _sane(part: Json) -> Json:
    try:
        index_of(part)
    except ValueError:
        return _without(part, "index")
    return part


def _typed(call: Json) -> Json:
    """Some servers leave the type out, and OpenAI's client for Node takes no call of a stream without one."""
    kind = next((kind for kind in ("function", "custom") if isinstance(call.get(kind), dict)), None)
    return call if kind is None or call.get("type") else {**call, "type": kind}


def _is_number(value: object) -> bool:
    return type(value) in {int, float}


def _written(value: object) -> str:
    return msgspec.json.encode(value).decode()


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
    for position, choice in enumerate(completion.get("choices") or ()):
        for part in _split_choice(choice, _index_or(choice, position)):
            yield {**head, "choices": [part]}
            head = small  # what else the provider said about the answer is said once
    if include_usage and completion.get("usage") is not None:
        yield {**head, "choices": [], "usage": completion["usage"]}


def _split_choice(choice: Json, index: int) -> Iterator[Json]:
    message = choice.get("message") or {}
    texts = {name: message[name] for name in _TEXTS if isinstance(message.get(name), str)}
    calls = message.get("tool_calls")
    if not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        calls = None
    first = {
        name: value
        for name, value in message.items()
        if name not in texts and (name != "tool_calls" or not calls)
    }
    first |= dict.fromkeys(texts, "")
    first["role"] = first.get("role") or "assistant"  # without it OpenAI's client for Node takes no stream
    yield {"index": index, "delta": first, "finish_reason": None}
    for name, text in texts.items():
        for piece in _pieces(text, max(_PIECE_LENGTH, len(text) // _MOST_PIECES)):
            yield {"index": index, "delta": {name: piece}, "finish_reason": None}
    for position, call in enumerate(calls or ()):
        yield {
            "index": index,
            "delta": {"tool_calls": [{**_typed(call), "index": position}]},
            "finish_reason": None,
        }
    yield {**_without(choice, "message"), "index": index, "delta": {}}


def _pieces(text: str, length: int) -> Iterator[str]:
    """Whole words, a few at a time, as a provider would send them; of a long text more."""
    piece = ""
    for word in _PIECE.findall(text):
        piece += word
        if len(piece) >= length:
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
            held[name] = (old or value) if is_label(name) else old + value
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
    before = len(held)
    for item in new:
        index = _index_or(item, -1) if isinstance(item, dict) else -1
        known = (
            next((one for one in held[:before] if _goes_on(one, item, index)), None) if index >= 0 else None
        )
        if known is not None:
            _join(known, _without(item, "index"))
        else:
            held.append(_join({}, item) if isinstance(item, dict) else item)
    return held


def _goes_on(one: Any, item: Json, index: int) -> bool:
    """Whether `item` is a further part of `one`: the same index, and neither another id nor another type."""
    if not isinstance(one, dict) or _index_or(one, -1) != index:
        return False
    return not any(one.get(name) and item.get(name) and one[name] != item[name] for name in ("id", "type"))


def _without(data: Json, *names: str) -> Json:
    return {name: value for name, value in data.items() if name not in names}
