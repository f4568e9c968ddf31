"""How many provider calls this replica makes at once, who waits, and who is told at once to come back later.

A call enters where there is room. Otherwise it waits, first in first out inside its tenant, tenants taking turns,
so that one tenant's flood does not starve the others: what a newcomer has to wait for is its own tenant's line and the
turns of the others meanwhile, and in a full queue it takes the place of the newest in the longest line. Nobody waits in
vain: whoever is in that longest line, or would by the present pace wait longer than `queue_timeout` or past the
caller's deadline, is turned away at once with an honest `Retry-After`.

Hits and followers of a flight do not come here: they hold no provider call. Work for which nobody waits
(background refreshes) enters only where there is room. Why first in, first out:
docs/adr/0011-first-in-first-out.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Literal

import msgspec

from dub5.admission.demand import ServiceTime, ShedRate, demand
from dub5.admission.drain import Drain
from dub5.errors import Overloaded
from dub5.settings import AdmissionSettings
from dub5.telemetry.metrics import Metrics


class _Turn(msgspec.Struct, frozen=True, eq=False):
    """Somebody in line: `come` has a result when a place is there, or the error with which they are sent away."""

    come: asyncio.Future[None]
    request: Hashable


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
        self._entered = 0
        self._entered_at = 0.0  # sum over those inside
        self._lines: dict[str, deque[_Turn]] = {}
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
        """Hold a place while the block runs; gives the seconds that were waited for it, 0.0 where one was free.

        Overloaded where there is no place, or none in time: within `queue_timeout`, or where none is expected
        before the caller's `deadline` by our clock. Who is let in waits on, since others may have joined the
        question; a question that nobody waits for any more is cancelled. `request` tells a request that is tried
        again from another one.
        """
        arrived = entered = self._clock()
        if self._taken < self._capacity:
            self._taken += 1
        elif background:
            raise Overloaded("No room for background work.")
        else:
            await self._wait_for_turn(tenant, request, deadline)
            entered = self._clock()
        self._entered += 1
        self._entered_at += entered
        self._metrics.queue_wait.observe(entered - arrived)
        try:
            yield entered - arrived
        finally:
            left = self._clock()
            self._entered -= 1
            self._entered_at = self._entered_at - entered if self._entered else 0.0
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
        return self._entered - self._waiting_elsewhere()

    async def _wait_for_turn(self, tenant: str, request: Hashable, deadline: float | None) -> None:
        """Returns when a place is ours."""
        self._refuse_what_would_wait_in_vain(tenant, request, deadline)
        turn = _Turn(asyncio.get_running_loop().create_future(), request)
        self._lines.setdefault(tenant, deque()).append(turn)
        self._queued += 1
        try:
            async with asyncio.timeout(self._queue_timeout):
                await turn.come
        except BaseException as error:
            if not turn.come.done() or turn.come.cancelled():
                self._leave_line(tenant, turn)
            elif turn.come.exception() is None:  # the place came in the same moment
                self._give_place_on()
            if isinstance(error, TimeoutError):
                # Not part of the shed rate: it was counted while it was queued.
                raise self._overloaded("queue_timeout", self._expected_wait(tenant)) from None
            raise

    def _refuse_what_would_wait_in_vain(self, tenant: str, request: Hashable, deadline: float | None) -> None:
        now, wait = self._clock(), self._expected_wait(tenant)
        if wait > self._queue_timeout or (deadline is not None and now + wait > deadline):
            self._shed.count(request, now)
            raise self._overloaded("would_wait_too_long", wait)
        if self._queued < self._max_queued:
            return
        longest = max(self._lines, key=lambda each: len(self._lines[each]), default=tenant)
        if len(self._lines.get(longest, ())) <= len(self._lines.get(tenant, ())) + 1:
            self._shed.count(request, now)
            raise self._overloaded("queue_full", wait)
        self._send_away(longest)

    def _send_away(self, tenant: str) -> None:
        """The newest in its line."""
        turn = self._lines[tenant].pop()
        self._queued -= 1
        if not turn.come.done():  # else it was cancelled in this very moment, and has yet to notice
            self._shed.count(turn.request, self._clock())
            turn.come.set_exception(self._overloaded("queue_full", self._expected_wait(tenant)))

    def _expected_wait(self, tenant: str) -> float:
        """Seconds until a newcomer's turn, at the present pace: places come free every `service / capacity`."""
        own = len(self._lines.get(tenant, ()))
        others = sum(min(len(line), own + 1) for name, line in self._lines.items() if name != tenant)
        return (own + others + 1) * self._mean_service(self._clock()) / self._capacity

    def _mean_service(self, now: float) -> float:
        return self._service.mean(self._entered * now - self._entered_at, self._entered, now)

    def _overloaded(
        self, reason: Literal["queue_full", "would_wait_too_long", "queue_timeout"], wait: float
    ) -> Overloaded:
        self._metrics.shed.labels(reason).inc()
        return Overloaded("The service is at capacity. Try again later.", retry_after=wait)

    def _give_place_on(self) -> None:
        """To the tenant whose turn it is; it goes to the end of the line with its others."""
        while self._lines:
            tenant = next(iter(self._lines))
            line = self._lines.pop(tenant)
            turn = line.popleft()
            if line:
                self._lines[tenant] = line
            self._queued -= 1
            if not turn.come.done():  # else it was cancelled in this very moment, and has yet to notice
                turn.come.set_result(None)
                return
        self._taken -= 1

    def _leave_line(self, tenant: str, turn: _Turn) -> None:
        """Where it still stands in it."""
        line = self._lines.get(tenant, deque())
        with contextlib.suppress(ValueError):
            line.remove(turn)
            self._queued -= 1
        if not line:
            self._lines.pop(tenant, None)
