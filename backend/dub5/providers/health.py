"""What this replica knows of one provider, from its own calls: whether to ask it now, and how much at once."""

from __future__ import annotations

from typing import Literal

from dub5.providers.breaker import Breaker
from dub5.providers.concurrency import ConcurrencyLimit, Ending

Outcome = Literal["ok", "error", "timeout", "limited", "refused", "cancelled"]
"""How a call ended. `limited`: the provider asked for fewer calls (429); `refused`: the caller's error."""

_ENDINGS: dict[Outcome, Ending] = {"ok": "well", "timeout": "pushed back", "limited": "pushed back"}

UNLIMITED = 1_000_000
"""Calls at once to a provider that has no connection pool."""


class Health:
    """One provider's, shared by all models that it serves. Each call is told to it once, when it has ended."""

    def __init__(self, most: int = UNLIMITED) -> None:
        self.breaker = Breaker()
        self.concurrency = ConcurrencyLimit(most)

    def try_enter(self, now: float) -> bool:
        """Take a place for a call, where one may begin now.

        The call that tries whether the provider is back needs no free place: those that still run since before it
        broke may hold more than there are now.
        """
        if self.breaker.state(now) == "closed":
            return self.concurrency.try_enter()
        if not self.breaker.allows(now):
            return False
        self.concurrency.enter_anyway()
        return True

    def worked(self, *, began: float, now: float) -> None:
        """The first chunk of a stream is here; should it break off later, that is a failure of its own."""
        self.breaker.succeeded(began, now)

    def ended(self, outcome: Outcome, *, began: float, now: float, worked: bool, pause: float | None) -> None:
        """`worked`: it was told so before. `pause`: seconds for which the provider asked to be left alone."""
        self.concurrency.left(_ENDINGS.get(outcome, "otherwise"), began=began, now=now)
        if outcome in {"error", "timeout", "limited"}:
            self.breaker.failed(began, now, pause=pause)
        elif worked:
            return
        elif outcome == "cancelled":
            self.breaker.abandoned(began)
        else:  # ok, or a refusal of the request, which only a working provider can give
            self.breaker.succeeded(began, now)
