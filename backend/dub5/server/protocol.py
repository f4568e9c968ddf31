"""What a client may cost before its request is one: uvicorn's HTTP protocol with limits, and strict.

llhttp, the parser below, refuses nearly all that two readers could understand differently: two lengths, folded
headers, line feeds alone, odd chunks. What it lets through is refused here (see `on_header` and `on_headers_complete`).
A refusal has the contract's shape, comes after the answers to the requests before it, and ends the
connection: nothing that follows is read as a request.

What `dub5.api.recall` knows by its bytes is answered without the parser, between two requests. While such a request is
still coming it is held, unparsed, until it is whole or something else happens. One whose answer waits for Redis is
under way like any other, and nothing after it is parsed meanwhile.

Time: a connection waits for a request, sends one, or leaves our bytes unread, and each of these has a limit.
Connections stand in queues by what they wait for, in the order in which they began, so one timer for all, once a
second, looks only at the first of each; a request that arrives in one piece is in none. A request that has arrived
is under no limit here: an answer may be silent for as long as the provider may.

Memory: what all connections hold of requests that are not answered has one budget, `dub5.admission.arrivals`.

Room: requests sent ahead of their turn are parsed a slice at a time, none while one waits. When there
are too many connections the one that has waited longest without a request is closed for the new one, with a 503 if it
came a moment ago; if every connection has a request under way, the new one gets the 503. A few may be refused at the
same time, and while those have not left, further ones wait in the backlog (`accepting`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import random
import termios
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, cast

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from dub5.admission.arrivals import JOINED, SMALL_REQUEST, Arrivals, no_room
from dub5.api.origins import VARY, Headers, Hosts, Origins, Verdict
from dub5.api.recall import ARRIVAL, Arrival, Later
from dub5.errors import (
    Dub5Error,
    HeadTooLarge,
    InvalidRequest,
    Overloaded,
    RequestTimeout,
    UnknownHost,
    render,
)
from dub5.process.descriptors import refused_at_once
from dub5.telemetry.logging import get_logger
from dub5.telemetry.record import LEAVING, PUSH, RECORD, WHOLE, Outlet

MAX_HEAD = 64 * 2**10
"""Bytes of a request's head, to within one slice; also of whatever else is sent between two parts of a body."""

MAX_HEADERS = 100

_SLICE = 8 * 2**10
"""Bytes that are parsed at once: as many as may hold requests that wait for the one before them."""

_AHEAD = 64 * 2**10
"""Bytes sent ahead, from which on nothing is read."""

_ENOUGH = 64 * 2**10
"""Bytes that a client has to take within `write_timeout` where that many wait for it."""

_LINGER = 1.0
_LINGER_BYTES = 16 * 2**20
"""Seconds, and bytes, that are read after a refusal: a client that still sends would not see it otherwise."""

_SHORT_LINGER = 0.2
"""Seconds, where others wait to connect."""

_FRESH = 2.0
"""Seconds for which a connection is not closed silently for another one: its request may be on the way."""

_SWEEP = 1.0
_EXAMINED = 50
"""Idle connections of which one is chosen to go."""

_RECALLED_AT_ONCE = 16
"""Requests sent ahead that are answered without a parser before others have their turn."""

_IN_NAMES, _IN_VALUES = (
    bytes(code for code in range(256) if not wrong.search(bytes([code])))
    for wrong in (HEADER_RE, HEADER_VALUE_RE)
)
"""What a header's name and its value are made of: to take that away is faster than to look for the rest."""

_JOINED_BODY = 64 * 2**10
"""Bytes of a body that is copied to be sent together with its head."""

_NO_LIMIT = 2**60
_CLOSE = (b"connection", b"close")

_log = get_logger()

AnswerKnown = Callable[
    [bytes, int, "str | None", bytes, Callable[[bytes], None], Callable[["bytes | Arrival"], bool]],
    "int | Later | Arrival | None",
]
"""Answers a request that is known by its bytes: see `dub5.api.recall.Recall.answer`."""

Queue = OrderedDict["GuardedProtocol", float]
"""Connections, and since when they wait (the loop's clock), the longest first."""


