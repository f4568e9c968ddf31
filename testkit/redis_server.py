"""Real Redis servers that a test can stop, pause, cut off and bring back on the same port.

async with RedisServer() as server:
    RedisSettings(url=server.url)
    await server.stop()      # gone: connections are refused
    await server.start()     # back on its port, empty
    server.pause()           # hung: accepts, never answers (SIGSTOP)
    server.resume()
    await server.client.get("key")   # a client of the test's own
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

from redis.asyncio import Redis

_ATTEMPTS = 5  # another process may take a free port before Redis does


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """One `redis-server` on loopback, without persistence; `options` as on its command line.

    `plain=False` leaves the plain port out (for TLS); `mode` is "--sentinel" for a Sentinel, whose `options`
    are the lines of its file.
    """

    def __init__(
        self, *options: str, plain: bool = True, sentinel: list[str] | None = None, port: int = 0
    ) -> None:
        self.port = port
        self._options = options
        self._plain = plain
        self._sentinel = sentinel
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def directory(self) -> Path:
        assert self._directory is not None, "the server is used as a context manager"
        return Path(self._directory.name)

    async def start(self) -> None:
        await asyncio.to_thread(self._start)

    async def stop(self) -> None:
        """Kill it: nothing is said to anybody."""
        await asyncio.to_thread(self._kill)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.stop()
        if self._directory is not None:
            await asyncio.to_thread(self._directory.cleanup)

    def _start(self) -> None:
        binary = shutil.which("redis-server")
        assert binary, "these tests need redis-server; `make test` installs it"
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        chosen = self.port
        for _ in range(_ATTEMPTS):
            self.port = chosen or free_port()
            if self._ready([binary, *self._arguments()]):
                if not chosen:  # made here, in a thread: redis-py reads its version from disk
                    self.client: Redis = Redis(host="127.0.0.1", port=self.port)
                return
        raise AssertionError("redis-server did not start")

    def _arguments(self) -> list[str]:
        where = ["--bind", "127.0.0.1", "--dir", str(self.directory)]
        port = ["--port", str(self.port)] if self._plain else ["--port", "0", "--tls-port", str(self.port)]
        if self._sentinel is not None:
            file = self.directory / "sentinel.conf"
            file.write_text("\n".join([*self._sentinel, ""]))
            return [str(file), "--sentinel", *where, *port]
        return [
            "--save",
            "",
            "--appendonly",
            "no",
            "--repl-diskless-sync-delay",
            "0",
            *where,
            *port,
            *self._options,
        ]

    def _ready(self, command: list[str]) -> bool:
        """Whether it says that it accepts connections, or as a Sentinel that it has an identity."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        ready = "Sentinel ID is" if self._sentinel is not None else "eady to accept connections"
        if any(ready in line for line in process.stdout):
            self._process = process
            return True
        process.wait()
        process.stdout.close()
        return False

    def _kill(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


@contextlib.asynccontextmanager
async def far_away(
    redis: RedisServer, *, round_trip: float = 0.0, mute: asyncio.Event | None = None
) -> AsyncIterator[str]:
    """The address at which `redis` is that many seconds away, there and back.

    What comes back on connections made before `mute` is lost from then on.
    """
    connections: set[asyncio.Task[None]] = set()

    def muted() -> bool:
        return mute is not None and mute.is_set()

    async def passed(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, loses: bool = False
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await asyncio.sleep(round_trip / 2)
                if not (loses and muted()):
                    writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        old = not muted()
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", redis.port)
        except ConnectionError:
            writer.close()
            return
        await asyncio.gather(passed(reader, forth), passed(back, writer, loses=old))

    def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(connected(reader, writer)))

    async with await asyncio.start_server(taken, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        await asyncio.gather(*connections)
