"""Odd answers, each asked for live, by callers who join, whole, and once more from the cache: the same message?

Two replicas with one Redis; each answer of answers.yaml is a provider of its own. One caller streams, and while the
provider is held back a second one joins on the other replica, streamed, and a third one, whole. Then the same question
is asked again, streamed and whole; then another one, whole, and that again, both ways. What came is read by openai-
python, openai-node and a tolerant reader, and has to be what the answer says.

What is live goes through as the provider sent it, so an official client that cannot read an answer of the provider
itself cannot read it here either: then a stream that is no hit is not compared, and the row says how many these are.
Out of the cache, and whole, everyone has to read it.

An answer that cannot be used has to be an error, never of status 500, and nothing of it may be kept.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from benchmarks.figures import Figure, progress
from benchmarks.providers.answers import ODD, Odd
from benchmarks.providers.fake import Json, Reply, fake, whole
from benchmarks.providers.readers import Answer, Read, by_official_clients, tolerant
from testkit.client import client
from testkit.redis_server import RedisServer
from testkit.service import configuration, replicas

AT_ONCE = 6
JOINING = 0.15
"""Seconds that the provider is held back after the first caller's call came, for the others to join."""
_STORING = 2.0
"""Seconds after which an answer that is kept has to be there for the other replica."""
TIMEOUTS = {"connect": "2s", "first_token": "3s", "between_tokens": "2s", "total": "10s"}


class Got(msgspec.Struct, frozen=True):
    """One response to one way of asking."""

    odd: Odd
    way: str
    streamed: bool
    status: int
    cache: str
    body: bytes

    @property
    def how(self) -> str:
        return (
            self.way
            if self.way in {"live", "whole"}
            else f"{self.way} {'streamed' if self.streamed else 'whole'}"
        )

    @property
    def failed(self) -> bool:
        """An error in place of an answer, or behind a part of one."""
        if self.status != 200:
            return True
        return self.streamed and (b'"error"' in self.body or not self.body.endswith(b"data: [DONE]\n\n"))

    @property
    def hit(self) -> bool:
        return "; hit" in self.cache


class Asking:
    """The way that each answer takes through the service: both ends of it. `urls` are the two replicas'."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.urls: list[str] = []
        self._session = session
        self._called: dict[str, asyncio.Event] = {}
        self._gates: dict[str, asyncio.Event] = {}

    async def answer(self, name: str, body: Json) -> Reply:
        """The provider's side."""
        odd = _by_path[name]
        if "held" in str(body["messages"][-1]["content"]):
            self._called[name].set()
            await self._gates[name].wait()
        if body.get("stream"):
            parts, kind = odd.stream, odd.stream_type
        else:
            parts, kind = (None if odd.whole is None else (odd.whole,)), odd.whole_type
        if parts is None:  # it failed for whoever streamed, and the one who joined asks alone
            return refused
        return Reply(parts, headers=odd.headers, kind=kind)

    async def every_way(self, odd: Odd) -> list[Got]:
        found = []
        if odd.stream is not None:
            found += await self._streamed(odd)
        if odd.whole is not None:
            found.append(await self._ask(0, odd, "whole", "asked whole", stream=False))
            found += await self._again(odd, "asked whole")
        return found

    async def _streamed(self, odd: Odd) -> list[Got]:
        name, question = path_of(odd), "asked held"
        self._called[name], self._gates[name] = asyncio.Event(), asyncio.Event()
        leading = asyncio.create_task(self._ask(0, odd, "live", question, stream=True))
        came = asyncio.create_task(self._called[name].wait())
        await asyncio.wait([leading, came], return_when=asyncio.FIRST_COMPLETED)
        came.cancel()
        joining = [asyncio.create_task(self._ask(1, odd, "joined", question, stream=True))]
        if odd.whole is not None or odd.stored is not False:  # who does not join asks the provider, whole
            joining.append(asyncio.create_task(self._ask(0, odd, "joined", question, stream=False)))
        await asyncio.sleep(JOINING)
        self._gates[name].set()
        return [await leading, *await asyncio.gather(*joining), *await self._again(odd, question)]

    async def _again(self, odd: Odd, question: str) -> list[Got]:
        """From the cache, where it is kept: streamed from the other replica, whole from the one that asked."""
        found = []
        for replica, stream in ((0, False), (1, True)):
            if odd.stored is not True and (odd.stream if stream else odd.whole) is None:
                continue  # nobody says that it is kept, and the provider has no such shape of it
            until = asyncio.get_running_loop().time() + _STORING
            while True:
                got = await self._ask(replica, odd, "replayed", question, stream=stream)
                if odd.stored is not True or got.hit or asyncio.get_running_loop().time() > until:
                    break
                await asyncio.sleep(0.1)
            found.append(got)
        return found

    async def _ask(self, replica: int, odd: Odd, way: str, question: str, *, stream: bool) -> Got:
        body: Json = {
            "model": path_of(odd),
            "stream": stream,
            "messages": [{"role": "user", "content": question}],
            **odd.asks,
        }
        url = f"{self.urls[replica]}/v1/chat/completions"
        async with self._session.post(url, json=body) as response:
            read = await response.content.read()
            return Got(odd, way, stream, response.status, response.headers.get("cache-status", ""), read)


def path_of(odd: Odd) -> str:
    """The name that it has in a configuration."""
    return _paths[odd.name]


