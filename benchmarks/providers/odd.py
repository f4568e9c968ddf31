"""Odd answers that real providers give, as bytes, each with what a tolerant reader reads in it. Pure data.

`ODD` holds them by name. Where they come from: public reports about gateways and chat backends. An answer whose
`says` is empty cannot be used; of one that breaks off, `says` is empty, too. `stored` is None where an answer may be
kept or not, as long as what comes out of the cache says the same.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from benchmarks.providers.fake import Step

Json = dict[str, Any]
Part = bytes | Step


class Tool(msgspec.Struct, frozen=True):
    """A call of a tool: `arguments` as text; `input` of a custom tool is in its place."""

    id: str
    name: str
    arguments: str


class Said(msgspec.Struct, frozen=True):
    """One choice, as a tolerant reader reads it. `finish` is None where it does not matter."""

    content: str = ""
    refusal: str = ""
    reasoning: str = ""
    calls: tuple[Tool, ...] = ()
    finish: str | None = "stop"


class Odd(msgspec.Struct, frozen=True):
    """`stream` is the body of a streamed answer, `whole` of a whole one; None where this oddity has no such shape.

    `asks` are fields of the request. `kind` says whose API it is.
    """

    name: str
    stream: tuple[Part, ...] | None = None
    whole: bytes | None = None
    says: tuple[Said, ...] = ()
    stored: bool | None = True
    kind: Literal["openai", "anthropic"] = "openai"
    asks: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}
    stream_type: str = "text/event-stream"
    whole_type: str = "application/json"


# --- OpenAI's shapes ------------------------------------------------------------------------------------------------

HEAD: Json = {
    "id": "chatcmpl-odd",
    "object": "chat.completion.chunk",
    "created": 1_700_000_000,
    "model": "odd",
}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
DONE = b"data: [DONE]\n\n"
HELLO = (Said("hello"),)


def written(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else written(data)) + b"\n\n"


def chunk(delta: Any, finish: Any = None, **more: Any) -> Json:
    return {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def say(text: str, finish: Any = None, **more: Any) -> bytes:
    return event(chunk({"content": text}, finish, **more))


def bare(**fields: Any) -> bytes:
    """A chunk without `choices`, unless they are among the fields."""
    return event({**HEAD, **fields})


ROLE = event(chunk({"role": "assistant", "content": ""}))
STOP = event(chunk({}, "stop"))
CALLED = event(chunk({}, "tool_calls"))
PLAIN = ROLE + say("hel") + say("lo") + STOP + DONE


def completion(message: Any, finish: Any = "stop", **more: Any) -> Json:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE, **more}


def hello(**more: Any) -> Json:
    return completion({"role": "assistant", "content": "hello"}, **more)


WHOLE = written(hello())


def call(index: Any = ..., id: Any = ..., name: Any = ..., arguments: Any = ..., **more: Any) -> Json:  # noqa: A002
    """One member of `tool_calls`; what is left out is left out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not ...}
    known = {key: value for key, value in (("index", index), ("id", id)) if value is not ...}
    kind = {"type": "function"} if id is not ... and "type" not in more else {}
    return {**known, **kind, **({"function": function} if function else {}), **more}


def calls(*members: Json, **more: Any) -> bytes:
    return event(chunk({"tool_calls": list(members), **more}))


def tools(
    *each: tuple[str, str, str], finish: str | None = "tool_calls", content: str = ""
) -> tuple[Said, ...]:
    return (Said(content, calls=tuple(Tool(*one) for one in each), finish=finish),)


ONE = tools(("call_1", "f", '{"a": 1}'))
TWO = tools(("call_1", "f", '{"a": 1}'), ("call_2", "g", '{"b": 2}'))
LATER = (call(0, arguments='{"a"'), call(0, arguments=": 1}"))


def _byte_by_byte(data: bytes) -> tuple[bytes, ...]:
    return tuple(data[at : at + 1] for at in range(len(data)))


