"""What a personality adds to a request, what it forbids, and when its revision changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dub5.chat.personalities import Personality
from dub5.chat.request import ChatRequest, parse
from dub5.errors import InvalidRequest
from dub5.settings import PersonalitySettings

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
