"""Chunks of a chat completion as the events of a streamed Response. No I/O.

    response.created, response.in_progress
    for each item:  response.output_item.added
                    what grows in it: response.content_part.added, …output_text.delta, …done, response.content_part.done
                    response.output_item.done
    response.completed, or response.incomplete, or response.failed

Items follow each other, as they do at OpenAI: one ends where another begins, and what comes late begins a further one.
Of several calls each ends where the next begins, if its arguments are whole by then: so a server that mixes the parts
of calls is read as well. There is no `[DONE]`; the last event is one of the three.

Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from dub5.api import responses_answer as answers
from dub5.api.arguments import Account
from dub5.api.responses_answer import Asked, Status
from dub5.errors import Dub5Error, whole_seconds
from dub5.providers.chunks import FirstChoice, end_of, pieces_of
from dub5.providers.lenient_json import mended, without_half
from dub5.providers.message_blocks import THOUGHTS
from dub5.providers.protocol import Json

_encode = msgspec.json.Encoder().encode


class Emitter:
    """Makes events, numbered as they come."""

    def __init__(self) -> None:
        self.number = 0
        self._due: list[bytes] = []

    def take(self) -> bytes:
        """Those that have been made since this was asked last."""
        due, self._due = b"".join(self._due), []
        return due

    def emit(self, kind: str, **members: Any) -> None:
        """One event."""
        data = {"type": kind, "sequence_number": self.number, **members}
        self.number += 1
        try:
            raw = _encode(data)
        except UnicodeEncodeError:
            raw = answers.written(data)
        self._due.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), raw))

    def growing(self, kind: str, members: Json, tail: bytes = b"") -> Callable[[str], None]:
        """For the many events of this kind that have these members and a `delta`; `tail` is JSON of what follows it."""
        head = b'event: %b\ndata: {"type":"%b","sequence_number":' % (kind.encode(), kind.encode())
        middle = _encode(members)[1:-1]

        def grow(delta: str) -> None:
            try:
                raw = _encode(delta)
            except UnicodeEncodeError:
                raw = _encode(mended(delta))
            self._due.append(b'%b%d,%b,"delta":%b%b}\n\n' % (head, self.number, middle, raw, tail))
            self.number += 1

        return grow


class Events:
    """The events of one answer, in the order in which they are due. `created` is in seconds since the epoch."""

    def __init__(self, asked: Asked, *, created: int) -> None:
        self._asked = asked
        self._created = created
        self._emitter = Emitter()
        self.take = self._emitter.take
        self._emit = self._emitter.emit
        self._whole: list[Json] | None = None
        self._closed = False
        self._model: str | None = None
        self._tier: str | None = None
        self._seed: object = None
        self._usage: Json | None = None
        self._first = FirstChoice()
        self._reason: object = None
        self._thoughts: str | None = None  # which of the two names this server uses
        self._signed: list[Any] = []
        self._annotations: list[Json] = []  # of the next text, these and its logprobs
        self._logprobs: list[Json] = []
        self._items: list[_Item] = []
        self._last: _Thought | _Message | None = None  # while it may grow
        self._calls: dict[int, _Call] = {}
        self._grown: dict[int, _Call] = {}  # since the last item began, by position

    def add(self, chunk: Json) -> None:
        """One chunk of a chat."""
        self._model = self._model or answers.model_of(chunk)
        self._tier = self._tier or answers.tier_of(chunk)
        self._seed = self._seed or chunk.get("id")
        self._usage = answers.usage_of(chunk) or self._usage
        self._begin()
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and self._first.is_in(choice):
                delta = choice.get("delta")
                if isinstance(delta, dict):
                    self._grow(delta, choice)
                self._reason = end_of(choice) or self._reason

    def add_whole(self, completion: Json) -> None:
        """A whole completion, in pieces as a provider would have made them."""
        self._model, self._tier = answers.model_of(completion), answers.tier_of(completion)
        self._usage = answers.usage_of(completion)
        self._reason = end_of(answers.choice_of(completion))
        self._begin()
        self._whole, _ = answers.output_of(self._asked, completion)
        for position, item in enumerate(self._whole):
            _replay(item, position, self._asked, self._emitter)

    def close(self, *, now: int) -> bytes:
        """The answer is complete: the end of its items, and the Response; `now` is in seconds since the epoch."""
        self._begin()
        reason = answers.incomplete(self._reason)
        status: Status = "completed" if reason is None else "incomplete"
        if self._whole is None and not self._closed:
            self._end_items(status)
        self._closed = True
        return self._response(status, now=now, reason=reason)

    def end(self, *, now: int) -> None:
        """The last event."""
        response = msgspec.Raw(self.close(now=now))
        status = "completed" if answers.incomplete(self._reason) is None else "incomplete"
        self._emit(f"response.{status}", response=response)

    def _end_items(self, status: Status) -> None:
        if self._signed and not isinstance(self._last, _Thought):
            self._thought()
        calls = [call for call in self._calls.values() if call.item is not None]
        if self._last is None and not self._items:
            self._message().write("", self._logprobs)
        last = self._items[-1]
        for item in (self._last, *calls):
            if item is not None:
                self._finish(item, status if item is last else "completed")

    def fail(self, error: Dub5Error) -> None:
        """The answer breaks off."""
        self._begin()
        response = self._response("failed", error=failure(error))
        self._emit("response.failed", response=msgspec.Raw(response))

    # --- What is told ---

    def _begin(self) -> None:
        if self._emitter.number == 0:
            response = msgspec.Raw(self._response("in_progress"))
            self._emit("response.created", response=response)
            self._emit("response.in_progress", response=response)

    def _response(
        self, status: Status, *, now: int = 0, reason: str | None = None, error: Json | None = None
    ) -> bytes:
        return answers.response(
            self._asked,
            status=status,
            created=self._created,
            completed=now,
            model=self._model,
            output=self._output(),
            usage=None if status == "in_progress" else self._usage,
            reason=reason,
            error=error,
            tier=self._tier,
        )

    def _output(self) -> list[Json]:
        if self._whole is not None:
            return self._whole
        return [item.done for item in self._items if item.done is not None]

    # --- What grows ---

    def _grow(self, delta: Json, choice: Json) -> None:
        content = delta.get("content")
        blocks, thought = delta.get("thinking_blocks"), self._thought_in(delta, content)
        if self._asked.keeps_signed and isinstance(blocks, list):
            self._signed += blocks
        if thought:
            self._thought().write(thought)
        if delta.get("annotations"):
            self._annotations += answers.annotations_of(delta)
        if self._asked.logprobs:
            self._logprobs += answers.logprobs_of(choice)
        text = content if isinstance(content, str) else answers.text_of(content)
        if text:
            logprobs, self._logprobs = self._logprobs, []
            self._message().write(text, logprobs)
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            self._message().refuse(refusal)
        calls = delta.get("tool_calls")
        for part in calls if isinstance(calls, list) else ():
            if isinstance(part, dict):
                self._call(part)
        if delta.get("function_call") and not calls:  # from before there were several
            self._call({"index": 0, "function": delta["function_call"]})

    def _thought_in(self, delta: Json, content: object) -> str:
        for name in THOUGHTS:
            value = delta.get(name)
            if value and isinstance(value, str):
                self._thoughts = self._thoughts or name
                if name == self._thoughts:
                    return value
        return answers.thought_in(content)

    def _thought(self) -> _Thought:
        if not isinstance(self._last, _Thought):
            self._next()
            self._last = _Thought(self._asked, len(self._items), self._emitter)
            self._items.append(self._last)
        return self._last

    def _message(self) -> _Message:
        if not isinstance(self._last, _Message):
            if self._signed:
                self._thought()  # what was signed goes before what is said, also where there are no words of it
            self._next()
            self._last = _Message(self._asked, len(self._items), self._emitter, self._annotations)
            self._items.append(self._last)
        return self._last

    def _call(self, part: Json) -> None:
        index = part.get("index")
        index = index if isinstance(index, int) else max(0, len(self._calls) - 1)
        call = self._calls.get(index)
        if call is None:
            call = self._calls[index] = _Call(index)
        call.take(part)
        if call.item is None and call.name:
            if self._signed:
                self._thought()
            self._next()
            known = {"id": call.id, "name": call.name, "arguments": ""}
            identity = answers.call_id(known, self._seed, index)
            call.begin(self._asked, len(self._items), self._emitter, identity)
            self._items.append(call)
        if call.item is not None:
            call.write()
            self._grown[call.position] = call

    def _next(self) -> None:
        """Another item begins: end those that can have no more."""
        if self._last is not None:
            self._finish(self._last, "completed")
            self._last = None
        for _, call in sorted(self._grown.items()):
            if call.is_whole():
                self._finish(call, "completed")
        self._grown.clear()

    def _finish(self, item: _Item, status: Status) -> None:
        if item.done is None:
            if isinstance(item, _Thought):
                item.signed, self._signed = self._signed, []
            item.done = item.finish(status)
            self._emit("response.output_item.done", output_index=item.position, item=item.done)


class _Item:
    """One item of the output. `done` is as it is in the answer, as soon as nothing more can come."""

    position: int
    done: Json | None = None

    def finish(self, status: Status) -> Json:
        """Tell the end of what grew; gives the item."""
        raise NotImplementedError


class _Text:
    """A text that grows; the first half of a character waits for the other one."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._half = ""

    def add(self, text: str) -> str:
        """What may be told of it now."""
        text, self._half = without_half(self._half + text)
        self.parts.append(text)
        return text

    def rest(self) -> str:
        """What is left to be told at the end."""
        half, self._half = self._half, ""
        if half:
            self.parts.append("\ufffd")
        return "\ufffd" if half else ""

    def whole(self) -> str:
        return "".join(self.parts)


