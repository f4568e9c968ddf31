"""Connections to one provider, straight: what it sends is passed on in the turn in which it comes.

aiohttp hands a body over through a queue, for a task that has to be woken for each read: for a stream that is most of
what a chunk costs. So this is a client of its own for the one thing that is needed of HTTP/1.1: POST a body, get a
response, use the connection again. llhttp (httptools) reads it. What goes through a proxy goes by aiohttp.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import math
import socket
import ssl
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import aiohappyeyeballs
import httptools
from yarl import URL

from dub5.process.countdown import Countdown
from dub5.process.descriptors import Sockets

KEEP_ALIVE = 30.0
"""Seconds that an idle connection is kept."""

MAX_HEAD = 64 * 2**10
"""Bytes, to within one read; also of whatever else comes between two parts of a body, or behind it."""
_NAMES_KEPT = 10.0
"""Seconds for which the addresses of a host are good."""
_FIRST_ALONE = 0.25
"""Seconds before the next address of a host is tried, too: RFC 8305, section 8."""
_LOOKS = 20
"""Turns of the event loop that a connection has at least, however late they come."""
_PIECE = 256 * 2**10
"""Bytes of a request that are written without a pause."""
_PACKED = 8 * 2**10
"""Bytes of a compressed body that are unpacked at once."""
_INFLATED = 256 * 2**10
"""Bytes of what was compressed that are passed on at once."""
_GZIP, _EITHER = 31, 47
_CODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _EITHER}
"""`wbits` of zlib, by the kind of head that it expects: gzip's, or either that one or its own."""
_MAGIC = b"\x1f\x8b"
"""With which a gzip begins."""

OnData = Callable[[bytes], None]
"""Called with a part of the body. What it raises ends the call, and is raised to whoever reads."""


class UpstreamError(Exception):
    """The connection failed, or the provider does not speak HTTP. What it is about is in the kind of error."""


