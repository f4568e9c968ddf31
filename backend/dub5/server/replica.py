"""Both listeners in one process and one event loop, and the way a replica leaves.

uvicorn runs each ASGI application; signals are ours, since leaving takes more than closing a socket:

1. SIGTERM: /readyz turns 503; for `drain.linger` requests are answered, with `Connection: close`.
2. The public listener and idle connections close; streams run to their end.
3. The operations listener closes, then the parts stop, and the process exits with 0.

A second signal ends it at once. SIGINT (Ctrl-C) leaves the lingering out: a person waits for it.
No `timeout_graceful_shutdown`: with it uvicorn would stop the application under live streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable, Iterator, Mapping

import uvicorn
from litestar.types import ASGIApp

from dub5 import __version__
from dub5.api.origins import Hosts, Origins
from dub5.app import Application
from dub5.errors import ConfigError
from dub5.server.accepting import Acceptor
from dub5.server.protocol import AnswerKnown, ConnectionLimits, Connections, GuardedProtocol
from dub5.settings.model import Settings
from dub5.telemetry.background import Background
from dub5.telemetry.logging import get_logger

_BACKLOG = 2048

_POLL = 0.02
"""Seconds after which it is asked again whether the last connection has ended."""

_GC = 20_000, 20, 50
"""What is left over here is freed by counting references, cycles are rare: by default a tenth of all time goes into
looking for them among thousands of live streams."""

_log = get_logger()


def configured(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn serves `app`: its protocol is ours, and there is nothing of it that the service has itself."""
    return uvicorn.Config(
        app,
        interface="asgi3",  # it would take a middleware that is no coroutine function for the old one
        http=GuardedProtocol,
        loop="none",
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here depends on where a request comes from
    )


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to us. `on_close` is called in the moment in which it closes."""

    def __init__(
        self,
        app: ASGIApp,
        bound: socket.socket,
        connections: Connections,
        background: Background,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(configured(app))
        self.server_state: Connections = connections
        self._bound = bound
        self._background = background
        self._on_close = on_close
        self._shutdown_requested = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def connections(self) -> int:
        return len(self.server_state.connections)

    async def serve_until_shutdown(self) -> None:
        watching = self._background.start("connection-limits", self.server_state.watch)
        try:
            await self.serve(sockets=[self._bound])
        finally:
            await watching.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  # uvicorn's
        """As uvicorn's, but for who accepts."""
        await self.lifespan.startup()

        def protocol() -> GuardedProtocol:
            return GuardedProtocol(self.config, self.server_state, self.lifespan.state)

        accepting = Acceptor(self._bound, self.server_state, protocol)
        accepting.start()
        self.servers = [accepting]  # type: ignore[list-item]  # an asyncio server, as far as uvicorn needs it
        self.started = True

    async def main_loop(self) -> None:
        """As uvicorn's, which polls ten times a second."""
        while not await self.on_tick(0):  # renews the Date header
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._shutdown_requested.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, without its pauses."""
        self._on_close()
        for each in (*self.servers, *(sockets or ())):
            each.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        for server in self.servers:
            await server.wait_closed()
        while (self.server_state.connections or self.server_state.tasks) and not self.force_exit:  # noqa: ASYNC110  # uvicorn's connections give no sign
            await asyncio.sleep(_POLL)

    def close(self) -> None:
        """The socket; where it served, uvicorn has closed it."""
        self._bound.close()

    def request_shutdown(self, *, force: bool = False) -> None:
        """Close the listener and idle connections; let the rest finish, unless it is by force."""
        self.should_exit = True
        self.force_exit |= force
        self._shutdown_requested.set()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; ConfigError where the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, ValueError) as error:  # a host name that cannot be one is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}") from None
    # Inherited by its connections. asyncio sets it only for sockets that say they are TCP, which this one does not;
    # without it each chunk of a stream may wait 40 ms for the client's acknowledgement.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


class Replica:
    """One running service. `run` serves until `leave` is called; the module's docstring says how.

    Made before the event loop runs, since files are read. ConfigError where it cannot start.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        server = settings.server
        self.application = Application(settings, environment)
        background = self.application.background
        with contextlib.ExitStack() as undo:
            public = undo.enter_context(bind(server.host, server.port))
            operations = undo.enter_context(
                bind(server.operations_host or server.host, server.operations_port)
            )
            undo.pop_all()
        self.url = _url(public)
        self.operations_url = _url(operations)
        self._public = _Listener(
            self.application.public,
            public,
            self._connections(
                self.application.room.clients, self.application.origins, self.application.recall.answer
            ),
            background,
            on_close=self.application.drain.close,
        )
        self._operations = _Listener(
            self.application.operations,
            operations,
            self._connections(self.application.room.operations),
            background,
        )
        self._leaving = asyncio.Event()
        self._forced = asyncio.Event()
        self.application.metrics.open_connections.set_function(lambda: self._public.connections)

    def _connections(
        self, max_connections: int, origins: Origins | None = None, recall: AnswerKnown | None = None
    ) -> Connections:
        settings, refused = self.application.settings, self.application.metrics.connections_refused
        server = settings.server
        limits = ConnectionLimits(
            read_timeout=server.read_timeout,
            write_timeout=server.write_timeout,
            idle=server.keep_alive,
            max_connections=max_connections,
        )
        return Connections(
            limits,
            lambda reason: refused.labels(reason).inc(),
            self.application.arrivals,
            hosts=Hosts(server.allowed_hosts if settings.auth.keys is None else None),
            origins=origins,
            recall=recall,
        )

    async def run(self) -> None:
        # What was made until now lives as long as the process: a full garbage collection that went through it
        # would hold every stream for some 25 ms.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._public.close)
            stack.callback(self._operations.close)
            await stack.enter_async_context(self.application)
            async with asyncio.TaskGroup() as listeners:
                public = listeners.create_task(self._public.serve_until_shutdown())
                listeners.create_task(self._operations.serve_until_shutdown())
                await self._leaving.wait()
                await self._linger()
                self._public.request_shutdown()
                await public
                self._operations.request_shutdown()

    def leave(self, *, linger: bool) -> None:
        """Begin to drain; called again, end it now."""
        if self._leaving.is_set():
            self._forced.set()
            self.application.abandon()
            self._public.request_shutdown(force=True)
            self._operations.request_shutdown(force=True)
        elif linger:
            self.application.drain.linger()
        self._leaving.set()

    async def _linger(self) -> None:
        drain = self.application.drain
        _log.info("draining", connections=self._public.connections, linger=drain.state == "lingering")
        if drain.state == "lingering":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.application.settings.drain.linger):
                    await self._forced.wait()
        drain.linger()
        # Who has begun to send is let in, as if nothing had been held: from the next turn on nobody is.
        self._public.server_state.unhold()


async def serve(replica: Replica, *, announce: Callable[[str], None]) -> None:
    """Serve until a signal says otherwise."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: replica.leave(linger=True))
    loop.add_signal_handler(signal.SIGINT, lambda: replica.leave(linger=False))
    loop.set_exception_handler(replica.application.background.unhandled)
    announce(f"Chat on {replica.url}/v1, operations on {replica.operations_url}")
    _log.info("started", version=__version__, url=replica.url, operations_url=replica.operations_url)
    await replica.run()
    # The loop takes its handlers away when it closes, and the process is still there for a moment.
    loop.remove_signal_handler(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _log.info("stopped")


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
