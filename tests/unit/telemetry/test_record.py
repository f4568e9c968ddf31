"""One record for each request, found through the ASGI scope."""

from __future__ import annotations

from typing import Any

from dub5.telemetry.record import OTHER, RequestRecord, TraceContext, record_of


def test_the_record_that_was_kept_is_found() -> None:
    record = RequestRecord(request_id="r-1", trace=TraceContext.begin(), started=0.0)
    scope: Any = {"type": "http", "dub5.record": record}
    assert record_of(scope) is record


def test_without_a_middleware_there_is_one_all_the_same() -> None:
    scope: Any = {"type": "http"}
    record = record_of(scope)
    record.error_code = "not_found"
    assert record_of(scope).error_code == "not_found"
    assert record.request_id == record.trace.trace_id


def test_labels_are_bounded_until_somebody_knows_better() -> None:
    record = RequestRecord(request_id="r-1", trace=TraceContext.begin(), started=0.0)
    assert (record.route, record.method, record.model) == (OTHER, OTHER, OTHER)


def test_records_do_not_share_timings() -> None:
    first, second = record_of(scope()), record_of(scope())
    first.timings["auth"] = 1.0
    assert second.timings == {}


def scope() -> Any:
    return {"type": "http"}
