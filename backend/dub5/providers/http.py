"""What every provider behind HTTP shares: the pool, the time limits, and errors in our words.

aiohttp is used as it is: a layer above it would cost three times what it costs itself (docs/adr/0001). A provider's
refusal of the *request* (400, 413, 422) is the caller's error; anything else is the provider's fault, or where this
replica has run out of something, its own (`Overloaded`). What a refusal says is kept (`refusals`), without anything
that is the operator's (`redaction`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import io
import os
import re
import socket
import ssl
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import aiohttp
import httpx
import msgspec
from aiohttp.http_exceptions import ContentEncodingError

from dub5.errors import (
    CallerError,
    ConfigError,
    FailureScope,
    InvalidRequest,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RequestTooLarge,
)
from dub5.json_steps import fed, in_steps, pieces
from dub5.process.descriptors import SHORTAGES, Sockets
from dub5.providers import refusals
from dub5.providers.odd_answers import Reported, Unusable
from dub5.providers.protocol import Call, Json
from dub5.providers.redaction import REDACTED, Redactor
from dub5.providers.refusals import Refusal
from dub5.providers.sse import EventParser, EventTooLarge
from dub5.settings.addresses import Proxy
from dub5.settings.model import AnyHttpProvider, Timeouts, key_header, root_of

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

MAX_ANSWER = 32 * 2**20
"""Bytes of one answer, whole or streamed, that we are ready to hold for a provider."""

LINGER = 0.1
"""Seconds for the end of a body whose last event is here: then the connection can be used again."""

_OK, _PROXY_AUTHENTICATION, _TOO_LARGE, _TOO_MANY = 200, 407, 413, 429

_NO_CREDENTIALS = "asks for credentials, or for other ones (status 407)"

_REFUSAL_TIME = 5.0
"""Seconds for the body of a refusal: its status is known, and the caller waits."""

_KEEP_ALIVE = 30.0
"""Seconds that an idle connection is kept."""

_MOST_AGE = 365 * 86400.0
"""Seconds: what is older than a year is as old as that to every cache."""

_REQUEST_IDS = ("x-request-id", "request-id")
"""Headers in which OpenAI and Anthropic, and those who follow them, give their own id of a call."""

_REQUEST_ID = re.compile(r"[!-~]{1,128}")

_PASSING = {500, 502, 503, 529}
"""Statuses that say that the same call may succeed in a moment; 529 is Anthropic's `overloaded_error`."""

_LEAST_OF_SERVERS = 500
"""From here on statuses are the server's own failure."""

_NEVER_AGAIN = {403, 404, 409, 413, 429}
"""Statuses of a request that fails each time, though perhaps only here; the SDKs would send some again."""

