"""L2: answers in Redis, shared by all replicas.

Trouble with Redis is never trouble for a request: a failed read is a miss, a failed write is a lost copy,
both counted. Names of keys are made by `contract`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from dub5.cache.entry import HEADER, CorruptEntry, Entry, ForeignVersion, pack, unpack
from dub5.cache.flight import Identity
from dub5.cache.purges import Purges
from dub5.contract import entry_key
from dub5.redis_link import RedisLink, RedisUnavailable
from dub5.telemetry.background import Background
from dub5.telemetry.metrics import Metrics

# An answer born later is never replaced by one born earlier, whichever of two replicas writes last; one that says
# that it was born in five minutes or later, damaged or of a clock gone wrong, is.
_PUT = """
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[3] - 1) == ARGV[3] then
  local born = redis.call('GETRANGE', KEYS[1], #ARGV[3], #ARGV[3] + 15)
  local soon = string.format('%016x', (redis.call('TIME')[1] + 300) * 1000000)
  if born > string.sub(ARGV[1], #ARGV[3] + 1, #ARGV[3] + 16) and born < soon then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class SharedCache:
    """Entries by identity."""

    def __init__(
        self, link: RedisLink, purges: Purges, metrics: Metrics, background: Background | None = None
    ) -> None:
        self._link = link
        self._purges = purges
        self._metrics = metrics
        self._readings = (background or Background(metrics)).jobs("purge-lookup")
        self._learning: asyncio.Task[bool] | None = None

    async def get(self, identity: Identity) -> Entry | None:
        """None where there is none, or none that we can read. What was purged elsewhere is learnt on the way."""
        learning = self._learning or self._learn_soon()
        name = entry_key(identity.key, identity.version)
        try:
            stored = await self._link.run("get", lambda pipeline: pipeline.get(name))
        except RedisUnavailable:
            return None
        # Where there is more to learn than that, a request does not wait for it, and nothing can be trusted.
        return self._unpacked(stored) if await self._readings.result(learning) else None

    async def put(self, identity: Identity, entry: Entry, *, seconds: float) -> bool:
        """Keep for `seconds`; lost silently where Redis is away. False where a younger answer is there already."""
        name, milliseconds = entry_key(identity.key, identity.version), max(1, int(seconds * 1000))
        try:
            kept = await self._link.run(
                "set", lambda client: client.eval(_PUT, 1, name, pack(entry), milliseconds, HEADER)
            )
        except RedisUnavailable:
            return True
        return bool(kept)

    def _learn_soon(self) -> asyncio.Task[bool]:
        """The purges are read once for all who look up in this turn of the event loop, in their batch."""
        self._learning = self._readings.start(self._learn())
        asyncio.get_running_loop().call_soon(self._begun)
        return self._learning

    def _begun(self) -> None:
        self._learning = None

    async def _learn(self) -> bool:
        asked = self._purges.asked()
        try:
            nonce, journal = await self._link.pipeline(
                "purges", lambda pipeline: self._purges.read(pipeline, asked)
            )
        except RedisUnavailable:
            return False
        return self._purges.learn(asked, nonce, journal)

    def _unpacked(self, stored: Any) -> Entry | None:
        try:
            return None if stored is None else unpack(stored)
        except CorruptEntry:
            self._metrics.cache_errors.labels("decode").inc()
            return None
        except ForeignVersion:
            return None
