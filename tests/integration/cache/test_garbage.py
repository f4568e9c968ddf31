"""Whatever stands in Redis under a name of ours, and whatever is said in a channel of ours: no request fails for it, it
is counted and told once, what reads goes on reading, and after FLUSHALL all is as new.

Every key and channel x every kind of garbage, on two whole replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from dub5.cache.store import Entry, checksum, pack
from dub5.contract import (
    CLASSES_KEY,
    COOLDOWN_KEY,
    ENTRY_KEY,
    EPOCH_KEY,
    FINGERPRINT_KEY,
    FLIGHT_STREAM,
    LEASE_KEY,
    POLICY_CHANNEL,
    POLICY_KEY,
    PURGE_CHANNEL,
    PURGE_JOURNAL,
    PURGE_LOG,
    PURGE_NONCE,
    PURGE_RECENT,
    PURGE_STAMPS,
    PURGE_STATE,
    REPLICA_CHANNEL,
    REPLICAS,
    SAMPLES,
    SAMPLES_READER,
    ClassPolicy,
    PolicyDocument,
    limit_key,
)
from dub5.frames import Frame
from testkit.openai_server import FakeOpenAI
from tests.harness import Running, openai_provider, running
from tests.integration.cache.support import TIMEOUT, plain, until

HUGE = 20 * 2**20
"""Bytes; more than any answer of Redis to us."""
TENANT = "anonymous"
QUESTION = "known"

TYPES: dict[str, tuple[Any, ...]] = {
    "string": ("SET", b"junk"),
    "list": ("RPUSH", b"junk"),
    "set": ("SADD", b"junk"),
    "hash": ("HSET", b"junk", b"junk"),
    "sorted set": ("ZADD", 1, b"junk"),
    "stream": ("XADD", "1-1", b"junk", b"junk"),
}
VALUES: dict[str, bytes] = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe",
    "control characters": b"a\r\nb\0c",
    "deep JSON": b"[" * 100_000,
    "deep JSON in a field": b'{"classes":' + b'{"a":' * 100_000,
    "deep MessagePack": b"\x91" * 100_000,
    "more than there is": b"\xdd\xff\xff\xff\xff",
    "a number too large": b"9" * 400,
    "infinity": b"inf",
    "no number": b"nan",
    "a negative number": b"-5",
    "1e308": b"1e308",
    "2**63": b"9223372036854775808",
    "another version": msgspec.json.encode({"version": 2, "classes": {"default": {"ttl": 1}}}),
    "another shape in MessagePack": msgspec.msgpack.encode({"version": 7, "b": [1, None, "x"]}),
    "a cut document": b'{"version":1,"classes":{"default":{"ttl":',
}


NUMBERS = ("empty", "not UTF-8", *[name for name in VALUES if VALUES[name][:2].strip(b"-").isalnum()])
"""Of what is read as a number."""


class Scene:
    """Two replicas that have answered a question, whose names in Redis are known."""

    def __init__(self, one: Running, other: Running, redis: Redis) -> None:
        self.replicas = (one, other)
        self.redis = redis
        self.key, self.version = "", ""

    async def begin(self) -> None:
        """From an empty Redis, whatever was in it: everything has been written once, and one answer is known."""
        await self.redis.flushall()
        await self.redis.set(SAMPLES_READER, b"1", ex=300)
        await self.redis.set(
            POLICY_KEY, msgspec.json.encode(PolicyDocument(classes={"default": ClassPolicy(60.0)}))
        )
        one, other = self.replicas
        await self.nudge()
        async with asyncio.timeout(TIMEOUT):
            while len(found := await self.names()) != 1:
                assert (await one.chat(QUESTION, headers={"cache-control": "no-cache"})).status_code == 200
            head, _, self.version = found.pop().decode().partition(":entry:")
            self.key = head.partition("{")[2].rstrip("}")
            while not (await other.chat(QUESTION)).headers["cache-status"].startswith("dub5; hit"):
                await self.nudge()

    async def names(self) -> set[bytes]:
        return {name async for name in self.redis.scan_iter(match="dub5:*:entry:*")}

    async def well(self) -> bool:
        """Whether both share answers, and a purge at one reaches the other."""
        one, other = self.replicas
        tagged = {"x-dub5-cache-tags": "well"}
        purged = await one.client.post("/v1/cache/invalidations", json={"tags": ["well"]})
        if purged.status_code != 200:
            return False
        asked = await one.chat("are you well?", headers=tagged)
        found = await other.chat("are you well?", headers=tagged)
        stored = asked.headers["cache-status"] == "dub5; fwd=uri-miss; stored"
        return stored and found.headers["cache-status"].startswith("dub5; hit")

    async def nudge(self) -> None:
        """Have everything that reads in the background read now."""
        for channel in (PURGE_CHANNEL, POLICY_CHANNEL):
            await self.redis.publish(channel, b"")
        for replica in self.replicas:
            application = replica.replica.application
            sampler, policies = application._sampler, application._policies
            assert sampler is not None
            await application._limiter._beat()
            await sampler.turn()
            for work in (policies.read, policies.announce, application._purges.synchronise):
                with contextlib.suppress(
                    Exception
                ):  # RedisUnavailable is their answer; readers go on, or `well` fails
                    await work()

    async def use(self) -> list[httpx.Response]:
        """All that people do, on both replicas."""
        answers = []
        for replica in self.replicas:
            await self.nudge()
            answers += [
                await replica.chat(QUESTION),
                await replica.chat(QUESTION, stream=True),
                await replica.chat(QUESTION, headers={"cache-control": "max-age=0"}),
                await replica.client.get("/v1/cache"),
            ]
            sampler = replica.replica.application._sampler
            assert sampler is not None
            await sampler._comparisons.stop(wait=TIMEOUT)
        return answers

    async def purged(self) -> list[httpx.Response]:
        return [
            await replica.client.post("/v1/cache/invalidations", json={"tags": ["prices"]})
            for replica in self.replicas
        ]

    async def counted(self) -> float:
        return sum([await each.metric("dub5_redis_undecodable_total") for each in self.replicas])


@pytest.fixture
async def scene(fake: FakeOpenAI, redis: str) -> AsyncIterator[Scene]:
    settings: dict[str, Any] = {
        **openai_provider(fake.base_url),
        "redis": {"url": redis},
        "limits": {"default": {"requests_per_minute": 1_000_000, "tokens_per_minute": 1_000_000_000}},
    }
    async with plain(redis) as client, running(settings) as one, running(settings) as other:
        yield Scene(one, other, client)


Damage = Callable[[Redis, str], Awaitable[object]]


def another_type(command: tuple[Any, ...]) -> Damage:
    async def damage(redis: Redis, key: str) -> None:
        await redis.delete(key)
        await redis.execute_command(command[0], key, *command[1:])

    return damage


def in_a_string(value: bytes) -> Damage:
    return lambda redis, key: redis.set(key, value)


def in_a_hash(value: bytes, *fields: str) -> Damage:
    return lambda redis, key: redis.hset(key, mapping=dict.fromkeys(fields, value))


def in_a_stream(value: bytes, field: bytes, identity: str = "*") -> Damage:
    return lambda redis, key: redis.xadd(key, {field: value}, id=identity)


def in_a_sorted_set(member: bytes, score: str) -> Damage:
    return lambda redis, key: redis.execute_command("ZADD", key, score, member)


def expiring(damages: dict[str, Damage]) -> dict[str, Damage]:
    """As what is ours under such a name: what never expires is known to be nobody's by that."""

    def soon(damage: Damage) -> Damage:
        async def damaged(redis: Redis, key: str) -> None:
            await damage(redis, key)
            await redis.pexpire(key, 1_500)

        return damaged

    return {name: soon(damage) for name, damage in damages.items()}


