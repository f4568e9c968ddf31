"""Failures are booked on the narrowest account that they are about, in a time that the test makes."""

from __future__ import annotations

import asyncio

import pytest

from dub5.errors import FailureScope
from dub5.providers.health import (
    FEWEST_CALLS,
    FIRST_PAUSE,
    MOST_MODELS,
    WINDOW,
    ModelHealth,
    Outcome,
    ProviderHealth,
)


def call(
    model: ModelHealth,
    outcome: Outcome,
    scope: FailureScope | None = None,
    *,
    at: float = 0.0,
    pause: float | None = None,
) -> bool:
    """One call that ends at once; whether it was let in."""
    if not model.try_enter(at):
        return False
    model.ended(outcome, scope, began=at, now=at, worked=False, pause=pause)
    return True


def calls(
    count: int, model: ModelHealth, outcome: Outcome, scope: FailureScope | None, at: float = 0.0
) -> None:
    for _ in range(count):
        call(model, outcome, scope, at=at)


@pytest.fixture
def provider() -> ProviderHealth:
    return ProviderHealth()


def test_a_pause_is_for_the_model_that_was_limited(provider: ProviderHealth) -> None:
    busy, fine = provider.of("busy"), provider.of("fine")
    call(busy, "limited", "model", pause=7.0)
    assert (busy.state(0.0), busy.retry_after(0.0)) == ("open", 7.0)
    assert (fine.state(0.0), fine.retry_after(0.0)) == ("closed", 0.0)


def test_after_it_there_are_as_many_calls_as_the_limit_lets(provider: ProviderHealth) -> None:
    busy = provider.of("busy")
    assert all(busy.try_enter(0.0) for _ in range(10))
    busy.ended("limited", "model", began=0.0, now=1.0, worked=False, pause=7.0)
    for _ in range(9):
        busy.ended("ok", None, began=0.0, now=1.0, worked=False, pause=None)
    assert not busy.try_enter(7.9)
    assert [busy.try_enter(8.0) for _ in range(9)] == [True] * 7 + [False] * 2


@pytest.mark.parametrize("outcome", ["error", "timeout", "limited"])
def test_one_models_failures_close_nobody_elses(provider: ProviderHealth, outcome: Outcome) -> None:
    bad, fine, idle = provider.of("bad"), provider.of("fine"), provider.of("idle")
    for number in range(3 * FEWEST_CALLS):
        call(bad, outcome, "model", at=number * 0.01)
        assert call(fine, "ok", at=number * 0.01)
    assert bad.state(0.2) == "open"
    assert [fine.state(0.2), idle.state(0.2)] == ["closed", "closed"]


def test_one_models_failures_alone_close_no_other_either(provider: ProviderHealth) -> None:
    bad, idle = provider.of("bad"), provider.of("idle")
    for number in range(200):
        call(bad, "error", "model", at=number * 0.1)
    assert idle.state(20.0) == "closed"


@pytest.mark.parametrize("outcome", ["error", "refused"])
@pytest.mark.parametrize("scope", ["request"])
def test_what_is_about_one_request_closes_nothing(
    provider: ProviderHealth, outcome: Outcome, scope: FailureScope
) -> None:
    odd = provider.of("odd")
    calls(10 * FEWEST_CALLS, odd, outcome, scope)
    assert odd.state(0.0) == "closed"


@pytest.mark.parametrize("outcome", ["cancelled", "overloaded", "error"])
def test_what_is_about_us_moves_nothing(provider: ProviderHealth, outcome: Outcome) -> None:
    model = provider.of("a")
    calls(10 * FEWEST_CALLS, model, outcome, None)
    assert (model.state(0.0), model.concurrency.running) == ("closed", 0)


def test_an_unreachable_provider_is_left_alone_for_all_models(provider: ProviderHealth) -> None:
    calls(FEWEST_CALLS, provider.of("a"), "error", "provider")
    assert provider.of("b").state(0.0) == "open"
    assert not call(provider.of("b"), "ok", at=FIRST_PAUSE - 0.1)
    assert call(provider.of("b"), "ok", at=FIRST_PAUSE)
    assert provider.of("a").state(FIRST_PAUSE) == "closed"


def test_two_models_that_fail_where_none_succeeds_are_the_provider(provider: ProviderHealth) -> None:
    a, b, c = (provider.of(name) for name in "abc")
    calls(FEWEST_CALLS - 1, a, "error", "server")
    call(b, "timeout", "server")
    assert c.state(0.0) == "open"


def test_one_success_in_the_window_says_otherwise(provider: ProviderHealth) -> None:
    a, b, c = (provider.of(name) for name in "abc")
    call(c, "ok", at=0.0)
    for number in range(20):
        call(a, "error", "server", at=number * 0.4)
        call(b, "error", "server", at=number * 0.4)
    assert c.state(WINDOW - 1.0) == "closed"


def test_what_several_models_have_each_for_itself_is_not_the_providers(provider: ProviderHealth) -> None:
    """Quotas that are used up, answers cut short."""
    for number in range(10 * FEWEST_CALLS):
        call(provider.of("abcdefgh"[number % 8]), "error", "model")
    assert provider.of("fine").state(0.0) == "closed"


def test_429s_of_several_models_are_not_the_providers(provider: ProviderHealth) -> None:
    for name in "abcdefgh":
        call(provider.of(name), "limited", "model", pause=20.0)
    assert provider.of("other").state(0.0) == "closed"


