"""What Claude would refuse is said in other words, each mend once; what cannot be said is left to another route."""

from __future__ import annotations

import base64
import copy
import json
from itertools import pairwise
from typing import Any

import pytest

from dub5.errors import Unsupported
from dub5.providers.anthropic_request import request
from dub5.providers.protocol import Json
from testkit.anthropic_rules import refusal

QUESTION: Json = {"role": "user", "content": "Hi"}
TOOL: Json = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
MARK: Json = {"type": "ephemeral"}
LONG: Json = {"type": "ephemeral", "ttl": "1h"}
PNG, JPEG = b"\x89PNG\r\n\x1a\n>?>?", b"\xff\xd8\xff\xe0"
UNKNOWN, OLD, BUDGETS, NEWEST, ALWAYS = (
    "claude",
    "claude-3-haiku-20240307",
    "claude-sonnet-4-5",
    "claude-sonnet-5",
    "claude-opus-5-5",
)


def translated(
    *messages: Json, model: str = UNKNOWN, stable: int = 0, beta: bool = False, **fields: Any
) -> Json:
    """The translation, which the rules take and which leaves what was given as it was."""
    given = {"messages": list(messages) or [QUESTION], **fields}
    before = copy.deepcopy(given)
    body = request(given, model=model, max_tokens=4096, stream=False, stable=stable, beta=beta)
    assert given == before
    assert refusal(body) is None
    return body


def turns(*messages: Json, **fields: Any) -> list[Json]:
    spoken: list[Json] = translated(*messages, **fields)["messages"]
    return spoken


def text(words: str, **more: Any) -> Json:
    return {"type": "text", "text": words, **more}


def said(words: Any, **more: Any) -> Json:
    return {"role": "assistant", "content": words, **more}


def call(id: Any, arguments: Any = "{}", name: str = "weather") -> Json:  # noqa: A002  # OpenAI's name
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(id: Any, content: Any = "rain") -> Json:  # noqa: A002  # OpenAI's name
    return {"role": "tool", "tool_call_id": id, "content": content}


# --- Sampling, limits, thinking ---


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        (UNKNOWN, {"temperature": 0.2, "top_p": 0.9}, {"temperature": 0.2}),
        (OLD, {"temperature": 0.2, "top_p": 0.9}, {"temperature": 0.2}),
        (BUDGETS, {"top_p": 0.9, "top_k": 5}, {"top_p": 0.9, "top_k": 5}),
        (UNKNOWN, {"top_k": -1}, {}),
        (UNKNOWN, {"top_k": 2.5}, {}),
        (NEWEST, {"temperature": 1, "top_p": 1, "top_k": 5}, {}),
        ("claude-opus-4-7", {"temperature": 0.2}, {}),
        ("anthropic/claude-opus-4.7", {"temperature": 0.2}, {}),
        ("claude-opus-4-6", {"temperature": 0.2}, {"temperature": 0.2}),
    ],
)
def test_sampling(model: str, given: Json, expected: Json) -> None:
    body = translated(model=model, **given)
    assert {name: body[name] for name in ("temperature", "top_p", "top_k") if name in body} == expected


def test_sampling_gives_way_to_thinking() -> None:
    thinking = {"type": "enabled", "budget_tokens": 2000}
    body = translated(model=BUDGETS, thinking=thinking, temperature=0.2, top_p=0.96, top_k=5)
    assert {"temperature", "top_k"} & body.keys() == set()
    assert (body["thinking"], body["top_p"]) == (thinking, 0.96)
    assert "top_p" not in translated(model=BUDGETS, thinking=thinking, top_p=0.5)


