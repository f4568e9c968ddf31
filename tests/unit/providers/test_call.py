"""Routes are tried in their order until the first byte, and each call is reported exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import certifi
import pytest

from dub5.errors import InvalidRequest, Overloaded, ProviderError, ProviderTimeout, Unsupported
from dub5.frames import Frame
from dub5.providers import build
from dub5.providers.call import CallResult, Model, RetryBudget, Route
from dub5.providers.health import FEWEST_LATENCIES, UNLIMITED, LastFailure, ModelHealth, ProviderHealth
from dub5.providers.protocol import BatchLimit, Call, Embedded, OnChunks, Payload, Provider, decode
from dub5.settings.loader import convert
from dub5.settings.model import Price, Settings

CALL = Call(model="", body={"messages": []}, stream=True, headers={"x-request-id": "r1"})

Step = str | BaseException
"""A chunk to send, or an exception to raise."""


class Scripted:
    """A provider that plays its steps; `asked` has the calls, `closed` counts streams that ended."""

    def __init__(self, name: str, *steps: Step) -> None:
        self.name = name
        self.steps = steps
        self.asked: list[Call] = []
        self.closed = 0

    async def complete(self, call: Call) -> Payload:
        self.asked.append(call)
        for step in self.steps:
            if isinstance(step, BaseException):
                raise step
            return Payload.of({"said": step})
        await asyncio.Event().wait()
        raise AssertionError("waiting without end has ended")

    @property
    def batch_limit(self) -> BatchLimit:
        return BatchLimit(len(self.name), 100 // len(self.name))

    async def embed(self, call: Call) -> Embedded:
        return Embedded([], len((await self.complete(call)).data["said"]))

    async def stream(self, call: Call, on_chunks: OnChunks) -> None:
        self.asked.append(call)
        try:
            for step in self.steps:
                await asyncio.sleep(0)
                if isinstance(step, BaseException):
                    raise step
                on_chunks([Payload.of({"choices": [{"delta": {"content": step}}], "said": step})])
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        """Nothing is held."""


class Clock:
    """Moves one second each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


