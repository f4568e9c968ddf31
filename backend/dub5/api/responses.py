"""OpenAI's Responses, a spelling of the question that Chat Completions asks as well.

What a request means is in `responses_request`, what an answer is in `responses_answer`, its events in
`responses_stream`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dub5.api import responses_answer as answers
from dub5.api.responses_answer import Asked
from dub5.api.responses_stream import Events
from dub5.cache.flights import Frame
from dub5.errors import Dub5Error
from dub5.providers.protocol import decode


class ResponsesWriter:
    """Writes one answer. `clock` gives seconds since the epoch."""

    def __init__(self, asked: Asked, clock: Callable[[], float] = time.time) -> None:
        self._asked = asked
        self._clock = clock
        self._created = int(clock())
        self._events = Events(asked, created=self._created)

    def whole(self, completion: bytes) -> bytes:
        """The Response."""
        return answers.whole(self._asked, decode(completion), created=self._created, now=int(self._clock()))

    def replay(self, completion: bytes) -> bytes:
        """The events of a whole completion, in pieces as a provider would have made them."""
        self._events.add_whole(decode(completion))
        return self.end()

    def events(self, frames: list[Frame]) -> bytes:
        """Those of frames that have arrived."""
        for frame in frames:
            if frame.kind == "whole":
                self._events.add_whole(decode(frame.raw))
            else:
                self._events.add(decode(frame.raw))
        return self._events.take()

    def end(self) -> bytes:
        """The last events of a complete answer."""
        self._events.end(now=int(self._clock()))
        return self._events.take()

    def failed(self, error: Dub5Error) -> bytes:
        """The last event where the answer breaks off."""
        self._events.fail(error)
        return self._events.take()