@pytest.mark.parametrize(
    ("model", "asked", "taken"),
    [
        (BUDGETS, {"type": "enabled", "budget_tokens": 2000}, {"type": "enabled", "budget_tokens": 2000}),
        (BUDGETS, {"type": "enabled", "budget_tokens": 1}, {"type": "enabled", "budget_tokens": 1024}),
        (BUDGETS, {"type": "enabled"}, {"type": "enabled", "budget_tokens": 4096}),
        (BUDGETS, {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 4096}),
        (BUDGETS, {"type": "between_tools"}, {"type": "disabled"}),
        ("claude-opus-4-6", {"type": "adaptive"}, {"type": "adaptive"}),
        (NEWEST, {"type": "enabled", "budget_tokens": 2000}, {"type": "adaptive"}),
        (NEWEST, {"type": "adaptive", "display": "omitted"}, {"type": "adaptive", "display": "omitted"}),
        (NEWEST, {"type": "adaptive", "display": "neon"}, {"type": "adaptive"}),
        (NEWEST, {"type": "disabled"}, {"type": "disabled"}),
        ("claude-sonnet-5-5", {"type": "disabled"}, {"type": "between_tools"}),
        (ALWAYS, {"type": "disabled"}, None),
        (OLD, {"type": "enabled", "budget_tokens": 2000}, None),
        (BUDGETS, {"type": "auto"}, None),
        (BUDGETS, True, None),
    ],
)
def test_thinking_comes_in_a_form_that_the_model_takes(model: str, asked: Any, taken: Json | None) -> None:
    assert translated(model=model, thinking=asked).get("thinking") == taken


@pytest.mark.parametrize(
    ("limits", "max_tokens", "budget"),
    [
        ({}, 4096 + 8000, 8000),
        ({"max_tokens": 9000}, 9000, 8000),
        ({"max_tokens": 9000, "max_completion_tokens": 10_000}, 10_000, 8000),
        ({"max_tokens": 5000}, 5000, 4999),
        ({"max_tokens": 1024}, 1024, None),
        ({"max_tokens": 10**9}, 64_000, 8000),
    ],
)
def test_the_budget_of_thinking_is_below_the_limit(limits: Json, max_tokens: int, budget: int | None) -> None:
    body = translated(model=BUDGETS, thinking={"type": "enabled", "budget_tokens": 8000}, **limits)
    assert (body["max_tokens"], body.get("thinking", {}).get("budget_tokens")) == (max_tokens, budget)


def test_a_limit_above_the_models_is_its_own() -> None:
    assert translated(model=OLD, max_tokens=10**9)["max_tokens"] == 4096
    assert translated(model=UNKNOWN, max_tokens=10**9)["max_tokens"] == 10**9


def test_thinking_gives_way_to_a_tool_that_must_be_called() -> None:
    body = translated(model=BUDGETS, thinking={"type": "enabled"}, tools=[TOOL], tool_choice="required")
    assert "thinking" not in body
    assert body["tool_choice"] == {"type": "any"}


@pytest.mark.parametrize(
    ("blocks", "goes_on"),
    [
        ([{"type": "thinking", "thinking": "Hm.", "signature": "s"}], True),
        ([{"type": "thinking", "thinking": "unsigned"}], False),
        (None, False),
    ],
)
def test_thinking_goes_on_over_tools_only_where_the_history_has_it(blocks: Any, goes_on: bool) -> None:
    messages = [QUESTION, said(None, tool_calls=[call("a")], thinking_blocks=blocks), result("a")]
    body = translated(*messages, model=BUDGETS, thinking={"type": "enabled"}, tools=[TOOL])
    assert ("thinking" in body) is goes_on


def test_what_was_thought_first_counts_for_all_rounds_of_a_turn() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    first = said(None, tool_calls=[call("a")], thinking_blocks=[thought])
    messages = [QUESTION, first, result("a"), said(None, tool_calls=[call("b")]), result("b")]
    assert "thinking" in translated(*messages, model=BUDGETS, thinking={"type": "enabled"}, tools=[TOOL])


