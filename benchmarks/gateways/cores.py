"""Who used which core: processes are pinned, and every round knows what else ran beside them.

The server under test has the first core for itself; everything that loads it runs on the second. All figures are
read from /proc, so this is for Linux.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from testkit.processes import cpu_seconds

SERVER, OTHERS = sorted(os.sched_getaffinity(0))[:2] if len(os.sched_getaffinity(0)) > 1 else (0, 0)
"""The core of the server under test, and the one of all that loads it."""

_TICK = os.sysconf("SC_CLK_TCK")


class Reading(msgspec.Struct, frozen=True):
    """Seconds of CPU until now: of both cores in all and at work, and of one tree of processes."""

    server_core: float
    server_core_all: float
    other_core: float
    other_core_all: float
    processes: float


class Use(msgspec.Struct, frozen=True):
    """Shares of a core in one round: `own` is the server's, `foreign` what others took of the server's core,
    `load` all that ran on the other. `seconds` of CPU that the server used."""

    own: float
    foreign: float
    load: float
    seconds: float


def read(pid: int) -> Reading:
    """For the process `pid` and its descendants."""
    server, others = _core(SERVER), _core(OTHERS)
    used = 0.0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            used += cpu_seconds(each)
    return Reading(*server, *others, used)


def between(before: Reading, after: Reading) -> Use:
    whole = after.server_core_all - before.server_core_all
    seconds = after.processes - before.processes
    busy = after.server_core - before.server_core
    load = (after.other_core - before.other_core) / (after.other_core_all - before.other_core_all)
    return Use(seconds / whole, max(0.0, busy - seconds) / whole, load, seconds)


def tree(pid: int) -> list[int]:
    """`pid` and all that it started, as far as they live."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            found += [int(child) for child in Path(f"/proc/{each}/task/{each}/children").read_text().split()]
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a tree of processes holds; what they share counts once (Pss)."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
            total += sum(
                int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")
            )
    return total


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """What is started inside stays on `core`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _core(number: int) -> tuple[float, float]:
    """Seconds at work, waiting for the host included, and seconds in all."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{number} "):
            ticks = [int(word) for word in line.split()[1:9]]
            return (sum(ticks) - ticks[3] - ticks[4]) / _TICK, sum(ticks) / _TICK
    raise RuntimeError(f"no core {number} in /proc/stat")
