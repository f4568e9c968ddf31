"""Anthropic's shapes, odd as well: what it and servers that speak its API answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.providers.fake import Step
from benchmarks.providers.odd.answer import Json, Odd, Part, Said
from benchmarks.providers.odd.openai import DONE, HELLO, byte_by_byte, event, tools, written

A_USAGE = {
    "input_tokens": 5,
    "cache_creation_input_tokens": 1,
    "cache_read_input_tokens": 3,
    "output_tokens": 3,
}


def message(content: Any, stop_reason: Any = "end_turn", **more: Any) -> Json:
    return {
        "id": "msg_odd",
        "type": "message",
        "role": "assistant",
        "model": "claude-odd",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": A_USAGE,
        **more,
    }


def a_event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + event({"type": kind, **fields})


def block(index: Any, start: Json, *deltas: Json) -> bytes:
    return (
        a_event("content_block_start", index=index, content_block=start)
        + b"".join(a_event("content_block_delta", index=index, delta=delta) for delta in deltas)
        + a_event("content_block_stop", index=index)
    )


def text_delta(text: str) -> Json:
    return {"type": "text_delta", "text": text}


def json_delta(part: Any) -> Json:
    return {"type": "input_json_delta", "partial_json": part}


START = a_event("message_start", message={**message([], None), "usage": {**A_USAGE, "output_tokens": 1}})


def a_end(stop_reason: Any = "end_turn", **more: Any) -> bytes:
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return a_event("message_delta", delta=delta, usage={"output_tokens": 3}, **more) + a_event("message_stop")


A_TEXT = {"type": "text", "text": ""}
A_HELLO = block(0, A_TEXT, text_delta("hel"), text_delta("lo"))
A_PLAIN = START + a_event("ping") + A_HELLO + a_end()
A_WHOLE = message([{"type": "text", "text": "hello"}])
A_TOOL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
A_ONE = tools(("toolu_1", "f", '{"a":1}'))


def _claude(
    name: str,
    stream: bytes | tuple[Part, ...] | None,
    whole: Any,
    says: tuple[Said, ...] = HELLO,
    stored: bool | None = True,
    **more: Any,
) -> Odd:
    parts = (stream,) if isinstance(stream, bytes) else stream
    body = whole if whole is None or isinstance(whole, bytes) else written(whole)
    return Odd(f"Claude: {name}", parts, body, says, stored, kind="anthropic", **more)


def anthropic() -> Iterable[Odd]:
    nameless = A_PLAIN.replace(b"event: ", b": ")
    called = (
        START + block(0, A_TOOL, json_delta(""), json_delta('{"a"'), json_delta(":1}")) + a_end("tool_use")
    )
    yield _claude("plain", A_PLAIN, A_WHOLE)
    yield _claude("content a text", None, written(message("hello")))
    yield _claude("null between events", A_PLAIN.replace(b"\n\n", b"\n\ndata: null\n\n", 2), None)
    yield _claude("CRLF, byte by byte", byte_by_byte(A_PLAIN.replace(b"\n", b"\r\n")), None)
    yield _claude("byte order mark", b"\xef\xbb\xbf" + A_PLAIN, b"\xef\xbb\xbf" + written(A_WHOLE))
    yield _claude(
        "pings and comments everywhere",
        A_PLAIN.replace(b"\n\n", b'\n\n: keep-alive\n\nevent: ping\ndata: {"type": "ping"}\n\n'),
        None,
    )
    yield _claude("no event: lines", nameless, None)
    yield _claude("no event: lines, connection left open", (nameless, Step.HANG), None)
    yield _claude("connection left open", (A_PLAIN, Step.HANG), None)
    yield _claude("a reset behind message_stop", (A_PLAIN, Step.RESET), None)
    yield _claude("[DONE] at the end", A_PLAIN + DONE, None)
    yield _claude(
        "unknown events, blocks and deltas",
        START
        + a_event("new_thing", index=0, x={})
        + block(0, {"type": "new_block", "y": []}, {"type": "new_delta", "z": 1})
        + block(1, A_TEXT, {"type": "citations_delta", "citation": {}}, text_delta("hello"))
        + a_end(),
        message([{"type": "new_block", "y": []}, {"type": "text", "text": "hello", "citations": None}]),
    )
    yield _claude(
        "server tools",
        START
        + block(
            0,
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            json_delta('{"q": 1}'),
        )
        + block(1, {"type": "web_search_tool_result", "tool_use_id": "s", "content": []})
        + block(2, A_TEXT, text_delta("hello"))
        + a_end(),
        message(
            [
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": 1}},
                {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
                {"type": "text", "text": "hello"},
            ]
        ),
    )
    yield _claude(
        "two blocks of text",
        START + block(0, A_TEXT, text_delta("hel")) + block(1, A_TEXT, text_delta("lo")) + a_end(),
        message([{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]),
    )
    yield _claude(
        "text in the block's start", START + block(0, {"type": "text", "text": "hello"}) + a_end(), None
    )
    yield _claude(
        "text null",
        START + block(0, {"type": "text", "text": None}, text_delta("hello")) + a_end(),
        message([{"type": "text", "text": None}, {"type": "text", "text": "hello"}]),
    )
    yield _claude(
        "text of a delta null",
        START + block(0, A_TEXT, text_delta("hello"), {"type": "text_delta", "text": None}) + a_end(),
        None,
    )
    yield _claude("index as text", A_PLAIN.replace(b'"index": 0', b'"index": "0"'), None)
    yield _claude(
        "no block starts",
        A_PLAIN.replace(a_event("content_block_start", index=0, content_block=A_TEXT), b""),
        None,
        (Said("hello", finish=None),),
        None,
        optional=True,
    )
    yield _claude(
        "usage null",
        A_PLAIN.replace(b'"usage": {"output_tokens": 3}', b'"usage": null'),
        message([{"type": "text", "text": "hello"}], usage=None),
    )
    yield _claude(
        "usage with nulls, texts, details",
        A_PLAIN.replace(
            b'"usage": {"output_tokens": 3}',
            b'"usage": {"output_tokens": "3", "input_tokens": null, "server_tool_use": {"web_search_requests": 0}}',
        ),
        message([{"type": "text", "text": "hello"}], usage={"input_tokens": "5", "output_tokens": None}),
    )
    yield _claude(
        "no usage, no id, no model",
        START.replace(written(A_USAGE | {"output_tokens": 1}), b"{}")
        .replace(b'"id": "msg_odd", ', b"")
        .replace(b'"model": "claude-odd", ', b"")
        + A_HELLO
        + a_end(),
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": "hello"}],
            "stop_reason": "end_turn",
        },
    )
    yield _claude(
        "id and model null",
        A_PLAIN.replace(b'"msg_odd"', b"null").replace(b'"claude-odd"', b"null"),
        message([{"type": "text", "text": "hello"}], id=None, model=None),
    )
    yield _claude(
        "a tool",
        called,
        message([{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}], "tool_use"),
        A_ONE,
    )
    yield _claude(
        "text and two tools",
        START
        + A_HELLO
        + block(1, A_TOOL, json_delta('{"a":1}'))
        + block(2, {**A_TOOL, "id": "toolu_2", "name": "g"}, json_delta('{"b":2}'))
        + a_end("tool_use"),
        message(
            [
                {"type": "text", "text": "hello"},
                {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
                {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {"b": 2}},
            ],
            "tool_use",
        ),
        tools(("toolu_1", "f", '{"a":1}'), ("toolu_2", "g", '{"b":2}'), content="hello"),
    )
    yield _claude(
        "a tool without input",
        START + block(0, A_TOOL) + a_end("tool_use"),
        message([A_TOOL], "tool_use"),
        tools(("toolu_1", "f", "{}")),
    )
    yield _claude(
        "input null",
        START + block(0, {**A_TOOL, "input": None}, json_delta('{"a":1}')) + a_end("tool_use"),
        None,
        A_ONE,
    )
    yield _claude(
        "input null in a whole answer",
        None,
        message([{**A_TOOL, "input": None}], "tool_use"),
        tools(("toolu_1", "f", "{}")),
    )
    yield _claude(
        "no input member",
        START
        + block(0, {"type": "tool_use", "id": "toolu_1", "name": "f"}, json_delta('{"a":1}'))
        + a_end("tool_use"),
        None,
        A_ONE,
    )
    yield _claude(
        "input in the block's start",
        START + block(0, {**A_TOOL, "input": {"a": 1}}) + a_end("tool_use"),
        None,
        A_ONE,
    )
    yield _claude(
        "input as a text",
        None,
        message([{**A_TOOL, "input": '{"a":1}'}], "tool_use"),
        A_ONE,
        None,
        optional=True,
    )
    yield _claude(
        "input that is not JSON",
        START + block(0, A_TOOL, json_delta('{"a":')) + a_end("tool_use"),
        None,
        tools(("toolu_1", "f", '{"a":')),
        False,
    )
    yield _claude(
        "partial_json null",
        START + block(0, A_TOOL, json_delta(None), json_delta('{"a":1}')) + a_end("tool_use"),
        None,
        A_ONE,
    )
    yield _claude(
        "a tool with an empty id",
        START + block(0, {**A_TOOL, "id": ""}, json_delta("{}")) + a_end("tool_use"),
        message([{**A_TOOL, "id": ""}], "tool_use"),
        tools(("", "f", "{}")),
        False,
        unread=("openai-node",),
    )
    yield _claude(
        "thinking with its signature",
        START
        + block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "so"},
            {"type": "thinking_delta", "thinking": " it is"},
            {"type": "signature_delta", "signature": "abc="},
        )
        + block(1, A_TEXT, text_delta("hello"))
        + a_end(),
        message(
            [
                {"type": "thinking", "thinking": "so it is", "signature": "abc="},
                {"type": "text", "text": "hello"},
            ]
        ),
        (Said("hello", reasoning="so it is"),),
    )
    yield _claude(
        "thinking without signature, redacted",
        START
        + block(0, {"type": "thinking", "thinking": "so"})
        + block(1, {"type": "redacted_thinking", "data": "xyz"})
        + block(2, A_TEXT, text_delta("hello"))
        + a_end(),
        message(
            [
                {"type": "thinking", "thinking": "so", "signature": None},
                {"type": "redacted_thinking", "data": "xyz"},
                {"type": "text", "text": "hello"},
            ]
        ),
        (Said("hello", reasoning="so"),),
    )
    for reason, finish, stored in (
        ("stop_sequence", "stop", True),
        ("pause_turn", None, False),
        ("refusal", "content_filter", False),
        ("max_tokens", "length", False),
        ("model_context_window_exceeded", "length", False),
        ("of_the_future", None, None),
    ):
        yield _claude(
            f"stop reason {reason}",
            START + A_HELLO + a_end(reason),
            message([{"type": "text", "text": "hello"}], reason),
            (Said("hello", finish=finish),),
            stored,
        )
    yield _claude(
        "stop reason null",
        START + A_HELLO + a_end(None),
        message([{"type": "text", "text": "hello"}], None),
        (Said("hello", finish=None),),
        None,
    )
    yield _claude("an empty answer", START + a_end(), message([]), (Said(finish=None),), False)
    yield _claude(
        "an empty text",
        START + block(0, A_TEXT) + a_end(),
        message([{"type": "text", "text": ""}]),
        (Said(finish=None),),
        False,
    )
    yield _claude("content as a text", None, message("hello"), HELLO, None, optional=True)
    yield _claude(
        "an emoji cut in two escapes",
        A_PLAIN.replace(b'"hel"', b'"a\\ud83d"').replace(b'"lo"', b'"\\ude00"'),
        None,
        (Said("a\U0001f600"),),
        None,
    )
    yield _claude("JSON where a stream was asked", written(A_WHOLE), None, stream_type="application/json")
    yield _claude("a stream where JSON was asked", None, A_PLAIN, whole_type="text/event-stream")
    overload = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    yield _claude(
        "overloaded behind message_start", START + b"event: error\n" + event(overload), None, (), False
    )
    yield _claude(
        "overloaded behind text", START + A_HELLO + b"event: error\n" + event(overload), None, (), False
    )
    yield _claude(
        "an error with status 200", written(overload), overload, (), False, stream_type="application/json"
    )
    yield _claude(
        "an error without words",
        START + b"event: error\n" + event({"type": "error", "error": None}),
        {"type": "error"},
        (),
        False,
    )
    yield _claude("cut before message_stop", (START + A_HELLO, Step.CLOSE), None, (), False)
    yield _claude("message_stop alone", a_event("message_stop"), None, (), False)
    yield _claude("events before message_start", A_HELLO + a_end(), None, (), False)
    yield _claude("a page of HTML", b"<html></html>", b"<html></html>", (), False)
    yield _claude(
        "content null", START.replace(b'"content": []', b'"content": null') + A_HELLO + a_end(), None
    )
    yield _claude("content null in a whole answer", None, message(None), (Said(),), False)
