"""Takes connections from a listening socket: as many as there is room for, and none where that fails.

Event loops accept all that has come. uvloop takes the whole backlog before the first of them is handled, which takes
every descriptor there is; and where the system refuses one (ENFILE, ENOBUFS, ENOMEM, at times EMFILE) it closes the
listening socket silently, for good. Here new connections wait in the backlog while there is no room, or after a refusal
until the next try, so that nothing spins.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from dub5.server.protocol import Connections, GuardedProtocol
from dub5.telemetry.logging import get_logger

_AT_ONCE = 64
"""Connections accepted in one turn of the event loop."""

_AGAIN = 0.1
"""Seconds until the next try, where nothing else says that there is room again."""

_LOG_INTERVAL = 10.0

_log = get_logger()


class Acceptor:
    """Accepts from `start` to `close`. For uvicorn it is an asyncio server."""

    def __init__(
        self, bound: socket.socket, connections: Connections, protocol: Callable[[], GuardedProtocol]
    ) -> None:
        self._bound = bound
        self._connections = connections
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._logged = float("-inf")

    def start(self) -> None:
        self._bound.setblocking(False)
        self._loop.add_reader(self._bound, self._accept)

    def close(self) -> None:
        """The socket stays open: the caller, which made it, closes it."""
        self._closed = True
        self._loop.remove_reader(self._bound)
        self._connections.on_room = None
        if self._timer is not None:
            self._timer.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._connections.has_room(len(self._opening), self._loop.time()):
                self._wait()
                return
            try:
                accepted, _ = self._bound.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:  # it left while it waited
                continue
            except OSError as error:
                self._refused(error)
                return
            # Not one of `telemetry.background`: it ends with the listener, and handles what the system refuses.
            task = self._loop.create_task(self._open(accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket) -> None:
        try:
            accepted.setblocking(False)
            _, protocol = await self._loop.connect_accepted_socket(self._protocol, accepted)
            if self._closed:
                protocol.shutdown()
        except OSError as error:
            accepted.close()
            self._refused(error)
        except BaseException:  # a defect, or cancelled: the socket is known here alone
            accepted.close()
            raise

    def _refused(self, error: OSError) -> None:
        """By the system: it may be short of descriptors, of which an idle client can give one."""
        now = self._loop.time()
        if now - self._logged >= _LOG_INTERVAL:
            self._logged = now
            _log.error("connection not accepted", error=error.strerror or type(error).__name__)
        self._connections.close_idle(now)
        self._wait()

    def _wait(self) -> None:
        """Until a connection ends, or for a moment: another may have become old enough to go."""
        if self._closed or self._timer is not None:
            return
        self._loop.remove_reader(self._bound)
        self._timer = self._loop.call_later(_AGAIN, self._go_on)
        self._connections.on_room = self._go_on

    def _go_on(self) -> None:
        self._connections.on_room = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._closed:
            self._loop.add_reader(self._bound, self._accept)
