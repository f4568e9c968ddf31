"""A Responses request as the Chat Completions request that asks the same. Pure functions, no I/O.

The chat request is the plainest that means it, so that a question has one key in the cache however it was asked: a text
alone is a string and no list of parts, `instructions` are the first system message, what asks for nothing is left out.

- `instructions`, and items of the roles `system` and `developer`, become system messages: every provider knows these.
- What a model said in one turn (a message, calls of functions) is one message of the assistant, its calls after its
  words, as Chat Completions wants it before their results.
- A reasoning item goes into the message that it led to: what a provider signed, from an `encrypted_content` of ours,
  and its words where calls follow, for which providers that think between calls want them back. The
  `encrypted_content` of others nobody here can read: such an item is passed over.
- `max_output_tokens` is `max_tokens`, `text.format` is `response_format`, `reasoning.effort` is `reasoning_effort`.
- Fields that we do not know go on as they are, as in a chat request: a provider may know them.
- What belongs to the client and not to the question (`metadata`, `store`) is not for the provider.

What only a provider that speaks Responses could do (its own tools, `background`, `conversation`, templates) is refused
with the path of the field in the request as it was asked.

Source: https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType, NoneType
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dub5.chat.request import invalid
from dub5.errors import InvalidRequest, UnknownResponse
from dub5.json_steps import TooCostly, decode_within
from dub5.providers.lenient_json import mended
from dub5.providers.protocol import Json
from dub5.settings.model import MOST_TOKENS

_MOVED = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "logprobs": "top_logprobs",
    "functions": "tools",
    "function_call": "tool_choice",
}
"""Fields of Chat Completions, and what says the same here."""

_IMPOSSIBLE = {
    "background": "answers are not made in the background",
    "conversation": "conversations are not kept; send the items themselves",
    "prompt": "templates of prompts are not kept; send what they say",
    "context_management": "a conversation is not shortened; send what counts of it",
    "moderation": "answers are not moderated here",
}

_OTHERWISE = frozenset(
    {"model", "input", "instructions", "previous_response_id", "store", "metadata", "include"}
    | {"client_metadata"}  # Codex: its session's ids
    | {"stream_options", "max_output_tokens", "max_tool_calls", "text", "reasoning", "tools", "tool_choice"}
    | {"parallel_tool_calls", "top_logprobs", "truncation", "service_tier", "background_options", "n"}
    | _MOVED.keys()
    | _IMPOSSIBLE.keys()
)
"""Fields that a chat request has in other words, or not at all."""

ENCRYPTED, LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"
"""What `include` may ask for."""

_Includable = Literal[
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]

_NONE: Mapping[str, Json] = MappingProxyType({})
_MOST_SHOWN = 60
_SIGNED = "dub5-1."
"""Before what `sealed` makes."""

_NAMES = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    NoneType: "null",
    list: "array",
    dict: "object",
}


class _TextFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class _TextOptions(msgspec.Struct):
    format: _TextFormat | None = None
    verbosity: str | None = None


class _ReasoningOptions(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    mode: str | None = None


class _EventOptions(msgspec.Struct):
    include_obfuscation: bool | None = None


class ResponsesRequest(msgspec.Struct):
    """The fields whose type and range we vouch for. What is in `input` and `tools` is looked at one by one."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | Annotated[list[Any], Meta(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: _EventOptions | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    background: bool | None = None
    include: list[_Includable] | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=MOST_TOKENS)] | None = None
    max_tool_calls: int | None = None
    parallel_tool_calls: bool | None = None
    text: _TextOptions | None = None
    reasoning: _ReasoningOptions | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def includes(self, what: str) -> bool:
        return self.include is not None and what in self.include


_TELLING = _MOVED.keys() | _IMPOSSIBLE.keys() | {"n"}


class FieldOfChats(InvalidRequest):
    """The request itself has a field as Chat Completions name it: it keeps that name in what is said."""


