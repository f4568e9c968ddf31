"""Anthropic's answers as OpenAI's: a message as a completion, the events of a stream as chunks. No I/O.

Thinking comes as `reasoning_content`. Its signed blocks come beside it as `thinking_blocks`, so that a caller
who sends the message back gives the provider what it demands between a tool's call and its result. What chat has no
field for (citations, blocks in another order or of other types, why the answer ended) comes in members that
`message_blocks` describes, so that callers of Messages get the answer to the letter. Deltas and events of types that we
do not know are passed over, as the provider's versioning policy asks.

Sources: https://platform.claude.com/docs/en/api/messages, …/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from dub5.providers.message_blocks import BLOCKS, STOP, STOP_REASONS, entry, layout_of, needs_layout
from dub5.providers.odd_answers import MOST_BEGUN, TOO_MANY, Reported, Unusable, raise_reported_error
from dub5.providers.protocol import Json, Payload

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "length",  # half of the answer: OpenAI has no better word for it
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


_GOES_ON: Json = {"finish_reason": None}


_OURS = frozenset({"thinking", "redacted_thinking", "tool_use"})


class Block(msgspec.Struct):
    """Content of an answer, or its first part in a stream. Of types that we do not know, only the type."""

    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: Json = {}

    def signed(self) -> Json | None:
        """A block of thinking as the provider wants it back, None where this is not one."""
        if self.type == "redacted_thinking":
            return {"type": self.type, "data": self.data}
        if self.type == "thinking" and self.signature:
            return {"type": self.type, "thinking": self.thinking, "signature": self.signature}
        return None


USAGE_OF_THEIR_OWN = ("cache_creation", "server_tool_use", "service_tier", "inference_geo", "speed")
"""Members of Anthropic's `usage` that are kept under their names."""


