"""Answers as odd as providers send them, by a whole service: the same to each who asks, live, joined and kept."""

# ruff: noqa: E501  # one odd answer a line
from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from testkit.anthropic_server import FakeAnthropic, block_frames, message
from testkit.anthropic_server import answer as claude_answer
from testkit.anthropic_server import event as claude_event
from testkit.http_server import DIE, HANG, Part, Script, stream, whole
from testkit.openai_server import DONE, FakeOpenAI, chunk, completion, frame, frames, say
from tests.harness import Running, running
from tests.tolerant_reader import read_events, read_whole

Json = dict[str, Any]
Readings = Callable[[str, Any], Awaitable[list[Any]]]

ROLE, HELLO, STOP = (
    frame(chunk({"role": "assistant", "content": ""})),
    frame(chunk({"content": "Hello"})),
    frame(chunk({}, "stop")),
)
CALLS_END = frame(chunk({}, "tool_calls"))
USAGE: Json = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


@pytest.fixture
async def claude() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


@pytest.fixture
async def second() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        server.reply = say("second")
        yield server


@pytest.fixture
async def server(fake: FakeOpenAI, claude: FakeAnthropic, second: FakeOpenAI) -> AsyncIterator[Running]:
    """`small` and `claude` have one route each, `both` and `claude-both` go on to a second provider."""
    config: dict[str, Any] = {
        "providers": {
            "one": {"kind": "openai", "base_url": fake.base_url},
            "two": {"kind": "openai", "base_url": second.base_url},
            "claude": {"kind": "anthropic", "base_url": claude.base_url},
        },
        "models": {
            "small": {"routes": ["one/x"]},
            "both": {"routes": ["one/x", "two/x"]},
            "claude": {"routes": ["claude/x"]},
            "claude-both": {"routes": ["claude/x", "two/x"]},
        },
    }
    async with running(config) as replica:
        yield replica


def data(text: str) -> bytes:
    """An event of JSON as it is written here."""
    return f"data: {text}\n\n".encode()


def odd(choices: str) -> bytes:
    return data('{"id":"c","object":"chat.completion.chunk","created":1,"model":"m",' + choices + "}")


def part(delta: Json, **choice: Any) -> bytes:
    return frame({**chunk(delta), "choices": [{"delta": delta, **choice}]})


def call(index: Any = 0, id: str | None = "a", name: str | None = "f", arguments: str = "{}") -> Json:  # noqa: A002
    function: Json = {"name": name, "arguments": arguments}
    given: Json = {"function": _given(function), "id": id, "index": index}
    return _given(given)


def _given(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value != "-"}


def calls(*deltas: list[Json]) -> list[Part]:
    return [ROLE, *(frame(chunk({"tool_calls": parts})) for parts in deltas), CALLS_END, DONE]


NOTHING: Json = {**dict.fromkeys(("content", "reasoning_content", "reasoning", "refusal"), ""), "calls": []}


def text(content: str) -> Json:
    return {**NOTHING, "content": content}


def tools(*said: tuple[str, str, str], content: str = "") -> Json:
    calls = [{"id": id_, "name": name, "said": arguments} for id_, name, arguments in said]
    return {**NOTHING, "content": content, "calls": calls}


TWO = tools(("a", "f", '{"a":1}'), ("b", "g", "{}"))
ONE = tools(("a", "f", '{"a":1}'))
FIRST, REST = '{"a":', "1}"

