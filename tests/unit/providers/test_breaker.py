"""The breaker's decisions, in a time that the test makes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dub5.providers.health import FEWEST_CALLS, FIRST_PAUSE, LONGEST_PAUSE, PROBE_TIMEOUT, WINDOW, Breaker


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FEWEST_CALLS):
        breaker.failed(at, at)
    return breaker


def test_a_few_failures_open_it_but_not_the_first() -> None:
    breaker = Breaker()
    for _ in range(FEWEST_CALLS - 1):
        breaker.failed(0.0, 0.0)
        assert breaker.allows(0.0)
    breaker.failed(0.0, 0.0)
    assert breaker.state(0.0) == "open"
    assert not breaker.allows(FIRST_PAUSE - 0.1)
    assert breaker.retry_after(0.5) == FIRST_PAUSE - 0.5


def test_failures_among_many_successes_do_not() -> None:
    breaker = Breaker()
    for call in range(100):
        (breaker.failed if call % 3 == 0 else breaker.succeeded)(call * 0.01, call * 0.01)
        assert breaker.state(call * 0.01) == "closed"


def test_old_failures_are_forgotten() -> None:
    breaker = Breaker()
    for _ in range(FEWEST_CALLS - 1):
        breaker.failed(0.0, 0.0)
    breaker.failed(WINDOW, WINDOW + 0.1)
    assert breaker.state(WINDOW + 0.1) == "closed"


def test_one_call_at_a_time_tries_whether_it_works_again() -> None:
    breaker = opened()
    assert breaker.state(FIRST_PAUSE) == "half-open"
    assert [breaker.allows(FIRST_PAUSE) for _ in range(3)] == [True, False, False]
    breaker.succeeded(FIRST_PAUSE, FIRST_PAUSE + 1)
    assert breaker.state(FIRST_PAUSE + 1) == "closed"
    breaker.failed(FIRST_PAUSE, FIRST_PAUSE + 1)
    assert breaker.state(FIRST_PAUSE + 1) == "closed"


def test_each_failed_try_doubles_the_pause_up_to_a_bound() -> None:
    breaker, now, pauses = opened(), FIRST_PAUSE, []
    for _ in range(6):
        assert breaker.allows(now)
        breaker.failed(now, now)
        pauses.append(breaker.retry_after(now))
        now += pauses[-1]
    assert pauses == [4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert max(pauses) == LONGEST_PAUSE


def test_a_provider_that_asks_to_be_left_alone_is() -> None:
    breaker = Breaker()
    breaker.failed(0.0, 0.0, pause=7.0)
    assert breaker.retry_after(0.0) == 7.0
    assert not breaker.allows(6.9)
    assert breaker.allows(7.0)


def test_after_a_pause_for_too_many_calls_they_go_on() -> None:
    breaker = Breaker()
    for at in (0.0, 1.0):
        breaker.limited(0.0, at, 7.0)
    breaker.succeeded(0.0, 2.0)
    breaker.failed(0.0, 2.0)
    assert (breaker.state(7.9), breaker.allows(7.9), breaker.retry_after(7.0)) == ("open", False, 1.0)
    assert breaker.state(8.0) == "closed"
    assert [breaker.allows(8.0) for _ in range(3)] == [True] * 3
    breaker.failed(8.0, 8.1)  # no try has failed: it is one call among others
    assert breaker.state(8.1) == "closed"
    breaker.limited(8.0, 8.2, 1.0)
    assert (breaker.state(9.1), breaker.state(9.2)) == ("open", "closed")


def test_a_longer_pause_than_is_kept_ends_with_a_try() -> None:
    breaker = Breaker()
    breaker.limited(0.0, 0.0, 10 * LONGEST_PAUSE)
    assert breaker.state(LONGEST_PAUSE) == "half-open"


def test_so_does_that_of_a_try_that_failed() -> None:
    breaker = opened()
    assert breaker.allows(FIRST_PAUSE)
    breaker.limited(FIRST_PAUSE, FIRST_PAUSE, 7.0)
    assert breaker.state(FIRST_PAUSE + 7.0) == "half-open"


def test_a_try_that_was_given_up_or_lost_makes_room_for_another() -> None:
    breaker = opened()
    assert breaker.allows(FIRST_PAUSE)
    breaker.abandoned(FIRST_PAUSE)
    assert breaker.allows(FIRST_PAUSE)
    assert not breaker.allows(FIRST_PAUSE + 1)
    assert breaker.allows(FIRST_PAUSE + PROBE_TIMEOUT)


def test_calls_from_before_it_opened_say_nothing_about_now() -> None:
    breaker = opened(at=1.0)
    now = 1.0 + FIRST_PAUSE
    assert breaker.allows(now)
    breaker.abandoned(0.5)
    breaker.failed(0.5, now)
    breaker.succeeded(0.5, now)
    assert breaker.state(now) == "half-open"
    assert not breaker.allows(now)  # the one try is still under way
    breaker.succeeded(now, now + 1)
    assert breaker.state(now + 1) == "closed"


def test_but_the_pause_that_one_of_them_asks_for_is_kept() -> None:
    breaker = opened(at=1.0)
    breaker.failed(0.5, 2.0, pause=9.0)
    assert breaker.retry_after(2.0) == 9.0


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from(["ok", "bad", "busy", "gone"])), max_size=200))
def test_it_always_lets_a_call_through_in_the_end(history: list[tuple[float, str]]) -> None:
    breaker, now = Breaker(), 0.0
    for passed, outcome in history:
        now += passed
        if breaker.allows(now):
            match outcome:
                case "ok":
                    breaker.succeeded(now, now)
                case "bad":
                    breaker.failed(now, now)
                case "busy":
                    breaker.limited(now, now, passed)
                case _:
                    breaker.abandoned(now)
    assert breaker.allows(now + LONGEST_PAUSE + PROBE_TIMEOUT)
