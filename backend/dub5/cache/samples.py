"""What the operator learns from: which answers are asked for again, and which have changed.

Accesses are sampled by the hash of their key, with every access of a sampled key recorded, plus an exact
stratum of the heaviest keys, which plain sampling would miss or overstate. Each replica has a byte budget;
when it is passed the sampling threshold halves, when it is hardly used it doubles, and each record carries the
threshold it was taken under.

Whenever an answer is fetched again it is compared with a fingerprint of the one before it, kept for four TTLs:
a measurement of staleness that costs nothing. The hits that the older answer served are counted in memory and
added to the fingerprint with each flush, so they lack at most the other replicas' last `INTERVAL` seconds.

Nothing of this is on a request's way: recording appends to a list, a task flushes it. Lost samples are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import Counter
from typing import Any

import msgspec
from redis.asyncio.client import Pipeline

from dub5.cache.comparison import same
from dub5.cache.entry import Entry
from dub5.cache.flight import Identity
from dub5.contract import SAMPLES, Access, SampleBatch, Verdict, fingerprint_key
from dub5.redis_link import RedisLink, RedisUnavailable
from dub5.telemetry.metrics import Metrics

INTERVAL = 5.0
BYTES_PER_ACCESS = 48
"""Of one record in MessagePack, at most, but for the class's name."""
STREAM_LENGTH = 20_000
"""Batches that the stream keeps, roughly; with `INTERVAL` and ten replicas about three hours."""
HEAVY_KEYS = 64
COUNTED_KEYS = 4096
"""Keys whose hits are counted at a time; the lightest are forgotten first."""
KEPT_FOR_TTLS = 4.0
KEPT_AT_LEAST = 60.0
"""Seconds: an answer that is not cached at all still tells how fast such answers change."""

_HITS_AT_ONCE = 256
"""Keys in one pipeline: more would hold the event loop for tens of milliseconds."""

_ADD_HITS = """
if redis.call('HGET', KEYS[1], 'born') == ARGV[1] then redis.call('HINCRBY', KEYS[1], 'hits', ARGV[2]) end
"""


def short_key(key: str) -> int:
    """48 bits of a cache key: enough to tell keys apart, too little to find one by."""
    return int(key[:12], 16)


