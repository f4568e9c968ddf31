"""What replicas and the operator say to each other of single questions, as other releases and damage have it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from dub5.cache.store import read_noise, read_record
from dub5.contract import (
    MOST_RECORD,
    ClassPolicy,
    PolicyDocument,
    QuestionNoise,
    QuestionPolicy,
    QuestionRecord,
    Undecodable,
    decode,
)

POLICY: dict[str, Any] = {
    "cost": 0.02,
    "change": [1.0, 3600.0],
    "noise": [1.0, 50.0],
    "requests": [1.0, 600.0],
    "shortest": 5.0,
    "longest": 86400.0,
    "stale": 0.03,
}
documents = msgspec.json.Decoder(PolicyDocument)


def read(**question: Any) -> QuestionPolicy:
    stored = {"version": 1, "issued": 1.0, "classes": {"a": {"ttl": 60, "question": {**POLICY, **question}}}}
    document = decode(documents, msgspec.json.encode(stored), most=10_000)
    found = document.classes["a"].question
    assert found is not None
    return found


def test_a_document_of_an_older_release_has_one_ttl_for_all() -> None:
    document = decode(documents, b'{"version": 1, "issued": 1.0, "classes": {"a": {"ttl": 60}}}', most=100)
    assert document.classes == {"a": ClassPolicy(60.0)}


def test_what_a_newer_release_adds_is_ignored() -> None:
    assert read(weather="fine") == read()
    assert read() == QuestionPolicy(0.02, (1, 3600), (1, 50), (1, 600), 5, 86400, 0.03)


@pytest.mark.parametrize(
    "insane",
    [
        {"cost": -1.0},
        {"cost": 1e9},
        {"change": [0.0, 3600.0]},
        {"change": [1.0]},
        {"noise": [1.0, -1.0]},
        {"requests": [1.0, 0.0]},
        {"requests": None},
        {"shortest": -1.0},
        {"longest": 1e12},
        {"stale": 1.5},
        {"hazard": 0.0},
        {"hazard": 1e9},
        {"changed_at": -1.0},
        {"changed_share": 2.0},
    ],
    ids=str,
)
def test_insane_numbers_are_refused(insane: dict[str, Any]) -> None:
    with pytest.raises(Undecodable):
        read(**insane)


RECORD = QuestionRecord(1.5, 3600.0, 2.0, 0.5, 12.0, 7200.0, 1.7e9 + 0.1)
NOISE = QuestionNoise(1.5, 3600.0, 0.5, 60.0, 3.0, -2.5)
readings = pytest.mark.parametrize(
    ("reading", "known"), [(read_record, RECORD), (read_noise, NOISE)], ids=["record", "noise"]
)


@readings
def test_what_is_known_is_read_as_it_was_written_and_takes_no_more_than_it_may(
    reading: Callable[[bytes], object], known: object
) -> None:
    written = msgspec.msgpack.encode(known)
    assert len(written) <= MOST_RECORD
    assert reading(written) == known


@readings
@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xc1",
        b"x" * 1000,
        msgspec.msgpack.encode([1.0] * 5),
        msgspec.msgpack.encode([*[1.0] * 5, math.nan]),
        msgspec.msgpack.encode([math.inf, *[1.0] * 6]),
        msgspec.msgpack.encode([-1.0, *[1.0] * 6]),
        msgspec.msgpack.encode({"changes": 1.0}),
    ],
    ids=lambda garbage: repr(garbage[:8]),
)
def test_what_is_none_of_ours_is_not_read(
    reading: Callable[[bytes], object], known: object, garbage: bytes
) -> None:
    assert reading(msgspec.msgpack.encode(known)) == known
    with pytest.raises(Undecodable):
        reading(garbage)
