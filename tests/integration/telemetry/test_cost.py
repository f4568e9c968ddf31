"""What a request costs, in function calls, so that a path that has become twice as long fails whatever the machine.

Python and C functions that run in the event loop are counted, from the request's head to the answer's last byte. The
ceilings lie about 40 % above what was counted on Python 3.11, since versions and libraries differ. One that is passed
says that something got slower: see where the calls come from (docs/reports/performance.md says how), and raise the
ceiling only for what is worth it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from dub5.app import Application
from dub5.settings.loader import convert
from testkit.http_server import Call, Wire, whole
from testkit.openai_server import FakeOpenAI, completion, frames

HIT, MISS, CHUNK = 340, 2800, 75
"""Calls for a hit from memory, for a miss that is stored in memory, and for each chunk of a stream."""

CHUNKS = "chunks:"
"""A question that begins so names how many chunks its answer has."""


@pytest.fixture
def provider(log_to: Callable[..., object]) -> Iterator[str]:
    """An OpenAI-compatible server, in a thread and loop of its own: its calls are not to be counted.

    Log lines are part of the cost, so they are really written.
    """
    log_to()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    fake = FakeOpenAI(shared_loop=False)
    fake.reply = _answer
    asyncio.run_coroutine_threadsafe(fake.__aenter__(), loop).result(10)
    yield fake.base_url
    asyncio.run_coroutine_threadsafe(fake.__aexit__(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


async def _answer(call: Call, wire: Wire) -> None:
    """In one piece, a stream too: how often the client reads must not be left to chance."""
    if call.body.get("stream"):
        count = int(call.body["messages"][-1]["content"].removeprefix(CHUNKS))
        events = b"".join(part for part in frames(*["word "] * count) if isinstance(part, bytes))
        await whole(None, raw=events, headers={"content-type": "text/event-stream"})(call, wire)
    else:
        await whole(completion({"content": "x" * 800}))(call, wire)


async def asked(application: Application, question: str, *, stream: bool = False) -> bytes:
    """One request through the whole ASGI application; the body of its answer."""
    asking = {"model": "small", "messages": [{"role": "user", "content": question}], "stream": stream}
    body = json.dumps(asking).encode()
    message: Any = {"type": "http.request", "body": body, "more_body": False}
    received, sent = [message], []

    async def receive() -> Any:
        if received:
            return received.pop()
        return await asyncio.get_running_loop().create_future()  # a client that stays

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
    }
    await application.public(scope, receive, send)
    assert sent[0]["status"] == 200, sent
    return b"".join(each.get("body", b"") for each in sent[1:])


async def calls(work: Callable[[], Awaitable[object]]) -> int:
    """How many functions were called for it, at best of three: what runs now and then is not its cost."""
    return min([await _calls(work) for _ in range(3)])


async def _calls(work: Callable[[], Awaitable[object]]) -> int:
    count = 0

    def counting(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    gc.collect()
    gc.disable()
    sys.setprofile(counting)
    try:
        await work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


@contextlib.asynccontextmanager
async def _application(provider: str) -> Any:
    settings = convert(
        {
            "providers": {"fake": {"kind": "openai", "base_url": provider}},
            "models": {"small": {"routes": ["fake/m"], "price": {"input": 1.0, "output": 2.0}}},
        }
    )
    application = await asyncio.to_thread(Application, settings, {})
    async with application:
        yield application


async def test_a_hit_from_memory(provider: str) -> None:
    async with _application(provider) as application:
        await asked(application, "a")
        await asked(application, "a")
        found = await calls(lambda: asked(application, "a"))
    assert found <= HIT


async def test_a_miss(provider: str) -> None:
    numbers = iter(range(100))
    async with _application(provider) as application:
        await asked(application, "to open the connection")
        found = await calls(lambda: asked(application, f"question {next(numbers)}"))
    assert found <= MISS


async def test_a_chunk_of_a_stream(provider: str) -> None:
    """What 400 chunks cost more than 100, each a new question by its length."""
    few, many = iter(range(100, 110)), iter(range(400, 410))
    async with _application(provider) as application:
        await asked(application, f"{CHUNKS}1", stream=True)
        least = await calls(lambda: asked(application, f"{CHUNKS}{next(few)}", stream=True))
        most = await calls(lambda: asked(application, f"{CHUNKS}{next(many)}", stream=True))
    found = (most - least) / 300
    assert found <= CHUNK


async def test_the_count_counts() -> None:
    """Twice the work is twice the calls."""

    async def work(times: int) -> None:
        for _ in range(times):
            json.dumps([])

    once, twice = await calls(lambda: work(100)), await calls(lambda: work(200))
    assert 1.9 <= twice / once <= 2.1
