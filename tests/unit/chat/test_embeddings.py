"""How a batch is shared out: into calls, and their tokens over its texts."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dub5.chat.embeddings import Item, groups_of, shares_of
from dub5.chat.embeddings_request import read, tokens_of
from dub5.providers.protocol import BatchLimit
from dub5.telemetry.record import RequestRecord, TraceContext

SIZES = st.lists(st.integers(1, 50), max_size=60)


@given(SIZES, st.integers(1, 10), st.integers(1, 120))
def test_groups_hold_every_text_once_and_no_more_than_a_call_may(
    sizes: list[int], items: int, most: int
) -> None:
    record = RequestRecord(request_id="r", trace=TraceContext.begin(), started=0.0)
    texts = [Item("", size, None, None, record) for size in sizes]
    groups = list(groups_of(texts, BatchLimit(items, most)))
    assert [each for group in groups for each in group] == texts
    for group in groups:
        assert 0 < len(group) <= items
        assert len(group) == 1 or sum(each.size for each in group) + len(group) - 1 <= most


@given(SIZES.filter(bool), st.integers(0, 10_000))
def test_shares_add_up_and_are_in_proportion(sizes: list[int], tokens: int) -> None:
    shares = shares_of(tokens, sizes)
    assert sum(shares) == tokens
    for share, size in zip(shares, sizes, strict=True):
        assert abs(share - tokens * size / sum(sizes)) <= 1


async def texts_of(given: Any) -> tuple[list[Any], list[int]]:
    request = await read(msgspec.json.encode({"model": "m", "input": given}), room=lambda _: None)
    return request.texts, request.positions


async def test_each_text_is_there_once() -> None:
    assert await texts_of("a") == (["a"], [0])
    assert await texts_of(["b", "a", "b"]) == (["b", "a"], [0, 1, 0])
    assert await texts_of([1, 2, 1]) == ([[1, 2, 1]], [0])
    assert await texts_of([[1, 2], [3], [1, 2]]) == ([[1, 2], [3]], [0, 1, 0])


async def test_a_large_body_is_read_in_steps_and_its_cost_is_said_first() -> None:
    said: list[int] = []
    texts = [f"{number} " + "ä" * 500 for number in range(400)]
    request = await read(msgspec.json.encode({"model": "m", "input": texts, "more": 1}), room=said.append)
    assert request.texts == texts
    assert request.fields == {"more": 1}
    assert said
    assert request.cost >= said[0] > request.size


def test_tokens_are_estimated() -> None:
    assert [tokens_of("a" * 40), tokens_of("ä" * 40), tokens_of([1, 2, 3]), tokens_of("a")] == [10, 20, 3, 1]
