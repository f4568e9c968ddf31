"""What the operator tells Prometheus; names as in the contract, one series a policy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import get_args

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from structlog.typing import FilteringBoundLogger

from dub5_operator.planner.decision import BoundBy, Decision
from dub5_operator.planner.drift import DriftEstimate

LOG_INTERVAL = 60.0
"""Seconds between two lines about undecodable values of one kind, at least."""

Noted = Callable[[str, object], None]
"""Is told of a value in Redis that cannot be read: of which kind, and why."""

_log: FilteringBoundLogger = structlog.get_logger()


def ignored(_kind: str, _reason: object) -> None:
    """Nobody wants to know."""


class Metrics:
    """A registry of its own; `labels` of every series is the policy's name."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._gauges = {
            name: Gauge(f"dub5_operator_{name}", text, ["policy"], registry=self.registry)
            for name, text in {
                "ttl_seconds": "TTL in force.",
                "recommended_ttl_seconds": "TTL that the measurements recommend.",
                "drift_per_hour": "Changes per hour of the answer to a hit.",
                "predicted_hit_ratio": "Hit ratio that the TTL in force is predicted to have.",
                "measured_hit_ratio": "Hit ratio of late.",
                "predicted_stale_ratio": "Share of hits that are out of date, best estimate.",
            }.items()
        }
        self._budget = Gauge(
            "dub5_operator_stale_budget_ratio",
            "Share of hits that may be out of date.",
            ["policy", "class"],
            registry=self.registry,
        )
        self._bound_by = Gauge(
            "dub5_operator_bound_by",
            "1 for what keeps the TTL from being longer.",
            ["policy", "reason"],
            registry=self.registry,
        )
        self.reconcile = Histogram(
            "dub5_operator_reconcile_seconds", "Time to look at one policy.", registry=self.registry
        )
        self.errors = Counter(
            "dub5_operator_errors", "Looks at a policy that failed.", ["policy"], registry=self.registry
        )
        self._undecodable = Counter(
            "dub5_operator_redis_undecodable",
            "Values in Redis that are not what is written there, by what they should have been.",
            ["kind"],
            registry=self.registry,
        )
        self._logged: dict[str, float] = {}

    def undecodable(self, kind: str, reason: object) -> None:
        """Count a value that cannot be read; it is logged once a minute for each kind."""
        self._undecodable.labels(kind).inc()
        now = time.monotonic()
        if now >= self._logged.get(kind, -LOG_INTERVAL) + LOG_INTERVAL:
            self._logged[kind] = now
            _log.warning("redis value undecodable", kind=kind, reason=str(reason))

    def tell(
        self, policy: str, decision: Decision, drift: DriftEstimate, *, class_name: str, budget: float
    ) -> None:
        """What a look came to. `class_name` is the policy's, `budget` the share of hits that may be out of date."""
        figures = {
            "ttl_seconds": decision.ttl,
            "recommended_ttl_seconds": decision.recommended,
            "drift_per_hour": drift.rate * 3600,
            "predicted_hit_ratio": decision.hit_ratio,
            "measured_hit_ratio": decision.measured_hit_ratio,
            "predicted_stale_ratio": decision.stale,
        }
        for name, value in figures.items():
            if not math.isnan(value):
                self._gauges[name].labels(policy).set(value)
        self._budget.labels(policy, class_name).set(budget)
        for reason in get_args(BoundBy):
            self._bound_by.labels(policy, reason).set(decision.bound_by == reason)

    def forget(self, policy: str) -> None:
        """The policy is gone, and so are its series."""
        for gauge in self._gauges.values():
            gauge.remove_by_labels({"policy": policy})
        self._budget.remove_by_labels({"policy": policy})
        self._bound_by.remove_by_labels({"policy": policy})
