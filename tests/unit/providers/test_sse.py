"""The parser is fed by a socket: no cut of the bytes may change what it understands."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.providers import http
from dub5.providers.http import BODY, EventParser, EventTooLarge, begins_events

Events = list[tuple[bytes, bytes]]


def parsed(*received: bytes) -> Events:
    parser = EventParser()
    return [event for part in received for event in parser.feed(part)]


@pytest.mark.parametrize(
    ("received", "events"),
    [
        pytest.param(b"data: a\n\n", [(b"", b"a")], id="plain"),
        pytest.param(b"data:a\n\n", [(b"", b"a")], id="no space after the colon"),
        pytest.param(b"data:  a\n\n", [(b"", b" a")], id="only one space belongs to the colon"),
        pytest.param(b"event: ping\ndata: {}\n\n", [(b"ping", b"{}")], id="named"),
        pytest.param(b"data: a\ndata: b\n\n", [(b"", b"a\nb")], id="data on two lines"),
        pytest.param(b"data: a\r\n\r\ndata: b\r\n\r\n", [(b"", b"a"), (b"", b"b")], id="CRLF"),
        pytest.param(b"data: a\r\rdata: b\r\r", [(b"", b"a"), (b"", b"b")], id="CR alone"),
        pytest.param(b"data: a\n\r\n", [(b"", b"a")], id="LF, then CRLF"),
        pytest.param(b": keep-alive\n\ndata: a\n: b\n\n", [(b"", b"a")], id="comments"),
        pytest.param(b"event: x\n\ndata: a\n\n", [(b"", b"a")], id="a name without data is forgotten"),
        pytest.param(b"data\n\ndata:\n\ndata: a\n\n", [(b"", b"a")], id="empty data"),
        pytest.param(b"id: 7\nretry: 3\nsilly\ndata: a\n\n", [(b"", b"a")], id="other fields"),
        pytest.param(b"data: a\n\ndata: half", [(b"", b"a")], id="half an event at the end"),
        pytest.param("data: zoë 🎈\n\n".encode(), [(b"", "zoë 🎈".encode())], id="UTF-8"),
        pytest.param(b"\n\n\n\n", [], id="nothing at all"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\n", [(b"", b"a")], id="a mark of byte order"),
        pytest.param(
            b"\n\xef\xbb\xbf\n\xef\xbb\xbfevent: x\ndata: a\n\n", [(b"x", b"a")], id="marks and lines"
        ),
        pytest.param(b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [(b"", b"a"), (b"", b"b")], id="a mark later"),
        pytest.param(b" data: a\n\n\tdata: b\n\n", [(b"", b"a"), (b"", b"b")], id="blanks before a field"),
        pytest.param(b"data: a\n \ndata: b\n\n", [(b"", b"a"), (b"", b"b")], id="a blank line of blanks"),
        pytest.param(b"error: {}\n\ndata: a\n\n", [(b"error", b"{}"), (b"", b"a")], id="an error for data"),
        pytest.param(b': wait\n\n{"error": 1}\n\n', [(b"", b'{"error": 1}')], id="JSON after comments"),
    ],
)
def test_understands(received: bytes, events: Events) -> None:
    assert parsed(received) == events
    assert parsed(*(bytes([byte]) for byte in received)) == events


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_lines_of_json_are_events_each(size: int) -> None:
    """Ollama's own API and those that follow it write no server-sent events."""
    body = b'{"a": 1}\n\n{"b": 2}\r\n{"c": 3}'
    parser = EventParser()
    events = [
        event for start in range(0, len(body), size) for event in parser.feed(body[start : start + size])
    ]
    assert events + parser.rest() == [(b"", b'{"a": 1}'), (b"", b'{"b": 2}'), (b"", b'{"c": 3}')]


_lines = st.sampled_from(
    [b"data: a", "data: ü🎈".encode(), b"data:", b"event: e", b": c", b"", b"id: 1", b"data: x:y", b"\xff"]
)
_line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
_streams = st.lists(st.tuples(_lines, _line_ends), max_size=20).map(
    lambda pairs: b"".join(line + end for line, end in pairs)
)


