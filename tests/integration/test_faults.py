"""Claims of docs/reports/faults.md: what `benchmarks/faults` times is held in short here, the rest at any size."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis import Redis

from testkit.http_server import DIE, Call, Wire, stream
from testkit.openai_server import FakeOpenAI, chunk, frame, frames, last_question, say
from testkit.processes import open_files
from tests.harness import Running, openai_provider, running, size
from tests.integration.clients import Crowd, shared


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110  # a metric has no event
            await asyncio.sleep(0.01)


async def shows(server: Running, name: str, value: float) -> None:
    async def holds() -> bool:
        return await server.metric(name) == value

    await eventually(holds)


async def test_under_ten_times_the_load_every_place_goes_on_answering(fake: FakeOpenAI) -> None:
    """Counted in requests: each round of the provider answers as many as there are places, whoever else asks."""
    places, rounds = 2, 8
    called = places
    turns = asyncio.Semaphore(0)
    most, over = 0, asyncio.Event()

    async def in_turn(call: Call, wire: Wire) -> None:
        nonlocal most
        most = max(most, fake.open_calls)
        await turns.acquire()
        await say("Hello")(call, wire)

    async def full() -> bool:
        return fake.open_calls == places and not turns._value and len(fake.calls) == called

    fake.reply = in_turn
    config = {**openai_provider(fake.base_url), "admission": {"max_inflight": places, "max_queued": places}}
    async with running(config) as server:
        seen: Counter[int] = Counter()

        async def ask_on(name: str) -> None:
            number = 0
            while not over.is_set():
                number += 1
                response = await server.chat(f"{name} {number}", stream=number % 2 == 0)
                seen[response.status_code] += 1
                if response.status_code == 503:
                    assert int(response.headers["retry-after"]) >= 1
                    await asyncio.sleep(0.05)

        callers = [asyncio.create_task(ask_on(str(number))) for number in range(10 * places)]
        for _ in range(rounds):
            await eventually(full)
            called += places
            for _ in range(places):
                turns.release()
        await eventually(full)
        assert len(fake.calls) == (rounds + 1) * places
        over.set()
        for _ in callers:
            turns.release()
        await asyncio.gather(*callers)
        assert seen.keys() == {200, 503}
        assert most == places
        await shows(server, "dub5_inflight_requests", 0)
        assert await server.metric("dub5_queued_requests") == 0


@pytest.mark.parametrize("fault", [DIE, b"data: \xff nonsense\n\n"], ids=["reset", "garbage"])
async def test_what_breaks_after_the_first_byte_ends_with_the_error_event_although_another_provider_is_well(
    fake: FakeOpenAI, fault: Any
) -> None:
    fake.reply = stream([frame(chunk({"content": "Hel"})), fault])
    async with FakeOpenAI() as good:
        config = {
            "providers": {
                name: {"kind": "openai", "base_url": each.base_url}
                for name, each in {"bad": fake, "good": good}.items()
            },
            "models": {"small": {"routes": ["bad/x", "good/x"]}},
        }
        async with running(config) as server:
            response = await server.chat(stream=True)
    *begun, last, end = response.text.split("\n\n")
    assert (response.status_code, end) == (200, "")
    assert "Hel" in begun[0]
    assert '"code":"provider_error"' in last
    assert "[DONE]" not in response.text
    assert good.calls == []


async def test_a_tenant_in_the_queue_of_another_has_every_second_turn(fake: FakeOpenAI) -> None:
    turns = asyncio.Semaphore(0)

    async def in_turn(call: Call, wire: Wire) -> None:
        await turns.acquire()
        await say("Hello")(call, wire)

    fake.reply = in_turn
    keys = "\n".join(
        f"{hashlib.sha256(name.encode()).hexdigest()}: {{tenant: {name}, roles: [chat]}}"
        for name in ("noisy", "quiet")
    )
    config = {
        **openai_provider(fake.base_url),
        "auth": {"keys": {"env": "KEYS"}},
        "admission": {"max_inflight": 1, "queue_timeout": "10m"},  # it waits for the test, not for a pace
    }
    async with running(config, {"KEYS": keys}) as server:

        def asking(tenant: str, number: int) -> asyncio.Task[Any]:
            headers = {"authorization": f"Bearer {tenant}"}
            return asyncio.create_task(server.chat(f"{tenant} {number}", headers=headers))

        noisy = [asking("noisy", 0)]
        await fake.wait_called()
        noisy += [asking("noisy", number) for number in range(1, 21)]
        await shows(server, "dub5_queued_requests", 20)
        quiet = [asking("quiet", number) for number in range(5)]
        await shows(server, "dub5_queued_requests", 25)
        for _ in range(26):
            turns.release()
        assert {task.result().status_code for task in await _all(noisy + quiet)} == {200}
    order = [last_question(call.body).partition(" ")[0] for call in fake.calls]
    assert order[:12].count("quiet") == 5
    assert "quiet quiet" not in " ".join(order)


async def _all(tasks: list[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    await asyncio.gather(*tasks)
    return tasks


TEXTS = ["Hel", "lo ", "out ", "there"]


async def test_nothing_stays_behind_of_clients_that_leave_at_random_points(
    fake: FakeOpenAI, redis: str
) -> None:
    async def slowly(call: Call, wire: Wire) -> None:
        await asyncio.sleep(0.1)
        if not call.body.get("stream"):
            await say(*TEXTS)(call, wire)
            return
        await wire.head(200, {"content-type": "text/event-stream"})
        for part in frames(*TEXTS):
            assert isinstance(part, bytes)
            await wire.send(part)
            await asyncio.sleep(0.01)
        await wire.end()

    fake.reply = slowly
    config = {
        **openai_provider(fake.base_url),
        "redis": {"url": redis},
        "admission": {"max_inflight": 8},
    }
    clients = size(160)
    async with running(config) as one, running(config) as other:
        servers = (one, other)
        for server in servers:
            await server.chat("before")  # opens what stays open
        before, opened = _tasks(), await _descriptors(fake, redis)
        crowd = Crowd([server.url for server in servers], clients, at_once=40)
        await crowd.run()
        assert crowd.left.total() == clients
        for server in servers:
            for name in ("inflight_requests", "queued_requests", "flight_followers"):
                await shows(server, f"dub5_{name}", 0)
            await shows(server, "dub5_open_connections", 1)  # the test's own client's

        async def nothing_left() -> bool:
            if fake.open_calls or _tasks() != before:
                return False
            return await _descriptors(fake, redis) == opened

        await eventually(nothing_left)
        served = 0
        for number in range(0, clients, 20):
            for server in servers:
                for streamed in (False, True):
                    response = await server.chat(
                        shared(number), stream=streamed, headers={"cache-control": "only-if-cached"}
                    )
                    assert response.status_code in {200, 504}
                    if response.status_code == 200:
                        served += 1
                        text = response.text.replace('"}}]}\n\ndata: ', "")
                        assert "there" in text
                        assert not streamed or text.endswith("data: [DONE]\n\n")
        assert served > 0


async def _descriptors(fake: FakeOpenAI, url: str) -> int:
    """Of this process, without those of pools: to the provider, of which both ends are here, and to Redis."""

    def counted() -> int:
        with contextlib.closing(Redis.from_url(url)) as client:
            return open_files(os.getpid()) - 2 * fake.open_connections - len(client.client_list())

    return await asyncio.to_thread(counted)


def _tasks() -> Counter[str]:
    """What runs in this loop, but for the fake's side of connections that may be used again."""
    names = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())  # type: ignore[union-attr]
    del names["FakeServer._converse"]
    return names
