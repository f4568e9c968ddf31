"""What the samples may take of Redis, however many write them and whoever reads."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from dub5.cache.freshness import Lifetimes
from dub5.cache.samples import (
    BATCH_BYTES,
    INTERVAL,
    LEAST_REACH,
    LONGEST_WAIT,
    REACH,
    STREAM_AGE,
    STREAM_BATCHES,
    Sampler,
    interval,
)
from dub5.cache.store import VECTOR_KEY, Entry, Identity
from dub5.contract import FINGERPRINT_KEY, REPLICAS, SAMPLES, SAMPLES_READER, Access, SampleBatch, Verdict
from dub5.telemetry.metrics import Metrics
from tests.harness import PATIENT
from tests.integration.cache.support import Clock, linked, plain, until

SAMPLE_BYTES = 6 * 2**20
"""What the stream may take of Redis: docs/caching.md."""


@contextlib.asynccontextmanager
async def sampling(
    url: str, replica: str = "one", *, budget: int = 2048, clock: Clock | None = None
) -> AsyncIterator[Sampler]:
    """A sampler whose turns the test takes."""
    async with linked(url, timeout=PATIENT) as link:
        sampler = Sampler(
            link,
            Metrics(config_hash="test"),
            replica=replica,
            budget=budget,
            re_ask_share=0.0,
            clock=clock or Clock(),
        )
        await sampler.register()
        yield sampler


@pytest.fixture
async def client(redis: str) -> AsyncIterator[Redis]:
    async with plain(redis) as client:
        yield client


def lookups(sampler: Sampler, count: int, classes: int = 1, *, seed: int = 1) -> None:
    chance = random.Random(seed)
    for _ in range(count):
        key = f"{chance.getrandbits(48):012x}".ljust(48, "0")
        name = f"a-class-with-a-name-of-ordinary-length-{chance.randrange(classes)}"
        sampler.accessed(key, name, None, dollars=0.01, hit=chance.random() < 0.7)


def comparisons(sampler: Sampler, count: int, name: str = "default") -> None:
    for number in range(count):
        sampler._keep(
            Verdict(2**47 + number, name, 1.7e9, 1.7e9 + 9, changed=False, hits=2**40, source="refetch")
        )


async def encoded(client: Redis) -> list[bytes]:
    entries: Any = await client.xrange(SAMPLES)
    return [fields[b"b"] for _, fields in entries]


async def written(client: Redis) -> list[SampleBatch]:
    return [msgspec.msgpack.decode(each, type=SampleBatch) for each in await encoded(client)]


async def test_nothing_is_written_unless_somebody_reads_and_no_longer_than_that(
    redis: str, client: Redis
) -> None:
    clock = Clock()
    async with sampling(redis, clock=clock) as sampler:
        lookups(sampler, 100)
        clock.now += INTERVAL
        await sampler.turn()
        assert await client.exists(SAMPLES, REPLICAS) == 0
        await client.set(SAMPLES_READER, b"1")
        await sampler.turn()
        lookups(sampler, 100)
        comparisons(sampler, 3)
        clock.now += INTERVAL
        await sampler.turn()
        [batch] = await written(client)
        assert (len(batch.accesses), len(batch.verdicts)) == (100, 3)
        assert 0 < await client.pttl(SAMPLES) <= STREAM_AGE * 1000
        await client.delete(SAMPLES_READER)
        lookups(sampler, 100)
        clock.now += INTERVAL
        await sampler.turn()
        lookups(sampler, 100)
        await sampler.flush()
        assert len(await written(client)) == 1
        assert not sampler._accesses
        assert not sampler._hits


async def test_look_ups_of_vectors_are_told_like_others(redis: str, client: Redis) -> None:
    await client.set(SAMPLES_READER, b"1")
    async with sampling(redis) as sampler:
        vector = Entry(b"v", 1, 0.1, 1, 0)
        sampler.accessed(VECTOR_KEY + "0123456789ab" + "0" * 28, "texts", vector, dollars=0.01, hit=True)
        sampler.accessed(VECTOR_KEY + "0123456789ac" + "0" * 28, "texts", None, dollars=0.0, hit=False)
        await sampler.flush()
        [batch] = await written(client)
        assert [(each.key, each.hit) for each in batch.accesses] == [
            (0x0123456789AB, True),
            (0x0123456789AC, False),
        ]
        assert batch.looked_up == {"texts": 2}


async def test_a_budget_of_nothing_writes_nothing_though_somebody_reads(redis: str, client: Redis) -> None:
    await client.set(SAMPLES_READER, b"1")
    async with sampling(redis, budget=0) as sampler:
        lookups(sampler, 100)
        await sampler.turn()
        await sampler.flush()
        assert await client.exists(SAMPLES, REPLICAS) == 0


@pytest.mark.parametrize("classes", [1, 5, 1000])
async def test_a_batch_is_bounded_whatever_is_in_it(redis: str, client: Redis, classes: int) -> None:
    await client.set(SAMPLES_READER, b"1")
    async with sampling(redis, budget=2**20) as sampler:
        for turn in range(4):
            lookups(sampler, 20_000, classes, seed=turn)
            comparisons(sampler, 3000, "c" * 100)
            await sampler.flush()
        sizes = [*map(len, await encoded(client))]
        assert len(sizes) == 4
        assert max(sizes) <= BATCH_BYTES
        assert min(sizes) > BATCH_BYTES * 0.6
        last = (await written(client))[-1]
        assert len(last.verdicts) >= 20  # half of the budget is theirs, once they come
        assert {access.class_name for access in last.accesses} <= set(last.looked_up)


async def test_look_ups_of_classes_that_found_no_room_are_told_later(redis: str, client: Redis) -> None:
    await client.set(SAMPLES_READER, b"1")
    async with sampling(redis) as sampler:
        sampler._threshold = 0.001  # hardly any is recorded
        lookups(sampler, 5000, 1000)
        while sampler._looked_up:
            sampler._accesses.append(Access(1, "one", 0.0, True, 0, 0.0, 1.0))
            await sampler.flush()
        reported = [batch.looked_up for batch in await written(client)]
        assert len(reported) > 1
        assert sum(sum(each.values()) for each in reported) == 5000


async def test_of_too_many_comparisons_a_fair_sample_is_kept(redis: str, client: Redis) -> None:
    await client.set(SAMPLES_READER, b"1")
    async with sampling(redis) as sampler:
        kept: list[int] = []
        for _ in range(20):
            comparisons(sampler, 1000)
            await sampler.flush()
        for batch in await written(client):
            kept += [verdict.key - 2**47 for verdict in batch.verdicts]
        assert len(kept) > 1000
        assert 0.4 < sum(number < 500 for number in kept) / len(kept) < 0.6


async def test_the_stream_takes_no_more_than_its_share_however_many_write(redis: str, client: Redis) -> None:
    """Full batches, and more of them than are kept; then small ones, of which a node of a stream holds many."""
    await client.set(SAMPLES_READER, b"1")
    async with sampling(redis, budget=2**20) as sampler:
        for turn in range(STREAM_BATCHES + 100):
            comparisons(sampler, 100)
            lookups(sampler, 250, seed=turn)
            await sampler.flush()
        assert await client.xlen(SAMPLES) == STREAM_BATCHES
        assert 4 * 2**20 < (await client.memory_usage(SAMPLES, samples=0) or 0) <= SAMPLE_BYTES
        for _ in range(STREAM_BATCHES):
            comparisons(sampler, 1)
            await sampler.flush()
        assert (await client.memory_usage(SAMPLES, samples=0) or 0) < 2**19


async def test_replicas_share_the_rate(redis: str, client: Redis) -> None:
    await client.set(SAMPLES_READER, b"1")
    clock = Clock()
    seconds, count = 240, 10
    async with contextlib.AsyncExitStack() as stack:
        samplers = [
            await stack.enter_async_context(sampling(redis, str(number), clock=clock))
            for number in range(count)
        ]
        for sampler in samplers:  # each has seen the others
            await sampler.register()
        for _ in range(int(seconds / INTERVAL)):
            clock.now += INTERVAL
            for sampler in samplers:
                lookups(sampler, 50)
                await sampler.turn()
        batches = await client.xlen(SAMPLES)
    assert seconds / interval(count) - 1 <= batches / count <= seconds / interval(count) + 1
    assert batches / seconds < 1.2 * STREAM_BATCHES / REACH


@pytest.mark.parametrize("replicas", [1, 2, 10, 17, 18, 100, 200, 1000])
def test_the_stream_reaches_back_far_enough_for_an_operator(replicas: int) -> None:
    reach = STREAM_BATCHES * interval(replicas) / replicas
    assert reach >= (LEAST_REACH if replicas > 17 else REACH) - 1
    assert interval(replicas) <= (
        LONGEST_WAIT if replicas <= 100 else LEAST_REACH * replicas / STREAM_BATCHES
    )


async def test_what_a_release_before_left_expires(redis: str, client: Redis) -> None:
    for _ in range(STREAM_BATCHES + 50):
        await client.xadd(SAMPLES, {b"b": b"x" * 100})
    async with linked(redis, timeout=PATIENT) as link:
        sampler = Sampler(link, Metrics(config_hash="test"), replica="one", budget=2048, re_ask_share=0.0)
        await sampler.start()
        await sampler.stop()
    assert await client.xlen(SAMPLES) == STREAM_BATCHES
    assert 0 < await client.pttl(SAMPLES) <= STREAM_AGE * 1000


@pytest.mark.parametrize("by_task", [False, True])
async def test_comparisons_go_on_being_counted_while_nobody_reads(
    redis: str, client: Redis, monkeypatch: pytest.MonkeyPatch, *, by_task: bool
) -> None:
    async with sampling(redis) as sampler:
        await until(lambda: sampler._link.pipelines)
        if by_task:  # as in a Cluster
            monkeypatch.setattr(sampler._link, "ask", lambda *_: False)
        for hour, text in enumerate(("a", "b")):
            entry = Entry(b"{}", 1_700_000_000_000_000 + hour * 3_600_000_000, 0.1, 1, 1)
            said: dict[str, Any] = {"choices": [{"message": {"content": text}}]}
            identity = Identity("a" * 48, "v")
            await sampler.fetched(
                identity, "default", entry, said, "text", lifetimes=Lifetimes(ttl=60.0), compared_with=None
            )
            await sampler.stop()
        assert not sampler._verdicts
        labels = {"class": "default", "source": "refetch", "verdict": "changed"}
        reported = sampler._metrics.registry.get_sample_value("dub5_cache_revalidations_total", labels)
        assert reported == 1
        assert await client.pttl(FINGERPRINT_KEY % ("a" * 48)) > 0


async def test_what_is_no_answer_to_a_comparison_is_noted(redis: str) -> None:
    async with sampling(redis) as sampler:
        sampler._replaced(Identity("a" * 48, "v"), "default", Entry(b"{}", 1, 0.1, 1, 1), "text:0", [1])
        noted = sampler._metrics.registry.get_sample_value(
            "dub5_background_failures_total", {"task": "answer-comparison"}
        )
        assert noted == 1
