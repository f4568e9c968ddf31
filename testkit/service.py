"""`dub5 serve` as a process of its own, on free ports, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec


class Service(msgspec.Struct, frozen=True):
    """Where it listens, and its process."""

    url: str
    operations_url: str
    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        return self.process.pid


@asynccontextmanager
async def serving(
    config: Path, *, linger: str = "0s", python: str = sys.executable, module: Sequence[str] = ("dub5",)
) -> AsyncIterator[Service]:
    """Start, wait until it says where it listens, and stop by SIGTERM at the end, if it has not left by then.

    `python` is the interpreter of the environment whose dub5 it is; `module` stands in for the command `dub5`.
    """
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
    assert process.stderr is not None
    try:
        said = (await process.stderr.readline()).decode()
        addresses = re.search(r"Chat on (\S+)/v1, operations on (\S+)", said)
        if addresses is None:
            raise RuntimeError(f"the service did not start: {said}{(await process.stderr.read()).decode()}")
        yield Service(addresses[1], addresses[2], process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()
