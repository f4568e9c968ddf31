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
from collections.abc import AsyncGenerator, Callable, Mapping
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
"""From here on statuses are the server's own trouble."""

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
        self._through = self._told_of(access.proxy)
        if not all(value.isascii() and value.isprintable() for value in self._headers.values()):
            raise ConfigError(f"providers.{name}: the key and the headers must be printable ASCII")
        hosts = (self._url.host, access.proxy.url.host if access.proxy is not None else None)
        self._redact = Redactor(*self._secrets, hosts=[host for host in hosts if host])
        # Reads files, which must not wait for the first call.
        self._tls = trusted(f"providers.{name}.ca_file", settings.ca_file)
        self._session: aiohttp.ClientSession | None = None

    def _told_of(self, proxy: Proxy | None) -> dict[str, Any]:
        """What aiohttp is told with each call. Credentials go with CONNECT, or with a request in the clear."""
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
        limit = _Limit(_now() + self._timeouts.total, "finish its answer")
        try:
            async with asyncio.timeout_at(limit.at):
                response = await self._asked(body, call)
                try:
                    return await self._read(response)
                finally:
                    response.release()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._trouble(error, limit) from None

    async def events(
        self, body: Json, call: Call, *, is_last: Callable[[bytes, bytes], bool]
    ) -> AsyncGenerator[list[tuple[bytes, bytes]], None]:
        """The `(event, data)` pairs of a stream, until the one for which `is_last(event, data)` is true.

        Those that came together are given together, since at a busy hour they are many.
        It also ends where the provider closes the body: whether the answer is complete is for the caller to say.
        """
        total = _Limit(_now() + self._timeouts.total, "finish its answer")
        first = min(total, _Limit(_now() + self._timeouts.first_token, "send its first token"))
        try:
            async with asyncio.timeout_at(first.at):
                response = await self._asked(body, call)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._trouble(error, first) from None
        parser, size, now = EventParser(), 0, asyncio.get_running_loop().time
        try:
            with _Patience(response, first) as patience:
                while True:
                    try:
                        chunk = await response.content.readany()
                    except aiohttp.ClientError as error:
                        over = patience.over
                        raise (self._trouble(error, None) if over is None else self._timeout(over)) from None
                    size += len(chunk)
                    if size > MAX_ANSWER:
                        raise self.error("sent an answer that is too large")
                    events = self._parsed(parser, chunk)
                    for number, event in enumerate(events, 1):
                        if is_last(*event):
                            yield events[:number]
                            await _until_closed(response)
                            return
                    if events:
                        yield events
                    if response.content.at_eof():
                        if rest := parser.rest():
                            yield rest
                        return
                    # Whatever comes is a sign of life, also comments and pings while a model thinks.
                    if call.response.begun:
                        pause = _Limit(now() + self._timeouts.between_tokens, "send its next token")
                    else:
                        pause = _Limit(now() + self._timeouts.first_token, "send its first token")
                    patience.ends(min(total, pause))
        finally:
            response.release()

    def _parsed(self, parser: EventParser, chunk: bytes) -> list[tuple[bytes, bytes]]:
        try:
            return list(parser.feed(chunk))
        except EventTooLarge:
            raise self.error("sent an event that is too large") from None

    def _trouble(
        self, error: aiohttp.ClientError | TimeoutError, limit: _Limit | None
    ) -> ProviderError | Overloaded:
        """What aiohttp raised, or that `limit` had passed, in our words."""
        if isinstance(error, aiohttp.ClientOSError) and _is_shortage(error):
            return _out_of("file descriptors, ports or memory")
        if self._proxy is not None and (what := _done_by(self._proxy, error)) is not None:
            return self._proxy_error(*what)
        match error:
            case aiohttp.ServerTimeoutError():
                through = "" if self._proxy is None else " through its proxy"
                return self._timeout(_Limit(0, f"accept a connection{through}"), scope="provider")
            case aiohttp.ClientConnectorCertificateError():
                return self.error("has a certificate that is not trusted here", scope="provider")
            case aiohttp.ClientConnectorError() | aiohttp.ClientSSLError():
                return self.error("cannot be reached", transient=True, scope="provider")
            case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError(__cause__=ContentEncodingError()):
                return self.error("sent what is not HTTP")
            case TimeoutError() if limit is not None:
                return self._timeout(limit)
        cut = isinstance(error, aiohttp.ClientPayloadError)  # in the middle of an answer
        return self.error("broke off", transient=True, scope="model" if cut else "server")

    async def _asked(self, body: Json, call: Call) -> aiohttp.ClientResponse:
        """The response, to be released: that puts its connection back where all was read, and else closes it."""
        try:
            response = await self._pool().post(
                self._url,
                data=await _in_pieces(body) if call.large else msgspec.json.encode(body),
                headers={**self._headers, **call.headers},
                allow_redirects=False,
                **self._through,
            )
        except MemoryError:
            raise _out_of("memory") from None
        except RuntimeError as error:  # from the thread that would look up the host
            if "start new thread" in str(error):
                raise _out_of("threads") from None
            raise
        call.response.status, call.response.request_id = response.status, self._request_id(response)
        call.response.age = _age(response)
        if response.status == _OK:
            return response
        try:
            if response.status == _PROXY_AUTHENTICATION and self._proxy is not None:
                raise self._proxy_error(_NO_CREDENTIALS)
            raise self._refusal(response, await _said(response))
        finally:
            response.release()

    def _pool(self) -> aiohttp.ClientSession:
        """Made with the first call, since it belongs to the event loop that runs then."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(connect=self._timeouts.connect),
            )
        return self._session

    def _connector(self) -> aiohttp.TCPConnector:
        # How many there are at once is for `health` to say: a wait here would be the provider's fault.
        usual: Any = {"limit": 0, "keepalive_timeout": _KEEP_ALIVE, "ssl": self._tls}
        return aiohttp.TCPConnector(**usual) if self._sockets is None else _FewSockets(self._sockets, **usual)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        parts, size = [], 0
        while part := await response.content.readany():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER:
                raise self.error("sent an answer that is too large")
        return b"".join(parts)

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

    def _timeout(self, limit: _Limit, scope: FailureScope = "server") -> ProviderTimeout:
        words = f"The provider {self.name} took too long to {limit.doing}."
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
            case "trouble":
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
        """What is about the request or its rate is told as the provider `shown` it; `what` is for the log."""
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
        written = next((response.headers[name] for name in _REQUEST_IDS if name in response.headers), "")
        if written and any(secret in written for secret in self._secrets):
            return None
        return written if _REQUEST_ID.fullmatch(written) else None


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
    """The resolver says of each trouble that the name is not known."""
    try:
        socket.socket().close()
    except OSError:
        return False
    return True


class _FewSockets(aiohttp.TCPConnector):
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


class _Limit(msgspec.Struct, frozen=True, order=True):
    """Until when, by the loop's clock, a provider may keep us waiting, and for what."""

    at: float
    doing: str


