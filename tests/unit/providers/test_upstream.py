"""What comes over a connection to a provider, however it is framed and cut, and what becomes of the connection."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
import zlib
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from dub5.providers.upstream import (
    Closed,
    NotHttp,
    Response,
    Undecodable,
    Unreachable,
    Upstream,
    UpstreamError,
)
from tests.harness import later


class Pool:
    """Notes what is given back."""

    def __init__(self) -> None:
        self.back: list[Response] = []

    def put_back(self, response: Response, _: asyncio.Transport) -> None:
        self.back.append(response)

    def forget(self, response: Response) -> None:
        """Nothing is kept."""


class Wire(asyncio.Transport):
    """Takes what is written; `full` takes nothing more."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response
        self.written = b""
        self.closing = False
        self.full = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += bytes(data)
        if self.full:
            self.response.pause_writing()

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 1 if self.full else 0

    def abort(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.response.connection_lost, None)


class Call:
    """One call over a connection of its own."""

    def __init__(self) -> None:
        self.pool = Pool()
        self.response = Response(cast("Upstream", self.pool))
        self.wire = Wire(self.response)
        self.response.connection_made(self.wire)

    async def answered(self, reads: list[bytes], *, ends: bool = False, turns: int = 1) -> bytes:
        """The body; between two reads so many turns of the loop pass, and some where there is nothing to read."""
        asking = asyncio.create_task(self._ask())
        await asyncio.sleep(0)
        for received in reads:
            if received and not self.wire.closing:
                self.response.data_received(received)
            for _ in range(turns if received else 3):
                await asyncio.sleep(0)
        if ends:
            self.response.connection_lost(None)
        return await asking

    async def _ask(self) -> bytes:
        parts: list[bytes] = []
        try:
            await self.response.ask(b"head", b"body")
            await self.response.read(parts.append)
        finally:
            self.response.release()
        return b"".join(parts)

    @property
    def kept(self) -> bool:
        return self.pool.back == [self.response]