@given(stream=_streams, cuts=st.lists(st.integers(0, 200), max_size=20))
def test_any_cut_of_the_bytes_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    assert parsed(*(stream[start:end] for start, end in pairwise(places))) == parsed(stream)


@given(payloads=st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1)))
def test_what_is_written_as_events_is_read_as_events(payloads: list[str]) -> None:
    stream = b"".join(b"data: " + payload.encode() + b"\n\n" for payload in payloads)
    assert [data.decode() for _, data in parsed(stream)] == payloads


def test_a_megabyte_in_one_event_is_read() -> None:
    payload = b"x" * 2**20
    stream = b"data: " + payload + b"\n\n"
    parts = [stream[start : start + 1000] for start in range(0, len(stream), 1000)]
    assert parsed(*parts) == [(b"", payload)]


@pytest.mark.parametrize(
    "piece", [b"x" * 1000, b"data: " + b"x" * 1000 + b"\n", b"data:\n" * 1000], ids=["line", "lines", "empty"]
)
def test_an_event_without_end_is_refused(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_EVENT", 10_000)
    with pytest.raises(EventTooLarge):
        parsed(*[piece] * 11)


def test_comments_without_end_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_EVENT", 10_000)
    comments = [b":" + b"x" * 1000 + b"\n"] * 11
    assert parsed(*comments, b"data: a\n\n") == [(b"", b"a")]


@pytest.mark.parametrize(
    ("received", "rest"),
    [
        (b'{"a":\n1}\n', b'{"a":\n1}\n'),
        (b'\xef\xbb\xbf\n [{"error": 1}]', b'[{"error": 1}]'),
        (b'data: a\n\ndata: {"a":1}\n', b'{"a":1}'),
        (b'data: a\n\ndata: {"a":1}', b'{"a":1}'),
        (b"data: a\n\ndata: [DONE]", b"[DONE]"),
        (b'data: a\n\ndata: {"a":{"b":1}', None),
        (b"data: a\n\n", None),
        (b"", None),
        (b"<html>", None),
    ],
)
def test_what_is_left_at_the_end_of_the_body(received: bytes, rest: bytes | None) -> None:
    """A body of JSON instead of events, or a last event without its empty line; not one that was cut."""
    for parts in ([received], [bytes([byte]) for byte in received]):
        parser = EventParser()
        assert not [event for part in parts for event in parser.feed(part) if event != (b"", b"a")]
        name = http.BODY if rest == received.lstrip(b"\xef\xbb\xbf\n ") else b""
        assert parser.rest() == ([] if rest is None else [(name, rest)])


@pytest.mark.parametrize(
    ("body", "begins"),
    [
        (b'data: {"a":1}\n\n', True),
        (b"\xef\xbb\xbf\r\n: hello\n\n", True),
        (b"event: x\ndata: 1\n\n", True),
        (b'{"data": 1}', False),
        (b"\n\n [1]", False),
        (b"", False),
    ],
)
def test_whether_a_body_has_events(body: bytes, begins: bool) -> None:
    assert begins_events(body) is begins


# --- What would take minutes, were what came before looked at again ---


def test_a_body_of_json_in_very_many_reads() -> None:
    body = b'{"a": "' + b"x" * 2**24 + b'"}'
    parser = EventParser()
    assert not any(parser.feed(body[start : start + 128]) for start in range(0, len(body), 128))
    assert parser.rest() == [(BODY, body)]


def test_blanks_behind_a_long_line_of_json() -> None:
    line, blanks = b'{"a": "' + b"x" * 2**21 + b'"}\n', b" \n" * 2**16
    parser = EventParser()
    assert not parser.feed(line)
    assert not any(parser.feed(bytes([blank])) for blank in blanks)
    assert parser.rest() == [(BODY, line + blanks)]


def test_a_long_line_behind_another_one() -> None:
    line = b'{"a": "' + b"x" * 2**24 + b'"}'
    parser = EventParser()
    events = parser.feed(b"{}\n{")
    for start in range(1, len(line), 128):
        events += parser.feed(line[start : start + 128])
    assert events + parser.rest() == [(b"", b"{}"), (b"", line)]