class ConnectionLimits(msgspec.Struct, frozen=True):
    """Seconds; `idle` is without a request. `max_connections` may be passed by `refused_at_once` that are refused."""

    read_timeout: float
    write_timeout: float
    idle: float
    max_connections: int

    @property
    def most(self) -> int:
        return self.max_connections + refused_at_once(self.max_connections)


class Connections(ServerState):
    """All connections of one listener. `on_refused` is called with the reason for each one that is refused.

    `hosts` are the names that it is called by, `origins` the web pages that may read why they are refused. `recall`
    answers what it can before it is parsed.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        on_refused: Callable[[str], None],
        arrivals: Arrivals | None = None,
        *,
        hosts: Hosts | None = None,
        origins: Origins | None = None,
        recall: AnswerKnown | None = None,
    ) -> None:
        super().__init__()
        self.recall = recall
        self._opening, self._opening_headers = b"", cast("Headers", [])
        self.hosts = hosts if hosts is not None else Hosts()
        self.origins = origins if origins is not None else Origins()
        self.arrivals = arrivals if arrivals is not None else Arrivals(_NO_LIMIT)
        self.limits = limits
        self.on_refused = on_refused
        self.idle: Queue = OrderedDict()
        self.sending: Queue = OrderedDict()
        self.unread: Queue = OrderedDict()
        self.leaving: Queue = OrderedDict()
        self.on_room: Callable[[], None] | None = None
        """Called when a connection has ended."""
        self._closed_for_room = 0

    def has_room(self, opening: int, now: float) -> bool:
        """Whether one more may be accepted; `opening` were accepted, and are yet to be admitted.

        Where not, a connection that can be spared is closed, which takes effect in one of the next turns of the loop.
        """
        if len(self.connections) + opening < self.limits.most:
            return True
        if not self.close_idle(now):
            for connection in _due(self.leaving, now - _SHORT_LINGER):
                connection.cut()
        return False

    def admit(self, newcomer: GuardedProtocol, now: float) -> None:
        """Take it in, and close one where there are too many."""
        self.idle[newcomer] = now
        if len(self.connections) - len(self.leaving) <= self.limits.max_connections or self.close_idle(now):
            return
        self._count_closed()
        fresh = self._longest_idle()
        if fresh is None or fresh is newcomer:
            fresh = next(iter(self.sending), newcomer)
        fresh.evict()

    def close_idle(self, now: float) -> bool:
        """Close the connection that has waited longest without a request; whether there was one to close."""
        idle = self._longest_idle()
        if idle is None or self.idle[idle] > now - _FRESH:
            return False
        self._count_closed()
        idle.close()
        return True

    def unhold(self) -> None:
        """Have parsed what has begun to come on any connection: it is judged as of now."""
        for connection in list(self.connections):
            cast("GuardedProtocol", connection).unhold()

    def _longest_idle(self) -> GuardedProtocol | None:
        for idle in islice(self.idle, _EXAMINED):
            if idle not in self.unread and not idle.has_sent():
                return idle
        return None

    def _count_closed(self) -> None:
        self._closed_for_room += 1
        self.on_refused("too_many")

    def opening(self, status: int = 200) -> bytes:
        """The first lines of an answer."""
        if self._opening_headers is not self.default_headers:  # renewed each second
            self._opening_headers = self.default_headers
            self._opening = b"".join([b"%b: %b\r\n" % header for header in self.default_headers])
        return STATUS_LINE[status] + self._opening

    def forget(self, connection: GuardedProtocol) -> None:
        if connection.charge:
            self.arrivals.charge(connection, 0, incomplete=False)
        for queue in (self.idle, self.sending, self.unread, self.leaving):
            queue.pop(connection, None)

    async def watch(self) -> None:
        """`sweep`, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP)
            self.sweep(loop.time())

    def sweep(self, now: float) -> None:
        """Close what has waited for too long."""
        limits = self.limits
        for connection in _due(self.idle, now - limits.idle):
            connection.close()
        for connection in _due(self.sending, now - limits.read_timeout):
            connection.refuse(RequestTimeout(limits.read_timeout), "slow_request")
        for connection in _due(self.unread, now - limits.write_timeout):
            connection.check_unread(now)
        for connection in _due(self.leaving, now - _LINGER):
            connection.cut()
        if self._closed_for_room:
            _log.warning(
                "too many connections", closed=self._closed_for_room, max_connections=limits.max_connections
            )
            self._closed_for_room = 0