class Unreachable(UpstreamError):
    """There is no connection: the cause is an OSError, or a UnicodeError; `host` is as it was asked for."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host


class NotAccepted(UpstreamError):
    """It took too long to connect."""


class NotHttp(UpstreamError):
    """What came is no response."""


class Closed(UpstreamError):
    """The connection ended before the response was complete; `begun`: in its body. The cause, if any, is an OSError."""

    def __init__(self, *, begun: bool, cause: Exception | None = None) -> None:
        super().__init__()
        self.begun = begun
        self.__cause__ = cause


class Undecodable(UpstreamError):
    """The body is in a coding that is not known here, or not in the one that it names."""


class Unpacking:
    """A body in a coding, as it comes. Of a coding that is not known the head counts without the body."""

    def __init__(self, codings: list[str]) -> None:
        self._wbits = _CODINGS.get(codings[0]) if len(codings) == 1 else None
        self._member: Any = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Unpacking | None:
        """None where the body comes as it is."""
        codings = [each.strip().lower() for each in headers.get("content-encoding", "").split(",")]
        packed = [each for each in codings if each not in {"", "identity"}]
        return cls(packed) if packed else None

    def feed(self, part: bytes, on_data: OnData) -> None:
        """Never more at once than somebody counts. Undecodable where that cannot be."""
        # Of what is behind a member zlib makes a copy: of very many in one part that would be its length by its length.
        for begin in range(0, len(part), _PACKED):
            self._feed(part[begin : begin + _PACKED], on_data)

    def _feed(self, left: bytes, on_data: OnData) -> None:
        while left:
            if self._member is None:
                self._member = self._begun(left)
            elif self._member.eof:
                # A gzip may have several members (RFC 1952, section 2.2); zlib would keep what else comes then.
                if self._wbits != _GZIP or not _MAGIC.startswith(left[:2]):
                    return
                self._member = self._begun(left)
            try:
                inflated = self._member.decompress(left, _INFLATED)
            except zlib.error:
                raise Undecodable from None
            if inflated:
                on_data(inflated)
            left = self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def _begun(self, first: bytes) -> Any:
        if self._wbits is None:
            raise Undecodable
        # What is called deflate has a head of zlib's by RFC 9110, and often none.
        bare = self._wbits == _EITHER and first[0] & 15 != zlib.DEFLATED and first[:1] != _MAGIC[:1]
        return zlib.decompressobj(-zlib.MAX_WBITS if bare else self._wbits)


class Response(asyncio.Protocol):
    """A connection, and the response that is read from it: one after the other.

    `headers` are by their names in lower case; of those that come twice the first counts.
    """

    __slots__ = (
        "_aside",
        "_between",
        "_error",
        "_headed",
        "_kept",
        "_loop",
        "_on_data",
        "_parser",
        "_parts",
        "_sent",
        "_to_the_end",
        "_unpacking",
        "_upstream",
        "_waiter",
        "_writable",
        "complete",
        "headers",
        "idle_since",
        "status",
        "transport",
    )

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = True  # nothing is awaited
        self._parser: Any = None
        self._headed = False
        self._aside = 0  # bytes since the head, or since the last of the body
        self._parts: list[bytes] = []
        self._on_data: OnData | None = None
        self._between = False  # two chunks of a body that is passed on as it is
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._unpacking: Unpacking | None = None
        self._to_the_end = self._kept = self._sent = False
        self._writable: asyncio.Future[None] | None = None

    # What is asked of it

    async def ask(self, head: bytes, body: bytes | memoryview) -> None:
        """Send a request, and wait for the head of the response."""
        self.status, self.headers = 0, {}
        self.complete = self._headed = self._sent = self._between = False
        self._aside, self._unpacking = 0, None
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
            self._parser.set_dangerous_leniencies(
                lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
            )
        transport = self.transport
        if transport is None:
            raise Closed(begun=False)
        if len(body) <= _PIECE:
            transport.write(head + body)
            self._sent = True
        else:
            transport.write(head)
            body = memoryview(body)
            for start in range(0, len(body), _PIECE):
                if self._error is not None or self._headed:  # it has answered without waiting for the end
                    break
                transport.write(body[start : start + _PIECE])
                if self._writable is not None:
                    await self._writable
            else:
                self._sent = True
        if not self._headed:
            await self._changed()

    async def read(self, on_data: OnData) -> None:
        """The body, as it comes, until its end."""
        self._on_data = on_data
        try:
            # What came behind the head, before this task had its turn: a read of the socket, or two.
            if self._parts:
                self._pass_on(on_data)
            if not self.complete:
                await self._changed()
        except BaseException as error:
            self._fail_here(error)
            raise
        finally:
            self._on_data = None

    def release(self) -> None:
        """For the next call, where this response was read to its end; else it is closed."""
        transport = self.transport
        used_up = self._sent and self.complete and not self._parts and self._error is None and self._kept
        if transport is None or not used_up or transport.is_closing() or transport.get_write_buffer_size():
            self.close()
        else:
            self._upstream.put_back(self, transport)

    def close(self) -> None:
        """Now; whoever reads is raised an error."""
        if self.transport is not None:
            self.transport.abort()
        self._fail(Closed(begun=self._headed))
        # Not what was raised to who read: that leads to its frames, and so back to here.
        self._error, self._waiter = Closed(begun=self._headed), None

    def _changed(self) -> asyncio.Future[None]:
        """To be awaited: done with the head, or at the end."""
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        return self._waiter

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._wake(self._error)
        self.resume_writing()

    def _wake(self, error: BaseException | None = None) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        on_data = self._on_data
        if self._between and on_data is not None:
            # Nearly always one chunk and no more: the parser would be where it is now.
            start = data.find(b"\r\n") + 2
            size = len(data) - start - 2
            if size > 0 and data[-2:] == b"\r\n" and data[: start - 2] == b"%x" % size:
                try:
                    on_data(data[start:-2])
                except BaseException as error:  # noqa: BLE001  # it is that of whoever reads
                    self._fail_here(error)
                return
        unasked = self.complete
        if unasked:
            self.close()
            return
        self._aside += len(data)
        self._between = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.complete:  # else something came after the end, and it is not used again
                self._fail_here(error.__context__ if isinstance(error.__context__, NotHttp) else NotHttp())
            self._error = self._error or NotHttp()
        except httptools.HttpParserUpgrade:
            self._fail_here(NotHttp())
        if self._aside > MAX_HEAD and not self.complete:
            self._fail_here(NotHttp())
        if self._parts and on_data is not None:
            try:
                if self._unpacking is None and len(self._parts) == 1:  # nearly always
                    on_data(self._parts.pop())
                else:
                    self._pass_on(on_data)
            except BaseException as error:  # noqa: BLE001  # it is that of whoever reads
                self._fail_here(error)
        if self._between and data[-2:] != b"\r\n":  # of the next one something is here
            self._between = False
        if self.complete:
            self._wake()

    def _pass_on(self, on_data: OnData) -> None:
        """What has come of the body. Of a compressed one never more at once than somebody counts."""
        parts, self._parts = self._parts, []
        if self._unpacking is None:
            if parts:
                on_data(parts[0] if len(parts) == 1 else b"".join(parts))
            return
        for part in parts:
            self._unpacking.feed(part, on_data)

    def _fail_here(self, error: BaseException) -> None:
        if self.transport is not None:
            self.transport.abort()
        self._fail(error)

    def eof_received(self) -> None:
        """It closes: what follows is `connection_lost`."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.forget(self)
        self.transport = None
        if self.complete:  # for whoever would use it
            self._error = self._error or Closed(begun=False)
        elif self._headed and self._to_the_end and exc is None and self._error is None:
            self.complete = True
            self._error = Closed(begun=True)  # for whoever would use it again
            self._wake()
        else:
            self._fail(Closed(begun=self._headed, cause=exc))
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # What the parser calls

    def on_message_begin(self) -> None:
        if self.complete:  # another one, which nobody has asked for
            raise NotHttp

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:  # trailers are no headers, and nobody counts them
            self.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1").strip())

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # a first word, before the response itself
            if status == 101:
                raise NotHttp
            self.headers = {}
            return
        self.status, self._headed, self._aside = status, True, 0
        headers = self.headers
        chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
        self._to_the_end = not ("content-length" in headers or chunked or status in {204, 304})
        self._kept = self._parser.should_keep_alive()
        if "content-encoding" in headers:
            self._unpacking = Unpacking.of(headers)
        if self._writable is not None:
            self.resume_writing()  # nobody waits for the rest of the request to be taken
        if self._on_data is None:
            self._wake()

    def on_body(self, body: bytes) -> None:
        self._aside = 0
        self._parts.append(body)

    def on_chunk_header(self) -> None:
        self._between = False

    def on_chunk_complete(self) -> None:
        self._between = self._unpacking is None

    def on_message_complete(self) -> None:
        self._between = False
        if self._headed:
            self.complete = True


