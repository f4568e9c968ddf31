"""An internal answer as Anthropic's Messages API says it: a Message, or the events of one. No I/O.

Law: Anthropic's own client accumulates the events to the same Message, whether they were made of chunks as they came
(`MessagesWriter.events`) or of a stored answer (`replay`); and a Message that came from Anthropic is the same again.

In a stream the token counts of the prompt are known at the end only, in `message_delta`, where the client takes them
from; of a stored answer also at the start.

Blocks follow each other, and nothing is said of one that has stopped: some clients are done with it by then. So where a
server mixes the parts of several calls, or says something between those of one, each waits until the arguments of the
one before are whole.

Sources: https://platform.claude.com/docs/en/api/messages, …/build-with-claude/streaming
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from dub5.api.arguments import Account
from dub5.chat.answer import completion_tokens
from dub5.errors import Dub5Error, render_messages_event
from dub5.frames import Frame
from dub5.providers.anthropic_answer import USAGE_OF_THEIR_OWN
from dub5.providers.chunks import FirstChoice, end_of
from dub5.providers.lenient_json import without_half
from dub5.providers.message_blocks import (
    BLOCKS,
    PARTIAL,
    SIGNED,
    STOP,
    STOP_REASONS,
    THOUGHTS,
    blocks_of,
    called,
    id_of,
    text_of,
)
from dub5.providers.protocol import Json, decode

_encode = msgspec.json.encode
_PIECES = re.compile(r".{1,200}", re.DOTALL)
"""Of one text in a replay."""

_OURS = ("text", "thinking", "redacted_thinking", "tool_use")
_ENDING = ("stop_reason", "stop_sequence", "stop_details", "container")
_OF_THEIR_OWN = frozenset(USAGE_OF_THEIR_OWN)
_OF_TIER = ("standard", "priority", "batch")
_OF_SPEED = ("standard", "fast")
_TEXT_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"text_delta","text":%b}}\n\n'
)
_GROWS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}
"""By the type of a block: the type of its deltas, and the member that has what is new."""
_SAYING = (*THOUGHTS, "thinking_blocks", BLOCKS, "content", "refusal")
"""Members of a delta of which blocks are made, other than calls."""
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def message(completion: Json, stops: frozenset[str] = frozenset()) -> Json:
    """A Message for a `chat.completion`, of its first choice; `stops` are the request's stop sequences."""
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    said = choice.get("message")
    said = said if isinstance(said, dict) else {}
    blocks = blocks_of(said)
    calls = any(block["type"] == "tool_use" for block in blocks)
    refused = bool(said.get("refusal")) and not said.get("content")
    ending = _ending(choice, stops, calls=calls, refused=refused)
    return {
        **_head(completion),
        "content": blocks,
        **ending,
        "usage": usage(completion.get("usage")),
    }


def usage(counted: Any) -> Json:
    """Anthropic counts cached tokens apart from the prompt's others, OpenAI as part of them."""
    given = counted if isinstance(counted, dict) else {}
    prompt, answer = _count(given.get("prompt_tokens")), completion_tokens(given)
    details = given.get("prompt_tokens_details")
    newly = cached = 0
    if isinstance(details, dict):
        newly = min(prompt, _count(details.get("cache_write_tokens")))
        cached = min(prompt - newly, _count(details.get("cached_tokens")))
    result: Json = {
        "input_tokens": prompt - cached - newly,
        "cache_creation_input_tokens": newly,
        "cache_read_input_tokens": cached,
        "output_tokens": answer,
    }
    details = given.get("completion_tokens_details")
    thought = details.get("reasoning_tokens") if isinstance(details, dict) else None
    if thought is not None and _count(thought):
        result["output_tokens_details"] = {"thinking_tokens": _count(thought)}
    if not _OF_THEIR_OWN.isdisjoint(given):
        result |= {name: given[name] for name in USAGE_OF_THEIR_OWN if _is_theirs(name, given.get(name))}
    return result


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _is_theirs(name: str, value: Any) -> bool:
    """Whether a member of a usage is one that Anthropic has under this name, rather than somebody else's."""
    match name:
        case "service_tier":
            return value in _OF_TIER
        case "speed":
            return value in _OF_SPEED
        case "inference_geo":
            return isinstance(value, str)
        case "cache_creation":
            names = ("ephemeral_1h_input_tokens", "ephemeral_5m_input_tokens")
        case _:
            names = ("web_fetch_requests", "web_search_requests")
    return isinstance(value, dict) and all(type(value.get(each)) is int for each in names)


