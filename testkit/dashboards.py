"""A short life of the service in which everything happens that a dashboard shows, watched by a real Prometheus.

Two replicas of `dub5 serve`, a Redis, two providers of which one comes to fail, the operator's planner and metrics,
callers of many kinds, and k6 with remote write. Each act brings what some panels need: failures, fallbacks, an open
breaker, a Redis that hangs, more questions at once than there is room for, clients that misbehave.

The operator reconciles its one policy without a Kubernetes API, which only hands it the policy, and with a clock on
which a reconciliation's minute takes seconds; it has read a made-up hour of samples, since it takes that long to learn.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import string
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import yaml
from prometheus_client import start_http_server
from redis.asyncio import Redis
from redis.driver_info import DriverInfo

from dub5.contract import REPLICA_CHANNEL, SAMPLES, Access, Canary, SampleBatch, Verdict
from dub5_operator.main import Operator
from testkit.monitoring import Prometheus
from testkit.programs import which
from testkit.redis_server import RedisServer
from testkit.service import Service, replicas
from testkit.stand_in import Provider, provider

K6_SCRIPT = Path(__file__).parents[1] / "deploy/k6/scenarios/cache.js"
NAMESPACE, JOB = "chat", "dub5"
WINDOW = "10s"
"""What `$__rate_interval` stands for, at a scrape a second."""

CLASS = "banter"
_ROOM = 8
"""Provider calls at once in each replica, and requests that wait for one."""

_CROWD = 4 * _ROOM

_TIMEOUT = 60.0
"""Seconds that anything may take: the machine may be busy with something else."""

_MANY = httpx.Limits(max_connections=400)


class Series(NamedTuple):
    """One line of an answer: its labels, and (Unix time in seconds, value)."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Recorded:
    """What Prometheus has seen between two Unix times, with the dashboard's variables."""

    def __init__(
        self,
        url: str,
        began: float,
        ended: float,
        *,
        namespace: str = NAMESPACE,
        job: str = JOB,
        window: str = WINDOW,
    ) -> None:
        self.began, self.ended = began, ended
        self._namespace, self._job, self._window = namespace, job, window
        self._client = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT)

    async def aclose(self) -> None:
        await self._client.aclose()

    def query(self, expression: str) -> str:
        """With the variables of the dashboard filled in."""
        for name, value in {
            "$namespace": self._namespace,
            "$job": self._job,
            "$__rate_interval": self._window,
            "$__range": f"{self.ended - self.began:.0f}s",
        }.items():
            expression = expression.replace(name, value)
        return expression

    async def ask(self, expression: str, step: float = 1.0) -> list[Series]:
        """A panel's query, over all of that time; without moments that have no value."""
        asked: dict[str, str | float] = {
            "query": self.query(expression),
            "start": self.began,
            "end": self.ended,
            "step": step,
        }
        answer = await self._client.get("/api/v1/query_range", params=asked)
        if answer.is_error:
            raise ValueError(answer.json()["error"])
        return [
            Series(each["metric"], [(at, float(value)) for at, value in each["values"] if value != "NaN"])
            for each in answer.json()["data"]["result"]
        ]


class Cast(NamedTuple):
    """Who plays; `clients` are of the services."""

    services: list[Service]
    clients: list[httpx.AsyncClient]
    redis: RedisServer
    steady: Provider
    failing: Provider
    operator: _Operator
    prometheus: str


@contextlib.asynccontextmanager
async def played(seconds: float) -> AsyncIterator[Recorded]:
    """Play it, then let it be looked at."""
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(RedisServer())
        steady, failing = [await stack.enter_async_context(provider()) for _ in range(2)]
        services = await stack.enter_async_context(replicas(2, _settings(redis, steady, failing)))
        operator = await stack.enter_async_context(_operator(redis))
        pods = {services[0].operations_url: "dub5-a", services[1].operations_url: "dub5-b"}
        targets = {
            JOB: {url: {"namespace": NAMESPACE, "pod": pod} for url, pod in pods.items()},
            "operator": {operator.url: {"namespace": NAMESPACE, "pod": "operator"}},
        }
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prometheus = (await stack.enter_async_context(Prometheus(folder, targets))).url
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=each.url, timeout=_TIMEOUT, limits=_MANY)
            )
            for each in services
        ]
        began = time.time()
        await _play(seconds, Cast(services, clients, redis, steady, failing, operator, prometheus))
        await _scraped_after(prometheus, time.time())
        recorded = Recorded(prometheus, began, time.time())
        stack.push_async_callback(recorded.aclose)
        yield recorded


