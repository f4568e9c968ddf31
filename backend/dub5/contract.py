"""What replicas, of two releases during a rollout, and the operator say to each other through Redis.

Only names and plain data live here; the module imports nothing of ours, so that the operator can import it
without the rest. Names that must meet on one node of a Redis Cluster share a hash tag, the part in braces.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, TypeVar

import msgspec
from msgspec import Meta

PREFIX = "dub5"

T_co = TypeVar("T_co", covariant=True)


class Undecodable(ValueError):
    """What was read from Redis is not what we write there. The text says why, and quotes nothing of it."""


def clock_offset(held: float, read: Sequence[bytes], *, asked: float, now: float) -> float:
    """How far Redis's clock is ahead of ours, in seconds: what we `held`, or as little else as can be.

    It was `read`, as REDIS_TIME gives it, at some moment between `asked` and `now`, both ours, so it is known to within
    a round trip only: clocks that agree so far are left alone.
    """
    seconds, micros = read
    theirs = int(seconds) + int(micros) / 1e6
    return min(max(held, theirs - now), theirs - asked) if now >= asked else held


REDIS_TIME = "return redis.call('TIME')"
"""Redis's clock, seconds and microseconds. A script with a key, so that of a Cluster it is always the same node's."""


class Decoder(Protocol[T_co]):
    """As msgspec's, of JSON or of MessagePack."""

    def decode(self, encoded: bytes, /) -> T_co: ...


def decode(decoder: Decoder[T_co], stored: bytes, *, most: int) -> T_co:
    """A value from Redis, whatever wrote it there; Undecodable where it has more than `most` bytes, or for any reason
    cannot be read.

    msgspec says what is wrong in four ways: its own error, Unicode's, RecursionError for what is nested too deeply (it
    has a bound of its own, long before the stack ends), OverflowError.
    """
    if len(stored) > most:
        raise Undecodable(f"more than {most} bytes")
    try:
        return decoder.decode(stored)
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise Undecodable(f"{type(error).__name__}: {str(error)[:200]}") from None


