"""One answer, two shapes: a whole `chat.completion`, or the `chat.completion.chunk`s of a stream.

Law: `assemble(split(x)) == x`, unknown fields included, and OpenAI's own client accumulates the chunks to the
same message.

`Assembler` joins deltas by what their fields mean, as tolerant clients do, since providers differ in how they cut an
answer: identifiers, names, types, formats and signatures are set once, by the first that is not empty, and texts grow,
also those that we do not know. Which tool call a part belongs to is decided by `Calls`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import product
from typing import Any, Literal

import msgspec

from dub5.errors import ProviderError
from dub5.frames import Frame
from dub5.json_steps import (
    LARGE,
    NotReadable,
    TooCostly,
    decode_in_steps,
    in_steps,
    joined,
    pieces,
    survey,
)
from dub5.providers import lenient_json

Json = dict[str, Any]

_decoder = msgspec.json.Decoder(Json)
_encoder = msgspec.json.Encoder()

_PIECE = re.compile(r"\S*\s*", re.DOTALL)
_TOKEN = re.compile(r"\s*\S{1,6}|\s+\Z", re.DOTALL)
_PIECE_LENGTH = 24
_MOST_PIECES = 2000
"""About so many of one text: each is an event to write."""
_TEXTS = ("reasoning_content", "reasoning", "content", "refusal")
_NUMBERS = frozenset({int, float})
_JUDGED = ("content", "refusal")
_NO_TEXTS = frozenset({dict, bool})
_NO_WORDS = frozenset({"", "null", "none"})
_MARKS = ("id", "type")
"""By which members of a list are told apart, where their index is the same."""
_NO_FIELDS = frozenset({"index", "delta", "message"})
"""What of a chunk's choice is not a field of the whole choice."""

is_label = re.compile(r"role|object|model|status|(.*_)?(id|type|name|format|signature)", re.DOTALL).fullmatch
"""Whether texts of this name are said once, rather than in parts; some servers repeat them in each chunk."""


