"""The answers that are stored: in this replica's memory, and in Redis, where all replicas share them.

`recall` looks in memory only and never awaits, so that the commonest hit costs no task switch. `find` asks Redis, and
learns in the same breath what was purged. `store` keeps an answer in both; a flight does so in two steps, `keep` and
`write`, since Redis has it written together with the end of its lease. What an entry is good for is decided by
`freshness`; which answers belong to which purges, by `purges`.

Memory is bounded in bytes. Moka's W-TinyLFU admits an answer only where it is likelier to be asked for again than what
it would push out, so that a scan of questions asked once does not evict the hot ones. Calls into it take well under a
microsecond and hold no lock across an await.

An entry is the assembled completion: one entry serves both shapes, streamed and whole. Or it is the vector of one text
(`dub5.vectors`); its key tells which of the two, so that neither is ever served for the other. The stored form says its
version, so that a replica of another release reads or ignores it but never misreads it, and carries a checksum, so that
a corrupt value is a miss. Values of 2 KiB and more are compressed where that saves at least a fifth; what it saves and
costs is measured in docs/reports/caching.md.

Births and ages go by Redis's clock, so that replicas need not agree about theirs. A birth that lies ahead by more than
TOLERANCE is nobody's: of a replica whose clock was wrong, of a Redis that was replaced by one with another clock, or
damage. How old such an answer is cannot be known, so it is good for nothing.

An error of Redis is never one of a request: a failed read is a miss, a failed write is a lost copy, both counted. So is
what cannot be an answer of ours, whoever wrote it; the next answer takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import math
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from moka_py import Moka
from msgspec import Meta

from dub5.cache.freshness import FRESH, NO_DIRECTIVES, USABLE, Directives, FreshnessState, Lifetimes, judge
from dub5.cache.purges import IN_FORCE, Asked, Purges
from dub5.contract import (
    ENTRY_KEY,
    FINGERPRINT_KEY,
    MOST_RECORD,
    QuestionNoise,
    QuestionRecord,
    Undecodable,
    decode,
)
from dub5.question_ttl import By
from dub5.redis.link import (
    CLOCK_TOLERANCE,
    RedisFailed,
    RedisLink,
    RedisUnavailable,
    RedisUndecodable,
    Words,
)
from dub5.telemetry.background import Background, BackgroundTask
from dub5.vectors import NoVector, Vector

TOLERANCE = CLOCK_TOLERANCE
"""Seconds by which a birth may lie ahead."""
_SYNCHRONISE_INTERVAL = 0.5
"""Seconds between two readings of the purges: half of what is promised."""
_AT_ONCE = 16
"""Look-ups that are answered together: few, since all their answers are held until the last one is here."""
_MOMENT = 0.1
"""Seconds for which it is known that nothing was there, for who looks twice. What another replica stores meanwhile is
found when a lease is asked for."""

_LOOK_UPS = 32
"""Look-ups over which is averaged how many of them found something in Redis, about."""
_SELDOM = 1 / 8
"""The share of them from which on Redis is looked into first: then that saves a turn more often than it costs one."""

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

VECTOR_KEY = "vector-"
"""What the key of a vector begins with; those of completions are hexadecimal digits."""

_MAGIC = b"D5E"
_VERSION = 1
_CHECKSUM = 8
_BESIDE_ANSWERS = 8
"""What is known of questions takes at most this part of the memory for answers more."""
_BESIDE_QUESTION = 400
"""Bytes that what is known of a question takes in memory, near enough to bound it by."""
MOST_HITS = 2**40
"""Of one answer, at most; more is damage."""
BESIDE_BODY = 200
"""Bytes that an entry takes in memory beside its body, near enough to bound a cache by."""
_PLAIN, _ZLIB = b"p", b"z"
_WORTH_SQUEEZING = 2048
"""Bytes. To expand what is shorter takes as long as all else that its reading takes: see docs/reports/caching.md."""
_AT_ONE_GO = 4096
"""Bytes that are expanded without an eye on how large that gets, which is four times as fast: at most 4 MiB."""
_LARGEST = 64 * 2**20
"""Bytes to which a stored value may expand, where nothing smaller is asked for; more is damage or malice."""
_Count = Annotated[int, Meta(ge=0, le=2**53)]

HEADER = _MAGIC + bytes([_VERSION])
"""What the stored form begins with."""
BORN_AT, BORN_DIGITS = len(HEADER), 16
"""Where the birth stands, in hexadecimal digits: scripts inside Redis compare births as text."""
BORN = b"%016x"
"""A birth as it stands in the stored form; the order of the text is the order of the times."""
_SUM_AT = BORN_AT + BORN_DIGITS
_PAYLOAD_AT = _SUM_AT + _CHECKSUM

Comparison = Literal["exact", "text", "json", "sketch"]
"""What of an answer counts as a change, see `samples`."""


class Identity(msgspec.Struct, frozen=True, gc=False):
    """What is asked, as of which purges. A request after a purge has another version, so it never joins."""

    key: str
    version: str


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One complete answer.

    `born` is when the provider's call began, in microseconds since the epoch: an answer is as old as the
    knowledge it was made from. `recompute` is how long that call took, in seconds.
    """

    body: bytes
    born: _Count
    recompute: Annotated[float, Meta(ge=0, le=1e9)]
    prompt_tokens: _Count
    completion_tokens: _Count

    def age(self, now: float) -> float:
        """Seconds since birth; never negative. How far ahead a birth may lie: TOLERANCE."""
        return max(0.0, now - self.born / 1e6)