def _framing() -> Iterable[Odd]:
    """The same answer, framed in every way that a client has to read."""
    accent = (Said("héllo\u2028 \U0001f600"),)
    parts = ROLE + say("héllo\u2028 \U0001f600") + STOP + DONE
    yield Odd("plain", (PLAIN,), WHOLE, HELLO)
    yield Odd("CRLF", (PLAIN.replace(b"\n", b"\r\n"),), WHOLE + b"\r\n", HELLO)
    yield Odd("CR alone", (PLAIN.replace(b"\n", b"\r"),), None, HELLO)
    yield Odd("every byte on its own", _byte_by_byte(PLAIN.replace(b"\n", b"\r\n")), None, HELLO)
    yield Odd(
        "characters cut in two, U+2028",
        _byte_by_byte(parts),
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
    yield Odd(
        "one event on several data lines",
        (
            b"".join(
                b"".join(
                    b"data: " + line + b"\n"
                    for line in json.dumps(chunk({"content": "hello"}, "stop"), indent=1)
                    .encode()
                    .split(b"\n")
                )
                + b"\n"
                for _ in range(1)
            )
            + DONE,
        ),
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
    yield Odd("no [DONE]", (PLAIN.removesuffix(DONE),), None, HELLO)
    yield Odd(
        "no [DONE], no blank line at the end", (PLAIN.removesuffix(DONE).removesuffix(b"\n"),), None, HELLO
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


def _frames() -> Iterable[Odd]:
    """Chunks and completions that lack something, or have something else."""
    one = say("hello")
    yield Odd(
        "choices null beside usage",
        (PLAIN.removesuffix(DONE) + bare(choices=None, usage=USAGE) + DONE,),
        None,
        HELLO,
    )
    yield Odd("usage without choices", (PLAIN.removesuffix(DONE) + bare(usage=USAGE) + DONE,), None, HELLO)
    yield Odd(
        "choices empty beside usage",
        (PLAIN.removesuffix(DONE) + bare(choices=[], usage=USAGE) + DONE,),
        None,
        HELLO,
    )
    yield Odd("choices null at first", (bare(choices=None) + PLAIN,), None, HELLO)
    yield Odd(
        "Azure: prompt_filter_results first, filters late",
        (
            bare(choices=[], prompt_filter_results=[{"prompt_index": 0, "content_filter_results": {}}])
            + PLAIN.removesuffix(DONE)
            + event(
                {
                    **HEAD,
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": None,
                            "content_filter_results": {"hate": {"filtered": False}},
                            "content_filter_offsets": {"check_offset": 0},
                        }
                    ],
                }
            )
            + DONE,
        ),
        written(hello(prompt_filter_results=[])),
        HELLO,
    )
    yield Odd("a ping as data", (event({"type": "ping"}) + PLAIN,), None, HELLO)
    yield Odd("delta null", (ROLE + one + event(chunk(None, "stop")) + DONE,), None, HELLO)
    yield Odd(
        "delta absent",
        (ROLE + one + event({**HEAD, "choices": [{"index": 0, "finish_reason": "stop"}]}) + DONE,),
        None,
        HELLO,
    )
    yield Odd(
        "finish_reason left out of chunks",
        (
            event({**HEAD, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hello"}}]})
            + STOP
            + DONE,
        ),
        None,
        HELLO,
    )
    yield Odd(
        "finish_reason never given",
        (ROLE + one + DONE,),
        written(completion({"role": "assistant", "content": "hello"}, None)),
        (Said("hello", finish=None),),
        False,
    )
    yield Odd(
        "finish_reason empty in each chunk", (say("hel", "") + say("lo", "") + STOP + DONE,), None, HELLO
    )
    yield Odd(
        "finish_reason the word null", (say("hel", "null") + say("lo", "null") + STOP + DONE,), None, HELLO
    )
    yield Odd("finish_reason empty, cut", (say("hel", "") + say("lo", ""), Step.CLOSE), None, (), False)
    yield Odd(
        "finish_reason unknown",
        (ROLE + one + event(chunk({}, "eos_token")) + DONE,),
        written(completion({"role": "assistant", "content": "hello"}, "eos_token")),
        (Said("hello", finish=None),),
        None,
    )
    yield Odd(
        "finish_reason a number",
        (ROLE + one + event(chunk({}, 1)) + DONE,),
        written(completion({"role": "assistant", "content": "hello"}, 1)),
        (Said("hello", finish=None),),
        None,
    )
    yield Odd("finish_reason twice", (ROLE + say("hello", "stop") + STOP + DONE,), None, HELLO)
    yield Odd(
        "finish_reason with the last text", (ROLE + say("hel") + say("lo", "stop") + DONE,), None, HELLO
    )
    yield Odd(
        "usage in each chunk",
        (
            say("hel", usage={**USAGE, "completion_tokens": 1})
            + say("lo", usage={**USAGE, "completion_tokens": 2})
            + event(chunk({}, "stop", usage=USAGE))
            + DONE,
        ),
        None,
        HELLO,
    )
    yield Odd(
        "usage that is no number",
        (
            PLAIN.removesuffix(DONE)
            + bare(choices=[], usage={"prompt_tokens": "9", "completion_tokens": None, "total_tokens": 12.0})
            + DONE,
        ),
        written(hello(usage={"prompt_tokens": "9", "completion_tokens": None})),
        HELLO,
    )
    yield Odd(
        "usage that is a text",
        (PLAIN.removesuffix(DONE) + bare(choices=[], usage="none") + DONE,),
        written(hello(usage="none")),
        HELLO,
    )
    yield Odd(
        "usage below nothing",
        (
            PLAIN.removesuffix(DONE)
            + bare(choices=[], usage={"prompt_tokens": -1, "completion_tokens": -1, "total_tokens": -2})
            + DONE,
        ),
        None,
        HELLO,
    )
    yield Odd(
        "no usage",
        (PLAIN,),
        written({name: value for name, value in hello().items() if name != "usage"}),
        HELLO,
    )
    yield Odd(
        "index as text",
        (PLAIN.replace(b'"index": 0', b'"index": "0"'),),
        WHOLE.replace(b'"index": 0', b'"index": "0"'),
        HELLO,
    )
    yield Odd(
        "index null",
        (PLAIN.replace(b'"index": 0', b'"index": null'),),
        WHOLE.replace(b'"index": 0', b'"index": null'),
        HELLO,
    )
    yield Odd(
        "index absent", (PLAIN.replace(b'"index": 0, ', b""),), WHOLE.replace(b'"index": 0, ', b""), HELLO
    )
    yield Odd(
        "index with a fraction",
        (PLAIN.replace(b'"index": 0', b'"index": 0.0'),),
        WHOLE.replace(b'"index": 0', b'"index": 0.0'),
        HELLO,
    )
    yield Odd(
        "the role in each chunk",
        (
            event(chunk({"role": "assistant", "content": "hel"}))
            + event(chunk({"role": "assistant", "content": "lo"}))
            + event(chunk({"role": "assistant", "content": ""}, "stop"))
            + DONE,
        ),
        None,
        HELLO,
    )
    yield Odd(
        "no role, role null",
        (say("hel") + event(chunk({"role": None, "content": "lo"})) + STOP + DONE,),
        written(completion({"content": "hello"})),
        HELLO,
    )
    yield Odd(
        "content null first and last",
        (
            event(chunk({"role": "assistant", "content": None}))
            + one
            + event(chunk({"content": None}, "stop"))
            + DONE,
        ),
        None,
        HELLO,
    )
    yield Odd(
        "content as parts",
        (event(chunk({"role": "assistant", "content": [{"type": "text", "text": "hello"}]}, "stop")) + DONE,),
        written(
            completion(
                {
                    "role": "assistant",
                    "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}],
                }
            )
        ),
        HELLO,
    )
    yield Odd(
        "error null beside choices",
        (PLAIN.replace(b'"choices"', b'"error": null, "choices"'),),
        written(hello(error=None)),
        HELLO,
    )
    yield Odd(
        "ids, model and created of odd types",
        (
            PLAIN.replace(b'"created": 1700000000', b'"created": 1700000000.5')
            .replace(b'"model": "odd"', b'"model": null')
            .replace(b'"id": "chatcmpl-odd"', b'"id": 7'),
        ),
        WHOLE.replace(b'"created": 1700000000', b'"created": "now"')
        .replace(b'"model": "odd"', b'"model": null')
        .replace(b'"id": "chatcmpl-odd"', b'"id": null'),
        HELLO,
    )
    yield Odd(
        "no id, no object, no model",
        (
            b"".join(
                event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": end}]})
                for text, end in (("hel", None), ("lo", "stop"))
            )
            + DONE,
        ),
        written({"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}),
        HELLO,
    )
    yield Odd(
        "integers beyond 64 bits",
        (PLAIN.replace(b"1700000000", b"1" * 30),),
        WHOLE.replace(b"1700000000", b"1" * 30),
        HELLO,
    )
    yield Odd(
        "fields of others",
        (
            PLAIN.replace(
                b'"choices"',
                b'"system_fingerprint": "fp", "service_tier": "default", "x_groq": {"id": "r"}, "provider": "P", "timings": {"n": 1.5}, "obfuscation": "abc", "choices"',
            ),
        ),
        written(hello(system_fingerprint="fp", x_groq={"id": "r"}, citations=["https://example.com"])),
        HELLO,
    )
    yield Odd(
        "annotations",
        (
            ROLE
            + one
            + event(
                chunk(
                    {
                        "annotations": [
                            {
                                "type": "url_citation",
                                "url_citation": {
                                    "url": "https://example.com",
                                    "start_index": 0,
                                    "end_index": 5,
                                    "title": "x",
                                },
                            }
                        ]
                    }
                )
            )
            + STOP
            + DONE,
        ),
        None,
        HELLO,
    )
    yield Odd(
        "reasoning_content before the text",
        (
            event(chunk({"role": "assistant", "content": None, "reasoning_content": "so"}))
            + event(chunk({"content": None, "reasoning_content": " it is"}))
            + say("hello")
            + STOP
            + DONE,
        ),
        written(completion({"role": "assistant", "content": "hello", "reasoning_content": "so it is"})),
        (Said("hello", reasoning="so it is"),),
    )
    yield Odd(
        "reasoning and its details",
        (
            event(
                chunk(
                    {
                        "role": "assistant",
                        "content": "",
                        "reasoning": "so",
                        "reasoning_details": [{"type": "reasoning.text", "text": "so", "index": 0}],
                    }
                )
            )
            + event(
                chunk(
                    {
                        "content": "",
                        "reasoning": " it is",
                        "reasoning_details": [{"type": "reasoning.text", "text": " it is", "index": 0}],
                    }
                )
            )
            + say("hello")
            + STOP
            + DONE,
        ),
        None,
        (Said("hello", reasoning="so it is"),),
    )
    yield Odd(
        "logprobs",
        (
            event(
                {
                    **HEAD,
                    "choices": [
                        {
                            "index": 0,
                            "delta": {"role": "assistant", "content": "hello"},
                            "logprobs": {
                                "content": [
                                    {"token": "hello", "logprob": -0.1, "bytes": None, "top_logprobs": []}
                                ],
                                "refusal": None,
                            },
                            "finish_reason": None,
                        }
                    ],
                }
            )
            + STOP
            + DONE,
        ),
        None,
        HELLO,
        asks={"logprobs": True},
    )
    yield Odd(
        "logprobs of -Infinity",
        (
            b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"hello"},"logprobs":{"content":[{"token":"hello","logprob":-Infinity,"bytes":null,"top_logprobs":[]}]},"finish_reason":"stop"}]}\n\n'
            + DONE,
        ),
        None,
        HELLO,
        None,
        asks={"logprobs": True},
    )
    yield Odd(
        "two choices, interleaved",
        (
            b"".join(
                event(
                    {**HEAD, "choices": [{"index": index, "delta": {"content": text}, "finish_reason": end}]}
                )
                for index, text, end in (
                    (0, "hel", None),
                    (1, "good", None),
                    (0, "lo", "stop"),
                    (1, "bye", "stop"),
                )
            )
            + DONE,
        ),
        written(
            {
                **hello(),
                "choices": [
                    {
                        "index": index,
                        "message": {"role": "assistant", "content": text},
                        "finish_reason": "stop",
                    }
                    for index, text in enumerate(("hello", "goodbye"))
                ],
            }
        ),
        (Said("hello"), Said("goodbye")),
        False,
        asks={"n": 2},
    )
    yield Odd(
        "two choices in one chunk",
        (
            event(
                {
                    **HEAD,
                    "choices": [
                        {"index": index, "delta": {"content": text}, "finish_reason": "stop"}
                        for index, text in enumerate(("hello", "goodbye"))
                    ],
                }
            )
            + DONE,
        ),
        None,
        (Said("hello"), Said("goodbye")),
        False,
        asks={"n": 2},
    )


def _texts() -> Iterable[Odd]:
    """Text that is hard to carry, and answers that are none to keep."""
    joined = (Said("a\U0001f600"),)
    halves = (
        event(
            b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"a\\ud83d"},"finish_reason":null}]}'
        )
        + event(
            b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"\\ude00"},"finish_reason":null}]}'
        )
        + STOP
        + DONE
    )
    yield Odd("an emoji cut in two escapes", (halves,), None, joined, None)
    yield Odd(
        "half an emoji",
        (halves.replace(b"\\ude00", b"b"),),
        WHOLE.replace(b"hello", b"a\\ud83db"),
        (Said("a\ufffdb"),),
        None,
    )
    yield Odd(
        "escapes",
        (ROLE + say("x").replace(b'"x"', b'"h\\u00e9llo \\/ \\u0000\\t\\ud83d\\ude00"') + STOP + DONE,),
        None,
        (Said("h\u00e9llo / \x00\t\U0001f600"),),
    )
    yield Odd(
        "a text of line ends and data:",
        (ROLE + say("\n\ndata: [DONE]\n\n\r\n") + STOP + DONE,),
        None,
        (Said("\n\ndata: [DONE]\n\n\r\n"),),
    )
    yield Odd("1 MB in one chunk", (ROLE + say("x" * 2**20) + STOP + DONE,), None, (Said("x" * 2**20),), None)
    yield Odd(
        "an empty answer",
        (ROLE + STOP + DONE,),
        written(completion({"role": "assistant", "content": ""})),
        (Said(),),
        False,
    )
    yield Odd(
        "an answer of null",
        (event(chunk({"role": "assistant", "content": None}, "stop")) + DONE,),
        written(completion({"role": "assistant", "content": None})),
        (Said(),),
        False,
    )
    yield Odd(
        "only reasoning",
        (event(chunk({"role": "assistant", "reasoning_content": "so"})) + STOP + DONE,),
        written(completion({"role": "assistant", "content": None, "reasoning_content": "so"})),
        (Said(reasoning="so"),),
        None,
    )
    yield Odd(
        "a refusal that ends with stop",
        (
            event(chunk({"role": "assistant", "content": None, "refusal": "I will"}))
            + event(chunk({"refusal": " not."}))
            + STOP
            + DONE,
        ),
        written(completion({"role": "assistant", "content": None, "refusal": "I will not."})),
        (Said(refusal="I will not."),),
        False,
    )
    yield Odd(
        "filtered in the middle",
        (ROLE + say("hel") + event(chunk({}, "content_filter")) + DONE,),
        written(completion({"role": "assistant", "content": "hel"}, "content_filter")),
        (Said("hel", finish="content_filter"),),
        False,
    )
    yield Odd(
        "ended by the provider's limit",
        (ROLE + say("hel") + event(chunk({}, "length")) + DONE,),
        written(completion({"role": "assistant", "content": "hel"}, "length")),
        (Said("hel", finish="length"),),
        False,
    )
    yield Odd(
        "ended by the caller's limit",
        (ROLE + say("hel") + event(chunk({}, "length")) + DONE,),
        written(completion({"role": "assistant", "content": "hel"}, "length")),
        (Said("hel", finish="length"),),
        asks={"max_tokens": 1},
    )


