"""L1: answers in this replica's memory, bounded in bytes.

Moka's W-TinyLFU admits an answer only where it is likelier to be asked for again than what it would push
out, so that a scan of questions asked once does not evict the hot ones. Calls into it take well under a
microsecond and hold no lock across an await.
"""

from __future__ import annotations

import time

import msgspec
from moka_py import Moka

from dub5.cache.entry import Entry
from dub5.cache.flight import Identity


class Held(msgspec.Struct, frozen=True, gc=False):
    """An entry, and since when we hold it (monotonic seconds)."""

    entry: Entry
    since: float


class LocalCache:
    """Entries by identity; `capacity` in bytes."""

    def __init__(self, capacity: int) -> None:
        self._held: Moka[tuple[str, str], Held] = Moka(max(capacity, 1), weigher=_weight)

    def get(self, identity: Identity) -> Held | None:
        return self._held.get((identity.key, identity.version))

    def put(self, identity: Identity, entry: Entry, *, seconds: float) -> None:
        """Keep for at most `seconds`; may be refused or evicted earlier."""
        self._held.set((identity.key, identity.version), Held(entry, time.monotonic()), ttl=seconds)

    def count(self) -> int:
        self._held.run_pending_tasks()
        return self._held.count()

    def bytes(self) -> int:
        self._held.run_pending_tasks()
        return self._held.weighted_size()


def _weight(_: tuple[str, str], held: Held) -> int:
    return held.entry.size()
