"""Threads for what may hang: a file on a mount that does not answer, a collector of traces.

`asyncio.to_thread` is for what ends for certain: the event loop and the interpreter wait for its threads when the
process ends, and a few that hang leave none for others. Name look-ups are left to the event loop, which has threads for
them: libuv's with uvloop, else the default executor's. `then_end` bounds what those that hang cost at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

LONGEST_EXIT = 5.0
"""Seconds that the event loop and the interpreter may take to end when all is done."""

_HANGING = 16


class DaemonThreads:
    """Reads in threads for which the process does not wait at its end; at most `most` at once, with those that hang."""

    def __init__(self, most: int = _HANGING) -> None:
        self.running = 0
        self._most = most

    async def read(self, read: Callable[[], T], timeout: float | None) -> T:
        """What `read` gives or raises. TimeoutError after so many seconds: its thread is left to itself.

        TimeoutError also where as many hang already as may.
        """
        if self.running >= self._most:
            raise TimeoutError
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            self.running -= 1
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result: T | None = None
            failed: BaseException | None = None
            try:
                result = read()
            except Exception as error:  # noqa: BLE001  # it is raised where it is waited for
                failed = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: too late
                loop.call_soon_threadsafe(settle, result, failed)

        threading.Thread(target=work, name="reader", daemon=True).start()
        self.running += 1
        async with asyncio.timeout(timeout):
            return await done


async def then_end(work: Awaitable[None]) -> None:
    """Do a program's whole `work`. Then the process ends within LONGEST_EXIT seconds, by force where something hangs.

    The event loop and the interpreter would wait for threads and name look-ups that hang. The exit code is the one that
    there would have been: 0, or 1 where `work` has failed.
    """
    code = 1
    try:
        await work
        code = 0
    finally:
        threading.Thread(target=_end_by_force, args=(code,), name="end-by-force", daemon=True).start()


def _end_by_force(code: int) -> None:
    time.sleep(LONGEST_EXIT)
    os._exit(code)