def _head(completion: Json) -> Json:
    written = completion.get("id")
    name = written if isinstance(written, str) else ""
    model = completion.get("model")
    return {
        "id": name if name.startswith("msg_") else f"msg_{name.removeprefix('chatcmpl-')}",
        "type": "message",
        "role": "assistant",
        "model": model if isinstance(model, str) else "",
    }


def _ending(choice: Json, stops: frozenset[str], *, calls: bool, refused: bool) -> Json:
    """`stop_reason` and what belongs to it."""
    own = choice.get(STOP)
    reason = choice.get("finish_reason")
    said = STOP_REASONS.get(reason, "end_turn") if isinstance(reason, str) else "end_turn"
    ending: Json = {"stop_reason": said, "stop_sequence": None}
    matched = choice.get("stop_reason")  # of vLLM and those who follow it
    if refused:
        ending["stop_reason"] = "refusal"
    elif said in ("end_turn", "tool_use"):
        ending["stop_reason"] = "tool_use" if calls else "end_turn"
        if not calls and isinstance(matched, str) and matched in stops:
            ending |= {"stop_reason": "stop_sequence", "stop_sequence": matched}
    return ending | {name: own[name] for name in _ENDING if name in own} if isinstance(own, dict) else ending


# --- A stream ---


def _event(kind: str, **fields: Any) -> bytes:
    data: Json = {"type": kind, **fields}
    try:
        written = _encode(data)
    except UnicodeEncodeError:  # half of a character can only be written as an escape
        written = json.dumps(data, separators=(",", ":")).encode()
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), written)


def _start(index: int, block: Json) -> bytes:
    return _event("content_block_start", index=index, content_block=block)


def _delta(index: int, kind: str, name: str, value: Any) -> bytes:
    return _event("content_block_delta", index=index, delta={"type": kind, name: value})


def _stop(index: int) -> bytes:
    return _event("content_block_stop", index=index)


def _end(ending: Json, counted: Json) -> bytes:
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    known = {
        name: counted[name]
        for name in (*names, "server_tool_use", "output_tokens_details")
        if name in counted
    }
    return _event("message_delta", delta=ending, usage=known) + _MESSAGE_STOP


def replay(whole: Json) -> bytes:
    """All events of a Message."""
    head = {**whole, "content": [], "stop_reason": None, "stop_sequence": None}
    ending: Json = {name: head.pop(name) for name in ("stop_details", "container") if name in head}
    ending |= {name: whole[name] for name in ("stop_reason", "stop_sequence")}
    parts = [
        _event("message_start", message={**head, "usage": {**whole["usage"], "output_tokens": 0}}),
        _PING,
    ]
    for index, block in enumerate(whole["content"]):
        parts += _replayed(index, block)
    parts.append(_end(ending, whole["usage"]))
    return b"".join(parts)


