"""Server-sent events from bytes: the part of the WHATWG grammar that LLM providers use.

Fed with whatever the socket gave (half a line, half a UTF-8 character, CRLF split in two), it yields the
event name and data of each finished event. It splits bytes, not text, so a relay need not decode; and it
joins the parts of a line only once the line is whole, so a long event costs no more than its length.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

_MARK = b"\xef\xbb\xbf"
_AROUND = _MARK + b" \t\r\n"
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")

_BEFORE = {b" ", b"\t", _MARK[:1]}

BODY = b"\n"
"""The name of what was no event, but the whole body: no event can have it."""

MAX_EVENT = 8 * 2**20
"""Bytes of one event that we are ready to hold for a provider."""


class EventTooLarge(ValueError):
    """One event passed MAX_EVENT."""


def begins_events(body: bytes) -> bool:
    """Whether a body is a stream of events, whatever its content type says."""
    return body[:200].lstrip(_AROUND).startswith(_FIELDS)


class EventParser:
    """`feed(bytes)` yields `(event, data)` pairs; comments and events without data are left out.

    More than the grammar allows is taken: marks of byte order and blanks before a field, and instead of events a body
    of JSON, which `rest` gives as one.
    """

    def __init__(self) -> None:
        self._begun = False
        self._json: list[bytes] | None = None  # parts of a body that is no stream of events
        self._line: list[bytes] = []  # parts of the line that has no end yet
        self._line_size = 0
        self._after_cr = False
        self._event = b""
        self._data: list[bytes] = []
        self._data_size = 0

    def feed(self, received: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The events that `received` finishes. EventTooLarge where one outgrows MAX_EVENT."""
        if not self._begun:
            received = self._begin(received)
        if self._json is not None:
            self._json.append(received)
            return
        first, *others = self._split(received)
        self._hold(first)
        for part in others:
            line = b"".join(self._line)
            self._line, self._line_size = [], 0
            if line and not line.isspace():
                self._field(line)
            else:
                if any(self._data):
                    yield self._event, b"\n".join(self._data)
                self._event, self._data, self._data_size = b"", [], 0
            self._hold(part)

    def rest(self) -> list[tuple[bytes, bytes]]:
        """At the end of the body, what it had besides finished events: JSON, or a last event without its empty line."""
        if self._json is not None:
            return [(BODY, b"".join(self._json))]
        events = list(self.feed(b"\n\n"))
        return [(event, data) for event, data in events if _is_whole(data)]

    def _begin(self, received: bytes) -> bytes:
        """What is left of the first bytes without what stands before the first event."""
        received = received.lstrip(_AROUND)
        if received:
            self._begun = True
            if received[:1] in {b"{", b"["}:
                self._json = []
        return received

    def _split(self, received: bytes) -> list[bytes]:
        """At each line end. A CR ends its line at once; an LF that then comes first belongs to it."""
        if self._after_cr and received:
            received = received.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in received:
            self._after_cr = received.endswith(b"\r")
            received = received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return received.split(b"\n")

    def _hold(self, part: bytes) -> None:
        if part:
            self._line.append(part)
            self._line_size += len(part)
        if self._data_size + self._line_size > MAX_EVENT:
            raise EventTooLarge

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_size += len(value) + 1  # even an empty line of data costs memory
        elif name == b"event":
            self._event = value
        elif name[:1] in _BEFORE:
            self._field(line.lstrip(_AROUND))
        elif name[:1] == b"{":  # so some end a stream with an error
            self._data.append(line)
            self._data_size += len(line) + 1


def _is_whole(data: bytes) -> bool:
    """Whether the data of an event that has no end was not cut short."""
    try:
        msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return data.strip() == b"[DONE]"
    return True