# name: (events of the provider, what a reader reads)
STREAMS: dict[str, tuple[list[Part], Json]] = {
    "as it should be": (frames("Hel", "lo"), text("Hello")),
    "choices null": ([ROLE, HELLO, STOP, odd('"choices":null,"usage":{"prompt_tokens":1}'), DONE], text("Hello")),
    "choices absent": ([ROLE, HELLO, STOP, data('{"usage":{"prompt_tokens":1}}'), DONE], text("Hello")),
    "choices null at first": ([odd('"choices":null'), ROLE, HELLO, STOP, DONE], text("Hello")),
    "choices null, no DONE": ([ROLE, HELLO, STOP, odd('"choices":null')], text("Hello")),
    "a mark of byte order": ([b"\xef\xbb\xbf" + frame(chunk({"content": "Hello"})), STOP, DONE], text("Hello")),
    "a mark in each event": ([data("\ufeff" + HELLO.decode()[6:-2]), STOP, DONE], text("Hello")),
    "blanks around": ([b" \n\n " + HELLO, b"data:  \n\n", b"  " + STOP, b"data:  [DONE] \n\n"], text("Hello")),
    "no empty line at the end": ([ROLE, HELLO, STOP.rstrip()], text("Hello")),
    "choice index as a text": ([part({"content": "Hello"}, index="0"), part({}, index="0", finish_reason="stop")], text("Hello")),
    "choice index null": ([part({"content": "Hello"}, index=None), part({}, index=None, finish_reason="stop")], text("Hello")),
    "choice index absent": ([part({"content": "Hello"}), part({}, finish_reason="stop")], text("Hello")),
    "delta null": ([ROLE, odd('"choices":[{"index":0,"delta":null}]'), HELLO, STOP, DONE], text("Hello")),
    "delta absent at the end": ([HELLO, odd('"choices":[{"index":0,"finish_reason":"stop"}]'), DONE], text("Hello")),
    "message null beside it": ([part({"content": "Hello"}, index=0, message=None), STOP, DONE], text("Hello")),
    "message for a delta": ([odd('"choices":[{"index":0,"message":{"content":"Hel"}}]'), frame(chunk({"content": "lo"})), STOP], text("Hello")),
    "all of it again with its end": ([ROLE, HELLO, odd('"choices":[{"index":0,"delta":{},"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}]'), DONE], text("Hello")),
    "a whole completion after its parts": ([ROLE, HELLO, frame(completion({"role": "assistant", "content": "Hello"})), DONE], text("Hello")),
    "a whole completion after its end": ([ROLE, frame(chunk({"content": "Hel"})), frame(chunk({"content": "lo"})), STOP, frame(completion({"role": "assistant", "content": "Hello"}))], text("Hello")),
    "a call again with its end": ([*calls([call(arguments=FIRST)], [call(id="-", name="-", arguments=REST)])[:-2], odd('"choices":[{"index":0,"delta":null,"message":{"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\\"a\\":1}"}}]},"finish_reason":"tool_calls"}]'), DONE], ONE),
    "arguments as an object": ([ROLE, odd('"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":{"a":1}}}]}}]'), CALLS_END, DONE], ONE),
    "messages for deltas to the end": ([odd('"choices":[{"index":0,"message":{"content":"Hel"}}]'), odd('"choices":[{"index":0,"message":{"content":"lo"},"finish_reason":"stop"}]'), DONE], text("Hello")),
    "a whole completion as an event": ([frame(completion({"content": "Hello"})), DONE], text("Hello")),
    "an emoji cut in two": ([odd(r'"choices":[{"index":0,"delta":{"content":"a\ud83d"}}]'), odd(r'"choices":[{"index":0,"delta":{"content":"\ude00"}}]'), STOP, DONE], text("a😀")),
    "half of an emoji": ([odd(r'"choices":[{"index":0,"delta":{"content":"a\ud83d"}}]'), frame(chunk({"content": "b"})), STOP, DONE], text("a\ufffdb")),
    "-Infinity": ([odd('"choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":{"content":[{"token":"H","logprob":-Infinity}]}}]'), STOP, DONE], text("Hello")),
    "NaN": ([odd('"choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":{"content":[{"token":"H","logprob":NaN}]}}]'), STOP, DONE], text("Hello")),
    "1e999": ([odd('"x":1e999,"choices":[{"index":0,"delta":{"content":"Hello"}}]'), STOP, DONE], text("Hello")),
    "bad UTF-8": ([frame(chunk({"content": "Hello"})).replace(b"Hello", b"He\xffo"), STOP, DONE], text("He\ufffdo")),
    "finish_reason empty": ([part({"content": "Hel"}, index=0, finish_reason=""), part({"content": "lo"}, index=0, finish_reason=""), STOP], text("Hello")),
    "finish_reason the word null": ([part({"content": "Hello"}, index=0, finish_reason="null"), STOP, DONE], text("Hello")),
    "empty after the end": ([HELLO, STOP, part({}, index=0, finish_reason=""), DONE], text("Hello")),
    "null after the end, no DONE": ([HELLO, STOP, part({}, index=0, finish_reason=None)], text("Hello")),
    "reset after the end": ([ROLE, HELLO, STOP, DIE], text("Hello")),
    "garbage after the end": ([ROLE, HELLO, STOP, data("{")], text("Hello")),
    "usage a text": ([HELLO, STOP, odd('"choices":[],"usage":"many"'), DONE], text("Hello")),
    "usage of texts": ([HELLO, STOP, odd('"choices":[],"usage":{"prompt_tokens":"9","completion_tokens":[]}'), DONE], text("Hello")),
    "usage below nothing": ([HELLO, STOP, odd('"choices":[],"usage":{"prompt_tokens":-9,"completion_tokens":-1}'), DONE], text("Hello")),
    "usage beyond 64 bits": ([HELLO, STOP, odd(f'"choices":[],"usage":{{"prompt_tokens":{10**25},"completion_tokens":{10**400}}}'), DONE], text("Hello")),
    "usage in fractions": ([HELLO, STOP, odd('"choices":[],"usage":{"prompt_tokens":1.5,"completion_tokens":1e30}'), DONE], text("Hello")),
    "more cached than there are": ([HELLO, STOP, odd('"choices":[],"usage":{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":7}}'), DONE], text("Hello")),
    "content in parts": ([part({"content": [{"type": "text", "text": "Hel"}]}, index=0), part({"content": [{"type": "text", "text": "lo"}]}, index=0), STOP], text("Hello")),
    "role in each": ([*(frame(chunk({"role": "assistant", "content": piece})) for piece in ("Hel", "lo")), STOP], text("Hello")),
    "reasoning": ([frame(chunk({"reasoning": "Hm"})), frame(chunk({"reasoning": "."})), HELLO, STOP], {**text("Hello"), "reasoning": "Hm."}),
    "id emptied": (calls([call(arguments="")], [call(id="", name=None, arguments=FIRST)], [call(id="", name=None, arguments=REST)]), ONE),
    "id again": (calls([call(arguments=FIRST)], [call(arguments=REST)]), ONE),
    "name again, id null": (calls([call(arguments=FIRST)], [call(id=None, arguments=REST)]), ONE),
    "one index for all": (calls([call(arguments='{"a":1}')], [call(id="b", name="g")]), TWO),
    "one index for all, in parts": (calls([call(arguments=FIRST)], [call(id=None, name=None, arguments=REST)], [call(id="b", name="g", arguments="{")], [call(id=None, name=None, arguments="}")]), TWO),
    "one index for all, in one delta": (calls([call(arguments='{"a":1}'), call(id="b", name="g")]), TWO),
    "no index": (calls([call("-", arguments="")], [call("-", id="-", name="-", arguments=FIRST)], [call("-", id="-", name="-", arguments=REST)]), ONE),
    "no index, whole calls": (calls([call("-", arguments='{"a":1}')], [call("-", id="b", name="g")]), TWO),
    "no index, whole calls together": (calls([call("-", arguments='{"a":1}'), call("-", id="b", name="g")]), TWO),
    "index null": (calls([call(None, arguments=FIRST)], [call(None, id=None, name=None, arguments=REST)], [call(None, id="b", name="g")]), TWO),
    "index as a text": (calls([call("0", arguments=FIRST)], [call("0", id=None, name=None, arguments=REST)], [call("1", id="b", name="g")]), TWO),
    "index from 1": (calls([call(1, arguments='{"a":1}')], [call(2, id="b", name="g")]), TWO),
    "null between events": ([ROLE, data("null"), HELLO, data("null"), STOP, data("null"), DONE], text("Hello")),
    "pings between events": ([b"event: ping\ndata: ping\n\n", ROLE, data("ping"), HELLO, b'event: ping\ndata: {"type":"ping"}\n\n', data('""'), STOP, DONE], text("Hello")),
    "keep-alives as data": ([data("keep-alive"), ROLE, data('"heartbeat"'), HELLO, STOP, DONE], text("Hello")),
    "a bare message in parts": ([data('{"model":"m","message":{"role":"assistant","content":"Hel"},"done":false}'), data('{"message":{"role":"assistant","content":"lo"},"done":false}'), data('{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}')], text("Hello")),
    "a bare message": ([data('{"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}'), DONE], text("Hello")),
    "a number": ([part({"content": 5}, index=0), STOP, DONE], text("5")),
    "numbers": ([HELLO, HELLO, part({"content": 1}, index=0), part({"content": 0.5}, index=0), HELLO, STOP, DONE], text("HelloHello10.5Hello")),
    "a call that is no list": ([ROLE, frame(chunk({"tool_calls": call(arguments='{"a":1}')})), CALLS_END, DONE], ONE),
}  # fmt: skip

