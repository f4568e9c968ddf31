"""A real HTTP proxy on a free loopback port: CONNECT for https, absolute addresses for http, Basic credentials.

async with FakeProxy() as proxy:
    environment = {"HTTPS_PROXY": proxy.url}
    ...
    assert proxy.asked == ["CONNECT 127.0.0.1:4711"]       # or "POST http://127.0.0.1:4711/v1/chat/completions"

`credentials="user:password"` asks for these; `tls` makes it a proxy at https://; `answers` is what is said in place of
a connection, such as b"HTTP/1.1 403 Forbidden\\r\\n\\r\\n". `goes_to` is the port that every connection leads to,
whoever was named: so a test may use names that nobody knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from base64 import b64encode
from typing import Self
from urllib.parse import urlsplit

_DENIED = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
)


class FakeProxy:
    """See the module."""

    def __init__(
        self,
        *,
        credentials: str = "",
        tls: ssl.SSLContext | None = None,
        answers: bytes = b"",
        goes_to: int | None = None,
    ) -> None:
        self.asked: list[str] = []
        self.heads: list[str] = []
        self.connections = 0
        self._expected = f"Basic {b64encode(credentials.encode()).decode()}" if credentials else ""
        self._tls = tls
        self._answers = answers
        self._goes_to = goes_to
        self._server: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._closing = False

    @property
    def port(self) -> int:
        assert self._server is not None, "the proxy is used as a context manager"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._closing = True
        self._server.close()
        for task, writer in self._tasks.items():
            writer.transport.abort()  # a task that is cancelled before it began would leave it open
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closing:  # it was accepted just before, and would wait for ever
            writer.transport.abort()
            return
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks[task] = writer
        task.add_done_callback(self._tasks.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, target, _ = head.split("\r\n", 1)[0].split(" ")
                self.asked.append(f"{method} {target}")
                self.heads.append(head)
                if self._answers or not self._knows(head):
                    await _skip_body(head, reader)
                    writer.write(self._answers or _DENIED)
                    await writer.drain()
                    return
                if method == "CONNECT":
                    await self._tunnel(target.rpartition(":"), reader, writer)
                    return
                await self._pass_on(head, reader, writer)

    def _knows(self, head: str) -> bool:
        return not self._expected or f"\r\nproxy-authorization: {self._expected}\r\n".lower() in head.lower()

    async def _open(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            *(("127.0.0.1", self._goes_to) if self._goes_to is not None else (host, port))
        )

    async def _tunnel(
        self, target: tuple[str, str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        there, back = await self._open(target[0].strip("[]"), int(target[2]))
        with contextlib.closing(back):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ways = [asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and its answer, which ends where its `content-length` says, or with an empty chunk."""
        line, fields = head.split("\r\n", 1)
        method, target, version = line.split(" ")
        url = urlsplit(target)
        path = url.path + (f"?{url.query}" if url.query else "")
        kept = [each for each in fields.split("\r\n") if not each.lower().startswith("proxy-")]
        there, back = await self._open(url.hostname or "", url.port or 80)
        with contextlib.closing(back):
            back.write("\r\n".join([f"{method} {path} {version}", *kept]).encode("latin-1"))
            back.write(await reader.readexactly(_length(head)))
            answer = await there.readuntil(b"\r\n\r\n")
            writer.write(answer)
            if b"chunked" in answer.lower():
                rest = await there.readuntil(b"0\r\n\r\n")
            else:
                rest = await there.readexactly(_length(answer.decode("latin-1")))
            writer.write(rest)
            await writer.drain()


async def _skip_body(head: str, reader: asyncio.StreamReader) -> None:
    await reader.readexactly(_length(head))


def _length(head: str) -> int:
    fields = (line.lower().partition(":") for line in head.split("\r\n"))
    return next((int(value) for name, _, value in fields if name == "content-length"), 0)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
