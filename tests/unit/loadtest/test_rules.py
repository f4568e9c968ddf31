"""Bottlenecks that were planted are named, each by its own name; what is only their effect is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.loadtest.rules import LASTING, Limits, judge, lasting
from dub5.loadtest.series import Lines
from tests.unit.loadtest.scenes import BEGAN, LENGTH, STEP, calm, planted

LIMITS = Limits(memory=512 * 2.0**20, first_token=2.0)

GATE = planted(gate=(210, 1.0), queued=(210, 40.0), shed=(215, 8.0), arrivals=(205, 412.0))
CPU = planted(
    cpu=(120, 0.99),
    loop=(90, 0.4),
    first_byte=(90, 3.0),
    provider=(95, 1.0),
    gate=(100, 1.0),
    inflight=(90, 60.0),
)
NODE = planted(cpu_wait=(100, 0.5), loop=(80, 0.2), redis=(75, 0.2), gate=(90, 1.0), inflight=(85, 30.0))
LOOP = planted(loop=(60, 0.5), provider=(70, 0.9), gate=(80, 1.0), inflight=(65, 40.0))
REDIS = planted(redis=(150, 0.09), redis_errors=(150, 3.0), first_byte=(150, 0.5))
PROVIDER = planted(
    provider=(100, 2.5), first_byte=(100, 2.6), gate=(80, 1.0), queued=(80, 30.0), inflight=(75, 100.0)
)
ALWAYS_SLOW = planted(provider=(0, 2.4), gate=(20, 1.0))
LIMITED = planted(provider_waiting=(130, 25.0), first_byte=(130, 4.0), gate=(125, 1.0), inflight=(120, 200.0))
MEMORY = planted(memory=(240, 480 * 2.0**20))


@pytest.mark.parametrize(
    ("lines", "name", "since"),
    [
        (GATE, "gate", 210),
        (CPU, "CPU", 120),
        (NODE, "node's CPU", 100),
        (LOOP, "event loop", 60),
        (REDIS, "Redis", 150),
        (PROVIDER, "provider", 100),
        (ALWAYS_SLOW, "provider", 0),
        (LIMITED, "provider's limit", 130),
        (MEMORY, "memory", 240),
    ],
    ids=["gate", "CPU", "node", "loop", "Redis", "provider", "always slow", "limit", "memory"],
)
def test_a_planted_bottleneck_is_named(lines: Lines, name: str, since: float) -> None:
    first = judge(lines, began=BEGAN, limits=LIMITS).first
    assert first is not None
    assert (first.name, first.full_from) == (name, since)


def test_it_is_said_in_words() -> None:
    words = judge(GATE, began=BEGAN, limits=LIMITS).words
    assert words.startswith(
        "The gate was full from 210 s at 412 requests/s (100 %): raise config.admission.max_inflight or the number of "
        "replicas; CPU was at 48 %, node's CPU was at 1 % of the time waited for, event loop was at 2.0 ms"
    )


def test_effects_are_told_after_their_cause() -> None:
    words = judge(CPU, began=BEGAN, limits=LIMITS).words
    assert words.startswith("The CPU was full from 120 s")
    assert "event loop was full too, from 90 s" in words
    assert "gate was full too, from 100 s" in words


def test_redis_is_not_blamed_for_a_late_loop() -> None:
    """The time of a command is measured in the loop, which has to come back to it."""
    late = planted(redis=(70, 0.083), loop=(70, 0.048), gate=(75, 1.0))
    first = judge(late, began=BEGAN, limits=LIMITS).first
    assert first is not None
    assert first.name == "gate"


def test_what_was_full_long_before_is_no_effect() -> None:
    first = judge(planted(gate=(50, 1.0), cpu=(200, 0.99)), began=BEGAN, limits=LIMITS).first
    assert first is not None
    assert first.name == "gate"


def test_all_is_well() -> None:
    judged = judge(calm(), began=BEGAN, limits=LIMITS)
    assert judged.first is None
    assert judged.words.startswith("No resource was full: CPU was at 48 %")
    assert all(each.judged and not each.errors for each in judged.resources)


def test_a_single_point_is_no_bottleneck() -> None:
    lines = calm()
    lines["cpu"][20] = (lines["cpu"][20][0], 1.0)
    lines["gate"][30:32] = [(moment, 1.0) for moment, _ in lines["gate"][30:32]]  # five seconds
    judged = judge(lines, began=BEGAN, limits=LIMITS)
    assert judged.first is None
    assert "gate touched 100 %, never for 10 s on end" in judged.words


def test_a_cause_that_comes_later_than_a_window_allows_is_none() -> None:
    """What is full 20 seconds after the gate can be its cause where rates are of a minute, and not of ten seconds."""
    lines = planted(gate=(60, 1.0), cpu_wait=(80, 0.5), inflight=(55, 60.0))
    named = [judge(lines, began=BEGAN, limits=LIMITS, window=window).first for window in (60.0, 20.0)]
    assert [each.name if each is not None else None for each in named] == ["node's CPU", "gate"]


def test_a_gate_whose_places_are_held_no_longer_is_full_by_itself() -> None:
    """As many more answers as there are requests in flight: more came in, and nothing made them slower."""
    crowd = {"gate": (100, 1.0), "inflight": (100, 40.0), "queued": (100, 50.0), "requests": (100, 200.0)}
    lines = planted(cpu_wait=(95, 0.45), **crowd)
    judged = judge(lines, began=BEGAN, limits=LIMITS)
    assert judged.first is not None
    assert judged.first.name == "gate"
    assert "node's CPU was full too, from 95 s" in judged.words
    held_longer = planted(cpu_wait=(95, 0.45), **{**crowd, "requests": (100, 150.0)})
    judged = judge(held_longer, began=BEGAN, limits=LIMITS)
    assert judged.first is not None
    assert judged.first.name == "node's CPU"


def test_the_rate_is_that_of_the_window_that_begins_when_it_became_full() -> None:
    lines = planted(gate=(100, 1.0))
    lines["arrivals"] = [(moment, 20.0 if moment < BEGAN + 105 else 200.0) for moment, _ in lines["arrivals"]]
    assert "from 100 s at 200 requests/s" in judge(lines, began=BEGAN, limits=LIMITS, window=10.0).words


def test_what_was_full_when_it_was_first_seen_was_so_from_the_start() -> None:
    lines = calm()
    lines["cpu"] = [(moment, 1.0) for moment, _ in lines["cpu"] if moment >= BEGAN + 30]  # rates begin later
    assert judge(lines, began=BEGAN, limits=LIMITS).words.startswith("The CPU was full from the start at 100")


def test_a_time_past_the_last_bucket_is_not_said_to_be_its_bound() -> None:
    words = judge(planted(redis=(100, 0.25)), began=BEGAN, limits=LIMITS).words
    assert "(250 ms or more)" in words


def test_what_is_not_known_is_not_judged() -> None:
    judged = judge({}, began=BEGAN)
    assert judged.words == "No figures of the service: nothing can be said about its resources."
    lines = {"cpu": calm()["cpu"], "memory": MEMORY["memory"]}
    judged = judge(lines, began=BEGAN)  # no limit of memory
    reported = {each.name for each in judged.resources if each.judged}
    assert (judged.first, reported) == (None, {"CPU"})
    assert next(each for each in judged.resources if each.name == "memory").peak == "480 MiB"


def test_errors_are_counted_beside() -> None:
    resources = {each.name: each for each in judge(REDIS, began=BEGAN, limits=LIMITS).resources}
    assert resources["Redis"].errors == 3.0
    assert resources["gate"].errors == 0.0
    assert resources["CPU"].errors is None


@given(st.lists(st.booleans(), max_size=40))
def test_lasting_is_the_first_stretch_that_is_long_enough(fulls: list[bool]) -> None:
    reported = [(float(index * STEP), full) for index, full in enumerate(fulls)]
    needed = int(LASTING / STEP) + 1
    expected = next(
        (
            reported[index][0]
            for index in range(len(reported))
            if len(fulls[index : index + needed]) == needed and all(fulls[index : index + needed])
        ),
        None,
    )
    assert lasting(reported) == expected


@given(
    st.dictionaries(
        st.sampled_from(["cpu", "loop", "redis", "provider", "provider_waiting", "gate", "memory"]),
        st.tuples(st.integers(0, LENGTH), st.floats(0, 1e10)),
    )
)
def test_the_first_is_one_that_was_full(changes: dict[str, tuple[float, float]]) -> None:
    judged = judge(planted(**changes), began=BEGAN, limits=LIMITS)
    full = [each.full_from for each in judged.resources if each.full_from is not None]
    assert (judged.first is None) == (not full)
    if judged.first is not None:
        assert judged.first.full_from in full
        assert judged.first.advice in judged.words
