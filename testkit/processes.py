"""What the system says of processes and ports."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

_PORTS = range(16000, 22000)
"""Below the ephemeral range: no connection of anybody takes one of them meanwhile."""


def free_port() -> int:
    """A port that nobody listens on, whose number + 10000 is free too: a Redis cluster's bus is there."""
    for port in random.SystemRandom().sample(
        _PORTS, 100
    ):  # hypothesis seeds the usual one, for all workers alike
        bus = ("127.0.0.1", port + 10000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)), socket.create_server(bus):
            return port
    raise RuntimeError("no free port")


@asynccontextmanager
async def running(module: str, *arguments: str, **pipes: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A module of ours as a process, whose output is read; killed where it has not ended with the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments), stdout=asyncio.subprocess.PIPE, **pipes
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def first_line(process: asyncio.subprocess.Process) -> str:
    """What a process says first, such as where it listens."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, by the kernel's clock of it. OSError where it is gone."""
    return time.clock_gettime(
        (~pid << 3) | 2
    )  # what clock_getcpuclockid(3) gives, which Python has for threads only


def open_files(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
