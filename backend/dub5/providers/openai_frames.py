"""What OpenAI-compatible servers send for an answer, checked and put right. No I/O.

An ordinary chunk goes through as it came. What is odd but can be understood is written as OpenAI would have written it
(`choices` null or left out, indexes as text or null, an id or a name said again, a whole completion as a chunk), so
that also clients who take OpenAI at its word read what was meant. What cannot be understood is a failure of the
provider, so that another one can be asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dub5.errors import ProviderError
from dub5.providers.chunks import (
    Assembler,
    Calls,
    Place,
    end_of,
    index_of,
    is_label,
    split,
)
from dub5.providers.http import BODY, begins_events, events_in
from dub5.providers.odd_answers import (
    CUT,
    KEEP_ALIVES,
    Reported,
    Unusable,
    is_done,
    is_keep_alive,
    raise_reported_error,
    unlisted,
)
from dub5.providers.protocol import FINISH_REASONS, Json, Payload, parsed

_USAGE_CHUNK = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"}
)


class Frames:
    """The chunks of one stream. `expected` is how many choices were asked for."""

    def __init__(self, expected: int = 1) -> None:
        self._expected = expected
        self._unfinished: set[int] = set()
        self._finished: set[int] = set()
        self._said: set[int] = set()  # choices of which something was said
        self._flowing: set[int] = set()  # those of them that go on
        self._by_deltas = False
        self._calls: dict[int, Calls] = {}
        self._done = False

    @property
    def all_here(self) -> bool:
        """Whether nothing of the answer can be missing: what breaks now does not matter."""
        return not self._unfinished and len(self._finished) >= max(1, self._expected)

    def done(self) -> None:
        """The provider said that it was."""
        self._done = True

    def close(self) -> None:
        """The stream is at its end. Unusable where the answer is not: some servers never say that they are done."""
        all_finished = bool(self._finished) and not self._unfinished
        if not (all_finished or (self._done and self._unfinished)):
            # One that never began is an odd answer rather than one that broke off.
            raise Unusable(CUT, "model" if self._finished or self._unfinished else "request")

    def passes(self, event: bytes, data: Json) -> bool:
        """Whether a chunk is as OpenAI would have written it: then it counts here, and needs no closer look (`chunks`).

        `event` is its name among server-sent events.
        """
        choices = data.get("choices")
        if type(choices) is not list or "error" in data:
            return False
        if not choices:  # the usage, at the end
            return not event and data.get("object") == "chat.completion.chunk" and data.keys() <= _USAGE_CHUNK
        choice = choices[0]
        if type(choice) is not dict or len(choices) != 1:
            return False
        index, delta, reason = choice.get("index"), choice.get("delta"), choice.get("finish_reason")
        if type(index) is not int or type(delta) is not dict or delta.get("tool_calls"):
            return False
        if reason is None and index in self._flowing:  # one of the many in the middle
            return True
        known = reason is None or (type(reason) is str and reason in FINISH_REASONS)
        if event or not known or choice.get("message") is not None or choice.get("error"):
            return False
        self._by_deltas = True
        self._note(choices)
        return True

    def chunks(self, event: bytes, chunk: Payload) -> Iterator[Payload]:
        """What any chunk stands for: mostly itself. `event` is its name among server-sent events.

        Unusable or Reported where it is none.
        """
        if chunk.data.get("error") or not chunk.data.get("choices"):
            raise_reported_error(chunk.data, event)
        if event in KEEP_ALIVES:
            return
        data = _with_choices(chunk.data)
        if data is not chunk.data:
            chunk = Payload.of(data)
        given = data.get("choices")
        if not isinstance(given, list) and given is not None:
            raise Unusable
        choices = [] if given is None else given
        are_whole = bool(choices) and all(map(_is_whole, choices))
        if event == BODY or (are_whole and not (self._by_deltas and self._said)):
            for part in split(whole(data), include_usage=True):
                self._note(part["choices"])
                yield Payload.of(part)
            return
        if are_whole:  # the same once more, after its parts: only its end is news
            data = {**data, "object": "chat.completion.chunk"}
            choices = [_without_message(choice) for choice in choices]
        proper = [self._proper(choice, position) for position, choice in enumerate(choices)]
        self._note(proper)
        same = choices is given and all(map(_is, proper, choices))
        yield chunk if same else Payload.of({**data, "choices": proper})

    def _note(self, choices: list[Json]) -> None:
        """Which choices have ended; one that goes on after its end has not."""
        for choice in choices:
            index, says_more = choice["index"], _says_more(choice["delta"])
            if says_more:
                self._said.add(index)
            if end_of(choice) is not None:
                self._finished.add(index)
                self._unfinished.discard(index)
                self._flowing.discard(index)
            elif index not in self._finished or says_more:
                self._finished.discard(index)
                self._unfinished.add(index)
                if index in self._said:
                    self._flowing.add(index)

    def _proper(self, choice: Any, position: int) -> Json:
        """The choice itself, where it is as it should be."""
        if not isinstance(choice, dict):
            raise Unusable
        _raise_reported_error_of(choice)
        index, reason = _index(choice, position), choice.get("finish_reason")
        delta = choice.get("delta")
        if delta is None:
            message = choice.get("message")
            delta = {} if message is None else message
        else:
            self._by_deltas = True
        if not isinstance(delta, dict):
            raise Unusable
        if delta.get("tool_calls"):
            delta = self._with_calls_placed(index, delta)
        ended = reason if reason is None or reason == "" else end_of(choice)
        if type(choice.get("index")) is int and choice.get("delta") is delta and ended == reason:
            return choice
        proper = {**choice, "index": index, "delta": delta, "finish_reason": ended}
        proper.pop("message", None)
        return proper

    def _with_calls_placed(self, index: int, delta: Json) -> Json:
        """The delta itself, where OpenAI's own clients join its tool calls as they are meant."""
        parts = _calls(delta)
        try:
            places = self._calls.setdefault(index, Calls()).places(parts)
        except ValueError:
            raise Unusable from None
        placed = list(map(_placed, parts, places))
        same = parts is delta["tool_calls"] and all(map(_is, placed, parts))
        return delta if same else {**delta, "tool_calls": placed}