_CODES = {
    **dict.fromkeys((400, 422), ("invalid_request_error", "invalid_request_error")),
    413: ("request_too_large", "invalid_request_error"),
    429: ("rate_limit_exceeded", "rate_limit_error"),
}
"""Code and type of a refusal of a request, where the provider has none."""


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
    ) -> None:
        self.name = name
        self._timeouts: Timeouts = settings.timeouts
        self._secrets = [secret for secret in (key, *access.secrets()) if secret]
        self._headers = {
            "content-type": "application/json",
            # Compression would hold back the chunks of a stream inside the compressor.
            "accept-encoding": "identity",
            **settings.headers,
            **access.headers,
            **headers,
        }
        if key:
            header = key_header(settings)
            self._headers[header] = f"Bearer {key}" if header == "authorization" else key
        try:
            self._url = root_of(settings).at(path)
        except ValueError as error:
            raise ConfigError(f"providers.{name}.base_url: {error}") from None
        self._sockets = access.sockets
        self._proxy = access.proxy
        self._proxy_options = self._options_of(access.proxy)
        if not all(value.isascii() and value.isprintable() for value in self._headers.values()):
            raise ConfigError(f"providers.{name}: the key and the headers must be printable ASCII")
        hosts = (self._url.host, access.proxy.url.host if access.proxy is not None else None)
        self._redact = Redactor(*self._secrets, hosts=[host for host in hosts if host])
        # Reads files, which must not wait for the first call.
        self._tls = trusted(f"providers.{name}.ca_file", settings.ca_file)
        self._session: aiohttp.ClientSession | None = None

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
        if self._session is not None:
            await self._session.close()

    async def post(self, body: Json, call: Call) -> bytes:
        """The body of a whole answer."""
        now = asyncio.get_running_loop().time()
        deadline = _Deadline(now + self._timeouts.total, "finish its answer")
        try:
            async with asyncio.timeout_at(deadline.at):
                response = await self._send(body, call)
                try:
                    parts, size = [], 0
                    while part := await response.content.readany():
                        parts.append(part)
                        size += len(part)
                        if size > MAX_ANSWER:
                            raise self.error("sent an answer that is too large")
                    return b"".join(parts)
                finally:
                    response.release()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._error_of(error, deadline) from None

    async def events(self, body: Json, call: Call) -> EventReader:
        """The server-sent events of a streamed answer, once its head is here. Use it in `with`."""
        now = asyncio.get_running_loop().time()
        total = _Deadline(now + self._timeouts.total, "finish its answer")
        first = min(total, _Deadline(now + self._timeouts.first_token, "send its first token"))
        try:
            async with asyncio.timeout_at(first.at):
                response = await self._send(body, call)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._error_of(error, first) from None
        return EventReader(self, response, call, total, first, self._timeouts)

    def cut_off(self, error: aiohttp.ClientError, passed: _Deadline | None) -> ProviderError | Overloaded:
        """Why a stream ended before its time: `passed` is the deadline at which we closed it, if we did."""
        return self._error_of(error, None) if passed is None else self._timeout(passed)

    def _error_of(
        self, error: aiohttp.ClientError | TimeoutError, deadline: _Deadline | None
    ) -> ProviderError | Overloaded:
        """What aiohttp raised, or that `deadline` had passed, in our words."""
        if isinstance(error, aiohttp.ClientOSError) and _is_shortage(error):
            return _out_of("file descriptors, ports or memory")
        if self._proxy is not None and (what := _done_by(self._proxy, error)) is not None:
            return self._proxy_error(*what)
        match error:
            case aiohttp.ServerTimeoutError():
                through = "" if self._proxy is None else " through its proxy"
                return self._timeout(_Deadline(0, f"accept a connection{through}"), scope="provider")
            case aiohttp.ClientConnectorCertificateError():
                return self.error("has a certificate that is not trusted here", scope="provider")
            case aiohttp.ClientConnectorError() | aiohttp.ClientSSLError():
                return self.error("cannot be reached", transient=True, scope="provider")
            case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError(__cause__=ContentEncodingError()):
                return self.error("sent what is not HTTP")
            case TimeoutError() if deadline is not None:
                return self._timeout(deadline)
        cut = isinstance(error, aiohttp.ClientPayloadError)  # in the middle of an answer
        return self.error("broke off", transient=True, scope="model" if cut else "server")

    async def _send(self, body: Json, call: Call) -> aiohttp.ClientResponse:
        """The response, to be released: that puts its connection back where all was read, and else closes it."""
        if self._session is None:  # it belongs to the event loop that runs now
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(connect=self._timeouts.connect),
            )
        try:
            response = await self._session.post(
                self._url,
                data=await _in_pieces(body) if call.large else msgspec.json.encode(body),
                # Not as the session's: aiohttp would send those to a proxy, too.
                headers={**self._headers, **call.headers},
                allow_redirects=False,
                **self._proxy_options,
            )
        except MemoryError:
            raise _out_of("memory") from None
        except RuntimeError as error:  # from the thread that would look up the host
            if "start new thread" in str(error):
                raise _out_of("threads") from None
            raise
        head = call.response
        head.status, head.request_id = response.status, self._request_id(response)
        head.age = _age(response.headers["age"]) if "age" in response.headers else 0.0
        if response.status == _OK:
            return response
        try:
            if response.status == _PROXY_AUTHENTICATION and self._proxy is not None:
                raise self._proxy_error(_NO_CREDENTIALS)
            raise self._refusal(response, await _refusal_body(response))
        finally:
            response.release()

    def _connector(self) -> aiohttp.TCPConnector:
        # How many there are at once is for `health` to say: a wait here would be the provider's fault.
        usual: Any = {"limit": 0, "keepalive_timeout": _KEEP_ALIVE, "ssl": self._tls}
        return (
            aiohttp.TCPConnector(**usual) if self._sockets is None else _SharedSockets(self._sockets, **usual)
        )

    def error(
        self,
        what: str,
        *,
        said: str = "",
        code: str | None = None,
        retry_after: float | None = None,
        transient: bool = False,
        busy: bool = False,
        scope: FailureScope = "request",
    ) -> ProviderError:
        """A sentence that begins with the provider's name and goes on with `what`, and with what it `said` itself.

        That is shown as it is: nothing of the operator's may be in it. `code` is the provider's, for the log.
        """
        words = f": {said.rstrip('.')}" if said else ""
        known = f" ({code})" if code else ""
        return ProviderError(
            f"The provider {self.name} {what}{words}.",
            plain=f"The provider {self.name} {what}{known}.",
            provider=self.name,
            retry_after=retry_after,
            transient=transient,
            busy=busy,
            scope=scope,
        )

    def _proxy_error(self, what: str, transient: bool = False) -> ProviderError:  # see _done_by
        words = f"The proxy of the provider {self.name} {what}."
        error = ProviderError(words, provider=self.name, transient=transient, scope="provider")
        return error.as_said(should_retry=None if transient else False)

    def _timeout(self, deadline: _Deadline, scope: FailureScope = "server") -> ProviderTimeout:
        words = f"The provider {self.name} took too long to {deadline.action}."
        return ProviderTimeout(words, provider=self.name, scope=scope)

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> CallerError | ProviderError:
        """A status other than 200 as an error of ours, with the provider's words and none of its secrets."""
        status, refusal = response.status, refusals.read(body)
        if refusals.verdict(status, refusal) == "caller":
            kind = RequestTooLarge if status == _TOO_LARGE else InvalidRequest
            words = self._redact(refusal.words) or _WITHOUT_WORDS.get(
                status, "The provider refused the request."
            )
            error = kind(words, param=self._kept(refusal.param))
            return error.as_said(
                status=status, code=self._kept(refusals.code_of(refusal)), type=self._kept(refusal.type)
            )
        now = time.time()
        wait = refusals.retry_after(response.headers, now)
        if wait is None:
            wait = refusal.retry_after
        if wait is None and status == _TOO_MANY:
            wait = refusals.reset_after(response.headers, now)
        return self._refused(status, refusal, f"answered with status {status}", wait)

    def failure(self, odd: Unusable | Reported) -> ProviderError:
        """What is wrong with an answer that began with status 200, as an error of ours."""
        if isinstance(odd, Unusable):
            return self.error(odd.what, scope=odd.scope)
        refusal = refusals.read_json(odd.error)
        status = refusals.implied_status(refusal)
        refused = self._refused(status, refusal, "reported an error", refusal.retry_after)
        if refused.should_retry is None:
            refused.as_said(code=self._kept(refusal.code))
        return refused

    def _refused(self, status: int | None, refusal: Refusal, what: str, wait: float | None) -> ProviderError:
        """`status` is None where the error came without one."""
        shown = self._redact(refusal.words)
        code, kind = self._kept(refusals.code_of(refusal)), self._kept(refusal.type)
        if status is None:
            return self.error(what, said=shown, code=code)
        match refusals.verdict(status, refusal, names_us=REDACTED in shown):
            case "credentials":  # its message quotes the key
                scope: FailureScope = "request" if status in _NEVER_AGAIN else "provider"
                refused = f"refused the service's credentials (status {status})"
                return self.error(refused, code=code, scope=scope).as_said(should_retry=False)
            case "account":
                scope = "request" if status in _NEVER_AGAIN else "model"
                return self.error(what, said=shown, code=code, scope=scope).as_said(should_retry=False)
            case "fault":
                passing = status in _PASSING
                scope = "server" if status >= _LEAST_OF_SERVERS else "model"
                return self.error(
                    what, said=shown, code=code, retry_after=wait, transient=passing, scope=scope
                )
            case "rate":
                error = self._in_its_words(
                    what, shown, refusal, code, retry_after=wait, busy=True, scope="model"
                )
                return error.as_said(
                    status=status, code=code or "rate_limit_exceeded", type=kind or "rate_limit_error"
                )
            case "quota":  # a time to wait would only mislead
                error = self._in_its_words(what, shown, refusal, code, scope="model")
                error.as_said(status=status, type=kind or "insufficient_quota", should_retry=False)
                return error.as_said(code=code or "insufficient_quota")
            case "request" | "caller" as verdict:
                error = self._in_its_words(what, shown, refusal, code)
                vain = verdict == "caller" or status in _NEVER_AGAIN
                usual_code, usual_type = _CODES.get(status, (None, None))
                return error.as_said(
                    status=status,
                    code=code or usual_code,
                    type=kind or usual_type,
                    should_retry=False if vain else None,
                )

    def _in_its_words(
        self,
        what: str,
        shown: str,
        refusal: Refusal,
        code: str | None,
        *,
        retry_after: float | None = None,
        busy: bool = False,
        scope: FailureScope = "request",
    ) -> ProviderError:
        """What is about the request or its rate is answered as the provider `shown` it; `what` is for the log."""
        ours = self.error(what, code=code)
        return ProviderError(
            shown or ours.message,
            plain=ours.plain,
            provider=self.name,
            param=self._kept(refusal.param),
            retry_after=retry_after,
            busy=busy,
            scope=scope,
        )

    def _kept(self, word: str | None) -> str | None:
        """A code, type or param, unless something of the operator's is in it."""
        return word if word is None else self._redact.identifier(word)

    def _request_id(self, response: aiohttp.ClientResponse) -> str | None:
        """What the provider calls this call; None where it does not say, or nothing that may be in a log line."""
        headers = response.headers
        for name in _REQUEST_IDS:
            if name in headers:
                written = headers[name]
                for secret in self._secrets:
                    if secret in written:
                        return None
                return written if _REQUEST_ID.fullmatch(written) else None
        return None


