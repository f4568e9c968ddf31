"""Where in a body is what JSON or UTF-8 cannot say? For a body that was refused: its first fault, by name.

One walk over the tokens that keeps the path to where it is, and stops at the first fault: NaN or an infinite number,
half of a surrogate pair, bytes that are not UTF-8. It is linear, in steps, and what it says is short whatever was sent.
"""

from __future__ import annotations

import math
import re
from typing import Literal

import msgspec

from dub5.json_steps import MAX_DEPTH, Steps

Kind = Literal["number", "surrogate", "encoding", "escape"]

MAX_PATH = 200
"""Characters of a path that are shown."""

_MAX_NAME = 60
_MAX_INTEGER = 4300
_STEP, _PER_TOKEN = 2**17, 64
"""Bytes of work between two pauses; what each token is, besides its own."""

# Whatever comes is a token, and each possessive: nothing is looked at twice.
_TOKEN = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+["\\]?|[\[\]{},:]|[ \t\r\n]{1,4096}+|-?(?:NaN|Infinity)|-?[0-9][0-9.eE+-]*+|.',
    re.DOTALL,
)


class Fault(msgspec.Struct, frozen=True):
    """`path` is `body` at the top."""

    path: str
    kind: Kind


def first_fault(
    text: bytes, *, end: int | None = None, stamp: bytes = b"", bad: int = -1, kind: Kind = "encoding"
) -> Steps[Fault | None]:
    """The first in `text` that begins before `end`.

    A number that begins with `stamp` stands for a text, of which the one numbered `bad` has a fault of this `kind`.
    """
    last = len(text) if end is None else end
    path = _Path()
    work = 0
    for match in _TOKEN.finditer(text):
        work += match.end() - match.start() + _PER_TOKEN
        if work > _STEP:
            work = 0
            yield
        if match.start() > last:
            return None
        token = match[0]
        first = token[:1]
        if first == b'"':
            found = fault_of(token)
            if found is not None:
                return Fault(path.here() if _is_value(text, match.end()) else path.holder(), found)
            path.name = token
        elif first in b"[]{},:":
            if not path.step(token):
                return None
        elif stamp and token.startswith(stamp):
            if int(token[len(stamp) :]) == bad:
                return Fault(path.here(), kind)
        elif first in b"-0123456789NI" and _is_infinite(token):
            return Fault(path.here(), "number")
    return None


def fault_of(text: bytes) -> Kind | None:
    """What is wrong with a JSON string, quotes included."""
    try:
        _decode(text)
    except UnicodeDecodeError as error:
        return "surrogate" if _HALF_AS_BYTES.match(error.object, error.start) else "encoding"
    except msgspec.MsgspecError as error:
        half = "surrogate" in str(error) or _HALF_NEAR_THE_END.search(text[-12:])
        return "surrogate" if half else "escape"
    return None


_decode = msgspec.json.Decoder(str).decode
_HALF_AS_BYTES = re.compile(rb"\xed[\xa0-\xbf]")
_HALF_NEAR_THE_END = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u)")
"""Where less follows than its other half would take, the decoder says only that the text ends."""
_SPACE_AND_COLON = re.compile(rb"[ \t\r\n]*+:")


def _is_value(text: bytes, end: int) -> bool:
    return _SPACE_AND_COLON.match(text, end) is None


def _is_infinite(token: bytes) -> bool:
    if token[-1:] in b"Ny":
        return True
    if token.lstrip(b"-").isdigit():
        return len(token) > _MAX_INTEGER
    try:
        return math.isinf(float(token))
    except ValueError:
        return False


class _Path:
    """Where the walk is: for each level the index in a list, or the JSON of a name in an object."""

    def __init__(self) -> None:
        self._levels: list[int | bytes] = []
        self.name = b""

    def step(self, token: bytes) -> bool:
        """False where the brackets make no sense."""
        levels = self._levels
        if token == b"{":
            levels.append(b"")
        elif token == b"[":
            levels.append(0)
        elif not levels or len(levels) > MAX_DEPTH:
            return False
        elif token in b"]}":
            levels.pop()
        elif token == b":":
            if not isinstance(levels[-1], bytes):
                return False
            levels[-1] = self.name
        elif isinstance(levels[-1], int):
            levels[-1] += 1
        return True

    def here(self) -> str:
        return shown(self._levels)

    def holder(self) -> str:
        return shown(self._levels[:-1])


def shown(levels: list[int | bytes]) -> str:
    """`messages[2].content`, `body` at the top; cut where it is long."""
    path = ""
    for level in levels:
        path += f"[{level}]" if isinstance(level, int) else f".{_readable(level)}"
        if len(path) > MAX_PATH:
            return path.lstrip(".")[:MAX_PATH] + "…"
    return path.lstrip(".") or "body"


def _readable(name: bytes) -> str:
    try:
        text = _decode(name)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = name.strip(b'"').decode("utf-8", "replace")
    return text if len(text) <= _MAX_NAME else text[:_MAX_NAME] + "…"