class _Thought(_Item):
    """A reasoning item."""

    def __init__(self, asked: Asked, position: int, emitter: Emitter) -> None:
        self.position = position
        self.signed: list[Any] = []
        self._asked, self._emitter, self._emit = asked, emitter, emitter.emit
        self._text: _Text | None = None
        begun = answers.reasoning(asked, position, "", [], "in_progress")
        self._at = {"item_id": begun["id"], "output_index": position}
        self._at["summary_index" if asked.summary else "content_index"] = 0
        summary = ("response.reasoning_summary_text", "response.reasoning_summary_part")
        plain = ("response.reasoning_text", "response.content_part")
        self._kind, self._part = summary if asked.summary else plain
        emitter.emit("response.output_item.added", output_index=position, item=begun)

    def write(self, text: str) -> None:
        if self._text is None:
            self._text = _Text()
            self._emit(f"{self._part}.added", **self._at, part=self._part_of(""))
            self._grow = self._emitter.growing(f"{self._kind}.delta", self._at)
        self._grow_by(self._text.add(text))

    def _grow_by(self, delta: str) -> None:
        if delta:
            self._grow(delta)

    def _part_of(self, text: str) -> Json:
        return {"type": "summary_text" if self._asked.summary else "reasoning_text", "text": text}

    def finish(self, status: Status) -> Json:
        text = ""
        if self._text is not None:
            self._grow_by(self._text.rest())
            text = self._text.whole()
            self._emit(f"{self._kind}.done", **self._at, text=text)
            self._emit(f"{self._part}.done", **self._at, part=self._part_of(text))
        return answers.reasoning(self._asked, self.position, text, self.signed, status)


