"""What this replica knows of a provider and of each model there, from its own calls: call it now? how often at once?

A failure is booked on the narrowest account that it is about, so that one model's failures stay its own:

- one model (429, a quota, 5xx, time-outs, an answer that breaks off): its own breaker, pause and concurrency limit;
- the provider (no connection, DNS, TLS, wrong credentials): a breaker of all its models. 5xx and time-outs, and
  nothing else, come to that where two or more models have them and none has had a success in the window;
- one request or one answer (400, 403, 404, 409, 413, 422, 424, malformed): nobody. It answers, so it is there;
- us (a cancelled call, a replica without descriptors or memory): nobody.

From the bottom up: `Breaker` decides whether calls may be made, `ConcurrencyLimit` how many at once; `ProviderHealth`
and `ModelHealth` book each call on them. All take the time as an argument, in monotonic seconds, and do no I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Literal

import msgspec

from dub5.errors import FailureScope, ProviderError
from dub5.shares import may_take_one

State = Literal["closed", "half-open", "open"]

WINDOW = 10.0
"""Seconds over which a breaker takes the share of failures."""
FEWEST_CALLS = 5
"""Calls in the window before their failures mean anything."""
THRESHOLD = 0.5
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 30.0
PROBE_TIMEOUT = 30.0
"""Seconds after which a probe that nobody reported on counts as lost, and another may try."""

DECREASE = 0.7
"""To how much of the running calls a limit falls when the provider pushes back."""
UNLIMITED = 1_000_000
"""Calls at once to a provider that has no connection pool."""
FEWEST_LATENCIES = 20
"""Waits that must be known before any counts as slow."""
MOST_LATENCIES = 200
MOST_MODELS = 1000
"""Models of one provider that are kept in mind, where callers may name any."""

Outcome = Literal["ok", "error", "timeout", "limited", "refused", "cancelled", "overloaded"]
"""How a call ended. `limited`: the provider asked for fewer calls (429); `refused`: the caller's error; `overloaded`:
this replica had no descriptors or memory for it."""

Ending = Literal["well", "pushed back", "otherwise"]
"""What the end of a call means for the concurrency limit."""

_ENDINGS: dict[Outcome, Ending] = {"ok": "well", "timeout": "pushed back", "limited": "pushed back"}


class Breaker:
    """A circuit breaker: a provider, or a model there, that fails is not called for a while. A pure decision.

        closed --(share of failures in the window reaches the threshold)--> open
        open --(pause is over)--> half-open: one call may try
        half-open --(it succeeds)--> closed        half-open --(it fails)--> open, for twice as long
        closed --(the provider asks for fewer calls)--> open --(the pause that it asked for is over)--> closed

    `allows` before each call, then `succeeded`, `failed` or `abandoned`, once, with the time at which the call `began`:
    while the breaker is not closed, only calls since it opened count. The shape is that of M. Nygard, "Release It!",
    2007; the share over a window, rather than failures in a row, keeps one slow stretch among thousands of calls from
    opening it.
    """

    def __init__(self) -> None:
        self.opened = float("-inf")
        self.open_until: float | None = None  # None while it is closed
        self._calls: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._probing_since: float | None = None
        self._resting = False  # whether it is open for a pause alone

    def state(self, now: float) -> State:
        if self.open_until is None:
            return "closed"
        if now < self.open_until:
            return "open"
        return "closed" if self._resting else "half-open"

    def retry_after(self, now: float) -> float:
        """Seconds until the next call may try; 0 where one may now."""
        return max(0.0, (self.open_until or now) - now)

    def would_allow(self, now: float) -> bool:
        """What `allows` would say."""
        state = self.state(now)
        if state != "half-open":
            return state == "closed"
        return self._probing_since is None or now - self._probing_since >= PROBE_TIMEOUT

    def allows(self, now: float) -> bool:
        """Whether a call may be made; in half-open, that it is the one."""
        allowed = self.would_allow(now)
        if allowed and self.open_until is not None:
            self._probing_since = now
        return allowed

    def succeeded(self, began: float, now: float) -> None:
        if self.open_until is not None:
            if began < self.opened:
                return
            self._close()
        calls = self._calls
        calls.append((now, False))
        while calls[0][0] <= now - WINDOW:
            self._failures -= calls.popleft()[1]

    def failed(self, began: float, now: float, *, pause: float | None = None) -> None:
        """`pause` is what the provider itself asked for (`Retry-After`): it is not called for that long."""
        if self._resting and self.state(now) == "closed":
            self._close()
        if self.open_until is not None:
            if began >= self.opened:
                self.trip(now, pause)
            elif pause is not None:
                self._stay_open(now, pause)
            return
        calls = self._calls
        calls.append((now, True))
        self._failures += 1
        while calls[0][0] <= now - WINDOW:
            self._failures -= calls.popleft()[1]
        if pause is not None or (len(calls) >= FEWEST_CALLS and self._failures >= THRESHOLD * len(calls)):
            self.trip(now, pause)

    def limited(self, began: float, now: float, pause: float) -> None:
        """The provider works, and asked for fewer calls and for this `pause`: after it they go on.

        With one try at a time first, all others would be refused for as long as an answer takes. Where the pause is
        longer than it is kept here, or the breaker is open for failures, it is one more.
        """
        if pause > LONGEST_PAUSE or (self.open_until is not None and not self._resting):
            self.failed(began, now, pause=pause)
            return
        self._stay_open(now, pause)
        self.opened, self._resting = now, True

    def trip(self, now: float, pause: float | None = None) -> None:
        """Open it, also for what is known from elsewhere; where it was half-open, for twice as long as before."""
        if self.open_until is not None:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._stay_open(now, self._pause if pause is None else pause)
        self.opened = now
        self._probing_since, self._resting = None, False

    def abandoned(self, began: float) -> None:
        """The call says nothing about whether the provider works, or nothing that is for this breaker to judge."""
        if self.open_until is None or began >= self.opened:
            self._probing_since = None

    def _close(self) -> None:
        self.open_until, self._probing_since, self._pause, self._resting = None, None, FIRST_PAUSE, False
        self._calls.clear()
        self._failures = 0

    def _stay_open(self, now: float, pause: float) -> None:
        until = now + min(max(pause, 0.0), LONGEST_PAUSE)
        self.open_until = max(self.open_until or 0.0, until)


class Pool:
    """Slots for calls to one provider, whatever the model: `size` of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.models = 0
        self.running = 0
        self.waiting: dict[ConcurrencyLimit, None] = {}

    def admit(self) -> None:
        """Give free slots to waiting calls: one to each model in turn, so that none takes all."""
        admitted = True
        while admitted:
            admitted = False
            for limit in list(self.waiting):
                if self.running >= self.size:
                    return
                if limit.admit():
                    admitted = True
                    self.waiting[limit] = self.waiting.pop(limit)  # to the end of the round
                if not limit.waiting:
                    del self.waiting[limit]


