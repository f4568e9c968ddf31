"""Chat Completions messages as the turns of Anthropic's Messages API. Pure functions, no I/O.

The API wants the user first, roles in turns, and right after each use of a tool one result for it, before anything
else. Histories that other providers take are brought into that order so that a conversation can go on:

- A result goes to its call, wherever it stood. A call without a result gets one that says that there is none; a
  result without a call, or a second one, becomes words of the user.
- Ids of calls that are odd (`call:1`, empty, used twice) get another one, always the same for the same conversation.
- Arguments that are no object (cut short, null, a list) are kept under a name of ours.
- Blank messages are left out. Where nothing is left but the assistant's words, a word of the user goes before.
- The assistant's message at the end is a prefill, without white space at its end, where the model takes one; else
  the user asks to go on.

Sources: https://platform.claude.com/docs/en/api/messages, …/agents-and-tools/tool-use/handle-tool-calls, …/api/errors
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from typing import Any

import msgspec

from dub5.json_steps import TooCostly, decode_within
from dub5.providers.anthropic_content import blocks, cannot, each, text, thought, typed
from dub5.providers.protocol import Json

INSTRUCTIONS = ("system", "developer")

_THOUGHTS = frozenset({"thinking", "redacted_thinking"})
_SAID = frozenset({"text"}) | _THOUGHTS
_SHOWN = frozenset({"text", "image", "document", "search_result"})
_BEGIN, _GO_ON = "Begin.", "Continue."
_NO_RESULT = (
    "There is no result: the call was not carried out, or its result is not part of this conversation."
)
_NO_CALL = "The result of a call that is not part of this conversation:"
_RAW = "arguments"
_LONGEST = 64
"""Of ids and names of tools."""
_ID = re.compile(rf"[a-zA-Z0-9_-]{{1,{_LONGEST}}}")


class _Use(msgspec.Struct):
    """One call of a tool; `result` as soon as it is known."""

    block: Json
    result: list[Json] | None = None

    def answer(self) -> Json:
        head: Json = {"type": "tool_result", "tool_use_id": self.block["id"]}
        if self.result is None:
            return {**head, "content": [text(_NO_RESULT)], "is_error": True}
        return {**head, "content": self.result} if self.result else head


class _Said(msgspec.Struct):
    """What one message says, before the results have found their calls."""

    role: str
    content: list[Json]
    uses: list[_Use] = []


def turns(given: Json) -> list[Json]:
    """The turns of all messages but the instructions, the user's first; none where nobody says anything."""
    result: list[Json] = []
    for said in _conversation(given):
        _append(result, said.role, said.content + [use.block for use in said.uses])
        if said.uses:
            _append(result, "user", [use.answer() for use in said.uses])
    if result and result[0]["role"] == "assistant":
        result.insert(0, {"role": "user", "content": [text(_BEGIN)]})
    return result


def end(given_turns: list[Json], *, prefill: bool) -> None:
    """Bring the last turn into a form that the API takes, where it is the assistant's."""
    last = given_turns[-1]
    if last["role"] != "assistant":
        return
    if not prefill:
        given_turns.append({"role": "user", "content": [text(_GO_ON)]})
        return
    spoken = [block for block in last["content"] if block["type"] not in _THOUGHTS]
    last["content"] = [*spoken[:-1], {**spoken[-1], "text": spoken[-1]["text"].rstrip()}]


def thought_over(given_turns: list[Json]) -> bool:
    """Whether thinking with a budget may go on: where results of tools come last, what was thought before is there."""
    if all(block["type"] != "tool_result" for block in given_turns[-1]["content"]):
        return True
    index = len(given_turns) - 2
    while index >= 2 and all(block["type"] == "tool_result" for block in given_turns[index - 1]["content"]):
        index -= 2
    first: Json = given_turns[index]["content"][0]
    return first["type"] in _THOUGHTS


def tools_used(given_turns: list[Json]) -> list[str]:
    """The names of all tools that were called, each once."""
    used = (block for turn in given_turns for block in turn["content"] if block["type"] == "tool_use")
    return list(dict.fromkeys(block["name"] for block in used))


def _append(result: list[Json], role: str, content: list[Json]) -> None:
    if not content or all(block["type"] in _THOUGHTS for block in content):
        return  # the API refuses both, and nothing is said
    if result and result[-1]["role"] == role:
        result[-1]["content"].extend(content)
    else:
        result.append({"role": role, "content": list(content)})


