"""Rate limits per tenant, exact across replicas: token buckets in Redis, on Redis's clock.

Every request takes one from the bucket of requests, by a question to Redis that hits of one turn share. Tokens are
*reserved* before a provider is called, prompt and the longest answer it may give, and *settled* afterwards at what was
really used: in the background, once however often it is reported, and with a later heartbeat where Redis is away. A
reservation that is never settled stays spent, so there is a bound to what one request may reserve. Hits and followers
of a flight reserve nothing that they keep. A request that is refused changes nothing.

Where more is left to a tenant than all replicas could give away in the meantime, `_PLENTY`, a hit does not wait to be
told so once more: it is granted by what Redis said a moment ago, and Redis counts it with others a few milliseconds
later. So nobody is granted a request that was not there; that its tokens are in debt by what another replica has just
reserved, a tenant is told up to `_GOOD` seconds late.

Without Redis, or while it is away, each replica keeps buckets of its own with its share of the limit: the limit
over the number of replicas that were last seen, beginning with its share of what was left.

A bucket refills evenly, a minute's worth a minute. (`limits` and other libraries have no reserve-and-settle.)
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dub5.contract import REGISTER_SCRIPT, REPLICAS, limit_key, reservation_key
from dub5.errors import RateLimited
from dub5.redis.link import RedisLink, RedisUnavailable, Words
from dub5.settings.model import Limit
from dub5.telemetry.background import STOP_TIMEOUT, Background, BackgroundTask
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import Metrics

HEARTBEAT = 5.0
GONE_AFTER = 3 * HEARTBEAT
RESERVATION_LIFE = 1800.0
"""Seconds for which a reservation can be settled; longer than any answer takes."""

_MOST_UNSETTLED = 10_000
"""Reservations that are settled when Redis is back, some 500 bytes each."""

_SETTLED_AT_ONCE = 100
"""Of them, in one pipeline."""

_MOST_RESERVED = 10
"""Minutes' worth of a tenant's limit that one request may reserve, whatever it may take: so long an answer that broke
off, of which nobody knows what it cost, keeps the others waiting."""

_MOST_COUNTED = 60
"""Minutes' worth for which one request counts, whatever its provider says that it took."""

_LONGEST_DEBT = 24 * 60
"""Minutes after which a tenant that has taken too much, or is said to, has paid it off. Far more than all reservations
that can be under way: what those give back never makes up for what is remitted here."""

_GOOD = 0.05
"""Seconds for which what Redis said of a tenant may be gone by, counted from the question."""

_GATHER = 0.004
"""Seconds in which requests that were granted at once are gathered before Redis is asked to count them."""

_PLENTY = 2000.0
"""Requests, for each replica: twice what one can grant in _GOOD at 20,000 a second, since there may be more by now."""

# What cannot be ours in a bucket is a full bucket, and what cannot be its time is now.
# KEYS: the bucket, the reservation. ARGV: both limits, milliseconds of a reservation's life.
_BUCKET = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local request_limit, token_limit, life = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local held = redis.pcall('HMGET', KEYS[1], 'requests', 'tokens', 'at')
if held.err then
  redis.call('DEL', KEYS[1])
  held = {}
end
local at = tonumber(held[3])
if not at or at ~= at or at < 0 or at > now then
  if held[1] or held[2] then redis.call('HSET', KEYS[1], 'at', string.format('%.0f', now)) end
  at = now
end
local function refilled(left, limit, least)
  local number = tonumber(left)
  if not number or number ~= number or number == -math.huge then return limit end
  return math.min(limit, math.max(number, least) + (now - at) * limit / 60000000)
end
local requests = refilled(held[1], request_limit, 0)
local tokens = refilled(held[2], token_limit, -token_limit * DEBT)
local function keep()
  local until_full = 0
  if token_limit > 0 then until_full = math.ceil((token_limit - tokens) * 60000 / token_limit) end
  -- What is not limited is full: during a rollout another replica may be configured to limit it.
  local requests_left, tokens_left = request_limit > 0 and requests or '', token_limit > 0 and tokens or ''
  redis.call('HSET', KEYS[1], 'requests', requests_left, 'tokens', tokens_left, 'at', string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[1], math.max(life, until_full))
