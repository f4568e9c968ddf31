"""The law of odd streams: what is kept, whole or replayed, is what a tolerant client read live.

Answers are generated, and cut into chunks in the ways that providers are known for.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from openai.lib.streaming.chat._completions import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from dub5.api.chat import events_of
from dub5.chat.answer import is_whole_answer
from dub5.providers.chunks import assemble, split
from dub5.providers.odd_answers import Reported, Unusable
from dub5.providers.openai import Frames
from dub5.providers.protocol import Payload, decode
from tests.tolerant_reader import read_events, read_stream, read_whole

Json = dict[str, Any]

words = st.text(st.sampled_from('aé 😀\n"\\{}😃z'), max_size=12)
some_words = words.filter(str.strip)


@st.composite
def calls(draw: st.DrawFn, number: int) -> Json:
    inner: Json = {"name": draw(st.sampled_from(["f", "weather", "get_time"]))}
    kind = draw(st.sampled_from(["function", "function", "custom"]))
    if kind == "function":
        inner["arguments"] = json.dumps(draw(st.dictionaries(words, words, max_size=2)), ensure_ascii=False)
    else:
        inner["input"] = draw(words)
    return {"id": f"call_{number}", "type": kind, kind: inner}


@st.composite
def choices(draw: st.DrawFn) -> Json:
    message: Json = {"role": "assistant", "content": draw(some_words)}
    for name in ("reasoning_content", "reasoning"):
        if draw(st.booleans()):
            message[name] = draw(words)
    count = draw(st.integers(0, 3))
    if count:
        message["tool_calls"] = [draw(calls(number)) for number in range(count)]
    return {"message": message, "finish_reason": "tool_calls" if count else "stop"}


def halves(text: str) -> list[str]:
    """The text in UTF-16 units: what some servers cut between."""
    units = text.encode("utf-16-le", "surrogatepass")
    return [units[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(units), 2)]


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    units, pieces = halves(text), [""]
    for unit in units:
        if draw(st.booleans()):
            pieces.append("")
        # Joined as JSON would read them, were they in one text.
        pieces[-1] = (
            (pieces[-1] + unit).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        )
    return pieces


class Habits:
    """How one provider cuts answers."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.first_index = draw(st.sampled_from([0, 1]))
        self.index = draw(st.sampled_from(["number", "text", "null", "absent", "zero"]))
        self.id_again = draw(st.sampled_from(["same", "empty", "null", "absent"]))
        self.name_again = draw(st.sampled_from(["same", "empty", "null", "absent"]))
        self.type_again = draw(st.booleans())
        self.interleaved = draw(st.booleans()) and (
            self.index in {"number", "text"} or self.id_again == "same"
        )
        self.role_again = draw(st.booleans())
        self.choice_index = draw(st.sampled_from(["number", "text", "null", "absent"]))
        self.not_ended = draw(st.sampled_from([None, "", "null", "absent"]))
        self.end_apart = draw(st.booleans())
        self.usage = draw(st.sampled_from(["none", "empty", "null", "absent", "each"]))
        self.padding = draw(st.booleans())
        self.whole_calls = draw(st.booleans())
        self.together = draw(st.booleans())


def call_parts(draw: st.DrawFn, call: Json, number: int, habits: Habits) -> list[Json]:
    kind = call["type"]
    key = "arguments" if kind == "function" else "input"
    pieces = [call[kind][key]] if habits.whole_calls else draw(cut(call[kind][key]))
    parts: list[Json] = []
    for at, piece in enumerate(pieces):
        part: Json = {kind: {key: piece}}
        again = at > 0
        _say(part, "id", call["id"], habits.id_again if again else "same")
        _say(part[kind], "name", call[kind]["name"], habits.name_again if again else "same")
        if not again or habits.type_again:
            part["type"] = kind
        index = habits.first_index + number
        match habits.index:
            case "number":
                part["index"] = index
            case "text":
                part["index"] = str(index)
            case "null":
                part["index"] = None
            case "zero":
                part["index"] = 0
        parts.append(part)
    return parts


def _say(part: Json, name: str, value: str, how: str) -> None:
    said = {"same": value, "empty": "", "null": None}
    if how in said:
        part[name] = said[how]


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Json], list[Json]]:
    """Choices, and chunks that say them."""
    said = [draw(choices()) for _ in range(draw(st.sampled_from([1, 1, 1, 2])))]
    habits = Habits(draw)
    if len(said) > 1:
        habits.choice_index = draw(st.sampled_from(["number", "text"]))
    chunks = [part for index, choice in enumerate(said) for part in _chunks(draw, choice, index, habits)]
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    last: dict[str, Json] = {"empty": {"choices": []}, "null": {"choices": None}, "absent": {}}
    if habits.usage in last:
        chunks.append({**last[habits.usage], "usage": usage})
    elif habits.usage == "each":
        chunks = [{**chunk, "usage": usage} for chunk in chunks]
    return said, [
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **each} for each in chunks
    ]


