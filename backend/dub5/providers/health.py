"""What this replica knows of a provider and of each model there, from its own calls: ask now? how much at once?

A failure is booked on the narrowest account that it is about, so that one model's trouble stays its own:

- one model (429, a quota, 5xx, time-outs, an answer that breaks off): its own breaker, pause and concurrency limit;
- the provider (no connection, DNS, TLS, wrong credentials): a breaker of all its models. 5xx and time-outs, and
  nothing else, come to that where two or more models have them and none has had a success in the window;
- one request or one answer (400, 403, 404, 409, 413, 422, 424, malformed): nobody. It answers, so it is there;
- us (a cancelled call, a replica without descriptors or memory): nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Literal

import msgspec

from dub5.errors import FailureScope, ProviderError
from dub5.providers.breaker import FEWEST_CALLS, WINDOW, Breaker, State
from dub5.providers.concurrency import ConcurrencyLimit, Ending, Pool
from dub5.providers.hedging import Pace

Outcome = Literal["ok", "error", "timeout", "limited", "refused", "cancelled", "overloaded"]
"""How a call ended. `limited`: the provider asked for fewer calls (429); `refused`: the caller's error; `overloaded`:
this replica had no descriptors or memory for it."""

_ENDINGS: dict[Outcome, Ending] = {"ok": "well", "timeout": "pushed back", "limited": "pushed back"}


class Told(msgspec.Struct, frozen=True):
    """Of a failure what callers are told again while a model is left alone for it; the class's own where absent."""

    status: int | None = None
    type: str | None = None
    code: str | None = None
    should_retry: bool | None = None

    @classmethod
    def by(cls, error: ProviderError) -> Told:
        """A rate or a quota has its status and code; of anything else only whether to ask again."""
        if error.status == 429:
            return cls(error.status, error.type, error.code, error.should_retry)
        return cls(should_retry=error.should_retry)


NOTHING = Told()

UNLIMITED = 1_000_000
"""Calls at once to a provider that has no connection pool."""

MOST_MODELS = 1000
"""Models of one provider that are kept in mind, where callers may name any."""


class ProviderHealth:
    """One provider's, shared by all its models. `most`: calls at once over all of them.

    `rejected` is called for each call that found no place and was not let wait for one.
    """

    def __init__(self, most: int = UNLIMITED, rejected: Callable[[], object] = lambda: None) -> None:
        self.breaker = Breaker()
        self.rejected = rejected
        self.pool = Pool(most)
        self.told = NOTHING
        self.models: dict[str, ModelHealth] = {}
        self._succeeded = float("-inf")
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
        """Calls that wait for a place, over all models."""
        return sum(health.concurrency.waiting for health in self.models.values())

    def state_for(self, model: str, now: float) -> State:
        """As one model meets it. Where others tripped it, it need not wait for their probes: it decides for itself."""
        state = self.breaker.state(now)
        own = self._failing.get(model, float("-inf")) > self.breaker.opened - WINDOW
        return "closed" if state == "half-open" and self._tripped and not own else state

    def failed(self, began: float, now: float, pause: float | None, told: Told) -> None:
        """What is about all of it: no connection, or refused credentials."""
        self.breaker.failed(began, now, pause=pause)
        self.told = told
        self._tripped = False

    def succeeded(self, began: float, now: float) -> None:
        self._succeeded = now
        self.breaker.succeeded(began, now)

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
            or self._succeeded > since
        ):
            return
        enough = len(self._failures) == FEWEST_CALLS and self._failures[0] > since
        if (state == "half-open" or (state == "closed" and enough)) and not self._others_running(since):
            self.breaker.trip(now)
            self.told = NOTHING
            self._tripped = True

    def _others_running(self, since: float) -> bool:
        """Whether a model that has not failed has calls under way: it may yet show that the provider is well."""
        return any(
            health.concurrency.running
            for name, health in self.models.items()
            if self._failing.get(name, float("-inf")) <= since
        )


class ModelHealth:
    """One model's at one provider, whoever asks for it under whatever name. Each call is reported once, at its end."""

    def __init__(self, provider: ProviderHealth, name: str) -> None:
        self.breaker = Breaker()
        self.concurrency = ConcurrencyLimit(provider.pool)
        self.first_tokens, self.wholes = Pace(), Pace()
        self.rejected = provider.rejected
        self._told = NOTHING
        self._provider = provider
        self._name = name

    def state(self, now: float) -> State:
        """As the callers of this model meet it: the worse of its own breaker and the provider's."""
        states = {self._provider.state_for(self._name, now), self.breaker.state(now)}
        return "open" if "open" in states else "half-open" if "half-open" in states else "closed"

    def retry_after(self, now: float) -> float:
        """Seconds until the next call may try; 0 where one may now."""
        return max(self._provider.breaker.retry_after(now), self.breaker.retry_after(now))

    def told(self, now: float) -> Told:
        """What to say of why it is left alone: its own latest failure, or the provider's, whichever lasts longer."""
        provider = self._provider
        own = self.breaker.retry_after(now) >= provider.breaker.retry_after(now)
        return self._told if own else provider.told

    def try_enter(self, now: float) -> bool:
        """Take a place for a call, where one may begin now.

        The call that tries whether the model is back needs no free place: those that still run since before it
        broke may hold more than there are now.
        """
        if self.state(now) == "closed":
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
        self._provider.succeeded(began, now)
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
        told: Told = NOTHING,
    ) -> None:
        """`scope`: what a failure is about, None where it is nobody's. `worked`: that was reported before.

        `pause`: seconds for which the provider asked to be left alone. `told`: what callers are told meanwhile.
        """
        self.concurrency.left(_ENDINGS.get(outcome, "otherwise"), began=began, now=now)
        if scope == "model" or scope == "server":
            self._told = told
            self.breaker.failed(began, now, pause=pause)
            if scope == "server":
                self._provider.model_failed(self._name, began, now)
            else:  # it answers: whatever it is, the other models need not have it
                self._provider.breaker.abandoned(began)
        elif scope == "provider":
            self.breaker.abandoned(began)
            self._provider.failed(began, now, pause, told)
        elif outcome in {"ok", "refused"} or scope == "request":
            if not worked:
                self.worked(began=began, now=now)
        elif not worked:
            self._abandoned(began)

    def unused(self, began: float) -> None:
        """The place was taken for a call that was not made."""
        self.concurrency.give_back()
        self._abandoned(began)

    def _abandoned(self, began: float) -> None:
        self.breaker.abandoned(began)
        self._provider.breaker.abandoned(began)
