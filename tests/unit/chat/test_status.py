"""`Cache-Status` as the contract spells it."""

from __future__ import annotations

import pytest

from dub5.cache.flights import CacheStatus


@pytest.mark.parametrize(
    ("status", "header"),
    [
        (CacheStatus(hit=True, ttl=37.9, detail="local"), "dub5; hit; ttl=37; detail=local"),
        (
            CacheStatus(hit=True, ttl=-11.2, detail="stale-while-revalidate"),
            "dub5; hit; ttl=-12; detail=stale-while-revalidate",
        ),
        (CacheStatus(fwd="uri-miss", stored=True), "dub5; fwd=uri-miss; stored"),
        (CacheStatus(fwd="bypass", detail="temperature"), "dub5; fwd=bypass; detail=temperature"),
    ],
)
def test_the_header_reads_as_the_contract_says(status: CacheStatus, header: str) -> None:
    assert str(status) == header
