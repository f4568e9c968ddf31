"""JSON Schemas as callers write them, in the dialects that Anthropic takes. Pure functions on decoded JSON.

`valid` makes what draft 2020-12 takes of what older drafts and hasty hands write: a keyword with a value that it
cannot have is left out, since it says nothing; so is a `pattern` that is no regular expression. `parameters` is that
for a tool's input, where the root has to be a plain object. `strict` is the subset in which the answer is enforced;
what goes beyond it is told in the description, as Anthropic's own client does, and what cannot be said there at all is
None.

Sources: https://json-schema.org/draft/2020-12/schema, and
https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
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
_COMPOSED = ("allOf", "anyOf", "oneOf")
_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_MOST_MERGED = 10_000
"""Properties that come by reference to the root of a tool's parameters."""
_DEEPEST = 64
"""References that lead from one to the next there."""

_MOST_PATTERNS, _LONGEST_PATTERN = 200, 500
"""Regular expressions of one schema that are looked at, and characters of one: others are left out, unseen."""

_NOTHING = object()

_OF_ONE = (
    *("additionalProperties", "propertyNames", "contains", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_OF_SEVERAL = (*_COMPOSED, "prefixItems")
_OF_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords with one schema, several or named ones in them; `items` has one or several."""
_UNNAMED, _NAMED = frozenset((*_OF_ONE, *_OF_SEVERAL, "items")), frozenset(_OF_NAMED)


# --- What the draft takes ---


def valid(schema: Any) -> Any:
    """A schema that the meta-schema of draft 2020-12 takes, its patterns too."""
    result = _valid(schema)
    _leave_out_patterns(result)
    return result


def _leave_out_patterns(schema: Any) -> None:
    """Those that are no regular expressions, of `schema` and all that is within it."""
    known: dict[str, bool] = {}

    def is_good(pattern: str) -> bool:
        if pattern not in known:
            known[pattern] = len(known) < _MOST_PATTERNS and _is_pattern(pattern)
        return known[pattern]

    waiting = [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting.extend(each)
        elif isinstance(each, dict):
            if isinstance(each.get("pattern"), str) and not is_good(each["pattern"]):
                del each["pattern"]
            if "patternProperties" in each:
                named = each["patternProperties"]
                each["patternProperties"] = {name: named[name] for name in named if is_good(name)}
            # Of these keywords only: the values of others may be the caller's own request.
            waiting.extend(each[name] for name in _UNNAMED & each.keys())
            waiting.extend(one for name in _NAMED & each.keys() for one in each[name].values())


_OTHERWISE = re.compile(
    r"(?P<a>\\[pP]\{\w{1,40}(?:=\w{1,40})?\}|\\u\{[0-9A-Fa-f]{1,6}\}|\\k<\w{1,40}>)|"
    r"(?P<name>\(\?<(?=[A-Za-z_]))|(?P<set>\[\[)|(?P<one>[-&~|])(?P=one)+"
)
"""What JavaScript's expressions have and Python's write otherwise, and what Python warns of."""


def _is_pattern(written: str) -> bool:
    """Whether it is a regular expression, of JavaScript's kind or Python's."""
    if len(written) > _LONGEST_PATTERN:
        return False
    try:
        re.compile(_OTHERWISE.sub(_as_python, written))
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _as_python(found: re.Match[str]) -> str:
    return {"a": "a", "name": "(?P<", "set": "[a"}.get(found.lastgroup or "", found["one"] or "")


def _valid(schema: Any) -> Any:
    if isinstance(schema, bool):
        return schema
    if isinstance(schema, str):  # {"x": "number"} for {"x": {"type": "number"}}
        kind = _type(schema)
        return {} if kind is _NOTHING else {"type": kind}
    if not isinstance(schema, dict):
        return {}
    result: Json = {}
    for name, value in schema.items():
        kept = _KEYWORDS[name](value) if name in _KEYWORDS else value
        if kept is not _NOTHING:
            result[name] = kept
    if isinstance(result.get("items"), list):  # tuples, until draft 2019-09
        result.setdefault("prefixItems", result.pop("items"))
    return result


def _left_out(_: Any) -> Any:
    return _NOTHING


def _if(good: Callable[[Any], bool]) -> Callable[[Any], Any]:
    return lambda value: value if good(value) else _NOTHING


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _type(value: Any) -> Any:
    if isinstance(value, list):
        kinds = [_type(each) for each in value if isinstance(each, str)]
        return list(dict.fromkeys(kind for kind in kinds if kind is not _NOTHING)) or _NOTHING
    if not isinstance(value, str):
        return _NOTHING
    name = _OTHER_NAMES.get(value.lower(), value.lower())
    return name if name in _TYPES else _NOTHING


def _names(value: Any) -> Any:
    if not isinstance(value, list):
        return _NOTHING
    return list(dict.fromkeys(name for name in value if isinstance(name, str)))


def _schemas(value: Any) -> Any:
    return [_valid(each) for each in value] if isinstance(value, list) and value else _NOTHING


def _named_schemas(value: Any) -> Any:
    return {name: _valid(each) for name, each in value.items()} if isinstance(value, dict) else _NOTHING


def _items(value: Any) -> Any:
    return (_schemas if isinstance(value, list) else _valid)(value)


def _dependent(value: Any) -> Any:
    if not isinstance(value, dict):
        return _NOTHING
    return {name: _names(each) for name, each in value.items() if isinstance(each, list)}


def _each(names: str, kept: Callable[[Any], Any]) -> dict[str, Callable[[Any], Any]]:
    return dict.fromkeys(names.split(), kept)


_KEYWORDS: dict[str, Callable[[Any], Any]] = {
    "type": _type,
    "required": _names,
    "items": _items,
    "dependentRequired": _dependent,
    "multipleOf": _if(lambda value: _is_number(value) and value > 0),
    **_each("enum examples", _if(lambda value: isinstance(value, list))),
    **_each("minimum maximum exclusiveMinimum exclusiveMaximum", _if(_is_number)),
    **_each("minLength maxLength minItems maxItems minProperties maxProperties", _if(_is_count)),
    **_each("minContains maxContains", _if(_is_count)),
    **_each("uniqueItems deprecated readOnly writeOnly", _if(lambda value: isinstance(value, bool))),
    **_each("title description format pattern $ref $comment", _if(lambda value: isinstance(value, str))),
    **_each("contentEncoding contentMediaType", _if(lambda value: isinstance(value, str))),
    **dict.fromkeys(_OF_ONE, _valid),
    **dict.fromkeys(_OF_SEVERAL, _schemas),
    **dict.fromkeys(_OF_NAMED, _named_schemas),
    # which draft, and names for references from elsewhere
    **_each("$schema $id $anchor $dynamicRef $dynamicAnchor $vocabulary", _left_out),
    **_each("$recursiveRef $recursiveAnchor dependencies", _left_out),
}


# --- What a tool's input may be ---


def parameters(schema: Any, where: str) -> Json:
    """`schema` for `input_schema`: an object with nothing composed at its root. Unsupported for what is no object."""
    root: Json = valid(schema)
    merged = _Merger(root).merged(root)
    kind = merged.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise Unsupported(f"`{where}.type`: must be `object`.", param=f"{where}.type")
    for name in merged.get("properties", ()):
        if not _PROPERTY.fullmatch(name):
            raise Unsupported(
                f"`{where}.properties`: the provider of this model takes names of 1 to 64 letters, digits, "
                "`_`, `.` and `-`.",
                param=f"{where}.properties",
            )
    return {"type": "object", **merged} | {"type": "object"}


class _Merger:
    """Puts references and compositions of a schema into its own properties: looser, but of the same fields.

    What all of `allOf` require is required, and of `anyOf` and `oneOf` what each of them does. Each reference is
    followed once, and no more than `_MOST_MERGED` properties are merged: a small body may say a very large schema.
    """

    def __init__(self, root: Json) -> None:
        self._root = root
        self._known: dict[str, Json] = {}
        self._left = _MOST_MERGED
        self._depth = 0

    def merged(self, schema: Any) -> Json:
        if not isinstance(schema, dict):
            return {}
        result = {name: value for name, value in schema.items() if name not in _COMPOSED and name != "$ref"}
        if "$ref" in schema:
            result = {**self._referred(schema["$ref"]), **result}
        for how in _COMPOSED:
            branches = [self.merged(each) for each in schema.get(how, ())]
            if branches:
                self._merge(result, branches, set.union if how == "allOf" else set.intersection)
        return result

    def _referred(self, reference: str) -> Json:
        if reference not in self._known:
            self._known[reference] = {}  # for what refers to itself
            self._depth += 1
            if self._depth <= _DEEPEST:
                self._known[reference] = self.merged(_found(reference, self._root))
            self._depth -= 1
        found = self._known[reference]
        self._left -= len(found.get("properties", ()))
        return found if self._left > 0 else {}

    def _merge(self, result: Json, branches: list[Json], needed: Callable[..., set[str]]) -> None:
        properties = dict(result.get("properties", {}))
        for branch in branches:
            for name, each in branch.get("properties", {}).items():
                properties.setdefault(name, each)
        required = needed(*(set(branch.get("required", ())) for branch in branches))
        if properties:
            result["properties"] = properties
        if required:
            result["required"] = list(dict.fromkeys([*result.get("required", ()), *sorted(required)]))
        kinds = [branch["type"] for branch in branches if "type" in branch]
        if kinds:
            result.setdefault("type", "object" if "object" in kinds else kinds[0])


def _found(reference: str, root: Json) -> Any:
    """What a reference within the same schema names."""
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


def strict(schema: Any) -> Json | None:
    """`schema` in the subset, its further limits told in its descriptions; None where that changes what it means."""
    root = valid(schema)
    if not isinstance(root, dict):
        return None
    named = {
        f"#/{group}/{name}": each
        for group in ("$defs", "definitions")
        for name, each in root.get(group, {}).items()
    }
    try:
        if _goes_round(named):
            return None
        result = _subset(root, named)
        for group in ("$defs", "definitions"):
            if root.get(group):
                result[group] = {name: _subset(each, named) for name, each in root[group].items()}
    except _BeyondError:
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


def _goes_round(named: dict[str, Any]) -> bool:
    """Whether a definition refers to itself, by way of others or not."""
    try:
        TopologicalSorter({name: set(_references(each)) for name, each in named.items()}).prepare()
    except CycleError:
        return True
    return False


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for each in _children(schema):
            yield from _references(each)


def _subset(schema: Any, named: dict[str, Any]) -> Json:
    if not isinstance(schema, dict):
        raise _BeyondError
    if "$ref" in schema:
        if schema["$ref"] not in named:
            raise _BeyondError
        return {"$ref": schema["$ref"]}
    if len(schema.get("allOf", ())) == 1 and isinstance(schema["allOf"][0], dict):
        only = schema["allOf"][0]
        return _subset({**only, **{name: each for name, each in schema.items() if name != "allOf"}}, named)
    if schema.keys() & _BEYOND or "allOf" in schema:
        raise _BeyondError
    result: Json = {}
    told = {name: each for name, each in schema.items() if name not in _NO_CONSTRAINT}
    for name in ("title", "description"):
        if name in told:
            result[name] = told.pop(name)
    kinds = _kinds(schema)
    _take_choices(result, told, kinds, named)
    _take_members(result, told, kinds, named)
    if not result.keys() & {"type", "anyOf", "enum", "const"}:
        raise _BeyondError
    if told:
        limits = ", ".join(f"{name}: {each}" for name, each in told.items())
        result["description"] = f"{result.get('description', '')}\n\n{{{limits}}}".strip()
    return result


def _kinds(schema: Json) -> list[str]:
    kind = schema.get("type")
    if isinstance(kind, list):
        return kind
    if kind is None and "properties" in schema:
        return ["object"]
    if kind is None and "items" in schema:
        return ["array"]
    return [] if kind is None else [kind]


def _take_choices(result: Json, told: Json, kinds: list[str], named: dict[str, Any]) -> None:
    """Move what lists alternatives from `told` to `result`."""
    told.pop("type", None)
    choices = told.get("enum")
    if choices and all(_is_plain(each) for each in choices):
        result["enum"] = told.pop("enum")
    if "const" in told and _is_plain(told["const"]):
        result["const"] = told.pop("const")
    if kinds:
        result["type"] = kinds[0] if len(kinds) == 1 else kinds
        return  # alternatives beside a type only narrow it
    for name in ("anyOf", "oneOf"):
        if name in told and "anyOf" not in result:
            result["anyOf"] = [_subset(each, named) for each in told.pop(name)]


def _take_members(result: Json, told: Json, kinds: list[str], named: dict[str, Any]) -> None:
    """Move what is said of members, items and formats from `told` to `result`."""
    if "object" in kinds:
        open_to = told.pop("additionalProperties", None)
        properties = told.pop("properties", {})
        # Open, it is an object of any members; closed, it can only be empty.
        if not properties and open_to is not False:
            raise _BeyondError
        result["properties"] = {name: _subset(each, named) for name, each in properties.items()}
        result["additionalProperties"] = False
        result["required"] = [name for name in told.pop("required", ()) if name in properties]
    if "array" in kinds:
        items = told.pop("items", True)
        if isinstance(items, dict) and items:
            result["items"] = _subset(items, named)
        elif items is False:
            raise _BeyondError
        if told.get("minItems") in {0, 1}:
            result["minItems"] = told.pop("minItems")
    if "string" in kinds and told.get("format") in _FORMATS:
        result["format"] = told.pop("format")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))
