"""One question, one call, across replicas: whole replicas, a real Redis and a provider that waits for the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from dub5.cache.store import _SYNCHRONISE_INTERVAL, AnswerStore
from dub5.redis.link import RedisClock
from testkit.http_server import Call, Script, Wire, refuse, stream
from testkit.openai_server import FakeOpenAI, frames, say
from testkit.redis_server import RedisServer
from tests.harness import Running, openai_provider, running
from tests.integration.cache.support import TIMEOUT, plain, until

MISS, STORED = "dub5; fwd=uri-miss", "dub5; fwd=uri-miss; stored"
COLLAPSED = "dub5; fwd=uri-miss; collapsed"


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as fake:
        yield fake


@pytest.fixture(autouse=True, params=["looks", "asks for the lease"])
def first(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a replica does first where memory has nothing; all else is the same."""
    if request.param != "looks":
        monkeypatch.setattr(AnswerStore, "looks_first", lambda *_: False)


def config(fake: FakeOpenAI, url: str, **cache_class: Any) -> dict[str, Any]:
    return {
        **openai_provider(fake.base_url),
        "redis": {"url": url},
        "cache": {"classes": {"default": {"ttl": "60s", **cache_class}}},
    }


@contextlib.asynccontextmanager
async def replicas(
    count: int, fake: FakeOpenAI, url: str, **cache_class: Any
) -> AsyncIterator[list[Running]]:
    """So many replicas; all leave together, since each takes a moment."""
    stacks = [contextlib.AsyncExitStack() for _ in range(count)]
    try:
        yield [await stack.enter_async_context(running(config(fake, url, **cache_class))) for stack in stacks]
    finally:
        await asyncio.gather(*(stack.aclose() for stack in stacks))


class Reading:
    """A streamed answer as it comes: `await reading.next()` is the next event's data, None at the end."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> str | None:
        async with asyncio.timeout(TIMEOUT):
            async for line in self._lines:
                if line.startswith("data: "):
                    return line.removeprefix("data: ")
        return None

    async def rest(self) -> list[str]:
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events


@contextlib.asynccontextmanager
async def streaming(replica: Running, text: str = "hi") -> AsyncIterator[Reading]:
    body = {"model": "small", "messages": [{"role": "user", "content": text}], "stream": True}
    async with replica.client.stream("POST", "/v1/chat/completions", json=body) as response:
        yield Reading(response)


def gated(gate: asyncio.Event, script: Script) -> Script:
    """`script`, once the test opens the gate."""

    async def wait(call: Call, wire: Wire) -> None:
        await gate.wait()
        await script(call, wire)

    return wait


def content(events: list[str]) -> str:
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", [])
    )


def said(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


async def followed(replica: Running, count: int = 1) -> None:
    """Wait until so many follow the flights of `replica`: requests, and other replicas."""
    await replica.followed(count)


async def ask(replica: Running, text: str = "hi", **fields: Any) -> str:
    """The answer's text, whole or streamed."""
    if not fields.get("stream"):
        return said(await replica.chat(text, **fields))
    async with streaming(replica, text) as reading:
        events = await reading.rest()
        assert events[-1] == "[DONE]", events
        return content(events)


def status(response: httpx.Response) -> str:
    return response.headers["cache-status"]


# One call


@pytest.mark.parametrize("streamed_first", [True, False])
async def test_identical_requests_at_once_make_one_call(
    redis: str, fake: FakeOpenAI, streamed_first: bool
) -> None:
    gate = asyncio.Event()
    fake.reply = gated(gate, say("Hello ", "world"))
    async with replicas(3, fake, redis) as served:
        first = asyncio.create_task(ask(served[0], stream=streamed_first))
        await fake.wait_called()
        rest = [asyncio.create_task(ask(served[number % 3], stream=number % 2 == 0)) for number in range(60)]
        await followed(served[0], 20)
        await followed(served[1], 20)
        await followed(served[2], 20)
        gate.set()
        assert await asyncio.gather(first, *rest) == ["Hello world"] * 61
    assert len(fake.calls) == 1