# These are used as well as they can be, but not kept.
POOR: dict[str, tuple[list[Part], Json]] = {
    "an unknown end": ([HELLO, frame(chunk({}, "eos"))], text("Hello")),
    "a list for an end": ([HELLO, part({}, index=0, finish_reason=["stop"]), DONE], text("Hello")),
    "an object for an end": ([HELLO, part({}, index=0, finish_reason={"a": 1}), DONE], text("Hello")),
    "no end, but DONE": ([ROLE, HELLO, DONE], text("Hello")),
    "filtered": ([HELLO, frame(chunk({}, "content_filter")), DONE], text("Hello")),
    "cut by the provider's own limit": ([HELLO, frame(chunk({}, "length")), frame({**chunk({}), "choices": [], "usage": USAGE}), DONE], text("Hello")),
    "empty": ([ROLE, STOP, DONE], text("")),
    "blank": ([ROLE, frame(chunk({"content": " \n"})), STOP, DONE], text(" \n")),
    "null": ([frame(chunk({"role": "assistant", "content": None})), STOP, DONE], text("")),
    "a refusal": ([frame(chunk({"refusal": "No"})), frame(chunk({"refusal": "."})), STOP, DONE], {**NOTHING, "refusal": "No."}),
    "no id": (calls([call(id=None)]), tools(("", "f", "{}"))),
    "no name": (calls([call(name=None)]), tools(("a", "", "{}"))),
    "arguments of two": (calls([call(arguments='{"a":1}{"b":2}')]), tools(("a", "f", '{"a":1}{"b":2}'))),
    "half of the arguments": (calls([call(arguments='{"a":')]), tools(("a", "f", '{"a":'))),
    "calls that are missing": ([HELLO, CALLS_END, DONE], text("Hello")),
}  # fmt: skip