class ConcurrencyLimit:
    """How many calls one model is given at once: less where it pushes back, a little more where it does not.

    Additive increase, multiplicative decrease (Chiu and Jain, 1989), as TCP does it:

    - Calls that end well while the limit is in use raise it: by one for each `limit` of them, up to the pool's size.
    - A 429 or a time-out lowers it to DECREASE of what was running. One for each round: calls that began before the
      last decrease say nothing about it.

    All models of a provider share its pool of connections, of which each leaves something to the others (`shares`).
    Each replica learns for itself, so together they come to what the provider gives all of them. A call that finds no
    slot waits in a queue. `enter`, `try_enter` or `enter_anyway` before each call, and `left` after it, once.
    """

    def __init__(self, pool: Pool) -> None:
        pool.models += 1
        self.running = 0
        self.waiting = 0
        """Calls, with those that were cancelled and have yet to notice: until then they are not under way either."""
        self._pool = pool
        self._limit = float(pool.size)
        self._decreased = float("-inf")
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        return int(self._limit)

    @property
    def may_wait(self) -> bool:
        """Whether one more may wait for a slot: as many as there are slots."""
        return self.waiting < self.limit

    def try_enter(self, *, from_queue: bool = False) -> bool:
        """Take a slot where one is free: for the first of the queue, or where there is no queue."""
        pool, running = self._pool, self.running
        left = pool.size - pool.running
        if left <= 0 or running >= int(self._limit) or (self._queue and not from_queue):
            return False
        if pool.models > 1 and not may_take_one(running, left):
            return False
        self.running = running + 1
        pool.running += 1
        return True

    def enter_anyway(self) -> None:
        """Take a slot even where none is free: for the one call that tries whether the model is back."""
        self.running += 1
        self._pool.running += 1

    async def enter(self, timeout: float) -> None:
        """Wait for a slot, first in first out. TimeoutError after `timeout` seconds."""
        if self.try_enter():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        self.waiting += 1
        self._pool.waiting[self] = None
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():  # the slot came in the same moment
                self.left()
            else:
                with contextlib.suppress(ValueError):
                    self._queue.remove(waiter)
                self.waiting -= 1
                if not self.waiting:
                    self._pool.waiting.pop(self, None)
            raise

    def left(self, ending: Ending = "otherwise", *, began: float = 0.0, now: float = 0.0) -> None:
        """A slot comes back: of a call that began at `began`, or without more of one that was never made."""
        if ending == "well" and self.running >= int(self._limit):
            self._limit = min(self._limit + 1 / self._limit, float(self._pool.size))
        elif ending == "pushed back" and began >= self._decreased:
            self._limit = max(1.0, min(self._limit, self.running) * DECREASE)
            self._decreased = now
        self.running -= 1
        self._pool.running -= 1
        if self._pool.waiting:
            self._pool.admit()

    def admit(self) -> bool:
        """Let the first of the queue in, where this model has a slot; whether one was let in."""
        queue = self._queue
        while queue and queue[0].done():  # it was cancelled
            queue.popleft()
        if not queue or not self.try_enter(from_queue=True):
            return False
        queue.popleft().set_result(None)
        self.waiting -= 1
        return True


