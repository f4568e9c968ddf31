"""One record for each request, found through the ASGI scope."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from dub5.telemetry.metrics import Metrics
from dub5.telemetry.record import OTHER, Recorder, RequestRecord, TraceContext, record_of


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


WORDS = st.text(st.characters(codec="utf-8"), max_size=20)
SECONDS = st.floats(0, 1e6)
RECORDS = st.builds(
    RequestRecord,
    request_id=st.just("r-1"),
    trace=st.just(TraceContext.begin()),
    started=st.just(0.0),
    route=WORDS,
    model=WORDS,
    stream=st.booleans(),
    timings=st.dictionaries(st.sampled_from(["auth", "queue", "cache", "provider"]), SECONDS),
    **dict.fromkeys(["error_code", "tenant", "personality", "cache", "provider"], st.none() | WORDS),
    **dict.fromkeys(["prompt_tokens", "completion_tokens"], st.none() | st.integers(0, 2**40)),
    **dict.fromkeys(["leader_request_id", "leader_trace_id"], st.none() | WORDS),
)


@given(RECORDS, st.sampled_from([None, 200, 503]), SECONDS, st.none() | SECONDS)
def test_a_line_says_the_same_however_it_is_written(
    record: RequestRecord, status: int | None, duration: float, first_byte: float | None
) -> None:
    recorder, written = Recorder(Metrics()), list[bytes]()

    def finish() -> None:
        recorder.finish(record, "ok", status, duration, first_byte=first_byte, received=3, sent=5)

    with structlog.testing.capture_logs() as logs, pytest.MonkeyPatch.context() as patch:
        finish()
        patch.setattr("dub5.telemetry.record.json_lines", lambda: written.append)
        finish()
        finish()
    assert len(logs) == 1
    for line in written:
        assert line.endswith(b"}\n")
        fields = msgspec.json.decode(line)
        assert fields.pop("timestamp").endswith("Z")
        fields["log_level"] = fields.pop("level")
        assert fields == logs[0]