class Payload(msgspec.Struct, frozen=True):
    """One completion or one chunk: `raw` is JSON on one line, `data` the same decoded.

    A chunk's texts may have half of a character (a lone surrogate), where the provider cut it in two.
    """

    raw: bytes
    data: Json

    @classmethod
    def of(cls, data: Json) -> Payload:
        try:
            return cls(_encoder.encode(data), data)
        except UnicodeEncodeError:  # half of a character can only be written as an escape
            return cls(json.dumps(data, separators=(",", ":")).encode(), data)

    @classmethod
    def of_whole(cls, data: Json) -> Payload:
        """What is left of halves of characters has no other half to come, and is replaced."""
        try:
            return cls(_encoder.encode(data), data)
        except UnicodeEncodeError:
            return cls.of(lenient_json.mended(data))

    @classmethod
    def parse(cls, raw: bytes, provider: str) -> Payload:
        """Of a chunk. ProviderError where `raw` is not a JSON object, however leniently read."""
        try:
            data = _decoder.decode(raw)
        except (ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
            data, legal = _read_leniently(raw, provider)
            if not legal:
                return cls.of(data)
        # Line ends are legal between JSON tokens, but would end an SSE line.
        return cls.of(data) if b"\n" in raw or b"\r" in raw else cls(raw, data)

    @classmethod
    def parse_whole(cls, raw: bytes, provider: str) -> Payload:
        """Of a completion; as `parse`."""
        try:
            data = _decoder.decode(raw)
        except (ValueError, RecursionError):
            return cls.of_whole(_read_leniently(raw, provider)[0])
        return cls.of(data) if b"\n" in raw or b"\r" in raw else cls(raw, data)


class Text(msgspec.Struct, frozen=True, gc=False):
    """A chunk that only goes on with the content of a choice: all else in it was said by chunks before it.

    `raw` is its JSON on one line, `index` the choice, `text` what it adds.
    """

    raw: bytes
    index: int
    text: str


Chunk = Payload | Text


async def parsed(raw: bytes, provider: str) -> Payload:
    """`Payload.parse_whole` of an answer that may be large: in steps then, and not if it would take all memory.

    What is no JSON, however large, is read leniently in one.
    """
    if len(raw) < LARGE:
        return Payload.parse_whole(raw, provider)
    try:
        found = await in_steps(survey(raw, cut=True, answer=True))
        data = await in_steps(decode_in_steps(raw, found))
    except TooCostly:
        raise ProviderError(
            f"The provider {provider} sent an answer that is too large.", provider=provider, scope="request"
        ) from None
    except NotReadable:
        data = None
    if not isinstance(data, dict):
        return Payload.parse_whole(raw, provider)
    return Payload(await joined(pieces(data)) if b"\n" in raw or b"\r" in raw else raw, data)


def decode(raw: bytes) -> Json:
    """The inverse of `Payload.raw`."""
    try:
        return _decoder.decode(raw)
    except ValueError:
        data: Json = lenient_json.loads(raw.decode())
        return data


def _read_leniently(raw: bytes, provider: str) -> tuple[Json, bool]:
    """As `lenient_json.read`; ProviderError where that is no object."""
    data, legal = lenient_json.read(raw)
    if not isinstance(data, dict):
        raise ProviderError(
            f"The provider {provider} answered with malformed JSON.", provider=provider, scope="request"
        )
    return data, legal


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


class FirstChoice:
    """The one that is told where only one can be: that which came first, since some servers count from one."""

    def __init__(self) -> None:
        self._index: object = None

    def is_in(self, choice: Json) -> bool:
        """Whether that part is of it."""
        index = choice.get("index") or 0
        if self._index is None:
            self._index = index
        return bool(index == self._index)


def end_of(choice: Json) -> str | None:
    """The word with which a choice ends, None where it goes on: some servers write an empty text, or "null".

    A number is a word that nobody knows.
    """
    reason = choice.get("finish_reason")
    if type(reason) in _NUMBERS:
        return str(reason)
    return reason if isinstance(reason, str) and reason.strip().lower() not in _NO_WORDS else None


def with_texts(said: Json) -> Json:
    """The message or delta itself, where none of its texts is a number: some servers write one for a text that is all
    digits."""
    if _NUMBERS.isdisjoint(map(type, said.values())):  # as a rule
        return said
    written = {name: _written(said[name]) for name in _TEXTS if type(said.get(name)) in _NUMBERS}
    return {**said, **written} if written else said


def is_object(arguments: Sequence[str]) -> bool:
    """Whether the arguments of a call, in parts, are all here. It may be asked for each of very many: they are joined
    only where the last one may be the end."""
    last = next((part for part in reversed(arguments) if part.strip()), "")
    try:
        return last.rstrip().endswith("}") and isinstance(msgspec.json.decode("".join(arguments)), dict)
    except (ValueError, RecursionError):
        return False


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
        self._by_id: dict[str, _Known] = {}  # the first that began of those with this id
        self._used: set[int] = set()  # indexes of calls
        self._next = 0  # greater than all of them
        self._last: _Known | None = None

    @property
    def begun(self) -> int:
        """How many."""
        return len(self._used)

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
            call = self._by_id.get(id_) or self._begin(index)
        place = Place(call.position, call.index, bool(call.id), bool(call.name))
        if id_ and not call.id:
            call.id = id_
            first = self._by_id.setdefault(id_, call)
            if call.position < first.position:
                self._by_id[id_] = call
        call.name = call.name or name
        if index is not None:
            self._by_index[index] = call
        self._last = call
        touched.add(call.position)
        return place

    def _begin(self, index: int | None) -> _Known:
        if index is None or index in self._used:
            index = self._next
        call = _Known(len(self._used), index)
        self._used.add(index)
        self._next = max(self._next, index + 1)
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


class Assembler(msgspec.Struct):
    """Joins chunks, in the order of their arrival, to the completion that they stand for.

    It takes whatever `openai` lets through; what makes no sense at its place is left out.
    """

    head: Json = {}
    settled: set[str] = set()
    choices: dict[int, _Choice] = {}
    usage: Json | None = None
    """As the provider said it last."""
    at: int = 0
    texts: list[str] | None = None
    """Of the choice `at`, whose content the last chunk went on with, if it did. So does the next one, nearly always."""

    def add(self, chunk: Json) -> None:
        self.texts = None
        for name, value in chunk.items():
            if name in self.settled:
                continue
            if name == "choices":
                for position, part in enumerate(value if isinstance(value, list) else ()):
                    if type(part) is dict:
                        index = part.get("index")
                        if type(index) is not int:
                            index = _index_or(part, position)
                        choice = self.choices.get(index)
                        if choice is None:
                            choice = self.choices[index] = _Choice()
                        choice.add(part)
            elif name == "usage":
                if value and isinstance(value, dict):
                    self.usage = value
            elif value:
                self.head[name] = value
                self.settled.add(name)
            elif self.head.get(name) is None:
                self.head[name] = value

    def take(self, chunks: list[Chunk]) -> list[Frame]:
        """Add chunks that came together, and give them as they go on to whoever reads them."""
        frames = []
        for chunk in chunks:
            kind: Literal["chunk", "usage"] = "chunk"
            if type(chunk) is Text:
                if self.texts is not None and chunk.index == self.at:
                    self.texts.append(chunk.text)
                else:
                    self._add_text(chunk)
            elif type(chunk) is Payload:
                data = chunk.data
                self.add(data)
                # The last chunk that OpenAI sends with `include_usage`: no choices, only token counts.
                if data.get("usage") is not None and not data.get("choices"):
                    kind = "usage"
            frames.append(Frame(kind, chunk.raw))
        return frames

    def _add_text(self, chunk: Text) -> None:
        index = chunk.index
        choice = self.choices.get(index)
        texts = choice.texts.get("content") if choice is not None else None
        if texts is not None:
            texts.append(chunk.text)
            self.at, self.texts = index, texts
        else:
            self.add({"choices": [{"index": index, "delta": {"content": chunk.text}}]})

    def whole(self, most: int) -> Payload | None:
        """The completion; None where its texts, tool calls left out, have more than `most` characters."""
        texts = (parts for choice in self.choices.values() for parts in choice.texts.values())
        if sum(len(part) for parts in texts for part in parts) > most:
            return None
        return Payload.of_whole(self.completion())

    def completion(self) -> Json:
        """The whole; `index` is taken out of tool calls, where only chunks have it.

        What OpenAI's description wants of a choice is there: most chunks leave out what is null.
        """
        choices = []
        for index in sorted(self.choices):
            choice = self.choices[index]
            _settle([choice.message, *choice.calls.values()])
            message = {**choice.message}
            for name, parts in choice.texts.items():
                text = "".join(parts)
                message[name] = text if text.isascii() else lenient_json.mended(text)
            if choice.calls:
                message["tool_calls"] = [choice.calls[call] for call in sorted(choice.calls)]
            said = {"role": None, "content": None, "refusal": None, **message}
            said["role"] = said["role"] or "assistant"
            choices.append(
                {"index": index, "message": said, "logprobs": None, "finish_reason": None, **choice.fields}
            )
        whole = {**self.head, "object": "chat.completion", "choices": choices}
        if self.usage is not None:
            whole["usage"] = self.usage
        return whole


class _Choice(msgspec.Struct):
    """One choice so far. Texts of its message are held in parts, and joined at the end."""

    fields: Json = {}
    message: Json = {}
    texts: dict[str, list[str]] = {}
    placing: Calls | None = None
    """Few choices have tool calls."""
    calls: dict[int, Json] = {}

    def add(self, part: Json) -> None:
        message, delta = self.message, part.get("delta")
        for name, said in delta.items() if type(delta) is dict else ():
            parts = self.texts.get(name)
            if parts is not None and type(said) is str:  # nearly always
                parts.append(said)
                continue
            held = message.get(name)
            if name in _JUDGED and type(held) in _NO_TEXTS and type(said) is not dict:
                continue  # what is no text does not become one: whoever keeps answers has to see it
            # Where a text is all digits, some servers write a number for it.
            digits = name in _TEXTS and type(said) in _NUMBERS and (parts or type(held) in _NUMBERS)
            text = _written(said) if digits else said
            if parts is not None and digits:
                parts.append(text)
            elif said is None:
                message.setdefault(name, None)
            elif type(text) is not str:
                self._add_value(name, said)
            elif is_label(name):
                message[name] = held or text
            elif isinstance(held, list) and name in _TEXTS:  # content in parts, and now a text
                if text:
                    held.append({"type": "text", "text": text})
            else:
                begun = name in _TEXTS and type(held) in _NUMBERS
                self.texts[name] = [_written(held), text] if begun else [text]
                message[name] = ""
        fields = self.fields
        for name, value in part.items():
            if name in _NO_FIELDS:
                continue
            if value is None:
                fields.setdefault(name, None)
            elif name == "finish_reason":
                fields[name] = end_of(part) or fields.get(name)
            elif name == "logprobs" and isinstance(value, dict):
                known = fields.get(name)
                fields[name] = _with_logprobs(known if isinstance(known, dict) else {}, value)
            else:
                fields[name] = value

    def _add_value(self, name: str, value: Any) -> None:
        """A value that is neither a text nor null."""
        held = self.message.get(name)
        if name == "tool_calls":
            self._add_calls(value)
        elif isinstance(value, list):
            parts = self.texts.pop(name, None)
            if parts is not None:  # content as a text, and now in parts
                said = "".join(parts)
                held = [{"type": "text", "text": said}] if said else []
            self.message[name] = _join_list(held if isinstance(held, list) else [], value)
        else:
            self.texts.pop(name, None)
            known = held if isinstance(held, dict) else {}
            self.message[name] = _join(known, value) if isinstance(value, dict) else value

    def _add_calls(self, value: Any) -> None:
        parts = value if isinstance(value, list) else [value]
        parts = [_sane(part) for part in parts if isinstance(part, dict)]
        self.message.setdefault("tool_calls", [])
        self.placing = self.placing or Calls()
        for part, place in zip(parts, self.placing.places(parts), strict=True):
            _join(self.calls.setdefault(place.index, {}), _without(part, "index"))


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


def _written(value: object) -> str:
    return msgspec.json.encode(value).decode()


def assemble(chunks: Iterable[Json]) -> Json:
    """All chunks of one stream to its completion."""
    assembler = Assembler()
    for chunk in chunks:
        assembler.add(chunk)
    return assembler.completion()


def split(completion: Json, *, include_usage: bool, whole_texts: bool = False) -> Iterator[Json]:
    """A completion as the chunks of a stream: role, reasoning, content, tool calls, finish, usage.

    Usage comes last in a chunk without choices, and only where the caller asked for it. A text comes a few words at a
    time, or with `whole_texts` in one chunk, for whoever cuts it up by `tokens`.
    """
    head = {**_without(completion, "choices", "usage"), "object": "chat.completion.chunk"}
    small: Json = {name: head[name] for name in ("id", "object", "created", "model") if name in head}
    for position, choice in enumerate(completion.get("choices") or ()):
        for part in _split_choice(choice, _index_or(choice, position), whole_texts):
            yield {**head, "choices": [part]}
            head = small  # what else the provider said about the answer is said once
    if include_usage and completion.get("usage") is not None:
        yield {**head, "choices": [], "usage": completion["usage"]}


def text_of(chunk: Json) -> tuple[str, str]:
    """The name and the text of a chunk of `split` that has nothing else in its delta; both empty of any other."""
    for choice in chunk["choices"]:
        for name, text in choice["delta"].items():
            if name in _TEXTS and len(choice["delta"]) == 1:
                return name, text
    return "", ""


def tokens(text: str, texts: int = 1) -> list[str]:
    """`text` in parts about as long as a model's tokens; in _MOST_PIECES longer ones, where those would be more. One of
    so many `texts` has its share of them."""
    parts = _TOKEN.findall(text)
    size = -(-len(parts) * texts // _MOST_PIECES)
    if size <= 1:
        return parts
    return ["".join(parts[start : start + size]) for start in range(0, len(parts), size)]


def _split_choice(choice: Json, index: int, whole_texts: bool) -> Iterator[Json]:
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
        for piece in [text] * bool(text) if whole_texts else pieces_of(text):
            yield {"index": index, "delta": {name: piece}, "finish_reason": None}
    for position, call in enumerate(calls or ()):
        yield {
            "index": index,
            "delta": {"tool_calls": [{**_typed(call), "index": position}]},
            "finish_reason": None,
        }
    yield {**_without(choice, "message"), "index": index, "delta": {}}


def pieces_of(text: str) -> Iterator[str]:
    """Whole words, a few at a time, as a provider would send them; of a long text more."""
    length, piece = max(_PIECE_LENGTH, len(text) // _MOST_PIECES), ""
    for word in _PIECE.findall(text):
        piece += word
        if len(piece) >= length:
            yield piece
            piece = ""
    if piece:
        yield piece


def _join(held: Json, new: Json) -> Json:
    """Add one delta to what is there; returns `held`, in which all that is not JSON is for `_settle`."""
    for name, value in new.items():
        old = held.get(name)
        if value is None:
            held.setdefault(name, None)
        elif isinstance(old, _Grown) and isinstance(value, str):
            old.parts.append(value)
        elif isinstance(old, str) and isinstance(value, str):
            held[name] = old or value if is_label(name) or not (old and value) else _Grown([old, value])
        elif isinstance(old, dict) and isinstance(value, dict):
            _join(old, value)
        elif isinstance(value, list):
            held[name] = _join_list(old if isinstance(old, list) else [], value)
        elif isinstance(value, dict):
            held[name] = _join({}, value)
        else:
            held[name] = value
    return held


class _Grown(msgspec.Struct):
    """A text in parts: to copy it for each further one would take time by the square of its length."""

    parts: list[str]


def _settle(pending: list[Json]) -> None:
    """Make of what `_join` held JSON again."""
    while pending:
        held = pending.pop()
        for name, value in held.items():
            if type(value) is _Grown:
                held[name] = "".join(value.parts)
            elif type(value) is _Members:
                held[name] = [*value]
                pending += [member for member in value if type(member) is dict]
            elif type(value) is dict:
                pending.append(value)


def _with_logprobs(held: Json, new: Json) -> Json:
    """Add those of one delta; returns `held`. A member is a token, never a part of one, whatever its names.

    Of a text completion a member's names are the tokens that might have been there: `index` among them.
    """
    for name, value in new.items():
        known = held.get(name)
        if isinstance(value, list) and isinstance(known, list):
            known.extend(value)
        elif value is not None or known is None:
            held[name] = [*value] if isinstance(value, list) else value
    return held


def _join_list(held: list[Any], new: list[Any]) -> list[Any]:
    """Members with an `index` are parts of the member with that index; others are further members."""
    members = held if isinstance(held, _Members) else _Members(held)
    members.join(new)
    return members


class _Members(list[Any]):
    """A list that came in parts. An item goes on with the first member of the same index that has neither another id
    nor another type, and was there before its delta.

    That one is looked up: to look at each would take time by the square of their number.
    """

    def __init__(self, members: list[Any]) -> None:
        super().__init__(members)
        # By index, id and type: a heap of positions. "" stands for none, and None for whichever there is.
        self._places: dict[tuple[int, Any, Any], list[int]] = {}
        for position, member in enumerate(self):
            self._note(position, member)

    def join(self, new: list[Any]) -> None:
        """Add what one delta has."""
        before = len(self)
        for item in new:
            position = self._find(item)
            if position is None:
                self.append(_join({}, item) if isinstance(item, dict) else item)
                continue
            member = self[position]
            says_more = any(item.get(name) and not member.get(name) for name in _MARKS)
            _join(member, _without(item, "index"))
            if says_more:
                self._note(position, member)
        for position in range(before, len(self)):
            self._note(position, self[position])

    def _note(self, position: int, member: Any) -> None:
        index = _index_or(member, -1) if isinstance(member, dict) else -1
        if index >= 0:
            ids, types = ((_mark(member, name), None) for name in _MARKS)
            for key in product((index,), ids, types):
                heappush(self._places.setdefault(key, []), position)

    def _find(self, item: Any) -> int | None:
        index = _index_or(item, -1) if isinstance(item, dict) else -1
        if index < 0:
            return None
        ids, types = ((_mark(item, name), "") if item.get(name) else (None,) for name in _MARKS)
        keys = product((index,), ids, types)
        return min((place for key in keys if (place := self._first(key)) is not None), default=None)

    def _first(self, key: tuple[int, Any, Any]) -> int | None:
        places = self._places.get(key, [])
        while places:
            member = self[places[0]]
            if not any(mark == "" and member.get(name) for mark, name in zip(key[1:], _MARKS, strict=True)):
                return places[0]
            heappop(places)  # it was told its id or its type after it had been noted
        return None


def _mark(member: Json, name: str) -> Any:
    """What can be a key, "" where there is none."""
    value = member.get(name)
    return value if isinstance(value, (str, int, float)) and value else str(value or "")


def _without(data: Json, *names: str) -> Json:
    return {name: value for name, value in data.items() if name not in names}
