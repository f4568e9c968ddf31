"""What an answer of Anthropic's says beyond chat's fields, and how a Message is made of an answer again. No I/O.

The internal answer is a `chat.completion`. Most answers of Anthropic's are one, with nothing lost: thinking and its
signed blocks, one text, calls of tools. Of others a member `message_blocks` of the message tells the blocks in their
order, each with its `index`: of what chat has fields for only how much of them it is (`length` of a text; thinking and
calls come one after the other), and what is not there (`citations`, who called a tool); blocks of other kinds, such as
searches of the provider's own, are there to the letter. And a member `message_stop` of the choice says why it ended,
where `finish_reason` has no word for it. In a stream both come in parts that join as those of tool calls do, by index.

Clients of chat pass both over, as all members that they do not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from dub5.json_steps import TooCostly, decode_within
from dub5.providers.protocol import Json

BLOCKS = "message_blocks"
STOP = "message_stop"

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""The word of Messages for the end of a choice that says nothing more of it."""

SIGNED = frozenset({"thinking", "redacted_thinking"})
THOUGHTS = ("reasoning_content", "reasoning")
"""The names that providers have for what a model thought; some say the same under both."""
PARTIAL = "partial_json"
"""Member of a block that came in a stream: the JSON of its `input`."""

_RAW = "arguments"
"""Where arguments stand that are no object, as in `anthropic_turns`."""

_TOOL_USE = frozenset({"type", "id", "name", "input"})


def layout_of(blocks: list[Json]) -> list[Json] | None:
    """The value of `message_blocks`; None where chat's fields say it all. Blocks are as the provider gave them."""
    entries = [entry(index, block) for index, block in enumerate(blocks)]
    return entries if needs_layout(entries) else None


def entry(index: int, block: Json) -> Json:
    """What `message_blocks` has of one block."""
    kind = block.get("type")
    if kind == "text":
        length = {"index": index, "type": kind, "length": len(block.get("text") or "")}
        return {**length, "citations": block["citations"]} if block.get("citations") else length
    if kind == "redacted_thinking" or (kind == "thinking" and block.get("signature")):
        return {"index": index, "type": kind}
    if kind == "thinking":
        return {"index": index, "type": kind, "length": len(block.get("thinking") or "")}
    if kind == "tool_use":
        others = {name: value for name, value in block.items() if name not in _TOOL_USE and value is not None}
        return {"index": index, "type": kind, **others}
    return {**block, "index": index}


def needs_layout(entries: list[Json]) -> bool:
    """Whether blocks are others, or in another order, than `_usual` makes them."""
    order = ["thinking" if each["type"] in SIGNED else each["type"] for each in entries]
    texts = order.count("text")
    unsigned = sum(each["type"] == "thinking" and "length" in each for each in entries)
    thoughts = order.count("thinking")
    usual = ["thinking"] * thoughts + ["text"] * texts + ["tool_use"] * (len(order) - thoughts - texts)
    plain = all(len(each) == (3 if "length" in each else 2) for each in entries)
    return not (plain and order == usual and texts <= 1 and (not unsigned or thoughts == 1))


def blocks_of(message: Json) -> list[Json]:
    """The blocks of a whole answer's message, whichever provider gave it."""
    content = message.get("content")
    if len(message) == 2 and type(content) is str and content and "role" in message:  # most are a text alone
        return [{"type": "text", "text": content}]
    listed = message.get(BLOCKS)
    if isinstance(listed, list) and listed:
        try:
            return list(_laid_out(message, listed))
        except (KeyError, IndexError, TypeError, ValueError):
            pass  # somebody else's member of that name
    return list(_usual(message))


def _usual(message: Json) -> Iterator[Json]:
    signed = _signed(message)
    yield from signed
    thought = reasoning_of(message)
    if thought and not signed:
        yield {"type": "thinking", "thinking": thought, "signature": ""}
    said = text_of(message)
    if said:
        yield {"type": "text", "text": said}
    yield from _uses(message)