class CorruptEntry(ValueError):
    """The stored bytes are not an entry: damaged, or not ours."""


class ForeignVersion(ValueError):
    """An entry of another release, whole but not ours to read."""


_decoder = msgspec.msgpack.Decoder(Entry)
_record_decoder = msgspec.msgpack.Decoder(QuestionRecord)
_noise_decoder = msgspec.msgpack.Decoder(QuestionNoise)
_completion = msgspec.json.Decoder(dict[str, Any])
_MOST_CHECKED = 40_000
"""Hashes of what was read from Redis and can be served: some 100 bytes each."""
_ENVELOPE = 100
"""Bytes that an entry has beside its body, at most."""


def most_stored(most: int) -> int:
    """Bytes that the stored form of an entry has at most, of whose body there are at most `most`."""
    return _PAYLOAD_AT + 1 + most + _ENVELOPE


def pack(entry: Entry) -> bytes:
    """Magic, version, birth, checksum, codec, MessagePack."""
    plain, born = msgspec.msgpack.encode(entry), BORN % entry.born
    payload = _PLAIN + plain
    # What is no JSON is a vector, and as good as random.
    if len(plain) >= _WORTH_SQUEEZING and entry.body.startswith(b"{"):
        squeezed = zlib.compress(plain, level=1)
        if len(squeezed) <= 0.8 * len(plain):
            payload = _ZLIB + squeezed
    return HEADER + born + checksum(born + payload) + payload


def unpack(stored: bytes, most: int = _LARGEST, *, verified: bool = False) -> Entry:
    """The inverse of `pack`; raises CorruptEntry or ForeignVersion. The body has at most `most` bytes. `verified`:
    these bytes were unpacked before."""
    if verified and stored.startswith(_PLAIN, _PAYLOAD_AT):
        return _decoder.decode(stored[_PAYLOAD_AT + 1 :])
    if not stored.startswith(HEADER) or len(stored) <= _PAYLOAD_AT:
        raise ForeignVersion if stored.startswith(_MAGIC) and len(stored) > _PAYLOAD_AT else CorruptEntry
    summed, most = stored[BORN_AT:_SUM_AT] + stored[_PAYLOAD_AT:], most + _ENVELOPE
    if stored[_SUM_AT:_PAYLOAD_AT] != checksum(summed):
        raise CorruptEntry
    try:
        if summed.startswith(_PLAIN, BORN_DIGITS):
            plain = summed[BORN_DIGITS + 1 :]
        else:
            plain = _expanded(stored[_PAYLOAD_AT:], most)
        entry = decode(_decoder, plain, most=most)
    except (Undecodable, zlib.error):
        raise CorruptEntry from None
    if not summed.startswith(BORN % entry.born):
        raise CorruptEntry
    return entry


