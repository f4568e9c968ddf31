"""JSON Schemas as callers write them, in the dialects that Anthropic takes. Pure functions on decoded JSON.

`valid` makes what draft 2020-12 takes of what older drafts and hasty hands write: a keyword with a value that it
cannot have is left out, since it says nothing; a `pattern` that may be no regular expression goes into the description.
`parameters` is that for a tool's input, where the root has to be a plain object. `strict` is the subset in which the
answer is enforced; what goes beyond it is said in the description, as Anthropic's own client does, and what cannot be
said there at all is None. What all of it takes is bounded by a `Budget`.

Sources: https://json-schema.org/draft/2020-12/schema, and
https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from graphlib import CycleError, TopologicalSorter
from typing import Any

from dub5.errors import Unsupported
from dub5.providers.protocol import Json

_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_OTHER_NAMES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
}
_LONGEST_TYPE = 20
_COMPOSED = ("allOf", "anyOf", "oneOf")
_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_DEEPEST = 64
"""Schemas within or behind another that are merged into the root of a tool's parameters."""
_LONGEST_REFERENCE = 1000

MOST_COPIED, MOST_DESCRIBED, MOST_MATCHED = 24_000, 100_000, 20_000
"""What one request may take: see `Budget`."""

_LONGEST_PATTERN = 500
_EACH = 4
"""Entries that an object costs besides its own."""

_NOTHING = object()


class SpentError(Exception):
    """A schema that would take more than a request may."""


class Budget:
    """What all schemas of one request may take together, past which they are refused: a small one may say a large one.

    `copied` counts entries of objects and lists that are made anew, or visited more than once; what is only read,
    once, is bounded by the body. `described` counts characters that go into a description or a sentence, `matched`
    those of patterns that are matched.
    """

    def __init__(self) -> None:
        self.copied, self.described, self.matched = MOST_COPIED, MOST_DESCRIBED, MOST_MATCHED
        self._known: dict[str, bool] = {}

    def copy(self, *parts: Sized) -> None:
        """Before something is made of `parts`. SpentError if that is too much."""
        self.copied -= _EACH + sum(map(len, parts))
        if self.copied < 0:
            raise SpentError

    def describe(self, *values: Any) -> None:
        """Before `values` are written out. SpentError if that is too much."""
        waiting = list(values)
        while waiting:
            each = waiting.pop()
            self.described -= len(each) if isinstance(each, (str, list, dict)) else 1
            if self.described < 0:
                raise SpentError
            if isinstance(each, dict):
                waiting.extend(each.keys())
                waiting.extend(each.values())
            elif isinstance(each, list):
                waiting.extend(each)

    def is_pattern(self, written: str) -> bool:
        """Whether it is surely a regular expression; past the budget none is."""
        if len(written) > _LONGEST_PATTERN:
            return False
        if written not in self._known:
            self.matched -= len(written) + _EACH
            self._known[written] = self.matched >= 0 and _is_pattern(written)
        return self._known[written]


# --- What the draft takes ---


# Never `re.compile`: CPython walks over 65,536 characters for a range in a class that ignores case.
_ESCAPED = (
    r"\\(?:[dDwWsStnrfv]|[!-/:-@\[-`{-~]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,6}\}|"
    r"[pP]\{\w{1,40}(?:=\w{1,40})?\})"
)
_CLASS = rf"\[\^?+(?:[^\[\]\\]|{_ESCAPED})++\]"
_CLASSES = re.compile(_CLASS, re.ASCII)
_SINGLE = re.compile(rf"{_ESCAPED}|{_CLASS}", re.ASCII)
_PARENTHESES = re.compile(r"[()]")
_NAMES = re.compile(r"\(\?P?<(\w{1,40})>")
_EXPRESSION = re.compile(
    r"(?:[\^$|]|\\[bB]|\((?:\?(?:[:=!]|i:|P?<[A-Za-z_]\w{0,39}>))?|"
    rf"(?:[^\\\[\](){{}}*+?|^$]|{_ESCAPED}|{_CLASS}|\))(?:(?:[*+?]|\{{\d{{1,3}}(?:,\d{{0,3}})?\}})\??)?+)*+",
    re.ASCII,
)
_DOUBLED = re.compile(r"([-&~|])\1")
"""Operators on classes, in some dialects."""
_ENDS = re.compile(r"\{(\d+),(\d+)\}")
_RANGE = re.compile(rf"({_ESCAPED}|[^\\])-({_ESCAPED}|[^\\])")