def test_effort_is_one_that_the_model_knows() -> None:
    def effort(model: str, asked: str, **fields: Any) -> Any:
        return translated(model=model, output_config={"effort": asked}, **fields).get("output_config")

    assert effort("claude-opus-5", "max") == {"effort": "max"}
    assert effort("claude-sonnet-4-6", "max") is None
    assert effort("claude-haiku-4-5", "low") is None
    assert effort("claude-opus-5", "max", thinking={"type": "disabled"}) == {"effort": "high"}


# --- Marks of the prompt cache ---


def marks(body: Json) -> list[Any]:
    blocks = [
        *body.get("tools", ()),
        *body.get("system", ()),
        *(block for turn in body["messages"] for block in turn["content"]),
    ]
    return [block["cache_control"] for block in blocks if "cache_control" in block]


def test_our_mark_is_at_the_end_of_the_stable_beginning() -> None:
    opening = [{"role": "system", "content": "You are a pirate."}, {"role": "system", "content": "Be brief."}]
    body = translated(*opening, {"role": "system", "content": "x"}, QUESTION, stable=2)
    assert [block.get("cache_control") for block in body["system"]] == [None, MARK, None]


def test_none_of_ours_where_the_caller_has_any() -> None:
    opening = {"role": "system", "content": "You are a pirate."}
    body = translated(opening, {"role": "user", "content": [text("Hi", cache_control=LONG)]}, stable=1)
    assert marks(body) == [LONG]


def test_of_more_than_four_marks_the_last_ones_count() -> None:
    parts = [text(f"{number}", cache_control=MARK) for number in range(6)]
    content = turns({"role": "user", "content": parts})[0]["content"]
    assert ["cache_control" in block for block in content] == [False, False, True, True, True, True]


def test_a_long_mark_after_a_short_one_is_short() -> None:
    parts = [text("a", cache_control=LONG), text("b", cache_control=MARK), text("c", cache_control=LONG)]
    assert marks(translated({"role": "user", "content": parts})) == [LONG, MARK, MARK]


def test_marks_that_are_none_and_marks_on_blanks_are_left_out() -> None:
    odd = [{}, "yes", {"type": "persistent"}, {"type": "ephemeral", "ttl": "2d"}]
    parts = [text("x", cache_control=mark) for mark in odd] + [text(" ", cache_control=MARK)]
    assert marks(translated({"role": "user", "content": parts})) == [MARK], "an unknown ttl is the usual one"


# --- Turns ---


@pytest.mark.parametrize("blank", ["", " ", "\n", "\u2003\t", [], [text(" ")], None])
@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer"])
def test_blank_messages_are_left_out(role: str, blank: Any) -> None:
    body = translated(QUESTION, {"role": role, "content": blank}, QUESTION)
    assert body["messages"] == [{"role": "user", "content": [text("Hi"), text("Hi")]}]
    assert "system" not in body


def test_instructions_alone_are_what_is_asked() -> None:
    body = translated({"role": "system", "content": "Say hello."}, stable=1)
    assert body["messages"] == [{"role": "user", "content": [text("Say hello.")]}]
    assert "system" not in body


def test_the_user_begins() -> None:
    assert [turn["role"] for turn in turns(said("How can I help?"), QUESTION)] == [
        "user",
        "assistant",
        "user",
    ]


@pytest.mark.parametrize(
    ("fields", "prefilled"),
    [
        ({"model": BUDGETS}, True),
        ({"model": BUDGETS, "thinking": {"type": "enabled"}}, False),
        ({"model": BUDGETS, "thinking": {"type": "disabled"}}, True),
        ({"model": "claude-sonnet-4-6"}, False),
        ({"model": UNKNOWN}, False),
        (
            {
                "model": BUDGETS,
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
                },
            },
            False,
        ),
    ],
)
def test_the_assistant_at_the_end_is_a_prefill_where_the_model_takes_one(
    fields: Json, prefilled: bool
) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    last = turns(QUESTION, said("The answer is \n", thinking_blocks=[thought]), **fields)[-1]
    assert last["role"] == ("assistant" if prefilled else "user")
    if prefilled:
        assert last["content"] == [text("The answer is")]


