"""How many provider calls this replica makes at once, who waits, and who is told at once to come back later.

A call enters where there is room. Otherwise it waits, first in first out inside its tenant, tenants taking turns,
so that one tenant's flood does not starve the others: what a newcomer has to wait for is its own tenant's line and the
turns of the others meanwhile, and in a full queue it takes the place of the newest in the longest line. Nobody waits in
vain: whoever is in that longest line, or would by the present pace wait longer than `queue_timeout` or past the
caller's deadline, is turned away at once with an honest `Retry-After`.

No model takes all places: each leaves some to the others (`shares`), since a model that hangs gives none back for
minutes. Whose model has its share waits for a place of that model, and lets others in the same line pass.

Hits and followers of a flight do not come here: they hold no provider call. Work for which nobody waits
(background refreshes) enters only where there is room. Why first in, first out:
docs/adr/0011-first-in-first-out.md.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Literal

import msgspec

from dub5.admission.demand import ServiceTime, ShedRate, demand
from dub5.admission.drain import Drain
from dub5.errors import Overloaded
from dub5.settings.model import AdmissionSettings
from dub5.shares import SHARE, may_take_one
from dub5.telemetry.metrics import Metrics


class _Turn(msgspec.Struct, frozen=True, eq=False):
    """Somebody in line: `come` has a result when a place is there, or the error with which they are sent away.

    `number` grows with each that comes.
    """

    come: asyncio.Future[None]
    number: int
    model: str
    request: Hashable


class _Line:
    """One tenant's, oldest first; kept by model, since where one model has its share the others go on."""

    def __init__(self) -> None:
        self.length = 0
        self._by_model: dict[str, deque[_Turn]] = {}

    def of(self, model: str) -> int:
        """How many wait for it."""
        return len(self._by_model.get(model, ()))

    def longest(self) -> str:
        """The model that most wait for."""
        return max(self._by_model, key=self.of)

    def join(self, turn: _Turn) -> None:
        self._by_model.setdefault(turn.model, deque()).append(turn)
        self.length += 1

    def take_first(self, has_place: Callable[[str], bool]) -> _Turn | None:
        """The oldest whose model has a place; None where none has."""
        heads = (turns[0] for model, turns in self._by_model.items() if has_place(model))
        turn = min(heads, key=lambda each: each.number, default=None)
        if turn is not None:
            self.leave(turn)
        return turn

    def take_newest(self, model: str) -> _Turn:
        turn = self._by_model[model][-1]
        self.leave(turn)
        return turn

    def leave(self, turn: _Turn) -> bool:
        """Whether it still stood in line."""
        turns = self._by_model.get(turn.model, deque())
        try:
            turns.remove(turn)
        except ValueError:
            return False
        self.length -= 1
        if not turns:
            del self._by_model[turn.model]
        return True


class _Held:
    """Places, for how long they are held, and who waits. `taken` are also those whose holders have yet to notice."""

    def __init__(self) -> None:
        self.waiting = 0
        self.taken = 0
        self.entered = 0
        self._since = 0.0  # sum over those inside
        self._service = ServiceTime()

    def enter(self, now: float) -> None:
        self.entered += 1
        self._since += now

    def leave(self, entered: float, now: float) -> None:
        self.entered -= 1
        self._since = self._since - entered if self.entered else 0.0
        self._service.ended(now - entered, now)

    def mean_service(self, now: float) -> float:
        return self._service.mean(self.entered * now - self._since, self.entered, now)


