"""What was learnt, by class: in memory while the operator runs, and in Redis from one run to the next.

It is kept for each class that replicas announce, whether a policy is for it or not: a policy that is made later begins
with what its class has shown so far. In Redis each class has one value that expires, of at most MOST_LEARNT bytes and
its part of ALL_LEARNT; of the keys of a class those that were asked for last are kept, as many as there is room for.
The value says how far in the stream of samples it reaches, so that no sample is taken in twice, or left out: what came
after that is taken in again after a start. The stream reaches back for five minutes at least, and each is written anew
every two; one that has learnt much of what it knows since then, with its next decision. What is expected of a
comparison follows from those before it, so that much which is taken in again in other portions leads to another TTL.

Only numbers are stored, in arrays; what cannot be read, of whichever release, is reported, and its class begins anew. A
Redis that evicts or refuses them costs only what was learnt before the next start.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import msgspec
import numpy as np
import structlog
from redis.exceptions import InvalidResponse, RedisClusterException, RedisError, ResponseError
from structlog.typing import FilteringBoundLogger

from dub5.contract import (
    LEARNT_KEY,
    LONGEST_TTL,
    READER_FOR,
    AnnouncedClass,
    Announcement,
    Canary,
    Undecodable,
    decode,
)
from dub5_operator.planner.canary import StaleShare
from dub5_operator.planner.decision import Learning, Shape
from dub5_operator.planner.reuse import MOST_KEYS
from dub5_operator.planner.samples import Lookups, Verdicts
from dub5_operator.planner.state import State

SAVE_EVERY = 120.0
"""Seconds: less than what the stream keeps in any case."""
MUCH = 0.05
"""Comparisons since it was stored, of those that are known, from which on a class is stored with its next decision."""
LEARNT_FOR = 14 * 86400
"""Seconds that what was learnt is kept in Redis."""
MOST_LEARNT = 256 * 1024
"""Bytes of one class in Redis, at most."""
ALL_LEARNT = 16 * 2**20
"""Bytes of all classes in Redis, at most."""
MOST_CLASSES = 2000
"""That are learnt about without a policy; those that have one come first."""
SHORTEST = 0.1
"""Seconds: the shortest TTL that is tried."""

_MOST_RAW = 32 * MOST_LEARNT
_BYTES_PER_KEY = 32
"""In Redis, at least: from where on it is tried how many there is room for."""
_KINDS = {"<f8", "<f4", "<i8", "<i4", "<u4", "|b1"}

SPAN = 60.0
"""Seconds: what of a backlog came within them is learnt from at once. As much as an operator that is there reads at a
time: what is expected of a comparison follows from those before it, and longer ones led to other TTLs, by a quarter."""
MOVED = 0.05
"""By what part of itself a TTL has moved where it is another one."""
MOST_HELD = 5000
"""Look-ups that wait for the end of a span."""

Id = tuple[int, int]
"""Of a batch in the stream."""

_log: FilteringBoundLogger = structlog.get_logger()


def has_passed(seconds: float, since: float, now: float) -> bool:
    """Also where `since` lies ahead: the clock was set back, and nothing is to wait for it to come there again."""
    return not 0 <= now - since < seconds


class _Array(msgspec.Struct, frozen=True, array_like=True):
    name: str
    kind: str
    shape: list[int]
    data: bytes


class Learnt(msgspec.Struct, frozen=True):
    """Of one class, as stored. `at` is in seconds since the epoch, `upto` the id of the last batch that is in it, `ttl`
    the TTL that was in force then, and `arrays` zlib of MessagePack."""

    version: Literal[1]
    at: float
    upto: Id
    ttl: float
    arrays: bytes


_learnt = msgspec.msgpack.Decoder(Learnt)
_arrays = msgspec.msgpack.Decoder(list[_Array])


class Part(msgspec.Struct):
    """Of one class, what came together. `began` and `at`: when the first and the last batch of it came, in seconds
    since the epoch by Redis's clock. `looked_up` None: some replica did not count. `ttl` None: none said by which they
    judged."""

    began: float
    at: float
    accesses: Lookups = msgspec.field(default_factory=Lookups)
    verdicts: Verdicts = msgspec.field(default_factory=Verdicts)
    canaries: list[Canary] = []
    looked_up: float | None = 0.0
    ttl: float | None = None

    def is_whole(self, ttl: float, at: float) -> bool:
        """Whether what came at that time, when the TTL was that one, is another part."""
        moved = ttl >= 0 and self.ttl is not None and abs(ttl - self.ttl) > MOVED * self.ttl
        return moved or at - self.began >= SPAN or len(self.accesses) >= MOST_HELD


class ClassLearning(msgspec.Struct):
    """`ttl` is the last that is known to have been in force, `upto` how far what was stored reached, `saved_at` when it
    was stored last, in seconds since the epoch, `saved` how many comparisons were known then. `stale`: how many hits
    canaries found to be."""

    learning: Learning
    ttl: float
    upto: Id = (0, 0)
    saved_at: float = 0.0
    saved: float = 0.0
    stale: StaleShare = msgspec.field(default_factory=StaleShare)

    def has_grown(self) -> bool:
        """Whether much of what is known is not stored."""
        return self.learning.compared > (1 + MUCH) * self.saved


class Learnings:
    """`redis` is an asyncio client; its errors are passed on. `on_undecodable` is called as those of `redis.py`."""

    def __init__(self, redis: Any, on_undecodable: Callable[[str, object], None]) -> None:
        self._redis = redis
        self._on_undecodable = on_undecodable
        self._classes: dict[str, ClassLearning] = {}
        self._announced: dict[str, AnnouncedClass] = {}
        self._none_since = self._due = 0.0  # between these nothing is to be stored

    def lacks(self, name: str, identity: Id) -> bool:
        """Whether a batch is still to be taken in for a class."""
        held = self._classes.get(name)
        return held is not None and identity > held.upto

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __getitem__(self, name: str) -> ClassLearning:
        return self._classes[name]

    async def know(self, announcement: Announcement, wanted: Collection[str], now: float) -> Id:
        """Begin with the classes that are new, from where an operator before this one was. Gives the id after which
        some of them need what is in the stream; `now` is by Redis's clock, in seconds since the epoch."""
        announced = announcement.classes
        if announced != self._announced:
            self._announced = announced
            for name in self._classes.keys() & announced.keys():
                self._classes[name].learning.reshape(shape_of(announced[name]))
        named = [*sorted(announced.keys() & set(wanted)), *announced]
        missing = [name for name in dict.fromkeys(named) if name not in self._classes]
        room = max(0, MOST_CLASSES - len(self._classes))
        new = [name for place, name in enumerate(missing) if place < room or name in wanted]
        for name in new:
            self._classes[name] = await self._restored(name, announced[name], now)
            self._due = 0.0
        # While nobody had read for some minutes replicas wrote nothing.
        since = max((self._classes[name].saved_at for name in new), default=0.0) + READER_FOR
        for name in new:
            if self._classes[name].saved_at and since < now:
                self._classes[name].learning.away(since, now)
        return min((self._classes[name].upto for name in new), default=(0, 0))

    def fold(self, name: str, part: Part, now: float) -> None:
        """Take in what came for a class."""
        held = self._classes[name]
        if part.ttl is not None:
            held.ttl = part.ttl
        before = held.learning.refused
        held.learning.fold(
            part.accesses,
            list(part.verdicts),
            looked_up=part.looked_up,
            ttl_in_force=held.ttl,
            now=min(part.at, now),
        )
        if refused := held.learning.refused - before:
            self._on_undecodable("samples", f"{refused} of class {name} that cannot be true")
        held.stale.fold(part.canaries, min(part.at, now))

    def due(self, now: float, decided: str) -> Collection[str]:
        """Classes of which is to be stored what was learnt; that one was just decided on."""
        held = self._classes.get(decided)
        grown = {decided} if held is not None and held.has_grown() else set()
        if self._none_since <= now < self._due:
            return grown
        due = [name for name, held in self._classes.items() if has_passed(SAVE_EVERY, held.saved_at, now)]
        if not due:
            self._none_since = now
            self._due = min((held.saved_at for held in self._classes.values()), default=now) + SAVE_EVERY
        return grown.union(due)

    async def save(self, names: Collection[str], upto: Id, now: float) -> None:
        """Store these classes; all that came of them until the batch `upto` must have been taken in."""
        room = min(MOST_LEARNT, ALL_LEARNT // max(len(self._classes), 1))
        for name in names:
            held = self._classes[name]
            held.saved_at, held.saved = now, held.learning.compared
            stored = encoded(held, upto, now, room)
            if stored is None:
                _log.warning("learnt not stored", cache_class=name, error=f"more than {room} bytes")
                continue
            try:
                await self._redis.set(LEARNT_KEY % name, stored, ex=LEARNT_FOR)
            except (RedisError, RedisClusterException, OSError) as error:
                _log.warning("learnt not stored", cache_class=name, error=str(error))
                return

    async def _restored(self, name: str, announced: AnnouncedClass, now: float) -> ClassLearning:
        """As stored; new where there is nothing, or nothing that can be read."""
        held = ClassLearning(Learning(shape_of(announced)), announced.ttl)
        try:
            stored = await self._redis.getrange(LEARNT_KEY % name, 0, MOST_LEARNT)
            if not stored:
                return held
            learnt = decode(_learnt, stored, most=MOST_LEARNT)
            if not (0 < learnt.at < now + READER_FOR and 0 <= learnt.upto[0] < (now + READER_FOR) * 1000):
                raise Undecodable("of another time")
            if not 0 <= learnt.upto[1] < 2**64:
                raise Undecodable("no id of a batch")
            if not 0 <= learnt.ttl <= LONGEST_TTL:
                raise Undecodable("no TTL")
            learning, stale = Learning(shape_of(announced)), StaleShare()
            state = dict(decoded(learnt.arrays))
            stale.restore({"canaries": state.pop("canaries")})
            learning.restore(state)
            return ClassLearning(learning, learnt.ttl, learnt.upto, learnt.at, learning.compared, stale)
        except (ValueError, TypeError, LookupError, ArithmeticError, InvalidResponse) as error:
            self._on_undecodable("learnt", error)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            self._on_undecodable("learnt", "of another type")
        return held


def shape_of(announced: AnnouncedClass) -> Shape:
    """What its replay depends on: the class alone, so that policies come and go."""
    swr_share = announced.stale_while_revalidate / max(announced.ttl, 1.0)
    return Shape(SHORTEST, max(SHORTEST, min(announced.max_ttl, LONGEST_TTL)), min(swr_share, 10.0))


def encoded(held: ClassLearning, upto: Id, now: float, room: int) -> bytes | None:
    """With as many keys as there is room for, in bytes; None where there is not even room for none."""
    keys = min(MOST_KEYS, room // _BYTES_PER_KEY)
    while True:
        arrays = compressed({**held.learning.state(keys), **held.stale.state()})
        found = msgspec.msgpack.encode(Learnt(1, now, upto, held.ttl, arrays))
        if len(found) <= room:
            return found
        if not keys:
            return None
        keys //= 2


def compressed(state: State) -> bytes:
    arrays = [
        _Array(name, found.dtype.str, list(found.shape), np.ascontiguousarray(found).tobytes())
        for name, found in state.items()
    ]
    return zlib.compress(msgspec.msgpack.encode(arrays), 1)


def decoded(stored: bytes) -> State:
    """Undecodable or ValueError where it is not what `compressed` gives."""
    unpacking = zlib.decompressobj()
    try:
        raw = unpacking.decompress(stored, _MOST_RAW)
    except zlib.error as error:
        raise Undecodable(str(error)) from None
    if not unpacking.eof:
        raise Undecodable("cut, or too large")
    state = {}
    for each in decode(_arrays, raw, most=_MOST_RAW):
        if each.kind not in _KINDS:
            raise Undecodable("an array of another kind")
        state[each.name] = np.frombuffer(each.data, dtype=each.kind).reshape(each.shape)
    return state
