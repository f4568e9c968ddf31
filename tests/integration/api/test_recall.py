"""The law of `api/recall.py`: what it answers is what the ordinary way says, and it answers the usual requests.

Two replicas have the same clock, the same luck and the same provider, whose answers are a function of what it is asked.
One asks its Recall first, the other has none. The same bytes go to both, the same befalls both, and nobody can tell
which is which: by what they write, by their metrics, log lines and samples.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moka_py import Moka
from msgspec.structs import replace
from structlog.typing import EventDict

from dub5.api.recall import Arrival, Later, Newest
from dub5.app import Application
from dub5.cache.freshness import Lifetimes
from dub5.cache.samples import NoSampler
from dub5.contract import ClassPolicy, PolicyDocument, QuestionPolicy, limit_key
from dub5.errors import RequestTimeout
from dub5.server.protocol import ConnectionLimits, Connections, GuardedProtocol
from dub5.server.replica import configured
from dub5.settings.loader import convert
from dub5.settings.model import Settings
from testkit.redis_server import RedisServer
from tests.harness import PATIENT
from tests.transports import Taking

KEYS = {"one": "acme", "two": "acme", "other": "globex"}


def keys_file(**more: Any) -> str:
    """`acme` has two keys; `more` is what the first of them has besides."""
    entries = {hashlib.sha256(key.encode()).hexdigest(): {"tenant": tenant} for key, tenant in KEYS.items()}
    entries[hashlib.sha256(b"one").hexdigest()] |= more
    return json.dumps(entries)


SETTINGS: dict[str, Any] = {
    "server": {"allowed_origins": ["https://page.example"]},
    "auth": {"keys": {"env": "KEYS"}},
    "providers": {"sim": {"kind": "simulated", "first_token": 0.0, "tokens_per_second": 1e9}},
    "models": {
        "small": {"routes": ["sim/small"], "price": {"input": 1, "output": 2}},
        "brief": {"routes": ["sim/brief"], "cache_class": "brief"},
    },
    "personalities": {"tutor": {"model": "small", "system": "Teach.", "temperature": 0.5}},
    "cache": {
        "classes": {
            "default": {"ttl": 300, "max_ttl": 600},
            "brief": {"ttl": 10, "stale_while_revalidate": 20, "share": "user"},
        }
    },
}


CONFIG = convert(SETTINGS)

Befalls = Callable[[GuardedProtocol], object]
"""What happens to a connection."""


class Transport(Taking):
    """All that is written, in one."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 8000), "peername": ("127.0.0.1", 50000)})
        self.written = b""

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data


class Samples(NoSampler):
    """Written down; what is drawn is drawn while re-asks are due."""

    wanted = True

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.re_asks = 0.0

    def accessed(self, *told: Any, **more: Any) -> None:
        self.taken.append((told, more))

    def spend_re_ask(self) -> None:
        """The next is due as well."""

    def draw_canary(self, *_: object, **__: object) -> float:
        return 2.0 * self.re_asks

    def check_canary(self, *_: object, **__: object) -> bool:
        return True

    def measured(self, *told: Any, **__: object) -> None:
        self.taken.append(told)


class Twin:
    """One of the two replicas: no sockets, and no time but what it is given."""

    def __init__(self, *, recalls: bool, config: Settings = CONFIG) -> None:
        self.app = Application(config, {"KEYS": keys_file()})
        self.samples = Samples()
        self.app._store.now = lambda: self.now
        self.app._flights._rng = lambda: self.luck
        self.app._flights._sampler = self.samples
        limits = ConnectionLimits(read_timeout=30, write_timeout=20, idle=75, max_connections=100)
        self.recalled = 0
        recall = self._recall if recalls else None
        self.connections = Connections(
            limits, lambda _: None, self.app.arrivals, origins=self.app.origins, recall=recall
        )
        self.uvicorn = configured(self.app.public)
        self.uvicorn.load()
        self.app._purges.confirmed = lambda since: True  # type: ignore[method-assign]  # until there is doubt
        self.app._flights._refused = Moka(10_000)  # for whatever time
        self.confirmed = self.app._purges.confirmed
        self.lost: Any = None
        self.begin()

    def begin(self) -> None:
        """As if it had just been started."""
        app = self.app
        self.now, self.luck, self.samples.re_asks = 1e9 + 0.25, 0.5, 0.0
        self.broken_off, self.read_before = False, app.metrics.network_bytes.labels("in").total()
        app.drain.state = "serving"
        self.lose(lost=False)
        app._purges.confirmed = self.confirmed  # type: ignore[method-assign]
        app._keys._callers = app._keys._lookup_table(keys_file())
        app._policies._document = PolicyDocument()
        app._policies._apply()
        app.recall._heads.clear()
        app.recall._by_length.clear()
        memos: list[Any] = [
            app.recall._bodies,
            app.recall._spellings,
            app._store._local._entries,
            app._store._local.questions,
            app._flights._refused,
            app._flights._cooling,
        ]
        for memo in memos:
            memo.clear()

    async def connected(self) -> None:
        """Until there is a connection for what requests wait for: without it only the ordinary way can answer, and it
        is made in the background, however long that takes."""
        link = self.app._redis
        assert link is not None
        assert link._pipelining is not None
        async with asyncio.timeout(60):
            while link._pipelining.connection is None or not link.available:  # noqa: ASYNC110  # it has no event
                await asyncio.sleep(0.005)

    def lose(self, *, lost: bool) -> None:
        """The connection to Redis for what requests wait for, until it is found again."""
        pipelining: Any = self.app._redis and self.app._redis._pipelining
        if pipelining and lost == (self.lost is None):
            self.lost, pipelining.connection = pipelining.connection, self.lost

    def _recall(self, *asked: Any) -> int | Later | Arrival | None:
        *before, later = asked
        answer: Any = self.app.recall.answer

        def counted(said: bytes | Arrival) -> bool:
            self.recalled += isinstance(said, bytes)
            told: bool = later(said)
            return told

        found: int | Later | Arrival | None = answer(*before, counted)
        self.recalled += isinstance(found, int)
        return found

    async def ask(self, *reads: bytes | Befalls, waits: bool = True) -> bytes:
        """All that is written on a new connection on which this comes, each part when there is nothing left to do, or
        where nobody `waits` for that some turns after the other."""
        protocol, transport = GuardedProtocol(self.uvicorn, self.connections, {}), Transport()
        protocol.connection_made(transport)  # type: ignore[arg-type]
        for read in reads:
            if callable(read):
                read(protocol)
            elif not transport.closed:
                protocol.data_received(read)
            if waits:
                await self._settle(protocol)
            for _ in range(5):
                await asyncio.sleep(0)
        await self._settle(protocol)
        protocol.connection_lost(None)
        await self._settle(protocol)
        return transport.written

    async def _settle(self, protocol: GuardedProtocol | None = None) -> None:
        """Until all is done, but for a request of which something is still to come."""
        flights = self.app._flights._in_flight
        while self.connections.tasks or flights or (protocol is not None and protocol._asked):
            running = protocol._running if protocol is not None else None
            if running is not None and running.more_body and not running.response_complete and not flights:
                for _ in range(20):
                    await asyncio.sleep(0)
                if not running.response_complete:
                    return
            elif protocol is not None and protocol._asked:
                await asyncio.sleep(0)  # its answer is on the way from Redis
            else:
                await asyncio.wait([*self.connections.tasks, *flights], return_when="FIRST_COMPLETED")

    def metrics(self) -> dict[Any, float]:
        """All but how long something took, and how much was read of a request that broke off: that is chance. So is
        the last digit of a sum, by the order in which it was added up."""
        received = self.app.metrics.network_bytes.labels("in").total() - self.read_before
        return {"received": 0.0 if self.broken_off else received} | {
            (sample.name, *sample.labels.values()): round(sample.value, 12)
            for family in self.app.metrics.registry.collect()
            if not family.name.startswith(
                ("dub5_build", "dub5_config", "dub5_arriving_limit", "dub5_redis", "dub5_event_loop")
            )
            for sample in family.samples
            if not ("_seconds" in sample.name and sample.name.endswith(("_sum", "_bucket")))
            or "cache_hit_age" in sample.name
            or "cache_own_ttl" in sample.name
            if sample.labels != {"direction": "in"}
        }


