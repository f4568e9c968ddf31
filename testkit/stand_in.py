"""The stand-in for a provider, as a process of its own that a row may set, ask and kill; see testkit/provider.py."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from testkit.processes import first_line, running


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
    async with running("testkit.provider") as process:
        base_url = await first_line(process)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            yield Provider(base_url, session, process.pid)


def killed(provider: Provider) -> None:
    """SIGKILL to the stand-in: its port is closed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(provider.pid, signal.SIGKILL)