_WITHOUT_WORDS = {_TOO_LARGE: "The request is too large for the provider."}


def _out_of(what: str) -> Overloaded:
    return Overloaded(f"This replica has run out of {what}. Try again later.", retry_after=1)


def _is_shortage(error: aiohttp.ClientOSError) -> bool:
    """Whether this machine, not the provider, is why there is no connection."""
    if error.errno == errno.EADDRNOTAVAIL:  # no port is left; but with an IPv6 address: there is no IPv6 here
        return not (isinstance(error, aiohttp.ClientConnectorError) and ":" in error.host)
    if error.errno in SHORTAGES:
        return True
    return isinstance(error, aiohttp.ClientConnectorDNSError) and not _has_descriptors()


def _has_descriptors() -> bool:
    """The resolver says of each failure that the name is not known."""
    try:
        socket.socket().close()
    except OSError:
        return False
    return True


class _SharedSockets(aiohttp.TCPConnector):
    """A pool whose sockets are bounded together with those of other pools."""

    def __init__(self, sockets: Sockets, **options: Any) -> None:
        super().__init__(socket_factory=sockets.make, **options)
        self._sockets = sockets

    async def connect(self, *asked: Any, **options: Any) -> aiohttp.connector.Connection:
        connection = await super().connect(*asked, **options)
        transport = connection.transport
        if transport is not None:
            self._sockets.used(transport)
            connection.add_callback(functools.partial(self._sockets.unused, transport))
        return connection


