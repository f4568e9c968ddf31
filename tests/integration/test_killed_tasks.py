"""Each task in the background is killed, in each way there is, under load: all is as before, and no caller notices.

Two whole replicas, a real Redis, and callers who ask all the time. What a task does is then seen to be done again.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import hashlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from dub5.admission import keys, limits
from dub5.cache import policies, samples
from dub5.cache.flights import Flight
from dub5.contract import POLICY_CHANNEL, POLICY_KEY, REPLICAS, SAMPLES_READER
from dub5.providers import listing
from dub5.telemetry.background import BackgroundTask, Jobs
from testkit.http_server import Call, Wire, whole
from testkit.openai_server import FakeOpenAI, say
from testkit.redis_server import RedisServer
from tests.harness import Running, openai_provider, running
from tests.integration.cache.support import plain, until

ROLES = "{tenant: acme, roles: [chat, admin]}"
KEY = {"authorization": "Bearer first"}
numbers = itertools.count(100)
"""No two policies, purges or questions are alike."""


class Killed(Exception):
    """What is raised inside a task."""


def cancel(task: asyncio.Task[None]) -> bool:
    return task.cancel()


def raise_inside(task: asyncio.Task[None]) -> bool:
    """Where the task waits now; False where it does not, or for another task."""
    waits_for: Any = task._fut_waiter  # type: ignore[attr-defined]
    if waits_for is None or isinstance(waits_for, asyncio.Task) or waits_for.done():
        return False
    waits_for.set_exception(Killed())
    return True


WAYS = (cancel, raise_inside)


async def kill(task: BackgroundTask, way: Callable[[asyncio.Task[None]], bool]) -> None:
    """Until it runs again."""
    killed = task.task
    await until(lambda: task.task is killed and task.state == "running" and way(killed))
    await until(lambda: task.task is not killed and task.state == "running")
    assert killed.done()


class Scene(NamedTuple):
    """`a` is the replica whose tasks are killed."""

    a: Running
    b: Running
    provider: FakeOpenAI
    redis: Redis
    gate: asyncio.Event
    """Questions that begin with "wait" are answered once it is set."""
    keys_file: Path
    has: list[dict[str, str]]
    """The models that the provider lists."""


async def ask(replica: Running, text: str, *, request_id: str | None = None) -> str:
    headers = KEY if request_id is None else {**KEY, "x-request-id": request_id}
    response = await replica.chat(text, headers=headers)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def calls(scene: Scene, question: str) -> int:
    """How often the provider was asked it."""
    return sum(question in json.dumps(call.body) for call in scene.provider.calls if call.raw)


# What each task does, seen to be done. Each gets what kills it.

Kill = Callable[[], Awaitable[None]]


async def a_policy_comes_into_force(scene: Scene, kill: Kill) -> None:
    await kill()
    ttl = next(numbers)
    await scene.redis.set(POLICY_KEY, json.dumps({"classes": {"default": {"ttl": ttl}}}))

    async def in_force() -> bool:
        await scene.redis.publish(POLICY_CHANNEL, b"")
        return await scene.a.metric("dub5_cache_ttl_seconds") == ttl

    await until(in_force)


async def a_purge_elsewhere_is_learnt(scene: Scene, kill: Kill) -> None:
    await kill()
    purge = {"tags": [f"tag-{next(numbers)}"]}
    response = await scene.b.client.post("/v1/cache/invalidations", json=purge, headers=KEY)
    assert response.status_code == 200, response.text
    known, learnt = scene.b.replica.application._purges, scene.a.replica.application._purges
    await until(lambda: known.head > 0 and learnt.head >= known.head)


async def hits_are_counted_in_redis(scene: Scene, kill: Kill) -> None:
    question = f"what is counted? {next(numbers)}"
    await ask(scene.a, question)
    before = await _hits(scene.redis)
    await kill()
    await ask(scene.a, question)

    async def more() -> bool:
        return await _hits(scene.redis) > before

    await until(more)


async def _hits(redis: Redis) -> int:
    return sum([int(await redis.hget(name, "hits") or 0) async for name in redis.scan_iter("dub5:*:last")])


async def a_call_elsewhere_is_followed(scene: Scene, kill: Kill) -> None:
    """Also one that is under way. A machine that is too busy for Redis makes each replica call for itself: again."""
    await kill()
    while await _calls_of_two_replicas(scene, kill) > 1:
        pass


async def _calls_of_two_replicas(scene: Scene, kill: Kill) -> int:
    scene.gate.clear()
    question, leases = f"wait {next(numbers)}", scene.a.replica.application._leases
    assert leases is not None
    leading = asyncio.create_task(ask(scene.b, question))
    await until(lambda: calls(scene, question) == 1)
    following = asyncio.create_task(ask(scene.a, question, request_id=question.replace(" ", "-")))
    await until(
        lambda: (
            any(_is_asked_by(tail.flight, question) for tail in leases._tails.values())
            or calls(scene, question) > 1
        )
    )
    await kill()
    scene.gate.set()
    assert await leading == await following == f"answer to {question}"
    return calls(scene, question)


def _is_asked_by(flight: Flight, question: str) -> bool:
    return flight.asker is not None and flight.asker.request_id == question.replace(" ", "-")


async def a_lease_is_renewed(scene: Scene, kill: Kill) -> None:
    leases = scene.a.replica.application._leases
    assert leases is not None
    scene.gate.clear()
    question = f"wait {next(numbers)}"
    leading = asyncio.create_task(ask(scene.a, question, request_id=question.replace(" ", "-")))
    await until(lambda: any(_is_asked_by(led.flight, question) for led in leases._led.values()))
    await kill()
    least: dict[str, int] = {}

    async def renewed() -> bool:
        for led in list(leases._led.values()):
            left = await scene.redis.pttl(led.claim.lease)
            if left > least.setdefault(led.claim.lease, left) > 0:
                return True
            least[led.claim.lease] = left
        return False

    await until(renewed)
    scene.gate.set()
    await leading


async def other_replicas_are_counted(scene: Scene, kill: Kill) -> None:
    await kill()
    before = scene.a.replica.application._limiter._replicas
    # So many that it is more, though those of the time before are forgotten meanwhile.
    others = {f"another {next(numbers)}": time.time() for _ in range(before + 1)}
    await scene.redis.zadd(REPLICAS, others)
    await until(lambda: scene.a.replica.application._limiter._replicas > before)


async def a_new_key_is_taken(scene: Scene, kill: Kill) -> None:
    await kill()
    key = f"key-{next(numbers)}"
    lines = [f"{hashlib.sha256(each.encode()).hexdigest()}: {ROLES}\n" for each in ("first", key)]
    await asyncio.to_thread(scene.keys_file.write_text, "".join(lines))

    async def taken() -> bool:
        headers = {"authorization": f"Bearer {key}"}
        return (await scene.a.client.get("/v1/models", headers=headers)).status_code == 200

    await until(taken)


async def a_new_model_is_listed(scene: Scene, kill: Kill) -> None:
    await kill()
    name = f"model-{next(numbers)}"
    scene.has.append({"id": name})

    async def listed() -> bool:
        return (await scene.a.client.get(f"/v1/models/all/{name}", headers=KEY)).status_code == 200

    await until(listed)


async def the_lag_is_measured(scene: Scene, kill: Kill) -> None:
    await kill()
    before = await scene.a.metric("dub5_event_loop_lag_seconds_count")
    await until(lambda: _grown(scene, before))


async def _grown(scene: Scene, before: float) -> bool:
    return await scene.a.metric("dub5_event_loop_lag_seconds_count") > before


async def half_a_request_is_ended(scene: Scene, kill: Kill) -> None:
    """On both listeners: the one whose task was killed is among them."""
    await kill()
    for listener, url in (
        (scene.a.replica._public, scene.a.url),
        (scene.a.replica._operations, scene.a.operations_url),
    ):
        where, waiting = urlsplit(url), listener.server_state.sending
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(b"GET /readyz HTTP/1.1\r\n")
        ours = writer.get_extra_info("sockname")

        def arrived(waiting: Any = waiting, ours: Any = ours) -> list[Any]:
            return [each for each in waiting if each.transport.get_extra_info("peername") == ours]

        await until(lambda: bool(arrived()))
        for connection in arrived():
            waiting[connection] -= 3600.0
            waiting.move_to_end(connection, last=False)
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 60)
        writer.close()


async def a_look_up_finds_what_was_stored_elsewhere(scene: Scene, kill: Kill) -> None:
    await kill()
    link, text = scene.a.replica.application._redis, f"question {next(numbers)}"
    assert link is not None
    pipelining = link._pipelining
    await until(lambda: pipelining is not None and pipelining.connection is not None)
    assert await ask(scene.b, text) == await ask(scene.a, text)
    assert calls(scene, text) == 1


DOES = {
    "policy-reader": a_policy_comes_into_force,
    "redis-subscriber": a_policy_comes_into_force,  # by messages only: they are not read again for an hour
    "redis-pipeline": a_look_up_finds_what_was_stored_elsewhere,
    "purge-reader": a_purge_elsewhere_is_learnt,
    "sample-writer": hits_are_counted_in_redis,
    "flight-reader": a_call_elsewhere_is_followed,
    "lease-renewer": a_lease_is_renewed,
    "replica-heartbeat": other_replicas_are_counted,
    "keys-watcher": a_new_key_is_taken,
    "model-lists": a_new_model_is_listed,
    "event-loop-lag": the_lag_is_measured,
    "connection-limits": half_a_request_is_ended,
}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done now and then is done all the time, and policies come by message or at the start only."""
    monkeypatch.setattr(policies, "READ_INTERVAL", 3600.0)
    monkeypatch.setattr(samples, "INTERVAL", 0.05)
    monkeypatch.setattr(limits, "HEARTBEAT", 0.05)
    monkeypatch.setattr(keys, "_RELOAD_INTERVAL", 0.05)
    monkeypatch.setattr(listing, "REFRESH", 0.05)


