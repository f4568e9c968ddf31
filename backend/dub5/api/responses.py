"""`POST /v1/responses`: OpenAI's Responses, a spelling of the question that Chat Completions asks as well.

What a request means is in `responses_request`, what an answer is in `responses_answer`, its events in
`responses_stream`.
"""

from __future__ import annotations

import asyncio
import functools
import operator
import re
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from dub5.api import responses_answer as answers
from dub5.api.chat import Spelling
from dub5.api.http import key_of
from dub5.api.recall import Keep, Written
from dub5.api.responses_answer import Asked, place_of
from dub5.api.responses_items import items_of
from dub5.api.responses_request import FieldOfChats, cannot, chat_request
from dub5.api.responses_store import LARGEST, Record, ResponseStore
from dub5.api.responses_stream import Events
from dub5.chat.answer import Writer
from dub5.chat.request import ChatRequest
from dub5.errors import Dub5Error, ErrorResponse, InvalidRequest, UnknownPrevious, render
from dub5.frames import Frame
from dub5.providers.protocol import Json, decode
from dub5.telemetry.record import RequestRecord

_PREVIOUS_NAME, _REFERENCE_NAME = b'"previous_response_id"', b'"item_reference"'
_PREVIOUS = re.compile(rb'"previous_response_id"\s*:\s*"(resp_[0-9a-f]{32})"')
_ITEM = re.compile(rb'"id"\s*:\s*"((?:msg|rs|fc)_[0-9a-f]{36})"')
_NEAR = 200
"""Bytes within which a reference has its id. In a text quotes have a backslash before them: what is found here are
members and their values."""
_MOST_REFERRED = 1000
"""Answers that one request may refer to."""
_MOST_REFERENCES = 10_000
"""Items of theirs: so many are too many to name."""
_FEW = 200
"""Of these, looked for at once: ten thousand take a tenth of a second."""
_MOST_BYTES = 4 * 2**20
"""Of all that one request refers to."""

