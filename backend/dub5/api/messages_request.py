"""A request to Anthropic's Messages API as the Chat Completions body that asks the same. Pure functions, no I/O.

The plainest body that does: what both protocols can say is said in chat's words, so that the same question has the same
key whoever asks it. What chat has no words for stays as Messages says it (`thinking`, `top_k`, documents, the
provider's own tools, marks for its cache, …): to Anthropic goes the request as it came, and other providers get what
`providers.anthropic_only` makes of the rest.

- `system` is the first message; a block of text alone is that text.
- A `tool_result` is a message of the role `tool`, before what else the user says; `is_error` goes with it.
- `thinking` blocks that are signed are `thinking_blocks` of their message; others, which no provider signed, are
  `reasoning_content` where the message calls tools, and else left out.
- `output_config.format` is `response_format`, `metadata.user_id` is `user`, `stop_sequences` is `stop`.

An error names the field by its path in the request as it came.

Source: https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from dub5.errors import InvalidRequest
from dub5.providers.anthropic_only import BETA
from dub5.providers.protocol import Json

_ROLES = frozenset({"user", "assistant", "system"})
_TRANSLATED = frozenset(
    {"system", "messages", "stop_sequences", "metadata", "tools", "tool_choice", "output_config"}
    | {"output_format", "service_tier"}
)
_RARE = _TRANSLATED - {"system", "messages"}

_NOT_OF_MESSAGES = frozenset(
    {"n", "best_of", "stop", "user", "functions", "function_call", "parallel_tool_calls", "response_format"}
    | {"stream_options", "max_completion_tokens", "logprobs", "top_logprobs", "modalities", "audio"}
    | {"web_search_options", "prediction", "reasoning_effort", BETA}
)
"""Fields of Chat Completions that would mean there what nobody asked for here."""

UNTHREADED = "thread_unsupported_request"
"""Told this, Anthropic's clients send the conversation whole instead of its last turn: `toolRunner`, by default."""

_TOOL = frozenset({"type", "name", "description", "input_schema", "strict"})
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_TIERS = {"auto": None, "standard_only": "default"}
_LONGEST_BETA = 1000
_BETAS = re.compile(r"[A-Za-z0-9._-]+(?:\s*,\s*[A-Za-z0-9._-]+)*")


def question(body: Json, headers: Mapping[str, str], *, limited: bool = True) -> Json:
    """The body of a Chat Completions request; InvalidRequest where it is none of Messages.

    `limited`: whether `max_tokens` is required.
    """
    given = {name: value for name, value in body.items() if value is not None}
    if not _NOT_OF_MESSAGES.isdisjoint(given):
        raise wrong(min(_NOT_OF_MESSAGES.intersection(given)), "Messages has no such field")
    if "thread" in given:
        raise wrong("thread", "conversations are not kept here; send all messages").as_said(code=UNTHREADED)
    if limited and "max_tokens" not in given:
        raise wrong("max_tokens", "a field that is required")
    result = {name: value for name, value in given.items() if name not in _TRANSLATED}
    messages = _system(given)
    listed = _typed(given.get("messages"), list, "messages", "a list of messages")
    if not listed:
        raise wrong("messages", "at least one message is required")
    for index, message in enumerate(listed):
        role, content = (
            (message.get("role"), message.get("content")) if type(message) is dict else (None, None)
        )
        if type(content) is str and type(role) is str and role in _ROLES:  # most are
            messages.append({"role": role, "content": content})
            continue
        messages += _message(_typed(message, dict, f"messages[{index}]", "an object"), f"messages[{index}]")
    result["messages"] = messages
    if not _RARE.isdisjoint(given):
        result |= _tools(given) | _tool_choice(given) | _output(given) | _others(given)
    betas = _betas(headers.get("anthropic-beta", ""))
    if betas:
        result[BETA] = betas
    return result


def _others(given: Json) -> Json:
    result: Json = {}
    if given.get("stop_sequences"):
        stops = _typed(given["stop_sequences"], list, "stop_sequences", "a list of strings")
        result["stop"] = [
            _typed(each, str, f"stop_sequences[{at}]", "a string") for at, each in enumerate(stops)
        ]
    metadata = _typed(given.get("metadata", {}), dict, "metadata", "an object")
    if metadata.get("user_id") is not None:
        result["user"] = _typed(metadata["user_id"], str, "metadata.user_id", "a string")
    tier = given.get("service_tier")
    if tier is not None and (not isinstance(tier, str) or tier not in _TIERS):
        raise wrong("service_tier", "must be `auto` or `standard_only`")
    if tier is not None and _TIERS[tier]:
        result["service_tier"] = _TIERS[tier]
    return result


