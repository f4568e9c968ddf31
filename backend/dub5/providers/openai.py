"""Anything that speaks OpenAI Chat Completions and Embeddings: what it says goes through as it is.

Where a text is to be continued, /completions is asked (`openai_completions`).

A stream is complete when the provider said `[DONE]`, or closed after each choice had its finish reason
(some compatible servers leave the marker out), of as many choices as were asked for. Anything else is an answer cut
short.

What is odd but can be understood is written as OpenAI would have written it (`choices` null or left out, indexes as
text or null, an id or a name said again, a whole completion as a chunk), so that also clients who take OpenAI at its
word read what was meant. What cannot be understood is a failure of the provider, so that another one can be asked: a
provider must not be able to trip up the rest of the service.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from dub5.errors import ProviderError, UnknownModel
from dub5.frames import Frame
from dub5.providers.anthropic_only import for_others
from dub5.providers.chunks import (
    Assembler,
    Calls,
    Place,
    end_of,
    index_of,
    is_label,
    split,
    with_texts,
)
from dub5.providers.http import BODY, DIRECTLY, Access, HttpClient, OnPart, begins_events, events_in
from dub5.providers.listing import LIST_TIMEOUT, MOST_BYTES
from dub5.providers.odd_answers import (
    AGAIN,
    CUT,
    ERRORS,
    KEEP_ALIVES,
    MOST_BEGUN,
    TOO_MANY,
    Reported,
    Unusable,
    is_done,
    is_keep_alive,
    raise_reported_error,
    unlisted,
)
from dub5.providers.openai_completions import PROTOCOL as TEXT
from dub5.providers.openai_completions import as_chunk, as_completion, choices, native
from dub5.providers.openai_embeddings import embedded
from dub5.providers.protocol import (
    FINISH_REASONS,
    BatchLimit,
    Call,
    Chunk,
    Embedded,
    Json,
    OnChunks,
    Onward,
    Payload,
    ResponseHead,
    Text,
    parsed,
)
from dub5.providers.quirks import Quirks, applied
from dub5.settings.model import OpenAISettings

_USAGE_CHUNK = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"}
)

_USAGE = (dict, type(None))
_TEXTS = "text completions"
_OTHER_NUMBERS = frozenset({"output_dtype", "embed_dtype", "endianness"})
"""Fields of Mistral, Voyage and vLLM that make something else of base64 than 32-bit floats, little-endian. As text all
numbers are the same."""

_NOWHERE = (404, 405, 501)
_TOO_FEW = "answered with fewer choices than were asked for"
_STRANGE = 4
"""Chunks in the middle that are not plain, of a stream in which no more plain ones are expected."""
_DIFFERENT = 4
"""Plain ones that differ in more than their text, of a stream in which all that follow are expected to."""
_CONTENT = re.compile(rb'"content":\s*"((?:[^"\\]|\\.)*)"')

_decode = msgspec.json.Decoder(Json).decode


class _Said(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    content: str


class _Going(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    index: int
    delta: _Said
    logprobs: UnsetType | None = UNSET
    finish_reason: UnsetType | None = UNSET


class _Plain(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A chunk of plain text: nearly all are. Any other member, or one of another type, and it is none."""

    id: str
    object: str
    created: int
    model: str
    choices: tuple[_Going]
    system_fingerprint: UnsetType | str | None = UNSET
    service_tier: UnsetType | str | None = UNSET
    usage: UnsetType | None = UNSET
    obfuscation: UnsetType | str = UNSET


_decode_plain = msgspec.json.Decoder(_Plain).decode
_decode_text = msgspec.json.Decoder(str).decode


class _Around:
    """What stands around the text of a plain chunk, with its quotes."""

    __slots__ = ("after", "before", "end", "index", "start")

    def __init__(self, before: bytes, after: bytes, index: int) -> None:
        self.before, self.after, self.index = before, after, index
        self.start, self.end = len(before) - 1, len(after) - 1

    def text_in(self, raw: bytes) -> str | None:
        """That of a chunk which differs in it alone; None of any other."""
        if not (raw.startswith(self.before) and raw.endswith(self.after)):
            return None
        try:
            return _decode_text(raw[self.start : len(raw) - self.end])
        except ValueError:
            return None


