"""The simulation beside runs on a real cluster: docs/reports/cluster.md says how those were made.

They are of a release whose answers did not yet ask connections to leave full replicas
(docs/adr/0019-connections-leave-full-replicas.md), hence `leave_full`. The moment at which the autoscaler looked is in
the second one: that of its first change. The rest is left to chance, so all seeds have to agree.
"""

from __future__ import annotations

from typing import Any

import pytest

from dub5.advisor import sources
from dub5.advisor.record import Cluster, Connections, Header, Mix, Pace
from dub5.advisor.simulation import simulate
from dub5.advisor.summary import agreement
from dub5.advisor.values import of_values
from testkit.places import ROOT

SMALL = {
    "config": {
        "admission": {"max_inflight": 10, "max_queued": 200, "queue_timeout": "30s"},
        "server": {"max_stream": "60s"},
    }
}
QUICKLY = {
    "autoscaling": {
        "minReplicas": 1,
        "maxReplicas": 6,
        "behavior": {
            "scaleDown": {
                "stabilizationWindowSeconds": 15,
                "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
            }
        },
    }
}
STREAM = Mix(service=[(0.0, 5.25), (1.0, 5.35)])
"""Half a second, and twenty pieces with a quarter of a second between."""


@pytest.mark.parametrize(
    ("run", "values", "pace"),
    [
        ("cluster-quick", QUICKLY, Pace(scrape=2.0, sync=2.03)),
        ("cluster-defaults", {}, Pace(scrape=15.0, sync=15.03, synced=10.4)),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_replicas_go_as_they_went(run: str, values: dict[str, Any], pace: Pace, seed: int) -> None:
    def header(began: float, seconds: float) -> Header:
        return Header(
            source=run,
            began=began,
            seconds=seconds,
            pace=pace,
            cluster=Cluster(replicas=1, starts=(2.0, 3.0, 4.0)),
            connections=Connections(leave_full=False, again=0.2),
        )

    record = sources.of_run(ROOT / f"docs/reports/{run}.csv", header, STREAM)
    outcome = simulate(record, of_values(SMALL, values), seed=seed)
    compared = agreement(record, outcome)
    assert compared is not None
    assert compared.wanted_error is not None
    assert compared.ready_error is not None
    assert compared.wanted_within_one is not None
    assert compared.ready_within_one is not None
    assert abs(compared.wanted_error) <= 0.05
    assert abs(compared.ready_error) <= 0.05
    assert compared.wanted_within_one >= 0.95
    assert compared.ready_within_one >= 0.95
    assert (outcome.refused, outcome.cut) == (0, 0)