class Sampler:
    """Collects and flushes. `budget` is in bytes per second and replica; 0 records nothing."""

    def __init__(
        self, link: RedisLink, metrics: Metrics, *, replica: str, budget: int, re_ask_share: float
    ) -> None:
        self._link = link
        self._metrics = metrics
        self._replica = replica
        self._budget = int(budget * INTERVAL)
        self._threshold = 1.0
        self._accesses: list[Access] = []
        self._verdicts: list[Verdict] = []
        self._dropped = 0
        self._looked_up: Counter[str] = Counter()
        self._weights: Counter[int] = Counter()
        self._heavy: frozenset[int] = frozenset()
        self._hits: Counter[tuple[str, int]] = Counter()
        self._comparing: set[asyncio.Task[None]] = set()
        self._re_ask_share = re_ask_share
        self._re_asks = 0.0
        self._flusher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._flusher = asyncio.create_task(self._keep_flushing())

    async def stop(self) -> None:
        if self._flusher is not None:
            self._flusher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flusher
        await asyncio.gather(*self._comparing)
        await self.flush()

    def accessed(self, key: str, class_name: str, entry: Entry | None, *, dollars: float, hit: bool) -> None:
        """One look-up; `entry` is what was found, good or not."""
        if not self._budget:
            return
        if hit and entry is not None:
            self._hits[key, entry.born] += 1
        short = short_key(key)
        self._looked_up[class_name] += 1
        self._weights[short] += 1
        heavy = short in self._heavy
        if not heavy and short >= self._threshold * 2**48:
            return
        if len(self._accesses) * BYTES_PER_ACCESS >= self._budget:
            self._dropped += 1
            return
        size = len(entry.body) if entry is not None else 0
        threshold = 1.0 if heavy else self._threshold
        self._accesses.append(Access(short, class_name, time.time(), hit, size, dollars, threshold))

    def fetched(
        self, identity: Identity, class_name: str, entry: Entry, digest: str, *, ttl: float, asked_again: bool
    ) -> None:
        """A new answer is here: compare it with the last one of its key, in the background.

        `asked_again`: it was asked for only to compare; unless it differs, the last one stays what the next
        is compared with.
        """
        if self._budget:
            task = asyncio.create_task(
                self._compare(identity, class_name, entry, digest, ttl=ttl, asked_again=asked_again)
            )
            self._comparing.add(task)
            task.add_done_callback(self._comparing.discard)

    async def _compare(
        self, identity: Identity, class_name: str, entry: Entry, digest: str, *, ttl: float, asked_again: bool
    ) -> None:
        name = fingerprint_key(identity.key)
        fields: Any = {"born": entry.born, "digest": digest, "version": identity.version, "hits": 0}

        def replace(pipeline: Pipeline) -> None:
            pipeline.delete(name)
            pipeline.hset(name, mapping=fields)
            pipeline.pexpire(name, int(max(KEPT_FOR_TTLS * ttl, KEPT_AT_LEAST) * 1000))

        with contextlib.suppress(RedisUnavailable):
            last = await self._link.run("fingerprint", lambda client: client.hgetall(name))
            found = same(last[b"digest"].decode(), digest) if b"digest" in last else None
            if not asked_again or found is not True:
                await self._link.pipeline("fingerprint", replace)
            if found is not None:
                self._judge(identity, class_name, entry, last, changed=not found, asked_again=asked_again)

    def failed(self, class_name: str) -> None:
        """A re-ask brought no answer."""
        self._metrics.cache_revalidations.labels(class_name, "re-ask", "error").inc()

    def earn_re_ask(self) -> None:
        """A provider is being asked: a share of a re-ask is earned."""
        self._re_asks = min(1.0, self._re_asks + self._re_ask_share)

    def spend_re_ask(self) -> bool:
        """Whether this hit should be asked again for comparison."""
        if self._re_asks < 1.0:
            return False
        self._re_asks = 0.0
        return True

    def _judge(
        self,
        identity: Identity,
        class_name: str,
        entry: Entry,
        last: dict[bytes, bytes],
        *,
        changed: bool,
        asked_again: bool,
    ) -> None:
        # After a purge a change is what somebody announced, not what time did.
        if last.get(b"version") != identity.version.encode():
            return
        source = "re-ask" if asked_again else "refetch"
        born = int(last[b"born"])
        verdict = Verdict(
            key=short_key(identity.key),
            class_name=class_name,
            fetched=born / 1e6,
            again=entry.born / 1e6,
            changed=changed,
            hits=int(last[b"hits"]) + self._hits[identity.key, born],  # with those not flushed yet
            source="re-ask" if asked_again else "refetch",
        )
        self._verdicts.append(verdict)
        self._metrics.cache_revalidations.labels(class_name, source, "changed" if changed else "same").inc()

    async def flush(self) -> None:
        """Send what was collected, and begin anew."""
        hits, self._hits = self._hits, Counter()
        looked_up, self._looked_up = dict(self._looked_up), Counter()
        batch = SampleBatch(
            self._replica,
            time.time(),
            self._accesses,
            self._verdicts,
            self._dropped,
            looked_up=looked_up,
        )
        used = len(self._accesses) * BYTES_PER_ACCESS
        self._accesses, self._verdicts, self._dropped = [], [], 0
        self._adapt(used, batch.dropped)

        def write(pipeline: Pipeline) -> None:
            fields: Any = {b"b": msgspec.msgpack.encode(batch)}
            pipeline.xadd(SAMPLES, fields, maxlen=STREAM_LENGTH, approximate=True)

        with contextlib.suppress(RedisUnavailable):
            if batch.accesses or batch.verdicts:
                await self._link.pipeline("samples", write)
            counted = hits.most_common(COUNTED_KEYS)
            for start in range(0, len(counted), _HITS_AT_ONCE):
                add = functools.partial(_add_hits, counted[start : start + _HITS_AT_ONCE])
                await self._link.pipeline("samples", add)

    def _adapt(self, used: int, dropped: int) -> None:
        """Keep within the budget, and know the heaviest keys of late."""
        if dropped:
            self._threshold /= 2
        elif used < self._budget / 4:
            self._threshold = min(1.0, self._threshold * 2)
        heaviest = self._weights.most_common(COUNTED_KEYS)
        self._heavy = frozenset(key for key, count in heaviest[:HEAVY_KEYS] if count > 1)
        self._weights = Counter({key: count // 2 for key, count in heaviest if count > 1})

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self.flush()


def _add_hits(counted: list[tuple[tuple[str, int], int]], pipeline: Pipeline) -> None:
    for (key, born), count in counted:
        pipeline.eval(_ADD_HITS, 1, fingerprint_key(key), born, count)
