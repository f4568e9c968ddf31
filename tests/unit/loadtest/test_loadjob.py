"""`make loadtest` in a cluster: which replicas its figures are of."""

from __future__ import annotations

import re

import pytest

from testkit.cluster.loadjob import replicas
from tests.unit.chart.support import Json, render


@pytest.mark.parametrize(
    ("values", "own"),
    [({}, "dub5"), ({"fullnameOverride": "chat"}, "chat"), ({"operator": {"enabled": True}}, "dub5")],
)
def test_they_are_those_of_the_release_alone(values: Json, own: str) -> None:
    selector = replicas(list(render(values).objects.values()), "talk")
    found = re.fullmatch(r'namespace="talk",pod=~"(.+)"', selector)
    assert found
    for pod in (f"{own}-6f7d9c8b5d-x2v4q", f"{own}-5d8f-abcde"):
        assert re.fullmatch(found[1], pod)
    others = ("operator-6f7d9c8b5d-x2v4q", "next-6f7d9c8b5d-x2v4q", "redis-0", "loadtest-1a2b3c4d-x2v4q")
    for pod in (*(f"{own}-{other}" for other in others), f"other-{own}-6f7d9c8b5d-x2v4q"):
        assert not re.fullmatch(found[1], pod), pod
