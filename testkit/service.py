"""`dub5 serve` as a process of its own, on free ports, for as long as a block lasts; and what it says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

_GRACE = 10.0
"""Seconds that a process is given to end before it is killed."""


class Service(msgspec.Struct, frozen=True):
    """Where it listens, and its process."""

    url: str
    operations_url: str
    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        return self.process.pid


async def announced(process: asyncio.subprocess.Process) -> Service:
    """A process that begins to serve, once it says where on its standard error."""
    assert process.stderr is not None
    said = (await process.stderr.readline()).decode()
    addresses = re.search(r"Chat on (\S+)/v1, operations on (\S+)", said)
    if addresses is None:
        raise RuntimeError(f"the service did not start: {said}{(await process.stderr.read()).decode()}")
    return Service(addresses[1], addresses[2], process)


@asynccontextmanager
async def _written(settings: Mapping[str, Any]) -> AsyncIterator[Path]:
    """A configuration file, made and removed without a blocking call."""
    folder = await asyncio.to_thread(tempfile.TemporaryDirectory)
    try:
        config = Path(folder.name) / "dub5.yaml"
        await asyncio.to_thread(config.write_text, json.dumps(settings), encoding="utf-8")
        yield config
    finally:
        await asyncio.to_thread(folder.cleanup)


@asynccontextmanager
async def serving(
    settings: Mapping[str, Any],
    *,
    linger: str = "0s",
    python: str = sys.executable,
    module: Sequence[str] = ("dub5",),
) -> AsyncIterator[Service]:
    """Start, wait until it says where it listens, and stop by SIGTERM at the end, if it has not left by then.

    `settings` are written as JSON, which YAML includes. `python` is the interpreter of the environment whose dub5 it
    is; `module` stands in for the command `dub5`.
    """
    async with _written(settings) as config:
        process = await asyncio.create_subprocess_exec(
            *(python, "-m", *module, "serve", "--config", str(config)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={
                "DUB5_SERVER__PORT": "0",
                "DUB5_SERVER__OPERATIONS_PORT": "0",
                "DUB5_DRAIN__LINGER": linger,
                "PYTHONHASHSEED": "0",  # the layout of dicts, by chance, is worth some percent of CPU
            },
        )
        try:
            yield await announced(process)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await process.wait()


def configuration(provider_url: str, redis_url: str | None, **sections: Any) -> dict[str, Any]:
    """One model, `small`, at the stand-in; `sections` are added or replace."""
    settings: dict[str, Any] = {
        "providers": {"stand-in": {"kind": "openai", "base_url": provider_url, "max_connections": 4000}},
        "models": {"small": {"routes": ["stand-in/benchmark"]}},
        "cache": {"classes": {"default": {"ttl": "1h"}}},
    }
    if redis_url is not None:
        settings["redis"] = {"url": redis_url}
    return settings | sections


@asynccontextmanager
async def replicas(count: int, settings: dict[str, Any]) -> AsyncIterator[list[Service]]:
    """`count` processes of `dub5 serve` with one configuration."""
    async with AsyncExitStack() as stack:
        started: list[Service] = []
        entered = [stack.enter_async_context(_bounded(settings)) for _ in range(count)]
        for service in await asyncio.gather(*entered):
            started.append(service)
            stack.callback(signalled, service, signal.SIGCONT)
        yield started


@asynccontextmanager
async def _bounded(settings: Mapping[str, Any]) -> AsyncIterator[Service]:
    """A replica that is killed where it does not leave in time."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(serving(settings))
        loop = asyncio.get_running_loop()
        try:
            yield service
        finally:
            signalled(service, signal.SIGCONT)
            late = loop.call_later(_GRACE, signalled, service, signal.SIGKILL)
            stack.callback(late.cancel)


def signalled(service: Service, number: signal.Signals) -> None:
    """Send a signal to a replica that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(service.pid, number)


async def scraped(service: Service) -> dict[str, float]:
    """What /metrics says: `name{label="value"}` -> value."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{service.operations_url}/metrics") as response,
    ):
        lines = (await response.text()).splitlines()
    series = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in series}
