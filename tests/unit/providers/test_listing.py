"""What providers list, however they write it, and how much of it is taken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dub5.providers.listing import MOST_LISTED, ListedModel, parse


def read(data: Any) -> dict[str, ListedModel]:
    return parse(json.dumps(data).encode())


@pytest.mark.parametrize(
    ("entry", "known"),
    [
        ({"object": "model", "created": 1, "owned_by": "x"}, ListedModel("m")),
        ({"max_model_len": 8192}, ListedModel("m", None, 8192)),  # vLLM
        ({"context_length": 4096, "architecture": {"modality": "text->text"}}, ListedModel("m", None, 4096)),
        ({"type": "model", "max_input_tokens": 200_000}, ListedModel("m", None, 200_000)),  # Anthropic
        ({"type": "embedding", "context_length": None}, ListedModel("m", "embedding")),  # Together
        ({"kind": "personality", "context_window": 7}, ListedModel("m", "chat", 7)),  # another DUB5
        ({"context_window": True, "kind": [], "type": "chat"}, ListedModel("m", "chat")),
        ({"context_window": -1}, ListedModel("m")),
        ({"context_window": 10**40}, ListedModel("m")),
    ],
)
def test_it_is_understood(entry: dict[str, Any], known: ListedModel) -> None:
    assert read({"object": "list", "data": [{"id": "m", **entry}]}) == {"m": known}


def test_an_array_and_nothing_at_all_are_lists_too() -> None:
    assert list(read([{"id": "a"}, {"id": "b"}])) == ["a", "b"]
    assert read({"object": "list", "data": None}) == {}  # Ollama without models


def test_what_cannot_be_a_name_is_left_out_and_the_rest_kept() -> None:
    ids = [None, 7, "", "with space", "line\nend", "ünï", "x" * 201, "good"]
    assert list(read({"data": [{"id": each} for each in [*ids, "good"]] + [{}]})) == ["good"]


def test_past_the_bound_nothing_more_is_taken() -> None:
    assert len(read({"data": [{"id": f"m{number}"} for number in range(MOST_LISTED + 10)]})) == MOST_LISTED


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"<html>", b'{"data": 1}', b'{"data": [1]}', b"\xff", b"[" * 9999]
)
def test_what_is_no_list_is_an_error(body: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse(body)
