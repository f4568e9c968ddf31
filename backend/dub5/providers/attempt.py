"""One call to one provider: it holds a place there, is timed, and is told of exactly once, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from dub5.errors import CallerError, FailureScope, Overloaded, ProviderError, ProviderTimeout, Unsupported
from dub5.providers.health import NOTHING, ModelHealth, Outcome, Told
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
    """A provider, what it calls the model, and how that has done of late. `weight` is None for a mere fallback."""

    provider: Provider
    upstream: str
    health: ModelHealth
    weight: float | None = None


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
        self.pace = route.health.first_tokens if stream else route.health.wholes
        self._model = model
        self._observe: Observe | None = observe
        self._clock = clock
        self._reason: Reason | None = reason
        self._number = number
        self._stream = stream
        self._start = clock()
        self._first_token: float | None = None

    def first_token(self) -> None:
        """The stream has something of the answer: from here on no other route can be asked."""
        self.heard.begun = True
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
        if isinstance(error, Unsupported):
            self._never_made()
        elif isinstance(error, ProviderError):
            pause = error.retry_after if error.scope != "request" else None
            self.over(_outcome(error), error.scope, pause=pause, told=Told.by(error), trouble=error.plain)
        else:
            self.over(_outcome(error))

    def _never_made(self) -> None:
        """This route cannot do what was asked: there was no call to observe."""
        if self._observe is not None:
            self._observe = None
            self.route.health.unused(self._start)

    def over(
        self,
        outcome: Outcome,
        scope: FailureScope | None = None,
        *,
        pause: float | None = None,
        told: Told = NOTHING,
        trouble: str | None = None,
    ) -> None:
        """The call ended so; what is said after the first time does not count."""
        observe, self._observe = self._observe, None
        if observe is None:
            return
        now = self._clock()
        if (outcome == "ok" and not self._stream) or (outcome == "cancelled" and self._first_token is None):
            # At least so long, where it was cancelled: left out, p95 would sink.
            self.pace.note(now - self._start)
        worked = self._first_token is not None
        self.route.health.ended(
            outcome, scope, began=self._start, now=now, worked=worked, pause=pause, told=told
        )
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
        case Overloaded() | MemoryError():
            return "overloaded"
        case asyncio.CancelledError() | GeneratorExit():
            return "cancelled"
    return "error"
