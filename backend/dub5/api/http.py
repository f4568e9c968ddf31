"""HTTP in and HTTP out: what every request passes before it comes to its route; then, for raw ASGI routes, headers, a
bounded body, JSON or events, and a client that leaves.

Each part of what every request passes costs the usual one a comparison.

Requests that browsers send: pages of other origins stay out, those that are allowed may read what comes. What
`dub5.api.origins` decides by no page can leave out or change, and no program sends it, but for desktop programs that
are browsers inside and have an odd origin: their key lets them in.

A replica that is leaving puts `Connection: close` on what it still answers, and refuses with 503 what comes too late.

Questions go straight to their routes. What the router, the exception handling and the copies of a framework cost per
request is a tenth of a hit.

For the usual request none of this has a coroutine of its own: each chunk of a stream would wake that one, too.

A streamed answer has silences: proxies cut a connection on which nothing comes for a minute or so, and models think for
longer. So after each interval without a byte the client gets a comment, which readers of server-sent events pass over;
the first one brings the head with it, if that has not gone. Until then a failure can have its true status.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Protocol, Self, cast

import msgspec
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from dub5.admission.drain import Drain
from dub5.admission.keys import KeyRing
from dub5.admission.limits import Grant
from dub5.api.origins import BROWSER_HEADERS, VARY, Origins, is_foreign, is_preflight, preflight_headers
from dub5.api.paths import canonical
from dub5.cache.flights import Following
from dub5.chat.answer import Writer
from dub5.contract import TAG
from dub5.errors import (
    Dub5Error,
    ErrorResponse,
    ForeignOrigin,
    InvalidRequest,
    RequestTooLarge,
    render,
    shutting_down,
)
from dub5.frames import Frame
from dub5.settings.model import Duration
from dub5.telemetry.record import (
    HEARTBEAT,
    LEAVING,
    WHOLE,
    OnLeaving,
    Outlet,
    Push,
    RequestRecord,
    Whole,
    record_of,
)

Headers = list[tuple[bytes, bytes]]

_TAG = re.compile(TAG)
_MAX_TAGS = 16
_LONGEST_TAGS = 4096
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_CLIENT_TIMEOUTS = ("x-stainless-read-timeout", "x-stainless-timeout")
"""Seconds, sent by OpenAI's Python and JavaScript clients."""

TIMEOUTS = frozenset({"x-dub5-timeout", *_CLIENT_TIMEOUTS})
"""Headers of which `deadlines_of` makes something."""

READ = frozenset(
    {"authorization", "x-api-key", "anthropic-beta", "cache-control", "x-dub5-cache-tags", *TIMEOUTS}
    | {"content-type", "content-encoding", "content-length", "expect", "host", "origin", "if-none-match"}
    | {"sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"}
    | {f"access-control-request-{what}" for what in ("method", "headers", "private-network")}
)
"""All headers that routes here read, beside ids and traces; `headers_of` gives no others. So requests that differ only
in others are answered alike, which recall.py relies on."""

_NAMES = {name.encode(): name for name in READ}

_DISCARDED = 16 * 2**20
"""Bytes of a body that is refused, which we are ready to read for politeness."""

_SENDING = math.inf
"""Silent since then: not yet."""

JSON = (b"content-type", b"application/json")
EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
CLOSE = (b"connection", b"close")


class HttpRoute(Protocol):
    """What answers at one path without a framework."""

    path: str

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def render(self, error: Dub5Error, record: RequestRecord) -> ErrorResponse:
        """An error in the shape of the protocol that is spoken there."""
        ...


