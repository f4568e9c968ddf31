"""The stamps of names that were purged long ago: this replica's copy of the log in Redis.

Eight bytes a name, so that a million fit into 8 MiB, there and here. The log only grows at its end, so only its end is
read, until it is full and its older half is dropped: then `floor` holds for every name. Form: `contract.PURGE_LOG`.

A name is known by 32 bits. Two names of the same bits are purged together: of a million purged names a given other one
shares them with a probability of 1 in 4,300.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

from dub5.contract import (
    LAST_STAMP,
    LOG_SEGMENTS,
    PURGE_LOG,
    PURGE_STATE,
    PURGE_UNIT,
    SEGMENT_BYTES,
    SEGMENT_RECORDS,
    Undecodable,
)

Run = Callable[..., Awaitable[Any]]
"""Gives the answer to the one command whose words it is given."""

_DELTA = 2**32 - 1


class Segment(msgspec.Struct, gc=False):
    """`records` in the order of hashes, then of stamps. `last` is the one that was read last, `whole` says that no
    more will come."""

    base: int
    records: array[int]
    last: int = 0
    whole: bool = False

    def stamp(self, name: int) -> int:
        """The greatest of a name, 0 where it is not here."""
        at = bisect_left(self.records, (name + 1) << 32) - 1
        if at < 0 or self.records[at] >> 32 != name:
            return 0
        return (self.base + (self.records[at] & _DELTA)) * PURGE_UNIT

    def has(self, record: int) -> bool:
        """Append-only: with this record, all that came before it is here as well."""
        at = bisect_left(self.records, record)
        return at < len(self.records) and self.records[at] == record

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Names and their stamps."""
        return ((record >> 32, (self.base + (record & _DELTA)) * PURGE_UNIT) for record in self.records)


class PurgeLog:
    """What was read of the log. Empty in most installations: then it holds nothing and costs nothing."""

    def __init__(self) -> None:
        self.floor = 0
        self._segments: dict[int, Segment] = {}

    def __len__(self) -> int:
        """Records, some of the same name."""
        return sum(len(each.records) for each in self._segments.values())

    def stamp(self, name: int) -> int:
        """The greatest of a name, as far as it is known here."""
        found = (each.stamp(name) for each in reversed(self._segments.values()))  # later ones are greater
        return next(filter(None, found), 0)

    def copy(self) -> PurgeLog:
        """To read on from here, and still have what was known."""
        copy = PurgeLog()
        copy.floor, copy._segments = self.floor, dict(self._segments)
        return copy

    async def verified(self, run: Run) -> PurgeLog:
        """A copy where Redis still has the end of it, and so all before; an empty one where it has not."""
        if not self._segments:
            return PurgeLog()
        number, last = max(self._segments.items())
        at = number % LOG_SEGMENTS * SEGMENT_BYTES + 8 * len(last.records)
        read = await run("GETRANGE", PURGE_LOG, at, at + 7)
        return self.copy() if int.from_bytes(read, "little") == last.last else PurgeLog()

    async def read(self, run: Run) -> None:
        """Take in what is new, a segment at a time. What `run` raises is passed on, and may be tried again; Undecodable
        where it is no log."""
        first, following, count, floor = await _state(run)
        for number in range(first, following):
            known = self._segments.get(number)
            if known is None or not known.whole:
                last = number == following - 1
                read = await _read(run, number, known, count if last else SEGMENT_RECORDS)
                self._segments[number] = msgspec.structs.replace(read, whole=not last)
        if following > first:  # one that was dropped meanwhile may be written over
            first, _, _, floor = await _state(run)
        self.floor = floor
        self._segments = {number: each for number, each in sorted(self._segments.items()) if number >= first}

    def lost_by(self, theirs: PurgeLog) -> Iterator[tuple[int, int]]:
        """Names and stamps that `theirs` lacks, or has elsewhere: whole segments are compared by their last record."""
        for number, each in self._segments.items():
            other = theirs._segments.get(number)
            if other is None:
                yield from each
            elif other.base != each.base or not other.has(each.last):
                yield from ((name, stamp) for name, stamp in each if other.stamp(name) < stamp)


async def _state(run: Run) -> tuple[int, int, int, int]:
    read = await run("HMGET", PURGE_STATE, "first", "next", "count", "floor")
    try:
        first, following, count, floor = (int(each or 0) for each in read)
    except ValueError:
        raise Undecodable("no state of a log") from None
    if not (
        0 <= first <= following <= first + LOG_SEGMENTS
        and 0 <= count <= SEGMENT_RECORDS
        and 0 <= floor <= LAST_STAMP
    ):
        raise Undecodable("no state of a log")
    return first, following, count, floor


async def _read(run: Run, number: int, known: Segment | None, count: int) -> Segment:
    """A segment with what has come since it was `known`."""
    begin = number % LOG_SEGMENTS * SEGMENT_BYTES
    start = begin if known is None else begin + 8 * (1 + len(known.records))
    read = await run("GETRANGE", PURGE_LOG, start, begin + 8 * (1 + count) - 1)
    words = array("Q", read[: len(read) // 8 * 8])
    if sys.byteorder == "big":
        words.byteswap()
    if known is None and not (len(words) > 1 and words[1]):
        raise Undecodable("a log that ends before its state does")
    before, base = (array("Q"), words.pop(0)) if known is None else (known.records, known.base)
    if base > LAST_STAMP // PURGE_UNIT:
        raise Undecodable("a stamp that is nobody's")
    if 0 in words:
        del words[words.index(0) :]
    last = words[-1] if words or known is None else known.last
    return Segment(base, array("Q", sorted([*before, *words])), last)
