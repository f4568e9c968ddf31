"""Four replicas leave one after the other, each replaced by a new one, under live streams. Who notices?

STREAMS clients stream answers of some six seconds, one after the other, half of them in pairs that ask the same at
once, so that flights with followers on other replicas are drained as well. ASKERS clients ask for short whole answers.
All keep their connections for as long as nobody closes them, through a balancer of connections that looks at /readyz
every PERIOD seconds and lets go of a replica DELAY seconds after it turned unready. Each replica in turn is sent
SIGTERM, lingers for LINGER, and is replaced when it has left.

A client that was told `Connection: close`, or finds its connection closed before it asks, opens another one, as every
pool does. Nothing is asked twice: a request that gets no answer is counted, whatever the reason.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.faults.balancer import Balancer
from benchmarks.figures import Figure, progress
from testkit.redis_server import RedisServer
from testkit.service import Service, configuration, serving, signalled
from testkit.stand_in import provider
from testkit.wire import Reply, Wire, request

REPLICAS, STREAMS, ASKERS = 4, 200, 50
LINGER, PERIOD, DELAY = 5.0, 0.5, 1.0
CONTROL = 15.0
"""Seconds of the same load before the first signal. What is cut then was not cut by a signal: on a machine that is too
busy, an answer of Redis later than its timeout ends a flight's followers on other replicas."""
PATIENCE = 60.0
"""Seconds in which a replica has to have left."""


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
        streams: int = STREAMS,
        askers: int = ASKERS,
        think: tuple[float, float] = (0.2, 0.8),
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

    def ended(self, how: str) -> int:
        """How many requests were `cut` or `refused`."""
        return sum(count for what, count in self.seen.items() if what.startswith(how))

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


async def measure(length: float = 1.0) -> list[Figure]:
    """`length` shortens the answers."""
    async with provider() as asked, RedisServer() as redis, AsyncExitStack() as stack:
        await asked.set(first_token=0.2, spread=0.5, between=0.2 * length, tokens=30)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        config = Path(folder) / "dub5.yaml"
        config.write_text(json.dumps(configuration(asked.base_url, redis.url)), "utf-8")
        balancer = await stack.enter_async_context(Balancer(period=PERIOD, delay=DELAY).listening())
        fleet = [await _started(stack, config, balancer) for _ in range(REPLICAS)]
        load = Load(balancer.url)
        loading = asyncio.create_task(load.run())
        progress("the same load, and nobody leaves")
        await asyncio.sleep(CONTROL)
        control = load.ended("cut") + load.ended("refused")
        live, took, codes = [], [], []
        for number, service in enumerate(fleet):
            progress(f"replica {number + 1} of {REPLICAS} leaves")
            live.append(load.live)
            began = time.monotonic()
            signalled(service, signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                codes.append(await service.process.wait())
            took.append(time.monotonic() - began)
            await _started(stack, config, balancer)
        load.end()
        await loading
    cut, refused = load.ended("cut"), load.ended("refused")
    ends = ", ".join(f"{count:,} {what}" for what, count in load.seen.most_common())
    measured = (
        f"{cut} cut, {refused} refused ({ends}), {control} of these before the first signal; "
        f"{'/'.join(map(str, live))} streams live at the signals, {load.moved} times a client was told to move, "
        f"{balancer.refused} connections not taken; left after {' / '.join(f'{each:.1f}' for each in took)} s, "
        f"exit codes {codes}"
    )
    what = f"SIGTERM under {STREAMS} live streams, {REPLICAS} replicas in turn behind a balancer"
    good = cut == 0 and refused == 0 and not any(codes) and min(live) > STREAMS / 2
    return [Figure(what, "0 cut streams, 0 refused requests", measured, good)]


async def _started(stack: AsyncExitStack, config: Path, balancer: Balancer) -> Service:
    service = await stack.enter_async_context(serving(config, linger=f"{LINGER:.0f}s"))
    await balancer.add(service)
    return service
