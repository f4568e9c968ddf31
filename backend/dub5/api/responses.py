"""`POST /v1/responses`: OpenAI's Responses, a spelling of the question that Chat Completions asks as well.

What a request means is in `responses_request`, what an answer is in `responses_answer`, its events in
`responses_stream`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import msgspec

from dub5.api import responses_answer as answers
from dub5.api.responses_answer import Asked
from dub5.api.responses_request import cannot, chat_request
from dub5.api.responses_stream import Events
from dub5.cache.flights import Frame
from dub5.chat.answer import Writer
from dub5.chat.request import ChatRequest
from dub5.errors import Dub5Error, ErrorResponse, render
from dub5.providers.protocol import Json, decode
from dub5.telemetry.record import RequestRecord

_NAMES = (
    ("max_tokens", "max_output_tokens"),
    ("max_completion_tokens", "max_output_tokens"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
    ("verbosity", "text.verbosity"),
    ("logprobs", "top_logprobs"),
    ("messages", "input"),
)
"""Fields as a provider names them that was asked by Chat Completions, and as the request named them."""


class Responses:
    """The Spelling. Answers are not kept, and so none can be referred to."""

    name = "responses"
    path = "/v1/responses"
    subject = "Responses"

    def authorization(self, headers: dict[str, str]) -> str:
        return headers.get("authorization", "")

    def question(self, body: Json, headers: dict[str, str]) -> Json:  # noqa: ARG002  # all of it is in the body
        if body.get("previous_response_id") is not None:
            raise cannot("previous_response_id", "answers are not kept; send the items before it as well")
        return chat_request(body)

    def writer(self, body: Json, request: ChatRequest, record: RequestRecord) -> Writer:  # noqa: ARG002  # the same
        return ResponsesWriter(Asked(body))

    def error(self, error: Dub5Error) -> ErrorResponse:
        rendered, name = render(error), field_of(error.param)
        if name == error.param:
            return rendered
        said = error.body()
        said["error"]["param"] = name
        said["error"]["message"] = error.message.replace(f"`{error.param}`", f"`{name}`")
        return rendered._replace(body=msgspec.json.encode(said))


def field_of(param: str | None) -> str | None:
    """A field as the request named it, of its name in a chat. Of a message only that it is in `input`: which item it
    came from is not known any more."""
    chat, ours = next(
        (names for names in _NAMES if param and re.match(rf"{names[0]}(?!\w)", param)), ("", "")
    )
    if param is None or not chat:
        return param
    return ours if chat == "messages" else ours + param.removeprefix(chat).replace(".json_schema", "")


class ResponsesWriter:
    """Writes one answer. `clock` gives seconds since the epoch."""

    def __init__(self, asked: Asked, clock: Callable[[], float] = time.time) -> None:
        self._asked = asked
        self._clock = clock
        self._created = int(clock())
        self._stream: Events | None = None

    def whole(self, completion: bytes) -> bytes:
        """The Response."""
        return answers.whole(self._asked, decode(completion), created=self._created, now=int(self._clock()))

    @property
    def _events(self) -> Events:
        if self._stream is None:
            self._stream = Events(self._asked, created=self._created)
        return self._stream

    def replay(self, completion: bytes) -> bytes:
        """The events of a whole completion, in pieces as a provider would have made them."""
        self._events.add_whole(decode(completion))
        return self.end()

    def events(self, frames: list[Frame]) -> bytes:
        """Those of frames that have arrived."""
        events = self._events
        for frame in frames:
            add = events.add_whole if frame.kind == "whole" else events.add
            add(decode(frame.raw))
        return events.take()

    def end(self) -> bytes:
        """The last events of a complete answer."""
        self._events.end(now=int(self._clock()))
        return self._events.take()

    def failed(self, error: Dub5Error) -> bytes:
        """The last event where the answer breaks off."""
        self._events.fail(error)
        return self._events.take()