class Seen(NamedTuple):
    """What can be told of a replica by how it answers."""

    written: bytes
    metrics: dict[Any, float]
    logs: list[EventDict]
    samples: list[Any]


_TIMES = re.compile(
    rb"(?<=\r\nopenai-processing-ms: )\d+|(?<=dur=)[\d.]+|(?<=\r\ndate: )[^\r]+|(?<=d_at\":)\d{10}"
    rb"|(?<=-reset-requests: )[\d.]+|(?<=\r\nretry-after: )\d+|(?<=Try again in )\d+"
)
_OWN_ID = re.compile(rb"[0-9a-f]{32}")


async def seen(twin: Twin, reads: Sequence[bytes | Befalls], *, waits: bool = True) -> Seen:
    """With its times and its own ids taken out."""
    twin.samples.taken.clear()
    LOGGED.clear()
    with structlog.testing.capture_logs() as logs:
        written = await twin.ask(*reads, waits=waits)
    logs += LOGGED
    sent = b"".join(read for read in reads if isinstance(read, bytes))
    twin.broken_off |= any(line.get("outcome") == "client_disconnect" for line in logs)
    for line in logs:
        for name in ("request_id", "trace_id", "span_id"):
            if line.get(name, "").encode() not in sent:
                line[name] = "own"
        if "duration_ms" in line:
            line["duration_ms"] = list(line["duration_ms"])
    plain = _TIMES.sub(b"T", written)
    plain = _OWN_ID.sub(lambda found: found[0] if found[0] in sent else b"ID", plain)
    # A request that is refused while one before it is answered is logged at once.
    return Seen(plain, twin.metrics(), sorted(logs, key=str), list(twin.samples.taken))


# What befalls both.


def asked(body: dict[str, Any], *, stream: bool | None = None, spaces: int = 0) -> bytes:
    if stream is not None:
        body = {**body, "stream": stream}
    return json.dumps(body).encode() + b" " * spaces


