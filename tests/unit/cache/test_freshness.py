"""Request directives and the decision that they lead to."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.cache.freshness import Directives, judge
from dub5.errors import InvalidRequest


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", Directives()),
        ("no-store", Directives(no_store=True)),
        ("No-Cache, max-age=0", Directives(no_cache=True, max_age=0)),
        ("only-if-cached,max-age = 30", Directives(only_if_cached=True, max_age=30)),
        ('min-fresh="5"', Directives(min_fresh=5)),
        ('private="a, b", foo=bar, immutable', Directives()),
    ],
)
def test_directives_are_read(header: str, expected: Directives) -> None:
    assert Directives.parse(header) == expected


@pytest.mark.parametrize(
    "header", ["max-age=soon", "max-age", "min-fresh=-1", "max-age=1e9", "=", "a b c", 'max-age="']
)
def test_malformed_directives_name_the_header(header: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Directives.parse(header)
    assert caught.value.param == "Cache-Control"


@given(st.text(max_size=40))
def test_any_header_is_read_or_refused(header: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(Directives.parse(header), Directives)


@pytest.mark.parametrize(
    ("age", "asked", "usable"),
    [
        (0.0, Directives(), True),
        (59.9, Directives(), True),
        (60.0, Directives(), False),
        (30.0, Directives(max_age=30), True),
        (30.1, Directives(max_age=30), False),
        (10.0, Directives(min_fresh=50), False),
        (9.0, Directives(min_fresh=50), True),
        (0.0, Directives(no_cache=True), False),
    ],
)
def test_freshness_at_a_lifetime_of_a_minute(age: float, asked: Directives, usable: bool) -> None:
    fresh = judge(age=age, lifetime=60.0, asked=asked)
    assert fresh.usable is usable
    assert fresh.ttl == 60.0 - age
