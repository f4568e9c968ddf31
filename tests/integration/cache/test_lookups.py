"""Look-ups over the connection that is for them alone: of every kind of Redis, whatever becomes of it on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hiredis
import pytest
import pytest_asyncio

from dub5.cache.freshness import NO_DIRECTIVES, Lifetimes
from dub5.cache.purges import Purges
from dub5.cache.store import (
    VECTOR_KEY,
    AnswerStore,
    CacheHit,
    CacheLookup,
    Entry,
    Identity,
    LocalCache,
    pack,
)
from dub5.contract import ENTRY_KEY
from dub5.redis.link import RedisLink, RedisUnavailable
from dub5.settings.model import Duration
from dub5.vectors import Vector
from testkit.redis_server import RedisServer, far_away
from tests.harness import PATIENT
from tests.integration.cache.support import Clock, linked, until

LIFETIMES = Lifetimes(ttl=300.0)
BORN = 1_700_000_000_000_000


def wanted(key: str) -> CacheLookup:
    return CacheLookup(key=key, names=("all", "tag:prices"), lifetimes=LIFETIMES, directives=NO_DIRECTIVES)


def body(key: str) -> bytes:
    return b'{"id":"%s"}' % key.encode()


async def filled(link: RedisLink, *keys: str) -> AnswerStore:
    """A replica that knows the purges and has stored answers, none of which is in its memory."""
    await until(lambda: connection_of(link) is not None)
    purges = Purges(link, Clock())
    await purges.synchronise()
    before = AnswerStore(LocalCache(2**20), link, purges, clock=lambda: BORN / 1e6)
    for key in keys:
        entry = Entry(body(key), BORN, 1.0, 1, 1)
        assert await before.store(before.identity(wanted(key)), entry, LIFETIMES)
    return AnswerStore(LocalCache(2**20), link, purges, clock=lambda: BORN / 1e6)


def connection_of(link: RedisLink) -> Any:
    assert link._pipelining is not None
    return link._pipelining.connection


async def asked(cache: AnswerStore, key: str) -> CacheHit | None:
    """What `ask` tells."""
    told: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()
    assert cache.ask(wanted(key), told.set_result)
    entry = await told
    return None if entry is None else cache.judged(entry, "shared", wanted(key))


@pytest_asyncio.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with RedisServer() as server:
        yield server


async def calls(server: RedisServer, command: str) -> int:
    return int((await server.client.info("commandstats")).get(f"cmdstat_{command}", {}).get("calls", 0))


async def test_each_gets_its_own_and_a_turn_reads_the_purges_once(server: RedisServer) -> None:
    keys = [f"key {number}" for number in range(200)]
    async with linked(server.url, timeout=PATIENT) as link:
        cache = await filled(link, *keys)
        before = await calls(server, "xrange"), await calls(server, "getrange")
        finding = [asyncio.create_task(cache.find(wanted(key))) for key in keys[::2]]
        asking = [asyncio.create_task(asked(cache, key)) for key in [*keys[1::2], "nowhere", *keys[1::2]]]
        found = await asyncio.gather(*finding, *asking)
        assert found.pop(200) is None
        assert [hit and hit.entry.body for hit in found] == list(
            map(body, keys[::2] + keys[1::2] + keys[1::2])
        )
        after = await calls(server, "xrange"), await calls(server, "getrange")
        # The nonce is one more; questions asked twice in a turn are asked of Redis once.
        assert [now - then for now, then in zip(after, before, strict=True)] == [1, 202]
        assert all(cache.recall(wanted(key)) is not None for key in keys)


async def test_what_is_none_of_ours_under_one_name_costs_nobody_else_an_answer(server: RedisServer) -> None:
    keys = [f"key {number}" for number in range(5)]
    async with linked(server.url, timeout=PATIENT) as link:
        cache = await filled(link, *keys)
        identity = cache.identity(wanted(keys[2]))
        name = ENTRY_KEY % (identity.key, identity.version)
        await server.client.delete(name)
        await server.client.rpush(name, "no answer")
        found = await asyncio.gather(*[asked(cache, key) for key in keys])
        assert [hit and hit.entry.body for hit in found] == [*map(body, keys[:2]), None, *map(body, keys[3:])]


async def test_a_vector_that_was_served_is_no_completion_under_another_key(server: RedisServer) -> None:
    vector, completion = f"{VECTOR_KEY}ab", "ab"
    async with linked(server.url, timeout=PATIENT) as link:
        cache = await filled(link)
        identity = cache.identity(wanted(vector))
        entry = Entry(Vector("f", b"0123", 1).form(), BORN, 1.0, 1, 0)
        name = ENTRY_KEY % (identity.key, identity.version)
        await server.client.set(name, pack(entry))
        found = await asked(cache, vector)
        assert found is not None
        assert found.entry == entry
        await server.client.copy(name, ENTRY_KEY % (completion, identity.version))
        assert await asked(cache, completion) is None


async def test_what_is_damaged_after_it_was_served_is_a_miss(server: RedisServer) -> None:
    async with linked(server.url, timeout=PATIENT) as link:
        size = len(pack(Entry(body("key 100"), BORN, 1.0, 1, 1)))
        keys = [f"key {100 + number}" for number in range(size + 1)]
        cache = await filled(link, *keys)
        for _ in range(2):
            found = await asyncio.gather(*[asked(cache, key) for key in keys])
            assert [hit and hit.entry.body for hit in found] == [*map(body, keys)]
        for at, key in enumerate(keys[:-1]):
            identity = cache.identity(wanted(key))
            name = ENTRY_KEY % (identity.key, identity.version)
            was: Any = await server.client.getrange(name, at, at)
            await server.client.setrange(name, at, bytes([was[0] ^ 1]))
        found = await asyncio.gather(*[asked(cache, key) for key in keys])
        assert [key for key, hit in zip(keys, found, strict=True) if hit] == keys[-1:]


async def test_what_is_none_of_ours_is_not_asked_for_twice(server: RedisServer) -> None:
    async with linked(server.url, timeout=PATIENT) as link:
        cache = await filled(link)
        identity = cache.identity(wanted("a list"))
        await server.client.rpush(ENTRY_KEY % (identity.key, identity.version), "no answer")
        before = await calls(server, "getrange")
        assert await asked(cache, "a list") is None
        assert await cache.find(wanted("a list")) is None
        assert await calls(server, "getrange") == before + 2  # one is of the nonce


async def test_what_was_not_there_is_not_asked_for_twice(server: RedisServer) -> None:
    async with linked(server.url, timeout=PATIENT) as link:
        cache = await filled(link)
        before = await calls(server, "getrange")
        assert await asked(cache, "nowhere") is None
        assert await cache.find(wanted("nowhere")) is None
        assert await calls(server, "getrange") == before + 2
        await until(lambda: cache._readings == {})
        assert await cache.find(wanted("nowhere")) is None
        assert await calls(server, "getrange") == before + 4


async def test_what_could_not_be_trusted_is_asked_for_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with linked(server.url, timeout=PATIENT) as link:
        cache = await filled(link, "key")
        with monkeypatch.context() as patched:
            patched.setattr(Purges, "learn", lambda *_: False)  # there is more of purges to learn
            assert await asked(cache, "key") is None
        assert await cache.find(wanted("key")) is not None


async def test_a_purge_elsewhere_is_learnt_with_the_look_up(server: RedisServer) -> None:
    async with linked(server.url, timeout=PATIENT) as link, linked(server.url, timeout=PATIENT) as other:
        cache = await filled(link, "key")
        elsewhere = Purges(other, Clock())
        await elsewhere.synchronise()
        assert await elsewhere.purge(["tag:prices"])
        assert await asked(cache, "key") is None
        assert await cache.find(wanted("key")) is None


async def test_what_is_purged_whenever_it_is_read_is_not_found(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with linked(server.url, timeout=PATIENT) as link:
        cache = await filled(link, "key")
        purges, learn = cache._purges, Purges.learn
        before = AnswerStore(LocalCache(2**20), link, purges, clock=lambda: BORN / 1e6)
        after_one = Identity("key", f"{purges._prefix}1")
        assert await before.store(after_one, Entry(body("key"), BORN, 1.0, 1, 1), LIFETIMES)

        def purging(*read: Any) -> bool:
            purges._raise([purges._hash("tag:prices")], purges._highest + 1)
            return learn(*read)

        monkeypatch.setattr(Purges, "learn", purging)
        assert await cache.find(wanted("key")) is None
        assert purges.version(wanted("key").names) == f"{purges._prefix}2"


async def test_who_leaves_shifts_nobody(server: RedisServer) -> None:
    keys = [f"key {number}" for number in range(60)]
    async with linked(server.url, timeout=PATIENT) as link:
        cache = await filled(link, *keys)
        for turns in range(8):
            cache._local = LocalCache(2**20)
            finding = [asyncio.create_task(cache.find(wanted(key))) for key in keys]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in finding[::3]:
                task.cancel()
            for key, found in zip(keys, await asyncio.gather(*finding, return_exceptions=True), strict=True):
                if not isinstance(found, asyncio.CancelledError):
                    assert isinstance(found, CacheHit)
                    assert found.entry.body == body(key)


async def test_a_connection_that_is_cut_costs_no_hit_and_is_made_anew(server: RedisServer) -> None:
    async with linked(server.url, timeout=PATIENT) as link:
        cache = await filled(link, "a", "b", "c")
        first = connection_of(link)
        looking = asyncio.create_task(asked(cache, "a"))
        await asyncio.sleep(0)
        first.connection_lost(ConnectionResetError())  # before the answer is here
        assert (await looking) is not None
        assert await cache.find(wanted("b")) is not None  # by redis-py, where there is no other yet
        await until(lambda: connection_of(link) not in {None, first})
        await server.client.client_kill_filter(_type="normal", skipme=True)
        await until(lambda: connection_of(link) is None)
        await until(lambda: connection_of(link) is not None)
        assert await asked(cache, "c") is not None
        assert link.available


async def test_a_redis_that_hangs_costs_one_timeout_and_is_used_again(server: RedisServer) -> None:
    async with linked(server.url) as link:
        cache = await filled(link, "key")
        server.pause()
        assert await asked(cache, "key") is None
        assert not link.available
        assert connection_of(link) is None
        assert not cache.ask(wanted("another"), lambda _: None)
        server.resume()
        await until(lambda: link.available and connection_of(link) is not None)
        assert await asked(cache, "key") is not None


@pytest.mark.parametrize(("away", "used"), [(0.03, True), (0.5, False)])
async def test_a_redis_that_is_far_away(server: RedisServer, away: float, used: bool) -> None:
    async with linked(server.url, timeout=PATIENT) as near:
        await filled(near, "key")
        async with far_away(server, round_trip=away) as url, linked(url) as link:
            if used:
                cache = await filled(link)
                assert await asked(cache, "key") is not None
            else:
                cache = AnswerStore(LocalCache(2**20), link, Purges(link))
                assert await cache.find(wanted("key")) is None
            assert link.available is used


async def test_what_redis_refuses_is_a_miss_and_no_more(server: RedisServer) -> None:
    async with linked(server.url, timeout=PATIENT) as link:
        cache = await filled(link, "key")
        identity = cache.identity(wanted("list"))
        await server.client.lpush(ENTRY_KEY % (identity.key, identity.version), b"junk")
        found = await asyncio.gather(asked(cache, "list"), asked(cache, "key"))
        assert [hit is not None for hit in found] == [False, True]
        assert link.available
        assert connection_of(link) is not None


async def test_a_master_that_is_none_any_more_is_left(server: RedisServer) -> None:
    lines = [f"sentinel monitor main 127.0.0.1 {server.port} 1"]
    async with (
        RedisServer(sentinel=lines) as sentinel,
        linked(f"redis+sentinel://127.0.0.1:{sentinel.port}/main", timeout=PATIENT) as link,
    ):
        await until(lambda: connection_of(link) is not None)
        first = connection_of(link)
        await server.client.replicaof("127.0.0.1", 1)
        with pytest.raises(RedisUnavailable):
            await link.run("release", "EVAL", "return redis.call('SET', KEYS[1], 1)", 1, "key")
        assert connection_of(link) is not first


async def test_user_database_and_authority_are_redis_pys(certificate: tuple[Path, Path]) -> None:
    authority, pem = certificate
    files = ["--tls-cert-file", str(pem), "--tls-key-file", str(pem), "--tls-ca-cert-file", str(authority)]
    user = ["--user", "reader", "on", ">secret", "~*", "&*", "+@all"]
    async with RedisServer(*files, *user, "--tls-auth-clients", "no", plain=False) as server:
        url = f"rediss://reader@127.0.0.1:{server.port}/3"
        async with linked(url, password="secret", ca_file=str(authority), timeout=PATIENT) as link:
            cache = await filled(link, "key")
            assert await asked(cache, "key") is not None


class Broken(asyncio.Protocol):
    """A server that greets like a Redis, has no purges, and gives what is `said` for each entry."""

    said: bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (command := self.reader.gets()) is not False:
            name = command[0].upper()
            if name == b"GETRANGE" and b"entry" in command[1]:
                self.transport.write(self.said)
                if self.said.endswith(b"cut"):
                    self.transport.close()
            elif name == b"GETRANGE":
                self.transport.write(b"$8\r\nabcdef01\r\n")
            elif name == b"XRANGE":
                self.transport.write(b"*0\r\n")
            else:
                self.transport.write(b"+PONG\r\n" if name == b"PING" else b"+OK\r\n")


@pytest.mark.parametrize(
    "said",
    [
        *(b"hello\r\n", b":7\r\n", b"*1\r\n:1\r\n", b"$3\r\nab", b"$3\r\nabcut", b"", b"$999999999\r\n"),
        *(b"$3\r\nabc\r\n" * 2, b"-LOADING\r\n", b"-ERR no\r\n", b"_\r\n"),
    ],
)
async def test_a_server_that_is_no_redis_gives_nothing_to_anybody(said: bytes) -> None:
    """Half of an answer, two for one, one of another kind, none, and then silence or the end."""
    protocol = type("Said", (Broken,), {"said": said})
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        async with linked(url, timeout=Duration(0.05)) as link:
            purges = Purges(link, Clock())
            purges._nonce = b"abcdef01"
            cache = AnswerStore(LocalCache(2**20), link, purges)
            for turn in range(6):
                finding = [cache.find(wanted(f"{turn} {number}")) for number in range(3)]
                assert await asyncio.gather(*finding) == [None] * 3
