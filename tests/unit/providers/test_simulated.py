"""The simulated provider: equal questions give equal bytes, at the pace that was set, and limits are kept."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.errors import InvalidRequest, Unsupported
from dub5.providers.chunks import assemble
from dub5.providers.protocol import Call, Json
from dub5.providers.simulated import FEWEST_WORDS, SimulatedProvider, answer_to
from dub5.providers.simulated_values import LARGEST_BYTES, example
from dub5.settings.model import Duration, SimulatedSettings
from tests.pulling import chunks_of

QUESTION = "What is the weather in Oslo today?"
SETTINGS = SimulatedSettings(first_token=Duration(0.5), tokens_per_second=10)
CITY: Json = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
FORECAST: Json = {"type": "function", "function": {"name": "get_forecast", "parameters": CITY}}
CLOCK: Json = {"type": "function", "function": {"name": "get_time"}}


class Sleeper:
    """Remembers for how long it was to sleep, and does not."""

    def __init__(self) -> None:
        self.naps: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.naps.append(seconds)


def call(content: Any = QUESTION, **fields: Any) -> Call:
    return Call(
        model="sim", body={"messages": [{"role": "user", "content": content}], **fields}, stream=False
    )


def provider(sleep: Sleeper | None = None) -> SimulatedProvider:
    return SimulatedProvider("demo", SETTINGS, sleep=sleep or Sleeper())


async def completed(asked: Call) -> Json:
    return (await provider().complete(asked)).data


def content_of(completion: Json) -> str:
    content: str = completion["choices"][0]["message"]["content"]
    return content


async def test_equal_questions_get_equal_bytes() -> None:
    one, other = await provider().complete(call()), await provider().complete(call())
    assert one.raw == other.raw


def test_equal_questions_get_equal_bytes_in_another_process() -> None:
    program = (
        "from dub5.providers.simulated import answer_to, Call;"
        f"print(answer_to(Call(model='sim', body={call().body!r}, stream=False)).completion())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(answer_to(call()).completion())


async def test_other_questions_get_other_answers() -> None:
    one, other = await completed(call()), await completed(call("And tomorrow?"))
    assert one["id"] != other["id"]
    assert content_of(one) != content_of(other)


async def test_the_answer_mentions_the_start_of_the_question() -> None:
    completion = await completed(call([{"type": "text", "text": QUESTION}, {"type": "image_url"}]))
    assert "What is the weather in Oslo" in content_of(completion)
    assert completion["model"] == "sim"
    assert completion["choices"][0]["finish_reason"] == "stop"


@given(content=st.text(max_size=300), model=st.text(max_size=5))
def test_any_question_gets_an_answer_of_20_to_80_tokens(content: str, model: str) -> None:
    asked = Call(model=model, body={"messages": [{"role": "user", "content": content}]}, stream=False)
    answer = answer_to(asked)
    assert FEWEST_WORDS < answer.usage["completion_tokens"] <= 80
    assert answer.usage["total_tokens"] == answer.usage["prompt_tokens"] + len(answer.tokens)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("limit", [1, 7, 19])
async def test_a_limit_cuts_the_same_answer_short(field: str, limit: int) -> None:
    unlimited, cut = await completed(call()), await completed(call(**{field: limit}))
    assert cut["usage"]["completion_tokens"] == limit
    assert cut["choices"][0]["finish_reason"] == "length"
    assert content_of(unlimited).startswith(content_of(cut))


async def test_a_generous_limit_changes_nothing() -> None:
    assert content_of(await completed(call(max_tokens=1000))) == content_of(await completed(call()))


async def test_an_answer_of_a_wanted_length() -> None:
    usage = (await completed(call(min_tokens=211, max_tokens=211)))["usage"]
    assert usage["completion_tokens"] == 211


def test_about_four_characters_are_a_prompt_token() -> None:
    assert answer_to(call("x" * 400)).prompt_tokens == 100
    assert answer_to(call("")).prompt_tokens == 1


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 3},
        {"tools": [FORECAST], "tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_the_stream_adds_up_to_the_whole(fields: Json) -> None:
    asked = call(**fields)
    chunks = [chunk.data async for chunk in chunks_of(provider(), asked)]
    assert assemble(chunks) == await completed(asked)
    assert chunks[-1]["choices"] == []
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"


async def test_the_pace_of_a_stream_is_that_of_the_settings() -> None:
    sleep = Sleeper()
    naps: list[int] = []
    await provider(sleep).stream(call(max_tokens=4), lambda _: naps.append(len(sleep.naps)))
    assert sleep.naps == [0.5, 0.1, 0.1, 0.1]
    assert naps == [1, 1, 2, 3, 4, 4]


async def test_a_whole_answer_takes_as_long_as_its_stream() -> None:
    sleep = Sleeper()
    await provider(sleep).complete(call(max_tokens=4))
    assert sleep.naps == [pytest.approx(0.8)]


@pytest.mark.parametrize(
    ("content", "fields", "name"),
    [
        (QUESTION, {"tool_choice": "required"}, "get_time"),
        (
            QUESTION,
            {"tool_choice": {"type": "function", "function": {"name": "get_forecast"}}},
            "get_forecast",
        ),
        ("Use get_forecast, please.", {}, "get_forecast"),
        ("Use get_forecast, please.", {"tool_choice": "required"}, "get_forecast"),
        ("Use get_forecast, please.", {"tool_choice": "none"}, None),
        (QUESTION, {"tool_choice": {"type": "function", "function": {"name": "unknown"}}}, None),
        (QUESTION, {}, None),
    ],
)
async def test_a_tool_is_called_where_it_is_named(content: str, fields: Json, name: str | None) -> None:
    choice = (await completed(call(content, tools=[CLOCK, FORECAST], **fields)))["choices"][0]
    calls = choice["message"].get("tool_calls")
    assert (calls[0]["function"]["name"] if calls else None) == name
    assert choice["finish_reason"] == ("tool_calls" if name else "stop")


async def test_arguments_fit_the_tool() -> None:
    completion = await completed(call(tools=[FORECAST], tool_choice="required"))
    (tool_call,) = completion["choices"][0]["message"]["tool_calls"]
    arguments = json.loads(tool_call["function"]["arguments"])
    assert {name: type(value) for name, value in arguments.items()} == {"city": str, "days": int}


async def test_a_tools_result_is_answered_in_words() -> None:
    messages = [
        {"role": "user", "content": "get_time!"},
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
    ]
    asked = Call(model="sim", body={"messages": messages, "tools": [CLOCK]}, stream=False)
    assert "get_time!" in content_of(await completed(asked))


async def test_json_is_json() -> None:
    completion = await completed(call(response_format={"type": "json_object"}))
    assert list(json.loads(content_of(completion))) == ["answer"]


async def test_json_fits_its_schema() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    completion = await completed(call(response_format=wanted))
    assert set(json.loads(content_of(completion))) == {"city", "days"}


async def test_more_than_one_choice_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        await completed(call(n=2))
    assert caught.value.param == "n"


async def test_closing_it_is_allowed() -> None:
    await provider().aclose()


_junk = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "function", "name", "role", "content", "schema"]), inner)
    ),
    max_leaves=10,
)
_fields = st.sampled_from(["messages", "tools", "tool_choice", "response_format", "max_tokens"])


@given(body=st.dictionaries(_fields, _junk))
def test_no_body_makes_it_stumble(body: Json) -> None:
    assert answer_to(Call(model="m", body=body, stream=False)).completion()["object"] == "chat.completion"


NODE: Json = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        "likes": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["next", "likes"],
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "value 13"),
        ({"type": "string", "maxLength": 3}, "val"),
        ({"type": "string", "minLength": 10}, "value 13xx"),
        ({"type": "string", "minLength": True, "format": ["date"]}, "value 13"),
        ({"type": "string", "minLength": -(10**900), "maxLength": 10**900}, "value 13"),
        ({"type": "string", "format": "date"}, "2025-01-01"),
        ({"type": "integer"}, 4),
        ({"type": "integer", "minimum": 50}, 53),
        ({"type": "integer", "exclusiveMinimum": 0, "maximum": 2}, 2),
        ({"type": "integer", "maximum": -7}, -7),
        ({"type": "number"}, 4.5),
        ({"type": "number", "minimum": 0, "maximum": 1}, 0.5),
        ({"type": "number", "exclusiveMinimum": 9}, 13.5),
        ({"type": "number", "maximum": 0}, -1),
        ({"type": "boolean"}, False),
        ({"type": "null"}, None),
        ({"type": ["null", "boolean"]}, False),
        ({"type": [["string"]]}, "value 13"),
        ({"const": 7}, 7),
        ({"const": 10**900}, 10**900),
        ({"enum": ["a", "b"]}, "b"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [4, 4]),
        ({"type": "array", "items": {"type": "boolean"}}, [False]),
        ({"properties": {"city": {"type": "string"}}}, {"city": "city 13"}),
        ({"items": {"type": "null"}}, [None]),
        ({"anyOf": [{"type": "null"}, {"const": 1}]}, 1),
        ({"anyOf": []}, "value 13"),
        ({"$ref": "#/nowhere"}, "value 13"),
        ({"$ref": ["#"]}, "value 13"),
        ({"$ref": "#"}, "value 13"),
        ({"type": "object"}, {}),
        ("no schema", {}),
    ],
)
def test_examples(schema: Any, value: Any) -> None:
    assert example(schema, 13) == value


def test_a_schema_that_refers_to_itself_comes_to_an_end() -> None:
    depth, node = 0, example({"$defs": {"node": NODE}, "$ref": "#/$defs/node"}, 1)
    while node["next"] is not None:
        assert node.keys() >= {"next", "likes"}
        depth, node = depth + 1, node["next"]
    assert depth > 1
    assert node["likes"] == []


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"properties": {"me": {"$ref": "#"}}, "required": ["me"]}, id="demands itself"),
        pytest.param({"minItems": 1, "items": {"$ref": "#"}}, id="a list of itself"),
        pytest.param({"properties": {f"p{n}": {"$ref": "#"} for n in range(50)}}, id="billions of itself"),
        pytest.param({"minItems": 100, "items": {"$ref": "#"}}, id="billions of lists"),
    ],
)
def test_a_schema_that_asks_for_too_much_gets_what_is_possible(schema: Json) -> None:
    assert len(json.dumps(example(schema, 1))) < 100_000


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"minLength": 10**900}, id="a text"),
        pytest.param(
            {"properties": {f"p{n}": {"minLength": 10_000} for n in range(20)}}, id="texts of an object"
        ),
        pytest.param({"items": {"minLength": 10_000}, "minItems": 20}, id="texts of a list"),
        pytest.param({"items": {"const": "x" * 10_000}, "minItems": 20}, id="constants"),
        pytest.param({"items": {"enum": [["x" * 10_000]]}, "minItems": 20}, id="enumerated"),
        pytest.param({"items": {"properties": {"x" * 10_000: {}}}, "minItems": 20}, id="names"),
        pytest.param(
            {"properties": {"x" * 10_000: {"items": {}, "minItems": 20}}}, id="named after their list"
        ),
        pytest.param({"properties": {f"p{n}": {"type": "null"} for n in range(10_000)}}, id="scalars"),
    ],
)
def test_an_example_that_would_be_too_large_is_refused(schema: Json) -> None:
    with pytest.raises(Unsupported) as caught:
        example(schema, 1, "tools")
    assert caught.value.param == "tools"
    assert str(LARGEST_BYTES) in caught.value.message


@pytest.mark.parametrize("bound", ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"])
@pytest.mark.parametrize("kind", ["number", "integer"])
@pytest.mark.parametrize("limit", [10**900, -(10**900), 1.7e308, -1.7e308])
def test_a_bound_beyond_all_arithmetic_is_refused(bound: str, kind: str, limit: float) -> None:
    with pytest.raises(Unsupported):
        example({"type": kind, bound: limit}, 1)


_values = st.none() | st.booleans() | st.integers() | st.integers(10**18, 10**999) | st.floats() | st.text()
_BOUNDS = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties"),
)
_schemas = st.recursive(
    st.dictionaries(
        st.sampled_from([*_BOUNDS, "type", "const", "pattern", "format", "required", "$ref"]),
        _values | st.sampled_from(["object", "array", "integer", "number", "string", "null", "#"]),
        max_size=4,
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": _values | st.sampled_from(["object", "array"]) | st.lists(_values, max_size=2),
            "properties": st.dictionaries(st.text(max_size=3), inner, max_size=3),
            "items": inner | _values,
            "minItems": st.integers(0, 200),
            "anyOf": st.lists(inner | st.just({"type": "null"}), max_size=2),
            "required": _values | st.lists(st.text(max_size=3) | inner, max_size=2),
        },
    ),
    max_leaves=6,
)


@given(schema=_schemas, seed=st.integers(0, 99))
def test_no_schema_makes_it_stumble(schema: Json, seed: int) -> None:
    with contextlib.suppress(Unsupported):
        assert len(msgspec.json.encode(example(schema, seed))) <= LARGEST_BYTES
