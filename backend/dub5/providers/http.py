"""What every provider behind HTTP shares: the way to it, the time limits and server-sent events.

Calls go straight (`upstream`), or by aiohttp where a proxy is between, as lists of models always do (docs/adr/0001 and
0032).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import aiohttp
import certifi
import msgspec

from dub5.errors import ConfigError, ProviderError
from dub5.json_steps import fed, in_steps, pieces
from dub5.process.countdown import LATE, LOOK, Deadline
from dub5.process.descriptors import Sockets
from dub5.providers import refusals
from dub5.providers.http_errors import NO_CREDENTIALS, HttpErrors, TunnelCut, out_of
from dub5.providers.odd_answers import Reported, Unusable
from dub5.providers.protocol import Call, Json, ResponseHead
from dub5.providers.redaction import Redactor
from dub5.providers.upstream import KEEP_ALIVE, MAX_HEAD, OnData, Unpacking, Upstream, UpstreamError
from dub5.settings.addresses import Proxy
from dub5.settings.model import AnyHttpProvider, Timeouts, key_header, root_of

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

MAX_ANSWER = 32 * 2**20
"""Bytes of one answer, whole or streamed, that we are ready to hold for a provider."""

LINGER = 0.1
"""Seconds for the end of a body whose last event is here: then the connection can be used again."""

MAX_EVENT = 8 * 2**20
"""Bytes of one event that we are ready to hold for a provider."""

_PART = 2**13
"""Bytes of a body of events that are read at once: some 250 small events, which take a few milliseconds."""

BODY = b"\n"
"""The name of what was no event, but the whole body: no event can have it."""

_MOST_HEADERS = MAX_ANSWER // MAX_HEAD
"""Lines in the head of a response that aiohttp reads. It bounds how many there are and how long each is, not all of
them together: that is as much as an answer may have."""

_OK = frozenset({200, 201, 203})
"""With an answer in the body: some frameworks give 201 to every POST, and a proxy that changes something 203."""

_PROXY_AUTHENTICATION = 407

_REFUSAL_TIME = 5.0
"""Seconds for the body of a refusal: its status is known, and the caller waits."""

_MOST_AGE = 365 * 86400.0
"""Seconds: what is older than a year is as old as that to every cache."""

_REQUEST_ID = re.compile(r"[!-~]{1,128}")

_MARK = b"\xef\xbb\xbf"
_AROUND = _MARK + b" \t\r\n"
_BEFORE = {b" ", b"\t", _MARK[:1]}
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_BLANKS = re.compile(rb"\s*\Z")


class Access(msgspec.Struct, frozen=True):
    """What it takes to reach a provider besides its address and key. Found out once, at the start."""

    headers: dict[str, str] = {}
    """With secrets in them."""

    proxy: Proxy | None = None

    sockets: Sockets | None = None
    """Shared by all providers, where there are few descriptors."""

    def __repr__(self) -> str:
        return f"Access({', '.join(self.headers)}; {self.proxy})"

    def secrets(self) -> list[str]:
        """What no message may show; of a header also what follows its scheme."""
        written = list(self.headers.values())
        if self.proxy is not None and self.proxy.authorization is not None:
            written.append(self.proxy.authorization)
        return [secret for each in written for secret in (each, each.rpartition(" ")[2])]


DIRECTLY = Access()

Events = list[tuple[bytes, bytes]]
"""The names and data of server-sent events."""

OnPart = Callable[[bytes], bool]
"""Called with what came behind a whole event. False where that has to be read with care: nothing was done with it."""


_FAILURES = (aiohttp.ClientError, UpstreamError, TimeoutError)


class Response(Protocol):
    """A response of which the head is here; header names in lower case are known. To be released: that puts its
    connection back where all was read, and else closes it. After `close` whoever reads is raised an error."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...

    async def read(self, on_data: OnData) -> None:
        """The body, as it comes, until its end."""
        ...

    def release(self) -> None: ...
    def close(self) -> None: ...


class Proxied(msgspec.Struct):
    """A `Response` of aiohttp's."""

    response: aiohttp.ClientResponse

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self.response.headers

    async def read(self, on_data: OnData) -> None:
        content, unpacking = self.response.content, Unpacking.of(self.headers)
        while not content.at_eof():
            if part := await content.readany():
                if unpacking is None:
                    on_data(part)
                else:
                    unpacking.feed(part, on_data)

    def release(self) -> None:
        self.response.release()

    def close(self) -> None:
        self.response.close()