def test_an_assistant_who_only_thought_is_left_out() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    assert turns(QUESTION, said("", thinking_blocks=[thought])) == [{"role": "user", "content": [text("Hi")]}]


# --- Calls of tools and their results ---


def pairs(*messages: Json) -> list[tuple[Any, Any]]:
    """The input of each call and the text of its result, in the order of the calls."""
    spoken = turns(QUESTION, *messages, tools=[TOOL])
    found = []
    for turn, after in pairwise([*spoken, {"content": []}]):
        results = {
            block["tool_use_id"]: block for block in after["content"] if block["type"] == "tool_result"
        }
        for use in (block for block in turn["content"] if block["type"] == "tool_use"):
            content = results[use["id"]].get("content")
            found.append((use["input"].get("n"), content and content[0]["text"]))
    return found


def numbered(*numbers: int, ids: str = "call_{}") -> Json:
    return said(None, tool_calls=[call(ids.format(number), json.dumps({"n": number})) for number in numbers])


def test_results_out_of_order_find_their_calls() -> None:
    history = [numbered(1, 2), result("call_2", "two"), QUESTION, result("call_1", "one")]
    assert pairs(*history) == [(1, "one"), (2, "two")]


def test_calls_in_messages_of_their_own_get_their_results() -> None:
    assert pairs(numbered(1), numbered(2), result("call_1", "one"), result("call_2", "two")) == [
        (1, "one"),
        (2, "two"),
    ]


def test_ids_that_are_used_again_belong_to_the_latest_call() -> None:
    history = [
        numbered(1, ids="call_0"),
        result("call_0", "one"),
        numbered(2, ids="call_0"),
        result("call_0", "two"),
    ]
    assert pairs(*history) == [(1, "one"), (2, "two")]
    unanswered = [numbered(1, ids="call_0"), QUESTION, numbered(2, ids="call_0"), result("call_0", "two")]
    assert [answer for _, answer in pairs(*unanswered)][1] == "two"


@pytest.mark.parametrize("ids", ["call:{}", "a b.{}", "ü{}", "{}" + "x" * 80, "", "same"])
def test_odd_ids_are_replaced_in_call_and_result_alike(ids: str) -> None:
    history = [numbered(1, 2, ids=ids), result(ids.format(1), "one"), result(ids.format(2), "two")]
    assert pairs(*history) == [(1, "one"), (2, "two")]
    assert turns(QUESTION, *history, tools=[TOOL]) == turns(QUESTION, *history, tools=[TOOL]), (
        "always the same ones"
    )


def test_an_id_may_be_used_very_often() -> None:
    history = [message for n in range(2000) for message in (numbered(n, ids="same"), result("same", f"{n}"))]
    assert pairs(*history) == [(n, f"{n}") for n in range(2000)]


def test_an_id_that_looks_like_one_of_ours_is_kept_apart() -> None:
    first = turns(QUESTION, numbered(1, ids="a:b"), tools=[TOOL])[1]["content"][0]["id"]
    history = [numbered(1, ids="a:b"), result("a:b", "one"), numbered(2, ids=first), result(first, "two")]
    assert pairs(*history) == [(1, "one"), (2, "two")]


def test_calls_and_results_without_ids_belong_together_in_their_order() -> None:
    history = [
        said(None, tool_calls=[call(None, '{"n": 1}'), call(None, '{"n": 2}')]),
        result(None, "one"),
        result(None, "two"),
    ]
    assert pairs(*history) == [(1, "one"), (2, "two")]


def test_a_call_without_a_result_gets_one_that_says_so() -> None:
    answer = turns(QUESTION, numbered(1), {"role": "user", "content": "Well?"}, tools=[TOOL])[2]["content"]
    assert answer[0]["is_error"] is True
    assert answer[1] == text("Well?")