async def huge_string(redis: Redis, key: str) -> None:
    await redis.delete(key)
    await redis.setrange(key, HUGE, b"x")


async def crowded(redis: Redis, key: str) -> None:
    await redis.zadd(key, {f"{number:08x}": number for number in range(20_000)})


SCORES = ["inf", "-inf", "1e308", "-1", "1e300"]


def strings(*further: bytes, read: bool = True) -> dict[str, Damage]:
    """`read`: somebody reads what is in it."""
    found = {name: in_a_string(value) for name, value in VALUES.items() if read or value == b"\xff\xfe"}
    found |= {f"of our form, {number}": in_a_string(value) for number, value in enumerate(further)}
    return found | {"huge": huge_string}


def hashes(*fields: str) -> dict[str, Damage]:
    found = {f"{name} in {', '.join(fields)}": in_a_hash(VALUES[name], *fields) for name in NUMBERS}
    return found | {"huge": in_a_hash(b"x" * HUGE, *fields)}


def streams(*fields: bytes, read: bool = True) -> dict[str, Damage]:
    found = {
        f"{name} in {field.decode()}": in_a_stream(value, field)
        for field in fields
        for name, value in VALUES.items()
        if read or value == b"\xff\xfe"
    }
    found["huge"] = in_a_stream(b"x" * HUGE, fields[0])
    found["the greatest id"] = in_a_stream(b"x", fields[0], f"{2**64 - 1}-{2**64 - 1}")
    return found


