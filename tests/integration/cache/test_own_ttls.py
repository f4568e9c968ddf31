"""Answers with TTLs of their own: what replicas know of a question, from each other and of themselves."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from dub5.cache.flights import Flights, OneReplica
from dub5.cache.freshness import NO_DIRECTIVES, Lifetimes
from dub5.cache.purges import Purges
from dub5.cache.samples import Sampler
from dub5.cache.store import (
    AnswerStore,
    CacheHit,
    CacheLookup,
    Entry,
    Identity,
    LocalCache,
    read_noise,
    read_record,
)
from dub5.contract import FINGERPRINT_KEY, QuestionNoise, QuestionPolicy, QuestionRecord
from dub5.frames import Frame
from dub5.question_ttl import remembered, ttl_of, updated
from dub5.redis.link import RedisLink
from dub5.telemetry.metrics import Metrics
from tests.following import question
from tests.harness import PATIENT
from tests.integration.cache.support import Clock, linked, plain, until

POLICY = QuestionPolicy(
    cost=0.02,
    change=(1.0, 3600.0),
    noise=(1.0, 50.0),
    requests=(1.0, 600.0),
    shortest=1.0,
    longest=86400.0,
    stale=0.1,
)
OWN = Lifetimes(ttl=60.0, question=POLICY)
KEY = "a" * 48
NAME = FINGERPRINT_KEY % KEY
WANTED = CacheLookup(key=KEY, names=("all",), lifetimes=OWN, directives=NO_DIRECTIVES)
STARTED = 1_700_000_000.0


def said(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}}]}


class Replica:
    """The parts of one that matter here. `now` is the clock of all."""

    def __init__(self, link: RedisLink, name: str, now: Clock) -> None:
        self.link = link
        self.now = now
        self.store = AnswerStore(LocalCache(2**20), link, Purges(link, Clock()), clock=now)
        self.sampler = Sampler(
            link,
            Metrics(config_hash="test"),
            replica=name,
            budget=2048,
            re_ask_share=0.0,
            now=now,
            learn=self.store.learn,
        )

    @property
    def identity(self) -> Identity:
        return self.store.identity(WANTED)

    async def fetch(
        self, text: str, *, lifetimes: Lifetimes = OWN, compared_with: Entry | None = None
    ) -> Entry:
        """What a flight does with the answer that it was given just now."""
        completion = said(text)
        entry = Entry(msgspec.json.encode(completion), int(self.now() * 1e6), 0.0, 1, 1)
        differs = await self.sampler.fetched(
            self.identity,
            "default",
            entry,
            completion,
            "text",
            lifetimes=lifetimes,
            compared_with=compared_with,
            source="refetch" if compared_with is None else "re-ask",
        )
        if differs:
            await self.store.store(self.identity, entry, lifetimes)
        await self.sampler._comparisons.stop(wait=PATIENT)
        return entry

    async def look(self) -> CacheHit:
        hit = self.store.recall(WANTED) or await self.store.find(WANTED)
        assert hit is not None
        return hit

    async def hit(self) -> CacheHit:
        """One that is served."""
        found = await self.look()
        assert found.question is not None
        self.sampler.accessed(KEY, "default", found.entry, dollars=0.0, hit=True, ttl=found.own_ttl)
        found.question.served(found.entry, self.sampler.replicas)
        return found


@pytest.fixture
def now() -> Clock:
    clock = Clock()
    clock.now = STARTED
    return clock


@contextlib.asynccontextmanager
async def replica(redis: str, name: str, now: Clock) -> AsyncIterator[Replica]:
    async with linked(redis, timeout=PATIENT) as link:
        made = Replica(link, name, now)
        await made.store._purges.synchronise()
        yield made


@pytest.fixture
async def client(redis: str) -> AsyncIterator[Redis]:
    async with plain(redis) as client:
        yield client


async def known_of(client: Redis) -> tuple[QuestionRecord | None, QuestionNoise | None]:
    stored: list[Any] = await client.hmget(NAME, ["known", "noise"])
    return read_record(stored[0]), read_noise(stored[1])


def expected(record: QuestionRecord | None, hits: float, age: float) -> float:
    return ttl_of(record, POLICY, hits=hits, age=age, now=STARTED).seconds


async def test_a_comparison_is_kept_and_makes_the_ttl_on_every_replica(
    redis: str, client: Redis, now: Clock
) -> None:
    async with replica(redis, "one", now) as one, replica(redis, "two", now) as two:
        await one.fetch("Hello")
        assert await known_of(client) == (None, None)  # nothing was compared yet
        assert (await two.look()).lifetimes.ttl == expected(None, 0, 0)
        now.now += 40
        await two.fetch("Hello")
        record, noise = updated(
            None, fetched=STARTED, again=STARTED + 40, changed=False, hits=0, re_asked=False, policy=POLICY
        )
        assert await known_of(client) == (record, noise)
        now.now += 10
        one.store._local._entries.clear()  # of the older answer
        for each in (two, one):
            found = await each.look()
            assert (found.lifetimes.ttl, found.ttl_by) == (expected(record, 0, 10), "changes")
            assert found.ttl == pytest.approx(found.lifetimes.ttl - 10)


async def test_hits_of_all_replicas_shorten_the_ttl_at_once(redis: str, client: Redis, now: Clock) -> None:
    async with replica(redis, "one", now) as one, replica(redis, "two", now) as two:
        await one.fetch("Hello")
        now.now += 1
        for _ in range(5):
            await one.hit()
        assert (await one.look()).lifetimes.ttl == expected(None, 5, 1)
        await one.sampler.turn()  # registers, and adds the hits to the fingerprint
        await two.hit()
        assert two.store._local.questions.get(KEY).hits == 6  # type: ignore[union-attr]
        await two.sampler.turn()
        await one.sampler.turn()
        assert one.sampler.replicas == 1  # it had no hits since
        await one.hit()
        await one.sampler.turn()
        assert one.sampler.replicas == two.sampler.replicas == 2
        before = (await one.look()).lifetimes.ttl
        await one.hit()
        assert (await one.look()).lifetimes.ttl == expected(None, 8, 1) < before
        assert await client.hget(NAME, "hits") == b"7"


async def test_what_the_hits_of_a_life_were_is_in_the_record(redis: str, client: Redis, now: Clock) -> None:
    async with replica(redis, "one", now) as one, replica(redis, "two", now) as two:
        await one.fetch("Hello")
        for each in (one, two, two):
            await each.hit()
        await two.sampler.turn()
        now.now += 30
        await one.fetch("Goodbye")  # its own hit was not added yet
        assert await known_of(client) == updated(
            None, fetched=STARTED, again=STARTED + 30, changed=True, hits=3, re_asked=False, policy=POLICY
        )


async def test_what_is_known_is_read_before_it_is_replaced(redis: str, now: Clock) -> None:
    """Once more for each answer that is stored; a class with one TTL for all replaces it unseen. A hit asks no more."""

    async def trips(lifetimes: Lifetimes) -> list[float]:
        async with replica(redis, "one", now) as one:
            for text in ("Hello", "Hello", "Goodbye"):
                now.now += 10
                await one.fetch(text, lifetimes=lifetimes)
            name = "dub5_redis_duration_seconds_count"
            registry = one.link._metrics.registry
            return [
                registry.get_sample_value(name, {"operation": each}) or 0 for each in ("fingerprint", "set")
            ]

    assert await trips(OWN) == [6, 3]
    assert await trips(Lifetimes(ttl=60.0)) == [3, 3]


class Answers:
    """A Leader with an answer that is not to be kept."""

    made = None

    def again(self) -> Answers:
        return self

    async def call(self, _: Identity | None, on_frames: Callable[[list[Frame]], None]) -> None:
        on_frames([Frame("whole", b"{}")])


async def test_what_is_known_is_read_where_a_lease_is_asked_for_without_a_look(
    redis: str, client: Redis, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AnswerStore, "looks_first", lambda *_: False)
    async with replica(redis, "one", now) as one, replica(redis, "two", now) as two:
        for _ in range(2):
            await one.fetch("Hello")
            now.now += 40
        flights = Flights(two.store, OneReplica(), Metrics(config_hash="test"))
        answer = await flights.answer(question(KEY, lifetimes=OWN, stream=False), Answers())
        assert answer.frames == [Frame("whole", b"{}")]
        await until(lambda: two.store._local.questions.get(KEY) is not None)
        known = two.store._local.questions.get(KEY)
        record, _ = await known_of(client)
        assert record is not None
        assert known is not None
        assert known.record == record


@pytest.mark.parametrize("known", [b"garbage", b"x" * 10_000, msgspec.msgpack.encode([-1.0] * 7)], ids=len)
async def test_a_damaged_record_costs_no_hit_and_is_replaced(
    redis: str, client: Redis, now: Clock, known: bytes
) -> None:
    async with replica(redis, "one", now) as one, replica(redis, "two", now) as two:
        await one.fetch("Hello")
        await client.hset(NAME, "known", known)
        assert (await two.look()).lifetimes.ttl == expected(None, 0, 0)
        undecodable = {"kind": "fingerprint"}
        counted = two.link._metrics.registry
        assert counted.get_sample_value("dub5_redis_undecodable_total", undecodable) == 1
        now.now += 20
        await two.fetch("Hello")
        assert counted.get_sample_value("dub5_redis_undecodable_total", undecodable) == 2
        assert None not in await known_of(client)


@pytest.mark.parametrize("noise", [None, b"garbage"])  # a release before this one wrote none
async def test_a_record_without_its_noise_is_gone_on_with(
    redis: str, client: Redis, now: Clock, noise: bytes | None
) -> None:
    async with replica(redis, "one", now) as one:
        await one.fetch("Hello")
        now.now += 40
        await one.fetch("Goodbye")
        record, _ = await known_of(client)
        await (client.hdel(NAME, "noise") if noise is None else client.hset(NAME, "noise", noise))
        now.now += 40
        await one.fetch("Goodbye")
        assert await known_of(client) == updated(
            record, fetched=now.now - 40, again=now.now, changed=False, hits=0, re_asked=False, policy=POLICY
        )


async def test_a_fingerprint_of_another_type_costs_no_hit(redis: str, client: Redis, now: Clock) -> None:
    async with replica(redis, "one", now) as one, replica(redis, "two", now) as two:
        await one.fetch("Hello")
        await client.delete(NAME)
        await client.set(NAME, b"a string")
        assert (await two.look()).tier == "shared"
        now.now += 20
        await two.fetch("Hello")
        assert await client.type(NAME) == b"hash"


async def test_a_re_ask_that_is_the_same_is_remembered_and_ends_nothing(
    redis: str, client: Redis, now: Clock
) -> None:
    async with replica(redis, "one", now) as one:
        first = await one.fetch("Hello")
        await one.hit()
        now.now += 5
        await one.fetch("Hello", compared_with=first)
        assert await client.hget(NAME, "born") == str(first.born).encode()
        once = updated(
            None, fetched=STARTED, again=STARTED + 5, changed=False, hits=1, re_asked=True, policy=POLICY
        )
        assert await known_of(client) == once
        found = await one.look()
        assert found.entry == first
        assert found.lifetimes.ttl == expected(once[0], 1, 5)
        await client.delete(NAME)  # evicted while the comparison was under way
        now.now += 5
        await one.fetch("Hello", compared_with=first)
        assert await client.pttl(NAME) > 0  # whatever is there expires


async def test_a_record_is_never_all_that_is_left(redis: str, client: Redis, now: Clock) -> None:
    """The script that adds it must not make a hash anew, which would never expire."""
    async with replica(redis, "one", now) as one:
        first = await one.fetch("Hello")
        pipeline = one.link.pipeline

        async def evicted(operation: str, commands: Any) -> Any:
            if commands[0][0] == "EVAL":
                await client.delete(NAME)
            return await pipeline(operation, commands)

        one.link.pipeline = evicted  # type: ignore[method-assign, assignment]
        now.now += 5
        await one.fetch("Hello", compared_with=first)
        assert not await client.exists(NAME)


async def test_a_fingerprint_is_kept_for_as_long_as_it_tells_anything(
    redis: str, client: Redis, now: Clock
) -> None:
    async with replica(redis, "one", now) as one:
        await one.fetch("Hello")
        assert await client.pttl(NAME) == pytest.approx(remembered(None, POLICY) * 1000, abs=PATIENT * 1000)
        now.now += 3000
        await one.fetch("Hello")
        record, _ = await known_of(client)
        assert await client.pttl(NAME) == pytest.approx(remembered(record, POLICY) * 1000, abs=PATIENT * 1000)
        assert remembered(record, POLICY) > remembered(None, POLICY)


async def test_after_a_purge_only_requests_are_counted(redis: str, client: Redis, now: Clock) -> None:
    async with replica(redis, "one", now) as one:
        await one.fetch("Hello")
        now.now += 10
        await one.store.purge(["all"])
        await one.fetch("Goodbye")
        assert await known_of(client) == updated(
            None, fetched=STARTED, again=STARTED + 10, changed=None, hits=0, re_asked=False, policy=POLICY
        )


async def test_without_a_policy_for_questions_nothing_is_asked_or_kept(
    redis: str, client: Redis, now: Clock
) -> None:
    plain_lookup = msgspec.structs.replace(WANTED, lifetimes=Lifetimes(ttl=60.0))

    async def read() -> int:
        return int((await client.info("commandstats")).get("cmdstat_hmget", {}).get("calls", 0))

    async with replica(redis, "one", now) as one, replica(redis, "two", now) as two:
        for _ in range(2):
            now.now += 10
            await one.fetch("Hello", lifetimes=Lifetimes(ttl=60.0))
        assert await known_of(client) == (None, None)
        assert await client.pttl(NAME) == pytest.approx(240_000, abs=PATIENT * 1000)
        before = await read()
        found = await two.store.find(plain_lookup)
        assert found is not None
        assert (found.lifetimes.ttl, found.ttl_by, found.question) == (60.0, None, None)
        assert await read() == before
        assert two.store._local.questions.get(KEY) is None


async def test_an_answer_is_kept_for_longer_than_its_ttl_may_become(
    redis: str, client: Redis, now: Clock
) -> None:
    async with replica(redis, "one", now) as one:
        await one.fetch("Hello")
        [name] = await client.keys("*:entry:*")
        kept = await client.pttl(name)
        assert expected(None, 0, 0) * 1000 < kept <= 86400 * 1000
