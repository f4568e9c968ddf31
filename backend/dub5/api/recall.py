"""Requests that are known by their bytes, answered from memory where they arrive.

Four fifths of what it costs to answer from memory go into what comes before and after the answer: a parser's callbacks,
a task, messages of ASGI, a body decoded and hashed. All that finds out about a request is the same when the same bytes
come again. So the ordinary way, when the answer to a request is stored, has its bytes *learnt* here, and
the server asks here first. Nothing is ever recognised that the parser and our checks have not accepted.

* Of a *head* everything counts but values that differ from request to request: those are cut out. Some are
  read anew each time (ids, the key, the length); the others are of headers that nobody here reads, whatever they are
  called, and are found where two heads of a kind differ in them.
* A *body* is known by its SHA-256, to those who have sent it, with the headers that say how it is to be understood.
  What is kept of all that say the same, in whatever spelling, is the key of the answer and what belongs to it, not the
  question; of the answer only what is written of it in another form. Another body under a known head is read by the
  code that the ordinary way reads it by, which is then given what it was found to ask.

Law: for any bytes, a Recall says nothing, or what the ordinary way says: status, headers but for ids and times, body,
metrics, the log line, samples. What may change between two requests is judged anew, by the code that the ordinary way
goes through: the key, the answer, its freshness, purges, what a refresh behind it takes. Where anything else is in the
way it says nothing: a replica that leaves, models that have changed, too little memory for a large request. See
docs/adr/0030-known-by-their-bytes.md.

All hits end in one way, wherever they were found: what is the same for all that ask this is at hand with the Body. A
record of the request is made only where something goes on behind the answer, or a line is not simply written. One in
memory that is fresh, with nothing due behind it, as most are, takes half of these steps: see `_plain`.

What takes a word of Redis (a tenant's limit of which not plenty is left, an answer that memory does not have, a
Response that is kept) is asked without a task, and the request is answered in the turn in which Redis does. Nothing is
counted before it is sure to be answered: until then it may go the ordinary way after all, which is given what the limit
said. What else Redis has told by then is in memory, and the ordinary way says so.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import operator
import re
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec
from litestar.types import HTTPScope

from dub5.admission.arrivals import JOINED, SMALL_REQUEST, Arrivals
from dub5.admission.drain import Drain
from dub5.admission.keys import ANONYMOUS, Caller, KeyRing
from dub5.admission.limits import Grant, RateLimiter, rate_lines
from dub5.api.http import EVENT_STREAM, JSON, READ, headers_of
from dub5.cache.flights import Flights, Leader, Made
from dub5.cache.freshness import FRESH
from dub5.cache.policies import Policies
from dub5.cache.store import AnswerStore, CacheHit, CacheLookup, Entry, Identity
from dub5.chat.catalog import Catalog, Target
from dub5.chat.pipeline import Pipeline
from dub5.chat.question import Question
from dub5.errors import Dub5Error, RateLimited
from dub5.frames import Frame
from dub5.json_steps import decode, is_plain
from dub5.settings.model import Limit
from dub5.telemetry.logging import get_logger
from dub5.telemetry.metrics import HitLabels, Hits
from dub5.telemetry.record import HitSeries, Ids, Recorder, RequestRecord, TraceContext, milliseconds

if TYPE_CHECKING:
    from dub5.api.chat import QuestionRoute

T = TypeVar("T")

ARRIVAL = "dub5.arrival"
"""Where the scope of a request has its Arrival."""

_MOST_HEADS = 64
_LARGEST_HEAD = 8 * 2**10
"""Bytes. Heads of clients have less than one thousand."""

_MOST_LENGTHS = 1024
"""Lengths of heads for which it is known how the last one was cut: less than 1 KiB each, of a head of a hundred headers
that are all cut out 8 KiB."""

_LARGEST_BODY = 2**20
"""Bytes. A larger one is hashed for longer than the event loop should be held."""

_DIGEST = 32
_SPELLINGS, _SPELLING = 2**24, 240
"""Bytes for the hashes of bodies, and about how many one takes with that of its meaning."""

_LEAST_BODIES = 2**24
"""Bytes for what they mean, also where answers get none."""

_ENTRY, _NAME = 960, 60
"""Bytes, near enough to bound the memo by: of one meaning, beside what is written for it and the names that no other
answer has; and of each such name, beside its characters."""

_SHARED_NAMES = 6
"""Of an answer's names those that stand first: of all answers, of a tenant, a class and a model."""

_READ_ANEW = (
    "content-length",
    "authorization",
    "x-api-key",
    "x-request-id",
    "x-client-request-id",
    "traceparent",
)
"""Headers whose values are cut out of each head, and read anew each time."""

_COUNTING = (READ - {*_READ_ANEW}) | {
    *("connection", "proxy-connection", "keep-alive", "upgrade", "te", "trailer", "transfer-encoding")
}
"""Those whose values make it another head."""

_VALUES = re.compile(
    rb"(\r\n(?!(?:%b):)[!#-'*+.^_`|~0-9a-z-]+: ?)([!-~](?:[ -~]*[!-~])?)(?=\r\n)"
    % "|".join(sorted(_COUNTING)).encode(),
    re.IGNORECASE,
)
"""The values that may be cut out."""

_PRINTABLE = bytes(range(0x20, 0x7F))
_DIGITS = 10
"""As many has a length that is none."""