def _replayed(index: int, block: Json) -> Iterator[bytes]:
    match block["type"]:
        case "text":
            citations = block.get("citations")
            yield _start(index, {**block, "text": "", **({"citations": []} if citations else {})})
            for piece in _PIECES.findall(block["text"]):
                yield _delta(index, "text_delta", "text", piece)
            for citation in citations or ():
                yield _delta(index, "citations_delta", "citation", citation)
        case "thinking":
            yield _start(index, {"type": "thinking", "thinking": "", "signature": ""})
            for piece in _PIECES.findall(block["thinking"]):
                yield _delta(index, "thinking_delta", "thinking", piece)
            if block["signature"]:
                yield _delta(index, "signature_delta", "signature", block["signature"])
        case "tool_use" | "server_tool_use" if isinstance(block.get("input"), dict):
            yield _start(index, {**block, "input": {}})
            for piece in _PIECES.findall(_encode(block["input"]).decode()):
                yield _delta(index, "input_json_delta", "partial_json", piece)
        case _:
            yield _start(index, block)
    yield _stop(index)


class _Waiting:
    """What has come of a call that is yet to begin."""

    def __init__(self) -> None:
        self.known: Json = {}  # the first part that has an id
        self.name = ""
        self.arguments: list[str] = []

    def take(self, part: Json) -> bool:
        """One more part; gives whether it is the first with a name."""
        name, arguments = called(part)
        if part.get("id") and not self.known:
            self.known = part
        if arguments:
            self.arguments.append(arguments)
        first = bool(name) and not self.name
        self.name = self.name or name
        return first