_paths = {name: f"odd-{number}" for number, name in enumerate(ODD)}
_by_path = {_paths[name]: odd for name, odd in ODD.items()}


def _providers(url: str) -> dict[str, Any]:
    return {
        path_of(odd): {
            "kind": odd.kind,
            "base_url": f"{url}/{path_of(odd)}{'/v1' if odd.kind == 'openai' else ''}",
            "timeouts": TIMEOUTS,
        }
        for odd in ODD.values()
    }


async def gather() -> list[Got]:
    """Every answer in every way."""
    found: list[Got] = []
    async with RedisServer() as redis, client(timeout=30) as asking:
        made = Asking(asking.session)
        async with fake(made.answer) as provider:
            settings = configuration(
                provider.url,
                f"redis://127.0.0.1:{redis.port}",
                providers=_providers(provider.url),
                models={path: {"routes": [f"{path}/m"]} for path in _by_path},
            )
            async with replicas(2, settings) as fleet:
                made.urls = [service.url for service in fleet]
                at_once = asyncio.Semaphore(AT_ONCE)

                async def one(odd: Odd) -> None:
                    async with at_once:
                        found.extend(await made.every_way(odd))
                        progress(f"odd answers: {len(found)} responses, {odd.name}")

                await asyncio.gather(*map(one, ODD.values()))
    return found


refused = whole({"error": {"message": "There is no such shape of this answer."}}, status=400)


@dataclass
class Judged:
    """What is wrong, by kind, and for each answer in which ways. `apart` are, by client, the answers that it cannot
    read of the provider itself."""

    different: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    kept: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    not_kept: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    of_500: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    used: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    apart: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    compared: int = 0


async def measure() -> list[Figure]:
    got = await gather()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydantic")  # of odd types, which are what this is about
        judged = await judge(got)
    ways = Counter(each.way for each in got)
    joined = sum("collapsed" in each.cache for each in got)
    hits = sum(each.hit for each in got)
    apart = "; ".join(
        f"{len(names)} streams are not compared live for {reader}, which cannot read them of the provider itself"
        for reader, names in judged.apart.items()
    )
    about = (
        f"{len(ODD)} answers, {len(got)} responses ({', '.join(f'{count} {way}' for way, count in ways.items())}; "
        f"{joined} joined, {hits} hits), {judged.compared} readings; {apart}"
    )
    return [
        _figure("the same message by every reader", judged.different, about),
        _figure("malformed, empty, filtered, cut or refused answers in the cache", judged.kept),
        _figure("answers that may be kept, and are", judged.not_kept),
        _figure("statuses 500", judged.of_500),
        _figure("unusable answers told as errors", judged.used),
    ]


def _figure(what: str, wrong: Mapping[str, Sequence[str]], about: str = "") -> Figure:
    seen = "; ".join(f"{name} ({', '.join(dict.fromkeys(ways))})" for name, ways in wrong.items())
    measured = ", ".join(filter(None, (f"{len(wrong)} wrong", about))) + (f". Wrong: {seen}" if wrong else "")
    return Figure(what, "0 wrong", measured, not wrong)


async def judge(got: Sequence[Got]) -> Judged:
    judged = Judged()
    readings = await _read(got)
    direct = await _read_directly()
    for number, each in enumerate(got):
        name = each.odd.name
        if each.status == 500:
            judged.of_500[name].append(each.how)
        if each.hit and each.odd.stored is False:
            judged.kept[name].append(each.how)
        if each.way == "replayed" and each.odd.stored is True and not each.hit:
            judged.not_kept[name].append(each.how)
        if not each.odd.says:
            if not each.failed:
                judged.used[name].append(each.how)
            continue
        if each.odd.optional and each.failed:
            continue
        wrong = {}
        for reader, all_of_them in readings.items():
            live = each.streamed and not each.hit and not direct.get((reader, name), True)
            if live or (each.streamed and reader in each.odd.unread):
                judged.apart[reader].add(name)
                continue
            judged.compared += 1
            read = all_of_them[number]
            if not read.means(each.odd.says, reasoning=reader == "tolerant"):
                wrong[reader] = read
        if each.status != 200:
            judged.different[name].append(f"{each.how}: {each.status}")
        elif wrong:
            by = "" if len(wrong) == len(readings) else f" by {' and '.join(wrong)}"
            judged.different[name].append(f"{each.how}{by}")
            for reader, read in wrong.items():
                print(f"{name}, {each.how}, {reader}: {read.error or read.choices}"[:300], file=sys.stderr)
    return judged


async def _read(got: Sequence[Got]) -> dict[str, list[Read]]:
    answers = [Answer(each.body, each.streamed) for each in got]
    return {"tolerant": [tolerant(each) for each in answers], **await by_official_clients(answers)}


async def _read_directly() -> dict[tuple[str, str], bool]:
    """Whether an official client reads an answer rightly when it asks the provider itself, by reader and name."""
    streamed = [odd for odd in ODD.values() if odd.kind == "openai" and odd.stream is not None and odd.says]
    answers = [
        Answer(b"".join(part for part in odd.stream or () if isinstance(part, bytes)), streamed=True)
        for odd in streamed
    ]
    found = await by_official_clients(answers)
    return {
        (reader, odd.name): read.means(odd.says)
        for reader, reads in found.items()
        for odd, read in zip(streamed, reads, strict=True)
    }
