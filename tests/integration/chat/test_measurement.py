"""What the operator reads and publishes: samples in Redis, and the policy document in force."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from redis.driver_info import DriverInfo

from dub5.cache import samples
from dub5.cache.samples import HEAVY_KEYS, Sampler, fingerprint
from dub5.contract import (
    CLASSES_KEY,
    POLICY_CHANNEL,
    POLICY_KEY,
    SAMPLES,
    SAMPLES_READER,
    AnnouncedClass,
    Announcement,
    ClassPolicy,
    PolicyDocument,
    QuestionPolicy,
    SampleBatch,
)
from testkit.http_server import refuse
from testkit.openai_server import FakeOpenAI, say
from tests.harness import Running, openai_provider, running


@pytest.fixture
async def client(redis: str) -> AsyncIterator[Redis]:
    client = await asyncio.to_thread(Redis.from_url, redis, driver_info=DriverInfo(lib_version="1"))
    async with client:
        await client.set(SAMPLES_READER, b"1")
        yield client


def config(fake: FakeOpenAI, redis: str, **cache: Any) -> dict[str, Any]:
    return {**openai_provider(fake.base_url), "redis": {"url": redis}, "cache": cache}


def sampler_of(server: Running) -> Sampler:
    sampler = server.replica.application._sampler
    assert sampler is not None
    return sampler


async def batches(server: Running, client: Redis) -> list[SampleBatch]:
    sampler = sampler_of(server)
    await sampler.settle()
    await sampler.flush()
    entries: Any = await client.xrange(SAMPLES)
    return [msgspec.msgpack.decode(fields[b"b"], type=SampleBatch) for _, fields in entries]


async def test_accesses_are_written_with_key_class_and_price(
    fake: FakeOpenAI, redis: str, client: Redis
) -> None:
    async with running(config(fake, redis)) as server:
        await server.chat()
        await server.chat()
        await server.chat("another")
        written = await batches(server, client)  # one each second
    accesses = [access for batch in written for access in batch.accesses]
    assert [(access.hit, access.class_name, access.threshold) for access in accesses] == [
        (False, "default", 1.0),
        (True, "default", 1.0),
        (False, "default", 1.0),
    ]
    one, same, other = accesses
    assert one.key == same.key != other.key
    assert same.size > 100
    assert same.dollars == pytest.approx((9 * 1.0 + 3 * 2.0) / 1e6)
    assert {batch.dropped for batch in written} == {0}
    assert sum(batch.looked_up.get("default", 0) for batch in written) == 3


async def test_a_refetch_is_compared_with_the_answer_before_it(
    fake: FakeOpenAI, redis: str, client: Redis
) -> None:
    async with running(config(fake, redis)) as server:
        fake.replies = [say("Hello"), say("Hello"), say("Changed")]
        await server.chat()
        await server.chat()
        await batches(server, client)  # adds the hit to the fingerprint
        await server.chat()  # another one, which is not added yet
        for _ in range(2):
            await server.chat(headers={"cache-control": "no-cache"})
            await sampler_of(server).settle()
        verdicts = [verdict for batch in await batches(server, client) for verdict in batch.verdicts]
        assert [(verdict.changed, verdict.hits, verdict.source) for verdict in verdicts] == [
            (False, 2, "refetch"),
            (True, 0, "refetch"),
        ]
        assert all(verdict.fetched < verdict.again for verdict in verdicts)
        assert await server.metric("dub5_cache_revalidations_total", source="refetch", verdict="changed") == 1


async def test_a_refetch_after_a_purge_measures_nothing(fake: FakeOpenAI, redis: str, client: Redis) -> None:
    async with running(config(fake, redis)) as server:
        fake.replies = [say("Hello"), say("Changed")]
        await server.chat()
        await server.client.post("/v1/cache/invalidations", json={"all": True})
        await server.chat()
        assert [verdict for batch in await batches(server, client) for verdict in batch.verdicts] == []


async def test_a_re_ask_compares_and_replaces_only_what_changed(
    fake: FakeOpenAI, redis: str, client: Redis
) -> None:
    async with running(config(fake, redis, re_ask_share=0.01)) as server:
        sampler = sampler_of(server)
        fake.replies = [say("Hello"), say("Hello"), say("Changed")]
        first = await server.chat()
        for calls in (2, 3):
            sampler.re_asks = 1.0
            hit = await server.chat()
            assert hit.headers["cache-status"].startswith("dub5; hit")
            assert hit.text == first.text
            async with asyncio.timeout(60):
                while len(fake.calls) < calls:
                    await fake.wait_called()
            await server.replica.application._flights.settle()
        assert "Changed" in (await server.chat()).text
        verdicts = [verdict for batch in await batches(server, client) for verdict in batch.verdicts]
        assert [(verdict.changed, verdict.source) for verdict in verdicts] == [
            (False, "re-ask"),
            (True, "re-ask"),
        ]


async def test_long_answers_are_compared_apart_from_the_event_loop(
    fake: FakeOpenAI, redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def noting(*arguments: Any) -> str:
        threads.append(threading.current_thread())
        return fingerprint(*arguments)

    monkeypatch.setattr(samples, "fingerprint", noting)
    async with running(config(fake, redis, re_ask_share=0.01)) as server:
        fake.replies = [say("\ufdfa" * 85_000)] * 2  # 250 KiB, and each stands for eighteen characters
        await server.chat()
        sampler_of(server).re_asks = 1.0
        assert (await server.chat()).headers["cache-status"].startswith("dub5; hit")
        await server.replica.application._flights.settle()
    assert len(threads) == 3  # the first, then the second and the first once more
    assert threading.current_thread() not in threads


def due_canaries(server: Running, *, chance: float, class_name: str = "default") -> None:
    """The next hit is drawn, and whoever else is asked once more by `chance`."""
    server.replica.application._flights._rng = lambda: chance
    for _ in range(1000):
        sampler_of(server)._canaries.called(class_name, 0.01)


async def test_a_hit_that_is_drawn_measures_whether_it_was_stale(
    fake: FakeOpenAI, redis: str, client: Redis
) -> None:
    classes = {"default": {"canary": 0.01}}
    async with running(config(fake, redis, classes=classes)) as server:
        # Three hits: the same, which is asked once more; changed since; and always otherwise.
        texts = ["Hello", "Hello", "Hello", "Changed", "Changed", "Again", "Otherwise"]
        fake.replies = [say(text) for text in texts]
        first = await server.chat()
        for calls in (3, 5, 7):
            due_canaries(server, chance=0.0)
            hit = await server.chat()
            assert hit.headers["cache-status"].startswith("dub5; hit")
            assert (hit.text == first.text) == (calls < 7)
            await server.replica.application._flights.settle()
            assert len(fake.calls) == calls
        written = [each for batch in await batches(server, client) for each in batch.canaries]
        assert [(each.changed, each.reworded, each.calls) for each in written] == [
            (False, False, 2),
            (True, False, 2),
            (True, True, 2),
        ]
        assert all(each.fetched < each.at and each.class_name == "default" for each in written)
        assert [each.weight for each in written] == [1.0, 1.0, 1.0]
        for verdict in ("same", "changed", "reworded"):
            labels = {"class": "default", "verdict": verdict}
            assert await server.metric("dub5_cache_canaries_total", **labels) == 1
        # They are calls like others.
        assert await server.metric("dub5_provider_requests_total", outcome="ok") == 7
        assert await server.metric("dub5_tokens_total", direction="output") == 7 * 3
        # Answers are compared behind the calls that brought them.
        await server.becomes("dub5_cache_revalidations_total", 6, source="canary")


async def test_a_canary_that_fails_measures_nothing(fake: FakeOpenAI, redis: str, client: Redis) -> None:
    async with running(config(fake, redis, classes={"default": {"canary": 0.01}})) as server:
        await server.chat()
        due_canaries(server, chance=0.0)
        fake.replies = [refuse(500, "Oops"), refuse(500, "Oops")]
        assert (await server.chat()).headers["cache-status"].startswith("dub5; hit")
        await server.replica.application._flights.settle()
        fake.replies = [say("Changed"), refuse(500, "Oops"), refuse(500, "Oops")]
        due_canaries(server, chance=0.0)
        assert (await server.chat()).headers["cache-status"].startswith("dub5; hit")
        await server.replica.application._flights.settle()
        assert await server.metric("dub5_cache_canaries_total") == 0
        assert await server.metric("dub5_cache_revalidations_total", source="canary", verdict="error") == 2
        assert [each for batch in await batches(server, client) for each in batch.canaries] == []


@pytest.mark.parametrize("share", [0.0, 0.01])
async def test_a_policy_may_ask_for_canaries(
    fake: FakeOpenAI, redis: str, client: Redis, share: float
) -> None:
    document = PolicyDocument(issued=1, classes={"default": ClassPolicy(ttl=60, canary=share)})
    await client.set(POLICY_KEY, msgspec.json.encode(document))
    async with running(config(fake, redis)) as server:
        await server.replica.application._policies.read()
        shown = (await server.client.get("/v1/cache")).json()["classes"]["default"]
        assert shown["canary"] == share
        await server.chat()
        due_canaries(server, chance=0.0)
        await server.chat()
        await server.replica.application._flights.settle()
        assert len(fake.calls) == (3 if share else 1)


async def test_answers_of_one_user_are_never_asked_again(fake: FakeOpenAI, redis: str) -> None:
    mine = {"classes": {"mine": {"share": "user", "canary": 0.01}}}
    settings = config(fake, redis, re_ask_share=0.01, **mine)
    settings["models"]["small"]["cache_class"] = "mine"
    async with running(settings) as server:
        await server.chat()
        sampler_of(server).re_asks = 1.0
        due_canaries(server, chance=0.0, class_name="mine")
        assert (await server.chat()).headers["cache-status"].startswith("dub5; hit")
        await server.replica.application._flights.settle()
        assert sampler_of(server).re_asks == 1.0  # for another answer
    assert len(fake.calls) == 1


async def test_samples_stay_within_their_byte_budget_and_heavy_keys_are_exact(
    fake: FakeOpenAI, redis: str, client: Redis
) -> None:
    async with running(config(fake, redis, sample_bytes="1KiB")) as server:
        await server.chat()  # it has started
        sampler = sampler_of(server)
        for number in range(2_000):
            key = f"{number * 140_000_000_000 % 2**48:012x}".ljust(48, "0")
            sampler.accessed(key, "default", None, dollars=0.0, hit=False)
            sampler.accessed("f" * 48, "default", None, dollars=0.0, hit=True)
        assert sampler._dropped > 0
        [batch] = await batches(server, client)
        assert 4000 < len(msgspec.msgpack.encode(batch)) <= 1024 * 5
        assert sampler._threshold == 0.5
        assert len(sampler._heavy) <= HEAVY_KEYS
        sampler.accessed("f" * 48, "default", None, dollars=0.0, hit=True)  # its hash is above the threshold
        assert [access.threshold for access in sampler._accesses] == [1.0]


async def test_a_published_ttl_is_in_force_at_once_and_never_above_the_maximum(
    fake: FakeOpenAI, redis: str, client: Redis
) -> None:
    async with running(config(fake, redis, classes={"default": {"ttl": "5m", "max_ttl": "10m"}})) as server:

        async def publish(document: bytes) -> None:
            await client.set(POLICY_KEY, document)
            await client.publish(POLICY_CHANNEL, b"")

        async def in_force(ttl: float) -> None:
            async with asyncio.timeout(60):
                while (await server.client.get("/v1/cache")).json()["classes"]["default"]["ttl"] != ttl:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        assert await server.metric("dub5_cache_ttl_published", **{"class": "default"}) == 0
        await publish(msgspec.json.encode(PolicyDocument(issued=1, classes={"default": ClassPolicy(ttl=60)})))
        await in_force(60)
        assert await server.metric("dub5_cache_ttl_published", **{"class": "default"}) == 1
        await server.chat()
        assert (await server.chat()).headers["cache-status"] == "dub5; hit; ttl=59; detail=local"
        await publish(
            msgspec.json.encode(PolicyDocument(issued=2, classes={"default": ClassPolicy(ttl=1e6)}))
        )
        await in_force(600)
        for bad in (b"nonsense", b'{"version": 2}', b'{"classes": {"default": {"ttl": -1}}}'):
            await publish(bad)
            await server.replica.application._policies.read()
        await client.delete(POLICY_KEY)
        await server.replica.application._policies.read()
        await in_force(600)
        await publish(b'{"issued": 3, "classes": {}, "a_later_release": {"knows": "more"}}')
        await in_force(300)
        assert await server.metric("dub5_cache_ttl_published", **{"class": "default"}) == 0


QUESTION = QuestionPolicy(
    cost=0.02, change=(1, 3600), noise=(1, 50), requests=(1, 600), shortest=1, longest=1e6, stale=0.1
)
"""For a question of which nothing is known: about a minute, which each hit shortens."""


async def test_an_answer_says_the_ttl_of_its_own_and_why_on_every_replica(
    fake: FakeOpenAI, redis: str, client: Redis
) -> None:
    fake.replies = [say("Hello")] * 3
    async with running(config(fake, redis)) as one, running(config(fake, redis)) as two:

        async def publish(question: QuestionPolicy | None) -> None:
            classes = {"default": ClassPolicy(ttl=60, question=question)}
            await client.set(POLICY_KEY, msgspec.json.encode(PolicyDocument(issued=1, classes=classes)))
            for server in (one, two):
                await server.replica.application._policies.read()

        async def status(server: Running, **headers: str) -> str:
            return str((await server.chat(headers=headers)).headers["cache-status"])

        await publish(QUESTION)
        shown = (await one.client.get("/v1/cache")).json()["classes"]["default"]
        assert shown["question"] == {
            **msgspec.json.decode(msgspec.json.encode(QUESTION)),
            "longest": 86400,  # the class's own maximum
        }
        assert await status(one) == "dub5; fwd=uri-miss; stored"
        # Seconds that are left: one may pass meanwhile.
        assert re.fullmatch(r"dub5; hit; ttl=\d\d; ttl-by=prior; detail=shared", await status(two))
        seconds = [int((await status(one)).split(";")[2].partition("=")[2]) for _ in range(10)]
        assert seconds == sorted(seconds, reverse=True)  # each hit shortens it
        assert seconds[-1] < seconds[0] / 2
        labels = {"class": "default", "by": "prior"}
        assert await one.metric("dub5_cache_own_ttl_seconds_count", **labels) == 10
        await status(one, **{"cache-control": "no-cache"})
        await sampler_of(one).settle()  # the same: something is known
        await forget(two)
        assert (await status(two)).endswith("; ttl-by=requests; detail=shared")
        assert (await status(one)).endswith("; ttl-by=requests; detail=local")
        await publish(None)
        assert (await one.client.get("/v1/cache")).json()["classes"]["default"]["question"] is None
        assert re.fullmatch(r"dub5; hit; ttl=[1-5]\d; detail=local", await status(one))


async def forget(server: Running) -> None:
    server.replica.application._store._local._entries.clear()


async def test_what_counts_as_a_change_is_the_classs_choice(
    fake: FakeOpenAI, redis: str, client: Redis
) -> None:
    classes = {"default": {"compare": "sketch"}}
    async with running(config(fake, redis, classes=classes)) as server:
        reported = (
            "The shop at the old harbour opens at 9 in the morning and closes at {} in the evening, every day"
        )
        fake.replies = [say(reported.format(6)), say("Well: " + reported.format(6)), say(reported.format(7))]
        for _ in range(3):
            await server.chat(headers={"cache-control": "no-cache"})
            await sampler_of(server).settle()
        verdicts = [verdict for batch in await batches(server, client) for verdict in batch.verdicts]
    assert [verdict.changed for verdict in verdicts] == [False, True]


async def test_a_re_ask_that_fails_is_counted(fake: FakeOpenAI, redis: str) -> None:
    async with running(config(fake, redis, re_ask_share=0.01)) as server:
        await server.chat()
        fake.replies = [refuse(500, "Oops"), refuse(500, "Oops")]
        sampler_of(server).re_asks = 1.0
        assert (await server.chat()).headers["cache-status"].startswith("dub5; hit")
        await server.replica.application._flights.settle()
        assert await server.metric("dub5_cache_revalidations_total", source="re-ask", verdict="error") == 1


async def test_an_answer_that_is_not_cached_is_compared_all_the_same(
    fake: FakeOpenAI, redis: str, client: Redis
) -> None:
    async with running(config(fake, redis, classes={"default": {"ttl": 0}})) as server:
        fake.replies = [say("Hello"), say("Changed")]
        for _ in range(2):
            await server.chat()
            await sampler_of(server).settle()
        [verdict] = [verdict for batch in await batches(server, client) for verdict in batch.verdicts]
    assert (verdict.changed, verdict.hits) == (True, 0)


async def test_classes_are_announced(fake: FakeOpenAI, redis: str, client: Redis) -> None:
    classes = {"facts": {"ttl": "5m", "max_ttl": "1h"}, "private": {"cacheable": "never"}}
    async with running(config(fake, redis, classes=classes)) as server:
        await server.replica.application._policies.announce()
        reported = msgspec.json.decode(await client.get(CLASSES_KEY) or b"", type=Announcement)
    assert reported.classes == {"facts": AnnouncedClass(300, 3600), "default": AnnouncedClass(300, 86400)}