def sorted_sets() -> dict[str, Damage]:
    found = {f"score {score}": in_a_sorted_set(b"0badcafe", score) for score in SCORES}
    found |= {
        f"member {name}": in_a_sorted_set(VALUES[name], "5") for name in ("empty", "not UTF-8", "deep JSON")
    }
    return found | {"huge": in_a_sorted_set(b"x" * HUGE, "5"), "crowded": crowded}


def documents(*classes: bytes) -> list[bytes]:
    return [b'{"version":1,"classes":{"default":%s}}' % each for each in classes]


def foreign(entry: Entry) -> bytes:
    return b"D5E\x02" + pack(entry)[4:]


def crafted(payload: bytes, born: bytes = b"%016x" % 1_700_000_000_000_000) -> bytes:
    """With a checksum that is right."""
    return b"D5E\x01" + born + checksum(born + payload) + payload


ENTRIES = [
    foreign(Entry(b"{}", 1_700_000_000_000_000, 1.0, 1, 1)),
    pack(Entry(b"{}", 1_700_000_000_000_000, 1.0, 1, 1))[:-1],
    *(pack(Entry(body, 2**52, 1.0, 1, 1)) for body in (b"\xff", b"[]", b'{"choices":5}', b'{"choices":[5]}')),
    pack(Entry(b'{"choices":[{"message":5}]}', 2**50, 1.0, 1, 1)),
    crafted(b"p" + b"\x91" * 1000),
    crafted(b"z" + b"junk"),
    crafted(b"p" + msgspec.msgpack.encode([b"{}", -5, float("nan"), 2**63, -1])),
    crafted(b"p" + msgspec.msgpack.encode([b"{}", 2**63, float("inf"), 1, 1]), b"f" * 16),
]
POLICIES = documents(
    b'{"ttl":-5}', b'{"ttl":1e999}', b'{"ttl":NaN}', b'{"ttl":"9"}', b'{"ttl":' + b"9" * 400 + b"}", b"[]"
)
STATE = ("first", "next", "count", "base", "floor", "end", "mark")
FRAMES = [
    msgspec.msgpack.encode([Frame(kind, raw)])
    for kind in ("chunk", "usage", "whole")
    for raw in (b"", b"\xff", b"[" * 100_000, b'{"a":1}\n\ndata: {}', b'{"choices":5}', b'{"choices":[5]}')
]
END: dict[str, Any] = {
    "message": "m",
    "type": "t",
    "param": None,
    "code": "provider_error",
    "retry_after": None,
    "own": {},
}
ENDS = [
    msgspec.msgpack.encode({**END, **wrong})
    for wrong in (
        {"retry_after": float("inf")},
        {"retry_after": float("nan")},
        {"retry_after": -1},
        {"own": {"status": 99}},
        {"own": {"status": 2**63}},
        {"code": ["x"]},
        {"message": None},
    )
]
CELLS: dict[str, tuple[Callable[[Scene], str], dict[str, Damage]]] = {
    "entry": (lambda scene: ENTRY_KEY % (scene.key, scene.version), strings(*ENTRIES)),
    "lease": (
        lambda scene: LEASE_KEY % (scene.key, scene.version),
        expiring(strings(b"7", b"7:a\xff", b":", b"7:another")),
    ),
    "epoch": (lambda scene: EPOCH_KEY % scene.key, strings(b"9223372036854775807")),
    "cooldown": (lambda scene: COOLDOWN_KEY % scene.key, strings(read=False)),
    "fingerprint": (
        lambda scene: FINGERPRINT_KEY % scene.key,
        hashes("born", "digest", "hits") | hashes("hits"),
    ),
    "nonce": (lambda scene: PURGE_NONCE, strings(b"n" * 33)),
    "journal": (lambda scene: PURGE_JOURNAL, streams(b"tag:x")),
    "recent": (lambda scene: PURGE_RECENT, sorted_sets()),
    "stamps": (lambda scene: PURGE_STAMPS, sorted_sets()),
    "state": (lambda scene: PURGE_STATE, hashes(*STATE) | hashes("next")),
    "log": (lambda scene: PURGE_LOG, strings(bytes(100), read=False)),
    "policy": (lambda scene: POLICY_KEY, strings(*POLICIES)),
    "classes": (lambda scene: CLASSES_KEY, strings(read=False)),
    "samples": (lambda scene: SAMPLES, streams(b"b", read=False)),
    "reader": (lambda scene: SAMPLES_READER, strings(read=False)),
    "replicas": (lambda scene: REPLICAS, sorted_sets()),
    "limit": (lambda scene: limit_key(TENANT), hashes("requests", "tokens", "at")),
}