@pytest.mark.parametrize("id", ["call_lost", "call_1"])
def test_a_result_without_a_call_becomes_words_of_the_user(id: str) -> None:  # noqa: A002  # OpenAI's name
    last = turns(QUESTION, numbered(1), result("call_1"), result(id, "again"), tools=[TOOL])[-1]
    assert [block["type"] for block in last["content"]] == ["tool_result", "text", "text"]
    assert last["content"][-1] == text("again")


@pytest.mark.parametrize(
    ("written", "input"),
    [
        ("null", {}),
        (None, {}),
        (" ", {}),
        ('{"a": 1', {"arguments": '{"a": 1'}),
        ("[1]", {"arguments": [1]}),
        ('{"a":1}{"b":2}', {"arguments": '{"a":1}{"b":2}'}),
        ({"a": 1}, {"a": 1}),
        ("[" * 10**5, {"arguments": "[" * 10**5}),
    ],
)
def test_arguments_that_are_no_object_are_kept_under_a_name(written: Any, input: Json) -> None:  # noqa: A002  # their name
    block = turns(QUESTION, said(None, tool_calls=[call("a", written)]), result("a"), tools=[TOOL])[1][
        "content"
    ][0]
    assert block["input"] == input


def test_names_of_tools_in_the_history_are_brought_into_form() -> None:
    history = [QUESTION, said(None, tool_calls=[call("a", name="mcp.server/tool")]), result("a")]
    assert turns(*history, tools=[TOOL])[1]["content"][0]["name"] == "mcp_server_tool"


def test_old_functions_and_custom_calls_of_the_history() -> None:
    custom = {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    spoken = turns(
        QUESTION,
        said(None, function_call={"name": "weather", "arguments": '{"a": 1}'}),
        {"role": "function", "name": "weather", "content": "rain"},
        said(None, tool_calls=[custom]),
        result("c", "1"),
    )
    assert spoken[1]["content"][0]["input"] == {"a": 1}
    assert spoken[2]["content"][0]["content"] == [text("rain")]
    assert spoken[3]["content"][0]["input"] == {"input": "SELECT 1"}


def test_a_history_of_calls_names_its_tools_where_the_request_brings_none() -> None:
    body = translated(QUESTION, numbered(1), result("call_1"))
    assert [tool["name"] for tool in body["tools"]] == ["weather"]
    assert body["tool_choice"] == {"type": "none"}


# --- Pictures and files ---


def source(url: Any) -> Json:
    content = turns({"role": "user", "content": [text("x"), {"type": "image_url", "image_url": url}]})[0][
        "content"
    ]
    found: Json = content[1]["source"]
    return found


def data_url(raw: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(raw).decode()}"


@pytest.mark.parametrize(
    "said_type", ["image/png", "image/jpg", "IMAGE/JPEG", "image/heic", "application/octet-stream", ""]
)
def test_a_picture_is_of_the_type_that_its_bytes_tell(said_type: str) -> None:
    assert source({"url": data_url(JPEG, said_type)})["media_type"] == "image/jpeg"


@pytest.mark.parametrize(
    "spell",
    [
        lambda plain: "\n".join([plain[:4], plain[4:]]),
        lambda plain: plain.rstrip("="),
        lambda plain: plain.replace("+", "-").replace("/", "_"),
        lambda plain: plain.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
    ],
)
def test_base64_is_spelled_as_the_api_wants_it(spell: Any) -> None:
    plain = base64.b64encode(PNG).decode()
    assert "+" in plain or "/" in plain
    assert source({"url": f"data:image/png;base64,{spell(plain)}"})["data"] == plain


def test_a_picture_may_be_named_by_its_url_alone() -> None:
    assert source("https://example.com/a.png") == {"type": "url", "url": "https://example.com/a.png"}


def test_a_pdf_is_a_document() -> None:
    file = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}
    document = turns({"role": "user", "content": [{"type": "file", "file": file}]})[0]["content"][0]
    assert (document["type"], document["title"], document["source"]["data"]) == (
        "document",
        "a.pdf",
        "JVBERg==",
    )


