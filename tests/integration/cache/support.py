"""Parts of a replica against a real Redis, without the rest of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import redis
from redis.asyncio import Redis
from redis.driver_info import DriverInfo

from dub5.cache.leases import Leases
from dub5.cache.purges import Purges
from dub5.redis.link import RedisLink, RedisUnavailable
from dub5.settings.model import Duration, RedisSettings
from dub5.telemetry.metrics import Metrics
from tests.harness import PATIENT

TIMEOUT = 60.0
"""Seconds after which a test that waits for something has failed."""


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for what another task or process brings about."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.005)


async def made(settings: RedisSettings, password: str | None = None) -> RedisLink:
    """In a thread, as the service makes it before its loop runs: certificates are read."""
    return await asyncio.to_thread(
        RedisLink, settings, password=password, metrics=Metrics(config_hash="test")
    )


@contextlib.asynccontextmanager
async def linked(url: str, *, password: str | None = None, **settings: Any) -> AsyncIterator[RedisLink]:
    """A link that has been started."""
    settings = {"url": url, "timeout": Duration(0.1), **settings}
    link = await made(RedisSettings(**settings), password)
    await link.start()
    try:
        yield link
    finally:
        await link.stop()


def plain(url: str) -> Redis:
    """A client of the test's own. Without its version, redis-py would read it from disk."""
    version = DriverInfo(lib_version=redis.__version__)
    return Redis.from_url(url, driver_info=version, socket_timeout=TIMEOUT)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def purging(url: str, *, clock: Clock | None = None) -> AsyncIterator[Purges]:
    """The purges of one replica, which has read what Redis knows. No messages: nobody subscribes."""
    async with linked(url, timeout=PATIENT) as link:
        purges = Purges(link, clock or Clock())
        await purges.synchronise()
        yield purges


async def synchronised(purges: Purges) -> bool:
    """Whether Redis told what it knows, and was told."""
    try:
        await purges.synchronise()
    except RedisUnavailable:
        return False
    return True


@contextlib.asynccontextmanager
async def leasing(url: str, *, password: str | None = None) -> AsyncIterator[Leases]:
    """The leases of one replica, with their messages."""
    link = await made(RedisSettings(url=url, timeout=PATIENT), password)
    leases = Leases(link)
    await leases.start()
    await link.start()
    try:
        yield leases
    finally:
        await leases.stop()
        await link.stop()
