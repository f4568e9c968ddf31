"""`POST /v1/embeddings`: read, have each text looked up or asked, write.

The answer to two thousand texts has tens of megabytes as numbers in JSON: it is written a few vectors at a time, as the
client takes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import msgspec
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from dub5.admission.arrivals import SMALL_REQUEST, Arrivals
from dub5.admission.keys import KeyRing
from dub5.admission.limits import Grant, RateLimiter
from dub5.api.chat import record_error, until
from dub5.api.http import (
    CLOSE,
    JSON,
    ClientLeft,
    ClientWatch,
    Headers,
    deadlines_of,
    headers_of,
    key_of,
    parse_tags,
    rate_headers,
    read_body,
    require_json,
    send_error,
    send_whole,
    while_client_stays,
)
from dub5.cache.freshness import Directives
from dub5.chat.embeddings import Batch, Embedder, Vectors
from dub5.chat.embeddings_request import read, tokens_of
from dub5.errors import WrongMethod
from dub5.json_steps import LARGE
from dub5.settings.model import ServerSettings
from dub5.telemetry.record import RequestRecord, record_of

PATH = "/v1/embeddings"

_PIECE = 64 * 2**10
"""Bytes of an answer that are sent at a time."""

_VECTOR = 16 * 2**10
"""Bytes of memory to expect of a vector, in our hands and on its way."""

_SOON = 16
"""Vectors from memory that are sent before it is worth finding out whether the client is still there."""

_json = msgspec.json.encode
_NOTHING: contextlib.nullcontext[None] = contextlib.nullcontext()


class EmbeddingsRoute:
    """One request in, one response out; whatever happens, the client gets an answer in the contract's shape."""

    def __init__(
        self,
        embedder: Embedder,
        keys: KeyRing,
        limiter: RateLimiter,
        settings: ServerSettings,
        arrivals: Arrivals,
    ) -> None:
        self._embedder = embedder
        self._keys = keys
        self._limiter = limiter
        self._settings = settings
        self._arrivals = arrivals

    def route(self) -> ASGIRouteHandler:
        """For Litestar."""
        return asgi(PATH, copy_scope=False)(self.handle)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        record.route = PATH
        grant: Grant | None = None
        batch: Batch | None = None
        try:
            if scope["method"] != "POST":  # type: ignore[typeddict-item]
                raise WrongMethod("Embeddings are asked for by POST.", allow="POST")
            headers = headers_of(scope)
            deadlines = deadlines_of(headers, time.monotonic())
            batch = await self._batch(headers, receive, record, deadlines.first_byte)
            with self._room(batch):
                if self._limiter.limited:
                    reserve = sum(tokens_of(item.text) for item in batch.missing())
                    grant = await self._limiter.acquire(record.tenant or "", reserve=reserve)
                waits = batch.missing() or len(batch.items) > _SOON
                async with while_client_stays(ClientWatch.of(scope, receive)) if waits else _NOTHING:
                    work = self._embedder.answer(batch)
                    vectors = await (work if batch.deadline is None else until(batch.deadline, work))
                    await self._send(batch, vectors, _head(record, vectors, grant), send)
        except ClientLeft:
            record.outcome = "client_disconnect"
        except Exception as error:  # noqa: BLE001  # the last line of defence: whatever it is, the client gets an answer
            await send_error(send, record_error(error, record), rate_headers(grant))
        finally:
            if grant is not None and batch is not None:
                used = batch.asked_tokens if record.outcome is None else batch.tokens_due()
                self._limiter.settle(grant, used=used)

    async def _batch(
        self, headers: dict[str, str], receive: Receive, record: RequestRecord, deadline: float | None
    ) -> Batch:
        started = time.perf_counter()
        caller = self._keys.admit(key_of(headers), "chat", record)
        record.timings["auth"] = time.perf_counter() - started
        require_json(headers)
        directives = Directives.parse(headers.get("cache-control", ""))
        tags = parse_tags(headers.get("x-dub5-cache-tags", ""))
        raw = await read_body(headers, receive, self._settings.max_body)
        async with self._arrivals.reading_lock if len(raw) >= LARGE else contextlib.nullcontext():
            reading = read(raw, room=self._arrivals.room)
            del raw  # it is gone as soon as it is decoded
            request = await reading
        return await self._embedder.prepare(
            request, caller=caller, directives=directives, tags=tags, record=record, deadline=deadline
        )

    async def _send(self, batch: Batch, vectors: Vectors, head: Headers, send: Send) -> None:
        """ClientLeft where the client does not take it: then the rest is not sent, and the connection is closed."""
        try:
            async with asyncio.timeout(self._settings.max_stream):
                await _send(batch, vectors, head, send)
        except TimeoutError:
            raise ClientLeft from None

    def _room(self, batch: Batch) -> contextlib.AbstractContextManager[None]:
        """In memory, for the values of a large request and for the vectors of many texts, until they are sent."""
        request, vectors = batch.request, len(batch.items) * _VECTOR
        if request.size + vectors <= SMALL_REQUEST:
            return _NOTHING
        return self._arrivals.reading(request.size + vectors, max(0, request.cost - request.size) + vectors)


def _head(record: RequestRecord, vectors: Vectors, grant: Grant | None) -> Headers:
    record.cache = str(vectors.status)
    headers = [JSON, (b"cache-status", record.cache.encode())]
    if vectors.age is not None:
        headers.append((b"age", str(int(vectors.age)).encode()))
    headers += rate_headers(grant)
    if record.timings.get("queue"):
        headers.append(CLOSE)  # docs/adr/0019
    return headers


async def _send(batch: Batch, vectors: Vectors, head: Headers, send: Send) -> None:
    pieces = _pieces(batch, vectors)
    piece, following = next(pieces), next(pieces, None)
    if following is None:
        await send_whole(send, 200, head, piece)
        return
    await send({"type": "http.response.start", "status": 200, "headers": head})
    while following is not None:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0)  # to send is no wait where the client takes it
        piece, following = following, next(pieces, None)
    await send({"type": "http.response.body", "body": piece, "more_body": False})


def _pieces(batch: Batch, vectors: Vectors) -> Iterator[bytes]:
    """The body, `_PIECE` bytes and a vector at a time at most."""
    parts = [b'{"object":"list","data":[']
    size = 0
    for index, vector in enumerate(vectors.vectors):
        parts.append(b'%b{"object":"embedding","index":%d,"embedding":' % (b"," if index else b"", index))
        written = b'"%b"' % vector.base64() if batch.request.base64 else _json(vector.floats())
        parts += (written, b"}")
        size += len(written)
        if size >= _PIECE:
            yield b"".join(parts)
            parts, size = [], 0
    usage = {"prompt_tokens": vectors.tokens, "total_tokens": vectors.tokens}
    model, used = _json(batch.request.model), _json(usage)
    yield b"".join([*parts, b'],"model":', model, b',"usage":', used, b"}"])