class _Message(_Item):
    """A message, with a part for its text, and one for a refusal. Its text takes the `annotations` that are here."""

    def __init__(self, asked: Asked, position: int, emitter: Emitter, annotations: list[Json]) -> None:
        self.position = position
        self._annotations = annotations
        self._asked, self._emitter, self._emit = asked, emitter, emitter.emit
        self._parts: list[Json] = []
        self._text: _Text | None = None
        self._refusal: _Text | None = None
        self._logprobs: list[Json] = []
        begun = answers.says(asked, position, [], "in_progress")
        self._at: Json = {"item_id": begun["id"], "output_index": position, "content_index": 0}
        emitter.emit("response.output_item.added", output_index=position, item=begun)

    def write(self, text: str, logprobs: list[Json]) -> None:
        if self._text is None:
            self._end_part()
            self._text = _Text()
            self._emit("response.content_part.added", **self._at, part=answers.output_text("", [], []))
            self._grow = self._emitter.growing("response.output_text.delta", self._at, b',"logprobs":[]')
        self._logprobs += logprobs
        delta = self._text.add(text) if text else ""
        if delta or logprobs:
            self._grow_by(delta, logprobs)

    def _grow_by(self, delta: str, logprobs: list[Json]) -> None:
        if not logprobs:
            self._grow(delta)
            return
        plain = [answers.plain(one) for one in logprobs]
        self._emit("response.output_text.delta", **self._at, delta=delta, logprobs=plain)

    def refuse(self, text: str) -> None:
        if self._refusal is None:
            self._end_part()
            self._refusal = _Text()
            self._emit("response.content_part.added", **self._at, part={"type": "refusal", "refusal": ""})
        delta = self._refusal.add(text)
        if delta:
            self._emit("response.refusal.delta", **self._at, delta=delta)

    def finish(self, status: Status) -> Json:
        self._end_part()
        return answers.says(self._asked, self.position, self._parts, status)

    def _end_part(self) -> None:
        if self._text is not None:
            part = self._end_text(self._text)
        elif self._refusal is not None:
            part = self._end_refusal(self._refusal)
        else:
            return
        self._emit("response.content_part.done", **self._at, part=part)
        self._parts.append(part)
        self._at = {**self._at, "content_index": len(self._parts)}
        self._text = self._refusal = None

    def _end_text(self, text: _Text) -> Json:
        rest = text.rest()
        if rest:
            self._grow_by(rest, [])
        annotations = self._annotations.copy()
        self._annotations.clear()
        for index, annotation in enumerate(annotations):
            self._emit(
                _ANNOTATION,
                **self._at,
                annotation_index=index,
                annotation=annotation,
            )
        whole, logprobs = text.whole(), self._logprobs
        plain = [answers.plain(one) for one in logprobs]
        self._emit("response.output_text.done", **self._at, text=whole, logprobs=plain)
        self._logprobs = []
        return answers.output_text(whole, annotations, logprobs)

    def _end_refusal(self, refusal: _Text) -> Json:
        rest = refusal.rest()
        if rest:
            self._emit("response.refusal.delta", **self._at, delta=rest)
        whole = refusal.whole()
        self._emit("response.refusal.done", **self._at, refusal=whole)
        return {"type": "refusal", "refusal": whole}


