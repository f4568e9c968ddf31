"""One model of a provider is in trouble, another one of the same provider is well. Is the other one answered?

Two replicas with one Redis. Each round has a provider of its own with two models: `bad` has the fault, `good` answers.
For LENGTH seconds the good one is asked new questions on a beat, streamed and whole in turn, on both replicas in turn;
the bad one is asked beside it, as often in one round and five times as often in the other, and nobody waits for it.
All faults run at once. Answered counts what came complete and right with status 200.
"""

from __future__ import annotations

import asyncio
import email.utils
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.figures import Figure, progress
from benchmarks.providers.answers import completion, part
from benchmarks.providers.fake import Json, Reply, Step, events, fake, whole
from testkit.client import Client, Outcome, client, until
from testkit.redis_server import RedisServer
from testkit.service import Service, configuration, replicas

LENGTH, BEAT = 18.0, 0.75
"""Seconds: longer than the breaker's window and than its first pauses; between two questions for the good model."""
TIMES = (1, 5)
TIMEOUTS = {"connect": "5s", "first_token": "4s", "between_tokens": "4s", "total": "6s"}
"""Short enough for a call that hangs to fail several times, long enough for a busy machine to answer."""
_PAUSE = 20
"""Seconds of Retry-After: longer than the round."""


class Fault(msgspec.Struct, frozen=True):
    """`whole` and `streamed` are what is answered; `after` forms of Retry-After are made anew with each answer."""

    name: str
    whole: Reply
    streamed: Reply
    after: str = ""


def _status(name: str, status: int, *, after: str = "", **error: Any) -> Fault:
    reply = whole({"error": {"message": "No.", "type": "some_error", **error}}, status=status)
    return Fault(name, reply, reply, after)


_HANGS = Reply((Step.HANG,))
_TEXT = part("role") + part("hel")
_WHOLE = completion({"role": "assistant", "content": "hello"})
FAULTS = [
    _status("429 without Retry-After", 429),
    _status("429, Retry-After in seconds", 429, after="seconds"),
    _status("429, Retry-After as a date", 429, after="date"),
    _status("429, retry-after-ms", 429, after="ms"),
    _status("429, insufficient_quota", 429, code="insufficient_quota"),
    _status("400", 400),
    _status("402", 402),
    _status("403", 403),
    _status("404", 404, code="model_not_found"),
    _status("409", 409),
    _status("422", 422),
    _status("424", 424),
    _status("500", 500),
    _status("503, Retry-After in seconds", 503, after="seconds"),
    _status("529", 529),
    Fault("hang", _HANGS, _HANGS),
    Fault("hang in mid-answer", _HANGS, events(_TEXT, Step.HANG)),
    Fault("cut before the head", Reply((Step.RESET,)), Reply((Step.RESET,))),
    Fault("cut in mid-answer", Reply((b'{"choices": [', Step.RESET)), events(_TEXT, Step.RESET)),
    Fault("garbage", Reply((b"<html></html>",)), events(b"data: {nonsense\n\n")),
    Fault("garbage in mid-answer", Reply((b'{"choices": "x"}',)), events(_TEXT, b"data: {nonsense\n\n")),
    Fault(
        "an error with status 200",
        whole({"error": {"message": "No."}}),
        events(_TEXT, b'data: {"error": {"message": "No."}}\n\n'),
    ),
]


def _after(form: str) -> dict[str, str]:
    if form == "seconds":
        return {"retry-after": str(_PAUSE)}
    if form == "date":
        return {"retry-after": email.utils.formatdate(time.time() + _PAUSE, usegmt=True)}
    return {"retry-after-ms": str(_PAUSE * 1000)} if form == "ms" else {}


def name_of(fault: Fault, times: int) -> str:
    return f"p{FAULTS.index(fault)}x{times}"


async def answer(name: str, body: Json) -> Reply:
    """The provider's side."""
    if body["model"] == "good":
        return events(part("plain")) if body.get("stream") else whole(_WHOLE)
    fault = FAULTS[int(name[1:].partition("x")[0])]
    reply = fault.streamed if body.get("stream") else fault.whole
    return msgspec.structs.replace(reply, headers=_after(fault.after))


class Round(msgspec.Struct):
    """What became of both models' requests."""

    fault: Fault
    times: int
    good: list[Outcome] = []
    bad: list[Outcome] = []

    async def run(self, asking: Client, fleet: Sequence[Service], began: float) -> None:
        name = name_of(self.fault, self.times)
        async with asyncio.TaskGroup() as group:
            for beat in range(int(LENGTH / BEAT)):
                await until(began + beat * BEAT)
                url = fleet[beat // 2 % 2].url
                for number in range(self.times):
                    question = f"{beat}, {number}"
                    group.create_task(
                        self._ask(self.bad, asking, url, question, f"{name}-bad", number % 2 == 0)
                    )
                group.create_task(self._ask(self.good, asking, url, str(beat), f"{name}-good", beat % 2 == 0))

    async def _ask(
        self, seen: list[Outcome], asking: Client, url: str, question: str, model: str, stream: bool
    ) -> None:
        seen.append(await asking.ask(url, question, stream=stream, model=model))

    def figure(self) -> Figure:
        wrong = [each for each in self.good if each.error is not None or each.text != "hello"]
        told = Counter((each.error or each.text)[:3] if each.error else "ok" for each in self.bad)
        bad = ", ".join(f"{count} {what}" for what, count in told.most_common(4))
        measured = f"{len(self.good) - len(wrong)} of {len(self.good)}"
        if wrong:
            measured += f" ({_words(wrong[0])})"
        often = "as often" if self.times == 1 else f"{self.times} times as often"
        return Figure(
            f"{self.fault.name}, asked {often}", "100 %", f"{measured}; of the bad one: {bad}", not wrong
        )


def _words(outcome: Outcome) -> str:
    """Status and message, without the rest of an error's body."""
    said = re.search(r'^(\d+) .*?"message":"([^"]*)', outcome.error or "another text")
    return f"{said[1]}: {said[2]}" if said else outcome.error or f"said {outcome.text[:40]}"


async def measure() -> list[Figure]:
    rounds = [Round(fault, times) for fault in FAULTS for times in TIMES]
    names = [name_of(each.fault, each.times) for each in rounds]
    async with RedisServer() as redis, client(timeout=30) as asking, fake(answer) as provider:
        settings = configuration(
            provider.url,
            f"redis://127.0.0.1:{redis.port}",
            providers={
                name: {"kind": "openai", "base_url": f"{provider.url}/{name}/v1", "timeouts": TIMEOUTS}
                for name in names
            },
            models={
                f"{name}-{which}": {"routes": [f"{name}/{which}"]}
                for name in names
                for which in ("good", "bad")
            },
        )
        async with replicas(2, settings) as fleet:
            await _warm_up(asking, fleet, names)
            for times in TIMES:
                now = [each for each in rounds if each.times == times]
                progress(f"neighbours: {len(now)} faults at once, the bad model asked {times} times as often")
                began = time.monotonic()
                waits = [began + at * BEAT / len(now) for at in range(len(now))]
                await asyncio.gather(
                    *(each.run(asking, fleet, at) for each, at in zip(now, waits, strict=True))
                )
    return [each.figure() for each in rounds]


async def _warm_up(asking: Client, fleet: Sequence[Service], names: Sequence[str]) -> None:
    """Every connection is open before anything is counted."""
    for name in names:
        progress(f"neighbours: warming up {name}")
        await asyncio.gather(*(asking.ask(each.url, "warm-up", model=f"{name}-good") for each in fleet))
