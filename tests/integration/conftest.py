"""What most integration tests begin with: a replica in front of a fake provider."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from testkit.openai_server import FakeOpenAI
from tests.harness import Running, openai_provider, running


@pytest.fixture
async def server(fake: FakeOpenAI) -> AsyncIterator[Running]:
    """A replica whose model `small` is the fake, without Redis."""
    async with running(openai_provider(fake.base_url)) as replica:
        yield replica