class _Patience:
    """Closes a response that keeps us waiting past a limit, which then is in `over`.

    One timer for a whole stream: moving the limit to a later time, as each chunk does, costs no more than noting it.
    """

    def __init__(self, response: aiohttp.ClientResponse, limit: _Limit) -> None:
        self.over: _Limit | None = None
        self._response = response
        self._limit = limit
        self._timer = self._set()

    def __enter__(self) -> _Patience:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def ends(self, limit: _Limit) -> None:
        self._limit = limit
        if limit.at < self._timer.when():
            self._timer.cancel()
            self._timer = self._set()

    def _set(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_at(self._limit.at, self._rang)

    def _rang(self) -> None:
        if _now() < self._limit.at:
            self._timer = self._set()
        else:
            self.over = self._limit
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


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _until_closed(response: aiohttp.ClientResponse) -> None:
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(LINGER):
            while await response.content.readany():
                pass


async def _said(response: aiohttp.ClientResponse) -> bytes:
    """The body of a refusal, or what comes of it in good time; the status counts without it."""
    parts, left = [], refusals.MOST_READ
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_REFUSAL_TIME):
            while left > 0 and (part := await response.content.readany()):
                parts.append(part)
                left -= len(part)
    return b"".join(parts)


def _age(response: aiohttp.ClientResponse) -> float:
    """Seconds of `Age`, which a cache between us and the provider sets; 0 where there is none, or none that can be.

    RFC 9111, sections 1.2.2 and 5.1: of several the first counts, and what is too large counts as very large.
    """
    written = response.headers.get("age", "").partition(",")[0].strip()
    return min(float(written), _MOST_AGE) if re.fullmatch(r"[0-9]{1,300}", written) else 0.0
