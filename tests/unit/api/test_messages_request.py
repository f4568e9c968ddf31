"""A request to Messages as the chat request that asks the same, and as each provider is asked then."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam
from pydantic import TypeAdapter

from dub5.api.messages_request import question
from dub5.chat.question import answer_key
from dub5.errors import InvalidRequest, Unsupported
from dub5.providers.anthropic_native import betas, counted, native
from dub5.providers.anthropic_only import for_others
from dub5.providers.protocol import Call, Json
from testkit.anthropic_rules import refusal

_messages: TypeAdapter[Any] = TypeAdapter(list[ChatCompletionMessageParam])
_tools: TypeAdapter[Any] = TypeAdapter(list[ChatCompletionToolUnionParam])

MARK = {"cache_control": {"type": "ephemeral"}}
PIXEL = "iVBORw0KGgo="
TOOL = {"name": "weather", "description": "Of a city", "input_schema": {"type": "object"}}
FUNCTION = {
    "type": "function",
    "function": {"name": "weather", "description": "Of a city", "parameters": {"type": "object"}},
}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
CALL = {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}


def asked(*messages: Json, **fields: Any) -> Json:
    return {"model": "m", "max_tokens": 9, "messages": list(messages), **fields}


def user(*content: Any) -> Json:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> Json:
    return {"role": "assistant", "content": list(content)}


def text(words: str) -> Json:
    return {"type": "text", "text": words}


def result(content: Any, **fields: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, **fields}


HI = {"role": "user", "content": "Hi"}

FIELDS = [
    ({"system": "Be brief."}, {"messages": [{"role": "system", "content": "Be brief."}, HI]}),
    ({"system": [text("Be brief.")]}, {"messages": [{"role": "system", "content": "Be brief."}, HI]}),
    (
        {"system": [text("a"), text("b") | MARK]},
        {"messages": [{"role": "system", "content": [text("a"), text("b") | MARK]}, HI]},
    ),
    ({"stop_sequences": ["END"]}, {"stop": ["END"]}),
    ({"metadata": {"user_id": "u"}}, {"user": "u"}),
    ({"service_tier": "auto"}, {}),
    ({"service_tier": "standard_only"}, {"service_tier": "default"}),
    ({"temperature": 0.5, "top_p": 0.9, "top_k": 4}, {"temperature": 0.5, "top_p": 0.9, "top_k": 4}),
    ({"thinking": {"type": "adaptive"}}, {"thinking": {"type": "adaptive"}}),
    ({"output_config": {"effort": "low"}}, {"output_config": {"effort": "low"}}),
    (
        {"output_config": {"task_budget": {"total": 20000}}},
        {"output_config": {"task_budget": {"total": 20000}}},
    ),
    ({"stream": True}, {"stream": True}),
    ({"tools": [TOOL]}, {"tools": [FUNCTION]}),
    ({"tools": [TOOL | MARK | {"type": "custom"}]}, {"tools": [FUNCTION | MARK]}),
    (
        {"tools": [TOOL | {"strict": True}]},
        {"tools": [{**FUNCTION, "function": {**FUNCTION["function"], "strict": True}}]},  # type: ignore[dict-item]
    ),
    (
        {"tools": [{"type": "bash_20250124", "name": "bash"}]},
        {"tools": [{"type": "bash_20250124", "name": "bash"}]},
    ),
    ({"tool_choice": {"type": "auto"}}, {}),
    ({"tools": [TOOL], "tool_choice": {"type": "any"}}, {"tools": [FUNCTION], "tool_choice": "required"}),
    ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {"tools": [FUNCTION], "tool_choice": "none"}),
    (
        {
            "tools": [TOOL],
            "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        },
        {
            "tools": [FUNCTION],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "parallel_tool_calls": False,
        },
    ),
    (
        {
            "output_config": {
                "format": {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {}}}}
            }
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": {"type": "object", "properties": {"a": {}}}},
            }
        },
    ),
    ({"never_heard_of": [1], "mcp_servers": []}, {"never_heard_of": [1], "mcp_servers": []}),
]


@pytest.mark.parametrize(("fields", "expected"), FIELDS)
def test_a_field_in_chat_s_words(fields: Json, expected: Json) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [HI], **expected}
    assert question(asked(HI, **fields), {}) == body


CONTENTS = [
    ([HI], [HI]),
    ([user(text("Hi"))], [HI]),
    ([user(text("a"), text("b"))], [{"role": "user", "content": [text("a"), text("b")]}]),
    (
        [user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}})],
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}],
            }
        ],
    ),
    (
        [user({"type": "image", "source": {"type": "url", "url": "https://a.example"}} | MARK)],
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "https://a.example"}} | MARK],
            }
        ],
    ),
    (
        [
            user(
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "QQ=="},
                }
            )
        ],
        [
            {
                "role": "user",
                "content": [
                    {
                        "type": "file",
                        "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,QQ=="},
                    }
                ],
            }
        ],
    ),
    ([assistant(text("Look:"), USE)], [{"role": "assistant", "content": "Look:", "tool_calls": [CALL]}]),
    (
        [assistant(THOUGHT, USE)],
        [{"role": "assistant", "content": None, "thinking_blocks": [THOUGHT], "tool_calls": [CALL]}],
    ),
    (
        [assistant({"type": "thinking", "thinking": "Hm.", "signature": ""}, USE)],
        [{"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [CALL]}],
    ),
    (
        [assistant({"type": "thinking", "thinking": "Hm.", "signature": ""}, text("Yes"))],
        [{"role": "assistant", "content": "Yes"}],
    ),
    (
        [user(result("3 °C"), text("Well?"))],
        [
            {"role": "tool", "tool_call_id": "toolu_1", "content": "3 °C"},
            {"role": "user", "content": "Well?"},
        ],
    ),
    (
        [user(text("Well?"), result([text("none")], is_error=True))],
        [
            {"role": "tool", "tool_call_id": "toolu_1", "content": "none", "is_error": True},
            {"role": "user", "content": "Well?"},
        ],
    ),
]


@pytest.mark.parametrize(("messages", "expected"), CONTENTS)
def test_messages_in_chat_s_words(messages: list[Json], expected: list[Json]) -> None:
    assert question(asked(*messages), {})["messages"] == expected


WRONG = [
    (asked(HI, max_tokens=None), "max_tokens"),
    ({"model": "m", "max_tokens": 9}, "messages"),
    (asked(), "messages"),
    (asked("x"), "messages[0]"),  # type: ignore[arg-type]
    (asked({"role": "tool", "content": ""}), "messages[0].role"),
    (asked(HI, {"role": "user"}), "messages[1].content"),
    (asked(user(7)), "messages[0].content[0]"),
    (asked(user({"type": 7})), "messages[0].content[0].type"),
    (asked(user(text("a"), {"type": "text"})), "messages[0].content[1].text"),
    (asked(user({"type": "image", "source": "x"})), "messages[0].content[0].source"),
    (asked(user(USE)), "messages[0].content[0].type"),
    (asked(user(result([{"type": "text", "text": 1}]))), "messages[0].content[0].content[0].text"),
    (asked(user({"type": "tool_result"})), "messages[0].content[0].tool_use_id"),
    (asked(assistant({**USE, "input": "{}"})), "messages[0].content[0].input"),
    (asked(assistant({"type": "thinking"})), "messages[0].content[0].thinking"),
    (asked(HI, system=[{"type": "image"}]), "system[0].type"),
    (asked(HI, system=7), "system"),
    (asked(HI, tools=[{"name": "a"}]), "tools[0].input_schema"),
    (asked(HI, tools=[7]), "tools[0]"),
    (asked(HI, tool_choice="auto"), "tool_choice"),
    (asked(HI, tool_choice={"type": "required"}), "tool_choice.type"),
    (asked(HI, stop_sequences=[7]), "stop_sequences[0]"),
    (asked(HI, metadata={"user_id": 7}), "metadata.user_id"),
    (asked(HI, service_tier="flex"), "service_tier"),
    (asked(HI, output_config={"format": {"type": "text"}}), "output_config.format.type"),
    (asked(HI, n=2), "n"),
    (asked(HI, response_format={"type": "text"}), "response_format"),
]


@pytest.mark.parametrize(("body", "param"), WRONG)
def test_what_is_wrong_is_named_by_its_path(body: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        question(body, {})
    assert caught.value.param == param


def test_betas_are_part_of_the_question() -> None:
    assert question(asked(HI), {"anthropic-beta": "b-2, a-1,b-2"})["anthropic_beta"] == ["a-1", "b-2"]
    with pytest.raises(InvalidRequest):
        question(asked(HI), {"anthropic-beta": "a\r\nx"})


def test_it_asks_what_chat_asks() -> None:
    def key(body: Json) -> str:
        return answer_key(body, scope=("public",), personality_revision="", model_revision="m")

    chat = {
        "model": "m",
        "max_completion_tokens": 9,
        "messages": [
            {"role": "developer", "content": "s"},
            HI,
            {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "3 °C"},
        ],
        "tools": [FUNCTION],
        "tool_choice": "auto",
        "n": 1,
    }
    ours = asked(HI, assistant(USE), user(result("3 °C")), system=[text("s") | MARK], tools=[TOOL | MARK])
    assert key(question(ours, {})) == key(chat)


# --- As providers are asked ---


def call(body: Json, **fields: Any) -> Call:
    return Call(model="up", body=question(body, {}), stream=False, spelled=("messages", body), **fields)


ONLY_ANTHROPIC = [
    (asked(HI, mcp_servers=[{"url": "x"}]), "mcp_servers"),
    (asked(HI, container="c"), "container"),
    (asked(HI, inference_geo="us"), "inference_geo"),
    (asked(HI, tools=[TOOL, {"type": "web_search_20250305", "name": "web_search"}]), "tools[1].type"),
    (
        asked(user({"type": "image", "source": {"type": "file", "file_id": "f"}})),
        "messages[0].content[0].source",
    ),
    (
        asked(user({"type": "document", "source": {"type": "url", "url": "x"}})),
        "messages[0].content[0].source",
    ),
    (
        asked(
            user(
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                    "citations": {"enabled": True},
                }
            )
        ),
        "messages[0].content[0].citations",
    ),
    (
        asked(HI, assistant({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})),
        "messages[1].content[0].type",
    ),
    (
        asked(user(result([text("x"), {"type": "tool_reference", "tool_name": "t"}]))),
        "messages[0].content[0].content[1].type",
    ),
]


@pytest.mark.parametrize(("body", "param"), ONLY_ANTHROPIC)
def test_what_only_anthropic_can_do_goes_to_another_route(body: Json, param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        for_others(call(body), reasons=False)
    assert caught.value.param == param


def test_other_providers_get_nothing_that_chat_has_no_words_for() -> None:
    document = {
        "type": "document",
        "title": "T",
        "source": {"type": "text", "media_type": "text/plain", "data": "d"},
    }
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    body = asked(
        user(document, text("Sum up.") | MARK),
        assistant(THOUGHT, USE),
        user(result([text("see:"), picture], is_error=True)),
        system=[text("a") | MARK, text("b")],
        tools=[TOOL | MARK | {"input_examples": []}],
        thinking={"type": "adaptive"},
        output_config={"effort": "max"},
        cache_control=MARK["cache_control"],
    )
    sent = for_others(call(body), reasons=False)
    assert sent == {
        "max_tokens": 9,
        "model": "m",
        "tools": [FUNCTION],
        "messages": [
            {"role": "system", "content": "a\nb"},
            {"role": "user", "content": [text("T\nd"), text("Sum up.")]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "see:"},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}],
            },
        ],
    }
    assert for_others(call(body), reasons=True)["reasoning_effort"] == "xhigh"


def test_pictures_follow_the_last_result_of_calls_that_were_made_together() -> None:
    """Nothing may come between calls and their results: servers refuse such a conversation."""
    picture = {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}
    body = asked(
        assistant(USE, USE | {"id": "toolu_2"}),
        user(result([picture]), result([text("a"), text("b"), picture]) | {"tool_use_id": "toolu_2"}),
        assistant(text("Two pictures.")),
    )
    shown = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    assert for_others(call(body), reasons=False)["messages"] == [
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL | {"id": "toolu_2"}]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": ""},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "a\nb"},
        {"role": "user", "content": [shown, shown]},
        {"role": "assistant", "content": "Two pictures."},
    ]


def test_a_chat_request_with_words_of_anthropic_s_is_left_alone() -> None:
    body = {"messages": [HI], "thinking": {"type": "enabled"}}
    assert for_others(Call(model="m", body=body, stream=False), reasons=False) is body


def test_anthropic_is_asked_to_the_letter() -> None:
    body = asked(
        HI,
        assistant(THOUGHT, {"type": "redacted_thinking", "data": "x"}, USE | MARK),
        user(result("3", is_error=True) | MARK),
        system=[text("s") | MARK],
        never_heard_of={"a": None},
        stream=True,
    )
    assert native(call(body), stream=True) == {**body, "model": "up"}
    assert "stream" not in native(call(body), stream=False)


def test_thinking_that_another_provider_said_is_left_out() -> None:
    unsigned = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    sent = native(call(asked(HI, assistant(unsigned, text("a")), assistant(unsigned), HI)), stream=False)
    assert sent["messages"] == [HI, assistant(text("a")), HI]


def test_a_personality_speaks_first_and_fills_in_what_is_open() -> None:
    body = asked(HI, system="mine", temperature=0.1)
    opening = [{"role": "system", "content": "theirs"}, HI, {"role": "assistant", "content": "Ho"}]
    spoken = call(body, stable=3, defaults=frozenset({"stop", "seed"}))
    spoken.body.update(stop="END", seed=7, messages=opening + spoken.body["messages"])
    assert native(spoken, stream=False) == {
        "model": "up",
        "max_tokens": 9,
        "temperature": 0.1,
        "system": [text("theirs") | MARK, text("mine")],
        "messages": [user(text("Hi")), assistant(text("Ho")), HI],
        "stop_sequences": ["END"],
    }


def test_no_stop_sequences_leave_those_of_the_personality() -> None:
    spoken = call(asked(HI, stop_sequences=[]), defaults=frozenset({"stop"}))
    spoken.body["stop"] = "END"
    assert native(spoken, stream=False)["stop_sequences"] == ["END"]


def test_a_default_gives_way_where_the_model_would_refuse_it() -> None:
    def sent(model: str, **fields: Any) -> Json:
        spoken = call(asked(HI, **fields), defaults=frozenset({"temperature", "top_p"}))
        spoken.body.update(temperature=1.5, top_p=0.5)
        spoken = Call(
            model=model, body=spoken.body, stream=False, spelled=spoken.spelled, defaults=spoken.defaults
        )
        return native(spoken, stream=False)

    assert sent("claude-sonnet-4-5")["temperature"] == 1
    assert "top_p" not in sent("claude-sonnet-4-5")
    assert "temperature" not in sent("claude-sonnet-4-5", thinking={"type": "enabled", "budget_tokens": 1024})
    assert "temperature" not in sent("claude-opus-5")


def test_only_what_shapes_the_prompt_is_counted() -> None:
    body = asked(HI, system="s", tools=[TOOL], temperature=1, stop_sequences=["x"], metadata={"user_id": "u"})
    assert counted(call(body)) == {"model": "up", "messages": [HI], "system": "s", "tools": [TOOL]}


def test_betas_of_the_operator_and_of_the_caller_go_together() -> None:
    spoken = Call(
        model="m",
        body=question(asked(HI), {"anthropic-beta": "b,c"}),
        stream=False,
        spelled=("messages", asked(HI)),
    )
    assert betas(spoken, "a, b") == "a,b,c"
    assert betas(Call(model="m", body={"anthropic_beta": ["z"]}, stream=False), "a") == "a"


# --- Whatever comes ---

scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5)
words = st.text(min_size=1, max_size=8).filter(str.strip)
sources = st.sampled_from(
    [
        {"type": "base64", "media_type": "image/png", "data": PIXEL},
        {"type": "url", "url": "https://a.example/b"},
        {"type": "file", "file_id": "f"},
    ]
)
good_blocks = st.one_of(
    st.builds(text, words),
    st.builds(lambda source: {"type": "image", "source": source}, sources),
    st.just(
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "x"},
            "title": "t",
        }
    ),
    st.just(
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
        }
    ),
)


@st.composite
def good_requests(draw: st.DrawFn) -> Json:
    messages = [user(*draw(st.lists(good_blocks, min_size=1, max_size=3)))]
    for _ in range(draw(st.integers(0, 2))):
        before = draw(st.lists(st.just(THOUGHT) | st.builds(text, words), max_size=2))
        thoughts = [block for block in before if block["type"] == "thinking"][:1]
        texts = [block for block in before if block["type"] == "text"]
        messages.append(assistant(*thoughts, *texts, {**USE, "id": f"t{len(messages)}"}))
        said = draw(words | st.lists(good_blocks, min_size=1, max_size=2))
        answer = {**result(said), "tool_use_id": f"t{len(messages) - 1}"}
        messages.append(user(answer, *draw(st.lists(good_blocks, max_size=1))))
    optional: Json = {
        "system": draw(st.none() | words | st.lists(st.builds(text, words), min_size=1, max_size=2)),
        "tool_choice": draw(st.sampled_from([None, {"type": "auto"}, {"type": "any"}, {"type": "none"}])),
        "stop_sequences": draw(st.none() | st.just(["END"])),
        "stream": draw(st.none() | st.booleans()),
    }
    fields = {name: value for name, value in optional.items() if value is not None}
    return asked(*messages, tools=[TOOL], **fields)


@settings(max_examples=60)
@given(good_requests())
def test_what_anthropic_takes_reaches_it_and_is_a_chat_of_openai_s_elsewhere(body: Json) -> None:
    assert refusal(body) is None
    spoken = call(body)
    assert refusal(native(spoken, stream=bool(body.get("stream")))) is None
    with contextlib.suppress(Unsupported):
        sent = for_others(spoken, reasons=False)
        _messages.validate_python(sent["messages"], strict=True, extra="forbid")
        _tools.validate_python(sent["tools"], strict=True, extra="forbid")


odd = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "text", "role", "content", "source", "input", "id", "name", "tool_use_id", "format"]
            ),
            inner
            | st.sampled_from(["text", "image", "document", "tool_use", "tool_result", "user", "assistant"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)
names = st.sampled_from(
    [
        "system",
        "messages",
        "tools",
        "tool_choice",
        "output_config",
        "metadata",
        "stop_sequences",
        "max_tokens",
        "thinking",
    ]
)


@settings(max_examples=200)
@given(st.dictionaries(names, odd, max_size=6))
def test_whatever_comes_is_asked_or_refused(body: Json) -> None:
    with contextlib.suppress(InvalidRequest):
        spoken = call({"model": "m", "max_tokens": 9, "messages": [HI], **body})
        native(spoken, stream=False)
        for_others(spoken, reasons=True)
