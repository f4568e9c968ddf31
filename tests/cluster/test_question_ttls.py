"""The operator on a cluster where some answers change 25 times as fast as others: each question has a TTL of its own,
and what the operator says of hits and staleness is what clients see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pytest

from testkit.cluster.kube import eventually
from testkit.cluster.release import Release
from testkit.cluster.stage import Stage
from testkit.provider import period
from tests.cluster.asking import Asking, clients, conditions, status, ticker_policy, ticker_values

pytestmark = pytest.mark.usefixtures("no_definitions")

EVERY, DIFFER = 60.0, 5.0
BUDGET = 0.05
POLICY = ticker_policy(BUDGET, canary="1%")


@pytest.fixture(scope="module")
def asking(release: Release, stage: Stage) -> Iterator[Asking]:
    stage.pace(first_token=0.01, between=0.0, tokens=5, changes_every=EVERY, changes_differ=DIFFER)
    release.install(ticker_values(ttl=10))
    release.kubectl("apply", "-f", "-", stdin=json.dumps(POLICY))
    with clients(release, stage, "ticker") as asking:
        yield asking
    stage.pace(changes_every=0.0, changes_differ=1.0)
    release.kubectl("delete", "cachepolicy", "ticker", "--timeout=60s")


@dataclass(frozen=True)
class Look:
    """What clients had seen by then, and what the operator said."""

    seen: dict[str, Any]
    said: dict[str, Any]

    @property
    def measured_hits(self) -> float:
        """Of all look-ups that the operator knows of."""
        return share(self.said["measuredHitRatio"]) * float(self.said["lookUps"])


def share(written: str) -> float:
    return float(written.rstrip("%")) / 100


def test_the_operator_says_what_clients_see(release: Release, asking: Asking) -> None:
    """Of the same time: its hit ratio is that of all look-ups since it reads samples, also of those before the policy,
    so it is taken from how much more look-ups and hits it knows of at the end than at the beginning."""

    def has_settled() -> bool:
        reported = status(release)
        return conditions(reported).get("DataSufficient") == "True" and reported["reason"] != "on its way"

    eventually(has_settled, "a TTL that the budget allows", timeout=300)
    # With that TTLs become others at once, while what is said is some seconds old.
    compared = status(release)["comparisons"] + 500
    eventually(lambda: status(release)["comparisons"] >= compared, f"{compared} comparisons", timeout=300)
    looks: list[Look] = []

    def since() -> dict[str, int]:
        looks.append(Look(dict(asking.seen), status(release)))
        return asking.since(looks[0].seen)

    eventually(lambda: since()["hits"] >= 2500, "2500 hits", timeout=300)
    first, last = looks[0], looks[-1]
    seen = {name: last.seen[name] - first.seen[name] for name in ("hits", "stale", "misses", "failed")}
    hits, stale = seen["hits"] / (seen["hits"] + seen["misses"]), seen["stale"] / seen["hits"]
    told_hits = (last.measured_hits - first.measured_hits) / (last.said["lookUps"] - first.said["lookUps"])
    told_stale = fmean(share(look.said["stale"]) for look in looks)
    both = f"seen: {hits:.3f} hits, {stale:.3f} of them stale; said: {told_hits:.3f}, {told_stale:.3f}; {looks[::40]}"
    assert seen["failed"] == 0, asking.seen
    assert abs(told_hits - hits) <= 0.02, both
    assert abs(told_stale - stale) <= 0.02, both
    assert 0 < stale <= 1.5 * BUDGET, both


def test_what_changes_slowly_is_fetched_less_often(asking: Asking) -> None:
    """By now a question was compared some dozen times."""
    before = dict(asking.seen)
    eventually(lambda: asking.since(before)["hits"] >= 1000, f"hits: {asking.seen}", timeout=300)
    missed = {name: count - before["missed"].get(name, 0) for name, count in asking.seen["missed"].items()}
    by_pace = sorted(missed, key=lambda question: period(question, EVERY, DIFFER))
    third = len(by_pace) // 3
    fast, slow = (sum(missed[name] for name in part) for part in (by_pace[:third], by_pace[-third:]))
    assert slow < 0.75 * fast, missed