def _chunks(draw: st.DrawFn, choice: Json, index: int, habits: Habits) -> list[Json]:
    message = choice["message"]
    deltas: list[Json | None] = [{"role": "assistant", "content": ""}]
    if habits.padding:
        deltas += [None, {}, {"content": None, "tool_calls": None}, {"tool_calls": []}]
    for name in ("reasoning_content", "reasoning", "content"):
        if name in message:
            deltas += [{name: piece} for piece in draw(cut(message[name]))]
    parts = [call_parts(draw, call, at, habits) for at, call in enumerate(message.get("tool_calls", []))]
    if habits.interleaved:
        firsts = [each.pop(0) for each in parts]
        deltas += (
            [{"tool_calls": firsts}] if habits.together else [{"tool_calls": [first]} for first in firsts]
        )
        while any(parts):
            chosen = draw(st.sampled_from([each for each in parts if each]))
            deltas.append({"tool_calls": [chosen.pop(0)]})
    elif habits.together and habits.whole_calls:
        deltas.append({"tool_calls": [part for each in parts for part in each]})
    else:
        deltas += [{"tool_calls": [part]} for each in parts for part in each]
    chunks = [_chunk(delta, index, habits) for delta in deltas]
    if habits.end_apart:
        chunks.append(_chunk({}, index, habits))
    chunks[-1]["choices"][0]["finish_reason"] = choice["finish_reason"]
    return chunks


def _chunk(delta: Json | None, index: int, habits: Habits) -> Json:
    choice: Json = {"delta": {"role": "assistant", **delta} if habits.role_again and delta else delta}
    if habits.choice_index != "absent":
        written = {"number": index, "text": str(index), "null": None}
        choice["index"] = written[habits.choice_index]
    if habits.not_ended != "absent":
        choice["finish_reason"] = habits.not_ended
    return {"choices": [choice]}


def meaning(said: list[Json]) -> dict[int, Json]:
    """What `said` is to a reader."""
    return read_whole({"choices": [{**choice, "index": index} for index, choice in enumerate(said)]})


def live(chunks: list[Json]) -> list[Payload]:
    """What our clients get for chunks of a provider."""
    frames = Frames()
    given: list[Payload] = []
    for chunk in chunks:
        given += frames.read(b"", json.dumps(chunk).encode())
    frames.close()
    return given


@given(streams())
def test_what_is_kept_is_what_a_tolerant_client_read_live(stream: tuple[list[Json], list[Json]]) -> None:
    said, chunks = stream
    assert read_stream(chunks) == meaning(said)  # the reference and the generator agree
    given = live(chunks)
    assert read_stream(decode(each.raw) for each in given) == meaning(said)
    whole = Payload.of_whole(assemble(each.data for each in given))
    assert read_whole(json.loads(whole.raw)) == meaning(said)
    assert read_events(events_of(whole.raw, include_usage=True) + b"data: [DONE]\n\n") == meaning(said)
    assert is_whole_answer(whole.data, {})


@given(streams())
def test_also_of_chunks_that_nobody_put_right(stream: tuple[list[Json], list[Json]]) -> None:
    said, chunks = stream
    whole = Payload.of_whole(assemble(chunks))
    assert read_whole(whole.data) == meaning(said)
    assert assemble(split(whole.data, include_usage=True)) == whole.data


@given(streams())
def test_openais_own_client_reads_the_same_live(stream: tuple[list[Json], list[Json]]) -> None:
    said, chunks = stream
    assume('"custom"' not in json.dumps(said))  # which that client cannot read in a stream
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for each in live(chunks):
        state.handle_chunk(ChatCompletionChunk.construct(**decode(each.raw)))
    got = state.get_final_completion().model_dump(exclude_none=True)
    assert read_whole(got) == meaning(said)


_junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2**70)
    | st.floats()
    | st.sampled_from(["", "0", "null", "stop", "\ud83d", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["index", "id", "text", "type"]), inner)
    ),
    max_leaves=4,
)
_names = [
    "content",
    "refusal",
    "tool_calls",
    "function_call",
    "audio",
    "role",
    "x",
    "thinking_blocks",
    "annotations",
]
_function = st.dictionaries(st.sampled_from(["name", "arguments"]), _junk)
_call = st.dictionaries(st.sampled_from(["index", "id", "type"]), _junk) | st.builds(
    lambda f: {"function": f}, _function
)
_delta = st.dictionaries(st.sampled_from(_names), _junk | st.lists(_call | _junk, max_size=3), max_size=4)
_choice = st.dictionaries(
    st.sampled_from(["index", "finish_reason", "logprobs", "delta", "message"]), _junk | _delta
)
_odd = st.dictionaries(
    st.sampled_from(["choices", "usage", "error", "id", "object", "message"]),
    _junk | st.lists(_choice | _junk, max_size=3),
)


