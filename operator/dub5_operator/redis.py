"""What the operator and the replicas exchange through Redis: samples and announced classes in, TTLs and purges out.

In: replicas write for as long as the key `SAMPLES_READER` says that an operator reads; it is written anew with each
reading. The stream is read once for all policies, page by page, and after a start from where an operator before this
one was, so that one that was away for some minutes has missed nothing, and has nothing twice. What a release does not
know, or cannot decode, is counted and left; a stream that cannot be read at all is deleted, since replicas write
another.

Out: the policy document is the operator's alone. It is compared with what Redis has each time, so that a flushed Redis,
or a document that another program wrote, is put right at the next reconciliation. Of two operators the one that began
last publishes, which a script in Redis sees to: the other one may have been cut off, and know of no policy's change.

The times that replicas write are of Redis's clock. How far ours is from it is measured here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from redis.exceptions import InvalidResponse, RedisClusterException, RedisError, ResponseError

from dub5.contract import (
    CLASSES_KEY,
    LONGEST_TTL,
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
    Announcement,
    ClassPolicy,
    Decoder,
    PolicyDocument,
    SampleBatch,
    Undecodable,
    clock_offset,
    decode,
)
from dub5_operator.learnings import Id, Learnings, Part, has_passed
from dub5_operator.planner.samples import Lookups

REDIS_ERRORS = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What a Redis that is away, or in trouble, raises; the second is not one of the first."""
_MOST_SAID = 200
"""Characters."""

PAGE = 50
"""Batches at a time: some 500 kB, and twenty times that as objects."""
READ_FOR, PAUSE = 4.0, 30.0
"""Seconds of CPU for which an operator that begins reads at a time, and seconds between, so that others get a turn."""
FRESH = 1.0
"""Seconds for which samples are not read again."""
READ_EVERY = 60.0
"""Seconds until they are read though no policy is due: Redis keeps five minutes at least, replicas write for five."""
HEARD_FOR = 120.0
"""Seconds for which a replica's threshold holds that writes nothing: two of its longest waits, with up to a hundred of
them. With more some are forgotten between two batches, while others with much the same threshold are there."""
HEAVY_FOR = 600.0
"""Seconds for which a key counts to the exact stratum of a replica that has not told of it again."""
_LEAST_THRESHOLD = 1e-9

PUBLISHED_FOR = 86_400.0
"""Seconds for which a document is in force."""
RENEW = 60.0
"""Seconds after which it is published again, though nothing has changed."""
SILENT = 300.0
"""Seconds without a new document after which an operator that was overtaken takes over again."""
A_CLASS = 600
"""Bytes of a class in the document, but for its name: more than any has."""
GATHER = 1.0
"""Seconds between two documents."""

_MAX_LOOKUPS = 10**12
"""That one batch stands for."""

T = TypeVar("T")

OnUndecodable = Callable[[str, object], None]
"""Called with a value in Redis that cannot be read: of which kind it should be, and why it is not."""

_policies = msgspec.json.Decoder(PolicyDocument)
_class_policy = msgspec.json.Decoder(ClassPolicy)
_batch = msgspec.msgpack.Decoder(SampleBatch)
_announcement = msgspec.json.Decoder(Announcement)


def ignored(_kind: str, _reason: object) -> None:
    """An OnUndecodable that does nothing."""


def trouble(error: Exception) -> str:
    """One of REDIS_ERRORS, for people: its kind, and what Redis or the system said."""
    return ": ".join(filter(None, (type(error).__name__, str(error)[:_MOST_SAID].rstrip("."))))


class _Replica(msgspec.Struct):
    """What one recorded of late. `heavy`: keys of its exact stratum, and when each was in it."""

    at: float = 0.0
    threshold: float = 1.0
    heavy: dict[int, float] = {}


