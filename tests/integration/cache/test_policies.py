"""What the operator publishes is in force until it expires, whatever becomes of Redis meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from dub5.cache.policies import Policies
from dub5.contract import POLICY_KEY, ClassPolicy, PolicyDocument
from dub5.redis.link import RedisLink, RedisUnavailable
from dub5.settings.model import CacheClass, Duration
from dub5.telemetry.metrics import Metrics
from tests.harness import PATIENT
from tests.integration.cache.support import Clock, linked, plain, until

OWN, PUBLISHED = 300.0, 7.0


@pytest.fixture
async def link(redis: str) -> AsyncIterator[RedisLink]:
    async with linked(redis, timeout=PATIENT) as link:
        yield link


class Replica:
    def __init__(self, link: RedisLink) -> None:
        self.clock, self.metrics = Clock(), Metrics(config_hash="test")
        classes = {"faq": CacheClass(ttl=Duration(OWN))}
        self.policies = Policies(classes, link, self.metrics, clock=self.clock)

    @property
    def ttl(self) -> float:
        return self.policies.in_force["faq"].ttl

    def expires(self) -> float | None:
        return self.metrics.registry.get_sample_value("dub5_cache_policy_expires_timestamp_seconds")


async def publish(redis: str, expires: float) -> None:
    document = PolicyDocument(issued=1000.0, classes={"faq": ClassPolicy(PUBLISHED)}, expires=expires)
    async with plain(redis) as client:
        await client.set(POLICY_KEY, msgspec.json.encode(document))


@pytest.mark.parametrize("redis_is", ["there", "flushed", "away"])
async def test_a_document_is_in_force_until_it_expires(
    redis: str, link: RedisLink, monkeypatch: pytest.MonkeyPatch, redis_is: str
) -> None:
    replica = Replica(link)
    await publish(redis, replica.clock.now + 60)
    await replica.policies.start()
    try:
        await until(lambda: replica.ttl == PUBLISHED)
        assert (replica.expires(), replica.policies.source("faq")) == (replica.clock.now + 60, "policy")
        if redis_is == "flushed":
            async with plain(redis) as client:
                await client.flushall()
        elif redis_is == "away":

            async def away(*_: object) -> None:
                raise RedisUnavailable

            monkeypatch.setattr(link, "run", away)
        replica.clock.now += 59
        await replica.policies.on_published(b"")
        assert replica.ttl == PUBLISHED
        replica.clock.now += 1
        await replica.policies.on_published(b"")
        await until(lambda: replica.ttl == OWN)
        assert (replica.expires(), replica.policies.source("faq")) == (0, "configuration")
    finally:
        await replica.policies.stop()


async def test_what_has_expired_is_not_taken_and_what_is_renewed_is(redis: str, link: RedisLink) -> None:
    replica = Replica(link)
    await publish(redis, replica.clock.now)
    await replica.policies.read()
    assert replica.ttl == OWN
    await publish(redis, replica.clock.now + 60)
    await replica.policies.read()
    assert replica.ttl == PUBLISHED
    await publish(redis, replica.clock.now + 120)
    await replica.policies.read()
    replica.clock.now += 100
    replica.policies.expire()
    assert replica.ttl == PUBLISHED


async def test_a_document_of_a_release_that_knows_of_no_expiry_holds(redis: str, link: RedisLink) -> None:
    replica = Replica(link)
    await publish(redis, 0)
    await replica.policies.read()
    replica.clock.now += 1e9
    replica.policies.expire()
    assert replica.ttl == PUBLISHED