def framed(body: bytes, framing: str, cuts: list[int], *more: bytes) -> bytes:
    """A response with that body."""
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream", *more]
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        chunks = [part for part in parted(body, cuts) if part]
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*chunks, b""])
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def parted(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


framings = st.sampled_from(["length", "chunked", "to the end"])
cuttings = st.lists(st.integers(0, 10_000), max_size=8)


@given(
    body=st.binary(max_size=300),
    framing=framings,
    chunks=cuttings,
    cuts=cuttings,
    zipped=st.booleans(),
    first_word=st.booleans(),
    turns=st.integers(0, 2),
)
def test_a_body_comes_whole_however_it_was_framed_and_cut(
    body: bytes,
    framing: str,
    chunks: list[int],
    cuts: list[int],
    zipped: bool,
    first_word: bool,
    turns: int,
) -> None:
    sent = framed(gzip.compress(body), framing, chunks, b"Content-Encoding: gzip") if zipped else b""
    sent = sent or framed(body, framing, chunks)
    if first_word:
        sent = b"HTTP/1.1 100 Continue\r\n\r\n" + sent

    async def work() -> None:
        call = Call()
        ends = framing == "to the end"
        assert await call.answered(parted(sent, cuts), ends=ends, turns=turns) == body
        assert (call.response.status, call.response.headers["content-type"]) == (200, "text/event-stream")
        assert call.wire.written == b"headbody"
        assert call.kept is not ends

    asyncio.run(work())


@given(
    chunks=st.lists(
        st.tuples(
            st.sampled_from([b"\r\n", b"1\r\nx\r\n", b"x\r\n", b"0\r\n\r\n", b"x" * 10, b"x" * 0xAB]),
            st.sampled_from([b"%x", b"%x", b"%x", b"%X", b"0%x", b"%x;a=b"]),
            st.sampled_from([0, 0, 0, -2, -1, 1, 2, 3]),
        ),
        max_size=8,
    )
)
def test_a_body_comes_whole_that_is_read_chunk_by_chunk_or_nearly_so(
    chunks: list[tuple[bytes, bytes, int]],
) -> None:
    """A chunk is its bytes, how its size is written, and by how much the read that ends with it ends elsewhere."""
    sent, cuts = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", []
    for part, size, off in chunks:
        cuts.append(len(sent) + off)
        sent += size % len(part) + b"\r\n" + part + b"\r\n"
    cuts.append(len(sent))
    sent += b"0\r\n\r\n"

    async def work() -> None:
        call = Call()
        assert await call.answered(parted(sent, cuts)) == b"".join(part for part, _, _ in chunks)
        assert call.kept

    asyncio.run(work())


@pytest.mark.parametrize("size", [b"+5", b"0x5", b" 5", b"5 5", b"4", b"", b"-5"])
async def test_a_chunk_by_itself_is_read_as_strictly_as_any(size: bytes) -> None:
    call, sent = Call(), framed(b"body", "chunked", []).removesuffix(b"0\r\n\r\n")
    with pytest.raises((NotHttp, Closed)):
        await call.answered([sent, size + b"\r\nxxxxx\r\n", b"0\r\n\r\n"], ends=True)
    assert not call.kept


@given(
    body=st.binary(min_size=1, max_size=100),
    framing=st.sampled_from(["length", "chunked"]),
    cuts=cuttings,
    missing=st.integers(1, 300),
)
def test_a_response_that_breaks_off_is_never_taken_for_a_whole_one(
    body: bytes, framing: str, cuts: list[int], missing: int
) -> None:
    sent = framed(body, framing, cuts)
    sent = sent[: max(0, len(sent) - missing)]

    async def work() -> None:
        call = Call()
        with pytest.raises(Closed):
            await call.answered(parted(sent, cuts), ends=True)
        assert not call.kept

    asyncio.run(work())


@pytest.mark.parametrize(
    "more",
    [b"x", b"1\r\nx\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: y\r\n"],
    ids=["anything", "another chunk", "another response", "a part of one"],
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("turns", [0, 1])
async def test_a_connection_on_which_more_came_is_not_used_again(
    more: bytes, framing: str, together: bool, turns: int
) -> None:
    call, sent = Call(), framed(b"body", framing, [])
    begun, rest = sent[:-5], sent[-5:]
    reads = [begun, b"", rest + more] if together else [begun, b"", rest, more]
    assert await call.answered(reads, turns=turns) == b"body"
    assert call.wire.closing
    assert call.response.status == 200


async def test_what_comes_behind_a_body_is_no_header() -> None:
    call = Call()
    sent = framed(b"body", "chunked", []).removesuffix(b"\r\n") + b"Retry-After: 7\r\n\r\n"
    assert await call.answered([sent]) == b"body"
    assert "retry-after" not in call.response.headers
    assert call.kept


@pytest.mark.parametrize("line", [b"Connection: close", b"Connection: Close"])
async def test_a_connection_that_the_provider_closes_is_not_used_again(line: bytes) -> None:
    call = Call()
    assert await call.answered([framed(b"body", "length", [], line)]) == b"body"
    assert not call.kept


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        framed(b"", "chunked", []).removesuffix(b"0\r\n\r\n") + b"zz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
    ],
)
async def test_what_is_no_response(sent: bytes) -> None:
    call = Call()
    with pytest.raises(NotHttp):
        await call.answered(parted(sent, [*range(0, len(sent), 8192)]))
    assert not call.kept


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (b"0\r\nx: ", b"a" * 1024),
        (b"0\r\n", b"x: a\r\n" * 200),
        (b"5;x=", b"a" * 1024),
        (b"00000", b"0" * 1024),
    ],
    ids=["a trailer", "trailers", "an extension of a chunk", "a chunk's size"],
)
async def test_what_is_no_body_is_bounded_behind_the_head_too(begun: bytes, more: bytes) -> None:
    call = Call()
    sent = framed(b"body", "chunked", []).removesuffix(b"0\r\n\r\n") + begun
    with pytest.raises(NotHttp):
        await call.answered([sent, *[more] * 70], ends=True)
    assert call.wire.closing


