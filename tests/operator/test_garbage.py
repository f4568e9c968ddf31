"""Whatever stands in Redis under a name that the operator reads: no reconciliation fails for it, it is counted, and
after FLUSHALL all is as new."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from dub5.contract import (
    CLASSES_KEY,
    POLICY_KEY,
    PURGE_JOURNAL,
    PURGE_KEYS,
    PURGE_LOG,
    PURGE_NONCE,
    PURGE_RECENT,
    PURGE_STAMPS,
    PURGE_STATE,
    SAMPLES,
    Access,
    AnnouncedClass,
    Announcement,
    ClassPolicy,
    PolicyDocument,
    SampleBatch,
    Verdict,
)
from dub5.redis.client import LARGEST_ANSWER, connect
from dub5.redis.link import bounded
from dub5.settings.model import RedisSettings
from dub5_operator.handlers.policy import Metrics
from dub5_operator.learnings import Part
from dub5_operator.main import Operator
from dub5_operator.redis import Publisher, Samples

HUGE = LARGEST_ANSWER + 2**20
SPEC = {"cacheClass": "banter"}
VALUES: dict[str, bytes] = {
    "not UTF-8": b'{"classes":{"d\xff":{"ttl":9}}}',
    "deep JSON": b'{"classes":' + b'{"a":' * 100_000,
    "deep MessagePack": b"\x91" * 100_000,
    "junk": b"junk",
    "another version": b'{"version":2,"classes":{"banter":{"ttl":1}}}',
    "cut": b'{"version":1,"classes":{"ban',
    "extreme": b'{"at":1e308,"classes":{"banter":{"ttl":1e308,"max_ttl":1e308,"stale_while_revalidate":-1}}}',
    "a number too large": b'{"at":1,"classes":{"banter":{"ttl":' + b"9" * 400 + b',"max_ttl":1}}}',
    "negative": b'{"at":1,"classes":{"banter":{"ttl":-5,"max_ttl":-5}}}',
    "empty map": b"\x80",
}
TYPES = [
    ("RPUSH", b"junk"),
    ("HSET", b"a", b"b"),
    ("XADD", "1-1", b"a", b"b"),
    ("ZADD", 1, b"a"),
    ("SET", b"junk"),
]


@pytest.fixture
async def operator(redis: str) -> Any:
    client = bounded(connect(RedisSettings(url=redis), None))
    yield Operator(client, gather=0.0)
    await client.aclose()


async def announce(client: Redis) -> None:
    classes = {"banter": AnnouncedClass(ttl=300, max_ttl=86400)}
    await client.set(CLASSES_KEY, msgspec.json.encode(Announcement(time.time(), classes)))


async def reconcile(operator: Operator) -> str:
    """Of a policy that is new: nothing is remembered. Gives the condition Ready."""
    operator.policies._states.clear()
    samples = operator.policies._samples
    samples._read_at = float("-inf")
    found = await operator.policies.reconcile(
        name="banter", uid="1", spec=SPEC, status={}, claims=[("2026", "banter", "1")], classes={"banter"}
    )
    assert found is not None
    return found.conditions[0].reason


async def plant(client: Redis, key: str) -> Any:
    """One kind of damage after the other; after each, what it was."""
    for command, *arguments in TYPES:
        await client.delete(key)
        await client.execute_command(command, key, *arguments)
        yield command
    for name, value in VALUES.items():
        if key == SAMPLES:
            await client.delete(key)
            await client.xadd(key, {b"b": value})
        else:
            await client.set(key, value)
        yield name
    await client.delete(key)
    if key == SAMPLES:
        await client.xadd(key, {b"b": b"x" * HUGE})
    else:
        await client.setrange(key, HUGE, b"x")
    yield "huge"
    if key == SAMPLES:
        await client.delete(key)
        await client.xadd(key, {b"b": b""}, id=f"{2**64 - 1}-{2**64 - 1}")
        yield "the greatest id"


@pytest.mark.parametrize("key", [POLICY_KEY, CLASSES_KEY, SAMPLES])
async def test_it_goes_on_and_what_is_published_is_put_right(
    operator: Operator, client: Redis, key: str
) -> None:
    await announce(client)
    assert await reconcile(operator) == "Reconciled"
    async for kind in plant(client, key):
        for _ in range(2):
            assert await reconcile(operator) in {"Reconciled", "NoReplicas", "UnknownClass"}, kind
        if key != CLASSES_KEY:
            published = msgspec.json.decode(await client.get(POLICY_KEY) or b"{}", type=PolicyDocument)
            assert 0 < published.classes["banter"].ttl <= 86400, kind
        await client.flushall()
        assert await reconcile(operator) == "NoReplicas", kind
        await announce(client)
        assert await reconcile(operator) == "Reconciled", kind
    assert await asyncio.to_thread(  # figures of the process are read from files
        operator.metrics.registry.get_sample_value,
        "dub5_operator_redis_undecodable_total",
        {"kind": {POLICY_KEY: "policy", CLASSES_KEY: "classes"}.get(key, "samples")},
    )


@pytest.mark.parametrize("key", PURGE_KEYS)
async def test_a_purge_is_done_whatever_stands_where_purges_are_kept(
    operator: Operator, client: Redis, key: str
) -> None:
    forms: dict[str, list[tuple[Any, ...]]] = {
        PURGE_NONCE: [("SET", b"\xff"), ("SET", b""), ("SETRANGE", HUGE, b"x")],
        PURGE_JOURNAL: [("XADD", f"{2**64 - 1}-1", b"a", b""), ("XADD", f"{2**53}-0", b"a", b"b")],
        PURGE_RECENT: [("ZADD", score, b"zz") for score in ("inf", "-inf", "1e300", "5")],
        PURGE_STAMPS: [("ZADD", score, b"\xff") for score in ("inf", "-inf", "1e300", "5")],
        PURGE_STATE: [("HSET", "next", value) for value in ("many", "1e999", "nan", "-5", "9" * 400)],
        PURGE_LOG: [("SET", b"\xff" * 100), ("SETRANGE", HUGE, b"x")],
    }
    for command, *arguments in TYPES + forms[key]:
        await operator.publisher.purge(["tag:before"])
        if (command, *arguments) in TYPES or command in {"SET", "SETRANGE"}:
            await client.delete(key)
        await client.execute_command(command, key, *arguments)
        first = await operator.publisher.purge(["tag:prices"])
        assert await operator.publisher.purge(["tag:prices"]) > first
        await client.flushall()


async def test_samples_that_cannot_be_true_are_not_learnt_from(client: Redis, monkeypatch: Any) -> None:
    now = time.time()
    samples = Samples(client, lambda: now)
    strange = [-1e308, 0.0, 5.0, now - 30 * 86400, now + 1e6, 1e308, float("inf"), float("nan")]
    accesses = [Access(1, "banter", at, True, 1, 0.0, 1.0) for at in strange]
    accesses += [Access(key, "banter", now, True, 1, 0.0, 1.0) for key in (-1, 2**63)]
    accesses += [Access(1, "banter", now, True, 2**63, float("inf"), 0.0)]
    verdicts = [Verdict(1, "banter", at, at + 60, True, 2**63, "refetch") for at in strange]
    batch = SampleBatch("a", float("nan"), accesses, verdicts, looked_up={"banter": 2**63})
    await client.xadd(SAMPLES, {b"b": msgspec.msgpack.encode(batch)})
    parts = list[Part]()
    monkeypatch.setattr(samples.learnings, "fold", lambda name, part, now: parts.append(part))
    await announce(client)
    await samples.refresh({"banter"})
    [part] = parts
    assert part.looked_up is None
    operator = Operator(client, lambda: now, gather=0.0)
    assert await reconcile(operator) == "Reconciled"
    assert operator.policies._samples.learnings["banter"].learning.refused == len(accesses) + len(verdicts)


@pytest.mark.parametrize("wrong", [7200.0, -7200.0, 10 * 365 * 86400.0, -30 * 365 * 86400.0])
async def test_times_go_by_the_clock_of_redis(client: Redis, wrong: float) -> None:
    """Replicas tell them by it. The operator's own clock may be another."""
    operator = Operator(client, lambda: time.time() + wrong, gather=0.0)
    await announce(client)
    now = time.time()
    accesses = [Access(key, "banter", now - key, bool(key % 5), 1000, 0.001, 1.0) for key in range(100)]
    verdicts = [Verdict(key, "banter", now - 300 - key, now - key, False, 1, "refetch") for key in range(100)]
    batch = SampleBatch("a", now, accesses, verdicts, looked_up={"banter": 100})
    await client.xadd(SAMPLES, {b"b": msgspec.msgpack.encode(batch)})
    assert await reconcile(operator) == "Reconciled"
    assert operator.policies._samples.learnings["banter"].learning.refused == 0
    published = msgspec.json.decode(await client.get(POLICY_KEY) or b"", type=PolicyDocument)
    assert abs(published.issued - time.time()) < 120


async def test_a_published_document_can_always_be_read(client: Redis) -> None:
    publisher = Publisher(client, time.time, Metrics().undecodable, gather=0.0)
    await client.set(POLICY_KEY, b"\xff")
    await publisher.publish("banter", None)
    assert msgspec.json.decode(await client.get(POLICY_KEY) or b"", type=PolicyDocument).classes == {}
    await publisher.publish("banter", ClassPolicy(9.0))
    assert await publisher.in_force("banter") == ClassPolicy(9.0)