PURGES = f"{PREFIX}:{{purges}}"
PURGE_JOURNAL = f"{PURGES}:journal"
"""Stream of the last purges; the id of each is its stamp. Fields: names, or `all` with their hashes as its value."""
PURGE_RECENT = f"{PURGES}:recent"
"""Sorted set: hash of a name -> greatest stamp, of the names that were purged last."""
PURGE_LOG = f"{PURGES}:log"
"""String: stamps of the names before them, in LOG_SEGMENTS segments, used in turn. A segment is a base of 8 bytes, then
records of 8, in the order of stamps: the hash in the upper half, units of PURGE_UNIT since the base in the lower. All
are little-endian; 0 is no record."""
PURGE_STATE = f"{PURGES}:state"
"""Hash: `first` and `next` segment of the log, counted from the very first one (so each is at its number modulo
LOG_SEGMENTS), `count` of records in the last one, `floor`: every name was purged at this stamp or later. The rest is
the script's own."""
PURGE_STAMPS = f"{PURGES}:stamps"
"""Sorted set of releases before the log: names -> stamps. They find `all` in it, with the last stamp."""
PURGE_NONCE = f"{PURGES}:nonce"
"""Random name of this installation's Redis contents; gone when they are. Names are hashed with it, so that no client
can choose one that has the hash of another's."""
PURGE_KEYS = (PURGE_JOURNAL, PURGE_RECENT, PURGE_LOG, PURGE_STATE, PURGE_STAMPS, PURGE_NONCE)
PURGE_CHANNEL = f"{PREFIX}:purged"
"""Carries the stamp of each purge."""
PURGE_UNIT = 1024
"""Microseconds between two stamps at least; stamps are multiples of it."""
LAST_STAMP = 2**53 - 2**45
"""A greater one is damage: no clock comes there before 2254, and scripts count to 2**53."""
NONCE_LENGTH = 32
"""Letters and digits of a nonce, at most; ours have 8."""
PURGED_AT_ONCE = 100
"""Names that one run of the script may be given, at most."""
RECENT_NAMES, RECENT_SURPLUS = 4096, 512
MOST_RECENT = 2 * RECENT_NAMES
"""More than the script ever leaves there."""
LOG_SEGMENTS, SEGMENT_RECORDS = 32, 32_759
SEGMENT_BYTES = 8 * (SEGMENT_RECORDS + 1)
"""All segments together stay below 8 MiB, the next larger piece that Redis's allocator gives being 10."""
_JOURNAL_EVENTS = 2048
_EVENT_NAMES = 200
"""Bytes of names that stand in the journal as they are."""
EVENT_BYTES = 64 * 1024
"""Of all names in one event, at most: a release before this one wrote a hundred as they are."""
_PURGE_SCRIPT = """
local journal, recent, log, state, former = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local function outside(value, greatest)
  local number = tonumber(value or 0)
  return not (number and number >= 0 and number <= greatest)
end
local function scores_outside(key)
  local ends = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  return outside(ends[2], LAST) or outside(last[2], LAST)
end
local function damaged()
  for index, kind in ipairs({'stream', 'zset', 'string', 'hash', 'zset', 'string'}) do
    local found = redis.call('TYPE', KEYS[index]).ok
    if found ~= kind and found ~= 'none' then return true end
  end
  local nonce = redis.call('GETRANGE', KEYS[6], 0, NONCE)
  if #nonce > NONCE or string.find(nonce, '%W') then return true end
  if nonce == '' and redis.call('EXISTS', KEYS[6]) == 1 then return true end
  local last = redis.call('XREVRANGE', journal, '+', '-', 'COUNT', 1)[1]
  if last then
    local size = 0
    for _, text in ipairs(last[2]) do size = size + #text end
    if size > EVENT or outside(string.match(last[1], '^%d+'), LAST) then return true end
  end
  local held = redis.call('HMGET', state, 'first', 'next', 'count', 'base', 'floor', 'end', 'mark')
  for index, greatest in ipairs({LAST, LAST, RECORDS, LAST / UNIT, LAST, LAST / UNIT, LAST}) do
    if outside(held[index], greatest) then return true end
  end
  local names = redis.call('EXISTS', recent) == 1
  if held[7] and not names then return true end
  if (last or names) and not held[7] and redis.call('EXISTS', former) == 0 then return true end
  if tonumber(held[2] or 0) > 0 and redis.call('EXISTS', log) == 0 then return true end
  local segments = tonumber(held[2] or 0) - tonumber(held[1] or 0)
  if outside(segments, SEGMENTS) then return true end
  if redis.call('GETRANGE', log, SEGMENTS * SEGMENT_BYTES, SEGMENTS * SEGMENT_BYTES) ~= '' then return true end
  return redis.call('ZCARD', recent) > MOST_RECENT or scores_outside(recent) or scores_outside(former)
end
if damaged() then redis.call('DEL', unpack(KEYS)) end
local nonce = redis.call('GET', KEYS[6])
if not nonce then
  nonce = ARGV[2]
  redis.call('SET', KEYS[6], nonce)
end
local function hashed(name)
  if string.sub(name, 1, 1) == '#' then return string.sub(name, 2) end
  return string.sub(redis.sha1hex(nonce .. name), 1, 8)
end
local last = redis.call('XREVRANGE', journal, '+', '-', 'COUNT', 1)
local stamp = tonumber(ARGV[1])
if last[1] then stamp = math.max(stamp, tonumber(string.match(last[1][1], '^%d+'))) end
local id = string.format('%.0f', stamp)
if #ARGV > 2 then
  local time = redis.call('TIME')
  stamp = math.ceil(math.max(time[1] * 1000000 + time[2], stamp + 1) / UNIT) * UNIT
  id = string.format('%.0f', stamp)
  local fields, hashes, size = {}, {}, 0
  for index = 3, #ARGV do
    local name, hash = ARGV[index], hashed(ARGV[index])
    redis.call('ZADD', recent, id, hash)
    fields[#fields + 1], fields[#fields + 2] = name, ''
    hashes[#hashes + 1] = struct.pack('<I4', tonumber(hash, 16))
    size = size + (string.sub(name, 1, 1) == '#' and EVENT_NAMES or 0) + #name
  end
  if size > EVENT_NAMES then fields = {'all', table.concat(hashes)} end
  redis.call('XADD', journal, 'MAXLEN', '~', JOURNAL_EVENTS, id .. '-0', unpack(fields))
end

local moved = redis.call('ZPOPMIN', former, 256)
local mark = tonumber(redis.call('HGET', state, 'mark') or 0)
for index = 1, #moved, 2 do
  if moved[index] ~= 'all' or tonumber(moved[index + 1]) ~= mark then
    local hash = hashed(moved[index])
    local known = redis.call('ZSCORE', recent, hash)
    if not known or tonumber(known) < tonumber(moved[index + 1]) then
      redis.call('ZADD', recent, moved[index + 1], hash)
    end
  end
  stamp = math.max(stamp, tonumber(moved[index + 1]))
end
if #moved > 0 or #ARGV > 2 then
  local mark = string.format('%.0f', stamp)
  redis.call('ZADD', former, mark, 'all')
  redis.call('HSET', state, 'mark', mark)
end

local surplus = redis.call('ZCARD', recent) - RECENT_NAMES
if surplus >= RECENT_SURPLUS then
  local held = redis.call('HMGET', state, 'first', 'next', 'count', 'base', 'floor', 'end')
  local first, following, count = tonumber(held[1] or 0), tonumber(held[2] or 0), tonumber(held[3] or 0)
  local base, floor, greatest = tonumber(held[4] or 0), held[5] or '0', tonumber(held[6] or 0)
  if following == 0 then redis.call('SETRANGE', log, SEGMENTS * SEGMENT_BYTES - 1, '\\0') end
  local records = {}
  local function write()
    local at = (following - 1) % SEGMENTS * SEGMENT_BYTES + 8 * (1 + count - #records)
    if #records > 0 then redis.call('SETRANGE', log, at, table.concat(records)) end
    records = {}
  end
  local oldest = redis.call('ZPOPMIN', recent, surplus)
  for index = 1, #oldest, 2 do
    local at = math.ceil(tonumber(oldest[index + 1]) / UNIT)
    if following == 0 or count == RECORDS or at - base >= 4294967296 then
      write()
      if following - first == SEGMENTS then
        first = first + SEGMENTS / 2
        local start = first % SEGMENTS * SEGMENT_BYTES
        floor = string.format('%.0f', (struct.unpack('<I8', redis.call('GETRANGE', log, start, start + 7)) + 1) * UNIT)
      end
      following, count, base = following + 1, 0, math.max(at, greatest) - 1
      local empty = struct.pack('<I8', base) .. string.rep('\\0', SEGMENT_BYTES - 8)
      redis.call('SETRANGE', log, (following - 1) % SEGMENTS * SEGMENT_BYTES, empty)
    end
    count, greatest = count + 1, math.max(at, greatest)
    records[#records + 1] = struct.pack('<I4I4', math.max(at - base, 1), tonumber(oldest[index], 16) or 0)
  end
  write()
  redis.call('HSET', state, 'first', first, 'next', following, 'count', count,
    'base', string.format('%.0f', base), 'floor', floor, 'end', string.format('%.0f', greatest))
end
return {id, redis.call('ZCARD', former) - 1}
"""
_CONSTANTS = {
    "EVENT": EVENT_BYTES,
    "EVENT_NAMES": _EVENT_NAMES,
    "JOURNAL_EVENTS": _JOURNAL_EVENTS,
    "LAST": LAST_STAMP,
    "MOST_RECENT": MOST_RECENT,
    "NONCE": NONCE_LENGTH,
    "RECENT_NAMES": RECENT_NAMES,
    "RECENT_SURPLUS": RECENT_SURPLUS,
    "RECORDS": SEGMENT_RECORDS,
    "SEGMENTS": LOG_SEGMENTS,
    "SEGMENT_BYTES": SEGMENT_BYTES,
    "UNIT": PURGE_UNIT,
}
PURGE_SCRIPT = re.sub(
    r"\b[A-Z][A-Z_]+\b", lambda word: str(_CONSTANTS.get(word[0], word[0])), _PURGE_SCRIPT
).strip()
"""The one way to purge, for Redis to run. Keys: PURGE_KEYS. Arguments: the greatest stamp that is known (or 0), a nonce
for a Redis that has none, then names, at most PURGED_AT_ONCE; one that begins with `#` is a hash, in hexadecimal. Gives
the stamp, max(Redis TIME in µs, last + 1) rounded up to PURGE_UNIT, and how many names of an older release are still to
be taken over: 256 with each run, one without names included.

Names that are not among those purged last move to the log; where that is full, its older half goes, and `floor` rises
to what went last. See docs/adr/0022-purge-log.md."""


