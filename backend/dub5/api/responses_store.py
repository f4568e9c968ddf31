"""Responses that clients may refer to later, in Redis: by tenant, for a time since their last use, and within bytes.

A record has what a request gave as `input`, the Response that it got, what a provider signed of its thinking, and the
ids of the answers before it, so that a conversation of any length is read in two steps. All records of a tenant are
fields of one hash, in the order of a sorted set: a script counts their bytes, and takes out the oldest where there is
no room. Whatever is lost, by time, for room or with Redis, is a 404 to who asks for it, and no answer ever fails
because it could not be kept: it says `store: false`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from dub5.contract import Undecodable, decode, response_keys
from dub5.errors import ResponsesAway
from dub5.redis.link import RedisLink, RedisUnavailable, RedisUndecodable, Words
from dub5.settings.model import ResponsesSettings

LARGEST = 2**20
"""Bytes of one record."""

# KEYS: the records, their order by when each was last used. ARGV[1]: milliseconds for which one is kept since then.
# What cannot be ours under these names is as if there were nothing.
_BEGIN = """
local ttl, time = tonumber(ARGV[1]), redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local records, order = redis.call('TYPE', KEYS[1]).ok, redis.call('TYPE', KEYS[2]).ok
local held = records == 'hash' and order == 'zset' and tonumber(redis.call('HGET', KEYS[1], 'bytes'))
if not held or held ~= held or held < 0 then
  redis.call('DEL', KEYS[1], KEYS[2])
  held = 0
end
local function note() redis.call('HSET', KEYS[1], 'bytes', string.format('%.0f', held)) end
"""
# ARGV: bytes of all, an id, its record. A record counts for some more bytes than it has. At most so many others go for
# one: where that is not enough it is not kept. What was used while Redis's clock was ahead was used just before now, or
# all others would go before it.
_KEEP = (
    _BEGIN
    + """
local most, id, record = tonumber(ARGV[2]), ARGV[3], ARGV[4]
local function drop(each)
  local size = redis.call('HSTRLEN', KEYS[1], each)
  if redis.call('HDEL', KEYS[1], each) == 1 then held = held - size - 256 end
  redis.call('ZREM', KEYS[2], each)
end
for _, each in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ttl, 'LIMIT', 0, 1000)) do drop(each) end
for _, each in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf', 'LIMIT', 0, 1000)) do
  redis.call('ZADD', KEYS[2], now - 1, each)
end
local size = #record + 256
for _ = 1, 1000 do
  if size > most or held + size <= most then break end
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not oldest then break end
  drop(oldest)
end
local fits = held + size <= most
if fits then
  held = held + size
  redis.call('HSET', KEYS[1], id, record)
  redis.call('ZADD', KEYS[2], now, id)
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
note()
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('PEXPIRE', KEYS[2], ttl)
return fits and 1 or 0
"""
)
# ARGV: ids. A Redis that is full can be read all the same: only the note that they were used is refused.
_FIND = (
    _BEGIN
    + """
local found = {}
for index = 2, #ARGV do
  local used = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[index]) or 0)
  found[index - 1] = used and used > now - ttl and redis.call('HGET', KEYS[1], ARGV[index])
  if found[index - 1] then redis.pcall('ZADD', KEYS[2], now, ARGV[index]) end
end
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('PEXPIRE', KEYS[2], ttl)
return found
"""
)
# ARGV: an id.
_FORGET = (
    _BEGIN
    + """
if redis.call('ZREM', KEYS[2], ARGV[2]) == 0 then return 0 end
held = math.max(0, held - redis.call('HSTRLEN', KEYS[1], ARGV[2]) - 256)
redis.call('HDEL', KEYS[1], ARGV[2])
note()
return 1
"""
)


class Record(msgspec.Struct, frozen=True, array_like=True):
    """`input` is JSON as it was given, `response` as it was answered; `signed` by the position of the item that it
    belongs to. `before` are the ids of the answers before it, the first one first."""

    input: bytes
    response: bytes
    signed: dict[int, str] = {}
    before: list[str] = []

    def size(self) -> int:
        """Bytes, about."""
        return len(self.input) + len(self.response) + sum(map(len, self.signed.values()))


class _Object(msgspec.Struct):
    """Of JSON, whatever it holds."""


class _Response(msgspec.Struct):
    id: str
    output: list[_Object]


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Record)
_inputs = msgspec.json.Decoder(str | list[_Object])
_responses = msgspec.json.Decoder(_Response)


class ResponseStore:
    """Without `link` nothing is kept."""

    def __init__(self, settings: ResponsesSettings, link: RedisLink | None) -> None:
        self._link = link if settings.store else None
        self._ttl = max(1, int(settings.ttl * 1000))
        self._most = int(settings.max_bytes_per_tenant)

    @property
    def enabled(self) -> bool:
        return self._link is not None

    async def keep(self, tenant: str, id_: str, record: Record) -> bool:
        """Whether it is kept."""
        if record.size() > LARGEST:
            return False
        try:
            return bool(await self._run(_KEEP, tenant, self._most, id_, _encode(record)))
        except RedisUnavailable:
            return False

    def ask(self, tenant: str, id_: str, record: Record, done: Callable[[bool], None]) -> bool:
        """`keep` for who cannot wait: `done` is called once, later. False, and no call, where that cannot be asked."""
        if self._link is None or not self._link.available or record.size() > LARGEST:
            return False
        command = self._command(_KEEP, tenant, self._most, id_, _encode(record))

        def said(answers: list[Any] | RedisUnavailable) -> None:
            done(not isinstance(answers, RedisUnavailable) and bool(answers[0]))

        return self._link.ask("response", [command], said)

    async def find(self, tenant: str, ids: Sequence[str]) -> list[Record | None]:
        """None for each that is not there. ResponsesAway where nobody can tell."""
        try:
            found = await self._run(_FIND, tenant, *ids)
        except RedisUndecodable:
            found = []
        except RedisUnavailable:
            raise ResponsesAway from None
        return [self._read(stored) for stored in found] if len(found) == len(ids) else [None] * len(ids)

    async def forget(self, tenant: str, id_: str) -> bool:
        """Whether it was there. ResponsesAway where nobody can tell."""
        try:
            return bool(await self._run(_FORGET, tenant, id_))
        except RedisUnavailable:
            raise ResponsesAway from None

    async def _run(self, script: str, tenant: str, *arguments: Any) -> Any:
        if self._link is None:
            raise RedisUnavailable
        return await self._link.run("response", *self._command(script, tenant, *arguments))

    def _command(self, script: str, tenant: str, *arguments: Any) -> Words:
        keys = response_keys(tenant)
        return ("EVAL", script, len(keys), *keys, self._ttl, *arguments)

    def _read(self, stored: bytes | None) -> Record | None:
        if stored is None:
            return None
        try:
            record = decode(_decoder, stored, most=2 * LARGEST)
            decode(_inputs, record.input, most=2 * LARGEST)
            decode(_responses, record.response, most=2 * LARGEST)
        except Undecodable as wrong:
            assert self._link is not None  # noqa: S101  # it was read from there
            self._link.undecodable("response", wrong)
            return None
        return record