@pytest.mark.parametrize("name", CELLS)
async def test_no_request_fails_for_what_stands_under_a_name_of_ours(scene: Scene, name: str) -> None:
    place, damages = CELLS[name]
    kinds = {f"a {kind} instead": another_type(command) for kind, command in TYPES.items()} | damages
    for kind, damage in kinds.items():
        await scene.begin()
        await damage(scene.redis, place(scene))
        await check(scene, f"{name}: {kind}")
    await scene.redis.flushall()
    await until(scene.well)
    reported = [event for replica in scene.replicas for event in replica.logs]
    assert [event for event in reported if "exception" in event or event.get("exc_info")] == []


async def check(scene: Scene, cell: str) -> None:
    answers = await scene.use()
    # What is negative is a debt, which such limits let a tenant pay off at once.
    debt = cell.startswith("limit: a negative number") and answers[0].status_code == 429
    assert [each.status_code for each in answers[debt:]] == [200] * (len(answers) - debt), cell
    assert not any("internal_error" in each.text or "answer_lost" in each.text for each in answers), cell
    shown = answers[3].json()["classes"]["default"]
    assert shown["ttl"] in {60.0, 300.0}, cell
    for answer in await scene.purged():
        assert answer.status_code == 200 or answer.json()["error"]["code"] == "purged_here_only", cell


@pytest.mark.parametrize("field", ["frames", "end"])
async def test_a_leader_whose_stream_is_garbage_is_lost_and_its_followers_are_answered(
    scene: Scene, field: str
) -> None:
    ours = {"frames": FRAMES, "end": ENDS}[field]
    values = [*VALUES.values(), *ours, b"x" * HUGE]
    if field == "end":
        values.remove(b"")  # that is the end of an answer
    for value in values:
        await scene.begin()
        lease, stream = (
            LEASE_KEY % (scene.key, scene.version),
            FLIGHT_STREAM % (scene.key, scene.version, "7"),
        )
        await scene.redis.set(lease, "7:elsewhere:1", px=3_000)
        await scene.redis.xadd(stream, {field: value})
        await scene.redis.xadd(stream, {"end": b""})  # there is no more to wait for
        await check(scene, f"{field}: {value[:50]!r}")


