"""`POST /v1/chat/completions`, and what every protocol goes through in which a question may be asked.

A protocol is a `Spelling` of one question: it reads a request into the body of a Chat Completions request, and writes
what comes of that. Chat itself is the one that needs no translation. `QuestionRoute` has all the rest: parse, call the
pipeline, render.

Raw ASGI handlers: on this path a framework's conversion of requests and responses would cost as much as all our own
work, and streams need the socket's own back pressure.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import msgspec
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send

from dub5.admission.arrivals import SMALL_REQUEST, Arrivals
from dub5.admission.keys import Caller, KeyRing
from dub5.admission.limits import Grant, RateLimiter
from dub5.api.http import (
    CLOSE,
    EVENT_STREAM,
    JSON,
    NO_DEADLINES,
    TIMEOUTS,
    ClientLeft,
    ClientWatch,
    EventStream,
    Headers,
    deadlines_of,
    headers_of,
    kept,
    parse_tags,
    rate_headers,
    read_body,
    require_json,
    send_error,
    send_whole,
)
from dub5.api.recall import ARRIVAL, Arrival, Body, Plainly, Recall, Rewriting, Written, meaning_of
from dub5.cache.flights import CacheStatus, Leader
from dub5.cache.freshness import NO_DIRECTIVES, Directives
from dub5.cache.store import CacheLookup
from dub5.chat.answer import Writer, outcome_of
from dub5.chat.pipeline import Pipeline
from dub5.chat.question import Question
from dub5.chat.request import ChatRequest, Translation, most_tokens, parse, read
from dub5.errors import (
    DeadlinePassed,
    Dub5Error,
    ErrorResponse,
    InternalError,
    InvalidRequest,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    WrongMethod,
    render,
    render_event,
    without_trace,
)
from dub5.frames import Frame
from dub5.json_steps import LARGE
from dub5.providers.chunks import split, text_of, tokens
from dub5.providers.protocol import Json, Payload
from dub5.settings.model import ServerSettings
from dub5.telemetry.logging import get_logger
from dub5.telemetry.record import PUSH, RECORD, WHOLE, Push, RequestRecord, Whole

_DONE = b"data: [DONE]\n\n"
_OF_CACHE = frozenset({"cache-control", "x-dub5-cache-tags"})
T = TypeVar("T")

_NOTHING: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
_END_TIMEOUT = 1.0
"""Seconds for which a client that has stopped reading is waited for at the end."""

_log = get_logger()


class Spelling(Protocol):
    """A protocol in which a question may be asked. One object for all requests, without state.

    `name` is the protocol's, for providers that speak it themselves (`Call.spelled`); `path` is where it is spoken;
    `subject` begins the sentence "… are asked for by POST."
    """

    name: str
    path: str
    subject: str

    def authorization(self, headers: dict[str, str]) -> str:
        """The key, as `Authorization` would have it: `Bearer KEY`; empty where there is none."""
        ...

    def question(self, body: Json, headers: dict[str, str]) -> Json:
        """The body of a Chat Completions request that asks the same, the plainest there is.

        `body` may be any JSON object. InvalidRequest where it cannot be asked; `param` is the field's path in this
        protocol. May be called in a thread.
        """
        ...

    def writer(self, body: Json, request: ChatRequest, record: RequestRecord) -> Writer:
        """For the answer to one request; `body` is the request in this protocol."""
        ...

    def error(self, error: Dub5Error) -> ErrorResponse:
        """As it is sent where nothing of an answer was sent."""
        ...


@runtime_checkable
class Resolving(Protocol):
    """A Spelling whose requests may refer to what is kept elsewhere, and whose Writers may keep answers."""

    def refers(self, raw: bytes) -> bool:
        """Whether a body may refer to anything: where not, `resolve` gives this Spelling itself."""
        ...

    async def resolve(self, raw: bytes, tenant: str) -> Spelling:
        """One for a request, with what its body refers to; the body may be anything."""
        ...


class Renewing(Protocol):
    """A Writer of a Resolving Spelling: its answers have ids and times that no other gets, and may be `kept`."""

    kept: bool

    def again(self, *, stream: bool) -> Rewriting | None:
        """For whoever asks the same; None where nothing can be said of that, for this one could not be kept."""
        ...


class Chat:
    """The Spelling that is no translation."""

    name = "chat"
    path = "/v1/chat/completions"
    subject = "Chat completions"

    def authorization(self, headers: dict[str, str]) -> str:
        return headers.get("authorization", "")

    def question(self, body: Json, headers: dict[str, str]) -> Json:  # noqa: ARG002  # all of it is in the body
        return body

    def writer(self, body: Json, request: ChatRequest, record: RequestRecord) -> Writer:  # noqa: ARG002  # the same
        return ChatWriter(request.include_usage)

    def error(self, error: Dub5Error) -> ErrorResponse:
        return render(error)


class ChatWriter(msgspec.Struct):
    """Completions as they are, and chunks as server-sent events, token counts among them where they are asked for."""

    include_usage: bool

    def whole(self, completion: bytes) -> bytes:
        return completion

    def replay(self, completion: bytes) -> bytes:
        return events_of(completion, include_usage=self.include_usage) + _DONE

    def events(self, frames: list[Frame]) -> bytes:
        if len(frames) == 1 and frames[0].kind == "chunk":  # nearly always
            return b"data: %b\n\n" % frames[0].raw
        events: list[bytes] = []
        for frame in frames:
            if frame.kind == "whole":
                events.append(events_of(frame.raw, include_usage=self.include_usage))
            elif frame.kind == "chunk" or self.include_usage:
                events += (b"data: ", frame.raw, b"\n\n")
        return b"".join(events)

    def end(self) -> bytes:
        return _DONE

    def failed(self, error: Dub5Error) -> bytes:
        """Without a `[DONE]`."""
        return render_event(error)


def events_of(completion: bytes, *, include_usage: bool) -> bytes:
    """A whole completion as the bytes of its event stream, all but the `[DONE]` at its end.

    Its texts come in parts about as long as tokens, as their provider would have sent them.
    """
    answer = msgspec.json.decode(completion)
    texts = len(answer.get("choices") or ())
    chunks = split(answer, include_usage=include_usage, whole_texts=True)
    return b"".join(_events_of_chunk(chunk, texts) for chunk in chunks)


def _events_of_chunk(chunk: Json, texts: int) -> bytes:
    """One event, but of a text, of so many, one for each of its tokens: they differ in it alone, so all else is encoded
    once."""
    raw = Payload.of(chunk).raw
    name, text = text_of(chunk)
    parts = tokens(text, texts)
    if len(parts) > 1:
        delta = b'{"%b":' % name.encode()
        before, _, after = raw.rpartition(b"%b%b}" % (delta, msgspec.json.encode(text)))
        between = b"}%b\n\ndata: %b%b" % (after, before, delta)
        raw = b"%b%b%b}%b" % (before, delta, between.join(map(msgspec.json.encode, parts)), after)
    return b"data: %b\n\n" % raw


class QuestionRoute:
    """One request in, one response out; whatever happens, the client gets an answer in its protocol's shape.

    What has a stored answer is learnt by `recall`. `id_header` has the request's id, for clients that look there.
    Without `personalities` only models may be named.
    """

    id_header: bytes | None = None
    personalities = True

    def __init__(
        self,
        spelling: Spelling,
        pipeline: Pipeline,
        keys: KeyRing,
        limiter: RateLimiter,
        settings: ServerSettings,
        arrivals: Arrivals,
        recall: Recall | None = None,
    ) -> None:
        self.spelling = spelling
        self.path = spelling.path
        self._resolving = spelling if isinstance(spelling, Resolving) else None
        self.echoes = self._resolving is not None
        """Answers repeat what was asked, as it was spelled."""
        self._pipeline = pipeline
        self._keys = keys
        self._limiter = limiter
        self._settings = settings
        self._arrivals = arrivals
        self._recall = recall

    @property
    def max_body(self) -> int:
        """Bytes of a body, at most."""
        return self._settings.max_body

    def route(self) -> ASGIRouteHandler:
        """For Litestar."""
        return asgi(self.spelling.path, copy_scope=False)(self.handle)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        record: RequestRecord = scope[RECORD]  # type: ignore[literal-required]
        push: Push | None = scope.get(PUSH)  # type: ignore[assignment]
        whole: Whole | None = scope.get(WHOLE)  # type: ignore[assignment]
        watch = ClientWatch.of(scope, receive)
        spelling = self.spelling
        record.route = spelling.path
        if self.id_header is not None:
            record.answer_headers = [*record.answer_headers, (self.id_header, record.request_id.encode())]
        grant: Grant | None = None
        # Else a connection would keep it until its next request.
        arrival: Arrival | None = cast("dict[str, Any]", scope).pop(ARRIVAL, None)
        try:
            if scope["method"] != "POST":  # type: ignore[typeddict-item]
                raise WrongMethod(f"{spelling.subject} are asked for by POST.", allow="POST")
            read = arrival.read if arrival is not None else None
            headers = headers_of(scope) if read is None else read.headers
            deadlines = NO_DEADLINES
            if not TIMEOUTS.isdisjoint(headers):
                deadlines = deadlines_of(headers, time.monotonic())
            if read is None:
                question, spelling, caller = await self._question(
                    headers, receive, record, deadlines.first_byte, arrival
                )
            else:
                question, caller = read.question, read.caller
                if deadlines.first_byte is not None:
                    question = msgspec.structs.replace(question, deadline=deadlines.first_byte)
            request, room = question.request, _NOTHING
            body = request.body if request.spelled is None else request.spelled[1]
            writer = spelling.writer(body, request, record)
            if request.size > SMALL_REQUEST:
                # Until it is answered. What has arrived counts already, and is gone; its values are here, and its copy.
                room = self._arrivals.reading(request.size, max(0, request.cost - request.size))
            with room:
                if self._limiter.limited:
                    said = arrival.grant if arrival is not None else None
                    if isinstance(said, RateLimited):
                        raise said
                    grant = await self._granted(question) if said is None else said
                sent = await self._respond(question, writer, grant, deadlines.whole, watch, send, push, whole)
            if arrival is not None and sent is not None and spelling is self.spelling:
                self._learn(arrival, scope, question, caller, writer, sent)
        except ClientLeft:
            record.outcome = "client_disconnect"
        except Exception as failure:  # noqa: BLE001  # the last line of defence: whatever it is, the client gets an answer
            error = record_error(failure, record)
            await send_error(send, error, rate_headers(grant), self.render(error, record))
        finally:
            if grant is not None:
                self._settle(record, grant)

    def render(self, error: Dub5Error, record: RequestRecord) -> ErrorResponse:  # noqa: ARG002  # for those who show its id
        return self.spelling.error(error)

    async def _question(
        self,
        headers: dict[str, str],
        receive: Receive,
        record: RequestRecord,
        deadline: float | None,
        arrival: Arrival | None = None,
    ) -> tuple[Question, Spelling, Caller]:
        started, spelling = time.perf_counter(), self.spelling
        caller = self._keys.admit(spelling.authorization(headers), "chat", record)
        record.timings["auth"] = time.perf_counter() - started
        # What is not there, or is what most send, costs no call.
        if headers.get("content-type") != "application/json" or "content-encoding" in headers:
            require_json(headers)
        directives, tags = NO_DIRECTIVES, cast("tuple[str, ...]", ())
        if not _OF_CACHE.isdisjoint(headers):
            directives, tags = _asked_of_cache(headers)
        raw = await read_body(headers, receive, self._settings.max_body)
        if arrival is not None:
            arrival.is_from(caller)
            arrival.is_of(raw)
            known = arrival.question
            if known is not None:
                record.model, record.stream = known.record.model, known.record.stream
                record.personality = known.record.personality
                return msgspec.structs.replace(known, record=record, deadline=deadline), spelling, caller
        key = translation = None
        if self._resolving is not None:
            spelling = await self._resolving.resolve(raw, caller.tenant)
        if spelling.name != Chat.name:
            translation = Translation(spelling.name, lambda body: spelling.question(body, headers))
        if len(raw) < LARGE:
            request = parse(raw, translation)
        else:
            async with self._arrivals.reading_lock:
                reading = read(raw, translation, room=self._arrivals.room)
                del raw  # it is gone as soon as it is decoded
                request = await reading
                key = await self._pipeline.key_of(request, caller=caller, tags=tags)
        question = self._pipeline.prepare(
            request,
            caller=caller,
            directives=directives,
            tags=tags,
            record=record,
            deadline=deadline,
            key=key,
        )
        if not self.personalities:
            self._check_target(question)
        return question, spelling, caller

    def _check_target(self, question: Question) -> None:
        if question.target.personality is not None:
            raise InvalidRequest(
                f"`{question.target.name}` is a personality, which only chats have. Name a model.",
                param="model",
            )

    def read_now(
        self, headers: dict[str, str], raw: bytes, caller: Caller, record: RequestRecord, meaning: bytes = b""
    ) -> tuple[Question, Body | None] | None:
        """What a body asks under headers that were accepted before, and what is to be known of it where its answer may
        be stored; None where it takes a wait to know that. A Dub5Error where it cannot be asked. `meaning` is that of
        the body, where it is known already."""
        spelling = self.spelling
        if len(raw) >= LARGE or "chat" not in caller.roles:
            return None
        if self._resolving is not None and self._resolving.refers(raw):
            return None
        translation = None
        if spelling.name != Chat.name:
            translation = Translation(spelling.name, lambda body: spelling.question(body, headers))
        directives, tags = _asked_of_cache(headers)
        question = self._pipeline.prepare(
            parse(raw, translation), caller=caller, directives=directives, tags=tags, record=record
        )
        if not self.personalities:
            self._check_target(question)
        if question.lookup is None:
            return question, None
        request = question.request
        writer = spelling.writer(_as_asked(request), request, record)
        as_stored = not request.stream and spelling.name == Chat.name
        return question, self._known(
            question, question.lookup, caller, writer, as_stored=as_stored, meaning=meaning
        )

    async def again(self, head: bytes, raw: bytes, record: RequestRecord) -> Leader:
        """The call in the background for what is asked by these bytes."""

        async def receive() -> Any:
            return {"type": "http.request", "body": raw, "more_body": False}

        lines = (line.partition(b":") for line in head.split(b"\r\n")[1:] if line)
        headers: Any = {"headers": [(name.lower(), value.strip(b" \t")) for name, _, value in lines]}
        own = msgspec.structs.replace(record, timings={})
        question, _, _ = await self._question(headers_of(headers), receive, own, None)
        return self._pipeline.again(question)

    def _learn(
        self,
        arrival: Arrival,
        scope: Scope,
        question: Question,
        caller: Caller,
        writer: Writer,
        sent: tuple[bytes, bytes],
    ) -> None:
        if self._recall is None:
            return
        if question.lookup is None:
            self._recall.learn_head(arrival, self, cast("HTTPScope", scope), question.record)
            return
        completion, written = sent
        as_stored = written is completion
        body = None if arrival.read is None or self._resolving is not None else arrival.read.body
        if body is None:
            body = self._known(
                question, question.lookup, caller, writer, as_stored=as_stored, meaning=arrival.meaning
            )
        if body.keeps and body.rewriting is None:
            return  # it could not be kept, and a later one would say that it is
        if type(body.rewriting) is Plainly:  # else what was sent is this request's own
            body = msgspec.structs.replace(body, written_of=hash(completion), written=Written(written))
        self._recall.learn(arrival, self, cast("HTTPScope", scope), question.record, body)

    def _known(
        self,
        question: Question,
        lookup: CacheLookup,
        caller: Caller,
        writer: Writer,
        *,
        as_stored: bool,
        meaning: bytes = b"",
    ) -> Body:
        """What of a question whose answers are stored is to be known by its bytes. `as_stored`: its answers are sent as
        they are stored. `meaning` is found here where it is empty."""
        request, stream = question.request, question.request.stream
        rewriting: Rewriting | None = None
        keeps = False
        if self._resolving is not None:
            renewing = cast("Renewing", writer)
            rewriting, keeps = renewing.again(stream=stream), renewing.kept
        elif not as_stored:
            rewriting = Plainly(writer.replay if stream else writer.whole)
        return Body(
            caller,
            msgspec.structs.replace(lookup, words=None),
            question.target,
            stream,
            request.cost,
            rewriting,
            keeps=keeps,
            meaning=meaning or (b"" if request.large else meaning_of(_as_asked(request), echoed=self.echoes)),
        )

    async def _granted(self, question: Question) -> Grant | None:
        """One of the tenant's requests, and the tokens that its answer may take; RateLimited otherwise."""
        if question.request.large:
            await asyncio.sleep(0)
        reserve = 0 if self._pipeline.remembers(question) else most_tokens(question.request, question.fields)
        return await self._limiter.acquire(question.record.tenant or "", reserve=reserve)

    async def _respond(
        self,
        question: Question,
        writer: Writer,
        grant: Grant | None,
        end: float | None,
        watch: ClientWatch,
        send: Send,
        push: Push | None,
        whole: Whole | None,
    ) -> tuple[bytes, bytes] | None:
        """Send the pipeline's answer: at once, or as it comes, with heartbeats until then and in its pauses.

        `end` is when the caller wants the whole answer, in seconds of time.monotonic. Returns an
        answer that is stored now, may be (another request's), or never is, and what was sent of it.
        """
        record, streaming = question.record, False
        failure: Exception | None = None
        stream = cast("EventStream | None", None)

        def forwarded(status: CacheStatus) -> None:
            """It has to be waited for: only then a client can leave meanwhile, and wants heartbeats."""
            nonlocal stream
            watch.begin()
            if question.request.stream:
                stream = EventStream(send, self._settings.heartbeat, self._settings.max_stream, push, record)
                stream.expect(lambda: _head(question, grant, status))

        try:
            try:
                work = self._pipeline.answer(question, forwarded)
                answer = await (work if question.deadline is None else until(question.deadline, work))
                if not isinstance(answer.content, bytes):
                    assert stream is not None  # noqa: S101  # it was forwarded, and only streams have frames
                    streaming = True
                    with contextlib.closing(answer.content) as coming:
                        sending = stream.relay(
                            coming,
                            writer,
                            lambda: _head(question, grant, answer.status),
                            partial(self._pipeline.saved, question, coming)
                            if answer.status.collapsed
                            else None,
                        )
                        await (sending if end is None else until(end, sending))
                else:
                    await kept(writer, answer.content)
                    if stream is not None and stream.begun:  # perhaps by a heartbeat meanwhile
                        await stream.end(writer.replay(answer.content))
                    else:
                        body = (writer.replay if question.request.stream else writer.whole)(answer.content)
                        head = _head(question, grant, answer.status, answer.age)
                        await send_whole(send, 200, head, body, whole)
                        status = answer.status
                        if status.hit or status.stored or status.collapsed or question.lookup is None:
                            return answer.content, body
            except asyncio.CancelledError:
                if stream is None or not stream.expired or stream.task.uncancel():
                    raise
                if stream.unread:
                    raise ClientLeft from None
                record.outcome = "provider_error"  # and so what it has used is not known
                failure = ProviderTimeout(
                    "The answer took longer than server.max_stream allows.", provider=""
                )
            except Exception as error:
                if stream is None or not stream.begun:
                    raise
                failure = error
            if failure is not None and stream is not None:
                # After the head: a client that reads gets the error as an event; one that does not is cut off.
                reported = record_error(failure, record, streaming=streaming)
                record.late_status = reported.status
                if streaming and record.outcome is None:
                    record.outcome = outcome_of(reported)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_END_TIMEOUT):
                        await stream.end(writer.failed(reported))
        except asyncio.CancelledError:
            if not watch.left or watch.task is None or watch.task.uncancel():
                raise
            raise ClientLeft from None
        finally:
            watch.end()
            if stream is not None:
                stream.close()
        return None

    def _settle(self, record: RequestRecord, grant: Grant) -> None:
        """Give back what was not used; of an answer that broke off nobody knows how much that is."""
        free = (
            not record.called
            or record.leader_request_id is not None
            or record.cache_result in {"local", "shared", "stale", "collapsed"}
        )
        if free or record.outcome is None:
            used = 0 if free else (record.prompt_tokens or 0) + (record.completion_tokens or 0)
            self._limiter.settle(grant, used=used)


