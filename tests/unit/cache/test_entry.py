"""The stored form is read back exactly, or not at all."""

from __future__ import annotations

import random
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.cache.store import BORN, HEADER, CorruptEntry, Entry, ForeignVersion, checksum, pack, unpack

entries = st.builds(
    Entry,
    st.binary(max_size=300),
    st.integers(0, 2**53),
    st.floats(0, 1e6),
    st.integers(0, 2**31),
    st.integers(0, 2**31),
)


@given(entries)
def test_what_was_packed_is_unpacked(entry: Entry) -> None:
    assert unpack(pack(entry)) == entry


@given(entries, st.data())
def test_a_changed_byte_is_never_misread(entry: Entry, data: st.DataObject) -> None:
    stored = bytearray(pack(entry))
    position = data.draw(st.integers(0, len(stored) - 1))
    stored[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises((CorruptEntry, ForeignVersion)):
        unpack(bytes(stored))


@given(st.binary(max_size=100))
def test_foreign_bytes_are_refused(stored: bytes) -> None:
    with pytest.raises((CorruptEntry, ForeignVersion)):
        unpack(stored)


@given(entries, st.integers(0, 30))
def test_a_cut_value_is_refused(entry: Entry, kept: int) -> None:
    with pytest.raises(CorruptEntry):
        unpack(pack(entry)[:kept])


def test_an_entry_of_another_release_is_ignored_rather_than_misread() -> None:
    stored = bytearray(pack(Entry(b"{}", 1, 1.0, 1, 1)))
    stored[3] += 1
    with pytest.raises(ForeignVersion):
        unpack(bytes(stored))


def test_age_is_never_negative_when_clocks_disagree() -> None:
    assert Entry(b"", 10_000_000, 0, 0, 0).age(9.0) == 0.0
    assert Entry(b"", 10_000_000, 0, 0, 0).age(12.5) == 2.5


def test_text_that_repeats_is_squeezed_and_comes_back() -> None:
    entry = Entry(b'{"content": "' + b"All work and no play. " * 200 + b'"}', 1, 1.0, 1, 1)
    stored = pack(entry)
    assert len(stored) < len(entry.body) / 5
    assert unpack(stored) == entry


def test_a_short_answer_is_stored_as_it_is_and_read_as_older_releases_squeezed_it() -> None:
    entry = Entry(b'{"content": "' + b"All work and no play. " * 50 + b'"}', 1, 1.0, 1, 1)
    assert entry.body in pack(entry)
    born, payload = BORN % entry.born, b"z" + zlib.compress(msgspec.msgpack.encode(entry))
    assert unpack(HEADER + born + checksum(born + payload) + payload) == entry


def test_what_squeezing_would_not_shorten_is_stored_as_it_is() -> None:
    entry = Entry(random.Random(1).randbytes(2000), 1, 1.0, 1, 1)
    assert len(pack(entry)) < len(entry.body) + 100


@pytest.mark.parametrize("codec", [b"z", b"x", b"p"])
def test_a_payload_that_its_codec_cannot_read_is_refused(codec: bytes) -> None:
    born, payload = BORN % 1, codec + b"not what it says"
    with pytest.raises(CorruptEntry):
        unpack(HEADER + born + checksum(born + payload) + payload)


def test_a_value_that_expands_beyond_reason_is_refused() -> None:
    squeezed = zlib.compressobj(9)
    bomb = b"z" + b"".join(squeezed.compress(bytes(2**20)) for _ in range(65)) + squeezed.flush()
    born = BORN % 1
    with pytest.raises(CorruptEntry):
        unpack(HEADER + born + checksum(born + bomb) + bomb)