def purge_hash(nonce: bytes, name: bytes) -> int:
    """32 bits by which a purged name is known; the script computes the same."""
    return int.from_bytes(hashlib.sha1(nonce + name, usedforsecurity=False).digest()[:4])


TAG = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}"
"""What a request may name a tag. No answer has another one, so that to purge it would do nothing."""


def scoped_name(kind: str, value: str, tenant: str | None) -> str:
    """What a purge names: `tag:prices` for the installation, `tag:prices@acme` for one tenant."""
    return f"{kind}:{value}" if tenant is None else f"{kind}:{value}@{tenant}"


def purge_names(
    *,
    tags: Sequence[str] = (),
    personality: str | None = None,
    model: str | None = None,
    class_name: str | None = None,
    tenant: str | None = None,
) -> list[str]:
    """The names of a purge, whether a client or an object in the cluster asks for it.

    With `tenant`, only answers of that tenant. Without any of the others, all of them.
    """
    kinds = [("personality", personality), ("model", model), ("class", class_name)]
    named = [(kind, value) for kind, value in kinds if value is not None] + [("tag", tag) for tag in tags]
    if not named:
        return ["all"] if tenant is None else [scoped_name("tenant", tenant, None)]
    return [scoped_name(kind, value, tenant) for kind, value in named]