def wrong(where: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"`{where}`: {why}.", param=where)


def _typed(value: Any, kind: type, where: str, name: str) -> Any:
    if not isinstance(value, kind):
        raise wrong(where, f"must be {name}")
    return value


def _betas(written: str) -> list[str]:
    """The names in a header `anthropic-beta`, each once, in alphabetical order."""
    if not written.strip():
        return []
    if len(written) > _LONGEST_BETA or not _BETAS.fullmatch(written.strip()):
        raise wrong("anthropic-beta", "must be a list of names")
    return sorted({each.strip() for each in written.split(",")})


# --- Messages ---


def _system(given: Json) -> list[Json]:
    system = given.get("system")
    if not system:
        return []
    if isinstance(system, str):
        return [{"role": "system", "content": system}]
    parts = [_text(block, where) for where, block in _blocks(system, "system")]
    return [{"role": "system", "content": _plainest(parts)}]


def _message(message: Json, where: str) -> list[Json]:
    role, content, at = message.get("role"), message.get("content"), f"{where}.content"
    if not isinstance(role, str) or role not in _ROLES:
        raise wrong(f"{where}.role", "must be `user` or `assistant`")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if role == "assistant":
        return [_assistant(content, at)]
    if role == "system":
        return [
            {"role": role, "content": _plainest([_text(block, path) for path, block in _blocks(content, at)])}
        ]
    return _user(content, at)


def _blocks(content: Any, where: str) -> Iterator[tuple[str, Json]]:
    """Each with its path."""
    for index, block in enumerate(_typed(content, list, where, "a string or a list of blocks")):
        at = f"{where}[{index}]"
        _typed(_typed(block, dict, at, "an object").get("type"), str, f"{at}.type", "a string")
        yield at, block


def _user(content: Any, where: str) -> list[Json]:
    results: list[Json] = []
    parts: list[Json] = []
    for at, block in _blocks(content, where):
        if block["type"] == "tool_result":
            results.append(_result(block, at))
        else:
            parts.append(_part(block, at))
    if parts or not results:
        results.append({"role": "user", "content": _plainest(parts)})
    return results


def _result(block: Json, where: str) -> Json:
    call = _typed(block.get("tool_use_id"), str, f"{where}.tool_use_id", "a string")
    content = block.get("content")
    if content is None:
        content = ""
    elif not isinstance(content, str):
        content = _plainest([_part(each, at) for at, each in _blocks(content, f"{where}.content")])
    message = {"role": "tool", "tool_call_id": call, "content": content}
    return {**message, "is_error": True} if block.get("is_error") is True else message


def _assistant(content: Any, where: str) -> Json:
    parts: list[Json] = []
    calls: list[Json] = []
    signed: list[Json] = []
    unsigned: list[str] = []
    for at, block in _blocks(content, where):
        match block["type"]:
            case "thinking":
                words = _typed(block.get("thinking"), str, f"{at}.thinking", "a string")
                signature = block.get("signature")
                if signature:
                    _typed(signature, str, f"{at}.signature", "a string")
                    signed.append({"type": "thinking", "thinking": words, "signature": signature})
                else:
                    unsigned.append(words)
            case "redacted_thinking":
                data = _typed(block.get("data"), str, f"{at}.data", "a string")
                signed.append({"type": "redacted_thinking", "data": data})
            case "tool_use":
                calls.append(_call(block, at))
            case _:
                parts.append(_part(block, at))
    message: Json = {"role": "assistant", "content": _plainest(parts) if parts or not calls else None}
    if signed:
        message["thinking_blocks"] = signed
    elif unsigned and calls:
        message["reasoning_content"] = "".join(unsigned)
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: Json, where: str) -> Json:
    name = _typed(block.get("name"), str, f"{where}.name", "a string")
    arguments = _typed(block.get("input"), dict, f"{where}.input", "an object")
    return {
        "id": _typed(block.get("id"), str, f"{where}.id", "a string"),
        "type": "function",
        "function": {"name": name, "arguments": msgspec.json.encode(arguments).decode()},
    }


def _plainest(parts: list[Json]) -> str | list[Json]:
    if not parts:
        return ""
    first = parts[0]
    if len(parts) == 1 and first["type"] == "text" and len(first) == 2:
        text: str = first["text"]
        return text
    return parts


def _text(block: Json, where: str) -> Json:
    if block["type"] != "text":
        raise wrong(f"{where}.type", "must be `text`")
    part = {"type": "text", "text": _typed(block.get("text"), str, f"{where}.text", "a string")}
    return part | _mark(block, where)


