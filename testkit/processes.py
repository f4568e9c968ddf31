"""What the system says of processes and ports."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress
from pathlib import Path

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


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
