"""Log lines as this process really writes them, put back afterwards; and a real server for any application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import uvicorn

from dub5.settings.model import TelemetrySettings
from dub5.telemetry.logging import LogWriter, configure

Serve = Callable[[Any], contextlib.AbstractAsyncContextManager[int]]


class Log:
    """What was logged. Reading it ends the logging."""

    def __init__(self, path: Path, writer: LogWriter) -> None:
        self._path = path
        self._writer = writer

    def text(self) -> str:
        self._writer.stop()
        return self._path.read_text(encoding="utf-8")

    async def lines(self, event: str) -> list[dict[str, Any]]:
        """The JSON lines of one event."""
        text = await asyncio.to_thread(self.text)
        decoded: list[dict[str, Any]] = [msgspec.json.decode(line) for line in text.splitlines()]
        return [line for line in decoded if line["event"] == event]


LogTo = Callable[..., Log]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody signals; TimeoutError after a minute."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # figures that others count have no event
            await asyncio.sleep(0.002)


def ours(root: logging.Logger) -> list[logging.Handler]:
    """The handlers that `configure` added."""
    return [each for each in root.handlers if type(each).__module__.startswith("dub5.")]


@pytest.fixture
def log_to(tmp_path: Path) -> Iterator[LogTo]:
    """`log_to(terminal=…, **settings)` sends all lines of this process to a file."""
    root = logging.getLogger()
    level = root.level
    with contextlib.ExitStack() as stack:

        def configured(*, terminal: bool = False, **settings: Any) -> Log:
            path = tmp_path / "log"
            stream = stack.enter_context(path.open("w", encoding="utf-8"))
            writer = configure(TelemetrySettings(**settings), stream=stream, terminal=terminal)
            stack.callback(writer.stop)
            return Log(path, writer)

        yield configured
    structlog.reset_defaults()
    for handler in ours(root):
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def log(log_to: LogTo) -> Log:
    """JSON lines, as in production."""
    return log_to()


class _Server(uvicorn.Server):
    """Leaves signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def _serving(app: Any) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        # asyncio sets this only on sockets that name their protocol; without it each answer waits 40 ms.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            app, http="httptools", loop="none", lifespan="off", access_log=False, log_config=None
        )
        server = _Server(config)
        running = asyncio.create_task(server.serve(sockets=[bound]))
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            await running


@pytest.fixture
def serve() -> Serve:
    """`async with serve(app) as port`: a real uvicorn on loopback."""
    return _serving
