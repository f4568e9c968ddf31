"""Which requests may be answered from the cache, and which answers may be stored: pure rules.

Answers never stored: cut short, in error, filtered, or ended by a limit that the caller did not set.
"""

from __future__ import annotations

from typing import Any

from dub5.cache.freshness import Directives
from dub5.settings import CacheClass

Json = dict[str, Any]

_LIMITS = ("max_tokens", "max_completion_tokens")


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


def is_whole_answer(finish_reasons: list[Any], fields: Json) -> bool:
    """Whether every choice came to an end that asking again would not better.

    `length` is such an end only where the request itself set the limit.
    """
    good = {"stop", "tool_calls", "function_call"}
    if any(fields.get(name) is not None for name in _LIMITS):
        good.add("length")
    return bool(finish_reasons) and all(reason in good for reason in finish_reasons)
