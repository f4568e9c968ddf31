"""Routes are tried in their order until the first byte, and each call is reported exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from dub5.errors import InvalidRequest, ProviderError, ProviderTimeout
from dub5.providers import build
from dub5.providers.breaker import Breaker
from dub5.providers.protocol import Call, Payload, Provider
from dub5.providers.routing import Model, OpenStream, Route
from dub5.settings import Price, Settings
from dub5.settings_loader import convert

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

    async def stream(self, call: Call) -> AsyncGenerator[Payload, None]:
        self.asked.append(call)
        try:
            for step in self.steps:
                if isinstance(step, BaseException):
                    raise step
                yield Payload.of({"said": step})
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

    def __call__(
        self, provider: str, model: str, outcome: str, duration: float, first_token: float | None
    ) -> None:
        self.calls.append((provider, model, outcome, duration, first_token))

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(provider, outcome) for provider, _, outcome, _, _ in self.calls]


def model(*providers: Provider) -> Model:
    routes = tuple(Route(provider, f"{provider.name}-large", Breaker()) for provider in providers)
    return Model("m", routes, price=Price(), cache_class="default", revision="r", clock=Clock())


def failure(message: str = "It broke.", retry_after: float | None = None) -> ProviderError:
    return ProviderError(message, provider="p", retry_after=retry_after)


def timeout() -> ProviderTimeout:
    return ProviderTimeout("It took too long.", provider="p")


async def texts(stream: OpenStream) -> list[Any]:
    return [chunk.data["said"] async for chunk in stream]


Ask = Callable[[Model, Observed], Any]


async def ask_whole(asked: Model, observed: Observed) -> Any:
    return (await asked.complete(CALL, observed)).data["said"]


async def ask_streamed(asked: Model, observed: Observed) -> Any:
    stream = await asked.open(CALL, observed)
    return "".join(await texts(stream))


both_ways = pytest.mark.parametrize("ask", [ask_whole, ask_streamed])


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
async def test_a_single_routes_error_is_told_as_it_is(ask: Ask) -> None:
    error = failure("It broke.", retry_after=7)
    with pytest.raises(ProviderError) as caught:
        await ask(model(Scripted("a", error)), Observed())
    assert caught.value is error


@both_ways
async def test_where_all_fail_the_last_error_is_told(ask: Ask) -> None:
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
async def test_a_defect_of_ours_is_reported_and_told(ask: Ask) -> None:
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
    stream = await model(Scripted("a"), Scripted("b", "hello")).open(CALL, observed)
    assert await texts(stream) == ["hello"]
    assert observed.outcomes == [("a", "error"), ("b", "ok")]


async def test_an_open_stream_knows_where_it_comes_from() -> None:
    stream = await model(Scripted("a", "hello")).open(CALL, Observed())
    assert (stream.provider, stream.upstream, stream.first.data) == ("a", "a-large", {"said": "hello"})
    await stream.aclose()


async def test_durations_are_from_the_start_of_the_call() -> None:
    observed = Observed()
    asked = model(Scripted("a", "x", "y"))
    await asked.complete(CALL, observed)
    await texts(await asked.open(CALL, observed))
    assert observed.calls == [("a", "m", "ok", 1.0, None), ("a", "m", "ok", 2.0, 1.0)]


async def test_after_the_first_byte_there_is_no_way_back() -> None:
    second, observed = Scripted("b", "no"), Observed()
    stream = await model(Scripted("a", "hel", failure()), second).open(CALL, observed)
    assert (await anext(stream)).data["said"] == "hel"
    with pytest.raises(ProviderError, match="It broke"):
        await anext(stream)
    await stream.aclose()
    assert second.asked == []
    assert observed.outcomes == [("a", "error")]


@pytest.mark.parametrize("read", [0, 1, 2])
async def test_closing_ends_the_providers_call_wherever_it_stands(read: int) -> None:
    provider, observed = Scripted("a", "x", "y", "z"), Observed()
    stream = await model(provider).open(CALL, observed)
    for _ in range(read):
        await anext(stream)
    assert (provider.closed, observed.calls) == (0, [])
    await stream.aclose()
    await stream.aclose()
    assert provider.closed == 1
    assert observed.outcomes == [("a", "cancelled")]


async def test_closing_after_the_end_changes_nothing() -> None:
    provider, observed = Scripted("a", "x"), Observed()
    stream = await model(provider).open(CALL, observed)
    assert await texts(stream) == ["x"]
    await stream.aclose()
    assert provider.closed == 1
    assert observed.outcomes == [("a", "ok")]


# --- From settings ---


def settings(**changes: Any) -> Settings:
    providers = {
        "one": {"kind": "openai", "base_url": "http://one/v1"},
        "two": {"kind": "anthropic", "base_url": "http://two"},
        "demo": {"kind": "simulated"},
    }
    for name, change in changes.get("providers", {}).items():
        providers[name] = {**providers.get(name, {}), **change}
    routes = changes.get("routes", ["one/org/gpt", "two/claude"])
    return convert({"providers": providers, "models": {"m": {"routes": routes}}, "personalities": {}})


async def built(configured: Settings, secret: str = "s3cret") -> Model:
    providers = build(configured, {"one": secret, "two": secret})
    made = Model.build(
        "m", configured.models["m"], providers, configured.providers, {name: Breaker() for name in providers}
    )
    for provider in providers.values():
        await provider.aclose()
    return made


async def test_each_kind_of_provider_is_built() -> None:
    providers = build(settings(), {})
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
    ],
)
async def test_the_revision_changes_with_what_shapes_the_answer(changes: dict[str, Any]) -> None:
    assert (await built(settings(**changes))).revision != (await built(settings())).revision


@pytest.mark.parametrize(
    "changes",
    [
        {"providers": {"one": {"timeouts": {"total": "1s"}, "max_connections": 3}}},
        {"providers": {"demo": {"tokens_per_second": 1}}},
        {
            "providers": {"alias": {"kind": "openai", "base_url": "http://one/v1"}},
            "routes": ["alias/org/gpt", "two/claude"],
        },
    ],
)
async def test_the_revision_does_not_change_with_the_rest(changes: dict[str, Any]) -> None:
    assert (await built(settings(**changes))).revision == (await built(settings())).revision


async def test_the_revision_does_not_depend_on_keys() -> None:
    assert (await built(settings(), "a")).revision == (await built(settings(), "b")).revision