def _laid_out(message: Json, listed: list[Json]) -> Iterator[Json]:
    text, thought = text_of(message), reasoning_of(message)
    said = considered = 0
    signed, uses = iter(_signed(message)), iter(_uses(message))
    for each in sorted(listed, key=lambda one: int(one["index"])):
        kind = each["type"]
        if kind == "text":
            block = {"type": kind, "text": text[said : said + each["length"]]}
            said += each["length"]
            yield {**block, "citations": each["citations"]} if each.get("citations") else block
        elif kind == "thinking" and "length" in each:
            yield {
                "type": kind,
                "thinking": thought[considered : considered + each["length"]],
                "signature": "",
            }
            considered += each["length"]
        elif kind in SIGNED:
            block = _next(signed)
            considered += len(block.get("thinking", ""))
            yield block
        elif kind == "tool_use":
            others = {name: value for name, value in each.items() if name not in ("index", "type")}
            yield {**_next(uses), **others}
        else:
            yield _verbatim(each)
    if said != len(text):
        raise ValueError("not the layout of this text")


def _next(blocks: Iterator[Json]) -> Json:
    block = next(blocks, None)
    if block is None:
        raise IndexError
    return block


def _verbatim(each: Json) -> Json:
    block = {name: value for name, value in each.items() if name not in ("index", PARTIAL)}
    if isinstance(each.get(PARTIAL), str):
        block["input"] = input_of(each[PARTIAL])
    return block


def _signed(message: Json) -> list[Json]:
    kept = message.get("thinking_blocks")
    result = []
    for block in kept if isinstance(kept, list) else ():
        match block:
            case {"type": "thinking", "thinking": str(words), "signature": str(signature)} if signature:
                result.append({"type": "thinking", "thinking": words, "signature": signature})
            case {"type": "redacted_thinking", "data": str(data)}:
                result.append({"type": "redacted_thinking", "data": data})
    return result


def reasoning_of(message: Json) -> str:
    """Of a message or a delta, by the names that providers have for it."""
    for name in THOUGHTS:
        words = message.get(name)
        if isinstance(words, str) and words:
            return words
    return ""


def text_of(message: Json) -> str:
    """What a message or a delta says; a refusal says it, too."""
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    if isinstance(content, str) and content:
        return content
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def _uses(message: Json) -> Iterator[Json]:
    calls = message.get("tool_calls")
    for position, call in enumerate(calls if isinstance(calls, list) else ()):
        if not isinstance(call, dict):
            continue
        name, arguments = called(call)
        yield {
            "type": "tool_use",
            "id": id_of(call, position),
            "name": name,
            "input": input_of(arguments),
        }
    old = message.get("function_call")
    if isinstance(old, dict) and not calls:
        name, arguments = called({"function": old})
        yield {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": input_of(arguments)}


def id_of(call: Json, position: int) -> str:
    """Of a call, also where the provider gave it none."""
    written = call.get("id")
    return written if isinstance(written, str) and written else f"toolu_{position}"


def called(call: Json) -> tuple[str, str]:
    """Name and arguments of a call, or of a part of one."""
    custom = call.get("custom")
    if isinstance(custom, dict):
        return _text(custom.get("name")), _text(custom.get("input"))
    function = call.get("function")
    if not isinstance(function, dict):
        return "", ""
    return _text(function.get("name")), _text(function.get("arguments"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def input_of(written: str) -> Json:
    """The object that arguments say; what is none is kept under a name of ours."""
    if not written.strip():
        return {}
    try:
        value = decode_within(written.encode())
    except (TooCostly, ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
        value = written
    if value is None:
        return {}
    return value if isinstance(value, dict) else {_RAW: value}


def written(value: Any) -> str:
    """As JSON."""
    return msgspec.json.encode(value).decode()
