"""Pods in virtual time: how they start, find room, are scraped, leave, and which of them a connection is led to.

Nothing here decides how many there are, and nothing here makes time pass: each step returns when the next one is due.
"""

from __future__ import annotations

import random
from typing import Literal

from dub5.advisor.gate import SimulatedGate
from dub5.advisor.record import Cluster

State = Literal["pending", "starting", "ready", "leaving", "lingering", "closed", "gone"]
"""`pending`: no node has room. `leaving`: deleted, before SIGTERM. `closed`: its last streams run to their end."""

DELETED = frozenset({"leaving", "lingering", "closed", "gone"})
"""States of a pod that the autoscaler ignores, and that are no endpoints any more."""


class Pod:
    """`demand` is what was scraped last, at `scraped`; None before that. `calls` have a slot or wait for one."""

    __slots__ = ("calls", "demand", "gate", "name", "order", "scraped", "state", "waiting")

    def __init__(self, order: int, gate: SimulatedGate) -> None:
        self.order = order
        self.name = f"dub5-{order}"
        self.gate = gate
        self.state: State = "pending"
        self.calls = 0
        self.demand: float | None = None
        self.scraped = 0.0
        self.waiting: dict[int, tuple[float, float, float, int]] = {}
        """Calls that are queued: when each came, how long its call will take, its weight, and who asks."""

    def figure(self, now: float, window: float) -> float | None:
        """The demand that the autoscaler is told; None where nothing was scraped in the last `window` seconds."""
        return self.demand if self.demand is not None and self.scraped > now - window else None


class Pods:
    """Those of one release. `leaves_first` is the order in which a ReplicaSet deletes them."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._starts = cluster.starts
        self._room = cluster.room
        self._rng = rng
        self._made = 0
        self.all: list[Pod] = []
        self.endpoints: list[Pod] = []

    def make(self, gate: SimulatedGate) -> Pod:
        pod = Pod(self._made, gate)
        self._made += 1
        self.all.append(pod)
        return pod

    def add_room(self, more: int) -> None:
        if self._room is not None:
            self._room += more

    def place(self) -> list[tuple[Pod, float]]:
        """Those that find a node now, each with the seconds until it is ready."""
        placed = []
        there = sum(pod.state != "pending" for pod in self.all)
        for pod in self.all:
            if pod.state == "pending" and (self._room is None or there < self._room):
                there += 1
                pod.state = "starting"
                placed.append((pod, self._rng.choice(self._starts)))
        return placed

    @property
    def pending(self) -> bool:
        return any(pod.state == "pending" for pod in self.all)

    @property
    def active(self) -> list[Pod]:
        """Those that are not on their way out."""
        return [pod for pod in self.all if pod.state not in DELETED]

    def ready(self, pod: Pod) -> None:
        pod.state = "ready"
        self.endpoints.append(pod)

    def leaves_first(self) -> Pod:
        """As a ReplicaSet chooses: without a node, then not ready, then the youngest."""
        ranks = {"pending": 0, "starting": 1, "ready": 2}
        return min(self.active, key=lambda pod: (ranks[pod.state], -pod.order))

    def delete(self, pod: Pod) -> bool:
        """Whether it has to drain; one that is not ready goes at once."""
        drains = pod.state == "ready"
        if drains:
            pod.state = "leaving"
            self.endpoints.remove(pod)
        else:
            self.remove(pod)
        return drains

    def remove(self, pod: Pod) -> None:
        pod.state = "gone"
        self.all.remove(pod)