def judged(body: Json) -> ResponsesRequest:
    """InvalidRequest names what is wrong by its path, or cannot be done here."""
    if not _TELLING.isdisjoint(body):
        _refuse_impossible(body)
    try:
        return msgspec.convert(body, ResponsesRequest)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None


def _refuse_impossible(body: Json) -> None:
    for name, other in _MOVED.items():
        if body.get(name) is not None:
            raise FieldOfChats(f"`{name}` is a field of Chat Completions; here it is `{other}`.", param=name)
    for name, why in _IMPOSSIBLE.items():
        if body.get(name):
            raise cannot(name, why)
    if body.get("n", 1) not in (1, None):
        raise cannot("n", "there is one answer; leave it out")


def chat_request(body: Json, *, before: Iterable[Json] = (), known: Mapping[str, Json] = _NONE) -> Json:
    """The body of a chat request for one of Responses; `before` are the items of the conversation so far, `known` by
    their ids those that it refers to.

    In time and memory in proportion to the body; texts are not copied.
    """
    asked = judged(body)
    conversation = _Conversation(known)
    if asked.instructions:
        conversation.say("system", asked.instructions)
    for item in before:
        conversation.add(item, "previous_response_id")
    if isinstance(asked.input, str):
        conversation.say("user", asked.input)
    else:
        for at, item in each(asked.input, "input"):
            conversation.add(item, at)
    conversation.end_turn()
    if not conversation.messages:
        raise InvalidRequest("Nothing is asked: `input`.", param="input")
    result: Json = {"model": asked.model, "messages": conversation.messages}
    for name, value in body.items():
        if value is not None and name not in _OTHERWISE:
            result[name] = value
    _limit(asked, result)
    _shape(asked, result)
    if asked.tools or asked.tool_choice is not None:
        _tools(asked, result)
    return result


def _limit(asked: ResponsesRequest, result: Json) -> None:
    if asked.max_output_tokens is not None:
        result["max_tokens"] = asked.max_output_tokens
    if asked.service_tier not in (None, "auto"):
        result["service_tier"] = asked.service_tier
    if asked.reasoning is not None:
        if asked.reasoning.mode not in (None, "standard"):
            raise cannot("reasoning.mode", "only `standard` is there")
        if asked.reasoning.effort is not None:
            result["reasoning_effort"] = asked.reasoning.effort


def _shape(asked: ResponsesRequest, result: Json) -> None:
    """What the answer has to be like."""
    if asked.top_logprobs or asked.includes(LOGPROBS):
        result["logprobs"] = True
        if asked.top_logprobs:
            result["top_logprobs"] = asked.top_logprobs
    if asked.text is None:
        return
    if asked.text.verbosity is not None:
        result["verbosity"] = asked.text.verbosity
    form = asked.text.format
    if form is None or form.type == "text":
        return
    result["response_format"] = {"type": form.type}
    if form.type == "json_schema":
        if form.name is None or form.schema is None:
            missing = "name" if form.name is None else "schema"
            raise invalid(f"Object missing required field `{missing}` - at `$.text.format`")
        schema: Json = {"name": form.name, "schema": form.schema}
        if form.strict:
            schema["strict"] = True
        if form.description is not None:
            schema["description"] = form.description
        result["response_format"]["json_schema"] = schema


# --- Tools ---


def _tools(asked: ResponsesRequest, result: Json) -> None:
    functions = [
        function for at, tool in each(asked.tools or [], "tools") for function in _functions(tool, at)
    ]
    choice = asked.tool_choice
    if isinstance(choice, dict):
        functions, choice = _chosen(choice, functions)
    elif choice not in (None, "none", "auto", "required"):
        raise InvalidRequest("Invalid enum value: `tool_choice`.", param="tool_choice")
    if not functions:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("There are no tools to choose from: `tool_choice`.", param="tool_choice")
        return
    result["tools"] = functions
    if choice not in (None, "auto"):
        result["tool_choice"] = choice
    if asked.parallel_tool_calls is False:
        result["parallel_tool_calls"] = False


