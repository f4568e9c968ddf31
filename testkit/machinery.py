"""Real processes for the rows: Redis, the provider, and replicas of the service.

Each is started here, on free ports of the loopback, and stopped by its own process id when its block ends,
whatever a row did to it in between (killed, stopped, replaced).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from redis.asyncio import Redis
from redis.exceptions import RedisError

from testkit.service import Service, serving

_GRACE = 10.0
"""Seconds that a process is given to end before it is killed."""


def free_port() -> int:
    """A port below the ephemeral range, whose cluster bus port (+ 10000) is free too."""
    for port in random.sample(range(16000, 22000), 100):
        bus = ("127.0.0.1", port + 10000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)), socket.create_server(bus):
            return port
    raise RuntimeError("no free port")


class RedisServer:
    """One `redis-server` in its own folder; `start` again after `kill` keeps port and folder."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self.port = free_port()
        self.folder = folder
        self.admin: Redis = Redis(port=self.port)
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *("redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "no", *self._options),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(_GRACE):
            while not await self._answers():  # noqa: ASYNC110  # another process: no event to await
                await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            return bool(await self.admin.ping())
        except RedisError:
            return False

    async def command(self, *words: str) -> Any:
        """Redis' answer to a command as it is typed."""
        return await self.admin.execute_command(*words)  # type: ignore[no-untyped-call]

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        self._signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)


@asynccontextmanager
async def redis_server(*options: str) -> AsyncIterator[RedisServer]:
    """Persistence is off unless `options` say otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder), options)
        await server.start()
        try:
            yield server
        finally:
            await server.kill()
            await server.admin.aclose()


@asynccontextmanager
async def redis_cluster(masters: int = 3) -> AsyncIterator[list[RedisServer]]:
    """As many replicas as masters; a master counts as lost after a second."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(redis_server(*options)) for _ in range(2 * masters)]
        creating = await asyncio.create_subprocess_exec(
            *("redis-cli", "--cluster", "create", *(f"127.0.0.1:{node.port}" for node in nodes)),
            *("--cluster-replicas", "1", "--cluster-yes"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        if await creating.wait():
            raise RuntimeError("redis-cli could not make a cluster")
        async with asyncio.timeout(_GRACE):
            while not all([await _joined(node, masters) for node in nodes]):  # noqa: ASYNC110  # the same
                await asyncio.sleep(0.1)
        yield nodes


async def _joined(node: RedisServer, masters: int) -> bool:
    """Whether it sees a whole cluster, every master with its replica."""
    state: bytes = await node.command("CLUSTER", "INFO")
    return (
        b"cluster_state:ok" in state and [len(nodes) for _, _, *nodes in await slots(node)] == [2] * masters
    )


async def slots(node: RedisServer) -> list[list[Any]]:
    """First slot, last slot, and then host, port and id of their master and of each of its replicas."""
    ranges: list[list[Any]] = await node.command("CLUSTER", "SLOTS")
    return ranges


class Provider:
    """The stand-in's process; `base_url` is what a configuration names."""

    def __init__(self, base_url: str, session: aiohttp.ClientSession, pid: int) -> None:
        self.base_url = base_url
        self.pid = pid
        self._root = base_url.removesuffix("/v1")
        self._session = session

    async def set(self, **fields: Any) -> None:
        """Change any of the fields of `testkit.provider.Settings`."""
        async with self._session.post(f"{self._root}/settings", json=fields) as response:
            response.raise_for_status()

    async def calls(self, question: str | None = None) -> int:
        """All calls so far, or those for one question."""
        counted = await self.counted()
        return int(counted["total"] if question is None else counted["questions"].get(question, 0))

    async def counted(self) -> dict[str, Any]:
        """`total`, `questions`, `live` and `connections`, those of this object left out."""
        async with self._session.get(f"{self._root}/calls") as response:
            counted: dict[str, Any] = await response.json()
        return counted


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """The process is `Provider.pid`; a row may kill it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "testkit.provider", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        base_url = (await process.stdout.readline()).decode().strip()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            yield Provider(base_url, session, process.pid)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
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
    """`count` processes of `dub5 serve` with one configuration (YAML is a superset of JSON)."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "dub5.yaml"
        config.write_text(json.dumps(settings), encoding="utf-8")
        async with AsyncExitStack() as stack:
            started: list[Service] = []
            entered = [stack.enter_async_context(_bounded(config)) for _ in range(count)]
            for service in await asyncio.gather(*entered):
                started.append(service)
                stack.callback(signalled, service, signal.SIGCONT)
            yield started


@asynccontextmanager
async def _bounded(config: Path) -> AsyncIterator[Service]:
    """A replica that is killed where it does not leave in time."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(serving(config))
        loop = asyncio.get_running_loop()
        try:
            yield service
        finally:
            signalled(service, signal.SIGCONT)
            late = loop.call_later(_GRACE, signalled, service, signal.SIGKILL)
            stack.callback(late.cancel)


def killed(provider: Provider) -> None:
    """SIGKILL to the stand-in: its port is closed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(provider.pid, signal.SIGKILL)


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


def resident(service: Service) -> int:
    """Bytes of memory that the process holds."""
    pages = int(Path(f"/proc/{service.pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(service: Service) -> int:
    """Open file descriptors of the process."""
    return len(list(Path(f"/proc/{service.pid}/fd").iterdir()))
