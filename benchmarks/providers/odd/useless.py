"""What cannot be used: an error with a word why, never our 500, and nothing to keep."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.providers.fake import Step
from benchmarks.providers.odd.answer import Odd
from benchmarks.providers.odd.openai import (
    DONE,
    PLAIN,
    ROLE,
    STOP,
    WHOLE,
    bare,
    chunk,
    completion,
    event,
    hello,
    say,
    written,
)


def useless() -> Iterable[Odd]:
    error = {"error": {"message": "Overloaded", "type": "overloaded_error"}}
    yield Odd("an error as the first event", (event(error),), None, (), False)
    yield Odd("an error behind the role", (ROLE + event(error),), None, (), False)
    yield Odd("an error behind text", (ROLE + say("hel") + event(error),), None, (), False)
    yield Odd(
        "an error with status 200",
        (written(error),),
        written(error),
        (),
        False,
        stream_type="application/json",
    )
    yield Odd("an error that is a text", (event({"error": "no"}),), written({"error": "no"}), (), False)
    yield Odd("event: error", (b'event: error\ndata: {"message": "no"}\n\n',), None, (), False)
    yield Odd("cut behind text", (ROLE + say("hel"), Step.CLOSE), WHOLE[:60], (), False)
    yield Odd("cut inside of an event", ((ROLE + say("hel"))[:-20], Step.RESET), None, (), False)
    yield Odd("ended behind text", (ROLE + say("hel"),), None, (), False)
    yield Odd("an empty body", (b"",), b"", (), False)
    yield Odd("[DONE] alone", (DONE,), None, (), False)
    yield Odd(
        "a page of HTML",
        (b"<html>502</html>",),
        b"<html>502</html>",
        (),
        False,
        stream_type="text/html",
        whole_type="text/html",
    )
    yield Odd(
        "garbage between events",
        (ROLE + say("hel") + b'data: {"choices": [{"del\n\n' + STOP + DONE,),
        None,
        (),
        False,
    )
    yield Odd("bytes that are no UTF-8", (b"data: \xff\xfe\n\n" + DONE,), b"\xff\xfe", (), False)
    yield Odd("a list", (event([]) + DONE,), b"[]", (), False)
    yield Odd("a number, a text", (event(7) + DONE,), b'"hello"', (), False)
    yield Odd("null", (event(None) + DONE,), b"null", (), False)
    yield Odd(
        "choices that are a text",
        (bare(choices="hello") + DONE,),
        written({**hello(), "choices": "hello"}),
        (),
        False,
    )
    yield Odd(
        "a choice that is a text",
        (bare(choices=["hello"]) + DONE,),
        written({**hello(), "choices": ["hello"]}),
        (),
        False,
    )
    yield Odd(
        "a delta that is a text",
        (event(chunk("hello")) + DONE,),
        written({**hello(), "choices": [{"index": 0, "message": "hello"}]}),
        (),
        False,
    )
    yield Odd("no choices in a whole answer", None, written({**hello(), "choices": None}), (), False)
    yield Odd(
        "a choice without message",
        None,
        written({**hello(), "choices": [{"index": 0, "finish_reason": "stop"}]}),
        (),
        False,
    )
    yield Odd(
        "tool_calls that are a text",
        (event(chunk({"tool_calls": "f"})) + DONE,),
        written(completion({"role": "assistant", "tool_calls": "f"}, "tool_calls")),
        (),
        False,
    )
    yield Odd(
        "nested a thousand deep",
        (event(b'{"choices": ' + b"[" * 5000 + b"]" * 5000 + b"}") + DONE,),
        b"[" * 100_000 + b"]" * 100_000,
        (),
        False,
    )
    yield Odd(
        "an index that is a word", (PLAIN.replace(b'"index": 0', b'"index": "first"'),), None, (), False
    )
