"""A Redis Cluster: which node has a command's key, and each node as a server of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, PipelineCommand
from redis.exceptions import AskError, MovedError, ResponseError, SlotNotCoveredError
from redis.exceptions import ConnectionError as RedisConnectionError

from dub5.redis.client import CONNECTIONS, INITIALIZE_TIMEOUT, LOST, REDIS_ERRORS, Command, at_once
from dub5.telemetry.background import Background

_KEYLESS = {"PING", "PUBLISH"}


class Cluster:
    """The masters of a Cluster. They go by name, since they change: a failed command has the layout read again."""

    def __init__(
        self, client: RedisCluster, background: Background, on_master: Callable[[Node], object]
    ) -> None:
        """`on_master` is called with each one when the layout was read again."""
        self.client = client
        self._on_master = on_master
        self._jobs = background.jobs("cluster-layout")
        self._refreshing: asyncio.Task[None] | None = None
        self.trouble = "no such node"
        """Why there may be none of a name: what befell who asked for the layout."""
        self._nodes: dict[str, Node] = {}

    async def stop(self) -> None:
        await self._jobs.stop()

    async def connect(self) -> None:
        """To each master, for each batch that may be under way there."""
        await asyncio.gather(*map(connect, self.client.get_primaries()))

    def node_of(self, command: Command) -> Node:
        """The one that has the command's key; one without a name while nobody knows."""
        words, node = command[0], None
        with contextlib.suppress(SlotNotCoveredError):
            if words[0] in _KEYLESS:
                node = self.client.get_default_node()
            else:
                node = self.client.get_node_from_key(words[3] if words[0] == "EVAL" else words[1])
        return self._named(node.name if node is not None else "")

    def masters(self) -> set[str]:
        """Their names, as far as they are known: to all others no commands go."""
        return {node.name for node in self.client.get_primaries()}

    def _named(self, name: str) -> Node:
        if name not in self._nodes:
            self._nodes[name] = Node(self, name)
        return self._nodes[name]

    def find(self, name: str) -> ClusterNode | None:
        return self.client.get_node(node_name=name) if name else None

    def refresh_soon(self, failed: str) -> None:
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._jobs.start(self.refresh(failed))

    async def refresh(self, failed: str) -> None:
        """Read who has which slots, from a node that did not just fail if possible."""
        try:
            async with asyncio.timeout(INITIALIZE_TIMEOUT):
                if self.client.get_default_node() is None:
                    await self.client.initialize(last_failed_node_name=failed)
                else:
                    await self.client.nodes_manager.initialize(last_failed_node_name=failed)
        except REDIS_ERRORS as error:
            self.trouble = str(error) or self.trouble
            return
        for name in self.masters():
            self._on_master(self._named(name))


class Node:
    """One of them, as a `Server`."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self._cluster = cluster

    async def send(self, commands: list[Command]) -> list[Any]:
        try:
            return await self._send(commands)
        except BaseException as error:
            self._cluster.refresh_soon(self.name)
            node = self._cluster.find(self.name)
            if isinstance(error, LOST) and node is not None:
                await node.disconnect_free_connections()
            raise

    async def _send(self, commands: list[Command]) -> list[Any]:
        node = self._cluster.find(self.name)
        if node is None:
            raise RedisConnectionError(self._cluster.trouble)
        queued = [
            PipelineCommand(position, *words, **options) for position, (words, options) in enumerate(commands)
        ]
        await node.execute_pipeline(queued)
        answers = [command.result for command in queued]
        for position, answer in enumerate(answers):
            if isinstance(answer, AskError):
                answers[position] = await self._redirected(commands[position], answer)
            elif isinstance(answer, Exception) and not isinstance(answer, ResponseError):
                raise answer
        return answers

    async def _redirected(self, command: Command, to: AskError) -> Any:
        """The answer from where the slot is now, or is moving to; a refusal where that node has none.

        redis-py would ask again and again while a script's keys are on their way: for longer than all who wait for this
        node have.
        """
        words, options = command
        client = self._cluster.client
        if isinstance(to, MovedError):
            await client.nodes_manager.move_slot(to)
        node = client.get_node(host=to.host, port=to.port)
        if node is None:
            self._cluster.refresh_soon(self.name)
            return to
        asked = PipelineCommand(1, *words, **options)
        await node.execute_pipeline(
            [asked] if isinstance(to, MovedError) else [PipelineCommand(0, "ASKING"), asked]
        )
        answer = asked.result
        return to if isinstance(answer, Exception) and not isinstance(answer, ResponseError) else answer

    async def reconnect(self) -> bool:
        """A node that is no master any more is as good as well: no commands will go to it."""
        cluster = self._cluster
        await cluster.refresh(self.name)
        if cluster.client.get_default_node() is None:
            raise RedisConnectionError("no node answers")
        node = cluster.find(self.name)
        if node is None or self.name not in cluster.masters():
            return False
        await node.disconnect_free_connections()
        await connect(node)
        return True


async def connect(node: ClusterNode) -> None:
    """For each batch that may be under way there."""

    async def one() -> None:
        connection = node.acquire_connection()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        finally:
            node.release(connection)

    # One more for the subscriber; and all that there are, since the one that was free for longest is used next.
    await at_once(one, max(CONNECTIONS + 1, len(node._free)))  # noqa: SLF001