def _as_asked(request: ChatRequest) -> Json:
    """The body as the client spelled it."""
    return request.body if request.spelled is None else request.spelled[1]


def _asked_of_cache(headers: dict[str, str]) -> tuple[Directives, tuple[str, ...]]:
    control, named = headers.get("cache-control"), headers.get("x-dub5-cache-tags")
    return Directives.parse(control) if control else NO_DIRECTIVES, parse_tags(named) if named else ()


async def in_time(end: float | None, work: Coroutine[Any, Any, T]) -> T:
    """DeadlinePassed where it is not done by `end`, in seconds of time.monotonic."""
    return await (work if end is None else until(end, work))


async def until(end: float, work: Coroutine[Any, Any, T]) -> T:
    """DeadlinePassed where it is not done by `end`, in seconds of time.monotonic."""
    try:
        async with asyncio.timeout(end - time.monotonic()):
            return await work
    except TimeoutError:
        raise DeadlinePassed from None


def record_error(error: Exception, record: RequestRecord, *, streaming: bool = False) -> Dub5Error:
    """As the client gets it: an InternalError for a defect, which only the log describes. Nobody asks any more where it
    was raised."""
    if isinstance(error, Dub5Error):
        error = without_trace(error)
    else:
        if streaming:
            _log.exception("stream failed", request_id=record.request_id, trace_id=record.trace.trace_id)
        else:
            _log.exception("request failed", request_id=record.request_id, trace_id=record.trace.trace_id)
        without_trace(error)
        error = InternalError()
    record.error_code = error.code
    record.refused_by_provider = isinstance(error, ProviderError)
    if isinstance(error, DeadlinePassed):
        record.outcome = "client_disconnect"
    return error


def _head(question: Question, grant: Grant | None, status: CacheStatus, age: float | None = None) -> Headers:
    """For `status` 200; of a streamed answer that is not here yet, what is known of it so far."""
    record = question.record
    record.cache = str(status)
    kind = EVENT_STREAM if question.request.stream else (JSON,)
    headers = [*kind, (b"cache-status", record.cache.encode())]
    if age is not None:
        headers.append((b"age", str(int(age)).encode()))
    if grant is not None:
        headers += rate_headers(grant)
    if record.timings.get("queue"):
        headers.append(CLOSE)  # docs/adr/0019: a new connection may lead to a replica that has room
    return headers
