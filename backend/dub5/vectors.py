"""A vector that a provider made of a text: read from its answer, kept as bytes, written into ours.

A provider says its numbers as base64 of 32-bit floats, or as text. Those of base64 are kept as they are. Those of text
are kept with 32 bits where each of them is a 32-bit float, which is what models compute with, and else with 64: so
what is served is what was said, to the last bit, and takes four bytes a number wherever that is enough.

A vector in its stored form is eight bytes and the numbers, little-endian: no JSON text begins like that, so it is never
taken for a completion. Beside the numbers it has the tokens of its text, for replicas that get nothing else of it.
"""

from __future__ import annotations

import binascii
import math
import struct
import sys
from array import array
from typing import Literal

import msgspec

MOST_NUMBERS = 2**16
"""Numbers of one vector, at most: sixteen times the longest that is known."""

_HEAD = struct.Struct("<2sxcL")
_MAGIC = b"\0v"
_Kind = Literal["f", "d"]
_KINDS: dict[bytes, _Kind] = {b"4": "f", b"8": "d"}
_MOST_TOKENS = 2**32 - 1
_SWAPPED = sys.byteorder == "big"


class NoVector(ValueError):
    """What should be a vector is none: no numbers, too many, or not all of them finite."""


class Vector(msgspec.Struct, frozen=True, gc=False):
    """`numbers` are little-endian floats of 32 bits (`kind` f) or 64 (`kind` d). `tokens` are those of its text."""

    kind: _Kind
    numbers: bytes
    tokens: int = 0

    @classmethod
    def of_base64(cls, text: str) -> Vector:
        """Of 32-bit floats, little-endian. NoVector where it is anything else."""
        try:
            numbers = binascii.a2b_base64(text, strict_mode=True)
        except ValueError:  # also of letters that are not ASCII
            raise NoVector("no base64") from None
        if len(numbers) % 4:
            raise NoVector("no 32-bit floats")
        return _checked(cls("f", numbers))

    @classmethod
    def of_floats(cls, given: list[float]) -> Vector:
        """Of 32 bits where that loses nothing, else of 64."""
        short = array("f", given)
        if short.tolist() == given:
            return _checked(cls("f", _bytes_of(short)))
        return _checked(cls("d", _bytes_of(array("d", given))))

    @classmethod
    def stored(cls, form: bytes) -> Vector:
        """The inverse of `form`; NoVector where it is none."""
        if not is_vector(form) or len(form) < _HEAD.size:
            raise NoVector("not a vector's form")
        _, kind, tokens = _HEAD.unpack_from(form)
        if kind not in _KINDS or (len(form) - _HEAD.size) % int(kind):
            raise NoVector("not a vector's form")
        return _checked(cls(_KINDS[kind], form[_HEAD.size :], tokens))

    def form(self) -> bytes:
        """In which it is kept."""
        kind = b"4" if self.kind == "f" else b"8"
        return _HEAD.pack(_MAGIC, kind, min(self.tokens, _MOST_TOKENS)) + self.numbers

    def floats(self) -> list[float]:
        return _array_of(self.kind, self.numbers).tolist()

    def base64(self) -> bytes:
        """Of 32-bit floats, little-endian; longer ones are rounded, since clients know no others."""
        short = self.numbers if self.kind == "f" else _bytes_of(array("f", self.floats()))
        return binascii.b2a_base64(short, newline=False)


def is_vector(form: bytes) -> bool:
    """Whether it may be the form of one, and cannot be JSON."""
    return form[: len(_MAGIC)] == _MAGIC


def _checked(vector: Vector) -> Vector:
    numbers = _array_of(vector.kind, vector.numbers)
    if not 0 < len(numbers) <= MOST_NUMBERS:
        raise NoVector("empty" if not numbers else "too long")
    if not math.isfinite(sum(numbers)):  # so it is only where each of them is
        raise NoVector("not finite")
    return vector


def _array_of(kind: _Kind, numbers: bytes) -> array[float]:
    found: array[float] = array(kind)
    found.frombytes(numbers)
    if _SWAPPED:
        found.byteswap()
    return found


def _bytes_of(numbers: array[float]) -> bytes:
    if _SWAPPED:
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()
