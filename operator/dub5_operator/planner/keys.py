"""Which row of a table each key has: twelve bytes a key, where a dict of integers takes ninety."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Keys:
    """Rows are given in turn from 0 on; `keys` have the first ones, and no key is there twice."""

    def __init__(self, keys: Integers | None = None) -> None:
        keys = np.zeros(0, dtype=np.int64) if keys is None else keys
        self._rows = np.argsort(keys).astype(np.int32)
        self._sorted = keys[self._rows]

    def __len__(self) -> int:
        return len(self._sorted)

    def rows(self, keys: Integers) -> Integers:
        """Of each key; those that are new get one."""
        places = np.searchsorted(self._sorted, keys)
        known = places < len(self)
        known[known] = self._sorted[places[known]] == keys[known]
        if not known.all():
            self._add(distinct(keys[~known])[0])
            places = np.searchsorted(self._sorted, keys)
        return self._rows[places].astype(np.int64)

    def by_row(self) -> Integers:
        """All keys, each at its row."""
        keys = np.empty_like(self._sorted)
        keys[self._rows] = self._sorted
        return keys

    def _add(self, keys: Integers) -> None:
        both = np.concatenate([self._sorted, keys])
        order = np.argsort(both, kind="stable")
        rows = np.arange(len(self), len(both), dtype=np.int32)
        self._rows = np.concatenate([self._rows, rows])[order]
        self._sorted = both[order]


def distinct(numbers: Integers) -> tuple[Integers, Integers]:
    """Each number once, rising, and where each of `numbers` is among them: numpy's `unique` for small arrays, which
    takes five times as long for them."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    is_first = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    places = np.empty(len(ordered), dtype=np.int64)
    places[order] = np.cumsum(is_first) - 1
    return ordered[is_first], places