class Entrance:
    """Takes a request for one of the `routes` there, and any other to `app`.

    A path without its version is as good as with it, and HEAD is answered wherever GET is.
    `keys` are None where none opens anything. Callers that are no browsers are known by the names of their headers.
    """

    def __init__(
        self,
        app: ASGIApp,
        origins: Origins,
        *,
        keys: KeyRing | None = None,
        drain: Drain | None = None,
        routes: Iterable[HttpRoute] = (),
    ) -> None:
        self._app = app
        self._origins = origins
        self._keys = keys
        self._drain = drain or Drain()
        self._routes = {route.path: route for route in routes}
        self._by_path: dict[str, ASGIApp] = {path: route.handle for path, route in self._routes.items()}
        self._varies = bool(origins)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        for name, _ in scope["headers"]:
            if name in BROWSER_HEADERS:
                answered = self._for_browser(cast("HTTPScope", scope), send)
                if answered is not None:
                    return answered
                break
        else:
            if self._varies:
                record_of(scope).answer_headers = [VARY]
        app = self._by_path.get(scope["path"], self._elsewhere)
        if self._drain.state != "serving":
            return self._leaving(app, scope, receive, send)
        return app(scope, receive, send)

    def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["path"] = canonical(scope["path"])
        app = self._by_path.get(scope["path"], self._app)
        if scope["method"] == "HEAD":  # type: ignore[typeddict-item]
            return _head(app, scope, receive, send)
        return app(scope, receive, send)

    def _for_browser(self, scope: HTTPScope, send: Send) -> Awaitable[None] | None:
        """The answer to a preflight, or to a page that may not call; None where the request goes on."""
        headers, method = headers_of(scope), scope["method"]
        record = record_of(scope)
        if self._varies:
            record.answer_headers = [VARY]
        allowed = self._origins.headers(headers.get("origin"))
        if allowed is not None:
            record.answer_headers = allowed
            return _permit(send, headers) if is_preflight(method, headers) else None
        if is_foreign(method, headers) and not self._has_key(headers):
            record.error_code = ForeignOrigin.code
            return self._refuse(scope, send, ForeignOrigin(headers.get("origin")))
        return None

    def _has_key(self, headers: dict[str, str]) -> bool:
        if self._keys is None or not self._keys.configured:
            return False
        try:
            self._keys.authenticate(key_of(headers))
        except Dub5Error:
            return False
        return True

    def _refuse(self, scope: Scope, send: Send, error: Dub5Error) -> Awaitable[None]:
        """In the shape of the protocol that is spoken at that path."""
        route = self._routes.get(canonical(scope["path"]))
        return send_error(
            send, error, rendered=None if route is None else route.render(error, record_of(scope))
        )

    async def _leaving(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Send clients elsewhere while the replica leaves."""
        cast("dict[str, Any]", scope).pop(WHOLE, None)  # it knows nothing of that

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and CLOSE not in message["headers"]:
                message["headers"] = [*message["headers"], CLOSE]
            await send(message)

        if self._drain.state == "lingering":
            await app(scope, receive, closing)
        else:
            await self._refuse(scope, closing, shutting_down())


async def _permit(send: Send, headers: dict[str, str]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": preflight_headers(headers)})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """As GET: the server sends no body, for it knows the scope as it was."""
    as_get: Any = {**scope, "method": "GET"}
    record = record_of(scope)
    await app(as_get, receive, send)
    record.route = as_get.get("path_template", record.route)


class ClientLeft(Exception):
    """The client closed its connection before the answer was complete."""


def headers_of(scope: Scope) -> dict[str, str]:
    """Request headers that are in READ, by lower-case name; a repeated one is joined by commas, as RFC 9110 says."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name = _NAMES.get(raw_name)
        if name is not None:
            value = raw_value.decode("latin-1")
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


async def read_body(headers: dict[str, str], receive: Receive, limit: int) -> bytes:
    """The body, counted while it arrives. RequestTooLarge past `limit` bytes; ClientLeft where it breaks off."""
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        if headers.get("expect", "").lower() != "100-continue":  # else it has not begun to send
            await _discard(receive)
        raise too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            await _discard(receive)
            raise too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _discard(receive: Receive) -> None:
    """Read on for a moment: a client that is still sending would not see an answer before a closed connection."""
    left = _DISCARDED
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while left > 0:
                message: Any = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))


def too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The body is larger than {limit} bytes, which is what `server.max_body` allows.", param="body"
    )


