"""What providers answer at /embeddings, read; how tokens and texts are shared out."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.providers.odd_answers import Reported, Unusable, unlisted
from dub5.providers.openai_embeddings import embedded
from dub5.vectors import MOST_NUMBERS, Vector

BASE64 = "AACAPwAAAEA="
"""1 and 2."""


def answer(*vectors: Any, **more: Any) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(vectors)]
    return json.dumps({"object": "list", "data": data, "model": "m", **more}).encode()


async def test_vectors_are_in_the_order_of_asking_whatever_theirs() -> None:
    data = [{"index": 1, "embedding": [3.0]}, {"index": 0, "embedding": BASE64}]
    found = await embedded(json.dumps({"data": data}).encode(), 2)
    assert [each.floats() for each in found.vectors] == [[1, 2], [3]]
    assert found.tokens == 0


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 5, "total_tokens": 6}, 5),
        ({"total_tokens": 6}, 6),
        ({"prompt_tokens": -5}, 0),
        ({"prompt_tokens": 1e30}, 0),
        ("5", 0),
        (None, 0),
    ],
)
async def test_tokens(usage: Any, tokens: int) -> None:
    assert (await embedded(answer([1], usage=usage), 1)).tokens == tokens


@pytest.mark.parametrize(
    "raw",
    [b"[%b0]" % (b"0," * 1_000_000), b'{"data": 5, "more": [%b0]}' % (b"[]," * 1_000_000)],
    ids=["a list", "no vectors"],
)
async def test_what_is_no_answer_takes_little_memory_however_long_it_is(raw: bytes) -> None:
    tracemalloc.start(1)
    try:
        with pytest.raises(Unusable):
            await embedded(raw, 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(raw)


@pytest.mark.parametrize(
    ("raw", "first"),
    [
        (b'[{"error": 1}]', b'{"error": 1}'),
        (b' [ {"error": 1} , {"error": 2}, 3 ] ', b'{"error": 1}'),
        (b'{"error": 1}', b'{"error": 1}'),
        (b"[]", b"[]"),
        (b'[{"error": 1}', b'[{"error": 1}'),
    ],
)
def test_of_a_list_the_first_is_read(raw: bytes, first: bytes) -> None:
    assert unlisted(raw) == first


async def test_many_vectors() -> None:
    found = await embedded(answer(*([float(number)] for number in range(100))), 100)
    assert found.vectors == [Vector.of_floats([float(number)]) for number in range(100)]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"data": [{"index": 0, "embedding": ' + b"[" * 100_000,
        answer(),
        answer([1], [2], [3]),
        answer([1], None),
        answer([1], {}),
        answer([1], [10**400]),
        answer([1], [0] * (MOST_NUMBERS + 1)),
        answer([1], "A" * 40 * MOST_NUMBERS),
        answer([1], BASE64 + BASE64),
        answer([1], "\ud800"),
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": -1, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": 2, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": [NaN]}, {"index": 1, "embedding": [1]}]}',
        b'{"data": [' + b"{}," * 1000 + b"{}]}",
    ],
    ids=lambda raw: raw[:40].decode("latin-1"),
)
async def test_what_is_no_answer_to_two_texts(raw: bytes) -> None:
    with pytest.raises(Unusable):
        await embedded(raw, 2)


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["data", "index", "embedding", "usage"]), inner, max_size=3)
        ),
    ).map(lambda each: json.dumps(each).encode())
)
async def test_whatever_comes_it_is_an_answer_or_the_providers_fault(raw: bytes) -> None:
    try:
        found = await embedded(raw, 1)
    except (Unusable, Reported):
        return
    assert len(found.vectors) == 1


@pytest.mark.parametrize("beside", ["", '"data": null, ', '"data": [], '])
async def test_a_reported_error(beside: str) -> None:
    with pytest.raises(Reported):
        await embedded(b'{%b"error": {"message": "Loading"}}' % beside.encode(), 1)
