"""What people write in objects, and what they read there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dub5_operator.crd import Percentage, Size, invalidations_definition, policies_definition, seconds
from dub5_operator.handlers.invalidation import is_over, names
from dub5_operator.handlers.policy import share, size
from dub5_operator.planner.durations import written


@pytest.mark.parametrize(
    ("text", "value"),
    [("300ms", 0.3), ("5s", 5), ("1m", 60), ("1h30m", 5400), ("0.5h", 1800), ("24h", 86400)],
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "5", "soon", "1d", "-1s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        seconds(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4.5, "4.5s"),
        (61.6, "1m2s"),
        (600, "10m"),
        (9000, "2h30m"),
        (86400, "24h"),
        (59.99, "60s"),
        (3599.9, "1h"),
        (3637, "1h1m"),
    ],
)
def test_durations_are_written_for_people(value: float, text: str) -> None:
    assert written(value) == text


@given(st.floats(1, 1e6))
def test_what_is_written_is_near_enough(value: float) -> None:
    assert seconds(written(value)) == pytest.approx(value, rel=0.01)


def matches(kind: Any, text: str) -> bool:
    """Whether the API server takes it."""
    try:
        return bool(msgspec.convert(text, kind))
    except msgspec.ValidationError:
        return False


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5%", 0.005),
        ("0.50%", 0.005),
        ("0.10%", 0.001),
        ("0.0001%", 1e-6),
        ("0.00010%", 1e-6),
        ("1%", 0.01),
        ("1.50%", 0.015),
        ("99.9999%", 0.999999),
    ],
)
def test_shares(text: str, value: float) -> None:
    assert matches(Percentage, text)
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["0%", "0.0%", "0.00%", "0.0000%", "100%", "01%", "1", "-1%", "1.%", ".5%", ""]
)
def test_what_is_no_budget(text: str) -> None:
    assert not matches(Percentage, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("256Mi", 256 * 2**20),
        ("1.5Gi", 1.5 * 2**30),
        ("1Ti", 2**40),
        ("512M", 512e6),
        ("1000", 1000),
        ("3k", 3000),
    ],
)
def test_sizes_as_kubernetes_writes_quantities(text: str, value: float) -> None:
    assert matches(Size, text)
    assert size(text) == value


@pytest.mark.parametrize("text", ["", "lots", "-1Mi", "1.Mi", "1 Mi", "1MB", "1K"])
def test_what_is_no_size(text: str) -> None:
    assert not matches(Size, text)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"all": True}, ["all"]),
        ({"tenant": "acme"}, ["tenant:acme"]),
        ({"tags": ["a", "b"]}, ["tag:a", "tag:b"]),
        ({"tags": ["a"], "tenant": "acme"}, ["tag:a@acme"]),
        ({"class": "banter"}, ["class:banter"]),
        ({"model": "small"}, ["model:small"]),
        ({"personality": "pirate", "tenant": "acme"}, ["personality:pirate@acme"]),
    ],
)
def test_what_an_invalidation_forgets(spec: dict[str, object], expected: list[str]) -> None:
    assert names(spec) == expected


@pytest.mark.parametrize("tag", ["doc-17,prices", "prices ", "größe", "a" * 65])
def test_a_tag_that_no_answer_can_have_is_refused(tag: str) -> None:
    """To purge it would do nothing, and be done."""
    with pytest.raises(msgspec.ValidationError, match="tags"):
        names({"tags": [tag]})


def test_what_a_release_before_this_one_has_done_is_cleared_all_the_same() -> None:
    spec, status = {"tags": ["a,b"], "ttlSecondsAfterFinished": 60}, {"done": "2026-01-01T00:00:00Z"}
    done = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert [is_over(spec, status, done + passed) for passed in (59, 60)] == [False, True]


def test_the_definitions_are_kept_when_the_chart_goes() -> None:
    for definition in map(yaml.safe_load, (policies_definition(), invalidations_definition())):
        assert definition["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        assert definition["spec"]["scope"] == "Namespaced"
