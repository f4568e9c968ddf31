"""Nearly all chunks are plain text, and read in a shorter way than others. Nobody can tell: not by what goes on, nor by
what is kept, nor by what is wrong; however the bytes were cut on their way."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dub5.errors import ProviderError
from dub5.frames import Frame
from dub5.providers.chunks import Assembler, Text
from dub5.providers.http import EventParser, OnPart
from dub5.providers.odd_answers import Reported, Unusable
from dub5.providers.openai import Frames, _Passing
from dub5.providers.protocol import Chunk, Json, Onward, ResponseHead
from tests.pulling import payload_of

HEAD: Json = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt"}
NEVER_PLAIN = 2**60
"""Chunks that were not plain, from which on none is expected to be."""


def plain(text: str, **more: Any) -> Json:
    return {**HEAD, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more}


class Reader:
    """What comes of a stream's bytes."""

    def __init__(self, strange: int = 0) -> None:
        self.told: list[Chunk] = []
        self.straight = 0
        self.assembler = Assembler()
        self.error: tuple[type[Exception], str] | None = None
        self._frames = Frames(strange=strange)

    def read(self, reads: list[bytes]) -> Reader:
        parser = EventParser()
        passing = _Passing(self._frames, ResponseHead(), self._take, text=False)
        on_part: OnPart | None = None
        try:
            for received in reads:
                if on_part is None or not on_part(received):
                    on_part = passing.on_events(parser.feed(received))
                    if not parser.between_events:
                        on_part = None
                if self._frames.done:
                    break
            else:
                passing.on_events(parser.rest())
            self._frames.close()
        except (Unusable, Reported, ProviderError) as error:
            self.error = type(error), str(error)
        return self

    def _take(self, found: list[Chunk]) -> Onward | None:
        self.told += found
        assembler = self.assembler
        assembler.take(found)
        return None if assembler.texts is None else Onward(assembler.at, assembler.texts, self._go_on)

    def _go_on(self, frames: list[Frame]) -> None:
        assert self.assembler.texts is not None
        [frame] = frames
        self.told.append(Text(frame.raw, self.assembler.at, self.assembler.texts[-1]))
        self.straight += 1

    def result(self) -> object:
        return [chunk.raw for chunk in self.told], self.assembler.completion(), self.error


texts = st.text(max_size=5)
odd_values: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", "x", 0, 1, 1.0, True, [], {}, {"a": 1}, 2**70]
)
odd_head = st.fixed_dictionaries(
    {},
    optional={
        "id": odd_values,
        "object": odd_values,
        "created": odd_values,
        "model": odd_values,
        "system_fingerprint": st.sampled_from([None, "", "fp", "other"]),
        "service_tier": st.sampled_from([None, "default"]),
        "obfuscation": st.sampled_from(["", "x", "yz", None]),
        "usage": st.sampled_from([None, {}, {"prompt_tokens": 3}]),
        "error": st.sampled_from([None, {"message": "no"}]),
        "more": odd_values,
    },
)
odd_choice = st.fixed_dictionaries(
    {"index": st.sampled_from([0, 0, 0, 1, 1, None, "0", 0.0, True, -1])},
    optional={
        "delta": st.fixed_dictionaries(
            {},
            optional={
                "content": texts | odd_values,
                "role": st.sampled_from(["assistant", None]),
                "reasoning_content": texts,
                "tool_calls": st.sampled_from(
                    [None, [], [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}]]
                ),
            },
        )
        | odd_values,
        "finish_reason": st.sampled_from([None, None, None, "", "stop", "length", "unheard of"]),
        "logprobs": st.sampled_from([None, {"content": [{"token": "a"}]}]),
        "error": st.sampled_from([None, None, {}, {"message": "no"}]),
        "more": odd_values,
    },
)
chunks = st.one_of(
    texts.map(plain),
    st.builds(lambda text, head: plain(text, **head), texts, odd_head),
    st.builds(
        lambda text, index: plain(text, choices=[{"index": index, "delta": {"content": text}}]),
        texts,
        st.sampled_from([0, 1]),
    ),
    st.builds(
        lambda head, choices: {**HEAD, **head, "choices": choices}, odd_head, st.lists(odd_choice, max_size=2)
    ),
)


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """One event, in one of the forms that there are."""
    if draw(st.integers(0, 20)) == 0:
        return draw(st.sampled_from([b"data: [DONE]\n\n", b": ping\n\n", b"data: {\n\n", b"event: ping\n\n"]))
    indent = draw(st.sampled_from([None, None, None, 1]))
    written = json.dumps(draw(chunks), ensure_ascii=draw(st.booleans()), indent=indent)
    lines = written.encode("utf-8", "surrogatepass").split(b"\n")
    before = draw(st.sampled_from([b"data: ", b"data: ", b"data: ", b"data:"]))
    end = draw(st.sampled_from([b"\n", b"\n", b"\n", b"\r\n"]))
    name = draw(st.sampled_from([b"", b"", b"", b"event: chunk" + end]))
    return name + b"".join(before + line + end for line in lines) + end


