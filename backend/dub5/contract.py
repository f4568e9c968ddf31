"""What replicas, of two releases during a rollout, and the operator say to each other through Redis.

Only names and plain data live here; the module imports nothing of ours, so that the operator can import it
without the rest. Names that must meet on one node of a Redis Cluster share a hash tag, the part in braces.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

PREFIX = "dub5"

PURGES = f"{PREFIX}:{{purges}}"
PURGE_JOURNAL = f"{PURGES}:journal"
"""Stream of purges; the id of each is its stamp."""
PURGE_STAMPS = f"{PURGES}:stamps"
"""Sorted set: what was purged -> greatest stamp."""
PURGE_NONCE = f"{PURGES}:nonce"
"""Random name of this installation's Redis contents; gone when they are."""
PURGE_CHANNEL = f"{PREFIX}:purged"
"""Told the stamp of each purge."""
LONGEST_LIFE = 400 * 86400
"""Seconds that any class may keep answers at most; stamps that are older concern none."""
PURGE_SCRIPT = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local previous = 0
if last[1] then previous = tonumber(string.match(last[1][1], '^%d+')) end
local time = redis.call('TIME')
local stamp = math.max(time[1] * 1000000 + time[2], previous + 1, ARGV[2] + 1)
local id = string.format('%.0f', stamp)
redis.call('XADD', KEYS[1], 'MAXLEN', '~', 10000, id .. '-0', unpack(ARGV, 3))
for index = 3, #ARGV, 2 do redis.call('ZADD', KEYS[2], id, ARGV[index]) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('(%.0f', stamp - ARGV[1] * 1000000))
return id
"""
"""The one way to purge, for Redis to run. Keys: journal, stamps. Arguments: LONGEST_LIFE, the greatest stamp that is
known (or 0), then each name, followed by an empty word. Gives the stamp, max(Redis TIME in µs, last + 1)."""


def scoped_name(kind: str, value: str, tenant: str | None) -> str:
    """What a purge names: `tag:prices` for the installation, `tag:prices@acme` for one tenant."""
    return f"{kind}:{value}" if tenant is None else f"{kind}:{value}@{tenant}"


def entry_key(key: str, version: str) -> str:
    """Where the answer with this cache key is stored, as of the purges that `version` stands for."""
    return f"{PREFIX}:{{{key}}}:entry:{version}"


def lease_key(key: str, version: str) -> str:
    """Which replica is asking the provider now."""
    return f"{PREFIX}:{{{key}}}:lease:{version}"


def epoch_key(key: str) -> str:
    """Counts the leases of a key, so that no two have the same number."""
    return f"{PREFIX}:{{{key}}}:epoch"


def cooldown_key(key: str) -> str:
    """Present after a background refresh failed, for as long as none should be tried."""
    return f"{PREFIX}:{{{key}}}:cooldown"


def flight_stream(key: str, version: str, epoch: str) -> str:
    """The frames of one lease, from its leader to followers on other replicas."""
    return f"{PREFIX}:{{{key}}}:flight:{version}:{epoch}"


def replica_channel(replica: str) -> str:
    """Where one replica listens for what concerns its flights."""
    return f"{PREFIX}:replica:{replica}"


POLICY_KEY = f"{PREFIX}:policy"
"""JSON of the PolicyDocument in force."""
POLICY_CHANNEL = f"{PREFIX}:policy"
"""Told whenever a document was published."""
CLASSES_KEY = f"{PREFIX}:classes"
"""JSON of the Announcement, for the operator: which classes there are, and their bounds."""


REPLICAS = f"{PREFIX}:replicas"
"""Sorted set: replica -> when it was last heard from, in seconds since the epoch."""


def limit_key(tenant: str) -> str:
    """Hash with what is left of a tenant's rates."""
    return f"{PREFIX}:{{limit:{tenant}}}"


def reservation_key(tenant: str, reservation: str) -> str:
    """Tokens that a request of the tenant has reserved and not settled yet."""
    return f"{PREFIX}:{{limit:{tenant}}}:{reservation}"


class ClassPolicy(msgspec.Struct, frozen=True):
    """Lifetimes of one class, in seconds. `stale_while_revalidate` absent: the configuration's."""

    ttl: Annotated[float, Meta(ge=0, le=400 * 86400)]
    stale_while_revalidate: Annotated[float, Meta(ge=0, le=400 * 86400)] | None = None


class AnnouncedClass(msgspec.Struct, frozen=True):
    """A cache class as a replica is configured, in seconds."""

    ttl: float
    max_ttl: float
    stale_while_revalidate: float = 0.0


class Announcement(msgspec.Struct, frozen=True):
    """The classes that replicas know, as the last one to tell has them. `at` is in seconds since the epoch."""

    at: float
    classes: dict[str, AnnouncedClass]
    version: Literal[1] = 1


class PolicyDocument(msgspec.Struct, frozen=True):
    """What the operator publishes. Fields that a release does not know are ignored, so both may be upgraded
    in either order. `issued` is in seconds since the epoch."""

    version: Literal[1] = 1
    issued: float = 0.0
    classes: dict[str, ClassPolicy] = {}


SAMPLES = f"{PREFIX}:samples"
"""Capped stream of SampleBatch, MessagePack in the field `b`: what the operator learns from."""


def fingerprint_key(key: str) -> str:
    """Hash of `born`, `digest`, `version` and `hits` of a key's last answer, to compare the next one with."""
    return f"{PREFIX}:{{{key}}}:last"


class Access(msgspec.Struct, frozen=True, array_like=True):
    """One look-up of a cacheable answer.

    `key` is 48 bits of the cache key. It is recorded where `key / 2**48 < threshold`, so that every access of a
    recorded key is recorded (spatial sampling, Waldspurger et al., FAST 2015); `threshold` 1.0 marks a key of
    the exact stratum, the heaviest ones, which are recorded whatever their hash. `at` is in seconds since the
    epoch, `size` in bytes and `dollars` what asking the provider costs; both 0 where the answer is not known yet.
    """

    key: int
    class_name: str
    at: float
    hit: bool
    size: int
    dollars: float
    threshold: float


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """One comparison of an answer with the one before it: it changed, or not, somewhere in `(fetched, again]`.

    Times are births, in seconds since the epoch. `hits` is how often the older answer was served. `source` tells
    whether the newer one had to be fetched anyway (`refetch`) or was asked for to compare (`re-ask`).
    """

    key: int
    class_name: str
    fetched: float
    again: float
    changed: bool
    hits: int
    source: Literal["refetch", "re-ask"]


class SampleBatch(msgspec.Struct, frozen=True):
    """What one replica saw since its last batch. `dropped` is what did not fit into its byte budget.

    `looked_up` counts all look-ups by class, recorded or not; empty from releases that did not count.
    """

    replica: str
    at: float
    accesses: list[Access] = []
    verdicts: list[Verdict] = []
    dropped: int = 0
    version: Literal[1] = 1
    looked_up: dict[str, int] = {}
