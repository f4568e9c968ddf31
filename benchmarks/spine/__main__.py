"""How far a reader has to go to follow one request: `python -m benchmarks.spine`.

    python -m benchmarks.spine            # both paths, half a minute
    python -m benchmarks.spine request    # a streamed miss that another replica joins
    python -m benchmarks.spine sample     # from a sample that a replica takes to a TTL in force
    python -m benchmarks.spine --list     # with the functions in the order in which they are first called

Replicas of `dub5 serve`, a Redis and a provider, each a process on loopback. The replicas run under the profiler of
recorder.py, which notes each call of a function of ours: those in backend/dub5 and operator/dub5_operator. All is done
once before it counts, so that connections are open and what is made once is made. What a replica does anyway does not
count: the tasks that a replica which nobody asks runs for some seconds, with all that they begin, have a line of their
own. Rows from the application on leave the server's own files out, as they would be those of uvicorn.

On the path of a sample the operator reconciles a policy once, in this process and without kopf. Of the replica only
that counts which is in the files of SAMPLING or called from there: the rest of a request is the first path.

What is printed: the files and functions that are entered; the calls, each once, however often a coroutine is resumed;
those into another file; and how often chat and cache are crossed: the places where the list of functions, in the order
of their first calls, goes from the one package to the other, then the pairs of functions that call each other across
them, then those calls.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.spine.recorder import Call, Named, Recorder
from dub5.contract import CLASSES_KEY, SAMPLES
from dub5_operator.main import Operator
from testkit.client import Client, client
from testkit.commands import parser
from testkit.redis_server import RedisServer
from testkit.service import configuration, serving
from testkit.stand_in import provider

CHUNKS = 10
SAMPLING = {"cache/samples.py", "cache/policies.py"}
"""Where a replica takes samples, and takes up TTLs."""
SETTLED = 0.5
"""Seconds after the last chunk by which the answer is stored and the lease released."""
IDLE = 6.0
"""Seconds in which a replica does once at least what it does anyway: the sampler has the longest interval of all."""
LONGEST = 60.0
"""Seconds that one path may take."""


class Trace(NamedTuple):
    """The calls of one process, in order."""

    name: str
    calls: list[Call]

    @property
    def functions(self) -> list[Named]:
        """In the order in which they are first called."""
        return list(dict.fromkeys(call.called for call in self.calls))

    @property
    def files(self) -> set[str]:
        return {file for file, _ in self.functions}

    def into_another_file(self) -> Counter[tuple[str, str]]:
        pairs = ((call.caller[0], call.called[0]) for call in self.calls if call.caller is not None)
        return Counter(pair for pair in pairs if pair[0] != pair[1])

    def without(self, idle: Trace) -> Trace:
        """What did not begin where something begins in `idle`."""
        anyway = {call.origin for call in idle.calls}
        return Trace(self.name, [call for call in self.calls if call.origin not in anyway])

    def behind_the_server(self) -> Trace:
        """Without what is done below the ASGI application: reading HTTP from a socket."""
        calls = [call for call in self.calls if _package(call.called) != "server"]
        return Trace(f"{self.name}, from the application on", calls)

    def steps(self, one: str, other: str) -> int:
        """How often `functions` goes from one package to the other."""
        packages = [_package(function) for function in self.functions]
        return sum({before, after} == {one, other} for before, after in itertools.pairwise(packages))

    def crossings(self, one: str, other: str) -> Counter[tuple[Named, Named]]:
        """Calls from a function of one package to one of the other."""
        pairs = ((call.caller, call.called) for call in self.calls if call.caller is not None)
        return Counter(pair for pair in pairs if {_package(pair[0]), _package(pair[1])} == {one, other})

    def row(self) -> str:
        crossed = self.crossings("chat", "cache")
        figures = (
            len(self.files),
            len(self.functions),
            len(self.calls),
            self.into_another_file().total(),
            f"{self.steps('chat', 'cache')}, {len(crossed)}, {crossed.total()}",
        )
        return f"| {self.name} | " + " | ".join(map(str, figures)) + " |"


def _package(function: Named) -> str:
    return function[0].partition("/")[0]


class Replica(NamedTuple):
    """`dub5 serve` under the profiler; `path` is where a recording is written."""

    url: str
    pid: int
    path: Path

    def begin(self) -> None:
        self.path.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)

    async def end(self, name: str, below: Collection[str] = ()) -> Trace:
        """What was called since `begin`; with `below`, what is in these files or called from there."""
        os.kill(self.pid, signal.SIGUSR2)
        while not self.path.exists():  # noqa: ASYNC110  # another process: no event to await
            await asyncio.sleep(0.02)
        calls = Recorder.read(self.path)
        return Trace(name, [call for call in calls if not below or not call.files.isdisjoint(below)])


@asynccontextmanager
async def replicas(count: int, settings: dict[str, Any]) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        started = []
        for number in range(count):
            path = folder / f"{number}.json"
            module = ("benchmarks.spine.recorder", str(path))
            service = await stack.enter_async_context(serving(settings, module=module))
            started.append(Replica(service.url, service.pid, path))
        yield started


async def request() -> list[Trace]:
    """A streamed miss; another replica is asked the same before the first chunk has come."""
    async with provider() as asked, RedisServer() as redis, client() as asking:
        await asked.set(first_token=0.5, between=0.05, tokens=CHUNKS)
        settings = configuration(asked.base_url, redis.url)
        async with replicas(2, settings) as (leading, joining):

            async def both(question: str) -> None:
                leader = asyncio.create_task(asking.ask(leading.url, question, stream=True))
                while not await asked.calls(question):  # noqa: ASYNC110  # another process: no event to await
                    await asyncio.sleep(0.01)
                answers = [await asking.ask(joining.url, question, stream=True), await leader]
                if await asked.calls(question) != 1 or any(answer.error is not None for answer in answers):
                    raise RuntimeError(f"not one call that both have the answer of: {answers}")
                await asyncio.sleep(SETTLED)

            await both("the first")
            leading.begin()
            joining.begin()
            await both("the one that counts")
            traces = [await leading.end("the replica that leads"), await joining.end("the one that joins")]
            leading.begin()
            await asyncio.sleep(IDLE)
            idle = await leading.end("a replica that nobody asks")
            counted = [trace.without(idle) for trace in traces]
            return [*counted, *(trace.behind_the_server() for trace in counted), idle]


async def sample() -> list[Trace]:
    """Answers are fetched anew and compared, and one reconciliation shortens the TTL."""
    async with provider() as asked, RedisServer() as redis, client() as asking:
        await asked.set(first_token=0.0, between=0.0)
        classes = {"default": {"ttl": "1s", "max_ttl": "1h"}}
        settings = configuration(asked.base_url, redis.url, cache={"classes": classes})
        async with replicas(1, settings) as [replica]:
            operator = Operator(redis.client)

            async def reconcile(longest: str) -> None:
                spec = {"cacheClass": "default", "ttl": {"min": "1s", "initial": "30s", "max": longest}}
                claims = [("2026-01-01T00:00:00Z", "default", "uid")]
                report = await operator.policies.reconcile(
                    name="default", uid="uid", spec=spec, status={}, claims=claims, classes={"default"}
                )
                if report is None or report.conditions[0].status != "True":
                    raise RuntimeError(f"the policy is not in force: {report}")

            async def in_force(ttl: float) -> None:
                while await _ttl(asking, replica.url) != ttl:  # noqa: ASYNC110  # the same
                    await asyncio.sleep(0.05)

            while not await redis.client.exists(CLASSES_KEY):  # noqa: ASYNC110  # another process: no event to await
                await asyncio.sleep(0.02)
            await reconcile("1h")  # says that somebody reads samples
            await in_force(30)
            await _sampled(redis, asking, replica.url)
            replica.begin()
            await _sampled(redis, asking, replica.url)
            recorder = Recorder()
            with recorder:
                await reconcile("20s")
            await in_force(20)
            taken = await replica.end("the replica that samples", below=SAMPLING)
            return [taken, Trace("the operator", recorder.calls)]


async def _sampled(redis: RedisServer, asking: Client, url: str) -> None:
    """Three questions are asked, each for a new answer, until a batch of samples more is in Redis."""
    before = await _last_batch(redis)
    while await _last_batch(redis) == before:
        for number in range(3):
            answer = await asking.ask(url, f"question {number}", headers={"cache-control": "max-age=0"})
            if answer.error is not None:
                raise RuntimeError(answer.error)
        await asyncio.sleep(1)


async def _last_batch(redis: RedisServer) -> bytes | None:
    """Its id in the stream."""
    batches: Any = await redis.client.xrevrange(SAMPLES, count=1)
    return bytes(batches[0][0]) if batches else None


async def _ttl(asking: Client, url: str) -> float:
    async with asking.session.get(f"{url}/v1/cache") as response:
        return float((await response.json())["classes"]["default"]["ttl"])


def report(what: str, traces: list[Trace], *, listed: bool) -> None:
    print(f"## {what}\n")
    print(
        "| process | files | functions | calls | into another file | chat and cache |\n|---|---|---|---|---|---|"
    )
    for trace in traces:
        print(trace.row())
    print(f"\nFiles in all: {len(set().union(*(trace.files for trace in traces)))}\n")
    for trace in traces if listed else ():
        print(f"### {trace.name}\n")
        for file, functions in itertools.groupby(trace.functions, key=lambda function: function[0]):
            print(f"    {file}: {', '.join(name for _, name in functions)}")
        print("\nThe most calls into another file:\n")
        for (caller, called), number in trace.into_another_file().most_common(15):
            print(f"    {number:4} {caller} -> {called}")
        print("\nChat and cache:\n")
        for (by, of), number in trace.crossings("chat", "cache").items():
            print(f"    {number:4} {': '.join(by)} -> {': '.join(of)}")
        print()


PATHS = {
    "request": ("A streamed miss that another replica joins", request),
    "sample": ("From a sample to a TTL in force", sample),
}


async def main(paths: list[str], *, listed: bool) -> None:
    for path in paths:
        what, measured = PATHS[path]
        async with asyncio.timeout(LONGEST):
            traces = await measured()
        report(what, traces, listed=listed)


if __name__ == "__main__":
    options = parser(__doc__, PATHS)
    options.add_argument("--list", action="store_true", help="the functions, in order")
    given = options.parse_args()
    sys.exit(asyncio.run(main(given.rows or list(PATHS), listed=given.list)))
