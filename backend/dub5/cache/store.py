"""The answers that are stored: in this replica's memory, and in Redis, where all replicas share them.

`recall` looks in memory only and never awaits, so that the commonest hit costs no task switch. `find` asks Redis, and
learns in the same breath what was purged. `keep` stores in both. What an entry is good for is `freshness`'s decision;
which answers belong to which purges is `purges`'.

Memory is bounded in bytes. Moka's W-TinyLFU admits an answer only where it is likelier to be asked for again than what
it would push out, so that a scan of questions asked once does not evict the hot ones. Calls into it take well under a
microsecond and hold no lock across an await.

An error of Redis is never one of a request: a failed read is a miss, a failed write is a lost copy, both counted. So is
what cannot be an answer of ours, whoever wrote it; the next answer takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from moka_py import Moka
from redis.asyncio.client import Pipeline

from dub5.cache.comparison import Comparison
from dub5.cache.entry import (
    HEADER,
    TOLERANCE,
    CorruptEntry,
    Entry,
    ForeignVersion,
    Identity,
    born_digits,
    check_answer,
    most_stored,
    pack,
    unpack,
)
from dub5.cache.freshness import Directives, Freshness, Lifetimes, judge
from dub5.cache.purges import IN_FORCE, Purges
from dub5.contract import Undecodable, entry_key
from dub5.redis.link import RedisLink, RedisUnavailable
from dub5.telemetry.background import Background, BackgroundTask

_SYNCHRONISE_INTERVAL = 0.5
"""Seconds between two readings of the purges: half of what is promised."""

# An answer born later is never replaced by one born earlier, whichever of two replicas writes last. One that says that
# it is yet to be born, damaged or of a clock gone wrong, is, and so is what is no string.
_PUT = """
local held = redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[3] + 15)
if type(held) == 'string' and string.sub(held, 1, #ARGV[3]) == ARGV[3] then
  local born = string.sub(held, #ARGV[3] + 1)
  if born > string.sub(ARGV[1], #ARGV[3] + 1, #ARGV[3] + 16) and born <= ARGV[4] then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class CacheLookup(msgspec.Struct, frozen=True, gc=False):
    """Which answer, and what the request and its class ask of it. `names` are those that a purge may name.

    `words` is the request as it was worded, so that one may be told from another with the same key. `prices` are what a
    token of the prompt and one of the answer cost, in dollars. `by_user`: the answer belongs to one user.
    """

    key: str
    names: tuple[str, ...]
    lifetimes: Lifetimes
    directives: Directives
    class_name: str = "default"
    compare: Comparison = "text"
    words: Any = None
    prices: tuple[float, float] = (0.0, 0.0)
    by_user: bool = False


class CacheHit(msgspec.Struct, frozen=True, gc=False):
    """A stored answer, where it was, and what it is good for."""

    entry: Entry
    tier: str
    freshness: Freshness


class LocalEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry in memory, and since when it is there (monotonic seconds)."""

    entry: Entry
    since: float


class LocalCache:
    """Entries in memory by identity; `capacity` in bytes."""

    def __init__(self, capacity: int) -> None:
        self._entries: Moka[tuple[str, str], LocalEntry] = Moka(max(capacity, 1), weigher=_weight)

    def get(self, identity: Identity) -> LocalEntry | None:
        return self._entries.get((identity.key, identity.version))

    def put(self, identity: Identity, entry: Entry, *, seconds: float) -> None:
        """Keep for at most `seconds`; may be refused or evicted earlier."""
        self._entries.set((identity.key, identity.version), LocalEntry(entry, time.monotonic()), ttl=seconds)

    def count(self) -> int:
        self._entries.run_pending_tasks()
        return self._entries.count()

    def bytes(self) -> int:
        self._entries.run_pending_tasks()
        return self._entries.weighted_size()


class _Reading:
    """A look-up in Redis that is under way, for all who want the same: `done` has a result when it is over, False where
    it was given up, since its request was cancelled."""

    __slots__ = ("began", "done", "entry")

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.entry: Entry | None = None


class AnswerStore:
    """Both tiers. `clock` gives seconds since the epoch: births and ages are by it. `link` is None without Redis.

    `enabled` is False where no answer is to be stored.
    """

    def __init__(
        self,
        local: LocalCache,
        link: RedisLink | None,
        purges: Purges,
        *,
        max_entry: int = 2**20,
        background: Background | None = None,
        clock: Callable[[], float] = time.time,
        enabled: bool = True,
    ) -> None:
        self.enabled = enabled
        self.max_entry = max_entry
        self._most_stored = most_stored(max_entry)
        self.now = clock
        self._local = local
        self._link = link
        self._purges = purges
        self._readings: dict[Identity, _Reading] = {}
        self._purge_reading: asyncio.Future[bool | None] | None = None
        self._background = background or Background()
        self._failures = self._background.failures("cache-lookup")
        self._synchroniser: BackgroundTask | None = None
        self._nudged = asyncio.Event()

    async def start(self) -> None:
        if self._link is not None and self.enabled:
            # So that the first request asks under the installation's name.
            with self._background.noting("purge-reader"), contextlib.suppress(RedisUnavailable):
                await self._purges.synchronise()
            self._synchroniser = self._background.start("purge-reader", self._keep_synchronised)

    async def stop(self) -> None:
        if self._synchroniser is not None:
            await self._synchroniser.stop()

    async def purge(self, names: Sequence[str]) -> bool:
        """Forget every answer that belongs to one of `names`; whether all replicas will know within a second."""
        return await self._purges.purge(names)

    async def on_purged(self, _: bytes) -> None:
        """Another replica purged something: read it at once."""
        self._nudged.set()

    def occupancy(self) -> tuple[int, int]:
        """Entries and bytes in memory."""
        return self._local.count(), self._local.bytes()

    def identity(self, lookup: CacheLookup) -> Identity:
        """Under which name the answer is kept now; another one after each purge that concerns it."""
        return Identity(lookup.key, self._purges.version(lookup.names))

    def recall(self, lookup: CacheLookup) -> CacheHit | None:
        """What memory has, good for something or not."""
        held = self._local.get(self.identity(lookup))
        if held is None or not self._purges.confirmed(held.since):
            return None
        return self._judged(held.entry, "local", lookup)

    async def find(self, lookup: CacheLookup) -> CacheHit | None:
        """What Redis has, else what memory has."""
        if self._link is None:
            return self.recall(lookup)
        identity = self.identity(lookup)
        entry = await self._read(identity, self._link)
        if identity != self.identity(lookup):  # a purge came to our knowledge with the reading
            identity = self.identity(lookup)
            entry = await self._read(identity, self._link)
        if self._purges.behind:
            self._nudged.set()
        hit = self._judged(entry, "shared", lookup) if entry is not None else None
        if entry is None or hit is None:
            return self.recall(lookup)
        self._keep_locally(identity, entry, lookup.lifetimes)
        return hit

    async def take_over(self, identity: Identity, lifetimes: Lifetimes) -> bytes | None:
        """The whole answer that another replica has just stored."""
        # Never what another look-up reads: that may have begun before the answer was stored.
        entry = await self._read_alone(identity, self._link) if self._link is not None else None
        if entry is None or self._is_unborn(entry):
            return None
        self._keep_locally(identity, entry, lifetimes)
        return entry.body

    async def store(self, identity: Identity, entry: Entry, lifetimes: Lifetimes) -> bool:
        """Keep an answer in both tiers; whether it was fit to be kept."""
        now = self.now()
        left = lifetimes.kept - entry.age(now)
        if len(entry.body) > self.max_entry or left <= 0 or self._is_unborn(entry):
            return False
        if self._link is not None:
            name, packed = entry_key(identity.key, identity.version), pack(entry)
            arguments = (packed, max(1, int(left * 1000)), HEADER, born_digits(int(now * 1e6)))
            # Where Redis is away the copy there is lost, and the one here is kept all the same.
            with contextlib.suppress(RedisUnavailable):
                if not await self._link.run("set", lambda client: client.eval(_PUT, 1, name, *arguments)):
                    return True  # a younger answer is there already, and the better one to find
        self._keep_locally(identity, entry, lifetimes)
        return True

    async def _read(self, identity: Identity, link: RedisLink) -> Entry | None:
        """What Redis has, read once for all who ask meanwhile: a thousand clients with one question must not mean a
        thousand reads. None where there is nothing, or nothing that can be trusted.

        The first of them reads, the others wait for it; if it leaves before that is done, the next one reads.
        """
        while (reading := self._readings.get(identity)) is not None:
            # One that was begun long ago, before this process was stopped for a while, may not know of purges.
            if reading.began < time.monotonic() - IN_FORCE:
                break
            if await asyncio.shield(reading.done):
                return reading.entry
        reading = self._readings[identity] = _Reading()
        try:
            try:
                reading.entry = await self._read_alone(identity, link)
            except Exception as error:  # noqa: BLE001  # a defect there must not cost an answer: it is a miss
                self._failures.note(error)
            reading.done.set_result(True)
            return reading.entry
        finally:
            if not reading.done.done():
                reading.done.set_result(False)
            if self._readings.get(identity) is reading:  # else it was replaced by a later one
                del self._readings[identity]

    async def _read_alone(self, identity: Identity, link: RedisLink) -> Entry | None:
        """One pipeline: the entry, and with the first look-up of each turn of the event loop the purges since the last
        one, for all look-ups of that turn. So what was purged elsewhere is known before an answer is trusted.
        """
        purges, name = self._purges, entry_key(identity.key, identity.version)
        most = self._most_stored
        while True:
            learnt, asked = self._purge_reading, None
            if learnt is None:
                loop = asyncio.get_running_loop()
                learnt, asked = loop.create_future(), purges.asked()
                self._purge_reading = learnt
                loop.call_soon(self._end_turn)

            def fill(pipeline: Pipeline, asked: Any = asked) -> None:
                pipeline.getrange(name, 0, most)  # one byte more than it can be, whatever there is
                if asked is not None:
                    purges.read(pipeline, asked)

            try:
                stored, *read = await link.pipeline("get", fill)
                if asked is not None:
                    learnt.set_result(purges.learn(asked, *read))
                # As a rule it is there by now: all of a turn is answered together, in the order of asking.
                known = learnt.result() if learnt.done() else await asyncio.shield(learnt)
            except RedisUnavailable:
                return None
            finally:
                if asked is not None and not learnt.done():
                    learnt.set_result(None)
            if known is not None:
                break
            # Whoever was to read the purges was cancelled, or found garbage instead of an answer.
        # Where there is more to learn than that, a request does not wait for it, and nothing can be trusted.
        if not known or not stored:
            return None
        try:
            if len(stored) > most:
                raise CorruptEntry("larger than cache.max_entry")
            entry = unpack(stored, self.max_entry)
            check_answer(identity.key, entry.body)
        except (CorruptEntry, Undecodable) as error:
            link.undecodable("entry", str(error) or "damaged")
            return None
        except ForeignVersion:
            return None
        return entry

    def _end_turn(self) -> None:
        self._purge_reading = None

    def _keep_locally(self, identity: Identity, entry: Entry, lifetimes: Lifetimes) -> None:
        left = lifetimes.kept - entry.age(self.now())
        if left > 0:
            self._local.put(identity, entry, seconds=left)

    def _is_unborn(self, entry: Entry) -> bool:
        """Whether it says that it is born later than now: then nobody knows how old it is."""
        return entry.born > (self.now() + TOLERANCE) * 1e6

    def _judged(self, entry: Entry, tier: str, lookup: CacheLookup) -> CacheHit | None:
        """None where its age is not known."""
        if self._is_unborn(entry):
            return None
        age = entry.age(self.now())
        return CacheHit(entry, tier, judge(age=age, lifetimes=lookup.lifetimes, asked=lookup.directives))

    async def _keep_synchronised(self) -> None:
        """Learn of purges whatever happens to messages about them."""
        while True:
            with contextlib.suppress(RedisUnavailable):
                await self._purges.synchronise()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SYNCHRONISE_INTERVAL):
                    await self._nudged.wait()
            self._nudged.clear()


def _weight(_: tuple[str, str], held: LocalEntry) -> int:
    return held.entry.size()
