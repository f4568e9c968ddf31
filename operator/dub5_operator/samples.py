"""Reads what replicas wrote: batches from the stream in Redis, and the classes that they announce.

Replicas write for as long as the key `SAMPLES_READER` says that somebody reads; it is written anew with each reading.

The stream is read once for all policies, from its beginning after a start, so that an operator that was away for some
minutes has missed nothing. What a release does not know, or cannot decode, is counted and left; a stream that cannot be
read at all is deleted, since replicas write another.

Replicas tell times by Redis's clock. How far ours is from it is measured here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from redis.exceptions import InvalidResponse, ResponseError

from dub5.contract import (
    CLASSES_KEY,
    MOST_BATCH,
    READER_FOR,
    REDIS_TIME,
    SAMPLES,
    SAMPLES_READER,
    Access,
    Announcement,
    SampleBatch,
    Undecodable,
    Verdict,
    clock_offset,
    decode,
    seconds_of,
)
from dub5_operator.documents import read_document
from dub5_operator.metrics import Noted, ignored

PAGE = 200
"""Batches at a time: some 2 MB."""
FRESH = 1.0
"""Seconds for which what was read is not read again."""
READ_EVERY = 60.0
"""Seconds until it is read though no policy is due: Redis keeps five minutes at least, replicas write for five."""
SPAN = 10.0
"""Seconds: what came within them is learnt from at once."""
MOST_HELD = 50_000
"""Samples of one class that wait for its next look; above, the oldest go."""

_MOST_LOOK_UPS = 10**12
"""That one batch stands for."""

_batch = msgspec.msgpack.Decoder(SampleBatch)
_announcement = msgspec.json.Decoder(Announcement)


class Part(msgspec.Struct):
    """Of one class, what came within SPAN seconds. `began` and `at`: when the first and the last batch of it came, in
    seconds since the epoch by Redis's clock. `looked_up` None: some replica did not count."""

    began: float
    at: float
    accesses: list[Access] = []
    verdicts: list[Verdict] = []
    looked_up: float | None = 0.0


class Held(msgspec.Struct):
    """Of one class, in the order in which it came; `count` samples in all."""

    parts: deque[Part] = msgspec.field(default_factory=deque)
    count: int = 0


class Samples:
    """`redis` is an asyncio client; its errors are passed on. `clock` gives seconds since the epoch."""

    def __init__(self, redis: Any, clock: Callable[[], float], undecodable: Noted = ignored) -> None:
        self._redis = redis
        self._clock = clock
        self._offset = 0.0
        self._undecodable = undecodable
        self._last = b"0-0"
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()
        self._held: defaultdict[str, Held] = defaultdict(Held)
        self.announcement: Announcement | None = None

    def now(self) -> float:
        """By Redis's clock, in seconds since the epoch."""
        return self._clock() + self._offset

    async def measure(self) -> None:
        """See how far our clock is from Redis's."""
        asked = self._clock()
        told = seconds_of(await self._redis.eval(REDIS_TIME, 1, SAMPLES))
        self._offset = clock_offset(self._offset, told, asked=asked, now=self._clock())

    async def refresh(self, wanted: Collection[str], *, every: float = FRESH) -> None:
        """Read what is new, keeping what concerns the classes that are wanted; not more often than `every` seconds."""
        async with self._lock:
            if self._clock() - self._read_at < every:
                return
            await self._redis.set(SAMPLES_READER, b"1", ex=READER_FOR)
            await self._read_classes()
            more = True
            while more:
                more = await self._read_page(wanted)
            self._read_at = self._clock()

    def take(self, class_name: str) -> Collection[Part]:
        """What came for a class since this was last called, in the order in which it came."""
        return self._held.pop(class_name, Held()).parts

    async def _read_classes(self) -> None:
        with contextlib.suppress(Undecodable):  # what was announced before may still be so
            self.announcement = await read_document(
                self._redis, CLASSES_KEY, _announcement, self._undecodable, "classes"
            )

    async def _read_page(self, wanted: Collection[str]) -> bool:
        """Whether there may be more."""
        try:
            found = await self._redis.xrange(SAMPLES, min=b"(" + self._last, max="+", count=PAGE)
        except (ResponseError, InvalidResponse) as error:
            if isinstance(error, ResponseError) and not _is_damage(error):
                raise
            self._undecodable("samples", type(error).__name__)
            await self._redis.delete(SAMPLES)
            self._last = b"0-0"
            return False
        for identity, fields in found:
            self._last = identity
            try:
                batch = decode(_batch, fields.get(b"b", b""), most=MOST_BATCH)
            except Undecodable as error:
                self._undecodable("samples", error)
                continue
            self._sort(batch, wanted, int(identity.split(b"-")[0]) / 1000)
        return len(found) == PAGE

    def _sort(self, batch: SampleBatch, wanted: Collection[str], at: float) -> None:
        for access in batch.accesses:
            if access.class_name in wanted:
                self._part(access.class_name, at).accesses.append(access)
        for verdict in batch.verdicts:
            if verdict.class_name in wanted:
                self._part(verdict.class_name, at).verdicts.append(verdict)
        touched = Counter(access.class_name for access in batch.accesses)
        touched.update(verdict.class_name for verdict in batch.verdicts)
        for name in (touched.keys() | batch.looked_up.keys()) & set(wanted):
            held, part = self._held[name], self._part(name, at)
            held.count += touched[name]
            if not batch.looked_up or not 0 <= batch.looked_up.get(name, 0) <= _MOST_LOOK_UPS:
                part.looked_up = None
            elif part.looked_up is not None:
                part.looked_up += batch.looked_up.get(name, 0)
            while held.count > MOST_HELD and len(held.parts) > 1:
                oldest = held.parts.popleft()
                held.count -= len(oldest.accesses) + len(oldest.verdicts)

    def _part(self, class_name: str, at: float) -> Part:
        """Into which what came at that time goes."""
        parts = self._held[class_name].parts
        if not parts or not parts[-1].began <= at < parts[-1].began + SPAN:
            parts.append(Part(at, at))
        parts[-1].at = at
        return parts[-1]


def _is_damage(error: ResponseError) -> bool:
    """Of another type; or its last entry has the greatest id, after which there is none."""
    return "WRONGTYPE" in str(error) or "invalid start ID" in str(error)
