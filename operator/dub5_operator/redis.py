"""What the operator and the replicas exchange through Redis: samples and announced classes in, TTLs and purges out.

In: replicas write for as long as the key `SAMPLES_READER` says that an operator reads; it is written anew with each
reading. The stream is read once for all policies, from its beginning after a start, so that an operator that was away
for some minutes has missed nothing. What a release does not know, or cannot decode, is counted and left; a stream that
cannot be read at all is deleted, since replicas write another.

Out: the policy document is the operator's alone. It is compared with what Redis has each time, so that a flushed Redis,
or a document that another program wrote, is put right at the next reconciliation.

The times that replicas write are of Redis's clock. How far ours is from it is measured here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import msgspec
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from dub5.contract import (
    CLASSES_KEY,
    MOST_BATCH,
    MOST_DOCUMENT,
    POLICY_CHANNEL,
    POLICY_KEY,
    PURGE_CHANNEL,
    PURGE_KEYS,
    PURGE_SCRIPT,
    PURGED_AT_ONCE,
    READER_FOR,
    REDIS_TIME,
    SAMPLES,
    SAMPLES_READER,
    Access,
    Announcement,
    ClassPolicy,
    Decoder,
    PolicyDocument,
    SampleBatch,
    Undecodable,
    Verdict,
    clock_offset,
    decode,
)

REDIS_ERRORS = (RedisError, OSError, TimeoutError)
"""What a Redis that is away, or in trouble, raises."""

PAGE = 200
"""Batches at a time: some 2 MB."""
FRESH = 1.0
"""Seconds for which samples are not read again."""
READ_EVERY = 60.0
"""Seconds until they are read though no policy is due: Redis keeps five minutes at least, replicas write for five."""
SPAN = 10.0
"""Seconds: what came within them is learnt from at once."""
MOST_HELD = 50_000
"""Samples of one class that wait for its next reconciliation; above, the oldest are evicted."""

_MAX_LOOKUPS = 10**12
"""That one batch stands for."""

T = TypeVar("T")

OnUndecodable = Callable[[str, object], None]
"""Called with a value in Redis that cannot be read: of which kind it should be, and why it is not."""

_policies = msgspec.json.Decoder(PolicyDocument)
_batch = msgspec.msgpack.Decoder(SampleBatch)
_announcement = msgspec.json.Decoder(Announcement)


def ignored(_kind: str, _reason: object) -> None:
    """An OnUndecodable that does nothing."""


class Part(msgspec.Struct):
    """Of one class, what came within SPAN seconds. `began` and `at`: when the first and the last batch of it came, in
    seconds since the epoch by Redis's clock. `looked_up` None: some replica did not count."""

    began: float
    at: float
    accesses: list[Access] = []
    verdicts: list[Verdict] = []
    looked_up: float | None = 0.0


class Backlog(msgspec.Struct):
    """Of one class, in the order in which it came; `count` samples in all."""

    parts: deque[Part] = msgspec.field(default_factory=deque)
    count: int = 0