class Latencies:
    """The latest waits for answers of one model at one provider, in seconds: what a hedge takes for slow."""

    def __init__(self) -> None:
        self.waits: deque[float] = deque(maxlen=MOST_LATENCIES)

    def p95(self) -> float | None:
        """The wait that 95 % stay under; None while too few are known."""
        if len(self.waits) < FEWEST_LATENCIES:
            return None
        return sorted(self.waits)[math.ceil(0.95 * len(self.waits)) - 1]


class LastFailure(msgspec.Struct, frozen=True):
    """What callers are answered while a breaker is open, of the failure that opened it; the error's own where None."""

    status: int | None = None
    type: str | None = None
    code: str | None = None
    should_retry: bool | None = None

    @classmethod
    def of(cls, error: ProviderError) -> LastFailure:
        """A rate or a quota has its status and code; of anything else only whether to ask again."""
        if error.status == 429:
            return cls(error.status, error.type, error.code, error.should_retry)
        return cls(should_retry=error.should_retry)


NOTHING = LastFailure()


class ProviderHealth:
    """One provider's, shared by all its models. `size`: calls at once over all of them.

    `rejected` is called for each call that found no slot and was not let wait for one.
    """

    def __init__(self, size: int = UNLIMITED, rejected: Callable[[], object] = lambda: None) -> None:
        self.breaker = Breaker()
        self.rejected = rejected
        self.pool = Pool(size)
        self.last_failure = NOTHING
        self.models: dict[str, ModelHealth] = {}
        self.succeeded = float("-inf")  # when a call last had an answer, of whatever model
        self._failures: deque[float] = deque(maxlen=FEWEST_CALLS)
        self._failing: dict[str, float] = {}  # time of the latest failure by model, oldest first
        self._tripped = False  # whether it was opened for what several models had

    def of(self, model: str) -> ModelHealth:
        """One model's, by the provider's name of it; past MOST_MODELS the one named longest ago is forgotten."""
        health = self.models.pop(model, None)
        if health is None:
            while len(self.models) >= MOST_MODELS:
                oldest = next(iter(self.models))
                del self.models[oldest]
                self._failing.pop(oldest, None)
            health = ModelHealth(self, model)
        self.models[model] = health
        return health

    def waiting(self) -> int:
        """Calls that wait for a slot, over all models: also those that are forgotten meanwhile."""
        return sum(limit.waiting for limit in self.pool.waiting)

    def state_for(self, model: str, now: float) -> State:
        """As one model meets it. Where others tripped it, it need not wait for their probes: it decides for itself."""
        state = self.breaker.state(now)
        own = self._failing.get(model, float("-inf")) > self.breaker.opened - WINDOW
        return "closed" if state == "half-open" and self._tripped and not own else state

    def failed(self, began: float, now: float, pause: float | None, failure: LastFailure) -> None:
        """What is about all of it: no connection, or refused credentials."""
        self.breaker.failed(began, now, pause=pause)
        self.last_failure = failure
        self._tripped = False

    def model_failed(self, model: str, began: float, now: float) -> None:
        """A 5xx or a time-out of one model; it is the provider's where another one fails too.

        A half-open probe of one model decides for that model: the next one may try for the provider.
        """
        self._failures.append(now)
        self._failing.pop(model, None)
        self._failing[model] = now
        self.breaker.abandoned(began)
        state = self.breaker.state(now)
        since = now - WINDOW if state == "closed" else self.breaker.opened
        if (
            sum(each > since for each in islice(reversed(self._failing.values()), 2)) < 2
            or self.succeeded > since
        ):
            return
        enough = len(self._failures) == FEWEST_CALLS and self._failures[0] > since
        if (state == "half-open" or (state == "closed" and enough)) and not self._others_running(since):
            self.breaker.trip(now)
            self.last_failure = NOTHING
            self._tripped = True

    def _others_running(self, since: float) -> bool:
        """Whether a model that has not failed has calls in flight: it may yet show that the provider is well."""
        return any(
            health.concurrency.running
            for name, health in self.models.items()
            if self._failing.get(name, float("-inf")) <= since
        )