async def test_a_follower_elsewhere_has_its_first_token_while_the_answer_is_being_made(
    redis: str, fake: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    first, *others = frames("Hel", "lo")
    fake.reply = stream([first, others[0], gate, *others[1:]])
    async with replicas(2, fake, redis) as (a, b), streaming(a) as leading:
        early = [await leading.next(), await leading.next()]
        async with streaming(b) as following:
            assert following.response.headers["cache-status"] == COLLAPSED
            assert [await following.next(), await following.next()] == early
            gate.set()
            ends = await asyncio.gather(leading.rest(), following.rest())
        assert leading.response.headers["cache-status"] == MISS
        assert ends[0] == ends[1]
        assert ends[0][-1] == "[DONE]"
        assert await b.metric("dub5_cache_lookups_total", result="collapsed") == 1
    assert len(fake.calls) == 1


async def test_a_whole_request_elsewhere_collapses_too(redis: str, fake: FakeOpenAI) -> None:
    gate = asyncio.Event()
    fake.reply = gated(gate, say("Hello"))
    async with replicas(2, fake, redis) as (a, b):
        leading = asyncio.create_task(a.chat())
        await fake.wait_called()
        following = asyncio.create_task(b.chat())
        await followed(a, 2)
        gate.set()
        one, other = await asyncio.gather(leading, following)
        assert (status(one), status(other)) == (STORED, COLLAPSED)
        assert one.content == other.content
        assert status(await a.chat()).startswith("dub5; hit")
        assert status(await b.chat()).startswith("dub5; hit")
    assert len(fake.calls) == 1


async def test_the_flight_outlives_its_first_client_for_a_follower_elsewhere(
    redis: str, fake: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    first, second, *others = frames("Hel", "lo")
    fake.reply = stream([first, second, gate, *others])
    async with replicas(2, fake, redis) as (a, b), contextlib.AsyncExitStack() as follower:
        async with streaming(a) as leading:
            await leading.next()
            following = await follower.enter_async_context(streaming(b))
            early = [await following.next(), await following.next()]
        await until(lambda: a.replica.application._flights.followers() == 1)
        gate.set()
        assert content([*filter(None, early), *await following.rest()]) == "Hello"
    assert len(fake.calls) == 1
    assert not fake.calls[0].cancelled.is_set()


async def test_the_call_is_cancelled_when_nobody_follows_anywhere(redis: str, fake: FakeOpenAI) -> None:
    first, second, *_ = frames("Hel", "lo")
    fake.replies = [stream([first, second, asyncio.Event()])]
    async with replicas(2, fake, redis) as (a, b):
        async with streaming(a) as leading:
            await leading.next()
            async with streaming(b) as following:
                await following.next()
                await following.next()
        await fake.wait_cancelled()
        await until(lambda: a.replica.application._flights.followers() == 0)
        # and nothing is left behind that would hold up the next one
        assert await ask(a) == await ask(b) == "You said: hi"
    assert len(fake.calls) == 2


@pytest.mark.parametrize(
    "refusal",
    [
        refuse(500, "down"),
        refuse(503, "busy", headers={"retry-after": "7"}),
        refuse(429, "slow down", headers={"retry-after": "3"}),
        refuse(400, "no such thing", param="logit_bias"),
        refuse(401, "who are you"),
    ],
    ids=["500", "503", "429", "400", "401"],
)
async def test_an_error_of_the_provider_reaches_followers_elsewhere_as_it_is(
    redis: str, fake: FakeOpenAI, refusal: Script
) -> None:
    gate = asyncio.Event()
    fake.reply = gated(gate, refusal)
    async with replicas(2, fake, redis) as (a, b):
        leading = asyncio.create_task(a.chat())
        await fake.wait_called()
        following = [asyncio.create_task(b.chat(stream=streamed)) for streamed in (False, True)]
        await followed(a, 2)
        await followed(b, 2)
        gate.set()
        one, *others = await asyncio.gather(leading, *following)
        assert one.status_code >= 400
        for other in others:
            assert (other.status_code, other.json()) == (one.status_code, one.json())
            assert other.headers.get("retry-after") == one.headers.get("retry-after")
    assert len(fake.calls) == 1


# Lost leaders


async def lose_lease(url: str) -> None:
    """What a leader that was paused for too long finds: its lease is gone."""
    async with plain(url) as client:
        leases = [key async for key in client.scan_iter("dub5:*:lease:*")]
        assert leases
        await client.delete(*leases)


async def test_followers_that_were_given_nothing_do_not_notice_a_lost_leader(
    redis: str, fake: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    fake.replies = [gated(gate, say("from the first"))]
    fake.reply = say("from the second")
    async with replicas(2, fake, redis) as (a, b):
        leading = asyncio.create_task(a.chat())
        await fake.wait_called()
        following = [asyncio.create_task(ask(b, stream=number % 2 == 0)) for number in range(10)]
        await followed(a, 2)
        await followed(b, 10)
        await lose_lease(redis)
        assert await asyncio.gather(*following) == ["from the second"] * 10
        gate.set()
        assert said(await leading) == "from the first"  # the leader's own client notices nothing either
    assert len(fake.calls) == 2


async def test_followers_in_mid_answer_are_told_that_it_is_lost(redis: str, fake: FakeOpenAI) -> None:
    gate = asyncio.Event()
    first, second, *others = frames("Hel", "lo")
    fake.replies = [stream([first, second, gate, *others])]
    async with replicas(2, fake, redis) as (a, b), streaming(a) as leading, streaming(b) as following:
        early = [await leading.next(), await leading.next()]
        assert [await following.next(), await following.next()] == early
        await lose_lease(redis)
        reported = await following.rest()
        assert len(reported) == 1
        assert json.loads(reported[0])["error"]["code"] == "answer_lost"
        gate.set()
        ended = await leading.rest()
        assert ended[-1] == "[DONE]"
        assert await b.metric("dub5_flights_total", role="follower", outcome="lost") == 1


async def test_a_killed_leader_costs_followers_that_were_given_nothing_a_moment(
    redis: str, fake: FakeOpenAI, tmp_path: Path
) -> None:
    """A real process, ended with SIGKILL; its lease runs out."""
    fake.replies = [gated(asyncio.Event(), say("never"))]
    fake.reply = say("from the second")
    file = tmp_path / "dub5.yaml"
    written = {**config(fake, redis), "server": {"port": 0, "operations_port": 0}}
    await asyncio.to_thread(file.write_text, json.dumps(written))
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "dub5", "serve", "--config", str(file)], stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        announced = (await process.stderr.readuntil(b"/v1")).decode()
        url = announced[announced.index("http") :]
        async with replicas(1, fake, redis) as (b,), httpx.AsyncClient() as client:
            body = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
            doomed = asyncio.create_task(client.post(f"{url}/chat/completions", json=body))
            await fake.wait_called()
            following = [asyncio.create_task(ask(b, stream=number % 2 == 0)) for number in range(20)]
            await followed(b, 20)
            process.kill()
            with pytest.raises(httpx.HTTPError):
                await doomed
            assert await asyncio.gather(*following) == ["from the second"] * 20
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # its pipe, else closed by the garbage collector
    assert len(fake.calls) == 2


async def test_without_redis_in_mid_flight_each_replica_goes_on_by_itself(fake: FakeOpenAI) -> None:
    gate = asyncio.Event()
    fake.reply = gated(gate, say("Hello"))
    async with RedisServer() as server, replicas(2, fake, server.url) as (a, b):
        leading = asyncio.create_task(ask(a))
        await fake.wait_called()
        following = [asyncio.create_task(ask(b, stream=number % 2 == 0)) for number in range(10)]
        await followed(a, 2)
        await server.stop()
        await fake.wait_called()  # the other replica asks for itself
        gate.set()
        assert await asyncio.gather(leading, *following) == ["Hello"] * 11
        assert await ask(a, "more") == "Hello"
    assert len(fake.calls) == 3


# Purges


async def purge(replica: Running, **what: Any) -> None:
    answer = await replica.client.post("/v1/cache/invalidations", json=what)
    assert answer.status_code == 200, answer.text


async def test_a_request_after_a_purge_never_joins_a_flight_from_before_it(
    redis: str, fake: FakeOpenAI
) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    fake.replies = [gated(gates[0], say("before")), gated(gates[1], say("after"))]
    async with replicas(2, fake, redis) as (a, b):
        before = asyncio.create_task(ask(a))
        await fake.wait_called()
        await purge(b, model="small")
        after = asyncio.create_task(ask(b))
        await fake.wait_called()
        late = asyncio.create_task(ask(b, stream=True))
        await followed(b, 2)
        gates[1].set()
        assert await asyncio.gather(after, late) == ["after", "after"]
        gates[0].set()
        assert await before == "before"  # it ended last, and is stored where nobody looks
        await until(lambda: answers(a, "after"))  # it may take a moment to learn of the purge
        assert await ask(b) == "after"
    assert len(fake.calls) == 2


async def test_an_answer_in_memory_elsewhere_is_purged_within_a_second_without_any_message(
    fake: FakeOpenAI,
) -> None:
    async with RedisServer() as server:
        await server.client.execute_command("ACL SETUSER mute on >pw ~* +@all resetchannels")
        access = {"url": server.url, "username": "mute", "password": {"env": "PW"}}
        written = {**config(fake, server.url), "redis": access}
        async with running(written, {"PW": "pw"}) as a, running(written, {"PW": "pw"}) as b:
            assert await ask(a) == await ask(b)
            assert status(await b.chat()).startswith("dub5; hit")
            fake.reply = say("after")
            await purge(a, all=True)
            await until(lambda: answers(b, "after"))
    assert _SYNCHRONISE_INTERVAL <= 0.5  # so that reading and answering fit into the second too


async def answers(replica: Running, expected: str) -> bool:
    return await ask(replica) == expected


# Freshness


class Later:
    """Seconds since the epoch, and so many more."""

    def __init__(self) -> None:
        self._now = time.time
        self.seconds = 0.0

    def __call__(self) -> float:
        return self._now() + self.seconds


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """The time for everybody, from before the replicas start."""
    later = Later()
    monkeypatch.setattr("time.time", later)
    monkeypatch.setattr(RedisClock, "__call__", lambda _: later())
    return later


def age_and_ttl(response: httpx.Response) -> tuple[int, int]:
    ttl = next(part for part in status(response).split("; ") if part.startswith("ttl="))
    return int(response.headers["age"]), int(ttl.removeprefix("ttl="))


async def test_a_hit_never_lengthens_the_life_of_an_answer(
    redis: str, fake: FakeOpenAI, later: Later
) -> None:
    async with replicas(2, fake, redis) as (a, b):
        await ask(a)
        for later.seconds in (1, 10, 25, 55):
            for replica in (a, b):
                age, ttl = age_and_ttl(await replica.chat())
                assert later.seconds <= age < later.seconds + TIMEOUT
                assert age + ttl in {59, 60}  # both are rounded down
        later.seconds = 61
        assert status(await a.chat()) == "dub5; fwd=stale; stored"
    assert len(fake.calls) == 2


async def test_a_stale_answer_is_served_and_refreshed_once_across_replicas(
    redis: str, fake: FakeOpenAI, later: Later
) -> None:
    gate = asyncio.Event()
    fake.replies = [say("old"), gated(gate, say("new"))]
    async with replicas(2, fake, redis, stale_while_revalidate="1h") as (a, b):
        assert await ask(a) == await ask(b) == "old"
        later.seconds = 70
        for _ in range(5):
            for replica in (a, b):
                response = await replica.chat()
                assert said(response) == "old"
                assert status(response).endswith("detail=stale-while-revalidate")
                assert age_and_ttl(response)[1] < 0
        await fake.wait_called()
        gate.set()
        await until(lambda: answers(a, "new"))
        await until(lambda: answers(b, "new"))
        for replica in (a, b):
            age, ttl = age_and_ttl(await replica.chat())
            assert age < TIMEOUT
            assert ttl > 0
    assert len(fake.calls) == 2


async def test_a_failed_refresh_is_not_tried_again_by_any_replica_for_a_while(
    redis: str, fake: FakeOpenAI, later: Later
) -> None:
    async with replicas(2, fake, redis, stale_while_revalidate="1h") as (a, b):
        assert await ask(a) == await ask(b)
        later.seconds = 70
        fake.reply = refuse(500, "down")
        assert await ask(a) == "You said: hi"
        await until(lambda: a.replica.application._flights.followers() == 0)
        tried = len(fake.calls)
        for _ in range(5):
            assert await ask(a) == await ask(b) == "You said: hi"
        await until(lambda: b.replica.application._flights.followers() == 0)
        assert len(fake.calls) == tried


async def test_a_stale_answer_is_served_where_every_provider_fails(
    redis: str, fake: FakeOpenAI, later: Later
) -> None:
    async with replicas(2, fake, redis, stale_if_error="1h") as (a, b):
        await ask(a)
        later.seconds = 70
        fake.reply = refuse(500, "down")
        for replica in (a, b):
            response = await replica.chat()
            assert said(response) == "You said: hi"
            assert status(response).endswith("detail=stale-if-error")
            assert (await replica.chat(headers={"cache-control": "stale-if-error=5"})).status_code == 502
        later.seconds = 3700
        assert (await a.chat()).status_code == 502


async def test_request_directives(redis: str, fake: FakeOpenAI, later: Later) -> None:
    async with replicas(2, fake, redis, stale_while_revalidate="10s") as (a, b):

        async def asked(directives: str) -> httpx.Response:
            return await b.chat(headers={"cache-control": directives})

        refused = await asked("only-if-cached")
        assert (refused.status_code, refused.json()["error"]["code"]) == (504, "not_cached")
        await ask(a)
        later.seconds = 30
        assert status(await asked("only-if-cached")).startswith("dub5; hit")
        assert status(await asked("max-age=60")).startswith("dub5; hit")
        assert len(fake.calls) == 1
        assert status(await asked("no-store")) == "dub5; fwd=bypass; detail=no-store"
        assert status(await asked("max-age=10")) == "dub5; fwd=request; stored"
        later.seconds = 60
        assert status(await asked("min-fresh=50")) == "dub5; fwd=request; stored"
        later.seconds = 90
        assert status(await asked("no-cache")) == "dub5; fwd=request; stored"
        assert len(fake.calls) == 5
        later.seconds = 500
        assert status(await asked("max-stale, only-if-cached")).startswith("dub5; fwd") is False
