"""Invalidation in O(1): a purge gives what it names a new stamp, and stamps are part of an answer's identity.

An answer is stored under its key and the *version* of what it belongs to: the greatest stamp among its tags,
personality, model, class, tenant and `all`, with the installation's nonce. Whoever asks after a purge computes
another version and finds nothing; whoever began before it stores where nobody looks any more. Nothing is
compared, listed or deleted, whatever the cache holds. See docs/adr/0005-purge-by-identity.md.

Redis keeps a journal, a stream in which the id of each entry is its stamp, `max(Redis TIME in µs, last + 1)`.
A replica reads it from the last stamp that it knows, inclusive, each second, whenever another replica tells of
a purge, and in the same breath as each look-up in Redis. So a purge takes effect everywhere within a second
even if every message about it is lost.

What may happen to Redis, and why no purged answer comes back:
* flushed, or failed over to an empty node: the nonce is gone, and with it every version made of it;
* failed over to a node that lags: the last stamp that we read or were given is missing from the journal, so
  every stamp we know that Redis does not is purged anew, with a greater one than any we know;
* away: a purge takes effect here at once, is remembered, and is told to Redis when it is back. Memory is
  trusted for `MAX_UNCONFIRMED` seconds while Redis does not answer.

A replica that was itself away (stopped, starved) cannot know: whatever it has not heard confirmed within
`IN_FORCE` seconds it asks Redis about first.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec
from redis.asyncio.client import Pipeline

from dub5.contract import (
    LONGEST_LIFE,
    PURGE_CHANNEL,
    PURGE_JOURNAL,
    PURGE_NONCE,
    PURGE_SCRIPT,
    PURGE_STAMPS,
    scoped_name,
)
from dub5.redis_link import RedisLink, RedisUnavailable

IN_FORCE = 1.0
"""Seconds within which a purge anywhere is in force here, as long as Redis answers."""

MAX_UNCONFIRMED = 30.0
"""Seconds that answers in memory are used while Redis cannot tell whether they were purged."""

Event = tuple[bytes, dict[bytes, bytes]]

_PAGE = 1000
_STAMPS_PAGE = 5000
_TOLD_AT_ONCE = 500


@functools.lru_cache(4096)
def names_of(
    *, tenant: str, class_name: str, model: str, personality: str | None, tags: tuple[str, ...]
) -> tuple[str, ...]:
    """What a purge may name to reach an answer that `tenant` asks for.

    Each thing has a name for the whole installation and one inside the tenant, so that a tenant's admin can
    purge its own answers and nobody else's.
    """
    kinds = [("class", class_name), ("model", model), *(("tag", tag) for tag in tags)]
    if personality is not None:
        kinds.append(("personality", personality))
    scoped = [scoped_name(kind, value, owner) for kind, value in kinds for owner in (None, tenant)]
    return ("all", scoped_name("tenant", tenant, None), *scoped)


class Asked(msgspec.Struct, frozen=True):
    """A reading of the journal: from which stamp on, and when (our clock) it was asked for."""

    head: int
    at: float


class Purges:
    """The stamps this replica knows. `clock` is monotonic, in seconds."""

    def __init__(self, link: RedisLink | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._clock = clock
        self._stamps: dict[str, int] = {}
        self._highest = 0  # of all stamps ever known here; never lowered, so that no version comes back
        self.head = 0
        self.behind = False  # there is more to learn than a request may wait for
        self._given = 0  # by Redis for a purge of ours; the journal must come to show it
        self._nonce = secrets.token_hex(4)  # until Redis tells the installation's; for good without Redis
        self._heard = clock()
        self._failed = float("-inf")
        self._untold: dict[str, int] = {}  # name -> its stamp here until Redis gives one

    def version(self, names: Iterable[str]) -> str:
        """The part of an answer's identity that a purge of any of `names` changes."""
        stamps = self._stamps
        return f"{self._nonce}.{max((stamps.get(name, 0) for name in names), default=0) if stamps else 0:x}"

    def confirmed(self, since: float) -> bool:
        """Whether what memory holds since `since` (our clock) may be used without asking Redis.

        Only where Redis answered a question that is younger than IN_FORCE: a replica that was stopped for
        longer has to ask first. Where asking has just failed, MAX_UNCONFIRMED counts.
        """
        now = self._clock()
        if self._link is None or self._heard > now - IN_FORCE:
            return True
        return self._failed > now - IN_FORCE and max(self._heard, since) > now - MAX_UNCONFIRMED

    async def purge(self, names: Sequence[str]) -> bool:
        """Take effect here at once; tells whether Redis, and so every other replica, knows."""
        stamp = self._highest + 1
        self._raise(names, stamp)
        if self._link is None:
            return True
        self._untold.update(dict.fromkeys(names, stamp))
        try:
            await self.synchronise()
        except RedisUnavailable:
            return False
        return True

    def asked(self) -> Asked:
        """What is to be asked for now."""
        return Asked(self.head, self._clock())

    def read(self, pipeline: Pipeline, asked: Asked) -> None:
        """Queue what `learn` needs, two commands, on a pipeline that somebody else runs."""
        pipeline.get(PURGE_NONCE)
        pipeline.xrange(PURGE_JOURNAL, min=f"{asked.head}-0", count=_PAGE)

    async def synchronise(self) -> None:
        """Learn what others purged, tell what they do not know. RedisUnavailable where Redis is away."""
        asked = self.asked()
        try:
            nonce, journal = await self._run_pipeline(lambda pipeline: self.read(pipeline, asked))
            if not self.learn(asked, nonce, journal):
                await self._catch_up(asked, nonce, journal)
            while self._untold:
                await self._tell()
        except RedisUnavailable:
            self._failed = asked.at
            raise

    def learn(self, asked: Asked, nonce: bytes | None, journal: list[Event]) -> bool:
        """Take in what `read` brought; whether that was all, and `synchronise` has nothing more to do."""
        self.behind = True
        if nonce is None or nonce.decode() != self._nonce or _is_broken(asked, journal):
            return False
        for event in journal:
            self.head = max(self.head, _stamp_of(event))
            self._raise((name.decode() for name in event[1]), _stamp_of(event))
        if len(journal) == _PAGE or self._given > self.head:
            return False
        self._heard = max(self._heard, asked.at)
        self.behind = False
        return True

    async def _catch_up(self, asked: Asked, nonce: bytes | None, journal: list[Event]) -> None:
        """What took more than reading the end of the journal."""
        if nonce is None or nonce.decode() != self._nonce:
            await self._begin_anew(nonce)
        elif _is_broken(asked, journal) or len(journal) < _PAGE:
            await self._mend()
        else:
            await self.synchronise()
        self._heard = max(self._heard, asked.at)
        self.behind = False

    async def _begin_anew(self, nonce: bytes | None) -> None:
        """Other contents than we knew: what memory holds is of another installation, or of an earlier life."""
        if nonce is None:
            proposal = secrets.token_hex(4)
            await self._run("purges", lambda client: client.set(PURGE_NONCE, proposal, nx=True))
            nonce = await self._run("purges", lambda client: client.get(PURGE_NONCE))
        stamps = await self._load()
        self._nonce, self._stamps = (nonce or b"").decode(), stamps
        self._raise(self._untold, self._highest + 1)
        asked = self.asked()  # what was purged while the stamps were read
        _, journal = await self._run_pipeline(lambda pipeline: self.read(pipeline, asked))
        for event in journal:
            self._raise((name.decode() for name in event[1]), _stamp_of(event))

    async def _mend(self) -> None:
        """The journal does not have our last stamp any more: purge anew what Redis has forgotten."""
        theirs = await self._load()
        self._untold.update(
            {name: stamp for name, stamp in self._stamps.items() if stamp > theirs.get(name, 0)}
        )
        for name, stamp in theirs.items():
            self._raise([name], stamp)

    async def _load(self) -> dict[str, int]:
        """All stamps, page by page, and the end of the journal, read first: later purges are read again."""
        [last] = await self._run_pipeline(lambda pipeline: pipeline.xrevrange(PURGE_JOURNAL, count=1))
        stamps: dict[str, int] = {}
        reached = 0
        while True:
            page = await self._page_of_stamps(reached)
            stamps |= {name.decode(): int(stamp) for name, stamp in page}
            if len(page) < _STAMPS_PAGE:
                break
            reached = int(page[-1][1])
        self.head, self._given = _stamp_of(last[0]) if last else 0, 0
        return stamps

    async def _page_of_stamps(self, reached: int) -> list[tuple[bytes, float]]:
        """By stamp, not by rank: a name that is purged anew meanwhile moves up, where it will be found again."""
        page: list[tuple[bytes, float]] = await self._run(
            "purges",
            lambda client: client.zrangebyscore(
                PURGE_STAMPS, reached, "+inf", start=0, num=_STAMPS_PAGE, withscores=True
            ),
        )
        return page

    async def _tell(self) -> None:
        """Have Redis stamp what was purged here, and tell the other replicas to look."""
        telling = dict(itertools.islice(self._untold.items(), _TOLD_AT_ONCE))
        arguments = [LONGEST_LIFE, self._highest, *(part for name in telling for part in (name, ""))]
        stamp = int(
            await self._run(
                "purge", lambda client: client.eval(PURGE_SCRIPT, 2, PURGE_JOURNAL, PURGE_STAMPS, *arguments)
            )
        )
        for name, ours in telling.items():
            if self._untold.get(name) == ours:  # else it was purged again meanwhile
                del self._untold[name]
        self._given = max(self._given, stamp)
        self._raise(telling, stamp)
        with contextlib.suppress(RedisUnavailable):  # they would learn of it without the message too
            await self._run("publish", lambda client: client.publish(PURGE_CHANNEL, str(stamp)))

    async def _run_pipeline(self, fill: Callable[[Pipeline], object]) -> list[Any]:
        assert self._link is not None  # noqa: S101
        return await self._link.pipeline("purges", fill)

    async def _run(self, operation: str, command: Callable[[Any], Awaitable[Any]]) -> Any:
        assert self._link is not None  # noqa: S101
        return await self._link.run(operation, command)

    def _raise(self, names: Iterable[str], stamp: int) -> None:
        self._highest = max(self._highest, stamp)
        for name in names:
            self._stamps[name] = max(stamp, self._stamps.get(name, 0))


def _is_broken(asked: Asked, journal: list[Event]) -> bool:
    """The stamp from which the journal was read is not in it any more: Redis lost it."""
    return bool(asked.head) and (not journal or _stamp_of(journal[0]) != asked.head)


def _stamp_of(event: Event) -> int:
    return int(event[0].partition(b"-")[0])
