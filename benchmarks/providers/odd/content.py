"""Chunks and completions that lack something or have something else; hard texts; what is not to keep."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.providers.fake import Step
from benchmarks.providers.odd.answer import Odd, Said
from benchmarks.providers.odd.openai import (
    DONE,
    HEAD,
    HELLO,
    PLAIN,
    ROLE,
    STOP,
    USAGE,
    WHOLE,
    bare,
    chunk,
    completion,
    event,
    hello,
    say,
    written,
)


def frames() -> Iterable[Odd]:
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
        "finish_reason empty in each chunk",
        (ROLE + say("hel", "") + say("lo", "") + STOP + DONE,),
        None,
        HELLO,
    )
    yield Odd(
        "finish_reason the word null",
        (ROLE + say("hel", "null") + say("lo", "null") + STOP + DONE,),
        None,
        HELLO,
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
            ROLE
            + say("hel", usage={**USAGE, "completion_tokens": 1})
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
        (ROLE + say("hel") + event(chunk({"role": None, "content": "lo"})) + STOP + DONE,),
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
        unread=("openai-node",),
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
                b'"system_fingerprint": "fp", "service_tier": "default", "x_groq": {"id": "r"}, "provider": "P", '
                b'"timings": {"n": 1.5}, "obfuscation": "abc", "choices"',
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
            ROLE
            + event(chunk({"content": "hello"}, "stop")).replace(
                b'"finish_reason"',
                b'"logprobs": {"content": [{"token": "hello", "logprob": -Infinity, "top_logprobs": []}]}, '
                b'"finish_reason"',
            )
            + DONE,
        ),
        None,
        HELLO,
        None,
        asks={"logprobs": True},
        optional=True,
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


def texts() -> Iterable[Odd]:
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
        optional=True,
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
