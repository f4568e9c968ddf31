"""What happens to an autoscaler in an hour, made up: with everything that its algorithm knows, and often at its edges.

A history is a controller's flags and the steps at which it has its turns: the spec, where it changes, the scale, the
pods, and what the metrics APIs answer. It is made turn by turn with our own `Autoscaler` in the controller's place, so
that replicas follow what was decided; pods follow replicas, late. Times are multiples of 1/8 s, which floats hold
exactly, and values are often such that a ratio is exactly where a tolerance ends.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from dub5.advisor.hpa import Autoscaler, Decision
from dub5.advisor.hpa_metrics import Pod, Reading, Sample
from dub5.advisor.hpa_spec import Controller, Metric, Spec, read_spec

Answers = dict[str, tuple[int, float, float]] | list[int] | None
"""A reading as it is written down: of pods thousandths, the moment, the window."""


class Step(Struct):
    """One turn. `spec` as in a manifest; None: as before."""

    time: float
    spec: dict[str, Any] | None
    replicas: int
    status_replicas: int
    pods: list[Pod]
    readings: list[Answers]


class History(Struct):
    """One autoscaler's life."""

    controller: Controller
    steps: list[Step]


class Outcome(Struct):
    """What a controller made of a step, as far as it can be seen from outside: what is compared."""

    replicas: int
    desired: int
    proposed: int | None
    cause: str | None
    conditions: dict[str, tuple[str, str]]
    metrics: list[tuple[int | None, int | None]] | None
    """Of each metric percent and thousandths."""


def replay(history: History) -> Iterator[tuple[Spec, Step, Decision]]:
    """What our autoscaler decides at each step, with the spec in force."""
    autoscaler: Autoscaler | None = None
    for step in history.steps:
        if step.spec is not None:
            spec = read_spec(step.spec)
            if autoscaler is None:
                autoscaler = Autoscaler(spec, history.controller)
            autoscaler.spec = spec
        if autoscaler is None:
            raise ValueError("the first step of a history has a spec")
        yield autoscaler.spec, step, _decide(autoscaler, step)


def _decide(autoscaler: Autoscaler, step: Step) -> Decision:
    readings = [_reading(answers) for answers in step.readings]
    return autoscaler.decide(
        step.time, step.replicas, step.pods, readings, status_replicas=step.status_replicas
    )


def _reading(answers: Answers) -> Reading:
    if isinstance(answers, dict):
        return {pod: Sample(*sample) for pod, sample in answers.items()}
    return answers


def outcome(decision: Decision) -> Outcome:
    """What of a decision can be compared."""
    return Outcome(
        replicas=decision.replicas,
        desired=decision.desired,
        proposed=decision.proposed,
        cause=decision.cause if decision.rescaled else None,
        conditions={
            name: (str(condition.status), condition.reason) for name, condition in decision.conditions.items()
        },
        metrics=[(each.utilization, each.milli) for each in decision.metrics] or None,
    )


def differences(ours: Outcome, theirs: Outcome) -> list[str]:
    """Fields in which two outcomes differ."""
    fields = ("replicas", "desired", "proposed", "cause", "conditions", "metrics")
    return [name for name in fields if getattr(ours, name) != getattr(theirs, name)]