def _due(queue: Queue, before: float) -> Iterator[GuardedProtocol]:
    """Take out those that have waited since `before` or longer, one by one: where ending one fails, the others stay."""
    while queue:
        connection, since = next(iter(queue.items()))
        if since > before:
            return
        del queue[connection]
        yield connection


class _Unheard:
    """Of a request of which nothing is left to read: nobody waits for more of it."""

    def set(self) -> None:
        """Nothing."""


_UNHEARD = _Unheard()


class _Asking(RequestResponseCycle):
    """Of a client that asks whether to send its body (`Expect: 100-continue`).

    One that is answered instead need not send it. What comes next would be read as that body, be it another request, so
    the connection ends.
    """

    async def send(self, message: Any) -> None:
        if self.waiting_for_100_continue and self.more_body and not self.body:
            self.keep_alive = False
        await super().send(message)


class _Unchunked(RequestResponseCycle):
    """Of a client that speaks HTTP/1.0, which knows no chunks (RFC 9112 section 6.1): an answer without a length ends
    with the connection."""

    _to_the_end = False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._to_the_end = all(name.lower() != b"content-length" for name, _ in message["headers"])
            if self._to_the_end:
                self.chunked_encoding = False
        elif self._to_the_end:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class _Flow(FlowControl):
    """Reading that stays paused while it is held, though uvicorn resumes it."""

    held = False

    def hold(self) -> None:
        self.held = True
        self.pause_reading()

    def release(self) -> None:
        self.held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        if not self.held and not self._transport.is_closing():
            super().resume_reading()


