"""docs/logs.schema.json and the tables in docs/logs.md: every event that is logged, and every field, from logs.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from testkit.tables import table
from tools.tables import within

Json = dict[str, Any]

DOCUMENT = "docs/logs.md"
SCHEMA = "docs/logs.schema.json"

_DATA: Json = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


class Event(NamedTuple):
    """Fields beside timestamp, level and event are `always` or `perhaps` there; `narrowed` says more of some."""

    name: str
    levels: list[str]
    of: str
    what: str
    always: tuple[str, ...] = ()
    perhaps: tuple[str, ...] = ()
    narrowed: Mapping[str, Any] = MappingProxyType({})

    @property
    def key(self) -> str:
        return self.name.replace(" ", "_")

    def row(self) -> tuple[str, ...]:
        fields = ", ".join([*(f"`{name}`" for name in self.always), *(f"`{name}`?" for name in self.perhaps)])
        return f"`{self.name}`", ", ".join(self.levels), self.of, self.what, fields


FIELDS: dict[str, tuple[Json, str]] = {
    name: (each["is"], each["what"]) for name, each in _DATA["fields"].items()
}
EVENTS = [Event(name, **each) for name, each in _DATA["events"].items()]

_FIRST = ("timestamp", "level", "event")
_LIBRARY = Event("", ["warning", "error", "critical"], "", "", ("logger",), ("exception", "object"))


def schema() -> str:
    """One line of a log, as JSON Schema: of the backend or the operator, or of k6."""
    definitions: Json = {event.key: _of_event(event) for event in EVENTS}
    definitions["library"] = _of_event(_LIBRARY) | {
        "description": "What a library says, from warnings upwards."
    }
    definitions |= _DATA["k6"]
    fields = {f"field.{name}": {**kind, "description": what} for name, (kind, what) in FIELDS.items()}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of DUB5's logs",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in definitions],
        "$defs": {**definitions, **fields},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _of_event(event: Event) -> Json:
    named = (*_FIRST, *event.always, *event.perhaps)
    properties: Json = {name: {"$ref": f"#/$defs/field.{name}"} for name in named}
    properties["level"] = {"enum": event.levels}
    if event.name:
        properties["event"] = {"const": event.name}
    return {
        "type": "object",
        "description": event.what,
        "properties": {**properties, **event.narrowed},
        "required": [*_FIRST, *event.always],
        "additionalProperties": False,
    }


def document() -> str:
    """docs/logs.md, with its tables written anew."""
    events = table("event | level | of | what | fields; `?`: perhaps", (event.row() for event in EVENTS))
    fields = table("field | what", ((f"`{name}`", what) for name, (_, what) in FIELDS.items()))
    return within(DOCUMENT, events=events, fields=fields)
