"""How many provider calls this replica makes at once, which requests wait, and which are refused at once.

A call enters where there is a slot. Otherwise it waits in a queue, first in first out inside its tenant, tenants taking
turns, so that one tenant's flood does not starve the others: a newcomer waits for its own tenant's queue and for the
turns of the others meanwhile, and in a full queue it evicts the newest of the longest one. Nobody waits in vain: a
request of that longest queue, or one that would by the present pace wait longer than `queue_timeout` or past its
deadline, is refused at once with an honest `Retry-After`.

No model takes all slots: each leaves some to the others (`shares`), since a model that hangs gives none back for
minutes. A request whose model has its share waits for a slot of that model, and lets others of the same queue pass.

Hits and followers of a flight do not come here: they hold no provider call. Work that no request waits for (background
refreshes) enters only where there is a slot. Why first in, first out: docs/adr/0011-first-in-first-out.md.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Literal

import msgspec

from dub5.admission.demand import ShedRate, demand
from dub5.admission.drain import Drain
from dub5.errors import Overloaded
from dub5.settings.model import AdmissionSettings
from dub5.shares import SHARE, may_take_one
from dub5.telemetry.metrics import Metrics

SERVICE_WINDOW = 300.0
"""Time constant of the moving average of service times, in seconds."""


class _Waiter(msgspec.Struct, frozen=True, eq=False):
    """A queued request: `slot` has a result when one is there, or the error with which it was evicted.

    `number` grows with each that comes.
    """

    slot: asyncio.Future[None]
    number: int
    model: str
    request: Hashable


class _Queue:
    """One tenant's, oldest first; kept by model, since where one model has its share the others go on."""

    def __init__(self) -> None:
        self.length = 0
        self._by_model: dict[str, deque[_Waiter]] = {}

    def of(self, model: str) -> int:
        """How many wait for it."""
        return len(self._by_model.get(model, ()))

    def longest(self) -> str:
        """The model that most wait for."""
        return max(self._by_model, key=self.of)

    def add(self, waiter: _Waiter) -> None:
        self._by_model.setdefault(waiter.model, deque()).append(waiter)
        self.length += 1

    def take_first(self, has_slot: Callable[[str], bool]) -> _Waiter | None:
        """The oldest whose model has a slot; None where none has."""
        heads = (waiters[0] for model, waiters in self._by_model.items() if has_slot(model))
        waiter = min(heads, key=lambda each: each.number, default=None)
        if waiter is not None:
            self.remove(waiter)
        return waiter

    def take_newest(self, model: str) -> _Waiter:
        waiter = self._by_model[model][-1]
        self.remove(waiter)
        return waiter

    def remove(self, waiter: _Waiter) -> bool:
        """Whether it was still queued."""
        waiters = self._by_model.get(waiter.model, deque())
        try:
            waiters.remove(waiter)
        except ValueError:
            return False
        self.length -= 1
        if not waiters:
            del self._by_model[waiter.model]
        return True


class Slots:
    """Of one model, or of all: how many, for how long, and how many requests wait for one. Pure; `now` is in seconds.

    `taken` are also those whose holders have yet to notice, `entered` those that are held.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.taken = 0
        self.entered = 0
        self._since = 0.0  # sum over those that are held
        # Of those that ended: sum and number, each weighted down by SERVICE_WINDOW since it was `_at`.
        self._seconds = 0.0
        self._weight = 0.0
        self._at = 0.0

    def enter(self, now: float) -> None:
        self.entered += 1
        self._since += now

    def leave(self, entered: float, now: float) -> None:
        self.entered -= 1
        self._since = self._since - entered if self.entered else 0.0
        older = math.exp((self._at - now) / SERVICE_WINDOW)
        self._seconds = self._seconds * older + now - entered
        self._weight = self._weight * older + 1.0
        self._at = now

    def mean_service(self, now: float) -> float:
        """Seconds that a slot is held: exponentially weighted by when calls ended; 0 before the first.

        Those that are held yet are in it with their ages: left out, long ones would be missing. One that goes from one
        call to the next is in it with 0, as in the moment in which its holder notices.
        """
        older = math.exp((self._at - now) / SERVICE_WINDOW)
        weight = self._weight * older + self.taken
        return (self._seconds * older + self.entered * now - self._since) / weight if weight else 0.0


class Slot(msgspec.Struct, frozen=True, gc=False):
    """Room for one call: when it was taken, by the gate's clock, and how many seconds were waited for it."""

    model: str
    entered: float
    waited: float


