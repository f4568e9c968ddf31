"""What every provider behind HTTP shares: the pool, the time limits, and errors in our words.

The aiohttp transport under httpx costs a fifth of the CPU of httpx's own when streaming, see
docs/async-io.md. A provider's refusal of the *request* (400, 413, 422) is the caller's error and keeps the
provider's own words; anything else is the provider's fault. Keys never get into a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from dub5.errors import (
    CallerError,
    ConfigError,
    InvalidRequest,
    ProviderError,
    ProviderTimeout,
    RequestTooLarge,
)
from dub5.providers.protocol import Json, Payload
from dub5.providers.sse import EventParser, EventTooLarge
from dub5.settings import HttpProviderSettings, Timeouts

MAX_ANSWER = 32 * 2**20
"""Bytes of one answer, whole or streamed, that we are ready to hold for a provider."""

LINGER = 0.1
"""Seconds for the end of a body whose last event is here: then the connection can be used again."""

# The transport lets some exceptions of aiohttp through, such as that for a malformed status line.
_TROUBLE = (httpx.TransportError, httpx.DecodingError, aiohttp.ClientError)

# A digit or a mask must be in it, or "key parameter" would look like one.
_MOST_WORDS = 2000
"""Characters of a provider's message that are looked at: it may echo all of the caller's request."""

_LOOKS_LIKE_A_KEY = re.compile(
    r"\b(?:sk|pk|(?:x[-_ ])?(?:api[-_ ]?)?key|token|bearer)[-_ :=\"']++(?=[A-Za-z._-]*+[0-9*])[A-Za-z0-9*._-]{6,}",
    re.IGNORECASE,
)

# Anthropic says so with status 400, but no caller can mend it.
_ACCOUNT_TROUBLE = re.compile(r"\bcredit balance\b|\bbilling\b", re.IGNORECASE)


class HttpClient:
    """One provider's pool of connections. `post` and `events` raise only errors of `dub5.errors`."""

    def __init__(
        self, name: str, settings: HttpProviderSettings, *, headers: dict[str, str], secret: str
    ) -> None:
        self.name = name
        self._timeouts: Timeouts = settings.timeouts
        self._secret = secret
        self._headers = {
            "content-type": "application/json",
            # Compression would hold back the chunks of a stream inside the compressor.
            "accept-encoding": "identity",
            **settings.headers,
            **headers,
        }
        if not all(value.isascii() and value.isprintable() for value in self._headers.values()):
            raise ConfigError(f"providers.{name}: the key and the headers must be printable ASCII")
        limits = httpx.Limits(max_connections=settings.max_connections, keepalive_expiry=30)
        self._client = httpx.AsyncClient(
            transport=AiohttpTransport(limits=limits),
            timeout=httpx.Timeout(None, connect=self._timeouts.connect, pool=self._timeouts.connect),
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def post(self, url: str, body: Json, headers: dict[str, str]) -> Payload:
        """The whole JSON answer."""
        limit = _Limit(_now() + self._timeouts.total, "finish its answer")
        async with self._within(limit), self._opened(url, body, headers) as response:
            return Payload.parse(await self._read(response), self.name)

    async def events(
        self, url: str, body: Json, headers: dict[str, str], *, is_last: Callable[[bytes, bytes], bool]
    ) -> AsyncGenerator[tuple[bytes, bytes], None]:
        """The `(event, data)` pairs of a stream, until the one for which `is_last(event, data)` is true.

        It also ends where the provider closes the body: whether the answer is complete is for the caller to say.
        """
        total = _Limit(_now() + self._timeouts.total, "finish its answer")
        limit = min(total, _Limit(_now() + self._timeouts.first_token, "send its first token"))
        parser, begun = EventParser(), False
        async with contextlib.AsyncExitStack() as stack:
            async with self._within(limit):
                response = await stack.enter_async_context(self._opened(url, body, headers))
            received, size = response.aiter_bytes(), 0
            while True:
                async with self._within(limit):
                    chunk = await anext(received, None)
                if chunk is None:
                    return
                size += len(chunk)
                if size > MAX_ANSWER:
                    raise self.error("sent an answer that is too large")
                for event in self._parsed(parser, chunk):
                    begun = True
                    yield event
                    if is_last(*event):
                        await _until_closed(received)
                        return
                if begun:
                    pause = _Limit(_now() + self._timeouts.between_tokens, "send its next token")
                    limit = min(total, pause)

    def _parsed(self, parser: EventParser, chunk: bytes) -> list[tuple[bytes, bytes]]:
        try:
            return list(parser.feed(chunk))
        except EventTooLarge:
            raise self.error("sent an event that is too large") from None

    @contextlib.asynccontextmanager
    async def _within(self, limit: _Limit) -> AsyncIterator[None]:
        """Stop at the limit, and translate what the transport raises."""
        try:
            async with asyncio.timeout_at(limit.at):
                yield
        except TimeoutError:
            raise self._timeout(limit.doing) from None
        except _TROUBLE as error:
            raise self._trouble(error) from None

    def _trouble(self, error: Exception) -> ProviderError:
        # The transport reports a closed connection as ConnectTimeout too; the cause tells them apart.
        if isinstance(error.__cause__, asyncio.TimeoutError):
            return self._timeout("accept a connection")
        if isinstance(error.__cause__, aiohttp.ClientConnectorError):
            return self.error("cannot be reached")
        if isinstance(error, (httpx.DecodingError, aiohttp.ClientResponseError)):
            return self.error("sent what is not HTTP")
        return self.error("broke off")

    @contextlib.asynccontextmanager
    async def _opened(self, url: str, body: Json, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        request = self._client.build_request(
            "POST", url, content=msgspec.json.encode(body), headers={**self._headers, **headers}
        )
        response = await self._client.send(request, stream=True)
        try:
            if response.status_code != httpx.codes.OK:
                raise self._refusal(response, await self._read(response))
            yield response
        finally:
            await response.aclose()

    async def _read(self, response: httpx.Response) -> bytes:
        parts, size = [], 0
        async for part in response.aiter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER:
                raise self.error("sent an answer that is too large")
        return b"".join(parts)

    def error(self, what: str, *, retry_after: float | None = None) -> ProviderError:
        """A sentence that begins with the provider's name and goes on with `what`."""
        return ProviderError(f"The provider {self.name} {what}.", provider=self.name, retry_after=retry_after)

    def _timeout(self, doing: str) -> ProviderTimeout:
        return ProviderTimeout(f"The provider {self.name} took too long to {doing}.", provider=self.name)

    def _refusal(self, response: httpx.Response, body: bytes) -> CallerError | ProviderError:
        """A status other than 200 as an error of ours, with the provider's words and none of its secrets."""
        status = response.status_code
        words, param = _words(body)
        if status in {400, 422} and not _ACCOUNT_TROUBLE.search(words):
            return InvalidRequest(self.redact(words or "The provider refused the request."), param=param)
        if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            return RequestTooLarge(self.redact(words or "The request is too large for the provider."))
        if status in {401, 403}:  # its message quotes the key
            return self.error(f"refused the service's credentials (status {status})")
        said = f": {self.redact(words).rstrip('.')}" if words else ""
        return self.error(f"answered with status {status}{said}", retry_after=_retry_after(response))

    def reported(self, words: str) -> ProviderError:
        """The error that a provider puts into an answer that began with status 200."""
        return self.error(f"reported: {self.redact(words).rstrip('.')}")

    def redact(self, words: str) -> str:
        """`words` without the provider's key or anything that looks like one, at most 1,000 characters."""
        if self._secret:
            words = words.replace(self._secret, "[redacted]")
        return _LOOKS_LIKE_A_KEY.sub("[redacted]", words[:_MOST_WORDS])[:1000]


class _Limit(msgspec.Struct, frozen=True, order=True):
    """Until when, by the loop's clock, a provider may keep us waiting, and for what."""

    at: float
    doing: str


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _until_closed(received: AsyncIterator[bytes]) -> None:
    with contextlib.suppress(TimeoutError, *_TROUBLE):
        async with asyncio.timeout(LINGER):
            async for _ in received:
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


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of `Retry-After`; its date form is rare among providers and is left out."""
    written = response.headers.get("retry-after", "")
    return float(written) if re.fullmatch(r"\d{1,5}(\.\d+)?", written) else None