@contextlib.asynccontextmanager
async def replicas(url: str, provider: FakeOpenAI, tmp_path: Path) -> AsyncIterator[Scene]:
    gate, keys_file = asyncio.Event(), tmp_path / "keys.yaml"
    has: list[dict[str, str]] = []
    await asyncio.to_thread(keys_file.write_text, f"{hashlib.sha256(b'first').hexdigest()}: {ROLES}\n")

    async def reply(call: Call, wire: Wire) -> None:
        if call.path == "/v1/models":
            await whole({"data": has})(call, wire)
            return
        asked = call.body["messages"][-1]["content"]
        if asked.startswith("wait"):
            await gate.wait()
        await say(f"answer to {asked}")(call, wire)

    provider.reply = reply
    config = openai_provider(provider.base_url)
    config = {
        **config,
        "models": {**config["models"], "all/*": {"routes": ["fake/*"]}},
        "redis": {"url": url},
        "auth": {"keys": {"file": str(keys_file)}},
        "limits": {"default": {"requests_per_minute": 1_000_000}},
        "cache": {"classes": {"default": {"cacheable": "always", "ttl": "60s"}}},
    }
    async with plain(url) as redis, contextlib.AsyncExitStack() as stack:
        await redis.set(SAMPLES_READER, b"1")
        a, b = [await stack.enter_async_context(running(config)) for _ in range(2)]
        tasks = a.replica.application.background.tasks  # the listeners' are the last to start
        await until(lambda: len([task for task in tasks if task.name == "connection-limits"]) == 2)
        yield Scene(a, b, provider, redis, gate, keys_file, has)
        gate.set()


