"""What a request leaves behind is freed with its last reference, for the collector of cycles comes by seldom."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from dub5.api.http import ClientWatch
from dub5.cache.flights import Flight
from dub5.providers.call import Attempt, RoutedCall
from testkit.openai_server import FakeOpenAI, say
from tests.harness import Running

_OF_A_REQUEST = (ClientWatch, Flight, RoutedCall, Attempt)


@pytest.fixture
def uncollected(server: Running) -> Iterator[Running]:
    """A replica from whose start on nothing is collected; what was there before does not count."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield server
    gc.enable()
    gc.unfreeze()
    # Here and not in a callback of the replica that is about to stop: what comes back is all that earlier tests left.
    gc.collect()


@pytest.mark.parametrize("streamed", [True, False])
async def test_nothing_of_a_request_is_left_to_the_collector(
    uncollected: Running, fake: FakeOpenAI, streamed: bool
) -> None:
    fake.reply = say("Hello")
    answer = await uncollected.chat(stream=streamed)
    assert "Hello" in answer.text
    async with asyncio.timeout(20):
        while any(type(each) in _OF_A_REQUEST for each in gc.get_objects()):  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0.05)
