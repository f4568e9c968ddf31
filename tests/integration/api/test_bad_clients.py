"""Clients that speak TCP and mean it badly, or just do it badly: nobody else notices, and they are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dub5.server import protocol as http_protocol
from testkit.http_server import HANG, stream
from testkit.openai_server import DONE, FakeOpenAI, chunk, frame, frames, say
from tests.harness import Running, later, openai_provider, running

BODY = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'
STREAM = BODY[:-1] + b',"stream":true}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
IMPATIENT = {"read_timeout": "300ms", "write_timeout": "300ms"}
TIMEOUT = 60


def post(body: bytes = BODY, *headers: bytes) -> bytes:
    """A chat request with its length."""
    lines = b"".join(header + b"\r\n" for header in (*headers, b"content-length: %d" % len(body)))
    return HEAD + lines + b"\r\n" + body


def chunked(*headers: bytes, body: bytes = CHUNKED) -> bytes:
    lines = b"".join(header + b"\r\n" for header in (*headers, b"transfer-encoding: chunked"))
    return HEAD + lines + b"\r\n" + body


class Answer:
    """One response as it came."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def code(self) -> Any:
        error = json.loads(self.body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return error["code"]


class Client:
    """A socket, and the responses on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> Answer | None:
        """The next response, with its body; None where the connection closed before it."""
        async with asyncio.timeout(TIMEOUT):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as end:
                if end.partial:
                    raise
                return None
            status, *lines = head.decode().split("\r\n")[:-2]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            if status.split()[1] == "100":
                body = b""
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = await self.reader.readuntil(b"0\r\n\r\n")
            return Answer(int(status.split()[1]), headers, body)

    async def answers(self) -> list[Answer]:
        """All of them, until the server closes the connection."""
        found = []
        while (answer := await self.answer()) is not None:
            found.append(answer)
        return found

    async def until(self, wanted: bytes) -> None:
        """Read up to and with `wanted`, or somewhat more."""
        seen = b""
        async with asyncio.timeout(TIMEOUT):
            while wanted not in seen:
                part = await self.reader.read(2**20)
                assert part, seen
                seen = seen[-len(wanted) :] + part

    async def rest_of_stream(self) -> bytes:
        """The rest of a chunked body, without what is between its chunks."""
        seen = b""
        async with asyncio.timeout(TIMEOUT):
            while not seen.endswith(b"\r\n0\r\n\r\n"):
                part = await self.reader.read(2**20)
                assert part, seen[-100:]
                seen += part
        return re.sub(rb"\r\n(?:[0-9a-f]+\r\n|\Z)", b"", seen)

    async def closed(self) -> bytes:
        """What else came before the connection was closed or reset."""
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def connected(server: Running, *, limit: int = 2**20) -> AsyncIterator[Client]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=limit)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def eventually(server: Running, metric: str, value: float, **labels: str) -> None:
    async with asyncio.timeout(TIMEOUT):
        while await server.metric(metric, **labels) != value:  # noqa: ASYNC110  # a metric has no event
            await asyncio.sleep(0.01)


async def refused(server: Running, reason: str) -> float:
    return await server.metric("dub5_connections_refused_total", reason=reason)


AMBIGUOUS = {
    "two lengths": post(BODY, b"content-length: 5"),
    "the same length twice": post(BODY, b"content-length: %d" % len(BODY)),
    "a list of lengths": HEAD + b"content-length: %d, %d\r\n\r\n" % (len(BODY), len(BODY)) + BODY,
    "a length and chunks": chunked(b"content-length: 5"),
    "a signed length": HEAD + b"content-length: +%d\r\n\r\n" % len(BODY) + BODY,
    "a negative length": HEAD + b"content-length: -1\r\n\r\n" + BODY,
    "a hexadecimal length": HEAD + b"content-length: 0x3e\r\n\r\n" + BODY,
    "a length that is none": HEAD + b"content-length: \r\n\r\n" + BODY,
    "a length in two words": HEAD + b"content-length: 6 2\r\n\r\n" + BODY,
    "a length of 30 digits": HEAD + b"content-length: " + b"9" * 30 + b"\r\n\r\n" + BODY,
    "xchunked": HEAD + b"transfer-encoding: xchunked\r\n\r\n" + CHUNKED,
    "xchunked with a length": post(BODY, b"transfer-encoding: xchunked"),
    "chunked twice": chunked(b"transfer-encoding: chunked"),
    "chunked twice in a line": HEAD + b"transfer-encoding: chunked, chunked\r\n\r\n" + CHUNKED,
    "compressed, then chunked": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "chunked, then identity": HEAD + b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "identity with a length": post(BODY, b"transfer-encoding: identity"),
    "chunked in quotes": HEAD + b'transfer-encoding: "chunked"\r\n\r\n' + CHUNKED,
    "a vertical tab before chunked": HEAD + b"transfer-encoding:\x0bchunked\r\n\r\n" + CHUNKED,
    "chunks in HTTP/1.0": chunked().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a folded header": post(BODY, b"x-a: b\r\n c"),
    "a folded length": HEAD + b"content-length:\r\n %d\r\n\r\n" % len(BODY) + BODY,
    "a folded encoding": HEAD + b"transfer-encoding:\r\n chunked\r\n\r\n" + CHUNKED,
    "line feeds alone": GET.replace(b"\r\n", b"\n"),
    "one line feed alone": post(BODY, b"x-a: b\nx-c: d"),
    "one carriage return alone": post(BODY, b"x-a: b\rx-c: d"),
    "a line feed alone at the end": GET[:-2] + b"\n",
    "white space before the colon": HEAD + b"content-length : %d\r\n\r\n" % len(BODY) + BODY,
    "the same with an encoding": HEAD + b"transfer-encoding : chunked\r\n\r\n" + CHUNKED,
    "a header without a name": post(BODY, b": b"),
    "a header without a colon": post(BODY, b"x-a"),
    "NUL in a header": post(BODY, b"x-a: b\x00c"),
    "a chunk size that is none": chunked(body=CHUNKED.replace(b"\r\n", b"z\r\n", 1)),
    "a negative chunk size": chunked(body=b"-1\r\n" + BODY),
    "a chunk size with 0x": chunked(body=b"0x" + CHUNKED),
    "a chunk size with a space": chunked(body=CHUNKED.replace(b"\r\n", b" \r\n", 1)),
    "a chunk size beyond 64 bits": chunked(body=b"f" * 17 + b"\r\n" + BODY),
    "a chunk size ended by a line feed": chunked(body=CHUNKED.replace(b"\r\n", b"\n", 1)),
    "a chunk longer than it says": chunked(body=CHUNKED.replace(b"\r\n0\r\n", b"0\r\n")),
    "a line feed in a chunk extension": chunked(body=CHUNKED.replace(b"\r\n", b";a=b\n", 1)),
    "a length in the trailer": chunked(body=CHUNKED[:-2] + b"content-length: 9\r\n\r\n"),
    "no host": GET.replace(b"host: localhost\r\n", b""),
    "two hosts": GET.replace(b"host: localhost\r\n", b"host: localhost\r\nhost: y\r\n"),
    "no name of a host": GET.replace(b"localhost", b""),
    "a host that is none": GET.replace(b"localhost", b"a b/c@d"),
    "a host with a user": GET.replace(b"localhost", b"me@localhost"),
    "two hosts in one": GET.replace(b"localhost", b"localhost, evil.example"),
    "a port that is none": GET.replace(b"localhost", b"localhost:x"),
    "another host in the target": GET.replace(b"/v1", b"http://evil.example/v1"),
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/2 by assertion": GET.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("160301020001000001fc0303"),
    "a tunnel": b"CONNECT x:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a space in the path": GET.replace(b"models", b"mod els"),
    "a target that is no URL": GET.replace(b"/v1/models", b"http://[::1"),
}


def defects(server: Running) -> list[Any]:
    return [line for line in server.logs if line["log_level"] in {"error", "critical"}]


async def test_what_can_be_read_in_two_ways_is_refused_once_and_the_connection_closed(
    server: Running, fake: FakeOpenAI
) -> None:
    for name, request in AMBIGUOUS.items():
        async with connected(server) as client:
            client.send(request + GET)
            answers = await client.answers()
        assert [answer.status for answer in answers] == [400], name
        assert answers[0].code == "invalid_request_error"
        assert answers[0].headers["connection"] == "close"
        assert answers[0].headers["x-request-id"]
    assert await refused(server, "malformed") == len(AMBIGUOUS)
    assert fake.calls == []
    assert defects(server) == []


FINE = {
    "a length": post(),
    "chunks": chunked(),
    "chunks, shouted": HEAD + b"Transfer-Encoding: CHUNKED\r\n\r\n" + CHUNKED,
    "a chunk extension": chunked(body=CHUNKED.replace(b"\r\n", b";a=b\r\n", 1)),
    "a wish for HTTP/2": post(
        BODY, b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: x"
    ),
    "a wish for HTTP/2, in chunks": chunked(b"connection: upgrade", b"upgrade: h2c"),
    "a whole URL": post().replace(b"/v1", b"http://localhost/v1"),
    "line ends first": b"\r\n" * 100 + post(),
}


@pytest.mark.parametrize("size", [1, 7, 10**6])
async def test_what_is_odd_but_clear_is_answered_however_it_arrives(
    server: Running, fake: FakeOpenAI, size: int
) -> None:
    fake.reply = say("Hello")
    for name, request in FINE.items():
        async with connected(server) as client:
            for position in range(0, len(request), size):
                client.send(request[position : position + size])
                await asyncio.sleep(0)
            client.send(GET)
            first, second = await client.answer(), await client.answer()
        assert first is not None, name
        assert second is not None, name
        assert (first.status, second.status) == (200, 200), name
        assert b"Hello" in first.body
        assert b'"object":"list"' in second.body


async def test_each_request_of_a_connection_has_to_name_its_host(server: Running) -> None:
    async with connected(server) as client:
        client.send(GET + GET.replace(b"localhost", b"evil.example") + GET)
        statuses = [answer.status for answer in await client.answers()]
    assert statuses == [200, 421]


async def test_a_trailer_does_not_pass_for_a_header(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = say("Hello")
    async with connected(server) as client:
        client.send(chunked(body=CHUNKED[:-2] + b"x-request-id: from-the-trailer\r\n\r\n"))
        answer = await client.answer()
    assert answer is not None
    assert answer.status == 200
    assert answer.headers["x-request-id"] != "from-the-trailer"


LARGE = {
    "one large header": GET[:-2] + b"x-a: " + b"a" * 2**20 + b"\r\n\r\n",
    "a header that never ends": GET[:-2] + b"x-a: " + b"a" * 2**17,
    "a large target": b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "many headers": GET[:-2] + b"a: b\r\n" * 101 + b"\r\n",
    "line ends without end": b"\r\n" * 2**16,
    "a chunk extension without end": chunked(body=b"1;" + b"a" * 2**17),
    "trailers without end": chunked(body=CHUNKED[:-2] + b"a: " + b"b" * 2**17),
}


async def test_what_goes_with_a_body_is_bounded(server: Running) -> None:
    for name, request in LARGE.items():
        async with connected(server) as client:
            client.send(request)
            answers = await client.answers()
        assert [(answer.status, answer.code) for answer in answers] == [(431, "headers_too_large")], name
    assert await refused(server, "head_too_large") == len(LARGE)


async def test_a_head_of_60_kib_and_99_headers_are_not_too_large(server: Running) -> None:
    for more in (b"x-a: " + b"a" * 60 * 1024 + b"\r\n", b"a: b\r\n" * 98):
        async with connected(server) as client:
            client.send(GET[:-2] + more + b"\r\n")
            answer = await client.answer()
        assert answer is not None
        assert answer.status == 200


@pytest.mark.parametrize(
    "beginning",
    [
        GET[:9],
        GET[:-2],
        post()[:-10],
        chunked()[:-10],
        HEAD + b"expect: 100-continue\r\ncontent-length: 9\r\n\r\n",
    ],
    ids=["half a line", "half a head", "half a body", "half the chunks", "no body after 100-continue"],
)
async def test_a_request_that_does_not_arrive_is_told_so(fake: FakeOpenAI, beginning: bytes) -> None:
    async with running({**openai_provider(fake.base_url), "server": IMPATIENT}) as server:
        async with connected(server) as client:
            client.send(beginning)
            *_, answer = await client.answers()
        assert (answer.status, answer.code) == (408, "request_timeout")
        assert await refused(server, "slow_request") == 1
        assert fake.calls == []
        assert defects(server) == []


@pytest.mark.parametrize("request_", [GET[:-2] + b"x-a: " + b"a" * 1000, post(BODY[:-2] + b" " * 1000)])
async def test_a_byte_now_and_then_does_not_keep_a_request_alive(fake: FakeOpenAI, request_: bytes) -> None:
    async with running({**openai_provider(fake.base_url), "server": IMPATIENT}) as server:
        async with connected(server) as client:

            async def drip() -> None:
                for position in range(len(request_)):
                    client.send(request_[position : position + 1])
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            [answer] = await client.answers()
            dripping.cancel()
        assert answer.code == "request_timeout"


async def test_on_another_route_a_body_that_does_not_arrive_is_told_too(fake: FakeOpenAI) -> None:
    async with running({**openai_provider(fake.base_url), "server": IMPATIENT}) as server:
        async with connected(server) as client:
            client.send(post(b"{}").replace(b"/v1/chat/completions", b"/v1/cache/invalidations")[:-1])
            [answer] = await client.answers()
        assert answer.code == "request_timeout"
        assert defects(server) == []


async def test_a_body_whose_answer_is_out_is_not_waited_for_either(fake: FakeOpenAI) -> None:
    async with running({**openai_provider(fake.base_url), "server": IMPATIENT}) as server:
        async with connected(server) as client:
            client.send(post().replace(b"application/json", b"text/plain")[:-10])
            [answer] = await client.answers()
        assert answer.status == 400
        assert await refused(server, "slow_request") == 1


async def test_a_body_whose_answer_is_out_is_thrown_away_up_to_a_limit(server: Running) -> None:
    async with connected(server) as client:
        client.send(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999999999999\r\n\r\n")
        answer = await client.answer()
        assert answer is not None
        assert answer.status == 200
        with contextlib.suppress(ConnectionError):
            while not client.reader.at_eof():
                client.send(b"x" * 2**20)
                await client.writer.drain()
                await asyncio.sleep(0)
        assert await client.closed() == b""


async def test_a_silent_stream_is_not_cut_by_the_limits_on_its_client(fake: FakeOpenAI) -> None:
    go_on = asyncio.Event()
    parts = frames("Hel", "lo")
    fake.reply = stream([*parts[:2], go_on, *parts[2:]])
    async with (
        running({**openai_provider(fake.base_url), "server": IMPATIENT}) as server,
        connected(server) as client,
        connected(server) as slow,
    ):
        client.send(post(STREAM))
        await client.until(b"Hel")
        slow.send(GET[:9])
        await slow.answers()  # the limit that ended this one has passed for the stream, too
        go_on.set()
        await client.until(b"[DONE]")


async def test_requests_sent_ahead_are_answered_in_order_and_each_once(server: Running) -> None:
    """A thousand request ids on the way, which leave no series behind."""
    await server.client.get("/v1/models")
    before = await series(server)
    async with connected(server) as client:
        client.send(
            b"".join(GET[:-2] + b"x-request-id: number-%d\r\n\r\n" % number for number in range(1000))
        )
        for number in range(1000):
            answer = await client.answer()
            assert answer is not None
            assert (answer.status, answer.headers["x-request-id"]) == (200, f"number-{number}")
    assert await server.metric("dub5_http_requests_total", route="/v1/models") == 1001
    assert await series(server) == before


def queued(server: Running) -> int:
    """Requests that are parsed and wait, and bytes that are not parsed, over all connections."""
    state = server.replica._public.server_state
    return sum(len(each.pipeline) + len(each._unparsed) for each in state.connections)  # type: ignore[union-attr,misc]


async def test_what_is_sent_ahead_by_a_client_that_reads_nothing_is_bounded(
    server: Running, fake: FakeOpenAI
) -> None:
    go_on = asyncio.Event()
    fake.reply = stream([go_on, *frames("Hello")])
    async with connected(server) as client:
        client.send(post(STREAM))
        await fake.wait_called()
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 2**26:  # more than the kernels hold
                client.send(GET * 1000)
                sent += 1000 * len(GET)
                async with asyncio.timeout(0.5):
                    await client.writer.drain()
        assert sent < 2**26
        assert queued(server) < 400_000
        go_on.set()
        await client.until(b"[DONE]")
        client.writer.transport.abort()  # closing would send the rest first
    await eventually(server, "dub5_open_connections", 0)


async def test_a_client_that_leaves_is_noticed_though_it_has_sent_more(
    server: Running, fake: FakeOpenAI
) -> None:
    fake.reply = stream([HANG])
    async with connected(server) as client:
        client.send(post(STREAM))
        await fake.wait_called()
        client.send(GET * 1000)
        async with asyncio.timeout(TIMEOUT):
            while not queued(server):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await fake.wait_cancelled()
    await eventually(server, "dub5_http_requests_total", 1, outcome="client_disconnect")


async def test_bad_bytes_after_good_requests_are_refused_after_their_answers(
    server: Running, fake: FakeOpenAI
) -> None:
    fake.reply = say("Hello")
    async with connected(server) as client:
        client.send(post() + GET + post() + b"\x00\r\n\r\n" + GET)
        answers = await client.answers()
    assert [answer.status for answer in answers] == [200, 200, 200, 400]
    async with connected(server) as client:
        client.send(post() + GET + chunked(body=b"zz\r\n"))
        answers = await client.answers()
    assert [answer.status for answer in answers] == [200, 200, 400]
    assert defects(server) == []


async def test_nothing_is_read_after_a_close(server: Running) -> None:
    async with connected(server) as client:
        client.send(GET[:-2] + b"connection: close\r\n\r\n" + GET)
        assert len(await client.answers()) == 1


async def test_a_client_that_does_not_read_its_stream_is_cut_off_and_the_provider_with_it(
    fake: FakeOpenAI,
) -> None:
    fake.reply = stream([frame(chunk({"content": "x" * 100_000})) for _ in range(200)] + [HANG])
    async with (
        running({**openai_provider(fake.base_url), "server": IMPATIENT}) as server,
        connected(server, limit=1024) as client,
    ):
        client.send(post(STREAM))
        await eventually(server, "dub5_connections_refused_total", 1, reason="slow_reader")
        await fake.wait_cancelled()
        await eventually(server, "dub5_http_requests_total", 1, outcome="client_disconnect")
        await eventually(server, "dub5_inflight_requests", 0)


@pytest.mark.parametrize("last", [b"", b"connection: close\r\n"], ids=["kept alive", "closing"])
async def test_a_client_that_does_not_read_a_whole_answer_is_cut_off(fake: FakeOpenAI, last: bytes) -> None:
    fake.reply = say("x" * 10 * 2**20)
    async with (
        running({**openai_provider(fake.base_url), "server": IMPATIENT}) as server,
        connected(server, limit=1024) as client,
    ):
        client.send(post().replace(b"host: localhost\r\n", b"host: localhost\r\n" + last))
        await eventually(server, "dub5_connections_refused_total", 1, reason="slow_reader")
        await eventually(server, "dub5_open_connections", 0)


async def test_a_client_that_reads_slowly_but_surely_gets_its_answer(fake: FakeOpenAI) -> None:
    text = "x" * 8 * 2**20
    fake.reply = say(text)
    async with running({**openai_provider(fake.base_url), "server": IMPATIENT}) as server:
        async with connected(server, limit=2**16) as client:
            client.send(post())
            received = 0
            while received < len(text):
                received += len(await client.reader.read(2**18))
                await asyncio.sleep(0.1)
        assert await refused(server, "slow_reader") == 0


async def test_a_client_of_the_old_protocol_gets_a_stream_without_chunks(
    server: Running, fake: FakeOpenAI
) -> None:
    fake.reply = say("Hello there")
    for cached in (False, True):
        async with connected(server) as client, asyncio.timeout(TIMEOUT):
            client.send(post(STREAM).replace(b"HTTP/1.1", b"HTTP/1.0"))
            head, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        assert (b"dub5; hit" in head) is cached
        *events, end = body.split(b"\n\n")
        assert all(event.startswith(b"data: ") for event in events)
        assert (events[-1], end) == (b"data: [DONE]", b"")
    assert not defects(server)


async def test_a_slow_reader_slows_nobody_else(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = stream([frame(chunk({"content": "x" * 100_000})) for _ in range(200)] + frames("end"))
    async with connected(server, limit=1024) as slow, connected(server) as quick:
        slow.send(post(STREAM))
        await fake.wait_called()
        quick.send(post(STREAM))  # the same question: the same flight
        await quick.until(b"[DONE]")
    assert len(fake.calls) == 1


async def test_those_who_follow_one_flight_get_the_same_whatever_their_pace_and_who_leaves(
    server: Running, fake: FakeOpenAI
) -> None:
    begins, goes_on = asyncio.Event(), asyncio.Event()
    first, *others = frames(*(f"{number}." + "x" * 50_000 for number in range(300)))
    fake.reply = stream([first, begins, *others[:100], goes_on, *others[100:]])
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server, limit=2**16)) for _ in range(6)]
        for client in clients:
            client.send(post(STREAM))
        await server.followed(6)
        begins.set()
        leaves, slow, *quick = clients
        await asyncio.gather(*(client.until(b"99.xxx") for client in (leaves, *quick)))
        leaves.writer.transport.abort()
        await eventually(server, "dub5_flight_followers", 5)
        await eventually(server, "dub5_flight_followers", 5)
        goes_on.set()
        bodies = await asyncio.gather(*(client.rest_of_stream() for client in quick))
        bodies.append(await slow.rest_of_stream())  # only now
    assert bodies[0].endswith(DONE)
    assert len({body.split(b"100.xxx", 1)[1] for body in bodies}) == 1
    assert len(fake.calls) == 1


async def test_idle_connections_make_room_for_new_ones(fake: FakeOpenAI) -> None:
    async with running({**openai_provider(fake.base_url), "server": {"max_connections": 50}}) as server:
        async with contextlib.AsyncExitStack() as stack:
            idle = []
            for _ in range(4):
                idle += [await stack.enter_async_context(connected(server)) for _ in range(50)]
                await server.becomes("dub5_open_connections", 50)
                await later(3)
            assert (await server.client.get("/v1/models")).status_code == 200
            assert await idle[0].closed() == b""
            idle[-1].send(GET)
            answer = await idle[-1].answer()
            assert answer is not None
            assert answer.status == 200
        assert await refused(server, "too_many") >= 150


async def test_a_crowd_that_comes_at_once_is_served_or_told(
    fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who has just come is closed for the next one before he has read why."""
    for name in ("_FRESH", "_SHORT_LINGER", "_LINGER"):
        monkeypatch.setattr(http_protocol, name, TIMEOUT)
    async with running({**openai_provider(fake.base_url), "server": {"max_connections": 8}}) as server:

        async def visit() -> int | None:
            async with connected(server) as client:
                client.send(GET)
                answer = await client.answer()
                return answer.status if answer is not None else None

        statuses = Counter(await asyncio.gather(*(visit() for _ in range(100))))
        assert set(statuses) <= {200, 503}
        assert statuses[200] >= 8
        assert (await server.client.get("/v1/models")).status_code == 200


async def test_a_connection_without_a_request_is_kept_as_long_as_the_settings_say(fake: FakeOpenAI) -> None:
    short, usual = (
        {**openai_provider(fake.base_url), "server": {"keep_alive": each}} for each in ("100ms", "1h")
    )
    async with running(usual) as patient, connected(patient) as kept:
        kept.send(GET)
        assert await kept.answer() is not None
        async with running(short) as impatient, connected(impatient) as dropped:
            dropped.send(GET)
            assert await dropped.answer() is not None
            assert await dropped.closed() == b""
        kept.send(GET)
        assert await kept.answer() is not None


async def test_half_requests_make_room_where_nobody_is_idle(fake: FakeOpenAI) -> None:
    async with (
        running({**openai_provider(fake.base_url), "server": {"max_connections": 5}}) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        slow = [await stack.enter_async_context(connected(server)) for _ in range(5)]
        for client in slow:
            client.send(GET[:9])
        await all_sending(server, 5)
        assert (await server.client.get("/v1/models")).status_code == 200
        [answer] = await slow[0].answers()
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "overloaded", "1")


async def all_sending(server: Running, count: int) -> None:
    async with asyncio.timeout(TIMEOUT):
        while len(server.replica._public.server_state.sending) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_requests_under_way_are_never_closed_for_new_ones(fake: FakeOpenAI) -> None:
    fake.reply = stream([HANG])
    async with (
        running({**openai_provider(fake.base_url), "server": {"max_connections": 2}}) as server,
        connected(server) as one,
        connected(server) as two,
    ):
        for client, text in ((one, b"a"), (two, b"b")):
            client.send(post(STREAM.replace(b"hi", text)))
            await fake.wait_called()
        async with connected(server) as three:
            [answer] = await three.answers()
        assert (answer.status, answer.code) == (503, "overloaded")
        assert fake.open_calls == 2


async def test_a_compressed_bomb_is_refused_before_it_is_read(server: Running) -> None:
    async with connected(server) as client:
        client.send(HEAD + b"content-encoding: gzip\r\ncontent-length: 999999\r\n\r\n")
        answer = await client.answer()
    assert answer is not None
    assert (answer.status, json.loads(answer.body)["error"]["param"]) == (400, "Content-Encoding")


async def series(server: Running) -> int:
    found = server.replica.application.metrics.registry.collect()
    return sum(len(list(family.samples)) for family in found)


@pytest.mark.parametrize("keys", [None, {"env": "KEYS"}], ids=["no keys", "unknown keys"])
async def test_what_callers_make_up_makes_no_series(fake: FakeOpenAI, keys: dict[str, str] | None) -> None:
    """Models, routes, methods, tags, keys, users, trace and request ids."""
    chance = random.Random(4)
    config = openai_provider(fake.base_url) | {"auth": {"keys": keys}}
    known = {"KEYS": f"{'a' * 64}: {{tenant: acme}}"}

    async def ask(server: Running) -> None:
        name = f"made-up-{chance.random()}"
        body = {"model": name, "messages": [{"role": "user", "content": name}], "user": name}
        headers = {
            "x-request-id": name,
            "authorization": f"Bearer {name}",
            "x-dub5-cache-tags": name,
            "traceparent": f"00-{chance.getrandbits(127) + 1:032x}-{chance.getrandbits(63) + 1:016x}-01",
        }
        method = chance.choice(["PROPFIND", "LOCK", "SEARCH", "PURGE", "M-SEARCH"])
        unknown = await server.client.post("/v1/chat/completions", json=body, headers=headers)
        assert unknown.status_code == (401 if keys else 404)
        assert (await server.client.get(f"/{name}", headers=headers)).status_code == 404
        await server.client.get(f"/v1/models/{name}", headers=headers)
        assert (await server.client.request(method, "/v1/models", headers=headers)).status_code == 405
        await server.chat(headers={"x-dub5-cache-tags": name})

    async with running(config, known) as server:
        for _ in range(5):
            await ask(server)
        before = await series(server)
        for _ in range(2):
            await asyncio.gather(*(ask(server) for _ in range(20)))
        assert await series(server) == before
        exposed = (await server.replica.application.metrics.exposition(""))[0].decode()
    assert not re.search(r"made-up|PROPFIND|SEARCH", exposed)
