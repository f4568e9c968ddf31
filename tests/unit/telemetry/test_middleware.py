"""How an outcome is decided, and the middleware where a real server could not be made to misbehave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dub5.telemetry.metrics import Metrics
from dub5.telemetry.record import (
    Recorder,
    RequestOutcome,
    RequestRecord,
    TelemetryMiddleware,
    TraceContext,
    outcome_of,
    record_of,
)


def record(outcome: RequestOutcome | None = None, error_code: str | None = None) -> RequestRecord:
    return RequestRecord(
        request_id="r", trace=TraceContext.begin(), started=0.0, outcome=outcome, error_code=error_code
    )


@pytest.mark.parametrize(
    ("status", "error_code", "expected"),
    [
        (200, None, "ok"),
        (304, None, "ok"),
        (400, "invalid_request_error", "client_error"),
        (401, "invalid_api_key", "client_error"),
        (404, None, "client_error"),
        (413, "request_too_large", "client_error"),
        (429, "rate_limit_exceeded", "limited"),
        (503, "overloaded", "shed"),
        (502, "provider_error", "provider_error"),
        (504, "provider_timeout", "provider_error"),
        (504, "not_cached", "client_error"),
        (500, "internal_error", "server_error"),
        (501, None, "server_error"),
    ],
)
def test_the_outcome_of_a_complete_answer(status: int, error_code: str | None, expected: str) -> None:
    found = outcome_of(record(error_code=error_code), status, complete=True, client_left=False)
    assert found == expected


@pytest.mark.parametrize("status", [None, 200, 404, 503])
@pytest.mark.parametrize("claimed", [None, "ok"])
def test_an_answer_that_never_ended_is_not_ok(status: int | None, claimed: RequestOutcome | None) -> None:
    assert outcome_of(record(claimed), status, complete=False, client_left=False) == "server_error"
    assert outcome_of(record(claimed), status, complete=False, client_left=True) == "client_disconnect"


def test_an_answer_sent_to_nobody_is_not_ok() -> None:
    assert outcome_of(record(), 200, complete=True, client_left=True) == "client_disconnect"


def test_who_knows_better_is_believed() -> None:
    told = record("provider_error")
    assert outcome_of(told, 200, complete=True, client_left=False) == "provider_error"
    assert outcome_of(told, 200, complete=False, client_left=True) == "provider_error"


async def test_other_scopes_pass_untouched() -> None:
    seen: list[Any] = []

    async def app(*passed: Any) -> None:
        seen.extend(passed)

    scope, receive, send = {"type": "lifespan"}, object(), object()
    metrics = Metrics()
    await TelemetryMiddleware(app, Recorder(metrics))(scope, receive, send)  # type: ignore[arg-type]
    assert seen == [scope, receive, send]
    assert scope == {"type": "lifespan"}
    assert outcomes(metrics) == {}


async def test_a_cancelled_answer_is_counted_and_stays_cancelled() -> None:
    sending = asyncio.Event()

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sending.set()
        await asyncio.Event().wait()

    metrics = Metrics()
    task = asyncio.create_task(call(TelemetryMiddleware(app, Recorder(metrics))))
    await sending.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcomes(metrics) == {"server_error": 1}


async def test_two_traceparents_are_none() -> None:
    traces = []

    async def app(scope: Any, _: Any, __: Any) -> None:
        traces.append(record_of(scope).trace)

    first, second = "a" * 32, "b" * 32
    headers = [(b"traceparent", f"00-{each}-{'c' * 16}-01".encode()) for each in (first, second)]
    await call(TelemetryMiddleware(app, Recorder(Metrics())), headers=headers)
    assert traces[0].trace_id not in {first, second}
    assert traces[0].parent_id is None


async def test_ids_come_from_the_given_source() -> None:
    records = []

    async def app(scope: Any, _: Any, __: Any) -> None:
        records.append(record_of(scope))

    await call(TelemetryMiddleware(app, Recorder(Metrics(), random_bytes=lambda size: b"\x0a" * size)))
    assert records[0].request_id == "0a" * 16
    assert records[0].trace == TraceContext("0a" * 16, "0a" * 8, None, True)


async def call(app: TelemetryMiddleware, *, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        return

    scope: Any = {"type": "http", "method": "GET", "path": "/", "headers": headers or []}
    await app(scope, receive, send)


def outcomes(metrics: Metrics) -> dict[str, float]:
    families = metrics.registry.restricted_registry(["dub5_http_requests_total"]).collect()
    return {sample.labels["outcome"]: sample.value for family in families for sample in family.samples}
