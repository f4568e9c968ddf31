"""What was learnt outlives the operator: by class, bounded, and no sample twice or left out."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from redis.asyncio import Redis

from dub5.contract import (
    CLASSES_KEY,
    LEARNT_KEY,
    READER_FOR,
    SAMPLES,
    Access,
    AnnouncedClass,
    Announcement,
    Canary,
    ClassPolicy,
    SampleBatch,
    Undecodable,
    Verdict,
)
from dub5_operator.learnings import (
    ALL_LEARNT,
    LEARNT_FOR,
    SAVE_EVERY,
    ClassLearning,
    Learnings,
    compressed,
    decoded,
    encoded,
    shape_of,
)
from dub5_operator.planner.canary import StaleShare
from dub5_operator.planner.decision import Learning, PolicyLimits
from dub5_operator.planner.samples import Lookups
from dub5_operator.redis import FRESH, PAUSE, Samples, Thresholds

NOW = 1_700_000_000.0
CLASS = AnnouncedClass(ttl=300, max_ttl=86400)
LIMITS = PolicyLimits(shortest=5, longest=86400, budget=0.5, initial=60, memory=2 * 2**20, memory_price=0.02)


def history(*, seconds: int, seed: int = 1, ttl: float = 300.0) -> Iterator[tuple[float, SampleBatch]]:
    """Two hundred questions, three look-ups a second, a batch each ten seconds."""
    chance, last = random.Random(seed), dict[int, float]()
    for start in range(0, seconds, 10):
        accesses, verdicts = [], []
        for second in range(30):
            number = int(200 * chance.random() ** 2)
            key, at = number * 10**11 + 7, NOW + start + second / 3
            hit = key in last and at - last[key] < ttl
            if not hit:
                if key in last:
                    changed = chance.random() < 0.02
                    verdicts.append(Verdict(key, "c", last[key], at, changed, 5, "refetch"))
                last[key] = at
            told = (None, None) if hit else (None, False)
            accesses.append(Access(key, "c", at, hit, 2000 * hit, 0.0005 * hit, 1.0, *told))
        batch = SampleBatch("a", NOW + start + 10, accesses, verdicts, looked_up={"c": 30}, ttls={"c": ttl})
        yield batch.at, batch


def taught(learning: Learning, *, since: int, until: int, seed: int = 1) -> Learning:
    for at, batch in history(seconds=until, seed=seed):
        if at > NOW + since:
            learning.fold(batch.accesses, batch.verdicts, looked_up=30, ttl_in_force=300.0, now=at)
    return learning


async def write(client: Redis, *, since: int = 0, until: int, ttl: float = 300.0) -> None:
    for at, batch in history(seconds=until, ttl=ttl):
        if at > NOW + since:
            await client.xadd(SAMPLES, {b"b": msgspec.msgpack.encode(batch)}, id=f"{int(at * 1000)}-*")


async def announce(client: Redis, *names: str) -> None:
    await client.set(CLASSES_KEY, msgspec.json.encode(Announcement(NOW, dict.fromkeys(names, CLASS))))


def same(one: Learning, other: Learning) -> bool:
    """But for what counts and expectations lose where they are stored with seven digits."""
    first, second = one.state(10**6), other.state(10**6)
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape
        and np.allclose(first[name], second[name], rtol=1e-5, atol=1e-5, equal_nan=True)
        for name in first
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cut", [10, 400, 1490])
def test_to_go_on_from_what_was_stored_is_to_have_gone_on(seed: int, cut: int) -> None:
    there = taught(Learning(shape_of(CLASS)), since=0, until=1500, seed=seed)
    before = taught(Learning(shape_of(CLASS)), since=0, until=cut, seed=seed)
    after = Learning(shape_of(CLASS))
    after.restore(decoded(compressed(before.state(10**6))))
    taught(after, since=cut, until=1500, seed=seed)
    now = NOW + 1500
    truth, found = (asdict(each.decide(LIMITS, 300.0, now)) for each in (there, after))
    for decided in (truth, found):  # the policy's numbers beside the others
        question = decided.pop("question")
        decided.update({} if question is None else msgspec.structs.asdict(question))
    assert found.keys() == truth.keys()
    for name, figure in truth.items():
        expected = pytest.approx(figure, rel=1e-4) if isinstance(figure, (float, tuple)) else figure
        assert found[name] == expected, name
    assert same(there, after)


async def test_a_backlog_of_hours_comes_to_what_it_would_have_come_to_minute_by_minute(client: Redis) -> None:
    hours = 3 * 3600
    await announce(client, "c")
    clock = [NOW]
    there, began = (Samples(client, lambda: clock[0]) for _ in range(2))
    for until in range(60, hours + 1, 60):
        clock[0] = NOW + until
        await write(client, since=until - 60, until=until)
        await there.refresh({"c"})
        truth = there.learnings["c"].learning.decide(LIMITS, 300.0, clock[0])
    await began.refresh({"c"})
    assert began.learnings["c"].learning.decide(LIMITS, 300.0, clock[0]) == truth
    assert truth.question is not None
    assert truth.saving == pytest.approx(5.3, rel=0.1)  # three calls a second of $0.0005, but for some misses


async def test_a_backlog_is_read_in_turns_and_decided_by_when_it_was_read(client: Redis) -> None:
    """Two hours of a thousand classes took 22 s of CPU at once."""
    await announce(client, "c")
    await write(client, until=3600)
    clock = [NOW + 3600]
    whole, turns = (Samples(client, lambda: clock[0]) for _ in range(2))
    await whole.refresh({"c"})
    left: list[float] = []
    while not left or left[-1]:
        await turns.refresh({"c"}, most=0.0)
        left.append(turns.behind)
        await turns.refresh({"c"}, most=0.0)  # at once there is nothing more
        assert turns.behind == left[-1]
        clock[0] += PAUSE
    assert len(left) > 3
    assert left == sorted(left, reverse=True)
    assert whole.behind == 0
    decided = [each.learnings["c"].learning.decide(LIMITS, 300.0, NOW + 3600).ttl for each in (whole, turns)]
    assert decided[1] == pytest.approx(decided[0], rel=0.02)


async def test_a_redis_that_begins_anew_with_its_clock_behind_is_read(client: Redis) -> None:
    await announce(client, "c")
    await write(client, until=600)
    clock = [NOW + 600]
    samples = Samples(client, lambda: clock[0])
    await samples.refresh({"c"})
    await client.flushall()
    clock[0] = NOW - 7200  # as the new one has it
    await announce(client, "c")
    batch = SampleBatch("a", NOW - 7210, [Access(7, "c", NOW - 7210, True, 1, 0.0, 1.0)], looked_up={"c": 1})
    await client.xadd(SAMPLES, {b"b": msgspec.msgpack.encode(batch)}, id=f"{int(NOW - 7210) * 1000}-0")
    for _ in range(3):
        clock[0] += FRESH
        await samples.refresh({"c"})
    curve = samples.learnings["c"].learning.curve(clock[0])
    assert curve is None or curve.seen == 1
    assert samples.learnings["c"].upto == (0, 0)
    assert samples._last == (int(NOW - 7210) * 1000, 0)


async def that_stored(client: Redis, clock: list[float]) -> Samples:
    """An operator that has stored what it learnt in ten minutes."""
    await announce(client, "c")
    samples = Samples(client, lambda: clock[0])
    await write(client, until=600)
    await samples.refresh({"c"})
    await samples.save("c")
    return samples


async def test_a_new_operator_goes_on_where_the_last_one_was(client: Redis) -> None:
    clock = [NOW + 600]
    first = await that_stored(client, clock)
    assert 0 < await client.ttl(LEARNT_KEY % "c") <= LEARNT_FOR
    await write(client, since=600, until=700)
    clock[0] += 100
    await first.refresh({"c"})
    for kept in (True, False):  # what is stored covers what Redis has forgotten of the stream
        if not kept:
            await client.xtrim(SAMPLES, minid=f"{int((NOW + 600) * 1000) + 1}-0")
        second = Samples(client, lambda: clock[0])
        await second.refresh({"c"})
        assert same(first.learnings["c"].learning, second.learnings["c"].learning)


async def test_a_young_class_is_decided_by_a_new_operator_as_by_the_last_one(client: Redis) -> None:
    """What is learnt in ten seconds at a time is another thing in a minute at a time, by up to a quarter of a TTL."""
    await announce(client, "c")
    clock = [NOW]
    first = Samples(client, lambda: clock[0])
    limits = replace(LIMITS, budget=0.05, shortest=1.0)
    for until in range(10, 400, 10):
        clock[0] = NOW + until
        await write(client, since=until - 10, until=until, ttl=10.0)
        await first.refresh({"c"})
        truth = first.learnings["c"].learning.decide(limits, 10.0, clock[0])
        await first.save("c")
        second = Samples(client, lambda: clock[0], looks_on=True)
        await second.refresh({"c"})
        found = second.learnings["c"].learning.decide(limits, 10.0, clock[0])
        assert found.stale_upper == pytest.approx(truth.stale_upper, rel=0.02, nan_ok=True), until
    assert truth.question is not None


async def test_what_canaries_found_is_taken_in_and_outlives_the_operator(client: Redis) -> None:
    await announce(client, "c")
    found = [Canary(7, "c", NOW, NOW + 60, 100.0, number % 50 == 0, False) for number in range(100)]
    batch = SampleBatch("a", NOW + 60, canaries=[*found, Canary(7, "d", NOW, NOW + 60, 1.0, True, False)])
    await client.xadd(SAMPLES, {b"b": msgspec.msgpack.encode(batch)}, id=f"{int(batch.at * 1000)}-*")
    first = Samples(client, lambda: NOW + 120)
    await first.refresh({"c"})
    measured = first.learnings["c"].stale.measured()
    assert measured is not None
    assert (measured.share, measured.asked) == (pytest.approx(0.02), pytest.approx(100))
    await first.save("c")
    await client.delete(SAMPLES)
    second = Samples(client, lambda: NOW + 180)
    await second.refresh({"c"})
    assert second.learnings["c"].stale.measured() == measured


async def test_a_class_without_a_policy_is_learnt_about_too(client: Redis) -> None:
    await announce(client, "c", "other")
    await write(client, until=300)
    samples = Samples(client, lambda: NOW + 300)
    await samples.refresh({"other"})
    curve = samples.learnings["c"].learning.curve(NOW + 300)
    assert curve is not None
    assert curve.seen == 900


async def test_time_in_which_nobody_read_does_not_count(client: Redis) -> None:
    clock = [NOW + 600]
    first = await that_stored(client, clock)
    before = first.learnings["c"].learning.curve(clock[0])
    clock[0] += READER_FOR + 86400
    second = Samples(client, lambda: clock[0])
    await second.refresh({"c"})
    after = second.learnings["c"].learning.curve(clock[0])
    assert before is not None
    assert after is not None
    # Five minutes without a look-up count.
    assert after.dollars_uncached[-1] == pytest.approx(before.dollars_uncached[-1] * 600 / 900, rel=0.05)


@pytest.mark.parametrize(
    "damage", ["cut", "junk", "version", "future", "id", "type", "arrays", "shape", "huge"]
)
async def test_what_cannot_be_read_is_said_and_its_class_begins_anew(client: Redis, damage: str) -> None:
    await announce(client, "c")
    held = ClassLearning(taught(Learning(shape_of(CLASS)), since=0, until=300), 300.0)
    stored: Any = encoded(held, (int(NOW * 1000), 0), NOW, 2**20)
    fields = msgspec.msgpack.decode(stored)
    state = dict(held.learning.state(100))
    changed: dict[str, Any] = {
        "cut": stored[:-20],
        "junk": b"junk",
        "version": msgspec.msgpack.encode({**fields, "version": 2}),
        "future": msgspec.msgpack.encode({**fields, "upto": [int(NOW * 2000), 0]}),
        "id": msgspec.msgpack.encode({**fields, "upto": [int(NOW * 1000), -1]}),
        "arrays": msgspec.msgpack.encode({**fields, "arrays": b"x" * 100}),
        "shape": msgspec.msgpack.encode(
            {**fields, "arrays": compressed({**state, "reuse.asked": np.ones(3)})}
        ),
        "huge": msgspec.msgpack.encode(
            {**fields, "arrays": compressed({"questions.mixture": np.zeros(10**7)})}
        ),
    }
    if damage == "type":
        await client.rpush(LEARNT_KEY % "c", "junk")
    else:
        await client.set(LEARNT_KEY % "c", changed[damage])
    said = list[str]()
    samples = Samples(client, lambda: NOW + 300, lambda kind, _: said.append(kind))
    await write(client, until=300)
    await samples.refresh({"c"})
    assert said == ["learnt"]
    curve = samples.learnings["c"].learning.curve(NOW + 300)
    assert curve is not None
    assert curve.seen == 900
    await samples.save("c")
    assert len(await client.get(LEARNT_KEY % "c") or b"") > 1000


FORMS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "a number": lambda found: np.array(found.dtype.type(1)),
    "nothing": lambda found: np.zeros((0, *found.shape[1:]), found.dtype),
    "three": lambda found: np.ones(3, found.dtype),
    "another dimension": lambda found: np.ones((*found.shape, 1), found.dtype),
    "zeros": np.zeros_like,
    "ones": np.ones_like,
    "large": lambda found: np.full_like(found, 2**31),
    "backwards": lambda found: np.ascontiguousarray(found[::-1]) if found.ndim else found,
}


@pytest.mark.parametrize("form", FORMS)
async def test_whatever_an_array_has_become_the_class_is_decided_or_begins_anew(
    client: Redis, form: str
) -> None:
    """And what is decided can be published."""
    held = ClassLearning(taught(Learning(shape_of(CLASS)), since=0, until=2000), 300.0)
    stored = msgspec.msgpack.decode(encoded(held, (1, 0), NOW + 2000, 2**20) or b"")
    state = dict(decoded(stored["arrays"]))
    announcement, begun, said = Announcement(NOW, {"c": CLASS}), 0, list[str]()
    for name, found in state.items():
        stored["arrays"] = compressed({**state, name: FORMS[form](found)})
        await client.set(LEARNT_KEY % "c", msgspec.msgpack.encode(stored))
        said.clear()
        learnings = Learnings(client, lambda kind, error: said.append(kind))
        await learnings.know(announcement, (), NOW + 2000)
        decision = learnings["c"].learning.decide(LIMITS, 60, NOW + 2060)
        policy = ClassPolicy(decision.ttl, question=decision.question)
        assert msgspec.json.decode(msgspec.json.encode(policy), type=ClassPolicy) == policy
        for share in (decision.hit_ratio, decision.measured_hit_ratio, decision.stale, decision.stale_upper):
            assert math.isnan(share) or -1e-9 <= share <= 1 + 1e-9
        learnings["c"].stale.measured()
        begun += said == ["learnt"]
    assert begun > 0


def test_canaries_of_which_more_were_stale_than_there_were_are_refused() -> None:
    sums = np.array([100.0, 100, 500, 50, 50, 0, 0, NOW, 3])
    with pytest.raises(ValueError, match="canaries"):
        StaleShare().restore({"canaries": sums})


def test_as_many_keys_are_stored_as_there_is_room_for() -> None:
    held = ClassLearning(taught(Learning(shape_of(CLASS)), since=0, until=3000), 300.0)
    whole = encoded(held, (1, 0), NOW, 2**20)
    room = ALL_LEARNT // 1000
    less = encoded(held, (1, 0), NOW, room)
    assert whole is not None
    assert less is not None
    assert len(less) <= room
    few = encoded(held, (1, 0), NOW, len(whole) * 2 // 3)
    assert few is not None
    learning = Learning(shape_of(CLASS))
    state = dict(decoded(msgspec.msgpack.decode(few)["arrays"]))
    del state["canaries"]
    learning.restore(state)
    assert 0 < len(learning.state(10**6)["reuse.keys"]) < len(held.learning.state(10**6)["reuse.keys"])
    assert encoded(held, (1, 0), NOW, 100) is None


async def test_a_class_for_which_there_is_no_room_keeps_none_from_being_stored(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnings = Learnings(client, lambda kind, error: None)
    await learnings.know(Announcement(NOW, {"large": CLASS, "small": CLASS}), (), NOW)
    taught(learnings["large"].learning, since=0, until=3000)
    small = encoded(learnings["small"], (1, 0), NOW, 2**20)
    assert small is not None
    monkeypatch.setattr("dub5_operator.learnings.ALL_LEARNT", 2 * len(small))
    await learnings.save(["large", "small"], (1, 0), NOW)
    assert await client.exists(LEARNT_KEY % "large") == 0
    assert await client.exists(LEARNT_KEY % "small") == 1


async def test_it_is_not_stored_more_often_than_it_needs_to_be(client: Redis) -> None:
    await announce(client, "c")
    clock = [NOW]
    samples = Samples(client, lambda: clock[0])
    # In the end the clock is set back.
    for passed, is_stored in (
        (0.0, True),
        (SAVE_EVERY - 1, False),
        (1.0, True),
        (1.0, False),
        (-3600.0, True),
    ):
        clock[0] += passed
        await client.delete(LEARNT_KEY % "c")
        await samples.refresh({"c"})
        await samples.save("c")
        assert bool(await client.exists(LEARNT_KEY % "c")) == is_stored


def test_arrays_of_objects_are_refused() -> None:
    with pytest.raises(Undecodable):
        decoded(compressed({"a": np.array(["text"])}))


def test_only_keys_that_all_replicas_record_are_replayed() -> None:
    """A key between their thresholds is recorded by one of them, and is not to be taken for all of its look-ups."""
    thresholds = Thresholds()

    def merged() -> list[Access]:
        columns = thresholds.merged(Lookups(fresh.accesses)).columns().T.tolist()
        return [
            Access(int(key), "c", NOW, bool(hit), int(size), *rest)
            for key, _, hit, size, *rest, _, _ in columns
        ]

    low, between = Access(1, "c", NOW, True, 1, 0.1, 1.0), Access(2**47, "c", NOW, True, 1, 0.1, 1.0)
    heavy = Access(2**48 - 1, "c", NOW, True, 1, 0.1, 1.0)
    fresh = SampleBatch("fresh", NOW, [low, between, heavy], threshold=1.0)
    thresholds.note(fresh, NOW)
    assert merged() == [low, between, heavy]
    seldom = msgspec.structs.replace(low, threshold=0.25)
    thresholds.note(SampleBatch("busy", NOW, [seldom, heavy], threshold=0.25), NOW)
    assert merged() == [seldom, heavy]
    thresholds.note(
        SampleBatch("old", NOW, [seldom]), NOW
    )  # a release that does not say what it records under
    assert merged() == [seldom]
    thresholds.note(fresh, NOW + 600)  # the others have gone
    assert merged() == [low, between, heavy]
