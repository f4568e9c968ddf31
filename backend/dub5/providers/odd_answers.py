"""Answers with status 200 that are none, or stand in another form than was asked: what any server behind HTTP may send.

OpenAI-compatible servers and those that speak Anthropic's Messages go wrong in the same ways: an error where the
answer belongs, a list around it, OpenAI's `[DONE]` at the end of any stream, the events of a stream for a whole answer.
No I/O.
"""

from __future__ import annotations

import msgspec

from dub5.errors import FailureScope
from dub5.providers.protocol import Json

_NOT_PROPER = "answered without proper `choices`"
CUT = "ended its stream before the answer was complete"
AGAIN = "sent a second answer after the first"
"""As `Unusable.what`."""


MOST_BEGUN = 30_000
"""Choices, calls of tools and blocks that a stream may begin: what is held for so many is 32 to 65 MiB, and the values
of a whole answer may take 96."""

TOO_MANY = "began more choices, calls or blocks than can be held"


class Unusable(ValueError):
    """Nothing can be made of the answer; `what` follows the provider's name in a sentence.

    `scope` is that of the failure, as in ProviderError.
    """

    def __init__(self, what: str = _NOT_PROPER, scope: FailureScope = "request") -> None:
        super().__init__(what)
        self.what = what
        self.scope: FailureScope = scope


class Reported(ValueError):
    """The provider put an error where an answer belongs: its object, or whatever it wrote for one."""

    def __init__(self, error: object) -> None:
        super().__init__()
        self.error = error


class _Listed(msgspec.Struct, array_like=True):
    """A list of which all but the first member is passed over: there may be millions."""

    first: msgspec.Raw


_listed = msgspec.json.Decoder(_Listed)


def unlisted(raw: bytes) -> bytes:
    """The first member where `raw` is a list: so some servers write an error."""
    if raw.lstrip()[:1] != b"[":
        return raw
    try:
        return bytes(_listed.decode(raw).first)
    except (msgspec.MsgspecError, RecursionError):
        return raw


def is_done(_event: bytes, data: bytes) -> bool:
    """Whether an event is the last of a stream, as OpenAI ends one."""
    return data == b"[DONE]" or (len(data) < 12 and data.strip(b' "\t') == b"[DONE]")


KEEP_ALIVES = {b"null", b"ping", b"pong", b"keep-alive", b"keepalive", b"heartbeat"}
"""Names of events, or their data."""


def is_keep_alive(event: bytes, data: bytes) -> bool:
    """Whether all that an event does is to keep its connection open."""
    if event in KEEP_ALIVES or data.isspace():
        return True
    word = data.strip(b' "\t').lower() if len(data) < 20 else data
    return not word or word in KEEP_ALIVES


ERRORS = frozenset({"error", "x_groq", "base_resp"})
"""Members in which there may be an error beside `choices`: Groq and MiniMax have one of their own."""


def raise_reported_error(data: Json, event: bytes = b"") -> None:
    """Compatible servers put it where a completion or chunk belongs, with status 200."""
    error = data.get("error") or _groqs(data.get("x_groq")) or _minimaxs(data.get("base_resp"))
    if not error and not data.get("choices"):
        reported = event == b"error" or "error" in (data.get("object"), data.get("type"))
        if reported or any(isinstance(data.get(name), (str, list)) for name in ("message", "detail", "msg")):
            error = data
    if error:
        raise Reported(error)


def _groqs(beside: object) -> object:
    """Why it stopped in the middle; none as a rule."""
    return beside.get("error") if isinstance(beside, dict) else None


def _minimaxs(base: object) -> object:
    """It has a number in every answer; 0 where nothing is wrong."""
    return base if isinstance(base, dict) and base.get("status_code") else None