class HttpClient:
    """One provider's endpoint and pool of connections. `post` and `events` raise only errors of `dub5.errors`."""

    def __init__(
        self,
        name: str,
        settings: AnyHttpProvider,
        path: str,
        *,
        key: str,
        access: Access,
        headers: Mapping[str, str] = NO_HEADERS,
        beside: HttpClient | None = None,
    ) -> None:
        """`beside` is one of the same provider, which has read whom to trust."""
        self.name = name
        self._timeouts: Timeouts = settings.timeouts
        self._limit = TimeLimit(self._timeouts.total)
        self._secrets = [secret for secret in (key, *access.secrets()) if secret]
        self._headers = {
            "content-type": "application/json",
            # Compression would hold back the chunks of a stream inside the compressor.
            "accept-encoding": "identity",
        }
        for more in (settings.headers, access.headers, headers):
            self._headers |= {name.lower(): value for name, value in more.items()}
        if key:
            header = key_header(settings)
            self._headers[header] = f"Bearer {key}" if header == "authorization" else key
        try:
            self._root = root_of(settings)
        except ValueError as error:
            raise ConfigError(f"providers.{name}.base_url: {error}") from None
        self._url = self._root.at(path)
        self._sockets = access.sockets
        self._proxy = access.proxy
        self._proxy_options = self._options_of(access.proxy)
        secrets = {f"secret_headers.{header}": value for header, value in access.headers.items()}
        for where, secret in {"api_key": key, **secrets}.items():
            if not (secret.isascii() and secret.isprintable()):
                raise ConfigError(f"providers.{name}.{where}: must be one line of printable ASCII")
        hosts = (self._url.host, access.proxy.url.host if access.proxy is not None else None)
        redact = Redactor(*self._secrets, hosts=[host for host in hosts if host])
        self._errors = HttpErrors(name, access.proxy, redact)
        # Reads files, which must not wait for the first call. It takes 30 ms, so not where no TLS is spoken.
        proxied = access.proxy is not None and access.proxy.url.scheme == "https"
        self.tls: ssl.SSLContext | None = None
        if beside is not None:
            self.tls = beside.tls
        elif self._url.scheme == "https" or proxied or settings.ca_file is not None:
            self.tls = trusted(f"providers.{name}.ca_file", settings.ca_file)
        self._session: aiohttp.ClientSession | None = None
        self._upstream: Upstream | None = None

    def _options_of(self, proxy: Proxy | None) -> dict[str, Any]:
        """aiohttp's options for each call. Credentials go with CONNECT, or with a request in the clear."""
        if proxy is None:
            return {}
        if proxy.authorization is None:
            return {"proxy": proxy.url}
        if self._url.scheme == "http":
            self._headers["proxy-authorization"] = proxy.authorization
            return {"proxy": proxy.url}
        return {"proxy": proxy.url, "proxy_headers": {"proxy-authorization": proxy.authorization}}

    async def aclose(self) -> None:
        self._limit.close()
        if self._upstream is not None:
            self._upstream.close()
        if self._session is not None:
            await self._session.close()

    def failure(self, odd: Unusable | Reported) -> ProviderError:
        """What is wrong with an answer that began with status 200, as an error of ours."""
        return self._errors.of_answer(odd)

    async def post(self, body: Json, call: Call) -> bytes:
        """The body of a whole answer."""
        try:
            with self._limit.of_task():
                response = await self._send(body, call)
                try:
                    return await self._whole(response, MAX_ANSWER)
                finally:
                    response.release()
        except _FAILURES as error:
            raise self._errors.of_connection(error, "finish its answer") from None

    async def get(self, path: str, *, most: int, timeout: float) -> bytes:
        """What is at another path of the same API, whole, within so many bytes and seconds."""
        try:
            async with (
                Deadline(asyncio.get_running_loop().time() + timeout),
                self._opened().get(
                    self._root.at(path), headers=self._headers, allow_redirects=False, **self._proxy_options
                ) as response,
            ):
                if response.status not in _OK:
                    raise self._errors.error(f"answered with status {response.status}")
                return await self._whole(Proxied(response), most)
        except _FAILURES as error:
            raise self._errors.of_connection(error, "list its models") from None

    async def _whole(self, response: Response, most: int) -> bytes:
        """Its body, of at most so many bytes."""
        parts: list[bytes] = []
        size = 0

        def received(part: bytes) -> None:
            nonlocal size
            size += len(part)
            if size > most:
                raise self._errors.error("sent an answer that is too large")
            parts.append(part)

        await response.read(received)
        return b"".join(parts)

    async def events(
        self,
        body: Json,
        call: Call,
        on_events: Callable[[Events], OnPart | None],
    ) -> None:
        """Call `on_events` with the events of a streamed answer, together those that came together. What it gives is
        asked first about what comes next, until it declines: it takes one whole event, of one line.

        It ends where the provider closes the body, or a moment after `call.response.ended`; whether the answer is
        complete then is for the caller to say.
        """
        loop, timeouts, head = asyncio.get_running_loop(), self._timeouts, call.response
        now = loop.time()
        total = now + timeouts.total
        deadline = min(now + timeouts.first_token, total)
        try:
            async with Deadline(deadline):
                response = await self._send(body, call)
        except _FAILURES as error:
            action = "finish its answer" if deadline == total else "send its first token"
            raise self._errors.of_connection(error, action) from None
        parser, errors = EventParser(), self._errors
        reading = _Reading(head, parser, on_events, loop.time, now, total, response, timeouts, errors)
        reading.set_timer()
        try:
            await response.read(reading.received)
            if not head.ended and (events := parser.rest()):
                on_events(events)
        except _FAILURES as error:
            if head.ended:
                return
            if not reading.passed:
                raise self._errors.of_connection(error, None) from None
            token = "next" if head.begun else "first"
            raise self._errors.timeout(
                "finish its answer" if reading.deadline == total else f"send its {token} token"
            ) from None
        finally:
            reading.end()
            response.release()

    async def _send(self, body: Json, call: Call) -> Response:
        """The response, to be released."""
        response: Response
        try:
            data = await _in_pieces(body) if call.large else msgspec.json.encode(body)
            if self._proxy is None:
                response = await (self._upstream or self._straight()).post(call.headers, data)
            else:
                response = await self._through_proxy(call, data)
        except MemoryError:
            raise out_of("memory") from None
        except RuntimeError as error:  # from the thread that would look up the host
            if "start new thread" in str(error):
                raise out_of("threads") from None
            raise
        head, headers = call.response, response.headers
        head.status, head.ended = response.status, False
        # OpenAI's and Anthropic's headers for their own id of a call; only what may be in a log line.
        head.request_id = headers.get("x-request-id", headers.get("request-id"))
        if head.request_id is not None and (
            not _REQUEST_ID.fullmatch(head.request_id)
            or any(secret in head.request_id for secret in self._secrets)
        ):
            head.request_id = None
        head.age = _age(headers["age"]) if "age" in headers else 0.0
        if response.status in _OK:
            return response
        try:
            if response.status == _PROXY_AUTHENTICATION and self._proxy is not None:
                raise self._errors.of_proxy(NO_CREDENTIALS)
            raise self._errors.of_status(response.status, headers, await _refusal_body(response))
        finally:
            response.release()

    def _straight(self) -> Upstream:
        tls = self.tls if self._url.scheme == "https" else None
        self._upstream = Upstream(
            self._url, tls, self._headers, connect=self._timeouts.connect, sockets=self._sockets
        )
        return self._upstream

    async def _through_proxy(self, call: Call, data: bytes | memoryview) -> Response:
        response = await self._opened().post(
            self._url,
            data=data,
            # Not as the session's: aiohttp would send those to a proxy, too.
            headers={**self._headers, **call.headers},
            allow_redirects=False,
            **self._proxy_options,
        )
        return Proxied(response)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:  # it belongs to the event loop that runs now
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(connect=self._timeouts.connect),
                auto_decompress=False,
                max_line_size=MAX_HEAD,
                max_field_size=MAX_HEAD,
                max_headers=_MOST_HEADERS,
            )
        return self._session

    def _connector(self) -> aiohttp.TCPConnector:
        # How many there are at once is for `health` to say: a wait here would be the provider's fault.
        return _Connector(self._sockets, limit=0, keepalive_timeout=KEEP_ALIVE, ssl=self.tls or True)


