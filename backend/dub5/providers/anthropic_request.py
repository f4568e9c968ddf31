"""OpenAI's Chat Completions body as a body for Anthropic's Messages API. Pure functions, no I/O.

What has no word there, and what is done about it:

- System and developer messages become `system`, wherever they stood. Names of speakers are left out.
- `response_format`: a `json_schema` becomes `output_config.format`, which the provider enforces; for
  `json_object`, which it does not know, a sentence at the end of `system` asks for it.
- `user` or `safety_identifier` becomes `metadata.user_id`. OpenAI's own `metadata` is not for the provider.
- `n` above 1, `logprobs`, spoken answers and what else the answer would lack are `Unsupported`: another route may
  be able to.
- Hints whose loss leaves an answer to the question (penalties, `seed`, `reasoning_effort`, …) are left out,
  as Anthropic's own OpenAI-compatible endpoint does, so that one model may have routes to both.
- `thinking_blocks` of an assistant's message, as our answers have them, go back as they came: the provider
  demands them between a tool's call and its result.
- Whatever else we do not know (`thinking`, `top_k`, `cache_control` of a part, blocks of Anthropic's own) goes
  through untouched, and the provider says what it thinks of it.

Sources: https://platform.claude.com/docs/en/api/messages, …/api/openai-sdk, …/build-with-claude/structured-outputs
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from dub5.errors import InvalidRequest, Unsupported
from dub5.providers.protocol import Json

_TEXT_ONLY = ["text"]
_INSTRUCTIONS = ("system", "developer")

_TRANSLATED = frozenset(
    {"messages", "tools", "tool_choice", "parallel_tool_calls", "stop", "max_tokens", "max_completion_tokens"}
    | {"temperature", "response_format", "user", "safety_identifier", "n", "logprobs", "top_logprobs"}
    | {"modalities", "audio", "model", "stream", "stream_options"}
)

_LEFT_OUT = frozenset(
    {"presence_penalty", "frequency_penalty", "logit_bias", "seed", "metadata", "store", "service_tier"}
    | {"prediction", "reasoning_effort", "verbosity", "prompt_cache_key", "prompt_cache_retention"}
)

_JSON_ONLY = (
    "Answer with one valid JSON object and nothing else: no fence around it, no words before or after it."
)


def request(body: Json, *, model: str, max_tokens: int, stream: bool, stable: int = 0) -> Json:
    """A Messages body for a Chat Completions body; `max_tokens` where it sets no limit of its own.

    The end of the first `stable` messages is marked for the provider's prompt cache.

    Unsupported where the body asks for what this API cannot do, InvalidRequest where it is malformed; `param` names the
    field.
    """
    given = {name: value for name, value in body.items() if value is not None}
    _refuse_impossible(given)
    limit = given.get("max_completion_tokens", given.get("max_tokens", max_tokens))
    result: Json = {"model": model, "max_tokens": limit}
    result |= {name: value for name, value in given.items() if name not in _TRANSLATED | _LEFT_OUT}
    system = _system(given, stable)
    if system:
        result["system"] = system
    result["messages"] = _messages(given)
    result |= _sampling(given) | _tools(given) | _output_format(given)
    user = given.get("safety_identifier", given.get("user"))
    if user is not None:
        result["metadata"] = {"user_id": user}
    if stream:
        result["stream"] = True
    return result


def _refuse_impossible(given: Json) -> None:
    asked = {
        "n": given.get("n", 1) != 1,
        "logprobs": bool(given.get("logprobs")),
        "top_logprobs": bool(given.get("top_logprobs")),
        "modalities": given.get("modalities", _TEXT_ONLY) != _TEXT_ONLY,
        "audio": "audio" in given,
    }
    for name, impossible in asked.items():
        if impossible:
            raise Unsupported(
                f"`{name}`: the provider of this model cannot do that; leave it out.", param=name
            )


def _sampling(given: Json) -> Json:
    result: Json = {}
    if "temperature" in given:
        temperature = _typed(given["temperature"], (int, float), "temperature", "a number")
        result["temperature"] = min(temperature, 1)  # OpenAI's scale ends at 2
    if "stop" in given:
        stop = given["stop"]
        result["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    return result


def _output_format(given: Json) -> Json:
    asked = given.get("response_format", {})
    if not isinstance(asked, dict) or asked.get("type") != "json_schema":
        return {}
    wrapper = _typed(asked.get("json_schema"), dict, "response_format.json_schema", "an object")
    schema = _typed(wrapper.get("schema"), dict, "response_format.json_schema.schema", "an object")
    own = given.get("output_config")
    return {
        "output_config": {
            **(own if isinstance(own, dict) else {}),
            "format": {"type": "json_schema", "schema": schema},
        }
    }


def _system(given: Json, stable: int) -> list[Json]:
    """Text blocks of all system and developer messages, in their order; the last stable one ends a cached prefix.

    https://platform.claude.com/docs/en/build-with-claude/prompt-caching
    """
    blocks: list[Json] = []
    for index, (where, message) in enumerate(_each(given, "messages")):
        if message.get("role") in _INSTRUCTIONS:
            blocks.extend(_blocks(message.get("content"), f"{where}.content"))
        if index + 1 == stable and blocks:
            blocks[-1] = {**blocks[-1], "cache_control": {"type": "ephemeral"}}
    asked = given.get("response_format")
    if isinstance(asked, dict) and asked.get("type") == "json_object":
        blocks.append(_text(_JSON_ONLY))
    return blocks


def _messages(given: Json) -> list[Json]:
    """Turns of user and assistant; neighbours of the same role are merged, as the API demands."""
    turns: list[Json] = []
    for where, message in _each(given, "messages"):
        role = message.get("role")
        if role in _INSTRUCTIONS:
            continue
        if not isinstance(role, str) or role not in _TURNS:
            raise Unsupported(
                f"`{where}.role`: the provider of this model does not know it.", param=f"{where}.role"
            )
        speaker, translate = _TURNS[role]
        blocks = translate(message, where)
        if turns and turns[-1]["role"] == speaker:
            turns[-1]["content"].extend(blocks)
        elif blocks:  # an assistant's empty message: the API refuses it, and it says nothing
            turns.append({"role": speaker, "content": blocks})
    if not turns:
        raise Unsupported(
            "`messages`: the provider of this model needs a message of the user.", param="messages"
        )
    return turns


def _user(message: Json, where: str) -> list[Json]:
    blocks = _blocks(message.get("content"), f"{where}.content")
    if not blocks:
        raise InvalidRequest(f"`{where}.content`: must not be empty.", param=f"{where}.content")
    return blocks


def _assistant(message: Json, where: str) -> list[Json]:
    content = message.get("content")
    said = [] if content is None else _blocks(content, f"{where}.content")
    refused = message.get("refusal")
    if isinstance(refused, str) and refused:
        said.append(_text(refused))
    thought = message.get("thinking_blocks")
    return [
        *(thought if isinstance(thought, list) else ()),
        *said,
        *(_tool_use(call, at) for at, call in _each(message, "tool_calls", where)),
    ]


def _tool_use(call: Json, where: str) -> Json:
    function = _typed(call.get("function"), dict, f"{where}.function", "an object")
    return {
        "type": "tool_use",
        "id": _typed(call.get("id"), str, f"{where}.id", "a string"),
        "name": _typed(function.get("name"), str, f"{where}.function.name", "a string"),
        "input": _arguments(function.get("arguments", ""), f"{where}.function.arguments"),
    }


def _arguments(written: Any, where: str) -> Json:
    """The object that the JSON text `written` says; models write nothing at all for a tool without parameters."""
    text = _typed(written, str, where, "a string")
    try:
        return msgspec.json.decode(text or "{}", type=Json)
    except (msgspec.MsgspecError, RecursionError):
        raise InvalidRequest(f"`{where}`: must be the text of a JSON object.", param=where) from None


def _tool_result(message: Json, where: str) -> list[Json]:
    name = f"{where}.tool_call_id"
    block: Json = {
        "type": "tool_result",
        "tool_use_id": _typed(message.get("tool_call_id"), str, name, "a string"),
    }
    content = _blocks(message.get("content"), f"{where}.content")
    return [{**block, "content": content} if content else block]


_TURNS: dict[str, tuple[str, Callable[[Json, str], list[Json]]]] = {
    "user": ("user", _user),
    "assistant": ("assistant", _assistant),
    "tool": ("user", _tool_result),
}


def _blocks(content: Any, where: str) -> list[Json]:
    """A message's content as blocks, without the empty texts that the API refuses."""
    if isinstance(content, str):
        return [_text(content)] if content else []
    parts = _typed(content, list, where, "a string or a list of parts")
    named = ((f"{where}[{index}]", part) for index, part in enumerate(parts))
    blocks = (_block(_typed(part, dict, at, "an object"), at) for at, part in named)
    return [block for block in blocks if block.get("type") != "text" or block["text"]]