def _settings(redis: RedisServer, steady: Provider, failing: Provider) -> dict[str, Any]:
    text = string.Template(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    filled = text.substitute(steady=steady.base_url, failing=failing.base_url, redis=redis.url)
    settings: dict[str, Any] = yaml.safe_load(filled)
    return settings


async def _play(seconds: float, cast: Cast) -> None:
    """Acts of the same length, each at least as long as Prometheus takes to see what it is for.

    Callers, the operator and k6 are at work all the time.
    """
    act = seconds / 4
    await cast.failing.set(changes_every=3.0)
    async with asyncio.TaskGroup() as group:
        always = [
            group.create_task(each)
            for each in (_callers(cast), _reconciliations(cast, max(1.0, act / 12)), _foreign_messages(cast))
        ]
        load = group.create_task(_k6(cast, max(8.0, seconds)))
        await _seen(cast, 'rate(dub5_cache_revalidations_total{verdict="changed"}[10s]) > 0', act)
        await _seen(cast, "rate(dub5_redis_undecodable_total[10s]) > 0")
        await cast.failing.set(fault="refuse", status=500, share=0.8)
        await _seen(cast, "dub5_provider_breaker_state == 2", act)
        for failed in (
            'http_requests_total{outcome="provider_error"}',
            'provider_requests_total{outcome!~"ok|cancelled"}',
            "provider_retries_total",
        ):
            await _seen(cast, f"rate(dub5_{failed}[10s]) > 0")
        await cast.failing.set(fault="")
        hangs = group.create_task(_hangs(cast))
        for noticed in ("operator_errors_total", "cache_errors_total", "limits_unshared_total"):
            await _seen(cast, f"rate(dub5_{noticed}[10s]) > 0")
        hangs.cancel()
        await _seen(cast, "min(dub5_redis_up) == 1", act)
        await cast.steady.set(first_token=0.5)
        crowds = group.create_task(_crowds(cast))
        await _seen(cast, "rate(dub5_shed_total[10s]) > 0")
        await _seen(cast, "count_over_time((dub5_queued_requests > 0)[10s:1s]) > 2", act)
        await load
        for each in (*always, crowds):
            each.cancel()


async def _seen(cast: Cast, query: str, at_least: float = 0.0) -> None:
    """Until Prometheus has an answer to it."""
    async with httpx.AsyncClient(base_url=cast.prometheus) as client, asyncio.timeout(at_least + _TIMEOUT):
        await asyncio.sleep(at_least)
        while not (  # noqa: ASYNC110  # another process
            await client.get("/api/v1/query", params={"query": query})
        ).json()["data"]["result"]:
            await asyncio.sleep(0.2)


async def _callers(cast: Cast) -> None:
    """A question every few moments, asked again and again by a law of Zipf; every now and then many ask the same."""
    chance = random.Random(1)  # no secret
    async with asyncio.TaskGroup() as group:
        for number in itertools.count():
            client = cast.clients[number % len(cast.clients)]
            model = chance.choice(("tutor", "pirate", "pirate", "small", "brittle"))
            question = f"question {int(chance.paretovariate(0.9)) % 40}"
            callers = 6 if number % 20 == 0 else 1
            for _ in range(callers):
                group.create_task(_ask(client, model, question, stream=chance.random() < 0.7))
            if number % 50 == 0:
                group.create_task(_misbehave(cast))
            await asyncio.sleep(chance.expovariate(20))


async def _ask(client: httpx.AsyncClient, model: str, question: str, *, stream: bool) -> None:
    """Refusals and failures are what is wanted here."""
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": question}]}
    with contextlib.suppress(httpx.HTTPError):
        await client.post("/v1/chat/completions", json=body)


async def _misbehave(cast: Cast) -> None:
    """What the listener closes a connection for."""
    url = httpx.URL(cast.services[0].url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    with contextlib.suppress(ConnectionError):
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()


async def _foreign_messages(cast: Cast) -> None:
    """Again and again, to each replica, one that cannot be decoded."""
    while not _cancelled():
        for channel in await cast.redis.client.pubsub_channels(REPLICA_CHANNEL % "*"):
            await cast.redis.client.publish(channel, b"\xc1")
        await asyncio.sleep(1)


async def _hangs(cast: Cast) -> None:
    """A Redis that again and again does not answer for longer than anybody waits for it."""
    try:
        while True:
            cast.redis.pause()
            await asyncio.sleep(2)
            cast.redis.resume()
            await asyncio.sleep(2)
    finally:
        cast.redis.resume()


async def _crowds(cast: Cast) -> None:
    """Again and again many more new questions at once than there is room for."""
    for number in itertools.count():
        crowd = [
            _ask(cast.clients[each % 2], "large", f"new {number}.{each}", stream=True)
            for each in range(2 * _CROWD)
        ]
        await asyncio.gather(*crowd)


async def _k6(cast: Cast, seconds: float) -> None:
    settings = {
        "DUB5_URL": cast.services[0].url,
        "PERSONALITIES": "tutor,pirate",
        "RATE": "15",
        "DURATION": f"{seconds:.0f}s",
        "MAX_VUS": "30",
        "K6_PROMETHEUS_RW_SERVER_URL": f"{cast.prometheus}/api/v1/write",
        "K6_PROMETHEUS_RW_TREND_STATS": "p(50),p(95),p(99)",  # as the chart has it
        "K6_PROMETHEUS_RW_PUSH_INTERVAL": "1s",
    }
    k6 = which("k6")
    if k6 is None:
        raise RuntimeError("There is no k6: tools/setup.sh k6 builds it.")
    process = await asyncio.create_subprocess_exec(
        *(k6, "run", "--quiet", "--no-usage-report", "--address", ""),
        *("--out", "experimental-prometheus-rw", str(K6_SCRIPT)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **settings},
    )
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode not in {0, 99}:  # 99: a gate was missed, as it may be
        raise RuntimeError(f"k6 could not run: {said.decode()}")


class _Operator:
    """Its planner and metrics, at `url`."""

    def __init__(self, redis: Redis) -> None:
        self._now = time.time()
        self._status: dict[str, object] = {}
        self._redis = redis
        self._inner = Operator(redis, lambda: self._now, gather=0.0)
        self.registry = self._inner.metrics.registry
        self.url = ""

    async def reconcile(self) -> None:
        report = await self._inner.policies.reconcile(
            name=CLASS,
            uid="1",
            spec={"cacheClass": CLASS, "ttl": {"initial": "5s"}},
            status=self._status,
            claims=[("2026-01-01", CLASS, "1")],
            classes={CLASS},
        )
        assert report is not None  # there is no other operator
        self._status |= report.status
        self._now += 60

    async def remember(self) -> None:
        """An hour in which forty questions were asked each minute, and one new answer in twenty was another one.

        Canaries found the same."""
        for minute in range(60):
            at = self._now + (minute - 60) * 60
            accesses = [
                Access(key, CLASS, at + second, bool(minute % 5 or second), 1000, 0.001, 1.0)
                for key in range(20)
                for second in (0, 30)
            ]
            verdicts = [
                Verdict(key, CLASS, at - 300 - key, at, (minute * 7 + key * 13) % 20 == 0, 9, "refetch")
                for key in range(20)
            ]
            canaries = [
                Canary(key, CLASS, at - 60, at, 10.0, changed=(minute + key) % 20 == 0, reworded=False)
                for key in range(2)
            ]
            batch = SampleBatch("a", at, accesses, verdicts, looked_up={CLASS: 40}, canaries=canaries)
            await self._redis.xadd(SAMPLES, {b"b": msgspec.msgpack.encode(batch)})


def _cancelled() -> bool:
    """Also where redis-py has lost that: on Python 3.11 its wait_for can."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _reconciliations(cast: Cast, pause: float) -> None:
    while not _cancelled():
        await cast.operator.reconcile()
        await asyncio.sleep(pause)


@contextlib.asynccontextmanager
async def _operator(redis: RedisServer) -> AsyncIterator[_Operator]:
    url = f"redis://127.0.0.1:{redis.port}"
    client = Redis.from_url(url, socket_timeout=0.5, driver_info=DriverInfo(lib_version="1"))
    operator = _Operator(client)
    server, thread = await asyncio.to_thread(
        start_http_server, 0, addr="127.0.0.1", registry=operator.registry
    )
    operator.url = f"http://127.0.0.1:{server.server_port}"
    try:
        await operator.remember()
        yield operator
    finally:
        await asyncio.to_thread(server.shutdown)
        await asyncio.to_thread(thread.join)
        server.server_close()
        await client.aclose()


async def _scraped_after(prometheus: str, moment: float) -> None:
    """Until everything has been scraped a few times after that."""
    async with httpx.AsyncClient(base_url=prometheus) as client, asyncio.timeout(_TIMEOUT):
        last = 0.0
        while last < moment + 3:
            answer = await client.get("/api/v1/query", params={"query": "min(timestamp(up))"})
            last = float(answer.json()["data"]["result"][0]["value"][1])
            await asyncio.sleep(0.2)
