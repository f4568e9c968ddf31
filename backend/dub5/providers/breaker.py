"""A provider, or a model there, that fails is left alone for a while: a circuit breaker, as a pure decision.

    closed --(share of failures in the window reaches the threshold)--> open
    open --(pause is over)--> half-open: one call may try
    half-open --(it succeeds)--> closed        half-open --(it fails)--> open, for twice as long

Time is an argument, in monotonic seconds. What counts as a failure, and whose, is decided by `health`. The shape is
that of M. Nygard, "Release It!", 2007; the share over a window, rather than failures in a row, keeps one slow stretch
among thousands of calls from opening it.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

State = Literal["closed", "half-open", "open"]

WINDOW = 10.0
FEWEST_CALLS = 5
"""Calls in the window before their failures mean anything."""
THRESHOLD = 0.5
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 30.0
PROBE_PATIENCE = 30.0
"""Seconds after which a probe that nobody reported on counts as lost, and another may try."""


class Breaker:
    """A provider's or a model's. `allows` before each call, then `succeeded`, `failed` or `abandoned`, once.

    Each of these is told when the call `began`: while the breaker is not closed, only calls since it opened count.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self.opened = float("-inf")
        self._open_until: float | None = None
        self._pause = FIRST_PAUSE
        self._probing_since: float | None = None

    def state(self, now: float) -> State:
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def retry_after(self, now: float) -> float:
        """Seconds until the next call may try; 0 where one may now."""
        return max(0.0, (self._open_until or now) - now)

    def would_allow(self, now: float) -> bool:
        """What `allows` would say."""
        state = self.state(now)
        if state != "half-open":
            return state == "closed"
        return self._probing_since is None or now - self._probing_since >= PROBE_PATIENCE

    def allows(self, now: float) -> bool:
        """Whether a call may be made; in half-open, that it is the one."""
        allowed = self.would_allow(now)
        if allowed and self._open_until is not None:
            self._probing_since = now
        return allowed

    def succeeded(self, began: float, now: float) -> None:
        if self._is_of_old(began):
            return
        if self._open_until is not None:
            self._open_until, self._probing_since, self._pause = None, None, FIRST_PAUSE
            self._calls.clear()
            self._failures = 0
        self._note(now, failed=False)

    def failed(self, began: float, now: float, *, pause: float | None = None) -> None:
        """`pause` is what the provider itself asked for (`Retry-After`): it is left alone for that long."""
        if self._is_of_old(began):
            if pause is not None:
                self._stay_open(now, pause)
            return
        if self._open_until is not None:
            self.trip(now, pause)
            return
        self._note(now, failed=True)
        calls = len(self._calls)
        if pause is not None or (calls >= FEWEST_CALLS and self._failures >= THRESHOLD * calls):
            self.trip(now, pause)

    def trip(self, now: float, pause: float | None = None) -> None:
        """Open it, also for what is known from elsewhere; where it was half-open, for twice as long as before."""
        if self._open_until is not None:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._stay_open(now, self._pause if pause is None else pause)
        self.opened = now
        self._probing_since = None

    def abandoned(self, began: float) -> None:
        """The call told nothing about whether it works, or nothing that is for this breaker to judge."""
        if not self._is_of_old(began):
            self._probing_since = None

    def _is_of_old(self, began: float) -> bool:
        """Whether the call began before the breaker opened: it tells nothing about whether the provider is back."""
        return self._open_until is not None and began < self.opened

    def _stay_open(self, now: float, pause: float) -> None:
        until = now + min(max(pause, 0.0), LONGEST_PAUSE)
        self._open_until = max(self._open_until or 0.0, until)

    def _note(self, now: float, *, failed: bool) -> None:
        self._calls.append((now, failed))
        self._failures += failed
        while self._calls[0][0] <= now - WINDOW:
            self._failures -= self._calls.popleft()[1]
