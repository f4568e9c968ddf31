"""The answer cache as the pipeline sees it: look in memory, then in Redis; store in both.

`recall` looks in memory only and never awaits, so that the commonest hit costs no task switch. What an entry is
good for is `freshness`'s decision; which answers belong to which purges is `purges`'.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import msgspec

from dub5.cache.clock import TOLERANCE
from dub5.cache.entry import Entry
from dub5.cache.flight import Identity
from dub5.cache.freshness import Directives, Freshness, Lifetimes, judge
from dub5.cache.local import LocalCache
from dub5.cache.purges import IN_FORCE, Purges
from dub5.cache.shared import SharedCache
from dub5.redis.link import RedisUnavailable
from dub5.telemetry.background import Background, BackgroundTask

_SYNCHRONISE_INTERVAL = 0.5
"""Seconds between two readings of the purges: half of what is promised."""


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """Which answer, and what the request and its class ask of it. `names` are those that a purge may name."""

    key: str
    names: tuple[str, ...]
    lifetimes: Lifetimes
    asked: Directives


class Found(msgspec.Struct, frozen=True, gc=False):
    """A stored answer, where it was, and what it is good for."""

    entry: Entry
    tier: str
    freshness: Freshness


class AnswerCache:
    """Both tiers. `clock` gives seconds since the epoch: births and ages are by it. `shared` is None without Redis."""

    def __init__(
        self,
        local: LocalCache,
        shared: SharedCache | None,
        purges: Purges,
        *,
        max_entry: int,
        background: Background | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._local = local
        self._shared = shared
        self._purges = purges
        self.max_entry = max_entry
        self._clock = clock
        self._reading: dict[Identity, tuple[float, asyncio.Task[Entry | None]]] = {}
        self._background = background or Background()
        self._lookups = self._background.jobs("cache-lookup")
        self._synchroniser: BackgroundTask | None = None
        self._nudged = asyncio.Event()

    async def start(self) -> None:
        if self._shared is not None:
            # So that the first request asks under the installation's name.
            with self._background.noting("purge-reader"), contextlib.suppress(RedisUnavailable):
                await self._purges.synchronise()
            self._synchroniser = self._background.start("purge-reader", self._keep_synchronised)

    async def stop(self) -> None:
        if self._synchroniser is not None:
            await self._synchroniser.stop()
        await self._lookups.stop()

    async def purge(self, names: Sequence[str]) -> bool:
        """Forget every answer that belongs to one of `names`; whether all replicas will know within a second."""
        return await self._purges.purge(names)

    async def on_purged(self, _: bytes) -> None:
        """Another replica purged something: look at once."""
        self._nudged.set()

    def now(self) -> float:
        """What births are told by, in seconds since the epoch."""
        return self._clock()

    def identity(self, wanted: Wanted) -> Identity:
        """Under which name the answer is kept now; another one after each purge that concerns it."""
        return Identity(wanted.key, self._purges.version(wanted.names))

    def recall(self, wanted: Wanted) -> Found | None:
        """What memory has, good for something or not."""
        held = self._local.get(self.identity(wanted))
        if held is None or not self._purges.confirmed(held.since):
            return None
        return self._judged(held.entry, "local", wanted)

    async def find(self, wanted: Wanted) -> Found | None:
        """What Redis has, else what memory has."""
        if self._shared is None:
            return self.recall(wanted)
        identity = self.identity(wanted)
        entry = await self._read(identity, self._shared)
        if identity != self.identity(wanted):  # a purge came to our knowledge with the reading
            identity = self.identity(wanted)
            entry = await self._read(identity, self._shared)
        if self._purges.behind:
            self._nudged.set()
        if entry is None:
            return self.recall(wanted)
        found = self._judged(entry, "shared", wanted)
        if found is None:
            return self.recall(wanted)
        self._keep_locally(identity, entry, wanted.lifetimes)
        return found

    async def stored(self, identity: Identity, lifetimes: Lifetimes) -> bytes | None:
        """The whole answer that another replica has just stored."""
        entry = await self._shared.get(identity) if self._shared is not None else None
        if entry is None or self._is_unborn(entry):
            return None
        self._keep_locally(identity, entry, lifetimes)
        return entry.body

    async def store(self, identity: Identity, entry: Entry, lifetimes: Lifetimes) -> bool:
        """Keep a complete answer in both tiers; whether it was fit to be kept."""
        left = lifetimes.kept - entry.age(self._clock())
        if len(entry.body) > self.max_entry or left <= 0 or self._is_unborn(entry):
            return False
        if self._shared is None or await self._shared.put(identity, entry, seconds=left):
            self._keep_locally(identity, entry, lifetimes)
        return True

    def occupancy(self) -> tuple[int, int]:
        """Entries and bytes in memory."""
        return self._local.count(), self._local.bytes()

    async def _read(self, identity: Identity, shared: SharedCache) -> Entry | None:
        """What Redis has, read once for all who ask meanwhile, whoever of them leaves.

        A thousand clients with one question must not mean a thousand reads.
        A reading that was begun long ago, before this process was stopped for a while, may not know of purges.
        """
        began, reading = self._reading.get(identity, (0.0, None))
        if reading is None or began < time.monotonic() - IN_FORCE:
            reading = self._lookups.start(shared.get(identity))
            self._reading[identity] = (time.monotonic(), reading)
            reading.add_done_callback(lambda done: self._read_to_the_end(identity, done))
        return await self._lookups.result(reading)

    def _read_to_the_end(self, identity: Identity, reading: asyncio.Task[Entry | None]) -> None:
        _, latest = self._reading.get(identity, (0.0, None))
        if latest is reading:  # else it was replaced by a later one, which may have ended before it
            del self._reading[identity]

    def _keep_locally(self, identity: Identity, entry: Entry, lifetimes: Lifetimes) -> None:
        left = lifetimes.kept - entry.age(self._clock())
        if left > 0:
            self._local.put(identity, entry, seconds=left)

    def _is_unborn(self, entry: Entry) -> bool:
        """Whether it says that it is born later than now: then nobody knows how old it is."""
        return entry.born > (self._clock() + TOLERANCE) * 1e6

    def _judged(self, entry: Entry, tier: str, wanted: Wanted) -> Found | None:
        """None where its age is not known."""
        if self._is_unborn(entry):
            return None
        age = entry.age(self._clock())
        return Found(entry, tier, judge(age=age, lifetimes=wanted.lifetimes, asked=wanted.asked))

    async def _keep_synchronised(self) -> None:
        """Learn of purges whatever happens to messages about them."""
        while True:
            with contextlib.suppress(RedisUnavailable):
                await self._purges.synchronise()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SYNCHRONISE_INTERVAL):
                    await self._nudged.wait()
            self._nudged.clear()
