"""Leases against a real Redis: fencing, epochs, lost messages, a Cluster, and what an ACL user needs."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from redis.exceptions import NoPermissionError

from dub5.cache.flights import CacheAnswer, Claim, Flight, Flights, Made, Tailed
from dub5.cache.freshness import Lifetimes
from dub5.cache.leases import RENEWED, Leases
from dub5.cache.purges import Purges
from dub5.cache.store import AnswerStore, Entry, Identity, LocalCache
from dub5.contract import LEASE_KEY, REPLICA_CHANNEL, SAMPLES, SAMPLES_READER
from dub5.frames import Frame
from dub5.redis.link import RedisLink
from dub5.telemetry.metrics import Metrics
from testkit.openai_server import FakeOpenAI
from testkit.redis_server import RedisServer
from tests.following import Follower, question, remaining
from tests.harness import PATIENT, Running, openai_provider, running
from tests.integration.cache.support import TIMEOUT, leasing, linked, plain, until

IDENTITY = Identity("key", "n.0")

ACL_RULE = (
    "resetkeys ~dub5:* resetchannels &dub5:* -@all "
    "+ping +hello +auth +select +client "
    "+get +set +del +exists +type +incr +expire +pexpire +pttl +getrange +setrange "
    "+hget +hset +hdel +hincrby +hmget +hstrlen "
    "+xadd +xrange +xrevrange +xtrim "
    "+zadd +zrange +zrangebyscore +zscore +zcard +zpopmin +zrem +zremrangebyscore +time "
    "+eval +publish +subscribe +unsubscribe"
)
"""The least that a replica's ACL user needs; docs/caching.md quotes it."""


FOR_EVER = Lifetimes(ttl=1e10)
"""Also for an answer of 1970."""


def store_of(link: RedisLink | None) -> AnswerStore:
    return AnswerStore(LocalCache(2**20), link, Purges(link))


class Call:
    """What a flight does where it leads: two parts, the second once `gate` is open."""

    def __init__(self, *parts: Frame, gate: asyncio.Event) -> None:
        self.calls = 0
        self._parts = parts
        self._gate = gate

    made: Made | None = None

    def again(self) -> Call:
        raise NotImplementedError

    async def call(self, _: Identity | None, on_frames: Callable[[list[Frame]], None]) -> None:
        self.calls += 1
        on_frames([*self._parts[:-1]])
        await self._gate.wait()
        on_frames([self._parts[-1]])


def chunk(text: str) -> Frame:
    return Frame("chunk", msgspec.json.encode({"text": text}))


async def claim(leases: Leases, flight: Flight, *, seen: int = 0, background: bool = False) -> Claim:
    return await leases.claim(IDENTITY, flight, seen=seen, background=background)


async def rest(answer: CacheAnswer) -> list[Frame]:
    """All frames of a streamed answer."""
    assert answer.coming is not None
    async with asyncio.timeout(TIMEOUT):
        return [*answer.frames, *await remaining(answer.coming)]


# Who leads


async def test_one_leads_and_the_others_learn_who(redis: str) -> None:
    async with leasing(redis) as a, leasing(redis) as b:
        claims = await asyncio.gather(*(claim(leases, Flight()) for leases in (a, b)))
        assert sorted(each.outcome for each in claims) == ["follow", "lead"]
        assert claims[0].token == claims[1].token
        assert claims[0].leader in {a.replica, b.replica}


async def test_each_lease_of_a_key_has_an_epoch_of_its_own(redis: str) -> None:
    async with leasing(redis) as leases:
        seen = set()
        for _ in range(3):
            each = await claim(leases, Flight())
            await leases.release(each)
            seen.add(each.stream)
        assert len(seen) == 3


async def test_an_answer_stored_meanwhile_is_not_asked_for_again(redis: str) -> None:
    async with leasing(redis) as leases, linked(redis, timeout=PATIENT) as link:
        store = store_of(link)
        await store.store(IDENTITY, Entry(b"{}", 1000, 1.0, 1, 1), FOR_EVER)
        assert (await claim(leases, Flight(), seen=0)).outcome == "stored"
        assert (await claim(leases, Flight(), seen=999)).outcome == "stored"
        assert (await claim(leases, Flight(), seen=1000)).outcome == "lead"  # it is the one that would not do


