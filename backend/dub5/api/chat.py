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
from typing import TypeVar

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from dub5.admission.arrivals import SMALL_REQUEST, Arrivals
from dub5.admission.keys import KeyRing
from dub5.admission.limits import Grant, RateLimiter
from dub5.api.event_stream import EventStream
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
from dub5.chat.answer import Answer, CacheStatus, Relay, error_event
from dub5.chat.pipeline import Pipeline
from dub5.chat.question import Question
from dub5.chat.request import most_tokens, parse, read
from dub5.errors import DeadlinePassed, Dub5Error, InternalError, ProviderError, ProviderTimeout, WrongMethod
from dub5.json_steps import LARGE
from dub5.settings.model import ServerSettings
from dub5.telemetry.logging import get_logger
from dub5.telemetry.record import RequestRecord, record_of

PATH = "/v1/chat/completions"

_EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
T = TypeVar("T")

_NOTHING = contextlib.nullcontext()
_PATIENCE = 1.0
"""Seconds for which a client that has stopped reading is waited for at the end."""

_log = get_logger()


class ChatRoute:
    """One request in, one response out; whatever happens, the client gets an answer in the contract's shape."""

    def __init__(
        self,
        pipeline: Pipeline,
        keys: KeyRing,
        limiter: RateLimiter,
        settings: ServerSettings,
        arrivals: Arrivals,
    ) -> None:
        self._pipeline = pipeline
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
        try:
            if scope["method"] != "POST":  # type: ignore[typeddict-item]
                raise WrongMethod("Chat completions are asked for by POST.", allow="POST")
            headers = headers_of(scope)
            patience, arrived = patience_of(headers), time.monotonic()
            question = await self._question(headers, receive, record, _after(arrived, patience.first_byte))
            with self._room_for(question):
                grant = await self._granted(question)
                await self._answer(question, grant, _after(arrived, patience.whole), receive, send)
        except ClientLeft:
            record.outcome = "client_disconnect"
        except Exception as error:  # noqa: BLE001  # the last line of defence: whatever it is, the client gets an answer
            await send_error(send, _noted(error, record), _rate_headers(grant))
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
        directives = Directives.parse(headers.get("cache-control", ""))
        tags = parse_tags(headers.get("x-dub5-cache-tags", ""))
        raw = await read_body(headers, receive, self._settings.max_body)
        key = None
        if len(raw) < LARGE:
            request = parse(raw)
        else:
            async with self._arrivals.reading_lock:
                reading = read(raw, room=self._arrivals.room)
                del raw  # it is gone as soon as it is decoded
                request = await reading
                key = await self._pipeline.key_of(request, caller=caller, tags=tags)
        return self._pipeline.prepare(
            request,
            caller=caller,
            directives=directives,
            tags=tags,
            record=record,
            deadline=deadline,
            key=key,
        )

    def _room_for(self, question: Question) -> contextlib.AbstractContextManager[None]:
        """Until it is answered. What has arrived counts already, and is gone; its values are here, and its copy."""
        request = question.request
        if request.size <= SMALL_REQUEST:
            return _NOTHING
        return self._arrivals.reading(request.size, max(0, request.cost - request.size))

    async def _granted(self, question: Question) -> Grant | None:
        """One of the tenant's requests, and the tokens that its answer may take; RateLimited otherwise."""
        if not self._limiter.limited:
            return None
        record = question.record
        if question.request.large:
            await asyncio.sleep(0)
        reserve = 0 if self._pipeline.remembers(question) else most_tokens(question.request, question.fields)
        return await self._limiter.acquire(record.tenant or "", reserve=reserve)

    async def _answer(
        self, question: Question, grant: Grant | None, end: float | None, receive: Receive, send: Send
    ) -> None:
        """`end` is when the caller wants the whole answer, in seconds of time.monotonic."""
        answer = self._pipeline.recall(question)
        if answer is not None:
            await self._send(question, answer, grant, send)
            return
        async with while_client_stays(receive):
            if question.request.stream:
                await self._stream(question, grant, end, send)
            else:
                answer = await _in_time(question.deadline, self._pipeline.answer(question))
                await self._send(question, answer, grant, send)

    async def _send(self, question: Question, answer: Answer, grant: Grant | None, send: Send) -> None:
        """What is here already."""
        assert isinstance(answer.content, bytes)  # noqa: S101  # only a streamed question has a Relay for an answer
        await send_whole(send, 200, _head(question, grant, answer.status, answer.age), answer.content)

    async def _stream(self, question: Question, grant: Grant | None, end: float | None, send: Send) -> None:
        """What comes as it comes; until then, and in its pauses, a heartbeat."""
        life = asyncio.timeout(None)

        def begin_life() -> None:
            life.reschedule(asyncio.get_running_loop().time() + self._settings.max_stream)

        with EventStream(send, self._settings.heartbeat, begin_life) as stream:
            try:
                async with life:
                    await self._converse(question, grant, end, send, stream)
            except Exception as error:
                if not stream.begun:
                    raise
                late = _too_long(question.record) if life.expired() else error
                await _tell_late(late, question.record, stream)

    async def _converse(
        self, question: Question, grant: Grant | None, end: float | None, send: Send, stream: EventStream
    ) -> None:
        def expect(status: CacheStatus) -> None:
            stream.expect(lambda: _head(question, grant, status))

        answer = await _in_time(question.deadline, self._pipeline.answer(question, expect))
        if isinstance(answer.content, Relay):
            async with aclosing(answer.content) as events:
                await stream.begin(lambda: _head(question, grant, answer.status))
                await _in_time(end, stream.relay(events))
        elif stream.begun:
            await stream.end(answer.content)
        else:
            await self._send(question, answer, grant, send)

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


