"""Replicas that leave in turn behind a balancer, under live streams and clients that keep their connections."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

from testkit.http_server import Call, Wire
from testkit.openai_server import FakeOpenAI, frames, say
from testkit.service import Service, serving
from tests.harness import openai_provider, size
from tests.integration.balancer import Balancer
from tests.integration.clients import Load

STREAMS = size(8)


async def slowly(call: Call, wire: Wire) -> None:
    if not call.body.get("stream"):
        await say("Hello")(call, wire)
        return
    await wire.head(200, {"content-type": "text/event-stream"})
    for part in frames(*map(str, range(10))):
        assert isinstance(part, bytes)
        await wire.send(part)
        await asyncio.sleep(0.05)
    await wire.end()


async def test_replicas_leave_in_turn_and_no_client_notices(fake: FakeOpenAI, redis: str) -> None:
    fake.reply = slowly
    settings = {**openai_provider(fake.base_url), "redis": {"url": redis}}
    balancer = Balancer(period=0.02, delay=0.05)
    async with AsyncExitStack() as stack:

        async def started() -> Service:
            service = await stack.enter_async_context(serving(settings, linger="1500ms"))
            await balancer.add(service)
            return service

        await stack.enter_async_context(balancer.listening())
        fleet = [await started() for _ in range(2)]
        load = Load(balancer.url, streams=STREAMS, askers=4, think=(0.02, 0.2))
        loading = asyncio.create_task(load.run())
        for service in fleet:
            async with asyncio.timeout(60):
                while load.live < STREAMS:  # noqa: ASYNC110  # a count has no event
                    await asyncio.sleep(0.01)
            service.process.send_signal(signal.SIGTERM)
            assert await service.process.wait() == 0
            await started()
        load.end()
        await loading
    assert load.seen.keys() == {"streams", "answers"}
    assert load.moved > 0
    assert balancer.refused == 0
