"""SIGTERM ends the process with 0 and without a traceback, in whatever state it finds it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from testkit.processes import free_port
from testkit.redis_server import RedisServer
from testkit.service import Service, announced
from tests.integration.cache.support import until
from tests.integration.test_process import ENVIRONMENT, SLOW, dub5, read_stream, serving

ENDLESS = {**SLOW, "DUB5_PROVIDERS__DEMO__TOKENS_PER_SECOND": "0.01"}
NEVER = "3600s"

BROKEN_READER = """
import sys
from dub5.cache.policies import Policies
from dub5.cli.main import main

async def read(self):
    raise ValueError("planted by the test")

Policies.read = read
sys.exit(main())
"""


async def ended(process: asyncio.subprocess.Process) -> str:
    """What it said until it ended, with 0."""
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    said = (out + err).decode()
    assert process.returncode == 0, said
    return said


async def left(server: Service, *, signals: int = 1) -> None:
    for _ in range(signals):
        server.process.send_signal(signal.SIGTERM)
    said = await ended(server.process)
    assert "Traceback" not in said
    assert '"event":"stopped"' in said


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """A Redis that takes connections, and says nothing."""
    over = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        over.set()


def listens_to_sigterm(process: asyncio.subprocess.Process, command: str) -> bool:
    """Whether it has a handler, as the kernel knows. Until it runs `command` its handlers are its parent's."""
    if command.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0"):
        return False
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("command", ["serve", "operator"])
async def test_before_it_has_an_event_loop(command: str) -> None:
    # Coverage, too, has a handler in each process that it measures, before ours is there.
    process = await dub5(command, environment={**ENVIRONMENT, "COVERAGE_PROCESS_CONFIG": ""})
    await until(lambda: asyncio.to_thread(listens_to_sigterm, process, command))
    process.send_signal(signal.SIGTERM)
    assert "Traceback" not in await ended(process)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("command", ["serve", "operator"])
async def test_while_the_program_is_loaded(command: str, tmp_path: Path) -> None:
    endless = "import time\nprint('loading', flush=True)\ntime.sleep(3600)\n"
    await asyncio.to_thread((tmp_path / "structlog.py").write_text, endless)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    process = await dub5(command, environment=environment)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"loading\n"
    process.send_signal(signal.SIGTERM)
    assert "Traceback" not in await ended(process)


async def test_while_it_starts_and_waits_for_redis() -> None:
    async with silent() as url, serving(environment={"DUB5_REDIS__URL": url}) as server:
        await left(server)


@pytest.mark.parametrize("signals", [1, 2, 10])
async def test_while_redis_is_away(signals: int) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with (
        serving(environment={"DUB5_REDIS__URL": url}) as server,
        httpx.AsyncClient(base_url=server.operations_url, timeout=60) as operations,
    ):
        await until(lambda: answers(operations, "/readyz"))
        await left(server, signals=signals)


async def test_while_redis_does_not_answer_any_more() -> None:
    async with (
        RedisServer() as redis,
        serving(environment={"DUB5_REDIS__URL": redis.url}) as server,
        httpx.AsyncClient(base_url=server.operations_url, timeout=60) as operations,
    ):
        await until(lambda: answers(operations, "/readyz"))
        redis.pause()
        try:
            await left(server)
        finally:
            redis.resume()


@pytest.mark.parametrize("linger", ["0s", NEVER])
async def test_again_while_it_drains_with_endless_streams(linger: str) -> None:
    async with (
        RedisServer() as redis,
        serving(
            environment={**ENDLESS, "DUB5_REDIS__URL": redis.url, "DUB5_DRAIN__LINGER": linger}
        ) as server,
        httpx.AsyncClient(base_url=server.url, timeout=120) as client,
        httpx.AsyncClient(base_url=server.operations_url, timeout=60) as operations,
    ):
        begun = [asyncio.Event() for _ in range(5)]
        streams = [
            asyncio.create_task(read_stream(client, event, f"story {number}"))
            for number, event in enumerate(begun)
        ]
        await asyncio.gather(*(event.wait() for event in begun))
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: answers(operations, "/readyz", 503))
        await left(server)
        await asyncio.gather(*streams, return_exceptions=True)


async def test_while_a_background_task_waits_for_its_next_start(redis: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BROKEN_READER, "serve"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT, "DUB5_REDIS__URL": redis},
    )
    server = await announced(process)
    async with httpx.AsyncClient(base_url=server.operations_url, timeout=60) as operations:
        failing = 'dub5_background_failing{task="policy-reader"} 1.0'
        await until(lambda: shows(operations, failing))
        process.send_signal(signal.SIGTERM)
    said = await ended(process)
    assert said.count("Traceback") == said.count('"event":"background task failed"') == 1
    assert '"event":"stopped"' in said


async def answers(client: httpx.AsyncClient, path: str, status: int = 200) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return (await client.get(path)).status_code == status
    return False


async def shows(client: httpx.AsyncClient, line: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return line in (await client.get("/metrics")).text.splitlines()
    return False
