"""L1 holds what it is given, within its bytes."""

from __future__ import annotations

import time

from dub5.cache.store import BESIDE_BODY, Entry, Identity, LocalCache


def entry(size: int) -> Entry:
    return Entry(b"x" * size, 0, 0.0, 0, 0)


def identity(key: str, version: str = "v") -> Identity:
    return Identity(key, version)


def test_an_entry_is_found_under_its_own_identity_only() -> None:
    cache = LocalCache(10_000)
    before = time.monotonic()
    cache.put(identity("k"), entry(10), seconds=60)
    held = cache.get(identity("k"))
    assert held is not None
    assert held.entry == entry(10)
    assert before <= held.since <= time.monotonic()
    assert cache.get(identity("other")) is None
    assert cache.get(identity("k", "after a purge")) is None


def test_the_newest_entry_of_an_identity_replaces_the_former() -> None:
    cache = LocalCache(10_000)
    cache.put(identity("k"), entry(10), seconds=60)
    cache.put(identity("k"), entry(20), seconds=60)
    held = cache.get(identity("k"))
    assert held is not None
    assert held.entry == entry(20)
    assert cache.count() == 1
    assert cache.bytes() == len(entry(20).body) + BESIDE_BODY


def test_memory_stays_within_the_bound_whatever_is_put_in() -> None:
    cache = LocalCache(100_000)
    for number in range(2_000):
        cache.put(identity(f"key-{number}"), entry(1_000), seconds=60)
    assert 0 < cache.bytes() <= 100_000
    assert 0 < cache.count() <= 100


def test_a_cache_without_room_holds_nothing_and_does_not_fail() -> None:
    cache = LocalCache(0)
    cache.put(identity("k"), entry(1), seconds=60)
    assert cache.count() == 0
    assert cache.bytes() == 0


def test_a_scan_of_cold_keys_does_not_evict_the_hot_ones() -> None:
    cache = LocalCache(100_000)
    hot = [identity(f"hot-{number}") for number in range(70)]
    for _ in range(20):
        for key in hot:
            if cache.get(key) is None:
                cache.put(key, entry(1_000), seconds=60)
    for number in range(2_000):
        key = identity(f"cold-{number}")
        if cache.get(key) is None:
            cache.put(key, entry(1_000), seconds=60)
    assert sum(cache.get(key) is not None for key in hot) >= 60
