"""Odd answers as real providers give them, byte by byte: the same message to every caller, by every reader.

Two replicas with one Redis; each answer of answers.yaml is a provider of its own. One caller streams, and while the
provider is held back a second one joins on the other replica, streamed, and a third one, whole. Then the same question
is asked again, whole and streamed; then another one, whole, and that again, both ways. What came is read by a tolerant
reader that shares no code with the service, by openai-python and, where it is installed, by openai-node.

What is live goes through as the provider sent it, so an official client that cannot read an answer of the provider
itself is not asked about it on a stream that is no hit. Out of the cache, and whole, everyone has to read it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import pytest

from testkit.http_server import Call, FakeServer, Wire, refuse, stream
from tests.harness import Running, running
from tests.providers.answers import DATA, ODD, Odd, means, parts_of, read
from tests.providers.answers import stream as frames
from tests.providers.clients import Answer, by_clients
from tests.tolerant_reader import read_events, read_whole

PARTS = 8
"""In which the answers are tried, so that tests share them."""
TIMEOUTS = dict.fromkeys(("connect", "first_token", "between_tokens", "total"), "60s")

Json = dict[str, Any]


class Got(NamedTuple):
    """One response to one way of asking."""

    odd: Odd
    way: str
    streamed: bool
    answer: httpx.Response

    @property
    def hit(self) -> bool:
        return "; hit" in self.answer.headers.get("cache-status", "")

    @property
    def failed(self) -> bool:
        """An error in place of an answer, or behind a part of one."""
        body = self.answer.content
        if self.answer.status_code != 200:
            return True
        return self.streamed and (b'"error"' in body or not body.endswith(b"data: [DONE]\n\n"))

    def tolerant(self) -> object:
        try:
            body = self.answer
            return read(read_events(body.content) if self.streamed else read_whole(body.json()))
        except (AssertionError, ValueError, KeyError, TypeError, AttributeError) as error:
            return repr(error)


def provider(url: str, name: str, kind: str) -> Json:
    base_url = f"{url}/{name}{'/v1' if kind == 'openai' else ''}"
    return {"kind": kind, "base_url": base_url, "timeouts": TIMEOUTS}


class Asking:
    """The way that each answer takes through the service: both ends of it."""

    def __init__(self, odds: list[Odd]) -> None:
        self.odds = {f"odd-{number}": odd for number, odd in enumerate(odds)}
        self.fake = FakeServer()
        self.fake.reply = self._answer
        self.fleet: list[Running] = []
        self._called: Counter[str] = Counter()
        self._gates = {name: asyncio.Event() for name in self.odds}

    async def _answer(self, call: Call, wire: Wire) -> None:
        """The provider's side."""
        name = call.path.split("/")[1]
        odd, streamed = self.odds[name], call.body.get("stream")
        if "held" in str(call.body["messages"][-1]["content"]):
            self._called[name] += 1
            await self._gates[name].wait()
        parts = odd.stream if streamed else None if odd.whole is None else (odd.whole,)
        if parts is None:  # it failed for whoever streamed, and the one who joined asks alone
            await refuse(400, "There is no such shape of this answer.")(call, wire)
            return
        kind = odd.stream_type if streamed else odd.whole_type
        await stream(parts, headers={"content-type": kind, **odd.headers})(call, wire)

    @asynccontextmanager
    async def running(self, redis: str) -> AsyncIterator[None]:
        async with self.fake:
            config: Json = {
                "redis": {"url": redis},
                "providers": {
                    name: provider(self.fake.url, name, odd.kind) for name, odd in self.odds.items()
                },
                "models": {name: {"routes": [f"{name}/m"]} for name in self.odds},
                "cache": {"classes": {"default": {"ttl": "1h"}}},
            }
            async with running(config) as one, running(config) as other:
                self.fleet = [one, other]
                yield

    async def every_way(self, name: str) -> list[Got]:
        odd = self.odds[name]
        found = await self._streamed(name, odd) if odd.stream is not None else []
        if odd.whole is not None:
            found.append(await self._ask(0, name, "whole", "asked whole", streamed=False))
            found += await self._again(name, odd, "asked whole")
        return found

    async def _streamed(self, name: str, odd: Odd) -> list[Got]:
        question = "asked held"
        leading = asyncio.create_task(self._ask(0, name, "live", question, streamed=True))
        await self._until(lambda: self._called[name] > 0)
        joining = [asyncio.create_task(self._ask(1, name, "joined", question, streamed=True))]
        if odd.whole is not None or odd.stored is not False:  # who does not join asks the provider, whole
            joining.append(asyncio.create_task(self._ask(0, name, "joined", question, streamed=False)))
        callers, flights = 1 + len(joining), self.fleet[0].replica.application._flights
        await self._until(
            lambda: callers in (flights.followers(), self._called[name])
        )  # some are never joined
        self._gates[name].set()
        return [await leading, *await asyncio.gather(*joining), *await self._again(name, odd, question)]

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():  # noqa: ASYNC110  # a count has no event
                await asyncio.sleep(0.005)

    async def _again(self, name: str, odd: Odd, question: str) -> list[Got]:
        """From the cache, where it is kept: whole from the replica that asked, streamed from the other one."""
        found = []
        for replica, streamed in ((0, False), (1, True)):
            if odd.stored is not True and (odd.stream if streamed else odd.whole) is None:
                continue  # nobody says that it is kept, and the provider has no such shape of it
            async with asyncio.timeout(60):
                got = await self._ask(replica, name, "replayed", question, streamed=streamed)
                while odd.stored is True and not got.hit:
                    got = await self._ask(replica, name, "replayed", question, streamed=streamed)
            found.append(got)
        return found

    async def _ask(self, replica: int, name: str, way: str, question: str, *, streamed: bool) -> Got:
        odd = self.odds[name]
        answer = await self.fleet[replica].chat(question, model=name, stream=streamed, **odd.asks)
        return Got(odd, way, streamed, answer)


