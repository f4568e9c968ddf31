"""A real HTTP/1.1 server on a free loopback port that does exactly what a script says, byte by byte.

It runs in the test's own event loop and is written by hand, because the tests need what no web framework
lets one do: half a frame, a frame cut inside a UTF-8 character, a connection that dies or hangs, garbage
instead of HTTP. A script is an async function of the call and the wire:

    async def script(call: Call, wire: Wire) -> None:
        await wire.head(200, {"content-type": "text/event-stream"})
        await wire.send(b"data: half a fr")
        wire.die()

`whole`, `stream`, `refuse`, `raw` and `hang` below make the usual ones. A server is used like this:

    async with FakeServer() as fake:
        fake.reply = stream([b"data: 1\\n\\n", HANG])   # for all calls from now on
        fake.replies = [refuse(429, "later")]           # first these, one call each
        ...
        assert fake.calls[0].body["model"] == "m"       # what was asked
        assert fake.open_calls == 0                     # scripts that still run
        await fake.wait_called()                        # a request has come in
        await fake.wait_cancelled()                     # a client closed before its answer was complete
        assert fake.connections == 1                    # sockets accepted so far

With `FakeServer(tls=…)` it speaks HTTPS. `shared_loop=False` is for a server whose clients are in other processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

TIMEOUT = 60.0
"""Seconds after which a test that waits for something has failed."""


class Step:
    """Something that a script of `stream` does besides sending bytes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


HANG: Final = Step("HANG")
"""Send nothing more until the client goes away."""

DIE: Final = Step("DIE")
"""Reset the connection."""

CLOSE: Final = Step("CLOSE")
"""Close the connection politely, though the body is not at its end."""

Part = bytes | Step | asyncio.Event
"""What a stream is made of; an Event is waited for."""


@dataclass
class Call:
    """One request as it came, and how it went."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """The client closed its connection before the answer was complete."""

    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """The script ran to its end."""

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class Wire:
    """The answering end of one connection."""

    def __init__(
        self, writer: asyncio.StreamWriter, left: asyncio.Event, *, shared_loop: bool = True
    ) -> None:
        self._writer = writer
        self._shared_loop = shared_loop
        self.left = left
        self.chunked = False
        self.reusable = False
        self.dead = False

    async def head(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Status line and headers; the body follows in chunks unless `content-length` is given."""
        fields = {"content-type": "application/json", **(headers or {})}
        self.chunked = "content-length" not in fields
        if self.chunked:
            fields["transfer-encoding"] = "chunked"
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in fields.items())]
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def send(self, data: bytes) -> None:
        """Bytes of the body, which the client sees before anything that is sent later."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    async def end(self) -> None:
        """The body is complete, and the connection can be used again."""
        if self.chunked:
            await self.raw(b"0\r\n\r\n")
        self.reusable = True

    async def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()
        if self._shared_loop:  # two turns let a client in the same loop read them on their own
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def die(self) -> None:
        """Reset the connection."""
        self.dead = True
        self._writer.transport.abort()


Script = Callable[[Call, Wire], Awaitable[None]]


def whole(
    body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None, raw: bytes | None = None
) -> Script:
    """One complete answer: `body` as JSON, or `raw` bytes."""
    content = json.dumps(body, ensure_ascii=False).encode() if raw is None else raw

    async def script(call: Call, wire: Wire) -> None:
        await wire.head(status, {"content-length": str(len(content)), **(headers or {})})
        await wire.send(content)
        await wire.end()

    return script


def refuse(
    status: int, message: str, *, headers: Mapping[str, str] | None = None, param: str | None = None
) -> Script:
    """An error in the shape that OpenAI and Anthropic share."""
    error = {"type": "some_error", "message": message, "param": param}
    return whole({"type": "error", "error": error}, status=status, headers=headers)


def stream(parts: Iterable[Part], *, headers: Mapping[str, str] | None = None, end: bool = True) -> Script:
    """Parts of the body one by one, then the body's proper end unless `end` is false: then the script hangs."""
    kept = list(parts)

    async def script(call: Call, wire: Wire) -> None:
        await wire.head(200, {"content-type": "text/event-stream", **(headers or {})})
        for part in kept:
            if isinstance(part, bytes):
                await wire.send(part)
            elif isinstance(part, asyncio.Event):
                await part.wait()
            elif part is HANG:
                await wire.left.wait()
            elif part is DIE:
                wire.die()
                return
            else:
                return
        if end:
            await wire.end()
        else:
            await wire.left.wait()

    return script


