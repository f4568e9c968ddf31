"""The `spec` of a HorizontalPodAutoscaler (autoscaling/v2), read from a manifest as the API server would.

Fields and their defaults are Kubernetes' own (pkg/apis/autoscaling/v2/defaults.go), and so is what is refused; what an
autoscaler's decision does not depend on is read over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict, force_setattr, replace

_QUANTITY = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(|[numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})")
_EXPONENTS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_POWERS = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


class Quantity:
    """A number as Kubernetes writes it: `40`, `"1500m"`, `"64Mi"`, `0.05`.

    Raises `ValueError` for what is none, is negative or has more than 40 characters.
    """

    __slots__ = ("approximate", "milli", "text")

    def __init__(self, value: str | float) -> None:
        self.text = str(value)
        found = _QUANTITY.fullmatch(self.text) if len(self.text) <= 40 else None
        if found is None or not (found[2] or found[3]):
            raise ValueError(f"expected a quantity such as 40, 1500m or 64Mi, got {self.text[:40]!r}")
        if found[1] == "-":
            raise ValueError("must not be negative")
        decimals, suffix = found[3] or "", found[4]
        digits = int(found[2] + decimals)
        exponent = 0 if suffix in _POWERS else _EXPONENTS[suffix] if suffix in _EXPONENTS else int(suffix[1:])
        if suffix in _POWERS:
            exponent, digits = 0, digits << _POWERS[suffix]
        exponent -= len(decimals)
        exact = Fraction(digits) * Fraction(10) ** exponent
        if exponent < -9 or digits >= 2**63 or (decimals and suffix in _POWERS):
            exponent, digits = -9, math.ceil(exact * 10**9)
        self.milli: int = math.ceil(exact * 1000)
        """In thousandths, rounded up."""
        self.approximate: float = digits * float(f"1e{exponent}")
        """As a float, with the rounding of Kubernetes."""

    def __repr__(self) -> str:
        return f"Quantity({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


class _Manifest(Struct, frozen=True, kw_only=True, rename="camel"):
    pass


Aim = Literal["value", "averageValue", "averageUtilization"]
AIMS: tuple[Aim, ...] = ("value", "averageValue", "averageUtilization")


class Target(_Manifest, frozen=True):
    """What a metric is held at: exactly one of the three."""

    type: Literal["Utilization", "Value", "AverageValue"]
    average_utilization: Annotated[int, Meta(ge=1)] | None = None
    """Of what the pods request, in percent."""
    average_value: Quantity | None = None
    value: Quantity | None = None

    def __post_init__(self) -> None:
        for name, value in (("averageValue", self.average_value), ("value", self.value)):
            if value is not None and value.milli == 0:
                raise ValueError(f"{name} must be greater than zero")

    def goal(self, aim: Aim) -> int | None:
        """One of the three: in thousandths, or in percent. None where it is absent."""
        if aim == "averageUtilization":
            return self.average_utilization
        quantity = self.value if aim == "value" else self.average_value
        return None if quantity is None else quantity.milli


class MetricName(_Manifest, frozen=True):
    """The name of a metric of the custom or the external metrics API."""

    name: str


class PodsMetric(_Manifest, frozen=True):
    """A metric that each pod has: the mean is held at `averageValue`."""

    metric: MetricName
    target: Target


class DescribedObject(_Manifest, frozen=True):
    """What an Object metric is about."""

    kind: str
    name: str


class ObjectMetric(_Manifest, frozen=True):
    """A metric of one object: itself is held at `value`, or its share of each replica at `averageValue`."""

    described_object: DescribedObject
    metric: MetricName
    target: Target


class ExternalMetric(_Manifest, frozen=True):
    """A metric of anything, KEDA's among them, with targets as those of an Object metric."""

    metric: MetricName
    target: Target


class ResourceMetric(_Manifest, frozen=True):
    """What a pod uses of a resource."""

    name: str
    target: Target


class ContainerResourceMetric(_Manifest, frozen=True):
    """What one container of each pod uses of a resource."""

    name: str
    container: str
    target: Target


Source = PodsMetric | ObjectMetric | ExternalMetric | ResourceMetric | ContainerResourceMetric

_AIMS: dict[str, tuple[Aim, ...]] = {
    "Pods": ("averageValue",),
    "Object": ("value", "averageValue"),
    "External": ("value", "averageValue"),
    "Resource": ("averageUtilization", "averageValue"),
    "ContainerResource": ("averageUtilization", "averageValue"),
}


