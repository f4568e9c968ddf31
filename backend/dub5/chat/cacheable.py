"""Which requests may be answered from the cache, and which answers may be stored: pure rules.

Answers never stored: cut short, in error, filtered, refused, empty, malformed, or ended by a limit that the caller did
not set.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dub5.cache.freshness import Directives
from dub5.settings.model import CacheClass

Json = dict[str, Any]

_LIMITS = ("max_tokens", "max_completion_tokens")
_CALLING = frozenset({"tool_calls", "function_call"})
_GOOD_ENDS = _CALLING | {"stop"}


def why_not_cached(fields: Json, cache_class: CacheClass, asked: Directives) -> str | None:
    """The `detail` of `Cache-Status: …; fwd=bypass`, or None where the cache may be used."""
    if cache_class.cacheable == "never":
        return "class"
    if asked.no_store:
        return "no-store"
    if (fields.get("n") or 1) > 1:
        return "n"
    if (fields.get("temperature") or 0.0) > cache_class.max_temperature:
        return "temperature"
    if not cache_class.tool_results and any(_is_tool_result(message) for message in fields["messages"]):
        return "tool-results"
    return None


def _is_tool_result(message: Json) -> bool:
    return message["role"] in {"tool", "function"}


def is_whole_answer(completion: Json, fields: Json) -> bool:
    """Whether every choice says something, is well formed, and came to an end that asking again would not better.

    `length` is such an end only where the request itself set the limit, and the answer came up to it. Takes whatever a
    provider may have sent.
    """
    choices = completion.get("choices")
    if not isinstance(choices, list) or not choices:
        return False
    limited = _reached_own_limit(completion, fields)
    return all(isinstance(choice, dict) and _is_whole(choice, limited) for choice in choices)


def _is_whole(choice: Json, limited: bool) -> bool:
    reason, message = choice.get("finish_reason"), choice.get("message")
    if not isinstance(reason, str) or not isinstance(message, dict):
        return False
    cut = reason == "length"
    if not (reason in _GOOD_ENDS or (cut and limited)) or message.get("refusal"):
        return False
    calls, call = message.get("tool_calls"), message.get("function_call")
    if not (_are_proper_calls(calls, cut) and _is_proper_function(call, cut)):
        return False
    if reason in _CALLING and not (calls or call):
        return False
    content = message.get("content")
    return _is_content(content) and bool(calls or call or _says(content) or _other_media(message))


def _reached_own_limit(completion: Json, fields: Json) -> bool:
    """Whether the request set a limit, and nothing says that the answer is shorter than that."""
    limits = [limit for limit in map(fields.get, _LIMITS) if isinstance(limit, int)]
    usage = completion.get("usage")
    used = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return bool(limits) and not (type(used) is int and used < min(limits))


def _is_content(content: object) -> bool:
    """A text, none, or a list of parts."""
    if isinstance(content, list):
        return all(isinstance(part, dict) for part in content)
    return content is None or isinstance(content, str)


def _says(content: object) -> bool:
    if isinstance(content, list):
        return any(_says(part.get("text", "x")) for part in content)
    return isinstance(content, str) and bool(content.strip())


def _other_media(message: Json) -> bool:
    """What may stand in the place of a text."""
    return any(isinstance(message.get(name), (dict, list)) and message[name] for name in ("audio", "images"))


def _are_proper_calls(calls: object, cut: bool) -> bool:
    if calls is None:
        return True
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        return False
    ids = {call["id"] for call in calls if isinstance(call.get("id"), str) and call["id"]}
    return len(ids) == len(calls) and all(_is_proper_call(call, cut) for call in calls)


def _is_proper_call(call: Json, cut: bool) -> bool:
    custom = call.get("custom")
    if isinstance(custom, dict):
        return _is_name(custom.get("name")) and isinstance(custom.get("input"), str)
    return call.get("function") is not None and _is_proper_function(call["function"], cut)


def _is_proper_function(function: object, cut: bool) -> bool:
    """None is as good as one that has a name and arguments in JSON; where the answer was cut, they may be as well."""
    if function is None:
        return True
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        return False
    arguments = function.get("arguments")
    return isinstance(arguments, str) and (cut or _is_json(arguments))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip())


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
