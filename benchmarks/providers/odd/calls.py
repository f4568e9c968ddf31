"""Tool calls, cut and numbered in every way."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.providers.odd.answer import Odd, Said
from benchmarks.providers.odd.openai import (
    CALLED,
    DONE,
    HELLO,
    LATER,
    ONE,
    ROLE,
    STOP,
    TWO,
    byte_by_byte,
    call,
    calls,
    chunk,
    completion,
    event,
    say,
    tools,
    written,
)


def tool_calls() -> Iterable[Odd]:
    first = calls(call(0, "call_1", "f", ""))
    end = CALLED + DONE
    yield Odd(
        "a tool call",
        (ROLE + first + calls(LATER[0]) + calls(LATER[1]) + end,),
        written(
            completion(
                {"role": "assistant", "content": None, "tool_calls": [call(..., "call_1", "f", '{"a": 1}')]},
                "tool_calls",
            )
        ),
        ONE,
    )
    for what, later in (("empty", ""), ("null", None), ("again", "call_1")):
        yield Odd(
            f"a call's id {what} in later chunks",
            (
                ROLE
                + first
                + calls(call(0, later, arguments='{"a"'))
                + calls(call(0, later, arguments=": 1}"))
                + end,
            ),
            None,
            ONE,
        )
    for what, later in (("empty", ""), ("null", None), ("again", "f")):
        yield Odd(
            f"a call's name {what} in later chunks",
            (
                ROLE
                + first
                + calls(call(0, name=later, arguments='{"a"'))
                + calls(call(0, name=later, arguments=": 1}"))
                + end,
            ),
            None,
            ONE,
        )
    for what, later in (("empty", ""), ("null", None), ("again", "function")):
        yield Odd(
            f"a call's type {what} in later chunks",
            (
                ROLE
                + first
                + calls(call(0, arguments='{"a"', type=later))
                + calls(call(0, arguments=": 1}", type=later))
                + end,
            ),
            None,
            ONE,
        )
    yield Odd(
        "id and name again with the last piece",
        (ROLE + first + calls(LATER[0]) + calls(call(0, "call_1", "f", ": 1}")) + end,),
        None,
        ONE,
    )
    yield Odd(
        "the id after the name",
        (
            ROLE
            + calls(call(0, name="f", arguments=""))
            + calls(call(0, "call_1", arguments='{"a": 1}'))
            + end,
        ),
        None,
        ONE,
    )
    yield Odd(
        "no type",
        (
            ROLE
            + calls({"index": 0, "id": "call_1", "function": {"name": "f", "arguments": '{"a": 1}'}})
            + end,
        ),
        None,
        ONE,
    )
    both = (call(0, "call_1", "f", '{"a": 1}'), call(0, "call_2", "g", '{"b": 2}'))
    yield Odd("two calls with one index", (ROLE + calls(both[0]) + calls(both[1]) + end,), None, TWO)
    yield Odd("two calls with one index, in one chunk", (ROLE + calls(*both) + end,), None, TWO)
    yield Odd(
        "two calls with one index, in pieces",
        (
            ROLE
            + first
            + calls(LATER[0])
            + calls(LATER[1])
            + calls(call(0, "call_2", "g", ""))
            + calls(call(0, arguments='{"b"'))
            + calls(call(0, arguments=": 2}"))
            + end,
        ),
        None,
        TWO,
    )
    yield Odd(
        "three calls with one index, ids in each piece",
        (
            ROLE
            + b"".join(
                calls(call(0, id_, name, part))
                for id_, name, part in (
                    ("call_1", "f", "{"),
                    ("call_1", None, "}"),
                    ("call_2", "g", "{"),
                    ("call_2", None, "}"),
                    ("call_3", "h", "{}"),
                )
            )
            + end,
        ),
        None,
        tools(("call_1", "f", "{}"), ("call_2", "g", "{}"), ("call_3", "h", "{}")),
    )
    without = (call(..., "call_1", "f", '{"a": 1}'), call(..., "call_2", "g", '{"b": 2}'))
    yield Odd("calls without index, in one chunk", (ROLE + calls(*without) + end,), None, TWO)
    yield Odd(
        "calls without index, a chunk each", (ROLE + calls(without[0]) + calls(without[1]) + end,), None, TWO
    )
    yield Odd(
        "a call without index, in pieces",
        (
            ROLE
            + calls(call(..., "call_1", "f", ""))
            + calls(call(arguments='{"a"'))
            + calls(call(arguments=": 1}"))
            + end,
        ),
        None,
        ONE,
    )
    yield Odd(
        "two calls without index, in pieces",
        (
            ROLE
            + calls(call(..., "call_1", "f", ""))
            + calls(call(arguments='{"a": 1}'))
            + calls(call(..., "call_2", "g", ""))
            + calls(call(arguments='{"b": 2}'))
            + end,
        ),
        None,
        TWO,
    )
    yield Odd(
        "a call without index, its id in each piece",
        (
            ROLE
            + calls(call(..., "call_1", "f", '{"a"'))
            + calls(call(..., "call_1", arguments=": 1}"))
            + end,
        ),
        None,
        ONE,
    )
    yield Odd("index null in a call", (ROLE + calls(call(None, "call_1", "f", '{"a": 1}')) + end,), None, ONE)
    yield Odd(
        "index null in a call, in pieces",
        (
            ROLE
            + calls(call(None, "call_1", "f", ""))
            + calls(call(None, arguments='{"a"'))
            + calls(call(None, arguments=": 1}"))
            + end,
        ),
        None,
        ONE,
    )
    yield Odd(
        "index as text in a call",
        (ROLE + calls(call("0", "call_1", "f", "")) + calls(call("0", arguments='{"a": 1}')) + end,),
        None,
        ONE,
    )
    yield Odd(
        "indexes as text in two calls",
        (
            ROLE
            + calls(call("0", "call_1", "f", '{"a": 1}'))
            + calls(call("1", "call_2", "g", '{"b": 2}'))
            + end,
        ),
        None,
        TWO,
    )
    yield Odd(
        "index with a fraction in a call",
        (ROLE + calls(call(0.0, "call_1", "f", "")) + calls(call(0.0, arguments='{"a": 1}')) + end,),
        None,
        ONE,
    )
    yield Odd(
        "indexes from 1",
        (ROLE + calls(call(1, "call_1", "f", '{"a": 1}')) + calls(call(2, "call_2", "g", '{"b": 2}')) + end,),
        None,
        TWO,
    )
    yield Odd(
        "indexes with a gap",
        (ROLE + calls(call(0, "call_1", "f", '{"a": 1}')) + calls(call(5, "call_2", "g", '{"b": 2}')) + end,),
        None,
        TWO,
    )
    yield Odd(
        "the second call first",  # the order is that of their coming, as OpenAI's client for Python has it
        (ROLE + calls(call(1, "call_2", "g", '{"b": 2}')) + calls(call(0, "call_1", "f", '{"a": 1}')) + end,),
        None,
        (Said(calls=TWO[0].calls[::-1], finish="tool_calls"),),
    )
    yield Odd(
        "two calls, interleaved",
        (
            ROLE
            + first
            + calls(call(1, "call_2", "g", ""))
            + calls(LATER[0])
            + calls(call(1, arguments='{"b"'))
            + calls(LATER[1])
            + calls(call(1, arguments=": 2}"))
            + end,
        ),
        None,
        TWO,
    )
    yield Odd(
        "arguments as an object",
        (ROLE + calls(call(0, "call_1", "f", {"a": 1})) + end,),
        written(
            completion(
                {"role": "assistant", "content": None, "tool_calls": [call(..., "call_1", "f", {"a": 1})]},
                "tool_calls",
            )
        ),
        tools(("call_1", "f", '{"a":1}')),
        None,
    )
    yield Odd(
        "no arguments",
        (ROLE + calls(call(0, "call_1", "f")) + end,),
        written(
            completion(
                {"role": "assistant", "content": None, "tool_calls": [call(..., "call_1", "f")]}, "tool_calls"
            )
        ),
        tools(("call_1", "f", "")),
        None,
    )
    yield Odd(
        "arguments empty",
        (ROLE + calls(call(0, "call_1", "f", "")) + end,),
        written(
            completion(
                {"role": "assistant", "content": None, "tool_calls": [call(..., "call_1", "f", "")]},
                "tool_calls",
            )
        ),
        tools(("call_1", "f", "")),
        None,
    )
    yield Odd(
        "arguments null",
        (ROLE + calls(call(0, "call_1", "f", None)) + end,),
        None,
        tools(("call_1", "f", "")),
        None,
    )
    yield Odd(
        "arguments that are not JSON",
        (ROLE + calls(call(0, "call_1", "f", '{"a": ')) + end,),
        written(
            completion(
                {"role": "assistant", "content": None, "tool_calls": [call(..., "call_1", "f", '{"a": ')]},
                "tool_calls",
            )
        ),
        tools(("call_1", "f", '{"a": ')),
        False,
    )
    yield Odd(
        "arguments glued together",
        (ROLE + calls(call(0, "call_1", "f", '{"a": 1}{"b": 2}')) + end,),
        written(
            completion(
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [call(..., "call_1", "f", '{"a": 1}{"b": 2}')],
                },
                "tool_calls",
            )
        ),
        tools(("call_1", "f", '{"a": 1}{"b": 2}')),
        False,
    )
    yield Odd(
        "arguments cut by the caller's limit",
        (ROLE + calls(call(0, "call_1", "f", '{"a": ')) + event(chunk({}, "length")) + DONE,),
        None,
        tools(("call_1", "f", '{"a": '), finish="length"),
        None,
        asks={"max_tokens": 5},
    )
    yield Odd(
        "a call without name",
        (
            ROLE
            + calls({"index": 0, "id": "call_1", "type": "function", "function": {"arguments": "{}"}})
            + end,
        ),
        written(
            completion(
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "call_1", "type": "function", "function": {"arguments": "{}"}}],
                },
                "tool_calls",
            )
        ),
        tools(("call_1", "", "{}")),
        False,
    )
    yield Odd(
        "a call without id",
        (ROLE + calls({"index": 0, "type": "function", "function": {"name": "f", "arguments": "{}"}}) + end,),
        written(
            completion(
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                "tool_calls",
            )
        ),
        tools(("", "f", "{}")),
        False,
    )
    yield Odd(
        "a call with an empty id",
        (ROLE + calls(call(0, "", "f", "{}")) + end,),
        written(
            completion(
                {"role": "assistant", "content": None, "tool_calls": [call(..., "", "f", "{}")]}, "tool_calls"
            )
        ),
        tools(("", "f", "{}")),
        False,
    )
    yield Odd(
        "text, then a call",
        (ROLE + say("hello") + calls(call(0, "call_1", "f", '{"a": 1}')) + end,),
        written(
            completion(
                {
                    "role": "assistant",
                    "content": "hello",
                    "tool_calls": [call(..., "call_1", "f", '{"a": 1}')],
                },
                "tool_calls",
            )
        ),
        tools(("call_1", "f", '{"a": 1}'), content="hello"),
    )
    yield Odd(
        "a call, then text",
        (ROLE + calls(call(0, "call_1", "f", '{"a": 1}')) + say("hello") + end,),
        None,
        tools(("call_1", "f", '{"a": 1}'), content="hello"),
    )
    yield Odd(
        "text and a call in one chunk",
        (
            event(
                chunk(
                    {
                        "role": "assistant",
                        "content": "hello",
                        "tool_calls": [call(0, "call_1", "f", '{"a": 1}')],
                    }
                )
            )
            + end,
        ),
        None,
        tools(("call_1", "f", '{"a": 1}'), content="hello"),
    )
    yield Odd(
        "a call that ends with stop",
        (ROLE + calls(call(0, "call_1", "f", '{"a": 1}')) + STOP + DONE,),
        written(
            completion(
                {"role": "assistant", "content": None, "tool_calls": [call(..., "call_1", "f", '{"a": 1}')]},
                "stop",
            )
        ),
        tools(("call_1", "f", '{"a": 1}'), finish="stop"),
        None,
    )
    yield Odd(
        "a call in the last chunk",
        (ROLE + event(chunk({"tool_calls": [call(0, "call_1", "f", '{"a": 1}')]}, "tool_calls")) + DONE,),
        None,
        ONE,
    )
    yield Odd(
        "tool_calls null and empty beside text",
        (
            event(chunk({"role": "assistant", "content": "hel", "tool_calls": None}))
            + event(chunk({"content": "lo", "tool_calls": []}))
            + STOP
            + DONE,
        ),
        written(completion({"role": "assistant", "content": "hello", "tool_calls": []})),
        HELLO,
    )
    yield Odd(
        "a signature beside a call",
        (
            ROLE
            + calls(
                {**call(0, "call_1", "f", '{"a"'), "extra_content": {"google": {"thought_signature": "abc="}}}
            )
            + calls({**call(0, arguments=": 1}"), "extra_content": {"google": {"thought_signature": "abc="}}})
            + end,
        ),
        None,
        ONE,
    )
    yield Odd(
        "a custom tool",
        (
            ROLE
            + calls({"index": 0, "id": "call_1", "type": "custom", "custom": {"name": "f", "input": "x = "}})
            + calls({"index": 0, "custom": {"input": "1"}})
            + end,
        ),
        None,
        tools(("call_1", "f", "x = 1")),
        unread=("openai-node",),
    )
    yield Odd(
        "no arguments in text, a call in parts of a byte",
        byte_by_byte(ROLE + first + calls(LATER[0]) + calls(LATER[1]) + end),
        None,
        ONE,
    )
