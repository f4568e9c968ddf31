"""L1 holds what it is given, within its bytes."""

from __future__ import annotations

from dub5.cache.entry import Entry
from dub5.cache.local import LocalCache


def entry(size: int) -> Entry:
    return Entry(b"x" * size, 0, 0.0, 0, 0)


def test_an_entry_is_found_until_it_is_removed() -> None:
    cache = LocalCache(10_000)
    cache.put("k", entry(10), seconds=60)
    assert cache.get("k") == entry(10)
    cache.remove("k")
    assert cache.get("k") is None


def test_memory_stays_within_the_bound_whatever_is_put_in() -> None:
    cache = LocalCache(100_000)
    for number in range(2_000):
        cache.put(f"key-{number}", entry(1_000), seconds=60)
    assert 0 < cache.bytes() <= 100_000
    assert 0 < cache.count() <= 100


def test_a_scan_of_cold_keys_does_not_evict_the_hot_ones() -> None:
    cache = LocalCache(100_000)
    hot = [f"hot-{number}" for number in range(70)]
    for _ in range(20):
        for key in hot:
            if cache.get(key) is None:
                cache.put(key, entry(1_000), seconds=60)
    for number in range(2_000):
        key = f"cold-{number}"
        if cache.get(key) is None:
            cache.put(key, entry(1_000), seconds=60)
    assert sum(cache.get(key) is not None for key in hot) >= 60
