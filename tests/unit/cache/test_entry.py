"""The stored form is read back exactly, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.cache.entry import CorruptEntry, Entry, ForeignVersion, pack, unpack

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
