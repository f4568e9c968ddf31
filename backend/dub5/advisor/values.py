"""What of the chart's values decides how a release scales, read as the chart reads them.

The chart is not part of the program, so its defaults of these values stand here once more; a test holds them to
deploy/helm/dub5/values.yaml. The rest of the values is the chart's own to check, but for names that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dub5.errors import ConfigError
from dub5.settings.loader import convert, nearest, parse_yaml_of, read_text, section
from dub5.settings.model import Section, Settings

STDIN = Path("-")
"""Instead of a file: what `helm get values RELEASE --all --output yaml` writes, for one."""

KNOWN = {
    "advisor",
    "affinity",
    "auth",
    "autoscaling",
    "commonLabels",
    "config",
    "enabled",
    "env",
    "extraVolumeMounts",
    "extraVolumes",
    "fullnameOverride",
    "global",
    "httpRoute",
    "image",
    "imagePullSecrets",
    "ingress",
    "kubeVersion",
    "listenAddress",
    "loadtest",
    "maxSurge",
    "monitoring",
    "nameOverride",
    "networkPolicy",
    "nodeSelector",
    "operator",
    "podAnnotations",
    "podDisruptionBudget",
    "podLabels",
    "preStopSeconds",
    "priorityClassName",
    "redis",
    "replicas",
    "resources",
    "runAsUser",
    "secretEnv",
    "service",
    "serviceAccount",
    "tests",
    "tolerations",
    "topologySpreadConstraints",
}
"""The chart's values by name."""

DEFAULTS: dict[str, Any] = {
    "replicas": 2,
    "preStopSeconds": 5,
    "autoscaling": {
        "mode": "hpa",
        "minReplicas": 2,
        "maxReplicas": 10,
        "targetPercentage": 70,
        "behavior": {
            "scaleUp": {
                "stabilizationWindowSeconds": 0,
                "selectPolicy": "Max",
                "policies": [
                    {"type": "Percent", "value": 100, "periodSeconds": 15},
                    {"type": "Pods", "value": 4, "periodSeconds": 15},
                ],
            },
            "scaleDown": {
                "stabilizationWindowSeconds": 300,
                "selectPolicy": "Max",
                "policies": [{"type": "Percent", "value": 25, "periodSeconds": 60}],
            },
        },
        "cpu": {"enabled": False, "averageValue": "700m"},
        "keda": {
            "serverAddress": "",
            "pollingInterval": 15,
            "failureThreshold": 3,
            "authenticationRef": "",
            "authenticationKind": "TriggerAuthentication",
            "triggers": [],
        },
    },
}


MOST_REPLICAS = 10_000
"""Each one is simulated."""


class Policy(Section, frozen=True):
    """So many pods, or percent of them, within a period."""

    type: Literal["Pods", "Percent"]
    value: Annotated[int, Meta(ge=1)]
    periodSeconds: Annotated[int, Meta(ge=1, le=1800)]  # noqa: N815  # the chart's names


class Rules(Section, frozen=True):
    """How fast it may go in one direction."""

    stabilizationWindowSeconds: Annotated[int, Meta(ge=0, le=3600)] | None = None  # noqa: N815
    selectPolicy: Literal["Max", "Min", "Disabled"] | None = None  # noqa: N815
    tolerance: str | float | None = None
    policies: list[Policy] | None = None


class Behavior(Section, frozen=True):
    scaleUp: Rules | None = None  # noqa: N815
    scaleDown: Rules | None = None  # noqa: N815


class Keda(Section, frozen=True):
    serverAddress: str  # noqa: N815
    pollingInterval: Annotated[int, Meta(ge=1)]  # noqa: N815
    failureThreshold: Annotated[int, Meta(ge=1)]  # noqa: N815
    authenticationRef: str  # noqa: N815
    authenticationKind: str  # noqa: N815
    triggers: list[dict[str, Any]]


class Cpu(Section, frozen=True):
    enabled: bool
    averageValue: str  # noqa: N815


class Autoscaling(Section, frozen=True):
    """The chart's `autoscaling`."""

    mode: Literal["hpa", "keda", "none"]
    minReplicas: Annotated[int, Meta(ge=1, le=MOST_REPLICAS)]  # noqa: N815
    maxReplicas: Annotated[int, Meta(ge=1, le=MOST_REPLICAS)]  # noqa: N815
    targetPercentage: Annotated[int, Meta(ge=1, le=90)]  # noqa: N815
    behavior: Behavior
    cpu: Cpu
    keda: Keda


