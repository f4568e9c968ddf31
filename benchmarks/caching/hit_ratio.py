"""The memory cache against a plain LRU of the same bytes: Zipf 0.9 with one scan of cold keys in the middle.

The cache is the service's own LocalCache, the answers are of three sizes, and each miss is followed by a store,
as in the service. The LRU counts the same bytes for an entry. No I/O; a seed makes it repeatable.
"""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict
from collections.abc import Callable

from benchmarks.figures import Figure, progress
from dub5.cache.entry import Entry
from dub5.cache.flight import Identity
from dub5.cache.local import LocalCache

QUESTIONS, ACCESSES, SCAN, ZIPF, SEED = 50_000, 400_000, 20_000, 0.9, 1
CAPACITIES = (2 * 2**20, 8 * 2**20)
SIZES = (500, 2_000, 6_000)
"""Bytes of an answer's body; a question keeps its own."""

Cache = Callable[[int], bool]
"""Looks a question up, stores it where it is missing, and says whether it was there."""


def accesses() -> list[int]:
    """Questions by popularity; half-way SCAN others, asked once each."""
    chance = random.Random(SEED)
    weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, QUESTIONS + 1)))
    drawn = chance.choices(range(QUESTIONS), cum_weights=weights, k=ACCESSES)
    half = ACCESSES // 2
    return drawn[:half] + list(range(QUESTIONS, QUESTIONS + SCAN)) + drawn[half:]


def entry_of(question: int) -> Entry:
    return Entry(bytes(SIZES[question % len(SIZES)]), 0, 1.0, 0, 0)


def admission_aware(capacity: int) -> Cache:
    cache = LocalCache(capacity)

    def ask(question: int) -> bool:
        identity = Identity(str(question), "0")
        if cache.get(identity) is not None:
            return True
        cache.put(identity, entry_of(question), seconds=3600)
        return False

    return ask


def least_recently_used(capacity: int) -> Cache:
    held: OrderedDict[int, int] = OrderedDict()
    used = 0

    def ask(question: int) -> bool:
        nonlocal used
        if question in held:
            held.move_to_end(question)
            return True
        held[question] = entry_of(question).size()
        used += held[question]
        while used > capacity:
            used -= held.popitem(last=False)[1]
        return False

    return ask


def ratio(cache: Cache, questions: list[int]) -> tuple[float, float]:
    """Hits of all but the scan; and of the tenth that follows the scan, which suffers most."""
    half, after = ACCESSES // 2, ACCESSES // 10
    hits = [cache(question) for question in questions]
    wanted = hits[:half] + hits[half + SCAN :]
    return sum(wanted) / len(wanted), sum(wanted[half : half + after]) / after


async def measure() -> list[Figure]:
    questions, figures = accesses(), []
    for capacity in CAPACITIES:
        progress(f"hit ratio with {capacity >> 20} MiB")
        ours, lru = (
            ratio(admission_aware(capacity), questions),
            ratio(least_recently_used(capacity), questions),
        )
        measured = (
            f"{ours[0]:.1%} against {lru[0]:.1%}; in the {ACCESSES // 10:,} accesses after the scan "
            f"{ours[1]:.1%} against {lru[1]:.1%}"
        )
        what = f"L1 hit ratio, Zipf {ZIPF}, one scan of {SCAN:,} cold keys, {capacity >> 20} MiB, against LRU"
        figures.append(Figure(what, "better", measured, ours[0] > lru[0] and ours[1] > lru[1]))
    return figures