class GuardedProtocol(HttpToolsProtocol):
    """One connection. The server's state must be `Connections`."""

    flow: _Flow

    def __init__(
        self,
        config: Config,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all = server_state
        self._running: RequestResponseCycle | None = None  # the newest one, which may still wait, is `cycle`
        self._own: str | None = None  # the address that it came to
        self._answered = False  # a request at least
        self._arrival: Arrival | None = None
        self._held = 0  # bytes until which nothing is parsed: a request that may be answered when it is whole
        self._asked = b""  # a request whose answer, or which itself, comes back from `recall`
        self._leaves = False  # after that
        self._leaving: Callable[[], None] | None = None  # called when the client leaves
        self._outlet: Outlet | None = None
        self._unparsed = b""
        self._over = False  # nothing that comes is parsed any more
        self._pending_refusal: bytes | None = None  # sent when the requests before it are answered
        self._begun = self._headed = False  # the message now arriving: its first byte, its head
        self._hosts, self._host = 0, b""
        self._good_host: bytes | None = None  # what the requests before this one named
        self._advanced = False
        self._overhead = 0
        self._discarded = 0
        self._unread_before = 0
        self.charge = 0
        self._arrived = self._waiting = 0  # bytes: of what is incomplete; of large requests that wait

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._own = self.server[0] if self.server is not None else None
        self._all.admit(self, self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        self.unhold()
        self._all.forget(self)
        self._unparsed = b""
        self.pipeline.clear()
        self._disconnect()
        super().connection_lost(exc)
        if self._all.on_room is not None:
            self._all.on_room()

    def data_received(self, data: bytes) -> None:
        everything, recalled = self._all, None
        everything.idle.pop(self, None)
        if self._over:
            self._discard(data)
            return
        if everything.recall is not None and not (
            self._unparsed or self._begun or self._asked or self._arrived
        ):
            recalled = self._recall(everything.recall, data)
            if recalled == len(data):  # as a rule
                return
        self._unparsed = self._unparsed + data if self._unparsed else data
        size = len(data)
        if recalled is not None or not self._asked:
            size -= self._parse(recalled)
        elif len(self._unparsed) > _AHEAD:
            self.flow.hold()
        if self._begun or self._arrived or size > SMALL_REQUEST:
            self._account(size)

    def pause_writing(self) -> None:
        self._shut()
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._all.unread.pop(self, None)

    # Parsing

    def _parse(self, recalled: int | None = None) -> int:
        """Until a request has to wait for the one before it. Gives the bytes of those that were answered at once, which
        are `recalled` where that was tried already."""
        data, recall = self._unparsed, self._all.recall
        if recalled is None and self._held:
            if len(data) < self._held:
                return 0
            self._held, self._begun = 0, False
            self._all.sending.pop(self, None)
        if recalled is None:
            recalled = self._recall(recall, data) if data and not self._begun and recall is not None else 0
        done = recalled
        if self._asked:
            self._unparsed = data[done:]
            return recalled
        if self._held:
            self._unparsed = data[done:]
            self._begun, self._headed = True, False
            self._all.sending.setdefault(self, self.loop.time())
            return recalled
        while done < len(data) and not self.pipeline and not self._over:
            done += self._feed(data[done : done + _SLICE])
        self._unparsed = b"" if self._over else data[done:]
        if self._over:
            return recalled
        # In the queue for what this connection waits for now.
        if self.pipeline:  # it is in no queue until they are answered
            self._all.sending.pop(self, None)
            if len(self._unparsed) > _AHEAD:
                self.flow.hold()
            else:  # only a connection that is read notices that its client leaves
                self.flow.resume_reading()
        elif self._begun:
            self._all.sending.setdefault(self, self.loop.time())
        elif not self._under_way:
            self._all.idle.setdefault(self, self.loop.time())
        return recalled

    def _recall(self, recall: AnswerKnown, data: bytes) -> int:
        """Answer the requests at the beginning of `data` that are known, some at most; where they end."""
        done, everything, flow, transport = 0, self._all, self.flow, self.transport
        self._arrival = None
        if self._under_way:
            return done
        opening = everything.opening()
        for _ in range(_RECALLED_AT_ONCE):
            if flow.write_paused or transport.is_closing():
                break
            found = recall(data, done, self._own, opening, transport.write, self._on_recalled)
            if isinstance(found, int):
                done = found
                self._answered = True
                everything.total_requests += 1
                if done == len(data):
                    everything.idle[self] = self.loop.time()
                    break
            elif isinstance(found, Later):
                self._asked = data[done : found.end]
                return found.end
            else:
                if found is not None and found.read is not None:
                    self._begin_read(found)
                    return found.read.end
                if found is not None and found.end:
                    self._held = found.end - done
                self._arrival = found
                break
        return done

    def _begin_read(self, arrival: Arrival) -> None:
        """Have a request answered the ordinary way of which nothing is left to read."""
        read = arrival.read
        assert read is not None  # noqa: S101  # for mypy
        record = read.question.record
        scope: Any = {
            "type": "http",
            "http_version": "1.1",
            "method": record.method,
            "path": record.route,
            "query_string": b"",
            "headers": (),
            "client": self.client,
            RECORD: record,
            ARRIVAL: arrival,
            WHOLE: self._whole,
            LEAVING: self._on_leaving,
        }
        self._running = self.cycle = cycle = RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self._all.default_headers,
            message_event=cast("asyncio.Event", _UNHEARD),
            expect_100_continue=False,
            keep_alive=True,
            on_response=self.on_response_complete,
        )
        cycle.more_body = False
        self._start_asgi_task(cycle, self.app)

    def _on_recalled(self, found: bytes | Arrival) -> bool:
        """What was asked is answered, or has to be parsed. False where the client has left."""
        raw, self._asked = self._asked, b""
        if self.transport.is_closing():
            return False
        if isinstance(found, bytes):
            if self._leaves:
                found = found.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1)
            self.transport.write(found)
        elif found.read is not None:
            self._begin_read(found)
        else:
            self._arrival = found
            for start in range(0, len(raw), _SLICE):
                self._feed(raw[start : start + _SLICE])
        if self._leaves:
            super().shutdown()
        if isinstance(found, bytes):
            self.on_response_complete()
        return True

    @property
    def _under_way(self) -> bool:
        """Whether a request is answered now."""
        return bool(self._asked) or (self._running is not None and not self._running.response_complete)

    def unhold(self) -> None:
        """Have parsed what was held: something else happens before it is whole."""
        if self._held:
            self._held, self._begun = 0, False
            data, self._unparsed = self._unparsed, b""
            for start in range(0, len(data), _SLICE):
                self._feed(data[start : start + _SLICE])

    def _feed(self, part: bytes) -> int:
        """How much of `part` was parsed."""
        self._advanced = False
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade()
            consumed: int = upgrade.args[0]
            return consumed
        except httptools.HttpParserError as error:
            self.refuse(_refusal_of(error))
            return len(part)
        self._overhead = 0 if self._advanced else self._overhead + len(part)
        if self._overhead > MAX_HEAD:
            self.refuse(HeadTooLarge(f"The request's head is larger than {MAX_HEAD} bytes."))
        return len(part)

    def _ignore_upgrade(self) -> None:
        """Read the request as the HTTP/1.1 that it is. Java's client asks for h2c with each first request.

        The parser has left the body aside, for it expects another protocol there. So a new one gets the head
        again, without that header, and then the body.
        """
        headers = [(name, value) for name, value in self.headers if name != b"upgrade"]
        lines = [b"%b: %b\r\n" % header for header in headers]
        version = self.parser.get_http_version().encode()
        self._arrival = None  # its bytes were read otherwise
        start = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"".join([start, *lines, b"\r\n"]))

    def _account(self, size: int) -> None:
        """`size` more bytes are here."""
        if self._over:
            return
        size += self._arrived
        if self._begun:
            self._arrived = size
        else:
            self._arrived = 0
            self._waiting += size if size > SMALL_REQUEST else 0
        charge = JOINED * (self._arrived + self._waiting)
        self._all.arrivals.charge(self, charge, incomplete=self._begun)

    # What the parser calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun, self._headed, self._hosts = True, False, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed:  # a trailer must not pass for a header: RFC 9110 section 6.5.1
            return
        if len(self.headers) >= MAX_HEADERS:
            raise HeadTooLarge(f"The request has more than {MAX_HEADERS} headers.")
        name = name.lower()
        if name == b"host":
            self._hosts += 1
            self._host = value
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            raise _malformed("has a Transfer-Encoding other than chunked")
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._advanced = True
        version = self.parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise _malformed("is not HTTP/1.1")
        if self._hosts != 1 and (self._hosts or version == "1.1"):  # RFC 9112 section 3.2
            raise _malformed("needs exactly one Host header")
        if version == "1.0" and any(name == b"transfer-encoding" for name, _ in self.headers):
            raise _malformed("has a Transfer-Encoding, which HTTP/1.0 does not know")
        if self.parser.get_method() == b"CONNECT":
            raise _malformed("asks for a tunnel")
        if self._hosts and (self._host != self._good_host or self.url[:1] != b"/"):
            self._check_host()
        if self.parser.should_upgrade():  # it comes again
            return
        if self._arrival is not None:  # the one at whose beginning the parser was
            self.scope[ARRIVAL] = self._arrival  # type: ignore[literal-required]
            self._arrival = None
        if version == "1.0":  # whose clients know no answer before the answer: RFC 9110 section 10.1.1
            self.expect_100_continue = False
        super().on_headers_complete()
        if version == "1.0":
            self.cycle.__class__ = _Unchunked
        elif self.expect_100_continue:
            self.cycle.__class__ = _Asking
        values: dict[str, Any] = self.scope  # type: ignore[assignment]
        values[PUSH], values[WHOLE], values[LEAVING] = self._push, self._whole, self._on_leaving
        self._headed = True
        if not self.pipeline or self.pipeline[0][0] is not self.cycle:
            self._running = self.cycle

    def _check_host(self) -> None:
        if b"://" in self.url and self.url[:1] != b"/" and self._authority() != self._host.lower():
            raise _malformed("names one host in its target and another one in its Host header")
        verdict = self._all.hosts.judge(self._host, self._own)
        if verdict is Verdict.MALFORMED:
            raise _malformed("has an invalid Host header")
        if verdict is Verdict.UNKNOWN:
            raise UnknownHost(self._host.decode())
        self._good_host = self._host

    def _authority(self) -> bytes:
        """Of a target that is a whole URL, as for a proxy."""
        return self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0].lower()

    def on_body(self, body: bytes) -> None:
        self._advanced = True
        if self.cycle.response_complete:
            self._discard(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._advanced = True
        if self._headed:
            self._begun = False
            self._all.sending.pop(self, None)
            super().on_message_complete()

    # Requests and their answers

    def _push(self) -> Outlet | None:
        """See `telemetry.record.Push`: for the request that is being answered, and as its cycle writes it."""
        cycle = self._running
        if cycle is None or cycle.disconnected or cycle.response_complete:
            return None
        if self.flow.write_paused or not cycle.chunked_encoding:
            return None
        if self._outlet is None:
            self._outlet = Outlet(self.transport)
        return self._outlet

    def _shut(self) -> None:
        """Nothing is pushed until somebody asks again."""
        if self._outlet is not None:
            self._outlet.open, self._outlet = False, None

    def _on_leaving(self, call: Callable[[], None] | None) -> None:
        """See `telemetry.record.OnLeaving`: of the client whose request is being answered."""
        self._leaving = call
        if call is not None:
            self.flow.resume_reading()  # else nobody notices
            if self._running is None or self._running.disconnected:
                self.loop.call_soon(self._tell_leaving)

    def _tell_leaving(self) -> None:
        call, self._leaving = self._leaving, None
        if call is not None:
            call()

    def _whole(self, status: int, headers: Headers, body: bytes) -> bool:
        """See `telemetry.record.Whole`: what the cycle does with head and body, where nothing is unusual."""
        cycle = self._running
        if cycle is None or cycle.response_started or cycle.access_log or self.flow.write_paused:
            return False
        if cycle.disconnected or cycle.scope["method"] == "HEAD" or len(body) > _JOINED_BODY:
            return False
        names, values = zip(*headers, strict=True)
        if b"".join(names).translate(None, _IN_NAMES) or b"".join(values).translate(None, _IN_VALUES):
            return False  # it is raised there
        if headers[names.index(b"content-length")][1] != b"%d" % len(body) or b"transfer-encoding" in names:
            return False
        lines = [b"%b: %b\r\n" % header for header in headers]
        if b"connection" in names:
            if _CLOSE not in headers:
                return False
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            lines.append(b"%b: %b\r\n" % _CLOSE)
        opening = self._all.opening(status)
        self.transport.write(b"".join((opening, *lines, b"\r\n", body)))
        cycle.response_started = cycle.response_complete = True
        cycle.chunked_encoding = cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def on_response_complete(self) -> None:
        self._shut()
        self._leaving = None  # what becomes of the connection from here on is the next request's
        self._all.total_requests += 1
        self._answered = True
        if self._waiting:
            self._waiting = 0
            self._all.arrivals.charge(self, JOINED * self._arrived, incomplete=self._begun)
        if self.transport.is_closing():
            self._watch_unread()
            return
        if self.pipeline:
            self._running, app = self.pipeline.pop()
            self._start_asgi_task(self._running, app)
        elif self._pending_refusal is not None:
            self._send_refusal(self._pending_refusal)
            return
        if not self.pipeline and not self._over:
            if self.flow.held or self.flow.read_paused:
                self.flow.release()
            if self._unparsed or self._begun:
                self._parse()
            elif not self._under_way:
                self._all.idle.setdefault(self, self.loop.time())

    def shutdown(self) -> None:
        if self._asked:
            self._leaves = True
            return
        self.unhold()
        super().shutdown()
        if self.transport.is_closing():
            self._watch_unread()

    # Endings

    def refuse(self, error: Dub5Error, reason: str = "malformed") -> None:
        """Read nothing more; say why as soon as the requests before are answered, then close."""
        self.unhold()
        self._over, self._unparsed = True, b""
        self._all.forget(self)
        if isinstance(error, HeadTooLarge):
            reason = "head_too_large"
        elif isinstance(error, UnknownHost):
            reason = "host"
        if reason != "too_many":
            self._all.on_refused(reason)
        before = self._under_way
        if self._begun and self._headed:  # this very request was handed over
            if self.cycle is not self._running:
                self.pipeline.popleft()
            elif self.cycle.response_started:
                self.cut()
                return
            else:
                self._disconnect()
                before = False
        refusal = self._rendered(error, reason)
        self._let_go()
        if before:
            self._pending_refusal = refusal
        else:
            self._send_refusal(refusal)

    def _let_go(self) -> None:
        """Of what has arrived of a request that will not be answered: the connection may live for a while yet."""
        if not self._begun:
            return
        if not self._headed:
            self.headers.clear()
            self.url = b""
        elif self.cycle.disconnected:
            self.cycle.body = bytearray()

    def has_sent(self) -> bool:
        """Whether there is something to read: in a busy hour a whole request may wait to be read."""
        waiting = array("i", [0])
        with contextlib.suppress(OSError, AttributeError):
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, waiting)
        return waiting[0] > 0

    def give_way(self) -> None:
        """Refuse: there is no memory for what this connection sends."""
        self._arrived = self._waiting = 0
        self.refuse(no_room(), "memory")

    def evict(self) -> None:
        """Refuse: there is no room for this connection's request. One that had an answer before is closed silently.

        Clients expect that of a connection that they keep.
        """
        if self._answered and not self._under_way and not self._begun:
            self.close()
            return
        self.refuse(Overloaded("Too many connections.", retry_after=1), "too_many")

    def close(self) -> None:
        """Once what was written is taken, and without waiting long for that."""
        self._all.forget(self)
        self._watch_unread()
        self.transport.close()

    def cut(self) -> None:
        """Now."""
        self._all.forget(self)
        self._disconnect()
        self.transport.abort()

    def check_unread(self, now: float) -> None:
        """`write_timeout` has passed: has the client taken enough meanwhile?"""
        unread = self.transport.get_write_buffer_size()
        if self._unread_before - unread >= _ENOUGH:
            self._unread_before = unread
            self._all.unread[self] = now
        elif unread:
            self._all.on_refused("slow_reader")
            self.cut()

    def _watch_unread(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread and self not in self._all.unread:
            self._unread_before = unread
            self._all.unread[self] = self.loop.time()

    def _disconnect(self) -> None:
        """Notify the application, also where a later request has come: uvicorn would notify only that one's."""
        self._shut()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
            self._tell_leaving()

    def _send_refusal(self, refusal: bytes) -> None:
        """The connection closes when the client does, or a moment later."""
        if self.transport.is_closing():
            return
        self.transport.write(refusal)
        self.transport.write_eof()
        self.flow.release()
        self._all.leaving[self] = self.loop.time()

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > _LINGER_BYTES:
            self.cut()

    def _rendered(self, error: Dub5Error, reason: str) -> bytes:
        """As the application would answer."""
        request_id = random.randbytes(16).hex()  # noqa: S311  # an id, no secret
        _log.info("connection refused", request_id=request_id, status=error.status, reason=reason)
        rendered = render(error)
        headers = [
            *self._all.default_headers,
            *(header for header in rendered.headers if header != _CLOSE),
            (b"content-length", str(len(rendered.body)).encode()),
            (b"x-request-id", request_id.encode()),
            _CLOSE,
            *self._cors_headers(),
        ]
        lines = [b"%b: %b\r\n" % header for header in headers]
        return b"".join([STATUS_LINE[rendered.status], *lines, b"\r\n", rendered.body])

    def _cors_headers(self) -> Iterable[tuple[bytes, bytes]]:
        """What lets the page read it that has sent this request; of half a head maybe nothing."""
        if not self._all.origins:
            return ()
        headers = self.headers if self._begun else []
        origin = next((value for name, value in headers if name == b"origin"), None)
        return self._all.origins.headers(origin.decode("latin-1") if origin is not None else None) or (VARY,)


def _refusal_of(error: httptools.HttpParserError) -> Dub5Error:
    """Our own reason where a callback raised one; llhttp's are fixed sentences."""
    if isinstance(error, httptools.HttpParserCallbackError):
        # Of any other the context is what is handled while it is raised: perhaps the answer to the request before.
        if isinstance(error.__context__, Dub5Error):
            return error.__context__
        return _malformed("has an invalid target")
    return _malformed(f"cannot be understood: {error}".rstrip("."))


def _malformed(what: str) -> InvalidRequest:
    return InvalidRequest(f"The HTTP request {what}.")
