"""What a personality adds to a request, what it forbids, and when its revision changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dub5.chat.personalities import Personality, compile_all
from dub5.chat.request import ChatRequest, parse
from dub5.errors import ConfigError, InvalidRequest
from dub5.settings.model import PersonalitySettings

PIRATE = PersonalitySettings(
    system="Talk like a pirate.",
    messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy!"}],
    temperature=0.7,
    max_tokens=100,
    locked=["temperature", "max_tokens"],
)


def request(**fields: Any) -> ChatRequest:
    return parse(
        json.dumps({"model": "p", "messages": [{"role": "user", "content": "x"}], **fields}).encode()
    )


def personality(settings: PersonalitySettings = PIRATE) -> Personality:
    return Personality("pirate", settings, model="m")


def test_the_personality_comes_first_and_the_callers_own_system_message_after_it() -> None:
    asked = request(messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}])
    contents = [message["content"] for message in personality().messages(asked)]
    assert contents == ["Talk like a pirate.", "Hi", "Ahoy!", "Be brief.", "x"]


def test_defaults_fill_what_the_caller_left_open() -> None:
    open_one = personality(PersonalitySettings(temperature=0.7, presence_penalty=0.5))
    fields = open_one.fields(request(temperature=0.1, seed=3, presence_penalty=None))
    assert (fields["temperature"], fields["presence_penalty"], fields["seed"]) == (0.1, 0.5, 3)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_either_name_of_the_limit_replaces_the_default_of_the_other(name: str) -> None:
    fields = personality(PersonalitySettings(max_tokens=100)).fields(request(**{name: 5}))
    assert {key: fields[key] for key in fields if key.startswith("max_")} == {name: 5}


@pytest.mark.parametrize(
    ("settings", "default", "asked"),
    [
        (PersonalitySettings(temperature=0.5), "temperature", "top_p"),
        (PersonalitySettings(top_p=0.5), "top_p", "temperature"),
    ],
)
def test_a_default_gives_way_to_the_other_way_of_sampling(
    settings: PersonalitySettings, default: str, asked: str
) -> None:
    fields = personality(settings).fields(request(**{asked: 0.9}))
    assert (fields.get(default), fields[asked]) == (None, 0.9)


def test_a_locked_default_does_not_give_way() -> None:
    fields = personality(PersonalitySettings(temperature=0.5, locked=["temperature"])).fields(
        request(top_p=0.9)
    )
    assert (fields["temperature"], fields["top_p"]) == (0.5, 0.9)


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", 0.1), ("max_tokens", 5), ("max_completion_tokens", 5)]
)
def test_a_locked_field_is_refused_under_each_of_its_names(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        personality().fields(request(**{field: value}))
    assert caught.value.param == field


LIMITED = [
    PersonalitySettings(max_tokens=50, locked=["max_tokens"]),
    PersonalitySettings(max_completion_tokens=50, locked=["max_completion_tokens"]),
    PersonalitySettings(max_tokens=50, n=2, locked=["max_tokens"]),
]


@pytest.mark.parametrize("settings", LIMITED)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 51),
        ("max_completion_tokens", 51),
        ("n", 100),
        ("n", 3),
        ("best_of", 100),
        ("reasoning_effort", "high"),
        ("thinking", {"type": "enabled", "budget_tokens": 30_000}),
        ("service_tier", "priority"),
        ("prediction", {"type": "content", "content": "x" * 10_000}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("web_search_options", {}),
        ("logprobs", True),
        ("top_logprobs", 20),
        ("tools", [{"type": "function", "function": {"name": "f"}}, {"type": "web_search"}]),
        # What other servers have, and what there may be tomorrow.
        ("min_tokens", 10_000),
        ("max_new_tokens", 10_000),
        ("reasoning", {"effort": "high"}),
        ("chat_template_kwargs", {"enable_thinking": True}),
        ("models", ["openai/o9-pro"]),
        ("MAX_TOKENS", 10_000),
        ("x" * 5000, 1),
    ],
)
def test_no_field_gets_round_a_locked_limit(settings: PersonalitySettings, field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        personality(settings).fields(request(**{field: value}))
    assert caught.value.param is not None
    assert field.startswith(caught.value.param.removesuffix("…"))
    assert len(caught.value.message) < 200


def test_what_costs_nothing_more_is_the_callers_own_where_the_limit_is_locked() -> None:
    own = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 5,
        "seed": 1,
        "stop": ["x"],
        "presence_penalty": 1,
        "logit_bias": {"50256": -100},
        "response_format": {"type": "json_object"},
        "user": "u",
        "metadata": {"a": "b"},
        "tools": [
            {"type": "function", "function": {"name": "f"}},
            {"type": "custom", "custom": {"name": "g"}},
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "verbosity": "low",
    }
    fields = personality(LIMITED[0]).fields(request(**own))
    assert own.items() <= fields.items()
    assert fields["max_tokens"] == 50


def test_what_clients_send_without_being_asked_is_as_good_as_nothing() -> None:
    usual = {
        "n": 1,
        "best_of": 1,
        "logprobs": False,
        "modalities": ["text"],
        "service_tier": "auto",
        "audio": None,
    }
    personality(LIMITED[0]).fields(request(**usual, min_tokens=None))
    with pytest.raises(InvalidRequest):  # here it is not
        personality(PersonalitySettings(n=2, locked=["n"])).fields(request(n=1))


@pytest.mark.parametrize(
    ("field", "value"), [("logprobs", 0), ("top_logprobs", False), ("parallel_tool_calls", 1)]
)
def test_a_boolean_is_not_a_number_that_means_the_same(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        personality(PersonalitySettings(locked=["max_tokens", "tools"])).fields(request(**{field: value}))
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("locked", "field", "value"),
    [
        ("n", "best_of", 2),
        ("best_of", "n", 2),
        ("reasoning_effort", "thinking", {"type": "adaptive"}),
        ("reasoning_effort", "reasoning", {"effort": "high"}),
        ("modalities", "audio", {"voice": "alloy"}),
        ("logprobs", "top_logprobs", 5),
        ("tools", "functions", [{"name": "f"}]),
        ("tools", "tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tools", "web_search_options", {}),
        ("tools", "plugins", [{"id": "web"}]),
        ("tools", "mcp_servers", [{"url": "https://example.com"}]),
        ("tools", "Tools", [{"type": "web_search"}]),
        ("service_tier", "speed", "fast"),
        ("response_format", "response_format", {"type": "json_object"}),
        ("verbosity", "verbosity", "high"),
    ],
)
def test_a_lock_covers_the_other_names_of_the_field(locked: Any, field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        personality(PersonalitySettings(locked=[locked])).fields(request(**{field: value}))
    assert caught.value.param == field


def test_a_lock_on_something_else_leaves_limits_and_unknown_fields_alone() -> None:
    mild = personality(PersonalitySettings(temperature=0.7, locked=["temperature"]))
    assert mild.fields(request(n=2, max_tokens=9, odd=5))["odd"] == 5
    assert personality(PersonalitySettings(locked=["n"])).fields(request(max_tokens=9))["max_tokens"] == 9
    searching = personality(PersonalitySettings(locked=["web_search_options"]))
    assert searching.fields(request(tools=[{"type": "function", "function": {"name": "f"}}]))["tools"]
    toolless = personality(PersonalitySettings(locked=["tools"]))
    assert toolless.fields(request(n=2, max_tokens=9, tools=[], tool_choice="none"))["max_tokens"] == 9


@pytest.mark.parametrize(("name", "value"), [("n", 2), ("reasoning_effort", "low"), ("service_tier", "flex")])
def test_what_is_locked_is_what_the_personality_says(name: str, value: Any) -> None:
    settings = PersonalitySettings(max_tokens=50, locked=["max_tokens"], **{name: value})
    assert personality(settings).fields(request())[name] == value
    assert personality(settings).fields(request(**{name: value}))[name] == value


def test_saying_what_is_locked_anyway_is_no_error() -> None:
    assert personality().fields(request(temperature=0.7))["temperature"] == 0.7


@pytest.mark.parametrize(
    "changed",
    [
        PersonalitySettings(system="Talk like a sailor.", messages=PIRATE.messages, temperature=0.7),
        PersonalitySettings(system=PIRATE.system, temperature=0.7),
        PersonalitySettings(system=PIRATE.system, messages=PIRATE.messages, temperature=0.8),
    ],
)
def test_the_revision_changes_with_what_shapes_the_answer(changed: PersonalitySettings) -> None:
    assert personality(changed).revision != personality().revision


def test_the_revision_does_not_change_with_what_does_not() -> None:
    one = PersonalitySettings(system="s", description="a", cache_class="x")
    other = PersonalitySettings(system="s", description="b", cache_class="y")
    assert personality(one).revision == personality(other).revision


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({"role": "narrator", "content": "x"}, ".role"),
        ({"role": "user", "content": 5}, ".content"),
        ({"role": "user", "content": ["x"]}, ".content[0]"),
        ({"role": "user", "content": [{"text": "x"}]}, ".content[0]"),
        ({"role": "assistant", "tool_calls": "x"}, ".tool_calls"),
        ({"role": "assistant", "tool_calls": [5]}, ".tool_calls[0]"),
    ],
)
def test_its_messages_are_ones_that_a_caller_may_send(message: dict[str, Any], where: str) -> None:
    good = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    settings = {"pirate": PersonalitySettings(messages=[good, message])}
    with pytest.raises(ConfigError) as caught:
        compile_all(settings, "m")
    assert caught.value.message.startswith(f"personalities.pirate.messages[1]{where}: ")