def _calls() -> Iterable[Odd]:
    """Tool calls, cut and numbered in every way."""
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
        "the second call first",
        (ROLE + calls(call(1, "call_2", "g", '{"b": 2}')) + calls(call(0, "call_1", "f", '{"a": 1}')) + end,),
        None,
        TWO,
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
        ONE,
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
    )
    yield Odd(
        "no arguments in text, a call in parts of a byte",
        _byte_by_byte(ROLE + first + calls(LATER[0]) + calls(LATER[1]) + end),
        None,
        ONE,
    )


def _useless() -> Iterable[Odd]:
    """What cannot be used: an error with a word why, never our 500, and nothing to keep."""
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


# --- Anthropic's shapes ---------------------------------------------------------------------------------------------

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


def _anthropic() -> Iterable[Odd]:
    nameless = A_PLAIN.replace(b"event: ", b": ")
    called = (
        START + block(0, A_TOOL, json_delta(""), json_delta('{"a"'), json_delta(":1}")) + a_end("tool_use")
    )
    yield _claude("plain", A_PLAIN, A_WHOLE)
    yield _claude("CRLF, byte by byte", _byte_by_byte(A_PLAIN.replace(b"\n", b"\r\n")), None)
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
    yield _claude("input as a text", None, message([{**A_TOOL, "input": '{"a":1}'}], "tool_use"), A_ONE, None)
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
    yield _claude("content as a text", None, message("hello"), HELLO, None)
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
    yield _claude("content null in a whole answer", None, message(None), (), False)


def _all() -> dict[str, Odd]:
    found: dict[str, Odd] = {}
    for each in (*_framing(), *_frames(), *_texts(), *_calls(), *_useless(), *_anthropic()):
        if each.name in found:
            raise ValueError(f"{each.name} is there twice")
        found[each.name] = each
    return found


ODD = _all()
"""By name."""