def test_a_pdf_may_come_as_a_picture_does() -> None:
    assert turns(shown(pictured("data:application/pdf;base64,JVBERg=="))["messages"][0])[0]["content"] == [
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
        }
    ]


def test_a_text_file_is_a_document_of_text() -> None:
    part = {"type": "file", "file": {"file_data": data_url("Ä,1".encode(), "text/csv")}}
    assert turns(shown(part)["messages"][0])[0]["content"] == [
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Ä,1"}}
    ]


# --- Who asks, stops, other fields ---


@pytest.mark.parametrize("user", ["ann@example.com", "+49 30 1234567", "12345678", "x" * 257])
def test_a_user_who_may_be_recognised_is_hashed(user: str) -> None:
    one, other = translated(user=user)["metadata"]["user_id"], translated(user=user)["metadata"]["user_id"]
    assert one == other != user
    assert len(one) == 64


@pytest.mark.parametrize("user", ["", "  "])
def test_a_blank_user_is_nobody(user: str) -> None:
    assert "metadata" not in translated(user=user)


def test_whoever_is_named_at_all_is_the_user() -> None:
    assert translated(user="u1", safety_identifier=7)["metadata"] == {"user_id": "u1"}


@pytest.mark.parametrize(("stop", "sequences"), [("\n", None), (["\n", "END", ""], ["END"]), ([], None)])
def test_blank_stop_sequences_are_left_out(stop: Any, sequences: list[str] | None) -> None:
    assert translated(stop=stop).get("stop_sequences") == sequences


def test_fields_of_a_beta_go_through_where_the_route_has_its_header() -> None:
    given: Json = {"context_management": {"edits": []}, "inference_geo": "eu", "min_p": 0.1}
    body = request({"messages": [QUESTION], **given}, model="m", max_tokens=1, stream=False, beta=True)
    assert (body["context_management"], body["inference_geo"], "min_p" in body) == (
        {"edits": []},
        "eu",
        False,
    )
    assert "context_management" not in translated(**given)


# --- Tools and schemas ---


def tool(parameters: Any, **more: Any) -> Json:
    return {"type": "function", "function": {"name": "f", "parameters": parameters, **more}}


def test_a_tool_that_is_named_twice_is_one() -> None:
    listed = translated(tools=[tool({"properties": {"a": {}}}), tool({"properties": {"b": {}}})])["tools"]
    assert [each["input_schema"]["properties"] for each in listed] == [{"a": {}}]


@pytest.mark.parametrize(
    ("choice", "taken"),
    [
        ("any", {"type": "any"}),
        ({"type": "auto"}, {"type": "auto"}),
        ({"type": "tool", "name": "f"}, {"type": "tool", "name": "f"}),
        ({"type": "function", "name": "f"}, {"type": "tool", "name": "f"}),
    ],
)
def test_choices_as_other_apis_write_them(choice: Any, taken: Json) -> None:
    assert translated(tools=[tool({})], tool_choice=choice)["tool_choice"] == taken