def _conversation(given: Json) -> list[_Said]:
    """What each message says; results of tools are put to their calls."""
    said: list[_Said] = []
    waiting: dict[str, deque[_Use]] = {}
    ids = _Ids()
    for where, message in each(given, "messages"):
        match message.get("role"):
            case "user":
                said.append(_Said("user", blocks(message.get("content"), f"{where}.content", _SHOWN)))
            case "assistant":
                said.append(_assistant(message, where, ids, waiting))
            case "tool" | "function":
                said.append(_Said("user", _result(message, where, waiting)))
            case role if role in INSTRUCTIONS:
                pass
            case _:
                raise cannot(f"{where}.role", "the provider of this model does not know it")
    return said


def _assistant(message: Json, where: str, ids: _Ids, waiting: dict[str, deque[_Use]]) -> _Said:
    if isinstance(message.get("audio"), dict) and not message.get("content"):
        raise cannot(f"{where}.audio", "the provider of this model cannot hear it")
    content = blocks(message.get("content"), f"{where}.content", _SAID)
    refused = message.get("refusal")
    if isinstance(refused, str) and refused.strip():
        content.append(text(refused))
    kept = message.get("thinking_blocks")
    thoughts = [thought(block) for block in (kept if isinstance(kept, list) else ())]
    content = [block for block in thoughts if block is not None] + content
    content.sort(key=lambda block: block["type"] not in _THOUGHTS)
    uses = []
    opened: dict[str, deque[_Use]] = {}
    for written, name, arguments in _calls(message, where):
        block = {"type": "tool_use", "id": ids.of(written), "name": _name(name), "input": arguments}
        use = _Use(block)
        uses.append(use)
        opened.setdefault(written, deque()).append(use)
    waiting.update(opened)
    return _Said("assistant", content, uses)


def _calls(message: Json, where: str) -> list[tuple[str, str, Json]]:
    """Id, name and arguments of each call of a message, also in the shapes of custom tools and of old functions."""
    calls = []
    for at, call in each(message, "tool_calls", where):
        written = typed(call.get("id") or "", str, f"{at}.id", "a string")
        custom = call.get("custom")
        if call.get("type") == "custom" and isinstance(custom, dict):
            name = typed(custom.get("name"), str, f"{at}.custom.name", "a string")
            calls.append((written, name, {"input": custom.get("input")}))
            continue
        function = typed(call.get("function"), dict, f"{at}.function", "an object")
        name = typed(function.get("name"), str, f"{at}.function.name", "a string")
        calls.append((written, name, _arguments(function.get("arguments"))))
    old = message.get("function_call")
    if isinstance(old, dict):
        name = typed(old.get("name"), str, f"{where}.function_call.name", "a string")
        calls.append((_old_id(name), name, _arguments(old.get("arguments"))))
    return calls


def _arguments(written: Any) -> Json:
    """The object that the JSON text `written` says, or that it is; models write nothing for a tool without any."""
    if isinstance(written, str) and written.strip():
        try:
            decoded = decode_within(written.encode())
        except (TooCostly, ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
            decoded = written  # cut short, or far too much
    else:
        decoded = None if isinstance(written, str) else written
    if decoded is None:
        return {}
    return decoded if isinstance(decoded, dict) else {_RAW: decoded}


def _result(message: Json, where: str, waiting: dict[str, deque[_Use]]) -> list[Json]:
    """Put a result to its call; what it says as words of the user where no call waits for it."""
    content = blocks(message.get("content"), f"{where}.content", _SHOWN)
    if message.get("role") == "function":
        written = _old_id(typed(message.get("name") or "", str, f"{where}.name", "a string"))
    else:
        written = typed(message.get("tool_call_id") or "", str, f"{where}.tool_call_id", "a string")
    calls = waiting.get(written)
    if calls:
        calls.popleft().result = content
        return []
    return [text(_NO_CALL), *content] if content else []


def _old_id(name: str) -> str:
    return f"function_{name}"


def _name(written: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]", "_", written)[:_LONGEST] or "tool"


class _Ids:
    """Ids that the API takes: letters, digits, `_` and `-`, each used once in a conversation."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._times: dict[str, int] = {}

    def of(self, written: str) -> str:
        """`written` itself where it may be used, else one made of it and of how often it came before."""
        name = written
        while name in self._used or not _ID.fullmatch(name):
            times = self._times[written] = self._times.get(written, 0) + 1
            digest = hashlib.blake2b(f"{written}\n{times}".encode(), digest_size=8).hexdigest()
            name = f"{re.sub(r'[^a-zA-Z0-9_-]', '_', written[:40])}_{digest}"
        self._used.add(name)
        return name