async def _in_pieces(body: Json) -> io.BytesIO:
    """A large body as JSON, written with pauses; aiohttp reads it a piece at a time, as the provider takes it."""
    written = io.BytesIO()
    await in_steps(fed(pieces(body), written.write))
    written.seek(0)
    return written


class _Deadline(msgspec.Struct, frozen=True, order=True):
    """Until when, by the loop's clock, a provider has time, and for what."""

    at: float
    action: str


class EventReader:
    """The `(event, data)` pairs of one streamed answer, as they come. Leaving `with` ends the call.

    A timer closes a response that passes its deadline. It is one timer for the whole stream: to move the deadline to a
    later time, as each chunk does, is only to note it.
    """

    def __init__(
        self,
        client: HttpClient,
        response: aiohttp.ClientResponse,
        call: Call,
        total: _Deadline,
        first: _Deadline,
        timeouts: Timeouts,
    ) -> None:
        self._client = client
        self._response = response
        self._head = call.response
        self._total = total
        self._deadline = first
        self._passed: _Deadline | None = None
        self._first_token, self._between_tokens = timeouts.first_token, timeouts.between_tokens
        self._parser = EventParser()
        self._size = 0
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_at(first.at, self._on_timer)

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._response.release()

    async def next(self) -> list[tuple[bytes, bytes]]:
        """Those that came together, since at a busy hour they are many; none where the provider closed the body.

        Whether the answer is complete then is for the caller to say.
        """
        content = self._response.content
        while not content.at_eof():
            if self._size:  # whatever came is a sign of life, also comments and pings while a model thinks
                self._postpone()
            try:
                received = await content.readany()
            except aiohttp.ClientError as error:
                raise self._client.cut_off(error, self._passed) from None
            self._size += len(received)
            if self._size > MAX_ANSWER:
                raise self._client.error("sent an answer that is too large")
            try:
                events = self._parser.feed(received)
            except EventTooLarge:
                raise self._client.error("sent an event that is too large") from None
            if events:
                return events
        if self._ended:
            return []
        self._ended = True
        return self._parser.rest()

    async def finish(self) -> None:
        """The last event is here: a moment for the end of the body, so that the connection can be used again."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(LINGER):
                while await self._response.content.readany():
                    pass

    def _postpone(self) -> None:
        if self._head.begun:
            deadline = _Deadline(self._loop.time() + self._between_tokens, "send its next token")
        else:
            deadline = _Deadline(self._loop.time() + self._first_token, "send its first token")
        self._deadline = deadline = min(self._total, deadline)
        if deadline.at < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(deadline.at, self._on_timer)

    def _on_timer(self) -> None:
        if self._loop.time() < self._deadline.at:  # it was moved meanwhile
            self._timer = self._loop.call_at(self._deadline.at, self._on_timer)
        else:
            self._passed = self._deadline
            self._response.close()


def trusted(where: str, ca_file: str | None) -> ssl.SSLContext:
    """TLS with the authorities of `ca_file`, else of what the environment names, else certifi's."""
    try:
        return httpx.create_ssl_context() if ca_file is None else ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        if ca_file is None:
            where, ca_file = "SSL_CERT_FILE", os.environ.get("SSL_CERT_FILE", "")
        reason = "holds no certificates in PEM" if isinstance(error, ssl.SSLError) else type(error).__name__
        raise ConfigError(f"{where}: cannot read {ca_file!r}: {reason}") from None


