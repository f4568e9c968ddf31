"""What a request leaves behind is freed with its last reference, for the collector of cycles comes by seldom."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from dub5.api.http import ClientWatch
from dub5.cache.flights import Flight
from dub5.chat.embeddings import Batch
from dub5.json_steps import LARGE, _Growing
from dub5.providers.call import Attempt, RoutedCall
from testkit.http_server import DIE, Script, hang, raw, refuse, stream
from testkit.openai_server import FakeOpenAI, frames, say
from tests.harness import Running

_OF_A_REQUEST = (ClientWatch, Flight, RoutedCall, Attempt, Batch, _Growing)


@pytest.fixture
def uncollected(server: Running) -> Iterator[Running]:
    """A replica from whose start on nothing is collected; what was there before does not count."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield server
    gc.enable()  # what is frozen stays so: all that earlier tests left, for which a callback would be held too long


async def _nothing_is_left() -> None:
    async with asyncio.timeout(20):
        while any(type(each) in _OF_A_REQUEST for each in gc.get_objects()):  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("streamed", [True, False])
async def test_nothing_of_a_request_is_left_to_the_collector(
    uncollected: Running, fake: FakeOpenAI, streamed: bool
) -> None:
    fake.reply = say("Hello")
    answer = await uncollected.chat(stream=streamed)
    assert "Hello" in answer.text
    await _nothing_is_left()


async def test_nor_of_a_large_one(uncollected: Running, fake: FakeOpenAI) -> None:
    fake.reply = say("Hello")
    answer = await uncollected.chat("x" * LARGE)
    assert "Hello" in answer.text
    await _nothing_is_left()


FAILURES: dict[str, Script] = {
    "refused": refuse(400, "No such thing"),
    "down": refuse(503, "Down"),
    "closed at once": stream([DIE]),
    "no HTTP": raw(b"SSH-2.0-OpenSSH\r\n"),
    "no answer": stream([b"data: {}\n\n", b"data: [DONE]\n\n"]),
    "reported": stream([b'data: {"error": {"message": "Broken"}}\n\n']),
    "cut short": stream([*frames("Hel", "lo")[:2], DIE]),
    "malformed": stream([*frames("Hel", "lo")[:2], b"data: {\n\n"]),
}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("failing", FAILURES.values(), ids=FAILURES)
async def test_nor_where_it_fails(
    uncollected: Running, fake: FakeOpenAI, streamed: bool, failing: Script
) -> None:
    fake.reply = failing
    answer = await uncollected.chat(stream=streamed)
    assert "error" in answer.text
    await _nothing_is_left()


async def test_nor_where_vectors_fail(uncollected: Running, fake: FakeOpenAI) -> None:
    fake.reply = refuse(503, "Down")
    answer = await uncollected.client.post("/v1/embeddings", json={"model": "small", "input": ["a", "b"]})
    assert "error" in answer.text
    await _nothing_is_left()


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": True}),
        ("embeddings", {"input": ["a", "b"]}),
    ],
)
async def test_nor_where_the_client_leaves(
    uncollected: Running, fake: FakeOpenAI, path: str, asked: dict[str, Any]
) -> None:
    fake.reply = hang()
    asking = asyncio.create_task(uncollected.client.post(f"/v1/{path}", json={"model": "small", **asked}))
    await fake.wait_called()
    asking.cancel()
    await asyncio.wait([asking])
    await _nothing_is_left()
