"""Samples of one class as numbers in a row, which take a quarter of what the objects take: a backlog holds many."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dub5.contract import Access, Verdict

Floats = NDArray[np.float64]


class Lookups:
    """In the order in which they came."""

    KEY, AT, HIT, SIZE, DOLLARS, THRESHOLD, TTL, JOINED = range(8)

    def __init__(self, accesses: Iterable[Access] = ()) -> None:
        self._numbers = array("d")
        for access in accesses:
            self.add(access)

    @classmethod
    def of(cls, columns: Floats) -> Lookups:
        """Of what `columns` gave."""
        lookups = cls()
        lookups._numbers.frombytes(columns.T.tobytes())
        return lookups

    def __len__(self) -> int:
        return len(self._numbers) // 8

    def add(self, access: Access) -> None:
        ttl, joined = access.ttl, access.joined
        self._numbers.extend(
            (
                access.key,
                access.at,
                access.hit,
                access.size,
                access.dollars,
                access.threshold,
                math.nan if ttl is None else ttl,
                math.nan if joined is None else joined,
            )
        )

    def columns(self) -> Floats:
        """Shape (8, n), a copy. TTL and JOINED are NaN where it was not said."""
        return np.ascontiguousarray(np.array(self._numbers).reshape(-1, 8).T)


class Verdicts:
    """In the order in which they came; of which class is not kept."""

    def __init__(self) -> None:
        self._numbers = array("d")

    def __len__(self) -> int:
        return len(self._numbers) // 6

    def __iter__(self) -> Iterator[Verdict]:
        rows = np.array(self._numbers).reshape(-1, 6).tolist()
        for key, fetched, again, changed, hits, refetched in rows:
            source: Literal["refetch", "re-ask"] = "refetch" if refetched else "re-ask"
            yield Verdict(int(key), "", fetched, again, bool(changed), int(hits), source)

    def add(self, verdict: Verdict) -> None:
        refetched = verdict.source == "refetch"
        self._numbers.extend(
            (verdict.key, verdict.fetched, verdict.again, verdict.changed, verdict.hits, refetched)
        )