end
""".replace("DEBT", str(_LONGEST_DEBT))
# ARGV: tokens to reserve for one request, or none and how many requests there are, of which as many are granted as can
# be.
_ACQUIRE = (
    _BUCKET
    + """
local reserve, count = tonumber(ARGV[4]), tonumber(ARGV[5])
local wait = 0
if request_limit > 0 and requests < 1 then
  wait = (1 - requests) * 60 / request_limit
end
local needed = math.min(reserve, token_limit)
if token_limit > 0 and tokens < needed then
  wait = math.max(wait, (needed - tokens) * 60 / token_limit)
end
if wait > 0 then count = 0 end
if wait == 0 then
  if request_limit > 0 then count = math.min(count, math.floor(requests)) end
  requests = requests - count
  tokens = tokens - reserve
  if reserve > 0 then redis.call('SET', KEYS[2], reserve, 'PX', life) end
  keep()
end
return {tostring(wait), tostring(requests), tostring(tokens), count}
"""
)
_SETTLE = (
    _BUCKET
    + """
local reserved = redis.pcall('GET', KEYS[2])
if redis.call('DEL', KEYS[2]) == 0 then return 0 end
tokens = math.min(token_limit, tokens + (tonumber(reserved) or 0) - ARGV[4])
keep()
return 1
"""
)

_log = get_logger()


class Remaining(msgspec.Struct, frozen=True, gc=False):
    """What is left of a tenant's minute; negative tokens are a debt."""

    requests: float
    tokens: float


class Bucket:
    """Both buckets of one tenant in this replica's memory. `now` is in monotonic seconds."""

    def __init__(self, limit: Limit, share: int, left: Remaining, now: float) -> None:
        self._requests = (limit.requests_per_minute or 0) / share
        self._most_requests = max(1.0, self._requests)  # with less than one nobody would ever be granted any
        self._tokens = (limit.tokens_per_minute or 0) / share
        self._left = left
        self._at = now

    def most_reserved(self, reserve: float) -> float:
        """What of it a request may reserve here."""
        return min(reserve, self._tokens * _MOST_RESERVED)

    def acquire(self, reserve: float, now: float) -> tuple[float, Remaining]:
        """Seconds to wait, 0 where it was granted, and what is left. One that has to wait changes nothing."""
        left = self._refilled(now)
        wait = 0.0
        if self._requests and left.requests < 1:
            wait = (1 - left.requests) * 60 / self._requests
        needed = min(reserve, self._tokens)
        if self._tokens and left.tokens < needed:
            wait = max(wait, (needed - left.tokens) * 60 / self._tokens)
        if not wait:
            left = Remaining(left.requests - 1, left.tokens - reserve)
            self._left, self._at = left, now
        return wait, left

    def settle(self, reserved: float, used: float, now: float) -> None:
        """Give back what was reserved, for what was used."""
        left = self._refilled(now)
        used = min(used, self._tokens * _MOST_COUNTED)
        self._left, self._at = Remaining(left.requests, min(self._tokens, left.tokens + reserved - used)), now

    def _refilled(self, now: float) -> Remaining:
        elapsed = max(0.0, now - self._at)
        return Remaining(
            min(self._most_requests, self._left.requests + elapsed * self._requests / 60),
            min(
                self._tokens,
                max(self._left.tokens, -self._tokens * _LONGEST_DEBT) + elapsed * self._tokens / 60,
            ),
        )


class Grant(msgspec.Struct):
    """A request that may go on: what is left after it, and its reservation of tokens, until it is settled."""

    left: Remaining
    tenant: str
    limit: Limit
    reservation: str = ""
    reserved: float = 0
    local: Bucket | None = None

    @property
    def headers(self) -> dict[str, str]:
        """For its answer."""
        return rate_headers(self.limit, self.left)