class Maker:
    """Makes one history."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.controller = self._controller()
        self.now = 3600.0
        self.made = 0
        self.pods: list[Pod] = []
        self.containers = self._containers()
        self.calm = self._one_in(2)
        """All pods are ready at once, and all have readings: what is proposed is left to windows and policies."""
        self.lost = 0.0 if self.calm else self.rng.choice([0.0, 0.1, 0.4])
        """Share of pods without a reading."""
        self.failing = 0.0 if self.calm else self.rng.choice([0.0, 0.05, 0.3])
        """Share of metrics without an answer."""
        self.late = 1000 if self.calm else self.rng.choice([8, 8, 2])
        """One pod in so many is not there yet."""
        self.steady = self.rng.choice([25, 25, 6])
        """One turn in so many finds another spec."""
        self.whole = self.rng.choice([{}, {}, {}, {"cpu": 400}, {"memory": 2**30 * 1000}])
        """What pods request as a whole."""
        self.load = self.rng.uniform(0.5, 20.0)
        """As much as so many replicas have on target."""

    def _one_in(self, number: int) -> bool:
        return self.rng.randrange(number) == 0

    def make(self) -> History:
        spec = self._spec()
        autoscaler = Autoscaler(read_spec(spec), self.controller)
        replicas = max(
            1, self.rng.choice([spec["maxReplicas"], spec["minReplicas"], self.rng.randint(1, 12)])
        )
        pace = self.rng.choice([1.0, 2.5, 15.0, 15.0, 15.0, 15.125, 60.0])
        steps: list[Step] = []
        written: dict[str, Any] | None = spec
        for _ in range(self.rng.randint(8, 40)):
            self._live(replicas)
            there = sum(not pod.deleted for pod in self.pods)
            step = Step(
                time=self.now,
                spec=written,
                replicas=replicas,
                status_replicas=0 if self._one_in(20) else self.rng.choice([there, there, there, replicas]),
                pods=list(self.pods),
                readings=[self._answer(metric, replicas, there) for metric in autoscaler.spec.metrics],
            )
            steps.append(step)
            replicas = _decide(autoscaler, step).replicas
            written = None
            if self._one_in(self.steady):
                written = self._changed(spec)
                spec, autoscaler.spec = written, read_spec(written)
            if self._one_in(30):
                replicas = self.rng.choice([0, 1, spec["maxReplicas"] + 3, self.rng.randint(1, 20)])
            self.now += pace * self.rng.choice([1, 1, 1, 1, 1, 2, 20]) + self.rng.choice([0, 0, 0.125, 3.0])
        return History(self.controller, steps)

    def _controller(self) -> Controller:
        choice = self.rng.choice
        return Controller(
            tolerance=choice([0.1, 0.1, 0.1, 0.0, 0.05, 0.25]),
            downscale_stabilization=choice([300.0, 300.0, 60.0, 15.0, 0.0]),
            cpu_initialization_period=choice([300.0, 60.0, 0.0]),
            initial_readiness_delay=choice([30.0, 30.0, 0.0, 120.0]),
            configurable_tolerance=not self._one_in(6),
            scale_to_zero=self._one_in(4),
        )

    def _containers(self) -> dict[str, dict[str, int]]:
        cpu, memory = self.rng.choice([100, 250, 1000, 333]), self.rng.choice([64, 1000]) * 2**20 * 1000
        containers = {"dub5": {"cpu": cpu, "memory": memory}}
        if self._one_in(2):
            containers["proxy"] = {"cpu": 50, "memory": memory // 4}
        return containers

    def _spec(self) -> dict[str, Any]:
        count = 1 if self.calm else self.rng.choice([1, 1, 2, 2, 3, 4])
        metrics = [self._metric() for _ in range(count)]
        return {"metrics": metrics, **self._limits(metrics)}

    def _limits(self, metrics: list[dict[str, Any]]) -> dict[str, Any]:
        to_zero = self.controller.scale_to_zero and any(
            each["type"] in ("Object", "External") for each in metrics
        )
        least = 0 if to_zero and not self._one_in(3) else self.rng.randint(1, 4)
        most = max(1, least + self.rng.choice([0, 2, 8, 20, 60, 60]))
        limits: dict[str, Any] = {"minReplicas": least, "maxReplicas": most}
        if not self._one_in(3):
            limits["behavior"] = {
                name: self._rules() for name in ("scaleUp", "scaleDown") if not self._one_in(4)
            }
        return limits

    def _changed(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Other limits and behavior, the same metrics; now and then all of it."""
        return (
            self._spec() if self._one_in(4) else {"metrics": spec["metrics"], **self._limits(spec["metrics"])}
        )

    def _metric(self) -> dict[str, Any]:
        kinds = [
            "Pods",
            "Pods",
            "Object",
            "External",
            "External",
            "Resource",
            "Resource",
            "ContainerResource",
        ]
        if self.controller.scale_to_zero:
            kinds = ["Object", "External", "External", "Pods"]
        kind: str = self.rng.choice(kinds)
        value = self.rng.choice(["28", "10", "500m", "140", "1k", "7"])
        target: dict[str, Any] = {"type": "AverageValue", "averageValue": value}
        if kind in ("Object", "External") and self._one_in(2):
            target = {"type": "Value", "value": value}
        if kind in ("Resource", "ContainerResource"):
            target["averageValue"] = self.rng.choice(["100m", "1", "64Mi"])
            if not self._one_in(3):
                target = {"type": "Utilization", "averageUtilization": self.rng.choice([50, 80, 100, 150])}
        source: dict[str, Any] = {"target": target}
        if kind in ("Resource", "ContainerResource"):
            source["name"] = self.rng.choice(["cpu", "cpu", "memory"])
        else:
            source["metric"] = {"name": "dub5_demand_requests"}
        if kind == "ContainerResource":
            source["container"] = self.rng.choice(["dub5", "dub5", "dub5", "proxy"])
        if kind == "Object":
            source["describedObject"] = {"kind": "Service", "name": "dub5", "apiVersion": "v1"}
        return {"type": kind, kind[0].lower() + kind[1:]: source}

    def _rules(self) -> dict[str, Any]:
        rules: dict[str, Any] = {}
        choice = self.rng.choice
        if not self._one_in(3):
            rules["stabilizationWindowSeconds"] = choice([0, 0, 15, 30, 60, 300, 3600])
        if not self._one_in(3):
            rules["selectPolicy"] = choice(["Max", "Max", "Min", "Min", "Disabled"])
        if not self._one_in(3):
            rules["policies"] = [self._policy() for _ in range(choice([1, 2, 3]))]
        if self._one_in(3):
            rules["tolerance"] = choice(["0", "0.05", "50m", 0.2, "0.125", "0.5"])
        return rules

    def _policy(self) -> dict[str, Any]:
        choice = self.rng.choice
        kind, value = choice(
            [("Pods", choice([1, 2, 4, 10, 2**31 - 1])), ("Percent", choice([10, 25, 30, 50, 100, 300]))]
        )
        return {"type": kind, "value": value, "periodSeconds": choice([1, 15, 15, 30, 60, 180, 1800])}

    def _live(self, replicas: int) -> None:
        """Pods start, become ready, fail and leave, until there are about as many as are asked for."""
        self.pods = [self._aged(pod) for pod in self.pods if not (pod.deleted and self._one_in(2))]
        staying = [pod for pod in self.pods if not pod.deleted and pod.phase != "Failed"]
        for _ in range(replicas - len(staying)):
            if not self._one_in(self.late):
                self.pods.append(self._new())
        for pod in staying[: max(0, len(staying) - replicas)]:
            self.pods[self.pods.index(pod)] = replace(pod, deleted=True)

    def _new(self) -> Pod:
        self.made += 1
        requests = {name: dict(resources) for name, resources in self.containers.items()}
        if self._one_in(200):
            requests["dub5"].pop(self.rng.choice(["cpu", "memory"]))
        state: dict[str, Any] = {"phase": "Pending", "ready": None, "started": None}
        if self.calm or not self._one_in(3):
            state = {"phase": "Running", "ready": "True", "started": self.now, "ready_since": self.now}
        return Pod(name=f"dub5-{self.made}", requests=requests, pod_requests=self.whole, **state)

    def _aged(self, pod: Pod) -> Pod:
        if self.calm:
            return pod
        if pod.phase == "Pending" and self._one_in(2):
            ready: Any = self.rng.choice(["True", "True", "False", "Unknown", None])
            return replace(pod, phase="Running", started=self.now, ready=ready, ready_since=self.now)
        if pod.phase == "Running" and pod.ready != "True" and self._one_in(3):
            return replace(pod, ready="True", ready_since=self.now)
        if self._one_in(20) and pod.started is not None:
            delay = self.controller.initial_readiness_delay
            since = self.rng.choice([self.now, self.now, min(self.now, pod.started + delay)])
            return replace(pod, ready=self.rng.choice(["False", "Unknown"]), ready_since=since)
        if self._one_in(60):
            return replace(pod, phase=self.rng.choice(["Failed", "Succeeded", "Unknown"]))
        return pod

    def _ratio(self, replicas: int) -> float:
        """Usage by target: what a load that walks makes of it, or a place where something changes."""
        step = self.load * self.rng.choice([0.5, 0.9, 1, 1, 1, 1.1, 1.5]) + self.rng.gauss(0, 0.5)
        self.load = min(60.0, max(0.0, step))
        edges = [0.0, 0.5, 0.75, 0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.125, 1.25, 2.0]
        if self.controller.scale_to_zero and self._one_in(3):
            return 0.0
        return self.rng.choice(edges) if self._one_in(3) else self.load / max(1, replicas)

    def _answer(self, metric: Metric, replicas: int, there: int) -> Answers:
        if self.rng.random() < self.failing:
            return None if self._one_in(2) else [] if metric.type in ("Object", "External") else {}
        ratio, (aim, goal) = self._ratio(replicas), metric.aim
        if metric.type in ("Object", "External"):
            if metric.type == "External" and replicas and self._one_in(100):
                return [10**15]
            return self._values(metric, ratio, goal * (1 if aim == "value" else max(1, there)))
        samples: dict[str, tuple[int, float, float]] = {}
        even = self.calm or self._one_in(2)
        for pod in self.pods:
            if self.rng.random() < self.lost or (pod.phase != "Running" and self._one_in(2)):
                continue
            whole = goal
            if aim == "averageUtilization":
                resource: str = metric.source.name  # type: ignore[union-attr]  # only resources have that aim
                whole = self.containers["dub5"][resource] * goal // 100
            value = int(whole * ratio * (1.0 if even else self.rng.uniform(0.5, 1.5)))
            samples[pod.name] = (
                value,
                self.now - self.rng.choice([0, 5, 30, 90]),
                self.rng.choice([15, 30, 60]),
            )
        if self._one_in(20):
            samples["gone"] = (goal, self.now - 60, 60.0)
        if self._one_in(50):
            samples = {pod: (-value, *rest) for pod, (value, *rest) in samples.items()}  # type: ignore[misc]
        return samples

    def _values(self, metric: Metric, ratio: float, goal: int) -> list[int]:
        value = int(goal * ratio)
        if metric.type == "Object":
            return [value]
        parts = self.rng.choice([1, 1, 2, 3])
        return [value - value // parts * (parts - 1), *[value // parts] * (parts - 1)]


def make(seed: int) -> History:
    """The history of a seed."""
    return Maker(seed).make()


def features(controller: Controller, spec: Spec, step: Step, decision: Decision) -> Iterator[str]:
    """What of the algorithm a decision exercised."""
    yield "with behavior" if spec.behavior is not None else "without behavior"
    if step.spec is not None:
        yield "spec as it is from here"
    for name, condition in decision.conditions.items():
        yield f"{name} {condition.status}: {condition.reason}"
    if decision.rescaled:
        yield f"up: {decision.cause}" if decision.replicas > decision.current else f"down: {decision.cause}"
    yield from _of_metrics(spec, step, decision)
    yield from _of_rules(controller, spec, decision)


def _of_metrics(spec: Spec, step: Step, decision: Decision) -> Iterator[str]:
    unusable = sum(proposal.replicas is None for proposal in decision.metrics)
    if unusable:
        yield "an unusable metric"
    if len(decision.metrics) > 1:
        yield "several metrics, and one unusable" if unusable else "several metrics"
    for metric, proposal in zip(spec.metrics, decision.metrics, strict=bool(decision.metrics)):
        yield f"{metric.type} by {metric.aim[0]}"
        yield from (f"{name} pods" for name in ("unready", "missing", "ignored") if getattr(proposal, name))
        if proposal.ratio not in (None, 1.0) and proposal.replicas == step.replicas:
            yield "a ratio that changes nothing"


def _of_rules(controller: Controller, spec: Spec, decision: Decision) -> Iterator[str]:
    rules = controller.rules_of(spec)
    if rules is None or decision.stabilized is None:
        return
    if controller.tolerance_of(spec) != controller.tolerance_of(replace(spec, behavior=None)):
        yield "a tolerance of its own"
    if decision.allowed is not None:
        used = rules[0] if decision.stabilized > decision.current else rules[1]
        yield f"select {used.select_policy}"
        yield from (f"a policy of {policy.type}" for policy in used.policies or ())


def count(history: History) -> Counter[str]:
    """How many decisions of a history exercised what."""
    counted: Counter[str] = Counter()
    for spec, step, decision in replay(history):
        counted.update(set(features(history.controller, spec, step, decision)))
    return counted
