"""A stored answer: what it is kept under, by which clock it ages, and its form in Redis.

An entry is the assembled completion: one entry serves both shapes, streamed and whole. Or it is the vector of one text
(`dub5.vectors`); its key tells which of the two, so that neither is ever served for the other. The stored form says
its version, so that a replica of another release reads or ignores it but never misreads it, and carries a
checksum, so that a corrupt value is a miss. Values are compressed where that saves at least a fifth; what it
saves and costs is measured in docs/reports/caching.md.

Births and ages go by Redis's clock, so that replicas need not agree about theirs. How far ours is from it is measured
with the readings of purges, which are made anyway. An answer of Redis's clock lies somewhere between our question and
its arrival, so the offset is known to within a round trip, and is left alone as long as it lies within that: replicas
whose clocks agree go by their own. Without Redis, and before it has answered, so do all.

A birth that lies ahead by more than TOLERANCE is nobody's: of a replica whose clock was wrong, of a Redis that was
replaced by one with another clock, or damage. How old such an answer is cannot be known, so it is good for nothing.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dub5.contract import Undecodable, clock_offset, decode
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Metrics
from dub5.vectors import NoVector, Vector, is_vector

VECTOR_KEY = "vector-"
"""What the key of a vector begins with; those of completions are hexadecimal digits."""

TOLERANCE = 2.0
"""Seconds by which a birth may lie ahead: much more than a round trip, and what two readings lie apart."""

_MAGIC = b"D5E"
_VERSION = 1
_CHECKSUM = 8
_PLAIN, _ZLIB = b"p", b"z"
_WORTH_SQUEEZING = 512
_LARGEST = 64 * 2**20
"""Bytes to which a stored value may expand, where nothing smaller is asked for; more is damage or malice."""
_Count = Annotated[int, Meta(ge=0, le=2**53)]

HEADER = _MAGIC + bytes([_VERSION])
"""What the stored form begins with."""
BORN_AT, BORN_DIGITS = len(HEADER), 16
"""Where the birth stands, in hexadecimal digits: scripts inside Redis compare births as text."""
_SUM_AT = BORN_AT + BORN_DIGITS
_PAYLOAD_AT = _SUM_AT + _CHECKSUM

_log = get_logger()


class Identity(msgspec.Struct, frozen=True, gc=False):
    """What is asked, as of which purges. A request after a purge has another version, so it never joins."""

    key: str
    version: str


class RedisClock:
    """Redis's time, in seconds since the epoch, as far as it is known here. `wall` is our own clock."""

    def __init__(self, metrics: Metrics, wall: Callable[[], float] = time.time) -> None:
        self.wall = wall
        self.offset = 0.0
        self._metrics = metrics
        self._differs = False

    def __call__(self) -> float:
        return self.wall() + self.offset

    def learn(self, read: float, *, asked: float) -> None:
        """Redis's clock read `read` after `asked`, of our own."""
        offset = clock_offset(self.offset, read, asked=asked, now=self.wall())
        if offset != self.offset:
            self.offset = offset
            self._metrics.redis_clock_offset.set(offset)
        if (abs(offset) > TOLERANCE) != self._differs:
            self._differs = not self._differs
            if self._differs:
                _log.warning("redis clock differs", seconds=round(offset, 3))


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One complete answer.

    `born` is when the provider's call began, in microseconds since the epoch: an answer is as old as the
    knowledge it was made from. `recompute` is how long that call took, in seconds.
    """

    body: bytes
    born: _Count
    recompute: Annotated[float, Meta(ge=0, le=1e9)]
    prompt_tokens: _Count
    completion_tokens: _Count

    def age(self, now: float) -> float:
        """Seconds since birth; never negative. How far ahead a birth may lie: TOLERANCE."""
        return max(0.0, now - self.born / 1e6)

    def size(self) -> int:
        """Bytes it takes in memory, near enough to bound a cache by."""
        return len(self.body) + 200


class CorruptEntry(ValueError):
    """The stored bytes are not an entry: damaged, or not ours."""


class ForeignVersion(ValueError):
    """An entry of another release, whole but not ours to read."""


_decoder = msgspec.msgpack.Decoder(Entry)
_completion = msgspec.json.Decoder(dict[str, Any])
_ENVELOPE = 100
"""Bytes that an entry has beside its body, at most."""


def born_digits(born: int) -> bytes:
    """A birth as it stands in the stored form; the order of the text is the order of the times."""
    return b"%016x" % born


def most_stored(most: int) -> int:
    """Bytes that the stored form of an entry has at most, of whose body there are at most `most`."""
    return _PAYLOAD_AT + 1 + most + _ENVELOPE


def pack(entry: Entry) -> bytes:
    """Magic, version, birth, checksum, codec, MessagePack."""
    encoded = msgspec.msgpack.encode(entry)
    payload = _PLAIN + encoded if is_vector(entry.body) else _squeezed(encoded)  # those are as good as random
    born = born_digits(entry.born)
    return HEADER + born + checksum(born + payload) + payload


def unpack(stored: bytes, most: int = _LARGEST) -> Entry:
    """The inverse of `pack`; raises CorruptEntry or ForeignVersion. The body has at most `most` bytes."""
    if stored[: len(_MAGIC)] != _MAGIC or len(stored) <= _PAYLOAD_AT:
        raise CorruptEntry
    if stored[len(_MAGIC)] != _VERSION:
        raise ForeignVersion
    payload = stored[_PAYLOAD_AT:]
    if stored[_SUM_AT:_PAYLOAD_AT] != checksum(stored[BORN_AT:_SUM_AT] + payload):
        raise CorruptEntry
    try:
        entry = decode(_decoder, _restored(payload, most + _ENVELOPE), most=most + _ENVELOPE)
    except (Undecodable, zlib.error):
        raise CorruptEntry from None
    if stored[BORN_AT:_SUM_AT] != born_digits(entry.born):
        raise CorruptEntry
    return entry


def _squeezed(plain: bytes) -> bytes:
    """A byte that names the codec, then the content."""
    if len(plain) >= _WORTH_SQUEEZING:
        squeezed = zlib.compress(plain, level=1)
        if len(squeezed) <= 0.8 * len(plain):
            return _ZLIB + squeezed
    return _PLAIN + plain


def _restored(payload: bytes, most: int) -> bytes:
    if payload[:1] == _PLAIN:
        return payload[1:]
    if payload[:1] != _ZLIB:
        raise CorruptEntry
    inflater = zlib.decompressobj()
    plain = inflater.decompress(payload[1:], most)
    if not inflater.eof:
        raise CorruptEntry
    return plain


def checksum(content: bytes) -> bytes:
    """Of birth and payload."""
    return hashlib.blake2b(content, digest_size=_CHECKSUM).digest()


def check_answer(key: str, body: bytes) -> None:
    """Undecodable where it is not what is kept under such a key, or could not be served."""
    if not key.startswith(VECTOR_KEY):
        check_completion(body)
        return
    try:
        Vector.stored(body)
    except NoVector as error:
        raise Undecodable(str(error)) from None


def check_completion(body: bytes) -> None:
    """Undecodable where it is no completion that could be served, whole or streamed. Memory has it from then on, so
    this is seldom done."""
    choices = decode(_completion, body, most=len(body)).get("choices") or []
    if not isinstance(choices, list) or not all(
        isinstance(choice, dict) and isinstance(choice.get("message"), dict) for choice in choices
    ):
        raise Undecodable("no completion")
