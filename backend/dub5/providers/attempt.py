"""One call to one provider: it holds a place there, is timed, and is told of exactly once, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from dub5.errors import CallerError, ProviderError, ProviderTimeout
from dub5.providers.health import Health, Outcome
from dub5.providers.hedging import Pace
from dub5.providers.protocol import Heard, Provider

Reason = Literal["fallback", "retry", "hedge"]
"""Why a second call was made for the same question; a fallback goes to another route, after a failure."""


class Ended(msgspec.Struct, frozen=True):
    """A call to a provider that is over.

    `model` is our name of it. `duration` and `first_token` are seconds since the call began, the latter None where
    no chunk came or the answer was asked for whole. `number` counts a question's calls from 1; `reason` is None for
    the first. `upstream` is the provider's name of the model, `heard` what its response's head said, and `trouble`
    what went wrong, in words of ours.
    """

    provider: str
    model: str
    outcome: Outcome
    duration: float
    first_token: float | None
    reason: Reason | None
    number: int
    upstream: str
    heard: Heard
    trouble: str | None


Observe = Callable[[Ended], None]
"""Is told of each call to a provider, once."""


class Route(msgspec.Struct, frozen=True):
    """A provider, what it calls the model, and how it has done of late. `weight` is None for a mere fallback."""

    provider: Provider
    upstream: str
    health: Health
    weight: float | None = None
    first_tokens: Pace = msgspec.field(default_factory=Pace)
    wholes: Pace = msgspec.field(default_factory=Pace)


class Attempt:
    """`route.health` has given it a place, which it gives back at its end. `clock` gives monotonic seconds."""

    def __init__(
        self,
        route: Route,
        model: str,
        observe: Observe,
        clock: Callable[[], float],
        *,
        stream: bool,
        reason: Reason | None = None,
        number: int = 1,
    ) -> None:
        self.route = route
        self.heard = Heard()
        self.pace = route.first_tokens if stream else route.wholes
        self._model = model
        self._observe: Observe | None = observe
        self._clock = clock
        self._reason: Reason | None = reason
        self._number = number
        self._stream = stream
        self._start = clock()
        self._first_token: float | None = None

    def first_token(self) -> None:
        now = self._clock()
        self._first_token = now - self._start
        self.pace.note(self._first_token)
        self.route.health.worked(began=self._start, now=now)

    @contextlib.contextmanager
    def guarding(self) -> Iterator[None]:
        """Tell of what breaks out of the block."""
        try:
            yield
        except BaseException as error:
            self.broke(error)
            raise

    def broke(self, error: BaseException) -> None:
        """The call ended with `error`."""
        if isinstance(error, ProviderError):
            self.over(_outcome(error), pause=error.retry_after, trouble=error.plain)
        else:
            self.over(_outcome(error))

    def over(self, outcome: Outcome, *, pause: float | None = None, trouble: str | None = None) -> None:
        """The call ended so; what is said after the first time does not count."""
        observe, self._observe = self._observe, None
        if observe is None:
            return
        now = self._clock()
        if (outcome == "ok" and not self._stream) or (outcome == "cancelled" and self._first_token is None):
            # At least so long, where it was cancelled: left out, p95 would sink.
            self.pace.note(now - self._start)
        worked = self._first_token is not None
        self.route.health.ended(outcome, began=self._start, now=now, worked=worked, pause=pause)
        observe(
            Ended(
                self.route.provider.name,
                self._model,
                outcome,
                now - self._start,
                self._first_token,
                self._reason,
                self._number,
                self.route.upstream,
                self.heard,
                trouble,
            )
        )


def _outcome(error: BaseException) -> Outcome:
    match error:
        case ProviderTimeout():
            return "timeout"
        case ProviderError(busy=True):
            return "limited"
        case CallerError():
            return "refused"
        case asyncio.CancelledError() | GeneratorExit():
            return "cancelled"
    return "error"
