"""Clients that leave at a random point, and others that keep their connections for as long as nobody closes them.

A crowd leaves before the body is sent whole; after it, waiting for a place or for the first token; in the middle of
the answer; after its end. Half leave by a reset, half politely. Six in ten ask something of their own, the others one
of the questions that SHARED neighbours ask, on either replica, so that they lead or follow flights together.

Of those who stay, a client that was told `Connection: close`, or finds its connection closed before it asks, opens
another one, as every pool does. Nothing is asked twice: a request that gets no answer is counted, whatever the reason.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from testkit.wire import Reply, Wire, request

SHARED, FIRST_TOKEN, TOKENS = 20, 0.15, 10
POINTS = ("before the body was sent", "waiting", "mid-answer", "after the end")


class Crowd:
    """`left` counts by the point at which they left; some answers are over before their client could."""

    def __init__(self, urls: list[str], clients: int, at_once: int) -> None:
        self.left: Counter[str] = Counter()
        self._urls = urls
        self._at_once = at_once
        self._clients = clients
        self._next = 0
        self._chance = random.Random(1)

    async def run(self) -> None:
        await asyncio.gather(*(self._come_and_go() for _ in range(self._at_once)))

    async def _come_and_go(self) -> None:
        while self._next < self._clients:
            number, self._next = self._next, self._next + 1
            wire = await Wire.to(self._chance.choice(self._urls))
            try:
                point = await self._ask(wire, number)
            except (OSError, asyncio.IncompleteReadError) as error:
                point = f"failed: {type(error).__name__}"
            self.left[point] += 1
            (wire.reset if self._chance.random() < 0.5 else wire.close)()

    async def _ask(self, wire: Wire, number: int) -> str:
        """Where the client stops; it closes its connection then."""
        chance, point = self._chance, self._chance.choice(POINTS)
        question = shared(number) if chance.random() < 0.4 else f"own {number}"
        asked = request(question, stream=chance.random() < 0.5)
        if point == "before the body was sent":
            wire.writer.write(asked[: chance.randrange(len(asked) // 2, len(asked))])
            await asyncio.sleep(chance.uniform(0, 0.05))
            return point
        wire.writer.write(asked)
        if point == "waiting":
            await asyncio.sleep(chance.uniform(0, 2 * FIRST_TOKEN))
            return point
        reply = await wire.head(time.monotonic())
        parts = chance.randrange(1, TOKENS) if point == "mid-answer" else -1
        async for part in wire.parts(reply):
            parts -= 1
            if parts == 0:
                return point
            reply.body += part
        return "after the end" if reply.status == 200 else f"answered with {reply.status}"


def shared(number: int) -> str:
    return f"shared {number // SHARED}"


class Client:
    """One connection at a time, kept."""

    def __init__(self, url: str, load: Load) -> None:
        self._url = url
        self._load = load
        self._wire: Wire | None = None

    async def ask(self, question: str, *, stream: bool) -> None:
        load, begun = self._load, False
        try:
            if self._wire is None or self._wire.reader.at_eof():
                self.leave()
                self._wire = await Wire.to(self._url)
            self._wire.writer.write(request(question, stream=stream))
            reply = await self._wire.head(time.monotonic())
            begun = stream and reply.status == 200
            load.live += begun
            try:
                async for part in self._wire.parts(reply):
                    reply.body += part
            finally:
                load.live -= begun
        except (OSError, asyncio.IncompleteReadError) as error:
            load.seen[f"{'cut' if begun else 'refused'}: {type(error).__name__}"] += 1
            self.leave()
            return
        if reply.complete:
            load.seen["streams" if stream else "answers"] += 1
        else:
            load.seen[f"cut: {_last_words(reply)}" if begun else f"refused: {reply.status}"] += 1
        if reply.closing:
            load.moved += 1
            self.leave()

    def leave(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None


def _last_words(reply: Reply) -> str:
    """The message of the error event with which a stream ended."""
    _, found, message = reply.body.rpartition(b'"message":"')
    return message.partition(b'"')[0].decode() if found else "no [DONE]"


class Load:
    """All clients. `seen` counts how requests ended, `live` are the streams under way, `moved` those told to close.

    `think` is for how many seconds those who do not stream pause between two questions.
    """

    def __init__(
        self,
        url: str,
        *,
        streams: int,
        askers: int,
        think: tuple[float, float],
    ) -> None:
        self.seen: Counter[str] = Counter()
        self.live = self.moved = 0
        self._url = url
        self._streams, self._askers, self._think = streams, askers, think
        self._over = asyncio.Event()
        self._chance = random.Random(1)

    async def run(self) -> None:
        await asyncio.gather(
            *(self._stream_on(f"own {number}", 1) for number in range(self._streams // 2)),
            *(self._stream_on(f"pair {number}", 2) for number in range(self._streams // 4)),
            *(self._ask_on(f"short {number}") for number in range(self._askers)),
        )

    def end(self) -> None:
        """What is under way is still waited for."""
        self._over.set()

    async def _stream_on(self, name: str, together: int) -> None:
        clients = [Client(self._url, self) for _ in range(together)]
        number = 0
        await asyncio.sleep(self._chance.uniform(0, 2))
        while not self._over.is_set():
            number += 1
            await asyncio.gather(*(client.ask(f"{name} {number}", stream=True) for client in clients))
            await asyncio.sleep(self._chance.uniform(0, 0.3))
        for client in clients:
            client.leave()

    async def _ask_on(self, name: str) -> None:
        client, number = Client(self._url, self), 0
        while not self._over.is_set():
            number += 1
            await client.ask(f"{name} {number}", stream=False)
            await asyncio.sleep(self._chance.uniform(*self._think))
        client.leave()
