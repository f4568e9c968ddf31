"""The lifetimes in force: those of the configuration, or those that the operator has published.

Which classes there are is announced to the operator in the same place, each minute.

A policy document in Redis names a TTL per class. A replica reads it when it is published and every few seconds, keeps
the last good one through every outage and whatever else it finds there, until it expires, and never goes beyond the
class's own `max_ttl`, whatever is published. The operator renews it all the time, so that what nobody stands for any
more ends by itself: the operator, its policies or their namespace may be deleted in any order.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from dub5.cache.freshness import Lifetimes
from dub5.contract import (
    CLASSES_KEY,
    MOST_DOCUMENT,
    POLICY_KEY,
    AnnouncedClass,
    Announcement,
    PolicyDocument,
    Undecodable,
    decode,
)
from dub5.redis.link import RedisLink, RedisUnavailable
from dub5.settings.model import CacheClass
from dub5.telemetry.background import Background, BackgroundTask
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Metrics

READ_INTERVAL = 10.0
ANNOUNCE_INTERVAL = 60.0
ANNOUNCED_FOR = 3600
"""Seconds after which classes that no replica names any more are unknown."""

_log = get_logger()
_decoder = msgspec.json.Decoder(PolicyDocument)


class Policies:
    """`in_force` are the lifetimes by class. `link` is None without Redis: then the configuration's hold. `clock` gives
    seconds since the epoch, by which documents expire: Redis's."""

    def __init__(
        self,
        classes: Mapping[str, CacheClass],
        link: RedisLink | None,
        metrics: Metrics,
        background: Background | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._classes = classes
        self._link = link
        self._metrics = metrics
        self._clock = clock
        self._document = PolicyDocument()
        self.in_force: dict[str, Lifetimes] = {}
        self._background = background or Background(metrics)
        self._reader: BackgroundTask | None = None
        self._nudged = asyncio.Event()
        self._apply()

    async def start(self) -> None:
        if self._link is not None:
            self._reader = self._background.start("policy-reader", self._keep_reading)

    async def stop(self) -> None:
        if self._reader is not None:
            await self._reader.stop()

    async def on_published(self, _: bytes) -> None:
        self._nudged.set()

    def source(self, name: str) -> Literal["policy", "configuration"]:
        """Where they come from."""
        return "policy" if name in self._document.classes else "configuration"

    async def read(self) -> None:
        """Take in what is published now; a document that cannot be used changes nothing."""
        assert self._link is not None  # noqa: S101  # nobody publishes without Redis
        published = await self._link.run("policy", "GETRANGE", POLICY_KEY, 0, MOST_DOCUMENT)
        if not published:
            return  # never published, or lost with Redis's memory: the last good one holds
        try:
            document = decode(_decoder, published, most=MOST_DOCUMENT)
        except Undecodable as error:
            self._link.undecodable("policy", error)
            return
        self._take(document)

    def expire(self) -> None:
        """Let go of what is in force where its time is over, also where Redis is away or keeps it."""
        self._take(self._document)

    def _take(self, document: PolicyDocument) -> None:
        expired = 0 < document.expires <= self._clock()
        before, self._document = self._document, PolicyDocument() if expired else document
        self._metrics.cache_policy_expires.set(self._document.expires)
        if self._document.classes == before.classes:
            return
        self._apply()
        if expired:
            _log.warning("policy expired", issued=document.issued)
        else:
            known = sorted(document.classes.keys() & self._classes.keys())
            _log.info("policy in force", issued=document.issued, classes=known)

    async def announce(self) -> None:
        """Tell the operator which classes there are, and their bounds."""
        assert self._link is not None  # noqa: S101  # there is no operator without Redis
        classes = {
            name: AnnouncedClass(float(each.ttl), float(each.max_ttl), float(each.stale_while_revalidate))
            for name, each in self._classes.items()
            if each.cacheable != "never"
        }
        announced = msgspec.json.encode(Announcement(time.time(), classes))
        await self._link.run("announce", "SET", CLASSES_KEY, announced, "EX", ANNOUNCED_FOR)

    def _apply(self) -> None:
        for name, each in self._classes.items():
            lifetimes = in_force(each, self._document, name)
            if lifetimes != self.in_force.get(name):  # who holds the old ones sees that nothing has changed
                self.in_force[name] = lifetimes
            self._metrics.cache_ttl.labels(name).set(self.in_force[name].ttl)
            self._metrics.cache_ttl_published.labels(name).set(self.source(name) == "policy")

    async def _keep_reading(self) -> None:
        announced = -ANNOUNCE_INTERVAL
        while True:
            with contextlib.suppress(RedisUnavailable):
                await self.read()
            self.expire()
            with contextlib.suppress(RedisUnavailable):
                if time.monotonic() >= announced + ANNOUNCE_INTERVAL:
                    await self.announce()
                    announced = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_INTERVAL):
                    await self._nudged.wait()
            self._nudged.clear()


def in_force(cache_class: CacheClass, document: PolicyDocument, name: str) -> Lifetimes:
    """The configuration's lifetimes, with what is published for the class, bounded by the class's `max_ttl`."""
    question, canary = None, cache_class.canary
    published = document.classes.get(name)
    ttl, stale = float(cache_class.ttl), float(cache_class.stale_while_revalidate)
    if published is not None:
        longest = float(cache_class.max_ttl)
        ttl = min(published.ttl, longest)
        if published.stale_while_revalidate is not None:
            stale = min(published.stale_while_revalidate, longest)
        question, canary = published.question, max(canary, published.canary)
        if question is not None:
            question = msgspec.structs.replace(
                question,
                shortest=min(question.shortest, longest),
                longest=min(question.longest, longest),
            )
    return Lifetimes(
        ttl=ttl,
        stale_while_revalidate=stale,
        stale_if_error=float(cache_class.stale_if_error),
        question=question,
        canary=canary,
    )
