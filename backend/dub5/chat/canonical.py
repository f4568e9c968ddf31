"""What a request asks, apart from how it is spelled: the form of a question from which its key is made.

Chat Completions, Responses and Messages have several words for one thing, and clients write down defaults or leave them
out. Of what means the same one spelling is kept, so that such questions have one answer:

- A content of one plain text part is that text.
- `developer` in the messages at the beginning is `system`.
- `max_completion_tokens` is `max_tokens`; a single stop sequence is a list of one.
- A field that asks for nothing (`n: 1`, `tools: []`, `tool_choice: "auto"`, …), and a null member of a message, is
  absent.
- A tool's arguments, which are JSON in a text, are what that JSON says.
- Marks for a provider's prompt cache are about cost.

What a provider might understand in another way stays as it is: `temperature: 1` is not the default everywhere.
Only the key is made of this: a provider is asked what the caller wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dub5.json_steps import Steps, TooCostly, decode_within
from dub5.providers.protocol import Json

_ASKS_FOR_NOTHING: Json = {
    "n": 1,
    "stop": [],
    "tools": [],
    "functions": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "logprobs": False,
    "top_logprobs": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "service_tier": "auto",
}
_NO_PART = frozenset({"messages", "max_completion_tokens", "cache_control"})
_PLAIN = frozenset({"user", "assistant", "system"})
_BATCH = 200
"""Messages, or tools, that are looked at in one step."""

Scalars = Callable[[Any], Any]
"""How scalars inside a value are written: equal numbers the same."""

_encoder = msgspec.json.Encoder(order="deterministic")


def canonical(fields: Mapping[str, Any], ignored: frozenset[str], scalars: Scalars) -> Json:
    """The fields that shape an answer, none of `ignored`; `scalars` is for what is decoded here."""
    result = _outside(fields, ignored)
    messages = fields.get("messages")
    if type(messages) is list:
        result["messages"] = [_message(each, scalars) for each in messages]
        _name_instructions(result["messages"])
    elif messages is not None:
        result["messages"] = messages
    return result


def canonical_in_steps(fields: Mapping[str, Any], ignored: frozenset[str], scalars: Scalars) -> Steps[Json]:
    """The same of a request that is large."""
    result = _outside({**fields, "tools": None}, ignored)
    messages, tools = fields.get("messages"), fields.get("tools")
    if type(messages) is list:
        said = result["messages"] = []
        for start in range(0, len(messages), _BATCH):
            said += [_message(each, scalars) for each in messages[start : start + _BATCH]]
            yield
        _name_instructions(said)
    elif messages is not None:
        result["messages"] = messages
    if type(tools) is list and tools:
        listed = result["tools"] = []
        for start in range(0, len(tools), _BATCH):
            listed += map(_tool, tools[start : start + _BATCH])
            yield
    elif tools is not None and tools != []:
        result["tools"] = tools
    return result


def _outside(fields: Mapping[str, Any], ignored: frozenset[str]) -> Json:
    """All but the messages."""
    result: Json = {}
    for name, value in fields.items():
        if value is None or name in ignored or name in _NO_PART:
            continue
        if name in _ASKS_FOR_NOTHING and _same(value, _ASKS_FOR_NOTHING[name]):
            continue
        result[name] = value
    limit = fields.get("max_completion_tokens")
    if limit is not None:
        other = result.setdefault("max_tokens", limit)
        if other != limit:  # who knows which of them holds
            result["max_completion_tokens"] = limit
    if type(result.get("stop")) is str:
        result["stop"] = [result["stop"]]
    tools = result.get("tools")
    if type(tools) is list:
        result["tools"] = [_tool(each) for each in tools]
    return result


def _same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _name_instructions(messages: list[Any]) -> None:
    for index, message in enumerate(messages):
        role = message.get("role") if type(message) is dict else None
        if role == "developer":
            messages[index] = {**message, "role": "system"}
        elif role != "system":
            return


def _message(message: Any, scalars: Scalars) -> Any:
    if type(message) is not dict:
        return message
    if len(message) == 2 and type(message.get("content")) is str and message.get("role") in _PLAIN:
        return message
    result = {name: value for name, value in message.items() if value is not None}
    content, calls = result.get("content"), result.get("tool_calls")
    if type(content) is list:
        result["content"] = _content(content)
    if calls == []:
        del result["tool_calls"]
    elif type(calls) is list:
        result["tool_calls"] = [_call(each, scalars) for each in calls]
    return result


def _content(parts: list[Any]) -> Any:
    result = [_part(part) if type(part) is dict else part for part in parts]
    if len(result) == 1 and type(result[0]) is dict:
        only = result[0]
        if len(only) == 2 and only.get("type") == "text" and type(only.get("text")) is str:
            return only["text"]
    return result


def _part(part: Json) -> Json:
    result = _unmarked(part)
    image = result.get("image_url")
    if type(image) is dict and image.get("detail") in ("auto", None):
        result["image_url"] = {name: value for name, value in image.items() if name != "detail"}
    return result


def _unmarked(value: Json) -> Json:
    return {name: item for name, item in value.items() if item is not None and name != "cache_control"}


def _tool(tool: Any) -> Any:
    if type(tool) is not dict:
        return tool
    result = _unmarked(tool)
    function = result.get("function")
    if type(function) is dict:
        function = result["function"] = _unmarked(function)
        if function.get("strict") is False:
            del function["strict"]
    return result


def _call(call: Any, scalars: Scalars) -> Any:
    function = call.get("function") if type(call) is dict else None
    if type(function) is not dict or type(function.get("arguments")) is not str:
        return call
    written = function["arguments"]
    try:
        meant = _encoder.encode(scalars(decode_within(written.encode()))).decode()
    except (TooCostly, ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
        return call
    return {**call, "function": {**function, "arguments": meant}}