def deflated(body: bytes, wbits: int) -> bytes:
    packing = zlib.compressobj(wbits=wbits)
    return packing.compress(body) + packing.flush()


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        (b"gzip, identity", gzip.compress(b"some words")),
        (b"gzip", gzip.compress(b"some ") + gzip.compress(b"words")),
        (b"gzip", gzip.compress(b"some words") + bytes(8)),
        (b"deflate", deflated(b"some words", zlib.MAX_WBITS)),
        (b"deflate", deflated(b"some words", -zlib.MAX_WBITS)),
        (b"deflate", gzip.compress(b"some words")),
    ],
    ids=["identity, too", "two members", "padded", "zlib", "bare", "gzip's head"],
)
async def test_what_is_packed_in_its_own_way_is_unpacked(coding: bytes, packed: bytes) -> None:
    sent = framed(packed, "length", [], b"Content-Encoding: " + coding)
    for cut in range(len(sent) - len(packed), len(sent)):
        assert await Call().answered(parted(sent, [cut])) == b"some words"


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"gzip, gzip"])
async def test_what_cannot_be_unpacked(coding: bytes) -> None:
    with pytest.raises(Undecodable):
        await Call().answered([framed(b"\xff body", "length", [], b"Content-Encoding: " + coding)])


async def test_what_comes_behind_the_end_of_a_compressed_body_is_not_kept() -> None:
    call = Call()
    more = [b"x" * 1024] * 100
    sent = framed(gzip.compress(b"body"), "to the end", [], b"Content-Encoding: gzip")
    assert await call.answered([sent, *more], ends=True) == b"body"
    assert call.response._unpacking is not None
    assert len(call.response._unpacking._member.unused_data) < 1024


async def test_a_connection_that_has_not_taken_the_request_is_not_used_again() -> None:
    call = Call()
    asking = asyncio.create_task(call._ask())
    await asyncio.sleep(0)
    call.wire.full = True
    call.response.data_received(framed(b"no", "length", []))
    assert await asking == b"no"
    assert call.wire.closing
    assert not call.kept


async def test_a_connection_that_is_lost_before_it_is_used_has_begun_nothing() -> None:
    call = Call()
    call.response.connection_lost(None)
    with pytest.raises(Closed) as raised:
        await call.response.ask(b"", b"")
    assert not raised.value.begun


async def test_what_a_reader_raises_is_raised_to_it_and_closes_the_connection() -> None:
    call = Call()

    def refuse(part: bytes) -> None:
        raise ZeroDivisionError(part)

    async def ask() -> None:
        await call.response.ask(b"", b"")
        await call.response.read(refuse)

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    head, _, body = framed(b"body", "length", []).rpartition(b"body")
    call.response.data_received(head)
    for _ in range(3):
        await asyncio.sleep(0)
    call.response.data_received(b"body" + body)
    with pytest.raises(ZeroDivisionError):
        await asking
    assert call.wire.closing


async def test_a_provider_that_answers_before_it_has_read_all_is_not_waited_for() -> None:
    call = Call()
    call.wire.full = True
    asking = asyncio.create_task(call.response.ask(b"", b"x" * 2**20))
    await asyncio.sleep(0)
    call.response.data_received(framed(b"no", "length", []).replace(b"200 OK", b"413 Too Large"))
    await asking
    assert len(call.wire.written) < 2**20
    call.response.release()
    assert not call.kept


async def test_a_provider_that_is_gone_before_it_has_read_all_is_gone() -> None:
    call = Call()
    call.wire.full = True
    asking = asyncio.create_task(call.response.ask(b"", b"x" * 2**20))
    await asyncio.sleep(0)
    call.response.connection_lost(ConnectionResetError())
    with pytest.raises(UpstreamError):
        await asking


