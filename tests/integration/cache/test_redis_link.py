"""The link to Redis: what each kind of trouble costs, what opens the breaker, and every kind of Redis."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import hiredis
import pytest
import pytest_asyncio
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ResponseError
from structlog.typing import EventDict

from dub5.redis.client import CONNECTIONS, connect
from dub5.redis.link import FAILURES_TO_OPEN, RedisLink, RedisUnavailable
from dub5.settings.model import Duration, RedisSettings
from testkit.processes import free_port
from testkit.redis_server import RedisServer, far_away, redis_cluster, slots
from tests.harness import PATIENT
from tests.integration.cache.support import TIMEOUT, linked, made, until


@pytest_asyncio.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with RedisServer() as server:
        yield server


async def ping(link: RedisLink) -> Any:
    return await link.run("ping", "PING")


def errors(link: RedisLink, operation: str) -> float:
    value = link._metrics.registry.get_sample_value("dub5_cache_errors_total", {"operation": operation})
    return value or 0.0


async def fail(link: RedisLink, times: int) -> None:
    for _ in range(times):
        with pytest.raises(RedisUnavailable):
            await ping(link)


# The breaker


async def test_the_breaker_opens_after_three_failures_and_a_probe_closes_it(server: RedisServer) -> None:
    async with linked(server.url) as link:
        await ping(link)
        await server.stop()
        await fail(link, 2)
        assert link.available
        await fail(link, 1)
        assert not link.available
        counted = errors(link, "ping")
        await fail(link, 5)
        assert errors(link, "ping") == counted == 3  # refused here, without asking Redis
        await server.start()
        await until(lambda: link.available)
        assert await ping(link)


@pytest.mark.parametrize(
    ("path", "said"), [("redis://{}/99", "DB index"), ("redis+cluster://{}", "Cluster mode")]
)
async def test_why_it_is_away_is_in_the_log(
    server: RedisServer, logs: list[EventDict], path: str, said: str
) -> None:
    async with linked(path.format(f"127.0.0.1:{server.port}"), timeout=PATIENT) as link:
        await until(lambda: failed(link))
    [line] = [line for line in logs if line["event"] == "redis unavailable"]
    assert said in line["reason"]


async def failed(link: RedisLink) -> bool:
    with contextlib.suppress(RedisUnavailable):
        await ping(link)
    return not link.available


async def test_a_success_between_failures_keeps_the_breaker_closed(server: RedisServer) -> None:
    async with linked(server.url, timeout=Duration(TIMEOUT)) as link:  # a busy machine is no failure
        for _ in range(FAILURES_TO_OPEN):
            await server.stop()
            await fail(link, 1)  # with room for another failure, as there may be on a busy machine
            await server.start()
            assert await ping(link)
        assert link.available


async def test_a_server_that_is_lost_is_lost_to_idle_connections(server: RedisServer) -> None:
    async with linked(server.url, timeout=Duration(TIMEOUT)) as link:
        pool = link._client.connection_pool
        idle = list(pool._available_connections)
        assert len(idle) > 1
        await idle[-1].disconnect()  # the next to be used: it has to be made anew, and cannot be
        await server.stop()
        await fail(link, 1)
        assert [each for each in idle if each.is_connected] == []


async def test_one_timeout_opens_the_breaker(server: RedisServer) -> None:
    async with linked(server.url) as link:
        server.pause()
        await fail(link, 1)
        assert not link.available
        server.resume()
        await until(lambda: link.available)
        assert await ping(link)


async def test_a_busy_event_loop_is_not_a_hung_redis(server: RedisServer) -> None:
    async with linked(server.url, timeout=Duration(0.05)) as link:
        asking = asyncio.create_task(ping(link))
        for _ in range(4):
            await asyncio.sleep(0)
            busy_until = time.perf_counter() + 0.1
            while time.perf_counter() < busy_until:
                pass
        assert await asking
        assert link.available
        assert errors(link, "ping") == 0


async def test_a_hung_redis_costs_one_timeout_and_then_nothing(server: RedisServer) -> None:
    async with linked(server.url) as link:
        await ping(link)
        server.pause()
        async with asyncio.timeout(15):  # side by side: one after the other they would take longer
            outcomes = await asyncio.gather(*(ping(link) for _ in range(200)), return_exceptions=True)
        assert all(isinstance(outcome, RedisUnavailable) for outcome in outcomes)
        assert not link.available
        server.resume()
        await until(lambda: link.available)
        assert await ping(link)


async def test_a_redis_that_is_away_at_the_start_is_found_when_it_comes(server: RedisServer) -> None:
    await server.stop()
    async with linked(server.url) as link:
        await fail(link, 3)
        await server.start()
        await until(lambda: link.available)
        assert await ping(link)


async def test_a_redis_that_is_far_away_is_used(server: RedisServer) -> None:
    """To make a connection takes several round trips, longer than a command may; then each command takes one."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    async with far_away(server, round_trip=0.05) as url:
        link = await made(RedisSettings(url=url))
        link.subscribe("news", heard.put)
        await link.start()
        try:
            await until(lambda: said(server, b"0"))
            asked = []
            for _ in range(CONNECTIONS):  # each turn is a batch, and takes a connection
                asked.append(asyncio.create_task(ping(link)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert await asyncio.gather(*asked) == [True] * CONNECTIONS
            assert link.available
            await server.stop()
            await fail(link, 3)
            assert not link.available
            await server.start()
            await until(lambda: link.available)
            assert await ping(link)
            await until(lambda: said(server, b"1"))
            assert {await heard.get() for _ in range(2)} == {b"0", b"1"}
        finally:
            await link.stop()


async def test_whoever_is_cancelled_the_others_get_their_own_answers(server: RedisServer) -> None:
    """At whatever moment it comes, and on whatever connection."""
    async with linked(server.url, timeout=PATIENT) as link:
        for number in range(50):
            await server.client.set(f"key {number}", number)
        for delay in range(20):
            asking = [asyncio.create_task(get(link, f"key {number}")) for number in range(50)]
            for _ in range(delay):
                await asyncio.sleep(0)
            for task in asking[::3]:
                task.cancel()
            answers = await asyncio.gather(*asking, return_exceptions=True)
            for number, answer in enumerate(answers):
                cancelled = number % 3 == 0 and isinstance(answer, asyncio.CancelledError)
                assert cancelled or answer == str(number).encode()
        assert link.available
        assert errors(link, "get") == 0


async def get(link: RedisLink, key: str) -> Any:
    return await link.run("get", "GET", key)


async def test_no_cancellation_is_lost(server: RedisServer) -> None:
    """At whatever moment it comes: a subscription under way, an answer just arriving."""
    for delay in range(100):
        link = await made(RedisSettings(url=server.url, timeout=PATIENT))
        link.subscribe("news", asyncio.Queue[bytes]().put)
        asking = asyncio.create_task(keep_asking(link))
        await link.start()
        for _ in range(delay):
            await asyncio.sleep(0)
        async with asyncio.timeout(TIMEOUT):
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await link.stop()


async def keep_asking(link: RedisLink) -> None:
    while True:
        await ping(link)


# Batches


async def test_a_crowd_shares_few_connections(server: RedisServer) -> None:
    async with linked(server.url, timeout=PATIENT) as link:
        before = (await server.client.info("stats"))["total_connections_received"]
        assert all(await asyncio.gather(*(ping(link) for _ in range(2000))))
        assert (await server.client.info("stats"))["total_connections_received"] < before + 5


class Nonsense(asyncio.Protocol):
    """One connection of a server that is no Redis: it knows of no streams, and gives the value of `late` only once that
    of `mine` is asked for."""

    held: list[Nonsense]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (command := self.reader.gets()) is not False:
            if command[:2] == [b"GET", b"late"]:
                self.held.append(self)
            elif command[:2] == [b"GET", b"mine"]:
                for each in self.held:
                    each.transport.write(b"$4\r\nlate\r\n")
                self.transport.write(b"$4\r\nmine\r\n")
            else:
                self.transport.write(b"+OK\r\n")


async def test_an_answer_that_makes_no_sense_costs_no_other_caller_its_own() -> None:
    """What was still to come on that connection must not be read as the answer to a later command."""
    protocol = type("Connection", (Nonsense,), {"held": []})
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        async with linked(url, timeout=PATIENT) as link:
            for _ in range(CONNECTIONS + 1):
                with pytest.raises(RedisUnavailable):
                    await link.pipeline("purges", [("XRANGE", "stream", "-", "+"), ("GET", "late")])
            assert await get(link, "mine") == b"mine"


async def test_who_still_waits_when_the_link_is_stopped_is_told(server: RedisServer) -> None:
    async with linked(server.url) as link:
        server.pause()
        asking = asyncio.create_task(ping(link))
        await asyncio.sleep(0)
    with pytest.raises(RedisUnavailable):
        await asking


# Refusals


async def set_something(link: RedisLink) -> Any:
    return await link.run("set", "SET", "key", b"x" * 1000)


async def refused(link: RedisLink, times: int = 10) -> None:
    for _ in range(times):
        with pytest.raises(RedisUnavailable):
            await set_something(link)
    assert errors(link, "set") == times
    assert link.available


async def test_a_redis_out_of_memory_still_answers_reads(server: RedisServer) -> None:
    async with linked(server.url) as link:
        await set_something(link)
        await server.client.config_set("maxmemory", "1")
        await refused(link)
        assert await link.run("get", "GET", "key") == b"x" * 1000


async def test_a_read_only_redis_still_answers_reads(server: RedisServer) -> None:
    async with linked(server.url) as link:
        await server.client.config_set("replica-serve-stale-data", "yes")
        await server.client.replicaof("127.0.0.1", 1)
        await refused(link)
        assert await link.run("get", "GET", "key") is None


async def test_a_name_that_leads_to_another_master_by_now_is_followed(server: RedisServer) -> None:
    """As where a name in DNS moves: the one before goes on as a replica, and closes nothing."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    async with RedisServer() as successor, moving(server, successor) as (url, move):
        link = await made(RedisSettings(url=url))
        link.subscribe("news", heard.put)
        await link.start()
        try:
            await until(lambda: said(server, b"1"))
            await until(lambda: written(link, "key", "before"))
            move()
            await server.client.replicaof("127.0.0.1", 1)
            await until(lambda: written(link, "key", "after"))
            await until(lambda: said(successor, b"2"))
            assert await successor.client.get("key") == b"after"
            assert link.available
        finally:
            await link.stop()


@contextlib.asynccontextmanager
async def moving(
    server: RedisServer, successor: RedisServer
) -> AsyncIterator[tuple[str, Callable[[], object]]]:
    """The address of `server`, and what makes it that of its successor, for connections that are made later."""
    leads_to = [server]

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", leads_to[-1].port)
        await asyncio.gather(passed(reader, forth), passed(back, writer))

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as listener:
        url = f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0"
        yield url, functools.partial(leads_to.append, successor)


async def test_a_refused_command_is_nothing_to_its_neighbours(server: RedisServer) -> None:
    async with linked(server.url) as link:
        await server.client.lpush("list", 1)
        answers = await asyncio.gather(
            ping(link), get(link, "list"), get(link, "nothing"), return_exceptions=True
        )
        assert answers[0] is True
        assert isinstance(answers[1], RedisUnavailable)
        assert answers[2] is None


async def test_one_refused_command_of_a_pipeline_refuses_it_whole(server: RedisServer) -> None:
    async with linked(server.url) as link:
        await server.client.config_set("maxmemory", "1")
        for _ in range(5):
            with pytest.raises(RedisUnavailable):
                await link.pipeline("mixed", [("GET", "a"), ("SET", "b", "c")])
        assert link.available


# Messages


async def test_messages_arrive_and_the_subscription_outlives_the_server(server: RedisServer) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    link = await made(RedisSettings(url=server.url))
    link.subscribe("news", heard.put)
    await link.start()
    try:
        await until(lambda: said(server, b"1"))
        assert await heard.get() == b"1"
        await server.stop()
        await server.start()
        await until(lambda: said(server, b"2"))
        assert await heard.get() == b"2"
    finally:
        await link.stop()


async def said(server: RedisServer, text: bytes) -> bool:
    return bool(await server.client.publish("news", text))


async def test_a_subscription_whose_connection_died_without_a_word_is_made_anew(server: RedisServer) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    mute = asyncio.Event()
    async with far_away(server, mute=mute) as url:
        link = await made(RedisSettings(url=url))
        link.subscribe("news", heard.put)
        await link.start()
        try:
            await until(lambda: said(server, b"1"))
            assert await heard.get() == b"1"
            mute.set()
            async with asyncio.timeout(60):
                while heard.empty():
                    await said(server, b"2")
                    await asyncio.sleep(0.1)
        finally:
            await link.stop()


async def test_a_handler_that_fails_is_called_for_the_next_message(server: RedisServer) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def handle(data: bytes) -> None:
        if data == b"bad":
            raise ValueError(data)
        await heard.put(data)

    link = await made(RedisSettings(url=server.url))
    link.subscribe("news", handle)
    await link.start()
    try:
        await until(lambda: said(server, b"bad"))
        await until(lambda: said(server, b"good"))
        async with asyncio.timeout(TIMEOUT):
            assert await heard.get() == b"good"
    finally:
        await link.stop()


# URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", {"host": "localhost", "port": 6379, "db": 0}),
        ("redis://cache.example", {"host": "cache.example", "port": 6379, "db": 0}),
        ("redis://cache:7000/3", {"host": "cache", "port": 7000, "db": 3}),
        ("redis://[::1]:7000/0", {"host": "::1", "port": 7000}),
        ("redis://[::1]", {"host": "::1", "port": 6379}),
        ("redis://me:p%40ss@cache:1", {"host": "cache", "username": "me", "password": "p@ss"}),
        ("redis://:secret@cache", {"host": "cache", "username": None, "password": "secret"}),
    ],
)
def test_urls_of_one_redis(url: str, expected: dict[str, Any]) -> None:
    client = connect(RedisSettings(url=url), None)
    assert isinstance(client, Redis)
    options = client.connection_pool.connection_kwargs
    assert {name: options[name] for name in expected} == expected
    assert options["socket_connect_timeout"] == 1.0


def test_settings_win_over_the_url() -> None:
    settings = RedisSettings(url="redis://me:mine@cache", username="you")
    options = connect(settings, "yours").connection_pool.connection_kwargs
    assert (options["username"], options["password"]) == ("you", "yours")


@pytest.mark.parametrize(
    ("url", "hosts", "service", "database"),
    [
        ("redis+sentinel://a/main", [("a", 26379)], "main", 0),
        ("redis+sentinel://a:1,b:2,c/main/4", [("a", 1), ("b", 2), ("c", 26379)], "main", 4),
        ("redis+sentinel://[::1]:9/main", [("::1", 9)], "main", 0),
    ],
)
def test_urls_of_sentinels(url: str, hosts: list[tuple[str, int]], service: str, database: int) -> None:
    pool = connect(RedisSettings(url=url), None).connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    watchers = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(options["host"], options["port"]) for options in watchers] == hosts
    assert (pool.service_name, pool.connection_kwargs["db"]) == (service, database)


def test_urls_of_clusters() -> None:
    client = connect(RedisSettings(url="redis+cluster://me:pw@a:1,b"), None)
    assert isinstance(client, RedisCluster)
    nodes = client.nodes_manager.startup_nodes.values()
    assert [(node.host, node.port) for node in nodes] == [("a", 1), ("b", 6379)]
    assert client.connection_kwargs["username"] == "me"


# Every kind of Redis


async def test_sentinel_leads_to_the_master_and_to_its_successor(server: RedisServer) -> None:
    async with RedisServer("--replicaof", "127.0.0.1", str(server.port)) as replica:
        await until(lambda: in_step(replica))
        lines = [
            f"sentinel monitor main 127.0.0.1 {server.port} 1",
            "sentinel down-after-milliseconds main 500",
        ]
        async with (
            RedisServer(sentinel=lines) as sentinel,
            linked(f"redis+sentinel://127.0.0.1:{sentinel.port}/main", timeout=Duration(0.2)) as link,
        ):
            await until(lambda: knows_a_replica(sentinel))
            assert await link.run("set", "SET", "key", "value")
            await until(lambda: has(replica, "key"))
            await until(lambda: fails_over(sentinel))
            await server.stop()
            await until(lambda: written(link, "key", "after"))
            assert await replica.client.get("key") == b"after"


async def test_a_sentinel_that_hangs_hides_no_other(server: RedisServer) -> None:
    lines = [f"sentinel monitor main 127.0.0.1 {server.port} 1"]
    async with RedisServer(sentinel=lines) as first, RedisServer(sentinel=lines) as second:
        first.pause()
        async with linked(
            f"redis+sentinel://127.0.0.1:{first.port},127.0.0.1:{second.port}/main", timeout=Duration(0.2)
        ) as link:
            await until(lambda: written(link, "key", "value"))


async def test_sentinels_need_not_know_the_user_of_the_master(server: RedisServer) -> None:
    await raw(server, "ACL", "SETUSER", "dub5", "on", ">pw", "~*", "&*", "+@all")
    lines = [f"sentinel monitor main 127.0.0.1 {server.port} 1"]
    async with (
        RedisServer(sentinel=lines) as sentinel,
        linked(
            f"redis+sentinel://127.0.0.1:{sentinel.port}/main",
            username="dub5",
            password="pw",
            timeout=Duration(0.2),
        ) as link,
    ):
        await until(lambda: written(link, "key", "value"))


async def in_step(replica: RedisServer) -> bool:
    return (await replica.client.info("replication"))["master_link_status"] == "up"


async def fails_over(sentinel: RedisServer) -> bool:
    """Whether it has begun to: a replica that it knows is none to promote before it has read its INFO, which it does
    every ten seconds."""
    try:
        await sentinel.client.execute_command("SENTINEL", "FAILOVER", "main")
    except ResponseError as error:
        return "INPROG" in str(error)
    return True


async def knows_a_replica(sentinel: RedisServer) -> bool:
    state = await sentinel.client.execute_command("SENTINEL", "REPLICAS", "main")
    return bool(state) and "connecting" not in str(state) and "disconnected" not in str(state)


async def has(server: RedisServer, key: str) -> bool:
    return bool(await server.client.exists(key))


async def written(link: RedisLink, key: str, value: str) -> bool:
    try:
        return bool(await link.run("set", "SET", key, value))
    except RedisUnavailable:
        return False


async def test_tls_with_an_authority_of_our_own(certificate: tuple[Path, Path]) -> None:
    authority, server_pem = certificate
    files = ["--tls-cert-file", str(server_pem), "--tls-key-file", str(server_pem), "--tls-ca-cert-file"]
    async with RedisServer(*files, str(authority), "--tls-auth-clients", "no", plain=False) as server:
        url = server.url.replace("redis://", "rediss://")
        async with linked(url, ca_file=str(authority), timeout=Duration(1)) as link:
            assert await ping(link)
        async with linked(url, timeout=Duration(1)) as stranger:
            await fail(stranger, 1)


async def test_a_cluster_that_nobody_reaches_is_a_lost_redis_and_no_more() -> None:
    async with linked("redis+cluster://127.0.0.1:1,127.0.0.1:2") as link:
        for _ in range(4):
            with pytest.raises(RedisUnavailable):
                await link.run("get", "GET", "key")
        assert not link.available


@contextlib.asynccontextmanager
async def cluster() -> AsyncIterator[list[RedisServer]]:
    """Two masters with half of the slots each: `a` is on the second one, `b` on the first."""

    def node() -> RedisServer:
        return RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()))

    async with node() as first, node() as second:
        for server, slots in ((first, (0, 8191)), (second, (8192, 16383))):
            await server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
        bus = (await first.client.config_get("cluster-port"))["cluster-port"]
        await second.client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, bus)
        await until(lambda: whole(first))
        await until(lambda: whole(second))
        yield [first, second]


async def whole(node: RedisServer) -> bool:
    return b"cluster_state:ok" in await raw(
        node, "CLUSTER", "INFO"
    ) and b"cluster_slots_ok:16384" in await raw(node, "CLUSTER", "INFO")


async def raw(node: RedisServer, *words: Any) -> Any:
    return await node.client.execute_command(*words, NEVER_DECODE=True)


def cluster_url(nodes: list[RedisServer]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


BOTH = [
    ("SET", "a", 1),
    ("SET", "b", 2),
    ("EVAL", "return redis.call('INCR', KEYS[1])", 1, "a"),
    ("GET", "b"),
    ("GET", "a"),
]
"""Commands for both nodes, in turns."""


async def test_who_listens_to_a_cluster_that_is_away_goes_on_trying() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    async with cluster() as nodes:
        for node in nodes:
            node.pause()
        link = await made(RedisSettings(url=cluster_url(nodes)))
        link.subscribe("news", heard.put)
        await link.start()
        try:
            for node in nodes:
                node.resume()
            await until(lambda: written(link, "a", "value"))
            async with asyncio.timeout(TIMEOUT):
                while heard.empty():  # the one that has the channel
                    await asyncio.gather(*(said(node, b"1") for node in nodes))
            failures = {"task": "redis-subscriber"}
            assert not link._metrics.registry.get_sample_value("dub5_background_failures_total", failures)
        finally:
            await link.stop()


async def test_a_pipeline_over_a_cluster_is_answered_in_order() -> None:
    async with cluster() as nodes, linked(cluster_url(nodes), timeout=PATIENT) as link:
        answers = await asyncio.gather(*(link.pipeline("both", BOTH) for _ in range(20)))
        assert answers == [[True, True, 2, b"2", b"2"]] * 20
        assert await nodes[0].client.get("b") == b"2"


async def test_a_node_that_hangs_holds_up_nothing_of_the_others() -> None:
    async with cluster() as nodes, linked(cluster_url(nodes)) as link:
        nodes[1].pause()
        answers = await asyncio.gather(get(link, "a"), get(link, "b"), return_exceptions=True)
        assert isinstance(answers[0], RedisUnavailable)
        assert answers[1] is None
        assert link.available
        with pytest.raises(RedisUnavailable):
            await link.pipeline("both", BOTH)  # at once: the node's breaker is open
        nodes[1].resume()
        await until(lambda: written(link, "a", "again"))


async def test_a_slot_that_moves_is_followed() -> None:
    async with cluster() as nodes, linked(cluster_url(nodes), timeout=PATIENT) as link:
        assert await get(link, "a") is None
        slot = await raw(nodes[0], "CLUSTER", "KEYSLOT", "a")
        name = (await raw(nodes[0], "CLUSTER", "MYID")).decode()
        for node in nodes:
            await raw(node, "CLUSTER", "SETSLOT", slot, "NODE", name)
        assert await link.run("set", "SET", "a", "moved")
        assert await nodes[0].client.get("a") == b"moved"


async def test_a_cluster_that_is_away_at_the_start_is_found_when_it_comes() -> None:
    async with cluster() as nodes:
        for node in nodes:
            node.pause()
        async with linked(cluster_url(nodes)) as link:
            await fail_to_get(link)
            for node in nodes:
                node.resume()
            await until(lambda: written(link, "a", "value"))


async def fail_to_get(link: RedisLink) -> None:
    with pytest.raises(RedisUnavailable):
        await get(link, "a")


async def test_an_answer_that_comes_after_the_breaker_opened_does_not_look_like_redis_is_back(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with linked(redis) as link:
        [batches] = link._batches.values()
        usual = batches.ask

        async def late(commands: list[Any]) -> Any:
            answers = await usual(commands)
            batches.failed(TimeoutError(), hung=True)  # as another batch would
            return answers

        monkeypatch.setattr(
            batches._server, "reconnect", asyncio.Event().wait
        )  # nobody learns that it is back
        monkeypatch.setattr(link, "_ask", late)
        await ping(link)
        assert link._metrics.registry.get_sample_value("dub5_redis_up") == 0


async def test_a_script_whose_keys_are_on_their_way_to_another_node_costs_the_others_nothing() -> None:
    async with cluster() as nodes, linked(cluster_url(nodes)) as link:
        for key in ("{a}stays", "{a}moves"):
            assert await link.run("set", "SET", key, key)
        slot = await raw(nodes[1], "CLUSTER", "KEYSLOT", "a")
        names = [(await raw(node, "CLUSTER", "MYID")).decode() for node in nodes]
        await raw(nodes[0], "CLUSTER", "SETSLOT", slot, "IMPORTING", names[1])
        await raw(nodes[1], "CLUSTER", "SETSLOT", slot, "MIGRATING", names[0])
        await raw(nodes[1], "MIGRATE", "127.0.0.1", nodes[0].port, "{a}moves", 0, 1000)
        assert await get(link, "{a}moves") == b"{a}moves"
        for keys in (("{a}stays", "{a}moves"), ("{a}new", "{a}newer")):
            script = ("EVAL", "return redis.call('GET', KEYS[1])", 2, *keys)
            answers = await asyncio.gather(
                link.run("claim", *script), get(link, "{a}stays"), return_exceptions=True
            )
            assert isinstance(answers[0], RedisUnavailable)
            assert answers[1] == b"{a}stays"
        assert all(batches.available for batches in link._batches.values())


async def test_a_cluster_that_is_lost_after_a_failover_is_lost() -> None:
    async with redis_cluster() as nodes, linked(cluster_url(nodes)) as link:
        keys = [f"key {number}" for number in range(30)]

        async def all_written() -> bool:
            return all([await written(link, key, "value") for key in keys])

        async def lost() -> bool:
            return not await all_written() and not link.available

        await until(all_written)
        [master] = [each[2][1] for each in await slots(nodes[0]) if each[0] == 0]
        for node in nodes:
            if node.port == master:
                await node.stop()
        await until(all_written)
        for node in nodes:
            await node.stop()
        await until(lost)
        assert link._metrics.registry.get_sample_value("dub5_redis_up") == 0