class MessagesWriter:
    """See `Writer`. `stops` are the request's stop sequences."""

    def __init__(self, request_id: str, stops: frozenset[str] = frozenset()) -> None:
        self._request_id = request_id
        self._stops = stops
        self._begun = False
        self._usage: Any = None
        self._choice: Json = {}
        self._first = FirstChoice()
        self._index = -1  # of the last block that began
        self._open = ""  # its type; empty where it has stopped
        self._half = ""  # of a character: the other one may come
        self._thoughts: tuple[str, ...] = THOUGHTS  # the name that this server uses, once it is known
        self._calls: dict[int, int] = {}  # of a call -> of its block
        self._arguments: list[str] = []  # of the last one that began
        self._account = Account(self._arguments)
        self._waiting: dict[int, _Waiting] = {}  # calls that are yet to begin
        self._named: list[int] = []  # a heap of those whose name is known
        self._held: list[Json] = []  # what was said before the arguments of the open call were whole
        self._theirs: dict[int, int] = {}  # index in `message_blocks` -> of its block
        self._of_use: Json = {}  # what the next use of a tool has besides
        self._said = self._refused = False

    def whole(self, completion: bytes) -> bytes:
        return _encode(message(decode(completion), self._stops))

    def replay(self, completion: bytes) -> bytes:
        self._begun = True
        return replay(message(decode(completion), self._stops))

    def events(self, frames: list[Frame]) -> bytes:
        parts: list[bytes] = []
        for frame in frames:
            if frame.kind == "whole":
                parts.append(self._unfinished(frame.raw))
            else:
                self._add(decode(frame.raw), parts)
        return b"".join(parts)

    def end(self) -> bytes:
        parts: list[bytes] = []
        self._begin({}, parts)
        self._go_on(parts, last=True)
        self._close(parts)
        refused = self._refused and not self._said
        ending = _ending(self._choice, self._stops, calls=bool(self._calls), refused=refused)
        parts.append(_end(ending, usage(self._usage)))
        return b"".join(parts)

    def failed(self, error: Dub5Error) -> bytes:
        return render_messages_event(error, self._request_id)

    def _unfinished(self, completion: bytes) -> bytes:
        """A whole answer that came in the place of chunks: all but what `end` will say."""
        data = decode(completion)
        whole = message(data, self._stops)
        self._begun, self._usage, self._choice = True, data.get("usage"), data["choices"][0]
        self._calls = {at: at for at, block in enumerate(whole["content"]) if block["type"] == "tool_use"}
        self._refused = whole["stop_reason"] == "refusal"
        events = replay(whole)
        return events[: events.rindex(b"event: message_delta\n")]

    def _add(self, chunk: Json, parts: list[bytes]) -> None:
        if not self._begun and (
            chunk.get("id") or chunk.get("choices")
        ):  # Azure's first says nothing of the answer
            self._begin(chunk, parts)
        counted = chunk.get("usage")
        if counted and isinstance(counted, dict):
            self._usage = counted
        for choice in chunk.get("choices") or ():
            if not isinstance(choice, dict) or not self._first.is_in(choice):
                continue
            delta = choice.get("delta")
            if isinstance(delta, dict) and delta:
                self._grow(delta, parts)
            ended = {name: value for name, value in choice.items() if value is not None and name != "delta"}
            if "finish_reason" in ended:
                ended["finish_reason"] = end_of(choice) or self._choice.get("finish_reason")
            self._choice.update(ended)

    def _begin(self, chunk: Json, parts: list[bytes]) -> None:
        if self._begun:
            return
        self._begun = True
        counted = {**usage(None), **usage(chunk.get("usage"))}
        head = {**_head(chunk), "content": [], "stop_reason": None, "stop_sequence": None, "usage": counted}
        parts += (_event("message_start", message=head), _PING)

    def _grow(self, delta: Json, parts: list[bytes]) -> None:
        words = delta.get("content")
        if (
            len(delta) == 1 and type(words) is str and words and self._open == "text" and not self._half
        ):  # most are
            self._said = True
            try:
                parts.append(_TEXT_DELTA % (self._index, _encode(words)))
            except UnicodeEncodeError:
                self._tell(words, parts)
            return
        said = {name: delta[name] for name in _SAYING if delta.get(name)}
        if said and self._is_arguing():
            self._held.append(said)
        elif said:
            self._lay(said, parts)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._use(call, parts)
        old = delta.get("function_call")
        if isinstance(old, dict) and not calls:
            name, _ = called({"function": old})
            self._use({"index": 0, "id": name and f"toolu_{name}", "function": old}, parts)

    def _lay(self, said: Json, parts: list[bytes]) -> None:
        """What was said besides calls."""
        thought = self._thought_in(said)
        if thought:
            self._think(thought, parts)
        signed = said.get("thinking_blocks")
        for block in signed if isinstance(signed, list) else ():
            if isinstance(block, dict):
                self._sign(block, thought, parts)
        theirs = said.get(BLOCKS)
        for entry in theirs if isinstance(theirs, list) else ():
            if isinstance(entry, dict) and type(entry.get("index")) is int:
                self._lay_out(entry, parts)
        self._say(said, parts)

    def _open_block(self, block: Json, parts: list[bytes]) -> int:
        self._close(parts)
        self._index += 1
        self._open = block["type"]
        parts.append(_start(self._index, block))
        return self._index

    def _close(self, parts: list[bytes]) -> None:
        if self._half:
            self._half = ""
            self._tell("\ufffd", parts)  # as in the whole answer
        if self._open:
            parts.append(_stop(self._index))
            self._open = ""

    def _tell(self, words: str, parts: list[bytes]) -> str:
        """What is new in the open block; gives what was told of it. The first half of a character waits for the other
        one: alone it is no text."""
        words, self._half = without_half(self._half + words)
        if words:
            parts.append(_delta(self._index, *_GROWS[self._open], words))
        return words

    def _thought_in(self, delta: Json) -> str:
        """Some servers say the same under two names."""
        for name in self._thoughts:
            words = delta.get(name)
            if words and isinstance(words, str):
                self._thoughts = (name,)
                return words
        return ""

    def _think(self, words: str, parts: list[bytes]) -> None:
        if self._open != "thinking":
            self._open_block({"type": "thinking", "thinking": "", "signature": ""}, parts)
        self._tell(words, parts)

    def _sign(self, block: Json, thought: str, parts: list[bytes]) -> None:
        """The end of a block of thinking, whose words may have come before."""
        match block:
            case {"type": "thinking", "signature": str(signature)} if signature:
                words = block.get("thinking")
                if self._open != "thinking":
                    self._open_block({"type": "thinking", "thinking": "", "signature": ""}, parts)
                    if isinstance(words, str) and words:
                        self._tell(words, parts)
                parts.append(_delta(self._index, "signature_delta", "signature", signature))
                self._close(parts)
            case {"type": "thinking", "thinking": str(words)} if words and not thought:
                self._think(words, parts)
            case {"type": "redacted_thinking", "data": str(data)}:
                self._open_block({"type": "redacted_thinking", "data": data}, parts)
                self._close(parts)

    def _say(self, delta: Json, parts: list[bytes]) -> None:
        words = text_of(delta)
        if not words:
            return
        if delta.get("content"):
            self._said = True
        else:
            self._refused = True
        if self._open != "text":
            self._open_block({"type": "text", "text": ""}, parts)
        self._tell(words, parts)

    def _use(self, call: Json, parts: list[bytes]) -> None:
        index = call.get("index")
        index = index if type(index) is int else len(self._calls)
        at = self._calls.get(index)
        if at is not None:
            self._argue(at, called(call)[1], parts)
        else:
            waiting = self._waiting.get(index)
            if waiting is None:
                waiting = self._waiting[index] = _Waiting()
            if waiting.take(call):
                heapq.heappush(self._named, index)
        self._go_on(parts)

    def _argue(self, at: int, arguments: str, parts: list[bytes]) -> None:
        """What comes for a block that has stopped is left out: its arguments were whole."""
        if (
            arguments
            and self._open == "tool_use"
            and at == self._index
            and (self._arguments or not arguments.isspace())  # blanks alone are no JSON to a client
        ):
            self._arguments.append(self._tell(arguments, parts))

    def _is_arguing(self) -> bool:
        """Whether the open block is a call whose arguments may go on."""
        return self._open == "tool_use" and not self._account.is_whole()

    def _go_on(self, parts: list[bytes], *, last: bool = False) -> None:
        """With what waits for the end of a call: what was said meanwhile, and further calls in their order, none before
        its name is known. `last`: in any case."""
        if last:
            self._named = sorted(self._waiting)  # which is a heap
        while (self._held or self._named) and (last or not self._is_arguing()):
            held, self._held = self._held, []
            for said in held:
                self._lay(said, parts)
            if self._named:
                self._begin_call(heapq.heappop(self._named), parts)

    def _begin_call(self, index: int, parts: list[bytes]) -> None:
        call = self._waiting.pop(index)
        block = {"type": "tool_use", "id": id_of(call.known, index), "name": call.name, "input": {}}
        at = self._calls[index] = self._open_block({**block, **self._of_use}, parts)
        self._of_use, self._arguments = {}, []
        self._account = Account(self._arguments)
        for arguments in call.arguments:
            self._argue(at, arguments, parts)

    def _lay_out(self, entry: Json, parts: list[bytes]) -> None:
        """What chat has no field for. What comes at the end, about blocks that are gone, adds nothing."""
        index, kind = entry["index"], entry.get("type")
        at = self._theirs.get(index)
        if at is not None:
            if at == self._index and kind not in _OURS and isinstance(entry.get(PARTIAL), str):
                parts.append(_delta(at, "input_json_delta", PARTIAL, entry[PARTIAL]))
        elif isinstance(kind, str) and kind not in _OURS and kind not in SIGNED:
            block = {name: value for name, value in entry.items() if name not in ("index", PARTIAL)}
            self._theirs[index] = self._open_block(block, parts)
            if isinstance(entry.get(PARTIAL), str):
                parts.append(_delta(self._index, "input_json_delta", PARTIAL, entry[PARTIAL]))
        elif kind == "tool_use":
            self._of_use = {name: value for name, value in entry.items() if name not in ("index", "type")}
        elif kind == "text" and "length" not in entry:
            given = entry.get("citations")
            citations = given if isinstance(given, list) else ()
            if self._open != "text" or not citations:  # without any it says that another text begins
                self._open_block({"type": "text", "text": ""}, parts)
            at = self._index
            parts += (_delta(at, "citations_delta", "citation", each) for each in citations)
