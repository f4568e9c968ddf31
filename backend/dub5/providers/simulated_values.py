"""Plausible values for a JSON Schema: what a simulated model puts into structured answers and tool calls.

It knows the part of JSON Schema that structured outputs allow (types, enum, const, objects, arrays, anyOf,
$ref, bounds, common formats); of what it does not know it takes no notice. A few bytes of schema can describe any
amount of JSON: an example has a bounded size, whatever it is made of.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import msgspec

from dub5.errors import Unsupported
from dub5.providers.protocol import Json

T = TypeVar("T")

DEEPEST = 12
"""Levels after which a schema that refers to itself gets its shortest value: null, or an empty list."""

LARGEST = 1000
"""Values in one example, after which objects and lists are empty: a few references can describe billions."""

LARGEST_BYTES = 64 * 2**10
"""Of one example, as JSON."""

_LARGEST_BOUND = 1e300
"""Arithmetic with larger ones ends in infinity, which JSON has no word for."""

_LONGEST_REFERENCE = 1000
"""Characters: it may be followed once for each value."""

_NULL = {"type": "null"}

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


def example(schema: Any, seed: int, where: str = "schema") -> Any:
    """A value that `schema` allows; the same for the same arguments. `{}` where it is not a schema at all.

    Unsupported, naming `where`, for one that asks for more than LARGEST_BYTES or for numbers out of range.
    """
    return _Example(schema, seed, where).value(schema, "value", 0) if isinstance(schema, dict) else {}


class _Example:
    """Makes one value; `root` is where references begin."""

    def __init__(self, root: Json, seed: int, where: str) -> None:
        self._root = root
        self._seed = seed
        self._where = where
        self._left = LARGEST
        self._bytes_left = LARGEST_BYTES

    def value(self, schema: Any, name: str, depth: int) -> Any:
        self._left -= 1
        schema = self._resolved(schema, depth)
        if "const" in schema:
            return self._counted(schema["const"])
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return self._counted(schema["enum"][self._seed % len(schema["enum"])])
        match _type(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer":
                return self._counted(self._integer(schema))
            case "number":
                return self._counted(self._number(schema))
            case "boolean":
                return self._counted(self._seed % 2 == 0)
            case "null":
                return self._counted(None)
        return self._counted(self._string(schema, name))

    def _counted(self, value: T) -> T:
        """A part of the example that is complete, and the comma or colon after it."""
        self._take(len(msgspec.json.encode(value)) + 1)
        return value

    def _take(self, size: int) -> None:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise self._too_large()

    def _too_large(self) -> Unsupported:
        return self._unsupported(f"asks for more than {LARGEST_BYTES} bytes")

    def _unsupported(self, why: str) -> Unsupported:
        return Unsupported(
            f"`{self._where}`: {why}, which the simulated provider does not give.", param=self._where
        )

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
            return self._counted({})
        required = schema.get("required")
        if depth > DEEPEST and isinstance(required, list):
            wanted = {name for name in required if isinstance(name, str)}
            properties = {name: each for name, each in properties.items() if name in wanted}
        self._take(len("{},"))
        return {self._counted(name): self.value(each, name, depth + 1) for name, each in properties.items()}

    def _array(self, schema: Json, name: str, depth: int) -> list[Any]:
        if self._must_stop(depth):
            return self._counted([])
        least = schema.get("minItems", 0 if depth > DEEPEST else 1)
        count = least if isinstance(least, int) and 0 <= least <= 100 else 1
        self._take(len("[],"))
        return [self.value(schema.get("items", {}), name, depth + 1) for _ in range(count)]

    def _must_stop(self, depth: int) -> bool:
        """Whether the schema asks for too much, or for itself without end, which no value can satisfy."""
        return self._left <= 0 or depth > 2 * DEEPEST

    def _integer(self, schema: Json) -> int:
        lower, upper = self._limit(schema, "minimum", 1), self._limit(schema, "maximum", -1)
        value = self._seed % 10 + (1 if lower is None else math.ceil(lower))
        return value if upper is None else min(value, math.floor(upper))

    def _number(self, schema: Json) -> float:
        """In the middle of its bounds, else a little way inside of the one that there is."""
        lower, upper = self._limit(schema, "minimum", 0), self._limit(schema, "maximum", 0)
        if lower is not None and upper is not None:
            return (lower + upper) / 2
        value = self._seed % 10 + 1.5 + (lower or 0)
        return value if upper is None else min(value, upper - 1)

    def _limit(self, schema: Json, name: str, inwards: int) -> float | None:
        """A bound; `inwards` is added to one that does not belong to the range itself."""
        exclusive = schema.get("exclusive" + name.capitalize())
        for bound, by in ((schema.get(name), 0), (exclusive, inwards)):
            if isinstance(bound, (int, float)) and not isinstance(bound, bool):
                if not -_LARGEST_BOUND <= bound <= _LARGEST_BOUND:
                    raise self._unsupported("has a bound of more than 300 digits")
                return bound + by
        return None

    def _string(self, schema: Json, name: str) -> str:
        """Named after its property, unless its format says more; as long as it has to be."""
        known = schema.get("format")
        text = _FORMATS.get(known if isinstance(known, str) else "", f"{name} {self._seed % 100}")
        least, most = schema.get("minLength"), schema.get("maxLength")
        if isinstance(least, int) and least > len(text):
            if least > self._bytes_left:
                raise self._too_large()
            text = text.ljust(least, "x")
        return text[:most] if isinstance(most, int) and most >= 0 else text


def _referred(reference: Any, root: Json) -> Any:
    """The target of `#/$defs/name`."""
    if not isinstance(reference, str) or len(reference) > _LONGEST_REFERENCE:
        return None
    node: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            node = node.get(step) if isinstance(node, dict) else None
    return node


def _option(options: list[Any], *, ending: bool) -> Any:
    """The first that is not null; null where a schema that refers to itself has to end."""
    if ending and _NULL in options:
        return _NULL
    return next((option for option in options if option != _NULL), options[0])


def _type(schema: Json) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if not isinstance(kind, str):
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    return kind