def _around(raw: bytes, index: int, text: str) -> _Around | None:
    """None where it is not found: then nothing is lost but time."""
    found = _CONTENT.search(raw)
    if found is None:
        return None
    before, after = raw[: found.start(1)], raw[found.end(1) :]
    other = "-" if text == "+" else "+"
    try:
        [choice] = _decode_plain(b"%b%b%b" % (before, other.encode(), after)).choices
    except ValueError:
        return None
    return _Around(before, after, index) if choice.delta.content == other else None


class OpenAIProvider:
    """See `Provider`."""

    def __init__(self, name: str, settings: OpenAISettings, *, key: str, access: Access = DIRECTLY) -> None:
        self.name = name
        self._http = HttpClient(name, settings, "/chat/completions", key=key, access=access)
        self._texts, self._embeddings = (
            HttpClient(name, settings, path, key=key, access=access, beside=self._http)
            for path in ("/completions", "/embeddings")
        )
        self._encoding_format = settings.embeddings.encoding_format
        self.batch_limit = BatchLimit(settings.embeddings.max_items, settings.embeddings.max_bytes)
        self._stream_usage = settings.stream_usage
        self._quirks = Quirks(settings.quirks)

    async def aclose(self) -> None:
        for http in (self._http, self._texts, self._embeddings):
            await http.aclose()

    async def embed(self, call: Call) -> Embedded:
        plain = _OTHER_NUMBERS.isdisjoint(call.body)
        encoding = self._encoding_format if plain else "float"
        body = {**call.body, "model": call.model, "encoding_format": encoding}
        try:
            answered = await self._embeddings.post(body, call)
            return await embedded(answered, len(call.body["input"]))
        except (Unusable, Reported) as odd:
            raise self._embeddings.failure(odd) from None
        except ProviderError as error:
            raise self._lacking(error, call, "embeddings") from None

    async def listed(self) -> bytes:
        """See `ListsModels`."""
        return await self._http.get("/models", most=MOST_BYTES, timeout=LIST_TIMEOUT)

    async def complete(self, call: Call) -> Payload:
        text = call.spelled is not None and call.spelled[0] == TEXT
        http = self._texts if text else self._http
        try:
            body = await http.post(self._body(call, text=text), call)
            expected = _expected(call, text=text)
            if not text:
                return await answer(body, self.name, expected)
            completion = await answer(body, self.name, expected, as_completion, as_chunk)
            if len(completion.data["choices"]) < expected:
                raise Unusable(_TOO_FEW)
        except (Unusable, Reported) as odd:
            raise http.failure(odd) from None
        except ProviderError as error:
            raise (self._lacking(error, call, _TEXTS) if text else error) from None
        return completion

    async def stream(self, call: Call, on_chunks: OnChunks) -> None:
        text = call.spelled is not None and call.spelled[0] == TEXT
        frames = Frames(_expected(call, text=text), self.name)
        http = self._texts if text else self._http
        passing = _Passing(frames, call.response, on_chunks, text)
        try:
            await http.events(self._body(call, text=text), call, passing.on_events)
            frames.close()
            if text and len(frames.finished | frames.unfinished) < frames.expected:
                raise Unusable(_TOO_FEW)
        except (Unusable, Reported) as odd:
            raise http.failure(odd) from None
        except ProviderError as error:
            if not frames.all_here:  # else only the end of the connection was not as it should be
                raise (self._lacking(error, call, _TEXTS) if text else error) from None

    def _lacking(self, error: ProviderError, call: Call, what: str) -> ProviderError:
        """`error`, but where there is nothing at this path, or no model for it: that says nothing about chats."""
        if call.response.status not in _NOWHERE or error.status != ProviderError.status:
            return error
        found = ProviderError(
            f"The provider {self.name} has no {what} of the model {call.model}.",
            plain=error.plain,
            provider=self.name,
            param="model",
            scope="request",
        )
        return found.as_said(
            status=404, type="invalid_request_error", code=UnknownModel.code, should_retry=False
        )

    def _body(self, call: Call, *, text: bool) -> Json:
        if text:
            given = native(call)
        else:
            quirk = self._quirks.of(call.model)
            given = call.body
            if call.spelled is not None:
                reasons = quirk is not None and "max_tokens" in quirk.rename
                given = for_others(call, reasons=reasons)
            if quirk is not None:
                given = applied(quirk, given, call.defaults)
        body: Json = {**given, "model": call.model}
        if call.stream:
            body["stream"] = True
            options = {name: value for name, value in call.stream_options.items() if name != "include_usage"}
            if self._stream_usage:
                options["include_usage"] = True
            if options:
                body["stream_options"] = options
        return body


