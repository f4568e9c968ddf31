"""File descriptors and standard streams, as benchmarks.bounds.handles measures them."""

from __future__ import annotations

import pytest

from benchmarks.bounds import handles


async def test_with_256_descriptors_and_400_callers_each_is_answered_or_told() -> None:
    async with handles.provider() as url, handles.serving(url, handles.DESCRIPTORS) as service:
        figures = await handles.crowded(service)
    assert [figure.line() for figure in figures if not figure.good] == []


@pytest.mark.parametrize(
    ("out", "error", "no_input"),
    [
        ("full", "full", False),
        ("closed", "closed", True),
        ("unread", "unread", False),
        ("gone", "gone", False),
    ],
)
async def test_nothing_about_the_standard_streams_ends_or_stalls_the_service(
    out: str, error: str, no_input: bool
) -> None:
    assert await handles.with_streams(out, error, no_input) == "whole"
