"""`POST /v1/chat/completions`: parse, call the pipeline, render.

A raw ASGI handler: on this path a framework's conversion of requests and responses would cost as much as
all our own work, and streams need the socket's own back pressure.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import msgspec
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Message, Receive, Scope, Send

from dub5.admission.keys import KeyRing
from dub5.api.http import (
    JSON,
    ClientLeft,
    Headers,
    headers_of,
    parse_tags,
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
from dub5.chat.request import parse
from dub5.errors import Dub5Error, InternalError, ProviderTimeout, WrongMethod
from dub5.settings import ServerSettings
from dub5.telemetry.logging import get_logger
from dub5.telemetry.record import RequestRecord, record_of

PATH = "/v1/chat/completions"

_EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_log = get_logger()


def chat_route(pipeline: Pipeline, keys: KeyRing, settings: ServerSettings) -> ASGIRouteHandler:
    """The route, bound to what it calls."""

    @asgi(PATH, copy_scope=False)
    async def chat(scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        record.route = PATH
        try:
            if scope["method"] != "POST":  # type: ignore[typeddict-item]
                raise WrongMethod("Chat completions are asked for by POST.", allow="POST")
            question = await _question(scope, receive, record)
            answer = pipeline.recall(question)
            if answer is not None:
                await _send_whole(send, question, answer, answer.content)  # type: ignore[arg-type]
                return
            async with while_client_stays(receive):
                await _send(send, question, await pipeline.answer(question))
        except ClientLeft:
            record.outcome = "client_disconnect"
        except Dub5Error as error:
            record.error_code = error.code
            await send_error(send, error)
        except Exception:  # noqa: BLE001  # the last line of defence: whatever it is, the client gets an answer
            _log.exception("request failed", request_id=record.request_id)
            record.error_code = InternalError.code
            await send_error(send, InternalError())

    async def _question(scope: Scope, receive: Receive, record: RequestRecord) -> Question:
        headers = headers_of(scope)
        started = time.perf_counter()
        caller = keys.authenticate(headers.get("authorization", ""))
        record.timings["auth"] = time.perf_counter() - started
        record.tenant, record.key_id = caller.tenant, caller.key_id
        caller.require("chat")
        require_json(headers)
        request = parse(await read_body(headers, receive, settings.max_body))
        return pipeline.prepare(
            request,
            caller=caller,
            asked=Directives.parse(headers.get("cache-control", "")),
            tags=parse_tags(headers.get("x-dub5-cache-tags", "")),
            record=record,
        )

    async def _send(send: Send, question: Question, answer: Answer) -> None:
        if isinstance(answer.content, bytes):
            await _send_whole(send, question, answer, answer.content)
        else:
            await _send_events(send, question, answer, answer.content)

    async def _send_events(send: Send, question: Question, answer: Answer, events: Relay) -> None:
        try:
            async with aclosing(events), asyncio.timeout(settings.max_stream):
                await send(_stream_start(question, answer))
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        except TimeoutError:
            late = ProviderTimeout("The answer took longer than server.max_stream allows.", provider="")
            question.record.outcome, question.record.error_code = "provider_error", late.code
            body = shapes.event(msgspec.json.encode(late.body()))
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return chat


def _stream_start(question: Question, answer: Answer) -> Message:
    return {
        "type": "http.response.start",
        "status": 200,
        "headers": [*_EVENT_STREAM, *_cache_headers(question, answer)],
    }


async def _send_whole(send: Send, question: Question, answer: Answer, body: bytes) -> None:
    kind = _EVENT_STREAM if question.request.stream else (JSON,)
    await send_whole(send, 200, [*kind, *_cache_headers(question, answer)], body)


def _cache_headers(question: Question, answer: Answer) -> Headers:
    status = str(answer.status)
    question.record.cache = status
    headers = [(b"cache-status", status.encode())]
    if answer.age is not None:
        headers.append((b"age", str(int(answer.age)).encode()))
    return headers