streams = st.lists(texts.map(plain) | events(), max_size=12).map(
    lambda parts: b"".join(
        part if isinstance(part, bytes) else b"data: %b\n\n" % json.dumps(part).encode() for part in parts
    )
)


@given(
    stream=streams, done=st.booleans(), cuts=st.lists(st.integers(0, 4000), max_size=8), whole=st.booleans()
)
@example(stream=b"data: %b\n\n" % json.dumps(plain("a")).encode() * 5, done=True, cuts=[], whole=False)
@example(stream=b"data: %b\n\n" % json.dumps(plain("a")).encode() * 5, done=True, cuts=[], whole=True)
def test_the_short_way_comes_to_the_same_wherever_it_was_cut(
    stream: bytes, done: bool, cuts: list[int], whole: bool
) -> None:
    """With `whole` events, each of them comes by itself."""
    stream += b"data: [DONE]\n\n" * done
    cuts = [each.end() for each in re.finditer(rb"\n\n", stream)] if whole else cuts
    bounds = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    reads = [stream[start:end] for start, end in itertools.pairwise(bounds)]
    byte_by_byte = [stream[at : at + 1] for at in range(len(stream))]
    assert Reader().read(reads).result() == Reader(NEVER_PLAIN).read(byte_by_byte).result()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"system_fingerprint": "fp"},
        {"system_fingerprint": None, "service_tier": "default", "usage": None, "obfuscation": "abc"},
    ],
)
def test_it_is_taken_once_a_choice_has_begun_and_until_it_ends(more: Json) -> None:
    told = [*(plain(text, **more) for text in "abcd"), plain("", **more, choices=[_END]), plain("e", **more)]
    reads = [b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in told]
    reader = Reader().read(reads)
    assert [isinstance(chunk, Text) for chunk in reader.told] == [False, False, True, True, False, False]
    assert [payload_of(chunk).data for chunk in reader.told] == told


@pytest.mark.parametrize(
    ("told", "known"),
    [
        ([plain(text) for text in 'abc"\\\n\u20ac\U0001f600+'], True),
        ([plain(text, id='"content":"c"') for text in "abcdefg"], True),
        ([plain("", id="c", content="x") for _ in "abcdefg"], False),
        ([plain(text, obfuscation=text) for text in "abcdefg"], False),
    ],
    ids=["texts", "an odd id", "not where it should be", "more that differs"],
)
def test_a_chunk_is_known_by_what_stands_around_its_text(told: list[Json], known: bool) -> None:
    reader = Reader().read([b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in told])
    assert [payload_of(chunk).data for chunk in reader.told] == told
    assert (reader._frames.around is not None) is known
    assert bool(reader.straight) is known


@pytest.mark.parametrize("before", [0, 1, 5])
def test_an_error_in_a_choice_is_one_wherever_it_comes(before: int) -> None:
    """Also where the choice has begun, and does not end with a word for it."""
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": None, "error": {"message": "no"}}
    told = [*(plain(text) for text in "abcde"[:before]), plain("", choices=[choice])]
    reader = Reader().read([b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in told])
    assert reader.error == (Reported, "")
    assert [payload_of(chunk).data for chunk in reader.told] == told[:before]


_END = {"index": 0, "delta": {}, "finish_reason": "stop"}