def claude_block(index: int, block: Json, *deltas: Json) -> list[Part]:
    return block_frames(index, block, *deltas)


def unnamed(parts: list[Part]) -> list[Part]:
    """Without the `event:` lines."""
    return [one[one.index(b"data:") :] if isinstance(one, bytes) else one for one in parts]


def delta_of(text: str) -> Json:
    return {"type": "text_delta", "text": text}


CLAUDE_TEXT = claude_block(0, {"type": "text", "text": ""}, delta_of("Hel"), delta_of("lo"))
CLAUDE_TEXT_ANSWER = claude_answer(*CLAUDE_TEXT)
TOOL: Json = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
ARGUMENTS: Json = {"type": "input_json_delta", "partial_json": '{"a":1}'}

CLAUDE: dict[str, tuple[list[Part], Json]] = {
    "as it should be": (claude_answer(*CLAUDE_TEXT), text("Hello")),
    "text null": (claude_answer(*claude_block(0, {"type": "text", "text": None}, delta_of("Hello"))), text("Hello")),
    "input null": (claude_answer(*claude_block(0, {**TOOL, "input": None}, ARGUMENTS), stop_reason="tool_use"), ONE),
    "input as a text": (claude_answer(*claude_block(0, {**TOOL, "input": '{"a":1}'}), stop_reason="tool_use"), ONE),
    "no names, left open": ([*unnamed(claude_answer(*CLAUDE_TEXT)), HANG], text("Hello")),
    "no names, and DONE": ([*unnamed(claude_answer(*CLAUDE_TEXT)), DONE], text("Hello")),
    "index absent": ([one.replace(b'"index": 0, ', b"") if isinstance(one, bytes) else one for one in claude_answer(*CLAUDE_TEXT)], text("Hello")),
    "index as a text": ([one.replace(b'"index": 0', b'"index": "0"') if isinstance(one, bytes) else one for one in claude_answer(*CLAUDE_TEXT)], text("Hello")),
    "two calls without index": (
        [one.replace(b'"index": 0, ', b"") if isinstance(one, bytes) else one
         for one in claude_answer(*claude_block(0, TOOL, ARGUMENTS), *claude_block(0, {**TOOL, "id": "b", "name": "g"}), stop_reason="tool_use")],
        TWO,
    ),
    "a mark of byte order": ([b"\xef\xbb\xbf", *claude_answer(*CLAUDE_TEXT)], text("Hello")),
    "null and pings between events": ([data("null"), *CLAUDE_TEXT_ANSWER[:2], b"event: ping\ndata: ping\n\n", data("null"), *CLAUDE_TEXT_ANSWER[2:]], text("Hello")),
    "usage that is none": ([one.replace(b'"usage": {', b'"usage": null, "x": {') if isinstance(one, bytes) else one for one in claude_answer(*CLAUDE_TEXT)], text("Hello")),
    "usage of texts": ([one.replace(b'"output_tokens": 3', b'"output_tokens": "x"') if isinstance(one, bytes) else one for one in claude_answer(*CLAUDE_TEXT)], text("Hello")),
    "an emoji cut in two": (claude_answer(claude_event("content_block_start", index=0, content_block={"type": "text", "text": ""}), rb'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\ud83d"}}' + b"\n\n", rb'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\ude00"}}' + b"\n\n"), text("a😀")),
}  # fmt: skip


