"""Whether others have their turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Turns:
    """How many turns of the event loop there were."""

    count = 0

    async def take(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def counted_turns() -> AsyncIterator[Turns]:
    """Of another task, until the block ends."""
    turns = Turns()
    other = asyncio.create_task(turns.take())
    try:
        yield turns
    finally:
        other.cancel()