class Gate:
    """`clock` gives monotonic seconds. `one_model`: there are no others to leave places to.

    `waiting_elsewhere` counts calls that have a place here but wait for one at their provider: they are not in
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
        self._all = _Held()
        self._held: dict[str, _Held] = {}  # by model
        self._lines: dict[str, _Line] = {}  # by tenant
        self._numbers = itertools.count()
        self._shed = ShedRate()
        metrics.capacity_requests.set(self._capacity)
        metrics.inflight_requests.set_function(self._inflight)
        metrics.queued_requests.set_function(lambda: self._all.waiting)
        metrics.demand_requests.set_function(self.demand)

    def admitted(
        self,
        tenant: str,
        model: str,
        request: Hashable,
        *,
        deadline: float | None = None,
        background: bool = False,
    ) -> Admission:
        """Hold a slot while the block runs; gives the seconds that were waited for it, 0.0 where one was free.

        Overloaded where there is no slot, or none in time: within `queue_timeout`, or where none is expected before
        the caller's `deadline` by our clock. Once queued, a call waits past that deadline, since others may have joined
        its question; a question that nobody waits for any more is cancelled. `request` is the same for a request that
        is tried again. `model` is one of those that are configured.
        """
        return Admission(self, tenant, model, request, deadline, background)

    async def enter(
        self, tenant: str, model: str, request: Hashable, deadline: float | None, background: bool
    ) -> tuple[float, float]:
        """When the slot was taken, and for how long it was waited for. See `admitted`."""
        arrived = entered = self._clock()
        held = self._held.get(model)
        if held is None:
            held = self._held[model] = _Held()
        if self._has_place(model):
            self._take(model)
        elif background:
            raise Overloaded("No room for background work.")
        else:
            await self._wait_for_turn(tenant, model, request, deadline)
            entered = self._clock()
        self._all.enter(entered)
        held.enter(entered)
        self._metrics.queue_wait.observe(entered - arrived)
        return entered, entered - arrived

    def leave(self, model: str, entered: float) -> None:
        """Give back the slot that was taken at `entered`."""
        now = self._clock()
        self._all.leave(entered, now)
        self._held[model].leave(entered, now)
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
        return self._all.entered - self._waiting_elsewhere()

    def _has_place(self, model: str) -> bool:
        free = self._capacity - self._all.taken
        return free > 0 and (self._one_model or may_take_one(self._held[model].taken, free))

    def _take(self, model: str) -> None:
        self._all.taken += 1
        self._held[model].taken += 1

    async def _wait_for_turn(
        self, tenant: str, model: str, request: Hashable, deadline: float | None
    ) -> None:
        """Returns when a place is ours."""
        self._refuse_what_would_wait_in_vain(tenant, model, request, deadline)
        turn = _Turn(asyncio.get_running_loop().create_future(), next(self._numbers), model, request)
        self._lines.setdefault(tenant, _Line()).join(turn)
        self._count_waiting(model, 1)
        try:
            async with asyncio.timeout(self._queue_timeout):
                await turn.come
        except BaseException as error:
            if not turn.come.done() or turn.come.cancelled():
                self._leave_line(tenant, turn)
            elif turn.come.exception() is None:  # the place came in the same moment
                self._give_back(model)
            if isinstance(error, TimeoutError):
                # Not part of the shed rate: it was counted while it was queued.
                raise self._overloaded("queue_timeout", self._expected_wait(tenant, model)) from None
            raise

    def _refuse_what_would_wait_in_vain(
        self, tenant: str, model: str, request: Hashable, deadline: float | None
    ) -> None:
        now, wait = self._clock(), self._expected_wait(tenant, model)
        if wait > self._queue_timeout or (deadline is not None and now + wait > deadline):
            self._shed.count(request, now)
            raise self._overloaded("would_wait_too_long", wait)
        if self._all.waiting < self._max_queued:
            return
        own = self._lines.get(tenant, _Line())
        longest = max(self._lines, key=lambda each: self._lines[each].length, default=tenant)
        if longest in self._lines and self._lines[longest].length > own.length + 1:
            self._send_away(longest)
        elif own.length and own.of(own.longest()) > own.of(model) + 1:
            self._send_away(tenant)
        else:
            self._shed.count(request, now)
            raise self._overloaded("queue_full", wait)

    def _send_away(self, tenant: str) -> None:
        """The newest of the model of which most wait in its line."""
        line = self._lines[tenant]
        turn = line.take_newest(line.longest())
        self._count_waiting(turn.model, -1)
        if not turn.come.done():  # else it was cancelled in this very moment, and has yet to notice
            self._shed.count(turn.request, self._clock())
            wait = self._expected_wait(tenant, turn.model)
            turn.come.set_exception(self._overloaded("queue_full", wait))

    def _expected_wait(self, tenant: str, model: str) -> float:
        """Seconds until a newcomer's turn, at the present pace: places come free every `service / capacity`.

        Who waits since the model has its share waits for places, and after those, of that model alone.
        """
        held = self._held[model]
        if self._one_model or held.taken < SHARE:
            lengths = {name: line.length for name, line in self._lines.items()}
            places, service = self._capacity, self._all.mean_service(self._clock())
        else:
            lengths = {name: line.of(model) for name, line in self._lines.items()}
            places, service = held.taken, held.mean_service(self._clock())
        own = lengths.pop(tenant, 0)
        return (own + sum(min(each, own + 1) for each in lengths.values()) + 1) * service / places

    def _overloaded(
        self, reason: Literal["queue_full", "would_wait_too_long", "queue_timeout"], wait: float
    ) -> Overloaded:
        self._metrics.shed.labels(reason).inc()
        return Overloaded("The service is at capacity. Try again later.", retry_after=wait)

    def _give_back(self, model: str) -> None:
        """To those whose turn it is: one place that comes free may let several models have more of what is."""
        self._all.taken -= 1
        self._held[model].taken -= 1
        while self._all.waiting and any(
            each.waiting and self._has_place(name) for name, each in self._held.items()
        ):
            turn = self._next()
            if not turn.come.done():  # else it was cancelled in this very moment, and has yet to notice
                self._take(turn.model)
                turn.come.set_result(None)

    def _next(self) -> _Turn:
        """Of the first tenant that has one whose model has a place; it goes to the end of the line with its others."""
        found = ((name, line.take_first(self._has_place)) for name, line in self._lines.items())
        tenant, turn = next((name, turn) for name, turn in found if turn is not None)
        self._count_waiting(turn.model, -1)
        line = self._lines.pop(tenant)
        if line.length:
            self._lines[tenant] = line
        return turn

    def _count_waiting(self, model: str, more: int) -> None:
        self._all.waiting += more
        self._held[model].waiting += more

    def _leave_line(self, tenant: str, turn: _Turn) -> None:
        """Where it still stands in it."""
        line = self._lines.get(tenant, _Line())
        if line.leave(turn):
            self._count_waiting(turn.model, -1)
            if not line.length:
                del self._lines[tenant]


class Admission:
    """One call's slot: see `Gate.admitted`. A class, since a generator would cost each call twice as much."""

    __slots__ = ("_asked", "_entered", "_gate", "_model")

    def __init__(
        self,
        gate: Gate,
        tenant: str,
        model: str,
        request: Hashable,
        deadline: float | None,
        background: bool,
    ) -> None:
        self._gate = gate
        self._model = model
        self._asked = (tenant, model, request, deadline, background)
        self._entered = 0.0

    async def __aenter__(self) -> float:
        self._entered, waited = await self._gate.enter(*self._asked)
        return waited

    async def __aexit__(self, *_: object) -> None:
        self._gate.leave(self._model, self._entered)