class Thresholds:
    """Makes one sample of those of several replicas, each of which records keys below a threshold of its own.

    A key between two thresholds is recorded by one replica and not by the other, so only those below all of them can be
    replayed, which is how samples of SHARDS are merged. Those of the exact stratum are recorded whatever their hash:
    they count as one where all replicas that leave anything out have them in theirs. Times are seconds since the epoch.
    """

    def __init__(self) -> None:
        self._replicas: dict[str, _Replica] = {}

    def note(self, batch: SampleBatch, at: float) -> None:
        """A batch came, at that time."""
        said = [batch.threshold] if batch.threshold else [each.threshold for each in batch.accesses]
        replica = self._replicas.setdefault(batch.replica, _Replica())
        replica.at = at
        replica.threshold = min(
            (each for each in said if _LEAST_THRESHOLD < each <= 1), default=replica.threshold
        )
        if replica.threshold < 1:
            replica.heavy.update((each.key, at) for each in batch.accesses if each.threshold == 1)
        replica.heavy = {key: seen for key, seen in replica.heavy.items() if seen > at - HEAVY_FOR}
        self._replicas = {name: each for name, each in self._replicas.items() if each.at > at - HEARD_FOR}

    def merged(self, lookups: Lookups) -> Lookups:
        """Those that all replicas would have recorded, each with the threshold that holds for all."""
        sampling = [each for each in self._replicas.values() if each.threshold < 1]
        if not sampling:
            return lookups
        lowest = min(each.threshold for each in sampling)
        columns = lookups.columns()
        keys = columns[Lookups.KEY]
        heavy = np.ones(len(keys), dtype=bool)
        for replica in sampling:
            heavy &= np.isin(keys, np.fromiter(replica.heavy, dtype=float))
        columns[Lookups.THRESHOLD] = np.where(heavy, 1.0, lowest)
        return Lookups.of(columns[:, heavy | (keys < lowest * 2**48)])