def _is_pattern(written: str) -> bool:
    """Whether all of JavaScript, Python and Rust are likely to take it; in linear time. What is unsure is not."""
    if not _EXPRESSION.fullmatch(written):
        return False
    for inside in _CLASSES.findall(written):
        body = inside[2:-1] if inside[1] == "^" else inside[1:-1]
        if any(not _goes_up(*ends) for ends in _RANGE.findall(body)) or _DOUBLED.search(body):
            return False
    if any(int(least) > int(most) for least, most in _ENDS.findall(written)):
        return False
    names = _NAMES.findall(written)
    depth = 0
    for each in _PARENTHESES.findall(_SINGLE.sub("", written)):
        depth += 1 if each == "(" else -1
        if not 0 <= depth <= _DEEPEST:
            return False
    return depth == 0 and len(names) == len(set(names))


def _goes_up(first: str, last: str) -> bool:
    """Of a range in a class: from one character to another, in the same notation."""
    if first[0] == last[0] == "\\":
        return first[1:2] == last[1:2] and first[1] in "xu" and len(first) == len(last) and first <= last
    return len(first) == len(last) == 1 and first <= last


def valid(schema: Any, budget: Budget) -> Any:
    """A schema that the meta-schema of draft 2020-12 takes, its patterns too: `schema` itself where it is one.

    SpentError where too much of it has to be written anew.
    """
    if isinstance(schema, bool):
        return schema
    if isinstance(schema, str):  # {"x": "number"} for {"x": {"type": "number"}}
        budget.copy()
        kind = _type(schema, budget)
        return {} if kind is _NOTHING else {"type": kind}
    if not isinstance(schema, dict):
        budget.copy()
        return {}
    result: Json = schema  # until something is otherwise: a copy of all would take as much memory again
    for name, value in schema.items():
        kept = _KEYWORDS[name](value, budget) if name in _KEYWORDS else value
        if kept is value:
            continue
        if result is schema:
            budget.copy(schema)
            result = dict(schema)
        if kept is _NOTHING:
            del result[name]
        else:
            result[name] = kept
    if isinstance(result.get("items"), list):  # tuples, until draft 2019-09
        if result is schema:
            budget.copy(schema)
            result = dict(schema)
        result.setdefault("prefixItems", result.pop("items"))
    if isinstance(schema.get("pattern"), str) and "pattern" not in result:
        _describe_pattern(schema["pattern"], result, budget)
    return result


def _describe_pattern(pattern: str, result: Json, budget: Budget) -> None:
    description = result.get("description", "")
    with contextlib.suppress(SpentError):
        budget.describe(description, pattern)
        result["description"] = f"{description}\n\n{{pattern: {pattern}}}".strip()


_Kept = Callable[[Any, Budget], Any]


def _left_out(_: Any, __: Budget) -> Any:
    return _NOTHING


def _if(good: Callable[[Any], bool]) -> _Kept:
    return lambda value, _: value if good(value) else _NOTHING


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _type(value: Any, budget: Budget) -> Any:
    if isinstance(value, list):
        if len(value) < len(_TYPES) and all(isinstance(each, str) and each in _TYPES for each in value):
            return value if len(set(value)) == len(value) > 0 else list(dict.fromkeys(value)) or _NOTHING
        budget.copy(value)
        kinds = (_type(each, budget) for each in value if isinstance(each, str))
        return list(dict.fromkeys(kind for kind in kinds if kind is not _NOTHING)) or _NOTHING
    if not isinstance(value, str):
        return _NOTHING
    if value in _TYPES:
        return value
    name = value[:_LONGEST_TYPE].lower()
    name = _OTHER_NAMES.get(name, name)
    return name if name in _TYPES else _NOTHING


def _names(value: Any, budget: Budget) -> Any:
    if not isinstance(value, list):
        return _NOTHING
    if not value:
        return value
    budget.copy(value)
    kept = list(dict.fromkeys(name for name in value if isinstance(name, str)))
    return value if len(kept) == len(value) else kept


def _schemas(value: Any, budget: Budget) -> Any:
    return _each_valid(value, enumerate(value), budget) if isinstance(value, list) and value else _NOTHING