def _expanded(payload: bytes, most: int) -> bytes:
    if not payload.startswith(_ZLIB):
        raise CorruptEntry
    if len(payload) <= _AT_ONE_GO:
        return zlib.decompress(payload[1:])
    inflater = zlib.decompressobj()
    plain = inflater.decompress(payload[1:], most)
    if not inflater.eof:
        raise CorruptEntry
    return plain


def checksum(content: bytes) -> bytes:
    """Of birth and payload."""
    return hashlib.blake2b(content, digest_size=_CHECKSUM).digest()


def check_answer(key: str, body: bytes) -> None:
    """Undecodable where it is not what is kept under such a key, or could not be served."""
    if not key.startswith(VECTOR_KEY):
        check_completion(body)
        return
    try:
        Vector.stored(body)
    except NoVector as error:
        raise Undecodable(str(error)) from None


def check_completion(body: bytes) -> None:
    """Undecodable where it is no completion that could be served, whole or streamed. Memory has it from then on, so
    this is seldom done."""
    choices = decode(_completion, body, most=len(body)).get("choices") or []
    if not isinstance(choices, list) or not all(
        isinstance(choice, dict) and isinstance(choice.get("message"), dict) for choice in choices
    ):
        raise Undecodable("no completion")


class CacheLookup(msgspec.Struct, frozen=True, gc=False):
    """Which answer, and what the request and its class ask of it. `names` are those that a purge may name.

    `words` is the request as it was worded, so that one may be told from another with the same key. `prices` are what a
    token of the prompt and one of the answer cost, in dollars. `may_re_ask`: it may be asked again only to compare.
    """

    key: str
    names: tuple[str, ...]
    lifetimes: Lifetimes
    directives: Directives
    class_name: str = "default"
    compare: Comparison = "text"
    words: Any = None
    prices: tuple[float, float] = (0.0, 0.0)
    may_re_ask: bool = True


def read_record(stored: bytes | None) -> QuestionRecord | None:
    """What a fingerprint says is known of its question; Undecodable where that is none of ours."""
    return None if stored is None else decode(_record_decoder, stored, most=MOST_RECORD)


def read_noise(stored: bytes | None) -> QuestionNoise | None:
    """What it says of the two explanations of its changes, as `read_record`."""
    return None if stored is None else decode(_noise_decoder, stored, most=MOST_RECORD)


class QuestionState(msgspec.Struct, gc=False):
    """What is known here of one question: the record of it, and the hits, in the whole installation, of its answer that
    was `born` then."""

    record: QuestionRecord | None
    born: int
    hits: float = 0.0

    def hits_of(self, entry: Entry) -> float:
        return self.hits if self.born == entry.born else 0.0

    def served(self, entry: Entry, hits: int) -> None:
        """So many hits more, of all replicas together."""
        if self.born < entry.born:
            self.born, self.hits = entry.born, 0.0
        if self.born == entry.born:
            self.hits += hits


class CacheHit(msgspec.Struct, frozen=True, gc=False):
    """A stored answer, where it was, and what it is good for, by which lifetimes: see Freshness.

    Where these are its own, `ttl_by` says why, and `question` is what is known of that.
    """

    entry: Entry
    tier: str
    state: FreshnessState
    age: float
    ttl: float
    lifetimes: Lifetimes
    ttl_by: By | None = None
    question: QuestionState | None = None

    @property
    def usable(self) -> bool:
        return self.state in USABLE

    @property
    def result(self) -> str:
        """Of its look-up."""
        return "stale" if self.ttl <= 0 else self.tier

    @property
    def own_ttl(self) -> float | None:
        """Seconds, None where it has none of its own."""
        return None if self.ttl_by is None else self.lifetimes.ttl


def _known(key: str) -> Words:
    return ("HMGET", FINGERPRINT_KEY % key, "born", "hits", "known")


def _settle(future: asyncio.Future[Entry | None], entry: Entry | None) -> None:
    if not future.done():  # else whoever waited has left
        future.set_result(entry)


