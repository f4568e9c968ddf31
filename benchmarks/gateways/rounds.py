"""Rounds: contestants in turn, each under the same load, again and again; what does not count is told and repeated.

A round is void where any request failed, where the core of the load was more than 85 % busy (then the load, not the
server, may have been measured), or where other programs took more than 5 % of the server's core. It is repeated a few
times; what is void even then is used all the same, and the table says so.

A rate is per second of the server's CPU. Where a server has a core for itself and the load fills it, that is its
throughput; and it stays right where the load cannot fill the core (nginx), or other programs take some of it.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.figures import progress
from benchmarks.gateways import cores
from benchmarks.gateways.contestants import OTHERS, Running, python_package
from benchmarks.gateways.cores import Use
from benchmarks.gateways.load import run, streams, wrk
from benchmarks.gateways.provider import TEXT
from benchmarks.gateways.questions import Ask, numbered
from testkit.wire import Reply, Wire

MOST_LOAD, MOST_FOREIGN = 0.85, 0.05
PY_SPY = "0.4.3"
_TRIES = 3
_SIZE_MAY_DIFFER = 0.1


class Round(msgspec.Struct, frozen=True):
    """One round of one contestant. `work` is requests or chunks; `void` says why it does not count."""

    workload: str
    contestant: str
    work: int
    seconds: float
    use: Use
    p50: float
    p99: float
    failed: int
    void: str | None

    @property
    def rate(self) -> float:
        """Per second of the server's CPU."""
        return self.work / self.use.seconds

    @property
    def throughput(self) -> float:
        """Per second."""
        return self.work / self.seconds


class Entry(msgspec.Struct, frozen=True):
    """A contestant in a workload: `load(seconds)` is one round of it."""

    server: Running
    load: Callable[[float], Awaitable[tuple[int, float, float, float, int]]]
    """Gives work, seconds, p50, p99 and how many failed."""

    prepare: Callable[[], Awaitable[None]]
    """Checks that answers are right, and warms up; before each round."""


class Bench:
    """All rounds of a run. `seconds` is how long one is; flame graphs of ours go to the folder `profiles`, and `before`
    is the interpreter of an older commit's environment."""

    def __init__(
        self,
        *,
        rounds: int,
        seconds: float,
        quick: bool = False,
        profiles: Path | None = None,
        before: str | None = None,
    ) -> None:
        self.profiles = profiles
        self.before = before
        self.count = rounds
        self.seconds = seconds
        self.quick = quick
        self.rounds: list[Round] = []
        self.repeated: list[Round] = []
        """Void rounds in whose place another one counts."""
        self.others: list[dict[str, Any]] = []
        """What rows measured that are not made of rounds."""

    async def alternate(self, workload: str, entries: Sequence[Entry]) -> dict[str, list[Round]]:
        """By contestant, those that count."""
        found: dict[str, list[Round]] = {entry.server.name: [] for entry in entries}
        for number in range(self.count):
            for entry in entries:
                progress(f"{workload}: {entry.server.name}, round {number + 1} of {self.count}")
                found[entry.server.name].append(await self.once(workload, entry))
        return found

    async def once(self, workload: str, entry: Entry) -> Round:
        for tried in range(_TRIES):
            await entry.prepare()
            before = cores.read(entry.server.pid)
            seen, _ = await asyncio.gather(entry.load(self.seconds), self._profile(workload, entry.server))
            work, seconds, p50, p99, failed = seen
            use = cores.between(before, cores.read(entry.server.pid))
            void = _void(use, failed, work)
            done = Round(workload, entry.server.name, work, seconds, use, p50, p99, failed, void)
            if void is None or tried == _TRIES - 1:
                break
            self.repeated.append(done)
        self.rounds.append(done)
        return done

    async def _profile(self, workload: str, server: Running) -> None:
        """Where a server of ours is in the middle of a round, by py-spy."""
        if self.profiles is None or server.name in OTHERS:
            return
        picture = self.profiles / f"{workload}, {server.name}.svg"
        py_spy = await python_package(f"py-spy-{PY_SPY}", [f"py-spy=={PY_SPY}"], "py-spy")
        await asyncio.sleep(self.seconds / 4)
        how = ["--duration", f"{max(1, self.seconds / 2):.0f}", "--rate", "500", "--nonblocking"]
        await run(str(py_spy), "record", "--pid", str(server.pid), *how, "--output", str(picture))


