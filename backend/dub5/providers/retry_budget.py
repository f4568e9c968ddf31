"""Calls that are made again must not become the load that keeps a provider down: at most a tenth of all calls.

Each call earns a tenth of a retry or hedge; a few can be saved up, so the share holds over any stretch of time but
for those. Asking *another* provider after a failure is no retry: it adds nothing to what failed.
"""

from __future__ import annotations

SHARE = 0.1
SAVED = 10.0
"""Retries that can be saved up."""


class RetryBudget:
    """One model's: of all its calls, whoever is asked."""

    def __init__(self) -> None:
        self._balance = 0.0

    def called(self) -> None:
        self._balance = min(self._balance + SHARE, SAVED)

    def spend(self) -> bool:
        """Whether there is one more; then it is spent."""
        if self._balance < 1.0 - 1e-9:  # ten times a tenth is a little less than one
            return False
        self._balance -= 1.0
        return True