def raw(data: bytes) -> Script:
    """Anything at all in place of an HTTP response, then the connection closes."""

    async def script(call: Call, wire: Wire) -> None:
        await wire.raw(data)

    return script


def hang() -> Script:
    """Take the request and never answer."""

    async def script(call: Call, wire: Wire) -> None:
        await wire.left.wait()

    return script


class FakeServer:
    """See the module. A script that raises fails the test when the server is closed."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        shared_loop: bool = True,
    ) -> None:
        self._tls = tls
        self._host, self._port = host, port
        self._shared_loop = shared_loop
        self.calls: list[Call] = []
        self.connections = 0
        self.open_calls = 0
        self.reply: Script = self.default
        self.replies: list[Script] = []
        self._came: asyncio.Queue[Call] = asyncio.Queue()
        self._cancelled: asyncio.Queue[Call] = asyncio.Queue()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._closing = False
        self._errors: list[BaseException] = []
        self._server: asyncio.Server | None = None

    async def default(self, call: Call, wire: Wire) -> None:
        """What is answered where no script was given."""
        await whole({})(call, wire)

    @property
    def url(self) -> str:
        assert self._server is not None, "the server is used as a context manager"
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{self._host}:{self._server.sockets[0].getsockname()[1]}"

    @property
    def open_connections(self) -> int:
        """Those that no side has closed."""
        return len(self._connections)

    async def wait_called(self) -> Call:
        """The next call, as soon as its request is here."""
        async with asyncio.timeout(TIMEOUT):
            return await self._came.get()

    async def wait_cancelled(self) -> Call:
        """The next call whose client closed before the answer was complete."""
        async with asyncio.timeout(TIMEOUT):
            return await self._cancelled.get()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Protocol(self._accept), self._host, self._port, ssl=self._tls, backlog=2048
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._closing = True
        self._server.close()
        for connection, writer in self._connections.items():
            writer.transport.abort()  # a task that is cancelled before it began would leave it open
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        if self._errors:
            raise self._errors[0]

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: asyncio.Event
    ) -> None:
        if self._closing:  # it was accepted just before, and would wait for ever
            writer.transport.abort()
            return
        self.connections += 1
        connection = asyncio.create_task(self._converse(reader, writer, left))
        self._connections[connection] = writer
        connection.add_done_callback(self._connections.pop)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: asyncio.Event
    ) -> None:
        """One call after the other, until either side has had enough."""
        try:
            reusable = True
            while reusable:
                call = await _read_call(reader)
                wire = Wire(writer, left, shared_loop=self._shared_loop)
                await self._answer(call, wire)
                reusable = wire.reusable
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone between two calls
        except asyncio.CancelledError:  # the test is over
            writer.transport.abort()
            raise
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def begun(self, call: Call) -> None:
        """Its request is here."""
        self.calls.append(call)
        self._came.put_nowait(call)

    def ended(self, call: Call, error: BaseException | None, *, left: bool) -> None:
        """`error` is what the script raised; the client has `left` before its answer was complete, or it has it."""
        if left:
            call.cancelled.set()
            self._cancelled.put_nowait(call)
        elif error is not None:
            self._errors.append(error)
        else:
            call.finished.set()

    async def _answer(self, call: Call, wire: Wire) -> None:
        self.begun(call)
        self.open_calls += 1
        script = self.replies.pop(0) if self.replies else self.reply
        running = asyncio.ensure_future(script(call, wire))
        leaving = asyncio.ensure_future(wire.left.wait())
        try:
            await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
            error = running.exception() if running.done() else None
            gone = leaving.done() and not wire.reusable and not wire.dead
            self.ended(call, error, left=gone or isinstance(error, ConnectionError))
        finally:
            running.cancel()
            leaving.cancel()
            await asyncio.gather(running, leaving, return_exceptions=True)
            self.open_calls -= 1


class _Protocol(asyncio.StreamReaderProtocol):
    """A stream protocol that also tells at once when the client has gone."""

    def __init__(
        self, accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter, asyncio.Event], None]
    ) -> None:
        self.left = asyncio.Event()
        super().__init__(asyncio.StreamReader(), lambda reader, writer: accept(reader, writer, self.left))

    def eof_received(self) -> bool | None:
        self.left.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.left.set()
        super().connection_lost(exc)


async def _read_call(reader: asyncio.StreamReader) -> Call:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.strip().split("\r\n")
    method, path, _ = request_line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Call(method, path, headers, body)
