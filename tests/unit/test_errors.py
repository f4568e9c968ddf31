"""What one error may have of its own, and that nothing of it is lost on the way to another replica."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from dub5 import errors
from dub5.errors import (
    Dub5Error,
    FlightLost,
    InternalError,
    InvalidRequest,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RequestTooLarge,
    all_failed,
    from_wire,
    render,
    render_event,
    to_wire,
    whole_seconds,
)

HEARD: dict[str, Any] = {"status": 429, "type": "tokens", "code": "rate_limit_exceeded"}


def failure(message: str = "Slow down.", **more: Any) -> ProviderError:
    return ProviderError(message, provider="acme", **more)


@pytest.mark.parametrize(
    ("seconds", "whole"), [(0, 1), (0.2, 1), (1, 1), (1.001, 2), (2.4, 3), (2.5, 3), (59.999, 60), (7.0, 7)]
)
def test_a_client_that_waits_for_so_long_does_not_come_too_early(seconds: float, whole: int) -> None:
    assert whole_seconds(seconds) == whole
    assert whole >= seconds


def test_our_own_limit_says_the_same_in_words_and_header() -> None:
    error = errors.RateLimited(retry_after=2.4, headers={})
    assert error.message == "Rate limit reached. Try again in 3 s."


def test_what_goes_with_an_error_besides_its_body() -> None:
    kind = (b"content-type", b"application/json")
    limited = render(errors.RateLimited(retry_after=2.4, headers={"x-a": "1"}))
    assert limited.headers == [kind, (b"retry-after", b"3"), (b"x-a", b"1")]
    refused = render(failure().as_said(should_retry=False))
    assert refused.headers == [kind, (b"x-should-retry", b"false")]
    assert render(failure()).headers == [kind]
    # A provider may say 429 and not when to come again, unless that is never.
    assert render(failure().as_said(status=429)).headers == [kind, (b"retry-after", b"1")]
    spent = render(failure().as_said(status=429, should_retry=False))
    assert spent.headers == [kind, (b"x-should-retry", b"false")]
    full = render(Overloaded("Full.", retry_after=1))
    assert full.headers == [kind, (b"retry-after", b"1"), (b"connection", b"close")]


def test_it_is_the_same_as_a_response_and_as_the_last_event() -> None:
    error = Overloaded("Full.", retry_after=1.2)
    rendered = render(error)
    body = json.loads(rendered.body)
    assert (rendered.status, body["error"]["code"]) == (503, "overloaded")
    event = render_event(error)
    assert (event[:6], event[-2:]) == (b"data: ", b"\n\n")
    assert json.loads(event[6:])["error"] == {**body["error"], "retry_after": 2}


def test_what_a_provider_said_is_told_in_place_of_the_classs_words() -> None:
    error = failure(retry_after=6.1).as_said(**HEARD)
    assert (error.status, error.body()["error"]) == (
        429,
        {"message": "Slow down.", "type": "tokens", "param": None, "code": "rate_limit_exceeded"},
    )
    assert error.event()["error"] == {**error.body()["error"], "retry_after": 7}
    assert (ProviderError.status, ProviderError.code) == (502, "provider_error")


def test_what_was_not_said_stays_the_classs() -> None:
    error = InvalidRequest("Bad", param="n").as_said(status=422, type=None, code=None)
    assert (error.status, error.type, error.code, error.should_retry) == (
        422,
        "invalid_request_error",
        "invalid_request_error",
        None,
    )
    assert "retry_after" not in error.event()["error"]


EVERY = [
    InvalidRequest("Bad n.", param="n"),
    InvalidRequest("Too long.", param="messages").as_said(
        code="context_length_exceeded", type="x", status=422
    ),
    RequestTooLarge("Too large."),
    RequestTooLarge("Too large.").as_said(code="rate_limit_exceeded"),
    Overloaded("Full.", retry_after=1),
    failure(),
    failure(retry_after=6.1).as_said(**HEARD),
    failure().as_said(status=429, code="insufficient_quota", should_retry=False),
    failure().as_said(should_retry=False),
    failure().as_said(status=404),
    ProviderTimeout("Late.", provider="acme"),
    FlightLost(),
    InternalError(),
]


@pytest.mark.parametrize(
    "error", EVERY, ids=lambda error: f"{type(error).__name__}-{error.status}-{error.code}"
)
def test_another_replica_tells_the_same(error: Dub5Error) -> None:
    reported = from_wire(msgspec.msgpack.decode(msgspec.msgpack.encode(to_wire(error))))
    assert type(reported) is type(error)
    assert (reported.body(), reported.status, reported.retry_after, reported.should_retry, str(reported)) == (
        error.body(),
        error.status,
        error.retry_after,
        error.should_retry,
        str(error),
    )


def test_another_replica_has_all_that_a_providers_error_has() -> None:
    reported = from_wire(to_wire(failure("It quotes a prompt.", busy=True)))
    assert isinstance(reported, ProviderError)
    assert (reported.provider, reported.scope, reported.transient, reported.busy) == (
        "",
        "request",
        False,
        False,
    )
    assert "prompt" not in reported.plain


def test_releases_on_both_sides_of_an_upgrade_understand_each_other() -> None:
    """The older one knows an error by its class's code, and sends nothing that is one error's own."""
    wire = to_wire(failure(retry_after=6.1).as_said(**HEARD))
    assert {name: wire[name] for name in ("message", "param", "code", "retry_after")} == {
        "message": "Slow down.",
        "param": None,
        "code": "provider_error",
        "retry_after": 6.1,
    }
    del wire["own"]
    assert (from_wire(wire).status, from_wire({**wire, "code": "of_tomorrow"}).status) == (502, 500)


def test_one_failure_is_told_as_it_is() -> None:
    error = failure()
    assert all_failed("small", [error]) is error


@pytest.mark.parametrize(
    "last",
    [
        failure(retry_after=6.1, busy=True).as_said(**HEARD),
        failure().as_said(status=429, code="insufficient_quota", should_retry=False),
        failure().as_said(should_retry=False),
        failure(scope="provider", transient=True, plain="It failed."),
        ProviderTimeout("Late.", provider="acme"),
    ],
)
def test_of_several_failures_the_last_one_counts(last: ProviderError) -> None:
    last.param = "n"
    words = last.message
    reported = all_failed("small", [failure("First.").as_said(status=404, code="gone"), last])
    assert type(reported) is type(last)
    assert reported is not last
    assert reported.message == str(reported) == f"Every provider of the model small failed; the last: {words}"
    assert last.message == words
    assert {**reported.__dict__, "message": words} == last.__dict__
