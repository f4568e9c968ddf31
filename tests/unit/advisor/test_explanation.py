"""Each step of a decision that mattered gets its sentence, with the figures that it went by."""

from __future__ import annotations

from typing import Any

import pytest

from dub5.advisor.explanation import words
from dub5.advisor.hpa import Autoscaler, Decision
from dub5.advisor.hpa_metrics import Pod, Sample
from dub5.advisor.hpa_spec import read_spec
from dub5.advisor.values import of_values


def decided(*turns: tuple[int, list[float | None]], **changes: Any) -> tuple[Decision, str]:
    """The last of some turns, one each 15 s: replicas, and the demand of each pod, None where it has no figure."""
    values = of_values({"autoscaling": {"minReplicas": 2, **changes}})
    autoscaler = Autoscaler(read_spec(values.autoscaler()))
    decision = None
    for turn, (replicas, demands) in enumerate(turns):
        pods = [Pod(name=str(index)) for index in range(len(demands))]
        samples = {
            str(index): Sample(int(demand * 1000))
            for index, demand in enumerate(demands)
            if demand is not None
        }
        decision = autoscaler.decide(turn * 15.0, replicas, pods, [samples])
    assert decision is not None
    return decision, " ".join(words(decision, values))


@pytest.mark.parametrize(
    ("turns", "changes", "replicas", "said"),
    [
        ([(2, [210.0, 210.0])], {}, 3, ["Demand was 210", "target is 140", "1.50", "asks for 3"]),
        ([(2, [150.0, 150.0])], {}, 2, ["1.07", "too near to 1", "2 stay"]),
        ([(3, [250.0, 250.0, None])], {}, 4, ["1 pod without a figure counted as idle", "1.19"]),
        ([(3, [20.0, 20.0, None])], {}, 3, ["counted as at the target"]),
        ([(2, [None, None])], {}, 2, ["could not be used"]),
        ([(1, [10.0])], {}, 2, ["minReplicas, 2"]),
        ([(9, [10.0] * 9)], {"maxReplicas": 5}, 5, ["maxReplicas, 5"]),
        ([(2, [999.0, 999.0])], {"maxReplicas": 5}, 5, ["maxReplicas is 5"]),
        (
            [(4, [1.0] * 4)],
            {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}},
            3,
            ["scaleDown let it go to 3"],
        ),
        ([(2, [999.0, 999.0])], {}, 6, ["scaleUp let it go to 6"]),
        ([(4, [140.0] * 4), (4, [1.0] * 4)], {}, 4, ["Within the last 300 s more", "4 count"]),
    ],
)
def test_the_step_that_decided_is_named(
    turns: list[tuple[int, list[float | None]]], changes: dict[str, Any], replicas: int, said: list[str]
) -> None:
    decision, sentences = decided(*turns, **changes)
    assert decision.replicas == replicas
    assert [each for each in said if each not in sentences] == []
