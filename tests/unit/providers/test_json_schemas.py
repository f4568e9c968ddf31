"""Schemas in other dialects: what becomes valid, what a tool's input may be, and what can be enforced."""

from __future__ import annotations

import re
import tracemalloc
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.errors import Unsupported
from dub5.providers import json_schemas
from dub5.providers.json_schemas import Budget, complexity
from dub5.providers.protocol import Json

NULLABLE: Json = {"anyOf": [{"type": "string"}, {"type": "null"}]}


def valid(schema: Any) -> Any:
    return json_schemas.valid(schema, Budget())


def parameters(schema: Any, where: str) -> Json:
    return json_schemas.parameters(schema, where, Budget())


def strict(schema: Any) -> Json | None:
    return json_schemas.strict(schema, Budget())


def closed(**properties: Any) -> Json:
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": []}


def open_object(**properties: Any) -> Json:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ({"type": "string", "maxLength": 3, "x-own": 1}, {"type": "string", "maxLength": 3, "x-own": 1}),
        ("number", {"type": "number"}),
        ("whatever", {}),
        (True, True),
        (None, {}),
        ({"type": "STRING"}, {"type": "string"}),
        ({"type": "int"}, {"type": "integer"}),
        ({"type": "any"}, {}),
        ({"type": ["string", "any", ["null"], "string"]}, {"type": ["string"]}),
        ({"required": True, "minimum": "1", "maximum": True, "minLength": -1, "multipleOf": 0}, {}),
        ({"minimum": 1, "exclusiveMinimum": True}, {"minimum": 1}),
        ({"required": ["a", "a", 1]}, {"required": ["a"]}),
        ({"enum": "a", "anyOf": [], "properties": None, "description": 7}, {}),
        ({"items": [{"type": "str"}]}, {"prefixItems": [{"type": "string"}]}),
        ({"properties": {"a": "number"}}, {"properties": {"a": {"type": "number"}}}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "x"}, {}),
        ({"dependentRequired": {"a": ["b", 1], "c": 1}}, {"dependentRequired": {"a": ["b"]}}),
        (
            {"not": {"required": True}, "additionalProperties": {"type": "dict"}},
            {"not": {}, "additionalProperties": {"type": "object"}},
        ),
    ],
)
def test_what_a_draft_cannot_say_is_left_out(written: Any, taken: Any) -> None:
    assert valid(written) == taken


@pytest.mark.parametrize(
    "pattern",
    [
        "^[a-z]+$",
        r"^\d{3}-\d{4}$",
        r"^\p{L}+$",
        r"\u{1F600}",
        "(?<year>[0-9]{4})",
        "(?i:a)",
        "a||b",
        "",
        r"^[a-zA-Z0-9._%+-]+@[\w.-]+\.[a-z]{2,}$",
        r"^(?!-)[^\s/\]]{1,63}?(?:\.(?P<x>[\u4e00-\u9fa5]+))*$",
    ],
)
def test_a_pattern_is_kept(pattern: str) -> None:
    assert valid({"type": "string", "pattern": pattern}) == {"type": "string", "pattern": pattern}


@pytest.mark.parametrize(
    "pattern",
    [
        *("[", "(", ")", "*a", "a**", "a*+", "(?P<x", "\\", "a{99999999999}", "a{3,1}", "(" * 400, "a" * 501),
        *("[z-a]", r"\[[z-a]", "[^]", "[]", "[[a]", "[a--b]", r"[\w-.]", "(?<a>b)(?<a>b)", "(?<=a+)b"),
        *(r"(a)\1", "(?i)a", "^*", "(*)", "(?#", "\\q", ")(", "(" * 65 + ")" * 65),
    ],
)
def test_a_pattern_that_is_no_expression_is_left_out_wherever_it_is(pattern: str) -> None:
    bad: Json = {"type": "string", "pattern": pattern}
    good: Json = {"type": "string", "description": f"{{pattern: {pattern}}}"}

    def placed(one: Json) -> Json:
        return {
            "properties": {"a": one, "default": one, "pattern": one},
            "items": one,
            "anyOf": [one, {"not": one}],
            "$defs": {"d": {"additionalProperties": one}},
        }

    data = {"enum": [bad], "const": bad, "default": bad, "x-own": bad}
    given: Json = {**placed(bad), **data}
    assert valid(given) == {**placed(good), **data}
    assert given == {**placed(bad), **data}, "other routes read it too"
    assert valid({"patternProperties": {pattern: {}, "^a": {}}}) == {"patternProperties": {"^a": {}}}
    kept = parameters(open_object(a=bad), "parameters")
    assert kept == open_object(a=good)


