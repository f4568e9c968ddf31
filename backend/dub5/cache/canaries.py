"""Which hits are asked again to measure how many are stale: a fair draw, within a share of the calls to providers.

Every hit of a class is drawn with the same probability at a time: the calls that may be spent, by the hits that came.
The probability moves with both, so each canary says how many hits it stands for, and what is counted with these weights
is counted as if every hit were asked again (Horvitz and Thompson, "A generalization of sampling without replacement
from a finite universe", 1952). An account keeps to the share whatever comes: each call to a provider pays in, each
canary takes out what it may cost, and is given back what it did not. By what they have cost of late the probability is
chosen: most take one call, so that by the greatest cost half of the share would stay unspent.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec

from dub5.contract import CANARIES_CHECKED

HALF_LIFE = 3600.0
"""Seconds after which a call or a hit counts half."""
_COST = 2.0
"""Calls for a canary, at most."""
_KNOWN = 5.0
"""Canaries as many as which the most that one may cost counts."""
_AIM = 0.8
"""Of what may be spent, so that a draw seldom finds nothing left: such a one is not fair."""
_MOST_SAVED = 1000.0
"""Calls that may be saved up, for times with more hits than usual."""


class _Account(msgspec.Struct):
    """Of one class: calls, hits, canaries and what these have cost of late, and calls that may be spent."""

    calls: float = 0.0
    hits: float = 0.0
    drawn: float = 0.0
    spent: float = 0.0
    left: float = 0.0

    @property
    def cost(self) -> float:
        """Calls for a canary, on average; the most while little is known."""
        return (_COST * _KNOWN + self.spent) / (_KNOWN + self.drawn)


class Canaries:
    """Of one replica, by class. A `share` is one of calls to providers."""

    def __init__(self) -> None:
        self._accounts: defaultdict[str, _Account] = defaultdict(_Account)

    def called(self, class_name: str, share: float) -> None:
        """A provider was called for an answer of that class."""
        account = self._accounts[class_name]
        account.calls += 1
        account.left = min(account.left + share, _MOST_SAVED)

    def draw(self, class_name: str, share: float, chance: float) -> float:
        """For how many hits this one stands, 0 where it is not drawn. `chance` is uniform in [0, 1)."""
        account = self._accounts[class_name]
        account.hits += 1
        probability = min(1.0, _AIM * share * account.calls / account.hits / account.cost)
        if chance >= probability or account.left < _COST:
            return 0.0
        account.left -= _COST
        account.drawn += 1
        account.spent += _COST
        return 1.0 / probability

    def check(self, class_name: str, chance: float, *, changed: bool) -> bool:
        """Whether to ask once more for one that was drawn, to tell what differs anyway."""
        checked = changed or chance < CANARIES_CHECKED
        if not checked:
            self._accounts[class_name].left += 1.0
            self._accounts[class_name].spent -= 1.0
        return checked

    def fade(self, seconds: float) -> None:
        """So much time has passed."""
        kept = 0.5 ** (seconds / HALF_LIFE)
        for account in self._accounts.values():
            account.calls *= kept
            account.hits *= kept
            account.drawn *= kept
            account.spent *= kept
