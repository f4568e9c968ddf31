"""Asking again behind a hit: because the answer is stale, soon will be, or to measure whether it still holds.

Nobody waits for it, so it takes no place in the gate that a request wants, and what it notes goes into a record
of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from dub5.cache.answers import AnswerCache, Found, Wanted
from dub5.cache.entry import Entry
from dub5.cache.flights import Flights
from dub5.cache.freshness import State, refresh_early
from dub5.cache.samples import Sampler
from dub5.chat.asking import Asking, Keeping, Means
from dub5.chat.question import Question

COOLDOWN = 10.0
"""Seconds without another try after a refresh failed."""


class Refreshing:
    """`chance` is uniform in [0, 1)."""

    def __init__(
        self,
        cache: AnswerCache,
        flights: Flights,
        means: Means,
        sampler: Sampler | None,
        chance: Callable[[], float],
    ) -> None:
        self._cache = cache
        self._flights = flights
        self._means = means
        self._sampler = sampler
        self._chance = chance

    def after_hit(self, question: Question, found: Found) -> None:
        """Have the answer that was just served fetched anew, where that is due."""
        wanted = question.wanted
        if wanted is None:
            return
        if self._due(found, wanted):
            self._refresh(question, wanted, found.entry)
        elif (
            found.freshness.state is State.FRESH
            and self._sampler is not None
            and self._sampler.spend_re_ask()
        ):
            self._ask_again(question, wanted, found.entry)

    def _due(self, found: Found, wanted: Wanted) -> bool:
        fresh = found.freshness
        if fresh.state is not State.FRESH:
            return fresh.state is State.REVALIDATE
        chance = 1.0 - self._chance()  # in (0, 1], as its logarithm is taken
        return refresh_early(
            ttl=fresh.ttl, recompute=found.entry.recompute, lifetimes=wanted.lifetimes, chance=chance
        )

    def _refresh(self, question: Question, wanted: Wanted, entry: Entry) -> None:
        """Once across all replicas."""
        identity = self._cache.identity(wanted)
        self._flights.refresh(
            identity,
            self._asking(question, Keeping(self._cache, identity, self._sampler)).lead,
            lambda: self._cache.stored(identity, wanted.lifetimes),
            seen=entry.born,
            cooldown=COOLDOWN,
            asker=question.asker,
        )

    def _ask_again(self, question: Question, wanted: Wanted, entry: Entry) -> None:
        """Only to compare; never an answer that belongs to one user."""
        if question.target.cache_class.share != "user":
            identity = self._cache.identity(wanted)
            keeping = Keeping(self._cache, identity, self._sampler, compared_with=entry)
            self._flights.background(self._asking(question, keeping).lead)

    def _asking(self, question: Question, keeping: Keeping) -> Asking:
        record = msgspec.structs.replace(question.record, timings={})
        detached = msgspec.structs.replace(question, record=record, deadline=None)
        return Asking(detached, keeping, self._means, background=True)