@contextlib.asynccontextmanager
async def callers(scene: Scene) -> AsyncIterator[None]:
    """Each replica is asked all the time, the same and something new in turn; every answer is whole."""
    over = False

    async def call(replica: Running) -> None:
        for number in itertools.count():
            if over:
                return
            text = "the same" if number % 2 else f"question {number}"
            assert await ask(replica, text) == f"answer to {text}"
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for replica in (scene.a, scene.b):
            group.create_task(call(replica))
        try:
            yield
        finally:
            over = True


async def test_each_task_is_killed_and_does_its_work_again(
    redis: str, fake: FakeOpenAI, tmp_path: Path
) -> None:
    killed = 0
    async with replicas(redis, fake, tmp_path) as scene:
        a = scene.a
        background = a.replica.application.background
        async with callers(scene):
            tasks = sorted(background.tasks, key=lambda task: task.name)
            assert {task.name for task in tasks} == DOES.keys()
            for task, way in itertools.product(tasks, WAYS):
                failures = await a.metric("dub5_background_failures_total", task=task.name)
                await DOES[task.name](scene, functools.partial(kill, task, way))
                assert await a.metric("dub5_background_failures_total", task=task.name) > failures
                killed += 1
        assert background.tasks == set(tasks)
        served = a.replica.application.metrics.http_requests._series
        # The second for a key that is not known yet, and for half a request.
        assert {outcome for _, _, outcome in served} <= {"ok", "client_error"}
        logs = scene.b.logs  # of both: it was begun last
        assert {line["task"] for line in logs if line["event"] == "background task failed"} == DOES.keys()
    assert killed == 2 * len(tasks)
    assert background.tasks == set()
    assert [line for line in logs if line["event"] in {"part did not stop", "request failed"}] == []


