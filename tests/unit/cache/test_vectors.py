"""A stored vector: under its own kind of key, as it is, and never taken for a completion."""

from __future__ import annotations

import random
import struct

import pytest

from dub5.cache.store import VECTOR_KEY, Entry, check_answer, most_stored, pack, unpack
from dub5.contract import Undecodable
from dub5.vectors import Vector

VECTOR = Vector("f", struct.pack("<1536f", *(random.Random(1).random() for _ in range(1536))), 7).form()
COMPLETION = b'{"choices":[{"message":{"content":"Hello"}}]}'


def test_it_is_kept_as_it_is() -> None:
    entry = Entry(VECTOR, 1_700_000_000_000_000, 0.5, 7, 0)
    stored = pack(entry)
    assert unpack(stored) == entry
    assert VECTOR in stored  # not compressed: that takes long, and saves nothing
    assert len(stored) <= most_stored(len(VECTOR))


def test_each_kind_has_its_own_keys() -> None:
    check_answer(f"{VECTOR_KEY}ab", VECTOR)
    check_answer("ab", COMPLETION)


@pytest.mark.parametrize(
    ("key", "body"),
    [
        ("ab", VECTOR),
        (f"{VECTOR_KEY}ab", COMPLETION),
        (f"{VECTOR_KEY}ab", VECTOR[:-1]),
        (f"{VECTOR_KEY}ab", b""),
    ],
)
def test_what_is_not_of_its_keys_kind_is_nothing(key: str, body: bytes) -> None:
    with pytest.raises(Undecodable):
        check_answer(key, body)