def seen(answer: dict[int, Json]) -> Json:
    assert list(answer) == [0]
    calls = [{name: each[name] for name in ("id", "name", "said")} for each in answer[0]["calls"]]
    return {**{name: answer[0][name] for name in NOTHING}, "calls": calls}


async def live_and_joined(
    server: Running, fake: FakeOpenAI | FakeAnthropic, parts: list[Part], **asked: Any
) -> list[Json]:
    """What one who streams reads, and one who joins that call and wants the whole."""
    go = asyncio.Event()
    fake.reply = stream([b": soon\n\n", go, *parts])
    live = asyncio.create_task(server.chat(stream=True, **asked))
    await fake.wait_called()
    joined = asyncio.create_task(server.chat(**asked))
    await server.becomes("dub5_flight_followers", 2)
    go.set()
    answers = [await live, await joined]
    assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    assert answers[0].headers["cache-status"] == "dub5; fwd=uri-miss"
    return [seen(read_events(answers[0].content)), seen(read_whole(answers[1].json()))]


async def kept(server: Running, **asked: Any) -> list[Json]:
    """What is read from the cache, whole and streamed; empty where there is nothing."""
    only = {"cache-control": "only-if-cached"}
    answers = [
        await server.chat(headers=only, **asked),
        await server.chat(headers=only, stream=True, **asked),
    ]
    if {answer.status_code for answer in answers} == {504}:
        return []
    assert "dub5; hit" in answers[0].headers["cache-status"]
    return [seen(read_whole(answers[0].json())), seen(read_events(answers[1].content))]


def alike(read: list[Json]) -> list[Json]:
    """What all of them read."""
    assert all(each == read[0] for each in read), read
    return read[:1]


async def mistaken(cases: Mapping[str, tuple[Any, ...]], readings: Readings) -> dict[str, Any]:
    """Of each case that is read otherwise than it should be, what was read. One service for all: it is kept busy."""
    found: dict[str, Any] = {}
    for name, (given, *right) in cases.items():
        try:
            read = await readings(name, given)
        except AssertionError as error:
            found[name] = error
        else:
            found |= {} if read == right else {name: read}
    return found


async def test_the_same_live_joined_and_kept(server: Running, fake: FakeOpenAI) -> None:
    async def readings(name: str, parts: list[Part]) -> list[Json]:
        return alike(await live_and_joined(server, fake, parts, text=name) + await kept(server, text=name))

    assert await mistaken(STREAMS, readings) == {}


async def test_the_same_of_those_who_speak_as_claude(server: Running, claude: FakeAnthropic) -> None:
    async def readings(name: str, parts: list[Part]) -> list[Json]:
        asked = {"text": name, "model": "claude"}
        return alike(await live_and_joined(server, claude, parts, **asked) + await kept(server, **asked))

    assert await mistaken(CLAUDE, readings) == {}


async def test_the_same_live_and_joined_but_not_kept(server: Running, fake: FakeOpenAI) -> None:
    async def readings(name: str, parts: list[Part]) -> list[Json]:
        asked = {"text": name, "max_tokens": 5}
        read = await live_and_joined(server, fake, parts, **asked)
        assert await kept(server, **asked) == []
        return alike(read)

    assert await mistaken(POOR, readings) == {}


async def test_half_of_a_turn_is_not_kept(server: Running, claude: FakeAnthropic) -> None:
    parts = claude_answer(*CLAUDE_TEXT, stop_reason="pause_turn")
    both = await live_and_joined(server, claude, parts, model="claude", max_tokens=50)
    assert both == [text("Hello")] * 2
    assert await kept(server, model="claude", max_tokens=50) == []


# --- Lines of JSON ---