class Observed:
    """What was reported."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str, float, float | None]] = []
        self.reasons: list[str | None] = []

    def __call__(self, ended: CallResult) -> None:
        call = (ended.provider, ended.model, ended.outcome, ended.duration, ended.first_token)
        self.calls.append(call)
        self.reasons.append(ended.reason)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(provider, outcome) for provider, _, outcome, _, _ in self.calls]


def well(most: int = UNLIMITED) -> ModelHealth:
    """Of the only model of a provider of its own."""
    return ProviderHealth(most).of("x")


def model(*providers: Provider) -> Model:
    return of_routes(*(Route(provider, f"{provider.name}-large", well()) for provider in providers))


def of_routes(*routes: Route, **options: Any) -> Model:
    return Model("m", routes, price=Price(), cache_class="default", revision="r", clock=Clock(), **options)


def failure(message: str = "It broke.", retry_after: float | None = None) -> ProviderError:
    return ProviderError(message, provider="p", retry_after=retry_after)


def timeout() -> ProviderTimeout:
    return ProviderTimeout("It took too long.", provider="p")


class Heard:
    """What a stream has brought."""

    def __init__(self) -> None:
        self.texts: list[Any] = []

    def __call__(self, frames: list[Frame]) -> None:
        self.texts += [decode(frame.raw)["said"] for frame in frames]


async def texts(asked: Model, observed: Observed) -> list[Any]:
    heard = Heard()
    await asked.stream(CALL, observed, heard)
    return heard.texts


Ask = Callable[[Model, Observed], Any]


async def ask_whole(asked: Model, observed: Observed) -> Any:
    return (await asked.complete(CALL, observed)).data["said"]


async def ask_streamed(asked: Model, observed: Observed) -> Any:
    return "".join(await texts(asked, observed))


both_ways = pytest.mark.parametrize("ask", [ask_whole, ask_streamed])


async def test_vectors_are_asked_for_as_whole_answers_are() -> None:
    first, second, observed = Scripted("a", failure()), Scripted("bcd", "hello"), Observed()
    asked = model(first, second)
    assert (await asked.embed(CALL, observed)).tokens == 5
    assert observed.outcomes == [("a", "error"), ("bcd", "ok")]
    assert [call.model for call in first.asked + second.asked] == ["a-large", "bcd-large"]
    assert asked.batch_limit == BatchLimit(1, 33)  # what each of them takes


@both_ways
async def test_the_first_route_is_asked_by_its_own_name_of_the_model(ask: Ask) -> None:
    first, second, observed = Scripted("a", "hello"), Scripted("b", "no"), Observed()
    assert await ask(model(first, second), observed) == "hello"
    (call,) = first.asked
    assert (call.model, call.body, call.headers) == ("a-large", CALL.body, CALL.headers)
    assert second.asked == []
    assert observed.outcomes == [("a", "ok")]


@both_ways
@pytest.mark.parametrize(("error", "outcome"), [(failure(), "error"), (timeout(), "timeout")])
async def test_the_next_route_is_asked_where_one_fails(ask: Ask, error: ProviderError, outcome: str) -> None:
    observed = Observed()
    assert await ask(model(Scripted("a", error), Scripted("b", "hello")), observed) == "hello"
    assert observed.outcomes == [("a", outcome), ("b", "ok")]


@both_ways
async def test_the_callers_error_is_not_asked_twice(ask: Ask) -> None:
    second, observed = Scripted("b", "no"), Observed()
    with pytest.raises(InvalidRequest):
        await ask(model(Scripted("a", InvalidRequest("Bad.", param="n")), second), observed)
    assert second.asked == []
    assert observed.outcomes == [("a", "refused")]


@both_ways
async def test_a_single_routes_error_is_raised_as_it_is(ask: Ask) -> None:
    error = failure("It broke.", retry_after=7)
    with pytest.raises(ProviderError) as caught:
        await ask(model(Scripted("a", error)), Observed())
    assert caught.value is error


@both_ways
async def test_where_all_fail_the_last_error_is_raised(ask: Ask) -> None:
    with pytest.raises(ProviderError) as caught:
        await ask(model(Scripted("a", timeout()), Scripted("b", failure("It broke.", 7))), Observed())
    assert caught.value.message == "Every provider of the model m failed; the last: It broke."
    assert type(caught.value) is ProviderError
    assert caught.value.retry_after == 7


@both_ways
async def test_where_all_fail_and_the_last_was_late_it_is_a_timeout(ask: Ask) -> None:
    with pytest.raises(ProviderTimeout, match="Every provider of the model m"):
        await ask(model(Scripted("a", failure()), Scripted("b", timeout())), Observed())


@both_ways
async def test_a_defect_of_ours_is_reported_and_raised(ask: Ask) -> None:
    observed = Observed()
    with pytest.raises(ZeroDivisionError):
        await ask(model(Scripted("a", ZeroDivisionError()), Scripted("b", "no")), observed)
    assert observed.outcomes == [("a", "error")]


async def test_a_cancelled_call_is_reported_as_that() -> None:
    silent, observed = Scripted("a"), Observed()
    asking = asyncio.create_task(model(silent).complete(CALL, observed))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert observed.outcomes == [("a", "cancelled")]


async def test_an_empty_stream_is_a_failure() -> None:
    observed = Observed()
    assert await texts(model(Scripted("a"), Scripted("b", "hello")), observed) == ["hello"]
    assert observed.outcomes == [("a", "error"), ("b", "ok")]


async def test_durations_are_from_the_start_of_the_call() -> None:
    observed = Observed()
    asked = model(Scripted("a", "x", "y"))
    await asked.complete(CALL, observed)
    await texts(asked, observed)
    assert observed.calls == [("a", "m", "ok", 1.0, None), ("a", "m", "ok", 2.0, 1.0)]


async def test_after_the_first_byte_there_is_no_way_back() -> None:
    second, observed = Scripted("b", "no"), Observed()
    heard = Heard()
    with pytest.raises(ProviderError, match="It broke"):
        await model(Scripted("a", "hel", failure()), second).stream(CALL, observed, heard)
    assert heard.texts == ["hel"]
    assert second.asked == []
    assert observed.outcomes == [("a", "error")]


class Preamble(Scripted):
    """Says who speaks before it answers."""

    async def stream(self, call: Call, on_chunks: OnChunks) -> None:
        for said in ({"role": "assistant", "content": ""}, {}, {"role": "assistant", "content": None}):
            on_chunks([Payload.of({"choices": [{"delta": said}], "said": "…"})])
        await super().stream(call, on_chunks)


async def test_a_failure_after_a_mere_preamble_is_a_failed_try() -> None:
    observed = Observed()
    asked = model(Preamble("a", failure()), Preamble("b", "hello", " you"))
    assert await texts(asked, observed) == ["…", "…", "…", "hello", " you"]
    assert observed.outcomes == [("a", "error"), ("b", "ok")]
    assert observed.calls[0][4] is None


async def test_the_first_token_is_the_first_of_the_answer() -> None:
    provider, observed = Preamble("a", "hello"), Observed()
    begun: list[bool] = []
    await model(provider).stream(CALL, observed, lambda _: begun.append(provider.asked[0].response.begun))
    assert begun == [True]
    assert observed.calls[0][4] is not None


async def test_a_complete_stream_without_an_answer_is_passed_on() -> None:
    observed = Observed()
    assert await texts(model(Preamble("a"), Scripted("b", "no")), observed) == ["…", "…", "…"]
    assert observed.outcomes == [("a", "ok")]


async def test_of_a_preamble_that_is_said_again_and_again_one_is_held() -> None:
    class Thinking(Scripted):
        async def stream(self, call: Call, on_chunks: OnChunks) -> None:
            for _ in range(3):
                on_chunks([Payload.of({"choices": [{"delta": {}}], "said": "…"})] * 2)
            await super().stream(call, on_chunks)

    assert await texts(model(Thinking("a", "ha", "ha")), Observed()) == ["…", "ha", "ha"]


def cannot(field: str = "n") -> Unsupported:
    return Unsupported(f"`{field}`: the provider of this model cannot do that.", param=field)


@both_ways
async def test_a_route_that_cannot_is_passed_over_and_was_not_called(ask: Ask) -> None:
    observed, unable = Observed(), well(1)
    asked = of_routes(Route(Scripted("a", cannot()), "x", unable), Route(Scripted("b", "hello"), "x", well()))
    assert await ask(asked, observed) == "hello"
    assert (observed.outcomes, observed.reasons) == ([("b", "ok")], [None])
    assert (unable.concurrency.running, unable.state(0.0)) == (0, "closed")


@both_ways
async def test_where_no_route_can_the_callers_error_is_raised(ask: Ask) -> None:
    with pytest.raises(Unsupported) as caught:
        await ask(model(Scripted("a", cannot("n")), Scripted("b", cannot("audio"))), Observed())
    assert caught.value.param == "n"


@both_ways
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_an_outage_of_those_that_can_is_raised_as_an_outage(ask: Ask, order: tuple[int, int]) -> None:
    providers = [Scripted("a", failure("It broke.")), Scripted("b", cannot())]
    with pytest.raises(ProviderError, match="It broke"):
        await ask(model(*(providers[index] for index in order)), Observed())


@both_ways
async def test_open_breakers_of_those_that_can_are_an_outage_too(ask: Ask) -> None:
    broken = well()
    broken.ended("limited", "model", began=0.0, now=0.0, worked=False, pause=20.0)
    asked = of_routes(Route(Scripted("a", "no"), "x", broken), Route(Scripted("b", cannot()), "x", well()))
    with pytest.raises(ProviderError) as caught:
        await ask(asked, Observed())
    assert caught.value.retry_after == pytest.approx(20.0, abs=10)


def said(*, status: int, **rest: Any) -> LastFailure:
    return LastFailure.of(failure().as_said(status=status, **rest))


@pytest.mark.parametrize(
    ("failures", "status", "code", "should_retry", "waits"),
    [
        pytest.param([said(status=429, code="rate_limit_exceeded")], 429, "rate_limit_exceeded", None, True, id="rate"),
        pytest.param(
            [said(status=429, code="insufficient_quota", should_retry=False)],
            429, "insufficient_quota", False, False, id="quota",
        ),
        pytest.param([said(status=401, should_retry=False)], 502, "provider_error", False, True, id="credentials"),
        pytest.param(
            [said(status=429, code="insufficient_quota", should_retry=False), said(status=503)],
            502, "provider_error", None, True, id="a quota, and an outage elsewhere",
        ),
    ],
)  # fmt: skip
async def test_while_no_route_is_called_callers_are_told_what_they_can_do(
    failures: list[LastFailure], status: int, code: str, should_retry: bool | None, waits: bool
) -> None:
    """Whether to ask again, and when: what opened the breakers says."""
    routes = [Route(Scripted(str(number), "no"), "x", well()) for number in range(len(failures))]
    for route, known in zip(routes, failures, strict=True):
        assert route.health.try_enter(0.0)
        route.health.ended("limited", "model", began=0.0, now=0.0, worked=False, pause=20.0, failure=known)
    with pytest.raises(ProviderError) as caught:
        await of_routes(*routes).complete(CALL, Observed())
    error = caught.value
    assert (error.status, error.code, error.should_retry) == (status, code, should_retry)
    assert (error.retry_after is not None) is waits


@pytest.mark.parametrize("read", [0, 1, 2])
async def test_cancelling_ends_the_providers_call_wherever_it_stands(read: int) -> None:
    provider, observed, heard = Scripted("a", "x", "y", "z"), Observed(), Heard()
    asking = asyncio.create_task(model(provider).stream(CALL, observed, heard))
    for _ in range(1 + read):  # each of its chunks takes it a turn
        await asyncio.sleep(0)
    assert len(heard.texts) == read
    assert (provider.closed, observed.calls) == (0, [])
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert provider.closed == 1
    assert observed.outcomes == [("a", "cancelled")]


# --- By weight, full, once more, and twice at a time ---


async def asked_first(weights: list[float | None], draws: list[float]) -> list[str]:
    """Names of the routes in the order in which they are asked, where all fail."""
    observed, left = Observed(), list(draws)
    routes = [
        Route(Scripted(name, failure()), "x", well(), weight)
        for name, weight in zip("abcd", weights, strict=False)
    ]
    asked = of_routes(*routes, rng=lambda: left.pop(0))
    with pytest.raises(ProviderError):
        await asked.complete(CALL, observed)
    return [provider for provider, _ in observed.outcomes]


async def test_routes_without_weights_are_asked_in_order() -> None:
    assert await asked_first([None, None, None], []) == ["a", "b", "c"]


async def test_chance_decides_between_weights_and_mere_fallbacks_come_last() -> None:
    assert await asked_first([None, 1.0, None, 1.0], [0.1, 0.9]) == ["b", "d", "a", "c"]
    assert await asked_first([None, 1.0, None, 1.0], [0.9, 0.1]) == ["d", "b", "a", "c"]


async def test_the_shares_of_first_tries_are_the_weights() -> None:
    rng = random.Random(5)
    providers = [Scripted(name, "hello") for name in "ab"]
    asked = of_routes(
        Route(providers[0], "x", well(), 3.0),
        Route(providers[1], "x", well(), 1.0),
        rng=rng.random,
    )
    for _ in range(4000):
        await asked.complete(CALL, Observed())
    assert 0.72 < len(providers[0].asked) / 4000 < 0.78


def full(most: int = 1, rejected: Callable[[], object] = lambda: None) -> ModelHealth:
    health = ProviderHealth(most, rejected).of("x")
    assert all(health.concurrency.try_enter() for _ in range(most))
    return health


@both_ways
async def test_a_provider_without_room_is_passed_over(ask: Ask) -> None:
    first, observed = Scripted("a", "no"), Observed()
    asked = of_routes(Route(first, "x", full()), Route(Scripted("b", "hello"), "x", well()))
    assert await ask(asked, observed) == "hello"
    assert (first.asked, observed.reasons) == ([], [None])


@both_ways
async def test_where_none_has_room_a_place_is_waited_for(ask: Ask) -> None:
    health, observed = full(), Observed()
    asked = of_routes(Route(Scripted("a", "hello"), "x", health))
    answer = asyncio.create_task(ask(asked, observed))
    await asyncio.sleep(0)
    assert health.concurrency.waiting == 1
    health.concurrency.left("well", began=0, now=0)
    assert await answer == "hello"
    assert (health.concurrency.waiting, health.concurrency.running) == (0, 0)


async def test_the_wait_for_a_place_ends() -> None:
    asked = of_routes(Route(Scripted("a", "no"), "x", full()), queue_timeout=0.001)
    with pytest.raises(ProviderTimeout, match="too long to take the call"):
        await asked.complete(CALL, Observed())


async def test_who_waits_in_vain_at_one_provider_is_given_another_that_has_room_now() -> None:
    healths = [full(), full()]
    asked = of_routes(
        Route(Scripted("a", "no"), "x", healths[0]),
        Route(Scripted("b", "hello"), "x", healths[1]),
        queue_timeout=0.01,
    )
    answer = asyncio.create_task(asked.complete(CALL, Observed()))
    await asyncio.sleep(0)
    healths[1].concurrency.left()
    assert (await answer).data["said"] == "hello"


async def test_only_as_many_wait_for_a_provider_as_it_is_given_calls() -> None:
    rejected: list[bool] = []
    health = full(2, lambda: rejected.append(True))
    asked = of_routes(Route(Scripted("a", "hello"), "x", health))
    waiting = [asyncio.create_task(asked.complete(CALL, Observed())) for _ in range(2)]
    await asyncio.sleep(0)
    assert not rejected
    with pytest.raises(Overloaded) as caught:
        await asked.complete(CALL, Observed())
    assert caught.value.retry_after
    assert rejected == [True]
    health.concurrency.left()
    await asyncio.gather(*waiting)


async def test_where_too_many_wait_at_one_provider_the_next_has_a_queue_too() -> None:
    healths = [full(), full()]
    routes = [Route(Scripted(name, name), "x", health) for name, health in zip("ab", healths, strict=True)]
    asked = of_routes(*routes)
    waiting = [asyncio.create_task(asked.complete(CALL, Observed())) for _ in range(3)]
    await asyncio.sleep(0)
    assert [health.concurrency.waiting for health in healths] == [1, 1]
    with pytest.raises(Overloaded):
        await waiting[2]
    for health in healths:
        health.concurrency.left()
    assert [(await each).data["said"] for each in waiting[:2]] == ["a", "b"]


async def test_a_provider_that_is_back_is_tried_though_old_calls_hold_more_places_than_it_has() -> None:
    provider, health = Scripted("a", "hello"), full(10)
    health.ended("timeout", "model", began=0.0, now=0.0, worked=False, pause=0.5)
    assert (health.concurrency.running, health.concurrency.limit) == (9, 7)
    answer = await of_routes(Route(provider, "x", health)).complete(CALL, Observed())
    assert answer.data["said"] == "hello"
    assert (health.breaker.state(5.0), health.concurrency.running) == ("closed", 9)


async def test_a_provider_that_broke_while_its_place_was_waited_for_is_not_asked() -> None:
    provider, health = Scripted("a", "no"), full()
    answer = asyncio.create_task(of_routes(Route(provider, "x", health)).complete(CALL, Observed()))
    await asyncio.sleep(0)
    health.breaker.failed(1.0, 1.0, pause=30)
    health.concurrency.left("otherwise", began=0, now=0)
    with pytest.raises(ProviderError, match="circuit breaker is open"):
        await answer
    assert (provider.asked, health.concurrency.running) == ([], 0)


@both_ways
@pytest.mark.parametrize(
    ("step", "running", "limit"),
    [
        ("hello", 0, 10),
        (failure(), 0, 10),
        (timeout(), 0, 1),
        (ProviderError("Slow down.", provider="p", busy=True), 0, 1),
        (InvalidRequest("Bad.", param="n"), 0, 10),
        (Unsupported("Bad.", param="n"), 0, 10),
        (Overloaded("No descriptors."), 0, 10),
        (MemoryError(), 0, 10),
    ],
)
async def test_every_call_gives_its_place_back(ask: Ask, step: Step, running: int, limit: int) -> None:
    health = well(10)
    with contextlib.suppress(ProviderError, InvalidRequest, Overloaded, MemoryError):
        await ask(of_routes(Route(Scripted("a", step), "x", health)), Observed())
    assert (health.concurrency.running, health.concurrency.limit) == (running, limit)


@both_ways
@pytest.mark.parametrize("shortage", [Overloaded("No descriptors."), MemoryError(), ZeroDivisionError()])
async def test_our_own_shortage_is_nobodys_failure(ask: Ask, shortage: Exception) -> None:
    health = well()
    for _ in range(20):
        with pytest.raises(type(shortage)):
            await ask(of_routes(Route(Scripted("a", shortage), "x", health)), Observed())
    assert health.state(0.0) == "closed"


def passing() -> ProviderError:
    return ProviderError("It broke off.", provider="p", transient=True)


class FailingOnce(Scripted):
    """Fails the first time it is asked."""

    async def complete(self, call: Call) -> Payload:
        if not self.asked:
            self.asked.append(call)
            raise passing()
        return await super().complete(call)


def earned() -> RetryBudget:
    """A budget with one retry."""
    budget = RetryBudget()
    for _ in range(10):
        budget.calls += 1
    return budget


async def test_a_passing_fault_is_tried_once_more_where_the_budget_has_one() -> None:
    observed, provider = Observed(), FailingOnce("a", "hello")
    asked = of_routes(Route(provider, "x", well()), budget=earned())
    assert (await asked.complete(CALL, observed)).data["said"] == "hello"
    assert observed.reasons == [None, "retry"]


async def test_it_is_not_where_the_budget_is_spent() -> None:
    observed = Observed()
    with pytest.raises(ProviderError):
        await of_routes(Route(FailingOnce("a", "hello"), "x", well())).complete(CALL, observed)
    assert observed.reasons == [None]


async def test_a_wait_of_nothing_is_no_pause() -> None:
    passing_soon = ProviderError("No.", provider="p", transient=True, scope="server", retry_after=0.0)
    observed, health = Observed(), well()
    asked = of_routes(Route(Scripted("a", passing_soon), "x", health), budget=earned())
    with pytest.raises(ProviderError):
        await asked.complete(CALL, observed)
    assert observed.reasons == [None, "retry"]
    assert health.state(100.0) == "closed"


@pytest.mark.parametrize(
    "error",
    [
        failure(),
        timeout(),
        failure(retry_after=3),
        ProviderError("No.", provider="p", transient=True, retry_after=1),
    ],
)
async def test_other_faults_are_not_tried_again(error: ProviderError) -> None:
    observed = Observed()
    with pytest.raises(ProviderError):
        await of_routes(Route(Scripted("a", error), "x", well()), budget=earned()).complete(CALL, observed)
    assert observed.reasons == [None]


async def test_fallbacks_come_before_the_retry() -> None:
    observed = Observed()
    routes = [Route(Scripted(name, passing()), "x", well()) for name in "ab"]
    with pytest.raises(ProviderError):
        await of_routes(*routes, budget=earned()).complete(CALL, observed)
    assert list(zip(observed.outcomes, observed.reasons, strict=True)) == [
        (("a", "error"), None),
        (("b", "error"), "fallback"),
        (("a", "error"), "retry"),
    ]


def quick(provider: Provider, health: ModelHealth) -> Route:
    """A route whose answers have always come at once."""
    route = Route(provider, "x", health)
    for latencies in (health.first_tokens, health.wholes):
        for _ in range(FEWEST_LATENCIES):
            latencies.waits.append(0.0)
    return route


class Silent(Scripted):
    """Never answers; counts how its call was ended."""

    async def stream(self, call: Call, on_chunks: OnChunks) -> None:  # it has nothing to say
        self.asked.append(call)
        try:
            await asyncio.Event().wait()
        finally:
            self.closed += 1


async def test_a_slow_stream_is_hedged_with_the_next_route() -> None:
    slow, fast, observed = Silent("a"), Scripted("b", "hello"), Observed()
    healths = [well(), well()]
    asked = of_routes(quick(slow, healths[0]), quick(fast, healths[1]), hedge=True, budget=earned())
    assert await texts(asked, observed) == ["hello"]
    assert slow.closed == 1
    assert dict(zip(observed.outcomes, observed.reasons, strict=True)) == {
        ("a", "cancelled"): None,
        ("b", "ok"): "hedge",
    }
    assert [health.concurrency.running for health in healths] == [0, 0]


class SlowOnce(Silent):
    """Answers from its second call on."""

    async def stream(self, call: Call, on_chunks: OnChunks) -> None:
        play = Scripted.stream if self.asked else Silent.stream
        await play(self, call, on_chunks)


async def test_where_no_other_route_is_well_a_slow_call_is_made_again_at_the_same() -> None:
    slow, broken, observed = SlowOnce("a", "hello"), well(), Observed()
    broken.breaker.trip(0.0, 20.0)
    routes = [quick(slow, well()), quick(Scripted("b", "no"), broken)]
    assert await texts(of_routes(*routes, hedge=True, budget=earned()), observed) == ["hello"]
    assert dict(zip(observed.outcomes, observed.reasons, strict=True)) == {
        ("a", "cancelled"): None,
        ("a", "ok"): "hedge",
    }


@pytest.mark.parametrize("reason", ["no budget", "not wanted", "pace unknown"])
async def test_a_slow_call_is_not_hedged(reason: str) -> None:
    slow, other = Silent("a"), Scripted("b", "hello")
    routes = [quick(each, well()) for each in (slow, other)]
    if reason == "pace unknown":
        routes = [Route(route.provider, "x", well()) for route in routes]
    asked = of_routes(
        *routes, hedge=reason != "not wanted", budget=None if reason == "no budget" else earned()
    )
    opening = asyncio.create_task(asked.stream(CALL, Observed(), Heard()))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (len(slow.asked), other.asked) == (1, [])
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert (slow.closed, routes[0].health.concurrency.running) == (1, 0)


@pytest.mark.parametrize("turns", range(12))
async def test_cancelling_where_the_second_call_has_won_leaves_nothing_either(turns: int) -> None:
    first, second, healths = Silent("a"), Scripted("b", "hello"), [well(), well()]
    asked = of_routes(quick(first, healths[0]), quick(second, healths[1]), hedge=True, budget=earned())
    opening = asyncio.create_task(asked.stream(CALL, Observed(), Heard()))
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    await asyncio.sleep(0)
    assert [health.concurrency.running for health in healths] == [0, 0]


@pytest.mark.parametrize("turns", range(8))
async def test_cancelling_a_hedged_call_leaves_nothing_wherever_it_stands(turns: int) -> None:
    healths = [well(), well()]
    asked = of_routes(
        quick(Silent("a"), healths[0]), quick(Silent("b"), healths[1]), hedge=True, budget=earned()
    )
    opening = asyncio.create_task(asked.stream(CALL, Observed(), Heard()))
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await asyncio.sleep(0)
    assert [health.concurrency.running for health in healths] == [0, 0]


# --- From settings ---


def settings(**changes: Any) -> Settings:
    providers: dict[str, Any] = {
        "one": {"kind": "openai", "base_url": "http://one/v1", "api_key": {"env": "KEY"}},
        "two": {"kind": "anthropic", "base_url": "http://two", "api_key": {"env": "KEY"}},
        "demo": {"kind": "simulated"},
    }
    for name, change in changes.get("providers", {}).items():
        providers[name] = {**providers.get(name, {}), **change}
    routes = changes.get("routes", ["one/org/gpt", "two/claude"])
    return convert({"providers": providers, "models": {"m": {"routes": routes}}, "personalities": {}})


async def built(configured: Settings, secret: str = "s3cret") -> Model:
    providers = await asyncio.to_thread(build, configured, {"KEY": secret})  # it reads files
    made = Model.build(
        "m",
        configured.models["m"],
        providers,
        configured.providers,
        {name: ProviderHealth() for name in providers},
        10.0,
    )
    for provider in providers.values():
        await provider.aclose()
    return made


async def test_each_kind_of_provider_is_built() -> None:
    providers = build(settings(), {"KEY": "s3cret"})
    assert {name: type(each).__name__ for name, each in providers.items()} == {
        "one": "OpenAIProvider",
        "two": "AnthropicProvider",
        "demo": "SimulatedProvider",
    }
    for name, provider in providers.items():
        assert provider.name == name
        await provider.aclose()


async def test_a_model_is_built_with_its_routes() -> None:
    made = await built(settings())
    assert [(route.provider.name, route.upstream) for route in made.routes] == [
        ("one", "org/gpt"),
        ("two", "claude"),
    ]
    assert (made.name, made.cache_class, made.price) == ("m", "default", Price())


@pytest.mark.parametrize(
    "changes",
    [
        {"routes": ["one/org/gpt"]},
        {"routes": ["two/claude", "one/org/gpt"]},
        {"routes": ["one/org/gpt", "two/claude-2"]},
        {"routes": ["demo/org/gpt", "two/claude"]},
        {"providers": {"one": {"base_url": "http://other/v1"}}},
        {"providers": {"one": {"headers": {"openai-beta": "x"}}}},
        {"providers": {"two": {"max_tokens": 5}}},
        {"providers": {"one": {"quirks": {"gpt*": {"drop": ["temperature"]}}}}},
        {"providers": {"two": {"quirks": {"claude*": {"drop": ["temperature"]}}}}},
    ],
)
async def test_the_revision_changes_with_what_shapes_the_answer(changes: dict[str, Any]) -> None:
    assert (await built(settings(**changes))).revision != (await built(settings())).revision


@pytest.mark.parametrize(
    "changes",
    [
        {"providers": {"one": {"timeouts": {"total": "1s"}, "max_connections": 3}}},
        {"providers": {"demo": {"tokens_per_second": 1}}},
        {"providers": {"one": {"proxy": "http://proxy:3128", "ca_file": certifi.where()}}},
        {"providers": {"one": {"quirks": {}}}},
        {
            "providers": {
                "one": {"api_key_header": "api-key", "secret_headers": {"x-gateway": {"env": "KEY"}}}
            }
        },
        {
            "providers": {
                "alias": {"kind": "openai", "base_url": "http://one/v1", "api_key": {"env": "KEY"}}
            },
            "routes": ["alias/org/gpt", "two/claude"],
        },
    ],
)
async def test_the_revision_does_not_change_with_the_rest(changes: dict[str, Any]) -> None:
    assert (await built(settings(**changes))).revision == (await built(settings())).revision


async def test_the_revision_does_not_depend_on_keys() -> None:
    assert (await built(settings(), "a")).revision == (await built(settings(), "b")).revision