class ModelHealth:
    """One model's at one provider, whatever name callers have for it. Each call is booked once, at its end."""

    def __init__(self, provider: ProviderHealth, name: str) -> None:
        self.breaker = Breaker()
        self.concurrency = ConcurrencyLimit(provider.pool)
        self.first_tokens, self.wholes = Latencies(), Latencies()
        self.rejected = provider.rejected
        self._last_failure = NOTHING
        self._provider = provider
        self._name = name

    def state(self, now: float) -> State:
        """As the callers of this model meet it: the worse of its own breaker and the provider's."""
        if self.breaker.open_until is None and self._provider.breaker.open_until is None:
            return "closed"
        states = {self._provider.state_for(self._name, now), self.breaker.state(now)}
        return "open" if "open" in states else "half-open" if "half-open" in states else "closed"

    def retry_after(self, now: float) -> float:
        """Seconds until the next call may try; 0 where one may now."""
        return max(self._provider.breaker.retry_after(now), self.breaker.retry_after(now))

    def last_failure(self, now: float) -> LastFailure:
        """Why it is not called: its own latest failure, or the provider's, whichever breaker is open for longer."""
        provider = self._provider
        own = self.breaker.retry_after(now) >= provider.breaker.retry_after(now)
        return self._last_failure if own else provider.last_failure

    def try_enter(self, now: float) -> bool:
        """Take a slot for a call, where one may begin now.

        The call that tries whether the model is back needs no free slot: those that still run since before it broke
        may hold more than there are now.
        """
        # Nearly always neither breaker is open, and there is nothing to weigh.
        both_closed = self.breaker.open_until is None and self._provider.breaker.open_until is None
        if both_closed or self.state(now) == "closed":
            return self.concurrency.try_enter()
        if not self.allows(now):
            return False
        self.concurrency.enter_anyway()
        return True

    def allows(self, now: float) -> bool:
        """Whether a call may be made; in half-open, that it is the one."""
        breakers = [self.breaker]
        if self._provider.state_for(self._name, now) != "closed":
            breakers.append(self._provider.breaker)
        return all(breaker.would_allow(now) for breaker in breakers) and all(
            breaker.allows(now) for breaker in breakers
        )

    def worked(self, *, began: float, now: float) -> None:
        """A stream has begun to answer; should it break off later, that is a failure of its own."""
        self._provider.succeeded = now
        self._provider.breaker.succeeded(began, now)
        self.breaker.succeeded(began, now)

    def ended(
        self,
        outcome: Outcome,
        scope: FailureScope | None,
        *,
        began: float,
        now: float,
        worked: bool,
        pause: float | None,
        failure: LastFailure = NOTHING,
    ) -> None:
        """`scope`: what a failure is about, None where it is nobody's. `worked`: that was reported before.

        `pause`: seconds for which the provider asked not to be called. `failure`: what callers are answered meanwhile.
        """
        self.concurrency.left(_ENDINGS.get(outcome, "otherwise"), began=began, now=now)
        if scope == "model" or scope == "server":
            self._last_failure = failure
            if outcome == "limited" and pause is not None:
                self.breaker.limited(began, now, pause)
            else:
                self.breaker.failed(began, now, pause=pause)
            if scope == "server":
                self._provider.model_failed(self._name, began, now)
            else:  # it answers: whatever it is, the other models need not have it
                self._provider.breaker.abandoned(began)
        elif scope == "provider":
            self.breaker.abandoned(began)
            self._provider.failed(began, now, pause, failure)
        elif outcome in {"ok", "refused"} or scope == "request":
            if not worked:
                self.worked(began=began, now=now)
        elif not worked:
            self._abandoned(began)

    def unused(self, began: float) -> None:
        """The slot was taken for a call that was not made."""
        self.concurrency.left()
        self._abandoned(began)

    def _abandoned(self, began: float) -> None:
        self.breaker.abandoned(began)
        self._provider.breaker.abandoned(began)
