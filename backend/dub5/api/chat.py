"""`POST /v1/chat/completions`: parse, call the pipeline, render.

A raw ASGI handler: on this path a framework's conversion of requests and responses would cost as much as
all our own work, and streams need the socket's own back pressure.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from contextlib import aclosing

import msgspec
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from dub5.admission.keys import KeyRing
from dub5.admission.limits import Grant, RateLimiter
from dub5.api.http import (
    CLOSE,
    JSON,
    ClientLeft,
    Headers,
    headers_of,
    parse_tags,
    patience_of,
    read_body,
    require_json,
    send_error,
    send_whole,
    while_client_stays,
)
from dub5.cache.freshness import Directives
from dub5.chat import shapes
from dub5.chat.pipeline import Answer, Pipeline
from dub5.chat.question import Question
from dub5.chat.relay import Relay
from dub5.chat.request import most_tokens, parse
from dub5.errors import DeadlinePassed, Dub5Error, InternalError, ProviderError, ProviderTimeout, WrongMethod
from dub5.settings import ServerSettings
from dub5.telemetry.logging import get_logger
from dub5.telemetry.record import RequestRecord, record_of

PATH = "/v1/chat/completions"

_EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_END: Message = {"type": "http.response.body", "body": b"", "more_body": False}
_PATIENCE = 1.0
"""Seconds for which a client that has stopped reading is waited for at the end."""

_log = get_logger()


class ChatRoute:
    """One request in, one response out; whatever happens, the client gets an answer in the contract's shape."""

    def __init__(
        self, pipeline: Pipeline, keys: KeyRing, limiter: RateLimiter, settings: ServerSettings
    ) -> None:
        self._pipeline = pipeline
        self._keys = keys
        self._limiter = limiter
        self._settings = settings

    def route(self) -> ASGIRouteHandler:
        """For Litestar."""
        return asgi(PATH, copy_scope=False)(self.handle)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        record.route = PATH
        grant: Grant | None = None
        try:
            if scope["method"] != "POST":  # type: ignore[typeddict-item]
                raise WrongMethod("Chat completions are asked for by POST.", allow="POST")
            headers = headers_of(scope)
            patience, arrived = patience_of(headers), time.monotonic()
            question = await self._question(headers, receive, record, _after(arrived, patience.first_byte))
            grant = await self._granted(question)
            await self._answer(question, grant, _after(arrived, patience.whole), receive, send)
        except ClientLeft:
            record.outcome = "client_disconnect"
        except Dub5Error as error:
            record.error_code = error.code
            if isinstance(error, DeadlinePassed):
                record.outcome = "client_disconnect"
            record.refused_by_provider = isinstance(error, ProviderError)
            await send_error(send, error, _rate_headers(grant))
        except Exception:  # noqa: BLE001  # the last line of defence: whatever it is, the client gets an answer
            _log.exception("request failed", request_id=record.request_id, trace_id=record.trace.trace_id)
            record.error_code = InternalError.code
            await send_error(send, InternalError())
        finally:
            if grant is not None:
                self._settle(record, grant)

    async def _question(
        self, headers: dict[str, str], receive: Receive, record: RequestRecord, deadline: float | None
    ) -> Question:
        started = time.perf_counter()
        caller = self._keys.authenticate(headers.get("authorization", ""))
        record.timings["auth"] = time.perf_counter() - started
        record.tenant, record.key_id = caller.tenant, caller.key_id
        caller.require("chat")
        require_json(headers)
        request = parse(await read_body(headers, receive, self._settings.max_body))
        return self._pipeline.prepare(
            request,
            caller=caller,
            asked=Directives.parse(headers.get("cache-control", "")),
            tags=parse_tags(headers.get("x-dub5-cache-tags", "")),
            record=record,
            deadline=deadline,
        )

    async def _granted(self, question: Question) -> Grant | None:
        """One of the tenant's requests, and the tokens that its answer may take; RateLimited otherwise."""
        if not self._limiter.limited:
            return None
        record = question.record
        reserve = 0 if self._pipeline.remembers(question) else most_tokens(question.fields)
        return await self._limiter.acquire(record.tenant or "", reserve=reserve)

    async def _answer(
        self, question: Question, grant: Grant | None, end: float | None, receive: Receive, send: Send
    ) -> None:
        """`end` is when the caller wants the whole answer, in seconds of time.monotonic."""
        answer = self._pipeline.recall(question)
        if answer is None:
            async with while_client_stays(receive):
                answer = await self._in_time(question)
                await self._send(question, answer, grant, end, send)
        else:
            await self._send(question, answer, grant, end, send)

    async def _in_time(self, question: Question) -> Answer:
        try:
            async with asyncio.timeout(_left(question.deadline)):
                return await self._pipeline.answer(question)
        except TimeoutError:
            raise DeadlinePassed from None

    async def _send(
        self, question: Question, answer: Answer, grant: Grant | None, end: float | None, send: Send
    ) -> None:
        kind = _EVENT_STREAM if question.request.stream else (JSON,)
        headers = [*kind, *_cache_headers(question, answer), *_rate_headers(grant)]
        if question.record.timings.get("queue"):
            headers.append(CLOSE)  # docs/adr/0019: a new connection may lead to a replica that has room
        if isinstance(answer.content, bytes):
            await send_whole(send, 200, headers, answer.content)
        else:
            await self._send_events(question, answer.content, headers, end, send)

    async def _send_events(
        self, question: Question, events: Relay, headers: Headers, end: float | None, send: Send
    ) -> None:
        left = _left(end)
        late: Dub5Error = DeadlinePassed()
        if left is None or left > self._settings.max_stream:
            left = self._settings.max_stream
            late = ProviderTimeout("The answer took longer than server.max_stream allows.", provider="")
        try:
            async with aclosing(events), asyncio.timeout(left):
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                await send(_END)
        except TimeoutError:
            await self._tell_late(late, question, send)

    async def _tell_late(self, late: Dub5Error, question: Question, send: Send) -> None:
        """A client that reads is told so; one that does not is cut off."""
        ours = isinstance(late, ProviderTimeout)
        question.record.outcome = "provider_error" if ours else "client_disconnect"
        question.record.error_code = late.code
        body = shapes.event(msgspec.json.encode(late.body()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await send(_END)

    def _settle(self, record: RequestRecord, grant: Grant) -> None:
        """Give back what was not used; of an answer that broke off nobody knows how much that is."""
        free = record.cache_result in {"local", "shared", "stale", "collapsed"}
        if free or record.outcome is None:
            used = 0 if free else (record.prompt_tokens or 0) + (record.completion_tokens or 0)
            self._limiter.settle(grant, used=used)


class ChatFirst:
    """Takes the chat route's requests straight to it, and all others, also to other spellings of its path, to `app`.

    What the router, the exception handling and the copies of a framework cost per request is a tenth of a hit.
    """

    def __init__(self, chat: ChatRoute, app: ASGIApp) -> None:
        self._chat = chat
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return (self._chat.handle if scope["path"] == PATH else self._app)(scope, receive, send)


def _after(now: float, seconds: float | None) -> float | None:
    return None if seconds is None else now + seconds


def _left(end: float | None) -> float | None:
    return None if end is None else end - time.monotonic()


def _cache_headers(question: Question, answer: Answer) -> Headers:
    status = str(answer.status)
    question.record.cache = status
    headers = [(b"cache-status", status.encode())]
    if answer.age is not None:
        headers.append((b"age", str(int(answer.age)).encode()))
    return headers


def _rate_headers(grant: Grant | None) -> Headers:
    return [] if grant is None else [(name.encode(), value.encode()) for name, value in grant.headers.items()]