class Upstream:
    """One provider's connections, as many as are needed at once. `tls` is None for plain HTTP. `headers` go with each
    request, by their names in lower case.

    Those that are open are used before a new one is opened, the latest first.
    """

    def __init__(
        self,
        url: URL,
        tls: ssl.SSLContext | None,
        headers: Mapping[str, str],
        *,
        connect: float,
        sockets: Sockets | None,
    ) -> None:
        self._host, self._port = url.raw_host or "", url.port or 0
        self._tls = tls
        self._connect = connect
        self._sockets = sockets
        self._first_line = f"POST {url.raw_path_qs} HTTP/1.1\r\n".encode()
        self._usual = {"host": url.host_port_subcomponent or "", "accept": "*/*", "user-agent": "dub5"}
        self._usual |= headers
        self._head = self._first_line + _lines(self._usual)
        self._idle: list[Response] = []
        self._open: set[Response] = set()
        self._addresses = _literal(self._host, self._port), math.inf
        self._turn = itertools.count()
        self._resolving = asyncio.Lock()
        self._sweeping: asyncio.TimerHandle | None = None

    async def post(self, headers: Mapping[str, str], body: bytes | memoryview) -> Response:
        """The response, as soon as its head is here. To be released. UpstreamError where there is none.

        `headers` are by their names in lower case, and count before those of every request.
        """
        if headers.keys().isdisjoint(self._usual):
            lines = self._head + _lines(headers)
        else:
            lines = self._first_line + _lines({**self._usual, **headers})
        since = asyncio.get_running_loop().time() - KEEP_ALIVE
        while self._idle:  # one that is open and was used of late
            response = self._idle.pop()
            transport = response.transport
            if transport is not None and not transport.is_closing() and response.idle_since >= since:
                if self._sockets is not None:
                    self._sockets.used(transport)
                break
            response.close()
        else:
            response = await self._connected()
        try:
            await response.ask(b"%bcontent-length: %d\r\n\r\n" % (lines, len(body)), body)
        except BaseException:
            response.close()
            raise
        return response

    def put_back(self, response: Response, transport: asyncio.Transport) -> None:
        """It can be used again."""
        response.idle_since = asyncio.get_running_loop().time()
        self._idle.append(response)
        if self._sockets is not None:
            self._sockets.unused(transport)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(KEEP_ALIVE, self._sweep)

    def _sweep(self) -> None:
        """Close what has not been used for a while. The first have waited longest."""
        loop, self._sweeping = asyncio.get_running_loop(), None
        while self._idle and self._idle[0].idle_since <= loop.time() - KEEP_ALIVE:
            self._idle.pop(0).close()
        if self._idle:
            self._sweeping = loop.call_at(self._idle[0].idle_since + KEEP_ALIVE, self._sweep)

    def forget(self, response: Response) -> None:
        """It is closed."""
        self._open.discard(response)
        if response in self._idle:
            self._idle.remove(response)

    def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        for response in list(self._open):
            response.close()

    async def _connected(self) -> Response:
        """A new one."""
        loop, known = asyncio.get_running_loop(), self._addresses
        try:
            async with Countdown(self._connect, steps=_LOOKS, over=lambda steps, _: steps >= _LOOKS):
                addresses = await self._resolved()
                known = self._addresses
                while True:
                    made = await aiohappyeyeballs.start_connection(
                        addresses,
                        happy_eyeballs_delay=_FIRST_ALONE,
                        interleave=1,
                        loop=loop,
                        socket_factory=self._sockets.make if self._sockets is not None else None,
                    )
                    others = _others(addresses, made)
                    try:
                        _, response = await loop.create_connection(
                            lambda: Response(self),
                            sock=made,
                            ssl=self._tls,
                            server_hostname=self._host if self._tls is not None else None,
                        )
                        break
                    except OSError:
                        # It accepts, and then there is no TLS: one server of several may be out of order.
                        made.close()
                        if not others:
                            raise
                        addresses = others
                    except BaseException:
                        made.close()
                        raise
        except TimeoutError:
            self._doubt(known)
            raise NotAccepted from None
        except (OSError, UnicodeError) as error:  # the latter of a name that cannot be one
            self._doubt(known)
            raise Unreachable(self._host) from error
        self._open.add(response)
        return response

    def _doubt(self, known: tuple[list[Any], float]) -> None:
        """Look the host up again for the next call: it may have moved. Unless somebody has done so since."""
        if self._addresses is known and known[1] < math.inf:
            self._addresses = [], 0.0

    async def _resolved(self) -> list[Any]:
        """The addresses of the host, each time beginning with the next one, so that all of them get connections.

        Where several ask at once, one does.
        """
        loop = asyncio.get_running_loop()
        async with self._resolving:
            found, until = self._addresses
            if not found or loop.time() > until:
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                self._addresses = found, loop.time() + _NAMES_KEPT
            first = next(self._turn) % max(1, len(found))
            return [*found[first:], *found[:first]]


def _literal(host: str, port: int) -> list[Any]:
    """The address that is written for a name, as `getaddrinfo` gives it; none where it is a name."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return []
    if version == 4:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    return [(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))]


def _others(addresses: list[Any], made: socket.socket) -> list[Any]:
    """All but the one that this socket is connected to."""
    try:
        peer = made.getpeername()
    except OSError:  # it is gone again; mostly the first is the one
        peer = None
    others = [each for each in addresses if each[4] != peer]
    return others if len(others) < len(addresses) else addresses[1:]


def _lines(headers: Mapping[str, str]) -> bytes:
    """ValueError for a header that would be two."""
    written = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if written.count("\n") != len(headers) or written.count("\r") != len(headers):
        raise ValueError("a header with a line end")
    return written.encode()