def in_namespace(namespace: str, name: str) -> str:
    """The name under which a chat has a function of a namespace."""
    return f"{namespace}__{name}"


def namespaced(tools: Iterable[Json]) -> dict[str, tuple[str, str]]:
    """By its name in a chat, the namespace and the name of each function in one; of `tools` that were judged."""
    return {
        in_namespace(tool["name"], function["name"]): (tool["name"], function["name"])
        for tool in tools
        if tool["type"] == "namespace"
        for function in tool["tools"]
    }


def _functions(tool: Json, at: str) -> list[Json]:
    """A tool, or those of a namespace."""
    if tool.get("type") != "namespace":
        return [_function(tool, at)]
    namespace = typed(tool.get("name"), str, f"{at}.name")
    about = typed(tool.get("description") or "", str, f"{at}.description")
    made = []
    for where, inner in each(typed(tool.get("tools"), list, f"{at}.tools"), f"{at}.tools"):
        one = _function(inner, where)
        function = one["function"]
        function["name"] = in_namespace(namespace, function["name"])
        if about:
            function["description"] = "\n".join(filter(None, (about, function.get("description"))))
        made.append(one)
    return made


def _function(tool: Json, at: str) -> Json:
    kind = tool.get("type")
    if kind != "function":
        shown = typed(kind, str, f"{at}.type")[:_MOST_SHOWN]
        raise cannot(f"{at}.type", f"no provider here has tools of the type {shown}; functions there are")
    function: Json = {"name": typed(tool.get("name"), str, f"{at}.name")}
    for name, wanted in (("description", str), ("parameters", dict), ("strict", bool)):
        if tool.get(name) is not None:
            function[name] = typed(tool[name], wanted, f"{at}.{name}")
    if not function.get("strict"):
        function.pop("strict", None)  # what a chat request means without it, too
    return {"type": "function", "function": function}


def _chosen(choice: Json, functions: list[Json]) -> tuple[list[Json], str | Json]:
    """The functions that may be called, and the choice among them in the words of Chat Completions."""
    names = {tool["function"]["name"] for tool in functions}
    match choice.get("type"):
        case "function":
            name = typed(choice.get("name"), str, "tool_choice.name")
            if name not in names:
                raise InvalidRequest("There is no such tool: `tool_choice.name`.", param="tool_choice.name")
            return functions, {"type": "function", "function": {"name": name}}
        case "allowed_tools":
            mode = choice.get("mode", "auto")
            if mode not in ("auto", "required"):
                raise InvalidRequest("Invalid enum value: `tool_choice.mode`.", param="tool_choice.mode")
            listed = typed(choice.get("tools"), list, "tool_choice.tools")
            allowed = {_allowed(tool, at, names) for at, tool in each(listed, "tool_choice.tools")}
            return [tool for tool in functions if tool["function"]["name"] in allowed], mode
    typed(choice.get("type"), str, "tool_choice.type")
    raise cannot("tool_choice.type", "a function can be chosen, or functions allowed")


def _allowed(tool: Json, at: str, names: set[str]) -> str:
    name: str = typed(tool.get("name"), str, f"{at}.name")
    if name not in names:
        raise InvalidRequest(f"There is no such tool: `{at}.name`.", param=f"{at}.name")
    return name


# --- The conversation ---