def require_json(headers: dict[str, str]) -> None:
    """InvalidRequest where the body is not declared to be JSON, or is compressed.

    A form, plain text and bytes of no declared type are what a foreign web page may send without asking; this keeps
    it out also where a browser says nothing of the page. Compressed bodies are refused, for a small one can hide a
    huge one.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        declared = f"is declared as {kind[:100]}" if kind else "has no Content-Type"
        raise InvalidRequest(f"The body must be application/json, and {declared}.", param="Content-Type")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise InvalidRequest("Compressed bodies are not accepted.", param="Content-Encoding")


def parse_tags(written: str, *, field: str = "X-Dub5-Cache-Tags") -> tuple[str, ...]:
    """Tags of the header, or of another `field`: at most 16 of at most 64 characters; InvalidRequest otherwise."""
    if not written:
        return ()
    if len(written) > _LONGEST_TAGS:
        raise InvalidRequest(f"The cache tags are longer than {_LONGEST_TAGS} characters.", param=field)
    tags = tuple(tag for tag in (part.strip() for part in written.split(",")) if tag)
    if len(tags) > _MAX_TAGS:
        raise InvalidRequest(f"At most {_MAX_TAGS} cache tags.", param=field)
    if any(not _TAG.fullmatch(tag) for tag in tags):
        raise InvalidRequest(
            "A cache tag is 1 to 64 letters, digits or . _ : / - and begins with a letter or digit.",
            param=field,
        )
    return tags


class Deadlines(msgspec.Struct, frozen=True):
    """Until when a caller waits for the first byte and for the whole answer, in seconds of time.monotonic.

    None: as long as it takes.
    """

    first_byte: float | None = None
    whole: float | None = None


NO_DEADLINES = Deadlines()


def deadlines_of(headers: dict[str, str], now: float) -> Deadlines:
    """What `X-Dub5-Timeout` says, and what the official clients send of their own timeouts without being asked.

    Theirs are for the next byte; a value that we do not understand is theirs to change, so it is passed over.
    InvalidRequest where ours is not a number of seconds or a duration such as `500ms`.
    """
    written = headers.get("x-dub5-timeout")
    whole = _seconds(written) if written is not None else None
    if written is not None and not whole:
        raise InvalidRequest(
            "The time-out must be a number of seconds above 0 and below ten years, or a duration such as 500ms.",
            param="X-Dub5-Timeout",
        )
    timeouts = [whole, *(_seconds(headers[name]) for name in _CLIENT_TIMEOUTS if name in headers)]
    first_byte = min((each for each in timeouts if each), default=None)
    return Deadlines(
        now + first_byte if first_byte is not None else None, now + whole if whole is not None else None
    )


def _seconds(written: str) -> float | None:
    """None where it is neither a number of seconds nor a duration."""
    try:
        return float(Duration.parse(float(written) if _NUMBER.fullmatch(written) else written))
    except ValueError:
        return None


async def send_whole(
    send: Send, status: int, headers: Headers, body: bytes, whole: Whole | None = None
) -> None:
    """Head and body in one go, by what sends a whole answer at once where there is that."""
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    if whole is not None and whole(status, headers, body):
        return
    start: Message = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})


def rate_headers(grant: Grant | None) -> Headers:
    return [] if grant is None else [(name.encode(), value.encode()) for name, value in grant.headers.items()]


def key_of(headers: dict[str, str]) -> str:
    """The key as `Authorization` has it, also where it came as Anthropic's clients send theirs."""
    given = headers.get("authorization", "")
    if not given and "x-api-key" in headers:
        return f"Bearer {headers['x-api-key']}"
    return given


async def send_error(
    send: Send, error: Dub5Error, headers: Headers | None = None, rendered: ErrorResponse | None = None
) -> None:
    """An error with further headers; as it is `rendered`, else in OpenAI's shape."""
    rendered = rendered or render(error)
    await send_whole(send, rendered.status, [*rendered.headers, *(headers or ())], rendered.body)


