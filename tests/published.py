"""OpenAI's published description of its API as a judge of what we send, beside the strict types of its client.

The description has some 3 MB and is nobody's part of the sources: where `OPENAI_DESCRIPTION` names a copy of its
`openapi.json` (https://github.com/openai/openai-openapi) everything is held to that as well. A report is made with it.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import jsonschema

Json = dict[str, Any]


def check(name: str, data: Json) -> None:
    """`data` is what the schema `name` says, as far as there is a description to tell."""
    if "OPENAI_DESCRIPTION" in os.environ:
        _validator(name).validate(_as_described(data))


def check_event(data: Json) -> None:
    """One event of Responses, by its `type`."""
    if "OPENAI_DESCRIPTION" in os.environ:
        check(_events()[data["type"]], data)


def _as_described(data: Json) -> Json:
    """Of a Response without tokens or user: null, as in the description's own examples, though not in its schema."""
    if isinstance(data.get("response"), dict):
        return {**data, "response": _as_described(data["response"])}
    unsaid = [name for name in ("usage", "user") if data.get("object") == "response" and data[name] is None]
    return {name: value for name, value in data.items() if name not in unsaid}


@functools.cache
def _description() -> Json:
    read: Json = json.loads(Path(os.environ["OPENAI_DESCRIPTION"]).read_text(encoding="utf-8"))
    found: Json = _with_null(read["components"]["schemas"])
    return found


def _with_null(schema: Any) -> Any:
    """The older word for it, in the newer one's form."""
    if isinstance(schema, list):
        return [_with_null(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _with_null(value) for name, value in schema.items()}
    if found.pop("nullable", None) is True:
        return {"anyOf": [found, {"type": "null"}]}
    return found


@functools.cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    schemas = {"components": {"schemas": _description()}}
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", **schemas})


@functools.cache
def _events() -> dict[str, str]:
    """The schemas of events, by what their `type` says."""
    members = _description()["ResponseStreamEvent"]["anyOf"]
    names = [each["$ref"].rpartition("/")[2] for each in members]
    return {_description()[name]["properties"]["type"]["enum"][0]: name for name in names}