def lines(parts: list[Part], end: bytes = b"\n") -> list[Part]:
    """The data of events alone, each on a line."""
    written = [one for one in parts if isinstance(one, bytes) and b"[DONE]" not in one]
    return [one[one.index(b"data: ") + 6 :].strip() + end for one in written]


async def test_lines_of_json_where_events_were_asked(
    server: Running, fake: FakeOpenAI, claude: FakeAnthropic
) -> None:
    cases: dict[str, tuple[str, list[Part]]] = {
        "openai": ("small", lines([ROLE, HELLO, STOP])),
        "CRLF, blank lines": ("small", lines([ROLE, HELLO, STOP], b"\r\n\n")),
        "no end of the last line": ("small", [*lines([ROLE, HELLO]), *lines([STOP], b"")]),
        "cut anywhere": ("small", [bytes([one]) for one in b"".join(lines([ROLE, HELLO, STOP]))]),  # type: ignore[arg-type]
        "a message in parts": (
            "small",
            [
                b'{"message":{"role":"assistant","content":"Hello"},"done":false}\n',
                b'{"message":{"role":"assistant","content":""},"done":true}\n',
            ],
        ),
        "anthropic": ("claude", lines(CLAUDE_TEXT_ANSWER)),
    }
    for name, (model, parts) in cases.items():
        kind = {"content-type": "application/x-ndjson"}
        fake.reply = claude.reply = stream(parts, headers=kind)
        live = await server.chat(name, model=model, stream=True)
        assert seen(read_events(live.content)) == text("Hello"), name
        for again in await kept(server, text=name, model=model):
            assert again == text("Hello"), name
        joined = await server.chat(f"{name}, whole", model=model)
        assert seen(read_whole(joined.json())) == text("Hello"), name


async def test_each_line_is_given_on_as_it_comes(server: Running, fake: FakeOpenAI) -> None:
    go = asyncio.Event()
    fake.reply = stream([*lines([ROLE, HELLO, frame(chunk({"content": "!"}))]), go, *lines([STOP])])
    async with server.client.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "small", "stream": True, "messages": [{"role": "user", "content": "Hi"}]},
    ) as answer:
        async for line in answer.aiter_lines():
            if "!" in line:
                go.set()
    assert go.is_set()


@pytest.mark.parametrize("content", ["Hello", [{"type": "text", "text": "Hello"}]])
async def test_a_message_whose_content_is_a_text(
    server: Running, claude: FakeAnthropic, content: Any
) -> None:
    claude.reply = whole({**message([]), "content": content})
    for streamed in (False, True):
        answer = await server.chat(f"{streamed}", model="claude", stream=streamed)
        read = read_events(answer.content) if streamed else read_whole(answer.json())
        assert seen(read) == text("Hello")


async def test_a_message_without_content_is_empty_and_not_kept(
    server: Running, claude: FakeAnthropic
) -> None:
    claude.reply = whole({**message([]), "content": None})
    answer = await server.chat(model="claude")
    assert (answer.status_code, seen(read_whole(answer.json()))) == (200, text(""))
    assert await kept(server, model="claude") == []


# --- One shape where the other was asked for ---


async def test_either_shape_where_the_other_was_asked(server: Running, fake: FakeOpenAI) -> None:
    """Events for a whole answer; then that answer as JSON for a stream."""

    async def readings(name: str, parts: list[Part]) -> list[Json]:
        fake.reply = stream(parts)
        answer = await server.chat(name)
        assert answer.headers.get("cache-status") == "dub5; fwd=uri-miss; stored"
        fake.reply = whole(answer.json())
        again = await server.chat(name, stream=True, headers={"cache-control": "no-cache"})
        return alike([seen(read_whole(answer.json())), seen(read_events(again.content))])

    cases = {name: case for name, case in STREAMS.items() if not {DIE, HANG} & set(case[0])}
    assert await mistaken(cases, readings) == {}
    assert len(fake.calls) == 2 * len(cases)


async def test_either_shape_of_claude(server: Running, claude: FakeAnthropic) -> None:
    claude.reply = stream(claude_answer(*CLAUDE_TEXT))
    assert seen(read_whole((await server.chat(model="claude")).json())) == text("Hello")
    claude.reply = whole(
        message([{"type": "text", "text": "Hello"}, {**TOOL, "input": {"a": 1}}], "tool_use")
    )
    answer = await server.chat("other", model="claude", stream=True)
    assert seen(read_events(answer.content)) == {**ONE, "content": "Hello"}
    assert await kept(server, text="other", model="claude") == [{**ONE, "content": "Hello"}] * 2