class Kept(msgspec.Struct, frozen=True):
    """An answer that is in memory, and the command that has Redis keep it, empty without Redis."""

    identity: Identity
    entry: Entry
    put: Words


class LocalEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry in memory, and since when it is there (monotonic seconds)."""

    entry: Entry
    since: float


class LocalCache:
    """Entries in memory by identity, and what is known of questions by key; `capacity` in bytes, of entries."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: Moka[tuple[str, str], LocalEntry] = Moka(
            max(capacity, 1), weigher=lambda _, held: _weight(held.entry)
        )
        self.find = self._entries.get
        """What is kept under the Identity of a key and a version, without one."""
        self.questions: Moka[str, QuestionState] = Moka(
            max(1, capacity // _BESIDE_ANSWERS // _BESIDE_QUESTION)
        )

    def get(self, identity: Identity) -> LocalEntry | None:
        return self._entries.get((identity.key, identity.version))

    def put(self, identity: Identity, entry: Entry, *, seconds: float) -> None:
        """Keep for at most `seconds`; may be refused or evicted earlier."""
        if _weight(entry) > self.capacity:
            return  # Moka would hold it until its next housekeeping
        self._entries.set((identity.key, identity.version), LocalEntry(entry, time.monotonic()), ttl=seconds)

    def forget(self, identity: Identity, entry: Entry) -> None:
        """Unless it was replaced."""
        held = self.get(identity)
        if held is not None and held.entry is entry:
            self._entries.remove((identity.key, identity.version))

    def count(self) -> int:
        self._entries.run_pending_tasks()
        return self._entries.count()

    def bytes(self) -> int:
        self._entries.run_pending_tasks()
        return self._entries.weighted_size()


def _weight(entry: Entry) -> int:
    return len(entry.body) + BESIDE_BODY


def _is_unborn(entry: Entry, now: float) -> bool:
    """Whether it says that it is born later than now: then nobody knows how old it is."""
    return entry.born > (now + TOLERANCE) * 1e6


OnEntry = Callable[[Entry | None], None]
"""Called with what Redis has, None where it is nothing that may be used."""


class _Reading(msgspec.Struct, eq=False):
    """A look-up in Redis of what is kept for a `key` as of a `version`, under a `name`, for all who want the same while
    it is under way; `waiting` are called with what it found: those with a CacheLookup only where that holds.

    `question`: what is known of that is asked for, too. `kept`: who asked for it looks again, another way. Where it
    found nothing it is known for a moment after it is `over`.
    """

    key: str
    version: str
    name: str
    began: float
    waiting: list[tuple[CacheLookup | None, OnEntry]]
    question: bool
    kept: bool = False
    over: bool = False


def _is_recent(reading: _Reading) -> bool:
    """One that was begun long ago, before this process was stopped for a while, may not know of purges."""
    return reading.began >= time.monotonic() - IN_FORCE


class _Turn(msgspec.Struct, eq=False):
    """What is looked up in one turn of the event loop. `purges_known`: what Redis had of purges then is here, and
    there is no more to learn."""

    readings: list[_Reading] = []
    purges_known: bool = False


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
        self._readings: dict[str, _Reading] = {}  # by name
        self._checked: set[int] = set()  # hashes of stored completions
        # By class, the share of look-ups in Redis that found something, of late.
        self._found: dict[str, float] = {}
        self._turn: _Turn | None = None
        self._learning: asyncio.Task[bool] | None = None  # the same, where it takes a task
        self._background = background or Background()
        self._failures = self._background.failures("cache-lookup")
        self._lookups = self._background.jobs("cache-lookup")
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
        await self._lookups.stop()

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

    def version(self, lookup: CacheLookup) -> str:
        """Of that name."""
        return self._purges.version(lookup.names)

    def holds(self, lookup: CacheLookup, version: str) -> bool:
        """Whether what memory had under that version may still be used: nothing was purged, for all that is known, and
        enough is known of that."""
        return version == self._purges.version(lookup.names) and self._purges.confirmed(-math.inf)

    def learn(self, key: str, record: QuestionRecord | None, born: int, hits: float = 0.0) -> None:
        """What is known of a question by now, and how often its answer that was `born` then was served."""
        known = self._local.questions.get(key)
        if known is None or known.born < born:
            self._local.questions.set(key, QuestionState(record, born, hits))
        elif known.born == born:  # the hits of the last seconds were counted here, and there not yet
            known.record, known.hits = record, max(known.hits, hits)

    def looks_first(self, class_name: str) -> bool:
        """Whether it is worth a turn of Redis to look there before a lease is asked for, which says as well that there
        is something: of late it had some of what memory of this class had not."""
        return self._found.get(class_name, 1.0) >= _SELDOM

    def looked(self, class_name: str, *, found: bool) -> None:
        """Redis has said whether there is something."""
        share = self._found.get(class_name, 1.0)
        self._found[class_name] = share + (found - share) / _LOOK_UPS

    def ask_known(self, key: str) -> bool:
        """Have what is known of a question read, as with a look-up; False where that would take a wait."""
        taking = functools.partial(self._take_known, key)
        return self._link is not None and self._link.ask("fingerprint", [_known(key)], taking)

    def recall(self, lookup: CacheLookup) -> CacheHit | None:
        """What memory has, good for something or not."""
        entry = self.remembered(lookup)
        return None if entry is None else self.judged(entry, "local", lookup)

    def remembered(self, lookup: CacheLookup) -> Entry | None:
        """What memory has, however old, where that may be used without asking Redis."""
        if not self._local.capacity:
            return None
        held = self._local.find((lookup.key, self._purges.version(lookup.names)))
        return held.entry if held is not None and self._purges.confirmed(held.since) else None

    async def find(self, lookup: CacheLookup) -> CacheHit | None:
        """What Redis has, else what memory has.

        Redis is read once for all who ask meanwhile: a thousand clients with one question must not mean a thousand
        reads.
        """
        if self._link is None or not self._link.available:
            return self.recall(lookup)
        version, entry = self._purges.version(lookup.names), None
        reading = self._readings.get(ENTRY_KEY % (lookup.key, version))
        if reading is not None and reading.over and _is_recent(reading):  # there was nothing
            return self.recall(lookup)
        for _ in range(2):
            found: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()
            self._read_for(lookup, version, functools.partial(_settle, found))
            entry, asked = await found, version
            version = self._purges.version(lookup.names)
            if version == asked:
                break
            # A purge came to our knowledge with the reading.
        hit = None if entry is None else self.judged(entry, "shared", lookup)
        return hit or self.recall(lookup)

    def ask(self, lookup: CacheLookup, done: OnEntry) -> bool:
        """`find` for who cannot wait: `done` is called once, later, with what Redis has, however old. None: there may
        be something all the same, and `find`, called soon, knows without asking again what was not there.

        False, and no call, where that may not be, or not that way now. `done` must not raise.
        """
        if self._link is None or not self._link.available or lookup.directives.no_cache:
            return False
        return self._read_for(lookup, self._purges.version(lookup.names), done, at_once=True)

    def _read_for(
        self, lookup: CacheLookup, version: str, on_entry: OnEntry, *, at_once: bool = False
    ) -> bool:
        """Call `on_entry` with what Redis has under that version, None where it is purged by then, by a reading that
        may be under way already, or have found nothing a moment ago. It is no request's, so that whoever leaves takes
        nothing from the others. `at_once`: False where that would take a task."""
        name = ENTRY_KEY % (lookup.key, version)
        reading = self._readings.get(name)
        if reading is not None and _is_recent(reading):
            reading.kept |= at_once
            if reading.over:
                asyncio.get_running_loop().call_soon(on_entry, None)
            else:
                reading.waiting.append((lookup, on_entry))
            return True
        question = lookup.lifetimes.question is not None
        reading = _Reading(lookup.key, version, name, time.monotonic(), [], question, at_once)
        reading.waiting.append((lookup, on_entry))
        if not self._read(reading):
            if at_once:
                return False
            self._read_slowly(reading)
        self._readings[name] = reading
        return True

    def _read_slowly(self, reading: _Reading) -> None:
        def done(task: asyncio.Task[Entry | None]) -> None:
            failed = task.cancelled() or task.exception() is not None  # it is noted: a miss
            # A task does not tell why it found nothing.
            self._finish(reading, None if failed else task.result(), answered=False)

        work = self._read_in_task(reading)
        self._lookups.start(work).add_done_callback(done)

    async def take_over(self, identity: Identity, lifetimes: Lifetimes) -> bytes | None:
        """The whole answer that another replica has just stored."""
        if self._link is None:
            return None
        # Never what another look-up reads: that may have begun before the answer was stored.
        found: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()
        reading = _Reading(
            identity.key,
            identity.version,
            ENTRY_KEY % (identity.key, identity.version),
            time.monotonic(),
            [(None, functools.partial(_settle, found))],
            lifetimes.question is not None,
        )
        entry = await (found if self._read(reading) else self._read_in_task(reading))
        if entry is None or _is_unborn(entry, self.now()):
            return None
        self._keep_locally(identity, entry, lifetimes)
        return entry.body

    async def store(self, identity: Identity, entry: Entry, lifetimes: Lifetimes) -> bool:
        """Keep an answer in both tiers; whether it was fit to be kept."""
        kept = self.keep(identity, entry, lifetimes)
        if kept is not None:
            await self.write(kept)
        return kept is not None

    def keep(self, identity: Identity, entry: Entry, lifetimes: Lifetimes) -> Kept | None:
        """Keep an answer in memory, and say what is to be written to Redis; None where it is not fit to be kept."""
        now = self.now()
        left = self._kept_for(identity.key, lifetimes) - entry.age(now)
        if len(entry.body) > self.max_entry or left <= 0 or _is_unborn(entry, now):
            return None
        self._hold(identity, entry, left, now)
        if self._link is None:
            return Kept(identity, entry, ())
        name, packed = ENTRY_KEY % (identity.key, identity.version), pack(entry)
        reading = self._readings.get(name)
        if reading is not None and reading.over:  # there is something now
            del self._readings[name]
        put = ("EVAL", _PUT, 1, name, packed, max(1, int(left * 1000)), HEADER, BORN % int(now * 1e6))
        return Kept(identity, entry, put)

    async def write(self, kept: Kept) -> None:
        """Keep it in Redis, too. Where that is away the copy there is lost, and the one in memory is kept all the
        same."""
        if self._link is not None and kept.put:
            with contextlib.suppress(RedisUnavailable):
                self.written(kept, *await self._link.pipeline("set", [kept.put]))

    def written(self, kept: Kept, answer: int) -> None:
        """What Redis said to `put`: where a younger answer is there already, that is the better one to find."""
        if not answer:
            self._local.forget(kept.identity, kept.entry)

    def _read(self, reading: _Reading) -> bool:
        """Have it read with all else that is looked up in this turn of the event loop, and after the purges since the
        last turn in which something was. So what was purged elsewhere is known before an answer is trusted: answers
        come in the order of asking. False where the link cannot be asked without a wait."""
        assert self._link is not None  # noqa: S101  # who calls has seen to it
        turn = self._turn
        if turn is None:
            if not self._link.pipelines:
                return False
            turn = self._turn = _Turn()
            asyncio.get_running_loop().call_soon(self._ask)
        turn.readings.append(reading)
        return True

    def _ask(self) -> None:
        link, turn, self._turn = self._link, self._turn, None
        assert link is not None and turn is not None  # noqa: S101, PT018  # see `_read`
        asked = self._purges.asked()
        reached = link.ask("purges", asked.commands, functools.partial(self._learn, turn, asked))
        for start in range(0, len(turn.readings), _AT_ONCE):
            batch = turn.readings[start : start + _AT_ONCE]
            for key in [each.key for each in batch if each.question]:
                reached = reached and self.ask_known(key)
            names = [each.name for each in batch]
            # One byte more than it can be, whatever there is.
            reached = reached and link.ask_ranges(
                "get", names, self._most_stored, functools.partial(self._take, turn, batch)
            )
            if not reached:
                self._read_otherwise(batch)
        link.send()

    def _read_otherwise(self, readings: Iterable[_Reading]) -> None:
        """In tasks, where Redis is there."""
        for reading in readings:
            if self._link is not None and self._link.available:
                self._read_slowly(reading)
            else:
                self._finish(reading, None, answered=False)

    def _learn(self, turn: _Turn, asked: Asked, answers: list[Any] | RedisUnavailable) -> None:
        if not isinstance(answers, RedisUnavailable):
            try:
                turn.purges_known = self._purges.learn(asked, *answers)
            except Exception as error:  # noqa: BLE001  # a defect there: nothing is trusted
                self._failures.note(error)
            if self._purges.behind:
                self._nudged.set()

    def _take_known(self, key: str, answers: list[Any] | RedisUnavailable) -> None:
        """What Redis has beside the fingerprint of a question's last answer; nothing where there is none, or it is none
        of ours: the next comparison puts it right."""
        if isinstance(answers, RedisUnavailable) or self._link is None:
            return
        born, hits, record = answers[0]
        if born is None or hits is None:
            return
        try:
            birth, count = int(born), int(hits)
            if not (birth <= (self.now() + TOLERANCE) * 1e6 and 0 <= count <= MOST_HITS):
                raise Undecodable("no fingerprint")
            self.learn(key, read_record(record), birth, count)
        except ValueError as error:  # Undecodable is one
            self._link.undecodable("fingerprint", error)

    def _take(self, turn: _Turn, batch: list[_Reading], answers: list[Any] | RedisUnavailable) -> None:
        if isinstance(answers, RedisUnavailable):
            # The connection was cut, not Redis; or one of several names has what is none of ours.
            foreign = isinstance(answers, RedisUndecodable)
            if isinstance(answers, RedisFailed) or (foreign and len(batch) > 1):
                self._read_otherwise(batch)
            else:
                for reading in batch:
                    self._finish(reading, None, answered=foreign and turn.purges_known)
            return
        for reading, stored in zip(batch, answers, strict=True):
            entry = None
            # With more to learn of purges than that nothing can be trusted, and no request waits for it.
            if turn.purges_known and stored:
                try:
                    entry = self._unpacked(reading.key, stored)
                except Exception as error:  # noqa: BLE001  # a defect there must not cost an answer: it is a miss
                    self._failures.note(error)
            self._finish(reading, entry, answered=turn.purges_known)

    def _finish(self, reading: _Reading, entry: Entry | None, *, answered: bool) -> None:
        """It found that. `answered`: Redis said so, and enough of purges: else nothing tells that there is nothing."""
        name, reading.over = reading.name, True
        if self._readings.get(name) is reading:  # else it was replaced by a later one
            if entry is None and answered and reading.kept:
                asyncio.get_running_loop().call_later(_MOMENT, self._forget, reading)
            else:
                del self._readings[name]
        version, local = reading.version, self._local
        first = reading.waiting[0][0]
        if first is not None and (answered if entry is None else first.class_name in self._found):
            self.looked(first.class_name, found=entry is not None)
        for lookup, on_entry in reading.waiting:
            told = entry
            if entry is not None and lookup is not None:
                # Else a purge came to our knowledge with the reading, and there is another answer to look for.
                if version != self._purges.version(lookup.names):
                    told = None
                elif local.capacity:
                    self._keep_locally(Identity(reading.key, version), entry, lookup.lifetimes)
            on_entry(told)

    def _forget(self, reading: _Reading) -> None:
        if self._readings.get(reading.name) is reading:
            del self._readings[reading.name]

    async def _read_in_task(self, reading: _Reading) -> Entry | None:
        """The same where it takes a wait: in a Cluster, and while the link has no connection for look-ups."""
        link, learning = self._link, self._learning
        assert link is not None  # noqa: S101  # who calls has seen to it
        if learning is None:
            learning = self._learning = self._lookups.start(self._learn_slowly(link))
            asyncio.get_running_loop().call_soon(setattr, self, "_learning", None)  # with the turn
        get = link.run("get", "GETRANGE", reading.name, 0, self._most_stored)
        try:
            if reading.question:  # in the same batch
                known, stored = await asyncio.gather(
                    link.pipeline("fingerprint", [_known(reading.key)]), get, return_exceptions=True
                )
                if isinstance(known, list):
                    self._take_known(reading.key, known)
                if isinstance(stored, BaseException):
                    raise stored
            else:
                stored = await get
        except RedisUnavailable:
            return None
        learnt = await self._lookups.result(learning)
        return self._unpacked(reading.key, stored) if learnt and stored else None

    async def _learn_slowly(self, link: RedisLink) -> bool:
        asked = self._purges.asked()
        try:
            return self._purges.learn(asked, *await link.pipeline("purges", asked.commands))
        except RedisUnavailable:
            return False
        finally:
            if self._purges.behind:
                self._nudged.set()

    def _unpacked(self, key: str, stored: bytes) -> Entry | None:
        link, most = self._link, self._most_stored
        assert link is not None  # noqa: S101  # it was read there
        try:
            if len(stored) > most:
                raise CorruptEntry("larger than cache.max_entry")
            hashed = hash(stored)  # which nobody outside can foresee, and costs less than the checksum
            verified = hashed in self._checked
            entry = unpack(stored, self.max_entry, verified=verified)
            if key.startswith(VECTOR_KEY):
                check_answer(key, entry.body)
            elif not verified:
                check_answer(key, entry.body)
                if len(self._checked) >= _MOST_CHECKED:
                    self._checked.clear()
                self._checked.add(hashed)
        except (CorruptEntry, Undecodable) as error:
            link.undecodable("entry", str(error) or "damaged")
            return None
        except ForeignVersion:
            return None
        return entry

    def _keep_locally(self, identity: Identity, entry: Entry, lifetimes: Lifetimes) -> None:
        """For as long as it may be of use, where that is known."""
        now = self.now()
        left = self._kept_for(identity.key, lifetimes) - entry.age(now)
        if left > 0 and not _is_unborn(entry, now):
            self._hold(identity, entry, left, now)

    def _hold(self, identity: Identity, entry: Entry, left: float, now: float) -> None:
        """In memory for so many seconds, unless a younger one is there, as in Redis: it was fetched, or written by
        people, while this one was on its way."""
        held = self._local.get(identity)
        if held is None or held.entry.born <= entry.born or _is_unborn(held.entry, now):
            self._local.put(identity, entry, seconds=left)

    def judged(self, entry: Entry, tier: str, lookup: CacheLookup) -> CacheHit | None:
        """What an entry that was found in this `tier` is good for; None where its age is not known."""
        now = self.now()
        age = now - entry.born / 1e6
        if age < 0:
            if _is_unborn(entry, now):
                return None
            age = 0.0
        lifetimes, by, known = lookup.lifetimes, None, None
        if lifetimes.question is not None:
            known = self._local.questions.get(lookup.key)
            if known is None:
                known = QuestionState(None, entry.born)
                self._local.questions.set(lookup.key, known)
            hits = known.hits_of(entry)
            lifetimes, by = lifetimes.of_answer(known.record, hits=hits, age=age, now=now)
        ttl = lifetimes.ttl - age
        if ttl > 0 and lookup.directives is NO_DIRECTIVES:  # as most: without more ado
            return CacheHit(entry, tier, FRESH, age, ttl, lifetimes, by, known)
        fresh = judge(age=age, lifetimes=lifetimes, asked=lookup.directives)
        return CacheHit(entry, tier, fresh.state, age, fresh.ttl, lifetimes, by, known)

    def _kept_for(self, key: str, lifetimes: Lifetimes) -> float:
        """Seconds for which an answer may be of use, by what is known of its question where that counts."""
        known = None if lifetimes.question is None else self._local.questions.get(key)
        return lifetimes.kept_for(None if known is None else known.record)

    async def _keep_synchronised(self) -> None:
        """Learn of purges whatever happens to messages about them."""
        while True:
            with contextlib.suppress(RedisUnavailable):
                await self._purges.synchronise()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SYNCHRONISE_INTERVAL):
                    await self._nudged.wait()
            self._nudged.clear()