def test_so_many_patterns_are_looked_at_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []

    def is_pattern(written: str) -> bool:
        looked_at.append(written)
        return True

    monkeypatch.setattr(json_schemas, "_is_pattern", is_pattern)
    properties = {f"a{number}": {"pattern": f"^{number:040}$"} for number in range(3000)}
    kept = valid({"properties": properties})["properties"]
    assert 100 < sum("pattern" in each for each in kept.values()) <= len(looked_at)
    assert sum(map(len, looked_at)) <= json_schemas.MOST_MATCHED


def test_no_expression_of_a_caller_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a range in a class that ignores case, CPython walks over 65,536 characters."""

    def compiled(*_: Any) -> Any:
        raise AssertionError

    slow = "(?i)" + "[a-\uffff]" * 98
    schema = open_object(a={"pattern": slow}, b={"pattern": slow[4:]}, c={"patternProperties": {slow: {}}})
    enforced = open_object(a={"type": "string", "pattern": slow})
    with monkeypatch.context() as patched:
        patched.setattr(re, "compile", compiled)
        patched.setattr(re, "_compile", compiled)
        kept = parameters(schema, "p")["properties"]
        exact = strict(enforced)
    assert kept["b"] == {"pattern": slow[4:]}
    assert kept["c"] == {"patternProperties": {}}
    assert "pattern" not in kept["a"]
    assert exact == closed(a={"type": "string", "description": f"{{pattern: {slow}}}"})


_KEYWORDS = """
type enum items required properties anyOf allOf oneOf minimum minLength pattern $ref $defs not uniqueItems if then
additionalProperties dependentRequired dependencies definitions prefixItems $id $schema multipleOf const
contentSchema examples format default title
"""
_keywords = st.sampled_from(_KEYWORDS.split())
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats(-2, 2)
    | st.sampled_from(["string", "object", "x", "#/$defs/a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keywords, inner, max_size=4),
    max_leaves=20,
)


@given(schema=st.dictionaries(_keywords, _values, max_size=6))
def test_whatever_is_written_becomes_valid(schema: Json) -> None:
    jsonschema.Draft202012Validator.check_schema(valid(schema))
    try:
        jsonschema.Draft202012Validator.check_schema(parameters(schema, "p"))
    except Unsupported as refused:
        assert refused.param  # noqa: PT017  # both ways out are right
    enforced = strict(schema)
    if enforced is not None:
        jsonschema.Draft202012Validator.check_schema(enforced)


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ({}, {"type": "object"}),
        ({"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        ({"type": ["object", "null"]}, {"type": "object"}),
        (
            {"anyOf": [open_object(a={"type": "string"}), {**open_object(b={}), "required": ["b"]}]},
            open_object(a={"type": "string"}, b={}),
        ),
        (
            {"oneOf": [{"required": ["a", "b"]}, {"required": ["b"]}], **open_object(a={}, b={})},
            {**open_object(a={}, b={}), "required": ["b"]},
        ),
        (
            {
                "allOf": [{"required": ["a"]}, {"$ref": "#/$defs/x"}],
                "$defs": {"x": {**open_object(a={}), "required": ["a"]}},
            },
            {
                **open_object(a={}),
                "required": ["a"],
                "$defs": {"x": {**open_object(a={}), "required": ["a"]}},
            },
        ),
        (
            {"$ref": "#/definitions/x", "definitions": {"x": open_object(a={})}},
            {**open_object(a={}), "definitions": {"x": open_object(a={})}},
        ),
        ({"allOf": [{"$ref": "#"}], **open_object(a={})}, open_object(a={})),
        ({"$ref": "https://example.com/x"}, {"type": "object"}),
        (True, {"type": "object"}),
    ],
)
def test_a_tools_input_is_a_plain_object(written: Json, taken: Json) -> None:
    assert parameters(written, "p") == taken


@pytest.mark.parametrize(
    ("written", "param"),
    [
        ({"type": "string"}, "p.type"),
        ({"anyOf": [{"type": "string"}]}, "p.type"),
        (open_object(**{"$top": {}}), "p.properties"),
        (open_object(**{"x" * 65: {}}), "p.properties"),
    ],
)
def test_what_a_tools_input_cannot_be(written: Json, param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        parameters(written, "p")
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        (open_object(a={"type": "string"}), closed(a={"type": "string"})),
        ({**open_object(a={"type": "null"}), "additionalProperties": True}, closed(a={"type": "null"})),
        (open_object(a={"type": "null", "minimum": 1}), closed(a={"type": "null", "description": "{minimum: 1}"})),
        (
            open_object(a={"type": "string", "description": "d", "pattern": "^a", "format": "color"}),
            closed(a={"type": "string", "description": "d\n\n{pattern: ^a, format: color}"}),
        ),
        (open_object(a={"type": "string", "format": "date"}), closed(a={"type": "string", "format": "date"})),
        (open_object(a={"enum": ["x", 1, None]}), closed(a={"enum": ["x", 1, None]})),
        (open_object(a={"const": 1, "examples": [1]}), closed(a={"const": 1})),
        (open_object(a={"oneOf": NULLABLE["anyOf"]}), closed(a=NULLABLE)),
        (
            open_object(a={"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3}),
            closed(a={"type": "array", "items": {"type": "string"}, "minItems": 1, "description": "{maxItems: 3}"}),
        ),
        (open_object(a={"items": True}), closed(a={"type": "array"})),
        (
            {**open_object(a={"allOf": [{"$ref": "#/$defs/x"}], "description": "d"}), "$defs": {"x": {"type": "null"}}},
            {**closed(a={"$ref": "#/$defs/x"}), "$defs": {"x": {"type": "null"}}},
        ),
        ({**open_object(a=NULLABLE), "required": ["a", "b"]}, {**closed(a=NULLABLE), "required": ["a"]}),
    ],
)  # fmt: skip
def test_a_schema_in_the_subset_that_is_enforced(written: Json, taken: Json) -> None:
    assert strict(written) == taken


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object"},
        open_object(a={"type": "object", "additionalProperties": {"type": "string"}}),
        open_object(a={"type": "object", "patternProperties": {"x": {}}}),
        open_object(a={}),
        open_object(a=True),
        open_object(a={"enum": [{"b": 1}]}),
        open_object(a={"prefixItems": [{"type": "string"}]}),
        open_object(a={"$ref": "https://example.com/x"}),
        open_object(a={"allOf": [{"type": "string"}, {"type": "string"}]}),
        {**open_object(a={"$ref": "#/$defs/x"}), "$defs": {"x": open_object(b={"$ref": "#/$defs/x"})}},
        {
            **open_object(a={"$ref": "#/$defs/x"}),
            "$defs": {"x": {"items": {"$ref": "#/$defs/y"}}, "y": {"items": {"$ref": "#/$defs/x"}}},
        },
    ],
)  # fmt: skip
def test_what_cannot_be_enforced(written: Json) -> None:
    assert strict(written) is None


def test_a_small_body_that_says_a_very_large_schema_is_soon_done_with() -> None:
    """Each level refers ten times to the next one: followed naively, 10^30 schemas."""
    levels = {f"l{n}": {"anyOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 10} for n in range(30)}
    last = {"l30": open_object(a={"type": "string"})}
    assert parameters({"$ref": "#/$defs/l0", "$defs": {**levels, **last}}, "p")["properties"] == {
        "a": {"type": "string"}
    }
    assert parameters({"anyOf": [{"$ref": "#"}] * 50}, "p") == {"type": "object"}


def test_a_long_way_of_references_ends_somewhere() -> None:
    way = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(20_000)}
    assert parameters({"$ref": "#/$defs/d0", "$defs": way}, "p")["type"] == "object"
    assert strict({**open_object(a={"$ref": "#/$defs/d0"}), "$defs": way}) is None, (
        "the last one leads nowhere"
    )


_MANY = [f"n{number}" for number in range(3000)]


def _nested(levels: int, inner: Any) -> Any:
    """Each level refers to the one within it, so that the root has what is innermost once for each level."""
    for level in reversed(range(levels)):
        path = "/".join(f"properties/p{above}" for above in range(level + 1))
        inner = {"allOf": [{"$ref": f"#/{path}"}], "properties": {f"p{level}": inner}}
    return inner


_COSTLY: dict[str, Json] = {
    "required": {"a": {"type": "object", "required": _MANY}, "anyOf": [{"$ref": "#/a"}] * 3000},
    "keywords": {"a": dict.fromkeys(_MANY, 1), "oneOf": [{"$ref": "#/a"}] * 3000},
    "properties": {
        "allOf": [{"$ref": f"#/$defs/{name}"} for name in _MANY],
        "$defs": {
            "many": open_object(**{name: {} for name in _MANY}),
            **{name: {"$ref": "#/$defs/many"} for name in _MANY},
        },
    },
    "doubling": {
        "$ref": "#/$defs/0",
        "$defs": {
            **{str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2, f"k{n}": 1} for n in range(25)},
            "25": open_object(**{name: {} for name in _MANY[:1000]}),
        },
    },
    "written again in each": _nested(25, {"properties": {"a": {"description": "d" * 50_000}}}),
    "rewritten": open_object(**{f"m{n}": "str" for n in range(9000)}),
}


@pytest.mark.parametrize("schema", _COSTLY.values(), ids=_COSTLY)
def test_what_a_small_body_says_at_length_is_refused_before_it_takes_much(schema: Json) -> None:
    tracemalloc.start(1)
    try:
        with pytest.raises(Unsupported) as refused:
            parameters(schema, "tools[1].function.parameters")
        assert strict(schema) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.param == "tools[1].function.parameters"
    assert peak < 3 * 2**20


@pytest.mark.parametrize(
    "limits",
    [
        {"enum": [{"a": "é" * 300_000}]},
        {"description": "d" * 300_000, "maxLength": 3},
        {"not": {"enum": list(range(300_000))}},
    ],
)
def test_limits_that_are_long_are_not_described(limits: Json) -> None:
    """Then nothing is enforced; else one text that is not ASCII would make all others as wide."""
    assert strict(open_object(a={"type": "string", **limits})) is None


def test_wrapped_schemas_are_copied_so_often_and_no_more() -> None:
    inner: Json = {"type": "string"}
    for _ in range(30):
        inner = {"allOf": [inner]}
    assert strict(open_object(a=inner)) is not None
    assert strict(open_object(a=inner | dict.fromkeys(_MANY, 1))) is None


def test_a_valid_schema_is_not_copied() -> None:
    schema = open_object(**{name: {"type": ["string", "null"], "pattern": "^a"} for name in _MANY * 2})
    assert valid(schema) is schema
    assert parameters(schema, "p") is schema


def test_all_tools_of_a_request_share_what_they_may_take() -> None:
    budget = Budget()
    schema: Json = {"properties": dict.fromkeys(_MANY, "str")}
    json_schemas.parameters(schema, "p", budget)
    json_schemas.parameters(schema, "p", Budget())
    with pytest.raises(Unsupported):
        json_schemas.parameters(schema, "p", budget)


def test_a_long_chain_of_definitions_is_no_circle() -> None:
    chain = {f"d{n}": open_object(a={"$ref": f"#/$defs/d{n + 1}"}) for n in range(1000)}
    chain["d1000"] = open_object(a={"type": "null"})
    assert strict({**open_object(a={"$ref": "#/$defs/d0"}), "$defs": chain}) is not None


def test_how_much_of_a_schema_is_optional_and_of_several_types() -> None:
    schema = closed(a=NULLABLE, b={"type": ["string", "null"]}, c=closed(d={"type": "null"}))
    assert complexity({**schema, "required": ["a"]}) == (3, 2)