class Gate:
    """`clock` gives monotonic seconds. `one_model`: there are no others to leave slots to.

    `waiting_elsewhere` counts calls that have a slot here but wait for one at their provider: they are not in
    flight, and no part of the demand, since more replicas would not help them.
    """

    def __init__(
        self,
        settings: AdmissionSettings,
        drain: Drain,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        waiting_elsewhere: Callable[[], int] = lambda: 0,
        *,
        one_model: bool = False,
    ) -> None:
        self._waiting_elsewhere = waiting_elsewhere
        self._capacity = settings.max_inflight
        self._max_queued = settings.max_queued
        self._queue_timeout = float(settings.queue_timeout)
        self._drain = drain
        self._metrics = metrics
        self._clock = clock
        self._one_model = one_model
        self._all = Slots()
        self._models: dict[str, Slots] = {}
        self._queues: dict[str, _Queue] = {}  # by tenant
        self._numbers = itertools.count()
        self._shed = ShedRate()
        metrics.capacity_requests.set(self._capacity)
        metrics.inflight_requests.set_function(self._inflight)
        metrics.queued_requests.set_function(lambda: self._all.waiting)
        metrics.demand_requests.set_function(self.demand)

    async def enter(
        self,
        tenant: str,
        model: str,
        request: Hashable,
        *,
        deadline: float | None = None,
        background: bool = False,
    ) -> Slot:
        """Take a slot, to be given back by `leave` whatever comes.

        Overloaded where there is no slot, or none in time: within `queue_timeout`, or where none is expected before
        the caller's `deadline` by our clock. Once queued, a call waits past that deadline, since others may have joined
        its question; a question that nobody waits for any more is cancelled. `request` is the same for a request that
        is tried again. `model` is a configured or a listed one. `background`: it does not wait.
        """
        arrived = entered = self._clock()
        slots = self._models.get(model)
        if slots is None:
            slots = self._models[model] = Slots()
        if self._has_slot(model):
            self._all.taken += 1
            slots.taken += 1
        elif background:
            raise Overloaded("No room for background work.")
        else:
            await self._wait(tenant, model, request, deadline)
            entered = self._clock()
        self._all.enter(entered)
        slots.enter(entered)
        self._metrics.queue_wait.observe(entered - arrived)
        return Slot(model, entered, entered - arrived)

    def leave(self, slot: Slot) -> None:
        """Give it back."""
        now, model = self._clock(), slot.model
        self._all.leave(slot.entered, now)
        self._models[model].leave(slot.entered, now)
        self._give_back(model)

    def demand(self) -> float:
        """The autoscaling metric; 0 while draining, since this replica's load goes elsewhere."""
        if not self._drain.ready:
            return 0.0
        now = self._clock()
        return demand(
            inflight=self._inflight(),
            queued=self._all.waiting,
            shed_per_second=self._shed.per_second(now),
            service_time=self._all.mean_service(now),
            capacity=self._capacity,
        )

    def _inflight(self) -> int:
        """With those whose holder has yet to notice: a slot that goes from one call to the next is never free."""
        return self._all.taken - self._waiting_elsewhere()

    def _has_slot(self, model: str) -> bool:
        free = self._capacity - self._all.taken
        return free > 0 and (self._one_model or may_take_one(self._models[model].taken, free))

    async def _wait(self, tenant: str, model: str, request: Hashable, deadline: float | None) -> None:
        """Returns when a slot is ours."""
        self._refuse_or_make_room(tenant, model, request, deadline)
        waiter = _Waiter(asyncio.get_running_loop().create_future(), next(self._numbers), model, request)
        self._queues.setdefault(tenant, _Queue()).add(waiter)
        self._count_waiting(model, 1)
        try:
            async with asyncio.timeout(self._queue_timeout):
                await waiter.slot
        except BaseException as error:
            if not waiter.slot.done() or waiter.slot.cancelled():
                self._leave_queue(tenant, waiter)
            elif waiter.slot.exception() is None:  # the slot came in the same moment
                self._give_back(model)
            if isinstance(error, TimeoutError):
                # Not part of the shed rate: it was counted while it was queued.
                raise self._overloaded("queue_timeout", self._expected_wait(tenant, model)) from None
            raise

    def _refuse_or_make_room(
        self, tenant: str, model: str, request: Hashable, deadline: float | None
    ) -> None:
        """Overloaded where a newcomer would wait in vain; where the queue is full, another one may have to go."""
        now, wait = self._clock(), self._expected_wait(tenant, model)
        if wait > self._queue_timeout or (deadline is not None and now + wait > deadline):
            self._shed.count(request, now)
            raise self._overloaded("would_wait_too_long", wait)
        if self._all.waiting < self._max_queued:
            return
        own = self._queues.get(tenant, _Queue())
        longest = max(self._queues, key=lambda each: self._queues[each].length, default=tenant)
        if longest in self._queues and self._queues[longest].length > own.length + 1:
            self._evict_newest(longest)
        elif own.length and own.of(own.longest()) > own.of(model) + 1:
            self._evict_newest(tenant)
        else:
            self._shed.count(request, now)
            raise self._overloaded("queue_full", wait)

    def _evict_newest(self, tenant: str) -> None:
        """Of the model of which most wait in its queue."""
        queue = self._queues[tenant]
        waiter = queue.take_newest(queue.longest())
        self._count_waiting(waiter.model, -1)
        if not waiter.slot.done():  # else it was cancelled in this very moment, and has yet to notice
            self._shed.count(waiter.request, self._clock())
            wait = self._expected_wait(tenant, waiter.model)
            waiter.slot.set_exception(self._overloaded("queue_full", wait))

    def _expected_wait(self, tenant: str, model: str) -> float:
        """Seconds until a newcomer has a slot, at the present pace: they come free every `service / capacity`.

        A request whose model has its share waits for slots, and after those, of that model alone.
        """
        slots = self._models[model]
        if self._one_model or slots.taken < SHARE:
            lengths = {name: queue.length for name, queue in self._queues.items()}
            capacity, service = self._capacity, self._all.mean_service(self._clock())
        else:
            lengths = {name: queue.of(model) for name, queue in self._queues.items()}
            capacity, service = slots.taken, slots.mean_service(self._clock())
        own = lengths.pop(tenant, 0)
        return (own + sum(min(each, own + 1) for each in lengths.values()) + 1) * service / capacity

    def _overloaded(
        self, reason: Literal["queue_full", "would_wait_too_long", "queue_timeout"], wait: float
    ) -> Overloaded:
        self._metrics.shed.labels(reason).inc()
        return Overloaded("The service is at capacity. Try again later.", retry_after=wait)

    def _give_back(self, model: str) -> None:
        """To those who wait: one slot that comes free may let several models have more of what is."""
        self._all.taken -= 1
        self._models[model].taken -= 1
        while self._all.waiting and any(
            each.waiting and self._has_slot(name) for name, each in self._models.items()
        ):
            waiter = self._next_waiter()
            if not waiter.slot.done():  # else it was cancelled in this very moment, and has yet to notice
                self._all.taken += 1
                self._models[waiter.model].taken += 1
                waiter.slot.set_result(None)

    def _next_waiter(self) -> _Waiter:
        """Of the first tenant that has one whose model has a slot; the tenant's others then wait behind all tenants."""
        found = ((name, queue.take_first(self._has_slot)) for name, queue in self._queues.items())
        tenant, waiter = next((name, waiter) for name, waiter in found if waiter is not None)
        self._count_waiting(waiter.model, -1)
        queue = self._queues.pop(tenant)
        if queue.length:
            self._queues[tenant] = queue
        return waiter

    def _count_waiting(self, model: str, more: int) -> None:
        self._all.waiting += more
        self._models[model].waiting += more

    def _leave_queue(self, tenant: str, waiter: _Waiter) -> None:
        """Where it is still in it."""
        queue = self._queues.get(tenant, _Queue())
        if queue.remove(waiter):
            self._count_waiting(waiter.model, -1)
            if not queue.length:
                del self._queues[tenant]
