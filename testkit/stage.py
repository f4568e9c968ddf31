"""What most rows need: replicas with one Redis, the stand-in for a provider, and a client that notes what happens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from testkit.client import Client, client
from testkit.redis_server import RedisServer
from testkit.service import Service, configuration, replicas
from testkit.stand_in import Provider, provider


class Stage(NamedTuple):
    """`fleet` are the replicas."""

    asked: Provider
    redis: RedisServer
    asking: Client
    fleet: list[Service]

    @property
    def urls(self) -> list[str]:
        return [service.url for service in self.fleet]


@asynccontextmanager
async def stage(
    count: int = 1, *options: str, pace: Mapping[str, Any] | None = None, **sections: Any
) -> AsyncIterator[Stage]:
    """`count` replicas, configured by `sections`; `options` are Redis', and `pace` is the provider's."""
    async with AsyncExitStack() as stack:
        asked = await stack.enter_async_context(provider())
        redis = await stack.enter_async_context(RedisServer(*options))
        asking = await stack.enter_async_context(client())
        await asked.set(**(pace or {}))
        settings = configuration(asked.base_url, redis.url, **sections)
        yield Stage(asked, redis, asking, await stack.enter_async_context(replicas(count, settings)))
