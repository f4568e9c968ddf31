"""Whole replicas for tests: the real application on real sockets, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import httpx
import structlog
from msgspec.structs import replace
from openai import AsyncOpenAI
from structlog.typing import EventDict

from dub5.server.replica import Replica
from dub5.settings.loader import convert
from dub5.settings.model import Duration
from testkit.http_server import FakeServer

T = TypeVar("T")

PATIENT = Duration(5)
"""Where a test is not about waiting, a busy machine must not look like a lost Redis. Longer than any setting may be."""

LOOPBACK = {"port": 0, "operations_port": 0}


class Running:
    """A replica that serves; `client` speaks HTTP to its public listener, `openai()` is the official client.

    `logs` are the events that were logged while it ran.
    """

    def __init__(self, replica: Replica, client: httpx.AsyncClient, logs: list[EventDict]) -> None:
        self.logs = logs
        self.replica = replica
        self.client = client
        self.url = replica.url
        self.operations_url = replica.operations_url

    async def openai(self, key: str = "none") -> AsyncOpenAI:
        """The official client, made in a thread: it reads the CA bundle, which would block the loop."""
        return await asyncio.to_thread(AsyncOpenAI, base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    async def chat(
        self, text: str = "hi", *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        body = {"model": "small", "messages": [{"role": "user", "content": text}], **fields}
        return await self.client.post("/v1/chat/completions", json=body, headers=headers)

    async def metric(self, name: str, **labels: str) -> float:
        """One sample of /metrics, summed over the labels that are left out; 0 where there is none."""
        found = self.replica.application.metrics.registry.collect()
        return sum(
            sample.value
            for family in found
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def becomes(self, name: str, value: float, **labels: str) -> None:
        """Wait until that sample has this value."""
        async with asyncio.timeout(60):
            while await self.metric(name, **labels) != value:  # noqa: ASYNC110  # a metric has no event
                await asyncio.sleep(0.005)

    async def followed(self, count: int = 1) -> None:
        """Wait until so many follow its flights: requests, and other replicas."""
        async with asyncio.timeout(60):
            while self.replica.application._flights.followers() < count:  # noqa: ASYNC110  # nor has a count
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def running(
    config: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """Serve `config` (as in the YAML file) on free ports until the block ends."""
    written = {**(config or {})}
    written["server"] = {**LOOPBACK, **written.get("server", {})}
    with structlog.testing.capture_logs() as logs, no_slow_callbacks():
        async with _serving(written, environment or {}, logs) as server:
            yield server


def size(usual: int) -> int:
    """So many, or what SIZE says: `SIZE=10000 make test TESTS=…` is the size of a report."""
    return int(os.environ.get("SIZE", usual))


async def later(seconds: float) -> None:
    """Now it is so much later for the event loop: what was to time out meanwhile does so, however fast the machine is.

    `time.monotonic()` stays as it is.
    """
    loop = asyncio.get_running_loop()
    clock = loop.time
    loop.time = lambda: clock() + seconds  # type: ignore[method-assign]
    await asyncio.sleep(0)


async def out_of_time(asking: Coroutine[Any, Any, T], provider: FakeServer) -> T:
    """What comes of it when its time is up, a minute after the provider has the call: on a slow machine a short time
    is over before there is one."""
    task = asyncio.create_task(asking)
    await provider.wait_called()
    await later(60)
    return await task


_watching = False


@contextlib.contextmanager
def no_slow_callbacks() -> Iterator[None]:
    """A callback that holds the event loop for a second, or that another thread puts there, is an error.

    A second of the CPU, since the machine may be busy with something else; what blocks is caught by blockbuster.
    asyncio's debug mode goes by the clock on the wall, and under it everything takes twice as long. Of several replicas
    in one test the first one watches for all.
    """
    global _watching  # noqa: PLW0603  # one event loop at a time
    if _watching:
        yield
        return
    loop, seen = asyncio.get_running_loop(), []
    run, call_soon = asyncio.Handle._run, loop.call_soon  # type: ignore[attr-defined]
    marked, spent = time.perf_counter(), time.thread_time()

    def timed(handle: asyncio.Handle) -> None:
        nonlocal marked, spent
        began = time.perf_counter()
        if began > marked + 0.05:  # the CPU's clock costs a system call: it is read now and then
            marked, spent = began, time.thread_time()
        run(handle)
        if time.perf_counter() - began >= 1 and time.thread_time() - spent >= 1:
            seen.append(repr(handle))

    def checked(callback: Callable[..., object], *args: Any, **context: Any) -> asyncio.Handle:
        loop._check_thread()  # type: ignore[attr-defined]
        return call_soon(callback, *args, **context)

    asyncio.Handle._run, loop.call_soon = timed, checked  # type: ignore[attr-defined, assignment, method-assign]
    _watching = True
    try:
        yield
    finally:
        asyncio.Handle._run, loop.call_soon = run, call_soon  # type: ignore[attr-defined, method-assign]
        _watching = False
    assert seen == [], seen  # no test's module, so pytest does not show it


@contextlib.asynccontextmanager
async def _serving(
    written: dict[str, Any], environment: Mapping[str, str], logs: list[EventDict]
) -> AsyncIterator[Running]:
    settings = convert(written)
    if settings.redis is not None and "timeout" not in written["redis"]:
        settings = replace(settings, redis=replace(settings.redis, timeout=PATIENT))
    replica = await asyncio.to_thread(Replica, settings, environment)
    serving = asyncio.create_task(replica.run())
    try:
        # Without TLS, and so without reading certificates for each of thousands of clients.
        async with httpx.AsyncClient(base_url=replica.url, timeout=60, verify=False) as client:
            yield Running(replica, client, logs)
    finally:
        replica.leave(linger=False)
        await serving


def openai_provider(base_url: str, **settings: Any) -> dict[str, Any]:
    """A configuration with one OpenAI-compatible provider behind the model `small`."""
    return {
        "providers": {"fake": {"kind": "openai", "base_url": base_url, **settings}},
        "models": {"small": {"routes": ["fake/gpt-small"], "price": {"input": 1.0, "output": 2.0}}},
    }
