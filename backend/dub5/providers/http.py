"""What every provider behind HTTP shares: the pool, the time limits, and errors in our words.

aiohttp is used as it is: a layer above it would cost three times what it costs itself (docs/adr/0001). A provider's
refusal of the *request* (400, 413, 422) is the caller's error and keeps the provider's own words; anything else is
the provider's fault. Keys never get into a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from types import MappingProxyType
from typing import Any

import aiohttp
import httpx
import msgspec
from aiohttp.http_exceptions import ContentEncodingError

from dub5.addresses import Proxy
from dub5.errors import (
    CallerError,
    ConfigError,
    InvalidRequest,
    ProviderError,
    ProviderTimeout,
    RequestTooLarge,
)
from dub5.providers.protocol import Call, Json, Payload
from dub5.providers.sse import EventParser, EventTooLarge
from dub5.settings import AnthropicSettings, OpenAISettings, Timeouts, key_header, root_of

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

MAX_ANSWER = 32 * 2**20
"""Bytes of one answer, whole or streamed, that we are ready to hold for a provider."""

LINGER = 0.1
"""Seconds for the end of a body whose last event is here: then the connection can be used again."""

_OK, _PROXY_AUTHENTICATION, _TOO_LARGE, _TOO_MANY_REQUESTS = 200, 407, 413, 429

_NO_CREDENTIALS = "asks for credentials, or for other ones (status 407)"

_KEEP_ALIVE = 30.0
"""Seconds that an idle connection is kept."""

_REQUEST_IDS = ("x-request-id", "request-id")
"""Headers in which OpenAI and Anthropic, and those who follow them, give their own id of a call."""

_REQUEST_ID = re.compile(r"[!-~]{1,128}")

_PASSING = {500, 502, 503, 529}
"""Statuses that say that the same call may succeed in a moment; 529 is Anthropic's `overloaded_error`."""

# A digit or a mask must be in it, or "key parameter" would look like one.
_MOST_WORDS = 2000
"""Characters of a provider's message that are looked at: it may echo all of the caller's request."""

_LOOKS_LIKE_A_KEY = re.compile(
    r"\b(?:sk|pk|(?:x[-_ ])?(?:api[-_ ]?)?key|token|bearer)[-_ :=\"']++(?=[A-Za-z._-]*+[0-9*])[A-Za-z0-9*._-]{6,}",
    re.IGNORECASE,
)

# Anthropic says so with status 400, but no caller can mend it.
_ACCOUNT_TROUBLE = re.compile(r"\bcredit balance\b|\bbilling\b", re.IGNORECASE)