class TimeLimit:
    """`asyncio.timeout` for tasks that all have as many seconds, with one timer for them all: it looks at the one that
    began first."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: dict[_Limited, None] = {}
        self._looked = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def of_task(self) -> _Limited:
        """From now on, for the current task: TimeoutError where the block takes longer."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101  # for mypy
        limited = _Limited(self._running, task, loop.time() + self._seconds, task.cancelling())
        self._running[limited] = None
        if self._timer is None:
            self._timer = loop.call_at(limited.deadline, self._on_timer)
        return limited

    def close(self) -> None:
        """None is under way."""
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        looked, now = self._looked, loop.time()
        while self._running:
            first = next(iter(self._running))
            if first.deadline > now:
                self._timer = loop.call_at(first.deadline, self._on_timer)
                return
            if now > first.deadline + LATE and looked <= first.deadline:
                # The loop was late, and calls timers first: what has come may be unread.
                self._looked = now
                self._timer = loop.call_later(LOOK, self._on_timer)
                return
            del self._running[first]
            first.passed = True
            first.task.cancel()


class _Limited(msgspec.Struct, eq=False):
    """One block of a task, among those that are `running`; `cancelling` is how often it was to be cancelled before."""

    running: dict[_Limited, None]
    task: asyncio.Task[Any]
    deadline: float
    cancelling: int
    passed: bool = False

    def __enter__(self) -> None:
        """It has begun."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not self.passed:
            del self.running[self]
        elif self.task.uncancel() <= self.cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error


class _Connector(aiohttp.TCPConnector):
    """A pool that tells what its proxy does, and whose sockets may be bounded together with those of other pools."""

    def __init__(self, sockets: Sockets | None, **options: Any) -> None:
        super().__init__(socket_factory=sockets.make if sockets is not None else None, **options)
        self._sockets = sockets

    async def connect(self, *asked: Any, **options: Any) -> aiohttp.connector.Connection:
        try:
            connection = await super().connect(*asked, **options)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            raise TunnelCut from error  # nobody else has been asked anything yet
        transport = connection.transport
        if self._sockets is not None and transport is not None:
            self._sockets.used(transport)
            connection.add_callback(functools.partial(self._sockets.unused, transport))
        return connection


async def _in_pieces(body: Json) -> memoryview:
    """A large body as JSON, written with pauses."""
    written = io.BytesIO()
    await in_steps(fed(pieces(body), written.write))
    return written.getbuffer()


class _Reading(msgspec.Struct):
    """A streamed answer as it is read: its events are passed on, and it is closed where it passes a limit.

    One object with all that each chunk needs, since of thousands of streams none is in the processor's caches. And one
    timer for the whole stream: what comes only notes when, `came`, by the loop's clock, and the timer sees what that
    means. It is set anew where from now on another pause is allowed.
    """

    head: ResponseHead
    parser: EventParser
    on_events: Callable[[Events], OnPart | None]
    time: Callable[[], float]
    came: float
    total: float
    """When the whole answer has to be here."""
    response: Response
    timeouts: Timeouts
    errors: HttpErrors
    on_part: OnPart | None = None
    size: int = 0
    begun: bool = False
    """As the head had it when the timer was set."""
    timer: asyncio.TimerHandle | None = None
    looked: bool = False
    """Whether sockets were looked at since the deadline."""
    passed: bool = False

    def received(self, part: bytes) -> None:
        on_part, size = self.on_part, self.size + len(part)
        if on_part is None or size > MAX_ANSWER or not on_part(part):
            self.read(part)
        else:  # nearly always
            self.size, self.came = size, self.time()

    def read(self, part: bytes) -> None:
        """With care."""
        head, parser = self.head, self.parser
        if head.ended:
            return
        self.on_part = None
        self.size += len(part)
        if self.size > MAX_ANSWER:
            raise self.errors.error("sent an answer that is too large")
        try:
            events = parser.feed(part)
        except EventTooLarge:
            raise self.errors.error("sent an event that is too large") from None
        if events:
            on_part = self.on_events(events)
            if parser.between_events and head.begun and not head.ended:
                self.on_part = on_part
        # Whatever came is a sign of life, also comments and pings while a model thinks.
        self.came = self.time()
        if head.begun is not self.begun or head.ended:
            self.set_timer()

    @property
    def deadline(self) -> float:
        """After the last event there is a moment for the end of the body: then the connection can be used again."""
        head, timeouts = self.head, self.timeouts
        pause = timeouts.between_tokens if head.begun else timeouts.first_token
        return min(self.came + (LINGER if head.ended else pause), self.total)

    def set_timer(self) -> None:
        self.end()
        self.begun = self.head.begun
        self.timer = asyncio.get_running_loop().call_at(self.deadline, self.on_timer)

    def on_timer(self) -> None:
        now, deadline = self.time(), self.deadline
        if now < deadline:  # something came meanwhile
            self.looked = False
            self.set_timer()
        elif now > deadline + LATE and not self.looked:
            # The loop was late, and calls timers first: what has come may be unread.
            self.looked = True
            self.timer = asyncio.get_running_loop().call_later(LOOK, self.on_timer)
        else:
            self.passed = True
            self.response.close()

    def end(self) -> None:
        """No timer after this."""
        if self.timer is not None:
            self.timer.cancel()


def trusted(where: str, ca_file: str | None) -> ssl.SSLContext:
    """TLS with the authorities of `ca_file`, else of what the environment names, else certifi's."""
    try:
        file, folder = ca_file or os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        if folder and not file:
            return ssl.create_default_context(capath=folder)
        return ssl.create_default_context(cafile=file or certifi.where())
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        if ca_file is None:
            where, ca_file = "SSL_CERT_FILE", os.environ.get("SSL_CERT_FILE", "")
        reason = "holds no certificates in PEM" if isinstance(error, ssl.SSLError) else type(error).__name__
        raise ConfigError(f"{where}: cannot read {ca_file!r}: {reason}") from None