class Values(Section, frozen=True):
    """`replicas` is how many there are in mode `none`; `preStopSeconds` the time between a pod's deletion and SIGTERM.

    `config` is the program's own configuration.
    """

    replicas: Annotated[int, Meta(ge=0, le=MOST_REPLICAS)]
    preStopSeconds: Annotated[float, Meta(ge=0)]  # noqa: N815
    autoscaling: Autoscaling
    config: Settings

    @property
    def capacity(self) -> int:
        """Calls that one replica makes at once."""
        return self.config.admission.max_inflight

    @property
    def target(self) -> int:
        """Demand per replica to aim for, in requests."""
        return max(1, self.capacity * self.autoscaling.targetPercentage // 100)

    @property
    def one_model(self) -> bool:
        """Whether there are no other models to leave slots to."""
        return [*self.config.models] == [self.config.default_model]

    def for_record(self) -> dict[str, Any]:
        """What decides, to be read by `of_values`; without names and addresses, since records are sent to others."""
        config, scaling = self.config, msgspec.to_builtins(self.autoscaling)
        for name in ("serverAddress", "authenticationRef", "triggers"):
            del scaling["keda"][name]
        kept: dict[str, Any] = {
            "admission": {
                "max_inflight": config.admission.max_inflight,
                "max_queued": config.admission.max_queued,
                "queue_timeout": config.admission.queue_timeout.written(),
            },
            "drain": {"linger": config.drain.linger.written()},
            "server": {"max_stream": config.server.max_stream.written()},
        }
        if not self.one_model:
            kept["models"] = {name: {"routes": ["demo/simulated"]} for name in ("one", "another")}
        return {
            "replicas": self.replicas,
            "preStopSeconds": self.preStopSeconds,
            "autoscaling": scaling,
            "config": kept,
        }

    def autoscaler(self) -> dict[str, Any]:
        """The spec of the HorizontalPodAutoscaler that the chart, or KEDA for it, makes."""
        target = {"type": "AverageValue", "averageValue": str(self.target)}
        if self.autoscaling.mode == "keda":
            metric = {"type": "External", "external": {"metric": {"name": "s0-prometheus"}, "target": target}}
        else:
            metric = {"type": "Pods", "pods": {"metric": {"name": "dub5_demand_requests"}, "target": target}}
        return {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "dub5"},
            "minReplicas": self.autoscaling.minReplicas,
            "maxReplicas": self.autoscaling.maxReplicas,
            "metrics": [metric],
            "behavior": msgspec.to_builtins(self.autoscaling.behavior),  # without what is absent
        }


def read_values(files: Sequence[Path], *more: Mapping[str, Any]) -> Values:
    """The chart's defaults with these files (STDIN among them) laid over them, and then `more`, as Helm does it.

    ConfigError names the file where it cannot be read, and else the value.
    """
    return of_values(*(_read(file) for file in files), *more)


def of_values(*written: Mapping[str, Any]) -> Values:
    """The same of values that are read; ConfigError names the one that is wrong."""
    try:
        values = merged(DEFAULTS, *written)
    except RecursionError:
        raise ConfigError("values: nested too deep") from None
    for name in values:
        if name not in KNOWN:
            raise ConfigError(f"{name}: the chart has no such value{nearest(str(name), sorted(KNOWN))}")
    config = values.pop("config", None) or {}
    if not isinstance(config, dict):
        raise ConfigError("config: must be a mapping of sections")
    try:
        settings = convert(config)
    except ConfigError as error:
        raise ConfigError(f"config.{error.message}") from None
    known = {name: values[name] for name in ("replicas", "preStopSeconds", "autoscaling") if name in values}
    found = section({**known, "config": {}}, Values)
    scaling = found.autoscaling
    if scaling.mode == "keda" and scaling.keda.triggers:
        raise ConfigError(
            "autoscaling.keda.triggers: further triggers cannot be simulated: leave them out with"
            " --set autoscaling.keda.triggers=[]"
        )
    if scaling.maxReplicas < scaling.minReplicas:
        raise ConfigError("autoscaling.maxReplicas: must be at least `minReplicas`")
    return msgspec.structs.replace(found, config=settings)


def merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """As Helm lays values over values: later ones win, maps are joined, all else is replaced, null takes away."""
    result: dict[str, Any] = {}
    for each in values:
        for key, value in each.items():
            if isinstance(value, Mapping):
                before = result.get(key)
                result[key] = merged(before if isinstance(before, Mapping) else {}, value)
            elif value is None:
                result.pop(key, None)
            else:
                result[key] = value
    return result


def _read(file: Path) -> dict[str, Any]:
    text = read_text("values", Path("/dev/stdin") if file == STDIN else file)
    written = parse_yaml_of(str(file), text)
    if written is None:
        return {}
    if not isinstance(written, dict):
        raise ConfigError(f"{file}: values are a mapping")
    return written