class _Conversation:
    """The messages so far. `_open` is the assistant's turn that has not been answered."""

    def __init__(self, known: Mapping[str, Json]) -> None:
        self.messages: list[Json] = []
        self._known = known
        self._taken: set[str] = set()
        self._open: Json | None = None
        self._signed: list[Json] = []
        self._thought: list[str] = []

    def say(self, role: str, content: str | list[Json]) -> None:
        self.end_turn()
        self.messages.append({"role": role, "content": content})

    def add(self, item: Json, at: str) -> None:
        """One item, of which `at` is the path."""
        kind = item.get("type")
        if kind is None and "role" in item:
            kind = "message"
        if kind == "message":
            self._message(item, at)
        elif kind == "function_call":
            self._call(item, at)
        elif kind == "function_call_output":
            self._result(item, at)
        elif kind == "reasoning":
            self._reasoning(item, at)
        elif kind == "item_reference":
            self._referred(item, at)
        else:
            shown = typed(kind, str, f"{at}.type")[:_MOST_SHOWN]
            raise cannot(f"{at}.type", f"no provider here knows items of the type {shown}")

    def _referred(self, item: Json, at: str) -> None:
        name = typed(item.get("id"), str, f"{at}.id")
        if name in self._taken:  # each may have a megabyte
            raise InvalidRequest(f"The item is there twice: `{at}.id`.", param=f"{at}.id")
        if name not in self._known:
            raise UnknownResponse(name, param=f"{at}.id")
        self._taken.add(name)
        self.add(self._known[name], at)

    def _message(self, item: Json, at: str) -> None:
        role = item.get("role")
        if role not in ("user", "assistant", "system", "developer"):
            raise InvalidRequest(f"Invalid enum value: `{at}.role`.", param=f"{at}.role")
        content = _content(item.get("content"), f"{at}.content")
        if role != "assistant":
            self.say("system" if role == "developer" else role, content)
        elif self._open is not None and "tool_calls" in self._open:
            _append(self._open, content)
        else:
            self._open = {"role": "assistant", "content": content}
            self.messages.append(self._open)
            self._remember(self._open)

    def _call(self, item: Json, at: str) -> None:
        function = {name: typed(item.get(name), str, f"{at}.{name}") for name in ("name", "arguments")}
        if item.get("namespace") is not None:
            namespace = typed(item["namespace"], str, f"{at}.namespace")
            function["name"] = in_namespace(namespace, function["name"])
        call_id = typed(item.get("call_id"), str, f"{at}.call_id")
        if self._open is None:
            self._open = {"role": "assistant", "content": None}
            self.messages.append(self._open)
        self._remember(self._open)
        self._open.setdefault("tool_calls", []).append(
            {"id": call_id, "type": "function", "function": function}
        )

    def _result(self, item: Json, at: str) -> None:
        call_id = typed(item.get("call_id"), str, f"{at}.call_id")
        content = _content(item.get("output"), f"{at}.output")
        self.end_turn()
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def _reasoning(self, item: Json, at: str) -> None:
        sealed_ = item.get("encrypted_content")
        if sealed_ is not None:
            self._signed += _opened(typed(sealed_, str, f"{at}.encrypted_content"), f"{at}.encrypted_content")
        for name in ("content", "summary"):
            parts = typed(item.get(name) or [], list, f"{at}.{name}")
            texts = [
                typed(part.get("text"), str, f"{where}.text") for where, part in each(parts, f"{at}.{name}")
            ]
            if texts:
                self._thought += texts
                break

    def _remember(self, message: Json) -> None:
        """What was signed before a message goes with it."""
        if self._signed:
            message.setdefault("thinking_blocks", []).extend(self._signed)
            self._signed = []

    def end_turn(self) -> None:
        if self._open is not None and self._thought and "tool_calls" in self._open:
            self._open["reasoning_content"] = "".join(self._thought)
        self._open, self._signed, self._thought = None, [], []


def _append(message: Json, more: str | list[Json]) -> None:
    held = message["content"]
    if not held:
        message["content"] = more
        return
    if isinstance(held, str):
        held = message["content"] = [{"type": "text", "text": held}]
    held += [{"type": "text", "text": more}] if isinstance(more, str) else more


