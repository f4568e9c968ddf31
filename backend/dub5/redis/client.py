"""redis-py as we use it: a client for the kind of Redis that a URL names, and one server to send commands to.

Standalone (`redis://`), Sentinel (`redis+sentinel://host:port,host:port/service/db`) and Cluster
(`redis+cluster://host:port,host:port`); with `rediss` in place of `redis` over TLS. redis-py makes the connections, and
also finds the master behind Sentinels. What is used of its private parts is here and in `cluster`, and is named in
pyproject.toml beside its upper bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from hiredis import pack_command
from redis._parsers import _AsyncHiredisParser
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import InvalidResponse, RedisClusterException, RedisError, ResponseError

from dub5.errors import ConfigError
from dub5.settings.model import RedisSettings, read_file

REDIS_ERRORS = (
    RedisError,
    RedisClusterException,
    OSError,
    TimeoutError,
)  # the second is not one of the first

CONNECTIONS = 4
"""To a server for commands: so many batches may be under way at a time."""
CONNECT_TIMEOUT = 1.0
INITIALIZE_TIMEOUT = 2.0
LARGEST_ANSWER = 16 * 2**20
"""Bytes of an answer to one command, unless stored answers may be larger: what a stream or a hash holds of ours is much
smaller, and of a string only as much is read as may be ours."""

Client = Any
"""`Redis` or `RedisCluster`."""
Command = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Words, and redis-py's options for reading the answer."""


class AnswerTooLarge(InvalidResponse):
    """An answer to one command has more bytes than any of ours: it was not read to its end, so the connection cannot
    be used any more."""


class Server(Protocol):
    """One server, to which commands go. `name` is for the log."""

    @property
    def name(self) -> str: ...

    async def send(self, commands: list[Command]) -> list[Any]:
        """One answer or ResponseError for each command; raises one of REDIS_ERRORS where the server did not do it."""
        ...

    async def reconnect(self) -> bool:
        """Have new connections; raises one of REDIS_ERRORS where that cannot be in time.

        False where nothing will be asked of this server any more.
        """
        ...


class OneServer:
    """Standalone, or the master that Sentinels name."""

    name = "redis"

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def send(self, commands: list[Command]) -> list[Any]:
        # Not by `Pipeline.execute`: its retries and metrics, none of which are used, cost more than the commands do.
        pool, parse_response = self._client.connection_pool, self._client.parse_response
        # Written by hiredis: redis-py reads with it, but writes in Python, a tenth of all time of a stored answer.
        packed = b"".join(
            # "XINFO STREAM" is one name for redis-py and two words for Redis.
            pack_command((*words[0].split(), *words[1:]) if " " in words[0] else words)
            for words, _ in commands
        )
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        answers: list[Any] = []
        try:
            await connection.send_packed_command(packed)
            for words, options in commands:
                try:
                    answers.append(await parse_response(connection, words[0], **options))
                except ResponseError as refused:
                    answers.append(refused)
        except BaseException:
            # Also where redis-py cannot make sense of an answer: those after it are still to come, and would be taken
            # for the answers to the next batch. A cluster's nodes read them all.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)
        return answers

    async def reconnect(self) -> bool:
        # Whatever befell the server befell the connections to it, and some such ends are never reported.
        await self._client.connection_pool.disconnect(inuse_connections=False)
        await self.connect()
        return True

    async def connect(self) -> None:
        """Have a connection for each batch that may be under way."""
        pool = self._client.connection_pool

        async def one() -> None:
            made.append(await pool.get_connection())  # type: ignore[no-untyped-call]

        made: list[AbstractConnection] = []
        try:
            await at_once(one, CONNECTIONS)
        finally:
            for connection in made:
                await pool.release(connection)


async def at_once(connect: Callable[[], Awaitable[None]], times: int) -> None:
    """So many connections at once; raises one of REDIS_ERRORS where one of them is not made in time."""
    async with asyncio.timeout(CONNECT_TIMEOUT):
        done = await asyncio.gather(*(connect() for _ in range(times)), return_exceptions=True)
    for failed in filter(None, done):
        raise failed


def most_connections(settings: RedisSettings) -> int:
    """How many connections to Redis there may be at once; of a Cluster with up to six masters."""
    each = 2 * CONNECTIONS + 2  # while it is asked whether it is back, those that are in use are there still
    kind = urlsplit(settings.url).scheme.partition("+")[2]
    return 6 * each if kind == "cluster" else each + len(_hosts(urlsplit(settings.url)))