def _named_schemas(value: Any, budget: Budget) -> Any:
    return _each_valid(value, value.items(), budget) if isinstance(value, dict) else _NOTHING


def _each_valid(value: Any, members: Iterable[tuple[Any, Any]], budget: Budget) -> Any:
    """A list or object of schemas, each `valid`: `value` itself where they are."""
    result = value
    for name, each in members:
        kept = valid(each, budget)
        if kept is not each:
            if result is value:
                budget.copy(value)
                result = value.copy()
            result[name] = kept
    return result


def _by_pattern(value: Any, budget: Budget) -> Any:
    named = _named_schemas(value, budget)
    if named is _NOTHING or all(map(budget.is_pattern, named)):
        return named
    budget.copy(named)
    return {name: each for name, each in named.items() if budget.is_pattern(name)}


def _pattern(value: Any, budget: Budget) -> Any:
    return value if isinstance(value, str) and budget.is_pattern(value) else _NOTHING


def _items(value: Any, budget: Budget) -> Any:
    return (_schemas if isinstance(value, list) else valid)(value, budget)


def _dependent(value: Any, budget: Budget) -> Any:
    if not isinstance(value, dict):
        return _NOTHING
    budget.copy(value)
    return {name: _names(each, budget) for name, each in value.items() if isinstance(each, list)}


def _each(names: str, kept: _Kept) -> dict[str, _Kept]:
    return dict.fromkeys(names.split(), kept)


_KEYWORDS: dict[str, _Kept] = {
    "type": _type,
    "required": _names,
    "items": _items,
    "dependentRequired": _dependent,
    "pattern": _pattern,
    "patternProperties": _by_pattern,
    "multipleOf": _if(lambda value: _is_number(value) and value > 0),
    **_each("enum examples", _if(lambda value: isinstance(value, list))),
    **_each("minimum maximum exclusiveMinimum exclusiveMaximum", _if(_is_number)),
    **_each("minLength maxLength minItems maxItems minProperties maxProperties", _if(_is_count)),
    **_each("minContains maxContains", _if(_is_count)),
    **_each("uniqueItems deprecated readOnly writeOnly", _if(lambda value: isinstance(value, bool))),
    **_each("title description format $ref $comment", _if(lambda value: isinstance(value, str))),
    **_each("contentEncoding contentMediaType", _if(lambda value: isinstance(value, str))),
    **_each("additionalProperties propertyNames contains not if then else", valid),
    **_each("unevaluatedItems unevaluatedProperties contentSchema", valid),
    **_each("allOf anyOf oneOf prefixItems", _schemas),
    **_each("properties $defs definitions dependentSchemas", _named_schemas),
    # which draft, and names for references from elsewhere
    **_each("$schema $id $anchor $dynamicRef $dynamicAnchor $vocabulary", _left_out),
    **_each("$recursiveRef $recursiveAnchor dependencies", _left_out),
}


# --- What a tool's input may be ---


def parameters(schema: Any, where: str, budget: Budget) -> Json:
    """`schema` for `input_schema`: an object with nothing composed at its root.

    Unsupported for what is no object, or would take more than `budget`.
    """
    try:
        root = valid(schema, budget)
        merged = _Merger(root if isinstance(root, dict) else {}, budget).whole()
    except SpentError:
        raise Unsupported(
            f"`{where}`: too large a schema for the provider of this model, with all that its references name and "
            "what the tools before it took.",
            param=where,
        ) from None
    kind = merged["type"]
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise Unsupported(f"`{where}.type`: must be `object`.", param=f"{where}.type")
    for name in merged.get("properties", ()):
        if not _PROPERTY.fullmatch(name):
            raise Unsupported(
                f"`{where}.properties`: the provider of this model takes names of 1 to 64 letters, digits, "
                "`_`, `.` and `-`.",
                param=f"{where}.properties",
            )
    return merged if kind == "object" else {**merged, "type": "object"}