async def test_a_cooldown_stops_refreshes_but_no_request(redis: str) -> None:
    async with leasing(redis) as a, leasing(redis) as b:
        await a.cool_down(IDENTITY, 60)
        assert (await claim(b, Flight(), background=True)).outcome == "cooling"
        assert (await claim(b, Flight())).outcome == "lead"


# Fencing


async def test_a_leader_that_lost_its_lease_cannot_write(redis: str) -> None:
    async with leasing(redis) as paused, leasing(redis) as successor, plain(redis) as client:
        one, other = Flight(), Flight()
        former = await claim(paused, one)
        await client.delete(former.lease)  # it slept for longer than its lease lives
        latter = await claim(successor, other)
        assert latter.outcome == "lead"
        assert not await paused._append(paused._led[IDENTITY], b"frames", b"anything", 0)
        assert await successor._append(successor._led[IDENTITY], b"end", b"", 0)
        assert not await client.exists(former.stream)
        assert former.stream != latter.stream
        await paused.release(former)
        assert await client.get(latter.lease) == latter.token.encode()  # not its to give back
        await successor.release(latter)
        assert not await client.exists(latter.lease)


async def test_a_lease_lost_and_taken_again_by_the_same_replica_is_the_new_one(redis: str) -> None:
    async with leasing(redis) as leases, leasing(redis) as elsewhere, plain(redis) as client:
        former = await claim(leases, Flight())
        await client.delete(former.lease)
        flight = Flight()
        latter = await claim(leases, flight)
        await leases.release(former)  # must not end what the new one publishes
        followed = Flight()
        follower = Follower(followed)
        tail = asyncio.create_task(elsewhere.tail(followed, await claim(elsewhere, followed)))
        flight.add([chunk("a")])
        flight.end()
        assert await follower.rest() == [chunk("a")]
        assert await tail is Tailed.ENDED
        await leases.release(latter)


async def test_a_lease_is_renewed_for_as_long_as_the_flight_takes(redis: str) -> None:
    async with leasing(redis) as leases, plain(redis) as client:
        lead = await claim(leases, Flight())
        await client.pexpire(lead.lease, 2_000)
        await until(lambda: lives_longer(redis, lead.lease, 2_000))
        await leases.release(lead)


async def test_leases_are_renewed_also_where_they_are_more_than_go_at_once(redis: str) -> None:
    async with leasing(redis) as leases, plain(redis) as client:
        claims = [
            await leases.claim(Identity(f"key {number}", "n.0"), Flight(), seen=0, background=False)
            for number in range(RENEWED + 2)
        ]
        for lead in claims:
            await client.pexpire(lead.lease, 2_000)
        for lead in (claims[0], claims[-1]):
            await until(lambda lead=lead: lives_longer(redis, lead.lease, 2_000))  # type: ignore[misc]


async def lives_longer(url: str, key: str, milliseconds: int) -> bool:
    async with plain(url) as client:
        return bool(await client.pttl(key) > milliseconds)


async def test_a_cancelled_flight_gives_its_lease_back_though_somebody_followed(redis: str) -> None:
    """The publisher waits for frames that will never come."""
    async with leasing(redis) as a, leasing(redis) as b:
        lead = await claim(a, flight := Flight())
        flight.followers += 1
        tailing = asyncio.create_task(b.tail(tailed := Flight(), await claim(b, tailed)))
        await until(lambda: flight.followers == 2)
        tailing.cancel()
        await until(lambda: flight.followers == 1)  # told, not found out by its silence
        async with asyncio.timeout(TIMEOUT):
            await a.release(lead)
        assert (await claim(b, Flight())).outcome == "lead"