def _expected(call: Call, *, text: bool) -> int:
    """How many choices it asks for."""
    return choices(call) if text else call.body.get("n") or 1


class _Passing(msgspec.Struct):
    """Passes a stream's chunks on; of a `text` completion its events are made chat's first."""

    frames: Frames
    head: ResponseHead
    on_chunks: OnChunks
    text: bool

    def on_events(self, events: Iterable[tuple[bytes, bytes]]) -> OnPart | None:
        """See `HttpClient.events`."""
        if self.text:
            events = ((event, as_chunk(data)) for event, data in events)
        found: list[Chunk] = []
        frames = self.frames
        try:
            frames.read_all(events, found)
        finally:  # what came before an error is here, too
            self.head.ended = frames.done
            onward = self.on_chunks(found)
        around = frames.around
        if around is None or onward is None or onward.index != around.index or self.text:
            return None
        return _Run(around, onward).on_part


class _Run(_Around):
    """What goes on with a choice: events of chunks that are known but for their text. Nearly all of a stream are read
    here.

    All that takes is in one object, and that has slots: of thousands of streams none is in the processor's caches.
    """

    __slots__ = ("on_frames", "texts")

    def __init__(self, around: _Around, onward: Onward) -> None:
        super().__init__(b"data: " + around.before, around.after + b"\n\n", around.index)
        self.texts, self.on_frames = onward.texts, onward.on_frames

    def on_part(self, part: bytes) -> bool:
        text = self.text_in(part)
        if text is None:
            return False
        self.texts.append(text)
        on_frames = self.on_frames
        on_frames([Frame("chunk", part[6:-2])])
        return True