def _done_by(proxy: Proxy, error: aiohttp.ClientError | TimeoutError) -> tuple[str, bool] | None:
    """What the proxy did, and whether it may pass; None where it was somebody else, or cannot be known."""
    match error:
        case aiohttp.ClientHttpProxyError(status=407):
            return _NO_CREDENTIALS, False
        case aiohttp.ClientHttpProxyError(status=status):
            return f"refused the connection (status {status})", status in _PASSING
        case aiohttp.ClientResponseError() if error.request_info.method == "CONNECT":
            return "sent what is not HTTP", False
        case aiohttp.ClientConnectorCertificateError(host=proxy.url.raw_host, port=proxy.url.port):
            return "has a certificate that is not trusted here", False
        case aiohttp.ClientConnectorError(host=proxy.url.raw_host, port=proxy.url.port):
            return "cannot be reached", True
    return None


async def _refusal_body(response: aiohttp.ClientResponse) -> bytes:
    """The body of a refusal, or what comes of it in good time; the status counts without it."""
    parts, left = [], refusals.MOST_READ
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_REFUSAL_TIME):
            while left > 0 and (part := await response.content.readany()):
                parts.append(part)
                left -= len(part)
    return b"".join(parts)


def _age(header: str) -> float:
    """Seconds of `Age`, which a cache between us and the provider sets; 0 where it is none that can be.

    RFC 9111, sections 1.2.2 and 5.1: of several the first counts, and what is too large counts as very large.
    """
    written = header.partition(",")[0].strip()
    return min(float(written), _MOST_AGE) if re.fullmatch(r"[0-9]{1,300}", written) else 0.0