class Samples:
    """`redis` is an asyncio client; its errors are passed on. `clock` gives seconds since the epoch."""

    def __init__(
        self, redis: Any, clock: Callable[[], float], on_undecodable: OnUndecodable = ignored
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._offset = 0.0
        self._on_undecodable = on_undecodable
        self._last = b"0-0"
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()
        self._backlogs: defaultdict[str, Backlog] = defaultdict(Backlog)
        self.announcement: Announcement | None = None

    def now(self) -> float:
        """By Redis's clock, in seconds since the epoch."""
        return self._clock() + self._offset

    async def measure(self) -> None:
        """Measure how far our clock is from Redis's."""
        asked = self._clock()
        read = await self._redis.eval(REDIS_TIME, 1, SAMPLES)
        self._offset = clock_offset(self._offset, read, asked=asked, now=self._clock())

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
        return self._backlogs.pop(class_name, Backlog()).parts

    async def _read_classes(self) -> None:
        with contextlib.suppress(Undecodable):  # what was announced before may still be so
            self.announcement = await _read_document(
                self._redis, CLASSES_KEY, _announcement, self._on_undecodable, "classes"
            )

    async def _read_page(self, wanted: Collection[str]) -> bool:
        """Whether there may be more."""
        try:
            found = await self._redis.xrange(SAMPLES, min=b"(" + self._last, max="+", count=PAGE)
        except (ResponseError, InvalidResponse) as error:
            if isinstance(error, ResponseError) and not _is_damage(error):
                raise
            self._on_undecodable("samples", type(error).__name__)
            await self._redis.delete(SAMPLES)
            self._last = b"0-0"
            return False
        for identity, fields in found:
            self._last = identity
            try:
                batch = decode(_batch, fields.get(b"b", b""), most=MOST_BATCH)
            except Undecodable as error:
                self._on_undecodable("samples", error)
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
            backlog, part = self._backlogs[name], self._part(name, at)
            backlog.count += touched[name]
            if not batch.looked_up or not 0 <= batch.looked_up.get(name, 0) <= _MAX_LOOKUPS:
                part.looked_up = None
            elif part.looked_up is not None:
                part.looked_up += batch.looked_up.get(name, 0)
            while backlog.count > MOST_HELD and len(backlog.parts) > 1:
                oldest = backlog.parts.popleft()
                backlog.count -= len(oldest.accesses) + len(oldest.verdicts)

    def _part(self, class_name: str, at: float) -> Part:
        """Into which what came at that time goes."""
        parts = self._backlogs[class_name].parts
        if not parts or not parts[-1].began <= at < parts[-1].began + SPAN:
            parts.append(Part(at, at))
        parts[-1].at = at
        return parts[-1]


def _is_damage(error: ResponseError) -> bool:
    """Of another type; or its last entry has the greatest id, after which there is none."""
    return "WRONGTYPE" in str(error) or "invalid start ID" in str(error)


class Publisher:
    """`redis` is an asyncio client; its errors are passed on. `clock` gives seconds since the epoch."""

    def __init__(
        self, redis: Any, clock: Callable[[], float], on_undecodable: OnUndecodable = ignored
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._on_undecodable = on_undecodable
        self._classes: dict[str, ClassPolicy] | None = None  # not known before the first reading
        self._lock = asyncio.Lock()

    async def in_force(self, class_name: str) -> ClassPolicy | None:
        """What is published for a class."""
        async with self._lock:
            if self._classes is None:
                self._classes = dict(await self._read() or {})
        return self._classes.get(class_name)

    async def publish(self, class_name: str, policy: ClassPolicy | None) -> None:
        """Put a class's lifetimes in force; None: those of its configuration."""
        async with self._lock:
            found = await self._read()
            if self._classes is None:
                self._classes = dict(found or {})
            if policy is None:
                self._classes.pop(class_name, None)
            else:
                self._classes[class_name] = policy
            if found != self._classes:
                document = PolicyDocument(issued=self._clock(), classes=self._classes)
                await self._redis.set(POLICY_KEY, msgspec.json.encode(document))
                await self._redis.publish(POLICY_CHANNEL, b"")

    async def purge(self, names: Sequence[str]) -> int:
        """Make every replica forget, within a second; gives the last stamp."""
        stamp, remaining = 0, iter(names)
        while some := list(itertools.islice(remaining, PURGED_AT_ONCE)):
            arguments = (*PURGE_KEYS, stamp, secrets.token_hex(4), *some)
            stamped, _ = await self._redis.eval(PURGE_SCRIPT, len(PURGE_KEYS), *arguments)
            stamp = int(stamped)
        await self._redis.publish(PURGE_CHANNEL, str(stamp))
        return stamp

    async def _read(self) -> dict[str, ClassPolicy] | None:
        """What is published. None where that cannot be read: replicas ignore it as well, and it is written anew."""
        try:
            found = await _read_document(self._redis, POLICY_KEY, _policies, self._on_undecodable, "policy")
        except Undecodable:
            return None
        return found.classes if found is not None else {}


async def _read_document(
    redis: Any, key: str, decoder: Decoder[T], on_undecodable: OnUndecodable, kind: str
) -> T | None:
    """What stands in Redis under one name; None where there is nothing. Undecodable where it cannot be read, of which
    `on_undecodable` is notified.

    Redis's own errors are passed on.
    """
    try:
        stored = await redis.getrange(key, 0, MOST_DOCUMENT)
        return decode(decoder, stored, most=MOST_DOCUMENT) if stored else None
    except (Undecodable, InvalidResponse) as error:
        reason = str(error)
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        reason = "of another type"
    on_undecodable(kind, reason)
    raise Undecodable(reason)