@pytest.mark.parametrize(
    "frame",
    [
        Frame("chunk", b"[1]"),
        Frame("chunk", b"{"),
        Frame("chunk", b"[" * 100_000),
        Frame("chunk", b'{"a":1}\r\rdata: {}'),
        Frame("usage", b'{"a":1}\n\ndata: {}'),
        Frame("whole", b'{"choices":5}'),
    ],
)
async def test_a_stream_that_turns_to_garbage_is_that_of_a_lost_leader(scene: Scene, frame: Frame) -> None:
    await scene.begin()
    replica = scene.replicas[0]
    before = await replica.metric("dub5_redis_undecodable_total", kind="flight")
    stream = FLIGHT_STREAM % (scene.key, scene.version, "7")
    good = Frame("chunk", b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"},"finish_reason":null}]}')
    await scene.redis.set(LEASE_KEY % (scene.key, scene.version), "7:elsewhere:1", px=60_000)
    await scene.redis.xadd(stream, {"frames": msgspec.msgpack.encode([good])})
    body = {"model": "small", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    async with (
        asyncio.timeout(TIMEOUT),
        replica.client.stream(
            "POST", "/v1/chat/completions", json=body, headers={"cache-control": "max-age=0"}
        ) as answer,
    ):
        events = answer.aiter_lines()
        assert good.raw.decode() in await anext(events)
        await scene.redis.xadd(stream, {"frames": msgspec.msgpack.encode([frame])})
        [reported] = [event async for event in events if event]
    assert msgspec.json.decode(reported.removeprefix("data: "))["error"]["code"] == "answer_lost"
    assert await replica.metric("dub5_redis_undecodable_total", kind="flight") == before + 1


@pytest.mark.parametrize(
    "frame",
    [Frame("whole", b"[]"), Frame("whole", b'{"choices":5}'), Frame("chunk", b'{"choices":[5]}')],
)
async def test_frames_that_make_no_answer_are_counted_and_logged(scene: Scene, frame: Frame) -> None:
    await scene.begin()
    replica, stream = scene.replicas[0], FLIGHT_STREAM % (scene.key, scene.version, "7")
    await scene.redis.set(LEASE_KEY % (scene.key, scene.version), "7:elsewhere:1", px=60_000)
    await scene.redis.xadd(stream, {"frames": msgspec.msgpack.encode([frame])})
    await scene.redis.xadd(stream, {"end": b""})
    answer = await replica.chat(QUESTION, headers={"cache-control": "max-age=0"})
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]
    assert await replica.metric("dub5_redis_undecodable_total", kind="flight") > 0
    logs = [each for replica in scene.replicas for each in replica.logs]
    lines = [each["kind"] for each in logs if each["event"] == "redis value undecodable"]
    assert lines.count("flight") == 1


async def test_what_is_said_in_our_channels_ends_nothing(scene: Scene) -> None:
    await scene.begin()
    channels = [PURGE_CHANNEL, POLICY_CHANNEL]
    channels += [REPLICA_CHANNEL % each.replica.application._leases.replica for each in scene.replicas]  # type: ignore[union-attr]
    for value in (*VALUES.values(), b"x" * HUGE):
        for channel in channels:
            await scene.redis.publish(channel, value)
    await check(scene, "channels")
    await scene.redis.flushall()
    await until(scene.well)
    assert await scene.counted() > 0


async def test_it_is_counted_and_told_once_and_the_good_policy_stays(scene: Scene) -> None:
    await scene.begin()
    replica = scene.replicas[0]
    before = await replica.metric("dub5_redis_undecodable_total", kind="policy")
    policies = replica.replica.application._policies
    for number, document in enumerate(POLICIES):
        await scene.redis.set(POLICY_KEY, document)
        await policies.read()
        counted = await replica.metric("dub5_redis_undecodable_total", kind="policy") - before
        assert counted >= number + 1
        assert policies.in_force["default"].ttl == 60.0
    logs = [each for replica in scene.replicas for each in replica.logs]
    lines = [each for each in logs if each["event"] == "redis value undecodable" and each["kind"] == "policy"]
    assert 1 <= len(lines) <= len(scene.replicas)
    await scene.redis.set(
        POLICY_KEY, msgspec.json.encode(PolicyDocument(classes={"default": ClassPolicy(11.0)}))
    )
    await scene.redis.publish(POLICY_CHANNEL, b"")
    await until(lambda: policies.in_force["default"].ttl == 11.0)