ENTRY_KEY = f"{PREFIX}:{{%s}}:entry:%s"
"""Where the answer with a cache key is stored, as of the purges that a version stands for: `% (key, version)`."""
LEASE_KEY = f"{PREFIX}:{{%s}}:lease:%s"
"""Which replica is asking the provider now: `% (key, version)`."""
EPOCH_KEY = f"{PREFIX}:{{%s}}:epoch"
"""Counts the leases of a cache key, so that no two have the same number."""
COOLDOWN_KEY = f"{PREFIX}:{{%s}}:cooldown"
"""Present after a background refresh failed, for as long as none should be tried."""
FLIGHT_STREAM = f"{PREFIX}:{{%s}}:flight:%s:%s"
"""The frames of one lease, from its leader to followers on other replicas: `% (key, version, epoch)`."""
REPLICA_CHANNEL = f"{PREFIX}:replica:%s"
"""Where one replica, by its name, listens for what concerns its flights."""

MOST_DOCUMENT = 2**20
"""Bytes of a policy document or an announcement, at most: some 15,000 classes."""
POLICY_KEY = f"{PREFIX}:policy"
"""JSON of the PolicyDocument in force."""
POLICY_CHANNEL = f"{PREFIX}:policy"
"""Carries a message whenever a document was published."""
CLASSES_KEY = f"{PREFIX}:classes"
"""JSON of the Announcement, for the operator: which classes there are, and their bounds."""


REPLICAS = f"{PREFIX}:replicas"
"""Sorted set: replica -> when it was last heard from, in seconds since the epoch, by Redis's clock."""
REGISTER_SCRIPT = """
local now = tonumber(redis.call('TIME')[1])
if type(redis.pcall('ZADD', KEYS[1], now, ARGV[1])) == 'table' then
  redis.call('DEL', KEYS[1])
  redis.call('ZADD', KEYS[1], now, ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + ARGV[2], '+inf')
return redis.call('ZCARD', KEYS[1])
""".strip()
"""Says that a replica is there. Key: REPLICAS. Arguments: its name, and for how many seconds one is counted that is not
heard from any more. Gives how many there are."""


def limit_key(tenant: str) -> str:
    """Hash with what is left of a tenant's rates."""
    return f"{PREFIX}:{{limit:{tenant}}}"


def reservation_key(tenant: str, reservation: str) -> str:
    """Tokens that a request of the tenant has reserved and not settled yet."""
    return f"{PREFIX}:{{limit:{tenant}}}:{reservation}"


def response_keys(tenant: str) -> tuple[str, str]:
    """Of a tenant's kept Responses: a hash of their records by id, with their `bytes` in all, and a sorted set of ids
    by the milliseconds at which each was last used."""
    name = f"{PREFIX}:{{responses:{tenant}}}"
    return name, f"{name}:order"


MOST_CANARIES = 0.01
"""Share of calls to providers, at most."""
LONGEST_TTL = 400 * 86400
"""Seconds that may be published."""