async def test_a_leader_whose_lease_is_flushed_while_others_follow_ends_as_any_other(redis: str) -> None:
    """Its publisher gives the lease up while the leader waits for it."""
    metrics, gate = Metrics(config_hash="test"), asyncio.Event()
    call = Call(chunk("a"), gate=gate)
    async with leasing(redis) as a, leasing(redis) as b, plain(redis) as client:
        flights = Flights(store_of(None), a, metrics)
        asking = asyncio.create_task(flights.answer(question(lifetimes=FOR_EVER), call))
        await until(lambda: bool(a._led))
        [identity] = a._led
        theirs = await b.claim(identity, tailed := Flight(), seen=0, background=False)
        tailing = asyncio.create_task(b.tail(tailed, theirs))
        await until(lambda: a._led[identity].publisher is not None)
        await client.flushall()
        gate.set()
        assert await rest(await asking) == [chunk("a")]
        async with asyncio.timeout(TIMEOUT):
            await flights.settle()
            assert await tailing is Tailed.LOST
        ended = {"role": "leader", "outcome": "ok"}
        assert metrics.registry.get_sample_value("dub5_flights_total", ended) == 1


# Messages


async def test_garbage_from_another_release_does_not_deafen_a_replica(redis: str) -> None:
    async with leasing(redis) as a, leasing(redis) as b, plain(redis) as client:
        await until(lambda: heard(redis, REPLICA_CHANNEL % a.replica))
        await client.publish(REPLICA_CHANNEL % a.replica, b"\xc1 not ours")
        lead = await claim(a, flight := Flight())
        tail = asyncio.create_task(b.tail(followed := Flight(), await claim(b, followed)))
        flight.add([chunk("a")])
        flight.end()
        assert await Follower(followed).rest() == [chunk("a")]
        assert await tail is Tailed.ENDED
        await a.release(lead)


async def heard(url: str, channel: str) -> bool:
    async with plain(url) as client:
        return bool(await client.publish(channel, b"\xc1"))


async def test_frames_of_another_release_are_a_lost_leader(redis: str) -> None:
    async with leasing(redis) as b, plain(redis) as client:
        await client.set(LEASE_KEY % ("key", "n.0"), "7:another", px=3_000)
        claimed = await claim(b, Flight())
        await client.xadd(claimed.stream, {"frames": b"\xc1 not ours"})
        followed = Flight()
        async with asyncio.timeout(TIMEOUT):
            assert await b.tail(followed, claimed) is Tailed.LOST
        await client.delete(claimed.lease)
        again = await claim(b, Flight())  # and the reader still reads
        assert again.outcome == "lead"
        await b.release(again)


async def test_who_may_not_read_the_frames_does_not_wait_for_ever() -> None:
    async with RedisServer() as server:
        await server.client.execute_command("ACL SETUSER half on >pw ~* &* +@all -xrange")
        half = server.url.replace("//", "//half:pw@")
        async with leasing(server.url) as a, leasing(half) as b:
            lead = await claim(a, Flight())
            async with asyncio.timeout(TIMEOUT):
                assert await b.tail(followed := Flight(), await claim(b, followed)) is Tailed.LOST
            await a.release(lead)