@pytest.mark.parametrize("part", range(PARTS))
async def test_an_odd_answer_is_the_same_message_to_all_who_ask_and_read(redis: str, part: int) -> None:
    asking = Asking(list(ODD.values())[part::PARTS])
    found: list[Got] = []
    async with asking.running(redis):
        for name in asking.odds:
            found += await asking.every_way(name)
    wrong = [f"{got.odd.name}, {got.way}: {why}" for got in found for why in complaints(got)]
    usable = [got for got in found if got.odd.says and not got.failed]
    bodies = list({Answer(got.answer.content, got.streamed): None for got in usable})
    directly = await _directly(asking.odds.values())
    for reader, readings in (await by_clients(bodies)).items():
        direct = directly[reader]
        read_as = dict(zip(bodies, readings, strict=True))
        for got in usable:
            reading = read_as[Answer(got.answer.content, got.streamed)]
            live = got.streamed and not got.hit and not direct.get(got.odd.name, True)
            unread = got.streamed and reader in got.odd.unread
            if not live and not unread and not means(reading, got.odd.says, reasoning=False):
                wrong.append(f"{got.odd.name}, {got.way}, {reader}: {reading}")
    assert wrong == []


def complaints(got: Got) -> list[str]:
    """What is wrong about a response, but for what official clients read in it."""
    wrong = []
    if got.answer.status_code == 500:
        wrong.append("status 500")
    if got.hit and got.odd.stored is False:
        wrong.append("kept")
    if not got.odd.says:
        return wrong if got.failed else [*wrong, "used"]
    if got.odd.optional and got.failed:
        return wrong
    reading = got.tolerant()
    if got.answer.status_code != 200 or not means(reading, got.odd.says, reasoning=True):
        wrong.append(f"{got.answer.status_code}: {reading}")
    return wrong


async def _directly(odds: Any) -> dict[str, dict[str, bool]]:
    """By client, whether it reads a stream rightly when it asks the provider itself."""
    streamed = [odd for odd in odds if odd.kind == "openai" and odd.stream is not None and odd.says]
    bodies = [b"".join(part for part in odd.stream if isinstance(part, bytes)) for odd in streamed]
    return {
        reader: {
            odd.name: means(reading, odd.says, reasoning=False)
            for odd, reading in zip(streamed, readings, strict=True)
        }
        for reader, readings in (await by_clients([Answer(body, streamed=True) for body in bodies])).items()
    }


# --- What comes before the answer ---

PAIRS = {
    f"pair-{number}": pair
    for number, pair in enumerate(
        (kind, preamble, end)
        for kind, preambles in DATA["preambles"].items()
        for preamble, end in itertools.product(preambles, DATA["ends"])
    )
}


async def test_a_stream_that_begins_with_nothing_and_fails_is_the_next_routes() -> None:
    """Each beginning that is nothing of an answer yet, with each end that is none."""

    async def answer(call: Call, wire: Wire) -> None:
        name = call.path.split("/")[1]
        if name == "well":
            await stream(frames("<<plain>>"))(call, wire)
            return
        kind, preamble, end = PAIRS[name]
        begun, ends = b"".join(frames(DATA["preambles"][kind][preamble])), DATA["ends"][end]
        await stream([begun, *parts_of(ends.get("stream", []), then=ends.get("then"))])(call, wire)

    async with FakeServer() as fake:
        fake.reply = answer
        providers = {name: provider(fake.url, name, kind) for name, (kind, *_) in PAIRS.items()}
        config: Json = {
            "providers": {**providers, "well": provider(fake.url, "well", "openai")},
            "models": {name: {"routes": [f"{name}/m", "well/m"]} for name in PAIRS},
            "cache": {"enabled": False},
        }
        wrong = []
        async with running(config) as server:
            for name, pair in PAIRS.items():
                answered = await server.chat("hello?", model=name, stream=True)
                if "error" in answered.text or read(read_events(answered.content))[0].content != "hello":
                    wrong.append((pair, answered.text))
    assert wrong == []
    assert len(fake.calls) == 2 * len(PAIRS)  # every stream met the fault first
