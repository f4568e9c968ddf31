"""What most integration tests begin with: a fake provider, and a replica in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from testkit.openai_server import FakeOpenAI
from tests.harness import Running, openai_provider, running


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    """A fake OpenAI."""
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def server(fake: FakeOpenAI) -> AsyncIterator[Running]:
    """A replica whose model `small` is the fake, without Redis."""
    async with running(openai_provider(fake.base_url)) as replica:
        yield replica
