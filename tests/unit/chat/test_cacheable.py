"""Which requests may use the cache, and which answers may be stored."""

from __future__ import annotations

from typing import Any

import pytest

from dub5.cache.freshness import Directives
from dub5.chat.cacheable import is_whole_answer, why_not_cached
from dub5.settings import CacheClass

USER = {"role": "user", "content": "x"}
TOOL = {"role": "tool", "tool_call_id": "t", "content": "42"}


@pytest.mark.parametrize(
    ("fields", "cache_class", "asked", "reason"),
    [
        ({}, CacheClass(), Directives(), None),
        ({"temperature": None, "n": None}, CacheClass(), Directives(), None),
        ({"temperature": 1.0, "n": 1}, CacheClass(), Directives(), None),
        ({"temperature": 1.1}, CacheClass(), Directives(), "temperature"),
        ({"temperature": 1.1}, CacheClass(max_temperature=2), Directives(), None),
        ({"n": 2}, CacheClass(), Directives(), "n"),
        ({}, CacheClass(cacheable="never"), Directives(), "class"),
        ({}, CacheClass(), Directives(no_store=True), "no-store"),
        ({}, CacheClass(), Directives(no_cache=True), None),
        ({"messages": [USER, TOOL]}, CacheClass(), Directives(), "tool-results"),
        ({"messages": [USER, TOOL]}, CacheClass(tool_results=True), Directives(), None),
    ],
)
def test_why_a_request_bypasses_the_cache(
    fields: dict[str, Any], cache_class: CacheClass, asked: Directives, reason: str | None
) -> None:
    assert why_not_cached({"messages": [USER], **fields}, cache_class, asked) == reason


@pytest.mark.parametrize(
    ("reasons", "fields", "whole"),
    [
        (["stop"], {}, True),
        (["tool_calls", "function_call"], {}, True),
        (["length"], {}, False),
        (["length"], {"max_tokens": 5}, True),
        (["length"], {"max_completion_tokens": 5}, True),
        (["length"], {"max_tokens": None}, False),
        (["content_filter"], {"max_tokens": 5}, False),
        (["stop", None], {}, False),
        ([None], {}, False),
        ([], {}, False),
    ],
)
def test_which_answers_are_whole(reasons: list[str | None], fields: dict[str, Any], whole: bool) -> None:
    assert is_whole_answer(reasons, fields) is whole