def _content(content: Any, at: str) -> str | list[Json]:
    """A text alone as a string."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise expected("str | array", content, at)
    parts = [_part(part, where) for where, part in each(content, at)]
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        text: str = parts[0]["text"]
        return text
    return parts


def _part(part: Json, at: str) -> Json:
    kind = part.get("type")
    match kind:
        case "input_text" | "output_text" | "text":
            made: Json = {"type": "text", "text": typed(part.get("text"), str, f"{at}.text")}
        case "refusal":
            made = {"type": "refusal", "refusal": typed(part.get("refusal"), str, f"{at}.refusal")}
        case "input_image":
            made = {"type": "image_url", "image_url": _image(part, at)}
        case "input_file":
            made = {"type": "file", "file": _file(part, at)}
        case "input_audio":
            audio = typed(part.get("input_audio"), dict, f"{at}.input_audio")
            made = {"type": "input_audio", "input_audio": audio}
        case _:
            shown = typed(kind, str, f"{at}.type")[:_MOST_SHOWN]
            raise cannot(f"{at}.type", f"no provider here reads parts of the type {shown}")
    if part.get("prompt_cache_breakpoint") is not None:
        made["prompt_cache_breakpoint"] = part["prompt_cache_breakpoint"]
    return made


def _image(part: Json, at: str) -> Json:
    if part.get("image_url") is None and part.get("file_id") is not None:
        raise cannot(f"{at}.file_id", "files are not kept; send the picture as `image_url`")
    image = {"url": typed(part.get("image_url"), str, f"{at}.image_url")}
    detail = part.get("detail")
    if detail not in (None, "auto"):
        image["detail"] = typed(detail, str, f"{at}.detail")
    return image


def _file(part: Json, at: str) -> Json:
    for name in ("file_id", "file_url"):
        if part.get(name) is not None:
            raise cannot(f"{at}.{name}", "files are neither kept nor fetched; send `file_data`")
    file = {"file_data": typed(part.get("file_data"), str, f"{at}.file_data")}
    if part.get("filename") is not None:
        file["filename"] = typed(part["filename"], str, f"{at}.filename")
    return file


# --- What a provider signed ---


class _Block(msgspec.Struct, omit_defaults=True):
    type: Literal["thinking", "redacted_thinking"]
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


def sealed(blocks: list[Any]) -> str:
    """Blocks of thinking as the `encrypted_content` of an item, which clients hand back and need not read."""
    try:
        written = msgspec.json.encode(blocks)
    except UnicodeEncodeError:  # half of a character is replaced, as it is in the answer that is stored
        written = msgspec.json.encode(mended(blocks))
    return _SIGNED + base64.urlsafe_b64encode(written).decode()


def _opened(written: str, at: str) -> list[Json]:
    """The inverse of `sealed`; nothing of what another service has written."""
    if not written.startswith(_SIGNED):
        return []
    try:
        blocks = decode_within(base64.urlsafe_b64decode(written[len(_SIGNED) :]))
        known = msgspec.convert(blocks, list[_Block])
    except (binascii.Error, ValueError, RecursionError, TooCostly):
        raise InvalidRequest(f"Not what was given out: `{at}`.", param=at) from None
    made: list[Json] = msgspec.to_builtins(known)
    return made


# --- What is common ---


def cannot(at: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"`{at}`: {why}.", param=at)


def expected(wanted: str, value: object, at: str) -> InvalidRequest:
    if value is None:
        holder, _, name = at.rpartition(".")
        return invalid(f"Object missing required field `{name}` - at `$.{holder}`")
    return InvalidRequest(f"Expected `{wanted}`, got `{_NAMES.get(type(value), '?')}`: `{at}`.", param=at)


def typed(value: Any, wanted: type, at: str) -> Any:
    """`value`, where it is of this type."""
    if type(value) is not wanted:
        raise expected(_NAMES[wanted], value, at)
    return value


def each(listed: list[Any], at: str) -> Iterator[tuple[str, Json]]:
    """The objects of a list, each with its path."""
    for index, item in enumerate(listed):
        where = f"{at}[{index}]"
        yield where, typed(item, dict, where)
