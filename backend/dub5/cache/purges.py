"""Invalidation in O(1): a purge gives what it names a new stamp, and stamps are part of an answer's identity.

An answer is stored under its key and the *version* of what it belongs to: the greatest stamp among its tags,
personality, model, class, tenant and `all`, with the installation's nonce. Whoever asks after a purge computes
another version and finds nothing; whoever began before it stores where nobody looks any more. Nothing is
compared, listed or deleted, whatever the cache holds. See docs/adr/0005-purge-by-identity.md.

Redis keeps a journal, a stream in which the id of each entry is its stamp: Redis's time in µs, rounded up to
`PURGE_UNIT`, and later than the last one.
A replica reads it from the last stamp that it knows, inclusive, each second, whenever another replica publishes
a purge, and in the same breath as each look-up in Redis. So a purge takes effect everywhere within a second
even if every message about it is lost.

All that is kept is bounded, whatever is purged. A name is 32 bits of a hash that nobody outside can compute. Redis
keeps the stamps of the names that were purged last in a sorted set, those of the million before them in a log
(`purge_log`), and of what came before that only a floor: every name counts as purged then. Each replica has a copy.
See docs/adr/0022-purge-log.md.

What may happen to Redis, and why no purged answer comes back:
* flushed, or failed over to an empty node: the nonce is gone, and with it every version made of it;
* failed over to a node that lags: the last stamp that we read or were given is missing from the journal, so
  every stamp we know that Redis does not is purged anew, with a greater one than any we know;
* away: a purge takes effect here at once, is remembered, and is published when Redis is back. Memory is
  trusted for `MAX_UNCONFIRMED` seconds while Redis does not answer.

A replica that was itself away (stopped, starved) cannot know: whatever it has not heard confirmed within
`IN_FORCE` seconds it asks Redis about first.

What Redis has of purges may also be damaged, or overwritten by somebody. Then it is deleted, nonce and all, by the
script or by whoever reads it: that is a flush as far as purges go, and forgets too much.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import secrets
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from dub5.cache.purge_log import PurgeLog
from dub5.contract import (
    EVENT_BYTES,
    LAST_STAMP,
    MOST_RECENT,
    NONCE_LENGTH,
    PURGE_CHANNEL,
    PURGE_JOURNAL,
    PURGE_KEYS,
    PURGE_NONCE,
    PURGE_RECENT,
    PURGE_SCRIPT,
    PURGE_STAMPS,
    PURGE_STATE,
    PURGED_AT_ONCE,
    RECENT_NAMES,
    REDIS_TIME,
    Undecodable,
    purge_hash,
    scoped_name,
)
from dub5.redis.link import RedisClock, RedisLink, RedisUnavailable, RedisUndecodable, Words
from dub5.telemetry.logging import get_logger

IN_FORCE = 1.0
"""Seconds within which a purge anywhere is in force here, as long as Redis answers."""

MAX_UNCONFIRMED = 30.0
"""Seconds that answers in memory are used while Redis cannot say whether they were purged."""

Event = tuple[bytes, dict[bytes, bytes]]

_TIME: Words = ("EVAL", REDIS_TIME, 1, PURGE_NONCE)

_PAGE = 1000
_CROWDED = 4 * RECENT_NAMES
"""Recent names here at which those that Redis has moved to the log are left to our copy of it."""
_MOST_UNPUBLISHED = 20_000
"""Names that wait to be published; more become one purge of all."""
_MOST_HERE = 65_536
"""Names that are remembered where there is no Redis to ask; more become one purge of all."""
_NEAR_THE_LAST = LAST_STAMP - 2**44
"""A stamp above this is damage: it lies within 2**44 µs, half a year, of the last one."""
_MOST_KNOWN = 4096
"""Sets of names whose hashes are kept."""

_ENDS: list[Words] = [
    ("XREVRANGE", PURGE_JOURNAL, "+", "-", "COUNT", 1),
    ("ZRANGE", PURGE_STAMPS, 0, 1, "WITHSCORES"),
    ("HGET", PURGE_STATE, "mark"),
]

_log = get_logger()


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
    """A reading of the journal: from which stamp on, and when (our clock) it was asked for.

    `given` are stamps that Redis gave us before, and that we have not read: they must be there. What the two
    `commands` bring, the nonce and the journal, is for `learn`; whoever asks runs them with its own.
    """

    head: int
    at: float
    given: frozenset[int]
    commands: tuple[Words, Words]


class _Stamps(msgspec.Struct, frozen=True):
    """What Redis has: the end of its journal, stamps by hash, and the log."""

    head: int
    recent: dict[int, int]
    log: PurgeLog


class Purges:
    """The stamps this replica knows. `clock` is monotonic, in seconds; `redis_clock` learns the time with readings."""

    def __init__(
        self,
        link: RedisLink | None,
        clock: Callable[[], float] = time.monotonic,
        redis_clock: RedisClock | None = None,
    ) -> None:
        self._link = link
        self._clock = clock
        self._redis_clock = redis_clock
        self._recent: dict[int, int] = {}  # hash of a name -> stamp; of others the log may know
        self._log = PurgeLog()
        self._floor = 0  # what every name was purged at, for all we know
        self._known: dict[tuple[str, ...], tuple[tuple[int, ...], int]] = {}
        self._highest = 0  # of all stamps ever known here; never lowered, so that no version comes back
        self.head = 0
        self.behind = False  # there is more to learn than a request may wait for
        # Stamps that Redis gave to purges of ours; the journal must come to show them.
        self._given: frozenset[int] = frozenset()
        # Until the installation's is read from Redis; for good without Redis.
        self._nonce = secrets.token_hex(4).encode()
        self._prefix = _prefix(self._nonce)
        self._unpurged = f"{self._prefix}0"
        self._heard = clock()
        self._failed = float("-inf")
        self._tidying = False
        self._publishing = asyncio.Lock()
        self._unpublished: dict[str, int] = {}  # name -> its stamp here until Redis gives one

    def version(self, names: Iterable[str]) -> str:
        """The part of an answer's identity that a purge of any of `names` changes."""
        recent = self._recent
        if not recent and not self._floor:
            return self._unpurged
        asked = tuple(names)  # a tuple is not copied
        known = self._known.get(asked)
        if known is None:
            known = self._lookup(asked)
        hashes, greatest = known
        for name in hashes:
            stamp = recent.get(name)
            if stamp is not None and stamp > greatest:
                greatest = stamp
        return f"{self._prefix}{greatest:x}"

    def _lookup(self, names: tuple[str, ...]) -> tuple[tuple[int, ...], int]:
        """Hashes of names, and the greatest stamp that the log has of them: it changes when the log is read."""
        hashes = tuple(map(self._hash, names))
        greatest = max(self._floor, max(map(self._log.stamp, hashes), default=0))
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[names] = known = (hashes, greatest)
        return known

    def _hash(self, name: str) -> int:
        if name.startswith("#"):
            return int(name[1:], 16)
        return purge_hash(self._nonce, name.encode())

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
        """Take effect here at once; whether Redis, and so every other replica, knows."""
        stamp = self._highest + 1
        self._raise(map(self._hash, names), stamp)
        if self._link is None:
            return True
        self._remember_unpublished(dict.fromkeys(names, stamp))
        try:
            await self.synchronise()
        except RedisUnavailable:
            return False
        return True

    def _remember_unpublished(self, purged: dict[str, int]) -> None:
        self._unpublished.update(purged)
        if len(self._unpublished) > _MOST_UNPUBLISHED:
            stamp = self._highest + 1
            self._raise([self._hash("all")], stamp)
            self._unpublished = {"all": stamp}

    def asked(self) -> Asked:
        """What is to be asked for now."""
        # Of the nonce one byte more than it may have.
        nonce = ("GETRANGE", PURGE_NONCE, 0, NONCE_LENGTH)
        journal = ("XRANGE", PURGE_JOURNAL, f"{self.head}-0", "+", "COUNT", _PAGE)
        return Asked(self.head, self._clock(), self._given, (nonce, journal))

    async def synchronise(self) -> None:
        """Learn what others purged, publish what they do not know. RedisUnavailable where Redis is away."""
        began = self._clock()
        try:
            try:
                await self._synchronise()
            except (Undecodable, RedisUndecodable) as error:
                await self._delete_all(error)
                await self._synchronise()
        except (RedisUnavailable, Undecodable) as error:
            self._failed = began
            if isinstance(error, Undecodable):  # it is being damaged again and again
                raise RedisUnavailable("not what we wrote") from error
            raise

    async def _synchronise(self) -> None:
        """Undecodable where what Redis has of purges cannot be read."""
        asked, clock = self.asked(), self._redis_clock
        if clock is None:
            nonce, journal = await self._run_pipeline(asked.commands)
        else:  # with it, what Redis's clock says
            before = clock.wall()
            now, nonce, journal = await self._run_pipeline([_TIME, *asked.commands])
            clock.learn(now, asked=before)
        if not self.learn(asked, nonce, journal):
            await self._catch_up(asked, nonce, journal)
        async with self._publishing:  # what others purge meanwhile is published with the next, once
            while self._unpublished:
                await self._publish()
        if len(self._recent) > _CROWDED and not self._tidying:
            await self._tidy()

    async def _delete_all(self, error: Exception) -> None:
        """Whatever it was: with the nonce every answer is forgotten, so no purged one can come back."""
        assert self._link is not None  # noqa: S101  # it was read there
        if isinstance(error, Undecodable):  # else it is counted already
            self._link.undecodable("purges", error)
        _log.warning("purges begun anew", reason=str(error) or "of another type, or too large")
        await self._run_purges("DEL", *PURGE_KEYS)

    def learn(self, asked: Asked, nonce: bytes, journal: list[Event]) -> bool:
        """Take in what `asked` brought; whether that was all, and `synchronise` has nothing more to do."""
        self.behind = True
        if nonce != self._nonce or not all(map(_is_sound, journal)):
            return False
        if asked.head and (not journal or _stamp_of(journal[0]) != asked.head):
            return False  # the stamp from which it was read is not in it any more: Redis lost it
        if len(journal) > bool(asked.head):  # as a rule there is only the last one that we know
            self._take_in(journal)
        if asked.given or self._given:
            read = set(map(_stamp_of, journal))
            self._given -= read
            if not asked.given <= read:
                return False
        if len(journal) == _PAGE:
            return False
        self._heard = max(self._heard, asked.at)
        self.behind = False
        return True

    def _take_in(self, journal: list[Event]) -> None:
        for event in journal:
            stamp = _stamp_of(event)
            if stamp > self.head:  # else it is known
                self._raise(self._named_by(event[1]), stamp)
                self.head = stamp

    def _named_by(self, fields: dict[bytes, bytes]) -> list[int]:
        """The hashes of what an event of the journal names."""
        hashes: list[int] = []
        for name, value in fields.items():
            if value and len(value) % 4 == 0:
                hashes += struct.unpack(f"<{len(value) // 4}I", value)
            else:
                hashes.append(purge_hash(self._nonce, name))
        return hashes

    async def _catch_up(self, asked: Asked, nonce: bytes, journal: list[Event]) -> None:
        """What took more than reading the end of the journal."""
        if nonce and not _is_nonce(nonce):
            raise Undecodable("no nonce")
        if not all(map(_is_sound, journal)):
            raise Undecodable("no purge")
        if nonce != self._nonce:
            await self._begin_anew(nonce)
        elif len(journal) < _PAGE or (asked.head and _stamp_of(journal[0]) != asked.head):
            await self._mend()
        else:
            await self._synchronise()
        self._heard = max(self._heard, asked.at)
        self.behind = False

    async def _begin_anew(self, nonce: bytes) -> None:
        """Other contents than we knew: what memory holds is of another installation, or of an earlier life."""
        if not nonce:
            proposal = secrets.token_hex(4)
            await self._run_purges("SET", PURGE_NONCE, proposal, "NX")
            nonce = await self._run_purges("GETRANGE", PURGE_NONCE, 0, NONCE_LENGTH)
            if not _is_nonce(nonce):
                raise Undecodable("no nonce")
        theirs = await self._read_all(PurgeLog())
        if nonce != self._nonce:
            self._nonce = nonce
            self._prefix = _prefix(self._nonce)
            self._unpurged = f"{self._prefix}0"
            # Hashes were made with the other nonce; whatever they stood for is forgotten with it.
            self._recent, self._floor = {}, 0
            if self._highest > _NEAR_THE_LAST:  # it was damage, and stamps after it would be, too
                self._highest = 0
            self._unpublished = {
                name: stamp for name, stamp in self._unpublished.items() if not name.startswith("#")
            }
        self._adopt(theirs)
        self.head, self._given = theirs.head, frozenset()
        asked = self.asked()  # what was purged while the stamps were read
        found, journal = await self._run_pipeline(asked.commands)
        if found == self._nonce and all(map(_is_sound, journal)):  # else the next reading sees to it
            self._take_in(journal)

    async def _mend(self) -> None:
        """The journal does not have our last stamp any more: purge anew what Redis has forgotten."""
        ours, log = self._recent.copy(), self._log
        theirs = await self._read_all(await log.verified(self._run_purges))
        known = set(map(self._hash, self._unpublished))
        lost = {
            f"#{name:08x}": stamp
            for name, stamp in itertools.chain(ours.items(), log.lost_by(theirs.log))
            if stamp > theirs.recent.get(name, 0)
            and stamp > theirs.log.floor
            and stamp > theirs.log.stamp(name)
            and name not in known
        }
        self._adopt(theirs)
        self.head, self._given = theirs.head, frozenset()
        for name, stamp in lost.items():
            self._raise([self._hash(name)], stamp)
        self._remember_unpublished(lost)

    async def _tidy(self) -> None:
        """Leave to our copy of the log what Redis has moved there."""
        self._tidying = True
        try:
            asked = self.asked()
            theirs = await self._read_all(self._log.copy())
            nonce, journal = await self._run_pipeline(asked.commands)
            if self.learn(asked, nonce, journal):  # else what was read may lack what we know
                self._adopt(theirs)
        finally:
            self._tidying = False

    async def _read_all(self, log: PurgeLog) -> _Stamps:
        """What Redis has: the end of the journal first, since later purges are read again, the log last, since names
        move there. `log` is a copy of the log to go on from."""
        last, former, mark = await self._run_pipeline(_ENDS)
        if not all(map(_is_sound, last)):
            raise Undecodable("no purge")
        # Names in the set of a release before the log are taken over first, some with each run; `all` is our own there.
        while former and former != [(b"all", _number(mark))]:
            _, left = await self._run_script()
            former = former if left > 0 else []
        recent = await self._run_purges("ZRANGE", PURGE_RECENT, 0, MOST_RECENT, "WITHSCORES")
        if len(recent) > MOST_RECENT:
            raise Undecodable("more names than are kept")
        # Evicted: names that were purged would look as if they had not been.
        if (mark or last) and not recent:
            raise Undecodable("no names, though some were purged")
        if recent and not await self._run_purges("HGET", PURGE_STATE, "mark"):
            raise Undecodable("names, and nothing of those before them")
        await log.read(self._run_purges)
        stamps = {_hash_of(name): _stamp(stamp) for name, stamp in recent}
        return _Stamps(_stamp_of(last[0]) if last else 0, stamps, log)

    def _adopt(self, theirs: _Stamps) -> None:
        """Take over what Redis has. What came after its journal was read, and what was purged here, stays."""
        newer = {name: stamp for name, stamp in self._recent.items() if stamp > theirs.head}
        self._recent, self._log = theirs.recent | newer, theirs.log
        self._floor = max(self._floor, theirs.log.floor)
        self._highest = max(self._highest, theirs.head, self._floor, *theirs.recent.values(), 0)
        self._known.clear()
        if self._unpublished:
            self._raise(map(self._hash, self._unpublished), self._highest + 1)

    async def _publish(self) -> None:
        """Have Redis stamp what was purged here, and have the other replicas read it."""
        publishing = dict(itertools.islice(self._unpublished.items(), PURGED_AT_ONCE))
        stamp, _ = await self._run_script(*publishing)
        for name, ours in publishing.items():
            if self._unpublished.get(name) == ours:  # else it was purged again meanwhile
                del self._unpublished[name]
        if stamp > self.head:  # else it was read before the answer came
            self._given |= {stamp}
        self._raise(map(self._hash, publishing), stamp)
        with contextlib.suppress(RedisUnavailable):  # they would learn of it without the message too
            await self._run("publish", "PUBLISH", PURGE_CHANNEL, str(stamp))

    async def _run_pipeline(self, commands: Sequence[Words]) -> list[Any]:
        assert self._link is not None  # noqa: S101
        return await self._link.pipeline("purges", commands)

    async def _run_purges(self, *words: Any) -> Any:
        return await self._run("purges", *words)

    async def _run(self, operation: str, *words: Any) -> Any:
        assert self._link is not None  # noqa: S101
        return await self._link.run(operation, *words)

    async def _run_script(self, *names: str) -> tuple[int, int]:
        """The stamp, and how many names of an older release are still to be taken over."""
        arguments = (self._highest, secrets.token_hex(4), *names)
        stamp, left = await self._run("purge", "EVAL", PURGE_SCRIPT, len(PURGE_KEYS), *PURGE_KEYS, *arguments)
        return int(stamp), left

    def _raise(self, names: Iterable[int], stamp: int) -> None:
        self._highest = max(self._highest, stamp)
        for name in names:
            self._recent[name] = max(stamp, self._recent.get(name, 0))
        if len(self._recent) > _MOST_HERE:
            self._recent, self._floor = {}, self._highest
            self._known.clear()


def _is_nonce(nonce: bytes) -> bool:
    return nonce.isalnum() and len(nonce) <= NONCE_LENGTH


def _prefix(nonce: bytes) -> str:
    """As it begins versions, which are parts of names of keys."""
    return f"{nonce.decode()}."


def _is_sound(event: Event) -> bool:
    """Whether an event of the journal can be of a purge."""
    return _stamp_of(event) <= LAST_STAMP and sum(map(len, itertools.chain(*event[1].items()))) <= EVENT_BYTES


def _hash_of(name: bytes) -> int:
    try:
        number = int(name, 16)
    except ValueError:
        number = -1
    if not 0 <= number < 2**32:
        raise Undecodable("no hash of a name")
    return number


def _stamp(score: float) -> int:
    if not 0 <= score <= LAST_STAMP:
        raise Undecodable("a stamp that is nobody's")
    return int(score)


def _number(text: bytes | None) -> float:
    """What the script left; anything else is for the script to judge."""
    try:
        return float(text or 0)
    except ValueError:
        return -1.0


def _stamp_of(event: Event) -> int:
    return int(event[0].partition(b"-")[0])
