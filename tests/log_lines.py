"""Lines of a log, held to docs/logs.schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

SCHEMA = Path(__file__).parents[1] / "docs/logs.schema.json"


_SCHEMA = json.loads(SCHEMA.read_text(encoding="utf-8"))
Draft202012Validator.check_schema(_SCHEMA)
_VALIDATOR = Draft202012Validator(_SCHEMA)  # made here, since reading a file would block a test's event loop


def fault(line: dict[str, Any]) -> str:
    """What is wrong with a line; empty where nothing is. Of the shapes that it is none of, the likeliest is told."""
    error = next(_VALIDATOR.iter_errors(line), None)
    if error is None:
        return ""
    shapes: dict[object, list[ValidationError]] = {}
    for each in error.context or []:
        shapes.setdefault(each.relative_schema_path[0], []).append(each)
    likely = [shape for shape in shapes.values() if not any("event" in each.absolute_path for each in shape)]
    return f"{line}: {[each.message for shape in likely[:1] or [[error]] for each in shape]}"


def decoded(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """Each line, which must fit the schema."""
    found = [json.loads(line) for line in lines]
    assert [each for each in map(fault, found) if each] == []
    return found
