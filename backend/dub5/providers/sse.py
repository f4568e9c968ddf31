"""Server-sent events from bytes: the part of the WHATWG grammar that LLM providers use.

Fed with whatever the socket gave (half a line, half a UTF-8 character, CRLF split in two), it gives the
event name and data of each finished event. It splits bytes, not text, so a relay need not decode; and it
joins the parts of a line only once the line is whole, so a long event costs no more than its length.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import re

import msgspec

_MARK = b"\xef\xbb\xbf"
_AROUND = _MARK + b" \t\r\n"
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")

_BLANKS = re.compile(rb"\s*\Z")

_BEFORE = {b" ", b"\t", _MARK[:1]}

BODY = b"\n"
"""The name of what was no event, but the whole body: no event can have it."""

MAX_EVENT = 8 * 2**20
"""Bytes of one event that we are ready to hold for a provider."""


class EventTooLarge(ValueError):
    """One event passed MAX_EVENT."""


def begins_events(body: bytes) -> bool:
    """Whether a body is a stream of events, or of lines of JSON, whatever its content type says."""
    return body[:200].lstrip(_AROUND).startswith(_FIELDS) or _is_lines(body.lstrip(_AROUND))


def _is_lines(body: bytes) -> bool:
    """Whether a body that begins with JSON has more after the first line, which is whole by itself."""
    end = body.find(b"\n")
    return end > 0 and body[:1] == b"{" and not _BLANKS.match(body, end) and _is_whole(body[:end])


class EventParser:
    """`feed(bytes)` gives `(event, data)` pairs; comments and events without data are left out.

    More than the grammar allows is taken: marks of byte order and blanks before a field, and instead of events lines of
    JSON, or a body of JSON, which `rest` gives as one.
    """

    def __init__(self) -> None:
        self._begun = False
        self._json: list[bytes] | None = None  # parts of a body that is no stream of events
        # Whether they are lines, each of them an event; None while nobody knows.
        self._by_line: bool | None = None
        self._line: list[bytes] = []  # parts of the line that has no end yet
        self._line_size = 0
        self._after_cr = False
        self._between_events = True  # whether the last event is whole, and nothing has come after it
        self._event = b""
        self._data: list[bytes] = []
        self._data_size = 0

    def feed(self, received: bytes) -> list[tuple[bytes, bytes]]:
        """The events that `received` finishes. EventTooLarge where one outgrows MAX_EVENT."""
        if self._between_events and received[-2:] == b"\n\n" and len(received) <= MAX_EVENT:
            # Nearly always: one or more whole events of one line of data each.
            events = []
            for block in received[:-2].split(b"\n\n"):
                if block[:6] != b"data: " or len(block) == 6 or b"\n" in block or b"\r" in block:
                    break
                events.append((b"", block[6:]))
            else:
                self._begun = True
                return events
        if not self._begun:
            received = self._begin(received)
        if self._json is not None:
            return self._feed_json(self._json, received)
        events = []
        first, *others = self._split(received)
        self._hold(first)
        for part in others:
            line = b"".join(self._line)
            self._line, self._line_size = [], 0
            if line and not line.isspace():
                self._field(line)
            else:
                if any(self._data):
                    events.append((self._event, b"\n".join(self._data)))
                self._event, self._data, self._data_size = b"", [], 0
            self._hold(part)
        self._between_events = not (self._line or self._data or self._event or self._after_cr)
        return events

    def rest(self) -> list[tuple[bytes, bytes]]:
        """At the end of the body, what it had besides finished events: JSON, or a last event without its empty line."""
        if self._json is not None:
            body = b"".join(self._json)
            return [(b"" if self._by_line else BODY, body)] if body.strip() else []
        return [(event, data) for event, data in self.feed(b"\n\n") if _is_whole(data)]

    def _feed_json(self, parts: list[bytes], received: bytes) -> list[tuple[bytes, bytes]]:
        """What is no stream of events: the lines that `received` finishes, where they stand for them."""
        parts.append(received)
        if self._by_line is False or (b"\n" not in received and self._by_line):
            return []
        body = b"".join(parts)
        end = body.find(b"\n")
        if self._by_line is None and end >= 0:
            if _is_lines(body):
                self._by_line = True
            elif body[:1] != b"{" or not _is_whole(body[:end]):
                self._by_line = False
        if not self._by_line:
            return []
        *lines, rest = body.split(b"\n")
        parts[:] = [rest]
        return [(b"", line.strip()) for line in lines if line.strip()]

    def _begin(self, received: bytes) -> bytes:
        """What is left of the first bytes without what stands before the first event."""
        received = received.lstrip(_AROUND)
        if received:
            self._begun = True
            if received[:1] in {b"{", b"["}:
                self._json, self._between_events = [], False
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