async def _in_time(end: float | None, work: Awaitable[T]) -> T:
    """DeadlinePassed where it is not done by `end`, in seconds of time.monotonic."""
    if end is None:
        return await work
    try:
        async with asyncio.timeout(end - time.monotonic()):
            return await work
    except TimeoutError:
        raise DeadlinePassed from None


def _noted(error: Exception, record: RequestRecord) -> Dub5Error:
    """What the client is told of it."""
    if not isinstance(error, Dub5Error):
        _log.exception("request failed", request_id=record.request_id, trace_id=record.trace.trace_id)
        error = InternalError()
    record.error_code = error.code
    record.refused_by_provider = isinstance(error, ProviderError)
    if isinstance(error, DeadlinePassed):
        record.outcome = "client_disconnect"
    return error


def _too_long(record: RequestRecord) -> ProviderTimeout:
    record.outcome = "provider_error"  # and so what it has used is not known
    return ProviderTimeout("The answer took longer than server.max_stream allows.", provider="")


async def _tell_late(error: Exception, record: RequestRecord, stream: EventStream) -> None:
    """After the head: a client that reads is told so; one that does not is cut off."""
    told = _noted(error, record)
    record.late_status = told.status
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            await stream.end(error_event(told))


def _head(question: Question, grant: Grant | None, status: CacheStatus, age: float | None = None) -> Headers:
    """For `status` 200; of a streamed answer that is not here yet, what is known of it so far."""
    record = question.record
    record.cache = str(status)
    kind = _EVENT_STREAM if question.request.stream else (JSON,)
    headers = [*kind, (b"cache-status", record.cache.encode())]
    if age is not None:
        headers.append((b"age", str(int(age)).encode()))
    headers += _rate_headers(grant)
    if record.timings.get("queue"):
        headers.append(CLOSE)  # docs/adr/0019: a new connection may lead to a replica that has room
    return headers


def _rate_headers(grant: Grant | None) -> Headers:
    return [] if grant is None else [(name.encode(), value.encode()) for name, value in grant.headers.items()]