async def answer(raw: bytes, provider: str) -> Payload:
    """The completion in the body of a whole answer, also where it came as the events of a stream."""
    if begins_events(raw):
        return Payload.of_whole(_joined(raw, provider))
    given = await parsed(unlisted(raw), provider)
    completion = whole(given.data)
    return given if completion is given.data else Payload.of_whole(completion)


def _joined(raw: bytes, provider: str) -> Json:
    frames, assembler = Frames(), Assembler()
    events = events_in(raw)
    try:
        for event, data in events:
            if is_done(event, data):
                frames.done()
                break
            if not is_keep_alive(event, data):
                for chunk in frames.chunks(event, Payload.parse(data, provider)):
                    assembler.add(chunk.data)
    except ProviderError:
        if not frames.all_here:
            raise
    frames.close()
    return assembler.completion()


def whole(data: Json) -> Json:
    """The completion itself, where it is as it should be. Unusable or Reported where it is none."""
    raise_reported_error(data)
    data = _with_choices(data)
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Unusable
    if any(isinstance(choice, dict) and _is_chunk(choice) for choice in choices):
        assembler = Assembler()
        for chunk in Frames().chunks(b"", Payload(b"", data)):
            assembler.add(chunk.data)
        return assembler.completion()
    proper = [_whole_choice(choice, position) for position, choice in enumerate(choices)]
    return data if all(map(_is, proper, choices)) else {**data, "choices": proper}


def _with_choices(data: Json) -> Json:
    """A bare `message`, as Ollama's own API has it, as a choice; all else as it is."""
    message = data.get("message")
    if data.get("choices") or not isinstance(message, dict) or not message.keys() & {"role", "content"}:
        return data
    reason = (
        data.get("finish_reason") or data.get("done_reason") or ("stop" if data.get("done") is True else None)
    )
    kept = {name: value for name, value in data.items() if name != "message"}
    return {**kept, "choices": [{"index": 0, "message": message, "finish_reason": reason}]}


def _whole_choice(choice: Any, position: int) -> Json:
    if not isinstance(choice, dict):
        raise Unusable
    _raise_reported_error_of(choice)
    message = choice.get("message")
    if message is None and end_of(choice) == "content_filter":  # which left nothing of it
        message = {"role": "assistant", "content": None}
    if not isinstance(message, dict):
        raise Unusable
    if message.get("tool_calls"):
        calls = _calls(message)
        message = message if calls is message["tool_calls"] else {**message, "tool_calls": calls}
    index = _index(choice, position)
    same = choice.get("message") is message and type(choice.get("index", index)) is int
    return choice if same else {**choice, "index": index, "message": message}


def _raise_reported_error_of(choice: Json) -> None:
    """OpenRouter puts the error of an upstream into the choice, which then ends with the word for it."""
    error = choice.get("error")
    if error or end_of(choice) == "error":
        raise Reported(error or {})


def _is_whole(choice: object) -> bool:
    """Whether it is one of a completion, and to its end, though a chunk was due."""
    return (
        isinstance(choice, dict)
        and isinstance(choice.get("message"), dict)
        and not choice.get("delta")
        and end_of(choice) is not None
    )


def _without_message(choice: Json) -> Json:
    return {**{name: value for name, value in choice.items() if name != "message"}, "delta": {}}


def _is_chunk(choice: Json) -> bool:
    return choice.get("message") is None and isinstance(choice.get("delta"), dict)


def _index(choice: Json, position: int) -> int:
    try:
        index = index_of(choice)
    except ValueError:
        raise Unusable from None
    return position if index is None else index


def _calls(message: Json) -> list[Json]:
    calls = message["tool_calls"]
    if isinstance(calls, dict):
        calls = [calls]
    if not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise Unusable
    written = [_with_text_arguments(call) for call in calls]
    return calls if all(map(_is, written, calls)) else written


def _with_text_arguments(call: Json) -> Json:
    """Servers with Ollama's own API behind them give the object itself, where OpenAI has its JSON text."""
    function = call.get("function")
    if not (isinstance(function, dict) and isinstance(function.get("arguments"), dict)):
        return call
    arguments = Payload.of(function["arguments"]).raw.decode()
    return {**call, "function": {**function, "arguments": arguments}}


def _placed(part: Json, place: Place) -> Json:
    """The part itself, where it has its call's position for an index, and says nothing again that OpenAI's client would
    append. That client takes indexes for positions."""
    index = part.get("index")
    same = type(index) is int and index == place.position
    proper = part if same else {**part, "index": place.position}
    if place.id_known and part.get("id") is not None:
        proper = {name: value for name, value in proper.items() if name != "id"}
    if place.name_known:
        for kind in ("function", "custom"):
            inner = proper.get(kind)
            if isinstance(inner, dict) and inner.get("name") is not None:
                shorter = {name: value for name, value in inner.items() if name != "name"}
                proper = {**proper, kind: shorter}
    return proper


def _says_more(delta: Json) -> bool:
    return any(value and not is_label(name) for name, value in delta.items())


def _is(one: object, other: object) -> bool:
    return one is other
