"""The autoscaler's decisions, case by case. That they are Kubernetes' own: tests/benchmarks/test_advisor_hpa.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.advisor.hpa import Autoscaler, Condition, Decision
from dub5.advisor.hpa_metrics import Pod, Reading, Sample
from dub5.advisor.hpa_spec import Controller, read_spec

TARGET = 10_000
DEMAND: dict[str, Any] = {
    "type": "Pods",
    "pods": {"metric": {"name": "demand"}, "target": {"type": "AverageValue", "averageValue": "10"}},
}
CPU: dict[str, Any] = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
}
AT_ONCE: dict[str, Any] = {"scaleDown": {"stabilizationWindowSeconds": 0}}


def autoscaler(
    *metrics: dict[str, Any],
    behavior: dict[str, Any] | None = AT_ONCE,
    controller: Controller | None = None,
    **limits: int,
) -> Autoscaler:
    spec = {"minReplicas": 1, "maxReplicas": 100, "metrics": list(metrics) or [DEMAND], **limits}
    return Autoscaler(read_spec(spec if behavior is None else {**spec, "behavior": behavior}), controller)


def external(**target: str) -> dict[str, Any]:
    [kind] = target
    return {
        "type": "External",
        "external": {"metric": {"name": "s0"}, "target": {"type": kind[0].upper() + kind[1:], **target}},
    }


def running(number: int, **fields: Any) -> list[Pod]:
    return [Pod(name=f"pod-{index}", requests={"dub5": {"cpu": 1000}}, **fields) for index in range(number)]


def at(ratio: float, pods: Sequence[Pod], target: int = TARGET) -> Reading:
    return {pod.name: Sample(int(target * ratio), time=0.0) for pod in pods}


def decide(scaler: Autoscaler, ratio: float, replicas: int = 4, now: float = 3600.0) -> Decision:
    """All pods are there, and each is at `ratio` of the target."""
    pods = running(replicas)
    return scaler.decide(now, replicas, pods, [at(ratio, pods)])


@pytest.mark.parametrize(
    ("ratio", "replicas"),
    [(1.0, 4), (1.1, 4), (1.101, 5), (0.9, 4), (0.899, 4), (0.75, 3), (0.5, 2), (2.0, 8), (0.0, 1)],
)
def test_usage_by_target_times_the_pods_rounded_up(ratio: float, replicas: int) -> None:
    assert decide(autoscaler(), ratio).replicas == replicas


def test_a_decision_says_each_of_its_steps() -> None:
    policies = [{"type": "Pods", "value": 2, "periodSeconds": 60}]
    scaler = autoscaler(
        behavior={"scaleUp": {"policies": policies, "stabilizationWindowSeconds": 30}}, maxReplicas=9
    )
    decide(scaler, 1.0, now=0.0)
    decide(scaler, 2.5, now=20.0)
    decision = decide(scaler, 3.0, now=45.0)
    assert (decision.current, decision.proposed, decision.stabilized, decision.allowed) == (4, 12, 10, 6)
    assert (decision.replicas, decision.desired, decision.rescaled) == (6, 6, True)
    assert decision.cause == "metric above target"
    [proposal] = decision.metrics
    assert (proposal.metric, proposal.replicas, proposal.ratio, proposal.milli, proposal.ready) == (
        *("pods metric demand", 12, 3.0, 30_000, 4),
    )
    assert decision.conditions == {
        "AbleToScale": Condition(True, "SucceededRescale"),
        "ScalingActive": Condition(True, "ValidMetricFound"),
        "ScalingLimited": Condition(True, "ScaleUpLimit"),
    }


@pytest.mark.parametrize(
    ("ratio", "known", "replicas"),
    [
        (2.0, 3, 6),  # 2.0 of three, the fourth idle: 1.5 of four
        (1.2, 3, 4),  # 0.9 of four: the other direction
        (0.5, 3, 3),  # the fourth on target: 0.625 of four
        (0.9, 3, 4),
        (1.0, 3, 4),
    ],
)
def test_pods_without_a_reading_are_assumed_to_make_less_happen(
    ratio: float, known: int, replicas: int
) -> None:
    pods = running(4)
    decision = autoscaler().decide(0.0, 4, pods, [at(ratio, pods[:known])])
    assert decision.replicas == replicas
    assert decision.metrics[0].missing == 1


def test_pods_that_are_not_ready_are_idle_only_where_the_rest_says_more() -> None:
    pods = [*running(3), Pod(name="new", phase="Pending", ready=None, started=None)]
    assert autoscaler().decide(0.0, 4, pods, [at(2.0, pods)]).replicas == 6
    assert autoscaler().decide(0.0, 4, pods, [at(0.4, pods)]).replicas == 2


@pytest.mark.parametrize("gone", [{"phase": "Failed"}, {"deleted": True}])
def test_pods_that_are_gone_count_for_nothing(gone: dict[str, Any]) -> None:
    pods = [*running(2), Pod(name="gone", **gone)]
    decision = autoscaler().decide(0.0, 2, pods, [at(2.0, pods)])
    assert (decision.replicas, decision.metrics[0].ignored) == (4, 1)


@pytest.mark.parametrize(
    ("pod", "sample", "ready"),
    [
        ({}, 3600.0, 4),
        ({"ready": None}, 3600.0, 3),
        ({"started": None}, 3600.0, 3),
        ({"started": 3500.0, "ready_since": 3500.0}, 3559.0, 3),  # its window began before it was ready
        ({"started": 3500.0, "ready_since": 3500.0}, 3560.0, 4),
        ({"started": 3500.0, "ready": "False"}, 3600.0, 3),
        ({"started": 3300.0, "ready": "False", "ready_since": 3329.0}, 3600.0, 3),  # it has never been ready
        (
            {"started": 3300.0, "ready": "False", "ready_since": 3330.0},
            3600.0,
            4,
        ),  # it was: it is too busy to say so
        ({"ready": "Unknown"}, 3600.0, 4),
    ],
)
def test_the_cpu_of_a_pod_that_starts_does_not_count(pod: dict[str, Any], sample: float, ready: int) -> None:
    fields = {"requests": {"dub5": {"cpu": 1000}}, "started": 0.0, **pod}
    pods = [*running(3), Pod(name="it", **fields)]
    readings = {each.name: Sample(500, sample, 60.0) for each in pods}
    [proposal] = autoscaler(CPU).decide(3600.0, 4, pods, [readings]).metrics
    assert (proposal.ready, proposal.unready) == (ready, 4 - ready)


def test_utilization_is_of_what_the_pods_request() -> None:
    pods = running(2)
    decision = autoscaler(CPU).decide(3600.0, 2, pods, [{pod.name: Sample(900, 3600.0) for pod in pods}])
    [proposal] = decision.metrics
    assert (proposal.utilization, proposal.milli, proposal.replicas) == (90, 900, 4)


def test_the_request_of_a_pod_as_a_whole_comes_before_its_containers() -> None:
    pods = running(2, pod_requests={"cpu": 450})
    decision = autoscaler(CPU).decide(3600.0, 2, pods, [{pod.name: Sample(225, 3600.0) for pod in pods}])
    assert decision.metrics[0].utilization == 50


@pytest.mark.parametrize(
    ("metric", "pods", "reading", "problem"),
    [
        (DEMAND, running(1), None, "the metrics API had no answer"),
        (DEMAND, running(1), {}, "the metrics API had no answer"),
        (DEMAND, [], {"pod-0": Sample(1)}, "there are no pods"),
        (DEMAND, running(1, phase="Pending"), {"pod-0": Sample(1)}, "no pod that is ready has a reading"),
        (
            CPU,
            [Pod(name="pod-0", requests={"a": {}})],
            {"pod-0": Sample(1)},
            "container a of pod pod-0 has no request for cpu",
        ),
        (CPU, [Pod(name="pod-0")], {"pod-0": Sample(1)}, "the pods request nothing"),
        (external(value="10"), [], [50_000], "there are no pods"),
    ],
)
def test_a_metric_that_cannot_be_used_says_why(
    metric: dict[str, Any], pods: list[Pod], reading: Reading, problem: str
) -> None:
    decision = autoscaler(metric).decide(3600.0, 2, pods, [reading])
    assert (decision.replicas, decision.metrics[0].replicas, decision.metrics[0].problem) == (
        2,
        None,
        problem,
    )
    assert decision.conditions["ScalingActive"] == Condition(False, f"FailedGet{metric['type']}Metric")  # type: ignore[arg-type]


@pytest.mark.parametrize(("ratio", "replicas"), [(2.0, 8), (0.5, 4)])
def test_a_metric_that_cannot_be_read_forbids_only_to_go_down(ratio: float, replicas: int) -> None:
    pods = running(4)
    decision = autoscaler(DEMAND, external(value="1")).decide(0.0, 4, pods, [at(ratio, pods), None])
    assert decision.replicas == replicas


def test_the_greatest_proposal_counts() -> None:
    pods = running(4)
    decision = autoscaler(DEMAND, external(averageValue="10")).decide(
        0.0, 4, pods, [at(0.5, pods), [70_000, 1]]
    )
    assert [proposal.replicas for proposal in decision.metrics] == [2, 8]
    assert decision.replicas == 8


@pytest.mark.parametrize(
    ("target", "there", "value", "replicas"),
    [
        ({"averageValue": "10"}, 4, 44_000, 4),  # within the tolerance of the four that are there
        ({"averageValue": "10"}, 3, 33_000, 3),
        ({"averageValue": "10"}, 0, 33_000, 4),  # nobody is there yet: no share, no tolerance
        ({"averageValue": "10"}, 4, 5_000_000_000_000_000, 2**31 - 1),
        ({"value": "10"}, 4, 20_000, 8),
        ({"value": "10"}, 4, 0, 0),
    ],
)
def test_external_metrics(target: dict[str, str], there: int, value: int, replicas: int) -> None:
    scaler = autoscaler(external(**target))
    decision = scaler.decide(0.0, 4, running(4), [[value]], status_replicas=there)
    assert decision.proposed == replicas


def test_down_waits_for_the_greatest_of_its_window() -> None:
    scaler = autoscaler(behavior={"scaleDown": {"stabilizationWindowSeconds": 60}})
    assert [
        decide(scaler, ratio, now=now).replicas for ratio, now in [(1, 0.0), (0.25, 59.0), (0.25, 60.0)]
    ] == [4, 4, 1]


def test_up_waits_for_the_least_of_its_window() -> None:
    scaler = autoscaler(behavior={"scaleUp": {"stabilizationWindowSeconds": 60}})
    assert [decide(scaler, ratio, now=now).replicas for ratio, now in [(1, 0.0), (2, 59.0), (2, 60.0)]] == [
        4,
        4,
        8,
    ]


def test_without_a_behavior_the_controllers_own_rules_are_in_force() -> None:
    scaler = autoscaler(behavior=None, controller=Controller(downscale_stabilization=60.0))
    assert decide(scaler, 3.0, now=0.0).replicas == 8  # at most the double
    assert decide(scaler, 0.25, now=60.0).conditions["AbleToScale"] == Condition(True, "SucceededRescale")
    assert decide(scaler, 0.25, now=61.0).replicas == 1


@pytest.mark.parametrize(
    ("select", "up", "down"),
    [("Max", 8, 2), ("Min", 5, 3), ("Disabled", 4, 4)],
)
def test_policies_are_chosen_by_how_far_they_go(select: str, up: int, down: int) -> None:
    policies = [
        {"type": "Pods", "value": 1, "periodSeconds": 60},
        {"type": "Percent", "value": 100, "periodSeconds": 60},
    ]
    fewer = [policies[0], {**policies[1], "value": 50}]
    behavior = {
        "scaleUp": {"policies": policies, "selectPolicy": select},
        "scaleDown": {"policies": fewer, "selectPolicy": select, "stabilizationWindowSeconds": 0},
    }
    assert decide(autoscaler(behavior=behavior), 5.0).replicas == up
    assert decide(autoscaler(behavior=behavior), 0.0).replicas == down


def test_a_policy_counts_from_the_beginning_of_its_period() -> None:
    policies = [{"type": "Pods", "value": 2, "periodSeconds": 60}]
    scaler = autoscaler(behavior={"scaleUp": {"policies": policies}})
    turns = [(4, 0.0), (6, 30.0), (6, 60.0), (8, 61.0)]
    assert [decide(scaler, 5.0, replicas, now).replicas for replicas, now in turns] == [6, 6, 8, 8]


def test_a_policy_of_as_many_pods_as_an_int32_holds_allows_none() -> None:
    policies = [{"type": "Pods", "value": 2**31 - 1, "periodSeconds": 60}]
    assert decide(autoscaler(behavior={"scaleUp": {"policies": policies}}), 5.0).replicas == 4


@pytest.mark.parametrize(
    ("replicas", "wanted", "cause"),
    [(12, 10, "above maxReplicas"), (1, 2, "below minReplicas"), (0, 0, None)],
)
def test_a_scale_that_somebody_set_is_brought_within_the_limits_or_left_at_zero(
    replicas: int, wanted: int, cause: str | None
) -> None:
    decision = decide(autoscaler(minReplicas=2, maxReplicas=10), 1.0, replicas)
    assert (decision.replicas, decision.cause, decision.metrics) == (wanted, cause, ())


def test_to_zero_and_back_where_the_cluster_knows_it() -> None:
    scaler = autoscaler(external(value="10"), controller=Controller(scale_to_zero=True), minReplicas=0)
    pods = running(2)
    assert scaler.decide(0.0, 2, pods, [[0]]).replicas == 0
    assert scaler.decide(15.0, 0, [], [[0]]).replicas == 0
    assert scaler.decide(30.0, 0, [], [[31_000]]).replicas == 4


def test_a_spec_may_change_between_two_turns() -> None:
    scaler = autoscaler(maxReplicas=5)
    assert decide(scaler, 3.0).replicas == 5
    scaler.spec = autoscaler(maxReplicas=7).spec
    assert decide(scaler, 3.0, replicas=5, now=3615.0).replicas == 7


def test_a_copy_goes_its_own_way() -> None:
    scaler = autoscaler(behavior={"scaleDown": {"stabilizationWindowSeconds": 60}})
    decide(scaler, 1.0, now=0.0)
    other = scaler.copy()
    assert decide(other, 2.0, now=15.0).replicas == 8
    assert decide(scaler, 0.25, now=60.0) == decide(scaler.copy(), 0.25, now=60.0)
    assert decide(other, 0.25, now=60.0).replicas == 4


def test_there_is_one_reading_for_each_metric() -> None:
    with pytest.raises(ValueError, match="2 readings for 1 metrics"):
        autoscaler().decide(0.0, 1, running(1), [None, None])


@pytest.mark.parametrize(
    ("metric", "reading", "message"),
    [
        (DEMAND, [1], "pods metric demand: a metric of type Pods is not read as list"),
        (
            external(value="1"),
            {"pod-0": Sample(1)},
            "external metric s0: a metric of type External is not read as dict",
        ),
    ],
)
def test_a_reading_is_of_its_metrics_kind(metric: dict[str, Any], reading: Reading, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        autoscaler(metric).decide(0.0, 1, running(1), [reading])


RATIOS = st.lists(st.none() | st.floats(0, 20), min_size=1, max_size=30)


@given(ratios=RATIOS, window=st.integers(0, 120))
def test_whatever_is_read_the_limits_hold_and_nothing_shrinks_blindly(
    ratios: list[float | None], window: int
) -> None:
    scaler = autoscaler(
        behavior={"scaleDown": {"stabilizationWindowSeconds": window}}, minReplicas=2, maxReplicas=30
    )
    replicas = 5
    for turn, ratio in enumerate(ratios):
        pods = running(replicas)
        reading = None if ratio is None else at(ratio, pods)
        decision = scaler.decide(15.0 * turn, replicas, pods, [reading])
        assert 2 <= decision.replicas <= 30
        assert ratio is not None or decision.replicas == replicas
        replicas = decision.replicas