async def test_a_body_that_grows_when_it_is_unpacked_comes_in_parts_that_can_be_refused() -> None:
    class TooMuch(Exception):
        pass

    sizes: list[int] = []

    def on_data(part: bytes) -> None:
        sizes.append(len(part))
        if sum(sizes) > 2**20:
            raise TooMuch

    async def ask(call: Call) -> None:
        await call.response.ask(b"", b"")
        await call.response.read(on_data)

    sent = framed(gzip.compress(bytes(64 * 2**20)), "length", [], b"Content-Encoding: gzip")
    for reads in ([sent], parted(sent, [100])):
        sizes.clear()
        call = Call()
        asking = asyncio.create_task(ask(call))
        await asyncio.sleep(0)
        for received in reads:
            call.response.data_received(received)
            await asyncio.sleep(0)
        with pytest.raises(TooMuch):
            await asking
        assert max(sizes) <= 2**18
        call.response.close()
        assert call.wire.closing


async def test_each_new_connection_begins_with_the_next_address_of_the_host() -> None:
    asked: list[str] = []

    async def found(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"10.0.0.{last}", 80)) for last in range(3)]

    async def connect(addresses: list[Any], **_: object) -> None:
        asked.append("".join(address[4][0][-1] for address in addresses))
        raise ConnectionRefusedError

    upstream = Upstream(URL("http://models.example/v1"), None, {}, connect=5.0, sockets=None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "getaddrinfo", found, raising=False)
        patched.setattr("aiohappyeyeballs.start_connection", connect)
        for _ in range(4):
            with pytest.raises(Unreachable):
                await upstream.post({}, b"")
    assert asked == ["012", "120", "201", "012"]


async def _say_here(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(framed(b"here", "length", []))
    writer.close()
    await writer.wait_closed()


async def test_a_host_that_cannot_be_reached_is_looked_up_again() -> None:
    async with await asyncio.start_server(_say_here, "127.0.0.1", 0) as server:
        there = server.sockets[0].getsockname()
        addresses = [("127.0.0.1", 1), there]

        async def found(*_: object, **__: object) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", addresses.pop(0))]

        upstream = Upstream(URL("http://models.example/v1"), None, {}, connect=5.0, sockets=None)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(asyncio.get_running_loop(), "getaddrinfo", found, raising=False)
            with pytest.raises(Unreachable):
                await upstream.post({}, b"")
            assert (await upstream.post({}, b"")).status == 200
        upstream.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_address_needs_no_look_up(host: str) -> None:
    async def nowhere(*_: object, **__: object) -> None:
        raise AssertionError

    try:
        server = await asyncio.start_server(_say_here, host, 0)
    except OSError:
        pytest.skip("there is no IPv6 here")
    async with server:
        port = server.sockets[0].getsockname()[1]
        upstream = Upstream(URL.build(scheme="http", host=host, port=port), None, {}, connect=5, sockets=None)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(asyncio.get_running_loop(), "getaddrinfo", nowhere, raising=False)
            response = await upstream.post({}, b"")
        parts: list[bytes] = []
        await response.read(parts.append)
        assert parts == [b"here"]
        upstream.close()


async def test_where_this_replica_is_late_that_is_no_fault_of_the_provider() -> None:
    async with await asyncio.start_server(_say_here, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        upstream = Upstream(URL(f"http://127.0.0.1:{port}/"), None, {}, connect=5, sockets=None)
        asking = asyncio.create_task(upstream.post({}, b""))
        await asyncio.sleep(0)
        for _ in range(3):  # turns that take a minute
            await later(60)
        assert (await asking).status == 200
        upstream.close()


@pytest.mark.parametrize("host", ["a..example", f"{'a' * 64}.example"])
async def test_what_cannot_be_a_name_cannot_be_reached(host: str) -> None:
    upstream = Upstream(URL(f"http://{host}:80/"), None, {}, connect=5, sockets=None)
    with pytest.raises(Unreachable):
        await upstream.post({}, b"")
