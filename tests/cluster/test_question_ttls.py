"""The operator on a cluster where some answers change 25 times as fast as others: each question has a TTL of its own,
and what the operator says of hits and staleness is what clients see."""

from __future__ import annotations

import json
from collections.abc import Iterator

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


def share(written: str) -> float:
    return float(written.rstrip("%")) / 100


def test_the_operator_says_what_clients_see(release: Release, asking: Asking) -> None:
    def has_settled() -> bool:
        reported = status(release)
        return conditions(reported).get("DataSufficient") == "True" and reported["reason"] != "on its way"

    eventually(has_settled, "a TTL that the budget allows", timeout=300)
    before = dict(asking.seen)
    eventually(lambda: asking.since(before)["hits"] >= 2000, f"hits: {asking.seen}", timeout=300)

    def agrees() -> bool:
        seen, said = asking.since(before), status(release)
        hits, stale = seen["hits"] / (seen["hits"] + seen["misses"]), seen["stale"] / seen["hits"]
        told = share(said["measuredHitRatio"]), share(said["stale"])
        return abs(told[0] - hits) <= 0.02 and abs(told[1] - stale) <= 0.02

    eventually(agrees, f"{asking.seen} is what it says", timeout=120)
    seen = asking.since(before)
    assert seen["failed"] == 0, asking.seen
    assert 0 < seen["stale"] / seen["hits"] <= 1.5 * BUDGET, seen


def test_what_changes_slowly_is_fetched_less_often(asking: Asking) -> None:
    """By now a question was compared some dozen times."""
    before = dict(asking.seen)
    eventually(lambda: asking.since(before)["hits"] >= 2000, f"hits: {asking.seen}", timeout=300)
    missed = {name: count - before["missed"].get(name, 0) for name, count in asking.seen["missed"].items()}
    by_pace = sorted(missed, key=lambda question: period(question, EVERY, DIFFER))
    third = len(by_pace) // 3
    fast, slow = (sum(missed[name] for name in part) for part in (by_pace[:third], by_pace[-third:]))
    assert slow < 0.75 * fast, missed
