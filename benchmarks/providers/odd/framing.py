"""The same answer, framed in every way that a client has to read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable

from benchmarks.providers.fake import Step
from benchmarks.providers.odd.answer import Odd, Said
from benchmarks.providers.odd.openai import (
    CALLED,
    DONE,
    HELLO,
    LATER,
    ONE,
    PLAIN,
    ROLE,
    STOP,
    USAGE,
    WHOLE,
    bare,
    byte_by_byte,
    call,
    calls,
    chunk,
    completion,
    event,
    hello,
    say,
    written,
)


def framing() -> Iterable[Odd]:
    accent = (Said("héllo\u2028 \U0001f600"),)
    parts = ROLE + say("héllo\u2028 \U0001f600") + STOP + DONE
    yield Odd("plain", (PLAIN,), WHOLE, HELLO)
    yield Odd("CRLF", (PLAIN.replace(b"\n", b"\r\n"),), WHOLE + b"\r\n", HELLO)
    yield Odd("CR alone", (PLAIN.replace(b"\n", b"\r"),), None, HELLO)
    yield Odd("every byte on its own", byte_by_byte(PLAIN.replace(b"\n", b"\r\n")), None, HELLO)
    yield Odd(
        "characters cut in two, U+2028",
        byte_by_byte(parts),
        written(completion({"role": "assistant", "content": "héllo\u2028 \U0001f600"})),
        accent,
    )
    yield Odd(
        "comments between events",
        (b": OPENROUTER PROCESSING\n\n" + PLAIN.replace(b"\n\n", b"\n\n: ping\n\n"),),
        None,
        HELLO,
    )
    yield Odd(
        "event, id and retry beside data",
        (b"retry: 10\n\n" + PLAIN.replace(b"data: ", b"event: message\nid: 7\ndata: "),),
        None,
        HELLO,
    )
    pretty = json.dumps(chunk({"role": "assistant", "content": "hello"}, "stop"), indent=1)
    yield Odd(
        "one event on several data lines",
        (b"".join(b"data: " + line + b"\n" for line in pretty.encode().split(b"\n")) + b"\n" + DONE,),
        json.dumps(hello(), indent=2).encode(),
        HELLO,
    )
    yield Odd("no blank after the colon", (PLAIN.replace(b"data: ", b"data:"),), None, HELLO)
    yield Odd(
        "blanks around the data",
        (PLAIN.replace(b"data: ", b"data:   ").replace(b"\n\n", b"  \n\n"),),
        b"\n\n \n" + WHOLE + b"\n\n",
        HELLO,
    )
    yield Odd("blank lines before the first event", (b"\n\n\r\n" + PLAIN,), b"\n\n" + WHOLE, HELLO)
    yield Odd("empty data between events", (PLAIN.replace(b"\n\n", b"\n\ndata:\n\ndata: \n\n"),), None, HELLO)
    yield Odd(
        "byte order mark",
        (b"\xef\xbb\xbf" + event(chunk({"role": "assistant", "content": "hel"})) + say("lo") + STOP + DONE,),
        b"\xef\xbb\xbf" + WHOLE,
        HELLO,
    )
    yield Odd(
        "byte order mark, cut in two",
        (b"\xef", b"\xbb", b"\xbf" + event(chunk({"role": "assistant", "content": "hello"})), STOP + DONE),
        None,
        HELLO,
    )
    yield Odd("null between events", (PLAIN.replace(b"\n\n", b"\n\ndata: null\n\n", 2),), None, HELLO)
    yield Odd(
        "pings between events",
        (PLAIN.replace(b"\n\n", b"\n\nevent: ping\ndata: ping\n\n", 2) + b"data: keep-alive\n\n",),
        None,
        HELLO,
    )
    lines = PLAIN.removesuffix(DONE).replace(b"data: ", b"").replace(b"\n\n", b"\n")
    yield Odd("lines of JSON", (lines,), lines, HELLO, stream_type="application/x-ndjson")
    yield Odd("no [DONE]", (PLAIN.removesuffix(DONE),), None, HELLO)
    yield Odd(
        "no [DONE], no blank line at the end",
        (PLAIN.removesuffix(DONE).removesuffix(b"\n"),),
        None,
        HELLO,
        optional=True,
    )
    yield Odd("[DONE] and one line end", (PLAIN.removesuffix(b"\n"),), None, HELLO)
    yield Odd("[DONE] without a line end", (PLAIN.removesuffix(b"\n\n"),), None, HELLO)
    yield Odd("[DONE] twice", (PLAIN + DONE,), None, HELLO)
    yield Odd("[DONE], and the connection stays open", (PLAIN, Step.HANG), None, HELLO)
    yield Odd("[DONE], then a reset", (PLAIN, Step.RESET), None, HELLO)
    yield Odd("[DONE], then the connection is closed", (PLAIN, Step.CLOSE), None, HELLO)
    yield Odd("finished, then a reset", (PLAIN.removesuffix(DONE), Step.RESET), None, HELLO, None)
    yield Odd("finished, then closed", (PLAIN.removesuffix(DONE), Step.CLOSE), None, HELLO, None)
    yield Odd("usage behind [DONE]", (PLAIN + bare(choices=[], usage=USAGE),), None, HELLO)
    yield Odd(
        "gzip in spite of what we accept",
        (gzip.compress(PLAIN),),
        gzip.compress(WHOLE),
        HELLO,
        headers={"content-encoding": "gzip"},
    )
    yield Odd(
        "Content-Type with a charset",
        (PLAIN,),
        WHOLE,
        HELLO,
        stream_type="text/event-stream; charset=utf-8",
        whole_type="application/json; charset=utf-8",
    )
    yield Odd(
        "Content-Type text/plain", (PLAIN,), WHOLE, HELLO, stream_type="text/plain", whole_type="text/plain"
    )
    yield Odd("JSON where a stream was asked", (WHOLE,), WHOLE, HELLO, stream_type="application/json")
    yield Odd("a stream where JSON was asked", (PLAIN,), PLAIN, HELLO, whole_type="text/event-stream")
    yield Odd(
        "JSON with a tool call where a stream was asked",
        (
            written(
                completion(
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "call_1",
                                "type": "function",
                                "function": {"name": "f", "arguments": '{"a": 1}'},
                            }
                        ],
                    },
                    "tool_calls",
                )
            ),
        ),
        None,
        ONE,
        stream_type="application/json",
    )
    yield Odd(
        "a stream with a tool call where JSON was asked",
        None,
        ROLE + calls(call(0, "call_1", "f", "")) + calls(LATER[0]) + calls(LATER[1]) + CALLED + DONE,
        ONE,
        whole_type="text/event-stream",
    )
