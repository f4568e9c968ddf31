"""A stand-in for an OpenAI-compatible provider, as a process of its own: `python -m testkit.provider`.

The tests of a cluster run it in a pod, with the two modules that it imports and the product's own dependencies.

It prints its base URL and then answers

* `POST /v1/chat/completions`, whole or streamed, at the pace that is set, or with the fault that is set;
* `POST /settings` with any of the fields of Settings, from then on in force;
* `GET /calls`: how many calls came in all, and for each question; how many are under way, and how many
  connections are open. A call whose client has left is over.

Each answer begins with `g<generation>|<asker>|`: the generation that was set when the call arrived, and
`metadata.asker` of the request. So a client can tell an answer from before a purge, and one made for somebody
else, whatever is cached on the way. Where answers do not stay true, `changes_every`, it also says when this one ends
to be: `g<generation>|<asker>|<seconds since the epoch>|`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import random
import sys
import time
import traceback
import zlib
from collections import Counter
from typing import Any, Literal

import msgspec
import uvloop

from testkit.http_server import Call, Script, Wire, hang, raw, stream, whole
from testkit.openai_server import DONE, FakeOpenAI, chunk, completion

_FLUSH = 0.01
"""Seconds in which what was written reaches the client before its connection is reset."""

Fault = Literal["", "hang", "slow", "refuse", "break", "derail", "not-http", "not-json", "bad-events"]
"""hang: takes the call and never answers. slow: the first token comes after `slow_first_token`. refuse: `status`,
and `Retry-After` where `retry_after` is set. break: the connection is reset in the middle of the answer. derail:
garbage in the middle of a stream; a whole answer breaks. not-http: something else than HTTP. not-json: an HTML page
with status 200. bad-events: a stream of events that are not JSON; as a whole answer not-json."""


class Settings(msgspec.Struct, frozen=True):
    """Seconds until the first token and between two, how many there are, and the generation they carry.

    `spread` is by how much of itself the first may vary, evenly: 0.5 makes 0.2 to 0.6 of 0.4 seconds. `share` of
    the calls, drawn at random, meet the `fault`. Each answer is another one every `changes_every` seconds, of some
    questions up to `changes_differ` times as long or as short; 0: never.
    """

    first_token: float = 0.05
    between: float = 0.01
    tokens: int = 5
    generation: int = 1
    spread: float = 0.0
    fault: Fault = ""
    share: float = 1.0
    status: int = 429
    retry_after: float | None = None
    slow_first_token: float = 2.0
    changes_every: float = 0.0
    changes_differ: float = 1.0


class Provider(FakeOpenAI):
    """The state of the process. Unlike a test's server it keeps no call: a row may make a million."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host=host, port=port, shared_loop=False)
        self.settings = Settings()
        self.questions: Counter[str] = Counter()
        self._rng = random.Random(1)

    def begun(self, call: Call) -> None:
        """Nothing is kept."""

    def ended(self, call: Call, error: BaseException | None, *, left: bool) -> None:
        if error is not None and not left:
            traceback.print_exception(error, file=sys.stderr)

    async def default(self, call: Call, wire: Wire) -> None:
        if call.path == "/calls":
            others = {
                "live": self.open_calls - 1,
                "connections": self.open_connections - 1,
            }  # but for this one
            await whole({"total": self.questions.total(), "questions": self.questions, **others})(call, wire)
        elif call.path == "/settings":
            fields = {**msgspec.to_builtins(self.settings), **msgspec.json.decode(call.raw)}
            self.settings = msgspec.convert(fields, Settings)
            await whole(fields)(call, wire)
        else:
            await self._complete(call, wire, msgspec.json.decode(call.raw))

    async def _complete(self, call: Call, wire: Wire, asked: dict[str, Any]) -> None:
        settings, streamed = self.settings, bool(asked.get("stream"))
        question = asked["messages"][-1]["content"]
        self.questions[question] += 1
        fault = settings.fault if settings.fault and self._rng.random() < settings.share else ""
        failing = _failing(fault, settings, streamed=streamed)
        if failing is not None:
            await failing(call, wire)
            return
        asker = (asked.get("metadata") or {}).get("asker", "")
        texts = [
            f"g{settings.generation}|{asker}|{_end(question, settings)}",
            *(f" word{index}" for index in range(settings.tokens - 1)),
        ]
        usage = {
            "prompt_tokens": 9,
            "completion_tokens": settings.tokens,
            "total_tokens": 9 + settings.tokens,
        }
        first_token = settings.slow_first_token if fault == "slow" else settings.first_token
        await asyncio.sleep(first_token * self._rng.uniform(1 - settings.spread, 1 + settings.spread))
        if streamed:
            await _stream(wire, texts, settings.between, usage, fault)
        else:
            await asyncio.sleep(settings.between * (settings.tokens - 1))
            answer = {**completion({"content": "".join(texts)}), "usage": usage}
            await _whole(wire, msgspec.json.encode(answer), broken=fault in {"break", "derail"})


