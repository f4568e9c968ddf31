"""What a process is given: file descriptors, standard streams, files that do not answer."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from dub5.server.accepting import Acceptor
from testkit.openai_server import FakeOpenAI
from testkit.service import announced
from tests.harness import openai_provider, running

HANGING = """
import asyncio, os, sys, time
from dub5.cli import main as cli
from dub5.server import replica as server
from dub5.admission import keys

def open_or_hang(path, flags, usual=keys._without_waiting):
    if os.path.exists(path + ".hangs"):
        time.sleep(1e6)
    return usual(path, flags)

async def serve_beside_a_thread_that_hangs(*given, usual=server.serve, **options):
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 1e6)
    await usual(*given, **options)

keys._without_waiting, keys._READ_TIMEOUT = open_or_hang, 0.1
server.serve = serve_beside_a_thread_that_hangs
sys.exit(cli.main(["serve", "--config", sys.argv[1]]))
"""


class Refusing:
    """A listening socket that first raises `errors`; `at` says when it was asked."""

    def __init__(self, bound: socket.socket, errors: list[OSError]) -> None:
        self._bound = bound
        self._errors = errors
        self.at: list[float] = []

    def fileno(self) -> int:
        return self._bound.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        self.at.append(asyncio.get_running_loop().time())
        if self._errors:
            raise self._errors.pop(0)
        return self._bound.accept()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_connection_that_the_system_refuses_waits_and_nothing_spins(
    fake: FakeOpenAI, code: int
) -> None:
    async with running(openai_provider(fake.base_url)) as server:
        await server.client.get("/v1/models", headers={"connection": "close"})
        [acceptor] = server.replica._public.servers
        assert isinstance(acceptor, Acceptor)
        errors: list[OSError] = [OSError(code, "no") for _ in range(3)]
        refusing = Refusing(acceptor._bound, [*errors, ConnectionAbortedError()])
        acceptor._bound = refusing  # type: ignore[assignment]
        assert (await server.client.get("/v1/models")).status_code == 200
        pauses = [later - at for at, later in zip(refusing.at, refusing.at[1:], strict=False)]
        assert min(pauses[:3]) > 0.09
        assert [line["error"] for line in server.logs if line["event"] == "connection not accepted"] == ["no"]


async def test_a_keys_file_that_hangs_is_told_later_ones_hold_and_the_process_ends(tmp_path: Path) -> None:
    file, hangs, config = (tmp_path / name for name in ("keys", "keys.hangs", "dub5.json"))

    async def write(key: str) -> None:
        digest = hashlib.sha256(key.encode()).hexdigest()
        await asyncio.to_thread(file.write_text, f"{digest}: {{tenant: acme}} # {key}")

    await write("old")
    written = {
        "auth": {"keys": {"file": str(file)}},
        "server": {"port": 0, "operations_port": 0},
        "drain": {"linger": "0s"},
    }
    await asyncio.to_thread(config.write_text, json.dumps(written))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HANGING, str(config)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        service = await announced(process)
        async with httpx.AsyncClient(timeout=60) as client, asyncio.timeout(120):

            async def status(key: str) -> int:
                headers = {"authorization": f"Bearer {key}"}
                return (await client.get(f"{service.url}/v1/models", headers=headers)).status_code

            async def not_reloaded() -> bool:
                reported = (await client.get(f"{service.operations_url}/metrics")).text
                return "\ndub5_keys_last_reload_successful 0.0\n" in reported

            assert await status("old") == 200
            await asyncio.to_thread(hangs.touch)
            await write("lost")
            while not await not_reloaded():  # noqa: ASYNC110  # a file has no event
                await asyncio.sleep(0.1)
            assert await status("old") == 200
            await asyncio.to_thread(hangs.unlink)
            await write("new")
            while await status("new") != 200:  # noqa: ASYNC110  # the same
                await asyncio.sleep(0.1)
            assert await status("old") == 401
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):  # the threads would sleep for days
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