class _Enough(Exception):
    """The rest is not wanted."""


async def _refusal_body(response: Response) -> bytes:
    """The body of a refusal, or what comes of it in good time; the status counts without it."""
    parts: list[bytes] = []
    left = refusals.MOST_READ

    def received(part: bytes) -> None:
        nonlocal left
        parts.append(part)
        left -= len(part)
        if left <= 0:
            raise _Enough

    with contextlib.suppress(_Enough, *_FAILURES):
        async with Deadline(asyncio.get_running_loop().time() + _REFUSAL_TIME):
            await response.read(received)
    return b"".join(parts)


def _age(header: str) -> float:
    """Seconds of `Age`, which a cache between us and the provider sets; 0 where it is none that can be.

    RFC 9111, sections 1.2.2 and 5.1: of several the first counts, and what is too large counts as very large.
    """
    written = header.partition(",")[0].strip()
    return min(float(written), _MOST_AGE) if re.fullmatch(r"[0-9]{1,300}", written) else 0.0


class EventTooLarge(ValueError):
    """One event passed MAX_EVENT."""


def begins_events(body: bytes) -> bool:
    """Whether a body is a stream of events, or of lines of JSON, whatever its content type says."""
    return body[:200].lstrip(_AROUND).startswith(_FIELDS) or _is_lines(body.lstrip(_AROUND))


