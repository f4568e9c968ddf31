"""What a service in full use leaves in Redis: what has no expiry is what docs/caching.md lists."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from dub5.contract import (
    POLICY_KEY,
    PURGE_KEYS,
    REPLICAS,
    SAMPLES,
    SAMPLES_READER,
    ClassPolicy,
    PolicyDocument,
)
from testkit.openai_server import FakeOpenAI
from tests.harness import openai_provider, running
from tests.integration.cache.support import plain, until

KEPT = {*PURGE_KEYS, REPLICAS, POLICY_KEY}
ALLOWED = 16 * 2**20


async def test_only_what_is_bounded_has_no_expiry(fake: FakeOpenAI, redis: str) -> None:
    limits = {"default": {"requests_per_minute": 1000, "tokens_per_minute": 1_000_000}}
    settings: dict[str, Any] = {
        **openai_provider(fake.base_url),
        "redis": {"url": redis},
        "limits": limits,
    }
    async with plain(redis) as client:
        await client.set(SAMPLES_READER, b"1", ex=300)
        await client.set(
            POLICY_KEY, msgspec.json.encode(PolicyDocument(issued=1.0, classes={"default": ClassPolicy(60)}))
        )
        async with running(settings) as one, running(settings) as other:
            for number in range(3):
                await asyncio.gather(*(each.chat(f"q{number}") for each in (one, other, one, other)))
            for each in (one, other):
                await each.chat("q0", headers={"cache-control": "no-cache"})
                purged = await each.client.post("/v1/cache/invalidations", json={"tags": ["prices"]})
                assert purged.status_code == 200
                sampler = each.replica.application._sampler
                assert sampler is not None
                await sampler.flush()
            await until(lambda: _announced(client))
            keys = [key.decode() async for key in client.scan_iter()]
            for_ever = {key for key in keys if await client.ttl(key) == -1}
            sizes = [
                await client.memory_usage(key, samples=0) or 0 for key in keys if key in KEPT | {SAMPLES}
            ]
    assert {SAMPLES, REPLICAS, "dub5:classes"} < set(keys)
    assert any(":entry:" in key for key in keys)
    assert any("limit:" in key for key in keys)
    assert for_ever <= KEPT
    assert sum(sizes) < ALLOWED


async def _announced(client: Any) -> bool:
    return bool(await client.exists("dub5:classes"))