def _block(part: Json, where: str) -> Json:
    match part.get("type"):
        case "text":
            return {**part, "text": _typed(part.get("text"), str, f"{where}.text", "a string")}
        case "refusal":
            return _text(_typed(part.get("refusal"), str, f"{where}.refusal", "a string"))
        case "image_url":
            image = _typed(part.get("image_url"), dict, f"{where}.image_url", "an object")
            others = {name: value for name, value in part.items() if name != "image_url"}
            return {**others, "type": "image", "source": _image(image.get("url"), f"{where}.image_url.url")}
        case "input_audio" | "file":
            raise Unsupported(
                f"`{where}.type`: the provider of this model cannot read it.", param=f"{where}.type"
            )
    return part


def _image(url: Any, where: str) -> Json:
    written = _typed(url, str, where, "a string")
    if re.match(r"https?://", written, re.IGNORECASE):
        return {"type": "url", "url": written}
    data = re.match(r"data:([^;,]+)(?:;[^;,]+)*;base64,", written, re.IGNORECASE)
    if data is None:
        raise Unsupported(f"`{where}`: must be an http(s) URL, or a data: URL in base64.", param=where)
    return {"type": "base64", "media_type": data[1].lower(), "data": written[data.end() :]}


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _tools(given: Json) -> Json:
    tools = [_tool(tool, where) for where, tool in _each(given, "tools")]
    choice = _tool_choice(given.get("tool_choice"))
    if not tools:
        if choice is not None and choice["type"] in {"any", "tool"}:
            raise InvalidRequest("`tool_choice`: only allowed where there are `tools`.", param="tool_choice")
        return {}
    if given.get("parallel_tool_calls") is False:
        choice = choice or {"type": "auto"}
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
    return {"tools": tools} if choice is None else {"tools": tools, "tool_choice": choice}


