"""How much memory this process may use: what its control group says, of version 1 or 2."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60
"""Bytes; where there is no limit version 1 names a number above this one, and version 2 none at all."""


def memory_limit(groups: Path = _GROUPS, root: Path = _ROOT) -> int | None:
    """Bytes, past which the kernel kills the process; None where there is no limit. Reads files.

    A container sees its own group at the root of the hierarchy; a process outside of one is told in /proc which group
    is its own. A limit of a group above holds, too.
    """
    found = []
    for path in _limits(groups, root):
        with contextlib.suppress(OSError, ValueError):
            limit = int(path.read_text())
            if limit < _UNLIMITED:
                found.append(limit)
    return min(found, default=None)


def _limits(groups: Path, root: Path) -> Iterator[Path]:
    yield root / "memory.max"
    yield root / "memory" / "memory.limit_in_bytes"
    with contextlib.suppress(OSError, ValueError):
        for line in groups.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers == "":
                yield from _up(root, group, "memory.max")
            elif "memory" in controllers.split(","):
                yield from _up(root / "memory", group, "memory.limit_in_bytes")


def _up(root: Path, group: str, name: str) -> Iterator[Path]:
    here = root / group.lstrip("/")
    while here != root and root in here.parents:
        yield here / name
        here = here.parent


def memory() -> int:
    """Bytes that this process may use: its limit, else what the machine has. Reads files."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit()
    return machine if limit is None else min(limit, machine)