def _void(use: Use, failed: int, work: int) -> str | None:
    if failed or not work:
        return f"{failed} failed"
    if use.load > MOST_LOAD:
        return f"load core {use.load:.0%} busy"
    if use.foreign > MOST_FOREIGN:
        return f"others took {use.foreign:.0%} of the server's core"
    return None


def whole(
    server: Running,
    ask: Callable[[], Ask],
    *,
    connections: int,
    cache: str = "",
    proof: str = "",
    prime: bool = False,
) -> Entry:
    """Whole answers by wrk. `cache` is what Cache-Status must say, and `proof` a header that must be there; `prime`
    asks for every body once before the first round."""
    size = 0.0
    primed = not prime

    async def prepare() -> None:
        nonlocal size, primed
        asked = ask()
        if not primed:
            await fill(server, asked)
            primed = True
        wire = await Wire.to(server.url)
        for head in range(len(asked.heads)):
            request = asked.example(server.host, head)
            if prime:  # wrk may have left before it was answered
                await wire.ask(request)
            _check(server, await wire.ask(request), cache, proof)
        wire.close()
        warm = await wrk(server.url, ask(), connections=connections, seconds=1)
        size = warm.bytes / max(1, warm.requests)

    async def load(seconds: float) -> tuple[int, float, float, float, int]:
        seen = await wrk(server.url, ask(), connections=connections, seconds=seconds)
        right = not size or abs(seen.bytes / max(1, seen.requests) / size - 1) < _SIZE_MAY_DIFFER
        return seen.requests, seen.seconds, seen.p50, seen.p99, seen.failed if right else seen.requests

    return Entry(server, load, prepare)


async def fill(server: Running, asked: Ask) -> None:
    """Asks for every body, so that there is an answer to each, or for all the numbers of the only one."""
    count = asked.count if len(asked.bodies) == 1 else len(asked.bodies)
    held = asked.first
    while held < count:
        progress(f"{server.name}: {held:,} of {count:,} answers stored")
        turns = msgspec.structs.replace(asked, order="turn", first=held, count=count, spellings=1, seen=True)
        held = (await wrk(server.url, turns, connections=64, seconds=2)).next


def _check(server: Running, reply: Reply, cache: str, proof: str) -> None:
    """One answer: whole and right, and from where it should be."""
    if not reply.complete or TEXT.encode() not in reply.body:
        raise RuntimeError(f"{server.name} answers wrongly, with status {reply.status}: {reply.body[:200]!r}")
    said = reply.headers.get("cache-status", "")
    if cache not in said or (proof and proof not in reply.headers):
        raise RuntimeError(
            f"{server.name}: `{said}` where `{cache}` and {proof or 'nothing else'} were expected"
        )


def streamed(server: Running, count: int, first: Callable[[], int]) -> Entry:
    """Streams by `streamer`; work is chunks, p50 and p99 are of how late a chunk came."""

    async def prepare() -> None:
        wire = await Wire.to(server.url)
        asked = numbered(headers=server.headers, stream=True, first=first())
        reply = await wire.ask(asked.example(server.host))
        wire.close()
        if not reply.complete or reply.body.count(b"@") != 2 * 99:
            raise RuntimeError(f"{server.name} streams wrongly: {reply.status} {reply.body[:200]!r}")

    async def load(seconds: float) -> tuple[int, float, float, float, int]:
        seen = await streams(server.url, count, first=first(), seconds=seconds, headers=server.headers)
        late = seen.late or [0.0, 0.0, 0.0]
        return seen.chunks, seen.seconds, late[0], late[1], seen.failed

    return Entry(server, load, prepare)


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """`median (least..greatest)`."""
    return f"{show(statistics.median(values))} ({show(min(values))}..{show(max(values))})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round: what disturbed one disturbed its neighbour too."""
    return [mine / other if other else math.inf for mine, other in zip(ours, theirs, strict=True)]


def voids(rounds: Sequence[Round]) -> str:
    """What the table says of rounds that do not count and were used."""
    void = [one.void for one in rounds if one.void]
    return f"; {len(void)} of {len(rounds)} rounds void: {void[0]}" if void else ""
