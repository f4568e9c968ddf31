"""Writes the files that are made from the sources: `make generate`. With `--check`: are they in step?

To generate another file, add a function that returns its text to `GENERATED`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dub5.settings.schema import schema
from dub5_operator import crd
from testkit.places import ROOT
from testkit.tables import table
from tools import chart, loadtest, logs, metrics, openapi, tables
from tools.dashboards import build

TEMPLATES = ROOT / "tools/templates"
"""How generated documents begin."""

Json = dict[str, Any]


class Key(NamedTuple):
    """One line of the configuration reference."""

    path: str
    type: str
    default: str
    description: str

    @property
    def variable(self) -> str:
        name = self.path.upper().replace(".", "__").replace("-", "_")
        return f"DUB5_{name}"

    def row(self) -> tuple[str, ...]:
        return f"`{self.path}`", self.type, self.default, f"`{self.variable}`", self.description


def json_schema() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def configuration_reference() -> str:
    definitions = schema()["$defs"]
    parts = [(TEMPLATES / "configuration.md").read_text(encoding="utf-8")]
    for name, section in definitions["Settings"]["properties"].items():
        parts.append(f"\n## {name}\n\n{section['description']}\n")
        for title, keys in _tables(name, section, definitions):
            parts.append(f"\n{title}\n" if title else "")
            columns = "key | value | default | environment variable | what"
            parts.append("\n" + table(columns, (key.row() for key in keys)))
    return "".join(parts)


def _tables(path: str, described: Json, definitions: Json) -> Iterator[tuple[str, list[Key]]]:
    """A section's tables: one, or one for each kind where an entry is of one of several kinds."""
    entry = described.get("additionalProperties")
    if not isinstance(entry, dict):
        yield "", list(_keys(path, _resolved(described, definitions), definitions))
        return
    path = f"{path}.NAME"
    if "anyOf" not in entry:
        yield "", list(_keys(path, _resolved(entry, definitions), definitions))
        return
    for member in entry["anyOf"]:
        kind = _resolved(member, definitions)
        title = f"`kind: {kind['properties']['kind']['enum'][0]}`. {kind['description']}"
        yield title, list(_keys(path, kind, definitions))


def _keys(path: str, section: Json, definitions: Json) -> Iterator[Key]:
    for name, described in section["properties"].items():
        yield from _key(f"{path}.{name}", described, definitions, required=name in section["required"])


def _key(path: str, described: Json, definitions: Json, *, required: bool) -> Iterator[Key]:
    inner = _resolved(described, definitions)
    entry = inner.get("additionalProperties")
    if "properties" in inner:
        for key in _keys(path, inner, definitions):
            yield key._replace(description=_described(inner, described, key))
    elif isinstance(entry, dict) and "properties" in _resolved(entry, definitions):
        member = _resolved(entry, definitions)
        for key in _keys(f"{path}.NAME", member, definitions):
            yield key._replace(description=_described(member, entry, key))
    else:
        default = "required" if required else _default(described.get("default"))
        yield Key(path, _type(inner), default, described.get("description", "Which kind it is."))


def _described(inner: Json, outer: Json, key: Key) -> str:
    """What a secret is for is said where it is used; all else is said best by the key itself."""
    return f"{outer['description']} {key.description}" if inner["title"] == "Source" else key.description


def _resolved(described: Json, definitions: Json) -> Json:
    """Without `or null`, which only says that a key may be left out, and with references followed."""
    members = [each for each in described.get("anyOf", []) if each.get("type") != "null"]
    if len(members) == 1:
        return _resolved(members[0], definitions)
    if "$ref" in described:
        found: Json = definitions[described["$ref"].rpartition("/")[2]]
        return found
    return described


def _type(described: Json) -> str:
    if "anyOf" in described:
        return " or ".join(_type(each) for each in described["anyOf"] if each.get("type") != "null")
    if "enum" in described:
        return ", ".join(f"`{each}`" for each in described["enum"])
    if "title" in described:
        return str(described["title"]).lower()
    if described.get("type") == "array":
        return f"list of: {_type(described['items'])}"
    return _WORDS[described["type"]] + _range(described)


def _range(described: Json) -> str:
    least, most = described.get("minimum"), described.get("maximum")
    if least is not None and most is not None:
        return f", {least:g} to {most:g}"
    if least is not None:
        return f", at least {least:g}"
    return f", above {described['exclusiveMinimum']:g}" if "exclusiveMinimum" in described else ""


def _default(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    return f"`{json.dumps(value, ensure_ascii=False)}`" if not isinstance(value, str) else f"`{value}`"


_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "object": "mapping",
}


GENERATED: dict[str, Callable[[], str]] = {
    "deploy/helm/dub5/files/crds/cachepolicies.yaml": crd.policies_definition,
    "deploy/helm/dub5/files/crds/cacheinvalidations.yaml": crd.invalidations_definition,
    "docs/dub5.schema.json": json_schema,
    "docs/configuration.md": configuration_reference,
    "docs/metrics.md": metrics.document,
    "README.md": tables.readme,
    "docs/incidents.md": tables.incidents,
    "docs/openapi.yaml": openapi.specification,
    "docs/api.md": openapi.page,
    logs.SCHEMA: logs.schema,
    logs.DOCUMENT: logs.document,
    "deploy/helm/dub5/values.schema.json": chart.values_schema,
    "deploy/helm/dub5/README.md": chart.readme,
    loadtest.ARRIVALS: loadtest.arrivals,
    **loadtest.copies(),
    **build.files(),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is out of step")
    check = parser.parse_args().check
    stale = [name for name, make in GENERATED.items() if not _same(ROOT / name, make())]
    for name in stale:
        if check:
            print(f"{name} is not what the sources say; run: make generate", file=sys.stderr)
        else:
            (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / name).write_text(GENERATED[name](), encoding="utf-8")
            print(f"wrote {name}")
    return int(check and bool(stale))


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
