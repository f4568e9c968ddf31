"""How many provider calls this replica makes at once, who waits, and who is told at once to come back later.

A call enters where there is room. Otherwise it waits, first in first out inside its tenant, tenants taking turns,
so that one tenant's flood does not starve the others. Nobody waits in vain: whoever finds the queue full, or would
by the present pace wait longer than `queue_timeout` or past the caller's deadline, is turned away at once with an
honest `Retry-After`.

Hits and followers of a flight do not come here: they hold no provider call. Work for which nobody waits
(background refreshes) enters only where there is room. Why first in, first out:
docs/adr/0011-first-in-first-out.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Literal

from dub5.admission.demand import ServiceTime, ShedRate, demand
from dub5.admission.drain import Drain
from dub5.errors import Overloaded
from dub5.settings import AdmissionSettings
from dub5.telemetry.metrics import Metrics

_Turn = asyncio.Future[None]


class Gate:
    """`clock` gives monotonic seconds.

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
    ) -> None:
        self._waiting_elsewhere = waiting_elsewhere
        self._capacity = settings.max_inflight
        self._max_queued = settings.max_queued
        self._queue_timeout = float(settings.queue_timeout)
        self._drain = drain
        self._metrics = metrics
        self._clock = clock
        self._taken = 0
        self._ids = itertools.count()
        self._entered: dict[int, float] = {}
        self._waiting: dict[str, deque[_Turn]] = {}
        self._queued = 0
        self._shed = ShedRate()
        self._service = ServiceTime()
        metrics.capacity_requests.set(self._capacity)
        metrics.inflight_requests.set_function(self._inflight)
        metrics.queued_requests.set_function(lambda: self._queued)
        metrics.demand_requests.set_function(self.demand)

    @contextlib.asynccontextmanager
    async def admitted(
        self, tenant: str, request: Hashable, *, deadline: float | None = None, background: bool = False
    ) -> AsyncIterator[float]:
        """Hold a place while the block runs; gives the seconds that were waited for it.

        Overloaded where there is no place, or none in time: within `queue_timeout`, and before the caller's
        `deadline` by our clock. `request` tells a request that is tried again from another one.
        """
        arrived = self._clock()
        if self._taken < self._capacity:
            self._taken += 1
        elif background:
            raise Overloaded("No room for background work.")
        else:
            await self._wait_for_turn(tenant, request, deadline)
        place, entered = next(self._ids), self._clock()
        self._entered[place] = entered
        self._metrics.queue_wait.observe(entered - arrived)
        try:
            yield entered - arrived
        finally:
            del self._entered[place]
            left = self._clock()
            self._service.ended(left - entered, left)
            self._give_place_on()

    def demand(self) -> float:
        """The autoscaling metric; 0 while draining, since this replica's load goes elsewhere."""
        if not self._drain.ready:
            return 0.0
        now = self._clock()
        return demand(
            inflight=self._inflight(),
            queued=self._queued,
            shed_per_second=self._shed.per_second(now),
            service_time=self._mean_service(now),
            capacity=self._capacity,
        )

    def _inflight(self) -> int:
        return len(self._entered) - self._waiting_elsewhere()

    async def _wait_for_turn(self, tenant: str, request: Hashable, deadline: float | None) -> None:
        """Returns when a place is ours."""
        patience = self._queue_timeout
        if deadline is not None:
            patience = min(patience, deadline - self._clock())
        self._refuse_what_would_wait_in_vain(request, patience)
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        self._queued += 1
        try:
            async with asyncio.timeout(patience):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # the place came in the same moment
                self._give_place_on()
            else:
                self._leave_queue(tenant, turn)
            if isinstance(error, TimeoutError):
                # Not part of the shed rate: it was counted while it was queued.
                raise self._overloaded("queue_timeout") from None
            raise

    def _refuse_what_would_wait_in_vain(self, request: Hashable, patience: float) -> None:
        full = self._queued >= self._max_queued
        if full or self._expected_wait() > patience:
            self._shed.count(request, self._clock())
            raise self._overloaded("queue_full" if full else "would_wait_too_long")

    def _expected_wait(self) -> float:
        """Seconds until a newcomer's turn, at the present pace: places come free every `service / capacity`."""
        return (self._queued + 1) * self._mean_service(self._clock()) / self._capacity

    def _mean_service(self, now: float) -> float:
        return self._service.mean((now - entered for entered in self._entered.values()), now)

    def _overloaded(
        self, reason: Literal["queue_full", "would_wait_too_long", "queue_timeout"]
    ) -> Overloaded:
        self._metrics.shed.labels(reason).inc()
        return Overloaded("The service is at capacity. Try again later.", retry_after=self._expected_wait())

    def _give_place_on(self) -> None:
        """To the tenant whose turn it is; it goes to the end of the line with its others."""
        while self._waiting:
            tenant = next(iter(self._waiting))
            turns = self._waiting.pop(tenant)
            turn = turns.popleft()
            if turns:
                self._waiting[tenant] = turns
            self._queued -= 1
            if not turn.done():  # else it was cancelled in this very moment, and has yet to notice
                turn.set_result(None)
                return
        self._taken -= 1

    def _leave_queue(self, tenant: str, turn: _Turn) -> None:
        """Where it still stands in line."""
        turns = self._waiting.get(tenant, deque())
        with contextlib.suppress(ValueError):
            turns.remove(turn)
            self._queued -= 1
        if not turns:
            self._waiting.pop(tenant, None)