def test_allowed_tools_are_those_that_there_are() -> None:
    allowed = [{"type": "function", "function": {"name": "f"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": allowed}}
    body = translated(tools=[TOOL, tool({})], tool_choice=choice)
    assert ([each["name"] for each in body["tools"]], body["tool_choice"]) == (["f"], {"type": "any"})


@pytest.mark.parametrize("model", [OLD, BUDGETS])
def test_a_tool_is_strict_where_the_model_and_its_schema_can_be(model: str) -> None:
    listed = translated(model=model, tools=[tool({"properties": {"a": {"type": "string"}}}, strict=True)])[
        "tools"
    ]
    assert listed[0].get("strict") is (True if model == BUDGETS else None)
    open_map = {"type": "object", "additionalProperties": {"type": "string"}}
    assert "strict" not in translated(model=model, tools=[tool(open_map, strict=True)])["tools"][0]


def test_more_strict_tools_than_one_request_may_have_are_not_strict() -> None:
    tools = [
        {
            **tool({}),
            "function": {
                "name": f"f{n}",
                "strict": True,
                "parameters": {"properties": {"a": {"type": "null"}}, "required": ["a"]},
            },
        }
        for n in range(21)
    ]
    assert any("strict" in each for each in translated(tools=tools[:20])["tools"])
    assert not any("strict" in each for each in translated(tools=tools)["tools"])


def formatted(schema: Json, model: str = BUDGETS, **more: Any) -> Json:
    wrapper = {"name": "x", "schema": schema, **more}
    return translated(model=model, response_format={"type": "json_schema", "json_schema": wrapper})


def test_a_schema_beyond_what_is_enforced_is_asked_for_in_words() -> None:
    open_map = {"type": "object", "additionalProperties": {"type": "string"}}
    for body in (
        formatted(open_map),
        formatted({"type": "object", "properties": {"a": {"type": "null"}}}, OLD),
    ):
        assert "output_config" not in body
        assert '"type":"object"' in body["system"][-1]["text"]


def test_a_strict_schema_beyond_what_is_enforced_is_for_another_route() -> None:
    with pytest.raises(Unsupported):
        formatted({"type": "object"}, strict=True)


# --- What this route cannot do ---

ARCHIVE = "data:application/zip;base64,UEs="


def pictured(url: str) -> Json:
    return {"type": "image_url", "image_url": {"url": url}}


def shown(*parts: Json) -> Json:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def instructions(*parts: Json) -> Json:
    return {"messages": [{"role": "system", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": []}, "functions"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"tools": [tool({"type": "string"})]}, "tools[0].function.parameters.type"),
        ({"tools": [tool({"properties": {"$top": {}}})]}, "tools[0].function.parameters.properties"),
        ({"tools": [{"type": "function", "function": {"name": "a.b"}}]}, "tools[0].function.name"),
        (
            {"tools": [tool({})], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
        ),
        ({"tools": [tool({})], "tool_choice": "required", "model": ALWAYS}, "tool_choice"),
        ({"messages": [said(None, audio={"id": "a"})]}, "messages[0].audio"),
        (instructions({"type": "image_url", "image_url": "https://x"}), "messages[0].content[0].type"),
        (shown(pictured("http://x")), "messages[0].content[0].image_url.url"),
        (shown(pictured(data_url(b"<svg/>", "image/svg+xml"))), "messages[0].content[0].image_url.url"),
        (shown(pictured(data_url(PNG + bytes(2**22), "image/png"))), "messages[0].content[0].image_url.url"),
        (shown({"type": "file", "file": {"file_id": "f"}}), "messages[0].content[0].file"),
        (shown({"type": "file", "file": {"file_data": ARCHIVE}}), "messages[0].content[0].file.file_data"),
        (shown(*[pictured("https://x")] * 101), "messages"),
    ],
)
def test_what_is_left_to_another_route(fields: Json, param: str) -> None:
    given = {"messages": [QUESTION], "model": UNKNOWN, **fields}
    with pytest.raises(Unsupported) as caught:
        request(given, model=given.pop("model"), max_tokens=1, stream=False)
    assert caught.value.param == param
    assert f"`{param}`" in caught.value.message


def test_schemas_that_would_take_too_much_are_refused_by_name() -> None:
    many: Json = {"type": "object", "properties": {f"p{number}": "str" for number in range(3000)}}
    listed = [
        {"type": "function", "function": {"name": f"f{number}", "parameters": many}} for number in range(3)
    ]
    with pytest.raises(Unsupported) as refused:
        translated(said("x"), tools=listed)
    assert refused.value.param == "tools[1].function.parameters"
    shape = {"type": "json_schema", "json_schema": {"schema": {"description": "d" * 200_000 + "😀"}}}
    with pytest.raises(Unsupported) as refused:
        translated(said("x"), response_format=shape)
    assert refused.value.param == "response_format.json_schema.schema"
