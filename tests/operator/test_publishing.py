"""Who publishes, for how long, and how often: against a real Redis."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from dub5.contract import (
    MOST_TERM,
    POLICY_CHANNEL,
    POLICY_KEY,
    SAMPLES_READER,
    ClassPolicy,
    PolicyDocument,
    QuestionPolicy,
)
from dub5_operator.handlers.policy import apply
from dub5_operator.main import TICK
from dub5_operator.redis import A_CLASS, PUBLISHED_FOR, RENEW, SILENT, Overtaken, Publisher
from tests.operator.test_policies import NOW, Bench, Clock

A, B = ClassPolicy(7.0), ClassPolicy(9.0)


async def document(client: Redis) -> PolicyDocument:
    return msgspec.json.decode(await client.get(POLICY_KEY) or b"{}", type=PolicyDocument)


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_the_one_that_began_last_publishes_and_keeps_what_was_in_force(
    client: Redis, clock: Clock
) -> None:
    old, new = (Publisher(client, clock, gather=0.0) for _ in range(2))
    await old.publish("faq", A)
    assert await new.in_force("faq") == A
    await new.publish("banter", B)
    for change in (old.publish("faq", B), old.publish("faq", None)):
        with pytest.raises(Overtaken):
            await change
    assert (await document(client)).classes == {"faq": A, "banter": B}
    assert (old.in_charge, new.in_charge) == (False, True)


async def test_two_that_write_at_once_lose_nothing_of_the_later_one(client: Redis, clock: Clock) -> None:
    """The older one is cut off from the cluster, and goes on with what it knew."""
    old, new = (Publisher(client, clock, gather=0.0) for _ in range(2))
    await old.publish("class-0", A)
    began = asyncio.Event()

    async def go_on() -> bool:
        await began.wait()
        try:
            while True:
                await old.publish("class-0", A)
                await asyncio.sleep(0)
        except Overtaken:
            return True

    going_on = asyncio.create_task(go_on())
    began.set()
    await asyncio.gather(*(new.publish(f"class-{number}", B) for number in range(20)))
    assert await going_on
    assert (await document(client)).classes == {f"class-{number}": B for number in range(20)}


@pytest.mark.parametrize(
    "held", [b"", b"nonsense", b"[]", b'{"term":"many"}', b'{"term":null}', b'{"term":1e300}']
)
async def test_of_two_that_begin_at_once_one_publishes(client: Redis, clock: Clock, held: bytes) -> None:
    await client.set(POLICY_KEY, held)
    several = [Publisher(client, clock, gather=0.0) for _ in range(5)]
    assert True in await asyncio.gather(*(each.take_charge() for each in several))
    results = await asyncio.gather(*(each.publish("faq", A) for each in several), return_exceptions=True)
    assert [type(each) for each in results].count(Overtaken) == 4, results
    assert 0 < (await document(client)).term <= MOST_TERM


async def test_a_flushed_redis_does_not_bring_an_overtaken_one_back(client: Redis, clock: Clock) -> None:
    old = Publisher(client, clock, gather=0.0)
    await old.publish("faq", A)
    clock.now += 10
    new = Publisher(client, clock, gather=0.0)
    await new.publish("faq", B)
    await client.flushall()
    for first, second in ((old, new), (new, old)):
        for each in (first, second):
            try:
                await each.publish("faq", A if each is old else B)
            except Overtaken:
                assert each is old
    assert (await document(client)).classes == {"faq": B}


async def test_one_that_was_overtaken_takes_over_from_one_that_is_silent(client: Redis, clock: Clock) -> None:
    old, new = (Publisher(client, clock, gather=0.0) for _ in range(2))
    await old.publish("faq", A)
    await new.publish("faq", B)
    with pytest.raises(Overtaken):
        await old.publish("faq", A)
    clock.now += SILENT - 1
    assert not await old.take_charge()
    await new.renew({"faq"})
    clock.now += SILENT - 1
    assert not await old.take_charge()
    clock.now += 1
    assert await old.take_charge()
    assert await old.in_force("faq") == B
    with pytest.raises(Overtaken):
        await new.publish("faq", A)


async def test_a_document_is_renewed_long_before_it_expires(client: Redis, clock: Clock) -> None:
    publisher = Publisher(client, clock, gather=0.0)
    await publisher.publish("faq", A)
    assert (await document(client)).expires == NOW + PUBLISHED_FOR
    clock.now += RENEW - 1
    await publisher.renew({"faq"})
    assert (await document(client)).issued == NOW
    clock.now += 1
    await publisher.renew({"faq"})
    assert (await document(client)).expires == clock.now + PUBLISHED_FOR
    clock.now += 1
    await publisher.renew(set())  # its policy is gone
    assert (await document(client)).classes == {}


async def test_a_clock_that_is_set_back_keeps_nothing_from_being_renewed(client: Redis, clock: Clock) -> None:
    bench = Bench(client)
    await bench.announced()
    await bench.reconcile()
    bench.clock.now -= 3600
    await client.delete(SAMPLES_READER)
    await bench.policies.keep({"banter"})
    assert (await document(client)).expires == bench.clock.now + PUBLISHED_FOR
    assert await client.exists(SAMPLES_READER)


@pytest.mark.parametrize("held", [MOST_TERM - 2, MOST_TERM - 1, MOST_TERM])
async def test_there_is_a_term_after_the_greatest(client: Redis, clock: Clock, held: int) -> None:
    await client.set(POLICY_KEY, msgspec.json.encode(PolicyDocument(term=held)))
    for ttl in (7.0, 8.0, 9.0):
        await Publisher(client, clock, gather=0.0).publish("faq", ClassPolicy(ttl))
        assert (await document(client)).classes == {"faq": ClassPolicy(ttl)}


@pytest.mark.parametrize(
    "held",
    [b'{"term":4000000000000000,"classes":3}', b'{"version":2,"term":4000000000000000}', b'{"term":"4e15"}'],
)
async def test_what_cannot_be_read_and_stays_as_it_is_keeps_nobody_out_for_ever(
    client: Redis, clock: Clock, held: bytes
) -> None:
    await client.set(POLICY_KEY, held)
    publisher = Publisher(client, clock, gather=0.0)
    with pytest.raises(Overtaken):
        await publisher.publish("faq", A)
    clock.now += SILENT - 1
    with pytest.raises(Overtaken):
        await publisher.publish("faq", A)
    await client.set(POLICY_KEY, held + b" ")  # somebody writes it
    clock.now += 1
    with pytest.raises(Overtaken):
        await publisher.publish("faq", A)
    clock.now -= 0.001
    with pytest.raises(Overtaken):
        await publisher.publish("faq", A)
    clock.now += SILENT
    await publisher.publish("faq", A)
    assert (await document(client)).classes == {"faq": A}


@pytest.mark.parametrize("hazard", [math.nan, 0.0])
async def test_a_policy_that_replicas_would_refuse_is_not_published(
    client: Redis, clock: Clock, hazard: float
) -> None:
    publisher = Publisher(client, clock, gather=0.0)
    await publisher.publish("faq", A)
    question = QuestionPolicy(1.0, (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), 5.0, 60.0, 0.03, hazard=hazard)
    with pytest.raises(ValueError, match="hazard"):
        await publisher.publish("news", ClassPolicy(9.0, question=question))
    await publisher.publish("chat", B)
    assert (await document(client)).classes == {"faq": A, "chat": B}


async def test_what_has_expired_is_not_begun_with(client: Redis, clock: Clock) -> None:
    await Publisher(client, clock, gather=0.0).publish("faq", A)
    clock.now += PUBLISHED_FOR
    assert await Publisher(client, clock, gather=0.0).in_force("faq") is None


async def test_what_comes_at_once_goes_together(client: Redis, clock: Clock) -> None:
    """A thousand policies that change at once would be a thousand documents for each replica to read."""
    publisher = Publisher(client, clock, gather=0.2)
    async with client.pubsub() as told:
        await told.subscribe(POLICY_CHANNEL)
        await asyncio.gather(*(publisher.publish(f"class-{number}", A) for number in range(100)))
        assert len((await document(client)).classes) == 100
        messages = 0
        while (message := await told.get_message(timeout=0.1)) is not None:
            messages += message["type"] == "message"
        assert 1 <= messages <= 2


async def test_a_redis_that_was_away_is_given_all_that_came_meanwhile(
    client: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher(client, clock, gather=0.0)
    await publisher.publish("faq", A)

    async def away(*_: Any) -> None:
        raise RedisConnectionError

    monkeypatch.setattr(client, "eval", away)
    results = await asyncio.gather(
        *(publisher.publish(name, B) for name in ("faq", "banter")), return_exceptions=True
    )
    assert [type(each) for each in results] == [RedisConnectionError] * 2
    monkeypatch.undo()
    await publisher.publish("facts", A)
    assert (await document(client)).classes == {"faq": B, "banter": B, "facts": A}


async def test_a_policy_of_an_operator_that_was_overtaken_is_left_to_the_other(client: Redis) -> None:
    """Its object, its events and its series too; and it begins with what that one has published."""
    old, new = Bench(client), Bench(client)
    await old.announced()
    await old.reconcile({"ttl": {"initial": "2m"}})
    new.clock.now = old.clock.now
    await new.reconcile({"ttl": {"initial": "5m"}})
    assert (await new.published())["banter"].ttl == 120  # nothing is taken back
    for _ in range(2):
        assert await old.attempt() is None
        assert not old.policies.is_due("1", {"cacheClass": "banter"})
        assert await old.metric("dub5_operator_ttl_seconds") is None
        await old.policies.keep({"banter"})
    assert old.policies._states == {}
    old.clock.now += SILENT
    assert await old.attempt() is not None
    assert (await old.published())["banter"].ttl == 120
    assert await new.attempt() is None


async def test_a_policy_of_which_the_other_operator_does_not_know_is_not_ready(client: Redis) -> None:
    """As of two releases with one Redis. It said that it was, and its series that all was well."""
    old, new = Bench(client), Bench(client)
    await old.announced()
    await old.reconcile()
    await new.reconcile()
    assert await old.attempt() is None  # that one may be about to
    old.clock.now += TICK + SILENT
    new.clock.now = old.clock.now
    await new.reconcile()
    for events in (1, 0):
        report = await old.attempt()
        assert report is not None
        ready = report.conditions[0]
        assert (ready.status, ready.reason) == ("False", "Overtaken")
        assert len(report.events) == events
        apply(old.body, report)
        assert await old.statuses("Ready") == {"true": 0, "false": 1, "unknown": 0}
    known = {"status": new.body["status"]}
    assert await old.attempt(**known) is None  # the other one's


async def test_a_policy_for_which_there_is_no_room_is_not_ready_and_the_others_stay(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dub5_operator.redis.MOST_DOCUMENT", A_CLASS + 50)
    bench = Bench(client)
    await bench.announced()
    await bench.reconcile()
    report = await bench.policies.reconcile(
        name="facts", uid="2", spec={"cacheClass": "facts"}, status={}, claims=[("2026", "facts", "2")],
        classes={"banter", "facts"},
    )  # fmt: skip
    assert report is not None
    assert (report.conditions[0].status, report.conditions[0].reason) == ("False", "TooMany")
    assert (await bench.published()).keys() == {"banter"}
    await bench.policies.gone(name="banter", uid="1", class_name="banter", claims=[])
    await bench.reconcile({"cacheClass": "facts"})
    assert (await bench.published()).keys() == {"facts"}


def test_no_class_takes_more_of_the_document_than_it_is_reckoned_with() -> None:
    long, pair = 1.2345678901234567e-05, (1.2345678901234567e-05, 1e9 + 0.1234567)
    question = QuestionPolicy(long, pair, pair, pair, long, long, long, long, 1e9 + 0.1234567, long)
    policy = ClassPolicy(1e7 + 0.123456789, 1e7 + 0.123456789, question, long)
    assert len(msgspec.json.encode(policy)) + 4 < A_CLASS


async def test_a_class_whose_policy_nobody_saw_go_has_its_own_ttl_again(client: Redis) -> None:
    bench = Bench(client)
    await bench.announced()
    await bench.reconcile()
    other = Bench(client)
    await other.policies.reconcile(
        name="facts", uid="2", spec={"cacheClass": "facts"}, status={}, claims=[("2026", "facts", "2")],
        classes={"facts"},
    )  # fmt: skip
    assert (await bench.published()).keys() == {"facts"}