class _Merger:
    """Puts references and compositions of a schema into its own properties: looser, but of the same fields.

    What all of `allOf` require is required, and of `anyOf` and `oneOf` what each of them does. Each reference is
    followed once; all that is made of what it names counts, each time.
    """

    def __init__(self, root: Json, budget: Budget) -> None:
        self._root, self._budget = root, budget
        self._known: dict[str, Json] = {}
        self._depth = 0

    def whole(self) -> Json:
        """What becomes of the root; with a type."""
        result = self.merged(self._root)
        if result is not self._root:
            # What a reference names may be within what another names: it is then written once for each.
            self._describe_new(result, self._root)
            self._describe_new(result.get("properties", {}), self._root.get("properties", {}))
        if "type" not in result or result["type"] != "object":
            self._budget.copy(result, result)
            result = {"type": "object", **result}
        return result

    def _describe_new(self, result: Json, own: Json) -> None:
        self._budget.describe(
            *(each for name, each in result.items() if name != "properties" and each is not own.get(name))
        )

    def merged(self, schema: Any) -> Json:
        if not isinstance(schema, dict) or self._depth >= _DEEPEST:
            return {}
        if "$ref" not in schema and not any(how in schema for how in _COMPOSED):
            return schema
        self._budget.copy(schema)
        self._depth += 1
        result = {name: value for name, value in schema.items() if name not in _COMPOSED and name != "$ref"}
        if "$ref" in schema:
            referred = self._referred(schema["$ref"])
            self._budget.copy(referred, result)
            result = {**referred, **result}
        for how in _COMPOSED:
            if schema.get(how):
                self._merge(result, how, schema[how])
        self._depth -= 1
        return result

    def _referred(self, reference: str) -> Json:
        if reference not in self._known:
            self._known[reference] = {}  # for what refers to itself
            self._known[reference] = self.merged(_found(reference, self._root))
        return self._known[reference]

    def _merge(self, result: Json, how: str, branches: list[Any]) -> None:
        own = result.get("properties", {})
        properties = own
        required: set[str] | None = None
        kind = None
        for each in branches:
            branch = self.merged(each)
            others, names = branch.get("properties", {}), branch.get("required", ())
            self._budget.copy(others, names)
            if others and properties is own:
                self._budget.copy(own)
                properties = dict(own)
            for name, one in others.items():
                properties.setdefault(name, one)
            if required is None:
                required = set(names)
            elif how == "allOf":
                required.update(names)
            else:
                required.intersection_update(names)
            if kind is None or branch.get("type") == "object":
                kind = branch.get("type")
        if properties:
            result["properties"] = properties
        if required:
            self._budget.copy(result.get("required", ()), required)
            result["required"] = list(dict.fromkeys([*result.get("required", ()), *sorted(required)]))
        if kind is not None:
            result.setdefault("type", kind)


def _found(reference: str, root: Json) -> Any:
    """What a reference within the same schema names."""
    if len(reference) > _LONGEST_REFERENCE:
        return None
    found: Any = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        if name:
            found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found


# --- The subset that is enforced ---

_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
_NO_CONSTRAINT = frozenset(
    {"examples", "deprecated", "readOnly", "writeOnly", "$comment", "definitions", "$defs"}
)
_BEYOND = frozenset({"patternProperties", "prefixItems", "dependentSchemas", "unevaluatedProperties"})
MOST_TOOLS, MOST_OPTIONAL, MOST_UNIONS = 20, 24, 16
"""Of all strict schemas of one request together."""


class _BeyondError(Exception):
    """The subset has no word for it."""


def strict(schema: Any, budget: Budget) -> Json | None:
    """`schema` in the subset, its further limits said in its descriptions.

    None where that changes what it means, or would take more than `budget`.
    """
    try:
        root = valid(schema, budget)
        if not isinstance(root, dict):
            return None
        named = {}
        for group in ("$defs", "definitions"):
            for name, each in root.get(group, {}).items():
                budget.copy(name)
                named[f"#/{group}/{name}"] = each
        if _goes_round(named, budget):
            return None
        subset = _Subset(named, budget)
        result = subset.of(root)
        for group in ("$defs", "definitions"):
            if root.get(group):
                result[group] = {name: subset.of(each) for name, each in root[group].items()}
    except (_BeyondError, SpentError):
        return None
    return result if result.get("type") == "object" else None


def complexity(schema: Json) -> tuple[int, int]:
    """Optional properties, and properties of more than one type, of a schema in the subset."""
    optional = len(schema.get("properties", {}).keys() - set(schema.get("required", ())))
    unions = int("anyOf" in schema or isinstance(schema.get("type"), list))
    for child in _children(schema):
        more = complexity(child)
        optional, unions = optional + more[0], unions + more[1]
    return optional, unions


