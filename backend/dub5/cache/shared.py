"""L2: answers in Redis, shared by all replicas.

Trouble with Redis is never trouble for a request: a failed read is a miss, a failed write is a lost copy,
both counted. So is what cannot be an answer of ours, whoever wrote it; the next answer takes its place. Names of keys
are made by `contract`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from dub5.cache.entry import (
    HEADER,
    CorruptEntry,
    Entry,
    ForeignVersion,
    born_digits,
    most_stored,
    pack,
    unpack,
)
from dub5.cache.flight import Identity
from dub5.cache.purges import Purges
from dub5.contract import Undecodable, decode, entry_key
from dub5.redis.link import RedisLink, RedisUnavailable
from dub5.telemetry.background import Background
from dub5.telemetry.metrics import Metrics

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


_completion = msgspec.json.Decoder(dict[str, Any])


class SharedCache:
    """Entries by identity, whose bodies have at most `max_entry` bytes. `clock` as that of `AnswerCache`."""

    def __init__(
        self,
        link: RedisLink,
        purges: Purges,
        metrics: Metrics,
        background: Background | None = None,
        *,
        max_entry: int = 2**20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._link = link
        self._purges = purges
        self._readings = (background or Background(metrics)).jobs("purge-lookup")
        self._max_entry = max_entry
        self._clock = clock
        self._learning: asyncio.Task[bool] | None = None

    async def get(self, identity: Identity) -> Entry | None:
        """None where there is none, or none that we can read. What was purged elsewhere is learnt on the way."""
        learning = self._learning or self._learn_soon()
        name, most = entry_key(identity.key, identity.version), most_stored(self._max_entry)
        try:
            # One byte more than it can be, whatever there is.
            stored = await self._link.run("get", lambda pipeline: pipeline.getrange(name, 0, most))
        except RedisUnavailable:
            return None
        # Where there is more to learn than that, a request does not wait for it, and nothing can be trusted.
        return self._unpacked(stored) if await self._readings.result(learning) else None

    async def put(self, identity: Identity, entry: Entry, *, seconds: float) -> bool:
        """Keep for `seconds`; lost silently where Redis is away. False where a younger answer is there already."""
        name, milliseconds = entry_key(identity.key, identity.version), max(1, int(seconds * 1000))
        now = born_digits(int(self._clock() * 1e6))
        try:
            kept = await self._link.run(
                "set", lambda client: client.eval(_PUT, 1, name, pack(entry), milliseconds, HEADER, now)
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

    def _unpacked(self, stored: bytes) -> Entry | None:
        if not stored:
            return None
        try:
            if len(stored) > most_stored(self._max_entry):
                raise CorruptEntry("larger than cache.max_entry")
            entry = unpack(stored, self._max_entry)
            check_completion(entry.body)
        except (CorruptEntry, Undecodable) as error:
            self._link.undecodable("entry", str(error) or "damaged")
            return None
        except ForeignVersion:
            return None
        return entry


def check_completion(body: bytes) -> None:
    """Undecodable where it is no completion that could be served, whole or streamed. Memory has it from then on, so
    this is seldom done."""
    choices = decode(_completion, body, most=len(body)).get("choices") or []
    if not isinstance(choices, list) or not all(map(_is_choice, choices)):
        raise Undecodable("no completion")


def _is_choice(choice: object) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message"), dict)