def connect(settings: RedisSettings, password: str | None, *, largest: int = LARGEST_ANSWER) -> Client:
    """A client for the kind of Redis that the URL names; no connection is made yet. Reads `ca_file`.

    ConfigError where that cannot be. An answer of more than `largest` bytes to one command raises AnswerTooLarge,
    and is not read to its end.
    """
    url = urlsplit(settings.url)
    transport, _, kind = url.scheme.partition("+")
    options: dict[str, Any] = {
        "username": settings.username or (unquote(url.username) if url.username else None),
        "password": password or (unquote(url.password) if url.password else None),
        # Each batch has a limit of its own. With a timeout of its own redis-py sends through wait_for, which
        # on Python 3.11 can lose a cancellation: a task that is told to stop would go on for ever.
        "socket_timeout": None,
        "socket_connect_timeout": 2 * float(settings.timeout),  # for what nobody else waits for
        "retry": Retry(NoBackoff(), 0),
        "max_connections": 10_000,
        # Where absent, redis-py reads its version from disk for connections that it makes later.
        "driver_info": DriverInfo(lib_version=redis.__version__),
    }
    if transport == "rediss":
        options |= {"ssl": True, "ssl_ca_data": _authorities(settings)}
    hosts = _hosts(url)
    if kind == "cluster":
        # With `reinitialize_steps` a redirected command would close all connections, whoever is using them.
        nodes = [ClusterNode(*host) for host in hosts]
        cluster = RedisCluster(startup_nodes=nodes, reinitialize_steps=0, **options)
        return _bounded_nodes(cluster, largest)
    *service, database = [part for part in url.path.split("/") if part] or ["0"]
    if kind == "sentinel":
        service, database = ([database], "0") if not service else (service, database)
        watching = {
            name: value for name, value in options.items() if name not in {"retry", "max_connections"}
        }
        sentinel = Sentinel(hosts, sentinel_kwargs=watching, **options)  # type: ignore[no-untyped-call]
        return _bounded(sentinel.master_for(service[0], db=int(database)), largest)
    host, port = hosts[0]
    options["socket_connect_timeout"] = CONNECT_TIMEOUT  # there is no other address to try
    return _bounded(Redis(host=host, port=port, db=int(database), **options), largest)


def _authorities(settings: RedisSettings) -> str | None:
    """Read once: redis-py would read the file for each connection, in the event loop, and it may hang."""
    if settings.ca_file is None:
        return None
    try:
        return read_file("redis.ca_file", settings.ca_file).decode("ascii")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"redis.ca_file: cannot read {settings.ca_file!r}: {type(error).__name__}"
        ) from None


def _bounded(client: Redis, largest: int) -> Redis:
    client.connection_pool.connection_kwargs["parser_class"] = _bounded_parser(largest)
    return client


def _bounded_nodes(cluster: RedisCluster, largest: int) -> RedisCluster:
    """Also of the nodes that are still to be found."""
    for options in (
        cluster.get_connection_kwargs(),
        *(node.connection_kwargs for node in cluster.nodes_manager.startup_nodes.values()),
    ):
        options["parser_class"] = _bounded_parser(largest)
    return cluster


def _bounded_parser(largest: int) -> type[_AsyncHiredisParser]:
    """Reads answers of up to `largest` bytes: redis-py knows no limit, and a name that is ours may hold 512 MiB."""
    read = _AsyncHiredisParser.read_response

    class Bounded(_AsyncHiredisParser):
        __slots__ = ("_taken",)

        # No coroutine of its own: it is called for each answer.
        def read_response(  # type: ignore[override]
            self, disable_decoding: bool = False, push_request: bool = False
        ) -> Awaitable[Any]:
            self._taken = 0
            return read(self, disable_decoding, push_request)

        async def read_from_socket(self) -> bool:
            reader: Any = self._reader
            before = reader.len()
            more: bool = await super().read_from_socket()  # type: ignore[no-untyped-call]
            self._taken += reader.len() - before
            if self._taken > largest:
                raise AnswerTooLarge(f"an answer of more than {largest} bytes")
            return more

    return Bounded


def _hosts(url: SplitResult) -> list[tuple[str, int]]:
    """`a:1,b:2` of the authority part; ports default to 6379, and to 26379 for Sentinel."""
    usual = 26379 if url.scheme.endswith("sentinel") else 6379
    hosts = []
    for written in url.netloc.rpartition("@")[2].split(","):
        host, _, port = written.rpartition(":") if written.rpartition(":")[2].isdigit() else (written, "", "")
        hosts.append((host.strip("[]") or "localhost", int(port) if port else usual))
    return hosts
