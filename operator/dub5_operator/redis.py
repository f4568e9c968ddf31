"""What the operator and the replicas exchange through Redis: samples and announced classes in, TTLs and purges out.

In: replicas write for as long as the key `SAMPLES_READER` says that an operator reads; it is written anew with each
reading. The stream is read once for all policies, from its beginning after a start, so that an operator that was away
for some minutes has missed nothing. What a release does not know, or cannot decode, is counted and left; a stream that
cannot be read at all is deleted, since replicas write another.

Out: the policy document is the operator's alone. It is compared with what Redis has each time, so that a flushed Redis,
or a document that another program wrote, is put right at the next reconciliation. Of two operators the one that began
last publishes, which a script in Redis sees to: the other one may have been cut off, and know of no policy's change.

The times that replicas write are of Redis's clock. How far ours is from it is measured here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import msgspec
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from dub5.contract import (
    CLASSES_KEY,
    MOST_BATCH,
    MOST_DOCUMENT,
    MOST_TERM,
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

PUBLISHED_FOR = 86_400.0
"""Seconds for which a document is in force."""
RENEW = 60.0
"""Seconds after which it is published again, though nothing has changed."""
SILENT = 300.0
"""Seconds without a new document after which an operator that was overtaken takes over again."""
GATHER = 1.0
"""Seconds between two documents."""

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


class Overtaken(Exception):
    """Another operator, which began later, publishes now."""


_PUBLISH_SCRIPT = """
local held, document = 0, ''
if redis.call('TYPE', KEYS[1]).ok == 'string' then document = redis.call('GETRANGE', KEYS[1], 0, MOST_DOCUMENT) end
if #document <= MOST_DOCUMENT then
  local fine, found = pcall(cjson.decode, document)
  local term = fine and type(found) == 'table' and tonumber(found.term) or 0
  if term >= 0 and term <= MOST_TERM then held = term end
end
if held > tonumber(ARGV[1]) or (held == tonumber(ARGV[1]) and ARGV[2] == 'begin') then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
return 1
""".replace("MOST_DOCUMENT", str(MOST_DOCUMENT)).replace("MOST_TERM", str(MOST_TERM))
"""Writes a document, unless an operator with a greater term has written the last one. Key: POLICY_KEY. Arguments: the
term, `begin` where it is new, the document. Gives whether it was written. See docs/adr/0033-who-publishes.md."""


class Publisher:
    """`redis` is an asyncio client; its errors are passed on. `clock` gives seconds since the epoch. Between two
    documents there are `gather` seconds at least: what comes meanwhile goes together, since replicas read each."""

    def __init__(
        self,
        redis: Any,
        clock: Callable[[], float],
        on_undecodable: OnUndecodable = ignored,
        *,
        gather: float = GATHER,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._on_undecodable = on_undecodable
        self._gather = gather
        self._classes: dict[str, ClassPolicy] = {}  # as they are wanted
        self._term = 0  # of ours; 0: not begun, or overtaken
        self._overtaken = False
        self._wanted = self._written = (
            0  # how often something was wanted, and what of it the last document had
        )
        self._renewed_at = self._wrote_at = float("-inf")
        self._lock = asyncio.Lock()

    @property
    def in_charge(self) -> bool:
        """Whether it is this operator that publishes, as far as is known."""
        return self._term > 0

    async def take_charge(self) -> bool:
        """Whether this operator publishes: the one that began last. One that was overtaken does so again where nothing
        has been published for SILENT seconds."""
        if self._term:
            return True
        async with self._lock:
            return self._term > 0 or await self._begin()

    async def in_force(self, class_name: str) -> ClassPolicy | None:
        """What is published for a class. Overtaken where that is another operator's."""
        await self._require()
        return self._classes.get(class_name)

    async def publish(self, class_name: str, policy: ClassPolicy | None) -> None:
        """Put a class's lifetimes in force; None: those of its configuration. Overtaken where another operator does."""
        await self._require()
        if policy is None:
            self._classes.pop(class_name, None)
        else:
            self._classes[class_name] = policy
        await self._write()

    async def renew(self, classes: Collection[str]) -> None:
        """Publish the same for longer, each RENEW seconds, and at once where it `retain`s less. Overtaken as above."""
        await self._require()
        if self.retain(classes) or self._clock() - self._renewed_at >= RENEW:
            await self._write()

    def retain(self, classes: Collection[str]) -> bool:
        """Forget other classes with the next document: nobody saw how their policies went. Whether there are any."""
        others = self._classes.keys() - set(classes)
        for name in others:
            del self._classes[name]
        return bool(others)

    async def purge(self, names: Sequence[str]) -> int:
        """Make every replica forget, within a second; gives the last stamp."""
        stamp, remaining = 0, iter(names)
        while some := list(itertools.islice(remaining, PURGED_AT_ONCE)):
            arguments = (*PURGE_KEYS, stamp, secrets.token_hex(4), *some)
            stamped, _ = await self._redis.eval(PURGE_SCRIPT, len(PURGE_KEYS), *arguments)
            stamp = int(stamped)
        await self._redis.publish(PURGE_CHANNEL, str(stamp))
        return stamp

    async def _require(self) -> None:
        if not await self.take_charge():
            raise Overtaken

    async def _begin(self) -> bool:
        found, now = await self._read(), self._clock()
        if self._overtaken and found is not None and abs(now - found.issued) < SILENT:
            return False
        if found is None or 0 < found.expires <= now:
            found = PolicyDocument(term=found.term if found is not None else 0)
        # By the clock, so that a Redis that was flushed does not make an operator that began before seem the later one.
        term = max(found.term + 1, int(now * 1000))
        if not await self._put(term, found.classes, now, "begin"):
            self._overtaken = True
            return False
        self._term, self._overtaken, self._classes = term, False, dict(found.classes)
        self._renewed_at = now
        return True

    async def _write(self) -> None:
        """Once, for all that is wanted when its turn comes."""
        self._wanted += 1
        wanted = self._wanted
        async with self._lock:
            if self._written >= wanted:
                return
            await asyncio.sleep(self._wrote_at + self._gather - time.monotonic())
            if not self._term:
                raise Overtaken
            wanted, now = self._wanted, self._clock()
            classes = dict(self._classes)
            found = await self._read()
            differs = found is None or (found.classes, found.term) != (classes, self._term)
            if differs or now - self._renewed_at >= RENEW:
                self._wrote_at = time.monotonic()
                if not await self._put(self._term, classes, now):
                    self._term, self._overtaken = 0, True
                    raise Overtaken
                self._renewed_at = now
                if differs:
                    await self._redis.publish(POLICY_CHANNEL, b"")
            self._written = wanted

    async def _put(self, term: int, classes: dict[str, ClassPolicy], now: float, *begin: str) -> bool:
        document = PolicyDocument(issued=now, classes=classes, expires=now + PUBLISHED_FOR, term=term)
        arguments = (POLICY_KEY, term, *(begin or ("",)), msgspec.json.encode(document))
        return bool(await self._redis.eval(_PUBLISH_SCRIPT, 1, *arguments))

    async def _read(self) -> PolicyDocument | None:
        """What is published. None where that cannot be read: replicas ignore it as well, and it is written anew."""
        try:
            found = await _read_document(self._redis, POLICY_KEY, _policies, self._on_undecodable, "policy")
        except Undecodable:
            return None
        return found or PolicyDocument()


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
