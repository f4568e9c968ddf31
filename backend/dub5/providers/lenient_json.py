"""JSON that is not quite JSON, as providers send it: what strict decoders refuse and its writer meant.

Marks of byte order, halves of characters (lone surrogates), bad UTF-8, control characters in texts, NaN and infinities,
numbers that nothing could hold. Slower than msgspec, and so only asked where that has refused.
"""

from __future__ import annotations

import json
import math
from typing import Any

_AROUND = "\ufeff \t\r\n"


def read(raw: bytes) -> tuple[Any, bool]:
    """The data, None where there is none, and whether `raw` may go on as it is.

    It may where all that is odd are half characters, which are legal escapes.
    """
    try:
        return json.loads(raw.decode(), parse_constant=_refused, parse_float=_finite), True
    except (ValueError, RecursionError):
        try:
            return loads(raw.decode("utf-8", "replace").strip(_AROUND)), False
        except (ValueError, RecursionError):
            return None, False


def loads(text: str) -> Any:
    """Of JSON with whatever else Python reads; numbers that nothing could hold are null."""
    return json.loads(text, strict=False, parse_constant=_constant, parse_float=_float, parse_int=_integer)


def mended(value: Any) -> Any:
    """A copy of JSON data in which two halves of one character are that character, and a lone one is replaced."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return json.loads(mended(json.dumps(value, ensure_ascii=False)))


def without_half(text: str) -> tuple[str, str]:
    """Of a text that may go on: `mended` what is there, and the first half of a character at its end, which waits for
    the other one."""
    if text.isascii():
        return text, ""
    half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
    return mended(text.removesuffix(half)), half


def _refused(name: str) -> None:
    raise ValueError(name)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(digits)
    return number


def _constant(name: str) -> float | None:
    """OpenAI writes -9999 where the logarithm of a chance is -Infinity."""
    return -9999.0 if name == "-Infinity" else None


def _float(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _integer(digits: str) -> int | None:
    """Python reads no more than 4,300 digits; nothing that anybody counts has as many."""
    return int(digits) if len(digits) <= 300 else None
