"""A question that was asked in Messages, for providers that speak Chat Completions. Pure functions, no I/O.

Its body has what chat has no words for in the words of Messages (`api.messages_request`). Here each such thing is put
into other words, left out where it is a hint whose loss leaves an answer to the question, or refused, with
`Unsupported` so that another route is asked, where the answer would not be one: tools that Anthropic itself runs, files
of its own, citations. What is refused is named by its path in the request as it came.

- Thinking, its signed blocks, marks for the prompt cache, betas and hints about tools are left out.
- `output_config.effort` is `reasoning_effort` to models that are known to reason.
- Documents that are text, and search results, are text.
- Instructions, answers and results of tools in several texts become one: not every server takes parts there.
"""

from __future__ import annotations

from typing import Any

from dub5.errors import Unsupported
from dub5.providers.protocol import Call, Json
from dub5.providers.tool_results import pictures_after

BETA = "anthropic_beta"
"""Field of a body in which the names of the header `anthropic-beta` are kept: they may shape the answer."""

PROTOCOL = "messages"
"""As `Call.spelled` has it."""

_REFUSED = ("mcp_servers", "container", "inference_geo")
_HINTS = frozenset(
    {"thinking", "output_config", "cache_control", "context_management", "speed", "fallbacks", "diagnostics"}
    | {"user_profile_id", "workspace_id", BETA}
)
MEANT_OTHERWISE = _HINTS.union(_REFUSED) - {"cache_control"}
"""Fields that shape an answer, and that other providers get as they are in a chat, but not so in Messages."""

_BLOCKS = frozenset(
    {"text", "image", "document", "search_result", "tool_use", "tool_result", "thinking", "redacted_thinking"}
)
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "xhigh"}
_ELSEWHERE = "only routes to Anthropic take this"


def for_others(call: Call, *, reasons: bool) -> Json:
    """The body of `call` in chat's words, or Unsupported; `reasons`: whether its model takes `reasoning_effort`.

    A Response's body is in chat's words already; only its pictures have to be moved.
    """
    if call.spelled is None:
        return call.body
    if call.spelled[0] != PROTOCOL:
        return {**call.body, "messages": list(pictures_after(call.body["messages"]))}
    refuse(call.spelled[1])
    body = {name: value for name, value in call.body.items() if name not in _HINTS}
    body["messages"] = list(map(_plain, pictures_after(map(_message, call.body["messages"]))))
    if "tools" in body:
        body["tools"] = [_tool(tool) for tool in body["tools"]]
    config = call.body.get("output_config")
    if reasons and isinstance(config, dict) and config.get("effort") in _EFFORTS:
        body.setdefault("reasoning_effort", _EFFORTS[config["effort"]])
    return body


def refuse(asked: Json) -> None:
    """Unsupported where a request to Messages wants what only Anthropic can do."""
    for name in _REFUSED:
        if asked.get(name):
            raise _unsupported(name)
    for index, tool in enumerate(asked.get("tools") or ()):
        if tool.get("type") not in (None, "custom"):
            raise _unsupported(f"tools[{index}].type")
    for index, message in enumerate(asked["messages"]):
        _refuse_blocks(message["content"], f"messages[{index}].content")


def _refuse_blocks(content: Any, where: str) -> None:
    for index, block in enumerate(content if isinstance(content, list) else ()):
        at, kind = f"{where}[{index}]", block["type"]
        if kind not in _BLOCKS:
            raise _unsupported(f"{at}.type")
        if kind == "tool_result":
            _refuse_blocks(block.get("content"), f"{at}.content")
        elif kind in ("image", "document") and _text_of(block) is None and not _is_data(block):
            raise _unsupported(f"{at}.source")
        citations = block.get("citations")
        if isinstance(citations, dict) and citations.get("enabled"):
            raise _unsupported(f"{at}.citations")


def _is_data(block: Json) -> bool:
    source = block["source"]
    if source.get("type") == "base64":
        return isinstance(source.get("data"), str)
    return bool(block["type"] == "image" and source.get("type") == "url")


def _text_of(block: Json) -> str | None:
    """A document of text as one; None where it is another."""
    match block:
        case {"type": "document", "source": {"type": "text", "data": str(words)}}:
            said = words
        case {"type": "document", "source": {"type": "content", "content": str(words)}}:
            said = words
        case {"type": "document", "source": {"type": "content", "content": list(parts)}}:
            if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
                return None
            said = "\n".join(part["text"] for part in parts)
        case {"type": "search_result", "content": list(parts)}:
            texts = [
                part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)
            ]
            said = "\n".join([str(block.get("source", "")), *texts])
        case _:
            return None
    heads = [block.get("title"), block.get("context")]
    return "\n".join([*(head for head in heads if isinstance(head, str) and head), said])


def _unsupported(where: str) -> Unsupported:
    return Unsupported(f"`{where}`: {_ELSEWHERE}.", param=where)


def _message(message: Json) -> Json:
    result = {name: value for name, value in message.items() if name not in ("thinking_blocks", "is_error")}
    content = message.get("content")
    if isinstance(content, list):
        result["content"] = [_part(part) for part in content]
    return result


def _plain(message: Json) -> Json:
    content = message.get("content")
    if message["role"] == "user" or not isinstance(content, list):
        return message
    return {**message, "content": "\n".join(str(part.get("text")) for part in content)}


def _part(part: Json) -> Json:
    match part:
        case {"type": "image", "source": {"type": "base64", "media_type": str(kind), "data": str(data)}}:
            return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
        case {"type": "image", "source": {"type": "url", "url": str(url)}}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "document", "source": {"type": "base64", "data": str(data)}}:
            title = part.get("title")
            named = title if isinstance(title, str) and title else "document.pdf"
            file = {"filename": named, "file_data": f"data:application/pdf;base64,{data}"}
            return {"type": "file", "file": file}
    said = _text_of(part)
    if said is not None:
        return {"type": "text", "text": said}
    return {name: value for name, value in part.items() if name != "cache_control"}


def _tool(tool: Json) -> Json:
    return {"type": "function", "function": tool["function"]}