class _Told(msgspec.Struct):
    """What Redis said last that a tenant has left, to a question that was `asked` then (our clock), less what was
    granted at once since: of `given` so far `uncounted` are still to be told to Redis."""

    requests: float = 0.0
    tokens: float = 0.0
    asked: float = -math.inf
    given: int = 0
    uncounted: int = 0


Answered = Callable[["Grant | RateLimited | None"], None]
"""Called with what came of a request, None where nobody could be asked."""


class RateLimiter:
    """`limits` by tenant, `default` for those not named. `replica` names this one among the others.

    `limited`: whether any tenant has a limit.
    """

    def __init__(
        self,
        limits: Mapping[str, Limit],
        link: RedisLink | None,
        metrics: Metrics,
        *,
        replica: str,
        background: Background | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limited = bool(limits)
        self._limits = limits
        self._link = link
        self._metrics = metrics
        self._replica = replica
        self._clock = clock
        self._replicas = 1
        self._known: dict[str, tuple[Remaining, float]] = {}
        self._told: dict[str, _Told] = {}
        self._buckets: dict[str, Bucket] = {}
        self._asking: dict[str, list[Answered]] = {}
        self._background = background or Background(metrics)
        self._settlements = self._background.jobs("token-settlement")
        self._unsettled: deque[Words] = deque(maxlen=_MOST_UNSETTLED)
        self._heartbeat: BackgroundTask | None = None

    async def start(self) -> None:
        if self._link is not None and self._limits:
            with self._background.noting("replica-heartbeat"):
                await self._beat()
            self._heartbeat = self._background.start("replica-heartbeat", self._keep_beating)

    async def stop(self) -> None:
        if self._heartbeat is not None:
            await self._heartbeat.stop()
        for tenant in self._told:
            if (limit := self.limit_of(tenant)) is not None:
                self._ask(tenant, limit)
        await self._settlements.stop(wait=STOP_TIMEOUT)
        await self._settle_late()

    def limit_of(self, tenant: str) -> Limit | None:
        """None where the tenant has no limit."""
        return self._limits.get(tenant) or self._limits.get("default")

    async def acquire(self, tenant: str, *, reserve: int) -> Grant | None:
        """A grant, None where the tenant has no limit; RateLimited with the time to wait.

        `reserve` is in tokens. What is reserved is at most _MOST_RESERVED minutes' worth.
        """
        limit = self.limit_of(tenant)
        if limit is None:
            return None
        reserved: float = min(reserve, (limit.tokens_per_minute or 0) * _MOST_RESERVED)
        reservation = secrets.token_hex(8) if reserved else ""
        asking = self._link is not None and self._link.available
        learnt = await self._acquire_there(tenant, _acquire(tenant, limit, reservation, reserved, 1))
        if learnt is None:
            if asking and reservation:  # perhaps only the answer was lost
                self._unsettled.append(_settlement(tenant, limit, reservation, 0))
            granted = self._acquire_here(tenant, limit, reserved)
        else:
            wait, left, _ = learnt
            granted = _granted(wait, Grant(left, tenant, limit, reservation, reserved))
        if isinstance(granted, RateLimited):
            raise granted
        return granted

    def at_once(self, tenant: str, limit: Limit) -> Grant | None:
        """`acquire` for who reserves nothing, of a tenant with such a limit and plenty left. None where it has to be
        asked for."""
        told = self._told.get(tenant)
        if told is None or told.tokens < 0 or told.asked < self._clock() - _GOOD:
            return None
        if limit.requests_per_minute is not None and told.requests < _PLENTY * self._replicas:
            return None
        if not told.uncounted:
            asyncio.get_running_loop().call_later(_GATHER, self._ask, tenant, limit)
        told.requests -= 1
        told.given += 1
        told.uncounted += 1
        return Grant(Remaining(told.requests, told.tokens), tenant, limit)

    def ask(self, tenant: str, limit: Limit, answered: Answered) -> bool:
        """`acquire` for who reserves nothing and cannot wait, of a tenant with such a limit: `answered` is called once,
        later. False, and no call, where nobody can be asked so.

        All that ask in one turn of the event loop for one tenant are one question to Redis, and are granted what they
        would have been one by one.
        """
        waiting = self._asking.get(tenant)
        if self._link is None or not self._link.available:
            return False
        if waiting is not None:
            waiting.append(answered)
            return True
        self._asking[tenant] = [answered]
        asyncio.get_running_loop().call_soon(self._ask, tenant, limit)
        return True

    def _ask(self, tenant: str, limit: Limit) -> None:
        """For those who wait, after those who were granted at once."""
        waiting, told, link = self._asking.pop(tenant, []), self._told.get(tenant), self._link
        before = 0
        if told is not None:
            before, told.uncounted = told.uncounted, 0
        if link is None or not (before or waiting):
            return
        asked, count = self._asked(tenant), before + len(waiting)

        def said(answers: list[Any] | RedisUnavailable) -> None:
            if isinstance(answers, RedisUnavailable):
                here = [self._acquire_here(tenant, limit, 0) for _ in range(count)]
                for answered, granted_here in zip(waiting, here[before:], strict=True):
                    answered(granted_here)
                return
            wait, left, granted = self._learnt(tenant, asked, answers[0])
            for number, answered in enumerate(waiting, before + 1):
                own = left
                if number <= granted:
                    own = Remaining(left.requests + granted - number, left.tokens)
                elif not wait:
                    wait = (1 - left.requests) * 60 / (limit.requests_per_minute or 1)
                answered(_granted(wait, Grant(own, tenant, limit)))

        if link.ask("limit", [_acquire(tenant, limit, "", 0, count)], said):
            link.send()
            return
        for answered in waiting:
            answered(None)
        if before:
            self._settlements.start(self._counted(tenant, limit, before))

    async def _counted(self, tenant: str, limit: Limit, count: int) -> None:
        """Where that takes a wait."""
        if await self._acquire_there(tenant, _acquire(tenant, limit, "", 0, count)) is None:
            for _ in range(count):
                self._acquire_here(tenant, limit, 0)

    async def _acquire_there(self, tenant: str, command: Words) -> tuple[float, Remaining, int] | None:
        """What Redis said, as `_learnt` has it; None without it."""
        if self._link is None:
            return None
        asked = self._asked(tenant)
        try:
            answer = await self._link.run("limit", *command)
        except RedisUnavailable:
            return None
        return self._learnt(tenant, asked, answer)

    def _acquire_here(self, tenant: str, limit: Limit, reserve: float) -> Grant | RateLimited:
        bucket = self._bucket(tenant, limit)
        reserved = bucket.most_reserved(reserve)
        wait, left = bucket.acquire(reserved, self._clock())
        if self._link is not None:
            self._metrics.limits_unshared.inc()
        return _granted(wait, Grant(left, tenant, limit, "", reserved, bucket))

    def settle(self, grant: Grant, *, used: int) -> None:
        """What the request really used, in tokens; the rest of its reservation is given back, in the background."""
        reserved, grant.reserved = grant.reserved, 0
        if reserved == 0:
            return
        if grant.local is not None:
            grant.local.settle(reserved, used, self._clock())
            return
        self._settlements.start(self._settle(_settlement(grant.tenant, grant.limit, grant.reservation, used)))

    def _asked(self, tenant: str) -> tuple[float, int]:
        """A question about it that is sent now: when, and how many were granted at once before it."""
        told = self._told.get(tenant)
        return self._clock(), 0 if told is None else told.given - told.uncounted

    def _learnt(self, tenant: str, asked: tuple[float, int], answer: Any) -> tuple[float, Remaining, int]:
        """Seconds to wait, what is left, also of what was granted at once and not counted there, and how many requests
        were granted."""
        wait, requests, tokens, granted = map(float, answer)
        at, counted = asked
        self._known[tenant] = (Remaining(requests, tokens), self._clock())
        told = self._told.get(tenant)
        if told is None:
            told = self._told[tenant] = _Told()
        left = Remaining(requests - (told.given - counted), tokens)
        if at >= told.asked:
            told.requests, told.tokens, told.asked = left.requests, tokens, at
        if self._buckets.pop(tenant, None) is not None:
            _log.info("limits shared again", tenant=tenant)
        return wait, left, int(granted)

    def _bucket(self, tenant: str, limit: Limit) -> Bucket:
        """This replica's share, beginning with its share of what was left when Redis was last asked."""
        bucket = self._buckets.get(tenant)
        if bucket is None:
            full = Remaining(float(limit.requests_per_minute or 0), float(limit.tokens_per_minute or 0))
            left, at = self._known.get(tenant, (full, self._clock()))
            share = self._replicas
            bucket = Bucket(limit, share, Remaining(left.requests / share, left.tokens / share), at)
            self._buckets[tenant] = bucket
            if self._link is not None:
                _log.warning("limits not shared", tenant=tenant, replicas=share)
        return bucket

    async def _settle(self, settlement: Words) -> None:
        if self._link is not None:
            try:
                await self._link.run("settle", *settlement)
            except RedisUnavailable:
                self._unsettled.append(settlement)

    async def _settle_late(self) -> None:
        """What Redis was not told when it was over; what has expired there meanwhile changes nothing."""
        while self._unsettled and self._link is not None and self._link.available:
            count = min(len(self._unsettled), _SETTLED_AT_ONCE)
            settlements = [self._unsettled.popleft() for _ in range(count)]
            try:
                await self._link.pipeline("settle", settlements)
            except RedisUnavailable:
                self._unsettled.extendleft(reversed(settlements))
                return

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            await self._beat()
            await self._settle_late()

    async def _beat(self) -> None:
        """Say that we are here, and count who else is."""
        assert self._link is not None  # noqa: S101  # only then there is a heartbeat
        with contextlib.suppress(RedisUnavailable):
            replicas = await self._link.run(
                "replicas", "EVAL", REGISTER_SCRIPT, 1, REPLICAS, self._replica, GONE_AFTER
            )
            self._replicas = max(1, replicas)


def _acquire(tenant: str, limit: Limit, reservation: str, reserve: float, requests: int) -> Words:
    keys = limit_key(tenant), reservation_key(tenant, reservation)
    return ("EVAL", _ACQUIRE, len(keys), *keys, *_limits_and_life(limit), reserve, requests)


def _settlement(tenant: str, limit: Limit, reservation: str, used: int) -> Words:
    keys = limit_key(tenant), reservation_key(tenant, reservation)
    used = min(used, (limit.tokens_per_minute or 0) * _MOST_COUNTED)
    return ("EVAL", _SETTLE, len(keys), *keys, *_limits_and_life(limit), used)


def _granted(wait: float, grant: Grant) -> Grant | RateLimited:
    return RateLimited(retry_after=wait, headers=grant.headers) if wait > 0 else grant


def _limits_and_life(limit: Limit) -> list[int]:
    """What both scripts begin with."""
    return [limit.requests_per_minute or 0, limit.tokens_per_minute or 0, int(RESERVATION_LIFE * 1000)]


def rate_headers(limit: Limit, left: Remaining) -> dict[str, str]:
    """`x-ratelimit-*` as OpenAI's clients know them; `reset` is when the bucket is full again."""
    lines = rate_lines(limit, left).split("\r\n")
    return dict(line.split(": ") for line in lines[:-1])


def rate_lines(limit: Limit, left: Remaining) -> str:
    """The same as lines of a head."""
    lines = ""
    if limit.requests_per_minute is not None:
        lines = _lines("requests", limit.requests_per_minute, left.requests)
    if limit.tokens_per_minute is not None:
        lines += _lines_of_tokens("tokens", limit.tokens_per_minute, left.tokens)
    return lines


def _lines(of: str, allowed: int, remaining: float) -> str:
    until_full = (allowed - remaining) * 60 / allowed
    return (
        f"x-ratelimit-limit-{of}: {allowed}\r\n"
        f"x-ratelimit-remaining-{of}: {int(remaining) if remaining > 0 else 0}\r\n"
        f"x-ratelimit-reset-{of}: {max(0, until_full):.3f}s\r\n"
    )


_lines_of_tokens = functools.lru_cache(1024)(_lines)
"""Hits take none, so that many say the same."""