_OTHERWISE = frozenset(
    {b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"content-encoding"}
    | {b"origin", b"sec-fetch-site", b"cookie", b"proxy-authorization"}
)
"""Headers with which a request is not learnt: it is read or answered in another way, or they are secrets."""

_KEEPING = (b"connection", b"proxy-connection")
"""Headers by either of which a parser sees that a connection is to end."""

_ASKING = (b"cache-control", b"x-dub5-cache-tags", b"anthropic-beta")
"""Headers that say how a body is to be understood."""

_canonical_json = msgspec.json.Encoder(order="deterministic")
_json = msgspec.json.Encoder()
_log = get_logger()


def _written(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


_KINDS = (_written([JSON]), _written(EVENT_STREAM))
"""Of an answer that is whole, and of one that is streamed."""


class Head(msgspec.Struct, eq=False):
    """A head that was accepted, its values cut out, and the route that it leads to.

    `kind` is what stands before, between and after all the values that may be cut out, which were `seen` but for those
    that are read; `cut` says which of them are. `pieces` are what then stands around those. `read` takes from the
    values, with an empty one after them, those that are read: length, `Authorization`, `X-Api-Key`, an id, a trace; the
    empty one where there is no such header. `own` is the address that its connections came to. Under another `asking` a
    body means something else. `ending` are the last lines of the head of each answer, but for that of its `id_header`.
    `hurried`: its caller may not wait for long. `headers` are those that were not cut out; `used` is how often it has
    come of late. `bypasses`: the last time its body was one whose answer is never stored.
    """

    route: QuestionRoute
    kind: tuple[bytes, ...]
    seen: tuple[bytes, ...]
    cut: frozenset[int]
    own: str | None
    asking: tuple[bytes, ...]
    ending: bytes
    id_header: bytes | None
    hurried: bool
    headers: dict[str, str]
    pieces: tuple[bytes, ...] = ()
    read: Callable[[Sequence[bytes]], tuple[bytes, ...]] = tuple
    used: int = 0
    bypasses: bool = False

    def __post_init__(self) -> None:
        pieces, places = [self.kind[0]], {}
        for index, (value, text) in enumerate(zip(self.seen, self.kind[1:], strict=True)):
            if index in self.cut:
                places[_name_before(self.kind, index)] = len(pieces) - 1
                pieces.append(text)
            else:
                pieces[-1] += value + text
        self.pieces = tuple(pieces)
        self.read = operator.itemgetter(
            places[b"content-length"],
            places.get(b"authorization", -1),
            places.get(b"x-api-key", -1),
            places.get(b"x-request-id", places.get(b"x-client-request-id", -1)),
            places.get(b"traceparent", -1),
        )

    def with_that(self, other: Head) -> Head:
        """What recognises another one of its kind, too: itself where it does already."""
        pairs = zip(self.seen, other.seen, strict=True)
        cut = self.cut.union(index for index, (one, another) in enumerate(pairs) if one != another)
        return self if cut == self.cut else msgspec.structs.replace(self, cut=cut)

    def key_in(self, authorization: bytes, x_api_key: bytes) -> str:
        """What such a request has of a key, by these values of its headers, which are empty where they are not there:
        see Spelling.authorization."""
        sent = {"authorization": authorization, "x-api-key": x_api_key}
        return self.route.spelling.authorization(
            {name: value.decode() for name, value in sent.items() if value}
        )

    def values(self, data: bytes, at: int, own: str | None) -> list[bytes] | None:
        """The values of a head that begins there with the first piece, on such a connection; None where it is another
        head."""
        first, *others = self.pieces
        if self.own != own or not data.startswith(first, at):
            return None
        at += len(first)
        values = []
        for piece in others:
            end = data.find(b"\r", at)
            if not data.startswith(piece, end):
                return None
            values.append(data[at:end])
            at = end + len(piece)
        return values


class _Cut(NamedTuple):
    """How the last head of one length was cut: by `unpack`, into its pieces and between them its values, in one step.
    Of each kind most are equally long, and so are their values."""

    head: Head
    unpack: Callable[[bytes, int], tuple[bytes, ...]]

    @classmethod
    def of(cls, head: Head, values: Sequence[bytes]) -> _Cut:
        parts = [*itertools.chain(*zip(head.pieces, values, strict=False)), head.pieces[-1]]
        return cls(head, struct.Struct("".join([f"{len(part)}s" for part in parts])).unpack_from)


Keep = Callable[[Callable[[bool], None]], bool]
"""Has an answer kept for its client; what it is given is called once, later, with whether it is. False, and no call,
where that would take a wait."""


class Written(msgspec.Struct, frozen=True, gc=False):
    """A completion as it is `sent`, or what its Rewriting makes that of by `order`, and what is `kept` of it where
    clients may refer to it later."""

    sent: bytes = b""
    order: Any = None
    kept: Any = None

    def size(self) -> int:
        """Bytes, about."""
        return len(self.sent) * (1 if self.kept is None else 2)


class Rewriting(Protocol):
    """Writes the answers to one question, asked again and again."""

    def write(self, completion: bytes) -> Written:
        """For all of them."""
        ...

    def renew(self, written: Written) -> tuple[bytes, Keep | None]:
        """What one of them gets, with ids and times of its own where each gets some, and how that is kept, where it
        has to be before it is sent."""
        ...


class Plainly(msgspec.Struct, frozen=True):
    """A Rewriting where all get the same."""

    of: Callable[[bytes], bytes]

    def write(self, completion: bytes) -> Written:
        return Written(self.of(completion))

    def renew(self, written: Written) -> tuple[bytes, None]:
        return written.sent, None


@functools.lru_cache(4096)
def _salt(asking: tuple[bytes, ...], identity: str) -> bytes:
    """16 bytes that no other caller, and no other headers, give."""
    parts = [*asking, identity.encode()]
    return hashlib.blake2b(b"".join(b"%d:%b" % (len(part), part) for part in parts), digest_size=16).digest()


def meaning_of(body: Any, *, echoed: bool) -> bytes:
    """The `Body.meaning` of a decoded body that is not large. `echoed`: answers repeat what its fields hold, so the
    order in that counts."""
    try:
        if echoed and isinstance(body, dict):
            return hashlib.sha256(_json.encode(dict(sorted(body.items())))).digest()
        return hashlib.sha256(_canonical_json.encode(body)).digest()
    except (ValueError, ArithmeticError):  # a number that cannot be written
        return b""


def _meaning_in(raw: bytes, *, echoed: bool) -> bytes:
    """That of what a body says that is new; empty where it would take long to find out. Of the same JSON all that the
    ordinary way makes is the same."""
    if not is_plain(raw):
        return b""
    try:
        return meaning_of(decode(raw), echoed=echoed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return b""


class Newest(Generic[T]):
    """What was set last, by hashes: at most `most` bytes of it, as `size` has it.

    Where there is no room what was set first goes, unless `spared` says that it was of use since that was asked last:
    then it is as one that is set now. So finding something changes nothing that would have to be fetched.
    """

    _MOST_SPARED = 64
    """At a time: where nearly all were of use, looking for one that was not would hold the event loop."""

    def __init__(
        self, most: int, size: Callable[[T], int], spared: Callable[[T], bool] = lambda _: False
    ) -> None:
        self._most = most
        self._size = size
        self._spared = spared
        self._taken = 0
        self._known: OrderedDict[bytes, T] = OrderedDict()
        self.get = self._known.get

    def set(self, key: bytes, value: T) -> None:
        size = self._size(value)
        if size > self._most // 2:
            return
        before = self._known.pop(key, None)
        self._taken += size - (0 if before is None else self._size(before))
        spared = 0
        while self._taken > self._most:
            first, oldest = self._known.popitem(last=False)
            if spared < self._MOST_SPARED and self._spared(oldest):
                self._known[first] = oldest
                spared += 1
            else:
                self._taken -= self._size(oldest)
        self._known[key] = value

    def clear(self) -> None:
        self._known.clear()
        self._taken = 0

    def __len__(self) -> int:
        return len(self._known)

    def bytes(self) -> int:
        """About."""
        return sum(map(self._size, self._known.values()))


class Body(msgspec.Struct, gc=False):
    """What is known of a body that `caller` has sent: what `Pipeline.prepare` found, without the question.

    `cost` is as in ChatRequest. `rewriting` writes what is sent, None where that is the stored completion itself;
    `written` is what it made of the completion with the hash `written_of`. `keeps`: what it writes has to be kept.
    All bodies with the same `meaning`, a hash, say the same; it is empty where that would take long to find out. Of a
    body that is kept it is the key: that hash, or where it is empty that of its bytes, and its caller's salt behind it.
    `known` and `hits` are where requests for it are counted, once there was one like it; the lifetimes of `lookup` are
    those last in force. `used`: its answer was looked for since `was_used` was asked.
    """

    caller: Caller
    lookup: CacheLookup
    target: Target
    stream: bool
    cost: int
    rewriting: Rewriting | None
    written_of: int | None = None
    written: Written = Written()
    keeps: bool = False
    meaning: bytes = b""
    known: HitSeries | None = None
    hits: Hits | None = None
    used: bool = False

    def size(self) -> int:
        """Bytes, about: what writes Responses has the request with it."""
        beside = 0 if self.rewriting is None or type(self.rewriting) is Plainly else self.cost
        named = sum(_NAME + len(name) for name in self.lookup.names[_SHARED_NAMES:])
        return _ENTRY + named + beside + self.written.size()

    def was_used(self) -> bool:
        """Since this was asked last."""
        used, self.used = self.used, False
        return used


class Read(msgspec.Struct, frozen=True, gc=False):
    """A request of `caller`, by the `keys` of that moment, of which nothing is left to read, up to `end`: what it asks,
    what is to be known of its body where its answer is stored, and its headers, but for those that were cut out."""

    question: Question
    body: Body | None
    caller: Caller
    keys: object
    headers: dict[str, str]
    end: int


class Arrival(msgspec.Struct):
    """A request that was not answered here, for the ordinary way: how its head looked, what is known of that, and the
    hash of its body, where those are known.

    `end` is where its body will have ended that is still to come; asked then it may be answered. 0 for not. `grant` is
    what its tenant's limit said, `question` what its body was found to ask: of `caller`, whose key may be another's by
    now. `meaning` is that of its body, empty where it is not known. `read` is there where no parser is needed.
    """

    raw: bytes
    own: str | None
    head: Head | None = None
    digest: bytes | None = None
    end: int = 0
    grant: Grant | RateLimited | None = None
    question: Question | None = None
    caller: Caller | None = None
    meaning: bytes = b""
    read: Read | None = None

    def is_from(self, caller: Caller) -> None:
        """Forget what was found for another one."""
        if self.caller != caller:
            self.grant = self.question = None

    def is_of(self, body: bytes) -> None:
        """The body, as it was read at last."""
        if self.digest is None and len(body) <= _LARGEST_BODY:
            self.digest = hashlib.sha256(body).digest()


class Later(NamedTuple):
    """The request up to `end` is answered, or comes back, in a later turn."""

    end: int


_Plain = tuple[Callable[[bytes], None], HitSeries, Hits, Entry, float, str]
"""An answer that is fresh and has nothing behind it: what takes its log line, where it is counted, itself, its age and
its Cache-Status."""


class _Request(msgspec.Struct, gc=False):
    """A request that is known: a question, as far as memory needs to know it, and how it is answered.

    `spelling` is the hash of its body, which is `new` where it never came so; it `came` in these bytes, at this
    place, on a connection to this address, and ends at `end`. `started` is of time.perf_counter, `auth` the seconds
    that its key took. `later` takes what becomes of it in a later turn, see `Recall.answer`.

    `limit` is its tenant's, `grant` what that said. `held` is what memory has, else Redis was `asked` then, which took
    `looked_up` seconds. What was found is `plain`, where it is so, else `hit`. `version` is what it was found under
    before the limit was asked. `cache` is the Cache-Status, `sent` the body that is sent, and `phases` are timings in
    the log line.
    """

    lookup: CacheLookup
    head: Head
    body: Body
    spelling: bytes
    raw: bytes
    came: tuple[bytes, int, str | None]
    end: int
    opening: bytes
    later: Callable[[bytes | Arrival], bool]
    ids: Ids
    started: float
    auth: float
    limit: Limit | None
    held: Entry | None
    plain: _Plain | None
    new: bool = False
    known_arrival: Arrival | None = None
    known_record: RequestRecord | None = None
    grant: Grant | RateLimited | None = None
    hit: CacheHit | None = None
    version: str = ""
    asked: float = 0.0
    looked_up: float | None = None
    cache: str = ""
    sent: bytes = b""
    phases: str = ""
    bypass: None = None

    @property
    def entry(self) -> Entry:
        """What was found."""
        if self.plain is not None:
            return self.plain[3]
        assert self.hit is not None  # noqa: S101  # one of the two was
        return self.hit.entry

    @property
    def arrival(self) -> Arrival:
        """Made where it is wanted: most are answered."""
        if self.known_arrival is None:
            data, at, own = self.came
            head = data[at : self.end - len(self.raw)]
            digest, caller = self.spelling[:_DIGEST], self.body.caller
            self.known_arrival = Arrival(head, own, self.head, digest, caller=caller)
        self.known_arrival.grant = self.grant
        return self.known_arrival

    @property
    def record(self) -> RequestRecord:
        """Made where it is wanted: of most all is known already that is told of them."""
        record = self.known_record
        if record is None:
            record = _record_of(self.head, self.body.caller, self.ids, self.started, self.auth)
            self.known_record = record
            target, record.stream = self.body.target, self.body.stream
            record.model = target.model.name
            if target.personality is not None:
                record.personality = target.personality.name
        if self.looked_up is not None:
            record.timings["cache"] = self.looked_up
        return record

    def again(self) -> _Again:
        """The call to a provider behind its answer."""
        # Not all that was read with it is to be kept for as long as the call takes.
        self.came = (self.arrival.raw, 0, None)
        return _Again(self)


_Said = bytes | bool
"""The whole answer; True: it, or the request, comes back later; False: only the ordinary way can answer."""


class Recall:
    """Of one replica. `memory` is in bytes, for what bodies mean; their hashes take more, `_SPELLINGS`."""

    def __init__(
        self,
        pipeline: Pipeline,
        flights: Flights,
        store: AnswerStore,
        catalog: Catalog,
        policies: Policies,
        recorder: Recorder,
        *,
        keys: KeyRing,
        limiter: RateLimiter,
        drain: Drain,
        arrivals: Arrivals,
        memory: int,
    ) -> None:
        self._pipeline = pipeline
        self._flights = flights
        self._store = store
        self._catalog = catalog
        self._policies = policies
        self._recorder = recorder
        self._keys = keys
        self._limiter = limiter
        self._drain = drain
        self._arrivals = arrivals
        self._heads: list[Head] = []
        self._by_length: dict[int, _Cut] = {}
        self._keeps_written = memory > 0
        self._spellings: Newest[bytes] = Newest(_SPELLINGS, lambda _: _SPELLING)
        self._bodies: Newest[Body] = Newest(max(memory, _LEAST_BODIES), Body.size, Body.was_used)

    def answer(
        self,
        data: bytes,
        at: int,
        own: str | None,
        opening: bytes,
        write: Callable[[bytes], None],
        later: Callable[[bytes | Arrival], bool],
    ) -> int | Later | Arrival | None:
        """Answer the request that begins there in `data`, and give where it ends.

        Where it is not answered its Arrival, to be learnt; None where it is none that could be. `own` is the address
        that the connection came to, `opening` the first lines of an answer. Where Later is given, `later` is called
        once, in a later turn: with the answer, or with the Arrival of what is to be read the ordinary way. It
        gives False where the client has left.
        """
        started = time.perf_counter()
        if self._drain.state != "serving" or not data.startswith(b"POST /", at):
            return None
        try:
            request = self._find(data, at, own, started, opening, later)
            said = self._step(request) if isinstance(request, _Request) else None
        except Exception:  # noqa: BLE001  # a defect here must not cost an answer: the ordinary way gives it
            _log.exception("recall failed")
            return None
        if isinstance(request, tuple):
            write(request[0])
            return request[1]
        if not isinstance(request, _Request):
            return request
        # What fails from here on must not be answered a second time.
        if isinstance(said, bytes):
            write(said)
            self._finish(request)
            return request.end
        return Later(request.end) if said else request.arrival

    def _finish(self, request: _Request) -> None:
        """It is answered."""
        took, hit, recorder = time.perf_counter() - request.started, request.hit, self._recorder
        assert hit is not None  # noqa: S101  # it was sent
        known, put = request.body.known, recorder.direct()
        received, sent = len(request.raw), len(request.sent)
        if known is not None and put is not None:
            recorder.finish_hit(
                put, known, request.ids, took, request.phases, request.cache, hit.entry, received, sent
            )
            return
        record, entry = request.record, hit.entry
        record.cache, record.prompt_tokens = request.cache, entry.prompt_tokens
        record.completion_tokens = entry.completion_tokens
        recorder.finish(record, "ok", 200, took, first_byte=took, received=received, sent=sent)
        if known is None:
            request.body.known = recorder.known(record)

    def _then(self, request: _Request, step: Callable[[_Request, Any], _Said], told: Any) -> None:
        """Take the next step of a request, now that Redis has told something."""
        said: _Said = False
        try:
            said = step(request, told)
        except Exception:  # noqa: BLE001  # as above
            _log.exception("recall failed")
        if isinstance(said, bytes):
            request.later(said)
            if request.plain is None:
                self._finish(request)
        elif not said and not request.later(self._as_of_now(request.arrival)):
            took, received = time.perf_counter() - request.record.started, len(request.raw)
            self._recorder.finish(
                request.record, "client_disconnect", None, took, first_byte=None, received=received, sent=0
            )

    def _as_of_now(self, arrival: Arrival) -> Arrival:
        """With nothing left to read only where its key is whose it was."""
        read = arrival.read
        if read is not None and self._keys.as_of(read.caller) is not read.keys:
            arrival.read = None
        return arrival

    # The steps. Each gives the answer, or whether there will be another one.

    def _step(self, request: _Request) -> _Said:
        hit, limit = None, request.limit
        if request.plain is None and request.held is not None:
            hit = self._store.judged(request.held, "local", request.lookup)
            if hit is not None and hit.state is not FRESH and not hit.usable:
                hit = None
        if request.plain is None and hit is None:
            # Of what memory has not, the ordinary way reserves tokens, or asks for the lease at once.
            looks = self._store.looks_first(request.lookup.class_name)
            if limit is not None or not looks or not self._may_wait(request):
                return False
            request.asked = time.perf_counter()
            return self._store.ask(request.lookup, functools.partial(self._then, request, self._on_entry))
        request.hit = hit
        if limit is None:
            return self._give(request)
        if not self._may_wait(request):
            return False
        request.version = self._store.version(request.lookup)
        then = functools.partial(self._then, request, self._on_grant)
        return self._limiter.ask(request.body.caller.tenant, limit, then)

    def _on_grant(self, request: _Request, grant: Grant | RateLimited | None) -> _Said:
        request.grant = grant
        if not isinstance(grant, Grant) or not self._store.holds(request.lookup, request.version):
            return False
        return self._give(request)

    def _on_entry(self, request: _Request, entry: Entry | None) -> _Said:
        if entry is None:
            return False
        looked_up = time.perf_counter() - request.asked
        request.plain = self._plain(request.head, request.body, request.lookup, entry, "shared")
        if request.plain is None:
            hit = self._store.judged(entry, "shared", request.lookup)
            if hit is None or not hit.usable:
                return False
            request.hit = hit
        request.looked_up = looked_up
        return self._give(request)

    def _give(self, request: _Request) -> _Said:
        """What was found, as soon as it is kept where it has to be."""
        body = request.body
        if body.keeps and not self._may_wait(request):
            return False
        if not body.keeps and request.plain is not None:
            return self._answered(request)
        keep = self._write(request)
        if not body.keeps:
            return self._answered(request)
        return keep is not None and keep(functools.partial(self._then, request, self._on_kept))

    def _on_kept(self, request: _Request, kept: bool) -> _Said:
        return self._answered(request) if kept else False

    def _may_wait(self, request: _Request) -> bool:
        return not request.head.hurried and len(request.raw) <= SMALL_REQUEST

    def _find(
        self,
        data: bytes,
        at: int,
        own: str | None,
        started: float,
        opening: bytes,
        later: Callable[[bytes | Arrival], bool],
    ) -> tuple[bytes, int] | _Request | Arrival | None:
        """The answer and where its request ends, counted as given; the request, where more steps are needed; its
        Arrival, where the ordinary way has to answer; None where it is none that could be known."""
        body_at = data.find(b"\r\n\r\n", at, at + _LARGEST_HEAD) + 4  # past that size it may be refused
        if body_at < 4:
            return None
        head, values = self._known_head(data, at, body_at, own)
        if head is None:
            return Arrival(data[at:body_at], own)
        head.used += 1
        if not values:
            return Arrival(data[at:body_at], own, head)
        length, bearer, key, request_id, traceparent = head.read((*values, b""))
        end = body_at + int(length) if length.isdigit() and len(length) < _DIGITS else -1
        if end <= body_at:
            return Arrival(data[at:body_at], own, head)
        if end > len(data):
            most = min(_LARGEST_BODY, head.route.max_body)
            waits = end - body_at <= most and self._caller(head, bearer, key) is not None
            return Arrival(data[at:body_at], own, head, end=end if waits else 0)
        raw = data[body_at:end]
        caller = self._caller(head, bearer, key) if self._keys.configured else ANONYMOUS
        if caller is None:
            return Arrival(data[at:body_at], own, head)
        auth = time.perf_counter() - started
        ids = self._recorder.ids_of(traceparent, request_id)
        arrival: Arrival | None = None
        record: RequestRecord | None = None
        if head.bypasses:
            head.bypasses = False
            arrival = Arrival(data[at:body_at], own, head, caller=caller)
            if ids is not None:
                self._read_now(arrival, raw, caller, _record_of(head, caller, ids, started, auth), end)
            if head.bypasses:
                return arrival
            arrival = None
        digest = hashlib.sha256(raw).digest()
        if ids is None:
            return Arrival(data[at:body_at], own, head, digest, caller=caller)
        spelling = digest + _salt(head.asking, caller.identity)
        meaning = self._spellings.get(spelling)
        body = None if meaning is None else self._bodies.get(meaning)
        if body is not None and body.caller is not caller and body.caller != caller:
            return Arrival(data[at:body_at], own, head, digest, caller=caller)
        new = body is None
        if body is None:
            found = _meaning_in(raw, echoed=head.route.echoes) if len(raw) <= head.route.max_body else b""
            body = self._bodies.get(found + spelling[_DIGEST:]) if found else None
            if body is None or body.caller != caller:
                record = _record_of(head, caller, ids, started, auth)
                arrival = Arrival(data[at:body_at], own, head, digest, caller=caller, meaning=found)
                body = self._read_now(arrival, raw, caller, record, end)
                if body is not None:
                    body = self._as_known(spelling, body)
        if body is None or not self._still_holds(body, len(raw)):
            return arrival or Arrival(data[at:body_at], own, head, digest, caller=caller)
        lookup, lifetimes = body.lookup, self._policies.in_force[body.target.class_name]
        if lifetimes is not lookup.lifetimes:
            lookup = body.lookup = msgspec.structs.replace(lookup, lifetimes=lifetimes)
        held = self._store.remembered(lookup)
        plain = None if held is None else self._plain(head, body, lookup, held, "local")
        body.used = body.used or not new
        limit = self._limiter.limit_of(caller.tenant) if self._limiter.limited else None
        if plain is not None and not body.keeps:
            grant = None if limit is None else self._limiter.at_once(caller.tenant, limit)
            if limit is None or grant is not None:
                rates = rate_lines(grant.limit, grant.left) if grant is not None else ""
                said = self._say(plain, opening, body, head, ids, started, auth, len(raw), rates=rates)
                if new:
                    self._remember(spelling, body)
                return said, end
        return _Request(
            lookup,
            head,
            body,
            spelling,
            raw,
            (data, at, own),
            end,
            opening,
            later,
            ids,
            started,
            auth,
            limit,
            held,
            plain,
            new,
            arrival,
            record,
        )

    def _plain(self, head: Head, body: Body, lookup: CacheLookup, entry: Entry, tier: str) -> _Plain | None:
        """Its answer, found in that tier, where all is as with most: then half of the steps are not needed."""
        known, put, of = body.known, self._recorder.direct(), body.written_of
        if known is None:
            model, personality = body.target.model.name, body.target.personality
            name = personality.name if personality is not None else None
            known = body.known = self._recorder.hit_before(
                head.route.path, model, body.stream, body.caller.tenant, name
            )
        if known is None or put is None or (of is None and body.rewriting is not None):
            return None
        judged = self._flights.judge_plain(lookup, entry, tier, of)
        if judged is None:
            return None
        hits, target = body.hits, body.target
        if hits is None or hits.result != tier:
            labels = (
                known.series.labels,
                known.stream,
                target.class_name,
                tier,
                target.model.name,
                lookup.prices,
            )
            hits = body.hits = self._recorder.hits(HitLabels(*labels))
        return put, known, hits, entry, *judged

    def _say(
        self,
        plain: _Plain,
        opening: bytes,
        body: Body,
        head: Head,
        ids: Ids,
        started: float,
        auth: float,
        received: int,
        sent: bytes = b"",
        rates: str = "",
        looked_up: float | None = None,
    ) -> bytes:
        """The whole answer, counted as given; `sent` is its body, where that had to be kept."""
        put, known, hits, entry, age, cache = plain
        if not sent:
            sent = body.rewriting.renew(body.written)[0] if body.rewriting else entry.body
        took, (timings, phases) = time.perf_counter() - started, _timings(auth, looked_up)
        said = _answer(opening, body, head, cache, age, ids[0], took, timings, sent, rates)
        self._flights.note_plain(body.lookup, entry)
        self._recorder.finish_hit(
            put,
            known,
            ids,
            took,
            phases,
            cache,
            entry,
            received,
            len(sent),
            hits,
            age,
        )
        return said

    def _read_now(
        self, arrival: Arrival, raw: bytes, caller: Caller, record: RequestRecord, end: int
    ) -> Body | None:
        """A body that never came, under the head of `arrival`, which is given what it was found to ask. None also where
        its answer is never stored."""
        head = arrival.head
        assert head is not None  # noqa: S101  # it is known
        if len(raw) > head.route.max_body:
            return None
        try:
            read = head.route.read_now(head.headers, raw, caller, record, arrival.meaning)
        except Dub5Error:
            return None
        if read is None:
            return None
        question, body = read
        arrival.question = question
        if not question.request.stream and len(raw) <= SMALL_REQUEST:
            record.received = len(raw)
            arrival.read = Read(question, body, caller, self._keys.as_of(caller), head.headers, end)
        if body is None:
            head.bypasses = True
        else:
            arrival.meaning = body.meaning
        return body

    def _known_head(
        self, data: bytes, at: int, end: int, own: str | None
    ) -> tuple[Head | None, Sequence[bytes]]:
        """The head that stands there, if it is known, and its values; none where one of them is not printable."""
        cut = self._by_length.get(end - at)
        if cut is not None:
            parts = cut.unpack(data, at)
            values: Sequence[bytes] = parts[1::2]
            # Only such values end where the next piece begins: another one might have a line feed in it.
            head = cut.head
            if (
                parts[::2] == head.pieces
                and head.own == own
                and not b"".join(values).translate(None, _PRINTABLE)
            ):
                return head, values
        for head in self._heads:
            found = head.values(data, at, own)
            if found is not None:
                if b"".join(found).translate(None, _PRINTABLE):
                    return head, ()
                if len(self._by_length) >= _MOST_LENGTHS:
                    self._by_length.clear()
                self._by_length[end - at] = _Cut.of(head, found)
                return head, found
        return None, ()

    def _write(self, request: _Request) -> Keep | None:
        """Have what is made of what was found sent; how that is kept."""
        body, rewriting, completion = request.body, request.body.rewriting, request.entry.body
        if rewriting is None:
            request.sent = completion
            return None
        if hash(completion) != body.written_of:  # one that nobody outside can foresee, and that bytes keep
            written = rewriting.write(completion)
            if self._keeps_written:
                body = msgspec.structs.replace(body, written_of=hash(completion), written=written)
                self._bodies.set(body.meaning, body)
                request.body = body
        else:
            written = body.written
        request.sent, keep = rewriting.renew(written)
        return keep

    def _answered(self, request: _Request) -> bytes:
        """The same, by the steps that it took."""
        body, sent, hit = request.body, request.sent, request.hit
        grant, plain = request.grant, request.plain
        rates = rate_lines(grant.limit, grant.left) if isinstance(grant, Grant) else ""
        if request.new:
            self._remember(request.spelling, body)
        if plain is not None:
            return self._say(
                plain,
                request.opening,
                body,
                request.head,
                request.ids,
                request.started,
                request.auth,
                len(request.raw),
                sent,
                rates,
                request.looked_up,
            )
        assert hit is not None  # noqa: S101  # one of the two was found
        cache = request.cache = str(self._flights.serve(request, request.lookup, request, hit))
        self._pipeline.count_hit(body.target, hit.entry, hit.result)
        timings, request.phases = _timings(request.auth, request.looked_up)
        took = time.perf_counter() - request.started
        return _answer(
            request.opening, body, request.head, cache, hit.age, request.ids[0], took, timings, sent, rates
        )

    def _caller(self, head: Head, bearer: bytes, key: bytes) -> Caller | None:
        sent = b"%b\n%b\n%b" % (bearer, key, head.asking[0])
        try:
            return self._keys.recognise(sent, head.key_in, bearer, key)
        except Dub5Error:
            return None

    def _still_holds(self, body: Body, size: int) -> bool:
        """Whether the ordinary way would find the same now, and have nothing else to do."""
        target = body.target
        if self._catalog.targets.get(target.name) is not target:
            try:
                if self._catalog[target.name].model is not target.model:
                    return False
            except Dub5Error:
                return False
        return size <= SMALL_REQUEST or self._arrivals.has_room(JOINED * size + body.cost)

    def learn(
        self,
        arrival: Arrival,
        route: QuestionRoute,
        scope: HTTPScope,
        record: RequestRecord,
        body: Body,
    ) -> None:
        """What `body` says was found of this request, whose answer is stored."""
        if arrival.digest is None:
            return
        head = arrival.head or self.learn_head(arrival, route, scope, record)
        if head is None:
            return
        if not self._keeps_written:
            body = msgspec.structs.replace(body, written_of=None, written=Written())
        spelling = arrival.digest + _salt(head.asking, body.caller.identity)
        known = self._as_known(spelling, body)
        if known.written_of is None and body.written_of is not None:
            known = msgspec.structs.replace(body, meaning=known.meaning)
        self._remember(spelling, known)

    def learn_head(
        self, arrival: Arrival, route: QuestionRoute, scope: HTTPScope, record: RequestRecord
    ) -> Head | None:
        """That of a request that was accepted; None where it must not be recognised."""
        if arrival.head is not None:
            return arrival.head
        head = _head_of(arrival, route, scope, record)
        if head is None:
            return None
        for place, known in enumerate(self._heads):
            if known.kind == head.kind and known.own == head.own:
                wider = known.with_that(head)
                if wider is not known:
                    self._heads[place] = wider
                    self._by_length.clear()
                return wider
        if len(self._heads) >= _MOST_HEADS:
            self._heads.remove(min(self._heads, key=lambda head: head.used))
            self._by_length.clear()
            for each in self._heads:
                each.used //= 2
        self._heads.append(head)
        return head

    def _as_known(self, spelling: bytes, body: Body) -> Body:
        """What is known already of those that say the same, else it."""
        meaning = body.meaning + spelling[_DIGEST:] if body.meaning else spelling
        known = self._bodies.get(meaning)
        if known is not None and known.caller == body.caller and known.target is body.target:
            return known
        return msgspec.structs.replace(body, meaning=meaning)

    def _remember(self, spelling: bytes, body: Body) -> None:
        if self._bodies.get(body.meaning) is not body:
            self._bodies.set(body.meaning, body)
        self._spellings.set(spelling, body.meaning)


def _timings(auth: float, looked_up: float | None) -> tuple[str, str]:
    """What stands in Server-Timing after the name of the first one, and in the log line; both are in seconds."""
    took = milliseconds(auth)
    if looked_up is None:
        return took, f',"auth":{took}'
    cache = milliseconds(looked_up)
    return f"{took}, cache;dur={cache}", f',"auth":{took},"cache":{cache}'


def _answer(
    opening: bytes,
    body: Body,
    head: Head,
    cache: str,
    age: float,
    request_id: str,
    took: float,
    timings: str,
    sent: bytes,
    rates: str,
) -> bytes:
    """All of it: `cache` is the Cache-Status, `timings` stand in Server-Timing, `rates` are lines."""
    last = b"\r\n"
    if head.id_header is not None:
        last = b"%b: %b\r\n\r\n" % (head.id_header, request_id.encode())
    lines = (
        f"cache-status: {cache}\r\nage: {int(age)}\r\n{rates}content-length: {len(sent)}\r\nx-request-id: "
        f"{request_id}\r\nopenai-processing-ms: {int(took * 1000)}\r\nserver-timing: auth;dur={timings}\r\n"
    )
    return b"".join((opening, _KINDS[body.stream], lines.encode(), head.ending, last, sent))


def _record_of(head: Head, caller: Caller, ids: Ids, started: float, auth: float) -> RequestRecord:
    return RequestRecord(
        trace=TraceContext(*ids[1:]),
        request_id=ids[0],
        started=started,
        method="POST",
        route=head.route.path,
        tenant=caller.tenant,
        key_id=caller.key_id,
        timings={"auth": auth},
    )


def _head_of(arrival: Arrival, route: QuestionRoute, scope: HTTPScope, record: RequestRecord) -> Head | None:
    """None where such a head must not be recognised."""
    headers = list(scope["headers"])
    names = [name for name, _ in headers]
    if scope["http_version"] != "1.1" or not _OTHERWISE.isdisjoint(names):
        return None
    parts = _VALUES.split(arrival.raw)
    kind = (*(text + name for text, name in zip(parts[::3], parts[1::3], strict=False)), parts[-1])
    may_be_cut = [_name_before(kind, index) for index in range(len(kind) - 1)]
    if b"content-length" not in may_be_cut:
        return None
    # What is read has to be cut out, and be there once.
    read = [name.encode() for name in _READ_ANEW]
    if any(names.count(name) > 1 or (name in names and name not in may_be_cut) for name in read):
        return None
    if any(value.lower() != b"keep-alive" for name, value in headers if name in _KEEPING):
        return None
    return Head(
        route=route,
        kind=kind,
        seen=tuple(
            b"" if name in read else value for name, value in zip(may_be_cut, parts[2::3], strict=True)
        ),
        cut=frozenset(index for index, name in enumerate(may_be_cut) if name in read),
        own=arrival.own,
        asking=(route.path.encode(), *(b"\0".join(v for n, v in headers if n == name) for name in _ASKING)),
        ending=_written(header for header in record.answer_headers if header[0] != route.id_header),
        id_header=route.id_header,
        hurried=b"x-dub5-timeout" in names,
        headers={name: value for name, value in headers_of(scope).items() if name not in _READ_ANEW},
    )


def _name_before(kind: Sequence[bytes], index: int) -> bytes:
    """The header whose value stands after that piece of a head."""
    return kind[index].rpartition(b"\r\n")[2].rstrip(b": ").lower()


class _Again(msgspec.Struct):
    """The call to a provider that an answer has behind it, where it has one: only then its question is read again."""

    request: _Request
    begun: Leader | None = None

    @property
    def made(self) -> Made | None:
        return None if self.begun is None else self.begun.made

    def again(self) -> _Again:
        return _Again(self.request)

    async def call(self, identity: Identity | None, on_frames: Callable[[list[Frame]], None]) -> None:
        request = self.request
        self.begun = await request.head.route.again(request.arrival.raw, request.raw, request.record)
        await self.begun.call(identity, on_frames)