class Usage(msgspec.Struct):
    """Token counts, and what else is charged for. In a stream each event has the newest of some."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: Json | None = None
    cache_creation: Json | None = None
    server_tool_use: Json | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None

    def updated(self, newer: Usage) -> Usage:
        known = {name: value for name, value in msgspec.structs.asdict(newer).items() if value is not None}
        return msgspec.structs.replace(self, **known)

    def openai(self) -> Json:
        """OpenAI counts cached tokens as part of the prompt; Anthropic counts them apart.

        What OpenAI has no name for keeps Anthropic's.
        """
        cached, newly = self.cache_read_input_tokens or 0, self.cache_creation_input_tokens or 0
        prompt = (self.input_tokens or 0) + newly + cached
        answer = self.output_tokens or 0
        details = {"cached_tokens": cached}
        if newly:
            details["cache_write_tokens"] = newly
        usage: Json = {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": details,
        }
        thought = (self.output_tokens_details or {}).get("thinking_tokens")
        if type(thought) is int:
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        others = {name: getattr(self, name) for name in USAGE_OF_THEIR_OWN}
        return usage | {name: value for name, value in others.items() if value is not None}


class Message(msgspec.Struct):
    """A whole answer, or in `message_start` the head of one."""

    content: list[Block]
    id: str = ""
    model: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Json | None = None
    container: Json | None = None
    usage: Usage = msgspec.field(default_factory=Usage)


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    citation: Json | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Json | None = None
    container: Json | None = None


class _Error(msgspec.Struct):
    message: str = ""
    type: str | None = None


class Event(msgspec.Struct):
    """One event of a stream, of any type; also a whole answer, of type `message`.

    `written` is its block to the letter.
    """

    type: str
    index: int = 0
    message: Message | None = None
    content_block: Block | None = None
    delta: _Delta | None = None
    usage: Usage | None = None
    error: _Error | None = None
    written: Json | None = None


_event_decoder = msgspec.json.Decoder(Event)


def event_of(raw: bytes, provider: str) -> Event:
    """The data of an event, also where a compatible server writes null, or a text for a number.

    ValueError or ProviderError where it is none, Reported where it is an error.
    """
    try:
        event = _event_decoder.decode(raw)
        event.written = None if event.content_block is None else msgspec.json.decode(raw)["content_block"]
    except (ValueError, RecursionError):
        data = Payload.parse(raw, provider).data
        raise_reported_error(data)
        tidy = _tidied(data)
        event = msgspec.convert(tidy, Event, strict=False)
        event.written = tidy.get("content_block")
    if event.error is not None:
        raise Reported(msgspec.structs.asdict(event.error))
    if event.type == "error":  # said in another way
        raise_reported_error(msgspec.json.decode(raw))
    return event


def completion(data: Json, *, created: int) -> Json:
    """A `chat.completion` for a Messages answer.

    msgspec.ValidationError where it is not one, Reported where it is an error.
    """
    try:
        answer = msgspec.convert(data, Message)
    except msgspec.ValidationError:
        raise_reported_error(data)
        data = _tidied(data)
        answer = msgspec.convert(data, Message, strict=False)
    calls = [_tool_call(block) for block in answer.content if block.type == "tool_use"]
    texts = [block.text for block in answer.content if block.type == "text"]
    message: Json = {"role": "assistant", "content": "".join(texts) if texts else None, "refusal": None}
    thought = "".join(block.thinking for block in answer.content if block.type == "thinking")
    if thought:
        message["reasoning_content"] = thought
    signed = [block for block in map(Block.signed, answer.content) if block is not None]
    if signed:
        message["thinking_blocks"] = signed
    if calls:
        message["tool_calls"] = calls
    layout = layout_of(data["content"])
    if layout is not None:
        message[BLOCKS] = layout
    choice = {"index": 0, "message": message, "logprobs": None, **_ending(answer)}
    return {
        **_head(answer, "chat.completion", created),
        "choices": [choice],
        "usage": answer.usage.openai(),
    }


def _tidied(value: Any) -> Any:
    """Without what is null, arguments as an object where they are its text, and without token counts that are none."""
    if isinstance(value, list):
        return [_tidied(item) for item in value]
    if not isinstance(value, dict):
        return value
    tidy = {name: _tidied(item) for name, item in value.items() if item is not None}
    if isinstance(value.get("input"), str):
        tidy["input"] = msgspec.json.decode(value["input"] or "{}")
    if "usage" in tidy:
        counts = tidy["usage"] if isinstance(tidy["usage"], dict) else {}
        tidy["usage"] = {name: count for name, count in counts.items() if type(count) is int}
    if isinstance(tidy.get("message"), dict):
        tidy["message"].setdefault("content", [])
    if value.get("type") == "message":
        content = tidy.get("content", [])
        tidy["content"] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return tidy


def _tool_call(block: Block) -> Json:
    return {
        "id": block.id,
        "type": "function",
        "function": {"name": block.name, "arguments": _written(block.input)},
    }


def _written(arguments: Json) -> str:
    return msgspec.json.encode(arguments).decode()


def _head(message: Message, kind: str, created: int) -> Json:
    return {"id": message.id, "object": kind, "created": created, "model": message.model}


def _ending(said: Message | _Delta) -> Json:
    """`finish_reason`, and where that does not say it all, what Anthropic said."""
    reason = _finish_reason(said.stop_reason)
    stop: Json = {}
    if reason and STOP_REASONS.get(reason) != said.stop_reason:
        stop["stop_reason"] = said.stop_reason
    others = {name: getattr(said, name) for name in ("stop_sequence", "stop_details", "container")}
    stop |= {name: value for name, value in others.items() if value is not None}
    return {"finish_reason": reason, STOP: stop} if stop else {"finish_reason": reason}


def _finish_reason(stop_reason: str | None) -> str | None:
    """Words that are yet to be invented go through as they are: nobody can say whether the answer is a good one. So
    does none: it may have been cut."""
    return _FINISH_REASONS.get(stop_reason, stop_reason) if stop_reason else None


class StreamTranslator:
    """Chunks for the events of one stream. `complete` is true once the provider said that it was done."""

    def __init__(self, *, created: int) -> None:
        self._created = created
        self._head: Json | None = None
        self._usage = Usage()
        self._stop = _Delta()
        self._layout: dict[int, Json] = {}
        self._laid_out: set[int] = set()  # blocks of which something stands in `message_blocks`
        self._last = ""  # the type of the block before
        self._blocks: dict[int, Block] = {}
        self._grown: dict[int, dict[str, list[str]]] = {}  # texts of those blocks, in parts
        self._calls: dict[int, int] = {}  # index of a block -> index of the tool call
        self._begun_blocks = self._begun_calls = 0
        self._silent: set[int] = set()  # tool calls without arguments so far
        self.complete = False

    @property
    def begun(self) -> bool:
        """Whether there was a `message_start`."""
        return self._head is not None

    def chunks(self, event: Event) -> Iterator[Json]:
        """What `event` means; nothing for a ping and for types that are yet to be invented.

        ValueError where the event makes no sense at this place. An `error` event is the caller's to look for.
        """
        match event:
            case Event(type="message_start", message=Message() as message):
                return self._begin(message)
            case Event(type="content_block_start", content_block=Block() as block):
                return self._begin_block(event.index, block, event.written or {"type": block.type})
            case Event(type="content_block_delta", delta=_Delta() as delta):
                return self._grow_block(event.index, delta)
            case Event(type="content_block_stop"):
                return self._end_block(event.index)
            case Event(type="message_delta"):
                self._note(event)
            case Event(type="message_stop"):
                return self._end()
        return iter(())

    def _begin(self, message: Message) -> Iterator[Json]:
        self._head = _head(message, "chat.completion.chunk", self._created)
        self._usage = message.usage
        yield self._chunk({"role": "assistant", "content": None})

    def _begin_block(self, index: int, block: Block, written: Json) -> Iterator[Json]:
        self._begun_blocks += 1
        if self._begun_blocks > MOST_BEGUN:
            raise Unusable(TOO_MANY)
        self._blocks[index] = block
        self._grown[index] = {name: [getattr(block, name)] for name in ("text", "thinking", "signature")}
        self._layout[index] = entry(index, written)
        if block.type == "tool_use":
            self._begun_calls += 1
            self._calls[index] = self._begun_calls - 1
            self._silent.add(index)
            if needs_layout([self._layout[index]]):
                yield self._part(index, self._layout[index])
            call = _tool_call(block)
            call["function"]["arguments"] = ""
            yield self._call_chunk(index, call)
            if block.input:  # compatible servers may send it whole
                yield from self._argue(index, _written(block.input))
        elif block.type == "text":  # empty as a rule, and then it says that the content is not null
            if self._last == "text":
                yield self._part(index, {"type": "text"})
            yield self._chunk({"content": block.text})
            if written.get("citations"):
                yield self._part(index, {"type": "text"}, citations=written["citations"])
        elif block.type == "thinking":
            if block.thinking:
                yield self._chunk({"reasoning_content": block.thinking})
        elif block.type != "redacted_thinking":
            yield self._part(index, written)
        self._last = block.type

    def _grow_block(self, index: int, delta: _Delta) -> Iterator[Json]:
        block = self._blocks.get(index)
        if block is None:
            raise ValueError("a delta of a block that did not begin")
        grown = self._grown[index]
        if delta.type == "text_delta":
            grown["text"].append(delta.text)
            yield self._chunk({"content": delta.text})
        elif delta.type == "thinking_delta":
            grown["thinking"].append(delta.thinking)
            yield self._chunk({"reasoning_content": delta.thinking})
        elif delta.type == "signature_delta":
            grown["signature"].append(delta.signature)
        elif delta.type == "input_json_delta" and delta.partial_json:
            if index in self._calls:
                yield from self._argue(index, delta.partial_json)
            else:
                yield self._part(index, {"partial_json": delta.partial_json})
        elif delta.type == "citations_delta" and delta.citation is not None:
            yield self._part(index, {"type": block.type}, citations=[delta.citation])

    def _end_block(self, index: int) -> Iterator[Json]:
        if index in self._silent:  # as in the whole answer, where no arguments are an empty object
            yield from self._argue(index, "{}")
        block = self._blocks.pop(index, None)
        if block is None:
            return
        for name, parts in self._grown.pop(index).items():
            setattr(block, name, "".join(parts))
        if block.type in ("text", "thinking", "redacted_thinking"):
            known = {"type": block.type, "text": block.text, "thinking": block.thinking}
            self._layout[index] = entry(index, {**known, "signature": block.signature})
        signed = block.signed()
        if signed is not None:
            yield self._chunk({"thinking_blocks": [signed]})

    def _part(self, index: int, part: Json, *, citations: list[Json] | None = None) -> Json:
        """A part of `message_blocks`."""
        self._laid_out.add(index)
        part = {**part, "index": index}
        return self._chunk({BLOCKS: [{**part, "citations": citations} if citations else part]})

    def _rest_of_layout(self) -> Iterator[Json]:
        """What `message_blocks` still lacks, where it is needed."""
        entries = [self._layout[index] for index in sorted(self._layout)]
        if self._laid_out or needs_layout(entries):
            rest = [
                each
                for each in entries
                if each["type"] == "text" or (each["type"] in _OURS and each["index"] not in self._laid_out)
            ]
            if rest:
                yield self._chunk({BLOCKS: rest})

    def _argue(self, index: int, arguments: str) -> Iterator[Json]:
        self._silent.discard(index)
        yield self._call_chunk(index, {"function": {"arguments": arguments}})

    def _note(self, event: Event) -> None:
        if event.delta is not None and event.delta.stop_reason is not None:
            self._stop = event.delta
        if event.usage is not None:
            self._usage = self._usage.updated(event.usage)

    def _end(self) -> Iterator[Json]:
        yield from self._rest_of_layout()
        yield self._chunk({}, _ending(self._stop))
        usage_only = self._chunk({})
        yield {**usage_only, "choices": [], "usage": self._usage.openai()}
        self.complete = True

    def _call_chunk(self, index: int, call: Json) -> Json:
        return self._chunk({"tool_calls": [{"index": self._calls[index], **call}]})

    def _chunk(self, delta: Json, ending: Json = _GOES_ON) -> Json:
        if self._head is None:
            raise ValueError("an event before message_start")
        return {**self._head, "choices": [{"index": 0, "delta": delta, **ending}]}
