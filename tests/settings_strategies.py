"""Configurations for property tests: nearly right ones, in which any value may be wrong, made from the schema."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from dub5.settings.schema import schema

Json = dict[str, Any]

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 0, 1, 2, 65536])
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["1s", "10 MiB", "300ms", "x/y", "demo/m", "default", "http://h", "redis://h", "user", "openai"]
    )
)

junk = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8) | st.integers() | st.sampled_from(["kind", "env"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)

_names = st.sampled_from(["demo", "default", "m-1", "Other.x"])


def configurations() -> st.SearchStrategy[Json]:
    """Mappings along the schema; about one value in thirty is junk, and names are few, so that some match."""
    described = schema()
    definitions = described["$defs"]
    return _mapping(definitions["Settings"], definitions)


def _value(described: Json, definitions: Json) -> st.SearchStrategy[Any]:
    good = _good(described, definitions)
    return st.integers(0, 29).flatmap(lambda dice: junk if dice == 0 else good)


def _good(described: Json, definitions: Json) -> st.SearchStrategy[Any]:
    if "$ref" in described:
        return _mapping(definitions[described["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in described:
        return st.one_of([_value(each, definitions) for each in described["anyOf"]])
    if "enum" in described:
        return st.sampled_from(described["enum"])
    return _of_type(described, definitions)


def _of_type(described: Json, definitions: Json) -> st.SearchStrategy[Any]:
    match described.get("title", described["type"]):
        case "Duration":
            return st.sampled_from(["50ms", "10s", "1h", 5, 0.05, 0])
        case "Size":
            return st.sampled_from(["1MiB", "256 KiB", 4096, 0])
        case "array":
            return st.lists(_value(described["items"], definitions), max_size=2)
        case "object":
            entry = described.get("additionalProperties")
            inner = _value(entry, definitions) if isinstance(entry, dict) else junk
            return st.dictionaries(_names, inner, max_size=2)
        case "integer":
            return st.integers(described.get("minimum", 0), min(described.get("maximum", 9999), 9999))
        case "number":
            return st.floats(described.get("minimum", 0), described.get("maximum", 100))
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            return _scalars.filter(lambda value: isinstance(value, str))


def _mapping(section: Json, definitions: Json) -> st.SearchStrategy[Json]:
    fields = {name: _value(each, definitions) for name, each in section["properties"].items()}
    required = {name: fields.pop(name) for name in section["required"]}
    return st.fixed_dictionaries(required, optional=fields)