def period(question: str, every: float, differ: float) -> float:
    """Seconds for which its answers are true: spread evenly, by their logarithm, around `every`."""
    return every * math.pow(differ, zlib.crc32(question[::-1].encode()) / 2**31 - 1)


def _end(question: str, settings: Settings) -> str:
    """Until when the answer is this one. Each question has moments of its own: what changes, changes evenly."""
    every = period(question, settings.changes_every, settings.changes_differ)
    if not every:
        return ""
    phase = zlib.crc32(question.encode()) / 2**32
    return f"{every * (math.floor(time.time() / every + phase) + 1 - phase):.3f}|"


def _failing(fault: str, settings: Settings, *, streamed: bool) -> Script | None:
    """A fault that leaves nothing of an answer."""
    if fault == "hang":
        return hang()
    if fault == "refuse":
        pause = {} if settings.retry_after is None else {"retry-after": str(settings.retry_after)}
        return whole({"error": {"message": "Slow down."}}, status=settings.status, headers=pause)
    if fault == "not-http":
        return raw(b"SSH-2.0-nonsense\r\n\r\n")
    if fault == "bad-events" and streamed:
        return stream([b'data: {"choices": [{"del\n\n'])
    if fault in {"not-json", "bad-events"}:
        return whole(None, raw=b"<html></html>", headers={"content-type": "text/html"})
    return None


async def _stream(wire: Wire, texts: list[str], between: float, usage: dict[str, int], fault: str) -> None:
    """With `break` or `derail` it goes wrong half-way."""
    await wire.head(200, {"content-type": "text/event-stream"})
    for index, text in enumerate(texts):
        if index:
            await asyncio.sleep(between)
        if fault in {"break", "derail"} and index >= len(texts) // 2:
            await asyncio.sleep(_FLUSH)
            if fault == "break":
                wire.die()
                return
            await wire.send(b"data: \xff\xfe nonsense\n\n")
            await wire.end()
            return
        await wire.send(_frame(chunk({"role": "assistant", "content": text})))
    await wire.send(_frame(chunk({}, "stop")))
    await wire.send(_frame({**chunk({}), "choices": [], "usage": usage}) + DONE)
    await wire.end()


def _frame(data: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


async def _whole(wire: Wire, body: bytes, *, broken: bool) -> None:
    """Where it is `broken` the connection is reset in the middle of the body."""
    await wire.head(200, {"content-length": str(len(body))})
    await wire.send(body[: len(body) // 2] if broken else body)
    if broken:
        await asyncio.sleep(_FLUSH)
        wire.die()
    else:
        await wire.end()


async def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for an OpenAI-compatible provider.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    asked = parser.parse_args()
    async with Provider(asked.host, asked.port) as provider:
        print(provider.base_url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())