class Access(msgspec.Struct, frozen=True):
    """What it takes to reach a provider besides its address and key. Found out once, at the start."""

    headers: dict[str, str] = {}
    """With secrets in them."""

    proxy: Proxy | None = None

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
        settings: OpenAISettings | AnthropicSettings,
        path: str,
        *,
        key: str,
        access: Access,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        self.name = name
        self._timeouts: Timeouts = settings.timeouts
        self._max_connections = settings.max_connections
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
        self._proxy = access.proxy
        self._through = self._told_of(access.proxy)
        if not all(value.isascii() and value.isprintable() for value in self._headers.values()):
            raise ConfigError(f"providers.{name}: the key and the headers must be printable ASCII")
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

    async def post(self, body: Json, call: Call) -> Payload:
        """The whole JSON answer."""
        limit = _Limit(_now() + self._timeouts.total, "finish its answer")
        try:
            async with asyncio.timeout_at(limit.at):
                response = await self._asked(body, call)
                try:
                    return Payload.parse(await self._read(response), self.name)
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
        parser, begun, size, now = EventParser(), False, 0, asyncio.get_running_loop().time
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
                        begun = True
                        yield events
                    if response.content.at_eof():
                        return
                    if begun:
                        pause = _Limit(now() + self._timeouts.between_tokens, "send its next token")
                        patience.ends(min(total, pause))
        finally:
            response.release()

    def _parsed(self, parser: EventParser, chunk: bytes) -> list[tuple[bytes, bytes]]:
        try:
            return list(parser.feed(chunk))
        except EventTooLarge:
            raise self.error("sent an event that is too large") from None

    def _trouble(self, error: aiohttp.ClientError | TimeoutError, limit: _Limit | None) -> ProviderError:
        """What aiohttp raised, or that `limit` had passed, in our words."""
        if self._proxy is not None and (what := _done_by(self._proxy, error)) is not None:
            return self._proxy_error(*what)
        match error:
            case aiohttp.ServerTimeoutError():
                through = "" if self._proxy is None else " through its proxy"
                return self._timeout(_Limit(0, f"accept a connection{through}"))
            case aiohttp.ClientConnectorCertificateError():
                return self.error("has a certificate that is not trusted here")
            case aiohttp.ClientConnectorError() | aiohttp.ClientSSLError():
                return self.error("cannot be reached", transient=True)
            case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError(__cause__=ContentEncodingError()):
                return self.error("sent what is not HTTP")
            case TimeoutError() if limit is not None:
                return self._timeout(limit)
        return self.error("broke off", transient=True)

    async def _asked(self, body: Json, call: Call) -> aiohttp.ClientResponse:
        """The response, to be released: that puts its connection back where all was read, and else closes it."""
        response = await self._pool().post(
            self._url,
            data=msgspec.json.encode(body),
            headers={**self._headers, **call.headers},
            allow_redirects=False,
            **self._through,
        )
        call.heard.status, call.heard.request_id = response.status, _request_id(response)
        if response.status == _OK:
            return response
        try:
            if response.status == _PROXY_AUTHENTICATION and self._proxy is not None:
                raise self._proxy_error(_NO_CREDENTIALS)
            raise self._refusal(response, await self._read(response))
        finally:
            response.release()

    def _pool(self) -> aiohttp.ClientSession:
        """Made with the first call, since it belongs to the event loop that runs then."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections, keepalive_timeout=_KEEP_ALIVE, ssl=self._tls
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(connect=self._timeouts.connect),
            )
        return self._session

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
        retry_after: float | None = None,
        transient: bool = False,
        busy: bool = False,
    ) -> ProviderError:
        """A sentence that begins with the provider's name and goes on with `what`, and with what it `said` itself."""
        words = f": {self.redact(said).rstrip('.')}" if said else ""
        return ProviderError(
            f"The provider {self.name} {what}{words}.",
            plain=f"The provider {self.name} {what}.",
            provider=self.name,
            retry_after=retry_after,
            transient=transient,
            busy=busy,
        )

    def _proxy_error(self, what: str, transient: bool = False) -> ProviderError:  # see _done_by
        words = f"The proxy of the provider {self.name} {what}."
        return ProviderError(words, provider=self.name, transient=transient, scope="provider")

    def _timeout(self, limit: _Limit) -> ProviderTimeout:
        words = f"The provider {self.name} took too long to {limit.doing}."
        return ProviderTimeout(words, provider=self.name)

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> CallerError | ProviderError:
        """A status other than 200 as an error of ours, with the provider's words and none of its secrets."""
        status = response.status
        words, param = _words(body)
        if status in {400, 422} and not _ACCOUNT_TROUBLE.search(words):
            return InvalidRequest(self.redact(words or "The provider refused the request."), param=param)
        if status == _TOO_LARGE:
            return RequestTooLarge(self.redact(words or "The request is too large for the provider."))
        if status in {401, 403}:  # its message quotes the key
            return self.error(f"refused the service's credentials (status {status})")
        return self.error(
            f"answered with status {status}",
            said=words,
            retry_after=_retry_after(response),
            transient=status in _PASSING,
            busy=status == _TOO_MANY_REQUESTS,
        )

    def reported(self, words: str) -> ProviderError:
        """The error that a provider puts into an answer that began with status 200."""
        return self.error("reported an error", said=words)

    def redact(self, words: str) -> str:
        """`words` without the provider's secrets or anything that looks like one, at most 1,000 characters."""
        for secret in self._secrets:
            words = words.replace(secret, "[redacted]")
        return _LOOKS_LIKE_A_KEY.sub("[redacted]", words[:_MOST_WORDS])[:1000]


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


def _words(body: bytes) -> tuple[str, str | None]:
    """Message and param of an error body; OpenAI's and Anthropic's shapes agree on `error.message`."""
    try:
        data: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "", None
    error = data.get("error", data) if isinstance(data, dict) else None
    if isinstance(error, str):
        return error, None
    if not isinstance(error, dict):
        return "", None
    message, param = error.get("message"), error.get("param")
    return (message if isinstance(message, str) else ""), (param if isinstance(param, str) else None)


def _request_id(response: aiohttp.ClientResponse) -> str | None:
    """What the provider calls this call; None where it does not say, or nothing that fits into a log line."""
    written = next((response.headers[name] for name in _REQUEST_IDS if name in response.headers), "")
    return written if _REQUEST_ID.fullmatch(written) else None


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds of `Retry-After`; its date form is rare among providers and is left out."""
    written = response.headers.get("retry-after", "")
    return float(written) if re.fullmatch(r"\d{1,5}(\.\d+)?", written) else None
