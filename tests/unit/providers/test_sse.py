"""The parser is fed by a socket: no cut of the bytes may change what it understands."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.providers import sse
from dub5.providers.sse import EventParser, EventTooLarge

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
    ],
)
def test_understands(received: bytes, events: Events) -> None:
    assert parsed(received) == events
    assert parsed(*(bytes([byte]) for byte in received)) == events


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
    monkeypatch.setattr(sse, "MAX_EVENT", 10_000)
    with pytest.raises(EventTooLarge):
        parsed(*[piece] * 11)


def test_comments_without_end_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 10_000)
    comments = [b":" + b"x" * 1000 + b"\n"] * 11
    assert parsed(*comments, b"data: a\n\n") == [(b"", b"a")]