# Where it runs


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are written while the test runs, not seconds later."""
    monkeypatch.setattr("dub5.cache.samples.INTERVAL", 0.1)


async def follow_across(a: Leases, b: Leases, identity: Identity) -> None:
    """A flight over two replicas whose answer comes in two parts."""
    gate = asyncio.Event()
    call = Call(chunk("a"), chunk("b"), gate=gate)
    store = store_of(None)  # of both: they have to agree about the version
    flights = [Flights(store, leases, Metrics(config_hash="test")) for leases in (a, b)]
    asked = question(identity.key, lifetimes=FOR_EVER)
    async with asyncio.timeout(TIMEOUT):
        answers = await asyncio.gather(*(each.answer(asked, call) for each in flights))
        assert [answer.coming and answer.coming.flight.frames for answer in answers] == [[chunk("a")]] * 2
        gate.set()
        assert [await rest(answer) for answer in answers] == [[chunk("a"), chunk("b")]] * 2
        for each in flights:
            await each.settle()
    assert call.calls == 1


async def use_everything(link: RedisLink, a: Leases, b: Leases, identity: Identity) -> None:
    """All that a replica does with Redis."""
    purges = Purges(link)
    await purges.synchronise()
    before = purges.version(["tag:prices"])
    assert await purges.purge(["tag:prices"])
    assert purges.version(["tag:prices"]) != before
    store = AnswerStore(LocalCache(2**20), link, purges)
    entry = Entry(b"{}", 1000, 1.0, 1, 1)
    await follow_across(a, b, identity)
    await store.store(identity, entry, FOR_EVER)
    await store.store(identity, Entry(b"older", 999, 1.0, 1, 1), FOR_EVER)
    assert await store.take_over(identity, FOR_EVER) == entry.body
    await a.cool_down(identity, 1)


async def use_as_people_do(access: dict[str, Any], environment: dict[str, str]) -> None:
    """Two whole replicas: misses, hits, a streamed answer, refreshes, a purge, `GET /v1/cache`, kept Responses."""
    async with FakeOpenAI() as fake:
        classes = {"default": {"ttl": "500ms", "stale_while_revalidate": "1h"}}
        written = {
            **openai_provider(fake.base_url),
            "redis": access,
            "cache": {"classes": classes, "re_ask_share": 0.01},
            "responses": {"max_bytes_per_tenant": "4KiB"},
        }
        async with running(written, environment) as a, running(written, environment) as b:
            for number in range(8):
                for replica in (a, b, a):
                    assert (await replica.chat(f"q{number}")).status_code == 200
            await until(lambda: stale(b))
            assert (await a.chat("q1", stream=True)).status_code == 200
            purged = await a.client.post("/v1/cache/invalidations", json={"tags": ["prices"]})
            assert purged.status_code == 200
            assert (await a.client.get("/v1/cache")).status_code == 200
            await keep_responses(a, b)
            await until(lambda: samples_written(a))
            refused = [event for event in [*a.logs, *b.logs] if event["event"].startswith("redis")]
            assert refused == []


async def keep_responses(a: Running, b: Running) -> None:
    """More than there is room for, so that some go again."""
    for _ in range(6):
        answer = (await a.client.post("/v1/responses", json={"model": "small", "input": "hi"})).json()
        assert answer["store"] is True
    asked = {"model": "small", "input": "And?", "previous_response_id": answer["id"]}
    assert (await b.client.post("/v1/responses", json=asked)).status_code == 200
    assert (await b.client.delete(f"/v1/responses/{answer['id']}")).status_code == 200


async def stale(replica: Running) -> bool:
    return "stale" in (await replica.chat("q1")).headers["cache-status"]


async def samples_written(replica: Running) -> bool:
    return await replica.metric("dub5_redis_duration_seconds_count", operation="samples") > 0


async def purge_many(link: RedisLink) -> None:
    """More names than Redis keeps apart from the log."""
    names = [f"tag:{number}" for number in range(6000)]
    purges, newcomer = Purges(link), Purges(link)
    assert await purges.purge(names)
    await newcomer.synchronise()
    assert {newcomer.version((name,)) for name in names} == {purges.version((name,)) for name in names}
    assert newcomer.version(("tag:never",)).endswith(".0")


async def test_an_acl_user_with_the_least_rights_suffices(often: None) -> None:
    async with RedisServer() as server:
        await server.client.execute_command(f"ACL SETUSER dub5 on >pw {ACL_RULE}")
        url = server.url.replace("//", "//dub5@")
        async with (
            linked(url, password="pw", timeout=PATIENT) as link,
            leasing(url, password="pw") as a,
            leasing(url, password="pw") as b,
        ):
            await use_everything(link, a, b, IDENTITY)
            await purge_many(link)
            await server.client.set(SAMPLES_READER, b"1")
            access = {"url": server.url, "username": "dub5", "password": {"env": "PW"}}
            await use_as_people_do(access, {"PW": "pw"})
            assert await server.client.xlen(SAMPLES) > 0
            assert await server.client.acl_log() == []
            with pytest.raises(NoPermissionError):
                await link._client.get("somebody:else")
            with pytest.raises(NoPermissionError):
                await link._client.flushall()


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[str]:
    """The URL of a Cluster of three masters."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(RedisServer("--cluster-enabled", "yes")) for _ in range(3)]
        hosts = [f"127.0.0.1:{node.port}" for node in nodes]
        await asyncio.to_thread(
            subprocess.run,
            ["redis-cli", "--cluster", "create", *hosts, "--cluster-yes"],
            check=True,
            capture_output=True,
        )
        await until(lambda: all_know(nodes))
        yield f"redis+cluster://{','.join(hosts)}"