def whole_choice(**choice: Any) -> Script:
    return whole({**completion({}), "choices": [{"index": 0, "finish_reason": "stop", **choice}]})


SAID: Json = {"role": "assistant", "content": "Hello"}


WHOLE: dict[str, tuple[Script, Json, bool]] = {
    "a mark": (whole(None, raw=b"\xef\xbb\xbf" + json.dumps(completion(SAID)).encode()), text("Hello"), True),
    "blanks": (whole(None, raw=b"\n \n" + json.dumps(completion(SAID)).encode() + b"\n"), text("Hello"), True),
    "index as a text": (whole_choice(message=SAID, index="0"), text("Hello"), True),
    "index null": (whole_choice(message=SAID, index=None), text("Hello"), True),
    "a chunk": (whole_choice(delta=SAID), text("Hello"), True),
    "message null beside a delta": (whole_choice(delta=SAID, message=None), text("Hello"), True),
    "half of an emoji": (whole(None, raw=json.dumps(completion({"content": "a\ud83d"})).encode()), text("a\ufffd"), True),
    "-Infinity": (whole(None, raw=json.dumps({**completion(SAID), "x": float("-inf")}).encode()), text("Hello"), True),
    "usage beyond 64 bits": (whole({**completion(SAID), "usage": {"prompt_tokens": 10**25, "completion_tokens": -1}}), text("Hello"), True),
    "usage a list": (whole({**completion(SAID), "usage": [1]}), text("Hello"), True),
    "a list for an end": (whole_choice(message=SAID, finish_reason=["stop"]), text("Hello"), False),
    "an object for an end": (whole_choice(message=SAID, finish_reason={"a": 1}), text("Hello"), False),
    "an empty end": (whole_choice(message=SAID, finish_reason=""), text("Hello"), False),
    "a number": (whole_choice(message={**SAID, "content": 5}), text("5"), True),
    "empty": (whole_choice(message={**SAID, "content": ""}), text(""), False),
    "null": (whole_choice(message={**SAID, "content": None}), text(""), False),
    "a refusal": (whole_choice(message={**SAID, "refusal": "No."}), {**text("Hello"), "refusal": "No."}, False),
    "filtered to nothing": (whole_choice(message=None, finish_reason="content_filter"), text(""), False),
    "an empty id": (whole(completion({"tool_calls": [call(id="")]}, "tool_calls")), tools(("", "f", "{}")), False),
}  # fmt: skip


async def test_whole_answers(server: Running, fake: FakeOpenAI) -> None:
    async def readings(name: str, reply: Script) -> list[Any]:
        fake.reply = reply
        answer = await server.chat(name)
        assert answer.status_code == 200
        hits = await kept(server, text=name)
        assert answer.headers["cache-status"] == "dub5; fwd=uri-miss" + "; stored" * bool(hits)
        return [*alike([seen(read_whole(answer.json())), *hits]), bool(hits)]

    assert await mistaken(WHOLE, readings) == {}


# --- What cannot be used ---

UNUSABLE: dict[str, tuple[Script, str]] = {
    "no choices at all": (whole({"id": "c"}), "without proper `choices`"),
    "an empty list": (whole({**completion({}), "choices": []}), "without proper `choices`"),
    "choices that are none": (whole({"choices": [None]}), "without proper `choices`"),
    "a message that is none": (
        whole({"choices": [{"message": "Hello", "finish_reason": "stop"}]}),
        "`choices`",
    ),
    "an error in JSON": (whole({"error": {"message": "We are full."}}), "reported an error: We are full"),
    "an error in a list": (whole([{"error": {"message": "We are full."}}]), "reported an error: We are full"),
    "a bare error": (whole({"object": "error", "message": "We are full.", "code": 500}), "We are full"),
    "FastAPI's": (whole({"detail": "We are full."}), "We are full"),
    "a named event": (stream([b'event: error\ndata: {"message":"We are full."}\n\n']), "We are full"),
    "an event of an error": (stream([data('{"error":{"message":"We are full."}}')]), "We are full"),
    "OpenRouter's, in the choice": (
        whole(
            {
                "choices": [
                    {
                        "message": {"content": ""},
                        "finish_reason": "error",
                        "error": {"code": 502, "message": "We are full."},
                    }
                ]
            }
        ),
        "reported an error: We are full",
    ),
    "the same as an event": (
        stream(
            [
                ROLE,
                odd(
                    '"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error","error":{"message":"We are full."}}]'
                ),
                DONE,
            ]
        ),
        "reported an error: We are full",
    ),
    "an end in error": (stream([ROLE, frame(chunk({"content": ""}, "error")), DONE]), "reported an error"),
    "an event of choices that are none": (stream([data('{"choices":[7]}')]), "without proper `choices`"),
    "an event of an index that is none": (
        stream([part({"content": "x"}, index=[])]),
        "without proper `choices`",
    ),
    "an event of calls that are none": (
        stream([frame(chunk({"tool_calls": "x"}))]),
        "without proper `choices`",
    ),
    "no JSON": (whole(None, raw=b"<html>"), "JSON|ended its stream"),
    "half of JSON": (whole(None, raw=b'{"choices": ['), "malformed JSON"),
}