class ClientWatch(msgspec.Struct):
    """Once begun, cancels the task that began it as soon as the client closes its connection; then it has `left`.

    An ASGI application learns of a client that left only by asking, and sending to it succeeds silently; where the
    server tells, no task has to ask (`leaving`). Whoever meets the cancellation has to take it back, as asyncio.timeout
    does, and `end` the watch in any case.
    """

    receive: Receive
    leaving: OnLeaving | None = None
    left: bool = False
    task: asyncio.Task[Any] | None = None
    watcher: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> Self:
        """Of the client whose request this is."""
        return cls(receive, cast("OnLeaving | None", scope.get(LEAVING)))

    def begin(self) -> None:
        self.task = asyncio.current_task()
        if self.leaving is not None:
            self.leaving(self._on_left)
        else:
            self.watcher = asyncio.create_task(self._watch())  # noqa: TID251  # cancelled by whoever began it

    def end(self) -> None:
        if self.leaving is not None and self.task is not None:
            self.leaving(None)
        if self.watcher is not None:
            self.watcher.cancel()
            self.watcher = None  # its traceback leads back here: a cycle would keep the whole request

    async def _watch(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self._on_left()

    def _on_left(self) -> None:
        self.left = True
        if self.task is not None:
            self.task.cancel()


@contextlib.asynccontextmanager
async def while_client_stays(watch: ClientWatch) -> AsyncIterator[None]:
    """Cancel what runs inside as soon as the client closes its connection, and raise ClientLeft."""
    watch.begin()
    try:
        yield
    except asyncio.CancelledError:
        if not watch.left or (watch.task is not None and watch.task.uncancel()):
            raise
        raise ClientLeft from None
    finally:
        watch.end()


async def kept(writer: Writer, completion: bytes | None) -> None:
    """Before the last of an answer is written: some writers keep answers, for clients that refer to them later.

    `completion` is None where its frames have been written.
    """
    keep = getattr(writer, "keep", None)
    if keep is not None:
        await keep(completion)


_current_task: Callable[[], asyncio.Task[Any]] = asyncio.current_task  # type: ignore[assignment]  # in a coroutine


class EventStream(msgspec.Struct):
    """One streamed answer on its way to one client, with heartbeats in its silences: head and SSE comments.

    To be closed. `interval` is in seconds, 0 for no heartbeat. `longest`, in seconds since the head has gone, is how
    long it may take: then it has `expired`, and the task that it was made in is cancelled; `unread` says that it waited
    for its client then.

    One timer for a whole stream, which what is sent moves only by noting when. Where it fires in a silence a task
    sends the comment. Everything else waits for that task before it sends, and the timer for what is being sent:
    so nothing gets in between, and no comments pile up for a client that does not read.

    By `push`, where the server has it, frames go in the turn in which they come; what cannot goes by `send`. What was
    pushed is noted in the `record`, by the time that this is closed.
    """

    send: Send
    interval: float
    longest: float = math.inf
    push: Push | None = None
    record: RequestRecord | None = None
    begun: bool = False
    expired: bool = False
    unread: bool = False
    pushing: _Pushing | None = None
    task: asyncio.Task[Any] = msgspec.field(default_factory=_current_task)
    _over: bool = False
    _loop: asyncio.AbstractEventLoop = msgspec.field(default_factory=asyncio.get_running_loop)
    _silent_since: float = _SENDING
    _head: Callable[[], Headers] = list
    _timer: asyncio.TimerHandle | None = None
    _life: asyncio.TimerHandle | None = None
    _heartbeat: asyncio.Task[None] | None = None

    def close(self) -> None:
        """No comment after this."""
        self._over = True
        if self.record is not None and self.pushing is not None:
            self.record.pushed = self.pushing.size
        if self._timer is not None:
            self._timer.cancel()
        if self._life is not None:
            self._life.cancel()
        if self._heartbeat is not None:
            self._heartbeat.cancel()

    def expect(self, head: Callable[[], Headers]) -> None:
        """The answer has to be waited for: from now on there are heartbeats, the first with this head."""
        if self.interval:
            self._head = head
            self._silent_since = self._loop.time()
            self._timer = self._loop.call_at(self._silent_since + self.interval, self._on_timer)

    async def relay(
        self,
        answer: Following,
        writer: Writer,
        head: Callable[[], Headers],
        on_read: Callable[[], None] | None = None,
    ) -> None:
        """Send the head, unless a heartbeat has, the events of frames as they come, and the end; `on_read` is called
        when there are no more frames."""
        if self._heartbeat is not None:
            await self._heartbeat
        if not self.begun:
            await self.begin(head())
        send, now, write = self.send, self._loop.time, writer.events
        if self.push is not None:
            self.pushing = _Pushing(write, now, self.record)
        while frames := await answer.next(self._open_way()):
            events = write(frames)
            if not events:  # an empty body would count as a byte of the answer
                continue
            if self._heartbeat is not None:
                await self._heartbeat
            self._silent_since = _SENDING
            await send({"type": "http.response.body", "body": events, "more_body": True})
            self._silent_since = now()
        if on_read is not None:
            on_read()
        await kept(writer, None)
        await self.end(writer.end())

    def _open_way(self) -> Callable[[list[Frame]], bool] | None:
        """Let frames be pushed, but for while a comment is sent; what takes them."""
        pushing = self.pushing
        if pushing is None or self.push is None:
            return None
        if self._heartbeat is None:
            pushing.outlet = self.push()
        return pushing.take

    async def end(self, last: bytes = b"") -> None:
        """Send the `last` event, if any, and the end."""
        if self._heartbeat is not None:
            await self._heartbeat
        self._silent_since = _SENDING
        await self.send({"type": "http.response.body", "body": last, "more_body": False})

    async def begin(self, headers: Headers) -> None:
        """Send the head."""
        self._silent_since = _SENDING
        start: Message = {"type": "http.response.start", "status": 200, "headers": headers}
        await self.send(start)
        self._silent_since = self._loop.time()
        self.begun = True
        if self.longest < math.inf:
            self._life = self._loop.call_at(self._silent_since + self.longest, self._expire)

    def _expire(self) -> None:
        self.expired = True
        self.unread = self._silent_since == _SENDING or self._heartbeat is not None
        self.task.cancel()

    def _on_timer(self) -> None:
        now, last = self._loop.time(), self._silent_since
        since = min(last if self.pushing is None else max(last, self.pushing.last), now)
        if now < since + self.interval:
            self._timer = self._loop.call_at(since + self.interval, self._on_timer)
        else:
            if self.pushing is not None:
                self.pushing.outlet = None  # what comes waits for the comment
            self._heartbeat = self._loop.create_task(self._send_heartbeat())
            # A callback, for a task that is cancelled before it began runs nothing; and before the code that awaits it.
            self._heartbeat.add_done_callback(self._on_heartbeat_sent)

    async def _send_heartbeat(self) -> None:
        if not self.begun:
            await self.begin(self._head())
        await self.send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})

    def _on_heartbeat_sent(self, beat: asyncio.Task[None]) -> None:
        self._heartbeat = None
        if not (self._over or beat.cancelled()):
            self._open_way()
            self._silent_since = self._loop.time()
            self._timer = self._loop.call_at(self._silent_since + self.interval, self._on_timer)


class _Pushing:
    """Sends the events of frames in the turn in which they come. `last` is when it did, by the loop's clock, `size` how
    much.

    All that this takes is in one object, and that has slots: of thousands of streams none is in the processor's caches.
    """

    __slots__ = ("last", "now", "outlet", "record", "size", "write")

    def __init__(
        self,
        write: Callable[[list[Frame]], bytes],
        now: Callable[[], float],
        record: RequestRecord | None,
    ) -> None:
        self.write, self.now, self.record = write, now, record
        self.outlet: Outlet | None = None
        self.last, self.size = 0.0, 0

    def take(self, frames: list[Frame]) -> bool:
        """False, and nothing was sent, where that would have to wait."""
        outlet = self.outlet
        if outlet is None or not outlet.open:
            return False
        write, now = self.write, self.now
        events = write(frames)
        if events:  # an empty body would count as a byte of the answer
            outlet.send(events)
            self.last = now()
            record = self.record
            if not self.size and record is not None and record.first_byte is None:
                record.first_byte = time.perf_counter() - record.started
            self.size += len(events)
        return True