class _Call(_Item):
    """A call of a function. It begins when its name is known; what has come before waits."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.id: object = None
        self.name = ""
        self.item: Json | None = None
        self._waiting: list[str] = []
        self._arguments = _Text()
        self._account = Account(self._arguments.parts)

    def take(self, part: Json) -> None:
        """One part of it as it came."""
        function = part.get("function")
        self.id = self.id or part.get("id")
        if isinstance(function, dict):
            name, arguments = function.get("name"), function.get("arguments")
            if isinstance(name, str) and not self.name:
                self.name = name
            if isinstance(arguments, str) and arguments:
                self._waiting.append(arguments)

    def begin(self, asked: Asked, position: int, emitter: Emitter, call_id: str) -> None:
        self.position, self._asked, self._emit, self._call_id = position, asked, emitter.emit, call_id
        self.item = self._item("", "in_progress")
        self._at = {"item_id": self.item["id"], "output_index": position}
        emitter.emit("response.output_item.added", output_index=position, item=self.item)
        self._grow = emitter.growing("response.function_call_arguments.delta", self._at)

    def write(self) -> None:
        """Tell what has come of its arguments."""
        if self.done is not None:
            return
        for arguments in self._waiting:
            self._grow_by(self._arguments.add(arguments))
        self._waiting.clear()

    def _grow_by(self, delta: str) -> None:
        if delta:
            self._grow(delta)

    def is_whole(self) -> bool:
        """Whether its arguments are an object that is complete."""
        return self.done is None and self._account.is_whole()

    def finish(self, status: Status) -> Json:
        self._grow_by(self._arguments.rest())
        arguments = self._arguments.whole()
        item = self._item(arguments, status)
        name = item["name"]
        self._emit("response.function_call_arguments.done", **self._at, name=name, arguments=arguments)
        return item

    def _item(self, arguments: str, status: Status) -> Json:
        known = {"name": self.name, "arguments": arguments}
        return answers.calls_function(self._asked, self.position, known, self._call_id, status)


# --- A whole answer ---


def _replay(item: Json, position: int, asked: Asked, emitter: Emitter) -> None:
    """The events of an item that is known to its end."""
    at: Json = {"item_id": item["id"], "output_index": position}
    begun = {**item, "status": "in_progress"}
    if item["type"] == "message":
        begun["content"] = []
        emitter.emit("response.output_item.added", output_index=position, item=begun)
        for index, part in enumerate(item["content"]):
            _replay_part(part, {**at, "content_index": index}, emitter)
    elif item["type"] == "reasoning":
        _replay_thought(item, position, asked, emitter)
    else:
        begun["arguments"] = ""
        emitter.emit("response.output_item.added", output_index=position, item=begun)
        arguments = item["arguments"]
        if arguments:
            emitter.emit("response.function_call_arguments.delta", **at, delta=arguments)
        emitter.emit("response.function_call_arguments.done", **at, name=item["name"], arguments=arguments)
    emitter.emit("response.output_item.done", output_index=position, item=item)


def _replay_part(part: Json, at: Json, emitter: Emitter) -> None:
    if part["type"] == "refusal":
        said = part["refusal"]
        emitter.emit("response.content_part.added", **at, part={"type": "refusal", "refusal": ""})
        _grow(said, emitter.growing("response.refusal.delta", at))
        emitter.emit("response.refusal.done", **at, refusal=said)
    else:
        said = part["text"]
        emitter.emit("response.content_part.added", **at, part=answers.output_text("", [], []))
        _grow(said, emitter.growing("response.output_text.delta", at, b',"logprobs":[]'))
        for index, annotation in enumerate(part["annotations"]):
            emitter.emit(_ANNOTATION, **at, annotation_index=index, annotation=annotation)
        logprobs = [answers.plain(one) for one in part["logprobs"]]
        emitter.emit("response.output_text.done", **at, text=said, logprobs=logprobs)
    emitter.emit("response.content_part.done", **at, part=part)


def _replay_thought(item: Json, position: int, asked: Asked, emitter: Emitter) -> None:
    thought = _Thought(asked, position, emitter)
    for part in item["summary"] or item.get("content", ()):
        for piece in pieces_of(part["text"]):
            thought.write(piece)
    thought.finish("completed")


def _grow(text: str, grow: Callable[[str], None]) -> None:
    for piece in pieces_of(text):
        grow(piece)


_ANNOTATION = "response.output_text.annotation.added"


def failure(error: Dub5Error) -> Json:
    """`error` of a Response that failed. Its `code` is one of OpenAI's few, `reason` what the code is elsewhere."""
    limited, refused = error.status == 429, error.status < 500
    code = "rate_limit_exceeded" if limited else "invalid_prompt" if refused else "server_error"
    said: Json = {"code": code, "message": error.message, "type": error.type, "param": error.param}
    said["reason"] = error.code
    if error.retry_after is not None:
        said["retry_after"] = whole_seconds(error.retry_after)
    return said