class Frames(msgspec.Struct):
    """The chunks of one stream, checked and put right. No I/O. `expected` is how many choices were asked for."""

    expected: int = 1
    provider: str = ""
    done: bool = False
    """Whether the provider said that it was."""
    unfinished: set[int] = set()
    finished: set[int] = set()
    said: set[int] = set()
    """Choices of which something was said."""
    flowing: set[int] = set()
    """Those of them that go on."""
    by_deltas: bool = False
    calls: dict[int, Calls] = {}
    begun: int = 0
    """Choices and calls of tools."""
    plain: dict[int, _Plain] = {}
    """By choice, of those that go on: the last chunk that was read with care, where that one was plain."""
    around: _Around | None = None
    """Of the last chunk, where that one was plain and said nothing new but its text. Nor does any that differs from it
    in the text alone, which is then all that has to be read of it."""
    strange: int = 0
    """Chunks in the middle that were not plain."""
    different: int = 0
    """Plain ones that were not like the one before."""

    @property
    def all_here(self) -> bool:
        """Whether nothing of the answer can be missing: what breaks now does not matter."""
        return not self.unfinished and len(self.finished) >= max(1, self.expected)

    def close(self) -> None:
        """The stream is at its end. Unusable where the answer is not: some servers never say that they are done. One
        that says so may give fewer choices than were asked for: some give one, whatever is asked."""
        all_finished = bool(self.finished) and not self.unfinished
        if not (all_finished or (self.done and self.unfinished)):
            # One that never began is an odd answer rather than one that broke off.
            raise Unusable(CUT, "model" if self.finished or self.unfinished else "request")
        if not self.done and len(self.finished) + len(self.unfinished) < self.expected:
            raise Unusable(_TOO_FEW)  # of one who never gives several, no outage

    def read_all(self, events: Iterable[tuple[bytes, bytes]], found: list[Chunk]) -> None:
        """Adds the chunks to `found` that the events stand for, up to the one that says that the stream is done.

        Raises as `read`, after it has added what came before.
        """
        plain = self.plain
        for event, raw in events:
            around = self.around
            text = None if around is None or event else around.text_in(raw)
            if around is not None and text is not None:
                found.append(Text(raw, around.index, text))
                continue
            self.around = None
            if plain and not event and b"\n" not in raw:
                try:
                    chunk = _decode_plain(raw)
                except (ValueError, RecursionError):
                    pass
                else:
                    [choice] = chunk.choices
                    before = plain.get(choice.index)
                    # Does it say nothing new but its text? What is said of the answer as a whole counts when it is said
                    # first.
                    if (
                        before is not None
                        and choice.finish_reason is before.choices[0].finish_reason
                        and choice.logprobs is before.choices[0].logprobs
                        and chunk.system_fingerprint == before.system_fingerprint
                        and chunk.service_tier == before.service_tier
                        and (chunk.obfuscation is UNSET or before.obfuscation is not UNSET)
                    ):
                        text = choice.delta.content
                        found.append(Text(raw, choice.index, text))
                        if self.different < _DIFFERENT:
                            self.different += 1
                            self.around = _around(raw, choice.index, text)
                        continue
            found += self.read(event, raw)
            if self.done:
                return

    def read(self, event: bytes, raw: bytes) -> Iterable[Payload]:
        """The chunks that one event stands for: mostly itself. `event` is its name, `raw` its data.

        Unusable, Reported or ProviderError where it is none.
        """
        try:
            data = _decode(raw)
        except (ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
            if raw == b"[DONE]" or is_done(event, raw):
                self.done = True
                return ()
            if is_keep_alive(event, raw):
                return ()
            chunk = Payload.parse(unlisted(raw), self.provider)
            data = chunk.data
        else:
            # Line ends are legal between JSON tokens, but would end an SSE line.
            chunk = Payload.of(data) if b"\n" in raw or b"\r" in raw else Payload(raw, data)
        # A chunk that is as OpenAI would have written it only counts, and needs no closer look.
        choices = data.get("choices")
        choice = choices[0] if type(choices) is list and len(choices) == 1 else None
        if type(choice) is dict and not choice.get("error") and ERRORS.isdisjoint(data):
            index, delta, reason = choice.get("index"), choice.get("delta"), choice.get("finish_reason")
            usual = type(delta) is dict and not delta.get("tool_calls") and with_texts(delta) is delta
            if type(index) is int and usual:
                if reason is None and index in self.flowing:  # one of the many in the middle
                    if not event and self.strange < _STRANGE:
                        self._learn(index, chunk.raw)
                    return (chunk,)
                known = reason is None or (type(reason) is str and reason in FINISH_REASONS)
                if known and not event and choice.get("message") is None:
                    self.by_deltas = True
                    self._note([choice])
                    return (chunk,)
        elif choices == [] and not event and data.keys() <= _USAGE_CHUNK:  # the usage, at the end
            is_chunk = data.get("object") == "chat.completion.chunk"
            return (chunk,) if is_chunk else self.chunks(event, chunk)
        return self.chunks(event, chunk)

    def chunks(self, event: bytes, chunk: Payload) -> Iterator[Payload]:
        """What any chunk stands for: mostly itself. `event` is its name among server-sent events.

        Unusable or Reported where it is none.
        """
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
        if event == BODY or (are_whole and not (self.by_deltas and self.said)):
            ended = self.finished & self.said
            for part in split(whole(data), include_usage=True):
                if any(choice["index"] in ended for choice in part["choices"]):
                    raise Unusable(AGAIN)
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

    def _learn(self, index: int, raw: bytes) -> None:
        """What is said in a chunk in the middle of that choice. A later one may leave it out, or say it again."""
        try:
            chunk = _decode_plain(raw)
        except (ValueError, RecursionError):
            self.strange += 1
            self.plain.pop(index, None)
            return
        if chunk.id and chunk.object and chunk.created and chunk.model and chunk.obfuscation != "":
            self.plain[index] = chunk

    def _note(self, choices: list[Json]) -> None:
        """Which choices have ended; one that goes on after its end has not."""
        for choice in choices:
            index, reason = choice["index"], choice.get("finish_reason")
            if index not in self.unfinished and index not in self.finished:
                self._count(1)
            says_more = any(value and not is_label(name) for name, value in choice["delta"].items())
            if says_more:
                self.said.add(index)
            if reason is not None and end_of(choice) is not None:
                self.finished.add(index)
                self.unfinished.discard(index)
                self.flowing.discard(index)
                self.plain.pop(index, None)
            elif index not in self.finished or says_more:
                self.finished.discard(index)
                self.unfinished.add(index)
                if index in self.said:
                    self.flowing.add(index)

    def _count(self, begun: int) -> None:
        self.begun += begun
        if self.begun > MOST_BEGUN:
            raise Unusable(TOO_MANY)

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
            self.by_deltas = True
        if not isinstance(delta, dict):
            raise Unusable
        delta = with_texts(delta)
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
        parts, calls = _calls(delta), self.calls.setdefault(index, Calls())
        before = calls.begun
        try:
            places = calls.places(parts)
        except ValueError:
            raise Unusable from None
        self._count(calls.begun - before)
        placed = list(map(_placed, parts, places))
        same = parts is delta["tool_calls"] and all(map(_is, placed, parts))
        return delta if same else {**delta, "tool_calls": placed}


async def answer(
    raw: bytes,
    provider: str,
    expected: int = 1,
    as_chats: Callable[[Json], Json] = lambda data: data,
    as_chats_chunk: Callable[[bytes], bytes] = lambda data: data,
) -> Payload:
    """The completion in the body of a whole answer, also where it came as the events of a stream: then with as many
    choices as are `expected`.

    Where that is another protocol's, it is made chat's first.
    """
    if begins_events(raw):
        return Payload.of_whole(await _joined(raw, Frames(expected, provider), as_chats_chunk))
    given = await parsed(unlisted(raw), provider)
    completion = whole(as_chats(given.data))
    return given if completion is given.data else Payload.of_whole(completion)


async def _joined(raw: bytes, frames: Frames, as_chats: Callable[[bytes], bytes]) -> Json:
    assembler = Assembler()
    try:
        async for event, data in events_in(raw):
            for chunk in frames.read(event, as_chats(data)):
                assembler.add(chunk.data)
            if frames.done:
                break
    except ProviderError:
        if not frames.all_here:
            raise
    frames.close()
    return assembler.completion()


def whole(data: Json) -> Json:
    """The completion itself, where it is as it should be. Unusable or Reported where it is none.

    What cannot be its usage is left out, as of a stream.
    """
    if type(data.get("usage")) not in _USAGE:
        data = {name: value for name, value in data.items() if name != "usage"}
    given = data.get("choices")
    if type(given) is list and len(given) == 1 and _is_usual(given[0]) and ERRORS.isdisjoint(data):
        return data
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


def _is_usual(choice: Any) -> bool:
    """Whether it is a text to its end as OpenAI writes one, and nothing has to be put right: nearly all are."""
    if type(choice) is not dict:
        return False
    message, reason = choice.get("message"), choice.get("finish_reason")
    return (
        type(message) is dict
        and not message.get("tool_calls")
        and with_texts(message) is message
        and type(choice.get("index")) is int
        and type(reason) is str
        and reason in FINISH_REASONS
        and not choice.get("error")
    )


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
    message = with_texts(message)
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


def _is(one: object, other: object) -> bool:
    return one is other
