"""Real Redis servers that a test can stop, pause, cut off and bring back on the same port.

async with RedisServer() as server:
    RedisSettings(url=server.url)
    await server.stop()      # gone: connections are refused
    await server.start()     # back on its port and in its directory
    server.pause()           # hung: accepts, never answers (SIGSTOP)
    server.resume()
    await server.client.get("key")   # a client of the test's own
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

from redis.asyncio import Redis

from testkit.processes import free_port

_ATTEMPTS = 5  # another process may take a free port before Redis does
_GRACE = 60.0
"""Seconds in which a server, or a cluster of them, has to be ready: the machine may be busy with something else."""


class RedisServer:
    """One `redis-server` on loopback; `options` as on its command line, without persistence unless they say otherwise.

    `plain=False` leaves the plain port out (for TLS); `sentinel` makes it a Sentinel, and is the lines of its file.
    """

    def __init__(
        self, *options: str, plain: bool = True, sentinel: list[str] | None = None, port: int = 0
    ) -> None:
        self.port = port
        self._options = options
        self._plain = plain
        self._sentinel = sentinel
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def directory(self) -> Path:
        assert self._directory is not None, "the server is used as a context manager"
        return Path(self._directory.name)

    async def start(self) -> None:
        await asyncio.to_thread(self.open, os.sched_getaffinity(0))

    async def stop(self) -> None:
        """Kill it: nothing is said to anybody."""
        await asyncio.to_thread(self._kill)

    async def command(self, *words: str) -> Any:
        """Redis' answer to a command as it is typed."""
        return await self.client.execute_command(*words)  # type: ignore[no-untyped-call]

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await asyncio.to_thread(self.close)

    def open(self, cores: set[int] | None = None) -> None:
        """`start`, where there is no event loop. The server is given `cores`, as its caller's thread has them."""
        binary = shutil.which("redis-server")
        assert binary, "there is no redis-server: tools/setup.sh redis"
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        if cores is not None:
            os.sched_setaffinity(0, cores)
        chosen = self.port
        for _ in range(_ATTEMPTS):
            self.port = chosen or free_port()
            if self._ready([binary, *self._arguments()]):
                if not chosen:  # made here, in a thread: redis-py reads its version from disk
                    self.client: Redis = Redis(host="127.0.0.1", port=self.port)
                return
        raise RuntimeError(f"redis-server did not start: {self._log.read_text(errors='replace')}")

    def close(self) -> None:
        """Ends it, and removes its directory."""
        self._kill()
        if self._directory is not None:
            self._directory.cleanup()

    @property
    def _log(self) -> Path:
        return self.directory / "redis.log"

    def _arguments(self) -> list[str]:
        where = ["--bind", "127.0.0.1", "--dir", str(self.directory)]
        port = ["--port", str(self.port)] if self._plain else ["--port", "0", "--tls-port", str(self.port)]
        if self._sentinel is not None:
            file = self.directory / "sentinel.conf"
            file.write_text("\n".join([*self._sentinel, ""]))
            return [str(file), "--sentinel", *where, *port]
        quick = ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]
        return [*quick, *where, *port, *self._options]

    def _ready(self, command: list[str]) -> bool:
        """Whether it says that it accepts connections, or as a Sentinel that it has an identity."""
        ready = "Sentinel ID is" if self._sentinel is not None else "eady to accept connections"
        with self._log.open("wb") as log:  # a pipe that nobody reads would fill, and hold it up
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + _GRACE
        while self._process.poll() is None and time.monotonic() < deadline:
            if ready in self._log.read_text(errors="replace"):
                return True
            time.sleep(0.005)
        self._kill()
        return False

    def _kill(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


@asynccontextmanager
async def redis_cluster(masters: int = 3) -> AsyncIterator[list[RedisServer]]:
    """As many replicas as masters; a master counts as lost after a second."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(RedisServer(*options)) for _ in range(2 * masters)]
        creating = await asyncio.create_subprocess_exec(
            *("redis-cli", "--cluster", "create", *(f"127.0.0.1:{node.port}" for node in nodes)),
            *("--cluster-replicas", "1", "--cluster-yes"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        if await creating.wait():
            raise RuntimeError("redis-cli could not make a cluster")
        async with asyncio.timeout(_GRACE):
            while not all([await _joined(node, masters) for node in nodes]):  # noqa: ASYNC110  # other processes: no event
                await asyncio.sleep(0.1)
        yield nodes


async def _joined(node: RedisServer, masters: int) -> bool:
    """Whether it sees a whole cluster, every master with its replica."""
    state: bytes = await node.command("CLUSTER", "INFO")
    return (
        b"cluster_state:ok" in state and [len(nodes) for _, _, *nodes in await slots(node)] == [2] * masters
    )


async def slots(node: RedisServer) -> list[list[Any]]:
    """First slot, last slot, and then host, port and id of their master and of each of its replicas."""
    ranges: list[list[Any]] = await node.command("CLUSTER", "SLOTS")
    return ranges


@asynccontextmanager
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