class Samples:
    """`redis` is an asyncio client; its errors are passed on. `clock` gives seconds since the epoch. `of` are the
    classes that are learnt of, all where it is None. With `looks_on` nothing is written: nobody samples for it."""

    def __init__(
        self,
        redis: Any,
        clock: Callable[[], float],
        on_undecodable: OnUndecodable = ignored,
        *,
        of: Collection[str] | None = None,
        looks_on: bool = False,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._of = of
        self._looks_on = looks_on
        self._offset = 0.0
        self._on_undecodable = on_undecodable
        self._last: Id | None = None  # of what was read; not known before the first reading
        self._read_at = float("-inf")
        self.behind = 0.0
        """Seconds of samples that are still to be read."""
        self._most_behind = math.inf  # with each reading less, until there is nothing left
        self._lock = asyncio.Lock()
        self._thresholds = Thresholds()
        self._parts: dict[str, Part] = {}  # what was read and is not learnt yet
        self.learnings = Learnings(redis, on_undecodable)
        self.announcement: Announcement | None = None

    def now(self) -> float:
        """By Redis's clock, in seconds since the epoch."""
        return self._clock() + self._offset

    async def measure(self) -> None:
        """Measure how far our clock is from Redis's."""
        asked = self._clock()
        read = await self._redis.eval(REDIS_TIME, 1, SAMPLES)
        self._offset = clock_offset(self._offset, read, asked=asked, now=self._clock())

    async def refresh(
        self,
        wanted: Collection[str],
        *,
        every: float = FRESH,
        learn: Collection[str] | None = None,
        most: float = math.inf,
    ) -> None:
        """Read what is new, page by page; not more often than `every` seconds. Of all classes that replicas announce,
        those that are wanted first. What came of the classes `learn` is learnt from now; None: of all. Of others that
        may wait until there is more of it, since little at a time takes as much work as much.

        What there is when it begins to read may be hours of a thousand classes: after `most` seconds of CPU the rest of
        it waits for the next time, PAUSE seconds later, and it is `behind` until the time after the last."""
        async with self._lock:
            if has_passed(PAUSE if self.behind else every, self._read_at, self._clock()):
                await self._read(wanted, most)
            if self.behind > FRESH:
                return
            for name in list(self._parts) if learn is None else self._parts.keys() & set(learn):
                self._fold(name)

    async def save(self, decided: str) -> None:
        """Store what was learnt, of which classes that is due; that one was just decided on."""
        async with self._lock:
            if self._last is not None:
                now = self.now()
                due = self.learnings.due(now, decided)
                for name in self._parts.keys() & due:
                    self._fold(name)
                await self.learnings.save(due, self._last, now)

    async def _read(self, wanted: Collection[str], most: float) -> None:
        if not self._looks_on:
            await self._redis.set(SAMPLES_READER, b"1", ex=READER_FOR)
        await self._read_classes()
        if self.announcement is None:
            return
        announced = self._narrowed(self.announcement)
        begun = await self.learnings.know(announced, wanted, self.now())
        self._last = begun if self._last is None else self._last
        before, until = self._last, time.process_time() + most
        was_behind, self.behind = self.behind > FRESH, 0.0
        while await self._read_page():
            behind = max(self.now() - self._last[0] / 1000, 2 * FRESH)
            if time.process_time() > until and behind < self._most_behind:
                self.behind = behind
                break
        if was_behind and not self.behind:
            self.behind = FRESH  # to learn from the last of it, and to decide, are work as well
        self._most_behind = self.behind
        self._read_at = self._clock()
        if self._last == before and await self._is_another():
            learnings = Learnings(self._redis, self._on_undecodable)
            last = await learnings.know(announced, wanted, self.now())
            self._parts.clear()
            self.learnings, self._last = learnings, last

    async def _is_another(self) -> bool:
        """Whether Redis has begun anew with a clock that is behind: all that came since would seem to have been read,
        and what was learnt is of times that are yet to come."""
        newest = await self._redis.xrevrange(SAMPLES, count=1)
        return bool(newest) and _id(newest[0][0]) < (self._last or (0, 0))

    async def _read_classes(self) -> None:
        with contextlib.suppress(Undecodable):  # what was announced before may still be so
            self.announcement = await _read_document(
                self._redis, CLASSES_KEY, _announcement, self._on_undecodable, "classes"
            )

    def _narrowed(self, announcement: Announcement) -> Announcement:
        if self._of is None:
            return announcement
        classes = {name: each for name, each in announcement.classes.items() if name in self._of}
        return msgspec.structs.replace(announcement, classes=classes)

    async def _read_page(self) -> bool:
        """Whether there may be more."""
        last = self._last or (0, 0)
        try:
            found = await self._redis.xrange(SAMPLES, min=f"({last[0]}-{last[1]}", max="+", count=PAGE)
        except (ResponseError, InvalidResponse) as error:
            if self._looks_on or (isinstance(error, ResponseError) and not _is_damage(error)):
                raise
            self._on_undecodable("samples", type(error).__name__)
            await self._redis.delete(SAMPLES)
            self._last = (0, 0)
            return False
        for identity, fields in found:
            self._last = _id(identity)
            try:
                batch = decode(_batch, fields.get(b"b", b""), most=MOST_BATCH)
            except Undecodable as error:
                self._on_undecodable("samples", error)
                continue
            self._sort(batch, self._last)
        return len(found) == PAGE

    def _sort(self, batch: SampleBatch, identity: Id) -> None:
        at = identity[0] / 1000
        names = {
            each.class_name for found in (batch.accesses, batch.verdicts, batch.canaries) for each in found
        }
        new: dict[str, Part] = {}
        for name in names | batch.looked_up.keys():
            if self.learnings.lacks(name, identity):
                new[name] = found = self._part(name, batch.ttls.get(name, -1.0), at)
                counted = batch.looked_up.get(name, 0) if batch.looked_up else -1
                if not 0 <= counted <= _MAX_LOOKUPS:
                    found.looked_up = None
                elif found.looked_up is not None:
                    found.looked_up += counted
        self._thresholds.note(batch, at)  # what came before is learnt from by what was known then
        for access in batch.accesses:
            if (part := new.get(access.class_name)) is not None:
                part.accesses.add(access)
        for verdict in batch.verdicts:
            if (part := new.get(verdict.class_name)) is not None:
                part.verdicts.add(verdict)
        for canary in batch.canaries:
            if (part := new.get(canary.class_name)) is not None:
                part.canaries.append(canary)

    def _part(self, name: str, ttl: float, at: float) -> Part:
        """To which belongs what came then of a class, whose TTL was that one; below 0: nobody said."""
        part = self._parts.get(name)
        if part is not None and part.is_whole(ttl, at):
            self._fold(name)
            part = None
        if part is None:
            part = self._parts[name] = Part(at, at)
        part.at = at
        if 0 <= ttl <= LONGEST_TTL:
            part.ttl = ttl
        return part

    def _fold(self, name: str) -> None:
        part = self._parts.pop(name)
        part.accesses = self._thresholds.merged(part.accesses)
        self.learnings.fold(name, part, self.now())


def _id(identity: bytes) -> Id:
    milliseconds, number = map(int, identity.split(b"-"))
    return milliseconds, number


def _is_damage(error: ResponseError) -> bool:
    """Of another type; or its last entry has the greatest id, after which there is none."""
    return "WRONGTYPE" in str(error) or "invalid start ID" in str(error)


class Overtaken(Exception):
    """Another operator, which began later, publishes now."""


class TooMany(Exception):
    """With a class more, the document would be larger than replicas read; what is published stays. `classes` it has."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.classes = classes


_PUBLISH_SCRIPT = """
local held, document = 0, ''
if redis.call('TYPE', KEYS[1]).ok == 'string' then document = redis.call('GETRANGE', KEYS[1], 0, MOST_DOCUMENT) end
if #document <= MOST_DOCUMENT then
  local fine, found = pcall(cjson.decode, document)
  local term = fine and type(found) == 'table' and tonumber(found.term) or 0
  if term >= 0 and term < MOST_TERM then held = term end
end
local later = held > tonumber(ARGV[1]) or (held == tonumber(ARGV[1]) and ARGV[2] == 'begin')
if later and (ARGV[2] ~= 'replace' or document ~= ARGV[4]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
return 1
""".replace("MOST_DOCUMENT", str(MOST_DOCUMENT)).replace("MOST_TERM", str(MOST_TERM))
"""Writes a document, unless an operator with a greater term has written the last one. Key: POLICY_KEY. Arguments: the
term, `begin` where it is new or `replace` where what is there is to go whatever its term is, the document, and what is
to go. Gives whether it was written. See docs/adr/0033-who-publishes.md."""


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
        self._unreadable = (0, 0.0)  # a hash of what could not be read, and since when
        # How often something was wanted, and what of it the last document had.
        self._wanted = self._written = 0
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
        """Put a class's lifetimes in force; None: those of its configuration. Overtaken where another operator does,
        TooMany where there is no room for one more, ValueError where replicas would refuse it, and all others with it.
        """
        await self._require()
        if policy is None:
            self._classes.pop(class_name, None)
        else:
            if class_name not in self._classes and self._is_full(class_name):
                raise TooMany(len(self._classes))
            self._classes[class_name] = _class_policy.decode(msgspec.json.encode(policy))
        await self._write()

    async def renew(self, classes: Collection[str]) -> None:
        """Publish the same for longer, each RENEW seconds, and at once where it `retain`s less. Overtaken as above."""
        await self._require()
        if self.retain(classes) or has_passed(RENEW, self._renewed_at, self._clock()):
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

    def _is_full(self, class_name: str) -> bool:
        """A class is refused before any of those that are there would have to be: each may yet become larger."""
        names = (class_name, *self._classes)
        return sum(A_CLASS + len(name.encode()) for name in names) > MOST_DOCUMENT

    async def _require(self) -> None:
        if not await self.take_charge():
            raise Overtaken

    async def _begin(self) -> bool:
        found, now = await self._read(), self._clock()
        if self._overtaken and found is not None and abs(now - found.issued) < SILENT:
            return False
        is_readable = found is not None
        if found is None or 0 < found.expires <= now:
            found = PolicyDocument(term=found.term if found is not None else 0)
        # By the clock, so that a Redis that was flushed does not make an operator that began before seem the later one.
        held = found.term if found.term < MOST_TERM else 0  # the greatest is damage: none comes after it
        term = max(held + 1, int(now * 1000))
        if not await self._put(term, found.classes, now, "begin"):
            # What has a later term and cannot be read is another release's, or nobody's.
            left = b"" if is_readable else await self._left(now)
            if not left or not await self._put(term, found.classes, now, "replace", left):
                self._overtaken = True
                return False
        self._term, self._overtaken, self._classes = term, False, dict(found.classes)
        self._renewed_at = now
        return True

    async def _left(self, now: float) -> bytes:
        """What is published where it has stood there for SILENT seconds as it is; else nothing."""
        stored: bytes = await self._redis.getrange(POLICY_KEY, 0, MOST_DOCUMENT)
        if self._unreadable[0] != hash(stored) or now < self._unreadable[1]:
            self._unreadable = (hash(stored), now)
        return stored if now - self._unreadable[1] >= SILENT else b""

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
            if differs or has_passed(RENEW, self._renewed_at, now):
                self._wrote_at = time.monotonic()
                if not await self._put(self._term, classes, now):
                    self._term, self._overtaken = 0, True
                    raise Overtaken
                self._renewed_at = now
                if differs:
                    await self._redis.publish(POLICY_CHANNEL, b"")
            self._written = wanted

    async def _put(
        self, term: int, classes: dict[str, ClassPolicy], now: float, how: str = "", left: bytes = b""
    ) -> bool:
        document = PolicyDocument(issued=now, classes=classes, expires=now + PUBLISHED_FOR, term=term)
        arguments = (POLICY_KEY, term, how, msgspec.json.encode(document), left)
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