async def test_jobs_are_killed_all_the_time_and_every_answer_is_whole(
    redis: str, fake: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, usual, order = collections.Counter[str](), Jobs.start, itertools.count()

    async def raising(work: Coroutine[Any, Any, Any]) -> Any:
        work.close()
        raise Killed

    def start(jobs: Jobs, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        # Of Redis's few, or nothing else would begin.
        way = next(order) % (20 if jobs._name == "redis-batch" else 3)
        if way not in {1, 2}:
            return usual(jobs, work)
        killed[jobs._name] += 1
        task = usual(jobs, raising(work) if way == 1 else work)
        if way == 2:
            asyncio.get_running_loop().call_soon(task.cancel)
        return task

    async with replicas(redis, fake, tmp_path) as scene:
        monkeypatch.setattr(Jobs, "start", start)
        async with callers(scene):
            expected = {
                "redis-batch",
                "answer-comparison",
                "flight-publisher",
            }
            while not expected <= {name for name, count in killed.items() if count > 5}:
                question = f"wait {next(numbers)}"
                scene.gate.clear()
                asked = [asyncio.create_task(ask(each, question)) for each in (scene.a, scene.b)]
                await until(lambda question=question: calls(scene, question) > 0)  # type: ignore[misc]
                asyncio.get_running_loop().call_later(0.3, scene.gate.set)
                assert await asyncio.gather(*asked) == [f"answer to {question}"] * 2
        monkeypatch.setattr(Jobs, "start", usual)
        for replica in (scene.a, scene.b):
            await replica.becomes("dub5_redis_up", 1)
            served = replica.replica.application.metrics.http_requests._series
            assert {outcome for _, _, outcome in served} == {"ok"}


@pytest.mark.parametrize("way", WAYS)
async def test_a_probe_that_is_killed_while_redis_is_away_finds_it_again(
    fake: FakeOpenAI, tmp_path: Path, way: Callable[[asyncio.Task[None]], bool]
) -> None:
    async with RedisServer() as server, replicas(server.url, fake, tmp_path) as scene:
        background = scene.a.replica.application.background
        async with callers(scene):
            await server.stop()

            def probes() -> list[BackgroundTask]:
                return [task for task in background.tasks if task.name == "redis-probe"]

            await until(lambda: bool(probes()))
            await kill(probes()[0], way)
            await server.start()
            await scene.a.becomes("dub5_redis_up", 1)
        assert probes() == []
