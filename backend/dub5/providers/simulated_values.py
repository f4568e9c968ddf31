"""Plausible values for a JSON Schema: what a simulated model puts into structured answers and tool calls.

It knows the part of JSON Schema that structured outputs allow (types, enum, const, objects, arrays, anyOf,
$ref, bounds, common formats); of what it does not know it takes no notice.
"""

from __future__ import annotations

import math
from typing import Any

from dub5.providers.protocol import Json

DEEPEST = 12
"""Levels after which a schema that refers to itself gets its shortest value: null, or an empty list."""

LARGEST = 1000
"""Values in one example: a few references that repeat each other can describe billions."""

_FORMATS = {
    "date": "2025-01-01",
    "date-time": "2025-01-01T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def example(schema: Any, seed: int) -> Any:
    """A value that `schema` allows; the same for the same arguments. `{}` where it is not a schema at all."""
    return _Example(schema, seed).value(schema, "value", 0) if isinstance(schema, dict) else {}


class _Example:
    """Makes one value; `root` is where references begin."""

    def __init__(self, root: Json, seed: int) -> None:
        self._root = root
        self._seed = seed
        self._left = LARGEST

    def value(self, schema: Any, name: str, depth: int) -> Any:
        self._left -= 1
        schema = self._resolved(schema, depth)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return schema["enum"][self._seed % len(schema["enum"])]
        match _type(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer":
                return _integer(schema, self._seed)
            case "number":
                return _number(schema, self._seed)
            case "boolean":
                return self._seed % 2 == 0
            case "null":
                return None
        return _string(schema, self._seed, name)

    def _resolved(self, schema: Any, depth: int) -> Json:
        """The schema itself, behind references and alternatives."""
        for _ in range(DEEPEST):
            if not isinstance(schema, dict):
                return {}
            options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
            if "$ref" in schema:
                schema = _referred(schema["$ref"], self._root)
            elif isinstance(options, list):
                schema = _option(options, ending=depth > DEEPEST)
            else:
                return schema
        return {}

    def _object(self, schema: Json, depth: int) -> Json:
        """All properties, but where a schema that refers to itself has to end only the required ones."""
        properties = schema.get("properties")
        if not isinstance(properties, dict) or self._must_stop(depth):
            return {}
        required = schema.get("required")
        wanted = required if depth > DEEPEST and isinstance(required, list) else properties
        return {
            name: self.value(each, name, depth + 1) for name, each in properties.items() if name in wanted
        }

    def _array(self, schema: Json, name: str, depth: int) -> list[Any]:
        if self._must_stop(depth):
            return []
        least = schema.get("minItems", 0 if depth > DEEPEST else 1)
        count = least if isinstance(least, int) and 0 <= least <= 100 else 1
        return [self.value(schema.get("items", {}), name, depth + 1) for _ in range(count)]

    def _must_stop(self, depth: int) -> bool:
        """Whether the schema asks for too much, or for itself without end, which no value can satisfy."""
        return self._left <= 0 or depth > 2 * DEEPEST


def _referred(reference: Any, root: Json) -> Any:
    """The target of `#/$defs/name`."""
    node: Any = root
    for step in str(reference).removeprefix("#").strip("/").split("/"):
        if step:
            node = node.get(step) if isinstance(node, dict) else None
    return node


def _option(options: list[Any], *, ending: bool) -> Any:
    """The first that is not null; null where a schema that refers to itself has to end."""
    nulls = [option for option in options if option == {"type": "null"}]
    others = [option for option in options if option != {"type": "null"}]
    chosen = nulls if nulls and ending else others or nulls
    return chosen[0] if chosen else {}


def _type(schema: Json) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(kind)


def _integer(schema: Json, seed: int) -> int:
    lower, upper = _limit(schema, "minimum", 1), _limit(schema, "maximum", -1)
    value = seed % 10 + (1 if lower is None else math.ceil(lower))
    return value if upper is None else min(value, math.floor(upper))


def _number(schema: Json, seed: int) -> float:
    """In the middle of its bounds, else a little way inside of the one that there is."""
    lower, upper = _limit(schema, "minimum", 0), _limit(schema, "maximum", 0)
    if lower is not None and upper is not None:
        return (lower + upper) / 2
    value = seed % 10 + 1.5 + (lower or 0)
    return value if upper is None else min(value, upper - 1)


def _limit(schema: Json, name: str, inwards: int) -> float | None:
    """A bound; `inwards` is added to one that does not belong to the range itself."""
    exclusive = schema.get("exclusive" + name.capitalize())
    for bound, by in ((schema.get(name), 0), (exclusive, inwards)):
        if isinstance(bound, (int, float)) and not isinstance(bound, bool):
            return bound + by
    return None


def _string(schema: Json, seed: int, name: str) -> str:
    """Named after its property, unless its format says more; as long as it has to be."""
    text = _FORMATS.get(str(schema.get("format")), f"{name} {seed % 100}")
    least, most = schema.get("minLength"), schema.get("maxLength")
    if isinstance(least, int) and least <= 10_000:
        text = text.ljust(least, "x")
    return text[:most] if isinstance(most, int) and most >= 0 else text