def _part(block: Json, where: str) -> Json:
    match block:
        case {"type": "text"}:
            return _text(block, where)
        case {"type": "image"}:
            source = _typed(block.get("source"), dict, f"{where}.source", "an object")
            url = _url(source)
            if url is None or block.get("transformations"):
                return block
            return {"type": "image_url", "image_url": {"url": url}} | _mark(block, where)
        case {"type": "document"}:
            _typed(block.get("source"), dict, f"{where}.source", "an object")
            return _document(block, where)
        case {"type": "tool_result" | "tool_use" | "thinking" | "redacted_thinking"}:
            raise wrong(f"{where}.type", "such a block cannot be here")
    return block


def _url(source: Json) -> str | None:
    match source:
        case {"type": "base64", "media_type": str(kind), "data": str(data)}:
            return f"data:{kind};base64,{data}"
        case {"type": "url", "url": str(url)}:
            return url
    return None


def _document(block: Json, where: str) -> Json:
    """A PDF is a file to chat, where nothing else is said of it."""
    title = block.get("title")
    match block["source"]:
        case {"type": "base64", "media_type": "application/pdf", "data": str(data)}:
            if not (block.get("citations") or block.get("context")):
                named = title if isinstance(title, str) and title else "document.pdf"
                file = {"filename": named, "file_data": f"data:application/pdf;base64,{data}"}
                return {"type": "file", "file": file} | _mark(block, where)
    return block


def _mark(block: Json, where: str) -> Json:
    mark = block.get("cache_control")
    if mark is None:
        return {}
    return {"cache_control": _typed(mark, dict, f"{where}.cache_control", "an object")}


# --- Tools, and the shape of the answer ---


def _tools(given: Json) -> Json:
    listed = _typed(given.get("tools", []), list, "tools", "a list of tools")
    result = [_tool(each, f"tools[{index}]") for index, each in enumerate(listed)]
    return {"tools": result} if result else {}


def _tool(tool: Any, where: str) -> Json:
    kind = _typed(tool, dict, where, "an object").get("type")
    if kind not in (None, "custom"):
        _typed(kind, str, f"{where}.type", "a string")
        return dict(tool)
    function = {
        "name": _typed(tool.get("name"), str, f"{where}.name", "a string"),
        "parameters": _typed(tool.get("input_schema"), dict, f"{where}.input_schema", "an object"),
    }
    if tool.get("description") is not None:
        function["description"] = _typed(tool["description"], str, f"{where}.description", "a string")
    if tool.get("strict"):
        function["strict"] = True
    others = {name: value for name, value in tool.items() if name not in _TOOL and value is not None}
    return {"type": "function", "function": function, **others}


def _tool_choice(given: Json) -> Json:
    choice = given.get("tool_choice")
    if choice is None:
        return {}
    kind = _typed(choice, dict, "tool_choice", "an object").get("type")
    alone = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") is True else {}
    if kind == "tool":
        name = _typed(choice.get("name"), str, "tool_choice.name", "a string")
        return {"tool_choice": {"type": "function", "function": {"name": name}}} | alone
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise wrong("tool_choice.type", "must be `auto`, `any`, `tool` or `none`")
    if kind != "any" and not given.get("tools"):
        return {}
    return {"tool_choice": _CHOICES[kind]} | alone


def _output(given: Json) -> Json:
    config = _typed(given.get("output_config", {}), dict, "output_config", "an object")
    result: Json = {}
    if config.get("effort") is not None:
        _typed(config["effort"], str, "output_config.effort", "a string")
    others = {name: value for name, value in config.items() if name != "format" and value is not None}
    if others:
        result["output_config"] = others
    where = "output_config.format" if config.get("format") is not None else "output_format"
    shape = config.get("format") or given.get("output_format")
    if shape is None:
        return result
    if _typed(shape, dict, where, "an object").get("type") != "json_schema":
        raise wrong(f"{where}.type", "must be `json_schema`")
    schema = _typed(shape.get("schema"), dict, f"{where}.schema", "an object")
    named = {"name": "answer", "schema": schema}
    if _is_closed(schema):
        named["strict"] = True
    result["response_format"] = {"type": "json_schema", "json_schema": named}
    return result


def _is_closed(schema: Json) -> bool:
    """Whether each object has all of its properties and no others: only such a schema can be strict at OpenAI's."""
    waiting: list[Any] = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            properties = one.get("properties")
            if isinstance(properties, dict):
                required = one.get("required")
                named = {name for name in required if type(name) is str} if type(required) is list else set()
                all_there = properties.keys() <= named
                if one.get("additionalProperties") is not False or not all_there:
                    return False
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return True
