"""The gate of admission/gate.py in virtual time: the same decisions without an event loop, for millions of calls.

What it counts with is the product's own: slots and their mean service time, the rate of refusals, demand, a model's
share. Only the queue is another one, since the product's is made of futures. tests/unit/advisor/test_gate.py runs both
through the same generated histories and compares every decision.

It knows one tenant, since records do not say who asks: who of several is refused would differ, how many hardly. Calls
have no deadlines of their own and are numbered in the order in which they come; `now` is in seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from dub5.admission.demand import ShedRate, demand
from dub5.admission.gate import Slots
from dub5.settings.model import AdmissionSettings
from dub5.shares import SHARE, may_take_one

Verdict = Literal["entered", "queued", "queue_full", "would_wait_too_long"]
"""What becomes of a call that comes; the last two are refusals."""


class SimulatedGate:
    """One replica's gate. Calls are for `models` models, which are numbers from 0; `one_model`: there are no others to
    leave slots to. `draining` is the replica's.
    """

    def __init__(self, settings: AdmissionSettings, models: int = 1, *, one_model: bool) -> None:
        self.draining = False
        self._capacity = settings.max_inflight
        self._max_queued = settings.max_queued
        self._queue_timeout = float(settings.queue_timeout)
        self._one_model = one_model
        self._all = Slots()
        self._models = [Slots() for _ in range(models)]
        self._queues: dict[int, OrderedDict[int, None]] = {}  # calls by model, oldest first; none is empty
        self._shed = ShedRate()

    def enter(self, call: int, model: int, now: float) -> tuple[Verdict, int | None]:
        """What becomes of it, and the call that was evicted to make room for it."""
        if self._has_slot(model):
            self._take(model, now)
            return "entered", None
        if self._expected_wait(model, now) > self._queue_timeout:
            self._shed.count(call, now)
            return "would_wait_too_long", None
        evicted = None
        if self._all.waiting >= self._max_queued:
            longest = max(self._queues, key=self._length, default=model)
            if self._length(longest) <= self._length(model) + 1:
                self._shed.count(call, now)
                return "queue_full", None
            evicted = next(reversed(self._queues[longest]))
            self._forget(evicted, longest)
            self._shed.count(evicted, now)
        self._queues.setdefault(model, OrderedDict())[call] = None
        self._all.waiting += 1
        return "queued", evicted

    def leave(self, model: int, entered: float, now: float) -> Sequence[tuple[int, int]]:
        """Give a slot back that was taken at `entered`; the calls that enter now, each with its model."""
        self._all.leave(entered, now)
        self._all.taken -= 1
        if not self._one_model:
            self._models[model].leave(entered, now)
            self._models[model].taken -= 1
        return self._let_in(now) if self._queues else ()

    def expire(self, call: int, model: int) -> bool:
        """Its `queue_timeout` is over; whether it was still queued."""
        queued = call in self._queues.get(model, ())
        if queued:
            self._forget(call, model)
        return queued

    def demand(self, now: float) -> float:
        """The autoscaling metric, in requests."""
        if self.draining:
            return 0.0
        return demand(
            inflight=self._all.entered,
            queued=self._all.waiting,
            shed_per_second=self._shed.per_second(now),
            service_time=self._all.mean_service(now),
            capacity=self._capacity,
        )

    def _has_slot(self, model: int) -> bool:
        free = self._capacity - self._all.taken
        return free > 0 and (self._one_model or may_take_one(self._models[model].taken, free))

    def _take(self, model: int, now: float) -> None:
        self._all.taken += 1
        self._all.enter(now)
        if not self._one_model:
            self._models[model].taken += 1
            self._models[model].enter(now)

    def _expected_wait(self, model: int, now: float) -> float:
        slots = self._models[model]
        if self._one_model or slots.taken < SHARE:
            return (self._all.waiting + 1) * self._all.mean_service(now) / self._capacity
        return (self._length(model) + 1) * slots.mean_service(now) / slots.taken

    def _let_in(self, now: float) -> list[tuple[int, int]]:
        """Of those whose model has a slot the oldest, and again: a slot that comes free may let several models in."""
        entered: list[tuple[int, int]] = []
        while True:
            heads = [
                (next(iter(calls)), model) for model, calls in self._queues.items() if self._has_slot(model)
            ]
            if not heads:
                return entered
            call, model = min(heads)
            self._forget(call, model)
            self._take(model, now)
            entered.append((call, model))

    def _length(self, model: int) -> int:
        return len(self._queues.get(model, ()))

    def _forget(self, call: int, model: int) -> None:
        """It waits no longer."""
        del self._queues[model][call]
        if not self._queues[model]:
            del self._queues[model]
        self._all.waiting -= 1