_Seconds = Annotated[float, Meta(ge=0, le=1e12)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Positive = Annotated[float, Meta(ge=1e-9, le=1e12)]
_Count = Annotated[float, Meta(ge=0, le=1e12)]


class QuestionRecord(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one question, kept beside the fingerprint of its last answer. Everything fades with time.

    `changes` of `exposure` seconds under which they would have been seen; of `young` comparisons, which are those that
    found the same and as much of the others as chance explains, `reworded` differed; `requests` of the whole
    installation in the `watched` seconds. All of it is faded up to `at`, in seconds since the epoch.
    """

    changes: _Count
    exposure: _Seconds
    young: _Count
    reworded: _Count
    requests: _Count
    watched: _Seconds
    at: _Seconds


class QuestionNoise(msgspec.Struct, frozen=True, array_like=True):
    """Beside a QuestionRecord: what it says of changes, under each of two explanations of them; see `question_ttl`.

    `changes` and `exposure` where answers are seldom worded anew; the same where they often are, and how many
    comparisons were `reworded_if_often`. `odds`: the natural logarithm of how many times as likely all comparisons are
    by the second.
    """

    changes: _Count
    exposure: _Seconds
    changes_if_often: _Count
    exposure_if_often: _Seconds
    reworded_if_often: _Count
    odds: Annotated[float, Meta(ge=-100, le=100)]


class QuestionPolicy(msgspec.Struct, frozen=True):
    """What replicas need to give each question of a class a TTL of its own; see `question_ttl`.

    `cost` is how many stale hits are accepted for each call that is saved. The priors: `change` and `requests` are the
    shape and the seconds of a gamma distribution of rates, `noise` both parameters of a beta distribution. `hazard` is
    how fast answers change now, as a multiple of their own average. TTLs lie between `shortest` and `longest` seconds,
    and no question's hits are expected to be stale by a larger share than `stale`. Answers born before `changed_at`,
    in seconds since the epoch, are stale already with the chance `changed_share`. In a `storm` answers change so much
    faster than on average that nothing is learnt of a question's own rate.
    """

    cost: Annotated[float, Meta(ge=0, le=1e6)]
    change: tuple[_Positive, _Positive]
    noise: tuple[_Positive, _Positive]
    requests: tuple[_Positive, _Positive]
    shortest: Annotated[float, Meta(ge=0, le=LONGEST_TTL)]
    longest: Annotated[float, Meta(ge=0, le=LONGEST_TTL)]
    stale: _Share
    hazard: Annotated[float, Meta(ge=1e-9, le=1e6)] = 1.0
    changed_at: _Seconds = 0.0
    changed_share: _Share = 0.0
    storm: bool = False


class ClassPolicy(msgspec.Struct, frozen=True):
    """Lifetimes of one class, in seconds. `stale_while_revalidate` absent: the configuration's.

    With `question` each answer has a TTL of its own, and `ttl` is what a release uses that knows of none; its
    stale-while-revalidate is a part of that, in the proportion of these two. A `ttl` of 0 is one for all: nothing is
    kept. `canary` is the share of calls to providers to be spent on measuring how many hits are stale.
    """

    ttl: Annotated[float, Meta(ge=0, le=LONGEST_TTL)]
    stale_while_revalidate: Annotated[float, Meta(ge=0, le=LONGEST_TTL)] | None = None
    question: QuestionPolicy | None = None
    canary: Annotated[float, Meta(ge=0, le=MOST_CANARIES)] = 0.0


class AnnouncedClass(msgspec.Struct, frozen=True):
    """A cache class as a replica is configured, in seconds."""

    ttl: _Seconds
    max_ttl: _Seconds
    stale_while_revalidate: _Seconds = 0.0


class Announcement(msgspec.Struct, frozen=True):
    """The classes that replicas know, as one announced them last. `at` is in seconds since the epoch."""

    at: float
    classes: dict[str, AnnouncedClass]
    version: Literal[1] = 1


MOST_TERM = 2**52
"""A greater term is damage: scripts count to 2**53."""


class PolicyDocument(msgspec.Struct, frozen=True):
    """What the operator publishes. Fields that a release does not know are ignored, so both may be upgraded
    in either order. `issued` and `expires` are in seconds since the epoch, by Redis's clock.

    From `expires` on nothing of it is in force, whoever keeps it; 0, as a release wrote that did not know of it: never.
    `term` says which operator wrote it: the one that began last has the greatest.
    """

    version: Literal[1] = 1
    issued: float = 0.0
    classes: dict[str, ClassPolicy] = {}
    expires: _Seconds = 0.0
    term: Annotated[int, Meta(ge=0, le=MOST_TERM)] = 0


SAMPLES = f"{PREFIX}:samples"
"""Capped stream of SampleBatch, MessagePack in the field `b`: what the operator learns from."""
SAMPLES_READER = f"{PREFIX}:samples:reader"
"""There for as long as an operator reads the samples: nothing is written to the stream without it. Expires."""
MOST_BATCH = 2**20
"""Bytes of a batch, at most, whichever release wrote it."""
READER_FOR = 300
"""Seconds that an announcement of a reader holds."""


FINGERPRINT_KEY = f"{PREFIX}:{{%s}}:last"
"""Hash of `born`, `digest`, `version` and `hits` of a key's last answer, to compare the next one with; and what is
`known` of the question, a QuestionRecord in MessagePack, with a QuestionNoise, its `noise`."""
MOST_RECORD = 64
"""Bytes of either, at most: seven numbers of nine bytes. Redis keeps a hash small where no value is longer."""


class Access(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One look-up of a cacheable answer.

    `key` is 48 bits of the cache key. It is recorded where `key / 2**48 < threshold`, so that every access of a
    recorded key is recorded (spatial sampling, Waldspurger et al., FAST 2015); `threshold` 1.0 marks a key of
    the exact stratum, the heaviest ones, which are recorded whatever their hash. `at` is in seconds since the
    epoch, `size` in bytes and `dollars` what asking the provider costs; both 0 where the answer is not known yet.

    Of a look-up that was no hit: `ttl`, by which TTL it was judged, in seconds (None: that of its class; 0: one of the
    answer's own, which is not known), and whether it `joined` a call that was under way. Releases that do not say have
    None.
    """

    key: int
    class_name: str
    at: float
    hit: bool
    size: int
    dollars: float
    threshold: float
    ttl: float | None = None
    joined: bool | None = None


class Verdict(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One comparison of an answer with the one before it: it changed, or not, somewhere in `(fetched, again]`.

    Times are births, in seconds since the epoch. `hits` is how often the older answer was served. `source` says
    whether the newer one had to be fetched anyway (`refetch`) or was asked for to compare (`re-ask`).
    """

    key: int
    class_name: str
    fetched: float
    again: float
    changed: bool
    hits: int
    source: Literal["refetch", "re-ask"]


CANARIES_CHECKED = 0.25
"""Of the canaries whose answer is the same, the share that is asked for once more."""


class Canary(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A hit that was asked again to see whether its answer was stale, drawn at random from the hits of its class.

    `fetched` and `at` are when the answer that was served and the new one were born, in seconds since the epoch.
    `weight` is how many hits it stands for: each was drawn with one in so many. `changed` says whether the two differ.
    Where they do, and for CANARIES_CHECKED of the others, a second answer is asked for at once: `reworded` says whether
    it differs from the first, so that what always differs is not taken for stale; None where it was not asked for.
    """

    key: int
    class_name: str
    fetched: float
    at: float
    weight: Annotated[float, Meta(ge=1, le=1e12)]
    changed: bool
    reworded: bool | None = None

    @property
    def calls(self) -> int:
        """What it took of the provider."""
        return 1 if self.reworded is None else 2


class SampleBatch(msgspec.Struct, frozen=True):
    """What one replica saw since its last batch. `dropped` is what did not fit into its byte budget.

    `looked_up` counts all look-ups by class, recorded or not; empty from releases that did not count. `ttls` are those
    that its classes had, in seconds, and `threshold` is what was recorded under, outside the exact stratum; 0 from
    releases that do not say.
    """

    replica: str
    at: float
    accesses: list[Access] = []
    verdicts: list[Verdict] = []
    dropped: int = 0
    version: Literal[1] = 1
    looked_up: dict[str, int] = {}
    canaries: list[Canary] = []
    ttls: dict[str, float] = {}
    threshold: float = 0.0


LEARNT_KEY = f"{PREFIX}:learnt:%s"
"""What the operator has learnt of one class, for the operator alone: `% name`. Expires."""
