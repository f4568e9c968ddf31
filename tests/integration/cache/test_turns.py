"""How often a request waits for Redis: behind a proxy that keeps each answer back until the test lets it through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from dub5.admission import limits
from dub5.cache import leases, policies, samples, store
from dub5.redis import link
from testkit.openai_server import FakeOpenAI
from testkit.redis_server import RedisServer
from tests.harness import Running, openai_provider, running
from tests.integration.cache.support import until


class Gate:
    """What Redis has answered and the replica has not got. While it is `open` nothing is kept back."""

    def __init__(self) -> None:
        self.open = True
        self.held: list[tuple[asyncio.StreamWriter, bytes]] = []

    def release(self) -> None:
        held, self.held = self.held, []
        for writer, data in held:
            writer.write(data)


@contextlib.asynccontextmanager
async def gated(redis: RedisServer) -> AsyncIterator[tuple[Gate, str]]:
    gate = Gate()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", redis.port)

        async def asks() -> None:
            while data := await reader.read(65536):
                forth.write(data)
            forth.close()

        async def answers() -> None:
            while data := await back.read(65536):
                gate.held.append((writer, data))
                if gate.open:
                    gate.release()
            writer.close()

        await asyncio.gather(asks(), answers())

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield gate, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


async def turns(gate: Gate, request: Coroutine[Any, Any, Any]) -> int:
    """How often it had to wait for Redis."""
    gate.open, count = False, 0
    asking = asyncio.create_task(request)
    while True:
        await until(lambda: bool(gate.held) or asking.done())
        if asking.done():
            assert (await asking).status_code == 200
            return count
        count += 1
        gate.release()


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a replica asks of its own accord is asked once, at its start."""
    monkeypatch.setattr(store, "_SYNCHRONISE_INTERVAL", 3600.0)
    monkeypatch.setattr(policies, "READ_INTERVAL", 3600.0)
    monkeypatch.setattr(leases, "HEARTBEAT", 3600.0)
    monkeypatch.setattr(samples, "INTERVAL", 3600.0)
    monkeypatch.setattr(limits, "HEARTBEAT", 3600.0)
    monkeypatch.setattr(link, "_LISTEN_INTERVAL", 3600.0)


@contextlib.asynccontextmanager
async def replica(fake: FakeOpenAI) -> AsyncIterator[tuple[Running, Gate, RedisServer]]:
    async with RedisServer() as redis, gated(redis) as (gate, url):
        config = {**openai_provider(fake.base_url), "redis": {"url": url}}
        async with running(config) as one:
            application = one.replica.application
            assert application._redis is not None
            pipelining = application._redis._pipelining
            assert pipelining is not None
            await until(lambda: pipelining.connection is not None)
            await one.chat("something else")

            async def settled() -> bool:
                """What is compared is kept, and every answer is here."""
                last = await redis.client.keys("*:last")
                return bool(last) and pipelining.connection is not None and not pipelining.connection._waiting

            await until(settled)
            try:
                yield one, gate, redis
            finally:
                gate.open = True
                gate.release()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_miss_waits_twice_and_is_stored_in_one_turn_more(fake: FakeOpenAI, stream: bool) -> None:
    async with replica(fake) as (one, gate, redis):
        assert await turns(gate, one.chat("hi", temperature=0, stream=stream)) == 2

        async def stored_and_given_back() -> bool:
            """Though nothing more was let through."""
            stored, leases = [await redis.client.keys(f"*:{kind}:*") for kind in ("entry", "lease")]
            return len(stored) == 2 and not leases

        await until(stored_and_given_back)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_miss_waits_once_where_redis_had_nothing_of_late(
    fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(store, "_LOOK_UPS", 1)  # one that found nothing is enough
    async with replica(fake) as (one, gate, redis):
        assert await turns(gate, one.chat("hi", temperature=0, stream=stream)) == 1
        await until(lambda: entries(redis, 2))
        gate.open = True
        gate.release()
        assert (await one.chat("hi", temperature=0, stream=stream)).headers["cache-status"].endswith("local")


async def test_a_replica_looks_first_again_where_redis_had_something(
    fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_LOOK_UPS", 1)
    async with replica(fake) as (one, _, redis):
        config = {**openai_provider(fake.base_url), "redis": {"url": redis.url}}
        async with running(config) as other:
            for text in ("1", "2"):
                await other.chat(text)
                assert (await one.chat(f"another {text}")).headers["cache-status"].endswith("; stored")
                assert not one.replica.application._flights._store.looks_first("default")
                assert (await one.chat(text)).headers["cache-status"].endswith("detail=shared")
                assert one.replica.application._flights._store.looks_first("default")


async def entries(redis: RedisServer, count: int) -> bool:
    """Whether so many answers are stored."""
    return len(await redis.client.keys("*:entry:*")) == count