def _is_lines(body: bytes) -> bool:
    """Whether a body that begins with JSON has more after the first line, which is whole by itself."""
    end = body.find(b"\n")
    return end > 0 and body[:1] == b"{" and not _BLANKS.match(body, end) and _is_whole(body[:end])


class EventParser(msgspec.Struct):
    """Server-sent events from bytes: the part of the WHATWG grammar that LLM providers use.

    Fed with whatever the socket gave (half a line, half a UTF-8 character, CRLF split in two), it gives the event name
    and data of each finished event; comments and events without data are left out. It splits bytes, not text, so a
    relay need not decode; and it joins the parts of a line only once the line is whole, so a long event costs no more
    than its length. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

    More than the grammar allows is taken: marks of byte order and blanks before a field, a field `error`, and instead
    of events lines of JSON, or a body of JSON, which `rest` gives as one.
    """

    begun: bool = False
    json: bytearray | None = None  # a body that is no stream of events
    by_line: bool | None = None  # whether it is lines, each of them an event; None while nobody knows
    first_line: bool = False  # whether the first line is here and whole by itself: if more comes, they are
    line: list[bytes] = []  # parts of the line that has no end yet
    line_size: int = 0
    after_cr: bool = False
    between_events: bool = True  # whether the last event is whole, and nothing has come after it
    event: bytes = b""
    data: list[bytes] = []
    data_size: int = 0

    def feed(self, received: bytes) -> Events:
        """The events that `received` finishes. EventTooLarge where one outgrows MAX_EVENT."""
        if self.between_events and received[-2:] == b"\n\n" and len(received) <= MAX_EVENT:
            # Nearly always: one or more whole events of one line of data each.
            events = []
            for block in received[:-2].split(b"\n\n"):
                if block[:6] != b"data: " or len(block) == 6 or b"\n" in block or b"\r" in block:
                    break
                events.append((b"", block[6:]))
            else:
                self.begun = True
                return events
        if not self.begun:
            received = self._begin(received)
        if self.json is not None:
            return self._feed_json(self.json, received)
        events = []
        first, *others = self._split(received)
        self._hold(first)
        for part in others:
            line = b"".join(self.line)
            self.line, self.line_size = [], 0
            if line and not line.isspace():
                self._field(line)
            else:
                if any(self.data):
                    events.append((self.event, b"\n".join(self.data)))
                self.event, self.data, self.data_size = b"", [], 0
            self._hold(part)
        self.between_events = not (self.line or self.data or self.event or self.after_cr)
        return events

    def rest(self) -> Events:
        """At the end of the body, what it had besides finished events: JSON, or a last event without its empty line."""
        if self.json is not None:
            return [(b"" if self.by_line else BODY, bytes(self.json))] if self.json.strip() else []
        return [(event, data) for event, data in self.feed(b"\n\n") if _is_whole(data)]

    def _feed_json(self, body: bytearray, received: bytes) -> Events:
        """What is no stream of events: the lines that `received` finishes, where they stand for them.

        What came before is not looked at again: a long body may come in very many reads.
        """
        body += received
        if self.by_line is None:
            self._judge(body, received)
            if not self.by_line:
                return []
        elif not self.by_line or b"\n" not in received:
            return []
        *lines, rest = body.split(b"\n")
        body[:] = rest
        return [(b"", bytes(line.strip())) for line in lines if line.strip()]

    def _judge(self, body: bytearray, received: bytes) -> None:
        """Whether the body is lines, as far as `received`, its end, can tell; as `_is_lines`."""
        if not self.first_line:
            end = body.find(b"\n", len(body) - len(received))
            if end < 0:
                return
            if body[:1] != b"{" or not _is_whole(bytes(body[:end])):
                self.by_line = False
                return
            self.first_line, received = True, bytes(body[end:])
        if received.strip():
            self.by_line = True

    def _begin(self, received: bytes) -> bytes:
        """What is left of the first bytes without what stands before the first event."""
        received = received.lstrip(_AROUND)
        if received:
            self.begun = True
            if received[:1] in {b"{", b"["}:
                self.json, self.between_events = bytearray(), False
        return received

    def _split(self, received: bytes) -> list[bytes]:
        """At each line end. A CR ends its line at once; an LF that then comes first belongs to it."""
        if self.after_cr and received:
            received = received.removeprefix(b"\n")
            self.after_cr = False
        if b"\r" in received:
            self.after_cr = received.endswith(b"\r")
            received = received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return received.split(b"\n")

    def _hold(self, part: bytes) -> None:
        if part:
            self.line.append(part)
            self.line_size += len(part)
        if self.data_size + self.line_size > MAX_EVENT:
            raise EventTooLarge

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self.data.append(value)
            self.data_size += len(value) + 1  # even an empty line of data costs memory
        elif name == b"event":
            self.event = value
        elif name == b"error":  # so llama.cpp reported one, in place of data
            self.event = name
            self.data.append(value)
            self.data_size += len(value) + 1
        elif name[:1] in _BEFORE:
            self._field(line.lstrip(_AROUND))
        elif name[:1] == b"{":  # so some end a stream with an error
            self.data.append(line)
            self.data_size += len(line) + 1


def _is_whole(data: bytes) -> bool:
    """Whether the data of an event that has no end was not cut short."""
    try:
        msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return data.strip() == b"[DONE]"
    return True


async def events_in(body: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
    """The `(event, data)` pairs of a whole answer that came as a stream; others may run between two parts of it.
    Unusable where one is too large."""
    parser = EventParser()
    try:
        for begin in range(0, len(body), _PART):
            for event in parser.feed(body[begin : begin + _PART]):
                yield event
            await asyncio.sleep(0)
        for event in parser.rest():
            yield event
    except EventTooLarge:
        raise Unusable("sent an event that is too large") from None