class Metric(_Manifest, frozen=True):
    """One of `spec.metrics`: the field that `type` names says more."""

    type: Literal["Pods", "Object", "External", "Resource", "ContainerResource"]
    pods: PodsMetric | None = None
    object: ObjectMetric | None = None
    external: ExternalMetric | None = None
    resource: ResourceMetric | None = None
    container_resource: ContainerResourceMetric | None = None

    def __post_init__(self) -> None:
        field = self.type[0].lower() + self.type[1:]
        if [name for name, source in self._sources().items() if source is not None] != [field]:
            raise ValueError(f"a metric of type {self.type} has the field {field} and no other source")
        target = self.source.target
        given = [aim for aim in AIMS if target.goal(aim) is not None]
        if self.type == "Object":  # may have both, and goes by the type
            given = [aim for aim in given if aim.lower() == target.type.lower()]
        if len(given) != 1 or given[0] not in _AIMS[self.type]:
            raise ValueError(f"{field}.target needs {' or '.join(_AIMS[self.type])}")

    @property
    def source(self) -> Source:
        """The field that `type` names."""
        return next(source for source in self._sources().values() if source is not None)

    def _sources(self) -> dict[str, Source | None]:
        return {
            "pods": self.pods,
            "object": self.object,
            "external": self.external,
            "resource": self.resource,
            "containerResource": self.container_resource,
        }

    @property
    def aim(self) -> tuple[Aim, int]:
        """Which field of its target counts, and what it says."""
        target = self.source.target
        for aim in AIMS:
            goal = target.goal(aim)
            if goal is not None and (self.object is None or aim.lower() == target.type.lower()):
                return aim, goal
        raise AssertionError("__post_init__ has seen to it")


class Policy(_Manifest, frozen=True):
    """How far the number may move within a period: by so many pods, or by so many percent of them."""

    type: Literal["Pods", "Percent"]
    value: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    period_seconds: Annotated[int, Meta(ge=1, le=1800)]


class Rules(_Manifest, frozen=True):
    """How the number may move in one direction. What is absent has the API server's defaults (`Spec.rules`)."""

    stabilization_window_seconds: Annotated[int, Meta(ge=0, le=3600)] | None = None
    select_policy: Literal["Max", "Min", "Disabled"] | None = None
    policies: Annotated[tuple[Policy, ...], Meta(min_length=1)] | None = None
    tolerance: Quantity | None = None


class Behavior(_Manifest, frozen=True):
    """Rules for either direction."""

    scale_up: Rules | None = None
    scale_down: Rules | None = None


CPU = Metric(
    type="Resource",
    resource=ResourceMetric(name="cpu", target=Target(type="Utilization", average_utilization=80)),
)
"""What a spec without metrics has."""

UP = Rules(
    stabilization_window_seconds=0,
    select_policy="Max",
    policies=(
        Policy(type="Pods", value=4, period_seconds=15),
        Policy(type="Percent", value=100, period_seconds=15),
    ),
)
DOWN = Rules(select_policy="Max", policies=(Policy(type="Percent", value=100, period_seconds=15),))
"""The default rules of a spec that has a `behavior`. The window downwards is the controller's (a flag of it)."""


class Spec(_Manifest, frozen=True):
    """The `spec` of a HorizontalPodAutoscaler."""

    max_replicas: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    min_replicas: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 1
    metrics: tuple[Metric, ...] = ()
    behavior: Behavior | None = None

    def __post_init__(self) -> None:
        if not self.metrics:
            force_setattr(self, "metrics", (CPU,))
        if self.max_replicas < self.min_replicas:
            raise ValueError("maxReplicas must not be less than minReplicas")
        if self.min_replicas == 0 and not any(
            metric.type in ("Object", "External") for metric in self.metrics
        ):
            raise ValueError("minReplicas of 0 needs a metric of type Object or External")


class Tolerance(Struct, frozen=True):
    """How far usage by target may be from 1 before something is done."""

    down: float
    up: float

    def holds(self, ratio: float) -> bool:
        """Whether nothing is done."""
        return 1.0 - self.down <= ratio <= 1.0 + self.up


class Controller(Struct, frozen=True, kw_only=True):
    """Flags of kube-controller-manager, times in seconds, and the feature gates that change a decision."""

    tolerance: float = 0.1
    downscale_stabilization: float = 300.0
    cpu_initialization_period: float = 300.0
    initial_readiness_delay: float = 30.0
    configurable_tolerance: bool = True
    """HPAConfigurableTolerance: on since Kubernetes 1.35."""
    scale_to_zero: bool = False
    """HPAScaleToZero."""

    def tolerance_of(self, spec: Spec) -> Tolerance:
        """The spec's own, where it has one and may."""
        behavior = spec.behavior if self.configurable_tolerance else None
        own = (behavior.scale_down, behavior.scale_up) if behavior is not None else (None, None)
        down, up = (rules.tolerance if rules is not None else None for rules in own)
        return Tolerance(
            self.tolerance if down is None else down.approximate,
            self.tolerance if up is None else up.approximate,
        )

    def rules_of(self, spec: Spec) -> tuple[Rules, Rules] | None:
        """Up and down, with what is absent filled in; None where the spec has no `behavior`."""
        if spec.behavior is None:
            return None
        down = _fill(spec.behavior.scale_down, DOWN)
        if down.stabilization_window_seconds is None:
            down = replace(down, stabilization_window_seconds=int(self.downscale_stabilization))
        return _fill(spec.behavior.scale_up, UP), down


def _fill(rules: Rules | None, defaults: Rules) -> Rules:
    given = {name: value for name, value in asdict(rules or defaults).items() if value is not None}
    return replace(defaults, **given)


def read_spec(document: Mapping[str, Any]) -> Spec:
    """Reads the `spec` of a manifest, as YAML or JSON gives it; `msgspec.ValidationError` names the field."""
    return msgspec.convert(document, Spec, dec_hook=_hook)


def _hook(kind: type, value: object) -> object:
    if kind is not Quantity:
        raise NotImplementedError
    return Quantity(value if isinstance(value, str | int | float) else repr(value))