@given(st.lists(_odd, max_size=6))
def test_no_chunk_makes_us_stumble(chunks: list[Json]) -> None:
    """Each is used, or is the provider's failure; what is made of it can be read again."""
    given: list[Payload] = []
    frames = Frames()
    for chunk in chunks:
        try:
            given += list(frames.read(b"", json.dumps(chunk).encode()))
        except (Unusable, Reported):
            continue
    whole = Payload.of_whole(assemble(decode(each.raw) for each in given))
    assert json.loads(whole.raw) is not None
    is_whole_answer(whole.data, {"max_tokens": 3})
    events_of(whole.raw, include_usage=True)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([{"id": "audio_1", "transcript": ""}, {"data": "AA"}, {"data": "BB", "transcript": "he"}, {"transcript": "y"}],
         {"id": "audio_1", "data": "AABB", "transcript": "hey"}),
        ([{"id": "audio_1", "data": "A"}, {"id": "audio_1", "data": "B", "expires_at": 7}],
         {"id": "audio_1", "data": "AB", "expires_at": 7}),
    ],
)  # fmt: skip
def test_audio_grows(parts: list[Json], said: Json) -> None:
    chunks = [{"choices": [{"index": 0, "delta": {"audio": part}}]} for part in parts]
    assert assemble(chunks)["choices"][0]["message"]["audio"] == said


def joined(*deltas: Json) -> Json:
    message: Json = assemble({"choices": [{"index": 0, "delta": delta}]} for delta in deltas)["choices"][0][
        "message"
    ]
    return message


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        ([{"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"name": "f", "arguments": "{"}},
          {"function_call": {"arguments": "}"}}],
         {"function_call": {"name": "f", "arguments": "{}"}}),
        ([{"thoughts": "a"}, {"thoughts": "b"}], {"thoughts": "ab"}),
        ([{"message_id": "m1"}, {"message_id": "m1"}], {"message_id": "m1"}),
        ([{"content": "a"}, {"content": [{"type": "text", "text": "b"}]}, {"content": "c"}],
         {"content": [{"type": "text", "text": text} for text in "abc"]}),
        ([{"content": 1}, {"content": 2}], {"content": "12"}),
        ([{"content": "a"}, {"content": 2}, {"content": "b"}], {"content": "a2b"}),
        ([{"content": 5}], {"content": 5}),
        ([{"annotations": [{"type": "url_citation"}]}, {"annotations": [{"type": "url_citation"}]}],
         {"annotations": [{"type": "url_citation"}, {"type": "url_citation"}]}),
        ([{"thinking_blocks": [{"type": "thinking", "thinking": "a", "signature": "s"}]}] * 2,
         {"thinking_blocks": [{"type": "thinking", "thinking": "a", "signature": "s"}] * 2}),
        ([{"details": [{"index": 0, "type": "text", "text": "a", "format": "x", "signature": None}]},
          {"details": [{"index": "0", "type": "text", "text": "b", "format": "x", "signature": "s"}]},
          {"details": [{"index": 0, "type": "encrypted", "data": "z"}]}],
         {"details": [{"index": 0, "type": "text", "text": "ab", "format": "x", "signature": "s"},
                      {"index": 0, "type": "encrypted", "data": "z"}]}),
        ([{"tool_calls": {"id": "a", "function": {"name": "f"}}}, {"tool_calls": [{"function": {"arguments": "{}"}}]}],
         {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}),
        ([{"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}] * 2}],
         {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}] * 2}),
        ([{"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, {"tool_calls": [{"index": 0, "id": "late"}]}],
         {"tool_calls": [{"function": {"name": "f"}, "id": "late"}]}),
    ],
)  # fmt: skip
def test_what_fields_mean(deltas: list[Json], message: Json) -> None:
    assert joined(*deltas) == {"role": "assistant", "content": None, "refusal": None, **message}


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("content", {"text": "ab"}),
        ("content", True),
        ("content", False),
        ("refusal", {"text": "ab"}),
        ("refusal", True),
    ],
)
@pytest.mark.parametrize(
    ("before", "behind"),
    [([], ["y"]), (["x"], ["y", 5, "z"]), ([5], [[{"type": "text", "text": "y"}], "z"])],
)
def test_what_is_no_text_is_seen_by_whoever_keeps_answers(
    name: str, odd: Any, before: list[Any], behind: list[Any]
) -> None:
    deltas = [{name: said} for said in [*before, odd, *behind]]
    if name == "refusal":
        deltas.append({"content": "But this."})
    whole = assemble({"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]} for delta in deltas)
    assert whole["choices"][0]["message"][name] == odd
    assert not is_whole_answer(whole, {})


def test_azure_says_who_it_is_in_the_second_chunk() -> None:
    whole = assemble(
        [
            {"id": "", "created": 0, "model": "", "object": "", "choices": [], "prompt_filter_results": [1]},
            {"id": "c", "created": 7, "model": "m", "object": "chat.completion.chunk", "choices": []},
        ]
    )
    assert whole == {
        "id": "c",
        "created": 7,
        "model": "m",
        "object": "chat.completion",
        "choices": [],
        "prompt_filter_results": [1],
    }


def test_the_end_of_a_choice_is_not_taken_back() -> None:
    ends = ["", "tool_calls", "", "null", None]
    chunks: list[Json] = [{"choices": [{"index": 0, "delta": {}, "finish_reason": end}]} for end in ends]
    assert assemble(chunks)["choices"][0]["finish_reason"] == "tool_calls"