def chat(text: str = "hi", model: str = "small", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def message(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {**chat(text), "max_tokens": 500, **more}


PYTHON = (
    "Host: 127.0.0.1:8000",
    "Accept-Encoding: gzip, deflate",
    "Connection: keep-alive",
    "Accept: application/json",
    "Content-Type: application/json",
    "User-Agent: OpenAI/Python 2.0.0",
    "X-Stainless-Lang: python",
    "X-Stainless-Package-Version: 2.0.0",
    "X-Stainless-OS: Linux",
    "X-Stainless-Arch: x64",
    "X-Stainless-Runtime: CPython",
    "X-Stainless-Runtime-Version: 3.11.7",
    "X-Stainless-Async: false",
    "x-stainless-retry-count: 0",
    "x-stainless-read-timeout: 600",
)
CLIENTS: dict[str, tuple[str, ...]] = {
    "openai-python": (*PYTHON, "Authorization: Bearer {key}"),
    "anthropic-python": (*PYTHON, "anthropic-version: 2023-06-01", "X-Api-Key: {key}"),
    "curl": (
        "Host: localhost:8000",
        "User-Agent: curl/8.5.0",
        "Accept: */*",
        "Content-Type: application/json",
        "Authorization: Bearer {key}",
    ),
    "node": (
        "host: localhost:8000",
        "connection: keep-alive",
        "content-type: application/json",
        "authorization: Bearer {key}",
        "accept: */*",
        "accept-language: *",
        "sec-fetch-mode: cors",
        "user-agent: node",
        "accept-encoding: gzip, deflate",
    ),
    "behind a proxy": (
        "Host: dub5.example",
        "X-Forwarded-For: {id}",
        "X-Real-IP: 10.0.0.1",
        "X-Request-Id: {id}",
        "traceparent: {trace}",
        "tracestate: a=1, b=2",
        "Authorization: Bearer {key}",
        "Content-Type: application/json",
    ),
}


def request(lines: Sequence[str], body: bytes, path: str = "/v1/chat/completions", length: str = "") -> bytes:
    head = [f"POST {path} HTTP/1.1", *lines, f"Content-Length: {length or len(body)}", "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def purge(twin: Twin, names: tuple[str, ...]) -> Coroutine[Any, Any, object]:
    return twin.app._store.purge(names)


QUESTION = QuestionPolicy(
    cost=0.1, change=(1, 600), noise=(1, 50), requests=(1, 60), shortest=1, longest=600, stale=0.2
)


async def publish(twin: Twin, ttl: float, question: QuestionPolicy | None = None) -> None:
    # Who asks again does so for canaries, too.
    policies = {
        "default": ClassPolicy(ttl, None, question, 0.01),
        "brief": ClassPolicy(ttl, ttl, question, 0.01),
    }
    twin.app._policies._document = PolicyDocument(issued=0.0, classes=policies)
    twin.app._policies._apply()


async def publish_for_questions(twin: Twin, ttl: float) -> None:
    await publish(twin, ttl, QUESTION)


async def rotate(twin: Twin, more: dict[str, Any]) -> None:
    twin.app._keys._callers = twin.app._keys._lookup_table(keys_file(**more))


async def wait(twin: Twin, seconds: float) -> None:
    twin.now += seconds


async def doubt(twin: Twin, confirmed: bool) -> None:
    twin.app._purges.confirmed = lambda since: confirmed  # type: ignore[method-assign]


async def lucky(twin: Twin, luck: tuple[float, float]) -> None:
    twin.luck, twin.samples.re_asks = luck


async def drain(twin: Twin, state: Any) -> None:
    twin.app.drain.state = state


async def forget(twin: Twin, _: object) -> None:
    """A long outage of memory: every answer is gone."""
    twin.app._store._local._entries.clear()


MOSTLY = [True] * 7 + [False]
"""Drawn from: seven times in eight."""

IDS = st.one_of(
    st.text("abcdef0123456789-_.", min_size=1, max_size=40),
    st.sampled_from(["", " ", "a b", "a ", " a", "a\tb", "\xe9", "a\x00b", "a\nb", "x" * 200]),
)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
VALUES: dict[str, st.SearchStrategy[str]] = {
    "id": IDS,
    "trace": st.sampled_from(
        [TRACE, TRACE[:-1] + "0", TRACE + " ", "ff" + TRACE[2:], TRACE + "-more", "", "x"]
    ),
    "key": st.sampled_from(["one", "two", "other", "one ", " one", "no", ""]),
}
GOOD = {
    "id": st.sampled_from(["abc-1", "abc-2"]),
    "trace": st.just(TRACE),
    "key": st.sampled_from(["one"] * 3 + ["other"]),
}
"""What a `{id}` and so on in a line becomes, each time that it is sent: anything, or what most send."""

LINES = st.sampled_from(
    [
        *("X-Request-Id: {id}", "x-request-id:{id}", "X-Client-Request-Id: {id}", "traceparent: {trace}"),
        *("tracestate: {id}", "idempotency-key: {id}", "X-Forwarded-For: {id}", "X-Other: {id}"),
        *(
            "Cache-Control: max-age=5",
            "Cache-Control: no-store",
            "Cache-Control: no-cache",
            "Cache-Control: =",
        ),
        *("Cache-Control: only-if-cached", "Cache-Control: max-stale", "X-Dub5-Cache-Tags: a, b"),
        *(
            "X-Dub5-Cache-Tags: !",
            "X-Dub5-Timeout: 500ms",
            "X-Dub5-Timeout: x",
            "Authorization: Bearer {key}",
        ),
        *("x-api-key: {key}", "Connection: close", "Connection: Keep-Alive", "Expect: 100-continue"),
        "Proxy-Connection: close",
        *("Upgrade: h2c", "Cookie: a=b", "Transfer-Encoding: chunked", "Origin: https://page.example"),
        *("Origin: https://evil.example", "Sec-Fetch-Site: same-origin", "Content-Encoding: identity"),
        *("Content-Length: 1", "Host: other", "Content-Type: text/plain", "anthropic-beta: some-2025-01-01"),
        *(" folded", "No colon", "X-Empty:"),
    ]
)
PATHS = [
    *("/v1/chat/completions", "/v1/messages") * 4,
    *("/chat/completions", "/v1/chat/completions?a=b", "http://a/v1/messages", "/v1/completions"),
]
BODIES = st.builds(
    asked,
    st.sampled_from(
        [
            *[message(), chat(model="tutor", max_tokens=500), chat(model="brief", max_tokens=500)] * 3,
            *(chat(user="u"), chat(model="none"), {"model": 1}, chat(temperature=1.5)),
            *(message("", stop_sequences=["a"]), chat(stream_options={"include_usage": True})),
        ]
    ),
    stream=st.sampled_from([None, False, True]),
    spaces=st.integers(0, 1),
)


ASKING = [(path, BODIES) for path in PATHS]
"""Where what may be asked."""


class Shape(NamedTuple):
    """A kind of request, of which some are sent, with other values each time."""

    lines: list[str]
    path: str
    bodies: list[bytes]


@st.composite
def shapes(draw: st.DrawFn, asked: Sequence[tuple[str, st.SearchStrategy[bytes]]]) -> Shape:
    lines = list(draw(st.sampled_from(sorted(CLIENTS.values()))))
    if not draw(st.sampled_from(MOSTLY)):
        for line in draw(st.lists(LINES, min_size=1, max_size=2)):
            lines.insert(draw(st.integers(0, len(lines))), line)
    path, bodies = draw(st.sampled_from(asked))
    return Shape(lines, path, draw(st.lists(bodies, min_size=1, max_size=2)))


@st.composite
def sent(draw: st.DrawFn, shape: Shape) -> bytes:
    values = GOOD if draw(st.sampled_from(MOSTLY)) else VALUES
    given = {name: draw(value) for name, value in values.items()}
    body = draw(st.sampled_from(shape.bodies))
    length = str(len(body))
    if not draw(st.sampled_from(MOSTLY)):
        length = draw(
            st.sampled_from(
                [f"0{len(body)}", f"+{len(body)}", f"{len(body) - 1}", f"{len(body) + 9}", "x", "", "9" * 30]
            )
        )
    return request([line.format(**given) for line in shape.lines], body, shape.path, length)


@st.composite
def reads(draw: st.DrawFn, shape: Shape) -> list[bytes]:
    """One request on a connection or several, at times cut anywhere."""
    everything = b"".join(draw(st.lists(sent(shape), min_size=1, max_size=3)))
    if draw(st.booleans()):
        return [everything]
    cuts = sorted(draw(st.lists(st.integers(0, len(everything)), max_size=3)))
    return [everything[start:end] for start, end in zip([0, *cuts], [*cuts, len(everything)], strict=True)]


def happens(what: Callable[[Twin, Any], Coroutine[Any, Any, object]], *values: Any) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(what), st.sampled_from(values))


EVENTS = st.one_of(
    happens(purge, ("all",), ("tag:a",), ("tenant:globex",)),
    happens(publish, 5.0, 600.0),
    happens(publish_for_questions, 60.0, 600.0),
    happens(rotate, {}, {"models": ["tutor"]}, {"expires": "2001-01-01"}, {"roles": ["tenant_admin"]}),
    happens(wait, 1.0, 8.0, 15.0, 270.0, 400.0),
    happens(doubt, True, False),
    happens(lucky, (0.5, 0.0), (1 - 1e-15, 0.0), (0.5, 1.0)),
    happens(forget, None),
)


@st.composite
def lives(
    draw: st.DrawFn, asked: Sequence[tuple[str, st.SearchStrategy[bytes]]], events: st.SearchStrategy[Any]
) -> list[Any]:
    """Requests of a few shapes, and what happens between them."""
    known = draw(st.lists(shapes(asked), min_size=1, max_size=2))
    usual = [line.format(id="abc-1", trace=TRACE, key="one") for line in known[0].lines]
    steps: list[Any] = [[request(usual, body, known[0].path)] for body in known[0].bodies] * 2
    for _ in range(draw(st.integers(3, 8))):
        steps.append(draw(reads(draw(st.sampled_from(known)))))
        if not draw(st.sampled_from(MOSTLY)):
            steps.append(draw(events))
    if draw(st.booleans()):
        steps += [(drain, draw(st.sampled_from(["lingering", "closed"]))), draw(reads(known[0]))]
    return steps


class Ticking:
    """A clock by which a call to a provider takes a second: it is looked at before and after.

    One for each task: those that are under way together take no longer, in whatever order they come by.
    """

    time = staticmethod(time.time)

    def __init__(self) -> None:
        self._looks: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def perf_counter(self) -> float:
        task = asyncio.current_task()
        self._looks[task] = self._looks.get(task, 0) + 1
        return float(self._looks[task])


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(lives(ASKING, EVENTS))
def test_nobody_can_tell_whether_an_answer_was_recalled(twins: tuple[Twin, Twin], steps: list[Any]) -> None:
    asyncio.run(_both(*twins, steps))


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """But what twins are given. Memory and Redis drop what is too old by clocks of their own: not while a life lasts,
    or one twin would still have what the other has lost on a busy machine."""
    kept_for = Lifetimes.kept_for
    monkeypatch.setattr("dub5.chat.pipeline.time", Ticking())
    monkeypatch.setattr("dub5.cache.flights._REFUSAL_TTL", 1e9)
    monkeypatch.setattr(Lifetimes, "kept_for", lambda *of: kept_for(*of) + 3600)


LOGGED: list[EventDict] = []
"""Of requests, as they are logged in JSON: only then hits are answered as the last one was."""


@pytest.fixture(autouse=True)
def json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    LOGGED.clear()

    def put(line: bytes) -> None:
        said: EventDict = json.loads(line)
        assert said.pop("timestamp")
        LOGGED.append({**said, "log_level": said.pop("level")})

    monkeypatch.setattr("dub5.telemetry.record.json_lines", lambda: put)


@pytest.fixture(scope="module")
def twins() -> tuple[Twin, Twin]:
    return Twin(recalls=True), Twin(recalls=False)


@pytest.fixture
def alone() -> Twin:
    """Not one of two that are compared by all that was ever counted."""
    return Twin(recalls=True)


async def _both(first: Twin, second: Twin, steps: list[Any]) -> None:
    first.begin()
    second.begin()
    await _live(first, second, steps)


async def _live(first: Twin, second: Twin, steps: list[Any]) -> None:
    for step in steps:
        if isinstance(step, tuple):
            what, value = step
            for twin in (first, second):
                await what(twin, value)
        else:
            one, other = await seen(first, step), await seen(second, step)
            assert one == other
    assert first.metrics() == second.metrics()


def usual(client: str, body: bytes, path: str, number: int, key: str = "one") -> bytes:
    trace = f"00-{number:032x}-b7ad6b7169203331-01"
    return request(
        [line.format(id=f"id-{number}", trace=trace, key=key) for line in CLIENTS[client]], body, path
    )


ASKED = {
    "chat with a personality": ("/v1/chat/completions", chat(model="tutor", max_tokens=500)),
    "chat of one user": ("/v1/chat/completions", chat(model="brief", max_tokens=500, user="u")),
    "messages": ("/v1/messages", message()),
    "text completions": ("/v1/completions", {"model": "small", "prompt": "hi"}),
    "Responses": ("/v1/responses", {"model": "small", "input": "hi", "store": False}),
    "Responses that end early": ("/v1/responses", {"model": "small", "input": "hi", "max_output_tokens": 20}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("client", "what"),
    [
        (client, what)
        for client in CLIENTS
        for what in ASKED
        # Its key is where chat does not look.
        if client != "anthropic-python" or not what.startswith("chat")
    ],
)
async def test_what_clients_usually_send_is_recalled(
    twins: tuple[Twin, Twin], client: str, what: str, stream: bool
) -> None:
    """The first is asked, the second stored, the third known to differ, the fourth known; then two on one connection in
    three parts, the ids anew each time."""
    recalling, ordinary = twins
    path, body = ASKED[what]
    raw = asked(body, stream=stream)
    for twin in twins:
        twin.begin()
        for number in (1, 2, 3):
            await twin.ask(usual(client, raw, path, number))
    before = recalling.recalled
    fourth, several = usual(client, raw, path, 4), usual(client, raw, path, 5) + usual(client, raw, path, 6)
    for reads in ([fourth], [several[:-50], several[-50:-20], several[-20:]]):
        assert await seen(recalling, reads) == await seen(ordinary, reads)
    assert recalling.recalled == before + 3


@pytest.mark.parametrize(
    "befalls",
    [
        GuardedProtocol.shutdown,
        GuardedProtocol.evict,
        GuardedProtocol.close,
        GuardedProtocol.cut,
        GuardedProtocol.give_way,
        lambda protocol: protocol.refuse(RequestTimeout(30), "slow_request"),
    ],
    ids=["shutdown", "evict", "close", "cut", "give way", "slow"],
)
async def test_what_is_still_coming_counts_as_a_request(twins: tuple[Twin, Twin], befalls: Befalls) -> None:
    recalling, ordinary = twins
    first, second, third = (usual("curl", asked(message()), "/v1/messages", number) for number in (1, 2, 3))
    for twin in twins:
        twin.begin()
        await twin.ask(first)
    lives: list[list[bytes | Befalls]] = [
        [second + third[:-20], befalls, third[-20:]],
        [second, third[:-20], befalls],
    ]
    for reads in lives:
        assert await seen(recalling, reads) == await seen(ordinary, reads)


async def test_what_was_still_coming_is_awaited_no_more_when_it_is_answered(twins: tuple[Twin, Twin]) -> None:
    recalling, ordinary = twins
    first, second, third = (usual("curl", asked(message()), "/v1/messages", number) for number in (1, 2, 3))

    def time_out(protocol: GuardedProtocol) -> None:
        # Longer than a request may take to come, shorter than a connection may be idle.
        protocol._all.sweep(protocol.loop.time() + 31)

    for twin in twins:
        twin.begin()
        await twin.ask(first)
    reads: list[bytes | Befalls] = [second[:-20], second[-20:], time_out, third]
    assert await seen(recalling, reads) == await seen(ordinary, reads)


async def lives_the_same(twins: tuple[Twin, Twin], *steps: Any) -> int:
    """What befalls both. How much was recalled."""
    before = twins[0].recalled
    await _both(*twins, list(steps))
    return twins[0].recalled - before


@pytest.mark.parametrize("between", [":", ":\t", ":  ", ": "])
async def test_what_is_asked_again_behind_an_answer_is_read_however_it_was_spaced(
    twins: tuple[Twin, Twin], between: str
) -> None:
    lines = [line.format(key="one") for line in CLIENTS["curl"]]
    spaced = [line if "Bearer" in line and between != ":" else line.replace(": ", between) for line in lines]
    sent = [request(spaced, asked(chat(model="brief")))]
    assert await lives_the_same(twins, sent, sent, sent, (wait, 15.0), sent, sent) == 4


async def test_a_large_request_that_is_not_known_needs_room_too(twins: tuple[Twin, Twin]) -> None:
    def sent(spaces: int) -> list[bytes]:
        return [usual("curl", asked(message(), spaces=spaces), "/v1/messages", 1)]

    steps = [sent(0), sent(0), (fill, True), sent(70_000), (fill, False), sent(70_000), sent(70_001)]
    assert await lives_the_same(twins, *steps) == 3


async def test_a_head_that_is_too_large_by_a_value_is_refused(twins: tuple[Twin, Twin]) -> None:
    def sent(size: int) -> list[bytes]:
        lines = [line.format(key="one") for line in CLIENTS["curl"]]
        return [request([*lines, "X-Forwarded-For: " + "1" * size], asked(chat()))]

    assert await lives_the_same(twins, *map(sent, (7, 8, 8, 9, 20_000, 70_000, 10))) == 3


async def test_a_head_as_long_as_a_known_one_may_be_another(twins: tuple[Twin, Twin]) -> None:
    def sent(value: str) -> list[bytes]:
        lines = [line.format(key="one") for line in CLIENTS["curl"]]
        return [request([*lines, f"X-Forwarded-For: {value}", "X-Last: yes"], asked(chat()))]

    another = "1\r\nCache-Control: no-store"
    known, before = (sent(digit * len(another)) for digit in "10")
    assert await lives_the_same(twins, before, known, known, sent(another), sent(another), known) == 2


@pytest.mark.parametrize("name", ["Connection", "Proxy-Connection"])
async def test_a_connection_that_is_to_end_ends(twins: tuple[Twin, Twin], name: str) -> None:
    def sent(value: str) -> list[bytes]:
        lines = [line.format(key="one") for line in CLIENTS["curl"]]
        return [request([*lines, f"{name}: {value}"], asked(chat()))]

    assert await lives_the_same(twins, *[sent("close")] * 3, *[sent("keep-alive")] * 3) == 2


async def test_all_spellings_of_a_question_are_known_as_one(twins: tuple[Twin, Twin]) -> None:
    body = message()
    spelt = [asked(body), asked(body, spaces=1), asked(dict(reversed(body.items())))]
    sent = [[usual("curl", raw, "/v1/messages", 1)] for raw in spelt]
    other = [usual("curl", asked({**body, "max_tokens": 501}), "/v1/messages", 1)]
    assert await lives_the_same(twins, sent[0], *sent, *sent, other, other) == 7
    recall = twins[0].app.recall
    assert (len(recall._bodies), len(recall._spellings)) == (2, 4)


@pytest.mark.parametrize("store", [False, True])
async def test_what_an_answer_repeats_has_the_order_of_who_asked(
    twins: tuple[Twin, Twin], store: bool
) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
    }
    tool = {"type": "function", "name": "f", "parameters": schema, "strict": False}
    body = {
        "model": "small",
        "input": "hi",
        "store": store,
        "metadata": {"a": "1", "b": "2"},
        "tools": [tool],
    }
    turned = {**schema, "properties": dict(reversed(schema["properties"].items()))}
    bodies = [
        body,
        dict(reversed(body.items())),
        {**body, "metadata": {"b": "2", "a": "1"}},
        {**body, "tools": [{**tool, "parameters": turned}]},
    ]
    sent = [[usual("curl", asked(each), "/v1/responses", 1)] for each in bodies]
    await lives_the_same(twins, sent[0], *sent, *sent)
    assert len(twins[0].app.recall._bodies) == 3


async def test_those_who_wait_for_the_same_answer_are_all_known_by_their_bytes(alone: Twin) -> None:
    raw = [asked(chat()), asked(chat(), spaces=1), asked(dict(reversed(chat().items())))]
    sent = [usual("curl", each, "/v1/chat/completions", 1) for each in raw]
    await asyncio.gather(*map(alone.ask, sent))
    assert alone.app.metrics.lookups_by_class()["default"] == {"miss": 1, "collapsed": 2}
    assert (len(alone.app.recall._bodies), len(alone.app.recall._spellings)) == (1, 3)


@pytest.mark.parametrize("headers", [(), ("Cache-Control: no-store",)], ids=["stored", "never stored"])
async def test_what_is_asked_anew_under_a_known_head_is_not_parsed(
    twins: tuple[Twin, Twin], monkeypatch: pytest.MonkeyPatch, headers: tuple[str, ...]
) -> None:
    recalling, ordinary = twins
    lines = [line.format(id="a", trace=TRACE, key="one") for line in (*CLIENTS["behind a proxy"], *headers)]
    first, *others = (request(lines, asked(chat(text))) for text in ("hi", "and", "now", "so", "no"))
    for twin in twins:
        twin.begin()
        await twin.ask(first)
    parsed: list[bytes] = []
    feed = GuardedProtocol._feed

    def noted(protocol: GuardedProtocol, part: bytes) -> int:
        parsed.append(part)
        return feed(protocol, part)

    monkeypatch.setattr(GuardedProtocol, "_feed", noted)
    for sent in ([others[0]], others[1:3], [others[3][:-20], others[3][-20:]]):
        said = await seen(recalling, sent)
        assert not parsed
        assert said == await seen(ordinary, sent)
        parsed.clear()


def test_a_body_that_is_too_large_is_refused_whatever_it_says() -> None:
    config = convert({**SETTINGS, "server": {**SETTINGS["server"], "max_body": 150}})
    twins = Twin(recalls=True, config=config), Twin(recalls=False, config=config)
    small, large = (
        usual("curl", asked(chat(), spaces=spaces), ASKED["chat of one user"][0], 1) for spaces in (0, 150)
    )
    assert asyncio.run(lives_the_same(twins, [small], [small], [large])) == 1


async def test_a_head_that_comes_many_times_at_once_is_remembered_once(alone: Twin) -> None:
    await alone.ask(usual("node", asked(message()), "/v1/messages", 1))
    sent = usual("curl", asked(message()), "/v1/messages", 1)
    await asyncio.gather(*[alone.ask(sent) for _ in range(3)])
    assert len(alone.app.recall._heads) == 2


async def test_headers_that_nobody_reads_may_be_of_any_value(alone: Twin) -> None:
    def sent(trace: str, more: str = "Accept: */*") -> bytes:
        lines = [*(line.format(key="one") for line in CLIENTS["curl"]), f"X-Vendor-Trace: {trace}", more]
        return request(lines, asked(message()))

    for trace in ("one", "another, longer one"):
        await alone.ask(sent(trace))
    before = alone.recalled
    for trace in ("a third", "x", "a third", "=?"):
        await alone.ask(sent(trace))
    assert alone.recalled - before == 4
    assert len(alone.app.recall._heads) == 1
    for trace, more in (
        ("\xe9", "Accept: */*"),
        ("a", "Cache-Control: no-store"),
        ("b", "Cache-Control: no-cache"),
    ):
        await alone.ask(sent(trace, more))
    assert alone.recalled - before == 4


async def test_what_cannot_be_recorded_is_answered_once_by_the_ordinary_way(
    alone: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = usual("curl", asked(message()), "/v1/messages", 1)
    for _ in range(4):
        await alone.ask(sent)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    failures: list[str] = []
    logged = SimpleNamespace(exception=failures.append)  # to write out a traceback reads files
    monkeypatch.setattr("dub5.api.recall._log", logged)
    monkeypatch.setattr(alone.app.recall._recorder, "finish_hit", fail)
    protocol, transport = GuardedProtocol(alone.uvicorn, alone.connections, {}), Transport()
    protocol.connection_made(transport)
    protocol.data_received(sent)
    await alone._settle(protocol)
    assert transport.written.count(b"HTTP/1.1 200 OK") == 1
    assert failures == ["recall failed"]
    protocol.connection_lost(None)


def test_what_was_set_first_and_is_of_no_use_goes() -> None:
    used: set[bytes] = set()
    known: Newest[bytes] = Newest(100, len, lambda value: value in used)
    for number in range(100):
        known.set(b"%d" % number, b"%010d" % number)
        used.add(b"%010d" % 7)
        assert known.bytes() == min(10 * number + 10, 100)
    assert [number for number in range(100) if known.get(b"%d" % number)] == [7, *range(91, 100)]
    known.set(b"99", b"x" * 20)
    assert [number for number in range(100) if known.get(b"%d" % number)] == [7, *range(92, 100)]
    known.set(b"larger than may be", b"x" * 51)
    assert (known.get(b"larger than may be"), known.bytes()) == (None, 100)


def test_where_all_is_of_use_there_is_room_all_the_same() -> None:
    known: Newest[bytes] = Newest(2000, len, lambda _: True)
    for number in range(300):
        known.set(b"%d" % number, b"ten  bytes")
    assert (len(known), known.get(b"299")) == (200, b"ten  bytes")


async def test_a_body_is_of_use_once_its_answer_was_looked_for_again(alone: Twin) -> None:
    sent = usual("curl", asked(chat()), "/v1/chat/completions", 1)
    other = usual("curl", asked(chat("another question")), "/v1/chat/completions", 2)
    for known, each in ((1, sent), (2, other)):
        await alone.ask(each)
        bodies = list(alone.app.recall._bodies._known.values())
        assert [body.was_used() for body in bodies] == [False] * known
    await alone.ask(other)
    assert [body.was_used() for body in bodies] == [False, True]
    assert not bodies[1].was_used()


def test_without_memory_for_answers_nothing_is_kept_of_what_they_say() -> None:
    cache = {**SETTINGS["cache"], "local_bytes": 0}
    twin = Twin(recalls=True, config=convert({**SETTINGS, "cache": cache}))
    sent = usual("curl", asked(message()), "/v1/messages", 1)
    for _ in range(2):
        asyncio.run(twin.ask(sent))
    bodies = twin.app.recall._bodies
    assert len(bodies) == 1
    assert bodies.bytes() < 1000


async def test_what_is_remembered_is_bounded(alone: Twin) -> None:
    recall = alone.app.recall
    for number in range(80):
        head = (*CLIENTS["curl"], f"X-Kind-{number}: any")
        lines = [line.format(key="one") for line in head]
        await alone.ask(*[request(lines, asked(message(), spaces=number))] * 2)
    assert len(recall._heads) == 64
    assert recall._bodies.bytes() <= CONFIG.cache.local_bytes // 2


async def test_tags_of_an_answer_count_in_what_is_remembered(alone: Twin) -> None:
    lines = [line.format(key="one") for line in CLIENTS["curl"]]
    sizes = []
    for number in (0, 16):
        tags = ", ".join(f"{tag:064}" for tag in range(number))
        await alone.ask(request([*lines, f"X-Dub5-Cache-Tags: {tags}"], asked(chat())))
        sizes.append(alone.app.recall._bodies.bytes())
    assert sizes[1] - 2 * sizes[0] > 16 * 2 * 64  # each is named in its tenant and in all


# With a Redis of their own.


class Shared(NamedTuple):
    """Twins that have started, and what runs something in their loop."""

    twins: tuple[Twin, Twin]
    servers: tuple[RedisServer, RedisServer]
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    def live(self, steps: list[Any]) -> int:
        """What befalls both, whose memory and Redis know of no answer. How much was recalled."""
        return int(self.run(self._live(steps)))

    async def _live(self, steps: list[Any]) -> int:
        before = self.twins[0].recalled
        for twin, server in zip(self.twins, self.servers, strict=True):
            twin.begin()
            await twin.connected()
            await purge(twin, ("all",))
            await server.client.delete(limit_key("globex"))
            twin.app._limiter._told.clear()
        await _live(*self.twins, steps)
        return self.twins[0].recalled - before


@contextlib.contextmanager
def started() -> Iterator[Shared]:
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        twins, servers = [], []
        for recalls in (True, False):
            servers.append(RedisServer())
            servers[-1].open()
            stack.callback(servers[-1].close)
            stack.callback(lambda server: runner.run(server.client.aclose()), servers[-1])
            limits = {"globex": {"requests_per_minute": 5}}
            config = convert({**SETTINGS, "redis": {"url": servers[-1].url}, "limits": limits})
            assert config.redis is not None
            config = replace(config, redis=replace(config.redis, timeout=PATIENT))
            twins.append(Twin(recalls=recalls, config=config))
            runner.run(twins[-1].app.__aenter__())
            stack.callback(lambda twin: runner.run(twin.app.__aexit__()), twins[-1])
        yield Shared((twins[0], twins[1]), (servers[0], servers[1]), runner.run)


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """For what befalls both alike: they are compared by all that was counted since they started."""
    with started() as shared:
        yield shared


def responses(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "small", "input": text, **more}


KEPT = st.builds(
    asked,
    st.sampled_from(
        [
            *[responses(), responses("ho", max_output_tokens=500, metadata={"a": "b"})] * 3,
            *(responses(model="tutor", instructions="Briefly."), responses(store=False)),
            *(responses(previous_response_id="resp_" + "0" * 32), responses(max_output_tokens=20)),
        ]
    ),
    stream=st.sampled_from([None, False, True]),
)


async def lose(twin: Twin, lost: bool) -> None:
    twin.lose(lost=lost)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    lives([*[("/v1/responses", KEPT)] * 3, ("/v1/messages", BODIES)], EVENTS | happens(lose, True, False)),
)
def test_nobody_can_tell_what_was_recalled_with_a_word_of_redis(shared: Shared, steps: list[Any]) -> None:
    shared.live(steps)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("client", list(CLIENTS))
def test_responses_that_are_kept_are_recalled(shared: Shared, client: str, stream: bool) -> None:
    def sent(number: int) -> bytes:
        return usual(client, asked(responses(), stream=stream), "/v1/responses", number)

    several = sent(4) + sent(5)
    parts = [several[:-40], several[-40:-20], several[-20:]]
    recalled = shared.live([[sent(1)], [sent(2)], [sent(3)], parts, [sent(6) + sent(7)]])
    # A stream is not known before it was stored, a header as one that differs not before it did.
    assert recalled == 6 - stream - (client == "behind a proxy")


async def _had_later(twin: Twin, id_: str) -> list[Any]:
    found = []
    for path in (f"/v1/responses/{id_}", f"/v1/responses/{id_}/input_items"):
        lines = [f"GET {path} HTTP/1.1", "Host: dub5.example", "Authorization: Bearer one", "", ""]
        written = await twin.ask("\r\n".join(lines).encode())
        found.append(json.loads(written.partition(b"\r\n\r\n")[2]))
    return found


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_was_recalled_is_had_later_as_it_was_sent(shared: Shared, stream: bool) -> None:
    async def stored(twin: Twin) -> None:
        twin.begin()
        await twin.connected()
        await twin.ask(usual("curl", asked(responses(metadata={"a": "b"})), "/v1/responses", 0))

    async def had(twin: Twin) -> None:
        twin.begin()
        await twin.connected()
        for number in (1, 2, 3):
            body = asked(responses(metadata={"a": "b"}), stream=stream)
            written = await twin.ask(usual("curl", body, "/v1/responses", number))
            # Of a stream the last event has the Response.
            lines = written.partition(b"\r\n\r\n")[2].strip().splitlines()
            said = json.loads(lines[-1].removeprefix(b"data: "))
            response = said["response"] if stream else said
            assert response["store"]
            found, items = await _had_later(twin, response["id"])
            assert found == response
            assert [item["content"] for item in items["data"]] == [[{"type": "input_text", "text": "hi"}]]

    if stream:  # what was streamed is known only once it was stored
        for twin in shared.twins:
            shared.run(stored(twin))
    before = shared.twins[0].recalled
    for twin in shared.twins:
        shared.run(had(twin))
    assert shared.twins[0].recalled == before + 2


@pytest.mark.parametrize(
    "befalls",
    [
        GuardedProtocol.shutdown,
        GuardedProtocol.evict,
        lambda protocol: protocol.refuse(RequestTimeout(30), "slow_request"),
        lambda protocol: protocol.data_received(b"no request\r\n\r\n"),
        GuardedProtocol.cut,
    ],
    ids=["shutdown", "evict", "refuse", "malformed", "cut"],
)
def test_what_waits_for_redis_is_under_way(shared: Shared, befalls: Befalls) -> None:
    first, second = (usual("curl", asked(responses()), "/v1/responses", number) for number in (1, 2))
    before = shared.twins[0].recalled
    one, other = [
        shared.run(_while_redis_is_asked(*each, [first], [second, befalls]))
        for each in zip(shared.twins, shared.servers, strict=True)
    ]
    assert one == other
    assert shared.twins[0].recalled == before + 1


async def _while_redis_is_asked(
    twin: Twin, server: RedisServer, first: list[bytes], reads: list[bytes | Befalls]
) -> Seen:
    """What is seen of the second reads, all of which come before Redis answers; the first make them known."""
    twin.begin()
    await twin.connected()
    await purge(twin, ("all",))
    await twin.ask(*first)
    server.pause()
    return await seen(twin, [*reads, lambda _: server.resume()], waits=False)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_only_redis_has_is_recalled(shared: Shared, stream: bool) -> None:
    for path, body in ASKED.values():
        if "prompt" in body:
            continue  # text completions
        sent = [usual("curl", asked(body, stream=stream), path, 1)]
        assert shared.live([sent, sent, (forget, None), sent, (forget, None), sent * 2]) >= 3
    kept = [usual("curl", asked(responses(), stream=stream), "/v1/responses", 1)]
    assert shared.live([kept, kept, (forget, None), kept, (purge, ("all",)), kept]) >= 1


PLENTY = pytest.mark.parametrize(
    "plenty", [1e9, 2.0], ids=["asked of Redis each time", "granted at once down to 2"]
)


@PLENTY
def test_requests_of_a_tenant_with_limits_are_recalled_as_far_as_these_go(
    shared: Shared, plenty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dub5.admission.limits._PLENTY", plenty)
    monkeypatch.setattr("dub5.admission.limits._GOOD", 1e9)  # however slow this machine is
    sent = [usual("curl", asked(message()), "/v1/messages", 1, "other")]
    kept = [usual("curl", asked(responses()), "/v1/responses", 1, "other")]
    assert shared.live([sent, sent, sent, sent * 2, sent, sent]) == 4
    assert shared.twins[0].app._limiter._told["globex"].given == (0 if plenty > 2 else 3)
    assert shared.live([kept, kept, kept, (forget, None), kept]) == 2
    monkeypatch.setattr("dub5.admission.limits._PLENTY", 1e9)
    assert shared.live([sent, sent, (lose, True), sent, (lose, False), sent]) == 2


@PLENTY
def test_what_is_asked_at_once_of_a_limit_is_granted_as_one_by_one(
    shared: Shared, plenty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dub5.admission.limits._PLENTY", plenty)
    sent = usual("curl", asked(message()), "/v1/messages", 1, "other")

    async def live(twin: Twin, server: RedisServer) -> None:
        twin.begin()
        await twin.connected()
        await server.client.delete(limit_key("globex"))
        twin.app._limiter._told.clear()
        await twin.ask(sent)
        written = await asyncio.gather(*[twin.ask(sent) for _ in range(7)])
        left = [re.search(rb"remaining-requests: (\d+)", one) for one in written]
        assert [found and int(found[1]) for found in left] == [3, 2, 1, 0, 0, 0, 0]
        assert [one[9:12] for one in written] == [b"200"] * 4 + [b"429"] * 3

    for each in zip(shared.twins, shared.servers, strict=True):
        shared.run(live(*each))


def test_what_is_purged_while_a_limit_is_asked_is_not_given() -> None:
    sent = usual("curl", asked(message()), "/v1/messages", 1, "other")

    def meanwhile(_: object) -> None:
        purges = twin.app._store._purges
        purges._raise([purges._hash("all")], purges._highest + 1)

    async def live(*befalls: Befalls) -> int:
        await server.client.delete(limit_key("globex"))
        before = twin.recalled
        await _while_redis_is_asked(twin, server, [sent], [sent, *befalls])
        return twin.recalled - before

    with started() as alone:  # only one of them is asked
        twin, server = alone.twins[0], alone.servers[0]
        assert [alone.run(live()), alone.run(live(meanwhile))] == [1, 0]


def test_what_redis_does_not_keep_is_said_not_to_be(shared: Shared) -> None:
    sent = [usual("curl", asked(responses()), "/v1/responses", 1)]

    async def keeps_nothing(twin: Twin, most: int) -> None:
        twin.app._responses._most = most

    steps = [sent, sent, (keeps_nothing, 0), sent, (keeps_nothing, 2**20), sent]
    assert shared.live(steps) == 2


def test_what_waits_for_redis_is_recalled_again_when_it_is_connected_again(shared: Shared) -> None:
    kept = [usual("curl", asked(responses()), "/v1/responses", 1)]

    async def cut(twin: Twin) -> None:
        twin.app._redis._pipelining.close()  # type: ignore[union-attr]

    for twin in shared.twins:
        shared.run(cut(twin))
    assert shared.live([kept, kept, kept]) == 2


def test_what_was_not_there_a_moment_ago_and_is_stored_since_is_found(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dub5.cache.store._MOMENT", 60.0)
    sent = [usual("curl", asked(message()), "/v1/messages", 1)]
    assert shared.live([sent, sent, (purge, ("all",)), sent, (forget, None), sent]) == 2


def test_calls_that_are_under_way_together_take_no_longer() -> None:
    ticking = Ticking()

    async def call() -> float:
        began = ticking.perf_counter()
        await asyncio.sleep(0)
        return ticking.perf_counter() - began

    async def together() -> list[float]:
        return list(await asyncio.gather(call(), call()))

    assert asyncio.run(together()) == [1.0, 1.0]


def test_a_key_that_is_of_another_tenant_by_the_time_redis_has_answered_asks_for_that_one() -> None:
    first, second, others = (
        usual("curl", asked(message(text)), "/v1/messages", 1, key)
        for text, key in (("hi", "one"), ("ho", "one"), ("ho", "other"))
    )

    def moved(_: object) -> None:
        twin.app._keys._callers = twin.app._keys._lookup_table(keys_file(tenant="globex"))

    async def live() -> bytes:
        await twin.connected()
        await _while_redis_is_asked(twin, server, [first], [second, moved])
        return await twin.ask(others)

    with started() as alone:  # only one of them is asked
        twin, server = alone.twins[0], alone.servers[0]
        assert b"cache-status: dub5; hit" in alone.run(live()).lower()


async def fill(twin: Twin, full: bool) -> None:
    """All memory for large requests is taken."""
    arrivals = twin.app.arrivals
    size = arrivals.budget if full else -arrivals.budget
    arrivals._take(size, size)