def _children(schema: Json) -> Iterator[Json]:
    for group in ("properties", "$defs", "definitions"):
        yield from (each for each in schema.get(group, {}).values() if isinstance(each, dict))
    for name in ("anyOf", "allOf", "oneOf"):
        yield from (each for each in schema.get(name, ()) if isinstance(each, dict))
    if isinstance(schema.get("items"), dict):
        yield schema["items"]


def _goes_round(named: dict[str, Any], budget: Budget) -> bool:
    """Whether a definition refers to itself, by way of others or not."""
    graph: dict[str, set[str]] = {}
    for name, each in named.items():
        graph[name] = set()
        for reference in _references(each):
            budget.copy()
            graph[name].add(reference)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return True
    return False


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for each in _children(schema):
            yield from _references(each)


class _Subset:
    def __init__(self, named: dict[str, Any], budget: Budget) -> None:
        self._named, self._budget = named, budget

    def of(self, schema: Any) -> Json:
        if not isinstance(schema, dict):
            raise _BeyondError
        self._budget.copy(schema)
        if "$ref" in schema:
            if schema["$ref"] not in self._named:
                raise _BeyondError
            return {"$ref": schema["$ref"]}
        if len(schema.get("allOf", ())) == 1 and isinstance(schema["allOf"][0], dict):
            only = schema["allOf"][0]
            self._budget.copy(only)
            return self.of({**only, **{name: each for name, each in schema.items() if name != "allOf"}})
        if schema.keys() & _BEYOND or "allOf" in schema:
            raise _BeyondError
        result: Json = {}
        further = {name: each for name, each in schema.items() if name not in _NO_CONSTRAINT}
        for name in ("title", "description"):
            if name in further:
                result[name] = further.pop(name)
        kinds = _kinds(schema)
        self._take_choices(result, further, kinds)
        self._take_members(result, further, kinds)
        if not result.keys() & {"type", "anyOf", "enum", "const"}:
            raise _BeyondError
        if further:
            description = result.get("description", "")
            self._budget.describe(description, further)
            limits = ", ".join(f"{name}: {each}" for name, each in further.items())
            result["description"] = f"{description}\n\n{{{limits}}}".strip()
        return result

    def _take_choices(self, result: Json, further: Json, kinds: list[str]) -> None:
        """Move what lists alternatives from `further` to `result`."""
        further.pop("type", None)
        choices = further.get("enum")
        if choices and all(_is_plain(each) for each in choices):
            result["enum"] = further.pop("enum")
        if "const" in further and _is_plain(further["const"]):
            result["const"] = further.pop("const")
        if kinds:
            result["type"] = kinds[0] if len(kinds) == 1 else kinds
            return  # alternatives beside a type only narrow it
        for name in ("anyOf", "oneOf"):
            if name in further and "anyOf" not in result:
                result["anyOf"] = [self.of(each) for each in further.pop(name)]

    def _take_members(self, result: Json, further: Json, kinds: list[str]) -> None:
        """Move what is said of members, items and formats from `further` to `result`."""
        if "object" in kinds:
            open_to = further.pop("additionalProperties", None)
            properties = further.pop("properties", {})
            # Open, it is an object of any members; closed, it can only be empty.
            if not properties and open_to is not False:
                raise _BeyondError
            result["properties"] = {name: self.of(each) for name, each in properties.items()}
            result["additionalProperties"] = False
            result["required"] = [name for name in further.pop("required", ()) if name in properties]
        if "array" in kinds:
            items = further.pop("items", True)
            if isinstance(items, dict) and items:
                result["items"] = self.of(items)
            elif items is False:
                raise _BeyondError
            if further.get("minItems") in {0, 1}:
                result["minItems"] = further.pop("minItems")
        if "string" in kinds and further.get("format") in _FORMATS:
            result["format"] = further.pop("format")


def _kinds(schema: Json) -> list[str]:
    kind = schema.get("type")
    if isinstance(kind, list):
        return kind
    if kind is None and "properties" in schema:
        return ["object"]
    if kind is None and "items" in schema:
        return ["array"]
    return [] if kind is None else [kind]


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))
