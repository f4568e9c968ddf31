"""The chart's README and values.schema.json, made from its values.yaml and the program's own schema.

Above each value stands what it is for, in a comment that begins with `-- `; a line `@schema {…}` adds to what its
default tells: JSON Schema in YAML's flow form, in which `$ref` names one of templates/definitions.yaml or `config`. A
value whose default or schema is no closed mapping is a leaf and becomes one row of the README's table.

The schema is draft-07 and closed: Helm 3 knows no newer draft, and a typo must fail with the name of the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dub5.settings.schema import schema as program_schema
from testkit.tables import table
from tools import loadtest
from tools.release import version

TOOLS = Path(__file__).resolve().parent
CHART = TOOLS.parent / "deploy/helm/dub5"
TEMPLATES = TOOLS / "templates"
_DEFINITIONS = yaml.safe_load((TEMPLATES / "definitions.yaml").read_text(encoding="utf-8"))

Json = dict[str, Any]


class Value(NamedTuple):
    """One value, or one mapping of values: `path` is its keys from the top."""

    path: tuple[str, ...]
    default: Any
    description: str
    extra: Json

    @property
    def leaf(self) -> bool:
        return bool(self.extra) or not (isinstance(self.default, dict) and self.default)

    def row(self) -> tuple[str, ...]:
        shown = _shortened(json.dumps(self.default, ensure_ascii=False))
        return f"`{'.'.join(self.path)}`", f"`{shown}`", self.description


def values() -> list[Value]:
    """All values in the order of the file."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    return list(_annotated(text, yaml.safe_load(text)))


def values_schema() -> str:
    schema: Json = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart dub5",
        "type": "object",
        "additionalProperties": False,
        # Of charts that contain this one: what they pass on, and a condition. Without one nothing would obey a `false`.
        "properties": {"global": {"type": "object"}, "enabled": {"const": True}},
        "definitions": {**_DEFINITIONS, "LoadtestSettings": _loadtest_settings(), **_program_definitions()},
    }
    for value in values():
        *parents, name = value.path
        place = schema
        for parent in parents:
            place = place["properties"][parent]
        place["properties"][name] = _described(value)
        if not value.leaf:
            # A key with nothing below it takes the defaults away, all of them; Helm has put them there otherwise.
            place.setdefault("required", []).append(name)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def readme() -> str:
    rows = table("value | default | what", (value.row() for value in values() if value.leaf))
    head = (TEMPLATES / "chart.md").read_text(encoding="utf-8").replace("{version}", version())
    return f"{head}\n{rows}"


def _annotated(text: str, defaults: Json) -> Iterator[Value]:
    """Walk the lines and keep the keys that enclose them; what is inside a leaf has no comments and is skipped."""
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    leaf_indent: int | None = None
    for line in text.splitlines():
        found = re.match(r"( *)([A-Za-z][A-Za-z0-9]*):", line)
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
        elif found and (leaf_indent is None or len(found[1]) <= leaf_indent):
            indent = len(found[1])
            path = [(depth, key) for depth, key in path if depth < indent] + [(indent, found[2])]
            keys = tuple(key for _, key in path)
            value = Value(keys, _at(defaults, keys), *_parsed(comment))
            leaf_indent = indent if value.leaf else None
            comment = []
            yield value
        elif not line.strip():
            comment = []


def _parsed(comment: list[str]) -> tuple[str, Json]:
    words = [line for line in comment if not line.startswith("@schema ")]
    extra: Json = {}
    for line in comment:
        if line.startswith("@schema "):
            extra |= yaml.safe_load(line.removeprefix("@schema "))
    return " ".join(words).removeprefix("-- "), extra


def _at(defaults: Json, path: tuple[str, ...]) -> Any:
    for key in path:
        defaults = defaults[key]
    return defaults


def _described(value: Value) -> Json:
    if not value.leaf:
        return {"type": "object", "additionalProperties": False, "properties": {}}
    described: Json = {"description": value.description, "default": value.default}
    if "$ref" in value.extra:
        return described | {"allOf": [{"$ref": f"#/definitions/{value.extra['$ref']}"}]}
    if "type" in value.extra:
        return described | value.extra
    return described | {"type": _type(value.default)} | value.extra


def _type(default: Any) -> str:
    for kind, name in _TYPES:
        if isinstance(default, kind):
            return name
    raise TypeError(f"no type for {default!r}: say it with @schema")


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else "see values.yaml"


def _loadtest_settings() -> Json:
    names = sorted(loadtest.names_of_settings() - loadtest.OF_THE_CHART)
    described = {name: {"type": ["string", "number", "boolean"]} for name in names}
    return {"type": "object", "additionalProperties": False, "properties": described}


def _program_definitions() -> Json:
    """The program's schema without what the chart itself writes, in draft-07 and under `config`."""
    definitions = program_schema()["$defs"]
    top = definitions["Settings"]["properties"]
    for section in ("auth", "redis"):
        del top[section]
    for key in ("host", "port", "operations_host", "operations_port"):
        del definitions["ServerSettings"]["properties"][key]
    renamed = {"Settings": "config"}
    return {renamed.get(name, name): _draft_07(definition) for name, definition in definitions.items()}


def _draft_07(node: Any) -> Any:
    """Draft-07 ignores what stands beside `$ref`; and of a choice by `kind` only the chosen member should complain."""
    if isinstance(node, list):
        return [_draft_07(each) for each in node]
    if not isinstance(node, dict):
        return node
    if "discriminator" in node:
        return _by_kind(node["discriminator"])
    rest = {key: _draft_07(value) for key, value in node.items() if key not in {"$ref", "title"}}
    if "$ref" not in node:
        return rest
    reference = {"$ref": node["$ref"].replace("#/$defs/", "#/definitions/")}
    return rest | {"allOf": [reference]} if rest else reference


def _by_kind(discriminator: Json) -> Json:
    name, mapping = discriminator["propertyName"], discriminator["mapping"]
    choices = [
        {
            "if": {"properties": {name: {"const": kind}}},
            "then": {"$ref": reference.replace("#/$defs/", "#/definitions/")},
        }
        for kind, reference in mapping.items()
    ]
    known = {name: {"enum": list(mapping)}}
    return {"type": "object", "required": [name], "properties": known, "allOf": choices}


_TYPES = ((bool, "boolean"), (int, "integer"), (str, "string"), (list, "array"), (dict, "object"))