@pytest.mark.parametrize("name", UNUSABLE)
async def test_unusable_answers(server: Running, fake: FakeOpenAI, name: str) -> None:
    """The next route is asked; where there is none, 502 and a word why."""
    fake.reply, why = UNUSABLE[name]
    for streamed in (True, False):
        alone = await server.chat(stream=streamed)
        assert alone.status_code == 502
        assert any(word in alone.json()["error"]["message"] for word in why.split("|"))
    streamed_by_the_second = await server.chat(model="both", stream=True)
    assert "second" in streamed_by_the_second.text


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (whole({"type": "error", "error": {"type": "x", "message": "We are full."}}), "We are full"),
        (whole({"error": {"message": "We are full."}}), "We are full"),
        (whole({"content": "x"}), "what is not a message|malformed event"),
        (whole([1]), "malformed"),
        (stream([data('{"error":{"message":"We are full."}}')]), "We are full"),
        (stream([data('{"type":"content_block_delta","index":[]}')]), "malformed event"),
    ],
)
async def test_unusable_answers_of_claude(
    server: Running, claude: FakeAnthropic, reply: Script, why: str
) -> None:
    claude.reply = reply
    for streamed in (True, False):
        alone = await server.chat(model="claude", stream=streamed)
        assert alone.status_code == 502
        assert any(word in alone.json()["error"]["message"] for word in why.split("|"))
    assert "second" in (await server.chat(model="claude-both", stream=True)).text


@pytest.mark.parametrize("end", ["", "null"])
async def test_an_answer_cut_short_is_not_shown_as_whole(server: Running, fake: FakeOpenAI, end: str) -> None:
    fake.reply = stream(
        [part({"content": piece}, index=0, finish_reason=end) for piece in ("Hel", "lo, I was")]
    )
    answer = await server.chat(stream=True)
    assert "ended its stream before the answer was complete" in answer.text
    assert "[DONE]" not in answer.text
    assert await kept(server) == []


# --- How old it is ---


async def test_what_a_cache_before_us_held_is_as_old_as_that(server: Running, fake: FakeOpenAI) -> None:
    ages = {"100": 100, "100, 7": 100, " 100 ": 100, "-5": 0, "1.5": 0, "x": 0, "": 0, "1" * 400: 0}
    for age, shown in ages.items():
        for streamed in (True, False):
            headers, text = {"age": age}, f"{age} {streamed}"
            fake.reply = (
                stream(frames("Hello"), headers=headers)
                if streamed
                else whole(completion(SAID), headers=headers)
            )
            await server.chat(text, stream=streamed)
            hit = await server.chat(text)
            assert "hit" in hit.headers["cache-status"], age
            assert shown <= int(hit.headers["age"]) < shown + 30, age


@pytest.mark.parametrize("age", ["99999999", "9" * 200])
async def test_what_is_too_old_is_not_kept(server: Running, fake: FakeOpenAI, age: str) -> None:
    fake.reply = whole(completion(SAID), headers={"age": age})
    assert (await server.chat()).headers["cache-status"] == "dub5; fwd=uri-miss"
    assert await kept(server) == []


async def test_the_age_is_that_of_the_route_that_answered(
    server: Running, fake: FakeOpenAI, second: FakeOpenAI
) -> None:
    fake.reply = whole({"choices": []}, headers={"age": "200"})
    second.reply = whole(completion(SAID), headers={"age": "50"})
    await server.chat(model="both")
    assert 50 <= int((await server.chat(model="both")).headers["age"]) < 200