def _tool(tool: Json, where: str) -> Json:
    kind = tool.get("type")
    if kind == "custom":
        raise Unsupported(
            f"`{where}.type`: the provider of this model does not know it.", param=f"{where}.type"
        )
    if kind != "function":
        return tool
    function = _typed(tool.get("function"), dict, f"{where}.function", "an object")
    result = {name: value for name, value in tool.items() if name not in {"type", "function"}}
    result["name"] = _typed(function.get("name"), str, f"{where}.function.name", "a string")
    result |= {name: function[name] for name in ("description", "strict") if function.get(name) is not None}
    result["input_schema"] = function.get("parameters") or {"type": "object", "properties": {}}
    return result


def _tool_choice(choice: Any) -> Json | None:
    match choice:
        case None:
            return None
        case "auto" | "none":
            return {"type": choice}
        case "required":
            return {"type": "any"}
        case {"type": "function", "function": {"name": str(name)}}:
            return {"type": "tool", "name": name}
    raise Unsupported(
        '`tool_choice`: must be "auto", "none", "required", or name a function.', param="tool_choice"
    )


def _each(holder: Json, name: str, where: str = "") -> Iterator[tuple[str, Json]]:
    """The objects of the list `holder[name]`, each with its path; none where it is absent."""
    path = f"{where}.{name}" if where else name
    listed = holder.get(name)
    for index, item in enumerate([] if listed is None else _typed(listed, list, path, "a list")):
        yield f"{path}[{index}]", _typed(item, dict, f"{path}[{index}]", "an object")


def _typed(value: Any, kind: type | tuple[type, ...], where: str, name: str) -> Any:
    """`value` if it is of that kind; bool is not a number."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidRequest(f"`{where}`: must be {name}.", param=where)
    return value