def test_the_probe_of_one_model_decides_for_that_model(provider: ProviderHealth) -> None:
    a, b, c = (provider.of(name) for name in "abc")
    calls(FEWEST_CALLS, a, "error", "provider")
    assert call(b, "error", "model", at=FIRST_PAUSE)  # b is reached, and fails by itself
    assert call(c, "ok", at=FIRST_PAUSE + 0.1)
    assert [each.state(FIRST_PAUSE + 0.1) for each in (a, b, c)] == ["closed"] * 3


def test_a_failed_probe_of_a_model_keeps_only_that_model_closed_off(provider: ProviderHealth) -> None:
    bad, fine = provider.of("bad"), provider.of("fine")
    calls(FEWEST_CALLS, bad, "error", "model")
    assert call(bad, "error", "model", at=FIRST_PAUSE)
    assert bad.retry_after(FIRST_PAUSE) == 2 * FIRST_PAUSE
    assert call(fine, "ok", at=FIRST_PAUSE)


def test_where_the_probes_of_two_models_fail_the_provider_is_left_alone_for_longer(
    provider: ProviderHealth,
) -> None:
    a, b, c = (provider.of(name) for name in "abc")
    calls(FEWEST_CALLS, a, "error", "provider")
    assert call(a, "error", "server", at=FIRST_PAUSE)
    assert call(b, "error", "server", at=FIRST_PAUSE)
    assert c.retry_after(FIRST_PAUSE) == 2 * FIRST_PAUSE


def test_an_answer_to_one_request_shows_that_the_model_is_back(provider: ProviderHealth) -> None:
    model = provider.of("a")
    calls(FEWEST_CALLS, model, "error", "model")
    assert call(model, "error", "request", at=FIRST_PAUSE)
    assert model.state(FIRST_PAUSE) == "closed"


def test_a_cancelled_probe_lets_the_next_call_try(provider: ProviderHealth) -> None:
    model = provider.of("a")
    calls(FEWEST_CALLS, model, "error", "model")
    assert model.try_enter(FIRST_PAUSE)
    assert not model.try_enter(FIRST_PAUSE)
    model.ended("cancelled", None, began=FIRST_PAUSE, now=FIRST_PAUSE, worked=False, pause=None)
    assert model.try_enter(FIRST_PAUSE)


def test_a_model_that_may_not_try_takes_no_probe_of_the_provider(provider: ProviderHealth) -> None:
    paused, fine = provider.of("paused"), provider.of("fine")
    call(paused, "limited", "model", pause=20.0)
    calls(FEWEST_CALLS, fine, "error", "provider")
    assert not paused.try_enter(FIRST_PAUSE)
    assert fine.try_enter(FIRST_PAUSE)


def test_only_so_many_models_are_kept_in_mind(provider: ProviderHealth) -> None:
    first = provider.of("model 0")
    for number in range(MOST_MODELS + 10):
        call(provider.of(f"model {number}"), "error", "model")
    assert len(provider.models) == MOST_MODELS
    assert provider.of("model 0") is not first


async def test_a_call_of_a_model_that_is_forgotten_still_waits() -> None:
    provider = ProviderHealth(1)
    limit = provider.of("first").concurrency
    assert limit.try_enter()
    waiting = asyncio.create_task(limit.enter(60))
    await asyncio.sleep(0)
    for number in range(MOST_MODELS):
        provider.of(f"model {number}")
    assert ("first" in provider.models, provider.waiting()) == (False, 1)
    limit.left()
    assert (provider.waiting(), waiting.done()) == (0, False)
    await waiting


def test_models_share_the_providers_connections() -> None:
    provider = ProviderHealth(2)
    a, b = provider.of("a"), provider.of("b")
    assert a.try_enter(0.0)
    assert b.try_enter(0.0)
    assert not a.try_enter(0.0)
    b.ended("ok", None, began=0.0, now=0.0, worked=False, pause=None)
    assert a.try_enter(0.0)


def tripped(provider: ProviderHealth) -> ModelHealth:
    """Two models have had 5xx until the provider was left alone; a third one's health."""
    for name in "ab":
        calls(FEWEST_CALLS - 1, provider.of(name), "error", "server")
    assert provider.of("c").state(0.0) == "open"
    return provider.of("c")


def test_a_model_with_calls_under_way_may_yet_show_that_the_provider_is_well(
    provider: ProviderHealth,
) -> None:
    slow = provider.of("slow")
    assert slow.try_enter(-60.0)
    for name in "ab":
        calls(2 * FEWEST_CALLS, provider.of(name), "error", "server")
    assert [provider.of(name).state(0.0) for name in ("a", "slow", "idle")] == ["open", "closed", "closed"]


def test_a_model_that_has_not_failed_waits_for_nobodys_probe(provider: ProviderHealth) -> None:
    fine = tripped(provider)
    assert provider.of("a").try_enter(FIRST_PAUSE)  # and hangs
    assert all(fine.try_enter(FIRST_PAUSE + 0.1) for _ in range(5))
    assert not provider.of("b").try_enter(FIRST_PAUSE + 0.1)


def test_one_that_cannot_be_reached_is_tried_by_one_call_whatever_the_model(provider: ProviderHealth) -> None:
    calls(FEWEST_CALLS, provider.of("a"), "error", "provider")
    assert [provider.of(name).try_enter(FIRST_PAUSE) for name in "bcd"] == [True, False, False]
