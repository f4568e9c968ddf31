"""redis-py as we use it: a client for the kind of Redis that a URL names.

Standalone (`redis://`), Sentinel (`redis+sentinel://host:port,host:port/service/db`) and Cluster
(`redis+cluster://host:port,host:port`); with `rediss` in place of `redis` over TLS. redis-py makes the connections, and
also finds the master behind Sentinels. What is used of its private parts is in `link` and `cluster`, and is named in
pyproject.toml beside its upper bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisClusterException, RedisError

from dub5.errors import ConfigError
from dub5.settings.model import RedisSettings, read_file

REDIS_ERRORS = (
    RedisError,
    RedisClusterException,
    OSError,
    TimeoutError,
)  # the second is not one of the first

LOST = (RedisConnectionError, OSError)
"""What says that a connection has ended. Whatever befell it befell the idle ones to the same server, and some such ends
are never reported: each of these would fail a command of its own."""

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
    # There is one for what requests wait for, and the one before it, which is being closed.
    return 6 * each if kind == "cluster" else each + 2 + 2 * len(_hosts(urlsplit(settings.url)))


def connect(settings: RedisSettings, password: str | None) -> Client:
    """A client for the kind of Redis that the URL names; no connection is made yet. Reads `ca_file`.

    ConfigError where that cannot be. Its answers have no bound: see `link.bounded`.
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
        return RedisCluster(startup_nodes=nodes, reinitialize_steps=0, **options)
    *service, database = [part for part in url.path.split("/") if part] or ["0"]
    if kind == "sentinel":
        service, database = ([database], "0") if not service else (service, database)
        watching = {
            name: value for name, value in options.items() if name not in {"retry", "max_connections"}
        }
        sentinels = Sentinels(hosts, sentinel_kwargs=watching, **options)  # type: ignore[no-untyped-call]
        if options["username"] or options["password"]:  # which are the master's, and may mean nothing to them
            nobody = watching | {"username": None, "password": None}
            sentinels.sentinels += Sentinels(hosts, sentinel_kwargs=nobody).sentinels  # type: ignore[no-untyped-call]
        return sentinels.master_for(service[0], db=int(database))
    host, port = hosts[0]
    options["socket_connect_timeout"] = CONNECT_TIMEOUT  # there is no other address to try
    return Redis(host=host, port=port, db=int(database), **options)


class Sentinels(Sentinel):
    """redis-py would wait for one that hangs for as long as there is time for all, and stop at one that refuses."""

    async def discover_master(self, service_name: str) -> Any:
        """Its host and port, as the first one has them that answers."""
        for sentinel in list(self.sentinels):
            try:
                async with asyncio.timeout(self.sentinel_kwargs["socket_connect_timeout"]):
                    masters: Any = await sentinel.sentinel_masters()
            except REDIS_ERRORS:
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                self.sentinels.remove(sentinel)
                self.sentinels.insert(0, sentinel)
                return state["ip"], state["port"]
        raise MasterNotFoundError(f"no Sentinel has a master {service_name!r}")


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


def _hosts(url: SplitResult) -> list[tuple[str, int]]:
    """`a:1,b:2` of the authority part; ports default to 6379, and to 26379 for Sentinel."""
    usual = 26379 if url.scheme.endswith("sentinel") else 6379
    hosts = []
    for written in url.netloc.rpartition("@")[2].split(","):
        host, _, port = written.rpartition(":") if written.rpartition(":")[2].isdigit() else (written, "", "")
        hosts.append((host.strip("[]") or "localhost", int(port) if port else usual))
    return hosts
