"""Fields that OpenAI's reasoning models refuse, and an operator's own table of such."""

from __future__ import annotations

from typing import Any

import pytest

from dub5.errors import Unsupported
from dub5.providers.protocol import Call, Json
from dub5.providers.quirks import Quirks
from dub5.settings.model import Quirk

MESSAGES: list[Json] = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]


def sent(model: str, fields: Json, own: dict[str, Quirk] | None = None, defaults: str = "") -> Json:
    """What the model is sent of `fields`; those that the caller did not set are named in `defaults`."""
    body = {"messages": MESSAGES, **fields}
    before = dict(body)
    call = Call(model=model, body=body, stream=False, defaults=frozenset(defaults.split()))
    result = Quirks(own or {}).applied(call)
    assert body == before
    return {name: value for name, value in result.items() if name != "messages"}


REASONING = [
    "o1",
    "o1-2024-12-17",
    "o3",
    "o3-mini",
    "o4-mini",
    "gpt-5",
    "gpt-5-mini-2025-08-07",
    "gpt-5.2",
    "openai/GPT-5",
]
OTHERS = ["gpt-4o", "gpt-4.1-mini", "gpt-5-chat-latest", "o1x", "olmo-3", "llama-3", "claude-opus-5", "qwen3"]


@pytest.mark.parametrize("model", REASONING)
@pytest.mark.parametrize(
    "name", ["temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias"]
)
def test_hints_are_dropped_whoever_gave_them(model: str, name: str) -> None:
    assert sent(model, {name: 0.5}) == {}
    assert sent(model, {name: 0.5}, defaults=name) == {}


@pytest.mark.parametrize("model", OTHERS)
def test_other_models_are_sent_what_there_is(model: str) -> None:
    fields: Json = {"temperature": 0.5, "max_tokens": 5, "logprobs": True, "stop": ["x"]}
    assert sent(model, fields) == fields


@pytest.mark.parametrize("model", REASONING)
@pytest.mark.parametrize(("name", "value"), [("logprobs", True), ("top_logprobs", 2), ("stop", "END")])
def test_what_would_be_missing_is_for_another_route(model: str, name: str, value: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        sent(model, {name: value})
    assert caught.value.param == name


def test_a_default_of_a_personality_gives_way() -> None:
    assert sent("o3", {"stop": ["END"], "temperature": 0.3}, defaults="stop temperature") == {}


@pytest.mark.parametrize(
    ("name", "value"), [("logprobs", False), ("top_logprobs", 0), ("stop", []), ("stop", None)]
)
def test_what_asks_for_nothing_is_left_out(name: str, value: Any) -> None:
    assert sent("o3", {name: value}) == {}


def test_the_limit_has_the_name_that_they_know() -> None:
    assert sent("o3", {"max_tokens": 5}) == {"max_completion_tokens": 5}
    assert sent("o3", {"max_tokens": 5, "max_completion_tokens": 7}) == {"max_completion_tokens": 7}
    assert sent("o3", {"max_tokens": 5, "max_completion_tokens": None}) == {"max_completion_tokens": 5}
    assert sent("o3", {"max_tokens": None}) == {}


def test_parallel_calls_are_known_to_some() -> None:
    assert sent("o4-mini", {"parallel_tool_calls": False}) == {}
    assert sent("gpt-5", {"parallel_tool_calls": False}) == {"parallel_tool_calls": False}


def test_without_reasoning_the_newer_ones_take_what_others_take() -> None:
    fields: Json = {"reasoning_effort": "none", "temperature": 0.5, "logprobs": True}
    assert sent("gpt-5.1", fields) == fields
    assert sent("gpt-5.1", {"reasoning_effort": "none", "max_tokens": 5})["max_completion_tokens"] == 5
    assert sent("gpt-5", {"reasoning_effort": "none", "temperature": 0.5}) == {"reasoning_effort": "none"}


def test_the_first_ones_know_neither_instructions_nor_tools_nor_choices() -> None:
    call = Call(model="o1-mini", body={"messages": MESSAGES, "n": 1, "tools": []}, stream=False)
    assert [message["role"] for message in Quirks({}).applied(call)["messages"]] == ["user", "user"]
    more: tuple[Json, ...] = ({"n": 2}, {"tools": [{}]})
    for fields in more:
        with pytest.raises(Unsupported):
            sent("o1-mini", fields)


def test_an_operators_own_table_goes_first() -> None:
    own = {
        "my-o3*": Quirk(drop=["temperature"], refuse=["n"], rename={"a": "b"}, roles={"system": "developer"}),
        "o3": Quirk(),
    }
    assert sent("my-o3-eu", {"temperature": 1, "a": 2, "top_p": 0.5}, own) == {"b": 2, "top_p": 0.5}
    assert sent("o3", {"temperature": 0.5}, own) == {"temperature": 0.5}
    assert sent("o4-mini", {"temperature": 0.5}, own) == {}
    with pytest.raises(Unsupported):
        sent("my-o3-eu", {"n": 2}, own)
    call = Call(model="my-o3", body={"messages": MESSAGES}, stream=False)
    assert [message["role"] for message in Quirks(own).applied(call)["messages"]] == ["developer", "user"]
