"""Vectors: what a provider said is what is kept and served, to the last bit."""

from __future__ import annotations

import base64
import math
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.vectors import MOST_NUMBERS, NoVector, Vector, is_vector

SHORT = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40)
LONG = st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=40)


@given(SHORT | LONG, st.integers(0, 2**32 - 1))
def test_what_was_said_as_text_is_served_as_the_same_text(numbers: list[float], tokens: int) -> None:
    said = msgspec.structs.replace(Vector.of_floats(numbers), tokens=tokens)
    kept = Vector.stored(said.form())
    assert kept == said
    assert msgspec.json.encode(kept.floats()) == msgspec.json.encode(numbers)


@given(SHORT)
def test_what_was_said_as_base64_is_served_as_the_same_base64(numbers: list[float]) -> None:
    said = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers))
    vector = Vector.of_base64(said.decode())
    assert Vector.stored(vector.form()).base64() == said
    assert vector.floats() == numbers
    assert Vector.of_floats(numbers) == vector  # in either spelling


@given(SHORT)
def test_numbers_of_32_bits_take_four_bytes_each(numbers: list[float]) -> None:
    assert len(Vector.of_floats(numbers).form()) == 8 + 4 * len(numbers)


def test_numbers_of_64_bits_are_rounded_in_base64_alone() -> None:
    vector = Vector.of_floats([0.1, 1e-300])
    assert vector.floats() == [0.1, 1e-300]
    assert struct.unpack("<2f", base64.b64decode(vector.base64())) == (
        struct.unpack("<f", struct.pack("<f", 0.1))[0],
        0,
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "AAA",
        "AAAA",
        "ä",
        "AAAA AAAA",
        "AAAA\nAAAA",
        base64.b64encode(struct.pack("<f", math.nan)).decode(),
        base64.b64encode(struct.pack("<f", -math.inf)).decode(),
    ],
)
def test_no_base64_of_finite_floats_is_no_vector(text: str) -> None:
    with pytest.raises(NoVector):
        Vector.of_base64(text)


@pytest.mark.parametrize("numbers", [[], [math.nan], [1.0, math.inf], [0.0] * (MOST_NUMBERS + 1)])
def test_no_finite_numbers_are_no_vector(numbers: list[float]) -> None:
    with pytest.raises(NoVector):
        Vector.of_floats(numbers)


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: b"\0v\x004" + tail))
def test_bytes_that_are_no_form_are_no_vector(form: bytes) -> None:
    try:
        vector = Vector.stored(form)
    except NoVector:
        return
    assert is_vector(form)
    assert Vector.stored(vector.form()) == vector


def test_no_json_is_taken_for_a_vector() -> None:
    assert not is_vector(b"{}")
