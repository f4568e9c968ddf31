"""Pages of other sites in a browser on the machine of a service without keys; see testkit/foreign_page.py."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from testkit.foreign_page import STREAM, Foreign, attack, foreign
from testkit.openai_server import FakeOpenAI
from tests.harness import Running, openai_provider, running

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(chromium: str) -> AsyncIterator[Foreign]:  # or it is skipped
    async with foreign() as site:
        yield site


async def unharmed(server: Running, fake: FakeOpenAI, site: Foreign, target: str, operations: str) -> float:
    """Attack it, and see that nothing came of that; gives how many requests arrived."""
    first = await server.chat("Is this kept?")
    calls, arrived = len(fake.calls), await arrivals(server)
    async with site.page() as page:
        attempts = await attack(page, target, operations)
    arrived = await arrivals(server) - arrived
    assert attempts.read == []
    assert len(fake.calls) == calls == 1
    assert await server.metric("dub5_http_requests_total", outcome="ok") == 1
    assert await server.metric("dub5_cache_entries") == 1
    again = await server.chat("Is this kept?")
    assert "; hit" in again.headers["cache-status"]
    assert again.content == first.content
    return arrived


async def arrivals(server: Running) -> float:
    requests = await server.metric("dub5_http_requests_total")
    return requests + await server.metric("dub5_connections_refused_total")


async def test_a_page_of_another_site_brings_nothing_about(fake: FakeOpenAI, site: Foreign) -> None:
    async with running(openai_provider(fake.base_url)) as server:
        assert await unharmed(server, fake, site, server.url, server.operations_url) > 100


@pytest.mark.parametrize("listener", ["url", "operations_url"])
async def test_neither_does_one_whose_name_leads_here_by_now(
    fake: FakeOpenAI, site: Foreign, listener: str
) -> None:
    async with running(openai_provider(fake.base_url)) as server:
        site.target = getattr(server, listener)
        assert await unharmed(server, fake, site, site.origin, site.origin) > 100
        assert await server.metric("dub5_connections_refused_total", reason="host") > 100


async def test_a_page_of_an_allowed_origin_streams_an_answer(fake: FakeOpenAI, site: Foreign) -> None:
    config = {**openai_provider(fake.base_url), "server": {"allowed_origins": [site.origin]}}
    async with running(config) as server, site.page() as page:
        status, text, cache, request_id = await page.evaluate(STREAM, [server.url])
    assert status == 200
    assert "You said" in text
    assert text.endswith("data: [DONE]\n\n")
    assert cache.startswith("dub5")
    assert request_id


async def test_where_all_are_allowed_no_page_may_send_credentials(fake: FakeOpenAI, site: Foreign) -> None:
    config = {
        **openai_provider(fake.base_url),
        "auth": {"anonymous": True},
        "server": {"allowed_origins": ["*"]},
    }
    async with running(config) as server, site.page() as page:
        assert (await page.evaluate(STREAM, [server.url]))[0] == 200
        asked = (
            "(url) => fetch(url, {credentials: 'include'}).then((answer) => answer.status, () => 'refused')"
        )
        assert await page.evaluate(asked, f"{server.url}/v1/models") == "refused"
