"""The configuration, described: JSON Schema with every default in the form in which people write it.

msgspec derives the schema from the Structs. What it cannot know is added here: how durations and sizes are
written, defaults that are objects, and that a secret has exactly one source. `dub5 config schema`,
docs/dub5.schema.json and docs/configuration.md all come from `schema()`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dub5.settings import model as settings
from dub5.settings.model import Duration, Section, Settings, Size


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the configuration file. Whatever the service accepts, it accepts."""
    described = msgspec.json.schema(Settings, schema_hook=_written_as)
    for name, definition in described["$defs"].items():
        _add_defaults(getattr(settings, name), definition["properties"])
    described["$defs"]["Source"]["oneOf"] = [
        {"required": [name], "properties": {name: {"type": "string"}}} for name in ("env", "file")
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}


def as_written(value: Any) -> Any:
    """Settings, or any part of them, as plain data that a person would write; defaults are left out."""
    if isinstance(value, Duration | Size):
        return value.written()
    if isinstance(value, Section):
        return _section_as_written(value)
    if isinstance(value, dict):
        return {name: as_written(each) for name, each in value.items()}
    return value


def _section_as_written(section: Section) -> dict[str, Any]:
    config = section.__struct_config__
    tag = {config.tag_field: config.tag} if config.tag_field is not None else {}
    values = {field.name: (field, getattr(section, field.name)) for field in msgspec.structs.fields(section)}
    return tag | {
        name: as_written(value)
        for name, (field, value) in values.items()
        if field.required or value != _default(field)
    }


def _add_defaults(section: type[Section], properties: dict[str, Any]) -> None:
    for field in msgspec.structs.fields(section):
        if not field.required:
            properties[field.name]["default"] = as_written(_default(field))


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def _written_as(kind: type) -> dict[str, Any]:
    if kind is Duration:
        return {
            "title": "Duration",
            "type": ["string", "number"],
            "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$",
            "minimum": 0,
            "exclusiveMaximum": Duration.LIMIT,
        }
    if kind is Size:
        return {
            "title": "Size",
            "type": ["string", "integer"],
            "pattern": r"^[0-9]{1,18} ?(B|KiB|MiB|GiB|KB|MB|GB)?$",
            "minimum": 0,
        }
    raise NotImplementedError(kind)
