"""A tenant's limits, with eight replicas that are all asked at once as fast as they answer.

A tenant has a bucket in Redis that holds a minute's worth, N, and refills evenly (dub5/admission/limits.py). So from
the first request on, at which it is full, until a moment `t` seconds later it grants N + N t / 60 requests, less
what it still holds; and while it is hammered it never holds one. The row takes `t` and what is held from the bucket
itself, and what was accepted from the callers: these must agree to the request.

Tokens: an answer reserves its prompt and `max_tokens`, and is settled at what it used. At no moment may the callers
have received more tokens than the bucket had given out by then, and one reservation.

Redis away: once killed before anybody asked, once in the middle of the run. Each replica then has its share, an
eighth of what the tenant had left; together they may accept N and the refill while Redis is away, whatever was
accepted before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from benchmarks.figures import Figure, progress
from benchmarks.stage import Stage, stage
from benchmarks.tenants import of, tenants
from dub5.admission.limits import HEARTBEAT
from dub5.contract import REPLICAS as REPLICAS_KEY
from dub5.contract import limit_key
from testkit.redis_server import RedisServer
from testkit.service import Service, scraped
from testkit.wire import Reply, Wire, request

REPLICAS, CALLERS = 8, 2
"""Processes; callers of each."""
REQUESTS, TOKENS, MOST_TOKENS, ANSWER = 600, 60_000, 400, 100
"""A minute; tokens that an answer may have and has."""
SECONDS, AWAY_AFTER = 30.0, 5.0
PAUSE = 0.02
"""Seconds between the answers to a caller and its next question: 8 x 2 callers ask some 500 times a second."""
TENANT = "acme"
_AT_ONCE = {"first_token": 0.0, "between": 0.0, "tokens": 3}


class Hammered(msgspec.Struct):
    """What all callers got."""

    replies: list[Reply] = []
    broken: int = 0

    def accepted(self, since: float = 0.0) -> int:
        """Answers that were asked for at or after a moment."""
        return sum(reply.status == 200 and reply.began >= since for reply in self.replies)

    def others(self) -> int:
        """Neither accepted nor told to wait."""
        return self.broken + sum(reply.status not in {200, 429} for reply in self.replies)


async def measure(length: float = 1.0) -> list[Figure]:
    return [
        await _requests(SECONDS * length),
        await _tokens(SECONDS * length),
        await _away(SECONDS * length, after=0.0),
        await _away(SECONDS * length, after=AWAY_AFTER),
    ]


async def _requests(seconds: float) -> Figure:
    progress("limit of requests")
    async with _limited(_AT_ONCE, requests_per_minute=REQUESTS) as (_, redis, _, fleet):
        first = await _ask_once(fleet[0])
        began, _ = await _bucket(redis, "requests")
        seen = await _hammer(fleet, seconds)
        seen.replies.append(first)
        ended, held = await _bucket(redis, "requests")
        alone = [await scraped(service) for service in fleet]
    unshared = sum(each.get("dub5_limits_unshared_total", 0) for each in alone)
    allowed = REQUESTS + (ended - began) * REQUESTS / 60
    accepted, exact = seen.accepted(), round(allowed - held, 2)
    measured = (
        f"{accepted} accepted of {len(seen.replies):,} in {ended - began:.2f} s; the limit allows {allowed:.2f}, of "
        f"which {held:.2f} are left, so {exact:.2f}; {seen.others()} answers other than 200 and 429; "
        f"{unshared:.0f} requests for which Redis was too late"
    )
    what = f"{REQUESTS} requests a minute, {REPLICAS} replicas hammered"
    good = accepted == exact and held < 1 and seen.others() == 0
    return Figure(what, "accepted = what the limit allows, exactly", measured, good)


async def _tokens(seconds: float) -> Figure:
    progress("limit of tokens")
    pace = {"first_token": 0.2, "spread": 0.9, "between": 0.0, "tokens": ANSWER}
    async with _limited(pace, tokens_per_minute=TOKENS) as (*_, fleet):
        began = time.monotonic()
        seen = await _hammer(fleet, seconds, max_tokens=MOST_TOKENS, unique=True)
    reservation = MOST_TOKENS + 50  # of the prompt there are fewer tokens than that
    received, most = 0, 0.0
    answered = [reply for reply in seen.replies if reply.status == 200]
    for reply in sorted(answered, key=lambda each: each.ended):
        received += int(msgspec.json.decode(reply.body)["usage"]["total_tokens"])
        most = max(most, received - TOKENS - (reply.ended - began) * TOKENS / 60)
    allowed = TOKENS + seconds * TOKENS / 60
    measured = (
        f"{received:,} tokens received in {seconds:.0f} s, {received / allowed:.0%} of what the limit allows; at most "
        f"{most:+,.0f} over it at any moment (one reservation: {MOST_TOKENS}); {seen.accepted()} accepted of "
        f"{len(seen.replies):,}, {seen.others()} answers other than 200 and 429"
    )
    what = f"{TOKENS:,} tokens a minute, {REPLICAS} replicas hammered"
    good = most <= reservation and seen.others() == 0
    return Figure(what, "never over limit + one reservation", measured, good)


async def _away(seconds: float, *, after: float) -> Figure:
    """Redis is killed `after` seconds of hammering; with 0, before anybody asks."""
    progress("limit of requests, Redis away")
    async with _limited(_AT_ONCE, requests_per_minute=REQUESTS) as (_, redis, _, fleet):
        await _all_known(redis)
        # Each has the answer in memory, so that no request waits for Redis twice.
        for service in fleet:
            await _ask_once(service)
        began = time.monotonic()
        hammering = asyncio.create_task(_hammer(fleet, seconds))
        await asyncio.sleep(after)
        killed = time.monotonic()
        await redis.stop()
        seen = await hammering
    away = time.monotonic() - killed
    since = seen.accepted(killed) if after else seen.accepted()
    allowed = REQUESTS + away * REQUESTS / 60
    measured = (
        f"{since} accepted in {away:.1f} s without Redis, of {allowed:.0f}; {seen.accepted() + REPLICAS} in all "
        f"{time.monotonic() - began:.1f} s; {seen.others()} answers other than 200 and 429"
    )
    when = f"{after:.0f} s into the run" if after else "while the bucket was full"
    what = f"{REQUESTS} requests a minute, {REPLICAS} replicas hammered, Redis killed {when}"
    good = since <= allowed and seen.others() == 0
    return Figure(what, "at most N and its refill in all", measured, good)


@asynccontextmanager
async def _limited(pace: dict[str, float], **limit: int) -> AsyncIterator[Stage]:
    """Replicas whose tenants have this limit, with a provider of this pace."""
    with tenants(**{TENANT: TENANT}) as auth:
        async with stage(REPLICAS, pace=pace, limits={"default": limit}, auth=auth) as on:
            yield on


async def _all_known(redis: RedisServer) -> None:
    """Wait until each replica has counted all of them, by two heartbeats after the last has come."""
    async with asyncio.timeout(60):
        while await redis.client.zcard(REPLICAS_KEY) < REPLICAS:  # noqa: ASYNC110  # another process: no event
            await asyncio.sleep(0.1)
    await asyncio.sleep(2 * HEARTBEAT)


async def _bucket(redis: RedisServer, what: str) -> tuple[float, float]:
    """When it was last asked, in seconds of Redis' clock, and what it held then."""
    at, held = await redis.command("HMGET", limit_key(TENANT), "at", what)
    return float(at) / 1e6, float(held)


async def _ask_once(service: Service) -> Reply:
    wire = await Wire.to(service.url)
    try:
        return await wire.ask(request("known", headers=of(TENANT)))
    finally:
        wire.close()


async def _hammer(
    fleet: list[Service], seconds: float, *, unique: bool = False, max_tokens: int | None = None
) -> Hammered:
    """All replicas at once, by CALLERS each; one known question, or always a new one."""
    seen, end = Hammered(), time.monotonic() + seconds
    fields: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}

    async def ask_on(service: Service, name: str) -> None:
        wire, number = await Wire.to(service.url), 0
        while time.monotonic() < end:
            number += 1
            question = f"{name} {number}" if unique else "known"
            try:
                seen.replies.append(await wire.ask(request(question, headers=of(TENANT), **fields)))
            except (OSError, asyncio.IncompleteReadError):
                seen.broken += 1
                wire.close()
                wire = await Wire.to(service.url)
            await asyncio.sleep(PAUSE)
        wire.close()

    await asyncio.gather(
        *(
            ask_on(service, f"{number} {caller}")
            for number, service in enumerate(fleet)
            for caller in range(CALLERS)
        )
    )
    return seen