async def all_know(nodes: list[RedisServer]) -> bool:
    states: list[dict[str, Any]] = [await node.client.cluster("info") for node in nodes]
    return all(state["cluster_state"] == "ok" for state in states)


async def test_everything_works_on_a_cluster(cluster: str, often: None) -> None:
    async with linked(cluster, timeout=PATIENT) as link, leasing(cluster) as a, leasing(cluster) as b:
        for _ in range(8):  # keys on every node
            await use_everything(link, a, b, Identity(secrets.token_hex(8), "n.0"))
        await purge_many(link)
        assert link.available
    await use_as_people_do({"url": cluster}, {})


async def test_a_claim_whose_answer_was_lost_stands_in_nobodys_way(redis: str) -> None:
    async with leasing(redis) as one, leasing(redis) as other:
        claiming = asyncio.create_task(one.claim(IDENTITY, Flight(), seen=0, background=False))
        await asyncio.sleep(0)  # the script is on its way
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)

        async def free() -> bool:
            claim = await other.claim(IDENTITY, Flight(), seen=0, background=False)
            return claim.outcome == "lead"

        await until(free)


@pytest.mark.parametrize("rest", [["c"], []], ids=["frames", "the end"])
async def test_a_leader_of_whom_frames_are_missing_is_lost(redis: str, rest: list[str]) -> None:
    """Redis may evict what nobody has read yet, or lose it in a failover: a gap in an answer is no answer."""
    async with leasing(redis) as b, plain(redis) as client:
        await client.set(LEASE_KEY % ("key", "n.0"), "7:another", px=60_000)
        claimed = await claim(b, followed := Flight())
        tailing = asyncio.create_task(b.tail(followed, claimed))
        await client.xadd(claimed.stream, {"frames": msgspec.msgpack.encode([chunk("a")]), "at": 0})
        await until(lambda: bool(followed.frames))
        for text in rest:
            await client.xadd(claimed.stream, {"frames": msgspec.msgpack.encode([chunk(text)]), "at": 2})
        await client.xadd(claimed.stream, {"end": b"", "at": 2 + len(rest)})
        async with asyncio.timeout(TIMEOUT):
            assert await tailing is Tailed.LOST
        assert followed.frames == [chunk("a")]
        assert not followed.ended


async def test_a_leader_says_how_many_frames_are_before_those_that_it_appends(redis: str) -> None:
    async with leasing(redis) as a, leasing(redis) as b, plain(redis) as client:
        lead = await claim(a, flight := Flight())
        tailing = asyncio.create_task(b.tail(followed := Flight(), await claim(b, followed)))
        for text in "abc":
            flight.add([chunk(text), chunk(text)])
            await until(lambda: followed.frames == flight.frames)
        flight.end()
        assert await tailing is Tailed.ENDED
        entries: list[Any] = await client.execute_command("XRANGE", lead.stream, "-", "+")
        assert [fields[b"at"] for _, fields in entries] == [b"0", b"2", b"4", b"6"]
        await a.release(lead)


async def test_a_leader_that_cannot_append_gives_up_and_its_followers_know(redis: str) -> None:
    async with leasing(redis) as one, leasing(redis) as other:
        leading, following = Flight(), Flight()
        claim = await one.claim(IDENTITY, leading, seen=0, background=False)
        theirs = await other.claim(IDENTITY, following, seen=0, background=False)
        tailing = asyncio.create_task(other.tail(following, theirs))
        leading.add([chunk("one")])
        await until(lambda: bool(following.frames))

        async def fails(*_: object) -> bool:
            return False

        one._append = fails  # type: ignore[assignment,method-assign]
        leading.add([chunk("two")])
        assert await tailing is Tailed.LOST
        assert leading.followers == 0
        leading.end()
        await one.release(claim)