_NAMES = (
    ("max_tokens", "max_output_tokens"),
    ("max_completion_tokens", "max_output_tokens"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
    ("verbosity", "text.verbosity"),
    ("logprobs", "top_logprobs"),
    ("messages", "input"),
)
"""Fields as a provider names them that was asked by Chat Completions, and as the request named them."""


class Responses:
    """The Spelling. `store` has the answers that may be referred to."""

    name = "responses"
    path = "/v1/responses"
    subject = "Responses"

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def authorization(self, headers: dict[str, str]) -> str:
        return key_of(headers)

    def refers(self, raw: bytes) -> bool:
        """See `Resolving`."""
        return self._store.enabled and (_PREVIOUS_NAME in raw or _REFERENCE_NAME in raw)

    async def resolve(self, raw: bytes, tenant: str) -> Spelling:
        """With what a body refers to by ids; itself where that is nothing."""
        if not self._store.enabled:
            return self
        previous = _previous(raw)
        many = raw.count(_REFERENCE_NAME) > _FEW
        wanted = await asyncio.to_thread(_referred, raw) if many else _referred(raw)
        if previous:
            wanted.add(previous)
        if not wanted:
            return self
        return _Resolved(self._store, await _recollected(self._store, tenant, previous, wanted))

    def question(self, body: Json, headers: dict[str, str]) -> Json:  # noqa: ARG002  # all of it is in the body
        if body.get("previous_response_id") is not None and not self._store.enabled:
            raise cannot(
                "previous_response_id", "Responses are not kept here; send the items before it as well"
            )
        return self._question(body, Recollection())

    def _question(self, body: Json, recalled: Recollection) -> Json:
        previous = body.get("previous_response_id")
        if isinstance(previous, str) and previous != recalled.previous:
            raise UnknownPrevious(previous)
        return chat_request(body, before=recalled.before, known=recalled.items)

    def writer(self, body: Json, request: ChatRequest, record: RequestRecord) -> Writer:
        return self._writer(body, request, record, Recollection())

    def _writer(
        self, body: Json, request: ChatRequest, record: RequestRecord, recalled: Recollection
    ) -> ResponsesWriter:
        if not self._store.enabled or body.get("store") is False or request.size > LARGEST:
            return ResponsesWriter(Asked(body))
        before = recalled.chain if body.get("previous_response_id") else []
        keeping = Keeping(self._store, record.tenant or "", recalled.resolved(body["input"]), before)
        return ResponsesWriter(Asked(body, stored=True), keeping=keeping)

    def error(self, error: Dub5Error) -> ErrorResponse:
        rendered, name = render(error), field_of(error.param)
        if name == error.param or isinstance(error, FieldOfChats):
            return rendered
        said = error.body()
        said["error"]["param"] = name
        said["error"]["message"] = error.message.replace(f"`{error.param}`", f"`{name}`")
        return rendered._replace(body=msgspec.json.encode(said))


def _referred(raw: bytes) -> set[str]:
    """The answers of which a body names items. InvalidRequest where there are too many of either."""
    wanted: set[str] = set()
    items = 0
    for found in _matches(raw, _REFERENCE_NAME, _ITEM, _NEAR, most=_MOST_REFERENCES):
        place = place_of(found[1].decode())
        if place is not None:
            items += 1
            wanted.add(place[0])
    if len(wanted) > _MOST_REFERRED or items == _MOST_REFERENCES:
        raise _too_long("input")
    return wanted


def _too_long(field: str) -> InvalidRequest:
    return InvalidRequest(
        f"The conversation is too long to be read again: `{field}`. Send what counts of it.", param=field
    )


def _matches(
    raw: bytes, name: bytes, pattern: re.Pattern[bytes], before: int, *, most: int = _MOST_REFERRED
) -> Iterator[re.Match[bytes]]:
    """Where a body may say what it refers to: near each `name`, without a look at all the rest of it."""
    at = raw.find(name)
    for _ in range(most):
        if at < 0:
            return
        begin = max(at - before, 0, raw.rfind(b"{", max(0, at - before), at))
        end = raw.find(b"}", at, at + _NEAR)  # of its object: the next one's id is not its own
        found = pattern.search(raw, begin, end if end >= 0 else at + _NEAR)
        if found is not None:
            yield found
        at = raw.find(name, at + 1)


class _Body(msgspec.Struct):
    previous_response_id: Any = None


def _previous(raw: bytes) -> str:
    """The answer that a body goes on from; empty where there is none."""
    found = {each[1].decode() for each in _matches(raw, _PREVIOUS_NAME, _PREVIOUS, 0)}
    if len(found) < 2:
        return next(iter(found), "")
    try:  # one is its own, others are in its metadata or the like
        own = msgspec.json.decode(raw, type=_Body).previous_response_id
    except (ValueError, RecursionError):  # it will be refused
        return ""
    return own if isinstance(own, str) and own in found else ""


class _Resolved(Responses):
    """The Spelling of one request, with what it refers to."""

    def __init__(self, store: ResponseStore, recalled: Recollection) -> None:
        super().__init__(store)
        self._recalled = recalled

    def question(self, body: Json, headers: dict[str, str]) -> Json:  # noqa: ARG002  # all of it is in the body
        return self._question(body, self._recalled)

    def writer(self, body: Json, request: ChatRequest, record: RequestRecord) -> Writer:
        return self._writer(body, request, record, self._recalled)


class Recollection(msgspec.Struct, frozen=True):
    """What a request refers to: the items `before` its own, the ids of the answers that those are of, and single items
    by their ids."""

    previous: str = ""
    before: list[Json] = []
    chain: list[str] = []
    items: dict[str, Json] = {}

    def resolved(self, given: Any) -> Any:
        """The `input` of a request with the items that it refers to: what they were of may be lost by the next turn."""
        if not self.items or not isinstance(given, list):
            return given
        return [self.items[item["id"]] if item.get("type") == "item_reference" else item for item in given]


async def _recollected(store: ResponseStore, tenant: str, previous: str, wanted: set[str]) -> Recollection:
    """UnknownPrevious where any answer of the conversation is lost, InvalidRequest where there are too many of them."""
    ids = sorted(wanted)
    records = {
        id_: record
        for id_, record in zip(ids, await store.find(tenant, ids), strict=True)
        if record is not None
    }
    chain: list[str] = []
    if previous in records:
        chain = [*records[previous].before, previous]
        others = [id_ for id_ in chain if id_ not in records]
        for id_, record in zip(others, await store.find(tenant, others) if others else [], strict=True):
            if record is None:
                raise UnknownPrevious(id_)
            records[id_] = record
    if len(chain) > _MOST_REFERRED or sum(record.size() for record in records.values()) > _MOST_BYTES:
        raise _too_long("previous_response_id" if previous else "input")
    return await asyncio.to_thread(_read, records, previous if chain else "", chain)


def _read(records: dict[str, Record], previous: str, chain: list[str]) -> Recollection:
    items = {item["id"]: item for record in records.values() for item in items_of(record)}
    before = [item for id_ in chain for item in items_of(records[id_])]
    return Recollection(previous, before, chain, items)


class Keeping(msgspec.Struct, frozen=True):
    """Where the answer to one request is kept, with its input, and the ids of the answers before it."""

    store: ResponseStore
    tenant: str
    input: Any
    before: list[str]

    async def keep(self, asked: Asked, response: bytes) -> bool:
        return await self.store.keep(self.tenant, asked.id, self.record(asked, response))

    def record(self, asked: Asked, response: bytes) -> Record:
        return Record(msgspec.json.encode(self.input), response, asked.signed, self.before)


def field_of(param: str | None) -> str | None:
    """A field as the request named it, of its name in a chat. Of a message only that it is in `input`: which item it
    came from is not known any more."""
    chat, ours = next(
        (names for names in _NAMES if param and re.match(rf"{names[0]}(?!\w)", param)), ("", "")
    )
    if param is None or not chat:
        return param
    return ours if chat == "messages" else ours + param.removeprefix(chat).replace(".json_schema", "")


class ResponsesWriter:
    """Writes one answer. `clock` gives seconds since the epoch."""

    def __init__(
        self, asked: Asked, clock: Callable[[], float] = time.time, *, keeping: Keeping | None = None
    ) -> None:
        self._asked = asked
        self._clock = clock
        self._created = int(clock())
        self._now: int | None = None
        self._keeping = keeping
        self._kept: bytes | None = None
        self._stream: Events | None = None

    @property
    def kept(self) -> bool:
        """See `Renewing`."""
        return self._keeping is not None

    def again(self, *, stream: bool) -> RenewedResponses | None:
        """See `Renewing`."""
        if self.kept and not self._asked.stored:
            return None
        return RenewedResponses(self._asked, stream, self._keeping)

    async def keep(self, completion: bytes | None) -> None:
        """Before the last of the answer is written: keep it, where it is asked to be. `completion` where it is whole,
        None where its frames have been written."""
        if self._keeping is None:
            return
        self._now = int(self._clock())
        response = self._whole(completion) if completion is not None else self._events.close(now=self._now)
        if await self._keeping.keep(self._asked, response):
            self._kept = response
        else:
            self._asked.not_stored()

    def whole(self, completion: bytes) -> bytes:
        """The Response."""
        return self._whole(completion) if self._kept is None else self._kept

    def _whole(self, completion: bytes) -> bytes:
        return answers.whole(self._asked, decode(completion), created=self._created, now=self._ended())

    def _ended(self) -> int:
        return int(self._clock()) if self._now is None else self._now

    @property
    def _events(self) -> Events:
        if self._stream is None:
            self._stream = Events(self._asked, created=self._created)
        return self._stream

    def replay(self, completion: bytes) -> bytes:
        """The events of a whole completion, in pieces as a provider would have made them."""
        self._events.add_whole(decode(completion))
        return self.end()

    def events(self, frames: list[Frame]) -> bytes:
        """Those of frames that have arrived."""
        events = self._events
        for frame in frames:
            add = events.add_whole if frame.kind == "whole" else events.add
            add(decode(frame.raw))
        return events.take()

    def end(self) -> bytes:
        """The last events of a complete answer."""
        self._events.end(now=self._ended())
        return self._events.take()

    def failed(self, error: Dub5Error) -> bytes:
        """The last event where the answer breaks off."""
        self._events.fail(error)
        return self._events.take()


_IDENT = secrets.token_hex(16)
_WRITTEN, _ENDED = (secrets.randbelow(10**18) + 10**18 for _ in range(2))
"""Stand for the ids of a Response, and for the seconds since the epoch at which it is created and completed; nobody
outside knows them."""
_HOLES = re.compile(f"({_IDENT}|{_WRITTEN}|{_ENDED})".encode())

_IDS_AT_ONCE = 256


def _new_ids() -> Iterator[bytes]:
    """For as many as ever ask. The system gives a block of them at once: it takes as long as for one."""
    while True:
        digits = secrets.token_hex(16 * _IDS_AT_ONCE).encode()
        yield from (digits[at : at + 32] for at in range(0, len(digits), 32))


_ids = _new_ids()
_Order = Callable[[tuple[bytes, bytes]], tuple[bytes, ...]]
_order: Callable[..., _Order] = functools.lru_cache(1024)(operator.itemgetter)
"""Few kinds of answers differ in it."""


def _with_holes(written: bytes) -> tuple[bytes, _Order]:
    """What was written, as a format, and what gives its values of an id and a time. One piece, however many holes it
    has: what is read of it is most of what an answer costs where there are many."""
    *pieces, last = _HOLES.split(written.replace(b"%", b"%%"))
    places = [int(hole != _IDENT.encode()) for hole in pieces[1::2]]
    return b"%b".join((*pieces[::2], last)), _order(*places)


class RenewedResponses(msgspec.Struct, frozen=True):
    """Writes the Responses to a question that is asked again and again, each with an id and times of its own. Kept
    are those alone whose conversation begins with them: see `Responses.resolve`."""

    asked: Asked
    stream: bool
    keeping: Keeping | None

    def write(self, completion: bytes) -> Written:
        """One to be renewed."""
        asked = self.asked.again(_IDENT)
        writer = ResponsesWriter(asked, iter((_WRITTEN, _ENDED, _ENDED)).__next__)
        whole = writer.whole(completion) if self.keeping is not None or not self.stream else b""
        sent, order = _with_holes(writer.replay(completion) if self.stream else whole)
        if self.keeping is None:
            return Written(sent, order)
        kept = _with_holes(whole) if self.stream else None
        return Written(sent, order, (self.keeping.record(asked, b""), kept))

    def renew(self, written: Written) -> tuple[bytes, Keep | None]:
        """The same for the next who asks."""
        values = next(_ids), b"%d" % int(time.time())
        sent = written.sent % written.order(values)
        if self.keeping is None:
            return sent, None
        record, kept = written.kept
        record = msgspec.structs.replace(record, response=sent if kept is None else kept[0] % kept[1](values))
        id_ = f"resp_{values[0].decode()}"
        return sent, functools.partial(self.keeping.store.ask, self.keeping.tenant, id_, record)
